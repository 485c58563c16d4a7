use streams_core::stream_event;

#[stream_event(stream = "trades", name = "Trade")]
struct TradeV1 {
    price: f64,
}

#[stream_event(stream = "trades", version = 3, upcast_from = TradeV1)]
struct Trade {
    price: f64,
}

impl From<TradeV1> for Trade {
    fn from(old: TradeV1) -> Self {
        Self { price: old.price }
    }
}

fn main() {}
