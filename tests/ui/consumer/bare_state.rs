use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[derive(Clone)]
struct Limits;

#[consumer(group = "risk")]
async fn check(_trade: Trade, _limits: Limits) {}

fn main() {}
