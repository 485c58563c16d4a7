//! Thousands of groups on one stream: how soon the last of them has begun, and whether the process loses leases to itself.
//!
//! The stream holds one event when the app starts; a group has begun when it has handled it. `-- --groups 3000 --queues 0` are the
//! defaults; with `--queues 1` all groups are work queues.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{memory, number, own_cpu, print_machine, server_cpu, wanted};
use streams_runtime::broker::Redis;
use streams_runtime::{App, Config, ConsumerOptions, Delivery, Publisher, Stopped, consumer, consumers, stream_event};
use streams_tests::{RedisServer, in_groups};
use tokio::time::sleep;

/// How long it may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the app is looked at once all groups have begun: some leases.
const CALM: Duration = Duration::from_secs(30);

#[stream_event(stream = "crowd")]
struct Crowd {
    n: u64,
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

#[consumer(group = "crowd")]
async fn crowd(_: Crowd) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// The sum of a counter in the text of the metrics, over the series with this label.
fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let series = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    if !wanted("groups") {
        return;
    }
    let groups = number("groups", 3_000) as usize;
    let delivery = if number("queues", 0) > 0 { Delivery::Queue } else { Delivery::Ordered };
    let config = Config::new().consumers(ConsumerOptions::DEFAULT.with_delivery(delivery));
    let server = RedisServer::start();
    print_machine(&server);
    let broker = Arc::new(Redis::open(&server.url()).expect("a URL"));
    Publisher::new(broker.clone()).publish(&Crowd { n: 1 }).await.expect("it is published");
    let (began, cpu, of_server) = (Instant::now(), own_cpu(), server_cpu(&server));
    let app = App::with(in_groups(consumers![crowd][0], groups)).broker(broker).config(config);
    let app = app.start().await.expect("it starts");
    let started = began.elapsed();
    while HANDLED.load(Ordering::Relaxed) < groups && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(5)).await;
    }
    let (begun, cpu, of_server) = (began.elapsed(), own_cpu() - cpu, server_cpu(&server) - of_server);
    println!(
        "{groups} groups: started after {started:.2?}, {} begun after {begun:.2?}; CPU: {cpu:.2?} here, {of_server:.2?} in the server",
        HANDLED.load(Ordering::Relaxed),
    );
    let (cpu, of_server) = (own_cpu(), server_cpu(&server));
    sleep(CALM).await;
    let (cpu, of_server) = (own_cpu() - cpu, server_cpu(&server) - of_server);
    let changes = |label| sum(&app.monitor().metrics(), "streams_lease_changes_total", label);
    println!(
        "leases taken {}, lost {}; idle for {CALM:.0?}: CPU {cpu:.2?} here, {of_server:.2?} in the server; {} MiB",
        changes("taken"),
        changes("lost"),
        memory("VmHWM") / 1024
    );
    let (began, stopped) = (Instant::now(), app.shutdown().await);
    println!("stopped after {:.2?}, {}", began.elapsed(), if stopped == Stopped::Clean { "cleanly" } else { "late" });
}
