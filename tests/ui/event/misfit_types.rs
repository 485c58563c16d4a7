use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    quantity: usize,
    offsets: Vec<Option<isize>>,
    large: u128,
    at: std::time::Instant,
    shared: std::sync::Arc<String>,
}

fn main() {}
