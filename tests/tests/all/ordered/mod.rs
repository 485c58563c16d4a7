//! Promises of ordered delivery: order, lanes and batches.

mod dedupe;
mod delivery;
mod lanes;
mod batches;
