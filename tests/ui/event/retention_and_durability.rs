use streams_core::stream_event;

#[stream_event(stream = "trades", retention = "consume", durability = "disk")]
struct Trade {
    price: f64,
}

#[stream_event(stream = "quotes", retention = consumed, durability = "replicas(0)")]
struct Quote {
    price: f64,
}

#[stream_event(stream = "fills", durability = "fsync, fsync")]
struct Fill {
    price: f64,
}

fn main() {}
