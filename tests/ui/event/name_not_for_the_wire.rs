//! A type gives the event its name, and the name has to be one for Redis.
use streams_core::stream_event;

#[stream_event(stream = "transfers")]
struct Überweisung {
    amount: u64,
}

#[stream_event(stream = "transfers")]
struct _Probe {
    amount: u64,
}

#[stream_event(stream = "transfers")]
enum Streams {
    Made { amount: u64 },
}

#[stream_event(stream = "transfers", name = "Transfer")]
struct Übertrag {
    amount: u64,
}

fn main() {
    let _ = (Überweisung { amount: 1 }, _Probe { amount: 1 }, Streams::Made { amount: 1 }, Übertrag { amount: 1 });
}
