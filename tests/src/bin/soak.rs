//! The long run under faults, `cargo xtask soak`; as `soak worker ..` it is the process that is killed.

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use streams_runtime::{App, Batch, BoxError, Config, Context, State, consumer, consumers, permanent};
use streams_tests::soak::journal::{Mark, Writer};
use streams_tests::soak::{LEASE, Plan, Tick, gives_up, soak, stumbles, takes};

const USAGE: &str = "\
usage: cargo xtask soak -- [--kills 100] [--events 50000] [--seed N]

Kills a worker process again and again while it handles events of a private Redis server, and checks at the end
that nothing was lost, reordered or repeated beyond the promise. The same seed makes the same decisions.
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
    if let [command, life, journal, url] = args.as_slice()
        && command == "worker"
    {
        return worker(life, journal, url);
    }
    let Some(plan) = plan(&args) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("seed {}", plan.seed);
    let report = soak(&plan);
    println!("{report}");
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(args: &[String]) -> Option<Plan> {
    let worker = env::current_exe().ok()?;
    let mut plan = Plan { kills: 100, events: 50_000, seed: streams_tests::soak::journal::micros(), worker };
    let mut args = args.iter();
    while let Some(option) = args.next() {
        let number = args.next()?.parse::<u64>().ok()?;
        match option.as_str() {
            "--kills" => plan.kills = u32::try_from(number).ok()?,
            "--events" => plan.events = number,
            "--seed" => plan.seed = number,
            _ => return None,
        }
    }
    (plan.events >= u64::from(plan.kills) * 20).then_some(plan)
}

fn worker(life: &str, journal: &str, url: &str) -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let journal = Writer::open(Path::new(journal), life.parse().expect("a number")).expect("the journal");
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let broker = streams_runtime::broker::Redis::open(url).expect("a URL");
    let app = App::with(consumers![fast, waits, fails, gathers])
        .state(Arc::new(journal))
        .broker(Arc::new(broker))
        .config(Config::new().lease(LEASE));
    match executor.block_on(app.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
