//! A program under test as a process: [`Program`] takes its output, sends signals, and ends with the test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that is busy with a build.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that runs.
#[derive(Debug)]
pub struct Program {
    child: Child,
    output: Arc<Mutex<String>>,
    errors: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Program {
    /// Starts a program.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        // The environment of the tests must not reach the program.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if (name.starts_with("STREAMS_") || name == "REDIS_URL")
                && !command.get_envs().any(|(set, _)| set == &*name)
            {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (output, errors) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().expect("a pipe"), &output),
            collect(child.stderr.take().expect("a pipe"), &errors),
        ];
        Self { child, output, errors, readers }
    }

    /// Its standard output up to now.
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its standard error up to now.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line on standard output.
    ///
    /// # Panics
    /// When it does not come.
    pub fn says(&self, line: &str) {
        self.wait_for(line, || self.output().lines().any(|said| said == line));
    }

    /// Waits for a text on standard output.
    ///
    /// # Panics
    /// When it does not come.
    pub fn prints(&self, text: &str) {
        self.wait_for(text, || self.output().lines().any(|said| said.contains(text)));
    }

    /// Waits for a text on standard error.
    ///
    /// # Panics
    /// When it does not come.
    pub fn logs(&self, text: &str) {
        self.wait_for(text, || self.errors().contains(text));
    }

    fn wait_for(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "no `{what}` in:\n{}\n{}", self.output(), self.errors());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal, such as `TERM`.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When nobody knows.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the state of the program").is_some()
    }

    /// Waits until it has ended, and all its output is here.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the state of the program") {
                self.readers.drain(..).for_each(|reader| reader.join().expect("its output"));
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end:\n{}\n{}", self.output(), self.errors());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it has ended by itself; the exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn code(&mut self) -> Option<i32> {
        self.end().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects what comes until the end.
fn collect(from: impl Read + Send + 'static, into: &Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    let (mut from, into) = (BufReader::new(from), Arc::clone(into));
    thread::spawn(move || {
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

/// A Python that has redis-py and msgpack: where `cargo xtask test` says, or has put one.
pub fn python() -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python");
    let named = std::env::var_os("REDIS_PYTHON").map(PathBuf::from);
    named.unwrap_or_else(|| if made.is_file() { made } else { "python3".into() })
}
