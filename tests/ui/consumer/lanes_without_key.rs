//! Lanes for events without a key.

use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk", concurrency = 8)]
async fn check(_trade: Trade) {}

// One event at once needs no key, nor does a work queue.
#[consumer(group = "audit", concurrency = 1)]
async fn audit(_trade: Trade) {}

#[consumer(group = "mail", delivery = "queue", concurrency = 8)]
async fn send(_trade: Trade) {}

fn main() {}
