//! How a broker answers: later, with what was asked for or with an error that says whether the call may have taken effect.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::BoxError;

/// The answer of a broker, still to come.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, BrokerError>> + Send + 'a>>;

/// The answer about one of several things that were asked for together.
pub type Answer<T> = Result<T, BrokerError>;

/// A broker could not do what it was asked. Its `Debug` is a report with all causes, because `main` prints that.
#[derive(thiserror::Error)]
#[error("{message}")]
pub struct BrokerError {
    kind: BrokerErrorKind,
    message: String,
    #[source]
    source: Option<BoxError>,
}

impl fmt::Debug for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries name an error as its own source.
            if text != said {
                write!(f, "\n  caused by: {text}")?;
            }
            next = cause.source();
            said = text;
        }
        Ok(())
    }
}

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// The server cannot be reached, or asks to come back later. The call had no effect.
    Unavailable,
    /// The answer did not come: the call may have taken effect or not.
    Indefinite,
    /// The server is full. The call had no effect.
    Full,
    /// Credentials, permissions or the type of a key: another try without a change fails, too.
    Refused,
    /// The server lacks something that this contract needs.
    Unsupported,
    /// What is recorded on the server contradicts what the caller declares.
    Mismatch,
    /// The server answered something that makes no sense here.
    Protocol,
}

impl BrokerError {
    /// An error with its message: lower case, no full stop, naming key and remedy.
    pub fn new(kind: BrokerErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> BrokerErrorKind {
        self.kind
    }

    /// Whether the call may have taken effect all the same.
    pub fn is_indefinite(&self) -> bool {
        matches!(self.kind, BrokerErrorKind::Indefinite | BrokerErrorKind::Protocol)
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, BrokerErrorKind::Unavailable | BrokerErrorKind::Indefinite | BrokerErrorKind::Full)
    }
}
