//! Event types and the streams that carry them; [`crate::schema`] describes their shape, [`crate::codec`] their bytes.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZero;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::codec::DecodeError;
use crate::schema::{Layout, Schema};
use crate::{SchemaType, upcast};

/// An event: a type tied to one stream, with a name and a version on the wire.
///
/// The attribute `#[stream_event(stream = "...")]` implements it; do not implement it by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a stream event",
    label = "not a stream event",
    note = "put `#[stream_event(stream = \"...\")]` on `{Self}`"
)]
pub trait StreamEvent: SchemaType + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The arguments of the attribute.
    const INFO: &'static EventInfo;

    /// The value of the `key = field`, as text: events of one key share a partition, so they stay in order.
    fn key(&self) -> Option<Cow<'_, str>>;

    /// Not public API: the event in these bytes of an entry of this version; see `codec::decode`.
    #[doc(hidden)]
    fn decode_version(version: u32, payload: &[u8]) -> Result<Self, DecodeError> {
        upcast::decode_own(version, payload)
    }
}

/// The arguments of `#[stream_event(..)]` on an event type. They are one value, because the attribute writes one constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventInfo {
    /// The stream that carries the event.
    pub stream: &'static str,
    /// The event's name on the wire, unique in its stream.
    pub name: &'static str,
    /// The version that a publisher writes, from 1.
    pub version: u32,
    /// The oldest version that consumers read. They upcast it through the versions between.
    pub oldest: u32,
    /// The newest version in the event's lock when the program was compiled; without a lock, the event's own.
    pub newest: u32,
    /// The version before this one, if consumers read its events.
    pub upcast_from: Option<&'static EventInfo>,
    /// The field whose value keeps events in order, if any.
    pub key: Option<&'static str>,
    /// A property of the stream: its number of partitions.
    pub partitions: Option<u32>,
    /// A property of the stream: how long it keeps entries.
    pub retention: Option<Retention>,
    /// A property of the stream: how safe an event is before its publish succeeds.
    pub durability: Option<Durability>,
    /// A property of the event: the most bytes its payload may have.
    pub max_payload: Option<usize>,
    /// Its shape on the wire.
    pub schema: &'static Schema,
    /// The form of its structs on the wire.
    pub layout: Layout,
    /// The hash of its schema.
    pub fingerprint: u64,
    /// The Rust type, for messages.
    pub type_name: &'static str,
    /// Where it is declared.
    pub file: &'static str,
    /// Where it is declared.
    pub line: u32,
}

/// How long a stream keeps its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// For this time, whether every group has settled them or not.
    Age(Duration),
    /// Until every group of the stream has settled them. A group that no process runs any more holds them, too.
    Consumed,
}

/// Where an event must be before its publish succeeds, beyond the memory of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// On the disk of the server; also on the disks of the replicas, if `replicas` is not 0.
    pub fsync: bool,
    /// In at least this many replicas.
    pub replicas: u32,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.fsync, self.replicas) {
            (true, 0) => f.write_str("fsync"),
            (true, replicas) => write!(f, "fsync, replicas({replicas})"),
            (false, replicas) => write!(f, "replicas({replicas})"),
        }
    }
}

/// An event type that is linked into the program, found through `inventory`.
#[derive(Debug, Clone, Copy)]
pub struct EventRegistration {
    /// The arguments of its attribute.
    pub info: &'static EventInfo,
}

impl EventRegistration {
    /// The registration of `E`.
    pub const fn of<E: StreamEvent>() -> Self {
        Self { info: E::INFO }
    }
}

inventory::collect!(EventRegistration);

/// A type that may be the `key` of an event.
///
/// The text is hashed, so that a producer in another language picks the same partition.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` cannot be the `key` of an event",
    label = "expected a string, an integer or a uuid",
    note = "keys are hashed as text, so that every language picks the same partition; add a `String` field for this one, or implement `EventKey` for a type of your own"
)]
pub trait EventKey {
    /// The key's text.
    fn text(&self) -> Cow<'_, str>;
}

impl EventKey for String {
    fn text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

macro_rules! integer_keys {
    ($($integer:ty),*) => { $(
        impl EventKey for $integer {
            fn text(&self) -> Cow<'_, str> {
                Cow::Owned(self.to_string())
            }
        }
    )* };
}
integer_keys!(u8, u16, u32, u64, i8, i16, i32, i64);
integer_keys!(NonZero<u8>, NonZero<u16>, NonZero<u32>, NonZero<u64>);
integer_keys!(NonZero<i8>, NonZero<i16>, NonZero<i32>, NonZero<i64>);

#[cfg(feature = "rc")]
impl EventKey for std::sync::Arc<str> {
    fn text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

#[cfg(feature = "uuid")]
impl EventKey for uuid::Uuid {
    fn text(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}
