use streams_core::stream_event;

struct Leg {
    venue: String,
}

#[stream_event(stream = "trades")]
struct Trade {
    legs: Vec<Leg>,
}

fn main() {}
