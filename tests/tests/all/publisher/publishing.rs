//! Promises of publishing: partitions, limits, order, retention, and the errors.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Broker, BrokerErrorKind, Log};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{Entry, EntryId, Publisher, event_type, stream_event};
use streams_tests::{Fault, Faulty, Op, Options, RedisServer};

#[stream_event(stream = "quotes", key = symbol, partitions = 8)]
#[derive(Debug, Clone, PartialEq)]
struct Quote {
    symbol: String,
    n: u64,
}

/// Without a key.
#[stream_event(stream = "notes", partitions = 8, retention = "1h", max_payload = "1KiB")]
#[derive(Debug, Clone, PartialEq)]
struct Note {
    text: String,
}

/// An event of one partition, beside another event.
#[stream_event(stream = "logbook", retention = "1h")]
#[derive(Debug, Clone, PartialEq)]
struct Line {
    n: u64,
}

#[stream_event(stream = "logbook")]
#[derive(Debug, Clone, PartialEq)]
struct Noise {
    filler: Filler,
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
struct Filler {
    bytes: Vec<u8>,
}

fn quote(symbol: &str, n: u64) -> Quote {
    Quote { symbol: symbol.to_owned(), n }
}

fn note(text: &str) -> Note {
    Note { text: text.to_owned() }
}

fn noise(bytes: usize) -> Noise {
    Noise { filler: Filler { bytes: vec![7; bytes] } }
}

fn quotes(partition: u32) -> PartitionKey {
    StreamKey::new(None, "quotes", 8).partition(partition)
}

fn logbook() -> PartitionKey {
    StreamKey::new(None, "logbook", 1).partition(0)
}

/// A publisher on an embedded store, whose calls can go wrong.
fn publisher() -> (Publisher, Faulty) {
    let wire = Faulty::over(Arc::new(Embedded::new()));
    (Publisher::new(Arc::new(wire.clone())), wire)
}

async fn entries(broker: &dyn Broker, partition: &PartitionKey) -> Vec<Arc<Entry>> {
    broker.read(partition, EntryId::ZERO, 10_000).await.unwrap()
}

// Where an event goes.

#[tokio::test]
async fn a_key_picks_the_partition_that_the_documentation_says() {
    let (publisher, wire) = publisher();
    for (symbol, partition) in [("BTC-USD", 0), ("ETH-USD", 7), ("DOGE", 6), ("7", 2), ("-42", 6)] {
        let receipt = publisher.publish(&quote(symbol, 1)).await.unwrap();
        assert_eq!(receipt.partition, partition, "{symbol}");
        let last = wire.read_back(&quotes(partition), EntryId::MAX, 1).await.unwrap();
        assert_eq!(last[0].id, receipt.entry_id);
    }
}

#[tokio::test]
async fn an_event_without_a_key_goes_by_its_event_id() {
    let (publisher, _) = publisher();
    for (id, partition) in [("BTC-USD", 0), ("ETH-USD", 7), ("0197a3c2-7b1e-7d4a-9c5f-3e2d1a0b4c6d", 0)] {
        let receipt = publisher.publish(&note("x")).id(id).await.unwrap();
        assert_eq!((receipt.partition, receipt.event_id.as_str()), (partition, id));
    }
}

#[tokio::test]
async fn an_event_id_is_ones_own_or_a_fresh_uuid() {
    let (publisher, wire) = publisher();
    let mut ids = BTreeSet::new();
    for n in 1..=100 {
        let receipt = publisher.publish(&quote("BTC-USD", n)).await.unwrap();
        let id: uuid_text::Id = receipt.event_id.as_str().parse().unwrap();
        assert_eq!(id.version, '7');
        assert!(ids.insert(receipt.event_id));
    }
    let own = publisher.publish(&quote("BTC-USD", 0)).id("mine").await.unwrap();
    let last = wire.read_back(&quotes(0), EntryId::MAX, 1).await.unwrap();
    assert_eq!((last[0].given_id(), own.event_id.as_str()), (Some("mine"), "mine"));
}

/// As much of a UUID as the tests look at.
mod uuid_text {
    pub(super) struct Id {
        pub(super) version: char,
    }

    impl std::str::FromStr for Id {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            let groups: Vec<_> = text.split('-').map(str::len).collect();
            match text.chars().nth(14) {
                Some(version) if groups == [8, 4, 4, 4, 12] => Ok(Self { version }),
                _ => Err(format!("not a uuid: {text}")),
            }
        }
    }
}

// Refusals before anything is sent.

#[tokio::test]
async fn what_no_consumer_would_accept_is_refused_and_nothing_is_sent() {
    let (publisher, wire) = publisher();
    let long = "x".repeat(1024);
    let fits = note("fits");
    let mut refused = vec![
        publisher.publish(&note(&long)).await.unwrap_err(),
        publisher.publish(&fits).id("").await.unwrap_err(),
        publisher.publish(&fits).id("x".repeat(129)).await.unwrap_err(),
        publisher.publish(&fits).header("payload", "x").await.unwrap_err(),
        publisher.publish(&fits).header("", "x").await.unwrap_err(),
        publisher.publish(&fits).header("a", "x".repeat(4000)).await.unwrap_err(),
    ];
    let mut many = publisher.publish(&fits);
    for n in 0..33 {
        many = many.header(format!("h{n}"), "x");
    }
    refused.push(many.await.unwrap_err());
    for error in &refused {
        assert!(error.is_refused() && !error.is_retryable() && !error.is_indefinite(), "{error}");
    }
    assert!(refused[0].to_string().contains("1024"), "{}", refused[0]);
    assert_eq!(wire.calls(Op::Append), 0);
    publisher.publish(&fits).id("x".repeat(128)).header("tenant", "a").await.unwrap();
}

// Many at once.

#[tokio::test]
async fn publish_all_keeps_the_order_of_each_key() {
    let (publisher, wire) = publisher();
    let symbols = ["BTC-USD", "ETH-USD", "DOGE"];
    let all = (0..3_000).map(|n| quote(symbols[n as usize % 3], n));
    let receipts = publisher.publish_all(all).await;
    assert!(receipts.iter().all(Result::is_ok) && receipts.len() == 3_000);
    let events = publisher.published::<Quote>().await.unwrap();
    for symbol in symbols {
        let of_symbol: Vec<_> = events.iter().filter(|quote| quote.symbol == symbol).map(|quote| quote.n).collect();
        assert!(of_symbol.len() == 1_000 && of_symbol.is_sorted(), "{symbol}");
    }
    let first = receipts[0].as_ref().unwrap();
    assert_eq!(entries(&wire, &quotes(0)).await[0].id, first.entry_id);
}

#[tokio::test]
async fn publish_all_sends_nothing_of_a_partition_after_its_first_failure() {
    let (publisher, wire) = publisher();
    // Warmed up, so that the first append that fails is one of these.
    publisher.publish_all([quote("BTC-USD", 0), quote("ETH-USD", 0)]).await;
    // A call that may go through later is tried again; a full server is the caller's business at once.
    wire.once(Op::Append, Fault::Fail(BrokerErrorKind::Full));
    let all = (1..=1_000).map(|n| quote("BTC-USD", n)).chain((1..=10).map(|n| quote("ETH-USD", n)));
    let receipts = publisher.publish_all(all).await;
    let (btc, eth) = receipts.split_at(1_000);
    assert!(eth.iter().all(Result::is_ok), "another partition goes on");
    let errors: Vec<_> = btc.iter().map(|answer| answer.as_ref().unwrap_err()).collect();
    assert!(errors.iter().all(|error| error.is_retryable() && !error.is_indefinite() && !error.is_refused()));
    assert!(!errors[0].is_not_sent() && errors[999].is_not_sent());
    assert_eq!(entries(&wire, &quotes(0)).await.len(), 1);
}

#[tokio::test]
async fn an_event_that_is_refused_ends_its_partition_after_those_before_it() {
    let (publisher, wire) = publisher();
    let long = "x".repeat(2_000);
    let answers = publisher
        .publish_all_with_ids(
            [("a", "BTC-USD"), (long.as_str(), "BTC-USD"), ("b", "BTC-USD"), ("c", "ETH-USD")]
                .map(|(text, id)| (note(text), id.to_owned())),
        )
        .await;
    assert!(answers[0].is_ok() && answers[3].is_ok());
    assert!(answers[1].as_ref().unwrap_err().is_refused());
    assert!(answers[2].as_ref().unwrap_err().is_not_sent());
    assert_eq!(wire.calls(Op::Append), 2);
}

#[tokio::test]
async fn a_lost_reply_says_that_the_event_may_be_there_and_which_id_it_has() {
    let (publisher, wire) = publisher();
    wire.once(Op::Append, Fault::LoseReply);
    let error = publisher.with_retry(Duration::ZERO).publish(&quote("BTC-USD", 1)).await.unwrap_err();
    assert!(error.is_indefinite() && error.is_retryable() && !error.is_backpressure());
    let there = entries(&wire, &quotes(0)).await;
    assert_eq!(there[0].given_id(), error.event_id());
}

// Retention.

#[tokio::test(start_paused = true)]
async fn what_has_outlived_its_retention_is_removed_and_nothing_newer() {
    let (publisher, wire) = publisher();
    for n in 1..=4 {
        publisher.publish(&Line { n }).await.unwrap();
        tokio::time::sleep(Duration::from_secs(25 * 60)).await;
    }
    // At 100 minutes: those of 0 and 25 minutes are older than an hour, that of 50 is not.
    publisher.publish(&Line { n: 5 }).await.unwrap();
    let lines: Vec<u64> = publisher.published::<Line>().await.unwrap().into_iter().map(|line| line.n).collect();
    assert_eq!(lines, [3, 4, 5]);
    assert_eq!(wire.extent(&logbook()).await.unwrap().unwrap().added, 5);
}

#[tokio::test]
async fn on_a_server_old_entries_go_and_new_ones_stay() {
    let url = RedisServer::shared().database();
    let mut client = RedisServer::client(&url);
    let mut pipe = redis::pipe();
    for n in 1..=1_000 {
        pipe.cmd("XADD").arg("logbook").arg(format!("{n}-0")).arg("event").arg("Line").ignore();
    }
    pipe.exec(&mut client).unwrap();
    let publisher = Publisher::connect(&url).await.unwrap();
    let first = publisher.publish(&Line { n: 1 }).await.unwrap();
    publisher.publish_all((2..=500).map(|n| Line { n })).await;
    let left: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg("logbook").arg("-").arg("+").query(&mut client).unwrap();
    let old = left.ids.iter().filter(|entry| entry.id.starts_with(char::is_numeric) && entry.id.len() < 10).count();
    // Trimming goes by whole nodes of a hundred entries.
    assert!(old < 100, "{old} of 1,000 are left");
    assert_eq!(left.ids.len() - old, 500);
    assert_eq!(left.ids[old].id, first.entry_id.to_string());
}

#[tokio::test]
async fn an_id_from_the_future_stops_the_trimming_and_not_the_publishing() {
    let url = RedisServer::shared().database();
    let mut client = RedisServer::client(&url);
    // So many that whole nodes of them could be trimmed.
    let mut pipe = redis::pipe();
    for ms in (1..=500).chain([99_999_999_999_999_u64]) {
        pipe.cmd("XADD").arg("logbook").arg(format!("{ms}-0")).arg("event").arg("Line").ignore();
    }
    pipe.exec(&mut client).unwrap();
    let publisher = Publisher::connect(&url).await.unwrap();
    let receipts = publisher.publish_all((1..=300).map(|n| Line { n })).await;
    assert!(receipts.iter().all(Result::is_ok));
    let length: u64 = redis::cmd("XLEN").arg("logbook").query(&mut client).unwrap();
    assert_eq!(length, 801);
}

// A full server.

#[tokio::test]
async fn a_full_server_is_backpressure_and_takes_events_again_when_it_has_room() {
    let server = Options::default().args(["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]).start();
    let publisher = Publisher::connect(&server.url()).await.unwrap();
    let error = loop {
        if let Err(error) = publisher.publish(&noise(100_000)).await {
            break error;
        }
    };
    assert!(error.is_backpressure() && error.is_retryable() && !error.is_indefinite(), "{error}");
    let all = publisher.publish_all((0..3).map(|_| noise(100_000))).await;
    assert!(all[0].as_ref().unwrap_err().is_backpressure());
    server.run::<()>("CONFIG SET maxmemory 0");
    publisher.publish(&noise(100_000)).await.unwrap();
}

// Going on where a producer stopped.

#[tokio::test]
async fn the_last_event_of_a_type_is_found_behind_others() {
    for broker in brokers() {
        let publisher = Publisher::new(broker);
        assert!(publisher.last::<Line>().await.unwrap().is_none());
        publisher.publish_all((1..=3).map(|n| Line { n })).await;
        publisher.publish_all((0..1_000).map(|_| noise(1))).await;
        assert_eq!(publisher.last::<Line>().await.unwrap().unwrap().event, Line { n: 3 });
    }
}

#[tokio::test]
async fn the_last_event_is_the_newest_of_all_partitions() {
    for broker in brokers() {
        let publisher = Publisher::new(broker);
        for (n, symbol) in (1..).zip(["BTC-USD", "DOGE", "ETH-USD", "7"]) {
            let sent = publisher.publish(&quote(symbol, n)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            let last = publisher.last::<Quote>().await.unwrap().unwrap();
            assert_eq!((last.event.n, last.entry_id(), last.event_id()), (n, sent.entry_id, sent.event_id));
        }
    }
}

fn brokers() -> [Arc<dyn Broker>; 2] {
    let redis = Redis::open(&RedisServer::shared().database()).unwrap();
    [Arc::new(Embedded::new()), Arc::new(redis)]
}

#[tokio::test]
async fn a_namespace_keeps_streams_apart_and_a_bad_one_is_refused() {
    let (publisher, wire) = publisher();
    let staging = publisher.with_namespace("staging").unwrap();
    staging.publish(&Line { n: 1 }).await.unwrap();
    assert!(publisher.last::<Line>().await.unwrap().is_none());
    let key = StreamKey::new(Some("staging"), "logbook", 1).partition(0);
    assert_eq!(entries(&wire, &key).await.len(), 1);
    assert!(publisher.with_namespace("a:b").is_err());
}

#[stream_event(stream = "clash", partitions = 4)]
struct Four {
    n: u64,
}

#[stream_event(stream = "clash", partitions = 8)]
struct Eight {
    n: u64,
}

#[tokio::test]
async fn events_that_contradict_each_other_about_their_stream_are_not_published() {
    let (publisher, wire) = publisher();
    for error in
        [publisher.publish(&Four { n: 1 }).await, publisher.publish(&Eight { n: 1 }).await].map(Result::unwrap_err)
    {
        assert!(error.to_string().contains("give stream `clash` a different `partitions`"), "{error}");
    }
    assert_eq!(wire.calls(Op::Append), 0);
}

#[tokio::test]
async fn another_number_of_partitions_than_the_recorded_one_is_refused() {
    let (publisher, wire) = publisher();
    wire.declare(&StreamKey::new(None, "quotes", 4)).await.unwrap();
    let error = publisher.publish(&quote("BTC-USD", 1)).await.unwrap_err();
    assert!(error.to_string().contains("it is in use with 4"), "{error}");
    assert!(!error.is_retryable() && wire.calls(Op::Append) == 0);
}

// Where it is called.

/// Waits for a future on this thread, which no executor runs on.
pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// The result of the thread, which must not hang.
pub(super) fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    waits.recv_timeout(Duration::from_secs(60)).expect("it comes to an end")
}

#[test]
fn a_publish_outside_of_an_executor_is_refused_and_says_what_it_needs() {
    within_a_minute(|| {
        let (publisher, wire) = publisher();
        for _ in 0..2 {
            let error = wait_for(async { publisher.publish(&quote("A", 1)).await }).unwrap_err();
            assert!(!error.is_retryable() && !error.is_indefinite(), "{error}");
            assert!(error.to_string().contains("outside of a Tokio runtime"), "{error}");
            let errors = wait_for(publisher.publish_all([quote("A", 1), quote("A", 2)]));
            assert!(errors.iter().all(|answer| answer.is_err()), "{errors:?}");
        }
        assert_eq!(wire.calls(Op::Append), 0);
        // And nothing of that is in the way of those who are inside of one.
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        executor.block_on(publisher.publish(&quote("A", 1)).into_future()).unwrap();
    });
}

#[test]
fn a_publish_in_an_executor_that_has_ended_is_told_so_and_another_executor_goes_on() {
    within_a_minute(|| {
        let executor = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (publisher, _) = publisher();
        let first = executor();
        first.block_on(publisher.publish(&quote("A", 1)).into_future()).unwrap();
        let handle = first.handle().clone();
        drop(first);
        {
            let _inside = handle.enter();
            for _ in 0..2 {
                let error = wait_for(async { publisher.publish(&quote("A", 2)).await }).unwrap_err();
                assert!(error.to_string().contains("the executor on which the publisher wrote has ended"), "{error}");
            }
        }
        executor().block_on(publisher.publish(&quote("A", 3)).into_future()).unwrap();
    });
}

#[test]
fn a_publisher_on_a_real_server_outlives_the_executor_that_it_connected_on() {
    within_a_minute(|| {
        let url = RedisServer::shared().database();
        let executor = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let first = executor();
        let publisher = first.block_on(Publisher::connect(&url)).unwrap();
        first.block_on(publisher.publish(&quote("A", 1)).into_future()).unwrap();
        drop(first);
        let second = executor();
        second.block_on(publisher.publish(&quote("A", 2)).into_future()).unwrap();
        let last = second.block_on(publisher.last::<Quote>()).unwrap().unwrap();
        assert_eq!(last.event.n, 2);
    });
}

/// An event that cannot be written: its key or its field panics.
#[stream_event(stream = "faulty-quotes", key = symbol, lock = false)]
#[derive(Debug)]
struct Unwritable {
    #[event(wire = "String")]
    #[serde(with = "unwritable")]
    symbol: Panics,
}

#[derive(Debug)]
struct Panics(&'static str);

impl streams_runtime::EventKey for Panics {
    fn text(&self) -> std::borrow::Cow<'_, str> {
        assert!(self.0 != "key", "the key panics");
        self.0.into()
    }
}

mod unwritable {
    use super::Panics;

    pub(super) fn serialize<S: serde::Serializer>(value: &Panics, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(value.0 != "field", "the field panics");
        serializer.serialize_str(value.0)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Panics, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Ok(Panics(if text == "a" { "a" } else { "b" }))
    }
}

#[tokio::test]
async fn an_event_that_panics_while_it_is_written_is_refused_and_those_before_it_are_answered() {
    let (publisher, wire) = publisher();
    for place in ["key", "field"] {
        let error = publisher.publish(&Unwritable { symbol: Panics(place) }).await.unwrap_err();
        assert!(error.is_refused() && error.to_string().contains(&format!("panicked: the {place} panics")), "{error}");
        let answers =
            publisher.publish_all(["a", place, "b"].map(|symbol| Unwritable { symbol: Panics(symbol) })).await;
        let answers: Vec<_> =
            answers.iter().map(|answer| answer.as_ref().err().map(|error| error.is_refused())).collect();
        assert_eq!(answers, [None, Some(true), Some(false)], "{place}");
    }
    let stream = StreamKey::new(None, "faulty-quotes", 1).partition(0);
    assert_eq!(entries(&wire, &stream).await.len(), 2);
}
