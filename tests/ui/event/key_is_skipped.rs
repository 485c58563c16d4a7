use streams_core::stream_event;

#[stream_event(stream = "trades", key = symbol)]
struct Trade {
    #[serde(skip)]
    symbol: String,
}

fn main() {}
