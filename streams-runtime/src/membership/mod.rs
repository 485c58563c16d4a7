//! The sharing of partitions between processes: who is a member, who should own what, and who holds which lease.
//!
//! One task per process shows that the process lives, and looks at the other members and their partitions. It notifies each
//! [`Seat`] when it may take the lease or should hand over. [`roster`] judges who is a member, and [`assign`] who should
//! own which partition. Two calls serve all groups of the process, about once per second, and one more when a bell rings.
//! May use `ops` and the helpers of the crate; `group`, the two deliveries, `operate` and `app` use it.

mod assign;
mod build;
mod card;
mod lease;
mod roster;
mod seat;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streams_core::broker::{Answer, Attendance, Broker, BrokerError, BrokerErrorKind, GroupState, Member};
use streams_core::keys::{GroupKey, StreamKey};
use tokio::sync::{Notify, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::build::{Build, NOBODY, Turn};
use self::card::Card;
pub(crate) use self::card::{describe, member_of, name};
pub(crate) use self::lease::{Lease, Leases};
use self::roster::{Roster, look};
pub(crate) use self::seat::Seat;
use self::seat::{Mode, Shared};
pub(crate) use self::watch::Still;
use crate::clock::until;
use crate::ops::{Contact, Gauge, Matter, Outages, Vitals};
use crate::paged::paged;
use crate::pause::Pause;
use crate::random::Random;
use crate::shutdown::{FAREWELL, Shutdown};

/// How often the log says that programs of different events share a group.
const CONTESTED: Duration = Duration::from_secs(3600);
/// How many groups or states one call is about: some ten thousand commands would hold up everybody behind them.
const PAGE: usize = 500;

/// A process as a member of all its groups.
pub(crate) struct Members {
    shared: Arc<Shared>,
    broker: Arc<dyn Broker>,
    contact: Contact,
    outages: Outages,
    vitals: Arc<Vitals>,
    circles: Vec<Circle>,
    /// The index of each circle by its set.
    by_set: HashMap<String, usize>,
    /// The groups of both deliveries, by stream and name, to look for their pauses.
    groups: Vec<(StreamKey, String)>,
    /// The seats of each of these groups.
    of_groups: Vec<Vec<Arc<Seat>>>,
    /// The log says once that the user may not see pauses.
    blind: bool,
    /// The last look failed.
    failing: bool,
}

/// The members of one group, and the seats of this process at its partitions.
struct Circle {
    set: String,
    stream: &'static str,
    group: &'static str,
    build: Arc<Build>,
    roster: Roster,
    /// The last list of members that has settled and was logged.
    settled: u64,
    seats: Vec<Arc<Seat>>,
    count: Arc<Gauge>,
    /// When the log last said that programs of different events share the group.
    contested: Option<Instant>,
}

/// The seats of one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everything,
    /// The seats that ask for a look, or for which one is due.
    Asked,
}

/// The changes at one look, logged for all groups at once.
#[derive(Default)]
struct Changes {
    joined: BTreeMap<String, usize>,
    left: BTreeMap<String, usize>,
    dead: BTreeMap<String, usize>,
    /// By number of members: how many groups, how many partitions they have, how many of them this process should own.
    settled: BTreeMap<usize, (usize, usize, usize)>,
}

impl Members {
    pub(crate) fn new(
        name: String,
        lease_for: Duration,
        broker: &Arc<dyn Broker>,
        random: &Arc<Random>,
        outages: &Outages,
        vitals: &Arc<Vitals>,
    ) -> Self {
        let shared = Shared {
            name,
            lease_for,
            random: Arc::clone(random),
            asked: Notify::new(),
            begun: AtomicU64::new(0),
            over: channel::Sender::new(0),
            left: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
            broker: Arc::clone(broker),
            contact: outages.contact("the members of all groups"),
            outages: outages.clone(),
            vitals: Arc::clone(vitals),
            circles: Vec::new(),
            by_set: HashMap::new(),
            groups: Vec::new(),
            of_groups: Vec::new(),
            blind: false,
            failing: false,
        }
    }

    /// The seat of the process at a partition of a group; to be made before [`run`](Self::run).
    pub(crate) fn seat(
        &mut self,
        stream: &StreamKey,
        names: (&'static str, &'static str),
        key: GroupKey,
        build: &Arc<Build>,
    ) -> Arc<Seat> {
        let (shared, circles, set) = (&self.shared, &mut self.circles, stream.members(names.1));
        let circle = *self.by_set.entry(set.clone()).or_insert_with(|| {
            circles.push(Circle {
                stream: names.0,
                group: names.1,
                roster: Roster::new(set.clone(), stream.partitions(), shared.name.clone(), shared.lease_for),
                set,
                build: Arc::clone(build),
                settled: 0,
                seats: Vec::new(),
                count: self.vitals.registry.gauge("streams_members", &[names.0, names.1]),
                contested: None,
            });
            circles.len() - 1
        });
        let seat = Arc::new(Seat::new(shared, circle, key));
        circles[circle].seats.push(Arc::clone(&seat));
        self.watch_pauses(stream, &seat);
        seat
    }

    /// A seat that waits for no lease: a work queue shares no partitions.
    pub(crate) fn apart(&mut self, stream: &StreamKey, key: GroupKey) -> Arc<Seat> {
        let seat = Arc::new(Seat::new(&self.shared, usize::MAX, key));
        self.watch_pauses(stream, &seat);
        seat
    }

    /// A seat of a group of which the server knows nothing.
    pub(crate) fn alone(&self, key: GroupKey) -> Arc<Seat> {
        Arc::new(Seat::new(&self.shared, usize::MAX, key))
    }

    fn watch_pauses(&mut self, stream: &StreamKey, seat: &Arc<Seat>) {
        let group = (stream.clone(), seat.key.group().to_owned());
        // The partitions of a group come one after the other.
        if self.groups.last() != Some(&group) {
            self.groups.push(group);
            self.of_groups.push(Vec::new());
        }
        self.of_groups.last_mut().into_iter().for_each(|seats| seats.push(Arc::clone(seat)));
    }

    /// Looks which groups are paused, before any of them begins.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub(crate) async fn look_at_pauses(&mut self) -> Result<(), BrokerError> {
        let pauses = paged(PAGE, &self.groups, |page| self.broker.pauses(page)).await?;
        self.absorb_pauses(pauses);
        Ok(())
    }

    fn absorb_pauses(&mut self, pauses: Vec<Answer<Option<String>>>) {
        for (((stream, group), seats), pause) in self.groups.iter().zip(&self.of_groups).zip(pauses) {
            let pause = match pause {
                Ok(pause) => pause.map(|text| Pause::read(&text)),
                Err(error) => {
                    // A server that cannot answer now is an outage, of which the log says enough.
                    if error.kind() == BrokerErrorKind::Refused && !std::mem::replace(&mut self.blind, true) {
                        tracing::warn!(stream = stream.base(), group, %error, "pauses cannot be seen");
                    }
                    continue;
                }
            };
            let Some(first) = seats.first().filter(|first| first.pause() != pause) else { continue };
            match &pause {
                Some(Pause { by, why, .. }) => tracing::info!(stream = stream.base(), group, by, why, "paused"),
                None => tracing::info!(
                    stream = stream.base(),
                    group,
                    by = first.pause().map(|pause| pause.by),
                    "no longer paused"
                ),
            }
            seats.iter().for_each(|seat| seat.set_pause(pause.clone()));
        }
    }

    /// Takes part until the app stops. Then the process leaves, before it releases any lease.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let _sign = self.vitals.alive("the sharing of partitions");
        tokio::select! {
            () = shutdown.stopping() => {}
            () = self.attend() => {}
        }
        if tokio::time::timeout(FAREWELL, self.leave()).await.is_err() {
            tracing::debug!("leaving the members was not answered: others notice when the lease is over");
        }
        self.shared.left.cancel();
    }

    /// Looks in rounds, and between them when somebody asks.
    async fn attend(&mut self) {
        let mut round = tokio::time::interval(look(self.shared.lease_for));
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            let scope = tokio::select! {
                _ = round.tick() => Scope::Everything,
                // A process whose own looks succeed has nothing to catch up on.
                () = self.outages.over(), if self.failing => Scope::Everything,
                () = self.shared.asked.notified() => Scope::Asked,
                () = until(due) => Scope::Asked,
            };
            self.look(scope).await;
        }
    }

    /// When the next look at a seat is due, if nothing happens before.
    fn due(&self) -> Option<Instant> {
        self.circles.iter().flat_map(|circle| &circle.seats).filter_map(|seat| seat.inner().due).min()
    }

    /// Shows that the process lives, looks at the members and at what they own, and notifies every seat.
    async fn look(&mut self, scope: Scope) {
        let look = self.shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let (mut sets, mut seats, now) = (Vec::new(), Vec::new(), Instant::now());
        for circle in &self.circles {
            circle.ask(scope, &self.shared, now, &mut sets, &mut seats);
        }
        let keys: Vec<_> = seats.iter().map(|(seat, _)| seat.key.clone()).collect();
        let groups = if scope == Scope::Everything { &self.groups[..] } else { &[] };
        let looks = async {
            tokio::join!(
                paged(PAGE, &sets, |page| self.broker.attend(page)),
                paged(PAGE, &keys, |page| self.broker.states(page)),
                paged(PAGE, groups, |page| self.broker.pauses(page)),
            )
        };
        match self.contact.patiently(Matter::Lease, now, looks).await {
            (Ok(attended), Ok(states), Ok(pauses)) => {
                self.failing = false;
                // A look that was asked for may concern nothing.
                if !(sets.is_empty() && keys.is_empty() && groups.is_empty()) {
                    self.contact.succeeded(Matter::Lease);
                }
                if !groups.is_empty() {
                    self.absorb_pauses(pauses);
                }
                self.absorb(&sets, attended, seats.into_iter().zip(states));
            }
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                self.failing = true;
                self.contact.failed(Matter::Lease, &error);
                self.circles.iter_mut().for_each(|circle| circle.fail(&error));
            }
        }
        self.shared.over.send_replace(look);
    }

    /// Takes up the answers.
    fn absorb(
        &mut self,
        sets: &[Attendance],
        attended: Vec<Answer<Vec<Member>>>,
        states: impl Iterator<Item = ((Arc<Seat>, u64), Answer<Option<GroupState>>)>,
    ) {
        let (now, mut changes) = (Instant::now(), Changes::default());
        let mut answers = sets.iter().zip(attended).peekable();
        for circle in &mut self.circles {
            // Sets are asked for in the order of the circles.
            let Some((set, answer)) = answers.next_if(|(set, _)| set.members == circle.set) else { continue };
            match answer {
                Ok(members) => circle.refresh(set, members, now, &mut changes),
                Err(error) => circle.fail(&error),
            }
        }
        // An answer lacks what the task of the seat has done since the look began.
        let current = |((seat, entered), state): ((Arc<Seat>, u64), _)| {
            let is_current = seat.inner().entered == entered;
            is_current.then_some((seat, state))
        };
        let states: Vec<_> = states.filter_map(current).collect();
        for (seat, state) in states.iter().filter_map(|(seat, state)| Some((seat, state.as_ref().ok()?))) {
            let needs = state.as_ref().and_then(|state| state.needs.as_ref());
            self.circles[seat.circle].roster.need(seat.key.partition().index(), needs, now);
        }
        for (seat, state) in states {
            seat.observe(&self.circles[seat.circle].roster, state, now);
        }
        for circle in &mut self.circles {
            circle.propose(now, &mut changes);
        }
        changes.log();
    }

    /// Leaves the members of all groups.
    async fn leave(&self) {
        let farewell = |circle: &Circle| Attendance {
            members: circle.set.clone(),
            present: None,
            absent: circle.roster.own().map(|says| (says.to_owned(), None)).collect(),
        };
        let sets: Vec<_> = self.circles.iter().map(farewell).collect();
        if let Err(error) = paged(PAGE, &sets, |page| self.broker.attend(page)).await {
            tracing::debug!(%error, "the members could not be left: others notice when the lease is over");
        }
    }
}

impl Circle {
    /// Adds the questions of one look: the set of members, and the states of partitions that others own.
    fn ask(
        &self,
        scope: Scope,
        shared: &Shared,
        now: Instant,
        sets: &mut Vec<Attendance>,
        seats: &mut Vec<(Arc<Seat>, u64)>,
    ) {
        let (mut concerned, mut without) = (scope == Scope::Everything, BTreeSet::new());
        for seat in &self.seats {
            let mut inner = seat.inner();
            if inner.is_excused(now) {
                without.insert(seat.key.partition().index());
            }
            let wanted = inner.asked || inner.due.is_some_and(|due| due <= now);
            concerned |= wanted;
            if wanted || scope == Scope::Everything {
                inner.due = None;
                // A question from here on needs another look.
                inner.answering = std::mem::take(&mut inner.asked);
                if matches!(inner.mode, Mode::Standing) {
                    seats.push((Arc::clone(seat), inner.entered));
                }
            }
        }
        if concerned {
            let card = Card {
                name: shared.name.clone(),
                lease_for: shared.lease_for,
                without,
                build: Arc::clone(&self.build),
            }
            .to_string();
            let absent = self.roster.absent(&card, now);
            sets.push(Attendance { members: self.set.clone(), present: Some(card), absent });
        }
    }

    /// Refreshes the list of members.
    fn refresh(&mut self, set: &Attendance, members: Vec<Member>, now: Instant, changes: &mut Changes) {
        let first = self.roster.version() == 0;
        let news = self.roster.observe(members, now);
        self.count.set(Some(self.roster.len() as f64));
        let taken_out = |name: &str| set.absent.iter().any(|(says, _)| says.split(' ').next() == Some(name));
        for name in news.left {
            let change = if taken_out(&name) { &mut changes.dead } else { &mut changes.left };
            *change.entry(name).or_default() += 1;
        }
        for name in news.joined.into_iter().filter(|_| !first) {
            *changes.joined.entry(name).or_default() += 1;
        }
    }

    /// Logs who the other builds are, where partitions go to and fro between them.
    fn log_contested(&mut self, now: Instant) {
        let of = |seat: &Arc<Seat>| seat.inner().contested.clone();
        let Some(need) = self.seats.iter().find_map(of) else { return };
        let there = self.roster.who_can_meet(&need);
        if there.is_empty() {
            return;
        }
        self.seats.iter().for_each(|seat| seat.inner().contested = None);
        if self.contested.is_some_and(|logged| now.duration_since(logged) < CONTESTED) {
            return;
        }
        self.contested = Some(now);
        tracing::warn!(
            stream = self.stream,
            group = self.group,
            here = format!("{} {}", self.roster.me(), self.build),
            there,
            "programs that handle different events share the group: its partitions go to and fro between them, and events wait; give each program a group name of its own, or every one of them a consumer for each event"
        );
    }

    /// Proposes a successor for each partition that this process owns.
    fn propose(&mut self, now: Instant, changes: &mut Changes) {
        self.log_contested(now);
        let settled = self.roster.is_settled(now);
        // A look that fails in between is no news.
        if settled && std::mem::replace(&mut self.settled, self.roster.version()) != self.roster.version() {
            let share = self.seats.iter().filter(|seat| self.roster.is_mine(seat.key.partition().index())).count();
            let (groups, partitions, shares) = changes.settled.entry(self.roster.len()).or_default();
            (*groups, *partitions, *shares) = (*groups + 1, *partitions + self.seats.len(), *shares + share);
        }
        let successors = if settled { self.roster.successors(now) } else { Vec::new() };
        for seat in &self.seats {
            let successor = successors.get(seat.key.partition().index() as usize).copied().flatten();
            seat.propose(successor, self.roster.version(), now);
        }
    }

    /// The server did not answer, so nobody knows what happens meanwhile.
    fn fail(&mut self, error: &BrokerError) {
        self.roster.doubt();
        for seat in &self.seats {
            seat.fail(error);
        }
    }
}

impl Changes {
    fn log(&self) {
        for (member, groups) in &self.joined {
            tracing::info!(member, groups, "a process has joined");
        }
        for (member, groups) in &self.left {
            tracing::info!(member, groups, "a process has left");
        }
        for (member, groups) in &self.dead {
            tracing::warn!(member, groups, "a process gave no sign of life for its lease: it counts no longer");
        }
        for (members, (groups, partitions, share)) in &self.settled {
            tracing::info!(members, groups, partitions, share, "the members have settled");
        }
    }
}
