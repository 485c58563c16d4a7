//! The operator's tool for dead letters as a process: the session that the guide shows, and what it refuses.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streams_runtime::broker::Redis;
use streams_runtime::{
    Admin, App, BoxError, Config, DeadLetterFilter, State, Stopped, consumer, consumers, permanent, stream_event,
};
use streams_tests::{Program, RedisServer};

/// The event of the session in docs/operating.md.
#[stream_event(stream = "payouts")]
#[derive(Debug, Clone, PartialEq)]
struct Payout {
    account: String,
    cents: i64,
}

#[consumer(group = "bank", max_attempts = 2, backoff = "1ms..2ms")]
async fn pay(payout: Payout, open: State<Arc<AtomicBool>>) -> Result<(), BoxError> {
    if payout.cents < 0 {
        return Err(permanent("negative").into());
    }
    if open.0.load(Ordering::Relaxed) { Ok(()) } else { Err(format!("account {} is closed", payout.account).into()) }
}

/// Runs the tool: its exit code and all it says.
fn tool(url: &str, args: &[impl AsRef<std::ffi::OsStr>]) -> (Option<i32>, String) {
    let mut process = Program::start(Command::new(env!("CARGO_BIN_EXE_dead-letters")).env("REDIS_URL", url).args(args));
    let code = process.code();
    (code, process.output() + &process.errors())
}

/// Numbers as `#`: ids and ages are of another day.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if plain.ends_with('#') => {}
            '0'..='9' => plain.push('#'),
            other => plain.push(other),
        }
    }
    plain
}

/// The words of a command, those in quotes as one.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_in_the_guide_says_what_the_tool_says() {
    let url = RedisServer::shared().database();
    let open = Arc::new(AtomicBool::new(false));
    let broker = Arc::new(Redis::open(&url).unwrap());
    let config = Config::new().lease(Duration::from_millis(600));
    let app = App::with(consumers![pay]).state(Arc::clone(&open)).broker(broker).config(config).start().await.unwrap();
    for (n, cents) in [(1, 100), (2, 200), (3, -1)] {
        let payout = Payout { account: "ben".to_owned(), cents };
        app.publisher().publish(&payout).id(format!("payout-{n}")).await.unwrap();
    }
    app.settled().await.unwrap();
    open.store(true, Ordering::Relaxed);
    let guide = include_str!("../../../../docs/operating.md");
    let session = guide.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let (mut first, mut commands) = (String::new(), 0);
    for block in session.split("$ ") {
        let Some((command, shown)) = block.strip_prefix("dead-letters ").and_then(|block| block.split_once('\n'))
        else {
            continue;
        };
        let mut args = words(command);
        args.iter_mut().filter(|arg| arg.starts_with("0/")).for_each(|arg| arg.clone_from(&first));
        let (code, said) = tool(&url, &args);
        assert_eq!((code, plain(said.trim())), (Some(0), plain(shown.trim())), "{command}:\n{said}");
        if command.starts_with("list") {
            first = said.split_whitespace().next().unwrap().to_owned();
        }
        commands += 1;
    }
    assert_eq!(commands, 6);
    let admin = Admin::on(Arc::new(Redis::open(&url).unwrap()), None).unwrap();
    let letters = admin.dead_letters("payouts", "bank").await.unwrap();
    while !letters.replaying(9).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 0);
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

#[test]
fn what_it_cannot_mean_it_refuses() {
    let url = RedisServer::shared().database();
    for (args, says) in [
        (&["list", "trades"][..], "the group is missing"),
        (
            &["list", "trades", "risk", "--cause", "luck"],
            "`luck` is no cause of a dead letter; expected one of: handler,",
        ),
        (&["list", "trades", "risk", "--older", "soon"], "`soon` is no age"),
        (&["list", "trades", "risk", "--older"], "`--older` needs a value"),
        (&["list", "trades", "risk", "--colour", "red"], "`--colour` is no option"),
        (&["show", "trades", "risk", "x/1-1"], "`x/1-1` is not an entry id"),
        (&["replay", "trades", "risk", "0/1-1", "--all"], "say ids or a filter, not both"),
    ] {
        let (code, said) = tool(&url, args);
        assert!(code == Some(2) && said.contains(says), "{args:?}: {said}");
    }
    redis::cmd("XADD").arg("trades").arg(&["*", "a", "b"]).exec(&mut RedisServer::client(&url)).unwrap();
    let create = ["CREATE", "trades", "risk", "0"];
    redis::cmd("XGROUP").arg(&create).exec(&mut RedisServer::client(&url)).unwrap();
    let nobody = "there is no state of group `rsik` on `trades`, perhaps `risk` is meant";
    for (args, says) in [
        (&["discard", "trades", "risk"][..], "which letters is `discard` meant for?"),
        (&["discard", "trades", "risk", "--limit", "3"], "which letters is `discard` meant for?"),
        (&["resume", "trades", "risk"], "there is no state of group `risk` on `trades`"),
        (&["replay", "trades", "risk", "0/1-1"], "has no state, so nobody would handle"),
        (&["burn", "trades", "risk"], "`burn` is no command"),
        (&["list", "trades", "rsik"], nobody),
        (&["count", "trades", "rsik"], nobody),
        (&["show", "trades", "rsik", "0/1-1"], nobody),
        (&["replay", "trades", "rsik", "--all"], nobody),
        (&["replay", "trades", "rsik", "0/1-1"], nobody),
        (&["waiting", "trades", "rsik"], nobody),
        (&["discard", "trades", "rsik", "--all"], nobody),
        (&["discard", "trades", "rsik", "0/1-1"], nobody),
        (&["resume", "trades", "rsik"], nobody),
        (&["count", "trdes", "risk"], "there is neither a stream `trdes` nor a state"),
        (&["count", "trades", "risk", "--partition", "7"], "there is no partition 7"),
    ] {
        let (code, said) = tool(&url, args);
        assert!(code == Some(1) && said.contains(says), "{args:?}: {said}");
    }
    let (code, said) = tool(&url, &["discard", "trades", "risk", "0/1-1"]);
    assert_eq!((code, said.as_str()), (Some(0), "0 discarded\n1 were not there\n"));
}
