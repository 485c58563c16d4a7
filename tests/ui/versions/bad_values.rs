use streams_core::stream_event;

#[stream_event(stream = "trades", version = 2, upcast_from = "TradeV1", oldest = "1")]
struct Trade {
    price: f64,
}

#[stream_event(stream = "quotes", version = 2, upcast_form = QuoteV1)]
struct Quote {
    price: f64,
}

fn main() {}
