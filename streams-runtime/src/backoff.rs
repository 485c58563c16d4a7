//! How long to wait before the next attempt; pure.

use std::time::Duration;

use streams_core::Backoff;

/// The waits between attempts at a server that is away: a broken connection is soon back, and a server that stays away
/// is not hammered.
pub(crate) const OUTAGE_BACKOFF: Backoff = Backoff { first: Duration::from_millis(40), max: Duration::from_secs(1) };

/// The wait after so many failed attempts: doubled after each, at most `max`, less up to half of it.
pub(crate) fn wait(backoff: Backoff, attempt: u32, random: f64) -> Duration {
    let doubled = backoff.first.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let full = doubled.min(backoff.max);
    full.saturating_sub(Duration::try_from_secs_f64(full.as_secs_f64() * random / 2.0).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_millis(300) };

    #[test]
    fn the_wait_is_capped_and_jitter_takes_at_most_half() {
        assert_eq!(wait(BACKOFF, 40, 0.0), Duration::from_millis(300));
        assert_eq!(wait(BACKOFF, 40, 1.0), Duration::from_millis(150));
        assert_eq!(wait(Backoff { first: Duration::MAX, max: Duration::MAX }, u32::MAX, 0.0), Duration::MAX);
    }
}
