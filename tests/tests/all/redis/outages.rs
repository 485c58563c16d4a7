//! Outages and refusals of a real server cost an app one line of log: nothing is lost or out of order, and it goes on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use streams_runtime::broker::Redis;
use streams_runtime::{
    App, Config, Context, EntryId, GroupStatus, Phase, PublishError, Publisher, Registration, Running, State, Stopped,
    consumer, consumers, stream_event,
};
use streams_tests::{Gate, Log, Options, RedisServer, logged_from};

/// How long anything may take on a machine that is busy with a build.
const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_millis(1500);
/// How often the groups commit, and so the most events that one outage repeats.
const BATCH: usize = 5;
const PARTITIONS: u32 = 4;
const GROUPS: [&str; 3] = ["one", "two", "three"];

#[stream_event(stream = "pulse", partitions = 4)]
#[derive(Debug, Clone, PartialEq)]
struct Pulse {
    n: u64,
}

/// An event of another stream: whether it is added does not matter.
#[stream_event(stream = "probe")]
#[derive(Debug, Clone, PartialEq)]
struct Probe {
    filler: String,
}

/// The calls of the handlers, in order.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<Place, Vec<EntryId>>>>);

/// A group and a partition.
type Place = (String, u32);

impl Seen {
    fn add(&self, ctx: &Context) {
        let key = (ctx.group().to_owned(), ctx.partition());
        self.0.lock().unwrap().entry(key).or_default().push(ctx.entry_id());
    }

    fn of(&self, group: &str, partition: u32) -> Vec<EntryId> {
        self.0.lock().unwrap().get(&(group.to_owned(), partition)).cloned().unwrap_or_default()
    }
}

#[consumer(group = "one", checkpoint = 5)]
async fn one(_: Pulse, ctx: Context, seen: State<Seen>) {
    seen.add(&ctx);
}

#[consumer(group = "two", checkpoint = 5)]
async fn two(_: Pulse, ctx: Context, seen: State<Seen>) {
    seen.add(&ctx);
}

#[consumer(group = "three", checkpoint = 5)]
async fn three(_: Pulse, ctx: Context, seen: State<Seen>) {
    seen.add(&ctx);
}

/// An app of three groups on four partitions.
struct Site {
    server: RedisServer,
    app: Running,
    seen: Seen,
    log: Log,
}

impl Site {
    async fn on(server: RedisServer, url: &str) -> Self {
        let log = logged_from(tracing::Level::INFO);
        let seen = Seen::default();
        let broker = Arc::new(Redis::open(url).unwrap());
        let app = App::with(consumers![one, two, three]).state(seen.clone()).broker(broker);
        let app = app.config(Config::new().lease(LEASE)).start().await.unwrap();
        publish(app.publisher(), 1..=40).await;
        app.settled().await.unwrap();
        let site = Self { server, app, seen, log };
        // The log names owners a moment later, and must not do so in the middle of an outage.
        let is_told =
            |site: &Self| GROUPS.iter().all(|group| site.log.text().contains(&format!("owning group=\"{group}\"")));
        site.wait_until("told who owns what", is_told).await;
        site
    }

    async fn start(args: &[&str]) -> Self {
        // Every answered write survives a kill of the server, because the file system keeps it.
        let options = Options::default().args(["--appendonly", "yes", "--appendfsync", "no"]);
        let server = options.args(args.iter().copied()).start();
        let url = server.url();
        Self::on(server, &url).await
    }

    /// Tries once.
    async fn probe(&self) -> Result<(), PublishError> {
        let once = self.app.publisher().with_retry(Duration::ZERO);
        once.publish(&Probe { filler: "x".repeat(10_000) }).await.map(drop)
    }

    async fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "not {what}: {:?}\n{}", self.app.status(), self.log.text());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everything that is in the stream was handled by every group, in order, and repeated as often as may be.
    async fn is_whole(&self, outages: usize) {
        self.app.settled().await.unwrap();
        self.wait_until("ready", |site| site.app.status().is_ready()).await;
        for partition in 0..PARTITIONS {
            let entries = entries(&self.server.url(), partition);
            for group in GROUPS {
                let seen = self.seen.of(group, partition);
                let mut first: Vec<EntryId> = Vec::new();
                for id in &seen {
                    if !first.contains(id) {
                        first.push(*id);
                    }
                }
                assert_eq!(first, entries, "{group} on {partition}");
                let repeats = seen.len() - first.len();
                assert!(repeats <= BATCH * outages, "{group} on {partition}: {repeats} repeats");
            }
        }
    }
}

async fn publish(publisher: &Publisher, numbers: std::ops::RangeInclusive<u64>) {
    for receipt in publisher.publish_all(numbers.map(|n| Pulse { n })).await {
        receipt.unwrap();
    }
}

fn entries(url: &str, partition: u32) -> Vec<EntryId> {
    let mut range = redis::cmd("XRANGE");
    range.arg(format!("pulse.{partition}")).arg("-").arg("+");
    let entries: redis::streams::StreamRangeReply = range.query(&mut RedisServer::client(url)).unwrap();
    entries.ids.iter().map(|entry| entry.id.parse().unwrap()).collect()
}

/// Something that happens to a server.
struct Outage {
    begin: fn(&mut RedisServer),
    end: fn(&mut RedisServer),
    /// Words of the error of a publish, where there is an answer.
    says: Option<&'static str>,
}

/// Lives through an outage that is longer than a lease.
async fn survives(args: &[&str], outage: Outage) {
    let mut site = Site::start(args).await;
    let before = site.log.text().len();
    (outage.begin)(&mut site.server);
    let publisher = site.app.publisher().with_retry(PATIENCE);
    let during = tokio::spawn(async move { publish(&publisher, 41..=80).await });
    site.wait_until("told", |site| site.log.text()[before..].contains("the server cannot be used")).await;
    let status = site.app.status();
    assert!(status.trouble.is_some() && !status.is_ready());
    // A silent server is asked for ten seconds, and then it is known no better.
    if let Some(says) = outage.says {
        let began = Instant::now();
        // The first error names the break of the connection, later ones the reason why no new one is made.
        while let error = site.probe().await.unwrap_err()
            && (error.is_indefinite() || !error.to_string().contains(says))
        {
            assert!(error.is_retryable() && !error.is_backpressure() && !error.is_refused(), "{error}");
            assert!(began.elapsed() < PATIENCE, "not `{says}`: {error:?}");
        }
        let is_troubled = |group: &GroupStatus| matches!(group.phase, Phase::Retrying(_));
        site.wait_until("without leases", |site| site.app.status().groups.iter().all(is_troubled)).await;
    }
    (outage.end)(&mut site.server);
    let back = Instant::now();
    let count = |site: &Site| site.seen.0.lock().unwrap().values().map(Vec::len).sum::<usize>();
    let handled = count(&site);
    site.wait_until("handling again", |site| count(site) > handled).await;
    println!("handles events {:?} after the server is back", back.elapsed());
    during.await.unwrap();
    site.is_whole(1).await;
    let lines = site.log.lines_since(before);
    println!("{}", lines.join("\n"));
    assert!(lines.len() <= 4 && lines[0].contains("the server cannot be used"), "{lines:#?}");
    assert!(lines.last().unwrap().contains("the server can be used again"), "{lines:#?}");
    assert_eq!(site.app.shutdown().await, Stopped::Clean);
}

/// A command with arguments that hold blanks, or none.
fn run(server: &RedisServer, command: &[&str]) {
    redis::cmd(command[0]).arg(&command[1..]).exec(&mut RedisServer::client(&server.url())).unwrap();
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_is_waited_for() {
    let end = |server: &mut RedisServer| {
        server.start_again();
        server.wait_until_back();
    };
    survives(&[], Outage { begin: RedisServer::kill, end, says: Some("connection refused") }).await;
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_waited_for() {
    let begin = |server: &mut RedisServer| {
        let mut pipe = redis::pipe();
        (0..5_000).for_each(|n| {
            pipe.cmd("SET").arg(format!("filler-{n}")).arg("x").ignore();
        });
        pipe.cmd("BGREWRITEAOF").ignore();
        pipe.exec(&mut RedisServer::client(&server.url())).unwrap();
        while !server.run::<String>("INFO persistence").contains("aof_rewrite_in_progress:0") {
            thread::sleep(Duration::from_millis(1));
        }
        server.kill();
        server.start_again();
    };
    let end = |server: &mut RedisServer| server.wait_until_back();
    survives(
        &["--key-load-delay", "600", "--loading-process-events-interval-bytes", "1024"],
        Outage { begin, end, says: Some("still loading its data") },
    )
    .await;
}

#[tokio::test]
async fn a_server_that_is_silent_is_waited_for() {
    let begin = |server: &mut RedisServer| server.signal("STOP");
    survives(&[], Outage { begin, end: |server| server.signal("CONT"), says: None }).await;
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_waited_for() {
    let begin = |server: &mut RedisServer| server.run::<()>("REPLICAOF 127.0.0.1 1");
    let end = |server: &mut RedisServer| server.run::<()>("REPLICAOF NO ONE");
    survives(&[], Outage { begin, end, says: Some("REDIS_URL must name the primary") }).await;
}

#[tokio::test]
async fn a_server_without_its_replicas_is_waited_for() {
    let begin = |server: &mut RedisServer| server.run::<()>("CONFIG SET min-replicas-to-write 1");
    let end = |server: &mut RedisServer| server.run::<()>("CONFIG SET min-replicas-to-write 0");
    survives(&[], Outage { begin, end, says: Some("NOREPLICAS") }).await;
}

#[tokio::test]
async fn a_server_that_is_busy_with_a_script_is_waited_for() {
    let begin = |server: &mut RedisServer| {
        let mut client = RedisServer::client(&server.url());
        thread::spawn(move || redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut client).unwrap_err());
    };
    let end = |server: &mut RedisServer| server.run::<()>("SCRIPT KILL");
    survives(&["--busy-reply-threshold", "10"], Outage { begin, end, says: Some("SCRIPT KILL") }).await;
}

#[tokio::test]
async fn a_server_that_cannot_save_is_backpressure_and_waited_for() {
    let begin = |server: &mut RedisServer| {
        run(server, &["CONFIG", "SET", "save", "3600 1"]);
        // Where nobody can make a file.
        run(server, &["CONFIG", "SET", "dir", "/proc"]);
        server.run::<()>("BGSAVE");
        while !server.run::<String>("INFO persistence").contains("rdb_last_bgsave_status:err") {
            thread::sleep(Duration::from_millis(1));
        }
    };
    let mut site = Site::start(&["--enable-protected-configs", "yes"]).await;
    let before = site.log.text().len();
    begin(&mut site.server);
    let error = site.probe().await.unwrap_err();
    assert!(error.is_backpressure() && error.is_retryable() && error.to_string().contains("MISCONF"), "{error}");
    site.wait_until("told", |site| site.log.text()[before..].contains("MISCONF")).await;
    assert!(!site.app.status().is_ready());
    run(&site.server, &["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    publish(site.app.publisher(), 41..=80).await;
    site.is_whole(1).await;
    let lines = site.log.lines_since(before);
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[tokio::test]
async fn a_full_server_is_backpressure_and_its_groups_go_on() {
    let site = Site::start(&[]).await;
    let before = site.log.text().len();
    let behind = site.app.publisher().clone();
    publish(&behind, 41..=80).await;
    run(&site.server, &["CONFIG", "SET", "maxmemory", "1mb"]);
    let error = site.probe().await.unwrap_err();
    assert!(error.is_backpressure() && error.is_retryable() && !error.is_indefinite(), "{error}");
    assert!(error.to_string().contains("OOM"), "{error}");
    // Commits and renewals go on.
    site.is_whole(0).await;
    let beat = || site.server.run::<u64>("HGET streams:{pulse.0}:one beat");
    let before_renewals = beat();
    site.wait_until("renewed", |_| beat() >= before_renewals + 5).await;
    run(&site.server, &["CONFIG", "SET", "maxmemory", "0"]);
    publish(&behind, 81..=120).await;
    site.is_whole(0).await;
    assert_eq!(site.log.lines_since(before), Vec::<String>::new());
}

#[stream_event(stream = "ledger", retention = "consumed")]
#[derive(Debug, Clone, PartialEq)]
struct Line {
    text: String,
}

#[consumer(group = "clerk")]
async fn clerk(_: Line, gate: State<Gate>) {
    gate.pass().await;
}

#[tokio::test]
async fn a_full_server_takes_events_again_when_those_in_it_are_settled() {
    let server = RedisServer::start();
    // One who publishes alone, one whose app owns the partition.
    for alone in [true, false] {
        let gate = Gate::default();
        let app = App::with(consumers![clerk]).state(gate.clone());
        let app = app.broker(Arc::new(Redis::open(&server.url()).unwrap())).start().await.unwrap();
        let publisher = if alone { Publisher::connect(&server.url()).await.unwrap() } else { app.publisher().clone() };
        let line = Line { text: "x".repeat(10_000) };
        publisher.publish(&line).await.unwrap();
        let used: String = server.run("INFO memory");
        let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse::<u64>().unwrap();
        run(&server, &["CONFIG", "SET", "maxmemory", &(used + 3_000_000).to_string()]);
        let mut published = 1;
        let error = loop {
            match publisher.publish(&line).await {
                Ok(_) => published += 1,
                Err(error) => break error,
            }
        };
        assert!(error.is_backpressure() && !error.is_indefinite(), "{error}");
        let length = || server.run::<u64>("XLEN ledger");
        assert!(published > 50 && length() >= published, "nobody has settled anything: {} of {published}", length());
        gate.open();
        app.settled().await.unwrap();
        // Far above the limit, as other keys may make it: nothing but a trim by itself goes through.
        run(&server, &["CONFIG", "SET", "maxmemory", &(used + 1_500_000).to_string()]);
        let began = Instant::now();
        while let Err(error) = publisher.publish(&line).await {
            assert!(error.is_backpressure(), "{error}");
            assert!(began.elapsed() < PATIENCE, "it stays full with {} entries", length());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(length() < published, "{}", length());
        run(&server, &["CONFIG", "SET", "maxmemory", "0"]);
        app.settled().await.unwrap();
        assert_eq!(app.shutdown().await, Stopped::Clean);
    }
}

#[stream_event(stream = "bulky")]
#[derive(Debug, Clone, PartialEq)]
struct Bulky {
    text: String,
}

#[consumer(group = "porter")]
async fn haul(_: Bulky, ctx: Context, seen: State<Seen>) {
    seen.add(&ctx);
}

#[consumer(group = "porters", delivery = "queue")]
async fn haul_together(_: Bulky, ctx: Context, seen: State<Seen>) {
    seen.add(&ctx);
}

#[tokio::test]
async fn reads_that_the_server_cuts_off_are_told_while_leases_are_well() {
    for (consumers, group) in [(consumers![haul], "porter"), (consumers![haul_together], "porters")] {
        let (log, server, seen) = (logged_from(tracing::Level::INFO), RedisServer::start(), Seen::default());
        let publisher = Publisher::connect(&server.url()).await.unwrap();
        for _ in 0..3 {
            publisher.publish(&Bulky { text: "x".repeat(400_000) }).await.unwrap();
        }
        // Less than one of them, so that no read can be small enough.
        run(&server, &["CONFIG", "SET", "client-output-buffer-limit", "normal 200kb 0 0"]);
        let app = App::with(consumers).state(seen.clone()).broker(Arc::new(Redis::open(&server.url()).unwrap()));
        let app = app.config(Config::new().lease(LEASE)).start().await.unwrap();
        let began = Instant::now();
        while !log.text().contains("the server cannot be used") {
            assert!(began.elapsed() < PATIENCE, "{group}: not told: {:?}\n{}", app.status(), log.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(log.text().contains("matter=\"reading\""), "{group}: {}", log.text());
        let until = Instant::now() + LEASE * 2;
        while Instant::now() < until {
            let status = app.status();
            assert!(status.trouble.is_some() && !status.is_ready(), "{group}: {status:?}\n{}", log.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!log.text().contains("the server can be used again"), "{group}: {}", log.text());
        run(&server, &["CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0"]);
        app.settled().await.unwrap();
        while !app.status().is_ready() {
            assert!(began.elapsed() < PATIENCE, "{group}: not ready: {:?}\n{}", app.status(), log.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(seen.of(group, 0).len(), 3);
        assert_eq!(log.count("the server can be used again"), 1, "{}", log.text());
        assert_eq!(app.shutdown().await, Stopped::Clean);
    }
}

#[stream_event(stream = "stuck")]
#[derive(Debug, Clone, PartialEq)]
struct Stuck {
    n: u64,
}

/// Blocks its thread until it is let go.
#[consumer(group = "blocks", timeout = "100ms")]
async fn block(_: Stuck, until: State<Arc<Mutex<()>>>) {
    drop(until.lock().unwrap());
}

#[consumer(group = "blocks-too", delivery = "queue", concurrency = 2, timeout = "100ms")]
async fn block_too(_: Stuck, until: State<Arc<Mutex<()>>>) {
    drop(until.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_whose_handler_blocks_its_thread_beyond_its_timeout_is_not_ready() {
    blocked(consumers![block], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_work_queue_all_of_whose_handlers_block_their_threads_beyond_their_timeout_is_not_ready() {
    blocked(consumers![block_too], 2).await;
}

async fn blocked(consumers: impl IntoIterator<Item = Registration>, events: u64) {
    let (server, until) = (RedisServer::start(), Arc::new(Mutex::new(())));
    let app = App::with(consumers).state(Arc::clone(&until));
    let app = app.broker(Arc::new(Redis::open(&server.url()).unwrap())).config(Config::new().lease(LEASE));
    let app = app.start().await.unwrap();
    let (monitor, publisher) = (app.monitor().clone(), app.publisher().clone());
    // On this thread, which is none of the executor's: a blocked executor runs no timer.
    let waits = |ready: bool| {
        let began = Instant::now();
        while monitor.health().ready != ready {
            assert!(began.elapsed() < PATIENCE, "never {ready}: {:?}", monitor.status());
            thread::sleep(Duration::from_millis(5));
        }
    };
    waits(true);
    let (hold, let_go) = std::sync::mpsc::channel::<()>();
    let (held, is_held) = std::sync::mpsc::channel::<()>();
    let holder = thread::spawn(move || {
        let _held = until.lock().unwrap();
        held.send(()).unwrap();
        let _ = let_go.recv();
    });
    is_held.recv().unwrap();
    // Together: the first to be handled may keep the others from being written.
    publisher.publish_all((0..events).map(|n| Stuck { n })).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    waits(false);
    assert!(monitor.health().to_string().contains("not yield"), "{}", monitor.health());
    drop(hold);
    holder.join().unwrap();
    waits(true);
    app.settled().await.unwrap();
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn connections_that_are_killed_and_scripts_that_are_forgotten_are_hardly_noticed() {
    let site = Site::start(&[]).await;
    let before = site.log.text().len();
    let publisher = site.app.publisher().clone();
    let rounds = 30;
    for round in 0..rounds {
        let (publisher, first) = (publisher.clone(), 41 + round * 20);
        let publishing = tokio::spawn(async move { publish(&publisher, first..=first + 19).await });
        site.server.run::<()>("SCRIPT FLUSH SYNC");
        site.server.run::<u32>("CLIENT KILL TYPE normal SKIPME yes");
        publishing.await.unwrap();
    }
    site.is_whole(rounds as usize).await;
    let lines = site.log.lines_since(before);
    assert!(lines.len() <= 4, "{lines:#?}");
    assert_eq!(site.app.shutdown().await, Stopped::Clean);
}

/// A server with a user `app`, and an app that logs in as it.
async fn with_user() -> Site {
    let server = Options::default().user("app on >right ~* +@all").start();
    let url = format!("redis://app:right@127.0.0.1:{}", server.port());
    Site::on(server, &url).await
}

#[tokio::test]
async fn a_password_that_is_changed_is_an_outage_until_it_is_right_again() {
    let site = with_user().await;
    let before = site.log.text().len();
    run(&site.server, &["ACL", "SETUSER", "app", "resetpass", ">other"]);
    run(&site.server, &["CLIENT", "KILL", "USER", "app"]);
    site.wait_until("told", |site| site.log.text()[before..].contains("WRONGPASS")).await;
    let status = site.app.status();
    assert!(status.trouble.unwrap().contains("check the user and password in REDIS_URL"));
    let client = RefCell::new(RedisServer::client(&site.server.url()));
    let connections = || {
        let info: String = redis::cmd("INFO").arg("stats").query(&mut *client.borrow_mut()).unwrap();
        let received = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        received.unwrap().parse::<u32>().unwrap()
    };
    let (first, began) = (connections(), Instant::now());
    let halted = |group: &GroupStatus| matches!(group.phase, Phase::Halted(_));
    site.wait_until("tried", |_| connections() >= first + 60).await;
    // Three shared connections and a tail, each at most every tenth of a second.
    assert!(began.elapsed() > Duration::from_secs(1), "60 attempts in {:?}", began.elapsed());
    assert!(!site.app.status().groups.iter().any(halted), "{:?}", site.app.status());
    run(&site.server, &["ACL", "SETUSER", "app", "resetpass", ">right"]);
    publish(site.app.publisher(), 41..=80).await;
    site.is_whole(1).await;
    let lines = site.log.lines_since(before);
    assert!(lines.len() <= 4, "{lines:#?}");
}

/// The server refuses one partition, and the reason has these words. The others go on, and so does it when it is mended.
async fn stops_its_own_partition_only(site: Site, words: &[&str], mend: impl Fn(&RedisServer)) {
    let before = site.log.text().len();
    let group = |site: &Site, partition: u32| {
        let status = site.app.status();
        let of = |group: &&GroupStatus| group.partition == partition;
        status.groups.iter().filter(of).map(|group| group.phase.clone()).collect::<Vec<_>>()
    };
    let halted = |phase: &Phase| match phase {
        Phase::Halted(halt) => words.iter().all(|word| halt.reason().contains(word)),
        _ => false,
    };
    site.wait_until("halted", |site| group(site, 2).iter().all(halted)).await;
    let publisher = site.app.publisher().with_retry(Duration::ZERO);
    let mut refused = 0;
    for n in 41..=80 {
        if let Err(error) = publisher.publish(&Pulse { n }).await {
            assert!(!error.is_retryable() && error.to_string().contains(words[0]), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0 && refused < 40, "{refused}");
    for partition in [0, 1, 3] {
        let entries = entries(&site.server.url(), partition);
        site.wait_until("going on", |site| GROUPS.iter().all(|group| site.seen.of(group, partition) == entries)).await;
    }
    // One line per group for as long as nobody mends it.
    let errors = site.log.lines_since(before).iter().filter(|line| line.contains("ERROR")).count();
    assert!(errors <= GROUPS.len(), "{}", site.log.text());
    mend(&site.server);
    for n in 81..=120 {
        publisher.publish(&Pulse { n }).await.unwrap();
    }
    let owning = |phase: &Phase| matches!(phase, Phase::Owning { .. });
    site.wait_until("going on", |site| group(site, 2).iter().all(owning)).await;
    site.is_whole(1).await;
}

#[tokio::test]
async fn a_key_of_another_type_stops_its_own_partition_until_it_is_mended() {
    let site = Site::start(&[]).await;
    let mut client = RedisServer::client(&site.server.url());
    let mut swap = redis::pipe();
    swap.atomic().cmd("RENAME").arg("pulse.2").arg("kept").cmd("SET").arg("pulse.2").arg("x");
    swap.exec(&mut client).unwrap();
    let mend = |server: &RedisServer| run(server, &["RENAME", "kept", "pulse.2"]);
    stops_its_own_partition_only(site, &["WRONGTYPE", "`pulse.2`", "rename the stream"], mend).await;
}

#[tokio::test]
async fn a_key_that_may_not_be_used_stops_its_own_partition_until_it_is_mended() {
    let site = with_user().await;
    run(
        &site.server,
        &["ACL", "SETUSER", "app", "resetkeys", "~streams:*", "~pulse.0", "~pulse.1", "~pulse.3", "~probe"],
    );
    let mend = |server: &RedisServer| run(server, &["ACL", "SETUSER", "app", "~pulse.2"]);
    stops_its_own_partition_only(site, &["NOPERM", "pulse.2", "ACL"], mend).await;
}

/// The damage of a network to the next bytes that come from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// Other bytes come in their place.
    Rubbish,
    /// Half of them come, then the end.
    Half,
    /// They never come, and neither does the end.
    Silence,
}

/// A network that damages replies; the port that leads over it.
fn network(port: u16) -> (u16, Arc<Mutex<Option<Damage>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (over, next) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(None)));
    let damage = Arc::clone(&next);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", port))) else { continue };
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            let damage = Arc::clone(&damage);
            thread::spawn(move || carry(server, client, &damage));
        }
    });
    (over, next)
}

/// Carries replies until one is damaged beyond that, or the connection ends.
fn carry(mut server: TcpStream, mut client: TcpStream, damage: &Mutex<Option<Damage>>) {
    let (mut bytes, mut is_silent) = ([0; 64 * 1024], false);
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        let damage = damage.lock().unwrap().take();
        is_silent |= damage == Some(Damage::Silence);
        let carried = match damage {
            _ if is_silent => Ok(()),
            None | Some(Damage::Silence) => client.write_all(&bytes[..length]),
            Some(Damage::Rubbish) => client.write_all(b"\x00rubbish\r\n"),
            Some(Damage::Half) => {
                let _ = client.write_all(&bytes[..length / 2]);
                break;
            }
        };
        if carried.is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

#[tokio::test]
async fn replies_that_are_damaged_on_their_way_cost_a_connection_and_no_event() {
    const ROUNDS: u64 = 30;
    let server = RedisServer::start();
    let (port, damage) = network(server.port());
    let site = Site::on(server, &format!("redis://127.0.0.1:{port}/")).await;
    let publisher = site.app.publisher().with_retry(PATIENCE);
    for round in 0..ROUNDS {
        let kind = if round % 2 == 0 { Damage::Rubbish } else { Damage::Half };
        *damage.lock().unwrap() = Some(kind);
        let first = 41 + round * 8;
        publish(&publisher, first..=first + 7).await;
        site.wait_until("damaged", |_| damage.lock().unwrap().is_none()).await;
    }
    site.is_whole(ROUNDS as usize).await;
    assert_eq!(site.app.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn a_connection_that_falls_silent_one_way_is_given_up_and_another_made() {
    let server = RedisServer::start();
    let (port, damage) = network(server.port());
    let site = Site::on(server, &format!("redis://127.0.0.1:{port}/")).await;
    let publisher = site.app.publisher().with_retry(PATIENCE);
    *damage.lock().unwrap() = Some(Damage::Silence);
    publish(&publisher, 41..=80).await;
    site.is_whole(1).await;
    assert_eq!(site.app.shutdown().await, Stopped::Clean);
}
