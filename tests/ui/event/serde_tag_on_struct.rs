use streams_core::stream_event;

#[stream_event(stream = "trades")]
#[serde(tag = "type")]
struct Trade {
    price: f64,
}

fn main() {}
