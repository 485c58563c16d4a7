//! Chores of this repository: tests, benchmarks, the long [runs](RUNS), `compile-time`, `tidy`, which checks the layout of
//! the code, and `deploy`, which checks the files of `deploy/`.
//!
//! It has no dependencies, because it is the first thing that a newcomer compiles. [`redis`] finds or installs the
//! server's program, [`python`] finds a Python with a client, and [`tally`] sums the reports of the test programs. The
//! tests start private servers from that program and stop them. Nothing here starts a server or connects to one.

mod compile_time;
mod deploy;
mod imports;
mod python;
mod redis;
mod rooms;
mod screenshots;
mod tally;

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use tally::Tally;

const USAGE: &str = "\
usage: cargo xtask <command> [arguments]

commands:
  test           all tests, those on a real server included: cargo test --workspace --all-features
  test --quick   unit tests, and the engine on the embedded broker in virtual time: for the loop of changing the engine
  bench          the benchmarks: cargo bench -p streams-tests
  bench --peers  beside bare loops and other crates: all, and writes docs/benchmarks.md and the README's tables; or one scenario
  tidy           the rooms of the runtime, and every import and circle that their table does not allow; takes no arguments
  deploy         the files in deploy/, each by its own validator; fetches these where they are missing; takes no arguments
  screenshots    the console in a headless browser: every page, wide and narrow, light and dark, and every act; or --acts alone
  compile-time   what events cost the compiler, against serde's derives alone; takes no arguments

long runs under faults, each a `cargo run --release -p streams-tests --bin soak`:
  soak           one worker is killed again and again
  chaos          the server goes wrong in every way
  share          many processes share a stream and are killed, held up, stopped and started
  queue          many processes take from one work queue and are killed, held up, stopped and started
  roll           two builds of a service take each other's place

Arguments go on to cargo as they are:
  cargo xtask test -- loses_nothing      tests whose name contains `loses_nothing`
  cargo xtask test -p streams-core       the tests of one package
  cargo xtask soak --help                what the long runs can do
  cargo xtask chaos --minutes 1          a short one
  cargo xtask bench --peers --help       the scenarios, and how much they measure

Each command but `tidy`, `deploy` and `compile-time` looks for a Redis server, 7.0 or later, or Valkey: at REDIS_SERVER, then in PATH.
Where there is none it installs one with apt-get or brew. The tests want a Python with redis-py and msgpack, too: at
REDIS_PYTHON, then in target/python or PATH; where there is none it makes one in target/python, or has apt-get
install python3-redis and python3-msgpack. The test of `streams top` wants tmux, which apt-get installs where it is missing.
";

/// The long runs, each by the word that selects it in the program of all.
const RUNS: [&str; 5] = ["soak", "chaos", "share", "queue", "roll"];

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let command = args.next().unwrap_or_default();
    let rest = args.collect::<Vec<_>>();
    let result = match command.to_str() {
        Some(name) if RUNS.contains(&name) => {
            // The following arguments go to the program, with or without the two dashes.
            let rest = rest.into_iter().skip_while(|arg| arg == "--");
            let args = [name.into()].into_iter().chain(rest).collect();
            run(&["run", "--release", "-p", "streams-tests", "--bin", "soak", "--"], args)
        }
        Some("test") if rest.first().is_some_and(|arg| arg == "--quick") => quick(&rest[1..]),
        Some("test") => test(rest),
        Some("bench") if rest.first().is_some_and(|arg| arg == "--peers") => peers(&rest[1..]),
        Some("bench") => run(&["bench", "-p", "streams-tests"], rest),
        Some("tidy") => tidy(),
        Some("deploy") => repository().and_then(deploy::check).map(|()| ExitCode::SUCCESS),
        Some("screenshots") => screenshots::run(&rest),
        Some("compile-time") => compile_time::run().map(|()| ExitCode::SUCCESS),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            if !command.is_empty() {
                eprintln!("unknown command `{}`\n", command.display());
            }
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|message| {
        eprintln!("error: {message}");
        ExitCode::FAILURE
    })
}

/// Runs the package beside the workspace that compares us with peers, and compiles them first.
///
/// It shares the workspace's folder of builds, so that what both need is compiled once.
fn peers(args: &[OsString]) -> Result<ExitCode, String> {
    let manifest = repository()?.join("benches-peers/Cargo.toml");
    let mut command = cargo(&["run", "--locked", "--manifest-path"], vec![manifest.into()])?;
    // Nobody looks at the figures of a smoke run, and an optimised build takes twice as long.
    if !args.iter().any(|arg| arg == "--smoke") {
        command.arg("--release");
    }
    if env::var_os("CARGO_TARGET_DIR").is_none() {
        command.env("CARGO_TARGET_DIR", repository()?.join("target"));
    }
    let status = command.arg("--").args(args.iter().skip_while(|arg| *arg == "--")).status().map_err(cannot_run)?;
    Ok(exit_code(status))
}

fn repository() -> Result<&'static Path, String> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or_else(|| "this package is in no repository".to_owned())
}

/// The end-to-end tests that `test --quick` leaves to `test`, because they need a server or take seconds: parts of their names.
const SLOW: [&str; 4] = ["on_redis", "walks::", "histories::", "too_old"];

/// Runs what tells soonest whether a change of the engine holds: the unit tests, and its tests on the embedded broker.
fn quick(args: &[OsString]) -> Result<ExitCode, String> {
    let packages = ["-p", "streams-core", "-p", "streams-runtime", "-p", "streams-tests"];
    let mut command = Command::new(cargo_path());
    command
        .args(["test", "--all-features", "--no-fail-fast"])
        .args(packages)
        .args(["--lib", "--test", "quick"])
        .args(args);
    if !args.iter().any(|arg| arg == "--") {
        command.arg("--");
    }
    command.args(SLOW.iter().flat_map(|name| ["--skip", name]));
    let mut tally = Tally::default();
    let status = count(&mut command, &mut tally)?;
    sum(&tally)?;
    Ok(exit_code(status))
}

/// Runs every test, passes the output on as it comes, and ends with one line that sums all test programs.
fn test(args: Vec<OsString>) -> Result<ExitCode, String> {
    // Without `--no-fail-fast` the sum would lack every test program after the first that fails.
    let mut command = vec!["test", "--all-features", "--no-fail-fast"];
    if !names_package(&args) {
        command.push("--workspace");
    }
    let python = python::find_or_install()?;
    // The terminal of `streams top`.
    if redis::run("tmux", &["-V"]).is_none() {
        redis::install_package("tmux")
            .map_err(|why| format!("there is no tmux to test `streams top` with, and it is not installed: {why}"))?;
    }
    let mut tally = Tally::default();
    let status = count(cargo(&command, args)?.env(python::VARIABLE, python), &mut tally)?;
    sum(&tally)?;
    Ok(exit_code(status))
}

/// Runs a `cargo test`, passes its output on as it comes, and counts it.
fn count(command: &mut Command, tally: &mut Tally) -> Result<ExitStatus, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(cannot_run)?;
    let output = child.stdout.take().ok_or("the output of cargo is not piped")?;
    let before = tally.failed;
    let copied = copy(output, io::stdout().lock(), tally);
    let status = child.wait().map_err(|error| format!("waiting for cargo: {error}"))?;
    copied.map_err(cannot_write)?;
    if !status.success() && tally.failed == before {
        eprintln!("cargo test failed, yet no test did: it did not build, or a test program was killed; counted as one");
        tally.failed += 1;
    }
    Ok(status)
}

/// Ends with one line that sums all test programs.
fn sum(tally: &Tally) -> Result<(), String> {
    writeln!(io::stdout(), "{tally}").map_err(cannot_write)
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn cannot_write(error: io::Error) -> String {
    format!("passing on the output of cargo: {error}")
}

/// Draws the rooms of the runtime, and says what is wrong with them.
fn tidy() -> Result<ExitCode, String> {
    print!("{}", rooms::check(repository()?)?);
    Ok(ExitCode::SUCCESS)
}

/// Whether the arguments for cargo choose packages, which `--workspace` would silently overrule.
fn names_package(args: &[OsString]) -> bool {
    args.iter()
        .map(|arg| arg.to_string_lossy())
        .take_while(|arg| arg != "--")
        .any(|arg| arg.starts_with("-p") || arg == "--package" || arg.starts_with("--package="))
}

/// Runs cargo with a server's program in `REDIS_SERVER`.
fn run(command: &[&str], args: Vec<OsString>) -> Result<ExitCode, String> {
    let status = cargo(command, args)?.status().map_err(cannot_run)?;
    Ok(exit_code(status))
}

/// A cargo command whose programs find a server's program in `REDIS_SERVER`.
fn cargo(command: &[&str], args: Vec<OsString>) -> Result<Command, String> {
    let server = redis::find_or_install()?;
    eprintln!("using {server}");
    let mut cargo = Command::new(cargo_path());
    cargo.args(command).args(args).env(redis::VARIABLE, server.path);
    Ok(cargo)
}

/// The cargo that runs this, not another version that happens to stand first in PATH.
fn cargo_path() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Passes output on as it comes, and counts it.
///
/// It passes chunks and not lines, because the name of a hanging test is a line without an end. It owns its end of the
/// pipe, so that a cargo whose output nobody can read any more ends, too.
fn copy(mut from: impl Read, mut to: impl Write, tally: &mut Tally) -> io::Result<()> {
    let mut chunk = [0; 8192];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        tally.feed(&chunk[..read]);
        to.write_all(&chunk[..read])?;
        to.flush()?;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn cannot_run(error: io::Error) -> String {
    format!("cannot run cargo: {error}")
}

/// The exit code of cargo; 1 when a signal ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_passed_on_unchanged_and_counted() {
        let text = "\nrunning 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n";
        let (mut out, mut tally) = (Vec::new(), Tally::default());
        copy(text.as_bytes(), &mut out, &mut tally).unwrap();
        assert_eq!(out, text.as_bytes());
        assert_eq!(tally.to_string(), "1 passed, 0 failed");
    }

    #[test]
    fn the_workspace_is_tested_unless_a_package_is_named() {
        let names = |args: &[&str]| names_package(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(names(&["-p", "xtask"]) && names(&["--locked", "--package=xtask"]) && names(&["-pxtask"]));
        assert!(!names(&[]) && !names(&["--lib", "--", "-p"]));
    }
}
