//! Promises to a relay, which has the bytes of an event and not its type.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::Log;
use streams_core::keys::{self, StreamKey};
use streams_runtime::broker::Embedded;
use streams_runtime::{EntryId, Publisher, codec, stream_event};

#[stream_event(stream = "relayed", key = symbol, partitions = 8, max_payload = "1KiB")]
#[derive(Debug, Clone, PartialEq)]
struct Relayed {
    symbol: String,
}

fn bytes(symbol: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(&Relayed { symbol: symbol.to_owned() }, &mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn bytes_go_where_the_event_would_go_and_are_that_event() {
    let store = Arc::new(Embedded::new());
    let publisher = Publisher::new(store.clone());
    let typed = publisher.publish(&Relayed { symbol: "BTC-USD".to_owned() }).id("t-1").await.unwrap();
    let raw = publisher.publish_raw("relayed", "Relayed", 1, bytes("BTC-USD"));
    let raw = raw.key("BTC-USD").id("t-2").header("venue", "a").await.unwrap();
    assert_eq!((raw.partition, raw.event_id.as_str()), (typed.partition, "t-2"));
    let partition = StreamKey::new(None, "relayed", 8).partition(raw.partition);
    let entries = store.read(&partition, EntryId::ZERO, 10).await.unwrap();
    let [one, two] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(one.fields().take(3).nth(2), two.fields().take(3).nth(2), "the same payload");
    assert_eq!(codec::decode::<Relayed>(two).unwrap().symbol, "BTC-USD");
    assert_eq!((two.id, two.headers().get("venue")), (raw.entry_id, Some("a")));
    let without_key = publisher.publish_raw("relayed", "Relayed", 1, bytes("x")).id("ETH-USD").await.unwrap();
    assert_eq!(without_key.partition, keys::partition_of("ETH-USD", 8));
}

#[tokio::test]
async fn what_can_be_known_to_be_wrong_is_refused_before_anything_is_sent() {
    let publisher = Publisher::new(Arc::new(Embedded::new()));
    let relayed = |stream, event, version, bytes: Vec<u8>| publisher.publish_raw(stream, event, version, bytes);
    for (publish, said) in [
        (relayed("two words", "Relayed", 1, bytes("a")), "invalid stream name `two words`"),
        (relayed("relayed", "Relayed@1", 1, bytes("a")), "invalid event name `Relayed@1`"),
        (relayed("relayed", "Relayed", 0, bytes("a")), "its version is 0"),
        (relayed("relayed", "Relayed", 1, vec![0; 1025]), "the payload has 1025 bytes, the limit is 1024"),
        (relayed("relayed", "Relayed", 1, bytes("a")).header("payload", "x"), "header `payload`"),
        (relayed("relayed", "Relayed", 1, bytes("a")).id(""), "the event id `` is not 1 to 128 bytes long"),
    ] {
        let error = publish.await.unwrap_err();
        assert!(error.is_refused() && error.to_string().contains(said), "no `{said}` in: {error}");
    }
    assert!(publisher.last::<Relayed>().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_others_has_the_partitions_that_they_recorded_and_loses_nothing() {
    let store = Arc::new(Embedded::new());
    let publisher = Publisher::new(store.clone());
    let error = publisher.publish_raw("foreign", "Thing", 3, [1]).await.unwrap_err();
    assert!(error.to_string().contains("nobody has declared the stream `foreign`"), "{error}");
    let foreign = StreamKey::new(None, "foreign", 8);
    store.declare(&foreign).await.unwrap();
    let receipt = publisher.publish_raw("foreign", "Thing", 3, [1]).key("ETH-USD").await.unwrap();
    assert_eq!(receipt.partition, 7);
    // A stream that this program knows would be trimmed by then.
    tokio::time::sleep(Duration::from_secs(100 * 3600)).await;
    publisher.publish_raw("foreign", "Thing", 3, [2]).key("ETH-USD").await.unwrap();
    let entries = store.read(&foreign.partition(7), EntryId::ZERO, 10).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.event()).collect::<Vec<_>>(), [Some(("Thing", 3)); 2]);
}
