use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade(f64);

#[stream_event(stream = "trades")]
struct Closed;

fn main() {}
