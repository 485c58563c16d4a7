//! Up to where each partition is in a copy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use streams_core::{Entry, EntryId};

use crate::reader::Bookmark;

/// Up to where a partition is in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The last entry that is in it, in two parts.
    at: (u64, u64),
    /// The id of its event, by which it is recognised.
    event: String,
    /// How many entries had been added up to it, where that is known.
    seen: Option<u64>,
}

/// The places of a copy, by the key of the partition.
pub(super) type Places = BTreeMap<String, Place>;

impl Place {
    pub(super) fn of(entry: &Entry, seen: Option<u64>) -> Self {
        let event = entry.given_id().unwrap_or_default().to_owned();
        Self { at: (entry.id.ms, entry.id.seq), event, seen }
    }

    pub(super) fn bookmark(&self) -> Bookmark {
        Bookmark::new(EntryId::new(self.at.0, self.at.1), &self.event, self.seen).unmarked()
    }
}
