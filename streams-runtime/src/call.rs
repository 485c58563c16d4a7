//! One call of a handler, whose panics are failed attempts.
//!
//! [`deliver`](crate::deliver) sets its limits.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use streams_core::{Context, Failure, Outcome};
use tokio::time::Instant;

use crate::ordered::Handler;
use crate::settle::Cause;
use crate::trace;

pub(crate) type Call = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// A handler's future whose panic is a failed attempt.
pub(crate) struct Caught {
    /// `None` once it has panicked: it is never polled again, so nobody sees what it left half done.
    call: Option<Call>,
}

impl Future for Caught {
    type Output = Result<Outcome, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        match std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                self.discard();
                Poll::Ready(Err(Failure::Panic(said(&*panic))))
            }
        }
    }
}

impl Handler {
    /// The function's name.
    pub(crate) fn name(&self) -> &'static str {
        self.registration.info.name
    }

    /// Calls the function once, for a task of its own: within its timeout, and with its panics caught.
    pub(crate) fn call(&self, ctx: Context) -> impl Future<Output = Result<Outcome, Failure>> + Send + use<> {
        let (timeout, duration) = (self.policy.timeout, Arc::clone(&self.duration));
        let span = trace::process(&self.scope, ctx.entries(), ctx.attempt());
        let call = Caught::new(trace::within(&span, self.registration.call(ctx)));
        async move {
            let began = Instant::now();
            let result = tokio::time::timeout(timeout, call).await.unwrap_or(Err(Failure::TimedOut(timeout)));
            duration.record(began.elapsed());
            trace::ended(&span, result.as_ref().err().map(|failure| Cause::of(failure).as_str()));
            result
        }
    }
}

impl Caught {
    pub(crate) fn new(call: Call) -> Self {
        Self { call: Some(call) }
    }

    /// Drops what the handler holds: a `Drop` of the user's that panics must not take the group with it.
    fn discard(&mut self) {
        let Some(call) = self.call.take() else { return };
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(call))) {
            tracing::error!(panic = said(&*panic), "a handler panicked while it was dropped");
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        self.discard();
    }
}

/// What this returns; its panic is a failed attempt.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(Failure::Panic(said(&*panic))))
}

fn said(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "with a value that is not text".to_owned(),
    }
}
