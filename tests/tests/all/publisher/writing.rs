//! Promises of publishing: writes are shared, order outlives a retry, trimming waits, durability is reported.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use streams_core::broker::{Acquired, Broker, BrokerErrorKind, Claim, LeaseView, Log};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_core::{EntryId, Start};
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::{
    App, Config, PublishError, Publisher, Receipt, Running, State, StreamEvent, codec, consumer, consumers,
    stream_event,
};
use streams_tests::{Fault, Faulty, Gate, Op, Options, RedisServer, World, logged};
use tokio::time::Instant;

use crate::contract::step;

#[stream_event(stream = "steps")]
#[derive(Debug, Clone, PartialEq)]
struct Step {
    n: u64,
}

#[stream_event(stream = "spread", key = n, partitions = 8)]
#[derive(Debug, Clone, PartialEq)]
struct Spread {
    n: u64,
}

#[stream_event(stream = "large")]
#[derive(Debug, Clone, PartialEq)]
struct Large {
    text: String,
}

#[stream_event(stream = "kept", retention = "consumed")]
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    n: u64,
}

#[stream_event(stream = "safe", durability = "replicas(1)")]
#[derive(Debug, Clone, PartialEq)]
struct Safe {
    n: u64,
}

#[stream_event(stream = "written", durability = "fsync")]
#[derive(Debug, Clone, PartialEq)]
struct Written {
    n: u64,
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn partition_of<E: StreamEvent>() -> PartitionKey {
    StreamKey::new(None, E::INFO.stream, 1).partition(0)
}

/// An embedded broker whose calls can go wrong, and a publisher on it.
fn wire() -> (Faulty, Publisher) {
    let wire = Faulty::over(Arc::new(Embedded::new()));
    let publisher = Publisher::new(Arc::new(wire.clone()));
    (wire, publisher)
}

/// The stream: events with their ids, in order.
async fn entries(broker: &dyn Broker) -> Vec<(u64, String)> {
    let entries = broker.read(&partition_of::<Step>(), EntryId::ZERO, 100_000).await.unwrap();
    let event = |entry| codec::decode::<Step>(entry).unwrap().n;
    entries.iter().map(|entry| (event(entry), entry.event_id().as_str().to_owned())).collect()
}

async fn numbers(broker: &dyn Broker) -> Vec<u64> {
    entries(broker).await.into_iter().map(|(n, _)| n).collect()
}

/// A publish in a task of its own, which has come as far as it can by itself.
async fn begin(publisher: &Publisher, n: u64) -> tokio::task::JoinHandle<Result<Receipt, PublishError>> {
    let publisher = publisher.clone();
    let (begun, begins) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let step = Step { n };
        let mut publish = pin!(publisher.publish(&step).into_future());
        let first = std::future::poll_fn(|cx| Poll::Ready(publish.as_mut().poll(cx))).await;
        let _ = begun.send(());
        match first {
            Poll::Ready(result) => result,
            Poll::Pending => publish.await,
        }
    });
    begins.await.unwrap();
    task
}

// Shared writes.

#[tokio::test]
async fn calls_that_come_during_a_write_share_the_next_ones() {
    let (wire, publisher) = wire();
    let gate = Gate::default();
    wire.once(Op::Append, Fault::Hold(gate.clone()));
    let mut calls = Vec::new();
    for n in 0..1000 {
        calls.push(begin(&publisher, n).await);
    }
    gate.arrived(1).await;
    gate.open();
    let mut ids = Vec::new();
    for call in calls {
        ids.push(call.await.unwrap().unwrap().entry_id);
    }
    // The first alone, then 999 in writes of up to 256.
    assert_eq!(wire.calls(Op::Append), 5);
    assert_eq!(numbers(&wire).await, (0..1000).collect::<Vec<_>>());
    assert!(ids.is_sorted_by(|a, b| a < b), "everybody gets the id of its own entry");
}

/// Stands before a server and counts what comes in from clients, read by read. As long as a client waits for the answer
/// before it writes again, that is how often it wrote.
fn counting(port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let reads = Arc::clone(&count);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for stream in [&client, &server] {
                stream.set_nodelay(true).unwrap();
            }
            let pump = |mut from: TcpStream, mut to: TcpStream, reads: Option<Arc<AtomicUsize>>| {
                thread::spawn(move || {
                    let mut buffer = vec![0; 1024 * 1024];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        reads.iter().for_each(|reads| {
                            reads.fetch_add(1, Ordering::SeqCst);
                        });
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                });
            };
            pump(client.try_clone().unwrap(), server.try_clone().unwrap(), Some(Arc::clone(&reads)));
            pump(server, client, None);
        }
    });
    (proxy, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_at_once_are_a_few_writes_to_the_socket() {
    let server = RedisServer::start();
    let (port, writes) = counting(server.port());
    let publisher = Publisher::connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    // The connection, the stream's declaration and the look at the clock are there before.
    publisher.publish(&Step { n: 0 }).await.unwrap();
    let before = writes.load(Ordering::SeqCst);
    let calls: Vec<_> = (1..=1000)
        .map(|n| {
            let publisher = publisher.clone();
            tokio::spawn(async move { publisher.publish(&Step { n }).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let writes = writes.load(Ordering::SeqCst) - before;
    println!("1,000 concurrent publishes: {writes} socket writes");
    assert!(writes <= 50, "{writes} writes");
    let mut numbers = numbers(&Redis::open(&server.url()).unwrap()).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (0..=1000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_do_not_wait_for_each_other() {
    let wire = Faulty::over(Arc::new(Redis::open(&RedisServer::shared().database()).unwrap()));
    let publisher = Publisher::new(Arc::new(wire.clone()));
    let gate = Gate::default();
    wire.once(Op::Append, Fault::Hold(gate.clone()));
    let held = begin(&publisher, 0).await;
    gate.arrived(1).await;
    let calls: Vec<_> = (0..1000)
        .map(|n| {
            let publisher = publisher.clone();
            tokio::spawn(async move { publisher.publish(&Spread { n }).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(wire.calls(Op::Append) <= 50, "{} writes", wire.calls(Op::Append));
    assert!(!held.is_finished());
    gate.open();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lone_call_is_written_at_once() {
    tokio::time::pause();
    let (wire, publisher) = wire();
    let started = Instant::now();
    for n in 0..10 {
        publisher.publish(&Step { n }).await.unwrap();
    }
    assert_eq!((wire.calls(Op::Append), started.elapsed()), (10, Duration::ZERO));
}

#[tokio::test]
async fn a_call_that_is_dropped_takes_nobody_with_it() {
    let (wire, publisher) = wire();
    let gate = Gate::default();
    wire.once(Op::Append, Fault::Hold(gate.clone()));
    let first = begin(&publisher, 0).await;
    gate.arrived(1).await;
    let (dropped, last) = (begin(&publisher, 1).await, begin(&publisher, 2).await);
    for call in [first, dropped] {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    gate.open();
    last.await.unwrap().unwrap();
    assert_eq!(numbers(&wire).await, [0, 1, 2], "what waited is published all the same");
}

#[tokio::test]
async fn calls_beyond_the_room_wait_and_are_not_yet_published() {
    let (wire, publisher) = wire();
    let gate = Gate::default();
    wire.once(Op::Append, Fault::Hold(gate.clone()));
    let large = Large { text: "x".repeat(1_000_000) };
    let mut calls: Vec<_> = (0..40).map(|_| publisher.publish(&large).into_future()).collect();
    for call in &mut calls {
        let polled = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }
    gate.arrived(1).await;
    drop(calls);
    gate.open();
    publisher.publish(&Large { text: String::new() }).await.unwrap();
    let extent = wire.extent(&partition_of::<Large>()).await.unwrap().unwrap();
    // 16 MiB hold sixteen of them.
    assert_eq!(extent.added, 17);
}

#[test]
fn an_executor_that_ends_takes_no_event_of_callers_elsewhere_with_it() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (one, other) = (runtime(), runtime());
    let (wire, publisher) = wire();
    let gate = Gate::default();
    wire.once(Op::Append, Fault::Hold(gate.clone()));
    let first = one.block_on(begin(&publisher, 0));
    one.block_on(gate.arrived(1));
    let waiting = other.block_on(begin(&publisher, 1));
    one.shutdown_background();
    other.block_on(async {
        waiting.await.unwrap().unwrap();
        assert!(first.await.unwrap_err().is_cancelled());
        publisher.publish(&Step { n: 2 }).await.unwrap();
        assert_eq!(numbers(&wire).await, [1, 2]);
    });
}

// Order over a retry.

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_repeated_in_its_place_under_the_same_event_id() {
    let (wire, publisher) = wire();
    wire.once(Op::Append, Fault::LoseReply);
    let (first, second) = (begin(&publisher, 1).await, begin(&publisher, 2).await);
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    let (one, two) = (first.event_id.to_string(), second.event_id.to_string());
    let both = entries(&wire).await;
    let repeat = both.iter().rposition(|(n, _)| *n == 1).unwrap();
    assert_eq!((both.first(), both.last()), (Some(&(1, one.clone())), Some(&(2, two))));
    assert_eq!(both[repeat].1, one, "the same event id both times");
    assert!(first.entry_id < second.entry_id);
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_bounded_in_time_and_those_behind_it_answer_in_order() {
    let (wire, publisher) = wire();
    wire.always(Op::Append, Fault::Fail(BrokerErrorKind::Indefinite));
    let started = Instant::now();
    let first = begin(&publisher, 1).await;
    tokio::time::sleep(secs(5)).await;
    let second = begin(&publisher, 2).await;
    let error = first.await.unwrap().unwrap_err();
    assert!(error.is_indefinite() && error.is_retryable() && error.event_id().is_some(), "{error}");
    assert!((secs(15)..secs(17)).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert!(!second.is_finished());
    assert!(second.await.unwrap().unwrap_err().is_indefinite());
    assert!((secs(20)..secs(22)).contains(&started.elapsed()), "{:?}", started.elapsed());
    wire.heal();
    publisher.publish(&Step { n: 3 }).await.unwrap();
    assert_eq!(numbers(&wire).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_a_moment_costs_nothing_but_time() {
    let (wire, publisher) = wire();
    for _ in 0..5 {
        wire.once(Op::Append, Fault::Fail(BrokerErrorKind::Unavailable));
    }
    let (first, second) = (begin(&publisher, 1).await, begin(&publisher, 2).await);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(numbers(&wire).await, [1, 2], "nothing twice: nothing was sent");

    wire.always(Op::Append, Fault::Fail(BrokerErrorKind::Unavailable));
    let error = publisher.publish(&Step { n: 3 }).await.unwrap_err();
    assert!(!error.is_indefinite() && error.is_retryable(), "{error}");
    let calls = wire.calls(Op::Append);
    let error = publisher.with_retry(Duration::ZERO).publish(&Step { n: 4 }).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(wire.calls(Op::Append), calls + 1, "with zero nothing is tried again");
}

#[tokio::test(start_paused = true)]
async fn what_never_got_its_turn_while_nothing_went_through_was_not_sent() {
    let (wire, publisher) = wire();
    wire.always(Op::Append, Fault::Fail(BrokerErrorKind::Indefinite));
    // One write full, so that what comes next is not part of it.
    let full: Vec<_> = (0..256).map(|n| Step { n }).collect();
    let (all, behind) = tokio::join!(publisher.publish_all(full), publisher.publish(&Step { n: 1000 }));
    assert!(all.iter().all(|result| result.as_ref().unwrap_err().is_indefinite()));
    let error = behind.unwrap_err();
    assert!(!error.is_indefinite() && error.is_retryable() && error.to_string().contains("not sent"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_an_answer_is_not_forgotten_over_a_later_refusal() {
    for last in [BrokerErrorKind::Refused, BrokerErrorKind::Full] {
        let (wire, publisher) = wire();
        wire.once(Op::Append, Fault::LoseReply);
        wire.once(Op::Append, Fault::Fail(last));
        let error = publisher.publish(&Step { n: 1 }).await.unwrap_err();
        let message = error.to_string();
        assert!(error.is_indefinite() && message.contains("may have taken effect"), "{message}");
        assert!(message.contains("the same event id"), "{message}");
        assert_eq!(numbers(&wire).await, [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_server_is_the_callers_business_at_once() {
    let (wire, publisher) = wire();
    wire.once(Op::Append, Fault::Fail(BrokerErrorKind::Full));
    let error = publisher.publish(&Step { n: 1 }).await.unwrap_err();
    assert!(error.is_backpressure() && !error.is_indefinite());
    assert_eq!(wire.calls(Op::Append), 1);
    publisher.publish(&Step { n: 2 }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn publish_all_sends_nothing_of_a_partition_after_a_failure() {
    let (wire, publisher) = wire();
    wire.once(Op::Append, Fault::Fail(BrokerErrorKind::Full));
    let results = publisher.publish_all((0..600).map(|n| Step { n })).await;
    let (first, rest) = results.split_at(256);
    assert!(first.iter().all(|result| result.as_ref().unwrap_err().is_backpressure()));
    assert!(rest.iter().all(|result| result.as_ref().unwrap_err().is_not_sent()));
    assert_eq!(wire.calls(Op::Append), 1);
}

/// Waits until a connection other than this one has sent such a command.
async fn until_sent(server: &RedisServer, command: &str) {
    while !server.run::<String>("CLIENT LIST TYPE normal").contains(command) {
        tokio::task::yield_now().await;
    }
}

/// A publisher on a server that writes in the test's own, perhaps paused, time. One alone has a thread of its own.
async fn in_the_time_of_the_test(broker: Arc<dyn Broker>) -> (Running, Publisher) {
    let app = App::with([]).publish_only().broker(broker).start().await.unwrap();
    let publisher = app.publisher().clone();
    (app, publisher)
}

#[tokio::test]
async fn a_connection_that_is_killed_under_a_publish_costs_no_event_and_no_order() {
    let server = RedisServer::start();
    let publisher = Publisher::connect(&server.url()).await.unwrap();
    publisher.publish(&Step { n: 0 }).await.unwrap();
    server.run::<()>("CLIENT PAUSE 600000 WRITE");
    let first = begin(&publisher, 1).await;
    until_sent(&server, "cmd=xadd").await;
    let second = begin(&publisher, 2).await;
    server.run::<u32>("CLIENT KILL TYPE normal SKIPME yes");
    server.run::<()>("CLIENT UNPAUSE");
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert!(first.entry_id < second.entry_id);
    let mut numbers = numbers(&Redis::open(&server.url()).unwrap()).await;
    numbers.dedup();
    assert_eq!(numbers, [0, 1, 2]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_after_a_while() {
    let server = RedisServer::start();
    let (_app, publisher) = in_the_time_of_the_test(Arc::new(Redis::open(&server.url()).unwrap())).await;
    publisher.publish(&Step { n: 0 }).await.unwrap();
    server.run::<()>("CLIENT PAUSE 600000 WRITE");
    // Nothing else runs, so the clock jumps to where the waits end.
    tokio::time::pause();
    let started = Instant::now();
    let error = publisher.publish(&Step { n: 1 }).await.unwrap_err();
    assert!(error.is_indefinite(), "{error}");
    assert!((secs(15)..secs(30)).contains(&started.elapsed()), "{:?}", started.elapsed());
    tokio::time::resume();
    server.run::<()>("CLIENT UNPAUSE");
    publisher.publish(&Step { n: 2 }).await.unwrap();
    assert_eq!(numbers(&Redis::open(&server.url()).unwrap()).await.last(), Some(&2));
}

// Retention.

const HOUR: u64 = 3_600_000;

#[tokio::test]
async fn an_id_30_hours_ahead_wipes_nothing_and_is_told_once() {
    let url = RedisServer::shared().database();
    let mut client = RedisServer::client(&url);
    let broker: Arc<dyn Broker> = Arc::new(Redis::open(&url).unwrap());
    let now = broker.now().await.unwrap();
    let mut add = |id: EntryId| {
        redis::cmd("XADD").arg("steps").arg(id.to_string()).arg(&["a", "b"]).exec(&mut client).unwrap();
    };
    // Two days old, so that a day's retention takes them once it may.
    (0..500).for_each(|n| add(EntryId::new(now - 48 * HOUR, n)));
    add(EntryId::new(now + 30 * HOUR, 0));

    let log = logged();
    let (_app, publisher) = in_the_time_of_the_test(Arc::clone(&broker)).await;
    let length = async || broker.extent(&partition_of::<Step>()).await.unwrap().unwrap().length;
    for round in 1..=3 {
        publisher.publish(&Step { n: round }).await.unwrap();
        assert_eq!(length().await, 501 + round, "nothing is wiped");
        // So that the next one looks again.
        tokio::time::pause();
        tokio::time::advance(secs(61)).await;
        tokio::time::resume();
    }
    assert_eq!(log.count("ahead of the server's clock"), 1, "{}", log.text());

    // The operator takes the entries away and sets the id back.
    redis::cmd("XTRIM").arg("steps").arg(&["MAXLEN", "=", "0"]).exec(&mut client).unwrap();
    redis::cmd("XSETID").arg("steps").arg(format!("{}-0", now - 49 * HOUR)).exec(&mut client).unwrap();
    let mut add = |id: EntryId| {
        redis::cmd("XADD").arg("steps").arg(id.to_string()).arg(&["a", "b"]).exec(&mut client).unwrap();
    };
    (0..500).for_each(|n| add(EntryId::new(now - 48 * HOUR, n)));
    publisher.publish(&Step { n: 4 }).await.unwrap();
    assert!(length().await < 200, "trimming goes on");
    assert_eq!(log.count("ahead of the server's clock"), 1, "{}", log.text());
}

#[stream_event(stream = "dated", retention = "1h")]
#[derive(Debug, Clone, PartialEq)]
struct Dated {
    n: u64,
}

#[consumer(group = "reader")]
async fn read_dated(_: Dated) {}

#[consumer(group = "reader")]
async fn read_kept(_: Kept) {}

#[consumer(group = "helpers", delivery = "queue")]
async fn help(_: Kept) {}

#[consumer(group = "late", timeout = "3h")]
async fn read_late(_: Kept, gate: State<Gate>) {
    gate.pass().await;
}

#[tokio::test]
async fn a_quiet_stream_is_trimmed_by_its_owner_where_a_retention_is_declared() {
    let gate = Gate::default();
    let world = World::new("dated");
    let app = world.process(consumers![read_dated, read_kept, help, read_late]).state(gate.clone()).start().await;
    for n in 0..10 {
        app.publish(&Dated { n }).await.unwrap();
        app.publish(&Kept { n }).await.unwrap();
    }
    app.advance(secs(59 * 60)).await;
    let (dated, kept) = (app.published::<Dated>().await.unwrap().len(), app.published::<Kept>().await.unwrap().len());
    assert_eq!((dated, kept), (10, 10), "not an hour old, and not settled by all");
    gate.open();
    app.advance(secs(3 * 60)).await;
    let kept: Vec<_> = app.published::<Kept>().await.unwrap().into_iter().map(|kept| kept.n).collect();
    assert_eq!(kept, [9], "the entry at the checkpoint stays");
    assert_eq!(app.published::<Dated>().await.unwrap(), []);
    // No event is missed, and none reported as lost.
    for n in 10..20 {
        app.publish(&Dated { n }).await.unwrap();
        app.publish(&Kept { n }).await.unwrap();
    }
    app.settled().await;
    assert!(app.running().status().groups.iter().all(|group| group.losses == 0), "{:?}", app.running().status());
}

#[tokio::test]
async fn whether_anybody_runs_a_group_that_entries_wait_for_is_asked_when_the_config_says() {
    let (log, world) = (logged(), World::new("kept"));
    let config = Config::new().expire_after(secs(600));
    let app = world.process(consumers![read_kept, read_late]).state(Gate::default()).config(config).start().await;
    let asked = || log.count("nobody seems to run the slowest group");
    app.publish(&Kept { n: 1 }).await.unwrap();
    app.advance(secs(9 * 60)).await;
    assert_eq!(asked(), 0, "{}", log.text());
    app.advance(secs(3 * 60)).await;
    assert_eq!(asked(), 1, "by the owner: {}", log.text());
    app.publish(&Kept { n: 2 }).await.unwrap();
    assert_eq!(asked(), 2, "by the publisher: {}", log.text());
    assert!(log.text().contains("streams remove kept late"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_retention_consumed_waits_for_its_slowest_group() {
    let broker: Arc<dyn Broker> = Arc::new(Embedded::new());
    let publisher = Publisher::new(Arc::clone(&broker));
    let partition = partition_of::<Kept>();
    let mut all = Vec::new();
    for n in 0..10 {
        all.push(publisher.publish(&Kept { n }).await.unwrap().entry_id);
    }
    let first = async || broker.extent(&partition).await.unwrap().unwrap().first.unwrap();
    tokio::time::advance(secs(365 * 24 * 3600)).await;
    publisher.publish(&Kept { n: 10 }).await.unwrap();
    assert_eq!(first().await, all[0], "without a group nothing goes, however old");

    for (name, at) in [("fast", 8), ("slow", 3)] {
        let group = partition.group(name);
        broker.create(&group, Start::Earliest).await.unwrap();
        let claim =
            Claim { owner: "a".to_owned(), lease_for: secs(10), seen: LeaseView::default(), own: false, bound: 1_000 };
        let Acquired::Held(holding) = broker.acquire(&group, &claim).await.unwrap() else { panic!("not held") };
        let holder = streams_core::broker::Holder { owner: "a".to_owned(), epoch: holding.epoch };
        broker.commit(&group, &step(&holder, EntryId::ZERO, all[at])).await.unwrap();
    }
    publisher.publish(&Kept { n: 11 }).await.unwrap();
    tokio::time::advance(secs(1)).await;
    publisher.publish(&Kept { n: 12 }).await.unwrap();
    assert_eq!(first().await, all[3], "the entry at the checkpoint stays");
}

#[tokio::test]
async fn a_stream_that_grows_because_a_group_does_not_read_it_is_told_with_the_group_and_the_remedy() {
    let server = RedisServer::start();
    let broker: Arc<dyn Broker> = Arc::new(Redis::open(&server.url()).unwrap());
    let (_app, publisher) = in_the_time_of_the_test(Arc::clone(&broker)).await;
    let partition = partition_of::<Kept>();
    let add = "for _ = 1, 1000000 do redis.call('XADD', 'kept', '*', 'a', 'b') end";
    redis::cmd("EVAL").arg(add).arg(0).exec(&mut RedisServer::client(&server.url())).unwrap();
    let log = logged();
    let a_minute = async || {
        tokio::time::pause();
        tokio::time::advance(secs(61)).await;
        tokio::time::resume();
    };

    publisher.publish(&Kept { n: 1 }).await.unwrap();
    assert_eq!(log.count("because it has no group"), 1, "{}", log.text());

    broker.create(&partition.group("slow"), Start::Earliest).await.unwrap();
    let (_app, publisher) = in_the_time_of_the_test(Arc::clone(&broker)).await;
    for n in 2..4 {
        publisher.publish(&Kept { n }).await.unwrap();
        a_minute().await;
    }
    let remedy = "streams remove kept slow";
    assert!(log.count("waits for its slowest group") == 1 && log.count(remedy) == 1, "{}", log.text());
    assert_eq!(broker.extent(&partition).await.unwrap().unwrap().length, 1_000_003, "and nothing is trimmed");
}

// Durability.

mod torn {
    use super::*;

    #[stream_event(stream = "torn", durability = "replicas(1)")]
    pub(super) struct One {
        pub(super) n: u64,
    }

    #[stream_event(stream = "torn", durability = "fsync")]
    pub(super) struct Two {
        pub(super) n: u64,
    }

    #[consumer(group = "torn")]
    pub(super) async fn one(_: One) {}

    #[consumer(group = "torn")]
    pub(super) async fn two(_: Two) {}
}

#[tokio::test]
async fn events_that_contradict_each_other_about_durability_are_neither_published_nor_consumed() {
    let (wire, publisher) = wire();
    let differ = "give stream `torn` a different `durability`";
    for error in [publisher.publish(&torn::One { n: 1 }).await, publisher.publish(&torn::Two { n: 1 }).await] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains(differ) && !error.is_retryable(), "{error}");
    }
    assert_eq!(wire.calls(Op::Append), 0);
    let error = App::with(consumers![torn::one, torn::two]).check().unwrap_err();
    assert!(error.to_string().contains(differ), "{error}");
}

#[tokio::test]
async fn a_publish_waits_for_its_replicas_and_says_when_they_do_not_come() {
    let primary = Options::default().args(["--repl-diskless-sync-delay", "0"]).start();
    let replica = Options::default().args(["--replicaof", &format!("127.0.0.1 {}", primary.port())]).start();
    let mut client = RedisServer::client(&primary.url());
    redis::cmd("SET").arg("x").arg("y").exec(&mut client).unwrap();
    let online: u32 = redis::cmd("WAIT").arg(1).arg(20_000).query(&mut client).unwrap();
    assert_eq!(online, 1, "the replica is there");

    let publisher = Publisher::connect(&primary.url()).await.unwrap();
    for n in 0..3 {
        publisher.publish(&Safe { n }).await.unwrap();
    }
    let there = Redis::open(&replica.url()).unwrap().extent(&partition_of::<Safe>()).await.unwrap().unwrap();
    assert_eq!(there.length, 3, "what was answered is on the replica");
    assert!(publisher.publish_all((3..10).map(|n| Safe { n })).await.iter().all(Result::is_ok));

    primary.run::<u32>("CLIENT KILL TYPE normal SKIPME yes");
    publisher.publish(&Safe { n: 10 }).await.unwrap();

    drop(replica);
    let error = publisher.publish(&Safe { n: 11 }).await.unwrap_err();
    assert!(error.is_not_durable() && !error.is_retryable() && !error.is_indefinite() && !error.is_refused());
    let receipt = error.receipt().unwrap().clone();
    let message = error.to_string();
    for word in ["`Safe`", "`safe`", "0 of 1 replicas", &receipt.entry_id.to_string(), receipt.event_id.as_str()] {
        assert!(message.contains(word), "no {word} in: {message}");
    }
    let last = publisher.last::<Safe>().await.unwrap().unwrap();
    assert_eq!((last.event.n, last.entry_id()), (11, receipt.entry_id), "it is in the stream");
}

#[tokio::test]
async fn fsync_waits_for_the_disk_or_is_refused_before_anything_is_added() {
    let with_file = Options::default().args(["--appendonly", "yes"]).start();
    let without = RedisServer::start();
    let info: String = without.run("INFO server");
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
    let is_old = (parts.next(), parts.next()) < (Some(7), Some(2));
    for (server, words) in [
        (&with_file, is_old.then(|| vec!["WAITAOF", "7.2", "remove `fsync`", version])),
        (&without, Some(if is_old { vec!["WAITAOF", version] } else { vec!["append-only", "remove `fsync`"] })),
    ] {
        let publisher = Publisher::connect(&server.url()).await.unwrap();
        let result = publisher.publish(&Written { n: 1 }).await;
        let found = Redis::open(&server.url()).unwrap().extent(&partition_of::<Written>()).await.unwrap();
        match words {
            None => {
                result.unwrap();
                assert_eq!(found.unwrap().length, 1);
            }
            Some(words) => {
                let error = result.unwrap_err();
                let message = error.to_string();
                words.iter().for_each(|word| assert!(message.contains(word), "no {word} in: {message}"));
                assert!(!error.is_not_durable() && !error.is_retryable() && !error.is_indefinite());
                assert_eq!(found, None, "nothing is added");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_embedded_broker_does_not_pretend_to_be_durable() {
    let publisher = Publisher::new(Arc::new(Embedded::new()));
    let error = publisher.publish(&Safe { n: 1 }).await.unwrap_err();
    let message = error.to_string();
    for word in ["`safe`", "replicas(1)", "embedded", "REDIS_URL"] {
        assert!(message.contains(word), "no {word} in: {message}");
    }
    assert!(!error.is_retryable() && !error.is_indefinite());
}
