//! What makes a Rust type an event of a stream; [`crate::schema`] describes its shape, [`crate::codec`] its bytes.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::SchemaType;
use crate::schema::Schema;

/// An event: a type tied to one stream, with a name and a version on the wire.
///
/// Written by `#[stream_event(stream = "...")]`, not by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a stream event",
    label = "not a stream event",
    note = "put `#[stream_event(stream = \"...\")]` on `{Self}`"
)]
pub trait StreamEvent: SchemaType + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the attribute said.
    const INFO: &'static EventInfo;

    /// The value of the `key = field`, as text: events of one key share a partition, so they stay in order.
    fn key(&self) -> Option<Cow<'_, str>>;
}

/// What `#[stream_event(..)]` said about an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventInfo {
    /// The stream that carries the event.
    pub stream: &'static str,
    /// The event's name on the wire, unique in its stream.
    pub name: &'static str,
    /// The event's version, from 1.
    pub version: u32,
    /// The field that keeps events in order, if any.
    pub key: Option<&'static str>,
    /// A property of the stream: how many partitions it has.
    pub partitions: Option<u32>,
    /// A property of the stream: how long its entries are kept.
    pub retention: Option<Retention>,
    /// A property of the stream: what a publish waits for beyond the server's answer.
    pub durability: Option<Durability>,
    /// A property of the event: the most bytes its payload may have.
    pub max_payload: Option<usize>,
    /// Its shape on the wire.
    pub schema: &'static Schema,
    /// The hash of its schema.
    pub fingerprint: u64,
    /// The Rust type, for messages.
    pub type_name: &'static str,
    /// Where it is declared.
    pub file: &'static str,
    /// Where it is declared.
    pub line: u32,
}

/// How long the entries of a stream are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// So long, whether every group has settled them or not.
    Age(Duration),
    /// Until every group of the stream has settled them: the slowest one holds them, also when nobody runs it any more.
    Consumed,
}

/// Where an event must be before its publish succeeds, beyond the memory of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// On the server's disk; on that of the replicas, too, where some are asked for.
    pub fsync: bool,
    /// With at least so many replicas.
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
    /// What its attribute said.
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
/// Hashed as text, so that a producer in another language picks the same partition.
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

#[cfg(feature = "uuid")]
impl EventKey for uuid::Uuid {
    fn text(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}
