//! Several events at once in lanes.

use streams_core::{Batch, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk", concurrency = 8)]
async fn check(_trades: Batch<Trade>) {}

fn main() {}
