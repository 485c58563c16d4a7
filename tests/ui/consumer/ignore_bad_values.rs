// Each of them at its own place.

use streams_core::{consumer, stream_event};

#[stream_event(stream = "orders")]
struct Placed {
    n: u64,
}

#[consumer(group = "a", ignore = "Shipped")]
async fn text(_: Placed) {}

#[consumer(group = "b", ignore = [])]
async fn nothing(_: Placed) {}

#[consumer(group = "c", ignore = ["Shipped", "two words", 3, "Shipped", Returned])]
async fn wrong(_: Placed) {}

fn main() {}
