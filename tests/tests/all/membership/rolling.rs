//! Old and new builds of one program run side by side, in virtual time. A build that knows an event handles it.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Events, Log, Need};
use streams_core::keys::StreamKey;
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Batch, BoxError, Config, ConsumerOptions, Context, EntryId, Error, Outcome, Phase, State, Stopped, codec,
    consumer, consumers, stream_event,
};
use streams_tests::{Act, Fault, Gate, Lab, Launch, Op, Process, World, logged, logged_from};

#[stream_event(stream = "shop")]
#[derive(Debug, Clone, PartialEq)]
struct Placed {
    n: u64,
}

#[stream_event(stream = "shop")]
#[derive(Debug, Clone, PartialEq)]
struct Shipped {
    n: u64,
}

/// The old build has this consumer.
#[consumer(group = "desk")]
async fn place(placed: Placed, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, placed.n).await
}

/// The new one has this, too.
#[consumer(group = "desk")]
async fn ship(shipped: Shipped, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, shipped.n).await
}

/// Another program, whose author has taken the same name for the group.
#[consumer(group = "desk")]
async fn ship_alone(shipped: Shipped, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, shipped.n).await
}

/// A build that has withdrawn it, but misspells the event.
#[consumer(group = "desk", ignore = ["Shiped"])]
async fn place_misspelled(placed: Placed, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, placed.n).await
}

/// A build that has withdrawn it.
#[consumer(group = "desk", ignore = ["Shipped", "Returned"])]
async fn place_alone(placed: Placed, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, placed.n).await
}

/// The old build where it takes batches.
#[consumer(group = "desk", batch = 100, batch_wait = "1s")]
async fn place_many(placed: Batch<Placed>, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    for placed in placed.events() {
        lab.handle(&ctx, placed.n).await?;
    }
    Ok(Outcome::Done)
}

/// The old build.
fn old(world: &World) -> Launch<'_> {
    world.process(consumers![place])
}

/// The new one.
fn new_build(world: &World) -> Launch<'_> {
    world.process(consumers![place, ship])
}

/// Every event that a handler was called with, once each, in order.
fn handled(world: &World) -> Vec<u64> {
    let mut events = world.lab.sorted("desk");
    events.dedup();
    events
}

async fn stop(app: Process) {
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
}

fn events(events: &[(&str, u32)]) -> Events {
    events.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect()
}

#[tokio::test]
async fn what_only_the_new_build_knows_goes_to_it_while_the_old_one_runs() {
    let world = World::new("shop");
    let old = old(&world).seed(1).start().await;
    old.publish(&Placed { n: 1 }).await.unwrap();
    old.settled().await;
    let new = new_build(&world).seed(2).start().await;
    assert_eq!(
        world.group("desk").state().await.events,
        events(&[("Placed", 1), ("Shipped", 1)]),
        "before it has published anything"
    );
    new.publish(&Shipped { n: 2 }).await.unwrap();
    new.publish(&Placed { n: 3 }).await.unwrap();
    new.settled().await;
    assert_eq!(world.lab.events("desk"), [1, 2, 3]);
    assert!(
        new.owns("desk") && matches!(old.status("desk").phase, Phase::StandingBy { .. }),
        "{:?}",
        old.running().status()
    );
    assert!(old.running().status().is_ready() && new.dead_letters::<Placed>("desk").await.unwrap().is_empty());
    // It stays there, although the old one could handle what comes now.
    let epoch = world.group("desk").state().await.lease.epoch;
    for n in 4..20 {
        world.publish([Placed { n }]).await;
        new.advance(Duration::from_secs(30)).await;
    }
    new.settled().await;
    assert_eq!((world.group("desk").state().await.lease.epoch, handled(&world).len()), (epoch, 19));
}

#[tokio::test]
async fn builds_rolled_back_and_forth_pass_over_nothing_and_do_not_fight_over_the_partition() {
    const ROLLS: u64 = 20;
    let world = World::new("shop");
    // The new build was there once, so its event is declared.
    stop(new_build(&world).seed(0).start().await).await;
    let (mut running, mut n) = (old(&world).seed(100).start().await, 0);
    for roll in 1..=ROLLS {
        let next = if roll % 2 == 1 {
            new_build(&world).seed(roll).start().await
        } else {
            old(&world).seed(roll).start().await
        };
        for round in 0..40 {
            // Handlers that take their time, and some that fail, so that the stop comes upon them.
            world.lab.script(
                "desk",
                n + 1,
                [if round % 9 == 0 { Act::Fail } else { Act::Sleep(Duration::from_millis(7)) }],
            );
            world.publish([Placed { n: n + 1 }]).await;
            world.publish([Shipped { n: n + 2 }]).await;
            n += 2;
            if round == 20 {
                break;
            }
            running.advance(Duration::from_millis(11)).await;
        }
        stop(std::mem::replace(&mut running, next)).await;
        // Alone it goes as far as it can: an old one takes over when it is clear that nobody else is there.
        world.publish([Placed { n: n + 1 }]).await;
        n += 1;
        running.advance(Duration::from_millis(1_000 * roll)).await;
    }
    let last = new_build(&world).seed(1000).start().await;
    last.settled().await;
    assert_eq!(handled(&world), (1..=n).collect::<Vec<_>>());
    assert!(last.dead_letters::<Placed>("desk").await.unwrap().is_empty());
    assert_eq!((last.status("desk").passed_over, running.status("desk").passed_over), (0, 0));
    // With each roll the partition goes to the next build, back for what only the other one knows, and no further.
    let taken = world.wire.calls(Op::Acquire);
    assert!((ROLLS as usize..=3 * ROLLS as usize).contains(&taken), "taken {taken} times in {ROLLS} rolls");
    // Stops and hand-overs commit what was handled, so nothing comes twice.
    let mut first: Vec<_> = world.lab.calls("desk").into_iter().filter(|(_, attempt)| *attempt == 1).collect();
    first.sort_unstable();
    assert_eq!(first.len(), n as usize, "{first:?}");
}

#[tokio::test]
async fn what_is_declared_after_an_owner_has_looked_is_not_passed_over() {
    let world = World::new("shop");
    let old = old(&world).seed(1).start().await;
    // Nobody has ever declared it: it is passed over, and counted.
    world.publish([Shipped { n: 1 }]).await;
    old.settled().await;
    assert_eq!(
        (old.status("desk").passed_over, world.group("desk").state().await.events),
        (1, events(&[("Placed", 1)]))
    );
    // The owner reads on with what it knew when it took the lease.
    let new = new_build(&world).seed(2).start().await;
    assert!(old.owns("desk"));
    new.publish(&Placed { n: 2 }).await.unwrap();
    let shipped = new.publish(&Shipped { n: 3 }).await.unwrap().entry_id;
    let state = world.group("desk").until(|state| state.needs.is_some()).await;
    assert_eq!(state.needs, Some(Need { name: "Shipped".to_owned(), version: 1, entry: shipped }));
    new.settled().await;
    assert!(new.owns("desk"));
    assert_eq!(handled(&world), [2, 3]);
}

#[tokio::test]
async fn an_owner_that_looks_before_it_passes_the_first_of_a_name_repeats_nothing() {
    let world = World::new("shop");
    let old = old(&world).seed(1).start().await;
    world.publish([Placed { n: 0 }]).await;
    old.settled().await;
    // The owner saw the builds when it took its lease; the new build declares itself later.
    let new = new_build(&world).seed(2).start().await;
    assert!(old.owns("desk"));
    // All in one read, with nothing committed between them.
    let entry = |name: &str, payload: Vec<u8>| {
        vec![(b"event".to_vec(), format!("{name}@1").into_bytes()), (b"payload".to_vec(), payload)]
    };
    let placed = |n| {
        let mut payload = Vec::new();
        codec::encode(&Placed { n }, &mut payload).unwrap();
        payload
    };
    // The two have the same shape.
    let entries = (1..=6).map(|n| entry(if n == 2 { "Shipped" } else { "Placed" }, placed(n)));
    let partition = StreamKey::new(None, "shop", 1).partition(0);
    world.store.append(&partition, entries.collect(), None).await.unwrap();
    new.settled().await;
    let calls: Vec<_> = world.lab.events("desk");
    assert_eq!(calls, [0, 1, 2, 3, 4, 5, 6], "in order, and once each");
    assert!(new.owns("desk") && old.status("desk").passed_over == 0);
}

#[tokio::test]
async fn what_is_declared_while_the_commit_that_passes_it_is_on_its_way_is_not_passed_over() {
    let world = World::new("shop");
    let old = old(&world).seed(1).start().await;
    world.publish([Placed { n: 1 }]).await;
    old.settled().await;
    let (gate, handler) = (Gate::default(), Gate::default());
    world.wire.once(Op::Commit, Fault::Hold(gate.clone()));
    world.publish([Shipped { n: 2 }]).await;
    gate.arrived(1).await;
    // The running handler comes to its end, whatever becomes of the commit.
    world.lab.script("desk", 3, [Act::Wait(handler.clone())]);
    world.publish([Placed { n: 3 }]).await;
    handler.arrived(1).await;
    let new = new_build(&world).seed(2).start().await;
    gate.open();
    old.advance(Duration::from_secs(1)).await;
    assert_eq!(old.status("desk").passed_over, 0);
    assert!(old.owns("desk") && world.lab.cancelled("desk").is_empty());
    handler.open();
    new.settled().await;
    assert_eq!(handled(&world), [1, 2, 3]);
    assert!(new.owns("desk") && world.lab.cancelled("desk").is_empty());
    assert_eq!(
        world.lab.calls("desk").iter().filter(|(n, _)| *n == 3).count(),
        2,
        "the commit that was refused had it"
    );
}

#[tokio::test]
async fn a_commit_that_was_done_stays_done_when_its_answer_was_lost_and_the_event_then_declared() {
    let world = World::new("shop");
    let old = old(&world).seed(1).start().await;
    world.wire.once(Op::Commit, Fault::LoseReply);
    world.publish([Shipped { n: 1 }]).await;
    world.group("desk").until(|state| state.at > EntryId::ZERO).await;
    let new = new_build(&world).seed(2).start().await;
    old.settled().await;
    assert!(old.owns("desk") && handled(&world).is_empty());
    stop(new).await;
}

#[tokio::test]
async fn an_event_of_a_build_that_is_gone_is_said_by_everybody_and_waits_for_it() {
    let (log, world) = (logged(), World::new("shop"));
    stop(new_build(&world).seed(1).start().await).await;
    let (old, other) = (old(&world).seed(2).start().await, old(&world).seed(3).start().await);
    world.publish([Placed { n: 1 }]).await;
    let shipped = world.publish([Shipped { n: 2 }]).await[0];
    world.publish([Placed { n: 3 }]).await;
    for app in [&old, &other] {
        let reason = app.halted("desk").await.to_string();
        for said in [
            "`shop`",
            "`desk`",
            &shipped.to_string(),
            "event `Shipped` of stream `shop`, version 1",
            "start a build that has one",
            "`ignore = [\"Shipped\"]`",
            "streams reset shop desk --to ",
        ] {
            assert!(reason.contains(said), "does not say `{said}`: {reason}");
        }
        assert!(!app.running().status().is_ready() && matches!(TestApp::settled(app).await, Err(Error::Halted(_))));
    }
    assert!(log.text().contains("ERROR") && log.text().contains("start a build that has one"), "{}", log.text());
    assert_eq!(
        (handled(&world), world.group("desk").state().await.needs.map(|need| need.entry)),
        (vec![1], Some(shipped))
    );
    // It goes on by itself when one comes.
    let new = new_build(&world).seed(4).start().await;
    new.settled().await;
    assert_eq!(handled(&world), [1, 2, 3]);
    old.advance(Duration::from_secs(5)).await;
    assert!(old.halt("desk").is_none() && other.halt("desk").is_none());
    for app in [old, other, new] {
        stop(app).await;
    }
}

#[tokio::test]
async fn a_withdrawn_event_is_passed_over_and_forgotten() {
    let world = World::new("shop");
    stop(new_build(&world).seed(1).start().await).await;
    let old = old(&world).seed(2).start().await;
    world.publish([Shipped { n: 1 }]).await;
    world.publish([Placed { n: 2 }]).await;
    old.halted("desk").await;
    // A typo shows.
    let misspelled = world.process(consumers![place_misspelled]).seed(3).start().await;
    assert!(misspelled.halted("desk").await.reason().contains("(it ignores `Shiped`)"));
    let alone = world.process(consumers![place_alone]).seed(4).start().await;
    alone.settled().await;
    assert_eq!((handled(&world), alone.status("desk").passed_over), (vec![2], 1));
    assert_eq!(world.group("desk").state().await.events, events(&[("Placed", 1)]));
    // Now a build that neither has nor ignores it passes it over, too.
    for app in [alone, misspelled] {
        stop(app).await;
    }
    world.publish([Shipped { n: 3 }]).await;
    world.publish([Placed { n: 4 }]).await;
    old.settled().await;
    assert_eq!((handled(&world), old.status("desk").passed_over), (vec![2, 4], 1));
}

#[tokio::test]
async fn a_build_that_still_has_the_consumer_declares_it_again() {
    let world = World::new("shop");
    let alone = world.process(consumers![place_alone]).seed(1).start().await;
    alone.settled().await;
    let new = new_build(&world).seed(2).start().await;
    new.settled().await;
    stop(alone).await;
    // An owner that ignores it took it out, and the one that has it put it back before it contended.
    world.group("desk").until(|state| state.events.contains_key("Shipped")).await;
    new.publish(&Shipped { n: 1 }).await.unwrap();
    new.settled().await;
    assert_eq!(handled(&world), [1]);
}

#[tokio::test]
async fn when_the_new_build_crashes_the_old_one_goes_on_as_far_as_it_can() {
    let world = World::new("shop");
    let (old, new) = (old(&world).seed(1).start().await, new_build(&world).seed(2).start().await);
    new.publish(&Shipped { n: 1 }).await.unwrap();
    new.settled().await;
    assert!(new.owns("desk"));
    drop(new);
    world.publish([Placed { n: 2 }]).await;
    world.publish([Shipped { n: 3 }]).await;
    assert!(old.halted("desk").await.reason().contains("`Shipped`"));
    assert_eq!(handled(&world), [1, 2]);
    let new = new_build(&world).seed(3).start().await;
    new.settled().await;
    assert_eq!(handled(&world), [1, 2, 3]);
}

#[tokio::test]
async fn a_reset_behind_the_event_lets_an_old_build_go_on() {
    let world = World::new("shop");
    stop(new_build(&world).seed(1).start().await).await;
    let old = old(&world).seed(2).start().await;
    let shipped = world.publish([Shipped { n: 1 }]).await[0];
    world.publish([Placed { n: 2 }]).await;
    old.halted("desk").await;
    old.running().admin().reset("shop", "desk", streams_runtime::Start::At(shipped.next())).await.unwrap();
    world.lab.called("desk", 1).await;
    old.settled().await;
    assert_eq!((handled(&world), world.group("desk").state().await.needs), (vec![2], None));
}

#[tokio::test]
async fn a_batch_before_the_event_of_another_build_is_handled_and_committed() {
    let world = World::new("shop");
    stop(new_build(&world).seed(1).start().await).await;
    let old = world.process(consumers![place_many]).seed(2).start().await;
    world.publish([Placed { n: 1 }]).await;
    let before = world.publish([Placed { n: 2 }]).await[0];
    world.publish([Shipped { n: 3 }]).await;
    world.publish([Placed { n: 4 }]).await;
    old.halted("desk").await;
    assert_eq!((world.lab.events("desk"), world.group("desk").state().await.at), (vec![1, 2], before));
}

#[tokio::test]
async fn a_release_that_is_refused_does_not_make_an_old_build_spin() {
    let world = World::new("shop");
    stop(new_build(&world).seed(1).start().await).await;
    world.wire.always(Op::Release, Fault::Fail(streams_core::broker::BrokerErrorKind::Refused));
    let old = old(&world).seed(2).start().await;
    world.publish([Shipped { n: 1 }]).await;
    old.advance(Duration::from_secs(60)).await;
    assert!(world.wire.calls(Op::Acquire) < 30, "{} claims", world.wire.calls(Op::Acquire));
    world.wire.heal();
    let new = new_build(&world).seed(3).start().await;
    new.settled().await;
    assert_eq!(handled(&world), [1]);
}

#[tokio::test]
async fn a_build_that_could_not_declare_its_events_does_not_start() {
    let world = World::new("shop");
    let old = old(&world).seed(1).start().await;
    old.settled().await;
    world.wire.once(Op::Declare, Fault::Fail(streams_core::broker::BrokerErrorKind::Unavailable));
    let app = App::with(consumers![place, ship]).state(world.lab.clone());
    let refused = TestApp::start_with(app, Arc::new(world.wire.clone()), 2).await;
    assert!(matches!(refused, Err(Error::Broker(_))), "{refused:?}");
}

/// A stream with several partitions.
mod yard {
    use super::*;

    #[stream_event(stream = "yard", partitions = 4, key = n)]
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct Moved {
        pub(crate) n: u64,
    }

    #[stream_event(stream = "yard", key = n)]
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct Parked {
        pub(crate) n: u64,
    }

    #[consumer(group = "gate")]
    pub(crate) async fn moved(moved: Moved, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
        lab.handle(&ctx, moved.n).await
    }

    #[consumer(group = "gate")]
    pub(crate) async fn parked(parked: Parked, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
        lab.handle(&ctx, parked.n).await
    }
}

#[tokio::test]
async fn a_deploy_of_several_processes_hands_each_partition_to_those_who_can_handle_it() {
    let (world, mut n) = (World::new("shop"), 0);
    let old = [
        world.process(consumers![yard::moved]).seed(1).start().await,
        world.process(consumers![yard::moved]).seed(2).start().await,
    ];
    // As long as this: events of the old kind, and of the new one once somebody has it.
    let load = async |app: &TestApp, rounds: u64, both: bool, n: &mut u64| {
        for _ in 0..rounds {
            *n += 1;
            world.publish([yard::Moved { n: *n }]).await;
            if both {
                *n += 1;
                world.publish([yard::Parked { n: *n }]).await;
            }
            app.advance(Duration::from_millis(50)).await;
        }
    };
    load(&old[0], 100, false, &mut n).await;
    let [first_old, second_old] = old;
    let first = world.process(consumers![yard::moved, yard::parked]).seed(3).start().await;
    load(&first, 100, true, &mut n).await;
    let owned = |app: &TestApp| {
        app.running().status().groups.iter().filter(|group| matches!(group.phase, Phase::Owning { .. })).count()
    };
    assert_eq!(
        (owned(&first), owned(&first_old), owned(&second_old)),
        (4, 0, 0),
        "the new build alone handles all of it"
    );
    stop(first_old).await;
    load(&first, 100, true, &mut n).await;
    let second = world.process(consumers![yard::moved, yard::parked]).seed(4).start().await;
    load(&second, 100, true, &mut n).await;
    assert_eq!((owned(&first), owned(&second), owned(&second_old)), (2, 2, 0));
    let passed: u64 = second_old.running().status().groups.iter().map(|group| group.passed_over).sum();
    assert_eq!(passed, 0);
    stop(second_old).await;
    load(&second, 100, true, &mut n).await;
    first.settled().await;
    second.settled().await;
    let mut handled = world.lab.events("gate");
    handled.sort_unstable();
    handled.dedup();
    assert_eq!(handled, (1..=n).collect::<Vec<_>>());
    assert!(second.dead_letters::<yard::Moved>("gate").await.unwrap().is_empty());
    // Two shares of four, one more member, one handing over each, and two of them to the second new one.
    let taken = world.wire.calls(Op::Acquire);
    assert!(taken <= 24, "taken {taken} times");
}

#[test]
fn what_a_group_takes_it_cannot_ignore() {
    let refused = |app: App| match app.state(Lab::default()).check() {
        Err(Error::Refused(problems)) => problems.join("\n"),
        other => panic!("not refused: {other:?}"),
    };
    let both = refused(App::with(consumers![place_alone, ship]));
    for said in
        ["`ship` takes `Shipped` of stream `shop` in group `desk`", "`place_alone` says that the group ignores it"]
    {
        assert!(both.contains(said), "does not say `{said}`: {both}");
    }
    let ignoring = |events| Config::new().group("desk", ConsumerOptions::DEFAULT.with_ignore(events));
    let configured = refused(App::with(consumers![place, ship]).config(ignoring(&["Shipped"])));
    assert!(configured.contains("and the configuration says that the group ignores it"), "{configured}");
    let invalid = refused(App::with(consumers![place]).config(ignoring(&["two words"])));
    assert!(invalid.contains("config of group `desk`: `ignore`: invalid event name `two words`"), "{invalid}");
    App::with(consumers![place]).config(ignoring(&["Shipped"])).state(Lab::default()).check().unwrap();
}

mod other {
    use super::*;

    #[stream_event(stream = "shop")]
    #[derive(Debug)]
    pub(crate) struct Paid {
        n: u64,
    }

    #[consumer(group = "desk", ignore = ["Returned"])]
    pub(crate) async fn pay(paid: Paid) {
        let _ = paid.n;
    }

    #[consumer(group = "desk", ignore = ["Returned", "Shipped"])]
    pub(crate) async fn pay_in_order(paid: Paid) {
        let _ = paid.n;
    }
}

#[test]
fn consumers_of_a_group_ignore_the_same_events_in_any_order() {
    let differ = App::with(consumers![place_alone, other::pay]).state(Lab::default()).check();
    let Err(Error::Refused(problems)) = differ else { panic!("not refused: {differ:?}") };
    assert!(problems[0].contains("give group `desk` a different `ignore`"), "{problems:?}");
    App::with(consumers![place_alone, other::pay_in_order]).state(Lab::default()).check().unwrap();
}

#[tokio::test]
async fn two_programs_that_share_a_group_by_mistake_are_told_and_do_not_spin() {
    const EVENTS: u64 = 300;
    let (log, world) = (logged_from(tracing::Level::INFO), World::new("shop"));
    let places = world.process(consumers![place]).seed(1).start().await;
    let ships = world.process(consumers![ship_alone]).seed(2).start().await;
    places.advance(Duration::from_secs(5)).await;
    let before = log.text().len();
    for n in (1..=EVENTS).step_by(2) {
        world.publish([Placed { n }]).await;
        world.publish([Shipped { n: n + 1 }]).await;
    }
    let claims = world.wire.calls(Op::Acquire);
    places.advance(Duration::from_secs(30)).await;
    let claims = world.wire.calls(Op::Acquire) - claims;
    assert!((10..=90).contains(&claims), "{claims} claims in half a minute");
    places.settled().await;
    ships.settled().await;
    assert_eq!(world.lab.events("desk"), (1..=EVENTS).collect::<Vec<_>>(), "in order, and once each");
    let lines = log.lines_since(before);
    let told: Vec<_> = lines.iter().filter(|line| line.contains("programs that handle different events")).collect();
    assert_eq!(told.len(), 2, "each program once: {told:#?}");
    for (told, here, there) in [(told[0], "Placed@1", "Shipped@1"), (told[1], "Placed@1", "Shipped@1")] {
        for said in [" WARN ", "stream=\"shop\"", "group=\"desk\"", here, there, "a group name of its own"] {
            assert!(told.contains(said), "no `{said}` in: {told}");
        }
    }
    assert!(lines.len() <= 30, "{} lines: {:#?}", lines.len(), &lines[..30]);
}
