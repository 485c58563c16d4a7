use streams_core::stream_event;

#[stream_event(stream = "trades", name = "Trade")]
struct TradeV1 {
    price: f64,
}

#[stream_event(stream = "trades", version = 2, upcast_from = TradeV1)]
struct Trade {
    price: f64,
}

struct Negative;

impl TryFrom<TradeV1> for Trade {
    type Error = Negative;

    fn try_from(old: TradeV1) -> Result<Self, Negative> {
        if old.price < 0.0 { Err(Negative) } else { Ok(Self { price: old.price }) }
    }
}

fn main() {}
