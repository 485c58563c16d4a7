//! What a group has given up on: letters that were put away by a commit or acks, and those that are handled again.

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

    /// Moves dead letters to the end of the group's replays, in this order, each with its fields behind `letter`, the id
    /// that it had: all of them that are there, or none where there would then be more than `most`. A letter MUST be in one
    /// of the two places at every moment, and never in both. Its owner learns of it at its next renewal
    /// ([`Renewed::Held`](super::Renewed::Held)).
    ///
    /// Sent twice it moves nothing the second time, as there is nothing left to move.
    fn replay<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId], most: u64) -> Reply<'a, Moved>;

    /// The letters that wait to be handled again, above `after`, oldest first, at most `count`.
    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries>;

    /// The first of the replays, if owner and epoch hold the lease, for one attempt at it: until [`end_replay`] the letter is
    /// charged to this epoch, and when another one takes it first, that is a crash. Sent twice it MUST charge once.
    ///
    /// In a work queue any consumer may ask; while the letter is charged to another one that has not been freed, the answer
    /// MUST be [`Taken::Nothing`].
    ///
    /// [`end_replay`]: Self::end_replay
    fn take_replay<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, Taken>;

    /// Ends the attempt at the first of the replays, if owner and epoch hold the lease; answers whether they do. A letter that
    /// goes back to the dead letters MUST move in one step, whatever number there is already: it must not be lost. Sent
    /// twice it MUST take effect once, and attempts MUST NOT be counted back by one that comes late.
    fn end_replay<'a>(
        &'a self,
        group: &'a GroupKey,
        holder: &'a Holder,
        id: EntryId,
        end: &'a ReplayEnd,
    ) -> Reply<'a, bool>;
}

/// What came of sending dead letters to be handled again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// These were there, and wait now.
    Done(Vec<EntryId>),
    /// Too many wait already. Nothing was changed.
    Full {
        /// How many.
        waiting: u64,
    },
    /// The group has no state, so nobody would handle them. Nothing was changed.
    Missing,
}

/// What came of taking a letter to handle it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// This one.
    Letter(Replay),
    /// There is none.
    Nothing,
    /// There is none although there should be, as somebody has deleted them, or the server has lost them. Said once.
    Gone,
    /// Another owner holds the lease. Nothing was changed.
    Fenced,
}

/// A dead letter that is handled again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The letter under its id among the replays; the one that it had is its field `letter`.
    pub letter: Arc<Entry>,
    /// Failed attempts since it was sent.
    pub attempts: u32,
    /// How often the process that attempted it went away in the middle.
    pub crashes: u32,
}

/// How an attempt at a replay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The event's business with the group is ended: the letter is removed.
    Done,
    /// The letter stays the first, and there were so many failed attempts.
    Again {
        /// Since it was sent.
        attempts: u32,
    },
    /// It goes back to the dead letters, with these fields.
    Dead(Fields),
}
