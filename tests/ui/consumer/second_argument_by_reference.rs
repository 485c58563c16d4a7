use streams_core::{Context, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk")]
async fn check(_trade: Trade, _ctx: &Context) {}

fn main() {}
