//! The recipe of an events crate: the crate.

use streams_core::{event_type, stream_event};

/// A customer has ordered something.
#[stream_event(stream = "shop-orders", key = order, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Ordered {
    pub order: u64,
    pub lines: Vec<Line>,
}

/// One thing of an order.
#[event_type]
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub item: String,
    pub quantity: u32,
}
