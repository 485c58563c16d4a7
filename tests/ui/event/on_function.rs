use streams_core::stream_event;

#[stream_event(stream = "trades")]
fn trade() {}

#[streams_core::event_type]
fn side() {}

fn main() {
    trade();
    side();
}
