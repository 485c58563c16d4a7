//! All notes beside a stream as one record of its events and groups, for the event documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use streams_core::broker::Notes;
use streams_core::keys;
use streams_core::schema::lock::note;
use streams_core::schema::{Layout, Schema};

use super::read;

/// The events and groups of a stream, as the notes beside it say.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) events: BTreeMap<(String, u32), RecordedEvent>,
    /// Each group with the oldest and the newest version that it reads of each event.
    pub(crate) groups: BTreeMap<String, BTreeMap<String, (u32, u32)>>,
}

/// A version of an event in the notes.
#[derive(Debug)]
pub(crate) struct RecordedEvent {
    pub(crate) shape: Option<(&'static Schema, Layout)>,
    /// The programs that have published it.
    pub(crate) publishers: BTreeSet<String>,
}

/// Reads all notes beside a stream. Of two shapes of one version the newest note counts.
pub(crate) fn record(notes: &Notes) -> Record {
    // Every note is newer than this time, so that none is passed over for its age.
    let (heard, _) = read(notes, &Notes::new(), SystemTime::UNIX_EPOCH);
    let mut declared: Vec<_> =
        heard.events.into_iter().filter(|(_, it)| keys::check_event(&it.event).is_ok()).collect();
    // Times of one form are sorted as text.
    declared.sort_by(|(a, one), (b, other)| (&one.by.at, a).cmp(&(&other.by.at, b)));
    let mut record = Record::default();
    for (_, declared) in declared {
        let new = RecordedEvent { shape: None, publishers: BTreeSet::new() };
        let event = record.events.entry((declared.event, declared.version)).or_insert(new);
        event.shape = declared.lock.as_ref().and_then(note::read_entry).or(event.shape);
        if declared.publishes {
            event.publishers.insert(declared.by.program);
        }
    }
    for (group, mut reads) in heard.groups {
        reads.events.retain(|name, _| keys::check_event(name).is_ok());
        record.groups.insert(group, reads.events);
    }
    record
}
