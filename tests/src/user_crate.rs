//! A user's own crate in a directory of its own, which shows the messages of cargo and the compiler about its events.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A crate that depends on `streams-core` and is gone when it is dropped.
#[derive(Debug)]
pub struct UserCrate {
    dir: TempDir,
}

/// One error of the compiler.
#[derive(Debug)]
pub struct CompilerError {
    /// Its message.
    pub message: String,
    /// The file of the crate where it stands.
    pub file: String,
    /// The text that it underlines.
    pub underlined: String,
}

impl UserCrate {
    /// A crate called `shop` without any source, in a package of this name.
    ///
    /// cargo tells two packages in one target directory apart by their names: each test needs another one.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn new(package: &str) -> Self {
        let made = Self::empty();
        let core = Self::workspace().join("streams-core");
        made.write(
            "Cargo.toml",
            // As in the workspace dependencies have no debug info, so that they need not be compiled again.
            &format!(
                "[package]\nname = \"shop-{package}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\nname = \"shop\"\n\n[dependencies]\n\
                 streams-core = {{ path = {core:?} }}\n\n[profile.dev]\ndebug = false\n\n[workspace]\n"
            ),
        );
        made
    }

    /// A directory with nothing but the workspace's own `Cargo.lock`, so that nothing is downloaded.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn empty() -> Self {
        let made = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let lock = fs::read_to_string(Self::workspace().join("Cargo.lock")).expect("the workspace's Cargo.lock");
        made.write("Cargo.lock", &lock);
        made
    }

    /// A program of the crate, once it is built.
    pub fn built(&self, name: &str) -> PathBuf {
        Self::target().join("debug").join(name)
    }

    fn target() -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Self::workspace().join("target"), PathBuf::from)
    }

    /// The directory of this repository.
    ///
    /// # Panics
    /// When the tests are nowhere in it.
    pub fn workspace() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of the workspace")
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, and the directories above it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The text of a file.
    ///
    /// # Panics
    /// When it is not there.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs a program in the crate.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn run(&self, program: impl AsRef<OsStr>, args: &[&str], env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path()).envs(env.iter().copied());
        for variable in ["CI", "STREAMS_LOCK", "STREAMS_BLESS", "STREAMS_LOCK_BASE"] {
            if !env.iter().any(|(name, _)| *name == variable) {
                command.env_remove(variable);
            }
        }
        command.output().expect("the program runs")
    }

    /// Downloads what the crate needs beside what the workspace does.
    ///
    /// # Panics
    /// When it cannot be downloaded.
    pub fn fetch(&self) {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let said = self.run(cargo, &["tree", "--quiet"], &[]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }

    /// Runs cargo, which downloads nothing. It shares the directory of the workspace's own artifacts.
    pub fn cargo(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        let target = Self::target().display().to_string();
        let mut env = env.to_vec();
        env.extend([("CARGO_TARGET_DIR", target.as_str()), ("CARGO_NET_OFFLINE", "true")]);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        self.run(cargo, args, &env)
    }

    /// The errors of `cargo check`.
    pub fn check(&self, env: &[(&str, &str)]) -> Vec<CompilerError> {
        let output = self.cargo(&["check", "--quiet", "--message-format=json"], env);
        let errors: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().filter_map(compiler_error).collect();
        assert_eq!(
            errors.is_empty(),
            output.status.success(),
            "cargo check failed otherwise: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        errors
    }

    /// Runs the unit tests.
    ///
    /// # Errors
    /// The output of cargo, when a test failed.
    pub fn test(&self, env: &[(&str, &str)]) -> Result<(), String> {
        self.run_tests(&["test", "--quiet", "--lib"], env)
    }

    /// Runs all tests, those in docs included.
    ///
    /// # Errors
    /// The output of cargo, when a test failed.
    pub fn test_all(&self, env: &[(&str, &str)]) -> Result<(), String> {
        self.run_tests(&["test", "--quiet", "--no-fail-fast"], env)
    }

    fn run_tests(&self, args: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
        let output = self.cargo(args, env);
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }
}

fn compiler_error(line: &str) -> Option<CompilerError> {
    let message: Value = serde_json::from_str(line).ok()?;
    let message = &message["message"];
    if message["level"] != "error" {
        return None;
    }
    let spans = message["spans"].as_array()?;
    // "aborting due to 3 previous errors" has none.
    let span = spans.iter().find(|span| span["is_primary"] == true)?;
    let text = &span["text"][0];
    let column = |name: &str| text[name].as_u64().map(|column| column as usize - 1);
    let line: Vec<char> = text["text"].as_str().unwrap_or_default().chars().collect();
    let underlined = column("highlight_start").zip(column("highlight_end"));
    let underlined = underlined.and_then(|(start, end)| line.get(start..end)).unwrap_or_default().iter().collect();
    Some(CompilerError {
        message: message["message"].as_str()?.to_owned(),
        file: span["file_name"].as_str()?.to_owned(),
        underlined,
    })
}
