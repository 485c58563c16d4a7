use streams_core::{event_type, stream_event};

#[event_type]
#[serde(untagged)]
enum Price {
    Number(f64),
    Text(String),
}

#[stream_event(stream = "trades")]
struct Trade {
    price: Price,
}

fn main() {}
