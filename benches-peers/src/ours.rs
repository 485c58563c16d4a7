//! This framework: an app as a service has it, with the defaults of every setting that a contender's name does not say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streams_runtime::broker::Redis;
use streams_runtime::{
    App, Batch, Config, ConsumerOptions, Delivery, Publisher, Registration, Stopped, consumer, consumers, stream_event,
};

use crate::groups::in_groups;
use crate::work::{SEEN, Work};

#[stream_event(stream = "trades", key = symbol)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: u64,
    sent_ns: u64,
    note: String,
}

#[consumer(group = "g")]
async fn sum(trade: Trade) {
    SEEN.count(trade.quantity, trade.sent_ns);
}

#[consumer(group = "g", batch = 1000)]
async fn sum_batch(trades: Batch<Trade>) {
    for trade in trades.events() {
        SEEN.count(trade.quantity, trade.sent_ns);
    }
}

/// One handler call per event, in order: a failure is tried again in place, and a dead process's work is taken over.
pub(crate) async fn ordered(work: &Work) {
    let [consumer] = consumers![sum];
    run(work, consumer, Delivery::Ordered).await;
}

/// The same promises with a handler that takes up to a thousand events at once.
pub(crate) async fn batches(work: &Work) {
    let [consumer] = consumers![sum_batch];
    run(work, consumer, Delivery::Ordered).await;
}

/// A work queue: no order, at least once, each event acked on its own.
pub(crate) async fn queue(work: &Work) {
    let [consumer] = consumers![sum];
    run(work, consumer, Delivery::Queue).await;
}

async fn run(work: &Work, consumer: Registration, delivery: Delivery) {
    let began = Instant::now();
    let options = ConsumerOptions::DEFAULT.with_delivery(delivery);
    let mut apps = Vec::new();
    for _ in 0..work.consumers {
        let broker = Arc::new(Redis::open(&work.url).expect("a URL"));
        let app = App::with(in_groups(consumer, work.groups)).broker(broker);
        let app = if delivery == Delivery::Queue { app.config(Config::new().consumers(options)) } else { app };
        apps.push(app.start().await.expect("a start"));
    }
    if work.warm_up > 0 {
        for app in &apps {
            while !app.status().is_ready() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    work.report(began).await;
    for app in apps {
        assert_eq!(app.shutdown().await, Stopped::Clean);
    }
    work.verify();
}

/// `publish_all`, ten thousand events a call.
pub(crate) async fn publish(url: &str, events: u64, size: usize) {
    let publisher = Publisher::connect(url).await.expect("a connection");
    for first in (0..events).step_by(10_000) {
        let trades = (first..(first + 10_000).min(events)).map(|number| {
            let of_peers = crate::work::Trade::new(number, 0, size);
            let crate::work::Trade { symbol, price, quantity, sent_ns, note } = of_peers;
            Trade { symbol, price, quantity, sent_ns, note }
        });
        let answers = publisher.publish_all(trades).await;
        answers.into_iter().for_each(|answer| drop(answer.expect("published")));
    }
}
