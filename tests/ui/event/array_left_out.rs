use streams_core::{event_type, stream_event};

#[stream_event(stream = "trades", layout = "array")]
struct Trade {
    legs: Vec<Leg>,
}

#[event_type]
struct Leg {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    venue: String,
    price: f64,
}

fn main() {}
