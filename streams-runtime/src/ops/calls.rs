//! The calls of one handler in this process: how long they took, and the last that failed.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streams_core::EntryId;

use super::metrics::Histogram;
use crate::clock::Clock;
use crate::sync::lock;

/// The most bytes of a reason that are kept.
const MOST: usize = 1_000;

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastFailure {
    /// In milliseconds since 1970, by the machine's clock.
    pub(crate) at: u64,
    pub(crate) entry: EntryId,
    pub(crate) reason: String,
}

/// The calls of a handler on every partition.
pub(crate) struct Calls {
    duration: Arc<Histogram>,
    clock: Clock,
    failures: AtomicU64,
    last: Mutex<Option<LastFailure>>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl Calls {
    pub(crate) fn new(duration: Arc<Histogram>, clock: Clock) -> Self {
        Self { duration, clock, failures: AtomicU64::new(0), last: Mutex::default() }
    }

    /// A call has ended, with the reason where it failed.
    pub(crate) fn ended(&self, entry: EntryId, took: Duration, failure: Option<&str>) {
        self.duration.record(took);
        if let Some(reason) = failure {
            self.failures.fetch_add(1, Ordering::Relaxed);
            let end = (0..=reason.len().min(MOST)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or_default();
            let reason = reason[..end].to_owned();
            *lock(&self.last) = Some(LastFailure { at: self.clock.wall_ms(), entry, reason });
        }
    }

    /// How many calls took at most so many seconds and more than the bound before, then how long all took together, in
    /// seconds. The last bound is missing: those calls took longer than every other.
    #[cfg(feature = "console")]
    pub(crate) fn durations(&self) -> (Vec<(Option<f64>, u64)>, f64) {
        self.duration.buckets()
    }

    #[cfg(feature = "console")]
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    #[cfg(feature = "console")]
    pub(crate) fn last_failure(&self) -> Option<LastFailure> {
        lock(&self.last).clone()
    }
}

#[cfg(all(test, feature = "console"))]
mod tests {
    use super::super::metrics::Registry;
    use super::*;

    #[test]
    fn calls_are_counted_and_the_last_failure_is_kept_short() {
        let duration = Registry::default().histogram("streams_handler_duration_seconds", &["s", "g", "c"]);
        let calls = Calls::new(duration, Clock::new());
        calls.ended(EntryId::new(1, 0), Duration::from_millis(2), None);
        calls.ended(EntryId::new(2, 0), Duration::from_secs(60), Some("first"));
        calls.ended(EntryId::new(3, 0), Duration::from_millis(2), Some(&"ä".repeat(MOST)));
        let (buckets, seconds) = calls.durations();
        let some: Vec<_> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!((some, seconds), (vec![(Some(0.0025), 2), (None, 1)], 60.004));
        let last = calls.last_failure().unwrap();
        assert_eq!((calls.failures(), last.entry, last.reason.len()), (2, EntryId::new(3, 0), MOST));
    }
}
