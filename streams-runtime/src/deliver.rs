//! From entries to settled events, in order: call the handler for each, settle it; the heart of the runtime.
//!
//! [`source`](crate::source) brings the entries, [`call`](crate::call) calls the handler, [`settle`](crate::settle) decides
//! what an outcome means, and [`commit`](crate::commit) tells the server.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use streams_core::broker::Holding;
use streams_core::{Context, Entry, Failure, OnDataLoss, Outcome};
use tokio::time::Instant;

use crate::call::Caught;
use crate::clock::{after, millis};
use crate::commit::Committer;
use crate::dead_letter;
use crate::gather::{Gathering, Held, Parts};
use crate::lease::Lease;
use crate::ordered::{Ended, Group, Handler};
use crate::replay::Replays;
use crate::settle::{self, Decision, Settlement, decide, decide_batch};
use crate::source::{Arrived, Source};
use crate::status::count;
use crate::trace;

/// How long a group runs before it lets others on its thread have a turn.
const TURN: Duration = Duration::from_millis(1);

/// Who takes an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Taker {
    /// This consumer of the group.
    Consumer(usize),
    /// None of them.
    Nobody,
    /// The entry does not say what it is.
    Unnamed,
}

/// What an owner remembers from one entry to the next.
struct InHand {
    /// Dropped with every end but that of history itself: what has only gathered comes again.
    gathering: Gathering,
    dead_in_a_row: u32,
    /// Since when the group runs.
    turn: Instant,
}

impl InHand {
    /// Lets others on the thread have a turn when this one was long.
    async fn give_turn(&mut self) {
        if self.turn.elapsed() > TURN {
            tokio::task::yield_now().await;
            self.turn = Instant::now();
        }
    }
}

/// What a handler is called with until it is clear what becomes of it.
struct Delivery<'a> {
    handler: &'a Handler,
    /// The event, or the first of several.
    first: &'a Arc<Entry>,
    /// All events of a batch of several.
    batch: Option<Arc<[Arc<Entry>]>>,
    /// Attempts at the batch that the event was in before it came to be alone.
    tried: u32,
}

/// Why a batch cannot be settled as one.
#[derive(Debug)]
struct Apart {
    /// An event of it cannot be decoded.
    undecodable: bool,
    /// How often it was tried.
    tried: u32,
}

impl Group {
    pub(crate) async fn work(&self, lease: &Lease, holding: &Holding, committer: &mut Committer<'_>) -> Ended {
        let mut source = match Source::open(self, holding).await {
            Ok(source) => source,
            Err(error) => return error.into(),
        };
        let mut hand = InHand { gathering: Gathering::default(), dead_in_a_row: 0, turn: Instant::now() };
        let mut replays = Replays::new();
        loop {
            if hand.gathering.is_empty() && committer.ledger.is_clean() {
                self.progress.reach(source.reader.position());
            }
            let arrived = tokio::select! {
                biased;
                () = self.engine.shutdown.stopping() => return Ended::Stopped,
                () = lease.lost() => return Ended::Lost,
                () = self.place.wanted() => return self.hand_over(),
                done = committer.progress() => match done {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                () = replays.due(lease) => match self.replay(lease, committer, &mut replays).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                arrived = source.next() => arrived,
                () = hand.gathering.over() => match self.hand_out(lease, committer, &mut hand).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
            };
            // What has gathered was read before the cut, and going on begins behind all that was read.
            if matches!(&arrived, Ok(Arrived { loss: Some(_), .. }) | Err(Ended::Cut { .. }))
                && let Err(ended) = self.hand_out(lease, committer, &mut hand).await
            {
                return ended;
            }
            let arrived = match arrived {
                Ok(arrived) => arrived,
                Err(ended) => return ended,
            };
            if let Some(loss) = arrived.loss {
                self.report(&loss);
                if self.on_data_loss == OnDataLoss::Halt {
                    return Ended::Halted { reason: self.loss_reason(&loss), keep: true };
                }
            }
            if let Some(seen) = arrived.seen {
                // What has gathered is read, but not settled.
                committer.ledger.anchor(seen.saturating_sub(hand.gathering.len() as u64));
            }
            for entry in arrived.entries {
                if let Err(ended) = self.take(lease, committer, &mut hand, entry).await {
                    return ended;
                }
                // However long the events keep coming.
                if replays.is_due(lease)
                    && let Err(ended) = self.replay(lease, committer, &mut replays).await
                {
                    return ended;
                }
                if self.place.is_wanted() {
                    return self.hand_over();
                }
                hand.give_turn().await;
            }
        }
    }

    pub(crate) fn taker(&self, entry: &Entry) -> Taker {
        let Some((name, _)) = entry.event() else { return Taker::Unnamed };
        match self.handlers.iter().position(|handler| handler.registration.info.event.name == name) {
            Some(consumer) => Taker::Consumer(consumer),
            None => Taker::Nobody,
        }
    }

    /// Takes up the next entry: it is settled at once, or it gathers, after whatever must be settled before it.
    async fn take(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
        entry: Arc<Entry>,
    ) -> Result<(), Ended> {
        let taker = self.taker(&entry);
        if !hand.gathering.is_empty() {
            let joins = match taker {
                Taker::Consumer(consumer) => hand.gathering.admits(Some(consumer), &entry),
                Taker::Nobody => hand.gathering.admits(None, &entry),
                Taker::Unnamed => false,
            };
            if !joins {
                self.hand_out(lease, committer, hand).await?;
            }
        }
        match taker {
            Taker::Consumer(consumer) if let Some(limits) = self.handlers[consumer].policy.batch => {
                hand.gathering.add(consumer, limits, entry);
            }
            Taker::Nobody if !hand.gathering.is_empty() => hand.gathering.add_between(entry),
            _ => {
                let held = Held { entry, is_event: matches!(taker, Taker::Consumer(_)) };
                return match self.settle(lease, committer, taker, std::slice::from_ref(&held), 0).await? {
                    Ok(dead) => self.weather(hand, dead),
                    Err(_) => Err(self.halted(format!(
                        "bug in streams-runtime: {}: entry {} came alone and was taken for a batch; please report it, and start the program again",
                        self.key, held.entry.id
                    ))),
                };
            }
        }
        if hand.gathering.is_full() {
            self.hand_out(lease, committer, hand).await?;
        }
        Ok(())
    }

    /// Settles what has gathered: as one batch, and where that comes to nothing in parts.
    async fn hand_out(&self, lease: &Lease, committer: &mut Committer<'_>, hand: &mut InHand) -> Result<(), Ended> {
        let Some((consumer, held)) = hand.gathering.take() else { return Ok(()) };
        let registration = &self.handlers[consumer].registration;
        let mut parts = Parts::default();
        while let Some((part, tried)) = parts.next(&held) {
            let taker = if part[0].is_event { Taker::Consumer(consumer) } else { Taker::Nobody };
            match self.settle(lease, committer, taker, part, tried).await? {
                Ok(dead) => {
                    parts.settled(part.len());
                    self.weather(hand, dead)?;
                    hand.give_turn().await;
                }
                Err(Apart { undecodable, tried }) => {
                    let is_bad = |held: &Held| held.is_event && !registration.decodes(&held.entry);
                    match part.iter().position(is_bad).filter(|_| undecodable) {
                        Some(bad) => parts.undecodable(bad),
                        None => parts.apart(part.len(), tried),
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts dead letters in a row: many are a storm, which is an outage rather than bad events.
    fn weather(&self, hand: &mut InHand, dead: bool) -> Result<(), Ended> {
        hand.dead_in_a_row = if dead { hand.dead_in_a_row + 1 } else { 0 };
        if hand.dead_in_a_row < self.storm {
            return Ok(());
        }
        let reason = format!(
            "{} put {} events in a row into its dead letters: that looks like an outage, not like bad events; mend the cause and start again",
            self.key, hand.dead_in_a_row
        );
        Err(Ended::Halted { reason, keep: true })
    }

    /// Ends the business of an entry, or of a batch, with the group; answers whether it became a dead letter, or why the batch
    /// cannot be settled as one.
    ///
    /// This is the one place that settles.
    async fn settle(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        taker: Taker,
        held: &[Held],
        tried: u32,
    ) -> Result<Result<bool, Apart>, Ended> {
        let first = &held[0].entry;
        let batch: Option<Arc<[_]>> = (held.len() > 1)
            .then(|| held.iter().filter(|held| held.is_event).map(|held| Arc::clone(&held.entry)).collect());
        let events = batch.as_ref().map_or(1, |batch| batch.len() as u32);
        committer.make_room(events).await?;
        if self.engine.shutdown.is_stopping() {
            return Err(Ended::Stopped);
        }
        self.progress.begins(first.id);
        let counts = &self.progress.counts;
        let (settlement, consumer) = match taker {
            Taker::Unnamed => {
                let reason = "the field `event` is missing or is not `Name@version`".to_owned();
                (Settlement::Dead { cause: settle::Cause::Decode, reason }, "")
            }
            Taker::Nobody => {
                count(&counts.passed_over, 1);
                committer.settle(held);
                return Ok(Ok(false));
            }
            Taker::Consumer(consumer) => {
                let handler = &self.handlers[consumer];
                match self.attempts(lease, committer, &Delivery { handler, first, batch, tried }).await? {
                    Ok(settlement) => (settlement, handler.registration.info.name),
                    Err(apart) => return Ok(Err(apart)),
                }
            }
        };
        match settlement {
            Settlement::Done => {
                count(&counts.done, events.into());
            }
            Settlement::Skipped { reason } => {
                count(&counts.skipped, events.into());
                tracing::debug!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %first.id, events, reason, "skipped");
            }
            Settlement::Dead { cause, reason } => {
                let attempts = committer.ledger.failed_attempts(first.id).max(tried) + 1;
                tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %first.id, event = %first.event_id(), consumer, attempts, cause = cause.as_str(), reason, "dead letter");
                let letter = dead_letter::fields(&self.key, consumer, first, cause, &reason, attempts);
                committer.settle_dead(first, letter);
                // The letter is in the commit that passes the event: nothing runs beyond it before that is known.
                // That may be never, when there is no room for it, and a stop must not wait for an operator.
                tokio::select! {
                    biased;
                    done = committer.finish() => done?,
                    () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                }
                counts.dead(cause);
                return Ok(Ok(true));
            }
        }
        if held.len() > 1 {
            count(&counts.passed_over, held.len() as u64 - u64::from(events));
        }
        committer.settle(held);
        Ok(Ok(false))
    }

    /// Calls the handler until it is clear what becomes of the event, or of all events of a batch.
    async fn attempts(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        delivery: &Delivery<'_>,
    ) -> Result<Result<Settlement, Apart>, Ended> {
        let Delivery { handler, first: entry, batch, tried } = delivery;
        loop {
            let attempt = committer.ledger.failed_attempts(entry.id).max(*tried) + 1;
            let ctx = Context::new(Arc::clone(&handler.scope), Arc::clone(entry), attempt);
            let random = || self.engine.random.fraction();
            let decision = match batch {
                None => decide(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random),
                Some(batch) => {
                    let ctx = ctx.with_entries(Arc::clone(batch));
                    decide_batch(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random)
                }
            };
            match decision {
                Decision::Settle(settlement) => return Ok(Ok(settlement)),
                Decision::Apart { undecodable, reason } => {
                    // The one that cannot be decoded is reported by itself.
                    if !undecodable {
                        let events = batch.as_ref().map_or(1, |batch| batch.len());
                        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), events, consumer = handler.registration.info.name, attempt, reason, "a batch failed as a whole; going on with its events one by one");
                    }
                    return Ok(Err(Apart { undecodable, tried: attempt }));
                }
                Decision::Halt { reason } => {
                    return Err(self.halted(format!(
                        "{}: entry {}: {reason}; or pass it over with `{}` if it should not be there",
                        self.key,
                        entry.id,
                        self.reset_behind(entry.id)
                    )));
                }
                Decision::Retry { after, reason } => {
                    count(&self.progress.counts.retried, 1);
                    let events = batch.as_ref().map_or(1, |batch| batch.len());
                    let wait = humantime::format_duration(Duration::from_millis(millis(after)));
                    tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), events, consumer = handler.registration.info.name, attempt, reason, "attempt failed; trying again in {wait}");
                    committer.ledger.attempt_failed(entry.id, attempt);
                    let next = tokio::time::sleep(after);
                    tokio::pin!(next);
                    loop {
                        tokio::select! {
                            biased;
                            () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                            () = lease.lost() => return Err(Ended::Lost),
                            () = self.place.wanted() => return Err(self.hand_over()),
                            done = committer.progress() => done?,
                            () = &mut next => break,
                        }
                    }
                }
            }
        }
    }

    /// Calls the handler once: within its timeout, while the lease is held, and with its panics caught.
    pub(crate) async fn attempt(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        handler: &Handler,
        ctx: Context,
    ) -> Result<Result<Outcome, Failure>, Ended> {
        let began = Instant::now();
        if !lease.is_held(began) {
            return Err(Ended::Lost);
        }
        committer.now = began;
        let timeout = handler.policy.timeout;
        // A handler that yields is cancelled at its timeout; one that does not keeps the lease only a lease longer.
        lease.handler_begins(began, timeout.saturating_add(self.engine.lease_for));
        let span = trace::process(&handler.scope, ctx.entries(), ctx.attempt());
        let mut call = Caught::new(trace::within(&span, handler.registration.call(ctx)));
        // Most handlers never wait: what follows is set up only for those that do.
        let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut call).poll(cx))).await;
        let result = match first {
            Poll::Ready(result) => result,
            Poll::Pending => {
                let deadline = tokio::time::sleep_until(after(began, timeout));
                tokio::pin!(deadline);
                loop {
                    tokio::select! {
                        biased;
                        result = &mut call => break result,
                        () = &mut deadline => break Err(Failure::TimedOut(timeout)),
                        () = lease.lost() => return Err(Ended::Lost),
                        () = self.engine.shutdown.cutting() => return Err(Ended::Stopped),
                        done = committer.progress() => done?,
                    }
                }
            }
        };
        lease.handler_ended();
        handler.duration.record(began.elapsed());
        trace::ended(&span, result.as_ref().err().map(|failure| settle::Cause::of(failure).as_str()));
        Ok(result)
    }
}
