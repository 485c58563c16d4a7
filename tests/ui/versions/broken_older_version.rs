use streams_core::stream_event;

// A mistake in the older type must not become one more at the newer.
#[stream_event(strem = "trades", name = "Trade")]
struct TradeV1 {
    price: f64,
}

#[stream_event(stream = "trades", version = 2, upcast_from = TradeV1, oldest = 1)]
struct Trade {
    price: f64,
}

impl From<TradeV1> for Trade {
    fn from(old: TradeV1) -> Self {
        Self { price: old.price }
    }
}

fn main() {}
