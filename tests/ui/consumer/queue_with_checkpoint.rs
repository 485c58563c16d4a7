//! A checkpoint of a work queue.

use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "mail", delivery = "queue", checkpoint = "each")]
async fn send(_trade: Trade) {}

fn main() {}
