//! The contract of `streams_core::broker`, sentence by sentence, for every implementation; `contract_shared` is the part of it
//! on shared delivery, and `redis` tests what only a server has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streams_core::broker::{
    Acquired, Adopted, Adoption, Attendance, Broker, BrokerErrorKind, Change, Claim, Commit, Committed, Consumed,
    Created, DeadBounds, Events, Extent, Fields, Found, GroupState, Holder, Holding, LeaseView, Log, MAX_MEMBERS,
    Member, Moved, Need, Notes, Page, Proof, Proving, Renewed, Replay, ReplayEnd, Reset, SNAPSHOT_BYTES, Snapshot,
    Tail, Taken, in_short,
};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
use streams_core::{Durability, Entry, EntryId, Retention, Start};
use streams_runtime::broker::{Acl, Embedded, Redis};
use streams_tests::RedisServer;
use tokio::time::{Instant, sleep, timeout};

/// Far longer than anything here takes: when it is over the test has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const LEASE: Duration = Duration::from_millis(30_000);
pub(crate) const HELD: Renewed = Renewed::Held { replays: false };
pub(crate) const NO_BOUNDS: DeadBounds = DeadBounds { count: u64::MAX, age: Duration::MAX };

/// A broker without anything in it, and an operator's hand on it.
pub(crate) struct Case {
    pub(crate) broker: Arc<dyn Broker>,
    operator: Operator,
}

enum Operator {
    Embedded(Embedded),
    Redis(String),
}

impl Case {
    pub(crate) fn embedded() -> Self {
        let broker = Embedded::new();
        Self { broker: Arc::new(broker.clone()), operator: Operator::Embedded(broker) }
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
        case
    }

    pub(crate) fn at(url: String) -> Self {
        Self { broker: Arc::new(Redis::open(&url).unwrap()), operator: Operator::Redis(url) }
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
                assert!(broker.add(&partition(), id, [fields("x"), vec![id_field]].concat()));
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

    /// What the state says of the lease.
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

    /// Takes the lease from whoever has it; what is to be proven, and the crashes that are known.
    async fn prove(&self, owner: &str, own: bool, bound: u32) -> (Holder, Option<Proving>, Vec<(EntryId, u32)>) {
        let claim = Claim { own, bound, ..claim(owner, self.lease().await) };
        match self.broker.acquire(&risk(), &claim).await.unwrap() {
            Acquired::Held(Holding { epoch, proving, crashes, .. }) => {
                (Holder { owner: owner.to_owned(), epoch }, proving, crashes)
            }
            other => panic!("not held: {other:?}"),
        }
    }

    /// Commits this step, and what is charged from then on.
    async fn charge(&self, holder: &Holder, prev: EntryId, next: EntryId, ids: &[EntryId], left: u32) {
        let commit = Commit { proof: proof(ids, left, &[]), ..step(holder, prev, next) };
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
    let mut user = ::redis::cmd("ACL");
    user.arg("SETUSER").arg("least").arg("on").arg(">secret").arg(acl.to_string().split(' ').collect::<Vec<_>>());
    user.exec(&mut RedisServer::client(&server.url())).unwrap();
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

/// What a commit says of proven events.
fn proof(charged: &[EntryId], left: u32, forget: &[EntryId]) -> Option<Proof> {
    Some(Proof { charged: charged.to_vec(), left, forget: forget.to_vec() })
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
        forget: Vec::new(),
        mirror: false,
        dead: Vec::new(),
        dead_bounds: NO_BOUNDS,
        passed_over: Vec::new(),
        proof: None,
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

contract! {
    async fn it_connects_and_says_where_it_is_and_what_time_it_is(case) {
        case.broker.connect().await.unwrap();
        assert!(!case.broker.describe().is_empty());
        let now = case.broker.now().await.unwrap();
        let ours = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        assert!(now.abs_diff(ours) < 60_000, "{now} {ours}");
    }

    // Streams.

    async fn ids_rise_over_appends_and_within_one(case) {
        let mut all = case.append(3).await;
        all.extend(case.append(1).await);
        all.extend(case.append(2).await);
        assert_eq!(all.len(), 6);
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        let entries = case.broker.read(&partition(), EntryId::ZERO, 10).await.unwrap();
        assert_eq!(ids(&entries), all);
        assert_eq!(payloads(&entries), ["0", "1", "2", "0", "0", "1"]);
    }

    async fn appends_at_the_same_time_get_ids_of_their_own(case) {
        let appends: Vec<_> = (0..20)
            .map(|_| {
                let broker = Arc::clone(&case.broker);
                tokio::spawn(async move { broker.append(&partition(), vec![fields("a"), fields("b")], None).await })
            })
            .collect();
        let mut all = BTreeSet::new();
        for append in appends {
            all.extend(append.await.unwrap().unwrap());
        }
        assert_eq!(all.len(), 40);
        let entries = case.broker.read(&partition(), EntryId::ZERO, 100).await.unwrap();
        // Nothing comes between the entries of one append.
        assert_eq!(payloads(&entries), ["a", "b"].repeat(20));
    }

    async fn an_entry_reads_back_as_written(case) {
        let written: Fields = [(&b"b"[..], &b"1"[..]), (b"a", b"\x00\xff\r\n"), (b"b", b"2"), (b"\xff", b"")]
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .into();
        case.broker.append(&partition(), vec![written.clone()], None).await.unwrap();
        let read = case.broker.read(&partition(), EntryId::ZERO, 1).await.unwrap();
        assert_eq!(read[0].fields, written);
    }

    async fn an_append_that_is_refused_adds_nothing(case) {
        let error = case.broker.append(&partition(), vec![fields("a"), Vec::new()], None).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused);
        assert!(!error.is_indefinite());
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
    }

    async fn an_append_of_nothing_makes_no_stream(case) {
        assert_eq!(case.append(0).await, []);
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
    }

    async fn nothing_at_or_above_the_floor_is_removed(case) {
        let mut all = case.append(300).await;
        let floor = all[250];
        let entries = vec![fields("x"), fields("y")];
        all.extend(case.broker.append(&partition(), entries, Some(floor)).await.unwrap());
        let left = ids(&case.broker.read(&partition(), EntryId::ZERO, 1000).await.unwrap());
        assert!(left.len() < all.len(), "nothing was removed");
        assert!(left.ends_with(&all[250..]), "{left:?}");
        assert!(all.ends_with(&left));
    }

    async fn a_trim_removes_what_is_below_the_floor_and_nothing_else(case) {
        assert_eq!(case.broker.trim_below(&partition(), EntryId::MAX).await.unwrap(), 0);
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None, "it makes no stream");
        let all = case.append(1_050).await;
        let (floor, mut trimmed) = (all[1_037], 0);
        while let more @ 1.. = case.broker.trim_below(&partition(), floor).await.unwrap() {
            trimmed += more;
        }
        assert_eq!(trimmed, 1_037);
        assert_eq!(ids(&case.broker.read(&partition(), EntryId::ZERO, 100).await.unwrap()), all[1_037..]);
        assert_eq!(case.extent().await, Extent { first: Some(floor), last: all[1_049], length: 13, added: 1_050 });
    }

    async fn a_stream_that_is_not_there_is_empty(case) {
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
        assert_eq!(case.broker.read(&partition(), EntryId::ZERO, 10).await.unwrap(), []);
        assert_eq!(case.broker.read_back(&partition(), EntryId::MAX, 10).await.unwrap(), []);
    }

    async fn the_extent_counts_what_there_is_and_what_there_was(case) {
        let all = case.append(300).await;
        let extent = Extent { first: Some(all[0]), last: all[299], length: 300, added: 300 };
        assert_eq!(case.extent().await, extent);
        case.trim().await;
        let (trimmed, left) = (case.extent().await, case.broker.read(&partition(), EntryId::ZERO, 1000).await.unwrap());
        assert!(trimmed.length < 300);
        let expected = Extent { first: Some(left[0].id), last: left[left.len() - 1].id, length: left.len() as u64, added: 301 };
        assert_eq!(trimmed, expected);
    }

    async fn the_extent_of_a_stream_without_entries_has_no_first(case) {
        case.create(Start::Earliest).await;
        let expected = Extent { first: None, last: EntryId::ZERO, length: 0, added: 0 };
        assert_eq!(case.extent().await, expected);
    }

    async fn a_read_takes_what_is_above_a_position_oldest_first(case) {
        let all = case.append(5).await;
        let read = async |after, count| ids(&case.broker.read(&partition(), after, count).await.unwrap());
        assert_eq!(read(EntryId::ZERO, 2).await, all[..2]);
        assert_eq!(read(all[1], 2).await, all[2..4]);
        assert_eq!(read(all[3], usize::MAX).await, all[4..]);
        assert_eq!(read(EntryId::new(all[0].ms - 1, u64::MAX), 1).await, all[..1]);
        assert_eq!(read(all[4], 2).await, []);
        assert_eq!(read(EntryId::MAX, 2).await, []);
        assert_eq!(read(EntryId::ZERO, 0).await, []);
    }

    async fn a_read_back_takes_the_newest_first_and_goes_on_below(case) {
        let mut all = case.append(5).await;
        all.reverse();
        let read =
            async |before, count| ids(&case.broker.read_back(&partition(), before, count).await.unwrap());
        assert_eq!(read(EntryId::MAX, 2).await, all[..2]);
        assert_eq!(read(EntryId::MAX, usize::MAX).await, all);
        assert_eq!(read(all[1], 2).await, all[2..4]);
        assert_eq!(read(all[4], 2).await, []);
        assert_eq!(read(EntryId::ZERO, 2).await, []);
        assert_eq!(read(EntryId::MAX, 0).await, []);
    }

    async fn the_number_of_partitions_is_recorded_once(case) {
        let four = StreamKey::new(Some("eu"), "trades", 4);
        assert_eq!(case.broker.partitions(&four).await.unwrap(), None);
        case.broker.declare(&four).await.unwrap();
        case.broker.declare(&four).await.unwrap();
        assert_eq!(case.broker.partitions(&StreamKey::new(Some("eu"), "trades", 1)).await.unwrap(), Some(4));
        let error = case.broker.declare(&StreamKey::new(Some("eu"), "trades", 8)).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Mismatch);
        let message = error.to_string();
        assert!(["`eu:trades`", "partitions = 8", "with 4", "declare 4"].iter().all(|part| message.contains(part)), "{message}");
        case.broker.declare(&four).await.unwrap();
        case.broker.declare(&StreamKey::new(None, "trades", 8)).await.unwrap();
    }

    async fn a_number_of_partitions_is_not_recorded_where_somebody_has_published_by_another(case) {
        let (one, four) = (StreamKey::new(Some("eu"), "trades", 1), StreamKey::new(Some("eu"), "trades", 4));
        let (bare, above) = (one.partition(0), StreamKey::new(Some("eu"), "trades", 1024).partition(999));
        case.add_to(&bare).await;
        case.add_to(&bare).await;
        assert_eq!(case.broker.strays(&four).await.unwrap(), [(bare.clone(), 2)]);
        let error = case.broker.declare(&four).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Mismatch);
        let message = error.to_string();
        for part in ["partitions = 4 for the first time", "`eu:trades` holds 2 entries", "declare partitions = 1", "`streams:{eu:trades}:_stream`"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(case.broker.partitions(&four).await.unwrap(), None);
        case.add_to(&above).await;
        let message = case.broker.declare(&one).await.unwrap_err().to_string();
        assert!(message.contains("`eu:trades.999` holds 1 entries") && !message.contains("declare partitions"), "{message}");
        assert_eq!(case.broker.strays(&one).await.unwrap(), [(above.clone(), 1)]);
        assert_eq!(case.broker.strays(&four).await.unwrap(), [(bare, 2), (above, 1)]);
    }

    async fn what_strays_after_the_number_is_recorded_stops_nobody(case) {
        let (one, four) = (StreamKey::new(Some("eu"), "trades", 1), StreamKey::new(Some("eu"), "trades", 4));
        case.broker.declare(&four).await.unwrap();
        assert_eq!(case.broker.strays(&four).await.unwrap(), []);
        case.add_to(&one.partition(0)).await;
        case.add_to(&four.partition(3)).await;
        case.broker.declare(&four).await.unwrap();
        assert_eq!(case.broker.strays(&four).await.unwrap(), [(one.partition(0), 1)]);
    }

    async fn groups_are_named_also_those_of_others(case) {
        assert_eq!(case.broker.groups(&partition()).await.unwrap(), None);
        case.append(1).await;
        assert_eq!(case.broker.groups(&partition()).await.unwrap(), Some(Vec::new()));
        case.create(Start::Earliest).await;
        case.mark_as(&partition().group("other"));
        let mut names = case.broker.groups(&partition()).await.unwrap().unwrap();
        names.sort_unstable();
        assert_eq!(names, ["other", "risk"]);
    }

    async fn notes_are_kept_by_name_and_told_as_they_were_before(case) {
        let (stream, other) = (StreamKey::new(Some("eu"), "trades", 4), StreamKey::new(None, "trades", 4));
        let notes = |notes: &[(&str, &str)]| -> Notes {
            notes.iter().map(|(name, note)| ((*name).to_owned(), (*note).to_owned())).collect()
        };
        let none = Notes::new();
        let told = async |write: &[(&str, &str)], gone: &[&str]| {
            let gone: Vec<_> = gone.iter().map(|&name| name.to_owned()).collect();
            case.broker.notes(&stream, &notes(write), &gone).await.unwrap()
        };
        assert_eq!(told(&[], &[]).await, none);
        assert_eq!(told(&[("a", "1"), ("b", "ü\n2")], &[]).await, none);
        assert_eq!(told(&[("b", "3")], &["a", "never there"]).await, notes(&[("a", "1"), ("b", "ü\n2")]));
        assert_eq!(told(&[], &["b"]).await, notes(&[("b", "3")]));
        assert_eq!(told(&[], &[]).await, none);
        assert_eq!(told(&[("a", "4")], &[]).await, none);
        assert_eq!(case.broker.notes(&other, &none, &[]).await.unwrap(), none);
        assert_eq!(case.broker.partitions(&stream).await.unwrap(), None, "nothing is declared by it");
    }

    async fn of_callers_at_the_same_time_each_sees_those_before_it(case) {
        let callers: Vec<_> = (0..20)
            .map(|n| {
                let (broker, stream) = (Arc::clone(&case.broker), StreamKey::new(None, "trades", 1));
                let note = Notes::from([(format!("{n}"), String::new())]);
                tokio::spawn(async move { broker.notes(&stream, &note, &[]).await.unwrap().len() })
            })
            .collect();
        let mut seen = BTreeSet::new();
        for caller in callers {
            seen.insert(caller.await.unwrap());
        }
        assert_eq!(seen, (0..20).collect());
    }

    // Tails.

    async fn a_tail_answers_at_once_with_what_is_there(case) {
        let all = case.append(3).await;
        let mut tail = case.broker.tail().await.unwrap();
        let found = tail.next(&keys(&[("trades", all[0])]), 10, LONG).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].key, ids(&found[0].entries)), (0, all[1..].to_vec()));
        let found = tail.next(&keys(&[("trades", EntryId::ZERO)]), 10, Duration::MAX).await.unwrap();
        assert_eq!(ids(&found[0].entries), all);
        // No wait at all is a look.
        let found = tail.next(&keys(&[("trades", EntryId::ZERO)]), 10, Duration::ZERO).await.unwrap();
        assert_eq!(ids(&found[0].entries), all);
    }

    async fn a_tail_waits_for_entries_also_of_a_stream_that_is_not_there(case) {
        let mut tail = case.broker.tail().await.unwrap();
        let mut after = EntryId::ZERO;
        for _ in 0..3 {
            let keys = keys(&[("trades", after)]);
            let (found, added) = tokio::join!(tail.next(&keys, 10, LONG), case.append(1));
            assert_eq!(ids(&found.unwrap()[0].entries), added);
            after = added[0];
        }
    }

    async fn a_tail_ends_empty_when_the_wait_is_over(case) {
        let last = case.append(1).await[0];
        let mut tail = case.broker.tail().await.unwrap();
        let (started, wait) = (Instant::now(), Duration::from_millis(60));
        assert_eq!(tail.next(&keys(&[("trades", last), ("none", EntryId::ZERO)]), 10, wait).await.unwrap(), []);
        assert!(started.elapsed() >= wait - Duration::from_millis(5), "{:?}", started.elapsed());
    }

    async fn a_tail_names_the_keys_that_have_entries_by_index(case) {
        let stream = StreamKey::new(None, "orders", 4);
        let added = async |index| case.broker.append(&stream.partition(index), vec![fields("x"); 2], None).await.unwrap();
        let (one, three) = (added(1).await, added(3).await);
        let mut tail = case.broker.tail().await.unwrap();
        let keys = keys(&[("orders.0", EntryId::ZERO), ("orders.1", one[0]), ("orders.2", EntryId::ZERO), ("orders.3", EntryId::ZERO)]);
        let found = tail.next(&keys, 10, LONG).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|found| (found.key, ids(&found.entries))).collect();
        assert_eq!(found, [(1, one[1..].to_vec()), (3, three)]);
    }

    async fn a_tail_tells_whether_the_entry_at_its_position_is_still_there(case) {
        // In one write up to eight keys, in two beyond.
        for number in [1, 3, 12] {
            let stream = StreamKey::new(None, &format!("orders{number}"), number);
            let (one, other) = (stream.partition(0), stream.partition(number / 2));
            let mut tail = case.broker.tail().await.unwrap();
            let mut positions = Vec::new();
            for index in 0..number {
                let added = case.broker.append(&stream.partition(index), vec![fields("old")], None).await.unwrap();
                positions.push((stream.partition(index).as_str().to_owned(), added[0]));
            }
            if number > 1 {
                case.broker.append(&one, vec![fields("new")], None).await.unwrap();
            }
            case.broker.append(&other, vec![fields("new")], None).await.unwrap();
            // Nothing stands at the position of the other.
            positions[number as usize / 2].1.ms -= 1;
            let found = tail.next(&positions, 10, LONG).await.unwrap();
            if number > 1 {
                assert_eq!(payloads(&[found[0].position.clone().unwrap()]), ["old"]);
            }
            let other = found.last().unwrap();
            assert_eq!((other.key, &other.position, other.entries.len()), (number as usize / 2, &None, 2));
        }
    }

    async fn a_tail_takes_at_most_so_many_entries_of_a_key(case) {
        let all = case.append(5).await;
        case.broker.append(&partition().group("x").partition().clone(), Vec::new(), None).await.unwrap();
        let mut tail = case.broker.tail().await.unwrap();
        let found = tail.next(&keys(&[("trades", EntryId::ZERO)]), 2, LONG).await.unwrap();
        assert_eq!(ids(&found[0].entries), all[..2]);
    }

    async fn a_tail_ends_early_when_it_is_interrupted(case) {
        for keys in [keys(&[("trades", EntryId::ZERO)]), Vec::new()] {
            let mut tail = case.broker.tail().await.unwrap();
            let interrupt = tail.interrupt();
            let mut next = std::pin::pin!(tail.next(&keys, 10, LONG));
            let started = Instant::now();
            // An interruption may come before the wait begins, so it is repeated.
            let found = loop {
                tokio::select! {
                    found = &mut next => break found,
                    () = sleep(Duration::from_millis(5)) => interrupt.interrupt().await.unwrap(),
                }
            };
            assert_eq!(found.unwrap(), []);
            assert!(started.elapsed() < LONG / 2);
        }
    }

    async fn an_interrupted_tail_goes_on(case) {
        let mut tail = case.broker.tail().await.unwrap();
        tail.interrupt().interrupt().await.unwrap();
        let keys = keys(&[("trades", EntryId::ZERO)]);
        let (found, added) = tokio::join!(until_found(tail.as_mut(), &keys), case.append(1));
        assert_eq!(ids(&found), added);
    }

    async fn a_tail_whose_wait_was_dropped_goes_on(case) {
        let mut tail = case.broker.tail().await.unwrap();
        // On a key to which nothing comes, so that nothing but the drop ends the wait.
        let nothing = keys(&[("none", EntryId::ZERO)]);
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(20), tail.next(&nothing, 10, LONG)).await.is_err());
        }
        let added = case.append(2).await;
        let started = Instant::now();
        assert_eq!(ids(&until_found(tail.as_mut(), &keys(&[("trades", EntryId::ZERO)])).await), added);
        assert_eq!(ids(&until_found(tail.as_mut(), &keys(&[("trades", added[0])])).await), added[1..]);
        assert!(started.elapsed() < LONG / 2);
    }

    // Groups.

    async fn a_group_that_is_not_there_has_no_state(case) {
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_new_group_is_held_by_nobody(case) {
        case.create(Start::Earliest).await;
        let state = case.broker.state(&risk()).await.unwrap().unwrap();
        assert_eq!((state.lease, state.at), (LeaseView::default(), EntryId::ZERO));
    }

    async fn from_the_earliest_nothing_is_skipped(case) {
        case.append(3).await;
        case.create(Start::Earliest).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (EntryId::ZERO, Some(0)));
    }

    async fn from_the_earliest_counts_what_was_trimmed_before(case) {
        case.append(300).await;
        case.trim().await;
        let extent = case.extent().await;
        case.create(Start::Earliest).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (EntryId::ZERO, Some(extent.added - extent.length)));
        assert_ne!(holding.seen, Some(0));
    }

    async fn from_the_latest_everything_there_is_is_behind(case) {
        let all = case.append(3).await;
        case.create(Start::Latest).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (all[2], Some(3)));
    }

    async fn from_the_latest_of_a_stream_that_is_not_there_nothing_is_skipped(case) {
        case.create(Start::Latest).await;
        case.append(1).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (EntryId::ZERO, Some(0)));
    }

    async fn from_an_entry_the_checkpoint_is_the_one_before(case) {
        let all = case.append(3).await;
        let below = EntryId::new(all[0].ms - 1, 5);
        let cases = [
            (EntryId::ZERO, EntryId::ZERO, Some(0)),
            (below, EntryId::ZERO, Some(0)),
            (all[0], EntryId::ZERO, Some(0)),
            (all[1], all[0], None),
            (all[2], all[1], None),
            (all[2].next(), all[2], Some(3)),
            (EntryId::MAX, all[2], Some(3)),
        ];
        for (index, (from, at, seen)) in cases.into_iter().enumerate() {
            let group = partition().group(&format!("g{index}"));
            assert_eq!(case.broker.create(&group, Start::At(from)).await.unwrap(), Created::Made);
            let claim = claim("a", LeaseView::default());
            match case.broker.acquire(&group, &claim).await.unwrap() {
                Acquired::Held(holding) => assert_eq!((holding.at, holding.seen), (at, seen), "from {from}"),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn from_some_time_ago_the_checkpoint_is_the_last_entry_before(case) {
        let early = case.append(1).await[0];
        let now = case.after(early.ms + 1000).await;
        let late = case.append(1).await[0];
        case.after(late.ms).await;
        let cases = [
            (Duration::ZERO, late),
            // Half a second on each side, for a busy machine.
            (Duration::from_millis(now - early.ms - 500), early),
            (Duration::from_secs(3600), EntryId::ZERO),
            (Duration::MAX, EntryId::ZERO),
        ];
        for (index, (ago, at)) in cases.into_iter().enumerate() {
            let group = partition().group(&format!("g{index}"));
            assert_eq!(case.broker.create(&group, Start::Ago(ago)).await.unwrap(), Created::Made);
            assert_eq!(case.broker.state(&group).await.unwrap().unwrap().at, at, "{ago:?} ago");
        }
    }

    async fn a_group_that_is_there_is_not_made_again(case) {
        case.append(3).await;
        case.create(Start::Earliest).await;
        case.hold("a").await;
        let before = case.broker.state(&risk()).await.unwrap();
        assert_eq!(case.broker.create(&risk(), Start::Latest).await.unwrap(), Created::Exists);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
        // Not even when the stream with its marker is gone: that is for the owner to find out.
        case.delete();
        assert_eq!(case.broker.create(&risk(), Start::Latest).await.unwrap(), Created::Exists);
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
    }

    async fn a_group_of_another_application_is_left_alone(case) {
        case.mark();
        assert_eq!(case.broker.create(&risk(), Start::Earliest).await.unwrap(), Created::Foreign);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
        assert_eq!(case.broker.create(&partition().group("other"), Start::Earliest).await.unwrap(), Created::Made);
    }

    // History.

    async fn a_snapshot_tells_extent_marker_and_entries_from_a_position_on(case) {
        let nothing = Snapshot { extent: None, marker: false, deleted: None, entries: Vec::new(), complete: true };
        assert_eq!(case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap(), nothing);
        let all = case.append(5).await;
        assert!(!case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap().marker);
        case.create(Start::Earliest).await;
        assert!(!case.broker.snapshot(&partition().group("other"), EntryId::ZERO, 9).await.unwrap().marker);
        assert_eq!(case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap().deleted, Some(EntryId::ZERO));
        case.remove(&[all[0], all[2]]);
        for (from, count, expected) in [
            (EntryId::ZERO, 2, vec![all[1], all[3]]),
            (all[1], 9, vec![all[1], all[3], all[4]]),
            (all[2], 9, vec![all[3], all[4]]),
            (all[4].next(), 9, Vec::new()),
        ] {
            let snapshot = case.broker.snapshot(&risk(), from, count).await.unwrap();
            assert_eq!((ids(&snapshot.entries), snapshot.marker), (expected, true), "from {from}");
            assert_eq!((snapshot.extent, snapshot.deleted), (Some(case.extent().await), Some(all[2])));
        }
        assert_eq!(case.extent().await, Extent { first: Some(all[1]), last: all[4], length: 3, added: 5 });
        case.remove(&all);
        let empty = Extent { first: None, last: all[4], length: 0, added: 5 };
        let snapshot = case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap();
        assert_eq!(snapshot, Snapshot { extent: Some(empty), marker: true, deleted: Some(all[4]), entries: Vec::new(), complete: true });
        let ends = case.broker.snapshot(&risk(), EntryId::MAX, 0).await.unwrap();
        assert_eq!((ends.extent, ends.entries), (Some(empty), Vec::new()));
    }

    async fn a_page_holds_so_many_bytes_above_its_position_or_one_entry(case) {
        const SIZE: usize = 10_000;
        let nothing = Page { entries: Vec::new(), complete: true };
        assert_eq!(case.broker.page(&partition(), EntryId::ZERO, 9, SIZE).await.unwrap(), nothing);
        let large = |n: usize| vec![(b"id".to_vec(), format!("e{n}").into_bytes()), (b"payload".to_vec(), vec![7; SIZE])];
        let all = case.broker.append(&partition(), (0..40).map(large).collect(), None).await.unwrap();
        for (from, count, bytes, expected, complete) in [
            (EntryId::ZERO, 9, 0, &all[..1], false),
            (EntryId::ZERO, 9, 4 * SIZE, &all[..3], false),
            (all[3], 9, 4 * SIZE, &all[3..7], false),
            (all[3], 2, 4 * SIZE, &all[3..5], false),
            (all[3], 1, 4 * SIZE, &all[3..4], false),
            (all[3], 99, 99 * SIZE, &all[3..], true),
            (all[37], 99, 0, &all[37..39], false),
            (all[38], 99, 0, &all[38..], true),
            (all[39], 99, 0, &all[39..], true),
            (EntryId::MAX, 99, 0, &[], true),
        ] {
            let page = case.broker.page(&partition(), from, count, bytes).await.unwrap();
            assert_eq!(&*ids(&page.entries), expected, "from {from}, {count}, {bytes}");
            // Only one that has nothing above its position has to know that.
            let nothing_above = page.entries.iter().all(|entry| entry.id == from);
            assert!(page.complete == complete || (complete && !nothing_above), "from {from}, {count}, {bytes}");
            for entry in page.entries {
                assert_eq!(entry.field("payload").is_some(), entry.id != from, "at the position it is in short");
            }
        }
        let snapshot = case.broker.snapshot(&risk(), EntryId::ZERO, 99).await.unwrap();
        assert_eq!((snapshot.entries.len(), snapshot.complete), (SNAPSHOT_BYTES / SIZE, false));
    }

    async fn an_entry_is_told_in_short_as_the_contract_says(case) {
        let field = |name: &[u8], size: usize| (name.to_vec(), vec![b'x'; size]);
        let many = |size| (0..40_u8).map(|n| field(&[b'h', n], size)).collect::<Vec<_>>();
        let shapes = [
            vec![field(b"event", 9), field(b"id", 3), field(b"payload", 3_000)],
            vec![field(b"event", 9), field(b"id", 0), field(b"payload", 3_000)],
            vec![field(b"event", 9), field(b"id", 129), field(b"id", 3)],
            vec![field(b"payload", 160), field(&[b'n'; 161], 161)],
            vec![(b"id".to_vec(), vec![0xff; 128]), field(b"payload", 9)],
            many(1_000),
            [many(10), vec![field(b"id", 128)]].concat(),
        ];
        for fields in shapes {
            let id = case.broker.append(&partition(), vec![fields.clone()], None).await.unwrap()[0];
            let whole = Entry { id, fields };
            // The entry before it may be there, too.
            let above = case.broker.page(&partition(), id.previous(), 2, 0).await.unwrap().entries.pop().unwrap();
            let read = case.broker.read(&partition(), id.previous(), 1).await.unwrap();
            assert!(*above == whole && *read[0] == whole, "{:?}", above.fields.first());
            let at = case.broker.page(&partition(), id, 1, 0).await.unwrap().entries;
            assert!(*at[0] == in_short(&whole), "{:?}", at[0].fields.first());
        }
    }

    async fn a_group_begins_with_the_event_at_its_place(case) {
        let named = |id: &str| [fields("x"), vec![(b"id".to_vec(), id.as_bytes().to_vec())]].concat();
        let entries = vec![named("t-1"), fields("no name"), named("t-3"), named("t-\u{e9}"), named("t-5")];
        let all = case.broker.append(&partition(), entries, None).await.unwrap();
        let begin = async |name: &str, start| {
            let group = partition().group(name);
            assert_eq!(case.broker.create(&group, start).await.unwrap(), Created::Made);
            let seen = case.broker.state(&group).await.unwrap().unwrap().lease;
            match case.broker.acquire(&group, &claim("a", seen)).await.unwrap() {
                Acquired::Held(holding) => holding.at_event,
                other => panic!("not held: {other:?}"),
            }
        };
        assert_eq!(begin("earliest", Start::Earliest).await, "");
        assert_eq!(begin("latest", Start::Latest).await, "t-5");
        assert_eq!(begin("first", Start::At(all[1])).await, "t-1");
        assert_eq!(begin("unnamed", Start::At(all[2])).await, "");
        assert_eq!(begin("third", Start::At(all[3])).await, "t-3");
        let group = partition().group("third");
        let seen = case.broker.state(&group).await.unwrap().map(|state| state.lease.epoch);
        case.broker.reset(&group, seen, Start::At(all[1])).await.unwrap();
        let seen = case.broker.state(&group).await.unwrap().unwrap().lease;
        let Acquired::Held(holding) = case.broker.acquire(&group, &claim("b", seen)).await.unwrap() else {
            panic!("not held")
        };
        assert_eq!((holding.at, holding.at_event.as_str()), (all[0], "t-1"));
    }

    async fn a_claim_tells_the_event_at_the_checkpoint(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, holding) = case.hold("a").await;
        assert_eq!(holding.at_event, "");
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Done);
        assert_eq!(case.hold("b").await.1.at_event, "t-1");
    }

    async fn an_ordinal_is_recorded_also_when_the_checkpoint_stays(case) {
        let all = case.append(1).await;
        case.create(Start::Latest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { seen: Some(9), ..step(&holder, all[0], all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(case.hold("b").await.1.seen, Some(9));
    }

    async fn a_commit_that_comes_late_changes_nothing(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let failed = |attempts| Commit {
            attempts: vec![(all[1], attempts)],
            proof: proof(&[], 9 - u32::from(attempts > 1), &[]),
            seen: Some(u64::from(attempts)),
            ..step(&holder, EntryId::ZERO, EntryId::ZERO)
        };
        let (once, twice) = (failed(1), failed(2));
        for commit in [&once, &once, &twice, &twice] {
            assert_eq!(case.commit(commit).await, Committed::Done);
        }
        let before = case.lease().await;
        assert_eq!(case.commit(&once).await, Committed::Conflict { at: EntryId::ZERO });
        assert_eq!(case.lease().await, before);
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Done);
        assert_eq!(case.commit(&twice).await, Committed::Conflict { at: all[0] });
        let (next, holding) = case.hold("b").await;
        assert_eq!(holding.attempts, [(all[1], 2)]);
        // The next owner counts anew.
        let commit = Commit { call: 1, attempts: vec![(all[1], 3)], ..step(&next, all[0], all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(case.hold("c").await.1.attempts, [(all[1], 3)]);
    }

    async fn a_reset_moves_the_checkpoint_and_fences_the_owner(case) {
        let all = case.append(4).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { attempts: vec![(all[3], 2)], seen: Some(2), ..step(&holder, EntryId::ZERO, all[1]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        let reset = async |seen, to| case.broker.reset(&risk(), seen, to).await.unwrap();
        let before = case.broker.state(&risk()).await.unwrap();
        assert_eq!(reset(Some(holder.epoch - 1), Start::Earliest).await, Reset::Contended);
        assert_eq!(reset(None, Start::Earliest).await, Reset::Contended);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);

        assert_eq!(reset(Some(holder.epoch), Start::At(all[1])).await, Reset::Done { at: all[0] });
        let state = case.broker.state(&risk()).await.unwrap().unwrap();
        assert_eq!((state.at, state.lease.owner.as_str(), state.reset), (all[0], "", state.lease.epoch));
        assert!(state.reset > holder.epoch);
        assert_eq!(case.commit(&step(&holder, all[1], all[2])).await, Committed::Fenced);
        let (_, holding) = case.hold("b").await;
        assert_eq!((holding.at, holding.seen, holding.attempts), (all[0], None, vec![]));
        assert!(holding.epoch > state.reset);
        assert_eq!(case.broker.state(&risk()).await.unwrap().unwrap().reset, state.reset, "it stays known");

        assert_eq!(reset(Some(holding.epoch), Start::Latest).await, Reset::Done { at: all[3] });
        assert_eq!(case.hold("c").await.1.seen, Some(4));
    }

    async fn a_reset_makes_a_marker_and_a_state_that_are_gone(case) {
        case.append(2).await;
        case.create(Start::Latest).await;
        let (holder, _) = case.hold("a").await;
        case.delete();
        let all = case.append(2).await;
        let (ours, other) = (&risk(), &partition().group("other"));
        let reset = async |group, seen| case.broker.reset(group, seen, Start::Earliest).await.unwrap();
        assert_eq!(reset(ours, Some(holder.epoch)).await, Reset::Done { at: EntryId::ZERO });
        assert!(case.broker.snapshot(&risk(), EntryId::ZERO, 1).await.unwrap().marker);
        assert_eq!(case.hold("b").await.1.seen, Some(0));

        assert_eq!(reset(other, Some(7)).await, Reset::Contended);
        assert_eq!(reset(other, None).await, Reset::Done { at: EntryId::ZERO });
        assert_eq!(case.broker.state(other).await.unwrap().unwrap().lease.owner, "");
        assert_eq!(ids(&case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap()), all);
    }

    async fn a_reset_leaves_a_group_of_another_application_alone(case) {
        case.mark();
        assert_eq!(case.broker.reset(&risk(), None, Start::Earliest).await.unwrap(), Reset::Foreign);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_reset_rings_the_bell(case) {
        case.create(Start::Earliest).await;
        assert!(matches!(case.broker.reset(&risk(), Some(0), Start::Latest).await.unwrap(), Reset::Done { .. }));
        let mut tail = case.broker.tail().await.unwrap();
        let rings = until_found(tail.as_mut(), &keys(&[(&partition().bell(), EntryId::ZERO)])).await;
        assert_eq!(rings[0].field("group"), Some(&b"risk"[..]));
    }

    // Leases.

    async fn a_lease_that_was_taken_shows_in_the_state(case) {
        case.create(Start::Earliest).await;
        let before = case.broker.now().await.unwrap();
        let (holder, _) = case.hold("a").await;
        assert!(holder.epoch >= before, "an epoch is no lower than the clock: {} {before}", holder.epoch);
        let state = case.broker.state(&risk()).await.unwrap().unwrap();
        assert_eq!(state.lease, LeaseView { owner: "a".to_owned(), epoch: holder.epoch, beat: 0 });
        assert_eq!(state.lease_for, LEASE);
    }

    async fn states_are_told_in_the_order_in_which_they_were_asked_for(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("me").await;
        let asked = [partition().group("other"), risk(), partition().group("none"), risk()];
        let states: Vec<_> = case.broker.states(&asked).await.unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!((&states[0], &states[2]), (&None, &None));
        assert_eq!(states[1], case.broker.state(&risk()).await.unwrap());
        assert_eq!(states[3].as_ref().map(|state| state.lease.owner.as_str()), Some(holder.owner.as_str()));
        assert!(case.broker.states(&[]).await.unwrap().is_empty());
    }

    async fn members_are_counted_by_beats_of_their_own(case) {
        let told = |told: &[(&str, u64)]| told.iter().map(|(says, beat)| ((*says).to_owned(), *beat)).collect::<Vec<_>>();
        assert!(case.attend(None, &[]).await.is_empty());
        assert_eq!(case.attend(Some("a lease=1"), &[]).await, told(&[("a lease=1", 1)]));
        assert_eq!(case.attend(Some("b"), &[]).await, told(&[("a lease=1", 1), ("b", 1)]));
        assert_eq!(case.attend(Some("b"), &[]).await, told(&[("a lease=1", 1), ("b", 2)]));
        assert_eq!(case.attend(None, &[]).await, told(&[("a lease=1", 1), ("b", 2)]));
    }

    async fn a_member_is_taken_out_by_its_last_beat_or_by_itself(case) {
        for says in ["a", "b", "b", "c"] {
            case.attend(Some(says), &[]).await;
        }
        let left = case.attend(Some("d"), &[("a", Some(1)), ("b", Some(1)), ("c", None), ("nobody", None)]).await;
        assert_eq!(left, [("b".to_owned(), 2), ("d".to_owned(), 1)]);
        // What one says can be changed in one step.
        let left = case.attend(Some("d without=1"), &[("d", None), ("b", Some(2))]).await;
        assert_eq!(left, [("d without=1".to_owned(), 1)]);
    }

    async fn groups_have_members_of_their_own_and_are_answered_in_order(case) {
        let sets = [attendance("other", Some("a"), &[]), attendance("risk", Some("b"), &[]), attendance("other", None, &[])];
        let answers = case.broker.attend(&sets).await.unwrap().into_iter();
        let answers: Vec<_> = answers.map(|answer| told(answer.unwrap())).collect();
        let (a, b) = (("a".to_owned(), 1), ("b".to_owned(), 1));
        assert_eq!(answers, [vec![a.clone()], vec![b], vec![a]]);
    }

    async fn members_have_a_bound_and_those_with_the_fewest_beats_go(case) {
        let sets = |from: usize, to: usize| {
            (from..to).map(|n| attendance("risk", Some(&n.to_string()), &[])).collect::<Vec<_>>()
        };
        case.attend(Some("old"), &[]).await;
        case.attend(Some("old"), &[]).await;
        for page in sets(1, MAX_MEMBERS + 10).chunks(300) {
            case.broker.attend(page).await.unwrap();
        }
        let members = case.attend(None, &[]).await;
        assert_eq!(members.len(), MAX_MEMBERS);
        assert!(members.contains(&("old".to_owned(), 2)));
    }

    async fn a_lease_is_taken_only_from_what_was_seen(case) {
        case.create(Start::Earliest).await;
        assert_eq!(case.claim("a", LeaseView { epoch: 1, ..LeaseView::default() }).await, Acquired::Contended);
        assert_eq!(case.claim("a", LeaseView { beat: 1, ..LeaseView::default() }).await, Acquired::Contended);
        let (holder, _) = case.hold("a").await;
        let seen = case.lease().await;
        for stale in [
            LeaseView::default(),
            LeaseView { owner: String::new(), ..seen.clone() },
            LeaseView { owner: "x".to_owned(), ..seen.clone() },
            LeaseView { epoch: seen.epoch - 1, ..seen.clone() },
            LeaseView { beat: 7, ..seen.clone() },
        ] {
            assert_eq!(case.claim("b", stale.clone()).await, Acquired::Contended, "{stale:?}");
        }
        let mut renewer = case.broker.renewer().await.unwrap();
        assert_eq!(renewer.renew(&[(risk(), holder)]).await.unwrap(), [HELD]);
        assert_eq!(case.claim("b", seen).await, Acquired::Contended, "renewed since");
        assert_eq!(case.lease().await.owner, "a");
        assert!(matches!(case.claim("b", case.lease().await).await, Acquired::Held(_)));
        assert_eq!(case.lease().await.owner, "b");
    }

    async fn a_lease_without_an_owner_is_compared_too(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let free = case.lease().await;
        assert_eq!(free.owner, "");
        assert_eq!(case.claim("b", LeaseView::default()).await, Acquired::Contended);
        assert_eq!(case.claim("b", LeaseView { beat: free.beat + 1, ..free.clone() }).await, Acquired::Contended);
        assert!(matches!(case.claim("b", free.clone()).await, Acquired::Held(_)));
        assert_eq!(case.claim("c", free).await, Acquired::Contended);
    }

    async fn a_claim_whose_answer_was_lost_is_answered_again(case) {
        case.create(Start::Earliest).await;
        let (holder, holding) = case.hold("a").await;
        let lease = case.lease().await;
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Held(holding));
        assert_eq!(case.lease().await, lease);
        // Not after another owner had it.
        let (_, _) = case.hold("b").await;
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Contended);
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, EntryId::new(1, 0))).await, Committed::Fenced);
    }

    async fn of_many_contenders_one_gets_the_lease(case) {
        case.create(Start::Earliest).await;
        let contenders: Vec<_> = (0..10)
            .map(|n| {
                let broker = Arc::clone(&case.broker);
                let claim = claim(&format!("o{n}"), LeaseView::default());
                tokio::spawn(async move { broker.acquire(&risk(), &claim).await })
            })
            .collect();
        let mut held = 0;
        for contender in contenders {
            held += u32::from(matches!(contender.await.unwrap().unwrap(), Acquired::Held(_)));
        }
        assert_eq!(held, 1);
    }

    async fn epochs_rise(case) {
        case.create(Start::Earliest).await;
        let mut last = 0;
        for round in 0..5 {
            let (holder, _) = case.hold(&format!("o{round}")).await;
            assert!(holder.epoch > last);
            last = holder.epoch;
            if round % 2 == 0 {
                assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
                assert_eq!(case.lease().await.epoch, last, "a release keeps the epoch");
            }
        }
    }

    async fn a_lease_needs_a_token(case) {
        case.create(Start::Earliest).await;
        let claim = claim("", LeaseView::default());
        assert_eq!(case.broker.acquire(&risk(), &claim).await.unwrap_err().kind(), BrokerErrorKind::Refused);
    }

    async fn a_lease_of_a_group_without_a_state_is_missing(case) {
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Missing);
        case.mark();
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Missing);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_lease_on_a_stream_that_was_deleted_is_refused(case) {
        let last = case.append(2).await[1];
        case.create(Start::Latest).await;
        case.delete();
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Vanished { at: last });
        // Nor on a new stream of the same name.
        case.append(3).await;
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Vanished { at: last });
        assert_eq!(case.lease().await, LeaseView::default());
    }

    async fn a_lease_from_a_checkpoint_above_the_stream_is_refused(case) {
        let at = case.append(2).await[1];
        case.create(Start::Latest).await;
        case.delete();
        case.mark();
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Ahead { at, last: EntryId::ZERO });
        assert_eq!(case.lease().await, LeaseView::default());
    }

    async fn a_release_frees_the_lease_and_rings_the_bell(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let mut tail = case.broker.tail().await.unwrap();
        let bell = keys(&[("trades", EntryId::ZERO), (&partition().bell(), EntryId::ZERO)]);
        let risk = risk();
        let (rung, released) = tokio::join!(tail.next(&bell, 10, LONG), case.broker.release(&risk, &holder, None));
        assert!(released.unwrap());
        let Found { key: index, entries, .. } = &rung.unwrap()[0];
        assert_eq!((*index, entries[0].field("group")), (1, Some(b"risk".as_slice())));
        assert_eq!(case.lease().await, LeaseView { owner: String::new(), epoch: holder.epoch, beat: 0 });
        assert_eq!(case.checkpoint().await, EntryId::ZERO);
    }

    async fn only_its_holder_releases_a_lease(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        for other in [Holder { owner: "b".to_owned(), ..holder.clone() }, Holder { epoch: holder.epoch - 1, ..holder.clone() }] {
            assert!(!case.broker.release(&risk(), &other, None).await.unwrap());
        }
        assert!(!case.broker.release(&partition().group("none"), &holder, None).await.unwrap());
        assert_eq!(case.lease().await.owner, "a");
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert!(!case.broker.release(&risk(), &holder, None).await.unwrap());
        // Nobody is not a holder either.
        assert!(!case.broker.release(&risk(), &Holder { owner: String::new(), ..holder }, None).await.unwrap());
        let bell = case.broker.tail().await.unwrap().next(&keys(&[(&partition().bell(), EntryId::ZERO)]), 10, LONG).await;
        assert_eq!(bell.unwrap()[0].entries.len(), 1, "a bell that rings once for each release");
    }

    async fn a_bell_keeps_its_last_rings(case) {
        case.create(Start::Earliest).await;
        for round in 0..300 {
            let (holder, _) = case.hold(&format!("o{round}")).await;
            case.broker.release(&risk(), &holder, None).await.unwrap();
        }
        let mut tail = case.broker.tail().await.unwrap();
        let rings = tail.next(&keys(&[(&partition().bell(), EntryId::ZERO)]), 1000, LONG).await.unwrap();
        assert_eq!(rings[0].entries.len(), 256);
    }

    async fn renewals_tell_for_each_lease_whether_it_is_held(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let stranger = Holder { owner: "b".to_owned(), ..holder.clone() };
        let earlier = Holder { epoch: holder.epoch - 1, ..holder.clone() };
        let nobody = Holder { owner: String::new(), epoch: 0 };
        let mut renewer = case.broker.renewer().await.unwrap();
        let leases = [
            (risk(), stranger),
            (risk(), holder.clone()),
            (partition().group("none"), holder.clone()),
            (risk(), earlier),
            (risk(), holder.clone()),
            (risk(), nobody),
        ];
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Lost, HELD, Renewed::Lost, Renewed::Lost, HELD, Renewed::Lost]);
        assert_eq!(case.lease().await.beat, 2);
        assert!(renewer.renew(&[]).await.unwrap().is_empty());
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(renewer.renew(&[(risk(), holder)]).await.unwrap(), [Renewed::Lost]);
        assert_eq!(case.broker.state(&partition().group("none")).await.unwrap(), None);
    }

    // Commits.

    async fn a_commit_moves_the_checkpoint_and_renews(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let first = Commit { seen: Some(1), mirror: true, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&first).await, Committed::Done);
        assert_eq!((case.checkpoint().await, case.lease().await.beat), (all[0], 1));
        assert_eq!(case.commit(&step(&holder, all[0], all[1])).await, Committed::Done);
        let (_, holding) = case.hold("b").await;
        assert_eq!((holding.at, holding.seen), (all[1], None));
    }

    async fn a_commit_records_the_ordinal(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { seen: Some(1), ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        // One that only records attempts leaves it.
        assert_eq!(case.commit(&step(&holder, all[0], all[0])).await, Committed::Done);
        let (_, holding) = case.hold("b").await;
        assert_eq!((holding.at, holding.seen), (all[0], Some(1)));
    }

    async fn a_commit_whose_answer_was_lost_is_done_once(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { dead: vec![fields("bad")], seen: Some(1), ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        let after = case.broker.state(&risk()).await.unwrap();
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), after);
        assert_eq!(case.dead().await.len(), 1);
        // Late, after the next one, it changes nothing either.
        assert_eq!(case.commit(&step(&holder, all[0], all[1])).await, Committed::Done);
        assert_eq!(case.commit(&commit).await, Committed::Conflict { at: all[1] });
        assert_eq!((case.checkpoint().await, case.dead().await.len()), (all[1], 1));
    }

    async fn a_commit_by_anyone_but_the_holder_is_fenced(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (zombie, _) = case.hold("a").await;
        let (holder, _) = case.hold("b").await;
        let before = case.broker.state(&risk()).await.unwrap();
        for other in [
            zombie,
            Holder { owner: "b".to_owned(), epoch: holder.epoch + 1 },
            Holder { owner: "c".to_owned(), epoch: holder.epoch },
            Holder { owner: String::new(), epoch: 0 },
        ] {
            let commit = Commit {
                attempts: vec![(all[1], 1)],
                dead: vec![fields("bad")],
                ..step(&other, EntryId::ZERO, all[0])
            };
            assert_eq!(case.commit(&commit).await, Committed::Fenced, "{other:?}");
        }
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
        assert_eq!(case.dead().await, []);
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Fenced);
        assert_eq!(case.checkpoint().await, EntryId::ZERO);
        let (_, holding) = case.hold("d").await;
        assert_eq!(holding.attempts, []);
    }

    async fn a_commit_of_a_group_without_a_state_is_fenced(case) {
        let holder = Holder { owner: "a".to_owned(), epoch: 1 };
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, EntryId::new(1, 0))).await, Committed::Fenced);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_commit_from_another_checkpoint_conflicts(case) {
        let all = case.append(4).await;
        case.create(Start::At(all[2])).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { dead: vec![fields("bad")], ..step(&holder, all[0], all[3]) };
        assert_eq!(case.commit(&commit).await, Committed::Conflict { at: all[1] });
        assert_eq!((case.checkpoint().await, case.lease().await.beat), (all[1], 0));
        assert_eq!(case.dead().await, []);
    }

    // Events that may have ended their owner.

    async fn what_an_owner_that_is_gone_may_have_had_in_hand_is_to_be_proven(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        assert_eq!(case.prove("a", false, 7).await.1, None, "nobody was there before");
        let (holder, proving, crashes) = case.prove("b", false, 9).await;
        assert_eq!((proving, crashes), (Some(Proving { left: 7, to: all[2] }), vec![]), "by the bound of the one before");
        // It was gone in turn, by its own bound, and whatever came meanwhile may have been in its hand as well.
        let more = case.append(2).await;
        assert_eq!(case.prove("c", false, 5).await.1, Some(Proving { left: 9, to: more[1] }));
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Fenced);
        // What was left to prove before is not forgotten over a smaller one.
        let (holder, proving, _) = case.prove("d", false, 5).await;
        assert_eq!(proving, Some(Proving { left: 9, to: more[1] }));
        let two = Commit { proof: proof(&[], 6, &[]), ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&two).await, Committed::Done);
        // A commit that says nothing of it leaves it as it is, and so does a lease that is given back.
        assert_eq!(case.commit(&step(&holder, all[0], all[1])).await, Committed::Done);
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let (holder, proving, _) = case.prove("e", false, 5).await;
        assert_eq!(proving, Some(Proving { left: 6, to: more[1] }));
        let over = Commit { proof: proof(&[], 0, &[]), ..step(&holder, all[1], all[2]) };
        assert_eq!(case.commit(&over).await, Committed::Done);
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.prove("f", false, 5).await.1, None);
    }

    async fn an_owner_that_gave_back_that_had_nothing_or_that_is_the_same_leaves_nothing_to_prove(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, ..) = case.prove("a", false, 5).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.prove("b", false, 5).await.1, None);
        let (holder, proving, _) = case.prove("c", true, 5).await;
        assert_eq!(proving, None);
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[1])).await, Committed::Done);
        assert_eq!(case.prove("d", false, 5).await.1, None, "nothing stands above the checkpoint");
    }

    async fn a_charge_of_an_owner_that_is_gone_is_counted_once(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        case.prove("a", false, 5).await;
        for crashes in 0..3 {
            let (holder, _, counted) = case.prove(&format!("b{crashes}"), false, 5).await;
            assert_eq!(counted, (0..crashes.min(1)).map(|_| (all[0], crashes)).collect::<Vec<_>>());
            let charge = Commit { proof: proof(&[all[0]], 5, &[]), ..step(&holder, EntryId::ZERO, EntryId::ZERO) };
            assert_eq!(case.commit(&charge).await, Committed::Done);
            assert_eq!(case.commit(&charge).await, Committed::Done, "the same commit sent twice");
        }
        // The same claim sent twice counts one.
        let claim = claim("c", case.lease().await);
        for _ in 0..2 {
            match case.broker.acquire(&risk(), &claim).await.unwrap() {
                Acquired::Held(holding) => assert_eq!(holding.crashes, [(all[0], 3)]),
                other => panic!("not held: {other:?}"),
            }
        }
        // No charge stood.
        assert_eq!(case.prove("d", false, 5).await.2, [(all[0], 3)]);
    }

    async fn a_charge_is_gone_with_whoever_gives_back_finds_its_own_or_charges_another(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        case.prove("a", false, 5).await;
        let zero = EntryId::ZERO;
        let (holder, ..) = case.prove("b", false, 5).await;
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let (holder, _, crashes) = case.prove("c", false, 5).await;
        assert_eq!(crashes, []);
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        let (holder, _, crashes) = case.prove("d", true, 5).await;
        assert_eq!(crashes, []);
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        case.charge(&holder, zero, zero, &[], 5).await;
        let (holder, proving, crashes) = case.prove("e", false, 5).await;
        assert_eq!((proving, crashes), (Some(Proving { left: 5, to: all[2] }), vec![]));
        // One step passes an event and charges the next.
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        case.charge(&holder, zero, all[0], &[all[1]], 4).await;
        let (holder, proving, crashes) = case.prove("f", false, 5).await;
        assert_eq!((proving, crashes), (Some(Proving { left: 5, to: all[2] }), vec![(all[1], 1)]));
        // A dead letter goes with what is said of it, and its crashes are forgotten.
        let given_up = Commit { dead: vec![fields("bad")], proof: proof(&[], 3, &[all[1]]), ..step(&holder, all[0], all[1]) };
        assert_eq!(case.commit(&given_up).await, Committed::Done);
        assert_eq!(payloads(&case.dead().await), ["bad"]);
        let (_, proving, crashes) = case.prove("g", false, 5).await;
        assert_eq!((proving, crashes), (Some(Proving { left: 5, to: all[2] }), vec![]));
    }

    async fn several_events_are_charged_at_once_and_each_of_them_is_counted(case) {
        let all = case.append(5).await;
        case.create(Start::Earliest).await;
        case.prove("a", false, 5).await;
        let zero = EntryId::ZERO;
        let (holder, ..) = case.prove("b", false, 5).await;
        case.charge(&holder, zero, zero, &all[..3], 5).await;
        // One is settled, one has come back and is not, one still runs, and one begins.
        case.charge(&holder, zero, all[0], &[all[2], all[3]], 4).await;
        let (holder, _, mut crashes) = case.prove("c", false, 5).await;
        crashes.sort_unstable();
        assert_eq!(crashes, [(all[2], 1), (all[3], 1)]);
        case.charge(&holder, all[0], all[0], &[all[1], all[3]], 5).await;
        let (holder, _, mut crashes) = case.prove("d", false, 5).await;
        crashes.sort_unstable();
        assert_eq!(crashes, [(all[1], 1), (all[2], 1), (all[3], 2)]);
        case.charge(&holder, all[0], all[0], &all[1..5], 5).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let (_, _, mut crashes) = case.prove("e", false, 5).await;
        crashes.sort_unstable();
        assert_eq!(crashes, [(all[1], 1), (all[2], 1), (all[3], 2)], "whoever gives back is alive");
    }

    async fn a_commit_that_is_not_done_charges_nothing(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (zombie, ..) = case.prove("a", false, 5).await;
        let (holder, ..) = case.prove("b", false, 5).await;
        let commit = |holder, prev, next| Commit { proof: proof(&[all[0]], 2, &[]), ..step(holder, prev, next) };
        assert_eq!(case.commit(&commit(&zombie, EntryId::ZERO, EntryId::ZERO)).await, Committed::Fenced);
        let conflict = Committed::Conflict { at: EntryId::ZERO };
        assert_eq!(case.commit(&commit(&holder, all[0], all[1])).await, conflict);
        let bounds = DeadBounds { count: 0, age: Duration::MAX };
        let full = Commit { dead: vec![fields("x")], dead_bounds: bounds, ..commit(&holder, EntryId::ZERO, all[0]) };
        assert!(matches!(case.commit(&full).await, Committed::DeadLettersFull { .. }));
        let (_, proving, crashes) = case.prove("c", false, 5).await;
        assert_eq!((proving, crashes), (Some(Proving { left: 5, to: all[1] }), vec![]));
    }

    async fn a_reset_forgets_what_is_to_be_proven(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        case.prove("a", false, 5).await;
        let (holder, ..) = case.prove("b", false, 5).await;
        let charge = Commit { proof: proof(&[all[0]], 5, &[]), ..step(&holder, EntryId::ZERO, EntryId::ZERO) };
        assert_eq!(case.commit(&charge).await, Committed::Done);
        let (holder, ..) = case.prove("c", false, 5).await;
        let done = Reset::Done { at: EntryId::ZERO };
        assert_eq!(case.broker.reset(&risk(), Some(holder.epoch), Start::Earliest).await.unwrap(), done);
        let (_, proving, crashes) = case.prove("d", false, 5).await;
        assert_eq!((proving, crashes), (None, vec![]));
    }

    async fn a_commit_that_could_not_be_repeated_is_refused(case) {
        let all = case.append(2).await;
        case.create(Start::Latest).await;
        let (holder, _) = case.hold("a").await;
        let back = step(&holder, all[1], all[0]);
        let dead = Commit { dead: vec![fields("bad")], ..step(&holder, all[1], all[1]) };
        let empty = Commit { dead: vec![Vec::new()], ..step(&holder, all[1], all[1].next()) };
        for commit in [back, dead, empty] {
            let error = case.broker.commit(&risk(), &commit).await.unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::Refused);
        }
        assert_eq!((case.checkpoint().await, case.lease().await.beat), (all[1], 0));
        assert_eq!(case.dead().await, []);
    }

    async fn attempts_are_kept_until_they_are_forgotten_or_passed(case) {
        let all = case.append(5).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let record = Commit {
            attempts: vec![(all[0], 1), (all[2], 3), (all[1], 2), (all[4], 9)],
            ..step(&holder, EntryId::ZERO, EntryId::ZERO)
        };
        assert_eq!(case.commit(&record).await, Committed::Done);
        let (holder, holding) = case.hold("b").await;
        assert_eq!(holding.attempts, [(all[0], 1), (all[1], 2), (all[2], 3), (all[4], 9)]);

        let pass = Commit {
            attempts: vec![(all[2], 4)],
            forget: vec![all[4], all[3]],
            ..step(&holder, EntryId::ZERO, all[0])
        };
        assert_eq!(case.commit(&pass).await, Committed::Done);
        let (_, holding) = case.hold("c").await;
        assert_eq!(holding.attempts, [(all[1], 2), (all[2], 4)]);
    }

    async fn dead_letters_are_added_by_the_commit_that_passes_them(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { dead: vec![fields("x"), fields("y")], ..step(&holder, EntryId::ZERO, all[1]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(payloads(&case.dead().await), ["x", "y"]);
        assert_eq!(case.dead().await[0].fields, fields("x"));
        assert_eq!(case.checkpoint().await, all[1]);
        assert_eq!(case.broker.dead_letters(&partition().group("other"), EntryId::ZERO, 10).await.unwrap(), []);
    }

    async fn a_dead_letter_has_a_bound_of_fields(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let letter = |count: usize| (0..count).map(|n| (n.to_string().into_bytes(), Vec::new())).collect::<Fields>();
        let most = Commit { dead: vec![letter(3_900), letter(3_900)], ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&most).await, Committed::Done);
        assert_eq!(case.dead().await[1].fields, letter(3_900));
        let more = Commit { dead: vec![letter(3_901)], ..step(&holder, all[0], all[1]) };
        let error = case.broker.commit(&risk(), &more).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused);
        assert_eq!((case.checkpoint().await, case.dead().await.len()), (all[0], 2));
    }

    async fn dead_letters_have_a_bound_by_number(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let dead_bounds = DeadBounds { count: 2, ..NO_BOUNDS };
        let two = Commit { dead: vec![fields("x"); 2], dead_bounds, ..step(&holder, EntryId::ZERO, all[0]) };
        let three = Commit { dead: vec![fields("x"); 3], ..two.clone() };
        assert_eq!(case.commit(&three).await, Committed::DeadLettersFull { count: 0, oldest: None });
        assert_eq!(case.commit(&two).await, Committed::Done);
        let before = case.broker.state(&risk()).await.unwrap();
        let oldest = Some(case.dead().await[0].id);
        let one = Commit {
            dead: vec![fields("y")],
            attempts: vec![(all[2], 1)],
            dead_bounds,
            ..step(&holder, all[0], all[1])
        };
        assert_eq!(case.commit(&one).await, Committed::DeadLettersFull { count: 2, oldest });
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
        assert_eq!(case.dead().await.len(), 2);
        // The bound is for what is added: other commits go on, and so does this one after a discard.
        assert_eq!(case.commit(&Commit { dead: Vec::new(), ..one.clone() }).await, Committed::Done);
        assert_eq!(case.broker.discard(&risk(), &[case.dead().await[0].id]).await.unwrap(), 1);
        let last = Commit { prev: all[1], next: all[2], ..one };
        assert_eq!(case.commit(&last).await, Committed::Done);
    }

    async fn dead_letters_have_a_bound_by_age(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let dead_bounds = DeadBounds { age: Duration::ZERO, ..NO_BOUNDS };
        let first = Commit { dead: vec![fields("x")], dead_bounds, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&first).await, Committed::Done);
        let oldest = case.dead().await[0].id;
        case.after(oldest.ms).await;
        let second = Commit { dead: vec![fields("y")], dead_bounds, ..step(&holder, all[0], all[1]) };
        let full = Committed::DeadLettersFull { count: 1, oldest: Some(oldest) };
        assert_eq!(case.commit(&second).await, full);
        assert_eq!((case.checkpoint().await, case.dead().await.len()), (all[0], 1));
        let day = DeadBounds { age: Duration::from_secs(86_400), ..NO_BOUNDS };
        assert_eq!(case.commit(&Commit { dead_bounds: day, ..second }).await, Committed::Done);
    }

    async fn dead_letters_are_listed_and_discarded_page_by_page(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let letters = (0..5).map(|n| fields(&n.to_string())).collect();
        let commit = Commit { dead: letters, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        let page = async |after| case.broker.dead_letters(&risk(), after, 2).await.unwrap();
        let first = page(EntryId::ZERO).await;
        let second = page(first[1].id).await;
        let third = page(second[1].id).await;
        assert_eq!(payloads(&[first.clone(), second, third].concat()), ["0", "1", "2", "3", "4"]);

        let discarded = [first[1].id, EntryId::new(1, 1), first[1].id];
        assert_eq!(case.broker.discard(&risk(), &discarded).await.unwrap(), 1);
        assert_eq!(case.broker.discard(&risk(), &discarded).await.unwrap(), 0);
        assert_eq!(case.broker.discard(&risk(), &[]).await.unwrap(), 0);
        assert_eq!(case.broker.discard(&partition().group("other"), &discarded).await.unwrap(), 0);
        assert_eq!(payloads(&case.dead().await), ["0", "2", "3", "4"]);
    }

    // Builds of different age.

    async fn what_builds_declare_adds_up_to_the_highest_version_of_each_event(case) {
        let declare = async |declares: &[(&str, u32)]| {
            let change = Change { declares: events(declares), ..Change::default() };
            case.broker.declare_events(&risk(), &change).await.unwrap()
        };
        assert_eq!(declare(&[("A", 1)]).await, None, "there is no state");
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
        case.create(Start::Earliest).await;
        assert_eq!(case.state().await.events, Events::new());
        assert_eq!(declare(&[]).await, Some(Events::new()));
        assert_eq!(declare(&[("B.x-1", 2), ("A", 10)]).await, Some(events(&[("A", 10), ("B.x-1", 2)])));
        let all = events(&[("A", 10), ("AB", 1), ("B.x-1", 3)]);
        assert_eq!(declare(&[("A", 9), ("AB", 1), ("B.x-1", 3)]).await, Some(all.clone()));
        assert_eq!(case.state().await.events, all);
        let (_, holding) = case.hold("a").await;
        assert_eq!(holding.events, all);
    }

    async fn of_builds_that_declare_at_the_same_time_none_is_forgotten(case) {
        case.create(Start::Earliest).await;
        let builds: Vec<_> = (0..20)
            .map(|n| {
                let broker = Arc::clone(&case.broker);
                let change = Change { declares: events(&[(&format!("E{n}"), 1)]), ..Change::default() };
                tokio::spawn(async move { broker.declare_events(&risk(), &change).await.unwrap() })
            })
            .collect();
        for build in builds {
            build.await.unwrap();
        }
        assert_eq!(case.state().await.events.len(), 20);
    }

    async fn a_declared_event_is_forgotten_by_its_whole_name(case) {
        case.create(Start::Earliest).await;
        let declares = events(&[("A", 1), ("AB", 1), ("B", 1)]);
        let forgets = vec!["AB".to_owned(), "never there".to_owned()];
        let change = Change { declares, forgets, met: None };
        assert_eq!(case.broker.declare_events(&risk(), &change).await.unwrap(), Some(events(&[("A", 1), ("B", 1)])));
    }

    async fn a_lease_is_handed_over_with_what_the_next_owner_must_handle(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let (first, second) = (need("Shipped", 1, all[0]), need("Shipped", 2, all[1]));
        let other = Holder { owner: "b".to_owned(), ..holder.clone() };
        assert!(!case.broker.release(&risk(), &other, Some(&first)).await.unwrap());
        assert_eq!(case.state().await.needs, None);
        let mut tail = case.broker.tail().await.unwrap();
        assert!(case.broker.release(&risk(), &holder, Some(&first)).await.unwrap());
        let state = case.state().await;
        assert_eq!((state.lease.owner.as_str(), state.needs), ("", Some(first.clone())));
        assert_eq!(until_found(&mut *tail, &keys(&[(&partition().bell(), EntryId::ZERO)])).await.len(), 1);
        assert!(!case.broker.release(&risk(), &holder, Some(&second)).await.unwrap(), "it is not held any more");
        // It stays over an ownership and its end, until another one takes its place.
        let (holder, _) = case.hold("c").await;
        case.commit(&step(&holder, EntryId::ZERO, all[0])).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.state().await.needs, Some(first));
        let (holder, _) = case.hold("d").await;
        assert!(case.broker.release(&risk(), &holder, Some(&second)).await.unwrap());
        assert_eq!(case.state().await.needs, Some(second));
    }

    async fn what_was_needed_is_taken_away_only_where_it_is_this(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let needed = need("Shipped", 1, all[0]);
        assert!(case.broker.release(&risk(), &holder, Some(&needed)).await.unwrap());
        let met = async |met: Need| {
            let change = Change { met: Some(met), ..Change::default() };
            case.broker.declare_events(&risk(), &change).await.unwrap();
            case.state().await.needs
        };
        for other in [need("Shipped", 2, all[0]), need("Ship", 1, all[0]), need("Shipped", 1, all[0].next())] {
            assert_eq!(met(other).await, Some(needed.clone()));
        }
        assert_eq!(met(needed.clone()).await, None);
        assert_eq!(met(needed).await, None);
    }

    async fn a_commit_that_passes_over_what_was_declared_meanwhile_changes_nothing(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let passing = |names: &[&str], prev, next| Commit {
            passed_over: names.iter().map(|&name| name.to_owned()).collect(),
            attempts: vec![(all[2], 1)],
            dead: vec![fields("bad")],
            ..step(&holder, prev, next)
        };
        let first = passing(&["A", "AB"], EntryId::ZERO, all[0]);
        assert_eq!(case.commit(&first).await, Committed::Done);
        let declares = events(&[("AB", 1), ("Z", 1), ("XA", 1)]);
        case.broker.declare_events(&risk(), &Change { declares, ..Change::default() }).await.unwrap();
        // Sent again, because its answer was lost: it was done before anybody declared anything.
        assert_eq!(case.commit(&first).await, Committed::Done);
        let (lease, dead) = (case.lease().await, case.dead().await.len());
        let refused = case.commit(&passing(&["A", "AB", "Z"], all[0], all[1])).await;
        assert_eq!(refused, Committed::Declared { names: vec!["AB".to_owned(), "Z".to_owned()] });
        assert_eq!((case.checkpoint().await, case.lease().await, case.dead().await.len()), (all[0], lease, dead));
        assert_eq!(case.commit(&passing(&["A", "B", "X"], all[0], all[1])).await, Committed::Done);
        let fenced = Commit { holder: Holder { owner: "b".to_owned(), epoch: 1 }, ..passing(&["AB"], all[1], all[2]) };
        assert_eq!(case.commit(&fenced).await, Committed::Fenced);
    }

    async fn a_commit_with_a_name_that_no_event_has_is_refused(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        for name in ["", "two words", "A@1"] {
            let commit = Commit { passed_over: vec![name.to_owned()], ..step(&holder, EntryId::ZERO, all[0]) };
            let error = case.broker.commit(&risk(), &commit).await.unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::Refused, "{name}");
        }
        assert_eq!(case.checkpoint().await, EntryId::ZERO);
    }

    async fn a_reset_keeps_what_is_declared_and_forgets_what_is_needed(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let declares = events(&[("A", 2)]);
        case.broker.declare_events(&risk(), &Change { declares: declares.clone(), ..Change::default() }).await.unwrap();
        let (holder, _) = case.hold("a").await;
        assert!(case.broker.release(&risk(), &holder, Some(&need("A", 3, all[0]))).await.unwrap());
        let epoch = case.lease().await.epoch;
        assert!(matches!(case.broker.reset(&risk(), Some(epoch), Start::Latest).await.unwrap(), Reset::Done { .. }));
        assert_eq!((case.state().await.events, case.state().await.needs), (declares, None));
    }

    async fn a_commit_that_shows_its_position_finds_that_the_stream_is_gone(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        case.delete();
        let shown = Commit { mirror: true, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&shown).await, Committed::Vanished);
        assert_eq!(case.checkpoint().await, all[0]);
        // A stream of the same name has no marker of ours.
        case.append(1).await;
        let shown = Commit { mirror: true, ..step(&holder, all[0], all[1]) };
        assert_eq!(case.commit(&shown).await, Committed::Vanished);
        assert_eq!(case.checkpoint().await, all[1]);
    }

    async fn what_every_group_has_settled_is_the_smallest_checkpoint(case) {
        let consumed = async || case.broker.consumed(&partition()).await.unwrap();
        assert_eq!(consumed().await, None, "no stream");
        let all = case.append(4).await;
        assert_eq!(consumed().await, None, "no group");
        case.create(Start::Latest).await;
        let expected = |at, slowest: &str| Some(Consumed { at, slowest: slowest.to_owned() });
        assert_eq!(consumed().await, expected(all[3], "risk"));
        let other = partition().group("audit");
        case.broker.create(&other, Start::At(all[1])).await.unwrap();
        assert_eq!(consumed().await, expected(all[0], "audit"), "also of a group that nobody runs");
        let claim = claim("a", LeaseView::default());
        let Acquired::Held(Holding { epoch, .. }) = case.broker.acquire(&other, &claim).await.unwrap() else {
            panic!("not held");
        };
        let holder = Holder { owner: "a".to_owned(), epoch };
        case.broker.commit(&other, &step(&holder, all[0], all[2])).await.unwrap();
        assert_eq!(consumed().await, expected(all[2], "audit"));
        case.broker.create(&partition().group("new"), Start::Earliest).await.unwrap();
        assert_eq!(consumed().await, expected(EntryId::ZERO, "new"));
        // A group dies with its stream, and its checkpoint holds nothing of the next one.
        case.delete();
        case.append(1).await;
        assert_eq!(consumed().await, None);
    }

    async fn the_position_of_somebody_elses_group_is_not_known(case) {
        case.append(2).await;
        case.broker.create(&partition().group("audit"), Start::Latest).await.unwrap();
        case.mark();
        assert_eq!(case.broker.consumed(&partition()).await.unwrap(), None);
    }

    async fn groups_and_partitions_do_not_know_each_other(case) {
        let stream = StreamKey::new(None, "orders", 2);
        let groups = [stream.partition(0).group("a"), stream.partition(1).group("a"), stream.partition(0).group("b")];
        for group in &groups {
            assert_eq!(case.broker.create(group, Start::Earliest).await.unwrap(), Created::Made);
        }
        let claim = claim("x", LeaseView::default());
        assert!(matches!(case.broker.acquire(&groups[0], &claim).await.unwrap(), Acquired::Held(_)));
        for group in &groups[1..] {
            assert_eq!(case.broker.state(group).await.unwrap().unwrap().lease, LeaseView::default());
        }
    }

    // Dead letters that are handled again.

    async fn letters_move_to_the_replays_in_the_order_of_the_call_and_never_twice(case) {
        let (holder, letters) = case.letters(3).await;
        let gone = EntryId::new(1, 1);
        let asked = [letters[2], gone, letters[0]];
        let moved = case.broker.replay(&risk(), &asked, 10).await.unwrap();
        assert_eq!(moved, Moved::Done(vec![letters[2], letters[0]]));
        assert_eq!(case.broker.replay(&risk(), &asked, 10).await.unwrap(), Moved::Done(vec![]));
        assert_eq!(ids(&case.dead().await), [letters[1]]);
        let waiting = case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap();
        let of = |waiting: &[Arc<Entry>]| {
            let letter = |entry: &Arc<Entry>| String::from_utf8(entry.field("letter").unwrap().to_vec()).unwrap();
            waiting.iter().map(letter).collect::<Vec<_>>()
        };
        assert_eq!(of(&waiting), [letters[2].to_string(), letters[0].to_string()]);
        assert_eq!(payloads(&waiting), ["2", "0"]);
        assert_eq!(waiting[0].fields.len(), fields("").len() + 1);
        // Nothing of the lease or the checkpoint has changed.
        assert_eq!(case.lease().await.epoch, holder.epoch);
    }

    async fn no_more_replays_wait_than_may(case) {
        let (_, letters) = case.letters(3).await;
        assert_eq!(case.broker.replay(&risk(), &letters[..2], 2).await.unwrap(), Moved::Done(letters[..2].to_vec()));
        assert_eq!(case.broker.replay(&risk(), &letters[2..], 2).await.unwrap(), Moved::Full { waiting: 2 });
        assert_eq!(case.dead().await.len(), 1);
    }

    async fn without_a_state_nothing_is_replayed_or_resumed(case) {
        assert_eq!(case.broker.replay(&risk(), &[EntryId::new(1, 1)], 10).await.unwrap(), Moved::Missing);
        assert!(!case.broker.resume(&risk()).await.unwrap());
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
        assert_eq!(case.broker.take_replay(&risk(), &Holder { owner: "a".into(), epoch: 1 }).await.unwrap(), Taken::Fenced);
    }

    async fn a_renewal_says_whether_letters_wait(case) {
        let (holder, letters) = case.letters(1).await;
        let mut renewer = case.broker.renewer().await.unwrap();
        let leases = [(risk(), holder.clone())];
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: false }]);
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: true }]);
        // Also when the checkpoint is moved by hand.
        let Reset::Done { .. } = case.broker.reset(&risk(), Some(holder.epoch), Start::Earliest).await.unwrap() else { panic!() };
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Lost]);
        let (holder, _) = case.hold("next").await;
        let leases = [(risk(), holder.clone())];
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: true }]);
        let letter = case.take(&holder).await;
        assert!(case.broker.end_replay(&risk(), &holder, letter.letter.id, &ReplayEnd::Done).await.unwrap());
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: false }]);
        assert_eq!(case.broker.take_replay(&risk(), &holder).await.unwrap(), Taken::Nothing);
    }

    async fn a_replay_is_the_first_until_it_ends_and_its_attempts_are_kept(case) {
        let (holder, letters) = case.letters(2).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        let first = case.take(&holder).await;
        assert_eq!((first.attempts, first.crashes, payloads(&[Arc::clone(&first.letter)])), (0, 0, vec!["0".to_owned()]));
        // The same again: the answer was lost.
        assert_eq!(case.take(&holder).await, first);
        let id = first.letter.id;
        for _ in 0..2 {
            assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Again { attempts: 1 }).await.unwrap());
        }
        assert_eq!(case.take(&holder).await, Replay { attempts: 1, ..first });
        for _ in 0..2 {
            assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Done).await.unwrap());
        }
        let second = case.take(&holder).await;
        assert_eq!((second.attempts, payloads(&[Arc::clone(&second.letter)])), (0, vec!["1".to_owned()]));
        assert_eq!(case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap().len(), 1);
        assert!(case.dead().await.is_empty());
    }

    async fn attempts_at_a_replay_only_grow(case) {
        let (holder, letters) = case.letters(1).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        let id = case.take(&holder).await.letter.id;
        for attempts in [1, 2, 1] {
            let end = ReplayEnd::Again { attempts };
            assert!(case.broker.end_replay(&risk(), &holder, id, &end).await.unwrap());
        }
        assert_eq!(case.take(&holder).await.attempts, 2);
    }

    async fn a_replay_goes_back_to_the_dead_letters_once_and_whatever_is_there(case) {
        let (holder, letters) = case.letters(3).await;
        case.broker.replay(&risk(), &letters[..1], 10).await.unwrap();
        let first = case.take(&holder).await;
        for _ in 0..2 {
            let end = ReplayEnd::Dead(fields("again"));
            assert!(case.broker.end_replay(&risk(), &holder, first.letter.id, &end).await.unwrap());
        }
        assert_eq!(payloads(&case.dead().await), ["1", "2", "again"]);
        assert!(case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap().is_empty());
        assert_eq!(case.broker.take_replay(&risk(), &holder).await.unwrap(), Taken::Nothing);
    }

    async fn who_takes_a_replay_that_is_charged_to_another_epoch_finds_a_crash(case) {
        let (mut holder, letters) = case.letters(2).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        for crashes in 0..3 {
            assert_eq!(case.take(&holder).await.crashes, crashes);
            // Whoever has it is gone; the next one takes over.
            holder = case.hold(&format!("owner-{crashes}")).await.0;
        }
        let taken = case.take(&holder).await;
        assert_eq!(taken.crashes, 3);
        // An attempt that came to its end is no crash, and those before are not forgotten.
        let id = taken.letter.id;
        assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Again { attempts: 1 }).await.unwrap());
        holder = case.hold("after").await.0;
        let taken = case.take(&holder).await;
        assert_eq!((taken.crashes, taken.attempts), (3, 1));
        // The next letter begins with none.
        assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Done).await.unwrap());
        assert_eq!(case.take(&holder).await.crashes, 0);
    }

    async fn only_the_owner_takes_and_ends_replays(case) {
        let (old, letters) = case.letters(1).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        let letter = case.take(&old).await.letter;
        let (new, _) = case.hold("new").await;
        assert_eq!(case.broker.take_replay(&risk(), &old).await.unwrap(), Taken::Fenced);
        for end in [ReplayEnd::Done, ReplayEnd::Again { attempts: 9 }, ReplayEnd::Dead(fields("x"))] {
            assert!(!case.broker.end_replay(&risk(), &old, letter.id, &end).await.unwrap());
        }
        assert_eq!(case.take(&new).await.attempts, 0);
        assert!(case.dead().await.is_empty());
        let end = ReplayEnd::Dead(vec![(b"f".to_vec(), Vec::new()); 4_000]);
        let error = case.broker.end_replay(&risk(), &new, letter.id, &end).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused);
    }

    async fn a_resume_tells_and_changes_nothing_else(case) {
        let (holder, _) = case.letters(1).await;
        let before = case.broker.state(&risk()).await.unwrap().unwrap();
        for times in 1..=2 {
            assert!(case.broker.resume(&risk()).await.unwrap());
            let state = case.broker.state(&risk()).await.unwrap().unwrap();
            assert_eq!(state, GroupState { resume: times, ..before.clone() });
        }
        assert_eq!(before.lease.epoch, holder.epoch);
    }

    // Adoption.

    async fn a_group_without_a_state_is_adopted_where_it_is(case) {
        case.append(2).await;
        let last = case.extent().await.last;
        case.mark();
        case.append(1).await;
        assert_eq!(case.broker.create(&risk(), Start::Latest).await.unwrap(), Created::Foreign);
        let adoption = Adoption { at: last, delivered: last, pending: 0, oldest: None };
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Done(adoption));
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Exists);
        let (holder, holding) = case.hold("a").await;
        assert_eq!(holding.at, last);
        assert_eq!(case.commit(&step(&holder, last, last.next())).await, Committed::Done);
    }

    async fn what_is_not_there_is_not_adopted(case) {
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Missing);
        case.append(1).await;
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Missing);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }
}

/// The first entries that a tail finds, however often it turns before.
pub(crate) async fn until_found(tail: &mut dyn Tail, keys: &[(String, EntryId)]) -> Vec<Arc<Entry>> {
    loop {
        if let Some(found) = tail.next(keys, 10, LONG).await.unwrap().into_iter().next() {
            return found.entries;
        }
    }
}
