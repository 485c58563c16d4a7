//! Work queues: groups from which any number of processes fetch; the calls, and the words in which they ask and answer.
//!
//! The record of a queue has a cursor, as an ordered group has a checkpoint: every entry up to it was given out. Each of them is
//! in exactly one place. It is in a chunk, which one consumer has in flight; or it waits, which nobody has; or it is settled.

use std::sync::Arc;
use std::time::Duration;

use super::error::Reply;
use super::groups::{DeadBounds, Events, Holder};
use super::log::Fields;
use super::sealed::Sealed;
use crate::keys::GroupKey;
use crate::{Entry, EntryId};

/// The work queues of a store. Keys are those of [`GroupKey::queue`].
///
/// A consumer holds what it has in flight as an owner holds a lease: it renews ([`Renewer`](super::Renewer), with its token and the
/// epoch of its joining), and whoever has seen the same beat for a whole lease reclaims what it had. A reset takes everything out of
/// all chunks and out of the waiting set, and removes all consumers. Every call that touches the waiting set MUST find out when that
/// is not the one of which the record tells ([`Damage`]), and then change nothing.
///
/// A joining numbers its fetches and its acks, each from 1 on. Only what takes effect uses its number: a fetch that is answered with
/// a chunk, and acks that are done; whatever else the answer is, the next call has the same number. The record keeps both. A call
/// with the number after that takes effect. One with the same or a smaller one was sent again or comes late, and MUST change nothing.
/// One with a larger one MUST be fenced: the server has gone back in time, and the caller has what the record does not know of.
pub trait Queue: Sealed {
    /// Makes the caller a consumer of a work queue, with this fresh token and a lease of this length. The same call sent twice
    /// MUST answer with the same epoch. It MUST work on a server that is full. The empty token MUST be refused, and so MUST that of a
    /// consumer that is being reclaimed.
    fn join<'a>(&'a self, group: &'a GroupKey, owner: &'a str, lease_for: Duration) -> Reply<'a, Joined>;

    /// Gives out entries as one chunk of the caller's: first those that wait and may be taken, then new ones. It MUST NOT wait for any,
    /// MUST work on a server that is full, and counts as a beat of the caller.
    ///
    /// New entries are given out from the cursor on, which moves over them. MUST answer [`Fetched::Unsure`] where there are entries
    /// behind the cursor, or the stream has none at all though the cursor is not at its beginning, and neither does the entry at the cursor
    /// still stand there as the one that is recorded, nor has the caller judged what follows. Whatever else may be missing is for the caller to
    /// find out by snapshots.
    ///
    /// Before anything is given out all entries that wait MUST be found missing that a trim has passed, whenever they are due; one that
    /// was deleted, when its turn comes. They leave the waiting set, and so are told once. Where the caller does not go on over
    /// that, the loss stays until somebody resumes or resets the group, and nothing is given out.
    ///
    /// Sent twice it MUST answer with the same chunk, without what is gone meanwhile. That leaves the record, and is told with the answer,
    /// as is once more what the first answer told. It does not look then at entries that [`New::Known`] proposed.
    fn fetch<'a>(&'a self, group: &'a GroupKey, fetch: &'a Fetch) -> Reply<'a, Fetched>;

    /// Takes up what became of entries in flight, all or nothing. Dead letters MUST be written in the step that ends their entries.
    /// Without dead letters it MUST work on a server that is full. It counts as a beat of the caller.
    ///
    /// An entry that is given back rings the partition's bell, unless it has to wait for a time. Sent twice the call MUST take effect once, and answer
    /// [`Acked::Done`] both times. One about a chunk that the record does not have MUST change nothing and be answered with
    /// [`Acked::Fenced`]: the caller has it from another history of the record.
    fn ack<'a>(&'a self, group: &'a GroupKey, acks: &'a Acks) -> Reply<'a, Acked>;

    /// Moves the cursor, if place and ordinal are still those of [`Pass::from`]; answers whether they were. So of several who find the same
    /// loss one tells it. The token is fresh for each loss. Sent again with the same one it MUST answer the same, unless another one was
    /// passed or mended meanwhile. A loss that is to be recorded while another one is MUST widen that: to the lower `from` and the higher `to` of
    /// both, with both counts, and deleted where both are. MUST work on a server that is full.
    fn pass<'a>(&'a self, group: &'a GroupKey, token: &'a str, pass: &'a Pass) -> Reply<'a, bool>;

    /// Takes the waiting set for what it is from now on, if record and set are still this far apart; answers whether they were. Token,
    /// and what to record of the loss, are as for [`pass`](Self::pass). MUST work on a server that is full.
    fn mend<'a>(
        &'a self,
        group: &'a GroupKey,
        token: &'a str,
        damage: &'a Damage,
        halts: Option<&'a Lost>,
    ) -> Reply<'a, bool>;

    /// Looks at a work queue; `None` when it has no state, or no marker. MUST work on a server that refuses writes. Chunks without a
    /// consumer, whose field somebody has deleted, MUST be shown as those of a dead one, which can be reclaimed.
    fn queue<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<QueueState>>;

    /// Gives back what a consumer has in flight, at most about `most` entries at a time, and removes it with the last, if what shows
    /// whether it lives is still `seen`. From the first of these calls on it is no consumer any more. Each entry that is charged counts one
    /// crash more. The last rings the partition's bell. MUST work on a server that is full.
    ///
    /// Entries of a [`Range`] that are gone MUST be told as lost: as many as its number has more than are found. They were deleted where
    /// the stream begins at or before the first place in the range; otherwise a trim has passed at least some. An [`Item`] whose entry is
    /// gone waits as others do, and is found when its turn comes. The record MUST keep that loss, with one that the consumer's latest
    /// fetch was told, until a call has `seen` it; before, the consumer is not removed. So it is told whoever's answer or process is lost.
    ///
    /// What a consumer gives back by itself with [`release`](super::Groups::release) may be dropped untold where it is gone: it had the
    /// entries, and is to give back all of them before.
    fn reclaim<'a>(&'a self, group: &'a GroupKey, owner: &'a str, seen: &'a Life, most: usize) -> Reply<'a, Reclaimed>;
}

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
        /// The event id of the last, as in [`GroupState`](super::GroupState).
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
    /// [`resume`](super::Groups::resume) or a reset.
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
    /// How often [`resume`](super::Groups::resume) was called.
    pub resume: u64,
    /// The epoch of the last [reset](super::Groups::reset); 0 when there was none.
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
