//! This framework beside other crates and bare loops: the same work, in the same run, each contender in a process of its own.
//!
//! `cargo xtask bench --peers` builds and runs it. Nothing here gates anything, except that every event has to be handled.

#[allow(dead_code, unreachable_pub, unused_macros, reason = "the harness of the tests has more")]
#[path = "../../tests/src/groups.rs"]
mod groups;
#[allow(dead_code, unreachable_pub, clippy::missing_panics_doc, reason = "the harness of the tests has more")]
#[path = "../../tests/src/server.rs"]
mod server;

mod bare;
mod contender;
#[path = "../../tests/benches/common/figures.rs"]
mod figures;
mod measure;
mod ours;
#[path = "../../tests/benches/common/replies.rs"]
mod replies;
mod report;
mod rust_stream;
mod scenarios;
mod sea;
mod work;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use contender::Contender;
use report::Section;
use scenarios::Size;
use work::{Form, Work, say};

const USAGE: &str = "\
usage: benches-peers [scenario] [options]

scenarios; without one all run, and docs/benchmarks.md, its chart and the tables of the README are written:
  backlog   fan-out   idle   queue   publish

options:
  --rounds N    rounds, each of which runs every contender (5)
  --events N    events of 100 B in a backlog, a queue or a publish (100000)
  --seconds N   how long events come in fan-out, and how long none does in idle (10)
  --groups N    groups in fan-out and idle (100)
  --smoke       little of everything, to see that it runs; writes nothing
";

type Scenario = fn(Size) -> Section;
const SCENARIOS: [(&str, Scenario); 5] = [
    ("backlog", scenarios::backlog),
    ("fan-out", scenarios::fanout),
    ("idle", scenarios::idle),
    ("queue", scenarios::queue),
    ("publish", scenarios::publishing),
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "role") {
        play(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let Some((scenario, size, smoke)) = parse(&args) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let others = report::others();
    let chosen = SCENARIOS.iter().filter(|(name, _)| scenario.is_none_or(|scenario| scenario == *name));
    let sections = chosen.map(|(_, run)| {
        let section = run(size);
        println!("{}", section.text());
        section
    });
    let sections: Vec<Section> = sections.collect();
    if scenario.is_none() && !smoke {
        report::write(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), size, others, &sections);
    }
    ExitCode::SUCCESS
}

/// The scenario, unless all are to run; how much; and whether it is for smoke alone.
fn parse(args: &[String]) -> Option<(Option<&str>, Size, bool)> {
    let smoke = args.iter().any(|arg| arg == "--smoke");
    let mut size = if smoke {
        Size { rounds: 1, events: 2_000, seconds: 1, groups: 5 }
    } else {
        Size { rounds: 5, events: 100_000, seconds: 10, groups: 100 }
    };
    let mut scenario = None;
    let mut args = args.iter().filter(|arg| *arg != "--smoke");
    while let Some(arg) = args.next() {
        if let Some((name, _)) = SCENARIOS.iter().find(|(name, _)| name == arg) {
            scenario = Some(*name);
            continue;
        }
        let value = args.next()?.replace('_', "").parse().ok().filter(|value| *value > 0)?;
        match arg.as_str() {
            "--rounds" => size.rounds = value,
            "--events" => size.events = value,
            "--seconds" => size.seconds = value,
            "--groups" => size.groups = usize::try_from(value).ok()?,
            _ => return None,
        }
    }
    Some((scenario, size, smoke))
}

/// Plays a role that the parent gave.
#[tokio::main]
async fn play(args: &[String]) {
    let number = |index: usize| args[index].parse::<u64>().expect("a number");
    let contender = || Contender::ALL[number(1) as usize];
    match args[0].as_str() {
        "consume" => {
            let work = Work {
                url: args[2].clone(),
                events: number(3),
                groups: number(4) as usize,
                consumers: number(5) as usize,
                warm_up: number(6),
                count: number(7) as usize,
                poll: Duration::from_micros(number(8)),
            };
            contender().consume(&work).await;
        }
        "publish" => {
            say("ready");
            work::answer().await;
            let began = Instant::now();
            contender().publish(&args[2], number(3), number(4) as usize).await;
            say(&format!("done {}", began.elapsed().as_secs_f64()));
            work::answer().await;
        }
        "steady" => Form::ALL[number(2) as usize].publish(&args[1], number(3), number(4), number(5)).await,
        role => panic!("there is no role {role}"),
    }
}
