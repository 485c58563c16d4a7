use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade<T> {
    price: T,
}

fn main() {}
