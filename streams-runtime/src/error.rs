//! The one error of the crate's own calls: why an app cannot start or go on.

use std::fmt;

use streams_core::broker::BrokerError;
use streams_core::codec::DecodeError;

use crate::halt::Halt;

/// Why an app cannot start, cannot go on, or cannot say what it was asked. Its `Debug` is a report for people, because `main` prints that.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Everything that is wrong with what the program declares or is configured to do.
    #[error("this app cannot start: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// The broker cannot be used.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The thread that renews leases, or the one that waits for signals, could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
    /// An event that was read apart from a delivery cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The app stops before it came to that.
    #[error("the app stops")]
    Stopping,
    /// A group waits for somebody to do something.
    #[error("halted: {0}")]
    Halted(Halt),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problems) => {
                f.write_str("this app cannot start:")?;
                problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
            other => {
                write!(f, "{other}")?;
                let (mut next, mut shown) = (std::error::Error::source(other), String::new());
                while let Some(cause) = next {
                    // Some error types are their own source in other words, others in the same.
                    let text = cause.to_string();
                    if text != shown {
                        write!(f, "\n  caused by: {text}")?;
                    }
                    shown = text;
                    next = cause.source();
                }
                Ok(())
            }
        }
    }
}
