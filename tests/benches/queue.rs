//! The costs of queue delivery: a work queue's backlog beside bare loops over XREADGROUP and XACK, with handlers that only
//! count. It also shows how busy handlers that wait are kept, in one process and in several, in a backlog and while events come.
//!
//! Every round runs every contender, one after the other, on the same server and the same entries. The bare loop has one task
//! per slot, which acks at once after the read. It keeps no entries in flight, retries none, and finds no dead consumer.
//! `-- --events 100000 --waits 12000 --slots 8 --rounds 3` are the defaults.

mod common;
mod payments;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::figures::{median, thousands};
use common::replies::{connect, entries};
use common::{number, server_cpu};
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
/// How many events are published in each millisecond where they come meanwhile.
const A_MILLISECOND: u64 = 4;

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
                    let entry = Entry::new(EntryId::ZERO, &fields);
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

/// A work queue by hand whose events come meanwhile. So many connections wait for them, and each handles the events of a read
/// side by side.
async fn bare_live(url: &str, processes: u64, slots: u64, events: u64, publisher: &Publisher) {
    let mut connection = connect(url).await;
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg("payments").arg("bare").arg("$");
    let _: () = create.query_async(&mut connection).await.expect("a group");
    payments::expect(events);
    let mut tasks = Vec::new();
    for process in 0..processes {
        let mut connection = connect(url).await;
        tasks.push(tokio::spawn(async move {
            loop {
                let mut read = redis::cmd("XREADGROUP");
                read.arg("GROUP").arg("bare").arg(process).arg("COUNT").arg(slots).arg("BLOCK").arg(100);
                read.arg("STREAMS").arg("payments").arg(">");
                let found = entries(read.query_async::<Value>(&mut connection).await.expect("a reply"));
                if payments::is_over() {
                    return;
                }
                if found.is_empty() {
                    continue;
                }
                tokio::time::sleep(WAIT).await;
                let mut acknowledge = redis::cmd("XACK");
                acknowledge.arg("payments").arg("bare");
                for (id, _) in found {
                    acknowledge.arg(id);
                    count();
                }
                let _: u64 = acknowledge.query_async(&mut connection).await.expect("an acknowledgement");
            }
        }));
    }
    publish_slowly(publisher, events).await;
    payments::over().await;
    for task in tasks {
        task.await.expect("a task");
    }
    let mut destroy = redis::cmd("XGROUP");
    let _: () =
        destroy.arg("DESTROY").arg("payments").arg("bare").query_async(&mut connection).await.expect("an answer");
}

/// Publishes so many events, some in each millisecond.
async fn publish_slowly(publisher: &Publisher, events: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for page in 0..events.div_ceil(A_MILLISECOND) {
        tick.tick().await;
        let amounts = page * A_MILLISECOND..((page + 1) * A_MILLISECOND).min(events);
        for receipt in publisher.publish_all(payments::payments(amounts, 1_000)).await {
            receipt.expect("published");
        }
    }
}

/// A group that is measured.
struct Contender {
    consumer: Registration,
    delivery: Delivery,
    processes: u64,
    slots: u64,
    start: Start,
    events: u64,
    /// The publisher of events that come meanwhile.
    publisher: Option<Publisher>,
}

impl Contender {
    /// The runtime, from its start to its end.
    async fn run(self, url: &str) {
        payments::expect(self.events);
        let options = ConsumerOptions::DEFAULT.with_start(self.start).with_delivery(self.delivery);
        let slots = if self.delivery == Delivery::Queue { self.slots as u32 } else { 1 };
        let mut running = Vec::new();
        for _ in 0..self.processes {
            let config = Config::new().consumers(options.with_concurrency(slots));
            let broker = Arc::new(Redis::open(url).expect("a URL"));
            running.push(App::with([self.consumer]).broker(broker).config(config).start().await.expect("a start"));
        }
        if let Some(publisher) = &self.publisher {
            for app in &running {
                app.settled().await.expect("all of nothing");
            }
            publish_slowly(publisher, self.events).await;
        }
        payments::over().await;
        for app in running {
            assert_eq!(app.shutdown().await, Stopped::Clean);
        }
        payments::forget(url, self.consumer.info.group).await;
    }
}

#[tokio::main]
async fn main() {
    if !common::wanted("queue") {
        return;
    }
    let (events, waiting) = (number("events", 100_000), number("waits", 12_000));
    let (slots, rounds, processes) = (number("slots", 8), number("rounds", 3), number("processes", 8));
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
    let behind = |events: u64| Start::At(last[last.len() - events as usize]);
    let (many, live) = ((waiting * processes).min(events), waiting * 2);

    let [counts, waits] = handlers();
    println!(
        "{events} events that are counted, {waiting} whose handlers wait for {WAIT:?}; {slots} slots; medians of {rounds} rounds"
    );
    let names = [
        "counts: bare XREADGROUP, XACK".to_owned(),
        "counts: shared".to_owned(),
        format!("counts: shared, {processes} processes"),
        "counts: ordered, one after the other".to_owned(),
        "waits:  shared".to_owned(),
        "waits:  shared, four times the slots".to_owned(),
        format!("waits:  shared, {processes} processes"),
        format!("live:   bare XREADGROUP, XACK, {processes} processes"),
        format!("live:   shared, {processes} processes"),
    ];
    let mut rates: [Vec<f64>; 9] = Default::default();
    let mut cpu: [Vec<f64>; 9] = Default::default();
    for _ in 0..rounds {
        for index in 0..names.len() {
            let contender = |consumer, start, events| Contender {
                consumer,
                delivery: Delivery::Queue,
                processes: 1,
                slots,
                start,
                events,
                publisher: None,
            };
            let counting = contender(counts, Start::Earliest, events);
            let waiting = contender(waits, behind(waiting), waiting);
            let (before, began) = (server_cpu(&server), Instant::now());
            let events = match index {
                0..4 => events,
                4 | 5 => waiting.events,
                6 => many,
                _ => live,
            };
            match index {
                0 => bare(&url, slots, events).await,
                1 => counting.run(&url).await,
                2 => Contender { processes, ..counting }.run(&url).await,
                3 => Contender { delivery: Delivery::Ordered, ..counting }.run(&url).await,
                4 => waiting.run(&url).await,
                5 => Contender { slots: slots * 4, ..waiting }.run(&url).await,
                6 => Contender { processes, start: behind(many), events: many, ..waiting }.run(&url).await,
                7 => bare_live(&url, processes, slots, live, &publisher).await,
                _ => {
                    let (start, publisher) = (Start::Latest, Some(publisher.clone()));
                    Contender { processes, start, events: live, publisher, ..waiting }.run(&url).await;
                }
            }
            rates[index].push(events as f64 / began.elapsed().as_secs_f64());
            cpu[index].push((server_cpu(&server) - before).as_secs_f64() * 1e6 / events as f64);
        }
    }
    // A timer's wait is longer than was asked for.
    let began = Instant::now();
    for _ in 0..200 {
        tokio::time::sleep(WAIT).await;
    }
    let wait = began.elapsed().as_secs_f64() / 200.0;
    println!("{:<46}{:>12}{:>10}{:>14}", "", "events/s", "ratio", "Redis us each");
    for (index, name) in names.iter().enumerate() {
        let rate = median(rates[index].clone());
        // Against the bare loop, and against slots that are never idle.
        let ideal = match index {
            0..4 => median(rates[0].clone()),
            4 => slots as f64 / wait,
            5 => slots as f64 * 4.0 / wait,
            6 => (slots * processes) as f64 / wait,
            _ => median(rates[7].clone()),
        };
        println!("{name:<46}{:>12}{:>10.2}{:>14.2}", thousands(rate), rate / ideal, median(cpu[index].clone()));
    }
}
