//! The streams to which a publisher has published, and the entries that it makes for them.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{BrokerError, BrokerErrorKind, Durable, Fields};
use streams_core::codec::DEFAULT_MAX_PAYLOAD;
use streams_core::keys::StreamKey;
use streams_core::{Entry, EventId, EventInfo, Headers, Retention};
use tracing::Span;

use super::error::{MAX_HEADER_BYTES, MAX_HEADERS, Problem};
use super::meters::Meters;
use super::queue::{Answer, Declared, Queue, Shared};
use super::receipt::Receipt;
use super::retention::Floor;
use crate::declared::{StreamProperties, stream_problem, stream_properties};
use crate::ops::{TraceContext, trace};
use crate::random::Random;
use crate::sync::lock;

/// The most streams to which a publisher relays, besides those whose events it knows: each has a queue and figures. Names that
/// come from outside must not grow without a bound.
const MOST_RELAYED: usize = 1_000;

/// The parts of a publisher that its clones share.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) namespace: Option<String>,
    /// The events whose declarations say what holds for their streams.
    pub(super) events: Vec<&'static EventInfo>,
    pub(super) streams: Mutex<Streams>,
}

/// The streams that were published to.
#[derive(Default)]
pub(super) struct Streams {
    /// By the type of event, those of one stream all to the same.
    pub(super) by_type: HashMap<TypeId, Arc<Stream>>,
    pub(super) declared: HashMap<String, Arc<Stream>>,
    /// Those of which no event is known here.
    pub(super) relayed: HashMap<String, Arc<Stream>>,
}

/// The publisher's knowledge of one stream.
pub(super) struct Stream {
    pub(super) declared: Arc<Declared>,
    /// One for each partition.
    pub(super) queues: Vec<Arc<Queue>>,
    /// The largest payload of an event whose own limit is not known.
    pub(super) max_payload: usize,
    pub(super) meters: Meters,
}

impl Inner {
    /// The stream of this name, as these events declare it.
    pub(super) fn declared_stream(
        &self,
        streams: &mut Streams,
        name: &str,
        events: &[&'static EventInfo],
    ) -> Arc<Stream> {
        if let Some(stream) = streams.declared.get(name) {
            return Arc::clone(stream);
        }
        let properties = stream_properties(name, events);
        let key = StreamKey::new(self.namespace.as_deref(), name, properties.partitions);
        let declared = Arc::new(Declared::new(key, stream_problem(name, events)));
        let stream = Arc::new(Stream::new(&self.shared, name, declared, &properties));
        streams.declared.insert(name.to_owned(), Arc::clone(&stream));
        stream
    }

    /// The stream of this name: as its events declare it where one is known, else as it is recorded.
    pub(super) async fn stream_named(&self, name: &str) -> Result<Arc<Stream>, BrokerError> {
        let events = &self.events;
        {
            let mut streams = lock(&self.streams);
            if events.iter().any(|info| info.stream == name) {
                return Ok(self.declared_stream(&mut streams, name, events));
            }
            if let Some(stream) = streams.relayed.get(name) {
                return Ok(Arc::clone(stream));
            }
            if streams.relayed.len() >= MOST_RELAYED {
                let message = format!(
                    "a publisher relays to at most {MOST_RELAYED} streams that its program does not declare; use another one, or link their events"
                );
                return Err(BrokerError::new(BrokerErrorKind::Refused, message));
            }
        }
        let (broker, any) = (Arc::clone(&self.shared.broker), StreamKey::new(self.namespace.as_deref(), name, 1));
        let recorded = self.shared.executor.run(async move { broker.partitions(&any).await }).await?;
        let Some(partitions) = recorded else {
            let message = format!(
                "nobody has declared the stream `{name}`, so its number of partitions is not known; start a program that publishes or consumes its events, or link them here"
            );
            return Err(BrokerError::new(BrokerErrorKind::Mismatch, message));
        };
        // Somebody else knows how long its entries are kept.
        let retention = Retention::Age(Duration::MAX);
        let properties = StreamProperties { partitions, retention, durability: None, max_payload: DEFAULT_MAX_PAYLOAD };
        let key = StreamKey::new(self.namespace.as_deref(), name, partitions);
        let declared = Arc::new(Declared::new(key, None));
        let mut streams = lock(&self.streams);
        // Another call may have been faster.
        let stream = streams
            .relayed
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Stream::new(&self.shared, name, declared, &properties)));
        Ok(Arc::clone(stream))
    }

    /// The id that the caller gave, or a fresh one.
    pub(super) fn event_id(&self, given: Option<String>) -> String {
        let shared = &self.shared;
        given.unwrap_or_else(|| shared.random.event_id(shared.clock.wall_ms()).to_string())
    }
}

impl Stream {
    fn new(shared: &Arc<Shared>, name: &str, declared: Arc<Declared>, properties: &StreamProperties) -> Self {
        let partitions = declared.key.partitions();
        let queue = |index| {
            let floor = Floor::new(properties.retention, shared.expire_after);
            Arc::new(Queue::new(shared, &declared, index, properties.durability, floor))
        };
        Self {
            queues: (0..partitions).map(queue).collect(),
            max_payload: properties.max_payload,
            meters: Meters::new(&shared.registry, name, partitions),
            declared,
        }
    }
}

/// The fields of an entry whose parts were checked. The trace has its room beside the headers: nobody is refused for what we add.
pub(super) fn entry<'a>(
    event: String,
    event_id: String,
    payload: Vec<u8>,
    headers: impl Iterator<Item = &'a (String, String)>,
) -> Fields {
    let own = [(Entry::EVENT, event.into_bytes()), (Entry::ID, event_id.into_bytes()), (Entry::PAYLOAD, payload)];
    let own = own.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value));
    own.chain(headers.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))).collect()
}

/// The outcome of the event whose entry is this one of a write.
pub(super) fn outcome(partition: u32, event_id: EventId, at: usize, answer: &Answer) -> Result<Receipt, Problem> {
    match answer {
        Ok(Durable { ids, missing }) => {
            // The queue answers with an id for every entry.
            let receipt = Receipt { partition, entry_id: ids[at], event_id };
            match missing.clone() {
                None => Ok(receipt),
                Some(missing) => Err(Problem::NotDurable { receipt: Box::new(receipt), missing }),
            }
        }
        Err(error) => Err(Problem::Broker(Arc::clone(error))),
    }
}

/// The trace that an event carries on, unless its publisher has given it one.
pub(super) fn traced(
    span: &Span,
    headers: &[(String, String)],
    handling: Option<&TraceContext>,
    random: &Random,
) -> Vec<(String, String)> {
    match headers.iter().find(|(name, _)| name == trace::TRACEPARENT) {
        Some((_, own)) => {
            trace::carries(span, own);
            Vec::new()
        }
        None => trace::headers(span, handling, random),
    }
}

pub(super) fn check_headers(headers: &[(String, String)]) -> Result<(), Problem> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
