//! A hundred groups begin together on one backlog. The bench prints the reads and their costs, beside one bare pass.
//!
//! This process starts and fills the server, passes over the backlog once and reads the server's CPU. Another process
//! consumes. `-- --events 1000000` is the default; there are always 100 groups.

mod common;

use std::env;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use common::figures::thousands;
use common::replies::{connect, entries};
use common::{memory, number, own_cpu, server_cpu, table, target};
use redis::Value;
use streams_runtime::broker::Redis;
use streams_runtime::{App, Publisher, Stopped, consumer, consumers, stream_event};
use streams_tests::{Faulty, Op, RedisServer};
use tokio::sync::Notify;

const GROUPS: u64 = 100;
/// The entries per read of the bare pass.
const COUNT: usize = 1_000;

#[stream_event(stream = "trades", key = symbol)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: u64,
    buyer: String,
    seller: String,
    time_ms: u64,
}

/// How many events the handlers have had, what their quantities sum up to, and when it is everything.
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
    fn count(&self, quantity: u64) {
        self.quantity.fetch_add(quantity, Ordering::Relaxed);
        if self.events.fetch_add(1, Ordering::Relaxed) + 1 == self.awaited.load(Ordering::Relaxed) {
            self.all.notify_one();
        }
    }
}

/// A consumer for each name, in a group of its own, and the list of all.
macro_rules! groups {
    ($($name:ident $group:literal)*) => {
        $(
            #[consumer(group = $group)]
            async fn $name(trade: Trade) {
                SEEN.count(trade.quantity);
            }
        )*

        fn every_consumer() -> Vec<streams_runtime::Registration> {
            consumers![$($name),*].into()
        }
    };
}

streams_tests::hundred_groups!(groups);

/// Runs every group from the beginning to the end of the backlog, and prints the costs.
async fn consume(url: &str, events: u64) {
    SEEN.awaited.store(events * GROUPS, Ordering::Relaxed);
    let broker = Faulty::over(Arc::new(Redis::open(url).expect("a URL")));
    let (cpu, began) = (own_cpu(), Instant::now());
    let running = App::with(every_consumer()).broker(Arc::new(broker.clone())).start().await.expect("a start");
    SEEN.all.notified().await;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), (own_cpu() - cpu).as_secs_f64());
    let (read, calls) = (broker.entries_read(), broker.calls(Op::Read));
    assert_eq!(running.shutdown().await, Stopped::Clean);
    let sum = events * (events - 1) / 2 * GROUPS;
    assert_eq!(SEEN.quantity.load(Ordering::Relaxed), sum, "every event once for every group");
    println!("{wall} {cpu} {read} {calls} {} {}", memory("VmRSS"), memory("VmHWM"));
}

/// Reads everything once; answers how many entries there were.
async fn bare(url: &str) -> u64 {
    let mut connection = connect(url).await;
    let (mut position, mut seen) = (b"0-0".to_vec(), 0);
    loop {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(COUNT).arg("STREAMS").arg("trades").arg(&position);
        let found = entries(read.query_async::<Value>(&mut connection).await.expect("a reply"));
        let Some((last, _)) = found.last() else { return seen };
        seen += found.len() as u64;
        position.clone_from(last);
    }
}

async fn fill(url: &str, events: u64) {
    let publisher = Publisher::connect(url).await.expect("a connection");
    let mut next = 0;
    while next < events {
        let end = (next + 10_000).min(events);
        let trades = (next..end).map(|i| Trade {
            symbol: "BTC-USD".to_owned(),
            price: 64_000.25 + i as f64,
            quantity: i,
            buyer: format!("account-{}", i % 1000),
            seller: format!("account-{}", i % 777),
            time_ms: 1_700_000_000_000 + i,
        });
        publisher.publish_all(trades).await.into_iter().for_each(|answer| drop(answer.expect("published")));
        next = end;
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let executor = || tokio::runtime::Runtime::new().expect("an executor");
    if let ["consume", url, events] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return executor().block_on(consume(url, events.parse().expect("a number")));
    }
    if !common::wanted("catchup") {
        return;
    }
    let events = number("events", 1_000_000);
    let server = RedisServer::start();
    common::print_machine(&server);
    let url = server.url();
    executor().block_on(fill(&url, events));
    let sent = || {
        let info: String = server.run("INFO stats");
        let field = info.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        field.and_then(|bytes| bytes.trim().parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let (cpu, bytes) = (server_cpu(&server), sent());
    assert_eq!(executor().block_on(bare(&url)), events);
    let (bare_cpu, bare_bytes) = ((server_cpu(&server) - cpu).as_secs_f64(), sent() - bytes);

    let (cpu, bytes) = (server_cpu(&server), sent());
    let mut consumer = Command::new(env::current_exe().expect("a path"));
    consumer.args(["consume", &url, &events.to_string()]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = consumer.output().expect("a process");
    assert!(output.status.success(), "the consumer failed");
    let (cpu, bytes) = ((server_cpu(&server) - cpu).as_secs_f64(), sent() - bytes);
    let told = String::from_utf8(output.stdout).expect("text");
    let told: Vec<f64> = told.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let [wall, client, read, calls, rss, peak] = told[..] else { panic!("six numbers, not {told:?}") };

    let deliveries = (events * GROUPS) as f64;
    println!(
        "\n{GROUPS} groups from the beginning of {} events, in one process, in {wall:.1} s ({} deliveries/s):",
        thousands(events as f64),
        thousands(deliveries / wall)
    );
    let mib = |kib: f64| format!("{:.1}", kib / 1024.0);
    table(
        &["", "reads", "entries/event", "bytes", "Redis s", "client us/delivery", "RSS MiB", "peak MiB"],
        &[
            ["one bare XREAD pass", "", "1.00", "1.00", &format!("{bare_cpu:.2}"), "", "", ""]
                .map(str::to_owned)
                .into(),
            vec![
                "100 groups".to_owned(),
                thousands(calls),
                format!("{:.2}", read / events as f64),
                format!("{:.2}", bytes / bare_bytes),
                format!("{cpu:.2}"),
                format!("{:.2}", client * 1e6 / deliveries),
                mib(rss),
                mib(peak),
            ],
        ],
    );
    let ratio = read / events as f64;
    target("entries read for each event of the backlog at most 2", &format!("{ratio:.2}"), ratio <= 2.0);
    let peak = peak * 1024.0 / 1e6;
    target("peak memory of the consumer under 100 MB", &format!("{peak:.1} MB"), peak < 100.0);
}
