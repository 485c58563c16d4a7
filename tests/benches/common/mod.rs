//! The benches share this: their arguments, the machine they ran on, the server's CPU, and plain tables.

#![allow(dead_code, reason = "each bench uses its part")]

use std::env;
use std::fs;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use streams_tests::RedisServer;

/// Whether to run at all: `cargo test --all-targets` builds benches and runs them without `--bench`.
pub(crate) fn wanted(name: &str) -> bool {
    let wanted = env::args().any(|arg| arg == "--bench");
    if !wanted {
        println!("{name}: measures only under `cargo bench`");
    }
    wanted
}

/// The number behind `--name` on the command line.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    let mut args = env::args().skip_while(|arg| arg.strip_prefix("--") != Some(name));
    match args.nth(1) {
        Some(text) => text.replace('_', "").parse().unwrap_or_else(|_| panic!("--{name} wants a number, not `{text}`")),
        None => default,
    }
}

/// Prints the machine and the server on which the numbers were measured.
pub(crate) fn print_machine(server: &RedisServer) {
    let info: String = server.run("INFO server");
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("?").trim().to_owned()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    println!("machine: {cores} cores of {model}, {} {}; load before: {load}", env::consts::OS, env::consts::ARCH);
    println!(
        "server: Redis {} ({}), private, nothing persisted, over TCP on the loopback",
        field("redis_version"),
        field("os")
    );
}

/// A connection for the loops that the runtime is compared with, with the settings that suit them best.
pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    use redis::IntoConnectionInfo;
    let info = url.into_connection_info().expect("a URL");
    let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let client = redis::Client::open(info).expect("a client");
    client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
}

/// How much CPU the server has used since its start.
pub(crate) fn server_cpu(server: &RedisServer) -> Duration {
    let info: String = server.run("INFO cpu");
    let seconds = |name: &str| {
        let text = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
    };
    Duration::from_secs_f64(seconds("used_cpu_user") + seconds("used_cpu_sys"))
}

/// How much CPU this process has used since its start.
pub(crate) fn own_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program may hold spaces; it ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Linux counts in hundredths of a second, whatever the kernel's own tick is.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// A line of /proc/self/status in KiB: `VmRSS`, `VmHWM`.
pub(crate) fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The entries of a reply of XREAD or XREADGROUP on one key: id and the last field's value, taken apart by move.
pub(crate) fn entries(reply: Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = match reply {
        Value::Nil => return Vec::new(),
        Value::Map(mut streams) => streams.pop().map(|(_, list)| list),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut pair)) => pair.pop(),
            _ => None,
        },
        _ => None,
    };
    let Some(Value::Array(list)) = list else { panic!("no reply of XREAD") };
    list.into_iter()
        .map(|entry| {
            let Value::Array(mut entry) = entry else { panic!("no entry") };
            let (Some(Value::Array(mut fields)), Some(Value::BulkString(id))) = (entry.pop(), entry.pop()) else {
                panic!("no entry")
            };
            let Some(Value::BulkString(payload)) = fields.pop() else { panic!("no payload") };
            (id, payload)
        })
        .collect()
}

/// The middle one of some measurements.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// A number with its thousands apart.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints rows under their titles: the first column to the left, the others to the right.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([titles[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let print = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    };
    println!();
    print(&titles.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>());
    print(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
    rows.iter().for_each(|row| print(row));
    println!();
}

/// Says whether a target is met. It gates nothing: timings depend on the machine and on who else uses it.
pub(crate) fn target(what: &str, value: &str, met: bool) {
    println!("{} {what}: {value}", if met { "met   " } else { "MISSED" });
}
