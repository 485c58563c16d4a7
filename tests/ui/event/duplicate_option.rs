use streams_core::stream_event;

#[stream_event(stream = "trades", version = 1, version = 2)]
struct Trade {
    price: f64,
}

fn main() {}
