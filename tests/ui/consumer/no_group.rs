use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer]
async fn check(_trade: Trade) {}

#[consumer()]
async fn check_again(_trade: Trade) {}

fn main() {}
