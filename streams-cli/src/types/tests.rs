//! Types against the programs that they are for: Python reads and writes what Rust publishes, on a server.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;
use streams_core::broker::Log as _;
use streams_core::keys::StreamKey;
use streams_core::schema::lock::note;
use streams_core::{EntryId, EventInfo, StreamEvent, codec};
use streams_runtime::broker::Redis;
use streams_runtime::{Publisher, event_type, stream_event};
use streams_tests::{Program, RedisServer, python};

use super::{Language, types};

#[event_type]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Buy,
    #[serde(rename = "sell-short")]
    Sell,
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
struct Leg {
    venue: String,
    quantity: u64,
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Point,
    Circle {
        radius: f64,
        class: Option<u8>,
    },
    Named(Leg),
    Pair(i8, String),
    #[serde(other)]
    Other,
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
#[serde(tag = "kind")]
enum Tagged {
    Nothing,
    Leg(Leg),
    Inline { from: String },
    Any(BTreeMap<String, u8>),
    Side(Side),
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Empty,
    One(u32),
    Fields { a: bool },
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
struct Tree {
    value: i64,
    children: Vec<Tree>,
    leaf: Option<Leaf>,
}

#[event_type]
#[derive(Debug, Clone, PartialEq)]
struct Leaf {
    #[event(recursive)]
    under: Option<Box<Tree>>,
}

/// An event of fields that either layout can hold.
#[event_type]
#[derive(Debug, Clone, PartialEq)]
struct Everything {
    numbers: (u8, u64, i64, f32, f64),
    texts: Vec<String>,
    letter: char,
    yes: bool,
    nothing: (),
    bytes: Vec<u8>,
    digest: [u8; 4],
    uuid: uuid::Uuid,
    took: Duration,
    amount: Decimal,
    amounts: Vec<Option<Decimal>>,
    from: IpAddr,
    to: Ipv4Addr,
    count: NonZero<u32>,
    by_name: BTreeMap<String, Leg>,
    by_number: BTreeMap<i32, Option<Side>>,
    side: Option<Side>,
    sides: Vec<Side>,
    shapes: Vec<Shape>,
    tagged: Vec<Tagged>,
    tree: Tree,
    class: Option<Vec<Leg>>,
}

#[stream_event(stream = "wide", version = 3, oldest = 3, lock = false)]
#[derive(Debug, Clone, PartialEq)]
struct Wide {
    everything: Everything,
    adjacent: Vec<Adjacent>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<u8>,
    #[serde(default)]
    defaulted: u32,
    #[serde(rename = "two-words", alias = "older")]
    two_words: String,
    note: Option<String>,
}

#[stream_event(stream = "wide", layout = "array", lock = false)]
#[derive(Debug, Clone, PartialEq)]
struct Dense {
    everything: Everything,
    #[serde(default)]
    defaulted: u32,
    note: Option<String>,
}

#[stream_event(stream = "wide", name = "order-placed", lock = false)]
#[derive(Debug, Clone, PartialEq)]
#[serde(tag = "kind")]
enum Choice {
    One { x: u8 },
    Two,
}

fn everything() -> Everything {
    let leg = Leg { venue: "A".to_owned(), quantity: u64::MAX };
    let tree = |value| Tree { value, children: Vec::new(), leaf: None };
    Everything {
        numbers: (255, u64::MAX, i64::MIN, 0.1, -2.25),
        texts: vec!["é".to_owned(), String::new()],
        letter: 'ß',
        yes: true,
        nothing: (),
        bytes: vec![0, 255],
        digest: [1, 2, 3, 4],
        uuid: uuid::Uuid::from_u128(7),
        took: Duration::new(3, 999_999_999),
        amount: "-1234567890123456789.0123456789".parse().unwrap(),
        amounts: vec![Some(Decimal::new(1000, 2)), None],
        from: IpAddr::from([1, 2, 3, 4, 5, 6, 7, 8]),
        to: Ipv4Addr::LOCALHOST,
        count: NonZero::new(7).unwrap(),
        by_name: BTreeMap::from([("a".to_owned(), leg.clone())]),
        by_number: BTreeMap::from([(-1, Some(Side::Sell)), (300, None)]),
        side: Some(Side::Buy),
        sides: vec![Side::Buy, Side::Sell],
        shapes: vec![
            Shape::Point,
            Shape::Circle { radius: 1.0, class: Some(1) },
            Shape::Circle { radius: 2.0, class: None },
            Shape::Named(leg.clone()),
            Shape::Pair(-1, "b".to_owned()),
            Shape::Other,
        ],
        tagged: vec![
            Tagged::Nothing,
            Tagged::Leg(leg.clone()),
            Tagged::Inline { from: "x".to_owned() },
            Tagged::Any(BTreeMap::from([("y".to_owned(), 1)])),
            Tagged::Side(Side::Sell),
        ],
        tree: Tree { value: 1, children: vec![tree(2), tree(3)], leaf: Some(Leaf { under: Some(Box::new(tree(4))) }) },
        class: Some(vec![leg]),
    }
}

fn wide() -> Wide {
    Wide {
        everything: everything(),
        adjacent: vec![Adjacent::Empty, Adjacent::One(1), Adjacent::Fields { a: true }],
        left_out: Vec::new(),
        defaulted: 5,
        two_words: "two words".to_owned(),
        note: None,
    }
}

fn dense() -> Dense {
    Dense { everything: everything(), defaulted: 6, note: Some("note".to_owned()) }
}

/// A lock as the tests of these events would write it, were they no tests.
fn lock(events: &[&EventInfo]) -> String {
    let mut lock = serde_json::json!({ "format": 1, "stream": events[0].stream, "events": {} });
    for event in events {
        lock["events"][event.name][event.version.to_string()] = note::entry(event).unwrap();
    }
    lock.to_string()
}

fn generated(language: Language) -> String {
    let lock = lock(&[Wide::INFO, Dense::INFO, Choice::INFO]);
    types(language, [("schemas/wide.lock.json", lock.as_str())]).unwrap()
}

/// Reads every entry of the stream `wide`, and writes it again to `again`; then one event that Rust has not seen.
const PROGRAM: &str = r#"
import decimal, ipaddress, sys, uuid, redis
from events import *

server = redis.Redis(port=int(sys.argv[1]))
classes = {kind.EVENT: kind for kind in (WideV3, DenseV1, OrderPlacedV1)}
for _, fields in server.xrange("wide"):
    name = fields[b"event"].decode()
    event = classes[name].from_bytes(fields[b"payload"])
    if name == WideV3.EVENT:
        assert str(event.everything.amounts[0]) == "10.00", event.everything.amounts
        event.everything.amounts[0] = decimal.Decimal("1E+3")
    assert classes[name].from_wire(event.to_wire()) == event, event
    server.xadd("again", {"event": name, "id": fields[b"id"], "payload": event.to_bytes()})
    if name != "order-placed@1":
        inside = event.everything
        assert inside.numbers[1] == 2**64 - 1 and inside.numbers[2] == -2**63, inside.numbers
        assert inside.uuid == uuid.UUID(int=7) and inside.bytes == b"\x00\xff" and inside.digest == bytes([1, 2, 3, 4])
        assert (inside.took.secs, inside.took.nanos) == (3, 999_999_999)
        assert inside.amount == decimal.Decimal("-1234567890123456789.0123456789"), inside.amount
        assert inside.from_.value == ipaddress.ip_address("1:2:3:4:5:6:7:8") and inside.to == ipaddress.ip_address("127.0.0.1")
        assert inside.by_number == {-1: "sell-short", 300: None}
        assert (inside.shapes[1].radius, inside.shapes[1].class_, inside.shapes[2].class_) == (1.0, 1, None)
        assert inside.tree.leaf.under == inside.tree.__class__(value=4, children=[])
    if name == WideV3.EVENT:
        assert event.note is None and event.two_words == "two words" and event.left_out is None
        older = event.to_wire()
        older["older"] = older.pop("two-words")
        assert WideV3.from_wire(older) == event

assert DenseV1.STREAM == "wide"
one = OrderPlacedV1(value=ChoiceOne(x=7))
server.xadd("again", {"event": one.EVENT, "id": "fresh", "payload": one.to_bytes()})
"#;

/// Runs a program with this module `events`, and answers what it says.
fn run(events: &str, program: &str, argument: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("events.py"), events).unwrap();
    let mut python = Command::new(python());
    let mut process = Program::start(python.args(["-c", program, argument]).env("PYTHONPATH", directory.path()));
    let code = process.code();
    let (said, errors) = (process.output(), process.errors());
    assert_eq!(code, Some(0), "run `cargo xtask test`, which brings redis-py and msgpack: {errors}");
    said
}

#[tokio::test]
async fn python_reads_what_rust_publishes_and_rust_reads_what_python_writes() {
    let server = RedisServer::start();
    let broker = Arc::new(Redis::open(&server.url()).unwrap());
    let publisher = Publisher::new(broker.clone());
    publisher.publish(&wide()).await.unwrap();
    publisher.publish(&dense()).await.unwrap();
    publisher.publish(&Choice::Two).await.unwrap();
    run(&generated(Language::Python), PROGRAM, &server.port().to_string());
    let partition = StreamKey::new(None, "again", 1).partition(0);
    let entries = broker.read(&partition, EntryId::ZERO, 10).await.unwrap();
    assert_eq!(entries.len(), 4);
    let mut written = wide();
    written.everything.amounts[0] = Some(Decimal::from(1000));
    assert_eq!(codec::decode::<Wide>(&entries[0]), Ok(written));
    assert_eq!(codec::decode::<Dense>(&entries[1]), Ok(dense()));
    assert_eq!(codec::decode::<Choice>(&entries[2]), Ok(Choice::Two));
    assert_eq!(codec::decode::<Choice>(&entries[3]), Ok(Choice::One { x: 7 }));
}

#[test]
fn the_python_of_the_guide_publishes_and_reads() {
    let guide = include_str!("../../../docs/asyncapi.md");
    let program = guide.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let server = RedisServer::start();
    let program = program.replace("redis.Redis()", &format!("redis.Redis(port={})", server.port()));
    let lock = r#"{ "format": 1, "stream": "executions", "events": { "Trade": { "1": { "layout": "map", "schema": {
        "struct": "Trade", "fields": [
            { "name": "note", "type": { "option": "string" }, "optional": true },
            { "name": "price", "type": "f64" },
            { "name": "quantity", "type": "u64" },
            { "name": "symbol", "type": "string" }
        ] } } } } }"#;
    let events = types(Language::Python, [("executions.lock.json", lock)]).unwrap();
    let said = run(&events, &program, "");
    assert_eq!(said, "TradeV1(note=None, price=39432.48, quantity=1, symbol='BTC-USD')\n");
}

#[test]
fn the_types_of_all_locks_here_are_python() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["tests/schemas", "examples/schemas", "tests/ui/locked/schemas", "streams-macros/schemas"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap().flatten());
    let files = files.map(|file| file.path()).filter(|path| !path.ends_with("broken.lock.json"));
    let mut locks: Vec<_> =
        files.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect();
    locks.sort();
    assert!(locks.len() > 5, "{locks:?}");
    let text = types(Language::Python, locks.iter().map(|(file, text)| (file.as_str(), text.as_str()))).unwrap();
    run(&text, "import events", "");
}

#[test]
fn the_python_of_an_event_is_a_dataclass() {
    let lock = r#"{ "format": 1, "stream": "trades", "events": { "Trade": { "2": { "layout": "map", "schema": {
        "struct": "Trade", "fields": [
            { "name": "note", "type": { "option": "string" }, "optional": true },
            { "name": "price", "type": "f64" },
            { "name": "quantity", "type": "u64", "aliases": ["size"] },
            { "name": "gone", "type": "u8", "removed": true }
        ] } } } } }"#;
    let text = types(Language::Python, [("trades.lock.json", lock)]).unwrap();
    let expected = r#"
@dataclasses.dataclass(kw_only=True)
class TradeV2:
    """Version 2 of the event `Trade` on the stream `trades`."""

    STREAM: typing.ClassVar[str] = "trades"
    EVENT: typing.ClassVar[str] = "Trade@2"
    note: str | None = None
    price: float
    quantity: int  # u64

    def to_wire(self):
        wire = {"price": float(self.price), "quantity": self.quantity}
        if self.note is not None:
            wire["note"] = self.note
        return wire

    @classmethod
    def from_wire(cls, wire) -> TradeV2:
        fields = _fields(wire, ("note", "price", "quantity", ), {"size": "quantity"})
        return cls(
            note=None if fields.get("note") is None else fields["note"],
            price=fields["price"],
            quantity=fields["quantity"],
        )

    def to_bytes(self) -> bytes:
        return msgpack.packb(self.to_wire())

    @classmethod
    def from_bytes(cls, payload: bytes) -> TradeV2:
        return cls.from_wire(msgpack.unpackb(payload, strict_map_key=False))
"#;
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn the_typescript_of_events_has_each_layout_and_each_kind_of_enum() {
    let text = generated(Language::Typescript);
    for expected in [
        "export interface WideV3 {\n",
        "  \"two-words\": string;\n",
        "  note?: string | null;\n",
        "  /** u32 */\n  defaulted?: number;\n",
        "export const WideV3 = { stream: \"wide\", event: \"Wide@3\" } as const;\n",
        "/** Version 1 of the event `Dense` on the stream `wide`. */\n\
         export type DenseV1 = [everything: Everything, defaulted: number, note: string | null];\n",
        "export type Side =\n  | \"Buy\"\n  | \"sell-short\";\n",
        "  | { Circle: { class?: number | null; radius: number } }\n",
        "  | { Circle: [radius: number, class_: number | null] }\n",
        "  | ({ kind: \"Leg\" } & Leg2)\n",
        "  | { kind: \"Any\"; [name: string]: \"Any\" | number }\n",
        "  | { kind: \"Side\"; [name: string]: unknown }",
        "  | [\"Leg\", ...Leg]\n",
        "  | { t: \"One\"; c: number }",
        "  numbers: [number, number | bigint, number | bigint, number, number];\n",
        "  by_number: Record<number, Side | null>;\n",
        "  /** a decimal number as text */\n  amount: string;\n",
        "  /** not 0 */\n  count: number;\n",
        "  | { V4: Uint8Array | number[] }\n",
        "export type OrderPlacedV1 = Choice;\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn a_file_that_is_no_lock_is_named() {
    let said = types(Language::Python, [("schemas/a.lock.json", "{}")]).unwrap_err();
    assert_eq!(said, "schemas/a.lock.json is no lock: it has format null, and this version reads format 1");
}
