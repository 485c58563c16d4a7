//! Promises of a group that every process reads by itself, in virtual time: apps on one embedded broker stand for processes.

use streams_core::broker::{Groups, Log};
use streams_core::keys::StreamKey;
use streams_runtime::{
    BoxError, ConsumerOptions, Context, DataLossKind, EntryId, Error, OnDataLoss, OnFailure, Outcome, Phase, Start,
    State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::{Act, Gate, Lab, Launch, World, secs};

/// A price.
#[stream_event(stream = "prices")]
#[derive(Debug, Clone, PartialEq)]
struct Priced {
    n: u64,
}

/// Its next version, which the consumer here does not know.
#[stream_event(stream = "prices", name = "Priced", version = 2, oldest = 2, lock = false)]
#[derive(Debug, Clone, PartialEq)]
struct PricedNow {
    n: u64,
}

/// An event of a stream with several partitions.
#[stream_event(stream = "quotations", key = n, partitions = 4)]
#[derive(Debug, Clone, PartialEq)]
struct Quoted {
    n: u64,
}

#[consumer(group = "copy", delivery = "broadcast", max_attempts = 3)]
async fn keep(priced: Priced, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, priced.n).await
}

#[consumer(group = "copy-all", delivery = "broadcast")]
async fn keep_all(quoted: Quoted, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, quoted.n).await
}

const OPTIONS: ConsumerOptions = ConsumerOptions::DEFAULT;

fn prices(events: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Priced> {
    events.into_iter().map(|n| Priced { n })
}

/// A process with a record of its own.
fn reader<'w>(world: &'w World, lab: &Lab) -> Launch<'w> {
    world.process_of(consumers![keep], lab)
}

#[tokio::test]
async fn every_process_handles_every_event_in_order() {
    let world = World::new("prices");
    let labs = [Lab::default(), Lab::default()];
    world.publish(prices(1..=600)).await;
    let (a, b) = (reader(&world, &labs[0]).start().await, reader(&world, &labs[1]).start().await);
    a.publish_all(prices(601..=1_000)).await;
    for (app, lab) in [(&a, &labs[0]), (&b, &labs[1])] {
        app.settled().await;
        assert_eq!(lab.events("copy"), (1..=1_000).collect::<Vec<_>>());
        let status = app.status("copy");
        assert_eq!((status.phase, status.handled), (Phase::Following, 1_000));
        // The first question begins the looks at the end of the stream.
        app.advance(secs(6)).await;
        assert_eq!(app.status("copy").lag_entries, Some(0));
    }
}

#[tokio::test]
async fn nothing_of_the_group_is_in_the_store() {
    let world = World::new("prices");
    let app = reader(&world, &world.lab).start().await;
    app.publish_all(prices(1..=3)).await;
    app.settled().await;
    assert_eq!(world.store.groups(&world.partition()).await.unwrap(), Some(vec![]));
    let states = world.store.states(&[world.group("copy").key]).await.unwrap();
    assert!(matches!(states[..], [Ok(None)]), "{states:?}");
    app.kill().await;
    let again = reader(&world, &world.lab).start().await;
    again.settled().await;
    assert_eq!(world.lab.events("copy"), [1, 2, 3, 1, 2, 3], "a process that starts again reads all of it again");
}

#[tokio::test]
async fn a_process_is_ready_when_it_has_handled_what_was_there_before_it() {
    let (world, gate) = (World::new("prices"), Gate::default());
    world.lab.script("copy", 300, [Act::Wait(gate.clone())]);
    world.publish(prices(1..=300)).await;
    let app = reader(&world, &world.lab).start().await;
    world.lab.called("copy", 300).await;
    // Published behind what it has to catch up with.
    world.publish(prices([301])).await;
    assert_eq!(app.status("copy").phase, Phase::CatchingUp);
    let health = app.running().monitor().health();
    assert!(!health.ready && health.to_string().contains("catching up prices copy"), "{health}");
    let running = app.into_running();
    assert!(tokio::time::timeout(secs(10), running.caught_up()).await.is_err(), "it waits");
    gate.open();
    running.caught_up().await.unwrap();
    assert!(running.monitor().health().ready);
    running.settled().await.unwrap();
    assert_eq!(world.lab.events("copy"), (1..=301).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_without_entries_is_caught_up_with_at_once() {
    let world = World::new("prices");
    let app = reader(&world, &world.lab).start().await.into_running();
    app.caught_up().await.unwrap();
    world.publish(prices([1])).await;
    app.settled().await.unwrap();
    assert_eq!(world.lab.events("copy"), [1]);
}

#[tokio::test]
async fn a_process_begins_where_its_start_says() {
    let world = World::new("prices");
    let first = world.publish(prices(1..=10)).await;
    tokio::time::pause();
    tokio::time::sleep(secs(3600)).await;
    world.publish(prices(11..=20)).await;
    for (start, begins) in [
        (Start::Earliest, 1),
        (Start::Ago(secs(60)), 11),
        (Start::Ago(secs(7200)), 1),
        (Start::At(first[4]), 5),
        (Start::Latest, 21),
    ] {
        let lab = Lab::default();
        let app = reader(&world, &lab).options(OPTIONS.with_start(start)).start().await;
        app.settled().await;
        assert_eq!(lab.events("copy"), (begins..=20).collect::<Vec<_>>(), "{start:?}");
    }
}

#[tokio::test]
async fn all_partitions_are_read_and_each_in_its_order() {
    let world = World::new("quotations");
    let apps = [Lab::default(), Lab::default()];
    for lab in &apps {
        let app = world.process_of(consumers![keep_all], lab).start().await;
        app.publish_all((1..=400).map(|n| Quoted { n })).await;
        app.settled().await;
        app.kill().await;
    }
    assert_eq!(apps[0].sorted("copy-all"), (1..=400).collect::<Vec<_>>());
    assert_eq!(apps[1].events("copy-all").len(), 800);
    let stream = StreamKey::new(None, "quotations", 4);
    for index in 0..4 {
        let there: Vec<_> = world.store.read(&stream.partition(index), EntryId::ZERO, 1_000).await.unwrap();
        let expected: Vec<u64> =
            there.iter().map(|entry| streams_runtime::codec::decode::<Quoted>(entry).unwrap().n).collect();
        let seen: Vec<u64> = apps[1].events("copy-all").into_iter().filter(|n| expected.contains(n)).collect();
        assert_eq!(seen, expected, "partition {index}");
    }
}

#[tokio::test]
async fn an_event_that_fails_for_good_is_passed_over_and_counted_here_only() {
    let world = World::new("prices");
    let labs = [Lab::default(), Lab::default()];
    labs[0].script("copy", 2, [Act::Fail, Act::Panic, Act::Fail]);
    labs[1].script("copy", 2, [Act::Fail]);
    world.publish(prices(1..=3)).await;
    let (a, b) = (reader(&world, &labs[0]).start().await, reader(&world, &labs[1]).start().await);
    a.settled().await;
    b.settled().await;
    assert_eq!(labs[0].events("copy"), [1, 2, 2, 2, 3]);
    assert_eq!(labs[1].events("copy"), [1, 2, 2, 3]);
    let (a, b) = (a.status("copy"), b.status("copy"));
    assert_eq!((a.handled, a.failed, a.retried, a.dead_lettered), (2, 1, 2, 0));
    assert_eq!((b.handled, b.failed, b.retried), (3, 0, 1));
    assert_eq!(a.phase, Phase::Following);
}

#[tokio::test]
async fn a_group_that_says_so_stops_its_app_where_an_event_fails_for_good() {
    let world = World::new("prices");
    world.lab.script("copy", 2, [Act::Permanent]);
    let app = reader(&world, &world.lab).options(OPTIONS.with_on_failure(OnFailure::Stop)).start().await;
    app.publish_all(prices(1..=3)).await;
    world.lab.called("copy", 2).await;
    let running = app.into_running();
    assert!(matches!(running.caught_up().await, Ok(()) | Err(Error::Stopping)));
    running.stopping().await;
    assert_eq!(running.shutdown().await, Stopped::Failed);
    assert_eq!(world.lab.events("copy"), [1, 2]);
}

#[tokio::test]
async fn an_event_of_a_newer_build_is_given_up_and_one_of_no_consumer_passed_over() {
    let world = World::new("prices");
    world.publish(prices([1])).await;
    world.publish([PricedNow { n: 2 }]).await;
    world.append("Halted@1", &[0x80]).await;
    world.append_raw(vec![(b"no".to_vec(), b"event".to_vec())]).await;
    world.publish(prices([3])).await;
    let app = reader(&world, &world.lab).start().await;
    app.settled().await;
    assert_eq!(world.lab.events("copy"), [1, 3]);
    let status = app.status("copy");
    assert_eq!((status.handled, status.failed, status.passed_over), (2, 2, 1));
}

#[tokio::test]
async fn a_retry_in_one_partition_does_not_hold_up_the_others() {
    let world = World::new("quotations");
    world.lab.always("copy-all", 1, Act::Fail);
    let options = OPTIONS.with_backoff(secs(600), secs(600));
    let app = world.process_of(consumers![keep_all], &world.lab).options(options).start().await;
    app.publish_all((1..=100).map(|n| Quoted { n })).await;
    let partition = |n: u64| streams_core::keys::partition_of(&n.to_string(), 4);
    let elsewhere = (2..=100).filter(|n| partition(*n) != partition(1)).count();
    world.lab.called("copy-all", 1 + elsewhere).await;
    app.advance(secs(60)).await;
    assert_eq!(world.lab.events("copy-all").len(), 1 + elsewhere, "those behind it wait");
}

#[tokio::test]
async fn a_history_that_is_cut_is_reported_and_the_group_goes_on_with_the_new_one() {
    let world = World::new("prices");
    let app = reader(&world, &world.lab).start().await;
    app.publish_all(prices(1..=5)).await;
    app.settled().await;
    world.store.delete(&world.partition());
    world.publish(prices(6..=7)).await;
    world.lab.called("copy", 7).await;
    let status = app.status("copy");
    assert_eq!(status.last_loss.map(|loss| loss.kind), Some(DataLossKind::HistoryCut));
    assert_eq!(world.lab.events("copy"), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(app.status("copy").phase, Phase::Following);
}

#[tokio::test]
async fn a_group_that_is_to_halt_at_a_loss_is_not_ready_from_then_on() {
    let world = World::new("prices");
    let app = reader(&world, &world.lab).options(OPTIONS.with_on_data_loss(OnDataLoss::Halt)).start().await;
    app.publish_all(prices(1..=5)).await;
    app.settled().await;
    world.store.delete(&world.partition());
    world.publish(prices(6..=7)).await;
    let halt = app.halted("copy").await;
    assert!(halt.to_string().contains("start the process again"), "{halt}");
    assert!(!app.running().monitor().health().ready);
    assert_eq!(world.lab.events("copy"), [1, 2, 3, 4, 5]);
    assert_eq!(app.into_running().shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn a_server_that_was_away_leaves_no_gap() {
    let world = World::new("prices");
    let app = reader(&world, &world.lab).start().await;
    app.publish_all(prices(1..=5)).await;
    app.settled().await;
    world.wire.cut_off();
    app.advance(secs(30)).await;
    world.publish(prices(6..=500)).await;
    world.wire.heal();
    app.settled().await;
    assert_eq!(world.lab.events("copy"), (1..=500).collect::<Vec<_>>());
    assert_eq!(app.status("copy").losses, 0);
}
