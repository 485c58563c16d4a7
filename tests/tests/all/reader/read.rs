//! Promises of reading without a group: for tools, tests and back-fills.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use streams_core::broker::{Broker, BrokerErrorKind, Log};
use streams_core::keys::StreamKey;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{App, Entry, Read, ReadError, Running, Start, stream_event};
use streams_tests::{Fault, Faulty, Op, RedisServer};

#[stream_event(stream = "pages", key = book, partitions = 8)]
#[derive(Debug, Clone, PartialEq)]
struct Page {
    book: u64,
    n: u64,
}

#[stream_event(stream = "pages")]
#[derive(Debug, Clone, PartialEq)]
struct Cover {
    n: u64,
}

#[stream_event(stream = "scans", key = n, partitions = 4)]
#[derive(Debug, Clone, PartialEq)]
struct Scan {
    n: u64,
    image: Vec<u8>,
}

async fn app(broker: Arc<dyn Broker>) -> Running {
    App::with([]).publish_only().broker(broker).start().await.unwrap()
}

/// An app on an embedded store, whose calls can go wrong.
async fn on_a_wire() -> (Running, Faulty) {
    let wire = Faulty::over(Arc::new(Embedded::new()));
    (app(Arc::new(wire.clone())).await, wire)
}

/// Publishes these pages, each of a book of its number modulo 5.
async fn publish(app: &Running, pages: std::ops::Range<u64>) {
    for n in pages {
        app.publisher().publish(&Page { book: n % 5, n }).await.unwrap();
        if n % 7 == 0 {
            app.publisher().publish(&Cover { n }).await.unwrap();
        }
    }
}

async fn numbers(read: Read<Page>) -> Vec<u64> {
    read.map_ok(|page| page.event.n).try_collect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_read_brings_every_event_of_its_type_once_in_order_up_to_what_was_there() {
    let (app, _) = on_a_wire().await;
    for n in 0..500 {
        publish(&app, n..n + 1).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut read = app.read::<Page>(Start::Earliest);
    let first = read.next().await.unwrap().unwrap();
    assert_eq!((&first.event, first.attempt()), (&Page { book: 0, n: 0 }, 1));
    publish(&app, 500..510).await;
    // Over all partitions they come by their time.
    assert_eq!(numbers(read).await, (1..500).collect::<Vec<_>>());
    assert_eq!(numbers(app.read(Start::Latest)).await, [0; 0]);
    assert_eq!(numbers(app.read(Start::At(first.entry_id().next()))).await.len(), 509);
    tokio::time::sleep(Duration::from_secs(10)).await;
    publish(&app, 510..511).await;
    assert_eq!(numbers(app.read(Start::Ago(Duration::from_secs(5)))).await, [510]);
}

#[tokio::test]
async fn who_follows_gets_what_was_there_and_then_each_event_as_it_comes() {
    let (app, _) = on_a_wire().await;
    publish(&app, 0..20).await;
    let mut follow = app.follow::<Page>(Start::Earliest);
    let mut seen = Vec::new();
    for round in 1..=5 {
        while seen.len() < round * 20 {
            seen.push(follow.next().await.unwrap().unwrap().event.n);
        }
        publish(&app, round as u64 * 20..(round as u64 + 1) * 20).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    let mut newest = app.follow::<Page>(Start::Latest);
    let waits = tokio::time::timeout(Duration::from_millis(50), newest.next()).await;
    assert!(waits.is_err(), "{waits:?}");
    publish(&app, 121..122).await;
    assert_eq!(newest.next().await.unwrap().unwrap().event.n, 121);
}

#[tokio::test]
async fn an_entry_that_cannot_be_decoded_is_named_and_those_behind_it_come() {
    let (app, wire) = on_a_wire().await;
    publish(&app, 1..2).await;
    let partition = StreamKey::new(None, "pages", 8).partition(3);
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let bad = vec![field(Entry::EVENT, b"Page@1"), field(Entry::PAYLOAD, b"\xc1")];
    let newer = vec![field(Entry::EVENT, b"Page@9"), field(Entry::PAYLOAD, b"\x80")];
    let ids = wire.append(&partition, vec![bad, newer, vec![field("text", b"no event")]], None).await.unwrap();
    publish(&app, 2..3).await;
    let items: Vec<_> = app.read::<Page>(Start::Earliest).collect().await;
    let mut read: Vec<_> = items.iter().flatten().map(|page| page.event.n).collect();
    read.sort_unstable();
    assert_eq!((items.len(), read), (5, vec![1, 2]));
    let errors: Vec<_> = items.into_iter().filter_map(Result::err).collect();
    for (error, id) in errors.iter().zip(ids) {
        assert!(error.to_string().starts_with(&format!("entry {id} of `pages.3`: ")), "{error}");
        let ReadError::Undecodable { entry, .. } = error else { panic!("{error:?}") };
        assert_eq!(entry.id, id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_after_an_outage_without_a_gap_and_ends_where_it_is_refused() {
    let (app, wire) = on_a_wire().await;
    publish(&app, 0..50).await;
    wire.once(Op::Read, Fault::Fail(BrokerErrorKind::Unavailable));
    wire.once(Op::Read, Fault::Fail(BrokerErrorKind::Unavailable));
    let items: Vec<_> = app.read::<Page>(Start::Earliest).collect().await;
    let mut read: Vec<_> = items.iter().flatten().map(|page| page.event.n).collect();
    read.sort_unstable();
    assert_eq!((items.len(), read), (52, (0..50).collect::<Vec<_>>()));
    wire.once(Op::Read, Fault::Fail(BrokerErrorKind::Refused));
    let refused: Vec<_> = app.read::<Page>(Start::Earliest).collect().await;
    assert!(matches!(refused[..], [Err(ReadError::Broker(_))]), "{refused:?}");
}

#[tokio::test]
async fn a_read_holds_a_few_megabytes_however_much_there_is() {
    let wire = Faulty::over(Arc::new(Redis::open(&RedisServer::shared().database()).unwrap()));
    let app = app(Arc::new(wire.clone())).await;
    for n in 0..200 {
        app.publisher().publish(&Scan { n, image: vec![1; 100_000] }).await.unwrap();
    }
    wire.weigh();
    let mut read = app.read::<Scan>(Start::Earliest);
    let mut count = 0;
    while let Some(scan) = read.next().await {
        count += u64::from(scan.unwrap().event.image.len() == 100_000);
    }
    assert_eq!(count, 200);
    assert!((100_000..5_000_000).contains(&wire.most_held()), "{} bytes", wire.most_held());
}

#[tokio::test]
async fn a_read_leaves_nothing_at_the_server_not_even_of_a_stream_that_nobody_has_declared() {
    let url = RedisServer::shared().database();
    let app = app(Arc::new(Redis::open(&url).unwrap())).await;
    let mut client = RedisServer::client(&url);
    let mut keys = || {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
        keys.sort();
        keys
    };
    assert_eq!(numbers(app.read(Start::Earliest)).await, [0; 0]);
    assert_eq!(keys(), [""; 0]);
    publish(&app, 0..100).await;
    let before = keys();
    let mut follow = app.follow::<Page>(Start::Earliest);
    let mut seen = Vec::new();
    while seen.len() < 100 {
        seen.push(follow.next().await.unwrap().unwrap().event.n);
    }
    publish(&app, 100..101).await;
    assert_eq!(follow.next().await.unwrap().unwrap().event.n, 100);
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    assert_eq!(keys(), before);
}
