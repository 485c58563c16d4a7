//! The wire forms of std's types, and of `uuid`, `chrono` and `bytes` by feature; the tests compare each with serde.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, SystemTime};

use super::{Field, Schema, SchemaType, StructSchema};

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
plain! { uuid::Uuid => Schema::Logical { name: "uuid", wire: &Schema::Bytes } }

// chrono writes RFC 3339 into every format. Other time zones can be written, but not read.
#[cfg(feature = "chrono")]
plain! {
    chrono::DateTime<chrono::Utc> => Schema::Logical { name: "rfc3339", wire: &Schema::Str },
    chrono::DateTime<chrono::FixedOffset> => Schema::Logical { name: "rfc3339", wire: &Schema::Str },
}

// The form of `Vec<u8>`, so that a field may change from one to the other.
#[cfg(feature = "bytes")]
plain! { bytes::Bytes => Schema::Seq(u8::SCHEMA) }

/// The constant that the attributes write for a type inside itself: a constant that needed itself would be a cycle.
#[doc(hidden)]
#[derive(Debug)]
pub struct Recursion;

/// The name of the type itself.
pub(crate) const ITSELF: &str = "Self";

plain! { Recursion => Schema::Ref(ITSELF) }
