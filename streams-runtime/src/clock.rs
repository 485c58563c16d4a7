//! The one seam for time: tokio's clock, so that a paused executor is virtual time for everything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since the app began, and what the wall said then.
///
/// The wall is read once: afterwards both run on the monotonic clock, so a jump of the system's time moves nothing here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    wall_ms: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self::starting(SystemTime::now())
    }

    /// As if the wall said this now.
    pub(crate) fn starting(wall: SystemTime) -> Self {
        Self { start: Instant::now(), wall_ms: millis(wall.duration_since(UNIX_EPOCH).unwrap_or_default()) }
    }

    /// Milliseconds since the app began, never zero, so that zero can mean "not set".
    pub(crate) fn millis(&self) -> u64 {
        self.millis_at(Instant::now())
    }

    /// The same for a moment that was taken before.
    pub(crate) fn millis_at(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.start)) + 1
    }

    /// The moment at which [`Self::millis`] says this.
    pub(crate) fn instant_at(&self, millis: u64) -> Instant {
        after(self.start, Duration::from_millis(millis.saturating_sub(1)))
    }

    /// Milliseconds since 1970.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.wall_ms + self.millis()
    }
}

/// This long after a moment: `Duration::MAX` is how people write "never", and no clock can say when that is.
pub(crate) fn after(moment: Instant, wait: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    moment.checked_add(wait).unwrap_or_else(|| moment + NEVER)
}

/// A duration in milliseconds; what does not fit is for ever.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until the moment; for ever where there is none.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
