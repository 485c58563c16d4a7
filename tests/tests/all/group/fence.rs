//! The promise about the user's own code wherever it runs: its panic is a failed attempt of its event, and no other's.

use std::borrow::Cow;
use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use streams_core::broker::Broker;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Batch, BoxError, Config, Context, DeadLetterFilter, EventKey, Failure, FromContext, IntoOutcome, Outcome,
    Phase, Publisher, Registration, State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::{Act, Lab, RedisServer, World, logged};
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context as InLayer, SubscriberExt};

/// Where the user's code panics that an event of this name comes to, and what its letter is put down to.
const PLACES: [(&str, &str); 17] = [
    ("decoding", "panic"),
    ("key", "panic"),
    ("upcaster", "panic"),
    ("extractor", "panic"),
    ("display of a rejection", "panic"),
    ("clone of a state", "panic"),
    ("handler", "panic"),
    ("drop of a payload", "panic"),
    ("drop of an event", "panic"),
    ("drop of a future", "timeout"),
    ("drop of a resource", "panic"),
    ("outcome", "panic"),
    ("conversion of an error", "panic"),
    ("display of an error", "panic"),
    ("source of an error", "panic"),
    ("source without end", "handler"),
    ("drop of an error", "panic"),
];
const SOUND: &str = "sound";

thread_local! {
    /// Whether events panic when they are decoded, asked for their key or dropped: they must not while the test itself uses
    /// them.
    static ARMED: Cell<bool> = const { Cell::new(false) };
    /// The next clone of a state panics.
    static FRAGILE: Cell<bool> = const { Cell::new(false) };
}

fn panics_at(place: &str, here: &str) {
    assert!(!(place == here && ARMED.get() && !std::thread::panicking()), "a {here} panics");
}

/// The older version.
#[stream_event(stream = "mines", name = "Mine", lock = false)]
struct MineV1 {
    n: u64,
    fuse: String,
}

#[stream_event(stream = "mines", version = 2, upcast_from = MineV1, key = fuse, lock = false)]
struct Mine {
    n: u64,
    #[event(wire = "String")]
    fuse: Fuse,
}

/// Names the place at which it panics.
struct Fuse(String);

impl Drop for Fuse {
    fn drop(&mut self) {
        panics_at(&self.0, "drop of an event");
    }
}

impl Serialize for Fuse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fuse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = String::deserialize(deserializer)?;
        panics_at(&place, "decoding");
        Ok(Self(place))
    }
}

impl EventKey for Fuse {
    fn text(&self) -> Cow<'_, str> {
        panics_at(&self.0, "key");
        Cow::Borrowed(&self.0)
    }
}

impl From<MineV1> for Mine {
    fn from(old: MineV1) -> Self {
        panics_at(&old.fuse, "upcaster");
        Self { n: old.n, fuse: Fuse(old.fuse) }
    }
}

/// An argument that reads the place from a header, as the event is not decoded for it.
struct Trip;

impl FromContext for Trip {
    type Rejection = BoxError;

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        let place = |entry: &Arc<streams_runtime::Entry>| entry.headers().get("place").map(str::to_owned);
        for place in ctx.entries().iter().filter_map(place) {
            panics_at(&place, "extractor");
            FRAGILE.set(place == "clone of a state");
            if place == "display of a rejection" {
                return Err(Box::new(Shown("display of an error".to_owned())));
            }
        }
        Ok(Self)
    }
}

/// A state.
struct Fragile;

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(!FRAGILE.take(), "a clone panics");
        Self
    }
}

/// The return value of a handler.
struct Odd(String);

impl IntoOutcome for Odd {
    fn into_outcome(self) -> Result<Outcome, Failure> {
        panics_at(&self.0, "outcome");
        Ok(Outcome::Done)
    }
}

/// How it fails.
struct Blown(String);

impl From<Blown> for BoxError {
    fn from(Blown(place): Blown) -> Self {
        panics_at(&place, "conversion of an error");
        Box::new(Shown(place))
    }
}

#[derive(Debug)]
struct Shown(String);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = "ä".repeat(50);
        // In the middle of a character.
        f.write_str(if self.0 == "display of an error" { &quoted[..51] } else { &quoted[..50] })
    }
}

impl Error for Shown {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        panics_at(&self.0, "source of an error");
        (self.0 == "source without end").then_some(self)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        panics_at(&self.0, "drop of an error");
    }
}

/// The payload of a panic, with another in it.
struct Payload(u32);

impl Drop for Payload {
    fn drop(&mut self) {
        if self.0 > 0 {
            std::panic::panic_any(Self(self.0 - 1));
        }
    }
}

/// A value that a handler holds.
struct Resource<'a>(&'a str);

impl Drop for Resource<'_> {
    fn drop(&mut self) {
        panics_at(self.0, "drop of a resource");
        panics_at(self.0, "drop of a future");
    }
}

async fn step_on(mine: &Mine, ctx: &Context, lab: &Lab) -> Result<Odd, Blown> {
    let place = mine.fuse.0.clone();
    let _resource = Resource(&place);
    let _ = lab.handle(ctx, mine.n).await;
    panics_at(&place, "handler");
    match &*place {
        "drop of a payload" => std::panic::panic_any(Payload(3)),
        "drop of a future" => std::future::pending().await,
        place if place.ends_with("of an error") || place == "source without end" => Err(Blown(place.to_owned())),
        place => Ok(Odd(place.to_owned())),
    }
}

#[consumer(group = "ordered", max_attempts = 2, backoff = "10ms", timeout = "1s")]
async fn ordered(mine: &Mine, _: Trip, _: State<Fragile>, lab: State<Lab>, ctx: Context) -> Result<Odd, Blown> {
    step_on(mine, &ctx, &lab).await
}

#[consumer(group = "lanes", concurrency = 3, max_attempts = 2, backoff = "10ms", timeout = "1s")]
async fn lanes(mine: &Mine, _: Trip, _: State<Fragile>, lab: State<Lab>, ctx: Context) -> Result<Odd, Blown> {
    step_on(mine, &ctx, &lab).await
}

#[consumer(group = "queue", delivery = "queue", concurrency = 3, max_attempts = 2, backoff = "10ms", timeout = "1s")]
async fn queue(mine: &Mine, _: Trip, _: State<Fragile>, lab: State<Lab>, ctx: Context) -> Result<Odd, Blown> {
    step_on(mine, &ctx, &lab).await
}

#[consumer(group = "batch", batch = 5, max_attempts = 2, backoff = "10ms", timeout = "1s")]
async fn batch(mines: Batch<Mine>, _: Trip, _: State<Fragile>, lab: State<Lab>, ctx: Context) -> Result<Odd, Blown> {
    let mut last = Odd(SOUND.to_owned());
    for mine in mines.events() {
        last = step_on(mine, &ctx, &lab).await?;
        if mine.fuse.0 == "outcome" {
            break;
        }
    }
    Ok(last)
}

fn groups() -> [(&'static str, Registration); 4] {
    let [ordered, lanes, queue, batch] = consumers![ordered, lanes, queue, batch];
    [("ordered", ordered), ("lanes", lanes), ("queue", queue), ("batch", batch)]
}

fn mine(n: u64, place: &str) -> Mine {
    Mine { n, fuse: Fuse(place.to_owned()) }
}

/// Publishes three events, of which the second panics at this place.
async fn lay(publisher: &Publisher, place: &str) {
    publisher.publish(&mine(1, SOUND)).await.unwrap();
    let old = MineV1 { n: 2, fuse: place.to_owned() };
    match place {
        "upcaster" => publisher.publish(&old).header("place", place).await.unwrap(),
        _ => publisher.publish(&mine(2, place)).header("place", place).await.unwrap(),
    };
    publisher.publish(&mine(3, SOUND)).await.unwrap();
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(24 * 3600), future).await.unwrap_or_else(|_| panic!("{what}"))
}

#[tokio::test]
async fn a_panic_of_the_users_code_is_a_failed_attempt_of_its_event_wherever_it_runs() {
    for (place, cause) in PLACES {
        for (group, consumer) in groups() {
            // Nobody else asks for a key.
            let is_bad = place != "key" || group == "lanes";
            let case = format!("{place}, {group}");
            let world = World::new("mines");
            ARMED.set(false);
            lay(&world.publisher(), place).await;
            ARMED.set(true);
            let log = logged();
            let app = world.process([consumer]).state(Fragile).start().await;
            let settled = soon(&case, TestApp::settled(&app)).await;
            assert!(settled.is_ok(), "{case}: {settled:?}: {}", log.text());
            assert!(!log.text().contains("bug in streams-runtime"), "{case}: {}", log.text());
            let letters = app.running().dead_letters::<Mine>(group);
            let found = |letters: &[streams_runtime::DeadLetter<Mine>]| -> Vec<_> {
                letters.iter().map(|letter| (letter.cause().to_owned(), letter.replays())).collect()
            };
            let expected = |replays| match is_bad {
                // No replay asks for a key either.
                true if place != "key" || replays == 0 => vec![(cause.to_owned(), replays)],
                _ => Vec::new(),
            };
            let before = letters.list(None, 9).await.unwrap();
            assert_eq!(found(&before), expected(0), "{case}: {}", log.text());
            for n in [1, 3] {
                assert!(world.lab.ended(group).contains(&n), "{case}: {n}");
            }
            // A replay is as any other attempt.
            letters.replay_all(&DeadLetterFilter::all()).await.unwrap();
            let replayed = async {
                while found(&letters.list(None, 9).await.unwrap()) != expected(1) {
                    app.advance(Duration::from_secs(10)).await;
                }
            };
            soon(&format!("{case}, replayed: {}", log.text()), replayed).await;
            assert!(!log.text().contains("bug in streams-runtime"), "{case}: {}", log.text());
            ARMED.set(false);
            app.publish(&mine(4, SOUND)).await.unwrap();
            soon(&case, app.settled()).await;
            assert!(world.lab.ended(group).contains(&4), "{case}");
            assert_eq!(app.into_running().shutdown().await, Stopped::Clean, "{case}");
        }
    }
}

#[tokio::test]
async fn an_error_that_cannot_be_shown_is_a_failed_attempt_on_a_real_server() {
    let url = RedisServer::shared().database();
    let broker: Arc<dyn Broker> = Arc::new(Redis::open(&url).unwrap());
    lay(&Publisher::new(Arc::clone(&broker)), "display of an error").await;
    let lab = Lab::default();
    let consumers = groups().map(|(_, consumer)| consumer);
    let running = App::with(consumers).state(lab.clone()).state(Fragile).broker(broker).start().await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), running.settled()).await.expect("all is settled").unwrap();
    for (group, _) in groups() {
        let letters = running.dead_letters::<Mine>(group).list(None, 9).await.unwrap();
        let causes: Vec<_> = letters.iter().map(|letter| letter.cause()).collect();
        assert_eq!(causes, ["panic"], "{group}");
        assert!(letters[0].reason().contains("char boundary"), "{}", letters[0].reason());
    }
    assert_eq!(running.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn a_state_that_panics_when_it_is_dropped_is_no_bug_of_the_group() {
    /// As a runtime or a blocking client does in an executor.
    #[derive(Clone)]
    struct Blocking;

    impl Drop for Blocking {
        fn drop(&mut self) {
            assert!(!ARMED.get() || std::thread::panicking(), "it must not be dropped here");
        }
    }

    let log = logged();
    let app = World::new("mines").process(consumers![ordered]).state(Fragile).state(Blocking).start().await;
    ARMED.set(true);
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    ARMED.set(false);
    assert!(log.text().contains("it must not be dropped here"), "{}", log.text());
    assert!(!log.text().contains("bug in streams-runtime"), "{}", log.text());
}

// Panics of a group's own task.

/// A subscriber that panics at a message: the user's code, too, and it runs in the middle of ours.
struct Trap {
    message: &'static str,
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Trap {
    fn on_event(&self, event: &tracing::Event<'_>, _: InLayer<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        assert!(!message.0.starts_with(self.message), "the trap at `{}`", self.message);
    }
}

#[consumer(group = "ordered", max_crashes = 2, backoff = "10ms")]
async fn plain(mine: &Mine, lab: State<Lab>, ctx: Context) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, mine.n).await
}

#[consumer(group = "lanes", max_crashes = 2, concurrency = 3, backoff = "10ms")]
async fn plain_lanes(mine: &Mine, lab: State<Lab>, ctx: Context) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, mine.n).await
}

#[consumer(group = "queue", max_crashes = 2, delivery = "queue", concurrency = 3, backoff = "10ms")]
async fn plain_queue(mine: &Mine, lab: State<Lab>, ctx: Context) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, mine.n).await
}

fn plain_groups() -> [(&'static str, Registration); 3] {
    let [ordered, lanes, queue] = consumers![plain, plain_lanes, plain_queue];
    [("ordered", ordered), ("lanes", lanes), ("queue", queue)]
}

fn short_lease() -> Config {
    Config::new().lease(Duration::from_secs(2))
}

#[tokio::test]
async fn a_panic_of_a_groups_own_task_charges_what_was_in_hand_and_the_group_goes_on() {
    for (group, consumer) in plain_groups() {
        for partners in [0, 1] {
            let world = World::new("mines");
            let lab = &world.lab;
            world.publish((1..=5).map(|n| mine(n, &format!("{SOUND} {n}")))).await;
            lab.always(group, 2, Act::Fail);
            let trap = tracing_subscriber::registry().with(Trap { message: "attempt failed" });
            let _guard = tracing::subscriber::set_default(trap);
            let mut apps = Vec::new();
            for _ in 0..=partners {
                apps.push(world.process([consumer]).config(short_lease()).start().await);
            }
            let settled =
                soon(&format!("{group}, {partners}: {:?}", lab.calls(group)), TestApp::settled(&apps[0])).await;
            assert!(settled.is_ok(), "{group}, {partners}: {settled:?}");
            let letters = apps[0].dead_letters::<Mine>(group).await.unwrap();
            let found: Vec<_> = letters.iter().map(|letter| (letter.decode().unwrap().n, letter.cause())).collect();
            assert_eq!(found, [(2, "crash")], "{group}, {partners}: {:?}", lab.calls(group));
            for n in [1, 3, 4, 5] {
                assert!(lab.ended(group).contains(&n), "{group}, {partners}: {n}");
            }
            let calls = lab.events(group).iter().filter(|n| **n == 2).count();
            assert!((2..=4).contains(&calls), "{group}, {partners}: {calls}");
            for app in apps {
                assert!(app.running().monitor().health().live, "{group}");
                assert_eq!(app.into_running().shutdown().await, Stopped::Clean, "{group}, {partners}");
            }
        }
    }
}

#[tokio::test]
async fn a_panic_of_a_groups_own_task_over_a_replay_is_charged_to_the_letter() {
    for (group, consumer) in plain_groups() {
        let world = World::new("mines");
        let lab = &world.lab;
        lab.always(group, 2, Act::Permanent);
        let app = world.process([consumer]).config(short_lease()).start().await;
        app.publish_all((1..=3).map(|n| mine(n, SOUND))).await;
        soon(group, app.settled()).await;
        let letters = app.running().dead_letters::<Mine>(group);
        lab.always(group, 2, Act::Fail);
        let trap = tracing_subscriber::registry().with(Trap { message: "a dead letter failed again" });
        let _guard = tracing::subscriber::set_default(trap);
        assert_eq!(letters.replay_all(&DeadLetterFilter::all()).await.unwrap().moved, 1);
        let given_up = async {
            while letters.list(None, 9).await.unwrap().is_empty() {
                app.advance(Duration::from_secs(1)).await;
            }
        };
        soon(&format!("{group}: {:?}", lab.calls(group)), given_up).await;
        let found = letters.list(None, 9).await.unwrap();
        let found: Vec<_> = found.iter().map(|letter| (letter.decode().unwrap().n, letter.cause())).collect();
        assert_eq!(found, [(2, "crash")], "{group}");
        app.publish(&mine(4, SOUND)).await.unwrap();
        soon(group, app.settled()).await;
        assert_eq!(app.into_running().shutdown().await, Stopped::Clean, "{group}");
    }
}

#[tokio::test]
async fn a_stop_while_a_group_is_panicking_does_not_pass_for_a_clean_one() {
    for (group, consumer) in plain_groups() {
        let world = World::new("mines");
        world.lab.always(group, 1, Act::Fail);
        let trap = tracing_subscriber::registry().with(Trap { message: "attempt failed" });
        let _guard = tracing::subscriber::set_default(trap);
        let app = world.process([consumer]).start().await;
        app.publish(&mine(1, SOUND)).await.unwrap();
        let troubled = async {
            while !matches!(app.running().status().groups[0].phase, Phase::Retrying(_)) {
                app.advance(Duration::from_millis(1)).await;
            }
        };
        soon(group, troubled).await;
        assert_eq!(app.into_running().shutdown().await, Stopped::Uncommitted { groups: 1 }, "{group}");
    }
}

#[tokio::test]
async fn a_group_that_panics_whatever_it_has_in_hand_halts_and_says_why() {
    for (group, consumer) in plain_groups() {
        let message = if group == "queue" { "began a session" } else { "took the lease" };
        let trap = tracing_subscriber::registry().with(Trap { message });
        let _guard = tracing::subscriber::set_default(trap);
        let app = World::new("mines").process([consumer]).config(short_lease()).start().await;
        app.publish(&mine(1, SOUND)).await.unwrap();
        let error = soon(group, TestApp::settled(&app)).await.unwrap_err().to_string();
        for part in ["bug in streams-runtime", "panicked 6 times in a row", "the trap at `", "start the program again"]
        {
            assert!(error.contains(part), "{group}: {error}");
        }
        assert!(matches!(app.running().status().groups[0].phase, Phase::Halted(_)));
        let health = app.running().monitor().health();
        let (ready, said) = (health.ready, health.to_string());
        assert!(!ready && said.contains("the trap at"), "{said}");
        let _ = app.into_running().shutdown().await;
    }
}

// Handlers that do not yield.

#[stream_event(stream = "blocks", key = n, lock = false)]
struct Block {
    n: u64,
}

#[consumer(group = "blocked", timeout = "30ms")]
async fn blocked(_: Block) {
    std::thread::sleep(Duration::from_millis(200));
}

#[consumer(group = "blocked-lanes", timeout = "30ms", concurrency = 2)]
async fn blocked_lanes(_: Block) {
    std::thread::sleep(Duration::from_millis(200));
}

#[consumer(group = "blocked-queue", timeout = "30ms", delivery = "queue")]
async fn blocked_queue(_: Block) {
    std::thread::sleep(Duration::from_millis(200));
}

#[tokio::test]
async fn a_handler_that_blocks_for_six_times_its_timeout_is_told_and_one_that_does_so_again_is_not_told_twice() {
    for (group, consumer) in
        ["blocked", "blocked-lanes", "blocked-queue"].into_iter().zip(consumers![blocked, blocked_lanes, blocked_queue])
    {
        let log = logged();
        let running = App::with([consumer]).broker(Arc::new(Embedded::new())).start().await.unwrap();
        for _ in 0..2 {
            running.publisher().publish(&Block { n: 1 }).await.unwrap();
        }
        tokio::time::timeout(Duration::from_secs(60), running.settled()).await.expect("all is settled").unwrap();
        let text = log.text();
        assert_eq!(log.count("a handler ran past its timeout"), 1, "{text}");
        for part in ["WARN", &format!("group=\"{group}\""), "timeout=30ms", "took=2", "entry=", "spawn_blocking"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(running.shutdown().await, Stopped::Clean);
    }
}
