//! Groups that a program read with XREADGROUP, taken over: redis-py stands for that program.
//!
//! A [`Site`] replaces `World` here, because the other program needs a real server.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Adopted, Broker, Groups};
use streams_core::keys::{GroupKey, StreamKey};
use streams_runtime::broker::{Acl, Redis};
use streams_runtime::{
    App, BoxError, Context, Outcome, Phase, Publisher, Registration, Running, State, Stopped, consumer, consumers,
    stream_event,
};
use streams_tests::{Faulty, Lab, Program, RedisServer, logged, python, until};

#[stream_event(stream = "adopted")]
#[derive(Debug, Clone, PartialEq)]
struct Bill {
    n: u64,
}

#[consumer(group = "billing", adopt = true)]
async fn bill(bill: Bill, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, bill.n).await
}

#[consumer(group = "billing")]
async fn hesitant(bill: Bill, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, bill.n).await
}

#[consumer(group = "billing", delivery = "queue", concurrency = 2, adopt = true)]
async fn bill_in_any_order(bill: Bill, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, bill.n).await
}

/// Reads with XREADGROUP as redis-py does, with the group from the beginning. Each consumer gets so many events, and acks those
/// at these places. Then the program waits for more, if it is told to.
const PROGRAM: &str = r#"
import sys, redis
r = redis.Redis(port=int(sys.argv[1]))
r.xgroup_create("adopted", "billing", id="0", mkstream=True)
reads, acknowledged, stays = eval(sys.argv[2]), eval(sys.argv[3]), sys.argv[4] == "stays"
read = []
for consumer, count in reads:
    for _, entries in r.xreadgroup("billing", consumer, {"adopted": ">"}, count=count):
        read += [entry_id for entry_id, _ in entries]
for place in acknowledged:
    assert r.xack("adopted", "billing", read[place - 1]) == 1
print("read", len(read), flush=True)
while stays:
    r.xreadgroup("billing", reads[0][0], {"adopted": ">"}, count=1, block=200)
"#;

/// A server with a stream that an old program reads.
struct Site {
    server: RedisServer,
    lab: Lab,
}

impl Site {
    async fn with_events(count: u64) -> Self {
        let site = Self { server: RedisServer::start(), lab: Lab::default() };
        let publisher = Publisher::connect(&site.server.url()).await.unwrap();
        for receipt in publisher.publish_all((1..=count).map(|n| Bill { n })).await {
            receipt.unwrap();
        }
        site
    }

    /// The old program; it ends by itself unless it stays.
    fn old_program(&self, reads: &str, acknowledged: &str, stays: bool) -> Program {
        let port = self.server.port().to_string();
        let stays = if stays { "stays" } else { "ends" };
        let mut old = Program::start(Command::new(python()).args(["-c", PROGRAM, &port, reads, acknowledged, stays]));
        if stays == "stays" {
            old.prints("read ");
        } else {
            assert_eq!(old.code(), Some(0), "run `cargo xtask test`, which brings redis-py: {}", old.errors());
        }
        old
    }

    fn key() -> GroupKey {
        StreamKey::new(None, "adopted", 1).partition(0).group("billing")
    }

    /// A broker that does not wait for the old program to be silent for a minute.
    fn impatient(&self, url: &str) -> Faulty {
        let broker = Faulty::over(Arc::new(Redis::open(url).unwrap()));
        broker.be_impatient();
        broker
    }

    async fn app(&self, broker: impl Broker, consumers: impl IntoIterator<Item = Registration>) -> Running {
        App::with(consumers).state(self.lab.clone()).broker(Arc::new(broker)).start().await.unwrap()
    }
}

fn halt(app: &Running) -> Option<String> {
    match &app.status().groups[0].phase {
        Phase::Halted(halt) => Some(halt.to_string()),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_pending_and_what_is_undelivered_is_handled_in_order() {
    let site = Site::with_events(12).await;
    // Eight were read and 3 and 5 are pending, so all from 3 on come again.
    site.old_program("[('a', 4), ('b', 4)]", "[1, 2, 4, 6, 7, 8]", false);
    let log = logged();
    let app = site.app(site.impatient(&site.server.url()), consumers![bill]).await;
    app.settled().await.unwrap();
    assert_eq!(site.lab.events("billing"), (3..=12).collect::<Vec<_>>());
    assert_eq!(log.count("adopted the group"), 1);
    assert!(log.text().contains("pending=2") && log.text().contains("again=\"4\""), "{}", log.text());
    assert_eq!(app.shutdown().await, Stopped::Clean);
    // The old program's list is as it was; and from now on `adopt` does nothing.
    assert_eq!(site.server.run::<Vec<redis::Value>>("XPENDING adopted billing")[0], redis::Value::Int(2));
    let app = site.app(Redis::open(&site.server.url()).unwrap(), consumers![bill]).await;
    app.settled().await.unwrap();
    assert_eq!(site.lab.events("billing").len(), 10);
    assert_eq!(log.count("adopted the group"), 1);
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn a_work_queue_handles_what_is_undelivered_and_what_is_pending_and_leaves_a_way_back() {
    let site = Site::with_events(12).await;
    site.old_program("[('a', 4), ('b', 4)]", "[1, 2, 4, 6, 7, 8]", false);
    let log = logged();
    let broker = site.impatient(&site.server.url());
    let app = site.app(broker.clone(), consumers![bill_in_any_order]).await;
    let handled = || site.lab.events("billing").into_iter().collect::<BTreeSet<_>>();
    until(|| handled().len() == 6).await;
    assert_eq!(handled(), BTreeSet::from([3, 5, 9, 10, 11, 12]));
    assert_eq!(log.count("adopted the group"), 1);
    app.settled().await.unwrap();
    assert_eq!(site.lab.events("billing").len(), 6, "each of them once");
    assert_eq!(app.shutdown().await, Stopped::Clean);
    let pending = site.server.run::<Vec<redis::Value>>("XPENDING adopted billing").swap_remove(0);
    assert_eq!(pending, redis::Value::Int(2), "the other program may go on where it was");
}

#[tokio::test]
async fn a_program_that_acknowledged_all_it_read_leaves_exactly_the_rest() {
    for read in [0, 4, 6] {
        let site = Site::with_events(6).await;
        site.old_program(
            &format!("[('a', {read})]").replace("[('a', 0)]", "[]"),
            &format!("range(1, {read} + 1)"),
            false,
        );
        let app = site.app(site.impatient(&site.server.url()), consumers![bill]).await;
        app.settled().await.unwrap();
        assert_eq!(site.lab.events("billing"), (read + 1..=6).collect::<Vec<u64>>());
        assert_eq!(app.shutdown().await, Stopped::Clean);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_still_runs_is_left_alone_and_named() {
    let site = Site::with_events(3).await;
    let old = site.old_program("[('worker-7', 2)]", "[1]", true);
    let app = site.app(Redis::open(&site.server.url()).unwrap(), consumers![bill]).await;
    until(|| halt(&app).is_some()).await;
    let reason = halt(&app).unwrap();
    assert!(reason.contains("`worker-7`, silent for 0s") && reason.contains("have been silent for 1m"), "{reason}");
    assert!(site.lab.events("billing").is_empty());
    let broker = Redis::open(&site.server.url()).unwrap();
    assert_eq!(broker.state(&Site::key()).await.unwrap(), None);
    drop(old);
    // It goes on by itself, once the group may be taken over.
    assert!(matches!(broker.adopt(&Site::key(), Duration::ZERO).await.unwrap(), Adopted::Done(_)));
    until(|| site.lab.ended("billing").len() == 2).await;
    assert_eq!(site.lab.events("billing"), [2, 3]);
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn without_the_option_it_is_named_as_a_remedy() {
    let site = Site::with_events(1).await;
    site.old_program("[('a', 1)]", "[]", false);
    let app = site.app(site.impatient(&site.server.url()), consumers![hesitant]).await;
    let Err(error) = app.settled().await else { panic!("it is not halted") };
    assert!(error.to_string().contains("say `adopt = true` to go on where it is"), "{error}");
    assert!(site.lab.events("billing").is_empty());
}

#[tokio::test]
async fn entries_that_were_trimmed_before_they_were_acknowledged_are_a_loss() {
    let site = Site::with_events(6).await;
    site.old_program("[('a', 4)]", "[1]", false);
    site.server.run::<()>("XTRIM adopted MAXLEN 3");
    let app = site.app(site.impatient(&site.server.url()), consumers![bill]).await;
    let Err(error) = app.settled().await else { panic!("it is not halted") };
    assert!(error.to_string().contains("the stream was trimmed up to where the group was reading"), "{error}");
    assert!(site.lab.events("billing").is_empty());
}

#[tokio::test]
async fn the_rights_of_a_consumer_are_enough() {
    let site = Site::with_events(4).await;
    site.old_program("[('a', 3)]", "[1]", false);
    let acl = Acl::new().consume::<Bill>(None, "billing").unwrap();
    site.server.run::<()>(&format!("ACL SETUSER billing on >secret {acl}"));
    let url = site.server.url().replace("redis://", "redis://billing:secret@");
    let app = site.app(site.impatient(&url), consumers![bill]).await;
    app.settled().await.unwrap();
    assert_eq!(site.lab.events("billing"), [2, 3, 4]);
    assert!(site.server.run::<Vec<redis::Value>>("ACL LOG").is_empty());
    assert_eq!(app.shutdown().await, Stopped::Clean);
}
