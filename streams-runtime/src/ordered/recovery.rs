//! The recovery after an owner that never gave its lease back: one of its unsettled events may have ended its process.
//!
//! [`commit`](super::commit) charges each on the server before it runs, so that the next end of a process is put down to
//! those that ran. [`attempt`](super::attempt) charges one at a time, [`advance`](super::advance) as many as run side by
//! side. Pure, except for the log.

use std::collections::{BTreeMap, BTreeSet};

use streams_core::broker::{self, Holding, LeaseView, RecoveryStep};
use streams_core::{Checkpoint, EntryId};

use crate::group::{Bounds, GroupTask, News, Policy, Standing, standing};

/// How many events an owner has in flight at most, those that are settled and not committed included: its successor has to
/// recover as many.
pub(super) fn bound<'a>(checkpoint: Checkpoint, lanes: Bounds, policies: impl IntoIterator<Item = &'a Policy>) -> u32 {
    let batches = policies.into_iter().filter_map(|policy| policy.batch).map(|limits| limits.events);
    // A batch that is larger than a commit starts where nothing runs beyond the checkpoint.
    let in_order = batches.fold(checkpoint.events, u32::max);
    if lanes.running == 1 {
        return in_order;
    }
    in_order.saturating_add(u32::try_from(lanes.entries).unwrap_or(u32::MAX))
}

/// The events that an owner has still to recover.
#[derive(Debug)]
pub(super) struct Recovery {
    left: u32,
    /// The newest entry that an earlier owner may have had in flight.
    to: EntryId,
    /// The events that run, or are to run when the server knows.
    charged: BTreeSet<EntryId>,
    /// The charges in the last commit that was sent, and in the last one that is done.
    sent: BTreeSet<EntryId>,
    known: BTreeSet<EntryId>,
    /// How many owners were gone while they were charged with an event.
    crashes: BTreeMap<EntryId, u32>,
    forget: Vec<EntryId>,
    /// Whether something changed that the server does not know yet.
    changed: bool,
}

impl Recovery {
    /// The recovery that this owner has to make, if any.
    pub(super) fn of(holding: &Holding) -> Option<Self> {
        let broker::Recovery { left, to } = holding.recovery?;
        Some(Self {
            left,
            to,
            charged: BTreeSet::new(),
            sent: BTreeSet::new(),
            known: BTreeSet::new(),
            crashes: holding.crashes.iter().copied().collect(),
            forget: Vec::new(),
            changed: false,
        })
    }

    /// Whether an event that is not settled is under recovery: it must not run before it is charged.
    ///
    /// Events above the newest of them run at full speed. When this owner is gone in turn, its successor recovers those as well,
    /// by this owner's own bound.
    pub(super) fn covers(&self, id: EntryId) -> bool {
        self.left > 0 && id <= self.to
    }

    /// Nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// How many processes the event has taken down, as far as it is known.
    pub(super) fn crashes(&self, id: EntryId) -> u32 {
        self.crashes.get(&id).copied().unwrap_or(0)
    }

    /// Whether nothing else of the partition, and no other suspect of the process, may run beside the event. The server counts
    /// only the crashes at which the event was charged.
    pub(super) fn runs_alone(&self, id: EntryId, max_crashes: u32) -> bool {
        standing(self.crashes(id), max_crashes) != Standing::Beside
    }

    /// Charges an event, which runs when the server knows.
    pub(super) fn charge(&mut self, id: EntryId) {
        self.charged.insert(id);
        self.changed = true;
    }

    /// Whether the server knows that the event runs, and will go on to know it whatever is on its way.
    pub(super) fn is_charged(&self, id: EntryId) -> bool {
        [&self.charged, &self.sent, &self.known].into_iter().all(|ids| ids.contains(&id))
    }

    /// The event's run has come back, with whatever result, or does not begin after all: it has not ended the process.
    /// Returns whether the server is to hear of it.
    pub(super) fn came_back(&mut self, id: EntryId) -> bool {
        let was_charged = self.charged.remove(&id);
        self.changed |= was_charged;
        was_charged
    }

    /// Whether the server holds anything charged, as far as it is known, or is about to.
    pub(super) fn has_charges(&self) -> bool {
        ![&self.charged, &self.sent, &self.known].into_iter().all(BTreeSet::is_empty)
    }

    /// An entry is settled, as the next one in order. An entry that no consumer takes has ended no process and does not count.
    pub(super) fn settled(&mut self, id: EntryId, is_event: bool) {
        if self.crashes.remove(&id).is_some() {
            self.forget.push(id);
            self.changed = true;
        }
        if is_event {
            self.left = self.left.saturating_sub(1);
            self.changed = true;
        }
        if id >= self.to && self.left > 0 {
            self.left = 0;
            self.changed = true;
        }
    }

    /// The part of the recovery that the next commit carries.
    pub(super) fn take(&mut self) -> Option<RecoveryStep> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.sent = if self.left > 0 { self.charged.clone() } else { BTreeSet::new() };
        Some(RecoveryStep {
            charged: self.sent.iter().copied().collect(),
            left: self.left,
            forget: std::mem::take(&mut self.forget),
        })
    }

    /// The commit that was taken last is done.
    pub(super) fn acknowledged(&mut self) {
        self.known.clone_from(&self.sent);
    }
}

/// Logs the recovery that begins with a lease that was just taken.
pub(super) fn log_recovery(task: &GroupTask, holding: &Holding, seen: &LeaseView, own: bool) {
    let left = holding.recovery.map_or(0, |recovery| recovery.left);
    task.progress.recovers(left);
    let Some(broker::Recovery { left, to }) = holding.recovery else { return };
    let (group, partition, owner) = (task.key.group(), task.key.partition().as_str(), seen.owner.as_str());
    if own {
        tracing::debug!(group, partition, events = left, %to, "resuming a recovery of this process");
    } else if owner.is_empty() {
        tracing::info!(group, partition, events = left, %to, "resuming a recovery begun by an earlier owner");
    } else {
        tracing::warn!(
            group,
            partition,
            owner,
            after = %holding.at,
            events = left,
            %to,
            "the owner before was gone without giving its lease back: it was killed or cut off, or an event ended its process; each of at most so many events is charged before it runs, then the group goes on at full speed"
        );
        for (entry, crashes) in &holding.crashes {
            tracing::warn!(group, partition, %entry, crashes, "a process ended, or lost its lease, while it handled this event");
        }
    }
}

/// Takes note of what the server has acknowledged of a recovery.
pub(super) fn log_recovered(task: &GroupTask, step: &RecoveryStep) {
    task.progress.recovers(step.left);
    if step.left == 0 {
        tracing::debug!(group = task.key.group(), partition = task.key.partition().as_str(), "the recovery is over");
        task.log_news(News::Recovered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Limits;
    use std::time::Duration;
    use streams_core::Backoff;

    fn id(seq: u64) -> EntryId {
        EntryId::new(7, seq)
    }

    fn recovery(left: u32, to: u64, crashes: &[(u64, u32)]) -> Recovery {
        let holding = Holding {
            epoch: 1,
            at: EntryId::ZERO,
            at_event: String::new(),
            seen: None,
            attempts: Vec::new(),
            events: broker::Events::new(),
            recovery: Some(broker::Recovery { left, to: id(to) }),
            crashes: crashes.iter().map(|(seq, count)| (id(*seq), *count)).collect(),
        };
        Recovery::of(&holding).unwrap()
    }

    fn recovery_step(charged: &[u64], left: u32, forget: &[u64]) -> Option<RecoveryStep> {
        let ids = |seqs: &[u64]| seqs.iter().copied().map(id).collect();
        Some(RecoveryStep { charged: ids(charged), left, forget: ids(forget) })
    }

    /// A commit that says this is sent and done.
    fn commit(recovery: &mut Recovery, charged: &[u64], left: u32) {
        assert_eq!(recovery.take(), recovery_step(charged, left, &[]));
        recovery.acknowledged();
    }

    #[test]
    fn one_commit_passes_an_event_and_charges_the_next() {
        let mut recovery = recovery(2, 9, &[]);
        assert_eq!(recovery.take(), None);
        assert!(recovery.covers(id(1)));
        recovery.charge(id(1));
        commit(&mut recovery, &[1], 2);
        assert_eq!(recovery.take(), None, "said once");
        recovery.came_back(id(1));
        recovery.settled(id(1), true);
        assert!(recovery.covers(id(2)));
        recovery.charge(id(2));
        commit(&mut recovery, &[2], 1);
        recovery.came_back(id(2));
        recovery.settled(id(2), true);
        assert!(recovery.is_over() && !recovery.covers(id(3)));
        assert_eq!(recovery.take(), recovery_step(&[], 0, &[]));
    }

    #[test]
    fn several_are_charged_at_once_and_come_back_one_by_one() {
        let mut recovery = recovery(9, 9, &[]);
        for seq in [1, 2, 3] {
            recovery.charge(id(seq));
        }
        commit(&mut recovery, &[1, 2, 3], 9);
        recovery.came_back(id(2));
        recovery.charge(id(4));
        commit(&mut recovery, &[1, 3, 4], 9);
        assert!(recovery.is_charged(id(1)) && recovery.is_charged(id(4)) && !recovery.is_charged(id(2)));
        for seq in [1, 3, 4] {
            recovery.came_back(id(seq));
        }
        recovery.came_back(id(7));
        assert!(recovery.has_charges(), "the server does not know");
        commit(&mut recovery, &[], 9);
        assert!(!recovery.has_charges());
    }

    #[test]
    fn an_event_is_charged_when_that_is_acknowledged_and_nothing_on_its_way_says_otherwise() {
        let mut recovery = recovery(9, 9, &[]);
        recovery.charge(id(1));
        assert!(!recovery.is_charged(id(1)));
        assert_eq!(recovery.take(), recovery_step(&[1], 9, &[]));
        assert!(!recovery.is_charged(id(1)), "the commit is on its way");
        recovery.acknowledged();
        assert!(recovery.is_charged(id(1)));
        // It comes back, and runs again before the server has heard of it.
        recovery.came_back(id(1));
        assert_eq!(recovery.take(), recovery_step(&[], 9, &[]));
        recovery.charge(id(1));
        assert!(!recovery.is_charged(id(1)), "the commit on its way takes the charge off");
        recovery.acknowledged();
        commit(&mut recovery, &[1], 9);
        assert!(recovery.is_charged(id(1)));
    }

    #[test]
    fn a_charge_is_taken_off_when_the_run_came_back_whatever_came_of_it() {
        let mut recovery = recovery(2, 9, &[(1, 1)]);
        recovery.charge(id(1));
        commit(&mut recovery, &[1], 2);
        recovery.came_back(id(1));
        assert_eq!(recovery.take(), recovery_step(&[], 2, &[]), "the event is still to be recovered");
        assert_eq!(recovery.crashes(id(1)), 1, "what was counted before stays");
    }

    #[test]
    fn what_no_consumer_takes_does_not_count_and_what_came_later_is_not_recovered() {
        let mut recovery = recovery(3, 4, &[]);
        recovery.settled(id(1), false);
        recovery.settled(id(2), true);
        assert_eq!(recovery.left, 2);
        recovery.settled(id(3), false);
        assert!(recovery.covers(id(4)) && !recovery.covers(id(5)));
        assert!(!recovery.is_over(), "what lies above does not wait for what lies below");
        assert_eq!(recovery.take(), recovery_step(&[], 2, &[]));
        recovery.settled(id(5), true);
        assert_eq!(recovery.take(), recovery_step(&[], 0, &[]));
    }

    #[test]
    fn it_is_over_with_the_last_entry_whoever_takes_it() {
        for is_event in [true, false] {
            let mut recovery = recovery(1_000, 4, &[]);
            recovery.settled(id(3), true);
            assert!(!recovery.is_over());
            recovery.settled(id(4), is_event);
            assert!(recovery.is_over());
        }
    }

    #[test]
    fn crashes_are_forgotten_with_their_event() {
        let mut recovery = recovery(3, 9, &[(1, 2)]);
        assert_eq!((recovery.crashes(id(1)), recovery.crashes(id(2))), (2, 0));
        recovery.settled(id(1), true);
        recovery.charge(id(2));
        assert_eq!(recovery.take(), recovery_step(&[2], 2, &[1]));
        assert_eq!(recovery.crashes(id(1)), 0);
    }

    #[test]
    fn who_was_there_before_or_has_one_crash_to_spare_runs_alone() {
        let recovery = recovery(3, 9, &[(1, 1)]);
        assert!(recovery.runs_alone(id(1), 3) && !recovery.runs_alone(id(2), 3));
        assert!(recovery.runs_alone(id(2), 1));
        assert!(!recovery.runs_alone(id(2), 2));
    }

    #[test]
    fn the_bound_is_a_commit_or_a_batch_whichever_is_larger() {
        let checkpoint = Checkpoint { events: 100, interval: Duration::ZERO };
        let policy = |batch: Option<u32>| Policy {
            max_attempts: 1,
            max_crashes: 1,
            backoff: Backoff { first: Duration::ZERO, max: Duration::ZERO },
            timeout: Duration::ZERO,
            batch: batch.map(|events| Limits { events, wait: Duration::ZERO }),
        };
        let lanes = |running| Bounds { running, entries: 1_000, bytes: 1 };
        assert_eq!(bound(checkpoint, lanes(1), [&policy(None), &policy(Some(50))]), 100);
        assert_eq!(bound(checkpoint, lanes(1), [&policy(Some(500)), &policy(None)]), 500);
        assert_eq!(bound(checkpoint, lanes(2), [&policy(None)]), 1_100);
    }
}
