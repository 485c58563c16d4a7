//! A group on a partition, in order: take the lease, read, call the handler, settle, commit; the heart of the runtime.
//!
//! [`settle`](crate::settle) decides what an outcome means and [`checkpoint`](crate::checkpoint) when to commit;
//! this file carries both out. [`tail`](crate::tail) brings what is new, [`lease`](crate::lease) says who may.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use streams_core::broker::{
    Acquired, Broker, BrokerError, BrokerErrorKind, Claim, Commit, Committed, Created, DeadBounds, Fields, Holder,
    Holding,
};
use streams_core::keys::GroupKey;
use streams_core::{Checkpoint, Context, Entry, EntryId, Failure, Outcome, Registration, Scope, Start};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::checkpoint::{Due, Ledger};
use crate::clock::{after, millis};
use crate::dead_letter;
use crate::lease::{Lease, Leases, Verdict, Watch};
use crate::random::Random;
use crate::settle::{self, Decision, Settlement, decide};
use crate::shutdown::{FAREWELL, Shutdown};
use crate::status::{Phase, Progress, count};
use crate::tail::{Count, Follower, Tails, Taken};

/// How long to wait between attempts after an error of the server, at most.
const RETRY: Duration = Duration::from_secs(1);
/// How often a halted partition says so again.
const REMINDER: Duration = Duration::from_secs(60);
/// How often a commit that found the dead letters full is tried again: an operator may have made room.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// How often a contender looks at a lease at least; the lease's length / 10 when that is shorter.
const LOOK: Duration = Duration::from_secs(1);
/// How long a group runs before it lets others on its thread have a turn.
const TURN: Duration = Duration::from_millis(1);
/// How many entries a group takes from a window at once.
const TAKE: usize = 256;
/// What a ring of the bell may weigh; the tail bounds its replies by it.
const BELL_BYTES: usize = 1_024;

/// What all groups of an app share.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) random: Arc<Random>,
    pub(crate) tails: Tails,
    pub(crate) leases: Leases,
    pub(crate) shutdown: Shutdown,
    pub(crate) lease_for: Duration,
}

/// One consumer of the group.
pub(crate) struct Handler {
    pub(crate) registration: Registration,
    pub(crate) policy: settle::Policy,
    pub(crate) scope: Arc<Scope>,
}

/// A group on a partition.
pub(crate) struct Group {
    pub(crate) engine: Engine,
    pub(crate) key: GroupKey,
    pub(crate) handlers: Vec<Handler>,
    pub(crate) start: Start,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) dead_bounds: DeadBounds,
    pub(crate) storm: u32,
    pub(crate) max_payload: usize,
    pub(crate) progress: Arc<Progress>,
}

/// What a group's task remembers from one ownership to the next.
#[derive(Default)]
struct Past {
    /// The group's state was there.
    seen: bool,
    /// The last holding of the lease, if it came to anything.
    holder: Option<Holder>,
}

/// Why a group's work came to an end.
#[derive(Debug)]
enum Ended {
    /// The app stops.
    Stopped,
    /// Somebody else may own the partition now.
    Lost,
    /// The server could not be used.
    Failed(BrokerError),
    /// Nothing may go on until somebody does something. The lease is kept where others would only run into the same.
    Halted { reason: String, keep: bool },
}

impl From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        if error.is_retryable() || error.is_indefinite() {
            Self::Failed(error)
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
                Ended::Lost => {
                    tracing::warn!(
                        group = self.key.group(),
                        partition = self.key.partition().as_str(),
                        "the lease is lost: it was not renewed in time, or another process has taken it"
                    );
                }
                Ended::Failed(error) => {
                    failures = if began.elapsed() > REMINDER { 1 } else { failures.saturating_add(1) };
                    if self.progress.enter(Phase::Troubled { reason: error.to_string() }) {
                        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), %error, "the broker cannot be used; trying again until it can");
                    }
                    let wait = RETRY.min(Duration::from_millis(20) * 2_u32.saturating_pow(failures.min(10)));
                    self.pause(wait.mul_f64(1.0 - self.engine.random.fraction() / 2.0)).await;
                }
                Ended::Halted { reason, .. } => {
                    self.halt(reason).await;
                    break;
                }
            }
            if self.engine.shutdown.is_stopping() {
                break;
            }
        }
        self.progress.enter(Phase::Stopped);
    }

    /// Says that the group is halted, again and again, until the app stops.
    async fn halt(&self, reason: String) {
        self.progress.enter(Phase::Halted { reason: reason.clone() });
        while !self.engine.shutdown.is_stopping() {
            tracing::error!(
                group = self.key.group(),
                partition = self.key.partition().as_str(),
                reason,
                "halted: no event is handled until this is mended and the program started again"
            );
            self.pause(REMINDER).await;
        }
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
        if self.progress.enter(Phase::Owning { epoch: holding.epoch }) {
            tracing::info!(group = self.key.group(), partition = self.key.partition().as_str(), epoch = holding.epoch, at = %holding.at, "owning");
        }
        self.progress.checkpoint(holding.at);
        self.own(&lease, holding, past).await
    }

    /// Makes the group where it is new, then waits until its lease is ours.
    async fn stand_by(&self, past: &mut Past) -> Result<(Lease, Holding), Ended> {
        let broker = &self.engine.broker;
        let (mut watch, mut bell) = (Watch::default(), None);
        let mut exists = past.seen;
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
                if past.seen {
                    // Made anew it would begin at its `start`, perhaps beyond events that nobody has handled.
                    return Err(self.halted(format!(
                        "{} had a checkpoint and has none any more: the server was flushed, came back without its data, or `{}` was deleted, so events may be lost; start the program again to make the group anew at its `start`",
                        self.key, self.key.state()
                    )));
                }
                exists = false;
                continue;
            };
            past.seen = true;
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
                        refused => return Err(self.halted(self.refusal(&refused))),
                    }
                }
            };
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
                let follower = self.engine.tails.follow(&self.key.partition().bell(), EntryId::ZERO, BELL_BYTES);
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
            match bell.wait(*position, TAKE).await {
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

    fn halted(&self, reason: String) -> Ended {
        Ended::Halted { reason, keep: false }
    }

    /// Why the lease cannot be taken, with what an operator can do.
    fn refusal(&self, refused: &Acquired) -> String {
        let (key, partition, group, state) = (&self.key, self.key.partition(), self.key.group(), self.key.state());
        match refused {
            Acquired::Vanished { at } => format!(
                "{key} is gone but its checkpoint {at} is left: the stream was deleted or the group destroyed, so events may be lost; to go on from the checkpoint run `XGROUP CREATE {partition} {group} {at} MKSTREAM`, to begin anew run `DEL {state}`"
            ),
            Acquired::Ahead { at, last } => format!(
                "{key} has settled up to {at}, but the stream ends at {last}: its history was cut back or restarted, so events may be lost; to handle what the stream holds now run `DEL {state}` and `XGROUP DESTROY {partition} {group}`"
            ),
            Acquired::Mode(mode) => format!(
                "{key} is used in `{mode}` delivery, and the two never mix under one name; choose another group name"
            ),
            other => format!("{key}: unexpected answer {other:?} to a claim of the lease"),
        }
    }

    /// Reads and handles until the lease is lost or the app stops.
    async fn own(&self, lease: &Lease, holding: Holding, past: &mut Past) -> Ended {
        let mut committer = Committer::new(self, lease, &holding);
        let ended = self.work(lease, holding.at, &mut committer).await;
        let keep = match &ended {
            Ended::Lost => {
                // An owner that could not commit must leave the lease to others, however often it could take it again.
                if !committer.ledger.is_clean() && committer.ledger.at() == holding.at {
                    past.holder = None;
                }
                return ended;
            }
            Ended::Halted { keep, .. } => *keep,
            Ended::Stopped | Ended::Failed(_) => false,
        };
        match tokio::time::timeout(FAREWELL, committer.finish()).await {
            Ok(Ok(())) => {}
            Ok(Err(Ended::Lost)) => return Ended::Lost,
            Ok(Err(failed)) => {
                self.progress.abandon();
                tracing::warn!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    ?failed,
                    "the last commit failed: events since the checkpoint will come again"
                );
            }
            Err(_) => {
                self.progress.abandon();
                tracing::warn!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    "the last commit was not answered: events since the checkpoint may come again"
                );
            }
        }
        self.progress.checkpoint(committer.ledger.at());
        if keep && let Ended::Halted { reason, .. } = &ended {
            // Renewed while it waits, so that no other process runs into the same.
            tokio::select! {
                () = self.halt(reason.clone()) => {}
                () = lease.lost() => {}
            }
        }
        match tokio::time::timeout(FAREWELL, self.engine.broker.release(&self.key, lease.holder())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                self.progress.abandon();
                tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), %error, "the lease could not be given back: others take over when it runs out");
            }
            Err(_) => {
                self.progress.abandon();
                tracing::warn!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    "giving the lease back was not answered: others take over when it runs out at the latest"
                );
            }
        }
        ended
    }

    async fn work(&self, lease: &Lease, at: EntryId, committer: &mut Committer<'_>) -> Ended {
        let mut source = match Source::open(self, at).await {
            Ok(source) => source,
            Err(error) => return error.into(),
        };
        let mut turn = Instant::now();
        let mut dead_in_a_row = 0;
        loop {
            if committer.ledger.is_clean() {
                self.progress.reach(source.position);
            }
            let entries = tokio::select! {
                biased;
                () = self.engine.shutdown.stopping() => return Ended::Stopped,
                () = lease.lost() => return Ended::Lost,
                done = committer.progress() => match done {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                entries = source.next() => match entries {
                    Ok(entries) => entries,
                    Err(error) => return error.into(),
                },
            };
            for entry in entries {
                match self.settle(lease, committer, &entry).await {
                    Ok(dead) => dead_in_a_row = if dead { dead_in_a_row + 1 } else { 0 },
                    Err(ended) => return ended,
                }
                if dead_in_a_row >= self.storm {
                    let reason = format!(
                        "{} put {dead_in_a_row} events in a row into its dead letters: that looks like an outage, not like bad events; mend the cause and start again",
                        self.key
                    );
                    return Ended::Halted { reason, keep: true };
                }
                if turn.elapsed() > TURN {
                    tokio::task::yield_now().await;
                    turn = Instant::now();
                }
            }
        }
    }

    /// Ends one event's business with the group; answers whether it became a dead letter.
    ///
    /// This is the one place that settles.
    async fn settle(&self, lease: &Lease, committer: &mut Committer<'_>, entry: &Arc<Entry>) -> Result<bool, Ended> {
        committer.make_room().await?;
        if self.engine.shutdown.is_stopping() {
            return Err(Ended::Stopped);
        }
        let counts = &self.progress.counts;
        let (settlement, consumer) = match entry.event() {
            None => {
                let reason = "the field `event` is missing or is not `Name@version`".to_owned();
                (Settlement::Dead { cause: settle::Cause::Decode, reason }, "")
            }
            Some((name, _)) => {
                match self.handlers.iter().find(|handler| handler.registration.info.event.name == name) {
                    Some(handler) => {
                        (self.attempts(lease, committer, handler, entry).await?, handler.registration.info.name)
                    }
                    None => {
                        count(&counts.passed_over);
                        committer.settle(entry, None);
                        return Ok(false);
                    }
                }
            }
        };
        match settlement {
            Settlement::Done => {
                count(&counts.done);
                committer.settle(entry, None);
            }
            Settlement::Skipped { reason } => {
                count(&counts.skipped);
                tracing::debug!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, reason, "skipped");
                committer.settle(entry, None);
            }
            Settlement::Dead { cause, reason } => {
                let attempts = committer.ledger.failed_attempts(entry.id) + 1;
                tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), consumer, attempts, cause = cause.as_str(), reason, "dead letter");
                let letter = dead_letter::fields(&self.key, consumer, entry, cause, &reason, attempts);
                committer.settle(entry, Some(letter));
                // The letter is in the commit that passes the event: nothing runs beyond it before that is known.
                // That may be never, when there is no room for it, and a stop must not wait for an operator.
                tokio::select! {
                    biased;
                    done = committer.finish() => done?,
                    () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                }
                count(&counts.dead_lettered);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Calls the handler until it is clear what becomes of the event.
    async fn attempts(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        handler: &Handler,
        entry: &Arc<Entry>,
    ) -> Result<Settlement, Ended> {
        loop {
            let attempt = committer.ledger.failed_attempts(entry.id) + 1;
            let ctx = Context::new(Arc::clone(&handler.scope), Arc::clone(entry), attempt);
            let result = self.attempt(lease, committer, handler, ctx).await?;
            match decide(result, attempt, &handler.policy, || self.engine.random.fraction()) {
                Decision::Settle(settlement) => return Ok(settlement),
                Decision::Halt { reason } => {
                    return Err(self.halted(format!(
                        "{}: entry {}: {reason}; or remove the entry with `XDEL {} {}` if it should not be there",
                        self.key,
                        entry.id,
                        self.key.partition(),
                        entry.id
                    )));
                }
                Decision::Retry { after, reason } => {
                    count(&self.progress.counts.retried);
                    let wait = humantime::format_duration(Duration::from_millis(millis(after)));
                    tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), consumer = handler.registration.info.name, attempt, reason, "attempt failed; trying again in {wait}");
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
        let mut call = Caught { call: Some(handler.registration.call(ctx)) };
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

/// Where a group gets its entries: from the window of the tail, or by reading for itself until it is there.
struct Source<'a> {
    group: &'a Group,
    follower: Follower,
    /// The last entry handed out, or an id below which nothing is left.
    position: EntryId,
    count: Count,
    /// A read that was begun before its entries are needed; `floor` is the window's floor at that time.
    ahead: Option<Ahead>,
}

struct Ahead {
    reply: JoinHandle<Result<Vec<Arc<Entry>>, BrokerError>>,
    floor: EntryId,
}

impl<'a> Source<'a> {
    async fn open(group: &'a Group, at: EntryId) -> Result<Self, BrokerError> {
        let partition = group.key.partition();
        // A new window begins at the end: what is before it the group reads for itself, without flooding the window.
        let last = group.engine.broker.extent(partition).await?.map_or(at, |extent| extent.last);
        let follower = group.engine.tails.follow(partition.as_str(), last.max(at), group.max_payload);
        Ok(Self { group, follower, position: at, count: Count::new(group.max_payload, 1), ahead: None })
    }

    /// The next entries, in order; empty when the position moved over ids that no entry has any more.
    ///
    /// # Cancel safety
    /// Nothing is handed out until it returns, and a read that is on its way is kept.
    async fn next(&mut self) -> Result<Vec<Arc<Entry>>, BrokerError> {
        if self.ahead.is_none() {
            match self.follower.wait(self.position, TAKE).await {
                Taken::Entries(entries) => {
                    self.position = entries.last().map_or(self.position, |entry| entry.id);
                    return Ok(entries);
                }
                Taken::Behind { floor } => self.read_ahead(self.position, floor),
                Taken::Broken(error) => return Err(BrokerError::new(error.kind(), error.to_string())),
                Taken::Nothing => return Ok(Vec::new()),
            }
        }
        let Some(ahead) = &mut self.ahead else { return Ok(Vec::new()) };
        let floor = ahead.floor;
        let reply = (&mut ahead.reply).await;
        self.ahead = None;
        let entries = match reply {
            Ok(entries) => entries?,
            Err(error) => {
                return Err(BrokerError::new(BrokerErrorKind::Indefinite, "a read was aborted").caused_by(error));
            }
        };
        match entries.last() {
            // Read after the floor was known, and nothing there: no entry up to the floor is left.
            None => self.position = self.position.max(floor),
            Some(last) => {
                self.position = last.id;
                let asked = self.count.get();
                self.count.saw(&entries);
                // A full reply says that there is more: it is fetched while these are handled.
                if entries.len() >= asked
                    && let Taken::Behind { floor } = self.follower.take(self.position, 1)
                {
                    self.read_ahead(self.position, floor);
                }
            }
        }
        Ok(entries)
    }

    fn read_ahead(&mut self, after: EntryId, floor: EntryId) {
        let (broker, partition) = (Arc::clone(&self.group.engine.broker), self.group.key.partition().clone());
        let count = self.count.get();
        let reply = tokio::spawn(async move { broker.read(&partition, after, count).await });
        self.ahead = Some(Ahead { reply, floor });
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.reply.abort();
        }
    }
}

/// Carries out what the [`Ledger`] says is due: at most one commit is on its way.
struct Committer<'a> {
    group: &'a Group,
    lease: &'a Lease,
    ledger: Ledger,
    flying: Option<Flying>,
    /// Why the server refuses commits: no other is sent.
    refused: Option<String>,
    /// A recent moment: when the last handler began. Looking at the clock once an event is enough.
    now: Instant,
}

struct Flying {
    commit: Arc<Commit>,
    reply: JoinHandle<Result<Committed, BrokerError>>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl<'a> Committer<'a> {
    fn new(group: &'a Group, lease: &'a Lease, holding: &Holding) -> Self {
        let ledger =
            Ledger::new(group.checkpoint, group.dead_bounds, holding.at, holding.seen, holding.attempts.clone());
        Self { group, lease, ledger, flying: None, refused: None, now: Instant::now() }
    }

    /// An event is settled; a commit starts when one is due.
    fn settle(&mut self, entry: &Entry, dead: Option<Fields>) {
        self.ledger.settle(entry.id, entry.given_id().unwrap_or_default(), dead, self.now);
        if self.flying.is_none() && self.ledger.is_due(self.now) {
            self.start();
        }
    }

    /// Waits until another event may start beyond the acknowledged checkpoint; after a stop none may.
    async fn make_room(&mut self) -> Result<(), Ended> {
        // Without waiting where the answer is there already.
        if self.flying.as_ref().is_some_and(|flying| flying.retry_at.is_none() && flying.reply.is_finished()) {
            self.progress().await?;
        }
        while !self.ledger.has_room() {
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Lost),
                () = self.group.engine.shutdown.stopping() => return Err(Ended::Stopped),
                done = self.progress() => done?,
            }
        }
        Ok(())
    }

    /// Commits everything that is settled.
    async fn finish(&mut self) -> Result<(), Ended> {
        while !self.ledger.is_clean() {
            if let Some(reason) = &self.refused {
                return Err(self.group.halted(reason.clone()));
            }
            if self.flying.is_none() {
                self.start();
            }
            tokio::select! {
                biased;
                () = self.lease.lost() => return Err(Ended::Lost),
                done = self.progress() => done?,
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        let now = Instant::now();
        let commit = Arc::new(self.ledger.take(self.lease.holder(), now));
        self.lease.commit_begins(now);
        let reply = self.send(&commit);
        self.flying = Some(Flying { commit, reply, failures: 0, retry_at: None });
    }

    fn send(&self, commit: &Arc<Commit>) -> JoinHandle<Result<Committed, BrokerError>> {
        let (broker, key, commit) = (Arc::clone(&self.group.engine.broker), self.group.key.clone(), Arc::clone(commit));
        tokio::spawn(async move { broker.commit(&key, &commit).await })
    }

    /// One step: waits for the commit on its way, or for the next to be due and starts it.
    ///
    /// # Cancel safety
    /// What was begun goes on.
    async fn progress(&mut self) -> Result<(), Ended> {
        let Some(flying) = &mut self.flying else {
            match self.ledger.due_at() {
                Some(Due::Now) => {}
                Some(Due::At(at)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
            self.start();
            return Ok(());
        };
        if let Some(at) = flying.retry_at {
            tokio::time::sleep_until(at).await;
            flying.retry_at = None;
            let commit = Arc::clone(&flying.commit);
            let reply = self.send(&commit);
            if let Some(flying) = &mut self.flying {
                flying.reply = reply;
            }
            return Ok(());
        }
        let reply = match (&mut flying.reply).await {
            Ok(reply) => reply,
            Err(error) => Err(BrokerError::new(BrokerErrorKind::Indefinite, "a commit was aborted").caused_by(error)),
        };
        self.absorb(reply)
    }

    /// Takes up the server's answer. A commit without one is sent again as it is: the script knows whether it was done.
    fn absorb(&mut self, reply: Result<Committed, BrokerError>) -> Result<(), Ended> {
        let Some(flying) = &mut self.flying else { return Ok(()) };
        let (group, progress) = (self.group, &self.group.progress);
        let wait = match reply {
            Ok(done @ (Committed::Done | Committed::Vanished)) => {
                self.lease.commit_ended();
                self.ledger.acknowledged(&flying.commit);
                self.flying = None;
                progress.checkpoint(self.ledger.at());
                progress.enter(Phase::Owning { epoch: self.lease.holder().epoch });
                return match done {
                    Committed::Vanished => {
                        Err(group.halted(group.refusal(&Acquired::Vanished { at: self.ledger.at() })))
                    }
                    _ => Ok(()),
                };
            }
            Ok(Committed::Fenced) => return Err(Ended::Lost),
            Ok(Committed::Conflict { at }) => {
                tracing::warn!(group = group.key.group(), partition = group.key.partition().as_str(), expected = %flying.commit.prev, found = %at, "somebody moved the checkpoint by hand; reading it again");
                return Err(Ended::Lost);
            }
            Ok(Committed::DeadLettersFull { count, oldest }) => {
                // Answered: the owner is well, it is the operator who is awaited.
                self.lease.commit_ended();
                let bounds = flying.commit.dead_bounds;
                let reason = format!(
                    "the dead letters of {} are full: {count} of at most {}, the oldest from {}; at most {} old; look at them and discard some, the group then goes on by itself",
                    group.key,
                    bounds.count,
                    oldest.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                    humantime::format_duration(bounds.age)
                );
                if progress.enter(Phase::Halted { reason: reason.clone() }) {
                    tracing::error!(
                        group = group.key.group(),
                        partition = group.key.partition().as_str(),
                        reason,
                        "halted"
                    );
                }
                FULL_RETRY
            }
            Err(error) if error.is_retryable() || error.is_indefinite() => {
                if progress.enter(Phase::Troubled { reason: error.to_string() }) {
                    tracing::warn!(group = group.key.group(), partition = group.key.partition().as_str(), %error, "a commit failed; trying again while the lease lasts");
                }
                if error.kind() == BrokerErrorKind::Full {
                    self.lease.commit_ended();
                }
                flying.failures = flying.failures.saturating_add(1);
                RETRY.min(Duration::from_millis(20) * 2_u32.saturating_pow(flying.failures.min(10)))
            }
            Err(error) => {
                // Its answer was taken, so it must not be waited for again.
                self.flying = None;
                return Err(group.halted(self.refused.insert(error.to_string()).clone()));
            }
        };
        flying.retry_at = Some(Instant::now() + wait.mul_f64(1.0 - group.engine.random.fraction() / 2.0));
        Ok(())
    }
}
