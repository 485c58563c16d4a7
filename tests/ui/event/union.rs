use streams_core::stream_event;

#[stream_event(stream = "trades")]
union Trade {
    price: f64,
}

fn main() {}
