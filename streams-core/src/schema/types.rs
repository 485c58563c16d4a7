//! The wire forms of std's types, and by feature of those of other crates; the tests compare each with serde.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZero;
use std::time::{Duration, SystemTime};

use super::{EnumSchema, Field, Schema, SchemaType, StructSchema, Tagging, Variant};

macro_rules! plain {
    ($($type:ty => $schema:expr),* $(,)?) => { $(
        impl SchemaType for $type {
            const SCHEMA: &'static Schema = &$schema;
        }
    )* };
}

plain! {
    () => Schema::Unit,
    bool => Schema::Bool,
    char => Schema::Char,
    str => Schema::Str,
    String => Schema::Str,
    u8 => Schema::Int { bits: 8, signed: false },
    u16 => Schema::Int { bits: 16, signed: false },
    u32 => Schema::Int { bits: 32, signed: false },
    u64 => Schema::Int { bits: 64, signed: false },
    i8 => Schema::Int { bits: 8, signed: true },
    i16 => Schema::Int { bits: 16, signed: true },
    i32 => Schema::Int { bits: 32, signed: true },
    i64 => Schema::Int { bits: 64, signed: true },
    f32 => Schema::F32,
    f64 => Schema::F64,
}

macro_rules! generic {
    ($([$($parameters:tt)*] $type:ty => $schema:expr),* $(,)?) => { $(
        impl<$($parameters)*> SchemaType for $type {
            const SCHEMA: &'static Schema = $schema;
        }
    )* };
}

generic! {
    [T: SchemaType] Option<T> => &Schema::Option(T::SCHEMA),
    [T: SchemaType] Vec<T> => &Schema::Seq(T::SCHEMA),
    [T: SchemaType] VecDeque<T> => &Schema::Seq(T::SCHEMA),
    [T: SchemaType, S] HashSet<T, S> => &Schema::Seq(T::SCHEMA),
    [T: SchemaType] BTreeSet<T> => &Schema::Seq(T::SCHEMA),
    [K: SchemaType, V: SchemaType, S] HashMap<K, V, S> => &Schema::Map(K::SCHEMA, V::SCHEMA),
    [K: SchemaType, V: SchemaType] BTreeMap<K, V> => &Schema::Map(K::SCHEMA, V::SCHEMA),
    [T: SchemaType, const N: usize] [T; N] => &Schema::Array(T::SCHEMA, N),
    [T: SchemaType + ?Sized] Box<T> => T::SCHEMA,
    [T: SchemaType + ToOwned + ?Sized] Cow<'_, T> => T::SCHEMA,
}

#[cfg(feature = "rc")]
generic! { [T: SchemaType + ?Sized] std::sync::Arc<T> => T::SCHEMA }

/// A form with a meaning.
macro_rules! logical {
    ($($type:ty => $name:literal, $wire:expr;)*) => { plain! {
        $($type => Schema::Logical { name: $name, wire: $wire },)*
    } };
}

logical! {
    NonZero<u8> => "nonzero", u8::SCHEMA;
    NonZero<u16> => "nonzero", u16::SCHEMA;
    NonZero<u32> => "nonzero", u32::SCHEMA;
    NonZero<u64> => "nonzero", u64::SCHEMA;
    NonZero<i8> => "nonzero", i8::SCHEMA;
    NonZero<i16> => "nonzero", i16::SCHEMA;
    NonZero<i32> => "nonzero", i32::SCHEMA;
    NonZero<i64> => "nonzero", i64::SCHEMA;
    Ipv4Addr => "ipv4", <[u8; 4]>::SCHEMA;
    Ipv6Addr => "ipv6", <[u8; 16]>::SCHEMA;
    SocketAddrV4 => "socket-v4", <(Ipv4Addr, u16)>::SCHEMA;
    SocketAddrV6 => "socket-v6", <(Ipv6Addr, u16)>::SCHEMA;
}

/// An address of either version of IP, as serde writes it into formats for programs.
const fn versions(v4: &'static Schema, v6: &'static Schema) -> [Variant; 2] {
    const fn variant(name: &'static str, body: &'static Schema) -> Variant {
        Variant { name, aliases: &[], body, catch_all: false, doc: "" }
    }
    [variant("V4", v4), variant("V6", v6)]
}

plain! {
    IpAddr => Schema::Enum(&const {
        EnumSchema::new("IpAddr", Tagging::External, &const { versions(Ipv4Addr::SCHEMA, Ipv6Addr::SCHEMA) })
    }),
    SocketAddr => Schema::Enum(&const {
        EnumSchema::new("SocketAddr", Tagging::External, &const { versions(SocketAddrV4::SCHEMA, SocketAddrV6::SCHEMA) })
    }),
}

macro_rules! tuples {
    ($([$($member:ident)+])*) => { $(
        impl<$($member: SchemaType),+> SchemaType for ($($member,)+) {
            const SCHEMA: &'static Schema = &Schema::Tuple(&[$($member::SCHEMA),+]);
        }
    )* };
}

tuples! {
    [A]
    [A B]
    [A B C]
    [A B C D]
    [A B C D E]
    [A B C D E F]
    [A B C D E F G]
    [A B C D E F G H]
    [A B C D E F G H I]
    [A B C D E F G H I J]
    [A B C D E F G H I J K]
    [A B C D E F G H I J K L]
}

/// serde writes both times as a struct of whole seconds and nanoseconds.
const fn time(seconds: &'static str, nanos: &'static str) -> [Field; 2] {
    const fn required(name: &'static str, schema: &'static Schema) -> Field {
        Field { name, aliases: &[], schema, optional: false, may_be_absent: false, doc: "" }
    }
    [required(seconds, u64::SCHEMA), required(nanos, u32::SCHEMA)]
}

plain! {
    Duration => Schema::Logical {
        name: "duration",
        wire: &Schema::Struct(&const { StructSchema::new("Duration", false, &const { time("secs", "nanos") }) }),
    },
    SystemTime => Schema::Logical {
        name: "time",
        wire: &Schema::Struct(&const {
            StructSchema::new("SystemTime", false, &const { time("secs_since_epoch", "nanos_since_epoch") })
        }),
    },
}

// MessagePack is not for people, so a uuid is its 16 bytes.
#[cfg(feature = "uuid")]
logical! { uuid::Uuid => "uuid", &Schema::Bytes; }

// Text keeps every digit. A `Decimal` that its own features write or read as a float is refused by the codec.
#[cfg(feature = "rust_decimal")]
plain! { rust_decimal::Decimal => Schema::Logical { name: DECIMAL, wire: &Schema::Str } }

// chrono writes text into every format. A time zone such as those of `chrono-tz` can be written, but not read.
#[cfg(feature = "chrono")]
generic! {
    [Tz: chrono::TimeZone] chrono::DateTime<Tz> => &Schema::Logical { name: "rfc3339", wire: &Schema::Str }
}

#[cfg(feature = "chrono")]
logical! {
    chrono::NaiveDateTime => "date-time", &Schema::Str;
    chrono::NaiveDate => "date", &Schema::Str;
    chrono::NaiveTime => "time-of-day", &Schema::Str;
    chrono::TimeDelta => "time-delta", <(i64, i32)>::SCHEMA;
    chrono::Weekday => "weekday", &Schema::Str;
    chrono::Month => "month", &Schema::Str;
}

// jiff writes text into every format; where chrono has the same text, it has the same name.
#[cfg(feature = "jiff")]
logical! {
    jiff::Timestamp => "rfc3339", &Schema::Str;
    jiff::ZonedDateTime => "rfc9557", &Schema::Str;
    jiff::civil::DateTime => "date-time", &Schema::Str;
    jiff::civil::Date => "date", &Schema::Str;
    jiff::civil::Time => "time-of-day", &Schema::Str;
    jiff::civil::ISOWeekDate => "week-date", &Schema::Str;
    jiff::SignedDuration => "iso8601-duration", &Schema::Str;
    jiff::Span => "iso8601-span", &Schema::Str;
}

// `time` writes numbers into formats for programs: year, day of the year, hour, minute, second, nanosecond, offset.
#[cfg(feature = "time")]
logical! {
    time::OffsetDateTime => "offset-date-time-parts", <(i32, u16, u8, u8, u8, u32, i8, i8, i8)>::SCHEMA;
    time::UtcDateTime => "utc-date-time-parts", <(i32, u16, u8, u8, u8, u32)>::SCHEMA;
    time::PrimitiveDateTime => "date-time-parts", <(i32, u16, u8, u8, u8, u32)>::SCHEMA;
    time::Date => "date-parts", <(i32, u16)>::SCHEMA;
    time::Time => "time-of-day-parts", <(u8, u8, u8, u32)>::SCHEMA;
    time::UtcOffset => "offset-parts", <(i8, i8, i8)>::SCHEMA;
    time::Duration => "signed-duration", <(i64, i32)>::SCHEMA;
    time::Weekday => "weekday-number", &Schema::Int { bits: 8, signed: false };
    time::Month => "month-number", &Schema::Int { bits: 8, signed: false };
}

// The form of `Vec<u8>`, so that a field may change from one to the other.
#[cfg(feature = "bytes")]
plain! { bytes::Bytes => Schema::Seq(u8::SCHEMA) }

/// A number that is text, because a float would round it.
pub(crate) const DECIMAL: &str = "decimal";

/// The types that `frozen_event!` writes for the forms of other crates, in the case of types. Text that several of them
/// write is chrono's.
#[doc(hidden)]
pub mod forms {
    #[cfg(feature = "chrono")]
    pub use chrono::{Month, NaiveDate as Date, NaiveDateTime as DateTime, NaiveTime as TimeOfDay, TimeDelta, Weekday};
    #[cfg(feature = "jiff")]
    pub use jiff::{
        SignedDuration as Iso8601Duration, Span as Iso8601Span, ZonedDateTime as Rfc9557,
        civil::ISOWeekDate as WeekDate,
    };
    #[cfg(feature = "rust_decimal")]
    pub use rust_decimal::Decimal;
    #[cfg(feature = "time")]
    pub use time::{
        Date as DateParts, Duration as SignedDuration, Month as MonthNumber, OffsetDateTime as OffsetDateTimeParts,
        PrimitiveDateTime as DateTimeParts, Time as TimeOfDayParts, UtcDateTime as UtcDateTimeParts,
        UtcOffset as OffsetParts, Weekday as WeekdayNumber,
    };
    #[cfg(feature = "uuid")]
    pub use uuid::Uuid;

    #[cfg(feature = "chrono")]
    pub type Rfc3339 = chrono::DateTime<chrono::Utc>;
}

/// The constant that the attributes write for a type inside itself: a constant that needed itself would be a cycle.
#[doc(hidden)]
#[derive(Debug)]
pub struct Recursion;

/// The name of the type itself.
pub(crate) const ITSELF: &str = "Self";

plain! { Recursion => Schema::Ref(ITSELF) }
