//! Bytes that another program has encoded on their way to a stream: the type of their event is not known here.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerError, BrokerErrorKind, Durable};
use streams_core::codec::DEFAULT_MAX_PAYLOAD;
use streams_core::keys::{self, StreamKey, partition_of};
use streams_core::{EventId, Retention};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::error::{Problem, PublishError};
use super::queue::Declared;
use super::receipt::Receipt;
use super::{Publisher, Stream, check_headers, entry, traced};
use crate::declared::StreamProperties;
use crate::ops::trace;
use crate::sync::lock;

/// The most streams to which a publisher relays, besides those whose events it knows: each has a queue and figures. Names that
/// come from outside must not grow without a bound.
const MOST_RELAYED: usize = 1_000;

/// The bytes of one event on their way to its stream, from [`Publisher::publish_raw`]: `.await` it to publish it.
#[must_use = "nothing is sent until it is awaited"]
pub struct PublishRaw<'a> {
    publisher: &'a Publisher,
    /// The stream, and the event's name and version.
    names: (&'a str, &'a str, u32),
    payload: Vec<u8>,
    key: Option<String>,
    event_id: Option<String>,
    headers: Vec<(String, String)>,
}

impl fmt::Debug for PublishRaw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishRaw").field("names", &self.names).field("event_id", &self.event_id).finish_non_exhaustive()
    }
}

impl<'a> PublishRaw<'a> {
    pub(super) fn new(publisher: &'a Publisher, names: (&'a str, &'a str, u32), payload: Vec<u8>) -> Self {
        Self { publisher, names, payload, key: None, event_id: None, headers: Vec::new() }
    }

    /// Sets the key, which picks the partition. Without one the event's id does.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the event's id: 1 to 128 bytes. A relay passes on the one that the event has, so that consumers can tell a double.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.event_id = Some(id.into());
        self
    }

    /// Adds a header, as [`Publish::header`](super::Publish::header).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn error(&self, id: Option<&str>, problem: Problem) -> PublishError {
        PublishError::of_other(self.names.0, self.names.1, id.map(str::to_owned), problem)
    }

    /// Refuses everything that can be refused without the server.
    fn check(&self, id: &str) -> Result<EventId, PublishError> {
        let (stream, event, version) = self.names;
        let Some(event_id) = EventId::new(id) else {
            return Err(self.error(None, Problem::EventId(id.to_owned())));
        };
        let refuse = |problem| self.error(Some(id), problem);
        keys::check_stream(stream).and_then(|()| keys::check_event(event)).map_err(|error| refuse(Problem::Name(error)))?;
        if version == 0 {
            return Err(refuse(Problem::Version));
        }
        check_headers(&self.headers).map_err(refuse)?;
        Ok(event_id)
    }

    async fn write(mut self, stream: &Stream, span: &Span, id: EventId) -> Result<Receipt, PublishError> {
        let (name, version) = (self.names.1, self.names.2);
        let known = self.publisher.inner.events.iter().find(|info| info.stream == self.names.0 && info.name == name);
        let limit = known.and_then(|info| info.max_payload).unwrap_or(stream.max_payload);
        if self.payload.len() > limit {
            return Err(self.error(Some(id.as_str()), Problem::TooLarge { bytes: self.payload.len(), limit }));
        }
        let key = self.key.as_deref().unwrap_or(id.as_str());
        let partition = partition_of(key, stream.declared.key.partitions());
        trace::publishes(span, partition, id.as_str());
        let trace = traced(span, &self.headers, self.publisher);
        let payload = std::mem::take(&mut self.payload);
        let event = format!("{name}@{version}");
        let fields = entry(event, id.to_string(), payload, self.headers.iter().chain(&trace));
        let answer = stream.queues[partition as usize].put(vec![fields]).await.answer().await;
        let refuse = |problem| self.error(Some(id.as_str()), problem);
        match answer {
            Ok(Durable { ids, missing }) => {
                let receipt = Receipt { partition, entry_id: ids[0], event_id: id.clone() };
                match missing {
                    None => Ok(receipt),
                    Some(missing) => Err(refuse(Problem::NotDurable { receipt: Box::new(receipt), missing })),
                }
            }
            Err(error) => Err(refuse(Problem::Broker(error))),
        }
    }
}

impl<'a> IntoFuture for PublishRaw<'a> {
    type Output = Result<Receipt, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (began, span) = (Instant::now(), trace::publish(self.names.0));
            let id = self.publisher.event_id(self.event_id.clone());
            let event_id = self.check(&id)?;
            let stream = match self.publisher.stream_named(self.names.0).await {
                Ok(stream) => stream,
                Err(error) => return Err(self.error(Some(&id), Problem::Broker(Arc::new(error)))),
            };
            let answer = self.write(&stream, &span, event_id).instrument(span.clone()).await;
            trace::ended(&span, answer.as_ref().err().map(PublishError::kind));
            stream.meters.answered(std::slice::from_ref(&answer), began.elapsed());
            answer
        })
    }
}

impl Publisher {
    /// The stream of this name: as its events declare it where one is known, else as it is recorded.
    async fn stream_named(&self, name: &str) -> Result<Arc<Stream>, BrokerError> {
        let events = &self.inner.events;
        {
            let mut streams = lock(&self.inner.streams);
            if events.iter().any(|info| info.stream == name) {
                return Ok(self.declared_stream(&mut streams, name, events));
            }
            if let Some(stream) = streams.relayed.get(name) {
                return Ok(Arc::clone(stream));
            }
            if streams.relayed.len() >= MOST_RELAYED {
                let message = format!("a publisher relays to at most {MOST_RELAYED} streams that its program does not declare; use another one, or link their events");
                return Err(BrokerError::new(BrokerErrorKind::Refused, message));
            }
        }
        let (broker, any) = (Arc::clone(&self.inner.shared.broker), StreamKey::new(self.inner.namespace.as_deref(), name, 1));
        let recorded = self.inner.shared.executor.run(async move { broker.partitions(&any).await }).await?;
        let Some(partitions) = recorded else {
            let message = format!("nobody has declared the stream `{name}`, so its number of partitions is not known; start a program that publishes or consumes its events, or link them here");
            return Err(BrokerError::new(BrokerErrorKind::Mismatch, message));
        };
        // Somebody else knows how long its entries are kept.
        let retention = Retention::Age(Duration::MAX);
        let properties = StreamProperties { partitions, retention, durability: None, max_payload: DEFAULT_MAX_PAYLOAD };
        let key = StreamKey::new(self.inner.namespace.as_deref(), name, partitions);
        let declared = Arc::new(Declared::new(key, None));
        let mut streams = lock(&self.inner.streams);
        // Another call may have been faster.
        let stream = streams.relayed.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Stream::new(&self.inner.shared, name, declared, &properties))
        });
        Ok(Arc::clone(stream))
    }
}
