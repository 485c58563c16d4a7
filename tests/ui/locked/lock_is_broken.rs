use streams_core::stream_event;

#[stream_event(stream = "broken")]
struct Trade {
    price: f64,
}

fn main() {}
