//! The events of a partition side by side, for a group with `concurrency`: each runs in a task of its own.
//!
//! An event that has ended is settled in the order of the stream. Events under recovery are charged first, in order, as many at
//! a time as may run.

use std::sync::Arc;
use std::time::Duration;

use streams_core::{Context, Entry, Failure};
use tokio::time::Instant;

use super::commit::{Committer, End};
use super::dispatch::{Beside, Charging, Dispatch, Returned, Settled, Taken};
use super::hand::InHand;
use super::lanes::{Lanes, Ticket};
use crate::clock::after;
use crate::group::{Decision, Ended, Failed, Group, Halt, Letter, Settlement, Turn, caught, decide};
use crate::membership::Lease;
use crate::shutdown::FAREWELL;

/// How often the log says again that a partition waits for its oldest entry.
const REMINDER: Duration = Duration::from_secs(60);

impl Group {
    /// Whether events of this group may run beside others.
    pub(super) fn is_concurrent(&self) -> bool {
        self.options.lanes.running > 1
    }

    /// Takes up the next entry of the stream, once a slot is free for which nothing else is there, and starts what may start.
    pub(super) async fn take_up(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
        entry: Arc<Entry>,
        beside: Beside,
    ) -> Result<(), Ended> {
        loop {
            self.advance(lease, committer, hand)?;
            if hand.dispatch.may_start(committer) && hand.dispatch.admits(&beside) {
                break;
            }
            self.step(lease, committer, hand).await?;
        }
        self.progress.begins(entry.id);
        let Dispatch { lanes, charging, .. } = &mut hand.dispatch;
        match beside {
            Beside::Lane { key, consumer } => {
                lanes.take_up(key, entry.weight(), Taken { entry, consumer });
            }
            Beside::Charged { consumer } => {
                let alone = committer.runs_alone(entry.id, &self.handlers[consumer].policy);
                let taken = Taken { entry, consumer };
                charging.push_back(Charging { taken, ticket: None, alone, turn: None, charged: false });
            }
            Beside::Over { letter } => over(lanes, &entry, letter),
        }
        self.advance(lease, committer, hand)
    }

    /// Waits until everything that was taken up is settled, later attempts included: nothing runs beside what comes next.
    pub(super) async fn drain(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
    ) -> Result<(), Ended> {
        loop {
            self.advance(lease, committer, hand)?;
            if hand.dispatch.is_empty() {
                return Ok(());
            }
            self.step(lease, committer, hand).await?;
        }
    }

    /// Lets the handlers that run come to their end before others start, and the server know that none runs: what is done next
    /// runs alone, and does not wait for what waits for its next attempt.
    pub(super) async fn stand_still(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
    ) -> Result<(), Ended> {
        hand.dispatch.closing = true;
        hand.dispatch.uncharge(committer);
        while !hand.dispatch.calls.is_empty() || committer.has_charges() {
            self.step(lease, committer, hand).await?;
            self.advance(lease, committer, hand)?;
        }
        hand.dispatch.closing = false;
        Ok(())
    }

    /// Lets the handlers that run come to their end, and starts no others: an ownership that ends has nothing in hand. What
    /// has only waited comes again.
    pub(super) async fn finish_in_hand(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
    ) -> Result<(), Ended> {
        hand.dispatch.closing = true;
        hand.dispatch.uncharge(committer);
        let mut commits = true;
        while !hand.dispatch.calls.is_empty() {
            tokio::select! {
                biased;
                () = lease.lost() => return Err(Ended::Lost),
                () = self.services.shutdown.cutting() => break,
                done = committer.progress(), if commits => match done {
                    Err(Ended::Lost) => return Err(Ended::Lost),
                    done => commits = done.is_ok(),
                },
                returned = hand.dispatch.happens(false) => self.returned(lease, committer, hand, returned)?,
            }
            self.advance(lease, committer, hand)?;
        }
        // A dead letter that has to be acknowledged first must not make what is settled behind it come again.
        let passed = async {
            while hand.dispatch.letter.is_some() {
                committer.may_go_on()?;
                tokio::select! {
                    biased;
                    () = lease.lost() => return Err(Ended::Lost),
                    done = committer.progress() => done?,
                }
                self.advance(lease, committer, hand)?;
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, passed).await.unwrap_or(Ok(()))
    }

    /// Waits for whatever happens next to what was taken up.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    async fn step(&self, lease: &Lease, committer: &mut Committer<'_>, hand: &mut InHand) -> Result<(), Ended> {
        committer.may_go_on()?;
        let may_start = hand.dispatch.may_start(committer);
        tokio::select! {
            biased;
            () = self.services.shutdown.stopping() => Err(Ended::Stopped),
            () = lease.lost() => Err(Ended::Lost),
            () = self.seat.wanted() => Err(self.hand_over()),
            done = committer.progress() => done,
            returned = hand.dispatch.happens(may_start) => self.returned(lease, committer, hand, returned),
        }
    }

    /// Settles what is next in the order of the stream, and starts what may start.
    pub(super) fn advance(&self, lease: &Lease, committer: &mut Committer<'_>, hand: &mut InHand) -> Result<(), Ended> {
        if hand.dispatch.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        committer.now = now;
        if let Some((id, cause)) = hand.dispatch.letter {
            if committer.ledger.at() < id {
                return Ok(());
            }
            hand.dispatch.letter = None;
            self.progress.counts.dead(cause);
            self.weather(hand, true)?;
        }
        self.run_charged(lease, committer, &mut hand.dispatch)?;
        while let Some(Settled { id, event_id, is_event, passed_over, letter }) = hand.dispatch.lanes.pass() {
            let cause = letter.as_ref().map(|letter| letter.cause);
            let passed_over = passed_over.as_ref().map(|(name, version)| (name.as_str(), *version));
            self.settle(committer, [End { id, event_id: &event_id, is_event, passed_over }], letter);
            if let Some(cause) = cause {
                hand.dispatch.letter = Some((id, cause));
                return Ok(());
            }
            self.weather(hand, false)?;
        }
        while hand.dispatch.may_start(committer)
            && !self.services.shutdown.is_stopping()
            && let Some((ticket, taken)) = hand.dispatch.lanes.start(now)
        {
            let taken = taken.clone();
            if committer.proves(taken.entry.id) {
                let alone = committer.runs_alone(taken.entry.id, &self.handlers[taken.consumer].policy);
                let charging = Charging { taken, ticket: Some(ticket), alone, turn: None, charged: false };
                hand.dispatch.charging.push_back(charging);
            } else {
                self.call(lease, committer, &mut hand.dispatch, ticket, taken, None)?;
            }
        }
        self.charge(committer, &mut hand.dispatch);
        self.tell_what_holds_up(committer, &mut hand.dispatch);
        Ok(())
    }

    /// Calls the handlers of what the server knows to be charged.
    fn run_charged(&self, lease: &Lease, committer: &mut Committer<'_>, dispatch: &mut Dispatch) -> Result<(), Ended> {
        while let Some(first) = dispatch.charging.front()
            && committer.may_run(first.taken.entry.id)
            && !dispatch.closing
            && !self.services.shutdown.is_stopping()
        {
            let Some(Charging { taken, ticket, alone, turn, .. }) = dispatch.charging.pop_front() else { break };
            if turn.is_none() {
                // Nothing is proven any more: it need not wait for its turn.
                dispatch.turn = None;
            }
            let id = taken.entry.id;
            let Some(ticket) = ticket.or_else(|| self.find_lane(dispatch, &taken)) else {
                // It is over, or behind others of its key.
                committer.came_back(id);
                continue;
            };
            dispatch.alone = alone.then_some(ticket);
            self.call(lease, committer, dispatch, ticket, taken, turn)?;
        }
        Ok(())
    }

    /// Takes up an event whose key may be asked for now, and starts it where it may start.
    fn find_lane(&self, dispatch: &mut Dispatch, taken: &Taken) -> Option<Ticket> {
        let lanes = &mut dispatch.lanes;
        match self.lane(taken.consumer, &taken.entry) {
            Beside::Lane { key, .. } => {
                let ticket = lanes.take_up(key, taken.entry.weight(), taken.clone());
                lanes.start_this(ticket).then_some(ticket)
            }
            Beside::Over { letter } => {
                over(lanes, &taken.entry, letter);
                None
            }
            Beside::Charged { .. } => None,
        }
    }

    /// Charges what is to run and has its turn. What runs alone waits for all that runs, and nothing starts behind it.
    fn charge(&self, committer: &mut Committer<'_>, dispatch: &mut Dispatch) {
        let Dispatch { charging, turn, calls, closing, .. } = dispatch;
        if *closing || self.services.shutdown.is_stopping() {
            return;
        }
        for (place, next) in charging.iter_mut().enumerate() {
            if next.charged {
                continue;
            }
            let is_in_the_way = next.alone && (place > 0 || !calls.is_empty());
            if turn.is_some() || is_in_the_way {
                return;
            }
            if next.turn.is_none() && !next.alone {
                next.turn = self.services.turns.beside();
            }
            if next.turn.is_none() {
                *turn = Some(Box::pin(self.services.turns.clone().wait(next.alone)));
                return;
            }
            next.charged = true;
            committer.begins(next.taken.entry.id);
        }
    }

    /// Calls the handler once, in a task of its own: within its timeout, and with its panics caught. Its turn is over with the
    /// call.
    fn call(
        &self,
        lease: &Lease,
        committer: &Committer<'_>,
        dispatch: &mut Dispatch,
        ticket: Ticket,
        Taken { entry, consumer }: Taken,
        turn: Option<Turn>,
    ) -> Result<(), Ended> {
        let began = Instant::now();
        if !lease.is_held(began) {
            return Err(Ended::Lost);
        }
        let handler = &self.handlers[consumer];
        let timeout = handler.policy.timeout;
        let limit = after(began, timeout.saturating_add(self.services.lease_for));
        dispatch.limits.insert((limit, ticket));
        lease.handlers_until(dispatch.limits.first().map(|(limit, _)| *limit));
        let attempt = committer.ledger.failed_attempts(entry.id) + 1;
        let call = handler.call(Context::new(Arc::clone(&handler.scope), entry, attempt));
        dispatch.calls.spawn(async move {
            let result = call.await;
            drop(turn);
            Returned { ticket, limit, result }
        });
        Ok(())
    }

    /// Takes note of a call that has come to its end.
    pub(super) fn returned(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
        returned: Option<Returned>,
    ) -> Result<(), Ended> {
        let Some(Returned { ticket, limit, result }) = returned else { return Ok(()) };
        let Dispatch { lanes, limits, alone, .. } = &mut hand.dispatch;
        limits.remove(&(limit, ticket));
        lease.handlers_until(limits.first().map(|(limit, _)| *limit));
        alone.take_if(|alone| *alone == ticket);
        let Some(Taken { entry, consumer }) = lanes.event(ticket).cloned() else { return Ok(()) };
        committer.came_back(entry.id);
        let handler = &self.handlers[consumer];
        let attempt = committer.ledger.failed_attempts(entry.id) + 1;
        match decide(result, attempt, &handler.policy, || self.services.random.fraction()) {
            Decision::Settle(settlement) => {
                let letter = self.ended(settlement, &entry, 1, attempt, handler.registration.info.name);
                let weight = letter.as_ref().map_or(0, |_| entry.weight());
                lanes.settle(ticket, weight, Settled::of(&entry, false, letter));
                Ok(())
            }
            Decision::Retry { after: wait, reason } => {
                self.attempt_failed(committer, handler, &entry, 1, attempt, wait, &reason);
                lanes.retry(ticket, after(Instant::now(), wait));
                Ok(())
            }
            Decision::Apart { reason, .. } => {
                let why = Halt::LoneBatch { entry: entry.id, reason: Some(reason) };
                Err(self.halted(why))
            }
        }
    }

    /// Says once which entry holds up the partition, when no other may be taken up before it is settled.
    fn tell_what_holds_up(&self, committer: &Committer<'_>, dispatch: &mut Dispatch) {
        let lanes = &dispatch.lanes;
        let oldest = if lanes.is_idle(0) && lanes.is_full(0, 0) { lanes.oldest() } else { None };
        let held_up = oldest.map(|taken| (taken.entry.id, committer.ledger.failed_attempts(taken.entry.id)));
        if held_up == dispatch.held_up {
            return;
        }
        dispatch.held_up = held_up;
        let reason = oldest.map(|Taken { entry, consumer }| {
            let (id, handler) = (entry.id, &self.handlers[*consumer]);
            let failures = committer.ledger.failed_attempts(id);
            let attempts = if failures == 1 { "attempt" } else { "attempts" };
            format!(
                "entry {id} for `{}` holds up the other keys after {failures} failed {attempts} of {}: {} entries from it on are taken up, and those not settled weigh {} bytes, of at most {} (`max_unsettled_entries`) and {} (`max_unsettled_bytes`); they go on when it is settled",
                handler.registration.info.name,
                handler.policy.max_attempts,
                lanes.len(),
                lanes.bytes(),
                self.options.lanes.entries,
                self.options.lanes.bytes,
            )
        });
        if let Some(reason) = &reason
            && dispatch.said.is_none_or(|said| said.elapsed() >= REMINDER)
        {
            dispatch.said = Some(Instant::now());
            tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), reason, "held up");
        }
        self.progress.held_up(reason);
    }

    /// The lane of an event that may be decoded.
    pub(super) fn lane(&self, consumer: usize, entry: &Arc<Entry>) -> Beside {
        let registration = &self.handlers[consumer].registration;
        match caught(|| registration.key(entry).map_err(Failure::Decode)) {
            Ok(key) => Beside::Lane { key, consumer },
            // Without its key nobody knows what it has to wait for, so it cannot be tried again.
            Err(Failed { cause, reason }) => {
                let settlement = Settlement::Dead { cause, reason };
                Beside::Over { letter: self.ended(settlement, entry, 1, 1, registration.info.name) }
            }
        }
    }
}

/// Takes up an entry with which nothing is to be done but to write its letter, where it has one.
fn over(lanes: &mut Lanes<Taken, Settled>, entry: &Arc<Entry>, letter: Option<Letter>) {
    let weight = letter.as_ref().map_or(0, |_| entry.weight());
    lanes.take_up_settled(weight, Settled::of(entry, letter.is_none(), letter));
}
