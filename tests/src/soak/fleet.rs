//! Many worker processes on one server: started, killed, made to stand still, stopped and measured, each with its line
//! in the journal.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use streams_core::keys::StreamKey;
use streams_runtime::{PublishError, Publisher, Receipt};

use super::history::{Rules, judge};
use super::journal::{Mark, Reader, Record, Writer, micros};
use super::witness::watch_time;
use super::{Dice, Worker, checkpoint, dead_letters_of, keep, newest, wait_until};
use crate::{Options, RedisServer};

/// How often producers add events.
const EVERY: Duration = Duration::from_millis(10);
/// How many keys events have: a few per partition.
pub const KEYS: u64 = 64;
/// How often `/proc` counts the time of a process in a second.
const TICKS: f64 = 100.0;

/// The plan of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For how long.
    pub time: Duration,
    /// Decides what, when and to whom.
    pub seed: u64,
    /// How many processes.
    pub processes: usize,
    /// How many events are published in a second.
    pub load: u64,
    /// Whether times are judged, too.
    pub timed: bool,
    /// The program that is a worker when its first argument is a role.
    pub worker: PathBuf,
    /// Another build of that program: every second process, or each of the first build in `roll`.
    pub other: Option<PathBuf>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    about: String,
    figures: String,
    usage: Usage,
    /// Broken promises, in words; empty when all is well.
    pub violations: Vec<String>,
}

/// The processes, their server and their journal.
#[derive(Debug)]
pub struct Fleet {
    pub(super) server: RedisServer,
    pub(super) journal: Reader,
    plan: Plan,
    pen: Writer,
    workers: BTreeMap<u32, Worker>,
    lives: u32,
    used: BTreeMap<u32, Used>,
    began: u64,
    /// Faults of the processes themselves.
    pub(super) violations: Vec<String>,
}

/// The processor time and memory that a process used up to now.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    ticks: u64,
    kilobytes: u64,
}

/// The processor time and memory of all processes.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    /// Cores that the workers kept busy.
    pub cores: f64,
    /// Cores that the server kept busy.
    pub server_cores: f64,
    /// The most memory that a worker ever had, in MiB.
    pub memory: f64,
    /// The most memory that the server ever had, in MiB.
    pub server_memory: f64,
}

impl Fleet {
    /// A server that keeps what it has acknowledged, and nobody on it yet.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn new(plan: &Plan) -> Self {
        let server = Options::default().args(["--appendonly", "yes", "--appendfsync", "everysec"]).start();
        let path = server.dir().join("journal");
        let journal = Reader::open(&path).expect("the journal");
        let pen = Writer::open(&path, 0).expect("the journal");
        let (watch, mut client) = (Writer::open(&path, 0).expect("the journal"), RedisServer::client(&server.url()));
        // Ends with the server.
        thread::spawn(move || {
            watch_time(&watch, move || redis::cmd("PING").exec(&mut client).is_ok());
        });
        let (workers, used) = (BTreeMap::new(), BTreeMap::new());
        Self {
            server,
            journal,
            plan: plan.clone(),
            pen,
            workers,
            lives: 0,
            used,
            began: micros(),
            violations: Vec::new(),
        }
    }

    /// Starts a worker in a role; `build` says what it knows.
    pub fn start(&mut self, role: &str, build: u64) -> u32 {
        self.lives += 1;
        let life = self.lives;
        self.write(life, Mark::Started, build);
        let is_other = match role {
            "roll-old" => true,
            "roll-new" => false,
            _ => life.is_multiple_of(2),
        };
        let program = self.plan.other.as_ref().filter(|_| is_other).unwrap_or(&self.plan.worker);
        let worker = Worker::start(program, role, life, self.server.dir(), &self.server.url());
        self.workers.insert(life, worker);
        life
    }

    /// Waits until a worker has written something.
    pub fn wait_for(&mut self, life: u32, mark: Mark) {
        let is_it = |record: &Record| record.life == life && record.mark == mark;
        if !wait_until(|| self.journal.records().iter().rev().any(is_it)) {
            self.violations.push(format!("process {life} does not come to be {mark}"));
        }
    }

    /// The workers that run, from the oldest on.
    pub fn lives(&self) -> Vec<u32> {
        self.workers.keys().copied().collect()
    }

    /// `kill -9`.
    pub fn kill(&mut self, life: u32) {
        self.measure();
        if let Some(mut worker) = self.workers.remove(&life) {
            self.write(life, Mark::Killed, 0);
            worker.kill();
        }
    }

    /// Makes a worker stand still.
    pub fn silence(&self, life: u32) {
        self.write(life, Mark::Silenced, 0);
        self.signal(life, "STOP");
    }

    /// Lets it go on.
    pub fn resume(&self, life: u32) {
        self.write(life, Mark::Continued, 0);
        self.signal(life, "CONT");
    }

    /// Asks a worker to stop, and waits until it has.
    ///
    /// # Panics
    /// When its state cannot be asked for.
    pub fn terminate(&mut self, life: u32) {
        self.measure();
        self.write(life, Mark::Terminated, 0);
        self.signal(life, "TERM");
        let Some(mut worker) = self.workers.remove(&life) else { return };
        let mut status = None;
        wait_until(|| {
            status = worker.child.try_wait().expect("the state of a worker");
            status.is_some()
        });
        match status {
            // A signal has no code.
            Some(status) => self.write(life, Mark::Ended, status.code().map_or(255, |code| code.unsigned_abs().into())),
            None => self.violations.push(format!("process {life} does not stop")),
        }
    }

    fn signal(&self, life: u32, name: &str) {
        let Some(worker) = self.workers.get(&life) else { return };
        let sent = Command::new("kill").arg(format!("-{name}")).arg(worker.child.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name} of process {life}");
    }

    fn write(&self, life: u32, mark: Mark, n: u64) {
        self.pen.append(&Record { n, ..Record::now(life, mark) });
    }

    /// Reads the processor time and memory of the workers.
    pub fn measure(&mut self) {
        for (life, worker) in &self.workers {
            let of = |file| fs::read_to_string(format!("/proc/{}/{file}", worker.child.id())).unwrap_or_default();
            // After the name, which may hold blanks: state is the third field, and the times are the 14th and 15th.
            let stat = of("stat");
            let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
            let ticks = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
            let status = of("status");
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = peak.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default();
            self.used.insert(*life, Used { ticks, kilobytes });
        }
    }

    /// The processor time and memory used since the beginning.
    pub fn usage(&mut self) -> Usage {
        self.measure();
        let seconds = micros().saturating_sub(self.began) as f64 / 1e6;
        let info: String = self.server.run("INFO everything");
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default()
        };
        Usage {
            cores: self.used.values().map(|used| used.ticks).sum::<u64>() as f64 / TICKS / seconds,
            server_cores: (field("used_cpu_sys") + field("used_cpu_user")) / seconds,
            memory: self.used.values().map(|used| used.kilobytes).max().unwrap_or_default() as f64 / 1024.0,
            server_memory: field("used_memory_peak") / 1024.0 / 1024.0,
        }
    }

    /// Waits until the groups of a stream have settled all its entries. Answers the events that became dead letters, with
    /// their attempts.
    pub fn drain(&mut self, stream: &StreamKey, groups: &[&str]) -> Vec<(String, u32)> {
        let mut client = RedisServer::client(&self.server.url());
        let partitions = (0..stream.partitions()).map(|index| stream.partition(index));
        let keys = partitions.flat_map(|partition| groups.iter().map(move |group| partition.group(group)));
        let keys: Vec<_> = keys.collect();
        let mut left: Vec<_> = keys.iter().collect();
        wait_until(|| {
            sleep(EVERY);
            left.retain(|key| {
                let last = newest(&mut client, key.partition().as_str());
                last.is_some() && checkpoint(&mut client, key.state()) != last
            });
            left.is_empty()
        });
        self.violations.extend(left.iter().map(|key| format!("{key} has not settled everything")));
        keys.iter().flat_map(|key| dead_letters_of(&mut client, &key.dead())).collect()
    }

    /// Producers for it.
    pub fn load(&self) -> Load {
        let Plan { load, seed, .. } = self.plan;
        Load { url: self.server.url(), journal: self.server.dir().join("journal"), a_second: load, seed }
    }

    /// Waits until everything is settled, stops all workers and judges the journal.
    pub fn judge(mut self, run: &str, about: &str, stream: &StreamKey, rules: &Rules) -> Report {
        let groups: Vec<_> = rules.groups.iter().map(|group| group.name).collect();
        let dead = self.drain(stream, &groups);
        let given_up =
            |(event, attempts): &(String, u32)| format!("event {event} is a dead letter, attempts: {attempts}");
        self.violations.extend(dead.iter().map(given_up));
        self.report(run, about, |records| {
            let mut found = judge(records, rules);
            (std::mem::take(&mut found.violations), found.to_string())
        })
    }

    /// Stops all workers, has the journal judged, and reports.
    pub fn report(mut self, run: &str, about: &str, judge: impl FnOnce(&[Record]) -> (Vec<String>, String)) -> Report {
        let usage = self.usage();
        self.lives().into_iter().for_each(|life| self.terminate(life));
        let Plan { seed, processes, load, .. } = self.plan;
        let seconds = micros().saturating_sub(self.began) as f64 / 1e6;
        let about = format!("seed {seed}: {processes} processes, {load} events/s, {seconds:.1} s, {about}");
        let (mut violations, figures) = judge(self.journal.records());
        violations.append(&mut self.violations);
        keep(self.server.dir(), run, seed, &mut violations);
        Report { about, figures, usage, violations }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage { cores, server_cores, memory, server_memory } = self.usage;
        writeln!(f, "{}\n{}", self.about, self.figures)?;
        writeln!(f, "cores busy               {cores:>8.2} workers, {server_cores:.2} server")?;
        writeln!(f, "memory at most, MiB      {memory:>8.1} per worker, {server_memory:.1} server")?;
        match self.violations.as_slice() {
            [] => write!(f, "nothing lost, nothing out of order, every repeat explained"),
            violations => {
                write!(f, "{} VIOLATIONS:", violations.len())?;
                violations.iter().take(50).try_for_each(|violation| write!(f, "\n  {violation}"))
            }
        }
    }
}

/// Producers of events.
#[derive(Debug)]
pub struct Load {
    url: String,
    journal: PathBuf,
    a_second: u64,
    seed: u64,
}

impl Load {
    /// Publishes events of [`KEYS`] keys until `stop`, and writes acknowledged ones into the journal.
    ///
    /// `publish` gets a key and a number, publishes that event, and answers which is the first build that knows it.
    ///
    /// # Panics
    /// When one is not acknowledged: nothing happens to the server here.
    pub fn run<F>(&self, stop: &AtomicBool, mut publish: F)
    where
        F: AsyncFnMut(&Publisher, u64, u64) -> (Result<Receipt, PublishError>, u32),
    {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
        let pen = Writer::open(&self.journal, 0).expect("the journal");
        let (mut dice, mut next) = (Dice(self.seed), BTreeMap::<u64, u64>::new());
        executor.block_on(async {
            let publisher = Publisher::connect(&self.url).await.expect("a publisher");
            let mut tick = tokio::time::interval(EVERY);
            let mut due = 0.0;
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                due += self.a_second as f64 * EVERY.as_secs_f64();
                while due >= 1.0 {
                    due -= 1.0;
                    let key = dice.below(KEYS);
                    let n = next.entry(key).or_default();
                    *n += 1;
                    let (answer, build) = publish(&publisher, key, *n).await;
                    let partition = answer.expect("an event is published").partition;
                    pen.append(&Record { key, n: *n, partition, attempt: build, ..Record::now(0, Mark::Published) });
                }
            }
        });
    }
}
