//! One call of a handler, whose panics are failed attempts.
//!
//! A call ends with an [`Outcome`] or a [`Failed`], which holds no value of the user's: an error is shown and dropped inside
//! [the fence](crate::fence). The delivery sets the limits of a call.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use streams_core::{Context, EntryId, Failure, Outcome, Registration, Scope};
use tokio::time::Instant;

use super::settle::{Failed, Policy};
use crate::fence::{discard, unwound};
use crate::ops::{Calls, trace};

/// By how much a handler that yields may be over its timeout, on a machine that is busy.
const SLACK: Duration = Duration::from_millis(100);
/// How often the log says of a consumer that its handler blocks.
const REMINDER: Duration = Duration::from_secs(60);

/// One consumer of the group.
pub(crate) struct Handler {
    pub(crate) registration: Registration,
    pub(crate) policy: Policy,
    pub(crate) scope: Arc<Scope>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) late: Arc<Late>,
}

pub(super) type Call = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// A handler's future whose panic is a failed attempt.
pub(crate) struct Caught {
    /// `None` once it has panicked: it is never polled again, so nobody sees its half-done work.
    call: Option<Call>,
}

impl Future for Caught {
    type Output = Result<Outcome, Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        // Shown and dropped in here, an error is as safe as the handler itself.
        unwound(|| call.as_mut().poll(cx).map_err(Failed::of)).unwrap_or_else(|panic| {
            discard(self.call.take());
            Poll::Ready(Err(Failed::of(Failure::Panic(panic))))
        })
    }
}

impl Handler {
    /// The function's name.
    pub(crate) fn name(&self) -> &'static str {
        self.registration.info.name
    }

    /// Calls the function once, for a task of its own: within its timeout, and with its panics caught.
    pub(crate) fn call(&self, ctx: Context) -> impl Future<Output = Result<Outcome, Failed>> + Send + use<> {
        let (timeout, calls, late) = (self.policy.timeout, Arc::clone(&self.calls), Arc::clone(&self.late));
        let (span, id) = (trace::process(&self.scope, ctx.entries(), ctx.attempt()), ctx.entry_id());
        let call = Caught::new(trace::within(&span, self.registration.call(ctx)));
        async move {
            let began = Instant::now();
            let result = tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(Failed::timed_out(timeout)));
            let took = began.elapsed();
            calls.ended(id, took, result.as_ref().err().map(|failed| failed.reason.as_str()));
            late.log(id, took, timeout);
            trace::ended(&span, result.as_ref().err().map(|failed| failed.cause.as_str()));
            result
        }
    }
}

impl Caught {
    pub(crate) fn new(call: Call) -> Self {
        Self { call: Some(call) }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        discard(self.call.take());
    }
}

/// Logs handlers that do not yield. A handler can be cancelled at its timeout only when it yields.
#[derive(Debug)]
pub(crate) struct Late {
    group: &'static str,
    partition: String,
    consumer: &'static str,
    logged: Mutex<Option<Instant>>,
}

impl Late {
    pub(crate) fn new(group: &'static str, partition: &str, consumer: &'static str) -> Self {
        Self { group, partition: partition.to_owned(), consumer, logged: Mutex::default() }
    }

    /// Logs an attempt that ran past its timeout, unless the log said so lately.
    pub(crate) fn log(&self, entry: EntryId, took: Duration, timeout: Duration) {
        if took < timeout.saturating_add(SLACK) {
            return;
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_some_and(|logged| logged.elapsed() < REMINDER) {
            return;
        }
        *logged = Some(Instant::now());
        drop(logged);
        tracing::warn!(
            group = self.group,
            partition = self.partition,
            %entry,
            consumer = self.consumer,
            took = %humantime::format_duration(Duration::from_millis(crate::clock::millis(took))),
            timeout = %humantime::format_duration(timeout),
            "a handler ran past its timeout, at which it can be cancelled only when it yields: it blocks its thread, or another one does; run what blocks in `tokio::task::spawn_blocking`"
        );
    }
}

/// Calls a function of the user, whose panic is a failed attempt.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failed> {
    unwound(|| call().map_err(Failed::of)).unwrap_or_else(|panic| Err(Failed::of(Failure::Panic(panic))))
}
