use streams_core::{Context, consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(group = "risk")]
async fn check(
    _trade: Trade,
    _1: Context,
    _2: Context,
    _3: Context,
    _4: Context,
    _5: Context,
    _6: Context,
    _7: Context,
    _8: Context,
    _9: Context,
) {
}

fn main() {}
