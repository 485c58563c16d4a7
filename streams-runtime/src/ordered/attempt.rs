//! An event or a batch that runs alone, attempt by attempt, until its outcome is final and it is settled.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use streams_core::{Context, Entry, EntryId, Outcome};
use tokio::time::Instant;
use tracing::Span;

use super::batch::Held;
use super::commit::End;
use super::owned::Owned;
use crate::clock::after;
use crate::group::{
    Attempt, Caught, Decision, Ended, Failed, Handler, Letter, Settlement, Taker, decide, decide_batch,
};
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

/// A call of a handler that has begun.
pub(super) struct Running<'a> {
    handler: &'a Handler,
    call: Caught,
    began: Instant,
    span: Span,
    entry: EntryId,
}

/// The first attempt at an event that could not be settled at once.
pub(super) enum Begun<'a> {
    /// The handler waits for something.
    Waits(Running<'a>),
    /// It has ended, and not with `Done`.
    Ended(Result<Outcome, Failed>),
}

/// Why a batch cannot be settled as one.
#[derive(Debug)]
pub(super) struct Apart {
    /// An event of the batch cannot be decoded.
    pub(super) undecodable: bool,
    /// How often the batch was tried.
    pub(super) tried: u32,
}

impl Running<'_> {
    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<Outcome, Failed>> {
        Pin::new(&mut self.call).poll(cx)
    }
}

impl Handled<'_> {
    fn failed_attempts(&self, owned: &Owned<'_>) -> u32 {
        owned.committer.ledger.failed_attempts(self.first.id).max(self.tried)
    }
}

impl<'a> Owned<'a> {
    /// Whether [`Self::handle_at_once`] may be called with this entry.
    pub(super) fn may_handle_at_once(&self, id: EntryId) -> bool {
        self.committer.is_free()
            && self.committer.ledger.failed_attempts(id) == 0
            && !self.task.services.shutdown.is_stopping()
    }

    /// Handles an event whose handler neither waits nor fails, as most do: the waits of [`Self::handle`] cost more than such a
    /// handler. Returns the attempt where there is more to do. The handler begins at `now`.
    pub(super) fn handle_at_once(
        &mut self,
        cx: &mut task::Context<'_>,
        consumer: usize,
        entry: &Arc<Entry>,
    ) -> Result<Option<Begun<'a>>, Ended> {
        let task = self.task;
        task.progress.begins(entry.id);
        let handler = &task.handlers[consumer];
        let ctx = Context::new(Arc::clone(&handler.scope), Arc::clone(entry), 1);
        let mut running = self.begin(handler, ctx, self.now)?;
        let Poll::Ready(result) = running.poll(cx) else { return Ok(Some(Begun::Waits(running))) };
        let result = self.returned(&running, result);
        if !matches!(result, Ok(Outcome::Done)) {
            return Ok(Some(Begun::Ended(result)));
        }
        task.ended(Settlement::Done, &Attempt { consumer: handler.name(), entry, events: 1, number: 1 });
        let event_id = entry.given_id().unwrap_or_default();
        self.settle([End { id: entry.id, event_id, is_event: true, passed_over: None }], None);
        Ok(None)
    }

    /// Handles an entry, or a batch, to its end. Returns whether it became a dead letter, or why the batch cannot be settled as
    /// one.
    pub(super) async fn handle(
        &mut self,
        taker: Taker,
        held: &[Held],
        tried: u32,
        begun: Option<Begun<'a>>,
    ) -> Result<Result<bool, Apart>, Ended> {
        let (task, first) = (self.task, &held[0].entry);
        let batch: Option<Arc<[_]>> = (held.len() > 1)
            .then(|| held.iter().filter(|held| held.is_event).map(|held| Arc::clone(&held.entry)).collect());
        let events = batch.as_ref().map_or(1, |batch| batch.len() as u32);
        if begun.is_none() {
            self.committer.make_room(events).await?;
            if task.services.shutdown.is_stopping() {
                return Err(Ended::Stopped);
            }
            task.progress.begins(first.id);
        }
        let letter = match taker {
            Taker::Consumer(consumer) => {
                let handled = Handled { handler: &task.handlers[consumer], first, events, batch, tried };
                match self.give_up(consumer, first, handled.failed_attempts(self)) {
                    Some(letter) => Some(letter),
                    None => match self.attempts(&handled, begun).await? {
                        Ok(letter) => letter,
                        Err(apart) => return Ok(Err(apart)),
                    },
                }
            }
            _ => task.without_taker(taker, first),
        };
        let dead = letter.as_ref().map(|letter| letter.cause);
        let ends = held.iter().map(|Held { entry, is_event, is_repeat }| End {
            id: entry.id,
            event_id: entry.given_id().unwrap_or_default(),
            is_event: *is_event,
            passed_over: entry.event().filter(|_| !is_event && !is_repeat && !matches!(taker, Taker::Unnamed)),
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
    async fn attempts(
        &mut self,
        handled: &Handled<'_>,
        mut begun: Option<Begun<'a>>,
    ) -> Result<Result<Option<Letter>, Apart>, Ended> {
        let (consumer, first, events) = (handled.handler.name(), handled.first, handled.events);
        loop {
            let number = handled.failed_attempts(self) + 1;
            let attempt = Attempt { consumer, entry: first, events, number };
            let result = match begun.take() {
                Some(Begun::Waits(running)) => self.wait_for(running).await?,
                Some(Begun::Ended(result)) => result,
                None => self.charged_attempt(handled, number).await?,
            };
            let decide = if handled.batch.is_some() { decide_batch } else { decide };
            match decide(result, number, &handled.handler.policy, || self.task.services.random.fraction()) {
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

    /// Makes one attempt, which is charged first where the event is under recovery.
    async fn charged_attempt(&mut self, handled: &Handled<'_>, number: u32) -> Result<Result<Outcome, Failed>, Ended> {
        let Handled { handler, first, batch, .. } = handled;
        let mut ctx = Context::new(Arc::clone(&handler.scope), Arc::clone(first), number);
        if let Some(batch) = batch {
            ctx = ctx.with_entries(Arc::clone(batch));
        }
        let permit = self.committer.charge(first.id, &handler.policy).await?;
        let result = self.attempt(handler, ctx).await?;
        drop(permit);
        self.committer.came_back(first.id);
        Ok(result)
    }

    /// Calls the handler once: within its timeout, while the lease is held, and with its panics caught.
    async fn attempt(&mut self, handler: &Handler, ctx: Context) -> Result<Result<Outcome, Failed>, Ended> {
        let mut running = self.begin(handler, ctx, Instant::now())?;
        // Most handlers never wait, so the timer is set up only for those that do.
        match poll_fn(|cx| Poll::Ready(running.poll(cx))).await {
            Poll::Ready(result) => Ok(self.returned(&running, result)),
            Poll::Pending => self.wait_for(running).await,
        }
    }

    /// Begins a call of the handler, if the lease is held.
    fn begin<'h>(&mut self, handler: &'h Handler, ctx: Context, began: Instant) -> Result<Running<'h>, Ended> {
        if !self.lease.is_held(began) {
            return Err(Ended::Fenced);
        }
        self.committer.now = began;
        // A handler that yields is cancelled at its timeout; one that does not keeps the lease only a lease longer.
        let limit = handler.policy.timeout.saturating_add(self.task.services.lease_for);
        self.lease.handlers_until(Some(after(began, limit)));
        let (span, entry) = (trace::process(&handler.scope, ctx.entries(), ctx.attempt()), ctx.entry_id());
        let call = Caught::new(trace::within(&span, handler.registration.call(ctx)));
        Ok(Running { handler, call, began, span, entry })
    }

    /// Waits for a call that has begun, and goes on with commits meanwhile.
    async fn wait_for(&mut self, mut running: Running<'_>) -> Result<Result<Outcome, Failed>, Ended> {
        let (lease, services, timeout) = (self.lease, &self.task.services, running.handler.policy.timeout);
        let deadline = tokio::time::sleep_until(after(running.began, timeout));
        tokio::pin!(deadline);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut running.call => break result,
                () = &mut deadline => break Err(Failed::timed_out(timeout)),
                () = lease.lost() => return Err(Ended::Fenced),
                () = services.shutdown.cutting() => return Err(Ended::Stopped),
                done = self.committer.progress() => done?,
            }
        };
        Ok(self.returned(&running, result))
    }

    /// Takes note of a call that has come to its end.
    fn returned(&mut self, running: &Running<'_>, result: Result<Outcome, Failed>) -> Result<Outcome, Failed> {
        self.lease.handlers_until(None);
        self.now = Instant::now();
        let (took, handler) = (self.now - running.began, running.handler);
        handler.calls.ended(running.entry, took, result.as_ref().err().map(|failed| failed.reason.as_str()));
        handler.late.log(running.entry, took, handler.policy.timeout);
        trace::ended(&running.span, result.as_ref().err().map(|failed| failed.cause.as_str()));
        result
    }
}
