//! Promises of an app that drives no group: what it still does, and how it stops.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::Broker;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{App, Config, Error, Running, Stopped, consumer, consumers, stream_event};
use streams_tests::{Fault, Faulty, Gate, Op, RedisServer};

#[stream_event(stream = "ticks")]
#[derive(Debug, Clone, PartialEq)]
struct Tick {
    n: u64,
}

#[consumer(group = "clock")]
async fn tick(_: Tick) {}

async fn start(broker: Arc<dyn Broker>, config: Config) -> Running {
    App::with(consumers![tick]).publish_only().broker(broker).config(config).start().await.unwrap()
}

#[tokio::test]
async fn an_app_that_only_publishes_drives_no_group_and_is_an_app_in_all_else() {
    let app = start(Arc::new(Embedded::new()), Config::new()).await;
    app.publisher().publish(&Tick { n: 1 }).await.unwrap();
    app.settled().await.unwrap();
    assert!(app.status().groups.is_empty() && app.consumers().is_empty());
    let health = app.monitor().health();
    assert!(health.live && health.ready, "{health}");
    let metrics = app.monitor().metrics();
    assert!(metrics.contains(r#"streams_published_total{stream="ticks",partition="0"} 1"#), "{metrics}");
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[test]
fn an_app_that_only_publishes_cannot_be_told_to_drive_a_group() {
    let refused = |app: App| match app.check() {
        Err(Error::Refused(problems)) => problems.join("\n"),
        other => panic!("not refused: {other:?}"),
    };
    let both = refused(App::with(consumers![tick]).publish_only().only_groups(["clock"]));
    assert!(both.contains("leave out `.publish_only()`"), "{both}");
    let nothing = refused(App::with([]));
    assert!(nothing.contains("says `App::linked().publish_only()`"), "{nothing}");
    App::with([]).publish_only().check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_is_being_written_until_its_deadline() {
    for (opens, expected) in [(true, Stopped::Clean), (false, Stopped::Unwritten)] {
        let (wire, gate) = (Faulty::over(Arc::new(Embedded::new())), Gate::default());
        let app = start(Arc::new(wire.clone()), Config::new().shutdown_deadline(Duration::from_secs(3))).await;
        wire.once(Op::Append, Fault::Hold(gate.clone()));
        // In a namespace, too: what is made from the app's publisher writes elsewhere.
        let publisher = app.publisher().with_namespace("eu").unwrap();
        let published = tokio::spawn(async move { publisher.publish(&Tick { n: 1 }).await });
        gate.arrived(1).await;
        let stopping = tokio::spawn(app.shutdown());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!stopping.is_finished(), "it does not wait");
        if opens {
            gate.open();
        }
        assert_eq!(stopping.await.unwrap(), expected);
        assert_eq!(published.is_finished(), opens);
    }
}

#[tokio::test]
async fn probes_follow_a_server_that_goes_and_comes_while_nobody_publishes() {
    let mut server = RedisServer::start();
    let app = start(Arc::new(Redis::open(&server.url()).unwrap()), Config::new()).await;
    let monitor = app.monitor().clone();
    let ready = async |expected: bool| {
        let turns = async {
            while monitor.health().ready != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), turns).await.unwrap_or_else(|_| panic!("never {expected}"));
    };
    ready(true).await;
    server.kill();
    ready(false).await;
    assert!(monitor.health().live);
    server.start_again();
    ready(true).await;
    assert_eq!(app.shutdown().await, Stopped::Clean);
}
