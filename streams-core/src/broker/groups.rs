//! Groups and the one owner that each has on a partition: lease, checkpoint, what builds declare, and what may have ended an owner.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Answer, Reply};
use super::log::Fields;
use super::sealed::Sealed;
use crate::keys::{GroupKey, PartitionKey};
use crate::{EntryId, Start};

/// The groups of a store, on each partition by itself.
pub trait Groups: Sealed {
    /// The names of all groups of the partition, also of those that other programs read; `None` when there is no such stream.
    fn groups<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Vec<String>>>;

    /// Up to where every group of the partition has settled everything; `None` when it has no group, and when it has one
    /// whose checkpoint is not known, or of which nobody knows what waits. A group that nobody runs any more counts as long as it is there.
    ///
    /// MUST NOT be above the checkpoint of any group that was there when this was called.
    fn consumed<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Consumed>>;

    /// As [`states`](Self::states) for one group.
    fn state<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<GroupState>> {
        Box::pin(async move { self.states(std::slice::from_ref(group)).await?.pop().unwrap_or(Ok(None)) })
    }

    /// The lease and checkpoint of each group, in one conversation and in their order; `None` for one that has none. What is
    /// wrong with one of them MUST be its answer alone. MUST work on a server that refuses writes.
    fn states<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupState>>>>;

    /// Makes the group's state for the delivery that its key is for, with a checkpoint as `start` says, and a marker that dies
    /// with the stream, in one step. MUST change nothing when the state exists, and when there is a marker that is not ours
    /// ([`Created::Foreign`]).
    fn create<'a>(&'a self, group: &'a GroupKey, start: Start) -> Reply<'a, Created>;

    /// Makes the state of a group that a program reads with XREADGROUP, so that every entry is handled which that program
    /// has not acknowledged: with the checkpoint at the smaller of its last-delivered id and the id before its oldest
    /// pending one. MUST change nothing when the state exists, when there is no such group, and when one of its consumers
    /// was seen within `quiet` ([`Adopted::InUse`]). What is pending there MUST stay as it is, so that there is a way back.
    ///
    /// A work queue goes on at the last-delivered id, and what is pending waits in it. Where the waiting set of an earlier queue stands,
    /// the group is none of another program: its state was deleted, and nobody knows what was in flight. That MUST be refused, as a
    /// queue that goes on there would lose it untold.
    fn adopt<'a>(&'a self, group: &'a GroupKey, quiet: Duration) -> Reply<'a, Adopted>;

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
    /// Where `needs` says what the next owner must be able to handle, that MUST be recorded in the same step, in the
    /// place of what was recorded before. It stays until a [`Change`] or a reset takes it away.
    ///
    /// On a work queue it ends the consumer in the same way, and gives back what it still has in flight as
    /// [`reclaim`](super::Queue::reclaim) does: whatever was not tried, [`ack`](super::Queue::ack) has given back before. Needs
    /// belong to its entries, so none are recorded.
    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: Option<&'a Need>) -> Reply<'a, bool>;

    /// Moves the checkpoint to where `to` says, if the epoch is still `seen` (`None`: if there is no state, which is then
    /// made), whoever holds the lease: takes it away with an epoch above every earlier one, forgets all attempts, crashes, what
    /// is to be proven and what was needed, makes the marker where it is gone, and rings the partition's bell. What is declared
    /// stays. MUST change nothing
    /// otherwise.
    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset>;

    /// Brings what the group's state says of events up to date, in one step, whoever holds the lease; answers with all that
    /// is declared then. MUST change nothing and answer `None` when the group has no state, and MUST work on a full server.
    fn declare_events<'a>(&'a self, group: &'a GroupKey, change: &'a Change) -> Reply<'a, Option<Events>>;

    /// Tells whoever is halted in the group's work to go on where it is: raises [`GroupState::resume`], and changes nothing
    /// else. Answers whether there is a state to tell.
    fn resume<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, bool>;

    /// Where leases are renewed.
    fn renewal(&self) -> Renewal;

    /// A connection for renewals alone, made on the executor that will use it.
    fn renewer(&self) -> Reply<'_, Box<dyn Renewer>>;
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
    /// The epoch of the last [`Groups::reset`]; 0 when there was none.
    pub reset: u64,
    /// What builds of the group have declared.
    pub events: Events,
    /// What the last owner that gave up could not handle.
    pub needs: Option<Need>,
    /// How often [`Groups::resume`] was called since.
    pub resume: u64,
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

/// A holding of a lease: the token is fresh at every acquisition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The owner's token.
    pub owner: String,
    /// Which holding of the lease it is.
    pub epoch: u64,
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

/// Up to where every group of a partition has settled everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// The smallest checkpoint.
    pub at: EntryId,
    /// The group that has it; the first by name where several do.
    pub slowest: String,
}

/// Where leases are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// On a thread and a connection of their own, so that a handler which blocks the executor does not lose its lease.
    OwnThread,
    /// On the app's executor: the broker lives in the process and in its (perhaps virtual) time.
    CallersExecutor,
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
