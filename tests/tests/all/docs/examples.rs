//! The examples as newcomers run them: as processes, on the embedded broker and on a real server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use redis::Value;
use streams_runtime::{Publisher, stream_event};
use streams_tests::{Program, RedisServer};

struct Trades {
    url: String,
}

impl Trades {
    fn start(&self) -> Program {
        self.start_with(&[])
    }

    fn start_with(&self, arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trades"));
        command.args(arguments).env("REDIS_URL", &self.url).env("STREAMS_LEASE", "500ms");
        Program::start(&mut command)
    }

    /// Runs it to its end; what it says.
    fn run(&self) -> String {
        let mut process = self.start();
        assert_eq!(process.code(), Some(0), "{}", process.errors());
        process.output()
    }

    fn count(&self, key: &str) -> usize {
        redis::cmd("XLEN").arg(key).query(&mut RedisServer::client(&self.url)).unwrap()
    }

    /// Every trade is there once, in order, every group is done with the last one, and one was refused.
    fn check(&self) {
        let mut client = RedisServer::client(&self.url);
        let trades: redis::streams::StreamRangeReply =
            redis::cmd("XRANGE").arg("trades").arg("-").arg("+").query(&mut client).unwrap();
        let ids: Vec<String> = trades.ids.iter().map(|trade| trade.get("id").unwrap()).collect();
        assert_eq!(ids, (1..=5000).map(|n| format!("trade-{n}")).collect::<Vec<_>>());
        for group in ["vwap", "risk", "audit"] {
            let state: Value =
                redis::cmd("HGET").arg(format!("streams:{{trades}}:{group}")).arg("at").query(&mut client).unwrap();
            assert_eq!(redis::from_redis_value::<String>(state).unwrap(), trades.ids[4999].id, "{group}");
        }
        assert_eq!(self.count("streams:{trades}:risk:dead"), 1);
    }
}

#[test]
fn the_example_run_again_publishes_nothing_and_doubles_nothing() {
    let trades = Trades { url: RedisServer::shared().database() };
    assert!(trades.run().contains("published 5000 trades"));
    trades.check();
    let again = trades.run();
    assert!(again.contains("published 0 trades") && again.contains("up to date before this run"), "{again}");
    trades.check();
}

#[test]
fn the_example_publishes_on_while_it_is_live_and_ends_clean_when_it_is_stopped() {
    let trades = Trades { url: RedisServer::shared().database() };
    let mut process = trades.start_with(&["live"]);
    process.logs("owning group=\"audit\"");
    // More than one write of 200.
    while trades.count("trades") < 400 {
        std::thread::sleep(Duration::from_millis(10));
    }
    process.signal("INT");
    assert_eq!(process.code(), Some(0), "{}", process.errors());
    assert!(trades.count("trades") < 5000);
}

#[test]
fn the_example_killed_in_the_middle_goes_on_where_it_was() {
    for part in [1, 1500, 4000] {
        let trades = Trades { url: RedisServer::shared().database() };
        let mut process = trades.start();
        while trades.count("trades") < part {
            std::thread::sleep(Duration::from_micros(200));
        }
        process.signal("KILL");
        assert_eq!(process.code(), None);
        let left = 5000 - trades.count("trades");
        let output = trades.run();
        assert!(output.contains(&format!("published {left} trades")), "{output}");
        trades.check();
    }
}

/// Runs an example to its end; what it says.
fn run(program: &str, url: Option<&str>) -> String {
    let mut command = Command::new(program);
    command.envs(url.map(|url| ("REDIS_URL", url)));
    let mut process = Program::start(&mut command);
    assert_eq!(process.code(), Some(0), "{}", process.errors());
    process.output()
}

#[test]
fn orders_are_shipped_but_for_the_one_that_nobody_sells() {
    let url = RedisServer::shared().database();
    // On a server the second run goes on behind the orders of the first.
    for (url, first) in [(None, 1), (Some(&*url), 1), (Some(&*url), 5)] {
        let output = run(env!("CARGO_BIN_EXE_orders"), url);
        for (order, story) in [
            (first, "placed: 2 x tea; paid: 9.00; shipped from Rotterdam"),
            (first + 1, "placed: 1 x kettle; paid: 39.00; shipped from Memphis"),
            (first + 2, "placed: 1 x unicorn"),
            (first + 3, "placed: 12 x tea; paid: 54.00; shipped from Memphis"),
        ] {
            assert!(output.contains(&format!("order {order}: {story}\n")), "{output}");
        }
        assert!(output.contains(&format!("dead letter of payments: order {}: `unicorn` has no price", first + 2)));
    }
}

#[test]
fn a_dead_letter_is_replayed_and_another_discarded() {
    let url = RedisServer::shared().database();
    for url in [None, Some(&*url), Some(&*url)] {
        let output = run(env!("CARGO_BIN_EXE_retries"), url);
        let (before, after) = output.split_once("replaying:").unwrap();
        assert!(before.contains(r#"paid: {"ada": 100, "dea": 400}"#), "{output}");
        assert!(before.contains("handler at attempt 4: account ben is closed"), "{output}");
        assert!(before.contains("permanent at attempt 1: -300 cents cannot be paid out"), "{output}");
        assert!(after.contains(r#"paid: {"ada": 100, "ben": 200, "dea": 400}"#), "{output}");
        assert!(after.contains("is discarded"), "{output}");
    }
}

#[test]
fn nobody_waits_for_a_picture_that_takes_long() {
    let url = RedisServer::shared().database();
    for url in [None, Some(&*url), Some(&*url)] {
        let output = run(env!("CARGO_BIN_EXE_work-queue"), url);
        let made: Vec<_> = output.lines().filter_map(|line| line.split_once(" ms: ")).map(|(_, made)| made).collect();
        assert_eq!(made.len(), 7, "{output}");
        assert_eq!(made[6], "panorama.jpg at attempt 1", "{output}");
        assert!(made.contains(&"dune.raw at attempt 2"), "{output}");
        assert!(output.contains("7 pictures made here") && output.contains("stopped: Clean"), "{output}");
    }
}

/// A request to a service on this machine; the answer, head and all.
fn request(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "{request}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: &str, path: &str) -> String {
    request(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
}

#[test]
fn a_web_service_publishes_tells_how_it_is_and_stops_in_order() {
    let url = RedisServer::shared().database();
    for url in [None, Some(url)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_axum-service"));
        command.env("PORT", "0").envs(url.map(|url| ("REDIS_URL", url)));
        let mut service = Program::start(&mut command);
        service.prints("listening on http://");
        let address = service.output().trim().trim_start_matches("listening on http://").to_owned();

        let trade = r#"{"symbol":"BTC-USD","price":100.0,"quantity":0.5}"#;
        let head = "POST /trades HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
        let answer = request(&address, &format!("{head}\r\ncontent-length: {}\r\n\r\n{trade}", trade.len()));
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
        // The event is in the stream; the handler comes to it when it comes to it.
        while !get(&address, "/prices").ends_with(r#"{"BTC-USD":{"price":100.0,"trades":1}}"#) {
            std::thread::yield_now();
        }
        assert!(get(&address, "/ready").starts_with("HTTP/1.1 200 "));
        assert!(get(&address, "/metrics").contains("streams_published_total{stream=\"trades\",partition=\"0\"} 1\n"));
        service.signal("TERM");
        assert_eq!(service.code(), Some(0), "{}", service.errors());
    }
}

/// Waits until it holds.
#[track_caller]
fn soon(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not come to pass");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A trade as the service declares it.
#[stream_event(stream = "trades", key = symbol, lock = false)]
#[derive(Debug, Clone)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: f64,
}

/// The prices of a replica, by symbol: the last price, and of how many trades it is the last.
type Prices = BTreeMap<String, (f64, u64)>;

/// A replica of the service.
struct Replica {
    program: Program,
    address: String,
}

impl Replica {
    fn start(url: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_axum-service"));
        command.env("PORT", "0").env("REDIS_URL", url).env("SNAPSHOT_SECONDS", "1");
        let program = Program::start(&mut command);
        program.prints("listening on http://");
        let address = program.output().trim().trim_start_matches("listening on http://").to_owned();
        Self { program, address }
    }

    fn is_ready(&self) -> bool {
        get(&self.address, "/ready").starts_with("HTTP/1.1 200 ")
    }

    fn prices(&self) -> Prices {
        let answer = get(&self.address, "/prices");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let prices: BTreeMap<String, serde_json::Value> = serde_json::from_str(body).expect("prices");
        let last = |last: &serde_json::Value| (last["price"].as_f64().unwrap(), last["trades"].as_u64().unwrap());
        prices.iter().map(|(symbol, price)| (symbol.clone(), last(price))).collect()
    }
}

/// Two replicas are killed and started again while trades come. Each equals the truth, which the test computes from what it
/// has published, and is ready only when it has at least what was there when it began. At the end the stream is trimmed to
/// its last entry, and the next start has everything all the same.
#[test]
fn two_replicas_of_a_price_cache_equal_the_truth_however_they_are_killed() {
    let server = RedisServer::start();
    let url = server.url();
    let executor = tokio::runtime::Runtime::new().unwrap();
    let publisher = executor.block_on(Publisher::connect(&url)).unwrap();
    let mut truth = Prices::new();
    let publish = |truth: &mut Prices, trades: u64| {
        let trade = |n: u64| Trade { symbol: format!("S{}", n % 10), price: n as f64, quantity: 1.0 };
        let had: u64 = truth.values().map(|(_, trades)| trades).sum();
        let trades: Vec<_> = (had..had + trades).map(trade).collect();
        for trade in &trades {
            let last = truth.entry(trade.symbol.clone()).or_default();
            *last = (trade.price, last.1 + 1);
        }
        let receipts = executor.block_on(publisher.publish_all(trades));
        assert!(receipts.iter().all(Result::is_ok));
    };
    let equals = |replica: &Replica, truth: &Prices| {
        soon(|| replica.prices() == *truth);
    };
    let covers = |prices: &Prices, before: &Prices| {
        before.iter().all(|(symbol, (_, trades))| prices.get(symbol).is_some_and(|(_, now)| now >= trades))
    };
    publish(&mut truth, 20_000);
    let mut replicas = [Replica::start(&url), Replica::start(&url)];
    for round in 0..6 {
        publish(&mut truth, 1_000 * round);
        let one = usize::try_from(round % 2).unwrap();
        replicas[one].program.signal("KILL");
        replicas[one].program.end();
        publish(&mut truth, 2_000);
        let there = truth.clone();
        replicas[one] = Replica::start(&url);
        publish(&mut truth, 500);
        soon(|| replicas[one].is_ready());
        let prices = replicas[one].prices();
        assert!(covers(&prices, &there), "it was ready with {prices:?} where {there:?} was there");
        for replica in &replicas {
            equals(replica, &truth);
        }
    }
    // A snapshot of all of it, and then a retention that is far shorter than the state.
    let snapshot = "streams:{prices}:_snapshot";
    server.run::<()>(&format!("DEL {snapshot} {snapshot}:claim"));
    soon(|| server.run::<bool>(&format!("EXISTS {snapshot}")));
    drop(replicas);
    server.run::<()>("XTRIM trades MAXLEN = 1");
    publish(&mut truth, 100);
    let last = Replica::start(&url);
    equals(&last, &truth);
    assert!(!last.program.errors().contains("data loss"), "{}", last.program.errors());
}
