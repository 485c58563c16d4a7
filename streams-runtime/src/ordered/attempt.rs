//! The attempts at an event that runs by itself, or at a batch, until its outcome is final.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use streams_core::{Context, Entry, Outcome};
use tokio::time::Instant;

use super::commit::Committer;
use crate::clock::after;
use crate::group::{Caught, Decision, Ended, Failed, GroupTask, Handler, Settlement, decide, decide_batch};
use crate::membership::Lease;
use crate::ops::trace;

/// What a handler is called with until it is clear what becomes of it.
pub(super) struct Delivery<'a> {
    pub(super) handler: &'a Handler,
    /// The event, or the first of several.
    pub(super) first: &'a Arc<Entry>,
    /// All events of a batch of several.
    pub(super) batch: Option<Arc<[Arc<Entry>]>>,
    /// Attempts at the batch that the event was in before it came to be alone.
    pub(super) tried: u32,
}

/// Why a batch cannot be settled as one.
#[derive(Debug)]
pub(super) struct Apart {
    /// An event of it cannot be decoded.
    pub(super) undecodable: bool,
    /// How often it was tried.
    pub(super) tried: u32,
}

impl GroupTask {
    /// Calls the handler until it is clear what becomes of the event, or of all events of a batch.
    pub(super) async fn attempts(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        delivery: &Delivery<'_>,
    ) -> Result<Result<Settlement, Apart>, Ended> {
        let Delivery { handler, first: entry, batch, tried } = delivery;
        loop {
            let attempt = committer.ledger.failed_attempts(entry.id).max(*tried) + 1;
            let ctx = Context::new(Arc::clone(&handler.scope), Arc::clone(entry), attempt);
            let random = || self.services.random.fraction();
            let turn = committer.charge(entry.id, &handler.policy).await?;
            let decision = match batch {
                None => decide(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random),
                Some(batch) => {
                    let ctx = ctx.with_entries(Arc::clone(batch));
                    decide_batch(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random)
                }
            };
            drop(turn);
            committer.came_back(entry.id);
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
                Decision::Retry { after, reason } => {
                    let events = batch.as_ref().map_or(1, |batch| batch.len());
                    self.attempt_failed(committer, handler, entry, events, attempt, after, &reason);
                    let next = tokio::time::sleep(after);
                    tokio::pin!(next);
                    loop {
                        tokio::select! {
                            biased;
                            () = self.services.shutdown.stopping() => return Err(Ended::Stopped),
                            () = lease.lost() => return Err(Ended::Fenced),
                            () = self.seat.wanted() => return Err(self.hand_over()),
                            done = committer.progress() => done?,
                            () = &mut next => break,
                        }
                        committer.may_go_on()?;
                    }
                }
            }
        }
    }

    /// Calls the handler once: within its timeout, while the lease is held, and with its panics caught.
    pub(super) async fn attempt(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        handler: &Handler,
        ctx: Context,
    ) -> Result<Result<Outcome, Failed>, Ended> {
        let began = Instant::now();
        if !lease.is_held(began) {
            return Err(Ended::Fenced);
        }
        committer.now = began;
        let timeout = handler.policy.timeout;
        // A handler that yields is cancelled at its timeout; one that does not keeps the lease only a lease longer.
        lease.handler_begins(began, timeout.saturating_add(self.services.lease_for));
        let (span, id) = (trace::process(&handler.scope, ctx.entries(), ctx.attempt()), ctx.entry_id());
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
                        () = &mut deadline => break Err(Failed::timed_out(timeout)),
                        () = lease.lost() => return Err(Ended::Fenced),
                        () = self.services.shutdown.cutting() => return Err(Ended::Stopped),
                        done = committer.progress() => done?,
                    }
                }
            }
        };
        lease.handler_ended();
        let took = began.elapsed();
        handler.duration.record(took);
        handler.late.tell(id, took, timeout);
        trace::ended(&span, result.as_ref().err().map(|failed| failed.cause.as_str()));
        Ok(result)
    }
}
