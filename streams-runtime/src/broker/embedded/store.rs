//! [`Embedded`], and all that it holds: streams, groups and members behind one lock, and the clock that gives ids.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use streams_core::broker::{AttemptError, BrokerError, Events, Holder, LeaseView, Need, Notes, Recovery, Reply};
use streams_core::keys::GroupKey;
use streams_core::{Entry, EntryId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::record::Record;
use super::stream::Stream;
use crate::broker::checks::BELL_LENGTH;
use crate::clock::millis;
use crate::sync::lock;

/// A broker without a server, for development, tests and programs whose events may be lost.
///
/// Everything is in this process's memory and ends with it. Only retention removes entries (the floor of
/// [`append`](streams_core::broker::Log::append)). So memory holds the entries of one retention period: about
/// [`Entry::weight`] bytes per entry. Dead letters stay until they are discarded.
///
/// Time is tokio's: under a paused clock leases, retention and waits run in virtual time. Two runs from the same
/// [`starting`](Self::starting) give out the same ids. Clones share one store.
#[derive(Clone)]
pub struct Embedded {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) store: Mutex<Store>,
    /// Rung after entries were added, for tails.
    pub(super) added: Notify,
    /// The wall clock when it was read, at construction. Afterwards only tokio's clock counts.
    pub(super) epoch_ms: AtomicU64,
    pub(super) epoch: Instant,
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) logs: HashMap<String, Stream>,
    pub(super) groups: HashMap<String, Group>,
    pub(super) partitions: HashMap<String, u32>,
    pub(super) notes: HashMap<String, Notes>,
    /// Per set the texts of its members, with their beats.
    pub(super) members: HashMap<String, BTreeMap<String, u64>>,
    /// The pauses of groups, by stream and name.
    pub(super) pauses: HashMap<(String, String), String>,
    /// By key, until when no other snapshot is due, and the last one.
    pub(super) snapshots: HashMap<String, (u64, Option<Vec<u8>>)>,
}

/// The state of a group on a partition: one value, as it is one hash in Redis, so that each call changes it whole.
#[derive(Clone, Default)]
pub(super) struct Group {
    pub(super) lease: LeaseView,
    pub(super) lease_for: Duration,
    pub(super) at: EntryId,
    pub(super) at_event: String,
    pub(super) seen: Option<u64>,
    pub(super) attempts: BTreeMap<EntryId, u32>,
    /// The latest error of an attempt, and when it came.
    pub(super) error: Option<(AttemptError, u64)>,
    /// The most events that its owner may have in flight.
    pub(super) bound: u32,
    /// The number of this epoch's last commit that left the checkpoint where it was.
    pub(super) call: u64,
    pub(super) recovery: Option<Recovery>,
    pub(super) charged: Vec<EntryId>,
    pub(super) crashes: BTreeMap<EntryId, u32>,
    pub(super) reset: u64,
    pub(super) events: Events,
    /// When events were settled whose ids it remembers.
    pub(super) settled: HashMap<String, u64>,
    pub(super) needs: Option<Need>,
    pub(super) resume: u64,
    pub(super) replaying: Replaying,
    /// The record of a work queue, with a cursor in the place of the checkpoint. A queue's lease has no owner; its
    /// epoch is that of the last session or reset.
    pub(super) record: Option<Record>,
}

/// The state of the first of the replays.
#[derive(Clone, Copy, Default)]
pub(super) struct Replaying {
    pub(super) id: EntryId,
    pub(super) attempts: u32,
    pub(super) crashes: u32,
    /// The epoch that it is charged to.
    pub(super) charged: Option<u64>,
}

impl Group {
    /// The state of a group that begins here, for the delivery mode of its key.
    pub(super) fn begin(group: &GroupKey, (at, seen, at_event): (EntryId, Option<u64>, String)) -> Self {
        let record = group.is_queue().then(|| Record::new(at, at_event.clone(), seen));
        Self { at, at_event, seen, record, ..Self::default() }
    }

    /// The delivery mode in which the group was created.
    pub(super) fn mode(&self) -> &'static str {
        if self.record.is_some() { "queue" } else { "ordered" }
    }

    /// The group's delivery mode, if the key is for another one.
    pub(super) fn other_mode(&self, group: &GroupKey) -> Option<&'static str> {
        (self.record.is_some() != group.is_queue()).then(|| self.mode())
    }

    /// The checkpoint, or the cursor of a work queue.
    pub(super) fn position(&self) -> EntryId {
        self.record.as_ref().map_or(self.at, |record| record.cursor.at)
    }

    /// The oldest unsettled entry below that.
    pub(super) fn oldest(&self) -> Option<EntryId> {
        self.record.as_ref().and_then(Record::oldest)
    }

    pub(super) fn is_held_by(&self, holder: &Holder) -> bool {
        if let Some(record) = &self.record {
            return record.has(holder);
        }
        // The empty owner never holds a lease.
        !holder.owner.is_empty() && self.lease.owner == holder.owner && self.lease.epoch == holder.epoch
    }
}

impl Store {
    pub(super) fn read(&self, key: &str, after: EntryId, count: usize) -> Vec<Arc<Entry>> {
        self.logs.get(key).map_or_else(Vec::new, |log| log.read(after, count))
    }

    pub(super) fn has_marker(&self, group: &GroupKey) -> bool {
        self.logs.get(group.partition().as_str()).is_some_and(|log| log.markers.contains_key(group.group()))
    }

    pub(super) fn ring(&mut self, group: &GroupKey, now: u64) {
        let bell = self.logs.entry(group.partition().bell()).or_default();
        bell.push(now, &[(b"group".to_vec(), group.group().as_bytes().to_vec())]);
        while bell.entries.len() > BELL_LENGTH {
            bell.entries.pop_front();
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Store> {
        // No code here panics between two writes that belong together.
        lock(&self.store)
    }

    pub(super) fn now(&self) -> u64 {
        self.epoch_ms.load(Relaxed) + millis(self.epoch.elapsed())
    }
}

impl Embedded {
    /// An empty broker.
    pub fn new() -> Self {
        Self::starting(SystemTime::now())
    }

    /// An empty broker whose clock starts here, for tests that give the same ids in every run.
    pub fn starting(now: SystemTime) -> Self {
        let epoch_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
        let epoch_ms = AtomicU64::new(epoch_ms);
        let shared = Shared { store: Mutex::default(), added: Notify::new(), epoch_ms, epoch: Instant::now() };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn reply<'a, T>(
        &'a self,
        work: impl FnOnce(&mut Store, u64) -> Result<T, BrokerError> + Send + 'a,
    ) -> Reply<'a, T> {
        Box::pin(async move {
            // Nothing here ever waits, so a loop over these calls would keep its thread.
            tokio::task::consume_budget().await;
            let now = self.shared.now();
            work(&mut self.shared.lock(), now)
        })
    }

    /// The same for a call that may add entries, which wakes the tails that wait for some.
    pub(super) fn ringing<'a, T>(
        &'a self,
        work: impl FnOnce(&mut Store, u64) -> Result<T, BrokerError> + Send + 'a,
    ) -> Reply<'a, T> {
        self.reply(move |store, now| {
            let done = work(store, now);
            self.shared.added.notify_waiters();
            done
        })
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl streams_core::broker::sealed::Sealed for Embedded {}
