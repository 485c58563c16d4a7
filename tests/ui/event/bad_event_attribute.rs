use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    #[event(key)]
    symbol: String,
    #[event(wire = "u64 or so")]
    price: f64,
    #[event(opaque = "size")]
    size: f64,
}

fn main() {}
