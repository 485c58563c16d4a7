//! Publishing: an event is encoded, checked, given its partition, and queued.
//!
//! [`queue`] writes, [`retention`] trims by the way. May use `schema_watch`, `ops`, `broker` and the helpers of the crate; `app` uses it.

mod error;
mod executor;
mod retention;
mod sweep;
mod meters;
mod queue;
mod receipt;
mod streams;
mod raw;

use std::any::TypeId;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, Fields};
use streams_core::codec;
use streams_core::keys::{self, StreamKey, partition_of};
use streams_core::{BoxError, Context, Entry, EntryId, EventId, EventInfo, FromContext, Message, StreamEvent};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use self::error::Problem;
pub use self::error::PublishError;
pub(crate) use self::executor::Executor;
pub(crate) use self::queue::Shared;
use self::queue::{CHUNK, CHUNK_BYTES, Pending, Queue};
pub use self::raw::PublishRaw;
pub use self::receipt::Receipt;
pub(crate) use self::retention::EXPIRE_AFTER;
use self::streams::{Inner, Stream, check_headers, entry, outcome, traced};
pub(crate) use self::sweep::{Swept, sweep};
use crate::clock::Clock;
use crate::declared::linked_events;
use crate::error::Error;
use crate::fence::unwound;
use crate::ops::{Outages, TraceContext, trace};
use crate::random::Random;
use crate::schema_watch::SchemaNotes;
use crate::sync::lock;

/// How long a publish is tried again.
pub(crate) const PUBLISH_RETRY: Duration = Duration::from_secs(15);
/// How many entries [`Publisher::last`] looks at at once: 64 of the largest are what one reply may hold.
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
/// publisher.publish(&trade).id("trade-553287559").header("venue", "a").await?;
/// # Ok(()) }
/// ```
///
/// # Writes are shared
///
/// A call alone is written at once. Calls that come during a write of the same partition go out together in the next one,
/// up to 256 events or 1 MiB. Nothing waits for company. About 16 MiB may wait in a publisher, counting 1 KiB for each
/// event besides its bytes; beyond that calls wait for room.
///
/// # Order
///
/// Events that are published one after another, each when the one before was answered, stand in that order in their
/// partition. Calls under way at the same time have no order among one another; what belongs in order goes through
/// [`Self::publish_all`].
///
/// # When there is no answer
///
/// A write that did not reach the server, or had no answer, is tried again for 15 s (see [`Self::with_retry`]). Later
/// publishes to the partition queue behind it, so the order of a key outlives a broken connection. Then every call fails,
/// in order. A write that had no answer may have been done, and the retry then adds its events a second time, **with the
/// same event ids**. Consumers that must not act twice go by `ctx.event_id()`. A full server is not tried again but fails
/// at once: [`PublishError::is_backpressure`].
///
/// # When a call is dropped
///
/// Dropping a publish that has begun withdraws nothing. Its event is written all the same, unless it still waited for room,
/// and nobody hears of the result. Others that share its write are not affected. [`Self::flush`] waits for all of it.
///
/// # Where it writes
///
/// A publisher alone, on a server, writes on a thread of its own. So one in a `static` serves every executor, callers outside of
/// any, and all tests of a program at once; keep one rather than make one per call. That of an app writes on the app's executor.
/// Over [`Embedded`](crate::broker::Embedded) a publisher alone writes on an executor of its callers. When that ends, the
/// others go on, and a write that it had begun is repeated as one that had no answer.
///
/// # Traces
///
/// Each call is a span, and each event carries the trace context (`traceparent`) in which it was published. With the
/// feature `opentelemetry` that is the context of the span. Otherwise it is that of the event whose handler took the
/// publisher as an argument. A `traceparent` header of the caller's own is left as it is.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
    /// The trace of the event that is handled by whoever this publisher was given to.
    handling: Option<Arc<TraceContext>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("broker", &self.inner.shared.broker).finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher alone, on the Redis at this URL. A client certificate, or anything else that a URL cannot say, goes
    /// through [`Redis`](crate::broker::Redis) and [`Publisher::new`].
    ///
    /// # Errors
    /// When the URL cannot be read or the server refuses.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn connect(url: &str) -> Result<Self, BrokerError> {
        let broker: Arc<dyn Broker> = Arc::new(crate::broker::Redis::open(url)?);
        let publisher = Self::new(Arc::clone(&broker));
        publisher.inner.shared.executor.run(async move { broker.connect().await }).await?;
        Ok(publisher)
    }

    /// A publisher alone, on a broker.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        let random = Arc::new(Random::from_system());
        let executor = Executor::alone(&*broker);
        let shared = Shared::new(broker, Clock::new(), random, PUBLISH_RETRY, Outages::default(), Arc::default());
        Self::of(shared.on(executor), None, linked_events())
    }

    /// The same in a namespace, with queues of its own.
    ///
    /// # Errors
    /// When the name cannot be part of a key.
    pub fn with_namespace(&self, namespace: &str) -> Result<Self, keys::InvalidName> {
        keys::check_namespace(namespace)?;
        let shared = self.inner.shared.beside(self.inner.shared.retry);
        let other = Self::of(shared, Some(namespace.to_owned()), self.inner.events.clone());
        Ok(Self { handling: self.handling.clone(), ..other })
    }

    /// The same with another time for which a write that has no answer is tried again, and with queues of its own. The
    /// default is that of [`Config::publish_retry`](crate::Config::publish_retry), by which an app sets it. With zero
    /// nothing is tried again.
    pub fn with_retry(&self, retry: Duration) -> Self {
        let other = Self::of(self.inner.shared.beside(retry), self.inner.namespace.clone(), self.inner.events.clone());
        Self { handling: self.handling.clone(), ..other }
    }

    pub(crate) fn of(shared: Shared, namespace: Option<String>, events: Vec<&'static EventInfo>) -> Self {
        let inner = Inner { shared: Arc::new(shared), namespace, events, streams: Mutex::default() };
        Self { inner: Arc::new(inner), handling: None }
    }

    /// The notes about the events of the publisher and of its app.
    pub(crate) fn notes(&self) -> &Arc<SchemaNotes> {
        &self.inner.shared.notes
    }

    #[cfg(feature = "testing")]
    pub(crate) fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.shared.broker
    }

    #[cfg(feature = "testing")]
    pub(crate) async fn partitions<E: StreamEvent>(&self) -> Result<Vec<keys::PartitionKey>, BrokerError> {
        let key = self.declared::<E>().await?;
        Ok((0..key.partitions()).map(|index| key.partition(index)).collect())
    }

    /// Publishes one event: `.await` it, after [`Publish::id`] and [`Publish::header`] where they are needed.
    ///
    /// The answer comes when the broker has the event; where the stream says `durability`, when it is there.
    ///
    /// # Errors
    /// See [`PublishError`]: above all whether the event may be in the stream all the same.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws nothing: the event is published all the same unless it waited for room.
    pub fn publish<'a, E: StreamEvent>(&'a self, event: &'a E) -> Publish<'a, E> {
        Publish { publisher: self, event, event_id: None, headers: Vec::new() }
    }

    /// Publishes many events, in order; answers once an event, in order.
    ///
    /// After the first failure in a partition nothing more is sent to it: the others there answer
    /// [`PublishError::is_not_sent`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves some of the events published: of each partition the first ones.
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
        let (began, span) = (Instant::now(), trace::publish(E::INFO.stream));
        let stream = self.stream::<E>();
        let trace = trace::headers(&span, self.handling.as_deref(), &self.inner.shared.random);
        let answers = self.write_all(&stream, events, &trace).instrument(span.clone()).await;
        trace::published(&span, answers.len());
        trace::ended(&span, answers.iter().find_map(|answer| answer.as_ref().err()).map(PublishError::kind));
        stream.meters.answered(&answers, began.elapsed());
        answers
    }

    async fn write_all<E: StreamEvent>(
        &self,
        stream: &Stream,
        events: impl Iterator<Item = (E, Option<String>)>,
        trace: &[(String, String)],
    ) -> Vec<Result<Receipt, PublishError>> {
        let mut answers: Answers = Vec::new();
        let mut chunks: Vec<Chunk> = (0..).zip(&stream.queues).map(|(at, queue)| Chunk::new(at, queue)).collect();
        for (event, id) in events {
            let place = answers.len();
            answers.push(None);
            let event_id = self.inner.event_id(id);
            let partition = match self.partition(&event, &event_id, stream) {
                Ok(partition) => partition,
                // Nobody knows its key, so nothing is known to have no place behind it.
                Err(error) => {
                    for chunk in &mut chunks {
                        chunk.send(E::INFO, &mut answers).await;
                        chunk.failed = true;
                    }
                    answers[place] = Some(Err(error));
                    continue;
                }
            };
            let chunk = &mut chunks[partition as usize];
            if chunk.failed {
                answers[place] = Some(Err(PublishError::of(E::INFO, Some(event_id), Problem::NotSent)));
                continue;
            }
            match self.fields(&event, event_id, &[], trace) {
                Ok((event_id, fields)) => {
                    chunk.bytes += fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
                    chunk.entries.push(fields);
                    chunk.places.push((place, event_id));
                    if chunk.entries.len() >= CHUNK || chunk.bytes >= CHUNK_BYTES {
                        chunk.send(E::INFO, &mut answers).await;
                    }
                }
                Err(error) => {
                    chunk.send(E::INFO, &mut answers).await;
                    chunk.failed = true;
                    answers[place] = Some(Err(error));
                }
            }
        }
        for chunk in &mut chunks {
            chunk.send(E::INFO, &mut answers).await;
        }
        for chunk in &mut chunks {
            chunk.settle(E::INFO, &mut answers).await;
        }
        // Every place was answered when its chunk was settled, or it was refused.
        answers.into_iter().flatten().collect()
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
        let key = self.declared::<E>().await?;
        let (broker, name) = (Arc::clone(&self.inner.shared.broker), E::INFO.name);
        let newest = self.inner.shared.executor.run(async move { newest(&*broker, &key, name).await }).await?;
        Ok(match newest {
            Some(entry) => Some(Message::of_entry(codec::decode(&entry)?, entry)),
            None => None,
        })
    }

    /// Publishes bytes that another program has encoded, for a relay: `.await` it, after [`PublishRaw::key`] and others.
    ///
    /// The names, the size, the headers and the partition count are checked. Not checked is whether the bytes are such an
    /// event of that version, whether the key is the event's own, and whether the event belongs to this stream. A consumer of
    /// bytes that cannot be decoded puts them among its dead letters.
    ///
    /// For a stream of which an event is linked, or belongs to the app's consumers, these say what holds for it. For any other
    /// stream the partition count is the one recorded at the server. Nothing of such a stream is trimmed here, because its
    /// retention is not known.
    ///
    /// ```no_run
    /// # async fn example(publisher: streams_runtime::Publisher, bytes: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
    /// publisher.publish_raw("trades", "Trade", 1, bytes).key("BTC-USD").id("trade-553287559").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Self::publish`]; also when no program has declared the stream yet.
    ///
    /// # Cancel safety
    /// As [`Self::publish`].
    pub fn publish_raw<'a>(
        &'a self,
        stream: &'a str,
        event: &'a str,
        version: u32,
        payload: impl Into<Vec<u8>>,
    ) -> PublishRaw<'a> {
        PublishRaw::new(&self.inner, self.handling.as_deref(), (stream, event, version), payload.into())
    }

    /// Waits until everything is answered that was published before this call, through this publisher, its clones and those
    /// made from it: what is left when a program ends is lost.
    ///
    /// Callers that wait for their own answers need none of it; a [`Running::shutdown`](crate::Running::shutdown) does it.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn flush(&self) {
        self.inner.shared.flush().await;
    }

    /// The stream of `E`, as its events declare it.
    fn stream<E: StreamEvent>(&self) -> Arc<Stream> {
        let mut streams = lock(&self.inner.streams);
        if let Some(stream) = streams.by_type.get(&TypeId::of::<E>()) {
            return Arc::clone(stream);
        }
        let events = self.inner.events.iter().chain([&E::INFO]).copied().collect::<Vec<_>>();
        let stream = self.inner.declared_stream(&mut streams, E::INFO.stream, &events);
        stream.declared.publishes.introduce(E::INFO);
        streams.by_type.insert(TypeId::of::<E>(), Arc::clone(&stream));
        stream
    }

    /// The key of the stream of `E`, after its partition count was checked against what is recorded.
    async fn declared<E: StreamEvent>(&self) -> Result<StreamKey, BrokerError> {
        let stream = self.stream::<E>();
        let (broker, declared) = (Arc::clone(&self.inner.shared.broker), Arc::clone(&stream.declared));
        self.inner.shared.executor.run(async move { declared.check(&*broker).await }).await?;
        Ok(stream.declared.key.clone())
    }

    /// Which partition the event belongs to.
    fn partition<E: StreamEvent>(&self, event: &E, id: &str, stream: &Stream) -> Result<u32, PublishError> {
        let partitions = stream.declared.key.partitions();
        let place = || event.key().map_or_else(|| partition_of(id, partitions), |key| partition_of(&key, partitions));
        unwound(place).map_err(|panic| PublishError::of(E::INFO, Some(id.to_owned()), Problem::Panicked(panic)))
    }

    /// The entry's fields; refuses everything that can be refused before anything is sent.
    fn fields<E: StreamEvent>(
        &self,
        event: &E,
        event_id: String,
        headers: &[(String, String)],
        trace: &[(String, String)],
    ) -> Result<(EventId, Fields), PublishError> {
        let Some(id) = EventId::new(event_id.clone()) else {
            return Err(PublishError::of(E::INFO, None, Problem::EventId(event_id)));
        };
        let refuse = |problem| PublishError::of(E::INFO, Some(event_id.clone()), problem);
        let mut payload = Vec::with_capacity(256);
        unwound(|| codec::encode(event, &mut payload))
            .map_err(|panic| refuse(Problem::Panicked(panic)))?
            .map_err(|error| refuse(Problem::Encode(error)))?;
        let limit = codec::max_payload::<E>();
        if payload.len() > limit {
            return Err(refuse(Problem::TooLarge { bytes: payload.len(), limit }));
        }
        check_headers(headers).map_err(refuse)?;
        let name = format!("{}@{}", E::INFO.name, E::INFO.version);
        Ok((id, entry(name, event_id.clone(), payload, headers.iter().chain(trace))))
    }
}

/// The newest entry of a stream with an event of this name, over all partitions.
async fn newest(broker: &dyn Broker, key: &StreamKey, name: &str) -> Result<Option<Arc<Entry>>, BrokerError> {
    let mut newest: Option<Arc<Entry>> = None;
    for index in 0..key.partitions() {
        let partition = key.partition(index);
        let mut before = EntryId::MAX;
        // Other events of the stream may stand before it.
        let found = loop {
            let page = broker.read_back(&partition, before, PAGE).await?;
            let found = page.iter().find(|entry| entry.event().is_some_and(|(other, _)| other == name));
            match page.last() {
                Some(oldest) if found.is_none() => before = oldest.id,
                _ => break found.cloned(),
            }
        };
        if let Some(found) = found
            && newest.as_ref().is_none_or(|newest| newest.id < found.id)
        {
            newest = Some(found);
        }
    }
    Ok(newest)
}

/// An answer for each event, in order, as they come.
type Answers = Vec<Option<Result<Receipt, PublishError>>>;

/// Events of one partition that are to be written together, while those before them are under way.
struct Chunk<'a> {
    partition: u32,
    queue: &'a Arc<Queue>,
    entries: Vec<Fields>,
    /// Which events they are.
    places: Vec<(usize, EventId)>,
    bytes: usize,
    under_way: Option<(Pending, Vec<(usize, EventId)>)>,
    failed: bool,
}

impl<'a> Chunk<'a> {
    fn new(partition: u32, queue: &'a Arc<Queue>) -> Self {
        Self { partition, queue, entries: Vec::new(), places: Vec::new(), bytes: 0, under_way: None, failed: false }
    }

    /// Sends what was gathered, if what went before it succeeded.
    async fn send(&mut self, info: &'static EventInfo, answers: &mut Answers) {
        self.settle(info, answers).await;
        let (entries, places) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.places));
        self.bytes = 0;
        if self.failed {
            for (place, event_id) in places {
                answers[place] = Some(Err(PublishError::of(info, Some(event_id.to_string()), Problem::NotSent)));
            }
        } else if !entries.is_empty() {
            self.under_way = Some((self.queue.put(entries).await, places));
        }
    }

    /// Waits for what is under way.
    async fn settle(&mut self, info: &'static EventInfo, answers: &mut Answers) {
        let Some((pending, places)) = self.under_way.take() else { return };
        let answer = pending.answer().await;
        for (at, (place, event_id)) in places.into_iter().enumerate() {
            let id = event_id.to_string();
            let result = outcome(self.partition, event_id, at, &answer);
            let result = result.map_err(|problem| PublishError::of(info, Some(id), problem));
            self.failed |= result.is_err();
            answers[place] = Some(result);
        }
    }
}

/// One event on its way to its stream, from [`Publisher::publish`]: `.await` it to publish it.
#[must_use = "nothing is sent until it is awaited"]
pub struct Publish<'a, E> {
    publisher: &'a Publisher,
    event: &'a E,
    event_id: Option<String>,
    headers: Vec<(String, String)>,
}

impl<E> fmt::Debug for Publish<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("event_id", &self.event_id)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl<E> Publish<'_, E> {
    /// Adds a header. At most 32, of at most 3 KiB together; `event`, `id` and `payload` are taken.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the event's id: 1 to 128 bytes. Without it the publisher makes a UUIDv7.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.event_id = Some(id.into());
        self
    }
}

impl<'a, E: StreamEvent> IntoFuture for Publish<'a, E> {
    type Output = Result<Receipt, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (began, span) = (Instant::now(), trace::publish(E::INFO.stream));
            let stream = self.publisher.stream::<E>();
            let answer = self.write(&stream, &span).instrument(span.clone()).await;
            trace::ended(&span, answer.as_ref().err().map(PublishError::kind));
            stream.meters.answered(std::slice::from_ref(&answer), began.elapsed());
            answer
        })
    }
}

impl<E: StreamEvent> Publish<'_, E> {
    async fn write(self, stream: &Stream, span: &Span) -> Result<Receipt, PublishError> {
        let publisher = self.publisher;
        let event_id = publisher.inner.event_id(self.event_id);
        let partition = publisher.partition(self.event, &event_id, stream)?;
        trace::publishes(span, partition, &event_id);
        let trace = traced(span, &self.headers, publisher.handling.as_deref(), &publisher.inner.shared.random);
        let (event_id, fields) = publisher.fields(self.event, event_id, &self.headers, &trace)?;
        let answer = stream.queues[partition as usize].put(vec![fields]).await.answer().await;
        let id = event_id.to_string();
        outcome(partition, event_id, 0, &answer).map_err(|problem| PublishError::of(E::INFO, Some(id), problem))
    }
}

impl FromContext for Publisher {
    type Rejection = BoxError;

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        let publisher = ctx
            .resources()
            .get::<Self>()
            .ok_or("there is no publisher outside an app; in a test pass `Publisher::test()`")?;
        // Events that a batch publishes belong to no single trace.
        let handling = match ctx.entries() {
            [only] => TraceContext::of(only).map(Arc::new),
            _ => None,
        };
        Ok(Self { handling, inner: Arc::clone(&publisher.inner) })
    }
}
