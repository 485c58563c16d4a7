//! `doctor`, `trim`, `console`, and users with the least rights.

use std::io::{Read, Write};

use streams_core::keys::StreamKey;
use streams_runtime::broker::Acl;
use streams_tests::{Options, Program, RedisServer};

use crate::tool::{Shop, Tool};

/// A tool at a server of its own, as this user.
fn at(server: &RedisServer, user: &str) -> Tool {
    Tool::new(format!("redis://{user}127.0.0.1:{}/", server.port()))
}

#[test]
fn a_server_in_order_is_told_from_one_that_loses_streams() {
    let well = ["--appendonly", "yes", "--maxmemory", "1gb"];
    let server = Options::default()
        .args(well)
        .user("bob on >x ~* -@all +ping +client|info +time +info +acl|whoami +acl|dryrun")
        .start();
    let said = at(&server, "").run(&["doctor", "-o", "table"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("ok        rights: default may publish"), "{said:?}");

    server.run::<()>("CONFIG SET appendonly no");
    let said = at(&server, "").run(&["doctor", "-o", "table"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("warning   persistence: no append-only file"), "{said:?}");
    assert!(said.out.contains("fix: CONFIG SET appendonly yes"), "{said:?}");

    server.run::<()>("CONFIG SET maxmemory-policy allkeys-lru");
    let said = at(&server, "").run(&["doctor", "-o", "table"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.out.contains("critical  eviction: allkeys-lru") && said.out.contains("evicts whole streams"),
        "{said:?}"
    );

    let said = at(&server, "bob:x@").run(&["doctor", "-o", "table"]);
    assert!(said.out.contains("warning   rights: bob lacks XADD\n"), "{said:?}");
    assert!(said.out.contains("fix: ACL SETUSER bob +xadd"), "{said:?}");
    server.run::<()>("ACL SETUSER bob -acl|dryrun -info -time");
    let said = at(&server, "bob:x@").run(&["doctor", "-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (found[0]["found"].as_str(), found[1]["about"].as_str()),
        (Some("INFO is refused"), Some("rights")),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_stand_still_and_streams_that_grow_are_told_with_the_command() {
    let Shop { tool, app, .. } = Shop::open().await;
    let found = |word: &str| -> Vec<String> {
        let said = tool.run(&["doctor", "-o", "json"]);
        let findings: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let those = findings.as_array().unwrap().iter().filter(|finding| finding["about"] == word);
        those.map(|finding| format!("{} | {}", finding["found"], finding["fix"])).collect()
    };
    assert_eq!(found("dead"), ["\"bank on payouts\" | \"streams dead ls payouts bank says why\""]);
    tool.ok(&["dead", "discard", "payouts", "bank", "--all", "--yes"]);
    assert_eq!(found("groups"), ["\"3 groups on 2 streams\" | \"\""]);
    tool.ok(&["pause", "payouts", "bank", "--yes"]);
    assert!(found("paused")[0].contains("streams resume payouts bank"), "{:?}", found("paused"));
    tool.ok(&["resume", "payouts", "bank", "--yes"]);
    let mut pipe = redis::pipe();
    for n in 0..100_000 {
        pipe.cmd("XADD").arg(&["trades.0", "*", "n", &n.to_string()]).ignore();
    }
    let _ = app.shutdown().await;
    pipe.exec(&mut client(&tool)).unwrap();
    let unattended = found("unattended");
    assert_eq!(unattended.len(), 3, "{unattended:?}");
    assert!(unattended[0].contains("start a program that runs it"), "{unattended:?}");
    assert!(unattended[0].contains("if nobody needs it: streams remove payouts bank"), "{unattended:?}");
    let said = tool.run(&["doctor", "--expire-after", "1ms", "-o", "table"]);
    assert!(said.out.contains("fix: perhaps nobody needs it any more: streams remove trades risk"), "{said:?}");
    let grown = found("growth");
    assert!(
        grown[0].contains("none was ever trimmed") && grown[0].contains("streams trim trades --consumed"),
        "{grown:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_passes_no_group_unless_told() {
    let Shop { tool, app, .. } = Shop::open().await;
    let id = |n: usize| tool.json(&["tail", "payouts"])[n]["id"].as_str().unwrap().to_owned();
    let length = || tool.json(&["tail", "payouts"]).as_array().unwrap().len();
    let second = id(1);
    let dry = tool.table(&["trim", "payouts", "--before", &second, "--dry-run"]);
    assert_eq!(dry, "1 entry of payouts would be gone for good\nnothing was changed: this was a dry run\n");
    assert!(tool.refused(&["trim", "payouts", "--before", &second], 2).contains("say --yes"));
    assert_eq!(tool.json(&["trim", "payouts", "--before", &second, "--yes"])["removed"], 1);
    // A group that is behind.
    redis::cmd("HSET")
        .arg("streams:{payouts}:late")
        .arg(&["mode", "ordered", "at", "0-0"])
        .exec(&mut client(&tool))
        .unwrap();
    redis::cmd("XGROUP").arg(&["CREATE", "payouts", "late", "0"]).exec(&mut client(&tool)).unwrap();
    let said = tool.refused(&["trim", "payouts", "--before", "latest", "--yes"], 1);
    assert!(said.contains("group late on payouts has settled no more than up to 0-0"), "{said}");
    assert_eq!(tool.table(&["trim", "payouts", "--consumed", "--yes"]), "0 entries of payouts removed\n");
    assert_eq!(length(), 2);
    assert_eq!(
        tool.table(&["trim", "payouts", "--before", "latest", "--force", "--yes"]),
        "2 entries of payouts removed\n"
    );
    assert_eq!(length(), 0);
    let _ = app.shutdown().await;
}

fn client(tool: &Tool) -> redis::Connection {
    RedisServer::client(&tool.url)
}

#[test]
fn a_bench_measures_and_leaves_nothing_behind() {
    let server = RedisServer::start();
    let tool = at(&server, "");
    assert!(tool.refused(&["bench"], 2).contains("say --yes"));
    let figures = tool.json(&["bench", "--seconds", "2", "--yes"]);
    assert!(figures["events"].as_u64().unwrap() > 10, "{figures}");
    assert!(figures["p50_ms"].as_f64().unwrap() > 0.0, "{figures}");
    assert!(figures["handled_per_second"].as_f64().unwrap() > 100.0, "{figures}");
    assert_eq!(server.run::<Vec<String>>("KEYS *"), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_looks_at_everything_and_an_operator_mends() {
    let server = RedisServer::start();
    let Shop { app, .. } = Shop::at(at(&server, "")).await;
    let user = |name: &str, acl: &Acl| {
        server.run::<()>(&format!("ACL SETUSER {name} on >x {acl}"));
        at(&server, &format!("{name}:x@"))
    };
    let observer = user("observer", &Acl::new().observe(None).unwrap());
    let id = observer.json(&["tail", "payouts", "-n", "1"])[0]["id"].as_str().unwrap().to_owned();
    for args in [
        &["ls"][..],
        &["groups"],
        &["info", "payouts"],
        &["owners", "payouts", "bank"],
        &["owners", "payouts", "mail"],
        &["tail", "trades", "--from", "-1h"],
        &["get", "payouts", &id],
        &["dead", "ls", "payouts", "bank"],
        &["dead", "show", "payouts", "bank"],
        &["dead", "ls", "payouts", "mail"],
        &["schema", "ls", "payouts"],
        &["audit"],
        &["schema", "show", "payouts", "Payout"],
        &["schema", "diff", "payouts", "Payout"],
        &["asyncapi"],
        &["check", "--halted"],
        &["reset", "payouts", "bank", "--to", "earliest", "--dry-run"],
        &["reset", "payouts", "mail", "--to", "-1h", "--dry-run"],
        &["resume", "payouts", "bank", "--dry-run"],
        &["pause", "payouts", "bank", "--dry-run"],
        &["remove", "payouts", "bank", "--force", "--dry-run"],
        &["trim", "payouts", "--consumed", "--dry-run"],
        &["dead", "replay", "payouts", "bank", "--all", "--dry-run"],
        &["dead", "discard", "payouts", "bank", "--cause", "handler", "--dry-run"],
        &["publish", "payouts", "Payout", r#"{"account":"a","cents":1}"#, "--dry-run"],
    ] {
        let said = observer.run(args);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{args:?}: {said:?}");
    }
    let misspelt = observer.refused(&["reset", "payouts", "bnak", "--to", "earliest", "--dry-run"], 1);
    assert!(misspelt.contains("perhaps `bank` is meant"), "{misspelt}");
    let mut follow = std::process::Command::new(env!("CARGO_BIN_EXE_streams"));
    let mut follower = Program::start(follow.args(["tail", "payouts", "-f"]).env("REDIS_URL", &observer.url));
    follower.prints("payout-3");
    follower.signal("TERM");
    follower.end();
    let refused = observer.refused(&["pause", "payouts", "bank", "--yes"], 1);
    assert!(refused.contains("the user may not"), "{refused}");
    let acl = Acl::new().observe(None).unwrap().operate_on(&StreamKey::new(None, "payouts", 1));
    let operator = user("operator", &acl);
    for args in [
        &["pause", "payouts", "bank"][..],
        &["resume", "payouts", "bank"],
        &["reset", "payouts", "bank", "--to", "latest"],
        &["dead", "replay", "payouts", "bank", "--cause", "handler"],
        &["dead", "discard", "payouts", "bank", "--cause", "permanent"],
        &["remove", "payouts", "mail", "--force"],
    ] {
        let said = operator.run(&[args, &["--yes"]].concat());
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{args:?}: {said:?}");
    }
    assert_eq!(operator.json(&["audit"]).as_array().unwrap().len(), 6);
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_answers_on_its_address_and_acts_only_with_the_token() {
    let Shop { tool, app, .. } = Shop::open().await;
    assert!(tool.refused(&["console", "--token", "short"], 2).contains("at least 16"));
    assert!(tool.refused(&["console", "--listen", "192.0.2.1:1"], 1).contains("cannot listen on 192.0.2.1:1"));
    let token = "0123456789abcdef0123456789abcdef";
    let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_streams"));
    let serve = serve.args(["console", "--listen", "127.0.0.1:0", "--redact", "account"]).env("REDIS_URL", &tool.url);
    let mut console = Program::start(serve.env("STREAMS_CONSOLE_TOKEN", token));
    console.prints("http://127.0.0.1:");
    let url = console.output();
    let address = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let ask = |request: String| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let get = |path: &str| ask(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"));
    assert!(get("/").contains("content-security-policy"), "{}", get("/"));
    let overview = get("/api/overview");
    assert!(overview.starts_with("HTTP/1.1 200") && overview.contains("\"bank\""), "{overview}");
    let entries = get("/api/entries?stream=payouts");
    assert!(entries.contains("***") && !entries.contains("ben"), "{entries}");
    let body = r#"{"stream":"payouts","group":"bank","by":"a test","why":"because"}"#;
    let pause = |token: &str| {
        let head = format!("POST /api/pause HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        let rest = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        ask(format!("{head}authorization: Bearer {token}\r\n{rest}"))
    };
    assert!(pause("0123456789abcdef0123456789abcdee").starts_with("HTTP/1.1 401"));
    assert!(tool.json(&["groups", "payouts"])[0]["why"].as_str().is_none_or(|why| !why.contains("paused")));
    let paused = pause(token);
    assert!(paused.starts_with("HTTP/1.1 20"), "{paused}");
    let rows = tool.json(&["groups", "payouts"]);
    assert!(rows.to_string().contains("because"), "{rows}");
    console.signal("TERM");
    console.end();
    let _ = app.shutdown().await;
}
