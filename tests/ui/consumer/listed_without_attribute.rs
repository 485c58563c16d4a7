use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

async fn check(_trade: Trade) {}

fn main() {
    let _ = streams_core::consumers![check];
}
