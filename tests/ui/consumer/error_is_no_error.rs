use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

struct Broke;

#[consumer(group = "risk")]
async fn check(_trade: Trade) -> Result<(), Broke> {
    Ok(())
}

fn main() {}
