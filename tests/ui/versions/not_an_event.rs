use streams_core::stream_event;

struct TradeV1 {
    price: f64,
}

#[stream_event(stream = "trades", version = 2, upcast_from = TradeV1)]
struct Trade {
    price: f64,
}

impl From<TradeV1> for Trade {
    fn from(old: TradeV1) -> Self {
        Self { price: old.price }
    }
}

#[stream_event(stream = "quotes", version = 2, upcast_from = QuoteV1)]
struct Quote {
    price: f64,
}

fn main() {}
