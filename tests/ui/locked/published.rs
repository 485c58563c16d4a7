use streams_core::stream_event;

#[stream_event(stream = "locked")]
struct Published {
    price: String,
}

fn main() {}
