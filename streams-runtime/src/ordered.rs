//! A group on a partition, in order: from one ownership to the next, with what ends them.
//!
//! [`contend`](crate::contend) waits for the lease, [`deliver`](crate::deliver) handles entries while it is held, and
//! [`commit`](crate::commit) tells the server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use streams_core::broker::{
    Broker, BrokerError, BrokerErrorKind, DeadBounds, GroupState, Holder, Holding, LeaseView, Need, Reset,
};
use streams_core::keys::GroupKey;
use streams_core::{Backoff, Checkpoint, EntryId, OnDataLoss, Registration, Scope, Start};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::builds::{Build, Passes};
use crate::call::{self, Late};
use crate::commit::Committer;
use crate::lanes::Bounds;
use crate::lease::{Lease, Leases, Still};
use crate::loss::{DataLoss, DataLossKind, Reader};
use crate::members::Place;
use crate::metrics::Histogram;
use crate::outage::{Contact, Matter, Outages};
use crate::prove::Turns;
use crate::queue::{LivenessWatch, Queue, Unsaid};
use crate::random::Random;
use crate::settle::{self, SERVER_AWAY, wait};
use crate::shutdown::{FAREWELL, Shutdown};
use crate::status::{Phase, Progress, count};
use crate::tail::Tails;

/// How often a halted partition says so again.
const REMINDER: Duration = Duration::from_secs(60);
/// A server that is there answers the tail within this, also when nothing happens.
const LATELY: Duration = Duration::from_millis(1500);
/// How often a halted group looks whether somebody has resumed or reset it.
const RESET_LOOK: Duration = Duration::from_secs(2);
/// The waits of a group that the server refuses, until somebody has mended the permission or the key.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(2), max: Duration::from_secs(30) };

/// The waits of a group that has panicked: as little as it may be the event's doing, it must not turn in a circle.
const PANICKED: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(30) };

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
    /// One for each claim of a lease that is on its way.
    pub(crate) claims: Arc<Semaphore>,
    /// Of what is proven in this process.
    pub(crate) turns: Turns,
}

/// One consumer of the group.
pub(crate) struct Handler {
    pub(crate) registration: Registration,
    pub(crate) policy: settle::Policy,
    pub(crate) scope: Arc<Scope>,
    pub(crate) duration: Arc<Histogram>,
    pub(crate) late: Arc<Late>,
}

/// A group on a partition.
pub(crate) struct Group {
    pub(crate) engine: Engine,
    pub(crate) key: GroupKey,
    pub(crate) place: Arc<Place>,
    /// Of a group in shared delivery.
    pub(crate) queue: Option<Queue>,
    pub(crate) handlers: Vec<Handler>,
    pub(crate) build: Arc<Build>,
    pub(crate) start: Start,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) on_data_loss: OnDataLoss,
    /// Whether a group of another program is taken over.
    pub(crate) adopt: bool,
    pub(crate) dead_bounds: DeadBounds,
    pub(crate) storm: u32,
    pub(crate) max_payload: usize,
    /// How many events it handles at once, and how far that may spread.
    pub(crate) lanes: Bounds,
    pub(crate) progress: Arc<Progress>,
    pub(crate) known: Mutex<Option<Known>>,
    pub(crate) last_reader: Mutex<Option<Reader>>,
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
pub(crate) struct Past {
    /// The last holding of the lease, if it came to anything.
    pub(crate) holder: Option<Holder>,
    /// Whether the log says that this process owns the partition: taking its own lapsed lease again is no news.
    pub(crate) told: bool,
    /// Why it was this process's turn to take the lease.
    pub(crate) why: String,
    /// The lease that this process could take and leaves to a build that handles what is needed.
    pub(crate) untaken: Still<LeaseView>,
    /// How often it has left the partition to another build.
    pub(crate) passes: Passes,
    /// In a shared group: the other consumers as they were seen last.
    pub(crate) sightings: LivenessWatch,
    /// Acks of a work queue that a lost joining has not sent.
    pub(crate) unsaid: Option<Unsaid>,
}

/// The panics of a group since it last settled anything.
#[derive(Default)]
struct Panics {
    in_a_row: u32,
    /// Up to where, or how much, it had settled at the last one.
    settled: EntryId,
}

/// Why a group's work came to an end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The app stops.
    Stopped,
    /// Somebody else may own the partition now.
    Lost,
    /// Another process is to own the partition.
    HandedOver,
    /// The lease is taken anew: a reset has moved the checkpoint.
    Again,
    /// The next event is one for another build.
    Needs(Need),
    /// History was cut. `at` is how far the group had read, of what is still there; nothing where the state alone shows the cut.
    Cut { loss: DataLoss, at: Option<Box<Reader>> },
    /// The server could not be used.
    Failed(BrokerError),
    /// The server refuses a key or a command: tried again, but not soon.
    Refused(BrokerError),
    /// Nothing may go on until somebody does something. The lease is kept where others would only run into the same.
    Halted { reason: String, keep: bool },
}

impl Ended {
    /// The end that is left of this when the lease turns out to be lost. That history was cut is told all the same: a state that was cut
    /// back with it may show nothing of it, and nobody else has seen what is gone.
    pub(crate) fn without_lease(self) -> Self {
        match self {
            Self::Cut { ref loss, .. } if loss.kind == DataLossKind::HistoryCut => self,
            _ => Self::Lost,
        }
    }
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
        let mut panics = Panics::default();
        loop {
            let began = Instant::now();
            let ended = call::fenced(async {
                match &self.queue {
                    Some(queue) => self.share(queue, &mut past).await,
                    None => self.once(&mut past).await,
                }
            });
            let ended = match ended.await {
                Ok(ended) => ended,
                Err(panic) => self.panicked(&panic, &mut past, &mut panics).await,
            };
            self.place.rest();
            if let Ended::Halted { .. } | Ended::Refused(_) = ended {
                self.place.excuse();
            }
            match ended {
                Ended::Stopped => break,
                // Its turn may come again.
                Ended::HandedOver => past.told = false,
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
                    if !self.contact.is_troubled() {
                        self.contact.failed(Matter::Lease, &error);
                    }
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
                Ended::Needs(_) => past.told = past.passes.are_many(),
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

    /// A task of ours has panicked, or code of the user's that no fence knows of. What was in hand is charged with it as with
    /// the end of a process, since nothing is given back: whoever takes the lease after it has run out proves it, this
    /// process like any other. An event that does it again and again is given up by that.
    async fn panicked(&self, panic: &str, past: &mut Past, panics: &mut Panics) -> Ended {
        past.holder = None;
        past.told = false;
        self.progress.disowned(true);
        let counts = &self.progress.counts;
        let settled = match self.known() {
            Some(known) if self.queue.is_none() => known.at,
            // A work queue has no checkpoint.
            _ => EntryId::new(counts.done.get(), counts.dead_lettered.get()),
        };
        if std::mem::replace(&mut panics.settled, settled) != settled {
            panics.in_a_row = 0;
        }
        panics.in_a_row = panics.in_a_row.saturating_add(1);
        // The first is charged to nobody, and with the last the event is given up; there may be more than one of them in hand.
        let crashes = self.handlers.iter().map(|handler| handler.policy.max_crashes).max().unwrap_or(1);
        let most = crashes.saturating_add(1).saturating_mul(2);
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        if panics.in_a_row >= most {
            panics.in_a_row = 0;
            return self.halted(format!(
                "bug in streams-runtime: {} panicked {most} times in a row and settled nothing meanwhile, the last time with: {panic}; please report it, and start the program again",
                self.key
            ));
        }
        tracing::error!(
            group,
            partition,
            panic,
            "bug in streams-runtime: a group panicked; what it had in hand is charged like the end of a process and runs again when the lease has run out; please report it"
        );
        self.progress.enter(Phase::Troubled { reason: format!("a panic: {panic}") });
        self.pause(wait(PANICKED, panics.in_a_row, self.engine.random.fraction())).await;
        if !self.engine.shutdown.is_stopping() {
            return Ended::Again;
        }
        // The lease was not given back.
        self.progress.abandon();
        Ended::Stopped
    }

    /// Says what the server refuses, unless it was said lately; answers whether it did.
    pub(crate) fn say_refused(&self, error: &BrokerError) -> bool {
        self.say_halted(&format!("{}: {error}; the group then goes on by itself", self.key))
    }

    /// Says why nothing is handled for now, unless it was said lately; answers whether it did.
    pub(crate) fn say_halted(&self, reason: &str) -> bool {
        self.progress.enter(Phase::Halted { reason: reason.to_owned() });
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref().is_some_and(|(before, at)| *before == reason && at.elapsed() < REMINDER) {
            return false;
        }
        *said = Some((reason.to_owned(), Instant::now()));
        drop(said);
        tracing::error!(group = self.key.group(), partition = self.key.partition().as_str(), reason, "halted");
        true
    }

    /// Says that the group is halted, again and again, until somebody resumes or resets it or the app stops.
    async fn halt(&self, reason: String) {
        self.contact.rest();
        // Before anybody can know of the halt: what an operator does after that is meant for it. Where the server cannot be
        // asked, the first answer says from where on.
        let state = self.engine.broker.state(&self.key).await;
        let known = self.known().map(|known| known.reset);
        let since = |state: Option<&GroupState>| {
            let (reset, resume) = state.map_or((0, 0), |state| (state.reset, state.resume));
            (known.unwrap_or(reset), resume)
        };
        let mut before = state.ok().map(|state| since(state.as_ref()));
        self.progress.enter(Phase::Halted { reason: reason.clone() });
        let mut said: Option<Instant> = None;
        while !self.engine.shutdown.is_stopping() {
            if said.is_none_or(|said| said.elapsed() >= REMINDER) {
                said = Some(Instant::now());
                tracing::error!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    reason,
                    "halted: no event is handled until this is mended, then the group resumed (`Admin::resume`) or reset (`Admin::reset`), or the program started again"
                );
            }
            self.pause(RESET_LOOK).await;
            let Ok(Some(state)) = self.engine.broker.state(&self.key).await else { continue };
            let (group, partition) = (self.key.group(), self.key.partition().as_str());
            let (reset, resume) = *before.get_or_insert_with(|| since(Some(&state)));
            if state.reset != reset {
                tracing::info!(group, partition, at = %state.at, "somebody has reset the group: going on");
                return;
            }
            if state.resume != resume {
                tracing::info!(group, partition, at = %state.at, "somebody has resumed the group: going on");
                return;
            }
        }
    }

    pub(crate) fn known(&self) -> Option<Known> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn know(&self, state: &GroupState) {
        let known = Known { at: state.at, epoch: state.lease.epoch, reset: state.reset };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Up to where entries of a work queue were given out, as far as this process knows.
    pub(crate) fn cursor(&self) -> EntryId {
        self.known().map_or(EntryId::ZERO, |known| known.at)
    }

    /// Whether the cursor of a work queue is no lower than this process has seen it, since the same reset where that is said.
    pub(crate) fn reaches(&self, at: EntryId, reset: Option<u64>) -> bool {
        match &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(known) if reset.is_none_or(|reset| reset == known.reset) => {
                let reaches = at >= known.at;
                known.at = known.at.max(at);
                reaches
            }
            // Whoever has reset it has ended this joining.
            Some(known) => reset > Some(known.reset),
            None => true,
        }
    }

    /// The server has acknowledged this checkpoint.
    pub(crate) fn acknowledged(&self, at: EntryId) {
        if let Some(known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            known.at = at;
        }
        self.progress.checkpoint(at);
    }

    /// How far this process had read when it last owned the partition, committed or not: a cut that takes the lease along shows
    /// nowhere else.
    pub(crate) fn last_reader(&self) -> Option<Reader> {
        self.last_reader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn remember(&self, reader: Option<Reader>) {
        *self.last_reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
    }

    /// What the state shows of a history that is another one than this process has seen.
    pub(crate) fn recall(&self, state: Option<&GroupState>) -> Result<(), Ended> {
        let loss = |kind, from, to| Ended::Cut { loss: DataLoss { kind, from, to, count: None }, at: None };
        match (self.known(), state) {
            (Some(known), None) => Err(loss(DataLossKind::Restarted, EntryId::ZERO, known.at)),
            // Resets have growing numbers: one that is gone was taken back with the state.
            (Some(known), Some(state))
                if state.reset < known.reset || (state.reset == known.reset && state.at < known.at) =>
            {
                let read = self.last_reader().map_or(known.at, |reader| reader.position().max(known.at));
                Err(loss(DataLossKind::HistoryCut, state.at.min(read), read))
            }
            (known, Some(state)) => {
                if known.is_some_and(|known| known.reset < state.reset) {
                    // Somebody has begun anew since.
                    self.remember(None);
                }
                self.know(state);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// Reports a loss that a reader cannot go on over by itself, then does as the group wants it: prepares the next
    /// beginning, or halts.
    async fn answer(&self, loss: &DataLoss, at: Option<Box<Reader>>) -> Ended {
        self.report(loss);
        self.remember(None);
        if self.on_data_loss == OnDataLoss::Halt {
            return Ended::Halted { reason: self.loss_reason(loss), keep: true };
        }
        match self.begin_anew(loss.kind, at).await {
            Ok(()) => Ended::Again,
            Err(error) => error.into(),
        }
    }

    /// Moves the checkpoint to where the history of now goes on: behind what was read, where that is still there, to its
    /// beginning where it is not. Where the group's state was cut back with the stream it is the place to go on from: what was
    /// settled above it, dead letters too, is settled no more.
    async fn begin_anew(&self, kind: DataLossKind, at: Option<Box<Reader>>) -> Result<(), BrokerError> {
        let broker = &self.engine.broker;
        let state = broker.state(&self.key).await?;
        let is_cut_back =
            |reader: &Reader, state: &GroupState| kind == DataLossKind::HistoryCut && state.at <= reader.position();
        let to = match (&at, &state) {
            (None, Some(state)) => {
                self.know(state);
                return Ok(());
            }
            (Some(reader), Some(state)) if is_cut_back(reader, state) => {
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
        // By the epoch that was held or refused: whoever was faster has done the same. Of a shared group it grows with everybody
        // who joins, so there the last reset says so.
        let epoch = match (&state, self.known()) {
            (Some(state), Some(known)) if self.key.is_queue() => {
                Some(state.lease.epoch).filter(|_| state.reset == known.reset).or(Some(0))
            }
            (Some(_), known) => known.map(|known| known.epoch),
            (None, _) => None,
        };
        if let Reset::Done { at } = broker.reset(&self.key, epoch, to).await? {
            tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), %at, "going on after the loss from here");
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Says once that events are lost.
    pub(crate) fn report(&self, loss: &DataLoss) {
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
    pub(crate) fn loss_reason(&self, loss: &DataLoss) -> String {
        let (partition, group) = (self.key.partition(), self.key.group());
        let after = |id| self.reset_behind(id);
        let all = format!("Admin::reset(\"{partition}\", \"{group}\", Start::Earliest)");
        let remedy = match loss.kind {
            DataLossKind::TrimmedPast => format!("to go on with what is left call `{all}`"),
            DataLossKind::DeletedUnread => format!("to go on with what is left call `{}`", after(loss.from)),
            DataLossKind::HistoryCut if loss.from == EntryId::ZERO => {
                format!("to handle all that is there call `{all}`")
            }
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
    pub(crate) async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = self.engine.shutdown.stopping() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// From making the group to the end of one ownership.
    async fn once(&self, past: &mut Past) -> Ended {
        let (lease, holding) = match self.stand_by(past).await {
            Ok(held) => held,
            Err(ended) => {
                if let Ended::Failed(error) = &ended {
                    self.contact.failed(Matter::Lease, error);
                }
                return ended;
            }
        };
        self.place.own(&lease);
        past.holder = Some(lease.holder().clone());
        self.contact.succeeded(Matter::Lease);
        self.progress.resume();
        self.owns(holding.epoch);
        let (group, partition, epoch) = (self.key.group(), self.key.partition().as_str(), holding.epoch);
        if std::mem::replace(&mut past.told, true) {
            tracing::debug!(group, partition, epoch, at = %holding.at, "owning again");
        } else {
            tracing::info!(group, partition, epoch, at = %holding.at, why = past.why, "owning");
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

    /// This process owns the partition, or takes part in its work: in trouble for as long as what failed has not succeeded.
    pub(crate) fn owns(&self, epoch: u64) {
        self.progress.enter(match self.contact.trouble() {
            Some(reason) => Phase::Troubled { reason },
            None => Phase::Owning { epoch },
        });
    }

    /// The call that lets the group go on with what stands behind this entry.
    pub(crate) fn reset_behind(&self, id: EntryId) -> String {
        let EntryId { ms, seq } = id.next();
        let (partition, group) = (self.key.partition(), self.key.group());
        format!("Admin::reset(\"{partition}\", \"{group}\", Start::At(EntryId::new({ms}, {seq})))")
    }

    /// Why no event goes on: the dead letters have reached their bounds.
    pub(crate) fn full_reason(&self, bounds: DeadBounds, count: u64, oldest: Option<EntryId>) -> String {
        format!(
            "the dead letters of {} are full: {count} of at most {}, the oldest from {}; at most {} old; look at them and discard some, the group then goes on by itself",
            self.key,
            bounds.count,
            oldest.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            humantime::format_duration(bounds.age)
        )
    }

    pub(crate) fn halted(&self, reason: String) -> Ended {
        Ended::Halted { reason, keep: false }
    }

    /// The group's marker is gone.
    pub(crate) fn vanished(reader: Reader) -> Ended {
        let to = reader.position();
        let loss = DataLoss { kind: DataLossKind::Restarted, from: EntryId::ZERO, to, count: None };
        Ended::Cut { loss, at: Some(Box::new(reader)) }
    }

    /// Reads and handles until the lease is lost or the app stops.
    async fn own(&self, lease: &Lease, holding: Holding, past: &mut Past) -> Ended {
        self.withdraw(&holding.events).await;
        let mut committer = Committer::new(self, lease, &holding);
        let mut ended = self.work(lease, &holding, &mut committer).await;
        if let Ended::Failed(error) = &ended {
            self.contact.failed(Matter::Read, error);
        }
        if matches!(ended, Ended::Lost) {
            // An owner that could not commit must leave the lease to others, however often it could take it again; not
            // so where the server was away for everybody, or told that it does not take commits now.
            let stuck = lease.is_undeserved() || committer.unanswered_since().is_some();
            let nothing_done = !committer.ledger.is_clean() && committer.ledger.at() == holding.at;
            if let Some(since) = committer.unanswered_since().filter(|_| nothing_done) {
                self.contact.silent(Matter::Write, since);
            }
            if nothing_done && stuck && self.engine.outages.answered_within(LATELY.max(self.engine.lease_for / 2)) {
                past.holder = None;
                self.place.excuse();
            }
            return ended;
        }
        let mut needs = match &ended {
            Ended::Needs(need) => Some(need.clone()),
            _ => None,
        };
        match tokio::time::timeout(FAREWELL, committer.finish()).await {
            // A cut that the commit came upon is no reason to doubt the commit.
            Ok(Ok(()) | Err(Ended::Cut { .. })) => {}
            Ok(Err(Ended::Lost)) => return ended.without_lease(),
            Ok(Err(Ended::Needs(need))) => needs = Some(need),
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
        self.prepare(&ended).await;
        if let Some(need) = &needs {
            self.pass(lease, past, need).await;
        }
        let release = self.engine.broker.release(&self.key, lease.holder(), needs.as_ref());
        let released = tokio::time::timeout(FAREWELL, release).await;
        if !matches!(released, Ok(Ok(_))) && matches!(ended, Ended::HandedOver) {
            self.place.keep();
        }
        match released {
            Ok(Ok(held)) => {
                self.progress.disowned(!held);
                if held {
                    let (group, partition) = (self.key.group(), self.key.partition().as_str());
                    tracing::debug!(group, partition, epoch = lease.holder().epoch, "released");
                }
            }
            Ok(Err(error)) => {
                self.left(
                    &ended,
                    &format!("the lease could not be given back ({error}): others take over when it runs out"),
                );
                // It would take its own lease again at once, only to come upon the same event.
                if let Ended::Needs(_) = ended {
                    return error.into();
                }
            }
            Err(_) => self.left(
                &ended,
                "giving the lease back was not answered: others take over when it runs out at the latest",
            ),
        }
        ended
    }

    /// Another process is to own the partition: what is settled is committed, then the lease given back.
    pub(crate) fn hand_over(&self) -> Ended {
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        tracing::info!(
            group,
            partition,
            to = self.place.successor(),
            "handing over: the partition is that of another member now"
        );
        count(&self.progress.counts.handed_over, 1);
        Ended::HandedOver
    }

    /// What others have to know before the lease is given back, so that the right one takes it at once.
    async fn prepare(&self, ended: &Ended) {
        if self.engine.shutdown.is_stopping() {
            self.place.left().await;
        } else if let Ended::Halted { .. } | Ended::Refused(_) = ended {
            self.place.excused().await;
        }
    }

    /// An ownership came to its end and something was left undone. While the server is away or refuses the group that was
    /// to be expected, and is said already.
    pub(crate) fn left(&self, ended: &Ended, undone: &str) {
        self.progress.abandon();
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        if self.engine.outages.trouble().is_some() || matches!(ended, Ended::Refused(_)) {
            tracing::debug!(group, partition, "{undone}");
        } else {
            tracing::warn!(group, partition, "{undone}");
        }
    }
}
