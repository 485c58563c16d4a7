//! The steps of the events that run side by side, for a group with `concurrency`: each event runs in a task of its own.
//!
//! An event that has ended is settled in the order of the stream. Events under recovery are charged first, in order, as many at
//! a time as may run.

use std::sync::Arc;
use std::time::Duration;

use streams_core::Entry;
use tokio::time::Instant;

use super::commit::End;
use super::dispatch::{Beside, Charging, Dispatch, Returned, Settled, Taken};
use super::lanes::{Lanes, Ticket};
use super::owned::Owned;
use crate::clock::after;
use crate::group::{
    Attempt, Decision, Ended, Failed, GroupTask, Halt, Letter, Settlement, SuspectPermit, Taker, decide,
};
use crate::shutdown::FAREWELL;

/// How often the log says again that a partition waits for its oldest entry.
const REMINDER: Duration = Duration::from_secs(60);

impl Dispatch {
    /// Takes up the next entry of the stream, once a slot is free for which nothing else is there, and starts what may start.
    pub(super) async fn take_up(
        &mut self,
        owned: &mut Owned<'_>,
        entry: Arc<Entry>,
        beside: Beside,
    ) -> Result<(), Ended> {
        loop {
            self.advance(owned)?;
            if self.may_start(&owned.committer) && self.admits(&beside) {
                break;
            }
            self.step(owned).await?;
        }
        owned.task.progress.begins(entry.id);
        match beside {
            Beside::Lane { key, consumer } => {
                self.lanes.take_up(key, entry.weight(), Taken { entry, consumer });
            }
            Beside::Charged { consumer } => self.wait_for_charge(owned, Taken { entry, consumer }, None),
            Beside::Over { letter } => over(&mut self.lanes, &entry, letter),
            Beside::Repeated => self.lanes.take_up_settled(0, Settled::of(&entry, false, None)),
        }
        self.advance(owned)
    }

    /// Queues an event to be charged before it runs.
    fn wait_for_charge(&mut self, owned: &Owned<'_>, taken: Taken, ticket: Option<Ticket>) {
        let policy = &owned.task.handlers[taken.consumer].policy;
        let alone = owned.committer.runs_alone(taken.entry.id, policy);
        self.charging.push_back(Charging { taken, ticket, alone, permit: None, charged: false });
    }

    /// Waits until everything that was taken up is settled, later attempts included: nothing runs beside what comes next.
    pub(super) async fn drain(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        loop {
            self.advance(owned)?;
            if self.is_empty() {
                return Ok(());
            }
            self.step(owned).await?;
        }
    }

    /// Lets the handlers that run come to their end before others start, and the server know that none runs. A replay runs
    /// next, alone. It does not wait for events that wait for their next attempt.
    pub(super) async fn stand_still(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        self.closing = true;
        self.uncharge(&mut owned.committer);
        while !self.calls.is_empty() || owned.committer.has_charges() {
            self.step(owned).await?;
            self.advance(owned)?;
        }
        self.closing = false;
        Ok(())
    }

    /// Lets the handlers that run come to their end, and starts no others, so that the ownership ends with nothing in flight.
    /// Events that have only waited come again.
    pub(super) async fn finish(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        let (task, lease) = (owned.task, owned.lease);
        self.closing = true;
        self.uncharge(&mut owned.committer);
        let mut commits = true;
        while !self.calls.is_empty() {
            tokio::select! {
                biased;
                () = lease.lost() => return Err(Ended::Fenced),
                () = task.services.shutdown.cutting() => break,
                done = owned.committer.progress(), if commits => match done {
                    Err(Ended::Fenced) => return Err(Ended::Fenced),
                    done => commits = done.is_ok(),
                },
                returned = self.happens(false) => self.returned(owned, returned)?,
            }
            self.advance(owned)?;
        }
        // A dead letter that has to be acknowledged first must not make what is settled behind it come again.
        let passed = async {
            while self.letter.is_some() {
                owned.committer.may_go_on()?;
                tokio::select! {
                    biased;
                    () = lease.lost() => return Err(Ended::Fenced),
                    done = owned.committer.progress() => done?,
                }
                self.advance(owned)?;
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, passed).await.unwrap_or(Ok(()))
    }

    /// Waits for whatever happens next to what was taken up.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    async fn step(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        owned.committer.may_go_on()?;
        let may_start = self.may_start(&owned.committer);
        tokio::select! {
            biased;
            done = owned.interrupted() => done,
            returned = self.happens(may_start) => self.returned(owned, returned),
        }
    }

    /// Settles what is next in the order of the stream, and starts what may start.
    pub(super) fn advance(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        if self.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        owned.committer.now = now;
        if let Some((id, cause)) = self.letter {
            if owned.committer.ledger.at() < id {
                return Ok(());
            }
            self.letter = None;
            owned.task.progress.counts.dead(cause);
            owned.count_storm(true)?;
        }
        self.run_charged(owned)?;
        self.settle_in_order(owned)?;
        if self.letter.is_some() {
            return Ok(());
        }
        while self.may_start(&owned.committer)
            && !owned.task.services.shutdown.is_stopping()
            && let Some((ticket, taken)) = self.lanes.start(now)
        {
            let taken = taken.clone();
            if owned.committer.recovers(taken.entry.id) {
                self.wait_for_charge(owned, taken, Some(ticket));
            } else {
                self.call(owned, ticket, taken, None)?;
            }
        }
        self.charge(owned);
        self.log_what_blocks(owned);
        Ok(())
    }

    /// Settles what has ended in the order of the stream, up to a dead letter, which has to be acknowledged first.
    fn settle_in_order(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        while let Some(Settled { id, event_id, is_event, passed_over, letter }) = self.lanes.pass() {
            let cause = letter.as_ref().map(|letter| letter.cause);
            let passed_over = passed_over.as_ref().map(|(name, version)| (name.as_str(), *version));
            owned.settle([End { id, event_id: &event_id, is_event, passed_over }], letter);
            if let Some(cause) = cause {
                self.letter = Some((id, cause));
                return Ok(());
            }
            owned.count_storm(false)?;
        }
        Ok(())
    }

    /// Calls the handlers of events that the server knows to be charged.
    fn run_charged(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        while let Some(first) = self.charging.front()
            && owned.committer.may_run(first.taken.entry.id)
            && !self.closing
            && !owned.task.services.shutdown.is_stopping()
        {
            let Some(Charging { taken, ticket, alone, permit, .. }) = self.charging.pop_front() else { break };
            if permit.is_none() {
                // The recovery is over: the event need not wait for its permit.
                self.permit = None;
            }
            let id = taken.entry.id;
            let Some(ticket) = ticket.or_else(|| self.find_lane(owned.task, &taken)) else {
                // It is over, or behind others of its key.
                owned.committer.came_back(id);
                continue;
            };
            self.alone = alone.then_some(ticket);
            self.call(owned, ticket, taken, permit)?;
        }
        Ok(())
    }

    /// Takes up an event whose key may be asked for now, and starts it where it may start.
    fn find_lane(&mut self, task: &GroupTask, taken: &Taken) -> Option<Ticket> {
        match Beside::lane(task, taken.consumer, &taken.entry) {
            Beside::Lane { key, .. } => {
                let ticket = self.lanes.take_up(key, taken.entry.weight(), taken.clone());
                self.lanes.start_this(ticket).then_some(ticket)
            }
            Beside::Over { letter } => {
                over(&mut self.lanes, &taken.entry, letter);
                None
            }
            Beside::Charged { .. } | Beside::Repeated => None,
        }
    }

    /// Charges events that are to run and have their permits. An event that runs alone waits for all that run, and nothing
    /// starts behind it.
    fn charge(&mut self, owned: &mut Owned<'_>) {
        let services = &owned.task.services;
        let Self { charging, permit, calls, closing, .. } = self;
        if *closing || services.shutdown.is_stopping() {
            return;
        }
        for (place, next) in charging.iter_mut().enumerate() {
            if next.charged {
                continue;
            }
            let is_in_the_way = next.alone && (place > 0 || !calls.is_empty());
            if permit.is_some() || is_in_the_way {
                return;
            }
            if next.permit.is_none() && !next.alone {
                next.permit = services.suspects.beside();
            }
            if next.permit.is_none() {
                *permit = Some(Box::pin(services.suspects.clone().wait(next.alone)));
                return;
            }
            next.charged = true;
            owned.committer.begins(next.taken.entry.id);
        }
    }

    /// Calls the handler once, in a task of its own. The permit ends with the call.
    fn call(
        &mut self,
        owned: &Owned<'_>,
        ticket: Ticket,
        Taken { entry, consumer }: Taken,
        permit: Option<SuspectPermit>,
    ) -> Result<(), Ended> {
        let (task, began) = (owned.task, Instant::now());
        if !owned.lease.is_held(began) {
            return Err(Ended::Fenced);
        }
        let timeout = task.handlers[consumer].policy.timeout;
        let limit = after(began, timeout.saturating_add(task.services.lease_for));
        self.limits.insert((limit, ticket));
        owned.lease.handlers_until(self.limits.first().map(|(limit, _)| *limit));
        let attempt = owned.committer.ledger.failed_attempts(entry.id) + 1;
        let call = owned.lease.while_held(task.handlers.invoke(consumer, entry, attempt));
        self.calls.spawn(async move {
            let result = call.await;
            drop(permit);
            Returned { ticket, limit, result }
        });
        Ok(())
    }

    /// Takes note of a call that has come to its end.
    pub(super) fn returned(&mut self, owned: &mut Owned<'_>, returned: Option<Returned>) -> Result<(), Ended> {
        let Some(Returned { ticket, limit, result }) = returned else { return Ok(()) };
        let Some(result) = result else { return Err(Ended::Fenced) };
        let task = owned.task;
        self.limits.remove(&(limit, ticket));
        owned.lease.handlers_until(self.limits.first().map(|(limit, _)| *limit));
        self.alone.take_if(|alone| *alone == ticket);
        let Some(Taken { entry, consumer }) = self.lanes.event(ticket).cloned() else { return Ok(()) };
        owned.committer.came_back(entry.id);
        let handler = &task.handlers[consumer];
        let number = owned.committer.ledger.failed_attempts(entry.id) + 1;
        let attempt = Attempt { consumer: handler.name(), entry: &entry, events: 1, number };
        match decide(result, number, &handler.policy, || task.services.random.fraction()) {
            Decision::Settle(settlement) => {
                let letter = task.ended(settlement, &attempt);
                let weight = letter.as_ref().map_or(0, |_| entry.weight());
                self.lanes.settle(ticket, weight, Settled::of(&entry, false, letter));
                Ok(())
            }
            Decision::Retry { after: wait, reason } => {
                owned.attempt_failed(&attempt, wait, &reason);
                self.lanes.retry(ticket, after(Instant::now(), wait));
                Ok(())
            }
            Decision::Apart { reason, .. } => {
                Err(task.halted(Halt::LoneBatch { entry: entry.id, reason: Some(reason) }))
            }
        }
    }

    /// Logs once which entry blocks the partition, when no other may be taken up before it is settled.
    fn log_what_blocks(&mut self, owned: &Owned<'_>) {
        let (task, lanes, ledger) = (owned.task, &self.lanes, &owned.committer.ledger);
        let oldest = if lanes.is_idle(0) && lanes.is_full(0, 0) { lanes.oldest() } else { None };
        let held_up = oldest.map(|taken| (taken.entry.id, ledger.failed_attempts(taken.entry.id)));
        if held_up == self.held_up {
            return;
        }
        self.held_up = held_up;
        let reason = oldest.map(|Taken { entry, consumer }| {
            let (id, handler) = (entry.id, &task.handlers[*consumer]);
            let failures = ledger.failed_attempts(id);
            let attempts = if failures == 1 { "attempt" } else { "attempts" };
            format!(
                "entry {id} for `{}` holds up the other keys after {failures} failed {attempts} of {}: {} entries from it on are taken up, and those not settled weigh {} bytes, of at most {} (`max_unsettled_entries`) and {} (`max_unsettled_bytes`); they go on when it is settled",
                handler.name(),
                handler.policy.max_attempts,
                lanes.len(),
                lanes.bytes(),
                task.options.lanes.entries,
                task.options.lanes.bytes,
            )
        });
        if let Some(reason) = &reason
            && self.logged.is_none_or(|logged| logged.elapsed() >= REMINDER)
        {
            self.logged = Some(Instant::now());
            tracing::warn!(group = task.key.group(), partition = task.key.partition().as_str(), reason, "held up");
        }
        task.progress.held_up(reason);
    }
}

impl Beside {
    /// How the entry is taken up beside others.
    pub(super) fn of(owned: &Owned<'_>, taker: Taker, entry: &Arc<Entry>) -> Self {
        let consumer = match taker {
            Taker::Consumer(consumer) => consumer,
            Taker::Repeated => return Self::Repeated,
            taker => return Self::Over { letter: owned.task.without_taker(taker, entry) },
        };
        if !owned.committer.recovers(entry.id) {
            return Self::lane(owned.task, consumer, entry);
        }
        match owned.give_up(consumer, entry, owned.committer.ledger.failed_attempts(entry.id)) {
            Some(letter) => Self::Over { letter: Some(letter) },
            // The key comes from the user's own decoding, which may end the process as well, so it is not known yet.
            None => Self::Charged { consumer },
        }
    }

    /// The lane of an event that may be decoded.
    fn lane(task: &GroupTask, consumer: usize, entry: &Arc<Entry>) -> Self {
        match task.handlers.key(consumer, entry) {
            Ok(key) => Self::Lane { key, consumer },
            // Without its key nobody knows what it has to wait for, so it cannot be tried again.
            Err(Failed { cause, reason }) => {
                let attempt = Attempt { consumer: task.handlers[consumer].name(), entry, events: 1, number: 1 };
                Self::Over { letter: task.ended(Settlement::Dead { cause, reason }, &attempt) }
            }
        }
    }
}

/// Takes up an entry with which nothing is to be done but to write its letter, where it has one.
fn over(lanes: &mut Lanes<Taken, Settled>, entry: &Arc<Entry>, letter: Option<Letter>) {
    let weight = letter.as_ref().map_or(0, |_| entry.weight());
    lanes.take_up_settled(weight, Settled::of(entry, letter.is_none(), letter));
}
