//! The speed of publishing: one at a time, by 64 tasks at once and in bulk. Each is beside the same with bare XADDs.
//!
//! `-- --events 200000 --rounds 5` are the defaults; one at a time is measured with a twentieth of the events.

mod common;

use std::future::Future;
use std::time::Instant;

use common::figures::{median, thousands};
use common::replies::connect;
use common::{number, own_cpu, server_cpu, table};
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use streams_runtime::{Publisher, stream_event};
use streams_tests::RedisServer;

/// How many tasks publish at once, and how many XADDs a bare pipeline holds.
const TASKS: u64 = 64;
const BULK: u64 = 256;

#[stream_event(stream = "trades", key = symbol)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: u64,
    buyer: String,
    seller: String,
    time_ms: u64,
}

fn trade(number: u64) -> Trade {
    Trade {
        symbol: "BTC-USD".to_owned(),
        price: 64_000.25,
        quantity: number,
        buyer: format!("account-{}", number % 1000),
        seller: format!("account-{}", number % 777),
        time_ms: 1_700_000_000_000 + number,
    }
}

/// A bare XADD of the same entry: the same fields, an event id of the same length, trimming.
fn xadd(number: u64) -> redis::Cmd {
    let mut payload = Vec::with_capacity(256);
    let mut serializer = rmp_serde::Serializer::new(&mut payload).with_struct_map();
    trade(number).serialize(&mut serializer).expect("encoded");
    let mut command = redis::cmd("XADD");
    command.arg("bare").arg("MINID").arg("~").arg("1-0").arg("*").arg("event").arg("Trade@1");
    command.arg("id").arg(format!("0190a5b0-0000-7000-8000-{number:012}")).arg("payload").arg(payload);
    command
}

async fn one_at_a_time(publisher: Publisher, numbers: std::ops::Range<u64>) {
    for number in numbers {
        publisher.publish(&trade(number)).await.expect("published");
    }
}

async fn bare_one_at_a_time(mut connection: MultiplexedConnection, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let _: String = xadd(number).query_async(&mut connection).await.expect("an id");
    }
}

async fn in_bulk(publisher: Publisher, events: u64) {
    for first in (0..events).step_by(10_000) {
        let answers = publisher.publish_all((first..(first + 10_000).min(events)).map(trade)).await;
        answers.into_iter().for_each(|answer| drop(answer.expect("published")));
    }
}

async fn bare_in_bulk(mut connection: MultiplexedConnection, events: u64) {
    for first in (0..events).step_by(BULK as usize) {
        let mut pipe = redis::pipe();
        for number in first..(first + BULK).min(events) {
            pipe.add_command(xadd(number));
        }
        let _: Vec<String> = pipe.query_async(&mut connection).await.expect("ids");
    }
}

/// The same by so many tasks at once.
async fn together<F>(events: u64, task: impl Fn(std::ops::Range<u64>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let share = events / TASKS;
    let tasks: Vec<_> = (0..TASKS).map(|index| tokio::spawn(task(index * share..(index + 1) * share))).collect();
    for task in tasks {
        task.await.expect("published");
    }
}

/// The seconds per event of one way to publish, one figure per round.
#[derive(Default)]
struct Times {
    wall: Vec<f64>,
    client: Vec<f64>,
    server: Vec<f64>,
}

impl Times {
    async fn measure(&mut self, server: &RedisServer, events: u64, run: impl Future<Output = ()>) {
        let (server_before, own_before, began) = (server_cpu(server), own_cpu(), Instant::now());
        run.await;
        self.wall.push(began.elapsed().as_secs_f64() / events as f64);
        self.client.push((own_cpu() - own_before).as_secs_f64() / events as f64);
        self.server.push((server_cpu(server) - server_before).as_secs_f64() / events as f64);
        server.flush();
    }
}

#[tokio::main]
async fn main() {
    if !common::wanted("publish") {
        return;
    }
    let (events, rounds) = (number("events", 200_000), number("rounds", 5));
    let server = RedisServer::start();
    common::print_machine(&server);
    let publisher = Publisher::connect(&server.url()).await.expect("a connection");
    let connection = connect(&server.url()).await;
    let few = events / 20;
    let mut times: [Times; 6] = Default::default();
    for _ in 0..rounds {
        let [bare_one, one, bare_many, many, bare_bulk, bulk] = &mut times;
        bare_one.measure(&server, few, bare_one_at_a_time(connection.clone(), 0..few)).await;
        one.measure(&server, few, one_at_a_time(publisher.clone(), 0..few)).await;
        let run = together(events, |numbers| bare_one_at_a_time(connection.clone(), numbers));
        bare_many.measure(&server, events, run).await;
        let run = together(events, |numbers| one_at_a_time(publisher.clone(), numbers));
        many.measure(&server, events, run).await;
        bare_bulk.measure(&server, events, bare_in_bulk(connection.clone(), events)).await;
        bulk.measure(&server, events, in_bulk(publisher.clone(), events)).await;
    }
    println!("\nmedians of {rounds} rounds:");
    let names = [
        "bare XADD, one at a time",
        "publish, one at a time",
        "bare XADD, 64 tasks",
        "publish, 64 tasks",
        "bare XADD, 256 a pipeline",
        "publish_all",
    ];
    let ratio = |index: usize, of: fn(&Times) -> &Vec<f64>| {
        let bare = &times[index - index % 2];
        median(of(&times[index]).iter().zip(of(bare)).map(|(ours, bare)| ours / bare))
    };
    let micros = |seconds: &[f64]| format!("{:.2}", median(seconds.to_vec()) * 1e6);
    let rows = names.iter().zip(&times).enumerate().map(|(index, (name, took))| {
        vec![
            (*name).to_owned(),
            thousands(1.0 / median(took.wall.clone())),
            format!("{:.2}", 1.0 / ratio(index, |took| &took.wall)),
            micros(&took.client),
            micros(&took.server),
            format!("{:.2}", ratio(index, |took| &took.server)),
        ]
    });
    table(
        &["", "events/s", "x of bare", "client us/event", "Redis us/event", "Redis x of bare"],
        &rows.collect::<Vec<_>>(),
    );
}
