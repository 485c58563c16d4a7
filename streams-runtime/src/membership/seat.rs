//! The seat of a process at one partition: its task asks the members whether it may take the lease, and they answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use streams_core::broker::{Answer, BrokerError, GroupState, Need};
use streams_core::keys::GroupKey;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::card::member_of;
use super::lease::Lease;
use super::roster::{LOOK, Roster};
use super::watch::{Still, Verdict, Watch};
use crate::pause::Pause;
use crate::random::Random;
use crate::shutdown::FAREWELL;
use crate::sync::lock;

/// For how long a process excuses itself from a partition that it could not go on with. Each change moves partitions, so the
/// process must not try again every few seconds.
const EXCUSED: Duration = Duration::from_secs(60);

/// The state that all seats of a process share with its members' task. The task knows the seats, and not the other way round, so
/// that an app that is dropped leaves nothing behind.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) lease_for: Duration,
    pub(super) random: Arc<Random>,
    /// Rung when a seat asks for a look before the next round.
    pub(super) asked: Notify,
    /// How many looks have begun; and how many are over.
    pub(super) begun: AtomicU64,
    pub(super) over: watch::Sender<u64>,
    /// The process is no member any more.
    pub(super) left: CancellationToken,
}

/// The seat of this process at one partition of a group.
pub(crate) struct Seat {
    pub(super) shared: Arc<Shared>,
    /// The index of its circle.
    pub(super) circle: usize,
    pub(super) key: GroupKey,
    pub(super) inner: Mutex<Inner>,
    /// Rung when there is an observation.
    pub(super) news: Notify,
    /// Whether [`Inner::successor`] is set or the group is paused: asked for between any two events.
    pub(super) is_wanted: AtomicBool,
    pub(super) wanted: Notify,
    /// The pause of the group.
    pub(super) paused: watch::Sender<Option<Pause>>,
}

/// The state of a seat. Its fourteen fields change together under one lock, so that a look and the task never see half of a
/// change.
#[derive(Default)]
pub(super) struct Inner {
    pub(super) mode: Mode,
    /// How often the mode was entered: a look that began before may be older than what this process has done since.
    pub(super) entered: u64,
    /// Its task asks for an observation at once.
    pub(super) asked: bool,
    /// The look that is on its way was asked for.
    pub(super) answering: bool,
    /// The observation that its task has not taken yet.
    pub(super) seen: Option<Result<Observation, BrokerError>>,
    /// The owner in the last observation, and whether this process could take the lease.
    pub(super) reported: Option<(String, bool)>,
    pub(super) watch: Watch,
    /// The state at the last look.
    pub(super) before: Option<GroupState>,
    /// The epoch whose holder has given the lease up or does not renew it any more, and since when that is seen.
    pub(super) free: Still<u64>,
    /// When to look again although nothing happens.
    pub(super) due: Option<Instant>,
    /// To whom the partition should be handed over, by which list of members.
    pub(super) successor: Option<(String, u64)>,
    /// Since when this process excuses itself from the partition.
    pub(super) excused: Option<Instant>,
    /// The event that the last ownership of this process could not handle, where the partition goes to and fro between builds.
    pub(super) contested: Option<Need>,
    /// The member that let the partition go, did not take it, or could not be given it; in which list of members, and when.
    pub(super) passed_over: Option<(String, u64, Instant)>,
}

#[derive(Default)]
pub(super) enum Mode {
    /// Its task neither owns the partition nor waits for it.
    #[default]
    Idle,
    /// Its task waits for the lease.
    Standing,
    /// Its task holds the lease until the token says that it is lost; and since when that is seen.
    Owning(CancellationToken, Option<Instant>),
}

/// A look at a partition that this process does not own.
#[derive(Debug)]
pub(crate) struct Observation {
    /// The state of the look before.
    pub(crate) before: Option<GroupState>,
    pub(crate) state: Option<GroupState>,
    /// Why this process may take the lease; `None` while it may not.
    pub(crate) turn: Option<String>,
}

impl Inner {
    /// Whether others should not count on this process for the partition.
    pub(super) fn is_excused(&mut self, now: Instant) -> bool {
        // A handler that does not yield keeps the task from seeing that it has lost the lease.
        if let Mode::Owning(lost, since) = &mut self.mode
            && lost.is_cancelled()
            && now.duration_since(*since.get_or_insert(now)) >= LOOK
        {
            self.excused.get_or_insert(now);
        }
        let waits = matches!(self.mode, Mode::Standing);
        if self.excused.is_some_and(|since| waits && now.duration_since(since) >= EXCUSED) {
            self.excused = None;
        }
        self.excused.is_some()
    }

    /// Why this process may take the lease, if it may. Sets when to look again.
    fn judge(
        &mut self,
        partition: u32,
        roster: &Roster,
        lease_for: Duration,
        state: &GroupState,
        now: Instant,
    ) -> Option<String> {
        if let Verdict::Wait(left) = self.watch.observe(state, now) {
            self.free = Still::default();
            self.due = Some(now + left);
            return None;
        }
        let lapsed = Some(member_of(&state.lease.owner)).filter(|owner| !owner.is_empty());
        let since = self.free.observe(state.lease.epoch, lease_for, now);
        let why = match lapsed {
            Some(owner) => format!("the lease of {owner} has run out"),
            None => "nobody owned it".to_owned(),
        };
        match roster.successor(partition, lapsed, now) {
            Some(successor) if successor == roster.me() => {
                self.passed_over = lapsed.map(|owner| (owner.to_owned(), roster.version(), now));
                Some(why)
            }
            // The successor is stuck, most likely, and must not keep everybody waiting.
            Some(successor) if now.duration_since(since) >= lease_for => {
                self.passed_over = Some((successor.to_owned(), roster.version(), now));
                Some(format!("{why}, and {successor} did not take it"))
            }
            _ => {
                self.due = Some(since + lease_for);
                None
            }
        }
    }

    /// Nobody looks at the partition until the next look, which goes on with the watch over its owner.
    fn doubt(&mut self) {
        self.watch.doubt();
        self.free.doubt();
        (self.due, self.reported) = (None, None);
    }
}

impl Seat {
    pub(super) fn new(shared: &Arc<Shared>, circle: usize, key: GroupKey) -> Self {
        Self {
            shared: Arc::clone(shared),
            circle,
            key,
            inner: Mutex::default(),
            news: Notify::new(),
            is_wanted: AtomicBool::new(false),
            wanted: Notify::new(),
            paused: watch::Sender::new(None),
        }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Takes up the state of the partition, while its task waits for the lease.
    pub(super) fn observe(&self, roster: &Roster, state: Answer<Option<GroupState>>, now: Instant) {
        let state = match state {
            Ok(state) => state,
            Err(error) => return self.fail(&error),
        };
        let mut inner = self.inner();
        if !matches!(inner.mode, Mode::Standing) {
            return;
        }
        let before = inner.before.take();
        let turn = match &state {
            Some(state) => inner.judge(self.key.partition().index(), roster, self.shared.lease_for, state, now),
            None => None,
        };
        let owner = state.as_ref().map(|state| state.lease.owner.clone()).unwrap_or_default();
        let report = (owner, turn.is_some());
        // A server that has lost writes shows less than it did: the task has to see both.
        let reversed = match (&before, &state) {
            (Some(before), Some(state)) => state.at < before.at || state.reset != before.reset,
            _ => true,
        };
        inner.before.clone_from(&state);
        if std::mem::take(&mut inner.answering)
            || turn.is_some()
            || reversed
            || inner.reported.as_ref() != Some(&report)
        {
            inner.reported = Some(report);
            inner.seen = Some(Ok(Observation { before, state, turn }));
            self.news.notify_one();
        }
    }

    /// Takes up the successor, while this process owns the partition.
    pub(super) fn propose(&self, successor: Option<&str>, version: u64, now: Instant) {
        let mut inner = self.inner();
        let owning = matches!(&inner.mode, Mode::Owning(lost, _) if !lost.is_cancelled());
        // A member that let the partition go would do so again, until something changes; but it does not lose its share for good.
        let passed_over = |name: &&str| {
            let of = inner.passed_over.as_ref();
            of.is_some_and(|(of, at, when)| of == name && *at == version && now.duration_since(*when) < EXCUSED)
        };
        let successor = successor.filter(|_| owning).filter(|name| !passed_over(name));
        let before = std::mem::replace(&mut inner.successor, successor.map(|name| (name.to_owned(), version)));
        if before.as_ref().map(|(name, _)| name.as_str()) != successor {
            self.mind(&inner);
        }
    }

    pub(super) fn fail(&self, error: &BrokerError) {
        let mut inner = self.inner();
        if matches!(inner.mode, Mode::Standing) {
            inner.doubt();
            inner.seen = Some(Err(BrokerError::new(error.kind(), error.to_string())));
            self.news.notify_one();
        }
    }

    /// Its task waits for the lease from now on: the next observation comes soon.
    pub(crate) fn stand_by(&self) {
        self.enter(Mode::Standing);
        self.ask();
    }

    /// Its task owns the partition until the lease is lost.
    pub(crate) fn own(&self, lease: &Lease) {
        self.enter(Mode::Owning(lease.loss(), None));
        self.inner().excused = None;
    }

    /// Its task neither owns the partition nor waits for it.
    pub(crate) fn rest(&self) {
        self.enter(Mode::Idle);
    }

    fn enter(&self, mode: Mode) {
        let mut inner = self.inner();
        inner.doubt();
        inner.entered += 1;
        (inner.mode, inner.seen, inner.before, inner.successor) = (mode, None, None, None);
        self.mind(&inner);
    }

    /// Says whether the ownership should end after the event that runs.
    fn mind(&self, inner: &Inner) {
        let is_wanted = inner.successor.is_some() || self.paused.borrow().is_some();
        self.is_wanted.store(is_wanted, Ordering::Release);
        if is_wanted {
            self.wanted.notify_one();
        }
    }

    /// Takes up whether the group is paused.
    pub(super) fn set_pause(&self, pause: Option<Pause>) {
        let inner = self.inner();
        self.paused.send_replace(pause);
        self.mind(&inner);
    }

    /// Why the group is paused, if it is.
    pub(crate) fn pause(&self) -> Option<Pause> {
        self.paused.borrow().clone()
    }

    /// Waits until the group is paused.
    ///
    /// # Cancel safety
    /// It still is.
    pub(crate) async fn paused(&self) {
        // The sender lives as long as the seat.
        let _ = self.paused.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until the group is paused no more.
    ///
    /// # Cancel safety
    /// It still is not.
    pub(crate) async fn resumed(&self) {
        let _ = self.paused.subscribe().wait_for(Option::is_none).await;
    }

    /// Asks for a look now.
    pub(crate) fn ask(&self) {
        let mut inner = self.inner();
        (inner.asked, inner.seen) = (true, None);
        drop(inner);
        self.shared.asked.notify_one();
    }

    /// Waits for the next observation: soon after it was asked for, else as soon as something has changed.
    ///
    /// # Cancel safety
    /// No observation is lost.
    pub(crate) async fn observation(&self) -> Result<Observation, BrokerError> {
        loop {
            if let Some(seen) = self.inner().seen.take() {
                return seen;
            }
            self.news.notified().await;
        }
    }

    /// The name of this process.
    pub(crate) fn member(&self) -> &str {
        &self.shared.name
    }

    /// Whether this process is the member.
    pub(crate) fn is_of(&self, member: &str) -> bool {
        self.shared.name == member
    }

    /// A token for the lease, which names this process.
    pub(crate) fn token(&self) -> String {
        format!("{}/{}", self.shared.name, self.shared.random.token())
    }

    /// Whether the partition should be handed over, or the group stand still, after the event that runs.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    /// Waits until the partition should be handed over, or the group stand still.
    ///
    /// # Cancel safety
    /// It is still wanted.
    pub(crate) async fn wanted(&self) {
        while !self.is_wanted() {
            self.wanted.notified().await;
        }
    }

    /// The successor to whom the partition should be handed over.
    pub(crate) fn successor(&self) -> Option<String> {
        self.inner().successor.as_ref().map(|(name, _)| name.clone())
    }

    /// The lease could not be released to the successor. This process takes it again at once, and would only try the same.
    pub(crate) fn keep(&self) {
        let mut inner = self.inner();
        inner.passed_over = inner.successor.take().map(|(name, version)| (name, version, Instant::now()));
    }

    /// The partition goes to and fro between builds: the other one handles this event.
    pub(crate) fn contest(&self, need: &Need) {
        self.inner().contested = Some(need.clone());
    }

    /// Lets the others know that for a while they should not count on this process for the partition.
    pub(crate) fn excuse(&self) {
        let mut inner = self.inner();
        inner.excused = Some(Instant::now());
        inner.asked = true;
        drop(inner);
        self.shared.asked.notify_one();
    }

    /// As [`excuse`](Self::excuse); then waits until they know, but not for long. Whoever sees the lease free
    /// afterwards knows of it.
    pub(crate) async fn excused(&self) {
        let shared = &self.shared;
        let mut over = shared.over.subscribe();
        // A look that is on its way may have spoken for this process before.
        let look = shared.begun.load(Ordering::SeqCst) + 1;
        self.excuse();
        let known = over.wait_for(|over| *over >= look);
        tokio::select! {
            _ = tokio::time::timeout(FAREWELL, known) => {}
            () = shared.left.cancelled() => {}
        }
    }

    /// Waits until this process is no member any more, but not for long: it leaves when the app begins to stop.
    pub(crate) async fn left(&self) {
        // The leaving is bounded, too: this is for the worst.
        let _ = tokio::time::timeout(FAREWELL, self.shared.left.cancelled()).await;
    }
}
