//! A group on a partition, in order: take the lease, call the handler for each entry, settle it; the heart of the runtime.
//!
//! [`lease`](crate::lease) says who may, [`source`](crate::source) brings the entries in order,
//! [`settle`](crate::settle) decides what an outcome means, and [`commit`](crate::commit) tells the server.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use streams_core::broker::{
    Acquired, Broker, BrokerError, BrokerErrorKind, Claim, Created, DeadBounds, GroupState, Holder, Holding, Reset,
};
use streams_core::keys::GroupKey;
use streams_core::{
    Backoff, Checkpoint, Context, Entry, EntryId, Failure, OnDataLoss, Outcome, Registration, Scope, Start,
};
use tokio::time::Instant;

use crate::clock::{after, millis};
use crate::commit::Committer;
use crate::dead_letter;
use crate::gather::{Gathering, Held, Parts};
use crate::lease::{Lease, Leases, Verdict, Watch};
use crate::loss::{DataLoss, DataLossKind, Reader};
use crate::metrics::Histogram;
use crate::outage::{Contact, Outages};
use crate::random::Random;
use crate::settle::{self, Decision, SERVER_AWAY, Settlement, decide, decide_batch, wait};
use crate::shutdown::{FAREWELL, Shutdown};
use crate::source::{Arrived, Source};
use crate::status::{Phase, Progress, count};
use crate::tail::{Follower, Tails, Taken};
use crate::trace;

/// How often a halted partition says so again.
const REMINDER: Duration = Duration::from_secs(60);
/// A server that is there answers the tail within this, also when nothing happens.
const LATELY: Duration = Duration::from_millis(1500);
/// How often a contender looks at a lease at least; the lease's length / 10 when that is shorter.
const LOOK: Duration = Duration::from_secs(1);
/// How long a group runs before it lets others on its thread have a turn.
const TURN: Duration = Duration::from_millis(1);
/// How many entries a group takes from a window at once.
pub(crate) const TAKE: usize = 256;
/// How often a halted group looks whether somebody has reset it.
const RESET_LOOK: Duration = Duration::from_secs(2);
/// The waits of a group that the server refuses, until somebody has mended the permission or the key.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(2), max: Duration::from_secs(30) };

/// What all groups of an app share.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) random: Arc<Random>,
    pub(crate) tails: Tails,
    pub(crate) leases: Leases,
    pub(crate) shutdown: Shutdown,
    pub(crate) lease_for: Duration,
    pub(crate) outages: Outages,
}

/// One consumer of the group.
pub(crate) struct Handler {
    pub(crate) registration: Registration,
    pub(crate) policy: settle::Policy,
    pub(crate) scope: Arc<Scope>,
    pub(crate) duration: Arc<Histogram>,
}

/// Who takes an entry.
#[derive(Debug, Clone, Copy)]
enum Taker {
    /// This consumer of the group.
    Consumer(usize),
    /// None of them.
    Nobody,
    /// The entry does not say what it is.
    Unnamed,
}

/// What an owner remembers from one entry to the next.
struct InHand {
    /// Dropped with every end but that of history itself: what has only gathered comes again.
    gathering: Gathering,
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

/// Why a batch cannot be settled as one.
#[derive(Debug)]
struct Apart {
    /// An event of it cannot be decoded.
    undecodable: bool,
    /// How often it was tried.
    tried: u32,
}

/// A group on a partition.
pub(crate) struct Group {
    pub(crate) engine: Engine,
    pub(crate) key: GroupKey,
    pub(crate) handlers: Vec<Handler>,
    pub(crate) start: Start,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) on_data_loss: OnDataLoss,
    pub(crate) dead_bounds: DeadBounds,
    pub(crate) storm: u32,
    pub(crate) max_payload: usize,
    pub(crate) progress: Arc<Progress>,
    pub(crate) known: Mutex<Option<Known>>,
    pub(crate) contact: Contact,
    /// What was last said of a refusal, and when.
    pub(crate) said: Mutex<Option<(String, Instant)>>,
}

/// What this process has seen of a group's state: a server that lost writes, or all, shows less later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    at: EntryId,
    epoch: u64,
    /// The epoch of the last reset: another one says that an operator has moved the checkpoint.
    reset: u64,
}

/// What a group's task remembers from one ownership to the next.
#[derive(Default)]
struct Past {
    /// The last holding of the lease, if it came to anything.
    holder: Option<Holder>,
    /// Whether the log says that this process owns the partition: taking its own lapsed lease again is no news.
    told: bool,
}

/// Why a group's work came to an end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The app stops.
    Stopped,
    /// Somebody else may own the partition now.
    Lost,
    /// The lease is taken anew: a reset has moved the checkpoint.
    Again,
    /// History was cut. `at` is how far the group had read, where the cut is not one that took its state along.
    Cut { loss: DataLoss, at: Option<Reader> },
    /// The server could not be used.
    Failed(BrokerError),
    /// The server refuses a key or a command: tried again, but not soon.
    Refused(BrokerError),
    /// Nothing may go on until somebody does something. The lease is kept where others would only run into the same.
    Halted { reason: String, keep: bool },
}

impl From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        if error.is_retryable() || error.is_indefinite() {
            Self::Failed(error)
        } else if error.kind() == BrokerErrorKind::Refused {
            Self::Refused(error)
        } else {
            Self::Halted { reason: error.to_string(), keep: false }
        }
    }
}

impl Group {
    /// Drives the group until the app stops. A halt or a lost lease is not the end of it, a stop is.
    pub(crate) async fn run(self) {
        let mut past = Past::default();
        let mut failures: u32 = 0;
        loop {
            let began = Instant::now();
            match self.once(&mut past).await {
                Ended::Stopped => break,
                // Said for all groups at once already.
                Ended::Lost if self.engine.outages.trouble().is_some() => {
                    tracing::debug!(
                        group = self.key.group(),
                        partition = self.key.partition().as_str(),
                        "the lease is lost: the server was away for longer"
                    );
                }
                Ended::Lost => {
                    past.told = false;
                    tracing::warn!(
                        group = self.key.group(),
                        partition = self.key.partition().as_str(),
                        "the lease is lost: it was not renewed in time, or another process has taken it"
                    );
                }
                Ended::Failed(error) => {
                    failures = if began.elapsed() > REMINDER { 1 } else { failures.saturating_add(1) };
                    self.progress.enter(Phase::Troubled { reason: error.to_string() });
                    self.contact.failed(&error);
                    tokio::select! {
                        () = self.pause(wait(SERVER_AWAY, failures, self.engine.random.fraction())) => {}
                        () = self.engine.outages.over() => {}
                    }
                }
                Ended::Refused(error) => {
                    failures = if began.elapsed() > REMINDER { 1 } else { failures.saturating_add(1) };
                    self.contact.rest();
                    if self.say_refused(&error) {
                        past.told = false;
                    }
                    self.pause(wait(REFUSED, failures, self.engine.random.fraction())).await;
                }
                Ended::Again => {}
                Ended::Cut { loss, at } => {
                    // No lease is held, so nothing is to be given back.
                    if let Ended::Halted { reason, .. } = self.answer(&loss, at).await {
                        self.halt(reason).await;
                    }
                }
                Ended::Halted { reason, .. } => self.halt(reason).await,
            }
            if self.engine.shutdown.is_stopping() {
                break;
            }
        }
        self.progress.enter(Phase::Stopped);
    }

    /// Says what the server refuses, unless it was said lately; answers whether it did.
    pub(crate) fn say_refused(&self, error: &BrokerError) -> bool {
        let reason = format!("{}: {error}; the group then goes on by itself", self.key);
        self.progress.enter(Phase::Halted { reason: reason.clone() });
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref().is_some_and(|(before, at)| *before == reason && at.elapsed() < REMINDER) {
            return false;
        }
        *said = Some((reason.clone(), Instant::now()));
        drop(said);
        tracing::error!(group = self.key.group(), partition = self.key.partition().as_str(), reason, "halted");
        true
    }

    /// Says that the group is halted, again and again, until somebody resets it or the app stops.
    async fn halt(&self, reason: String) {
        self.contact.rest();
        self.progress.enter(Phase::Halted { reason: reason.clone() });
        let mut said: Option<Instant> = None;
        while !self.engine.shutdown.is_stopping() {
            if said.is_none_or(|said| said.elapsed() >= REMINDER) {
                said = Some(Instant::now());
                tracing::error!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    reason,
                    "halted: no event is handled until this is mended, then the group reset (`Admin::reset`) or the program started again"
                );
            }
            self.pause(RESET_LOOK).await;
            if let Ok(Some(state)) = self.engine.broker.state(&self.key).await
                && state.reset != self.known().map_or(0, |known| known.reset)
            {
                tracing::info!(group = self.key.group(), partition = self.key.partition().as_str(), at = %state.at, "somebody has reset the group: going on");
                return;
            }
        }
    }

    fn known(&self) -> Option<Known> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn know(&self, state: &GroupState) {
        let known = Known { at: state.at, epoch: state.lease.epoch, reset: state.reset };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// The server has acknowledged this checkpoint.
    pub(crate) fn acknowledged(&self, at: EntryId) {
        if let Some(known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            known.at = at;
        }
        self.progress.checkpoint(at);
    }

    /// What the state shows of a history that is another one than this process has seen.
    fn recall(&self, state: Option<&GroupState>) -> Result<(), Ended> {
        let loss = |kind, from, to| Ended::Cut { loss: DataLoss { kind, from, to, count: None }, at: None };
        match (self.known(), state) {
            (Some(known), None) => Err(loss(DataLossKind::Restarted, EntryId::ZERO, known.at)),
            (Some(known), Some(state)) if state.reset == known.reset && state.at < known.at => {
                Err(loss(DataLossKind::HistoryCut, state.at, known.at))
            }
            (_, Some(state)) => {
                self.know(state);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// Reports a loss that a reader cannot go on over by itself, then does as the group wants it: prepares the next
    /// beginning, or halts.
    async fn answer(&self, loss: &DataLoss, at: Option<Reader>) -> Ended {
        self.report(loss);
        if self.on_data_loss == OnDataLoss::Halt {
            return Ended::Halted { reason: self.loss_reason(loss), keep: true };
        }
        match self.begin_anew(at).await {
            Ok(()) => Ended::Again,
            Err(error) => error.into(),
        }
    }

    /// Moves the checkpoint to where the history of now goes on: behind what was read, where that is still there, to its
    /// beginning where it is not. Where the group's state was cut back with the stream it is the place to go on from.
    async fn begin_anew(&self, at: Option<Reader>) -> Result<(), BrokerError> {
        let broker = &self.engine.broker;
        let state = broker.state(&self.key).await?;
        let to = match (&at, &state) {
            (None, Some(state)) => {
                self.know(state);
                return Ok(());
            }
            (Some(reader), Some(_)) => {
                let snapshot = broker.snapshot(&self.key, reader.position(), 1).await?;
                if reader.is_at(snapshot.entries.first()) {
                    Start::At(reader.position().next())
                } else {
                    Start::Earliest
                }
            }
            (_, None) => Start::Earliest,
        };
        // By the epoch that was held or refused: whoever was faster has done the same.
        let epoch = state.and(self.known().map(|known| known.epoch));
        if let Reset::Done { at } = broker.reset(&self.key, epoch, to).await? {
            tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), %at, "going on after the loss from here");
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Says once that events are lost.
    fn report(&self, loss: &DataLoss) {
        self.progress.lost(loss.clone());
        tracing::error!(
            group = self.key.group(),
            partition = self.key.partition().as_str(),
            kind = loss.kind.as_str(),
            from = %loss.from,
            to = %loss.to,
            count = loss.count,
            "data loss: {loss}"
        );
    }

    /// Why a loss halts the group, with what an operator can do.
    fn loss_reason(&self, loss: &DataLoss) -> String {
        let (partition, group) = (self.key.partition(), self.key.group());
        let after = |id| self.reset_behind(id);
        let all = format!("Admin::reset(\"{partition}\", \"{group}\", Start::Earliest)");
        let remedy = match loss.kind {
            DataLossKind::TrimmedPast => format!("to go on with what is left call `{all}`"),
            DataLossKind::DeletedUnread => format!("to go on with what is left call `{}`", after(loss.from)),
            DataLossKind::HistoryCut => {
                format!(
                    "to go on behind {} call `{}`, to handle all that is there again `{all}`",
                    loss.from,
                    after(loss.from)
                )
            }
            DataLossKind::Restarted => {
                format!("to handle all that is there call `{all}`, to go on behind {} `{}`", loss.to, after(loss.to))
            }
        };
        format!("{}: {loss}; {remedy}; `on_data_loss = \"continue\"` goes on by itself", self.key)
    }

    /// Waits, but not past a stop.
    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = self.engine.shutdown.stopping() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// From making the group to the end of one ownership.
    async fn once(&self, past: &mut Past) -> Ended {
        let (lease, holding) = match self.stand_by(past).await {
            Ok(held) => held,
            Err(ended) => return ended,
        };
        past.holder = Some(lease.holder().clone());
        self.contact.succeeded();
        self.progress.resume();
        self.progress.enter(Phase::Owning { epoch: holding.epoch });
        let (group, partition, epoch) = (self.key.group(), self.key.partition().as_str(), holding.epoch);
        if std::mem::replace(&mut past.told, true) {
            tracing::debug!(group, partition, epoch, at = %holding.at, "owning again");
        } else {
            tracing::info!(group, partition, epoch, at = %holding.at, "owning");
        }
        if let Some(known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            known.epoch = holding.epoch;
        }
        self.progress.owned(&holding);
        self.acknowledged(holding.at);
        let ended = self.own(&lease, holding, past).await;
        // Where it was not given back.
        self.progress.disowned(true);
        ended
    }

    /// The call that lets the group go on with what stands behind this entry.
    fn reset_behind(&self, id: EntryId) -> String {
        let EntryId { ms, seq } = id.next();
        let (partition, group) = (self.key.partition(), self.key.group());
        format!("Admin::reset(\"{partition}\", \"{group}\", Start::At(EntryId::new({ms}, {seq})))")
    }

    /// Makes the group where it is new, then waits until its lease is ours.
    async fn stand_by(&self, past: &mut Past) -> Result<(Lease, Holding), Ended> {
        let broker = &self.engine.broker;
        let (mut watch, mut bell) = (Watch::default(), None);
        let mut exists = self.known().is_some();
        loop {
            if self.engine.shutdown.is_stopping() {
                return Err(Ended::Stopped);
            }
            if !exists {
                if broker.create(&self.key, self.start).await? == Created::Foreign {
                    return Err(self.halted(format!(
                        "{} exists in Redis but has no checkpoint: either a program that reads with XREADGROUP uses it, then choose another group name; or its state `{}` was deleted, then run `XGROUP DESTROY {} {}` and start again to begin anew",
                        self.key, self.key.state(), self.key.partition(), self.key.group()
                    )));
                }
                exists = true;
            }
            let Some(state) = broker.state(&self.key).await? else {
                // Made anew it would begin at its `start`, perhaps beyond events that nobody has handled.
                self.recall(None)?;
                exists = false;
                continue;
            };
            self.recall(Some(&state))?;
            // A lease that ran out while nobody took it is this process's own still: its handlers have stopped.
            let ours = past
                .holder
                .as_ref()
                .is_some_and(|holder| holder.owner == state.lease.owner && holder.epoch == state.lease.epoch);
            let verdict = if ours { Verdict::Claim } else { watch.observe(&state, Instant::now()) };
            let wait = match verdict {
                Verdict::Wait(wait) => wait,
                Verdict::Claim => {
                    let claim = Claim {
                        owner: self.engine.random.token(),
                        lease_for: self.engine.lease_for,
                        seen: state.lease.clone(),
                    };
                    let sent = Instant::now();
                    match broker.acquire(&self.key, &claim).await? {
                        Acquired::Held(holding) => {
                            let holder = Holder { owner: claim.owner, epoch: holding.epoch };
                            return Ok((self.engine.leases.hold(self.key.clone(), holder, sent), holding));
                        }
                        // The next look says what has become of it.
                        Acquired::Contended | Acquired::Missing => continue,
                        refused => return Err(self.refused(&refused)),
                    }
                }
            };
            self.contact.succeeded();
            past.told = false;
            if self.progress.enter(Phase::StandingBy { owner: state.lease.owner.clone() }) {
                tracing::info!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    owner = state.lease.owner,
                    "waiting for the lease of another process, at most {} after its last sign of life",
                    humantime::format_duration(state.lease_for)
                );
            }
            // Followed before the state is read again, so that a ring between the two is not missed.
            let Some((bell, position)) = &mut bell else {
                let follower = self.engine.tails.follow_bell(&self.key.partition().bell());
                bell = Some((follower, EntryId::ZERO));
                continue;
            };
            tokio::select! {
                () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                () = tokio::time::sleep(wait.min(LOOK).min(state.lease_for / 10)) => {}
                () = self.rung(bell, position) => {}
            }
        }
    }

    /// Waits until the bell rings for this group.
    async fn rung(&self, bell: &Follower, position: &mut EntryId) {
        loop {
            match bell.wait(*position, None, TAKE).await {
                Taken::Entries(rings) => {
                    *position = rings.last().map_or(*position, |ring| ring.id);
                    if rings.iter().any(|ring| ring.field("group") == Some(self.key.group().as_bytes())) {
                        return;
                    }
                }
                Taken::Behind { floor } => *position = floor,
                // Without a bell the looks at the lease still find a take-over.
                Taken::Nothing | Taken::Broken(_) => std::future::pending().await,
            }
        }
    }

    pub(crate) fn halted(&self, reason: String) -> Ended {
        Ended::Halted { reason, keep: false }
    }

    /// Why the lease cannot be taken.
    fn refused(&self, refused: &Acquired) -> Ended {
        let key = &self.key;
        match refused {
            Acquired::Vanished { at } => Self::vanished(Reader::new(*at, "", None)),
            Acquired::Ahead { at, last } => {
                let loss = DataLoss { kind: DataLossKind::HistoryCut, from: *last, to: *at, count: None };
                Ended::Cut { loss, at: Some(Reader::new(*at, "", None)) }
            }
            Acquired::Mode(mode) => self.halted(format!(
                "{key} is used in `{mode}` delivery, and the two never mix under one name; choose another group name"
            )),
            other => self.halted(format!("{key}: unexpected answer {other:?} to a claim of the lease")),
        }
    }

    /// The group's marker is gone.
    pub(crate) fn vanished(reader: Reader) -> Ended {
        let to = reader.position();
        let loss = DataLoss { kind: DataLossKind::Restarted, from: EntryId::ZERO, to, count: None };
        Ended::Cut { loss, at: Some(reader) }
    }

    /// Reads and handles until the lease is lost or the app stops.
    async fn own(&self, lease: &Lease, holding: Holding, past: &mut Past) -> Ended {
        let mut committer = Committer::new(self, lease, &holding);
        let mut ended = self.work(lease, &holding, &mut committer).await;
        if let Ended::Failed(error) = &ended {
            self.contact.failed(error);
        }
        if matches!(ended, Ended::Lost) {
            // An owner that could not commit must leave the lease to others, however often it could take it again; not
            // so where the server was away for everybody, or told that it does not take commits now.
            let stuck = lease.is_undeserved() || committer.is_unanswered();
            let nothing_done = !committer.ledger.is_clean() && committer.ledger.at() == holding.at;
            if nothing_done && stuck && self.engine.outages.answered_within(LATELY.max(self.engine.lease_for / 2)) {
                past.holder = None;
            }
            return ended;
        }
        match tokio::time::timeout(FAREWELL, committer.finish()).await {
            // A cut that the commit came upon is no reason to doubt the commit.
            Ok(Ok(()) | Err(Ended::Cut { .. })) => {}
            Ok(Err(Ended::Lost)) => return Ended::Lost,
            Ok(Err(failed)) => self.left(
                &ended,
                &format!("the last commit failed ({failed:?}): events since the checkpoint will come again"),
            ),
            Err(_) => self.left(&ended, "the last commit was not answered: events since the checkpoint may come again"),
        }
        self.acknowledged(committer.ledger.at());
        if let Ended::Cut { loss, at } = ended {
            ended = self.answer(&loss, at).await;
        }
        if let Ended::Halted { reason, keep: true } = &ended {
            // Renewed while it waits, so that no other process runs into the same.
            tokio::select! {
                () = self.halt(reason.clone()) => ended = Ended::Again,
                () = lease.lost() => {}
            }
        }
        match tokio::time::timeout(FAREWELL, self.engine.broker.release(&self.key, lease.holder())).await {
            Ok(Ok(held)) => self.progress.disowned(!held),
            Ok(Err(error)) => self.left(
                &ended,
                &format!("the lease could not be given back ({error}): others take over when it runs out"),
            ),
            Err(_) => self.left(
                &ended,
                "giving the lease back was not answered: others take over when it runs out at the latest",
            ),
        }
        ended
    }

    /// An ownership came to its end and something was left undone. While the server is away or refuses the group that was
    /// to be expected, and is said already.
    fn left(&self, ended: &Ended, undone: &str) {
        self.progress.abandon();
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        if self.engine.outages.trouble().is_some() || matches!(ended, Ended::Refused(_)) {
            tracing::debug!(group, partition, "{undone}");
        } else {
            tracing::warn!(group, partition, "{undone}");
        }
    }

    async fn work(&self, lease: &Lease, holding: &Holding, committer: &mut Committer<'_>) -> Ended {
        let mut source = match Source::open(self, holding).await {
            Ok(source) => source,
            Err(error) => return error.into(),
        };
        let mut hand = InHand { gathering: Gathering::default(), dead_in_a_row: 0, turn: Instant::now() };
        loop {
            if hand.gathering.is_empty() && committer.ledger.is_clean() {
                self.progress.reach(source.reader.position());
            }
            let arrived = tokio::select! {
                biased;
                () = self.engine.shutdown.stopping() => return Ended::Stopped,
                () = lease.lost() => return Ended::Lost,
                done = committer.progress() => match done {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                arrived = source.next() => arrived,
                () = hand.gathering.over() => match self.hand_out(lease, committer, &mut hand).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
            };
            // What has gathered was read before the cut, and going on begins behind all that was read.
            if matches!(&arrived, Ok(Arrived { loss: Some(_), .. }) | Err(Ended::Cut { .. }))
                && let Err(ended) = self.hand_out(lease, committer, &mut hand).await
            {
                return ended;
            }
            let arrived = match arrived {
                Ok(arrived) => arrived,
                Err(ended) => return ended,
            };
            if let Some(loss) = arrived.loss {
                self.report(&loss);
                if self.on_data_loss == OnDataLoss::Halt {
                    return Ended::Halted { reason: self.loss_reason(&loss), keep: true };
                }
            }
            if let Some(seen) = arrived.seen {
                // What has gathered is read, but not settled.
                committer.ledger.anchor(seen.saturating_sub(hand.gathering.len() as u64));
            }
            for entry in arrived.entries {
                if let Err(ended) = self.take(lease, committer, &mut hand, entry).await {
                    return ended;
                }
                hand.give_turn().await;
            }
        }
    }

    fn taker(&self, entry: &Entry) -> Taker {
        let Some((name, _)) = entry.event() else { return Taker::Unnamed };
        match self.handlers.iter().position(|handler| handler.registration.info.event.name == name) {
            Some(consumer) => Taker::Consumer(consumer),
            None => Taker::Nobody,
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
        let taker = self.taker(&entry);
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
            Taker::Consumer(consumer) if let Some(limits) = self.handlers[consumer].policy.batch => {
                hand.gathering.add(consumer, limits, entry);
            }
            Taker::Nobody if !hand.gathering.is_empty() => hand.gathering.add_between(entry),
            _ => {
                let held = Held { entry, is_event: matches!(taker, Taker::Consumer(_)) };
                return match self.settle(lease, committer, taker, std::slice::from_ref(&held), 0).await? {
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
            match self.settle(lease, committer, taker, part, tried).await? {
                Ok(dead) => {
                    parts.settled(part.len());
                    self.weather(hand, dead)?;
                    hand.give_turn().await;
                }
                Err(Apart { undecodable, tried }) => {
                    let is_bad = |held: &Held| held.is_event && !registration.decodes(&held.entry);
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
    fn weather(&self, hand: &mut InHand, dead: bool) -> Result<(), Ended> {
        hand.dead_in_a_row = if dead { hand.dead_in_a_row + 1 } else { 0 };
        if hand.dead_in_a_row < self.storm {
            return Ok(());
        }
        let reason = format!(
            "{} put {} events in a row into its dead letters: that looks like an outage, not like bad events; mend the cause and start again",
            self.key, hand.dead_in_a_row
        );
        Err(Ended::Halted { reason, keep: true })
    }

    /// Ends the business of an entry, or of a batch, with the group; answers whether it became a dead letter, or why the batch
    /// cannot be settled as one.
    ///
    /// This is the one place that settles.
    async fn settle(
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
        let counts = &self.progress.counts;
        let (settlement, consumer) = match taker {
            Taker::Unnamed => {
                let reason = "the field `event` is missing or is not `Name@version`".to_owned();
                (Settlement::Dead { cause: settle::Cause::Decode, reason }, "")
            }
            Taker::Nobody => {
                count(&counts.passed_over, 1);
                committer.settle(held);
                return Ok(Ok(false));
            }
            Taker::Consumer(consumer) => {
                let handler = &self.handlers[consumer];
                match self.attempts(lease, committer, &Delivery { handler, first, batch, tried }).await? {
                    Ok(settlement) => (settlement, handler.registration.info.name),
                    Err(apart) => return Ok(Err(apart)),
                }
            }
        };
        match settlement {
            Settlement::Done => {
                count(&counts.done, events.into());
            }
            Settlement::Skipped { reason } => {
                count(&counts.skipped, events.into());
                tracing::debug!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %first.id, events, reason, "skipped");
            }
            Settlement::Dead { cause, reason } => {
                let attempts = committer.ledger.failed_attempts(first.id).max(tried) + 1;
                tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %first.id, event = %first.event_id(), consumer, attempts, cause = cause.as_str(), reason, "dead letter");
                let letter = dead_letter::fields(&self.key, consumer, first, cause, &reason, attempts);
                committer.settle_dead(first, letter);
                // The letter is in the commit that passes the event: nothing runs beyond it before that is known.
                // That may be never, when there is no room for it, and a stop must not wait for an operator.
                tokio::select! {
                    biased;
                    done = committer.finish() => done?,
                    () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                }
                counts.dead(cause);
                return Ok(Ok(true));
            }
        }
        if held.len() > 1 {
            count(&counts.passed_over, held.len() as u64 - u64::from(events));
        }
        committer.settle(held);
        Ok(Ok(false))
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
            let decision = match batch {
                None => decide(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random),
                Some(batch) => {
                    let ctx = ctx.with_entries(Arc::clone(batch));
                    decide_batch(self.attempt(lease, committer, handler, ctx).await?, attempt, &handler.policy, random)
                }
            };
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
                Decision::Halt { reason } => {
                    return Err(self.halted(format!(
                        "{}: entry {}: {reason}; or pass it over with `{}` if it should not be there",
                        self.key,
                        entry.id,
                        self.reset_behind(entry.id)
                    )));
                }
                Decision::Retry { after, reason } => {
                    count(&self.progress.counts.retried, 1);
                    let events = batch.as_ref().map_or(1, |batch| batch.len());
                    let wait = humantime::format_duration(Duration::from_millis(millis(after)));
                    tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), events, consumer = handler.registration.info.name, attempt, reason, "attempt failed; trying again in {wait}");
                    committer.ledger.attempt_failed(entry.id, attempt);
                    let next = tokio::time::sleep(after);
                    tokio::pin!(next);
                    loop {
                        tokio::select! {
                            biased;
                            () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                            () = lease.lost() => return Err(Ended::Lost),
                            done = committer.progress() => done?,
                            () = &mut next => break,
                        }
                    }
                }
            }
        }
    }

    /// Calls the handler once: within its timeout, while the lease is held, and with its panics caught.
    async fn attempt(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        handler: &Handler,
        ctx: Context,
    ) -> Result<Result<Outcome, Failure>, Ended> {
        let began = Instant::now();
        if !lease.is_held(began) {
            return Err(Ended::Lost);
        }
        committer.now = began;
        let timeout = handler.policy.timeout;
        // A handler that yields is cancelled at its timeout; one that does not keeps the lease only a lease longer.
        lease.handler_begins(began, timeout.saturating_add(self.engine.lease_for));
        let span = trace::process(&handler.scope, ctx.entries(), ctx.attempt());
        let mut call = Caught { call: Some(trace::within(&span, handler.registration.call(ctx))) };
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
                        () = &mut deadline => break Err(Failure::TimedOut(timeout)),
                        () = lease.lost() => return Err(Ended::Lost),
                        () = self.engine.shutdown.cutting() => return Err(Ended::Stopped),
                        done = committer.progress() => done?,
                    }
                }
            }
        };
        lease.handler_ended();
        handler.duration.record(began.elapsed());
        trace::ended(&span, result.as_ref().err().map(|failure| settle::Cause::of(failure).as_str()));
        Ok(result)
    }
}

type Call = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// A handler's future whose panic is a failed attempt.
struct Caught {
    /// `None` once it has panicked: it is never polled again, so nobody sees what it left half done.
    call: Option<Call>,
}

impl Future for Caught {
    type Output = Result<Outcome, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        match std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                self.discard();
                Poll::Ready(Err(Failure::Panic(said(&*panic))))
            }
        }
    }
}

impl Caught {
    /// Drops what the handler holds: a `Drop` of the user's that panics must not take the group with it.
    fn discard(&mut self) {
        let Some(call) = self.call.take() else { return };
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(call))) {
            tracing::error!(panic = said(&*panic), "a handler panicked while it was dropped");
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        self.discard();
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "with a value that is not text".to_owned(),
    }
}
