//! The error of a publish: why the event could not be published, or why that is not known.

use std::fmt;
use std::sync::Arc;

use streams_core::broker::{BrokerError, BrokerErrorKind};
use streams_core::codec::EncodeError;
use streams_core::keys::InvalidName;
use streams_core::{EventId, EventInfo};

use super::receipt::Receipt;

/// The most headers of an event, and the most bytes they may have together: what is kept free of the 1 MiB of an entry.
pub(super) const MAX_HEADERS: usize = 32;
pub(super) const MAX_HEADER_BYTES: usize = 3 * 1024;

/// An event could not be published, or it is not known whether it was. Its `Debug` is a report, because `main` prints that.
#[derive(thiserror::Error)]
#[error("event `{}` for stream `{}`{}: {problem}", .of.event(), .of.stream(), .event_id.as_ref().map(|id| format!(", id {id}")).unwrap_or_default())]
pub struct PublishError {
    of: Of,
    event_id: Option<String>,
    #[source]
    problem: Problem,
}

impl fmt::Debug for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut next = self.broker().and_then(std::error::Error::source);
        while let Some(cause) = next {
            write!(f, "\n  caused by: {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// The event that was published.
enum Of {
    Declared(&'static EventInfo),
    /// That of another program: its stream and its name.
    Other(Box<(String, String)>),
}

impl Of {
    fn stream(&self) -> &str {
        match self {
            Self::Declared(info) => info.stream,
            Self::Other(names) => &names.0,
        }
    }

    fn event(&self) -> &str {
        match self {
            Self::Declared(info) => info.name,
            Self::Other(names) => &names.1,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{0}")]
    Encode(EncodeError),
    #[error("it cannot be written, as its own code panicked: {0}")]
    Panicked(String),
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
    #[error("{0}")]
    Name(InvalidName),
    #[error("its version is 0; the first version of an event is 1")]
    Version,
    #[error("not sent, because an earlier event for the same partition failed")]
    NotSent,
    #[error(
        "it is in the stream as entry {}, but not as durable as asked: {missing}; look after the replicas or the disk \
         rather than publish it again", .receipt.entry_id
    )]
    NotDurable { receipt: Box<Receipt>, missing: String },
    #[error("{}{}", .0, remedy(.0))]
    Broker(Arc<BrokerError>),
}

/// The remedy, where the broker cannot know it.
fn remedy(error: &BrokerError) -> &'static str {
    if error.is_indefinite() {
        "; publish it again with the same event id, so that consumers can tell a double"
    } else {
        ""
    }
}

impl PublishError {
    pub(super) fn of(info: &'static EventInfo, event_id: Option<String>, problem: Problem) -> Self {
        Self { of: Of::Declared(info), event_id, problem }
    }

    /// The same for an event of another program.
    pub(super) fn of_other(stream: &str, event: &str, event_id: Option<String>, problem: Problem) -> Self {
        let of = Of::Other(Box::new((stream.to_owned(), event.to_owned())));
        Self { of, event_id, problem }
    }

    fn broker(&self) -> Option<&BrokerError> {
        match &self.problem {
            Problem::Broker(error) => Some(error),
            _ => None,
        }
    }

    /// The kind of error, in one word for metrics and spans.
    pub(super) fn kind(&self) -> &'static str {
        match &self.problem {
            Problem::NotSent => "not_sent",
            Problem::NotDurable { .. } => "not_durable",
            Problem::Broker(error) => match error.kind() {
                BrokerErrorKind::Unavailable => "unavailable",
                BrokerErrorKind::Indefinite => "indefinite",
                BrokerErrorKind::Full => "full",
                BrokerErrorKind::Refused => "refused",
                BrokerErrorKind::Unsupported => "unsupported",
                BrokerErrorKind::Mismatch => "mismatch",
                _ => "protocol",
            },
            Problem::Encode(_)
            | Problem::Panicked(_)
            | Problem::TooLarge { .. }
            | Problem::Header { .. }
            | Problem::Headers { .. }
            | Problem::EventId(_)
            | Problem::Name(_)
            | Problem::Version => "invalid",
        }
    }

    /// The id that the event had: publish again with the same one, so that consumers can tell a double.
    pub fn event_id(&self) -> Option<&str> {
        self.event_id.as_deref()
    }

    /// Where the event stands, although it is an error: only where [`Self::is_not_durable`].
    pub fn receipt(&self) -> Option<&Receipt> {
        match &self.problem {
            Problem::NotDurable { receipt, .. } => Some(receipt),
            _ => None,
        }
    }

    /// Whether the server is full: publish again later, more slowly.
    pub fn is_backpressure(&self) -> bool {
        self.broker().is_some_and(|error| error.kind() == BrokerErrorKind::Full)
    }

    /// Whether the event may be in the stream all the same.
    pub fn is_indefinite(&self) -> bool {
        self.broker().is_some_and(BrokerError::is_indefinite)
    }

    /// Whether the event *is* in the stream, and will be handled, but is not as safe as the stream's `durability` asks.
    /// Publishing it again adds it twice.
    pub fn is_not_durable(&self) -> bool {
        self.receipt().is_some()
    }

    /// Whether the same publish may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        self.is_not_sent() || self.broker().is_some_and(BrokerError::is_retryable)
    }

    /// Whether nothing was sent because an earlier event for the same partition failed.
    pub fn is_not_sent(&self) -> bool {
        matches!(self.problem, Problem::NotSent)
    }

    /// Whether the event itself is at fault: too large, a bad header or name, not encodable.
    pub fn is_refused(&self) -> bool {
        match &self.problem {
            Problem::Encode(_)
            | Problem::Panicked(_)
            | Problem::TooLarge { .. }
            | Problem::Header { .. }
            | Problem::Headers { .. }
            | Problem::EventId(_)
            | Problem::Name(_)
            | Problem::Version => true,
            Problem::NotSent | Problem::NotDurable { .. } | Problem::Broker(_) => false,
        }
    }
}
