//! The status of every group, for health checks, for `settled` and for people.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Broker, BrokerError, Extent, Holding, QueueState};
use streams_core::keys::GroupKey;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::dead_letter::Cause;
use super::metrics::{Counter, Gauge, Registry};
use crate::data_loss::{DataLoss, DataLossKind};
use crate::halt::Halt;
use crate::pause::Pause;
use crate::sync::lock;

/// The phase of a group on one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Not yet known.
    Starting,
    /// Another process owns the partition; this one takes over when its turn comes.
    StandingBy {
        /// The owner: machine, process id and random digits; empty while the partition is on its way from one to the next.
        owner: String,
    },
    /// This process reads and handles.
    Owning {
        /// Which holding of the lease it is.
        epoch: u64,
    },
    /// A broadcast group reads what was there before it began, and what it holds is not whole yet.
    CatchingUp,
    /// A broadcast group has caught up, and handles what is added.
    Following,
    /// The server cannot be used at the moment, and says this; tried again until it can.
    Retrying(String),
    /// Nothing is handled until somebody does something.
    Halted(Halt),
    /// Nothing is handled until somebody resumes the group, because somebody has paused it.
    Paused(Pause),
    /// The app has stopped.
    Stopped,
}

impl Phase {
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Owning { .. } | Self::StandingBy { .. } | Self::Following | Self::Paused(_))
    }
}

/// The status of a group on one partition, in this process: a flat list, as a status page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The stream.
    pub stream: &'static str,
    /// The partition, from 0.
    pub partition: u32,
    /// The group.
    pub group: &'static str,
    /// The group's phase.
    pub phase: Phase,
    /// Its checkpoint, as far as this process knows.
    pub checkpoint: EntryId,
    /// For how long the checkpoint has stood still while an event was unsettled or uncommitted, or while reads failed; otherwise
    /// zero.
    pub checkpoint_age: Duration,
    /// How many entries stand above the checkpoint. The owner knows it from a look at the end of the stream every 5 s, once
    /// somebody has asked for the status. `None` where the count is not known.
    pub lag_entries: Option<u64>,
    /// By how much the newest entry is younger than the event that was begun last, from the same look. Zero when nothing
    /// stands above the checkpoint.
    pub lag: Option<Duration>,
    /// Why a group with `concurrency` takes up no other event, though it could handle more at once. The text names the
    /// entry and its attempts.
    pub blocked_by: Option<String>,
    /// Upper bound on the events that still run charged, because one of them may have ended the process of the previous
    /// owner. It is 0 when the group runs at full speed, or when another process owns the partition.
    pub recovering: u32,
    /// Events that were handled to their end.
    pub handled: u64,
    /// Events that a handler skipped.
    pub skipped: u64,
    /// Events that no consumer of the group takes.
    pub passed_over: u64,
    /// Failed attempts that were tried again.
    pub retried: u64,
    /// Events that went to the dead letters.
    pub dead_lettered: u64,
    /// Events that a group with `dedupe` has passed over, because it had settled one of the same id.
    pub repeated: u64,
    /// Events that a broadcast group has passed over because they failed for good.
    pub failed: u64,
    /// How often history turned out to be cut before the group had read it.
    pub losses: u64,
    /// How many entries were lost by that, as far as they can be counted.
    pub lost: u64,
    /// The last loss.
    pub last_loss: Option<DataLoss>,
}

/// The status of every group of the app.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Why the broker cannot be used at the moment, by any part of the app; tried again until it can.
    pub trouble: Option<String>,
    /// Each group on each partition, sorted.
    pub groups: Vec<GroupStatus>,
}

impl Status {
    /// Whether no group is halted and the server can be used: what a readiness probe asks.
    pub fn is_ready(&self) -> bool {
        self.trouble.is_none() && self.groups.iter().all(|group| group.phase.is_ready())
    }
}

/// The live side of a [`GroupStatus`], written by the group's own task. It is one value, because a status is read from all of it.
pub(crate) struct Progress {
    pub(crate) stream: &'static str,
    pub(crate) group: &'static str,
    pub(crate) key: GroupKey,
    /// Whether every process reads the partition by itself.
    pub(crate) broadcast: bool,
    now: Mutex<Now>,
    /// Whether this process holds the lease.
    owner: AtomicBool,
    /// The entry that was begun last, in two parts, and whether it lies above the checkpoint: written by the group's task.
    begun: (AtomicU64, AtomicU64),
    pending: AtomicBool,
    recovering: AtomicU32,
    tip: Arc<Tip>,
    /// Everything up to here is settled and acknowledged, or does not exist any more.
    reached: Mutex<EntryId>,
    pub(crate) counts: Counts,
    gauges: Gauges,
    losses: Mutex<(u64, u64, Option<DataLoss>)>,
    held_up: Mutex<Option<String>>,
    /// The server did not say that the last commit was done and the lease given back.
    abandoned: AtomicBool,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Now {
    phase: Phase,
    checkpoint: EntryId,
    /// The ordinal of the checkpoint.
    seen: Option<u64>,
    /// Since when something is pending and the checkpoint has not moved.
    standing: Option<Instant>,
    /// Since when the server does not do what the next event needs.
    stuck: Option<Instant>,
}

/// Where a partition was last seen to end; all its groups share it.
#[derive(Debug, Default)]
pub(crate) struct Tip(Mutex<Option<Extent>>);

impl Tip {
    pub(super) fn set(&self, extent: Option<Extent>) {
        *lock(&self.0) = extent;
    }

    fn get(&self) -> Option<Extent> {
        *lock(&self.0)
    }
}

/// Where the partition of a group begins and ends, at a cost that does not depend on its entries.
pub(crate) async fn extent(broker: &dyn Broker, group: &GroupKey) -> Result<Option<Extent>, BrokerError> {
    Ok(broker.snapshot(group, EntryId::MAX, 0).await?.extent)
}

/// How many entries stand above the checkpoint with this ordinal, where that is known.
pub(crate) fn above(end: &Extent, at: EntryId, seen: Option<u64>) -> Option<u64> {
    if end.last <= at {
        return Some(0);
    }
    // Entries that were trimmed unread are no work any more.
    if end.first.is_none_or(|first| first > at) {
        return Some(end.length);
    }
    seen.map(|seen| end.added.saturating_sub(seen).min(end.length))
}

/// Counters of one group on one partition.
pub(crate) struct Counts {
    pub(crate) done: Arc<Counter>,
    pub(crate) skipped: Arc<Counter>,
    pub(crate) passed_over: Arc<Counter>,
    pub(crate) retried: Arc<Counter>,
    pub(crate) dead_lettered: Arc<Counter>,
    pub(crate) failed: Arc<Counter>,
    pub(crate) repeated: Arc<Counter>,
    /// By place in [`Cause::ALL`].
    causes: [Arc<Counter>; Cause::ALL.len()],
    taken: Arc<Counter>,
    lost: Arc<Counter>,
    released: Arc<Counter>,
    pub(crate) handed_over: Arc<Counter>,
    /// By place in [`DataLossKind::ALL`].
    losses: [Arc<Counter>; DataLossKind::ALL.len()],
    lost_entries: Arc<Counter>,
}

/// The figures that are computed when they are read.
struct Gauges {
    lag_entries: Arc<Gauge>,
    lag: Arc<Gauge>,
    checkpoint_age: Arc<Gauge>,
    owner: Arc<Gauge>,
    halted: Arc<Gauge>,
    paused: Arc<Gauge>,
    troubled: Arc<Gauge>,
}

/// Counts so many.
pub(crate) fn count(counter: &Counter, events: u64) {
    counter.add(events);
}

impl Counts {
    fn new(registry: &Registry, [stream, partition, group]: [&str; 3]) -> Self {
        let counter = |name: &str, what: &str| registry.counter(name, &[stream, partition, group, what]);
        let plain = |name: &str| registry.counter(name, &[stream, partition, group]);
        Self {
            done: counter("streams_consumed_total", "done"),
            skipped: counter("streams_consumed_total", "skipped"),
            passed_over: counter("streams_consumed_total", "passed_over"),
            retried: plain("streams_retried_total"),
            dead_lettered: counter("streams_consumed_total", "dead_lettered"),
            failed: counter("streams_consumed_total", "failed"),
            repeated: counter("streams_consumed_total", "repeated"),
            causes: Cause::ALL.map(|cause| counter("streams_dead_lettered_total", cause.as_str())),
            taken: counter("streams_lease_changes_total", "taken"),
            lost: counter("streams_lease_changes_total", "lost"),
            released: counter("streams_lease_changes_total", "released"),
            handed_over: counter("streams_lease_changes_total", "handed_over"),
            losses: DataLossKind::ALL.map(|kind| counter("streams_losses_total", &kind.as_str().replace(' ', "_"))),
            lost_entries: plain("streams_lost_entries_total"),
        }
    }

    /// Counts a dead letter.
    pub(crate) fn dead(&self, cause: Cause) {
        count(&self.dead_lettered, 1);
        count(&self.causes[cause as usize], 1);
    }
}

impl Gauges {
    fn new(registry: &Registry, labels: [&str; 3]) -> Self {
        let gauge = |name: &str| registry.gauge(name, &labels);
        Self {
            lag_entries: gauge("streams_lag_entries"),
            lag: gauge("streams_lag_seconds"),
            checkpoint_age: gauge("streams_checkpoint_age_seconds"),
            owner: gauge("streams_owner"),
            halted: gauge("streams_halted"),
            paused: gauge("streams_paused"),
            troubled: gauge("streams_troubled"),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("key", &self.key).field("now", &self.now).finish_non_exhaustive()
    }
}

impl Progress {
    pub(crate) fn new(
        stream: &'static str,
        group: &'static str,
        key: GroupKey,
        tip: Arc<Tip>,
        registry: &Registry,
        changed: Arc<Notify>,
    ) -> Self {
        let now = Now { phase: Phase::Starting, checkpoint: EntryId::ZERO, seen: None, standing: None, stuck: None };
        let partition = key.partition().index().to_string();
        let labels = [stream, &partition, group];
        Self {
            stream,
            group,
            broadcast: false,
            now: Mutex::new(now),
            owner: AtomicBool::new(false),
            begun: Default::default(),
            pending: AtomicBool::new(false),
            recovering: AtomicU32::new(0),
            tip,
            reached: Mutex::default(),
            counts: Counts::new(registry, labels),
            gauges: Gauges::new(registry, labels),
            key,
            losses: Mutex::default(),
            held_up: Mutex::default(),
            abandoned: AtomicBool::new(false),
            changed,
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        lock(&self.now)
    }

    /// Enters a phase; answers whether it is another one than before.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        let mut now = self.now();
        if now.phase == phase {
            return false;
        }
        now.phase = phase;
        drop(now);
        self.changed.notify_waiters();
        true
    }

    /// The server does not do what the group needs; where it is the next event that needs it, since when.
    pub(crate) fn troubled(&self, reason: String, since: Option<Instant>) {
        if let Some(since) = since {
            self.now().stuck.get_or_insert(since);
        }
        self.enter(Phase::Retrying(reason));
    }

    /// The server does again what the next event needs.
    pub(super) fn moves(&self) {
        self.now().stuck = None;
    }

    pub(crate) fn phase(&self) -> Phase {
        self.now().phase.clone()
    }

    /// The server has acknowledged this checkpoint.
    pub(crate) fn checkpoint(&self, at: EntryId) {
        self.now().checkpoint = at;
        self.reach(at);
    }

    /// The lease is held, from here on.
    pub(crate) fn owned(&self, holding: &Holding) {
        count(&self.counts.taken, 1);
        self.owner.store(true, Ordering::Relaxed);
        self.begin(holding.at);
        self.now().seen = holding.seen;
    }

    /// This process takes part in the work of a shared group.
    pub(crate) fn joined(&self) {
        count(&self.counts.taken, 1);
        self.owner.store(true, Ordering::Relaxed);
    }

    /// Takes up a look at a work queue: everything below its oldest unsettled entry is settled.
    pub(crate) fn queue(&self, state: &QueueState) {
        let settled = state.settled();
        self.checkpoint(settled);
        self.committed(settled, state.cursor.seen.map(|seen| seen.saturating_sub(state.unsettled())));
    }

    /// The lease is held no more: lost, or given back.
    pub(crate) fn disowned(&self, lost: bool) {
        if !self.owner.swap(false, Ordering::Relaxed) {
            return;
        }
        count(if lost { &self.counts.lost } else { &self.counts.released }, 1);
        self.pending.store(false, Ordering::Relaxed);
        self.recovers(0);
        self.now().standing = None;
        self.held_up(None);
    }

    /// Why nothing else is taken up, or that it is.
    pub(crate) fn held_up(&self, reason: Option<String>) {
        *lock(&self.held_up) = reason;
    }

    /// At most so many events are left to recover.
    pub(crate) fn recovers(&self, left: u32) {
        self.recovering.store(left, Ordering::Relaxed);
    }

    pub(crate) fn is_owner(&self) -> bool {
        self.owner.load(Ordering::Relaxed)
    }

    /// Whether this process says how far the group lags: as its owner, or while nobody owns it because it is paused.
    pub(super) fn tells_lag(&self) -> bool {
        self.is_owner() || matches!(self.now().phase, Phase::Paused(_))
    }

    fn begin(&self, id: EntryId) {
        self.begun.0.store(id.ms, Ordering::Relaxed);
        self.begun.1.store(id.seq, Ordering::Relaxed);
    }

    fn begun(&self) -> EntryId {
        EntryId::new(self.begun.0.load(Ordering::Relaxed), self.begun.1.load(Ordering::Relaxed))
    }

    /// This entry begins: it is in flight from now on.
    pub(crate) fn begins(&self, id: EntryId) {
        self.begin(id);
        // The clock is looked at once a commit, not once an event.
        if !self.pending.load(Ordering::Relaxed) {
            self.pending.store(true, Ordering::Relaxed);
            self.now().standing = Some(Instant::now());
        }
    }

    /// The server has acknowledged a commit: the checkpoint is here, its ordinal is this.
    pub(crate) fn committed(&self, at: EntryId, seen: Option<u64>) {
        let pending = self.begun() > at;
        self.pending.store(pending, Ordering::Relaxed);
        let mut now = self.now();
        now.seen = seen.or(if now.checkpoint == at { now.seen } else { None });
        if !pending {
            now.standing = None;
        } else if now.checkpoint < at {
            now.standing = Some(Instant::now());
        }
    }

    /// Nothing is left to do up to here.
    pub(crate) fn reach(&self, position: EntryId) {
        let mut reached = lock(&self.reached);
        if *reached < position {
            *reached = position;
            drop(reached);
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn reached(&self) -> EntryId {
        *lock(&self.reached)
    }

    /// History turned out to be cut.
    pub(crate) fn lost(&self, loss: DataLoss) {
        count(&self.counts.losses[loss.kind as usize], 1);
        self.counts.lost_entries.add(loss.count.unwrap_or_default());
        let mut losses = lock(&self.losses);
        *losses = (losses.0 + 1, losses.1 + loss.count.unwrap_or_default(), Some(loss));
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// The lease is held again, so what was not acknowledged will be handled again.
    pub(crate) fn resume(&self) {
        self.abandoned.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn snapshot(&self) -> GroupStatus {
        let tip = self.tip.get().filter(|_| self.tells_lag());
        let now = self.now();
        let (lag_entries, lag) = match tip {
            None => (None, None),
            Some(tip) if tip.last <= now.checkpoint => (Some(0), Some(Duration::ZERO)),
            Some(tip) => {
                let at = self.begun().max(now.checkpoint);
                let lag = Duration::from_millis(tip.last.ms.saturating_sub(at.ms));
                (above(&tip, now.checkpoint, now.seen), Some(lag))
            }
        };
        let (phase, checkpoint) = (now.phase.clone(), now.checkpoint);
        let since = [now.standing, now.stuck].into_iter().flatten().min();
        let checkpoint_age = since.map_or(Duration::ZERO, |since| since.elapsed());
        drop(now);
        let (losses, lost, last_loss) = lock(&self.losses).clone();
        GroupStatus {
            stream: self.stream,
            partition: self.key.partition().index(),
            group: self.group,
            phase,
            checkpoint,
            checkpoint_age,
            lag_entries,
            lag,
            blocked_by: lock(&self.held_up).clone(),
            recovering: self.recovering.load(Ordering::Relaxed),
            handled: self.counts.done.get(),
            skipped: self.counts.skipped.get(),
            passed_over: self.counts.passed_over.get(),
            retried: self.counts.retried.get(),
            dead_lettered: self.counts.dead_lettered.get(),
            failed: self.counts.failed.get(),
            repeated: self.counts.repeated.get(),
            losses,
            lost,
            last_loss,
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn gauge(&self) {
        let status = self.snapshot();
        let flag = |set: bool| Some(f64::from(u8::from(set)));
        self.gauges.lag_entries.set(status.lag_entries.map(|entries| entries as f64));
        self.gauges.lag.set(status.lag.map(|lag| lag.as_secs_f64()));
        self.gauges.checkpoint_age.set(Some(status.checkpoint_age.as_secs_f64()));
        self.gauges.owner.set(flag(self.is_owner()));
        self.gauges.halted.set(flag(matches!(status.phase, Phase::Halted(_))));
        self.gauges.paused.set(flag(matches!(status.phase, Phase::Paused(_))));
        self.gauges.troubled.set(flag(matches!(status.phase, Phase::Retrying(_))));
    }
}
