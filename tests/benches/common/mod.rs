//! The benches share this: their arguments, the machine they ran on, the server's CPU, and plain tables.

#![allow(dead_code, reason = "each bench uses its part")]

pub(crate) mod figures;
pub(crate) mod replies;

use std::env;
use std::fs;
use std::time::Duration;

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
