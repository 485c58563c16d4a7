//! Keys of a group are deleted, one at a time, while the group runs and between two runs. No event is lost in silence, and the
//! group goes on or says what is wrong.
//!
//! A [`Site`] replaces `World` here, because commands delete the keys on a real server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streams_core::keys::StreamKey;
use streams_runtime::broker::Redis;
use streams_runtime::{
    App, BoxError, Config, Context, DeadLetterFilter, DeadLetters, Outcome, Registration, Running, State, Stopped,
    consumer, consumers, stream_event,
};
use streams_tests::{Act, Gate, Lab, Log, RedisServer, logged};

#[stream_event(stream = "parcels")]
#[derive(Debug, Clone, PartialEq)]
struct Parcel {
    n: u64,
}

#[consumer(group = "carrier", max_attempts = 1)]
async fn carry(parcel: Parcel, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, parcel.n).await
}

#[consumer(group = "crew", delivery = "queue", max_attempts = 2, backoff = "1h..1h")]
async fn share(parcel: Parcel, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, parcel.n).await
}

/// How long anything may take on a machine that is busy with a build.
const PATIENCE: Duration = Duration::from_secs(60);
const LOSS: &str = "data loss";

/// A command that takes a key away, and the line that must be logged then; without one all events must be handled.
type Case = (&'static str, Option<&'static str>);

/// A group with a letter, another one that waits to be handled again, and an event in flight.
struct Site {
    server: RedisServer,
    group: &'static str,
    lab: Lab,
    /// Holds event 4 up; event 9 fails at first.
    gate: Gate,
    log: Log,
}

impl Site {
    fn new(group: &'static str) -> Self {
        let (server, lab, gate) = (RedisServer::start(), Lab::default(), Gate::default());
        lab.script(group, 2, [Act::Permanent]);
        lab.script(group, 3, [Act::Permanent]);
        lab.script(group, 4, [Act::Wait(gate.clone())]);
        lab.script(group, 9, [Act::Fail]);
        Self { server, group, lab, gate, log: logged() }
    }

    fn broker(&self) -> Arc<Redis> {
        Arc::new(Redis::open(&self.server.url()).unwrap())
    }

    async fn start(&self) -> Running {
        let consumers: Vec<Registration> = consumers![carry, share].into_iter().collect();
        let consumers = consumers.into_iter().filter(|consumer| consumer.info.group == self.group);
        let app = App::with(consumers).state(self.lab.clone()).broker(self.broker());
        app.config(Config::new().lease(Duration::from_millis(1500))).start().await.unwrap()
    }

    async fn publish(app: &Running, numbers: std::ops::RangeInclusive<u64>) {
        for receipt in app.publisher().publish_all(numbers.map(|n| Parcel { n })).await {
            receipt.unwrap();
        }
    }

    /// Sends the letter of event 3 to be handled again.
    async fn replay(&self) {
        self.lab.script(self.group, 3, []);
        let letters = DeadLetters::on_stream(self.broker(), &StreamKey::new(None, "parcels", 1), self.group).unwrap();
        let newest = letters.list(None, 10).await.unwrap().pop().unwrap();
        assert_eq!(letters.replay(&[newest.id()]).await.unwrap().moved, 1);
        assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 1, "the other one stays");
    }

    fn is_done(&self) -> bool {
        let ended = self.lab.ended(self.group);
        let again = ended.iter().filter(|n| **n == 3).count() == 2;
        again && (4..=8).all(|n| ended.contains(&n))
    }

    /// Waits until everything is handled, or the expected line is logged.
    async fn comes_out(&self, app: &Running, (command, says): Case) {
        let began = Instant::now();
        let is_over = || says.map_or_else(|| self.is_done(), |says| self.log.text().contains(says));
        while !is_over() {
            let (calls, status) = (self.lab.calls(self.group), app.status());
            assert!(began.elapsed() < PATIENCE, "{command}: {calls:?}\n{status:?}\n{}", self.log.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if says.is_none() {
            assert!(!self.log.text().contains("ERROR"), "{command}\n{}", self.log.text());
        }
    }
}

async fn nothing_is_lost_in_silence(group: &'static str, cases: &[Case], while_it_runs: bool) {
    for case in cases {
        println!("{}", case.0);
        let site = Site::new(group);
        let app = site.start().await;
        Site::publish(&app, 1..=3).await;
        app.settled().await.unwrap();
        if group == "crew" {
            // One that waits for its next attempt.
            Site::publish(&app, 9..=9).await;
            while site.server.run::<u64>("ZCARD streams:{parcels}:crew:waiting") == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let running = if while_it_runs {
            Site::publish(&app, 4..=4).await;
            while !site.lab.events(group).contains(&4) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Some(app)
        } else {
            assert_eq!(app.shutdown().await, Stopped::Clean);
            None
        };
        site.replay().await;
        site.server.run::<redis::Value>(case.0);
        site.gate.open();
        let app = match running {
            Some(app) => app,
            None => {
                let app = site.start().await;
                Site::publish(&app, 4..=4).await;
                app
            }
        };
        Site::publish(&app, 5..=8).await;
        site.comes_out(&app, *case).await;
        let _ = app.shutdown().await;
    }
}

const REPLAYS: &str = "dead letters to replay are gone";

#[tokio::test]
async fn an_ordered_group_whose_keys_go_while_it_runs_loses_nothing_in_silence() {
    let cases: [Case; 9] = [
        ("DEL parcels", Some(LOSS)),
        ("DEL streams:{parcels}:carrier", Some(LOSS)),
        ("XGROUP DESTROY parcels carrier", Some(LOSS)),
        ("DEL streams:{parcels}:carrier:replay", Some(REPLAYS)),
        ("DEL streams:{parcels}:carrier:dead", None),
        ("DEL streams:{parcels}:carrier:members", None),
        ("DEL streams:{parcels}:_bell", None),
        ("DEL streams:{parcels}:_stream", None),
        ("DEL streams:{parcels}:_builds", None),
    ];
    nothing_is_lost_in_silence("carrier", &cases, true).await;
}

#[tokio::test]
async fn an_ordered_group_whose_keys_go_between_two_runs_loses_nothing_in_silence() {
    let cases: [Case; 9] = [
        ("DEL parcels", Some(LOSS)),
        ("DEL streams:{parcels}:carrier", Some("exists in Redis but has no checkpoint")),
        ("XGROUP DESTROY parcels carrier", Some(LOSS)),
        ("DEL streams:{parcels}:carrier:replay", Some(REPLAYS)),
        ("DEL streams:{parcels}:carrier:dead", None),
        ("DEL streams:{parcels}:carrier:members", None),
        ("DEL streams:{parcels}:_bell", None),
        ("DEL streams:{parcels}:_stream", None),
        ("DEL streams:{parcels}:_builds", None),
    ];
    nothing_is_lost_in_silence("carrier", &cases, false).await;
}

#[tokio::test]
async fn a_work_queue_whose_keys_go_while_it_runs_loses_nothing_in_silence() {
    let cases: [Case; 9] = [
        ("DEL streams:{parcels}:crew:waiting", Some(LOSS)),
        ("DEL parcels", Some(LOSS)),
        ("DEL streams:{parcels}:crew", Some(LOSS)),
        ("XGROUP DESTROY parcels crew", Some(LOSS)),
        ("DEL streams:{parcels}:crew:replay", Some(REPLAYS)),
        ("DEL streams:{parcels}:crew:dead", None),
        ("DEL streams:{parcels}:_bell", None),
        ("DEL streams:{parcels}:_stream", None),
        ("DEL streams:{parcels}:_builds", None),
    ];
    nothing_is_lost_in_silence("crew", &cases, true).await;
}

#[tokio::test]
async fn a_work_queue_whose_keys_go_between_two_runs_loses_nothing_in_silence() {
    let cases: [Case; 6] = [
        ("DEL streams:{parcels}:crew:waiting", Some(LOSS)),
        ("DEL parcels", Some(LOSS)),
        ("DEL streams:{parcels}:crew", Some("exists in Redis but has no checkpoint")),
        ("XGROUP DESTROY parcels crew", Some(LOSS)),
        ("DEL streams:{parcels}:crew:replay", Some(REPLAYS)),
        ("DEL streams:{parcels}:_bell", None),
    ];
    nothing_is_lost_in_silence("crew", &cases, false).await;
}
