use streams_core::stream_event;

#[stream_event(stream = "trades", version = 2, oldest = 3)]
struct Trade {
    price: f64,
}

#[stream_event(stream = "quotes", oldest = 2)]
struct Quote {
    price: f64,
}

fn main() {}
