//! The contract of `streams_core::broker`, page by page, for every implementation; `redis` tests what only a server has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streams_core::broker::{
    Acquired, Attendance, Broker, Claim, Commit, Committed, Created, DeadBounds, Events, Extent, Fields, GroupState,
    Holder, Holding, LeaseView, Log, Member, Need, Recovery, RecoveryStep, Remember, Renewed, Replay, Tail, Taken,
};
use streams_core::keys::{GroupKey, PartitionKey, SnapshotKey, StreamKey};
use streams_core::{Durability, Entry, EntryId, Retention, Start};
use streams_runtime::broker::embedded::Dump;
use streams_runtime::broker::{Acl, Embedded, Redis};
use streams_tests::RedisServer;
use tokio::time::sleep;

/// Far longer than anything here takes: when it is over the test has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const LEASE: Duration = Duration::from_millis(30_000);
pub(crate) const HELD: Renewed = Renewed::Held { replays: false };
pub(crate) const NO_BOUNDS: DeadBounds = DeadBounds { count: u64::MAX, age: Duration::MAX };

/// A broker without anything in it, and an operator's hand on it.
pub(crate) struct Case {
    pub(crate) broker: Arc<dyn Broker>,
    /// The same for a user that only looks.
    pub(crate) observer: Arc<dyn Broker>,
    operator: Operator,
}

enum Operator {
    Embedded(Embedded),
    Redis(String),
}

/// The waiting set of a work queue as it was.
pub(crate) enum SavedWaiting {
    Embedded(Dump),
    Redis(Vec<u8>),
}

impl Case {
    pub(crate) fn embedded() -> Self {
        let broker = Embedded::new();
        let observer = Arc::new(broker.clone());
        Self { broker: Arc::new(broker.clone()), observer, operator: Operator::Embedded(broker) }
    }

    pub(crate) fn resp2() -> Self {
        Self::at(RedisServer::shared().database())
    }

    pub(crate) fn resp3() -> Self {
        Self::at(RedisServer::shared().database() + "?protocol=resp3")
    }

    /// As a user with the rights that [`Acl`] gives, so that no command is sent that it does not know.
    pub(crate) fn least() -> Self {
        let server = RedisServer::shared();
        static USER: std::sync::Once = std::sync::Once::new();
        USER.call_once(|| least_rights(server));
        let url = server.database();
        let mut case = Self::at(url.clone());
        case.broker = Arc::new(Redis::open(&url.replace("redis://", "redis://least:secret@")).unwrap());
        case.observer = Arc::new(Redis::open(&url.replace("redis://", "redis://observer:secret@")).unwrap());
        case
    }

    pub(crate) fn at(url: String) -> Self {
        let open = || Arc::new(Redis::open(&url).unwrap());
        Self { broker: open(), observer: open(), operator: Operator::Redis(url) }
    }

    /// Deletes the stream.
    pub(crate) fn delete(&self) {
        match &self.operator {
            Operator::Embedded(broker) => broker.delete(&partition()),
            Operator::Redis(url) => {
                let mut client = RedisServer::client(url);
                ::redis::cmd("DEL").arg(partition().as_str()).exec(&mut client).unwrap();
            }
        }
    }

    /// Deletes entries.
    pub(crate) fn remove(&self, ids: &[EntryId]) {
        match &self.operator {
            Operator::Embedded(broker) => broker.remove(&partition(), ids),
            Operator::Redis(url) => {
                let mut delete = ::redis::cmd("XDEL");
                delete.arg(partition().as_str()).arg(ids.iter().map(ToString::to_string).collect::<Vec<_>>());
                delete.exec(&mut RedisServer::client(url)).unwrap();
            }
        }
    }

    /// Trims whatever is below this.
    pub(crate) fn cut(&self, floor: EntryId) {
        match &self.operator {
            Operator::Embedded(broker) => broker.trim(&partition(), floor),
            Operator::Redis(url) => {
                let mut trim = ::redis::cmd("XTRIM");
                trim.arg(partition().as_str()).arg("MINID").arg(floor.to_string());
                trim.exec(&mut RedisServer::client(url)).unwrap();
            }
        }
    }

    /// Makes the group `risk` as another application does.
    fn mark(&self) {
        self.mark_as(&risk());
    }

    /// Makes a group as another application does.
    pub(crate) fn mark_as(&self, group: &GroupKey) {
        match &self.operator {
            Operator::Embedded(broker) => broker.mark(group),
            Operator::Redis(url) => {
                let mut create = ::redis::cmd("XGROUP");
                create.arg("CREATE").arg(partition().as_str()).arg(group.group()).arg("$").arg("MKSTREAM");
                create.exec(&mut RedisServer::client(url)).unwrap();
            }
        }
    }

    /// Deletes a key of a group.
    pub(crate) fn forget(&self, key: &str) {
        match &self.operator {
            Operator::Embedded(broker) => broker.forget(key),
            Operator::Redis(url) => ::redis::cmd("DEL").arg(key).exec(&mut RedisServer::client(url)).unwrap(),
        }
    }

    /// Deletes a consumer of a work queue, and not what it has in flight.
    pub(crate) fn forget_consumer(&self, group: &GroupKey, owner: &str) {
        match &self.operator {
            Operator::Embedded(broker) => broker.forget_consumer(group, owner),
            Operator::Redis(url) => {
                let mut delete = ::redis::cmd("HDEL");
                delete.arg(group.state()).arg(format!("consumer:{owner}"));
                delete.exec(&mut RedisServer::client(url)).unwrap();
            }
        }
    }

    /// The waiting set of a work queue, to be put back later.
    pub(crate) fn save_waiting(&self, group: &GroupKey) -> SavedWaiting {
        match &self.operator {
            Operator::Embedded(broker) => SavedWaiting::Embedded(broker.dump()),
            Operator::Redis(url) => {
                let dump = ::redis::cmd("DUMP").arg(group.waiting()).query(&mut RedisServer::client(url));
                SavedWaiting::Redis(dump.unwrap())
            }
        }
    }

    pub(crate) fn restore_waiting(&self, group: &GroupKey, saved: &SavedWaiting) {
        match (&self.operator, saved) {
            (Operator::Embedded(broker), SavedWaiting::Embedded(dump)) => broker.restore_waiting(dump, group),
            (Operator::Redis(url), SavedWaiting::Redis(dump)) => {
                let mut restore = ::redis::cmd("RESTORE");
                restore.arg(group.waiting()).arg(0).arg(dump).arg("REPLACE");
                restore.exec(&mut RedisServer::client(url)).unwrap();
            }
            _ => unreachable!("a case is saved and restored"),
        }
    }

    /// Takes a group's marker away.
    pub(crate) fn unmark(&self, group: &GroupKey) {
        match &self.operator {
            Operator::Embedded(broker) => broker.unmark(group),
            Operator::Redis(url) => {
                let mut destroy = ::redis::cmd("XGROUP");
                destroy.arg("DESTROY").arg(partition().as_str()).arg(group.group());
                destroy.exec(&mut RedisServer::client(url)).unwrap();
            }
        }
    }

    /// Adds an entry under this id, whose event has this id.
    pub(crate) fn add(&self, id: EntryId, event: &str) {
        match &self.operator {
            Operator::Embedded(broker) => {
                let id_field = (b"id".to_vec(), event.as_bytes().to_vec());
                assert!(broker.add(&partition(), id, &[fields("x"), vec![id_field]].concat()));
            }
            Operator::Redis(url) => {
                let mut add = ::redis::cmd("XADD");
                add.arg(partition().as_str()).arg(id.to_string()).arg(&["event", "Trade", "payload", "x", "id", event]);
                add.exec(&mut RedisServer::client(url)).unwrap();
            }
        }
    }

    pub(crate) async fn append(&self, count: usize) -> Vec<EntryId> {
        let entries = (0..count).map(|n| fields(&n.to_string())).collect();
        self.broker.append(&partition(), entries, None).await.unwrap()
    }

    /// Adds an entry, as another program does that may write to any key.
    pub(crate) async fn add_to(&self, partition: &PartitionKey) {
        match &self.operator {
            Operator::Embedded(broker) => drop(broker.append(partition, vec![fields("x")], None).await.unwrap()),
            Operator::Redis(url) => {
                let mut add = ::redis::cmd("XADD");
                add.arg(partition.as_str()).arg(&["*", "event", "Trade"]).exec(&mut RedisServer::client(url)).unwrap();
            }
        }
    }

    /// Trims what may be trimmed below the newest entry, and adds one.
    async fn trim(&self) {
        let last = self.extent().await.last;
        self.broker.append(&partition(), vec![fields("trim")], Some(last)).await.unwrap();
    }

    pub(crate) async fn extent(&self) -> Extent {
        self.broker.extent(&partition()).await.unwrap().unwrap()
    }

    pub(crate) async fn create(&self, start: Start) {
        assert_eq!(self.broker.create(&risk(), start).await.unwrap(), Created::Made);
    }

    async fn state(&self) -> GroupState {
        self.broker.state(&risk()).await.unwrap().unwrap()
    }

    /// The lease in the state.
    async fn lease(&self) -> LeaseView {
        self.state().await.lease
    }

    async fn checkpoint(&self) -> EntryId {
        self.state().await.at
    }

    async fn claim(&self, owner: &str, seen: LeaseView) -> Acquired {
        self.broker.acquire(&risk(), &claim(owner, seen)).await.unwrap()
    }

    pub(crate) async fn hold(&self, owner: &str) -> (Holder, Holding) {
        match self.claim(owner, self.lease().await).await {
            Acquired::Held(holding) => (Holder { owner: owner.to_owned(), epoch: holding.epoch }, holding),
            other => panic!("not held: {other:?}"),
        }
    }

    /// Takes the lease from its owner; answers the recovery to do and the known crashes.
    async fn recover(&self, owner: &str, own: bool, bound: u32) -> (Holder, Option<Recovery>, Vec<(EntryId, u32)>) {
        let claim = Claim { own, bound, ..claim(owner, self.lease().await) };
        match self.broker.acquire(&risk(), &claim).await.unwrap() {
            Acquired::Held(Holding { epoch, recovery, crashes, .. }) => {
                (Holder { owner: owner.to_owned(), epoch }, recovery, crashes)
            }
            other => panic!("not held: {other:?}"),
        }
    }

    /// Commits this step, and what is charged from then on.
    async fn charge(&self, holder: &Holder, prev: EntryId, next: EntryId, ids: &[EntryId], left: u32) {
        let commit = Commit { recovery: recovery_step(ids, left, &[]), ..step(holder, prev, next) };
        assert_eq!(self.commit(&commit).await, Committed::Done);
    }

    pub(crate) async fn commit(&self, commit: &Commit) -> Committed {
        self.broker.commit(&risk(), commit).await.unwrap()
    }

    /// Attends to the members of the group, sorted by what they say.
    async fn attend(&self, present: Option<&str>, absent: &[(&str, Option<u64>)]) -> Vec<(String, u64)> {
        let set = attendance("risk", present, absent);
        let mut answers = self.broker.attend(std::slice::from_ref(&set)).await.unwrap();
        assert_eq!(answers.len(), 1);
        told(answers.remove(0).unwrap())
    }

    pub(crate) async fn dead(&self) -> Vec<Arc<Entry>> {
        self.broker.dead_letters(&risk(), EntryId::ZERO, 1000).await.unwrap()
    }

    /// The group's owner, and the ids of so many dead letters.
    async fn letters(&self, count: usize) -> (Holder, Vec<EntryId>) {
        self.create(Start::Earliest).await;
        let last = *self.append(1).await.last().unwrap();
        let (holder, _) = self.hold("owner").await;
        let mut commit = step(&holder, EntryId::ZERO, last);
        commit.dead = (0..count).map(|n| fields(&n.to_string())).collect();
        assert_eq!(self.commit(&commit).await, Committed::Done);
        (holder, ids(&self.dead().await))
    }

    async fn take(&self, holder: &Holder) -> Replay {
        match self.broker.take_replay(&risk(), holder).await.unwrap() {
            Taken::Letter(replay) => replay,
            other => panic!("not taken: {other:?}"),
        }
    }

    /// Waits until the broker's clock is past this millisecond.
    pub(crate) async fn after(&self, ms: u64) -> u64 {
        loop {
            match self.broker.now().await.unwrap() {
                now if now > ms => return now,
                _ => sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

/// Makes the user with the rights to every stream and group of these cases.
fn least_rights(server: &RedisServer) {
    let stream = |name: &str, partitions| StreamKey::new(None, name, partitions);
    let mut acl = Acl::new().in_a_database();
    for (stream, groups) in [
        (StreamKey::new(Some("eu"), "trades", 4), &[][..]),
        (stream("trades", 1), &["risk", "other", "none", "audit", "new", "mixed"]),
        (stream("orders", 4), &["a", "b"]),
        (stream("orders1", 1), &["a"]),
        (stream("orders3", 3), &["a"]),
        (stream("orders12", 12), &["a"]),
        (stream("none", 1), &["a"]),
    ] {
        acl = acl
            .publish_to(&stream, Retention::Consumed, Some(Durability { fsync: false, replicas: 1 }))
            .operate_on(&stream);
        for group in groups {
            acl = acl.consume_from(&stream, group).unwrap();
        }
    }
    for group in ["crew", "mixed", "none", "other", "g0", "g1", "g2"] {
        acl = acl.share_from(&stream("trades", 1), group).unwrap();
    }
    let saved = SnapshotKey::new(None, "risk");
    acl = acl.follow_from(&stream("trades", 1), "copy").unwrap().save(&saved);
    let observer = Acl::new().in_a_database().observe(None).unwrap();
    for (user, acl) in [("least", acl), ("observer", observer)] {
        let mut set = ::redis::cmd("ACL");
        set.arg("SETUSER").arg(user).arg("on").arg(">secret").arg(acl.to_string().split(' ').collect::<Vec<_>>());
        set.exec(&mut RedisServer::client(&server.url())).unwrap();
    }
}

pub(crate) fn partition() -> PartitionKey {
    StreamKey::new(None, "trades", 1).partition(0)
}

pub(crate) fn risk() -> GroupKey {
    partition().group("risk")
}

pub(crate) fn fields(payload: &str) -> Fields {
    vec![(b"event".to_vec(), b"Trade".to_vec()), (b"payload".to_vec(), payload.as_bytes().to_vec())]
}

pub(crate) fn claim(owner: &str, seen: LeaseView) -> Claim {
    Claim { owner: owner.to_owned(), lease_for: LEASE, seen, own: false, bound: 1_000 }
}

/// The part of a commit about charged events.
fn recovery_step(charged: &[EntryId], left: u32, forget: &[EntryId]) -> Option<RecoveryStep> {
    Some(RecoveryStep { charged: charged.to_vec(), left, forget: forget.to_vec() })
}

/// The part of a commit about ids to remember.
fn remember(ids: &[&str], within: Duration, most: u64) -> Option<Remember> {
    Some(Remember { ids: ids.iter().map(|id| (*id).to_owned()).collect(), within, most })
}

/// A commit of nothing but the checkpoint.
pub(crate) fn step(holder: &Holder, prev: EntryId, next: EntryId) -> Commit {
    static CALLS: AtomicU64 = AtomicU64::new(1);
    Commit {
        holder: holder.clone(),
        call: CALLS.fetch_add(1, Ordering::Relaxed),
        prev,
        next,
        next_event: "t-1".to_owned(),
        seen: None,
        attempts: Vec::new(),
        error: None,
        forget: Vec::new(),
        mirror: false,
        dead: Vec::new(),
        dead_bounds: NO_BOUNDS,
        passed_over: Vec::new(),
        recovery: None,
        remember: None,
    }
}

pub(crate) fn events(events: &[(&str, u32)]) -> Events {
    events.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect()
}

fn need(name: &str, version: u32, entry: EntryId) -> Need {
    Need { name: name.to_owned(), version, entry }
}

fn attendance(group: &str, present: Option<&str>, absent: &[(&str, Option<u64>)]) -> Attendance {
    Attendance {
        members: StreamKey::new(None, "trades", 1).members(group),
        present: present.map(str::to_owned),
        absent: absent.iter().map(|(says, beat)| ((*says).to_owned(), *beat)).collect(),
    }
}

fn told(members: Vec<Member>) -> Vec<(String, u64)> {
    let mut told: Vec<_> = members.into_iter().map(|member| (member.says, member.beat)).collect();
    told.sort();
    told
}

pub(crate) fn ids(entries: &[Arc<Entry>]) -> Vec<EntryId> {
    entries.iter().map(|entry| entry.id).collect()
}

pub(crate) fn payloads(entries: &[Arc<Entry>]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.payload().unwrap().to_vec()).unwrap()).collect()
}

pub(crate) fn keys(keys: &[(&str, EntryId)]) -> Vec<(String, EntryId)> {
    keys.iter().map(|(key, after)| ((*key).to_owned(), *after)).collect()
}

/// The first entries that a tail finds, however often it turns before.
pub(crate) async fn until_found(tail: &mut dyn Tail, keys: &[(String, EntryId)]) -> Vec<Arc<Entry>> {
    loop {
        if let Some(found) = tail.next(keys, 10, LONG).await.unwrap().into_iter().next() {
            return found.entries;
        }
    }
}

/// Every case as a test of every broker.
macro_rules! contract {
    ($($(#[$meta:meta])* async fn $name:ident($case:ident) $body:block)*) => {
        $($(#[$meta])* async fn $name($case: Case) $body)*

        mod embedded { $(#[tokio::test] async fn $name() { super::$name($crate::contract::Case::embedded()).await; })* }
        mod redis { $(#[tokio::test] async fn $name() { super::$name($crate::contract::Case::resp2()).await; })* }
        mod redis_with_least_rights { $(#[tokio::test] async fn $name() { super::$name($crate::contract::Case::least()).await; })* }
        mod redis_resp3 { $(#[tokio::test] async fn $name() { super::$name($crate::contract::Case::resp3()).await; })* }
    };
}

mod log;
mod groups;
mod dead_letters;
mod members;
pub(crate) mod queue;
mod inspect;

contract! {
    async fn it_connects_and_says_where_it_is_and_what_time_it_is(case) {
        case.broker.connect().await.unwrap();
        assert!(!case.broker.describe().is_empty());
        let now = case.broker.now().await.unwrap();
        let ours = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        assert!(now.abs_diff(ours) < 60_000, "{now} {ours}");
    }
}
