//! The place up to which a group has read, and the losses of history that show there; pure.
//!
//! A bookmark keeps its position and how many entries had been added up to it, those included that were lost and reported.
//! While the entry at the position is still there no trim has passed it, so an ordinary read needs no more than to
//! include it. Where it is gone, and now and then to find what was deleted, a [`Snapshot`] decides.
//!
//! An entry leaves with all that is below it, by a trim, or by itself, and then the stream says so. So an entry that is gone
//! while a lower one stands, with no deletion at or above it, was never in this history. Whatever else is gone is counted:
//! what was ever added is what was read, what is left to read, and what is lost.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use streams_core::broker::{Snapshot, in_short};
use streams_core::{Entry, EntryId};

use crate::data_loss::{DataLoss, DataLossKind};

/// How many places a bookmark remembers, to say how far a history that was cut is still the one that it has read. Each is the
/// end of a read, so with a backlog they reach back some thousand events, and one by one as far as most failovers take.
const PLACES: usize = 16;

/// How far a group has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bookmark {
    /// The last entry read, or an id up to which nothing is left to read.
    position: EntryId,
    /// What the entry at the position looks like; `None` when there is none, or nobody knows.
    witness: Option<Witness>,
    /// Whether the position is known to this history: an entry stood there, or one there or above was deleted, or nothing was
    /// left up to it. Not so where a group was put at an id that no entry ever had.
    stood: bool,
    /// How many entries had been added up to the position, lost ones included.
    seen: Option<u64>,
    /// Earlier positions, oldest first.
    places: VecDeque<(EntryId, Witness)>,
}

/// Tells an entry from another one of the same id: by the event's own id, by its fields in short where it has none.
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

impl Bookmark {
    /// A bookmark at a checkpoint, as it is recorded.
    pub(crate) fn new(at: EntryId, at_event: &str, seen: Option<u64>) -> Self {
        let witness = (!at_event.is_empty()).then(|| Witness::of_event(at_event));
        Self { position: at, witness, stood: witness.is_some(), seen, places: VecDeque::new() }
    }

    /// The bookmark of who has read nothing: of a history that was cut nothing is known to be left.
    pub(crate) fn nowhere() -> Self {
        Self::new(EntryId::ZERO, "", None)
    }

    /// Earlier places of it, newest first, each as the bookmark that stood there.
    pub(super) fn earlier(&self) -> impl Iterator<Item = Self> {
        self.places.iter().rev().map(|(position, witness)| Self {
            position: *position,
            witness: Some(*witness),
            stood: true,
            seen: None,
            places: VecDeque::new(),
        })
    }

    pub(crate) fn position(&self) -> EntryId {
        self.position
    }

    /// The ordinal of the position.
    pub(crate) fn seen(&self) -> Option<u64> {
        self.seen
    }

    /// What the entry at the position looks like: a read that includes it can show that nothing was trimmed.
    pub(super) fn witness(&self) -> Option<Witness> {
        self.witness
    }

    /// Whether this entry is the one at the position, as far as that is known.
    pub(crate) fn is_at(&self, entry: Option<&Arc<Entry>>) -> bool {
        entry.is_some_and(|entry| {
            entry.id == self.position && self.witness.is_none_or(|witness| witness == Witness::of(entry))
        })
    }

    /// These entries, which follow the position without a gap, are handed out.
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

    /// No entry is left up to the end of this snapshot, which is complete.
    pub(crate) fn pass_nothing(&mut self, snapshot: &Snapshot) {
        let Some(extent) = snapshot.extent.filter(|extent| extent.last > self.position) else { return };
        let is_deleted = snapshot.deleted.is_some_and(|deleted| deleted >= extent.last);
        self.position = extent.last;
        self.witness = None;
        self.stood = is_deleted || extent.first.is_none();
    }

    /// Judges a snapshot from the position on. What is found to be lost counts as seen from now on, if the loss is a gap.
    ///
    /// `complete` says that the snapshot holds every entry above the position. Of a history that was cut only [`Self::earlier`]
    /// places can say how far it is still the same: here it is taken for another one from its beginning.
    pub(crate) fn judge(&mut self, snapshot: &Snapshot, complete: bool) -> Option<DataLoss> {
        let position = self.position;
        let loss = |kind, from, to, count| Some(DataLoss { kind, from, to, count });
        let cut = loss(DataLossKind::HistoryCut, EntryId::ZERO, position, None);
        let restarted = loss(DataLossKind::Restarted, EntryId::ZERO, position, None);
        let Some(extent) = snapshot.extent.filter(|_| snapshot.marker) else {
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
        // It was not trimmed, as a lower one stands. Where no deletion has come so far it was never there.
        let is_hole = !is_there && extent.first.is_some_and(|first| first < position);
        let is_unexplained = is_hole && snapshot.deleted.is_some_and(|deleted| deleted < position);
        if is_unexplained && self.stood {
            return cut;
        }
        self.stood = !is_hole || (!is_unexplained && snapshot.deleted.is_some());
        let removed = extent.added - extent.length;
        if position == EntryId::ZERO {
            // Nothing was read. What a server that was set back holds once more is to be read, too.
            self.seen = self.seen.map(|seen| seen.min(removed));
        }
        let above = snapshot.entries.iter().filter(|entry| entry.id > position).count() as u64;
        // What was read, what is left to read and what is lost cannot be more than was ever added.
        let Some(seen) = self.seen else {
            let trimmed = position != EntryId::ZERO && extent.first.is_none_or(|first| first > position);
            if extent.first.is_none_or(|first| first > position) {
                self.seen = Some(removed);
            } else if complete {
                self.seen = Some(extent.added - above);
            }
            // Between the place where the group was to start and the next snapshot of its end nobody has counted.
            let to = extent.first.map_or(extent.last, EntryId::previous);
            return if trimmed && position < to { loss(DataLossKind::TrimmedPast, position, to, None) } else { None };
        };
        let Some(unread) = extent.added.checked_sub(seen + above) else {
            if is_same {
                // All that was read is there. What was counted above it, a server that was set back holds again, or never had.
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
                // Nothing is left of what was read: whatever else has left the stream was not.
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
    use streams_core::broker::Extent;

    fn entry(n: u64) -> Arc<Entry> {
        Arc::new(Entry::new(EntryId::new(n, 0), &[(b"id".to_vec(), format!("e{n}").into_bytes())]))
    }

    /// A stream to which `added` entries were added, and which holds these; seen from `from`. What is missing between them was
    /// deleted.
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

    /// At entry 5 of five.
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
        // Trimmed and deleted, but only what was read.
        assert_eq!(judged(&snapshot(8, &[6, 7, 8], 8, 5), true), (None, Some(5)));
        assert_eq!(judged(&snapshot(8, &[2, 6, 7, 8], 8, 5), true), (None, Some(5)));
        assert_eq!(judged(&snapshot(5, &[], 5, 5), true), (None, Some(5)));
    }

    #[test]
    fn what_was_trimmed_unread_is_counted() {
        let trimmed = |count| Some((DataLossKind::TrimmedPast, Some(count)));
        assert_eq!(judged(&snapshot(9, &[8, 9], 9, 5), true), (trimmed(2), Some(7)));
        assert_eq!(judged(&snapshot(9, &[], 9, 5), true), (trimmed(4), Some(9)));
        // Counted although there is more to read than the snapshot holds.
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
        // Three were lost; as many and more came instead, above the position and below it.
        for (added, held, last) in [(7, vec![1, 2, 6, 7, 8, 9, 10], 10), (42, (1..=2).chain(6..=45).collect(), 45)] {
            assert_eq!(judged(&with(none, snapshot(added, &held, last, 5)), true).0, cut, "{held:?}");
            assert_eq!(judged(&with(none, snapshot(added, &held, last, 5)), false).0, cut, "{held:?}");
        }
        let below = with(none, snapshot(8, &[1, 2, 3, 4, 6], 6, 5));
        assert_eq!(judged(&below, true).0, cut, "not two that were deleted");
        let mut uncounted = Bookmark::new(EntryId::new(5, 0), "e5", None);
        assert_eq!(uncounted.judge(&below, false).map(|loss| loss.kind), Some(DataLossKind::HistoryCut));

        // The entry at the position was deleted, or nobody says what was.
        let at_it = Some(EntryId::new(5, 0));
        assert_eq!(judged(&with(at_it, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), true), (None, Some(5)));
        assert_eq!(judged(&with(None, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), true), (None, Some(5)));
        // No entry was ever seen at the position: a group may be put anywhere.
        let mut elsewhere = Bookmark::new(EntryId::new(5, 0), "", None);
        assert_eq!(elsewhere.judge(&with(none, snapshot(8, &[1, 2, 6, 7, 8], 8, 5)), false), None);
        // Until a deletion at it shows that one was.
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
