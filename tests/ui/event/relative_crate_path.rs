use streams_core::stream_event;

#[stream_event(stream = "trades", crate = streams_core)]
struct Trade {
    price: f64,
}

fn main() {}
