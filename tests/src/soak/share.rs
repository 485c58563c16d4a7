//! Many processes share the partitions of a stream while they are killed, made to stand still, stopped and started
//! again. [`history`](super::history) judges their journal.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use streams_core::keys::StreamKey;
use streams_runtime::stream_event;

use super::Dice;
use super::fleet::{Fleet, Plan, Report};
use super::history::{Group, Rules};
use super::journal::Mark;

/// How many partitions the stream has.
const PARTITIONS: u32 = 16;
/// The lease of the workers: long enough for a machine that is busy, short enough for many takeovers in a minute.
pub const LEASE: Duration = Duration::from_secs(1);
/// After how many events the groups commit.
pub const CHECKPOINT: u32 = 100;
/// How many handlers the group `waits` runs at once on a partition.
pub const LANES: usize = 4;
/// How many entries that group takes up there at most, from the oldest that is not settled on.
pub const LANE_ENTRIES: usize = 100;
/// How long nothing happens after some of the harm: until every takeover and every move is over.
const CALM: Duration = Duration::from_millis(5500);

/// The event that the workers handle.
#[stream_event(stream = "share", partitions = 16, key = key)]
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// The events of one stay in order.
    pub key: u64,
    /// Which one of its key, from 1.
    pub n: u64,
}

/// The groups of the workers, with their rules.
pub fn groups() -> Vec<Group> {
    let bound = CHECKPOINT.into();
    let in_order = ["quick", "stumbles"].map(|name| Group { name, lanes: 1, bound });
    let waits = Group { name: "waits", lanes: LANES, bound: bound + LANE_ENTRIES as u64 };
    in_order.into_iter().chain([waits]).collect()
}

/// Whether the group `stumbles` fails at an event once, and then succeeds.
pub fn stumbles(fill: &Fill) -> bool {
    (fill.key + fill.n).is_multiple_of(61)
}

/// Runs it.
///
/// # Panics
/// When the server or a worker cannot be used at all.
pub fn share(plan: &Plan) -> Report {
    let mut fleet = Fleet::new(plan);
    for _ in 0..plan.processes {
        fleet.start("share", 1);
    }
    let stop = AtomicBool::new(false);
    let load = fleet.load();
    let harm = thread::scope(|scope| {
        scope.spawn(|| {
            load.run(&stop, async |publisher, key, n| {
                let fill = Fill { key, n };
                (publisher.publish(&fill).id(format!("{key}-{n}")).await, 1)
            });
        });
        let harm = harm(&mut fleet, "share", plan);
        stop.store(true, Ordering::Relaxed);
        harm
    });
    let about = format!("{} groups, {PARTITIONS} partitions\n{harm}", groups().len());
    let stream = StreamKey::new(None, "share", PARTITIONS);
    fleet.judge("share", &about, &stream, &Rules { lease: LEASE, groups: groups(), timed: plan.timed })
}

/// Does harm to the processes of a role until the time is over.
pub(super) fn harm(fleet: &mut Fleet, role: &str, plan: &Plan) -> Harm {
    let (began, mut dice, mut harm) = (Instant::now(), Dice(plan.seed), Harm::default());
    // Some of it hits while all is calm, so that each effect has one cause.
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
            fleet.start(role, 1);
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

/// The harm done to the processes.
#[derive(Debug, Default)]
pub(super) struct Harm {
    kills: usize,
    blinks: usize,
    silences: usize,
    stops: usize,
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, blinks, silences, stops } = self;
        write!(f, "killed {kills}, stood still for less than a lease {blinks}, for more {silences}, stopped {stops}")
    }
}
