use streams_core::stream_event;

mod old {
    #[streams_core::stream_event(stream = "trades")]
    pub struct TradeV1 {
        pub price: f64,
    }
}

#[stream_event(stream = "trades", version = 2, upcast_from = old::TradeV1)]
struct Trade {
    price: f64,
}

impl From<old::TradeV1> for Trade {
    fn from(old: old::TradeV1) -> Self {
        Self { price: old.price }
    }
}

fn main() {}
