//! `streams bench`: from a publish to its handler, on this server and from here, on a stream of its own that is removed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use streams_runtime::broker::Broker;
use streams_runtime::keys::StreamKey;
use streams_runtime::{App, Publisher, Running, State, consumer, consumers, stream_event};

use crate::confirm::Consent;
use crate::connect::Server;
use crate::output::Output;
use crate::problem::Problem;

/// One event every so often while latency is measured.
const APART: Duration = Duration::from_millis(10);
/// How many events are published at once while throughput is measured.
const AT_ONCE: usize = 500;

/// Measure this server from here: latency from publish to handler, and events per second
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It publishes to a stream of its own in a namespace of its own, from one thread, and removes both at the end. First an event
every 10 ms for the latency, then as many as go for the throughput, half of the time each.")]
pub(crate) struct Bench {
    /// For so many seconds
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// Bytes of filling in each event
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    bytes: u32,
    #[command(flatten)]
    consent: Consent,
}

/// An event, and when it was published, in microseconds of this process.
#[stream_event(stream = "bench", lock = false)]
struct Tick {
    at: u64,
    filling: String,
}

/// The events that the handler has seen.
#[derive(Debug, Clone)]
struct Seen {
    began: Instant,
    handled: Arc<AtomicU64>,
    /// Microseconds from publish to handler, while latency is measured.
    latencies: Arc<Mutex<Vec<u64>>>,
}

impl Seen {
    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[consumer(group = "bench")]
async fn take(tick: Tick, seen: State<Seen>) {
    let waited = seen.0.micros().saturating_sub(tick.at);
    seen.0.handled.fetch_add(1, Ordering::Relaxed);
    if tick.at > 0 {
        seen.0.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(waited);
    }
}

impl Bench {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let token = uuid::Uuid::now_v7().simple().to_string();
        let namespace = format!("streams-bench-{}", &token[20..]);
        let plan = format!(
            "for {} seconds events of {} bytes would be published to a stream of its own, {namespace}:bench, which is removed at the end: no group of yours sees them",
            self.seconds, self.bytes
        );
        if !self.consent.given(&plan, &json!({ "seconds": self.seconds, "namespace": namespace }), out)? {
            return Ok(());
        }
        let seen = Seen { began: Instant::now(), handled: Arc::default(), latencies: Arc::default() };
        let app = App::with(consumers![take]).state(seen.clone()).namespace(&namespace);
        let running = app.broker(Arc::clone(&server.broker) as Arc<dyn Broker>).start().await;
        let running = running.map_err(|error| format!("{error:?}"))?;
        let measured = tokio::select! {
            measured = self.measure(&running, &seen) => measured,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        };
        let _ = running.shutdown().await;
        // Removed in any case.
        server.broker.delete(&keys(&namespace)).await?;
        let Figures { latencies, rate, handled } = measured?;
        let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or_default();
        let millis = |part| at(part) as f64 / 1_000.0;
        let value = json!({
            "events": latencies.len(), "p50_ms": millis(0.5), "p99_ms": millis(0.99), "worst_ms": millis(0.999_999),
            "published_per_second": rate, "handled_per_second": handled, "bytes": self.bytes,
        });
        let facts = [
            (
                "latency",
                format!(
                    "{:.2} ms half, {:.2} ms p99, {:.2} ms worst, of {} events",
                    millis(0.5),
                    millis(0.99),
                    millis(0.999_999),
                    latencies.len()
                ),
            ),
            ("published", format!("{rate:.0} events per second")),
            ("handled", format!("{handled:.0} events per second")),
        ];
        Ok(out.one(&facts, &value)?)
    }

    async fn measure(&self, running: &Running, seen: &Seen) -> Result<Figures, Problem> {
        let publisher = running.publisher();
        let half = Duration::from_millis(self.seconds * 500);
        let filling = "x".repeat(self.bytes as usize);
        // The first event waits for the group's first lease.
        publish(publisher, Tick { at: 0, filling: filling.clone() }).await?;
        running.settled().await.map_err(|error| format!("{error:?}"))?;
        let mut every = tokio::time::interval(APART);
        let end = Instant::now() + half;
        while Instant::now() < end {
            every.tick().await;
            publish(publisher, Tick { at: seen.micros().max(1), filling: filling.clone() }).await?;
        }
        running.settled().await.map_err(|error| format!("{error:?}"))?;
        let mut latencies = std::mem::take(&mut *seen.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        latencies.sort_unstable();
        let before = seen.handled.load(Ordering::Relaxed);
        let (began, mut published) = (SystemTime::now(), 0);
        while began.elapsed().unwrap_or(half) < half {
            let ticks = (0..AT_ONCE).map(|_| Tick { at: 0, filling: filling.clone() });
            for sent in publisher.publish_all(ticks).await {
                sent.map_err(|error| error.to_string())?;
                published += 1;
            }
        }
        let publishing = began.elapsed().unwrap_or(half).as_secs_f64();
        running.settled().await.map_err(|error| format!("{error:?}"))?;
        let handling = began.elapsed().unwrap_or(half).as_secs_f64();
        let handled = seen.handled.load(Ordering::Relaxed) - before;
        Ok(Figures { latencies, rate: f64::from(published) / publishing, handled: handled as f64 / handling })
    }
}

async fn publish(publisher: &Publisher, tick: Tick) -> Result<(), Problem> {
    publisher.publish(&tick).await.map(drop).map_err(|error| error.to_string().into())
}

struct Figures {
    /// Sorted.
    latencies: Vec<u64>,
    rate: f64,
    handled: f64,
}

/// Everything that the measurement has made.
fn keys(namespace: &str) -> Vec<String> {
    let stream = StreamKey::new(Some(namespace), "bench", 1);
    let partition = stream.partition(0);
    let group = partition.group("bench");
    vec![
        partition.as_str().to_owned(),
        partition.bell(),
        stream.properties(),
        stream.builds(),
        stream.members("bench"),
        group.state().to_owned(),
        group.dead(),
        group.replay(),
    ]
}
