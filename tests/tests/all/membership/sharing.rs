//! How processes share the partitions of their groups, in virtual time: apps on one embedded broker stand for processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerErrorKind, Groups};
use streams_core::keys::{GroupKey, StreamKey};
use streams_runtime::broker::Embedded;
use streams_runtime::testing::TestApp;
use streams_runtime::{App, Config, Context, EntryId, Phase, State, Stopped, consumer, consumers, stream_event};
use streams_tests::{Fault, Faulty, Gate, Op};
use tokio::time::Instant;

const PARTITIONS: u32 = 16;
const LEASE: Duration = Duration::from_secs(10);

#[stream_event(stream = "shares", partitions = 16, key = key)]
#[derive(Debug, Clone, PartialEq)]
struct Share {
    key: u64,
    n: u64,
}

/// What handlers have seen: group, partition, entry.
#[derive(Debug, Clone, Default)]
struct Journal(Arc<Mutex<Vec<(String, u32, EntryId)>>>);

impl Journal {
    async fn handle(&self, ctx: &Context) {
        self.0.lock().unwrap().push((ctx.group().to_owned(), ctx.partition(), ctx.entry_id()));
        // Long enough that a hand-over finds an event in hand.
        tokio::time::sleep(millis(20)).await;
    }
}

#[consumer(group = "one")]
async fn one(_: Share, ctx: Context, journal: State<Journal>) {
    journal.handle(&ctx).await;
}

#[consumer(group = "two")]
async fn two(_: Share, ctx: Context, journal: State<Journal>) {
    journal.handle(&ctx).await;
}

#[consumer(group = "three")]
async fn three(_: Share, ctx: Context, journal: State<Journal>) {
    journal.handle(&ctx).await;
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Default)]
struct World {
    store: Embedded,
    journal: Journal,
    seeds: AtomicU64,
}

/// Who owned what, one holding after the other.
type History = BTreeMap<GroupKey, Vec<(u64, String)>>;

impl World {
    fn wire(&self) -> Faulty {
        Faulty::over(Arc::new(self.store.clone()))
    }

    async fn start(&self, wire: &Faulty) -> TestApp {
        let app = App::with(consumers![one, two, three]).state(self.journal.clone()).config(Config::new().lease(LEASE));
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        TestApp::start_with(app, Arc::new(wire.clone()), seed).await.unwrap()
    }

    /// So many apps, once they have settled.
    async fn settled(&self, count: usize) -> Vec<TestApp> {
        let mut apps = Vec::new();
        for _ in 0..count {
            apps.push(self.start(&self.wire()).await);
        }
        tokio::time::sleep(secs(6)).await;
        apps
    }

    fn keys() -> impl Iterator<Item = GroupKey> {
        let stream = StreamKey::new(None, "shares", PARTITIONS);
        ["one", "two", "three"].into_iter().flat_map(move |group| {
            let stream = stream.clone();
            (0..PARTITIONS).map(move |partition| stream.partition(partition).group(group))
        })
    }

    async fn owner(&self, key: &GroupKey) -> (u64, String) {
        let lease = self.store.state(key).await.unwrap().unwrap().lease;
        (lease.epoch, lease.owner.split('/').next().unwrap().to_owned())
    }

    /// Lets time pass and writes down every holding, the one at the beginning first.
    async fn watch(&self, time: Duration) -> History {
        let (end, mut history) = (Instant::now() + time, History::new());
        loop {
            for key in Self::keys() {
                let (epoch, owner) = self.owner(&key).await;
                let holdings = history.entry(key).or_default();
                if !owner.is_empty() && holdings.last().is_none_or(|(last, _)| *last != epoch) {
                    holdings.push((epoch, owner));
                }
            }
            if Instant::now() >= end {
                return history;
            }
            tokio::time::sleep(millis(10)).await;
        }
    }

    /// Every group's partitions are owned, and no app owns two more than another.
    async fn assert_fair(&self, apps: &[TestApp]) {
        for group in ["one", "two", "three"] {
            let owned: Vec<_> = apps.iter().map(|app| owned(app, group)).collect();
            assert_eq!(owned.iter().sum::<usize>(), PARTITIONS as usize, "{group}: {owned:?}");
            assert!(owned.iter().max().unwrap() - owned.iter().min().unwrap() <= 1, "{group}: {owned:?}");
        }
    }

    /// Publishes until the time is over.
    async fn publish(&self, app: &TestApp, time: Duration) {
        let end = Instant::now() + time;
        let mut n = 0;
        while Instant::now() < end {
            let events: Vec<_> = (0..40).map(|key| Share { key, n }).collect();
            for receipt in app.publisher().publish_all(events).await {
                receipt.unwrap();
            }
            n += 1;
            tokio::time::sleep(millis(200)).await;
        }
    }

    /// What each group has seen of each partition; every entry once and in order where nothing was repeated.
    fn assert_in_order(&self) {
        let mut last: BTreeMap<(String, u32), EntryId> = BTreeMap::new();
        for (group, partition, entry) in &*self.journal.0.lock().unwrap() {
            let before = last.insert((group.clone(), *partition), *entry);
            assert!(before < Some(*entry), "{group} {partition}: {entry} after {before:?}");
        }
    }
}

fn owned(app: &TestApp, group: &str) -> usize {
    let owns = |phase: &Phase| matches!(phase, Phase::Owning { .. });
    app.running().status().groups.iter().filter(|status| status.group == group && owns(&status.phase)).count()
}

fn moves(history: &History) -> usize {
    history.values().map(|holdings| holdings.len() - 1).sum()
}

#[tokio::test]
async fn a_lone_process_owns_everything_at_once() {
    let world = World::default();
    let app = world.start(&world.wire()).await;
    let began = Instant::now();
    while ["one", "two", "three"].iter().any(|group| owned(&app, group) < PARTITIONS as usize) {
        app.advance(millis(1)).await;
    }
    assert!(began.elapsed() < millis(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn eight_processes_share_fairly_and_a_partition_moves_at_most_once_for_those_who_join_together() {
    let world = World::default();
    let mut apps = world.settled(1).await;
    for _ in 1..8 {
        apps.push(world.start(&world.wire()).await);
    }
    let publish = world.publish(&apps[0], secs(6));
    let (history, ()) = tokio::join!(world.watch(secs(6)), publish);
    world.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    assert_eq!(moves(&world.watch(secs(60)).await), 0);
    apps[0].settled().await.unwrap();
    world.assert_in_order();
}

#[tokio::test]
async fn a_process_that_joins_takes_little_more_than_its_share_and_nothing_is_repeated() {
    let world = World::default();
    let mut apps = world.settled(3).await;
    world.assert_fair(&apps).await;
    apps.push(world.start(&world.wire()).await);
    let publish = world.publish(&apps[0], secs(6));
    let (history, ()) = tokio::join!(world.watch(secs(6)), publish);
    world.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    // Four of each group's sixteen have to move.
    assert!((12..=24).contains(&moves(&history)), "{}", moves(&history));
    apps[0].settled().await.unwrap();
    world.assert_in_order();
}

#[tokio::test]
async fn what_a_process_gives_back_when_it_stops_is_taken_at_once_by_who_keeps_it() {
    let world = World::default();
    let mut apps = world.settled(4).await;
    let stopped_at = world.store.now().await.unwrap();
    let leaving = apps.remove(1).into_running().stop();
    let publish = world.publish(&apps[0], secs(6));
    let (history, stopped, ()) = tokio::join!(world.watch(secs(6)), leaving, publish);
    assert_eq!(stopped, Stopped::Clean);
    world.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    // An epoch is the moment of the claim, in the clock of the store. Nothing else moves before the members have settled.
    let claims: Vec<_> =
        history.values().filter_map(|holdings| holdings.get(1)).map(|(at, _)| at - stopped_at).collect();
    assert_eq!(claims.iter().filter(|after| **after <= 200).count(), 12, "four of each group: {claims:?}");
    assert!(claims.iter().all(|after| *after <= 200 || *after >= 2000), "{claims:?}");
    apps[0].settled().await.unwrap();
    world.assert_in_order();
}

#[tokio::test]
async fn what_a_process_leaves_that_crashed_is_taken_within_a_lease_and_a_second_and_does_not_move_again() {
    let world = World::default();
    let mut apps = world.settled(4).await;
    let dead = apps.remove(2);
    let name = {
        // Its name, from a partition that it owns.
        let status = dead
            .running()
            .status()
            .groups
            .into_iter()
            .find(|status| matches!(status.phase, Phase::Owning { .. }))
            .unwrap();
        let key = StreamKey::new(None, "shares", PARTITIONS).partition(status.partition).group(status.group);
        world.owner(&key).await.1
    };
    let crashed = world.store.now().await.unwrap();
    drop(dead);
    let history = world.watch(secs(30)).await;
    world.assert_fair(&apps).await;
    let orphans: Vec<_> = history.values().filter(|holdings| holdings[0].1 == name).collect();
    assert_eq!(orphans.len(), 12, "four of each group");
    for holdings in orphans {
        assert_eq!(holdings.len(), 2, "{holdings:?}");
        assert!(holdings[1].0 <= crashed + 11_000, "{} ms", holdings[1].0 - crashed);
    }
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
}

#[tokio::test]
async fn a_process_that_cannot_commit_loses_that_partition_alone_and_does_not_get_it_back_at_once() {
    let world = World::default();
    let wire = world.wire();
    let stuck = world.start(&wire).await;
    let other = world.start(&world.wire()).await;
    other.advance(secs(6)).await;
    wire.always(Op::Commit, Fault::Hold(Gate::default()));
    // Through the other, whose writes work; to one partition, which is the same in every group.
    let partition = other.publish(&Share { key: 1, n: 1 }).await.unwrap().partition;
    let history = world.watch(secs(45)).await;
    world.assert_fair(&[stuck, other]).await;
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    let (of_it, others): (Vec<_>, Vec<_>) = history.iter().partition(|(key, _)| key.partition().index() == partition);
    let owners: BTreeSet<_> = of_it.iter().map(|(_, holdings)| &holdings.last().unwrap().1).collect();
    assert_eq!(owners.len(), 1, "the other owns it in every group: {of_it:?}");
    // For each that goes another may come, so that both have as many as before.
    let lost = of_it.iter().filter(|(_, holdings)| holdings.len() == 2).count();
    let moved = others.iter().filter(|(_, holdings)| holdings.len() == 2).count();
    assert!(lost > 0 && moved <= lost, "{history:?}");
}

#[tokio::test]
async fn a_process_that_is_silent_for_less_than_its_lease_sends_nothing_to_and_fro() {
    for others in 2..=7 {
        let (world, gate) = (World::default(), Gate::default());
        let quiet = world.wire();
        let mut apps = vec![world.start(&quiet).await];
        apps.extend(world.settled(others).await);
        quiet.always(Op::Attend, Fault::Hold(gate.clone()));
        tokio::time::sleep(millis(2_500)).await;
        // It is silent when those who are there have settled, and not yet taken for dead when they are watched no more.
        apps.push(world.start(&world.wire()).await);
        let history = world.watch(secs(6)).await;
        for (key, holdings) in &history {
            assert!(holdings.len() <= 2, "{others}: {key}: {holdings:?}");
        }
        quiet.heal();
        gate.open();
        tokio::time::sleep(secs(6)).await;
        world.assert_fair(&apps).await;
    }
}

#[tokio::test]
async fn what_nobody_takes_although_it_should_is_taken_by_another_after_a_lease() {
    let world = World::default();
    let first = world.start(&world.wire()).await;
    first.advance(secs(3)).await;
    let wire = world.wire();
    wire.always(Op::Acquire, Fault::Fail(BrokerErrorKind::Unavailable));
    let unable = world.start(&wire).await;
    let history = world.watch(secs(30)).await;
    assert_eq!(owned(&first, "one") + owned(&first, "two") + owned(&first, "three"), 3 * PARTITIONS as usize);
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    // When it can, it gets its share.
    wire.heal();
    first.advance(secs(120)).await;
    world.assert_fair(&[first, unable]).await;
}

#[tokio::test]
async fn groups_of_a_crash_and_a_restart_are_fair_again() {
    let world = World::default();
    let mut apps = world.settled(3).await;
    drop(apps.remove(0));
    apps.push(world.start(&world.wire()).await);
    let history = world.watch(secs(20)).await;
    world.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 3), "{history:?}");
}
