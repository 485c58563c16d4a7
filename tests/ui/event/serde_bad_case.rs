use streams_core::stream_event;

#[stream_event(stream = "trades")]
#[serde(rename_all = "camel")]
struct Trade {
    price: f64,
    size: f64,
}

fn main() {}
