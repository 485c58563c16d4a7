//! The counters of a stream's publishes; the table of all metrics is in [`metrics`](crate::metrics).

use std::sync::Arc;
use std::time::Duration;

use super::error::PublishError;
use super::receipt::Receipt;
use crate::ops::{Counter, Histogram, Registry};

/// The kinds of publish errors, as metrics and spans say them.
const KINDS: [&str; 10] = [
    "invalid",
    "not_sent",
    "not_durable",
    "unavailable",
    "indefinite",
    "full",
    "refused",
    "unsupported",
    "mismatch",
    "protocol",
];

/// The metrics of one stream's publishes.
pub(super) struct Meters {
    /// By partition.
    published: Vec<Arc<Counter>>,
    /// By place in [`KINDS`].
    errors: [Arc<Counter>; KINDS.len()],
    duration: Arc<Histogram>,
}

impl Meters {
    pub(super) fn new(registry: &Registry, stream: &str, partitions: u32) -> Self {
        let published = |partition: u32| registry.counter("streams_published_total", &[stream, &partition.to_string()]);
        Self {
            published: (0..partitions).map(published).collect(),
            errors: KINDS.map(|kind| registry.counter("streams_publish_errors_total", &[stream, kind])),
            duration: registry.histogram("streams_publish_duration_seconds", &[stream]),
        }
    }

    /// A call was answered after this long, each of its events with one of these.
    pub(super) fn answered(&self, answers: &[Result<Receipt, PublishError>], took: Duration) {
        self.duration.record(took);
        for answer in answers {
            let receipt = match answer {
                Ok(receipt) => Some(receipt),
                Err(error) => {
                    let place = KINDS.iter().position(|kind| *kind == error.kind());
                    place.into_iter().for_each(|place| self.errors[place].add(1));
                    // It is in the stream all the same.
                    error.receipt()
                }
            };
            if let Some(published) = receipt.and_then(|receipt| self.published.get(receipt.partition as usize)) {
                published.add(1);
            }
        }
    }
}
