//! The contract of work queues, the groups from which any number of processes fetch: calls, arguments and answers.
//!
//! The state of a queue has a cursor, as an ordered group has a checkpoint: the store has given out every entry up to
//! it. Each of these entries is in exactly one place. It is part of a chunk that one consumer has in flight, or it is
//! in the waiting set, or it is settled.

use std::sync::Arc;
use std::time::Duration;

use super::error::Reply;
use super::groups::{AttemptError, DeadBounds, Events, Holder};
use super::log::Fields;
use super::sealed::Sealed;
use crate::keys::GroupKey;
use crate::{Entry, EntryId};

/// The work queues of a store. Keys are those of [`GroupKey::queue`].
///
/// A consumer holds its entries in flight as an owner holds a lease. It renews with a [`Renewer`](super::Renewer), by
/// its token and the epoch of its session. A process that has seen the same beat of a consumer for a whole lease
/// reclaims the consumer's entries. A reset empties all chunks and the waiting set, and removes all consumers.
///
/// Every call of this trait that uses the waiting set MUST first compare it with the group's state. Where the two
/// differ, the call MUST say so ([`Damage`]) and change nothing; only [`mend`](Self::mend) repairs it. An earlier
/// waiting set that was put back differs, even one from before a reset.
///
/// A session numbers its fetches and its acks separately, each from 1 on. A call uses its number only when it takes
/// effect: when a fetch is answered with a chunk, or acks with [`Acked::Done`]. After any other answer the next call
/// has the same number. The state keeps the latest number of each kind:
///
/// * A call with the next number takes effect.
/// * A call with the latest number or a smaller one was sent again or comes late, and MUST NOT take effect again.
/// * A call with a larger number MUST be fenced: the server has gone back in time, and its state lacks the caller's
///   later calls.
pub trait Queue: Sealed {
    /// Makes the caller a consumer of a work queue, with this fresh token and a lease of this length. The same call
    /// sent twice MUST answer with the same epoch. It MUST work on a full server. It MUST refuse the empty token, and
    /// the token of a consumer that is being reclaimed.
    fn join<'a>(&'a self, group: &'a GroupKey, owner: &'a str, lease_for: Duration) -> Reply<'a, Joined>;

    /// Gives out entries as one chunk to the caller: first waiting entries that the caller may have now, then new ones.
    /// It MUST NOT wait for entries, MUST work on a full server, and counts as a beat of the caller.
    ///
    /// New entries are those behind the cursor, and the cursor moves over them. The call MUST answer
    /// [`Fetched::Unsure`] where both of these hold. The caller finds any other loss by snapshots.
    ///
    /// * There are entries behind the cursor, or the stream is empty and the cursor is not at its beginning.
    /// * The entry at the cursor is gone or is not the recorded one, and the caller has not [judged](Judged) what
    ///   follows. At the beginning of a stream that has lost no entry, nothing is in doubt.
    ///
    /// Before it gives out anything, the call MUST find every waiting entry that a trim has passed, whenever that entry
    /// is due. It MUST find a deleted waiting entry when the turn of that entry comes. These entries leave the waiting
    /// set, so each is reported once. Where [`Fetch::go_on`] is false, the call then gives out nothing, and the loss
    /// stays until [`resume`](super::Groups::resume) or a reset.
    ///
    /// A fetch sent twice MUST answer with the same chunk, less the entries that have gone meanwhile. Those leave the
    /// state. The second answer reports them together with the loss that the first answer reported. A fetch sent twice
    /// does not check the entries that [`New::Known`] proposed.
    fn fetch<'a>(&'a self, group: &'a GroupKey, fetch: &'a Fetch) -> Reply<'a, Fetched>;

    /// Records what became of entries in flight, all or nothing. It MUST write dead letters in the step that ends their
    /// entries. Acks without dead letters MUST work on a full server. The call counts as a beat of the caller.
    ///
    /// A released entry rings the partition's bell, unless it waits for a time. Acks sent twice MUST take effect once
    /// and be answered with [`Acked::Done`] both times. Acks about a chunk that the state lacks MUST change nothing and
    /// be answered with [`Acked::Fenced`]: the chunk is from another history of the state.
    fn ack<'a>(&'a self, group: &'a GroupKey, acks: &'a Acks) -> Reply<'a, Acked>;

    /// Moves the cursor, if its place and ordinal are still those of [`Pass::from`]; answers whether they were. So only
    /// one of several processes that find the same loss reports it. The token is fresh for each loss. A call sent again
    /// with the same token MUST answer the same, unless another loss was passed or mended meanwhile. MUST work on a
    /// full server.
    ///
    /// If the state records a loss already, the call MUST widen it to the lower `from`, the higher `to` and the sum of
    /// the counts. The widened loss is `deleted` only where both are.
    fn pass<'a>(&'a self, group: &'a GroupKey, token: &'a str, pass: &'a Pass) -> Reply<'a, bool>;

    /// Accepts the waiting set as it is found, if state and set are still this far apart; answers whether they were.
    /// The token and the loss to record are as for [`pass`](Self::pass). MUST work on a full server.
    fn mend<'a>(
        &'a self,
        group: &'a GroupKey,
        token: &'a str,
        damage: &'a Damage,
        halts: Option<&'a Lost>,
    ) -> Reply<'a, bool>;

    /// Reads a work queue; `None` when it has no state or no marker. MUST work on a server that refuses writes. If a
    /// consumer's field was deleted but not its chunks, the answer MUST show that consumer as dead, so that others can
    /// reclaim the chunks.
    fn queue<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<QueueState>>;

    /// Releases what a consumer has in flight, about `most` per call, and removes the consumer with the last of them.
    /// It changes nothing unless the consumer's sign of life is still `seen`. From the first of these calls on it is no
    /// consumer any more. Each charged entry counts one crash more. The last call rings the partition's bell. MUST work
    /// on a full server.
    ///
    /// Missing entries of a [`Range`] MUST be reported as lost: as many as its number exceeds the entries found. They
    /// count as deleted where the stream begins at or before the first place in the range; otherwise a trim has passed
    /// at least some. The state MUST keep this loss, and any loss that the consumer's latest fetch reported, until a
    /// call has `seen` it. The consumer stays until then, so a lost answer or a dead process hides no loss.
    ///
    /// An [`Item`] whose entry is gone waits as others do, and a fetch finds the loss when its turn comes.
    ///
    /// A consumer that leaves with [`release`](super::Groups::release) has read its entries, and acks all of them
    /// first. So that call MAY drop missing entries without a report.
    fn reclaim<'a>(&'a self, group: &'a GroupKey, owner: &'a str, seen: &'a Life, most: usize) -> Reply<'a, Reclaimed>;
}

/// The answer to a process that joins a work queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// The caller is one of its consumers, and the call is its first beat.
    Member {
        /// Above every earlier one of the group.
        epoch: u64,
    },
    /// The group has no state.
    Missing,
    /// The group's marker is gone, because somebody deleted the stream or destroyed the group.
    Vanished {
        /// The cursor: the store had given out entries up to here.
        at: EntryId,
    },
    /// The group is used in another delivery mode; the two never mix under one name.
    Mode(String),
}

/// Entries that were lost to a work queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Whether they were deleted from the middle of the stream; otherwise a trim has passed the group.
    pub deleted: bool,
    /// Every lost entry is above this id.
    pub from: EntryId,
    /// No lost entry is above this id.
    pub to: EntryId,
    /// How many are known to be lost, never more than there were.
    pub count: u64,
}

/// Why the store accepts no more dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many dead letters there are.
    pub count: u64,
    /// The oldest dead letter.
    pub oldest: Option<EntryId>,
}

/// A consumer's request for entries. They become one chunk, named by the number of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The consumer.
    pub holder: Holder,
    /// The number of this call: one more than that of the session's latest fetch that was answered with
    /// [`Fetched::Chunk`]. The first is 1. It stays the same when the fetch is sent again.
    pub call: u64,
    /// The most entries to give out.
    pub count: usize,
    /// About the most bytes to give out, as [`Entry::weight`] counts them; one entry is given out whatever its weight.
    pub bytes: usize,
    /// Which new entries to give out when waiting entries leave room.
    pub new: New,
    /// The events that the caller handles or ignores for good, each with the newest version; `u32::MAX` for any
    /// version.
    pub takes: Events,
    /// The number of waiting entries from which on no new ones are given out, so that failing events pile up in the
    /// stream.
    pub most_waiting: u64,
    /// The longest wait of an entry for its next attempt, whatever the server's clock has done meanwhile.
    pub longest_wait: Duration,
    /// Whether to show the cursor in the server's own group, for operators' tools.
    pub mirror: bool,
    /// Whether to give out entries although others were lost.
    pub go_on: bool,
}

/// Which new entries to give out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum New {
    /// None.
    Nothing,
    /// Those behind the cursor, which the server reads and sends along.
    Read {
        /// A snapshot's finding that nothing was lost between this cursor and this next entry.
        judged: Option<Judged>,
    },
    /// Those that the caller has read by itself, if the cursor is still at `from` and there is room for all. The server
    /// sends none along.
    Known {
        /// The cursor.
        from: EntryId,
        /// The last entry.
        to: EntryId,
        /// The event id of the last entry, as in [`Holding::at_event`](super::Holding::at_event).
        to_event: String,
        /// How many entries there are.
        number: u64,
    },
}

/// A snapshot's finding about the stream behind a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// The cursor.
    pub at: EntryId,
    /// The next entry: while it is there, nothing between the two was lost.
    pub next: EntryId,
}

/// The answer to a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The chunk, perhaps empty.
    Chunk(Chunk),
    /// The entry at the cursor is gone or is another one. The caller takes a snapshot, judges whether entries were
    /// lost, and reports that with [`New::Read`] or [`Pass`]. Nothing was changed.
    Unsure(Cursor),
    /// Entries were lost. Callers without [`Fetch::go_on`] get nothing until [`resume`](super::Groups::resume) or a
    /// reset.
    Lost {
        /// The loss.
        lost: Lost,
        /// Whether this call has found the loss.
        found: bool,
    },
    /// The waiting set differs from what the state says. Nothing was changed.
    Damaged(Damage),
    /// The caller is no consumer of the group any more, or numbers its calls by another history of the state. Nothing
    /// was changed.
    Fenced,
    /// The group has no state.
    Missing,
}

/// The place up to which the store has given out entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The last entry given out.
    pub at: EntryId,
    /// The event id of that entry, empty where it is not known.
    pub at_event: String,
    /// How many entries were added up to there, lost ones included; `None` where that is not known.
    pub seen: Option<u64>,
}

/// Entries that were given out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunk {
    /// Entries from the waiting set.
    pub again: Vec<Again>,
    /// New ones, in the order of the stream; none for [`New::Known`].
    pub new: Vec<Arc<Entry>>,
    /// How many new ones are given out, those of [`New::Known`] included.
    pub number: u64,
    /// Where the cursor is now.
    pub at: EntryId,
    /// How many entries wait, those for other builds included.
    pub waiting: u64,
    /// How soon the first of them may be taken that may not now.
    pub due: Option<Duration>,
    /// The waiting entries that this fetch found gone, if [`Fetch::go_on`] is true. A fetch sent again reports the
    /// same, and the entries that have gone since while in flight.
    pub lost: Option<Lost>,
}

/// An entry that is given out once more, after an attempt, a crash or a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// The entry.
    pub entry: Arc<Entry>,
    /// How many attempts at it have failed.
    pub failed: u32,
    /// How often its consumer died while it was charged.
    pub crashes: u32,
}

/// A consumer's report on entries that it has in flight: all of it takes effect, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acks {
    /// The consumer.
    pub holder: Holder,
    /// The number of these acks: one more than that of the session's latest acks that were answered with
    /// [`Acked::Done`]. The first is 1. It stays the same when the acks are sent again.
    pub call: u64,
    /// For each of these chunks the rest that is still in flight. A chunk without a rest is ended.
    pub chunks: Vec<(u64, Left)>,
    /// Entries that go to the waiting set: released, or to be retried.
    pub back: Vec<Wait>,
    /// The error of the latest failed attempt among [`back`](Self::back), which observers see until another one replaces
    /// it.
    pub error: Option<AttemptError>,
    /// The dead letters to write.
    pub dead: Vec<Fields>,
    /// How many dead letters the group may have, and how old. Beyond that the acks change nothing.
    pub dead_bounds: DeadBounds,
    /// Names of events that the consumer ignored because no known build handles them. Each must be a valid name of an
    /// event.
    pub passed_over: Vec<String>,
}

/// The rest of a chunk that is still in flight.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Left {
    /// The rest of its new entries; `None` where nothing is left.
    pub range: Option<Range>,
    /// The rest of the entries that were given out once more, and new entries that have a record of their own.
    pub again: Vec<Item>,
}

/// New entries that were given out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// All of them are above this id.
    pub after: EntryId,
    /// None of them is above this id.
    pub to: EntryId,
    /// How many of them are in flight.
    pub number: u64,
    /// The entries in between that are not in flight.
    pub except: Vec<EntryId>,
}

/// An entry in flight with a record of its own, because it was given out once more, has failed, or has crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The entry.
    pub id: EntryId,
    /// How many attempts at it have failed.
    pub failed: u32,
    /// How often its consumer died while it was charged.
    pub crashes: u32,
    /// Whether the consumer's death counts as a crash of this entry, too. Entries of a [`Range`] are always charged.
    ///
    /// An entry without crashes is charged when it is given out, which costs nothing. An entry with crashes is charged
    /// just before it runs, because it may be in flight for long while another event ends the process.
    pub charged: bool,
}

/// An entry that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The entry.
    pub id: EntryId,
    /// How many attempts at it have failed.
    pub failed: u32,
    /// How often its consumer died while it was charged.
    pub crashes: u32,
    /// The condition that it waits for.
    pub until: Until,
}

/// How long an entry waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// For this time, perhaps zero.
    After(Duration),
    /// For a build that handles this event.
    Needs {
        /// The event's name.
        name: String,
        /// Its version.
        version: u32,
    },
}

/// The answer to acks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acked {
    /// These acks have taken effect, now or at an earlier call.
    Done,
    /// There is no room for the dead letters. Nothing was changed.
    Full(Full),
    /// A build has declared these of [`Acks::passed_over`] meanwhile. Nothing was changed.
    Declared {
        /// Their names.
        names: Vec<String>,
    },
    /// The waiting set differs from what the state says. Nothing was changed.
    Damaged(Damage),
    /// The caller is no consumer of the group any more, or has fetched or acked in another history of the state.
    /// Nothing was changed.
    Fenced,
}

/// The waiting set differs from what the group's state says, because its key was deleted, replaced or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// How many entries wait by the state.
    pub recorded: u64,
    /// How many entries the waiting set holds.
    pub found: u64,
}

/// A move of the cursor over entries that a snapshot found lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// The cursor that the caller has seen.
    pub from: Cursor,
    /// The new cursor.
    pub to: Cursor,
    /// The loss to record, so that callers without [`Fetch::go_on`] get nothing.
    pub halts: Option<Lost>,
}

/// A work queue at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// Its consumers, sorted by name.
    pub consumers: Vec<Unacked>,
    /// How many entries wait, those for other builds included.
    pub waiting: u64,
    /// How soon the first of them may be fetched; zero where one may be fetched now.
    pub due: Option<Duration>,
    /// An id at or below the oldest entry in flight or waiting; `None` where there is none.
    pub oldest: Option<EntryId>,
    /// The place up to which the store has given out entries.
    pub cursor: Cursor,
    /// Events that waiting entries hold and that only other builds handle, each with the lowest waiting version; at
    /// most ten.
    pub needed: Events,
    /// How many calls of [`resume`](super::Groups::resume) there were.
    pub resume: u64,
    /// The epoch of the last [reset](super::Groups::reset); 0 when there was none.
    pub reset: u64,
    /// How state and waiting set differ, if they do.
    pub damage: Option<Damage>,
}

impl QueueState {
    /// The entry up to which everything is settled.
    pub fn settled(&self) -> EntryId {
        self.oldest.map_or(self.cursor.at, |oldest| oldest.previous().min(self.cursor.at))
    }

    /// How many entries are in flight or wait.
    pub fn unsettled(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.in_flight).sum::<u64>() + self.waiting
    }
}

/// A consumer of a work queue, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacked {
    /// The token with which it has joined.
    pub owner: String,
    /// How many entries it has in flight.
    pub in_flight: u64,
    /// Its sign of life.
    pub life: Life,
}

/// A consumer's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It renews. While this stays the same, the consumer has not renewed.
    Beats {
        /// The epoch of its session.
        epoch: u64,
        /// How often it has renewed.
        beat: u64,
        /// How long its lease is.
        lease_for: Duration,
    },
    /// Another process found it dead, and has not released all of its entries yet.
    Dead {
        /// The loss found among its entries. It stays here until a call of [`reclaim`](Queue::reclaim) has seen it.
        lost: Option<Lost>,
    },
}

/// The answer to a call that reclaims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// Some entries were released. The consumer is not removed yet.
    Some {
        /// How many entries were released.
        entries: u64,
        /// Entries that were in flight and are gone, now in the consumer's [`Life::Dead`].
        lost: Option<Lost>,
    },
    /// All entries that were left are released, and the consumer is removed.
    All {
        /// How many entries were released.
        entries: u64,
    },
    /// The consumer has shown a sign of life, or is gone. Nothing was changed.
    Contended,
    /// The waiting set differs from what the state says. Nothing was changed.
    Damaged(Damage),
}
