//! What shared delivery costs: a work queue's backlog beside bare loops over XREADGROUP and XACK, with handlers that only
//! count; and how busy it keeps handlers that wait.
//!
//! Every round runs every contender, one after the other, on the same server and the same entries. The bare loop has one task
//! a slot, which acknowledges what it has read at once: nobody keeps what is in hand, tries again, or finds the dead.
//! `-- --events 100000 --waits 4000 --slots 8 --rounds 3` are the defaults.

mod common;
mod payments;

use std::sync::Arc;
use std::time::Instant;

use common::{connect, entries, median, number, server_cpu, thousands};
use payments::{Payment, WAIT, count, handlers};
use redis::Value;
use streams_core::codec;
use streams_runtime::broker::Redis;
use streams_runtime::{
    App, Config, ConsumerOptions, Delivery, Entry, EntryId, Publisher, Registration, Start, Stopped,
};
use streams_tests::RedisServer;

/// How many entries a bare task reads at once.
const COUNT: usize = 32;

/// A work queue by hand: so many tasks, each a consumer that acknowledges by the batch.
async fn bare(url: &str, slots: u64, events: u64) {
    let mut connection = connect(url).await;
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg("payments").arg("bare").arg("0");
    let _: () = create.query_async(&mut connection).await.expect("a group");
    payments::expect(events);
    let tasks = (0..slots).map(|slot| {
        let mut connection = connection.clone();
        tokio::spawn(async move {
            loop {
                let mut read = redis::cmd("XREADGROUP");
                read.arg("GROUP").arg("bare").arg(slot).arg("COUNT").arg(COUNT);
                read.arg("STREAMS").arg("payments").arg(">");
                let found = entries(read.query_async::<Value>(&mut connection).await.expect("a reply"));
                if found.is_empty() || payments::is_over() {
                    return;
                }
                let mut acknowledge = redis::cmd("XACK");
                acknowledge.arg("payments").arg("bare");
                for (id, payload) in found {
                    let fields = vec![(b"event".to_vec(), b"Payment@1".to_vec()), (b"payload".to_vec(), payload)];
                    let entry = Entry { id: EntryId::ZERO, fields };
                    std::hint::black_box(codec::decode::<Payment>(&entry).expect("a payment"));
                    count();
                    acknowledge.arg(id);
                }
                let _: u64 = acknowledge.query_async(&mut connection).await.expect("an acknowledgement");
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    payments::over().await;
    for task in tasks {
        task.await.expect("a task");
    }
    let mut destroy = redis::cmd("XGROUP");
    let _: () =
        destroy.arg("DESTROY").arg("payments").arg("bare").query_async(&mut connection).await.expect("an answer");
}

/// The runtime, from its start to its end.
async fn runtime(url: &str, consumer: Registration, slots: u64, start: Start, events: u64, delivery: Delivery) {
    payments::expect(events);
    let options = ConsumerOptions::DEFAULT.with_start(start).with_delivery(delivery);
    let slots = if delivery == Delivery::Shared { slots as u32 } else { 1 };
    let config = Config::new().consumers(options.with_concurrency(slots));
    let broker = Arc::new(Redis::open(url).expect("a URL"));
    let running = App::with([consumer]).broker(broker).config(config).start().await.expect("a start");
    payments::over().await;
    assert_eq!(running.stop().await, Stopped::Clean);
    payments::forget(url, consumer.info.group).await;
}

#[tokio::main]
async fn main() {
    if !common::wanted("queue") {
        return;
    }
    let (events, waiting) = (number("events", 100_000), number("waits", 4_000));
    let (slots, rounds) = (number("slots", 8), number("rounds", 3));
    let server = RedisServer::start();
    common::print_machine(&server);
    let url = server.url();
    let publisher = Publisher::connect(&url).await.expect("a connection");
    let mut last = Vec::new();
    for page in 0..events.div_ceil(10_000) {
        let amounts = page * 10_000..((page + 1) * 10_000).min(events);
        let receipts = publisher.publish_all(payments::payments(amounts, 1_000)).await;
        last.extend(receipts.into_iter().map(|receipt| receipt.expect("published").entry_id));
    }
    let behind = last[(events - waiting) as usize];

    let [counts, waits] = handlers();
    println!(
        "{events} events that are counted, {waiting} whose handlers wait for {WAIT:?}; {slots} slots; medians of {rounds} rounds"
    );
    let mut rates: [Vec<f64>; 5] = Default::default();
    let mut cpu: [Vec<f64>; 5] = Default::default();
    for _ in 0..rounds {
        for index in 0..5 {
            let (before, began) = (server_cpu(&server), Instant::now());
            match index {
                0 => bare(&url, slots, events).await,
                1 => runtime(&url, counts, slots, Start::Earliest, events, Delivery::Shared).await,
                2 => runtime(&url, counts, slots, Start::Earliest, events, Delivery::Ordered).await,
                3 => runtime(&url, waits, slots, Start::At(behind), waiting, Delivery::Shared).await,
                _ => runtime(&url, waits, slots * 4, Start::At(behind), waiting, Delivery::Shared).await,
            }
            let events = if index < 3 { events } else { waiting } as f64;
            rates[index].push(events / began.elapsed().as_secs_f64());
            cpu[index].push((server_cpu(&server) - before).as_secs_f64() * 1e6 / events);
        }
    }
    // A timer's wait is longer than was asked for.
    let began = Instant::now();
    for _ in 0..200 {
        tokio::time::sleep(WAIT).await;
    }
    let wait = began.elapsed().as_secs_f64() / 200.0;
    let names = [
        "counts: bare XREADGROUP, XACK",
        "counts: shared",
        "counts: ordered, one after the other",
        "waits:  shared",
        "waits:  shared, four times the slots",
    ];
    println!("{:<40}{:>12}{:>10}{:>14}", "", "events/s", "ratio", "Redis us each");
    for (index, name) in names.iter().enumerate() {
        let rate = median(rates[index].clone());
        // Against the bare loop, and against slots that are never idle.
        let ideal = match index {
            0..3 => median(rates[0].clone()),
            3 => slots as f64 / wait,
            _ => slots as f64 * 4.0 / wait,
        };
        println!("{name:<40}{:>12}{:>10.2}{:>14.2}", thousands(rate), rate / ideal, median(cpu[index].clone()));
    }
}
