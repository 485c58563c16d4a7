use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk")]
async fn check(trade: Trade) {
    let shared = std::rc::Rc::new(trade.price);
    std::future::ready(()).await;
    println!("{shared}");
}

fn main() {}
