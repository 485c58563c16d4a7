use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade<'a> {
    symbol: &'a str,
}

#[stream_event(stream = "trades")]
struct Quote {
    symbol: &'static str,
}

fn main() {}
