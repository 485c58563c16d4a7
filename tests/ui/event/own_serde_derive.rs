use streams_core::stream_event;

#[stream_event(stream = "trades")]
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Trade {
    price: f64,
}

fn main() {}
