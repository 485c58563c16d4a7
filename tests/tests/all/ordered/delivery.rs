//! Promises of ordered delivery, in virtual time: apps that share one embedded broker stand for processes.

use std::time::Duration;

use streams_core::broker::{Acquired, BrokerErrorKind, Claim, DeadBounds, Groups, Letters};
use streams_runtime::testing::TestApp;
use streams_runtime::{
    BoxError, Config, ConsumerOptions, Context, DeadLetter, EntryId, Error, Outcome, Phase, Start, State, Stopped,
    consumer, consumers, stream_event,
};
use streams_tests::{Act, BEGINNING, Fault, Faulty, Gate, Lab, Op, Process, World, logged, millis, payload, secs};
use tokio::time::Instant;

#[stream_event(stream = "lab")]
#[derive(Debug, Clone, PartialEq)]
struct Step {
    n: u64,
}

/// Another event of the same stream.
#[stream_event(stream = "lab")]
#[derive(Debug, Clone, PartialEq)]
struct Turn {
    n: u64,
}

/// An event whose first version nobody reads any more.
#[stream_event(stream = "lab", version = 2, oldest = 2)]
#[derive(Debug, Clone, PartialEq)]
struct Second {
    n: u64,
}

#[consumer(group = "left")]
async fn left(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

#[consumer(group = "right")]
async fn right(step: &Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

#[consumer(group = "both")]
async fn both_steps(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

#[consumer(group = "both")]
async fn both_turns(turn: Turn, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, turn.n).await
}

#[consumer(group = "second")]
async fn second(second: Second, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, second.n).await
}

fn each(steps: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Step> {
    steps.into_iter().map(|n| Step { n })
}

/// Two processes once it has settled which of them owns the group: the owner first.
async fn pair(world: &World, wires: [&Faulty; 2]) -> (Process, Process) {
    let one = world.process(consumers![left]).on(wires[0]).start().await;
    let other = world.process(consumers![left]).on(wires[1]).start().await;
    other.advance(secs(5)).await;
    if one.owns("left") { (one, other) } else { (other, one) }
}

/// With so few attempts that a test need not wait for ten.
fn three_attempts() -> Config {
    Config::new().consumers(ConsumerOptions::DEFAULT.with_max_attempts(3))
}

// Order and independence.

#[tokio::test]
async fn an_error_in_one_group_never_shows_in_another() {
    let world = World::new("lab");
    world.lab.always("left", 2, Act::Fail);
    let app = world.process(consumers![left, right]).config(three_attempts()).start().await;
    app.publish_all(each(1..=4)).await;
    app.settled().await;
    assert_eq!(world.lab.calls("right"), [(1, 1), (2, 1), (3, 1), (4, 1)]);
    let right = app.status("right");
    assert_eq!((right.handled, right.retried, right.dead_lettered), (4, 0, 0));
    assert!(app.dead::<Step>("right").await.is_empty());
    assert_eq!(app.dead::<Step>("left").await.len(), 1);
}

#[tokio::test]
async fn a_slow_group_holds_no_other_up() {
    let world = World::new("lab");
    world.lab.always("left", 1, Act::Sleep(secs(20)));
    let app = world.process(consumers![left, right]).start().await;
    app.publish_all(each(1..=5)).await;
    world.lab.called("right", 5).await;
    assert_eq!(world.lab.events("left"), [1]);
    app.settled().await;
    assert_eq!(world.lab.events("left"), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_failed_event_is_tried_again_in_its_place_after_growing_waits() {
    let world = World::new("lab");
    world.lab.script("left", 2, [Act::Fail, Act::Fail, Act::Panic]);
    let app = world.process(consumers![left]).start().await;
    let began = Instant::now();
    app.publish_all(each(1..=3)).await;
    world.lab.called("left", 6).await;
    assert_eq!(world.lab.calls("left"), [(1, 1), (2, 1), (2, 2), (2, 3), (2, 4), (3, 1)]);
    // 100 + 200 + 400 ms, of which jitter takes at most half.
    let waited = began.elapsed();
    assert!(waited >= millis(350) && waited <= millis(720), "{waited:?}");
    assert_eq!(app.status("left").retried, 3);
}

#[tokio::test]
async fn attempts_before_a_crash_count() {
    let world = World::new("lab");
    world.lab.always("left", 1, Act::Fail);
    let app = world.process(consumers![left]).config(three_attempts()).start().await;
    app.publish_all(each([1])).await;
    world.lab.called("left", 2).await;
    app.advance(millis(1)).await;
    drop(app);
    let app = world.process(consumers![left]).config(three_attempts()).start().await;
    app.settled().await;
    assert_eq!(world.lab.calls("left"), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(app.dead::<Step>("left").await[0].attempts(), 3);
}

#[tokio::test]
async fn attempts_before_a_stop_count() {
    let world = World::new("lab");
    world.lab.always("left", 1, Act::Fail);
    let app = world.process(consumers![left]).config(three_attempts()).start().await;
    app.publish_all(each([1])).await;
    world.lab.called("left", 2).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    let app = world.process(consumers![left]).config(three_attempts()).start().await;
    app.settled().await;
    assert_eq!(world.lab.calls("left"), [(1, 1), (1, 2), (1, 3)]);
}

#[tokio::test]
async fn the_attempts_of_an_event_that_succeeds_are_forgotten() {
    let world = World::new("lab");
    world.lab.script("left", 1, [Act::Fail]);
    let app = world.process(consumers![left]).start().await;
    app.publish_all(each([1])).await;
    app.settled().await;
    let seen = world.group("left").state().await.lease;
    let claim = Claim { owner: "next".to_owned(), lease_for: secs(10), seen, own: false, bound: 1_000 };
    match world.store.acquire(&world.group("left").key, &claim).await.unwrap() {
        Acquired::Held(holding) => assert!(holding.attempts.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_event_types_of_one_group_are_handled_in_the_order_of_their_stream() {
    let world = World::new("lab");
    world.lab.script("both", 3, [Act::Fail, Act::Sleep(secs(1))]);
    let app = world.process(consumers![both_steps, both_turns]).start().await;
    for n in 1..=6 {
        if n % 2 == 0 {
            app.publish(&Step { n }).await.unwrap();
        } else {
            app.publish(&Turn { n }).await.unwrap();
        }
    }
    app.settled().await;
    assert_eq!(world.lab.events("both"), [1, 2, 3, 3, 4, 5, 6]);
}

#[tokio::test]
async fn an_event_that_no_consumer_of_the_group_takes_is_passed_over_and_counted() {
    let world = World::new("lab");
    let app = world.process(consumers![left]).start().await;
    world.append("Unheard", b"anything").await;
    app.publish(&Turn { n: 1 }).await.unwrap();
    app.publish_all(each([2])).await;
    app.settled().await;
    let last = world.append("Unheard@9", b"anything").await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), [2]);
    assert_eq!((app.status("left").passed_over, app.status("left").handled), (3, 1));
    app.advance(secs(1)).await;
    assert_eq!(world.group("left").at().await, last);
}

// Dead letters.

#[tokio::test]
async fn a_dead_letter_keeps_everything_of_the_event_and_says_why() {
    let world = World::new("lab");
    world.lab.always("left", 7, Act::Fail);
    let app = world.process(consumers![left]).config(three_attempts()).start().await;
    let event = Step { n: 7 };
    let receipt = app.publisher().publish(&event).id("step-7").header("tenant", "a").await.unwrap();
    app.settled().await;
    let letters = app.dead::<Step>("left").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.cause(), letter.attempts(), letter.reason()), ("handler", 3, "event 7 fails"));
    assert_eq!((letter.stream(), letter.consumer()), ("lab", "left"));
    assert_eq!(letter.original().id, receipt.entry_id);
    assert_eq!(letter.original().event_id().as_str(), "step-7");
    assert_eq!(letter.original().headers().get("tenant"), Some("a"));
    assert_eq!(letter.original().payload(), Some(payload(&Step { n: 7 }).as_slice()));
    assert_eq!(letter.decode().unwrap(), event);
    let raw = &world.store.dead_letters(&world.group("left").key, EntryId::ZERO, 9).await.unwrap()[0];
    assert_eq!(raw.field("group"), Some(b"left".as_slice()));
}

async fn becomes(act: Act, cause: &str, attempts: u32, reason: &str) {
    let world = World::new("lab");
    world.lab.always("left", 1, act);
    let options = ConsumerOptions::DEFAULT.with_max_attempts(3).with_timeout(secs(1));
    let app = world.process(consumers![left]).options(options).start().await;
    app.publish_all(each([1, 2])).await;
    app.settled().await;
    let letters = app.dead::<Step>("left").await;
    let found: Vec<_> = letters.iter().map(|letter| (letter.cause(), letter.attempts(), letter.reason())).collect();
    assert_eq!(found, [(cause, attempts, reason)]);
    assert_eq!(world.lab.calls("left").len(), attempts as usize + 1);
}

#[tokio::test]
async fn an_error_is_a_dead_letter_after_its_last_attempt() {
    becomes(Act::Fail, "handler", 3, "event 1 fails").await;
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt() {
    becomes(Act::Panic, "panic", 3, "panicked: event 1 panics").await;
}

#[tokio::test]
async fn a_handler_past_its_timeout_is_cancelled_and_has_failed() {
    becomes(Act::Hang, "timeout", 3, "took longer than its timeout of 1s").await;
}

#[tokio::test]
async fn a_panic_of_a_handler_that_is_cancelled_is_a_failed_attempt_like_any_other() {
    becomes(Act::PanicWhenDropped, "timeout", 3, "took longer than its timeout of 1s").await;
}

#[tokio::test]
async fn a_permanent_error_is_a_dead_letter_at_once() {
    becomes(Act::Permanent, "permanent", 1, "event 1 never works").await;
}

#[tokio::test]
async fn a_handler_may_ask_for_a_dead_letter() {
    becomes(Act::Give(Outcome::dead_letter("no such account")), "asked", 1, "no such account").await;
}

#[tokio::test]
async fn asking_for_another_attempt_has_an_end() {
    let reason = "the handler asked for another attempt 3 times, which is `max_attempts`";
    becomes(Act::Give(Outcome::RetryAfter(secs(60))), "handler", 3, reason).await;
}

#[tokio::test]
async fn another_attempt_comes_when_it_was_asked_for() {
    let world = World::new("lab");
    world.lab.script("left", 1, [Act::Give(Outcome::RetryAfter(secs(60)))]);
    let app = world.process(consumers![left]).start().await;
    app.publish_all(each([1])).await;
    world.lab.called("left", 1).await;
    let began = Instant::now();
    world.lab.called("left", 2).await;
    assert!(began.elapsed() >= secs(59) && began.elapsed() <= secs(61), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_skipped_event_is_settled_and_counted_apart() {
    let world = World::new("lab");
    world.lab.script("left", 1, [Act::Give(Outcome::skip("seen before"))]);
    let app = world.process(consumers![left]).start().await;
    app.publish_all(each([1, 2])).await;
    app.settled().await;
    assert_eq!((app.status("left").skipped, app.status("left").handled), (1, 1));
    assert!(app.dead::<Step>("left").await.is_empty());
}

#[tokio::test]
async fn bytes_that_are_not_the_event_are_a_dead_letter_with_the_raw_bytes() {
    let world = World::new("lab");
    let app = world.process(consumers![left]).start().await;
    let bad = world.append("Step@1", &[0xc1, 0xff, 0x00]).await;
    app.publish_all(each([2])).await;
    app.settled().await;
    let letter = &app.dead::<Step>("left").await[0];
    assert_eq!((letter.cause(), letter.attempts(), letter.consumer()), ("decode", 1, "left"));
    assert_eq!(letter.original().payload(), Some([0xc1, 0xff, 0x00].as_slice()));
    assert_eq!(letter.original().id, bad);
    assert!(letter.decode().is_err());
    assert_eq!(world.lab.events("left"), [2]);
}

#[tokio::test]
async fn an_entry_that_names_no_event_is_a_dead_letter() {
    let world = World::new("lab");
    let app = world.process(consumers![left]).start().await;
    world.append_raw(vec![(b"payload".to_vec(), payload(&Step { n: 1 }))]).await;
    world.append("Step@one", &payload(&Step { n: 1 })).await;
    world.append_raw(vec![(b"event".to_vec(), b"Step".to_vec())]).await;
    app.settled().await;
    let letters = app.dead::<Step>("left").await;
    let found: Vec<_> = letters.iter().map(|letter| (letter.cause(), letter.consumer())).collect();
    assert_eq!(found, [("decode", ""), ("decode", ""), ("decode", "left")]);
    assert!(world.lab.events("left").is_empty());
}

#[tokio::test]
async fn a_version_that_is_too_old_is_a_dead_letter() {
    let world = World::new("lab");
    let app = world.process(consumers![second]).start().await;
    world.append("Second@1", &payload(&Step { n: 1 })).await;
    world.append("Second@2", &payload(&Step { n: 2 })).await;
    app.settled().await;
    assert_eq!(app.dead::<Step>("second").await[0].cause(), "decode");
    assert_eq!(world.lab.events("second"), [2]);
}

#[tokio::test]
async fn a_version_that_is_too_new_halts_the_group_in_place() {
    let world = World::new("lab");
    let app = world.process(consumers![left, second]).start().await;
    let before = app.publish_all(each([1])).await[0];
    let newer = world.append("Step@2", &payload(&Step { n: 2 })).await;
    app.publish_all(each([3])).await;
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_))));
    app.advance(secs(120)).await;
    let reason = app.halt("left").expect("halted");
    assert!(reason.contains(&newer.to_string()), "{reason}");
    assert_eq!((world.lab.events("left"), world.group("left").at().await), (vec![1], before));
    assert!(app.dead::<Step>("left").await.is_empty());
    // A group that has no consumer for it goes on.
    assert_eq!(app.halt("second"), None);
    // A newer build may take over at once.
    assert_eq!(world.group("left").state().await.lease.owner, "");
}

#[tokio::test]
async fn twenty_dead_letters_in_a_row_halt_the_group_and_keep_its_lease() {
    let world = World::new("lab");
    for n in 1..=30 {
        world.lab.script("left", n, [Act::Permanent]);
    }
    let app = world.process(consumers![left]).start().await;
    app.publish_all(each(1..=30)).await;
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_))));
    assert_eq!((app.dead::<Step>("left").await.len(), world.lab.events("left").len()), (20, 20));
    assert!(app.halt("left").unwrap().contains("looks like an outage"));
    let other = world.process(consumers![left]).start().await;
    other.advance(secs(10) * 5).await;
    assert!(matches!(other.status("left").phase, Phase::StandingBy { .. }));
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    other.advance(secs(1)).await;
    assert_eq!(world.lab.events("left").len(), 30);
}

#[tokio::test]
async fn dead_letters_with_a_success_between_them_are_no_storm() {
    let world = World::new("lab");
    (1..=60).filter(|n| n % 20 != 0).for_each(|n| world.lab.script("left", n, [Act::Permanent]));
    let app = world.process(consumers![left]).start().await;
    app.publish_all(each(1..=60)).await;
    app.settled().await;
    assert_eq!(app.dead::<Step>("left").await.len(), 57);
}

fn two_dead_letters() -> Config {
    let mut config = Config::new();
    config.dead_letters = DeadBounds { count: 2, age: secs(24 * 3600) };
    config
}

/// An app whose third dead letter finds no room.
async fn full(world: &World) -> Process {
    (1..=3).for_each(|n| world.lab.always("left", n, Act::Permanent));
    let app = world.process(consumers![left]).config(two_dead_letters()).start().await;
    app.publish_all(each(1..=5)).await;
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_))));
    app
}

#[tokio::test]
async fn full_dead_letters_halt_the_group_until_some_are_discarded() {
    let world = World::new("lab");
    let app = full(&world).await;
    app.advance(secs(10) * 3).await;
    assert_eq!((world.lab.events("left"), app.dead::<Step>("left").await.len()), (vec![1, 2, 3], 2));
    assert!(app.halt("left").unwrap().contains("are full"), "{:?}", app.status("left"));
    let ids: Vec<_> = app.dead::<Step>("left").await.iter().map(DeadLetter::id).collect();
    assert_eq!(app.running().dead_letters::<Step>("left").discard(&ids).await.unwrap(), 2);
    app.advance(secs(10)).await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), [1, 2, 3, 4, 5]);
    assert_eq!((app.dead::<Step>("left").await.len(), app.halt("left")), (1, None));
}

#[tokio::test]
async fn dead_letters_that_are_too_old_halt_the_group_too() {
    let world = World::new("lab");
    (1..=2).for_each(|n| world.lab.always("left", n, Act::Permanent));
    let app = world.process(consumers![left]).config(two_dead_letters()).start().await;
    app.publish_all(each([1])).await;
    app.settled().await;
    app.advance(secs(25 * 3600)).await;
    app.publish_all(each([2])).await;
    assert!(matches!(TestApp::settled(&app).await, Err(Error::Halted(_))));
    assert_eq!(app.dead::<Step>("left").await.len(), 1);
}

#[tokio::test]
async fn an_app_whose_dead_letters_are_full_stops_and_the_event_comes_again() {
    let world = World::new("lab");
    let app = full(&world).await;
    let began = Instant::now();
    assert_eq!(app.into_running().shutdown().await, Stopped::Uncommitted { groups: 1 });
    assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
    assert_eq!(world.group("left").state().await.lease.owner, "");
    let mut roomy = two_dead_letters();
    roomy.dead_letters.count = 3;
    let app = world.process(consumers![left]).config(roomy).start().await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), [1, 2, 3, 3, 4, 5]);
    assert_eq!(app.dead::<Step>("left").await.len(), 3);
}

// Checkpoints.

#[tokio::test]
async fn with_checkpoint_each_an_event_begins_when_the_one_before_is_committed() {
    let world = World::new("lab");
    let gate = Gate::default();
    world.lab.script("left", 3, [Act::Wait(gate.clone())]);
    let options = ConsumerOptions::DEFAULT.with_checkpoint_events(1).with_checkpoint_interval(Duration::ZERO);
    let app = world.process(consumers![left]).config(Config::new().group("left", options)).start().await;
    let ids = app.publish_all(each(1..=4)).await;
    gate.arrived(1).await;
    assert_eq!(world.group("left").at().await, ids[1]);
    gate.open();
    app.settled().await;
    assert_eq!(world.group("left").at().await, ids[3]);
}

#[tokio::test]
async fn a_lone_event_is_committed_after_the_interval() {
    let world = World::new("lab");
    let app = world.process(consumers![left]).start().await;
    app.advance(secs(1)).await;
    let before = world.group("left").at().await;
    let id = app.publish_all(each([1])).await[0];
    world.lab.called("left", 1).await;
    app.advance(millis(90)).await;
    assert_eq!(world.group("left").at().await, before);
    app.advance(millis(20)).await;
    assert_eq!(world.group("left").at().await, id);
}

#[tokio::test]
async fn no_more_than_one_batch_runs_beyond_the_acknowledged_checkpoint() {
    let world = World::new("lab");
    let (wire, gate) = (world.wire(), Gate::default());
    let ten = ConsumerOptions::DEFAULT.with_checkpoint_events(10);
    let app = world.process(consumers![left]).on(&wire).options(ten).start().await;
    wire.always(Op::Commit, Fault::Hold(gate.clone()));
    app.publish_all(each(1..=50)).await;
    app.advance(secs(5)).await;
    assert_eq!(world.lab.events("left"), (1..=10).collect::<Vec<_>>());
    gate.open();
    app.settled().await;
    assert_eq!(world.lab.events("left"), (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_crash_repeats_at_most_the_one_batch() {
    let world = World::new("lab");
    let wire = world.wire();
    let ten = Config::new().consumers(ConsumerOptions::DEFAULT.with_checkpoint_events(10));
    let app = world.process(consumers![left]).on(&wire).config(ten.clone()).start().await;
    app.publish_all(each(1..=25)).await;
    app.settled().await;
    wire.always(Op::Commit, Fault::Hold(Gate::default()));
    app.publish_all(each(26..=60)).await;
    app.advance(secs(1)).await;
    drop(app);
    let app = world.process(consumers![left]).config(ten).start().await;
    app.settled().await;
    let expected: Vec<_> = (1..=35).chain(26..=60).collect();
    assert_eq!(world.lab.events("left"), expected);
}

#[tokio::test]
async fn a_stop_commits_what_is_settled_and_nothing_is_repeated() {
    let world = World::new("lab");
    let app = world.process(consumers![left]).start().await;
    let ids = app.publish_all(each(1..=20)).await;
    world.lab.called("left", 20).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    assert_eq!(world.group("left").at().await, ids[19]);
    let app = world.process(consumers![left]).start().await;
    app.settled().await;
    assert_eq!(world.lab.events("left").len(), 20);
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_takes_effect_once() {
    let world = World::new("lab");
    let wire = world.wire();
    world.lab.always("left", 2, Act::Permanent);
    let app = world.process(consumers![left]).on(&wire).start().await;
    wire.once(Op::Commit, Fault::LoseReply);
    wire.once(Op::Commit, Fault::LoseReply);
    app.publish_all(each(1..=3)).await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), [1, 2, 3]);
    assert_eq!(app.dead::<Step>("left").await.len(), 1);
    assert!(wire.calls(Op::Commit) >= 3);
}

#[tokio::test]
async fn a_commit_that_fails_is_sent_again_and_nothing_is_repeated() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left]).on(&wire).start().await;
    for kind in [BrokerErrorKind::Unavailable, BrokerErrorKind::Full, BrokerErrorKind::Indefinite] {
        wire.once(Op::Commit, Fault::Fail(kind));
    }
    app.publish_all(each(1..=3)).await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), [1, 2, 3]);
    assert!(app.running().status().is_ready());
}

#[tokio::test]
async fn a_commit_that_is_refused_halts_the_group_until_it_is_mended_and_nothing_is_handled_again() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left]).on(&wire).start().await;
    let log = logged();
    wire.always(Op::Commit, Fault::Fail(BrokerErrorKind::Refused));
    app.publish_all(each(1..=3)).await;
    let caught_up = tokio::time::timeout(secs(60), TestApp::settled(&app)).await.expect("an answer within a minute");
    assert!(matches!(caught_up, Err(Error::Halted(_))), "{caught_up:?}");
    let reason = app.halt("left").unwrap();
    assert!(reason.contains("Commit fails") && reason.contains("goes on by itself"), "{reason}");
    app.advance(secs(50)).await;
    assert!(log.count("halted") == 1 && wire.calls(Op::Commit) < 20, "{}", log.text());
    wire.heal();
    app.advance(secs(10)).await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), [1, 2, 3]);
    assert!(app.running().status().is_ready());
    wire.always(Op::Commit, Fault::Fail(BrokerErrorKind::Refused));
    app.publish_all(each([4])).await;
    world.lab.called("left", 4).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Uncommitted { groups: 1 });
}

#[tokio::test]
async fn a_group_whose_state_is_refused_halts_and_goes_on_by_itself_when_it_is_mended() {
    let world = World::new("lab");
    let wire = world.wire();
    wire.always(Op::Acquire, Fault::Fail(BrokerErrorKind::Refused));
    let log = logged();
    let app = world.process(consumers![left]).on(&wire).start().await;
    app.publish_all(each(1..=3)).await;
    app.advance(secs(50)).await;
    assert!(app.halt("left").unwrap().contains("Acquire fails"));
    assert!(log.count("halted") == 1 && wire.calls(Op::Acquire) < 10, "{}", log.text());
    wire.heal();
    app.advance(secs(30)).await;
    app.settled().await;
    assert!(app.running().status().is_ready() && world.lab.events("left") == [1, 2, 3]);
}

#[tokio::test]
async fn an_outage_is_told_once_for_all_groups_and_shows_in_the_status() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left, right, both_steps]).on(&wire).start().await;
    app.publish_all(each(1..=3)).await;
    app.settled().await;
    let log = logged();
    wire.cut_off();
    app.advance(secs(50)).await;
    let status = app.running().status();
    assert!(!status.is_ready() && status.trouble.unwrap().contains("because the test says so"));
    assert_eq!(log.text().lines().count(), 1, "{}", log.text());
    app.advance(secs(60)).await;
    assert_eq!(log.text().lines().count(), 2, "and again after a minute: {}", log.text());
    wire.heal();
    let began = Instant::now();
    app.publish_all(each(4..=6)).await;
    app.settled().await;
    assert!(began.elapsed() < secs(2), "{:?}", began.elapsed());
    let status = app.running().status();
    assert!(status.is_ready() && status.trouble.is_none(), "{status:?}");
    for group in ["left", "right", "both"] {
        assert_eq!(world.lab.events(group), [1, 2, 3, 4, 5, 6]);
    }
    assert_eq!(log.text().lines().count(), 2, "{}", log.text());
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn a_commit_that_hangs_does_not_keep_the_app_from_stopping() {
    let world = World::new("lab");
    let wire = world.wire();
    let ten = ConsumerOptions::DEFAULT.with_checkpoint_events(10);
    let app = world.process(consumers![left]).on(&wire).options(ten).start().await;
    wire.always(Op::Commit, Fault::Hold(Gate::default()));
    app.publish_all(each(1..=50)).await;
    world.lab.called("left", 10).await;
    let began = Instant::now();
    assert_eq!(app.into_running().shutdown().await, Stopped::Uncommitted { groups: 1 });
    assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
}

// Where a group begins.

async fn begins(start: Start) -> Vec<u64> {
    let world = World::new("lab");
    let at = |start| Config::new().group("left", ConsumerOptions::DEFAULT.with_start(start));
    let app = world.process(consumers![right]).start().await;
    app.publish_all(each([1, 2])).await;
    app.advance(secs(3600)).await;
    app.publish_all(each([3, 4])).await;
    app.advance(secs(3600)).await;
    let other = world.process(consumers![left]).config(at(start)).start().await;
    other.advance(secs(1)).await;
    other.publish_all(each([5])).await;
    other.settled().await;
    // Where it was is kept: a restart does not begin again.
    drop(other);
    let other = world.process(consumers![left]).config(at(Start::Earliest)).start().await;
    other.publish_all(each([6])).await;
    other.settled().await;
    world.lab.events("left")
}

#[tokio::test]
async fn a_new_group_begins_with_the_oldest_entry() {
    assert_eq!(begins(Start::Earliest).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_new_group_may_begin_with_what_is_new() {
    assert_eq!(begins(Start::Latest).await, [5, 6]);
}

#[tokio::test]
async fn a_new_group_may_begin_some_time_ago() {
    assert_eq!(begins(Start::Ago(secs(5000))).await, [3, 4, 5, 6]);
}

#[tokio::test]
async fn a_new_group_may_begin_at_a_time_or_an_entry() {
    let ms = u64::try_from((BEGINNING + secs(1800)).as_millis()).unwrap();
    assert_eq!(begins(Start::At(EntryId::new(ms, 0))).await, [3, 4, 5, 6]);
    assert_eq!(begins(Start::At(EntryId::MAX)).await, [5, 6]);
}

// Owners.

#[tokio::test]
async fn another_app_takes_over_at_once_after_a_stop() {
    let world = World::new("lab");
    let (one, other) = pair(&world, [&world.wire(), &world.wire()]).await;
    one.publish_all(each([1])).await;
    one.settled().await;
    assert!(matches!(one.status("left").phase, Phase::Owning { .. }));
    assert!(matches!(other.status("left").phase, Phase::StandingBy { .. }));
    assert_eq!(one.into_running().shutdown().await, Stopped::Clean);
    let began = Instant::now();
    other.publish_all(each([2])).await;
    world.lab.called("left", 2).await;
    assert!(began.elapsed() < millis(100), "{:?}", began.elapsed());
}

#[tokio::test]
async fn another_app_takes_over_after_the_lease_of_one_that_crashed() {
    let world = World::new("lab");
    let (one, other) = pair(&world, [&world.wire(), &world.wire()]).await;
    one.publish_all(each([1])).await;
    one.settled().await;
    other.advance(secs(30)).await;
    drop(one);
    let began = Instant::now();
    other.publish_all(each([2])).await;
    world.lab.called("left", 2).await;
    let waited = began.elapsed();
    assert!(waited > secs(10) - secs(10) / 3 && waited <= secs(10) + secs(1), "{waited:?}");
    assert_eq!(world.lab.events("left"), [1, 2]);
}

#[tokio::test]
async fn of_many_apps_one_owns_a_group_and_another_goes_on_when_it_stops() {
    let world = World::new("lab");
    let mut apps = Vec::new();
    for _ in 0..4 {
        apps.push(world.process(consumers![left, right]).start().await);
    }
    let mut n = 0;
    while let Some(app) = apps.pop() {
        let steps: Vec<_> = (n + 1..=n + 10).collect();
        n += 10;
        app.publish_all(each(steps)).await;
        app.settled().await;
        assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
    }
    for group in ["left", "right"] {
        assert_eq!(world.lab.events(group), (1..=40).collect::<Vec<_>>(), "{group}");
    }
}

#[tokio::test]
async fn a_lost_lease_ends_the_handler_at_its_await_before_another_begins() {
    let world = World::new("lab");
    let wire = world.wire();
    world.lab.script("left", 1, [Act::Hang]);
    let one = world.process(consumers![left]).on(&wire).start().await;
    one.publish_all(each([1])).await;
    world.lab.called("left", 1).await;
    let other = world.process(consumers![left]).start().await;
    wire.cut_off();
    // A timeout would end it, too, but not so soon.
    let began = Instant::now();
    world.lab.script("left", 1, []);
    world.lab.called("left", 2).await;
    assert!(began.elapsed() > secs(10) - secs(10) / 3 && began.elapsed() < secs(10) * 2, "{:?}", began.elapsed());
    assert_eq!(world.lab.cancelled("left"), [1]);
    other.settled().await;
    assert!(!one.running().status().is_ready());
}

#[tokio::test]
async fn a_zombie_cannot_commit() {
    let world = World::new("lab");
    let (wire, gate) = (world.wire(), Gate::default());
    let zombie = world.process(consumers![left]).on(&wire).start().await;
    wire.always(Op::Commit, Fault::Hold(gate.clone()));
    wire.always(Op::Renew, Fault::Fail(BrokerErrorKind::Unavailable));
    zombie.publish_all(each([1])).await;
    gate.arrived(1).await;
    let other = world.process(consumers![left]).start().await;
    world.lab.called("left", 2).await;
    let ids = other.publish_all(each([2, 3])).await;
    other.settled().await;
    let before = world.group("left").state().await;
    gate.open();
    other.advance(millis(100)).await;
    let after = world.group("left").state().await;
    assert_eq!((after.at, after.lease.epoch), (ids[1], before.lease.epoch));
    assert_eq!(world.lab.events("left"), [1, 1, 2, 3]);
}

#[tokio::test]
async fn an_owner_whose_server_was_away_for_longer_than_its_lease_goes_on_when_it_is_back() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left]).on(&wire).start().await;
    app.publish_all(each([1])).await;
    app.settled().await;
    wire.cut_off();
    app.advance(secs(10) * 3).await;
    wire.heal();
    app.publish_all(each([2])).await;
    let began = Instant::now();
    app.settled().await;
    assert!(began.elapsed() < secs(10) / 2, "it waited {:?} for its own lease", began.elapsed());
    assert_eq!(world.lab.events("left"), [1, 2]);
}

#[tokio::test]
async fn an_owner_whose_commit_is_fenced_steps_back() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left]).on(&wire).start().await;
    let first = app.publish_all(each([1])).await[0];
    app.settled().await;
    // The renewals would find it out, too.
    wire.always(Op::Renew, Fault::Fail(BrokerErrorKind::Unavailable));
    let seen = world.group("left").state().await.lease;
    let claim = Claim { owner: "thief".to_owned(), lease_for: secs(10), seen, own: false, bound: 1_000 };
    assert!(matches!(world.store.acquire(&world.group("left").key, &claim).await.unwrap(), Acquired::Held(_)));
    app.publish_all(each([2, 3])).await;
    app.advance(secs(1)).await;
    assert_eq!((world.group("left").at().await, app.status("left").handled), (first, 3));
    let owner = "thief".to_owned();
    assert_eq!(app.status("left").phase, Phase::StandingBy { owner });
    wire.heal();
    app.settled().await;
    assert_eq!(world.lab.events("left"), [1, 2, 3, 2, 3]);
}

#[tokio::test]
async fn an_app_that_stops_while_its_server_hangs_blames_no_handler() {
    let world = World::new("lab");
    let wire = world.wire();
    world.lab.script("left", 2, [Act::Hang]);
    let app = world.process(consumers![left]).on(&wire).config(Config::new().shutdown_deadline(secs(1))).start().await;
    wire.always(Op::Commit, Fault::Hold(Gate::default()));
    wire.always(Op::Release, Fault::Hold(Gate::default()));
    app.publish_all(each([1, 2])).await;
    world.lab.called("left", 2).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Aborted { handlers: 1 });
}

#[tokio::test]
async fn a_short_outage_costs_nothing() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left, right]).on(&wire).start().await;
    app.publish_all(each(1..=10)).await;
    app.settled().await;
    wire.cut_off();
    app.advance(secs(10) / 2).await;
    wire.heal();
    app.publish_all(each(11..=20)).await;
    app.settled().await;
    for group in ["left", "right"] {
        assert_eq!(world.lab.events(group), (1..=20).collect::<Vec<_>>(), "{group}");
    }
    app.advance(secs(2)).await;
    assert!(app.running().status().is_ready(), "{:?}", app.running().status());
}

#[tokio::test]
async fn an_outage_longer_than_the_lease_repeats_at_most_what_was_not_committed() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left]).on(&wire).start().await;
    app.publish_all(each(1..=10)).await;
    app.settled().await;
    wire.always(Op::Commit, Fault::Fail(BrokerErrorKind::Unavailable));
    app.publish_all(each(11..=13)).await;
    world.lab.called("left", 13).await;
    wire.cut_off();
    app.advance(secs(10) * 4).await;
    assert!(matches!(app.status("left").phase, Phase::Retrying(_)), "{:?}", app.running().status());
    wire.heal();
    app.settled().await;
    app.publish_all(each(14..=20)).await;
    app.settled().await;
    let expected: Vec<_> = (1..=13).chain(11..=20).collect();
    assert_eq!(world.lab.events("left"), expected);
    assert!(app.running().status().is_ready(), "{:?}", app.running().status());
}

#[tokio::test]
async fn events_that_come_while_reads_fail_are_handled_when_they_work_again() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left]).on(&wire).start().await;
    app.publish_all(each([1])).await;
    app.settled().await;
    // Both ways to entries: what the tail does not bring is found by the next look for losses.
    wire.always(Op::Tail, Fault::Fail(BrokerErrorKind::Unavailable));
    wire.always(Op::Read, Fault::Fail(BrokerErrorKind::Unavailable));
    app.advance(secs(2)).await;
    app.publish_all(each(2..=500)).await;
    app.advance(secs(60)).await;
    assert_eq!(world.lab.events("left"), [1]);
    wire.heal();
    app.settled().await;
    assert_eq!(world.lab.events("left"), (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_backlog_is_read_in_order_while_reads_fail_now_and_then() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![right]).start().await;
    app.publish_all(each(1..=3000)).await;
    for _ in 0..5 {
        wire.once(Op::Read, Fault::Delay(millis(30)));
        wire.once(Op::Read, Fault::Fail(BrokerErrorKind::Unavailable));
    }
    let app = world.process(consumers![left]).on(&wire).start().await;
    world.lab.called("left", 3000).await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), (1..=3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_read_whose_reply_is_lost_is_made_again_and_nothing_is_repeated() {
    let world = World::new("lab");
    let wire = world.wire();
    let app = world.process(consumers![left]).on(&wire).start().await;
    app.publish_all(each([1])).await;
    app.settled().await;
    for _ in 0..3 {
        wire.once(Op::Tail, Fault::LoseReply);
        wire.once(Op::Read, Fault::LoseReply);
    }
    // The first of these ends the wait that began before the faults.
    app.publish_all(each(2..=50)).await;
    app.advance(secs(5)).await;
    app.publish_all(each(51..=100)).await;
    app.advance(secs(5)).await;
    app.settled().await;
    assert_eq!(world.lab.events("left"), (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lease_that_was_taken_without_the_answer_coming_back_runs_out_and_is_taken_again() {
    let world = World::new("lab");
    let wire = world.wire();
    wire.once(Op::Acquire, Fault::LoseReply);
    let app = world.process(consumers![left]).on(&wire).start().await;
    app.publish_all(each([1])).await;
    let began = Instant::now();
    app.settled().await;
    assert!(began.elapsed() <= secs(10) + secs(2), "{:?}", began.elapsed());
    assert_eq!(world.lab.events("left"), [1]);
}

#[tokio::test]
async fn a_lease_that_could_not_be_given_back_runs_out() {
    let world = World::new("lab");
    let wire = world.wire();
    let one = world.process(consumers![left]).on(&wire).start().await;
    one.publish_all(each([1])).await;
    one.settled().await;
    let other = world.process(consumers![left]).start().await;
    wire.always(Op::Release, Fault::Fail(BrokerErrorKind::Unavailable));
    assert_eq!(one.into_running().shutdown().await, Stopped::Uncommitted { groups: 1 });
    other.publish_all(each([2])).await;
    let began = Instant::now();
    other.settled().await;
    assert!(began.elapsed() <= secs(10) + secs(2), "{:?}", began.elapsed());
    assert_eq!(world.lab.events("left"), [1, 2]);
}

#[tokio::test]
async fn a_contender_that_could_not_look_goes_on_with_its_watch() {
    let world = World::new("lab");
    let wire = world.wire();
    let (one, other) = pair(&world, [&wire, &wire]).await;
    drop(one);
    other.advance(secs(10) - secs(3)).await;
    wire.once(Op::State, Fault::Fail(BrokerErrorKind::Unavailable));
    // Every second it looks, so by now that has failed.
    other.advance(secs(1)).await;
    let failed = Instant::now();
    other.publish_all(each([1])).await;
    world.lab.called("left", 1).await;
    assert!(failed.elapsed() < secs(4), "{:?}", failed.elapsed());
}

#[tokio::test]
async fn a_timeout_that_never_ends_is_allowed() {
    let world = World::new("lab");
    world.lab.always("left", 1, Act::Sleep(secs(5)));
    let options = ConsumerOptions::DEFAULT.with_timeout(Duration::MAX).with_checkpoint_interval(Duration::MAX);
    let app = world.process(consumers![left]).options(options).start().await;
    app.publish_all(each([1, 2])).await;
    world.lab.called("left", 2).await;
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
}
