//! Delivery to every process: each reads a partition by itself, for a copy of data that it keeps up to date.
//!
//! There is no lease, no checkpoint and no dead letter, so nothing of the group is in Redis. A process begins where the group's
//! `start` says, or where a [snapshot](Snapshots) ends. It has caught up when it has handled the entry that was last when it began.

mod place;
mod projection;
mod snapshots;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::Events;
use streams_core::{Entry, EntryId, OnDataLoss, OnFailure, Start};
use tokio::time::Instant;

use self::place::Place;
pub(crate) use self::projection::Projection;
use self::projection::Turn;
pub(crate) use self::snapshots::Saving;
pub use self::snapshots::{SnapshotState, Snapshots};
use crate::clock::millis;
use crate::data_loss::DataLoss;
use crate::group::{Attempt, Decision, Ended, Engine, GroupTask, Halt, Letter, News, Settlement, Taker, decide};
use crate::ops::{Cause, Matter, Phase, count};
use crate::reader::{Arrived, Bookmark, Source};

/// How long a group runs before it yields to others on its thread.
const SLICE: Duration = Duration::from_millis(1);

/// A group on a partition, as this process reads it.
pub(crate) struct Broadcast {
    projection: Arc<Projection>,
    on_failure: OnFailure,
    /// Up to where everything is handled; `None` before the first entry.
    at: Option<Bookmark>,
    /// The last entry when the process began: from there on it has caught up.
    end: EntryId,
}

impl Engine for Broadcast {
    async fn once(&mut self, task: &GroupTask) -> Ended {
        let Err(ended) = self.follow(task).await;
        let ended = match ended {
            Ended::Cut { loss, at } => self.go_on_behind(task, loss, at.map_or_else(Bookmark::nowhere, |at| *at)),
            ended => ended,
        };
        match task.noted(Matter::Read, ended) {
            // Nobody can resume it, so it waits for its process to be started again.
            Ended::Halted { halt, .. } => {
                task.stand_still(&halt);
                task.services.shutdown.stopping().await;
                Ended::Stopped
            }
            ended => ended,
        }
    }

    fn is_over(&mut self) {}

    fn panicked(&mut self) {}
}

impl Broadcast {
    pub(crate) fn new(projection: Arc<Projection>, on_failure: OnFailure) -> Self {
        Self { projection, on_failure, at: None, end: EntryId::ZERO }
    }

    /// Reads and handles until something ends it.
    async fn follow(&mut self, task: &GroupTask) -> Result<Infallible, Ended> {
        let stopping = task.services.shutdown.stopping();
        tokio::select! {
            biased;
            () = stopping => Err(Ended::Stopped),
            ended = self.read(task) => ended,
        }
    }

    async fn read(&mut self, task: &GroupTask) -> Result<Infallible, Ended> {
        let extent = task.services.broker.snapshot(&task.key, EntryId::MAX, 0).await?.extent;
        self.end = extent.map_or(EntryId::ZERO, |extent| extent.last);
        let at = match &self.at {
            Some(at) => at.clone(),
            None => self.begin(task).await?,
        };
        let mut source = Source::at(task.means(), at).await?;
        task.progress.joined();
        loop {
            self.show(task, source.bookmark.position());
            let arrived = source.next().await?;
            if task.contact.is_troubled() {
                task.contact.succeeded(Matter::Read);
            }
            self.handle_all(task, arrived).await?;
            self.at = Some(source.bookmark.clone());
            task.progress.committed(source.bookmark.position(), source.bookmark.seen());
            task.progress.checkpoint(source.bookmark.position());
        }
    }

    /// The place to begin at, which is that of the snapshot where there is one.
    async fn begin(&mut self, task: &GroupTask) -> Result<Bookmark, Ended> {
        let broker = &*task.services.broker;
        let at = match self.projection.place(broker, &task.key).await? {
            Some(place) => place.bookmark(),
            None => {
                let before = match task.options.start {
                    Start::Earliest => EntryId::ZERO,
                    Start::Latest => self.end,
                    Start::At(first) => first.previous(),
                    Start::Ago(age) => EntryId::new(broker.now().await?.saturating_sub(millis(age)), 0).previous(),
                };
                // Beyond the end, the stream would seem to have been cut.
                Bookmark::new(before.min(self.end), "", None).unmarked()
            }
        };
        let (group, partition) = (task.key.group(), task.key.partition().as_str());
        tracing::debug!(group, partition, after = %at.position(), until = %self.end, "catching up");
        self.at = Some(at.clone());
        Ok(at)
    }

    /// Shows in the status whether the process has caught up.
    fn show(&self, task: &GroupTask, position: EntryId) {
        let phase = match task.contact.trouble() {
            Some(reason) => Phase::Retrying(reason),
            None if position >= self.end => Phase::Following,
            None => Phase::CatchingUp,
        };
        let is_following = phase == Phase::Following;
        if task.progress.enter(phase) && is_following {
            task.log_news(News::CaughtUp);
        }
    }

    /// Goes on behind a cut of history: where the last entry is that was read and is still there, or from the beginning.
    fn go_on_behind(&mut self, task: &GroupTask, loss: DataLoss, left: Bookmark) -> Ended {
        task.report(&loss);
        if task.options.on_data_loss == OnDataLoss::Halt {
            return Ended::Halted { halt: Halt::LossOfCopy(loss), keep: false };
        }
        let (group, partition) = (task.key.group(), task.key.partition().as_str());
        tracing::warn!(group, partition, at = %left.position(), "going on after the loss from here; the state of this process keeps what it has of events that are lost: start it again to build the state anew");
        self.at = Some(left.unmarked());
        Ended::Restart
    }

    /// Handles everything that arrived, and reports a loss that the reader found.
    async fn handle_all(&self, task: &GroupTask, arrived: Arrived) -> Result<(), Ended> {
        if let Some(loss) = arrived.loss {
            task.report(&loss);
            if task.options.on_data_loss == OnDataLoss::Halt {
                return Err(Ended::Halted { halt: Halt::LossOfCopy(loss), keep: false });
            }
        }
        let (mut turn, mut yielded) = (self.projection.turn().await, Instant::now());
        for (index, entry) in arrived.entries.iter().enumerate() {
            let mut number = 1;
            while let Some(wait) = self.attempt(task, entry, number).await? {
                number += 1;
                // Others go on meanwhile. A snapshot of now ends before this entry.
                let last = index.checked_sub(1).map(|before| &*arrived.entries[before]);
                note(&mut turn, task, last, arrived.seen.map(|seen| seen + index as u64));
                drop(turn);
                tokio::time::sleep(wait).await;
                turn = self.projection.turn().await;
            }
            if yielded.elapsed() > SLICE {
                tokio::task::yield_now().await;
                yielded = Instant::now();
            }
        }
        let handled = arrived.entries.len() as u64;
        note(&mut turn, task, arrived.entries.last().map(|entry| &**entry), arrived.seen.map(|seen| seen + handled));
        Ok(())
    }

    /// Makes one attempt at an entry. Returns how long to wait before the next one, where one is due.
    async fn attempt(&self, task: &GroupTask, entry: &Arc<Entry>, number: u32) -> Result<Option<Duration>, Ended> {
        task.progress.begins(entry.id);
        let consumer = match task.handlers.route(&Events::default(), entry) {
            Ok(Taker::Consumer(consumer)) => consumer,
            Ok(Taker::Nobody | Taker::Repeated) => {
                count(&task.progress.counts.passed_over, 1);
                return Ok(None);
            }
            Ok(Taker::Unnamed) => {
                let letter = task.without_taker(Taker::Unnamed, entry);
                return self.give_up(task, letter);
            }
            Err(need) => {
                let reason = format!("this build cannot read version {} of `{}`", need.version, need.name);
                let settlement = Settlement::Dead { cause: Cause::Decode, reason };
                let letter = task.ended(settlement, &Attempt { consumer: "", entry, events: 1, number });
                return self.give_up(task, letter);
            }
        };
        let result = tokio::select! {
            biased;
            result = task.handlers.invoke(consumer, Arc::clone(entry), number) => result,
            () = task.services.shutdown.cutting() => return Err(Ended::Stopped),
        };
        let handler = &task.handlers[consumer];
        let attempt = Attempt { consumer: handler.name(), entry, events: 1, number };
        match decide(result, number, &handler.policy, || task.services.random.fraction()) {
            Decision::Settle(settlement) => {
                let letter = task.ended(settlement, &attempt);
                self.give_up(task, letter)
            }
            Decision::Retry { after, reason } => {
                task.log_failed(&attempt, after, &reason);
                Ok(Some(after))
            }
            Decision::Apart { reason, .. } => {
                Err(task.halted(Halt::LoneBatch { entry: entry.id, reason: Some(reason) }))
            }
        }
    }

    /// Passes an event over that has failed for good, or stops the app.
    fn give_up(&self, task: &GroupTask, letter: Option<Letter>) -> Result<Option<Duration>, Ended> {
        let Some(letter) = letter else { return Ok(None) };
        task.passed_over(letter);
        match self.on_failure {
            OnFailure::Skip => Ok(None),
            OnFailure::Stop => {
                let (group, partition) = (task.key.group(), task.key.partition().as_str());
                tracing::error!(group, partition, "stopping the app: `on_failure = \"stop\"`");
                task.services.shutdown.fail();
                Err(Ended::Stopped)
            }
        }
    }
}

/// Notes that the copy holds everything up to this entry.
fn note(turn: &mut Turn, task: &GroupTask, last: Option<&Entry>, seen: Option<u64>) {
    if let (Some(places), Some(last)) = (turn, last) {
        places.insert(task.key.partition().as_str().to_owned(), Place::of(last, seen));
    }
}
