//! The looks of an observer at a store, from outside any program: its streams, where they end, and how their groups stand.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Answer, Reply};
use super::groups::{AttemptError, LeaseView, Need};
use super::log::Extent;
use super::members::Member;
use super::sealed::Sealed;
use crate::EntryId;
use crate::keys::{GroupKey, PartitionKey, StreamKey};

/// The streams, groups and members of a store, to look at. No call here changes anything.
pub trait Inspect: Sealed {
    /// The streams that programs have declared, with their partitions, sorted; with a namespace only those in it. It
    /// MUST fail when there are more than [`MAX_STREAMS`].
    fn streams<'a>(&'a self, namespace: Option<&'a str>) -> Reply<'a, Vec<StreamKey>>;

    /// Where each partition begins and ends, and which groups it has, in one round trip and in the order asked; `None`
    /// for one that is not there. An error about one partition MUST be the answer for that one alone.
    fn look_at_partitions<'a>(
        &'a self,
        partitions: &'a [PartitionKey],
    ) -> Reply<'a, Vec<Answer<Option<PartitionLook>>>>;

    /// How each group stands, in one round trip and in the order asked; `None` for a group without a state. An error
    /// about one group MUST be the answer for that one alone.
    fn look_at_groups<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupLook>>>>;

    /// The members of each set ([`StreamKey::members`]), in one round trip and in the order asked. An error about one
    /// set MUST be the answer for that one alone.
    fn look_at_members<'a>(&'a self, sets: &'a [String]) -> Reply<'a, Vec<Answer<Vec<Member>>>>;

    /// The facts that the store gives about itself, by the names of Redis's INFO; nothing where the store is no server.
    fn info(&self) -> Reply<'_, BTreeMap<String, String>>;
}

/// The most streams that an observer looks at. With more, one namespace at a time is looked at.
pub const MAX_STREAMS: usize = 10_000;

/// A partition as an observer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLook {
    /// Where it begins and ends.
    pub extent: Extent,
    /// How much memory it takes; `None` where the store does not say.
    pub bytes: Option<u64>,
    /// Its groups, sorted by name, also those that other programs read.
    pub markers: Vec<Marker>,
}

/// A group as the stream itself shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The group's name.
    pub group: String,
    /// The last id that was delivered to consumers that read with XREADGROUP.
    pub delivered: EntryId,
    /// How many entries these have not acknowledged.
    pub pending: u64,
    /// How many such consumers there are.
    pub consumers: u64,
    /// How many entries stand above `delivered`, where the store knows it.
    pub lag: Option<u64>,
}

/// A group on a partition as an observer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLook {
    /// The lease. A work queue has none.
    pub lease: LeaseView,
    /// How long the owner's lease lasts.
    pub lease_for: Duration,
    /// The checkpoint; the cursor of a work queue.
    pub at: EntryId,
    /// The ordinal of `at`, where it is known.
    pub seen: Option<u64>,
    /// The event for which another build is needed.
    pub needs: Option<Need>,
    /// Failed attempts of events above the checkpoint, in order.
    pub attempts: Vec<(EntryId, u32)>,
    /// The latest error of an attempt, however old, and the server's clock at that time in milliseconds. Its event may be
    /// settled.
    pub error: Option<(AttemptError, u64)>,
    /// The entries that a work queue has given out; `None` for a group in ordered delivery.
    pub queue: Option<QueueLook>,
    /// How many dead letters there are.
    pub dead: u64,
    /// How many dead letters wait to be replayed.
    pub replays: u64,
}

/// The entries that a work queue has given out and not settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueLook {
    /// How many entries wait to be given out again.
    pub waiting: u64,
    /// The tokens of its consumers, sorted, each with the entries that it has in flight.
    pub consumers: Vec<(String, u64)>,
}
