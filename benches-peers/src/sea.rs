//! sea-streamer over Redis: its consumers hand over bytes, which the loop decodes as the bare loops do.

use std::time::{Duration, Instant};

use sea_streamer_redis::{AutoCommit, AutoStreamReset, RedisConsumerOptions, RedisProducerOptions, RedisStreamer};
use sea_streamer_types::{
    Buffer, Consumer, ConsumerGroup, ConsumerId, ConsumerMode, ConsumerOptions, Message, Producer, StreamKey, Streamer,
    StreamerUri,
};

use crate::bare::stop;
use crate::work::{Form, SEEN, Trade, Work};

async fn streamer(url: &str) -> RedisStreamer {
    // It wants no database in its address.
    let uri: StreamerUri = url.trim_end_matches("/0").parse().expect("a URI");
    RedisStreamer::connect(uri, Default::default()).await.expect("a connection")
}

fn key() -> StreamKey {
    StreamKey::new(Form::SeaStreamer.key()).expect("a key")
}

/// `RealTime`, its fastest mode: it reads without a group and remembers nothing.
///
/// With `grouped` `LoadBalanced` and `AutoCommit::Rolling`, which its documentation recommends for at-least-once: the loop
/// acknowledges each event, and a task of its own sends what has gathered in 100 ms, as long as ours waits.
pub(crate) async fn run(work: &Work, grouped: bool) {
    let began = Instant::now();
    let streamer = streamer(&work.url).await;
    let mut tasks = Vec::new();
    for group in work.groups() {
        for consumer in 0..work.consumers {
            let mode = if grouped { ConsumerMode::LoadBalanced } else { ConsumerMode::RealTime };
            let mut options = RedisConsumerOptions::new(mode);
            options.set_auto_stream_reset(AutoStreamReset::Earliest).set_batch_size(work.count).set_mkstream(true);
            if grouped {
                options.set_auto_commit(AutoCommit::Rolling).set_auto_commit_interval(Duration::from_millis(100));
                options.set_consumer_group(ConsumerGroup::new(&group)).expect("a group");
                options.set_consumer_id(ConsumerId::new(format!("c{consumer}")));
            }
            let consumer = streamer.create_consumer(&[key()], options).await.expect("a consumer");
            tasks.push(tokio::spawn(async move {
                loop {
                    let message = consumer.next().await.expect("a message");
                    let trade = Trade::decode(message.message().as_bytes());
                    SEEN.count(trade.quantity, trade.sent_ns);
                    if grouped {
                        consumer.ack(&message).expect("an acknowledgement");
                    }
                }
            }));
        }
    }
    work.report(began).await;
    stop(tasks).await;
    work.verify();
}

/// Its producer gathers what is sent into pipelines by itself.
pub(crate) async fn publish(url: &str, events: u64, size: usize) {
    let streamer = streamer(url).await;
    let producer = streamer.create_producer(key(), RedisProducerOptions::default()).await.expect("a producer");
    for first in (0..events).step_by(10_000) {
        let mut receipts = Vec::new();
        for number in first..(first + 10_000).min(events) {
            let payload = Trade::new(number, 0, size).encode();
            receipts.push(producer.send(payload.as_slice()).expect("sent"));
        }
        for receipt in receipts {
            receipt.await.expect("published");
        }
    }
}
