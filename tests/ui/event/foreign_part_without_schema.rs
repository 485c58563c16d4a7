use streams_core::stream_event;

#[stream_event(stream = "trades")]
struct Trade {
    from: std::net::IpAddr,
}

fn main() {}
