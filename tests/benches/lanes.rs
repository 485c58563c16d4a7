//! What `concurrency = n` costs and gives: handlers that only count, that wait, and that compute, one after the other and
//! side by side.
//!
//! Every round runs every handler with every n on the same server. `-- --events 100000 --waits 2000 --rounds 3` are the
//! defaults.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{connect, median, number, thousands};
use streams_runtime::broker::Redis;
use streams_runtime::{
    App, Config, ConsumerOptions, EntryId, Publisher, Registration, Start, Stopped, consumer, consumers, stream_event,
};
use streams_tests::RedisServer;
use tokio::sync::Notify;

/// How many accounts the events are about.
const ACCOUNTS: u64 = 1_000;
/// How long a handler waits that waits.
const WAIT: Duration = Duration::from_millis(2);
/// How long a handler computes that computes.
const COMPUTE: Duration = Duration::from_micros(100);

#[stream_event(stream = "payments", key = account)]
struct Payment {
    account: String,
    amount: u64,
    time_ms: u64,
}

static LEFT: AtomicU64 = AtomicU64::new(0);
static ALL: Notify = Notify::const_new();

fn count() {
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        ALL.notify_one();
    }
}

#[consumer(group = "counts")]
async fn counts(_payment: Payment) {
    count();
}

#[consumer(group = "waits")]
async fn waits(_payment: Payment) {
    tokio::time::sleep(WAIT).await;
    count();
}

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
    LEFT.store(events, Ordering::Relaxed);
    let group = consumer.info.group;
    let options = ConsumerOptions::DEFAULT.with_start(Start::At(from)).with_concurrency(lanes);
    let app = App::with([consumer]).config(Config::new().group(group, options));
    let began = Instant::now();
    let running = app.broker(Arc::new(Redis::open(url).expect("a URL"))).start().await.expect("a start");
    ALL.notified().await;
    let took = began.elapsed();
    assert_eq!(running.stop().await, Stopped::Clean);
    // A new group next time.
    let mut connection = connect(url).await;
    let state = format!("streams:{{payments}}:{group}");
    let _: () = redis::cmd("DEL").arg(&state).query_async(&mut connection).await.expect("an answer");
    let mut destroy = redis::cmd("XGROUP");
    let _: () =
        destroy.arg("DESTROY").arg("payments").arg(group).query_async(&mut connection).await.expect("an answer");
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
    let payments = (0..events).map(|i| Payment {
        account: format!("account-{}", i % ACCOUNTS),
        amount: i,
        time_ms: 1_700_000_000_000 + i,
    });
    let answers = publisher.publish_all(payments).await;
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.expect("published").entry_id).collect();

    let [counts, waits, computes] = consumers![counts, waits, computes];
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
