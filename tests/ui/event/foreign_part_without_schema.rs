use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    from: std::path::PathBuf,
}

fn main() {}
