//! `screenshots`: a busy server with its console, and the browser that looks at every page and does every act.
//!
//! The pictures are in `target/screenshots`. Those of the documentation are written anew with `--docs`.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use crate::redis::install_package;
use crate::{cannot_run, cargo, exit_code, python, redis, repository};

/// The browsers that playwright can drive, by the names of their programs.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// The pictures of the documentation.
const DOCS: [(&str, &str); 4] = [
    ("overview-wide-light.png", "console-overview.png"),
    ("halted-wide-dark.png", "console-group.png"),
    ("letters-narrow-light.png", "console-letters.png"),
    ("overview-narrow-dark.png", "console-narrow.png"),
];

/// Runs it; `--acts` leaves the pictures out, `--docs` copies four of them to `docs/img`.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode, String> {
    let browser = || BROWSERS.iter().any(|name| redis::run(name, &["--version"]).is_some());
    if !browser() {
        install_package("chromium").map_err(|why| format!("there is no {}: {why}", BROWSERS.join(", ")))?;
    }
    let python = python::with_playwright()?;
    let folder = repository()?.join("target/screenshots");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut showcase = cargo(&["run", "-p", "streams-tests", "--bin", "showcase"], Vec::new())?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot_run)?;
    let mut line = String::new();
    let output = showcase.stdout.take().ok_or("the output of the showcase is not piped")?;
    BufReader::new(output).read_line(&mut line).map_err(|error| format!("reading from the showcase: {error}"))?;
    let words: Vec<_> = line.split_whitespace().collect();
    let [address, token, beside] = words[..] else {
        return Err("the showcase does not say where its consoles are".into());
    };
    let script = repository()?.join("xtask/src/screenshots.py");
    let looked = Command::new(&python).arg(script).args([address, token, beside]).arg(&folder).args(args).status();
    // The end of its input ends the showcase and its server.
    drop(showcase.stdin.take());
    showcase.wait().map_err(|error| format!("waiting for the showcase: {error}"))?;
    let looked = looked.map_err(|error| format!("cannot run {}: {error}", python.display()))?;
    if looked.success() && args.iter().any(|arg| arg == "--docs") {
        for (picture, name) in DOCS {
            let to = repository()?.join("docs/img").join(name);
            fs::copy(folder.join(picture), &to).map_err(|error| format!("{}: {error}", to.display()))?;
        }
    }
    Ok(exit_code(looked))
}
