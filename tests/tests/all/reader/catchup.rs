//! Groups of one process that are behind at the same place share what they read, on the embedded broker and a real server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::GroupState;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{App, Config, Context, Publisher, Start, State, Stopped, consumer, consumers, stream_event};
use streams_tests::{Fault, Faulty, Gate, Op, Process, RedisServer, World};
use tokio::sync::Notify;
use tokio::time::timeout;

#[stream_event(stream = "backlog")]
struct Step {
    n: u64,
}

/// The calls of each group, and the gates at which some wait.
#[derive(Clone, Default)]
struct Seen {
    groups: Arc<Mutex<BTreeMap<String, Vec<u64>>>>,
    /// A group waits here before it handles this event; all groups where none is named.
    gate: Gate,
    held: Option<(Option<&'static str>, u64)>,
    changed: Arc<Notify>,
}

impl Seen {
    async fn handle(&self, group: &str, n: u64) {
        if let Some((only, held)) = self.held
            && held == n
            && only.is_none_or(|only| only == group)
        {
            self.gate.pass().await;
        }
        self.groups.lock().unwrap().entry(group.to_owned()).or_default().push(n);
        self.changed.notify_waiters();
    }

    /// Waits until so many groups have had event `last`.
    async fn reached(&self, groups: usize, last: u64) {
        let enough = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let there = self.groups.lock().unwrap().values().filter(|seen| seen.last() == Some(&last)).count();
                if there >= groups {
                    return;
                }
                changed.await;
            }
        };
        assert!(timeout(Duration::from_secs(600), enough).await.is_ok(), "{} groups have begun", self.begun());
    }

    fn begun(&self) -> usize {
        self.groups.lock().unwrap().len()
    }

    /// Every group had every event once, in order.
    fn assert_all(&self, groups: usize, events: u64) {
        let seen = self.groups.lock().unwrap();
        assert_eq!(seen.len(), groups);
        for (group, seen) in &*seen {
            assert!(seen.iter().copied().eq(0..events), "{group}: {} of {events} events, or not in order", seen.len());
        }
    }
}

macro_rules! groups {
    ($($name:ident $group:literal)*) => {
        $(
            #[consumer(group = $group)]
            async fn $name(step: Step, ctx: Context, seen: State<Seen>) {
                seen.handle(ctx.group(), step.n).await;
            }
        )*

        fn hundred() -> Vec<streams_runtime::Registration> {
            consumers![$($name),*].into()
        }
    };
}

streams_tests::hundred_groups!(groups);

/// A world with a backlog.
async fn backlog(events: u64) -> World {
    let world = World::new("backlog");
    world.publish((0..events).map(|n| Step { n })).await;
    world
}

/// A process with so many groups.
async fn start(world: &World, groups: usize, seen: &Seen, config: Config) -> Process {
    world.process(hundred().into_iter().take(groups)).state(seen.clone()).config(config).start().await
}

/// The entries that each group asks for with its first look, which is its own.
const LOOK: u64 = 17;

async fn a_hundred_read_once(broker: Faulty, events: u64) {
    let publisher = Publisher::new(Arc::new(broker.clone()));
    let published = publisher.publish_all((0..events).map(|n| Step { n })).await;
    assert!(published.iter().all(Result::is_ok));
    // They begin together: nobody goes on before all are there.
    let seen = Seen { held: Some((None, 0)), ..Seen::default() };
    let app = App::with(hundred()).state(seen.clone()).broker(Arc::new(broker.clone())).start().await.unwrap();
    seen.gate.arrived(100).await;
    seen.gate.open();
    seen.reached(100, events - 1).await;
    seen.assert_all(100, events);
    // Each entry once, and the first of each read a second time, to show that nothing was trimmed: one of 16 at worst. A
    // look every ten seconds, of what is at the tip, may come on top.
    let (read, most) = (broker.entries_read() as u64, events + events / 16 + 2 * 100 * LOOK);
    assert!(read <= most, "{read} entries were read of {events}; expected at most {most}");
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_groups_that_begin_together_read_a_backlog_once_on_the_embedded_broker() {
    a_hundred_read_once(Faulty::over(Arc::new(Embedded::new())), 5_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_groups_that_begin_together_read_a_backlog_once_on_a_server() {
    let server = RedisServer::start();
    a_hundred_read_once(Faulty::over(Arc::new(Redis::open(&server.url()).unwrap())), 5_000).await;
    let stats: String = server.run("INFO commandstats");
    let calls =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_xrange:calls=")?.split(',').next()?.parse().ok());
    // Looks and reads count alike: a hundred and some looks, each at few entries and then at more. At the very worst there is
    // one read per 16 entries.
    let calls: u64 = calls.unwrap();
    assert!(calls < 2 * 100 * 4 + 5_000 / 16, "{calls} calls of XRANGE");
}

#[tokio::test(start_paused = true)]
async fn a_slow_group_holds_nobody_up_and_goes_on_where_what_was_kept_has_gone() {
    let world = backlog(10_000).await;
    let seen = Seen { held: Some((Some("g03"), 100)), ..Seen::default() };
    let mut config = Config::new();
    // A twentieth of the backlog.
    config.window_bytes = 200_000;
    let app = start(&world, 10, &seen, config).await;
    seen.reached(9, 9_999).await;
    let alone = world.wire.entries_read();
    seen.gate.open();
    seen.reached(10, 9_999).await;
    seen.assert_all(10, 10_000);
    assert!(
        world.wire.entries_read() - alone > 8_000,
        "it should have read on alone: what the others read was not kept for it"
    );
    assert!(world.wire.entries_read() < 25_000, "{} entries were read for two places", world.wire.entries_read());
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_fails_for_everybody_and_everybody_goes_on() {
    let world = backlog(3_000).await;
    let seen = Seen { held: Some((None, 500)), ..Seen::default() };
    let app = start(&world, 5, &seen, Config::new()).await;
    seen.gate.arrived(5).await;
    world.wire.once(Op::Read, Fault::LoseReply);
    seen.gate.open();
    seen.reached(5, 2_999).await;
    // All handled events were committed before the groups began again, so nothing comes twice.
    seen.assert_all(5, 3_000);
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_taken_away_leaves_the_read_to_the_others() {
    let world = backlog(3_000).await;
    let seen = Seen { held: Some((None, 500)), ..Seen::default() };
    let app = start(&world, 2, &seen, Config::new()).await;
    seen.gate.arrived(2).await;
    let reading = Gate::default();
    world.wire.once(Op::Read, Fault::Hold(reading.clone()));
    seen.gate.open();
    reading.arrived(1).await;
    // Its lease goes to nobody: it begins again from the end, and the read that it began is for the other one.
    app.running().admin().reset("backlog", "g00", Start::Latest).await.unwrap();
    let is_back =
        |state: &GroupState| state.reset > 0 && state.lease.epoch > state.reset && !state.lease.owner.is_empty();
    world.group("g00").until(is_back).await;
    reading.open();
    seen.reached(1, 2_999).await;
    let seen = seen.groups.lock().unwrap();
    assert!(seen["g01"].iter().copied().eq(0..3_000), "{}", seen["g01"].len());
    assert!(seen["g00"].len() < 3_000);
    drop(app);
}
