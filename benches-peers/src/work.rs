//! The work, the same for every contender: events of a chosen size in the wire form of each, and handlers that sum one field.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// How long a contender may take before the run fails.
const PATIENCE: Duration = Duration::from_secs(300);
/// How many bytes of payload a pipeline that fills a stream holds at most.
const CHUNK: usize = 1 << 20;

/// An event as the peers declare it. Ours has the same fields, and the bytes of a payload are the same for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ruststream::Outgoing)]
#[outgoing(name = "trades-ruststream")]
pub(crate) struct Trade {
    pub(crate) symbol: String,
    pub(crate) price: f64,
    pub(crate) quantity: u64,
    /// When it was published, by the wall clock; 0 where nobody measures how late it is.
    pub(crate) sent_ns: u64,
    pub(crate) note: String,
}

impl Trade {
    /// Trade number `quantity`, whose payload has about `size` bytes.
    pub(crate) fn new(quantity: u64, sent_ns: u64, size: usize) -> Self {
        // The other fields and their names take 69 bytes.
        let note = "n".repeat(size.saturating_sub(69));
        Self { symbol: "BTC-USD".to_owned(), price: 64_000.25, quantity, sent_ns, note }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.note.len() + 128);
        let mut serializer = rmp_serde::Serializer::new(&mut payload).with_struct_map();
        self.serialize(&mut serializer).expect("encoded");
        payload
    }

    pub(crate) fn decode(payload: &[u8]) -> Self {
        rmp_serde::from_slice(payload).expect("a trade")
    }
}

/// Whose entries a stream holds. Each reads what its own publisher writes; the bare loops read ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Ours,
    RustStream,
    SeaStreamer,
}

impl Form {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::RustStream, Self::SeaStreamer];

    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Ours => "trades",
            Self::RustStream => "trades-ruststream",
            Self::SeaStreamer => "trades-seastreamer",
        }
    }

    /// The XADD of an entry in this form.
    fn xadd(self, number: u64, payload: &[u8]) -> Cmd {
        let mut command = redis::cmd("XADD");
        command.arg(self.key()).arg("*");
        match self {
            Self::Ours => {
                let id = format!("0190a5b0-0000-7000-8000-{number:012}");
                command.arg("event").arg("Trade@1").arg("id").arg(id).arg("payload").arg(payload);
            }
            Self::RustStream => {
                command.arg("_payload").arg(payload);
            }
            Self::SeaStreamer => {
                command.arg("msg").arg(payload);
            }
        }
        command
    }

    /// Adds so many events of this size to the stream.
    pub(crate) async fn fill(self, url: &str, events: u64, size: usize) {
        let mut connection = connect(url).await;
        let page = (CHUNK / size).clamp(1, 1_000) as u64;
        for first in (0..events).step_by(page as usize) {
            let mut pipe = redis::pipe();
            for number in first..(first + page).min(events) {
                pipe.add_command(self.xadd(number, &Trade::new(number, 0, size).encode())).ignore();
            }
            pipe.exec_async(&mut connection).await.expect("the stream is filled");
        }
    }

    /// Adds one event at a time, at a steady rate, each with the time; what is late is made up for.
    pub(crate) async fn publish(self, url: &str, rate: u64, first: u64, events: u64) {
        let mut connection = connect(url).await;
        let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).expect("a rate"));
        for number in first..first + events {
            tick.tick().await;
            // The first ones only show that everybody listens.
            let sent = if first == 0 { 0 } else { now_ns() };
            let command = self.xadd(number, &Trade::new(number, sent, 100).encode());
            let _: String = command.query_async(&mut connection).await.expect("published");
        }
    }

    /// How many events the stream holds, and what their quantities sum up to.
    pub(crate) async fn sum(self, url: &str) -> (u64, u64) {
        let mut connection = connect(url).await;
        let (mut position, mut count, mut sum) = (b"0-0".to_vec(), 0, 0);
        loop {
            let mut read = redis::cmd("XREAD");
            read.arg("COUNT").arg(1_000).arg("STREAMS").arg(self.key()).arg(&position);
            let found = entries(read.query_async(&mut connection).await.expect("a reply"));
            let Some((last, _)) = found.last() else { return (count, sum) };
            position.clone_from(last);
            count += found.len() as u64;
            // RustStream's own codec writes an array, which is read as well.
            sum += found.iter().map(|(_, payload)| Trade::decode(payload).quantity).sum::<u64>();
        }
    }
}

/// The task of a consuming process, which its parent tells it.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) url: String,
    pub(crate) events: u64,
    /// Groups that get every event each.
    pub(crate) groups: usize,
    /// Consumers that share each group.
    pub(crate) consumers: usize,
    /// Events that come before the measured ones, in each group; 0 with a backlog.
    pub(crate) warm_up: u64,
    /// How many entries a read asks for, where a contender lets one choose.
    pub(crate) count: usize,
    /// How often a polling contender asks.
    pub(crate) poll: Duration,
}

impl Work {
    pub(crate) fn groups(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.groups).map(|group| format!("g{group:02}"))
    }

    /// Awaits every event on behalf of a contender that has been started, and tells the parent how it went.
    ///
    /// It returns when the parent has read the counters of CPU, so that nobody measures how a contender stops.
    pub(crate) async fn report(&self, began: Instant) {
        let groups = self.groups as u64;
        if self.warm_up > 0 {
            say("listening");
            SEEN.reach(self.warm_up * groups).await;
            say("ready");
        }
        let all = (self.warm_up + self.events) * groups;
        SEEN.reach(all).await;
        let wall = began.elapsed().as_secs_f64();
        let quantiles = [0.5, 0.95, 0.99].map(|share| SEEN.quantile(share).to_string()).join(" ");
        say(&format!("done {wall} {quantiles}"));
        answer().await;
    }

    /// Checks, once the contender has stopped, that its handlers had every event once and no other.
    pub(crate) fn verify(&self) {
        let events = self.warm_up + self.events;
        let expected = (events * self.groups as u64, events * (events - 1) / 2 * self.groups as u64);
        let seen = (SEEN.events.load(Ordering::Relaxed), SEEN.quantity.load(Ordering::Relaxed));
        assert_eq!(seen, expected, "calls of handlers, and the sum of their quantities");
    }
}

pub(crate) fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the parent listens");
}

/// Waits until the parent has read what it wants to know.
pub(crate) async fn answer() {
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let read = told.await.expect("no panic").expect("the parent answers");
    assert!(read > 0, "the parent is gone");
}

/// Steps of each power of two: a latency is known to 3 percent, in a few KiB whatever number of deliveries.
const STEPS: u64 = 32;

/// The events that the handlers of this process have seen.
pub(crate) struct Seen {
    events: AtomicU64,
    quantity: AtomicU64,
    awaited: AtomicU64,
    all: Notify,
    late: [AtomicU64; 64 * STEPS as usize],
}

pub(crate) static SEEN: Seen = Seen {
    events: AtomicU64::new(0),
    quantity: AtomicU64::new(0),
    awaited: AtomicU64::new(u64::MAX),
    all: Notify::const_new(),
    late: [const { AtomicU64::new(0) }; 64 * STEPS as usize],
};

impl Seen {
    /// The body of every handler.
    pub(crate) fn count(&self, quantity: u64, sent_ns: u64) {
        if sent_ns > 0 {
            self.late[bucket(now_ns().saturating_sub(sent_ns))].fetch_add(1, Ordering::Relaxed);
        }
        self.quantity.fetch_add(quantity, Ordering::Relaxed);
        if self.events.fetch_add(1, Ordering::SeqCst) + 1 == self.awaited.load(Ordering::SeqCst) {
            self.all.notify_one();
        }
    }

    /// Waits until so many calls were counted.
    async fn reach(&self, events: u64) {
        self.awaited.store(events, Ordering::SeqCst);
        let all = async {
            while self.events.load(Ordering::SeqCst) < events {
                self.all.notified().await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, all).await.is_ok();
        assert!(in_time, "{} of {events} events in {PATIENCE:?}", self.events.load(Ordering::SeqCst));
    }

    /// The latency in milliseconds below which this share of the deliveries was.
    fn quantile(&self, share: f64) -> f64 {
        let counts: Vec<u64> = self.late.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let rank = (counts.iter().sum::<u64>() as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let found = counts.iter().position(|count| {
            below += count;
            below >= rank
        });
        found.map_or(0.0, |index| upper(index) / 1e6)
    }
}

fn bucket(ns: u64) -> usize {
    let power = ns.max(STEPS).ilog2() - STEPS.ilog2();
    // Below STEPS the number itself; above, the leading digits and the power of two behind them.
    let index = u64::from(power) * STEPS + (ns >> power);
    usize::try_from(index).unwrap_or(usize::MAX).min(64 * STEPS as usize - 1)
}

fn upper(index: usize) -> f64 {
    let (index, steps) = (index as f64, STEPS as f64);
    let power = ((index / steps).floor() - 1.0).max(0.0);
    (index - power * steps + 1.0) * power.exp2()
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A connection for the bare loops, with the settings that suit them best.
pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    use redis::IntoConnectionInfo;
    let info = url.into_connection_info().expect("a URL");
    let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let client = redis::Client::open(info).expect("a client");
    client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
}

/// The entries of a reply of XREAD or XREADGROUP on one key: id and the last field's value, taken apart by move.
pub(crate) fn entries(reply: Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = match reply {
        Value::Nil => return Vec::new(),
        Value::Map(mut streams) => streams.pop().map(|(_, list)| list),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut pair)) => pair.pop(),
            _ => None,
        },
        _ => None,
    };
    let Some(Value::Array(list)) = list else { panic!("no reply of XREAD") };
    list.into_iter()
        .map(|entry| {
            let Value::Array(mut entry) = entry else { panic!("no entry") };
            let (Some(Value::Array(mut fields)), Some(Value::BulkString(id))) = (entry.pop(), entry.pop()) else {
                panic!("no entry")
            };
            let Some(Value::BulkString(payload)) = fields.pop() else { panic!("no payload") };
            (id, payload)
        })
        .collect()
}
