//! The wire format as `docs/wire-format.md` promises it to other languages: its golden bytes, partitions and key names.

use std::process::Command;
use std::sync::Arc;

use streams_core::keys::{StreamKey, partition_of};
use streams_core::{Entry, EntryId, codec};
use streams_runtime::broker::Embedded;
use streams_runtime::{Publisher, stream_event};
use streams_tests::{Program, RedisServer};

#[stream_event(stream = "trades", version = 1, key = symbol)]
#[derive(Debug, PartialEq)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: f64,
}

const DOCUMENT: &str = include_str!("../../../../docs/wire-format.md");

fn trade() -> Trade {
    Trade { symbol: "BTC-USD".to_owned(), price: 39432.48, quantity: 0.25 }
}

/// The fields of the golden entry, in order.
fn golden() -> Vec<(Vec<u8>, Vec<u8>)> {
    let block = DOCUMENT.split("```golden\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    block.lines().map(|line| line.split_once(": ").unwrap()).map(|(name, hex)| (name.into(), bytes(hex))).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn a_published_event_has_the_golden_bytes() {
    let broker = Arc::new(Embedded::new());
    Publisher::new(broker.clone()).publish(&trade()).id("t-1").await.unwrap();
    let partition = StreamKey::new(None, "trades", 1).partition(0);
    let entries = streams_core::broker::Log::read(&*broker, &partition, EntryId::ZERO, 10).await.unwrap();
    assert_eq!(*entries[0], Entry::new(entries[0].id, &golden()));
}

#[test]
fn the_golden_bytes_are_read() {
    let entry = Entry::new(EntryId::new(1, 0), &golden());
    assert_eq!(codec::decode::<Trade>(&entry), Ok(trade()));
    assert_eq!(entry.event_id().as_str(), "t-1");
}

#[test]
fn the_array_layout_has_its_golden_bytes() {
    #[stream_event(stream = "trades", name = "Trade", layout = "array")]
    struct Dense {
        symbol: String,
        price: f64,
        quantity: f64,
    }
    let Trade { symbol, price, quantity } = trade();
    let mut written = Vec::new();
    codec::encode(&Dense { symbol, price, quantity }, &mut written).unwrap();
    let hex: Vec<_> = written.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(DOCUMENT.contains(&format!("```text\n{}\n```", hex.join(" "))), "{hex:?}");
    assert!(DOCUMENT.contains(&format!("{} bytes instead of 49", written.len())));
}

#[test]
fn name_and_payload_are_enough() {
    let payload = golden().into_iter().find(|(name, _)| name == b"payload").unwrap();
    let entry = Entry::new(EntryId::new(7, 0), &[(b"event".to_vec(), b"Trade".to_vec()), payload]);
    assert_eq!(codec::decode::<Trade>(&entry), Ok(trade()));
    assert_eq!(entry.event_id().as_str(), "7-0");
}

#[test]
fn keys_go_to_the_partitions_of_the_table() {
    let rows = DOCUMENT.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, key, crc, partition, _] = cells.as_slice() else { return None };
        Some((key.trim_matches('`'), crc.parse::<u32>().ok()?, partition.parse::<u32>().ok()?))
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() >= 6, "the table is gone: {rows:?}");
    for (key, crc, partition) in rows {
        assert_eq!((partition_of(key, u32::MAX), partition_of(key, 8)), (crc % u32::MAX, partition), "{key}");
    }
}

#[test]
fn every_key_of_the_document_is_where_it_says() {
    let partition = StreamKey::new(None, "trades", 1).partition(0);
    let group = partition.group("risk");
    let mail = partition.group("mail").queue();
    let properties = StreamKey::new(None, "trades", 1).properties();
    for key in [group.state(), &group.dead(), &partition.bell(), &properties, mail.state()] {
        assert!(DOCUMENT.contains(&format!("`{key}`")), "{key}");
    }
    assert!(DOCUMENT.contains(&format!("| `{}` |", mail.waiting())));
}

/// Stands for the package of that name, which is not everywhere: writes the golden payload, whatever it is given.
const MSGPACK: &str = "def packb(value):\n    assert set(value) == {'symbol', 'price', 'quantity'}\n    return bytes.fromhex('PAYLOAD')\n";

/// Runs the producer of the document against this server: its exit code, and what it says.
fn produce(server: &RedisServer) -> (Option<i32>, String) {
    let (_, section) = DOCUMENT.split_once("### From Python").unwrap();
    let snippet = section.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let place = "redis.Redis()";
    assert!(snippet.contains(place), "{snippet}");
    let modules = tempfile::tempdir().unwrap();
    let payload = golden().into_iter().find(|(name, _)| name == b"payload").unwrap().1;
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(modules.path().join("msgpack.py"), MSGPACK.replace("PAYLOAD", &hex)).unwrap();
    let program = snippet.replace(place, &format!("redis.Redis(port={})", server.port()));
    let mut python = Command::new(streams_tests::python());
    let mut process = Program::start(python.args(["-c", &program]).env("PYTHONPATH", modules.path()));
    let code = process.code();
    (code, process.output() + &process.errors())
}

#[test]
fn the_python_producer_goes_by_the_number_that_is_recorded_and_refuses_to_guess() {
    let server = RedisServer::start();
    let (code, said) = produce(&server);
    assert!(code == Some(1) && said.contains("HSETNX streams:{trades}:_stream partitions"), "{said}");
    assert_eq!(server.run::<Vec<String>>("KEYS *"), Vec::<String>::new());
    for (partitions, key) in [(1, "trades".to_owned()), (4, format!("trades.{}", partition_of("BTC-USD", 4)))] {
        server.flush();
        server.run::<()>(&format!("HSETNX streams:{{trades}}:_stream partitions {partitions}"));
        let (code, said) = produce(&server);
        assert_eq!(code, Some(0), "run `cargo xtask test`, which brings redis-py: {said}");
        let entries: redis::streams::StreamRangeReply = server.run(&format!("XRANGE {key} - +"));
        let fields = ["event", "payload"].map(|name| entries.ids[0].get::<Vec<u8>>(name).unwrap());
        let golden: Vec<_> = golden().into_iter().filter(|(name, _)| name != b"id").map(|(_, value)| value).collect();
        assert_eq!((entries.ids.len(), fields.to_vec()), (1, golden), "{partitions}");
    }
}
