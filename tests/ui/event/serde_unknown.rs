use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    #[serde(renam = "px")]
    price: f64,
}

fn main() {}
