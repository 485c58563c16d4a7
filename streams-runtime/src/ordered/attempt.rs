//! An event or a batch that runs alone, attempt by attempt, until its outcome is final and it is settled.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use streams_core::{Context, Entry, Outcome};
use tokio::time::Instant;

use super::batch::Held;
use super::commit::End;
use super::owned::Owned;
use crate::clock::after;
use crate::group::{Attempt, Caught, Decision, Ended, Failed, Handler, Letter, Taker, decide, decide_batch};
use crate::ops::trace;

/// An event or a batch that a consumer takes, until its outcome is final.
struct Handled<'a> {
    handler: &'a Handler,
    /// The event, or the first of the batch.
    first: &'a Arc<Entry>,
    events: u32,
    /// All events of a batch of several.
    batch: Option<Arc<[Arc<Entry>]>>,
    /// The attempts at the batch in which the event was before it came to be alone.
    tried: u32,
}

/// Why a batch cannot be settled as one.
#[derive(Debug)]
pub(super) struct Apart {
    /// An event of the batch cannot be decoded.
    pub(super) undecodable: bool,
    /// How often the batch was tried.
    pub(super) tried: u32,
}

impl Handled<'_> {
    fn failed_attempts(&self, owned: &Owned<'_>) -> u32 {
        owned.committer.ledger.failed_attempts(self.first.id).max(self.tried)
    }
}

impl Owned<'_> {
    /// Handles an entry, or a batch, to its end. Returns whether it became a dead letter, or why the batch cannot be settled as
    /// one.
    pub(super) async fn handle(
        &mut self,
        taker: Taker,
        held: &[Held],
        tried: u32,
    ) -> Result<Result<bool, Apart>, Ended> {
        let (task, first) = (self.task, &held[0].entry);
        let batch: Option<Arc<[_]>> = (held.len() > 1)
            .then(|| held.iter().filter(|held| held.is_event).map(|held| Arc::clone(&held.entry)).collect());
        let events = batch.as_ref().map_or(1, |batch| batch.len() as u32);
        self.committer.make_room(events).await?;
        if task.services.shutdown.is_stopping() {
            return Err(Ended::Stopped);
        }
        task.progress.begins(first.id);
        let letter = match taker {
            Taker::Consumer(consumer) => {
                let handled = Handled { handler: &task.handlers[consumer], first, events, batch, tried };
                match self.give_up(consumer, first, handled.failed_attempts(self)) {
                    Some(letter) => Some(letter),
                    None => match self.attempts(&handled).await? {
                        Ok(letter) => letter,
                        Err(apart) => return Ok(Err(apart)),
                    },
                }
            }
            _ => task.without_taker(taker, first),
        };
        let dead = letter.as_ref().map(|letter| letter.cause);
        let ends = held.iter().map(|Held { entry, is_event }| End {
            id: entry.id,
            event_id: entry.given_id().unwrap_or_default(),
            is_event: *is_event,
            passed_over: entry.event().filter(|_| !is_event && !matches!(taker, Taker::Unnamed)),
        });
        self.settle(ends, letter);
        let Some(cause) = dead else { return Ok(Ok(false)) };
        // Nothing runs beyond a dead letter before the server has acknowledged the commit with it. That may be never, when there
        // is no room for the letter, and a stop must not wait for an operator.
        tokio::select! {
            biased;
            done = self.committer.finish() => done?,
            () = task.services.shutdown.stopping() => return Err(Ended::Stopped),
        }
        task.progress.counts.dead(cause);
        Ok(Ok(true))
    }

    /// Calls the handler until the outcome of the event, or of all events of the batch, is final. Returns the letter of a dead
    /// event.
    async fn attempts(&mut self, handled: &Handled<'_>) -> Result<Result<Option<Letter>, Apart>, Ended> {
        let (consumer, first, events) = (handled.handler.name(), handled.first, handled.events);
        loop {
            let number = handled.failed_attempts(self) + 1;
            let attempt = Attempt { consumer, entry: first, events, number };
            match self.charged_attempt(handled, number).await? {
                Decision::Settle(settlement) => return Ok(Ok(self.task.ended(settlement, &attempt))),
                Decision::Apart { undecodable, reason } => {
                    // The event that cannot be decoded is reported by itself.
                    if !undecodable {
                        tracing::warn!(group = self.task.key.group(), partition = self.task.key.partition().as_str(), entry = %first.id, event = %first.event_id(), events, consumer, attempt = number, reason, "a batch failed as a whole; going on with its events one by one");
                    }
                    return Ok(Err(Apart { undecodable, tried: number }));
                }
                Decision::Retry { after, reason } => {
                    self.attempt_failed(&attempt, after, &reason);
                    let next = tokio::time::sleep(after);
                    tokio::pin!(next);
                    loop {
                        tokio::select! {
                            biased;
                            done = self.interrupted() => done?,
                            () = &mut next => break,
                        }
                        self.committer.may_go_on()?;
                    }
                }
            }
        }
    }
    /// Runs one attempt, which is charged first where the event is under recovery.
    async fn charged_attempt(&mut self, handled: &Handled<'_>, number: u32) -> Result<Decision, Ended> {
        let (task, Handled { handler, first, batch, .. }) = (self.task, handled);
        let random = || task.services.random.fraction();
        let ctx = Context::new(Arc::clone(&handler.scope), Arc::clone(first), number);
        let permit = self.committer.charge(first.id, &handler.policy).await?;
        let decision = match batch {
            None => decide(self.attempt(handler, ctx).await?, number, &handler.policy, random),
            Some(batch) => {
                let ctx = ctx.with_entries(Arc::clone(batch));
                decide_batch(self.attempt(handler, ctx).await?, number, &handler.policy, random)
            }
        };
        drop(permit);
        self.committer.came_back(first.id);
        Ok(decision)
    }

    /// Calls the handler once: within its timeout, while the lease is held, and with its panics caught.
    pub(super) async fn attempt(&mut self, handler: &Handler, ctx: Context) -> Result<Result<Outcome, Failed>, Ended> {
        let (lease, services, began) = (self.lease, &self.task.services, Instant::now());
        if !lease.is_held(began) {
            return Err(Ended::Fenced);
        }
        self.committer.now = began;
        let timeout = handler.policy.timeout;
        // A handler that yields is cancelled at its timeout; one that does not keeps the lease only a lease longer.
        lease.handlers_until(Some(after(began, timeout.saturating_add(services.lease_for))));
        let (span, id) = (trace::process(&handler.scope, ctx.entries(), ctx.attempt()), ctx.entry_id());
        let mut call = Caught::new(trace::within(&span, handler.registration.call(ctx)));
        // Most handlers never wait, so the timer is set up only for those that do.
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
                        () = &mut deadline => break Err(Failed::timed_out(timeout)),
                        () = lease.lost() => return Err(Ended::Fenced),
                        () = services.shutdown.cutting() => return Err(Ended::Stopped),
                        done = self.committer.progress() => done?,
                    }
                }
            }
        };
        lease.handlers_until(None);
        let took = began.elapsed();
        handler.duration.record(took);
        handler.late.log(id, took, timeout);
        trace::ended(&span, result.as_ref().err().map(|failed| failed.cause.as_str()));
        Ok(result)
    }
}
