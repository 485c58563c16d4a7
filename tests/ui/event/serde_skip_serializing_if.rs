use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    #[serde(skip_serializing_if = "String::is_empty")]
    venue: String,
}

fn main() {}
