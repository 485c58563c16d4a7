use streams_core::stream_event;

#[stream_event(stream = "trades", version = 2)]
struct Trade {
    price: f64,
}

#[stream_event(stream = "quotes", version = 4)]
struct Quote {
    price: f64,
}

fn main() {}
