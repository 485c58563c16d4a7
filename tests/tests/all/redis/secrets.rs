//! No log, error, `Debug` or message shows a password, whatever goes wrong. A canary goes down every path that we know.

use std::error::Error;
use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use streams_core::EntryId;
use streams_core::broker::{Broker, BrokerError, Log};
use streams_runtime::broker::{Redis, Tls};
use streams_runtime::{Admin, App, DeadLetters, Publisher, consumer, consumers};
use streams_tests::jobs::{Does, Job};
use streams_tests::{Ca, Options, Program, RedisServer, TlsProxy, logged_from};

use crate::contract::{fields, partition};

/// A password that stands nowhere else, and what was looked through for it.
struct Canary {
    word: String,
    looked: Vec<String>,
}

impl Canary {
    fn new() -> Self {
        let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        Self { word: format!("CANARY-{:x}{nanos:x}", std::process::id()), looked: Vec::new() }
    }

    /// Looks through everything that a user could be shown on this path.
    fn look(&mut self, path: &str, shown: &str) {
        assert!(!self.is_in(shown), "the password is shown: {path}: {shown}");
        self.looked.push(path.to_owned());
    }

    fn is_in(&self, shown: &str) -> bool {
        // Half of it is too much, too.
        shown.contains(&self.word[..self.word.len() / 2])
    }

    fn error(&mut self, path: &str, error: &(dyn Error + 'static)) {
        let mut shown = String::new();
        let mut next = Some(error);
        while let Some(error) = next {
            shown += &format!("{error} {error:?} {error:#?} ");
            next = error.source();
        }
        self.look(path, &shown);
    }

    fn debug(&mut self, path: &str, value: &impl Debug) {
        self.look(path, &format!("{value:?} {value:#?}"));
    }

    /// A URL with the password in the place of `{}`.
    fn url(&self, form: &str) -> String {
        form.replace("{}", &self.word)
    }
}

/// URLs that are wrong, with a password in every place where one may end up.
const WRONG: &[&str] = &[
    "{}",
    "{}://host",
    "http://:{}@host",
    "redis:{}@host",
    "redis//:{}@host",
    "redis://:{}/@host",
    "redis://:{}?@host",
    "redis://:{}#@host",
    "redis://:{}@",
    "redis://:{}@/0",
    "redis://:{}@host:port",
    "redis://host:{}",
    "redis://:{}@host:99999",
    "redis://:{}@[::1",
    "redis://:{}@0.0.0.0",
    "redis://:{}@host/zero",
    "redis://host/{}",
    "redis://:{}@host?protocol=resp9",
    "redis://host?protocol={}",
    "redis://:{}%ff@host",
    "redis://{}%ff:x@host",
    "redis+unix://host/path?pass={}",
    "redis+unix:///path?db=x&pass={}",
    "redis+unix:///path?db={}",
    "rediss://:{}/@host",
    "rediss://:{}@host/zero",
    "rediss://:{}@host#insecure",
    "rediss://:{}@host#{}",
    "rediss://:{}@a_b..c",
    "rediss+unix:///path?pass={}",
    "valkeys://:{}@",
];

#[test]
fn a_url_that_is_wrong_does_not_give_its_password_away() {
    let mut canary = Canary::new();
    let log = logged_from(tracing::Level::TRACE);
    for form in WRONG {
        let tls = Tls::new().ca_pem(Ca::new().pem());
        let error = Redis::open(&canary.url(form)).map(|broker| panic!("{form}: {broker:?}")).unwrap_err();
        canary.error(form, &error);
        if let Err(error) = Redis::open_with(&canary.url(form), &tls) {
            canary.error(form, &error);
        }
    }
    canary.look("log", &log.text());
    assert!(canary.looked.len() > 30, "{:?}", canary.looked);
}

/// A server that answers each command with what the function says of its words; nothing ends the connection.
fn fake(answer: impl Fn(&[String]) -> String + Send + Sync + 'static) -> u16 {
    fn serve(stream: TcpStream, answer: &dyn Fn(&[String]) -> String) -> Option<()> {
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
                words.push(String::from_utf8_lossy(&word).trim_end_matches("\r\n").to_owned());
            }
            writer.write_all(Some(answer(&words)).filter(|answer| !answer.is_empty())?.as_bytes()).ok()?;
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || serve(stream, &*answer));
        }
    });
    port
}

async fn connect(url: &str, tls: &Tls) -> Result<(), BrokerError> {
    let broker = if url.starts_with("rediss") { Redis::open_with(url, tls) } else { Redis::open(url) };
    broker.unwrap().connect().await
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_does_not_give_its_password_away() {
    let mut canary = Canary::new();
    let log = logged_from(tracing::Level::TRACE);
    let server =
        Options::default().password("right").user("user on >right ~* +@all").user("mute on nopass ~* -@all").start();
    let full = Options::default().password(&canary.word).start();
    redis::cmd("CONFIG").arg(&["SET", "maxclients", "1"]).exec(&mut RedisServer::client(&full.url())).unwrap();
    let _only = RedisServer::client(&full.url());
    let (open, port, full) = (RedisServer::shared().port(), server.port(), full.port());
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();

    // Replies of servers and proxies that repeat the request: in full, up to a length, with characters changed.
    let all = fake(|words| {
        format!("-ERR unknown command '{}', with args beginning with: '{}'\r\n", words[0], words[1..].join("' '"))
    });
    let cut = fake(|words| format!("-ERR unknown command, with args: {:.28}\r\n", words.join(" ")));
    let bare = fake(|words| format!("-ERR no {}\r\n", words.join(" ")));
    let coded = fake(|words| format!("-WRONGPASS {}\r\n", words.join(" ")));
    let noise = fake(|words| format!("HTTP/1.1 400 {}\r\n\r\n", words.join(" ")));
    let text = fake(|words| match &*words[0] {
        "SCRIPT" => format!("-ERR {}\r\n", words[1]),
        _ => format!("+{}\r\n", words.join(" ")),
    });
    let odd = fake(|words| format!("${}\r\n{}\r\n", 3, words.join(" ")));
    let (ends, loading) = (fake(|_| String::new()), fake(|_| "-LOADING later\r\n".to_owned()));
    let noperm = fake(|words| format!("-NOPERM User default may not {}\r\n", words.join(" ")));

    let ca = Ca::new();
    let identity = ca.sign(&["localhost"]);
    let (trusting, clients) = (Tls::new().ca_pem(ca.pem()), Ca::new());
    let good = TlsProxy::start(identity.serve(None, false), port);
    let strict = TlsProxy::start(identity.serve(Some(&clients), false), port);
    let expired = TlsProxy::start(ca.sign_for(&["localhost"], (2020, 2021)).serve(None, false), port);
    let foreign = TlsProxy::start(Ca::new().sign(&["localhost"]).serve(None, false), port);
    let behind_tls = TlsProxy::start(identity.serve(None, false), all);
    let tls = [good.port(), strict.port(), expired.port(), foreign.port(), behind_tls.port()];

    let mut urls = vec![
        format!("redis://:{{}}@127.0.0.1:{nobody}"),
        "redis://:{}@no-such-host.invalid".to_owned(),
        "redis+unix:///nowhere/redis.sock?pass={}".to_owned(),
        format!("redis+unix://{}?pass={{}}", server.socket().display()),
        format!("redis://:right@127.0.0.1:{port}/99999?x={{}}"),
        format!("redis://{{}}@127.0.0.1:{port}"),
        format!("rediss://:{{}}@localhost:{nobody}"),
        "rediss://:{}@no-such-host.invalid".to_owned(),
        format!("rediss://:{{}}@localhost:{ends}"),
    ];
    for protocol in ["resp2", "resp3"] {
        urls.extend(
            ["", "default", "user", "nobody"]
                .map(|user| format!("redis://{user}:{{}}@127.0.0.1:{port}?protocol={protocol}")),
        );
        urls.extend(
            [open, full, all, cut, bare, coded, noise, text, odd, ends, loading, noperm]
                .map(|port| format!("redis://:{{}}@127.0.0.1:{port}?protocol={protocol}")),
        );
        // In plain to a TLS port, and the other way.
        urls.extend(tls.map(|port| format!("redis://:{{}}@127.0.0.1:{port}?protocol={protocol}")));
        urls.extend(tls.map(|port| format!("rediss://:{{}}@localhost:{port}?protocol={protocol}")));
        urls.push(format!("rediss://:{{}}@localhost:{noise}?protocol={protocol}"));
        urls.push(format!("redis://mute:{{}}@127.0.0.1:{port}?protocol={protocol}"));
    }
    for form in urls {
        let url = canary.url(&form);
        // A word longer than what servers repeat.
        for url in [url.clone(), url.replace(&canary.word, &format!("{}%0a{}", canary.word, "x".repeat(200)))] {
            if form.contains(&format!(":{full}")) && url.contains("xxx") {
                continue;
            }
            match connect(&url, &trusting).await {
                Err(error) => canary.error(&form, &error),
                // A server without passwords takes any, in RESP3.
                Ok(()) => assert!(form.contains(&format!(":{open}?protocol=resp3")), "{form}"),
            }
        }
    }
    canary.look("log", &log.text());
    assert!(canary.looked.len() > 60, "{}", canary.looked.len());
    // It would have been seen.
    let control = format!("redis://:{}@host", canary.word);
    assert!(canary.is_in(&control) && canary.is_in(&canary.word[..canary.word.len() - 3]));
}

#[consumer(group = "canary")]
async fn look(_: Job) {}

#[tokio::test]
async fn what_works_and_then_breaks_does_not_give_its_password_away() {
    let mut canary = Canary::new();
    let log = logged_from(tracing::Level::TRACE);
    let server =
        Options::default().password(&canary.word).user(&format!("reader on >{} ~* +@all -xadd", canary.word)).start();
    let ca = Ca::new();
    let proxy = TlsProxy::start(ca.sign(&["localhost"]).serve(None, false), server.port());
    let port = server.port();
    for form in [
        format!("redis://:{{}}@127.0.0.1:{port}/0"),
        format!("redis://:{{}}@127.0.0.1:{port}/0?protocol=resp3"),
        format!("rediss://:{{}}@localhost:{}/0", proxy.port()),
    ] {
        server.flush();
        let tls = Tls::new().ca_pem(ca.pem());
        let url = canary.url(&form);
        let redis = if form.starts_with("rediss") { Redis::open_with(&url, &tls) } else { Redis::open(&url) }.unwrap();
        canary.debug("broker before it is connected", &redis);
        let broker: Arc<dyn Broker> = Arc::new(redis);
        broker.connect().await.unwrap();
        canary.debug("broker", &broker);
        canary.look("describe", &broker.describe());
        canary.debug("publisher", &Publisher::new(Arc::clone(&broker)));
        canary.debug("admin", &Admin::on(Arc::clone(&broker), None).unwrap());
        canary.debug("dead letters", &DeadLetters::<Job>::on(Arc::clone(&broker), None, "canary").unwrap());
        let app = App::with(consumers![look]).broker(Arc::clone(&broker));
        canary.debug("app", &app);
        let running = app.start().await.unwrap();
        canary.debug("running", &running);

        running.publisher().publish(&Job { n: 1, does: None }).await.unwrap();
        running.settled().await.unwrap();
        server.run::<u32>("CLIENT KILL TYPE normal SKIPME yes");
        canary.error(
            "a connection that was killed",
            &broker.append(&partition(), vec![fields("x")], None).await.unwrap_err(),
        );
        server.run::<()>("CONFIG SET maxmemory 1");
        let publisher = running.publisher().with_retry(Duration::ZERO);
        canary.error("a server that is full", &publisher.publish(&Job { n: 2, does: None }).await.unwrap_err());
        server.run::<()>("CONFIG SET maxmemory 0");
        server.run::<()>("SET trades x");
        canary.error("a wrong type", &broker.append(&partition(), vec![fields("x")], None).await.unwrap_err());
        canary.error("a wrong type", &broker.read(&partition(), EntryId::ZERO, 1).await.unwrap_err());
        // The next log-in fails: the password is another one now.
        server.run::<()>("CONFIG SET requirepass another");
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .exec(&mut RedisServer::client(&format!("redis://:another@127.0.0.1:{port}")))
            .unwrap();
        canary.error("a password that was changed", &broker.now().await.unwrap_err());
        canary.error("a publish after that", &publisher.publish(&Job { n: 3, does: None }).await.unwrap_err());
        canary.debug("status", &running.status());
        canary.debug("stopped", &running.shutdown().await);
        redis::cmd("CONFIG")
            .arg(&["SET", "requirepass", &canary.word])
            .exec(&mut RedisServer::client(&format!("redis://:another@127.0.0.1:{port}")))
            .unwrap();
    }
    let reader = Redis::open(&canary.url(&format!("redis://reader:{{}}@127.0.0.1:{port}"))).unwrap();
    canary.error("no permission", &reader.append(&partition(), vec![fields("x")], None).await.unwrap_err());
    assert!(
        log.text().contains("WRONGPASS") || log.text().contains("log in"),
        "it logs what went wrong:\n{}",
        log.text()
    );
    canary.look("log", &log.text());
    assert!(canary.looked.len() > 45, "{}", canary.looked.len());
}

#[tokio::test]
async fn a_service_does_not_give_its_password_away() {
    let mut canary = Canary::new();
    let server = Options::default().password(&canary.word).start();
    let url = canary.url(&format!("redis://:{{}}@127.0.0.1:{}/0", server.port()));
    let worker = |envs: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command.envs(envs.iter().copied()).env("RUST_BACKTRACE", "full");
        Program::start(&mut command)
    };
    let shown = |process: &Program| process.output() + &process.errors();

    // A whole life, logged down to TRACE, all its threads.
    let mut lives = worker(&[("REDIS_URL", &url), ("STREAMS_MAX_ATTEMPTS", "1"), ("STREAMS_LEASE", "300ms")]);
    lives.logs("owning group=\"work\"");
    let publisher = Publisher::connect(&url).await.unwrap();
    publisher.publish(&Job { n: 1, does: Some(Does::Fail) }).await.unwrap();
    server.run::<u32>("CLIENT KILL TYPE normal SKIPME yes");
    publisher.publish(&Job { n: 2, does: None }).await.unwrap();
    lives.says("end 2");
    server.run::<()>("CONFIG SET requirepass another");
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .exec(&mut RedisServer::client(&url.replace(&canary.word, "another")))
        .unwrap();
    lives.logs("WRONGPASS");
    lives.signal("TERM");
    lives.end();
    canary.look("a whole life", &shown(&lives));

    // A start that is refused, by the server, the URL, and every variable that may be mistaken for that of the URL.
    let mut wrong = worker(&[("REDIS_URL", &url)]);
    assert_eq!(wrong.code(), Some(1));
    canary.look("a wrong password", &shown(&wrong));
    for form in ["redis://:{}#@host", "redis://:{}@host/zero", "rediss://:{}@host#insecure", "{}"] {
        let mut wrong = worker(&[("REDIS_URL", &canary.url(form))]);
        assert_eq!(wrong.code(), Some(1));
        canary.look(form, &shown(&wrong));
    }
    for name in [
        "BROKER",
        "GROUPS",
        "NAMESPACE",
        "LEASE",
        "SHUTDOWN_DEADLINE",
        "MAX_ATTEMPTS",
        "TIMEOUT",
        "CHECKPOINT_EVENTS",
        "CHECKPOINT_INTERVAL",
        "ON_DATA_LOSS",
        "TLS_CA",
        "TLS_CERT",
        "TLS_KEY",
    ] {
        let name = format!("STREAMS_{name}");
        let mut wrong = worker(&[("REDIS_URL", &url), (&name, &url)]);
        assert_eq!(wrong.code(), Some(1), "{name}: {}", wrong.errors());
        assert!(wrong.errors().contains(&format!("{name} holds a URL")), "{}", wrong.errors());
        canary.look(&name, &shown(&wrong));
    }
    // Unknown names are a warning; the wrong password ends the start.
    for name in ["STREAMS_REDIS_URL", "STREAMS_URL"] {
        let mut wrong = worker(&[("REDIS_URL", &url), (name, &url)]);
        assert_eq!(wrong.code(), Some(1), "{name}: {}", wrong.errors());
        assert!(shown(&wrong).contains(name), "{}", shown(&wrong));
        canary.look(name, &shown(&wrong));
    }
    assert!(canary.looked.len() > 20);
}
