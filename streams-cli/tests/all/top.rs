//! The tool in a terminal: what the keys of `streams top` do, a window that becomes smaller, a table that is as wide as it.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tool::Shop;

/// A terminal with a server of its own, which ends with it.
struct Terminal {
    place: TempDir,
}

impl Terminal {
    /// Runs the tool with this command in a window of 120 columns and 30 lines.
    fn start(url: &str, command: &str) -> Self {
        let terminal = Self { place: tempfile::tempdir().unwrap() };
        let run = [env!("CARGO_BIN_EXE_streams"), command].join(" ");
        let window = ["-x", "120", "-y", "30", "-e", &format!("REDIS_URL={url}"), "-e", "HOME=/nowhere"];
        // The window stays when the tool has ended, so that its last words are seen.
        let shell = format!("{run}; echo it ended with $?; read -r end");
        terminal.tmux(&[&["-f", "/dev/null", "new-session", "-d"], &window[..], &["sh", "-c", &shell]].concat());
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let command =
            command.env("TMUX_TMPDIR", self.place.path()).env_remove("TMUX").env("LC_ALL", "C.UTF-8").args(args);
        let output = command.output().expect("tmux is there: `cargo xtask test` brings it");
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    #[track_caller]
    fn shows(&self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.shown().contains(words) {
            assert!(Instant::now() < deadline, "{words}: {}", self.shown());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        let _ = command.env("TMUX_TMPDIR", self.place.path()).env_remove("TMUX").arg("kill-server").output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_shows_groups_live_one_group_its_dead_letters_and_its_events() {
    let Shop { tool, app, .. } = Shop::open().await;
    let terminal = Terminal::start(&tool.url, "top");
    terminal.shows("2 streams, 3 groups, lag 0, 3 dead letters");
    terminal.shows("up down  enter group  d dead letters  t last events  q quit");
    terminal.press("Enter");
    terminal.shows("group bank on payouts: running");
    terminal.shows("3 dead letters: streams dead ls payouts bank");
    terminal.press("d");
    terminal.shows("dead letters of bank on payouts, the oldest 50 at most");
    terminal.shows("account ben is closed");
    terminal.press("Escape");
    terminal.shows("enter group  d dead letters");
    terminal.press("Down");
    terminal.press("t");
    terminal.shows("the last events of payouts");
    terminal.shows("{\"account\":\"ben\",\"cents\":-1}");
    terminal.press("BSpace");
    terminal.shows("enter group  d dead letters");

    tool.ok(&["pause", "trades", "risk", "--why", "a test", "--yes"]);
    terminal.shows("paused  ");
    terminal.press("Home");
    terminal.shows(": a test");
    terminal.tmux(&["resize-window", "-x", "70", "-y", "12"]);
    terminal.shows("t last events  q quit\n");
    terminal.shows("paused");
    assert!(terminal.shown().lines().count() <= 12, "{}", terminal.shown());
    terminal.press("q");
    terminal.shows("it ended with 0");
    let _ = app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_as_wide_as_the_terminal_and_shows_the_last_column_whole() {
    let Shop { tool, app, .. } = Shop::open().await;
    let why = ["the", "warehouse", "moves"].repeat(10).join(" ");
    tool.ok(&["pause", "payouts", "bank", "--why", &why, "--yes"]);
    let terminal = Terminal::start(&tool.url, "groups payouts");
    terminal.shows("it ended with 0");
    let shown = terminal.shown();
    let words = shown.split_whitespace().filter(|word| *word == "warehouse").count();
    assert_eq!(words, 10, "{shown}");
    // The lines of the reason stand below each other, in the last column.
    let at = shown.lines().next().unwrap().find("WHY").unwrap();
    let lines: Vec<_> = shown.lines().skip(1).take_while(|line| !line.starts_with("payouts  mail")).collect();
    assert!(lines.len() > 3, "{shown}");
    assert!(lines[1..].iter().all(|line| line.len() <= 120 && line[..at].trim().is_empty()), "{shown}");
    let _ = app.shutdown().await;
}
