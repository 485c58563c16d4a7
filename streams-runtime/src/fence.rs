//! The fence around the user's code: a panic inside becomes a text outside, and takes nothing else along.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Poll;

use tokio::task::JoinError;

/// The value that this returns, or the text of its panic.
pub(crate) fn unwound<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(said)
}

/// The value of the future, or the text of its panic.
///
/// # Cancel safety
/// As that of the future.
pub(crate) async fn fenced<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = Some(Box::pin(future));
    std::future::poll_fn(|cx| {
        let Some(running) = &mut future else { return Poll::Pending };
        unwound(|| running.as_mut().poll(cx).map(Ok)).unwrap_or_else(|panic| {
            discard(future.take());
            Poll::Ready(Err(panic))
        })
    })
    .await
}

/// The result of a task that fences the user's code: a panic is this crate's own, and goes on here. `None` where the executor ends.
pub(crate) fn ours<T>(joined: Result<T, JoinError>) -> Option<T> {
    joined.map_or_else(|error| error.try_into_panic().map_or(None, |panic| resume_unwind(panic)), Some)
}

/// Drops what holds something of the user's: a `Drop` that panics must not take the group with it.
pub(crate) fn discard<T>(value: T) {
    if let Err(panic) = unwound(|| drop(value)) {
        tracing::error!(panic, "a value of the program's own panicked while it was dropped");
    }
}

/// The text of a panic. Its payload is the user's own value and may panic when it is dropped, with another value.
fn said(panic: Box<dyn Any + Send>) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "with a value that is not text".to_owned(),
    };
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // Better lost than dropped: nobody knows how many it has in it.
        std::mem::forget(another);
    }
    text
}
