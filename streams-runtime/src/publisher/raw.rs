//! Bytes that another program has encoded on their way to a stream: the type of their event is not known here.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use streams_core::EventId;
use streams_core::keys::{self, partition_of};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::error::{Problem, PublishError};
use super::receipt::Receipt;
use super::streams::{Inner, Stream, check_headers, entry, outcome, traced};
use crate::ops::{TraceContext, trace};

/// The bytes of one event on their way to its stream, from [`Publisher::publish_raw`](super::Publisher::publish_raw): `.await` it to publish it.
#[must_use = "nothing is sent until it is awaited"]
pub struct PublishRaw<'a> {
    publisher: &'a Inner,
    /// The trace of the event that is handled meanwhile.
    handling: Option<&'a TraceContext>,
    /// The stream, and the event's name and version.
    names: (&'a str, &'a str, u32),
    payload: Vec<u8>,
    key: Option<String>,
    event_id: Option<String>,
    headers: Vec<(String, String)>,
}

impl fmt::Debug for PublishRaw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishRaw")
            .field("names", &self.names)
            .field("event_id", &self.event_id)
            .finish_non_exhaustive()
    }
}

impl<'a> PublishRaw<'a> {
    pub(super) fn new(
        publisher: &'a Inner,
        handling: Option<&'a TraceContext>,
        names: (&'a str, &'a str, u32),
        payload: Vec<u8>,
    ) -> Self {
        Self { publisher, handling, names, payload, key: None, event_id: None, headers: Vec::new() }
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
        keys::check_stream(stream)
            .and_then(|()| keys::check_event(event))
            .map_err(|error| refuse(Problem::Name(error)))?;
        if version == 0 {
            return Err(refuse(Problem::Version));
        }
        check_headers(&self.headers).map_err(refuse)?;
        Ok(event_id)
    }

    async fn write(mut self, stream: &Stream, span: &Span, id: EventId) -> Result<Receipt, PublishError> {
        let (name, version) = (self.names.1, self.names.2);
        let known = self.publisher.events.iter().find(|info| info.stream == self.names.0 && info.name == name);
        let limit = known.and_then(|info| info.max_payload).unwrap_or(stream.max_payload);
        if self.payload.len() > limit {
            return Err(self.error(Some(id.as_str()), Problem::TooLarge { bytes: self.payload.len(), limit }));
        }
        let key = self.key.as_deref().unwrap_or(id.as_str());
        let partition = partition_of(key, stream.declared.key.partitions());
        trace::publishes(span, partition, id.as_str());
        let trace = traced(span, &self.headers, self.handling, &self.publisher.shared.random);
        let payload = std::mem::take(&mut self.payload);
        let event = format!("{name}@{version}");
        let fields = entry(event, id.to_string(), payload, self.headers.iter().chain(&trace));
        let answer = stream.queues[partition as usize].put(vec![fields]).await.answer().await;
        outcome(partition, id.clone(), 0, &answer).map_err(|problem| self.error(Some(id.as_str()), problem))
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
