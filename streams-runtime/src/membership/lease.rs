//! Leases: a process takes one by its own clock alone, and renews it beside the handlers.
//!
//! A contender takes over only after it has seen the same owner, epoch and beat for a whole lease on its
//! own monotonic clock. An owner stops by itself a margin before that. Renewals run on a thread and a
//! connection of their own, so that a handler which blocks the executor keeps its lease.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Holder, Renewal, Renewed, Renewer};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, millis, until};
use crate::ops::{Contact, Matter, Outages, Progress, Vitals};
use crate::sync::lock;

/// How many renewals are tried within one lease: two may fail.
const RENEWALS_A_LEASE: u32 = 3;
/// How many leases one call renews: those of the first have their answer, whatever becomes of the next.
const PAGE: usize = 500;
/// The part of a lease that an owner takes off its own deadline: a tenth covers clocks that run at different rates.
const MARGIN: u32 = 10;

/// A lease that this process holds.
#[derive(Debug)]
struct Held {
    progress: Arc<Progress>,
    holder: Holder,
    /// When its owner has to stop, in the clock's milliseconds; 0 once the lease is lost.
    deadline: AtomicU64,
    /// By when the handler that runs has to be over, of several the first; or 0.
    handler_until: AtomicU64,
    /// Since when a commit has had no answer, or 0.
    commit_since: AtomicU64,
    /// Whether the log has said that a handler outran its limit.
    complained: AtomicBool,
    /// Whether it is not renewed any more, though the server could be asked.
    undeserved: AtomicBool,
    lost: CancellationToken,
    /// Whether dead letters may wait to be handled again.
    replays: AtomicBool,
    /// Rung when the last renewal said so.
    replays_wait: Notify,
}

/// The owner's side of a lease. Dropping it ends the renewals; giving it back is a call to the broker.
#[derive(Debug)]
pub(crate) struct Lease {
    held: Arc<Held>,
    clock: Clock,
}

impl Lease {
    pub(crate) fn holder(&self) -> &Holder {
        &self.held.holder
    }

    /// Whether the lease is held at this moment, by this process's own clock.
    pub(crate) fn is_held(&self, now: Instant) -> bool {
        self.clock.millis_at(now) < self.held.deadline.load(Ordering::Acquire)
    }

    /// Is cancelled when the lease is lost.
    pub(super) fn loss(&self) -> CancellationToken {
        self.held.lost.clone()
    }

    /// Waits until the lease is lost.
    pub(crate) async fn lost(&self) {
        self.held.lost.cancelled().await;
    }

    /// Runs a handler's call until it ends, or the lease is lost: then `None`. A handler that runs in a task of its own ends in
    /// time even while the task that owns the lease waits for the broker.
    pub(crate) fn while_held<F: Future>(&self, call: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        self.loss().run_until_cancelled_owned(call)
    }

    /// Whether its owner is to blame for the loss: its commits had no answer while renewals would have had one. Where the
    /// server was away for everybody it is not.
    pub(crate) fn is_undeserved(&self) -> bool {
        self.held.undeserved.load(Ordering::Relaxed)
    }

    /// Whether dead letters may wait to be handled again. True until the owner has looked, then as a renewal says.
    pub(crate) fn has_replays(&self) -> bool {
        self.held.replays.load(Ordering::Relaxed)
    }

    /// Waits until dead letters may wait to be handled again.
    pub(crate) async fn replays(&self) {
        while !self.has_replays() {
            self.held.replays_wait.notified().await;
        }
    }

    /// The owner found none. Should one come at this moment, the next renewal says so.
    pub(crate) fn no_replays(&self) {
        self.held.replays.store(false, Ordering::Relaxed);
    }

    /// Handlers run, the first of which has to be over by then: past it they are no reason to renew any more. `None` says that
    /// none runs.
    pub(crate) fn handlers_until(&self, first: Option<Instant>) {
        self.held.handler_until.store(first.map_or(0, |until| self.clock.millis_at(until)), Ordering::Release);
    }

    /// A commit is sent: without an answer for a lease, renewals stop.
    pub(crate) fn commit_begins(&self, now: Instant) {
        self.held.commit_since.store(self.clock.millis_at(now), Ordering::Release);
    }

    /// The commit was answered.
    pub(crate) fn commit_ended(&self) {
        self.held.commit_since.store(0, Ordering::Release);
    }
}

/// The leases of one app, and their renewal.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    table: Arc<Table>,
    clock: Clock,
}

#[derive(Debug)]
struct Table {
    lease_for: Duration,
    held: Mutex<Vec<Weak<Held>>>,
    /// Rung when a lease is taken.
    taken: Arc<Notify>,
    end: CancellationToken,
}

impl Table {
    /// The leases that nobody has lost yet.
    fn held(&self) -> Vec<Arc<Held>> {
        let mut list = lock(&self.held);
        list.retain(|held| held.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).filter(|held| !held.lost.is_cancelled()).collect()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Leases {
    /// Starts renewing, where the broker wants it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(
        broker: &Arc<dyn Broker>,
        lease_for: Duration,
        clock: Clock,
        outages: &Outages,
        vitals: Arc<Vitals>,
    ) -> std::io::Result<Self> {
        let (taken, end) = (Arc::new(Notify::new()), CancellationToken::new());
        let table = Arc::new(Table { lease_for, held: Mutex::default(), taken: Arc::clone(&taken), end: end.clone() });
        let watch = watch(Arc::downgrade(&table), taken, clock, end.clone());
        let renewals = Renewals {
            table: Arc::downgrade(&table),
            broker: Arc::clone(broker),
            clock,
            lease_for,
            contact: outages.contact("the renewal of leases"),
            outages: outages.clone(),
            end,
            vitals,
        };
        let both = async { _ = tokio::join!(renewals.run(), watch) };
        match broker.renewal() {
            Renewal::CallersExecutor => {
                tokio::spawn(both);
            }
            Renewal::OwnThread => {
                let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let log = tracing::dispatcher::get_default(Clone::clone);
                std::thread::Builder::new()
                    .name("streams-renewal".to_owned())
                    // Its log lines go where the app's own do.
                    .spawn(move || tracing::dispatcher::with_default(&log, || executor.block_on(both)))?;
            }
        }
        Ok(Self { table, clock })
    }

    /// Begins to renew a lease that was taken by a call sent at `sent`.
    pub(crate) fn hold(&self, progress: &Arc<Progress>, holder: Holder, sent: Instant) -> Lease {
        let held = Arc::new(Held {
            progress: Arc::clone(progress),
            holder,
            deadline: AtomicU64::new(deadline(&self.clock, sent, self.table.lease_for)),
            handler_until: AtomicU64::new(0),
            commit_since: AtomicU64::new(0),
            complained: AtomicBool::new(false),
            undeserved: AtomicBool::new(false),
            lost: CancellationToken::new(),
            replays: AtomicBool::new(true),
            replays_wait: Notify::new(),
        });
        lock(&self.table.held).push(Arc::downgrade(&held));
        self.table.taken.notify_one();
        Lease { held, clock: self.clock }
    }
}

/// When an owner has to stop that last renewed with a call sent at `sent`.
fn deadline(clock: &Clock, sent: Instant, lease_for: Duration) -> u64 {
    clock.millis_at(sent).saturating_add(millis(lease_for - lease_for / MARGIN))
}

impl Held {
    /// The server has answered a renewal.
    fn renewed(&self, still: Renewed, deadline: u64) {
        match still {
            Renewed::Held { replays } => {
                // A lease that was lost stays lost, though this answer comes late.
                let renew = |before| (before != 0).then_some(deadline);
                let _ = self.deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, renew);
                if replays {
                    self.replays.store(true, Ordering::Relaxed);
                    self.replays_wait.notify_one();
                }
            }
            Renewed::Lost => self.lose(),
        }
    }

    fn lose(&self) {
        self.deadline.store(0, Ordering::Release);
        self.lost.cancel();
    }

    /// Whether the owner still deserves the lease: its handler keeps to its limit and its commits are answered.
    ///
    /// While a handler runs an answer says nothing, because a handler that blocks its executor also keeps the answer from
    /// being heard. Its own limit bounds that.
    fn deserves(&self, now: u64, lease_for: u64) -> bool {
        let handler_until = self.handler_until.load(Ordering::Acquire);
        let commit_since = self.commit_since.load(Ordering::Acquire);
        match handler_until {
            0 => commit_since == 0 || now < commit_since.saturating_add(lease_for),
            until => now < until,
        }
    }
}

/// The renewals of an app, on their own connection.
struct Renewals {
    table: Weak<Table>,
    broker: Arc<dyn Broker>,
    clock: Clock,
    lease_for: Duration,
    contact: Contact,
    outages: Outages,
    end: CancellationToken,
    vitals: Arc<Vitals>,
}

impl Renewals {
    /// Renews the leases that are held until the app ends.
    async fn run(self) {
        let _sign = self.vitals.alive("the renewal of leases");
        let mut renewer: Option<Box<dyn Renewer>> = None;
        let mut failing = false;
        let every = self.lease_for / RENEWALS_A_LEASE;
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.end.cancelled() => return,
                _ = tick.tick() => {}
                // Renewals that succeed need no other when some other call comes back.
                () = self.outages.over(), if failing => {}
            }
            self.vitals.beat(&self.clock);
            // The table must not live on because of its own renewals.
            let Some(held) = self.table.upgrade().map(|table| table.held()) else { return };
            let now = Instant::now();
            let due = self.due(held, now);
            if due.is_empty() {
                self.contact.rest();
            }
            // At most one tick: then a new connection may find a server that answers.
            failing = !self.renew(&mut renewer, &due, now + every).await;
        }
    }

    /// The leases to renew, the most urgent first. The log says once of each owner that it does not deserve its lease.
    fn due(&self, held: Vec<Arc<Held>>, now: Instant) -> Vec<Arc<Held>> {
        let now = self.clock.millis_at(now);
        let (mut due, undeserved): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|held| held.deserves(now, millis(self.lease_for)));
        // Should there be no time for all of them, those have it that need it most.
        due.sort_by_key(|held| held.deadline.load(Ordering::Acquire));
        due.iter().for_each(|held| held.undeserved.store(false, Ordering::Relaxed));
        for held in undeserved {
            held.undeserved.store(true, Ordering::Relaxed);
            if held.handler_until.load(Ordering::Acquire) != 0 && !held.complained.swap(true, Ordering::Relaxed) {
                // The owner's own task may be what does not go on, so the renewals say it.
                held.progress.troubled("a handler has outrun its timeout and does not yield".to_owned(), None);
                tracing::error!(
                    group = held.progress.key.group(),
                    partition = held.progress.key.partition().as_str(),
                    "a handler has outrun its timeout and does not yield: its lease is no longer renewed, another process will take over"
                );
            }
        }
        due
    }

    /// Renews leases page by page, until one page fails or the time is over. Returns whether all were answered.
    async fn renew(&self, renewer: &mut Option<Box<dyn Renewer>>, due: &[Arc<Held>], until: Instant) -> bool {
        for page in due.chunks(PAGE) {
            let sent = Instant::now();
            let error = match tokio::time::timeout_at(until, renew_once(&self.broker, renewer, page)).await {
                Ok(Ok(answers)) => {
                    self.contact.succeeded(Matter::Lease);
                    let deadline = deadline(&self.clock, sent, self.lease_for);
                    page.iter().zip(answers).for_each(|(held, still)| held.renewed(still, deadline));
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => BrokerError::new(BrokerErrorKind::Indefinite, "renewing leases: no answer came in time"),
            };
            *renewer = None;
            self.contact.failed(Matter::Lease, &error);
            return false;
        }
        true
    }
}

/// Notifies owners that their leases are over, at the moment when they are: the renewals may be waiting for an answer then.
async fn watch(table: Weak<Table>, taken: Arc<Notify>, clock: Clock, end: CancellationToken) {
    while let Some(held) = table.upgrade().map(|table| table.held()) {
        let nearest = expire(&held, &clock);
        drop(held);
        tokio::select! {
            () = end.cancelled() => return,
            () = taken.notified() => {}
            () = until(nearest) => {}
        }
    }
}

/// Notifies the owners whose deadline has passed. Returns when the next one passes.
fn expire(held: &[Arc<Held>], clock: &Clock) -> Option<Instant> {
    let now = clock.millis();
    let mut nearest = None;
    for held in held {
        let deadline = held.deadline.load(Ordering::Acquire);
        if deadline <= now {
            held.lose();
        } else {
            nearest = Some(nearest.map_or(deadline, |nearest: u64| nearest.min(deadline)));
        }
    }
    nearest.map(|deadline| clock.instant_at(deadline))
}

async fn renew_once(
    broker: &Arc<dyn Broker>,
    renewer: &mut Option<Box<dyn Renewer>>,
    due: &[Arc<Held>],
) -> Result<Vec<Renewed>, BrokerError> {
    let renewer = match renewer {
        Some(renewer) => renewer,
        None => renewer.insert(broker.renewer().await?),
    };
    let leases: Vec<_> = due.iter().map(|held| (held.progress.key.clone(), held.holder.clone())).collect();
    renewer.renew(&leases).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_past_its_limit_and_a_commit_without_an_answer_end_the_renewals() {
        let key = streams_core::keys::StreamKey::new(None, "trades", 1).partition(0).group("risk");
        let registry = crate::ops::metrics::Registry::default();
        let progress = Progress::new("trades", "risk", key, Arc::default(), &registry, Arc::default());
        let held = Held {
            progress: Arc::new(progress),
            holder: Holder { owner: "me".to_owned(), epoch: 1 },
            deadline: AtomicU64::new(0),
            handler_until: AtomicU64::new(0),
            commit_since: AtomicU64::new(0),
            complained: AtomicBool::new(false),
            undeserved: AtomicBool::new(false),
            lost: CancellationToken::new(),
            replays: AtomicBool::new(false),
            replays_wait: Notify::new(),
        };
        assert!(held.deserves(1_000_000, 100));
        held.handler_until.store(50, Ordering::Release);
        assert!(held.deserves(49, 100) && !held.deserves(50, 100));
        held.handler_until.store(0, Ordering::Release);
        held.commit_since.store(10, Ordering::Release);
        assert!(held.deserves(109, 100) && !held.deserves(110, 100));
        held.handler_until.store(500, Ordering::Release);
        assert!(held.deserves(499, 100), "a blocked executor hears no answers");
    }
}
