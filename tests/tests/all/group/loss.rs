//! Every loss is reported. History is cut under running groups and between them, on the embedded broker and a real server.
//! Random histories run against a truth that is kept apart.
//!
//! A [`Site`] replaces `World` here, because both stores go through the same tests and an operator cuts their history.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Broker, Fields, Log};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
use streams_runtime::broker::{Embedded, Redis, embedded as in_process};
use streams_runtime::{
    Admin, App, BoxError, Config, ConsumerOptions, Context, DataLoss, DataLossKind, EntryId, GroupStatus, OnDataLoss,
    Outcome, Phase, Publisher, Registration, Running, Start, State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::soak::Dice;
use streams_tests::{Act, Gate, Lab, RedisServer};
use tokio::time::{Instant, sleep, timeout};

#[stream_event(stream = "loss", key = n)]
#[derive(Debug, Clone, PartialEq)]
struct Step {
    n: u64,
}

#[consumer(group = "halts")]
async fn halts(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

#[consumer(group = "goes-on", on_data_loss = "continue")]
async fn goes_on(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

/// Two more like it, which read together with it.
#[consumer(group = "goes-along", on_data_loss = "continue")]
async fn goes_along(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

#[consumer(group = "goes-too", on_data_loss = "continue")]
async fn goes_too(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

/// One that handles several at once.
#[consumer(group = "goes-wide", on_data_loss = "continue", concurrency = 4)]
async fn goes_wide(step: Step, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, step.n).await
}

/// Far longer than anything here takes: when it is over the test has failed.
const LONG: Duration = Duration::from_secs(60);

fn partition() -> PartitionKey {
    StreamKey::new(None, "loss", 1).partition(0)
}

/// A store, and an operator's hand on it.
struct Site {
    broker: Arc<dyn Broker>,
    hand: Hand,
    lab: Lab,
}

enum Hand {
    Embedded(Embedded),
    Redis(String),
}

/// A store as it was.
#[derive(Clone)]
enum Dump {
    Embedded(in_process::Dump),
    /// By key what DUMP answered.
    Redis(Vec<(String, Option<Vec<u8>>)>),
}

/// The fields of these events, as a publisher writes them.
async fn fields(steps: impl IntoIterator<Item = u64>) -> Vec<Fields> {
    let broker: Arc<dyn Broker> = Arc::new(Embedded::new());
    let publisher = Publisher::new(Arc::clone(&broker));
    let receipts = publisher.publish_all(steps.into_iter().map(|n| Step { n })).await;
    let entries = broker.read(&partition(), EntryId::ZERO, receipts.len()).await.unwrap();
    let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
    entries.iter().map(|entry| entry.fields().map(owned).collect()).collect()
}

/// So many ids that follow one another.
fn ids_from(first: EntryId, count: usize) -> Vec<EntryId> {
    std::iter::successors(Some(first), |id| Some(id.next())).take(count).collect()
}

impl Site {
    /// Everything as it is now.
    fn dump(&self, groups: &[&str]) -> Dump {
        match &self.hand {
            Hand::Embedded(broker) => Dump::Embedded(broker.dump()),
            Hand::Redis(url) => {
                let mut client = RedisServer::client(url);
                let states = groups.iter().map(|group| partition().group(group).state().to_owned());
                let keys = std::iter::once("loss".to_owned()).chain(states);
                let dump = |key: String| {
                    let value = ::redis::cmd("DUMP").arg(&key).query(&mut client).unwrap();
                    (key, value)
                };
                Dump::Redis(keys.map(dump).collect())
            }
        }
    }

    /// Makes everything, or the stream alone, what it was, and adds these entries before anybody can look.
    fn set_back(&self, dump: &Dump, with_states: bool, new: &[(EntryId, Fields)]) {
        match (&self.hand, dump) {
            (Hand::Embedded(broker), Dump::Embedded(dump)) => {
                broker.restore(dump, (!with_states).then_some(&partition()));
                for (id, fields) in new {
                    assert!(broker.add(&partition(), *id, fields), "{id} does not fit");
                }
            }
            (Hand::Redis(url), Dump::Redis(keys)) => {
                let mut steps = ::redis::pipe();
                steps.atomic();
                for (key, value) in keys.iter().take(if with_states { keys.len() } else { 1 }) {
                    match value {
                        Some(value) => steps.cmd("RESTORE").arg(key).arg(0).arg(value).arg("REPLACE"),
                        None => steps.cmd("DEL").arg(key),
                    };
                }
                for (id, fields) in new {
                    let adding = steps.cmd("XADD").arg("loss").arg(id.to_string());
                    for (name, value) in fields {
                        adding.arg(name).arg(value);
                    }
                }
                steps.exec(&mut RedisServer::client(url)).unwrap();
            }
            _ => panic!("a dump of another store"),
        }
    }

    fn embedded() -> Self {
        let broker = Embedded::new();
        Self { broker: Arc::new(broker.clone()), hand: Hand::Embedded(broker), lab: Lab::default() }
    }

    fn redis() -> Self {
        let url = RedisServer::shared().database();
        Self { broker: Arc::new(Redis::open(&url).unwrap()), hand: Hand::Redis(url), lab: Lab::default() }
    }

    fn run(&self, words: &[&str]) {
        let Hand::Redis(url) = &self.hand else { return };
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]).exec(&mut RedisServer::client(url)).unwrap();
    }

    fn trim(&self, floor: EntryId) {
        match &self.hand {
            Hand::Embedded(broker) => broker.trim(&partition(), floor),
            Hand::Redis(_) => self.run(&["XTRIM", "loss", "MINID", &floor.to_string()]),
        }
    }

    fn remove(&self, ids: &[EntryId]) {
        match &self.hand {
            Hand::Embedded(broker) => broker.remove(&partition(), ids),
            Hand::Redis(_) => {
                let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
                let words: Vec<_> = ["XDEL", "loss"].into_iter().chain(ids.iter().map(String::as_str)).collect();
                self.run(&words);
            }
        }
    }

    fn delete(&self) {
        match &self.hand {
            Hand::Embedded(broker) => broker.delete(&partition()),
            Hand::Redis(_) => self.run(&["DEL", "loss"]),
        }
    }

    fn mark(&self, group: &str) {
        match &self.hand {
            Hand::Embedded(broker) => broker.mark(&partition().group(group)),
            Hand::Redis(_) => self.run(&["XGROUP", "CREATE", "loss", group, "0"]),
        }
    }

    fn destroy(&self, group: &str) {
        match &self.hand {
            Hand::Embedded(broker) => broker.unmark(&partition().group(group)),
            Hand::Redis(_) => self.run(&["XGROUP", "DESTROY", "loss", group]),
        }
    }

    fn flush(&self) {
        match &self.hand {
            Hand::Embedded(broker) => broker.flush(),
            Hand::Redis(_) => self.run(&["FLUSHDB"]),
        }
    }

    async fn start(&self, consumers: impl IntoIterator<Item = Registration>) -> Running {
        let config = Config::new().lease(Duration::from_secs(2));
        let app = App::with(consumers).state(self.lab.clone()).config(config);
        app.broker(Arc::clone(&self.broker)).start().await.unwrap()
    }

    async fn publish(&self, steps: impl IntoIterator<Item = u64>) -> Vec<EntryId> {
        let publisher = Publisher::new(Arc::clone(&self.broker));
        let receipts = publisher.publish_all(steps.into_iter().map(|n| Step { n })).await;
        receipts.into_iter().map(|receipt| receipt.unwrap().entry_id).collect()
    }

    async fn called(&self, group: &str, times: usize) {
        let called = timeout(LONG, self.lab.called(group, times)).await;
        assert!(called.is_ok(), "{:?}", self.lab.events(group));
    }

    /// Waits until the group has committed everything.
    async fn committed(&self, group: &str, at: EntryId) {
        let key: GroupKey = partition().group(group);
        until(|| async { self.broker.state(&key).await.unwrap().is_some_and(|state| state.at == at).then_some(()) })
            .await;
    }
}

/// Waits until there is something.
async fn until<T, F: Future<Output = Option<T>>>(look: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < LONG, "it does not come");
        sleep(Duration::from_millis(5)).await;
    }
}

fn status(app: &Running, group: &str) -> GroupStatus {
    app.status().groups.into_iter().find(|status| status.group == group).unwrap()
}

async fn loss(app: &Running, group: &str, nth: u64) -> DataLoss {
    until(|| async { status(app, group).last_loss.filter(|_| status(app, group).losses >= nth) }).await
}

async fn halted(app: &Running, group: &str) -> String {
    until(|| async {
        match status(app, group).phase {
            Phase::Halted(halt) => Some(halt.to_string()),
            _ => None,
        }
    })
    .await
}

/// Both stores.
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($site:ident) $body:block)*) => {
        $($(#[$meta])* async fn $name($site: Site) $body)*

        mod embedded { $(#[tokio::test(start_paused = true)] async fn $name() { super::$name(super::Site::embedded()).await; })* }
        mod redis { $(#[tokio::test] async fn $name() { super::$name(super::Site::redis()).await; })* }
    };
}

on_both! {
    async fn what_is_trimmed_while_a_handler_runs_is_counted_before_anything_later_comes(site) {
        let gate = Gate::default();
        for group in ["halts", "goes-on"] {
            site.lab.script(group, 1, [Act::Wait(gate.clone())]);
        }
        let app = site.start(consumers![halts, goes_on]).await;
        let mut ids = site.publish([1]).await;
        site.called("halts", 1).await;
        site.called("goes-on", 1).await;
        // More than the window keeps, so that the groups have to read for themselves.
        for page in 0..50 {
            ids.extend(site.publish(2 + page * 100..102 + page * 100).await);
        }
        site.trim(ids[4991]);
        gate.open();
        site.committed("goes-on", ids[5000]).await;
        let reason = halted(&app, "halts").await;
        for group in ["halts", "goes-on"] {
            // Events in memory already are handled all the same.
            let handled = site.lab.events(group).iter().filter(|n| **n <= 4991).count();
            let loss = loss(&app, group, 1).await;
            let expected = (DataLossKind::TrimmedPast, ids[handled - 1], Some(4991 - handled as u64));
            assert_eq!((loss.kind, loss.from, loss.count), expected, "{group}");
            assert!(loss.to >= ids[4990] && loss.to < ids[4991]);
            let rest = if group == "halts" { 4992..4992 } else { 4992..5002 };
            assert_eq!(site.lab.events(group), (1..=handled as u64).chain(rest).collect::<Vec<_>>());
        }
        for word in ["entries", "`loss`", "`halts`", "streams reset loss halts --to earliest", "on_data_loss"] {
            assert!(reason.contains(word), "{word}: {reason}");
        }
        let to = app.admin().reset("loss", "halts", Start::Earliest).await.unwrap();
        assert_eq!(to, [EntryId::ZERO]);
        site.committed("halts", ids[5000]).await;
        assert!(site.lab.events("halts").ends_with(&(4992..5002).collect::<Vec<_>>()));
        assert_eq!(app.shutdown().await, Stopped::Clean);
        // Said once: neither a new process nor the next trim of what was read says it again.
        site.trim(ids[5000].next());
        let app = site.start(consumers![halts, goes_on]).await;
        let last = site.publish([6000]).await[0];
        site.committed("halts", last).await;
        site.committed("goes-on", last).await;
        assert_eq!((status(&app, "halts").losses, status(&app, "goes-on").losses), (0, 0), "{:?}", app.status());
    }

    async fn what_is_trimmed_between_two_runs_is_counted_before_anything_later_comes(site) {
        let app = site.start(consumers![halts, goes_on]).await;
        let ids = site.publish(1..=3).await;
        site.committed("halts", ids[2]).await;
        site.committed("goes-on", ids[2]).await;
        assert_eq!(app.shutdown().await, Stopped::Clean);
        let ids = site.publish(4..=9).await;
        site.trim(ids[4]);
        let app = site.start(consumers![halts, goes_on]).await;
        site.called("goes-on", 5).await;
        for group in ["halts", "goes-on"] {
            let loss = loss(&app, group, 1).await;
            assert_eq!((loss.kind, loss.count), (DataLossKind::TrimmedPast, Some(4)));
        }
        assert_eq!(site.lab.events("goes-on"), [1, 2, 3, 8, 9]);
        halted(&app, "halts").await;
        assert_eq!(site.lab.events("halts"), [1, 2, 3]);
    }

    async fn what_is_trimmed_away_to_the_last_is_counted(site) {
        let app = site.start(consumers![goes_on]).await;
        let ids = site.publish(1..=3).await;
        site.committed("goes-on", ids[2]).await;
        assert_eq!(app.shutdown().await, Stopped::Clean);
        let ids = site.publish(4..=9).await;
        site.trim(ids[5].next());
        let app = site.start(consumers![goes_on]).await;
        let lost = loss(&app, "goes-on", 1).await;
        assert_eq!((lost.kind, lost.count, lost.to), (DataLossKind::TrimmedPast, Some(6), ids[5]));
        let ids = site.publish([10]).await;
        site.committed("goes-on", ids[0]).await;
        assert_eq!((site.lab.events("goes-on"), status(&app, "goes-on").losses), (vec![1, 2, 3, 10], 1));
    }

    async fn what_is_deleted_unread_is_counted(site) {
        let app = site.start(consumers![goes_on]).await;
        let first = site.publish(1..=3).await;
        site.committed("goes-on", first[2]).await;
        assert_eq!(app.shutdown().await, Stopped::Clean);
        let ids = site.publish(4..=9).await;
        // Those that were read are no loss.
        site.remove(&[first[1], ids[1], ids[2], ids[5]]);
        let app = site.start(consumers![goes_on]).await;
        site.called("goes-on", 6).await;
        let lost = loss(&app, "goes-on", 1).await;
        assert_eq!((lost.kind, lost.count, lost.from), (DataLossKind::DeletedUnread, Some(3), first[2]));
        assert_eq!(site.lab.events("goes-on"), [1, 2, 3, 4, 7, 8]);
        site.publish([10]).await;
        site.called("goes-on", 7).await;
        assert_eq!(status(&app, "goes-on").losses, 1);
    }

    async fn deleting_and_trimming_what_was_read_is_no_loss(site) {
        let app = site.start(consumers![halts]).await;
        for n in 1..=20 {
            let ids = site.publish([n]).await;
            site.committed("halts", ids[0]).await;
            if n % 2 == 0 { site.remove(&ids) } else { site.trim(ids[0].next()) }
        }
        assert_eq!(site.lab.events("halts"), (1..=20).collect::<Vec<_>>());
        assert_eq!(status(&app, "halts").losses, 0);
    }

    async fn a_stream_that_is_made_anew_is_found_before_its_first_event_is_handled(site) {
        let app = site.start(consumers![halts, goes_on]).await;
        let ids = site.publish(1..=3).await;
        site.committed("halts", ids[2]).await;
        site.committed("goes-on", ids[2]).await;
        site.delete();
        site.publish(4..=6).await;
        site.called("goes-on", 6).await;
        assert_eq!(site.lab.events("goes-on"), [1, 2, 3, 4, 5, 6]);
        for group in ["halts", "goes-on"] {
            let loss = loss(&app, group, 1).await;
            assert_eq!((loss.kind, loss.count), (DataLossKind::Restarted, None));
        }
        let reason = halted(&app, "halts").await;
        assert!(reason.contains("streams reset loss halts --to earliest"), "{reason}");
        assert_eq!(site.lab.events("halts"), [1, 2, 3]);
        Admin::on(Arc::clone(&site.broker), None).unwrap().reset("loss", "halts", Start::Earliest).await.unwrap();
        site.called("halts", 6).await;
        assert_eq!(site.lab.events("halts"), [1, 2, 3, 4, 5, 6]);
        assert_eq!((status(&app, "halts").losses, status(&app, "goes-on").losses), (1, 1));
    }

    async fn a_server_that_was_emptied_is_found_before_its_first_event_is_handled(site) {
        let app = site.start(consumers![halts, goes_on]).await;
        let ids = site.publish(1..=3).await;
        site.committed("halts", ids[2]).await;
        site.committed("goes-on", ids[2]).await;
        site.flush();
        site.publish(4..=6).await;
        site.called("goes-on", 6).await;
        assert_eq!(site.lab.events("goes-on"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(loss(&app, "halts", 1).await.kind, DataLossKind::Restarted);
        halted(&app, "halts").await;
        assert_eq!(site.lab.events("halts"), [1, 2, 3]);
        app.admin().reset("loss", "halts", Start::Earliest).await.unwrap();
        site.called("halts", 6).await;
        assert_eq!(site.lab.events("halts"), [1, 2, 3, 4, 5, 6]);
    }

    async fn a_group_that_was_destroyed_is_found_and_loses_nothing(site) {
        let app = site.start(consumers![halts, goes_on]).await;
        let ids = site.publish(1..=3).await;
        site.committed("halts", ids[2]).await;
        site.committed("goes-on", ids[2]).await;
        site.destroy("halts");
        site.destroy("goes-on");
        // The position is not the server's group's: until a look finds it gone events are handled in their place.
        let mut n = 3;
        while status(&app, "halts").losses == 0 || status(&app, "goes-on").losses == 0 {
            n += 1;
            let ids = site.publish([n]).await;
            site.committed("goes-on", ids[0]).await;
            sleep(Duration::from_millis(50)).await;
        }
        halted(&app, "halts").await;
        assert_eq!(site.lab.events("goes-on"), (1..=n).collect::<Vec<_>>());
        let read = site.lab.events("halts").len() as u64;
        assert_eq!(loss(&app, "halts", 1).await.kind, DataLossKind::Restarted);
        let at = site.broker.state(&partition().group("halts")).await.unwrap().unwrap().at;
        app.admin().reset("loss", "halts", Start::At(at.next())).await.unwrap();
        let ids = site.publish([n + 1]).await;
        site.committed("halts", ids[0]).await;
        assert_eq!(site.lab.events("halts"), (1..=n + 1).collect::<Vec<_>>(), "halted after {read}");
    }

    async fn a_cut_is_told_before_anything_later_however_much_has_come_since(site) {
        for with_states in [true, false] {
            let app = site.start(consumers![halts, goes_on]).await;
            let (n, before) = (site.lab.events("halts").len() as u64, site.lab.events("goes-on").len());
            let mut ids = site.publish(n + 1..=n + 20).await;
            site.committed("halts", ids[19]).await;
            site.committed("goes-on", ids[19]).await;
            let dump = site.dump(&["halts", "goes-on"]);
            for lost in n + 21..=n + 30 {
                ids.extend(site.publish([lost]).await);
                site.committed("halts", ids[ids.len() - 1]).await;
            }
            site.committed("goes-on", ids[29]).await;
            // A replica that lacks ten is promoted, and gets forty before the group is back.
            let new = ids_from(ids[29].next(), 40).into_iter().zip(fields(n + 31..=n + 70).await).collect::<Vec<_>>();
            site.set_back(&dump, with_states, &new);
            for group in ["halts", "goes-on"] {
                let loss = loss(&app, group, 1).await;
                let expected = (DataLossKind::HistoryCut, ids[29], None);
                assert_eq!((loss.kind, loss.to, loss.count), expected, "{with_states}");
                assert!(loss.from >= ids[14] && loss.from <= ids[19], "{loss:?}: all is the same up to {}", ids[19]);
            }
            halted(&app, "halts").await;
            assert_eq!(site.lab.events("halts"), (1..=n + 30).collect::<Vec<_>>(), "{with_states}");
            site.committed("goes-on", new[39].0).await;
            let handled = site.lab.events("goes-on").split_off(before);
            assert!((n + 31..=n + 70).all(|n| handled.contains(&n)), "{handled:?}");
            assert!(handled.len() < 76, "not from the beginning: {handled:?}");
            app.admin().reset("loss", "halts", Start::At(ids[19].next())).await.unwrap();
            site.committed("halts", new[39].0).await;
            assert_eq!((status(&app, "halts").losses, status(&app, "goes-on").losses), (1, 1), "{:?}", app.status());
            assert_eq!(app.shutdown().await, Stopped::Clean);
        }
    }

    async fn a_cut_is_told_for_what_it_is_where_new_entries_stand_below_the_position(site) {
        let app = site.start(consumers![halts, goes_on]).await;
        let ids = site.publish(1..=5).await;
        site.committed("halts", ids[4]).await;
        site.committed("goes-on", ids[4]).await;
        let dump = site.dump(&["halts", "goes-on"]);
        let mut lost = Vec::new();
        for n in 6..=8 {
            sleep(Duration::from_millis(3)).await;
            lost.extend(site.publish([n]).await);
            site.committed("halts", lost[lost.len() - 1]).await;
        }
        site.committed("goes-on", lost[2]).await;
        // The clock of the new server is behind at first: five come before one that is above the position.
        let mut places = ids_from(ids[4].next(), 5);
        places.push(lost[2].next());
        let new = places.into_iter().zip(fields(9..=14).await).collect::<Vec<_>>();
        site.set_back(&dump, false, &new);
        for group in ["halts", "goes-on"] {
            let loss = loss(&app, group, 1).await;
            assert_eq!((loss.kind, loss.to, loss.count), (DataLossKind::HistoryCut, lost[2], None), "{group}");
            assert!(loss.from <= ids[4], "{group}: {loss:?}");
        }
        halted(&app, "halts").await;
        assert_eq!(site.lab.events("halts"), (1..=8).collect::<Vec<_>>());
        site.committed("goes-on", new[5].0).await;
        let handled = site.lab.events("goes-on");
        assert!((1..=14).all(|n| handled.contains(&n)), "{handled:?}");
        assert_eq!(status(&app, "goes-on").losses, 1);
    }

    async fn a_cut_is_told_although_nobody_has_counted_how_far_the_group_was(site) {
        let ids = site.publish(1..=50).await;
        let dump = site.dump(&[]);
        let ids = [ids, site.publish(51..=400).await].concat();
        let options = ConsumerOptions::DEFAULT.with_start(Start::At(ids[10]));
        let start = async || {
            let app = App::with(consumers![halts, goes_on]).state(site.lab.clone());
            let config = Config::new().lease(Duration::from_secs(2)).consumers(options);
            app.config(config).broker(Arc::clone(&site.broker)).start().await.unwrap()
        };
        // In a backlog: nobody has come to its end.
        for group in ["halts", "goes-on"] {
            site.lab.always(group, 300, Act::Fail);
        }
        let app = start().await;
        for group in ["halts", "goes-on"] {
            site.called(group, 290).await;
        }
        assert_eq!(app.shutdown().await, Stopped::Clean);
        for group in ["halts", "goes-on"] {
            let state = site.broker.state(&partition().group(group)).await.unwrap().unwrap();
            assert_eq!(state.at, ids[298]);
        }
        let new = ids_from(ids[399].next(), 5).into_iter().zip(fields(401..=405).await).collect::<Vec<_>>();
        // Markers come back with the stream; these were not there yet.
        site.set_back(&dump, false, &new);
        for group in ["halts", "goes-on"] {
            site.mark(group);
            site.lab.script(group, 300, []);
        }
        let app = start().await;
        for group in ["halts", "goes-on"] {
            let loss = loss(&app, group, 1).await;
            assert_eq!((loss.kind, loss.from, loss.count), (DataLossKind::HistoryCut, EntryId::ZERO, None), "{group}");
        }
        let reason = halted(&app, "halts").await;
        assert!(reason.contains("--to earliest") && !reason.contains("to go on behind"), "{reason}");
        assert!(!site.lab.events("halts").contains(&401));
        site.committed("goes-on", new[4].0).await;
        let handled = site.lab.events("goes-on");
        assert!((401..=405).chain(1..=10).all(|n| handled.contains(&n)), "{handled:?}");
        assert_eq!(status(&app, "goes-on").losses, 1);
    }

    async fn a_halt_is_kept_by_the_process_that_found_it_and_cleared_from_anywhere(site) {
        let app = site.start(consumers![halts]).await;
        let ids = site.publish(1..=3).await;
        site.committed("halts", ids[2]).await;
        assert_eq!(app.shutdown().await, Stopped::Clean);
        let ids = site.publish(4..=9).await;
        site.trim(ids[4]);
        let app = site.start(consumers![halts]).await;
        halted(&app, "halts").await;
        let other = site.start(consumers![halts]).await;
        until(|| async { matches!(status(&other, "halts").phase, Phase::StandingBy { .. }).then_some(()) }).await;
        other.admin().reset("loss", "halts", Start::Earliest).await.unwrap();
        site.called("halts", 5).await;
        assert_eq!(site.lab.events("halts"), [1, 2, 3, 8, 9]);
        assert_eq!(status(&other, "halts").losses, 0);
    }

    async fn a_reset_of_what_is_not_there_says_so(site) {
        let admin = Admin::on(Arc::clone(&site.broker), None).unwrap();
        for (stream, group, words) in [
            ("loss", "halts", "neither a stream `loss` nor a state"),
            ("lo ss", "halts", "invalid stream name"),
            ("loss", "{x}", "invalid group name"),
        ] {
            let error = admin.reset(stream, group, Start::Earliest).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        site.broker.declare(&StreamKey::new(None, "many", 3)).await.unwrap();
        for index in 0..3 {
            let key = StreamKey::new(None, "many", 3).partition(index).group("halts");
            site.broker.create(&key, Start::Earliest).await.unwrap();
        }
        assert_eq!(admin.reset("many", "halts", Start::Latest).await.unwrap().len(), 3);
        assert_eq!(admin.reset("many.2", "halts", Start::Latest).await.unwrap().len(), 1);
        let error = admin.reset("many.3", "halts", Start::Latest).await.unwrap_err().to_string();
        assert!(error.contains("has 3 partitions, and `many.3` is none"), "{error}");
    }
}

/// A failover to a replica that lagged takes the group's state along with the stream.
#[tokio::test]
async fn a_server_that_lost_its_newest_writes_is_found_by_what_this_process_has_seen() {
    let site = Site::redis();
    let Hand::Redis(url) = &site.hand else { return };
    let app = site.start(consumers![halts, goes_on]).await;
    let ids = site.publish(1..=3).await;
    site.committed("halts", ids[2]).await;
    site.committed("goes-on", ids[2]).await;
    let mut client = RedisServer::client(url);
    let keys = ["loss", "streams:{loss}:halts", "streams:{loss}:goes-on"];
    let dumps: Vec<Vec<u8>> =
        keys.iter().map(|key| ::redis::cmd("DUMP").arg(key).query(&mut client).unwrap()).collect();
    let ids = site.publish(4..=6).await;
    site.committed("halts", ids[2]).await;
    site.committed("goes-on", ids[2]).await;
    // In one step, as the failover is for a client; then an event in the place of those that are lost.
    let mut restore = ::redis::pipe();
    restore.atomic();
    for (key, dump) in keys.iter().zip(dumps) {
        restore.cmd("RESTORE").arg(key).arg(0).arg(dump).arg("REPLACE");
    }
    restore.exec(&mut client).unwrap();
    site.publish([7]).await;
    for group in ["halts", "goes-on"] {
        let loss = loss(&app, group, 1).await;
        assert_eq!((loss.kind, loss.count), (DataLossKind::HistoryCut, None));
    }
    site.called("goes-on", 7).await;
    assert_eq!(site.lab.events("goes-on"), [1, 2, 3, 4, 5, 6, 7]);
    halted(&app, "halts").await;
    assert_eq!(site.lab.events("halts"), [1, 2, 3, 4, 5, 6]);
}

/// Two entries of one id: the event at the position is another one than was read.
async fn another_takes_the_place_of_the_last(while_it_runs: bool) {
    let site = Site::redis();
    let Hand::Redis(url) = &site.hand else { return };
    let mut app = site.start(consumers![halts]).await;
    let ids = site.publish([1]).await;
    site.committed("halts", ids[0]).await;
    let id = ids[0].to_string();
    let mut replace = ::redis::pipe();
    replace.atomic().cmd("DEL").arg("loss");
    replace.cmd("XADD").arg("loss").arg(&id).arg(&["event", "Step@1", "id", "x"]);
    replace.cmd("XGROUP").arg("CREATE").arg("loss").arg("halts").arg(&id);
    if while_it_runs {
        replace.exec(&mut RedisServer::client(url)).unwrap();
    } else {
        assert_eq!(app.shutdown().await, Stopped::Clean);
        replace.exec(&mut RedisServer::client(url)).unwrap();
        app = site.start(consumers![halts]).await;
    }
    site.publish([2]).await;
    assert_eq!(loss(&app, "halts", 1).await.kind, DataLossKind::HistoryCut);
    halted(&app, "halts").await;
    assert_eq!(site.lab.events("halts"), [1]);
}

#[tokio::test]
async fn an_entry_that_takes_the_place_of_the_checkpoint_is_found_by_its_event() {
    another_takes_the_place_of_the_last(false).await;
}

#[tokio::test]
async fn an_entry_that_takes_the_place_of_the_last_read_is_found_by_its_event() {
    another_takes_the_place_of_the_last(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_deleted_is_found_although_nothing_comes() {
    let site = Site::embedded();
    let app = site.start(consumers![halts]).await;
    let ids = site.publish(1..=3).await;
    site.committed("halts", ids[2]).await;
    site.delete();
    let began = Instant::now();
    assert_eq!(loss(&app, "halts", 1).await.kind, DataLossKind::Restarted);
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_behind_a_stalled_handler_is_found_within_ten_seconds_of_its_end() {
    let site = Site::embedded();
    let gate = Gate::default();
    site.lab.script("goes-on", 1, [Act::Wait(gate.clone())]);
    let app = site.start(consumers![goes_on]).await;
    site.publish([1]).await;
    site.called("goes-on", 1).await;
    // More than the window keeps; what is in memory is handled, deleted or not.
    let ids = site.publish(2..=5001).await;
    // In virtual time: the window has gone on to the end by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.remove(&ids[10..20]);
    gate.open();
    site.committed("goes-on", ids[4999]).await;
    let handled = site.lab.events("goes-on").len() as u64;
    assert!(handled < 5001, "nothing was lost, so nothing was tested");
    let loss = loss(&app, "goes-on", 1).await;
    assert_eq!((loss.kind, loss.count), (DataLossKind::DeletedUnread, Some(5001 - handled)), "{:?}", app.status());
    assert_eq!(status(&app, "goes-on").losses, 1);
}

/// Groups that live through a random history, and the truth about it.
struct Life {
    site: Site,
    groups: &'static [&'static str],
    app: Option<Running>,
    start: Start,
    dice: Dice,
    ids: Vec<EntryId>,
    n: u64,
    /// The calls that every group owes, since history was last cut.
    should: Vec<u64>,
    gates: Vec<Gate>,
    /// For each group: reported by earlier processes, and what was reported when history was last cut.
    lost: Vec<u64>,
    base: Vec<u64>,
    cuts: u64,
    /// Everything as it was, with the number of the last event then.
    dumps: Vec<(Dump, u64)>,
    /// The events that history has had since it last began anew.
    known: BTreeSet<u64>,
    /// Whether groups began where nobody has counted, so that what is lost of the rest need not be counted.
    uncounted: bool,
}

const ALONE: &[&str] = &["goes-on"];
const TOGETHER: &[&str] = &["goes-on", "goes-along", "goes-too"];
const WIDE: &[&str] = &["goes-wide"];
/// A window of a few entries: groups are behind it most of the time, and what is kept there has to go, too.
const NARROW: usize = 4_000;

impl Life {
    fn now(&self) -> Vec<GroupStatus> {
        self.groups.iter().map(|group| status(self.app.as_ref().unwrap(), group)).collect()
    }

    /// How much was reported, group by group.
    fn said(&self) -> Vec<u64> {
        self.now().iter().zip(&self.lost).map(|(status, before)| before + status.lost).collect()
    }

    async fn begin(&mut self) {
        let options = ConsumerOptions::DEFAULT.with_start(self.start);
        let mut config = Config::new().lease(Duration::from_millis(500)).consumers(options);
        if self.groups.len() > 1 {
            config.window_bytes = NARROW;
        }
        let app =
            App::with(consumers![goes_on, goes_along, goes_too, goes_wide]).only_groups(self.groups.iter().copied());
        let app = app.state(self.site.lab.clone()).config(config);
        self.app = Some(app.broker(Arc::clone(&self.site.broker)).start().await.unwrap());
        // A process that has not seen the group yet cannot know that it was there.
        let owns = |status: &GroupStatus| matches!(status.phase, Phase::Owning { .. });
        until(|| async { self.now().iter().all(owns).then_some(()) }).await;
    }

    async fn add(&mut self, count: u64) {
        let new = self.n + 1..=self.n + count;
        self.n += count;
        self.should.extend(new.clone());
        self.known.extend(new.clone());
        self.ids.extend(self.site.publish(new).await);
    }

    fn open(&mut self) {
        self.gates.drain(..).for_each(|gate| gate.open());
    }

    /// Waits until an event that is added now is handled: everything before it is, too, or lost and reported.
    async fn settle(&mut self) {
        self.open();
        self.add(1).await;
        for group in self.groups {
            until(|| async { self.site.lab.ended(group).contains(&self.n).then_some(()) }).await;
            self.site.committed(group, *self.ids.last().unwrap()).await;
        }
    }

    async fn restart(&mut self) {
        let crash = self.dice.below(2) == 0;
        self.open();
        if crash {
            // Without the commit, handled events would come again or be counted as lost.
            self.settle().await;
        }
        // Nothing runs between this and the stop.
        self.lost = self.said();
        let app = self.app.take().unwrap();
        if crash {
            drop(app);
        } else {
            assert_eq!(app.shutdown().await, Stopped::Clean);
        }
        self.begin().await;
    }

    /// Makes history what it was, with new entries before a group is back. A group that has read lost entries reports that before
    /// it handles any of the new ones; then it handles them all.
    async fn set_back(&mut self) {
        if self.dumps.is_empty() {
            return;
        }
        if self.dice.below(3) > 0 {
            self.settle().await;
        } else {
            self.open();
        }
        let which = self.dice.below(self.dumps.len() as u64) as usize;
        let (dump, last) = self.dumps[which].clone();
        self.dumps.truncate(which + 1);
        let (with_states, count) = (self.dice.below(2) == 0, self.dice.below(60));
        let new = self.n + 1..=self.n + count;
        let fields = fields(new.clone()).await;
        let newest = |n: u64| self.ids[n as usize - 1];
        let same = if last == 0 { EntryId::ZERO } else { newest(last) };
        let (gone, highest) = (last + 1..=self.n, if self.n == 0 { EntryId::ZERO } else { newest(self.n) });
        // The clock may be behind: some of them stand below what was read, and may have its ids.
        let below = if self.dice.below(2) == 0 { self.dice.below(count + 1) as usize } else { 0 };
        // Not so far behind that retention takes them at once.
        let now = self.site.broker.now().await.unwrap();
        let first = self.ids.first().copied().unwrap_or_else(|| EntryId::new(now, 0));
        let mut places = ids_from(same.next().max(first), below);
        let above = places.last().copied().unwrap_or(first).max(highest);
        places.extend(ids_from(EntryId::new(above.ms + 1, 0), count as usize - below));
        let gate = Gate::default();
        for n in new.clone() {
            self.groups.iter().for_each(|group| self.site.lab.script(group, n, [Act::Wait(gate.clone())]));
        }
        let before: Vec<_> = self.now().iter().map(|status| status.losses).collect();
        let new_entries: Vec<_> = places.iter().copied().zip(fields).collect();
        self.site.set_back(&dump, with_states, &new_entries);
        let handed_out = |life: &Self, group: &str| {
            life.site.lab.events(group).into_iter().filter(|n| gone.contains(n) && life.known.contains(n)).max()
        };
        // Handed out before this moment, so whoever has it is beyond what is there.
        let beyond: Vec<_> = self.groups.iter().map(|group| handed_out(self, group)).collect();
        self.n += count;
        self.ids.extend(&places);
        self.known.retain(|n| *n <= last);
        self.known.extend(new.clone());
        self.should = new.clone().collect();
        let began = Instant::now();
        loop {
            let status = self.now();
            let mut missing = false;
            for (index, group) in self.groups.iter().enumerate() {
                if beyond[index].is_some() && status[index].losses == before[index] {
                    missing = true;
                    let handled = self.site.lab.events(group);
                    let early: Vec<_> = new.clone().filter(|n| handled.contains(n)).collect();
                    // A loss that was reported between the two looks came in time.
                    let told = self.now()[index].losses > before[index];
                    assert!(told || early.is_empty(), "{group}: {early:?} come before the cut of {gone:?} is told");
                }
            }
            if !missing {
                break;
            }
            assert!(began.elapsed() < LONG, "a cut of {gone:?} is not found: {status:?}");
            sleep(Duration::from_millis(5)).await;
        }
        for (index, status) in self.now().iter().enumerate() {
            let (Some(read), Some(loss)) = (beyond[index], &status.last_loss) else { continue };
            let is_gap = matches!(loss.kind, DataLossKind::TrimmedPast | DataLossKind::DeletedUnread);
            if with_states && status.losses - before[index] > 1 && is_gap {
                // Its state of then was behind a trim or a deletion of then.
                continue;
            }
            let told = (loss.kind, loss.count, status.losses - before[index]);
            assert_eq!(told, (DataLossKind::HistoryCut, None, 1), "{loss:?} for {gone:?}");
            let read = self.ids[read as usize - 1];
            assert!(loss.from <= same && loss.to >= read, "{loss:?}, where ({same}, {read}] are gone");
        }
        gate.open();
        // A state of then reports a deletion once more that it had not counted.
        self.settle().await;
        self.restart().await;
        self.go_on_anew(!with_states).await;
    }

    /// After a cut: what came since is all handled, and what is lost is counted from here.
    async fn go_on_anew(&mut self, uncounted: bool) {
        self.settle().await;
        for group in self.groups {
            let handled = self.site.lab.events(group);
            assert!(self.should.iter().all(|n| handled.contains(n)), "{group}: {:?} of {:?}", handled, self.should);
        }
        self.should.clear();
        self.base = self.said();
        self.uncounted = uncounted;
        self.cuts += 1;
    }

    /// Cuts history off, and waits until that is found; what is added then is all handled.
    async fn cut(&mut self) {
        self.dumps.clear();
        let before: Vec<_> = self.now().iter().map(|status| status.losses).collect();
        match self.dice.below(4) {
            0 => self.groups.iter().for_each(|group| self.site.destroy(group)),
            1 => self.site.flush(),
            2 => {
                self.site.delete();
                self.site.add_below().await;
            }
            _ => self.site.delete(),
        }
        self.should.clear();
        self.known.clear();
        let count = 1 + self.dice.below(20);
        self.add(count).await;
        self.open();
        let began = Instant::now();
        loop {
            let status = self.now();
            let is_cut = |loss: &DataLoss| matches!(loss.kind, DataLossKind::Restarted | DataLossKind::HistoryCut);
            let found = |(status, before): (&GroupStatus, &u64)| {
                status.losses > *before && status.last_loss.as_ref().is_some_and(is_cut)
            };
            if status.iter().zip(&before).all(found) {
                break;
            }
            assert!(began.elapsed() < LONG, "a cut is not found: {status:?}");
            sleep(Duration::from_millis(20)).await;
            self.add(1).await;
        }
        self.go_on_anew(false).await;
    }

    fn some_id(&mut self, of_last: u64) -> Option<EntryId> {
        let back = self.dice.below(of_last.min(self.ids.len() as u64).max(1)) as usize;
        self.ids.len().checked_sub(back + 1).map(|index| self.ids[index])
    }

    async fn step(&mut self) {
        match self.dice.below(100) {
            0..30 => {
                let count = 1 + self.dice.below(30);
                self.add(count).await;
            }
            30..45 => {
                // A group stalls at an event of later.
                let (gate, n) = (Gate::default(), self.n + 1 + self.dice.below(10));
                let group = self.groups[self.dice.below(self.groups.len() as u64) as usize];
                self.site.lab.script(group, n, [Act::Wait(gate.clone())]);
                self.gates.push(gate);
            }
            45..58 => self.open(),
            58..64 => sleep(Duration::from_millis(self.dice.below(5))).await,
            64..70 => {
                if let Some(floor) = self.some_id(60) {
                    self.site.trim(floor);
                }
            }
            70..74 => {
                let keep = self.dice.below(8);
                self.site.keep(keep, self.dice.below(2) == 0).await;
            }
            74..86 => {
                let ids: Vec<_> = (0..1 + self.dice.below(3)).filter_map(|_| self.some_id(40)).collect();
                // A stream that was made anew may have none yet.
                if !ids.is_empty() {
                    self.site.remove(&ids);
                }
            }
            86..93 => self.settle().await,
            93..95 => self.restart().await,
            95..97 => {
                let dump = self.site.dump(self.groups);
                self.dumps.push((dump, self.n));
            }
            97..99 => self.set_back().await,
            _ => self.cut().await,
        }
    }

    /// Lives through one history; answers how many entries were lost, and how often it was cut.
    async fn live(site: Site, groups: &'static [&'static str], seed: u64) -> (u64, u64) {
        let mut dice = Dice::new(seed);
        let start = if dice.below(3) == 0 { Start::Latest } else { Start::Earliest };
        let (ids, should, gates) = (Vec::new(), Vec::new(), Vec::new());
        let (lost, base) = (vec![0; groups.len()], vec![0; groups.len()]);
        let (dumps, known, uncounted) = (Vec::new(), BTreeSet::new(), false);
        let mut life = Self {
            site,
            groups,
            app: None,
            start,
            dice,
            ids,
            n: 0,
            should,
            gates,
            lost,
            base,
            cuts: 0,
            dumps,
            known,
            uncounted,
        };
        let before = life.dice.below(40);
        life.add(before).await;
        if let Some(floor) = life.some_id(40) {
            life.site.trim(floor);
        }
        let there = life.site.broker.extent(&partition()).await.unwrap().map_or(0, |extent| extent.length);
        life.should = if start == Start::Latest { Vec::new() } else { (life.n + 1 - there..=life.n).collect() };
        if there > 1 && life.dice.below(4) == 0 {
            // Between the two ends nobody has counted.
            let first = life.n + 2 - there + life.dice.below(there - 1);
            life.start = Start::At(life.ids[first as usize - 1]);
            (life.should, life.uncounted) = ((first..=life.n).collect(), true);
        }
        life.begin().await;
        for _ in 0..50 {
            life.step().await;
        }
        // The first look of a new process finds what was deleted.
        life.settle().await;
        life.restart().await;
        life.settle().await;
        let mut all = 0;
        for (index, group) in groups.iter().enumerate() {
            let handled = life.site.lab.events(group);
            let truth = life.should.iter().filter(|n| !handled.contains(n)).count() as u64;
            let said = life.said()[index] - life.base[index];
            let now = &life.now()[index];
            let is_true = said == truth || (life.uncounted && said < truth);
            assert!(is_true, "seed {seed}: {said} were reported, {truth} are lost: {now:?}");
            assert!(
                said > 0 || life.cuts > 0 || life.uncounted || now.losses == 0,
                "seed {seed}: a false alarm: {now:?}"
            );
            all += truth;
        }
        (all, life.cuts)
    }
}

impl Site {
    /// Trims to so many entries, or so that whole nodes go.
    async fn keep(&self, count: u64, whole_nodes: bool) {
        match &self.hand {
            Hand::Embedded(broker) => {
                let last = broker.read_back(&partition(), EntryId::MAX, count as usize + 1).await.unwrap();
                if let Some(first_to_go) = last.get(count as usize) {
                    broker.trim(&partition(), first_to_go.id.next());
                }
            }
            Hand::Redis(_) if whole_nodes => self.run(&["XTRIM", "loss", "MAXLEN", "~", &count.to_string()]),
            Hand::Redis(_) => self.run(&["XTRIM", "loss", "MAXLEN", &count.to_string()]),
        }
    }

    /// Adds events of nobody's with ids below every other.
    async fn add_below(&self) {
        for n in 1..4 {
            self.run(&["XADD", "loss", &format!("{n}-0"), "event", "Other@1"]);
        }
    }
}

/// Lives through the histories of these seeds; `LOSS_HISTORIES=500` makes them more, from `LOSS_SEED` on.
async fn live_through(site: fn() -> Site, groups: &'static [&'static str], seeds: Range<u64>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("LOSS_SEED").unwrap_or(seeds.start);
    let histories = number("LOSS_HISTORIES").unwrap_or(seeds.end - seeds.start);
    let (mut lossy, mut lost, mut cuts) = (0, 0, 0);
    for seed in first..first + histories {
        println!("seed {seed}");
        let (truth, cut) = Life::live(site(), groups, seed).await;
        lossy += u64::from(truth > 0);
        lost += truth;
        cuts += cut;
    }
    println!("{histories} histories, {lossy} with loss, {lost} entries lost, {cuts} cuts");
    assert!(lossy + cuts > 0, "nothing was lost, so nothing was tested");
}

#[tokio::test(start_paused = true)]
async fn random_histories_are_accounted_for_on_the_embedded_broker() {
    live_through(Site::embedded, ALONE, 0..100).await;
}

#[tokio::test(start_paused = true)]
async fn random_histories_of_groups_that_read_together_are_accounted_for_on_the_embedded_broker() {
    live_through(Site::embedded, TOGETHER, 0..100).await;
}

#[tokio::test(start_paused = true)]
async fn random_histories_of_a_group_with_lanes_are_accounted_for_on_the_embedded_broker() {
    live_through(Site::embedded, WIDE, 0..100).await;
}

#[tokio::test]
async fn random_histories_of_a_group_with_lanes_are_accounted_for_on_a_server() {
    live_through(Site::redis, WIDE, 11..13).await;
}

#[tokio::test]
async fn random_histories_of_groups_that_read_together_are_accounted_for_on_a_server() {
    live_through(Site::redis, TOGETHER, 3..5).await;
}

#[tokio::test]
async fn random_histories_are_accounted_for_on_a_server() {
    live_through(Site::redis, ALONE, 7..9).await;
}

/// A property of the group like any other.
#[test]
fn what_a_group_does_about_losses_can_be_configured() {
    let on = |policy| ConsumerOptions::DEFAULT.with_on_data_loss(policy);
    let config = Config::new().consumers(on(OnDataLoss::Continue)).group("halts", on(OnDataLoss::Halt));
    let app = App::with(consumers![halts, goes_on]).state(Lab::default()).config(config);
    app.check().unwrap();
}
