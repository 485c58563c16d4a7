use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    #[serde(skip_serializing, default)]
    price: f64,
}

fn main() {}
