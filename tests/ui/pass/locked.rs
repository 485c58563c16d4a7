//! The types of the lock, in another order and with other names.

use streams_core::{event_type, stream_event};

#[stream_event(stream = "locked", name = "Trade")]
#[derive(Debug)]
struct Fill {
    price: f64,
    symbol: String,
    venue: Option<String>,
    side: Side,
    legs: Vec<Part>,
}

#[event_type]
#[derive(Debug)]
enum Side {
    Buy,
    Sell,
}

#[event_type]
#[derive(Debug)]
struct Part {
    venue: String,
    quantity: u64,
}

fn main() {}
