//! Promises of ordered delivery: order, lanes and batches.

mod delivery;
mod lanes;
mod batches;
