//! Judges a history of many processes that share keyed groups: nothing is lost and each key keeps its order. Harm to the
//! owner explains every repeat and every change of owners. Pure, as [`check`](mod@super::check) is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use super::journal::{Mark, Record};

/// How long members wait before they act on a change, and how long they may take to do so.
const SETTLE: Duration = Duration::from_secs(3);
/// Beyond a lease, how long a partition may stand still after its owner was killed.
const LATE: Duration = Duration::from_secs(1);
/// The 99th of a hundred pauses of a partition that is handed over.
const HANDOVER: Duration = Duration::from_millis(200);

/// The rules by which a run is judged.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The lease of all processes.
    pub lease: Duration,
    /// The groups.
    pub groups: Vec<Group>,
    /// Whether times are judged, too, or only reported: a test beside others does not have the machine alone.
    pub timed: bool,
}

/// The rules for one group.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// How many handlers it runs at once on a partition, never two of one key.
    pub lanes: usize,
    /// How many events the end of an owner may repeat on a partition.
    pub bound: u64,
}

/// How an ownership came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Given back: explains no repeat but, where a group has lanes, of what had ended above an event that waited.
    Clean,
    /// The process was killed.
    Killed,
    /// It was made to stand still for so long that the lease may have run out.
    Silenced,
    /// It, or the server, came to nothing for so long because the machine was busy.
    Stalled,
    /// Nothing is known that could have ended it.
    Unexplained,
}

/// The result of judging a history.
#[derive(Debug, Default)]
pub struct Findings {
    /// Broken promises, in words.
    pub violations: Vec<String>,
    /// How many events were published.
    pub events: u64,
    /// How often a handler was called.
    pub calls: u64,
    /// Ownerships by how they ended, and the events that were repeated because of it.
    pub ends: BTreeMap<End, (u64, u64)>,
    /// The most repeats after one end.
    pub most_repeats: u64,
    /// Calls of an owner that stood still and did not know yet that it had lost the lease.
    pub late_calls: u64,
    /// From a kill, or the moment from which an owner stood still, to the next owner, sorted.
    pub takeovers: Vec<Duration>,
    /// How many of them something else got in the way of.
    pub disturbed: usize,
    /// From the last handler of an owner that gives a partition back to the next owner, sorted.
    pub handovers: Vec<Duration>,
    /// Moves of partitions after each change of the processes that was followed by calm.
    pub moves: Vec<usize>,
    /// The partitions of a group per process at the end of each such calm: the fewest, the most, and the number of
    /// processes.
    pub shares: Vec<(usize, usize, usize)>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "events published         {:>8}", self.events)?;
        writeln!(f, "calls of handlers        {:>8}", self.calls)?;
        writeln!(f, "calls by a late owner    {:>8}", self.late_calls)?;
        writeln!(f, "{:<24}{:>9}{:>9}", "an owner's end", "times", "repeats")?;
        for (end, (times, repeats)) in &self.ends {
            writeln!(f, "  {:<22}{times:>9}{repeats:>9}", format!("{end:?}"))?;
        }
        writeln!(f, "most repeats after one   {:>8}", self.most_repeats)?;
        writeln!(f, "{:<24}{:>9}{:>9}{:>9}{:>9}", "times, ms", "number", "p50", "p99", "max")?;
        for (name, times) in [("takeover", &self.takeovers), ("hand-over", &self.handovers)] {
            let [p50, p99, max] = [50, 99, 100].map(|part| percentile(times, part).as_millis());
            writeln!(f, "  {name:<22}{:>9}{p50:>9}{p99:>9}{max:>9}", times.len())?;
        }
        writeln!(f, "takeovers disturbed     {:>8}", self.disturbed)?;
        let mean = self.moves.iter().sum::<usize>() as f64 / self.moves.len().max(1) as f64;
        write!(f, "changes that settled     {:>8}, {mean:.1} moves each", self.moves.len())?;
        let worst = self.shares.iter().max_by_key(|(least, most, _)| most - least);
        worst.map_or(Ok(()), |(least, most, processes)| {
            write!(
                f,
                "\npartitions of a process  {least:>8} to {most} of a group, with {processes} processes, at worst"
            )
        })
    }
}

/// A span of time, in microseconds since 1970.
pub(super) type Span = (u64, u64);

/// The harm done to each process; 0 is the server.
#[derive(Debug, Default)]
pub(super) struct Lives(BTreeMap<u32, Life>);

/// The harm done to one process.
#[derive(Debug, Default)]
struct Life {
    build: u64,
    killed: Option<u64>,
    terminated: Option<u64>,
    silences: Vec<Span>,
    stalls: Vec<Span>,
}

impl Lives {
    /// Notes the harm that a line of the journal reports.
    pub(super) fn gather(&mut self, record: &Record) {
        let at = record.micros;
        let life = self.0.entry(record.life).or_default();
        match record.mark {
            Mark::Started => life.build = record.n,
            Mark::Killed => life.killed = Some(at),
            Mark::Terminated => life.terminated = Some(at),
            Mark::Silenced => life.silences.push((at, u64::MAX)),
            Mark::Continued => life.silences.iter_mut().for_each(|span| span.1 = span.1.min(at)),
            Mark::Stalled => life.stalls.push((at.saturating_sub(record.n * 1000), at)),
            _ => {}
        }
    }

    /// The harm that may have ended the work of a process between two moments.
    pub(super) fn end(&self, life: u32, span: Span, lease: Duration) -> End {
        let (none, lease) = (Life::default(), micros(lease));
        let life = self.0.get(&life).unwrap_or(&none);
        // Renewals come every third of a lease, and an owner stops a tenth before its end.
        let recent = span.0.max(span.1.saturating_sub(2 * lease));
        let long = |spans: &[Span]| spans.iter().any(|of| of.1 >= recent && shared(*of, span) >= lease / 2);
        if life.killed.is_some_and(|at| at <= span.1) {
            End::Killed
        } else if long(&life.silences) {
            End::Silenced
        } else if long(&life.stalls) || self.0.get(&0).is_some_and(|server| long(&server.stalls)) {
            End::Stalled
        } else {
            End::Unexplained
        }
    }
}

/// One ownership.
#[derive(Debug)]
struct Ownership {
    life: u32,
    since: u64,
    released: Option<u64>,
    last_end: Option<u64>,
    /// Handlers that run, by key.
    running: BTreeMap<u64, (u64, u32)>,
    /// The last call for each key, and how it ended.
    last: HashMap<u64, Call>,
    /// When it was given back: the place of the first event of the partition that was not settled.
    waited: Option<u64>,
    /// Events of it that came again later, one of them, and how many of them had ended above one that waited.
    repeats: u64,
    example: String,
    above: u64,
    late: usize,
}

/// The events that a group settled: of one key by their numbers, or of one partition by their places.
#[derive(Debug, Default)]
struct Settled {
    up_to: u64,
    beyond: BTreeSet<u64>,
}

impl Settled {
    fn add(&mut self, n: u64) {
        self.beyond.insert(n);
        while self.beyond.remove(&(self.up_to + 1)) {
            self.up_to += 1;
        }
    }

    fn has(&self, n: u64) -> bool {
        n <= self.up_to || self.beyond.contains(&n)
    }
}

/// A group on a partition.
type Place<'a> = (&'a str, u32);
/// One call of a handler: which event or epoch it was, at which attempt, and how it ended.
type Call = (u64, u32, Option<Mark>);

/// Everything that is gathered on the way through a history.
struct Judge<'a> {
    rules: &'a Rules,
    found: Findings,
    lives: Lives,
    owned: BTreeMap<Place<'a>, BTreeMap<u64, Ownership>>,
    settled: HashMap<(&'a str, u64), Settled>,
    /// The last call for each event of a key, with its epoch.
    handled: HashMap<(&'a str, u64, u64), Call>,
    /// The settled events of each partition, by their places.
    passed: HashMap<Place<'a>, Settled>,
    /// Each event by key and number.
    published: HashMap<(u64, u64), Event>,
    /// How many events each partition has.
    lengths: HashMap<u32, u64>,
}

/// An event that was published.
#[derive(Debug, Clone, Copy)]
struct Event {
    partition: u32,
    /// Its place in the partition, from 1: producers write them down in order.
    place: u64,
    /// The first build that knows it.
    build: u64,
}

/// Judges a history.
pub fn judge(records: &[Record], rules: &Rules) -> Findings {
    let mut judge = Judge {
        rules,
        found: Findings::default(),
        lives: Lives::default(),
        owned: BTreeMap::new(),
        settled: HashMap::new(),
        handled: HashMap::new(),
        passed: HashMap::new(),
        published: HashMap::new(),
        lengths: HashMap::new(),
    };
    for record in records {
        judge.gather(record);
    }
    let mut current: HashMap<Place<'_>, u64> = HashMap::new();
    for record in records {
        let place = (record.group.as_str(), record.partition);
        match record.mark {
            Mark::Owning => {
                let epoch = current.entry(place).or_default();
                *epoch = record.epoch.max(*epoch);
            }
            Mark::Begun => judge.begun(record, current.get(&place).copied().unwrap_or_default()),
            Mark::Done | Mark::Failed => judge.over(record),
            Mark::Released => judge.released(record),
            _ => {}
        }
    }
    judge.ends();
    judge.losses();
    judge.changes(records);
    let mut found = judge.found;
    found.takeovers.sort();
    found.handovers.sort();
    let pause = percentile(&found.handovers, 99);
    if rules.timed && pause >= HANDOVER {
        found.violations.push(format!("a partition that is handed over stands still for {pause:?} (the 99th of 100)"));
    }
    found
}

/// The so-manieth of a hundred of what is sorted.
pub fn percentile(sorted: &[Duration], part: usize) -> Duration {
    sorted.get((sorted.len() * part / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// In microseconds, as records have it.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How much of a span lies within another.
fn shared(span: Span, within: Span) -> u64 {
    span.1.min(within.1).saturating_sub(span.0.max(within.0))
}

impl<'a> Judge<'a> {
    fn wrong(&mut self, what: String) {
        self.found.violations.push(what);
    }

    /// Gathers what befell processes and partitions, and what was published.
    fn gather(&mut self, record: &'a Record) {
        let at = record.micros;
        let place = (record.group.as_str(), record.partition);
        self.lives.gather(record);
        match record.mark {
            Mark::Ended if record.n != 0 => {
                self.wrong(format!("process {} ended with {} on SIGTERM", record.life, record.n));
            }
            Mark::Owning => {
                let ownership = Ownership {
                    life: record.life,
                    since: at,
                    released: None,
                    last_end: None,
                    running: BTreeMap::new(),
                    last: HashMap::new(),
                    waited: None,
                    repeats: 0,
                    example: String::new(),
                    above: 0,
                    late: 0,
                };
                if self.owned.entry(place).or_default().insert(record.epoch, ownership).is_some() {
                    self.wrong(format!("`{record}`: two ownerships have one epoch"));
                }
            }
            Mark::Released => {
                if let Some(ownership) = self.owned.entry(place).or_default().get_mut(&record.epoch) {
                    ownership.released = Some(at);
                }
            }
            Mark::Published => {
                let place = self.lengths.entry(record.partition).or_default();
                *place += 1;
                let event = Event { partition: record.partition, place: *place, build: record.attempt.into() };
                self.published.insert((record.key, record.n), event);
                self.found.events += 1;
            }
            _ => {}
        }
    }

    /// A handler is called.
    fn begun(&mut self, record: &'a Record, current: u64) {
        self.found.calls += 1;
        let Record { life, group, n, attempt, partition, epoch, key, .. } = record;
        let (n, attempt, epoch, key) = (*n, *attempt, *epoch, *key);
        let mut wrong = Vec::new();
        let lanes = self.rules.groups.iter().find(|rules| rules.name == group).map_or(1, |rules| rules.lanes);
        let knows = self.lives.0.get(life).map_or(0, |life| life.build);
        match self.published.get(&(key, n)) {
            None => wrong.push("nobody published it".to_owned()),
            Some(event) if event.partition != *partition => {
                wrong.push(format!("it was published to partition {}", event.partition));
            }
            Some(event) if event.build > knows => wrong.push(format!("build {knows} does not know it")),
            Some(_) => {}
        }
        let in_partition = self.published.get(&(key, n)).map_or(0, |event| event.place);
        let below = self.settled.entry((group, key)).or_default().up_to + 1;
        let places = self.owned.entry((group, *partition)).or_default();
        match places.get_mut(&epoch) {
            Some(ownership) if ownership.life == *life => {
                let goes_on = match ownership.last.get(&key) {
                    Some((before, _, Some(Mark::Done))) => n == before + 1,
                    Some((before, tried, Some(Mark::Failed))) => n == *before && attempt == tried + 1,
                    Some(_) => false,
                    None => n <= below,
                };
                if !goes_on {
                    wrong.push(match ownership.last.get(&key) {
                        Some((before, tried, end)) => {
                            format!("out of order: of its key came {before} before, attempt {tried}, {end:?}")
                        }
                        None => format!("out of order: event {below} of its key is not settled"),
                    });
                }
                if ownership.running.len() >= lanes {
                    wrong.push(format!("{} handlers run already", ownership.running.len()));
                }
                ownership.running.insert(key, (n, attempt));
                ownership.last.insert(key, (n, attempt, None));
                ownership.late += usize::from(epoch < current);
                if ownership.late > lanes {
                    wrong.push(format!("the partition has a new owner since epoch {current}"));
                }
                self.found.late_calls += u64::from(epoch < current);
            }
            _ => wrong.push("its process does not own the partition".to_owned()),
        }
        let before = self.handled.get(&(group, key, n)).copied();
        if let Some((earlier, tried, end)) = before
            && earlier != epoch
            && !(end == Some(Mark::Failed) && attempt == tried + 1)
            && let Some(ownership) = places.get_mut(&earlier.min(epoch))
        {
            ownership.repeats += 1;
            if lanes > 1 && ownership.waited.is_some_and(|waited| waited < in_partition) {
                ownership.above += 1;
            } else {
                ownership.example = record.to_string();
            }
        }
        if before.is_none_or(|(earlier, ..)| earlier <= epoch) {
            self.handled.insert((group, key, n), (epoch, attempt, None));
        }
        wrong.into_iter().for_each(|what| self.wrong(format!("`{record}`: {what}")));
    }

    /// A handler has returned.
    fn over(&mut self, record: &'a Record) {
        let Record { group, mark, n, attempt, partition, epoch, key, .. } = record;
        let ownership = self.owned.entry((group, *partition)).or_default().get_mut(epoch);
        let begun = ownership.is_some_and(|ownership| {
            ownership.last_end = Some(record.micros);
            ownership.last.insert(*key, (*n, *attempt, Some(*mark)));
            ownership.running.remove(key) == Some((*n, *attempt))
        });
        if !begun {
            self.wrong(format!("`{record}`: it ends without having begun"));
        }
        if let Some(handled) = self.handled.get_mut(&(group.as_str(), *key, *n))
            && handled.0 == *epoch
        {
            handled.2 = Some(*mark);
        }
        if *mark == Mark::Done {
            self.settled.entry((group, *key)).or_default().add(*n);
            if let Some(event) = self.published.get(&(*key, *n)) {
                self.passed.entry((group, *partition)).or_default().add(event.place);
            }
        }
    }

    /// An owner gives its partition back.
    fn released(&mut self, record: &'a Record) {
        let place = (record.group.as_str(), record.partition);
        let waited = self.passed.get(&place).map_or(1, |passed| passed.up_to + 1);
        if let Some(ownership) = self.owned.entry(place).or_default().get_mut(&record.epoch) {
            ownership.waited = Some(waited);
        }
    }

    /// Judges how ownerships ended, what was repeated for it, and how long a partition stood still.
    fn ends(&mut self) {
        let mut wrong = Vec::new();
        let mut found = std::mem::take(&mut self.found);
        for ((group, partition), epochs) in &self.owned {
            let bound = self.rules.groups.iter().find(|rules| rules.name == *group).map_or(0, |rules| rules.bound);
            let place = format!("`{group}` on partition {partition}");
            for ((epoch, ownership), (_, next)) in epochs.iter().zip(epochs.iter().skip(1)) {
                let end = match ownership.released {
                    Some(_) => End::Clean,
                    None => self.lives.end(ownership.life, (ownership.since, next.since), self.rules.lease),
                };
                let (times, repeats) = found.ends.entry(end).or_default();
                *times += 1;
                *repeats += ownership.repeats;
                found.most_repeats = found.most_repeats.max(ownership.repeats);
                let owner = format!("{place}, epoch {epoch} of process {}", ownership.life);
                if end == End::Unexplained {
                    wrong.push(format!("{owner}: it lost the partition, and nothing had befallen it"));
                }
                let Ownership { repeats, above, example, .. } = ownership;
                if repeats > above && matches!(end, End::Clean | End::Unexplained) {
                    let repeats = repeats - above;
                    wrong
                        .push(format!("{owner} ({end:?}): {repeats} events are repeated without a cause, `{example}`"));
                } else if ownership.repeats > bound {
                    wrong.push(format!("{owner}: {} events are repeated, and {bound} is the bound", ownership.repeats));
                }
                if ownership.late > 0 && !matches!(end, End::Silenced | End::Stalled) {
                    wrong.push(format!("{owner} ({end:?}): it goes on after another process owns the partition"));
                }
                match end {
                    End::Killed | End::Silenced => self.takeover(&mut found, &owner, ownership, next),
                    End::Clean => self.handover(&mut found, ownership, next),
                    _ => {}
                }
            }
        }
        self.found = found;
        self.found.violations.append(&mut wrong);
    }

    /// When another process was harmed between two moments, or stopped.
    fn hits(&self, span: Span, but: u32, stops: bool) -> impl Iterator<Item = u64> {
        self.lives.0.iter().filter(move |(life, _)| **life != but).flat_map(move |(_, life)| {
            let silences = life.silences.iter().flat_map(|silence| [silence.0, silence.1]);
            let stop = life.terminated.filter(|_| stops);
            silences.chain(life.killed).chain(stop).filter(move |at| (span.0..=span.1).contains(at))
        })
    }

    fn takeover(&self, found: &mut Findings, owner: &str, ownership: &Ownership, next: &Ownership) {
        let Some(life) = self.lives.0.get(&ownership.life) else { return };
        // One that went on before others had to take over may have done so itself.
        let silent = life.silences.iter().find(|span| span.0 < next.since && next.since < span.1);
        let Some(gone) = life.killed.filter(|at| *at <= next.since).or(silent.map(|span| span.0)) else { return };
        // A successor may have been on its way when something befell it.
        let disturbance = self.hits((gone, next.since), ownership.life, true).max();
        found.disturbed += usize::from(disturbance.is_some());
        let took = Duration::from_micros(next.since.saturating_sub(gone));
        found.takeovers.push(took);
        let late = micros(self.rules.lease + LATE);
        let lives = [0, next.life].map(|life| self.lives.0.get(&life));
        let stalls = lives.into_iter().flatten().flat_map(|life| &life.stalls);
        let stalled: u64 = stalls.map(|stall| shared(*stall, (gone, next.since))).sum();
        let since = disturbance.unwrap_or_default().max(gone);
        if self.rules.timed && next.since.saturating_sub(since) > late + stalled {
            found.violations.push(format!("{owner}: it is gone, and the next owner came {took:?} later"));
        }
    }

    fn handover(&self, found: &mut Findings, ownership: &Ownership, next: &Ownership) {
        let Some(end) = ownership.last_end.max(self.lives.0.get(&ownership.life).and_then(|life| life.terminated))
        else {
            return;
        };
        let span = (end.saturating_sub(micros(self.rules.lease + SETTLE)), next.since);
        // Those whose turn it is may be gone, without anybody knowing yet.
        if self.hits(span, ownership.life, false).next().is_none() {
            found.handovers.push(Duration::from_micros(next.since.saturating_sub(end)));
        }
    }

    /// Every event that was published is settled in every group.
    fn losses(&mut self) {
        for group in &self.rules.groups {
            let is_settled = |(key, n): &(u64, u64)| self.settled.get(&(group.name, *key)).is_some_and(|of| of.has(*n));
            let mut lost: Vec<_> = self.published.keys().filter(|event| !is_settled(event)).collect();
            lost.sort();
            if let Some((key, n)) = lost.first() {
                let what = format!("`{}`: {} events are lost, such as {n} of key {key}", group.name, lost.len());
                self.found.violations.push(what);
            }
        }
    }

    /// Counts the partitions that moved after each change of processes, where calm followed the change.
    fn changes(&mut self, records: &[Record]) {
        let is_change = |record: &&Record| {
            use Mark::{Continued, Killed, Silenced, Started, Terminated};
            matches!(record.mark, Started | Killed | Silenced | Continued | Terminated)
        };
        let mut changes: Vec<_> = records.iter().filter(is_change).map(|record| record.micros).collect();
        changes.sort_unstable();
        let calm = micros(self.rules.lease + LATE + SETTLE);
        for pair in changes.windows(2).filter(|pair| pair[1] - pair[0] >= calm) {
            let span = (pair[0], pair[1]);
            // Earlier changes may move partitions here, too. A partition goes from a dead process to another one when the lease
            // is over, and from there to a process that joined meanwhile. There is never a third step.
            let recent = changes.iter().filter(|at| (span.0.saturating_sub(calm)..=span.0).contains(at)).count();
            let causes = recent.min(2);
            let mut moved = 0;
            let mut shares: BTreeMap<&str, BTreeMap<u32, usize>> = BTreeMap::new();
            for ((group, partition), epochs) in &self.owned {
                // The first owner took it from nobody.
                let later = epochs.values().skip(1);
                let moves = later.filter(|ownership| (span.0..span.1).contains(&ownership.since)).count();
                moved += moves;
                if moves > causes {
                    let what = format!(
                        "`{group}` on partition {partition}: it moved {moves} times, at most {causes} come of {recent} changes"
                    );
                    self.found.violations.push(what);
                }
                let owner = epochs.values().rev().find(|ownership| ownership.since < span.1);
                *shares.entry(group).or_default().entry(owner.map_or(0, |owner| owner.life)).or_default() += 1;
            }
            self.found.moves.push(moved);
            let alive: Vec<_> = self.alive(records, span.1);
            for of in shares.values() {
                let parts = alive.iter().map(|life| of.get(life).copied().unwrap_or_default());
                let (least, most) = (parts.clone().min(), parts.max());
                self.found.shares.push((least.unwrap_or_default(), most.unwrap_or_default(), alive.len()));
            }
        }
    }

    /// Which processes run at a moment.
    fn alive(&self, records: &[Record], at: u64) -> Vec<u32> {
        let mut alive = BTreeSet::new();
        for record in records.iter().filter(|record| record.micros < at) {
            match record.mark {
                Mark::Started => drop(alive.insert(record.life)),
                Mark::Killed | Mark::Terminated | Mark::Silenced => drop(alive.remove(&record.life)),
                Mark::Continued => drop(alive.insert(record.life)),
                _ => {}
            }
        }
        alive.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two processes and five events of two keys.
    const BEGINNING: &str = "1 started 1, 2 started 1, 0 p 1.1, 0 p 1.2, 0 p 1.3, 0 p 2.1, 0 p 2.2, 1 owns e1, ";

    /// Judges a history in lines of `+ms life mark`. Where a mark takes them, the epoch `e1`, the event `key.n` and a number
    /// follow; `bd` is a call that is done. A line takes a millisecond, and more where it says so.
    fn judge_lines(lanes: usize, lines: &str) -> Findings {
        let mut at = 10_000_000;
        let mut records = Vec::new();
        for line in lines.split(',').map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split(' ').peekable();
            at += 1000;
            while let Some(wait) = words.next_if(|word| word.starts_with('+')) {
                at += wait[1..].parse::<u64>().unwrap() * 1000;
            }
            let (life, marks) = (words.next().unwrap(), words.next().unwrap());
            let marks = if marks == "bd" || marks == "bf" { [&marks[..1], &marks[1..]].to_vec() } else { vec![marks] };
            let (mut epoch, mut key, mut n, mut number) = ("0", "0", "0", "1");
            for word in words {
                match (word.strip_prefix('e'), word.split_once('.')) {
                    (Some(word), _) => epoch = word,
                    (_, Some(event)) => (key, n) = event,
                    _ => number = word,
                }
            }
            for mark in marks {
                let of_process = matches!(mark, "started" | "ended" | "stalled");
                let (n, attempt) = if of_process { (number, "0") } else { (n, number) };
                let line = format!("{at} {life} g {mark} {n} {attempt} 0 {epoch} {key}");
                records.push(Record::parse(&line).unwrap_or_else(|| panic!("{line}")));
            }
        }
        let groups = vec![Group { name: "g", lanes, bound: 2 }];
        judge(&records, &Rules { lease: Duration::from_secs(1), groups, timed: true })
    }

    fn sees(lines: &str, violation: &str) {
        let found = judge_lines(1, &(BEGINNING.to_owned() + lines)).violations;
        assert!(found.iter().any(|found| found.contains(violation)), "{found:?}");
    }

    fn is_well(lines: &str) -> Findings {
        let found = judge_lines(1, &(BEGINNING.to_owned() + lines));
        assert_eq!(found.violations, Vec::<String>::new());
        found
    }

    const ALL: &str = "1 bd e1 1.1, 1 bd e1 2.1, 1 bd e1 1.2, 1 bd e1 1.3, 1 bd e1 2.2";

    #[test]
    fn a_good_history_is_good() {
        let found = is_well(ALL);
        assert_eq!((found.events, found.calls, found.ends.len()), (5, 5, 0));
    }

    #[test]
    fn a_crash_explains_as_many_repeats_as_its_bound() {
        let found = is_well(
            "1 bd e1 1.1, 1 bd e1 2.1, 1 b e1 1.2, 1 killed, +900 2 owns e2, 2 bd e2 2.1, 2 bd e2 1.2, 2 bd e2 1.3, 2 bd e2 2.2",
        );
        assert_eq!(found.ends, BTreeMap::from([(End::Killed, (1, 2))]));
        assert_eq!(found.takeovers, [Duration::from_millis(901)]);
        sees(
            "1 bd e1 1.1, 1 bd e1 2.1, 1 b e1 1.2, 1 killed, +900 2 owns e2, 2 bd e2 1.1, 2 bd e2 2.1, 2 bd e2 1.2, 2 bd e2 1.3",
            "3 events are repeated, and 2 is the bound",
        );
    }

    #[test]
    fn an_event_that_is_lost_or_passed_by_is_seen() {
        sees("1 bd e1 1.1, 1 bd e1 2.1, 1 bd e1 1.2, 1 bd e1 1.3", "1 events are lost, such as 2 of key 2");
        sees("1 bd e1 1.1, 1 bd e1 1.3", "out of order: of its key came 1 before");
        sees("1 bd e1 1.1, 1 killed, +900 2 owns e2, 2 bd e2 1.3", "event 2 of its key is not settled");
        sees("1 bd e1 1.1, 1 b e1 1.2, 1 killed, +900 2 owns e2, 2 bd e2 1.3", "event 2 of its key is not settled");
        sees("1 bd e1 1.1, 1 bf e1 1.2, 1 bd e1 1.3", "out of order: of its key came 2 before");
        sees("1 bd e1 3.1", "nobody published it");
    }

    #[test]
    fn going_back_within_an_epoch_is_seen() {
        sees("1 bd e1 1.1, 1 bd e1 1.2, 1 bd e1 1.1", "out of order: of its key came 2 before");
        sees("1 bd e1 1.1, 1 bd e1 1.1", "out of order: of its key came 1 before");
    }

    #[test]
    fn an_event_that_failed_is_tried_again_before_the_next_also_by_the_next_owner() {
        is_well("1 bd e1 1.1, 1 bf e1 1.2, 1 bd e1 1.2 2, 1 bd e1 1.3, 1 bd e1 2.1, 1 bd e1 2.2");
        let handed = is_well(
            "1 bd e1 1.1, 1 bf e1 1.2, 1 released e1, 2 owns e2, 2 bd e2 1.2 2, 2 bd e2 1.3, 2 bd e2 2.1, 2 bd e2 2.2",
        );
        assert_eq!(handed.ends, BTreeMap::from([(End::Clean, (1, 0))]));
        sees("1 bd e1 1.1, 1 bf e1 1.2, 1 released e1, 2 owns e2, 2 bd e2 1.2", "repeated without a cause");
    }

    #[test]
    fn a_clean_hand_over_explains_no_repeat() {
        sees("1 bd e1 1.1, 1 terminated, 1 released e1, 1 ended 0, 2 owns e2, 2 bd e2 1.1", "repeated without a cause");
        sees("1 b e1 1.1, 1 released e1, 1 killed, 2 owns e2, 2 bd e2 1.1", "repeated without a cause");
        sees("1 terminated, 1 ended 2", "process 1 ended with 2");
    }

    #[test]
    fn a_loss_of_ownership_needs_a_cause() {
        let rest = "+100 2 owns e2, 2 bd e2 1.1, 2 bd e2 1.2, 2 bd e2 1.3, 2 bd e2 2.1, 2 bd e2 2.2";
        sees(&format!("1 bd e1 1.1, {rest}"), "nothing had befallen it");
        sees(&format!("1 bd e1 1.1, 1 silenced, +300 1 continued, {rest}"), "nothing had befallen it");
        sees(&format!("1 bd e1 1.1, 1 silenced, +900 1 continued, +5000 {rest}"), "nothing had befallen it");
        sees(&format!("1 bd e1 1.1, +900 2 stalled 900, {rest}"), "nothing had befallen it");
        sees(&format!("1 bd e1 1.1, {rest}, 1 killed"), "nothing had befallen it");
        for cause in [
            "1 silenced, +900 1 continued",
            "1 silenced, +1100 2 stalled 1",
            "+900 1 stalled 900",
            "+900 0 stalled 900",
        ] {
            let found = is_well(&format!("1 bd e1 1.1, {cause}, {rest}"));
            assert_eq!(found.ends.values().map(|(_, repeats)| repeats).sum::<u64>(), 1, "{cause}");
        }
    }

    #[test]
    fn two_owners_at_once_are_seen() {
        let taken = "1 silenced, +1100 2 owns e2, 2 bd e2 1.1, 1 continued";
        is_well(&format!("{taken}, 1 b e1 1.1, 2 bd e2 1.2, 2 bd e2 1.3, 2 bd e2 2.1, 2 bd e2 2.2"));
        sees(&format!("{taken}, 1 bd e1 1.1, 1 bd e1 2.1"), "the partition has a new owner since epoch 2");
        sees("1 released e1, 2 owns e2, 1 bd e1 1.1", "it goes on after another process owns the partition");
        sees("2 bd e1 1.1", "its process does not own the partition");
        sees("2 bd e7 1.1", "its process does not own the partition");
        sees("2 owns e1", "two ownerships have one epoch");
    }

    #[test]
    fn lanes_run_side_by_side_but_never_two_of_one_key() {
        let side_by_side = "1 b e1 1.1, 1 b e1 2.1, 1 d e1 2.1, 1 d e1 1.1, 1 bd e1 1.2, 1 bd e1 1.3, 1 bd e1 2.2";
        let lanes = |lanes, lines: &str| judge_lines(lanes, &(BEGINNING.to_owned() + lines)).violations;
        assert_eq!(lanes(2, side_by_side), Vec::<String>::new());
        assert!(lanes(1, side_by_side)[0].contains("1 handlers run already"));
        let of_one_key = "1 b e1 1.1, 1 b e1 1.2, 1 d e1 1.1, 1 d e1 1.2";
        assert!(lanes(2, of_one_key)[0].contains("out of order: of its key came 1 before"));
    }

    #[test]
    fn a_clean_hand_over_of_lanes_repeats_what_had_ended_above_an_event_that_waited() {
        let lanes = |lines: &str| judge_lines(2, &(BEGINNING.to_owned() + lines)).violations;
        // In the order of the partition: 1.1, 1.2, 1.3, 2.1, 2.2. The second waited behind the first.
        let rest = "2 owns e2, 2 bd e2 1.2, 2 bd e2 1.3, 2 bd e2 2.1, 2 bd e2 2.2";
        assert_eq!(lanes(&format!("1 bd e1 1.1, 1 bd e1 2.1, 1 released e1, {rest}")), Vec::<String>::new());
        let found = lanes(&format!("1 bd e1 1.1, 1 bd e1 1.2, 1 bd e1 2.1, 1 released e1, {rest}"));
        assert!(
            found[0].contains("1 events are repeated without a cause, `") && found[0].contains(" b 2 "),
            "{found:?}"
        );
        sees(
            "1 bd e1 1.1, 1 bd e1 2.1, 1 released e1, 2 owns e2, 2 bd e2 1.2, 2 bd e2 2.1",
            "repeated without a cause",
        );
    }

    #[test]
    fn a_late_take_over_is_seen() {
        sees("1 killed, +2100 2 owns e2", "it is gone, and the next owner came 2.101s later");
        sees("1 silenced, +2100 2 owns e2", "it is gone, and the next owner came 2.101s later");
        // A machine that gave the successor no time, or a successor that was hit itself, is not the lease's fault.
        let rest = format!("2 owns e2, {}", ALL.replace("1 bd e1", "2 bd e2"));
        is_well(&format!("1 killed, +2100 2 stalled 500, {rest}"));
        is_well(&format!("3 started 1, 1 killed, +900 3 killed, +1900 {rest}"));
        sees("3 started 1, 1 killed, +900 3 killed, +2100 2 owns e2", "the next owner came");
    }

    #[test]
    fn a_slow_hand_over_is_seen() {
        sees("1 bd e1 1.1, 1 released e1, +250 2 owns e2", "that is handed over stands still for 252ms");
        sees("1 bd e1 1.1, +900 1 terminated, +10 1 released e1, +250 2 owns e2", "stands still for 262ms");
    }

    #[test]
    fn a_partition_that_moves_twice_for_one_change_is_seen() {
        let moves = "+500 1 released e1, 2 owns e2, +500 2 released e2, 1 owns e3, +9000 2 terminated";
        sees(&format!("+6000 3 started 1, {moves}"), "it moved 2 times, at most 1 come of 1 changes");
        let thrice = "1 released e1, 2 owns e2, +500 2 released e2, 1 owns e3, +500 1 released e3, 2 owns e4, +9000 2 terminated";
        sees(
            &format!("+6000 3 started 1, +100 4 started 1, +100 3 killed, {thrice}"),
            "it moved 3 times, at most 2 come of 3 changes",
        );
        let rest = ALL.replace("1 bd e1", "1 bd e3");
        is_well(&format!("+6000 3 started 1, +300 3 killed, {moves}, 2 ended 0, {rest}"));
        let once = "3 started 1, +500 1 bd e1 1.1, 1 released e1, 3 owns e2, +9000 2 terminated, 2 ended 0, ";
        let found = is_well(&(once.to_owned() + &ALL.replace("1 bd e1 1.1,", "").replace("1 bd e1", "3 bd e2")));
        assert_eq!((found.moves, found.shares), (vec![1], vec![(0, 1, 3)]));
    }

    #[test]
    fn an_event_that_a_build_does_not_know_is_not_for_it() {
        sees("3 started 2, 0 p 9.1 2, 1 bd e1 9.1", "build 1 does not know it");
    }
}
