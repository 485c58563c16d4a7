//! The last state of a group that this process has seen, against which a server shows that it has lost writes.

use std::sync::Mutex;

use streams_core::EntryId;
use streams_core::broker::GroupState;

use super::ended::Ended;
use crate::data_loss::{DataLoss, DataLossKind};
use crate::reader::Bookmark;
use crate::sync::lock;

/// The memory of a group that outlives an ownership.
#[derive(Default)]
pub(crate) struct History {
    known: Mutex<Option<Known>>,
    /// How far this process had read when it last owned the partition, committed or not. Only this shows a cut that takes the
    /// lease along.
    last_bookmark: Mutex<Option<Bookmark>>,
}

/// The part of the state that a server without its last writes shows differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) at: EntryId,
    pub(super) epoch: u64,
    /// The epoch of the last reset. Another one means that an operator has moved the checkpoint.
    pub(super) reset: u64,
}

impl History {
    pub(super) fn known(&self) -> Option<Known> {
        *lock(&self.known)
    }

    pub(super) fn know(&self, state: &GroupState) {
        let known = Known { at: state.at, epoch: state.lease.epoch, reset: state.reset };
        *lock(&self.known) = Some(known);
    }

    /// The cursor of a work queue, as far as this process knows.
    pub(crate) fn cursor(&self) -> EntryId {
        self.known().map_or(EntryId::ZERO, |known| known.at)
    }

    /// Whether the cursor of a work queue is no lower than this process has seen it, since the same reset where `reset` names
    /// one.
    pub(crate) fn reaches(&self, at: EntryId, reset: Option<u64>) -> bool {
        match &mut *lock(&self.known) {
            Some(known) if reset.is_none_or(|reset| reset == known.reset) => {
                let reaches = at >= known.at;
                known.at = known.at.max(at);
                reaches
            }
            // A reset ends this session.
            Some(known) => reset > Some(known.reset),
            None => true,
        }
    }

    /// The server has acknowledged this checkpoint.
    pub(super) fn acknowledged(&self, at: EntryId) {
        if let Some(known) = &mut *lock(&self.known) {
            known.at = at;
        }
    }

    /// The lease was taken, in this epoch.
    pub(crate) fn owned(&self, epoch: u64) {
        if let Some(known) = &mut *lock(&self.known) {
            known.epoch = epoch;
        }
    }

    /// The state is made anew: the next look shows it.
    pub(super) fn forget(&self) {
        *lock(&self.known) = None;
    }

    /// How far this process had read when it last owned the partition.
    pub(crate) fn last_bookmark(&self) -> Option<Bookmark> {
        lock(&self.last_bookmark).clone()
    }

    pub(crate) fn remember(&self, bookmark: Option<Bookmark>) {
        *lock(&self.last_bookmark) = bookmark;
    }

    /// Fails when the state belongs to another history than this process has seen.
    pub(crate) fn recall(&self, state: Option<&GroupState>) -> Result<(), Ended> {
        let loss = |kind, from, to| Ended::Cut { loss: DataLoss { kind, from, to, count: None }, at: None };
        match (self.known(), state) {
            (Some(known), None) => Err(loss(DataLossKind::Restarted, EntryId::ZERO, known.at)),
            // Resets have growing numbers: one that is gone was taken back with the state.
            (Some(known), Some(state))
                if state.reset < known.reset || (state.reset == known.reset && state.at < known.at) =>
            {
                let read = self.last_bookmark().map_or(known.at, |bookmark| bookmark.position().max(known.at));
                Err(loss(DataLossKind::HistoryCut, state.at.min(read), read))
            }
            (known, Some(state)) => {
                if known.is_some_and(|known| known.reset < state.reset) {
                    // Somebody has begun anew since.
                    self.remember(None);
                }
                self.know(state);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }
}
