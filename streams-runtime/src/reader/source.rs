//! Where a group gets its entries, in order: from the window of the tail, or by catch-up reads until it is there.
//!
//! [`Bookmark`] judges here whether history is still whole, before anything is handed out.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streams_core::Entry;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Holding, Snapshot};
use streams_core::keys::GroupKey;
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::bookmark::Bookmark;
use super::catchup::{Chunk, Reading};
use super::page::FIRST_COUNT;
use super::tail::{Follower, TAKE, Tails, Taken};
use crate::data_loss::{DataLoss, DataLossKind};
use crate::ops::{Contact, Matter};

/// How often an owner looks whether something was deleted that it has not read: what is deleted alone leaves no other trace.
pub(crate) const CHECK: Duration = Duration::from_secs(10);

/// The end of a read.
#[derive(Debug)]
pub(crate) enum Error {
    /// History was cut. `at` is how far the group had read, of what is still there.
    Cut { loss: DataLoss, at: Box<Bookmark> },
    /// The broker says so.
    Broker(BrokerError),
}

impl From<BrokerError> for Error {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

/// The means by which a group reads.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) broker: &'a Arc<dyn Broker>,
    pub(crate) tails: &'a Tails,
    pub(crate) contact: &'a Contact,
    pub(crate) key: &'a GroupKey,
    pub(crate) max_payload: usize,
}

/// Where a group gets its entries: from the window of the tail, or by catch-up reads until it is there.
pub(crate) struct Source<'a> {
    means: Means<'a>,
    follower: Follower,
    pub(crate) bookmark: Bookmark,
    /// A read that was begun before its entries are needed, and when it was.
    ahead: Option<Ahead>,
    asked: Instant,
    /// When to look for what was deleted.
    check: Pin<Box<Sleep>>,
}

enum Ahead {
    /// With whoever is at the same place.
    Reading(Reading),
    /// For this group alone.
    Look(AbortOnDropHandle<Result<Looked, BrokerError>>),
}

/// The findings of a look.
pub(crate) struct Looked {
    pub(crate) snapshot: Snapshot,
    /// Where history was cut: the last place of the reader that is still there.
    pub(crate) left: Option<Bookmark>,
}

/// What comes next.
#[derive(Default)]
pub(crate) struct Arrived {
    /// In order; none when the position moved over ids that no entry has any more.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The ordinal before the first of them, where it is known.
    pub(crate) seen: Option<u64>,
    /// What is missing before or between them.
    pub(crate) loss: Option<DataLoss>,
}

impl<'a> Source<'a> {
    /// Begins at the checkpoint; `last` is how far this process had read when it last owned the partition.
    pub(crate) async fn open(means: Means<'a>, last: Option<Bookmark>, holding: &Holding) -> Result<Self, Error> {
        let Means { broker, tails, key, max_payload, .. } = means;
        let partition = key.partition();
        if holding.proving.is_some() {
            tails.distrust(partition.as_str(), max_payload);
        }
        if let Some(mut last) = last.filter(|last| last.position() > holding.at) {
            // Entries that this process has read and not committed show a cut that the checkpoint does not.
            let looked = look(&**broker, tails, key, &last, 1, max_payload).await?;
            if let Some(loss) = last.judge(&looked.snapshot, false).filter(|loss| loss.kind == DataLossKind::HistoryCut)
            {
                return Err(cut(loss, looked.left));
            }
        }
        let bookmark = Bookmark::new(holding.at, &holding.at_event, holding.seen);
        // The first look is at the checkpoint: much may have happened since somebody stood there. It brings no more than
        // a lone group that is nearly there needs: what follows is read once for all who begin together.
        let looked = look(&**broker, tails, key, &bookmark, FIRST_COUNT, max_payload).await?;
        // A new window begins at the end: what is before it the group reads for itself, without flooding the window.
        let from = looked.snapshot.extent.map_or(holding.at, |extent| extent.last).max(holding.at);
        Ok(Self {
            means,
            follower: tails.follow(partition.as_str(), holding.at, from, max_payload),
            bookmark,
            ahead: Some(Ahead::Look(AbortOnDropHandle::new(tokio::spawn(async { Ok(looked) })))),
            asked: Instant::now(),
            check: Box::pin(tokio::time::sleep(CHECK)),
        })
    }

    /// The next entries.
    ///
    /// # Cancel safety
    /// Nothing is handed out until it returns, and a read that is on its way is kept.
    pub(crate) async fn next(&mut self) -> Result<Arrived, Error> {
        loop {
            let Some(ahead) = &mut self.ahead else {
                if self.check.deadline() <= Instant::now() {
                    // As many as a group may have before it that keeps up: what is deleted shows when all of them are there.
                    self.look(TAKE);
                    continue;
                }
                tokio::select! {
                    biased;
                    taken = self.follower.wait(self.bookmark.position(), self.bookmark.witness(), TAKE) => match taken {
                        Taken::Entries(entries) => return Ok(self.hand_out(entries)),
                        Taken::Behind { .. } => self.read_ahead(),
                        Taken::Broken(error) => return Err(BrokerError::new(error.kind(), error.to_string()).into()),
                        Taken::Nothing => return Ok(Arrived::default()),
                    },
                    () = &mut self.check => {}
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
                        return Ok(arrived);
                    }
                    // Trimmed past the position, or deleted there, or another history: only a snapshot can tell.
                    self.look(FIRST_COUNT);
                }
            }
        }
    }

    /// After a read that failed: whether history is still whole is asked anew.
    pub(crate) fn look_again(&mut self) {
        self.look(FIRST_COUNT);
    }

    /// Hands out what was read above the position, if the entry there is still the one that was read.
    fn go_on_with(&mut self, chunk: &Chunk) -> Option<Arrived> {
        let from = chunk.from(self.bookmark.position());
        if !self.bookmark.is_at(from.first()) {
            if from.first().is_some_and(|entry| entry.id == self.bookmark.position()) {
                self.follower.forget();
            }
            return None;
        }
        if from.len() == 1 && self.bookmark.position() < chunk.floor {
            // Read after the floor was known, and nothing there: what stood there is gone.
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

    /// Hands out what was read, and begins the next read where there is more.
    fn go_on(&mut self, entries: Vec<Arc<Entry>>, full: bool) -> Arrived {
        let arrived = self.hand_out(entries);
        if full
            && !arrived.entries.is_empty()
            && let Taken::Behind { .. } = self.follower.take(self.bookmark.position(), self.bookmark.witness(), 1)
        {
            // Fetched while these are handled.
            self.read_ahead();
        }
        arrived
    }

    /// Takes a snapshot for what it is: the truth about what is lost, and the next entries.
    fn judge(&mut self, looked: Looked) -> Result<Arrived, Error> {
        let Looked { mut snapshot, left } = looked;
        self.check.as_mut().reset(Instant::now() + CHECK);
        let complete = snapshot.complete;
        let position = self.bookmark.position();
        let loss = self.bookmark.judge(&snapshot, complete);
        if loss.is_some() {
            // What was read before may hold entries that are counted as lost now, or be of another history.
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
            // Whatever the window still has up to here was deleted since, and is counted.
            self.bookmark.pass_nothing(&snapshot);
        }
        if complete && arrived.entries.is_empty() {
            self.follower.is_at_end(self.bookmark.position(), self.bookmark.witness());
        }
        arrived.loss = loss;
        Ok(arrived)
    }

    /// Reads on from the position, which the read includes, so that it can be seen that nothing was trimmed.
    fn read_ahead(&mut self) {
        if self.bookmark.witness().is_none() {
            return self.look(FIRST_COUNT);
        }
        self.asked = Instant::now();
        self.ahead = Some(Ahead::Reading(self.follower.read_on(self.means.key.partition(), self.bookmark.position())));
    }

    /// Takes a snapshot from the position on, with at most so many entries above it.
    fn look(&mut self, most: usize) {
        let Means { broker, tails, key, max_payload, .. } = self.means;
        let (broker, tails, key, bookmark) = (Arc::clone(broker), tails.clone(), key.clone(), self.bookmark.clone());
        let reply = tokio::spawn(async move { look(&*broker, &tails, &key, &bookmark, most, max_payload).await });
        self.asked = Instant::now();
        self.ahead = Some(Ahead::Look(AbortOnDropHandle::new(reply)));
    }
}

/// Takes a snapshot with at most so many entries above the reader's position, when there is room for them.
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

/// History was cut, and this is the last place that is left of it.
pub(crate) fn cut(mut loss: DataLoss, left: Option<Bookmark>) -> Error {
    let left = left.unwrap_or_else(Bookmark::nowhere);
    loss.from = left.position();
    Error::Cut { loss, at: Box::new(left) }
}
