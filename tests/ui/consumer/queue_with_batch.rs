//! Several events at once from a work queue.

use streams_core::{Batch, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "mail", delivery = "queue")]
async fn send(_trades: Batch<Trade>) {}

fn main() {}
