use streams_core::stream_event;

#[stream_event(stream = "orders", key = id)]
enum Order {
    Placed { id: u64 },
    Shipped(u64),
    Closed,
}

fn main() {}
