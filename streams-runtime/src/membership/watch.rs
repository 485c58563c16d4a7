//! The watch over an owner: it is gone when owner, epoch and beat stand still for a whole lease; pure.

use std::time::Duration;

use streams_core::broker::{GroupState, LeaseView};
use tokio::time::Instant;

use crate::clock::after;

/// A contender's next step after it has read a lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody holds it, or nobody has renewed it for a whole lease.
    Claim,
    /// Look again when this is over, or when the bell rings.
    Wait(Duration),
}

/// The part of its lease that a gap counts for: time in which nobody could look, or did.
const GAP: u32 = 4;

/// Since when something looks the same to whoever looks at it again and again.
///
/// A value that only grows, as a beat does, and is the same behind a gap as before it, stood still. Yet a gap counts for a
/// quarter of the lease at most. A living process needs time to be heard of after it. A server that has lost its last
/// writes in the gap counts some beats twice.
#[derive(Debug)]
pub(crate) struct Still<T>(Option<Seen<T>>);

#[derive(Debug)]
struct Seen<T> {
    what: T,
    since: Instant,
    last: Instant,
    /// A gap lies behind the last look.
    gap: bool,
}

impl<T> Default for Still<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: PartialEq> Still<T> {
    /// Takes up what was seen just now, of something with this lease; answers since when it is so.
    pub(crate) fn observe(&mut self, what: T, lease_for: Duration, now: Instant) -> Instant {
        match &mut self.0 {
            Some(seen) if seen.what == what => {
                if std::mem::take(&mut seen.gap) {
                    seen.since = after(seen.since, now.duration_since(seen.last).saturating_sub(lease_for / GAP));
                }
                seen.last = now;
                seen.since
            }
            _ => self.0.insert(Seen { what, since: now, last: now, gap: false }).since,
        }
    }

    /// Since when it is so, as of the last look.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.as_ref().map(|seen| seen.since)
    }

    /// Until the next look nobody looks, or can.
    pub(crate) fn doubt(&mut self) {
        if let Some(seen) = &mut self.0 {
            seen.gap = true;
        }
    }
}

/// A contender's watch over one lease.
#[derive(Debug, Default)]
pub(super) struct Watch(Still<LeaseView>);

impl Watch {
    /// Judges what was read just now.
    pub(super) fn observe(&mut self, state: &GroupState, now: Instant) -> Verdict {
        if state.lease.owner.is_empty() {
            return Verdict::Claim;
        }
        let since = self.0.observe(state.lease.clone(), state.lease_for, now);
        match after(since, state.lease_for).checked_duration_since(now) {
            Some(left) if !left.is_zero() => Verdict::Wait(left),
            _ => Verdict::Claim,
        }
    }

    /// See [`Still::doubt`].
    pub(super) fn doubt(&mut self) {
        self.0.doubt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streams_core::EntryId;
    use streams_core::broker::Events;

    fn state(owner: &str, beat: u64) -> GroupState {
        GroupState {
            lease: LeaseView { owner: owner.to_owned(), epoch: 3, beat },
            lease_for: Duration::from_secs(10),
            at: EntryId::ZERO,
            reset: 0,
            resume: 0,
            events: Events::new(),
            needs: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_contender_waits_a_whole_lease_from_the_last_beat_it_saw() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let secs = Duration::from_secs;
        assert_eq!(watch.observe(&state("x", 1), start), Verdict::Wait(secs(10)));
        assert_eq!(watch.observe(&state("x", 1), start + secs(9)), Verdict::Wait(secs(1)));
        assert_eq!(watch.observe(&state("x", 2), start + secs(9)), Verdict::Wait(secs(10)));
        assert_eq!(watch.observe(&state("x", 2), start + secs(19)), Verdict::Claim);
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_that_is_the_same_behind_a_gap_counts_on_and_the_gap_for_a_quarter_at_most() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let secs = Duration::from_secs;
        watch.observe(&state("x", 1), start);
        watch.observe(&state("x", 1), start + secs(4));
        watch.doubt();
        assert_eq!(watch.observe(&state("x", 1), start + secs(6)), Verdict::Wait(secs(4)), "all of a short one");
        watch.doubt();
        let left = Verdict::Wait(Duration::from_millis(1500));
        assert_eq!(
            watch.observe(&state("x", 1), start + secs(60)),
            left,
            "who was cut off, too, has time to come back"
        );
        assert_eq!(watch.observe(&state("x", 1), start + secs(62)), Verdict::Claim);
        watch.doubt();
        assert_eq!(watch.observe(&state("x", 2), start + secs(63)), Verdict::Wait(secs(10)), "it was alive in the gap");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_owner_needs_no_watch_and_the_owners_length_counts() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert_eq!(watch.observe(&state("", 1), start), Verdict::Claim);
        let short = GroupState { lease_for: Duration::from_secs(1), ..state("x", 1) };
        assert_eq!(watch.observe(&short, start), Verdict::Wait(Duration::from_secs(1)));
        assert_eq!(watch.observe(&short, start + Duration::from_secs(1)), Verdict::Claim);
    }
}
