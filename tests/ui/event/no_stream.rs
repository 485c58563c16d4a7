use streams_core::stream_event;

#[stream_event(version = 1)]
struct Trade {
    price: f64,
}

fn main() {}
