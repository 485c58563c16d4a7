//! A function of a type, without `self`.

use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

struct Risk;

impl Risk {
    #[consumer(group = "risk")]
    async fn check(_trade: Trade) {}
}

fn main() {}
