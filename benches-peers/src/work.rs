//! The work, the same for every contender: events of a chosen size in the wire form of each, and handlers that sum one field.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::Cmd;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::figures::Latencies;
use crate::replies::{connect, entries};

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

/// The events that the handlers of this process have seen.
pub(crate) struct Seen {
    events: AtomicU64,
    quantity: AtomicU64,
    awaited: AtomicU64,
    all: Notify,
    late: Latencies,
}

pub(crate) static SEEN: Seen = Seen {
    events: AtomicU64::new(0),
    quantity: AtomicU64::new(0),
    awaited: AtomicU64::new(u64::MAX),
    all: Notify::const_new(),
    late: Latencies::new(),
};

impl Seen {
    /// The body of every handler.
    pub(crate) fn count(&self, quantity: u64, sent_ns: u64) {
        if sent_ns > 0 {
            self.late.record(now_ns().saturating_sub(sent_ns));
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
        self.late.quantile(share).unwrap_or(0.0) / 1e6
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
