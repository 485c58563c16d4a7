//! A test of the schemas against serde: bytes made from a schema decode as its type, and encode to the same bytes
//! again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZero;
use std::time::{Duration, SystemTime};

use serde::{Serialize, de::DeserializeOwned};

use super::json_schema::tests::describes;
use super::sample::Sample;
use super::{Layout, Schema, SchemaType, StructSchema, fingerprint};
use crate::codec::conform;
use crate::{event_type, stream_event};

#[track_caller]
fn conforms<T: SchemaType + Serialize + DeserializeOwned + Debug>() {
    for pick in 0..6 {
        let bytes = crate::codec::tests::to_bytes(&Sample { schema: T::SCHEMA, pick, writes_other: true });
        let value: T = match rmp_serde::from_slice(&bytes) {
            Ok(value) => value,
            Err(error) => {
                panic!("{} does not read what its schema says, {bytes:02x?}: {error}", std::any::type_name::<T>())
            }
        };
        assert_eq!(crate::codec::tests::to_bytes(&value), bytes, "{value:?}");
        assert_eq!(conform::unreadable(T::SCHEMA, &bytes), None, "{bytes:02x?}");
        assert_eq!(conform::not_as_declared(T::SCHEMA, Layout::Map, &bytes), None, "{bytes:02x?}");
        describes(T::SCHEMA, Layout::Map, &bytes);
        // It explains serde's refusals, so it must not blame a value that serde reads.
        for at in 0..bytes.len() {
            for byte in [0, 1, 0x80, 0x90, 0xa0, 0xa1, 0xc0, 0xc3, 0xc4, 0xcc, 0xd0, 0xff, bytes[at] ^ 1] {
                let mut damaged = bytes.clone();
                damaged[at] = byte;
                if crate::codec::scan(&damaged).is_ok() && rmp_serde::from_slice::<T>(&damaged).is_ok() {
                    assert_eq!(conform::unreadable(T::SCHEMA, &damaged), None, "{damaged:02x?}");
                }
            }
        }
    }
}

/// Whether the type reads bytes where it writes an array.
#[track_caller]
fn reads_bytes<T: SchemaType + Serialize + DeserializeOwned>() {
    assert_eq!(T::SCHEMA, &Schema::Seq(u8::SCHEMA));
    let read: T = rmp_serde::from_slice(b"\xc4\x01\xff").unwrap();
    assert_eq!(crate::codec::tests::to_bytes(&read), b"\x91\xcc\xff");
    rmp_serde::from_slice::<T>(b"\x91\xcc\xff").unwrap();
}

#[event_type]
#[derive(Debug)]
struct Unit;

#[event_type]
#[derive(Debug)]
struct Newtype(u16);

#[event_type]
#[derive(Debug)]
struct Pair(u8, String);

#[event_type]
#[derive(Debug)]
struct Bytes(Vec<u8>, [u8; 3], Box<[u8; 2]>);

#[event_type]
#[derive(Debug)]
struct Page<T> {
    items: Vec<T>,
    next: Option<Box<T>>,
}

#[event_type]
#[derive(Debug)]
#[serde(rename_all = "camelCase")]
struct Attributed {
    two_words: u8,
    #[serde(rename = "other", alias = "older")]
    renamed: Option<f32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    left_out: String,
    #[serde(skip)]
    _skipped: u8,
    r#type: char,
    _leading: bool,
}

#[event_type]
#[derive(Debug)]
#[serde(transparent)]
struct Transparent {
    inner: Pair,
}

#[event_type]
#[derive(Debug)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE", rename_all_fields = "PascalCase")]
enum External {
    UnitVariant,
    Newtype(u32),
    Tuple(u32, String),
    Struct {
        some_field: Option<u8>,
    },
    Bytes(Vec<u8>),
    #[serde(rename = "x")]
    Nested(Box<Attributed>),
}

#[event_type]
#[derive(Debug)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Internal {
    UnitVariant,
    StructVariant { a: u8 },
    Newtype(Page<u16>),
    Logical { time: SystemTime, pair: (u8, u16) },
}

#[event_type]
#[derive(Debug)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Unit,
    Newtype(String),
    Tuple(u8, u8),
    Struct { a: i8 },
}

#[event_type]
#[derive(Debug)]
struct Tree {
    value: u8,
    children: Vec<Tree>,
    parent: Option<Box<Self>>,
    named: BTreeMap<String, Tree>,
}

#[event_type]
#[derive(Debug)]
struct Folder {
    files: Vec<File>,
}

#[event_type]
#[derive(Debug)]
struct File {
    #[event(recursive)]
    inside: Option<Box<Folder>>,
}

mod text {
    pub(super) fn serialize<S: serde::Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }
    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text: String = serde::Deserialize::deserialize(from)?;
        Ok(text.len() as u64)
    }
}

#[event_type]
#[derive(Debug)]
struct Wired {
    #[serde(with = "text")]
    #[event(wire = "String")]
    number: u64,
    #[serde(with = "text")]
    #[event(opaque = "number@1")]
    vouched: u64,
}

#[test]
fn types_read_what_their_schemas_say() {
    conforms::<((), bool, char, String, Cow<'static, str>)>();
    conforms::<(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64)>();
    conforms::<(Option<u8>, Option<String>, Box<u32>)>();
    conforms::<(Vec<u32>, VecDeque<String>, HashSet<u32>, BTreeSet<i8>)>();
    conforms::<(HashMap<String, u8>, BTreeMap<u32, Vec<u8>>)>();
    conforms::<([u16; 3], [String; 2], [(); 0])>();
    conforms::<(Duration, SystemTime)>();
    conforms::<(NonZero<u8>, NonZero<u16>, NonZero<u32>, NonZero<u64>)>();
    conforms::<(NonZero<i8>, NonZero<i16>, NonZero<i32>, NonZero<i64>)>();
    conforms::<(Vec<NonZero<u8>>, BTreeMap<NonZero<u32>, u8>)>();
    conforms::<(IpAddr, Ipv4Addr, Ipv6Addr, Vec<IpAddr>)>();
    conforms::<(SocketAddr, SocketAddrV4, SocketAddrV6)>();
    conforms::<(u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8)>();
    conforms::<Unit>();
    conforms::<Newtype>();
    conforms::<Pair>();
    conforms::<Page<Page<String>>>();
    conforms::<Attributed>();
    conforms::<Transparent>();
    conforms::<External>();
    conforms::<Internal>();
    conforms::<Adjacent>();
    conforms::<Tree>();
    conforms::<Folder>();
}

#[test]
fn sequences_of_bytes_are_bytes() {
    conforms::<Vec<u8>>();
    reads_bytes::<VecDeque<u8>>();
    reads_bytes::<BTreeSet<u8>>();
    reads_bytes::<HashSet<u8>>();
    rmp_serde::from_slice::<Vec<u8>>(b"\x91\xcc\xff").unwrap();
    conforms::<[u8; 4]>();
    conforms::<Bytes>();
    conforms::<Vec<Vec<u8>>>();
    conforms::<Option<Vec<Newtype>>>();
}

#[cfg(feature = "bytes")]
#[test]
fn bytes_are_what_a_vector_of_them_is() {
    for content in [&b""[..], b"\xff", &[7; 300]] {
        let (bytes, vector) = (bytes::Bytes::copy_from_slice(content), content.to_vec());
        let (from_bytes, from_vector) = (crate::codec::tests::to_bytes(&bytes), crate::codec::tests::to_bytes(&vector));
        assert_eq!(rmp_serde::from_slice::<bytes::Bytes>(&from_vector).unwrap(), bytes);
        assert_eq!(rmp_serde::from_slice::<Vec<u8>>(&from_bytes).unwrap(), vector);
    }
    assert_eq!(fingerprint(bytes::Bytes::SCHEMA), fingerprint(Vec::<u8>::SCHEMA));
}

#[cfg(feature = "uuid")]
#[test]
fn uuids_are_sixteen_bytes() {
    conforms::<uuid::Uuid>();
    conforms::<(uuid::Uuid, Vec<uuid::Uuid>)>();
}

#[cfg(feature = "rc")]
#[test]
fn a_shared_value_is_the_value() {
    conforms::<(std::sync::Arc<str>, Vec<std::sync::Arc<Pair>>)>();
    assert_eq!(<std::sync::Arc<str>>::SCHEMA, String::SCHEMA);
}

#[cfg(feature = "rust_decimal")]
#[test]
fn a_decimal_is_text_with_all_its_digits() {
    conforms::<(rust_decimal::Decimal, Option<rust_decimal::Decimal>)>();
    conforms::<BTreeMap<rust_decimal::Decimal, Vec<rust_decimal::Decimal>>>();
}

/// Whether one type reads the text that the other wrote, and writes the same again.
#[cfg(all(feature = "chrono", feature = "jiff"))]
#[track_caller]
fn same_text<A, B>(written: &A)
where
    A: SchemaType + Serialize + DeserializeOwned + PartialEq + Debug,
    B: SchemaType + Serialize + DeserializeOwned,
{
    assert_eq!(A::SCHEMA, B::SCHEMA);
    let bytes = crate::codec::tests::to_bytes(written);
    let other: B = rmp_serde::from_slice(&bytes).unwrap();
    let back: A = rmp_serde::from_slice(&crate::codec::tests::to_bytes(&other)).unwrap();
    assert_eq!(&back, written);
}

#[cfg(all(feature = "chrono", feature = "jiff"))]
#[test]
fn times_of_chrono_and_jiff_of_one_name_read_each_other() {
    let time = chrono::DateTime::from_timestamp(1_767_323_045, 123_456_789).unwrap();
    same_text::<_, jiff::Timestamp>(&time);
    same_text::<_, jiff::Timestamp>(&time.with_timezone(&chrono::FixedOffset::east_opt(19_800).unwrap()));
    same_text::<_, jiff::civil::DateTime>(&time.naive_utc());
    same_text::<_, jiff::civil::Date>(&time.date_naive());
    same_text::<_, jiff::civil::Time>(&time.time());
}

#[cfg(feature = "chrono")]
#[test]
fn times_of_chrono_are_text() {
    use chrono::{DateTime, FixedOffset, Month, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc, Weekday};
    conforms::<DateTime<Utc>>();
    conforms::<(NaiveDateTime, NaiveDate, NaiveTime)>();
    conforms::<(TimeDelta, Weekday, Month)>();
    assert_eq!(<DateTime<FixedOffset>>::SCHEMA, <DateTime<Utc>>::SCHEMA);
}

#[cfg(feature = "jiff")]
#[test]
fn times_of_jiff_are_text() {
    use jiff::civil::{Date, DateTime, ISOWeekDate, Time};
    conforms::<(jiff::Timestamp, jiff::ZonedDateTime)>();
    conforms::<(DateTime, Date, Time, ISOWeekDate)>();
    conforms::<jiff::SignedDuration>();
    conforms::<jiff::Span>();
}

#[cfg(feature = "time")]
#[test]
fn times_of_the_crate_time_are_numbers() {
    conforms::<(time::OffsetDateTime, time::UtcDateTime, time::PrimitiveDateTime)>();
    conforms::<(time::Date, time::Time, time::UtcOffset, time::Duration)>();
    conforms::<(time::Weekday, time::Month, Vec<time::Month>)>();
}

/// An array for each struct, whatever is inside.
#[stream_event(stream = "s", layout = "array")]
#[derive(Debug, PartialEq)]
struct Dense {
    symbol: String,
    venue: Option<String>,
    legs: Vec<DenseLeg>,
    side: DenseSide,
    tags: BTreeMap<String, u8>,
}

#[event_type]
#[derive(Debug, PartialEq)]
struct DenseLeg {
    venue: u8,
    quantity: u64,
}

#[event_type]
#[derive(Debug, PartialEq)]
enum DenseSide {
    Buy,
    Limit { price: u8 },
    Inside(DenseTagged),
}

#[event_type]
#[serde(tag = "kind")]
#[derive(Debug, PartialEq)]
enum DenseTagged {
    A,
    B { leg: u8, price: f64 },
    C(DenseLeg),
}

fn dense(side: DenseSide) -> Dense {
    let legs = vec![DenseLeg { venue: 1, quantity: 2 }];
    Dense { symbol: "A".to_owned(), venue: None, legs, side, tags: BTreeMap::from([("t".to_owned(), 3)]) }
}

#[test]
fn the_array_layout_writes_arrays_and_reads_them() {
    let mut bytes = Vec::new();
    crate::codec::encode(&dense(DenseSide::Buy), &mut bytes).unwrap();
    assert_eq!(bytes, b"\x95\xa1A\xc0\x91\x92\x01\x02\xa3Buy\x81\xa1t\x03");
    let sides = [
        DenseSide::Limit { price: 4 },
        DenseSide::Inside(DenseTagged::A),
        DenseSide::Inside(DenseTagged::B { leg: 5, price: 0.5 }),
        DenseSide::Inside(DenseTagged::C(DenseLeg { venue: 6, quantity: 7 })),
    ];
    for side in sides {
        let event = dense(side);
        let mut bytes = Vec::new();
        crate::codec::encode(&event, &mut bytes).unwrap();
        describes(Dense::SCHEMA, Layout::Array, &bytes);
        assert_eq!(crate::codec::decode_payload::<Dense>(&bytes), Ok(event), "{bytes:02x?}");
    }
    // One field more or less is another event.
    assert!(crate::codec::decode_payload::<Dense>(b"\x94\xa1A\xc0\x90\xa3Buy").is_err());
    assert!(crate::codec::decode_payload::<Dense>(b"\x96\xa1A\xc0\x90\xa3Buy\x80\x00").is_err());
    // An event that another producer wrote as a map is read, too.
    let map = crate::codec::tests::to_bytes(&dense(DenseSide::Buy));
    assert_eq!(crate::codec::decode_payload::<Dense>(&map), Ok(dense(DenseSide::Buy)));
}

/// The types that may stand beside a tag, which serde reads through a buffer.
#[stream_event(stream = "s")]
#[derive(Debug, PartialEq)]
#[serde(tag = "kind")]
enum Beside {
    Nothing(()),
    Any(BTreeMap<String, u8>),
    Side(DenseSide),
    Tagged(BesideInner),
    Adjacent(BesideAdjacent),
    At(SystemTime),
    Read {
        by_number: BTreeMap<i16, Option<char>>,
        by_side: BTreeMap<bool, DenseSide>,
        rates: (f32, f64, u64, i64),
        nothing: (),
        unit: BesideUnit,
        took: Duration,
        r#type: Option<Box<DenseLeg>>,
        größe: [u16; 2],
    },
    #[serde(rename = "")]
    Unnamed,
}

#[event_type]
#[derive(Debug, PartialEq)]
#[serde(tag = "what")]
enum BesideInner {
    A,
    B { x: u8 },
}

#[event_type]
#[derive(Debug, PartialEq)]
#[serde(tag = "what", content = "held")]
enum BesideAdjacent {
    A,
    B(u8),
}

#[event_type]
#[derive(Debug, PartialEq)]
struct BesideUnit;

#[test]
fn what_stands_beside_a_tag_is_read_back() {
    let read = |letter| Beside::Read {
        by_number: BTreeMap::from([(-1, Some('é')), (300, None)]),
        by_side: BTreeMap::from([(true, DenseSide::Buy), (false, DenseSide::Limit { price: 3 })]),
        rates: (0.1, f64::INFINITY, u64::MAX, i64::MIN),
        nothing: (),
        unit: BesideUnit,
        took: Duration::from_millis(1_500),
        r#type: letter,
        größe: [1, 2],
    };
    let events = [
        Beside::Nothing(()),
        Beside::Any(BTreeMap::from([("a".to_owned(), 1)])),
        Beside::Side(DenseSide::Buy),
        Beside::Side(DenseSide::Limit { price: 1 }),
        Beside::Side(DenseSide::Inside(DenseTagged::B { leg: 1, price: 2.0 })),
        Beside::Tagged(BesideInner::A),
        Beside::Tagged(BesideInner::B { x: 1 }),
        Beside::Adjacent(BesideAdjacent::A),
        Beside::Adjacent(BesideAdjacent::B(1)),
        Beside::At(SystemTime::UNIX_EPOCH),
        read(None),
        read(Some(Box::new(DenseLeg { venue: 1, quantity: 2 }))),
        Beside::Unnamed,
    ];
    for event in events {
        let mut bytes = Vec::new();
        crate::codec::encode(&event, &mut bytes).unwrap();
        assert_eq!(conform::not_as_declared(Beside::SCHEMA, Layout::Map, &bytes), None, "{event:?}");
        assert_eq!(conform::unreadable(Beside::SCHEMA, &bytes), None, "{event:?}");
        describes(Beside::SCHEMA, Layout::Map, &bytes);
        assert_eq!(crate::codec::decode_payload::<Beside>(&bytes), Ok(event));
    }
    // A map may have any key, and only what is published shows that.
    let taken = Beside::Any(BTreeMap::from([("kind".to_owned(), 1)]));
    let error = crate::codec::encode(&taken, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("expected `kind` once, found it a second time"), "{error}");
}

#[test]
fn the_order_of_fields_counts_in_the_array_layout_alone() {
    use super::layout_fingerprint;
    let (base, other) = (base::Trade::SCHEMA, reordered_and_renamed::Fill::SCHEMA);
    assert_eq!(layout_fingerprint(base, Layout::Map), layout_fingerprint(other, Layout::Map));
    assert_ne!(layout_fingerprint(base, Layout::Array), layout_fingerprint(other, Layout::Array));
    assert_ne!(layout_fingerprint(base, Layout::Array), layout_fingerprint(base, Layout::Map));
}

#[test]
fn the_name_of_a_type_that_leads_back_stands_in_the_schema() {
    let Schema::Struct(StructSchema { fields: [files], .. }) = Folder::SCHEMA else { panic!() };
    let Schema::Seq(Schema::Struct(StructSchema { fields: [inside], .. })) = files.schema else { panic!() };
    assert_eq!(inside.schema, &Schema::Option(&Schema::Ref("Folder")));
}

#[test]
fn a_declared_form_stands_in_the_schema() {
    let Schema::Struct(StructSchema { fields: [number, vouched], .. }) = Wired::SCHEMA else { panic!() };
    assert_eq!(number.schema, &Schema::Str);
    assert_eq!(vouched.schema, &Schema::Opaque("number@1"));
}

#[test]
fn attributes_reach_the_schema() {
    let Schema::Struct(schema) = Attributed::SCHEMA else { panic!() };
    let names: Vec<_> = schema.fields.iter().map(|field| field.name).collect();
    assert_eq!(names, ["twoWords", "other", "leftOut", "type", "leading"]);
    assert_eq!(schema.fields[1].aliases, ["older"]);
    assert!(schema.fields[1].optional && !schema.fields[1].may_be_absent);
    assert!(schema.fields[2].optional && schema.fields[2].may_be_absent);
    assert!(!schema.fields[0].optional);
    let Schema::Enum(schema) = External::SCHEMA else { panic!() };
    assert_eq!(schema.variants[0].name, "UNIT-VARIANT");
    let Schema::Struct(body) = schema.variants[3].body else { panic!() };
    assert_eq!(body.fields[0].name, "SomeField");
}

/// One module per shape, so that a type of each may have the same name.
macro_rules! shapes {
    ($($module:ident { $($item:item)* })*) => { $(
        mod $module {
            use super::*;
            $($item)*
        }
    )* };
}

shapes! {
    base {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { pub(super) px: f64, pub(super) side: Side }
        #[event_type]
        pub(super) enum Side { Buy, Sell }
    }
    reordered_and_renamed {
        #[stream_event(stream = "s")]
        pub(super) struct Fill { pub(super) side: Direction, pub(super) px: f64 }
        #[event_type]
        pub(super) enum Direction { Sell, Buy }
    }
    narrower {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { pub(super) px: f32, pub(super) side: base::Side }
    }
    optional {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { pub(super) px: Option<f64>, pub(super) side: base::Side }
    }
    with_a_default {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { #[serde(default)] pub(super) px: f64, pub(super) side: base::Side }
    }
    longer {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { pub(super) px: f64, pub(super) side: base::Side, pub(super) more: () }
    }
    another_variant_inside {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { pub(super) px: f64, pub(super) side: Side }
        #[event_type]
        pub(super) enum Side { Buy, Sell, Short }
    }
    tagged_inside {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { pub(super) px: f64, pub(super) side: Side }
        #[event_type]
        #[serde(tag = "t")]
        pub(super) enum Side { Buy, Sell }
    }
    swapped {
        #[stream_event(stream = "s")]
        pub(super) struct Trade { #[serde(rename = "side")] pub(super) px: f64, #[serde(rename = "px")] pub(super) side: base::Side }
    }
}

#[test]
fn the_fingerprint_sees_what_the_wire_shows_and_nothing_else() {
    const BASE: u64 = fingerprint(base::Trade::SCHEMA);
    assert_eq!(BASE, fingerprint(reordered_and_renamed::Fill::SCHEMA));
    assert_eq!(BASE, <base::Trade as crate::StreamEvent>::INFO.fingerprint);
    let others = [
        BASE,
        fingerprint(narrower::Trade::SCHEMA),
        fingerprint(optional::Trade::SCHEMA),
        fingerprint(with_a_default::Trade::SCHEMA),
        fingerprint(longer::Trade::SCHEMA),
        fingerprint(another_variant_inside::Trade::SCHEMA),
        fingerprint(tagged_inside::Trade::SCHEMA),
        fingerprint(swapped::Trade::SCHEMA),
    ];
    assert_eq!(others.iter().collect::<HashSet<_>>().len(), others.len());
    // It is compared between programs of different builds, so it may never change.
    assert_eq!(BASE, 12_685_920_860_938_840_624);
}
