//! An ownership of a partition: its task, its lease and its commits in one value, so that nothing is committed without a lease.
//!
//! [`contend`](super::contend) takes the lease, [`deliver`](super::deliver) works with the ownership, and this file gives
//! the lease back.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use streams_core::broker::{Holding, Need};
use streams_core::{Entry, EntryId};
use tokio::time::Instant;

use super::commit::{Committer, End};
use super::give_way::pass;
use super::standby::Standby;
use crate::group::{Attempt, Ended, GroupTask, Halt, Letter, News, Settlement, Standing, standing};
use crate::membership::Lease;
use crate::ops::{Cause, Matter, count};

/// A reachable server answers the tail within this time, also when nothing happens.
const LATELY: Duration = Duration::from_millis(1500);

/// A partition that this process owns.
pub(super) struct Owned<'a> {
    pub(super) task: &'a GroupTask,
    pub(super) lease: &'a Lease,
    pub(super) committer: Committer<'a>,
    /// The last look at the clock. One per event is enough.
    pub(super) now: Instant,
    dead_in_a_row: u32,
    /// The waits for the reasons to end the ownership between two events. They are kept, because to begin and drop them with each
    /// wake-up cost as much as handling a small event.
    reasons: FuturesUnordered<Awaited<'a>>,
}

type Awaited<'a> = Pin<Box<dyn Future<Output = Reason> + Send + Sync + 'a>>;

/// A reason to end the ownership between two events.
#[derive(Clone, Copy)]
enum Reason {
    Stopped,
    Fenced,
    Wanted,
}

impl<'a> Owned<'a> {
    pub(super) fn new(task: &'a GroupTask, lease: &'a Lease, holding: &Holding) -> Self {
        let reasons: [Awaited<'a>; 3] = [
            Box::pin(async { (task.services.shutdown.stopping().await, Reason::Stopped).1 }),
            Box::pin(async { (lease.lost().await, Reason::Fenced).1 }),
            Box::pin(async { (task.seat.wanted().await, Reason::Wanted).1 }),
        ];
        let (committer, reasons) = (Committer::new(task, lease, holding), reasons.into_iter().collect());
        Self { task, lease, committer, now: Instant::now(), dead_in_a_row: 0, reasons }
    }

    /// Waits for a reason to end the ownership between two events, or for one step of the commits.
    ///
    /// # Cancel safety
    /// A commit that was begun goes on.
    pub(super) async fn interrupted(&mut self) -> Result<(), Ended> {
        let reason = tokio::select! {
            biased;
            Some(reason) = self.reasons.next() => reason,
            done = self.committer.progress() => return done,
        };
        // It stays a reason for who asks again.
        self.reasons.push(Box::pin(ready(reason)));
        Err(match reason {
            Reason::Stopped => Ended::Stopped,
            Reason::Fenced => Ended::Fenced,
            Reason::Wanted if self.task.seat.pause().is_some() => Ended::Paused,
            Reason::Wanted => self.hand_over(),
        })
    }

    /// Waits for this, and goes on with commits meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::pin!(wait);
        loop {
            tokio::select! {
                biased;
                done = self.interrupted() => done?,
                over = &mut wait => return Ok(over),
            }
        }
    }

    /// Settles entries: one, or all of a batch. The letter of a dead event is in the commit that passes the event.
    ///
    /// This is the one place that settles for this delivery, and it goes by the order of the stream.
    pub(super) fn settle<'e>(&mut self, ends: impl IntoIterator<Item = End<'e>>, letter: Option<Letter>) {
        self.committer.settle(ends, letter.map(|letter| self.task.written(letter)));
    }

    /// Records a failed attempt, after which there is another.
    pub(super) fn attempt_failed(&mut self, attempt: &Attempt<'_>, after: Duration, reason: &str) {
        self.task.log_failed(attempt, after, reason);
        self.committer.ledger.attempt_failed(attempt.entry.id, attempt.number, reason);
    }

    /// The letter of an event that has taken too many processes down to run again.
    pub(super) fn give_up(&self, consumer: usize, entry: &Arc<Entry>, failed_attempts: u32) -> Option<Letter> {
        let handler = &self.task.handlers[consumer];
        let crashes = self.committer.crashes(entry.id);
        let Standing::GivenUp(reason) = standing(crashes, handler.policy.max_crashes) else { return None };
        let settlement = Settlement::Dead { cause: Cause::Crash, reason };
        // A crash is an attempt that was not recorded as failed.
        let number = failed_attempts + crashes;
        self.task.ended(settlement, &Attempt { consumer: handler.name(), entry, events: 1, number })
    }

    /// Counts dead letters in a row. Many of them are a storm, which comes from an outage rather than from bad events.
    pub(super) fn count_storm(&mut self, dead: bool) -> Result<(), Ended> {
        self.dead_in_a_row = if dead { self.dead_in_a_row + 1 } else { 0 };
        if self.dead_in_a_row < self.task.options.storm {
            return Ok(());
        }
        Err(Ended::Halted { halt: Halt::Storm { dead_in_a_row: self.dead_in_a_row }, keep: true })
    }

    /// Ends the ownership for the successor: the owner commits, then it releases the lease.
    pub(super) fn hand_over(&self) -> Ended {
        let task = self.task;
        let to = task.seat.successor();
        tracing::debug!(
            group = task.key.group(),
            partition = task.key.partition().as_str(),
            to,
            "handing the lease over"
        );
        task.log_news(News::HandingOver { to });
        count(&task.progress.counts.handed_over, 1);
        Ended::GivenUp
    }

    /// Commits what is settled, carries out what the end asks for, and releases the lease. `at` is the checkpoint with
    /// which the ownership began.
    pub(super) async fn give_back(mut self, mut ended: Ended, at: EntryId, standby: &mut Standby) -> Ended {
        let (task, lease) = (self.task, self.lease);
        if matches!(ended, Ended::Fenced) {
            self.judge_loss(at, standby);
            return ended;
        }
        let need = match self.commit_last(&ended).await {
            Ok(need) => need,
            Err(_) => return ended.without_lease(),
        };
        task.acknowledged(self.committer.ledger.at());
        if let Ended::Cut { loss, at } = ended {
            ended = task.answer(&loss, at).await;
        }
        if let Ended::Halted { halt, keep: true } = &ended {
            // The lease is renewed while the group waits, so that no other process runs into the same.
            tokio::select! {
                () = task.halt(halt) => ended = Ended::Restart,
                () = lease.lost() => {}
            }
        }
        // The others have to know this before the release, so that the right one takes the lease at once.
        if task.services.shutdown.is_stopping() {
            task.seat.left().await;
        } else if let Ended::Halted { .. } | Ended::Refused(_) = ended {
            task.seat.excused().await;
        }
        if let Some(need) = &need {
            pass(task, lease, &mut standby.passes, need).await;
        }
        self.release(ended, need.as_ref()).await
    }

    /// Decides whether this process may take a lost lease again as its own.
    ///
    /// An owner that could not commit must leave the lease to others. An outage for every process is no reason for that, and
    /// neither is a server that answered that it takes no commits now.
    fn judge_loss(&self, at: EntryId, standby: &mut Standby) {
        let (task, unanswered) = (self.task, self.committer.unanswered_since());
        if self.committer.ledger.is_clean() || self.committer.ledger.at() != at {
            return;
        }
        if let Some(since) = unanswered {
            task.contact.silent(Matter::Write, since);
        }
        let is_stuck = self.lease.is_undeserved() || unanswered.is_some();
        if is_stuck && task.services.outages.answered_within(LATELY.max(task.services.lease_for / 2)) {
            standby.holder = None;
            task.seat.excuse();
        }
    }

    /// Commits everything that is settled, if the server answers soon. Returns the event for which the lease is released to
    /// another build, and fails when the lease is lost.
    async fn commit_last(&mut self, ended: &Ended) -> Result<Option<Need>, Ended> {
        match (self.task.settled_last(ended, self.committer.finish()).await, ended) {
            (Err(Ended::GivenWay(need)), _) => Ok(Some(need)),
            (Ok(()), Ended::GivenWay(need)) => Ok(Some(need.clone())),
            (finished, _) => finished.map(|()| None),
        }
    }

    /// Releases the lease, with the event for which another build is needed.
    async fn release(&self, ended: Ended, need: Option<&Need>) -> Ended {
        let (task, holder) = (self.task, self.lease.holder());
        let released = task.release(&ended, self.lease, need).await;
        if !matches!(released, Some(Ok(_))) && matches!(ended, Ended::GivenUp) {
            task.seat.keep();
        }
        match released {
            Some(Ok(held)) => {
                task.progress.disowned(!held);
                if held {
                    let (group, partition) = (task.key.group(), task.key.partition().as_str());
                    tracing::debug!(group, partition, epoch = holder.epoch, "released");
                }
                ended
            }
            // This process would take its own lease again at once, only to come upon the same event.
            Some(Err(error)) if matches!(ended, Ended::GivenWay(_)) => error.into(),
            _ => ended,
        }
    }
}
