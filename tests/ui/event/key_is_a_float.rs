use streams_core::stream_event;

#[stream_event(stream = "trades", key = price)]
struct Trade {
    price: f64,
}

fn main() {}
