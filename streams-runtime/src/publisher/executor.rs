//! Where the tasks of a publisher run: on its callers' executors, on that of its app, or on a thread of its own.
//!
//! [`queue`](super::queue) writes there, and what is read for a publisher is read there. A connection lives on the executor that
//! made it, so a publisher of a server that outlives its callers' executors must not connect on theirs.

use std::future::Future;
use std::sync::Arc;

use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Renewal};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

/// The executor of a publisher, cheap to clone. A thread of its own ends with the last clone.
#[derive(Clone)]
pub(crate) struct Executor {
    /// That of each call where there is none.
    fixed: Option<Handle>,
    _thread: Option<Arc<DropGuard>>,
}

impl Executor {
    /// The executor of whoever calls.
    pub(crate) fn of_the_caller() -> Self {
        Self { fixed: None, _thread: None }
    }

    /// The executor on which this is called.
    pub(crate) fn current() -> Self {
        Self { fixed: Handle::try_current().ok(), _thread: None }
    }

    /// The one for a publisher alone: a thread of its own, unless the broker lives in the process and in its time.
    pub(super) fn alone(broker: &dyn Broker) -> Self {
        if broker.renewal() == Renewal::CallersExecutor {
            return Self::of_the_caller();
        }
        Self::on_a_thread().unwrap_or_else(|error| {
            tracing::warn!(%error, "a publisher writes on the executors of its callers, as its thread could not be started");
            Self::of_the_caller()
        })
    }

    fn on_a_thread() -> std::io::Result<Self> {
        let (end, executor) = (CancellationToken::new(), Builder::new_current_thread().enable_all().build()?);
        let (handle, ended) = (executor.handle().clone(), end.clone());
        let log = tracing::dispatcher::get_default(Clone::clone);
        std::thread::Builder::new()
            .name("streams-publish".to_owned())
            // Its log lines go where those of the program do.
            .spawn(move || tracing::dispatcher::with_default(&log, || executor.block_on(ended.cancelled())))?;
        Ok(Self { fixed: Some(handle), _thread: Some(Arc::new(end.drop_guard())) })
    }

    /// Where a task may be spawned; `None` outside of any executor.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.fixed.clone().or_else(|| Handle::try_current().ok())
    }

    /// Runs a call to the broker here.
    ///
    /// # Cancel safety
    /// As the call, which is dropped soon after.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, BrokerError>> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let Some(executor) = &self.fixed else { return call.await };
        let called = AbortOnDropHandle::new(executor.spawn(call)).await;
        called.unwrap_or_else(|_| Err(ended(BrokerErrorKind::Indefinite)))
    }
}

pub(super) fn ended(kind: BrokerErrorKind) -> BrokerError {
    BrokerError::new(kind, "the executor on which the publisher wrote has ended")
}
