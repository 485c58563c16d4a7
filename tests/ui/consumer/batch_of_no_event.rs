use streams_core::{Batch, Message, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

struct Row;

#[consumer(group = "warehouse", batch = 500)]
async fn load(_rows: Batch<Row>) {}

#[consumer(group = "warehouse", batch = 500)]
async fn load_messages(_trades: Batch<Message<Trade>>) {}

fn main() {}
