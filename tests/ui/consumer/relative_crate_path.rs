use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk", crate = events::reexport)]
async fn check(_trade: Trade) {}

fn main() {}
