mod tests {
    use streams_core::stream_event;

    #[stream_event(stream = "trades")]
    pub(crate) struct Trade {
        price: f64,
    }
}

fn main() {}
