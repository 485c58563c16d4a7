//! Streams and their entries: how many partitions a stream has, and how entries are added, read, awaited and removed.

use std::sync::Arc;
use std::time::Duration;

use super::error::Reply;
use super::sealed::Sealed;
use crate::keys::{GroupKey, PartitionKey, StreamKey};
use crate::{Durability, Entry, EntryId};

/// The streams of a store, and their entries.
pub trait Log: Sealed {
    /// Records how many partitions the stream has. It MUST fail with
    /// [`BrokerErrorKind::Mismatch`](super::BrokerErrorKind::Mismatch) when another number is recorded already. When no
    /// number is recorded and there are [`strays`](Self::strays), somebody has published by another number: then it
    /// MUST fail with the same and record nothing.
    fn declare<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, ()>;

    /// Which of [`StreamKey::strays`] hold entries, each with how many. A key that is no stream holds none.
    fn strays<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Vec<(PartitionKey, u64)>>;

    /// How many partitions are recorded for the stream, whatever number the key says; `None` when nobody declared it.
    fn partitions<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Option<u32>>;

    /// As [`append_durably`](Self::append_durably) without a durability; answers only the ids.
    fn append<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
    ) -> Reply<'a, Vec<EntryId>> {
        let added = self.append_durably(partition, entries, floor, None, Duration::ZERO);
        Box::pin(async move { Ok(added.await?.ids) })
    }

    /// Adds entries in order, with new ids above every earlier one of the partition, and creates the stream if there is
    /// none. MUST have added nothing when it answers with a definite error.
    ///
    /// The same call MAY remove entries below `floor`, and none at or above it. An entry without a field MUST be
    /// refused.
    ///
    /// With a `durability` the call then waits, at most for `wait`, until the entries are as safe as that asks. It MUST
    /// add nothing when the server could never do so
    /// ([`BrokerErrorKind::Unsupported`](super::BrokerErrorKind::Unsupported)), or when its user may not ask for it.
    /// Once the entries are added the answer MUST be their ids. If they are not as safe as asked, it also says what is
    /// missing.
    fn append_durably<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
        durability: Option<Durability>,
        wait: Duration,
    ) -> Reply<'a, Durable>;

    /// Removes entries below `floor`, and none at or above it; answers how many. MUST work on a full server. One call
    /// MAY remove only some thousands, so that other clients need not wait for it. It MUST answer 0 only when it could
    /// remove nothing more.
    fn trim_below<'a>(&'a self, partition: &'a PartitionKey, floor: EntryId) -> Reply<'a, u64>;

    /// Where the partition begins and ends; `None` when there is no such stream. The server MAY send the first and last
    /// entry along. A [snapshot](Self::snapshot) of no entries says the same without them, for callers who may take
    /// one.
    fn extent<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Extent>>;

    /// The entries above `after`, oldest first, at most `count`. MUST NOT wait for any.
    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Entries>;

    /// As [`read`](Self::read), but bounded by about `bytes`: the entry at `from`, [in short](super::in_short), and
    /// those above it, at most `count` together. Above `from` it MUST answer at least one, where there is one and
    /// `count` allows it; any further ones stay within `bytes`. It costs the server more than [`read`](Self::read), and
    /// is for entries of unknown size.
    fn page<'a>(&'a self, partition: &'a PartitionKey, from: EntryId, count: usize, bytes: usize) -> Reply<'a, Page>;

    /// Reads in one step what a caller needs to find lost entries: the extent, the group's marker, and a
    /// [page](Self::page) of [`SNAPSHOT_BYTES`] from `from` on. MUST work on a server that refuses writes.
    fn snapshot<'a>(&'a self, group: &'a GroupKey, from: EntryId, count: usize) -> Reply<'a, Snapshot>;

    /// The entries below `before`, newest first, at most `count`. MUST NOT wait for any.
    fn read_back<'a>(&'a self, partition: &'a PartitionKey, before: EntryId, count: usize) -> Reply<'a, Entries>;

    /// A reader that waits for entries, on a connection of its own.
    fn tail(&self) -> Reply<'_, Box<dyn Tail>>;
}

/// Entries that were read, shared by all groups that handle them.
pub type Entries = Vec<Arc<Entry>>;

/// Field names and values of an entry that is to be added.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Entries that were added, and whether they are as safe as the caller asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// The ids of the entries, in order.
    pub ids: Vec<EntryId>,
    /// A text that says what is missing, such as `1 of 2 replicas had it within 5s`; `None` when nothing is.
    pub missing: Option<String>,
}

/// Where a partition begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The oldest entry; `None` when there is none.
    pub first: Option<EntryId>,
    /// The highest id ever given, even if its entry is gone.
    pub last: EntryId,
    /// How many entries there are now.
    pub length: u64,
    /// How many entries were ever added.
    pub added: u64,
}

/// A partition at one moment, as one group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the partition begins and ends; `None` when there is no such stream.
    pub extent: Option<Extent>,
    /// Whether the group's marker is in the stream.
    pub marker: bool,
    /// The highest id whose entry was ever deleted singly. If an entry above it is gone, a trim has removed that entry
    /// and all before it. [`EntryId::ZERO`] when none was deleted; `None` when the server cannot say.
    pub deleted: Option<EntryId>,
    /// The entries asked for, oldest first; the one at the position [in short](super::in_short).
    pub entries: Entries,
    /// Whether these are certainly all, as in a [`Page`].
    pub complete: bool,
}

/// The most bytes of entries in a [snapshot](Log::snapshot), unless one entry alone is larger. Each group takes
/// snapshots only at times, and the process reads most of their entries for all groups anyway.
pub const SNAPSHOT_BYTES: usize = 64 * 1024;

/// Entries of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Oldest first; the one at the position [in short](super::in_short).
    pub entries: Entries,
    /// Whether these are certainly all. MUST be true when some were asked for and none is above the position.
    pub complete: bool,
}

/// The entries that a tail found at one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The index of the key.
    pub key: usize,
    /// The entry at the position, perhaps [in short](super::in_short), read after the entries; `None` when it is gone.
    /// While it is there, no trim has passed the position.
    pub position: Option<Arc<Entry>>,
    /// The entries above the position, oldest first, at least one.
    pub entries: Entries,
}

/// A reader that waits for entries.
pub trait Tail: Send {
    /// Waits until at least one of the keys has entries above its position, or until `wait` has passed. Then it answers
    /// the keys with entries, in the order of the keys.
    ///
    /// It answers at most `count` entries per key, and at least one. Without a wait it reads once. It waits for a key
    /// that does not exist, too. MUST end early, with the entries found, soon after [`Interrupt::interrupt`].
    fn next<'a>(&'a mut self, keys: &'a [(String, EntryId)], count: usize, wait: Duration) -> Reply<'a, Vec<Found>>;

    /// Ends waits from outside.
    fn interrupt(&self) -> Arc<dyn Interrupt>;
}

/// Ends the wait of a [`Tail`].
pub trait Interrupt: Send + Sync {
    /// Ends the current wait. It MAY do nothing when there is none, so the caller repeats it until the tail is seen to
    /// return.
    fn interrupt(&self) -> Reply<'_, ()>;
}
