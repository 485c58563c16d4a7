//! Each call of each role with each of its rights taken away, one by one. A call that is refused has done nothing, in no part.

use std::collections::BTreeMap;
use std::time::Duration;

use streams_core::broker::{
    Acks, Acquired, AttemptError, Attendance, Broker, BrokerError, BrokerErrorKind, Change, Claim, Commit, Damage,
    Fetch, Groups, Holder, Item, Joined, LeaseView, Left, Letters, Life, Log, Members, Need, New, Notes, Pass, Queue,
    RecoveryStep, ReplayEnd, Until, Wait,
};
use streams_core::keys::{GroupKey, StreamKey};
use streams_core::{Durability, EntryId, Retention, Start};
use streams_runtime::broker::{Acl, Redis};
use streams_tests::{Options, RedisServer};

use crate::contract::{NO_BOUNDS, events, fields, partition, risk, step};

const LEASE: Duration = Duration::from_secs(60);
const FSYNC: Durability = Durability { fsync: true, replicas: 0 };
const REPLICAS: Durability = Durability { fsync: false, replicas: 0 };

fn trades() -> StreamKey {
    StreamKey::new(None, "trades", 1)
}

fn work() -> GroupKey {
    partition().group("work").queue()
}

/// Rules, taken apart: the commands of each pair of parentheses with its keys; of the first, those without keys.
fn parts(acl: &Acl) -> Vec<(Vec<String>, Vec<String>)> {
    let text = acl.to_string();
    let mut parts = text.split(" (");
    let split = |words: &str| {
        let words = words.trim_end_matches(')').split(' ').map(str::to_owned);
        words.partition::<Vec<_>, _>(|word| word.starts_with('+'))
    };
    let (commands, reset) = split(parts.next().unwrap());
    std::iter::once((commands, reset)).chain(parts.map(split)).collect()
}

/// The rules without one command of one pair of parentheses.
fn without(parts: &[(Vec<String>, Vec<String>)], part: usize, command: usize) -> Vec<String> {
    let mut rules = Vec::new();
    for (index, (commands, keys)) in parts.iter().enumerate() {
        let left = commands.iter().enumerate().filter(|(at, _)| (index, *at) != (part, command));
        let left: Vec<_> = left.map(|(_, command)| command.clone()).collect();
        match index {
            0 => rules.extend(keys.iter().cloned().chain(left)),
            _ if left.is_empty() => {}
            _ => rules.push(format!("({} {})", left.join(" "), keys.join(" "))),
        }
    }
    rules
}

/// A server on which everything is there that the calls are about.
struct Site {
    server: RedisServer,
    plain: Redis,
}

struct Fixture {
    ids: Vec<EntryId>,
    holder: Holder,
    seen: LeaseView,
    letters: Vec<EntryId>,
    need: Need,
    worker: Holder,
}

impl Site {
    fn new() -> Self {
        let server = Options::default().args(["--appendonly", "yes"]).start();
        let plain = Redis::open(&server.url()).unwrap();
        Self { server, plain }
    }

    fn allow(&self, rules: &[String]) {
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER").arg("user").arg("on").arg(">secret").arg(rules);
        user.exec(&mut RedisServer::client(&self.server.url())).unwrap();
    }

    fn broker(&self) -> Redis {
        Redis::open(&format!("redis://user:secret@127.0.0.1:{}/", self.server.port())).unwrap()
    }

    async fn hold(&self, owner: &str) -> Holder {
        let seen = self.plain.state(&risk()).await.unwrap().unwrap().lease;
        match self.plain.acquire(&risk(), &claim(owner, seen)).await.unwrap() {
            Acquired::Held(holding) => Holder { owner: owner.to_owned(), epoch: holding.epoch },
            other => panic!("{other:?}"),
        }
    }

    async fn fixture(&self) -> Fixture {
        self.server.flush();
        let (broker, group) = (&self.plain, &risk());
        broker.declare(&trades()).await.unwrap();
        let ids = broker.append(&partition(), (0..4).map(|n| fields(&n.to_string())).collect(), None).await.unwrap();
        broker.create(group, Start::Earliest).await.unwrap();
        let one = self.hold("one").await;
        let letters = Commit {
            dead: vec![fields("a"), fields("b")],
            attempts: vec![(ids[2], 1), (ids[3], 1)],
            ..step(&one, EntryId::ZERO, ids[0])
        };
        broker.commit(group, &letters).await.unwrap();
        let need = Need { name: "Trade".to_owned(), version: 2, entry: ids[1] };
        broker.release(group, &one, Some(&need)).await.unwrap();
        let holder = self.hold("two").await;
        let recovery = Some(RecoveryStep { charged: vec![ids[1]], left: 3, forget: vec![] });
        broker.commit(group, &Commit { recovery, ..step(&holder, ids[0], ids[0]) }).await.unwrap();
        let letters: Vec<_> =
            broker.dead_letters(group, EntryId::ZERO, 9).await.unwrap().iter().map(|letter| letter.id).collect();
        broker.replay(group, &letters[..1], 9).await.unwrap();
        broker.take_replay(group, &holder).await.unwrap();
        broker.attend(&[attendance(Some("me"), &[])]).await.unwrap().remove(0).unwrap();
        let seen = broker.state(group).await.unwrap().unwrap().lease;

        broker.create(&work(), Start::Earliest).await.unwrap();
        let Joined::Member { epoch } = broker.join(&work(), "w1", LEASE).await.unwrap() else { panic!() };
        let worker = Holder { owner: "w1".to_owned(), epoch };
        // Two in flight, one that waits.
        broker.fetch(&work(), &fetch(&worker, 1, 3)).await.unwrap();
        let in_flight = Item { id: ids[1], failed: 1, crashes: 0, charged: true };
        let left = Left { again: vec![in_flight, Item { id: ids[2], ..in_flight }], range: None };
        broker.ack(&work(), &acks(&worker, 1, left, vec![wait(ids[0])])).await.unwrap();
        Fixture { ids, holder, seen, letters, need, worker }
    }

    /// Everything that is on the server.
    fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let client = &mut RedisServer::client(&self.server.url());
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(client).unwrap();
        let dump = |key: String| (key.clone(), redis::cmd("DUMP").arg(&key).query(client).unwrap());
        keys.into_iter().map(dump).collect()
    }
}

fn claim(owner: &str, seen: LeaseView) -> Claim {
    Claim { owner: owner.to_owned(), lease_for: LEASE, seen, own: false, bound: 9 }
}

fn attendance(present: Option<&str>, absent: &[(&str, Option<u64>)]) -> Attendance {
    let absent = absent.iter().map(|(says, beat)| ((*says).to_owned(), *beat)).collect();
    Attendance { members: trades().members("risk"), present: present.map(str::to_owned), absent }
}

fn fetch(holder: &Holder, call: u64, count: usize) -> Fetch {
    Fetch {
        holder: holder.clone(),
        call,
        count,
        bytes: usize::MAX,
        new: New::Read { judged: None },
        takes: events(&[("Trade", 2)]),
        most_waiting: 99,
        longest_wait: LEASE,
        mirror: true,
        go_on: false,
    }
}

fn acks(holder: &Holder, call: u64, left: Left, back: Vec<Wait>) -> Acks {
    Acks {
        holder: holder.clone(),
        call,
        chunks: vec![(1, left)],
        back,
        error: None,
        dead: vec![],
        dead_bounds: NO_BOUNDS,
        passed_over: vec![],
    }
}

fn wait(id: EntryId) -> Wait {
    Wait { id, failed: 1, crashes: 0, until: Until::After(Duration::ZERO) }
}

/// An answer without what is another each time.
fn told(answer: impl std::fmt::Debug) -> String {
    format!("{answer:?}")
        .split(|c: char| c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("#")
}

/// Makes a call that is known by its name; answers what it answered.
async fn call(name: &str, broker: &Redis, fixture: &Fixture) -> Result<String, BrokerError> {
    let Fixture { ids, holder, seen, letters, need, worker } = fixture;
    let (group, partition) = (&risk(), &partition());
    let commit = async |commit: Commit| broker.commit(group, &commit).await.map(told);
    let stay = || step(holder, ids[0], ids[0]);
    let end = async |end: ReplayEnd| {
        let replays = broker.replays(group, EntryId::ZERO, 1).await?;
        broker.end_replay(group, holder, replays[0].id, &end).await.map(told)
    };
    let durably = async |durability| {
        broker.append_durably(partition, vec![fields("new")], None, Some(durability), LEASE).await.map(told)
    };
    match name {
        "now" => broker.now().await.map(told),
        "declare" => broker.declare(&trades()).await.map(told),
        "declare another" => broker.declare(&StreamKey::new(None, "bills", 1)).await.map(told),
        "notes" => {
            let write = Notes::from([("a".to_owned(), "b".to_owned())]);
            broker.notes(&trades(), &write, &["c".to_owned()]).await.map(told)
        }
        "append" => broker.append(partition, vec![fields("new")], None).await.map(told),
        "append several" => broker
            .append(partition, vec![fields("new"), fields("beside"), fields("behind")], Some(ids[0]))
            .await
            .map(told),
        "append to replicas" => durably(REPLICAS).await,
        "append to the disk" => durably(FSYNC).await,
        "extent" => broker.extent(partition).await.map(told),
        "consumed" => broker.consumed(partition).await.map(told),

        "state" => broker.state(group).await.map(told),
        "states" => broker.states(std::slice::from_ref(group)).await?.remove(0).map(told),
        "attend" => {
            let set = attendance(Some("me"), &[("gone", Some(1))]);
            broker.attend(&[set]).await?.remove(0).map(told)
        }
        "leave" => broker.attend(&[attendance(None, &[("me", None)])]).await?.remove(0).map(told),
        "create" => broker.create(group, Start::Latest).await.map(told),
        "create anew" => broker.create(&partition.group("new"), Start::Latest).await.map(told),
        "adopt" => broker.adopt(group, Duration::ZERO).await.map(told),
        "acquire" => broker.acquire(group, &claim("three", seen.clone())).await.map(told),
        "commit" => commit(Commit { mirror: true, ..step(holder, ids[0], ids[1]) }).await,
        "commit letters" => commit(Commit { dead: vec![fields("x")], ..step(holder, ids[0], ids[1]) }).await,
        "commit attempts" => {
            let error = Some(AttemptError::new(ids[3], 2, "down"));
            commit(Commit { attempts: vec![(ids[3], 2)], error, seen: Some(1), ..stay() }).await
        }
        "commit and forget" => commit(Commit { forget: vec![ids[2]], ..step(holder, ids[0], ids[2]) }).await,
        "commit a proof" => {
            let recovery = Some(RecoveryStep { charged: vec![], left: 2, forget: vec![ids[1]] });
            commit(Commit { recovery, ..step(holder, ids[0], ids[1]) }).await
        }
        "commit the last proof" => {
            let recovery = Some(RecoveryStep { charged: vec![], left: 0, forget: vec![] });
            commit(Commit { recovery, dead: vec![fields("x")], ..step(holder, ids[0], ids[1]) }).await
        }
        "release" => broker.release(group, holder, None).await.map(told),
        "hand over" => broker.release(group, holder, Some(need)).await.map(told),
        "declare events" => {
            let change =
                Change { declares: events(&[("Trade", 2)]), forgets: vec!["Bill".to_owned()], met: Some(need.clone()) };
            broker.declare_events(group, &change).await.map(told)
        }
        "renew" => broker.renewer().await?.renew(&[(group.clone(), holder.clone())]).await.map(told),
        "snapshot" => broker.snapshot(group, ids[0], 9).await.map(told),
        "read" => broker.read(partition, EntryId::ZERO, 9).await.map(told),
        "read back" => broker.read_back(partition, EntryId::MAX, 9).await.map(told),
        "tail" => {
            let keys = [(partition.as_str().to_owned(), ids[0])];
            broker.tail().await?.next(&keys, 9, Duration::ZERO).await.map(told)
        }
        "dead letters" => broker.dead_letters(group, EntryId::ZERO, 9).await.map(told),
        "take a replay" => broker.take_replay(group, holder).await.map(told),
        "end a replay" => end(ReplayEnd::Done).await,
        "end a replay for now" => end(ReplayEnd::Again { attempts: 1 }).await,
        "end a replay in vain" => end(ReplayEnd::Dead(fields("again"))).await,

        "partitions" => broker.partitions(&trades()).await.map(told),
        "reset" => broker.reset(group, Some(holder.epoch), Start::Earliest).await.map(told),
        "reset what has no state" => broker.reset(&partition.group("new"), None, Start::Earliest).await.map(told),
        "resume" => broker.resume(group).await.map(told),
        "replay" => broker.replay(group, &letters[1..], 9).await.map(told),
        "replay edited" => broker.replay_edited(group, letters[1], &fields("z"), 9).await.map(told),
        "replays" => broker.replays(group, EntryId::ZERO, 9).await.map(told),
        "discard" => broker.discard(group, &letters[1..]).await.map(told),

        "join a queue" => broker.join(&work(), "w2", LEASE).await.map(told),
        "create a queue" => broker.create(&partition.group("new").queue(), Start::Latest).await.map(told),
        "renew in a queue" => broker.renewer().await?.renew(&[(work(), worker.clone())]).await.map(told),
        "fetch" => broker.fetch(&work(), &fetch(worker, 2, 9)).await.map(told),
        "fetch new ones" => broker.fetch(&work(), &Fetch { most_waiting: 9, ..fetch(worker, 2, 2) }).await.map(told),
        "fetch again" => broker.fetch(&work(), &fetch(worker, 1, 9)).await.map(told),
        "ack" => broker.ack(&work(), &acks(worker, 2, Left::default(), vec![])).await.map(told),
        "ack as dead" => {
            let dead = vec![fields("x")];
            broker.ack(&work(), &Acks { dead, ..acks(worker, 2, Left::default(), vec![]) }).await.map(told)
        }
        "ack for later" => {
            let until = Until::Needs { name: "Trade".to_owned(), version: 2 };
            let back = vec![wait(ids[1]), Wait { until, ..wait(ids[2]) }];
            broker.ack(&work(), &acks(worker, 2, Left::default(), back)).await.map(told)
        }
        "pass" => {
            let Some(queue) = broker.queue(&work()).await? else { panic!() };
            let pass = Pass { from: queue.cursor.clone(), to: queue.cursor, halts: None };
            broker.pass(&work(), "t", &pass).await.map(told)
        }
        "mend" => broker.mend(&work(), "t", &Damage { recorded: 2, found: 1 }, None).await.map(told),
        "queue" => broker.queue(&work()).await.map(told),
        "reclaim" => {
            let life = Life::Beats { epoch: worker.epoch, beat: 3, lease_for: LEASE };
            broker.reclaim(&work(), &worker.owner, &life, 9).await.map(told)
        }
        "reclaim some" => {
            let life = Life::Beats { epoch: worker.epoch, beat: 3, lease_for: LEASE };
            broker.reclaim(&work(), &worker.owner, &life, 1).await.map(told)
        }
        "leave a queue" => broker.release(&work(), worker, None).await.map(told),
        "reset a queue" => broker.reset(&work(), Some(worker.epoch), Start::Earliest).await.map(told),
        "resume a queue" => broker.resume(&work()).await.map(told),
        other => panic!("no call is known as {other}"),
    }
}

const PUBLISHER: [&str; 9] = [
    "now",
    "declare",
    "declare another",
    "notes",
    "append",
    "append several",
    "append to replicas",
    "extent",
    "consumed",
];
const CONSUMER: [&str; 29] = [
    "notes",
    "state",
    "states",
    "attend",
    "leave",
    "create",
    "create anew",
    "adopt",
    "acquire",
    "commit",
    "commit letters",
    "commit attempts",
    "commit and forget",
    "commit a proof",
    "commit the last proof",
    "release",
    "hand over",
    "declare events",
    "renew",
    "snapshot",
    "read",
    "read back",
    "tail",
    "dead letters",
    "take a replay",
    "end a replay",
    "end a replay for now",
    "end a replay in vain",
    "extent",
];
const OPERATOR: [&str; 12] = [
    "partitions",
    "states",
    "reset",
    "reset what has no state",
    "resume",
    "reset a queue",
    "resume a queue",
    "replay",
    "replay edited",
    "replays",
    "discard",
    "dead letters",
];
const WORKER: [&str; 14] = [
    "join a queue",
    "create a queue",
    "renew in a queue",
    "fetch",
    "fetch new ones",
    "fetch again",
    "ack",
    "ack as dead",
    "ack for later",
    "pass",
    "queue",
    "reclaim",
    "reclaim some",
    "leave a queue",
];

/// A call that has all its rights shows that the list is right; then one after the other is taken away.
async fn refusals_are_true(acl: Acl, calls: &[&str], is_whole: bool) {
    let site = Site::new();
    let parts = parts(&acl);
    let all: Vec<String> = without(&parts, usize::MAX, 0);
    site.allow(&all);
    let mut answers = BTreeMap::new();
    for name in calls {
        let fixture = site.fixture().await;
        let answer = call(name, &site.broker(), &fixture).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        answers.insert(name, answer);
    }
    let mut refusals = 0;
    for (part, (commands, keys)) in parts.iter().enumerate() {
        for (index, command) in commands.iter().enumerate() {
            let what = format!("without {command} {keys:?}");
            let named = command.trim_start_matches('+').replace('|', " ").to_uppercase();
            for name in calls {
                let fixture = site.fixture().await;
                // A server that was started anew knows no script.
                if index % 2 == 0 {
                    site.server.run::<()>("SCRIPT FLUSH SYNC");
                }
                site.allow(&without(&parts, part, index));
                let (broker, before) = (site.broker(), site.everything());
                let result = call(name, &broker, &fixture).await;
                site.allow(&all);
                let error = match result {
                    Err(error) => error,
                    Ok(answer) => {
                        assert_eq!(&answer, &answers[name], "{name}, {what}");
                        continue;
                    }
                };
                refusals += 1;
                let said = error.to_string();
                let is_named = said.contains(&named) || said.contains("one of its keys");
                // Its scripts may answer an error without its place.
                let is_named = is_named || (!is_whole && said.contains("one of its commands"));
                assert!(is_named && said.contains("NOPERM") && said.contains("ACL"), "{name}, {what}: {error:?}");
                if is_whole || !error.is_indefinite() {
                    assert_eq!(error.kind(), BrokerErrorKind::Refused, "{name}, {what}: {error:?}");
                    assert!(site.everything() == before, "{name}, {what}, was done in part: {error:?}");
                }
                // Somebody has granted it: it is done, and once.
                call(name, &broker, &fixture).await.unwrap_or_else(|error| panic!("{name}, {what}: {error:?}"));
                let entries = site.plain.read(&partition(), EntryId::ZERO, 99).await.unwrap();
                let new = entries.iter().filter(|entry| entry.payload() == Some(b"new".as_slice())).count();
                assert_eq!(new, usize::from(name.starts_with("append")), "{name}, {what}");
            }
        }
    }
    assert!(refusals > commands_of(&parts) / 2, "{refusals} refusals");
}

fn commands_of(parts: &[(Vec<String>, Vec<String>)]) -> usize {
    parts.iter().map(|(commands, _)| commands.len()).sum()
}

#[tokio::test]
async fn what_a_publisher_is_refused_is_not_done() {
    let acl = Acl::new().publish_to(&trades(), Retention::Consumed, Some(REPLICAS));
    let acl = acl.publish_to(&StreamKey::new(None, "bills", 1), Retention::Consumed, None);
    // From 7.2 on.
    let known: Vec<Option<Vec<redis::Value>>> = Site::new().server.run("COMMAND INFO WAITAOF");
    match known[0] {
        Some(_) => {
            let acl = acl.publish_to(&trades(), Retention::Consumed, Some(FSYNC));
            refusals_are_true(acl, &[&PUBLISHER[..], &["append to the disk"]].concat(), true).await;
        }
        None => refusals_are_true(acl, &PUBLISHER, true).await,
    }
}

#[tokio::test]
async fn what_a_consumer_is_refused_is_not_done() {
    let acl = Acl::new().consume_from(&trades(), "risk").and_then(|acl| acl.consume_from(&trades(), "new")).unwrap();
    refusals_are_true(acl, &CONSUMER, true).await;
}

#[tokio::test]
async fn what_an_operator_is_refused_is_not_done() {
    refusals_are_true(Acl::new().operate_on(&trades()), &OPERATOR, true).await;
}

#[tokio::test]
async fn what_a_worker_of_a_queue_is_refused_is_not_done() {
    let acl = Acl::new().share_from(&trades(), "work").and_then(|acl| acl.share_from(&trades(), "new")).unwrap();
    refusals_are_true(acl, &WORKER, true).await;
}

/// A right that is taken away while a connection is there.
#[tokio::test]
async fn events_that_were_added_though_their_transaction_was_refused_are_not_added_again() {
    let site = Site::new();
    let parts = parts(&Acl::new().publish_to(&trades(), Retention::Consumed, None));
    let place = parts[0].0.iter().position(|command| command == "+multi").unwrap();
    site.allow(&without(&parts, usize::MAX, 0));
    let broker = site.broker();
    let append = async || broker.append(&partition(), vec![fields("new"), fields("beside")], None).await;
    append().await.unwrap();
    site.allow(&without(&parts, 0, place));
    let error = append().await.unwrap_err();
    assert!(error.is_indefinite(), "{error:?}");
    let added = site.plain.read(&partition(), EntryId::ZERO, 99).await.unwrap().len();
    for _ in 0..3 {
        let error = append().await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused, "{error:?}");
        assert!(error.to_string().contains("MULTI"), "{error}");
    }
    assert_eq!(site.plain.read(&partition(), EntryId::ZERO, 99).await.unwrap().len(), added);
}
