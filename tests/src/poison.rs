//! What the worker process of the tests of poison is told to do: [`Dose`].

use streams_runtime::{event_type, stream_event};

/// An event that may end the process that handles it.
#[stream_event(stream = "doses", lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Dose {
    /// Which one.
    pub n: u64,
    /// How it ends the process.
    pub by: Option<End>,
    /// How often it does; afterwards it is handled like any other.
    pub times: u32,
}

/// How a process ends.
#[event_type]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// It aborts.
    Abort,
    /// Its stack overflows.
    Overflow,
    /// It exits, as if all was well.
    Exit,
    /// It takes more memory than it may have.
    Exhaust,
}
