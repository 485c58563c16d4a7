//! The entries of one group, in order: from the tail's window, or by catch-up reads until the group is there.
//!
//! [`Bookmark`] judges here whether history is whole, before the group gets any entry.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streams_core::Entry;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Holding, Snapshot};
use streams_core::keys::GroupKey;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::bookmark::Bookmark;
use super::catchup::{Chunk, Reading};
use super::page::FIRST_COUNT;
use super::tail::{Follower, TAKE, Tails, Taken};
use crate::data_loss::{DataLoss, DataLossKind};
use crate::ops::{Contact, Matter};

/// How often an owner checks for unread entries that were deleted, because a deletion leaves no other trace.
pub(crate) const CHECK: Duration = Duration::from_secs(10);

/// The reason why a read ended.
#[derive(Debug)]
pub(crate) enum Error {
    /// History was cut. `at` is the last place of the group that is still there.
    Cut { loss: DataLoss, at: Box<Bookmark> },
    /// The broker's error.
    Broker(BrokerError),
}

impl From<BrokerError> for Error {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

/// The services that a group reads with.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) broker: &'a Arc<dyn Broker>,
    pub(crate) tails: &'a Tails,
    pub(crate) contact: &'a Contact,
    pub(crate) key: &'a GroupKey,
    pub(crate) max_payload: usize,
}

/// The entries of one group: from the tail's window, or by catch-up reads until the group is there.
pub(crate) struct Source<'a> {
    means: Means<'a>,
    follower: Follower,
    pub(crate) bookmark: Bookmark,
    /// A read that began before its entries were needed, and its start.
    ahead: Option<Ahead>,
    /// Entries to hand out after the read behind them was sent. Kept here, because the wait may be cancelled.
    arrived: Option<Arrived>,
    asked: Instant,
    /// When to check for deleted entries.
    check: Pin<Box<Sleep>>,
}

enum Ahead {
    /// Shared with groups at the same place.
    Reading(Reading),
    /// For this group alone.
    Look(AbortOnDropHandle<Result<Looked, BrokerError>>),
}

/// A snapshot with its place.
pub(crate) struct Looked {
    pub(crate) snapshot: Snapshot,
    /// After a cut: the last place of the reader that is still there.
    pub(crate) left: Option<Bookmark>,
}

/// The next entries of a group.
#[derive(Default)]
pub(crate) struct Arrived {
    /// In order; none when the position moved over ids that no entry has any more.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The ordinal before the first of them, where it is known.
    pub(crate) seen: Option<u64>,
    /// The loss before or between them.
    pub(crate) loss: Option<DataLoss>,
}

impl<'a> Source<'a> {
    /// Begins at the checkpoint; `last` is where this process stopped reading when it last owned the partition.
    pub(crate) async fn open(means: Means<'a>, last: Option<Bookmark>, holding: &Holding) -> Result<Self, Error> {
        let Means { broker, tails, key, max_payload, .. } = means;
        let partition = key.partition();
        if holding.recovery.is_some() {
            tails.distrust(partition.as_str(), max_payload);
        }
        if let Some(mut last) = last.filter(|last| last.position() > holding.at) {
            // Entries that this process has read and not committed show a cut that the checkpoint does not show.
            let looked = look(&**broker, tails, key, &last, 1, max_payload).await?;
            if let Some(loss) = last.judge(&looked.snapshot, false).filter(|loss| loss.kind == DataLossKind::HistoryCut)
            {
                return Err(cut(loss, looked.left));
            }
        }
        Self::at(means, Bookmark::new(holding.at, &holding.at_event, holding.seen)).await
    }

    /// Begins at this place.
    pub(crate) async fn at(means: Means<'a>, bookmark: Bookmark) -> Result<Self, Error> {
        let (Means { broker, tails, key, max_payload, .. }, at) = (means, bookmark.position());
        // The first snapshot is at the checkpoint, because much may have happened since a group read there. It asks for
        // no more than one group near the end needs. Groups that begin together share the read of the rest.
        let looked = look(&**broker, tails, key, &bookmark, FIRST_COUNT, max_payload).await?;
        // A new window begins at the end. The group reads earlier entries by itself, without filling the window.
        let from = looked.snapshot.extent.map_or(at, |extent| extent.last).max(at);
        Ok(Self {
            means,
            follower: tails.follow(key.partition().as_str(), at, from, max_payload),
            bookmark,
            ahead: Some(Ahead::Look(AbortOnDropHandle::new(tokio::spawn(async { Ok(looked) })))),
            arrived: None,
            asked: Instant::now(),
            check: Box::pin(tokio::time::sleep(CHECK)),
        })
    }

    /// The next entries.
    ///
    /// # Cancel safety
    /// It hands out nothing until it returns, and keeps a read that is under way.
    pub(crate) async fn next(&mut self) -> Result<Arrived, Error> {
        loop {
            if let Some(arrived) = self.arrived.take() {
                return Ok(arrived);
            }
            let Some(ahead) = &mut self.ahead else {
                tokio::select! {
                    biased;
                    // As many as a group that keeps up may have before it, because a deletion shows only with all of
                    // them.
                    () = &mut self.check => self.look(TAKE),
                    taken = self.follower.wait(self.bookmark.position(), self.bookmark.witness(), TAKE) => match taken {
                        Taken::Entries(entries) => return Ok(self.hand_out(entries)),
                        Taken::Behind { .. } => self.read_ahead(),
                        Taken::Broken(error) => return Err(BrokerError::new(error.kind(), error.to_string()).into()),
                        Taken::Nothing => return Ok(Arrived::default()),
                    },
                }
                continue;
            };
            match ahead {
                Ahead::Look(reply) => {
                    let looked = self.means.contact.patiently(Matter::Read, self.asked, reply).await;
                    self.ahead = None;
                    let looked = looked.unwrap_or_else(|error| {
                        Err(BrokerError::new(BrokerErrorKind::Indefinite, "a read was aborted").caused_by(error))
                    });
                    return self.judge(looked?);
                }
                Ahead::Reading(reading) => {
                    let chunk = self.means.contact.patiently(Matter::Read, self.asked, reading.chunk()).await;
                    self.ahead = None;
                    if let Some(arrived) = self.go_on_with(&*chunk?) {
                        self.arrived = Some(arrived);
                        // Lets the task of the next read run first, so that the server reads while these are handled. On a
                        // single worker the reply would wait for them, and the server look far.
                        if Handle::current().metrics().num_workers() > 1 {
                            tokio::task::yield_now().await;
                        }
                        continue;
                    }
                    // A trim passed the position, the entry there was deleted, or history is another one: only a
                    // snapshot can say.
                    self.look(FIRST_COUNT);
                }
            }
        }
    }

    /// After a read that failed: checks anew whether history is whole.
    pub(crate) fn look_again(&mut self) {
        self.look(FIRST_COUNT);
    }

    /// Hands out the entries read above the position, if the entry there is still the one that was read.
    fn go_on_with(&mut self, chunk: &Chunk) -> Option<Arrived> {
        let from = chunk.from(self.bookmark.position());
        if !self.bookmark.is_at(from.first()) {
            if from.first().is_some_and(|entry| entry.id == self.bookmark.position()) {
                self.follower.forget();
            }
            return None;
        }
        if from.len() == 1 && self.bookmark.position() < chunk.floor {
            // Read after the floor was known, and no entry is there: the one that was there is gone.
            return None;
        }
        let arrived = self.go_on(from[1..].to_vec(), chunk.full);
        if arrived.entries.is_empty() {
            self.follower.is_at_end(self.bookmark.position(), self.bookmark.witness());
        }
        Some(arrived)
    }

    fn hand_out(&mut self, entries: Vec<Arc<Entry>>) -> Arrived {
        let seen = self.bookmark.seen();
        self.bookmark.pass(&entries);
        Arrived { entries, seen, loss: None }
    }

    /// Hands out the entries read, and begins the next read if there are more.
    fn go_on(&mut self, entries: Vec<Arc<Entry>>, full: bool) -> Arrived {
        let arrived = self.hand_out(entries);
        if full
            && !arrived.entries.is_empty()
            && let Taken::Behind { .. } = self.follower.take(self.bookmark.position(), self.bookmark.witness(), 1)
        {
            // Read while these are handled.
            self.read_ahead();
        }
        arrived
    }

    /// Judges a snapshot for losses, and hands out its entries.
    fn judge(&mut self, looked: Looked) -> Result<Arrived, Error> {
        let Looked { mut snapshot, left } = looked;
        self.check.as_mut().reset(Instant::now() + CHECK);
        let complete = snapshot.complete;
        let position = self.bookmark.position();
        let loss = self.bookmark.judge(&snapshot, complete);
        if loss.is_some() {
            // Entries read before may count as lost now, or be of another history.
            self.follower.forget();
        }
        if let Some(loss) = &loss
            && !loss.kind.is_gap()
        {
            return Err(match loss.kind {
                DataLossKind::HistoryCut => cut(loss.clone(), left),
                _ => Error::Cut { loss: loss.clone(), at: Box::new(self.bookmark.clone()) },
            });
        }
        let mut entries = std::mem::take(&mut snapshot.entries);
        entries.retain(|entry| entry.id > position);
        let mut arrived = self.go_on(entries, !complete);
        if complete {
            // Entries that the window still has up to here were deleted since, and are counted.
            self.bookmark.pass_nothing(&snapshot);
        }
        if complete && arrived.entries.is_empty() {
            self.follower.is_at_end(self.bookmark.position(), self.bookmark.witness());
        }
        arrived.loss = loss;
        Ok(arrived)
    }

    /// Begins to read above the position. The read includes the position, to show that no trim has passed it.
    fn read_ahead(&mut self) {
        if self.bookmark.witness().is_none() {
            return self.look(FIRST_COUNT);
        }
        self.asked = Instant::now();
        self.ahead = Some(Ahead::Reading(self.follower.read_on(self.means.key.partition(), self.bookmark.position())));
    }

    /// Takes a snapshot from the position on, with at most `most` entries above it.
    fn look(&mut self, most: usize) {
        let Means { broker, tails, key, max_payload, .. } = self.means;
        let (broker, tails, key, bookmark) = (Arc::clone(broker), tails.clone(), key.clone(), self.bookmark.clone());
        let reply = tokio::spawn(async move { look(&*broker, &tails, &key, &bookmark, most, max_payload).await });
        self.asked = Instant::now();
        self.ahead = Some(Ahead::Look(AbortOnDropHandle::new(reply)));
    }
}

/// Takes a snapshot with at most `most` entries above the reader's position, once there is room for them.
pub(crate) async fn look(
    broker: &dyn Broker,
    tails: &Tails,
    key: &GroupKey,
    bookmark: &Bookmark,
    most: usize,
    max_payload: usize,
) -> Result<Looked, BrokerError> {
    let (partition, from) = (key.partition(), bookmark.position());
    let (asked, bytes) = tails.look(partition.as_str(), max_payload, most);
    let room = tails.reserve(bytes).await;
    let snapshot = broker.snapshot(key, from, asked.saturating_add(1)).await;
    let above = |snapshot: &Snapshot| snapshot.entries.partition_point(|entry| entry.id <= from);
    let read = snapshot.as_ref().ok().map(|snapshot| &snapshot.entries[above(snapshot)..]);
    tails.learn(partition.as_str(), max_payload, read);
    drop(room);
    let snapshot = snapshot?;
    let loss = bookmark.clone().judge(&snapshot, snapshot.complete);
    if loss.is_some_and(|loss| loss.kind == DataLossKind::HistoryCut) {
        for place in bookmark.earlier() {
            let there = broker.page(partition, place.position(), 1, 0).await?;
            if place.is_at(there.entries.first()) {
                return Ok(Looked { snapshot, left: Some(place) });
            }
        }
    }
    Ok(Looked { snapshot, left: None })
}

/// The error for a history that was cut, with the last place that is left of it.
pub(crate) fn cut(mut loss: DataLoss, left: Option<Bookmark>) -> Error {
    let left = left.unwrap_or_else(Bookmark::nowhere);
    loss.from = left.position();
    Error::Cut { loss, at: Box::new(left) }
}
