use streams_core::{Message, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk", batch = 500)]
async fn check(_trade: Trade) {}

#[consumer(group = "audit", batch = 500, batch_wait = "200ms")]
async fn audit(_trade: &Message<Trade>) {}

fn main() {}
