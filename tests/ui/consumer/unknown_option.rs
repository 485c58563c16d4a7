use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(grup = "risk")]
async fn check(_trade: Trade) {}

#[consumer(group = "risk", max_atempts = 3)]
async fn check_more(_trade: Trade) {}

#[consumer(group = "risk", retries = 3)]
async fn check_again(trade: Trade) {}

fn main() {}
