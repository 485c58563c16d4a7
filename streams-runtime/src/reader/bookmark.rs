//! The place up to which a group has read, and the losses of history that it shows; pure.
//!
//! A bookmark holds its position and how many entries were added up to it, with those that were lost and reported.
//! While the entry at the position is still there, no trim has passed it, so an ordinary read only needs to include it.
//! If that entry is gone, a [`Snapshot`] decides. A group also takes one at times to find deleted entries.
//!
//! An entry leaves the stream in one of two ways. A trim removes it with all lower ones, or a deletion removes it
//! singly, and the stream records that. So if an entry is missing above an existing one, and no deletion is recorded at
//! or above it, it never was in this history. All other losses are counted: entries ever added = entries read + entries
//! left to read + entries lost.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use streams_core::broker::{Extent, Snapshot, in_short};
use streams_core::{Entry, EntryId};

use crate::data_loss::{DataLoss, DataLossKind};

/// The most places that a bookmark remembers, to find how far a cut history is still the one that it has read. Each is
/// the end of a read. With a backlog they reach back some thousand events; one by one, as far as most failovers take.
const PLACES: usize = 16;

/// How far a group has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bookmark {
    /// The last entry read, or an id up to which no entry is left to read.
    position: EntryId,
    /// The witness of the entry at the position; `None` when there is no entry, or none is known.
    witness: Option<Witness>,
    /// Whether this history has known the position: an entry was there, one there or above was deleted, or no entry was
    /// left up to it. False if a group was set to an id that no entry ever had.
    stood: bool,
    /// How many entries had been added up to the position, lost ones included.
    seen: Option<u64>,
    /// Earlier positions, oldest first.
    places: VecDeque<(EntryId, Witness)>,
    /// Whether the reader leaves a marker in the stream, whose absence shows another history.
    marked: bool,
}

/// Distinguishes an entry from another one of the same id: by the event's own id, else by its fields in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Witness(u64);

impl Witness {
    pub(crate) fn of(entry: &Entry) -> Self {
        entry.given_id().map_or_else(|| Self::hash(in_short(entry).fields().collect::<Vec<_>>()), Self::of_event)
    }

    fn of_event(id: &str) -> Self {
        Self::hash(id)
    }

    fn hash(what: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The extent of a stream to which nobody has added anything.
const NOTHING: Extent = Extent { first: None, last: EntryId::ZERO, length: 0, added: 0 };

impl Bookmark {
    /// A bookmark at a recorded checkpoint.
    pub(crate) fn new(at: EntryId, at_event: &str, seen: Option<u64>) -> Self {
        let witness = (!at_event.is_empty()).then(|| Witness::of_event(at_event));
        Self { position: at, witness, stood: witness.is_some(), seen, places: VecDeque::new(), marked: true }
    }

    /// The same for a reader that leaves nothing in the stream. To it an empty stream is as good as none.
    pub(crate) fn unmarked(mut self) -> Self {
        self.marked = false;
        self
    }

    /// The bookmark of a reader that has read nothing: after a cut it knows of no entry that is left.
    pub(crate) fn nowhere() -> Self {
        Self::new(EntryId::ZERO, "", None)
    }

    /// Its earlier places, newest first, each as a bookmark at that place.
    pub(super) fn earlier(&self) -> impl Iterator<Item = Self> {
        self.places.iter().rev().map(|(position, witness)| Self {
            position: *position,
            witness: Some(*witness),
            stood: true,
            seen: None,
            places: VecDeque::new(),
            marked: self.marked,
        })
    }

    pub(crate) fn position(&self) -> EntryId {
        self.position
    }

    /// The ordinal of the position.
    pub(crate) fn seen(&self) -> Option<u64> {
        self.seen
    }

    /// The witness of the entry at the position: a read that includes the entry can show that nothing was trimmed.
    pub(super) fn witness(&self) -> Option<Witness> {
        self.witness
    }

    /// Whether this entry is the one at the position, as far as that is known.
    pub(crate) fn is_at(&self, entry: Option<&Arc<Entry>>) -> bool {
        entry.is_some_and(|entry| {
            entry.id == self.position && self.witness.is_none_or(|witness| witness == Witness::of(entry))
        })
    }

    /// Moves over these entries, which follow the position without a gap.
    pub(super) fn pass(&mut self, entries: &[Arc<Entry>]) {
        if let Some(last) = entries.last() {
            if let Some(witness) = self.witness {
                if self.places.len() == PLACES {
                    self.places.pop_front();
                }
                self.places.push_back((self.position, witness));
            }
            self.position = last.id;
            self.witness = Some(Witness::of(last));
            self.stood = true;
            self.seen = self.seen.map(|seen| seen + entries.len() as u64);
        }
    }

    /// Moves to the end of this complete snapshot, up to which no entry is left.
    pub(crate) fn pass_nothing(&mut self, snapshot: &Snapshot) {
        let Some(extent) = snapshot.extent.filter(|extent| extent.last > self.position) else { return };
        let is_deleted = snapshot.deleted.is_some_and(|deleted| deleted >= extent.last);
        self.position = extent.last;
        self.witness = None;
        self.stood = is_deleted || extent.first.is_none();
    }

    /// Judges a snapshot from the position on. The entries of a gap that it finds count as seen from now on.
    ///
    /// `complete` says that the snapshot holds every entry above the position. After a cut, only [`Self::earlier`]
    /// places can say how far history is still the same; this function takes the whole history for another one.
    pub(crate) fn judge(&mut self, snapshot: &Snapshot, complete: bool) -> Option<DataLoss> {
        let position = self.position;
        let loss = |kind, from, to, count| Some(DataLoss { kind, from, to, count });
        let cut = loss(DataLossKind::HistoryCut, EntryId::ZERO, position, None);
        let restarted = loss(DataLossKind::Restarted, EntryId::ZERO, position, None);
        let extent = match self.marked {
            true => snapshot.extent.filter(|_| snapshot.marker),
            false => snapshot.extent.or(Some(NOTHING)),
        };
        let Some(extent) = extent else {
            return restarted;
        };
        if extent.last < position {
            return cut;
        }
        let first = snapshot.entries.first();
        let is_there = first.is_some_and(|entry| entry.id == position);
        if is_there && !self.is_at(first) {
            return cut;
        }
        let is_same = is_there && self.witness.is_some();
        if is_there {
            self.witness = first.map(|entry| Witness::of(entry));
        }
        // No trim removed it, because a lower one is there. Without a deletion that reaches it, it was never there.
        let is_hole = !is_there && extent.first.is_some_and(|first| first < position);
        let is_unexplained = is_hole && snapshot.deleted.is_some_and(|deleted| deleted < position);
        if is_unexplained && self.stood {
            return cut;
        }
        self.stood = !is_hole || (!is_unexplained && snapshot.deleted.is_some());
        let removed = extent.added - extent.length;
        if position == EntryId::ZERO {
            // Nothing was read. Entries that a server set back holds once more are to be read, too.
            self.seen = self.seen.map(|seen| seen.min(removed));
        }
        let above = snapshot.entries.iter().filter(|entry| entry.id > position).count() as u64;
        // Entries read, left to read and lost cannot be more than were ever added.
        let Some(seen) = self.seen else {
            let trimmed = position != EntryId::ZERO && extent.first.is_none_or(|first| first > position);
            if extent.first.is_none_or(|first| first > position) {
                self.seen = Some(removed);
            } else if complete {
                self.seen = Some(extent.added - above);
            }
            // Nobody has counted between the place where the group was to start and the end at the next snapshot.
            let to = extent.first.map_or(extent.last, EntryId::previous);
            return if trimmed && position < to { loss(DataLossKind::TrimmedPast, position, to, None) } else { None };
        };
        let Some(unread) = extent.added.checked_sub(seen + above) else {
            if is_same {
                // All entries read are there. Entries counted above them are back on a server that was set back, or
                // never existed.
                self.seen = complete.then(|| extent.added - above);
                return None;
            }
            return cut;
        };
        match extent.first {
            Some(first) if first <= position => {
                if !complete || unread == 0 {
                    return None;
                }
                if is_unexplained {
                    // Nothing above the position was ever deleted, either.
                    return cut;
                }
                self.seen = Some(seen + unread);
                loss(DataLossKind::DeletedUnread, position, extent.last, Some(unread))
            }
            first => {
                // No entry that was read is left, so every other entry that has left the stream was not read.
                let Some(lost) = removed.checked_sub(seen) else {
                    return cut;
                };
                self.seen = Some(seen + lost);
                let to = first.map_or(extent.last, EntryId::previous);
                if lost > 0 { loss(DataLossKind::TrimmedPast, position, to, Some(lost)) } else { None }
            }
        }
    }
}

#[cfg(test)]
mod histories;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Arc<Entry> {
        Arc::new(Entry::new(EntryId::new(n, 0), &[(b"id".to_vec(), format!("e{n}").into_bytes())]))
    }

    /// A stream to which `added` entries were added and which holds these, seen from `from`. The missing entries in
    /// between were deleted.
    fn snapshot(added: u64, held: &[u64], last: u64, from: u64) -> Snapshot {
        let extent = Extent {
            first: held.first().map(|n| EntryId::new(*n, 0)),
            last: EntryId::new(last, 0),
            length: held.len() as u64,
            added,
        };
        let entries = held.iter().filter(|n| **n >= from).map(|n| entry(*n)).collect();
        let deleted = held.first().and_then(|first| (*first..=last).rev().find(|n| !held.contains(n)));
        let deleted = Some(deleted.map_or(EntryId::ZERO, |n| EntryId::new(n, 0)));
        Snapshot { extent: Some(extent), marker: true, deleted, entries, complete: true }
    }

    /// A bookmark at entry 5 of five.
    fn bookmark() -> Bookmark {
        Bookmark::new(EntryId::new(5, 0), "e5", Some(5))
    }

    fn judged(snapshot: &Snapshot, complete: bool) -> (Option<(DataLossKind, Option<u64>)>, Option<u64>) {
        let mut bookmark = bookmark();
        let loss = bookmark.judge(snapshot, complete).map(|loss| (loss.kind, loss.count));
        (loss, bookmark.seen())
    }

    #[test]
    fn a_whole_history_is_no_loss() {
        assert_eq!(judged(&snapshot(5, &[1, 2, 3, 4, 5], 5, 5), true), (None, Some(5)));
        assert_eq!(judged(&snapshot(8, &[4, 5, 6, 7, 8], 8, 5), true), (None, Some(5)));
        // Entries were trimmed and deleted, but only read ones.
        assert_eq!(judged(&snapshot(8, &[6, 7, 8], 8, 5), true), (None, Some(5)));
        assert_eq!(judged(&snapshot(8, &[2, 6, 7, 8], 8, 5), true), (None, Some(5)));
        assert_eq!(judged(&snapshot(5, &[], 5, 5), true), (None, Some(5)));
    }

    #[test]
    fn what_was_trimmed_unread_is_counted() {
        let trimmed = |count| Some((DataLossKind::TrimmedPast, Some(count)));
        assert_eq!(judged(&snapshot(9, &[8, 9], 9, 5), true), (trimmed(2), Some(7)));
        assert_eq!(judged(&snapshot(9, &[], 9, 5), true), (trimmed(4), Some(9)));
        // The loss is counted although the snapshot does not hold all entries left to read.
        assert_eq!(judged(&snapshot(9, &[8, 9], 9, 5), false), (trimmed(2), Some(7)));
        let loss = bookmark().judge(&snapshot(9, &[8, 9], 9, 5), true).map(|loss| (loss.from, loss.to.next()));
        assert_eq!(loss, Some((EntryId::new(5, 0), EntryId::new(8, 0))));
    }

    #[test]
    fn what_was_deleted_unread_is_counted_where_everything_left_is_known() {
        let deleted = |count| Some((DataLossKind::DeletedUnread, Some(count)));
        assert_eq!(judged(&snapshot(9, &[5, 7, 9], 9, 5), true), (deleted(2), Some(7)));
        assert_eq!(judged(&snapshot(9, &[4], 9, 5), true), (deleted(4), Some(9)));
        assert_eq!(judged(&snapshot(9, &[5, 7, 9], 9, 5), false), (None, Some(5)));
    }

    #[test]
    fn another_history_is_no_gap() {
        let cut = Some((DataLossKind::HistoryCut, None));
        assert_eq!(judged(&snapshot(4, &[1, 2, 3, 4], 4, 5), true).0, cut);
        assert_eq!(judged(&snapshot(4, &[1, 2, 3, 7], 7, 5), true).0, cut, "five were read, three added anew");
        assert_eq!(
            judged(&snapshot(5, &[1, 2, 3, 4, 7], 7, 5), true).0,
            cut,
            "the newest takes the place of the fifth"
        );
        let mut other = snapshot(5, &[1, 2, 3, 4, 5], 5, 5);
        let mut moved = Entry::clone(&entry(4));
        moved.id = EntryId::new(5, 0);
        other.entries = vec![Arc::new(moved)];
        assert_eq!(judged(&other, true).0, cut, "another event stands at the position");

        let restarted = Some((DataLossKind::Restarted, None));
        let unmarked = Snapshot { marker: false, ..snapshot(9, &[5, 9], 9, 5) };
        assert_eq!(judged(&unmarked, true).0, restarted);
        assert_eq!(
            judged(&Snapshot { extent: None, marker: false, deleted: None, entries: vec![], complete: true }, true).0,
            restarted
        );
    }

    #[test]
    fn an_entry_that_left_neither_by_a_trim_nor_by_itself_was_never_there() {
        let cut = Some((DataLossKind::HistoryCut, None));
        let with = |deleted, snapshot| Snapshot { deleted, ..snapshot };
        let none = Some(EntryId::ZERO);
        // Three were lost, and at least as many came instead, above the position and below it.
        for (added, held, last) in [(7, vec![1, 2, 6, 7, 8, 9, 10], 10), (42, (1..=2).chain(6..=45).collect(), 45)] {
            assert_eq!(judged(&with(none, snapshot(added, &held, last, 5)), true).0, cut, "{held:?}");
            assert_eq!(judged(&with(none, snapshot(added, &held, last, 5)), false).0, cut, "{held:?}");
        }
        let below = with(none, snapshot(8, &[1, 2, 3, 4, 6], 6, 5));
        assert_eq!(judged(&below, true).0, cut, "not two that were deleted");
        let mut uncounted = Bookmark::new(EntryId::new(5, 0), "e5", None);
        assert_eq!(uncounted.judge(&below, false).map(|loss| loss.kind), Some(DataLossKind::HistoryCut));

        // The entry at the position was deleted, or the server cannot say which was.
        let at_it = Some(EntryId::new(5, 0));
        assert_eq!(judged(&with(at_it, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), true), (None, Some(5)));
        assert_eq!(judged(&with(None, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), true), (None, Some(5)));
        // No entry was ever at the position: a group may be set to any id.
        let mut elsewhere = Bookmark::new(EntryId::new(5, 0), "", None);
        assert_eq!(elsewhere.judge(&with(none, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), false), None);
        // Until a deletion at the position shows that one was.
        assert_eq!(elsewhere.judge(&with(at_it, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), false), None);
        let loss = elsewhere.judge(&with(none, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), false);
        assert_eq!(loss.map(|loss| loss.kind), Some(DataLossKind::HistoryCut));
    }

    #[test]
    fn a_reader_knows_where_it_was() {
        let mut bookmark = bookmark();
        (6..40).for_each(|n| bookmark.pass(&[entry(n)]));
        let places: Vec<_> = bookmark.earlier().map(|place| place.position().ms).collect();
        assert_eq!(places, (39 - PLACES as u64..39).rev().collect::<Vec<_>>());
        assert!(bookmark.earlier().all(|place| place.is_at(Some(&entry(place.position().ms)))));
    }

    #[test]
    fn an_ordinal_that_is_not_known_is_learned_at_the_end() {
        let mut bookmark = Bookmark::new(EntryId::new(5, 0), "", None);
        assert_eq!(bookmark.judge(&snapshot(90, &[4, 5, 6, 7], 7, 5), false), None);
        assert_eq!(bookmark.seen(), None);
        assert_eq!(bookmark.judge(&snapshot(90, &[4, 5, 6, 7], 7, 5), true), None);
        assert_eq!(bookmark.seen(), Some(88));

        let mut bookmark = Bookmark::new(EntryId::new(5, 0), "", None);
        let loss = bookmark.judge(&snapshot(90, &[8, 9], 9, 5), true).map(|loss| (loss.kind, loss.count));
        assert_eq!((loss, bookmark.seen()), (Some((DataLossKind::TrimmedPast, None)), Some(88)));
    }

    #[test]
    fn an_entry_is_told_from_another_of_the_same_id() {
        let mut bookmark = bookmark();
        assert!(bookmark.is_at(Some(&entry(5))) && !bookmark.is_at(Some(&entry(6))) && !bookmark.is_at(None));
        let anonymous =
            |value: &[u8]| Arc::new(Entry::new(EntryId::new(6, 0), &[(b"payload".to_vec(), value.to_vec())]));
        bookmark.pass(&[anonymous(b"x")]);
        assert!(bookmark.is_at(Some(&anonymous(b"x"))) && !bookmark.is_at(Some(&anonymous(b"y"))));
        assert_eq!((bookmark.position(), bookmark.seen()), (EntryId::new(6, 0), Some(6)));
        bookmark.pass_nothing(&snapshot(9, &[1, 6], 9, 6));
        assert_eq!((bookmark.position(), bookmark.witness()), (EntryId::new(9, 0), None));
    }

    #[test]
    fn every_kind_has_its_place() {
        assert!(DataLossKind::ALL.iter().enumerate().all(|(place, kind)| *kind as usize == place));
    }

    #[test]
    fn a_loss_says_how_much_and_where() {
        let loss = DataLoss {
            kind: DataLossKind::TrimmedPast,
            from: EntryId::new(5, 0),
            to: EntryId::new(8, 1),
            count: Some(3),
        };
        let said = "3 entries above 5-0 up to 8-1 are lost: the stream was trimmed before the group had read them";
        assert_eq!(loss.to_string(), said);
    }
}
