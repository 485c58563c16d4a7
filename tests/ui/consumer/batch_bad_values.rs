use streams_core::{Batch, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "warehouse", batch = 0, batch_wait = "2m")]
async fn load(_trades: Batch<Trade>) {}

#[consumer(group = "warehouse", batch = 10001, batch_wait = 200)]
async fn load_more(_trades: Batch<Trade>) {}

#[consumer(group = "warehouse", batch = "500", batch_wait = "soon")]
async fn load_again(_trades: &Batch<Trade>) {}

fn main() {}
