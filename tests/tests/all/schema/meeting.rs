//! Builds of different age warn of two shapes of one event and of a version ahead of a group, and of nothing else.
//!
//! Most tests run on every kind of broker in real time, so they start their programs without a `World`.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Broker, BrokerErrorKind, Members, Notes};
use streams_core::keys::StreamKey;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{App, Phase, Publisher, Registration, Running, Stopped, consumers};
use streams_tests::{Fault, Faulty, Gate, Log, Op, Options, RedisServer, World, logged, logged_from};
use tracing::Level;

/// As one team declares it.
mod feed {
    use streams_runtime::{consumer, stream_event};

    #[stream_event(stream = "fills", version = 1)]
    #[derive(Debug, Clone)]
    pub(crate) struct Trade {
        pub(crate) symbol: String,
        pub(crate) price: f64,
    }

    #[consumer(group = "feed")]
    pub(crate) async fn take(_trade: Trade) {}

    #[consumer(group = "pair")]
    pub(crate) async fn pair(_trade: Trade) {}
}

/// As another team does, that does not know of the first.
mod risk {
    use streams_runtime::{consumer, stream_event};

    #[stream_event(stream = "fills", version = 1)]
    #[derive(Debug, Clone)]
    pub(crate) struct Trade {
        pub(crate) symbol: String,
        pub(crate) price: String,
    }

    #[consumer(group = "risk")]
    pub(crate) async fn take(_trade: Trade) {}
}

/// A later build of the first, with one field more.
mod wide {
    use streams_runtime::{consumer, stream_event};

    #[stream_event(stream = "fills", version = 1)]
    #[derive(Debug, Clone)]
    pub(crate) struct Trade {
        pub(crate) symbol: String,
        pub(crate) price: f64,
        #[serde(default)]
        pub(crate) venue: String,
    }

    #[consumer(group = "wide")]
    pub(crate) async fn take(_trade: Trade) {}
}

/// The next version.
mod next {
    use streams_runtime::{consumer, stream_event};

    #[stream_event(stream = "fills", version = 2, oldest = 2)]
    #[derive(Debug, Clone)]
    pub(crate) struct Trade {
        pub(crate) symbol: String,
        pub(crate) cents: u64,
    }

    #[consumer(group = "next")]
    pub(crate) async fn take(_trade: Trade) {}

    #[consumer(group = "pair")]
    pub(crate) async fn pair(_trade: Trade) {}
}

fn fills() -> StreamKey {
    StreamKey::new(None, "fills", 1)
}

fn trade() -> feed::Trade {
    feed::Trade { symbol: "BTC-USD".to_owned(), price: 1.0 }
}

fn next_trade() -> next::Trade {
    next::Trade { symbol: "BTC-USD".to_owned(), cents: 100 }
}

/// Every kind of broker, each twice: as two programs connect to it.
fn brokers() -> [[Arc<dyn Broker>; 2]; 3] {
    let (embedded, resp2) = (Embedded::new(), RedisServer::shared().database());
    let resp3 = RedisServer::shared().database() + "?protocol=resp3";
    let redis = |url: &str| -> Arc<dyn Broker> { Arc::new(Redis::open(url).unwrap()) };
    [[Arc::new(embedded.clone()), Arc::new(embedded)], [redis(&resp2), redis(&resp2)], [redis(&resp3), redis(&resp3)]]
}

async fn start(consumers: impl IntoIterator<Item = Registration>, broker: &Arc<dyn Broker>) -> Running {
    App::with(consumers).broker(Arc::clone(broker)).start().await.unwrap()
}

/// The same, and the group is there.
async fn start_group(consumers: impl IntoIterator<Item = Registration>, broker: &Arc<dyn Broker>) -> Running {
    let running = start(consumers, broker).await;
    while !matches!(running.status().groups[0].phase, Phase::Owning { .. }) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running
}

/// The lines with this text.
fn lines(log: &Log, text: &str) -> Vec<String> {
    log.text().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

#[track_caller]
fn says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no `{part}` in: {line}");
    }
}

// Two shapes of one version.

#[tokio::test]
async fn two_builds_that_cannot_read_each_other_are_told_once_with_both_sides_and_the_field() {
    for [one, two] in brokers() {
        let log = logged();
        let feed = start(consumers![feed::take], &one).await;
        assert_eq!(log.text(), "");
        let risk = start(consumers![risk::take], &two).await;
        let found = lines(&log, "two builds");
        assert_eq!(found.len(), 1, "{found:?}");
        let here = "here `all-";
        let there = "there `all-";
        says(
            &found[0],
            &[
                " WARN ",
                "`Trade@1` of stream `fills`",
                "`price` is string here and f64 there",
                here,
                "meeting::risk::Trade",
                there,
            ],
        );
        says(
            &found[0],
            &[
                "meeting::feed::Trade",
                "meeting.rs:",
                "neither can read",
                "`version`",
                "HDEL streams:{fills}:_builds 'knows:Trade:all-",
            ],
        );
        // The publisher of the same app does not log it again, for any event.
        let event = risk::Trade { symbol: String::new(), price: String::new() };
        risk.publisher().publish(&event).await.unwrap();
        risk.publisher().publish(&event).await.unwrap();
        assert_eq!(lines(&log, "two builds"), found);
        // Neither says anything of these events in the log of the next broker.
        assert_eq!((feed.shutdown().await, risk.shutdown().await), (Stopped::Clean, Stopped::Clean));
    }
}

#[tokio::test]
async fn a_producer_of_another_shape_is_told_before_its_first_event() {
    for [one, two] in brokers() {
        let log = logged();
        let _feed = start(consumers![feed::take], &one).await;
        let publisher = Publisher::new(two);
        let event = risk::Trade { symbol: String::new(), price: String::new() };
        publisher.publish(&event).await.unwrap();
        let found = lines(&log, "two builds");
        assert_eq!(found.len(), 1, "{found:?}");
        says(&found[0], &["`price` is string here and f64 there", "meeting::risk::Trade", "meeting::feed::Trade"]);
    }
}

#[tokio::test]
async fn a_field_that_both_can_do_without_is_worth_no_warning() {
    for [one, two] in brokers() {
        let log = logged_from(Level::INFO);
        let _feed = start(consumers![feed::take], &one).await;
        let _wide = start(consumers![wide::take], &two).await;
        let found = lines(&log, "two builds");
        assert_eq!(found.len(), 1, "{found:?}");
        says(&found[0], &[" INFO ", "`venue` (string, optional) is only here", "both can read each other's events"]);
        assert_eq!(lines(&log, " WARN "), Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_note_of_a_build_that_tells_shapes_in_another_form_is_worth_no_warning() {
    let note = r#"{"program":"old","at":"2126-01-01T00:00:00Z","event":"Trade","version":1,"fingerprint":"8a3c0f5d11e2b967",
        "type":"old::Trade","place":"src/old.rs:1","publishes":true,
        "shape":{"struct":{"fields":[{"name":"symbol","type":"str"},{"name":"price","type":"str"}]}}}"#;
    let old = ("publishes:Trade:old:old::Trade".to_owned(), note.to_owned());
    for [one, two] in brokers() {
        one.notes(&fills(), &Notes::from([old.clone()]), &[]).await.unwrap();
        let log = logged_from(Level::INFO);
        let feed = start(consumers![feed::take], &two).await;
        feed.publisher().publish(&trade()).await.unwrap();
        let found = lines(&log, "two builds");
        assert_eq!(found.len(), 1, "{found:?}");
        says(&found[0], &[" INFO ", "`Trade@1`", "there `old` as `old::Trade` (src/old.rs:1)", "is not known"]);
        assert_eq!(lines(&log, " WARN "), Vec::<String>::new());
        let notes = two.notes(&fills(), &Notes::new(), &[]).await.unwrap();
        assert_eq!(notes.get(&old.0), Some(&old.1), "it stays for the builds that read it");
    }
}

#[tokio::test]
async fn nothing_is_said_when_builds_agree() {
    for [one, two] in brokers() {
        let log = logged();
        let _one = start(consumers![feed::take], &one).await;
        let again = start(consumers![feed::take], &two).await;
        again.publisher().publish(&trade()).await.unwrap();
        Publisher::new(one).publish(&trade()).await.unwrap();
        assert_eq!(log.text(), "");
    }
}

#[tokio::test]
async fn who_runs_already_hears_of_a_newcomer_within_the_hour_and_once() {
    let (log, world) = (logged(), World::new("fills"));
    let feed = world.process(consumers![feed::take]).start().await;
    let _risk = world.process(consumers![risk::take]).start().await;
    assert_eq!(log.count("two builds"), 1);
    feed.advance(Duration::from_secs(3601)).await;
    let found = lines(&log, "two builds");
    assert_eq!(found.len(), 2, "{found:?}");
    says(&found[1], &["`price` is f64 here and string there"]);
    feed.advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(log.count("two builds"), 2);
}

// Versions.

#[tokio::test]
async fn a_producer_ahead_of_a_group_is_told_before_its_first_event_is_written() {
    for [one, two] in brokers() {
        let log = logged();
        let _feed = start_group(consumers![feed::take], &one).await;
        let (faulty, gate) = (Faulty::over(two), Gate::default());
        faulty.always(Op::Append, Fault::Hold(gate.clone()));
        let publisher = Publisher::new(Arc::new(faulty));
        let publishing = tokio::spawn({
            let publisher = publisher.clone();
            async move { publisher.publish(&next_trade()).await }
        });
        gate.arrived(1).await;
        let found = lines(&log, "group `feed`");
        assert_eq!(found.len(), 1, "{found:?}");
        says(&found[0], &[" WARN ", "`Trade` of stream `fills` up to version 1", "publishes version 2"]);
        says(&found[0], &["meeting::next::Trade", "`all-", "stop in place", "deploy the group first"]);
        assert_eq!(one.extent(&fills().partition(0)).await.unwrap().unwrap().added, 0, "nothing is written yet");
        gate.open();
        publishing.await.unwrap().unwrap();
        publisher.publish(&next_trade()).await.unwrap();
        assert_eq!(lines(&log, "group `feed` reads"), found, "said once");
    }
}

#[tokio::test]
async fn a_producer_of_a_version_that_a_group_no_longer_reads_is_told() {
    for [one, two] in brokers() {
        let log = logged();
        let _next = start_group(consumers![next::take], &one).await;
        Publisher::new(two).publish(&trade()).await.unwrap();
        let found = lines(&log, "group `next` reads");
        assert_eq!(found.len(), 1, "{found:?}");
        says(&found[0], &["from version 2 on", "publishes version 1", "dead letter"]);
    }
}

#[tokio::test]
async fn a_group_that_starts_behind_a_producer_is_told_before_it_meets_the_version() {
    for [one, two] in brokers() {
        let log = logged();
        Publisher::new(one).publish(&next_trade()).await.unwrap();
        assert_eq!(log.text(), "");
        let _feed = start(consumers![feed::take], &two).await;
        let found = lines(&log, "group `feed` reads");
        assert_eq!(found.len(), 1, "{found:?}");
        says(
            &found[0],
            &[" WARN ", "up to version 1", "version 2 is published", "meeting::next::Trade", "stop in place"],
        );
        assert_eq!(log.count("halted"), 0, "it has not met it yet");
    }
}

#[tokio::test]
async fn consumers_that_are_deployed_first_are_worth_no_warning() {
    for [one, two] in brokers() {
        let log = logged_from(Level::INFO);
        let _next = start(consumers![next::take], &one).await;
        let _feed = start(consumers![feed::take], &two).await;
        let found = lines(&log, "group `feed` reads");
        assert_eq!(found.len(), 1, "{found:?}");
        says(&found[0], &[" INFO ", "version 2 is known to", "deploy the group before anybody publishes it"]);
        assert_eq!(lines(&log, " WARN "), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_a_group_reads_is_for_its_owner_to_say() {
    let world = World::new("fills");
    let reads = async || world.store.notes(&fills(), &Notes::new(), &[]).await.unwrap()["reads:pair"].clone();
    let owner = world.process(consumers![next::pair]).start().await;
    owner.settled().await;
    says(&reads().await, &[r#""events":{"Trade":[2,2]}"#]);
    // A process that starts writes its note at once, because it may take over.
    // As a member it could become the owner.
    let wire = world.wire();
    wire.always(Op::Attend, Fault::Fail(BrokerErrorKind::Unavailable));
    let older = world.process(consumers![feed::pair]).on(&wire).start().await;
    says(&reads().await, &[r#""events":{"Trade":[1,1]}"#]);
    owner.advance(Duration::from_secs(3601)).await;
    says(&reads().await, &[r#""events":{"Trade":[2,2]}"#]);
    assert_eq!(owner.into_running().shutdown().await, Stopped::Clean);
    wire.heal();
    older.advance(Duration::from_secs(3601)).await;
    says(&reads().await, &[r#""events":{"Trade":[1,1]}"#]);
}

#[tokio::test]
async fn a_group_that_is_gone_is_not_spoken_of() {
    for [one, two] in brokers() {
        let log = logged();
        let stopped = start_group(consumers![feed::take], &one).await.shutdown().await;
        assert_eq!(stopped, Stopped::Clean);
        let notes = one.notes(&fills(), &Notes::new(), &[]).await.unwrap();
        assert!(notes.contains_key("reads:feed"), "{notes:?}");
        // Its notes stand beside a stream on which there is no such group.
        let elsewhere = StreamKey::new(Some("staging"), "fills", 1);
        two.notes(&elsewhere, &notes, &[]).await.unwrap();
        let next =
            App::with(consumers![next::take]).broker(Arc::clone(&two)).namespace("staging").start().await.unwrap();
        next.publisher().publish(&next_trade()).await.unwrap();
        assert_eq!(log.text(), "");
        // And where there is one, also when nobody runs it at the moment.
        Publisher::new(one).publish(&next_trade()).await.unwrap();
        assert_eq!(log.count("group `feed` reads"), 1);
    }
}

// Costs.

#[tokio::test]
async fn a_broker_that_does_not_answer_holds_nothing_up() {
    tokio::time::pause();
    let (log, faulty) = (logged(), Faulty::over(Arc::new(Embedded::new())));
    faulty.always(Op::Notes, Fault::Hold(Gate::default()));
    let broker: Arc<dyn Broker> = Arc::new(faulty.clone());
    let running = start(consumers![feed::take], &broker).await;
    for _ in 0..3 {
        running.publisher().publish(&trade()).await.unwrap();
    }
    running.settled().await.unwrap();
    assert_eq!((faulty.calls(Op::Notes), log.text()), (2, String::new()), "one by the app, one by its publisher");
    // It is asked again when it answers.
    faulty.heal();
    tokio::time::sleep(Duration::from_secs(11)).await;
    running.publisher().publish(&trade()).await.unwrap();
    running.publisher().publish(&trade()).await.unwrap();
    assert_eq!(faulty.calls(Op::Notes), 3);
}

#[tokio::test]
async fn a_broker_that_refuses_is_named_once() {
    let (log, faulty) = (logged(), Faulty::over(Arc::new(Embedded::new())));
    faulty.always(Op::Notes, Fault::Fail(BrokerErrorKind::Refused));
    let broker: Arc<dyn Broker> = Arc::new(faulty);
    let running = start(consumers![feed::take], &broker).await;
    running.publisher().publish(&trade()).await.unwrap();
    assert_eq!(log.count("cannot be compared"), 1);
    says(&log.text(), &["fills", "Notes fails"]);
}

#[tokio::test]
async fn nothing_is_asked_for_an_event_but_the_first() {
    let faulty = Faulty::over(Arc::new(Embedded::new()));
    let publisher = Publisher::new(Arc::new(faulty.clone()));
    for _ in 0..50 {
        publisher.publish(&trade()).await.unwrap();
        publisher.publish_all([trade(), trade()]).await;
    }
    assert_eq!(faulty.calls(Op::Notes), 1);
    publisher.publish(&next_trade()).await.unwrap();
    publisher.publish(&trade()).await.unwrap();
    assert_eq!(faulty.calls(Op::Notes), 2);
}

#[tokio::test]
async fn the_start_goes_on_over_a_full_server_and_over_a_user_who_may_not_write_notes() {
    // Everything that the stream and the group need, without the notes.
    let keys = "~fills ~fills.[0-9]* ~streams:{fills}:feed* ~streams:{fills}:_stream ~streams:{fills}:_bell";
    let server = Options::default().user(&format!("app on >secret {keys} +@all")).start();
    let log = logged();
    let broker: Arc<dyn Broker> =
        Arc::new(Redis::open(&format!("redis://app:secret@127.0.0.1:{}", server.port())).unwrap());
    let running = start_group(consumers![feed::take], &broker).await;
    running.publisher().publish(&trade()).await.unwrap();
    running.settled().await.unwrap();
    let found = lines(&log, " WARN ");
    assert_eq!(found.len(), 1, "{found:?}");
    says(&found[0], &["cannot be compared", "streams:{fills}:_builds", "NOPERM"]);
    drop(running);

    let server = RedisServer::start();
    let one: Arc<dyn Broker> = Arc::new(Redis::open(&server.url()).unwrap());
    let _feed = start(consumers![feed::take], &one).await;
    server.run::<()>("CONFIG SET maxmemory 1");
    let _risk = start(consumers![risk::take], &one).await;
    assert_eq!(log.count("`price` is string here and f64 there"), 1, "others are heard all the same");
}
