//! Promises of a group of either delivery: the user's code may fail, events may be lost, keys may go.

mod poison;
mod fence;
pub(crate) mod loss;
mod gone;
mod adopt;
