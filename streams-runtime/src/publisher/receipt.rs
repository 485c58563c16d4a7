//! The receipt of an event that was written.

use streams_core::{EntryId, EventId};

/// Where a published event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The partition of the stream.
    pub partition: u32,
    /// The entry in it.
    pub entry_id: EntryId,
    /// The event's own id.
    pub event_id: EventId,
}
