//! [`Job`] tells the worker process of the end-to-end tests how to behave.

use streams_runtime::{event_type, stream_event};

/// An event that says what its handler does.
#[stream_event(stream = "jobs")]
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Which one.
    pub n: u64,
    /// The behaviour of its handler; jobs of other clients may leave it out.
    pub does: Option<Does>,
}

/// The behaviour of a handler.
#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub enum Does {
    /// Waits for so many milliseconds.
    Wait(u64),
    /// Blocks its thread for so many milliseconds.
    Block(u64),
    /// Fails.
    Fail,
}
