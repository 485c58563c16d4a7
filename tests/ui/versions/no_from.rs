use streams_core::stream_event;

#[stream_event(stream = "trades", name = "Trade")]
struct TradeV1 {
    price: f64,
}

#[stream_event(stream = "trades", version = 2, upcast_from = TradeV1)]
struct Trade {
    price: f64,
}

fn main() {}
