use streams_core::{consumer, stream_event};

#[stream_event(stream = "trades")]
struct Trade {
    price: f64,
}

#[consumer(
    group = "ri:sk",
    max_attempts = 0,
    max_crashes = 0,
    backoff = "30s..1s",
    timeout = 30,
    start = "yesterday",
    checkpoint = "often",
    on_data_loss = "ignore",
    delivery = "shared",
    concurrency = 0,
    on_failure = "halt",
    dedupe = "0s"
)]
async fn check(_trade: Trade) {}

#[consumer(
    group = risk,
    max_attempts = "5",
    max_crashes = 1001,
    backoff = "5 parsecs",
    timeout = "0s",
    start = "2026-01-02",
    checkpoint = 0,
    on_data_loss = true,
    delivery = shared,
    concurrency = "many"
)]
async fn check_again(_trade: Trade) {}

fn main() {}
