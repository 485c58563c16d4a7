//! Whether the server can be used, as the whole app sees it: logged once when it is gone and once when it is back.
//!
//! Everything that talks to the server by itself (a tail, the renewals, a group, the writer of a partition) is a
//! [`Contact`]. The first of them logs an outage for all. As soon as one has an answer again, all that wait try again.
//!
//! Trouble ends where it began: reads that fail are not mended by a lease that is taken, nor writes by reads. So each contact
//! has trouble by [`Matter`], and only a success in the same matter ends it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use streams_core::broker::{BrokerError, BrokerErrorKind};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::status::Progress;
use crate::clock::{after, millis};
use crate::sync::lock;

/// How long trouble lasts before it is logged: a connection that broke is back within this, and nobody needs to know.
const LOGGED_AFTER: Duration = Duration::from_millis(100);
/// How often trouble that lasts is logged again.
const REMINDER: Duration = Duration::from_secs(60);
/// How long a call may be without an answer before that is trouble. A call to Redis gives up by itself after 10 s, so the
/// log has its own error where there is one.
pub(crate) const SILENCE: Duration = Duration::from_secs(15);
/// How long the server may go on refusing publishes, whose callers have the error at once, before it is trouble of the app.
/// It is longer than a burst that fills a server, and shorter than anybody's patience.
const REFUSING: Duration = Duration::from_secs(10);
/// How long trouble counts that nobody tries to end any more, as when a publish was given up. A producer that goes on
/// publishes within a minute, and of one that does not nobody knows.
const LINGERING: Duration = Duration::from_secs(60);

/// The matter of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Matter {
    /// Ownership: leases, states, members.
    Lease,
    /// Entries that are read or taken.
    Read,
    /// Publishes, commits and settlements.
    Write,
}

impl Matter {
    const fn bit(self) -> u8 {
        1 << self as u8
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "looking after leases",
            Self::Read => "reading",
            Self::Write => "writing",
        }
    }
}

/// The outages of an app, shared by all its contacts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outages {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    over: Notify,
    full: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many contacts there were.
    contacts: u64,
    /// By contact and matter.
    troubles: BTreeMap<(u64, Matter), Trouble>,
    since: Option<Instant>,
    /// When the log last said so.
    logged: Option<Instant>,
    /// When anybody last had an answer.
    answered: Option<Instant>,
    /// The last error of the server, or of the attempt to reach it.
    reason: String,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    /// It counts from here on.
    counts: Instant,
    /// When it was last come upon.
    last: Instant,
    /// Until when it counts, where nobody tries again.
    lingers: Option<Instant>,
    reason: String,
}

impl Trouble {
    fn counts(&self, now: Instant) -> bool {
        self.counts <= self.last && self.lingers.is_none_or(|until| now < until)
    }
}

impl State {
    fn is_troubled(&self, now: Instant) -> bool {
        self.troubles.values().any(|trouble| trouble.counts(now))
    }

    /// Forgets what nobody tried again; answers whether that was the last of a trouble that was logged.
    fn forget(&mut self, now: Instant) -> bool {
        let before = self.troubles.len();
        self.troubles.retain(|_, trouble| trouble.lingers.is_none_or(|until| now < until));
        let forgotten = self.troubles.len() < before && !self.is_troubled(now);
        if forgotten {
            self.since = None;
        }
        forgotten && self.logged.take().is_some()
    }
}

/// A call on its way: when it was made, and when its silence is reported next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) since: Instant,
    pub(crate) due: Instant,
}

impl Sent {
    pub(crate) fn at(since: Instant) -> Self {
        Self { since, due: after(since, SILENCE) }
    }
}

/// Somebody who talks to the server by itself. Dropping it ends its trouble without a word.
pub(crate) struct Contact {
    shared: Arc<Shared>,
    id: u64,
    /// The caller's name, for the log.
    who: String,
    /// The group that has its trouble.
    progress: Option<Arc<Progress>>,
    /// The bits of the matters in which it has trouble.
    troubled: AtomicU8,
}

impl Outages {
    /// A contact for this, in words.
    pub(crate) fn contact(&self, who: impl Into<String>) -> Contact {
        self.new_contact(who.into(), None)
    }

    /// The contact of a group, which is troubled while the contact is.
    pub(crate) fn contact_of(&self, progress: &Arc<Progress>) -> Contact {
        self.new_contact(progress.key.to_string(), Some(Arc::clone(progress)))
    }

    fn new_contact(&self, who: String, progress: Option<Arc<Progress>>) -> Contact {
        let mut state = self.shared.lock();
        state.contacts += 1;
        Contact { shared: Arc::clone(&self.shared), id: state.contacts, who, progress, troubled: AtomicU8::new(0) }
    }

    /// The server's present trouble, in words.
    pub(crate) fn trouble(&self) -> Option<String> {
        let mut state = self.shared.lock();
        let now = Instant::now();
        if state.forget(now) {
            drop(state);
            log_forgotten();
            return None;
        }
        // A logged outage ends with the first answer, so it counts on while nobody calls the server.
        (state.is_troubled(now) || state.logged.is_some()).then(|| state.reason.clone())
    }

    /// Whether anybody had an answer lately: then the server is there, whoever else has none.
    pub(crate) fn answered_within(&self, time: Duration) -> bool {
        self.shared.lock().answered.is_some_and(|answered| answered.elapsed() <= time)
    }

    /// Waits until somebody finds the server full.
    ///
    /// # Cancel safety
    /// Safe, where one waits.
    pub(crate) async fn full(&self) {
        self.shared.full.notified().await;
    }

    /// Waits until somebody who had trouble has an answer again.
    ///
    /// # Cancel safety
    /// A signal that comes while nobody polls this is missed. So it may only shorten a wait that ends by itself.
    pub(crate) async fn over(&self) {
        self.shared.over.notified().await;
    }
}

fn log_forgotten() {
    tracing::info!("nobody has tried again what the server did not take: whether it can be used is not known");
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Contact {
    /// The server could not be used, and it will be tried again.
    pub(crate) fn failed(&self, matter: Matter, error: &BrokerError) {
        self.fail(matter, error, Instant::now(), Duration::ZERO);
    }

    /// The server refused what nobody tries again by itself; trouble when it goes on.
    pub(crate) fn refused(&self, matter: Matter, error: &BrokerError) {
        self.fail(matter, error, Instant::now(), REFUSING);
    }

    /// A call that was made then has no answer yet.
    pub(crate) fn silent(&self, matter: Matter, since: Instant) {
        let silence = humantime::format_duration(Duration::from_secs(since.elapsed().as_secs()));
        let error =
            BrokerError::new(BrokerErrorKind::Indefinite, format!("{} had no answer for {silence}", matter.as_str()));
        self.fail(matter, &error, since, Duration::ZERO);
    }

    fn fail(&self, matter: Matter, error: &BrokerError, since: Instant, grace: Duration) {
        tracing::debug!(who = self.who, %error, "a call failed; it is tried again");
        if error.kind() == BrokerErrorKind::Full {
            self.shared.full.notify_one();
        }
        let now = Instant::now();
        let mut state = self.shared.lock();
        let forgotten = state.forget(now);
        self.troubled.fetch_or(matter.bit(), Ordering::Relaxed);
        let trouble = state.troubles.entry((self.id, matter)).or_insert_with(|| Trouble {
            since,
            counts: after(since, grace),
            last: now,
            lingers: None,
            reason: String::new(),
        });
        (trouble.last, trouble.lingers, trouble.reason) = (now, None, error.to_string());
        // Trouble that counts at once counts, whatever else was refused before.
        trouble.counts = trouble.counts.min(after(now, grace));
        let (counts, since) = (trouble.counts(now), trouble.since);
        let mut logs = false;
        let mut lasted = Duration::ZERO;
        if counts {
            state.reason = format!("{}, {}: {error}", self.who, matter.as_str());
            lasted = now.duration_since(*state.since.get_or_insert(since));
            logs = match state.logged {
                None => lasted >= LOGGED_AFTER,
                Some(logged) => now.duration_since(logged) >= REMINDER,
            };
            if logs {
                state.logged = Some(now);
            }
        }
        drop(state);
        if forgotten {
            log_forgotten();
        }
        if counts && let Some(progress) = &self.progress {
            progress.troubled(error.to_string(), (matter != Matter::Lease).then_some(since));
        }
        if logs {
            let (who, matter, lasted_s) = (&self.who, matter.as_str(), lasted.as_secs());
            tracing::warn!(%error, who, matter, lasted_s, "the server cannot be used: whatever needs it waits, and tries again until it can");
        }
    }

    /// The server gave an answer that is of use in this matter.
    pub(crate) fn succeeded(&self, matter: Matter) {
        let mut state = self.shared.lock();
        let now = Instant::now();
        state.answered = Some(now);
        let recovered = self.leave(&mut state, matter.bit());
        if recovered && state.troubles.values().all(|trouble| trouble.lingers.is_some()) {
            // The server is back, also for those who have given up.
            state.troubles.clear();
        }
        let troubled = state.is_troubled(now);
        let over = !troubled && state.logged.take().is_some();
        let since = if troubled { None } else { state.since.take() };
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
        self.leave(&mut self.shared.lock(), u8::MAX);
    }

    /// It has given up for now: its trouble counts on for a while, unless the server turns out to be back.
    pub(crate) fn linger(&self) {
        if self.is_troubled() {
            let until = after(Instant::now(), LINGERING);
            let mut state = self.shared.lock();
            let own = state.troubles.range_mut((self.id, Matter::Lease)..=(self.id, Matter::Write));
            own.for_each(|(_, trouble)| trouble.lingers = Some(until));
        }
    }

    /// Whether it has trouble in any matter.
    pub(crate) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed) != 0
    }

    /// Its trouble, in words.
    pub(crate) fn trouble(&self) -> Option<String> {
        if !self.is_troubled() {
            return None;
        }
        let state = self.shared.lock();
        let mut own = state.troubles.range((self.id, Matter::Lease)..=(self.id, Matter::Write));
        own.next_back().map(|(_, trouble)| trouble.reason.clone())
    }

    /// Waits for the answer to a call that was made then; a silence that lasts is trouble.
    ///
    /// # Cancel safety
    /// As the call.
    pub(crate) async fn patiently<T>(&self, matter: Matter, since: Instant, call: impl Future<Output = T>) -> T {
        tokio::pin!(call);
        let mut sent = Sent::at(since);
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return answer,
                () = tokio::time::sleep_until(sent.due) => self.mind(matter, &mut sent),
            }
        }
    }

    /// A call that is on its way: reports its silence when it is time.
    pub(crate) fn mind(&self, matter: Matter, sent: &mut Sent) {
        let now = Instant::now();
        if sent.due <= now {
            self.silent(matter, sent.since);
            sent.due = after(now, SILENCE);
        }
    }

    /// Its trouble in these matters is over; true if it had any.
    fn leave(&self, state: &mut State, matters: u8) -> bool {
        let before = self.troubled.fetch_and(!matters, Ordering::Relaxed);
        if before & matters == 0 {
            return false;
        }
        for matter in [Matter::Lease, Matter::Read, Matter::Write] {
            if matters & matter.bit() != 0 {
                state.troubles.remove(&(self.id, matter));
            }
        }
        if !state.is_troubled(Instant::now()) && state.logged.is_none() {
            state.since = None;
        }
        if before & !matters & !Matter::Lease.bit() == 0
            && let Some(progress) = &self.progress
        {
            progress.moves();
        }
        true
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

    fn is_logged(outages: &Outages) -> bool {
        outages.shared.lock().logged.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_at_once_is_not_told_and_what_lasts_is_until_nobody_has_trouble() {
        let outages = Outages::default();
        let (one, two) = (outages.contact("one"), outages.contact("two"));
        one.failed(Matter::Read, &error());
        two.failed(Matter::Read, &error());
        assert!(!is_logged(&outages) && outages.trouble().as_deref() == Some("two, reading: gone"));
        one.succeeded(Matter::Read);
        two.succeeded(Matter::Read);
        assert_eq!(outages.trouble(), None);

        one.failed(Matter::Read, &error());
        tokio::time::sleep(LOGGED_AFTER).await;
        two.failed(Matter::Read, &error());
        assert!(is_logged(&outages));
        two.succeeded(Matter::Read);
        assert!(is_logged(&outages) && outages.trouble().is_some(), "one of them has trouble still");
        one.succeeded(Matter::Read);
        assert!(!is_logged(&outages) && outages.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_says_nothing_of_the_end_of_the_trouble() {
        let outages = Outages::default();
        let (one, two) = (outages.contact("one"), outages.contact("two"));
        one.failed(Matter::Read, &error());
        tokio::time::sleep(LOGGED_AFTER).await;
        one.failed(Matter::Read, &error());
        drop(one);
        assert!(is_logged(&outages) && outages.trouble().is_some());
        two.succeeded(Matter::Read);
        assert!(!is_logged(&outages) && outages.trouble().is_none(), "the next answer does");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_when_somebody_has_an_answer() {
        let outages = Outages::default();
        let one = outages.contact("one");
        one.failed(Matter::Read, &error());
        tokio::join!(outages.over(), async { one.succeeded(Matter::Read) });
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_ends_in_the_matter_in_which_it_began() {
        let outages = Outages::default();
        let (one, two) = (outages.contact("one"), outages.contact("two"));
        one.failed(Matter::Read, &error());
        tokio::time::sleep(LOGGED_AFTER).await;
        one.succeeded(Matter::Lease);
        two.succeeded(Matter::Read);
        one.failed(Matter::Read, &error());
        assert!(is_logged(&outages) && one.is_troubled());
        one.succeeded(Matter::Lease);
        two.succeeded(Matter::Write);
        assert!(outages.trouble().is_some());
        one.succeeded(Matter::Read);
        assert!(!is_logged(&outages) && outages.trouble().is_none() && !one.is_troubled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_is_trouble_from_when_it_was_made() {
        let outages = Outages::default();
        let one = outages.contact("one");
        let call = one.patiently(Matter::Write, Instant::now(), tokio::time::sleep(SILENCE * 2));
        let look = async {
            tokio::time::sleep(SILENCE - LOGGED_AFTER).await;
            assert_eq!(outages.trouble(), None);
            tokio::time::sleep(LOGGED_AFTER * 2).await;
            assert!(is_logged(&outages));
            assert_eq!(outages.trouble().as_deref(), Some("one, writing: writing had no answer for 15s"));
        };
        tokio::join!(call, look);
        one.succeeded(Matter::Write);
        assert_eq!(outages.trouble(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_counts_when_it_goes_on_and_until_nobody_has_tried_again_for_a_while() {
        let outages = Outages::default();
        let one = outages.contact("one");
        one.refused(Matter::Write, &error());
        one.linger();
        assert_eq!(outages.trouble(), None, "once is nothing");
        tokio::time::sleep(REFUSING).await;
        one.refused(Matter::Write, &error());
        one.linger();
        assert!(is_logged(&outages) && outages.trouble().is_some());
        let two = outages.contact("two");
        two.succeeded(Matter::Lease);
        assert!(outages.trouble().is_some(), "it says nothing of the writes");
        tokio::time::sleep(LINGERING).await;
        assert!(outages.trouble().is_none() && !is_logged(&outages));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_back_is_so_for_those_who_have_given_up() {
        let outages = Outages::default();
        let (one, two) = (outages.contact("one"), outages.contact("two"));
        one.failed(Matter::Write, &error());
        two.failed(Matter::Lease, &error());
        one.linger();
        two.succeeded(Matter::Lease);
        assert_eq!(outages.trouble(), None);
    }
}
