use streams_core::stream_event;

#[stream_event(stream = "trades", verison = 2)]
struct Trade {
    price: f64,
}

#[stream_event(strem = "trades")]
struct Quote {
    price: f64,
}

#[stream_event(stream = "trades", retries = 3)]
struct Fill {
    price: f64,
}

fn main() {}
