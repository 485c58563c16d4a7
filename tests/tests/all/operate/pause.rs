//! A pause stands still in every process within a second, is kept, and loses nothing; in each delivery.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerErrorKind, Groups, Members};
use streams_core::keys::StreamKey;
use streams_runtime::{
    Admin, BoxError, Context, Outcome, Phase, Registration, Start, State, consumer, consumers, stream_event,
};
use streams_tests::{Act, Fault, Gate, Lab, Op, Process, World, millis, secs};

#[stream_event(stream = "tolls", key = n)]
#[derive(Debug, Clone, PartialEq)]
struct Toll {
    n: u64,
}

#[consumer(group = "one")]
async fn one(toll: Toll, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, toll.n).await
}

#[consumer(group = "lanes", concurrency = 4)]
async fn lanes(toll: Toll, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, toll.n).await
}

#[consumer(group = "queue", delivery = "queue", concurrency = 2)]
async fn queue(toll: Toll, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, toll.n).await
}

/// How long a process may take to notice.
const NOTICED: Duration = Duration::from_secs(1);

fn every() -> [(&'static str, Registration); 3] {
    let [first, second, third] = consumers![one, lanes, queue];
    [("one", first), ("lanes", second), ("queue", third)]
}

fn admin(world: &World) -> Admin {
    Admin::on(Arc::new(world.store.clone()), None).unwrap()
}

fn tolls(from: u64, to: u64) -> Vec<Toll> {
    (from..to).map(|n| Toll { n }).collect()
}

fn is_paused(process: &Process, group: &str) -> bool {
    matches!(process.status(group).phase, Phase::Paused(_))
}

#[tokio::test(start_paused = true)]
async fn a_paused_group_handles_nothing_within_a_second_and_everything_when_it_is_resumed() {
    for (group, consumer) in every() {
        let world = World::new("tolls");
        let app = world.process([consumer]).start().await;
        app.publish_all(tolls(0, 10)).await;
        app.settled().await;
        admin(&world).pause("tolls", group, "alice", "the bridge is closed").await.unwrap();
        app.advance(NOTICED).await;
        let calls = world.lab.calls(group).len();
        app.publish_all(tolls(10, 30)).await;
        app.advance(secs(600)).await;
        assert_eq!(world.lab.calls(group).len(), calls, "{group}");
        let status = app.status(group);
        let Phase::Paused(pause) = &status.phase else { panic!("{group}: {status:?}") };
        assert_eq!((pause.by.as_str(), pause.why.as_str()), ("alice", "the bridge is closed"));
        assert!(app.running().monitor().health().ready, "a pause is meant, so it is no trouble");
        admin(&world).resume("tolls", group).await.unwrap();
        app.advance(NOTICED).await;
        app.settled().await;
        assert_eq!(world.lab.calls(group).len(), 30, "{group}: each event once");
    }
}

#[tokio::test(start_paused = true)]
async fn the_handler_that_runs_ends_and_is_committed_before_the_group_stands_still() {
    for (group, consumer) in every() {
        let world = World::new("tolls");
        let app = world.process([consumer]).start().await;
        let gate = Gate::default();
        world.lab.script(group, 0, [Act::Wait(gate.clone())]);
        app.publish_all(tolls(0, 20)).await;
        world.lab.called(group, 1).await;
        admin(&world).pause("tolls", group, "", "").await.unwrap();
        app.advance(secs(5)).await;
        let begun = world.lab.calls(group).len();
        assert!(!is_paused(&app, group), "{group}: it waits for the handler");
        gate.open();
        app.advance(secs(5)).await;
        assert!(is_paused(&app, group), "{group}");
        assert_eq!(world.lab.calls(group).len(), begun, "{group}: no other handler has begun");
        admin(&world).resume("tolls", group).await.unwrap();
        app.settled().await;
        assert_eq!(world.lab.calls(group).len(), 20, "{group}: none came twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_for_processes_that_start_later_and_for_an_event_that_waits_for_its_next_attempt() {
    for (group, consumer) in every() {
        let world = World::new("tolls");
        let first = world.process([consumer]).start().await;
        world.lab.script(group, 0, vec![Act::Fail; 3]);
        first.publish_all(tolls(0, 1)).await;
        world.lab.called(group, 1).await;
        admin(&world).pause("tolls", group, "bob", "").await.unwrap();
        first.advance(NOTICED).await;
        let calls = world.lab.calls(group).len();
        let second = world.process([consumer]).start().await;
        assert!(
            is_paused(&second, group) || {
                second.advance(millis(1)).await;
                is_paused(&second, group)
            },
            "{group}"
        );
        first.kill().await;
        second.advance(secs(300)).await;
        assert_eq!(world.lab.calls(group).len(), calls, "{group}");
        admin(&world).resume("tolls", group).await.unwrap();
        second.settled().await;
        assert_eq!(world.lab.calls(group).len(), 4, "{group}: the attempts go on where they were");
    }
}

#[tokio::test(start_paused = true)]
async fn other_groups_go_on() {
    let world = World::new("tolls");
    let app = world.process(every().map(|(_, consumer)| consumer)).start().await;
    admin(&world).pause("tolls", "lanes", "", "").await.unwrap();
    app.advance(NOTICED).await;
    app.publish_all(tolls(0, 10)).await;
    app.advance(secs(10)).await;
    assert_eq!(
        [world.lab.calls("one").len(), world.lab.calls("lanes").len(), world.lab.calls("queue").len()],
        [10, 0, 10]
    );
}

#[tokio::test(start_paused = true)]
async fn the_lag_of_a_paused_group_goes_on_being_shown() {
    for (group, consumer) in every() {
        let world = World::new("tolls");
        let app = world.process([consumer]).start().await;
        app.publish_all(tolls(0, 4)).await;
        app.settled().await;
        admin(&world).pause("tolls", group, "", "").await.unwrap();
        app.advance(NOTICED).await;
        app.publish_all(tolls(4, 9)).await;
        let _ = app.running().status();
        app.advance(secs(10)).await;
        let status = app.status(group);
        assert!(is_paused(&app, group) && status.lag.is_some_and(|lag| lag > Duration::ZERO), "{group}: {status:?}");
        let metrics = app.running().monitor().metrics();
        let paused = format!("streams_paused{{stream=\"tolls\",partition=\"0\",group=\"{group}\"}} 1");
        assert!(metrics.contains(&paused), "{group}: {metrics}");
        let gauge = format!("streams_lag_seconds{{stream=\"tolls\",partition=\"0\",group=\"{group}\"}}");
        assert!(metrics.lines().any(|line| line.starts_with(&gauge)), "{group}: {metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_changes_no_pause() {
    let world = World::new("tolls");
    let app = world.process(consumers![one]).apart().start().await;
    admin(&world).pause("tolls", "one", "", "").await.unwrap();
    app.advance(NOTICED).await;
    assert!(is_paused(&app, "one"));
    app.wire.always(Op::Pauses, Fault::Fail(BrokerErrorKind::Unavailable));
    app.advance(secs(20)).await;
    assert!(is_paused(&app, "one"), "{:?}", app.status("one"));
    app.wire.heal();
    admin(&world).resume("tolls", "one").await.unwrap();
    app.publish_all(tolls(0, 3)).await;
    app.settled().await;
    assert_eq!(world.lab.calls("one").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_there_is_refused_with_the_nearest_and_a_partition_is_no_group() {
    let world = World::new("tolls");
    let app = world.process(consumers![one]).start().await;
    app.settled().await;
    let admin = admin(&world);
    let refused = admin.pause("tolls", "onee", "", "").await.unwrap_err().to_string();
    assert!(refused.contains("perhaps `one` is meant"), "{refused}");
    let refused = admin.pause("tolls.0", "one", "", "").await.unwrap_err().to_string();
    assert!(refused.contains("name the stream `tolls`"), "{refused}");
    let stream = StreamKey::new(None, "tolls", 1);
    let pauses = world.store.pauses(&[(stream, "onee".to_owned())]).await.unwrap();
    assert!(matches!(&pauses[..], [Ok(None)]), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reset_during_a_pause_counts_when_the_group_goes_on() {
    let world = World::new("tolls");
    let app = world.process(consumers![one]).start().await;
    app.publish_all(tolls(0, 5)).await;
    app.settled().await;
    let admin = admin(&world);
    admin.pause("tolls", "one", "", "").await.unwrap();
    app.advance(NOTICED).await;
    admin.reset("tolls", "one", Start::Earliest).await.unwrap();
    app.advance(secs(30)).await;
    assert_eq!(world.lab.calls("one").len(), 5);
    admin.resume("tolls", "one").await.unwrap();
    app.advance(secs(5)).await;
    app.settled().await;
    assert_eq!(world.lab.calls("one").len(), 10);
    assert!(world.store.state(&world.group("one").key).await.unwrap().is_some());
}
