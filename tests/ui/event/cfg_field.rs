use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
    #[cfg(feature = "venue")]
    venue: String,
    #[cfg_attr(test, serde(rename = "px"))]
    size: f64,
}

fn main() {}
