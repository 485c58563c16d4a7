//! A network holds bytes back and brings them later. A call that was given up is never done, or changes no later one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::FromRedisValue;
use streams_core::broker::{
    Acquired, BrokerErrorKind, Claim, Commit, Committed, Fields, Groups, Holder, LeaseView, Letters, Log, Moved,
    ReplayEnd, Reset, Taken,
};
use streams_core::keys::StreamKey;
use streams_core::{Durability, EntryId, Retention, Start};
use streams_runtime::broker::{Acl, Redis};
use streams_tests::{Options, RedisServer};

use crate::contract::{fields, partition, payloads, risk, step};

/// A network between clients and a server.
struct Network {
    port: u16,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    /// The connection that carries this holds it back, with all that follows.
    hold: Option<Vec<u8>>,
    /// Its client sees the end of the connection.
    cut: bool,
    held: Vec<Arc<Mutex<Held>>>,
}

/// The bytes that one connection held back.
struct Held {
    server: TcpStream,
    bytes: Vec<u8>,
    /// The server has answered what was brought late.
    answered: bool,
    /// The server has ended the connection.
    ended: bool,
}

impl Network {
    fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port());
        let plan = Arc::new(Mutex::new(Plan::default()));
        let shared = Arc::clone(&plan);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", to))) else { continue };
                let held =
                    Held { server: server.try_clone().unwrap(), bytes: Vec::new(), answered: false, ended: false };
                let held = Arc::new(Mutex::new(held));
                let (back, there) = ((server.try_clone().unwrap(), client.try_clone().unwrap()), Arc::clone(&held));
                thread::spawn(move || bring_back(back.0, back.1, &there));
                let plan = Arc::clone(&shared);
                thread::spawn(move || carry(client, server, &plan, &held));
            }
        });
        Self { port, plan }
    }

    /// The next connection that carries this holds it back; its client may see the connection end.
    fn hold(&self, what: &str, cut: bool) {
        let mut plan = self.plan.lock().unwrap();
        (plan.hold, plan.cut) = (Some(what.as_bytes().to_vec()), cut);
    }

    /// Brings the server what was held back, and waits until it has answered or has ended the connection. Answers how many
    /// connections it had ended.
    fn bring(&self) -> usize {
        let held = std::mem::take(&mut self.plan.lock().unwrap().held);
        assert!(!held.is_empty(), "nothing was held back");
        for held in &held {
            let mut held = held.lock().unwrap();
            let bytes = std::mem::take(&mut held.bytes);
            // Earlier answers on the connection are none to this.
            held.answered = false;
            if held.server.write_all(&bytes).is_err() {
                held.ended = true;
            }
        }
        let began = Instant::now();
        let done = |held: &Arc<Mutex<Held>>| {
            let held = held.lock().unwrap();
            held.answered || held.ended
        };
        while !held.iter().all(done) {
            assert!(began.elapsed() < Duration::from_secs(60), "the server says nothing to what came late");
            thread::sleep(Duration::from_millis(1));
        }
        held.iter().filter(|held| held.lock().unwrap().ended).count()
    }

    fn url(&self, user: &str) -> String {
        format!("redis://{user}:secret@127.0.0.1:{}/", self.port)
    }
}

fn carry(mut client: TcpStream, mut server: TcpStream, plan: &Mutex<Plan>, held: &Arc<Mutex<Held>>) {
    let (mut bytes, mut holds) = (vec![0; 64 * 1024], false);
    while let Ok(length @ 1..) = client.read(&mut bytes) {
        let bytes = &bytes[..length];
        if !holds {
            let mut plan = plan.lock().unwrap();
            let is_it = |what: &Vec<u8>| bytes.windows(what.len()).any(|window| window == what.as_slice());
            if plan.hold.as_ref().is_some_and(is_it) {
                (plan.hold, holds) = (None, true);
                plan.held.push(Arc::clone(held));
                held.lock().unwrap().bytes.extend_from_slice(bytes);
                if plan.cut {
                    let _ = client.shutdown(Shutdown::Both);
                }
                continue;
            }
        }
        if holds {
            held.lock().unwrap().bytes.extend_from_slice(bytes);
        } else if server.write_all(bytes).is_err() {
            break;
        }
    }
    if !holds {
        let _ = server.shutdown(Shutdown::Both);
    }
}

fn bring_back(mut server: TcpStream, mut client: TcpStream, held: &Mutex<Held>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        held.lock().unwrap().answered = true;
        let _ = client.write_all(&bytes[..length]);
    }
    held.lock().unwrap().ended = true;
    let _ = client.shutdown(Shutdown::Both);
}

/// A server behind such a network, with what a client before it sees.
struct Site {
    server: RedisServer,
    network: Network,
    /// Over the network.
    broker: Redis,
    /// Not over it.
    plain: Redis,
}

/// The user who logs in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum User {
    /// With the rights that `Acl` gives.
    Least,
    /// With all but those to end its connections.
    Before,
}

impl Site {
    fn new(user: User) -> Self {
        let stream = StreamKey::new(None, "trades", 1);
        let wait = Some(Durability { fsync: false, replicas: 1 });
        let least = Acl::new().publish_to(&stream, Retention::Consumed, wait).operate_on(&stream);
        let least = least.consume_from(&stream, "risk").unwrap();
        let server = Options::default()
            .user(&format!("least on >secret {least}"))
            .user("before on >secret ~* +@all -client|info -client|kill")
            .start();
        let network = Network::before(&server);
        let name = if user == User::Least { "least" } else { "before" };
        let (broker, plain) = (Redis::open(&network.url(name)).unwrap(), Redis::open(&server.url()).unwrap());
        Self { server, network, broker, plain }
    }

    fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        self.server.run(command)
    }

    async fn all(&self) -> Vec<String> {
        payloads(&self.plain.read(&partition(), EntryId::ZERO, 100).await.unwrap())
    }

    async fn hold_lease(&self, owner: &str) -> Holder {
        let lease = self.plain.state(&risk()).await.unwrap().unwrap().lease;
        let epoch = match self.broker.acquire(&risk(), &claim(owner, lease)).await.unwrap() {
            Acquired::Held(holding) => holding.epoch,
            other => panic!("{other:?}"),
        };
        Holder { owner: owner.to_owned(), epoch }
    }

    /// A group of some entries, and its owner.
    async fn group(&self) -> (Holder, Vec<EntryId>) {
        let ids =
            self.plain.append(&partition(), (0..4).map(|n| fields(&n.to_string())).collect(), None).await.unwrap();
        self.plain.create(&risk(), Start::Earliest).await.unwrap();
        (self.hold_lease("owner").await, ids)
    }

    fn state(&self) -> Vec<String> {
        let mut fields: Vec<(String, String)> = self.ask(&format!("HGETALL {}", risk().state()));
        fields.sort();
        fields.into_iter().map(|(name, value)| format!("{name} {value}")).collect()
    }
}

fn claim(owner: &str, seen: LeaseView) -> Claim {
    Claim { owner: owner.to_owned(), lease_for: Duration::from_secs(60), seen, own: false, bound: 9 }
}

fn entry(payload: &str) -> Vec<Fields> {
    vec![fields(payload)]
}

#[tokio::test]
async fn an_append_that_is_sent_again_is_not_added_late_by_a_connection_that_broke() {
    for several in [false, true] {
        let site = Site::new(User::Least);
        let entries = |payload: &str| if several { [entry(payload), entry("beside")].concat() } else { entry(payload) };
        site.broker.append(&partition(), entries("first"), None).await.unwrap();
        site.network.hold("second", true);
        let error = site.broker.append(&partition(), entries("second"), None).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Indefinite, "{error:?}");
        site.broker.append(&partition(), entries("second"), None).await.unwrap();
        for n in 0..14 {
            site.broker.append(&partition(), entry(&n.to_string()), None).await.unwrap();
        }
        assert_eq!(site.network.bring(), 1);
        assert_eq!(site.all().await.iter().filter(|payload| *payload == "second").count(), 1);
    }
}

#[tokio::test]
async fn an_append_that_is_sent_again_is_not_added_late_by_a_connection_that_fell_silent() {
    let site = Site::new(User::Least);
    site.broker.append(&partition(), entry("first"), None).await.unwrap();
    site.network.hold("second", false);
    let error = site.broker.append(&partition(), entry("second"), None).await.unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Indefinite, "{error:?}");
    site.broker.append(&partition(), entry("second"), None).await.unwrap();
    assert_eq!(site.network.bring(), 1);
    assert_eq!(site.all().await, ["first", "second"]);
}

#[tokio::test]
async fn an_append_that_waits_is_not_added_late_either() {
    let site = Site::new(User::Least);
    let append = async |payload: &str| {
        let durability = Durability { fsync: false, replicas: 0 };
        site.broker.append_durably(&partition(), entry(payload), None, Some(durability), Duration::from_secs(1)).await
    };
    // One more that is idle: what is sent again need not wait for a new connection.
    let (one, two) = tokio::join!(append("first"), append("beside"));
    one.unwrap();
    two.unwrap();
    site.network.hold("second", true);
    let error = append("second").await.unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Indefinite, "{error:?}");
    append("second").await.unwrap();
    assert_eq!(site.network.bring(), 1);
    // Nor by one whose caller has gone.
    site.network.hold("third", false);
    let gone = tokio::time::timeout(Duration::from_millis(200), append("third")).await;
    assert!(gone.is_err());
    append("third").await.unwrap();
    assert_eq!(site.network.bring(), 1);
    let all = site.all().await;
    assert_eq!(all.iter().filter(|payload| *payload == "second" || *payload == "third").count(), 2, "{all:?}");
}

#[tokio::test]
async fn a_commit_that_comes_late_does_not_count_back() {
    for user in [User::Least, User::Before] {
        let site = Site::new(user);
        let (holder, ids) = site.group().await;
        let failed = |attempts| Commit {
            attempts: vec![(ids[1], attempts)],
            next_event: format!("attempt-{attempts}"),
            ..step(&holder, EntryId::ZERO, EntryId::ZERO)
        };
        site.network.hold("attempt-1", true);
        for attempts in 1..=3 {
            assert_eq!(site.broker.commit(&risk(), &failed(attempts)).await.unwrap(), Committed::Done);
        }
        let before = site.state();
        site.network.bring();
        assert_eq!(site.state(), before, "{user:?}");
        assert!(before.contains(&format!("attempts:{} 3", ids[1])), "{before:?}");
    }
}

#[tokio::test]
async fn what_an_owner_sends_changes_nothing_when_it_comes_late() {
    for user in [User::Least, User::Before] {
        let site = Site::new(user);
        let (holder, ids) = site.group().await;
        let unchanged = |what: &str| {
            let before = (site.state(), site.ask::<Vec<String>>("KEYS *").len());
            site.network.bring();
            assert_eq!((site.state(), site.ask::<Vec<String>>("KEYS *").len()), before, "{what}, {user:?}");
        };

        site.network.hold(&holder.owner, true);
        let letter = Commit { dead: entry("dead"), ..step(&holder, EntryId::ZERO, ids[0]) };
        assert_eq!(site.broker.commit(&risk(), &letter).await.unwrap(), Committed::Done);
        assert_eq!(site.broker.commit(&risk(), &step(&holder, ids[0], ids[1])).await.unwrap(), Committed::Done);
        unchanged("a commit with a letter");

        let letters = site.plain.dead_letters(&risk(), EntryId::ZERO, 9).await.unwrap();
        assert_eq!(letters.len(), 1);
        site.network.hold(&letters[0].id.to_string(), true);
        site.broker.replay(&risk(), &[letters[0].id], 9).await.unwrap_err();
        let moved = site.broker.replay(&risk(), &[letters[0].id], 9).await.unwrap();
        assert_eq!(moved, Moved::Done(vec![letters[0].id]));
        unchanged("a replay");

        let Taken::Letter(replay) = site.broker.take_replay(&risk(), &holder).await.unwrap() else { panic!() };
        let end = async |attempts| {
            let end = ReplayEnd::Again { attempts };
            assert!(site.broker.end_replay(&risk(), &holder, replay.letter.id, &end).await.unwrap());
        };
        site.network.hold(&holder.owner, true);
        end(1).await;
        end(2).await;
        site.broker.take_replay(&risk(), &holder).await.unwrap();
        unchanged("the end of a replay");

        site.network.hold("EVALSHA", true);
        assert!(site.broker.resume(&risk()).await.unwrap());
        unchanged("a resume");

        site.network.hold(&holder.owner, true);
        site.broker.release(&risk(), &holder, None).await.unwrap_err();
        site.broker.release(&risk(), &holder, None).await.unwrap();
        let other = site.hold_lease("other").await;
        unchanged("a release");

        site.network.hold(&other.epoch.to_string(), true);
        site.broker.reset(&risk(), Some(other.epoch), Start::Earliest).await.unwrap_err();
        let reset = site.broker.reset(&risk(), Some(other.epoch), Start::Earliest).await.unwrap();
        assert!(matches!(reset, Reset::Done { .. }));
        site.hold_lease("third").await;
        unchanged("a reset");

        site.network.hold("fourth", true);
        let fourth = site.hold_lease("fourth").await;
        assert_eq!(site.broker.commit(&risk(), &step(&fourth, EntryId::ZERO, ids[0])).await.unwrap(), Committed::Done);
        unchanged("a claim");
    }
}

#[tokio::test]
async fn a_renewal_whose_sender_has_gone_is_not_made_late() {
    let site = Site::new(User::Least);
    let (holder, _) = site.group().await;
    let lease = [(risk(), holder.clone())];
    let mut renewer = site.broker.renewer().await.unwrap();
    renewer.renew(&lease).await.unwrap();
    site.network.hold(&holder.owner, false);
    assert!(tokio::time::timeout(Duration::from_millis(200), renewer.renew(&lease)).await.is_err());
    drop(renewer);
    site.broker.renewer().await.unwrap().renew(&lease).await.unwrap();
    let before = site.state();
    assert_eq!(site.network.bring(), 1);
    assert_eq!(site.state(), before);
}
