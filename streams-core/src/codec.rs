//! The bytes of an event: encodes MessagePack and decodes it strictly; only this module knows MessagePack.
//!
//! Decoding answers in time and memory bounded by the payload's size, whatever a producer wrote. It checks the size
//! first, then `scan` walks the headers, and only then serde reads the payload. The factor depends on the type. An item
//! of one byte, such as `None` or a struct whose fields all have defaults, takes as much memory as its type.

pub(crate) mod conform;
mod from_json;
mod text;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rmp_serde::config::BytesMode;
use serde::Serialize as _;

use self::conform::{Ended, Mismatch};
#[doc(hidden)]
pub use self::from_json::{Misfit, from_json, from_json_like};
pub use self::text::{json, json_without, text, text_without};
use crate::schema::Layout;
use crate::schema::sample::Sample;
use crate::{BoxError, Entry, EventInfo, StreamEvent};

/// The most bytes of a payload unless the event says otherwise. With its id, names and headers an entry stays below 1
/// MiB, the most that users of this project asked for.
pub const DEFAULT_MAX_PAYLOAD: usize = 1024 * 1024 - 4096;

/// The largest `max_payload` of an event. Decoded, each byte of a payload may become one item of a list, as large as
/// the item's type. A process keeps a few of the largest entries in memory at once.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// The deepest nesting of arrays and maps: each level takes a frame of serde's on the stack.
pub const MAX_DEPTH: usize = 64;

/// The most bytes of a payload that a debug build reads back. A small payload shows a mistake in a type, too, and a
/// large one would make the build slow.
const MAX_READ_BACK: usize = 64 * 1024;

/// How many values the test of a lock makes from a schema; it tries as many variants of each enum.
const SAMPLES: usize = 24;

/// The most bytes of serde's reason in an error, because the reason may repeat parts of the payload.
const MAX_REASON: usize = 1024;

/// The most bytes of each of two payloads that an error shows.
const MAX_SHOWN: usize = 256;

/// The most bytes of a payload in which an error seeks the value where serde stopped, in some twenty attempts.
const MAX_SOUGHT: usize = 1024 * 1024;

/// The most bytes that a payload of `E` may have.
pub const fn max_payload<E: StreamEvent>() -> usize {
    match E::INFO.max_payload {
        Some(bytes) => bytes,
        None => DEFAULT_MAX_PAYLOAD,
    }
}

/// The bytes of a value that only this project's programs read again, such as the state of a snapshot.
///
/// # Errors
/// serde's, for a value that it cannot write.
pub fn pack<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, BoxError> {
    Ok(rmp_serde::to_vec_named(value)?)
}

/// The value of such bytes.
///
/// # Errors
/// serde's, for bytes of another shape.
pub fn unpack<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
    let mut rest = bytes;
    let value = rmp_serde::from_read(&mut rest)?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes are left over", rest.len()).into()) }
}

/// Appends the event's bytes to `buffer`, which callers should reuse. Structs are maps by field name, or arrays where
/// the event says `layout = "array"`.
///
/// # Errors
/// When the event is larger or deeper than a consumer would accept, or serde refuses it. A debug build also refuses
/// bytes that differ from the schema or that are not read back as the same event. The buffer is then as before.
pub fn encode<E: StreamEvent>(event: &E, buffer: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = buffer.len();
    encode_into(event, buffer).map_err(|fault| {
        buffer.truncate(start);
        EncodeError { event: E::INFO, fault }
    })
}

fn encode_into<E: StreamEvent>(event: &E, buffer: &mut Vec<u8>) -> Result<(), Fault> {
    let start = buffer.len();
    let arrays = rmp_serde::Serializer::new(&mut *buffer).with_bytes(BytesMode::ForceAll);
    let written = match E::INFO.layout {
        Layout::Map => event.serialize(&mut arrays.with_struct_map()),
        Layout::Array => event.serialize(&mut { arrays }),
    };
    written.map_err(|error| Fault::Serde(error.to_string()))?;
    let written = &buffer[start..];
    check_size::<E>(written)?;
    // Consumers must be able to read it: serde writes deeper than `MAX_DEPTH` without an error.
    scan(written)?;
    if cfg!(debug_assertions) && written.len() <= MAX_READ_BACK { read_back::<E>(written) } else { Ok(()) }
}

/// Checks that the written bytes match the schema, and are read as the same event.
pub(crate) fn read_back<E: StreamEvent>(written: &[u8]) -> Result<(), Fault> {
    let info = E::INFO;
    if let Some(mismatch) = conform::not_as_declared(info.schema, info.layout, written) {
        return Err(Fault::NotAsDeclared(Box::new(mismatch)));
    }
    // Consumers catch the panic of a type over its own bytes, so it is no fault of the publisher.
    let read = catch_unwind(AssertUnwindSafe(|| decode_from::<E>(written)));
    let Ok(read) = read else { return Ok(()) };
    let event = read.map_err(|fault| Fault::NotReadBack(Box::new(fault)))?;
    let mut again = Vec::with_capacity(written.len());
    let arrays = rmp_serde::Serializer::new(&mut again).with_bytes(BytesMode::ForceAll);
    let rewritten = match info.layout {
        Layout::Map => event.serialize(&mut arrays.with_struct_map()),
        Layout::Array => event.serialize(&mut { arrays }),
    };
    match rewritten {
        Ok(()) if conform::same(written, &again) => Ok(()),
        Ok(()) => Err(Fault::ReadAsOther(Box::new([text(written, MAX_SHOWN), text(&again, MAX_SHOWN)]))),
        Err(error) => Err(Fault::NotReadBack(Box::new(Fault::Serde(error.to_string())))),
    }
}

/// Checks that a type reads and writes values of its schema, by samples made from the schema. It does not judge a type
/// that refuses the samples for a reason of its own.
pub(crate) fn holds_to_schema<E: StreamEvent>() -> Result<(), String> {
    let EventInfo { name, version, schema, .. } = E::INFO;
    for pick in 0..SAMPLES {
        let mut room = vec![0; MAX_READ_BACK];
        let mut free = room.as_mut_slice();
        let mut serializer = rmp_serde::Serializer::new(&mut free).with_struct_map().with_bytes(BytesMode::ForceAll);
        // A sample that does not fit, or that only its own type could write.
        if (Sample { schema, pick, writes_other: false }).serialize(&mut serializer).is_err() {
            continue;
        }
        let free = free.len();
        let payload = &room[..MAX_READ_BACK - free];
        match catch_unwind(AssertUnwindSafe(|| decode_from::<E>(payload))) {
            Ok(Ok(event)) => {
                let mut written = Vec::new();
                let encoded = encode_into(&event, &mut written).and_then(|()| read_back::<E>(&written));
                if let Err(fault @ (Fault::NotAsDeclared(_) | Fault::NotReadBack(_) | Fault::ReadAsOther(_))) = encoded
                {
                    return Err(format!("event `{name}@{version}`: {fault}"));
                }
            }
            Ok(Err(fault @ Fault::Serde(_))) if fault.is_of_another_form() => {
                let fault = explained::<E>(fault, payload);
                return Err(format!(
                    "event `{name}@{version}` does not read what its schema says: {fault}; correct `#[event(wire = ..)]` there, or the `Deserialize` of the type"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The event of an entry. An event of an older version is upcast step by step, back to the event's `oldest` version.
///
/// # Errors
/// When the entry holds another event, a version that is not read, or bytes that are no such event. Also when an upcaster
/// refuses it.
pub fn decode<E: StreamEvent>(entry: &Entry) -> Result<E, DecodeError> {
    let info = E::INFO;
    let refuse = |problem| Err(DecodeError { event: info, problem });
    let Some((name, version)) = entry.event() else {
        return refuse(match entry.field(Entry::EVENT) {
            Some(seen) => Problem::BadEvent(excerpt(seen)),
            None => Problem::Missing(Entry::EVENT),
        });
    };
    if name != info.name {
        return refuse(Problem::OtherEvent { name: excerpt(name.as_bytes()), version });
    }
    if !(info.oldest..=info.version).contains(&version) {
        return refuse(Problem::OtherVersion(version));
    }
    match entry.payload() {
        Some(payload) => E::decode_version(version, payload),
        None => refuse(Problem::Missing(Entry::PAYLOAD)),
    }
}

/// The event in these bytes of the type's own version, whatever entry they came in.
///
/// # Errors
/// When the bytes are not such an event.
pub fn decode_payload<E: StreamEvent>(payload: &[u8]) -> Result<E, DecodeError> {
    decode_from::<E>(payload)
        .map_err(|fault| DecodeError { event: E::INFO, problem: Problem::Fault(explained::<E>(fault, payload)) })
}

/// Adds to the fault what an operator needs to find it. Never called for a payload that is read.
#[cold]
#[inline(never)]
fn explained<E: StreamEvent>(fault: Fault, payload: &[u8]) -> Fault {
    let begins_json = matches!(payload.trim_ascii_start().first(), Some(b'{' | b'['));
    if begins_json && serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() {
        return Fault::Json;
    }
    let Fault::Serde(reason) = fault else { return fault };
    if let Some(mismatch) = conform::unreadable(E::INFO.schema, payload) {
        return Fault::Mismatch(Box::new(mismatch));
    }
    // The form is right; the code of a type refuses the value.
    let stopped = if payload.len() <= MAX_SOUGHT { stopped_at::<E>(&reason, payload) } else { payload.len() };
    match conform::ending_at(E::INFO.schema, payload, stopped) {
        Some(value) => Fault::Refused(Box::new((value, shortened(reason)))),
        None => Fault::Serde(shortened(reason)),
    }
}

/// How many bytes serde reads until it refuses the payload for this reason. With fewer bytes it gives another reason.
fn stopped_at<E: StreamEvent>(reason: &str, payload: &[u8]) -> usize {
    let refuses = |end: &usize| {
        let refused = catch_unwind(AssertUnwindSafe(|| deserialized::<E>(&payload[..*end])));
        matches!(refused, Ok(Err(error)) if error == reason)
    };
    let (mut too_few, mut enough) = (0, payload.len());
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if refuses(&middle) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    enough
}

fn shortened(mut reason: String) -> String {
    if reason.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or_default();
        reason.truncate(end);
        reason.push_str("...");
    }
    reason
}

fn decode_from<E: StreamEvent>(payload: &[u8]) -> Result<E, Fault> {
    check_size::<E>(payload)?;
    scan(payload)?;
    deserialized(payload).map_err(Fault::Serde)
}

fn deserialized<E: StreamEvent>(payload: &[u8]) -> Result<E, String> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    // serde counts one level more than it allows. The scan is stricter: it also sees values that serde skips.
    deserializer.set_max_depth(MAX_DEPTH + 1);
    E::deserialize(&mut deserializer).map_err(|error| error.to_string())
}

fn check_size<E: StreamEvent>(payload: &[u8]) -> Result<(), Fault> {
    let limit = max_payload::<E>();
    if payload.len() > limit { Err(Fault::TooLarge { size: payload.len(), limit }) } else { Ok(()) }
}

/// Walks the headers of one MessagePack value and checks that it ends where `bytes` ends.
///
/// A header may claim 2^32 - 1 items in five bytes. serde's collections reserve memory by such a claim, and nested
/// claims multiply it. Each item takes at least a byte, so an honest claim is never above the bytes left.
pub(crate) fn scan(bytes: &[u8]) -> Result<(), Fault> {
    // Values still to come in the innermost open array or map, and in those around it.
    let mut left = 1_u32;
    let mut around = [0_u32; MAX_DEPTH];
    let mut depth = 0;
    let mut at = 0;
    loop {
        while left == 0 {
            if depth == 0 {
                let rest = bytes.len() - at;
                return if rest == 0 { Ok(()) } else { Err(Fault::Trailing { offset: at, rest }) };
            }
            depth -= 1;
            left = around[depth];
        }
        left -= 1;
        let Some(&marker) = bytes.get(at) else { return Err(Fault::Truncated { offset: at }) };
        let header = at;
        at += 1;
        let (claimed, nested) = match marker {
            // A small number, nil or a truth value: the marker is the whole value.
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => continue,
            // The marker holds the length.
            0xa0..=0xbf => (u64::from(marker & 0x1f), false),
            0x90..=0x9f => (u64::from(marker & 0x0f), true),
            0x80..=0x8f => (u64::from(marker & 0x0f) * 2, true),
            // Numbers.
            0xcc | 0xd0 => (1, false),
            0xcd | 0xd1 => (2, false),
            0xca | 0xce | 0xd2 => (4, false),
            0xcb | 0xcf | 0xd3 => (8, false),
            // Strings and bytes with a length of 1, 2 or 4 bytes.
            0xc4 | 0xd9 => (length::<1>(bytes, &mut at)?, false),
            0xc5 | 0xda => (length::<2>(bytes, &mut at)?, false),
            0xc6 | 0xdb => (length::<4>(bytes, &mut at)?, false),
            // Arrays and maps.
            0xdc => (length::<2>(bytes, &mut at)?, true),
            0xdd => (length::<4>(bytes, &mut at)?, true),
            0xde => (length::<2>(bytes, &mut at)? * 2, true),
            0xdf => (length::<4>(bytes, &mut at)? * 2, true),
            // Extensions of a fixed or a given length, and a byte for their type.
            0xd4..=0xd8 => (1 + (1 << (marker - 0xd4)), false),
            0xc7 => (length::<1>(bytes, &mut at)? + 1, false),
            0xc8 => (length::<2>(bytes, &mut at)? + 1, false),
            0xc9 => (length::<4>(bytes, &mut at)? + 1, false),
            0xc1 => return Err(Fault::NoMarker { offset: header }),
        };
        let rest = (bytes.len() - at) as u64;
        if claimed > rest {
            return Err(Fault::Overlong { offset: header, claimed, left: rest });
        }
        if !nested {
            at += claimed as usize;
        } else if depth == MAX_DEPTH {
            return Err(Fault::TooDeep { offset: header });
        } else {
            around[depth] = left;
            depth += 1;
            // Not above the bytes left, which are less than 4 GiB.
            left = claimed as u32;
        }
    }
}

/// Reads a length of `N` bytes at `at`, and moves `at` past it.
fn length<const N: usize>(bytes: &[u8], at: &mut usize) -> Result<u64, Fault> {
    let Some(digits) = bytes.get(*at..).and_then(|rest| rest.first_chunk::<N>()) else {
        return Err(Fault::Truncated { offset: *at });
    };
    *at += N;
    Ok(digits.iter().fold(0, |length, digit| length << 8 | u64::from(*digit)))
}

/// An entry does not hold the event that it was read as.
///
/// Another attempt fails the same way. Another program may read the entry; the predicates say which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    event: &'static EventInfo,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    Missing(&'static str),
    BadEvent(String),
    OtherEvent { name: String, version: u32 },
    OtherVersion(u32),
    NotUpcast(String),
    Fault(Fault),
}

impl DecodeError {
    pub(crate) fn other_version<E: StreamEvent>(seen: u32) -> Self {
        Self { event: E::INFO, problem: Problem::OtherVersion(seen) }
    }

    /// The upcaster of the expected event refused an older one.
    pub(crate) fn not_upcast<New: StreamEvent>(reason: String) -> Self {
        Self { event: New::INFO, problem: Problem::NotUpcast(reason) }
    }

    /// The event that was expected.
    pub fn event(&self) -> &'static EventInfo {
        self.event
    }

    /// Whether the entry holds a later version than this program knows: a newer program can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self.problem, Problem::OtherVersion(version) if version > self.event.version)
    }

    /// Whether the entry holds an earlier version than this program still reads.
    pub fn is_older(&self) -> bool {
        matches!(self.problem, Problem::OtherVersion(version) if version < self.event.version)
    }

    /// Whether the upcaster from an older version has refused the event.
    pub fn is_not_upcast(&self) -> bool {
        matches!(self.problem, Problem::NotUpcast(_))
    }

    /// Whether the entry says that it holds another event.
    pub fn is_other_event(&self) -> bool {
        matches!(self.problem, Problem::OtherEvent { .. })
    }

    /// Whether the payload is larger than the event's `max_payload`.
    pub fn is_too_large(&self) -> bool {
        matches!(self.problem, Problem::Fault(Fault::TooLarge { .. }))
    }

    /// Whether the entry is malformed: a field is missing or has another form, or the payload is not this event.
    pub fn is_malformed(&self) -> bool {
        match &self.problem {
            Problem::Missing(_) | Problem::BadEvent(_) => true,
            Problem::OtherEvent { .. } | Problem::OtherVersion(_) | Problem::NotUpcast(_) => false,
            Problem::Fault(fault) => !matches!(fault, Fault::TooLarge { .. }),
        }
    }

    /// The name and version in the entry, if they are not the expected ones.
    pub fn found(&self) -> Option<(&str, u32)> {
        match &self.problem {
            Problem::OtherEvent { name, version } => Some((name, *version)),
            Problem::OtherVersion(version) => Some((self.event.name, *version)),
            Problem::Missing(_) | Problem::BadEvent(_) | Problem::NotUpcast(_) | Problem::Fault(_) => None,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EventInfo { stream, name, version, oldest, .. } = self.event;
        match &self.problem {
            Problem::Missing(field) => {
                write!(f, "an entry of stream `{stream}` has no field `{field}`; expected `{name}@{version}`")
            }
            Problem::BadEvent(seen) => write!(
                f,
                "the field `event` of an entry of stream `{stream}` says `{seen}`; expected a name and a version such as `{name}@{version}`"
            ),
            Problem::OtherEvent { name: seen, version: seen_version } => {
                write!(f, "the entry of stream `{stream}` is a `{seen}@{seen_version}`, not a `{name}@{version}`")
            }
            Problem::OtherVersion(seen) if seen > version => write!(
                f,
                "event `{name}` of stream `{stream}` is version {seen}, and this program knows version {version}; deploy a program that knows version {seen}"
            ),
            Problem::OtherVersion(seen) => write!(
                f,
                "event `{name}` of stream `{stream}` is version {seen}, and this program reads none older than version {oldest} (`oldest = {oldest}`); read it with a program that upcasts version {seen}"
            ),
            Problem::NotUpcast(reason) => write!(
                f,
                "event `{name}` of stream `{stream}` is refused by the upcaster from version {} to {version}: {reason}",
                version - 1
            ),
            Problem::Fault(fault) => {
                write!(f, "the payload of event `{name}@{version}` of stream `{stream}` cannot be read: {fault}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// An event cannot be written in a form that consumers could read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeError {
    event: &'static EventInfo,
    fault: Fault,
}

impl EncodeError {
    /// The event.
    pub fn event(&self) -> &'static EventInfo {
        self.event
    }

    /// Whether the event is larger than its `max_payload`.
    pub fn is_too_large(&self) -> bool {
        matches!(self.fault, Fault::TooLarge { .. })
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EventInfo { stream, name, version, .. } = self.event;
        write!(f, "event `{name}@{version}` of stream `{stream}` cannot be written: {}", self.fault)
    }
}

impl std::error::Error for EncodeError {}

/// A fault of a payload, and the byte where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    TooLarge {
        size: usize,
        limit: usize,
    },
    TooDeep {
        offset: usize,
    },
    Truncated {
        offset: usize,
    },
    NoMarker {
        offset: usize,
    },
    Overlong {
        offset: usize,
        claimed: u64,
        left: u64,
    },
    Trailing {
        offset: usize,
        rest: usize,
    },
    /// JSON instead of MessagePack.
    Json,
    /// A value has another form than in the schema.
    Mismatch(Box<Mismatch>),
    /// A value has the right form, and its type refuses it.
    Refused(Box<(Ended, String)>),
    /// The written bytes do not follow the schema.
    NotAsDeclared(Box<Mismatch>),
    /// The codec cannot read the written bytes.
    NotReadBack(Box<Fault>),
    /// The codec reads the written bytes as another event; both as text, shortened.
    ReadAsOther(Box<[String; 2]>),
    Serde(String),
}

impl Fault {
    /// Whether serde's default messages say that it found another form than the type expects.
    fn is_of_another_form(&self) -> bool {
        const BEGINNINGS: [&str; 4] = ["invalid type: ", "missing field ", "unknown variant ", "wrong msgpack marker "];
        matches!(self, Self::Serde(reason) if BEGINNINGS.iter().any(|beginning| reason.starts_with(beginning)))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size, limit } => {
                write!(f, "it has {size} bytes, and the limit is {limit}; raise the event's `max_payload` or send less")
            }
            Self::TooDeep { offset } => {
                write!(f, "more than {MAX_DEPTH} arrays and maps inside each other at byte {offset}")
            }
            Self::Truncated { offset } => write!(f, "it ends at byte {offset} in the middle of a value"),
            Self::NoMarker { offset } => write!(f, "byte {offset} is 0xc1, which begins no MessagePack value"),
            Self::Overlong { offset, claimed, left } => {
                write!(f, "the value at byte {offset} claims at least {claimed} bytes, and {left} are left")
            }
            Self::Trailing { offset, rest } => write!(f, "the event ends at byte {offset}, and {rest} more follow"),
            Self::Json => f.write_str(
                "this is JSON, and the payload of an event is MessagePack; docs/wire-format.md shows how producers write it",
            ),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Refused(refused) => {
                let (Ended { path, offset, alone }, reason) = &**refused;
                match (path.as_str(), alone) {
                    ("", _) => write!(f, "{reason}"),
                    (path, true) => write!(f, "`{path}`: {reason} at byte {offset}"),
                    (path, false) => write!(f, "`{path}`, or what it is the end of: {reason} at byte {offset}"),
                }
            }
            Self::NotAsDeclared(mismatch) => write!(
                f,
                "it is not what its schema says, so no consumer could rely on that: {mismatch}; correct `#[event(wire = ..)]`, or the `Serialize` of the type"
            ),
            Self::NotReadBack(fault) => {
                write!(f, "its own type could not read it back, so no consumer could: {fault}; correct what serde is told about the type")
            }
            Self::ReadAsOther(both) => write!(
                f,
                "its own type reads it back as another event; it wrote {}, and what was read writes {}; correct what serde is told about the type",
                both[0], both[1]
            ),
            Self::Serde(message) => f.write_str(message),
        }
    }
}

/// Bytes from outside as text for a message: of bounded length, and without anything that a terminal would obey.
fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = crate::keys::MAX_NAME;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    let dots = if bytes.len() > LONGEST { "..." } else { "" };
    format!("{}{dots}", text.escape_debug())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;
    use crate::{EntryId, event_type, stream_event};

    /// Any value as the codec writes events.
    pub(crate) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_bytes(BytesMode::ForceAll);
        value.serialize(&mut serializer).unwrap();
        bytes
    }

    #[stream_event(stream = "trades", version = 2, oldest = 2, max_payload = "64KiB")]
    #[derive(Debug, Clone, PartialEq)]
    struct Trade {
        symbol: String,
        price: f64,
        quantity: u32,
        side: Side,
        venue: Option<String>,
        blob: Vec<u8>,
        legs: Vec<Leg>,
        tags: BTreeMap<String, i64>,
    }

    #[event_type]
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Side {
        Buy,
        Sell,
        Other { code: u8 },
    }

    #[event_type]
    #[derive(Debug, Clone, PartialEq)]
    struct Leg {
        venue: String,
        quantity: i64,
    }

    #[stream_event(stream = "trees")]
    #[derive(Debug, PartialEq)]
    struct Tree {
        children: Vec<Tree>,
    }

    fn trade() -> Trade {
        Trade {
            symbol: "BTC-USD".to_owned(),
            price: 1.5,
            quantity: 300,
            side: Side::Other { code: 7 },
            venue: None,
            blob: vec![1, 2, 0xff],
            legs: vec![Leg { venue: "X".to_owned(), quantity: -1 }],
            tags: BTreeMap::from([("a".to_owned(), 1)]),
        }
    }

    fn encoded<E: StreamEvent>(event: &E) -> Vec<u8> {
        let mut buffer = Vec::new();
        encode(event, &mut buffer).unwrap();
        buffer
    }

    fn entry(fields: &[(&str, &[u8])]) -> Entry {
        Entry::new(EntryId::new(1, 0), fields)
    }

    #[test]
    fn the_bytes_of_an_event_never_change() {
        let golden = b"\x88\
            \xa6symbol\xa7BTC-USD\
            \xa5price\xcb\x3f\xf8\0\0\0\0\0\0\
            \xa8quantity\xcd\x01\x2c\
            \xa4side\x81\xa5Other\x81\xa4code\x07\
            \xa5venue\xc0\
            \xa4blob\xc4\x03\x01\x02\xff\
            \xa4legs\x91\x82\xa5venue\xa1X\xa8quantity\xff\
            \xa4tags\x81\xa1a\x01";
        assert_eq!(encoded(&trade()), golden);
        assert_eq!(decode_payload::<Trade>(golden), Ok(trade()));
        assert_eq!(to_bytes(&Side::Buy), b"\xa3Buy");
    }

    #[test]
    fn a_buffer_is_appended_to_and_left_alone_on_failure() {
        let mut buffer = b"before".to_vec();
        encode(&trade(), &mut buffer).unwrap();
        assert!(buffer.starts_with(b"before\x88"));
        buffer.truncate(6);
        let large = Trade { blob: vec![0; 64 * 1024], ..trade() };
        let error = encode(&large, &mut buffer).unwrap_err();
        assert!(error.is_too_large());
        assert_eq!(
            error.to_string(),
            "event `Trade@2` of stream `trades` cannot be written: it has 65649 bytes, and the limit is 65536; raise the event's `max_payload` or send less"
        );
        assert_eq!(buffer, b"before");
    }

    #[test]
    fn fields_in_any_order_unknown_fields_and_missing_options_are_read() {
        let bytes = b"\x88\xa4tags\x80\xa4legs\x90\xa4blob\x90\xa4side\xa4Sell\xa8quantity\x01\xa5price\xcb\0\0\0\0\0\0\0\0\xa6symbol\xa1A\
            \xa3new\x93\xc0\xd6\xff\0\0\0\0\xc7\x01\x05x";
        let read: Trade = decode_payload(bytes).unwrap();
        assert_eq!((read.side, read.venue, read.blob), (Side::Sell, None, Vec::new()));
    }

    #[test]
    fn an_entry_is_read_only_as_what_it_says() {
        let payload = encoded(&trade());
        let read = |event: &str| decode::<Trade>(&entry(&[("event", event.as_bytes()), ("payload", &payload)]));
        assert_eq!(read("Trade@2"), Ok(trade()));

        let newer = read("Trade@3").unwrap_err();
        assert!(newer.is_newer() && !newer.is_older() && !newer.is_malformed());
        assert_eq!(newer.found(), Some(("Trade", 3)));
        assert_eq!(
            newer.to_string(),
            "event `Trade` of stream `trades` is version 3, and this program knows version 2; deploy a program that knows version 3"
        );
        assert!(read("Trade").unwrap_err().is_older());

        let other = read("Quote@2").unwrap_err();
        assert!(other.is_other_event());
        assert_eq!(other.to_string(), "the entry of stream `trades` is a `Quote@2`, not a `Trade@2`");

        let bad = read("Trade@\x1b[2J").unwrap_err();
        assert!(bad.is_malformed());
        assert_eq!(
            bad.to_string(),
            "the field `event` of an entry of stream `trades` says `Trade@\\u{1b}[2J`; expected a name and a version such as `Trade@2`"
        );
        let missing = decode::<Trade>(&entry(&[("event", b"Trade@2")])).unwrap_err();
        assert_eq!(missing.to_string(), "an entry of stream `trades` has no field `payload`; expected `Trade@2`");
        assert!(decode::<Trade>(&entry(&[("payload", &payload)])).unwrap_err().is_malformed());
    }

    #[track_caller]
    fn refused(bytes: &[u8], because: &str) {
        let error = decode_payload::<Trade>(bytes).unwrap_err();
        assert!(error.to_string().contains(because), "{error}");
    }

    #[test]
    fn a_claim_above_the_bytes_left_is_refused_before_serde_sees_it() {
        for marker in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
            refused(&[marker, 0xff, 0xff, 0xff, 0xff], "claims at least");
            refused(&[marker, 0xff, 0xff, 0xff, 0xff, 1, 2, 3], "and 3 are left");
        }
        for marker in [0xc5, 0xc8, 0xda, 0xdc, 0xde] {
            refused(&[marker, 0xff, 0xff, 1], "and 1 are left");
        }
        refused(&[0x8f], "claims at least 30 bytes, and 0 are left");
        refused(&[0x9f], "claims at least 15 bytes, and 0 are left");
        refused(&[0xbf], "claims at least 31 bytes, and 0 are left");
        refused(&[0xd8], "claims at least 17 bytes, and 0 are left");
        refused(&[0xcb, 1], "claims at least 8 bytes, and 1 are left");
        // Each level's count is within the bytes; all together are not.
        refused(&[0x91, 0x92, 0xc0], "claims at least 2 bytes, and 1 are left");
        refused(&[0x93, 0x92, 0xc0, 0xc0], "ends at byte 4");
    }

    #[test]
    fn other_malformed_bytes_are_refused() {
        refused(&[], "ends at byte 0");
        refused(&[0xdd, 0], "ends at byte 1");
        refused(&[0xc1], "byte 0 is 0xc1");
        refused(&[0xc0, 0xc0], "ends at byte 1, and 1 more follow");
        refused(&[0xc0], "expected the fields of `Trade`, found nil at byte 0");
        // serde does not read past the members that it expects, so the scan must find the others.
        let leg = |legs: &[u8]| {
            [b"\x88\xa4tags\x80\xa4blob\x90\xa4side\xa4Sell\xa8quantity\x01\xa5price\xca\0\0\0\0\xa6symbol\xa1A\xa5venue\xc0\xa4legs\x91".as_slice(), legs].concat()
        };
        assert!(decode_payload::<Trade>(&leg(b"\x92\xa1X\x01")).is_ok());
        refused(&leg(b"\x93\xa1X\x01\x01"), "`legs[0]`: expected the 2 fields of `Leg`, found 3 values at byte");
        let mut trailing = encoded(&trade());
        trailing.push(0xc0);
        refused(&trailing, "and 1 more follow");
        let mut large = encoded(&trade());
        large.resize(65537, 0);
        assert!(decode_payload::<Trade>(&large).unwrap_err().is_too_large());
    }

    #[test]
    fn a_reason_names_the_field_the_byte_and_both_forms() {
        let good = encoded(&trade());
        let with = |from: &[u8], to: &[u8]| {
            let at = good.windows(from.len()).position(|window| window == from).unwrap();
            [&good[..at], to, &good[at + from.len()..]].concat()
        };
        for (from, to, reason) in [
            (
                &b"\xa5price\xcb\x3f\xf8\0\0\0\0\0\0"[..],
                &b"\xa5price\xa31.5"[..],
                "`price`: expected f64, found a string of 3 bytes at byte 22",
            ),
            (
                b"\xa8quantity\xcd\x01\x2c",
                b"\xa8quantity\xff",
                "`quantity`: expected u32, found the integer -1 at byte 40",
            ),
            (b"\xa4code\x07", b"\xa4code\xcd\x01\x2c", "`side.Other.code`: expected u8, found the integer 300 at byte"),
            (
                b"\x81\xa5Other\x81\xa4code\x07",
                b"\xa5Other",
                "`side`: expected the variant `Other` in a map, with what it holds, found its name alone",
            ),
            (
                b"\x81\xa5Other\x81\xa4code\x07",
                b"\xa5Short",
                "`side`: expected a variant of `Side`: `Buy`, `Sell`, `Other`, found `Short`",
            ),
            (
                b"\xa5venue\xa1X",
                b"\xa5where\xa1X",
                "`legs[0]`: expected a map with the field `venue`, found one without it at byte",
            ),
            (b"\xa8quantity\xff", b"\xa8quantity\xc0", "`legs[0].quantity`: expected i64, found nil"),
            (b"\xa4blob", b"\xa4legs", "`legs`: expected an array, found 3 raw bytes"),
            (b"\xa1a\x01", b"\xa1a\xc3", "`tags.a`: expected i64, found true"),
            (b"\xa1a\x01", b"\x05\x01", "`tags{key}`: expected a string, found the integer 5"),
            (
                b"\xa7BTC-USD",
                b"\xa2\xff\xff",
                "`symbol`: expected a string, found a string of 2 bytes that is not UTF-8 at byte 8",
            ),
            (b"\xa5price", b"\xa6symbol", "expected the field `symbol` once"),
        ] {
            refused(&with(from, to), reason);
        }
        refused(b"\x80", "expected a map with the field `symbol`, found one without it at byte 0");
        refused(
            b" {\"symbol\": \"BTC\", \"price\": 1.5}\n",
            "this is JSON, and the payload of an event is MessagePack; docs/wire-format.md",
        );
        refused(b"[1, 2]", "this is JSON");
        refused(b"{nonsense", "more follow");
    }

    /// A price whose own code checks it.
    #[event_type]
    #[derive(Debug, Clone, PartialEq)]
    #[serde(try_from = "f64", into = "f64")]
    #[event(wire = "f64")]
    struct Price(f64);

    impl TryFrom<f64> for Price {
        type Error = String;

        fn try_from(price: f64) -> Result<Self, String> {
            if price >= 0.0 { Ok(Self(price)) } else { Err(format!("{price} is no price")) }
        }
    }

    impl From<Price> for f64 {
        fn from(price: Price) -> Self {
            price.0
        }
    }

    #[stream_event(stream = "quotes")]
    #[derive(Debug, Clone, PartialEq)]
    struct Quote {
        levels: Vec<Level>,
        last: Price,
    }

    #[event_type]
    #[derive(Debug, Clone, PartialEq)]
    struct Level {
        price: Price,
        size: u8,
    }

    #[test]
    fn a_value_that_its_own_type_refuses_is_found_too() {
        let quote = |first: f64, last: f64| {
            let levels = vec![Level { price: Price(1.0), size: 1 }, Level { price: Price(first), size: 2 }];
            to_bytes(&Quote { levels, last: Price(last) })
        };
        let reason = |bytes: &[u8]| decode_payload::<Quote>(bytes).unwrap_err().to_string();
        let inside = reason(&quote(-2.0, 1.0));
        assert!(inside.ends_with("cannot be read: `levels[1].price`: -2 is no price at byte 38"), "{inside}");
        // As the last value of all, it ends where the event ends.
        let last = reason(&quote(2.0, -1.0));
        assert!(
            last.ends_with("cannot be read: `last`, or what it is the end of: -1 is no price at byte 58"),
            "{last}"
        );
    }

    /// A wrong schema, in which the codec trusts.
    #[stream_event(stream = "lies")]
    #[derive(Debug, PartialEq)]
    struct Lie {
        #[event(wire = "u64")]
        text: String,
    }

    /// Reads values of its schema, and writes other ones.
    #[stream_event(stream = "lies")]
    #[derive(Debug, PartialEq)]
    struct HalfLie {
        #[event(wire = "u64")]
        #[serde(serialize_with = "as_text")]
        number: u64,
    }

    fn as_text<S: serde::Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    /// A field that was left out comes back with another value.
    #[stream_event(stream = "lies")]
    #[derive(Debug, PartialEq)]
    struct LeftOut {
        #[serde(default = "eur", skip_serializing_if = "String::is_empty")]
        currency: String,
    }

    fn eur() -> String {
        "EUR".to_owned()
    }

    /// A hash map has another order each time.
    #[stream_event(stream = "lies")]
    #[derive(Debug, PartialEq)]
    struct Hashed {
        by_name: std::collections::HashMap<String, std::collections::HashSet<u32>>,
        #[event(opaque = "bits@1")]
        bits: Vec<f64>,
    }

    #[test]
    fn what_is_not_read_back_as_it_was_is_not_written() {
        #[track_caller]
        fn refused<E: StreamEvent>(event: &E, because: &str) {
            let error = encode(event, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains(because), "{error}");
        }
        let lie = "it is not what its schema says, so no consumer could rely on that: `text`: expected u64, found a string of 3 bytes at byte 6; correct `#[event(wire = ..)]`";
        refused(&Lie { text: "abc".to_owned() }, lie);
        refused(&HalfLie { number: 7 }, "`number`: expected u64, found a string of 1 bytes");
        refused(
            &LeftOut { currency: String::new() },
            "its own type reads it back as another event; it wrote {}, and what was read writes {\"currency\": \"EUR\"}",
        );
        refused(
            &Quote { levels: Vec::new(), last: Price(-1.0) },
            "its own type could not read it back, so no consumer could: -1 is no price",
        );
        let by_name = |n: u32| (n.to_string(), (0..n).collect());
        let hashed = Hashed { by_name: (0..50).map(by_name).collect(), bits: vec![f64::NAN, -0.0, f64::INFINITY] };
        assert!(encode(&hashed, &mut Vec::new()).is_ok());
    }

    #[test]
    fn a_lock_is_not_kept_for_a_type_that_its_schema_does_not_describe() {
        let lie = holds_to_schema::<Lie>().unwrap_err();
        assert!(lie.starts_with("event `Lie@1` does not read what its schema says: `text`"), "{lie}");
        assert!(lie.contains("invalid type: integer `18446744073709551615`, expected a string"), "{lie}");
        let half = holds_to_schema::<HalfLie>().unwrap_err();
        assert!(half.contains("event `HalfLie@1`: it is not what its schema says"), "{half}");
        assert_eq!(holds_to_schema::<Quote>(), Ok(()), "what its own code refuses is no lie");
        assert_eq!(holds_to_schema::<Trade>(), Ok(()));
        assert_eq!(holds_to_schema::<Tree>(), Ok(()));
        assert_eq!(holds_to_schema::<Hashed>(), Ok(()));
    }

    #[test]
    fn nesting_ends_at_the_limit_whatever_the_stack() {
        let nested =
            |depth: usize| (1..depth).fold(Tree { children: Vec::new() }, |inner, _| Tree { children: vec![inner] });
        // A tree of one level is a map with an array: two levels.
        let deepest = encoded(&nested(MAX_DEPTH / 2));
        assert_eq!(decode_payload::<Tree>(&deepest), Ok(nested(MAX_DEPTH / 2)));
        let error = encode(&nested(MAX_DEPTH / 2 + 1), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("more than 64 arrays and maps inside each other at byte"), "{error}");
        for marker in [0x91, 0x81] {
            refused(&[marker; 60_000], "more than 64 arrays and maps inside each other at byte 64");
        }
        for marker in [0x91, 0x81, 0x9f, 0x8f] {
            let error = decode_payload::<Tree>(&[marker; 1_000_000]).unwrap_err();
            assert!(error.to_string().contains("inside each other at byte 64"), "{error}");
        }
        let bomb: Vec<u8> = b"\x81\xa8children\x91".repeat(5_000);
        assert!(decode_payload::<Tree>(&bomb).unwrap_err().to_string().contains("inside each other"));
    }

    #[test]
    fn errors_travel_between_threads() {
        fn travels<T: std::error::Error + Send + Sync + 'static>() {}
        travels::<DecodeError>();
        travels::<EncodeError>();
    }

    fn any_trade() -> impl Strategy<Value = Trade> {
        let side = prop_oneof![Just(Side::Buy), Just(Side::Sell), any::<u8>().prop_map(|code| Side::Other { code })];
        let leg = (".{0,40}", any::<i64>()).prop_map(|(venue, quantity)| Leg { venue, quantity });
        (
            (
                ".{0,300}",
                any::<f64>().prop_filter("NaN is not equal to itself", |price| !price.is_nan()),
                any::<u32>(),
                side,
            ),
            proptest::option::of(".{0,40}"),
            proptest::collection::vec(any::<u8>(), 0..400),
            proptest::collection::vec(leg, 0..20),
            proptest::collection::btree_map(".{0,20}", any::<i64>(), 0..20),
        )
            .prop_map(|((symbol, price, quantity, side), venue, blob, legs, tags)| Trade {
                symbol,
                price,
                quantity,
                side,
                venue,
                blob,
                legs,
                tags,
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trade in any_trade()) {
            prop_assert_eq!(decode_payload::<Trade>(&encoded(&trade)), Ok(trade));
        }

        #[test]
        fn random_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_payload::<Trade>(&bytes);
            let _ = decode_payload::<Tree>(&bytes);
        }

        #[test]
        fn damaged_bytes_are_refused_or_read(
            trade in any_trade(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encoded(&trade);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = decode_payload::<Trade>(&bytes);
            let _ = decode_payload::<Trade>(&bytes[..keep.index(bytes.len())]);
        }

        // It explains serde's refusals, so it must not blame a value that serde reads.
        #[test]
        fn what_serde_reads_is_no_mismatch(
            trade in any_trade(),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = encoded(&trade);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if scan(&bytes).is_ok() && deserialized::<Trade>(&bytes).is_ok() {
                prop_assert_eq!(conform::unreadable(Trade::INFO.schema, &bytes), None, "{:02x?}", bytes);
            }
        }

        // The scan judges bytes that serde would read, so it must not refuse bytes that MessagePack allows.
        #[test]
        fn the_scan_agrees_with_a_reader_of_any_value(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = rmp_serde::Deserializer::new(bytes.as_slice());
            let read = <serde::de::IgnoredAny as serde::Deserialize>::deserialize(&mut reader).is_ok();
            let all = read && reader.get_ref().is_empty();
            prop_assert_eq!(scan(&bytes).is_ok(), all, "{:02x?}", bytes);
        }
    }
}
