//! Promises of a group with `dedupe`, in virtual time: of the events of one id it settles the first.

use std::time::Duration;

use streams_core::broker::BrokerErrorKind;
use streams_runtime::{
    Batch, BoxError, ConsumerOptions, Context, Outcome, Start, State, consumer, consumers, stream_event,
};
use streams_tests::soak::Dice;
use streams_tests::{Act, Fault, Lab, Op, Process, World, millis, secs};

#[stream_event(stream = "payments", key = account)]
#[derive(Debug, Clone, PartialEq)]
struct Paid {
    account: u64,
    n: u64,
}

#[consumer(group = "book", dedupe = "1h", max_attempts = 3, backoff = "10ms..20ms")]
async fn book(paid: Paid, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, paid.n).await
}

#[consumer(group = "gather", dedupe = "1h", batch = 7, batch_wait = "50ms")]
async fn gather(paid: Batch<Paid>, ctx: Context, lab: State<Lab>) -> Result<(), BoxError> {
    lab.note_batch(&ctx, paid.events().map(|paid| paid.n));
    Ok(())
}

const OPTIONS: ConsumerOptions = ConsumerOptions::DEFAULT;

/// Publishes this event, under the id that belongs to it.
async fn publish(app: &Process, n: u64) {
    let paid = Paid { account: n % 5, n };
    app.publisher().publish(&paid).id(format!("payment-{n}")).await.expect("it is published");
}

fn counts(app: &Process, group: &str) -> (u64, u64) {
    let status = app.status(group);
    (status.handled, status.repeated)
}

#[tokio::test]
async fn an_event_that_comes_twice_is_handled_once_and_counted() {
    let world = World::new("payments");
    let app = world.process(consumers![book]).start().await;
    for n in [1, 1, 2, 3, 2, 1] {
        publish(&app, n).await;
    }
    app.settled().await;
    assert_eq!(world.lab.events("book"), [1, 2, 3]);
    assert_eq!(counts(&app, "book"), (3, 3));
    app.advance(secs(10)).await;
    publish(&app, 1).await;
    app.settled().await;
    assert_eq!(counts(&app, "book"), (3, 4), "the server remembers what was committed long ago");
}

#[tokio::test]
async fn after_the_time_an_id_is_free_again() {
    let world = World::new("payments");
    let app = world.process(consumers![book]).start().await;
    publish(&app, 1).await;
    app.settled().await;
    app.advance(secs(3590)).await;
    publish(&app, 1).await;
    app.settled().await;
    app.advance(secs(20)).await;
    publish(&app, 1).await;
    app.settled().await;
    assert_eq!((world.lab.events("book"), counts(&app, "book")), (vec![1, 1], (2, 1)));
}

#[tokio::test]
async fn what_another_process_has_settled_is_passed_over_too() {
    let world = World::new("payments");
    let first = world.process(consumers![book]).start().await;
    for n in 1..=20 {
        publish(&first, n).await;
    }
    first.settled().await;
    first.advance(secs(1)).await;
    first.kill().await;
    let second = world.process(consumers![book]).start().await;
    for n in 11..=30 {
        publish(&second, n).await;
    }
    second.settled().await;
    assert_eq!(world.lab.events("book"), (1..=30).collect::<Vec<_>>());
    assert_eq!(counts(&second, "book"), (10, 10));
}

#[tokio::test]
async fn a_second_one_waits_for_the_attempts_of_the_first_and_is_no_other_attempt() {
    for concurrency in [1, 8] {
        let world = World::new("payments");
        world.lab.script("book", 1, [Act::Fail, Act::Sleep(secs(1))]);
        world.lab.script("book", 2, [Act::Permanent]);
        let app = world.process(consumers![book]).options(OPTIONS.with_concurrency(concurrency)).start().await;
        for n in [1, 2, 1, 2, 3, 1] {
            publish(&app, n).await;
        }
        app.settled().await;
        assert_eq!(world.lab.attempts("book", 1), [1, 2], "{concurrency}");
        assert_eq!(world.lab.attempts("book", 2), [1], "it is a dead letter, so it is settled");
        assert_eq!((counts(&app, "book"), app.dead::<Paid>("book").await.len()), ((2, 3), 1), "{concurrency}");
    }
}

#[tokio::test]
async fn in_a_batch_are_no_two_of_one_id() {
    let world = World::new("payments");
    let app = world.process(consumers![gather]).start().await;
    for n in [1, 2, 1, 3, 3, 4, 5, 6, 7, 8, 2, 9] {
        publish(&app, n).await;
    }
    app.settled().await;
    let handled: Vec<u64> = world.lab.batches().concat();
    assert_eq!(handled, (1..=9).collect::<Vec<_>>());
    assert_eq!(counts(&app, "gather"), (9, 3));
}

#[tokio::test]
async fn a_reset_brings_events_again_and_a_replay_runs() {
    let world = World::new("payments");
    world.lab.script("book", 2, [Act::Permanent]);
    let app = world.process(consumers![book]).start().await;
    for n in 1..=3 {
        publish(&app, n).await;
    }
    app.settled().await;
    let letters = app.running().dead_letters::<Paid>("book");
    world.lab.script("book", 2, []);
    letters.replay(&[letters.list(None, 9).await.unwrap()[0].id()]).await.unwrap();
    world.lab.called("book", 4).await;
    assert_eq!(world.lab.events("book"), [1, 2, 3, 2]);
    app.advance(secs(5)).await;
    app.running().admin().reset("payments", "book", Start::Earliest).await.unwrap();
    world.lab.called("book", 7).await;
    assert_eq!(world.lab.events("book"), [1, 2, 3, 2, 1, 2, 3]);
}

#[tokio::test]
async fn while_the_server_does_not_answer_nothing_runs_and_nothing_is_passed_over() {
    let world = World::new("payments");
    let app = world.process(consumers![book]).start().await;
    publish(&app, 1).await;
    app.settled().await;
    world.wire.always(Op::Remembered, Fault::Fail(BrokerErrorKind::Unavailable));
    for n in [1, 2] {
        publish(&app, n).await;
    }
    app.advance(secs(3)).await;
    assert_eq!(world.lab.events("book"), [1]);
    world.wire.heal();
    app.settled().await;
    assert_eq!((world.lab.events("book"), counts(&app, "book").1), (vec![1, 2], 1));
}

/// A producer publishes everything twice or more, at random moments, while processes are killed. An event that runs again does so
/// only because its own entry came again after a crash: never because of its copies.
#[tokio::test]
async fn copies_are_passed_over_whatever_happens_to_processes() {
    for seed in 0..60 {
        let (world, mut dice) = (World::new("payments"), Dice::new(seed));
        let concurrency = [1, 4][dice.index(2)];
        let options = OPTIONS.with_concurrency(concurrency).with_checkpoint_events(1 + dice.below(20) as u32);
        let start = async || world.process(consumers![book]).options(options).start().await;
        for n in 0..40 {
            if n % 7 == 3 {
                world.lab.script("book", n, [Act::Fail, Act::Sleep(millis(30))]);
            }
        }
        let mut app = start().await;
        let (mut next, mut crashes) = (0, 0);
        for _ in 0..60 {
            match dice.below(8) {
                0 => {
                    app.kill().await;
                    crashes += 1;
                    app = start().await;
                }
                1 => app.advance(Duration::from_millis(dice.below(15_000))).await,
                2..=4 => {
                    publish(&app, next).await;
                    next += 1;
                }
                _ => publish(&app, dice.below(next.max(1))).await,
            }
        }
        for n in 0..next {
            publish(&app, n).await;
        }
        app.settled().await;
        for n in 0..next {
            let first_attempts = world.lab.attempts("book", n).iter().filter(|attempt| **attempt == 1).count();
            assert!(first_attempts >= 1, "seed {seed}: event {n} is lost");
            assert!(
                first_attempts <= 1 + crashes,
                "seed {seed}: event {n} ran {first_attempts} times in {crashes} crashes"
            );
        }
        if crashes == 0 {
            assert_eq!(
                world.lab.sorted("book").len() as u64,
                next + (0..next).filter(|n| n % 7 == 3 && *n < 40).count() as u64
            );
        }
    }
}
