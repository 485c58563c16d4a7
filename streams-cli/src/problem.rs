//! The failure of a command: its words, and the exit code that goes with it.

use std::fmt;
use std::io;

use streams_runtime::broker::BrokerError;

/// The exit code of a command that failed, and of a check that warns.
pub(crate) const FAILED: u8 = 1;
/// The exit code of a command line that means nothing, and of a check that is critical.
pub(crate) const USAGE: u8 = 2;

/// Why a command ended without its work done.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Empty where nobody listens any more.
    pub(crate) words: String,
    pub(crate) code: u8,
}

impl Problem {
    /// The command line means nothing.
    pub(crate) fn usage(words: impl Into<String>) -> Self {
        Self { words: words.into(), code: USAGE }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl From<String> for Problem {
    fn from(words: String) -> Self {
        Self { words, code: FAILED }
    }
}

impl From<&str> for Problem {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        // `Debug` has the causes, too.
        format!("{error:?}").into()
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Such as `streams tail .. | head`.
            io::ErrorKind::BrokenPipe => Self { words: String::new(), code: 0 },
            _ => error.to_string().into(),
        }
    }
}
