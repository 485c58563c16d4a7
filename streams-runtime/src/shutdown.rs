//! How an app stops: first no more reading, then, at the deadline, no more handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long a group may take for its last commit and for giving its lease back, once its handlers are over.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// How long an app waits for its groups once handlers are dropped. The last commit and the release take less, so a server
/// that hangs is not taken for a handler that does not yield.
pub(crate) const PARTING: Duration = Duration::from_secs(5);

/// The two steps of a stop, as every group sees them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    stop: CancellationToken,
    /// The same for who only looks, as everybody does before each event: a look at a token takes its lock.
    is_stopping: Arc<AtomicBool>,
    cut: CancellationToken,
    /// A group has stopped the app, because it could not go on.
    has_failed: Arc<AtomicBool>,
}

impl Shutdown {
    /// No new event is begun; handlers that run may finish.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// The same, because a group cannot go on.
    pub(crate) fn fail(&self) {
        self.has_failed.store(true, Ordering::Release);
        self.stop();
    }

    /// Whether a group has stopped the app.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Handlers that still run are dropped at their next `.await`.
    pub(crate) fn cut(&self) {
        self.stop();
        self.cut.cancel();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Waits for the first step.
    pub(crate) async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for the second step.
    pub(crate) async fn cutting(&self) {
        self.cut.cancelled().await;
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a stop may have cut handlers short"]
pub enum Stopped {
    /// Every handler finished; everything is committed and every lease given back.
    Clean,
    /// A broadcast group with `on_failure = "stop"` has stopped the app, because an event failed for good. The log names the
    /// event.
    Failed,
    /// At the deadline some handlers still ran and were dropped; what was settled is committed. Their events
    /// come again.
    Aborted {
        /// How many.
        handlers: usize,
    },
    /// Every handler finished, but of some groups the last commit or the release failed, or their dead letters have no
    /// room. Events since the checkpoint come again, and others take over when the lease has run out.
    Uncommitted {
        /// How many groups, counted by partition.
        groups: usize,
    },
    /// Every handler finished and everything is committed, but events that were being published had no answer at the deadline:
    /// they may be lost.
    Unwritten,
    /// Some handlers did not yield even then: their leases are still held and renewed, until the process exits.
    Stuck {
        /// How many.
        handlers: usize,
    },
}
