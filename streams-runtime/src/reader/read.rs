//! The events of a stream for a tool, a test or a back-fill: without a group, and without a trace at the server.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::{Stream, StreamExt, stream};
use streams_core::broker::{Broker, BrokerError, Tail};
use streams_core::codec::{self, DecodeError};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_core::{Entry, EntryId, Message, Start, StreamEvent};

use crate::backoff::{OUTAGE_BACKOFF, wait};
use crate::clock::millis;

/// How many bytes of entries a reader holds, over all partitions; an entry that is larger alone is held beside them.
const HELD: usize = 4 * 1024 * 1024;
/// The most bytes of one page, which is what a server reads in a millisecond, and the most entries.
const PAGE_BYTES: usize = 256 * 1024;
const PAGE: usize = 1_000;
/// How long a reader that follows waits for entries in one call.
const WAIT: Duration = Duration::from_secs(5);

/// The events of one type in a stream, as a [`futures` stream](Stream), from
/// [`Running::read`](crate::Running::read) or [`Running::follow`](crate::Running::follow).
///
/// Events of one partition come in order. Those of several partitions come by their entry ids, as far as they are there.
///
/// Dropping it ends the reading. An event is lost to a caller only where the caller drops what `next` has returned.
#[must_use = "nothing is read until it is polled"]
pub struct Read<E> {
    items: Pin<Box<dyn Stream<Item = Result<Message<E>, ReadError>> + Send>>,
}

impl<E> fmt::Debug for Read<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Read")
    }
}

impl<E> Stream for Read<E> {
    type Item = Result<Message<E>, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(cx)
    }
}

/// An entry that cannot be decoded, or a broker that cannot be asked, from a [`Read`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The broker cannot be asked. Where a later call may succeed the next poll asks again, after a pause of a second at
    /// most, and no event is left out. After any other error the reading is over.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// An entry cannot be decoded; the next poll goes on behind it.
    #[error("entry {} of `{partition}`: {error}", .entry.id)]
    Undecodable {
        /// The partition's key.
        partition: String,
        /// The entry, with its bytes.
        entry: Arc<Entry>,
        /// The reason.
        #[source]
        error: Box<DecodeError>,
    },
}

impl<E: StreamEvent> Read<E> {
    pub(crate) fn new(broker: Arc<dyn Broker>, stream: StreamKey, from: Start, follows: bool) -> Self {
        let reader = Reader::<E> {
            broker,
            stream,
            from,
            follows,
            places: None,
            tail: None,
            failures: 0,
            is_over: false,
            event: PhantomData,
        };
        // A caller may poll once more behind the end.
        Self { items: Box::pin(stream::unfold(reader, Reader::step).fuse()) }
    }
}

/// The state of a [`Read`].
struct Reader<E> {
    broker: Arc<dyn Broker>,
    /// The stream, with the partitions that the event declares.
    stream: StreamKey,
    from: Start,
    /// Whether it waits for further entries at the end.
    follows: bool,
    /// The partitions, once it has begun.
    places: Option<Vec<Place>>,
    tail: Option<Box<dyn Tail>>,
    /// How many calls have failed in a row.
    failures: u32,
    is_over: bool,
    event: PhantomData<fn() -> E>,
}

/// How far a partition is read.
struct Place {
    key: PartitionKey,
    read: EntryId,
    /// Nothing is looked for above it.
    until: EntryId,
    held: VecDeque<Arc<Entry>>,
}

impl<E: StreamEvent> Reader<E> {
    async fn step(mut self) -> Option<(Result<Message<E>, ReadError>, Self)> {
        if self.is_over {
            return None;
        }
        if self.failures > 0 {
            tokio::time::sleep(wait(OUTAGE_BACKOFF, self.failures, 0.0)).await;
        }
        let next = self.next().await;
        match next {
            Ok(next) => {
                self.failures = 0;
                let (partition, entry) = next?;
                let item = match codec::decode(&entry) {
                    Ok(event) => Ok(Message::of_entry(event, entry)),
                    Err(error) => Err(ReadError::Undecodable { partition, entry, error: Box::new(error) }),
                };
                Some((item, self))
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.is_over = !error.is_retryable();
                self.tail = None;
                Some((Err(error.into()), self))
            }
        }
    }

    /// The next entry that may be such an event, with its partition; `None` at the end.
    async fn next(&mut self) -> Result<Option<(String, Arc<Entry>)>, BrokerError> {
        let is_other = |entry: &Entry| entry.event().is_some_and(|(name, _)| name != E::INFO.name);
        loop {
            let places = match &mut self.places {
                Some(places) => places,
                unread => unread.insert(open(&*self.broker, &self.stream, self.from).await?),
            };
            let bytes = (HELD / places.len().max(1)).min(PAGE_BYTES);
            for place in places.iter_mut().filter(|place| place.held.is_empty()) {
                place.fill(&*self.broker, bytes, self.follows).await?;
            }
            let first = places.iter_mut().filter(|place| !place.held.is_empty());
            let first = first.min_by_key(|place| place.held.front().map(|entry| entry.id));
            match first.and_then(|place| Some((place.key.as_str().to_owned(), place.held.pop_front()?))) {
                Some((_, entry)) if is_other(&entry) => {}
                Some(next) => return Ok(Some(next)),
                None if self.follows => self.wait().await?,
                None => return Ok(None),
            }
        }
    }

    /// Waits for further entries, each partition behind what was read of it.
    async fn wait(&mut self) -> Result<(), BrokerError> {
        let tail = match &mut self.tail {
            Some(tail) => tail,
            none => none.insert(self.broker.tail().await?),
        };
        let Some(places) = &mut self.places else { return Ok(()) };
        let keys: Vec<_> = places.iter().map(|place| (place.key.as_str().to_owned(), place.read)).collect();
        // One of each partition: pages bring the others, within their bound.
        for found in tail.next(&keys, 1, WAIT).await? {
            let place = &mut places[found.key];
            place.until = EntryId::MAX;
            place.take(found.entries);
        }
        Ok(())
    }
}

impl Place {
    /// Reads a page, where there may be more.
    async fn fill(&mut self, broker: &dyn Broker, bytes: usize, follows: bool) -> Result<(), BrokerError> {
        while self.held.is_empty() && self.read < self.until {
            let page = broker.page(&self.key, self.read, PAGE, bytes).await?;
            let above =
                page.entries.into_iter().filter(|entry| entry.id > self.read && (follows || entry.id <= self.until));
            let above: Vec<_> = above.collect();
            if above.is_empty() {
                self.until = self.read;
            }
            self.take(above);
        }
        Ok(())
    }

    fn take(&mut self, entries: Vec<Arc<Entry>>) {
        self.read = entries.last().map_or(self.read, |entry| entry.id);
        self.held.extend(entries);
    }
}

/// The partitions of the stream as they are recorded, with where they end now.
async fn open(broker: &dyn Broker, stream: &StreamKey, from: Start) -> Result<Vec<Place>, BrokerError> {
    let recorded = broker.partitions(stream).await?.unwrap_or(stream.partitions());
    let stream = stream.with_partitions(recorded);
    let now = broker.now().await?;
    try_join_all((0..recorded).map(|index| {
        let key = stream.partition(index);
        async move {
            let until = broker.extent(&key).await?.map_or(EntryId::ZERO, |extent| extent.last);
            let read = match from {
                Start::Earliest => EntryId::ZERO,
                Start::Latest => until,
                Start::At(id) => id.previous(),
                Start::Ago(ago) => EntryId::new(now.saturating_sub(millis(ago)), 0).previous(),
            };
            Ok(Place { key, read, until, held: VecDeque::new() })
        }
    }))
    .await
}
