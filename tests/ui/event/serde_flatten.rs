use streams_core::{event_type, stream_event};

#[event_type]
struct Leg {
    venue: String,
}

#[stream_event(stream = "trades")]
struct Trade {
    #[serde(flatten)]
    leg: Leg,
}

fn main() {}
