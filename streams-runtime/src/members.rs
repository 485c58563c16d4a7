//! How the processes of a group share its partitions: one task a process says that it is there, looks at the others and at
//! what they own, and tells each partition's task when its turn has come, or is over.
//!
//! [`roster`](crate::roster) judges who is a member and [`assign`](crate::assign) who should own what.
//! [`contend`](crate::contend) takes a partition, [`ordered`](crate::ordered) gives it up. All groups of the process are in
//! the same two conversations, about once a second, and in one more when a bell rings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams_core::broker::{Answer, Attendance, Broker, BrokerError, GroupState, Member, Need, Reply};
use streams_core::keys::{GroupKey, StreamKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::builds::Build;
use crate::lease::{Lease, Still, Verdict, Watch};
use crate::metrics::Gauge;
use crate::monitor::Vitals;
use crate::outage::{Contact, Matter, Outages};
use crate::random::Random;
use crate::roster::{Card, Roster};
use crate::shutdown::{FAREWELL, Shutdown};

/// How often a process says that it is there, and looks at what others own: so often that what a dead one leaves is taken
/// within a second of the end of its lease.
const LOOK: Duration = Duration::from_millis(750);
/// How many looks there are in a lease at least: who misses one is not taken for silent.
const LOOKS_A_LEASE: u32 = 4;
/// For how long a process excuses itself from a partition that it could not go on with. Each change moves partitions, so
/// it must not be tried again every few seconds.
const EXCUSED: Duration = Duration::from_secs(60);
/// How often the log is told that programs of different events share a group.
const CONTESTED: Duration = Duration::from_secs(3600);
/// How many groups or states one conversation is about: some ten thousand commands would hold up everybody behind them.
const PAGE: usize = 500;

/// How often a process with this lease looks.
pub(crate) fn look(lease_for: Duration) -> Duration {
    LOOK.min(lease_for / LOOKS_A_LEASE)
}

/// The name of a process: fresh, and readable.
pub(crate) fn name(host: &str, process: u32, random: &Random) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let host: String = host.chars().map(plain).take(64).collect();
    let host = if host.is_empty() { "process" } else { &host };
    format!("{host}.{process}.{}", &random.token()[..8])
}

/// The member that an owner's token names; the token itself where it names none.
pub(crate) fn member_of(owner: &str) -> &str {
    owner.rsplit_once('/').map_or(owner, |(member, _)| member)
}

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

/// What the places know of the task that looks for all of them. It knows them, and not the other way round, so that an app
/// that is dropped leaves nothing behind.
struct Shared {
    name: String,
    lease_for: Duration,
    random: Arc<Random>,
    /// A place wants to be looked at before the next round.
    asked: Notify,
    /// How many looks have begun; and how many are over.
    begun: AtomicU64,
    over: watch::Sender<u64>,
    /// The process is no member any more.
    left: CancellationToken,
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
    places: Vec<Arc<Place>>,
    count: Arc<Gauge>,
    /// When the log was told that programs of different events share the group.
    contested: Option<Instant>,
}

/// This process's place at one partition of a group.
pub(crate) struct Place {
    shared: Arc<Shared>,
    /// The index of its circle.
    circle: usize,
    key: GroupKey,
    inner: Mutex<Inner>,
    /// There is something to see.
    news: Notify,
    /// Whether [`Inner::successor`] is set: asked for between any two events.
    is_wanted: AtomicBool,
    wanted: Notify,
}

#[derive(Default)]
struct Inner {
    mode: Mode,
    /// How often the mode was entered: a look that began before may be older than what this process has done since.
    entered: u64,
    /// Its task wants to know at once, whatever there is to see.
    asked: bool,
    /// The look that is on its way was asked for.
    answering: bool,
    /// What was seen and not taken yet.
    sight: Option<Result<Sight, BrokerError>>,
    /// The owner that was told last, and whether it was this process's turn.
    told: Option<(String, bool)>,
    watch: Watch,
    /// The state as it was seen last.
    before: Option<GroupState>,
    /// The epoch whose holder has given the lease up or does not renew it any more, and since when that is seen.
    free: Still<u64>,
    /// When to look again although nothing happens.
    due: Option<Instant>,
    /// To whom the partition should be handed over, by which list of members.
    successor: Option<(String, u64)>,
    /// Since when this process excuses itself from the partition.
    excused: Option<Instant>,
    /// It goes to and fro between builds: what the last owner of this process could not handle.
    contested: Option<Need>,
    /// Who let the partition go, did not take it although it should have, or could not be given it: in which list of members,
    /// and when.
    passed_over: Option<(String, u64, Instant)>,
}

#[derive(Default)]
enum Mode {
    /// Its task does something else.
    #[default]
    Idle,
    /// Its task waits for its turn.
    Standing,
    /// Its task holds the lease until the token says that it is lost; and since when that is seen.
    Owning(CancellationToken, Option<Instant>),
}

/// What there is to see of a partition that this process does not own.
#[derive(Debug)]
pub(crate) struct Sight {
    /// The state of the look before.
    pub(crate) before: Option<GroupState>,
    pub(crate) state: Option<GroupState>,
    /// Why it is this process's turn to take the lease, in words; `None` while it is not.
    pub(crate) turn: Option<String>,
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
            over: watch::Sender::new(0),
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
    pub(crate) fn place(
        &mut self,
        stream: &StreamKey,
        names: (&'static str, &'static str),
        key: GroupKey,
        build: &Arc<Build>,
    ) -> Arc<Place> {
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
        let place = Arc::new(Place {
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

    /// A place that is nobody's turn: of a group in shared delivery, which shares no partitions.
    pub(crate) fn apart(&self, key: GroupKey) -> Arc<Place> {
        Arc::new(Place {
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
        states: impl Iterator<Item = ((Arc<Place>, u64), Answer<Option<GroupState>>)>,
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
        let current = |((place, entered), state): ((Arc<Place>, u64), _)| {
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
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
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
        places: &mut Vec<(Arc<Place>, u64)>,
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
        let of = |place: &Arc<Place>| place.inner().contested.clone();
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

impl Inner {
    /// Whether others should not count on this process for the partition.
    fn is_excused(&mut self, now: Instant) -> bool {
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

    /// Whether the lease is this process's to take, and why; also when to look again.
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
        match roster.heir(partition, lapsed, now) {
            Some(heir) if heir == roster.me() => {
                self.passed_over = lapsed.map(|owner| (owner.to_owned(), roster.version(), now));
                Some(why)
            }
            // Stuck, most likely: it must not keep everybody waiting.
            Some(heir) if now.duration_since(since) >= lease_for => {
                self.passed_over = Some((heir.to_owned(), roster.version(), now));
                Some(format!("{why}, and {heir} did not take it"))
            }
            _ => {
                self.due = Some(since + lease_for);
                None
            }
        }
    }

    /// Until the next look nobody looks at the partition, or can: the watch over its owner goes on then.
    fn doubt(&mut self) {
        self.watch.doubt();
        self.free.doubt();
        (self.due, self.told) = (None, None);
    }
}

impl Place {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the state of the partition, while this process stands by for it.
    fn see(&self, roster: &Roster, state: Answer<Option<GroupState>>, now: Instant) {
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
        let told = (owner, turn.is_some());
        // A server that has lost writes shows less than it did: the task has to see both.
        let reversed = match (&before, &state) {
            (Some(before), Some(state)) => state.at < before.at || state.reset != before.reset,
            _ => true,
        };
        inner.before.clone_from(&state);
        if std::mem::take(&mut inner.answering) || turn.is_some() || reversed || inner.told.as_ref() != Some(&told) {
            inner.told = Some(told);
            inner.sight = Some(Ok(Sight { before, state, turn }));
            self.news.notify_one();
        }
    }

    /// Takes up to whom the partition should go while this process owns it.
    fn direct(&self, successor: Option<&str>, version: u64, now: Instant) {
        let mut inner = self.inner();
        let owning = matches!(&inner.mode, Mode::Owning(lost, _) if !lost.is_cancelled());
        // It would let it go again, most likely, until something changes; but its share is not taken from it for good.
        let passed_over = |name: &&str| {
            let of = inner.passed_over.as_ref();
            of.is_some_and(|(of, at, when)| of == name && *at == version && now.duration_since(*when) < EXCUSED)
        };
        let successor = successor.filter(|_| owning).filter(|name| !passed_over(name));
        let before = std::mem::replace(&mut inner.successor, successor.map(|name| (name.to_owned(), version)));
        if before.as_ref().map(|(name, _)| name.as_str()) != successor {
            self.is_wanted.store(inner.successor.is_some(), Ordering::Release);
            self.wanted.notify_one();
        }
    }

    fn fail(&self, error: &BrokerError) {
        let mut inner = self.inner();
        if matches!(inner.mode, Mode::Standing) {
            inner.doubt();
            inner.sight = Some(Err(BrokerError::new(error.kind(), error.to_string())));
            self.news.notify_one();
        }
    }

    /// Its task stands by from now on: the next sight comes soon.
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
        (inner.mode, inner.sight, inner.before, inner.successor) = (mode, None, None, None);
        self.is_wanted.store(false, Ordering::Release);
    }

    /// Wants to be looked at now.
    pub(crate) fn ask(&self) {
        let mut inner = self.inner();
        (inner.asked, inner.sight) = (true, None);
        drop(inner);
        self.shared.asked.notify_one();
    }

    /// What there is to see: soon after it was asked for, else as soon as something has changed.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn sight(&self) -> Result<Sight, BrokerError> {
        loop {
            if let Some(sight) = self.inner().sight.take() {
                return sight;
            }
            self.news.notified().await;
        }
    }

    /// Whether this process is the member.
    pub(crate) fn is_of(&self, member: &str) -> bool {
        self.shared.name == member
    }

    /// A token for the lease, which names this process.
    pub(crate) fn token(&self) -> String {
        format!("{}/{}", self.shared.name, self.shared.random.token())
    }

    /// Whether the partition should be handed over after the event in hand.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    /// Waits until the partition should be handed over.
    ///
    /// # Cancel safety
    /// It is still wanted.
    pub(crate) async fn wanted(&self) {
        while !self.is_wanted() {
            self.wanted.notified().await;
        }
    }

    /// Who wants it.
    pub(crate) fn successor(&self) -> Option<String> {
        self.inner().successor.as_ref().map(|(name, _)| name.clone())
    }

    /// The lease could not be given back to who wants it. This process takes it again at once, and would only try the same.
    pub(crate) fn keep(&self) {
        let mut inner = self.inner();
        inner.passed_over = inner.successor.take().map(|(name, version)| (name, version, Instant::now()));
    }

    /// The partition goes to and fro between builds: the other one handles this.
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
