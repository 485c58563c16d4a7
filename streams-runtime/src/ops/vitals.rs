//! Signs of life of an app's own tasks, its registry of metrics, and whether anybody reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::metrics::Registry;
use crate::clock::{Clock, millis};
use crate::sync::lock;

/// For how long the end of partitions is looked at after somebody has read: longer than the minute between two reads of a
/// patient collector.
pub(super) const INTEREST: Duration = Duration::from_secs(150);

/// Signs of life of an app's own tasks, its figures, and whether anybody wants to know them.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    pub(crate) registry: Arc<Registry>,
    /// When the renewals last turned, in the clock's milliseconds.
    pub(super) beat: AtomicU64,
    pub(super) crashed: Mutex<Option<String>>,
    /// When somebody last read what the look is for; 0 for never.
    asked_at: AtomicU64,
    pub(super) asked: Notify,
}

impl Vitals {
    /// The renewals have turned.
    pub(crate) fn beat(&self, clock: &Clock) {
        self.beat.store(clock.millis(), Ordering::Relaxed);
    }

    /// A task of ours has panicked.
    pub(crate) fn crashed(&self, what: &str) {
        let text = format!("bug in streams-runtime: {what} panicked; please report it, and start the program again");
        lock(&self.crashed).get_or_insert(text);
    }

    /// Kept by a task as long as it lives: reports when it panics.
    pub(crate) fn alive(self: &Arc<Self>, what: &'static str) -> Sign {
        Sign { vitals: Arc::clone(self), what }
    }

    pub(super) fn ask(&self, clock: &Clock) {
        self.asked_at.store(clock.millis(), Ordering::Relaxed);
        self.asked.notify_one();
    }

    pub(super) fn is_asked(&self, clock: &Clock) -> bool {
        let asked_at = self.asked_at.load(Ordering::Relaxed);
        let recently = || clock.millis().saturating_sub(asked_at) < millis(INTEREST);
        // Nobody can see who reads a recorder.
        cfg!(feature = "metrics") || (asked_at != 0 && recently())
    }
}

/// See [`Vitals::alive`].
#[derive(Debug)]
pub(crate) struct Sign {
    vitals: Arc<Vitals>,
    what: &'static str,
}

impl Drop for Sign {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.vitals.crashed(self.what);
        }
    }
}
