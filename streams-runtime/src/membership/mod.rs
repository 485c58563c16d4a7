//! The sharing of partitions between processes: who is a member, who should own what, and who holds which lease.
//!
//! One task per process says that it is there, looks at the others and at what they own, and tells each [`Seat`] when its turn has
//! come, or is over. [`roster`] judges who is a member and [`assign`] who should own what. All groups of the process are in the
//! same two conversations, about once a second, and in one more when a bell rings. May use `ops` and the helpers of the crate;
//! `group`, the two deliveries and `app` use it.

mod assign;
mod build;
mod card;
mod lease;
mod roster;
mod seat;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{Answer, Attendance, Broker, BrokerError, GroupState, Member, Reply};
use streams_core::keys::{GroupKey, StreamKey};
use tokio::sync::{Notify, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::build::{Build, NOBODY, Turn};
use self::card::Card;
pub(crate) use self::card::{member_of, name};
pub(crate) use self::lease::{Lease, Leases};
use self::roster::{Roster, look};
pub(crate) use self::seat::Seat;
use self::seat::{Mode, Shared};
pub(crate) use self::watch::Still;
use crate::clock::until;
use crate::ops::{Contact, Gauge, Matter, Outages, Vitals};
use crate::random::Random;
use crate::shutdown::{FAREWELL, Shutdown};

/// How often the log is told that programs of different events share a group.
const CONTESTED: Duration = Duration::from_secs(3600);
/// How many groups or states one conversation is about: some ten thousand commands would hold up everybody behind them.
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
    /// The last look failed.
    failing: bool,
}

/// The members of one group, and this process's places among its partitions.
struct Circle {
    set: String,
    stream: &'static str,
    group: &'static str,
    build: Arc<Build>,
    roster: Roster,
    /// Which list of members has settled, as was told last.
    settled: u64,
    places: Vec<Arc<Seat>>,
    count: Arc<Gauge>,
    /// When the log was told that programs of different events share the group.
    contested: Option<Instant>,
}

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everything,
    /// What was asked for, or is due.
    Asked,
}

/// What changed at one look, told for all groups at once.
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
            failing: false,
        }
    }

    /// The process's place at a partition of a group; to be made before [`run`](Self::run).
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
                places: Vec::new(),
                count: self.vitals.registry.gauge("streams_members", &[names.0, names.1]),
                contested: None,
            });
            circles.len() - 1
        });
        let place = Arc::new(Seat {
            shared: Arc::clone(shared),
            circle,
            key,
            inner: Mutex::default(),
            news: Notify::new(),
            is_wanted: AtomicBool::new(false),
            wanted: Notify::new(),
        });
        circles[circle].places.push(Arc::clone(&place));
        place
    }

    /// A place that is nobody's turn: of a group in queue delivery, which shares no partitions.
    pub(crate) fn apart(&self, key: GroupKey) -> Arc<Seat> {
        Arc::new(Seat {
            shared: Arc::clone(&self.shared),
            circle: usize::MAX,
            key,
            inner: Mutex::default(),
            news: Notify::new(),
            is_wanted: AtomicBool::new(false),
            wanted: Notify::new(),
        })
    }

    /// Takes part until the app stops; then leaves, before anything is given back.
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
                // Who has no trouble itself has nothing to catch up on.
                () = self.outages.over(), if self.failing => Scope::Everything,
                () = self.shared.asked.notified() => Scope::Asked,
                () = until(due) => Scope::Asked,
            };
            self.look(scope).await;
        }
    }

    /// When a place is to be looked at, if nothing happens before.
    fn due(&self) -> Option<Instant> {
        self.circles.iter().flat_map(|circle| &circle.places).filter_map(|place| place.inner().due).min()
    }

    /// Says that the process is there, looks at the others and at what they own, and tells every place what concerns it.
    async fn look(&mut self, scope: Scope) {
        let look = self.shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let (mut sets, mut places, now) = (Vec::new(), Vec::new(), Instant::now());
        for circle in &self.circles {
            circle.ask(scope, &self.shared, now, &mut sets, &mut places);
        }
        let keys: Vec<_> = places.iter().map(|(place, _)| place.key.clone()).collect();
        let looks = async {
            tokio::join!(paged(&sets, |page| self.broker.attend(page)), paged(&keys, |page| self.broker.states(page)))
        };
        let (attended, states) = self.contact.patiently(Matter::Lease, now, looks).await;
        match (attended, states) {
            (Ok(attended), Ok(states)) => {
                self.failing = false;
                // An app without ordered groups has asked nothing.
                if !(sets.is_empty() && keys.is_empty()) {
                    self.contact.succeeded(Matter::Lease);
                }
                self.absorb(&sets, attended, places.into_iter().zip(states));
            }
            (Err(error), _) | (_, Err(error)) => {
                self.failing = true;
                self.contact.failed(Matter::Lease, &error);
                self.circles.iter_mut().for_each(|circle| circle.fail(&error));
            }
        }
        self.shared.over.send_replace(look);
    }

    /// Takes up what was answered.
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
                Ok(members) => circle.meet(set, members, now, &mut changes),
                Err(error) => circle.fail(&error),
            }
        }
        // The answer lacks what the place's task has done since the look began.
        let current = |((place, entered), state): ((Arc<Seat>, u64), _)| {
            let is_current = place.inner().entered == entered;
            is_current.then_some((place, state))
        };
        let states: Vec<_> = states.filter_map(current).collect();
        for (place, state) in states.iter().filter_map(|(place, state)| Some((place, state.as_ref().ok()?))) {
            let needs = state.as_ref().and_then(|state| state.needs.as_ref());
            self.circles[place.circle].roster.need(place.key.partition().index(), needs, now);
        }
        for (place, state) in states {
            place.see(&self.circles[place.circle].roster, state, now);
        }
        for circle in &mut self.circles {
            circle.direct(now, &mut changes);
        }
        changes.tell();
    }

    /// Is no member any more.
    async fn leave(&self) {
        let farewell = |circle: &Circle| Attendance {
            members: circle.set.clone(),
            present: None,
            absent: circle.roster.own().map(|says| (says.to_owned(), None)).collect(),
        };
        let sets: Vec<_> = self.circles.iter().map(farewell).collect();
        if let Err(error) = paged(&sets, |page| self.broker.attend(page)).await {
            tracing::debug!(%error, "the members could not be left: others notice when the lease is over");
        }
    }
}

/// Asks the broker page by page.
async fn paged<'a, Q, A>(
    questions: &'a [Q],
    ask: impl Fn(&'a [Q]) -> Reply<'a, Vec<Answer<A>>>,
) -> Result<Vec<Answer<A>>, BrokerError> {
    let mut answers = Vec::with_capacity(questions.len());
    for page in questions.chunks(PAGE) {
        answers.extend(ask(page).await?);
    }
    Ok(answers)
}

impl Circle {
    /// Adds what is to be asked: the set to be present in, and the states of what others own.
    fn ask(
        &self,
        scope: Scope,
        shared: &Shared,
        now: Instant,
        sets: &mut Vec<Attendance>,
        places: &mut Vec<(Arc<Seat>, u64)>,
    ) {
        let (mut concerned, mut without) = (scope == Scope::Everything, BTreeSet::new());
        for place in &self.places {
            let mut inner = place.inner();
            if inner.is_excused(now) {
                without.insert(place.key.partition().index());
            }
            let wanted = inner.asked || inner.due.is_some_and(|due| due <= now);
            concerned |= wanted;
            if wanted || scope == Scope::Everything {
                inner.due = None;
                // What is asked from here on needs another look.
                inner.answering = std::mem::take(&mut inner.asked);
                if matches!(inner.mode, Mode::Standing) {
                    places.push((Arc::clone(place), inner.entered));
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

    /// Takes up who is a member.
    fn meet(&mut self, set: &Attendance, members: Vec<Member>, now: Instant, changes: &mut Changes) {
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

    /// Tells the log, where partitions go to and fro between builds, who the others are.
    fn tell_contested(&mut self, now: Instant) {
        let of = |place: &Arc<Seat>| place.inner().contested.clone();
        let Some(need) = self.places.iter().find_map(of) else { return };
        let there = self.roster.who_can_meet(&need);
        if there.is_empty() {
            return;
        }
        self.places.iter().for_each(|place| place.inner().contested = None);
        if self.contested.is_some_and(|told| now.duration_since(told) < CONTESTED) {
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

    /// Tells each partition that this process owns whether it is somebody else's by now.
    fn direct(&mut self, now: Instant, changes: &mut Changes) {
        self.tell_contested(now);
        let settled = self.roster.is_settled(now);
        // A look that fails in between is no news.
        if settled && std::mem::replace(&mut self.settled, self.roster.version()) != self.roster.version() {
            let share = self.places.iter().filter(|place| self.roster.is_mine(place.key.partition().index())).count();
            let (groups, partitions, shares) = changes.settled.entry(self.roster.len()).or_default();
            (*groups, *partitions, *shares) = (*groups + 1, *partitions + self.places.len(), *shares + share);
        }
        let successors = if settled { self.roster.successors(now) } else { Vec::new() };
        for place in &self.places {
            let successor = successors.get(place.key.partition().index() as usize).copied().flatten();
            place.direct(successor, self.roster.version(), now);
        }
    }

    /// The server could not be asked: what happens meanwhile is unknown.
    fn fail(&mut self, error: &BrokerError) {
        self.roster.doubt();
        for place in &self.places {
            place.fail(error);
        }
    }
}

impl Changes {
    fn tell(&self) {
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
