//! Promises to consumers of batches: what gathers, in which order, what becomes of a batch that fails, and what a crash
//! repeats.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::BrokerErrorKind;
use streams_runtime::broker::Redis;
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Batch, BoxError, Config, ConsumerOptions, Context, DeadLetter, Error, FromContext, Outcome, Phase, Start,
    State, Stopped, codec, consumer, consumers, stream_event,
};
use streams_tests::{Act, Fault, Gate, Lab, Op, Process, RedisServer, World, millis, payload, secs};
use tokio::time::Instant;

#[stream_event(stream = "rows")]
#[derive(Debug, Clone, PartialEq)]
struct Row {
    n: u64,
    text: String,
}

/// Another event of the same stream.
#[stream_event(stream = "rows")]
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    n: u64,
}

/// A header of the first event; a test of how often it is made.
struct Tenant(String);

impl FromContext for Tenant {
    type Rejection = BoxError;

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        Ok(Self(ctx.headers().get("tenant").unwrap_or_default().to_owned()))
    }
}

#[consumer(group = "load", batch = 5, max_attempts = 3, timeout = "1s")]
async fn load(rows: Batch<Row>, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    assert_eq!((rows.attempt(), rows.len(), rows[0].entry_id()), (ctx.attempt(), ctx.entries().len(), ctx.entry_id()));
    lab.note_batch(&ctx, rows.events().map(|row| row.n));
    for row in &rows {
        match lab.handle(&ctx, row.event.n).await? {
            Outcome::Done => {}
            other => return Ok(other),
        }
    }
    Ok(Outcome::Done)
}

#[consumer(group = "load")]
async fn mark(mark: Mark, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.note_batch(&ctx, [mark.n]);
    lab.handle(&ctx, mark.n).await
}

#[consumer(group = "by-default")]
async fn by_default(rows: &Batch<Row>, ctx: Context, lab: State<Lab>, tenant: Tenant) {
    assert_eq!(tenant.0, rows[0].headers().get("tenant").unwrap_or_default());
    lab.note_batch(&ctx, rows.events().map(|row| row.n));
}

fn row(n: u64) -> Row {
    Row { n, text: String::new() }
}

fn rows(rows: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Row> {
    rows.into_iter().map(row)
}

/// The events in the dead letters, with cause and attempts.
async fn dead(app: &Process) -> Vec<(u64, String, u32)> {
    let of = |letter: &DeadLetter<Row>| {
        (letter.decode().map_or(0, |row| row.n), letter.cause().to_owned(), letter.attempts())
    };
    app.dead::<Row>("load").await.iter().map(of).collect()
}

// Gathering.

#[tokio::test]
async fn a_backlog_comes_in_full_batches_and_the_rest_after_the_wait() {
    let world = World::new("rows");
    for n in 1..=12 {
        world.append("Row@1", &payload(&row(n))).await;
    }
    let app = world.process(consumers![load]).start().await;
    app.settled().await;
    assert_eq!(world.lab.batches(), [vec![1, 2, 3, 4, 5], vec![6, 7, 8, 9, 10], vec![11, 12]]);
    assert_eq!((app.status("load").handled, app.status("load").passed_over), (12, 0));
}

#[tokio::test]
async fn a_batch_waits_from_its_first_event_on_and_no_longer() {
    let world = World::new("rows");
    let app = world.process(consumers![load]).start().await;
    app.advance(secs(1)).await;
    let began = Instant::now();
    app.publish_all(rows([1])).await;
    app.advance(millis(60)).await;
    app.publish_all(rows([2])).await;
    assert!(world.lab.batch_calls().is_empty());
    world.lab.called("load", 2).await;
    let waited = began.elapsed();
    assert!(waited >= millis(100) && waited < millis(110), "{waited:?}");
    assert_eq!(world.lab.batches(), [[1, 2]]);
    app.publish_all(rows(3..=7)).await;
    world.lab.called("load", 7).await;
    assert!(began.elapsed() < waited + millis(50), "a full batch does not wait");
}

#[tokio::test]
async fn without_a_wait_a_batch_takes_what_has_been_read() {
    let world = World::new("rows");
    for n in 1..=3 {
        world.append("Row@1", &payload(&row(n))).await;
    }
    let app =
        world.process(consumers![load]).options(ConsumerOptions::DEFAULT.with_batch_wait(Duration::ZERO)).start().await;
    let began = Instant::now();
    world.lab.called("load", 3).await;
    assert!(began.elapsed() < millis(50), "{:?}", began.elapsed());
    assert_eq!(world.lab.batches(), [[1, 2, 3]]);
    app.publish_all(rows([4])).await;
    app.settled().await;
    assert_eq!(world.lab.batches()[1], [4]);
}

#[tokio::test]
async fn a_config_decides_over_the_attribute_and_the_default_is_a_hundred() {
    let world = World::new("rows");
    for n in 1..=150 {
        world.append("Row@1", &payload(&row(n))).await;
    }
    let app = world.process(consumers![load]).options(ConsumerOptions::DEFAULT.with_batch(60)).start().await;
    app.settled().await;
    assert_eq!(world.lab.batches().iter().map(Vec::len).collect::<Vec<_>>(), [60, 60, 30]);
    let world = World::new("rows");
    for n in 1..=150 {
        world.append("Row@1", &payload(&row(n))).await;
    }
    let app = world.process(consumers![by_default]).start().await;
    app.settled().await;
    assert_eq!(world.lab.batches().iter().map(Vec::len).collect::<Vec<_>>(), [100, 50]);
}

#[tokio::test]
async fn an_argument_is_made_once_from_the_first_event() {
    let world = World::new("rows");
    let app = world.process(consumers![by_default]).start().await;
    app.publisher().publish(&row(1)).header("tenant", "a").await.unwrap();
    app.publisher().publish(&row(2)).header("tenant", "b").await.unwrap();
    app.settled().await;
    assert_eq!(world.lab.batch_calls(), [(vec![1, 2], 1)]);
}

#[tokio::test]
async fn an_event_of_another_consumer_ends_a_batch_and_the_order_is_kept() {
    let world = World::new("rows");
    let app = world.process(consumers![load, mark]).start().await;
    app.publish_all(rows([1, 2])).await;
    app.publish(&Mark { n: 3 }).await.unwrap();
    app.publish_all(rows([4, 5])).await;
    app.publish(&Mark { n: 6 }).await.unwrap();
    app.publish(&Mark { n: 7 }).await.unwrap();
    app.publish_all(rows([8])).await;
    app.settled().await;
    assert_eq!(world.lab.batches(), [vec![1, 2], vec![3], vec![4, 5], vec![6], vec![7], vec![8]]);
}

#[tokio::test]
async fn events_that_nobody_takes_lie_within_a_batch() {
    let world = World::new("rows");
    world.append("Unheard@1", b"x").await;
    for n in 1..=6 {
        world.append("Row@1", &payload(&row(n))).await;
        world.append("Unheard@1", b"x").await;
    }
    let last = world.append("Mark@1", b"x").await;
    let app = world.process(consumers![load]).start().await;
    app.settled().await;
    assert_eq!(world.lab.batches(), [vec![1, 2, 3, 4, 5], vec![6]]);
    assert_eq!((app.status("load").handled, app.status("load").passed_over), (6, 8));
    app.advance(secs(1)).await;
    assert_eq!(world.group("load").at().await, last);
}

#[tokio::test]
async fn a_batch_weighs_no_more_than_its_bound() {
    let world = World::new("rows");
    let text = "x".repeat(900 * 1024);
    let mut payload = Vec::new();
    for n in 1..=10 {
        payload.clear();
        codec::encode(&Row { n, text: text.clone() }, &mut payload).unwrap();
        world.append("Row@1", &payload).await;
    }
    let app = world.process(consumers![load]).options(ConsumerOptions::DEFAULT.with_batch(10)).start().await;
    app.settled().await;
    assert_eq!(world.lab.batches(), [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 10]]);
}

// Failures.

#[tokio::test]
async fn a_failing_batch_is_tried_again_whole_and_in_its_place() {
    let world = World::new("rows");
    world.lab.script("load", 2, [Act::Fail, Act::Panic]);
    let app = world.process(consumers![load]).start().await;
    let began = Instant::now();
    app.publish_all(rows(1..=7)).await;
    app.settled().await;
    let first = vec![1, 2, 3, 4, 5];
    assert_eq!(world.lab.batch_calls(), [(first.clone(), 1), (first.clone(), 2), (first, 3), (vec![6, 7], 1)]);
    assert_eq!((app.status("load").retried, app.status("load").handled), (2, 7));
    assert!(began.elapsed() >= millis(150), "with waits between them");
    assert!(dead(&app).await.is_empty());
}

/// A batch of five of which the second and the fourth are bad.
async fn apart(act: Act, together: u32, cause: &str, alone: u32) {
    let world = World::new("rows");
    world.lab.always("load", 2, act.clone());
    world.lab.always("load", 4, act);
    let app = world.process(consumers![load]).start().await;
    app.publish_all(rows(1..=7)).await;
    app.settled().await;
    let whole = (1..=together).map(|attempt| (vec![1, 2, 3, 4, 5], attempt));
    let next = together + 1;
    let singly = (1..=5).map(|n| (vec![n], next));
    let expected: Vec<_> = whole.chain(singly).chain([(vec![6, 7], 1)]).collect();
    assert_eq!(world.lab.batch_calls(), expected);
    let cause = cause.to_owned();
    assert_eq!(dead(&app).await, [(2, cause.clone(), alone), (4, cause, alone)]);
    assert_eq!((app.status("load").handled, app.status("load").dead_lettered), (5, 2));
}

#[tokio::test]
async fn when_its_attempts_are_over_only_the_bad_events_of_a_batch_become_dead_letters() {
    apart(Act::Fail, 3, "handler", 4).await;
}

#[tokio::test]
async fn a_batch_that_panics_or_outruns_its_timeout_has_failed() {
    apart(Act::Panic, 3, "panic", 4).await;
    apart(Act::Hang, 3, "timeout", 4).await;
}

#[tokio::test]
async fn a_verdict_on_a_batch_is_given_on_each_of_its_events_at_once() {
    apart(Act::Permanent, 1, "permanent", 2).await;
    apart(Act::Give(Outcome::dead_letter("no such account")), 1, "asked", 2).await;
}

#[tokio::test]
async fn asking_for_another_attempt_at_a_batch_has_an_end() {
    apart(Act::Give(Outcome::RetryAfter(secs(1))), 3, "handler", 4).await;
}

#[tokio::test]
async fn an_event_alone_has_the_attempts_that_its_batch_has_left() {
    let world = World::new("rows");
    world.lab.script("load", 1, [Act::Permanent]);
    world.lab.script("load", 2, [Act::Fail, Act::Fail]);
    let app = world.process(consumers![load]).start().await;
    app.publish_all(rows([1, 2, 3])).await;
    app.settled().await;
    assert_eq!(world.lab.batch_calls(), [(vec![1, 2, 3], 1), (vec![1], 2), (vec![2], 2), (vec![2], 3), (vec![3], 2)]);
    assert!(dead(&app).await.is_empty());
}

#[tokio::test]
async fn a_batch_of_one_event_has_no_more_attempts_than_an_event() {
    let world = World::new("rows");
    world.lab.always("load", 1, Act::Fail);
    let app = world.process(consumers![load]).start().await;
    app.publish_all(rows([1])).await;
    world.append("Unheard@1", b"x").await;
    app.settled().await;
    assert_eq!(world.lab.batch_calls(), [(vec![1], 1), (vec![1], 2), (vec![1], 3)]);
    assert_eq!(dead(&app).await, [(1, "handler".to_owned(), 3)]);
}

#[tokio::test]
async fn a_batch_that_is_skipped_is_skipped_whole() {
    let world = World::new("rows");
    world.lab.script("load", 2, [Act::Give(Outcome::skip("seen before"))]);
    let app = world.process(consumers![load]).start().await;
    app.publish_all(rows(1..=3)).await;
    app.settled().await;
    assert_eq!((app.status("load").skipped, app.status("load").handled), (3, 0));
    assert_eq!(world.lab.batch_calls(), [(vec![1, 2, 3], 1)]);
}

#[tokio::test]
async fn what_cannot_be_decoded_is_a_dead_letter_in_its_place_and_in_no_batch() {
    let world = World::new("rows");
    for n in 1..=2 {
        world.append("Row@1", &payload(&row(n))).await;
    }
    world.append("Row@1", &[0xc1]).await;
    world.append("Row@1", &payload(&row(4))).await;
    world.append("Unheard@1", b"x").await;
    world.append("Row@1", &payload(&row(5))).await;
    // It names no event, so nobody knows who would take it.
    world.append("@", b"x").await;
    world.append("Row@1", &payload(&row(7))).await;
    let app = world.process(consumers![load]).start().await;
    app.settled().await;
    assert_eq!(world.lab.batch_calls(), [(vec![1, 2], 1), (vec![4, 5], 1), (vec![7], 1)]);
    let cause = "decode".to_owned();
    assert_eq!(dead(&app).await, [(0, cause.clone(), 1), (0, cause, 1)]);
    assert_eq!(
        (app.status("load").handled, app.status("load").dead_lettered, app.status("load").passed_over),
        (5, 2, 1)
    );
}

#[tokio::test]
async fn a_version_that_is_too_new_halts_the_group_behind_the_events_before_it() {
    let world = World::new("rows");
    world.append("Row@1", &payload(&row(1))).await;
    let before = world.append("Row@1", &payload(&row(2))).await;
    let newer = world.append("Row@2", b"x").await;
    world.append("Row@1", &payload(&row(4))).await;
    let app = world.process(consumers![load]).start().await;
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_))));
    let Phase::Halted(halt) = app.status("load").phase else { panic!("{:?}", app.running().status()) };
    assert!(halt.reason().contains(&newer.to_string()), "{halt}");
    assert_eq!((world.lab.batches(), world.group("load").at().await), (vec![vec![1, 2]], before));
}

#[tokio::test]
async fn bad_events_in_a_row_are_a_storm_also_in_batches() {
    let world = World::new("rows");
    (1..=30).for_each(|n| world.lab.always("load", n, Act::Permanent));
    let app = world.process(consumers![load]).start().await;
    app.publish_all(rows(1..=30)).await;
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_))));
    assert_eq!(dead(&app).await.len(), 20);
}

#[tokio::test]
async fn attempts_at_a_batch_before_a_restart_count() {
    let world = World::new("rows");
    world.lab.always("load", 2, Act::Fail);
    let app = world.process(consumers![load]).start().await;
    app.publish_all(rows(1..=3)).await;
    world.lab.called("load", 4).await;
    app.advance(millis(1)).await;
    // A crash would take the batch apart.
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    let app = world.process(consumers![load]).start().await;
    app.settled().await;
    let whole = vec![1, 2, 3];
    assert_eq!(world.lab.batch_calls()[..3], [(whole.clone(), 1), (whole.clone(), 2), (whole, 3)]);
    assert_eq!(dead(&app).await, [(2, "handler".to_owned(), 4)]);
}

// Checkpoints.

#[tokio::test]
async fn a_batch_is_committed_once_and_whole() {
    let world = World::new("rows");
    let each = ConsumerOptions::DEFAULT.with_checkpoint_events(1).with_checkpoint_interval(Duration::ZERO);
    let app = world.process(consumers![load]).options(each).start().await;
    app.settled().await;
    let (before, gate) = (world.wire.calls(Op::Commit), Gate::default());
    world.lab.script("load", 8, [Act::Wait(gate.clone())]);
    let ids = app.publish_all(rows(1..=10)).await;
    gate.arrived(1).await;
    // The second batch began when the first was committed, although it is larger than what may be repeated.
    assert_eq!((world.group("load").at().await, world.wire.calls(Op::Commit) - before), (ids[4], 1));
    gate.open();
    app.settled().await;
    assert_eq!((world.group("load").at().await, world.wire.calls(Op::Commit) - before), (ids[9], 2));
}

#[tokio::test]
async fn what_has_gathered_does_not_count_as_seen_before_it_is_settled() {
    let world = World::new("rows");
    let app = gathering(&world).await;
    // Each of these finds some that wait.
    for n in 3..=7 {
        app.publish_all(rows([n])).await;
        app.advance(millis(1)).await;
    }
    assert_eq!(world.lab.batches(), [[1, 2, 3, 4, 5]]);
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    assert_eq!(world.group("load").steal("thief").await.seen, Some(5));
}

#[tokio::test]
async fn no_more_than_the_bound_runs_beyond_the_acknowledged_checkpoint() {
    for (bound, runs) in [(3, 5), (5, 5), (9, 5), (10, 10), (14, 10), (15, 15)] {
        let world = World::new("rows");
        let config = Config::new().consumers(ConsumerOptions::DEFAULT.with_checkpoint_events(bound));
        let app = world.process(consumers![load]).config(config).start().await;
        app.settled().await;
        world.wire.always(Op::Commit, Fault::Hold(Gate::default()));
        app.publish_all(rows(1..=50)).await;
        app.advance(secs(3)).await;
        assert_eq!(world.lab.events("load"), (1..=runs).collect::<Vec<_>>(), "{bound}");
        drop(app);
        world.wire.heal();
        // A crash repeats these, and no others.
        let app = world.process(consumers![load]).start().await;
        app.settled().await;
        assert_eq!(world.lab.events("load"), (1..=runs).chain(1..=50).collect::<Vec<_>>(), "{bound}");
    }
}

#[tokio::test]
async fn a_batch_that_needs_room_does_not_wait_for_the_interval() {
    let world = World::new("rows");
    let config = ConsumerOptions::DEFAULT.with_checkpoint_events(7).with_checkpoint_interval(Duration::MAX);
    let app = world.process(consumers![load]).options(config).start().await;
    app.settled().await;
    // Three are less than what a commit begins at, and leave no room for five.
    app.publish_all(rows(1..=3)).await;
    world.lab.called("load", 3).await;
    app.publish_all(rows(4..=8)).await;
    world.lab.called("load", 8).await;
    assert_eq!(world.lab.batches(), [vec![1, 2, 3], vec![4, 5, 6, 7, 8]]);
    drop(app);
}

// Ends.

/// An app in which two events have gathered for a batch that would wait for a minute.
async fn gathering(world: &World) -> Process {
    let app = world.process(consumers![load]).options(ConsumerOptions::DEFAULT.with_batch_wait(secs(60))).start().await;
    app.settled().await;
    app.publish_all(rows([1, 2])).await;
    app.advance(secs(5)).await;
    assert!(world.lab.batch_calls().is_empty());
    app
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_batch_which_comes_again() {
    let world = World::new("rows");
    let app = gathering(&world).await;
    let began = Instant::now();
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    assert!(world.lab.batch_calls().is_empty());
    let app = world.process(consumers![load]).start().await;
    app.settled().await;
    assert_eq!(world.lab.batch_calls(), [(vec![1, 2], 1)]);
}

#[tokio::test]
async fn a_stop_waits_for_the_batch_in_hand() {
    let world = World::new("rows");
    world.lab.script("load", 2, [Act::Sleep(millis(500))]);
    let app = world.process(consumers![load]).start().await;
    let ids = app.publish_all(rows(1..=7)).await;
    world.lab.called("load", 2).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    assert_eq!((world.lab.batches(), world.group("load").at().await), (vec![vec![1, 2, 3, 4, 5]], ids[4]));
}

#[tokio::test]
async fn settled_waits_for_what_gathers() {
    let world = World::new("rows");
    let app = gathering(&world).await;
    let began = Instant::now();
    app.settled().await;
    assert!(began.elapsed() >= secs(50), "{:?}", began.elapsed());
    assert_eq!(world.lab.batches(), [[1, 2]]);
}

#[tokio::test]
async fn what_gathers_is_dropped_with_the_lease() {
    let world = World::new("rows");
    let one = gathering(&world).await;
    world.group("load").steal("thief").await;
    // A renewal finds it out before the minute is over.
    one.advance(secs(10) / 2).await;
    assert_eq!(one.status("load").phase, Phase::StandingBy { owner: "thief".to_owned() });
    assert!(world.lab.batch_calls().is_empty());
    one.settled().await;
    // Alone: whose lease was taken may have ended over one of them.
    assert_eq!(world.lab.batch_calls(), [(vec![1], 1), (vec![2], 1)]);
}

#[tokio::test]
async fn a_lost_lease_ends_a_batch_at_its_await() {
    let world = World::new("rows");
    world.lab.script("load", 2, [Act::Hang]);
    let app = world.process(consumers![load]).options(ConsumerOptions::DEFAULT.with_timeout(secs(600))).start().await;
    app.publish_all(rows([1, 2])).await;
    world.lab.called("load", 2).await;
    world.lab.script("load", 2, []);
    world.wire.always(Op::Renew, Fault::Fail(BrokerErrorKind::Unavailable));
    app.advance(secs(10) + secs(1)).await;
    assert_eq!(world.lab.cancelled("load"), [2]);
    world.wire.heal();
    app.settled().await;
    assert_eq!(world.lab.batch_calls(), [(vec![1, 2], 1), (vec![1, 2], 1)]);
}

#[tokio::test]
async fn what_has_gathered_is_handled_before_a_loss_is_reported() {
    let world = World::new("rows");
    let app = gathering(&world).await;
    // Deleted before the tail has its turn, and found by a look before the minute is over.
    let lost = world.append("Row@1", &payload(&row(3))).await;
    world.store.remove(&world.partition(), &[lost]);
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_))));
    assert_eq!(world.lab.batches(), [[1, 2]]);
    assert_eq!(app.status("load").losses, 1);
    // Behind the loss, nothing that had gathered is left out.
    app.running().admin().reset("rows", "load", Start::At(lost)).await.unwrap();
    app.advance(secs(5)).await;
    app.publish_all(rows([4])).await;
    app.settled().await;
    assert_eq!(world.lab.batches().concat(), [1, 2, 4]);
}

// A real server.

#[tokio::test]
async fn batches_work_on_redis() {
    let server = RedisServer::shared().database();
    let lab = Lab::default();
    lab.always("load", 7, Act::Fail);
    let config = Config::new().consumers(ConsumerOptions::DEFAULT.with_backoff(millis(1), millis(2)));
    let app = || App::with(consumers![load]).state(lab.clone()).config(config.clone());
    let start = async || app().broker(Arc::new(Redis::open(&server).unwrap())).start().await.unwrap();
    let running = start().await;
    let receipts = running.publisher().publish_all((1..=23).map(row)).await;
    assert!(receipts.iter().all(Result::is_ok));
    running.settled().await.unwrap();
    let letters = running.dead_letters::<Row>("load").list(None, 10).await.unwrap();
    assert_eq!(
        letters.iter().map(|letter| (letter.decode().unwrap().n, letter.attempts())).collect::<Vec<_>>(),
        [(7, 4)]
    );
    assert_eq!(running.shutdown().await, Stopped::Clean);
    let seen = lab.batch_calls();
    assert!(seen.iter().any(|(batch, _)| batch.len() == 5), "{seen:?}");
    let first = |n| seen.iter().position(|(batch, _)| batch.contains(&n));
    assert!((1..23).all(|n| first(n).unwrap() <= first(n + 1).unwrap()), "{seen:?}");
    // Nothing is repeated after a clean stop.
    let running = start().await;
    running.publisher().publish(&row(24)).await.unwrap();
    running.settled().await.unwrap();
    assert_eq!(lab.batch_calls().split_at(seen.len()).1, [(vec![24], 1)]);
    assert_eq!(running.shutdown().await, Stopped::Clean);
}
