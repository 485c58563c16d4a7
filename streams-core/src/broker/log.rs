//! Streams as a store keeps them: what is declared of one, how entries are added, read, waited for and removed.

use std::sync::Arc;
use std::time::Duration;

use super::error::Reply;
use super::sealed::Sealed;
use crate::keys::{GroupKey, PartitionKey, StreamKey};
use crate::{Durability, Entry, EntryId};

/// The streams of a store, and their entries.
pub trait Log: Sealed {
    /// Records how many partitions the stream has, or MUST fail with [`BrokerErrorKind::Mismatch`](super::BrokerErrorKind::Mismatch) when
    /// another number is recorded already. It MUST fail with the same, and record nothing, when no number is recorded and
    /// there are [`strays`](Self::strays): somebody has published by another number.
    fn declare<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, ()>;

    /// Which of [`StreamKey::strays`] hold entries, each with how many. A key that is no stream holds none.
    fn strays<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Vec<(PartitionKey, u64)>>;

    /// How many partitions are recorded for the stream, whatever number the key says; `None` when nobody declared it.
    fn partitions<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Option<u32>>;

    /// As [`append_durably`](Self::append_durably) without a durability; answers the ids alone.
    fn append<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
    ) -> Reply<'a, Vec<EntryId>> {
        let added = self.append_durably(partition, entries, floor, None, Duration::ZERO);
        Box::pin(async move { Ok(added.await?.ids) })
    }

    /// Adds entries in order, with new ids above every earlier one of the partition, and creates the stream
    /// where there is none. MUST add all or nothing when it answers with a definite error.
    ///
    /// Entries below `floor` MAY be removed by the way; none at or above it. An entry without a field MUST be refused.
    ///
    /// With a `durability` it then waits until the entries are where that wants them, at most for `wait`. It MUST add nothing when
    /// the server could never do what is asked ([`BrokerErrorKind::Unsupported`](super::BrokerErrorKind::Unsupported)), or its user
    /// may not ask for it. Once the entries are added the answer MUST be their ids, also when they are not where they should be: then
    /// with what is missing.
    fn append_durably<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
        durability: Option<Durability>,
        wait: Duration,
    ) -> Reply<'a, Durable>;

    /// Removes entries below `floor`, and none at or above it; answers how many. MUST work on a server that is full. One call
    /// MAY remove only some thousands, so that it does not hold others up; only when nothing is left that it could remove it
    /// MUST answer 0.
    fn trim_below<'a>(&'a self, partition: &'a PartitionKey, floor: EntryId) -> Reply<'a, u64>;

    /// Where the partition begins and ends; `None` when there is no such stream. The server MAY send its first and last entry
    /// along; a [snapshot](Self::snapshot) of no entries says the same without them, to whoever may take one.
    fn extent<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Extent>>;

    /// The entries above `after`, oldest first, at most `count`. MUST NOT wait for any.
    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Entries>;

    /// As [`read`](Self::read), but never more than about `bytes`: the entry at `from`, [in short](super::in_short), and those above
    /// it, at most `count` together. Above `from` it MUST answer at least one, where there is one and `count` allows it, and
    /// beyond that no more than `bytes`. A read that costs the server more than [`read`](Self::read), for entries of unknown size.
    fn page<'a>(&'a self, partition: &'a PartitionKey, from: EntryId, count: usize, bytes: usize) -> Reply<'a, Page>;

    /// Tells whether history is whole, by what stands there at one moment: the extent, the group's marker and a [page](Self::page) of
    /// [`SNAPSHOT_BYTES`] from `from` on. MUST work on a server that refuses writes.
    fn snapshot<'a>(&'a self, group: &'a GroupKey, from: EntryId, count: usize) -> Reply<'a, Snapshot>;

    /// The entries below `before`, newest first, at most `count`. MUST NOT wait for any.
    fn read_back<'a>(&'a self, partition: &'a PartitionKey, before: EntryId, count: usize) -> Reply<'a, Entries>;

    /// A reader that waits; it has a connection of its own.
    fn tail(&self) -> Reply<'_, Box<dyn Tail>>;
}

/// Entries that were read, shared by all who handle them.
pub type Entries = Vec<Arc<Entry>>;

/// Field names and values of an entry that is to be added.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Entries that were added, and whether they are as safe as was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// The ids of the entries, in order.
    pub ids: Vec<EntryId>,
    /// What is missing, in words, such as `1 of 2 replicas had it within 5s`; `None` when nothing is.
    pub missing: Option<String>,
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
    /// The entries that were asked for, oldest first; the one at the position [in short](super::in_short).
    pub entries: Entries,
    /// Whether these are certainly all; as in a [`Page`].
    pub complete: bool,
}

/// How many bytes of entries a [snapshot](Log::snapshot) holds, unless one alone is larger: it is taken now and then by
/// each group, and most of what it brings is read for all groups anyway.
pub const SNAPSHOT_BYTES: usize = 64 * 1024;

/// Entries of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Oldest first; the one at the position [in short](super::in_short).
    pub entries: Entries,
    /// Whether these are certainly all. MUST be true where none is above the position although some were asked for.
    pub complete: bool,
}

/// What a tail found at one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The index of the key.
    pub key: usize,
    /// The entry at the position, perhaps [in short](super::in_short), seen there after the entries were read; `None` when it is gone.
    /// While it is there no trim has passed the position.
    pub position: Option<Arc<Entry>>,
    /// The entries above the position, oldest first, at least one.
    pub entries: Entries,
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
