//! Two groups on one function.

use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk")]
#[consumer(group = "audit")]
async fn check(_trade: Trade) {}

fn main() {
    let _ = streams_core::consumers![check];
}
