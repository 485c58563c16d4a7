//! An inspector shows the deeds of programs: owners, members, lag, halts, retries; for each delivery.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_core::EntryId;
use streams_core::broker::{Broker, Log, Members, Notes};
use streams_core::keys::StreamKey;
use streams_runtime::{
    Admin, BoxError, Condition, Config, Context, Inspector, Mode, Outcome, Registration, Start, State, consumer,
    consumers, stream_event,
};
use streams_tests::{Act, Gate, Lab, Process, World, secs};

#[stream_event(stream = "pages", key = n)]
#[derive(Debug, Clone, PartialEq)]
struct Sheet {
    n: u64,
}

#[stream_event(stream = "wide", key = n, partitions = 4)]
#[derive(Debug, Clone, PartialEq)]
struct Wide {
    n: u64,
}

#[consumer(group = "print", checkpoint = 1)]
async fn print(sheet: Sheet, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, sheet.n).await
}

#[consumer(group = "bind", delivery = "queue", concurrency = 2)]
async fn bind(sheet: Sheet, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, sheet.n).await
}

#[consumer(group = "spread")]
async fn spread(wide: Wide, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, wide.n).await
}

fn inspector(world: &World) -> Inspector {
    Inspector::on(Arc::new(world.store.clone()), None).unwrap()
}

fn sheets(from: u64, to: u64) -> Vec<Sheet> {
    (from..to).map(|n| Sheet { n }).collect()
}

#[tokio::test(start_paused = true)]
async fn a_group_at_work_shows_its_owner_its_lag_and_nothing_bad() {
    for (group, mode, consumer) in [("print", Mode::Ordered, print_info()), ("bind", Mode::Queue, bind_info())] {
        let world = World::new("pages");
        let app = world.process([consumer]).start().await;
        app.publish_all(sheets(0, 5)).await;
        app.settled().await;
        let view = inspector(&world).group("pages", group).await.unwrap();
        assert_eq!((view.mode, view.condition()), (mode, Condition::Running), "{view:?}");
        assert_eq!((view.lag(), view.age(), view.dead(), view.living()), (Some(0), Duration::ZERO, 0, 1), "{view:?}");
        assert_eq!(view.members[0].partitions, [0]);
        let owner = view.places[0].owner.clone();
        assert_eq!(owner.is_some(), mode == Mode::Ordered);
        assert!(owner.is_none_or(|owner| owner == view.members[0].name));

        let gate = Gate::default();
        world.lab.script(group, 5, [Act::Wait(gate.clone())]);
        app.publish_all(sheets(5, 6)).await;
        world.lab.called(group, 6).await;
        app.publish_all(sheets(6, 6)).await;
        app.advance(secs(7)).await;
        let view = inspector(&world).group("pages", group).await.unwrap();
        assert_eq!(view.lag(), Some(1), "{view:?}");
        gate.open();
        app.settled().await;
        assert_eq!(inspector(&world).group("pages", group).await.unwrap().lag(), Some(0));
    }
}

fn print_info() -> Registration {
    consumers![print].into_iter().next().unwrap()
}

fn bind_info() -> Registration {
    consumers![bind].into_iter().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_age_is_that_of_the_oldest_entry_that_waits() {
    let world = World::new("pages");
    let app = world.process(consumers![print]).start().await;
    app.publish_all(sheets(0, 1)).await;
    app.settled().await;
    Admin::on(Arc::new(world.store.clone()), None).unwrap().pause("pages", "print", "", "").await.unwrap();
    app.advance(secs(2)).await;
    app.publish_all(sheets(1, 2)).await;
    app.advance(secs(100)).await;
    let view = inspector(&world).group("pages", "print").await.unwrap();
    assert_eq!((view.condition(), view.lag()), (Condition::Paused, Some(1)));
    assert!((secs(100)..secs(110)).contains(&view.age()), "{:?}", view.age());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_killed_is_seen_to_be_silent_and_its_successor_takes_over() {
    let world = World::new("wide");
    let config = || Config::new().lease(secs(5));
    let first = world.process(consumers![spread]).config(config()).start().await;
    let second = world.process(consumers![spread]).config(config()).start().await;
    first.advance(secs(20)).await;
    let view = inspector(&world).group("wide", "spread").await.unwrap();
    assert_eq!((view.living(), view.members.len()), (2, 2), "{view:?}");
    assert!(view.members.iter().all(|member| member.partitions.len() == 2), "{view:?}");
    first.kill().await;
    second.advance(secs(3)).await;
    let view = inspector(&world).group("wide", "spread").await.unwrap();
    let silent: Vec<_> = view.members.iter().filter_map(|member| member.silent).collect();
    assert!(
        silent.iter().any(|silent| *silent >= secs(2)) && silent.iter().any(|silent| *silent <= secs(1)),
        "{view:?}"
    );
    second.advance(secs(15)).await;
    let view = inspector(&world).group("wide", "spread").await.unwrap();
    assert_eq!((view.living(), view.members.len(), view.members[0].partitions.len()), (1, 1, 4), "{view:?}");
    second.kill().await;
    tokio::time::sleep(secs(60)).await;
    let view = inspector(&world).group("wide", "spread").await.unwrap();
    assert_eq!((view.condition(), view.living()), (Condition::Unattended, 0), "{view:?}");
}

#[consumer(group = "lanes", concurrency = 2, checkpoint = 1)]
async fn lanes(sheet: Sheet, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, sheet.n).await
}

#[tokio::test(start_paused = true)]
async fn the_error_of_an_event_that_is_tried_again_is_seen_from_outside_until_it_is_settled() {
    let lanes_info = consumers![lanes].into_iter().next().unwrap();
    for (group, consumer) in [("print", print_info()), ("bind", bind_info()), ("lanes", lanes_info)] {
        let world = World::new("pages");
        let app = world.process([consumer]).start().await;
        let (first, second) = (Gate::default(), Gate::default());
        world.lab.script(group, 0, [Act::Fail, Act::Wait(first.clone()), Act::Wait(second.clone())]);
        app.publish_all(sheets(0, 1)).await;
        world.lab.called(group, 2).await;
        app.advance(secs(1)).await;
        let view = inspector(&world).group("pages", group).await.unwrap();
        let entry =
            world.store.read(&StreamKey::new(None, "pages", 1).partition(0), EntryId::ZERO, 1).await.unwrap()[0].id;
        let (partition, error) = view.error().expect(group);
        assert_eq!((partition, error.entry, error.attempts, error.text.as_str()), (0, entry, 1, "event 0 fails"));
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(world.store.now().await.unwrap());
        let age = now.duration_since(error.at).unwrap();
        assert!(age <= secs(2), "{group}: {age:?}");
        first.open();
        second.open();
        app.settled().await;
        app.advance(secs(1)).await;
        let view = inspector(&world).group("pages", group).await.unwrap();
        assert_eq!(view.error(), None, "{group}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_fails_and_one_that_was_given_up_are_counted() {
    for (group, consumer) in [("print", print_info()), ("bind", bind_info())] {
        let world = World::new("pages");
        let app = world.process([consumer]).start().await;
        world.lab.script(group, 0, [Act::Permanent]);
        world.lab.always(group, 1, Act::Fail);
        app.publish_all(sheets(0, 2)).await;
        world.lab.called(group, 3).await;
        app.advance(secs(2)).await;
        let view = inspector(&world).group("pages", group).await.unwrap();
        assert_eq!((view.dead(), view.lag()), (1, Some(1)), "{view:?}");
        if group == "print" {
            assert_eq!((view.condition(), view.retrying()), (Condition::Retrying, 1), "{view:?}");
        }
    }
}

/// A process whose group is halted, because it refuses every event.
async fn storm(group: &str, consumer: Registration) -> (World, Process) {
    let world = World::new("pages");
    for n in 0..30 {
        world.lab.always(group, n, Act::Permanent);
    }
    let app = world.process([consumer]).start().await;
    app.publish_all(sheets(0, 30)).await;
    app.advance(secs(60)).await;
    (world, app)
}

#[tokio::test(start_paused = true)]
async fn a_halt_is_seen_from_outside_until_a_process_goes_on_past_it() {
    for (group, consumer) in [("print", print_info()), ("bind", bind_info())] {
        let (world, app) = storm(group, consumer).await;
        assert!(app.is_halted(group), "{:?}", app.status(group));
        let halted = async || {
            let view = inspector(&world).group("pages", group).await.unwrap();
            let halt = view.places[0].halted.clone();
            (view.condition(), halt.map(|halt| (halt.kind, halt.reason)))
        };
        let (condition, halt) = halted().await;
        let (kind, reason) = halt.expect("the halt is noted");
        assert_eq!((condition, kind.as_str()), (Condition::Halted, "dead-letter-storm"));
        assert!(reason.contains("20 events in a row"), "{reason}");
        app.kill().await;
        tokio::time::sleep(secs(600)).await;
        assert_eq!(halted().await.0, Condition::Halted, "the note outlives its process");
        // The next process counts anew, and goes on.
        let app = world.process([consumer]).start().await;
        app.settled().await;
        assert_eq!(halted().await, (Condition::Running, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_halt_that_is_resumed_leaves_no_note() {
    for (group, consumer) in [("print", print_info()), ("bind", bind_info())] {
        let (world, app) = storm(group, consumer).await;
        app.running().admin().resume("pages", group).await.unwrap();
        app.advance(secs(30)).await;
        app.settled().await;
        let stream = streams_core::keys::StreamKey::new(None, "pages", 1);
        let notes = world.store.notes(&stream, &Notes::new(), &[]).await.unwrap();
        assert!(notes.keys().all(|name| !name.starts_with("halt:")), "{group}: {notes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_says_what_comes_again_and_what_is_passed_over() {
    let world = World::new("pages");
    let app = world.process(consumers![print]).start().await;
    let ids = app.publish_all(sheets(0, 10)).await;
    app.settled().await;
    let admin = Admin::on(Arc::new(world.store.clone()), None).unwrap();
    let plan = async |to| {
        let plans = admin.plan_reset("pages", "print", to).await.unwrap();
        assert_eq!((plans.len(), plans[0].partition, plans[0].more), (1, 0, false));
        (plans[0].again, plans[0].passed_over)
    };
    assert_eq!(plan(Start::Earliest).await, (10, 0));
    assert_eq!(plan(Start::Latest).await, (0, 0));
    assert_eq!(plan(Start::At(ids[7])).await, (3, 0));
    admin.pause("pages", "print", "", "").await.unwrap();
    app.advance(secs(2)).await;
    app.publish_all(sheets(10, 14)).await;
    assert_eq!(plan(Start::Latest).await, (0, 4));
    assert_eq!(plan(Start::At(ids[9])).await, (1, 0));
    let before = world.group("print").state().await;
    assert_eq!(plan(Start::Ago(secs(1))).await, (0, 0));
    assert_eq!(world.group("print").state().await, before, "a plan changes nothing");
    let missing = admin.plan_reset("pages", "printt", Start::Latest).await.unwrap_err().to_string();
    assert!(missing.contains("perhaps `print` is meant"), "{missing}");
}

#[tokio::test(start_paused = true)]
async fn a_misspelt_name_is_refused_with_the_nearest() {
    let world = World::new("pages");
    let app = world.process(consumers![print]).start().await;
    app.settled().await;
    let inspector = inspector(&world);
    let refused = inspector.stream("page").await.unwrap_err().to_string();
    assert!(refused.contains("perhaps `pages` is meant"), "{refused}");
    app.publish_all(sheets(0, 1)).await;
    let refused = inspector.group("pages", "prnit").await.unwrap_err().to_string();
    assert!(refused.contains("perhaps `print` is meant"), "{refused}");
}
