//! How fast one group works off a backlog: the runtime beside bare loops over XREAD and over XREADGROUP with XACK.
//!
//! Every round runs every contender, one after the other, on the same server and the same kind of entries. A busy machine
//! slows all of them. `-- --events 500000 --rounds 5` are the defaults.

mod common;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::figures::{median, thousands};
use common::replies::{connect, entries};
use common::{number, server_cpu, target};
use redis::Value;
use serde::Deserialize;
use streams_runtime::broker::Redis;
use streams_runtime::{App, Publisher, Registration, Stopped, StreamEvent, consumer, consumers, stream_event};
use streams_tests::{RedisServer, far};
use tokio::sync::Notify;

const COUNT: usize = 1_000;
/// How far the server is in the last rows.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// A trade that says nothing of its size: the runtime has to expect a mebibyte.
#[stream_event(stream = "trades", key = symbol)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: u64,
    buyer: String,
    seller: String,
    time_ms: u64,
}

/// The same with its limit declared.
#[stream_event(stream = "small-trades", key = symbol, max_payload = "4KiB")]
struct SmallTrade {
    symbol: String,
    price: f64,
    quantity: u64,
    buyer: String,
    seller: String,
    time_ms: u64,
}

/// The events that the handlers have seen, and the number to come.
struct Seen {
    events: AtomicU64,
    quantity: AtomicU64,
    awaited: AtomicU64,
    all: Notify,
}

static SEEN: Seen = Seen {
    events: AtomicU64::new(0),
    quantity: AtomicU64::new(0),
    awaited: AtomicU64::new(u64::MAX),
    all: Notify::const_new(),
};

impl Seen {
    fn begin(&self, events: u64) {
        self.events.store(0, Ordering::Relaxed);
        self.quantity.store(0, Ordering::Relaxed);
        self.awaited.store(events, Ordering::Relaxed);
    }

    fn count(&self, quantity: u64) {
        self.quantity.fetch_add(quantity, Ordering::Relaxed);
        if self.events.fetch_add(1, Ordering::Relaxed) + 1 == self.awaited.load(Ordering::Relaxed) {
            self.all.notify_one();
        }
    }
}

#[consumer(group = "runtime")]
async fn sum(trade: Trade) {
    SEEN.count(trade.quantity);
}

#[consumer(group = "runtime")]
async fn sum_small(trade: SmallTrade) {
    SEEN.count(trade.quantity);
}

/// On a server that is far: a commit takes a round trip, in which as many events may be settled as half of this.
#[consumer(group = "runtime", checkpoint = 20_000)]
async fn sum_far(trade: Trade) {
    SEEN.count(trade.quantity);
}

#[consumer(group = "runtime", checkpoint = 20_000)]
async fn sum_small_far(trade: SmallTrade) {
    SEEN.count(trade.quantity);
}

/// The event as the bare loops decode it, from the same bytes.
#[derive(Deserialize)]
struct Bare {
    #[expect(dead_code, reason = "decoded like the others")]
    symbol: String,
    #[expect(dead_code, reason = "decoded like the others")]
    price: f64,
    quantity: u64,
    #[expect(dead_code, reason = "decoded like the others")]
    buyer: String,
    #[expect(dead_code, reason = "decoded like the others")]
    seller: String,
    #[expect(dead_code, reason = "decoded like the others")]
    time_ms: u64,
}

/// Decodes every entry of a reply; answers how many there were and what their quantities sum up to.
fn decode(found: &[(Vec<u8>, Vec<u8>)]) -> (u64, u64) {
    let quantity = |payload: &[u8]| rmp_serde::from_slice::<Bare>(payload).expect("a trade").quantity;
    (found.len() as u64, found.iter().map(|(_, payload)| quantity(payload)).sum())
}

/// `XREAD; decode; repeat`, which remembers nothing.
async fn bare(url: &str, key: &str, events: u64) -> u64 {
    let mut connection = connect(url).await;
    let (mut position, mut seen, mut sum) = (b"0-0".to_vec(), 0, 0);
    while seen < events {
        let reply: Value = redis::cmd("XREAD")
            .arg("COUNT")
            .arg(COUNT)
            .arg("STREAMS")
            .arg(key)
            .arg(&position)
            .query_async(&mut connection)
            .await
            .expect("a reply");
        let mut found = entries(reply);
        let (count, quantity) = decode(&found);
        (seen, sum) = (seen + count, sum + quantity);
        position = found.pop().expect("an entry").0;
    }
    sum
}

/// The same with the next reads on their way while one is decoded.
async fn bare_ahead(url: &str, key: &str, events: u64) -> u64 {
    let mut connection = connect(url).await;
    let (send, mut replies) = tokio::sync::mpsc::channel(2);
    let key = key.to_owned();
    let reader = tokio::spawn(async move {
        let mut position = b"0-0".to_vec();
        loop {
            let reply: Value = redis::cmd("XREAD")
                .arg("COUNT")
                .arg(COUNT)
                .arg("STREAMS")
                .arg(&key)
                .arg(&position)
                .query_async(&mut connection)
                .await
                .expect("a reply");
            let found = entries(reply);
            let Some((last, _)) = found.last() else { return };
            position = last.clone();
            if send.send(found).await.is_err() {
                return;
            }
        }
    });
    let (mut seen, mut sum) = (0, 0);
    while seen < events {
        let (count, quantity) = decode(&replies.recv().await.expect("a reply"));
        (seen, sum) = (seen + count, sum + quantity);
    }
    reader.abort();
    sum
}

/// A Redis group that acks per batch. With `overlap` the ack of one batch is in flight while the next is read and decoded.
async fn group(url: &str, key: &str, events: u64, overlap: bool) -> u64 {
    let (mut connection, acknowledging) = (connect(url).await, connect(url).await);
    let _: () = redis::cmd("XGROUP")
        .arg("CREATE")
        .arg(key)
        .arg("bare")
        .arg("0")
        .query_async(&mut connection)
        .await
        .expect("a group");
    let (mut seen, mut sum) = (0, 0);
    let mut on_its_way: Option<tokio::task::JoinHandle<()>> = None;
    while seen < events {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg("bare").arg("me").arg("COUNT").arg(COUNT).arg("STREAMS").arg(key).arg(">");
        let found = entries(command.query_async::<Value>(&mut connection).await.expect("a reply"));
        let (count, quantity) = decode(&found);
        (seen, sum) = (seen + count, sum + quantity);
        let mut acknowledge = redis::cmd("XACK");
        acknowledge.arg(key).arg("bare");
        found.iter().for_each(|(id, _)| {
            acknowledge.arg(id);
        });
        let mut acknowledging = acknowledging.clone();
        let acknowledged = async move {
            let _: u64 = acknowledge.query_async(&mut acknowledging).await.expect("an acknowledgement");
        };
        if overlap {
            if let Some(before) = on_its_way.replace(tokio::spawn(acknowledged)) {
                before.await.expect("an acknowledgement");
            }
        } else {
            acknowledged.await;
        }
    }
    if let Some(last) = on_its_way {
        last.await.expect("an acknowledgement");
    }
    let _: () =
        redis::cmd("XGROUP").arg("DESTROY").arg(key).arg("bare").query_async(&mut connection).await.expect("an answer");
    sum
}

/// The runtime, from its start to its end: connecting, taking the lease, every commit and giving the lease back.
async fn runtime(url: &str, key: &str, consumer: Registration, events: u64) -> u64 {
    handle(url, consumer, events).await;
    forget(url, key).await;
    SEEN.quantity.load(Ordering::Relaxed)
}

async fn handle(url: &str, consumer: Registration, events: u64) {
    SEEN.begin(events);
    let broker = Arc::new(Redis::open(url).expect("a URL"));
    let running = App::with([consumer]).broker(broker).start().await.expect("a start");
    SEEN.all.notified().await;
    assert_eq!(running.shutdown().await, Stopped::Clean);
}

/// Removes the group, which has committed everything.
async fn forget(url: &str, key: &str) {
    // A new group next time.
    let mut connection = connect(url).await;
    let state = format!("streams:{{{key}}}:runtime");
    let at: String = redis::cmd("HGET").arg(&state).arg("at").query_async(&mut connection).await.expect("a checkpoint");
    let left: Value = redis::cmd("XREAD")
        .arg("COUNT")
        .arg(1)
        .arg("STREAMS")
        .arg(key)
        .arg(at)
        .query_async(&mut connection)
        .await
        .expect("a reply");
    assert_eq!(left, Value::Nil, "everything is committed");
    let _: () = redis::cmd("DEL").arg(&state).query_async(&mut connection).await.expect("an answer");
    let _: () = redis::cmd("XGROUP")
        .arg("DESTROY")
        .arg(key)
        .arg("runtime")
        .query_async(&mut connection)
        .await
        .expect("an answer");
}

async fn fill<E: StreamEvent>(publisher: &Publisher, events: u64, make: impl Fn(u64) -> E) {
    let began = Instant::now();
    let mut next = 0;
    while next < events {
        let end = (next + 10_000).min(events);
        let answers = publisher.publish_all((next..end).map(&make)).await;
        answers.into_iter().for_each(|answer| drop(answer.expect("published")));
        next = end;
    }
    let rate = events as f64 / began.elapsed().as_secs_f64();
    println!("{}: {} events published at {}/s", E::INFO.stream, thousands(events as f64), thousands(rate));
}

/// The times of one contender, one per round.
#[derive(Default)]
struct Times {
    wall: Vec<f64>,
    server: Vec<f64>,
    own: Vec<f64>,
}

impl Times {
    async fn measure(&mut self, server: &RedisServer, events: u64, run: impl Future<Output = u64>) {
        let (server_before, own_before, began) = (server_cpu(server), common::own_cpu(), Instant::now());
        let sum = run.await;
        let wall = began.elapsed();
        self.wall.push(wall.as_secs_f64());
        self.own.push((common::own_cpu() - own_before).as_secs_f64());
        self.server.push((server_cpu(server) - server_before).as_secs_f64());
        assert_eq!(sum, events * (events - 1) / 2, "every event once");
    }
}

#[tokio::main]
async fn main() {
    if !common::wanted("backlog") {
        return;
    }
    let (events, rounds) = (number("events", 500_000), number("rounds", 5));
    let server = RedisServer::start();
    common::print_machine(&server);
    let url = server.url();
    let publisher = Publisher::connect(&url).await.expect("a connection");
    let text = |prefix: &str, number: u64| format!("{prefix}-{number}");
    fill(&publisher, events, |i| Trade {
        symbol: "BTC-USD".to_owned(),
        price: 64_000.25 + i as f64,
        quantity: i,
        buyer: text("account", i % 1000),
        seller: text("account", i % 777),
        time_ms: 1_700_000_000_000 + i,
    })
    .await;
    fill(&publisher, events, |i| SmallTrade {
        symbol: "BTC-USD".to_owned(),
        price: 64_000.25 + i as f64,
        quantity: i,
        buyer: text("account", i % 1000),
        seller: text("account", i % 777),
        time_ms: 1_700_000_000_000 + i,
    })
    .await;

    let [of_any_size] = consumers![sum];
    let [of_4_kib] = consumers![sum_small];
    let names = [
        "a   XREAD, decode, repeat",
        "a'  the same, reading ahead",
        "b   XREADGROUP, decode, XACK",
        "b'  the same, XACK overlapped",
        "c   runtime, default max_payload",
        "c'  runtime, max_payload 4 KiB",
    ];
    let mut times: [Times; 6] = Default::default();
    if std::env::args().any(|arg| arg == "--profile") {
        for _ in 0..rounds {
            times[5].measure(&server, events, runtime(&url, "small-trades", of_4_kib, events)).await;
        }
        let own: Vec<_> = times[5].own.iter().map(|s| (s * 1e9 / events as f64) as u64).collect();
        let wall: Vec<_> = times[5].wall.iter().map(|s| (events as f64 / s) as u64).collect();
        println!("own ns {own:?} events/s {wall:?}");
        return;
    }
    for _ in 0..rounds {
        let [a, a_ahead, b, b_overlap, c, c_small] = &mut times;
        a.measure(&server, events, bare(&url, "trades", events)).await;
        b.measure(&server, events, group(&url, "trades", events, false)).await;
        c.measure(&server, events, runtime(&url, "trades", of_any_size, events)).await;
        a_ahead.measure(&server, events, bare_ahead(&url, "trades", events)).await;
        b_overlap.measure(&server, events, group(&url, "trades", events, true)).await;
        c_small.measure(&server, events, runtime(&url, "small-trades", of_4_kib, events)).await;
    }

    let per_round = |index: usize, other: usize, of: fn(&Times) -> &Vec<f64>| {
        let pairs = of(&times[index]).iter().zip(of(&times[other]));
        median(pairs.map(|(one, other)| one / other))
    };
    let micros = |seconds: &[f64]| format!("{:.2}", median(seconds.to_vec()) * 1e6 / events as f64);
    let rows = names.iter().zip(&times).enumerate().map(|(index, (name, took))| {
        let best = took.wall.iter().copied().fold(f64::INFINITY, f64::min);
        vec![
            (*name).to_owned(),
            thousands(events as f64 / median(took.wall.clone())),
            thousands(events as f64 / best),
            format!("{:.2}", 1.0 / per_round(index, 0, |took| &took.wall)),
            micros(&took.own),
            micros(&took.server),
            format!("{:.2}", per_round(index, 2, |took| &took.server)),
        ]
    });
    println!("\n{} events of backlog, one group, medians of {rounds} rounds:", thousands(events as f64));
    common::table(
        &["", "events/s", "best", "x of a", "client us/event", "Redis us/event", "Redis x of b"],
        &rows.collect::<Vec<_>>(),
    );
    let far_away = format!("redis://127.0.0.1:{}/0", far(server.port(), ROUND_TRIP));
    let [of_any_size, of_4_kib] = consumers![sum_far, sum_small_far];
    for (name, key, consumer) in
        [("default max_payload", "trades", of_any_size), ("max_payload 4 KiB", "small-trades", of_4_kib)]
    {
        let began = Instant::now();
        handle(&far_away, consumer, events).await;
        let rate = events as f64 / began.elapsed().as_secs_f64();
        forget(&url, key).await;
        println!("with a round trip of {ROUND_TRIP:?}, {name}: {} events/s", thousands(rate));
    }
    for (index, name) in [(4, "default max_payload"), (5, "max_payload 4 KiB")] {
        let speed = 1.0 / per_round(index, 0, |took| &took.wall);
        target(&format!("speed, {name}, at least 0.60 of the bare loop a"), &format!("{speed:.2}"), speed >= 0.6);
        let cpu = per_round(index, 2, |took| &took.server);
        target(&format!("Redis CPU, {name}, at most 0.50 of the group b"), &format!("{cpu:.2}"), cpu <= 0.5);
    }
}
