//! Only a server has these: addresses, log-ins, permissions, a memory that ends, connections that break, other clients.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use streams_core::broker::{
    Acquired, Broker, BrokerError, BrokerErrorKind, Claim, Commit, Committed, Created, Groups, LeaseView, Log, Notes,
    Queue, RecoveryStep, Renewed,
};
use streams_core::keys::StreamKey;
use streams_core::{EntryId, Start};
use streams_runtime::Admin;
use streams_runtime::broker::Redis;
use streams_runtime::{App, Config, Phase, Publisher, Running, Stopped, consumer, consumers, stream_event};
use streams_tests::{Options, RedisServer, logged};
use tokio::time::Instant;

use crate::contract::{Case, HELD, fields, partition, risk, step};

const PASSWORD: &str = "hunter2:/?#@%";
const ENCODED: &str = "hunter2%3A%2F%3F%23%40%25";
const LONG: Duration = Duration::from_secs(60);

/// Everything that an error shows, to be searched for what it must not.
fn shown(error: &BrokerError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(" {error} {error:?}");
        cause = error.source();
    }
    text
}

#[track_caller]
pub(crate) fn says(error: &BrokerError, kind: BrokerErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    assert!(!message.ends_with('.'), "{message}");
    assert!(!shown(error).contains("hunter2"), "{}", shown(error));
}

async fn refused(url: &str) -> BrokerError {
    Redis::open(url).unwrap().connect().await.unwrap_err()
}

/// Connects, and adds an entry, which a plain client then finds in the database.
async fn works(url: &str, plain: &str) {
    let broker = Redis::open(url).unwrap();
    broker.connect().await.unwrap();
    broker.append(&partition(), vec![fields("x")], None).await.unwrap();
    assert!(!format!("{} {broker:?}", broker.describe()).contains("hunter2"));
    let length: u64 = redis::cmd("XLEN").arg("trades").query(&mut RedisServer::client(plain)).unwrap();
    assert_eq!(length, 1, "{url}");
    redis::cmd("DEL").arg("trades").exec(&mut RedisServer::client(plain)).unwrap();
}

#[tokio::test]
async fn a_url_names_host_port_and_database() {
    let server = RedisServer::shared();
    let (one, port) = (server.database(), server.port());
    for url in [one.clone(), one.clone() + "?protocol=resp3", one.clone() + "?protocol=resp2"] {
        works(&url, &one).await;
    }
    let redis = |url: &str| Redis::open(url).unwrap().describe();
    assert_eq!(redis(&format!("redis://localhost:{port}")), format!("redis://localhost:{port}/0"));
    assert_eq!(redis("redis://u:hunter2@db.example/7?protocol=resp3"), "redis://db.example:6379/7");
    assert_eq!(redis("valkey://[::1]:7000"), "redis://[::1]:7000/0");
    assert_eq!(redis("redis+unix:///run/redis.sock?db=3&pass=hunter2"), "redis+unix:///run/redis.sock?db=3");
}

#[tokio::test]
async fn a_url_logs_in() {
    let server = Options::default().password(PASSWORD).user(&format!("app on >{PASSWORD} ~* +@all")).start();
    let (port, socket) = (server.port(), server.socket());
    let plain = format!("redis://:{ENCODED}@127.0.0.1:{port}/3");
    for url in [
        format!("redis://:{ENCODED}@127.0.0.1:{port}/3"),
        format!("redis://default:{ENCODED}@127.0.0.1:{port}/3"),
        format!("redis://app:{ENCODED}@127.0.0.1:{port}/3"),
        format!("redis://app:{ENCODED}@127.0.0.1:{port}/3?protocol=resp3"),
        format!("redis+unix://{}?db=3&pass={ENCODED}", socket.display()),
        format!("unix://{}?db=3&user=app&pass={ENCODED}", socket.display()),
    ] {
        works(&url, &plain).await;
    }
}

#[tokio::test]
async fn a_server_may_have_a_socket_alone() {
    let server = Options::default().socket_only().start();
    works(&server.url(), &server.url()).await;
}

#[tokio::test]
async fn a_log_in_that_fails_says_so() {
    let server = Options::default().password("right").start();
    let port = server.port();
    let remedy = "check the user and password in REDIS_URL";
    for protocol in ["resp2", "resp3"] {
        for log_in in [":hunter2@", "default:hunter2@", "nobody:hunter2@", "nobody:right@", ""] {
            let error = refused(&format!("redis://{log_in}127.0.0.1:{port}/0?protocol={protocol}")).await;
            says(&error, BrokerErrorKind::Refused, &[remedy]);
        }
    }
    let error = refused(&format!("redis://:hunter2@127.0.0.1:{port}")).await;
    says(&error, BrokerErrorKind::Refused, &["WRONGPASS", &format!("redis://127.0.0.1:{port}/0")]);
    let error = refused(&format!("redis://127.0.0.1:{port}")).await;
    says(&error, BrokerErrorKind::Refused, &["NOAUTH"]);

    let open = RedisServer::shared().port();
    let error = refused(&format!("redis://:hunter2@127.0.0.1:{open}")).await;
    says(&error, BrokerErrorKind::Refused, &["the server has no password", remedy]);
}

#[tokio::test]
async fn a_server_without_a_free_connection_says_so() {
    let server = Options::default().password("hunter2").start();
    let mut operator = RedisServer::client(&server.url());
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "1"]).exec(&mut operator).unwrap();
    for _ in 0..100 {
        let error = refused(&server.url()).await;
        says(&error, BrokerErrorKind::Unavailable, &["no connection left", "maxclients"]);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refused(&format!("redis://:hunter2@127.0.0.1:{port}/0")).await;
    says(
        &error,
        BrokerErrorKind::Unavailable,
        &[&format!("127.0.0.1:{port}"), "connection refused", "is the server running"],
    );
    assert!(!error.is_indefinite() && error.is_retryable());

    let error = refused("redis+unix:///nowhere/redis.sock?pass=hunter2").await;
    says(&error, BrokerErrorKind::Unavailable, &["/nowhere/redis.sock", "no server listens on this socket"]);

    let error = refused("redis://:hunter2@no-such-host.invalid").await;
    says(&error, BrokerErrorKind::Unavailable, &["no-such-host.invalid:6379", "REDIS_URL"]);
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named() {
    let port = RedisServer::shared().port();
    for database in ["9999", "-1"] {
        let error = refused(&format!("redis://127.0.0.1:{port}/{database}")).await;
        says(&error, BrokerErrorKind::Refused, &["no such database", &format!(":{port}/{database}")]);
    }
}

#[test]
fn a_url_that_is_wrong_is_not_repeated() {
    use BrokerErrorKind::Refused;
    for (url, kind, words) in [
        ("", Refused, "scheme"),
        ("hunter2", Refused, "scheme"),
        ("localhost:6379", Refused, "scheme"),
        ("http://:hunter2@host", Refused, "scheme"),
        ("hunter2://host", Refused, "scheme"),
        ("rediss://:hunter2/@host", Refused, "percent-encoded"),
        ("rediss://:hunter2@host/zero", Refused, "database is not a number"),
        ("rediss://:pass@host/#hunter2", Refused, "no word but #insecure"),
        ("valkeys://:hunter2@host/#insecure", Refused, "Tls::allow_insecure"),
        ("redis://:hunter2/@host", Refused, "percent-encoded"),
        ("redis://:hunter2#@host", Refused, "percent-encoded"),
        ("redis://:hunter2@host:port", Refused, "cannot be read"),
        ("redis://", Refused, "host"),
        ("redis:///0?x=hunter2", Refused, "host"),
        ("redis://:hunter2@0.0.0.0", Refused, "wildcard"),
        ("redis://:hunter2@host/zero", Refused, "database is not a number"),
        ("redis://12:34/hunter2@host/0", Refused, "database is not a number"),
        ("redis://:hunter2@host?protocol=resp9", Refused, "neither resp2 nor resp3"),
        ("redis://:hunter2%ff@host", Refused, "UTF-8"),
        ("redis+unix://host/path?pass=hunter2", Refused, "no absolute path"),
        ("redis+unix:///path?db=x&pass=hunter2", Refused, "database is not a number"),
    ] {
        let error = Redis::open(url).map(|broker| panic!("{url}: {broker:?}")).unwrap_err();
        says(&error, kind, &[words]);
    }
}

/// A server that answers each command with what the function says, as it is; empty ends the connection.
fn fake(answer: fn(&str) -> &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, answer));
        }
    });
    port
}

fn serve(stream: TcpStream, answer: fn(&str) -> &'static str) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    let number = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.get(1..)?.trim().parse::<usize>().ok()
    };
    loop {
        let mut words = Vec::new();
        for _ in 0..number(&mut reader)? {
            let mut word = vec![0; number(&mut reader)? + 2];
            reader.read_exact(&mut word).ok()?;
            words.push(String::from_utf8_lossy(&word).trim().to_owned());
        }
        writer.write_all(Some(answer(&words[0])).filter(|answer| !answer.is_empty())?.as_bytes()).ok()?;
    }
}

#[tokio::test]
async fn a_server_that_is_not_redis_is_named() {
    let http = fake(|_| "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    let error = refused(&format!("redis://:hunter2@127.0.0.1:{http}")).await;
    says(&error, BrokerErrorKind::Refused, &[&format!("127.0.0.1:{http}"), "not a Redis server"]);

    let silent = fake(|_| "");
    let error = refused(&format!("redis://127.0.0.1:{silent}")).await;
    says(&error, BrokerErrorKind::Unavailable, &[&format!("127.0.0.1:{silent}"), "REDIS_URL"]);
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused_at_the_first_connection() {
    // The bus of a cluster is ten thousand ports above, where there may be none.
    let bus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let args = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let server = Options::default().args(args).user("blind on >hunter2 ~* +@all -info").start();
    let words = [&server.port().to_string(), "part of a Redis Cluster", "cluster-enabled no"];
    for protocol in ["resp2", "resp3"] {
        let url = format!("{}?protocol={protocol}", server.url());
        says(&refused(&url).await, BrokerErrorKind::Unsupported, &words);
        let broker = Redis::open(&url).unwrap();
        says(&broker.now().await.unwrap_err(), BrokerErrorKind::Unsupported, &words);
        let admin = Admin::on(Arc::new(broker), None).unwrap();
        says(&admin.resume("trades", "risk").await.unwrap_err(), BrokerErrorKind::Unsupported, &words);
    }
    // A user without the right to INFO learns it from the first key: the cluster is not whole, or the key is elsewhere.
    let blind = Redis::open(&server.url().replace("redis://", "redis://blind:hunter2@")).unwrap();
    blind.connect().await.unwrap();
    says(&blind.state(&risk()).await.unwrap_err(), BrokerErrorKind::Unsupported, &words[1..]);
    server.run::<()>("CLUSTER ADDSLOTSRANGE 0 16383");
    while !server.run::<String>("CLUSTER INFO").contains("cluster_state:ok") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(blind.state(&risk()).await.unwrap(), None);
    let mut tail = blind.tail().await.unwrap();
    let keys = ["trades", "orders"].map(|key| (key.to_owned(), EntryId::ZERO));
    says(&tail.next(&keys, 1, Duration::from_millis(1)).await.unwrap_err(), BrokerErrorKind::Unsupported, &words[1..]);
}

#[tokio::test]
async fn a_server_that_is_too_old_says_which_it_is() {
    let old = fake(|command| match command {
        "SCRIPT" => "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'\r\n",
        "INFO" => "$40\r\n# Server\r\nredis_version:6.2.6\r\nredis_gi:\r\n\r\n",
        _ => "+OK\r\n",
    });
    let error = refused(&format!("redis://127.0.0.1:{old}")).await;
    says(&error, BrokerErrorKind::Unsupported, &["is Redis 6.2.6", "Redis 7.0, Valkey 7.2 or later is needed"]);
}

#[tokio::test]
async fn a_server_that_repeats_the_log_in_does_not_give_it_away() {
    let echo = fake(|_| "-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n");
    let error = refused(&format!("redis://:hunter2@127.0.0.1:{echo}")).await;
    assert!(shown(&error).contains("***"), "{error:?}");
    says(&error, BrokerErrorKind::Unavailable, &["REDIS_URL"]);
}

#[tokio::test]
async fn what_a_user_may_not_do_is_named() {
    let server = Options::default().user("reader on >secret ~* +@all -xadd").start();
    let broker = Redis::open(&format!("redis://reader:secret@127.0.0.1:{}", server.port())).unwrap();
    broker.connect().await.unwrap();
    for entries in [vec![fields("x")], vec![fields("x"), fields("y")]] {
        let error = broker.append(&partition(), entries, None).await.unwrap_err();
        says(&error, BrokerErrorKind::Refused, &["XADD", "`trades`", "NOPERM", "ACL"]);
    }
    assert_eq!(broker.read(&partition(), EntryId::ZERO, 1).await.unwrap(), []);
}

#[tokio::test]
async fn many_first_calls_share_one_connection() {
    let server = RedisServer::start();
    let connections = || received(&server.run::<String>("INFO stats"));
    let before = connections();
    let broker = Arc::new(Redis::open(&server.url()).unwrap());
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move { broker.now().await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    // One of the broker, one of the second question.
    assert_eq!(connections() - before, 2);
}

// Connections that break.

/// Ends every connection but that of the operator.
fn kill(server: &RedisServer) {
    server.run::<u32>("CLIENT KILL TYPE normal SKIPME yes");
}

#[test]
fn a_host_is_found_while_handlers_hold_all_the_threads_that_may_block() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let broker = Redis::open(&format!("redis://localhost:{}", server.port())).unwrap();
        broker.now().await.unwrap();
        let (runs, running) = tokio::sync::oneshot::channel();
        tokio::task::spawn_blocking(move || {
            runs.send(()).unwrap();
            let _ = ends.recv();
        });
        running.await.unwrap();
        kill(&server);
        broker.now().await.unwrap();
        drop(end);
    });
}

/// A network that brings so many bytes per second from the server.
fn slow_line(server: &RedisServer, rate: usize) -> u16 {
    const STEPS: usize = 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), server.port());
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut from, mut there) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut there));
            thread::spawn(move || {
                let mut bytes = vec![0; rate / STEPS];
                while let Ok(length @ 1..) = server.read(&mut bytes) {
                    thread::sleep(
                        Duration::from_secs(1) * u32::try_from(length).unwrap() / u32::try_from(rate).unwrap(),
                    );
                    if client.write_all(&bytes[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_reply_that_takes_long_is_waited_for_while_it_comes() {
    let server = RedisServer::start();
    let broker = Redis::open(&server.url()).unwrap();
    let large = "x".repeat(100_000);
    broker.append(&partition(), (0..13).map(|_| fields(&large)).collect(), None).await.unwrap();
    let began = Instant::now();
    let far = Redis::open(&format!("redis://127.0.0.1:{}", slow_line(&server, 100_000))).unwrap();
    assert_eq!(far.read(&partition(), EntryId::ZERO, 20).await.unwrap().len(), 13);
    assert!(began.elapsed() > Duration::from_secs(12), "the line was not slow: {:?}", began.elapsed());
}

#[tokio::test]
async fn calls_go_on_after_their_connection_was_killed() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    let all = case.append(3).await;
    case.create(Start::Earliest).await;
    let (holder, _) = case.hold("a").await;
    let mut renewer = case.broker.renewer().await.unwrap();
    let mut at = EntryId::ZERO;
    for next in all {
        assert_eq!(renewer.renew(&[(risk(), holder.clone())]).await.unwrap(), [HELD]);
        kill(&server);
        assert_eq!(case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap().len(), 3);
        assert_eq!(case.commit(&step(&holder, at, next)).await, Committed::Done);
        assert_eq!(renewer.renew(&[(risk(), holder.clone())]).await.unwrap(), [HELD]);
        at = next;
    }
    assert!(case.broker.state(&risk()).await.unwrap().unwrap().lease.beat >= 9);
}

#[tokio::test]
async fn an_append_whose_connection_was_killed_is_not_sent_again() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    case.append(1).await;
    kill(&server);
    let error = case.broker.append(&partition(), vec![fields("x")], None).await.unwrap_err();
    says(&error, BrokerErrorKind::Indefinite, &["XADD", "`trades`", "may have taken effect"]);
    assert_eq!(case.append(1).await.len(), 1);
    assert_eq!(case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_answer_that_does_not_come_costs_the_connection() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    case.append(1).await;
    let clients =
        || server.run::<String>("CLIENT LIST TYPE normal").lines().filter(|line| !line.contains("cmd=client")).count();
    assert_eq!(clients(), 1);
    server.run::<()>("CLIENT PAUSE 600000 WRITE");
    // Nothing else runs, so the clock jumps to where the wait ends.
    tokio::time::pause();
    let (started, wall) = (Instant::now(), std::time::Instant::now());
    let error = case.broker.append(&partition(), vec![fields("x")], None).await.unwrap_err();
    assert!(started.elapsed() >= Duration::from_secs(10) && wall.elapsed() < Duration::from_secs(9));
    tokio::time::resume();
    says(&error, BrokerErrorKind::Indefinite, &["XADD", "`trades`", "no answer", "may have taken effect"]);
    // The peer may be gone without a word, so the next call has a connection of its own.
    server.run::<()>("CLIENT UNPAUSE");
    let before = received(&server.run::<String>("INFO stats"));
    case.append(1).await;
    // One of the broker, one of the second question.
    assert_eq!(received(&server.run::<String>("INFO stats")) - before, 2, "the connection was not replaced");
}

/// How many connections the server ever had.
fn received(info: &str) -> u32 {
    info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn calls_that_wait_for_the_same_connection_share_its_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let attempts = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&attempts);
    thread::spawn(move || {
        for _ in listener.incoming() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let broker = Arc::new(Redis::open(&format!("redis://127.0.0.1:{port}")).unwrap());
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move { broker.now().await })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        says(&error, BrokerErrorKind::Unavailable, &["cannot connect", &port.to_string()]);
    }
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_went_away_and_came_back_is_found_again() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    case.append(1).await;
    let port = server.port().to_string();
    drop(server);
    let error = case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap_err();
    says(&error, BrokerErrorKind::Unavailable, &["connection refused"]);
    // An append that was not sent at all is definite, once the broken connection is found out.
    let _ = case.broker.append(&partition(), vec![fields("x")], None).await.unwrap_err();
    let error = case.broker.append(&partition(), vec![fields("x")], None).await.unwrap_err();
    says(&error, BrokerErrorKind::Unavailable, &["connection refused"]);
    let _server = Options::default().args(["--port", &port]).start();
    case.append(1).await;
    assert_eq!(case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_tail_goes_on_after_its_connection_was_killed() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    let first = case.append(1).await[0];
    let mut tail = case.broker.tail().await.unwrap();
    let (all, above) = ([("trades".to_owned(), EntryId::ZERO)], [("trades".to_owned(), first)]);
    assert_eq!(tail.next(&all, 9, LONG).await.unwrap().len(), 1);
    let killed = async {
        // Until it is blocked, as the server sees it.
        while !server.run::<String>("CLIENT LIST").contains("cmd=xread") {
            tokio::task::yield_now().await;
        }
        kill(&server);
    };
    let (error, ()) = tokio::join!(tail.next(&above, 9, LONG), killed);
    says(&error.unwrap_err(), BrokerErrorKind::Unavailable, &["XREAD", "`trades`", "connection broke"]);
    assert_eq!(tail.next(&all, 9, LONG).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_interrupt_reaches_a_tail_that_is_blocked() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    let mut tail = case.broker.tail().await.unwrap();
    let interrupt = tail.interrupt();
    let interrupted = async {
        // Not answered before it waits, or the interruption would not be that of a wait.
        while !server.run::<String>("INFO clients").contains("blocked_clients:1") {
            tokio::task::yield_now().await;
        }
        interrupt.interrupt().await.unwrap();
    };
    let started = Instant::now();
    let keys = [("trades".to_owned(), EntryId::ZERO)];
    let (found, ()) = tokio::join!(tail.next(&keys, 9, LONG), interrupted);
    assert_eq!(found.unwrap(), []);
    assert!(started.elapsed() < LONG / 2);
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    let all = case.append(2).await;
    let forget = || server.run::<()>("SCRIPT FLUSH SYNC");
    forget();
    case.create(Start::Earliest).await;
    forget();
    let (holder, _) = case.hold("a").await;
    forget();
    assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Done);
    forget();
    let dead = Commit { dead: vec![fields("x")], ..step(&holder, all[0], all[1]) };
    assert_eq!(case.commit(&dead).await, Committed::Done);
    forget();
    let leases = [(risk(), holder.clone()), (risk(), holder.clone())];
    assert_eq!(case.broker.renewer().await.unwrap().renew(&leases).await.unwrap(), [HELD, HELD]);
    forget();
    assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
}

// Servers that refuse.

#[tokio::test]
async fn a_server_that_would_throw_streams_away_is_warned_of() {
    for (policy, warnings) in [("allkeys-lru", 1), ("volatile-lru", 0), ("noeviction", 0)] {
        let server = Options::default().args(["--maxmemory-policy", policy]).start();
        for protocol in ["resp2", "resp3"] {
            let (log, url) = (logged(), format!("{}?protocol={protocol}", server.url()));
            Redis::open(&url).unwrap().connect().await.unwrap();
            assert_eq!(log.count("set its maxmemory-policy to noeviction"), warnings, "{protocol}: {}", log.text());
        }
    }
}

#[tokio::test]
async fn a_full_server_stops_appends_and_not_commits() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    let all = case.append(4).await;
    case.create(Start::Earliest).await;
    server.run::<()>("CONFIG SET maxmemory 1");

    for count in [1, 3] {
        let error = case.broker.append(&partition(), vec![fields("x"); count], None).await.unwrap_err();
        says(&error, BrokerErrorKind::Full, &["XADD", "`trades`", "OOM", "maxmemory"]);
        assert!(!error.is_indefinite() && error.is_retryable());
    }
    assert_eq!(case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap().len(), 4);
    let (stream, note) = (StreamKey::new(None, "trades", 1), Notes::from([("a".to_owned(), "1".to_owned())]));
    let error = case.broker.notes(&stream, &note, &[]).await.unwrap_err();
    says(&error, BrokerErrorKind::Full, &["HSET", "`streams:{trades}:_builds`", "OOM"]);
    assert!(!error.is_indefinite());
    assert_eq!(case.broker.notes(&stream, &Notes::new(), &[]).await.unwrap(), Notes::new());

    let (holder, _) = case.hold("a").await;
    let commit = Commit { attempts: vec![(all[3], 2)], mirror: true, ..step(&holder, EntryId::ZERO, all[0]) };
    assert_eq!(case.commit(&commit).await, Committed::Done);
    assert_eq!(case.broker.renewer().await.unwrap().renew(&[(risk(), holder.clone())]).await.unwrap(), [HELD]);

    let before = case.broker.state(&risk()).await.unwrap();
    let dead = Commit { dead: vec![fields("x")], attempts: vec![(all[3], 3)], ..step(&holder, all[0], all[1]) };
    let error = case.broker.commit(&risk(), &dead).await.unwrap_err();
    says(&error, BrokerErrorKind::Full, &["streams:{trades}:risk", "OOM"]);
    assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
    assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
    let (_, holding) = case.hold("b").await;
    assert_eq!(holding.attempts, [(all[3], 2)]);
    let (holder, _) = case.hold("c").await;
    let charge = RecoveryStep { charged: vec![all[1]], left: 5, forget: Vec::new() };
    let charge = Commit { recovery: Some(charge), ..step(&holder, all[0], all[0]) };
    assert_eq!(case.commit(&charge).await, Committed::Done);
    assert_eq!(case.hold("d").await.1.crashes, [(all[1], 1)]);
    assert_eq!(case.broker.dead_letters(&risk(), EntryId::ZERO, 9).await.unwrap(), []);
}

#[tokio::test]
async fn an_append_that_fills_the_server_half_way_adds_nothing() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    let large = |count| vec![fields(&"x".repeat(200_000)); count];
    case.broker.append(&partition(), large(1), None).await.unwrap();
    let info: String = server.run("INFO memory");
    let used: u64 = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap();
    server.run::<()>(&format!("CONFIG SET maxmemory {}", used + 4_000_000));
    case.broker.append(&partition(), large(1), None).await.unwrap();
    let error = case.broker.append(&partition(), large(60), None).await.unwrap_err();
    says(&error, BrokerErrorKind::Full, &["XADD", "OOM"]);
    assert!(!error.is_indefinite());
    assert_eq!(case.broker.extent(&partition()).await.unwrap().unwrap().length, 2);
}

#[tokio::test]
async fn a_server_that_refuses_writes_still_tells_states() {
    let server = RedisServer::start();
    let case = Case::at(server.url());
    let all = case.append(1).await;
    case.create(Start::Earliest).await;
    let (holder, _) = case.hold("a").await;
    let state = case.broker.state(&risk()).await.unwrap();
    for refuse in ["CONFIG SET min-replicas-to-write 1", "REPLICAOF 127.0.0.1 1"] {
        server.run::<()>(refuse);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), state, "{refuse}");
        let error = case.broker.commit(&risk(), &step(&holder, EntryId::ZERO, all[0])).await.unwrap_err();
        says(&error, BrokerErrorKind::Unavailable, &["streams:{trades}:risk"]);
        let error = case.broker.append(&partition(), vec![fields("x")], None).await.unwrap_err();
        says(&error, BrokerErrorKind::Unavailable, &["XADD", "`trades`"]);
        assert!(!error.is_indefinite());
    }
}

// Keys that somebody else writes to.

#[tokio::test]
async fn a_stream_key_of_another_type_is_named() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    redis::cmd("SET").arg("trades").arg("x").exec(&mut RedisServer::client(&url)).unwrap();
    let (partition, risk) = (partition(), risk());
    let mut tail = case.broker.tail().await.unwrap();
    let keys = [("trades".to_owned(), EntryId::ZERO), ("orders".to_owned(), EntryId::ZERO)];
    for error in [
        case.broker.append(&partition, vec![fields("x")], None).await.unwrap_err(),
        case.broker.append(&partition, vec![fields("x"), fields("y")], None).await.unwrap_err(),
        case.broker.read(&partition, EntryId::ZERO, 1).await.unwrap_err(),
        case.broker.read_back(&partition, EntryId::MAX, 1).await.unwrap_err(),
        case.broker.extent(&partition).await.unwrap_err(),
        case.broker.create(&risk, Start::Earliest).await.unwrap_err(),
        tail.next(&keys, 1, LONG).await.unwrap_err(),
    ] {
        says(&error, BrokerErrorKind::Refused, &["`trades`", "WRONGTYPE"]);
        assert!(!error.is_indefinite());
    }
    assert_eq!(case.broker.state(&risk).await.unwrap(), None);
    // The others go on without it.
    assert_eq!(tail.next(&keys[1..], 1, Duration::from_millis(1)).await.unwrap(), []);
}

#[tokio::test]
async fn keys_of_a_group_of_another_type_are_named() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    let all = case.append(2).await;
    let set = |key: &str| redis::cmd("SET").arg(key).arg("x").exec(&mut RedisServer::client(&url)).unwrap();
    let mut leases = vec![];

    let other = partition().group("other");
    set(other.state());
    let claim = Claim { owner: "a".to_owned(), lease_for: LONG, seen: LeaseView::default(), own: false, bound: 1_000 };
    for error in [
        case.broker.create(&other, Start::Earliest).await.unwrap_err(),
        case.broker.state(&other).await.unwrap_err(),
        case.broker.acquire(&other, &claim).await.unwrap_err(),
    ] {
        says(&error, BrokerErrorKind::Refused, &["`streams:{trades}:other`", "WRONGTYPE"]);
    }

    case.create(Start::Earliest).await;
    let (holder, _) = case.hold("a").await;
    // One lease that nobody can hold does not cost the others theirs.
    leases.extend([(other, holder.clone()), (risk(), holder.clone())]);
    assert_eq!(case.broker.renewer().await.unwrap().renew(&leases).await.unwrap(), [Renewed::Lost, HELD]);

    let stream = StreamKey::new(None, "trades", 1);
    set(&stream.builds());
    for write in [Notes::new(), Notes::from([("a".to_owned(), "1".to_owned())])] {
        let error = case.broker.notes(&stream, &write, &[]).await.unwrap_err();
        says(&error, BrokerErrorKind::Refused, &["`streams:{trades}:_builds`", "WRONGTYPE"]);
    }

    set(&risk().dead());
    set(&partition().bell());
    let before = case.broker.state(&risk()).await.unwrap();
    let dead = Commit { dead: vec![fields("x")], ..step(&holder, EntryId::ZERO, all[0]) };
    let error = case.broker.commit(&risk(), &dead).await.unwrap_err();
    says(&error, BrokerErrorKind::Refused, &["`streams:{trades}:risk:dead`", "holds a string"]);
    let error = case.broker.release(&risk(), &holder, None).await.unwrap_err();
    says(&error, BrokerErrorKind::Refused, &["`streams:{trades}:_bell`", "holds a string"]);
    assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
    assert_eq!(case.commit(&Commit { dead: Vec::new(), ..dead }).await, Committed::Done);
}

#[tokio::test]
async fn nothing_of_a_proof_is_left_when_it_is_over_and_what_is_damaged_is_named() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    let all = case.append(2).await;
    case.create(Start::Earliest).await;
    case.hold("a").await;
    let fields = || -> BTreeMap<String, String> {
        redis::cmd("HGETALL").arg(risk().state()).query(&mut RedisServer::client(&url)).unwrap()
    };
    let before = fields();
    let (holder, _) = case.hold("b").await;
    let recovery_step = |charged: &[EntryId], left, forget: &[EntryId]| {
        Some(RecoveryStep { charged: charged.to_vec(), left, forget: forget.to_vec() })
    };
    let charge = Commit { recovery: recovery_step(&all, 9, &[]), ..step(&holder, EntryId::ZERO, EntryId::ZERO) };
    assert_eq!(case.commit(&charge).await, Committed::Done);
    let (first, last) = (all[0].to_string(), all[1].to_string());
    let found = fields();
    let [left, to, charged] = ["prove", "prove_to", "charged"].map(|name| found[name].as_str());
    assert_eq!((left, to, charged), ("9", last.as_str(), format!("{first} {last}").as_str()));

    let set = |name: &str, value: &str| {
        redis::cmd("HSET").arg(risk().state()).arg(name).arg(value).exec(&mut RedisServer::client(&url)).unwrap();
    };
    for name in ["prove", "prove_to", "charged", &format!("crashes:{first}"), &format!("crashes:{last}")] {
        set(name, "nought");
        let damaged = fields();
        let seen = case.broker.state(&risk()).await.unwrap().unwrap().lease;
        let claim = Claim { owner: "c".to_owned(), lease_for: LONG, seen, own: false, bound: 1_000 };
        let error = case.broker.acquire(&risk(), &claim).await.unwrap_err();
        says(&error, BrokerErrorKind::Refused, &["`streams:{trades}:risk`"]);
        assert_eq!(fields(), damaged);
        set(name, found.get(name).map_or("0", String::as_str));
    }

    let (holder, _) = case.hold("c").await;
    assert_eq!(fields()[&format!("crashes:{first}")], "1");
    let over = Commit { recovery: recovery_step(&[], 0, &all), ..step(&holder, EntryId::ZERO, all[0]) };
    assert_eq!(case.commit(&over).await, Committed::Done);
    let after: Vec<_> = fields().into_keys().collect();
    // Beside the number of the commit that charged.
    let after = after.into_iter().filter(|name| name != "call");
    assert!(after.eq(before.into_keys()));
}

#[tokio::test]
async fn an_entry_of_any_client_is_read() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    let mut add = redis::cmd("XADD");
    add.arg("trades").arg("7-3").arg(&["event", "Trade@1", "payload", "x", "tenant", "a"]);
    add.exec(&mut RedisServer::client(&url)).unwrap();
    let read = case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap();
    assert_eq!(read[0].id, EntryId::new(7, 3));
    assert_eq!((read[0].event(), read[0].headers().get("tenant")), (Some(("Trade", 1)), Some("a")));
}

#[tokio::test]
async fn the_servers_own_group_shows_the_position() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    let all = case.append(4).await;
    case.create(Start::Earliest).await;
    let (holder, _) = case.hold("a").await;
    let position = || {
        let mut info = redis::cmd("XINFO");
        info.arg("GROUPS").arg("trades");
        let groups: Vec<redis::streams::StreamInfoGroup> =
            info.query::<redis::streams::StreamInfoGroupsReply>(&mut RedisServer::client(&url)).unwrap().groups;
        assert_eq!(groups[0].name, "risk");
        (groups[0].last_delivered_id.clone(), groups[0].entries_read, groups[0].lag)
    };
    assert_eq!(position(), ("0-0".to_owned(), Some(0), Some(4)));
    let commit = Commit { seen: Some(1), ..step(&holder, EntryId::ZERO, all[0]) };
    assert_eq!(case.commit(&commit).await, Committed::Done);
    assert_eq!(position().1, Some(0), "not asked for");
    let commit = Commit { seen: Some(2), mirror: true, ..step(&holder, all[0], all[1]) };
    assert_eq!(case.commit(&commit).await, Committed::Done);
    assert_eq!(position(), (all[1].to_string(), Some(2), Some(2)));
    let commit = Commit { seen: Some(3), ..step(&holder, all[1], all[2]) };
    assert_eq!(case.commit(&commit).await, Committed::Done);
    assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
    assert_eq!(position(), (all[2].to_string(), Some(3), Some(1)), "and by the release");
}

/// XTRIM .. ACKED (Redis 8.2) passes over entries in flight, and calls nothing deleted.
#[tokio::test]
async fn a_hole_of_a_trim_that_passes_over_entries_is_no_proof_of_anything() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    let all = case.append(5).await;
    case.create(Start::Latest).await;
    let client = &mut RedisServer::client(&url);
    let run = |words: &[&str], client: &mut redis::Connection| {
        redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(client)
    };
    run(&["XGROUP", "CREATE", "trades", "theirs", "0"], client).unwrap();
    let at = async || case.broker.snapshot(&risk(), all[2], 9).await.unwrap();
    run(&["XREADGROUP", "GROUP", "theirs", "c", "COUNT", "5", "STREAMS", "trades", ">"], client).unwrap();
    for id in &all[1..] {
        run(&["XACK", "trades", "theirs", &id.to_string()], client).unwrap();
    }
    assert_eq!(at().await.deleted, Some(EntryId::ZERO), "nothing is gone");
    let floor = all[3].to_string();
    if run(&["XTRIM", "trades", "MINID", "=", &floor, "ACKED"], client).is_err() {
        // A server without ACKED: there a hole that nobody has made proves something, whoever reads the stream.
        run(&["XDEL", "trades", &all[1].to_string()], client).unwrap();
        assert_eq!(at().await.deleted, Some(all[1]));
        return;
    }
    let snapshot = at().await;
    assert_eq!((snapshot.entries[0].id, snapshot.extent.unwrap().first), (all[3], Some(all[0])), "a hole");
    assert_eq!(snapshot.deleted, None);
    run(&["XDEL", "trades", &floor], client).unwrap();
    assert_eq!(at().await.deleted, Some(all[3]));
}

#[tokio::test]
async fn a_state_has_the_fields_that_are_documented() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    let all = case.append(2).await;
    case.create(Start::Earliest).await;
    let (holder, _) = case.hold("a").await;
    let commit = Commit { attempts: vec![(all[1], 2)], seen: Some(1), ..step(&holder, EntryId::ZERO, all[0]) };
    assert_eq!(case.commit(&commit).await, Committed::Done);
    let state: std::collections::BTreeMap<String, String> =
        redis::cmd("HGETALL").arg("streams:{trades}:risk").query(&mut RedisServer::client(&url)).unwrap();
    let expected = [
        ("at".to_owned(), all[0].to_string()),
        ("at_event".to_owned(), "t-1".to_owned()),
        (format!("attempts:{}", all[1]), "2".to_owned()),
        ("beat".to_owned(), "1".to_owned()),
        ("bound".to_owned(), "1000".to_owned()),
        ("epoch".to_owned(), holder.epoch.to_string()),
        ("lease".to_owned(), "30000".to_owned()),
        ("mode".to_owned(), "ordered".to_owned()),
        ("owner".to_owned(), "a".to_owned()),
        ("seen".to_owned(), "1".to_owned()),
    ];
    assert_eq!(state.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn notes_that_are_no_text_are_somebody_elses() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    let mut set = redis::cmd("HSET");
    set.arg("streams:{trades}:_builds").arg(b"\xff").arg("1").arg("a").arg(b"\xff").arg("b").arg("2");
    set.exec(&mut RedisServer::client(&url)).unwrap();
    let read = case.broker.notes(&StreamKey::new(None, "trades", 1), &Notes::new(), &[]).await.unwrap();
    assert_eq!(read, Notes::from([("b".to_owned(), "2".to_owned())]));
}

#[tokio::test]
async fn a_group_of_another_mode_is_not_taken() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    case.create(Start::Earliest).await;
    let state = case.broker.state(&risk()).await.unwrap();
    redis::cmd("HSET").arg(risk().state()).arg("mode").arg("shared").exec(&mut RedisServer::client(&url)).unwrap();
    let claim = Claim { owner: "a".to_owned(), lease_for: LONG, seen: LeaseView::default(), own: false, bound: 1_000 };
    assert_eq!(case.broker.acquire(&risk(), &claim).await.unwrap(), Acquired::Mode("shared".to_owned()));
    assert_eq!(case.broker.state(&risk()).await.unwrap(), state);
}

#[tokio::test]
async fn ids_and_epochs_are_compared_as_numbers() {
    let max = u64::MAX.to_string();
    for (at, last, ahead) in [
        ("9-0".to_owned(), "10-0".to_owned(), false),
        ("10-0".to_owned(), "9-0".to_owned(), true),
        ("10-9".to_owned(), "10-10".to_owned(), false),
        ("10-10".to_owned(), "10-9".to_owned(), true),
        ("10-10".to_owned(), "10-10".to_owned(), false),
        (format!("10-{max}"), "11-0".to_owned(), false),
        // Equal as Lua's numbers.
        ("10-18446744073709551614".to_owned(), "10-18446744073709551613".to_owned(), true),
        ("10-18446744073709551613".to_owned(), "10-18446744073709551614".to_owned(), false),
    ] {
        let url = RedisServer::shared().database();
        let case = Case::at(url.clone());
        let mut client = RedisServer::client(&url);
        redis::cmd("XADD").arg("trades").arg(&last).arg(&["a", "b"]).exec(&mut client).unwrap();
        assert_eq!(case.broker.create(&risk(), Start::Earliest).await.unwrap(), Created::Made);
        // The highest that Lua can count up to.
        let epoch = (1_u64 << 53) - 2;
        redis::cmd("HSET")
            .arg(risk().state())
            .arg(&["at", &at, "epoch", &epoch.to_string()])
            .exec(&mut client)
            .unwrap();
        let seen = LeaseView { epoch, ..LeaseView::default() };
        let claim = Claim { owner: "a".to_owned(), lease_for: LONG, seen, own: false, bound: 1_000 };
        match case.broker.acquire(&risk(), &claim).await.unwrap() {
            Acquired::Held(holding) => {
                assert!(!ahead, "{at} is above {last}");
                assert_eq!((holding.at.to_string(), holding.epoch), (at, epoch + 1));
            }
            other => assert_eq!(other, Acquired::Ahead { at: at.parse().unwrap(), last: last.parse().unwrap() }),
        }
    }
}

#[tokio::test]
async fn a_state_that_is_damaged_is_named() {
    let url = RedisServer::shared().database();
    let case = Case::at(url.clone());
    case.create(Start::Earliest).await;
    redis::cmd("HDEL").arg(risk().state()).arg("at").exec(&mut RedisServer::client(&url)).unwrap();
    let claim = Claim { owner: "a".to_owned(), lease_for: LONG, seen: LeaseView::default(), own: false, bound: 1_000 };
    let error = case.broker.acquire(&risk(), &claim).await.unwrap_err();
    says(&error, BrokerErrorKind::Refused, &["`streams:{trades}:risk`", "not complete"]);
    assert!(case.broker.state(&risk()).await.is_err());
}

#[tokio::test]
async fn no_group_asks_for_the_list_of_all_groups() {
    let server = RedisServer::start();
    let broker = Redis::open(&server.url()).unwrap();
    broker.connect().await.unwrap();
    let trades = StreamKey::new(None, "trades", 1).partition(0);
    for name in ["one", "two", "three"] {
        let group = trades.group(name);
        assert_eq!(broker.create(&group, Start::Earliest).await.unwrap(), Created::Made);
        assert_eq!(broker.create(&group, Start::Earliest).await.unwrap(), Created::Exists);
        let seen = LeaseView::default();
        let claim = Claim { owner: name.to_owned(), lease_for: LONG, seen, own: false, bound: 1 };
        assert!(matches!(broker.acquire(&group, &claim).await.unwrap(), Acquired::Held(_)));
        assert!(broker.snapshot(&group, EntryId::ZERO, 1).await.unwrap().marker);
        let queue = trades.group(&format!("{name}-queue")).queue();
        assert_eq!(broker.create(&queue, Start::Earliest).await.unwrap(), Created::Made);
        broker.join(&queue, name, LONG).await.unwrap();
    }
    let stats: String = server.run("INFO commandstats");
    assert!(stats.contains("cmdstat_xinfo|consumers") && !stats.contains("cmdstat_xinfo|groups"), "{stats}");
    // A missing group is reported as missing, and a refusal of the server is no answer.
    redis::cmd("XGROUP").arg("DESTROY").arg("trades").arg("one").exec(&mut RedisServer::client(&server.url())).unwrap();
    assert!(!broker.snapshot(&trades.group("one"), EntryId::ZERO, 1).await.unwrap().marker);
    server.run::<()>("ACL SETUSER default -xinfo|consumers");
    broker.snapshot(&trades.group("two"), EntryId::ZERO, 1).await.unwrap_err();
}

#[tokio::test]
async fn a_damaged_field_of_a_lease_halts_the_group_and_is_named_with_what_mends_it() {
    let url = RedisServer::shared().database();
    let mut client = RedisServer::client(&url);
    let broker = Arc::new(Redis::open(&url).unwrap());
    let app = |broker: &Arc<Redis>| {
        let config = Config::new().lease(Duration::from_secs(1));
        App::with(consumers![weigh]).broker(Arc::clone(broker) as Arc<dyn Broker>).config(config).start()
    };
    // Makes the group.
    let running = app(&broker).await.unwrap();
    running.publisher().publish(&Load { n: 1 }).await.unwrap();
    running.settled().await.unwrap();
    assert_eq!(running.shutdown().await, Stopped::Clean);
    let key = StreamKey::new(None, "loads", 1).partition(0).group("scale");
    let fields = [
        ("owner", Some(&b"\xff"[..]), "set it to an empty text"),
        ("epoch", Some(b"soon"), "a number above all that it was"),
        ("epoch", None, "a number above all that it was"),
        ("beat", Some(b"-1"), "set it to 0"),
        ("lease", Some(b""), "a lease in milliseconds"),
        ("at", Some(b"nowhere"), "the id of the last entry that the group has handled"),
        ("reset", Some(b"x"), "HDEL"),
        ("needs", Some(b"x"), "HDEL"),
    ];
    for (field, value, mend) in fields {
        let set = |client: &mut redis::Connection, value: Option<&[u8]>| match value {
            Some(value) => redis::cmd("HSET").arg(key.state()).arg(field).arg(value).exec(client).unwrap(),
            None => redis::cmd("HDEL").arg(key.state()).arg(field).exec(client).unwrap(),
        };
        let running = app(&broker).await.unwrap();
        running.publisher().publish(&Load { n: 2 }).await.unwrap();
        running.settled().await.unwrap();
        assert_eq!(running.shutdown().await, Stopped::Clean);
        let before: Option<Vec<u8>> = redis::cmd("HGET").arg(key.state()).arg(field).query(&mut client).unwrap();
        set(&mut client, value);
        let error = broker.state(&key).await.unwrap_err();
        says(&error, BrokerErrorKind::Refused, &["`streams:{loads}:scale`", &format!("`{field}`"), mend]);
        match app(&broker).await {
            Err(refused) => assert!(refused.to_string().contains(mend), "{field}: {refused}"),
            Ok(running) => {
                let Phase::Halted(halt) = phase(&running, |phase| matches!(phase, Phase::Halted(_))).await else {
                    panic!("{field}");
                };
                assert!(halt.reason().contains(mend) && halt.reason().contains(&format!("`{field}`")), "{halt}");
                let _ = running.shutdown().await;
            }
        }
        set(&mut client, before.as_deref());
    }
    // While a process owns it.
    let running = app(&broker).await.unwrap();
    running.publisher().publish(&Load { n: 3 }).await.unwrap();
    running.settled().await.unwrap();
    redis::cmd("HSET").arg(key.state()).arg("epoch").arg("soon").exec(&mut client).unwrap();
    let Phase::Halted(halt) = phase(&running, |phase| matches!(phase, Phase::Halted(_))).await else { panic!() };
    assert!(halt.reason().contains("`epoch` is `soon`") && halt.reason().contains("goes on by itself"), "{halt}");
    redis::cmd("HSET").arg(key.state()).arg("epoch").arg("99999999999999").exec(&mut client).unwrap();
    phase(&running, |phase| matches!(phase, Phase::Owning { .. })).await;
    assert_eq!(running.shutdown().await, Stopped::Clean);
}

/// The phase of the only group, once it is this.
async fn phase(running: &Running, wanted: fn(&Phase) -> bool) -> Phase {
    let began = Instant::now();
    loop {
        let phase = running.status().groups[0].phase.clone();
        if wanted(&phase) {
            return phase;
        }
        assert!(began.elapsed() < LONG, "{phase:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[stream_event(stream = "loads", lock = false)]
struct Load {
    n: u64,
}

#[consumer(group = "scale")]
async fn weigh(_: Load) {}

#[tokio::test]
async fn a_stream_that_has_used_up_its_ids_is_told_with_what_mends_it() {
    let url = RedisServer::shared().database();
    let mut client = RedisServer::client(&url);
    let publisher = Publisher::connect(&url).await.unwrap();
    publisher.publish(&Load { n: 1 }).await.unwrap();
    let last = "18446744073709551615-18446744073709551615";
    redis::cmd("XADD").arg("loads").arg(last).arg("a").arg("1").exec(&mut client).unwrap();
    let error = publisher.publish(&Load { n: 2 }).await.unwrap_err();
    assert!(!error.is_indefinite() && !error.is_retryable(), "{error}");
    for part in ["`loads`", "has used up its ids", "XDEL", "XSETID"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert!(!error.to_string().contains("publish it again"), "{error}");
    // And that is true.
    redis::cmd("XDEL").arg("loads").arg(last).exec(&mut client).unwrap();
    let newest = publisher.last::<Load>().await.unwrap().unwrap().entry_id();
    redis::cmd("XSETID").arg("loads").arg(newest.to_string()).exec(&mut client).unwrap();
    publisher.publish(&Load { n: 3 }).await.unwrap();
    assert_eq!(publisher.last::<Load>().await.unwrap().unwrap().event.n, 3);
}
