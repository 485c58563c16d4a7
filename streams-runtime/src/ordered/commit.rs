//! The commits of an owner: at most one is on its way, and it is sent until the server answers.
//!
//! [`ledger`](super::ledger) decides when one is due.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{BrokerError, Commit, Committed, Fields, Holding, Need};
use tokio::time::{Instant, Sleep};

use super::give_way::PassedOver;
use super::ledger::{Due, Ledger};
use super::recovery::{Recovery, log_recovered};
use crate::clock::after;
use crate::group::{Ended, GroupTask, Halt, Policy, Resend, SuspectPermit};
use crate::membership::Lease;
use crate::ops::{Matter, Phase, SILENCE, count};

/// How long an event under recovery that came back waits for a commit, whatever `checkpoint` says. Its charge must not outlive
/// its run for long, and the next event may be far away.
const CHARGE_INTERVAL: Duration = Duration::from_millis(10);

/// Sends the commits that are due by the [`Ledger`], at most one at a time.
pub(super) struct Committer<'a> {
    task: &'a GroupTask,
    lease: &'a Lease,
    pub(super) ledger: Ledger,
    /// The events that an earlier owner may have had in flight; `None` at full speed.
    recovery: Option<Recovery>,
    /// By when the server is to hear what has changed in the recovery.
    recovery_due: Option<Instant>,
    flying: Option<Resend<Commit, Committed>>,
    /// Runs until the next commit is due, or until the one on its way has had no answer for too long. It is kept, because a
    /// timer for each wait would cost more than the wait.
    timer: Pin<Box<Sleep>>,
    passed_over: PassedOver,
    /// An ignored event that another build has declared meanwhile: nothing is committed any more.
    needs: Option<Need>,
    /// Why the server refuses commits: no other is sent.
    refused: Option<Halt>,
    /// The moment when the last handler began, from which its event waits for its commit: what took long is committed at once.
    pub(super) now: Instant,
}

/// An entry that is settled.
pub(super) struct End<'e> {
    pub(super) id: EntryId,
    pub(super) event_id: &'e str,
    /// Whether a consumer of the group takes it.
    pub(super) is_event: bool,
    /// Name and version of the event, where no consumer of the group takes it.
    pub(super) passed_over: Option<(&'e str, u32)>,
}

impl<'a> Committer<'a> {
    pub(super) fn new(task: &'a GroupTask, lease: &'a Lease, holding: &Holding) -> Self {
        let ledger = Ledger::new(
            task.options.checkpoint,
            task.options.dead_bounds,
            holding.at,
            holding.seen,
            holding.attempts.clone(),
        )
        .remembering(task.options.dedupe);
        let (passed_over, needs, recovery) = (PassedOver::default(), None, Recovery::of(holding));
        Self {
            task,
            lease,
            ledger,
            recovery,
            recovery_due: None,
            flying: None,
            timer: Box::pin(tokio::time::sleep(SILENCE)),
            passed_over,
            needs,
            refused: None,
            now: Instant::now(),
        }
    }

    /// Takes note of settled entries: one, or all of a batch, which no commit splits. The letter of a dead event goes out with
    /// the commit that passes the event. A commit starts when one is due.
    pub(super) fn settle<'e>(&mut self, ends: impl IntoIterator<Item = End<'e>>, mut letter: Option<Fields>) {
        for End { id, event_id, is_event, passed_over } in ends {
            if let Some((name, version)) = passed_over {
                self.passed_over.note(&self.task.handlers.build, id, name, version);
            }
            self.ledger.settle(id, event_id, letter.take(), self.now);
            if is_event {
                self.ledger.remember(event_id);
            }
            self.recovered(id, is_event);
        }
        self.start_if_due();
    }

    fn recovered(&mut self, id: EntryId, is_event: bool) {
        let Some(recovery) = &mut self.recovery else { return };
        recovery.settled(id, is_event);
        self.recovery_due.get_or_insert(Instant::now() + CHARGE_INTERVAL);
        if recovery.is_over() {
            self.ledger.hurry();
        }
    }

    /// Whether the event is under recovery: it is charged before it runs, and comes in no batch.
    pub(super) fn recovers(&self, id: EntryId) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.covers(id))
    }

    /// Whether nothing may run beside an event under recovery.
    pub(super) fn runs_alone(&self, id: EntryId, policy: &Policy) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.runs_alone(id, policy.max_crashes))
    }

    /// How many processes an event has taken down, as far as a recovery knows.
    pub(super) fn crashes(&self, id: EntryId) -> u32 {
        self.recovery.as_ref().map_or(0, |recovery| recovery.crashes(id))
    }

    /// Waits for a permit, and goes on with commits meanwhile.
    pub(super) async fn permit(&mut self, alone: bool) -> Result<SuspectPermit, Ended> {
        let task = self.task;
        let permit = task.services.suspects.clone().wait(alone);
        tokio::pin!(permit);
        loop {
            tokio::select! {
                biased;
                () = task.services.shutdown.stopping() => return Err(Ended::Stopped),
                () = self.lease.lost() => return Err(Ended::Fenced),
                permit = &mut permit => return Ok(permit),
                done = self.progress() => done?,
            }
        }
    }

    /// Charges an event that runs by itself, where it is under recovery. The commit with the charge takes whatever is settled,
    /// and the event runs once the server has acknowledged it. At full speed there is nothing to do.
    ///
    /// The permit is held while the event runs; then comes [`came_back`](Self::came_back).
    pub(super) async fn charge(&mut self, id: EntryId, policy: &Policy) -> Result<Option<SuspectPermit>, Ended> {
        if !self.recovers(id) {
            return Ok(None);
        }
        let task = self.task;
        let permit = self.permit(self.runs_alone(id, policy)).await?;
        self.begins(id);
        tokio::select! {
            biased;
            done = self.finish() => done?,
            () = task.services.shutdown.stopping() => {
                // It does not run.
                self.came_back(id);
                return Err(Ended::Stopped);
            }
        }
        Ok(Some(permit))
    }

    /// Charges an event under recovery that has its permit, in the next commit, which starts as soon as it can.
    pub(super) fn begins(&mut self, id: EntryId) {
        if let Some(recovery) = &mut self.recovery {
            recovery.charge(id);
            self.ledger.hurry();
        }
    }

    /// Whether an event that was charged may run: the server knows the charge, or the recovery is over.
    pub(super) fn may_run(&self, id: EntryId) -> bool {
        self.recovery.as_ref().is_none_or(|recovery| !recovery.covers(id) || recovery.is_charged(id))
    }

    /// An attempt has come back, with whatever result, or does not begin after all.
    pub(super) fn came_back(&mut self, id: EntryId) {
        if let Some(recovery) = &mut self.recovery
            && recovery.came_back(id)
        {
            self.recovery_due.get_or_insert(Instant::now() + CHARGE_INTERVAL);
        }
    }

    /// Whether the server may hold a charge: an end of the process now would count as a crash of the charged event.
    pub(super) fn has_charges(&self) -> bool {
        self.recovery.as_ref().is_some_and(Recovery::has_charges)
    }

    fn start_if_due(&mut self) {
        if self.flying.is_none() && self.needs.is_none() && self.ledger.is_due(self.now) {
            self.start();
        }
    }

    /// Whether one more event may begin at full speed, with nothing to wait for or to take up before it.
    pub(super) fn is_free(&self) -> bool {
        self.recovery.is_none()
            && self.needs.is_none()
            && self.ledger.has_room(1)
            && !self.flying.as_ref().is_some_and(Resend::is_answered)
    }

    /// Waits until so many events may start beyond the acknowledged checkpoint; after a stop none may.
    pub(super) async fn make_room(&mut self, events: u32) -> Result<(), Ended> {
        // An answer that is there already needs no wait.
        if self.flying.as_ref().is_some_and(Resend::is_answered) {
            self.progress().await?;
        }
        self.may_go_on()?;
        while !self.ledger.has_room(events) {
            // A batch may need room before the next commit is due.
            if self.flying.is_none() {
                self.start();
            }
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Fenced),
                () = self.task.services.shutdown.stopping() => return Err(Ended::Stopped),
                done = self.progress() => done?,
            }
            self.may_go_on()?;
        }
        Ok(())
    }

    /// Fails when an event was ignored that another build handles. Asked between two events, so that a running handler comes to
    /// its end.
    ///
    /// The checkpoint stays before all that the refused commit held. The events among it that were handled come again. They are
    /// at most those of one commit, and only when a build declares an event while its first one is on its way.
    pub(super) fn may_go_on(&self) -> Result<(), Ended> {
        self.needs.clone().map_or(Ok(()), |need| Err(Ended::GivenWay(need)))
    }

    /// When the commit on its way was sent, if it has no answer, not even an error.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        Some(self.flying.as_ref()?.unanswered()?.since)
    }

    /// Commits everything that is settled.
    pub(super) async fn finish(&mut self) -> Result<(), Ended> {
        while !self.ledger.is_clean() {
            self.may_go_on()?;
            if let Some(halt) = &self.refused {
                return Err(self.task.halted(halt.clone()));
            }
            if self.flying.is_none() {
                self.start();
            }
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Fenced),
                done = self.progress() => done?,
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        let now = Instant::now();
        let mut commit = self.ledger.take(self.lease.holder(), now);
        commit.passed_over = self.passed_over.take();
        commit.recovery = self.recovery.as_mut().and_then(Recovery::take);
        self.recovery_due = None;
        self.lease.commit_begins(now);
        self.flying = Some(Resend::new(Arc::new(commit), now));
        self.send(now);
    }

    /// Sends the commit on its way, for the first time or again.
    fn send(&mut self, now: Instant) {
        let Some(flying) = &mut self.flying else { return };
        let (broker, key, commit) =
            (Arc::clone(&self.task.services.broker), self.task.key.clone(), Arc::clone(&flying.call));
        flying.send(async move { broker.commit(&key, &commit).await }, now);
        self.timer.as_mut().reset(after(now, SILENCE));
    }

    /// One step: waits for the commit on its way, or for the next to be due and starts it.
    ///
    /// # Cancel safety
    /// A commit that was begun goes on.
    pub(super) async fn progress(&mut self) -> Result<(), Ended> {
        let Some(flying) = &mut self.flying else {
            let due = match (self.ledger.due_at(), self.recovery_due) {
                _ if self.needs.is_some() => return std::future::pending().await,
                (Some(Due::Now), _) => None,
                (Some(Due::At(at)), other) => Some(other.map_or(at, |other| at.min(other))),
                (None, Some(due)) => Some(due),
                (None, None) => return std::future::pending().await,
            };
            if let Some(due) = due {
                if self.timer.deadline() != due {
                    self.timer.as_mut().reset(due);
                }
                self.timer.as_mut().await;
            }
            self.start();
            return Ok(());
        };
        let silent_since = flying.unanswered().map(|sent| sent.since);
        let reply = tokio::select! {
            biased;
            reply = flying.answer(self.task.services.outages.over()) => reply,
            () = &mut self.timer, if silent_since.is_some() => {
                silent_since.into_iter().for_each(|since| self.task.contact.silent(Matter::Write, since));
                self.timer.as_mut().reset(after(Instant::now(), SILENCE));
                return Ok(());
            }
        };
        match reply {
            Some(reply) => self.absorb(reply),
            None => {
                self.send(Instant::now());
                Ok(())
            }
        }
    }

    /// Takes up the server's answer. A commit without an answer is sent again unchanged, because the script knows whether it was
    /// done.
    fn absorb(&mut self, reply: Result<Committed, BrokerError>) -> Result<(), Ended> {
        let Some(flying) = &mut self.flying else { return Ok(()) };
        let (task, progress) = (self.task, &self.task.progress);
        let wait = match reply {
            Ok(done @ (Committed::Done | Committed::Vanished)) => {
                self.lease.commit_ended();
                self.ledger.acknowledged(&flying.call);
                count(&progress.counts.passed_over, self.passed_over.acknowledged());
                progress.committed(flying.call.next, flying.call.seen);
                if let (Some(step), Some(recovery)) = (&flying.call.recovery, &mut self.recovery) {
                    log_recovered(task, step);
                    recovery.acknowledged();
                    if step.left == 0 {
                        (self.recovery, self.recovery_due) = (None, None);
                    }
                }
                self.flying = None;
                task.acknowledged(self.ledger.at());
                task.contact.succeeded(Matter::Write);
                task.owns(self.lease.holder().epoch);
                return match done {
                    Committed::Vanished => Err(GroupTask::vanished(self.ledger.bookmark())),
                    _ => Ok(()),
                };
            }
            Ok(Committed::Fenced) => return Err(Ended::Fenced),
            Ok(Committed::Conflict { at }) => {
                tracing::warn!(group = task.key.group(), partition = task.key.partition().as_str(), expected = %flying.call.prev, found = %at, "somebody moved the checkpoint by hand; reading it again");
                return Err(Ended::Fenced);
            }
            Ok(Committed::Declared { names }) => {
                self.lease.commit_ended();
                let Some(need) = self.passed_over.first(&names) else {
                    self.flying = None;
                    let halt = Halt::NotPassedOver { names };
                    return Err(task.halted(self.refused.insert(halt).clone()));
                };
                self.needs = Some(need);
                self.flying = None;
                return Ok(());
            }
            Ok(Committed::DeadLettersFull { count, oldest }) => {
                // The server has answered, so the owner deserves its lease while it waits for an operator.
                self.lease.commit_ended();
                let halt = Halt::DeadLettersFull { bounds: flying.call.dead_bounds, count, oldest };
                let reason = halt.of(&task.key);
                if progress.enter(Phase::Halted(reason.for_status())) {
                    reason.log();
                }
                task.operator_retry()
            }
            Err(error) => match task.on_call_error(self.lease, &error, flying.failures()) {
                Ok(wait) => wait,
                Err(halt) => {
                    // The answer was taken, so nobody may wait for it again.
                    self.flying = None;
                    return Err(task.halted(self.refused.insert(halt).clone()));
                }
            },
        };
        flying.retry(wait);
        Ok(())
    }
}

impl Drop for Committer<'_> {
    /// A commit on its way goes on, because it may be the only one that says what was handled.
    fn drop(&mut self) {
        if let Some(flying) = self.flying.take() {
            flying.detach();
        }
    }
}
