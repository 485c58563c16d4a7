//! Older versions written from their lock: what `frozen_event!` makes of every shape, and what it says where it cannot.

use streams_tests::UserCrate;

/// Version 1, by hand, and a test that keeps its bytes.
const BEFORE: &str = r#"
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, SystemTime};
use streams_core::__private::forms::{Rfc3339, Uuid};
use streams_core::{event_type, stream_event};

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Tick(pub u8, pub String);

#[stream_event(stream = "orders", key = customer)]
#[derive(Debug, Clone, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Order {
    pub customer: String,
    pub unit_price: f64,
    #[serde(rename = "type", alias = "kind")]
    pub order_type: char,
    pub counts: (u8, i16, u32, i64, f32, bool),
    pub note: Option<String>,
    #[serde(default = "eur")]
    pub currency: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrer: Option<Party>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    pub lines: Vec<Line>,
    pub first: Line,
    pub by_side: BTreeMap<Side, Option<Vec<Line>>>,
    pub payload: Vec<u8>,
    pub codes: [u16; 3],
    pub took: Duration,
    pub at: SystemTime,
    pub status: Status,
    pub change: Change,
    pub shape: Shape,
    pub tree: Tree,
    pub forest: VecDeque<Tree>,
    pub party: Party,
    #[event(opaque = "tick@1")]
    pub tick: Tick,
    #[serde(default)]
    #[event(opaque = "tick@1")]
    pub tock: Tick,
    pub nothing: Nothing,
    pub unit: (),
    pub numbers: Page<u32>,
    pub names: Page<String>,
    pub id: Id,
    pub trace: Uuid,
    pub when: Rfc3339,
    #[serde(skip)]
    pub cache: HashMap<u8, u8>,
}

impl Default for Tick {
    fn default() -> Self { Self(0, String::new()) }
}

fn eur() -> String { "EUR".to_owned() }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Id(pub u64);

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Nothing;

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> { pub items: Vec<T>, #[serde(rename = "self")] pub this: bool }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Line { pub sku: String, #[serde(default)] pub discount: Discount }

#[event_type]
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Discount { pub percent: u8 }

#[event_type]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Side { Buy, SellShort }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
#[serde(tag = "kind")]
pub enum Status { Open, Closed { reason: String, side: Side }, Split(Discount), #[serde(other)] Unknown }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
#[serde(tag = "t", content = "c", rename_all = "kebab-case")]
pub enum Change { NoChange, OfPrice(f64), Both(f64, u32), #[serde(alias = "line")] OfLine(Line) }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub enum Shape { Empty, Point(f64, f64), Named { r#type: String, #[serde(default)] size: Option<u32> }, Line(Line) }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Tree { pub value: u32, pub left: Option<Box<Tree>>, pub rest: Vec<Tree> }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Party { pub name: String, pub firm: Option<Box<Firm>> }

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Firm {
    #[event(recursive)]
    pub owner: Option<Box<Party>>,
    #[event(recursive)]
    pub staff: Vec<Party>,
    pub branches: Vec<Firm>,
}

fn tree(value: u32) -> Tree { Tree { value, left: None, rest: Vec::new() } }

fn order() -> Order {
    let line = Line { sku: "a".into(), discount: Discount { percent: 3 } };
    let party = Party { name: "p".into(), firm: None };
    let firm = Firm { owner: Some(Box::new(party.clone())), staff: vec![party.clone()], branches: Vec::new() };
    Order {
        customer: "c".into(), unit_price: 1.5, order_type: 'x', counts: (1, -2, 3, -4, 0.5, true), note: Some("n".into()),
        currency: "USD".into(), referrer: Some(party.clone()), tags: vec!["t".into()], lines: vec![line.clone()],
        first: line.clone(), by_side: BTreeMap::from([(Side::SellShort, Some(vec![line.clone()]))]), payload: vec![1, 255],
        codes: [1, 2, 300], took: Duration::from_millis(1500), at: SystemTime::UNIX_EPOCH,
        status: Status::Closed { reason: "r".into(), side: Side::Buy }, change: Change::Both(2.5, 9),
        shape: Shape::Named { r#type: "s".into(), size: None },
        tree: Tree { value: 1, left: Some(Box::new(tree(2))), rest: vec![tree(3)] }, forest: VecDeque::from([tree(4)]),
        party: Party { name: "q".into(), firm: Some(Box::new(Firm { branches: vec![firm.clone()], ..firm })) },
        tick: Tick(7, "x".into()), tock: Tick(8, "y".into()), nothing: Nothing, unit: (),
        numbers: Page { items: vec![5], this: true }, names: Page { items: vec!["z".into()], this: false }, id: Id(9),
        trace: Uuid::from_u128(10), when: Rfc3339::UNIX_EPOCH, cache: HashMap::new(),
    }
}

#[test]
fn keep_the_bytes() {
    let mut bytes = Vec::new();
    streams_core::codec::encode(&order(), &mut bytes).unwrap();
    std::fs::write("order.bin", bytes).unwrap();
}
"#;

/// Version 1 from the lock, and a test that reads those bytes with all they say.
const AFTER: &str = r#"
#![deny(warnings)]
#![allow(dead_code)]
use streams_core::{event_type, frozen_event, stream_event};

#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Tick(pub u8, pub String);

frozen_event! {
    /// An order as it was.
    pub OrderV1, stream = "orders", name = "Order", version = 1, key = customer, types = { "tick@1" => Tick }
}

#[stream_event(stream = "orders", version = 2, upcast_from = OrderV1, key = customer)]
#[derive(Debug, PartialEq)]
pub struct Order {
    pub customer: String,
    pub currency: String,
}

impl From<OrderV1> for Order {
    fn from(old: OrderV1) -> Self {
        Self { customer: old.customer, currency: old.currency.unwrap_or_else(|| "EUR".to_owned()) }
    }
}

#[test]
fn the_bytes_are_read_whole() {
    use streams_core::codec;
    let bytes = std::fs::read("order.bin").unwrap();
    let old: OrderV1 = codec::decode_payload(&bytes).unwrap();
    assert_eq!((old.unit_price, old.r#type, old.counts), (1.5, 'x', (1, -2, 3, -4, 0.5, true)));
    assert_eq!((old.currency.as_deref(), old.tags.as_deref()), (Some("USD"), Some(["t".to_owned()].as_slice())));
    let line = OrderV1Line { sku: "a".into(), discount: Some(OrderV1Discount { percent: 3 }) };
    assert_eq!((&old.first, &old.lines), (&line, &vec![line.clone()]));
    assert_eq!(old.by_side[&OrderV1Side::SellShort].as_deref(), Some([line].as_slice()));
    assert_eq!((old.payload.as_slice(), old.codes), ([1, 255].as_slice(), [1, 2, 300]));
    assert_eq!(old.status, OrderV1Status::Closed { reason: "r".into(), side: OrderV1Side::Buy });
    assert_eq!(old.change, OrderV1Change::Both(2.5, 9));
    assert_eq!(old.shape, OrderV1Shape::Named { r#type: "s".into(), size: None });
    assert_eq!(old.tree.left.as_ref().unwrap().value + old.tree.rest[0].value + old.forest[0].value, 9);
    let firm = old.party.firm.as_ref().unwrap();
    assert_eq!((firm.owner.as_ref().unwrap().name.as_str(), firm.staff.len(), firm.branches.len()), ("p", 1, 1));
    assert_eq!((&old.tick, &old.tock), (&Tick(7, "x".into()), &Some(Tick(8, "y".into()))));
    assert_eq!((old.nothing.clone(), old.unit, old.id), (OrderV1Empty, (), 9));
    let numbers: &Vec<u32> = &old.numbers.items;
    let names: &Vec<String> = &old.names.items;
    assert_eq!((old.trace.as_u128(), old.when.timestamp()), (10, 0));
    assert_eq!((numbers[0], names[0].as_str()), (5, "z"));
    assert_eq!(streams_core::StreamEvent::key(&old).as_deref(), Some("c"));
    // It writes what it read.
    let mut again = Vec::new();
    codec::encode(&old, &mut again).unwrap();
    assert_eq!(codec::decode_payload::<OrderV1>(&again).unwrap(), old);
    let mut lacking = old.clone();
    lacking.currency = None;
    let error = codec::encode(&lacking, &mut again).unwrap_err().to_string();
    assert!(error.contains("for which that version had a default; give it its value"), "{error}");
    assert_eq!(Order::from(lacking).currency, "EUR");
}
"#;

#[test]
fn a_frozen_event_reads_every_shape_and_matches_its_lock() {
    let shop = UserCrate::new("frozen");
    let manifest = shop.read("Cargo.toml");
    shop.write(
        "Cargo.toml",
        &manifest.replace("streams-core = {", "streams-core = { features = [\"uuid\", \"chrono\"],"),
    );
    shop.write("src/lib.rs", BEFORE);
    shop.test(&[]).unwrap();
    let locked = shop.read("schemas/orders.lock.json");
    shop.write("src/lib.rs", AFTER);
    let errors = shop.check(&[]);
    assert!(errors.is_empty(), "{:#?}", &errors[..errors.len().min(6)]);
    shop.test(&[]).unwrap();
    // Version 2 is added, and nothing of version 1 has changed.
    let lock = shop.read("schemas/orders.lock.json");
    let events = |lock: &str| serde_json::from_str::<serde_json::Value>(lock).unwrap()["events"]["Order"].clone();
    assert_eq!(events(&lock)["1"], events(&locked)["1"]);
    assert!(events(&lock)["2"].is_object());
    shop.test(&[("CI", "true"), ("STREAMS_LOCK", "required")]).unwrap();
}

/// A crate whose lock has two versions of `Trade`, and the shapes that cannot be written.
fn two_versions(package: &str) -> UserCrate {
    let shop = UserCrate::new(package);
    shop.write(
        "src/lib.rs",
        r#"
use streams_core::{event_type, stream_event};

#[stream_event(stream = "trades", name = "Trade")]
pub struct TradeV1 { pub price: f64 }

#[stream_event(stream = "trades", version = 2, upcast_from = TradeV1)]
pub struct Trade { pub price: f64, pub legs: Vec<Leg> }

impl From<TradeV1> for Trade {
    fn from(old: TradeV1) -> Self { Self { price: old.price, legs: Vec::new() } }
}

#[event_type]
pub struct Leg { #[event(opaque = "tick@1")] pub tick: u8 }

#[stream_event(stream = "trades")]
pub struct Quote { #[serde(with = "as_text")] #[event(wire = "Option<u32>")] pub bid: Option<u32> }

mod as_text {
    use streams_core::__private::serde::{Deserialize, Deserializer, Serialize, Serializer};
    pub fn serialize<S: Serializer>(bid: &Option<u32>, to: S) -> Result<S::Ok, S::Error> { bid.serialize(to) }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> { Option::deserialize(from) }
}
"#,
    );
    shop.test(&[]).unwrap();
    shop
}

#[test]
fn what_cannot_be_frozen_is_explained_where_it_stands() {
    let shop = two_versions("not-frozen");
    for (declared, underlined, message) in [
        (
            r#"pub T, stream = "quotes", name = "Trade", version = 1"#,
            r#""quotes""#,
            "there is no schemas/quotes.lock.json to write the event from; `cargo test` writes it while the event is declared as a type, and only events of this crate are in it",
        ),
        (
            r#"pub T, stream = "trades", name = "Trad", version = 1"#,
            r#""Trad""#,
            "schemas/trades.lock.json has no event `Trad`, perhaps `Trade`; it has: Quote, Trade",
        ),
        (
            r#"pub T, stream = "trades", name = "Trade", version = 3"#,
            "3",
            "schemas/trades.lock.json has no version 3 of `Trade`; it has: 1, 2",
        ),
        (
            r#"pub T, stream = "trades", name = "Trade", version = 2, oldest = 2"#,
            "T",
            "`legs.tick` is opaque, `tick@1`, which the lock does not describe; name its type with `types = { \"tick@1\" => crate::Type }`, or write the event by hand",
        ),
        (
            r#"pub T, stream = "trades", name = "Quote", version = 1"#,
            "T",
            "`bid` may be nil and may not be missing, for which there is no type; write the type by hand",
        ),
        (
            r#"pub T, stream = "trades", name = "Trade", version = 1, types = { "tick@1" }"#,
            r#"{ "tick@1" }"#,
            "invalid `types` value `{ \"tick@1\" }`; expected forms and their types, such as `{ \"tick@1\" => crate::Tick }`",
        ),
        (
            r#"pub T, stream = "trades", version = 1"#,
            &*format!("streams_core::frozen_event!({})", r#"pub T, stream = "trades", version = 1"#),
            "missing `name`; write `frozen_event!(pub TradeV1, stream = \"trades\", name = \"Trade\", version = 1)`",
        ),
        (
            r#"pub T: stream = "trades""#,
            ":",
            "expected the name of the type and what it was: `pub TradeV1, stream = \"trades\", name = \"Trade\", version = 1`",
        ),
        (
            r#"pub T, stream = "trades", name = "Trade", version = 1, layout = "map""#,
            "layout",
            "unknown option `layout`; expected one of: stream, name, version, types, crate, upcast_from, oldest, key, partitions, retention, durability, max_payload",
        ),
        (
            r#"pub T, stream = "trades", name = "Trade", version = 1, upcast_from = T"#,
            "T",
            "version 1 is the first, so there is nothing to upcast from; raise `version`, or remove `upcast_from`",
        ),
    ] {
        // One mistake is one message, also where the type is used.
        let usage = if declared.starts_with("pub T,") { "pub fn used(_: T) {}" } else { "" };
        shop.write("src/lib.rs", &format!("streams_core::frozen_event!({declared});\n{usage}"));
        let errors = shop.check(&[]);
        assert_eq!(errors.len(), 1, "{declared}: {errors:#?}");
        assert_eq!((errors[0].message.as_str(), errors[0].underlined.as_str()), (message, underlined), "{declared}");
    }
}

#[test]
fn a_consumer_of_an_older_version_than_the_locked_one_does_not_compile() {
    let shop = two_versions("outdated");
    let source = shop.read("src/lib.rs");
    let consumer = |event: &str| {
        format!("{source}\n#[streams_core::consumer(group = \"risk\")]\npub async fn check(event: {event}) {{}}\n")
    };
    for event in ["Trade", "&Trade", "streams_core::Message<Trade>", "Quote"] {
        shop.write("src/lib.rs", &consumer(event));
        assert_eq!(shop.check(&[]).len(), 0, "{event}");
    }
    for (event, underlined) in [
        ("TradeV1", "TradeV1"),
        ("&TradeV1", "TradeV1"),
        ("streams_core::Message<TradeV1>", "streams_core::Message<TradeV1>"),
    ] {
        shop.write("src/lib.rs", &consumer(event));
        let errors = shop.check(&[]);
        assert_eq!(errors.len(), 1, "{event}: {errors:#?}");
        assert_eq!(errors[0].underlined, underlined);
        assert!(
            errors[0].message.contains(
                "the consumer takes version 1 of `Trade`, and the lock of stream `trades` has version 2, at whose first event the group would halt; take the type of version 2, which reads older events as well; or if that version was never used remove it from the lock"
            ),
            "{}",
            errors[0].message
        );
    }
}

#[test]
fn a_type_inside_that_has_not_changed_may_be_that_of_today() {
    let shop = UserCrate::new("todays");
    let declared = |leg: &str| {
        format!(
            r#"
use std::net::IpAddr;
use std::num::NonZero;

#[streams_core::event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Leg {{ pub quantity: NonZero<u32>, pub from: IpAddr{leg} }}
"#
        )
    };
    let before = "#[streams_core::stream_event(stream = \"fills\")] pub struct Fill { pub legs: Vec<Leg>, pub first: Option<Leg> }";
    shop.write("src/lib.rs", &(declared("") + before));
    shop.test(&[]).unwrap();
    let frozen = |types: &str| {
        format!("streams_core::frozen_event!(pub FillV1, stream = \"fills\", name = \"Fill\", version = 1{types});\n")
    };
    // It is the same type, and not a second one of the same shape.
    let used = "pub fn of_today(fill: FillV1) -> Vec<Leg> { fill.legs }\n";
    shop.write("src/lib.rs", &(declared("") + &frozen(r#", types = { "Leg" => crate::Leg }"#) + used));
    assert_eq!(shop.check(&[]).len(), 0);
    shop.write(
        "src/lib.rs",
        &(declared(", pub venue: Option<String>") + &frozen(r#", types = { "Leg" => crate::Leg }"#)),
    );
    let errors = shop.check(&[]);
    assert!(
        errors.iter().any(|error| error.underlined == "crate::Leg"
            && error.message.contains("`Leg` has changed since this version, so no type of today is the same; remove it from `types`, and it is written from the lock")
            && error.message.contains("`venue`: added")),
        "{errors:#?}"
    );
    assert_eq!(errors.len(), 1, "{errors:#?}");
    // Without it the forms of std are written as they were.
    let used = "pub fn as_it_was(fill: FillV1) -> Vec<(NonZero<u32>, FillV1IpAddr)> { fill.legs.into_iter().map(|leg| (leg.quantity, leg.from)).collect() }\n";
    shop.write("src/lib.rs", &(declared(", pub venue: Option<String>") + &frozen("") + used));
    assert_eq!(shop.check(&[]).len(), 0);
}
