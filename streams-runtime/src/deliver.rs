//! From entries to settled events, in order: call the handler for each, settle it; the heart of the runtime.
//!
//! [`source`](crate::source) brings the entries, [`call`](crate::call) calls the handler, [`settle`](crate::settle) decides
//! what an outcome means, and [`commit`](crate::commit) tells the server. Where events run beside others,
//! [`dispatch`](crate::dispatch) calls.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use streams_core::broker::{Events, Fields, Holding, MOST_ENTRY_BYTES, Need, cut_from};
use streams_core::{Context, Entry, Failure, OnDataLoss, Outcome};
use tokio::time::Instant;

use crate::builds;
use crate::call::{self, Caught};
use crate::clock::{after, millis};
use crate::commit::{Committer, End};
use crate::dead_letter;
use crate::dispatch::{Beside, Dispatch};
use crate::gather::{Gathering, Held, Parts};
use crate::lease::Lease;
use crate::ordered::{Ended, Group, Handler};
use crate::outage::Matter;
use crate::prove::given_up;
use crate::replay::Replays;
use crate::settle::{self, Cause, Decision, Failed, SERVER_AWAY, Settlement, decide, decide_batch};
use crate::shutdown::FAREWELL;
use crate::source::{Arrived, Source};
use crate::status::count;
use crate::trace;

/// How many names of events are looked up that nobody has declared: as anybody may write what they like into a stream.
const MOST_UNHEARD: usize = 100;
/// How long a group runs before it lets others on its thread have a turn.
const TURN: Duration = Duration::from_millis(1);

/// Who takes an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Taker {
    /// This consumer of the group.
    Consumer(usize),
    /// None of them.
    Nobody,
    /// The entry does not say what it is, or was too large to be read.
    Unnamed,
}

/// What an owner remembers from one entry to the next.
pub(crate) struct InHand {
    /// Dropped with every end but that of history itself: what has only gathered comes again.
    gathering: Gathering,
    /// What runs beside others, and is behind that.
    pub(crate) dispatch: Dispatch,
    /// What builds had declared when it was last looked at.
    declared: Events,
    /// Names of events that nobody had declared then.
    unheard: BTreeSet<String>,
    dead_in_a_row: u32,
    /// Since when the group runs.
    turn: Instant,
}

impl InHand {
    /// Lets others on the thread have a turn when this one was long.
    async fn give_turn(&mut self) {
        if self.turn.elapsed() > TURN {
            tokio::task::yield_now().await;
            self.turn = Instant::now();
        }
    }
}

/// What a handler is called with until it is clear what becomes of it.
struct Delivery<'a> {
    handler: &'a Handler,
    /// The event, or the first of several.
    first: &'a Arc<Entry>,
    /// All events of a batch of several.
    batch: Option<Arc<[Arc<Entry>]>>,
    /// Attempts at the batch that the event was in before it came to be alone.
    tried: u32,
}

/// An event that the group gives up on.
#[derive(Debug)]
pub(crate) struct Letter {
    entry: Arc<Entry>,
    /// Who took it; empty where nobody could.
    pub(crate) consumer: &'static str,
    pub(crate) cause: Cause,
    reason: String,
    attempts: u32,
}

/// Why a batch cannot be settled as one.
#[derive(Debug)]
struct Apart {
    /// An event of it cannot be decoded.
    undecodable: bool,
    /// How often it was tried.
    tried: u32,
}

impl Group {
    /// Reads and handles until something ends it, with no handler left in hand.
    pub(crate) async fn work(&self, lease: &Lease, holding: &Holding, committer: &mut Committer<'_>) -> Ended {
        let mut hand = InHand {
            gathering: Gathering::default(),
            dispatch: Dispatch::new(self.lanes),
            declared: holding.events.clone(),
            unheard: BTreeSet::new(),
            dead_in_a_row: 0,
            turn: Instant::now(),
        };
        let mut ended = self.deliver(lease, holding, committer, &mut hand).await;
        if !matches!(ended, Ended::Lost)
            && let Err(Ended::Lost) = self.finish_in_hand(lease, committer, &mut hand).await
        {
            ended = ended.without_lease();
        }
        hand.dispatch.cancel(lease).await;
        ended
    }

    /// Reads and handles until something ends it.
    async fn deliver(
        &self,
        lease: &Lease,
        holding: &Holding,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
    ) -> Ended {
        let opened = tokio::select! {
            biased;
            () = self.engine.shutdown.stopping() => return Ended::Stopped,
            () = lease.lost() => return Ended::Lost,
            opened = Source::open(self, holding) => opened,
        };
        let mut source = match opened {
            Ok(source) => source,
            Err(ended) => return ended,
        };
        let ended = self.deliver_from(&mut source, lease, holding, committer, hand).await;
        self.remember(Some(source.reader));
        ended
    }

    async fn deliver_from(
        &self,
        source: &mut Source<'_>,
        lease: &Lease,
        holding: &Holding,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
    ) -> Ended {
        // When to read again after a read that failed, and how many in a row did.
        let mut again = None;
        let mut replays = Replays::new();
        loop {
            if let Err(ended) = committer.may_go_on() {
                return ended;
            }
            if let Err(ended) = self.advance(lease, committer, hand) {
                return ended;
            }
            if hand.gathering.is_empty() && hand.dispatch.is_empty() && committer.ledger.is_clean() {
                self.progress.reach(source.reader.position());
            }
            let may_start = hand.dispatch.may_start(committer);
            let read = async {
                if let Some((at, _)) = again {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.engine.outages.over() => {}
                    }
                }
                source.next().await
            };
            let arrived = tokio::select! {
                biased;
                () = self.engine.shutdown.stopping() => return Ended::Stopped,
                () = lease.lost() => return Ended::Lost,
                () = self.place.wanted() => return self.hand_over(),
                done = committer.progress() => match done {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                returned = hand.dispatch.happens(may_start) => match self.returned(lease, committer, hand, returned) {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                () = replays.due(lease) => match self.replay(lease, committer, hand, &mut replays).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                arrived = read => arrived,
                () = hand.gathering.over() => match self.hand_out(lease, committer, hand).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
            };
            // What was taken up was read before the cut, and going on begins behind all that was read.
            if matches!(&arrived, Ok(Arrived { loss: Some(_), .. }) | Err(Ended::Cut { .. }))
                && let Err(ended) = self.empty_hands(lease, committer, hand).await
            {
                return match (ended, arrived) {
                    (Ended::Lost, Err(cut)) => cut.without_lease(),
                    (ended, _) => ended,
                };
            }
            let arrived = match arrived {
                Ok(arrived) => arrived,
                // What is settled above an event that is tried again would all come again, for a read that may succeed soon.
                Err(Ended::Failed(error)) if !hand.dispatch.is_empty() => {
                    self.contact.failed(Matter::Read, &error);
                    let failures = again.map_or(1, |(_, failures): (Instant, u32)| failures.saturating_add(1));
                    let wait = settle::wait(SERVER_AWAY, failures, self.engine.random.fraction());
                    again = Some((after(Instant::now(), wait), failures));
                    source.look_again();
                    continue;
                }
                Err(ended) => return ended,
            };
            again = None;
            if self.contact.is_troubled() {
                self.contact.succeeded(Matter::Read);
                if arrived.entries.is_empty() && committer.ledger.is_clean() {
                    // Nothing is left of what could not be committed: another process has done it.
                    self.contact.succeeded(Matter::Write);
                }
                self.owns(holding.epoch);
            }
            if let Some(loss) = arrived.loss {
                self.report(&loss);
                if self.on_data_loss == OnDataLoss::Halt {
                    return Ended::Halted { reason: self.loss_reason(&loss), keep: true };
                }
            }
            if let Some(seen) = arrived.seen {
                // What was taken up is read, but not settled.
                let unsettled = hand.gathering.len() + hand.dispatch.len();
                committer.ledger.anchor(seen.saturating_sub(unsettled as u64));
            }
            for entry in arrived.entries {
                if let Err(ended) = self.take(lease, committer, hand, entry).await {
                    return ended;
                }
                // However long the events keep coming.
                if replays.is_due(lease)
                    && let Err(ended) = self.replay(lease, committer, hand, &mut replays).await
                {
                    return ended;
                }
                if self.place.is_wanted() {
                    return self.hand_over();
                }
                hand.give_turn().await;
            }
        }
    }

    /// Waits until everything that was read is settled.
    async fn empty_hands(&self, lease: &Lease, committer: &mut Committer<'_>, hand: &mut InHand) -> Result<(), Ended> {
        self.drain(lease, committer, hand).await?;
        self.hand_out(lease, committer, hand).await
    }

    /// How the entry is taken up beside others.
    fn beside(&self, committer: &Committer<'_>, taker: Taker, entry: &Arc<Entry>) -> Beside {
        let Taker::Consumer(consumer) = taker else {
            return Beside::Over { letter: self.without_taker(taker, entry) };
        };
        if !committer.proves(entry.id) {
            return self.lane(consumer, entry);
        }
        match self.gives_up(committer, consumer, entry, committer.ledger.failed_attempts(entry.id)) {
            Some(letter) => Beside::Over { letter: Some(letter) },
            // Its key is not known yet: decoding it runs the user's own code, which may end the process as well.
            None => Beside::Charged { consumer },
        }
    }

    /// The lane of an event that may be decoded.
    pub(crate) fn lane(&self, consumer: usize, entry: &Arc<Entry>) -> Beside {
        let registration = &self.handlers[consumer].registration;
        match call::caught(|| registration.key(entry).map_err(Failure::Decode)) {
            Ok(key) => Beside::Lane { key, consumer },
            // Without its key nobody knows what it has to wait for, so it cannot be tried again.
            Err(Failed { cause, reason }) => {
                let settlement = Settlement::Dead { cause, reason };
                Beside::Over { letter: self.ended(settlement, entry, 1, 1, registration.info.name) }
            }
        }
    }

    /// The letter of an event that has taken too many processes down to run again.
    fn gives_up(
        &self,
        committer: &Committer<'_>,
        consumer: usize,
        entry: &Arc<Entry>,
        failed_attempts: u32,
    ) -> Option<Letter> {
        let handler = &self.handlers[consumer];
        let crashes = committer.crashes(entry.id);
        let reason = given_up(crashes, handler.policy.max_crashes)?;
        let settlement = Settlement::Dead { cause: Cause::Crash, reason };
        // Of the attempts that took a process down the last is the end, as otherwise the one that failed last.
        self.ended(settlement, entry, 1, failed_attempts + crashes, handler.registration.info.name)
    }

    /// Who takes an entry; of one that is for another build, what that has to handle.
    pub(crate) fn taker(&self, declared: &Events, entry: &Entry) -> Result<Taker, Need> {
        let Some((name, version)) = entry.event() else { return Ok(Taker::Unnamed) };
        let info = |consumer: usize| self.handlers[consumer].registration.info;
        match (0..self.handlers.len()).find(|&consumer| info(consumer).event.name == name) {
            Some(_) if cut_from(entry).is_some() => Ok(Taker::Unnamed),
            Some(consumer) if version <= info(consumer).event.version => Ok(Taker::Consumer(consumer)),
            None if !self.build.leaves(declared, name) => Ok(Taker::Nobody),
            _ => Err(builds::need(name, version, entry)),
        }
    }

    /// Before the first event of a name is passed over: a build declares what it handles before it publishes it, so what is
    /// declared by now says whether one handles this. Where nobody can be asked the commit finds it out, after more was handled.
    async fn look_for_takers(&self, hand: &mut InHand, entry: &Entry) {
        let Some((name, _)) = entry.event() else { return };
        if self.build.ignores(name) || hand.unheard.len() >= MOST_UNHEARD || !hand.unheard.insert(name.to_owned()) {
            return;
        }
        let look = self.engine.broker.state(&self.key);
        if let Ok(Ok(Some(state))) = tokio::time::timeout(FAREWELL, look).await {
            hand.declared = state.events;
        }
    }

    /// Takes up the next entry: it is settled at once, or it gathers, after whatever must be settled before it.
    async fn take(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
        entry: Arc<Entry>,
    ) -> Result<(), Ended> {
        if let Ok(Taker::Nobody) = self.taker(&hand.declared, &entry) {
            self.look_for_takers(hand, &entry).await;
        }
        let taker = match self.taker(&hand.declared, &entry) {
            Ok(taker) => taker,
            Err(need) => {
                self.empty_hands(lease, committer, hand).await?;
                return Err(Ended::Needs(need));
            }
        };
        if self.is_concurrent() {
            let beside = self.beside(committer, taker, &entry);
            return self.take_up(lease, committer, hand, entry, beside).await;
        }
        if !hand.gathering.is_empty() {
            let joins = match taker {
                Taker::Consumer(consumer) => hand.gathering.admits(Some(consumer), &entry),
                Taker::Nobody => hand.gathering.admits(None, &entry),
                Taker::Unnamed => false,
            };
            if !joins {
                self.hand_out(lease, committer, hand).await?;
            }
        }
        match taker {
            // What is proven runs alone.
            Taker::Consumer(consumer)
                if let Some(limits) = self.handlers[consumer].policy.batch
                    && !committer.proves(entry.id) =>
            {
                hand.gathering.add(consumer, limits, entry);
            }
            Taker::Nobody if !hand.gathering.is_empty() => hand.gathering.add_between(entry),
            _ => {
                let held = Held { entry, is_event: matches!(taker, Taker::Consumer(_)) };
                return match self.handle(lease, committer, taker, std::slice::from_ref(&held), 0).await? {
                    Ok(dead) => self.weather(hand, dead),
                    Err(_) => Err(self.halted(format!(
                        "bug in streams-runtime: {}: entry {} came alone and was taken for a batch; please report it, and start the program again",
                        self.key, held.entry.id
                    ))),
                };
            }
        }
        if hand.gathering.is_full() {
            self.hand_out(lease, committer, hand).await?;
        }
        Ok(())
    }

    /// Settles what has gathered: as one batch, and where that comes to nothing in parts.
    async fn hand_out(&self, lease: &Lease, committer: &mut Committer<'_>, hand: &mut InHand) -> Result<(), Ended> {
        let Some((consumer, held)) = hand.gathering.take() else { return Ok(()) };
        let registration = &self.handlers[consumer].registration;
        let mut parts = Parts::default();
        while let Some((part, tried)) = parts.next(&held) {
            let taker = if part[0].is_event { Taker::Consumer(consumer) } else { Taker::Nobody };
            match self.handle(lease, committer, taker, part, tried).await? {
                Ok(dead) => {
                    parts.settled(part.len());
                    self.weather(hand, dead)?;
                    hand.give_turn().await;
                }
                Err(Apart { undecodable, tried }) => {
                    // An event whose decoding panics runs alone, too: then that is its own failed attempt.
                    let decodes = |held: &Held| call::caught(|| Ok(registration.decodes(&held.entry))).unwrap_or(false);
                    let is_bad = |held: &Held| held.is_event && !decodes(held);
                    match part.iter().position(is_bad).filter(|_| undecodable) {
                        Some(bad) => parts.undecodable(bad),
                        None => parts.apart(part.len(), tried),
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts dead letters in a row: many are a storm, which is an outage rather than bad events.
    pub(crate) fn weather(&self, hand: &mut InHand, dead: bool) -> Result<(), Ended> {
        hand.dead_in_a_row = if dead { hand.dead_in_a_row + 1 } else { 0 };
        if hand.dead_in_a_row < self.storm {
            return Ok(());
        }
        Err(Ended::Halted { reason: self.storm_reason(hand.dead_in_a_row), keep: true })
    }

    pub(crate) fn storm_reason(&self, dead_in_a_row: u32) -> String {
        format!(
            "{} put {dead_in_a_row} events in a row into its dead letters: that looks like an outage, not like bad events; mend the cause and start again",
            self.key
        )
    }

    /// Handles an entry, or a batch, to its end; answers whether it became a dead letter, or why the batch cannot be settled
    /// as one.
    async fn handle(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        taker: Taker,
        held: &[Held],
        tried: u32,
    ) -> Result<Result<bool, Apart>, Ended> {
        let first = &held[0].entry;
        let batch: Option<Arc<[_]>> = (held.len() > 1)
            .then(|| held.iter().filter(|held| held.is_event).map(|held| Arc::clone(&held.entry)).collect());
        let events = batch.as_ref().map_or(1, |batch| batch.len() as u32);
        committer.make_room(events).await?;
        if self.engine.shutdown.is_stopping() {
            return Err(Ended::Stopped);
        }
        self.progress.begins(first.id);
        let letter = match taker {
            Taker::Consumer(consumer) => {
                let handler = &self.handlers[consumer];
                let name = handler.registration.info.name;
                let failed = |committer: &Committer<'_>| committer.ledger.failed_attempts(first.id).max(tried);
                match self.gives_up(committer, consumer, first, failed(committer)) {
                    Some(letter) => Some(letter),
                    None => match self.attempts(lease, committer, &Delivery { handler, first, batch, tried }).await? {
                        Ok(settlement) => self.ended(settlement, first, events, failed(committer) + 1, name),
                        Err(apart) => return Ok(Err(apart)),
                    },
                }
            }
            _ => self.without_taker(taker, first),
        };
        let dead = letter.as_ref().map(|letter| letter.cause);
        let ends = held.iter().map(|Held { entry, is_event }| End {
            id: entry.id,
            event_id: entry.given_id().unwrap_or_default(),
            is_event: *is_event,
            passed_over: entry.event().filter(|_| !is_event && !matches!(taker, Taker::Unnamed)),
        });
        self.settle(committer, ends, letter);
        let Some(cause) = dead else { return Ok(Ok(false)) };
        // The letter is in the commit that passes the event: nothing runs beyond it before that is known.
        // That may be never, when there is no room for it, and a stop must not wait for an operator.
        tokio::select! {
            biased;
            done = committer.finish() => done?,
            () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
        }
        self.progress.counts.dead(cause);
        Ok(Ok(true))
    }

    /// Ends the business of entries with the group: of one, or of all of a batch. Of one that is dead the letter is in the
    /// commit that passes it.
    ///
    /// This is the one place that settles, and it goes by the order of the stream.
    pub(crate) fn settle<'e>(
        &self,
        committer: &mut Committer<'_>,
        ends: impl IntoIterator<Item = End<'e>>,
        letter: Option<Letter>,
    ) {
        committer.settle(ends, letter.map(|letter| self.written(letter)));
    }

    /// Says that an event is given up; answers the fields of its letter.
    pub(crate) fn written(&self, letter: Letter) -> Fields {
        let Letter { entry, consumer, cause, reason, attempts } = letter;
        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), consumer, attempts, cause = cause.as_str(), reason, "dead letter");
        dead_letter::fields(&self.key, consumer, &entry, cause, &reason, attempts)
    }

    /// What becomes of an entry that no consumer takes: it is passed over, or put away where it does not say what it is.
    pub(crate) fn without_taker(&self, taker: Taker, entry: &Arc<Entry>) -> Option<Letter> {
        if let Taker::Unnamed = taker {
            let reason = match cut_from(entry) {
                Some(bytes) => format!(
                    "the entry has {bytes} bytes, and {MOST_ENTRY_BYTES} are the most that any event can have: only the beginnings of its fields were read; the entry {} itself has all of it until it is trimmed",
                    entry.id
                ),
                None => "the field `event` is missing or is not `Name@version`".to_owned(),
            };
            return Some(Letter { entry: Arc::clone(entry), consumer: "", cause: Cause::Decode, reason, attempts: 1 });
        }
        None
    }

    /// Counts what came of an event, or of a batch, and answers the letter of one that is dead.
    pub(crate) fn ended(
        &self,
        settlement: Settlement,
        first: &Arc<Entry>,
        events: u32,
        attempts: u32,
        consumer: &'static str,
    ) -> Option<Letter> {
        let counts = &self.progress.counts;
        match settlement {
            Settlement::Done => count(&counts.done, events.into()),
            Settlement::Skipped { reason } => {
                count(&counts.skipped, events.into());
                tracing::debug!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %first.id, events, reason, "skipped");
            }
            Settlement::Dead { cause, reason } => {
                return Some(Letter { entry: Arc::clone(first), consumer, cause, reason, attempts });
            }
        }
        None
    }

    /// Calls the handler until it is clear what becomes of the event, or of all events of a batch.
    async fn attempts(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        delivery: &Delivery<'_>,
    ) -> Result<Result<Settlement, Apart>, Ended> {
        let Delivery { handler, first: entry, batch, tried } = delivery;
        loop {
            let attempt = committer.ledger.failed_attempts(entry.id).max(*tried) + 1;
            let ctx = Context::new(Arc::clone(&handler.scope), Arc::clone(entry), attempt);
            let random = || self.engine.random.fraction();
            let turn = committer.charge(entry.id, &handler.policy).await?;
            let decision = match batch {
                None => decide(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random),
                Some(batch) => {
                    let ctx = ctx.with_entries(Arc::clone(batch));
                    decide_batch(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random)
                }
            };
            drop(turn);
            committer.came_back(entry.id);
            match decision {
                Decision::Settle(settlement) => return Ok(Ok(settlement)),
                Decision::Apart { undecodable, reason } => {
                    // The one that cannot be decoded is reported by itself.
                    if !undecodable {
                        let events = batch.as_ref().map_or(1, |batch| batch.len());
                        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), events, consumer = handler.registration.info.name, attempt, reason, "a batch failed as a whole; going on with its events one by one");
                    }
                    return Ok(Err(Apart { undecodable, tried: attempt }));
                }
                Decision::Retry { after, reason } => {
                    let events = batch.as_ref().map_or(1, |batch| batch.len());
                    self.attempt_failed(committer, handler, entry, events, attempt, after, &reason);
                    let next = tokio::time::sleep(after);
                    tokio::pin!(next);
                    loop {
                        tokio::select! {
                            biased;
                            () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                            () = lease.lost() => return Err(Ended::Lost),
                            () = self.place.wanted() => return Err(self.hand_over()),
                            done = committer.progress() => done?,
                            () = &mut next => break,
                        }
                        committer.may_go_on()?;
                    }
                }
            }
        }
    }

    /// An attempt failed, and there is another after this long.
    #[expect(clippy::too_many_arguments, reason = "all of it goes into one line of the log")]
    pub(crate) fn attempt_failed(
        &self,
        committer: &mut Committer<'_>,
        handler: &Handler,
        entry: &Entry,
        events: usize,
        attempt: u32,
        after: Duration,
        reason: &str,
    ) {
        self.tell_failed(handler, entry, events, attempt, after, reason);
        committer.ledger.attempt_failed(entry.id, attempt);
    }

    /// Says that an attempt failed, and counts it.
    pub(crate) fn tell_failed(
        &self,
        handler: &Handler,
        entry: &Entry,
        events: usize,
        attempt: u32,
        after: Duration,
        reason: &str,
    ) {
        count(&self.progress.counts.retried, 1);
        let wait = humantime::format_duration(Duration::from_millis(millis(after)));
        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), events, consumer = handler.name(), attempt, reason, "attempt failed; trying again in {wait}");
    }

    /// Calls the handler once: within its timeout, while the lease is held, and with its panics caught.
    pub(crate) async fn attempt(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        handler: &Handler,
        ctx: Context,
    ) -> Result<Result<Outcome, Failed>, Ended> {
        let began = Instant::now();
        if !lease.is_held(began) {
            return Err(Ended::Lost);
        }
        committer.now = began;
        let timeout = handler.policy.timeout;
        // A handler that yields is cancelled at its timeout; one that does not keeps the lease only a lease longer.
        lease.handler_begins(began, timeout.saturating_add(self.engine.lease_for));
        let (span, id) = (trace::process(&handler.scope, ctx.entries(), ctx.attempt()), ctx.entry_id());
        let mut call = Caught::new(trace::within(&span, handler.registration.call(ctx)));
        // Most handlers never wait: what follows is set up only for those that do.
        let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut call).poll(cx))).await;
        let result = match first {
            Poll::Ready(result) => result,
            Poll::Pending => {
                let deadline = tokio::time::sleep_until(after(began, timeout));
                tokio::pin!(deadline);
                loop {
                    tokio::select! {
                        biased;
                        result = &mut call => break result,
                        () = &mut deadline => break Err(Failed::timed_out(timeout)),
                        () = lease.lost() => return Err(Ended::Lost),
                        () = self.engine.shutdown.cutting() => return Err(Ended::Stopped),
                        done = committer.progress() => done?,
                    }
                }
            }
        };
        lease.handler_ended();
        let took = began.elapsed();
        handler.duration.record(took);
        handler.late.tell(id, took, timeout);
        trace::ended(&span, result.as_ref().err().map(|failed| failed.cause.as_str()));
        Ok(result)
    }
}
