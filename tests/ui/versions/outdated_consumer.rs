use streams_core::{Message, consumer, frozen_event};

frozen_event!(TradeV1, stream = "versioned", name = "Trade", version = 1);

#[consumer(group = "risk")]
async fn check(_trade: Message<TradeV1>) {}

fn main() {}
