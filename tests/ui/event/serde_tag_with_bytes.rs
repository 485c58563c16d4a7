use streams_core::{event_type, stream_event};

#[event_type]
#[serde(tag = "kind")]
enum Body {
    Raw { bytes: Vec<u8> },
}

#[stream_event(stream = "trades")]
struct Trade {
    body: Body,
}

fn main() {}
