//! From entries to settled events, in order: takes each entry up, has its handler called, and settles it; the heart of the runtime.
//!
//! [`Source`] brings the entries. [`attempt`](super::attempt) handles an event or a batch alone, and [`Dispatch`] handles events
//! side by side. Both settle with the [`Owned`] partition, which commits.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use streams_core::broker::{Events, Holding};
use streams_core::{Entry, OnDataLoss};
use tokio::time::Instant;

use super::attempt::{Apart, Begun};
use super::batch::{Gathering, Held, Parts};
use super::dispatch::{Beside, Dispatch};
use super::owned::Owned;
use super::repeats::Repeats;
use crate::clock::after;
use crate::group::{Ended, GroupTask, Halt, Replays, Taker, caught};
use crate::ops::{Matter, Outages, count};
use crate::reader::{Arrived, Source};
use crate::shutdown::FAREWELL;

/// How many event names that no build has declared the owner looks up. The number is bounded because anybody may write any
/// name into a stream.
const MOST_UNHEARD: usize = 100;

/// How many ids of events one call asks about.
const PAGE: usize = 1_000;

/// How long a delivery runs before it yields to others on its thread.
const SLICE: Duration = Duration::from_millis(1);

/// An entry that is not settled at once.
struct More<'a> {
    entry: Arc<Entry>,
    /// The consumer that takes it, where that is known without a look at the server.
    consumer: Option<usize>,
    /// Its first attempt, where that has begun.
    begun: Option<Begun<'a>>,
    /// Whether its consumer has settled an event of its id.
    is_repeat: bool,
}

/// The work of an owner on its partition.
pub(super) struct Delivery {
    /// Dropped with every end except a cut of history: what has only gathered comes again.
    batch: Gathering,
    /// The events that run side by side.
    pub(super) dispatch: Dispatch,
    pub(super) replays: Replays,
    repeats: Repeats,
    /// The events that builds had declared when the owner last looked.
    declared: Events,
    /// The event names that nobody had declared then.
    unheard: BTreeSet<String>,
    /// When to read again after a read that failed, and how many failed in a row.
    read_again: Option<(Instant, u32)>,
    /// When the delivery last yielded to others on its thread.
    yielded: Instant,
}

impl Delivery {
    pub(super) fn new(task: &GroupTask, holding: &Holding) -> Self {
        Self {
            batch: Gathering::default(),
            dispatch: Dispatch::new(task.options.lanes),
            replays: Replays::new(),
            repeats: Repeats::new(task.options.dedupe),
            declared: holding.events.clone(),
            unheard: BTreeSet::new(),
            read_again: None,
            yielded: Instant::now(),
        }
    }

    /// Reads and handles until something ends it, with no handler left running.
    pub(super) async fn run(&mut self, owned: &mut Owned<'_>, holding: &Holding) -> Ended {
        let Err(mut ended) = self.deliver(owned, holding).await;
        if !matches!(ended, Ended::Fenced)
            && let Err(Ended::Fenced) = self.dispatch.finish(owned).await
        {
            ended = ended.without_lease();
        }
        self.dispatch.cancel(owned.lease).await;
        ended
    }

    /// Opens the source where the checkpoint is, and remembers how far it was read.
    async fn deliver(&mut self, owned: &mut Owned<'_>, holding: &Holding) -> Result<Infallible, Ended> {
        let task = owned.task;
        let mut source = tokio::select! {
            biased;
            () = task.services.shutdown.stopping() => return Err(Ended::Stopped),
            () = owned.lease.lost() => return Err(Ended::Fenced),
            opened = Source::open(task.means(), task.history.last_bookmark(), holding) => opened?,
        };
        let ended = self.deliver_from(&mut source, owned).await;
        task.history.remember(Some(source.bookmark));
        ended
    }

    async fn deliver_from(&mut self, source: &mut Source<'_>, owned: &mut Owned<'_>) -> Result<Infallible, Ended> {
        let (task, lease) = (owned.task, owned.lease);
        loop {
            owned.committer.may_go_on()?;
            self.dispatch.advance(owned)?;
            if self.batch.is_empty() && self.dispatch.is_empty() && owned.committer.ledger.is_clean() {
                task.progress.reach(source.bookmark.position());
            }
            let may_start = self.dispatch.may_start(&owned.committer);
            let arrived = tokio::select! {
                biased;
                done = owned.interrupted() => {
                    done?;
                    continue;
                }
                returned = self.dispatch.happens(may_start) => {
                    self.dispatch.returned(owned, returned)?;
                    continue;
                }
                () = self.replays.due(lease) => {
                    self.replay(owned).await?;
                    continue;
                }
                arrived = read(source, self.read_again, &task.services.outages) => arrived,
                () = self.batch.over() => {
                    self.settle_batch(owned).await?;
                    continue;
                }
            };
            self.settle_before_cut(owned, &arrived).await?;
            match arrived {
                Ok(arrived) => self.take_all(owned, arrived).await?,
                Err(ended) => self.put_off_read(owned, source, ended)?,
            }
        }
    }

    /// How many entries are taken up and not settled.
    fn unsettled(&self) -> usize {
        self.batch.len() + self.dispatch.len()
    }

    /// Settles everything that was read before a cut, because the group goes on behind all that was read.
    async fn settle_before_cut(
        &mut self,
        owned: &mut Owned<'_>,
        arrived: &Result<Arrived, Ended>,
    ) -> Result<(), Ended> {
        if !matches!(arrived, Ok(Arrived { loss: Some(_), .. }) | Err(Ended::Cut { .. })) {
            return Ok(());
        }
        self.settle_all(owned).await.map_err(|ended| match (ended, arrived) {
            (Ended::Fenced, Err(Ended::Cut { loss, at })) => {
                Ended::Cut { loss: loss.clone(), at: at.clone() }.without_lease()
            }
            (ended, _) => ended,
        })
    }

    /// Puts the next read off where a read failed while events wait for their next attempt. The read may succeed soon, and
    /// an end would make everything come again that is settled above these events.
    fn put_off_read(&mut self, owned: &Owned<'_>, source: &mut Source<'_>, ended: Ended) -> Result<(), Ended> {
        let Ended::Failed(error) = ended else { return Err(ended) };
        if self.dispatch.is_empty() {
            return Err(Ended::Failed(error));
        }
        let failures = self.read_again.map_or(1, |(_, failures)| failures.saturating_add(1));
        let wait = owned.task.retry_read(error, failures)?;
        self.read_again = Some((after(Instant::now(), wait), failures));
        source.look_again();
        Ok(())
    }

    /// Takes up everything that arrived, and reports a loss that the reader found.
    async fn take_all(&mut self, owned: &mut Owned<'_>, arrived: Arrived) -> Result<(), Ended> {
        let task = owned.task;
        self.read_again = None;
        if task.contact.is_troubled() {
            task.contact.succeeded(Matter::Read);
            if arrived.entries.is_empty() && owned.committer.ledger.is_clean() {
                // Nothing is left of what could not be committed: another process has done it.
                task.contact.succeeded(Matter::Write);
            }
            task.owns(owned.lease.holder().epoch);
        }
        if let Some(loss) = arrived.loss {
            task.report(&loss);
            if task.options.on_data_loss == OnDataLoss::Halt {
                return Err(Ended::Halted { halt: Halt::Loss(loss), keep: true });
            }
        }
        if let Some(seen) = arrived.seen {
            // The count includes what is taken up, which is read but not settled.
            owned.committer.ledger.anchor(seen.saturating_sub(self.unsettled() as u64));
        }
        self.find_repeats(owned, &arrived.entries).await?;
        let mut entries = arrived.entries.into_iter();
        while !entries.as_slice().is_empty() {
            let more = poll_fn(|cx| Poll::Ready(self.settle_at_once(owned, &mut entries, cx))).await?;
            if let Some(more) = more {
                self.take(owned, more).await?;
            }
            // However long the events keep coming.
            if self.replays.is_due(owned.lease) {
                self.replay(owned).await?;
            }
            if task.seat.is_wanted() {
                return Err(owned.hand_over());
            }
            self.yield_now_and_then(owned.now).await;
        }
        Ok(())
    }

    /// Asks the server which of the events that arrived the group has settled before. Nothing of them runs until it answers.
    async fn find_repeats(&mut self, owned: &mut Owned<'_>, arrived: &[Arc<Entry>]) -> Result<(), Ended> {
        let asked = self.repeats.asks(arrived, owned.committer.ledger.at());
        let (task, ids) = (owned.task, asked.iter().map(|(_, id)| id.clone()).collect::<Vec<_>>());
        let (mut failures, mut settled) = (0, Vec::with_capacity(ids.len()));
        for page in ids.chunks(PAGE) {
            settled.extend(loop {
                let look = task.services.broker.remembered(&task.key, page);
                let error = match owned.meanwhile(look).await? {
                    Ok(times) => break times,
                    Err(error) => error,
                };
                failures += 1;
                let wait = task.retry_read(error, failures)?;
                owned.meanwhile(tokio::time::timeout(wait, task.services.outages.over())).await?.ok();
            });
        }
        if failures > 0 {
            task.contact.succeeded(Matter::Read);
        }
        self.repeats.learn(&asked, settled);
        Ok(())
    }

    /// Settles entries while each is an event whose handler ends at once, and nothing else is to be done. Returns an entry that
    /// needs more.
    fn settle_at_once<'a>(
        &mut self,
        owned: &mut Owned<'a>,
        entries: &mut vec::IntoIter<Arc<Entry>>,
        cx: &mut Context<'_>,
    ) -> Result<Option<More<'a>>, Ended> {
        let task = owned.task;
        owned.now = Instant::now();
        for entry in entries {
            let Ok(Taker::Consumer(consumer)) = task.handlers.route(&self.declared, &entry) else {
                return Ok(Some(More { entry, consumer: None, begun: None, is_repeat: false }));
            };
            let is_repeat = self.repeats.takes(&entry);
            let mut more = More { entry, consumer: Some(consumer), begun: None, is_repeat };
            if is_repeat || !self.is_alone(task, consumer) || !owned.may_handle_at_once(more.entry.id) {
                return Ok(Some(more));
            }
            more.begun = owned.handle_at_once(cx, consumer, &more.entry)?;
            if more.begun.is_some() {
                return Ok(Some(more));
            }
            owned.count_storm(false)?;
            let is_long = owned.now - self.yielded > SLICE;
            if is_long || self.replays.is_due(owned.lease) || task.seat.is_wanted() {
                break;
            }
        }
        Ok(None)
    }

    /// Whether an event of this consumer runs by itself, with nothing before it that has only gathered.
    fn is_alone(&self, task: &GroupTask, consumer: usize) -> bool {
        task.options.lanes.running <= 1 && self.batch.is_empty() && task.handlers[consumer].policy.batch.is_none()
    }

    /// Takes up the next entry: it is settled at once, or it gathers, after whatever must be settled before it.
    async fn take<'a>(&mut self, owned: &mut Owned<'a>, more: More<'a>) -> Result<(), Ended> {
        let More { entry, consumer, begun, is_repeat } = more;
        let taker = match consumer {
            Some(_) if is_repeat => {
                count(&owned.task.progress.counts.repeated, 1);
                Taker::Repeated
            }
            Some(consumer) => Taker::Consumer(consumer),
            None => match self.route(owned.task, &entry).await {
                Ok(taker) => taker,
                Err(given_way) => {
                    self.settle_all(owned).await?;
                    return Err(given_way);
                }
            },
        };
        if owned.task.options.lanes.running > 1 {
            let beside = Beside::of(owned, taker, &entry);
            return self.dispatch.take_up(owned, entry, beside).await;
        }
        if !self.batch.is_empty() && !self.batch.admits(taker, &entry) {
            self.settle_batch(owned).await?;
        }
        match taker {
            // An event under recovery runs alone.
            Taker::Consumer(consumer)
                if let Some(limits) = owned.task.handlers[consumer].policy.batch
                    && !owned.committer.recovers(entry.id) =>
            {
                self.batch.add(consumer, limits, entry);
            }
            Taker::Nobody | Taker::Repeated if !self.batch.is_empty() => self.batch.add_between(entry, is_repeat),
            _ => return self.settle_alone(owned, taker, entry, begun).await,
        }
        if self.batch.is_full() {
            self.settle_batch(owned).await?;
        }
        Ok(())
    }

    /// The consumer that takes an entry.
    ///
    /// Before the first event of a name is ignored, the owner looks at what builds have declared. A build declares an event
    /// before it publishes the event, so the look finds a build that handles it. Where the server does not answer, the commit
    /// finds the build, after more was handled.
    async fn route(&mut self, task: &GroupTask, entry: &Entry) -> Result<Taker, Ended> {
        let route = |declared: &Events| task.handlers.route(declared, entry).map_err(Ended::GivenWay);
        let taker = route(&self.declared)?;
        let (Taker::Nobody, Some((name, _))) = (taker, entry.event()) else { return Ok(taker) };
        let is_known = task.handlers.build.ignores(name) || self.unheard.len() >= MOST_UNHEARD;
        if is_known || !self.unheard.insert(name.to_owned()) {
            return Ok(taker);
        }
        let look = task.services.broker.state(&task.key);
        if let Ok(Ok(Some(state))) = tokio::time::timeout(FAREWELL, look).await {
            self.declared = state.events;
        }
        route(&self.declared)
    }

    /// Handles one entry by itself to its end.
    async fn settle_alone<'a>(
        &mut self,
        owned: &mut Owned<'a>,
        taker: Taker,
        entry: Arc<Entry>,
        begun: Option<Begun<'a>>,
    ) -> Result<(), Ended> {
        let (is_event, is_repeat) = (matches!(taker, Taker::Consumer(_)), matches!(taker, Taker::Repeated));
        let held = Held { entry, is_event, is_repeat };
        match owned.handle(taker, std::slice::from_ref(&held), 0, begun).await? {
            Ok(dead) => owned.count_storm(dead),
            Err(_) => Err(owned.task.halted(Halt::LoneBatch { entry: held.entry.id, reason: None })),
        }
    }

    /// Settles what has gathered: as one batch, or in parts where the batch fails as a whole.
    async fn settle_batch(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        let Some((consumer, held)) = self.batch.take() else { return Ok(()) };
        let registration = &owned.task.handlers[consumer].registration;
        let mut parts = Parts::default();
        while let Some((part, tried)) = parts.next(&held) {
            let taker = if part[0].is_event { Taker::Consumer(consumer) } else { Taker::Nobody };
            match owned.handle(taker, part, tried, None).await? {
                Ok(dead) => {
                    parts.settled(part.len());
                    owned.count_storm(dead)?;
                    self.yield_now_and_then(owned.now).await;
                }
                Err(Apart { undecodable, tried }) => {
                    // An event whose decoding panics runs alone, too: then the panic is its own failed attempt.
                    let decodes = |held: &Held| caught(|| Ok(registration.decodes(&held.entry))).unwrap_or(false);
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

    /// Waits until everything that was read is settled.
    async fn settle_all(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        self.dispatch.drain(owned).await?;
        self.settle_batch(owned).await
    }

    /// Yields to others on the thread when this delivery ran for long.
    async fn yield_now_and_then(&mut self, now: Instant) {
        if now - self.yielded > SLICE {
            tokio::task::yield_now().await;
            self.yielded = Instant::now();
        }
    }
}

/// Reads what comes next; after a read that failed not before the moment for the next one, unless an outage ends sooner.
///
/// # Cancel safety
/// It may be dropped and called again.
async fn read(source: &mut Source<'_>, again: Option<(Instant, u32)>, outages: &Outages) -> Result<Arrived, Ended> {
    if let Some((at, _)) = again {
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = outages.over() => {}
        }
    }
    source.next().await.map_err(Ended::from)
}
