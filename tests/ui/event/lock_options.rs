use streams_core::stream_event;

#[stream_event(stream = "trades", compat = "forward", layout = "list", lock = true)]
struct Trade {
    price: f64,
}

#[stream_event(stream = "trades", compat = "full", layout = "array")]
struct Fill {
    price: f64,
}

fn main() {}
