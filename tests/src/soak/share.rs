//! Many processes share the partitions of a stream while they are killed, made to stand still, stopped and started
//! again: [`history`](super::history) judges what they wrote.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use streams_core::keys::StreamKey;
use streams_runtime::stream_event;

use super::fleet::{Fleet, Usage, load};
use super::history::{Findings, Group, Rules, judge, percentile};
use super::journal::Mark;
use super::{Dice, keep};

/// How many partitions the stream has.
const PARTITIONS: u32 = 16;
/// The lease of the workers: long enough for a machine that is busy, short enough for many take-overs in a minute.
pub const LEASE: Duration = Duration::from_secs(1);
/// After how many events the groups commit.
pub const CHECKPOINT: u32 = 100;
/// How long nothing happens after some of the harm: until every take-over and every move is over.
const CALM: Duration = Duration::from_millis(5500);

/// What the workers handle.
#[stream_event(stream = "share", partitions = 16, key = key)]
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// The events of one stay in order.
    pub key: u64,
    /// Which one of its key, from 1.
    pub n: u64,
}

/// The groups of the workers, and what holds for them.
pub fn groups() -> Vec<Group> {
    let bound = CHECKPOINT.into();
    ["quick", "waits", "stumbles"].map(|name| Group { name, lanes: 1, bound }).into()
}

/// Whether the group `stumbles` fails at an event once, and then succeeds.
pub fn stumbles(fill: &Fill) -> bool {
    (fill.key + fill.n).is_multiple_of(61)
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For how long.
    pub time: Duration,
    /// Decides what, when and to whom.
    pub seed: u64,
    /// How many processes.
    pub processes: usize,
    /// How many events are published in a second.
    pub load: u64,
    /// Whether times are judged, too.
    pub timed: bool,
    /// The program that is the worker when its first argument is `share`.
    pub worker: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    took: Duration,
    usage: Usage,
    harm: Harm,
    found: Findings,
    /// What must not be, in words; empty when all is well.
    pub violations: Vec<String>,
}

#[derive(Debug, Default)]
struct Harm {
    kills: usize,
    blinks: usize,
    silences: usize,
    stops: usize,
}

/// Runs it.
///
/// # Panics
/// When the server or a worker cannot be used at all.
pub fn share(plan: &Plan) -> Report {
    let began = Instant::now();
    let mut fleet = Fleet::new(&plan.worker);
    for _ in 0..plan.processes {
        fleet.start("share", 1);
    }
    let (url, journal, stop) = (fleet.server.url(), fleet.server.dir().join("journal"), AtomicBool::new(false));
    let harm = thread::scope(|scope| {
        scope.spawn(|| {
            load(&url, &journal, plan.load, plan.seed, &stop, async |publisher, key, n| {
                let fill = Fill { key, n };
                (publisher.send(&fill).event_id(format!("{key}-{n}")).await, 1)
            });
        });
        let harm = harm(&mut fleet, plan);
        stop.store(true, Ordering::Relaxed);
        harm
    });
    let stream = StreamKey::new(None, "share", PARTITIONS);
    fleet.drain(&stream, &groups());
    let usage = fleet.usage();
    fleet.lives().into_iter().for_each(|life| fleet.terminate(life));
    let rules = Rules { lease: LEASE, groups: groups(), timed: plan.timed };
    let mut found = judge(fleet.journal.records(), &rules);
    let mut violations = std::mem::take(&mut fleet.violations);
    violations.append(&mut found.violations);
    keep(fleet.server.dir(), "share", plan.seed, &mut violations);
    Report { plan: plan.clone(), took: began.elapsed(), usage, harm, found, violations }
}

/// Does harm to the processes until the time is over.
fn harm(fleet: &mut Fleet, plan: &Plan) -> Harm {
    let (began, mut dice, mut harm) = (Instant::now(), Dice(plan.seed), Harm::default());
    // Some of it hits while all is calm, so that what came of it can be told.
    let pause = |dice: &mut Dice| match dice.below(3) {
        0 => sleep(CALM.min(plan.time.saturating_sub(began.elapsed()))),
        _ => dice.pause(LEASE * 2),
    };
    pause(&mut dice);
    while began.elapsed() < plan.time {
        let life = victim(fleet, &mut dice);
        match dice.below(10) {
            0..4 => {
                harm.kills += 1;
                fleet.kill(life);
                // Now and then another one soon, which may be about to take over.
                if dice.below(3) == 0 {
                    dice.pause(LEASE);
                    harm.kills += 1;
                    let another = victim(fleet, &mut dice);
                    fleet.kill(another);
                }
            }
            4 => {
                harm.blinks += 1;
                fleet.silence(life);
                dice.pause(LEASE / 4);
                fleet.resume(life);
            }
            5..7 => {
                harm.silences += 1;
                fleet.silence(life);
                sleep(LEASE + LEASE / 2);
                pause(&mut dice);
                fleet.resume(life);
            }
            _ => {
                harm.stops += 1;
                fleet.terminate(life);
            }
        }
        pause(&mut dice);
        while fleet.lives().len() < plan.processes {
            fleet.start("share", 1);
            pause(&mut dice);
        }
    }
    harm
}

/// Anyone, or whoever was the last to handle something: where one process has much, it would seldom be hit.
fn victim(fleet: &mut Fleet, dice: &mut Dice) -> u32 {
    let lives = fleet.lives();
    let last = fleet.journal.records().iter().rev().find(|record| record.mark == Mark::Begun).map(|record| record.life);
    last.filter(|last| lives.contains(last) && dice.below(2) == 0).unwrap_or_else(|| lives[dice.index(lives.len())])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { processes, seed, load, .. } = &self.plan;
        let Self { found, usage, harm, .. } = self;
        writeln!(
            f,
            "seed {seed}: {processes} processes, {} groups, {PARTITIONS} partitions, {load} events/s, {:.1} s, lease {} ms",
            groups().len(),
            self.took.as_secs_f64(),
            LEASE.as_millis()
        )?;
        writeln!(
            f,
            "killed {}, stood still for less than a lease {}, for more {}, stopped {}",
            harm.kills, harm.blinks, harm.silences, harm.stops
        )?;
        write_findings(f, found, *usage)?;
        write_verdict(f, &self.violations)
    }
}

/// The figures that all runs with many processes have.
pub(super) fn write_findings(f: &mut fmt::Formatter<'_>, found: &Findings, usage: Usage) -> fmt::Result {
    writeln!(f, "events published         {:>8}", found.events)?;
    writeln!(f, "calls of handlers        {:>8}", found.calls)?;
    writeln!(f, "calls by a late owner    {:>8}", found.late_calls)?;
    writeln!(f, "{:<24}{:>9}{:>9}", "an owner's end", "times", "repeats")?;
    for (end, (times, repeats)) in &found.ends {
        writeln!(f, "  {:<22}{times:>9}{repeats:>9}", format!("{end:?}"))?;
    }
    writeln!(f, "most repeats after one   {:>8}", found.most_repeats)?;
    writeln!(f, "{:<24}{:>9}{:>9}{:>9}{:>9}", "times, ms", "number", "p50", "p99", "max")?;
    for (name, times) in [("take-over", &found.takeovers), ("hand-over", &found.handovers)] {
        let [p50, p99, max] = [50, 99, 100].map(|part| percentile(times, part).as_millis());
        writeln!(f, "  {name:<22}{:>9}{p50:>9}{p99:>9}{max:>9}", times.len())?;
    }
    writeln!(f, "take-overs disturbed     {:>8}", found.disturbed)?;
    let moves: usize = found.moves.iter().sum();
    let mean = moves as f64 / found.moves.len().max(1) as f64;
    writeln!(f, "changes that settled     {:>8}, {mean:.1} moves each", found.moves.len())?;
    if let Some((least, most, processes)) = found.shares.iter().max_by_key(|(least, most, _)| most - least) {
        writeln!(f, "partitions of a process  {least:>8} to {most} of a group, with {processes} processes, at worst")?;
    }
    let Usage { cores, server_cores, memory, server_memory } = usage;
    writeln!(f, "cores busy               {cores:>8.2} workers, {server_cores:.2} server")?;
    writeln!(f, "memory at most, MiB      {memory:>8.1} a worker, {server_memory:.1} server")
}

/// What is wrong, or that nothing is.
pub(super) fn write_verdict(f: &mut fmt::Formatter<'_>, violations: &[String]) -> fmt::Result {
    match violations {
        [] => write!(f, "nothing lost, nothing out of order, every repeat explained"),
        violations => {
            write!(f, "{} VIOLATIONS:", violations.len())?;
            violations.iter().take(50).try_for_each(|violation| write!(f, "\n  {violation}"))
        }
    }
}
