use streams_core::{Context, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(max_attempts = 0)]
fn check<T>(_trade: &mut Trade, _ctx: &Context, _rest: impl Sized) {}

fn main() {}
