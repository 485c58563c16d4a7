//! The bytes of an event: MessagePack maps out, strict decoding in; the only file that knows MessagePack.

use crate::{Entry, StreamEvent};

/// The bytes of an entry are not the event they claim to be.
#[derive(Debug, thiserror::Error)]
#[error("todo")]
pub struct DecodeError;

/// An event could not be encoded.
#[derive(Debug, thiserror::Error)]
#[error("todo")]
pub struct EncodeError;

/// Appends the event's bytes to `buffer`.
///
/// # Errors
/// When the event holds a value that its schema cannot describe.
pub fn encode<E: StreamEvent>(_event: &E, _buffer: &mut Vec<u8>) -> Result<(), EncodeError> {
    Err(EncodeError)
}

/// The event of an entry.
///
/// # Errors
/// When the entry does not hold such an event.
pub fn decode<E: StreamEvent>(_entry: &Entry) -> Result<E, DecodeError> {
    Err(DecodeError)
}
