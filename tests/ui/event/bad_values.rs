use streams_core::stream_event;

#[stream_event(
    stream = "{trades}",
    version = "1",
    name = "a trade",
    key = "symbol",
    partitions = 0,
    retention = "5 parsecs",
    max_payload = "1 GB"
)]
struct Trade {
    price: f64,
}

#[stream_event(stream = "trades.1", version = 0, partitions = 1025, retention = "1s", max_payload = 0)]
struct Quote {
    price: f64,
}

#[stream_event(stream = trades)]
struct Fill {
    price: f64,
}

fn main() {}
