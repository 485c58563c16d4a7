//! A group as a work queue, on one partition: take what is free, handle it beside others, say what became of it.
//!
//! The broker keeps who has what in hand ([`streams_core::broker`]). A failed event waits for its next attempt there, in nobody's
//! hand, so it holds up no other, and whoever is free has it next. [`crew`](crate::crew) says which consumers are dead;
//! [`settle`](crate::settle) decides what an outcome means, as for ordered groups.
//!
//! One task does three things at the same time: it takes, it runs handlers, and it settles what they have ended. One call that
//! takes is on its way, and one that settles, so calls collect what there is by themselves; besides, each event that has crashes
//! is charged by a call of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{
    Become, BrokerError, BrokerErrorKind, Created, Crew, Delivered, Events, Full, Haul, Holder, Joined, Lost, Need,
    Settle, Settled, Take, Took,
};
use streams_core::{Context, Entry, EntryId, OnDataLoss, Outcome, keys};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::after;
use crate::commit::MENDED_RETRY;
use crate::crew::{self, Sightings};
use crate::deliver::Taker;
use crate::lease::Lease;
use crate::loss::{DataLoss, DataLossKind, Reader};
use crate::metrics::Gauge;
use crate::ordered::{Ended, Group, Past};
use crate::outage::{Matter, Sent};
use crate::prove::{Turn, given_up};
use crate::replay::{Replaying, Replays};
use crate::settle::{Cause, Decision, Failed, SERVER_AWAY, Settlement, decide, wait};
use crate::shutdown::FAREWELL;
use crate::source::extent;
use crate::status::count;

/// How often a process looks at the others, and at what waits without a ring.
const LOOK: Duration = Duration::from_millis(750);
/// How many ends one call tells: some milliseconds of the server's time.
const ENDS_A_CALL: usize = 500;
/// How many entries may have ended here that the server does not know of: as many come again after a crash, with what is in
/// hand.
const MOST_UNTOLD: usize = 1_000;
/// How much is taken ahead: what the handlers get done in this time, and at most so many entries. Who has none ahead waits for
/// the server after each event; what is ahead waits here, although another process may be free.
const AHEAD: Duration = Duration::from_millis(10);
const MOST_AHEAD: usize = 256;
/// How long an end waits for others to be told with it, while there is work; and how many go at once without waiting.
const GATHER: Duration = Duration::from_millis(5);
const GATHERED: usize = 64;
/// After how long an entry is given back that was taken ahead and has not begun: the handlers turned out to be slow.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often it is told again that entries are in no hand and in no list.
const REMINDER: Duration = Duration::from_secs(60);
/// For how long events have to wait for another build before that is told.
const UNNEEDED: Duration = Duration::from_secs(60);

/// What a shared group needs besides.
pub(crate) struct Sharing {
    /// Slots for handlers, of all partitions of the group in this process.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) concurrency: usize,
    pub(crate) members: Arc<Gauge>,
    /// The most that an entry waits for its next attempt, whatever the server's clock does.
    pub(crate) longest_wait: Duration,
}

/// How an entry that was handed out may run.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Beside whatever runs.
    Beside,
    /// With nothing else of the partition, and nothing else of this process that has crashes, in whatever group.
    Alone,
    /// Not again.
    Over(String),
}

/// How an entry may run that took down so many processes, as far as one knows.
///
/// The first is that of everything that was in hand, whether it ran or not, so nothing is known from it; the second is that of
/// all that ran, and may be chance, too. From then on it runs alone, so that suspects are not charged with each other's ends.
fn standing(crashes: u32, max_crashes: u32) -> Standing {
    let charged = crashes.saturating_sub(1);
    if let Some(reason) = given_up(charged, max_crashes) {
        return Standing::Over(reason);
    }
    if crashes > 0 && charged + 1 >= max_crashes.min(2) { Standing::Alone } else { Standing::Beside }
}

/// How many entries to have in hand that have not begun, where so many run at once and take so long.
fn ahead(slots: usize, mean: Option<Duration>) -> usize {
    // Nothing is known of the first.
    let Some(mean) = mean else { return 0 };
    let done = AHEAD.as_nanos() * slots as u128 / mean.as_nanos().max(1);
    usize::try_from(done).unwrap_or(usize::MAX).min(MOST_AHEAD)
}

/// What was handed out and has not begun.
struct Queued {
    delivered: Delivered,
    taker: Result<Taker, Need>,
    standing: Standing,
    since: Instant,
}

/// An event that has a slot: its handler was called, or is when the event has its turn and is charged.
struct Running {
    /// Tells one call with an event from the next.
    call: u64,
    entry: Arc<Entry>,
    consumer: usize,
    attempt: u32,
    began: Instant,
    /// When the handler has to be over, once it was called.
    limit: Option<Instant>,
}

/// What has come of a call.
struct Returned {
    id: EntryId,
    call: u64,
    came: Came,
}

enum Came {
    /// The event has its turn, and is charged.
    Turn(Turn, OwnedSemaphorePermit),
    /// It could not be charged.
    Nothing,
    /// The handler has come to its end.
    End(Result<Outcome, Failed>),
}

/// What has ended, on its way to the broker.
struct Telling {
    settle: Arc<Settle>,
    reply: AbortOnDropHandle<Result<Option<Settled>, BrokerError>>,
    /// How often there was no answer: what is not in hand any more then may have been settled by that.
    failures: u32,
    retry_at: Option<Instant>,
}

/// Dead letters for which there is no room.
struct Kept {
    letters: Vec<(EntryId, Become)>,
    until: Instant,
}

/// What this process has in hand, and what it is about to say.
struct Desk<'a> {
    group: &'a Group,
    sharing: &'a Sharing,
    lease: &'a Lease,
    /// What builds had declared at the start.
    declared: Events,
    queue: VecDeque<Queued>,
    running: BTreeMap<EntryId, Running>,
    /// By when calls have to be over.
    limits: BTreeSet<(Instant, EntryId)>,
    calls: JoinSet<Returned>,
    called: u64,
    /// Calls that were given up and have not come back: each keeps its slot.
    stuck: BTreeSet<u64>,
    /// A place in the queue for a slot, and one that was waited for.
    slot_awaited: Option<Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>>,
    slot: Option<OwnedSemaphorePermit>,
    /// How many crashes what is in hand has, where it has any.
    crashed: BTreeMap<EntryId, u32>,
    /// What runs, runs alone.
    alone: bool,
    /// What is in hand and has not ended weighs this.
    bytes: usize,
    /// How long a call takes, lately.
    mean: Option<Duration>,
    /// Ended, and not on its way.
    ends: Vec<(EntryId, Become)>,
    /// Why events on their way to the dead letters are dead.
    causes: BTreeMap<EntryId, Cause>,
    /// The versions of events that are passed over.
    passed_over: BTreeMap<EntryId, u32>,
    /// Until when ends wait for others.
    gathering: Option<Instant>,
    telling: Option<Telling>,
    kept: Option<Kept>,
    taking: Option<AbortOnDropHandle<Result<Took, BrokerError>>>,
    /// The last call that asked for entries, and the last that told ends.
    last_take: Sent,
    last_told: Sent,
    /// How many calls that change what is in hand were made.
    asked: u64,
    /// There may be something to take.
    hungry: bool,
    /// An answer was lost: the broker may have something in this hand that is not here.
    unsure: bool,
    failures: u32,
    /// When to ask again that failed.
    take_at: Option<Instant>,
    /// When the first of what waits may be taken.
    due: Option<Instant>,
    dead_in_a_row: u32,
    /// Since when events wait for another build, and when that was told.
    needed: Option<(Instant, Option<Instant>)>,
    /// At the look before entries were in no hand and in no list; and when that was told.
    astray: (bool, Option<Instant>),
    /// Nothing starts any more.
    closing: bool,
}

impl Group {
    /// Takes part in the group's work until something ends that.
    pub(crate) async fn share(&self, sharing: &Sharing, past: &mut Past) -> Ended {
        if let Err(ended) = self.tell_of(past).await {
            return ended;
        }
        let joined = self.contact.patiently(Matter::Lease, Instant::now(), self.join()).await;
        let (lease, declared) = match joined {
            Ok(joined) => joined,
            Err(ended) => {
                if let Ended::Failed(error) = &ended {
                    self.contact.failed(Matter::Lease, error);
                }
                return ended;
            }
        };
        self.contact.succeeded(Matter::Lease);
        self.progress.resume();
        self.progress.joined();
        self.owns(lease.holder().epoch);
        let (group, partition, epoch) = (self.key.group(), self.key.partition().as_str(), lease.holder().epoch);
        tracing::info!(group, partition, epoch, "taking part in the group's work");
        self.withdraw(&declared).await;
        let mut desk = Desk::new(self, sharing, &lease, declared);
        let ended = desk.work(&mut past.sightings).await;
        if let Ended::Failed(error) = &ended {
            self.contact.failed(Matter::Read, error);
        }
        let ended = if matches!(ended, Ended::Lost) || desk.give_back(&ended).await.is_err() {
            desk.cancel().await;
            past.untold = Some(desk.leave_behind());
            Ended::Lost
        } else {
            self.leave(&lease, &ended).await;
            ended
        };
        self.progress.disowned(matches!(ended, Ended::Lost));
        ended
    }

    /// Tells what became of what an earlier joining of this process had in hand, where no other process has found it dead: after
    /// a server that was away for longer than a lease nobody has died, and nobody waits for the lease to run out once more.
    async fn tell_of(&self, past: &mut Past) -> Result<(), Ended> {
        let Some(settle) = &past.untold else { return Ok(()) };
        let broker = &self.engine.broker;
        let told = self.contact.patiently(Matter::Write, Instant::now(), async {
            if broker.settle(&self.key, settle).await?.is_some() {
                broker.release(&self.key, &settle.holder).await?;
            }
            Ok::<_, BrokerError>(())
        });
        tokio::select! {
            biased;
            () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
            told = told => told.inspect_err(|error| self.contact.failed(Matter::Write, error))?,
        }
        self.contact.succeeded(Matter::Write);
        past.untold = None;
        Ok(())
    }

    /// Becomes a consumer of the group, which is made where it is new.
    async fn join(&self) -> Result<(Lease, Events), Ended> {
        let broker = &self.engine.broker;
        loop {
            if self.engine.shutdown.is_stopping() {
                return Err(Ended::Stopped);
            }
            let state = broker.state(&self.key).await?;
            self.recall(state.as_ref())?;
            let Some(state) = state else {
                if broker.create(&self.key, self.start).await? == Created::Foreign {
                    self.take_over().await?;
                }
                continue;
            };
            self.declare(&state).await?;
            let (token, sent) = (self.place.token(), Instant::now());
            match broker.join(&self.key, &token, self.engine.lease_for).await? {
                Joined::Member { epoch } => {
                    let holder = Holder { owner: token, epoch };
                    return Ok((self.engine.leases.hold(&self.progress, holder, sent), state.events));
                }
                // The next look says what has become of it.
                Joined::Missing => {}
                Joined::Vanished { at } => return Err(Self::vanished(Reader::new(at, "", None))),
                Joined::Mode(mode) => return Err(self.wrong_mode(&mode)),
            }
        }
    }

    /// Is no consumer any more.
    async fn leave(&self, lease: &Lease, ended: &Ended) {
        match tokio::time::timeout(FAREWELL, self.engine.broker.release(&self.key, lease.holder())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self
                .left(ended, &format!("the group could not be left ({error}): others notice when the lease is over")),
            Err(_) => self.left(ended, "leaving the group was not answered: others notice when the lease is over"),
        }
    }

    /// Why nothing is handed out after a loss, and what lets the group go on.
    fn shared_loss_reason(&self, loss: &DataLoss) -> String {
        let (partition, group) = (self.key.partition(), self.key.group());
        format!(
            "{}: {loss}; to go on with what is left call `Admin::resume(\"{partition}\", \"{group}\")`; `on_data_loss = \"continue\"` goes on by itself",
            self.key
        )
    }
}

fn loss_of(lost: Lost) -> DataLoss {
    let kind = if lost.deleted { DataLossKind::DeletedUnread } else { DataLossKind::TrimmedPast };
    DataLoss { kind, from: lost.from, to: lost.to, count: Some(lost.count) }
}

impl<'a> Desk<'a> {
    fn new(group: &'a Group, sharing: &'a Sharing, lease: &'a Lease, declared: Events) -> Self {
        Self {
            group,
            sharing,
            lease,
            declared,
            queue: VecDeque::new(),
            running: BTreeMap::new(),
            limits: BTreeSet::new(),
            calls: JoinSet::new(),
            called: 0,
            stuck: BTreeSet::new(),
            slot_awaited: None,
            slot: None,
            crashed: BTreeMap::new(),
            alone: false,
            bytes: 0,
            mean: None,
            ends: Vec::new(),
            causes: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            gathering: None,
            telling: None,
            kept: None,
            taking: None,
            last_take: Sent::at(Instant::now()),
            last_told: Sent::at(Instant::now()),
            asked: 0,
            hungry: true,
            unsure: false,
            failures: 0,
            take_at: None,
            due: None,
            dead_in_a_row: 0,
            needed: None,
            astray: (false, None),
            closing: false,
        }
    }

    /// Takes, handles and settles until something ends it.
    async fn work(&mut self, sightings: &mut Sightings) -> Ended {
        let (group, lease) = (self.group, self.lease);
        let (broker, partition) = (&group.engine.broker, group.key.partition());
        // Only what comes from here on has to ring: what is there already is asked for first.
        let mut heard = match extent(&**broker, &group.key).await {
            Ok(extent) => extent.map_or(EntryId::ZERO, |extent| extent.last),
            Err(error) => return error.into(),
        };
        let news = group.engine.tails.follow_news(partition.as_str(), heard, group.max_payload);
        let mut bell = Some((group.engine.tails.follow_bell(&partition.bell()), EntryId::ZERO));
        // Sightings of others from this process's last time as a consumer still count.
        sightings.doubt();
        let mut look_at = Instant::now();
        let mut look: Option<AbortOnDropHandle<Result<Option<Crew>, BrokerError>>> = None;
        let mut quiet = None;
        let mut freeing: Option<AbortOnDropHandle<()>> = None;
        let (mut replays, mut replaying) = (Replays::new(), None);
        let ended = loop {
            if let Err(ended) = self.advance() {
                break ended;
            }
            self.wait_for_a_slot();
            let (moment, tells) = (self.next_moment(), self.may_tell());
            let happened = tokio::select! {
                biased;
                () = group.engine.shutdown.stopping() => Err(Ended::Stopped),
                () = lease.lost() => Err(Ended::Lost),
                Some(returned) = self.calls.join_next() => {
                    self.returned(returned);
                    Ok(())
                }
                answer = told(&mut self.telling), if tells => self.absorb_told(answer),
                answer = reply(&mut self.taking) => self.absorb_took(answer),
                () = until(moment) => {
                    self.moment();
                    Ok(())
                }
                // Kept for `advance`: one that is let go belongs to whoever waits next, who would do the same.
                slot = awaited(&mut self.slot_awaited) => {
                    (self.slot, self.slot_awaited) = (slot, None);
                    Ok(())
                }
                answer = reply(&mut look) => {
                    look = None;
                    let now = Instant::now();
                    look_at = after(now, LOOK.min(group.engine.lease_for / 4));
                    match answer {
                        // To be told by a call that takes, which says why.
                        Ok(None) => self.hungry = true,
                        Ok(Some(crew)) => {
                            self.answered(Matter::Lease);
                            let judgement = sightings.observe(&lease.holder().owner, &crew.consumers, now);
                            look_at = judgement.next.map_or(look_at, |next| next.min(look_at));
                            if freeing.as_ref().is_none_or(AbortOnDropHandle::is_finished) && !judgement.dead.is_empty() {
                                freeing = Some(spawn(crew::free(Arc::clone(broker), group.key.clone(), judgement.dead)));
                            }
                            self.absorb_crew(&crew, now);
                            if quiet.is_some() && quiet == self.quiet() {
                                self.compare(&crew);
                            }
                        }
                        Err(error) => {
                            sightings.doubt();
                            group.contact.failed(Matter::Lease, &error);
                        }
                    }
                    Ok(())
                }
                () = until(Some(look_at)), if look.is_none() => {
                    let (broker, key) = (Arc::clone(broker), group.key.clone());
                    quiet = self.quiet();
                    look = Some(spawn(async move { broker.crew(&key).await }));
                    Ok(())
                }
                last = news.beyond(heard) => last.map(|last| {
                    heard = last;
                    self.hungry = true;
                }).map_err(|error| Ended::Refused(BrokerError::new(error.kind(), error.to_string()))),
                () = group.rung(&mut bell) => {
                    self.hungry = true;
                    Ok(())
                }
                came = Replaying::comes(&mut replaying) => match replaying.take() {
                    Some(before) => {
                        group.replay_on(lease, &mut replays, before, came).await.map(|next| replaying = next)
                    }
                    None => Ok(()),
                },
                () = replays.due(lease), if replaying.is_none() => {
                    group.begin_replay(lease, &mut replays).await.map(|begun| replaying = begun)
                }
            };
            if let Err(ended) = happened {
                break ended;
            }
        };
        if let Some(replaying) = replaying
            && !matches!(ended, Ended::Lost)
        {
            group.put_back(lease, replaying).await;
        }
        ended
    }

    /// Starts whatever may start: handlers, a call that takes, one that settles.
    fn advance(&mut self) -> Result<(), Ended> {
        if self.dead_in_a_row >= self.group.storm {
            return Err(self.group.halted(self.group.storm_reason(self.dead_in_a_row)));
        }
        // A process that stood still may be dead to others, who have what it had in hand.
        if !self.lease.is_held(Instant::now()) {
            return Err(Ended::Lost);
        }
        self.start();
        self.take();
        // It is kept for what is asked for.
        self.slot = self.slot.take().filter(|_| self.taking.is_some());
        self.tell();
        Ok(())
    }

    fn may_start(&self) -> bool {
        let on_its_way = self.telling.as_ref().map_or(0, |telling| telling.settle.ends.len());
        let answered = self.telling.as_ref().is_none_or(|telling| telling.failures == 0);
        // Nothing begins that nobody could settle, nor while a dead letter is on its way, for which there may be no room.
        let settles = answered && self.causes.is_empty() && self.ends.len() + on_its_way < MOST_UNTOLD;
        !self.closing && !self.alone && self.kept.is_none() && settles
    }

    /// Queues for a slot while nothing but that is missing, to call the next or to ask for one. The partitions of the group have
    /// slots in turn: who only took those that are left over would wait for as long as another one has a backlog.
    fn wait_for_a_slot(&mut self) {
        let starts = |first: &Queued| first.standing != Standing::Alone || self.running.is_empty();
        let is_next = self.may_start() && self.queue.front().is_some_and(starts);
        if !is_next && self.wanted(1) == 0 {
            self.slot_awaited = None;
        } else if self.slot_awaited.is_none() {
            let slot = Arc::clone(&self.sharing.slots).acquire_owned();
            self.slot_awaited = Some(Box::pin(async { slot.await.ok() }));
        }
    }

    fn start(&mut self) {
        while self.may_start()
            && let Some(first) = self.queue.front()
        {
            let consumer = match (&first.taker, &first.standing) {
                (Ok(Taker::Consumer(consumer)), Standing::Beside) => *consumer,
                (Ok(Taker::Consumer(consumer)), Standing::Alone) if self.running.is_empty() => {
                    let consumer = *consumer;
                    let rest = self.queue.split_off(1);
                    self.put_back(rest);
                    consumer
                }
                (Ok(Taker::Consumer(_)), Standing::Alone) => return,
                _ => {
                    self.end_without_a_call();
                    continue;
                }
            };
            let slot = self.slot.take().or_else(|| Arc::clone(&self.sharing.slots).try_acquire_owned().ok());
            let Some(slot) = slot else { return };
            if let Some(queued) = self.queue.pop_front() {
                self.call(queued, consumer, slot);
            }
        }
    }

    /// Ends the business of the first in the queue, which no handler is called with.
    fn end_without_a_call(&mut self) {
        let Some(Queued { delivered, taker, standing, .. }) = self.queue.pop_front() else { return };
        let (group, entry) = (self.group, &delivered.entry);
        self.bytes -= entry.weight();
        let end = match (taker, standing) {
            (Err(need), _) => self.needs(entry.id, need.name, need.version),
            (Ok(Taker::Consumer(consumer)), Standing::Over(reason)) => {
                let attempts = delivered.failed.saturating_add(delivered.crashes);
                let handler = &group.handlers[consumer];
                return self.end(entry, Settlement::Dead { cause: Cause::Crash, reason }, attempts, handler.name());
            }
            (Ok(taker), _) => match (group.without_taker(taker, entry), entry.event()) {
                (Some(letter), _) => {
                    self.dead_in_a_row += 1;
                    self.causes.insert(entry.id, letter.cause);
                    Become::Dead(group.written(letter))
                }
                (None, Some((name, version))) if keys::check_event(name).is_ok() && !group.build.ignores(name) => {
                    self.passed_over.insert(entry.id, version);
                    Become::PassedOver { name: name.to_owned() }
                }
                // Nobody waits for it: a name that no event can have, or one that the group ignores.
                (None, _) => {
                    count(&group.progress.counts.passed_over, 1);
                    Become::Done
                }
            },
        };
        self.ends.push((entry.id, end));
    }

    /// Calls the handler, or lets the event wait for its turn and be charged before, if it has crashes.
    fn call(&mut self, queued: Queued, consumer: usize, slot: OwnedSemaphorePermit) {
        let Queued { delivered: Delivered { entry, failed, crashes }, standing, .. } = queued;
        let (id, attempt, began, alone) = (entry.id, failed + 1, Instant::now(), standing == Standing::Alone);
        self.alone = alone;
        self.called += 1;
        let call = self.called;
        self.running.insert(id, Running { call, entry, consumer, attempt, began, limit: None });
        if crashes == 0 {
            self.begin(id, None, slot);
            return;
        }
        let (turn, charge) = (self.group.engine.turns.clone().wait(alone), self.charge(id, crashes));
        // Who is not heard of for as long is no consumer any more.
        let at_most = self.group.engine.lease_for;
        self.calls.spawn(async move {
            let turn = turn.await;
            let charged = tokio::time::timeout(at_most, charge).await.unwrap_or(false);
            Returned { id, call, came: if charged { Came::Turn(turn, slot) } else { Came::Nothing } }
        });
    }

    /// Calls the handler once, in a task of its own.
    fn begin(&mut self, id: EntryId, turn: Option<Turn>, slot: OwnedSemaphorePermit) {
        let group = self.group;
        let Some(running) = self.running.get_mut(&id) else { return };
        let (handler, entry, call) = (&group.handlers[running.consumer], Arc::clone(&running.entry), running.call);
        running.began = Instant::now();
        // One that does not yield at its timeout is given up before others take everything from this process.
        let limit = after(running.began, handler.policy.timeout.saturating_add(group.engine.lease_for / 2));
        running.limit = Some(limit);
        let context = Context::new(Arc::clone(&handler.scope), entry, running.attempt);
        self.limits.insert((limit, id));
        self.mind_limits();
        group.progress.begins(id);
        let handled = handler.call(context);
        self.calls.spawn(async move {
            let (_turn, _slot) = (turn, slot);
            Returned { id, call, came: Came::End(handled.await) }
        });
    }

    /// Tells the server that this is about to run; whether it knows, and the event is in this hand.
    fn charge(&self, id: EntryId, crashes: u32) -> impl Future<Output = bool> + Send + use<> {
        let (broker, key) = (Arc::clone(&self.group.engine.broker), self.group.key.clone());
        let ends = vec![(id, Become::Charged { crashes })];
        let settle = Settle { holder: self.lease.holder().clone(), ends, dead_bounds: self.group.dead_bounds };
        async move { matches!(broker.settle(&key, &settle).await, Ok(Some(settled)) if settled.lost.is_empty()) }
    }

    /// The renewals go by the first call that has to be over, with a little time to give it up first.
    fn mind_limits(&self) {
        let spare = self.group.engine.lease_for / 4;
        self.lease.handlers_until(self.limits.first().map(|(limit, _)| after(*limit, spare)));
    }

    fn returned(&mut self, returned: Result<Returned, JoinError>) {
        let Returned { id, call, came } = match returned {
            Ok(returned) => returned,
            // A handler's panic is caught: this one is ours, and ends the work as any other of ours does.
            Err(error) => return error.try_into_panic().map_or((), |panic| std::panic::resume_unwind(panic)),
        };
        self.stuck.remove(&call);
        // One that was given up meanwhile is nobody's any more; the event may be in hand again.
        if self.running.get(&id).is_none_or(|running| running.call != call) {
            return;
        }
        let result = match came {
            Came::Turn(turn, slot) if !self.closing => return self.begin(id, Some(turn), slot),
            Came::Turn(..) | Came::Nothing => None,
            Came::End(result) => Some(result),
        };
        let Some(running) = self.running.remove(&id) else { return };
        let Some(result) = result else {
            self.over(&running);
            self.ends.push(self.back(id));
            return;
        };
        let took = running.began.elapsed();
        self.mean = Some(self.mean.map_or(took, |mean| (mean * 7 + took) / 8));
        self.judge(&running, result);
    }

    /// What was called is over.
    fn over(&mut self, Running { entry, limit, .. }: &Running) {
        if let Some(limit) = limit {
            self.limits.remove(&(*limit, entry.id));
            self.mind_limits();
        }
        self.alone = false;
        self.bytes -= entry.weight();
    }

    /// An attempt is over: says what becomes of its event.
    fn judge(&mut self, running: &Running, result: Result<Outcome, Failed>) {
        self.over(running);
        let (Running { entry, consumer, attempt, .. }, group) = (running, self.group);
        let handler = &group.handlers[*consumer];
        match decide(result, *attempt, &handler.policy, || group.engine.random.fraction()) {
            Decision::Settle(settlement) => self.end(entry, settlement, *attempt, handler.name()),
            // Consumers of batches are refused at the start: an event is never part of one here.
            Decision::Retry { after, reason } => {
                group.tell_failed(handler, entry, 1, *attempt, after, &reason);
                self.ends.push((entry.id, Become::Again { failed: *attempt, after }));
            }
            Decision::Apart { .. } => self.ends.push(self.back(entry.id)),
        }
    }

    /// Ends an event's business with the group.
    fn end(&mut self, entry: &Arc<Entry>, settlement: Settlement, attempts: u32, consumer: &'static str) {
        let letter = self.group.ended(settlement, entry, 1, attempts, consumer);
        let end = match letter {
            Some(letter) => {
                self.dead_in_a_row += 1;
                self.causes.insert(entry.id, letter.cause);
                Become::Dead(self.group.written(letter))
            }
            None => {
                self.dead_in_a_row = 0;
                Become::Done
            }
        };
        self.ends.push((entry.id, end));
    }

    fn crashes(&self, id: EntryId) -> u32 {
        self.crashed.get(&id).copied().unwrap_or(0)
    }

    fn back(&self, id: EntryId) -> (EntryId, Become) {
        (id, Become::Back { crashes: self.crashes(id) })
    }

    fn needs(&self, id: EntryId, name: String, version: u32) -> Become {
        Become::Needs { name, version, crashes: self.crashes(id) }
    }

    /// Whether it is to run here, or runs.
    fn is_at_work(&self, id: EntryId) -> bool {
        self.running.contains_key(&id) || self.queue.iter().any(|queued| queued.delivered.entry.id == id)
    }

    /// Gives back what has not begun.
    fn put_back(&mut self, queued: impl IntoIterator<Item = Queued>) {
        for Queued { delivered, .. } in queued {
            self.bytes -= delivered.entry.weight();
            self.ends.push(self.back(delivered.entry.id));
        }
    }

    /// Gives back what there is no room for among the dead letters: it comes again, and fails again.
    fn put_letters_back(&mut self, Kept { letters, .. }: Kept) {
        for (id, _) in letters {
            self.causes.remove(&id);
            self.ends.push(self.back(id));
        }
    }

    /// Gives back what was handed out when nothing begins any more.
    fn put_haul_back(&mut self, took: Result<Took, BrokerError>) {
        self.taking = None;
        if let Ok(Took::Entries(haul)) = took {
            for Delivered { entry, crashes, .. } in haul.entries {
                self.ends.push((entry.id, Become::Back { crashes }));
            }
        }
    }

    /// When something is to be done although nothing happens.
    fn next_moment(&self) -> Option<Instant> {
        let late = self.impatient().map(|since| after(since, PATIENCE));
        let (limit, kept) = (self.limits.first().map(|(limit, _)| *limit), self.kept.as_ref().map(|kept| kept.until));
        let due = self.due.filter(|_| !self.hungry);
        let took = self.taking.is_some().then_some(self.last_take.due);
        let told = self.is_telling().then_some(self.last_told.due);
        [late, limit, kept, due, self.take_at, self.gathering, took, told].into_iter().flatten().min()
    }

    /// Whether ends are on their way.
    fn is_telling(&self) -> bool {
        self.telling.as_ref().is_some_and(|telling| telling.retry_at.is_none())
    }

    /// Since when the longest has waited that is to be given back when it waits for too long. What is to run alone is not:
    /// it would never come to that.
    fn impatient(&self) -> Option<Instant> {
        self.queue.iter().filter(|queued| queued.standing != Standing::Alone).map(|queued| queued.since).min()
    }

    fn moment(&mut self) {
        let now = Instant::now();
        if self.taking.is_some() {
            self.group.contact.mind(Matter::Read, &mut self.last_take);
        }
        if self.is_telling() {
            self.group.contact.mind(Matter::Write, &mut self.last_told);
        }
        if self.impatient().is_some_and(|since| after(since, PATIENCE) <= now) {
            let (alone, rest) = self.queue.drain(..).partition(|queued| queued.standing == Standing::Alone);
            let rest: VecDeque<_> = rest;
            self.queue = alone;
            self.put_back(rest);
        }
        while let Some((limit, id)) = self.limits.first().copied().filter(|(limit, _)| *limit <= now) {
            let Some(running) = self.running.remove(&id) else {
                self.limits.remove(&(limit, id));
                continue;
            };
            let (group, timeout) = (self.group, self.group.handlers[running.consumer].policy.timeout);
            tracing::error!(
                group = group.key.group(),
                partition = group.key.partition().as_str(),
                entry = %id,
                consumer = group.handlers[running.consumer].name(),
                "a handler has outrun its timeout and does not yield: its event is given up here and tried again"
            );
            self.stuck.insert(running.call);
            if self.is_stuck() {
                let reason =
                    "as many handlers as may run at once have outrun their timeout and do not yield".to_owned();
                group.progress.troubled(reason, None);
            }
            self.judge(&running, Err(Failed::timed_out(timeout)));
        }
        if let Some(kept) = self.kept.take_if(|kept| kept.until <= now) {
            self.ends.extend(kept.letters);
        }
        if self.due.is_some_and(|due| due <= now) {
            (self.due, self.hungry) = (None, true);
        }
        self.take_at = self.take_at.filter(|at| *at > now);
    }

    /// How many to ask for, with so many slots idle: as many as can be handled soon.
    fn wanted(&self, idle: usize) -> usize {
        let waits_alone = self.queue.front().is_some_and(|first| first.standing == Standing::Alone);
        if !self.hungry || self.taking.is_some() || self.take_at.is_some() || waits_alone || !self.may_start() {
            return 0;
        }
        // A handler that takes long has no time for what would be taken ahead for it.
        let slow = self.running.values().filter(|running| running.began.elapsed() >= PATIENCE).count();
        let quick = self.sharing.concurrency.saturating_sub(slow);
        let (ahead, in_hand) = (ahead(quick, self.mean), self.running.len() + self.queue.len());
        // A call for each event that has ended would cost more than the event.
        let enough = self.queue.len() > idle + ahead / 2;
        if enough || (in_hand > 0 && self.bytes >= self.group.lanes.bytes) {
            return 0;
        }
        let group = self.group;
        let (most, _) = group.engine.tails.count(group.key.partition().as_str(), group.max_payload);
        (idle + ahead).saturating_sub(self.queue.len()).min(most)
    }

    /// Asks for entries, if any are wanted.
    fn take(&mut self) {
        let (group, kept) = (self.group, usize::from(self.slot.is_some()));
        let wanted = self.wanted(self.sharing.slots.available_permits() + kept);
        if wanted == 0 {
            return;
        }
        let take = Take {
            holder: self.lease.holder().clone(),
            count: wanted,
            takes: group.build.wants(),
            most_waiting: group.lanes.entries as u64,
            longest_wait: self.sharing.longest_wait,
            in_hand: self.unsure.then(|| self.in_hand()),
            go_on: group.on_data_loss == OnDataLoss::Continue,
        };
        // What rings from here on is not in the answer for sure.
        self.hungry = false;
        self.asked += 1;
        let (engine, key, max_payload) = (group.engine.clone(), group.key.clone(), group.max_payload);
        let expected = engine.tails.count(key.partition().as_str(), group.max_payload).1;
        self.last_take = Sent::at(Instant::now());
        self.taking = Some(spawn(async move {
            let _room = engine.tails.reserve(expected).await;
            let took = engine.broker.take(&key, &take).await;
            let entries: Vec<_> = match &took {
                Ok(Took::Entries(haul)) => haul.entries.iter().map(|taken| Arc::clone(&taken.entry)).collect(),
                _ => Vec::new(),
            };
            engine.tails.learn(key.partition().as_str(), max_payload, took.as_ref().ok().map(|_| entries.as_slice()));
            took
        }));
    }

    /// Everything that the broker may have in this process's hand.
    fn in_hand(&self) -> Vec<EntryId> {
        let queued = self.queue.iter().map(|queued| queued.delivered.entry.id);
        let telling = self.telling.iter().flat_map(|telling| &telling.settle.ends);
        let kept = self.kept.iter().flat_map(|kept| &kept.letters);
        let ended = self.ends.iter().chain(telling).chain(kept).map(|(id, _)| *id);
        self.running.keys().copied().chain(queued).chain(ended).collect()
    }

    fn absorb_took(&mut self, answer: Result<Took, BrokerError>) -> Result<(), Ended> {
        self.taking = None;
        let group = self.group;
        let took = match answer {
            Ok(took) => took,
            Err(error) if error.is_retryable() || error.is_indefinite() => {
                group.contact.failed(Matter::Read, &error);
                self.failures = self.failures.saturating_add(1);
                let wait = wait(SERVER_AWAY, self.failures, group.engine.random.fraction());
                (self.hungry, self.unsure, self.take_at) = (true, true, Some(after(Instant::now(), wait)));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.answered(Matter::Read);
        (self.unsure, self.failures) = (false, 0);
        match took {
            Took::Entries(haul) => {
                self.absorb_haul(haul);
                Ok(())
            }
            Took::Fenced => Err(Ended::Lost),
            Took::Missing => {
                let loss =
                    DataLoss { kind: DataLossKind::Restarted, from: EntryId::ZERO, to: EntryId::MAX, count: None };
                Err(Ended::Cut { loss, at: None })
            }
            Took::Vanished { at } => Err(Group::vanished(Reader::new(at, "", None))),
            Took::Ahead { at, .. } => {
                let loss = DataLoss { kind: DataLossKind::HistoryCut, from: EntryId::ZERO, to: at, count: None };
                Err(Ended::Cut { loss, at: Some(Box::new(Reader::nowhere())) })
            }
            Took::Changed { at } => {
                let loss = DataLoss { kind: DataLossKind::HistoryCut, from: EntryId::ZERO, to: at, count: None };
                Err(Ended::Cut { loss, at: Some(Box::new(Reader::nowhere())) })
            }
            Took::Lost { lost, found } => {
                let loss = loss_of(lost);
                if found {
                    group.report(&loss);
                }
                Err(group.halted(group.shared_loss_reason(&loss)))
            }
        }
    }

    /// The server has answered, with something of use.
    fn answered(&self, matter: Matter) {
        self.group.contact.succeeded(matter);
        let tells = self.telling.as_ref().is_none_or(|telling| telling.failures == 0);
        if self.kept.is_none() && tells && !self.is_stuck() {
            self.group.owns(self.lease.holder().epoch);
        }
    }

    /// Whether nothing can run until a handler yields that was given up.
    fn is_stuck(&self) -> bool {
        self.stuck.len() >= self.sharing.concurrency
    }

    fn absorb_haul(&mut self, haul: Haul) {
        let (group, now) = (self.group, Instant::now());
        if let Some(lost) = haul.lost {
            group.report(&loss_of(lost));
        }
        let full = haul.waiting >= group.lanes.entries as u64;
        group.progress.held_up(full.then(|| {
            format!(
                "{} entries wait for their next attempt or for another build, of at most {} (`lane_entries`): no new ones are handed out until some of them are settled",
                haul.waiting, group.lanes.entries
            )
        }));
        self.due = haul.due.map(|due| after(now, due));
        // Where there was something there may be more.
        self.hungry |= !haul.entries.is_empty();
        for delivered in haul.entries {
            self.bytes += delivered.entry.weight();
            if delivered.crashes > 0 {
                self.crashed.insert(delivered.entry.id, delivered.crashes);
            }
            let taker = group.taker(&self.declared, &delivered.entry);
            let standing = match &taker {
                Ok(Taker::Consumer(consumer)) => {
                    standing(delivered.crashes, group.handlers[*consumer].policy.max_crashes)
                }
                _ => Standing::Beside,
            };
            let first = standing == Standing::Alone;
            let queued = Queued { delivered, taker, standing, since: now };
            if first {
                self.queue.push_front(queued);
            } else {
                self.queue.push_back(queued);
            }
        }
    }

    /// Takes up what the group looks like.
    fn absorb_crew(&mut self, crew: &Crew, now: Instant) {
        let group = self.group;
        self.sharing.members.set(Some(crew.consumers.len() as f64));
        group.progress.crew(crew);
        self.absorb_astray(crew, now);
        if let Some(due) = crew.due {
            let due = after(now, due);
            self.due = Some(self.due.map_or(due, |before| before.min(due)));
            self.hungry |= due <= now;
        }
        let missing = crew.needed.iter().filter(|(name, version)| !group.build.handles(name, **version));
        let missing: Vec<_> = missing.map(|(name, version)| format!("{name}@{version}")).collect();
        if missing.is_empty() {
            self.needed = None;
            return;
        }
        let (since, told) = self.needed.get_or_insert((now, None));
        if now.duration_since(*since) >= UNNEEDED && told.is_none_or(|told| now.duration_since(told) >= UNNEEDED) {
            *told = Some(now);
            tracing::warn!(
                group = group.key.group(),
                partition = group.key.partition().as_str(),
                events = missing.join(", "),
                waiting = crew.waiting,
                "events wait for a build that handles them, and this one does not: start one that does, or `ignore` them"
            );
        }
    }

    /// A pending entry is in a hand or waits; one that does neither, nobody will have again.
    fn absorb_astray(&mut self, crew: &Crew, now: Instant) {
        let in_hand: u64 = crew.consumers.iter().map(|hand| hand.pending).sum();
        let astray = crew.pending.saturating_sub(in_hand).saturating_sub(crew.waiting);
        let (before, told) = &mut self.astray;
        if std::mem::replace(before, astray > 0)
            && astray > 0
            && told.is_none_or(|told| now.duration_since(told) >= REMINDER)
        {
            *told = Some(now);
            let (group, partition) = (self.group.key.group(), self.group.key.partition().as_str());
            tracing::error!(
                group,
                partition,
                astray,
                "entries are in nobody's hand and in no list: somebody has deleted a key of the work queue; `XPENDING {partition} {group} - + 100 _free` shows them, and each that `XCLAIM {partition} {group} by-hand 0 ID JUSTID` takes is handled a minute later"
            );
        }
    }

    /// Tells what has ended, if nothing is on its way.
    fn tell(&mut self) {
        if self.telling.is_some() || self.ends.is_empty() {
            self.gathering = None;
            return;
        }
        let is_busy = !self.queue.is_empty() && !self.closing && self.causes.is_empty();
        let now = Instant::now();
        if is_busy && self.ends.len() < GATHERED && *self.gathering.get_or_insert(after(now, GATHER)) > now {
            return;
        }
        self.gathering = None;
        let ends: Vec<_> = self.ends.drain(..self.ends.len().min(ENDS_A_CALL)).collect();
        let holder = self.lease.holder().clone();
        let settle = Arc::new(Settle { holder, ends, dead_bounds: self.group.dead_bounds });
        self.lease.commit_begins(Instant::now());
        let reply = self.send(&settle);
        self.telling = Some(Telling { settle, reply, failures: 0, retry_at: None });
    }

    fn send(&mut self, settle: &Arc<Settle>) -> AbortOnDropHandle<Result<Option<Settled>, BrokerError>> {
        self.asked += 1;
        self.last_told = Sent::at(Instant::now());
        let (broker, key, settle) = (Arc::clone(&self.group.engine.broker), self.group.key.clone(), Arc::clone(settle));
        spawn(async move { broker.settle(&key, &settle).await })
    }

    /// Takes up the answer about what has ended; `None` says that it is time to ask again.
    fn absorb_told(&mut self, answer: Option<Result<Option<Settled>, BrokerError>>) -> Result<(), Ended> {
        let group = self.group;
        let Some(answer) = answer else {
            if let Some(telling) = self.telling.take() {
                self.tell_again(telling);
            }
            return Ok(());
        };
        let error = match answer {
            Ok(None) => return Err(Ended::Lost),
            Ok(Some(settled)) => {
                self.lease.commit_ended();
                if let Some(telling) = self.telling.take() {
                    self.settled(&telling, &settled);
                }
                self.answered(Matter::Write);
                return Ok(());
            }
            Err(error) => error,
        };
        let wait = if error.is_retryable() || error.is_indefinite() {
            group.contact.failed(Matter::Write, &error);
            if error.kind() == BrokerErrorKind::Full {
                self.lease.commit_ended();
                if self.keep_letters() {
                    return Ok(());
                }
            }
            let failures = self.telling.as_ref().map_or(0, |telling| telling.failures);
            wait(SERVER_AWAY, failures.saturating_add(1), group.engine.random.fraction())
        } else if error.kind() == BrokerErrorKind::Refused {
            // Answered: a permission or a key is to be mended, and until then no handler runs that nobody could settle.
            self.lease.commit_ended();
            group.contact.rest();
            group.say_refused(&error);
            MENDED_RETRY
        } else {
            self.telling = None;
            return Err(group.halted(error.to_string()));
        };
        if let Some(telling) = &mut self.telling {
            telling.failures = telling.failures.saturating_add(1);
            telling.retry_at = Some(after(Instant::now(), wait));
        }
        Ok(())
    }

    /// The server has done what it was told.
    fn settled(&mut self, telling: &Telling, settled: &Settled) {
        let group = self.group;
        let (lost, declared): (BTreeSet<_>, BTreeSet<_>) =
            (settled.lost.iter().collect(), settled.declared.iter().collect());
        let mut kept = Vec::new();
        for (id, end) in &telling.settle.ends {
            let version = self.passed_over.remove(id);
            if lost.contains(id) {
                self.forget(*id);
                let cause = self.causes.remove(id);
                if telling.failures > 0 {
                    // An earlier call has done it whose answer was lost.
                    if let Some(cause) = cause {
                        group.progress.counts.dead(cause);
                    }
                } else {
                    tracing::warn!(group = group.key.group(), partition = group.key.partition().as_str(), entry = %id, "the event is not in this process's hand any more: somebody has acknowledged or claimed it by hand");
                }
                continue;
            }
            match end {
                Become::PassedOver { name } if declared.contains(id) => {
                    self.ends.push((*id, self.needs(*id, name.clone(), version.unwrap_or(1))));
                    continue;
                }
                Become::PassedOver { .. } => count(&group.progress.counts.passed_over, 1),
                Become::Dead(_) if settled.kept.contains(id) => {
                    kept.push((*id, end.clone()));
                    continue;
                }
                Become::Dead(_) => {
                    if let Some(cause) = self.causes.remove(id) {
                        group.progress.counts.dead(cause);
                    }
                }
                Become::Done
                | Become::Again { .. }
                | Become::Charged { .. }
                | Become::Back { .. }
                | Become::Needs { .. } => {}
            }
            self.forget(*id);
        }
        if let Some(Full { count, oldest }) = settled.full {
            let reason = group.full_reason(group.dead_bounds, count, oldest);
            group.say_halted(&reason);
            self.keep(kept);
        }
    }

    /// Tells what was told before without an answer.
    fn tell_again(&mut self, mut telling: Telling) {
        // What is in hand again was given back by the call whose answer was lost.
        Arc::make_mut(&mut telling.settle).ends.retain(|(id, _)| !self.is_at_work(*id));
        (telling.reply, telling.retry_at) = (self.send(&telling.settle), None);
        self.telling = Some(telling);
    }

    /// Puts off letters for which there is no room.
    fn keep(&mut self, letters: Vec<(EntryId, Become)>) {
        let kept = self.kept.get_or_insert_with(|| Kept { letters: Vec::new(), until: Instant::now() });
        kept.letters.extend(letters);
        kept.until = after(Instant::now(), MENDED_RETRY);
    }

    /// A full server takes no letters: they must not keep the others from being told, which it takes. Answers whether there
    /// were any.
    fn keep_letters(&mut self) -> bool {
        let Some(mut telling) = self.telling.take() else { return false };
        let is_dead = |(_, end): &(EntryId, Become)| matches!(end, Become::Dead(_));
        let letters: Vec<_> = telling.settle.ends.iter().filter(|end| is_dead(end)).cloned().collect();
        if letters.is_empty() {
            self.telling = Some(telling);
            return false;
        }
        self.keep(letters);
        Arc::make_mut(&mut telling.settle).ends.retain(|end| !is_dead(end));
        if !telling.settle.ends.is_empty() {
            // Some of them may be told by now.
            telling.failures = telling.failures.saturating_add(1);
            self.tell_again(telling);
        }
        true
    }

    /// The server knows what became of it; perhaps it is in hand again by now.
    fn forget(&mut self, id: EntryId) {
        if self.crashed.contains_key(&id) && !self.is_at_work(id) {
            self.crashed.remove(&id);
        }
    }

    /// Whether what has ended may be told, and told again: while a call is on its way that may hand out what was given back by
    /// one without an answer, it would be given back once more although it is about to run here.
    fn may_tell(&self) -> bool {
        self.taking.is_none() || self.telling.as_ref().is_none_or(|telling| telling.retry_at.is_none())
    }

    /// While nothing is on its way that changes what is in hand: how many such calls there were.
    fn quiet(&self) -> Option<u64> {
        (self.taking.is_none() && self.telling.is_none()).then_some(self.asked)
    }

    /// Where the server has more in this hand than there is, it was handed out by a call that came late: the connection was
    /// given up by then.
    fn compare(&mut self, crew: &Crew) {
        let mine = crew.consumers.iter().find(|hand| hand.owner == self.lease.holder().owner);
        if mine.is_some_and(|mine| mine.pending > self.in_hand().len() as u64) {
            (self.unsure, self.hungry) = (true, true);
        }
    }

    /// What is to be told of all that is in hand when it cannot be told now. What runs must have been cancelled.
    fn leave_behind(&mut self) -> Settle {
        let in_hand = self.in_hand();
        let mut ends: Vec<_> = self.telling.take().map_or_else(Vec::new, |telling| telling.settle.ends.clone());
        ends.append(&mut self.ends);
        ends.retain(|(_, end)| !matches!(end, Become::Dead(_)));
        let told: BTreeSet<_> = ends.iter().map(|(id, _)| *id).collect();
        ends.extend(in_hand.into_iter().filter(|id| !told.contains(id)).map(|id| self.back(id)));
        Settle { holder: self.lease.holder().clone(), ends, dead_bounds: self.group.dead_bounds }
    }

    /// Ends the work with nothing in hand: handlers come to their end, what has not begun goes back, and all is told.
    async fn give_back(&mut self, ended: &Ended) -> Result<(), Ended> {
        self.closing = true;
        (self.slot, self.slot_awaited) = (None, None);
        let queue = std::mem::take(&mut self.queue);
        self.put_back(queue);
        if let Some(kept) = self.kept.take() {
            self.put_letters_back(kept);
        }
        while !self.calls.is_empty() {
            self.tell();
            let (moment, tells) = (self.next_moment(), self.may_tell());
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Lost),
                () = self.group.engine.shutdown.cutting() => break,
                Some(returned) = self.calls.join_next() => self.returned(returned),
                answer = told(&mut self.telling), if tells => if let Err(Ended::Lost) = self.absorb_told(answer) {
                    return Err(Ended::Lost);
                },
                took = reply(&mut self.taking) => self.put_haul_back(took),
                () = until(moment) => self.moment(),
            }
        }
        let cut: Vec<_> = std::mem::take(&mut self.running).into_keys().collect();
        self.cancel().await;
        let cut = cut.into_iter().map(|id| self.back(id));
        self.ends.extend(cut.collect::<Vec<_>>());
        if self.taking.is_some()
            && let Ok(took) = tokio::time::timeout(FAREWELL, reply(&mut self.taking)).await
        {
            self.put_haul_back(took);
        }
        self.taking = None;
        let all_told = async {
            loop {
                if let Some(kept) = self.kept.take() {
                    self.put_letters_back(kept);
                }
                self.tell();
                if self.telling.is_none() {
                    return Ok(());
                }
                let answer = told(&mut self.telling).await;
                self.absorb_told(answer)?;
            }
        };
        match tokio::time::timeout(FAREWELL, all_told).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Ended::Lost)) => Err(Ended::Lost),
            Ok(Err(failed)) => {
                self.group
                    .left(ended, &format!("what was handled last could not be settled ({failed:?}): it comes again"));
                Ok(())
            }
            Err(_) => {
                self.group
                    .left(ended, "what was handled last was not settled, as there was no answer: it may come again");
                Ok(())
            }
        }
    }

    /// Cancels the handlers that run, and waits until they are over.
    async fn cancel(&mut self) {
        if !self.calls.is_empty() {
            self.calls.shutdown().await;
        }
        self.limits.clear();
        self.lease.handlers_until(None);
    }
}

fn spawn<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(call))
}

/// Waits for the answer of a call, if one is on its way.
///
/// # Cancel safety
/// The call goes on.
async fn reply<T>(call: &mut Option<AbortOnDropHandle<Result<T, BrokerError>>>) -> Result<T, BrokerError> {
    match call {
        Some(call) => call.await.unwrap_or_else(|error| {
            Err(BrokerError::new(BrokerErrorKind::Indefinite, "a call was aborted").caused_by(error))
        }),
        None => std::future::pending().await,
    }
}

/// Waits for the answer about what has ended, or until it is time to ask again.
///
/// # Cancel safety
/// The call goes on.
async fn told(telling: &mut Option<Telling>) -> Option<Result<Option<Settled>, BrokerError>> {
    let Some(telling) = telling else { return std::future::pending().await };
    if let Some(at) = telling.retry_at {
        tokio::time::sleep_until(at).await;
        return None;
    }
    let aborted = |error| Err(BrokerError::new(BrokerErrorKind::Indefinite, "a call was aborted").caused_by(error));
    Some((&mut telling.reply).await.unwrap_or_else(aborted))
}

/// Waits for a slot, if one is waited for.
///
/// # Cancel safety
/// The place in the queue is kept.
async fn awaited<T>(slot: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match slot {
        Some(slot) => slot.await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_crash_is_put_down_to_nobody_and_after_the_second_it_runs_alone() {
        let over = |crashes, max| matches!(standing(crashes, max), Standing::Over(_));
        assert_eq!(standing(0, 3), Standing::Beside);
        assert_eq!(standing(1, 3), Standing::Beside);
        assert_eq!(standing(2, 3), Standing::Alone);
        assert_eq!(standing(3, 3), Standing::Alone);
        assert!(over(4, 3));
        assert_eq!((standing(0, 1), standing(1, 1)), (Standing::Beside, Standing::Alone));
        assert!(over(2, 1));
    }

    #[test]
    fn as_much_is_taken_ahead_as_is_handled_in_ten_milliseconds() {
        assert_eq!(ahead(8, None), 0);
        assert_eq!(ahead(8, Some(Duration::from_secs(1))), 0);
        assert_eq!(ahead(8, Some(Duration::from_millis(1))), 80);
        assert_eq!(ahead(1, Some(Duration::from_micros(100))), 100);
        assert_eq!(ahead(8, Some(Duration::ZERO)), MOST_AHEAD);
    }
}
