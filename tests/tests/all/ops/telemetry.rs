//! An app reports on itself: every metric against a workload, lag against the truth, the HTTP endpoint, and traces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::routing::post;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceId, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use streams_core::broker::{Broker, BrokerErrorKind, Log};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::metrics::{Kind, LOOK, METRICS};
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Batch, BoxError, Config, ConsumerOptions, Context, Entry, EntryId, Error, GroupStatus, Monitor, Outcome,
    Phase, Publisher, Receipt, Running, State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::{Act, Fault, Gate, Lab, Op, Process, RedisServer, World, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

#[stream_event(stream = "told")]
#[derive(Debug, Clone, PartialEq)]
struct Step {
    n: u64,
}

/// An event of the same stream that nobody here takes.
#[stream_event(stream = "told")]
#[derive(Debug, Clone, PartialEq)]
struct Turn {
    n: u64,
}

/// An event that a step leads to.
#[stream_event(stream = "outcomes")]
#[derive(Debug, Clone, PartialEq)]
struct Made {
    n: u64,
}

#[consumer(group = "work", max_attempts = 3, on_data_loss = "continue")]
async fn work(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

#[consumer(group = "other")]
async fn other(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

#[consumer(group = "makes")]
async fn makes(step: Step, publisher: Publisher) -> Result<(), BoxError> {
    publisher.publish(&Made { n: step.n }).await?;
    Ok(())
}

#[consumer(group = "books")]
async fn books(made: Made, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, made.n).await
}

#[consumer(group = "loads", batch = 3)]
async fn loads(steps: Batch<Step>, publisher: Publisher) -> Result<(), BoxError> {
    publisher.publish(&Made { n: steps.len() as u64 }).await?;
    Ok(())
}

/// Far longer than anything here takes: when it is over the test has failed.
const LONG: Duration = Duration::from_secs(60);

fn partition() -> PartitionKey {
    StreamKey::new(None, "told", 1).partition(0)
}

/// The only process of a program, with the group `work`.
async fn alone(world: &World) -> Process {
    world.process(consumers![work]).start().await
}

fn status(monitor: &Monitor, group: &str) -> GroupStatus {
    monitor.status().groups.into_iter().find(|status| status.group == group).unwrap()
}

/// One line of the text format: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads the text format as strictly as it is defined. Every family comes once, with help and type, and its samples follow.
fn parse(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut samples, mut family, mut families) = (Vec::new(), String::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a name and a text").0.to_owned();
            assert!(families.insert(family.clone()), "{family} comes twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let metric = METRICS.iter().find(|metric| metric.name == family).expect("a metric of the table");
            assert_eq!(kind, format!("{family} {}", metric.kind.as_str()));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in `{line}`"));
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels in `{line}`"));
            let labels: BTreeMap<_, _> = labels
                .split(',')
                .filter(|label| !label.is_empty())
                .map(|label| {
                    let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("no label in `{line}`"));
                    (name.to_owned(), value.strip_suffix('"').expect("a quoted value").to_owned())
                })
                .collect();
            let metric = METRICS.iter().find(|metric| metric.name == family).expect("a metric of the table");
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("`{line}` in family {family}"));
            let (suffixes, more): (&[_], _) =
                if metric.kind == Kind::Histogram { (&["_bucket", "_sum", "_count"], "le") } else { (&[""], "le") };
            assert!(suffixes.contains(&suffix), "{line}");
            let names: BTreeSet<_> = labels.keys().map(String::as_str).filter(|name| *name != more).collect();
            assert_eq!(names, metric.labels.iter().copied().collect(), "{line}");
            samples.push((name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number in `{line}`"))));
        }
    }
    assert_eq!(families, METRICS.iter().map(|metric| metric.name.to_owned()).collect());
    samples
}

/// The value of the one sample with at least these labels.
fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |found: &BTreeMap<String, String>| {
        labels.iter().all(|(name, value)| found.get(*name).is_some_and(|found| found == value))
    };
    let mut found = samples.iter().filter(|(found, of, _)| found == name && fits(of));
    let value = found.next()?.2;
    assert!(found.next().is_none(), "several samples of {name} with {labels:?}");
    Some(value)
}

const WORK: [(&str, &str); 3] = [("stream", "told"), ("partition", "0"), ("group", "work")];

fn of_work(samples: &[Sample], name: &str, more: &[(&str, &str)]) -> f64 {
    let labels: Vec<_> = WORK.iter().chain(more).copied().collect();
    value(samples, name, &labels).unwrap_or_else(|| panic!("no {name} with {labels:?}"))
}

// Metrics.

#[tokio::test]
async fn every_metric_says_what_happened() {
    let world = World::new("told");
    let World { store, wire, lab, .. } = &world;
    let app = world.process(consumers![work]).start().await;
    let monitor = app.running().monitor().clone();
    let mut told = BTreeSet::new();
    let mut says = |samples: &[Sample], name: &'static str, more: &[(&str, &str)], expected: f64| {
        told.insert(name);
        assert_eq!(of_work(samples, name, more), expected, "{name} {more:?}");
    };

    lab.script("work", 2, [Act::Fail, Act::Sleep(Duration::from_millis(30))]);
    lab.script("work", 3, [Act::Give(Outcome::skip("not wanted"))]);
    lab.script("work", 4, [Act::Give(Outcome::dead_letter("bad"))]);
    lab.always("work", 5, Act::Panic);
    for n in 1..=5 {
        app.publish(&Step { n }).await.unwrap();
    }
    app.publish(&Turn { n: 1 }).await.unwrap();
    app.publish_all([Step { n: 6 }, Step { n: 7 }]).await;
    assert!(app.publisher().publish(&Step { n: 8 }).header("", "x").await.unwrap_err().is_refused());
    wire.once(Op::Append, Fault::Fail(BrokerErrorKind::Full));
    assert!(app.publish(&Step { n: 8 }).await.unwrap_err().is_backpressure());
    app.settled().await;
    drop(monitor.metrics());
    app.advance(LOOK).await;

    let samples = parse(&monitor.metrics());
    let publishes = |name: &'static str, labels: &[(&str, &str)]| value(&samples, name, labels);
    assert_eq!(publishes("streams_published_total", &[("stream", "told"), ("partition", "0")]), Some(8.0));
    assert_eq!(publishes("streams_publish_errors_total", &[("stream", "told"), ("kind", "invalid")]), Some(1.0));
    assert_eq!(publishes("streams_publish_errors_total", &[("stream", "told"), ("kind", "full")]), Some(1.0));
    assert_eq!(publishes("streams_publish_errors_total", &[("stream", "told"), ("kind", "protocol")]), Some(0.0));
    assert_eq!(publishes("streams_publish_duration_seconds_count", &[("stream", "told")]), Some(9.0));
    for (outcome, count) in [("done", 4.0), ("skipped", 1.0), ("dead_lettered", 2.0), ("passed_over", 1.0)] {
        says(&samples, "streams_consumed_total", &[("outcome", outcome)], count);
    }
    says(&samples, "streams_retried_total", &[], 3.0);
    for (cause, count) in [("asked", 1.0), ("panic", 1.0), ("handler", 0.0)] {
        says(&samples, "streams_dead_lettered_total", &[("cause", cause)], count);
    }
    let handler = [("stream", "told"), ("group", "work"), ("consumer", "work")];
    assert_eq!(value(&samples, "streams_handler_duration_seconds_count", &handler), Some(10.0));
    let sum = value(&samples, "streams_handler_duration_seconds_sum", &handler).unwrap();
    assert!((0.03..0.04).contains(&sum), "the one that slept 30 ms: {sum}");
    for (change, count) in [("taken", 1.0), ("lost", 0.0), ("released", 0.0)] {
        says(&samples, "streams_lease_changes_total", &[("change", change)], count);
    }
    says(&samples, "streams_lag_entries", &[], 0.0);
    says(&samples, "streams_lag_seconds", &[], 0.0);
    says(&samples, "streams_checkpoint_age_seconds", &[], 0.0);
    says(&samples, "streams_owner", &[], 1.0);
    says(&samples, "streams_halted", &[], 0.0);
    says(&samples, "streams_troubled", &[], 0.0);
    assert_eq!(value(&samples, "streams_members", &[("stream", "told"), ("group", "work")]), Some(1.0));
    assert_eq!(value(&samples, "streams_tail_reconnects_total", &[]), Some(0.0));

    // Cut off from the server for longer than the lease.
    wire.cut_off();
    app.advance(Duration::from_secs(30)).await;
    let samples = parse(&monitor.metrics());
    says(&samples, "streams_troubled", &[], 1.0);
    says(&samples, "streams_owner", &[], 0.0);
    says(&samples, "streams_lease_changes_total", &[("change", "lost")], 1.0);
    assert_eq!(value(&samples, "streams_tail_reconnects_total", &[]), Some(1.0), "one connection was lost");
    let lag = value(&samples, "streams_lag_entries", &WORK);
    assert_eq!(lag, None, "who is not the owner does not know");
    wire.heal();
    app.advance(Duration::from_secs(30)).await;
    // The lease that could not be given back is remembered: not `Clean`.
    let _ = app.into_running().shutdown().await;
    let samples = parse(&monitor.metrics());
    says(&samples, "streams_lease_changes_total", &[("change", "taken")], 2.0);
    says(&samples, "streams_lease_changes_total", &[("change", "released")], 1.0);
    says(&samples, "streams_owner", &[], 0.0);

    // Entries trimmed while nobody reads are lost, and the group halts until an operator acts.
    world.publish((11..=14).map(|n| Step { n })).await;
    let there = store.read(&partition(), EntryId::ZERO, 100).await.unwrap();
    store.trim(&partition(), there[there.len() - 1].id);
    lab.script("work", 14, [Act::Give(Outcome::dead_letter("bad"))]);
    let mut config = Config::new();
    config.dead_letter_storm = 1;
    let app = world.process(consumers![work]).config(config).apart().start().await;
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_)) | Ok(())));
    app.advance(Duration::from_secs(1)).await;
    let samples = parse(&app.running().monitor().metrics());
    says(&samples, "streams_losses_total", &[("kind", "trimmed_past")], 1.0);
    says(&samples, "streams_losses_total", &[("kind", "restarted")], 0.0);
    says(&samples, "streams_lost_entries_total", &[], 3.0);
    says(&samples, "streams_halted", &[], 1.0);
    says(&samples, "streams_paused", &[], 0.0);
    says(&samples, "streams_owner", &[], 1.0);

    let elsewhere = [
        "streams_published_total",
        "streams_publish_errors_total",
        "streams_publish_duration_seconds",
        "streams_handler_duration_seconds",
        "streams_members",
        "streams_stray_entries",
        "streams_tail_reconnects_total",
    ];
    told.extend(elsewhere);
    assert_eq!(told, METRICS.iter().map(|metric| metric.name).collect(), "a metric is not tested here");
}

#[tokio::test]
async fn the_lag_is_what_stands_above_the_checkpoint_also_after_a_trim() {
    let (world, gate) = (World::new("told"), Gate::default());
    let store = &world.store;
    world.lab.script("work", 2, [Act::Wait(gate.clone())]);
    let options = ConsumerOptions::DEFAULT.with_timeout(Duration::from_secs(3600));
    let app = world.process(consumers![work]).options(options).start().await;
    let monitor = app.running().monitor().clone();
    app.publish(&Step { n: 1 }).await.unwrap();
    app.settled().await;
    let held = app.publish(&Step { n: 2 }).await.unwrap().entry_id;
    gate.arrived(1).await;
    let mut last = held;
    for n in 3..=6 {
        app.advance(Duration::from_secs(10)).await;
        last = app.publish(&Step { n }).await.unwrap().entry_id;
    }
    app.advance(2 * LOOK).await;
    let now = status(&monitor, "work");
    assert_eq!(now.lag_entries, Some(5), "the one in flight and four behind it");
    assert_eq!(now.lag, Some(Duration::from_millis(last.ms - held.ms)));
    assert!(now.checkpoint_age >= Duration::from_secs(50), "{:?}", now.checkpoint_age);

    // Trimming settled entries changes nothing; then unread entries go, and are no work any more.
    store.trim(&partition(), held);
    app.advance(2 * LOOK).await;
    assert_eq!(status(&monitor, "work").lag_entries, Some(5));
    store.trim(&partition(), last);
    app.advance(2 * LOOK).await;
    assert_eq!(status(&monitor, "work").lag_entries, Some(1));

    gate.open();
    app.settled().await;
    app.advance(2 * LOOK).await;
    let now = status(&monitor, "work");
    assert_eq!((now.lag_entries, now.lag, now.checkpoint_age), (Some(0), Some(Duration::ZERO), Duration::ZERO));
}

#[tokio::test]
async fn a_commit_that_is_not_answered_lets_the_checkpoint_grow_old() {
    let world = World::new("told");
    let app = world.process(consumers![work]).start().await;
    world.wire.always(Op::Commit, Fault::Fail(BrokerErrorKind::Unavailable));
    app.publish(&Step { n: 1 }).await.unwrap();
    world.lab.called("work", 1).await;
    app.advance(Duration::from_secs(5)).await;
    let age = app.status("work").checkpoint_age;
    assert!(age >= Duration::from_millis(4_900), "{age:?}");
    world.wire.heal();
    app.settled().await;
    assert_eq!(app.status("work").checkpoint_age, Duration::ZERO);
}

#[tokio::test]
async fn apps_of_one_process_have_figures_of_their_own() {
    let one = alone(&World::new("told")).await;
    let two = alone(&World::new("told")).await;
    one.publish(&Step { n: 1 }).await.unwrap();
    one.settled().await;
    let done = |app: &Process| {
        let samples = parse(&app.running().monitor().metrics());
        of_work(&samples, "streams_consumed_total", &[("outcome", "done")])
    };
    assert_eq!((done(&one), done(&two)), (1.0, 0.0));
    // Publishers that come of the app's own count with it.
    let longer = one.publisher().with_retry(Duration::from_secs(1));
    longer.publish(&Step { n: 2 }).await.unwrap();
    let samples = parse(&one.running().monitor().metrics());
    assert_eq!(value(&samples, "streams_published_total", &[("stream", "told")]), Some(2.0));
}

/// A recorder that keeps every value by name and labels; of a histogram the number of observations.
#[derive(Debug, Clone, Default)]
struct Recorder {
    values: Arc<Mutex<BTreeMap<String, Arc<Value>>>>,
    described: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Debug, Default)]
struct Value(AtomicU64);

impl metrics::CounterFn for Value {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl metrics::GaugeFn for Value {
    fn increment(&self, _: f64) {}

    fn decrement(&self, _: f64) {}

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl metrics::HistogramFn for Value {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder {
    fn value(&self, key: &metrics::Key) -> Arc<Value> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}=\"{}\"", label.key(), label.value())).collect();
        let series = format!("{}{{{}}}", key.name(), labels.join(","));
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(values.entry(series).or_default())
    }

    fn describe(&self, name: &metrics::KeyName) {
        self.described.lock().unwrap_or_else(PoisonError::into_inner).insert(name.as_str().to_owned());
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {
        self.describe(&name);
    }

    fn describe_gauge(&self, name: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {
        self.describe(&name);
    }

    fn describe_histogram(&self, name: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {
        self.describe(&name);
    }

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(self.value(key))
    }

    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(self.value(key))
    }

    fn register_histogram(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::from_arc(self.value(key))
    }
}

#[tokio::test]
async fn a_recorder_of_the_facade_hears_the_same() {
    let recorder = Recorder::default();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let world = World::new("told");
    world.lab.script("work", 2, [Act::Fail]);
    let app = alone(&world).await;
    app.publish_all((1..=3).map(|n| Step { n })).await;
    app.settled().await;
    // Without anybody asking.
    app.advance(2 * LOOK).await;

    let heard = recorder.values.lock().unwrap().clone();
    let text = app.running().monitor().metrics();
    let (mut compared, mut told) = (0, 0);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, said) = line.rsplit_once(' ').unwrap();
        let series = if series.contains('{') { series.to_owned() } else { format!("{series}{{}}") };
        let series = series.replace("_seconds_count{", "_seconds{");
        let name = series.split_once('{').unwrap().0;
        let Some(metric) = METRICS.iter().find(|metric| metric.name == name) else { continue };
        let heard = heard.get(&series).unwrap_or_else(|| panic!("nothing heard of {series}")).0.load(Ordering::Relaxed);
        let heard = if metric.kind == Kind::Gauge { f64::from_bits(heard) } else { heard as f64 };
        assert_eq!(heard.to_string(), said, "{series}");
        compared += 1;
        told += usize::from(heard > 0.0);
    }
    assert_eq!(compared, heard.len(), "both have the same series");
    assert!(told >= 6, "published, done, retried, durations, taken, owner: {told}");
    let described = recorder.described.lock().unwrap().clone();
    assert_eq!(described, METRICS.iter().map(|metric| metric.name.to_owned()).collect());
}

// The endpoint.

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// One request: the status, the head and the body.
async fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let answered = timeout(LONG, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    });
    let response = answered.await.expect("an answer");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

async fn get(running: &Running, path: &str) -> (u16, String) {
    let (status, _, body) = request(running.http_address().unwrap(), "GET", path).await;
    (status, body)
}

async fn serving(app: App, broker: Arc<dyn Broker>, config: Config) -> Running {
    app.broker(broker).config(config.http(any_port())).start().await.unwrap()
}

#[tokio::test]
async fn the_endpoint_answers_its_three_paths_and_nothing_else() {
    let lab = Lab::default();
    let app = App::with(consumers![work]).state(lab.clone());
    let running = serving(app, Arc::new(Embedded::new()), Config::new()).await;
    running.publisher().publish(&Step { n: 1 }).await.unwrap();
    running.settled().await.unwrap();
    let address = running.http_address().unwrap();

    let (code, head, body) = request(address, "GET", "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert_eq!(of_work(&parse(&body), "streams_consumed_total", &[("outcome", "done")]), 1.0);
    assert_eq!(get(&running, "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(get(&running, "/readyz").await, (200, "ready\n".to_owned()));
    let (code, _, body) = request(address, "HEAD", "/readyz").await;
    assert_eq!((code, body.as_str()), (200, ""));
    let (code, head, _) = request(address, "POST", "/readyz").await;
    assert!(code == 405 && head.contains("allow: get, head"), "{code} {head}");
    assert_eq!(get(&running, "/").await.0, 404);
    assert_eq!(request(address, "GET", &format!("/{}", "x".repeat(64 * 1024))).await.0, 431);

    assert_eq!(running.shutdown().await, Stopped::Clean);
    assert!(TcpStream::connect(address).await.is_err(), "the endpoint ends with the app");
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_from_an_answer() {
    let app = App::with(consumers![work]).state(Lab::default());
    let running = serving(app, Arc::new(Embedded::new()), Config::new()).await;
    let address = running.http_address().unwrap();
    let mut silent = Vec::new();
    // Twice as many as are served at once.
    for _ in 0..64 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(get(&running, "/livez").await.0, 200);
    let mut rest = Vec::new();
    let ended = timeout(LONG, silent[0].read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a connection without a request is ended");
}

#[tokio::test]
async fn an_address_that_is_taken_refuses_the_start_by_name() {
    let taken = TcpListener::bind(any_port()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let app = App::with(consumers![work]).state(Lab::default()).broker(Arc::new(Embedded::new()));
    let error = app.config(Config::new().http(address)).start().await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(&address.to_string()) && said.contains("STREAMS_HTTP"), "{said}");
}

#[tokio::test]
async fn readyz_names_who_is_halted_and_who_waits() {
    let (store, lab) = (Embedded::new(), Lab::default());
    let app = || App::with(consumers![work, other]).state(lab.clone());
    let mut config = Config::new();
    config.dead_letter_storm = 1;
    let owner = serving(app(), Arc::new(store.clone()), config.clone()).await;
    until(|| owner.status().is_ready()).await;
    let second = serving(app(), Arc::new(store), config).await;
    let waits = |running: &Running| {
        let waits = |status: &GroupStatus| matches!(status.phase, Phase::StandingBy { .. });
        running.status().groups.iter().all(waits)
    };
    until(|| waits(&second)).await;
    let standing = "ready\nwaiting told other: another process owns the partition\nwaiting told work: another process owns the partition\n";
    assert_eq!(get(&second, "/readyz").await, (200, standing.to_owned()));

    lab.script("work", 1, [Act::Give(Outcome::dead_letter("secret of the event"))]);
    owner.publisher().publish(&Step { n: 1 }).await.unwrap();
    let halted = |status: GroupStatus| matches!(status.phase, Phase::Halted(_));
    until(|| halted(status(owner.monitor(), "work"))).await;
    let (code, body) = get(&owner, "/readyz").await;
    assert_eq!(code, 503);
    assert!(body.starts_with("not ready: 1 of 2 groups, counted by partition\nhalted told work: "), "{body}");
    assert!(!body.contains("secret"), "{body}");
    assert_eq!(get(&owner, "/livez").await.0, 200, "a restart would not mend it");

    // A probe may name the groups that it is about, or none of them.
    for (query, code) in
        [("work", 503), ("other,work", 503), ("other%2Cwork", 503), ("other", 200), ("", 200), ("none", 200)]
    {
        assert_eq!(get(&owner, &format!("/readyz?groups={query}")).await.0, code, "{query}");
    }
    let unknown = "this process does not run the group `wrok`, perhaps `work` is meant; it runs other, work\n";
    assert_eq!(get(&owner, "/readyz?groups=wrok").await, (400, unknown.to_owned()));
    for query in ["group=work", "groups=work&groups=other"] {
        let (code, said) = get(&owner, &format!("/readyz?{query}")).await;
        assert!(code == 400 && said.contains("it takes `groups=`"), "{query}: {code} {said}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_trouble_but_no_reason_for_a_restart_and_its_password_stays_secret() {
    let server = streams_tests::Options::default().password("hunter2").start();
    let broker = Arc::new(Redis::open(&server.url()).unwrap());
    let config = Config::new().lease(Duration::from_secs(1)).shutdown_deadline(Duration::from_millis(10));
    let running = serving(App::with(consumers![work]).state(Lab::default()), broker, config).await;
    until(|| running.status().is_ready()).await;
    drop(server);
    let troubled = |status: GroupStatus| matches!(status.phase, Phase::Retrying(_));
    until(|| troubled(status(running.monitor(), "work"))).await;
    let (code, ready) = get(&running, "/readyz").await;
    assert!(code == 503 && ready.contains("\nretrying told work: "), "{code} {ready}");
    assert_eq!(get(&running, "/livez").await, (200, "alive\n".to_owned()));
    let (code, of_none) = get(&running, "/readyz?groups=").await;
    assert!(code == 503 && of_none.contains("\nthe server cannot be used: "), "{code} {of_none}");
    let (code, metrics) = get(&running, "/metrics").await;
    assert_eq!((code, of_work(&parse(&metrics), "streams_troubled", &[])), (200, 1.0));
    assert!(![ready, of_none, metrics].iter().any(|text| text.contains("hunter2")));
}

#[tokio::test]
async fn renewals_that_stand_still_are_no_life() {
    let app = alone(&World::new("told")).await;
    let monitor = app.running().monitor().clone();
    app.advance(Duration::from_secs(3600)).await;
    assert!(monitor.health().live);
    // As when its thread died: the app is gone, and nothing renews any more.
    drop(app);
    sleep(Duration::from_secs(31)).await;
    assert!(monitor.health().stopped.unwrap().contains("renewals stand still"));
}

// Traces.

/// Spans that ended, and what keeps them coming to this thread.
struct Traced {
    exporter: InMemorySpanExporter,
    _provider: SdkTracerProvider,
    _guard: tracing::subscriber::DefaultGuard,
}

fn traced() -> Traced {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let filter = tracing_subscriber::filter::LevelFilter::INFO;
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer.with_filter(filter)));
    Traced { exporter, _provider: provider, _guard: guard }
}

impl Traced {
    fn spans(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().unwrap()
    }

    fn all(&self, name: &str) -> Vec<SpanData> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    fn one(&self, name: &str) -> SpanData {
        let mut found = self.all(name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found.remove(0)
    }
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.to_string())
}

fn ids(span: &SpanData) -> (TraceId, SpanId) {
    (span.span_context.trace_id(), span.span_context.span_id())
}

/// From a request through a publish to two groups, one of which publishes in turn to a third.
async fn a_request_and_all_that_comes_of_it(
    broker: Arc<dyn Broker>,
    request: impl AsyncFnOnce(Publisher) -> Receipt,
) -> TraceId {
    let (traced, lab) = (traced(), Lab::default());
    let app = App::with(consumers![other, makes, books]).state(lab.clone());
    let running = app.broker(broker).start().await.unwrap();
    let receipt = request(running.publisher().clone()).await;
    lab.called("other", 1).await;
    lab.called("books", 1).await;
    assert_eq!(running.shutdown().await, Stopped::Clean);

    let (root, published) = (traced.one("POST /steps"), traced.one("publish told"));
    let handled = traced.all("process told");
    let (made, booked) = (traced.one("publish outcomes"), traced.one("process outcomes"));
    assert_eq!(handled.len(), 2);
    let of = |group: &str| {
        let fits = |span: &&SpanData| attribute(span, "messaging.consumer.group.name").as_deref() == Some(group);
        handled.iter().find(fits).unwrap()
    };
    let chain = [
        (&published, &root, SpanKind::Producer),
        (of("other"), &published, SpanKind::Consumer),
        (of("makes"), &published, SpanKind::Consumer),
        (&made, of("makes"), SpanKind::Producer),
        (&booked, &made, SpanKind::Consumer),
    ];
    for (span, parent, kind) in chain {
        assert_eq!(span.parent_span_id, parent.span_context.span_id(), "{} is a child of {}", span.name, parent.name);
        assert_eq!(ids(span).0, ids(&root).0, "{} is in the trace of the request", span.name);
        assert_eq!((&span.span_kind, &span.status), (&kind, &Status::Unset), "{}", span.name);
    }
    let expected = [
        ("messaging.system", "redis"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "told"),
        ("messaging.destination.partition.id", "0"),
        ("messaging.consumer.group.name", "other"),
        ("messaging.message.id", receipt.event_id.as_str()),
        ("streams.consumer", "other"),
        ("streams.attempt", "1"),
    ];
    for (key, value) in expected {
        assert_eq!(attribute(of("other"), key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(attribute(of("other"), "streams.entry"), Some(receipt.entry_id.to_string()));
    let expected = [
        ("messaging.system", "redis"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "told"),
        ("messaging.destination.partition.id", "0"),
        ("messaging.message.id", receipt.event_id.as_str()),
    ];
    for (key, value) in expected {
        assert_eq!(attribute(&published, key).as_deref(), Some(value), "{key}");
    }
    for span in traced.spans() {
        assert_eq!(attribute(&span, "error.type"), None, "{}", span.name);
        assert_eq!(attribute(&span, "messaging.batch.message_count"), None, "{}", span.name);
    }
    ids(&root).0
}

#[tokio::test(start_paused = true)]
async fn one_trace_shows_a_request_and_all_that_comes_of_it() {
    let request = async |publisher: Publisher| {
        let span = tracing::info_span!("request", otel.name = "POST /steps");
        async { publisher.publish(&Step { n: 7 }).await.unwrap() }.instrument(span).await
    };
    a_request_and_all_that_comes_of_it(Arc::new(Embedded::new()), request).await;
}

/// The trace that a caller of the web service is in.
const CALLER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A route of a web service: its span goes on from the caller's, and it publishes.
async fn publish_step(publisher: Publisher, answers: UnboundedSender<Receipt>, headers: axum::http::HeaderMap) {
    let header = |name: &str| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned()));
    let carried: HashMap<String, String> = header("traceparent").into_iter().collect();
    let span = tracing::info_span!("request", otel.name = "POST /steps", otel.kind = "server");
    span.set_parent(TraceContextPropagator::new().extract(&carried)).unwrap();
    let receipt = async { publisher.publish(&Step { n: 7 }).await.unwrap() }.instrument(span).await;
    answers.send(receipt).unwrap();
}

#[tokio::test]
async fn one_trace_shows_an_http_request_and_all_that_comes_of_it_over_redis() {
    let url = RedisServer::shared().database();
    let request = async |publisher: Publisher| {
        let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
        let route = post(async move |headers| publish_step(publisher, answers, headers).await);
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let service = tokio::spawn(axum::serve(listener, axum::Router::new().route("/steps", route)).into_future());
        let head =
            format!("POST /steps HTTP/1.1\r\nhost: steps\r\ntraceparent: 00-{CALLER}-00f067aa0ba902b7-01\r\n\r\n");
        caller.write_all(head.as_bytes()).await.unwrap();
        let receipt = timeout(LONG, answered.recv()).await.unwrap().unwrap();
        service.abort();
        receipt
    };
    let trace = a_request_and_all_that_comes_of_it(Arc::new(Redis::open(&url).unwrap()), request).await;
    assert_eq!(trace.to_string(), CALLER);
}

#[tokio::test]
async fn each_attempt_is_a_span_that_says_how_it_failed() {
    let (traced, world) = (traced(), World::new("told"));
    world.lab.script("work", 1, [Act::Panic, Act::Hang]);
    world.lab.script("work", 2, [Act::Permanent]);
    let options = ConsumerOptions::DEFAULT.with_timeout(Duration::from_secs(1));
    let app = world.process(consumers![work]).options(options).start().await;
    app.publish(&Step { n: 1 }).await.unwrap();
    app.publish(&Step { n: 2 }).await.unwrap();
    app.publish(&Turn { n: 1 }).await.unwrap();
    assert!(app.publisher().publish(&Step { n: 3 }).header("", "x").await.is_err());
    app.settled().await;
    let attempts: Vec<_> = traced
        .all("process told")
        .iter()
        .map(|span| {
            (attribute(span, "streams.attempt").unwrap(), attribute(span, "error.type"), span.status != Status::Unset)
        })
        .collect();
    let failed = |attempt: &str, error: &str| (attempt.to_owned(), Some(error.to_owned()), true);
    let expected =
        [failed("1", "panic"), failed("2", "timeout"), ("3".to_owned(), None, false), failed("1", "permanent")];
    assert_eq!(attempts, expected);
    let publishes = traced.all("publish told");
    let errors: Vec<_> = publishes.iter().map(|span| attribute(span, "error.type")).collect();
    assert_eq!(errors, [None, None, None, Some("invalid".to_owned())]);
}

#[tokio::test]
async fn a_publish_of_many_is_one_span_and_the_parent_of_each_attempt() {
    let traced = traced();
    let app = alone(&World::new("told")).await;
    app.publish_all((1..=3).map(|n| Step { n })).await;
    app.settled().await;
    let published = traced.one("publish told");
    assert_eq!(attribute(&published, "messaging.batch.message_count").as_deref(), Some("3"));
    let handled = traced.all("process told");
    assert_eq!(handled.len(), 3);
    assert!(handled.iter().all(|span| span.parent_span_id == published.span_context.span_id()));
}

#[tokio::test]
async fn an_attempt_about_a_batch_is_linked_to_each_publish_and_counts_each_event() {
    let traced = traced();
    let app = World::new("told").process(consumers![loads]).start().await;
    for n in 1..=3 {
        app.publish(&Step { n }).await.unwrap();
    }
    app.settled().await;
    let handled = traced.one("process told");
    assert_eq!(attribute(&handled, "messaging.batch.message_count").as_deref(), Some("3"));
    assert_eq!(attribute(&handled, "messaging.message.id"), None);
    let published: BTreeSet<_> = traced.all("publish told").iter().map(|span| ids(span).0.to_string()).collect();
    let links: BTreeSet<_> = handled.links.iter().map(|link| link.span_context.trace_id().to_string()).collect();
    assert_eq!((links.len(), &links), (3, &published));
    assert_eq!(handled.parent_span_id, SpanId::INVALID);
    let samples = parse(&app.running().monitor().metrics());
    let of = |name, labels: &[_]| value(&samples, name, &[&[("stream", "told"), ("group", "loads")], labels].concat());
    assert_eq!(of("streams_consumed_total", &[("outcome", "done")]), Some(3.0));
    assert_eq!(of("streams_handler_duration_seconds_count", &[]), Some(1.0));
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_context_of_the_callers_own_goes_with_the_event_as_it_is() {
    let traced = traced();
    let app = alone(&World::new("told")).await;
    app.publisher().publish(&Step { n: 1 }).header("traceparent", PARENT).await.unwrap();
    app.settled().await;
    let (published, handled) = (traced.one("publish told"), traced.one("process told"));
    assert_eq!(ids(&handled).0.to_string(), TRACE);
    assert_eq!(handled.parent_span_id.to_string(), "00f067aa0ba902b7");
    let links: Vec<_> = published.links.iter().map(|link| link.span_context.trace_id().to_string()).collect();
    assert_eq!(links, [TRACE]);
}

async fn entries(broker: &dyn Broker, stream: &str) -> Vec<Arc<Entry>> {
    broker.read(&StreamKey::new(None, stream, 1).partition(0), EntryId::ZERO, 100).await.unwrap()
}

#[tokio::test]
async fn without_opentelemetry_a_handler_passes_the_trace_of_its_event_on() {
    let world = World::new("told");
    let app = world.process(consumers![makes]).start().await;
    let publish = app.publisher().publish(&Step { n: 1 }).header("traceparent", PARENT);
    publish.header("tracestate", "vendor=1").await.unwrap();
    app.publisher().publish(&Step { n: 2 }).header("traceparent", "nonsense").await.unwrap();
    app.publish(&Step { n: 3 }).await.unwrap();
    app.settled().await;
    let steps = entries(&world.store, "told").await;
    assert_eq!(steps[0].headers().get("traceparent"), Some(PARENT), "what the caller says is left as it is");
    let made = entries(&world.store, "outcomes").await;
    let parent = made[0].headers().get("traceparent").unwrap();
    let parts: Vec<_> = parent.split('-').collect();
    assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, "01"));
    assert_ne!(parts[2], "00f067aa0ba902b7", "another span of the same trace");
    assert_eq!(made[0].headers().get("tracestate"), Some("vendor=1"));
    for entry in &made[1..] {
        assert_eq!(entry.headers().iter().count(), 0, "where there is no trace none is made up");
    }
}

/// Counts the spans of ours that are made.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU64>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Counting {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        self.0.fetch_add(u64::from(attributes.metadata().target() == "streams::trace"), Ordering::Relaxed);
    }
}

/// How many spans are made of two publishes and two attempts, where the filter is this.
async fn spans_made(filter: &str) -> u64 {
    let made = Counting::default();
    let filter: tracing_subscriber::filter::Targets = filter.parse().unwrap();
    let subscriber = tracing_subscriber::registry().with(made.clone().with_filter(filter));
    let _guard = tracing::subscriber::set_default(subscriber);
    let app = alone(&World::new("told")).await;
    app.publish(&Step { n: 1 }).await.unwrap();
    app.publish(&Step { n: 2 }).await.unwrap();
    app.settled().await;
    made.0.load(Ordering::Relaxed)
}

#[tokio::test]
async fn no_span_is_made_that_nobody_wants() {
    assert_eq!(spans_made("info,streams::trace=debug").await, 4);
    assert_eq!(spans_made("trace,streams::trace=off").await, 0);
    assert_eq!(spans_made("warn").await, 0);
}
