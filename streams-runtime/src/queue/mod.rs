//! A group as a work queue, on one partition: join, fetch chunks, handle their entries in parallel, ack them, leave.
//!
//! The broker records which consumer has which entries in flight ([`streams_core::broker`]). A failed event waits for
//! its next attempt in the broker's waiting set, so it delays no other, and any free consumer has it next. As for
//! ordered groups, [`decide`](crate::group::decide) decides what an outcome means, and
//! [`Bookmark`](crate::reader::Bookmark) whether history is whole.
//!
//! One task does three things at the same time: it fetches ([`fetch`]), it runs handlers ([`in_flight`]), and it acks
//! the entries that have ended ([`acks`]). At most one call of each kind is under way, so the next one collects all
//! that is ready. Every consumer reclaims the entries of dead ones that it finds ([`reclaim`]).

mod acks;
mod engine;
mod fetch;
mod in_flight;
mod reclaim;

use std::future::Future;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use streams_core::broker::{
    Acked, Acks, Again, BrokerError, BrokerErrorKind, Chunk, Created, Cursor, Damage, Events, Fetch, Fetched, Holder,
    Item, Joined, Lost, New, Pass, QueueState, Reply,
};
use streams_core::{EntryId, OnDataLoss, Outcome, keys};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::{after, until};
use crate::data_loss::{DataLoss, DataLossKind};
use crate::fence::ours;
use crate::group::{
    Attempt, Call, Decision, Ended, Failed, GroupTask, Halt, Letter, News, Settlement, Standing, SuspectPermit, Taker,
    decide, reply, spawn,
};
use crate::membership::Lease;
use crate::ops::{Cause, Gauge, Matter, count, extent};
use crate::reader::{Bookmark, CHECK, Follower, Looked, TAKE, cut, look};
use crate::shutdown::FAREWELL;
use crate::sync::{Waiting, awaited};
use acks::{AckQueue, Disposition, End};
use fetch::{Answer, Fetcher, Finding};
use in_flight::{Came, Flight, InFlight, Open, PATIENCE, Queued, Returned, Running, standing};
use reclaim::{LivenessWatch, Reclaim};

pub(crate) use engine::WorkQueue;

/// How many quick handlers run one after the other before calls go out.
const AT_WORK: u64 = 64;
/// How often a process reads the state of the queue: the other consumers, and entries that became due without a ring.
const LOOK: Duration = Duration::from_millis(750);
/// The most bytes that one fetch brings, except for one entry that alone has more.
const FETCH_BYTES: usize = 4 << 20;
/// The most attempts of a call whose answer says which process reports a loss.
const INSISTS: u32 = 8;

/// The settings of a work queue, besides those of every group.
pub(crate) struct Queue {
    /// The slots for handlers, shared by all partitions of the group in this process.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) concurrency: usize,
    pub(crate) members: Arc<Gauge>,
    /// The longest wait of an entry for its next attempt, whatever the server's clock does.
    pub(crate) longest_wait: Duration,
}

/// The acks that an earlier session of this process has not sent, and its holder.
pub(crate) struct Unsaid {
    holder: Holder,
    calls: Vec<Arc<Acks>>,
}

/// The memory of a work queue from one session of this process to the next.
#[derive(Default)]
struct Past {
    /// The other consumers as they were last seen.
    sightings: LivenessWatch,
    /// The acks that a lost session has not sent.
    unsaid: Option<Unsaid>,
}

/// One session of this process.
struct Session<'a> {
    group: &'a GroupTask,
    queue: &'a Queue,
    lease: &'a Lease,
    /// The events that builds had declared at its start.
    declared: Events,
    fetcher: Fetcher,
    in_flight: InFlight,
    acks: AckQueue,
    slot: Slot,
    dead_in_a_row: u32,
    /// Whether no other consumer is known.
    alone: bool,
    /// Whether no handler starts any more.
    closing: bool,
}

/// A place in line for a slot, and a slot that was waited for.
#[derive(Default)]
struct Slot {
    awaited: Option<Waiting<Option<OwnedSemaphorePermit>>>,
    held: Option<OwnedSemaphorePermit>,
}

impl GroupTask {
    /// Sends a call whose answer says which process reports a loss, and repeats it while there is no answer.
    async fn insist<'a>(&self, call: impl Fn() -> Reply<'a, bool>) -> Result<bool, Ended> {
        for sent in 1..INSISTS {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.pause(self.retry_read(error, sent)?).await,
            }
            if self.services.shutdown.is_stopping() {
                return Err(Ended::Stopped);
            }
        }
        Ok(call().await?)
    }

    /// Runs one session, until something ends it.
    async fn share(&self, queue: &Queue, past: &mut Past) -> Ended {
        if let Err(ended) = self.say_of(past).await {
            return ended;
        }
        let joined = self.contact.patiently(Matter::Lease, Instant::now(), self.join()).await;
        let (lease, declared) = match joined {
            Ok(joined) => joined,
            Err(ended) => return self.noted(Matter::Lease, ended),
        };
        self.contact.succeeded(Matter::Lease);
        self.progress.resume();
        self.progress.joined();
        self.owns(lease.holder().epoch);
        let (group, partition, epoch) = (self.key.group(), self.key.partition().as_str(), lease.holder().epoch);
        tracing::debug!(group, partition, epoch, "began a session");
        self.log_news(News::Joined);
        self.withdraw(&declared).await;
        let mut session = Session::new(self, queue, &lease, declared);
        let ended = self.noted(Matter::Read, session.work(&mut past.sightings).await);
        let ended = if matches!(ended, Ended::Fenced) || session.give_back(&ended).await.is_err() {
            session.cancel().await;
            past.unsaid = Some(session.leave_behind());
            Ended::Fenced
        } else {
            self.release(&ended, &lease, None).await;
            ended
        };
        self.progress.disowned(matches!(ended, Ended::Fenced));
        ended
    }

    /// Sends the acks left over from this process's previous session, unless another process has reclaimed its entries.
    /// After a long outage no process has died, so nobody should wait a whole lease for these entries.
    async fn say_of(&self, past: &mut Past) -> Result<(), Ended> {
        let Some(Unsaid { holder, calls }) = &past.unsaid else { return Ok(()) };
        let broker = &self.services.broker;
        let said = self.contact.patiently(Matter::Write, Instant::now(), async {
            for acks in calls {
                // A caller that is no consumer any more has no entries in flight.
                if broker.ack(&self.key, acks).await? == Acked::Fenced {
                    return Ok(());
                }
            }
            broker.release(&self.key, holder, None).await?;
            Ok::<_, BrokerError>(())
        });
        tokio::select! {
            biased;
            () = self.services.shutdown.stopping() => return Err(Ended::Stopped),
            said = said => said.inspect_err(|error| self.contact.failed(Matter::Write, error))?,
        }
        self.contact.succeeded(Matter::Write);
        past.unsaid = None;
        Ok(())
    }

    /// Becomes a consumer of the group, which it creates if it is new.
    async fn join(&self) -> Result<(Lease, Events), Ended> {
        let broker = &self.services.broker;
        loop {
            if self.services.shutdown.is_stopping() {
                return Err(Ended::Stopped);
            }
            let state = broker.state(&self.key).await?;
            self.history.recall(state.as_ref())?;
            let Some(state) = state else {
                if broker.create(&self.key, self.options.start).await? == Created::Foreign {
                    self.take_over().await?;
                }
                continue;
            };
            self.declare(&state).await?;
            let (token, sent) = (self.seat.token(), Instant::now());
            match broker.join(&self.key, &token, self.services.lease_for).await? {
                Joined::Member { epoch } => {
                    let holder = Holder { owner: token, epoch };
                    return Ok((self.services.leases.hold(&self.progress, holder, sent), state.events));
                }
                // The next read of the state says what has become of it.
                Joined::Missing => {}
                Joined::Vanished { at } => return Err(Self::vanished(Bookmark::new(at, "", None))),
                Joined::Mode(mode) => return Err(self.wrong_mode(&mode)),
            }
        }
    }
}

fn loss_of(lost: Lost) -> DataLoss {
    let kind = if lost.deleted { DataLossKind::DeletedUnread } else { DataLossKind::TrimmedPast };
    DataLoss { kind, from: lost.from, to: lost.to, count: Some(lost.count).filter(|count| *count > 0) }
}

impl<'a> Session<'a> {
    fn new(group: &'a GroupTask, queue: &'a Queue, lease: &'a Lease, declared: Events) -> Self {
        let now = Instant::now();
        Self {
            group,
            queue,
            lease,
            declared,
            fetcher: Fetcher::new(EntryId::ZERO, now),
            in_flight: InFlight::default(),
            acks: AckQueue::default(),
            slot: Slot::default(),
            dead_in_a_row: 0,
            alone: false,
            closing: false,
        }
    }

    /// Fetches, handles and acks until something ends it.
    async fn work(&mut self, watch: &mut LivenessWatch) -> Ended {
        let (group, lease) = (self.group, self.lease);
        let (broker, partition) = (&group.services.broker, group.key.partition());
        // Only entries from here on must ring, because the first fetch asks for those already there.
        let heard = match extent(&**broker, &group.key).await {
            Ok(extent) => extent.map_or(EntryId::ZERO, |extent| extent.last),
            Err(error) => return error.into(),
        };
        self.fetcher = Fetcher::new(heard, Instant::now());
        let news = group.services.tails.follow_news(partition.as_str(), heard, group.options.max_payload);
        let mut bell = Some((group.services.tails.follow_bell(&partition.bell()), EntryId::ZERO));
        // Beats that this process saw in its previous session still count.
        watch.doubt();
        let mut reclaim = Reclaim::default();
        let (mut look_at, mut look): (_, Call<Option<QueueState>>) = (Instant::now(), None);
        let mut quiet = None;
        let (mut judging, mut judge_at): (Call<(Cursor, Looked)>, _) = (None, after(Instant::now(), CHECK));
        let stop = CancellationToken::new();
        let mut replays = Box::pin(group.replay_all(lease, &stop));
        let mut paused = Box::pin(group.seat.paused());
        let ended = loop {
            if let Err(ended) = self.advance(&news) {
                break ended;
            }
            self.wait_for_a_slot();
            let (moment, heard) = (self.next_moment(), self.fetcher.heard());
            let happened = tokio::select! {
                biased;
                () = group.services.shutdown.stopping() => Err(Ended::Stopped),
                () = &mut paused => Err(Ended::Paused),
                () = lease.lost() => Err(Ended::Fenced),
                Some(returned) = self.in_flight.calls.join_next() => {
                    self.returned(returned);
                    Ok(())
                }
                answer = self.acks.answer() => self.absorb_acked(answer).await,
                answer = self.fetcher.answer() => match answer {
                    Answer::Read(read) => {
                        self.fetcher.take_up_read(read, &news);
                        Ok(())
                    }
                    Answer::Fetched(None) => {
                        self.send_fetch();
                        Ok(())
                    }
                    Answer::Fetched(Some(fetched)) => self.absorb_fetched(fetched).await.map(|unsure| {
                        judging = unsure.map(|cursor| self.judge(cursor)).or(judging.take());
                    }),
                },
                () = until(moment) => {
                    self.moment();
                    Ok(())
                }
                // Kept for `advance`: a slot dropped here would go to the next in line, which would do the same.
                slot = awaited(&mut self.slot.awaited) => {
                    self.slot = Slot { awaited: None, held: slot };
                    Ok(())
                }
                answer = reply(&mut judging) => {
                    judging = None;
                    judge_at = after(Instant::now(), CHECK);
                    self.absorb_judged(answer).await
                }
                answer = reply(&mut look) => {
                    look = None;
                    let now = Instant::now();
                    look_at = after(now, LOOK.min(group.services.lease_for / 4));
                    match answer {
                        Ok(None) => self.doubt_history().await,
                        Ok(Some(state)) => {
                            let own = &lease.holder().owner;
                            let next = reclaim.observe(watch, own, &state, group, now);
                            look_at = next.map_or(look_at, |next| next.min(look_at));
                            reclaim.mind_needs(&state, group, now);
                            if judge_at <= now && judging.is_none() {
                                judging = Some(self.judge(state.cursor.clone()));
                            }
                            let was_quiet = quiet.is_some() && quiet == self.quiet();
                            match self.report_lost(reclaim.take_lost(), &state.cursor).await {
                                Ok(()) => self.absorb_look(state, was_quiet, now).await,
                                Err(ended) => Err(ended),
                            }
                        }
                        Err(error) => {
                            watch.doubt();
                            group.contact.failed(Matter::Lease, &error);
                            Ok(())
                        }
                    }
                }
                () = until(Some(look_at)), if look.is_none() => {
                    let (broker, key) = (Arc::clone(broker), group.key.clone());
                    quiet = self.quiet();
                    look = Some(spawn(async move { broker.queue(&key).await }));
                    Ok(())
                }
                newest = news.beyond(heard) => newest.map(|newest| {
                    self.fetcher.hear(newest, group.services.random.fraction(), Instant::now());
                }).map_err(|error| Ended::Refused(BrokerError::new(error.kind(), error.to_string()))),
                () = group.rung(&mut bell) => {
                    self.fetcher.hungry = true;
                    Ok(())
                }
                ended = &mut replays => {
                    // They have ended by themselves.
                    stop.cancel();
                    Err(ended)
                }
            };
            if let Err(ended) = happened {
                break ended;
            }
        };
        if !matches!(ended, Ended::Fenced) && !stop.is_cancelled() {
            stop.cancel();
            replays.await;
        }
        ended
    }

    /// Starts all that may start: handlers, a fetch, acks.
    fn advance(&mut self, news: &Follower) -> Result<(), Ended> {
        if self.dead_in_a_row >= self.group.options.storm {
            return Err(self.group.halted(Halt::Storm { dead_in_a_row: self.dead_in_a_row }));
        }
        // Other consumers may take a process that stood still for dead, and have its entries.
        if !self.lease.is_held(Instant::now()) {
            return Err(Ended::Fenced);
        }
        loop {
            let is_at_work = self.start();
            let fetches = self.fetch(news);
            // The slot is kept for the entries of the fetch.
            self.slot.held = self.slot.held.take().filter(|_| self.fetcher.is_fetching());
            self.ack(fetches);
            if !is_at_work {
                return Ok(());
            }
        }
    }

    fn may_start(&self) -> bool {
        !self.closing && !self.in_flight.alone && self.acks.may_start()
    }

    /// Waits in line for a slot if only that is missing, to call a handler or to fetch. The partitions of a group get
    /// slots in turn. A partition that took only slots left over would wait for as long as another one has a backlog.
    fn wait_for_a_slot(&mut self) {
        let starts = |first: &Queued| first.standing != Standing::Alone || self.in_flight.running.is_empty();
        let is_next = self.may_start() && self.in_flight.queue.front().is_some_and(starts);
        if !is_next && self.wanted(1) == 0 {
            self.slot.awaited = None;
        } else if self.slot.awaited.is_none() {
            let slot = Arc::clone(&self.queue.slots).acquire_owned();
            self.slot.awaited = Some(Box::pin(async { slot.await.ok() }));
        }
    }

    /// Starts handlers; answers whether it stopped only to let calls go out.
    fn start(&mut self) -> bool {
        let called = self.in_flight.called();
        while self.may_start()
            && let Some(first) = self.in_flight.queue.front()
        {
            if self.in_flight.is_quick() && self.in_flight.called() >= called + AT_WORK {
                return true;
            }
            let consumer = match (&first.taker, &first.standing) {
                (Ok(Taker::Consumer(consumer)), Standing::Beside) => *consumer,
                (Ok(Taker::Consumer(consumer)), Standing::Alone) if self.in_flight.running.is_empty() => {
                    let consumer = *consumer;
                    let first = self.in_flight.pop();
                    let rest = self.in_flight.take_queue();
                    self.release(rest);
                    first.into_iter().for_each(|first| self.in_flight.push(first));
                    consumer
                }
                (Ok(Taker::Consumer(_)), Standing::Alone) => return false,
                _ => {
                    self.end_without_a_call();
                    continue;
                }
            };
            let slot = self.slot.held.take().or_else(|| Arc::clone(&self.queue.slots).try_acquire_owned().ok());
            let Some(slot) = slot else { return false };
            if let Some(queued) = self.in_flight.pop() {
                self.call(queued, consumer, slot);
            }
        }
        false
    }

    /// Ends the first entry in the queue without calling a handler.
    fn end_without_a_call(&mut self) {
        let Some(queued) = self.in_flight.pop() else { return };
        let (group, flight, item) = (self.group, queued.flight(), self.in_flight.item(queued.flight()));
        let entry = &queued.entry;
        let disposition = match (queued.taker, queued.standing) {
            (Err(need), _) => Disposition::ReleaseFor { name: need.name, version: need.version },
            (Ok(Taker::Consumer(consumer)), Standing::GivenUp(reason)) => {
                let number = item.failed.saturating_add(item.crashes);
                let settlement = Settlement::Dead { cause: Cause::Crash, reason };
                let attempt = Attempt { consumer: group.handlers[consumer].name(), entry, events: 1, number };
                return self.end(flight, settlement, &attempt);
            }
            (Ok(taker), _) => match (group.without_taker(taker, entry), entry.event()) {
                (Some(letter), _) => self.dead(letter),
                (None, Some((name, version)))
                    if keys::check_event(name).is_ok() && !group.handlers.build.ignores(name) =>
                {
                    Disposition::Ignore { name: name.to_owned(), version }
                }
                // No build waits for it: no event can have its name, or the group ignores that name.
                (None, _) => {
                    count(&group.progress.counts.passed_over, 1);
                    Disposition::Ack
                }
            },
        };
        self.acks.push(flight, disposition);
    }

    /// Calls the handler. An event with crashes waits for its permit first, and is charged.
    fn call(&mut self, queued: Queued, consumer: usize, slot: OwnedSemaphorePermit) {
        let (flight, item) = (queued.flight(), self.in_flight.item(queued.flight()));
        let Queued { entry, standing, .. } = queued;
        let (attempt, began, alone) = (item.failed + 1, Instant::now(), standing == Standing::Alone);
        let call = self.in_flight.next_call();
        self.in_flight.alone = alone;
        self.in_flight.bytes += entry.weight();
        let running = Running { call, entry, consumer, attempt, began, limit: None, held: None };
        self.in_flight.running.insert(flight, running);
        if item.crashes == 0 {
            self.begin(flight, None, slot);
            return;
        }
        let permit = self.group.services.suspects.clone().wait(alone);
        self.in_flight.calls.spawn(async move { Returned { flight, call, came: Came::Permit(permit.await, slot) } });
    }

    /// Calls the handler once: in its own task, or here if handlers end sooner than a task would begin.
    fn begin(&mut self, flight: Flight, permit: Option<SuspectPermit>, slot: OwnedSemaphorePermit) {
        let group = self.group;
        let Some(running) = self.in_flight.running.get_mut(&flight) else { return };
        let (consumer, call) = (running.consumer, running.call);
        let policy = &group.handlers[consumer].policy;
        running.began = Instant::now();
        // A handler that does not yield at its timeout is given up before other consumers reclaim all entries of this
        // process.
        let limit = after(running.began, policy.timeout.saturating_add(group.services.lease_for / 2));
        running.limit = Some(limit);
        let handled = group.handlers.invoke(consumer, Arc::clone(&running.entry), running.attempt);
        self.in_flight.limits.insert((limit, flight));
        self.mind_limits();
        group.progress.begins(flight.1);
        let mut handled = Box::pin(timed(handled));
        if self.in_flight.is_quick()
            && let Poll::Ready((result, took)) = handled.as_mut().poll(&mut task::Context::from_waker(Waker::noop()))
        {
            drop((permit, slot));
            return self.returned(Ok(Returned { flight, call, came: Came::End(result, took) }));
        }
        let handled = self.lease.while_held(handled);
        self.in_flight.calls.spawn(async move {
            let (_permit, _slot) = (permit, slot);
            let came = handled.await.map_or(Came::Fenced, |(result, took)| Came::End(result, took));
            Returned { flight, call, came }
        });
    }

    /// Gives the renewals the first time limit of a call, less a little time to give that call up.
    fn mind_limits(&self) {
        let spare = self.group.services.lease_for / 4;
        self.lease.handlers_until(self.in_flight.limits.first().map(|(limit, _)| after(*limit, spare)));
    }

    fn returned(&mut self, returned: Result<Returned, JoinError>) {
        let Some(Returned { flight, call, came }) = ours(returned) else { return };
        self.in_flight.stuck.remove(&call);
        // A call that was given up meanwhile does not count: the event may be in flight again.
        let Some(running) = self.in_flight.running.get_mut(&flight).filter(|running| running.call == call) else {
            return;
        };
        match came {
            Came::Permit(permit, slot) if !self.closing => {
                running.held = Some((permit, slot));
                self.acks.push(flight, Disposition::Charge);
            }
            Came::Permit(..) => self.release_running(flight),
            // The session ends at once, and leaves the entry in flight to its last acks.
            Came::Fenced => {}
            Came::End(result, took) => {
                let Some(running) = self.in_flight.running.remove(&flight) else { return };
                self.in_flight.took(took);
                self.judge_outcome(flight, &running, result);
            }
        }
    }

    /// Releases an event that has a slot and does not run.
    fn release_running(&mut self, flight: Flight) {
        if let Some(running) = self.in_flight.running.remove(&flight) {
            self.over(flight, &running);
            self.acks.push(flight, Disposition::Release);
        }
    }

    fn over(&mut self, flight: Flight, running: &Running) {
        self.in_flight.over(flight, running);
        self.mind_limits();
    }

    /// Ends an attempt: decides what becomes of its event.
    fn judge_outcome(&mut self, flight: Flight, running: &Running, result: Result<Outcome, Failed>) {
        self.over(flight, running);
        let (Running { entry, consumer, attempt: number, .. }, group) = (running, self.group);
        let (handler, number) = (&group.handlers[*consumer], *number);
        let attempt = Attempt { consumer: handler.name(), entry, events: 1, number };
        match decide(result, number, &handler.policy, || group.services.random.fraction()) {
            Decision::Settle(settlement) => self.end(flight, settlement, &attempt),
            // The start refuses consumers of batches here, so an event is never part of one.
            Decision::Retry { after, reason } => {
                group.log_failed(&attempt, after, &reason);
                self.acks.push(flight, Disposition::Retry { failed: number, after, reason });
            }
            Decision::Apart { .. } => self.acks.push(flight, Disposition::Release),
        }
    }

    /// Ends an entry's time in flight.
    fn end(&mut self, flight: Flight, settlement: Settlement, attempt: &Attempt<'_>) {
        let disposition = match self.group.ended(settlement, attempt) {
            Some(letter) => self.dead(letter),
            None => {
                self.dead_in_a_row = 0;
                Disposition::Ack
            }
        };
        self.acks.push(flight, disposition);
    }

    /// Counts a dead event, and writes its letter.
    fn dead(&mut self, letter: Letter) -> Disposition {
        self.dead_in_a_row += 1;
        let cause = letter.cause;
        Disposition::DeadLetter { fields: self.group.written(letter), cause }
    }

    /// Releases entries that have not begun.
    fn release(&mut self, queued: impl IntoIterator<Item = Queued>) {
        for queued in queued {
            self.acks.push(queued.flight(), Disposition::Release);
        }
    }

    /// The next time at which something is to be done even if nothing happens.
    fn next_moment(&mut self) -> Option<Instant> {
        let late = self.in_flight.impatient().map(|since| after(since, PATIENCE));
        let limit = self.in_flight.limits.first().map(|(limit, _)| *limit);
        let due = self.fetcher.due.into_iter().chain(self.fetcher.yields_until).min().filter(|_| !self.fetcher.hungry);
        let fetched = self.fetcher.call().and_then(|call| call.unanswered()).map(|sent| sent.due);
        let acked = self.acks.call().and_then(|call| call.unanswered()).map(|sent| sent.due);
        let (kept, gathering) = (self.acks.kept_until(), self.acks.gathering);
        [late, limit, kept, due, gathering, fetched, acked].into_iter().flatten().min()
    }

    fn moment(&mut self) {
        let now = Instant::now();
        let contact = &self.group.contact;
        self.fetcher.call().into_iter().for_each(|call| call.mind(contact, Matter::Read));
        self.acks.call().into_iter().for_each(|call| call.mind(contact, Matter::Write));
        let rest = self.in_flight.give_up_waiting(now);
        self.release(rest);
        while let Some((limit, flight)) = self.in_flight.limits.first().copied().filter(|(limit, _)| *limit <= now) {
            match self.in_flight.running.remove(&flight) {
                Some(running) => self.give_up_call(flight, &running),
                None => {
                    self.in_flight.limits.remove(&(limit, flight));
                }
            }
        }
        self.acks.try_letters(now);
        for due in [&mut self.fetcher.due, &mut self.fetcher.yields_until] {
            self.fetcher.hungry |= due.take_if(|due| *due <= now).is_some();
        }
    }

    /// Gives up a call whose handler has outrun its timeout and does not yield.
    fn give_up_call(&mut self, flight: Flight, running: &Running) {
        let (group, handler) = (self.group, &self.group.handlers[running.consumer]);
        tracing::error!(
            group = group.key.group(),
            partition = group.key.partition().as_str(),
            entry = %flight.1,
            consumer = handler.name(),
            "a handler has outrun its timeout and does not yield: its event is given up here and tried again"
        );
        self.in_flight.stuck.insert(running.call);
        if self.is_stuck() {
            let reason = "as many handlers as may run at once have outrun their timeout and do not yield".to_owned();
            group.progress.troubled(reason, None);
        }
        self.judge_outcome(flight, running, Err(Failed::timed_out(handler.policy.timeout)));
    }

    /// Whether no handler can run until a call returns that was given up.
    fn is_stuck(&self) -> bool {
        self.in_flight.stuck.len() >= self.queue.concurrency
    }

    /// Notes that the server has answered usefully.
    fn answered(&self, matter: Matter) {
        self.group.contact.succeeded(matter);
        if self.acks.has_room() && self.acks.is_answered() && !self.is_stuck() {
            self.group.owns(self.lease.holder().epoch);
        }
    }

    /// How many entries are in flight, while no call under way changes that.
    fn quiet(&self) -> Option<usize> {
        (self.acks.is_empty() && !self.fetcher.is_fetching()).then(|| self.in_flight.len())
    }

    /// How many entries to ask for with this many idle slots: as many as can be handled soon.
    fn wanted(&self, idle: usize) -> usize {
        let waits_alone = self.in_flight.queue.front().is_some_and(|first| first.standing == Standing::Alone);
        if !self.fetcher.may_ask() || waits_alone || !self.may_start() {
            return 0;
        }
        let group = self.group;
        let wanted = self.in_flight.wanted(idle, self.queue.concurrency, group.options.lanes.bytes);
        let (most, _) = group.services.tails.count(group.key.partition().as_str(), group.options.max_payload);
        wanted.min(most)
    }

    /// Fetches entries, if any are wanted; answers whether it did.
    fn fetch(&mut self, news: &Follower) -> bool {
        if !self.closing {
            self.fetcher.read_ahead(news, self.group.key.partition(), self.alone);
        }
        let (group, kept) = (self.group, usize::from(self.slot.held.is_some()));
        let wanted = self.wanted(self.queue.slots.available_permits() + kept);
        if wanted == 0 {
            return false;
        }
        let fetch = Fetch {
            holder: self.lease.holder().clone(),
            call: 0,
            count: wanted,
            bytes: FETCH_BYTES,
            new: New::Nothing,
            takes: group.handlers.build.wants(),
            most_waiting: group.options.lanes.entries as u64,
            longest_wait: self.queue.longest_wait,
            mirror: false,
            go_on: group.options.on_data_loss == OnDataLoss::Continue,
        };
        self.fetcher.next(fetch, Instant::now());
        self.send_fetch();
        true
    }

    /// Sends the fetch under way, for the first time or again.
    fn send_fetch(&mut self) {
        let Some(call) = self.fetcher.call() else { return };
        let fetch = Arc::clone(&call.call);
        let (services, key, max_payload) =
            (self.group.services.clone(), self.group.key.clone(), self.group.options.max_payload);
        let expected = match fetch.new {
            New::Read { .. } => services.tails.count(key.partition().as_str(), max_payload).1,
            New::Known { .. } | New::Nothing => 0,
        };
        let sent = async move {
            let _room = services.tails.reserve(expected).await;
            let fetched = services.broker.fetch(&key, &fetch).await;
            let read: Vec<_> = match &fetched {
                Ok(Fetched::Chunk(chunk)) => {
                    chunk.again.iter().map(|again| &again.entry).chain(&chunk.new).map(Arc::clone).collect()
                }
                _ => Vec::new(),
            };
            if matches!(fetch.new, New::Read { .. }) {
                let read = fetched.as_ref().ok().map(|_| read.as_slice());
                services.tails.learn(key.partition().as_str(), max_payload, read);
            }
            fetched
        };
        call.send(sent, Instant::now());
    }

    /// Takes the answer to a fetch; answers the cursor if a snapshot must judge first which entry is next.
    async fn absorb_fetched(&mut self, answer: Result<Fetched, BrokerError>) -> Result<Option<Cursor>, Ended> {
        let group = self.group;
        let fetched = match answer {
            Ok(fetched) => fetched,
            Err(error) => {
                if let Some(call) = self.fetcher.call() {
                    call.retry(group.retry_read(error, call.failures().saturating_add(1))?);
                }
                return Ok(None);
            }
        };
        // A consumer that is unsure has no entries yet.
        if !matches!(fetched, Fetched::Unsure(_)) {
            self.answered(Matter::Read);
        }
        match fetched {
            Fetched::Chunk(chunk) if group.history.reaches(chunk.at, None) => {
                self.absorb_chunk(chunk);
                Ok(None)
            }
            Fetched::Chunk(chunk) => {
                self.absorb_chunk(chunk);
                self.doubt_history().await.map(|()| None)
            }
            Fetched::Unsure(cursor) => {
                self.fetcher.nothing();
                self.fetcher.is_unsure = true;
                Ok(Some(cursor))
            }
            Fetched::Lost { lost, found } => {
                self.fetcher.nothing();
                let loss = loss_of(lost);
                if found {
                    group.report(&loss);
                }
                Err(group.halted(Halt::LossOfQueue(loss)))
            }
            Fetched::Damaged(damage) => {
                self.fetcher.nothing();
                self.fetcher.hungry = true;
                self.mend(damage).await.map(|()| None)
            }
            Fetched::Fenced => Err(Ended::Fenced),
            Fetched::Missing => {
                let loss =
                    DataLoss { kind: DataLossKind::Restarted, from: EntryId::ZERO, to: EntryId::MAX, count: None };
                Err(Ended::Cut { loss, at: None })
            }
        }
    }

    fn absorb_chunk(&mut self, mut chunk: Chunk) {
        let (group, now) = (self.group, Instant::now());
        if let Some(lost) = chunk.lost {
            group.report(&loss_of(lost));
        }
        let full = chunk.waiting >= group.options.lanes.entries as u64;
        group.progress.held_up(full.then(|| {
            format!(
                "{} entries wait for their next attempt or for another build, of at most {} (`max_unsettled_entries`): no new ones are given out until some of them are settled",
                chunk.waiting, group.options.lanes.entries
            )
        }));
        self.fetcher.due = chunk.due.map(|due| after(now, due));
        let Some((number, from, new)) = self.fetcher.take_up(&mut chunk, now) else { return };
        let item = |again: &Again| {
            let (failed, crashes) = (again.failed, again.crashes);
            Item { id: again.entry.id, failed, crashes, charged: crashes == 0 }
        };
        let open = Open::new(from, new.iter().map(|entry| entry.id), chunk.again.iter().map(item));
        if open.is_empty() {
            return;
        }
        self.in_flight.chunks.insert(number, open);
        for entry in chunk.again.into_iter().map(|again| again.entry).chain(new) {
            let taker = group.handlers.route(&self.declared, &entry);
            let crashes = self.in_flight.item((number, entry.id)).crashes;
            let standing = match &taker {
                Ok(Taker::Consumer(consumer)) => standing(crashes, group.handlers[*consumer].policy.max_crashes),
                _ => Standing::Beside,
            };
            self.in_flight.push(Queued { chunk: number, entry, taker, standing, since: now });
        }
    }

    /// Takes a snapshot from the cursor on.
    fn judge(&self, cursor: Cursor) -> AbortOnDropHandle<Result<(Cursor, Looked), BrokerError>> {
        let (services, key, max_payload) =
            (self.group.services.clone(), self.group.key.clone(), self.group.options.max_payload);
        spawn(async move {
            let reader = Bookmark::new(cursor.at, &cursor.at_event, cursor.seen);
            let looked = look(&*services.broker, &services.tails, &key, &reader, TAKE, max_payload).await?;
            Ok((cursor, looked))
        })
    }

    /// Takes the findings of a snapshot about history.
    async fn absorb_judged(&mut self, answer: Result<(Cursor, Looked), BrokerError>) -> Result<(), Ended> {
        let group = self.group;
        let was_unsure = std::mem::take(&mut self.fetcher.is_unsure);
        let (cursor, looked) = match answer {
            Ok(judged) => judged,
            Err(error) => {
                // The next fetch says once more that a snapshot is needed.
                self.fetcher.due = Some(after(Instant::now(), group.retry_read(error, 1)?));
                return Ok(());
            }
        };
        // A check that no fetch waits for says nothing about fetches.
        if was_unsure {
            self.answered(Matter::Read);
        }
        let halts = group.options.on_data_loss == OnDataLoss::Halt;
        match fetch::judge(&cursor, &looked.snapshot, halts) {
            Finding::Next(judged) => self.fetcher.judged(Some(judged)),
            Finding::End => self.fetcher.judged(None),
            Finding::Pass(pass, loss) => {
                let (broker, token) = (&group.services.broker, group.services.random.token());
                let passed = group.insist(|| broker.pass(&group.key, &token, &pass)).await?;
                self.fetcher.judged(None);
                self.fetcher.hungry = true;
                // One of all processes that find the same loss reports it.
                if let Some(loss) = loss.filter(|_| passed) {
                    group.report(&loss);
                    if halts {
                        return Err(group.halted(Halt::LossOfQueue(loss)));
                    }
                }
            }
            Finding::Cut(loss, reader) => {
                return Err(match loss.kind {
                    DataLossKind::HistoryCut => cut(loss, looked.left).into(),
                    _ => Ended::Cut { loss, at: Some(Box::new(reader)) },
                });
            }
        }
        Ok(())
    }

    /// Repairs a waiting set that differs from the record: reports the loss, and continues with the entries that are
    /// there.
    async fn mend(&mut self, damage: Damage) -> Result<(), Ended> {
        let group = self.group;
        // Nobody knows which entries of a replaced set waited before.
        let count = if damage.found == 0 { damage.recorded } else { 0 };
        let lost = Lost { deleted: true, from: EntryId::ZERO, to: group.history.cursor(), count };
        let halts = (group.options.on_data_loss == OnDataLoss::Halt).then_some(&lost);
        let (broker, token) = (&group.services.broker, group.services.random.token());
        if !group.insist(|| broker.mend(&group.key, &token, &damage, halts)).await? {
            return Ok(());
        }
        tracing::error!(
            group = group.key.group(),
            partition = group.key.partition().as_str(),
            key = group.key.waiting(),
            recorded = damage.recorded,
            found = damage.found,
            "the waiting set was deleted or replaced; continuing with its entries"
        );
        let loss = loss_of(lost);
        group.report(&loss);
        match halts {
            Some(_) => Err(group.halted(Halt::LossOfQueue(loss))),
            None => Ok(()),
        }
    }

    /// Asks the server again, because an answer shows less than this process has seen.
    async fn doubt_history(&mut self) -> Result<(), Ended> {
        let group = self.group;
        let state = group.services.broker.state(&group.key).await?;
        group.history.recall(state.as_ref())?;
        let snapshot = group.services.broker.snapshot(&group.key, EntryId::MAX, 0).await?;
        match state {
            Some(state) if !snapshot.marker => Err(GroupTask::vanished(Bookmark::new(state.at, "", None))),
            _ => Ok(()),
        }
    }

    /// Reports entries of a dead consumer that are gone.
    async fn report_lost(&mut self, lost: Vec<Lost>, cursor: &Cursor) -> Result<(), Ended> {
        let group = self.group;
        for lost in lost {
            let loss = loss_of(lost);
            group.report(&loss);
            if group.options.on_data_loss == OnDataLoss::Halt {
                let pass = Pass { from: cursor.clone(), to: cursor.clone(), halts: Some(lost) };
                // If the cursor has moved since it was read, only this process halts.
                group.services.broker.pass(&group.key, &group.services.random.token(), &pass).await?;
                return Err(group.halted(Halt::LossOfQueue(loss)));
            }
        }
        Ok(())
    }

    /// Takes the state of the queue.
    async fn absorb_look(&mut self, state: QueueState, was_quiet: bool, now: Instant) -> Result<(), Ended> {
        let group = self.group;
        self.answered(Matter::Lease);
        self.alone = state.consumers.len() == 1;
        self.queue.members.set(Some(state.consumers.len() as f64));
        group.progress.queue(&state);
        if let Some(due) = state.due {
            let due = after(now, due);
            self.fetcher.due = Some(self.fetcher.due.map_or(due, |before| before.min(due)));
            self.fetcher.hungry |= due <= now;
        }
        if let Some(damage) = state.damage {
            self.mend(damage).await?;
        }
        if !group.history.reaches(state.cursor.at, Some(state.reset)) {
            self.doubt_history().await?;
        }
        let mine = state.consumers.iter().find(|consumer| consumer.owner == self.lease.holder().owner);
        if was_quiet && mine.is_some_and(|mine| mine.in_flight > self.in_flight.len() as u64) {
            // A server that went back in time lists entries that were acked long ago: leaving the session releases
            // them.
            return Err(Ended::Restart);
        }
        Ok(())
    }

    /// Sends acks, if none are under way. It waits for no more when a fetch goes out, because two calls that arrive
    /// together cost the server two thirds of two separate ones.
    fn ack(&mut self, fetches: bool) {
        let is_idle = self.in_flight.queue.is_empty() && self.in_flight.running.is_empty();
        let busy = !(is_idle || fetches || self.closing);
        let (holder, bounds) = (self.lease.holder(), self.group.options.dead_bounds);
        if self.acks.next(holder, &self.in_flight, bounds, busy, Instant::now()) {
            self.lease.commit_begins(Instant::now());
            self.send_acks();
        }
    }

    /// Sends the acks under way, for the first time or again.
    fn send_acks(&mut self) {
        let Some(call) = self.acks.call() else { return };
        let (broker, key, acks) =
            (Arc::clone(&self.group.services.broker), self.group.key.clone(), Arc::clone(&call.call));
        call.send(async move { broker.ack(&key, &acks).await }, Instant::now());
    }

    /// Takes the answer to acks; `None` says that it is time to send them again.
    async fn absorb_acked(&mut self, answer: Option<Result<Acked, BrokerError>>) -> Result<(), Ended> {
        let group = self.group;
        let error = match answer {
            None => {
                self.send_acks();
                return Ok(());
            }
            Some(Ok(acked)) => {
                self.lease.commit_ended();
                return self.acked(acked).await;
            }
            Some(Err(error)) => error,
        };
        let failures = self.acks.call().map_or(0, |call| call.failures());
        let wait = group.on_call_error(self.lease, &error, failures).map_err(|halt| group.halted(halt))?;
        // The other ends need no room.
        let kept = error.kind() == BrokerErrorKind::Full && self.acks.keep_letters(Instant::now());
        self.acks.call().filter(|_| !kept).into_iter().for_each(|call| call.retry(wait));
        Ok(())
    }

    async fn acked(&mut self, acked: Acked) -> Result<(), Ended> {
        let group = self.group;
        match acked {
            Acked::Done => {
                for end in self.acks.done(&mut self.in_flight, Instant::now()) {
                    self.known(end);
                }
                self.answered(Matter::Write);
            }
            Acked::Fenced => return Err(Ended::Fenced),
            Acked::Full(full) => {
                let (bounds, count, oldest) = (group.options.dead_bounds, full.count, full.oldest);
                group.log_halted(&Halt::DeadLettersFull { bounds, count, oldest });
                self.acks.keep_letters(Instant::now());
            }
            Acked::Declared { names } => self.acks.refused(|disposition| match disposition {
                Disposition::Ignore { name, version } if names.contains(&name) => {
                    Disposition::ReleaseFor { name, version }
                }
                other => other,
            }),
            Acked::Damaged(damage) => {
                self.acks.refused(|disposition| disposition);
                self.mend(damage).await?;
            }
        }
        Ok(())
    }

    /// Notes that the server knows an entry's outcome.
    fn known(&mut self, End { flight, disposition }: End) {
        let counts = &self.group.progress.counts;
        match disposition {
            Disposition::Ignore { .. } => count(&counts.passed_over, 1),
            Disposition::DeadLetter { cause, .. } => counts.dead(cause),
            Disposition::Charge => {
                let held = self.in_flight.running.get_mut(&flight).and_then(|running| running.held.take());
                match held {
                    Some((permit, slot)) if !self.closing => self.begin(flight, Some(permit), slot),
                    _ => self.release_running(flight),
                }
            }
            Disposition::Ack | Disposition::Retry { .. } | Disposition::Release | Disposition::ReleaseFor { .. } => {}
        }
    }

    /// The acks of all entries in flight, for a later session. All handlers must have been cancelled.
    fn leave_behind(&mut self) -> Unsaid {
        let holder = self.lease.holder().clone();
        let calls = self.acks.leave_behind(&holder, &mut self.in_flight, self.group.options.dead_bounds);
        Unsaid { holder, calls }
    }

    /// Ends the work with nothing in flight: handlers end, entries that have not begun are released, and all acks are
    /// sent.
    async fn give_back(&mut self, ended: &Ended) -> Result<(), Ended> {
        let group = self.group;
        self.closing = true;
        self.slot = Slot::default();
        let queue = self.in_flight.take_queue();
        self.release(queue);
        self.acks.release_letters();
        while !self.in_flight.calls.is_empty() {
            self.ack(false);
            let moment = self.next_moment();
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Fenced),
                () = self.group.services.shutdown.cutting() => break,
                Some(returned) = self.in_flight.calls.join_next() => self.returned(returned),
                answer = self.acks.answer() => if let Err(Ended::Fenced) = self.absorb_acked(answer).await {
                    return Err(Ended::Fenced);
                },
                answer = self.fetcher.answer() => self.release_fetched(answer),
                () = until(moment) => self.moment(),
            }
        }
        self.cancel().await;
        let cut: Vec<_> = self.in_flight.running.keys().copied().collect();
        cut.into_iter().for_each(|flight| self.release_running(flight));
        while self.fetcher.call().is_some_and(|call| call.unanswered().is_some())
            && let Ok(answer) = tokio::time::timeout(FAREWELL, self.fetcher.answer()).await
        {
            self.release_fetched(answer);
        }
        let all_said = async {
            loop {
                self.acks.release_letters();
                self.ack(false);
                if self.acks.is_empty() {
                    return Ok(());
                }
                let answer = self.acks.answer().await;
                self.absorb_acked(answer).await?;
            }
        };
        group.settled_last(ended, all_said).await
    }

    /// Releases fetched entries when no handler begins any more.
    fn release_fetched(&mut self, answer: Answer) {
        let Answer::Fetched(fetched) = answer else { return self.fetcher.ignore_read() };
        match fetched {
            None => self.send_fetch(),
            Some(Ok(Fetched::Chunk(chunk))) => {
                self.absorb_chunk(chunk);
                let queue = self.in_flight.take_queue();
                self.release(queue);
            }
            Some(_) => self.fetcher.nothing(),
        }
    }

    /// Cancels the running handlers, and waits until they have ended.
    async fn cancel(&mut self) {
        if !self.in_flight.calls.is_empty() {
            self.in_flight.calls.shutdown().await;
        }
        self.in_flight.limits.clear();
        self.lease.handlers_until(None);
    }
}

/// The value of a future, and the time from its first poll.
async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let value = future.await;
    (value, began.elapsed())
}
