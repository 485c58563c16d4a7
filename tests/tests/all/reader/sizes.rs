//! Large events: reads over slow lines, the memory of many groups, an idle program, and entries that no process could hold.
//!
//! The apps start without a `World`, because most tests run on a real server and in real time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{Broker, CUT, Fields, MOST_ENTRY_BYTES, cut, in_short};
use streams_core::keys::StreamKey;
use streams_core::{Entry, StreamEvent, codec};
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{
    App, Batch, Config, Context, DeadLetterFilter, DeadLetters, Outcome, Registration, Running, State, Stopped,
    consumer, consumers, stream_event,
};
use streams_tests::{Fault, Faulty, Gate, Log, Op, Options, RedisServer, logged};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Longer than anything takes on a machine that is busy with a build.
const PATIENCE: Duration = Duration::from_secs(120);
const PARTITIONS: u32 = 16;

#[stream_event(stream = "pictures", key = of, partitions = 16)]
struct Picture {
    of: u64,
    n: u64,
    pixels: String,
}

#[stream_event(stream = "films", key = n)]
struct Film {
    n: u64,
    frames: String,
}

/// A partition, and the number of an event.
type Event = (u32, u64);

/// The events that each group was called with.
#[derive(Clone, Default)]
struct Seen {
    events: Arc<Mutex<BTreeMap<&'static str, Vec<Event>>>>,
    changed: Arc<Notify>,
}

impl Seen {
    fn add(&self, group: &'static str, ctx: &Context, n: u64) {
        self.events.lock().unwrap().entry(group).or_default().push((ctx.partition(), n));
        self.changed.notify_waiters();
    }

    fn of(&self, group: &str) -> Vec<Event> {
        self.events.lock().unwrap().get(group).cloned().unwrap_or_default()
    }

    /// Waits until each of the groups was called so often.
    async fn reached(&self, groups: &[&str], times: usize, app: &Running) {
        let enough = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if groups.iter().all(|group| self.of(group).len() >= times) {
                    return;
                }
                changed.await;
            }
        };
        let counts = || groups.iter().map(|group| (*group, self.of(group).len())).collect::<Vec<_>>();
        assert!(timeout(PATIENCE, enough).await.is_ok(), "{:?} of {times}: {:?}", counts(), app.status());
    }
}

#[consumer(group = "ordered")]
async fn ordered(film: Film, ctx: Context, seen: State<Seen>) {
    seen.add("ordered", &ctx, film.n);
}

#[consumer(group = "beside", concurrency = 4)]
async fn beside(film: Film, ctx: Context, seen: State<Seen>) {
    seen.add("beside", &ctx, film.n);
}

#[consumer(group = "batches", batch = 8)]
async fn batches(films: Batch<Film>, ctx: Context, seen: State<Seen>) {
    films.events().for_each(|film| seen.add("batches", &ctx, film.n));
}

#[consumer(group = "queue", delivery = "queue", concurrency = 2)]
async fn queue(film: Film, ctx: Context, seen: State<Seen>) {
    seen.add("queue", &ctx, film.n);
}

/// Takes every film only when it is handled again.
#[consumer(group = "critic")]
async fn critic(film: Film, ctx: Context, seen: State<Seen>) -> Outcome {
    if !ctx.is_replay() {
        return Outcome::dead_letter("not today");
    }
    seen.add("critic", &ctx, film.n);
    Outcome::Done
}

#[consumer(group = "gallery")]
async fn gallery(picture: Picture, ctx: Context, seen: State<Seen>) {
    seen.add("gallery", &ctx, picture.n);
}

macro_rules! visitors {
    ($($name:ident $group:literal)*) => {
        $(
            #[consumer(group = $group)]
            async fn $name(picture: Picture, ctx: Context, seen: State<Seen>) {
                seen.add($group, &ctx, picture.n);
            }
        )*
        const VISITORS: &[&str] = &[$($group),*];

        fn visitors() -> Vec<Registration> {
            consumers![$($name),*].into()
        }
    };
}

visitors!(visitor_0 "visitor-0" visitor_1 "visitor-1" visitor_2 "visitor-2" visitor_3 "visitor-3");

const FILMS: [&str; 4] = ["ordered", "beside", "batches", "queue"];

/// An entry of an event, as publishers write it.
fn entry<E: StreamEvent>(event: &E, id: u64) -> Fields {
    let mut payload = Vec::new();
    codec::encode(event, &mut payload).unwrap();
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let name = format!("{}@1", E::INFO.name);
    vec![field("event", name.as_bytes()), field("id", format!("e{id}").as_bytes()), field("payload", &payload)]
}

async fn films(broker: &dyn Broker, count: u64, bytes: usize) {
    let partition = StreamKey::new(None, "films", 1).partition(0);
    for n in 0..count {
        let film = Film { n, frames: "x".repeat(bytes) };
        broker.append(&partition, vec![entry(&film, n)], None).await.unwrap();
    }
}

/// As many for each partition.
async fn pictures(broker: &dyn Broker, each: u64, bytes: usize) {
    let stream = StreamKey::new(None, "pictures", PARTITIONS);
    for index in 0..PARTITIONS {
        for n in 0..each {
            let picture = Picture { of: index.into(), n, pixels: "x".repeat(bytes) };
            broker.append(&stream.partition(index), vec![entry(&picture, n)], None).await.unwrap();
        }
    }
}

fn all_films() -> Vec<Registration> {
    consumers![ordered, beside, batches, queue].into()
}

async fn start(broker: Arc<dyn Broker>, consumers: Vec<Registration>, seen: &Seen, config: Config) -> Running {
    App::with(consumers).state(seen.clone()).broker(broker).config(config).start().await.unwrap()
}

async fn get_through(broker: Faulty, bytes: usize) {
    films(&broker, 24, bytes).await;
    let seen = Seen::default();
    let app = start(Arc::new(broker.clone()), all_films(), &seen, Config::new()).await;
    seen.reached(&FILMS, 24, &app).await;
    // Events that come while they run, too.
    films(&broker, 8, bytes).await;
    seen.reached(&FILMS, 32, &app).await;
    let in_order: Vec<_> = (0..24).chain(0..8).map(|n| (0, n)).collect();
    for group in ["ordered", "batches"] {
        assert_eq!(seen.of(group), in_order, "{group}");
    }
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test(start_paused = true)]
async fn reads_become_smaller_until_they_get_through_in_every_delivery() {
    let broker = Faulty::over(Arc::new(Embedded::new()));
    // One of them fits.
    broker.narrow(150_000);
    get_through(broker, 100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_get_through_a_short_output_buffer_of_the_server() {
    let server = Options::default().args(["--client-output-buffer-limit", "normal 8mb 0 0"]).start();
    get_through(Faulty::over(Arc::new(Redis::open(&server.url()).unwrap())), 900_000).await;
}

#[tokio::test(start_paused = true)]
async fn what_came_on_all_partitions_at_once_gets_through_in_parts() {
    let broker = Faulty::over(Arc::new(Embedded::new()));
    let seen = Seen::default();
    let app = start(Arc::new(broker.clone()), consumers![gallery].into(), &seen, Config::new()).await;
    app.settled().await.unwrap();
    broker.narrow(150_000);
    let gate = Gate::default();
    broker.once(Op::Tail, Fault::Hold(gate.clone()));
    gate.arrived(1).await;
    pictures(&broker, 3, 100_000).await;
    gate.open();
    seen.reached(&["gallery"], 3 * PARTITIONS as usize, &app).await;
    for index in 0..PARTITIONS {
        let here: Vec<_> = seen.of("gallery").into_iter().filter(|(partition, _)| *partition == index).collect();
        assert_eq!(here, [0, 1, 2].map(|n| (index, n)));
    }
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_listed_and_handled_again_over_a_line_that_carries_one() {
    let broker = Faulty::over(Arc::new(Embedded::new()));
    broker.narrow(150_000);
    films(&broker, 24, 100_000).await;
    let seen = Seen::default();
    let mut config = Config::new();
    config.dead_letter_storm = 1_000;
    let app = start(Arc::new(broker.clone()), consumers![critic].into(), &seen, config).await;
    app.settled().await.unwrap();
    let letters: DeadLetters<Film> = app.dead_letters("critic");
    assert_eq!(letters.list(None, 100).await.unwrap().len(), 24);
    assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 24);
    assert_eq!(letters.replay_all(&DeadLetterFilter::all()).await.unwrap().moved, 24);
    drop(letters.replaying(100).await.unwrap());
    seen.reached(&["critic"], 24, &app).await;
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_holds_of_many_partitions_and_groups_stays_within_its_budget() {
    const EACH: u64 = 12;
    const BUDGET: usize = 2 * 1024 * 1024;
    let server = RedisServer::start();
    let broker = Faulty::over(Arc::new(Redis::open(&server.url()).unwrap()));
    pictures(&broker, EACH, 100_000).await;
    broker.weigh();
    let seen = Seen::default();
    let mut config = Config::new();
    config.window_bytes = BUDGET;
    let app = start(Arc::new(broker.clone()), visitors(), &seen, config).await;
    seen.reached(VISITORS, EACH as usize * PARTITIONS as usize, &app).await;
    // A read that waited for long goes on all the same, which happens where the machine is busy.
    let most = broker.most_held();
    assert!(most <= 2 * BUDGET && most > BUDGET / 4, "{most} bytes at once");
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn an_idle_program_reads_as_much_whatever_its_last_entry_weighs() {
    let server = RedisServer::start();
    let broker: Arc<dyn Broker> = Arc::new(Redis::open(&server.url()).unwrap());
    films(&*broker, 3, 900_000).await;
    let seen = Seen::default();
    let app = start(broker, consumers![ordered, queue].into(), &seen, Config::new()).await;
    seen.reached(&["ordered", "queue"], 3, &app).await;
    app.settled().await.unwrap();
    let stat = |section: &str, name: &str| -> u64 {
        let info: String = server.run(&format!("INFO {section}"));
        let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        line.split(',').next().unwrap().parse().unwrap_or(0)
    };
    let waits = || stat("commandstats", "cmdstat_xread:calls=");
    // Those of the wait that brought the last of them are over.
    let waited = async |more: u64| {
        let before = waits();
        while waits() < before + more {
            // A look at the metrics makes the process look at the ends of partitions.
            drop(app.status());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, waited(2)).await.unwrap();
    let before = stat("stats", "total_net_output_bytes:");
    timeout(PATIENCE, waited(4)).await.unwrap();
    let sent = stat("stats", "total_net_output_bytes:") - before;
    assert!(sent < 600_000, "{sent} bytes in about four waits");
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_no_process_could_hold_becomes_a_letter_without_being_read() {
    let server = RedisServer::start();
    for broker in [Arc::new(Embedded::new()) as Arc<dyn Broker>, Arc::new(Redis::open(&server.url()).unwrap())] {
        films(&*broker, 2, 10).await;
        let mut huge = entry(&Film { n: 2, frames: String::new() }, 2);
        huge.push((b"header".to_vec(), vec![b'x'; MOST_ENTRY_BYTES]));
        broker.append(&StreamKey::new(None, "films", 1).partition(0), vec![huge], None).await.unwrap();
        films(&*broker, 2, 10).await;
        let seen = Seen::default();
        let app = start(Arc::clone(&broker), consumers![ordered, beside, batches].into(), &seen, Config::new()).await;
        let groups = ["ordered", "beside", "batches"];
        seen.reached(&groups, 4, &app).await;
        app.settled().await.unwrap();
        for group in groups {
            let letters = app.dead_letters::<Film>(group).list(None, 9).await.unwrap();
            let letter = &letters[0];
            assert_eq!((letters.len(), letter.cause()), (1, "decode"), "{group}");
            assert!(letter.reason().contains("are the most that any event can have"), "{}", letter.reason());
            assert_eq!((letter.original().given_id(), letter.event_name()), (Some("e2"), "Film"));
            assert!(letter.original().field(CUT).is_some() && letter.original().weight() < 10_000);
        }
        assert_eq!(app.shutdown().await, Stopped::Clean);
    }
    let info: String = server.run("INFO stats");
    let sent = info.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap();
    assert!(sent.parse::<usize>().unwrap() < MOST_ENTRY_BYTES / 4, "{sent} bytes were sent");
}

/// On a server of its own, which this keeps busy.
#[tokio::test]
async fn an_entry_is_cut_and_told_in_short_alike_wherever_that_is_done() {
    let server = RedisServer::start();
    let partition = StreamKey::new(None, "films", 1).partition(0);
    let field = |name: &[u8], size: usize| (name.to_vec(), vec![b'x'; size]);
    for broker in [Arc::new(Embedded::new()) as Arc<dyn Broker>, Arc::new(Redis::open(&server.url()).unwrap())] {
        for fields in [
            vec![field(b"event", 2_000), field(b"payload", MOST_ENTRY_BYTES), field(b"id", 3)],
            vec![field(b"payload", MOST_ENTRY_BYTES), field(b"id", 200), field(&[b'n'; 2_000], 2)],
        ] {
            let id = broker.append(&partition, vec![fields.clone()], None).await.unwrap()[0];
            let left = cut(Entry::new(id, &fields));
            let above = broker.page(&partition, id.previous(), 2, 0).await.unwrap().entries.pop().unwrap();
            let read = broker.read(&partition, id.previous(), 1).await.unwrap();
            assert!(*above == left && *read[0] == left, "{:?}", above.fields().next());
            let at = broker.page(&partition, id, 1, 0).await.unwrap().entries;
            assert!(*at[0] == in_short(&left), "{:?}", at[0].fields().next());
        }
    }
}

#[tokio::test]
async fn a_server_that_ends_connections_over_large_events_is_warned_of() {
    let small = ["--client-output-buffer-limit", "normal 512kb 0 0", "--proto-max-bulk-len", "1mb"];
    for (args, warnings) in [(&small[..], 2), (&["--client-output-buffer-limit", "normal 8mb 0 0"], 0), (&[], 0)] {
        let server = Options::default().args(args.iter().copied()).start();
        let log = logged();
        Redis::open(&server.url()).unwrap().connect().await.unwrap();
        assert_eq!(log.count("the server ends connections over the largest events"), warnings, "{}", log.text());
    }
    // A user without the right to ask is not refused either, so that no operator wonders.
    let server = Options::default().user("app on >secret ~* +@all -config").args(small).start();
    let url = server.url().replace("redis://", "redis://app:secret@");
    let log: Log = logged();
    Redis::open(&url).unwrap().connect().await.unwrap();
    assert!(log.text().is_empty() && server.run::<Vec<redis::Value>>("ACL LOG").is_empty(), "{}", log.text());
}
