use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

struct Check;

fn main() {
    let _ = streams_core::consumers![Check];
}
