use streams_core::stream_event;

#[stream_event(stream = "trades", name = "Trade", version = 2, oldest = 2)]
struct TradeV2 {
    price: f64,
}

#[stream_event(stream = "trades", version = 3, upcast_from = TradeV2, oldest = 1)]
struct Trade {
    price: f64,
}

impl From<TradeV2> for Trade {
    fn from(old: TradeV2) -> Self {
        Self { price: old.price }
    }
}

fn main() {}
