use streams_core::{event_type, stream_event};

#[stream_event(stream = "locked", layout = "array")]
struct Trade {
    symbol: String,
    price: f64,
    side: Side,
    legs: Vec<Leg>,
}

#[event_type]
enum Side {
    Buy,
    Sell,
}

#[event_type]
struct Leg {
    venue: String,
    quantity: u64,
}

fn main() {}
