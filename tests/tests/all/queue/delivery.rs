//! Promises of a group as a work queue, in virtual time: apps that share one embedded broker stand for processes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{BrokerErrorKind, DeadBounds};
use streams_runtime::broker::Embedded;
use streams_runtime::{
    App, BoxError, Config, ConsumerOptions, Context, DataLossKind, DeadLetterFilter, Delivery, OnDataLoss, Outcome,
    Phase, Start, State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::{Act, Fault, Gate, Lab, Launch, Op, World, logged, millis, secs};
use tokio::time::Instant;

/// A picture that was uploaded.
#[stream_event(stream = "uploads")]
#[derive(Debug, Clone, PartialEq)]
struct Uploaded {
    n: u64,
}

/// Another event of the stream.
#[stream_event(stream = "uploads")]
#[derive(Debug, Clone, PartialEq)]
struct Removed {
    n: u64,
}

/// Its next version.
#[stream_event(stream = "uploads", name = "Removed", version = 2, oldest = 2)]
#[derive(Debug, Clone, PartialEq)]
struct RemovedNow {
    n: u64,
}

/// An event of a stream with several partitions.
#[stream_event(stream = "scans", key = scanner, partitions = 8)]
#[derive(Debug, Clone, PartialEq)]
struct Scanned {
    scanner: u64,
    n: u64,
}

#[consumer(group = "readers", delivery = "queue", concurrency = 16)]
async fn read(scan: Scanned, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, scan.n).await
}

#[consumer(group = "thumbnails", max_attempts = 3)]
async fn make(upload: Uploaded, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, upload.n).await
}

#[consumer(group = "thumbnails", max_attempts = 3)]
async fn remove(removed: Removed, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, removed.n).await
}

#[consumer(group = "thumbnails", max_attempts = 3)]
async fn remove_now(removed: RemovedNow, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, removed.n).await
}

fn options() -> ConsumerOptions {
    ConsumerOptions::DEFAULT.with_delivery(Delivery::Queue)
}

fn uploads(events: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Uploaded> {
    events.into_iter().map(|n| Uploaded { n })
}

/// A process with so many slots.
fn worker(world: &World, slots: u32) -> Launch<'_> {
    world.process(consumers![make, remove]).options(options().with_concurrency(slots))
}

// The sharing of entries among processes.

#[tokio::test]
async fn every_event_is_handled_once_by_whichever_process_is_free() {
    let world = World::new("uploads");
    for n in 1..=300 {
        world.lab.script("thumbnails", n, [Act::Sleep(millis(10))]);
    }
    let (a, b, c) = (worker(&world, 4).start().await, worker(&world, 4).start().await, worker(&world, 4).start().await);
    a.publish_all(uploads(1..=300)).await;
    for app in [&a, &b, &c] {
        app.settled().await;
    }
    assert_eq!(world.lab.sorted("thumbnails"), (1..=300).collect::<Vec<_>>());
    assert_eq!(world.lab.most_at_once(), 12, "four each");
    let done = [&a, &b, &c].map(|app| app.status("thumbnails").handled);
    assert_eq!(done.iter().sum::<u64>(), 300);
    assert!(done.iter().all(|done| *done > 50), "{done:?}");
    let crew = world.queue("thumbnails").look().await;
    assert_eq!((crew.unsettled(), crew.waiting, crew.consumers.len()), (0, 0, 3));
}

#[tokio::test]
async fn a_slow_event_delays_no_other() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 1, [Act::Sleep(secs(20))]);
    let app = worker(&world, 2).start().await;
    let began = Instant::now();
    app.publish_all(uploads(1..=200)).await;
    world.lab.called("thumbnails", 200).await;
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_partition_with_a_backlog_leaves_slots_to_the_others() {
    for slots in [1, 3] {
        let world = World::new("uploads");
        for n in 1..=100 {
            world.lab.script("readers", n, [Act::Sleep(secs(1))]);
        }
        let config = Config::new().consumers(options().with_concurrency(slots));
        let app = world.process(consumers![read]).config(config).start().await;
        app.publish_all((1..=50).map(|n| Scanned { scanner: 1, n })).await;
        world.lab.called("readers", slots as usize).await;
        // These are in four more partitions.
        app.publish_all([2, 3, 4, 5].map(|scanner| Scanned { scanner, n: 50 + scanner })).await;
        let before = world.lab.events("readers").len();
        let waits = |n| !world.lab.events("readers").contains(&n);
        while (52..=55).any(waits) {
            tokio::time::sleep(millis(1)).await;
        }
        let begun = world.lab.events("readers").len() - before;
        assert!(begun <= 12, "{begun} have begun meanwhile");
        app.settled().await;
        assert_eq!(app.running().status().groups.iter().map(|status| status.handled).sum::<u64>(), 54);
    }
}

#[tokio::test]
async fn what_was_taken_ahead_is_left_to_others_when_the_handlers_turn_out_to_be_slow() {
    let world = World::new("uploads");
    let app = worker(&world, 1).start().await;
    // Quick ones, so that it takes many ahead.
    app.publish_all(uploads(1..=500)).await;
    app.settled().await;
    world.lab.script("thumbnails", 501, [Act::Sleep(secs(20))]);
    app.publish_all(uploads(501..=600)).await;
    world.lab.called("thumbnails", 501).await;
    let other = worker(&world, 1).start().await;
    let began = Instant::now();
    world.lab.called("thumbnails", 600).await;
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    assert_eq!(other.status("thumbnails").handled + app.status("thumbnails").handled, 599);
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), (1..=600).collect::<Vec<_>>());
    assert!(app.dead::<Uploaded>("thumbnails").await.is_empty());
}

#[tokio::test]
async fn a_group_begins_where_it_says_and_takes_what_was_there_before() {
    let world = World::new("uploads");
    let publisher = streams_runtime::Publisher::new(Arc::new(world.store.clone()));
    for n in 1..=3 {
        publisher.publish(&Uploaded { n }).await.unwrap();
    }
    let app = worker(&world, 2).start().await;
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 2, 3]);
}

#[tokio::test]
async fn a_process_that_stops_gives_back_what_it_has_not_begun_and_finishes_the_rest() {
    let world = World::new("uploads");
    for n in 1..=40 {
        world.lab.script("thumbnails", n, [Act::Sleep(millis(30))]);
    }
    let (a, b) = (worker(&world, 4).start().await, worker(&world, 4).start().await);
    a.publish_all(uploads(1..=40)).await;
    world.lab.called("thumbnails", 10).await;
    let began = Instant::now();
    assert_eq!(a.into_running().shutdown().await, Stopped::Clean);
    assert!(began.elapsed() < millis(100), "{:?}", began.elapsed());
    assert_eq!(world.queue("thumbnails").look().await.consumers.len(), 1);
    b.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), (1..=40).collect::<Vec<_>>(), "nothing twice");
    assert!(began.elapsed() < millis(600), "nobody waits for a lease: {:?}", began.elapsed());
}

// Failure.

#[tokio::test]
async fn a_failed_event_is_tried_again_after_its_wait_by_whoever_is_free_and_holds_up_nobody() {
    let world = World::new("uploads");
    for n in 1..=10 {
        world.lab.script("thumbnails", n, [Act::Fail, Act::Panic]);
    }
    let config = options().with_concurrency(1).with_backoff(secs(20), secs(20));
    let (a, b) = (
        world.process(consumers![make, remove]).options(config).start().await,
        world.process(consumers![make, remove]).options(config).start().await,
    );
    let began = Instant::now();
    a.publish_all(uploads(1..=100)).await;
    world.lab.called("thumbnails", 100).await;
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    world.queue("thumbnails").until_queue(|crew| crew.waiting == 10 && crew.unsettled() == 10).await;
    a.settled().await;
    assert!((1..=10).all(|n| world.lab.attempts("thumbnails", n) == [1, 2, 3]), "{:?}", world.lab.calls("thumbnails"));
    assert!((11..=100).all(|n| world.lab.attempts("thumbnails", n) == [1]));
    assert!(began.elapsed() >= secs(20), "twice at least half of 20 s: {:?}", began.elapsed());
    assert_eq!(a.status("thumbnails").retried + b.status("thumbnails").retried, 20);
    assert!(a.dead::<Uploaded>("thumbnails").await.is_empty());
}

#[tokio::test]
async fn what_keeps_failing_becomes_a_dead_letter_with_its_attempts() {
    let world = World::new("uploads");
    world.lab.always("thumbnails", 2, Act::Fail);
    world.lab.always("thumbnails", 3, Act::Permanent);
    let app = worker(&world, 2).start().await;
    app.publish_all(uploads(1..=4)).await;
    app.settled().await;
    let letters = app.dead::<Uploaded>("thumbnails").await;
    let mut seen: Vec<_> = letters.iter().map(|letter| (letter.decode().unwrap().n, letter.attempts())).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(2, 3), (3, 1)]);
    assert_eq!(world.lab.attempts("thumbnails", 2), [1, 2, 3]);
    assert_eq!((app.status("thumbnails").handled, app.status("thumbnails").dead_lettered), (2, 2));
    assert_eq!(world.queue("thumbnails").look().await.unsettled(), 0);
}

#[tokio::test]
async fn attempts_and_waits_outlive_a_process() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 1, [Act::Fail, Act::Fail]);
    let config = Config::new().consumers(options().with_backoff(secs(40), secs(40)));
    let a = world.process(consumers![make, remove]).apart().config(config.clone()).start().await;
    a.publish_all(uploads([1])).await;
    world.queue("thumbnails").until_queue(|crew| crew.waiting == 1).await;
    let began = Instant::now();
    a.kill().await;
    let b = world.process(consumers![make, remove]).config(config).start().await;
    b.settled().await;
    assert_eq!(world.lab.attempts("thumbnails", 1), [1, 2, 3]);
    assert!(began.elapsed() >= secs(38), "{:?}", began.elapsed());
    assert!(b.dead::<Uploaded>("thumbnails").await.is_empty(), "no crash is put down to it, as it was not in flight");
}

#[tokio::test]
async fn many_dead_letters_in_a_row_stop_the_process_until_it_is_resumed() {
    let world = World::new("uploads");
    for n in 1..=30 {
        world.lab.always("thumbnails", n, Act::Permanent);
    }
    let app = worker(&world, 1).start().await;
    app.publish_all(uploads(1..=40)).await;
    let reason = app.halted("thumbnails").await.to_string();
    assert!(reason.contains("20 events in a row"), "{reason}");
    assert_eq!(world.queue("thumbnails").look().await.consumers.len(), 0);
    world.queue("thumbnails").until_queue(|crew| crew.unsettled() == crew.waiting).await;
    app.running().admin().resume("uploads", "thumbnails").await.unwrap();
    app.goes_on("thumbnails").await;
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), (1..=40).collect::<Vec<_>>());
    assert_eq!(app.dead::<Uploaded>("thumbnails").await.len(), 30);
}

#[tokio::test]
async fn without_room_for_dead_letters_nothing_goes_on_until_there_is() {
    let world = World::new("uploads");
    for n in [1, 2] {
        world.lab.always("thumbnails", n, Act::Permanent);
    }
    let mut config = Config::new().consumers(options().with_concurrency(1));
    config.dead_letters = DeadBounds { count: 1, age: secs(1_000_000) };
    let app = world.process(consumers![make, remove]).config(config).start().await;
    app.publish_all(uploads(1..=5)).await;
    let reason = app.halted("thumbnails").await.to_string();
    assert!(reason.contains("dead letters") && reason.contains("are full: 1 of at most 1"), "{reason}");
    assert!(!world.lab.sorted("thumbnails").contains(&5));
    let letters = app.running().dead_letters::<Uploaded>("thumbnails");
    letters.discard_all(&DeadLetterFilter::all()).await.unwrap();
    app.goes_on("thumbnails").await;
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 2, 3, 4, 5]);
    assert_eq!(app.dead::<Uploaded>("thumbnails").await.len(), 1);
}

#[tokio::test]
async fn what_fails_while_another_has_no_room_among_the_dead_letters_waits_with_it() {
    let world = World::new("uploads");
    for (n, act) in [(1, Act::Permanent), (2, Act::PermanentAfter(millis(500))), (3, Act::PermanentAfter(secs(1)))] {
        world.lab.always("thumbnails", n, act);
    }
    let mut config = Config::new().consumers(options().with_concurrency(2));
    config.dead_letters = DeadBounds { count: 1, age: secs(1_000_000) };
    let app = world.process(consumers![make, remove]).config(config).start().await;
    app.publish_all(uploads([1])).await;
    app.settled().await;
    app.publish_all(uploads(2..=5)).await;
    app.halted("thumbnails").await;
    // It was running by then.
    while !world.lab.ended("thumbnails").contains(&3) {
        app.advance(millis(100)).await;
    }
    assert_eq!(world.lab.sorted("thumbnails"), [1, 2, 3]);
    let letters = app.running().dead_letters::<Uploaded>("thumbnails");
    for found in [1, 2, 3] {
        while app.dead::<Uploaded>("thumbnails").await.is_empty() {
            app.advance(secs(1)).await;
        }
        let letter = app.dead::<Uploaded>("thumbnails").await.remove(0).decode().unwrap().n;
        assert_eq!(letter, found);
        letters.discard_all(&DeadLetterFilter::all()).await.unwrap();
    }
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_full_server_takes_what_is_no_dead_letter_and_a_stop_meanwhile_counts_no_crash() {
    for stops in [false, true] {
        let world = World::new("uploads");
        world.lab.script("thumbnails", 1, [Act::PermanentAfter(secs(1))]);
        world.lab.script("thumbnails", 2, [Act::Sleep(secs(1))]);
        let app = worker(&world, 2).start().await;
        // The server refuses the ack of both; the app then acks the one without a dead letter first.
        world.wire.once(Op::Ack, Fault::Fail(BrokerErrorKind::Full));
        app.publish_all(uploads([1, 2])).await;
        let crew = world.queue("thumbnails").until_queue(|crew| crew.unsettled() == 1).await;
        assert_eq!(world.lab.ended("thumbnails"), [1, 2]);
        assert_eq!((crew.waiting, crew.consumers[0].in_flight), (0, 1));
        if stops {
            world.wire.once(Op::Ack, Fault::Fail(BrokerErrorKind::Full));
            assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
            let app = worker(&world, 2).start().await;
            world.lab.script("thumbnails", 1, [Act::Permanent]);
            app.settled().await;
            assert_eq!(
                (world.lab.attempts("thumbnails", 1), world.lab.attempts("thumbnails", 2)),
                (vec![1, 1], vec![1])
            );
            assert_eq!(app.dead::<Uploaded>("thumbnails").await[0].cause(), "permanent");
        } else {
            let began = Instant::now();
            app.settled().await;
            assert!(began.elapsed() >= secs(4), "the letter waits: {:?}", began.elapsed());
            assert_eq!(
                (world.lab.attempts("thumbnails", 1), app.dead::<Uploaded>("thumbnails").await.len()),
                (vec![1], 1)
            );
        }
    }
}

#[tokio::test]
async fn a_dead_letter_is_handled_again_beside_the_events() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 1, [Act::Permanent]);
    let app = worker(&world, 1).start().await;
    app.publish_all(uploads([1])).await;
    app.settled().await;
    world.lab.script("thumbnails", 1, [Act::Sleep(secs(5))]);
    world.lab.script("thumbnails", 2, [Act::Sleep(secs(1))]);
    let letters = app.running().dead_letters::<Uploaded>("thumbnails");
    letters.replay_all(&DeadLetterFilter::all()).await.unwrap();
    world.lab.called("thumbnails", 2).await;
    app.publish_all(uploads([2])).await;
    app.settled().await;
    assert_eq!(world.lab.ended("thumbnails"), [1, 2], "the event did not wait for the letter");
    app.advance(secs(10)).await;
    assert!(app.dead::<Uploaded>("thumbnails").await.is_empty());
    assert_eq!(world.lab.ended("thumbnails"), [1, 2, 1]);
}

// Death.

#[tokio::test]
async fn what_a_dead_process_had_in_hand_is_handed_out_again_when_its_lease_is_over() {
    let world = World::new("uploads");
    for n in 1..=4 {
        world.lab.script("thumbnails", n, [Act::Hang]);
    }
    let a = worker(&world, 4).apart().start().await;
    a.publish_all(uploads(1..=4)).await;
    world.lab.called("thumbnails", 4).await;
    for n in 1..=4 {
        world.lab.script("thumbnails", n, []);
    }
    let began = Instant::now();
    a.kill().await;
    let b = worker(&world, 4).start().await;
    b.publish_all(uploads(5..=8)).await;
    world.lab.called("thumbnails", 8).await;
    assert!(began.elapsed() < secs(1), "what others do not have goes on at once: {:?}", began.elapsed());
    b.settled().await;
    assert!(began.elapsed() > secs(9) && began.elapsed() < secs(11), "{:?}", began.elapsed());
    assert_eq!(world.lab.sorted("thumbnails"), [1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8]);
    assert!((1..=4).all(|n| world.lab.attempts("thumbnails", n) == [1, 1]), "a crash is no failed attempt");
    world.queue("thumbnails").until_queue(|crew| crew.consumers.len() == 1).await;
}

#[tokio::test]
async fn a_lost_lease_ends_handlers_while_a_loss_is_being_recorded() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 1, [Act::Fail]);
    world.lab.script("thumbnails", 2, [Act::Hang]);
    let app = worker(&world, 2).start().await;
    app.publish_all(uploads([1, 2])).await;
    world.lab.called("thumbnails", 2).await;
    let queue = world.queue("thumbnails");
    queue.until_queue(|queue| queue.waiting == 1).await;
    // The call that repairs the waiting set has no answer.
    let gate = Gate::default();
    world.wire.always(Op::Fetch, Fault::Hold(gate.clone()));
    world.store.forget(&queue.key.waiting());
    gate.arrived(1).await;
    app.advance(secs(2)).await;
    world.wire.always(Op::Renew, Fault::Fail(BrokerErrorKind::Unavailable));
    app.advance(secs(11)).await;
    assert_eq!(world.lab.cancelled("thumbnails"), [2]);
    gate.open();
    world.wire.heal();
}

#[tokio::test]
async fn a_process_that_was_cut_off_cannot_settle_what_others_have_by_then() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 1, [Act::Sleep(secs(15))]);
    let a = worker(&world, 1).apart().start().await;
    a.publish_all(uploads([1])).await;
    world.lab.called("thumbnails", 1).await;
    a.wire.cut_off();
    let b = worker(&world, 1).start().await;
    world.lab.called("thumbnails", 2).await;
    assert_eq!(world.lab.cancelled("thumbnails"), [1], "it gave up before the other began");
    a.wire.heal();
    b.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 1]);
    world.queue("thumbnails").until_queue(|crew| crew.consumers.len() == 2).await;
}

#[tokio::test]
async fn an_event_that_ends_its_process_is_given_up_and_its_neighbours_are_not() {
    let world = World::new("uploads");
    // It never comes back, and each process is killed while it runs.
    world.lab.always("thumbnails", 3, Act::Hang);
    let first = worker(&world, 2).apart().start().await;
    first.publish_all(uploads(1..=8)).await;
    let mut process = first;
    for runs in 1..=4 {
        while world.lab.attempts("thumbnails", 3).len() < runs {
            tokio::time::sleep(millis(1)).await;
        }
        process.kill().await;
        process = worker(&world, 2).apart().start().await;
    }
    let app = process;
    app.settled().await;
    let letters = app.dead::<Uploaded>("thumbnails").await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].decode().unwrap().n, letters[0].cause()), (3, "crash"));
    assert_eq!(
        world.lab.attempts("thumbnails", 3).len(),
        4,
        "the first end is put down to nobody, then there are three"
    );
    assert!(letters[0].reason().contains("the process ended 3 times"), "{}", letters[0].reason());
    let others: BTreeSet<_> = world.lab.sorted("thumbnails").into_iter().filter(|n| *n != 3).collect();
    assert_eq!(others, BTreeSet::from([1, 2, 4, 5, 6, 7, 8]));
}

#[tokio::test]
async fn what_waits_for_its_turn_on_another_partition_is_not_charged_with_the_end_of_the_process() {
    // It is on the first partition, whose turn is first.
    const POISON: u64 = 4;
    let world = World::new("uploads");
    for n in 1..=16 {
        world.lab.script("readers", n, [if n == POISON { Act::Hang } else { Act::Sleep(secs(1)) }]);
    }
    let start = || world.process(consumers![read]).apart().start();
    let called = || world.lab.events("readers").into_iter().filter(|n| *n == POISON).count();
    let first = start().await;
    first.publish_all((1..=16).map(|n| Scanned { scanner: n, n })).await;
    let mut process = first;
    for runs in 1..=4 {
        while called() < runs {
            tokio::time::sleep(millis(1)).await;
        }
        process.kill().await;
        process = start().await;
    }
    let app = process;
    app.settled().await;
    let letters = app.dead_letters::<Scanned>("readers").await.unwrap();
    let letters: Vec<_> = letters.iter().map(|letter| (letter.decode().unwrap().n, letter.cause())).collect();
    assert_eq!(letters, [(POISON, "crash")]);
    let ended: BTreeSet<_> = world.lab.ended("readers").into_iter().collect();
    assert_eq!(ended, (1..=16).filter(|n| *n != POISON).collect());
}

#[tokio::test]
async fn the_last_run_of_an_event_is_alone() {
    let world = World::new("uploads");
    world.lab.always("thumbnails", 1, Act::Hang);
    let config = options().with_concurrency(4).with_max_crashes(1);
    let a = world.process(consumers![make, remove]).apart().options(config).start().await;
    a.publish_all(uploads([1])).await;
    world.lab.called("thumbnails", 1).await;
    a.kill().await;
    world.lab.script("thumbnails", 1, [Act::Sleep(secs(5))]);
    let b = world.process(consumers![make, remove]).options(config).start().await;
    world.lab.called("thumbnails", 2).await;
    b.publish_all(uploads(2..=20)).await;
    let began = Instant::now();
    world.lab.called("thumbnails", 3).await;
    assert!(began.elapsed() >= secs(4), "{:?}", began.elapsed());
    b.settled().await;
    assert!(b.dead::<Uploaded>("thumbnails").await.is_empty(), "it was not to blame");
}

#[tokio::test]
async fn a_handler_that_does_not_come_back_is_cancelled_at_its_timeout() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 1, [Act::Hang]);
    let app = world.process(consumers![make, remove]).options(options().with_timeout(secs(2))).start().await;
    app.publish_all(uploads([1])).await;
    app.settled().await;
    assert_eq!(world.lab.attempts("thumbnails", 1), [1, 2]);
    assert_eq!(world.lab.cancelled("thumbnails"), [1]);
}

// Faults on the way.

#[tokio::test]
async fn an_answer_that_was_lost_loses_no_event_and_repeats_none() {
    for op in [Op::Fetch, Op::Ack] {
        let world = World::new("uploads");
        let app = worker(&world, 2).start().await;
        for n in 1..=20 {
            world.wire.once(op, Fault::LoseReply);
            app.publish_all(uploads([n])).await;
            app.settled().await;
        }
        assert_eq!(world.lab.sorted("thumbnails"), (1..=20).collect::<Vec<_>>(), "{op:?}");
        assert_eq!((app.status("thumbnails").handled, world.queue("thumbnails").look().await.unsettled()), (20, 0));
        assert!((1..=20).all(|n| world.lab.attempts("thumbnails", n) == [1]));
    }
}

#[tokio::test]
async fn what_is_in_hand_again_is_not_given_back_by_a_call_that_is_repeated() {
    let world = World::new("uploads");
    for n in [1, 2] {
        world.lab.script("thumbnails", n, [Act::Fail, Act::Sleep(secs(1))]);
    }
    let app = world
        .process(consumers![make, remove])
        .options(options().with_concurrency(2).with_backoff(millis(1), millis(1)))
        .start()
        .await;
    app.settled().await;
    // The app sends the second fetch after the ack that gives the event back, and before it repeats that ack. The answer to the
    // fetch comes before that repeat, or after it.
    for (n, after) in [(1, Duration::ZERO), (2, secs(1))] {
        world.wire.once(Op::Fetch, Fault::Delay(Duration::ZERO));
        world.wire.once(Op::Fetch, Fault::Lag(millis(10), after));
        world.wire.once(Op::Ack, Fault::LoseReply);
        app.publish_all(uploads([n])).await;
        app.settled().await;
        assert_eq!(world.lab.attempts("thumbnails", n), [1, 2]);
    }
}

/// The first attempt of [`stubborn`] blocks its thread until the lock is free, and fails; the others wait at the gate.
#[derive(Clone, Default)]
struct Stubborn {
    lock: Arc<Mutex<()>>,
    gate: Gate,
    attempts: Arc<Mutex<Vec<u32>>>,
}

#[consumer(group = "stubborn", delivery = "queue", concurrency = 2, timeout = "2s", backoff = "1ms")]
async fn stubborn(_upload: Uploaded, ctx: Context, state: State<Stubborn>) -> Result<(), BoxError> {
    state.attempts.lock().unwrap().push(ctx.attempt());
    if ctx.attempt() == 1 {
        drop(state.lock.lock());
        return Err("too late".into());
    }
    state.gate.pass().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_comes_back_when_it_was_given_up_says_nothing_of_the_next() {
    let state = Stubborn::default();
    let locked = Arc::clone(&state.lock);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        let _held = locked.lock();
        let _ = released.recv();
    });
    while state.lock.try_lock().is_ok() {
        tokio::task::yield_now().await;
    }
    let config = Config::new().lease(millis(500));
    let app = App::with(consumers![stubborn]).state(state.clone()).config(config);
    let running = app.broker(Arc::new(Embedded::new())).start().await.unwrap();
    running.publisher().publish(&Uploaded { n: 1 }).await.unwrap();
    state.gate.arrived(1).await;
    // The first comes back while the second runs.
    drop(release);
    holder.join().unwrap();
    drop(state.lock.lock());
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    state.gate.open();
    running.settled().await.unwrap();
    assert_eq!(*state.attempts.lock().unwrap(), [1, 2]);
    assert_eq!(running.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn a_server_that_is_away_for_longer_than_a_lease_is_no_crash() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 1, [Act::Hang]);
    world.lab.script("thumbnails", 2, [Act::Sleep(secs(5))]);
    let app = world
        .process(consumers![make, remove])
        .options(options().with_concurrency(2).with_max_crashes(1).with_timeout(secs(600)))
        .start()
        .await;
    app.publish_all(uploads([1, 2])).await;
    world.lab.called("thumbnails", 2).await;
    for outage in 1..=4 {
        world.wire.cut_off();
        app.advance(secs(30)).await;
        assert_eq!(world.lab.cancelled("thumbnails"), vec![1; outage]);
        world.wire.heal();
        let began = Instant::now();
        world.lab.called("thumbnails", 2 + outage).await;
        assert!(began.elapsed() < secs(5), "nobody waits for a lease: {:?}", began.elapsed());
    }
    assert_eq!(world.lab.attempts("thumbnails", 2), [1], "it was done meanwhile");
    world.lab.script("thumbnails", 1, []);
    world.wire.cut_off();
    app.advance(secs(30)).await;
    world.wire.heal();
    app.settled().await;
    assert!(app.dead::<Uploaded>("thumbnails").await.is_empty());
    assert_eq!(world.lab.attempts("thumbnails", 1), [1; 6]);
}

#[tokio::test]
async fn what_has_crashed_runs_when_the_server_has_charged_it_and_not_before() {
    for fails in [false, true] {
        let world = World::new("uploads");
        world.lab.script("thumbnails", 1, [Act::Hang]);
        let first = worker(&world, 2).apart().start().await;
        first.publish_all(uploads([1])).await;
        world.lab.called("thumbnails", 1).await;
        first.kill().await;
        world.lab.script("thumbnails", 1, []);
        let app = worker(&world, 2).apart().start().await;
        if fails {
            app.wire.once(Op::Ack, Fault::Fail(BrokerErrorKind::Unavailable));
        }
        // The charge, or what gives the event back that could not be charged.
        let gate = Gate::default();
        app.wire.once(Op::Ack, Fault::Hold(gate.clone()));
        gate.arrived(1).await;
        assert_eq!(world.lab.attempts("thumbnails", 1), [1]);
        gate.open();
        app.settled().await;
        assert_eq!(world.lab.attempts("thumbnails", 1), [1, 1]);
    }
}

#[tokio::test]
async fn a_server_that_is_away_for_less_than_a_lease_costs_nothing() {
    let world = World::new("uploads");
    for n in 1..=50 {
        world.lab.script("thumbnails", n, [Act::Sleep(millis(100))]);
    }
    let app = worker(&world, 4).start().await;
    app.publish_all(uploads(1..=50)).await;
    world.lab.called("thumbnails", 10).await;
    world.wire.cut_off();
    app.advance(secs(3)).await;
    world.wire.heal();
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), (1..=50).collect::<Vec<_>>());
    assert!(matches!(app.status("thumbnails").phase, Phase::Owning { .. }));
}

#[tokio::test]
async fn what_nobody_takes_is_passed_over_and_what_says_nothing_is_a_dead_letter() {
    let world = World::new("uploads");
    let app = worker(&world, 2).start().await;
    world.append_raw(vec![(b"event".to_vec(), b"Unheard@1".to_vec()), (b"payload".to_vec(), vec![0x80])]).await;
    world.append_raw(vec![(b"payload".to_vec(), vec![0x80])]).await;
    app.publish_all(uploads([1])).await;
    app.settled().await;
    app.advance(secs(1)).await;
    assert_eq!(
        (
            app.status("thumbnails").passed_over,
            app.status("thumbnails").dead_lettered,
            app.status("thumbnails").handled
        ),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn an_event_of_a_newer_build_is_left_to_it() {
    let world = World::new("uploads");
    let config = || Config::new().consumers(options().with_concurrency(2));
    let old = world.process(consumers![make, remove]).config(config()).start().await;
    let new = world.process(consumers![make, remove_now]).config(config()).start().await;
    for n in 1..=50 {
        new.publish(&RemovedNow { n }).await.unwrap();
        old.publish(&Uploaded { n: n + 100 }).await.unwrap();
    }
    old.settled().await;
    new.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), (1..=50).chain(101..=150).collect::<Vec<_>>());
    assert!((1..=50).all(|n| world.lab.attempts("thumbnails", n) == [1]));
    assert_eq!((old.status("thumbnails").passed_over, new.status("thumbnails").passed_over), (0, 0));
    assert!(old.dead::<Uploaded>("thumbnails").await.is_empty());
}

#[tokio::test]
async fn events_that_no_build_handles_wait_and_are_told_of() {
    let world = World::new("uploads");
    let config = || Config::new().consumers(options());
    let (new, log) = (world.process(consumers![make, remove]).config(config()).start().await, logged());
    assert_eq!(new.into_running().shutdown().await, Stopped::Clean);
    let old = world.process(consumers![make]).config(config()).start().await;
    old.publish(&Removed { n: 1 }).await.unwrap();
    old.publish_all(uploads([2])).await;
    world.lab.called("thumbnails", 1).await;
    old.advance(secs(70)).await;
    assert_eq!(world.lab.sorted("thumbnails"), [2]);
    assert!(log.text().contains("events wait for a build that handles them") && log.text().contains("Removed@1"));
    let config = Config::new().consumers(options().with_ignore(&["Removed"]));
    let ignoring = world.process(consumers![make]).config(config).start().await;
    ignoring.settled().await;
    assert_eq!((world.lab.sorted("thumbnails"), ignoring.status("thumbnails").passed_over), (vec![2], 1));
}

#[tokio::test]
async fn with_too_many_waiting_no_new_ones_are_taken() {
    let world = World::new("uploads");
    for n in 1..=1_000 {
        world.lab.script("thumbnails", n, [Act::Fail]);
    }
    let mut config = Config::new().consumers(options().with_concurrency(1).with_backoff(secs(100), secs(100)));
    config.max_unsettled_entries = 10;
    let app = world.process(consumers![make, remove]).config(config).start().await;
    app.publish_all(uploads(1..=1_000)).await;
    app.advance(secs(20)).await;
    let waiting = world.queue("thumbnails").look().await.waiting;
    assert!((10..=300).contains(&waiting), "no more than was taken ahead: {waiting}");
    assert!(app.status("thumbnails").blocked_by.is_some_and(|reason| reason.contains("`max_unsettled_entries`")));
    app.settled().await;
    assert!((1..=1_000).all(|n| world.lab.attempts("thumbnails", n) == [1, 2]));
    assert_eq!(app.status("thumbnails").blocked_by, None);
}

// Losses.

#[tokio::test]
async fn events_that_are_trimmed_before_anybody_had_them_halt_the_group_until_it_is_resumed() {
    let world = World::new("uploads");
    let (a, b) = (worker(&world, 1).start().await, worker(&world, 1).start().await);
    a.publish_all(uploads([1])).await;
    a.settled().await;
    world.wire.always(Op::Fetch, Fault::Fail(BrokerErrorKind::Unavailable));
    let ids = a.publish_all(uploads(2..=6)).await;
    a.advance(secs(1)).await;
    world.store.trim(&world.partition(), ids[3]);
    world.wire.heal();
    for app in [&a, &b] {
        let reason = app.halted("thumbnails").await.to_string();
        assert!(reason.contains("3 entries above") && reason.contains("streams resume"), "{reason}");
    }
    let losses: Vec<_> = [&a, &b].iter().filter_map(|app| app.status("thumbnails").last_loss).collect();
    assert_eq!(losses.len(), 1, "told once: {losses:?}");
    assert_eq!((losses[0].kind, losses[0].count), (DataLossKind::TrimmedPast, Some(3)));
    assert_eq!(world.lab.sorted("thumbnails"), [1]);
    a.running().admin().resume("uploads", "thumbnails").await.unwrap();
    a.goes_on("thumbnails").await;
    b.goes_on("thumbnails").await;
    a.settled().await;
    b.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 5, 6]);
}

#[tokio::test]
async fn an_event_that_is_deleted_while_it_waits_is_told_of_and_a_group_that_may_goes_on() {
    let world = World::new("uploads");
    world.lab.always("thumbnails", 1, Act::Fail);
    let config = options().with_backoff(secs(10), secs(10)).with_on_data_loss(OnDataLoss::Continue);
    let app = world.process(consumers![make, remove]).options(config).start().await;
    let ids = app.publish_all(uploads([1, 2])).await;
    world.queue("thumbnails").until_queue(|crew| crew.waiting == 1 && crew.unsettled() == 1).await;
    world.store.remove(&world.partition(), &ids[..1]);
    app.settled().await;
    app.advance(secs(20)).await;
    let loss = app.status("thumbnails").last_loss.unwrap();
    assert_eq!((loss.kind, loss.to, loss.count), (DataLossKind::TrimmedPast, ids[0], Some(1)));
    assert_eq!((world.lab.sorted("thumbnails"), world.queue("thumbnails").look().await.unsettled()), (vec![1, 2], 0));
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_found_out_and_a_reset_begins_anew() {
    let world = World::new("uploads");
    let app = worker(&world, 1).start().await;
    app.publish_all(uploads([1, 2])).await;
    app.settled().await;
    world.store.delete(&world.partition());
    let reason = app.halted("thumbnails").await.to_string();
    assert!(reason.contains("deleted or made anew"), "{reason}");
    app.publish_all(uploads([3])).await;
    app.running().admin().reset("uploads", "thumbnails", Start::Earliest).await.unwrap();
    app.goes_on("thumbnails").await;
    app.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 2, 3]);
}

#[tokio::test]
async fn a_group_that_may_goes_on_by_itself_after_its_stream_was_deleted() {
    let world = World::new("uploads");
    let config = options().with_on_data_loss(OnDataLoss::Continue);
    let (a, b) = (
        world.process(consumers![make, remove]).options(config).start().await,
        world.process(consumers![make, remove]).options(config).start().await,
    );
    a.publish_all(uploads([1, 2])).await;
    a.settled().await;
    world.store.delete(&world.partition());
    a.publish_all(uploads([3, 4])).await;
    a.settled().await;
    b.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_reset_takes_everything_out_of_all_hands() {
    let world = World::new("uploads");
    world.lab.script("thumbnails", 2, [Act::Sleep(secs(30))]);
    let (a, b) = (worker(&world, 1).start().await, worker(&world, 1).start().await);
    a.publish_all(uploads(1..=5)).await;
    world.lab.called("thumbnails", 5).await;
    a.running().admin().reset("uploads", "thumbnails", Start::Earliest).await.unwrap();
    world.lab.script("thumbnails", 2, []);
    a.settled().await;
    b.settled().await;
    assert_eq!(world.lab.sorted("thumbnails"), [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    world.queue("thumbnails").until_queue(|crew| crew.consumers.len() == 2).await;
}

// Options that do not go together.

#[tokio::test]
async fn a_group_stays_what_it_was_made_as() {
    let world = World::new("uploads");
    let ordered = world.process(consumers![make, remove]).options(ConsumerOptions::DEFAULT).start().await;
    ordered.publish_all(uploads([1])).await;
    ordered.settled().await;
    let shared = worker(&world, 1).start().await;
    let reason = shared.halted("thumbnails").await.to_string();
    assert!(reason.contains("is used in `ordered` delivery") && reason.contains("choose another"), "{reason}");

    let world = World::new("uploads");
    let shared = worker(&world, 1).start().await;
    shared.publish_all(uploads([1])).await;
    shared.settled().await;
    let ordered = world.process(consumers![make, remove]).options(ConsumerOptions::DEFAULT).start().await;
    let reason = ordered.halted("thumbnails").await.to_string();
    assert!(reason.contains("is used in `queue` delivery"), "{reason}");
}
