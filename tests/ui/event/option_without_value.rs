use streams_core::stream_event;

#[stream_event(stream)]
struct Trade {
    price: f64,
}

#[stream_event("trades")]
struct Quote {
    price: f64,
}

fn main() {}
