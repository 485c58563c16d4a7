//! What the runtime asks of a store of streams, as a contract in MUSTs; the runtime holds the Redis and the embedded one.
//!
//! Everything else in the project speaks [`Broker`] and knows no server. One suite of tests holds
//! every implementation to this page.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::keys::{GroupKey, PartitionKey, StreamKey};
pub use crate::large::{CUT, MOST_ENTRY_BYTES, cut, cut_from, in_short};
pub use crate::queue::{
    Acked, Acks, Again, Chunk, Cursor, Damage, Fetch, Fetched, Full, Item, Joined, Judged, Left, Life, Lost, New, Pass,
    QueueState, Range, Reclaimed, Unacked, Until, Wait,
};
use crate::{BoxError, Durability, Entry, EntryId, Start};

/// The answer of a broker, still to come.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, BrokerError>> + Send + 'a>>;

/// A store of streams and of what groups have settled.
///
/// Calls are for batches: one is one conversation with the server, whatever number of entries it is about.
/// Every call MAY be made at the same time as any other. Dropping a returned future MUST NOT corrupt
/// anything, but MAY leave the call done.
///
/// An error MUST say whether the call may have taken effect ([`BrokerError::is_indefinite`]).
///
/// Sealed until 1.0, so that the contract can grow: only this project implements it.
pub trait Broker: sealed::Sealed + fmt::Debug + Send + Sync + 'static {
    /// Where this is, for logs. MUST NOT hold a password.
    fn describe(&self) -> String;

    /// Makes first contact: MUST fail when the server cannot be reached, refuses the credentials or
    /// cannot do what this contract asks. Later calls connect again by themselves.
    fn connect(&self) -> Reply<'_, ()>;

    /// The server's clock, in milliseconds since 1970.
    fn now(&self) -> Reply<'_, u64>;

    /// Records how many partitions the stream has, or MUST fail with [`BrokerErrorKind::Mismatch`] when
    /// another number is recorded already. It MUST fail with the same, and record nothing, when no number is recorded and
    /// there are [`strays`](Self::strays): somebody has published by another number.
    fn declare<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, ()>;

    /// Which of [`StreamKey::strays`] hold entries, each with how many. A key that is no stream holds none.
    fn strays<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Vec<(PartitionKey, u64)>>;

    /// How many partitions are recorded for the stream, whatever number the key says; `None` when nobody declared it.
    fn partitions<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Option<u32>>;

    /// Writes these notes beside the stream, each in the place of one of the same name, takes away those named in `gone`,
    /// and answers with the notes as they were before, by name. MUST be one step: of two callers at the same time one
    /// sees the notes of the other. With nothing to write and nothing to take away it MUST only read, so that it works on a server
    /// that is full or refuses writes. Notes that are not UTF-8 are somebody else's and MUST be left out of the answer.
    ///
    /// What they say is the caller's business. They are not part of the stream's data: they MAY be lost at any time.
    fn notes<'a>(&'a self, stream: &'a StreamKey, write: &'a Notes, gone: &'a [String]) -> Reply<'a, Notes>;

    /// Adds entries in order, with new ids above every earlier one of the partition, and creates the stream
    /// where there is none. MUST add all or nothing when it answers with a definite error.
    ///
    /// Entries below `floor` MAY be removed by the way; none at or above it. An entry without a field MUST be refused.
    fn append<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
    ) -> Reply<'a, Vec<EntryId>>;

    /// As [`append`](Self::append); then waits until the entries are where `durability` wants them, at most for `wait`.
    ///
    /// MUST add nothing when the server could never do what is asked ([`BrokerErrorKind::Unsupported`]), or its user may not ask
    /// for it. Once the
    /// entries are added the answer MUST be their ids, also when they are not where they should be: then with what is missing.
    fn append_durably<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
        durability: Durability,
        wait: Duration,
    ) -> Reply<'a, Durable>;

    /// Removes entries below `floor`, and none at or above it; answers how many. MUST work on a server that is full. One call
    /// MAY remove only some thousands, so that it does not hold others up; only when nothing is left that it could remove it
    /// MUST answer 0.
    fn trim_below<'a>(&'a self, partition: &'a PartitionKey, floor: EntryId) -> Reply<'a, u64>;

    /// Up to where every group of the partition has settled everything; `None` when it has no group, and when it has one
    /// whose checkpoint is not known, or of which nobody knows what waits. A group that nobody runs any more counts as long as it is there.
    ///
    /// MUST NOT be above the checkpoint of any group that was there when this was called.
    fn consumed<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Consumed>>;

    /// The names of all groups of the partition, also of those that other programs read; `None` when there is no such stream.
    fn groups<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Vec<String>>>;

    /// Where the partition begins and ends; `None` when there is no such stream. The server MAY send its first and last entry
    /// along; a [snapshot](Self::snapshot) of no entries says the same without them, to whoever may take one.
    fn extent<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Extent>>;

    /// The entries above `after`, oldest first, at most `count`. MUST NOT wait for any.
    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>>;

    /// As [`read`](Self::read), but never more than about `bytes`: the entry at `from`, [in short](in_short), and those above
    /// it, at most `count` together. Above `from` it MUST answer at least one, where there is one and `count` allows it, and
    /// beyond that no more than `bytes`. A read that costs the server more than [`read`](Self::read), for entries of unknown size.
    fn page<'a>(&'a self, partition: &'a PartitionKey, from: EntryId, count: usize, bytes: usize) -> Reply<'a, Page>;

    /// Tells whether history is whole, by what stands there at one moment: the extent, the group's marker and a [page](Self::page) of
    /// [`SNAPSHOT_BYTES`] from `from` on. MUST work on a server that refuses writes.
    fn snapshot<'a>(&'a self, group: &'a GroupKey, from: EntryId, count: usize) -> Reply<'a, Snapshot>;

    /// The entries below `before`, newest first, at most `count`. MUST NOT wait for any.
    fn read_back<'a>(
        &'a self,
        partition: &'a PartitionKey,
        before: EntryId,
        count: usize,
    ) -> Reply<'a, Vec<Arc<Entry>>>;

    /// A reader that waits; it has a connection of its own.
    fn tail(&self) -> Reply<'_, Box<dyn Tail>>;

    /// The group's lease and checkpoint; `None` when the group has none. MUST work on a server that refuses writes.
    fn state<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<GroupState>>;

    /// As [`state`](Self::state) for several groups, in one conversation and in their order. What is wrong with one of them
    /// MUST be its answer alone.
    fn states<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupState>>>>;

    /// Takes part in several sets of members, in one conversation and in their order: answers who is in each then. What is
    /// wrong with one of them MUST be its answer alone.
    ///
    /// Of each set first those who are absent MUST be taken out, then who is present be counted once more, in one step. A member
    /// that was not there comes in with the beat 1. What members say is the caller's business. It MUST work on a server that is
    /// full. A set SHOULD hold [`MAX_MEMBERS`]; for whoever comes beyond that, those with the smallest beats are taken out.
    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<Answer<Vec<Member>>>>;

    /// Makes the group's state for the delivery that its key is for, with a checkpoint as `start` says, and a marker that dies
    /// with the stream, in one step. MUST change nothing when the state exists, and when there is a marker that is not ours
    /// ([`Created::Foreign`]).
    fn create<'a>(&'a self, group: &'a GroupKey, start: Start) -> Reply<'a, Created>;

    /// Takes the lease if owner, epoch and beat are still `seen`, with an epoch above every earlier one.
    /// MUST refuse when the stream's history no longer holds the checkpoint. The same claim sent twice MUST take effect
    /// once and answer with the same epoch both times, as a token is fresh at every claim; the empty token MUST be refused.
    ///
    /// Where the lease is taken from an owner that has not given it back, and that is not the claimant itself, the process
    /// may have ended over an event. Then each charge that stands MUST be counted as a crash of its event. What that owner
    /// may have had in hand is to be proven: [`Proving`] MUST be answered with its bound (the claim's own where none is
    /// recorded), or with what an owner before it had left to prove where that is more, and with the highest id of now, unless
    /// nothing stands above the checkpoint. What was left to prove by an owner that has given its lease back MUST go on from
    /// where it was. No charge stands afterwards.
    fn acquire<'a>(&'a self, group: &'a GroupKey, claim: &'a Claim) -> Reply<'a, Acquired>;

    /// Moves the checkpoint from `prev` to `next` and adds the dead letters, all or nothing, if owner and epoch hold
    /// the lease; counts as a renewal. The same commit sent twice MUST take effect once and answer
    /// [`Committed::Done`] both times. One that comes after another with a larger number MUST change nothing: a network held
    /// it back, and it was sent again long ago. So a commit that moves the checkpoint back, or that adds dead letters without
    /// moving it, MUST be refused.
    ///
    /// What it says of the [`Proof`] MUST be recorded in the same step. A commit without one MUST leave that as it is.
    fn commit<'a>(&'a self, group: &'a GroupKey, commit: &'a Commit) -> Reply<'a, Committed>;

    /// Gives the lease back, takes the owner's charge off, and rings the partition's bell, if owner and epoch hold it.
    /// Answers whether they did.
    ///
    /// On a work queue it ends the consumer in the same way, and gives back what it still has in flight as
    /// [`reclaim`](Self::reclaim) does: whatever was not tried, [`ack`](Self::ack) has given back before.
    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, bool>;

    /// Moves the checkpoint to where `to` says, if the epoch is still `seen` (`None`: if there is no state, which is then
    /// made), whoever holds the lease: takes it away with an epoch above every earlier one, forgets all attempts, crashes, what
    /// is to be proven and what was needed, makes the marker where it is gone, and rings the partition's bell. What is declared
    /// stays. MUST change nothing
    /// otherwise.
    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset>;

    /// As [`release`](Self::release), and records in the same step what the next owner must be able to handle, in the
    /// place of what was recorded before. It stays until a [`Change`] or a reset takes it away.
    fn hand_over<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: &'a Need) -> Reply<'a, bool>;

    /// Brings what the group's state says of events up to date, in one step, whoever holds the lease; answers with all that
    /// is declared then. MUST change nothing and answer `None` when the group has no state, and MUST work on a full server.
    fn declare_events<'a>(&'a self, group: &'a GroupKey, change: &'a Change) -> Reply<'a, Option<Events>>;
    /// Tells whoever is halted in the group's work to go on where it is: raises [`GroupState::resume`], and changes nothing
    /// else. Answers whether there is a state to tell.
    fn resume<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, bool>;

    /// Makes the state of a group that a program reads with XREADGROUP, so that every entry is handled which that program
    /// has not acknowledged: with the checkpoint at the smaller of its last-delivered id and the id before its oldest
    /// pending one. MUST change nothing when the state exists, when there is no such group, and when one of its consumers
    /// was seen within `quiet` ([`Adopted::InUse`]). What is pending there MUST stay as it is, so that there is a way back.
    ///
    /// A work queue goes on at the last-delivered id, and what is pending waits in it. Where the waiting set of an earlier queue stands,
    /// the group is none of another program: its state was deleted, and nobody knows what was in flight. That MUST be refused, as a
    /// queue that goes on there would lose it untold.
    fn adopt<'a>(&'a self, group: &'a GroupKey, quiet: Duration) -> Reply<'a, Adopted>;

    /// Where leases are renewed.
    fn renewal(&self) -> Renewal;

    /// A connection for renewals alone, made on the executor that will use it.
    fn renewer(&self) -> Reply<'_, Box<dyn Renewer>>;

    /// The group's dead letters above `after`, oldest first, at most `count`.
    fn dead_letters<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>>;

    /// Removes dead letters; answers how many there were.
    fn discard<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId]) -> Reply<'a, u64>;

    /// Moves dead letters to the end of the group's replays, in this order, each with its fields behind `letter`, the id
    /// that it had: all of them that are there, or none where there would then be more than `most`. A letter MUST be in one
    /// of the two places at every moment, and never in both. Its owner learns of it at its next renewal
    /// ([`Renewed::Held`]).
    ///
    /// Sent twice it moves nothing the second time, as there is nothing left to move.
    fn replay<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId], most: u64) -> Reply<'a, Moved>;

    /// The letters that wait to be handled again, above `after`, oldest first, at most `count`.
    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>>;

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

    // Work queues. Keys are those of `GroupKey::queue`. A consumer holds what it has in flight as an owner holds a lease: it renews
    // (`Renewer`, with its token and the epoch of its joining), and whoever has seen the same beat for a whole lease reclaims what it
    // had. A reset takes everything out of all chunks and out of the waiting set, and removes all consumers. Every call that touches
    // the waiting set MUST find out when that is not the one of which the record tells ([`Damage`]), and then change nothing.
    //
    // A joining numbers its fetches and its acks, each from 1 on. Only what takes effect uses its number: a fetch that is answered with
    // a chunk, and acks that are done; whatever else the answer is, the next call has the same number. The record keeps both. A call
    // with the number after that takes effect. One with the same or a smaller one was sent again or comes late, and MUST change nothing.
    // One with a larger one MUST be fenced: the server has gone back in time, and the caller has what the record does not know of.

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
    /// and what to record of the loss, are as for [`Broker::pass`]. MUST work on a server that is full.
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

    /// Gives back what a consumer has in flight, at most about `count` entries at a time, and removes it with the last, if what shows
    /// whether it lives is still `seen`. From the first of these calls on it is no consumer any more. Each entry that is charged counts one
    /// crash more. The last rings the partition's bell. MUST work on a server that is full.
    ///
    /// Entries of a [`Range`] that are gone MUST be told as lost: as many as its number has more than are found. They were deleted where
    /// the stream begins at or before the first place in the range; otherwise a trim has passed at least some. An [`Item`] whose entry is
    /// gone waits as others do, and is found when its turn comes. The record MUST keep that loss, with one that the consumer's latest
    /// fetch was told, until a call has `seen` it; before, the consumer is not removed. So it is told whoever's answer or process is lost.
    ///
    /// What a consumer gives back by itself with [`Broker::release`] may be dropped untold where it is gone: it had the entries, and is to
    /// give back all of them before.
    fn reclaim<'a>(&'a self, group: &'a GroupKey, owner: &'a str, seen: &'a Life, count: usize)
    -> Reply<'a, Reclaimed>;
}

/// Not public API: what keeps [`Broker`] to this project until its contract is settled.
#[doc(hidden)]
pub mod sealed {
    /// See [`super::Broker`].
    pub trait Sealed {}
}

/// The answer about one of several things that were asked for together.
pub type Answer<T> = Result<T, BrokerError>;

/// How many processes of one group are counted: as many as a stream may have partitions, as more have nothing to do. It is a
/// bound on what is left by processes that crash again and again, while nobody lives long enough to take them out.
pub const MAX_MEMBERS: usize = crate::keys::MAX_PARTITIONS as usize;

/// What a process does to one set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attendance {
    /// The set: [`StreamKey::members`].
    pub members: String,
    /// What the caller says of itself; without it, it only looks or leaves.
    pub present: Option<String>,
    /// Who is no member any more: with a beat only if that is still the last one.
    pub absent: Vec<(String, Option<u64>)>,
}

/// A process in a set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it says of itself.
    pub says: String,
    /// How often it was present. As long as it stays the same, nobody has heard of it.
    pub beat: u64,
}

/// What programs leave beside a stream for each other, by name.
pub type Notes = BTreeMap<String, String>;

/// Field names and values of an entry that is to be added.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The events that builds of a group have ever declared: by name the highest version that any of them handles.
///
/// Names are those of events in programs, so there are never more than people write down.
pub type Events = BTreeMap<String, u32>;

/// An event that an owner of the group met and could not handle: whoever comes next must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The event's name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The entry that holds it.
    pub entry: EntryId,
}

/// A change of what a group's state says of events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Names to be declared from now on; of two versions the higher one counts.
    pub declares: Events,
    /// Names to be taken out.
    pub forgets: Vec<String>,
    /// What is no longer needed; taken away only where it is exactly this that is recorded.
    pub met: Option<Need>,
}

/// Where a partition begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The oldest entry; `None` when there is none.
    pub first: Option<EntryId>,
    /// The highest id ever given, also when its entry is gone.
    pub last: EntryId,
    /// How many entries there are.
    pub length: u64,
    /// How many were ever added.
    pub added: u64,
}

/// A partition at one moment, as one group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the partition begins and ends; `None` when there is no such stream.
    pub extent: Option<Extent>,
    /// Whether the group's marker stands in it.
    pub marker: bool,
    /// The highest id whose entry was ever taken out by itself: what is gone above it, a trim has taken, and with it everything
    /// before. [`EntryId::ZERO`] when none was; `None` when nobody can tell.
    pub deleted: Option<EntryId>,
    /// The entries that were asked for, oldest first; the one at the position [in short](in_short).
    pub entries: Vec<Arc<Entry>>,
    /// Whether these are certainly all; as in a [`Page`].
    pub complete: bool,
}

/// Entries of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Oldest first; the one at the position [in short](in_short).
    pub entries: Vec<Arc<Entry>>,
    /// Whether these are certainly all. MUST be true where none is above the position although some were asked for.
    pub complete: bool,
}

/// What a tail found at one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The index of the key.
    pub key: usize,
    /// The entry at the position, perhaps [in short](in_short), seen there after the entries were read; `None` when it is gone.
    /// While it is there no trim has passed the position.
    pub position: Option<Arc<Entry>>,
    /// The entries above the position, oldest first, at least one.
    pub entries: Vec<Arc<Entry>>,
}

/// Entries that were added, and whether they are as safe as was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// The ids of the entries, in order.
    pub ids: Vec<EntryId>,
    /// What is missing, in words, such as `1 of 2 replicas had it within 5s`; `None` when nothing is.
    pub missing: Option<String>,
}

/// Up to where every group of a partition has settled everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// The smallest checkpoint.
    pub at: EntryId,
    /// The group that has it; the first by name where several do.
    pub slowest: String,
}

/// A reader that waits for entries.
pub trait Tail: Send {
    /// Waits until at least one of the keys has entries above its position, or `wait` is over; then answers which, in
    /// the order of the keys.
    ///
    /// At most `count` entries a key, and at least one. Without a wait it looks once. A key that does not exist is waited for. MUST end early, with what
    /// there is, soon after [`Interrupt::interrupt`].
    fn next<'a>(&'a mut self, keys: &'a [(String, EntryId)], count: usize, wait: Duration) -> Reply<'a, Vec<Found>>;

    /// Ends waits from outside.
    fn interrupt(&self) -> Arc<dyn Interrupt>;
}

/// Ends the wait of a [`Tail`].
pub trait Interrupt: Send + Sync {
    /// Ends the wait that is going on; MAY do nothing when there is none, so repeat until the tail is seen to turn.
    fn interrupt(&self) -> Reply<'_, ()>;
}

/// Renews leases.
pub trait Renewer: Send {
    /// Renews each lease in one conversation; answers what came of each.
    fn renew<'a>(&'a mut self, leases: &'a [(GroupKey, Holder)]) -> Reply<'a, Vec<Renewed>>;
}

/// What came of renewing a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It is still held.
    Held {
        /// Whether letters wait to be handled again.
        replays: bool,
    },
    /// It is not.
    Lost,
}

/// Where leases are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// On a thread and a connection of their own, so that a handler which blocks the executor does not lose its lease.
    OwnThread,
    /// On the app's executor: the broker lives in the process and in its (perhaps virtual) time.
    CallersExecutor,
}

/// A holding of a lease: the token is fresh at every acquisition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The owner's token.
    pub owner: String,
    /// Which holding of the lease it is.
    pub epoch: u64,
}

/// What a contender saw of a lease. As long as it stays the same, nobody renewed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseView {
    /// The owner's token; empty when nobody holds the lease.
    pub owner: String,
    /// Which holding of the lease it is.
    pub epoch: u64,
    /// How often it was renewed.
    pub beat: u64,
}

/// A group's lease and checkpoint, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// The lease.
    pub lease: LeaseView,
    /// How long the owner's lease lasts: contenders go by the owner's length, not by their own.
    pub lease_for: Duration,
    /// The checkpoint.
    pub at: EntryId,
    /// The epoch of the last [`Broker::reset`]; 0 when there was none.
    pub reset: u64,
    /// What builds of the group have declared.
    pub events: Events,
    /// What the last owner that gave up could not handle.
    pub needs: Option<Need>,
    /// How often [`Broker::resume`] was called since.
    pub resume: u64,
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

/// What came of taking over a group of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// Its state is made.
    Done(Adoption),
    /// The group has a state.
    Exists,
    /// There is no such group, or no such stream.
    Missing,
    /// Somebody reads with it. Nothing was changed.
    InUse {
        /// Its consumers that were seen lately, with for how long they have been silent; at most ten.
        consumers: Vec<(String, Duration)>,
    },
}

/// Where a group was that was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoption {
    /// The checkpoint.
    pub at: EntryId,
    /// The last id that was delivered to the other program's consumers.
    pub delivered: EntryId,
    /// How many entries they had not acknowledged.
    pub pending: u64,
    /// The oldest of those.
    pub oldest: Option<EntryId>,
}

/// What came of moving a checkpoint by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reset {
    /// It is here now.
    Done {
        /// The checkpoint.
        at: EntryId,
    },
    /// The epoch is another one, or the state appeared or went away. Nothing was changed.
    Contended,
    /// There is a marker that is not ours, and no state. Nothing was changed.
    Foreign,
    /// The group is used in another delivery mode. Nothing was changed.
    Mode(String),
}

/// What came of making a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// It is new.
    Made,
    /// It was there.
    Exists,
    /// There is a Redis group of this name without a state of ours: it belongs to an application that reads with XREADGROUP.
    Foreign,
}

/// An attempt to take a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The contender's fresh token.
    pub owner: String,
    /// How long its lease will last.
    pub lease_for: Duration,
    /// What it saw, for a whole lease or with an empty owner.
    pub seen: LeaseView,
    /// Whether what it saw is its own lease, which ran out while nobody took it: its handlers have come to their end.
    pub own: bool,
    /// How many events it will have in hand at most, those that are settled and not committed included: as many are to be
    /// proven when it does not give the lease back.
    pub bound: u32,
}

/// What came of an attempt to take a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The lease is held, from this checkpoint.
    Held(Holding),
    /// Somebody was faster, or renewed.
    Contended,
    /// The group has no state.
    Missing,
    /// The group's marker is gone: the stream was deleted, or the group destroyed.
    Vanished {
        /// The checkpoint that has no stream to stand in.
        at: EntryId,
    },
    /// The checkpoint lies above the highest id of the stream: history was cut or restarted.
    Ahead {
        /// The checkpoint.
        at: EntryId,
        /// The highest id of the stream.
        last: EntryId,
    },
    /// The group is used in another delivery mode; the two never mix under one name.
    Mode(String),
}

/// A lease that was just taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Which holding of the lease it is.
    pub epoch: u64,
    /// The checkpoint.
    pub at: EntryId,
    /// The event id of the entry at the checkpoint, as the last commit said it, or as it was found where the group began; empty
    /// when it is not known.
    pub at_event: String,
    /// The checkpoint's ordinal: how many entries were added up to it, those that were lost on the way and reported
    /// included; `None` when it is not known.
    pub seen: Option<u64>,
    /// Failed attempts of events above the checkpoint.
    pub attempts: Vec<(EntryId, u32)>,
    /// What builds of the group have declared.
    pub events: Events,
    /// What is to be proven, if anything.
    pub proving: Option<Proving>,
    /// How often an owner was gone that was charged with an event above the checkpoint.
    pub crashes: Vec<(EntryId, u32)>,
}

/// The events that may have been in the hand of an owner that is gone, one of which may have ended its process: each is
/// charged before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proving {
    /// At most so many are left.
    pub left: u32,
    /// None of them is above this entry.
    pub to: EntryId,
}

/// What a commit says of the events that are proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The events that run, or will when this is done, in the place of all that were charged before.
    pub charged: Vec<EntryId>,
    /// How many events are left, the charged ones included; 0 ends the proving.
    pub left: u32,
    /// Events whose crashes are no longer needed.
    pub forget: Vec<EntryId>,
}

/// One step of a group's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Who commits.
    pub holder: Holder,
    /// Which commit of this holding it is: each has a larger number than the one before, and the same when it is sent again.
    pub call: u64,
    /// Where the checkpoint is now.
    pub prev: EntryId,
    /// Where it goes; the same as `prev` when only attempts are recorded.
    pub next: EntryId,
    /// The id of the event at `next`, a witness of the history. Not recorded when the checkpoint stays.
    pub next_event: String,
    /// The ordinal of `next`, where it is known; what is recorded stays when the checkpoint does and this is not known.
    pub seen: Option<u64>,
    /// Failed attempts to record, for events above `next`.
    pub attempts: Vec<(EntryId, u32)>,
    /// Events above `prev` whose recorded attempts are no longer needed.
    pub forget: Vec<EntryId>,
    /// Whether to show the position in the server's own group, for operators' tools.
    pub mirror: bool,
    /// What goes to the group's dead letters.
    pub dead: Vec<Fields>,
    /// How many dead letters the group may have, and for how long: beyond it nothing is committed.
    pub dead_bounds: DeadBounds,
    /// Names of events above `prev`, up to `next`, that were passed over because no build was known to handle them. Each
    /// must be a valid name of an event; others no build can declare.
    pub passed_over: Vec<String>,
    /// What has changed about the events that are proven; nothing is sent of it where none are.
    pub proof: Option<Proof>,
}

/// How many dead letters a group may have, and how old the oldest may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadBounds {
    /// At most so many.
    pub count: u64,
    /// None older than this.
    pub age: Duration,
}

/// What came of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The checkpoint is at `next`.
    Done,
    /// Another owner holds the lease. Nothing was changed.
    Fenced,
    /// The checkpoint is neither at `prev` nor at `next`, or a later commit was here before. Nothing was changed.
    Conflict {
        /// Where it is.
        at: EntryId,
    },
    /// The dead letters are at their bound. Nothing was changed.
    DeadLettersFull {
        /// How many there are.
        count: u64,
        /// The oldest.
        oldest: Option<EntryId>,
    },
    /// A build has declared these of [`Commit::passed_over`] meanwhile. MUST be answered whenever one of them is declared
    /// and the commit is not done already. Nothing was changed.
    Declared {
        /// Their names.
        names: Vec<String>,
    },
    /// The checkpoint is at `next`, but the group's marker is gone: the stream was deleted, or the group destroyed.
    /// Only a commit with `mirror` finds out.
    Vanished,
}

/// How many bytes of entries a [snapshot](Broker::snapshot) holds, unless one alone is larger: it is taken now and then by
/// each group, and most of what it brings is read for all groups anyway.
pub const SNAPSHOT_BYTES: usize = 64 * 1024;

/// A broker could not do what it was asked. Its `Debug` is a report with all causes, because `main` prints that.
#[derive(thiserror::Error)]
#[error("{message}")]
pub struct BrokerError {
    kind: BrokerErrorKind,
    message: String,
    #[source]
    source: Option<BoxError>,
}

impl fmt::Debug for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries name an error as its own source.
            if text != said {
                write!(f, "\n  caused by: {text}")?;
            }
            next = cause.source();
            said = text;
        }
        Ok(())
    }
}

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// The server cannot be reached, or asks to come back later. The call had no effect.
    Unavailable,
    /// The answer did not come: the call may have taken effect or not.
    Indefinite,
    /// The server is full. The call had no effect.
    Full,
    /// Credentials, permissions or the type of a key: another try without a change fails, too.
    Refused,
    /// The server lacks something that this contract needs.
    Unsupported,
    /// What is recorded on the server contradicts what the caller declares.
    Mismatch,
    /// The server answered something that makes no sense here.
    Protocol,
}

impl BrokerError {
    /// An error with its message: lower case, no full stop, naming key and remedy.
    pub fn new(kind: BrokerErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> BrokerErrorKind {
        self.kind
    }

    /// Whether the call may have taken effect all the same.
    pub fn is_indefinite(&self) -> bool {
        matches!(self.kind, BrokerErrorKind::Indefinite | BrokerErrorKind::Protocol)
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, BrokerErrorKind::Unavailable | BrokerErrorKind::Indefinite | BrokerErrorKind::Full)
    }
}
