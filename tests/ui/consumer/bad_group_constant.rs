//! A constant that is no name of a group.

use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

const GROUP: &str = "risk:eu";

#[consumer(group = GROUP)]
async fn check(_trade: Trade) {}

fn main() {}
