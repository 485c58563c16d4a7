use streams_core::{consumer, frozen_event};

frozen_event!(pub TradeV3, stream = "versioned", name = "Trade", version = 3);
frozen_event!(pub TradV1, stream = "versioned", name = "Trad", version = 1);
frozen_event!(pub OrderV1, stream = "orders", name = "Order", version = 1);
frozen_event!(pub QuoteV1, stream = "versioned", version = 1, layout = "map");
frozen_event!(pub QuoteV2: "versioned", "Quote", 2);

// One mistake, not one more at each use.
#[consumer(group = "risk")]
async fn check(_trade: TradeV3) {}

fn main() {}
