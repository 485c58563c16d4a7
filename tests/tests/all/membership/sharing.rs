//! How processes share the partitions of their groups, in virtual time: apps on one embedded broker stand for processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerErrorKind, Groups};
use streams_core::keys::{GroupKey, StreamKey};
use streams_runtime::{Config, Context, EntryId, Phase, State, Stopped, consumer, consumers, stream_event};
use streams_tests::{Fault, Gate, Launch, Op, Process, Record, World, logged_from, millis, secs};
use tokio::time::Instant;

const PARTITIONS: u32 = 16;
const LEASE: Duration = Duration::from_secs(10);

#[stream_event(stream = "shares", partitions = 16, key = key)]
#[derive(Debug, Clone, PartialEq)]
struct Share {
    key: u64,
    n: u64,
}

/// The calls of handlers: group, partition, entry.
type Seen = Record<(String, u32, EntryId)>;

async fn handle(ctx: &Context, seen: &Seen) {
    seen.add((ctx.group().to_owned(), ctx.partition(), ctx.entry_id()));
    // Long enough that a hand-over finds an event in flight.
    tokio::time::sleep(millis(20)).await;
}

#[consumer(group = "one")]
async fn one(_: Share, ctx: Context, seen: State<Seen>) {
    handle(&ctx, &seen).await;
}

#[consumer(group = "two")]
async fn two(_: Share, ctx: Context, seen: State<Seen>) {
    handle(&ctx, &seen).await;
}

#[consumer(group = "three")]
async fn three(_: Share, ctx: Context, seen: State<Seen>) {
    handle(&ctx, &seen).await;
}

/// Processes that share three groups.
struct Fleet {
    world: World,
    seen: Seen,
}

/// The owners of each partition, one holding after the other.
type History = BTreeMap<GroupKey, Vec<(u64, String)>>;

impl Fleet {
    fn new() -> Self {
        Self { world: World::new("shares"), seen: Seen::default() }
    }

    fn process(&self) -> Launch<'_> {
        self.world.process(consumers![one, two, three]).state(self.seen.clone()).config(Config::new().lease(LEASE))
    }

    /// So many apps, once they have settled.
    async fn settled(&self, count: usize) -> Vec<Process> {
        let mut apps = Vec::new();
        for _ in 0..count {
            apps.push(self.process().apart().start().await);
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
        let lease = self.world.store.state(key).await.unwrap().unwrap().lease;
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
    async fn assert_fair(&self, apps: &[Process]) {
        for group in ["one", "two", "three"] {
            let owned: Vec<_> = apps.iter().map(|app| owned(app, group)).collect();
            assert_eq!(owned.iter().sum::<usize>(), PARTITIONS as usize, "{group}: {owned:?}");
            assert!(owned.iter().max().unwrap() - owned.iter().min().unwrap() <= 1, "{group}: {owned:?}");
        }
    }

    /// Publishes until the time is over.
    async fn publish(&self, app: &Process, time: Duration) {
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

    /// Each group has seen each partition in order; where nothing was repeated, every entry once.
    fn assert_in_order(&self) {
        let mut last: BTreeMap<(String, u32), EntryId> = BTreeMap::new();
        for (group, partition, entry) in self.seen.all() {
            let before = last.insert((group.clone(), partition), entry);
            assert!(before < Some(entry), "{group} {partition}: {entry} after {before:?}");
        }
    }
}

/// The lines of a text that have these words, each from there on.
fn lines<'a>(text: &'a str, words: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.find(words).map(|at| &line[at..])).collect()
}

#[tokio::test]
async fn a_start_and_a_take_over_are_a_line_for_each_group_and_not_for_each_partition() {
    let (log, fleet) = (logged_from(tracing::Level::INFO), Fleet::new());
    let mut apps = fleet.settled(1).await;
    let started = log.text();
    for group in ["one", "two", "three"] {
        let line = format!("owning group=\"{group}\" stream=\"shares\" partitions=\"0-15\" why=\"nobody owned it\"");
        assert_eq!(lines(&started, &format!("owning group=\"{group}\"")), [line], "{started}");
    }

    apps.push(fleet.process().apart().start().await);
    tokio::time::sleep(secs(6)).await;
    let joined = log.text()[started.len()..].to_owned();
    // The new one waits for what the other has, and the other for what it has handed over.
    for (words, count) in [("waiting for the lease of another process", 6), ("handing over", 3), ("owning", 3)] {
        assert_eq!(lines(&joined, words).len(), count, "{words}\n{joined}");
    }

    apps.remove(0).kill().await;
    tokio::time::sleep(secs(15)).await;
    assert_eq!(owned(&apps[0], "one"), PARTITIONS as usize);
    let taken = log.text()[started.len() + joined.len()..].to_owned();
    for line in ["owning", "the recovery is over"] {
        assert!(lines(&taken, line).len() <= 3, "{line}\n{taken}");
    }
    let run_out = lines(&taken, "owning group=\"one\"");
    assert!(run_out.len() == 1 && run_out[0].ends_with("has run out\""), "{taken}");
}

fn owned(app: &Process, group: &str) -> usize {
    let owns = |phase: &Phase| matches!(phase, Phase::Owning { .. });
    app.running().status().groups.iter().filter(|status| status.group == group && owns(&status.phase)).count()
}

fn moves(history: &History) -> usize {
    history.values().map(|holdings| holdings.len() - 1).sum()
}

#[tokio::test]
async fn a_lone_process_owns_everything_at_once() {
    let fleet = Fleet::new();
    let app = fleet.process().apart().start().await;
    let began = Instant::now();
    while ["one", "two", "three"].iter().any(|group| owned(&app, group) < PARTITIONS as usize) {
        app.advance(millis(1)).await;
    }
    assert!(began.elapsed() < millis(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn eight_processes_share_fairly_and_a_partition_moves_at_most_once_for_those_who_join_together() {
    let fleet = Fleet::new();
    let mut apps = fleet.settled(1).await;
    for _ in 1..8 {
        apps.push(fleet.process().apart().start().await);
    }
    let publish = fleet.publish(&apps[0], secs(6));
    let (history, ()) = tokio::join!(fleet.watch(secs(6)), publish);
    fleet.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    assert_eq!(moves(&fleet.watch(secs(60)).await), 0);
    apps[0].settled().await;
    fleet.assert_in_order();
}

#[tokio::test]
async fn a_process_that_joins_takes_little_more_than_its_share_and_nothing_is_repeated() {
    let fleet = Fleet::new();
    let mut apps = fleet.settled(3).await;
    fleet.assert_fair(&apps).await;
    apps.push(fleet.process().apart().start().await);
    let publish = fleet.publish(&apps[0], secs(6));
    let (history, ()) = tokio::join!(fleet.watch(secs(6)), publish);
    fleet.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    // Four of each group's sixteen have to move.
    assert!((12..=24).contains(&moves(&history)), "{}", moves(&history));
    apps[0].settled().await;
    fleet.assert_in_order();
}

#[tokio::test]
async fn what_a_process_gives_back_when_it_stops_is_taken_at_once_by_who_keeps_it() {
    let fleet = Fleet::new();
    let mut apps = fleet.settled(4).await;
    let stopped_at = fleet.world.store.now().await.unwrap();
    let leaving = apps.remove(1).into_running().shutdown();
    let publish = fleet.publish(&apps[0], secs(6));
    let (history, stopped, ()) = tokio::join!(fleet.watch(secs(6)), leaving, publish);
    assert_eq!(stopped, Stopped::Clean);
    fleet.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    // An epoch is the moment of the claim, in the clock of the store. Nothing else moves before the members have settled.
    let claims: Vec<_> =
        history.values().filter_map(|holdings| holdings.get(1)).map(|(at, _)| at - stopped_at).collect();
    assert_eq!(claims.iter().filter(|after| **after <= 200).count(), 12, "four of each group: {claims:?}");
    assert!(claims.iter().all(|after| *after <= 200 || *after >= 2000), "{claims:?}");
    apps[0].settled().await;
    fleet.assert_in_order();
}

#[tokio::test]
async fn what_a_process_leaves_that_crashed_is_taken_within_a_lease_and_a_second_and_does_not_move_again() {
    let fleet = Fleet::new();
    let mut apps = fleet.settled(4).await;
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
        fleet.owner(&key).await.1
    };
    let crashed = fleet.world.store.now().await.unwrap();
    dead.kill().await;
    let history = fleet.watch(secs(30)).await;
    fleet.assert_fair(&apps).await;
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
    let fleet = Fleet::new();
    let wire = fleet.world.wire();
    let stuck = fleet.process().on(&wire).start().await;
    let other = fleet.process().apart().start().await;
    other.advance(secs(6)).await;
    wire.always(Op::Commit, Fault::Hold(Gate::default()));
    // Through the other, whose writes work; to one partition, which is the same in every group.
    let partition = other.publish(&Share { key: 1, n: 1 }).await.unwrap().partition;
    let history = fleet.watch(secs(45)).await;
    fleet.assert_fair(&[stuck, other]).await;
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
        let (fleet, gate) = (Fleet::new(), Gate::default());
        let quiet = fleet.world.wire();
        let mut apps = vec![fleet.process().on(&quiet).start().await];
        apps.extend(fleet.settled(others).await);
        quiet.always(Op::Attend, Fault::Hold(gate.clone()));
        tokio::time::sleep(millis(2_500)).await;
        // It is silent when those who are there have settled, and not yet taken for dead when they are watched no more.
        apps.push(fleet.process().apart().start().await);
        let history = fleet.watch(secs(6)).await;
        for (key, holdings) in &history {
            assert!(holdings.len() <= 2, "{others}: {key}: {holdings:?}");
        }
        quiet.heal();
        gate.open();
        tokio::time::sleep(secs(6)).await;
        fleet.assert_fair(&apps).await;
    }
}

#[tokio::test]
async fn what_nobody_takes_although_it_should_is_taken_by_another_after_a_lease() {
    let fleet = Fleet::new();
    let first = fleet.process().apart().start().await;
    first.advance(secs(3)).await;
    let wire = fleet.world.wire();
    wire.always(Op::Acquire, Fault::Fail(BrokerErrorKind::Unavailable));
    let unable = fleet.process().on(&wire).start().await;
    let history = fleet.watch(secs(30)).await;
    assert_eq!(owned(&first, "one") + owned(&first, "two") + owned(&first, "three"), 3 * PARTITIONS as usize);
    assert!(history.values().all(|holdings| holdings.len() <= 2), "{history:?}");
    // When it can, it gets its share.
    wire.heal();
    first.advance(secs(120)).await;
    fleet.assert_fair(&[first, unable]).await;
}

#[tokio::test]
async fn groups_of_a_crash_and_a_restart_are_fair_again() {
    let fleet = Fleet::new();
    let mut apps = fleet.settled(3).await;
    drop(apps.remove(0));
    apps.push(fleet.process().apart().start().await);
    let history = fleet.watch(secs(20)).await;
    fleet.assert_fair(&apps).await;
    assert!(history.values().all(|holdings| holdings.len() <= 3), "{history:?}");
}
