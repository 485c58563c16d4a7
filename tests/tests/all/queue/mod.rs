//! What a work queue promises, and random walks over its calls.

mod delivery;
mod walks;
