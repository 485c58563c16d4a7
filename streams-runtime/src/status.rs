//! What every group is doing, for health checks, for `caught_up` and for people.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use streams_core::EntryId;
use streams_core::keys::GroupKey;
use tokio::sync::Notify;

use crate::loss::DataLoss;

/// What a group is doing on one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Not yet known.
    Starting,
    /// Another process owns the partition; this one takes over when it stops.
    StandingBy {
        /// The owner's token.
        owner: String,
    },
    /// This process reads and handles.
    Owning {
        /// Which holding of the lease it is.
        epoch: u64,
    },
    /// The server cannot be used at the moment; tried again until it can.
    Troubled {
        /// What it said.
        reason: String,
    },
    /// Nothing is handled until somebody does something.
    Halted {
        /// What, and why.
        reason: String,
    },
    /// The app has stopped.
    Stopped,
}

/// What a group has done on one partition, in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The stream.
    pub stream: &'static str,
    /// The partition, from 0.
    pub partition: u32,
    /// The group.
    pub group: &'static str,
    /// What it is doing.
    pub phase: Phase,
    /// Its checkpoint, as far as this process knows.
    pub checkpoint: EntryId,
    /// Events that were handled to their end.
    pub done: u64,
    /// Events that a handler skipped.
    pub skipped: u64,
    /// Events that no consumer of the group takes.
    pub passed_over: u64,
    /// Failed attempts that were tried again.
    pub retried: u64,
    /// Events that went to the dead letters.
    pub dead_lettered: u64,
    /// How often history turned out to be cut before the group had read it.
    pub losses: u64,
    /// How many entries were lost by that, as far as they can be counted.
    pub lost: u64,
    /// What was lost the last time.
    pub last_loss: Option<DataLoss>,
}

/// What every group of the app is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Each group on each partition, sorted.
    pub groups: Vec<GroupStatus>,
}

impl Status {
    /// Whether no group is halted or cut off from the server: what a readiness probe asks.
    pub fn is_ready(&self) -> bool {
        self.groups.iter().all(|group| matches!(group.phase, Phase::Owning { .. } | Phase::StandingBy { .. }))
    }
}

/// The live side of a [`GroupStatus`], written by the group's own task.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) stream: &'static str,
    pub(crate) group: &'static str,
    pub(crate) key: GroupKey,
    phase: Mutex<(Phase, EntryId)>,
    /// Everything up to here is settled and acknowledged, or does not exist any more.
    reached: Mutex<EntryId>,
    pub(crate) counts: Counts,
    losses: Mutex<(u64, u64, Option<DataLoss>)>,
    /// The server did not say that the last commit was done and the lease given back.
    abandoned: AtomicBool,
    changed: Arc<Notify>,
}

/// Counters of one group on one partition.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) done: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) passed_over: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
}

/// Counts so many.
pub(crate) fn count(counter: &AtomicU64, events: u64) {
    counter.fetch_add(events, Ordering::Relaxed);
}

impl Progress {
    pub(crate) fn new(stream: &'static str, group: &'static str, key: GroupKey, changed: Arc<Notify>) -> Self {
        let phase = Mutex::new((Phase::Starting, EntryId::ZERO));
        Self {
            stream,
            group,
            key,
            phase,
            reached: Mutex::default(),
            counts: Counts::default(),
            losses: Mutex::default(),
            abandoned: AtomicBool::new(false),
            changed,
        }
    }

    /// Enters a phase; answers whether it is another one than before.
    pub(crate) fn enter(&self, phase: Phase) -> bool {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 == phase {
            return false;
        }
        now.0 = phase;
        drop(now);
        self.changed.notify_waiters();
        true
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The server has acknowledged this checkpoint.
    pub(crate) fn checkpoint(&self, at: EntryId) {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).1 = at;
        self.reach(at);
    }

    /// Nothing is left to do up to here.
    pub(crate) fn reach(&self, position: EntryId) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if *reached < position {
            *reached = position;
            drop(reached);
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn reached(&self) -> EntryId {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// History turned out to be cut.
    pub(crate) fn lost(&self, loss: DataLoss) {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        *losses = (losses.0 + 1, losses.1 + loss.count.unwrap_or_default(), Some(loss));
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(crate) fn snapshot(&self) -> GroupStatus {
        let (phase, checkpoint) = self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (losses, lost, last_loss) = self.losses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GroupStatus {
            stream: self.stream,
            partition: self.key.partition().index(),
            group: self.group,
            phase,
            checkpoint,
            done: read(&self.counts.done),
            skipped: read(&self.counts.skipped),
            passed_over: read(&self.counts.passed_over),
            retried: read(&self.counts.retried),
            dead_lettered: read(&self.counts.dead_lettered),
            losses,
            lost,
            last_loss,
        }
    }
}
