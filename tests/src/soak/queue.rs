//! Many processes fetch from one work queue while a tenth of all attempts fail and some events take long. Processes are
//! killed, made to stand still, stopped and started. Every event is done or given up, its attempts are counted right, and
//! no event waits for a slow one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use streams_core::keys::{GroupKey, StreamKey};
use streams_runtime::stream_event;

use super::fleet::{Fleet, Plan, Report};
use super::history::{End, Lives, micros, percentile};
use super::journal::{Mark, Record};
use super::share::harm;
use super::{checkpoint, dead_letters_of, newest, wait_until};
use crate::RedisServer;

/// The lease of the workers.
pub const LEASE: Duration = Duration::from_secs(1);
/// After how many attempts the group gives up.
pub const MAX_ATTEMPTS: u32 = 4;
/// Beyond a lease, how long an event may stand still whose process was killed.
const LATE: Duration = Duration::from_secs(1);
/// The 99th of a hundred waits of an event for its first attempt.
const WAIT: Duration = Duration::from_millis(20);
/// How often the queue is looked at while it empties.
const LOOK: Duration = Duration::from_millis(20);

/// The event that the workers handle.
#[stream_event(stream = "queue", partitions = 2, key = key)]
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Says nothing about order here.
    pub key: u64,
    /// Which one of its key, from 1.
    pub n: u64,
}

/// Whether an attempt fails: a tenth of them do, as if by chance.
pub fn fails(task: &Task, attempt: u32) -> bool {
    let mut mixed = (task.key << 40 ^ task.n << 8 ^ u64::from(attempt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 33).is_multiple_of(10) || (task.key * 7 + task.n).is_multiple_of(401)
}

/// Whether the group gives the event up.
fn gives_up(task: &Task) -> bool {
    (1..=MAX_ATTEMPTS).all(|attempt| fails(task, attempt))
}

/// How long an attempt takes: some for three leases.
pub fn takes(task: &Task) -> Duration {
    if is_slow(task) { LEASE * 3 } else { Duration::from_millis(task.n % 5) }
}

fn is_slow(task: &Task) -> bool {
    (task.key * 31 + task.n * 7) % 251 == 5
}

/// Runs it.
///
/// # Panics
/// When the server or a worker cannot be used at all.
pub fn queue(plan: &Plan) -> Report {
    let mut fleet = Fleet::new(plan);
    for _ in 0..plan.processes {
        fleet.start("queue", 1);
    }
    let stop = AtomicBool::new(false);
    let load = fleet.load();
    let harm = thread::scope(|scope| {
        scope.spawn(|| {
            load.run(&stop, async |publisher, key, n| {
                let task = Task { key, n };
                (publisher.publish(&task).id(format!("{key}-{n}")).await, 1)
            });
        });
        let harm = harm(&mut fleet, "queue", plan);
        stop.store(true, Ordering::Relaxed);
        harm
    });
    let stream = StreamKey::new(None, "queue", 2);
    let groups: Vec<_> = (0..2).map(|index| stream.partition(index).group("works").queue()).collect();
    let dead = drain(&mut fleet, &groups);
    let timed = plan.timed;
    fleet.report("queue", &format!("one group, a tenth of all attempts fails\n{harm}"), |records| {
        let mut found = judge(records, &dead, timed);
        (std::mem::take(&mut found.violations), found.to_string())
    })
}

/// Waits until the queue is empty; answers which events are dead letters, after how many attempts.
fn drain(fleet: &mut Fleet, groups: &[GroupKey]) -> Vec<(String, u32)> {
    let mut client = RedisServer::client(&fleet.server.url());
    let mut left: Vec<_> = groups.iter().collect();
    wait_until(|| {
        sleep(LOOK);
        left.retain(|group| {
            let key = group.partition().as_str();
            let record: HashMap<String, String> =
                redis::cmd("HGETALL").arg(group.state()).query(&mut client).expect("the record of the queue");
            let waits = record.get("waits").is_some_and(|waits| !waits.ends_with(" 0"));
            let in_flight = record.keys().any(|field| field.starts_with("chunk:"));
            waits || in_flight || checkpoint(&mut client, group.state()) != newest(&mut client, key)
        });
        left.is_empty()
    });
    fleet.violations.extend(left.iter().map(|key| format!("{key} has not settled everything")));
    groups.iter().flat_map(|group| dead_letters_of(&mut client, &group.dead())).collect()
}

/// The result of judging the journal.
#[derive(Debug, Default)]
struct Findings {
    violations: Vec<String>,
    events: u64,
    calls: u64,
    failed: u64,
    given_up: usize,
    /// Attempts that were repeated, by the harm done to the process before.
    repeats: BTreeMap<End, u64>,
    /// From an event to its first attempt, sorted.
    waits: Vec<Duration>,
    /// The same for those that are not slow themselves and began while slow ones ran.
    beside: usize,
    /// From the kill of a process to the next attempt at an event that it had in flight, sorted.
    takeovers: Vec<Duration>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "events published         {:>8}", self.events)?;
        writeln!(f, "calls of handlers        {:>8}, {} failed", self.calls, self.failed)?;
        writeln!(f, "given up                 {:>8}", self.given_up)?;
        writeln!(f, "begun beside slow ones   {:>8}", self.beside)?;
        for (end, repeats) in &self.repeats {
            writeln!(f, "repeats: {:<16}{repeats:>8}", format!("{end:?}"))?;
        }
        write!(f, "{:<24}{:>9}{:>9}{:>9}{:>9}", "times, ms", "number", "p50", "p99", "max")?;
        for (name, times) in [("first attempt", &self.waits), ("takeover", &self.takeovers)] {
            let [p50, p99, max] = [50, 99, 100].map(|part| percentile(times, part).as_millis());
            write!(f, "\n  {name:<22}{:>9}{p50:>9}{p99:>9}{max:>9}", times.len())?;
        }
        Ok(())
    }
}

/// A call of a handler.
#[derive(Debug)]
struct Call<'a> {
    begun: &'a Record,
    ended: Option<Mark>,
}

/// Judges the journal and the dead letters. Pure.
fn judge(records: &[Record], dead: &[(String, u32)], timed: bool) -> Findings {
    let (mut found, mut lives) = (Findings::default(), Lives::default());
    let mut killed: HashMap<u32, u64> = HashMap::new();
    let mut published: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut calls: HashMap<(u64, u64), Vec<Call<'_>>> = HashMap::new();
    let mut slow = 0_usize;
    for record in records {
        lives.gather(record);
        let event = (record.key, record.n);
        match record.mark {
            Mark::Killed => drop(killed.insert(record.life, record.micros)),
            Mark::Ended if record.n != 0 => {
                found.violations.push(format!("process {} ended with {} on SIGTERM", record.life, record.n));
            }
            Mark::Published => {
                // An event may be handled before its producer has the answer.
                published.insert(event, record.micros);
                found.events += 1;
            }
            Mark::Begun => {
                found.calls += 1;
                let is_slow = is_slow(&Task { key: record.key, n: record.n });
                found.beside += usize::from(slow > 0 && !is_slow);
                slow += usize::from(is_slow);
                calls.entry(event).or_default().push(Call { begun: record, ended: None });
            }
            Mark::Done | Mark::Failed => {
                slow = slow.saturating_sub(usize::from(is_slow(&Task { key: record.key, n: record.n })));
                found.failed += u64::from(record.mark == Mark::Failed);
                let same = |call: &&mut Call<'_>| {
                    let begun = call.begun;
                    (begun.life, begun.attempt) == (record.life, record.attempt) && call.ended.is_none()
                };
                match calls.entry(event).or_default().iter_mut().find(same) {
                    Some(call) => call.ended = Some(record.mark),
                    None => found.violations.push(format!("`{record}`: it never began")),
                }
            }
            _ => {}
        }
    }
    let letters: HashMap<&str, Vec<u32>> = dead.iter().fold(HashMap::new(), |mut letters, (id, attempts)| {
        letters.entry(id.as_str()).or_insert_with(Vec::new).push(*attempts);
        letters
    });
    found.given_up = dead.len();
    for (&(key, n), at) in &published {
        let (task, name) = (Task { key, n }, format!("{key}-{n}"));
        let calls = calls.remove(&(key, n)).unwrap_or_default();
        let letters = letters.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let is_done = calls.iter().any(|call| call.ended == Some(Mark::Done));
        match (gives_up(&task), letters, is_done) {
            (true, [MAX_ATTEMPTS], false) | (false, [], true) => {}
            (gives_up, ..) => found.violations.push(format!(
                "event {name}: it is to be {}, was done: {is_done}, is a dead letter after attempts {letters:?}",
                if gives_up { "given up" } else { "done" }
            )),
        }
        if let Some(first) = calls.first() {
            found.waits.push(Duration::from_micros(first.begun.micros.saturating_sub(*at)));
            if first.begun.attempt != 1 {
                found.violations.push(format!("`{}`: the first attempt has this number", first.begun));
            }
        }
        for pair in calls.windows(2) {
            let (before, next) = (&pair[0], &pair[1]);
            let (life, attempt) = (before.begun.life, before.begun.attempt);
            if next.begun.attempt == attempt + 1 && before.ended == Some(Mark::Failed) {
                continue;
            }
            if next.begun.attempt != attempt {
                found
                    .violations
                    .push(format!("`{}` came before `{}`: attempts are miscounted", before.begun, next.begun));
                continue;
            }
            let span = (before.begun.micros, next.begun.micros);
            // A process that stood still may begin an event that another one has by then, before it knows that.
            let late = lives.end(next.begun.life, span, LEASE);
            let end = match lives.end(life, span, LEASE) {
                End::Unexplained if matches!(late, End::Silenced | End::Stalled) => late,
                end => end,
            };
            match end {
                End::Unexplained | End::Clean => {
                    found.violations.push(format!("`{}`: `{}` again, without a cause", next.begun, before.begun));
                }
                end => *found.repeats.entry(end).or_default() += 1,
            }
            if let Some(killed) = killed.get(&life).filter(|_| before.ended.is_none()) {
                found.takeovers.push(Duration::from_micros(next.begun.micros.saturating_sub(*killed)));
            }
        }
    }
    let unpublished = calls.iter().filter(|(_, calls)| !calls.is_empty()).map(|(event, _)| event);
    found.violations.extend(unpublished.map(|(key, n)| format!("event {key}-{n}: nobody published it")));
    found.waits.sort();
    found.takeovers.sort();
    for (name, times, most) in
        [("the first attempt", &found.waits, WAIT), ("a takeover", &found.takeovers, LEASE + LATE)]
    {
        let late = percentile(times, 99);
        if timed && micros(late) > micros(most) {
            found.violations.push(format!("{name} came {late:?} later (the 99th of 100)"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two processes and an event that is done at its first attempt, if nobody says otherwise.
    const BEGINNING: &str = "1 started 0 0, 2 started 0 0, 0 p 1.1 0";

    /// `life mark key.n attempt`, or `life mark n`; `+ms` passes time.
    fn judge_lines(lines: &str, dead: &[(&str, u32)]) -> Findings {
        let (mut at, mut records) = (1_000_000, Vec::new());
        for line in format!("{BEGINNING}, {lines}").split(", ") {
            if let Some(ms) = line.strip_prefix('+') {
                at += ms.parse::<u64>().unwrap() * 1000;
                continue;
            }
            at += 1000;
            let words: Vec<_> = line.split(' ').collect();
            let (key, n) = words[2].split_once('.').unwrap_or(("0", words[2]));
            let attempt = words.get(3).unwrap_or(&"0");
            let text = format!("{at} {} works {} {n} {attempt} 0 0 {key}", words[0], words[1]);
            records.push(Record::parse(&text).unwrap_or_else(|| panic!("{text}")));
        }
        let dead: Vec<_> = dead.iter().map(|(id, attempts)| ((*id).to_owned(), *attempts)).collect();
        judge(&records, &dead, true)
    }

    fn sees(lines: &str, dead: &[(&str, u32)], violation: &str) {
        let found = judge_lines(lines, dead).violations;
        assert!(found.iter().any(|found| found.contains(violation)), "{found:?}");
    }

    fn is_well(lines: &str) -> Findings {
        let found = judge_lines(lines, &[]);
        assert_eq!(found.violations, Vec::<String>::new());
        found
    }

    #[test]
    fn a_good_history_is_good() {
        let found = is_well("1 b 1.1 1, 1 f 1.1 1, 2 b 1.1 2, 2 d 1.1 2");
        assert_eq!((found.events, found.calls, found.failed), (1, 2, 1));
    }

    #[test]
    fn an_event_that_is_lost_or_wrongly_given_up_is_seen() {
        sees("1 b 1.1 1, 1 f 1.1 1", &[], "it is to be done, was done: false");
        sees("1 b 1.1 1, 1 d 1.1 1", &[("1-1", 4)], "it is to be done, was done: true");
        sees("1 b 1.1 1, 1 d 1.1 1, 1 b 9.9 1", &[], "nobody published it");
        let task = (1..).map(|n| Task { key: 0, n }).find(gives_up).unwrap().n;
        let fails = |attempts: u32| {
            let calls = (1..=attempts).map(|attempt| format!("1 b 0.{task} {attempt}, 1 f 0.{task} {attempt}"));
            format!("1 b 1.1 1, 1 d 1.1 1, 0 p 0.{task} 0, {}", calls.collect::<Vec<_>>().join(", "))
        };
        let name = format!("0-{task}");
        assert!(judge_lines(&fails(4), &[(&name, 4)]).violations.is_empty());
        sees(&fails(4), &[], "it is to be given up");
        sees(&fails(4), &[(&name, 3)], "it is to be given up");
        sees(&fails(4), &[(&name, 4), (&name, 4)], "it is to be given up");
    }

    #[test]
    fn attempts_that_are_miscounted_are_seen() {
        sees("1 b 1.1 2, 1 d 1.1 2", &[], "the first attempt has this number");
        sees("1 b 1.1 1, 1 f 1.1 1, 2 b 1.1 3, 2 d 1.1 3", &[], "miscounted");
        sees("1 b 1.1 1, 1 killed 0, +900, 2 b 1.1 2, 2 d 1.1 2", &[], "miscounted");
        sees("1 b 1.1 1, 1 d 1.1 1, 2 b 1.1 2, 2 d 1.1 2", &[], "miscounted");
        sees("1 f 1.1 1", &[], "it never began");
    }

    #[test]
    fn a_repeat_needs_a_cause() {
        sees("1 b 1.1 1, 1 d 1.1 1, 2 b 1.1 1, 2 d 1.1 1", &[], "without a cause");
        sees("1 b 1.1 1, 1 d 1.1 1, 1 terminated 0, 1 ended 0, 2 b 1.1 1, 2 d 1.1 1", &[], "without a cause");
        sees("1 b 1.1 1, 2 b 1.1 1, 2 d 1.1 1, 1 killed 0", &[], "without a cause");
        for cause in ["1 killed 0", "1 silenced 0, +1100", "+900, 1 stalled 900"] {
            let found = is_well(&format!("1 b 1.1 1, 1 d 1.1 1, {cause}, 2 b 1.1 1, 2 d 1.1 1"));
            assert_eq!(found.repeats.values().sum::<u64>(), 1, "{cause}");
        }
        let late = "2 silenced 0, 1 b 1.1 1, 1 d 1.1 1, +1100, 2 continued 0, 2 b 1.1 1, 2 d 1.1 1";
        assert_eq!(is_well(late).repeats, BTreeMap::from([(End::Silenced, 1)]));
        sees("1 terminated 0, 1 ended 2, 1 b 1.1 1, 1 d 1.1 1", &[], "process 1 ended with 2");
    }

    #[test]
    fn what_stands_still_is_seen() {
        let found = is_well("1 b 1.1 1, 1 killed 0, +1500, 2 b 1.1 1, 2 d 1.1 1");
        assert_eq!(found.takeovers, [Duration::from_millis(1501)]);
        sees("1 b 1.1 1, 1 killed 0, +2100, 2 b 1.1 1, 2 d 1.1 1", &[], "a takeover came 2.101s later");
        sees("+600, 1 b 1.1 1, 1 d 1.1 1", &[], "the first attempt came 601ms later");
    }
}
