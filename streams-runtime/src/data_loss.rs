//! A loss of history: its kinds, and the words that people read about it.

use std::fmt;

use streams_core::EntryId;

/// Events that a group will never see, or history that is no longer the one it has read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataLoss {
    /// The kind of loss.
    pub kind: DataLossKind,
    /// The lost entries lie above this one. Where history was cut it is one that the group has read and that is still
    /// there, or 0-0 where the process knows of none.
    pub from: EntryId,
    /// And not above this one. A history that was cut counts up to where the group had read, because nobody knows of later entries.
    pub to: EntryId,
    /// How many entries are lost, exactly; `None` when nobody can know.
    pub count: Option<u64>,
}

/// A way in which history can be lost.
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
