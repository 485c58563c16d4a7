//! TLS to the server: the authorities that the broker trusts, its errors, and an app whose every connection uses TLS.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Log};
use streams_runtime::broker::{Redis, Tls};
use streams_runtime::{
    App, BoxError, Config, Context, Outcome, Publisher, State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::jobs::Job;
use streams_tests::{Ca, Identity, Lab, Options, Program, RedisServer, TlsProxy, logged, until};

use crate::contract::{fields, partition};

const LOCAL: &[&str] = &["localhost", "127.0.0.1"];

/// TLS in front of the server that tests share, in a database alone, and the authority behind it.
struct Site {
    ca: Ca,
    proxy: TlsProxy,
    database: String,
}

impl Site {
    fn new() -> Self {
        let ca = Ca::new();
        let identity = ca.sign(LOCAL);
        Self::with(ca, &identity, None, false)
    }

    fn with(ca: Ca, identity: &Identity, clients: Option<&Ca>, only_tls12: bool) -> Self {
        let server = RedisServer::shared();
        let database = server.database().rsplit_once('/').unwrap().1.to_owned();
        Self { ca, proxy: TlsProxy::start(identity.serve(clients, only_tls12), server.port()), database }
    }

    fn url(&self) -> String {
        format!("rediss://localhost:{}/{}", self.proxy.port(), self.database)
    }

    fn trusting(&self) -> Tls {
        Tls::new().ca_pem(self.ca.pem())
    }
}

async fn connect(url: &str, tls: &Tls) -> Result<Redis, BrokerError> {
    let broker = Redis::open_with(url, tls)?;
    broker.connect().await?;
    Ok(broker)
}

async fn works(url: &str, tls: &Tls) {
    let broker = connect(url, tls).await.unwrap();
    let id = broker.append(&partition(), vec![fields("x")], None).await.unwrap()[0];
    assert_eq!(broker.read(&partition(), EntryId::ZERO, 9).await.unwrap().last().unwrap().id, id);
    assert!(broker.describe().starts_with("rediss://localhost:"), "{}", broker.describe());
}

#[track_caller]
fn says(error: &BrokerError, kind: BrokerErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    assert!(!message.ends_with('.'), "{message}");
}

async fn unavailable(url: &str, tls: &Tls, words: &[&str]) {
    says(&connect(url, tls).await.unwrap_err(), BrokerErrorKind::Unavailable, words);
}

#[tokio::test]
async fn a_server_whose_authority_is_named_is_trusted() {
    let site = Site::new();
    works(&site.url(), &site.trusting()).await;
    works(&(site.url() + "?protocol=resp3"), &site.trusting()).await;
    works(&site.url().replace("rediss", "valkeys"), &site.trusting()).await;
    let twelve = Site::with(Ca::new(), &site.ca.sign(LOCAL), None, true);
    works(&twelve.url(), &site.trusting()).await;
    let broker = connect(&site.url().replace("localhost", "127.0.0.1"), &site.trusting()).await.unwrap();
    assert!(broker.describe().starts_with("rediss://127.0.0.1:"));
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_is_refused_with_the_reason() {
    let ca = Ca::new();
    let other = Ca::new();
    for (identity, words) in [
        (ca.sign_for(LOCAL, (2020, 2021)), ["has expired", "renew it"]),
        (ca.sign_for(LOCAL, (2099, 2100)), ["not valid yet", "clock"]),
        (ca.sign(&["redis.example"]), ["not for `localhost`", "subjectAltName"]),
        (ca.sign(&["*.localhost"]), ["not for `localhost`", "subjectAltName"]),
        (Identity::self_signed(LOCAL), ["signed by itself", "STREAMS_TLS_CA"]),
        (other.sign(LOCAL), ["an authority that is not trusted", "Tls::ca_file"]),
    ] {
        let site = Site::with(Ca::new(), &identity, None, false);
        let tls = Tls::new().ca_pem(ca.pem());
        unavailable(&site.url(), &tls, &[&format!("cannot connect to {}", site.url()), words[0], words[1]]).await;
        assert_eq!(site.proxy.carried(), 0, "{words:?}");
    }
    // The system does not know our authority.
    let site = Site::new();
    let error = Redis::open(&site.url());
    match error {
        Ok(broker) => says(&broker.connect().await.unwrap_err(), BrokerErrorKind::Unavailable, &["not trusted"]),
        Err(error) => says(&error, BrokerErrorKind::Refused, &["no authorities to trust"]),
    }
}

#[tokio::test]
async fn a_server_that_demands_a_client_certificate_gets_one_or_says_so() {
    let clients = Ca::new();
    for only_tls12 in [false, true] {
        let ca = Ca::new();
        let identity = ca.sign(LOCAL);
        let site = Site::with(ca, &identity, Some(&clients), only_tls12);
        let with = |identity: &Identity| site.trusting().client_pem(identity.certificate.clone(), identity.key.clone());
        works(&site.url(), &with(&clients.sign(&["worker"]))).await;
        for url in [site.url(), site.url() + "?protocol=resp3"] {
            unavailable(&url, &site.trusting(), &["client certificate", "STREAMS_TLS_CERT", "Tls::client_files"]).await;
            for bad in [Ca::new().sign(&["worker"]), clients.sign_for(&["worker"], (2020, 2021))] {
                unavailable(&url, &with(&bad), &["is the client certificate still valid, and signed by"]).await;
            }
        }
        assert_eq!(site.proxy.carried(), 2, "commands and backlog of the one that works");
    }
}

/// Takes a connection, says this, and keeps it open; empty ends it.
fn answers(what: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().flatten() {
            if !what.is_empty() {
                let _ = stream.write_all(what);
                kept.push(stream);
            }
        }
    });
    port
}

#[tokio::test]
async fn a_port_of_the_other_kind_is_named() {
    let tls = Tls::new().ca_pem(Ca::new().pem());
    let plain = answers(b"-ERR unknown command\r\n");
    unavailable(&format!("rediss://localhost:{plain}"), &tls, &["does not speak TLS", "redis://"]).await;
    let ends = answers(b"");
    unavailable(&format!("rediss://localhost:{ends}"), &tls, &["is it the TLS port", "redis://"]).await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    unavailable(&format!("rediss://localhost:{nobody}"), &tls, &["connection refused", "REDIS_URL"]).await;
    unavailable("rediss://no-such-host.invalid", &tls, &["no-such-host.invalid:6379", "REDIS_URL"]).await;

    let site = Site::new();
    for protocol in ["resp2", "resp3"] {
        let url = format!("redis://127.0.0.1:{}?protocol={protocol}", site.proxy.port());
        let error = Redis::open(&url).unwrap().connect().await.unwrap_err();
        says(&error, error.kind(), &["write rediss:// for a TLS port"]);
    }
}

#[tokio::test]
async fn a_port_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let broker = Redis::open_with(&format!("rediss://127.0.0.1:{port}"), &Tls::new().ca_pem(Ca::new().pem())).unwrap();
    // Nothing else runs, so the clock jumps to where the wait ends.
    tokio::time::pause();
    let error = broker.connect().await.unwrap_err();
    says(&error, BrokerErrorKind::Unavailable, &["in time"]);
}

#[tokio::test]
async fn checks_are_turned_off_by_the_program_and_the_url_together_only() {
    let ca = Ca::new();
    let expired = ca.sign_for(&["elsewhere"], (2020, 2021));
    for only_tls12 in [false, true] {
        let site = Site::with(Ca::new(), &expired, None, only_tls12);
        let insecure = site.url() + "#insecure";
        let error = Redis::open_with(&insecure, &site.trusting()).unwrap_err();
        says(&error, BrokerErrorKind::Refused, &["#insecure", "remove it", "Tls::allow_insecure"]);
        unavailable(&site.url(), &site.trusting().allow_insecure(), &["has expired"]).await;
        let log = logged();
        works(&insecure, &Tls::new().allow_insecure()).await;
        assert_eq!(log.count("certificate is not checked"), 1, "{}", log.text());
    }
    let says_refused = |url: &str, tls: &Tls, words: &[&str]| {
        says(&Redis::open_with(url, tls).unwrap_err(), BrokerErrorKind::Refused, words);
    };
    says_refused("rediss://host/#unsafe", &Tls::new(), &["no word but #insecure"]);
    says_refused("rediss://host/#insecure", &Tls::new(), &["Tls::allow_insecure"]);
    says_refused("rediss://", &Tls::new(), &["it has no host"]);
    says_refused("rediss://a_b..c", &Tls::new().ca_pem(ca.pem()), &["`a_b..c`", "no host name"]);
    says_refused("redis://host", &Tls::new().allow_insecure(), &["plain", "write rediss://"]);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_the_problem() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, path) = (Ca::new(), |name: &str| dir.path().join(name));
    let (certificate, key) = ca.sign(LOCAL).write(dir.path(), "me");
    let (_, other_key) = ca.sign(LOCAL).write(dir.path(), "other");
    fs::write(path("ca.pem"), ca.pem()).unwrap();
    fs::write(path("empty"), "hunter2").unwrap();
    fs::write(path("damaged"), "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n").unwrap();
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("large"), vec![b'x'; 1024 * 1024 + 1]).unwrap();

    let trusting = Tls::new().ca_file(path("ca.pem"));
    for (tls, file, problem) in [
        (Tls::new().ca_file(path("missing")), "missing", "cannot be read: No such file"),
        (Tls::new().ca_file(path("folder")), "folder", "cannot be read"),
        (Tls::new().ca_file(path("empty")), "empty", "holds no certificate"),
        (Tls::new().ca_file(path("damaged")), "damaged", "holds a certificate that is damaged"),
        (Tls::new().ca_file(path("large")), "large", "larger than 1 MiB"),
        (trusting.clone().client_files(path("missing"), &key), "missing", "cannot be read"),
        (trusting.clone().client_files(&key, &key), "me.key", "holds no certificate"),
        (trusting.clone().client_files(&certificate, path("missing")), "missing", "cannot be read"),
        (trusting.clone().client_files(&certificate, &certificate), "me.pem", "holds no private key"),
        (trusting.clone().client_files(&certificate, &other_key), "other.key", "does not serve the certificate"),
    ] {
        let error = Redis::open_with("rediss://localhost", &tls).unwrap_err();
        let option = if tls == Tls::new().ca_file(path(file)) { "Tls::ca_file" } else { "Tls::client_files" };
        says(&error, BrokerErrorKind::Refused, &[option, &path(file).display().to_string(), problem]);
        assert!(!format!("{error:?} {tls:?}").contains("hunter2"), "{error:?}");
    }
    assert!(Redis::open_with("rediss://localhost", &trusting.client_files(certificate, key)).is_ok());
    let in_code = Tls::new().ca_pem("none").client_pem("none", "none");
    let error = Redis::open_with("rediss://localhost", &in_code).unwrap_err();
    says(&error, BrokerErrorKind::Refused, &["Tls::ca_pem holds no certificate"]);
    assert!(!format!("{in_code:?}").contains("none"));
}

#[tokio::test]
async fn files_that_are_renewed_are_used_by_the_next_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, clients) = (Ca::new(), Ca::new());
    let identity = ca.sign(LOCAL);
    let site = Site::with(ca, &identity, Some(&clients), false);
    let (certificate, key) = clients.sign_for(&["me"], (2020, 2021)).write(dir.path(), "me");
    let broker = Redis::open_with(&site.url(), &site.trusting().client_files(&certificate, &key)).unwrap();
    assert!(broker.connect().await.unwrap_err().to_string().contains("client certificate"));

    clients.sign(&["me"]).write(dir.path(), "me");
    broker.connect().await.unwrap();
    site.proxy.cut();
    // Half of a renewal, which takes two writes.
    fs::write(&key, "").unwrap();
    let log = logged();
    broker.connect().await.unwrap();
    assert!(log.count("cannot be renewed") >= 1 && log.text().contains("me.key"), "{}", log.text());
}

#[tokio::test]
async fn a_connection_that_falls_silent_or_ends_is_replaced() {
    let site = Site::new();
    let broker = connect(&site.url(), &site.trusting()).await.unwrap();
    broker.append(&partition(), vec![fields("x")], None).await.unwrap();
    site.proxy.silence(true);
    // Nothing else runs, so the clock jumps to where the wait ends.
    tokio::time::pause();
    let error = broker.append(&partition(), vec![fields("y")], None).await.unwrap_err();
    tokio::time::resume();
    says(&error, BrokerErrorKind::Indefinite, &["XADD", "no answer", "may have taken effect"]);
    site.proxy.silence(false);
    broker.append(&partition(), vec![fields("z")], None).await.unwrap();
    assert_eq!(site.proxy.carried(), 2);
    site.proxy.cut();
    broker.now().await.unwrap();
    assert_eq!(site.proxy.carried(), 3);
}

#[stream_event(stream = "tls-fills", durability = "replicas(1)")]
#[derive(Debug, Clone, PartialEq)]
struct Fill {
    n: u64,
}

#[consumer(group = "positions")]
async fn position(fill: Fill, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, fill.n).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_lives_on_tls_alone_and_goes_on_when_its_connections_end() {
    let server = Options::default().password("hunter2").args(["--repl-diskless-sync-delay", "0"]).start();
    let replica = RedisServer::start();
    replica.follow(&server);
    let ca = Ca::new();
    let clients = Ca::new();
    let (identity, me) = (ca.sign(LOCAL), clients.sign(&["me"]));
    let proxy = TlsProxy::start(identity.serve(Some(&clients), false), server.port());
    let url = format!("rediss://:hunter2@localhost:{}", proxy.port());
    let tls = Tls::new().ca_pem(ca.pem()).client_pem(me.certificate, me.key);
    let broker: Arc<dyn Broker> = Arc::new(Redis::open_with(&url, &tls).unwrap());

    let lab = Lab::default();
    let config = Config::new().lease(Duration::from_millis(1500));
    let app = App::with(consumers![position]).state(lab.clone()).config(config).broker(Arc::clone(&broker));
    let app = app.start().await.unwrap();
    let publisher = Publisher::new(broker);
    let beat = || {
        let beat = redis::cmd("HGET")
            .arg("streams:{tls-fills}:positions")
            .arg("beat")
            .query(&mut RedisServer::client(&server.url()));
        beat.map(|beat: Option<u64>| beat.unwrap_or(0)).unwrap()
    };
    for n in 0..6 {
        publisher.publish(&Fill { n }).await.unwrap();
        lab.called("positions", n as usize + 1).await;
        if n == 2 {
            // Renewals begin after a third of a lease.
            until(|| proxy.carried() >= 5).await;
            // The server knows no other clients than those that came through TLS, the replica, and this question.
            let clients = server.run::<String>("CLIENT LIST TYPE normal");
            assert_eq!(clients.lines().count() - 1, proxy.carried(), "{clients}");
            assert_eq!(proxy.carried(), 5, "commands, backlog, tail, renewals, durable: {clients}");
            proxy.cut();
        }
    }
    let before = beat();
    until(|| beat() >= before + 2).await;
    app.settled().await.unwrap();
    let mut events = lab.events("positions");
    events.dedup();
    assert_eq!(events, [0, 1, 2, 3, 4, 5]);
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[tokio::test]
async fn a_service_takes_tls_from_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, clients) = (Ca::new(), Ca::new());
    let ca_file = dir.path().join("ca.pem");
    fs::write(&ca_file, ca.pem()).unwrap();
    let (certificate, key) = clients.sign(&["worker"]).write(dir.path(), "me");
    let identity = ca.sign(LOCAL);
    let (mutual, open) =
        (Site::with(Ca::new(), &identity, Some(&clients), false), Site::with(Ca::new(), &identity, None, false));
    let worker = |url: &str, envs: &[(&str, &std::path::Path)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command.env("REDIS_URL", url).envs(envs.iter().copied());
        Program::start(&mut command)
    };

    let all = [("STREAMS_TLS_CA", &*ca_file), ("STREAMS_TLS_CERT", &*certificate), ("STREAMS_TLS_KEY", &*key)];
    let mine = fs::read_to_string(&certificate).unwrap();
    let tls = Tls::new().ca_pem(ca.pem()).client_pem(mine, fs::read_to_string(&key).unwrap());
    // The certificates that the system trusts can be named, too.
    for (site, envs) in [(&mutual, &all[..]), (&open, &[("SSL_CERT_FILE", &*ca_file)])] {
        let running = worker(&site.url(), envs);
        let publisher = Publisher::new(Arc::new(Redis::open_with(&site.url(), &tls).unwrap()));
        publisher.publish(&Job { n: 7, does: None }).await.unwrap();
        running.says("end 7");
        running.logs("streams on rediss://localhost:");
    }

    let missing = dir.path().join("missing.pem");
    for (url, envs, words) in [
        (
            open.url(),
            vec![("STREAMS_TLS_CA", &*missing)],
            vec!["STREAMS_TLS_CA (`", "missing.pem`) cannot be read: No such"],
        ),
        (
            open.url(),
            vec![("STREAMS_TLS_CERT", &*certificate)],
            vec!["STREAMS_TLS_CERT and STREAMS_TLS_KEY belong together"],
        ),
        (
            open.url().replace("rediss", "redis"),
            vec![("STREAMS_TLS_CA", &*ca_file)],
            vec!["STREAMS_TLS_CA is set, but REDIS_URL is a plain one"],
        ),
        (open.url() + "#insecure", vec![("STREAMS_TLS_CA", &*ca_file)], vec!["#insecure", "remove it"]),
        (mutual.url(), vec![("STREAMS_TLS_CA", &*ca_file)], vec!["client certificate", "STREAMS_TLS_CERT"]),
    ] {
        let mut refused = worker(&url, &envs);
        assert_eq!(refused.code(), Some(1), "{}", refused.errors());
        for word in words {
            assert!(refused.errors().contains(word), "no `{word}` in:\n{}", refused.errors());
        }
    }
}

#[tokio::test]
async fn the_tls_port_of_a_real_server_works() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, clients) = (Ca::new(), Ca::new());
    let (ca_file, clients_file) = (dir.path().join("ca.pem"), dir.path().join("clients.pem"));
    fs::write(&ca_file, ca.pem()).unwrap();
    fs::write(&clients_file, clients.pem()).unwrap();
    let (certificate, key) = ca.sign(LOCAL).write(dir.path(), "server");
    let me = clients.sign(&["me"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let path = |path: &std::path::Path| path.display().to_string();
    let (certificate, key, clients_file) = (path(&certificate), path(&key), path(&clients_file));
    // It fails here, and says why, where `redis-server` was built without TLS.
    let server = Options::default().password("hunter2").args([
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &clients_file,
    ]);
    let server = server.start();
    let with_certificate = Tls::new().ca_file(&ca_file).client_pem(me.certificate, me.key);
    for protocol in ["resp2", "resp3"] {
        let url = format!("rediss://:hunter2@localhost:{port}/0?protocol={protocol}");
        works(&url, &with_certificate).await;
        unavailable(&url, &Tls::new().ca_file(&ca_file), &["client certificate"]).await;
        let plain = format!("redis://:hunter2@127.0.0.1:{port}?protocol={protocol}");
        let error = Redis::open(&plain).unwrap().connect().await.unwrap_err();
        says(&error, error.kind(), &["write rediss:// for a TLS port"]);
        let error = connect(&url.replace("hunter2", "wrong"), &with_certificate).await.unwrap_err();
        says(&error, BrokerErrorKind::Refused, &["WRONGPASS", "rediss://localhost"]);
    }
    drop(server);
}
