//! A hundred groups on one stream at 1,000 events per second, beside a blocked XREADGROUP each: latency, memory and CPU.
//!
//! Three processes: this one starts the server and reads its CPU, one consumes, one publishes. An event carries the
//! wall clock's time of its publish call; both ends run on one machine and read the same clock.
//! `-- --seconds 20 --rate 1000` are the defaults; there are always 100 groups.

mod common;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::figures::{Latencies, thousands};
use common::replies::{connect, entries};
use common::{memory, number, own_cpu, server_cpu, table, target};
use redis::Value;
use serde::Deserialize;
use streams_runtime::broker::Redis;
use streams_runtime::{App, Publisher, Stopped, consumer, consumers, stream_event};
use streams_tests::RedisServer;
use tokio::sync::Notify;

const GROUPS: u64 = 100;
/// Published before the others to see whether everybody listens; not measured.
const WARM_UP: u64 = 100;

/// A trade and when it was published.
#[stream_event(stream = "trades", key = symbol)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: u64,
    buyer: String,
    seller: String,
    sent_ns: u64,
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
    sent_ns: u64,
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The deliveries, and how late each was.
struct Delivered {
    late: Latencies,
    deliveries: AtomicU64,
    awaited: AtomicU64,
    all: Notify,
}

static DELIVERED: Delivered = Delivered {
    late: Latencies::new(),
    deliveries: AtomicU64::new(0),
    awaited: AtomicU64::new(0),
    all: Notify::const_new(),
};

impl Delivered {
    /// A handler was entered; `quantity` is the number of the event.
    fn record(&self, quantity: u64, sent_ns: u64) {
        if quantity >= WARM_UP {
            self.late.record(now_ns().saturating_sub(sent_ns));
        }
        if self.deliveries.fetch_add(1, Ordering::Relaxed) + 1 == self.awaited.load(Ordering::Relaxed) {
            self.all.notify_one();
        }
    }

    /// The latency in microseconds below which this share of the deliveries was.
    fn quantile(&self, share: f64) -> f64 {
        self.late.quantile(share).map_or(f64::NAN, |nanos| nanos / 1e3)
    }
}

/// A consumer for each name, in a group of its own, and the list of all.
macro_rules! groups {
    ($($name:ident $group:literal)*) => {
        $(
            #[consumer(group = $group, start = "latest")]
            async fn $name(trade: Trade) {
                DELIVERED.record(trade.quantity, trade.sent_ns);
            }
        )*

        fn every_consumer() -> Vec<streams_runtime::Registration> {
            consumers![$($name),*].into()
        }
    };
}

streams_tests::hundred_groups!(groups);

/// The runtime as a service runs it.
async fn consume_with_runtime(url: &str, events: u64) {
    let broker = Arc::new(Redis::open(url).expect("a URL"));
    let running = App::with(every_consumer()).broker(broker).start().await.expect("a start");
    while !running.status().is_ready() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    report(events, async {
        assert_eq!(running.shutdown().await, Stopped::Clean);
    })
    .await;
}

/// Services without the runtime: each group blocks in XREADGROUP on a connection of its own, and acks.
async fn consume_with_groups(url: &str, events: u64) {
    let key = "trades";
    let mut shared = connect(url).await;
    for group in 0..GROUPS {
        let group = format!("g{group:02}");
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(key).arg(&group).arg("$").arg("MKSTREAM");
        let _: () = create.query_async(&mut shared).await.expect("a group");
        let (mut blocked, mut shared) = (connect(url).await, shared.clone());
        tokio::spawn(async move {
            loop {
                let mut read = redis::cmd("XREADGROUP");
                read.arg("GROUP").arg(&group).arg("me").arg("COUNT").arg(100).arg("BLOCK").arg(5000);
                read.arg("STREAMS").arg(key).arg(">");
                // The server ends while its readers wait, when everything is measured.
                let Ok(reply) = read.query_async::<Value>(&mut blocked).await else { return };
                let found = entries(reply);
                if found.is_empty() {
                    continue;
                }
                let mut acknowledge = redis::cmd("XACK");
                acknowledge.arg(key).arg(&group);
                for (id, payload) in &found {
                    let trade: Bare = rmp_serde::from_slice(payload).expect("a trade");
                    DELIVERED.record(trade.quantity, trade.sent_ns);
                    acknowledge.arg(id);
                }
                if acknowledge.query_async::<u64>(&mut shared).await.is_err() {
                    return;
                }
            }
        });
    }
    report(events, async {}).await;
}

/// Signals the parent when all groups listen, waits until each has had every event, and prints the costs.
async fn report(events: u64, stop: impl Future<Output = ()>) {
    DELIVERED.awaited.store(WARM_UP * GROUPS, Ordering::Relaxed);
    say("listening");
    DELIVERED.all.notified().await;
    DELIVERED.awaited.store((WARM_UP + events) * GROUPS, Ordering::Relaxed);
    let before = own_cpu();
    say("ready");
    let all = tokio::time::timeout(Duration::from_secs(300), DELIVERED.all.notified()).await;
    assert!(all.is_ok(), "{} deliveries", DELIVERED.deliveries.load(Ordering::Relaxed));
    let cpu = (own_cpu() - before).as_secs_f64() * 1e6 / (events * GROUPS) as f64;
    let quantiles = [0.5, 0.95, 0.99, 1.0].map(|share| DELIVERED.quantile(share).to_string()).join(" ");
    say(&format!("{quantiles} {cpu} {} {}", memory("VmRSS"), memory("VmHWM")));
    stop.await;
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the parent listens");
}

/// Publishes one event at a time, at a steady rate; what is late is made up for.
async fn publish(url: &str, rate: u64, first: u64, events: u64) {
    let publisher = Publisher::connect(url).await.expect("a connection");
    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).expect("a rate"));
    for quantity in first..first + events {
        tick.tick().await;
        let trade = Trade {
            symbol: "BTC-USD".to_owned(),
            price: 64_000.25,
            quantity,
            buyer: format!("account-{}", quantity % 1000),
            seller: format!("account-{}", quantity % 777),
            sent_ns: now_ns(),
        };
        publisher.publish(&trade).await.expect("published");
    }
}

/// This program again, as the one who consumes or publishes.
fn again(args: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().expect("a path"));
    command.args(args).stdin(Stdio::null());
    command
}

/// The costs of one way to consume: quantiles and CPU in microseconds, memory in KiB.
struct Took {
    quantiles: [f64; 4],
    client_us: f64,
    redis_us: f64,
    rss: f64,
    peak: f64,
    seconds: f64,
}

fn run(how: &str, rate: u64, events: u64) -> Took {
    let server = RedisServer::start();
    let url = server.url();
    let text = events.to_string();
    let mut consumer = again(&[how, &url, &text]).stdout(Stdio::piped()).spawn().expect("a process");
    let mut lines = BufReader::new(consumer.stdout.take().expect("its output"));
    let mut line = || {
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    };
    let publish = |first: u64, events: u64| {
        let [rate, first, events] = [rate, first, events].map(|number| number.to_string());
        let status = again(&["publish", &url, &rate, &first, &events]).status().expect("a process");
        assert!(status.success(), "the publisher failed");
    };
    assert_eq!(line(), "listening");
    // Not everybody who owns a group has begun to read: nothing before this is measured.
    std::thread::sleep(Duration::from_millis(500));
    publish(0, WARM_UP);
    assert_eq!(line(), "ready");
    let (cpu, began) = (server_cpu(&server), std::time::Instant::now());
    publish(WARM_UP, events);
    let seconds = began.elapsed().as_secs_f64();
    let told: Vec<f64> = line().split(' ').map(|number| number.parse().expect("a number")).collect();
    let cpu = server_cpu(&server) - cpu;
    lines.read_to_end(&mut Vec::new()).expect("the end");
    assert!(consumer.wait().expect("its end").success(), "the consumer failed");
    let [p50, p95, p99, max, client_us, rss, peak] = told[..] else { panic!("seven numbers, not {told:?}") };
    let redis_us = cpu.as_secs_f64() * 1e6 / (events * GROUPS) as f64;
    Took { quantiles: [p50, p95, p99, max], client_us, redis_us, rss, peak, seconds }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let executor = || tokio::runtime::Runtime::new().expect("an executor");
    let parse = |text: &String| text.parse().expect("a number");
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["runtime", url, _] => return executor().block_on(consume_with_runtime(url, parse(&args[2]))),
        ["groups", url, _] => return executor().block_on(consume_with_groups(url, parse(&args[2]))),
        ["publish", url, ..] => {
            return executor().block_on(publish(url, parse(&args[2]), parse(&args[3]), parse(&args[4])));
        }
        _ => {}
    }
    if !common::wanted("fanout") {
        return;
    }
    let (seconds, rate) = (number("seconds", 20), number("rate", 1_000));
    let events = seconds * rate;
    common::print_machine(&RedisServer::start());
    let tail = run("runtime", rate, events);
    let groups = run("groups", rate, events);
    println!(
        "\n{GROUPS} groups in one process, {} events published one at a time by another in {:.1} s and {:.1} s:",
        thousands(events as f64),
        tail.seconds,
        groups.seconds
    );
    let row = |name: &str, took: &Took| {
        let mut row = vec![name.to_owned()];
        row.extend(took.quantiles.map(|micros| format!("{:.2}", micros / 1e3)));
        row.extend([took.client_us, took.redis_us].map(|micros| format!("{micros:.2}")));
        row.extend([took.rss, took.peak].map(|kib| format!("{:.1}", kib / 1024.0)));
        row
    };
    let rows = [row("runtime", &tail), row("XREADGROUP BLOCK, a connection each", &groups)];
    table(
        &["", "p50 ms", "p95 ms", "p99 ms", "max ms", "client us/delivery", "Redis us/delivery", "RSS MiB", "peak MiB"],
        &rows,
    );
    let p95 = tail.quantiles[1] / 1e3;
    target("p95 from publish to handler under 5 ms", &format!("{p95:.2} ms"), p95 < 5.0);
    let rss = tail.rss * 1024.0 / 1e6;
    target("resident memory of the consumer under 30 MB", &format!("{rss:.1} MB"), rss < 30.0);
    let ratio = (tail.client_us + tail.redis_us) / (groups.client_us + groups.redis_us);
    target("CPU of client and Redis at most half of polling groups", &format!("{ratio:.2}"), ratio <= 0.5);
}
