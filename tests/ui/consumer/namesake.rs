//! A module, or a type, with the name of the function.

use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

mod check {}

#[consumer(group = "risk")]
async fn check(_trade: Trade) {}

#[allow(non_camel_case_types)]
struct audit {}

#[consumer(group = "audit")]
async fn audit(_trade: Trade) {}

fn main() {}
