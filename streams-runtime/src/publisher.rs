//! Publishing: encode, refuse what is too large, pick the partition, add; and the trimming that goes with it.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Extent, Fields};
use streams_core::codec::{self, EncodeError};
use streams_core::keys::{self, StreamKey, partition_of};
use streams_core::{BoxError, Context, Entry, EntryId, EventId, EventInfo, FromContext, Headers, Message, StreamEvent};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::app::Error;
use crate::clock::{Clock, millis};
use crate::random::Random;
use crate::registry;

/// The most headers of an event, and the most bytes they may have together: what is kept free of the 1 MiB of an entry.
const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 3 * 1024;
/// The most entries that one write of [`Publisher::publish_all`] adds, and the most bytes.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1024 * 1024;
/// How far the trim floor may be moved by a look at the server's clock, beyond our own time; also how often it is looked at.
const SLACK: Duration = Duration::from_secs(60);
/// How many of the newest entries [`Publisher::last`] looks at first.
const PAGE: usize = 64;

/// Publishes events. Cheap to clone; get it from `Running::publisher`, take it as an argument of a handler, or
/// make one alone with [`Publisher::connect`].
///
/// ```no_run
/// use streams_runtime::{Publisher, stream_event};
///
/// #[stream_event(stream = "trades", key = symbol)]
/// struct Trade { symbol: String, price: f64 }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = Publisher::connect("redis://127.0.0.1/").await?;
/// let trade = Trade { symbol: "BTC-USD".to_owned(), price: 39432.48 };
/// let receipt = publisher.publish(&trade).await?;
/// println!("{} is entry {}", receipt.event_id, receipt.entry_id);
///
/// // An id of one's own makes a repeated publish recognisable.
/// publisher.send(&trade).event_id("trade-553287559").header("venue", "a").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Arc<dyn Broker>,
    namespace: Option<String>,
    clock: Clock,
    random: Arc<Random>,
    /// The events whose declarations say what holds for their streams.
    events: Vec<&'static EventInfo>,
    streams: Mutex<HashMap<&'static str, Arc<Stream>>>,
}

/// What the publisher knows of one stream.
struct Stream {
    key: StreamKey,
    retention: Duration,
    declared: OnceCell<()>,
    floors: Vec<tokio::sync::Mutex<Floor>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("broker", &self.inner.broker).finish_non_exhaustive()
    }
}

/// Where a published event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The partition of the stream.
    pub partition: u32,
    /// The entry in it.
    pub entry_id: EntryId,
    /// The event's own id.
    pub event_id: EventId,
}

impl Publisher {
    /// A publisher alone, on the Redis at this URL.
    ///
    /// # Errors
    /// When the URL cannot be read or the server refuses.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn connect(url: &str) -> Result<Self, BrokerError> {
        let broker: Arc<dyn Broker> = Arc::new(crate::broker::Redis::open(url)?);
        broker.connect().await?;
        Ok(Self::on(broker))
    }

    /// A publisher alone, on a broker.
    pub fn on(broker: Arc<dyn Broker>) -> Self {
        Self::new(broker, None, registry::linked_events(), Clock::new(), Arc::new(Random::from_system()))
    }

    /// The same in a namespace.
    ///
    /// # Errors
    /// When the name cannot be part of a key.
    pub fn in_namespace(&self, namespace: &str) -> Result<Self, keys::InvalidName> {
        keys::check_namespace(namespace)?;
        let inner = &self.inner;
        let namespace = Some(namespace.to_owned());
        Ok(Self::new(
            Arc::clone(&inner.broker),
            namespace,
            inner.events.clone(),
            inner.clock,
            Arc::clone(&inner.random),
        ))
    }

    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        namespace: Option<String>,
        events: Vec<&'static EventInfo>,
        clock: Clock,
        random: Arc<Random>,
    ) -> Self {
        Self { inner: Arc::new(Inner { broker, namespace, clock, random, events, streams: Mutex::default() }) }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.broker
    }

    #[cfg(feature = "testing")]
    pub(crate) async fn partitions<E: StreamEvent>(&self) -> Result<Vec<keys::PartitionKey>, BrokerError> {
        let stream = self.stream::<E>().await?;
        Ok((0..stream.key.partitions()).map(|index| stream.key.partition(index)).collect())
    }

    /// Publishes one event and waits until the broker has it.
    ///
    /// # Errors
    /// See [`PublishError`]: above all whether the event may be in the stream all the same.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the event published.
    pub async fn publish<E: StreamEvent>(&self, event: &E) -> Result<Receipt, PublishError> {
        self.send(event).await
    }

    /// The long form of [`Self::publish`]: headers and an event id of one's own; `.await` it to send.
    pub fn send<'a, E: StreamEvent>(&'a self, event: &'a E) -> Send<'a, E> {
        Send { publisher: self, event, event_id: None, headers: Vec::new() }
    }

    /// Publishes many events, in order; answers once an event, in order.
    ///
    /// After the first failure in a partition nothing more is sent to it: the others there answer
    /// [`PublishError::is_not_sent`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave some of the events published: of each partition the first ones.
    pub async fn publish_all<E: StreamEvent>(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Vec<Result<Receipt, PublishError>> {
        self.send_all(events.into_iter().map(|event| (event, None))).await
    }

    /// As [`Self::publish_all`], each event with an id of its own.
    ///
    /// # Cancel safety
    /// As [`Self::publish_all`].
    pub async fn publish_all_with_ids<E: StreamEvent>(
        &self,
        events: impl IntoIterator<Item = (E, String)>,
    ) -> Vec<Result<Receipt, PublishError>> {
        self.send_all(events.into_iter().map(|(event, id)| (event, Some(id)))).await
    }

    async fn send_all<E: StreamEvent>(
        &self,
        events: impl Iterator<Item = (E, Option<String>)>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let stream = match self.stream::<E>().await {
            Ok(stream) => stream,
            Err(error) => {
                let error = Arc::new(error);
                return events
                    .map(|(_, id)| Err(PublishError::of(E::INFO, id, Problem::Broker(Arc::clone(&error)))))
                    .collect();
            }
        };
        let mut answers: Vec<Option<Result<Receipt, PublishError>>> = Vec::new();
        let mut chunks: Vec<Chunk> = (0..stream.key.partitions()).map(|_| Chunk::default()).collect();
        for (event, id) in events {
            let place = answers.len();
            answers.push(None);
            let (partition, event_id) = self.place(&event, id, &stream);
            let chunk = &mut chunks[partition as usize];
            if chunk.failed {
                answers[place] = Some(Err(PublishError::of(E::INFO, Some(event_id), Problem::NotSent)));
                continue;
            }
            let (event_id, fields) = match self.fields(&event, event_id, &[]) {
                Ok(prepared) => prepared,
                Err(error) => {
                    self.flush(&stream, chunk, &mut answers).await;
                    chunk.failed = true;
                    answers[place] = Some(Err(error));
                    continue;
                }
            };
            chunk.partition = partition;
            chunk.bytes += fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            chunk.entries.push(fields);
            chunk.places.push((place, event_id, E::INFO));
            if chunk.entries.len() >= CHUNK || chunk.bytes >= CHUNK_BYTES {
                self.flush(&stream, chunk, &mut answers).await;
            }
        }
        for chunk in &mut chunks {
            self.flush(&stream, chunk, &mut answers).await;
        }
        // Every place was answered when it was flushed or refused.
        answers.into_iter().flatten().collect()
    }

    async fn flush(&self, stream: &Stream, chunk: &mut Chunk, answers: &mut [Option<Result<Receipt, PublishError>>]) {
        let (entries, places) = (std::mem::take(&mut chunk.entries), std::mem::take(&mut chunk.places));
        chunk.bytes = 0;
        if entries.is_empty() {
            return;
        }
        match self.append(stream, chunk.partition, entries).await {
            Ok(ids) => {
                for ((place, event_id, _), entry_id) in places.into_iter().zip(ids) {
                    answers[place] = Some(Ok(Receipt { partition: chunk.partition, entry_id, event_id }));
                }
            }
            Err(error) => {
                chunk.failed = true;
                let error = Arc::new(error);
                for (place, event_id, info) in places {
                    let problem = Problem::Broker(Arc::clone(&error));
                    answers[place] = Some(Err(PublishError::of(info, Some(event_id.to_string()), problem)));
                }
            }
        }
    }

    /// The newest event of type `E` in its stream, over all partitions; `None` when there is none.
    ///
    /// For a producer that goes on where it stopped.
    ///
    /// # Errors
    /// When the broker cannot be asked, or the newest such event cannot be decoded.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn last<E: StreamEvent>(&self) -> Result<Option<Message<E>>, Error> {
        let stream = self.stream::<E>().await?;
        let mut newest: Option<Arc<Entry>> = None;
        for index in 0..stream.key.partitions() {
            let partition = stream.key.partition(index);
            let mut count = PAGE;
            let found = loop {
                let newest = self.inner.broker.read_last(&partition, count).await?;
                let found = newest.iter().find(|entry| entry.event().is_some_and(|(name, _)| name == E::INFO.name));
                if found.is_some() || newest.len() < count {
                    break found.cloned();
                }
                // Other events of the stream stand before it.
                count *= 4;
            };
            if let Some(found) = found
                && newest.as_ref().is_none_or(|newest| newest.id < found.id)
            {
                newest = Some(found);
            }
        }
        Ok(match newest {
            Some(entry) => Some(Message::of_entry(codec::decode(&entry)?, entry)),
            None => None,
        })
    }

    /// The stream of `E`; the first time its partition count is checked against what is recorded.
    async fn stream<E: StreamEvent>(&self) -> Result<Arc<Stream>, BrokerError> {
        let name = E::INFO.stream;
        let stream = {
            let mut streams = self.inner.streams.lock().unwrap_or_else(PoisonError::into_inner);
            let stream = streams.entry(name).or_insert_with(|| {
                let properties = registry::stream_properties(name, self.inner.events.iter().chain([&E::INFO]));
                let key = StreamKey::new(self.inner.namespace.as_deref(), name, properties.partitions);
                let floors = (0..properties.partitions).map(|_| tokio::sync::Mutex::default()).collect();
                Arc::new(Stream { key, retention: properties.retention, declared: OnceCell::new(), floors })
            });
            Arc::clone(stream)
        };
        stream.declared.get_or_try_init(|| self.inner.broker.declare(&stream.key)).await?;
        Ok(stream)
    }

    /// Which partition the event belongs to, and its id.
    fn place<E: StreamEvent>(&self, event: &E, id: Option<String>, stream: &Stream) -> (u32, String) {
        let id = id.unwrap_or_else(|| self.inner.random.event_id(self.inner.clock.wall_ms()).to_string());
        let partitions = stream.key.partitions();
        (event.key().map_or_else(|| partition_of(&id, partitions), |key| partition_of(&key, partitions)), id)
    }

    /// The entry's fields; refuses everything that can be refused before anything is sent.
    fn fields<E: StreamEvent>(
        &self,
        event: &E,
        event_id: String,
        headers: &[(String, String)],
    ) -> Result<(EventId, Fields), PublishError> {
        let Some(id) = EventId::new(event_id.clone()) else {
            return Err(PublishError::of(E::INFO, None, Problem::EventId(event_id)));
        };
        let refuse = |problem| PublishError::of(E::INFO, Some(event_id.clone()), problem);
        let mut payload = Vec::with_capacity(256);
        codec::encode(event, &mut payload).map_err(|error| refuse(Problem::Encode(error)))?;
        let limit = codec::max_payload::<E>();
        if payload.len() > limit {
            return Err(refuse(Problem::TooLarge { bytes: payload.len(), limit }));
        }
        check_headers(headers).map_err(refuse)?;
        let name = format!("{}@{}", E::INFO.name, E::INFO.version);
        let mut fields = vec![
            (Entry::EVENT.as_bytes().to_vec(), name.into_bytes()),
            (Entry::ID.as_bytes().to_vec(), event_id.as_bytes().to_vec()),
            (Entry::PAYLOAD.as_bytes().to_vec(), payload),
        ];
        fields.extend(headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        Ok((id, fields))
    }

    async fn append(&self, stream: &Stream, partition: u32, entries: Vec<Fields>) -> Result<Vec<EntryId>, BrokerError> {
        let floor = self.floor(stream, partition).await?;
        self.inner.broker.append(&stream.key.partition(partition), entries, floor).await
    }

    /// Below which id entries have outlived their retention.
    async fn floor(&self, stream: &Stream, partition: u32) -> Result<Option<EntryId>, BrokerError> {
        let now = Instant::now();
        let Some(floor) = stream.floors.get(partition as usize) else { return Ok(None) };
        let mut floor = floor.lock().await;
        if floor.is_stale(now) {
            let key = stream.key.partition(partition);
            let server = self.inner.broker.now().await?;
            let extent = self.inner.broker.extent(&key).await?;
            let was_ahead = floor.ahead;
            floor.look(server, self.inner.clock.wall_ms(), extent, now);
            if floor.ahead && !was_ahead {
                tracing::error!(stream = key.as_str(), newest = %extent.map_or(EntryId::ZERO, |extent| extent.last), server_ms = server, "an entry's id is ahead of the server's clock: nothing is trimmed until the clock has caught up; find the producer that sets ids by hand, or mend the server's clock");
            }
        }
        Ok(floor.at(now, stream.retention))
    }
}

/// Events of one partition that are to be written together.
#[derive(Default)]
struct Chunk {
    partition: u32,
    entries: Vec<Fields>,
    places: Vec<(usize, EventId, &'static EventInfo)>,
    bytes: usize,
    failed: bool,
}

fn check_headers(headers: &[(String, String)]) -> Result<(), Problem> {
    for (name, _) in headers {
        let reason = if name.is_empty() {
            "its name is empty"
        } else if Headers::is_reserved(name) {
            "the name is that of a field of the event itself"
        } else {
            continue;
        };
        return Err(Problem::Header { name: name.clone(), reason });
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(Problem::Headers { count: headers.len(), bytes });
    }
    Ok(())
}

/// How far the server's clock has come, seen so that no jump of it and no forged id wipes a stream.
///
/// Between two looks the floor moves with our own monotonic time; a look moves it by at most [`SLACK`] more.
#[derive(Debug, Default)]
struct Floor {
    anchor: Option<(u64, Instant)>,
    looked: Option<Instant>,
    /// The newest id is ahead of the server's clock: nothing is trimmed.
    ahead: bool,
}

impl Floor {
    fn is_stale(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.duration_since(looked) >= SLACK)
    }

    fn estimate(&self, now: Instant) -> Option<u64> {
        self.anchor.map(|(ms, since)| ms + millis(now.duration_since(since)))
    }

    fn look(&mut self, server_ms: u64, our_ms: u64, extent: Option<Extent>, now: Instant) {
        let most = match self.estimate(now) {
            Some(estimate) => estimate + millis(SLACK),
            // The first look has only our own wall clock to be held against.
            None => our_ms + millis(SLACK),
        };
        self.anchor = Some((server_ms.min(most), now));
        self.looked = Some(now);
        self.ahead = extent.is_some_and(|extent| extent.last.ms > server_ms + millis(SLACK));
    }

    fn at(&self, now: Instant, retention: Duration) -> Option<EntryId> {
        if self.ahead {
            return None;
        }
        let floor = self.estimate(now)?.checked_sub(millis(retention))?;
        Some(EntryId::new(floor, 0))
    }
}

/// A publish that has not been sent yet: `.await` it.
#[must_use = "nothing is sent until it is awaited"]
pub struct Send<'a, E> {
    publisher: &'a Publisher,
    event: &'a E,
    event_id: Option<String>,
    headers: Vec<(String, String)>,
}

impl<E> fmt::Debug for Send<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Send").field("event_id", &self.event_id).field("headers", &self.headers).finish_non_exhaustive()
    }
}

impl<E> Send<'_, E> {
    /// Adds a header. At most 32, of at most 3 KiB together; `event`, `id` and `payload` are taken.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the event's id: 1 to 128 bytes. Without it the publisher makes a UUIDv7.
    pub fn event_id(mut self, id: impl Into<String>) -> Self {
        self.event_id = Some(id.into());
        self
    }
}

impl<'a, E: StreamEvent> IntoFuture for Send<'a, E> {
    type Output = Result<Receipt, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + std::marker::Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let failed = |id: Option<String>, error| PublishError::of(E::INFO, id, Problem::Broker(Arc::new(error)));
            let stream = match self.publisher.stream::<E>().await {
                Ok(stream) => stream,
                Err(error) => return Err(failed(self.event_id, error)),
            };
            let (partition, event_id) = self.publisher.place(self.event, self.event_id, &stream);
            let (event_id, fields) = self.publisher.fields(self.event, event_id, &self.headers)?;
            let ids = self.publisher.append(&stream, partition, vec![fields]).await;
            match ids.map(|ids| ids.first().copied()) {
                Ok(Some(entry_id)) => Ok(Receipt { partition, entry_id, event_id }),
                Ok(None) => {
                    let error = BrokerError::new(BrokerErrorKind::Protocol, "the broker named no entry");
                    Err(failed(Some(event_id.to_string()), error))
                }
                Err(error) => Err(failed(Some(event_id.to_string()), error)),
            }
        })
    }
}

impl FromContext for Publisher {
    type Rejection = BoxError;

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        ctx.resources()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| "there is no publisher outside an app; in a test pass `Publisher::test()`".into())
    }
}

/// An event could not be published, or it is not known whether it was.
#[derive(Debug, thiserror::Error)]
#[error("event `{event}` for stream `{stream}`{}: {problem}", .event_id.as_ref().map(|id| format!(", id {id}")).unwrap_or_default())]
pub struct PublishError {
    stream: &'static str,
    event: &'static str,
    event_id: Option<String>,
    #[source]
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Encode(EncodeError),
    #[error(
        "the payload has {bytes} bytes, the limit is {limit}; keep large data elsewhere and publish where it is, or raise `max_payload`"
    )]
    TooLarge { bytes: usize, limit: usize },
    #[error("header `{name}`: {reason}")]
    Header { name: String, reason: &'static str },
    #[error("{count} headers of {bytes} bytes; at most {MAX_HEADERS} of {MAX_HEADER_BYTES} bytes together")]
    Headers { count: usize, bytes: usize },
    #[error("the event id `{0}` is not 1 to {max} bytes long", max = EventId::MAX_LEN)]
    EventId(String),
    #[error("not sent, because an earlier event for the same partition failed")]
    NotSent,
    #[error("{0}")]
    Broker(Arc<BrokerError>),
}

impl PublishError {
    fn of(info: &'static EventInfo, event_id: Option<String>, problem: Problem) -> Self {
        Self { stream: info.stream, event: info.name, event_id, problem }
    }

    fn broker(&self) -> Option<&BrokerError> {
        match &self.problem {
            Problem::Broker(error) => Some(error),
            _ => None,
        }
    }

    /// The id that the event had: publish again with the same one, so that consumers can tell a double.
    pub fn event_id(&self) -> Option<&str> {
        self.event_id.as_deref()
    }

    /// Whether the server is full: publish again later, more slowly.
    pub fn is_backpressure(&self) -> bool {
        self.broker().is_some_and(|error| error.kind() == BrokerErrorKind::Full)
    }

    /// Whether the event may be in the stream all the same.
    pub fn is_indefinite(&self) -> bool {
        self.broker().is_some_and(BrokerError::is_indefinite)
    }

    /// Whether the same publish may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        self.is_not_sent() || self.broker().is_some_and(BrokerError::is_retryable)
    }

    /// Whether nothing was sent because an earlier event for the same partition failed.
    pub fn is_not_sent(&self) -> bool {
        matches!(self.problem, Problem::NotSent)
    }

    /// Whether the event itself is at fault: too large, a bad header, not encodable.
    pub fn is_refused(&self) -> bool {
        !self.is_not_sent() && self.broker().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn extent(last_ms: u64) -> Option<Extent> {
        Some(Extent { first: None, last: EntryId::new(last_ms, 0), length: 0, added: 0 })
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_follows_the_servers_clock_and_our_own_between_looks() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        assert!(floor.is_stale(now));
        assert_eq!(floor.at(now, Duration::from_secs(3600)), None);
        floor.look(100 * HOUR, 100 * HOUR, extent(100 * HOUR), now);
        assert!(!floor.is_stale(now));
        let later = now + Duration::from_secs(30);
        assert_eq!(floor.at(later, Duration::from_secs(3600)), Some(EntryId::new(99 * HOUR + 30_000, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_30_hours_ahead_moves_the_floor_by_a_minute() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.look(100 * HOUR, 100 * HOUR, None, now);
        let later = now + SLACK;
        floor.look(130 * HOUR, 100 * HOUR, None, later);
        assert_eq!(floor.at(later, Duration::from_secs(3600)), Some(EntryId::new(99 * HOUR + 120_000, 0)));
        let mut fresh = Floor::default();
        fresh.look(130 * HOUR, 100 * HOUR, None, now);
        assert_eq!(fresh.at(now, Duration::from_secs(3600)), Some(EntryId::new(99 * HOUR + 60_000, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_30_hours_ahead_stops_the_trimming() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.look(100 * HOUR, 100 * HOUR, extent(130 * HOUR), now);
        assert!(floor.ahead);
        assert_eq!(floor.at(now, Duration::from_secs(3600)), None);
    }

    #[test]
    fn headers_are_checked_before_anything_is_sent() {
        let header = |name: &str, len: usize| (name.to_owned(), "x".repeat(len));
        assert!(check_headers(&[header("tenant", 10)]).is_ok());
        assert!(matches!(check_headers(&[header("payload", 1)]), Err(Problem::Header { .. })));
        assert!(matches!(check_headers(&[header("", 1)]), Err(Problem::Header { .. })));
        assert!(matches!(check_headers(&[header("a", 4000)]), Err(Problem::Headers { .. })));
        assert!(matches!(check_headers(&vec![header("a", 1); 33]), Err(Problem::Headers { .. })));
    }
}
