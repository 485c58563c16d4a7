//! `streams top` in a terminal: what its keys do, and a window that becomes smaller.

use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tool::Shop;

/// A terminal with a server of its own, which ends with it.
struct Terminal {
    place: TempDir,
}

impl Terminal {
    /// Runs the tool in a window of 120 columns and 30 lines.
    fn start(url: &str) -> Self {
        let terminal = Self { place: tempfile::tempdir().unwrap() };
        let top = [env!("CARGO_BIN_EXE_streams"), "top"].join(" ");
        let window = ["-x", "120", "-y", "30", "-e", &format!("REDIS_URL={url}"), "-e", "HOME=/nowhere"];
        // The window stays when the tool has ended, so that its last words are seen.
        let shell = format!("{top}; echo it ended with $?; read -r end");
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
    let terminal = Terminal::start(&tool.url);
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
