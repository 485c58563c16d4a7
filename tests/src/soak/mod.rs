//! A worker process is killed again and again while it handles events. At the end the journal and Redis must agree that
//! nothing was lost, reordered or repeated beyond the promise.
//!
//! The worker writes [`journal`], [`mod@check`] judges it, and this file drives: it publishes, kills and starts again.
//! [`mod@chaos`] does the same with the server in the worker's place. [`mod@share`] and [`mod@queue`] run many workers at
//! once: [`fleet`] starts and harms them, [`witness`] writes for them, [`history`] judges it.

pub mod chaos;
pub mod check;
pub mod fleet;
pub mod history;
pub mod journal;
pub mod queue;
pub mod roll;
pub mod share;
pub mod witness;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use streams_runtime::{EntryId, codec, stream_event};

use self::check::{Findings, Rules, check};
use self::journal::{Mark, Reader, Record, micros};
use crate::RedisServer;

/// The lease of the worker.
pub const LEASE: Duration = Duration::from_millis(500);
/// How long the server holds up every write before some of the kills. Shorter than the lease less its margin.
const STALL: Duration = Duration::from_millis(300);
/// How long a worker may take until it handles events, and the last one until everything is settled.
const PATIENCE: Duration = Duration::from_secs(120);

/// The event that the worker handles.
#[stream_event(stream = "soak")]
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// From 1, in order.
    pub n: u64,
}

/// The groups of the worker, and what holds for them.
pub const GROUPS: [Rules; 4] = [
    Rules { group: "fast", batch: 1_000, gives_up: |_| None },
    Rules { group: "waits", batch: 100, gives_up: |_| None },
    Rules { group: "fails", batch: 250, gives_up },
    // Its batch is larger than the number of events beyond its checkpoint, so a crash repeats a batch.
    Rules { group: "gathers", batch: 120, gives_up: |_| None },
];

/// Which events the group `fails` gives up on, and after how many attempts.
pub fn gives_up(n: u64) -> Option<u32> {
    match n {
        _ if n % 2003 == 7 => Some(1),
        _ if n % 1009 == 500 => Some(3),
        _ => None,
    }
}

/// Whether the group `fails` fails at an event once, and then succeeds.
pub fn stumbles(n: u64) -> bool {
    n % 97 == 3
}

/// How long the groups `waits` and `gathers` take for an event.
pub fn takes(n: u64) -> Duration {
    Duration::from_millis(if n.is_multiple_of(4) { 2 } else { 0 })
}

/// The plan of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often the worker is killed.
    pub kills: u32,
    /// How many events are published meanwhile.
    pub events: u64,
    /// Decides when and how.
    pub seed: u64,
    /// The program that is the worker when its first argument is `worker`.
    pub worker: PathBuf,
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    took: Duration,
    kills: Kills,
    groups: Vec<(&'static str, Findings)>,
    lost_leases: u64,
    takeovers: Vec<Duration>,
    dead_letters: usize,
    /// Broken promises, in words; empty when all is well.
    pub violations: Vec<String>,
}

#[derive(Debug, Default)]
struct Kills {
    during_handlers: u32,
    during_stalls: u32,
    before_work: u32,
}

/// How a worker's life ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// While a handler waits.
    InHandler,
    /// While every write to the server stalls, after a burst of events.
    InStall,
    /// At any moment.
    Anywhen,
    /// Perhaps before it owns anything.
    Early,
}

/// Numbers that look random and are the same for the same seed (Steele, Lea and Flood's SplitMix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From this seed on.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 up to, but not, `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// The index of one of so many.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    fn pause(&mut self, most: Duration) {
        sleep(Duration::from_micros(self.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX))));
    }
}

/// Adds events as any other client would: see `docs/wire-format.md`.
struct Producer {
    client: redis::Connection,
    next: u64,
}

impl Producer {
    /// Adds so many events; with a stall behind them no write after theirs gets through for a while.
    fn add(&mut self, count: u64, stall: Option<Duration>) {
        let mut pipe = redis::pipe();
        pipe.cmd("MULTI").ignore();
        for n in self.next..self.next + count {
            let mut payload = Vec::new();
            codec::encode(&Tick { n }, &mut payload).expect("a tick can be encoded");
            let entry = pipe.cmd("XADD").arg("soak").arg("*");
            entry.arg("event").arg("Tick@1").arg("id").arg(format!("tick-{n}")).arg("payload").arg(payload).ignore();
        }
        pipe.cmd("EXEC").ignore();
        if let Some(stall) = stall {
            let millis = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
            pipe.cmd("CLIENT").arg("PAUSE").arg(millis).arg("WRITE").ignore();
        }
        pipe.exec(&mut self.client).expect("events are added");
        self.next += count;
    }
}

/// A worker; killed when the run panics.
#[derive(Debug)]
struct Worker {
    child: Child,
}

impl Worker {
    /// Starts the program in one of its roles.
    fn start(program: &Path, role: &str, life: u32, dir: &Path, url: &str) -> Self {
        let mut command = Command::new(program);
        command.arg(role).arg(life.to_string()).arg(dir.join("journal")).arg(url);
        let log = File::create(log_of(dir, life)).expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the worker starts");
        Self { child }
    }

    /// `kill -9`; answers when it was sent.
    fn kill(&mut self) -> u64 {
        let at = micros();
        self.child.kill().expect("the worker is killed");
        self.child.wait().expect("the worker is gone");
        at
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(dir: &Path, life: u32) -> PathBuf {
    dir.join(format!("worker-{life}.log"))
}

/// Waits until something holds; false when it does not within [`PATIENCE`].
fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > PATIENCE {
            return false;
        }
        sleep(Duration::from_micros(500));
    }
    true
}

/// Runs it.
///
/// # Panics
/// When the server or the worker cannot be used at all.
pub fn soak(plan: &Plan) -> Report {
    let began = Instant::now();
    let server = RedisServer::start();
    let url = server.url();
    let dir = server.dir();
    let mut dice = Dice(plan.seed);
    let mut journal = Reader::open(&dir.join("journal")).expect("the journal");
    let mut producer = Producer { client: RedisServer::client(&url), next: 1 };
    let (mut kills, mut violations) = (Kills::default(), Vec::new());
    let mut killed_at: BTreeMap<u32, u64> = BTreeMap::new();

    let ends: Vec<_> = (0..plan.kills)
        .map(|_| match dice.below(100) {
            0..25 => End::InStall,
            25..82 => End::InHandler,
            82..93 => End::Anywhen,
            _ => End::Early,
        })
        .collect();
    // A stall is of use when more is there than may run beyond the checkpoint.
    let weight = |end: End| if end == End::InStall { 6 } else { 1 };
    let weights: u64 = ends.iter().map(|end| weight(*end)).sum();
    for (life, end) in (1..).zip(ends) {
        let share = (plan.events - plan.kills as u64) * weight(end) / weights.max(1);
        let mut worker = Worker::start(&plan.worker, "worker", life, dir, &url);
        // Something to do when the lease of the one before is over, so that a takeover shows.
        let first = (share / 4).max(1);
        producer.add(first, None);
        if end == End::Early {
            producer.add(share - first.min(share), None);
            dice.pause(LEASE + LEASE / 2);
        } else {
            if !wait_until(|| journal.records().iter().rev().any(|record| record.life == life)) {
                violations.push(format!("process {life} handled nothing within {} s", PATIENCE.as_secs()));
                break;
            }
            dice.pause(Duration::from_millis(150));
            if end == End::InStall {
                producer.add(share - first, Some(STALL));
                dice.pause(STALL / 2);
            } else {
                for part in [share / 4, share / 4, share - first - share / 4 * 2] {
                    producer.add(part, None);
                    dice.pause(Duration::from_millis(80));
                }
            }
        }
        if end == End::InHandler {
            let is_in_handler = |records: &[Record]| {
                let last = records.iter().rev().find(|record| record.group == "waits");
                last.is_some_and(|record| record.mark == Mark::Begun && record.life == life)
            };
            let looked = Instant::now();
            while !is_in_handler(journal.records()) && looked.elapsed() < Duration::from_secs(1) {}
        }
        let at = worker.kill();
        killed_at.insert(life, at);
        let records = journal.records();
        let in_handler = GROUPS.iter().any(|rules| {
            let last = records.iter().rev().find(|record| record.group == rules.group);
            last.is_some_and(|record| record.life == life && record.mark == Mark::Begun)
        });
        kills.during_handlers += u32::from(in_handler);
        kills.during_stalls += u32::from(end == End::InStall);
        kills.before_work += u32::from(!records.iter().rev().any(|record| record.life == life));
    }

    // The last life settles everything and stops in peace.
    let life = plan.kills + 1;
    producer.add((plan.events + 1).saturating_sub(producer.next), None);
    let mut worker = Worker::start(&plan.worker, "worker", life, dir, &url);
    let last = newest(&mut producer.client, "soak");
    for rules in &GROUPS {
        if !wait_until(|| checkpoint(&mut producer.client, &state_of(rules.group)) == last) {
            let at = checkpoint(&mut producer.client, &state_of(rules.group));
            violations
                .push(format!("the checkpoint of `{}` is at {at:?}, and the stream ends at {last:?}", rules.group));
        }
    }
    let terminated = Command::new("kill").args(["-TERM", &worker.child.id().to_string()]).status();
    let status = worker.child.wait().expect("the worker ends");
    if !terminated.is_ok_and(|kill| kill.success()) || status.code() != Some(0) {
        violations.push(format!("the last process ended with {status} on SIGTERM"));
    }
    for rules in &GROUPS {
        if checkpoint(&mut producer.client, &state_of(rules.group)) != last {
            violations.push(format!("the checkpoint of `{}` moved after everything was settled", rules.group));
        }
    }

    let records = journal.records();
    let (mut groups, mut lost_leases, mut dead_letters) = (Vec::new(), 0, 0);
    for rules in &GROUPS {
        let lost = lost_leases_of(dir, life, rules.group);
        lost_leases += lost.values().sum::<u64>();
        let dead = dead_ticks(&mut producer.client, rules.group);
        dead_letters += dead.len();
        let mut findings = check(records, rules, plan.events, &lost, &dead);
        violations.append(&mut findings.violations);
        groups.push((rules.group, findings));
    }
    // Half of the kills in handlers, and enough during stalls, or the run has shown little.
    if kills.during_handlers * 2 < plan.kills {
        violations.push(format!("only {} of {} kills hit a handler", kills.during_handlers, plan.kills));
    }
    let takeovers = takeovers(records, &killed_at);
    if plan.kills > 0 && takeovers.is_empty() {
        violations.push("no takeover was seen".to_owned());
    }
    keep(dir, "soak", plan.seed, &mut violations);
    Report {
        plan: plan.clone(),
        took: began.elapsed(),
        kills,
        groups,
        lost_leases,
        takeovers,
        dead_letters,
        violations,
    }
}

/// Keeps journal and logs where something was found.
fn keep(dir: &Path, run: &str, seed: u64, violations: &mut Vec<String>) {
    if violations.is_empty() {
        return;
    }
    let kept = std::env::temp_dir().join(format!("streams-{run}-{seed}"));
    let _ = fs::create_dir_all(&kept);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = fs::copy(entry.path(), kept.join(entry.file_name()));
    }
    violations.push(format!("journal and logs are kept in {}", kept.display()));
}

/// The times from a kill to the first event that the next process handles, for each group.
fn takeovers(records: &[Record], killed_at: &BTreeMap<u32, u64>) -> Vec<Duration> {
    let mut first: BTreeMap<(u32, &str), u64> = BTreeMap::new();
    for record in records {
        first.entry((record.life, &record.group)).or_insert(record.micros);
    }
    let mut times: Vec<_> = first
        .into_iter()
        .filter_map(|((life, _), at)| Some(Duration::from_micros(at.saturating_sub(*killed_at.get(&(life - 1))?))))
        .collect();
    times.sort();
    times
}

/// The last entry of a stream.
fn newest(client: &mut redis::Connection, stream: &str) -> Option<EntryId> {
    let mut command = redis::cmd("XREVRANGE");
    let entries: redis::streams::StreamRangeReply =
        command.arg(stream).arg("+").arg("-").arg("COUNT").arg(1).query(client).expect("the newest entry");
    entries.ids.first()?.id.parse().ok()
}

/// The checkpoint in a group's state.
fn checkpoint(client: &mut redis::Connection, state: &str) -> Option<EntryId> {
    let at: Option<String> = redis::cmd("HGET").arg(state).arg("at").query(client).ok()?;
    at?.parse().ok()
}

/// The ids of the events among dead letters, with their attempts.
fn dead_letters_of(client: &mut redis::Connection, dead: &str) -> Vec<(String, u32)> {
    let letters: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(dead).arg("-").arg("+").query(client).expect("dead letters");
    let letter = |letter: &redis::streams::StreamId| Some((letter.get("o:id")?, letter.get("attempts")?));
    letters.ids.iter().map(|found| letter(found).unwrap_or_default()).collect()
}

/// The ticks among the dead letters of a group.
fn dead_ticks(client: &mut redis::Connection, group: &str) -> Vec<(u64, u32)> {
    let number = |id: String| id.strip_prefix("tick-")?.parse().ok();
    let letters = dead_letters_of(client, &format!("{}:dead", state_of(group))).into_iter();
    letters.map(|(id, attempts)| (number(id).unwrap_or_default(), attempts)).collect()
}

/// The state of a group of this run.
fn state_of(group: &str) -> String {
    format!("streams:{{soak}}:{group}")
}

/// How often each process reported that it had lost a group's lease.
fn lost_leases_of(dir: &Path, lives: u32, group: &str) -> BTreeMap<u32, u64> {
    let of = format!("group=\"{group}\"");
    let count = |life| {
        let log = fs::read_to_string(log_of(dir, life)).unwrap_or_default();
        log.lines().filter(|line| line.contains("the lease is lost") && line.contains(&of)).count() as u64
    };
    (1..=lives).map(|life| (life, count(life))).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { kills, events, seed, .. } = &self.plan;
        writeln!(
            f,
            "seed {seed}: {events} events, {kills} kills, {:.1} s, lease {} ms",
            self.took.as_secs_f64(),
            LEASE.as_millis()
        )?;
        writeln!(f, "kills while a handler ran   {:>8}", self.kills.during_handlers)?;
        writeln!(f, "kills while writes stalled  {:>8}", self.kills.during_stalls)?;
        writeln!(f, "kills before any work       {:>8}", self.kills.before_work)?;
        writeln!(f, "leases lost while alive     {:>8}", self.lost_leases)?;
        writeln!(f, "dead letters                {:>8}", self.dead_letters)?;
        let at = |part: usize| {
            self.takeovers.get((self.takeovers.len() * part / 100).min(self.takeovers.len().saturating_sub(1)))
        };
        let [p50, p95, max] = [50, 95, 100].map(|part| at(part).copied().unwrap_or_default().as_millis());
        writeln!(f, "takeover, ms                {p50:>8} p50 {p95} p95 {max} max")?;
        writeln!(f, "{:<8}{:>8}{:>16}{:>16}{:>16}", "group", "starts", "repeats, mean", "repeats, max", "bound")?;
        for ((group, found), rules) in self.groups.iter().zip(&GROUPS) {
            let starts = found.repeats.len();
            let mean = found.repeats.iter().sum::<u64>() as f64 / starts.max(1) as f64;
            let max = found.repeats.iter().max().copied().unwrap_or(0);
            writeln!(f, "{group:<8}{starts:>8}{mean:>16.1}{max:>16}{:>16}", rules.batch)?;
        }
        match self.violations.as_slice() {
            [] => write!(f, "nothing lost, nothing out of order, nothing repeated beyond its bound"),
            violations => {
                write!(f, "VIOLATIONS:")?;
                violations.iter().take(50).try_for_each(|violation| write!(f, "\n  {violation}"))
            }
        }
    }
}
