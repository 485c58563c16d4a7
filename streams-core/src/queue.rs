//! The words in which a work queue is asked for: a group from which any number of processes fetch; the calls stand in
//! [`broker`](crate::broker).
//!
//! The record of a queue has a cursor, as an ordered group has a checkpoint: every entry up to it was given out. Each of them is
//! in exactly one place. It is in a chunk, which one consumer has in flight; or it waits, which nobody has; or it is settled.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::{DeadBounds, Events, Fields, Holder};
use crate::{Entry, EntryId};

/// The answer to a call that joins a work queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// The caller is one of its consumers, and the call is its first beat.
    Member {
        /// Above every earlier one of the group.
        epoch: u64,
    },
    /// The group has no state.
    Missing,
    /// The group's marker is gone: the stream was deleted, or the group destroyed.
    Vanished {
        /// Up to where entries were handed out.
        at: EntryId,
    },
    /// The group is used in another delivery mode; the two never mix under one name.
    Mode(String),
}

/// Entries that were lost to a work queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Whether they were deleted in the middle of what is still there; otherwise a trim has passed the group.
    pub deleted: bool,
    /// All of them are above this.
    pub from: EntryId,
    /// None of them is above this.
    pub to: EntryId,
    /// How many are known of: no more than there were.
    pub count: u64,
}

/// Why no dead letter is put away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many there are.
    pub count: u64,
    /// The oldest.
    pub oldest: Option<EntryId>,
}

/// A consumer asks for entries. They become one chunk, which is called by the number of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Who asks.
    pub holder: Holder,
    /// One more than that of the latest fetch of this joining that was answered with [`Fetched::Chunk`], so 1 for the first; the same
    /// when it is sent again.
    pub call: u64,
    /// How many entries at most.
    pub count: usize,
    /// About how many bytes at most, as [`Entry::weight`] counts them; one entry is given out whatever it weighs.
    pub bytes: usize,
    /// Which new entries are given out when those that wait leave room.
    pub new: New,
    /// The events that the caller handles or passes over for good, each with the newest version; `u32::MAX` where any will do.
    pub takes: Events,
    /// While as many entries wait, no new ones are given out: what fails is to pile up in the stream.
    pub most_waiting: u64,
    /// An entry waits no longer than this for its next attempt, whatever the server's clock has done meanwhile.
    pub longest_wait: Duration,
    /// Whether to show the cursor in the server's own group, for operators' tools.
    pub mirror: bool,
    /// Whether entries are given out although others were lost.
    pub go_on: bool,
}

/// Which new entries are to be given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum New {
    /// None.
    Nothing,
    /// Those behind the cursor, which the server reads and sends along.
    Read {
        /// From a look at the stream that found nothing lost: at this cursor this is the next entry.
        judged: Option<Judged>,
    },
    /// Those that the caller has read by itself, where the cursor is still at `from` and there is room for all: nothing is sent along.
    Known {
        /// The cursor.
        from: EntryId,
        /// The last of them.
        to: EntryId,
        /// The event id of the last, as in [`GroupState`](crate::broker::GroupState).
        to_event: String,
        /// How many there are.
        number: u64,
    },
}

/// The finding of a look at the stream, at a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// The cursor.
    pub at: EntryId,
    /// The next entry: as long as it stands there, nothing has gone in between.
    pub next: EntryId,
}

/// The answer to a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// These, perhaps none.
    Chunk(Chunk),
    /// The entry at the cursor is gone or is another one, so whether something was lost is to be judged first by a snapshot, then said by
    /// [`New::Read`] or [`Pass`]. Nothing was changed.
    Unsure(Cursor),
    /// Entries were lost, and nothing is given out to those who do not go on over that until
    /// [`Broker::resume`](crate::broker::Broker::resume) or a reset.
    Lost {
        /// What.
        lost: Lost,
        /// Whether this call has found it.
        found: bool,
    },
    /// The waiting set is another one than the record says. Nothing was changed.
    Damaged(Damage),
    /// The caller is no consumer of the group any more, or numbers its calls by another history of the record. Nothing was changed.
    Fenced,
    /// The group has no state.
    Missing,
}

/// Up to where entries were given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The last of them.
    pub at: EntryId,
    /// Its event's id, where that is known; else empty.
    pub at_event: String,
    /// How many entries had been added up to there, those that were lost included; `None` where that is not known.
    pub seen: Option<u64>,
}

/// Entries that were given out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunk {
    /// Those that waited.
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
    /// Entries that waited and are gone, where the caller goes on over that. Where the fetch is sent again, the same, and what has gone
    /// since while it was in flight.
    pub lost: Option<Lost>,
}

/// An entry that is given out once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// The entry.
    pub entry: Arc<Entry>,
    /// How many attempts at it have failed.
    pub failed: u32,
    /// How often its consumer died while it was charged.
    pub crashes: u32,
}

/// A consumer says what became of entries that it has in flight. Everything that it says takes effect, or nothing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acks {
    /// Who says so.
    pub holder: Holder,
    /// One more than that of the latest of this joining that were answered with [`Acked::Done`], so 1 for the first; the same when
    /// they are sent again.
    pub call: u64,
    /// The rest of each of these chunks that is still in flight. A chunk without a rest is ended.
    pub chunks: Vec<(u64, Left)>,
    /// Entries that are given back.
    pub back: Vec<Wait>,
    /// The letters that go to the group's dead letters.
    pub dead: Vec<Fields>,
    /// How many dead letters the group may have, and for how long: beyond it nothing is done.
    pub dead_bounds: DeadBounds,
    /// Names of events that were passed over because no build was known to handle them. Each must be a valid name of an event.
    pub passed_over: Vec<String>,
}

/// The rest of a chunk that is still in flight.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Left {
    /// The rest of its new entries; `None` where nothing is left.
    pub range: Option<Range>,
    /// The rest of those that were given out once more, and new entries with a record of their own.
    pub again: Vec<Item>,
}

/// Entries that were given out together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// They lie above this id.
    pub after: EntryId,
    /// And not above this one.
    pub to: EntryId,
    /// So many of them are in flight.
    pub number: u64,
    /// And these are not.
    pub except: Vec<EntryId>,
}

/// An entry in flight that has failed or crashed before, or is known for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The entry.
    pub id: EntryId,
    /// How many attempts at it have failed.
    pub failed: u32,
    /// How often its consumer died while it was charged.
    pub crashes: u32,
    /// Whether the end of the consumer is a crash of it, too. Entries of a [`Range`] are charged.
    ///
    /// An entry that is given out without a crash is charged at once, which costs nothing. One that has some is charged just before
    /// it runs: it may long be in flight without running while another event ends the process.
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
    /// For what.
    pub until: Until,
}

/// How long an entry waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// For this long, perhaps for no time.
    After(Duration),
    /// For a build that handles this.
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
    /// It is done, or was before.
    Done,
    /// There is no room for the dead letters. Nothing was changed.
    Full(Full),
    /// A build has declared these of [`Acks::passed_over`] meanwhile. Nothing was changed.
    Declared {
        /// Their names.
        names: Vec<String>,
    },
    /// The waiting set is another one than the record says. Nothing was changed.
    Damaged(Damage),
    /// The caller is no consumer of the group any more, or has fetched or acknowledged in another history of the record. Nothing was
    /// changed.
    Fenced,
}

/// The waiting set is not the one that the record tells of: somebody has deleted or replaced its key, or the server has lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// How many entries are to wait.
    pub recorded: u64,
    /// How many do.
    pub found: u64,
}

/// Moves the cursor over what a look has found to be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// Where the cursor has to be.
    pub from: Cursor,
    /// Where it goes.
    pub to: Cursor,
    /// The loss to record, so that nothing is given out to those who do not go on over it.
    pub halts: Option<Lost>,
}

/// A work queue at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// Its consumers, sorted by name.
    pub consumers: Vec<Unacked>,
    /// How many entries wait, those for other builds included.
    pub waiting: u64,
    /// How soon the first of them may be taken; zero where one may be taken now.
    pub due: Option<Duration>,
    /// At or below the oldest entry that is in flight or waits; `None` where none is.
    pub oldest: Option<EntryId>,
    /// Up to where entries were given out.
    pub cursor: Cursor,
    /// The events that only other builds handle, each with the lowest version that waits, at most ten.
    pub needed: Events,
    /// How often [`Broker::resume`](crate::broker::Broker::resume) was called.
    pub resume: u64,
    /// The epoch of the last [`Broker::reset`](crate::broker::Broker::reset); 0 when there was none.
    pub reset: u64,
    /// The waiting set is another one than the record says.
    pub damage: Option<Damage>,
}

impl QueueState {
    /// Up to where everything is settled.
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
    /// Its name: the token with which it has joined.
    pub owner: String,
    /// How many entries it has in flight.
    pub in_flight: u64,
    /// Its sign of life.
    pub life: Life,
}

/// A consumer's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It renews. As long as this stays the same, nobody has heard of it.
    Beats {
        /// Which joining it is.
        epoch: u64,
        /// How often it has renewed.
        beat: u64,
        /// How long its lease is.
        lease_for: Duration,
    },
    /// It was found dead, and not all that it had in hand is given back yet.
    Dead {
        /// What of that was found to be gone. It stays here until a reclaim has seen it.
        lost: Option<Lost>,
    },
}

/// The answer to a call that reclaims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaimed {
    /// Some entries, and it is not removed yet.
    Some {
        /// How many wait now.
        entries: u64,
        /// Entries that were in flight and are gone, now in its [`Life::Dead`].
        lost: Option<Lost>,
    },
    /// All that were left, and the consumer is removed.
    All {
        /// How many wait now.
        entries: u64,
    },
    /// It has shown a sign of life, or is gone. Nothing was changed.
    Contended,
    /// The waiting set is another one than the record says. Nothing was changed.
    Damaged(Damage),
}
