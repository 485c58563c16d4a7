//! Two builds of one service take each other's place again and again, as rolling deploys do. The new one knows one more
//! version and one more event, and the producers write both as soon as a process of it is ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use streams_core::keys::StreamKey;
use streams_runtime::stream_event;

use super::Dice;
use super::fleet::{Fleet, Plan, Report};
use super::history::{Group, Rules};
use super::journal::Mark;

/// How many partitions the stream has.
const PARTITIONS: u32 = 8;
/// The lease of the workers.
pub const LEASE: Duration = Duration::from_secs(1);
/// How long a deploy waits at most between two of its steps.
const STEP: Duration = Duration::from_millis(600);
/// The first build, and the one that knows more.
const BUILDS: [(u64, &str); 2] = [(1, "roll-old"), (2, "roll-new")];

// Without locks: one for both builds would rightly refuse to compile the old one.

/// An order, as the old build knows it.
#[stream_event(stream = "roll", name = "Order", partitions = 8, key = key, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct OrderV1 {
    /// The events of one stay in order.
    pub key: u64,
    /// Which one of its key, from 1.
    pub n: u64,
}

/// An order, as the new build knows it.
#[stream_event(stream = "roll", version = 2, upcast_from = OrderV1, partitions = 8, key = key, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The events of one stay in order.
    pub key: u64,
    /// Which one of its key, from 1.
    pub n: u64,
    /// A field that the old build does not know.
    pub note: String,
}

impl From<OrderV1> for Order {
    fn from(OrderV1 { key, n }: OrderV1) -> Self {
        Self { key, n, note: String::new() }
    }
}

/// An event that only the new build knows.
#[stream_event(stream = "roll", partitions = 8, key = key, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Shipped {
    /// The events of one stay in order, also with its orders.
    pub key: u64,
    /// Which one of its key, from 1.
    pub n: u64,
}

/// Runs it.
///
/// # Panics
/// When the server or a worker cannot be used at all.
pub fn roll(plan: &Plan) -> Report {
    let mut fleet = Fleet::new(plan);
    let [old, new] = BUILDS;
    for _ in 0..plan.processes {
        fleet.start(old.1, old.0);
    }
    let (stop, is_new) = (AtomicBool::new(false), AtomicBool::new(false));
    let load = fleet.load();
    let rolls = thread::scope(|scope| {
        scope.spawn(|| {
            load.run(&stop, async |publisher, key, n| {
                let id = format!("{key}-{n}");
                // As soon as one process of the new build is ready, and until the last one has ended.
                match n % 3 {
                    0 if is_new.load(Ordering::Relaxed) => {
                        let order = Order { key, n, note: "new".to_owned() };
                        (publisher.publish(&order).id(id).await, 2)
                    }
                    1 if is_new.load(Ordering::Relaxed) => (publisher.publish(&Shipped { key, n }).id(id).await, 2),
                    _ => (publisher.publish(&OrderV1 { key, n }).id(id).await, 1),
                }
            });
        });
        let (began, mut dice, mut rolls) = (Instant::now(), Dice(plan.seed), 0);
        dice.pause(STEP * 4);
        // The run ends with the new build, because events that only it knows would wait for ever otherwise.
        while began.elapsed() < plan.time || rolls % 2 == 0 {
            let (build, role) = if rolls % 2 == 0 { new } else { old };
            for before in fleet.lives() {
                let life = fleet.start(role, build);
                fleet.wait_for(life, Mark::Ready);
                is_new.store(true, Ordering::Relaxed);
                dice.pause(STEP);
                fleet.terminate(before);
                dice.pause(STEP);
            }
            is_new.store(build == new.0, Ordering::Relaxed);
            rolls += 1;
        }
        stop.store(true, Ordering::Relaxed);
        rolls
    });
    let groups = vec![Group { name: "orders", lanes: 1, bound: 0 }];
    let about = format!("{PARTITIONS} partitions, rolled {rolls} times");
    let stream = StreamKey::new(None, "roll", PARTITIONS);
    // Times are reported, not judged. When the last process leaves that handles an event, the others look twice before they
    // take over, which takes half a second at this lease.
    fleet.judge("roll", &about, &stream, &Rules { lease: LEASE, groups, timed: false })
}
