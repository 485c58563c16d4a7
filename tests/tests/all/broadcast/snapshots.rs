//! Promises of the snapshots of what a broadcast group keeps, in virtual time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use streams_core::broker::Members;
use streams_core::keys::{SnapshotKey, StreamKey};
use streams_runtime::{BoxError, Config, Phase, SnapshotState, Snapshots, State, consumer, consumers, stream_event};
use streams_tests::{Act, Lab, Launch, Process, World, secs};

/// A booking of an amount.
#[stream_event(stream = "bookings", key = account, partitions = 3)]
#[derive(Debug, Clone, PartialEq)]
struct Booked {
    account: u64,
    amount: u64,
}

/// An event of another stream.
#[stream_event(stream = "closings")]
#[derive(Debug, Clone, PartialEq)]
struct Closed {
    account: u64,
}

/// The sum of each account, which an event that comes twice makes wrong.
type Sums = Arc<Mutex<BTreeMap<u64, u64>>>;

#[consumer(group = "sums", delivery = "broadcast")]
async fn book(
    booked: Booked,
    ctx: streams_runtime::Context,
    lab: State<Lab>,
    State(sums): State<Sums>,
) -> Result<(), BoxError> {
    lab.handle(&ctx, booked.amount).await?;
    *sums.lock().unwrap().entry(booked.account).or_default() += booked.amount;
    Ok(())
}

#[consumer(group = "sums", delivery = "broadcast")]
async fn close(closed: Closed, State(sums): State<Sums>) {
    sums.lock().unwrap().remove(&closed.account);
}

fn every_minute() -> Snapshots {
    Snapshots::every(secs(60))
}

fn booked(amounts: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Booked> {
    amounts.into_iter().map(|amount| Booked { account: amount % 7, amount })
}

/// The truth about these amounts.
fn truth(amounts: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for amount in amounts {
        *sums.entry(amount % 7).or_default() += amount;
    }
    sums
}

/// A process with sums of its own, and what it knows of them.
struct Copy {
    app: Process,
    sums: Sums,
    lab: Lab,
}

fn launch<'w>(world: &'w World, sums: &Sums, lab: &Lab, snapshots: Snapshots) -> Launch<'w> {
    let launch = world.process_of(consumers![book, close], lab).state(sums.clone());
    launch.snapshots("sums", snapshots, sums.clone())
}

async fn copy(world: &World, snapshots: Snapshots) -> Copy {
    let (sums, lab) = (Sums::default(), Lab::default());
    let app = launch(world, &sums, &lab, snapshots).start().await;
    app.settled().await;
    Copy { app, sums, lab }
}

impl Copy {
    fn sums(&self) -> BTreeMap<u64, u64> {
        self.sums.lock().unwrap().clone()
    }

    /// Handles more bookings, and ends without a snapshot of them.
    async fn books_and_dies(self, amounts: std::ops::RangeInclusive<u64>) {
        self.app.publish_all(booked(amounts)).await;
        self.app.settled().await;
        self.app.kill().await;
    }

    /// How many bookings it has handled itself.
    fn handled(&self) -> usize {
        self.lab.events("sums").len()
    }
}

/// A copy of a hundred bookings, with a snapshot of all of them.
async fn save_hundred(world: &World) -> Copy {
    let first = copy(world, every_minute()).await;
    first.app.publish_all(booked(1..=100)).await;
    first.app.settled().await;
    first.app.advance(secs(120)).await;
    first
}

async fn saved(world: &World) -> Option<Vec<u8>> {
    world.store.saved(&SnapshotKey::new(None, "sums")).await.unwrap()
}

#[tokio::test]
async fn the_next_start_goes_on_where_the_snapshot_ends() {
    let world = World::new("bookings");
    save_hundred(&world).await.books_and_dies(101..=110).await;
    let second = copy(&world, every_minute()).await;
    assert_eq!(second.sums(), truth(1..=110));
    assert_eq!(second.handled(), 10, "the snapshot has the others");
}

#[tokio::test]
async fn a_snapshot_that_is_younger_than_the_retention_closes_the_gap() {
    let world = World::new("bookings");
    save_hundred(&world).await.books_and_dies(101..=110).await;
    let stream = StreamKey::new(None, "bookings", 3);
    for index in 0..3 {
        // A short retention removes everything below the entry that the snapshot ends with.
        let partition = stream.partition(index);
        let entries = streams_core::broker::Log::read(&world.store, &partition, streams_runtime::EntryId::ZERO, 1_000);
        let entries = entries.await.unwrap();
        let kept =
            entries.iter().rposition(|entry| streams_runtime::codec::decode::<Booked>(entry).unwrap().amount <= 100);
        if let Some(kept) = kept {
            world.store.trim(&partition, entries[kept].id);
        }
    }
    let second = copy(&world, every_minute()).await;
    assert_eq!(second.sums(), truth(1..=110));
    assert_eq!(
        second
            .app
            .running()
            .status()
            .groups
            .iter()
            .filter(|status| status.stream == "bookings")
            .map(|status| status.losses)
            .sum::<u64>(),
        0
    );
}

#[tokio::test]
async fn what_the_retention_took_since_the_snapshot_is_reported() {
    let world = World::new("bookings");
    save_hundred(&world).await.books_and_dies(101..=200).await;
    let stream = StreamKey::new(None, "bookings", 3);
    for index in 0..3 {
        world.store.trim(&stream.partition(index), streams_runtime::EntryId::MAX);
    }
    let second = copy(&world, every_minute()).await;
    assert_eq!(second.sums(), truth(1..=100), "the state of the snapshot, without what nobody has any more");
    assert_eq!(
        second
            .app
            .running()
            .status()
            .groups
            .iter()
            .filter(|status| status.stream == "bookings")
            .map(|status| status.lost)
            .sum::<u64>(),
        100
    );
}

/// Sums that count how often they are saved.
struct Counted(Sums, Arc<AtomicUsize>);

impl SnapshotState for Counted {
    fn save(&self) -> Result<Vec<u8>, BoxError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.save()
    }

    fn load(&self, saved: &[u8]) -> Result<(), BoxError> {
        self.0.load(saved)
    }
}

#[tokio::test]
async fn one_process_at_a_time_saves() {
    let world = World::new("bookings");
    let saves = Arc::<AtomicUsize>::default();
    let mut apps = Vec::new();
    for _ in 0..2 {
        let (sums, lab) = (Sums::default(), Lab::default());
        let launch = world.process_of(consumers![book, close], &lab).state(sums.clone());
        apps.push(launch.snapshots("sums", every_minute(), Counted(sums, Arc::clone(&saves))).start().await);
    }
    apps[0].publish_all(booked(1..=10)).await;
    apps[0].advance(secs(3_600)).await;
    let saves = saves.load(Ordering::Relaxed);
    assert!((45..=60).contains(&saves), "{saves}: about one per minute, of both together");
}

#[tokio::test]
async fn a_snapshot_of_another_version_or_shape_is_discarded() {
    let world = World::new("bookings");
    let first = save_hundred(&world).await;
    first.app.kill().await;
    for snapshots in [Snapshots::every(secs(60)).version(2), every_minute()] {
        let second = copy(&world, snapshots).await;
        assert_eq!((second.sums(), second.handled()), (truth(1..=100), 100), "from the beginning");
        second.app.kill().await;
        // The next one finds something that is no snapshot.
        world.store.save(&SnapshotKey::new(None, "sums"), b"\x01\x02".to_vec()).await.unwrap();
    }
    // A state whose type has changed.
    let other: Arc<Mutex<String>> = Arc::default();
    let state: &dyn SnapshotState = &other;
    assert!(state.load(&Sums::default().save().unwrap()).is_err());
}

#[tokio::test]
async fn a_snapshot_of_another_history_is_discarded() {
    let world = World::new("bookings");
    let first = save_hundred(&world).await;
    let snapshot = saved(&world).await.unwrap();
    first.app.kill().await;
    world.store.flush();
    world.store.save(&SnapshotKey::new(None, "sums"), snapshot).await.unwrap();
    world.publish(booked(1..=5)).await;
    let second = copy(&world, every_minute()).await;
    assert_eq!(second.sums(), truth(1..=5));
}

#[tokio::test]
async fn nothing_is_saved_before_the_copy_is_whole() {
    let world = World::new("bookings");
    world.publish(booked(1..=10)).await;
    let (sums, lab) = (Sums::default(), Lab::default());
    lab.script("sums", 10, [Act::Hang]);
    let config = Config::new().consumers(streams_runtime::ConsumerOptions::DEFAULT.with_timeout(secs(3_600)));
    let app = launch(&world, &sums, &lab, every_minute()).config(config).start().await;
    app.advance(secs(600)).await;
    assert!(
        app.running()
            .status()
            .groups
            .iter()
            .filter(|status| status.stream == "bookings")
            .any(|status| status.phase == Phase::CatchingUp)
    );
    assert_eq!(saved(&world).await, None);
}

#[tokio::test]
async fn a_state_that_panics_while_it_is_saved_takes_nothing_along() {
    struct Broken;
    impl SnapshotState for Broken {
        fn save(&self) -> Result<Vec<u8>, BoxError> {
            panic!("it cannot be saved")
        }

        fn load(&self, _: &[u8]) -> Result<(), BoxError> {
            Ok(())
        }
    }
    let world = World::new("bookings");
    let (sums, lab) = (Sums::default(), Lab::default());
    let launch =
        world.process_of(consumers![book, close], &lab).state(sums.clone()).snapshots("sums", every_minute(), Broken);
    let app = launch.start().await;
    app.advance(secs(120)).await;
    app.publish_all(booked(1..=10)).await;
    app.settled().await;
    assert_eq!(*sums.lock().unwrap(), truth(1..=10));
    assert_eq!(saved(&world).await, None);
}

/// Processes come, are killed in the middle of handlers and of retries, and start again from snapshots. Whatever happens
/// to them, each that has caught up has every event once.
#[tokio::test]
async fn copies_that_are_killed_at_any_moment_have_every_event_once() {
    for seed in 0..60 {
        let (world, mut numbers) = (World::new("bookings"), streams_tests::soak::Dice::new(seed));
        let mut next = 1;
        let mut copies: Vec<Copy> = Vec::new();
        for _ in 0..30 {
            match numbers.below(5) {
                0 if copies.len() < 3 => {
                    let (sums, lab) = (Sums::default(), Lab::default());
                    for amount in 0..20 {
                        lab.script("sums", next + amount * 3, [Act::Fail, Act::Panic]);
                        lab.script("sums", next + amount * 3 + 1, [Act::Sleep(secs(1))]);
                    }
                    let app = launch(&world, &sums, &lab, Snapshots::every(secs(5))).seed(seed).start().await;
                    copies.push(Copy { app, sums, lab });
                }
                1 if !copies.is_empty() => {
                    let killed = copies.swap_remove(numbers.index(copies.len()));
                    killed.app.kill().await;
                }
                2 => tokio::time::sleep(secs(numbers.below(20))).await,
                _ => {
                    let many = numbers.below(30);
                    world.publish(booked(next..next + many)).await;
                    next += many;
                }
            }
        }
        copies.push(copy(&world, Snapshots::every(secs(5))).await);
        for copy in &copies {
            copy.app.settled().await;
            assert_eq!(copy.sums(), truth(1..next), "seed {seed}");
        }
    }
}
