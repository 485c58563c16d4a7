//! The reply of a broker: a future of the answer, or of an error that says whether the call may have taken effect.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::BoxError;

/// The future answer of a broker.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, BrokerError>> + Send + 'a>>;

/// The answer about one of several things in one call.
pub type Answer<T> = Result<T, BrokerError>;

/// A broker could not do what the caller asked. `Debug` reports all causes, because `main` prints errors with it.
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

/// The kinds of error that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// The server cannot be reached, or asks the client to come back later. The call had no effect.
    Unavailable,
    /// No answer came: the call may have taken effect or not.
    Indefinite,
    /// The server is full. The call had no effect.
    Full,
    /// The server refuses the credentials, a permission or the type of a key. Another try without a change fails, too.
    Refused,
    /// The server lacks something that this contract needs.
    Unsupported,
    /// The server has a record that contradicts the caller's declaration.
    Mismatch,
    /// The server's answer makes no sense here.
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

    /// The kind of error.
    pub fn kind(&self) -> BrokerErrorKind {
        self.kind
    }

    /// Whether the call may have taken effect in spite of the error.
    pub fn is_indefinite(&self) -> bool {
        matches!(self.kind, BrokerErrorKind::Indefinite | BrokerErrorKind::Protocol)
    }

    /// Whether the same call may succeed later although nobody changes anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, BrokerErrorKind::Unavailable | BrokerErrorKind::Indefinite | BrokerErrorKind::Full)
    }
}
