use streams_core::stream_event;

#[stream_event(stream = "a b", retention = "soon")]
struct Trade<T> {
    quantity: usize,
    #[serde(flatten)]
    rest: T,
}

fn main() {}
