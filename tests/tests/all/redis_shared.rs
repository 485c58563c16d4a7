//! Shared delivery where only a server has it: others who read, claim and acknowledge by hand, memory that ends, a clock that
//! jumps, keys of another type.

use std::collections::BTreeMap;
use std::time::Duration;

use streams_core::broker::{
    Adopted, Adoption, Become, BrokerErrorKind, Change, Created, Freed, Hand, Joined, Life, Lost, Moved, Reset,
    Settled, Take, Took,
};
use streams_core::{EntryId, Start};
use streams_tests::RedisServer;

use crate::contract::{Case, HELD, LEASE, LONG, events, fields, partition};
use crate::contract_shared::{counts, crew, entry_ids, settle, take};
use crate::redis::says;

/// A case on a server, and a plain client that does by hand what others do.
struct Site {
    case: Case,
    url: String,
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

    /// Reads new entries with XREADGROUP, as a program of another kind does.
    fn reads(&self, consumer: &str, count: usize) {
        self.run::<redis::Value>(&format!("XREADGROUP GROUP crew {consumer} COUNT {count} STREAMS trades >"));
    }

    fn state(&self) -> BTreeMap<String, String> {
        self.run("HGETALL streams:{trades}:crew")
    }

    /// Who has which entry in the server's list, and how often it was delivered.
    fn pending(&self) -> Vec<(String, String, u64)> {
        let rows: Vec<(String, String, u64, u64)> = self.run("XPENDING trades crew - + 1000");
        rows.into_iter().map(|(id, consumer, _, times)| (id, consumer, times)).collect()
    }

    /// How long a consumer that never joined has been silent.
    async fn silence(&self, name: &str) -> Duration {
        match self.case.life(name).await {
            Life::Foreign { silent } => silent,
            other => panic!("{other:?}"),
        }
    }
}

// What stands on the server.

#[tokio::test]
async fn a_shared_state_has_the_fields_that_are_documented() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(4).await;
    let (a, b) = (case.join("a/1").await, case.join("b/2").await);
    assert_eq!(case.takes(&a, 3).await, all[..3]);
    let again = Become::Again { failed: 2, after: LONG };
    let needs = Become::Needs { name: "Trade".to_owned(), version: 12, crashes: 0 };
    let before = case.broker.now().await.unwrap();
    case.settle(&a, [(all[0], again), (all[1], needs)]).await;
    let declares = events(&[("Trade", 1)]);
    case.broker.declare_events(&crew(), &Change { declares, ..Change::default() }).await.unwrap();

    let lives = |epoch, beat| format!("{epoch} {beat} 30000");
    let expected = [
        ("at", all[2].to_string()),
        ("at_event", String::new()),
        ("beat", "0".to_owned()),
        ("consumer:a/1", lives(a.epoch, 2)),
        ("consumer:b/2", lives(b.epoch, 1)),
        ("epoch", b.epoch.to_string()),
        ("events", "Trade@1".to_owned()),
        ("lease", "0".to_owned()),
        ("mode", "shared".to_owned()),
        ("owner", String::new()),
        ("seen", "3".to_owned()),
    ];
    assert_eq!(site.state(), expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    let words = include_str!("../../../docs/wire-format.md").split("### A group in shared delivery\n").nth(1).unwrap();
    let words = words.split("\n### ").next().unwrap();
    for field in site.state().into_keys().chain(["lost", "_free", "dead"].map(str::to_owned)) {
        let field = if field.starts_with("consumer:") { "consumer:<token>".to_owned() } else { field };
        assert!(words.contains(&format!("`{field}`")), "docs/wire-format.md does not tell of `{field}`");
    }
    // What nobody has in hand is pending under a name of its own, and stands in one of two sets.
    let [first, second, third] = [0, 1, 2].map(|n: usize| all[n].to_string());
    let row = |id: &String, consumer: &str, times| (id.clone(), consumer.to_owned(), times);
    assert_eq!(site.pending(), [row(&first, "_free", 1), row(&second, "_free", 0), row(&third, "a/1", 1)]);
    let waiting: Vec<(String, u64)> = site.run("ZRANGE streams:{trades}:crew:waiting 0 -1 WITHSCORES");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].0, first);
    assert!((before + 60_000..before + 70_000).contains(&waiting[0].1), "{waiting:?}");
    let needs: Vec<(String, u64)> = site.run("ZRANGE streams:{trades}:crew:needs 0 -1 WITHSCORES");
    assert_eq!(needs, [(format!("Trade@0000000012 {second}"), 0)]);
    let failed: BTreeMap<String, String> = site.run("HGETALL streams:{trades}:crew:failed");
    assert_eq!(failed, BTreeMap::from([(first, "2".to_owned())]));
    // What is done leaves nothing behind.
    case.settle(&a, [(all[2], Become::Done)]).await;
    let impatient = Take { longest_wait: Duration::ZERO, takes: events(&[("Trade", 12)]), ..take(&a, 2) };
    assert_eq!(case.haul(&impatient).await.entries.len(), 2);
    case.settle(&a, [(all[0], Become::Done), (all[1], Become::Done)]).await;
    for key in ["waiting", "needs", "failed"] {
        assert_eq!(site.run::<u64>(&format!("EXISTS streams:{{trades}}:crew:{key}")), 0, "{key}");
    }
}

#[tokio::test]
async fn the_event_at_the_cursor_tells_another_history() {
    let site = Site::new();
    let add =
        |id: &str, event: &str| site.run::<String>(&format!("XADD trades {id} event Trade@1 id {event} id second"));
    add("1-1", "t-1");
    add("2-1", "t-2");
    site.case.shared(0).await;
    let a = site.case.join("a").await;
    assert_eq!(site.case.takes(&a, 1).await, [EntryId::new(1, 1)]);
    assert_eq!(site.state()["at_event"], "t-1", "the first of a field counts");
    assert_eq!(site.case.takes(&a, 1).await, [EntryId::new(2, 1)]);
    // As after a failover to a replica that lagged.
    let groups: String = site.run("XGROUP DESTROY trades crew");
    assert_eq!(groups, "1");
    site.run::<()>("DEL trades");
    add("1-1", "t-1");
    add("2-1", "t-3");
    site.run::<()>("XGROUP CREATE trades crew 2-1");
    assert_eq!(site.case.took(&take(&a, 9)).await, Took::Changed { at: EntryId::new(2, 1) });
    // What is no valid event id is no witness.
    let long = "x".repeat(129);
    add("3-1", &long);
    let epoch = site.case.broker.state(&crew()).await.unwrap().unwrap().lease.epoch;
    site.case.broker.reset(&crew(), Some(epoch), Start::At(EntryId::new(3, 1))).await.unwrap();
    let b = site.case.join("b").await;
    assert_eq!(site.case.takes(&b, 1).await, [EntryId::new(3, 1)]);
    assert_eq!(site.state()["at_event"], "");
    assert_eq!(site.case.takes(&b, 1).await, []);
}

#[tokio::test]
async fn keys_of_a_shared_group_of_another_type_are_named_and_nothing_is_changed() {
    for wrong in ["crew:waiting", "crew:needs", "crew:failed", "crew:dead", "_bell"] {
        let site = Site::new();
        let case = &site.case;
        let all = case.shared(3).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        let key = format!("streams:{{trades}}:{wrong}");
        site.run::<()>(&format!("SET {key} x"));
        let before = (site.state(), site.pending());
        let mut errors = Vec::new();
        if !["crew:dead", "_bell"].contains(&wrong) {
            errors.push(case.broker.take(&crew(), &take(&a, 9)).await.unwrap_err());
        }
        errors.push(case.broker.settle(&crew(), &settle(&a, [(all[0], Become::Done)])).await.unwrap_err());
        if ["crew:waiting", "_bell"].contains(&wrong) {
            errors.push(case.broker.free(&crew(), "a", &life_of_a(&site), 9).await.unwrap_err());
            errors.push(case.broker.release(&crew(), &a).await.unwrap_err());
        }
        for error in errors {
            says(&error, BrokerErrorKind::Refused, &[&format!("`{key}`"), "holds a string"]);
            assert!(!error.is_indefinite());
        }
        assert_eq!((site.state(), site.pending()), before, "{wrong}");
    }
}

/// What the state says of the consumer `a`, where a look at the group is refused.
fn life_of_a(site: &Site) -> Life {
    let says = &site.state()["consumer:a"];
    let numbers: Vec<u64> = says.split(' ').map(|number| number.parse().unwrap()).collect();
    Life::Beats { epoch: numbers[0], beat: numbers[1], lease_for: Duration::from_millis(numbers[2]) }
}

#[tokio::test]
async fn a_shared_state_that_is_damaged_is_named() {
    for (field, value) in [("at", "nought"), ("seen", "nought"), ("epoch", "nought")] {
        let site = Site::new();
        site.case.shared(1).await;
        let a = site.case.join("a").await;
        site.run::<()>(&format!("HSET streams:{{trades}}:crew {field} {value}"));
        let error = match field {
            "epoch" => site.case.broker.join(&crew(), "b", LEASE).await.unwrap_err(),
            _ => site.case.broker.take(&crew(), &take(&a, 9)).await.unwrap_err(),
        };
        says(&error, BrokerErrorKind::Refused, &["`streams:{trades}:crew`", "not complete"]);
        assert_eq!(site.pending(), []);
    }
}

// Servers that refuse.

#[tokio::test]
async fn a_full_server_stops_dead_letters_and_nothing_else_of_a_work_queue() {
    let server = RedisServer::start();
    let site = Site::at(server.url());
    let case = &site.case;
    let all = case.shared(8).await;
    let old = case.join("old").await;
    assert_eq!(case.takes(&old, 1).await, all[..1]);
    server.run::<()>("CONFIG SET maxmemory 1");

    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 6).await, all[1..7]);
    let ends = [
        Become::Done,
        Become::PassedOver { name: "Other".to_owned() },
        Become::Again { failed: 1, after: Duration::ZERO },
        Become::Back { crashes: 0 },
        Become::Needs { name: "Trade".to_owned(), version: 2, crashes: 0 },
    ];
    // The letter stays in hand; the others are settled all the same, although they came in one call.
    let letter = [(all[6], Become::Dead(fields("x")))];
    let ends = letter.into_iter().chain(all[1..].iter().copied().zip(ends));
    let error = case.broker.settle(&crew(), &settle(&a, ends)).await.unwrap_err();
    says(&error, BrokerErrorKind::Full, &["streams:{trades}:crew", "OOM"]);
    let crew_now = case.crew().await;
    assert_eq!((crew_now.pending, crew_now.waiting), (5, 3));
    assert_eq!(crew_now.consumers[0].pending, 1, "{crew_now:?}");
    let mut renewer = case.broker.renewer().await.unwrap();
    assert_eq!(renewer.renew(&[(crew(), a.clone())]).await.unwrap(), [HELD]);
    assert_eq!(case.bury("old").await, 1);
    let declares = events(&[("Trade", 1)]);
    assert!(case.broker.declare_events(&crew(), &Change { declares, ..Change::default() }).await.unwrap().is_some());
    assert!(case.broker.resume(&crew()).await.unwrap());
    let taken = case.haul(&take(&a, 9)).await;
    assert_eq!(taken.entries.len(), 4, "two given back, one freed, one new");
    assert!(case.broker.release(&crew(), &a).await.unwrap());
    assert!(case.broker.dead_letters(&crew(), EntryId::ZERO, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_refuses_writes_still_shows_a_work_queue() {
    let server = RedisServer::start();
    let site = Site::at(server.url());
    let all = site.case.shared(2).await;
    let a = site.case.join("a").await;
    site.case.takes(&a, 1).await;
    let before = site.case.crew().await;
    for refuse in ["CONFIG SET min-replicas-to-write 1", "REPLICAOF 127.0.0.1 1"] {
        server.run::<()>(refuse);
        assert_eq!(site.case.crew().await, before, "{refuse}");
        let error = site.case.broker.settle(&crew(), &settle(&a, [(all[0], Become::Done)])).await.unwrap_err();
        says(&error, BrokerErrorKind::Unavailable, &["streams:{trades}:crew"]);
        assert!(!error.is_indefinite());
    }
}

#[tokio::test]
async fn scripts_of_shared_delivery_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::start();
    let site = Site::at(server.url());
    let forget = || server.run::<()>("SCRIPT FLUSH SYNC");
    forget();
    let all = site.case.shared(3).await;
    forget();
    let a = site.case.join("a").await;
    forget();
    assert_eq!(site.case.takes(&a, 9).await, all);
    forget();
    site.case.settle(&a, [(all[0], Become::Done)]).await;
    forget();
    site.case.settle(&a, [(all[1], Become::Dead(fields("x")))]).await;
    forget();
    let life = site.case.life("a").await;
    forget();
    assert_eq!(site.case.frees("a", &life, 9).await, Freed::All(1));
    let b = site.case.join("b").await;
    forget();
    assert!(site.case.broker.release(&crew(), &b).await.unwrap());
}

// The server's clock.

#[tokio::test]
async fn a_clock_that_goes_back_makes_nothing_wait_longer_than_it_may() {
    let site = Site::new();
    let all = site.case.shared(2).await;
    let a = site.case.join("a").await;
    assert_eq!(site.case.takes(&a, 1).await, all[..1]);
    site.case.settle(&a, [(all[0], Become::Again { failed: 1, after: Duration::from_secs(1) })]).await;
    // The clock was two hours ahead when that was written.
    site.run::<()>(&format!("ZINCRBY streams:{{trades}}:crew:waiting 7200000 {}", all[0]));
    let haul = site.case.haul(&take(&a, 9)).await;
    assert_eq!(counts(&haul), [(all[0], 1, 0), (all[1], 0, 0)]);
}

// Others on the same group.

#[tokio::test]
async fn who_reads_by_hand_is_seen_and_freed_only_when_it_was_silent() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(6).await;
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 1).await, all[..1]);
    site.reads("python", 3);
    let [python] = &case.crew().await.consumers[1..] else { panic!() };
    assert!(
        matches!(python, Hand { owner, pending: 3, life: Life::Foreign { .. } } if owner == "python"),
        "{python:?}"
    );
    assert_eq!(case.takes(&a, 1).await, all[4..5], "what it has in hand is its own");

    let long = Life::Foreign { silent: Duration::from_secs(3600) };
    assert_eq!(case.frees("python", &long, 9).await, Freed::Contended);
    assert_eq!(case.frees("python", &Life::Dead, 9).await, Freed::Contended);
    // However often it was delivered by hand says nothing about a process that ended over it.
    site.run::<redis::Value>(&format!("XCLAIM trades crew python 0 {} RETRYCOUNT 9 JUSTID", all[2]));
    let moment = Duration::from_millis(20);
    let silent = Life::Foreign { silent: moment };
    while site.silence("python").await < moment {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(case.frees("python", &silent, 2).await, Freed::Some(2));
    assert_eq!(case.crew().await.consumers[1].pending, 1);
    assert_eq!(case.frees("python", &silent, 2).await, Freed::All(1));
    assert_eq!(case.crew().await.consumers.len(), 1);
    let mut taken = counts(&case.haul(&take(&a, 3)).await);
    taken.sort_unstable();
    assert_eq!(taken, [(all[1], 0, 0), (all[2], 0, 0), (all[3], 0, 0)]);
    // What nobody has in hand is nobody's, and no consumer.
    assert_eq!(case.frees("_free", &Life::Foreign { silent: Duration::ZERO }, 9).await, Freed::Contended);
    assert_eq!(case.broker.join(&crew(), "_free", LEASE).await.unwrap_err().kind(), BrokerErrorKind::Refused);
}

#[tokio::test]
async fn what_others_have_read_is_no_loss_when_it_is_trimmed() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(9).await;
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 1).await, all[..1]);
    // Between two of ours.
    site.reads("python", 2);
    assert_eq!(case.takes(&a, 1).await, all[3..4]);
    case.cut(all[4]);
    assert_eq!(case.takes(&a, 1).await, all[4..5]);
    // And past ours, while we were away.
    site.reads("python", 2);
    case.cut(all[6]);
    assert_eq!(case.takes(&a, 1).await, all[7..8]);
    // What neither has read is one.
    case.cut(all[8].next());
    let Took::Lost { lost, found: true } = case.took(&take(&a, 9)).await else { panic!() };
    assert!(!lost.deleted && lost.from >= all[7] && lost.to >= all[8], "{lost:?}");
}

#[tokio::test]
async fn a_group_that_others_have_read_to_the_end_is_at_the_end() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(5).await;
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 2).await, all[..2]);
    site.reads("python", 9);
    assert_eq!(case.takes(&a, 9).await, []);
    let crew_now = case.crew().await;
    assert_eq!((crew_now.at, crew_now.seen), (all[4], Some(5)));
    case.cut(all[4].next());
    assert_eq!(case.takes(&a, 9).await, []);
    let more = case.append(1).await;
    assert_eq!(case.takes(&a, 9).await, more);
}

#[tokio::test]
async fn what_was_acknowledged_or_claimed_by_hand_is_neither_handed_out_nor_lost() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(4).await;
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 3).await, all[..3]);
    let again = || Become::Again { failed: 1, after: Duration::ZERO };
    case.settle(&a, [(all[0], again()), (all[1], again()), (all[2], again())]).await;
    assert_eq!(site.run::<u64>(&format!("XACK trades crew {}", all[0])), 1);
    for claimed in &all[1..3] {
        site.run::<redis::Value>(&format!("XCLAIM trades crew python 0 {claimed}"));
    }
    // One of those is trimmed away meanwhile.
    case.remove(&all[1..2]);
    let haul = case.haul(&take(&a, 9)).await;
    assert_eq!((entry_ids(&haul), haul.waiting, haul.lost), (all[3..].to_vec(), 0, None));
    let of_python: Vec<_> = site.pending().into_iter().filter(|(_, consumer, _)| consumer == "python").collect();
    assert_eq!(of_python.len(), 2, "what it has in hand stays there: {of_python:?}");
    assert_eq!(site.run::<u64>("EXISTS streams:{trades}:crew:failed"), 0);
    // In hand and acknowledged by somebody else it is not ours to settle any more.
    assert_eq!(site.run::<u64>(&format!("XACK trades crew {}", all[3])), 1);
    let settled = case.settled(&settle(&a, [(all[3], Become::Back { crashes: 0 })])).await;
    assert_eq!(settled, Some(Settled { lost: vec![all[3]], ..Settled::default() }));
}

// Losses.

#[tokio::test]
async fn what_was_deleted_unread_lies_within_what_is_told_where_a_trim_cannot_be_told_from_it() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(4).await;
    let a = case.join("a").await;
    case.remove(&all[2..3]);
    let Took::Lost { lost, found: true } = case.took(&take(&a, 9)).await else { panic!() };
    assert_eq!(lost, Lost { deleted: false, from: EntryId::ZERO, to: all[2], count: 1 });
    case.broker.resume(&crew()).await.unwrap();
    assert_eq!(case.takes(&a, 9).await, [all[0], all[1], all[3]]);
    assert_eq!(case.crew().await.seen, Some(4));
}

#[tokio::test]
async fn a_loss_is_a_field_of_the_state_until_it_is_resumed() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(4).await;
    let a = case.join("a").await;
    case.cut(all[2]);
    let Took::Lost { lost, found: true } = case.took(&take(&a, 9)).await else { panic!() };
    let Lost { from, to, .. } = lost;
    assert_eq!(site.state()["lost"], format!("0 {from} {to} 2"));
    assert!(case.broker.resume(&crew()).await.unwrap());
    assert_eq!(site.state().get("lost"), None);
}

// Groups that others have made, and what is left of ours.

#[tokio::test]
async fn a_group_that_others_read_is_adopted_with_what_they_have_in_hand() {
    let site = Site::new();
    let case = &site.case;
    let all = case.append(5).await;
    site.run::<()>("XGROUP CREATE trades crew 0");
    site.reads("python", 3);
    site.run::<u64>(&format!("XACK trades crew {}", all[1]));
    let adopted = case.broker.adopt(&crew(), LONG).await.unwrap();
    assert!(matches!(&adopted, Adopted::InUse { consumers } if consumers[0].0 == "python"), "{adopted:?}");
    let adoption = Adoption { at: all[2], delivered: all[2], pending: 2, oldest: Some(all[0]) };
    let before = site.pending();
    assert_eq!(case.broker.adopt(&crew(), Duration::ZERO).await.unwrap(), Adopted::Done(adoption));
    assert_eq!(site.pending(), before, "there is a way back");
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 9).await, all[3..]);
    assert_eq!(case.frees("python", &Life::Foreign { silent: Duration::ZERO }, 9).await, Freed::All(2));
    let mut taken = counts(&case.haul(&take(&a, 9)).await);
    taken.sort_unstable();
    assert_eq!(taken, [(all[0], 0, 0), (all[2], 0, 0)]);
}

#[tokio::test]
async fn nothing_is_stranded_when_a_state_was_deleted_by_hand_and_the_group_is_adopted() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(4).await;
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 3).await, all[..3]);
    case.settle(
        &a,
        [
            (all[0], Become::Back { crashes: 0 }),
            (all[1], Become::Needs { name: "Trade".to_owned(), version: 2, crashes: 0 }),
        ],
    )
    .await;
    site.run::<u64>("DEL streams:{trades}:crew");
    assert!(matches!(case.broker.adopt(&crew(), Duration::ZERO).await.unwrap(), Adopted::Done(_)));
    assert_eq!(case.crew().await.needed, events(&[]), "what was needed is found out anew");
    let b = case.join("b").await;
    let mut taken = case.takes(&b, 9).await;
    taken.sort_unstable();
    assert_eq!(taken, [all[0], all[1], all[3]]);
    assert_eq!(case.frees("a", &Life::Foreign { silent: Duration::ZERO }, 9).await, Freed::All(1));
    assert_eq!(case.takes(&b, 9).await, all[2..3]);
}

#[tokio::test]
async fn what_an_earlier_group_of_the_name_has_left_is_nothing_to_a_new_one() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(4).await;
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 3).await, all[..3]);
    let needs = Become::Needs { name: "Trade".to_owned(), version: 2, crashes: 0 };
    case.settle(
        &a,
        [(all[0], Become::Back { crashes: 0 }), (all[1], needs), (all[2], Become::Again { failed: 7, after: LONG })],
    )
    .await;
    site.run::<u64>("XGROUP DESTROY trades crew");
    site.run::<u64>("DEL streams:{trades}:crew");
    case.cut(all[2]);
    assert_eq!(case.broker.create(&crew(), Start::Earliest).await.unwrap(), Created::Made);
    assert_eq!(case.crew().await.waiting, 0);
    let b = case.join("b").await;
    assert_eq!(counts(&case.haul(&take(&b, 9)).await), [(all[2], 0, 0), (all[3], 0, 0)]);
}

#[tokio::test]
async fn a_reset_leaves_no_consumer_of_the_server_and_nothing_pending() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(700).await;
    let a = case.join("a").await;
    assert_eq!(case.takes(&a, 600).await, all[..600]);
    site.reads("python", 50);
    case.settle(&a, all[..300].iter().map(|id| (*id, Become::Back { crashes: 0 }))).await;
    let reset = case.broker.reset(&crew(), Some(a.epoch), Start::At(all[1])).await.unwrap();
    assert_eq!(reset, Reset::Done { at: all[0] });
    assert_eq!(site.pending(), []);
    assert!(site.run::<Vec<redis::Value>>("XINFO CONSUMERS trades crew").is_empty());
    assert_eq!(site.run::<u64>("EXISTS streams:{trades}:crew:waiting streams:{trades}:crew:failed"), 0);
    let b = case.join("b").await;
    assert_eq!(case.takes(&b, 1_000).await, all[1..]);
}

#[tokio::test]
async fn letters_that_wait_survive_a_reset_of_a_work_queue() {
    let site = Site::new();
    let case = &site.case;
    let all = case.shared(1).await;
    let a = case.join("a").await;
    case.takes(&a, 1).await;
    case.settle(&a, [(all[0], Become::Dead(fields("x")))]).await;
    let letters = case.broker.dead_letters(&crew(), EntryId::ZERO, 9).await.unwrap();
    assert_eq!(case.broker.replay(&crew(), &[letters[0].id], 9).await.unwrap(), Moved::Done(vec![letters[0].id]));
    assert!(matches!(case.broker.reset(&crew(), Some(a.epoch), Start::Latest).await.unwrap(), Reset::Done { .. }));
    assert_eq!(site.state()["replays"], "1");
}

#[tokio::test]
async fn the_servers_own_group_shows_how_far_a_work_queue_is() {
    let site = Site::new();
    let all = site.case.shared(4).await;
    let a = site.case.join("a").await;
    site.case.takes(&a, 3).await;
    site.case.settle(&a, [(all[1], Become::Done)]).await;
    let groups: Vec<BTreeMap<String, redis::Value>> = site.run("XINFO GROUPS trades");
    let shown = |name: &str| groups[0][name].clone();
    assert_eq!(shown("last-delivered-id"), redis::Value::BulkString(all[2].to_string().into_bytes()));
    assert_eq!((shown("pending"), shown("lag")), (redis::Value::Int(2), redis::Value::Int(1)));
}

#[tokio::test]
async fn a_token_that_was_found_dead_does_not_come_back() {
    let site = Site::new();
    site.case.shared(3).await;
    let a = site.case.join("a").await;
    site.case.takes(&a, 3).await;
    let life = site.case.life("a").await;
    assert_eq!(site.case.frees("a", &life, 1).await, Freed::Some(1));
    let error = site.case.broker.join(&crew(), "a", LEASE).await.unwrap_err();
    says(&error, BrokerErrorKind::Refused, &["`a`", "was found dead"]);
    assert_eq!(site.case.frees("a", &Life::Dead, 9).await, Freed::All(2));
    assert!(matches!(site.case.broker.join(&crew(), "a", LEASE).await.unwrap(), Joined::Member { .. }));
}

#[tokio::test]
async fn a_group_that_goes_while_its_consumption_is_asked_for_is_no_mistake() {
    let site = Site::new();
    site.case.shared(2).await;
    let (broker, partition) = (&site.case.broker, partition());
    tokio::join!(
        async {
            for _ in 0..200 {
                broker.consumed(&partition).await.unwrap();
            }
        },
        async {
            for _ in 0..100 {
                site.run::<u64>("XGROUP DESTROY trades crew");
                tokio::task::yield_now().await;
                site.run::<()>("XGROUP CREATE trades crew 0");
                tokio::task::yield_now().await;
            }
        }
    );
}
