//! The costs and gains of `concurrency = n`: handlers that only count, that wait, and that compute, one after the other
//! and side by side.
//!
//! Every round runs every handler with every n on the same server. `-- --events 100000 --waits 2000 --rounds 3` are the
//! defaults.

mod common;
mod payments;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::figures::{median, thousands};
use common::number;
use payments::{Payment, count, handlers};
use streams_runtime::broker::Redis;
use streams_runtime::{
    App, Config, ConsumerOptions, EntryId, Publisher, Registration, Start, Stopped, consumer, consumers,
};
use streams_tests::RedisServer;

/// How many accounts the events are about.
const ACCOUNTS: u64 = 1_000;
/// How long a handler computes that computes.
const COMPUTE: Duration = Duration::from_micros(100);

#[consumer(group = "computes")]
async fn computes(payment: Payment) {
    let began = Instant::now();
    let mut mixed = payment.amount;
    while began.elapsed() < COMPUTE {
        mixed = std::hint::black_box(mixed.rotate_left(7) ^ 0x9e37_79b9);
    }
    count();
}

/// Works off the entries from this one on; answers how long that took, from the start to the last event.
async fn work_off(url: &str, consumer: Registration, from: EntryId, events: u64, lanes: u32) -> Duration {
    payments::expect(events);
    let group = consumer.info.group;
    let options = ConsumerOptions::DEFAULT.with_start(Start::At(from)).with_concurrency(lanes);
    let app = App::with([consumer]).config(Config::new().group(group, options));
    let began = Instant::now();
    let running = app.broker(Arc::new(Redis::open(url).expect("a URL"))).start().await.expect("a start");
    payments::over().await;
    let took = began.elapsed();
    assert_eq!(running.shutdown().await, Stopped::Clean);
    payments::forget(url, group).await;
    took
}

#[tokio::main]
async fn main() {
    if !common::wanted("lanes") {
        return;
    }
    let (events, waits_for, rounds) = (number("events", 100_000), number("waits", 2_000), number("rounds", 3));
    let server = RedisServer::start();
    common::print_machine(&server);
    let url = server.url();
    let publisher = Publisher::connect(&url).await.expect("a connection");
    let answers = publisher.publish_all(payments::payments(0..events, ACCOUNTS)).await;
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.expect("published").entry_id).collect();

    let ([counts, waits], [computes]) = (handlers(), consumers![computes]);
    let few = waits_for.min(events);
    let plan = [(counts, "counts", events), (waits, "waits 2 ms", few), (computes, "computes 100 us", 10 * few)];
    let mut rows = Vec::new();
    for (consumer, name, count) in plan {
        let count = count.min(events);
        let from = ids[(events - count) as usize];
        let lanes = [1, 8, 64];
        let mut took = [const { Vec::new() }; 3];
        let mut own = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for (index, lanes) in lanes.into_iter().enumerate() {
                let before = common::own_cpu();
                took[index].push(work_off(&url, consumer, from, count, lanes).await.as_secs_f64());
                own[index].push((common::own_cpu() - before).as_secs_f64());
            }
        }
        let alone = median(took[0].clone());
        for (index, lanes) in lanes.into_iter().enumerate() {
            let (wall, cpu) = (median(took[index].clone()), median(own[index].clone()));
            rows.push(vec![
                name.to_owned(),
                lanes.to_string(),
                thousands(count as f64 / wall),
                format!("{:.2}", alone / wall),
                format!("{:.2}", cpu * 1e6 / count as f64),
            ]);
        }
    }
    println!("\nmedians of {rounds} rounds, {ACCOUNTS} keys:");
    common::table(&["handler", "concurrency", "events/s", "x of 1", "client us/event"], &rows);
}
