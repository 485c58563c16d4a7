//! Keeps the log of the code under test for a test to read.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// The log of this thread, from now until this is dropped: for tests on one thread.
#[derive(Debug)]
pub struct Log {
    lines: Lines,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

/// Begins to keep what this thread logs, warnings and errors.
pub fn logged() -> Log {
    logged_from(tracing::Level::WARN)
}

/// Begins to keep what this thread logs at this level and above it.
pub fn logged_from(level: tracing::Level) -> Log {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false);
    let guard = tracing::subscriber::set_default(subscriber.with_max_level(level).finish());
    Log { lines, _guard: guard }
}

impl Log {
    /// Everything that was logged.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The lines that were logged since there were so many bytes of text.
    pub fn lines_since(&self, bytes: usize) -> Vec<String> {
        self.text()[bytes..].lines().map(str::to_owned).collect()
    }

    /// How often the log has this text.
    pub fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
