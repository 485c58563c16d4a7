//! Groups, and the one owner that each has on a partition: its lease, checkpoint and declared events, and crashes of
//! owners.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Answer, Reply};
use super::log::Fields;
use super::sealed::Sealed;
use crate::keys::{GroupKey, PartitionKey};
use crate::{EntryId, Start};

/// The groups of a store. A group has one state per partition.
pub trait Groups: Sealed {
    /// The names of all groups of the partition, also of those that other programs read; `None` when there is no such stream.
    fn groups<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Vec<String>>>;

    /// The entry up to which every group of the partition has settled everything. It is `None` when there is no group,
    /// or when a group's checkpoint or a work queue's waiting set is not known. A group that no process runs any more
    /// counts until somebody destroys it.
    ///
    /// MUST NOT be above the checkpoint of any group that existed when this was called.
    fn consumed<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Consumed>>;

    /// As [`states`](Self::states) for one group.
    fn state<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<GroupState>> {
        Box::pin(async move { self.states(std::slice::from_ref(group)).await?.pop().unwrap_or(Ok(None)) })
    }

    /// The lease and checkpoint of each group, in one round trip and in the order asked; `None` for a group without a
    /// state. An error about one group MUST be the answer for that group alone. MUST work on a server that refuses
    /// writes.
    fn states<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupState>>>>;

    /// Creates the group's state for the delivery mode of its key, with a checkpoint as `start` says. In the same step
    /// it creates the group's marker, which a deletion of the stream deletes, too. MUST change nothing when the state
    /// exists, or when another program's marker does ([`Created::Foreign`]).
    fn create<'a>(&'a self, group: &'a GroupKey, start: Start) -> Reply<'a, Created>;

    /// Creates the state of a group that another program reads with XREADGROUP, so that this group handles every entry
    /// which that program has not acknowledged. The checkpoint becomes the smaller of the last-delivered id and the id
    /// before the oldest pending entry. MUST change nothing when the state exists, when there is no such group, or when
    /// one of its consumers was seen within `quiet` ([`Adopted::InUse`]). The pending entries MUST stay pending there,
    /// so that the other program can take over again.
    ///
    /// A work queue continues at the last-delivered id, and its waiting set gets the pending entries. If the waiting
    /// set of an earlier queue is still there, the group was ours: its state was deleted, with its entries in flight.
    /// The call MUST refuse it, because a queue that continued would lose these entries without a report.
    fn adopt<'a>(&'a self, group: &'a GroupKey, quiet: Duration) -> Reply<'a, Adopted>;

    /// Takes the lease if owner, epoch and beat are still `seen`, with an epoch above every earlier one. MUST refuse
    /// when the group's marker is gone, or when the checkpoint is above the stream's highest id. The same claim sent
    /// twice MUST take effect once and answer with the same epoch both times. The store recognises a claim by its
    /// token, which is fresh each time. The empty token MUST be refused.
    ///
    /// If an owner other than the claimant never released the lease, its process may have ended while it ran an event.
    /// Then each recorded charge MUST count as a crash of its event. If the stream's highest id is above the
    /// checkpoint, the answer MUST also carry a [`Recovery`]. Its `left` is the larger of the previous owner's recorded
    /// bound (else `claim.bound`) and that owner's unfinished `left`. Its `to` is the highest id of the stream.
    ///
    /// A recovery that an owner left unfinished when it released the lease MUST continue where it was. No charge
    /// remains recorded after a claim.
    fn acquire<'a>(&'a self, group: &'a GroupKey, claim: &'a Claim) -> Reply<'a, Acquired>;

    /// Moves the checkpoint from `prev` to `next` and adds the dead letters, all or nothing, if owner and epoch hold
    /// the lease. It counts as a renewal. The same commit sent twice MUST take effect once and answer
    /// [`Committed::Done`] both times. A commit that arrives after one with a larger number MUST change nothing: it is
    /// a late copy of a call that was sent again. A commit that moves the checkpoint back MUST be refused, and so MUST
    /// one that adds dead letters without moving it.
    ///
    /// The same step MUST record the [`RecoveryStep`]. A commit without one MUST leave the recovery as it is.
    fn commit<'a>(&'a self, group: &'a GroupKey, commit: &'a Commit) -> Reply<'a, Committed>;

    /// When the group settled the events with these ids, in milliseconds since 1970, in the order asked. `None` for one that
    /// no commit told it to [remember](Commit::remember) since its last reset.
    fn remembered<'a>(&'a self, group: &'a GroupKey, ids: &'a [String]) -> Reply<'a, Vec<Option<u64>>>;

    /// Releases the lease, clears the owner's charge and rings the partition's bell, if owner and epoch hold the lease;
    /// answers whether they did.
    ///
    /// Where `needs` says what the successor must be able to handle, the same step MUST record it, in the place of an
    /// earlier need. The need stays until a [`Change`] or a reset removes it.
    ///
    /// On a work queue it removes the consumer, and releases what it still has in flight as
    /// [`reclaim`](super::Queue::reclaim) does. The consumer has released untried entries with an
    /// [`ack`](super::Queue::ack) before. Needs belong to its entries, so this call records none.
    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: Option<&'a Need>) -> Reply<'a, bool>;

    /// Moves the checkpoint to where `to` says, whoever holds the lease, if the epoch is still `seen`. With `None` it
    /// creates the state, if there is none. It takes the lease away with an epoch above every earlier one. It forgets
    /// all attempts, crashes, charges, needs and the recovery, creates the marker where it is gone, and rings the
    /// partition's bell. Declared events stay. MUST change nothing otherwise.
    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset>;

    /// Updates in one step what the group's state says of events, whoever holds the lease; answers all events that are
    /// then declared. MUST change nothing and answer `None` when the group has no state. MUST work on a full server.
    fn declare_events<'a>(&'a self, group: &'a GroupKey, change: &'a Change) -> Reply<'a, Option<Events>>;

    /// Lets a halted group continue where it is: raises [`GroupState::resume`]. For a work queue it also removes the
    /// recorded loss. It changes nothing else; answers whether the group has a state.
    fn resume<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, bool>;

    /// Removes the group's state, marker, dead letters and replays, and a work queue's waiting set, in one step, if the
    /// epoch is still `seen`; with `None` only where there is no state. Answers whether it did. A group that is not there
    /// is removed already.
    fn remove<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>) -> Reply<'a, bool>;

    /// Where the runtime renews leases.
    fn renewal(&self) -> Renewal;

    /// A connection for renewals alone, created on the executor that will use it.
    fn renewer(&self) -> Reply<'_, Box<dyn Renewer>>;
}

/// A group's lease and checkpoint, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// The lease.
    pub lease: LeaseView,
    /// How long the owner's lease lasts. Contenders wait this long, not as long as their own leases last.
    pub lease_for: Duration,
    /// The checkpoint.
    pub at: EntryId,
    /// The epoch of the last [`Groups::reset`]; 0 when there was none.
    pub reset: u64,
    /// The events that builds of the group have declared.
    pub events: Events,
    /// The event that the last owner to hand over could not handle.
    pub needs: Option<Need>,
    /// How many calls of [`Groups::resume`] there were.
    pub resume: u64,
}

/// A lease as a contender saw it. While it stays the same, nobody has renewed the lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseView {
    /// The owner's token; empty when nobody holds the lease.
    pub owner: String,
    /// Which holding of the lease it is.
    pub epoch: u64,
    /// How often it was renewed.
    pub beat: u64,
}

/// The holder of a lease. Its token is fresh at every acquisition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The owner's token.
    pub owner: String,
    /// Which holding of the lease it is.
    pub epoch: u64,
}

/// The answer to a call that creates a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The call has created it.
    Made,
    /// It existed already.
    Exists,
    /// A Redis group of this name exists without a state of ours: it belongs to a program that reads with XREADGROUP.
    Foreign,
}

/// The answer to a call that adopts a group of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// The group's state is created.
    Done(Adoption),
    /// The group has a state already.
    Exists,
    /// There is no such group, or no such stream.
    Missing,
    /// Another program reads with it. Nothing was changed.
    InUse {
        /// Its consumers that were seen lately, each with its time since then; at most ten.
        consumers: Vec<(String, Duration)>,
    },
}

/// Where an adopted group was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoption {
    /// The checkpoint.
    pub at: EntryId,
    /// The last id that was delivered to the other program's consumers.
    pub delivered: EntryId,
    /// How many entries that program had not acknowledged.
    pub pending: u64,
    /// The oldest of these entries.
    pub oldest: Option<EntryId>,
}

/// An attempt to take a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The contender's fresh token.
    pub owner: String,
    /// How long its lease will last.
    pub lease_for: Duration,
    /// The lease as it saw it, either unchanged for a whole lease or with an empty owner.
    pub seen: LeaseView,
    /// Whether the lease seen is the claimant's own, which ran out while nobody took it. Its handlers have then ended.
    pub own: bool,
    /// The most events that it will have in flight, with those that are settled and not yet committed. If it never
    /// releases the lease, as many are recovered.
    pub bound: u32,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The lease is held, from this checkpoint.
    Held(Holding),
    /// Another process took or renewed the lease.
    Contended,
    /// The group has no state.
    Missing,
    /// The group's marker is gone, because somebody deleted the stream or destroyed the group.
    Vanished {
        /// The checkpoint, which has no stream any more.
        at: EntryId,
    },
    /// The checkpoint is above the highest id of the stream, because history was cut or restarted.
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
    /// The event id of the entry at the checkpoint; empty when it is not known. A commit sets it, and for a new group
    /// the stream.
    pub at_event: String,
    /// The checkpoint's ordinal: how many entries were added up to it, with those that were lost and reported; `None`
    /// when it is not known.
    pub seen: Option<u64>,
    /// Failed attempts of events above the checkpoint.
    pub attempts: Vec<(EntryId, u32)>,
    /// The events that builds of the group have declared.
    pub events: Events,
    /// The recovery to continue, if there is one.
    pub recovery: Option<Recovery>,
    /// How many owners died charged with an event above the checkpoint.
    pub crashes: Vec<(EntryId, u32)>,
}

/// A recovery: the events that a dead owner may have had in flight, one of which may have ended its process. Each is
/// charged before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// The most events that are left.
    pub left: u32,
    /// No event above this entry belongs to the recovery.
    pub to: EntryId,
}

/// The part of a commit that concerns a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryStep {
    /// The events that run, or will run when this commit is done, in the place of all that were charged before.
    pub charged: Vec<EntryId>,
    /// How many events are left, the charged ones included; 0 ends the recovery.
    pub left: u32,
    /// Events whose crashes are no longer needed.
    pub forget: Vec<EntryId>,
}

/// One step of a group's checkpoint. All its fields are one value, because one script takes them whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The owner.
    pub holder: Holder,
    /// Which commit of this holding it is: each has a larger number than the one before, and the same when it is sent again.
    pub call: u64,
    /// Where the checkpoint is now.
    pub prev: EntryId,
    /// Its new place; the same as `prev` when only attempts are recorded.
    pub next: EntryId,
    /// The id of the event at `next`, to recognise the history by. Not recorded when the checkpoint stays.
    pub next_event: String,
    /// The ordinal of `next`, where it is known. If it is not known and the checkpoint stays, the recorded one stays.
    pub seen: Option<u64>,
    /// Failed attempts to record, for events above `next`.
    pub attempts: Vec<(EntryId, u32)>,
    /// Events above `prev` whose recorded attempts are no longer needed.
    pub forget: Vec<EntryId>,
    /// The error of the latest of these attempts, which observers see until another one replaces it.
    pub error: Option<AttemptError>,
    /// Whether to show the position in the server's own group, for operators' tools.
    pub mirror: bool,
    /// The dead letters to write.
    pub dead: Vec<Fields>,
    /// How many dead letters the group may have, and how old. Beyond that nothing is committed.
    pub dead_bounds: DeadBounds,
    /// Names of events above `prev`, up to `next`, that the owner ignored because no known build handles them. Each
    /// must be a valid name of an event; no build can declare another.
    pub passed_over: Vec<String>,
    /// The change of a recovery; `None` where there is none.
    pub recovery: Option<RecoveryStep>,
    /// The ids of the events that it settles, where the group remembers them.
    pub remember: Option<Remember>,
}

/// Ids of events to remember, by which a group recognises events that come twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remember {
    /// The ids of settled events. One that is remembered already keeps its time.
    pub ids: Vec<String>,
    /// For how long the group needs them.
    pub within: Duration,
    /// The most that it remembers. The oldest go first.
    pub most: u64,
}

/// The error of a failed attempt at an event that will be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptError {
    /// The entry of the event.
    pub entry: EntryId,
    /// How many attempts have failed.
    pub attempts: u32,
    /// The handler's own words.
    pub text: String,
}

impl AttemptError {
    /// The most bytes of the text: some lines of a terminal. The whole text is in the log, and in the dead letter if
    /// there is one. A look at a thousand partitions reads half a MiB of such texts at most.
    pub const MAX_TEXT: usize = 512;

    /// The error, its text cut between two characters.
    pub fn new(entry: EntryId, attempts: u32, text: &str) -> Self {
        let end = (0..=Self::MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        Self { entry, attempts, text: text[..end.unwrap_or_default()].to_owned() }
    }
}

/// How many dead letters a group may have, and how old the oldest may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadBounds {
    /// The most dead letters.
    pub count: u64,
    /// The greatest age of the oldest dead letter.
    pub age: Duration,
}

/// The answer to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The checkpoint is at `next`.
    Done,
    /// Another owner holds the lease. Nothing was changed.
    Fenced,
    /// The checkpoint is neither at `prev` nor at `next`, or a later commit came first. Nothing was changed.
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
    /// A build has declared these of [`Commit::passed_over`] meanwhile. MUST be answered whenever one of them is
    /// declared and the commit has not taken effect already. Nothing was changed.
    Declared {
        /// Their names.
        names: Vec<String>,
    },
    /// The checkpoint is at `next`, but the group's marker is gone, because somebody deleted the stream or destroyed
    /// the group. Only a commit with `mirror` finds that.
    Vanished,
}

/// The answer to a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reset {
    /// The checkpoint is moved.
    Done {
        /// The checkpoint.
        at: EntryId,
    },
    /// The epoch is another one, or the state was created or deleted meanwhile. Nothing was changed.
    Contended,
    /// Another program's marker exists, and no state. Nothing was changed.
    Foreign,
    /// The group is used in another delivery mode. Nothing was changed.
    Mode(String),
}

/// The events that builds of a group have ever declared: per name the highest version that any build handles.
///
/// There are never more than the names of events in programs.
pub type Events = BTreeMap<String, u32>;

/// An event that an owner of the group met and could not handle. The next owner must handle it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The event's name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The entry that holds it.
    pub entry: EntryId,
}

/// A change of the events in a group's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Names to declare; of two versions the higher one counts.
    pub declares: Events,
    /// Names to remove.
    pub forgets: Vec<String>,
    /// A need that is met; removed only where exactly this need is recorded.
    pub met: Option<Need>,
}

/// The entry up to which every group of a partition has settled everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// The smallest checkpoint of the groups.
    pub at: EntryId,
    /// The group with this checkpoint; the first by name where several have it.
    pub slowest: String,
}

/// Where the runtime renews leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// On a thread and a connection of their own, so that no lease is lost to a handler that blocks the executor.
    OwnThread,
    /// On the app's executor, because the broker lives in the process and in its (perhaps virtual) time.
    CallersExecutor,
}

/// Renews leases.
pub trait Renewer: Send {
    /// Renews each lease in one round trip; answers for each.
    fn renew<'a>(&'a mut self, leases: &'a [(GroupKey, Holder)]) -> Reply<'a, Vec<Renewed>>;
}

/// The answer about one renewed lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It is still held.
    Held {
        /// Whether dead letters wait to be replayed.
        replays: bool,
    },
    /// It is no longer held.
    Lost,
}
