use streams_core::{Batch, Context, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "warehouse")]
async fn load(_trade: Trade, _ctx: Context, _trades: Batch<Trade>) {}

fn main() {}
