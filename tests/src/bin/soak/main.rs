//! The long runs under faults, `cargo xtask soak`, `chaos`, `share`, `queue` and `roll`. In the role of a worker the
//! program is a process that handles events.

mod queue;
mod roll;
mod share;

use std::env;
use std::fmt::Display;
use std::path::Path;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use streams_runtime::{App, Batch, BoxError, Config, Context, State, consumer, consumers, permanent};
use streams_tests::soak::chaos::{self, chaos};
use streams_tests::soak::fleet;
use streams_tests::soak::journal::{Mark, Writer, micros};
use streams_tests::soak::queue::queue;
use streams_tests::soak::roll::roll;
use streams_tests::soak::share::share;
use streams_tests::soak::witness::Witness;
use streams_tests::soak::{LEASE, Plan, Tick, gives_up, soak, stumbles, takes};

const USAGE: &str = "\
usage: cargo xtask soak -- [--kills 100] [--events 50000] [--seed N]

Kills a worker process again and again while it handles events of a private Redis server, and checks at the end
that nothing was lost, reordered or repeated beyond the promise. The same seed makes the same decisions.

usage: cargo xtask chaos -- [--minutes 10] [--seed N]

Does the same with the server in the worker's place, while worker processes handle events and a publisher adds some.
The server is killed, stopped, filled, made a replica and kept busy, and it loses its connections and scripts.

usage: cargo xtask share -- [--seconds 60] [--minutes N] [--processes 8] [--load 500] [--seed N]

Lets many processes share the partitions of a stream while they are killed, made to stand still, stopped and started
again. Every event is accounted for, and every repeat and every change of owners needs a cause. No takeover may be late.

usage: cargo xtask queue -- [--seconds 60] [--minutes N] [--processes 8] [--load 500] [--seed N]

Lets many processes fetch from one work queue while they are harmed in the same ways. A tenth of the attempts fail, and some
events take long. Every event is done or given up, with its attempts counted right.

usage: cargo xtask roll -- [--seconds 60] [--minutes N] [--processes 3] [--load 500] [--seed N]

Puts a new build of a service in the place of the old one and back, process by process. Meanwhile producers publish
events that only the new build knows. Every event is handled by a build that knows it.
";

type Journal = State<Arc<Writer>>;

#[consumer(group = "fast")]
async fn fast(tick: Tick, ctx: Context, journal: Journal) {
    journal.write("fast", Mark::Begun, tick.n, ctx.attempt());
    journal.write("fast", Mark::Done, tick.n, ctx.attempt());
}

#[consumer(group = "waits", checkpoint = 100)]
async fn waits(tick: Tick, ctx: Context, journal: Journal) {
    journal.write("waits", Mark::Begun, tick.n, ctx.attempt());
    let time = takes(tick.n);
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
    journal.write("waits", Mark::Done, tick.n, ctx.attempt());
}

#[consumer(group = "fails", checkpoint = 250, max_attempts = 3, backoff = "1ms..2ms")]
async fn fails(tick: Tick, ctx: Context, journal: Journal) -> Result<(), BoxError> {
    journal.write("fails", Mark::Begun, tick.n, ctx.attempt());
    let result = match gives_up(tick.n) {
        Some(1) => Err(permanent("never").into()),
        Some(_) => Err("not this time either".into()),
        None if stumbles(tick.n) && ctx.attempt() == 1 => Err("not this time".into()),
        None => Ok(()),
    };
    let mark = if result.is_ok() { Mark::Done } else { Mark::Failed };
    journal.write("fails", mark, tick.n, ctx.attempt());
    result
}

#[consumer(group = "gathers", batch = 120, batch_wait = "20ms", checkpoint = 50)]
async fn gathers(ticks: Batch<Tick>, journal: Journal) {
    for tick in ticks.events() {
        journal.write("gathers", Mark::Begun, tick.n, ticks.attempt());
        let time = takes(tick.n);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        journal.write("gathers", Mark::Done, tick.n, ticks.attempt());
    }
}

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [.., "--help"] => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        [role, life, journal, url] if !role.starts_with("--") && !life.starts_with("--") => {
            work(role, life, Path::new(journal), url)
        }
        ["soak", options @ ..] => tell(soak_plan(options).map(|plan| soak(&plan)), |report| &report.violations),
        ["chaos", options @ ..] => tell(chaos_plan(options).map(|plan| chaos(&plan)), |report| &report.violations),
        ["share", options @ ..] => tell(fleet_plan(8, options).map(|plan| share(&plan)), |report| &report.violations),
        ["roll", options @ ..] => tell(fleet_plan(3, options).map(|plan| roll(&plan)), |report| &report.violations),
        ["queue", options @ ..] => tell(fleet_plan(8, options).map(|plan| queue(&plan)), |report| &report.violations),
        _ => tell(None::<fleet::Report>, |report| &report.violations),
    }
}

/// Tells what came of a run, or what can be asked for.
fn tell<R: Display>(report: Option<R>, violations: fn(&R) -> &[String]) -> ExitCode {
    let Some(report) = report else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("{report}");
    if violations(&report).is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Goes through options that have numbers; `None` when one is not known to `set`.
fn options(words: &[&str], mut set: impl FnMut(&str, u64) -> Option<()>) -> Option<()> {
    words.chunks(2).try_for_each(|pair| match pair {
        [option, number] => set(option, number.parse().ok()?),
        _ => None,
    })
}

fn soak_plan(words: &[&str]) -> Option<Plan> {
    let mut plan = Plan { kills: 100, events: 50_000, seed: micros(), worker: env::current_exe().ok()? };
    options(words, |option, number| {
        match option {
            "--kills" => plan.kills = u32::try_from(number).ok()?,
            "--events" => plan.events = number,
            "--seed" => plan.seed = number,
            _ => return None,
        }
        Some(())
    })?;
    println!("seed {}", plan.seed);
    (plan.events >= u64::from(plan.kills) * 20).then_some(plan)
}

fn chaos_plan(words: &[&str]) -> Option<chaos::Plan> {
    let (worker, seed) = (env::current_exe().ok()?, micros());
    let mut plan = chaos::Plan { time: Duration::from_secs(600), seed, worker };
    options(words, |option, number| {
        match option {
            "--minutes" => plan.time = Duration::from_secs(number.checked_mul(60)?),
            "--seed" => plan.seed = number,
            _ => return None,
        }
        Some(())
    })?;
    println!("seed {}", plan.seed);
    Some(plan)
}

fn fleet_plan(processes: usize, words: &[&str]) -> Option<fleet::Plan> {
    let (worker, seed, time) = (env::current_exe().ok()?, micros(), Duration::from_secs(60));
    let mut plan = fleet::Plan { time, seed, processes, load: 500, timed: true, worker };
    options(words, |option, number| {
        match option {
            "--seconds" => plan.time = Duration::from_secs(number),
            "--minutes" => plan.time = Duration::from_secs(number.checked_mul(60)?),
            // Two may be gone at once, and one has to be left.
            "--processes" => plan.processes = usize::try_from(number).ok()?,
            "--load" => plan.load = number,
            "--seed" => plan.seed = number,
            _ => return None,
        }
        Some(())
    })?;
    println!("seed {}", plan.seed);
    (plan.processes > 2).then_some(plan)
}

/// Handles events until a signal stops it.
fn work(role: &str, life: &str, journal: &Path, url: &str) -> ExitCode {
    let life = life.parse().expect("a number");
    let app = match role {
        "queue" => queue::app().state(Witness::start(journal, life)),
        "share" => share::app().state(Witness::start(journal, life)),
        "roll-old" => roll::old().state(Witness::start(journal, life)),
        "roll-new" => roll::new().state(Witness::start(journal, life)),
        _ => {
            tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
                .with_ansi(false)
                .with_writer(std::io::stderr)
                .init();
            App::with(consumers![fast, waits, fails, gathers])
                .state(Arc::new(Writer::open(journal, life).expect("the journal")))
                .config(Config::new().lease(LEASE))
        }
    };
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let broker = streams_runtime::broker::Redis::open(url).expect("a URL");
    match executor.block_on(app.broker(Arc::new(broker)).run()) {
        Ok(stopped) => stopped.report(),
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
