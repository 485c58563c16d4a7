//! A stream in memory: its entries, oldest first, and the markers of its groups.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use streams_core::broker::{DeadBounds, Extent, Fields, Full, MOST_ENTRY_BYTES, Page, cut, in_short};
use streams_core::{Entry, EntryId, Start};

use crate::clock::millis;

/// A stream: partitions, bells and dead letters alike.
#[derive(Clone, Default)]
pub(super) struct Stream {
    pub(super) entries: VecDeque<Arc<Entry>>,
    pub(super) last: EntryId,
    pub(super) added: u64,
    /// The highest id that was deleted singly.
    pub(super) deleted: EntryId,
    /// The groups with a marker in the stream, which goes with it, and the id at which each marker was made.
    pub(super) markers: HashMap<String, EntryId>,
}

impl Stream {
    pub(super) fn push(&mut self, now: u64, fields: &[(Vec<u8>, Vec<u8>)]) -> EntryId {
        // As in Redis: the clock may stand still or go back, but ids may not.
        let id = if now > self.last.ms { EntryId::new(now, 0) } else { self.last.next() };
        self.add(id, fields)
    }

    pub(super) fn add(&mut self, id: EntryId, fields: &[(Vec<u8>, Vec<u8>)]) -> EntryId {
        self.entries.push_back(Arc::new(Entry::new(id, fields)));
        self.last = id;
        self.added += 1;
        id
    }

    /// Adds dead letters if their bounds leave room.
    pub(super) fn put_away(&mut self, letters: &[Fields], bounds: DeadBounds, now: u64) -> Result<(), Full> {
        let (count, oldest) = (self.entries.len() as u64, self.entries.front().map(|entry| entry.id));
        let too_old = oldest.is_some_and(|id| now.saturating_sub(id.ms) > millis(bounds.age));
        if too_old || count + letters.len() as u64 > bounds.count {
            return Err(Full { count, oldest });
        }
        for fields in letters {
            self.push(now, fields);
        }
        Ok(())
    }

    /// Answers how many entries it removed.
    pub(super) fn trim_below(&mut self, floor: EntryId) -> u64 {
        let below = self.entries.partition_point(|entry| entry.id < floor);
        self.entries.drain(..below);
        below as u64
    }

    /// The index of the first entry above `id`.
    fn above(&self, id: EntryId) -> usize {
        self.entries.partition_point(|entry| entry.id <= id)
    }

    pub(super) fn read(&self, after: EntryId, count: usize) -> Vec<Arc<Entry>> {
        self.entries.range(self.above(after)..).take(count).map(within_bounds).collect()
    }

    pub(super) fn at(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.read(id.previous(), 1).pop().filter(|entry| entry.id == id)
    }

    /// The entries at or above `from` as [`Log::page`](streams_core::broker::Log::page) answers them.
    pub(super) fn page(&self, from: EntryId, count: usize, bytes: usize) -> Page {
        let first = self.entries.partition_point(|entry| entry.id < from);
        let (mut page, mut sum) = (Page { entries: Vec::new(), complete: true }, 0);
        for entry in self.entries.range(first..) {
            let entry = within_bounds(entry);
            let is_first_above = sum == 0;
            sum += if entry.id == from { 0 } else { entry.weight() };
            if page.entries.len() >= count || (sum > bytes && !is_first_above) {
                page.complete = false;
                break;
            }
            page.entries.push(if entry.id == from { Arc::new(in_short(&entry)) } else { entry });
        }
        // A full page does not show whether there are more.
        page.complete &= page.entries.len() < count;
        page
    }

    /// How many entries were added and are gone.
    pub(super) fn removed(&self) -> u64 {
        self.added - self.entries.len() as u64
    }

    pub(super) fn extent(&self) -> Extent {
        Extent {
            first: self.entries.front().map(|entry| entry.id),
            last: self.last,
            length: self.entries.len() as u64,
            added: self.added,
        }
    }

    /// The checkpoint of a group that begins here, its ordinal, and the event id of the entry there.
    pub(super) fn begin(&self, start: Start, now: u64) -> (EntryId, Option<u64>, String) {
        let before = |id: EntryId| match self.entries.partition_point(|entry| entry.id < id) {
            0 => EntryId::ZERO,
            above => self.entries[above - 1].id,
        };
        let at = match start {
            Start::Earliest => EntryId::ZERO,
            Start::Latest => self.last,
            Start::At(id) => before(id),
            Start::Ago(ago) => before(EntryId::new(now.saturating_sub(millis(ago)), 0)),
        };
        let seen = if at == self.last {
            Some(self.added)
        } else if at == EntryId::ZERO {
            Some(self.added - self.entries.len() as u64)
        } else {
            None
        };
        (at, seen, self.event_at(at))
    }

    /// The event id of the entry there, if it has one.
    pub(super) fn event_at(&self, id: EntryId) -> String {
        self.at(id).and_then(|entry| entry.given_id().map(str::to_owned)).unwrap_or_default()
    }
}

/// An entry as the broker answers it: one that is too large is cut.
fn within_bounds(entry: &Arc<Entry>) -> Arc<Entry> {
    if entry.weight() <= MOST_ENTRY_BYTES { Arc::clone(entry) } else { Arc::new(cut(Entry::clone(entry))) }
}
