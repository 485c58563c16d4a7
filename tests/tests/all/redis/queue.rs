//! Work queues as only a server has them: their keys, memory that ends, and keys of another type. An operator deletes, empties
//! or restores the waiting set.

use std::collections::BTreeMap;
use std::time::Duration;

use streams_core::broker::{
    Acked, Acks, Adopted, Adoption, BrokerErrorKind, Change, Chunk, Consumed, Created, Cursor, Damage, Events, Fetch,
    Fetched, Holder, Item, Joined, Judged, Left, Life, Lost, New, Pass, QueueState, Range, Reclaimed, Reset, Until,
    Wait,
};
use streams_core::keys::GroupKey;
use streams_core::{EntryId, Start};
use streams_tests::RedisServer;

use crate::contract::queue::{DEAD, fresh};
use crate::contract::{Case, HELD, LEASE, LONG, NO_BOUNDS, events, fields, partition};
use crate::redis::connection::says;

fn work() -> GroupKey {
    partition().group("work").queue()
}

const STATE: &str = "streams:{trades}:work";
const WAITING: &str = "streams:{trades}:work:waiting";

/// A case on a server, and a plain client that does by hand what others do.
struct Site {
    case: Case,
    url: String,
}

/// A consumer with the numbers of its calls.
#[derive(Clone)]
struct Worker {
    holder: Holder,
    fetches: u64,
    acks: u64,
}

impl Worker {
    fn fetch(&mut self, count: usize) -> Fetch {
        self.fetches += 1;
        Fetch {
            holder: self.holder.clone(),
            call: self.fetches,
            count,
            bytes: usize::MAX,
            new: New::Read { judged: None },
            takes: Events::new(),
            most_waiting: 10_000,
            longest_wait: Duration::from_secs(3600),
            mirror: true,
            go_on: false,
        }
    }

    fn acks(&mut self) -> Acks {
        self.acks += 1;
        Acks {
            holder: self.holder.clone(),
            call: self.acks,
            chunks: Vec::new(),
            back: Vec::new(),
            error: None,
            dead: Vec::new(),
            dead_bounds: NO_BOUNDS,
            passed_over: Vec::new(),
        }
    }
}

fn back(id: EntryId, after: Duration) -> Wait {
    Wait { id, failed: 1, crashes: 0, until: Until::After(after) }
}

fn needs(id: EntryId, version: u32) -> Wait {
    Wait { id, failed: 0, crashes: 0, until: Until::Needs { name: "Trade".to_owned(), version } }
}

/// Ids of what was given out again, and of what is new.
fn ids_of(chunk: &Chunk) -> (Vec<EntryId>, Vec<EntryId>) {
    (chunk.again.iter().map(|again| again.entry.id).collect(), chunk.new.iter().map(|entry| entry.id).collect())
}

impl Site {
    fn new() -> Self {
        Self::at(RedisServer::shared().database())
    }

    fn at(url: String) -> Self {
        Self { case: Case::at(url.clone()), url }
    }

    /// Runs a command, in words.
    fn run<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cmd.query(&mut RedisServer::client(&self.url)).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    async fn queue(&self, count: usize) -> Vec<EntryId> {
        let all = self.case.append(count).await;
        assert_eq!(self.case.broker.create(&work(), Start::Earliest).await.unwrap(), Created::Made);
        all
    }

    async fn join(&self, owner: &str) -> Worker {
        let Joined::Member { epoch } = self.case.broker.join(&work(), owner, LEASE).await.unwrap() else { panic!() };
        Worker { holder: Holder { owner: owner.to_owned(), epoch }, fetches: 0, acks: 0 }
    }

    async fn fetch(&self, fetch: &Fetch) -> Fetched {
        self.case.broker.fetch(&work(), fetch).await.unwrap()
    }

    async fn chunk(&self, fetch: &Fetch) -> Chunk {
        match self.fetch(fetch).await {
            Fetched::Chunk(chunk) => chunk,
            other => panic!("{other:?}"),
        }
    }

    async fn ack(&self, acks: &Acks) -> Acked {
        self.case.broker.ack(&work(), acks).await.unwrap()
    }

    async fn look(&self) -> QueueState {
        self.case.broker.queue(&work()).await.unwrap().unwrap()
    }

    /// Fetches all new entries and lets them wait: the first for a time, the second for a build. The others may run at once.
    async fn wait(&self, worker: &mut Worker, all: &[EntryId]) {
        let fetch = worker.fetch(all.len());
        assert_eq!(ids_of(&self.chunk(&fetch).await).1, all);
        let mut acks = worker.acks();
        acks.chunks = vec![(fetch.call, Left::default())];
        acks.back = vec![back(all[0], LONG), needs(all[1], 2)];
        acks.back.extend(all[2..].iter().map(|id| back(*id, Duration::ZERO)));
        assert_eq!(self.ack(&acks).await, Acked::Done);
    }

    fn state(&self) -> BTreeMap<String, String> {
        self.run(&format!("HGETALL {STATE}"))
    }

    fn waiting(&self) -> BTreeMap<String, f64> {
        self.run::<Vec<(String, f64)>>(&format!("ZRANGE {WAITING} 0 -1 WITHSCORES")).into_iter().collect()
    }

    fn everything(&self) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
        (self.state(), self.waiting())
    }

    fn life(&self, owner: &str) -> Life {
        let says = &self.state()[&format!("consumer:{owner}")];
        let numbers: Vec<u64> = says.split(' ').filter_map(|number| number.parse().ok()).collect();
        match numbers[..] {
            [epoch, beat, lease, _, _] => Life::Beats { epoch, beat, lease_for: Duration::from_millis(lease) },
            _ => DEAD,
        }
    }

    fn dump(&self) -> Vec<u8> {
        self.run(&format!("DUMP {WAITING}"))
    }

    fn restore(&self, dump: &[u8]) {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(WAITING).arg(0).arg(dump).arg("REPLACE");
        restore.exec(&mut RedisServer::client(&self.url)).unwrap();
    }

    /// `last-delivered-id`, `pending`, `entries-read` and `lag` of the server's own group.
    fn shown(&self) -> (String, u64, Option<u64>, Option<u64>) {
        let groups: Vec<BTreeMap<String, redis::Value>> = self.run("XINFO GROUPS trades");
        let field = |name: &str| groups[0][name].clone();
        let number = |name: &str| redis::from_redis_value(field(name)).unwrap();
        (
            redis::from_redis_value(field("last-delivered-id")).unwrap(),
            redis::from_redis_value(field("pending")).unwrap(),
            number("entries-read"),
            number("lag"),
        )
    }
}

fn texts<const N: usize>(fields: [(&str, String); N]) -> BTreeMap<String, String> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

const TWO_52: f64 = 4_503_599_627_370_496.0;

#[expect(clippy::cast_precision_loss, reason = "milliseconds are far below 2^53")]
fn by_id(id: EntryId) -> (String, f64) {
    (id.to_string(), -TWO_52 + id.ms as f64)
}

// The keys on the server.

#[tokio::test]
async fn the_record_of_a_small_history_is_as_documented() {
    let site = Site::new();
    let case = &site.case;
    let all = site.queue(6).await;
    let (mut a, b) = (site.join("a/1").await, site.join("b/2").await);
    let expected = |a: &str, at: EntryId, seen: u64| {
        texts([
            ("at", at.to_string()),
            ("at_event", String::new()),
            ("beat", "0".to_owned()),
            ("consumer:a/1", a.to_owned()),
            ("consumer:b/2", format!("{} 1 30000 0 0", b.holder.epoch)),
            ("epoch", b.holder.epoch.to_string()),
            ("lease", "0".to_owned()),
            ("mode", "queue".to_owned()),
            ("owner", String::new()),
            ("seen", seen.to_string()),
        ])
    };
    let epoch = a.holder.epoch;
    assert_eq!(site.state(), expected(&format!("{epoch} 1 30000 0 0"), EntryId::ZERO, 0));

    // Two chunks.
    let (first, second) = (a.fetch(4), a.fetch(1));
    assert_eq!(ids_of(&site.chunk(&first).await).1, all[..4]);
    assert_eq!(ids_of(&site.chunk(&second).await).1, all[4..5]);
    let [one, two] = [1, 2].map(|call| format!("chunk:{epoch}.{call}"));
    let mut state = expected(&format!("{epoch} 3 30000 2 0"), all[4], 5);
    state.insert(one.clone(), format!("4 {} {} -", all[0].previous(), all[3]));
    state.insert(two.clone(), format!("1 {} {} -", all[4].previous(), all[4]));
    assert_eq!(site.everything(), (state.clone(), BTreeMap::new()));

    // Two entries of the first chunk are still in flight, and none of the second.
    let mut acks = a.acks();
    let range = Range { after: EntryId::ZERO, to: all[3], number: 1, except: vec![all[0], all[1], all[3]] };
    let item = Item { id: all[1], failed: 2, crashes: 1, charged: true };
    acks.chunks = vec![(1, Left { range: Some(range), again: vec![item] }), (2, Left::default())];
    acks.back = vec![back(all[0], LONG), needs(all[3], 2)];
    let before = case.broker.now().await.unwrap();
    assert_eq!(site.ack(&acks).await, Acked::Done);
    let after = case.broker.now().await.unwrap();
    state.remove(&two);
    let except = format!("{},{},{}", all[0], all[1], all[3]);
    state.insert(one, format!("1 0-0 {} {except} {}:2:1:1", all[3], all[1]));
    state.insert("consumer:a/1".to_owned(), format!("{epoch} 4 30000 2 1"));
    state.insert("waits".to_owned(), "1 2".to_owned());
    state.insert("needed".to_owned(), "Trade@2=0".to_owned());
    assert_eq!(site.state(), state);
    let mut waiting = site.waiting();
    let due = waiting.remove(&format!("{} 1 0", all[0])).unwrap();
    let long = LONG.as_millis() as u64;
    assert!(((before + long) as f64..=(after + long) as f64).contains(&due), "{due}");
    let stamp = |stamp: f64| ("stamp".to_owned(), -2.0 * TWO_52 + stamp);
    let need = (format!("{} 0 0 Trade@2", all[3]), TWO_52);
    assert_eq!(waiting, BTreeMap::from([by_id(all[0]), by_id(all[3]), need, stamp(1.0)]));

    let words =
        include_str!("../../../../docs/wire-format.md").split("### A group in queue delivery\n").nth(1).unwrap();
    let words = words.split("\n### ").next().unwrap();
    for field in state.keys().map(String::as_str).chain(["lost", "lost:<epoch>", "told", "dead"]) {
        let field = match field.split_once(':') {
            Some(("consumer", _)) => "consumer:<token>",
            Some(("chunk", _)) => "chunk:<epoch>.<fetch>",
            _ => field,
        };
        assert!(words.contains(&format!("`{field}`")), "docs/wire-format.md does not tell of `{field}`");
    }

    // Sent again it changes nothing.
    assert_eq!(site.ack(&acks).await, Acked::Done);
    assert_eq!(site.state(), state);

    // Waiting entries are given out again, and the waiting set is gone when the last one is settled.
    let mut third = a.fetch(9);
    third.takes = events(&[("Trade", 2)]);
    third.longest_wait = Duration::ZERO;
    let chunk = site.chunk(&third).await;
    assert_eq!(ids_of(&chunk), (vec![all[3], all[0]], all[5..].to_vec()));
    assert_eq!((chunk.number, chunk.at, chunk.waiting, chunk.due), (1, all[5], 0, None));
    state.extend(texts([
        ("at", all[5].to_string()),
        ("seen", "6".to_owned()),
        ("consumer:a/1", format!("{epoch} 5 30000 3 1")),
        ("waits", "2 0".to_owned()),
        ("needed", String::new()),
    ]));
    let text = format!("1 {} {} - {}:0:0:1 {}:1:0:1", all[5].previous(), all[5], all[3], all[0]);
    state.insert(format!("chunk:{epoch}.3"), text);
    assert_eq!(site.everything(), (state.clone(), BTreeMap::new()));
    assert_eq!(site.run::<u64>(&format!("EXISTS {WAITING}")), 0);
    assert_eq!(site.chunk(&third).await, chunk, "sent again it answers the same");
    assert_eq!(site.state()["consumer:a/1"], format!("{epoch} 6 30000 3 1"));

    // A chunk that would be empty is not written.
    let before = site.state();
    let empty = a.fetch(9);
    assert_eq!(ids_of(&site.chunk(&empty).await), (vec![], vec![]));
    let mut state = before;
    state.insert("consumer:a/1".to_owned(), format!("{epoch} 7 30000 4 1"));
    assert_eq!(site.state(), state);

    // Found dead, some at a time.
    let life = site.life("a/1");
    assert_eq!(case.broker.reclaim(&work(), "a/1", &life, 1).await.unwrap(), crate::contract::queue::some(1));
    state.insert("consumer:a/1".to_owned(), format!("dead {epoch}"));
    state.insert(format!("chunk:{epoch}.1"), format!("1 0-0 {} {except}", all[3]));
    state.insert("waits".to_owned(), "3 1".to_owned());
    assert_eq!(site.state(), state);
    assert_eq!(site.waiting(), BTreeMap::from([by_id(all[1]), (format!("{} 2 2", all[1]), 0.0), stamp(3.0)]));
    let look = site.look().await;
    assert_eq!((look.consumers[0].life.clone(), look.consumers[0].in_flight), (DEAD, 4));
    assert_eq!(case.broker.reclaim(&work(), "a/1", &DEAD, 9).await.unwrap(), crate::contract::queue::all_of(4));
    let left: Vec<_> = site.state().into_keys().filter(|field| field.starts_with('c')).collect();
    assert_eq!(left, ["consumer:b/2"]);
    let expected = [
        by_id(all[0]),
        by_id(all[1]),
        by_id(all[2]),
        by_id(all[3]),
        by_id(all[5]),
        (format!("{} 1 1", all[0]), 0.0),
        (format!("{} 2 2", all[1]), 0.0),
        (format!("{} 0 1", all[2]), 0.0),
        (format!("{} 0 1", all[3]), 0.0),
        (format!("{} 0 1", all[5]), 0.0),
        stamp(4.0),
    ];
    assert_eq!(site.waiting(), BTreeMap::from(expected));
}

#[tokio::test]
async fn a_range_is_reclaimed_page_by_page_without_what_is_settled() {
    let site = Site::new();
    let all = site.queue(450).await;
    let (mut a, mut b) = (site.join("a").await, site.join("b").await);
    let fetch = a.fetch(400);
    assert_eq!(site.chunk(&fetch).await.number, 400);
    let mut acks = a.acks();
    let except: Vec<_> = all[..400].iter().copied().filter(|id| id.seq % 3 == 0).collect();
    let number = 400 - except.len() as u64;
    let range = Range { after: EntryId::ZERO, to: all[399], number, except: except.clone() };
    acks.chunks = vec![(1, Left { range: Some(range), again: vec![] })];
    assert_eq!(site.ack(&acks).await, Acked::Done);
    let mut given = 0;
    let mut life = site.life("a");
    loop {
        match site.case.broker.reclaim(&work(), "a", &life, 70).await.unwrap() {
            Reclaimed::Some { entries: some, .. } => given += some,
            Reclaimed::All { entries: rest } => break given += rest,
            other => panic!("{other:?}"),
        }
        life = DEAD;
        let look = site.look().await;
        assert_eq!((look.waiting, look.consumers[0].in_flight, look.damage), (given, number - given, None));
    }
    assert_eq!(given, number);
    let chunk = site.chunk(&b.fetch(1000)).await;
    let (mut again, new) = ids_of(&chunk);
    again.sort_unstable();
    let expected: Vec<_> = all[..400].iter().copied().filter(|id| !except.contains(id)).collect();
    assert_eq!((again, new), (expected, all[400..].to_vec()));
    assert!(chunk.again.iter().all(|again| (again.failed, again.crashes) == (0, 1)));
}

#[tokio::test]
async fn more_chunks_than_a_command_takes_are_acknowledged_and_reclaimed() {
    let site = Site::new();
    let many = 9_000;
    let all = site.queue(1).await;
    // An entry is in one place only, whatever is recorded.
    let give = |worker: &Worker| {
        let mut set = redis::cmd("HSET");
        set.arg(STATE);
        for call in 1..=many {
            set.arg(format!("chunk:{}.{call}", worker.holder.epoch)).arg(format!("0 - - - {}:0:0:1", all[0]));
        }
        set.exec(&mut RedisServer::client(&site.url)).unwrap();
    };
    let mut a = site.join("a").await;
    give(&a);
    let again = vec![Item { id: all[0], failed: 1, crashes: 0, charged: true }];
    for left in [Left { range: None, again }, Left::default()] {
        let mut acks = a.acks();
        acks.chunks = (1..=many).map(|call| (call, left.clone())).collect();
        assert_eq!(site.ack(&acks).await, Acked::Done);
        assert_eq!(site.look().await.unsettled(), many * left.again.len() as u64);
    }
    let mut unknown = a.acks();
    unknown.chunks = (1..=many).map(|call| (call, Left::default())).collect();
    assert_eq!(site.ack(&unknown).await, Acked::Fenced);
    for last in ["reclaimed", "left"] {
        let b = site.join("b").await;
        give(&b);
        match last {
            "left" => assert!(site.case.broker.release(&work(), &b.holder, None).await.unwrap()),
            _ => {
                let reclaimed = site.case.broker.reclaim(&work(), "b", &site.life("b"), 100_000).await.unwrap();
                assert_eq!(reclaimed, crate::contract::queue::all_of(many));
            }
        }
        let look = site.look().await;
        assert_eq!((look.waiting, look.consumers.len(), look.damage), (1, 1, None), "{last}");
    }
}

#[tokio::test]
async fn who_leaves_gives_back_what_is_left_as_if_it_had_died() {
    let site = Site::new();
    let all = site.queue(3).await;
    let (mut a, mut b) = (site.join("a").await, site.join("b").await);
    site.chunk(&a.fetch(2)).await;
    assert!(site.case.broker.release(&work(), &a.holder, None).await.unwrap());
    assert!(!site.case.broker.release(&work(), &a.holder, None).await.unwrap());
    let look = site.look().await;
    assert_eq!((look.waiting, look.consumers.len(), look.damage), (2, 1, None));
    assert_eq!(site.run::<u64>("XLEN streams:{trades}:_bell"), 1);
    let chunk = site.chunk(&b.fetch(9)).await;
    assert_eq!(ids_of(&chunk), (all[..2].to_vec(), all[2..].to_vec()));
    assert_eq!(chunk.again.iter().map(|again| again.crashes).collect::<Vec<_>>(), [1, 1]);
    assert!(site.state()[&format!("chunk:{}.1", b.holder.epoch)].ends_with(&format!(" {}:0:1:0", all[1])));
    assert_eq!(site.fetch(&a.clone().fetch(1)).await, Fetched::Fenced);
    assert_eq!(site.ack(&a.acks()).await, Acked::Fenced);
}

#[tokio::test]
async fn a_lost_reply_is_sent_again_without_what_is_gone() {
    let site = Site::new();
    let all = site.queue(5).await;
    let mut a = site.join("a").await;
    let first = a.fetch(3);
    assert_eq!(ids_of(&site.chunk(&first).await).1, all[..3]);
    site.case.remove(&all[1..2]);
    assert_eq!(ids_of(&site.chunk(&first).await).1, [all[0], all[2]]);
    assert_eq!(site.look().await.consumers[0].in_flight, 2);
    site.chunk(&a.fetch(1)).await;
    // Held back by a network.
    let before = site.everything();
    assert_eq!(ids_of(&site.chunk(&first).await).1, [all[0], all[2]]);
    assert_eq!(site.everything(), before);
    // And one whose chunk is ended.
    let mut acks = a.acks();
    acks.chunks = vec![(1, Left::default())];
    site.ack(&acks).await;
    let before = site.everything();
    assert_eq!(ids_of(&site.chunk(&first).await), (vec![], vec![]));
    assert_eq!(site.everything(), before);
}

#[tokio::test]
async fn entries_of_one_millisecond_are_found_passed_by_a_trim_one_by_one() {
    let site = Site::new();
    for seq in 8..=12 {
        site.run::<String>(&format!("XADD trades 7-{seq} event Trade@1"));
    }
    site.queue(0).await;
    let all: Vec<_> = (8..=12).map(|seq| EntryId::new(7, seq)).collect();
    let mut a = site.join("a").await;
    site.wait(&mut a, &all).await;
    site.case.cut(EntryId::new(7, 10));
    let mut fetch = a.fetch(1);
    fetch.go_on = true;
    let chunk = site.chunk(&fetch).await;
    let lost = Lost { deleted: false, from: EntryId::new(7, 7), to: EntryId::new(7, 9), count: 2 };
    assert_eq!((ids_of(&chunk).0, chunk.lost, chunk.waiting), (vec![all[2]], Some(lost), 2));
    assert_eq!(site.state()["needed"], "");
    assert_eq!(site.look().await.damage, None);
    // One that was deleted is found when its turn comes, and halts who does not go on.
    site.case.remove(&all[3..4]);
    let lost = Lost { deleted: true, from: EntryId::new(7, 10), to: all[3], count: 1 };
    assert_eq!(site.fetch(&a.clone().fetch(9)).await, Fetched::Lost { lost, found: true });
    assert_eq!(site.state()["lost"], "1 7-10 7-11 1");
    assert_eq!(site.fetch(&a.clone().fetch(9)).await, Fetched::Lost { lost, found: false });
    assert!(site.case.broker.resume(&work()).await.unwrap());
    assert_eq!(ids_of(&site.chunk(&a.fetch(9)).await).0, all[4..]);
}

#[tokio::test]
async fn the_cursor_is_sure_only_by_its_entry_or_by_who_has_looked() {
    let site = Site::new();
    let add = |id: &str, event: &str| site.run::<String>(&format!("XADD trades {id} event Trade@1 id {event}"));
    for n in 1..=4 {
        add(&format!("{n}-1"), &format!("t-{n}"));
    }
    site.queue(0).await;
    let mut a = site.join("a").await;
    let id = |ms| EntryId::new(ms, 1);
    assert_eq!(ids_of(&site.chunk(&a.fetch(1)).await).1, [id(1)]);
    assert_eq!(site.state()["at_event"], "t-1");
    site.case.remove(&[id(1)]);
    let before = site.everything();
    let cursor = Cursor { at: id(1), at_event: "t-1".to_owned(), seen: Some(1) };
    assert_eq!(site.fetch(&a.clone().fetch(1)).await, Fetched::Unsure(cursor.clone()));
    assert_eq!(site.everything(), before);
    let mut judged = a.fetch(1);
    judged.new = New::Read { judged: Some(Judged { at: id(1), next: id(3) }) };
    assert_eq!(site.fetch(&judged).await, Fetched::Unsure(cursor.clone()), "another one stands there");
    judged.new = New::Read { judged: Some(Judged { at: id(1), next: id(2) }) };
    assert_eq!(ids_of(&site.chunk(&judged).await).1, [id(2)]);
    // The cursor is moved once.
    let from = Cursor { at: id(2), at_event: "t-2".to_owned(), seen: Some(2) };
    let to = Cursor { at: id(3), at_event: "t-3".to_owned(), seen: Some(3) };
    let lost = Lost { deleted: true, from: id(2), to: id(3), count: 1 };
    let pass = Pass { from, to, halts: Some(lost) };
    assert!(site.case.broker.pass(&work(), &fresh(), &pass).await.unwrap());
    assert!(!site.case.broker.pass(&work(), &fresh(), &pass).await.unwrap());
    assert_eq!(site.fetch(&a.clone().fetch(1)).await, Fetched::Lost { lost, found: false });
    assert!(site.case.broker.resume(&work()).await.unwrap());
    // Another event under the same id.
    site.run::<u64>("DEL trades");
    let at = Cursor { at: id(3), at_event: "t-3".to_owned(), seen: Some(3) };
    assert_eq!(site.fetch(&a.clone().fetch(1)).await, Fetched::Unsure(at.clone()), "there is no entry at all");
    add("3-1", "x");
    assert_eq!(ids_of(&site.chunk(&a.fetch(1)).await).1, [], "there is none behind it");
    add("4-1", "y");
    assert_eq!(site.fetch(&a.clone().fetch(1)).await, Fetched::Unsure(at));
}

#[tokio::test]
async fn the_beginning_of_a_stream_is_sure_as_long_as_it_was_never_trimmed() {
    let site = Site::new();
    let all = site.queue(3).await;
    let mut a = site.join("a").await;
    site.case.cut(all[1]);
    let cursor = Cursor { at: EntryId::ZERO, at_event: String::new(), seen: Some(0) };
    assert_eq!(site.fetch(&a.clone().fetch(9)).await, Fetched::Unsure(cursor));
    let mut judged = a.fetch(9);
    judged.new = New::Read { judged: Some(Judged { at: EntryId::ZERO, next: all[1] }) };
    assert_eq!(ids_of(&site.chunk(&judged).await).1, all[1..]);
}

#[tokio::test]
async fn what_the_caller_has_read_is_given_out_unseen() {
    let site = Site::new();
    let all = site.queue(4).await;
    let mut a = site.join("a").await;
    let known = |from, to, number| New::Known { from, to, to_event: "t".to_owned(), number };
    let mut fetch = a.fetch(9);
    fetch.new = known(EntryId::ZERO, all[1], 2);
    let chunk = site.chunk(&fetch).await;
    assert_eq!((ids_of(&chunk).1, chunk.number, chunk.at), (vec![], 2, all[1]));
    assert_eq!((&*site.state()["at_event"], &*site.state()["seen"]), ("t", "2"));
    assert_eq!(site.chunk(&fetch).await, chunk, "sent again");
    let mut late = a.fetch(9);
    late.new = known(EntryId::ZERO, all[1], 2);
    let chunk = site.chunk(&late).await;
    assert_eq!((chunk.number, chunk.at), (0, all[1]));
    assert_eq!(site.look().await.unsettled(), 2);
}

// A waiting set that is not the one of the record.

#[tokio::test]
async fn a_waiting_set_that_somebody_has_replaced_is_found_by_every_call_and_mended_once() {
    for how in ["deleted", "emptied", "restored", "cut"] {
        let site = Site::new();
        let broker = &site.case.broker;
        let all = site.queue(8).await;
        let mut a = site.join("a").await;
        site.wait(&mut a, &all[..5]).await;
        let old = site.dump();
        let fetch = a.fetch(4);
        assert_eq!(ids_of(&site.chunk(&fetch).await), (all[2..5].to_vec(), all[5..6].to_vec()));
        let found = match how {
            "deleted" => site.run::<u64>(&format!("DEL {WAITING}")) - 1,
            "emptied" => site.run::<u64>(&format!("ZREMRANGEBYRANK {WAITING} 0 -1")) - 5,
            "restored" => {
                site.restore(&old);
                5
            }
            _ => site.run::<u64>(&format!("ZREM {WAITING} {}", all[1])),
        };
        let damage = Damage { recorded: 2, found };
        let before = site.everything();
        assert_eq!(site.fetch(&a.clone().fetch(9)).await, Fetched::Damaged(damage), "{how}");
        let mut acks = a.clone().acks();
        acks.chunks = vec![(fetch.call, Left::default())];
        acks.back = vec![back(all[2], Duration::ZERO)];
        assert_eq!(site.ack(&acks).await, Acked::Damaged(damage), "{how}");
        let life = site.life("a");
        let reclaimed = broker.reclaim(&work(), "a", &life, 9).await.unwrap();
        assert_eq!(reclaimed, Reclaimed::Damaged(damage), "{how}");
        assert!(!broker.release(&work(), &a.holder, None).await.unwrap(), "{how}");
        let look = site.look().await;
        assert_eq!((look.damage, look.waiting), (Some(damage), 2), "{how}");
        assert_eq!(site.everything(), before, "{how}");
        // An ack that lets nothing wait does not touch the set.
        let mut ended = a.acks();
        ended.chunks = vec![(fetch.call, Left { range: None, again: vec![] })];
        assert_eq!(site.ack(&ended).await, Acked::Done, "{how}");

        assert!(!broker.mend(&work(), &fresh(), &Damage { recorded: 3, found }, None).await.unwrap());
        assert!(!broker.mend(&work(), &fresh(), &Damage { recorded: 2, found: 9 }, None).await.unwrap());
        assert!(broker.mend(&work(), &fresh(), &damage, None).await.unwrap(), "{how}");
        assert!(!broker.mend(&work(), &fresh(), &damage, None).await.unwrap(), "{how}");
        let look = site.look().await;
        assert_eq!((look.damage, look.waiting), (None, found), "{how}");
        let mut fetch = a.fetch(9);
        fetch.takes = events(&[("Trade", 9)]);
        let (again, new) = ids_of(&site.chunk(&fetch).await);
        let expected = match how {
            "restored" => vec![all[1], all[2], all[3], all[4]],
            _ => vec![],
        };
        assert_eq!((again, new), (expected, all[6..].to_vec()), "{how}");
        assert_eq!(site.look().await.waiting, u64::from(how == "restored" || how == "cut"), "{how}");
        assert_eq!(site.look().await.damage, None, "{how}");
    }
}

#[tokio::test]
async fn a_mended_set_is_recorded_as_a_loss_where_the_caller_says_so() {
    let site = Site::new();
    let all = site.queue(3).await;
    let mut a = site.join("a").await;
    site.wait(&mut a, &all).await;
    site.run::<u64>(&format!("DEL {WAITING}"));
    let lost = Lost { deleted: true, from: EntryId::ZERO, to: all[2], count: 3 };
    let damage = Damage { recorded: 3, found: 0 };
    assert!(site.case.broker.mend(&work(), &fresh(), &damage, Some(&lost)).await.unwrap());
    assert_eq!(site.fetch(&a.clone().fetch(1)).await, Fetched::Lost { lost, found: false });
    assert_eq!((&*site.state()["waits"], &*site.state()["needed"]), ("2 0", ""));
}

#[tokio::test]
async fn a_set_that_is_there_although_nothing_waits_is_found_when_something_is_to_wait() {
    let site = Site::new();
    let all = site.queue(4).await;
    let mut a = site.join("a").await;
    site.wait(&mut a, &all[..3]).await;
    let old = site.dump();
    let mut fetch = a.fetch(9);
    fetch.takes = events(&[("Trade", 2)]);
    fetch.longest_wait = Duration::ZERO;
    assert_eq!(ids_of(&site.chunk(&fetch).await).0.len(), 3);
    site.restore(&old);
    let damage = Damage { recorded: 0, found: 3 };
    assert_eq!(site.look().await.damage, Some(damage));
    let mut acks = a.acks();
    acks.chunks = vec![(fetch.call, Left::default())];
    acks.back = vec![back(all[0], Duration::ZERO)];
    assert_eq!(site.ack(&acks).await, Acked::Damaged(damage));
    assert!(site.case.broker.mend(&work(), &fresh(), &damage, None).await.unwrap());
    // One that waits already is not there twice.
    assert_eq!(site.ack(&acks).await, Acked::Done);
    let look = site.look().await;
    assert_eq!((look.waiting, look.damage), (3, None));
}

#[tokio::test]
async fn keys_of_another_type_are_named_and_nothing_is_changed() {
    for (key, at) in [("waiting", WAITING), ("dead", "streams:{trades}:work:dead"), ("bell", "streams:{trades}:_bell")]
    {
        let site = Site::new();
        let broker = &site.case.broker;
        let all = site.queue(4).await;
        let mut a = site.join("a").await;
        site.wait(&mut a, &all[..3]).await;
        let fetch = a.fetch(1);
        site.chunk(&fetch).await;
        site.run::<()>(&format!("SET {at} x"));
        let before = site.state();
        let mut errors = Vec::new();
        let mut acks = a.acks();
        acks.chunks = vec![(fetch.call, Left::default())];
        match key {
            "dead" => acks.dead = vec![fields("x")],
            _ => acks.back = vec![back(all[2], Duration::ZERO)],
        }
        errors.push(broker.ack(&work(), &acks).await.unwrap_err());
        if key != "dead" {
            errors.push(broker.reclaim(&work(), "a", &site.life("a"), 9).await.unwrap_err());
            errors.push(broker.release(&work(), &a.holder, None).await.unwrap_err());
        }
        if key == "waiting" {
            errors.push(broker.fetch(&work(), &a.fetch(1)).await.unwrap_err());
            errors.push(broker.queue(&work()).await.unwrap_err());
            let damage = Damage { recorded: 2, found: 0 };
            errors.push(broker.mend(&work(), &fresh(), &damage, None).await.unwrap_err());
        }
        for error in errors {
            says(&error, BrokerErrorKind::Refused, &[&format!("`{at}`"), "holds a string"]);
            assert!(!error.is_indefinite());
        }
        assert_eq!(site.state(), before, "{key}");
    }
    // The stream and the state.
    let site = Site::new();
    let all = site.queue(2).await;
    let mut a = site.join("a").await;
    site.chunk(&a.fetch(1)).await;
    site.run::<()>("SET trades x");
    let error = site.case.broker.fetch(&work(), &a.fetch(1)).await.unwrap_err();
    says(&error, BrokerErrorKind::Refused, &["`trades`", "holds a string"]);
    site.run::<()>(&format!("SET {STATE} x"));
    let mut acks = a.acks();
    acks.back = vec![back(all[0], Duration::ZERO)];
    for error in [
        site.case.broker.fetch(&work(), &a.fetch(1)).await.unwrap_err(),
        site.case.broker.ack(&work(), &acks).await.unwrap_err(),
    ] {
        says(&error, BrokerErrorKind::Refused, &[&format!("`{STATE}`"), "holds a string"]);
    }
}

#[tokio::test]
async fn a_state_that_is_damaged_is_named() {
    for (field, value) in [("at", "nought"), ("seen", "nought"), ("epoch", "nought"), ("waits", "nought")] {
        let site = Site::new();
        site.queue(1).await;
        let mut a = site.join("a").await;
        site.run::<()>(&format!("HSET {STATE} {field} {value}"));
        let error = match field {
            "epoch" => site.case.broker.join(&work(), "b", LEASE).await.unwrap_err(),
            _ => site.case.broker.fetch(&work(), &a.fetch(1)).await.unwrap_err(),
        };
        says(&error, BrokerErrorKind::Refused, &[&format!("`{STATE}`"), "not complete"]);
    }
}

// Servers that refuse.

#[tokio::test]
async fn a_full_server_stops_dead_letters_and_nothing_else() {
    let server = RedisServer::start();
    let site = Site::at(server.url());
    let broker = &site.case.broker;
    let all = site.queue(8).await;
    let mut old = site.join("old").await;
    site.chunk(&old.fetch(1)).await;
    server.run::<()>("CONFIG SET maxmemory 1");

    let mut a = site.join("a").await;
    let fetch = a.fetch(6);
    assert_eq!(site.chunk(&fetch).await.number, 6);
    let mut acks = a.acks();
    acks.chunks = vec![(fetch.call, Left::default())];
    acks.dead = vec![fields("x")];
    acks.back = vec![back(all[1], Duration::ZERO)];
    let error = broker.ack(&work(), &acks).await.unwrap_err();
    says(&error, BrokerErrorKind::Full, &[STATE, "OOM"]);
    acks.dead.clear();
    acks.back.push(needs(all[2], 2));
    assert_eq!(site.ack(&acks).await, Acked::Done);
    let life = site.life("old");
    assert_eq!(broker.reclaim(&work(), "old", &life, 9).await.unwrap(), crate::contract::queue::all_of(1));
    let mut renewer = broker.renewer().await.unwrap();
    assert_eq!(renewer.renew(&[(work(), a.holder.clone())]).await.unwrap(), [HELD]);
    assert!(site.state()["consumer:a"].ends_with(" 4 30000 1 1"), "{:?}", site.state());
    let declares = events(&[("Trade", 1)]);
    assert!(broker.declare_events(&work(), &Change { declares, ..Change::default() }).await.unwrap().is_some());
    let chunk = site.chunk(&a.fetch(9)).await;
    assert_eq!(ids_of(&chunk), (vec![all[0], all[1]], all[7..].to_vec()));
    site.run::<u64>(&format!("DEL {WAITING}"));
    assert!(broker.mend(&work(), &fresh(), &Damage { recorded: 1, found: 0 }, None).await.unwrap());
    let cursor = site.look().await.cursor;
    assert!(broker.pass(&work(), &fresh(), &Pass { from: cursor.clone(), to: cursor, halts: None }).await.unwrap());
    assert!(broker.resume(&work()).await.unwrap());
    assert!(broker.release(&work(), &a.holder, None).await.unwrap());
    assert_eq!(site.look().await.waiting, 3);
}

#[tokio::test]
async fn a_server_that_refuses_writes_still_shows_a_work_queue() {
    let server = RedisServer::start();
    let site = Site::at(server.url());
    let all = site.queue(4).await;
    let mut a = site.join("a").await;
    site.wait(&mut a, &all[..3]).await;
    let before = QueueState { due: None, ..site.look().await };
    for refuse in ["CONFIG SET min-replicas-to-write 1", "REPLICAOF 127.0.0.1 1"] {
        server.run::<()>(refuse);
        assert_eq!(QueueState { due: None, ..site.look().await }, before, "{refuse}");
        let error = site.case.broker.fetch(&work(), &a.fetch(1)).await.unwrap_err();
        says(&error, BrokerErrorKind::Unavailable, &[STATE]);
        assert!(!error.is_indefinite());
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_makes_nothing_wait_longer_than_it_may() {
    let site = Site::new();
    let all = site.queue(2).await;
    let mut a = site.join("a").await;
    let fetch = a.fetch(1);
    site.chunk(&fetch).await;
    let mut acks = a.acks();
    acks.chunks = vec![(fetch.call, Left::default())];
    acks.back = vec![back(all[0], Duration::from_secs(1))];
    site.ack(&acks).await;
    let mut chunk = site.chunk(&a.fetch(0)).await;
    assert!(chunk.due.take().is_some_and(|due| due <= Duration::from_secs(1)));
    // The clock was two hours ahead when that was written.
    let mut add = redis::cmd("ZINCRBY");
    add.arg(WAITING).arg(7_200_000).arg(format!("{} 1 0", all[0]));
    add.exec(&mut RedisServer::client(&site.url)).unwrap();
    assert_eq!(ids_of(&site.chunk(&a.fetch(9)).await), (all[..1].to_vec(), all[1..].to_vec()));
}

// Others on the same group, and what is left of ours.

#[tokio::test]
async fn a_group_that_others_read_is_adopted_with_what_they_have_pending() {
    let site = Site::new();
    let broker = &site.case.broker;
    let all = site.case.append(1205).await;
    site.run::<()>("XGROUP CREATE trades work 0");
    site.run::<redis::Value>("XREADGROUP GROUP work python COUNT 1200 STREAMS trades >");
    site.run::<u64>(&format!("XACK trades work {}", all[1]));
    let adopted = broker.adopt(&work(), LONG).await.unwrap();
    assert!(matches!(&adopted, Adopted::InUse { consumers } if consumers[0].0 == "python"), "{adopted:?}");
    let adoption = Adoption { at: all[1199], delivered: all[1199], pending: 1199, oldest: Some(all[0]) };
    let pending = || site.run::<redis::Value>("XPENDING trades work");
    let before = pending();
    assert_eq!(broker.adopt(&work(), Duration::ZERO).await.unwrap(), Adopted::Done(adoption));
    assert_eq!(pending(), before, "there is a way back");
    assert_eq!(site.state()["waits"], "1 1199");
    let look = site.look().await;
    assert_eq!((look.waiting, look.due, look.damage), (1199, Some(Duration::ZERO), None));
    assert!(look.settled() < all[0]);
    let mut a = site.join("a").await;
    let chunk = site.chunk(&a.fetch(2000)).await;
    let (mut again, new) = ids_of(&chunk);
    again.sort_unstable();
    let expected: Vec<_> = all[..1200].iter().copied().filter(|id| *id != all[1]).collect();
    assert_eq!((again, new), (expected, all[1200..].to_vec()));
    assert!(chunk.again.iter().all(|again| (again.failed, again.crashes) == (0, 0)));
}

#[tokio::test]
async fn a_queue_whose_state_was_deleted_is_not_adopted_while_something_waits() {
    let site = Site::new();
    let all = site.queue(4).await;
    let mut a = site.join("a").await;
    site.wait(&mut a, &all[..3]).await;
    site.run::<u64>(&format!("DEL {STATE}"));
    let waiting = site.waiting();
    let error = site.case.broker.adopt(&work(), Duration::ZERO).await.unwrap_err();
    says(&error, BrokerErrorKind::Refused, &[STATE, WAITING, "streams remove"]);
    assert_eq!((site.waiting(), site.run::<u64>(&format!("EXISTS {STATE}"))), (waiting, 0));
    // An operator who gives the waiting set up goes on where the group is.
    site.run::<u64>(&format!("DEL {WAITING}"));
    let adopted = site.case.broker.adopt(&work(), Duration::ZERO).await.unwrap();
    assert!(matches!(adopted, Adopted::Done(Adoption { at, .. }) if at == all[2]), "{adopted:?}");
}

#[tokio::test]
async fn what_an_earlier_queue_of_the_name_has_left_is_nothing_to_a_new_one() {
    let site = Site::new();
    let all = site.queue(4).await;
    let mut a = site.join("a").await;
    site.wait(&mut a, &all).await;
    site.run::<u64>("XGROUP DESTROY trades work");
    site.run::<u64>(&format!("DEL {STATE}"));
    assert_eq!(site.case.broker.create(&work(), Start::Earliest).await.unwrap(), Created::Made);
    let look = site.look().await;
    assert_eq!((look.waiting, look.damage), (0, None));
    let mut b = site.join("b").await;
    assert_eq!(ids_of(&site.chunk(&b.fetch(9)).await), (vec![], all));
}

#[tokio::test]
async fn a_reset_leaves_no_chunk_no_consumer_and_nothing_that_waits() {
    let site = Site::new();
    let all = site.queue(6).await;
    let mut a = site.join("a").await;
    site.wait(&mut a, &all[..3]).await;
    let old = site.dump();
    site.chunk(&a.fetch(4)).await;
    let epoch = a.holder.epoch;
    let reset = site.case.broker.reset(&work(), Some(epoch), Start::At(all[1])).await.unwrap();
    assert_eq!(reset, Reset::Done { at: all[0] });
    let state = site.state();
    assert!(!state.keys().any(|field| field.starts_with("chunk:") || field.starts_with("consumer:")), "{state:?}");
    assert_eq!((&*state["mode"], &*state["waits"]), ("queue", "3 0"));
    assert_eq!(site.run::<u64>(&format!("EXISTS {WAITING}")), 0);
    assert_eq!(site.fetch(&a.clone().fetch(1)).await, Fetched::Fenced);
    let mut b = site.join("b").await;
    assert_eq!(ids_of(&site.chunk(&b.fetch(9)).await).1, all[1..]);
    site.restore(&old);
    assert_eq!(site.look().await.damage, Some(Damage { recorded: 0, found: 3 }));
}

#[tokio::test]
async fn the_servers_own_group_shows_how_far_a_work_queue_is() {
    let site = Site::new();
    let all = site.queue(4).await;
    let mut a = site.join("a").await;
    site.chunk(&a.fetch(3)).await;
    assert_eq!(site.shown(), (all[2].to_string(), 0, Some(3), Some(1)));
    let mut hidden = a.fetch(1);
    hidden.mirror = false;
    site.chunk(&hidden).await;
    assert_eq!(site.shown(), (all[2].to_string(), 0, Some(3), Some(1)));
    // A marker that is gone does not keep the entries from being given out.
    let more = site.case.append(1).await;
    site.run::<u64>("XGROUP DESTROY trades work");
    assert_eq!(ids_of(&site.chunk(&a.fetch(1)).await).1, more);
}

#[tokio::test]
async fn what_is_in_flight_or_waits_is_not_consumed() {
    let site = Site::new();
    let broker = &site.case.broker;
    for ms in 1..=6 {
        site.run::<String>(&format!("XADD trades {ms}-1 event Trade@1"));
    }
    site.queue(0).await;
    let all: Vec<_> = (1..=6).map(|ms| EntryId::new(ms, 1)).collect();
    let mut a = site.join("a").await;
    let consumed = || async { broker.consumed(&partition()).await.unwrap() };
    let at = |at| Some(Consumed { at, slowest: "work".to_owned() });
    assert_eq!(consumed().await, at(EntryId::ZERO));
    let (first, second) = (a.fetch(2), a.fetch(2));
    site.chunk(&first).await;
    site.chunk(&second).await;
    assert_eq!(consumed().await, at(all[0].previous()));
    let mut acks = a.acks();
    acks.chunks = vec![(1, Left::default())];
    site.ack(&acks).await;
    assert_eq!(consumed().await, at(all[2].previous()));
    let mut acks = a.acks();
    acks.chunks =
        vec![(2, Left { range: None, again: vec![Item { id: all[3], failed: 1, crashes: 0, charged: true }] })];
    acks.back = vec![back(all[2], LONG)];
    site.ack(&acks).await;
    assert_eq!(consumed().await, at(EntryId::new(3, 0).previous()));
    let mut fetch = a.fetch(1);
    fetch.longest_wait = Duration::ZERO;
    site.chunk(&fetch).await;
    let mut acks = a.acks();
    acks.chunks = vec![(3, Left::default())];
    site.ack(&acks).await;
    assert_eq!(consumed().await, at(all[3].previous()));
    let mut acks = a.acks();
    acks.chunks = vec![(2, Left::default())];
    site.ack(&acks).await;
    assert_eq!(consumed().await, at(all[3]));
    assert_eq!(site.look().await.settled(), all[3]);
}
