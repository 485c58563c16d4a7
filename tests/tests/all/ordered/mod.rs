//! What ordered delivery promises: order, lanes and batches.

mod delivery;
mod lanes;
mod batches;
