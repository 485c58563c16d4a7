//! What was cut from history before a group had read it, and how much: pure rules that `source` carries out.
//!
//! A reader keeps its position and how many entries had been added up to it, those included that were lost and reported.
//! While the entry at the position is still there no trim has passed it, so an ordinary read needs no more than to
//! include it. Where it is gone, and now and then to find what was deleted, a [`Snapshot`] decides by arithmetic: what
//! was ever added is what was read, what is left to read, and what is lost.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use streams_core::broker::{Snapshot, in_short};
use streams_core::{Entry, EntryId};

/// Events that a group will never see, or history that is no longer the one it has read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataLoss {
    /// What happened.
    pub kind: DataLossKind,
    /// What is lost lies above this entry.
    pub from: EntryId,
    /// And not above this one.
    pub to: EntryId,
    /// How many entries are lost, exactly; `None` when nobody can know.
    pub count: Option<u64>,
}

/// What happened to history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataLossKind {
    /// The stream was deleted or made anew, the server emptied, or the group's marker destroyed.
    Restarted,
    /// The stream has lost its newest entries, as by a failover to a replica that lagged.
    HistoryCut,
    /// Entries were trimmed before the group had read them.
    TrimmedPast,
    /// Entries were deleted one by one before the group had read them.
    DeletedUnread,
}

impl DataLossKind {
    /// Every kind, in the order of their declaration.
    pub(crate) const ALL: [Self; 4] = [Self::Restarted, Self::HistoryCut, Self::TrimmedPast, Self::DeletedUnread];

    /// The word for it in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restarted => "restarted",
            Self::HistoryCut => "history cut",
            Self::TrimmedPast => "trimmed past",
            Self::DeletedUnread => "deleted unread",
        }
    }

    /// Whether what is left follows what was read, so that a reader can go on in its place.
    pub(crate) fn is_gap(self) -> bool {
        matches!(self, Self::TrimmedPast | Self::DeletedUnread)
    }
}

impl fmt::Display for DataLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.count) {
            (_, Some(1)) => f.write_str("1 entry")?,
            (_, Some(count)) => write!(f, "{count} entries")?,
            (_, None) => f.write_str("an unknown number of entries")?,
        }
        write!(f, " above {} up to {} ", self.from, self.to)?;
        f.write_str(match (self.kind, self.count) {
            (DataLossKind::Restarted, _) => {
                "may be lost: the stream or the group was deleted or made anew, or the server emptied"
            }
            (DataLossKind::HistoryCut, _) => {
                "may be lost: the stream's newest entries were cut off, as by a failover to a replica that lagged"
            }
            (DataLossKind::TrimmedPast, Some(_)) => "are lost: the stream was trimmed before the group had read them",
            (DataLossKind::TrimmedPast, None) => {
                "may be lost: the stream was trimmed up to where the group was reading"
            }
            (DataLossKind::DeletedUnread, _) => "are lost: they were deleted before the group had read them",
        })
    }
}

/// How far a group has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reader {
    /// The last entry read, or an id up to which nothing is left to read.
    position: EntryId,
    /// What the entry at the position looks like; `None` when there is none, or nobody knows.
    witness: Option<Witness>,
    /// How many entries had been added up to the position, lost ones included.
    seen: Option<u64>,
}

/// Tells an entry from another one of the same id: by the event's own id, by its fields in short where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Witness(u64);

impl Witness {
    pub(crate) fn of(entry: &Entry) -> Self {
        entry.given_id().map_or_else(|| Self::hash(&in_short(entry).fields), Self::of_event)
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

impl Reader {
    /// A reader at a checkpoint, as it is recorded.
    pub(crate) fn new(at: EntryId, at_event: &str, seen: Option<u64>) -> Self {
        Self { position: at, witness: (!at_event.is_empty()).then(|| Witness::of_event(at_event)), seen }
    }

    pub(crate) fn position(&self) -> EntryId {
        self.position
    }

    /// The ordinal of the position.
    pub(crate) fn seen(&self) -> Option<u64> {
        self.seen
    }

    /// What the entry at the position looks like: a read that includes it can show that nothing was trimmed.
    pub(crate) fn witness(&self) -> Option<Witness> {
        self.witness
    }

    /// Whether this entry is the one at the position, as far as that is known.
    pub(crate) fn is_at(&self, entry: Option<&Arc<Entry>>) -> bool {
        entry.is_some_and(|entry| {
            entry.id == self.position && self.witness.is_none_or(|witness| witness == Witness::of(entry))
        })
    }

    /// These entries, which follow the position without a gap, are handed out.
    pub(crate) fn pass(&mut self, entries: &[Arc<Entry>]) {
        if let Some(last) = entries.last() {
            self.position = last.id;
            self.witness = Some(Witness::of(last));
            self.seen = self.seen.map(|seen| seen + entries.len() as u64);
        }
    }

    /// No entry is left up to this id.
    pub(crate) fn pass_nothing(&mut self, to: EntryId) {
        if to > self.position {
            self.position = to;
            self.witness = None;
        }
    }

    /// Judges a snapshot from the position on. What is found to be lost counts as seen from now on, if the loss is a gap.
    ///
    /// `complete` says that the snapshot holds every entry above the position.
    pub(crate) fn judge(&mut self, snapshot: &Snapshot, complete: bool) -> Option<DataLoss> {
        let position = self.position;
        let loss = |kind, from, to, count| Some(DataLoss { kind, from, to, count });
        let Some(extent) = snapshot.extent else {
            return loss(DataLossKind::Restarted, EntryId::ZERO, position, None);
        };
        if !snapshot.marker {
            return loss(DataLossKind::Restarted, EntryId::ZERO, position, None);
        }
        if extent.last < position {
            return loss(DataLossKind::HistoryCut, extent.last, position, None);
        }
        let first = snapshot.entries.first();
        if first.is_some_and(|entry| entry.id == position) && !self.is_at(first) {
            return loss(DataLossKind::HistoryCut, position.previous(), position, None);
        }
        let above = snapshot.entries.iter().filter(|entry| entry.id > position).count() as u64;
        // What was read, what is left to read and what is lost cannot be more than was ever added.
        let Some(seen) = self.seen else {
            let trimmed = position != EntryId::ZERO && extent.first.is_none_or(|first| first > position);
            if extent.first.is_none_or(|first| first > position) {
                self.seen = Some(extent.added - extent.length);
            } else if complete {
                self.seen = Some(extent.added - above);
            }
            // Between the place where the group was to start and the next snapshot of its end nobody has counted.
            let to = extent.first.map_or(extent.last, EntryId::previous);
            return if trimmed && position < to { loss(DataLossKind::TrimmedPast, position, to, None) } else { None };
        };
        let Some(unread) = extent.added.checked_sub(seen + above) else {
            return loss(DataLossKind::HistoryCut, position.previous(), extent.last, None);
        };
        match extent.first {
            Some(first) if first <= position => {
                if !complete || unread == 0 {
                    return None;
                }
                self.seen = Some(seen + unread);
                loss(DataLossKind::DeletedUnread, position, extent.last, Some(unread))
            }
            first => {
                // Nothing is left of what was read: whatever else has left the stream was not.
                let Some(lost) = (extent.added - extent.length).checked_sub(seen) else {
                    return loss(DataLossKind::HistoryCut, position.previous(), extent.last, None);
                };
                self.seen = Some(seen + lost);
                let to = first.map_or(extent.last, EntryId::previous);
                if lost > 0 { loss(DataLossKind::TrimmedPast, position, to, Some(lost)) } else { None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streams_core::broker::Extent;

    fn entry(n: u64) -> Arc<Entry> {
        Arc::new(Entry { id: EntryId::new(n, 0), fields: vec![(b"id".to_vec(), format!("e{n}").into_bytes())] })
    }

    /// A stream to which `added` entries were added, and which holds these; seen from `from`.
    fn snapshot(added: u64, held: &[u64], last: u64, from: u64) -> Snapshot {
        let extent = Extent {
            first: held.first().map(|n| EntryId::new(*n, 0)),
            last: EntryId::new(last, 0),
            length: held.len() as u64,
            added,
        };
        let entries = held.iter().filter(|n| **n >= from).map(|n| entry(*n)).collect();
        Snapshot { extent: Some(extent), marker: true, entries, complete: true }
    }

    /// At entry 5 of five.
    fn reader() -> Reader {
        Reader::new(EntryId::new(5, 0), "e5", Some(5))
    }

    fn judged(snapshot: &Snapshot, complete: bool) -> (Option<(DataLossKind, Option<u64>)>, Option<u64>) {
        let mut reader = reader();
        let loss = reader.judge(snapshot, complete).map(|loss| (loss.kind, loss.count));
        (loss, reader.seen())
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
        let loss = reader().judge(&snapshot(9, &[8, 9], 9, 5), true).map(|loss| (loss.from, loss.to.next()));
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
        other.entries = vec![Arc::new(Entry { fields: entry(4).fields.clone(), id: EntryId::new(5, 0) })];
        assert_eq!(judged(&other, true).0, cut, "another event stands at the position");

        let restarted = Some((DataLossKind::Restarted, None));
        let unmarked = Snapshot { marker: false, ..snapshot(9, &[5, 9], 9, 5) };
        assert_eq!(judged(&unmarked, true).0, restarted);
        assert_eq!(
            judged(&Snapshot { extent: None, marker: false, entries: vec![], complete: true }, true).0,
            restarted
        );
    }

    #[test]
    fn an_ordinal_that_is_not_known_is_learned_at_the_end() {
        let mut reader = Reader::new(EntryId::new(5, 0), "", None);
        assert_eq!(reader.judge(&snapshot(90, &[4, 5, 6, 7], 7, 5), false), None);
        assert_eq!(reader.seen(), None);
        assert_eq!(reader.judge(&snapshot(90, &[4, 5, 6, 7], 7, 5), true), None);
        assert_eq!(reader.seen(), Some(88));

        let mut reader = Reader::new(EntryId::new(5, 0), "", None);
        let loss = reader.judge(&snapshot(90, &[8, 9], 9, 5), true).map(|loss| (loss.kind, loss.count));
        assert_eq!((loss, reader.seen()), (Some((DataLossKind::TrimmedPast, None)), Some(88)));
    }

    #[test]
    fn an_entry_is_told_from_another_of_the_same_id() {
        let mut reader = reader();
        assert!(reader.is_at(Some(&entry(5))) && !reader.is_at(Some(&entry(6))) && !reader.is_at(None));
        let anonymous = |value: &[u8]| {
            Arc::new(Entry { id: EntryId::new(6, 0), fields: vec![(b"payload".to_vec(), value.to_vec())] })
        };
        reader.pass(&[anonymous(b"x")]);
        assert!(reader.is_at(Some(&anonymous(b"x"))) && !reader.is_at(Some(&anonymous(b"y"))));
        assert_eq!((reader.position(), reader.seen()), (EntryId::new(6, 0), Some(6)));
        reader.pass_nothing(EntryId::new(9, 0));
        assert_eq!(reader.witness(), None);
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
