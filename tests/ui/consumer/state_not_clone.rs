use streams_core::{State, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

struct Pool;

#[consumer(group = "risk")]
async fn check(_trade: Trade, _pool: State<Pool>) {}

fn main() {}
