//! The bytes of an event: MessagePack maps out, strict decoding in; the only file that knows MessagePack.
//!
//! Whatever a producer wrote, decoding answers in time and memory bounded by the payload's size: its size is
//! checked first, then [`scan`] walks its headers, and only then does serde see it.

use std::fmt;

use rmp_serde::config::BytesMode;

use crate::{Entry, EventInfo, StreamEvent};

/// The most bytes of a payload unless the event says otherwise: with its id, names and headers an entry stays
/// below 1 MiB, the most that users of this project asked for.
pub const DEFAULT_MAX_PAYLOAD: usize = 1024 * 1024 - 4096;

/// The most that an event may set its `max_payload` to: a process keeps a few of the largest entries in memory at once.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// The most arrays and maps inside each other: each takes a frame of serde's on the stack.
pub const MAX_DEPTH: usize = 64;

/// The most bytes that a payload of `E` may have.
pub const fn max_payload<E: StreamEvent>() -> usize {
    match E::INFO.max_payload {
        Some(bytes) => bytes,
        None => DEFAULT_MAX_PAYLOAD,
    }
}

/// Appends the event's bytes to `buffer`, which is meant to be reused: structs as maps by field name.
///
/// # Errors
/// When the event is larger or deeper than a consumer would accept, or serde refuses it. The buffer is as before.
pub fn encode<E: StreamEvent>(event: &E, buffer: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = buffer.len();
    encode_into(event, buffer).map_err(|fault| {
        buffer.truncate(start);
        EncodeError { event: E::INFO, fault }
    })
}

fn encode_into<E: StreamEvent>(event: &E, buffer: &mut Vec<u8>) -> Result<(), Fault> {
    let start = buffer.len();
    let mut serializer = rmp_serde::Serializer::new(&mut *buffer).with_struct_map().with_bytes(BytesMode::ForceAll);
    event.serialize(&mut serializer).map_err(|error| Fault::Serde { offset: None, message: error.to_string() })?;
    let written = &buffer[start..];
    check_size::<E>(written)?;
    // What is written must be readable: serde writes deeper than `MAX_DEPTH` without complaint.
    scan(written)
}

/// The event of an entry.
///
/// # Errors
/// When the entry holds another event, another version, or bytes that are not such an event.
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
    if version != info.version {
        return refuse(Problem::OtherVersion(version));
    }
    match entry.payload() {
        Some(payload) => decode_payload(payload),
        None => refuse(Problem::Missing(Entry::PAYLOAD)),
    }
}

/// The event of these bytes, whatever entry they came in.
///
/// # Errors
/// When the bytes are not such an event.
pub fn decode_payload<E: StreamEvent>(payload: &[u8]) -> Result<E, DecodeError> {
    decode_from(payload).map_err(|fault| DecodeError { event: E::INFO, problem: Problem::Fault(fault) })
}

fn decode_from<E: StreamEvent>(payload: &[u8]) -> Result<E, Fault> {
    check_size::<E>(payload)?;
    scan(payload)?;
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    deserializer.set_max_depth(MAX_DEPTH);
    let event = E::deserialize(&mut deserializer);
    let rest = deserializer.get_ref().len();
    match event {
        // The scan found one value, but a type may be content with the beginning of it.
        Ok(_) if rest > 0 => Err(Fault::Trailing { offset: payload.len() - rest, rest }),
        Ok(event) => Ok(event),
        Err(error) => Err(Fault::Serde { offset: Some(payload.len() - rest), message: error.to_string() }),
    }
}

fn check_size<E: StreamEvent>(payload: &[u8]) -> Result<(), Fault> {
    let limit = max_payload::<E>();
    if payload.len() > limit { Err(Fault::TooLarge { size: payload.len(), limit }) } else { Ok(()) }
}

/// Walks the headers of one MessagePack value and checks that it ends where `bytes` ends.
///
/// A header may claim 2^32 - 1 items in five bytes; serde's collections reserve memory by such a claim, and
/// nested ones multiply it. Each item takes at least a byte, so an honest claim is never above the bytes left.
fn scan(bytes: &[u8]) -> Result<(), Fault> {
    // Values still to come in each open array or map, the innermost at `depth`; level 0 is the value itself.
    let mut open = [0_u32; MAX_DEPTH + 1];
    open[0] = 1;
    let mut depth = 0;
    let mut at = 0;
    while open[depth] > 0 || depth > 0 {
        if open[depth] == 0 {
            depth -= 1;
            continue;
        }
        open[depth] -= 1;
        let Some(&marker) = bytes.get(at) else { return Err(Fault::Truncated { offset: at }) };
        let header = at;
        at += 1;
        // What the marker says of the bytes after it: how many hold a length, and what is counted by it.
        let (length_bytes, unit) = match marker {
            // A small number, nil or a truth value: the marker is all.
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => continue,
            0x80..=0x8f => (0, Unit::Pairs),
            0x90..=0x9f => (0, Unit::Items),
            0xa0..=0xbf => (0, Unit::Bytes),
            0xc4 | 0xd9 => (1, Unit::Bytes),
            0xc5 | 0xda => (2, Unit::Bytes),
            0xc6 | 0xdb => (4, Unit::Bytes),
            0xc7 => (1, Unit::ExtBytes),
            0xc8 => (2, Unit::ExtBytes),
            0xc9 => (4, Unit::ExtBytes),
            0xcc | 0xd0 => (0, Unit::Fixed(1)),
            0xcd | 0xd1 => (0, Unit::Fixed(2)),
            0xca | 0xce | 0xd2 => (0, Unit::Fixed(4)),
            0xcb | 0xcf | 0xd3 => (0, Unit::Fixed(8)),
            // An extension of 1, 2, 4, 8 or 16 bytes and its type.
            0xd4..=0xd8 => (0, Unit::Fixed(1 + (1 << (marker - 0xd4)))),
            0xdc => (2, Unit::Items),
            0xdd => (4, Unit::Items),
            0xde => (2, Unit::Pairs),
            0xdf => (4, Unit::Pairs),
            0xc1 => return Err(Fault::NoMarker { offset: header }),
        };
        let Some(digits) = bytes.get(at..at + length_bytes) else { return Err(Fault::Truncated { offset: at }) };
        at += length_bytes;
        let length = match length_bytes {
            0 if marker < 0xa0 => u64::from(marker & 0x0f),
            0 => u64::from(marker & 0x1f),
            _ => digits.iter().fold(0, |length, digit| length << 8 | u64::from(*digit)),
        };
        let left = (bytes.len() - at) as u64;
        let (claimed, nested) = match unit {
            Unit::Items => (length, true),
            Unit::Pairs => (length * 2, true),
            Unit::Bytes => (length, false),
            Unit::ExtBytes => (length + 1, false),
            Unit::Fixed(length) => (length, false),
        };
        if claimed > left {
            return Err(Fault::Overlong { offset: header, claimed, left });
        }
        if !nested {
            // Not above the bytes left, so it fits.
            at += claimed as usize;
        } else if depth == MAX_DEPTH {
            return Err(Fault::TooDeep { offset: header });
        } else {
            depth += 1;
            // Not above the bytes left, and payloads are below 4 GiB.
            open[depth] = claimed as u32;
        }
    }
    match bytes.len() - at {
        0 => Ok(()),
        rest => Err(Fault::Trailing { offset: at, rest }),
    }
}

/// What the length after a marker counts.
#[derive(Clone, Copy)]
enum Unit {
    Items,
    Pairs,
    Bytes,
    /// Without the byte of the extension's type.
    ExtBytes,
    /// The marker itself says how many bytes follow.
    Fixed(u64),
}

/// An entry does not hold the event it was read as.
///
/// Another attempt fails the same way; what helps is another program, which the predicates tell apart.
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
    Fault(Fault),
}

impl DecodeError {
    /// The event that was expected.
    pub fn event(&self) -> &'static EventInfo {
        self.event
    }

    /// Whether the entry holds a later version than this program knows: a newer program can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self.problem, Problem::OtherVersion(version) if version > self.event.version)
    }

    /// Whether the entry holds an earlier version than this program knows.
    pub fn is_older(&self) -> bool {
        matches!(self.problem, Problem::OtherVersion(version) if version < self.event.version)
    }

    /// Whether the entry says that it holds another event.
    pub fn is_other_event(&self) -> bool {
        matches!(self.problem, Problem::OtherEvent { .. })
    }

    /// Whether the payload is larger than the event's `max_payload`.
    pub fn is_too_large(&self) -> bool {
        matches!(self.problem, Problem::Fault(Fault::TooLarge { .. }))
    }

    /// Whether the entry is none of ours: a field is missing or says nothing, or the payload is not this event.
    pub fn is_malformed(&self) -> bool {
        match &self.problem {
            Problem::Missing(_) | Problem::BadEvent(_) => true,
            Problem::OtherEvent { .. } | Problem::OtherVersion(_) => false,
            Problem::Fault(fault) => !matches!(fault, Fault::TooLarge { .. }),
        }
    }

    /// The name and version that the entry says it holds, where they are not the expected ones.
    pub fn found(&self) -> Option<(&str, u32)> {
        match &self.problem {
            Problem::OtherEvent { name, version } => Some((name, *version)),
            Problem::OtherVersion(version) => Some((self.event.name, *version)),
            Problem::Missing(_) | Problem::BadEvent(_) | Problem::Fault(_) => None,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EventInfo { stream, name, version, .. } = self.event;
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
                "event `{name}` of stream `{stream}` is version {seen}, and this program reads only version {version}"
            ),
            Problem::Fault(fault) => {
                write!(f, "the payload of event `{name}@{version}` of stream `{stream}` cannot be read: {fault}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// An event cannot be written so that consumers could read it.
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

/// What is wrong with a payload, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    TooLarge { size: usize, limit: usize },
    TooDeep { offset: usize },
    Truncated { offset: usize },
    NoMarker { offset: usize },
    Overlong { offset: usize, claimed: u64, left: u64 },
    Trailing { offset: usize, rest: usize },
    Serde { offset: Option<usize>, message: String },
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
            Self::Serde { offset: Some(offset), message } => write!(f, "{message}, before byte {offset}"),
            Self::Serde { offset: None, message } => f.write_str(message),
        }
    }
}

/// Bytes from outside as text for a message: not too long, nothing that a terminal would obey.
fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = crate::keys::MAX_NAME;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    let dots = if bytes.len() > LONGEST { "..." } else { "" };
    format!("{}{dots}", text.escape_debug())
}
