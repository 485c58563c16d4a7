//! Whether the server can be used, as the whole app sees it: told once when it is gone and once when it is back.
//!
//! Everything that talks to the server by itself (a tail, the renewals, a group, the writer of a partition) is a
//! [`Contact`]. What one of them finds out is nothing that all the others should log, too; and as soon as one has an answer
//! again, all that wait try again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams_core::broker::BrokerError;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::millis;

/// How long trouble lasts before it is told: a connection that broke is back within this, and nobody needs to know.
const UNTOLD: Duration = Duration::from_millis(100);
/// How often trouble that lasts is told again.
const REMINDER: Duration = Duration::from_secs(60);

/// What all contacts of an app share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outages {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    over: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many contacts have trouble.
    troubled: usize,
    since: Option<Instant>,
    /// When the log was told of it.
    told: Option<Instant>,
    /// When anybody last had an answer.
    answered: Option<Instant>,
    /// What the server, or the lack of it, said last.
    reason: String,
}

/// Somebody who talks to the server by itself. Dropping it ends its trouble without a word.
#[derive(Debug)]
pub(crate) struct Contact {
    shared: Arc<Shared>,
    troubled: AtomicBool,
}

impl Outages {
    pub(crate) fn contact(&self) -> Contact {
        Contact { shared: Arc::clone(&self.shared), troubled: AtomicBool::new(false) }
    }

    /// What is wrong with the server at the moment, in words.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.shared.lock();
        // What was told is over when somebody had an answer, also where nobody asks at the moment.
        (state.troubled > 0 || state.told.is_some()).then(|| state.reason.clone())
    }

    /// Whether anybody had an answer lately: then the server is there, whoever else has none.
    pub(crate) fn answered_within(&self, time: Duration) -> bool {
        self.shared.lock().answered.is_some_and(|answered| answered.elapsed() <= time)
    }

    /// Waits until somebody who had trouble has an answer again.
    ///
    /// # Cancel safety
    /// What comes while nobody polls it is missed, so it only cuts a wait short that ends by itself.
    pub(crate) async fn over(&self) {
        self.shared.over.notified().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contact {
    /// The server could not be used, and it will be tried again.
    pub(crate) fn failed(&self, error: &BrokerError) {
        tracing::debug!(%error, "a call failed; it is tried again");
        let now = Instant::now();
        let mut state = self.shared.lock();
        if !self.troubled.swap(true, Ordering::Relaxed) {
            state.troubled += 1;
        }
        let lasted = now.duration_since(*state.since.get_or_insert(now));
        state.reason = error.to_string();
        let tell = match state.told {
            None => lasted >= UNTOLD,
            Some(told) => now.duration_since(told) >= REMINDER,
        };
        if tell {
            state.told = Some(now);
            drop(state);
            let lasted_s = lasted.as_secs();
            tracing::warn!(%error, lasted_s, "the server cannot be used: whatever needs it waits, and tries again until it can");
        }
    }

    /// The server gave an answer that is of use.
    pub(crate) fn succeeded(&self) {
        let mut state = self.shared.lock();
        let now = Instant::now();
        state.answered = Some(now);
        let recovered = self.leave(&mut state);
        let over = state.troubled == 0 && state.told.take().is_some();
        let since = if state.troubled == 0 { state.since.take() } else { None };
        drop(state);
        if let Some(since) = since.filter(|_| over) {
            let lasted = Duration::from_millis(millis(now.duration_since(since)));
            tracing::info!("the server can be used again, after {}", humantime::format_duration(lasted));
        }
        if recovered {
            self.shared.over.notify_waiters();
        }
    }

    /// It asks nothing of the server any more, so it has no trouble either.
    pub(crate) fn rest(&self) {
        self.leave(&mut self.shared.lock());
    }

    /// Its trouble is over; true if it had any.
    fn leave(&self, state: &mut State) -> bool {
        let had = self.troubled.swap(false, Ordering::Relaxed);
        state.troubled -= usize::from(had);
        if state.troubled == 0 && state.told.is_none() {
            state.since = None;
        }
        had
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use streams_core::broker::BrokerErrorKind;

    use super::*;

    fn error() -> BrokerError {
        BrokerError::new(BrokerErrorKind::Unavailable, "gone")
    }

    fn told(outages: &Outages) -> bool {
        outages.shared.lock().told.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_at_once_is_not_told_and_what_lasts_is_until_nobody_has_trouble() {
        let outages = Outages::default();
        let (one, two) = (outages.contact(), outages.contact());
        one.failed(&error());
        two.failed(&error());
        assert!(!told(&outages) && outages.trouble().as_deref() == Some("gone"));
        one.succeeded();
        two.succeeded();
        assert_eq!(outages.trouble(), None);

        one.failed(&error());
        tokio::time::sleep(UNTOLD).await;
        two.failed(&error());
        assert!(told(&outages));
        two.succeeded();
        assert!(told(&outages) && outages.trouble().is_some(), "one of them has trouble still");
        one.succeeded();
        assert!(!told(&outages) && outages.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_says_nothing_of_the_end_of_the_trouble() {
        let outages = Outages::default();
        let (one, two) = (outages.contact(), outages.contact());
        one.failed(&error());
        tokio::time::sleep(UNTOLD).await;
        one.failed(&error());
        drop(one);
        assert!(told(&outages) && outages.trouble().is_some());
        two.succeeded();
        assert!(!told(&outages) && outages.trouble().is_none(), "the next answer does");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_when_somebody_has_an_answer() {
        let outages = Outages::default();
        let one = outages.contact();
        one.failed(&error());
        tokio::join!(outages.over(), async { one.succeeded() });
    }
}
