//! Promises about handlers that take the whole process down, with real processes and in virtual time. There a dropped app is
//! a process that ended.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use streams_core::broker::Log;
use streams_core::keys::{GroupKey, StreamKey};
use streams_runtime::broker::Redis;
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Batch, BoxError, Config, ConsumerOptions, Context, DeadLetter, DeadLetterFilter, DeadLetters, Delivery,
    EntryId, Outcome, Publisher, State, Stopped, StreamEvent, consumer, consumers, stream_event,
};
use streams_tests::poison::{DECODING, Dose, End, JOURNAL, Pill, Vaccine};
use streams_tests::{Act, Fault, Gate, Lab, Op, Process, Program, RedisServer, World, logged_from, millis, secs};

/// A dose for a dropped app.
fn dose(n: u64) -> Dose {
    Dose { n, by: None, times: 0 }
}

#[consumer(group = "frail")]
async fn frail(dose: Dose, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, dose.n).await
}

#[consumer(group = "beside")]
async fn beside(dose: Dose, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, dose.n).await
}

/// An event with a key.
#[stream_event(stream = "pills", key = patient)]
#[derive(Debug, Clone)]
struct Tablet {
    patient: String,
    n: u64,
}

#[consumer(group = "lanes", concurrency = 4)]
async fn lanes(tablet: Tablet, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, tablet.n).await
}

/// An event of a stream with several partitions.
#[stream_event(stream = "jabs", key = n, partitions = 4)]
#[derive(Debug, Clone)]
struct Jab {
    n: u64,
}

#[consumer(group = "ward", delivery = "queue", concurrency = 4)]
async fn ward(jab: Jab, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, jab.n).await
}

#[consumer(group = "batches", batch = 5)]
async fn batches(doses: Batch<Dose>, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    // The first call shows how many came together.
    lab.handle(&ctx, doses[0].event.n * 100 + doses.len() as u64).await
}

fn of_lanes() -> GroupKey {
    StreamKey::new(None, "pills", 1).partition(0).group("lanes")
}

/// Each event with a key of its own.
fn apart(events: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Tablet> {
    events.into_iter().map(|n| Tablet { patient: format!("patient-{n}"), n })
}

/// How often the handler of a group was called with an event.
fn calls(world: &World, group: &str, n: u64) -> usize {
    world.lab.attempts(group, n).len()
}

/// Kills the process as soon as the group is called with this event again.
async fn dies_at(world: &World, group: &str, app: Process, n: u64) {
    let before = calls(world, group, n);
    let mut waited = 0;
    while calls(world, group, n) == before {
        app.advance(millis(1)).await;
        waited += 1;
        assert!(waited < 3_600_000, "event {n} is not handled: {:?}", world.lab.calls(group));
    }
    app.kill().await;
}

async fn dead_tablets(app: &Process) -> Vec<(u64, String, u32)> {
    app.dead_events::<Tablet>("lanes")
        .await
        .into_iter()
        .map(|(event, cause, attempts)| (event.n, cause, attempts))
        .collect()
}

async fn dead_events(app: &Process, group: &str) -> Vec<(u64, String)> {
    app.dead_events::<Dose>(group).await.into_iter().map(|(event, cause, _)| (event.n, cause)).collect()
}

fn with(options: ConsumerOptions) -> Config {
    Config::new().consumers(options)
}

#[tokio::test]
async fn an_event_that_ends_its_process_is_given_up_and_its_neighbours_are_not() {
    let world = World::new("doses");
    world.publish((1..=6).map(dose)).await;
    world.lab.always("frail", 3, Act::Hang);
    for _ in 0..4 {
        dies_at(&world, "frail", world.process(consumers![frail]).start().await, 3).await;
    }
    let app = world.process(consumers![frail]).start().await;
    app.settled().await;
    assert_eq!(calls(&world, "frail", 3), 4, "once by chance, three times charged");
    let letters = app.dead::<Dose>("frail").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.decode().unwrap().n, letter.cause(), letter.attempts()), (3, "crash", 3));
    assert!(letter.reason().starts_with("the process ended 3 times, or lost its lease, while"), "{}", letter.reason());
    assert_eq!(letter.consumer(), "frail");
    for n in [1, 2, 4, 5, 6] {
        assert!(world.lab.ended("frail").contains(&n), "{n}");
    }
    assert!(world.lab.calls("frail").iter().all(|(_, attempt)| *attempt == 1), "{:?}", world.lab.calls("frail"));
    let status = app.status("frail");
    assert_eq!((status.dead_lettered, status.recovering), (1, 0));
    let metrics = app.running().monitor().metrics();
    let counted = metrics.lines().any(|line| {
        line.starts_with("streams_dead_lettered_total") && line.contains("cause=\"crash\"") && line.ends_with(" 1")
    });
    assert!(counted, "{metrics}");
}

#[tokio::test]
async fn the_number_of_crashes_is_an_option() {
    for max in [1, 2, 5] {
        let world = World::new("doses");
        world.publish([1, 2].map(dose)).await;
        world.lab.always("frail", 1, Act::Hang);
        let config = with(ConsumerOptions::DEFAULT.with_max_crashes(max));
        for _ in 0..=max {
            dies_at(&world, "frail", world.process(consumers![frail]).config(config.clone()).start().await, 1).await;
        }
        let app = world.process(consumers![frail]).config(config).start().await;
        app.settled().await;
        assert_eq!(dead_events(&app, "frail").await, [(1, "crash".to_owned())]);
        assert_eq!((calls(&world, "frail", 1), calls(&world, "frail", 2)), (max as usize + 1, 1));
    }
}

#[tokio::test]
async fn of_two_events_that_end_their_process_the_second_is_known_at_once() {
    let world = World::new("doses");
    world.publish((1..=5).map(dose)).await;
    world.lab.always("frail", 2, Act::Hang);
    world.lab.always("frail", 3, Act::Hang);
    for n in [2, 2, 2, 2, 3, 3, 3] {
        dies_at(&world, "frail", world.process(consumers![frail]).start().await, n).await;
    }
    let app = world.process(consumers![frail]).start().await;
    app.settled().await;
    assert_eq!(dead_events(&app, "frail").await, [(2, "crash".to_owned()), (3, "crash".to_owned())]);
    assert_eq!(world.lab.ended("frail").iter().filter(|n| **n > 3).count(), 2);
}

#[tokio::test]
async fn what_may_have_been_in_hand_runs_one_at_a_time_and_then_all_at_full_speed() {
    let world = World::new("doses");
    let commits = |world: &World| world.wire.calls(Op::Commit);
    world.publish((1..=20).map(dose)).await;
    world.lab.always("frail", 11, Act::Hang);
    let each_ten = || with(ConsumerOptions::DEFAULT.with_checkpoint_events(10));
    dies_at(&world, "frail", world.process(consumers![frail]).config(each_ten()).start().await, 11).await;
    world.publish((21..=520).map(dose)).await;
    world.lab.script("frail", 11, []);

    let log = logged_from(tracing::Level::INFO);
    let (before, handled) = (commits(&world), world.lab.events("frail").len());
    let app = world.process(consumers![frail]).start().await;
    app.settled().await;
    let handled = world.lab.events("frail").len() - handled;
    let commits = commits(&world) - before;
    assert!((510..=520).contains(&handled), "{handled}");
    // By the bound of the owner that is gone: 10. The rest is a commit or two.
    assert!((11..=16).contains(&commits), "{commits}");
    assert_eq!(app.status("frail").recovering, 0);
    // News of several partitions is gathered.
    app.advance(secs(1)).await;
    let text = log.text();
    let warned = text.lines().find(|line| line.contains("was gone without giving its lease back")).expect("a warning");
    for part in ["WARN", "group=\"frail\"", "events=10", "owner=\"", "charged before it runs"] {
        assert!(warned.contains(part), "{part}: {warned}");
    }
    assert_eq!(log.count("going on at full speed"), 1, "{text}");
}

#[tokio::test]
async fn what_was_added_after_the_owner_was_gone_is_not_proven() {
    let world = World::new("doses");
    world.publish((1..=3).map(dose)).await;
    world.lab.always("frail", 2, Act::Hang);
    dies_at(&world, "frail", world.process(consumers![frail]).start().await, 2).await;
    world.lab.script("frail", 2, []);
    let app = world.process(consumers![frail]).start().await;
    app.settled().await;
    app.advance(millis(200)).await;
    assert_eq!(app.status("frail").recovering, 0, "of a thousand that may have been in flight only three were there");
    let before = world.wire.calls(Op::Commit);
    for receipt in app.publisher().publish_all((4..=503).map(dose)).await {
        receipt.unwrap();
    }
    app.settled().await;
    let commits = world.wire.calls(Op::Commit) - before;
    assert!(commits <= 4, "{commits}");
}

#[tokio::test]
async fn an_owner_that_gave_its_lease_back_leaves_nothing_to_prove_and_one_that_had_not_finished_the_rest() {
    let world = World::new("doses");
    world.publish((1..=9).map(dose)).await;
    world.lab.always("frail", 4, Act::Hang);
    let each = || with(ConsumerOptions::DEFAULT.with_checkpoint_events(5));
    dies_at(&world, "frail", world.process(consumers![frail]).config(each()).start().await, 4).await;
    world.lab.script("frail", 4, []);
    world.lab.script("frail", 5, [Act::Sleep(secs(5))]);

    let app = world.process(consumers![frail]).config(each()).start().await;
    let before = calls(&world, "frail", 5);
    while calls(&world, "frail", 5) == before {
        app.advance(millis(1)).await;
    }
    let left = app.status("frail").recovering;
    assert!((1..5).contains(&left), "{left}");
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);

    let log = logged_from(tracing::Level::INFO);
    let app = world.process(consumers![frail]).config(each()).start().await;
    world.lab.called("frail", world.lab.events("frail").len() + 1).await;
    assert_eq!(log.count("resuming a recovery begun by an earlier owner"), 1, "{}", log.text());
    assert_eq!((log.count("WARN"), log.count(&format!("events={}", left - 1))), (0, 1), "{}", log.text());
    app.settled().await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);

    let log = logged_from(tracing::Level::INFO);
    let app = world.process(consumers![frail]).config(each()).start().await;
    app.settled().await;
    assert_eq!(log.count("recovery"), 0, "{}", log.text());
    assert!(app.dead::<Dose>("frail").await.is_empty());
}

#[tokio::test]
async fn a_handler_that_was_dropped_at_a_stop_is_no_crash() {
    let world = World::new("doses");
    world.publish([1, 2].map(dose)).await;
    world.lab.always("frail", 1, Act::Hang);
    let config = || {
        let options = ConsumerOptions::DEFAULT.with_max_crashes(1).with_timeout(secs(3600));
        with(options).shutdown_deadline(millis(100))
    };
    dies_at(&world, "frail", world.process(consumers![frail]).config(config()).start().await, 1).await;
    for _ in 0..3 {
        let app = world.process(consumers![frail]).config(config()).start().await;
        world.lab.called("frail", world.lab.events("frail").len() + 1).await;
        assert_eq!(app.into_running().shutdown().await, Stopped::Aborted { handlers: 1 });
    }
    world.lab.script("frail", 1, []);
    let app = world.process(consumers![frail]).config(config()).start().await;
    app.settled().await;
    assert!(app.dead::<Dose>("frail").await.is_empty());
}

#[tokio::test]
async fn a_process_that_finds_its_own_lapsed_lease_again_has_not_crashed_and_one_that_loses_it_to_another_may_have() {
    for taken in [false, true] {
        let world = World::new("doses");
        world.publish([1, 2].map(dose)).await;
        world.lab.always("frail", 1, Act::Hang);
        let config = || with(ConsumerOptions::DEFAULT.with_max_crashes(1).with_timeout(secs(3600)));
        dies_at(&world, "frail", world.process(consumers![frail]).config(config()).start().await, 1).await;
        let app = world.process(consumers![frail]).config(config()).start().await;
        world.lab.called("frail", 2).await;
        world.wire.cut_off();
        app.advance(secs(30)).await;
        assert_eq!(world.lab.cancelled("frail").len(), 2, "the lease is lost");
        world.lab.script("frail", 1, []);
        if taken {
            // Another process was faster, and then gone, too.
            world.group("frail").steal("thief").await;
        }
        world.wire.heal();
        app.settled().await;
        assert_eq!(app.dead::<Dose>("frail").await.len(), usize::from(taken));
    }
}

#[tokio::test]
async fn failed_attempts_and_crashes_count_apart() {
    let world = World::new("doses");
    world.publish([1, 2].map(dose)).await;
    let config = || with(ConsumerOptions::DEFAULT.with_max_attempts(3).with_max_crashes(2));
    world.lab.script("frail", 1, [Act::Fail, Act::Hang]);
    let app = world.process(consumers![frail]).config(config()).start().await;
    world.lab.called("frail", 2).await;
    app.advance(millis(1)).await;
    app.kill().await;
    // One that fails takes its charge off, however often it is charged.
    world.lab.script("frail", 1, [Act::Fail, Act::Fail]);
    world.lab.script("frail", 2, [Act::Fail, Act::Panic]);
    let app = world.process(consumers![frail]).config(config()).start().await;
    world.lab.called("frail", 3).await;
    app.advance(millis(1)).await;
    app.kill().await;
    // It was waiting for another attempt: nobody was charged.
    world.lab.script("frail", 1, [Act::Fail, Act::Fail, Act::Hang]);
    for _ in 0..2 {
        let app = world.process(consumers![frail]).config(config()).start().await;
        world.lab.called("frail", world.lab.events("frail").len() + 1).await;
        app.advance(millis(1)).await;
        app.kill().await;
    }
    let app = world.process(consumers![frail]).config(config()).start().await;
    app.settled().await;
    assert_eq!(world.lab.calls("frail"), [(1, 1), (1, 2), (1, 2), (1, 3), (1, 3), (2, 1), (2, 2), (2, 3)]);
    let letters = app.dead::<Dose>("frail").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.cause(), letter.attempts()), ("crash", 4), "two that failed, two that crashed");
}

#[tokio::test]
async fn an_event_that_ends_its_process_only_sometimes_is_done_in_the_end() {
    let world = World::new("doses");
    world.publish((1..=3).map(dose)).await;
    world.lab.always("frail", 2, Act::Hang);
    for _ in 0..3 {
        dies_at(&world, "frail", world.process(consumers![frail]).start().await, 2).await;
    }
    world.lab.script("frail", 2, []);
    let app = world.process(consumers![frail]).start().await;
    app.settled().await;
    assert!(app.dead::<Dose>("frail").await.is_empty());
    assert_eq!(world.lab.ended("frail").last(), Some(&3));
    // The crashes counted for the event are forgotten with it.
    let holding = world.group("frail").steal("thief").await;
    assert_eq!((holding.crashes, holding.recovery), (vec![], None));
}

#[tokio::test]
async fn consumers_of_batches_get_their_events_alone_until_all_is_proven() {
    let world = World::new("doses");
    world.publish((1..=7).map(dose)).await;
    world.lab.always("batches", 105, Act::Hang);
    let app = world.process(consumers![batches]).start().await;
    world.lab.called("batches", 1).await;
    app.kill().await;
    world.lab.script("batches", 601, [Act::Sleep(secs(1))]);
    let app = world.process(consumers![batches]).start().await;
    world.lab.called("batches", 7).await;
    for receipt in app.publisher().publish_all((8..=12).map(dose)).await {
        receipt.unwrap();
    }
    app.settled().await;
    assert_eq!(world.lab.events("batches"), [105, 101, 201, 301, 401, 501, 601, 701, 805]);
}

#[tokio::test]
async fn what_cannot_be_decoded_or_is_passed_over_ends_no_process() {
    let world = World::new("doses");
    world.publish([1].map(dose)).await;
    let entry =
        |event: &str| vec![(b"event".to_vec(), event.as_bytes().to_vec()), (b"payload".to_vec(), b"?".to_vec())];
    let nameless = vec![(b"payload".to_vec(), b"?".to_vec())];
    let entries = vec![entry("Other"), entry("Dose"), nameless, entry("Other")];
    world.store.append(&world.partition(), entries, None).await.unwrap();
    world.publish([2].map(dose)).await;
    world.lab.always("frail", 2, Act::Hang);
    for _ in 0..4 {
        dies_at(&world, "frail", world.process(consumers![frail]).start().await, 2).await;
    }
    let app = world.process(consumers![frail]).start().await;
    app.settled().await;
    let letters = app.dead::<Dose>("frail").await;
    let causes: Vec<_> = letters.iter().map(DeadLetter::cause).collect();
    assert_eq!(causes, ["decode", "decode", "crash"]);
    assert_eq!(letters[2].decode().unwrap().n, 2);
}

#[tokio::test]
async fn groups_of_the_same_process_are_not_given_up_for_each_other() {
    // Its event is in flight at each end of the process, if nobody makes it wait.
    for (max, slow) in [(3, 10), (1, 10), (2, 0), (3, 40)] {
        let world = World::new("doses");
        world.publish([1, 2].map(dose)).await;
        world.lab.always("frail", 1, Act::Hang);
        world.lab.always("beside", 1, Act::Sleep(secs(slow)));
        world.lab.always("beside", 2, Act::Sleep(secs(slow)));
        let config = || with(ConsumerOptions::DEFAULT.with_max_crashes(max).with_timeout(secs(60)));
        for _ in 0..=max {
            let app = world.process(consumers![frail, beside]).config(config()).start().await;
            let before = calls(&world, "frail", 1);
            while calls(&world, "frail", 1) == before {
                app.advance(millis(1)).await;
            }
            // Time for the events beside it to begin, too.
            app.advance(millis(5)).await;
            app.kill().await;
        }
        let app = world.process(consumers![frail, beside]).config(config()).start().await;
        app.settled().await;
        assert_eq!(dead_events(&app, "frail").await, [(1, "crash".to_owned())], "{max} {slow}");
        assert_eq!(dead_events(&app, "beside").await, [], "{max} {slow}");
        assert!(world.lab.ended("beside").contains(&1) && world.lab.ended("beside").contains(&2));
    }
}

// Where a group has lanes.

#[tokio::test]
async fn where_a_group_has_lanes_events_are_proven_side_by_side() {
    let world = World::new("doses");
    world.publish(apart(1..=40)).await;
    for n in 1..=40 {
        world.lab.always("lanes", n, Act::Sleep(secs(1)));
    }
    let app = world.process(consumers![lanes]).start().await;
    world.lab.called("lanes", 4).await;
    app.kill().await;
    world.wire.always(Op::Commit, Fault::Delay(millis(5)));
    let (calls, commits) = (world.lab.events("lanes").len(), world.wire.calls(Op::Commit));
    let app = world.process(consumers![lanes]).start().await;
    world.lab.called("lanes", calls + 4).await;
    let began = tokio::time::Instant::now();
    assert_eq!(world.wire.calls(Op::Commit) - commits, 1, "four are charged by one commit");
    app.settled().await;
    // A commit charges the next four, and the one before it may be on its way.
    let took = began.elapsed();
    assert!(took >= secs(10) && took <= secs(10) + millis(10 * 15), "{took:?}");
    assert_eq!(world.lab.events("lanes").len(), calls + 40);
    assert!(dead_tablets(&app).await.is_empty());
    assert_eq!(app.running().status().groups[0].recovering, 0);
}

#[tokio::test]
async fn what_runs_side_by_side_is_charged_as_long_as_it_runs() {
    let world = World::new("doses");
    world.publish(apart(1..=9)).await;
    for n in 1..=4 {
        world.lab.always("lanes", n, Act::Sleep(secs(n)));
    }
    for n in 5..=9 {
        world.lab.always("lanes", n, Act::Hang);
    }
    let app = world.process(consumers![lanes]).start().await;
    world.lab.called("lanes", 4).await;
    app.kill().await;
    let app = world.process(consumers![lanes]).start().await;
    world.lab.called("lanes", 4 + 4 + 3).await;
    app.advance(millis(500)).await;
    let mut crashes = world.group_on("pills", "lanes").steal("thief").await.crashes;
    crashes.sort_unstable();
    let entries = world.store.read(of_lanes().partition(), EntryId::ZERO, 9).await.unwrap();
    let expected: Vec<_> = [4, 5, 6, 7].map(|n| (entries[n - 1].id, 1)).into();
    assert_eq!(crashes, expected, "not the first three, which have come back, nor the last two, which have not begun");
}

#[tokio::test]
async fn an_event_that_ends_its_process_among_lanes_is_given_up_and_its_neighbours_are_not() {
    let world = World::new("doses");
    world.publish(apart(1..=12)).await;
    for n in (1..=12).filter(|n| *n != 6) {
        world.lab.always("lanes", n, Act::Sleep(millis(20)));
    }
    world.lab.always("lanes", 6, Act::Hang);
    for _ in 0..4 {
        dies_at(&world, "lanes", world.process(consumers![lanes]).start().await, 6).await;
    }
    let app = world.process(consumers![lanes]).start().await;
    app.settled().await;
    assert_eq!(dead_tablets(&app).await, [(6, "crash".to_owned(), 3)]);
    assert_eq!(calls(&world, "lanes", 6), 4, "once by chance, three times charged");
    for n in (1..=12).filter(|n| *n != 6) {
        assert!(world.lab.ended("lanes").contains(&n), "{n}");
    }
    assert!(world.lab.calls("lanes").iter().all(|(_, attempt)| *attempt == 1), "{:?}", world.lab.calls("lanes"));
    // The crashes counted for the others are forgotten with them.
    let holding = world.group_on("pills", "lanes").steal("thief").await;
    assert_eq!((holding.crashes, holding.recovery), (vec![], None));
}

#[tokio::test]
async fn a_suspect_among_lanes_runs_alone_and_waits_for_no_other_attempt() {
    let world = World::new("doses");
    world
        .publish(
            [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("b", 5), ("e", 6)]
                .map(|(patient, n)| Tablet { patient: patient.to_owned(), n }),
        )
        .await;
    let slow = || with(ConsumerOptions::DEFAULT.with_backoff(secs(300), secs(300)));
    world.lab.script("lanes", 1, [Act::Fail]);
    world.lab.always("lanes", 2, Act::Hang);
    world.lab.always("lanes", 3, Act::Sleep(secs(1)));
    for _ in 0..2 {
        let app = world.process(consumers![lanes]).config(slow()).start().await;
        dies_at(&world, "lanes", app, 2).await;
    }
    // Two was charged beside three; both run alone now, and the first still waits for its next attempt.
    world.lab.always("lanes", 2, Act::Sleep(secs(2)));
    let (calls, app) = (world.lab.events("lanes").len(), world.process(consumers![lanes]).config(slow()).start().await);
    let events = |world: &World| world.lab.events("lanes")[calls..].to_vec();
    while !events(&world).contains(&2) {
        app.advance(millis(1)).await;
    }
    app.advance(millis(1_900)).await;
    assert!(!events(&world).contains(&3) && !world.lab.ended("lanes").contains(&2), "nothing begins beside it");
    app.advance(millis(200)).await;
    assert_eq!(events(&world).iter().filter(|n| [2, 3].contains(n)).collect::<Vec<_>>(), [&2, &3]);
    assert!(!events(&world).contains(&5), "nor beside the other");
    app.advance(secs(2)).await;
    for n in 2..=6 {
        assert!(world.lab.ended("lanes").contains(&n), "{n} is held up");
    }
    app.settled().await;
    assert!(dead_tablets(&app).await.is_empty());
}

#[tokio::test]
async fn a_suspect_among_lanes_waits_also_for_what_is_not_charged_and_nothing_begins_before_it() {
    let world = World::new("doses");
    world.publish(apart(1..=2)).await;
    // So that the recovery is not over when others come.
    world.lab.always("lanes", 1, Act::Fail);
    world.lab.always("lanes", 2, Act::Hang);
    for _ in 0..2 {
        dies_at(&world, "lanes", world.process(consumers![lanes]).start().await, 2).await;
    }
    world.lab.always("lanes", 1, Act::Sleep(secs(1)));
    world.lab.script("lanes", 2, [Act::Give(Outcome::RetryAfter(secs(2)))]);
    world.lab.always("lanes", 4, Act::Sleep(secs(10)));
    let calls = world.lab.events("lanes").len();
    let events = || world.lab.events("lanes")[calls..].to_vec();
    let app = world.process(consumers![lanes]).start().await;
    let publish = async |n| {
        app.publish(&Tablet { patient: format!("later-{n}"), n }).await.unwrap();
        app.advance(secs(3)).await;
    };
    world.lab.called("lanes", calls + 2).await;
    publish(4).await;
    assert_eq!(events(), [1, 2, 4]);
    publish(5).await;
    assert_eq!(events(), [1, 2, 4], "its next attempt waits, and others wait for that");
    app.advance(secs(5)).await;
    assert_eq!(events(), [1, 2, 4, 2, 5]);
    app.settled().await;
    assert!(dead_tablets(&app).await.is_empty());
}

#[tokio::test]
async fn a_key_that_fails_while_events_are_proven_delays_no_other_and_what_came_later_is_not_charged() {
    let world = World::new("doses");
    world.publish(apart(1..=20)).await;
    world.lab.always("lanes", 1, Act::Fail);
    world.lab.always("lanes", 2, Act::Hang);
    let slow = || with(ConsumerOptions::DEFAULT.with_backoff(secs(100), secs(100)));
    dies_at(&world, "lanes", world.process(consumers![lanes]).config(slow()).start().await, 2).await;
    world.lab.script("lanes", 2, []);
    let app = world.process(consumers![lanes]).config(slow()).start().await;
    world.lab.called("lanes", world.lab.events("lanes").len() + 20).await;
    let began = tokio::time::Instant::now();
    let before = world.wire.calls(Op::Commit);
    let tablets = (100..600).map(|n| Tablet { patient: format!("later-{n}"), n });
    for receipt in app.publisher().publish_all(tablets).await {
        receipt.unwrap();
    }
    while !world.lab.ended("lanes").contains(&599) {
        app.advance(millis(1)).await;
    }
    assert!(began.elapsed() < millis(50), "{:?}", began.elapsed());
    let commits = world.wire.calls(Op::Commit) - before;
    assert!(commits <= 4, "{commits}");
    assert!(app.running().status().groups[0].recovering > 0, "the first is not settled");
    app.settled().await;
    app.advance(millis(200)).await;
    assert_eq!(app.running().status().groups[0].recovering, 0);
}

#[tokio::test]
async fn what_came_later_and_ends_the_process_while_others_are_proven_is_given_up_too() {
    let world = World::new("doses");
    world.publish(apart(1..=2)).await;
    world.lab.always("lanes", 1, Act::Fail);
    world.lab.always("lanes", 2, Act::Hang);
    let slow = || with(ConsumerOptions::DEFAULT.with_max_attempts(1_000).with_backoff(secs(3_000), secs(3_000)));
    dies_at(&world, "lanes", world.process(consumers![lanes]).config(slow()).start().await, 2).await;
    world.lab.script("lanes", 2, []);
    world.lab.always("lanes", 4, Act::Hang);
    let app = world.process(consumers![lanes]).config(slow()).start().await;
    world.lab.called("lanes", 4).await;
    // The dead owner did not have it in flight, so it is charged only when it has ended this one.
    let tablets = (3..=5).map(|n| Tablet { patient: format!("patient-{n}"), n });
    for receipt in app.publisher().publish_all(tablets).await {
        receipt.unwrap();
    }
    while calls(&world, "lanes", 4) == 0 {
        app.advance(millis(1)).await;
    }
    app.kill().await;
    for _ in 0..3 {
        dies_at(&world, "lanes", world.process(consumers![lanes]).config(slow()).start().await, 4).await;
    }
    let app = world.process(consumers![lanes]).config(slow()).start().await;
    app.advance(secs(20)).await;
    assert!(world.lab.ended("lanes").contains(&5));
    world.lab.script("lanes", 1, [Act::Fail]);
    app.settled().await;
    assert_eq!(dead_tablets(&app).await, [(4, "crash".to_owned(), 3)]);
}

#[tokio::test]
async fn a_stop_begins_nothing_that_is_still_to_be_charged() {
    let world = World::new("doses");
    world.publish(apart(1..=6)).await;
    world.lab.always("lanes", 1, Act::Hang);
    let config = || with(ConsumerOptions::DEFAULT.with_max_crashes(1));
    dies_at(&world, "lanes", world.process(consumers![lanes]).config(config()).start().await, 1).await;
    world.lab.script("lanes", 1, []);
    let calls = world.lab.events("lanes").len();
    let gate = Gate::default();
    world.wire.once(Op::Commit, Fault::Hold(gate.clone()));
    let app = world.process(consumers![lanes]).config(config()).start().await;
    gate.arrived(1).await;
    let stopping = tokio::spawn(app.into_running().shutdown());
    tokio::time::sleep(millis(10)).await;
    gate.open();
    assert_eq!(stopping.await.unwrap(), Stopped::Clean);
    assert_eq!(world.lab.events("lanes").len(), calls);
    let app = world.process(consumers![lanes]).config(config()).start().await;
    app.settled().await;
    assert!(dead_tablets(&app).await.is_empty());
}

#[tokio::test]
async fn a_replay_runs_while_events_are_proven_and_nothing_is_charged_beside_it() {
    let world = World::new("doses");
    world.publish(apart(1..=2)).await;
    world.lab.always("lanes", 1, Act::Permanent);
    let app = world.process(consumers![lanes]).start().await;
    app.settled().await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    world.publish(apart(3..=9)).await;
    let app = world.process(consumers![lanes]).start().await;
    world.lab.always("lanes", 3, Act::Fail);
    for n in 4..=9 {
        world.lab.always("lanes", n, Act::Sleep(secs(60)));
    }
    world.lab.called("lanes", 2 + 2).await;
    app.kill().await;
    let slow = with(ConsumerOptions::DEFAULT.with_timeout(secs(600)).with_backoff(secs(400), secs(400)));
    let app = world.process(consumers![lanes]).config(slow).start().await;
    world.lab.called("lanes", world.lab.events("lanes").len() + 4).await;
    // The replay waits for those that run; then it hangs, and whoever takes over counts nothing against an event.
    world.lab.always("lanes", 1, Act::Hang);
    let letters = app.running().dead_letters::<Tablet>("lanes");
    letters.replay_all(&DeadLetterFilter::all()).await.unwrap();
    while calls(&world, "lanes", 1) == 1 {
        app.advance(secs(1)).await;
    }
    assert_eq!(world.group_on("pills", "lanes").steal("thief").await.crashes, []);
}

#[tokio::test]
async fn a_letter_that_has_ended_processes_is_handled_again_beside_no_other_suspect() {
    for of_a_queue in [false, true] {
        let world = World::new("doses");
        let group = if of_a_queue { "ward" } else { "frail" };
        let start = async || {
            let config = with(ConsumerOptions::DEFAULT.with_timeout(secs(600)).with_max_crashes(2));
            world.process(consumers![frail, beside, ward]).config(config).start().await
        };
        // The letter.
        world.lab.always(group, 1, Act::Hang);
        let app = start().await;
        match of_a_queue {
            true => _ = app.publisher().publish(&Jab { n: 1 }).await.unwrap(),
            false => drop(world.publish([1].map(dose)).await),
        }
        dies_at(&world, group, app, 1).await;
        for _ in 0..2 {
            dies_at(&world, group, start().await, 1).await;
        }
        let app = start().await;
        app.settled().await;
        // The suspect of another group.
        world.lab.always("beside", 2, Act::Hang);
        world.publish([2].map(dose)).await;
        dies_at(&world, "beside", app, 2).await;
        world.lab.always("beside", 2, Act::Sleep(secs(60)));
        let app = start().await;
        world.lab.called("beside", world.lab.events("beside").len() + 1).await;
        world.lab.always(group, 1, Act::Sleep(secs(5)));
        let before = calls(&world, group, 1);
        let replayed = match of_a_queue {
            true => app.running().dead_letters::<Jab>(group).replay_all(&DeadLetterFilter::all()).await,
            false => app.running().dead_letters::<Dose>(group).replay_all(&DeadLetterFilter::all()).await,
        };
        assert_eq!(replayed.unwrap().moved, 1);
        app.advance(secs(50)).await;
        assert!(!world.lab.ended("beside").contains(&2), "it still runs");
        assert_eq!(calls(&world, group, 1), before, "and the letter waits");
        app.advance(secs(30)).await;
        assert!(world.lab.ended("beside").contains(&2) && world.lab.ended(group).contains(&1));
        assert_eq!(calls(&world, group, 1), before + 1);
    }
}

/// A small generator of numbers, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// An end that hits an event by chance counts as its crash. Such are a kill, and the first end by each poison that was not
/// charged or ran beside charged ones. With two kills, and as much poison as here, that is at most six.
const HARDY: ConsumerOptions = ConsumerOptions::DEFAULT.with_max_crashes(7);

/// Lives of processes, until everything is settled; answers the last one. Each is killed as soon as poison is called, and some
/// are stopped or killed before, at any moment.
async fn live(
    seed: u64,
    numbers: &mut Numbers,
    called: impl Fn() -> usize,
    start: impl AsyncFn(&mut Numbers) -> Process,
) -> Process {
    let mut kills = 2;
    for _ in 0..100 {
        let app = start(numbers).await;
        let (before, mut left) = (called(), 10_000 + numbers.below(400));
        let (stops, killed) = (numbers.below(4) == 0, kills > 0 && numbers.below(3) == 0);
        loop {
            if called() > before {
                app.kill().await;
                break;
            }
            if let Ok(settled) = tokio::time::timeout(millis(1), TestApp::settled(&app)).await {
                settled.unwrap();
                return app;
            }
            left -= 1;
            if left < 10_000 && stops {
                // It may come upon poison while it stops, and is then dropped at the deadline.
                let _ = app.into_running().shutdown().await;
                break;
            }
            if left < 10_000 && killed {
                kills -= 1;
                app.kill().await;
                break;
            }
            assert!(left > 0, "seed {seed}: {:?}", app.running().status());
        }
    }
    panic!("seed {seed}: not settled after a hundred lives");
}

/// Two groups with poison of their own: it is given up and nothing else, and everything else is handled.
async fn history(seed: u64) {
    const EVENTS: u64 = 30;
    let world = World::new("doses");
    let mut numbers = Numbers(seed);
    world.publish((1..=EVENTS).map(dose)).await;
    let mut poison: Vec<(&str, u64)> = Vec::new();
    for (group, most) in [("frail", 3), ("beside", 2)] {
        for _ in 0..=numbers.below(most) {
            poison.push((group, 1 + numbers.below(EVENTS)));
        }
        for n in 1..=EVENTS {
            world.lab.script(group, n, [Act::Sleep(millis(numbers.below(12)))]);
        }
    }
    poison.sort_unstable();
    poison.dedup();
    for (group, n) in &poison {
        world.lab.always(group, *n, Act::Hang);
    }
    let called = || poison.iter().map(|(group, n)| calls(&world, group, *n)).sum::<usize>();
    let app = live(seed, &mut numbers, called, async |numbers| {
        let options = HARDY.with_checkpoint_events(numbers.pick(&[1, 2, 7, 1_000]));
        world.process(consumers![frail, beside]).config(with(options).shutdown_deadline(millis(50))).start().await
    });
    let app = app.await;
    let mut given_up = Vec::new();
    for group in ["beside", "frail"] {
        for letter in app.dead::<Dose>(group).await {
            assert_eq!(letter.cause(), "crash", "seed {seed}");
            given_up.push((group, letter.decode().unwrap().n));
        }
        for n in (1..=EVENTS).filter(|n| !poison.contains(&(group, *n))) {
            assert!(world.lab.ended(group).contains(&n), "seed {seed}: {group} has not handled {n}");
            assert!(!world.lab.calls(group).contains(&(n, 2)), "seed {seed}: {group} lost an attempt at {n}");
        }
    }
    assert_eq!(given_up, poison, "seed {seed}");
}

#[tokio::test]
async fn whatever_happens_to_processes_poison_is_given_up_and_nothing_else() {
    for seed in 0..20 {
        history(seed).await;
    }
}

/// The same with lanes, and the order of each key is kept.
async fn history_of_lanes(seed: u64) {
    const EVENTS: u64 = 40;
    const PATIENTS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let world = World::new("doses");
    let mut numbers = Numbers(seed);
    let mut poison: Vec<u64> = (0..=numbers.below(3)).map(|_| 1 + numbers.below(EVENTS)).collect();
    poison.sort_unstable();
    poison.dedup();
    let patients: Vec<_> = (1..=EVENTS).map(|n| (numbers.pick(&PATIENTS), n)).collect();
    world.publish(patients.iter().copied().map(|(patient, n)| Tablet { patient: patient.to_owned(), n })).await;
    for n in 1..=EVENTS {
        let sleep = Act::Sleep(millis(numbers.below(40)));
        let fails = numbers.below(8) == 0;
        world.lab.script("lanes", n, if fails { vec![Act::Fail, sleep] } else { vec![sleep] });
    }
    for n in &poison {
        world.lab.always("lanes", *n, Act::Hang);
    }
    let called = || poison.iter().map(|n| calls(&world, "lanes", *n)).sum::<usize>();
    let app = live(seed, &mut numbers, called, async |numbers| {
        let options = HARDY.with_checkpoint_events(numbers.pick(&[1, 2, 7, 1_000]));
        let options = options.with_concurrency(numbers.pick(&[1, 2, 4, 16]));
        world.process(consumers![lanes]).config(with(options).shutdown_deadline(millis(50))).start().await
    });
    let app = app.await;
    let given_up: Vec<_> = dead_tablets(&app).await.into_iter().map(|(n, cause, _)| (n, cause)).collect();
    let expected: Vec<_> = poison.iter().map(|n| (*n, "crash".to_owned())).collect();
    assert_eq!(given_up, expected, "seed {seed}");
    for patient in PATIENTS {
        let of = |n: &u64| patients.iter().any(|(of, other)| *of == patient && other == n);
        let mut firsts: Vec<u64> = Vec::new();
        for n in world.lab.events("lanes").into_iter().filter(of) {
            // A repeat begins with what was not committed; what is new is never before something older.
            if firsts.last().is_none_or(|last| *last < n) {
                firsts.push(n);
            }
        }
        let all: Vec<_> = patients.iter().filter(|(of, _)| *of == patient).map(|(_, n)| *n).collect();
        assert_eq!(firsts, all, "seed {seed}: patient {patient}");
    }
    for n in (1..=EVENTS).filter(|n| !poison.contains(n)) {
        assert!(world.lab.ended("lanes").contains(&n), "seed {seed}: {n} is not handled");
    }
    let holding = world.group_on("pills", "lanes").steal("thief").await;
    assert_eq!((holding.crashes, holding.attempts), (vec![], vec![]), "seed {seed}");
}

#[tokio::test]
async fn whatever_happens_to_processes_with_lanes_poison_is_given_up_and_nothing_else() {
    for seed in 0..12 {
        history_of_lanes(seed).await;
    }
}

/// The same in a work queue of several partitions.
async fn history_of_a_queue(seed: u64) {
    const EVENTS: u64 = 40;
    let world = World::new("doses");
    let mut numbers = Numbers(seed);
    let mut poison: Vec<u64> = (0..=numbers.below(2)).map(|_| 1 + numbers.below(EVENTS)).collect();
    poison.sort_unstable();
    poison.dedup();
    let publisher = Publisher::new(Arc::new(world.store.clone()));
    for receipt in publisher.publish_all((1..=EVENTS).map(|n| Jab { n })).await {
        receipt.unwrap();
    }
    let failing: Vec<_> = (1..=EVENTS).filter(|_| numbers.below(8) == 0).collect();
    for n in 1..=EVENTS {
        let sleep = Act::Sleep(millis(numbers.below(40)));
        world.lab.script("ward", n, if failing.contains(&n) { vec![Act::Fail, sleep] } else { vec![sleep] });
    }
    for n in &poison {
        world.lab.always("ward", *n, Act::Hang);
    }
    let called = || poison.iter().map(|n| calls(&world, "ward", *n)).sum::<usize>();
    let app = live(seed, &mut numbers, called, async |numbers| {
        let options = HARDY.with_delivery(Delivery::Queue).with_concurrency(numbers.pick(&[1, 2, 4, 16]));
        world.process(consumers![ward]).config(with(options).shutdown_deadline(millis(50))).start().await
    });
    let app = app.await;
    let mut given_up = Vec::new();
    for letter in app.dead_letters::<Jab>("ward").await.unwrap() {
        assert_eq!(letter.cause(), "crash", "seed {seed}: {}", letter.reason());
        given_up.push(letter.decode().unwrap().n);
    }
    given_up.sort_unstable();
    assert_eq!(given_up, poison, "seed {seed}");
    for n in (1..=EVENTS).filter(|n| !poison.contains(n)) {
        assert!(world.lab.ended("ward").contains(&n), "seed {seed}: {n} is not handled");
        let last = if failing.contains(&n) { 2 } else { 1 };
        let attempts = world.lab.calls("ward").into_iter().filter(|(event, _)| *event == n).map(|(_, attempt)| attempt);
        assert_eq!(attempts.max(), Some(last), "seed {seed}: the attempts at {n}");
    }
}

#[tokio::test]
async fn whatever_happens_to_processes_of_a_queue_poison_is_given_up_and_nothing_else() {
    for seed in 0..20 {
        history_of_a_queue(seed).await;
    }
}

// Processes that really end.

/// A database and the service on it, which is started again whenever it ended.
struct Site {
    url: String,
    groups: &'static str,
    dir: tempfile::TempDir,
    /// Which event ends the service while it is decoded.
    decoding: Option<u64>,
}

impl Site {
    fn new() -> Self {
        Self::of("frail,lanes")
    }

    fn of(groups: &'static str) -> Self {
        Self { url: RedisServer::shared().database(), groups, dir: tempfile::tempdir().unwrap(), decoding: None }
    }

    async fn publish<E: StreamEvent>(&self, doses: impl IntoIterator<Item = E>) {
        let publisher = Publisher::connect(&self.url).await.unwrap();
        for receipt in publisher.publish_all(doses).await {
            receipt.unwrap();
        }
    }

    fn start(&self) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c 0; ulimit -v 4000000; exec \"$0\"", env!("CARGO_BIN_EXE_poison")]);
        command.env("REDIS_URL", &self.url).env(JOURNAL, self.journal()).env("STREAMS_LEASE", "400ms");
        command.env("STREAMS_GROUPS", self.groups);
        if let Some(n) = self.decoding {
            command.env(DECODING, n.to_string());
        }
        Program::start(&mut command)
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// Over which events the service has ended.
    fn ends(&self) -> Vec<u64> {
        let journal = std::fs::read_to_string(self.journal()).unwrap_or_default();
        journal.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Starts the service again and again until it has handled this event; answers its output.
    fn until_handled(&self, last: u64) -> String {
        let last = format!("end {last}");
        self.until(|output| output.lines().any(|line| line == last))
    }

    /// The same until its queues of the stream are empty.
    fn until_empty(&self, stream: &str, partitions: u32) -> String {
        let mut client = RedisServer::client(&self.url);
        let stream = StreamKey::new(None, stream, partitions);
        let mut is_empty = |partition: u32| {
            let info = |of: &str| redis::cmd("XINFO").arg(of).arg(stream.partition(partition).as_str()).clone();
            let Ok(groups) = info("GROUPS").query::<redis::streams::StreamInfoGroupsReply>(&mut client) else {
                return false;
            };
            let last: redis::streams::StreamInfoStreamReply = info("STREAM").query(&mut client).unwrap();
            let mut is_empty = |group: &redis::streams::StreamInfoGroup| {
                let state = stream.partition(partition).group(&group.name);
                let record: HashMap<String, String> =
                    redis::cmd("HGETALL").arg(state.state()).query(&mut client).unwrap();
                let in_flight = record.keys().any(|field| field.starts_with("chunk:"));
                let waits = record.get("waits").is_some_and(|waits| !waits.ends_with(" 0"));
                !in_flight && !waits && record.get("at") == Some(&last.last_generated_id)
            };
            groups.groups.iter().any(&mut is_empty)
        };
        self.until(|_| (0..partitions).all(&mut is_empty))
    }

    fn until(&self, mut is_over: impl FnMut(&str) -> bool) -> String {
        let mut said = String::new();
        for _ in 0..100 {
            let mut service = self.start();
            let began = Instant::now();
            while !service.has_ended() {
                if is_over(&service.output()) {
                    service.signal("TERM");
                    assert_eq!(service.code(), Some(0), "{}", service.errors());
                    return said + &service.output();
                }
                assert!(began.elapsed() < secs(60), "{}\n{}", service.output(), service.errors());
                std::thread::sleep(millis(2));
            }
            service.end();
            said += &service.output();
        }
        panic!("the service ended a hundred times: {:?}", self.ends());
    }

    /// Which events were given up, and why.
    async fn given_up(&self) -> Vec<(u64, String)> {
        self.given_up_by("frail", |dose: Dose| dose.n).await
    }

    async fn given_up_by<E: StreamEvent>(&self, group: &str, n: impl Fn(E) -> u64) -> Vec<(u64, String)> {
        let broker = Redis::open(&self.url).unwrap();
        let letters = DeadLetters::<E>::on(Arc::new(broker), None, group).unwrap();
        let letters = letters.list(None, 99).await.unwrap();
        letters.iter().map(|letter| (n(letter.decode().unwrap()), letter.cause().to_owned())).collect()
    }
}

/// The events up to a number, of which some end the process, so many times.
fn doses(last: u64, poison: &[(u64, End, u32)]) -> impl Iterator<Item = Dose> {
    let poison = poison.to_vec();
    (1..=last).map(move |n| {
        let (by, times) = match poison.iter().find(|(bad, ..)| *bad == n) {
            Some((_, by, times)) => (Some(*by), *times),
            None => (None, 0),
        };
        Dose { n, by, times }
    })
}

/// An event that ends its process, in the middle of others.
async fn given_up_after_its_crashes(by: End) {
    let site = Site::new();
    site.publish(doses(30, &[(10, by, u32::MAX)])).await;
    let (site, said) = tokio::task::spawn_blocking(|| {
        let said = site.until_handled(30);
        (site, said)
    })
    .await
    .unwrap();
    assert_eq!(site.ends(), [10; 4], "one that could be put down to nobody, and `max_crashes`");
    assert_eq!(site.given_up().await, [(10, "crash".to_owned())]);
    for n in (1..=30).filter(|n| *n != 10) {
        assert!(said.lines().any(|line| line == format!("end {n}")), "{n}: {said}");
    }
}

#[tokio::test]
async fn an_event_whose_handler_aborts_is_given_up() {
    given_up_after_its_crashes(End::Abort).await;
}

#[tokio::test]
async fn an_event_whose_handler_overflows_the_stack_is_given_up() {
    given_up_after_its_crashes(End::Overflow).await;
}

#[tokio::test]
async fn an_event_whose_handler_exits_is_given_up() {
    given_up_after_its_crashes(End::Exit).await;
}

#[tokio::test]
async fn an_event_whose_handler_takes_all_memory_is_given_up() {
    given_up_after_its_crashes(End::Exhaust).await;
}

#[tokio::test]
async fn several_events_that_end_the_process_are_given_up_and_one_that_does_so_twice_is_handled() {
    let site = Site::new();
    let always = u32::MAX;
    let poison = [(5, End::Abort, always), (6, End::Exit, always), (20, End::Overflow, 2), (21, End::Abort, always)];
    site.publish(doses(40, &poison)).await;
    let (site, said) = tokio::task::spawn_blocking(|| {
        let said = site.until_handled(40);
        (site, said)
    })
    .await
    .unwrap();
    // The first end could be put down to nobody; the others were charged, because all forty were there when it came.
    assert_eq!(site.ends(), [5, 5, 5, 5, 6, 6, 6, 20, 20, 21, 21, 21]);
    let crash = |n| (n, "crash".to_owned());
    assert_eq!(site.given_up().await, [crash(5), crash(6), crash(21)]);
    for n in (1..=40).filter(|n| ![5, 6, 21].contains(n)) {
        assert!(said.lines().any(|line| line == format!("end {n}")), "{n}: {said}");
    }
}

#[tokio::test]
async fn events_of_a_queue_that_end_the_process_are_given_up_and_those_beside_them_are_not() {
    let site = Site::of("frail-queue");
    let always = u32::MAX;
    let poison = [(5, End::Abort, always), (17, End::Overflow, always), (23, End::Exit, always), (30, End::Exhaust, 1)];
    site.publish(doses(60, &poison)).await;
    let (site, said) = tokio::task::spawn_blocking(|| {
        let said = site.until_empty("doses", 1);
        (site, said)
    })
    .await
    .unwrap();
    let mut given_up = site.given_up_by("frail-queue", |dose: Dose| dose.n).await;
    given_up.sort();
    let crash = |n| (n, "crash".to_owned());
    assert_eq!(given_up, [5, 17, 23].map(crash), "{:?}", site.ends());
    for n in (1..=60).filter(|n| ![5, 17, 23].contains(n)) {
        assert!(said.lines().any(|line| line == format!("end {n}")), "{n}: {said}");
    }
    // The first end of each is put down to nobody. Ends by others count while it was in flight, too; the last one is its own.
    let ends = site.ends();
    for n in [5, 17, 23] {
        let times = ends.iter().filter(|end| **end == n).count();
        assert!((1..=4).contains(&times), "{n}: {ends:?}");
    }
}

#[tokio::test]
async fn what_a_queue_has_in_hand_on_other_partitions_outlives_the_events_that_end_the_process() {
    let site = Site::of("vaccines");
    let bad = [4, 14];
    site.publish((1..=60).map(|n| Vaccine { n, bad: bad.contains(&n) })).await;
    let (site, said) = tokio::task::spawn_blocking(|| {
        let said = site.until_empty("vaccines", 4);
        (site, said)
    })
    .await
    .unwrap();
    let mut given_up = site.given_up_by("vaccines", |vaccine: Vaccine| vaccine.n).await;
    given_up.sort();
    assert_eq!(given_up, bad.map(|n| (n, "crash".to_owned())), "{:?}", site.ends());
    for n in (1..=60).filter(|n| !bad.contains(n)) {
        assert!(said.lines().any(|line| line == format!("end {n}")), "{n}: {said}");
    }
    // Some of its crashes may be those of the other, which was beside it.
    assert!(bad.iter().all(|n| (2..=4).contains(&site.ends().iter().filter(|end| *end == n).count())));
}

#[tokio::test]
async fn events_that_end_the_process_among_lanes_are_given_up_also_while_they_are_decoded() {
    for decoding in [None, Some(10)] {
        let site = Site { decoding, ..Site::new() };
        let bad = |n| [10, 12].contains(&n) && decoding.is_none();
        site.publish((1..=30).map(|n| Pill { patient: format!("patient-{n}"), n, bad: bad(n) })).await;
        let (site, said) = tokio::task::spawn_blocking(|| {
            let said = site.until_handled(30);
            (site, said)
        })
        .await
        .unwrap();
        let poison: &[u64] = if decoding.is_some() { &[10] } else { &[10, 12] };
        let expected: Vec<_> = poison.iter().map(|n| (*n, "crash".to_owned())).collect();
        assert_eq!(site.given_up_by("lanes", |pill: Pill| pill.n).await, expected);
        for n in poison {
            let ends = site.ends().iter().filter(|end| *end == n).count();
            // An end by the other counts against it, where both ran.
            assert!((2..=4).contains(&ends), "{:?}", site.ends());
        }
        for n in (1..=30).filter(|n| !poison.contains(n)) {
            assert!(said.lines().any(|line| line == format!("end {n}")), "{n}: {said}");
        }
    }
}

#[tokio::test]
async fn kills_by_hand_cost_no_event() {
    let site = Site::new();
    site.publish(doses(3_000, &[])).await;
    let site = tokio::task::spawn_blocking(|| {
        for n in [50, 700, 1_400, 2_000] {
            let mut service = site.start();
            service.prints(&format!("begin {n}"));
            service.signal("KILL");
            service.end();
        }
        site.until_handled(3_000);
        site
    });
    assert_eq!(site.await.unwrap().given_up().await, []);
}

// Costs where nothing ends.

#[consumer(group = "well", checkpoint = 500)]
async fn well(_: Dose) {}

#[tokio::test]
async fn a_group_at_full_speed_pays_nothing_for_it() {
    const EVENTS: u64 = 20_000;
    let server = RedisServer::start();
    let publisher = Publisher::connect(&server.url()).await.unwrap();
    for receipt in publisher.publish_all((1..=EVENTS).map(dose)).await {
        receipt.unwrap();
    }
    server.run::<()>("CONFIG RESETSTAT");
    let app = App::with(consumers![well]).broker(Arc::new(Redis::open(&server.url()).unwrap())).start().await.unwrap();
    app.settled().await.unwrap();
    let stats: String = server.run("INFO commandstats");
    let calls = |command: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    // One commit per half of the bound, and a few more: for the rest, for the lease, and for the notes beside the stream.
    let commits = EVENTS / 250;
    assert!((commits / 2..=commits + 20).contains(&calls("hset")), "{stats}");
    // A busy machine makes the server look far, and then entries are read by pages, of 500 at least.
    assert!(calls("evalsha") <= calls("hset") + 20 + EVENTS / 500, "{stats}");
    // The look for replays with which an owner begins.
    assert!(calls("hdel") <= 1, "{stats}");
    let state: Vec<String> = server.run("HKEYS streams:{doses}:well");
    let mut state: Vec<_> = state.iter().map(String::as_str).collect();
    state.sort_unstable();
    assert_eq!(state, ["at", "at_event", "beat", "bound", "epoch", "events", "lease", "mode", "owner", "seen"]);
    assert_eq!(app.shutdown().await, Stopped::Clean);
}
