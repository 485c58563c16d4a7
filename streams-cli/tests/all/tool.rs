//! The binary, and a server with a shop on it: streams, groups, dead letters and programs that run.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use streams_runtime::broker::Redis;
use streams_runtime::{App, BoxError, Config, Running, State, consumer, consumers, permanent, stream_event};
use streams_tests::RedisServer;

/// A payment, which fails while its account is closed.
#[stream_event(stream = "payouts", lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Payout {
    pub(crate) account: String,
    pub(crate) cents: i64,
}

/// A trade, on a stream of several partitions.
#[stream_event(stream = "trades", key = symbol, partitions = 4, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trade {
    pub(crate) symbol: String,
    pub(crate) price: f64,
    pub(crate) order: u64,
    pub(crate) signature: Vec<u8>,
    pub(crate) venue: Option<String>,
}

#[consumer(group = "bank", max_attempts = 2, backoff = "1ms..2ms")]
async fn pay(payout: Payout, open: State<Arc<AtomicBool>>) -> Result<(), BoxError> {
    if payout.cents < 0 {
        return Err(permanent("negative").into());
    }
    if open.0.load(Ordering::Relaxed) { Ok(()) } else { Err(format!("account {} is closed", payout.account).into()) }
}

#[consumer(group = "risk")]
async fn assess(_: Trade) {}

#[consumer(group = "mail", delivery = "queue")]
async fn mail(_: Payout) {}

/// The programs of the shop.
pub(crate) fn shop(open: &Arc<AtomicBool>) -> App {
    App::with(consumers![pay, assess, mail]).state(Arc::clone(open))
}

/// A shop on a database of its own.
pub(crate) struct Shop {
    pub(crate) tool: Tool,
    pub(crate) app: Running,
    pub(crate) open: Arc<AtomicBool>,
}

impl Shop {
    /// Three payouts that the bank gave up, and four trades that were handled.
    pub(crate) async fn open() -> Self {
        Self::at(Tool::new(RedisServer::shared().database())).await
    }

    pub(crate) async fn at(tool: Tool) -> Self {
        let open = Arc::new(AtomicBool::new(false));
        let broker = Arc::new(Redis::open(&tool.url).unwrap());
        let config = Config::new().lease(Duration::from_millis(600));
        let app = shop(&open).broker(broker).config(config).start().await.unwrap();
        for (n, cents) in [(1, 100), (2, 200), (3, -1)] {
            let payout = Payout { account: "ben".to_owned(), cents };
            app.publisher().publish(&payout).id(format!("payout-{n}")).header("tenant", "a").await.unwrap();
        }
        for (symbol, order) in [("BTC-USD", u64::MAX), ("ETH-USD", 2), ("DOGE", 3), ("BTC-USD", 4)] {
            let trade =
                Trade { symbol: symbol.to_owned(), price: 39432.5, order, signature: vec![0xc1, 0xff], venue: None };
            app.publisher().publish(&trade).id(format!("trade-{order}")).await.unwrap();
        }
        app.settled().await.unwrap();
        Self { tool, app, open }
    }
}

/// The tool at a server.
pub(crate) struct Tool {
    pub(crate) url: String,
    /// Further variables of its environment.
    pub(crate) variables: Vec<(String, String)>,
}

/// The output of a run, and its exit code.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Tool {
    pub(crate) fn new(url: String) -> Self {
        Self { url, variables: Vec::new() }
    }

    /// Runs it, with this on its standard input.
    pub(crate) fn fed(&self, args: &[&str], input: &str) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streams"));
        command.args(args).env_clear().env("REDIS_URL", &self.url).env("USER", "ada").env("HOME", "/nowhere");
        command.envs(self.variables.iter().cloned());
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        // It may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        self.fed(args, "")
    }

    /// Its table, or its lines for people.
    #[track_caller]
    pub(crate) fn table(&self, args: &[&str]) -> String {
        self.ok(&[args, &["-o", "table"]].concat())
    }

    /// Its standard output, of a run that ends well.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    }

    /// Its JSON, which is valid.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// The words with which it refuses, with this exit code.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str], code: i32) -> String {
        let said = self.run(args);
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{args:?}: {said:?}");
        said.err
    }
}

/// Numbers as `#` and ages as `#s`, with two blanks between columns: ids and times are of another day.
pub(crate) fn plain(text: &str) -> String {
    text.lines().map(plain_line).collect::<Vec<_>>().join("\n")
}

fn plain_line(line: &str) -> String {
    let mut plain = String::new();
    for character in line.chars() {
        match character {
            '0'..='9' if plain.ends_with('#') => {}
            '0'..='9' => plain.push('#'),
            other => plain.push(other),
        }
    }
    // An age has one or two of these units.
    let is_age = |word: &str| matches!(word, "#ms" | "#s" | "#m" | "#h" | "#d");
    let columns = plain.split("  ").map(str::trim).filter(|column| !column.is_empty());
    let columns = columns.map(|column| {
        let mut words: Vec<&str> = Vec::new();
        for word in column.split(' ') {
            match (is_age(word), words.last()) {
                (true, Some(&"#s")) => {}
                (true, _) => words.push("#s"),
                (false, _) => words.push(word),
            }
        }
        words.join(" ")
    });
    columns.collect::<Vec<_>>().join("  ")
}
