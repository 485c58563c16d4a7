//! When a group commits and how far it may run ahead; pure rules that `commit` carries out.

use std::collections::BTreeMap;
use std::time::Duration;

use streams_core::broker::{AttemptError, Commit, DeadBounds, Fields, Holder, Remember};
use streams_core::{Checkpoint, EntryId};
use tokio::time::Instant;

use crate::clock::after;
use crate::group::Dedupe;
use crate::reader::Bookmark;

/// How often the position is shown in the server's own group, for operators' tools.
const MIRROR_EVERY: Duration = Duration::from_secs(1);

/// The settled events of a group that the server has not acknowledged.
///
/// Commits start at half of the bound, so that the next events run while one is on its way. Events stop at the whole of it. Its
/// nineteen fields are the next commit and the rules of when it is due; no part of them has a rule of its own.
#[derive(Debug)]
pub(super) struct Ledger {
    policy: Checkpoint,
    dead_bounds: DeadBounds,
    /// The acknowledged checkpoint.
    at: EntryId,
    /// The last settled entry; equal to `at` when there is nothing to commit.
    settled: EntryId,
    settled_event: String,
    seen: Option<u64>,
    /// Settled events that no commit has taken yet, and those in the commit on its way.
    waiting: u32,
    flying: u32,
    waiting_since: Option<Instant>,
    /// The attempts above `at` that the server knows, or is to know.
    recorded: BTreeMap<EntryId, u32>,
    attempts: Vec<(EntryId, u32)>,
    /// The error of the latest of these.
    error: Option<AttemptError>,
    forget: Vec<EntryId>,
    dead: Vec<Fields>,
    /// The ids of settled events, where the group remembers them.
    remember: Option<Remember>,
    /// Whether the next commit must not wait for the interval.
    urgent: bool,
    mirrored: Option<Instant>,
    /// Whether a commit has passed since the position was last shown.
    behind_mirror: bool,
    /// How many commits were taken.
    calls: u64,
}

impl Ledger {
    pub(super) fn new(
        policy: Checkpoint,
        dead_bounds: DeadBounds,
        at: EntryId,
        seen: Option<u64>,
        attempts: Vec<(EntryId, u32)>,
    ) -> Self {
        Self {
            policy,
            dead_bounds,
            at,
            settled: at,
            settled_event: String::new(),
            seen,
            waiting: 0,
            flying: 0,
            waiting_since: None,
            recorded: attempts.into_iter().collect(),
            attempts: Vec::new(),
            error: None,
            forget: Vec::new(),
            dead: Vec::new(),
            remember: None,
            urgent: false,
            mirrored: None,
            behind_mirror: false,
            calls: 0,
        }
    }

    /// Remembers the ids of settled events for so long, and so many.
    pub(super) fn remembering(mut self, dedupe: Option<Dedupe>) -> Self {
        self.remember = dedupe.map(|Dedupe { within, most }| Remember { ids: Vec::new(), within, most });
        self
    }

    /// A consumer has settled the event of this id.
    pub(super) fn remember(&mut self, event_id: &str) {
        if let Some(remember) = self.remember.as_mut().filter(|_| !event_id.is_empty()) {
            remember.ids.push(event_id.to_owned());
        }
    }

    /// The acknowledged checkpoint.
    pub(super) fn at(&self) -> EntryId {
        self.at
    }

    /// How far the group has come, as a place in history that can be found again.
    pub(super) fn bookmark(&self) -> Bookmark {
        Bookmark::new(self.settled, &self.settled_event, self.seen)
    }

    /// Whether so many events may start. A crash repeats them, and all between them and the checkpoint.
    ///
    /// A batch that is larger than the bound starts where nothing is between.
    pub(super) fn has_room(&self, events: u32) -> bool {
        let ahead = self.waiting + self.flying;
        ahead == 0 || ahead.saturating_add(events) <= self.policy.events
    }

    /// Failed attempts of an event, those before a restart included.
    pub(super) fn failed_attempts(&self, id: EntryId) -> u32 {
        self.recorded.get(&id).copied().unwrap_or(0)
    }

    /// An attempt failed. A commit records it before the next attempt, so that a restart does not count anew.
    pub(super) fn attempt_failed(&mut self, id: EntryId, attempts: u32, reason: &str) {
        self.recorded.insert(id, attempts);
        self.attempts.retain(|(other, _)| *other != id);
        self.attempts.push((id, attempts));
        self.error = Some(AttemptError::new(id, attempts, reason));
        self.urgent = true;
    }

    /// An event is settled; a dead letter goes out with the commit that passes it.
    pub(super) fn settle(&mut self, id: EntryId, event_id: &str, dead: Option<Fields>, now: Instant) {
        debug_assert!(id > self.settled, "{id} is settled after {}", self.settled);
        self.settled = id;
        self.settled_event.clear();
        self.settled_event.push_str(event_id);
        self.seen = self.seen.map(|seen| seen + 1);
        self.waiting += 1;
        self.waiting_since.get_or_insert(now);
        if self.recorded.remove(&id).is_some() {
            self.attempts.retain(|(other, _)| *other != id);
            self.forget.push(id);
        }
        if let Some(dead) = dead {
            self.dead.push(dead);
            self.urgent = true;
        }
    }

    /// Sets the ordinal of the settled entries, as the reader counts it. It grows with reported losses, too, and a commit records
    /// it, so that no loss is reported again.
    pub(super) fn anchor(&mut self, seen: u64) {
        if self.seen != Some(seen) {
            self.seen = Some(seen);
            self.urgent = true;
        }
    }

    /// Makes a commit due now.
    pub(super) fn hurry(&mut self) {
        self.urgent = true;
    }

    /// When the next commit is due; `None` when there is nothing to commit or one is on its way.
    pub(super) fn due_at(&self) -> Option<Due> {
        if self.flying > 0 {
            return None;
        }
        if self.urgent || (self.waiting > 0 && self.waiting >= self.policy.events.div_ceil(2)) {
            return Some(Due::Now);
        }
        match (self.waiting_since, self.mirrored) {
            (Some(since), _) => Some(Due::At(after(since, self.policy.interval))),
            // A group that went idle must not look behind for ever in an operator's tools.
            (None, Some(mirrored)) if self.behind_mirror => Some(Due::At(mirrored + MIRROR_EVERY)),
            (None, _) => None,
        }
    }

    /// Whether a commit should start at this moment.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.due_at() {
            Some(Due::Now) => true,
            Some(Due::At(at)) => at <= now,
            None => false,
        }
    }

    /// Whether everything settled is acknowledged and every failed attempt recorded.
    pub(super) fn is_clean(&self) -> bool {
        self.flying == 0 && self.waiting == 0 && !self.urgent
    }

    /// Takes what is to be committed; until [`Self::acknowledged`] no other commit starts.
    pub(super) fn take(&mut self, holder: &Holder, now: Instant) -> Commit {
        let mirror = self.mirrored.is_none_or(|mirrored| now.duration_since(mirrored) >= MIRROR_EVERY);
        if mirror {
            self.mirrored = Some(now);
        }
        self.behind_mirror = !mirror;
        // A commit of attempts alone is on its way, too: `flying` counts at least one.
        self.flying = self.waiting.max(1);
        self.waiting = 0;
        self.waiting_since = None;
        self.urgent = false;
        self.calls += 1;
        Commit {
            holder: holder.clone(),
            call: self.calls,
            prev: self.at,
            next: self.settled,
            next_event: self.settled_event.clone(),
            seen: self.seen,
            attempts: std::mem::take(&mut self.attempts),
            error: self.error.take(),
            forget: std::mem::take(&mut self.forget),
            mirror,
            dead: std::mem::take(&mut self.dead),
            dead_bounds: self.dead_bounds,
            passed_over: Vec::new(),
            recovery: None,
            remember: self.remember.as_mut().filter(|remember| !remember.ids.is_empty()).map(|remember| {
                let ids = std::mem::take(&mut remember.ids);
                Remember { ids, ..*remember }
            }),
        }
    }

    /// The server has acknowledged the commit that was taken.
    pub(super) fn acknowledged(&mut self, commit: &Commit) {
        self.at = commit.next;
        self.flying = 0;
    }
}

/// When a commit is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(events: u32) -> (Ledger, Holder, Instant) {
        let policy = Checkpoint { events, interval: Duration::from_millis(100) };
        let bounds = DeadBounds { count: 10, age: Duration::from_secs(60) };
        let holder = Holder { owner: "me".to_owned(), epoch: 1 };
        (Ledger::new(policy, bounds, EntryId::new(5, 0), Some(2), vec![]), holder, Instant::now())
    }

    #[test]
    fn no_more_than_one_batch_runs_beyond_the_acknowledged_checkpoint() {
        let (mut ledger, holder, now) = ledger(4);
        for seq in 1..=2 {
            assert!(ledger.has_room(1));
            ledger.settle(EntryId::new(5, seq), "e", None, now);
        }
        // Half of the batch is due, and the other half may run meanwhile.
        assert_eq!(ledger.due_at(), Some(Due::Now));
        let commit = ledger.take(&holder, now);
        assert_eq!((commit.prev, commit.next, commit.seen), (EntryId::new(5, 0), EntryId::new(5, 2), Some(4)));
        for seq in 3..=4 {
            assert!(ledger.has_room(1));
            ledger.settle(EntryId::new(5, seq), "e", None, now);
        }
        assert!(!ledger.has_room(1), "a crash now would repeat four events");
        assert_eq!(ledger.due_at(), None, "one commit at a time");
        ledger.acknowledged(&commit);
        assert!(ledger.has_room(1));
        assert_eq!(ledger.at(), EntryId::new(5, 2));
        assert!(ledger.is_due(now));
    }

    #[test]
    fn each_waits_for_its_own_commit() {
        let (mut ledger, holder, now) = ledger(1);
        ledger.settle(EntryId::new(6, 0), "e", None, now);
        assert!(!ledger.has_room(1));
        assert_eq!(ledger.due_at(), Some(Due::Now));
        let commit = ledger.take(&holder, now);
        assert!(!ledger.has_room(1));
        ledger.acknowledged(&commit);
        assert!(ledger.has_room(1) && ledger.is_clean());
    }

    #[test]
    fn a_batch_starts_where_all_of_it_fits_or_where_it_is_alone() {
        let (mut ledger, holder, now) = ledger(4);
        assert!(ledger.has_room(4) && ledger.has_room(9), "nothing runs beyond the checkpoint");
        ledger.settle(EntryId::new(6, 0), "e", None, now);
        assert!(ledger.has_room(3) && !ledger.has_room(4));
        let commit = ledger.take(&holder, now);
        assert!(!ledger.has_room(4), "a commit on its way may not arrive");
        ledger.acknowledged(&commit);
        assert!(ledger.has_room(9));
    }

    #[test]
    fn a_lone_event_waits_for_the_interval() {
        let (mut ledger, _, now) = ledger(100);
        assert_eq!(ledger.due_at(), None);
        ledger.settle(EntryId::new(6, 0), "e", None, now);
        assert_eq!(ledger.due_at(), Some(Due::At(now + Duration::from_millis(100))));
        assert!(!ledger.is_due(now));
        assert!(ledger.is_due(now + Duration::from_millis(100)));
    }

    #[test]
    fn an_idle_group_shows_its_last_position_once() {
        let (mut ledger, holder, now) = ledger(100);
        for (seq, mirrored) in [(1, true), (2, false)] {
            ledger.settle(EntryId::new(6, seq), "e", None, now);
            let commit = ledger.take(&holder, now);
            assert_eq!(commit.mirror, mirrored);
            ledger.acknowledged(&commit);
        }
        let later = now + MIRROR_EVERY;
        assert_eq!(ledger.due_at(), Some(Due::At(later)));
        let commit = ledger.take(&holder, later);
        assert!(commit.mirror && commit.prev == commit.next);
        ledger.acknowledged(&commit);
        assert_eq!(ledger.due_at(), None);
    }

    #[test]
    fn failed_attempts_are_recorded_at_once_and_forgotten_when_settled() {
        let (mut ledger, holder, now) = ledger(100);
        let id = EntryId::new(6, 0);
        ledger.attempt_failed(id, 1, "down");
        assert_eq!(ledger.due_at(), Some(Due::Now));
        let commit = ledger.take(&holder, now);
        assert_eq!((commit.prev, commit.next), (EntryId::new(5, 0), EntryId::new(5, 0)));
        assert_eq!(
            (commit.attempts.as_slice(), &commit.error),
            (&[(id, 1)][..], &Some(AttemptError::new(id, 1, "down")))
        );
        ledger.acknowledged(&commit);
        assert_eq!(ledger.failed_attempts(id), 1);
        ledger.settle(id, "e", None, now);
        assert_eq!(ledger.failed_attempts(id), 0);
        assert_eq!(ledger.take(&holder, now).forget, [id]);
    }

    #[test]
    fn an_ordinal_that_jumps_is_committed_although_the_checkpoint_stays() {
        let (mut ledger, holder, now) = ledger(100);
        ledger.anchor(2);
        assert_eq!(ledger.due_at(), None);
        ledger.anchor(9);
        assert_eq!(ledger.due_at(), Some(Due::Now));
        let commit = ledger.take(&holder, now);
        assert_eq!((commit.prev, commit.next, commit.seen), (EntryId::new(5, 0), EntryId::new(5, 0), Some(9)));
    }

    #[test]
    fn a_dead_letter_leaves_with_the_commit_that_passes_it() {
        let (mut ledger, holder, now) = ledger(100);
        ledger.settle(EntryId::new(6, 0), "e", Some(vec![(b"reason".to_vec(), b"no".to_vec())]), now);
        assert_eq!(ledger.due_at(), Some(Due::Now));
        let commit = ledger.take(&holder, now);
        assert_eq!((commit.next, commit.dead.len()), (EntryId::new(6, 0), 1));
    }
}
