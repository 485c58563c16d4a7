use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

struct Quote;

#[consumer(group = "risk")]
async fn check(_quote: Quote) {}

fn main() {}
