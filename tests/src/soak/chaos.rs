//! A server fails in every way that one server can, under load. As [`soak`](super::soak) does after kills of a worker,
//! [`chaos`] checks the groups and a publisher after outages of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use streams_runtime::{Publisher, codec, stream_event};

use super::check::{Findings, check};
use super::journal::{Mark, Reader, Record, micros};
use super::{Dice, GROUPS, PATIENCE, Tick, Worker, checkpoint, dead_ticks, keep, log_of, newest, state_of, wait_until};
use crate::{Options, RedisServer};

/// How many processes share the groups: one owns, the other may take over when the first cannot reach the server.
const WORKERS: u32 = 2;
/// How many events are added at once, and how often: less than the slowest group can handle in a debug build.
const BURST: u64 = 4;
const EVERY: Duration = Duration::from_millis(15);
/// How long an outage lasts at most: more than two leases of the worker.
const LONGEST: Duration = Duration::from_millis(1200);
/// How long it is calm at most between two.
const CALM: Duration = Duration::from_millis(400);
/// From how many lines on a process logs too much about one outage.
const TALKATIVE: usize = 20;

/// The event that the publisher adds.
#[stream_event(stream = "chaos")]
#[derive(Debug, Clone, PartialEq)]
struct Tock {
    n: u64,
}

/// The plan of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For how long, but each kind of outage comes at least once.
    pub time: Duration,
    /// Decides which, when and for how long.
    pub seed: u64,
    /// The program that is the worker when its first argument is `worker`.
    pub worker: PathBuf,
}

/// The kinds of outages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Killed,
    Silent,
    Busy,
    Full,
    Replica,
    NoReplicas,
    Disconnects,
    Forgets,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::Killed, "killed, started again"),
    (Kind::Silent, "stands still (SIGSTOP)"),
    (Kind::Busy, "busy with a script"),
    (Kind::Full, "full (OOM)"),
    (Kind::Replica, "a replica (READONLY)"),
    (Kind::NoReplicas, "without replicas"),
    (Kind::Disconnects, "connections killed"),
    (Kind::Forgets, "scripts forgotten"),
];

impl Kind {
    /// Makes it happen; the moment in microseconds at which the server was well again.
    fn happen(self, server: &mut RedisServer, lasts: Duration, dice: &mut Dice) -> u64 {
        match self {
            Self::Killed => {
                server.kill();
                sleep(lasts);
                server.start_again();
                server.wait_until_back();
            }
            Self::Silent => {
                server.signal("STOP");
                sleep(lasts);
                server.signal("CONT");
            }
            Self::Busy => {
                let mut client = RedisServer::client(&server.url());
                thread::spawn(move || redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut client));
                sleep(lasts);
                // The script may not have begun.
                let mut client = RedisServer::client(&server.url());
                while redis::cmd("SCRIPT").arg("KILL").exec(&mut client).is_err() {}
            }
            Self::Full => {
                server.run::<()>("CONFIG SET maxmemory 1mb");
                sleep(lasts);
                server.run::<()>("CONFIG SET maxmemory 0");
            }
            Self::Replica => {
                server.run::<()>("REPLICAOF 127.0.0.1 1");
                sleep(lasts);
                server.run::<()>("REPLICAOF NO ONE");
            }
            Self::NoReplicas => {
                server.run::<()>("CONFIG SET min-replicas-to-write 1");
                sleep(lasts);
                server.run::<()>("CONFIG SET min-replicas-to-write 0");
            }
            Self::Disconnects => {
                for _ in 0..1 + dice.below(10) {
                    server.run::<u32>("CLIENT KILL TYPE normal SKIPME yes");
                    dice.pause(Duration::from_millis(100));
                }
            }
            Self::Forgets => server.run::<()>("SCRIPT FLUSH SYNC"),
        }
        micros()
    }
}

/// An outage that was.
struct Outage {
    kind: Kind,
    /// When the server was well again, in microseconds since 1970.
    over: u64,
    /// How long each worker's log was when it began.
    logs: Vec<usize>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    took: Duration,
    events: u64,
    groups: Vec<(&'static str, Findings)>,
    dead_letters: usize,
    published: Published,
    kinds: BTreeMap<Kind, OfKind>,
    /// Broken promises, in words; empty when all is well.
    pub violations: Vec<String>,
}

/// The effects of all outages of one kind.
#[derive(Debug, Default)]
struct OfKind {
    times: usize,
    /// How long after the server was well again each group handled its next event.
    recoveries: Vec<Duration>,
    /// The most lines that a process logged about one.
    lines: usize,
}

/// The publisher's counts of events and errors.
#[derive(Debug, Default)]
struct Published {
    events: u64,
    doubles: usize,
    backpressure: u64,
    indefinite: u64,
    unavailable: u64,
}

/// Adds ticks as any other client would, until `stop`; answers how many there are.
fn feed(url: &str, stop: &AtomicBool) -> u64 {
    let mut next = 1;
    while !stop.load(Ordering::Relaxed) {
        let _ = feed_on(url, stop, &mut next);
        sleep(Duration::from_millis(2));
    }
    next - 1
}

/// Feeds on one connection. Entries without an answer may have been added, so the stream says where to go on after a failure.
fn feed_on(url: &str, stop: &AtomicBool, next: &mut u64) -> redis::RedisResult<()> {
    let mut client = redis::Client::open(url)?.get_connection_with_timeout(PATIENCE)?;
    let last: redis::streams::StreamRangeReply =
        redis::cmd("XREVRANGE").arg("soak").arg("+").arg("-").arg("COUNT").arg(1).query(&mut client)?;
    let last = last.ids.first().and_then(|entry| entry.get::<String>("id"));
    *next = last.and_then(|id| id.strip_prefix("tick-")?.parse::<u64>().ok()).map_or(1, |n| n + 1);
    while !stop.load(Ordering::Relaxed) {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for n in *next..*next + BURST {
            let mut payload = Vec::new();
            codec::encode(&Tick { n }, &mut payload).expect("a tick can be encoded");
            let entry = pipe.cmd("XADD").arg("soak").arg("*");
            entry.arg("event").arg("Tick@1").arg("id").arg(format!("tick-{n}")).arg("payload").arg(payload).ignore();
        }
        pipe.exec(&mut client)?;
        *next += BURST;
        sleep(EVERY);
    }
    Ok(())
}

/// Publishes one event after the other, each until it is there.
fn publish(url: &str, stop: &AtomicBool) -> Published {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
    executor.block_on(async {
        let mut published = Published::default();
        let publisher = Publisher::connect(url).await.expect("a publisher").with_retry(Duration::from_millis(300));
        while !stop.load(Ordering::Relaxed) {
            let n = published.events + 1;
            while let Err(error) = publisher.publish(&Tock { n }).id(format!("tock-{n}")).await {
                assert!(error.is_retryable(), "{error:?}");
                published.backpressure += u64::from(error.is_backpressure());
                published.indefinite += u64::from(error.is_indefinite());
                published.unavailable += u64::from(!error.is_backpressure() && !error.is_indefinite());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            published.events = n;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        published
    })
}

/// Every event that was acknowledged is there, in order; counts those that a retry has added again.
fn check_published(client: &mut redis::Connection, published: &mut Published) -> Vec<String> {
    let stream: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg("chaos").arg("-").arg("+").query(client).expect("the published events");
    let number = |entry: &redis::streams::StreamId| entry.get::<String>("id")?.strip_prefix("tock-")?.parse().ok();
    let numbers: Vec<u64> = stream.ids.iter().filter_map(number).collect();
    let mut seen = BTreeSet::new();
    let first: Vec<u64> = numbers.iter().copied().filter(|n| seen.insert(*n)).collect();
    published.doubles = numbers.len() - first.len();
    let mut wrong = Vec::new();
    if first.len() as u64 != published.events {
        wrong.push(format!("{} events were acknowledged and {} are in the stream", published.events, first.len()));
    }
    if !first.is_sorted() {
        wrong.push("published events are out of order".to_owned());
    }
    wrong
}

/// Runs it.
///
/// # Panics
/// When the server or a worker cannot be used at all.
pub fn chaos(plan: &Plan) -> Report {
    let began = Instant::now();
    // Every answered write survives a kill of the server, because the file system keeps it even without a sync.
    let options = Options::default().args(["--appendonly", "yes", "--appendfsync", "no"]);
    let mut server = options.args(["--busy-reply-threshold", "20"]).start();
    let (url, dir) = (server.url(), server.dir().to_owned());
    let mut dice = Dice(plan.seed);
    let mut journal = Reader::open(&dir.join("journal")).expect("the journal");
    let mut violations = Vec::new();
    let mut workers: Vec<_> =
        (1..=WORKERS).map(|life| Worker::start(&plan.worker, "worker", life, &dir, &url)).collect();
    let (feeding, publishing) = (AtomicBool::new(false), AtomicBool::new(false));
    let (events, mut published, outages) = thread::scope(|scope| {
        let feeder = scope.spawn(|| feed(&url, &feeding));
        let publisher = scope.spawn(|| publish(&url, &publishing));
        if !wait_until(|| GROUPS.iter().all(|rules| journal.records().iter().any(|record| record.group == rules.group)))
        {
            violations.push(format!("not every group handles anything within {} s", PATIENCE.as_secs()));
        }
        let (mut outages, mut kinds) = (Vec::new(), Vec::new());
        while violations.is_empty() && (began.elapsed() < plan.time || outages.len() < KINDS.len()) {
            if kinds.is_empty() {
                kinds = KINDS.map(|(kind, _)| kind).to_vec();
            }
            let kind = kinds.swap_remove(dice.index(kinds.len()));
            let logs = (1..=WORKERS).map(|life| log(&dir, life).len()).collect();
            let lasts = Duration::from_millis(dice.below(u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX)));
            let over = kind.happen(&mut server, lasts, &mut dice);
            outages.push(Outage { kind, over, logs });
            let goes_on = |records: &[Record]| {
                let since = || records.iter().rev().take_while(|record| record.micros >= over);
                GROUPS.iter().all(|rules| since().any(|record| record.group == rules.group))
            };
            if !wait_until(|| goes_on(journal.records())) {
                violations.push(format!("not every group goes on within {} s after {kind:?}", PATIENCE.as_secs()));
            }
            dice.pause(CALM);
        }
        feeding.store(true, Ordering::Relaxed);
        publishing.store(true, Ordering::Relaxed);
        let events = feeder.join().expect("the feeder");
        (events, publisher.join().expect("the publisher"), outages)
    });

    let mut client = RedisServer::client(&url);
    let last = newest(&mut client, "soak");
    for rules in &GROUPS {
        if !wait_until(|| checkpoint(&mut client, &state_of(rules.group)) == last) {
            let at = checkpoint(&mut client, &state_of(rules.group));
            violations
                .push(format!("the checkpoint of `{}` is at {at:?}, and the stream ends at {last:?}", rules.group));
        }
    }
    for worker in &mut workers {
        let terminated = Command::new("kill").args(["-TERM", &worker.child.id().to_string()]).status();
        let status = worker.child.wait().expect("the worker ends");
        if !terminated.is_ok_and(|kill| kill.success()) || status.code() != Some(0) {
            violations.push(format!("a process ended with {status} on SIGTERM"));
        }
    }

    let records = journal.records();
    let logs: Vec<String> = (1..=WORKERS).map(|life| log(&dir, life)).collect();
    let (mut groups, mut dead_letters) = (Vec::new(), 0);
    for rules in &GROUPS {
        let dead = dead_ticks(&mut client, rules.group);
        dead_letters += dead.len();
        let mut findings = check(records, rules, events, &beginnings(&logs, rules.group), &dead);
        violations.append(&mut findings.violations);
        groups.push((rules.group, findings));
    }
    violations.append(&mut check_published(&mut client, &mut published));
    let kinds = by_kind(&outages, records, &logs);
    for (kind, of) in &kinds {
        if of.lines >= TALKATIVE {
            violations.push(format!("{} lines of one process are about one outage ({kind:?})", of.lines));
        }
    }
    keep(&dir, "chaos", plan.seed, &mut violations);
    let (plan, took) = (plan.clone(), began.elapsed());
    Report { plan, took, events, groups, dead_letters, published, kinds, violations }
}

fn log(dir: &Path, life: u32) -> String {
    fs::read_to_string(log_of(dir, life)).unwrap_or_default()
}

/// How often each process has begun to own the group: so often it may begin again at the checkpoint.
fn beginnings(logs: &[String], group: &str) -> BTreeMap<u32, u64> {
    let of = format!("group=\"{group}\"");
    let is_one = |line: &&str| line.contains(": took the lease") && line.contains(&of);
    (1..).zip(logs).map(|(life, log)| (life, log.lines().filter(is_one).count() as u64)).collect()
}

fn by_kind(outages: &[Outage], records: &[Record], logs: &[String]) -> BTreeMap<Kind, OfKind> {
    let mut kinds: BTreeMap<Kind, OfKind> = BTreeMap::new();
    for (index, outage) in outages.iter().enumerate() {
        let of = kinds.entry(outage.kind).or_default();
        of.times += 1;
        let from = records.partition_point(|record| record.micros < outage.over);
        for rules in &GROUPS {
            let is_first = |record: &&Record| record.group == rules.group && record.mark == Mark::Begun;
            let first = records[from..].iter().find(is_first);
            of.recoveries.extend(first.map(|record| Duration::from_micros(record.micros.saturating_sub(outage.over))));
        }
        for (life, log) in logs.iter().enumerate() {
            let end = outages.get(index + 1).map_or(log.len(), |next| next.logs[life]);
            let lines = log.get(outage.logs[life]..end).unwrap_or_default().lines();
            of.lines = of.lines.max(lines.filter(|line| is_about_the_server(line)).count());
        }
    }
    kinds.values_mut().for_each(|of| of.recoveries.sort());
    kinds
}

/// Not what handlers do, and nothing below INFO.
fn is_about_the_server(line: &str) -> bool {
    let level = line.split_whitespace().nth(1);
    matches!(level, Some("INFO" | "WARN" | "ERROR"))
        && !line.contains(": attempt failed")
        && !line.contains(": dead letter")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Published { events, doubles, backpressure, indefinite, unavailable } = &self.published;
        writeln!(f, "seed {}: {:.1} s", self.plan.seed, self.took.as_secs_f64())?;
        writeln!(f, "events handled by each group      {:>8}", self.events)?;
        writeln!(f, "dead letters                      {:>8}", self.dead_letters)?;
        writeln!(f, "events published                  {events:>8}")?;
        writeln!(f, "added again by a retry            {doubles:>8}")?;
        writeln!(
            f,
            "errors that publishers saw        {:>8} backpressure {backpressure}, no answer {indefinite}, not sent \
             {unavailable}",
            backpressure + indefinite + unavailable
        )?;
        writeln!(
            f,
            "{:<24}{:>7}{:>14}{:>8}{:>8}{:>12}",
            "the server was", "times", "back, ms: p50", "p99", "max", "log lines"
        )?;
        for (kind, name) in KINDS {
            let Some(of) = self.kinds.get(&kind) else { continue };
            let [p50, p99, max] = percentiles(&of.recoveries);
            writeln!(f, "{name:<24}{:>7}{p50:>14}{p99:>8}{max:>8}{:>12}", of.times, of.lines)?;
        }
        let mut all: Vec<_> = self.kinds.values().flat_map(|of| of.recoveries.iter().copied()).collect();
        all.sort();
        let [p50, p99, max] = percentiles(&all);
        let times: usize = self.kinds.values().map(|of| of.times).sum();
        let lines = self.kinds.values().map(|of| of.lines).max().unwrap_or_default();
        writeln!(f, "{:<24}{times:>7}{p50:>14}{p99:>8}{max:>8}{lines:>12}", "all")?;
        writeln!(f, "{:<24}{:>7}{:>14}{:>8}", "group", "starts", "repeats, max", "bound")?;
        for ((group, found), rules) in self.groups.iter().zip(&GROUPS) {
            let max = found.repeats.iter().max().copied().unwrap_or(0);
            writeln!(f, "{group:<24}{:>7}{max:>14}{:>8}", found.repeats.len(), rules.batch)?;
        }
        match self.violations.as_slice() {
            [] => write!(f, "lost 0, out of order 0, nothing repeated beyond its bound"),
            violations => {
                write!(f, "VIOLATIONS:")?;
                violations.iter().take(50).try_for_each(|violation| write!(f, "\n  {violation}"))
            }
        }
    }
}

/// The 50th, the 99th and the 100th of a hundred, in milliseconds.
fn percentiles(sorted: &[Duration]) -> [u128; 3] {
    let last = sorted.len().saturating_sub(1);
    let at = |part: usize| sorted.get((sorted.len() * part / 100).min(last)).copied().unwrap_or_default();
    [50, 99, 100].map(|part| at(part).as_millis())
}
