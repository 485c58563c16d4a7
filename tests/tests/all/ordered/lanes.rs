//! Promises of `concurrency = n`, in virtual time: apps that share one embedded broker stand for processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use streams_core::broker::{BrokerErrorKind, Letters};
use streams_runtime::broker::Redis;
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Batch, BoxError, Config, ConsumerOptions, Context, EntryId, Error, Outcome, Phase, State, Stopped, consumer,
    consumers, stream_event,
};
use streams_tests::{Act, Fault, Gate, Lab, Launch, Op, Process, RedisServer, World, logged, millis, secs};
use tokio::time::Instant;

/// A move of an account.
#[stream_event(stream = "moves", key = account)]
#[derive(Debug, Clone, PartialEq)]
struct Move {
    account: String,
    n: u64,
}

/// Another event about the same accounts.
#[stream_event(stream = "moves", key = account)]
#[derive(Debug, Clone, PartialEq)]
struct Close {
    account: String,
    n: u64,
}

/// An event whose first version nobody reads any more.
#[stream_event(stream = "moves", version = 2, oldest = 2, key = account)]
#[derive(Debug, Clone, PartialEq)]
struct Audit {
    account: String,
    n: u64,
}

/// An event without a key.
#[stream_event(stream = "moves")]
#[derive(Debug, Clone, PartialEq)]
struct Tick {
    n: u64,
}

/// An event whose decoding panics.
#[stream_event(stream = "moves", key = account)]
#[derive(Debug, Clone, PartialEq)]
struct Trap {
    account: String,
    #[event(wire = "u64")]
    #[serde(deserialize_with = "snap")]
    n: u64,
}

fn snap<'de, D: serde::Deserializer<'de>>(_: D) -> Result<u64, D::Error> {
    panic!("the trap snaps")
}

#[consumer(group = "ledger", concurrency = 4, max_attempts = 3)]
async fn book(step: Move, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle_key(&ctx, &step.account, step.n).await
}

#[consumer(group = "ledger", max_attempts = 3)]
async fn close(close: Close, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle_key(&ctx, &close.account, close.n).await
}

#[consumer(group = "ledger")]
async fn audit(audit: Audit, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, audit.n).await
}

#[consumer(group = "ledger")]
async fn spring(_trap: Trap) {}

#[consumer(group = "ticks")]
async fn tick(_tick: Tick) {}

#[consumer(group = "loader")]
async fn load(_moves: Batch<Move>) {}

#[consumer(group = "ledger", concurrency = 5)]
async fn close_otherwise(_close: Close) {}

fn options() -> ConsumerOptions {
    ConsumerOptions::DEFAULT
}

/// A process with `n` lanes.
fn lanes(world: &World, n: u32) -> Launch<'_> {
    world.process(consumers![book, close]).options(options().with_concurrency(n))
}

/// `(account, n)` each.
fn each<'a>(moves: impl IntoIterator<Item = (&'a str, u64)>) -> impl Iterator<Item = Move> {
    moves.into_iter().map(|(account, n)| Move { account: account.to_owned(), n })
}

/// Each event under an account of its own.
fn apart(events: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Move> {
    events.into_iter().map(|n| Move { account: format!("account-{n}"), n })
}

async fn dead(app: &Process) -> Vec<u64> {
    app.dead_events::<Move>("ledger").await.into_iter().map(|(event, ..)| event.n).collect()
}

/// Numbers that look random and are the same every time.
fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

const ACCOUNTS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

// Order.

#[tokio::test]
async fn events_of_one_key_are_handled_one_after_the_other_whatever_they_take_and_however_they_fail() {
    for seed in 0..20 {
        let (world, mut number) = (World::new("moves"), numbers(seed));
        let mut expected: BTreeMap<&str, Vec<(u64, u32)>> = BTreeMap::new();
        let mut moves = Vec::new();
        for n in 1..=120 {
            let account = ACCOUNTS[number(7) as usize];
            let sleep = Act::Sleep(millis(number(300)));
            let acts = match number(6) {
                0 => vec![],
                1 => vec![Act::Fail, sleep],
                2 => vec![Act::Panic, Act::Fail, sleep],
                _ => vec![sleep],
            };
            let attempts = 1.max(acts.len() as u32);
            world.lab.script("ledger", n, acts);
            expected.entry(account).or_default().extend((1..=attempts).map(|attempt| (n, attempt)));
            moves.push((account, n));
        }
        let app = lanes(&world, 4).start().await;
        let ids = app.publish_all(each(moves)).await;
        app.settled().await;
        for (account, calls) in expected {
            assert_eq!(world.lab.of_key(account), calls, "account {account} with seed {seed}");
        }
        assert_eq!(world.lab.most_at_once(), 4, "as many as may, and no more");
        assert_eq!((app.status("ledger").handled, app.status("ledger").dead_lettered), (120, 0));
        app.advance(secs(1)).await;
        assert_eq!(world.group("ledger").at().await, ids[119]);
        assert!(
            world.group("ledger").steal("next").await.attempts.is_empty(),
            "attempts of settled events are forgotten"
        );
    }
}

#[tokio::test]
async fn events_of_several_types_with_one_key_stay_in_order() {
    let world = World::new("moves");
    world.lab.script("ledger", 1, [Act::Sleep(secs(2)), Act::Fail]);
    world.lab.script("ledger", 2, [Act::Fail, Act::Sleep(secs(1))]);
    let app = lanes(&world, 4).start().await;
    app.publish_all(each([("a", 1)])).await;
    app.publish(&Close { account: "a".to_owned(), n: 2 }).await.unwrap();
    app.publish_all(each([("a", 3)])).await;
    app.settled().await;
    assert_eq!(world.lab.of_key("a"), [(1, 1), (2, 1), (2, 2), (3, 1)]);
}

#[tokio::test]
async fn a_key_that_fails_delays_no_other_and_takes_no_slot() {
    let world = World::new("moves");
    // More poisoned keys than there are slots.
    for n in 1..=5 {
        world.lab.always("ledger", n, Act::Fail);
    }
    let config = options().with_concurrency(2).with_backoff(secs(20), secs(20));
    let app = world.process(consumers![book]).options(config).start().await;
    let began = Instant::now();
    app.publish_all(each((1..=5).map(|n| (ACCOUNTS[n as usize], n)))).await;
    app.publish_all(each((1..=5).map(|n| (ACCOUNTS[n as usize], n + 10)))).await;
    app.publish_all(apart(100..=300)).await;
    world.lab.called("ledger", 5 + 201).await;
    assert!(began.elapsed() < millis(10), "{:?}", began.elapsed());
    assert!((11..=15).all(|n| !world.lab.events("ledger").contains(&n)), "they wait behind their key");
    app.settled().await;
    assert_eq!(dead(&app).await, [1, 2, 3, 4, 5]);
    assert_eq!(world.lab.of_key("b"), [(1, 1), (1, 2), (1, 3), (11, 1)]);
}

#[tokio::test]
async fn one_at_a_time_goes_by_the_order_of_the_stream() {
    let world = World::new("moves");
    world.lab.script("ledger", 2, [Act::Fail]);
    let app = lanes(&world, 1).start().await;
    app.publish_all(apart(1..=3)).await;
    app.settled().await;
    assert_eq!(world.lab.events("ledger"), [1, 2, 2, 3]);
}

// The ends of an event.

#[tokio::test]
async fn dead_letters_are_written_in_the_order_of_the_stream() {
    let world = World::new("moves");
    world.lab.always("ledger", 1, Act::Fail);
    for n in [2, 4, 5] {
        world.lab.always("ledger", n, Act::Permanent);
    }
    let config = options().with_concurrency(8).with_backoff(secs(5), secs(5));
    let app = world.process(consumers![book]).options(config).start().await;
    let ids = app.publish_all(apart(1..=6)).await;
    app.advance(secs(2)).await;
    assert_eq!(
        (dead(&app).await, app.status("ledger").handled, world.group("ledger").at().await < ids[0]),
        (vec![], 2, true)
    );
    app.settled().await;
    assert_eq!(dead(&app).await, [1, 2, 4, 5]);
    assert_eq!((app.status("ledger").dead_lettered, app.status("ledger").handled), (4, 2));
    let letters = app.dead_letters::<Move>("ledger").await.unwrap();
    let found: Vec<_> = letters.iter().map(|letter| (letter.cause(), letter.attempts())).collect();
    assert_eq!(found, [("handler", 3), ("permanent", 1), ("permanent", 1), ("permanent", 1)]);
}

#[tokio::test]
async fn each_of_several_handlers_has_its_own_limit() {
    let world = World::new("moves");
    world.lab.always("ledger", 1, Act::Hang);
    world.lab.always("ledger", 3, Act::PanicWhenDropped);
    world.lab.script("ledger", 2, [Act::Sleep(millis(900))]);
    let config = options().with_concurrency(3).with_timeout(secs(1)).with_max_attempts(1);
    let app = world.process(consumers![book]).options(config).start().await;
    app.publish_all(apart(1..=4)).await;
    app.settled().await;
    assert_eq!(dead(&app).await, [1, 3]);
    assert_eq!((world.lab.ended("ledger"), world.lab.cancelled("ledger")), (vec![2, 4], vec![1, 3]));
}

#[tokio::test]
async fn what_cannot_be_decoded_and_what_nobody_takes_holds_up_nothing() {
    let world = World::new("moves");
    let gate = Gate::default();
    world.lab.script("ledger", 1, [Act::Wait(gate.clone())]);
    let app = lanes(&world, 2).start().await;
    app.publish_all(each([("a", 1)])).await;
    world.append("Move@1", b"\xc1").await;
    world.append("Unheard@3", b"anything").await;
    world.append_raw(vec![(b"payload".to_vec(), b"x".to_vec())]).await;
    app.publish_all(each([("b", 2)])).await;
    world.lab.called("ledger", 2).await;
    gate.open();
    app.settled().await;
    assert_eq!(app.status("ledger").passed_over, 1);
    assert_eq!(world.lab.events("ledger"), [1, 2]);
    let letters = app.dead_letters::<Move>("ledger").await.unwrap();
    let found: Vec<_> = letters.iter().map(|letter| (letter.cause(), letter.consumer())).collect();
    assert_eq!(found, [("decode", "book"), ("decode", "")]);
}

#[tokio::test]
async fn an_event_whose_decoding_panics_is_a_dead_letter() {
    let world = World::new("moves");
    let app = world.process(consumers![book, spring]).start().await;
    app.publish(&Trap { account: "a".to_owned(), n: 1 }).await.unwrap();
    app.publish_all(each([("a", 2)])).await;
    app.settled().await;
    let letters = app.dead_letters::<Move>("ledger").await.unwrap();
    let found: Vec<_> = letters.iter().map(|letter| (letter.cause(), letter.consumer())).collect();
    assert_eq!((found, world.lab.events("ledger")), (vec![("panic", "spring")], vec![2]));
}

#[tokio::test]
async fn a_newer_version_stops_the_group_after_everything_before_it_and_before_everything_behind_it() {
    let world = World::new("moves");
    world.lab.script("ledger", 1, [Act::Fail, Act::Sleep(secs(3))]);
    let app = world.process(consumers![book, audit]).start().await;
    let ids = app.publish_all(apart(1..=2)).await;
    world.append("Audit@3", b"anything").await;
    app.publish_all(apart(3..=4)).await;
    let halted = tokio::time::timeout(secs(60), TestApp::settled(&app)).await.expect("an answer within a minute");
    assert!(matches!(halted, Err(Error::Halted(_))), "{halted:?}");
    assert!(app.halt("ledger").unwrap().contains("version 3"), "{:?}", app.halt("ledger"));
    assert_eq!((world.lab.events("ledger"), world.group("ledger").at().await), (vec![1, 2, 1], ids[1]));
}

#[tokio::test]
async fn a_storm_of_dead_letters_stops_the_partition_by_the_order_of_the_stream() {
    let world = World::new("moves");
    world.lab.script("ledger", 1, [Act::Sleep(secs(5))]);
    for n in 2..=60 {
        world.lab.always("ledger", n, Act::Permanent);
    }
    let app = lanes(&world, 8).start().await;
    app.publish_all(apart(1..=60)).await;
    app.advance(secs(3)).await;
    assert_eq!((app.halt("ledger"), dead(&app).await), (None, vec![]));
    app.advance(secs(3)).await;
    assert!(app.halt("ledger").unwrap().contains("20 events in a row"), "{:?}", app.halt("ledger"));
    assert_eq!(dead(&app).await, (2..=21).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_starts_while_there_is_no_room_for_a_dead_letter() {
    let world = World::new("moves");
    world.lab.always("ledger", 2, Act::Permanent);
    world.lab.always("ledger", 3, Act::Permanent);
    let mut config = Config::new();
    config.dead_letters.count = 1;
    let app = world.process(consumers![book]).config(config).start().await;
    app.publish_all(apart(1..=3)).await;
    app.advance(secs(1)).await;
    assert!(app.halt("ledger").unwrap().contains("dead letters"), "{:?}", app.halt("ledger"));
    app.publish_all(apart(4..=9)).await;
    app.advance(secs(60)).await;
    assert_eq!((world.lab.events("ledger"), dead(&app).await), (vec![1, 2, 3], vec![2]));
    let first = app.dead_letters::<Move>("ledger").await.unwrap()[0].id();
    app.running().dead_letters::<Move>("ledger").discard(&[first]).await.unwrap();
    app.advance(secs(5)).await;
    app.settled().await;
    assert_eq!(dead(&app).await, [3]);
    assert_eq!(app.status("ledger").handled, 7);
}

// Bounds.

#[tokio::test]
async fn at_the_bound_the_status_and_the_log_say_which_entry_holds_up_the_others() {
    let world = World::new("moves");
    let log = logged();
    world.lab.always("ledger", 1, Act::Fail);
    let mut config = Config::new().consumers(options().with_backoff(secs(30), secs(30)));
    config.max_unsettled_entries = 50;
    let app = world.process(consumers![book]).config(config).start().await;
    let ids = app.publish_all(apart(1..=200)).await;
    app.advance(secs(5)).await;
    assert_eq!(world.lab.events("ledger"), (1..=50).collect::<Vec<_>>(), "50 entries from the oldest on");
    let reason = app.status("ledger").blocked_by.expect("a reason");
    for words in [&format!("entry {}", ids[0]), "`book`", "1 failed attempt of 3", "50 (`max_unsettled_entries`)"] {
        assert!(reason.contains(words), "no `{words}` in: {reason}");
    }
    assert_eq!(log.count("held up"), 1, "{}", log.text());
    app.advance(secs(30)).await;
    assert!(app.status("ledger").blocked_by.unwrap().contains("2 failed attempts of 3"));
    app.settled().await;
    assert_eq!((app.status("ledger").blocked_by, world.lab.events("ledger").len()), (None, 202));
}

#[tokio::test]
async fn what_waits_behind_a_key_is_bounded_in_bytes_too() {
    let world = World::new("moves");
    let gate = Gate::default();
    world.lab.script("ledger", 1, [Act::Wait(gate.clone())]);
    let mut config = Config::new();
    config.max_unsettled_bytes = 10_000;
    let app = world.process(consumers![book]).config(config).start().await;
    app.publish_all(each((1..=200).map(|n| ("a", n)))).await;
    app.publish_all(each([("b", 300)])).await;
    app.advance(secs(5)).await;
    assert_eq!(world.lab.events("ledger"), [1], "the other key is beyond the bound");
    let reason = app.status("ledger").blocked_by.expect("a reason");
    assert!(reason.contains("after 0 failed attempts") && reason.contains("10000 (`max_unsettled_bytes`)"), "{reason}");
    gate.open();
    app.settled().await;
    assert_eq!(world.lab.events("ledger").len(), 201);
}

#[tokio::test]
async fn no_more_starts_beyond_the_acknowledged_checkpoint_than_a_batch_and_what_is_in_hand() {
    let world = World::new("moves");
    let gate = Gate::default();
    let app = world.process(consumers![book]).options(options().with_checkpoint_events(10)).start().await;
    world.wire.always(Op::Commit, Fault::Hold(gate.clone()));
    app.publish_all(apart(1..=100)).await;
    app.advance(secs(5)).await;
    let begun = world.lab.events("ledger").len();
    assert!((10..=14).contains(&begun), "{begun}");
    gate.open();
    app.settled().await;
    assert_eq!(world.lab.events("ledger").len(), 100);
}

// Ends.

#[tokio::test]
async fn a_crash_loses_nothing_keeps_attempts_and_repeats_what_stands_above_the_oldest_unsettled_event() {
    let world = World::new("moves");
    world.lab.always("ledger", 51, Act::Fail);
    let options = options().with_concurrency(4).with_max_attempts(5).with_backoff(secs(2), secs(2));
    let config = Config::new().consumers(options);
    let app = world.process(consumers![book]).config(config.clone()).start().await;
    let ids = app.publish_all(apart(1..=100)).await;
    world.lab.called("ledger", 101).await;
    app.advance(millis(150)).await;
    assert_eq!(world.group("ledger").at().await, ids[49], "up to the event that is tried again");
    drop(app);
    let app = world.process(consumers![book]).config(config).start().await;
    app.settled().await;
    let mut calls = world.lab.calls("ledger");
    let attempts: Vec<_> = calls.iter().filter(|(n, _)| *n == 51).map(|(_, attempt)| *attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5]);
    calls.retain(|(n, _)| *n != 51);
    for n in (1..=100).filter(|n| *n != 51) {
        let times = calls.iter().filter(|(other, _)| *other == n).count();
        assert_eq!(times, if n < 51 { 1 } else { 2 }, "event {n}");
    }
    assert_eq!(dead(&app).await, [51]);
}

#[tokio::test]
async fn a_stop_lets_the_handlers_in_hand_finish_and_begins_no_other() {
    let world = World::new("moves");
    for n in 2..=4 {
        world.lab.script("ledger", n, [Act::Sleep(secs(n))]);
    }
    world.lab.always("ledger", 5, Act::Permanent);
    let app = lanes(&world, 3).start().await;
    let ids = app.publish_all(apart(1..=9)).await;
    world.lab.called("ledger", 4).await;
    let began = Instant::now();
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    assert_eq!(began.elapsed().as_secs(), 4);
    assert_eq!((world.lab.events("ledger"), world.group("ledger").at().await), (vec![1, 2, 3, 4], ids[3]));
    let app = lanes(&world, 3).start().await;
    app.settled().await;
    let mut events = world.lab.events("ledger");
    events.sort_unstable();
    assert_eq!((events, dead(&app).await), ((1..=9).collect::<Vec<_>>(), vec![5]));
}

#[tokio::test]
async fn a_stop_writes_the_dead_letters_that_are_next_and_keeps_the_attempts_of_others() {
    let world = World::new("moves");
    world.lab.script("ledger", 1, [Act::Sleep(secs(2))]);
    world.lab.always("ledger", 2, Act::Permanent);
    world.lab.always("ledger", 3, Act::Permanent);
    world.lab.always("ledger", 5, Act::Fail);
    let app = lanes(&world, 8).start().await;
    let ids = app.publish_all(apart(1..=6)).await;
    world.lab.called("ledger", 7).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    assert_eq!(world.group("ledger").at().await, ids[3], "6 comes again");
    let letters = world.store.dead_letters(&world.group("ledger").key, EntryId::ZERO, 9).await.unwrap();
    assert_eq!(letters.len(), 2);
    let attempts = world.lab.calls("ledger").iter().filter(|(n, _)| *n == 5).count() as u32;
    assert_eq!(world.group("ledger").steal("next").await.attempts, [(ids[4], attempts)]);
}

#[tokio::test]
async fn a_handler_that_goes_on_at_the_deadline_is_cut_short_and_the_others_are_committed() {
    let world = World::new("moves");
    world.lab.always("ledger", 2, Act::Hang);
    let config = options().with_concurrency(3).with_timeout(secs(600));
    let app = world.process(consumers![book]).options(config).start().await;
    let ids = app.publish_all(apart(1..=3)).await;
    world.lab.called("ledger", 3).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Aborted { handlers: 1 });
    assert_eq!((world.lab.cancelled("ledger"), world.group("ledger").at().await), (vec![2], ids[0]));
}

#[tokio::test]
async fn a_lost_lease_ends_all_handlers_in_hand_before_another_process_begins() {
    let world = World::new("moves");
    for n in 1..=3 {
        world.lab.script("ledger", n, [Act::Hang]);
    }
    let config = Config::new().consumers(options().with_concurrency(3).with_timeout(secs(600)));
    let cut = world.wire();
    let first = world.process(consumers![book]).on(&cut).config(config.clone()).start().await;
    first.publish_all(apart(1..=5)).await;
    world.lab.called("ledger", 3).await;
    for n in 1..=3 {
        world.lab.script("ledger", n, []);
    }
    let second = world.process(consumers![book]).config(config).start().await;
    cut.always(Op::Renew, Fault::Fail(BrokerErrorKind::Unavailable));
    cut.always(Op::Acquire, Fault::Fail(BrokerErrorKind::Unavailable));
    world.lab.called("ledger", 4).await;
    let mut cancelled = world.lab.cancelled("ledger");
    cancelled.sort_unstable();
    assert_eq!(cancelled, [1, 2, 3], "before the fourth call");
    second.settled().await;
    let mut ended = world.lab.ended("ledger");
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_read_that_fails_cuts_no_handler_short_and_repeats_nothing() {
    let world = World::new("moves");
    world.lab.script("ledger", 1, [Act::Sleep(secs(25))]);
    world.lab.script("ledger", 2, [Act::Fail]);
    let config = options().with_concurrency(3).with_backoff(secs(40), secs(40));
    let app = world.process(consumers![book]).options(config).start().await;
    app.publish_all(apart(1..=5)).await;
    world.lab.called("ledger", 5).await;
    world.wire.always(Op::Read, Fault::Fail(BrokerErrorKind::Unavailable));
    // The look for what was deleted, every ten seconds, fails.
    app.advance(secs(15)).await;
    assert!(matches!(app.status("ledger").phase, Phase::Retrying(_)), "{:?}", app.status("ledger"));
    world.wire.heal();
    app.publish_all(apart([6])).await;
    world.lab.called("ledger", 6).await;
    app.settled().await;
    assert!(app.running().status().is_ready());
    assert_eq!((world.lab.events("ledger"), world.lab.cancelled("ledger")), (vec![1, 2, 3, 4, 5, 6, 2], vec![]));
}

// Start-up.

fn refusal(app: &App) -> String {
    format!("{:?}", app.check().expect_err("it is refused"))
}

#[tokio::test]
async fn an_event_without_a_key_is_refused_with_the_remedy() {
    let reason = refusal(&App::with(consumers![tick]).config(Config::new().consumers(options().with_concurrency(8))));
    for words in ["`tick` takes `Tick`, which has no key", "`concurrency = 8`", "write `key = field`"] {
        assert!(reason.contains(words), "no `{words}` in: {reason}");
    }
    let one = Config::new().consumers(options().with_concurrency(1));
    App::with(consumers![tick]).config(one).check().unwrap();
}

#[tokio::test]
async fn a_batch_is_refused_with_the_remedy() {
    let reason = refusal(&App::with(consumers![load]).config(Config::new().consumers(options().with_concurrency(8))));
    for words in ["`load` takes `Batch<Move>`", "`concurrency = 8`", "give it a group of its own"] {
        assert!(reason.contains(words), "no `{words}` in: {reason}");
    }
}

#[tokio::test]
async fn two_consumers_that_differ_are_refused_and_bounds_that_allow_nothing() {
    let app = App::with(consumers![book, close_otherwise]).state(Lab::default());
    let mut config = Config::new();
    config.max_unsettled_entries = 0;
    let reason = refusal(&app.config(config));
    for words in
        ["give group `ledger` a different `concurrency`", "`max_unsettled_entries` or `max_unsettled_bytes` is 0"]
    {
        assert!(reason.contains(words), "no `{words}` in: {reason}");
    }
    let too_many = Config::new().group("ledger", options().with_concurrency(1001));
    let app = App::with(consumers![book]).state(Lab::default()).config(too_many);
    assert!(refusal(&app).contains("`concurrency` is 1001; it must be from 1 to 1000"));
}

// A real server.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_the_order_of_each_key_holds_and_everything_is_committed() {
    let server = RedisServer::start();
    let lab = Lab::default();
    let mut number = numbers(7);
    for n in (1..=300).step_by(10) {
        lab.script("ledger", n, [Act::Fail, Act::Sleep(millis(number(5)))]);
    }
    lab.always("ledger", 100, Act::Permanent);
    lab.always("ledger", 101, Act::Permanent);
    let broker = Arc::new(Redis::open(&server.url()).unwrap());
    let config = Config::new().consumers(options().with_concurrency(8).with_backoff(millis(20), millis(20)));
    let app = App::with(consumers![book]).state(lab.clone()).config(config).broker(broker);
    let running = app.start().await.unwrap();
    let moves: Vec<_> = (1..=300).map(|n| Move { account: ACCOUNTS[number(7) as usize].to_owned(), n }).collect();
    for receipt in running.publisher().publish_all(moves.clone()).await {
        receipt.unwrap();
    }
    tokio::time::timeout(secs(60), running.settled()).await.expect("within a minute").unwrap();
    for account in ACCOUNTS {
        let mut found: Vec<_> = lab.of_key(account).into_iter().map(|(n, _)| n).collect();
        found.dedup();
        let expected: Vec<_> = moves.iter().filter(|one| one.account == account).map(|one| one.n).collect();
        assert_eq!(found, expected, "account {account}");
    }
    let letters = running.dead_letters::<Move>("ledger").list(None, 9).await.unwrap();
    let dead: Vec<_> = letters.iter().map(|letter| letter.decode().unwrap().n).collect();
    assert_eq!(dead, [100, 101]);
    assert_eq!(running.shutdown().await, Stopped::Clean);
    let fields: Vec<String> = server.run("HKEYS streams:{moves}:ledger");
    assert!(!fields.iter().any(|field| field.starts_with("attempts:")), "{fields:?}");
}
