use streams_core::stream_event;

#[stream_event(stream = "trades", version = 5, oldest = 3)]
struct Trade {
    price: f64,
}

fn main() {}
