//! The commits of an owner: at most one is on its way, and it is sent until the server answers.
//!
//! [`ledger`](super::ledger) says when one is due.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streams_core::Entry;
use streams_core::EntryId;
use streams_core::broker::{BrokerError, BrokerErrorKind, Commit, Committed, Fields, Holding, Need};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use super::give_way::PassedOver;
use super::ledger::{Due, Ledger};
use super::recovery::Proving;
use crate::backoff::{SERVER_AWAY, wait};
use crate::clock::after;
use crate::group::{Ended, Group, Halt, Handler, Letter, MENDED_RETRY, Policy, Turn};
use crate::membership::Lease;
use crate::ops::{Matter, Phase, SILENCE, count};

/// While events are proven the longest that one which came back waits for a commit, whatever the group says: its charge
/// must not outlive its run for long, and the next event's may be far away.
const CHARGE_INTERVAL: Duration = Duration::from_millis(10);

/// Carries out what the [`Ledger`] says is due: at most one commit is on its way.
pub(super) struct Committer<'a> {
    group: &'a Group,
    lease: &'a Lease,
    pub(super) ledger: Ledger,
    /// What is left to prove of what an earlier owner had in hand; `None` at full speed.
    proving: Option<Proving>,
    /// By when the server is to hear what has changed of it.
    proof_due: Option<Instant>,
    flying: Option<Flying>,
    /// Until the commit on its way has had no answer for too long. It is kept: a timer for each wait would cost more than the wait.
    silence: Pin<Box<Sleep>>,
    passed_over: PassedOver,
    /// What a build has declared that was passed over here and is not committed: nothing is any more.
    needs: Option<Need>,
    /// Why the server refuses commits: no other is sent.
    refused: Option<Halt>,
    /// A recent moment: when the last handler began. Looking at the clock once an event is enough.
    pub(super) now: Instant,
}

/// The end of an entry's business with the group.
pub(super) struct End<'e> {
    pub(super) id: EntryId,
    pub(super) event_id: &'e str,
    /// Whether a consumer of the group takes it.
    pub(super) is_event: bool,
    /// Name and version of the event, where no consumer of the group takes it.
    pub(super) passed_over: Option<(&'e str, u32)>,
}

struct Flying {
    commit: Arc<Commit>,
    /// When it was sent the last time.
    since: Instant,
    reply: JoinHandle<Result<Committed, BrokerError>>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl<'a> Committer<'a> {
    pub(super) fn new(group: &'a Group, lease: &'a Lease, holding: &Holding) -> Self {
        let ledger = Ledger::new(
            group.options.checkpoint,
            group.options.dead_bounds,
            holding.at,
            holding.seen,
            holding.attempts.clone(),
        );
        let (passed_over, needs, proving) = (PassedOver::default(), None, Proving::of(holding));
        Self {
            group,
            lease,
            ledger,
            proving,
            proof_due: None,
            flying: None,
            silence: Box::pin(tokio::time::sleep(SILENCE)),
            passed_over,
            needs,
            refused: None,
            now: Instant::now(),
        }
    }

    /// These are settled, one or all of a batch, of which no commit takes a part; the letter of one that is dead goes out with
    /// the commit that passes it. A commit starts when one is due.
    pub(super) fn settle<'e>(&mut self, ends: impl IntoIterator<Item = End<'e>>, mut letter: Option<Fields>) {
        for End { id, event_id, is_event, passed_over } in ends {
            if let Some((name, version)) = passed_over {
                self.passed_over.note(&self.group.build, id, name, version);
            }
            self.ledger.settle(id, event_id, letter.take(), self.now);
            self.proven(id, is_event);
        }
        self.start_if_due();
    }

    fn proven(&mut self, id: EntryId, is_event: bool) {
        let Some(proving) = &mut self.proving else { return };
        proving.settled(id, is_event);
        self.proof_due.get_or_insert(Instant::now() + CHARGE_INTERVAL);
        if proving.is_over() {
            self.ledger.hurry();
        }
    }

    /// Whether the event is among those that are proven: it is charged before it runs, and comes in no batch.
    pub(super) fn proves(&self, id: EntryId) -> bool {
        self.proving.as_ref().is_some_and(|proving| proving.covers(id))
    }

    /// Whether nothing may run beside an event that is proven.
    pub(super) fn runs_alone(&self, id: EntryId, policy: &Policy) -> bool {
        self.proving.as_ref().is_some_and(|proving| proving.runs_alone(id, policy.max_crashes))
    }

    /// How many processes an event has taken down, where events are proven.
    pub(super) fn crashes(&self, id: EntryId) -> u32 {
        self.proving.as_ref().map_or(0, |proving| proving.crashes(id))
    }

    /// Waits for a turn, and goes on with what is to be committed meanwhile.
    pub(super) async fn turn(&mut self, alone: bool) -> Result<Turn, Ended> {
        let group = self.group;
        let turn = group.services.turns.clone().wait(alone);
        tokio::pin!(turn);
        loop {
            tokio::select! {
                biased;
                () = group.services.shutdown.stopping() => return Err(Ended::Stopped),
                () = self.lease.lost() => return Err(Ended::Lost),
                turn = &mut turn => return Ok(turn),
                done = self.progress() => done?,
            }
        }
    }

    /// Before an attempt at an event that runs by itself: where it is proven it is charged, in the commit that takes whatever
    /// is settled, and runs when that is acknowledged, in its turn. At full speed there is nothing to do.
    ///
    /// The turn is held while the event runs; then comes [`came_back`](Self::came_back).
    pub(super) async fn charge(&mut self, id: EntryId, policy: &Policy) -> Result<Option<Turn>, Ended> {
        if !self.proves(id) {
            return Ok(None);
        }
        let group = self.group;
        let turn = self.turn(self.runs_alone(id, policy)).await?;
        self.begins(id);
        tokio::select! {
            biased;
            done = self.finish() => done?,
            () = group.services.shutdown.stopping() => {
                // It does not run.
                self.came_back(id);
                return Err(Ended::Stopped);
            }
        }
        Ok(Some(turn))
    }

    /// Charges an event that is proven and has its turn, in the next commit, which starts as soon as it can.
    pub(super) fn begins(&mut self, id: EntryId) {
        if let Some(proving) = &mut self.proving {
            proving.charge(id);
            self.ledger.hurry();
        }
    }

    /// Whether an event that was charged may run: the server knows, or nothing is to be proven any more.
    pub(super) fn may_run(&self, id: EntryId) -> bool {
        self.proving.as_ref().is_none_or(|proving| !proving.covers(id) || proving.is_charged(id))
    }

    /// An attempt has come back, with whatever result, or does not begin after all.
    pub(super) fn came_back(&mut self, id: EntryId) {
        if let Some(proving) = &mut self.proving
            && proving.came_back(id)
        {
            self.proof_due.get_or_insert(Instant::now() + CHARGE_INTERVAL);
        }
    }

    /// Whether the server may hold a charge: who ends the process now would be taken for the one that is charged.
    pub(super) fn has_charges(&self) -> bool {
        self.proving.as_ref().is_some_and(Proving::has_charges)
    }

    fn start_if_due(&mut self) {
        if self.flying.is_none() && self.needs.is_none() && self.ledger.is_due(self.now) {
            self.start();
        }
    }

    /// Waits until so many events may start beyond the acknowledged checkpoint; after a stop none may.
    pub(super) async fn make_room(&mut self, events: u32) -> Result<(), Ended> {
        // Without waiting where the answer is there already.
        if self.flying.as_ref().is_some_and(|flying| flying.retry_at.is_none() && flying.reply.is_finished()) {
            self.progress().await?;
        }
        self.may_go_on()?;
        while !self.ledger.has_room(events) {
            // A batch may need room before what takes it is due.
            if self.flying.is_none() {
                self.start();
            }
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Lost),
                () = self.group.services.shutdown.stopping() => return Err(Ended::Stopped),
                done = self.progress() => done?,
            }
            self.may_go_on()?;
        }
        Ok(())
    }

    /// Whether nothing was passed over that another build handles. Asked between two events, so that the one in hand comes
    /// to its end.
    ///
    /// The checkpoint stays before all that the refused commit held. What of it was handled will come again: at most one
    /// commit batch, and only when a build declares an event while its first one is on its way.
    pub(super) fn may_go_on(&self) -> Result<(), Ended> {
        self.needs.clone().map_or(Ok(()), |need| Err(Ended::Needs(need)))
    }

    /// Since when a commit is on its way that has no answer, not even a refusal.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        self.flying.as_ref().filter(|flying| flying.retry_at.is_none()).map(|flying| flying.since)
    }

    /// Commits everything that is settled.
    pub(super) async fn finish(&mut self) -> Result<(), Ended> {
        while !self.ledger.is_clean() {
            self.may_go_on()?;
            if let Some(halt) = &self.refused {
                return Err(self.group.halted(halt.clone()));
            }
            if self.flying.is_none() {
                self.start();
            }
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Lost),
                done = self.progress() => done?,
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        let now = Instant::now();
        let mut commit = self.ledger.take(self.lease.holder(), now);
        commit.passed_over = self.passed_over.take();
        commit.proof = self.proving.as_mut().and_then(Proving::take);
        self.proof_due = None;
        let commit = Arc::new(commit);
        self.lease.commit_begins(now);
        let reply = self.send(&commit);
        self.silence.as_mut().reset(after(now, SILENCE));
        self.flying = Some(Flying { commit, since: now, reply, failures: 0, retry_at: None });
    }

    fn send(&self, commit: &Arc<Commit>) -> JoinHandle<Result<Committed, BrokerError>> {
        let (broker, key, commit) =
            (Arc::clone(&self.group.services.broker), self.group.key.clone(), Arc::clone(commit));
        tokio::spawn(async move { broker.commit(&key, &commit).await })
    }

    /// One step: waits for the commit on its way, or for the next to be due and starts it.
    ///
    /// # Cancel safety
    /// What was begun goes on.
    pub(super) async fn progress(&mut self) -> Result<(), Ended> {
        let Some(flying) = &mut self.flying else {
            match (self.ledger.due_at(), self.proof_due) {
                _ if self.needs.is_some() => std::future::pending().await,
                (Some(Due::Now), _) => {}
                (Some(Due::At(at)), proof) => tokio::time::sleep_until(proof.map_or(at, |proof| at.min(proof))).await,
                (None, Some(proof)) => tokio::time::sleep_until(proof).await,
                (None, None) => std::future::pending().await,
            }
            self.start();
            return Ok(());
        };
        if let Some(at) = flying.retry_at {
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = self.group.services.outages.over() => {}
            }
            flying.retry_at = None;
            let commit = Arc::clone(&flying.commit);
            let reply = self.send(&commit);
            if let Some(flying) = &mut self.flying {
                (flying.reply, flying.since) = (reply, Instant::now());
                self.silence.as_mut().reset(after(flying.since, SILENCE));
            }
            return Ok(());
        }
        let reply = tokio::select! {
            biased;
            reply = &mut flying.reply => reply,
            () = &mut self.silence => {
                self.group.contact.silent(Matter::Write, flying.since);
                self.silence.as_mut().reset(after(Instant::now(), SILENCE));
                return Ok(());
            }
        };
        let reply = reply.unwrap_or_else(|error| {
            Err(BrokerError::new(BrokerErrorKind::Indefinite, "a commit was aborted").caused_by(error))
        });
        self.absorb(reply)
    }

    /// Takes up the server's answer. A commit without one is sent again as it is: the script knows whether it was done.
    fn absorb(&mut self, reply: Result<Committed, BrokerError>) -> Result<(), Ended> {
        let Some(flying) = &mut self.flying else { return Ok(()) };
        let (group, progress) = (self.group, &self.group.progress);
        let wait = match reply {
            Ok(done @ (Committed::Done | Committed::Vanished)) => {
                self.lease.commit_ended();
                self.ledger.acknowledged(&flying.commit);
                count(&progress.counts.passed_over, self.passed_over.acknowledged());
                progress.committed(flying.commit.next, flying.commit.seen);
                if let (Some(proof), Some(proving)) = (&flying.commit.proof, &mut self.proving) {
                    group.is_proven(proof);
                    proving.acknowledged();
                    if proof.left == 0 {
                        (self.proving, self.proof_due) = (None, None);
                    }
                }
                self.flying = None;
                group.acknowledged(self.ledger.at());
                group.contact.succeeded(Matter::Write);
                group.owns(self.lease.holder().epoch);
                return match done {
                    Committed::Vanished => Err(Group::vanished(self.ledger.bookmark())),
                    _ => Ok(()),
                };
            }
            Ok(Committed::Fenced) => return Err(Ended::Lost),
            Ok(Committed::Conflict { at }) => {
                tracing::warn!(group = group.key.group(), partition = group.key.partition().as_str(), expected = %flying.commit.prev, found = %at, "somebody moved the checkpoint by hand; reading it again");
                return Err(Ended::Lost);
            }
            Ok(Committed::Declared { names }) => {
                self.lease.commit_ended();
                let Some(need) = self.passed_over.first(&names) else {
                    self.flying = None;
                    let halt = Halt::NotPassedOver { names };
                    return Err(group.halted(self.refused.insert(halt).clone()));
                };
                self.needs = Some(need);
                self.flying = None;
                return Ok(());
            }
            Ok(Committed::DeadLettersFull { count, oldest }) => {
                // Answered: the owner is well, it is the operator who is awaited.
                self.lease.commit_ended();
                let halt = Halt::DeadLettersFull { bounds: flying.commit.dead_bounds, count, oldest };
                let reason = halt.of(&group.key);
                if progress.enter(Phase::Halted(reason.for_status())) {
                    reason.log();
                }
                MENDED_RETRY
            }
            Err(error) if error.is_retryable() || error.is_indefinite() => {
                group.contact.failed(Matter::Write, &error);
                if error.kind() == BrokerErrorKind::Full {
                    self.lease.commit_ended();
                }
                flying.failures = flying.failures.saturating_add(1);
                wait(SERVER_AWAY, flying.failures, 0.0)
            }
            Err(error) if error.kind() == BrokerErrorKind::Refused => {
                // Answered: a permission or a key is to be mended, and until then no handler runs that nobody could
                // commit.
                self.lease.commit_ended();
                group.contact.rest();
                group.say_refused(&error);
                MENDED_RETRY
            }
            Err(error) => {
                // Its answer was taken, so it must not be waited for again.
                self.flying = None;
                let halt = Halt::Broker { error: error.to_string() };
                return Err(group.halted(self.refused.insert(halt).clone()));
            }
        };
        flying.retry_at = Some(Instant::now() + wait.mul_f64(1.0 - group.services.random.fraction() / 2.0));
        Ok(())
    }
}

impl Group {
    /// Ends the business of entries with the group: of one, or of all of a batch. Of one that is dead the letter is in the
    /// commit that passes it.
    ///
    /// This is the one place that settles, and it goes by the order of the stream.
    pub(super) fn settle<'e>(
        &self,
        committer: &mut Committer<'_>,
        ends: impl IntoIterator<Item = End<'e>>,
        letter: Option<Letter>,
    ) {
        committer.settle(ends, letter.map(|letter| self.written(letter)));
    }

    /// An attempt failed, and there is another after this long.
    #[expect(clippy::too_many_arguments, reason = "all of it goes into one line of the log")]
    pub(super) fn attempt_failed(
        &self,
        committer: &mut Committer<'_>,
        handler: &Handler,
        entry: &Entry,
        events: usize,
        attempt: u32,
        after: Duration,
        reason: &str,
    ) {
        self.tell_failed(handler, entry, events, attempt, after, reason);
        committer.ledger.attempt_failed(entry.id, attempt);
    }
}
