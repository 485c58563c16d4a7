//! Runs a contender in a process of its own, and reads what it and the server took.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::contender::Contender;
use crate::server::RedisServer;
use crate::work::Form;

/// Published before the others to see whether everybody listens; not measured.
const WARM_UP: u64 = 50;
/// How many bytes of payload a read asks for where a contender lets one choose, but 10 entries at least and 1,000 at most.
const READ: usize = 1 << 20;

/// The task of a contender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) events: u64,
    pub(crate) groups: usize,
    pub(crate) consumers: usize,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// How the events come; with `None` they are there already.
    pub(crate) live: Option<Live>,
    /// How often a polling contender asks.
    pub(crate) poll: Duration,
}

/// Events that come one at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live {
    /// Per second.
    pub(crate) rate: u64,
    /// How long nothing comes before them: CPU and commands are those of this time, if there is any.
    pub(crate) idle: Duration,
}

/// The time and more that one contender took in one round.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Took {
    /// From its first connection to its last event, in seconds.
    pub(crate) wall: f64,
    /// CPU of the contender's process, in seconds.
    pub(crate) client: f64,
    /// CPU of the server, in seconds.
    pub(crate) redis: f64,
    pub(crate) commands: f64,
    /// Latency in milliseconds: p50, p95, p99.
    pub(crate) quantiles: [f64; 3],
    /// Resident memory of the contender's process at its end, in MiB.
    pub(crate) memory: f64,
}

/// Counters that can be read at any moment.
#[derive(Debug, Clone, Copy)]
struct Counters {
    client: f64,
    redis: f64,
    commands: f64,
}

impl Counters {
    fn read(server: &RedisServer, process: &Process) -> Self {
        let cpu: String = server.run("INFO cpu");
        let stats: String = server.run("INFO stats");
        Self {
            client: process.cpu(),
            redis: field(&cpu, "used_cpu_user") + field(&cpu, "used_cpu_sys"),
            commands: field(&stats, "total_commands_processed"),
        }
    }

    fn since(self, before: Self) -> Took {
        let [client, redis] = [self.client - before.client, self.redis - before.redis];
        Took { client, redis, commands: self.commands - before.commands, ..Took::default() }
    }
}

fn field(info: &str, name: &str) -> f64 {
    let text = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    text.and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in INFO"))
}

/// A contender in a process of its own.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    contender: Contender,
}

impl Process {
    fn start(contender: Contender, role: &str, args: &[String]) -> Self {
        let index = Contender::ALL.iter().position(|one| *one == contender).expect("one of all").to_string();
        let mut command = again(role);
        command.arg(index).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, input, output, contender }
    }

    /// Awaits the line that begins with this word, and answers the numbers behind it.
    fn line(&mut self, word: &str) -> Vec<f64> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        let rest = line.strip_prefix(word).unwrap_or_else(|| panic!("{:?} failed: {line:?}", self.contender));
        rest.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    }

    /// CPU of its user and system time so far, in seconds. Linux counts it in hundredths of a second.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("Linux's /proc");
        // The name of the program may hold spaces; it ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].iter().map(|index| fields[*index].parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    }

    /// Resident memory in MiB.
    fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux's /proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    /// Lets it stop and verify what it has seen.
    fn end(mut self) {
        self.input.write_all(b"\n").expect("it listens");
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{:?} failed: {status}", self.contender);
    }
}

/// This program again, in a role.
fn again(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("a path"));
    command.arg("role").arg(role);
    command
}

/// Lets a contender handle the events, and forgets its groups afterwards.
pub(crate) fn consume(server: &RedisServer, contender: Contender, load: Load) -> Took {
    let warm_up = if load.live.is_some() { WARM_UP } else { 0 };
    let poll = load.poll.as_micros() as u64;
    let count = (READ / load.size).clamp(10, 1_000) as u64;
    let numbers = [load.events, load.groups as u64, load.consumers as u64, warm_up, count, poll];
    let numbers = numbers.map(|number| number.to_string());
    let mut process = Process::start(contender, "consume", &[&[server.url()][..], &numbers].concat());
    // A backlog is worked off from the first moment of the process.
    let mut before = Counters { client: 0.0, ..Counters::read(server, &process) };
    let mut idle = None;
    if let Some(live) = load.live {
        process.line("listening");
        // Who has begun may still be about to read: nothing before this is measured.
        sleep(Duration::from_millis(500));
        publish_steadily(server, contender.form(), 100, 0, WARM_UP);
        process.line("ready");
        if !live.idle.is_zero() {
            // A contender may have something left to do from its start and for the first events.
            sleep(Duration::from_secs(2));
            let begin = Counters::read(server, &process);
            sleep(live.idle);
            idle = Some(Counters::read(server, &process).since(begin));
        }
        before = Counters::read(server, &process);
        publish_steadily(server, contender.form(), live.rate, WARM_UP, load.events);
    }
    let told = process.line("done");
    let took = idle.unwrap_or_else(|| Counters::read(server, &process).since(before));
    let memory = process.memory();
    process.end();
    forget(server, contender.form());
    let [wall, p50, p95, p99] = told[..] else { panic!("four numbers, not {told:?}") };
    Took { wall, quantiles: [p50, p95, p99], memory, ..took }
}

fn publish_steadily(server: &RedisServer, form: Form, rate: u64, first: u64, events: u64) {
    let form = Form::ALL.iter().position(|one| *one == form).expect("one of all") as u64;
    let numbers = [form, rate, first, events].map(|number| number.to_string());
    let status = again("steady").arg(server.url()).args(numbers).stdin(Stdio::null()).status().expect("a process");
    assert!(status.success(), "the publisher failed");
}

/// Lets a contender publish the events, and deletes them once they are verified.
pub(crate) fn publish(
    server: &RedisServer,
    contender: Contender,
    events: u64,
    size: usize,
    verify: impl FnOnce(&str),
) -> Took {
    let args = [server.url(), events.to_string(), size.to_string()];
    let mut process = Process::start(contender, "publish", &args);
    process.line("ready");
    let before = Counters::read(server, &process);
    process.input.write_all(b"\n").expect("it listens");
    let told = process.line("done");
    let took = Counters::read(server, &process).since(before);
    let memory = process.memory();
    process.end();
    verify(&server.url());
    server.flush();
    Took { wall: told[0], memory, ..took }
}

/// Removes every group of a stream, and the keys that this framework keeps beside it.
fn forget(server: &RedisServer, form: Form) {
    let key = form.key();
    for group in server.run::<Vec<redis::Value>>(&format!("XINFO GROUPS {key}")) {
        let name: std::collections::HashMap<String, redis::Value> =
            redis::from_redis_value(group).expect("the fields of a group");
        let name: String = redis::from_redis_value(name["name"].clone()).expect("its name");
        server.run::<()>(&format!("XGROUP DESTROY {key} {name}"));
    }
    for key in server.run::<Vec<String>>("KEYS streams:*") {
        server.run::<()>(&format!("DEL {key}"));
    }
}
