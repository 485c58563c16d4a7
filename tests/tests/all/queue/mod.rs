//! Promises of a work queue, and random walks over its calls.

mod delivery;
mod walks;
