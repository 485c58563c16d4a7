//! Older versions written from their lock: what `frozen_event!` makes of every shape, and what it says where it cannot.

use streams_tests::UserCrate;

/// Version 1, by hand, and a test that keeps its bytes.
const BEFORE: &str = r#"
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, SystemTime};
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
        cache: HashMap::new(),
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
    /// What an order was.
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
    let shop = UserCrate::new();
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
