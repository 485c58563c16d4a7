use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    #[serde(rename(serialize = "px", deserialize = "price"))]
    price: f64,
}

fn main() {}
