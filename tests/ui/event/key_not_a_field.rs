use streams_core::stream_event;

#[stream_event(stream = "trades", key = symbl)]
struct Trade {
    symbol: String,
}

fn main() {}
