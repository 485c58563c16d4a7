use streams_core::{consumer, stream_event};

// One mistake in the event must not become one more at each use of it.
#[stream_event(strem = "trades")]
#[derive(Debug, Clone)]
struct Trade {
    #[serde(default)]
    price: f64,
}

#[consumer(group = "risk")]
async fn check(trade: Trade) {
    println!("{}", trade.price);
}

fn main() {}
