//! Dead letters, which commits and acks write when a group gives up on an event, and their replays.

use std::sync::Arc;

use super::error::Reply;
use super::groups::Holder;
use super::log::{Entries, Fields};
use super::sealed::Sealed;
use crate::keys::GroupKey;
use crate::{Entry, EntryId};

/// The dead letters of a store, and the replays of them.
pub trait Letters: Sealed {
    /// The group's dead letters above `after`, oldest first, at most `count`.
    fn dead_letters<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries>;

    /// Removes dead letters; answers how many there were.
    fn discard<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId]) -> Reply<'a, u64>;

    /// Moves dead letters to the end of the group's replays, in this order, each with its fields behind `letter`, its
    /// id so far. It moves all of them that exist, or none if there would then be more than `most` replays. A letter
    /// MUST be in one of the two places at every moment, and never in both. The owner learns of it at its next renewal
    /// ([`Renewed::Held`](super::Renewed::Held)).
    ///
    /// A call sent twice moves nothing the second time, because nothing is left to move.
    fn replay<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId], most: u64) -> Reply<'a, Moved>;

    /// Moves one dead letter to the end of the group's replays as [`replay`](Self::replay) does, with these fields in the
    /// place of its own. A letter MUST be in one of the two places at every moment, with the old fields or with these.
    ///
    /// A call sent twice moves nothing the second time, and its fields are dropped.
    fn replay_edited<'a>(&'a self, group: &'a GroupKey, id: EntryId, fields: &'a Fields, most: u64)
    -> Reply<'a, Moved>;

    /// The dead letters that wait to be replayed, above `after`, oldest first, at most `count`.
    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries>;

    /// The first of the replays, if owner and epoch hold the lease, for one attempt at it. Until [`end_replay`] the
    /// letter is charged to this epoch; if another epoch takes it first, that is a crash. A call sent twice MUST charge
    /// once.
    ///
    /// In a work queue any consumer may ask. While the letter is charged to another consumer that was not reclaimed,
    /// the answer MUST be [`Taken::Nothing`].
    ///
    /// [`end_replay`]: Self::end_replay
    fn take_replay<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, Taken>;

    /// Ends the attempt at the first of the replays, if owner and epoch hold the lease; answers whether they do. A
    /// letter that returns to the dead letters MUST move in one step, however many there are already, so that it is not
    /// lost. A call sent twice MUST take effect once, and a late call MUST NOT set the attempts back.
    fn end_replay<'a>(
        &'a self,
        group: &'a GroupKey,
        holder: &'a Holder,
        id: EntryId,
        end: &'a ReplayEnd,
    ) -> Reply<'a, bool>;
}

/// The answer to a call that sends dead letters to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// These existed, and now wait to be replayed.
    Done(Vec<EntryId>),
    /// Too many replays wait already. Nothing was changed.
    Full {
        /// How many replays wait.
        waiting: u64,
    },
    /// The group has no state, so no process would replay them. Nothing was changed.
    Missing,
}

/// The answer to a call that takes a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The first replay.
    Letter(Replay),
    /// No replay waits.
    Nothing,
    /// Replays are missing: they were deleted, or the server lost them. Answered once.
    Gone,
    /// Another owner holds the lease. Nothing was changed.
    Fenced,
}

/// A dead letter that is being replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The letter under its id among the replays; its field `letter` holds the id that it had.
    pub letter: Arc<Entry>,
    /// Failed attempts since it was sent to be replayed.
    pub attempts: u32,
    /// How often a process died while it was charged with the letter.
    pub crashes: u32,
}

/// How an attempt at a replay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The event is settled; the letter is removed.
    Done,
    /// The letter stays the first of the replays.
    Again {
        /// Failed attempts since it was sent to be replayed.
        attempts: u32,
    },
    /// The letter returns to the dead letters, with these fields.
    Dead(Fields),
}
