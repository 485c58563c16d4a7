//! Measures how long events take to compile: 200 of them with 30 fields each and a lock, against serde's derives alone.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

const EVENTS: usize = 200;
const FIELDS: usize = 30;
const STREAMS: usize = 20;
/// How many rounds there are; the shortest counts, because other work of the machine only adds time.
const ROUNDS: usize = 5;

/// Types of fields, with their forms in a lock.
const TYPES: [(&str, &str); 6] = [
    ("String", r#""type": "string""#),
    ("u64", r#""type": "u64""#),
    ("f64", r#""type": "f64""#),
    ("Option<String>", r#""type": { "option": "string" }, "optional": true"#),
    ("bool", r#""type": "bool""#),
    ("Vec<u32>", r#""type": { "list": "u32" }"#),
];

/// Measures both crates in turn, and prints the ratios.
pub(crate) fn run() -> Result<(), String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let root = workspace.join("target/compile-time");
    let serde =
        Subject::write(&root, workspace, "serde", "serde = { version = \"1\", features = [\"derive\"] }", &plain())?;
    let core = format!("streams-core = {{ path = {:?} }}", workspace.join("streams-core"));
    let events = Subject::write(&root, workspace, "events", &core, &declared())?;
    for stream in 0..STREAMS {
        write(&events.dir.join(format!("schemas/s{stream}.lock.json")), &lock(stream))?;
    }
    println!("{EVENTS} events with {FIELDS} fields, `cargo check`, least of {ROUNDS}");
    for (what, incremental, bound) in [("from clean", "0", 2.2), ("after a change of one line", "1", 2.0)] {
        let (mut plain, mut ours) = (Duration::MAX, Duration::MAX);
        // The first round makes what the others find, and does not count.
        for round in 0..=ROUNDS {
            let times = (serde.check(incremental, round)?, events.check(incremental, round)?);
            if round > 0 {
                (plain, ours) = (plain.min(times.0), ours.min(times.1));
            }
        }
        let ratio = ours.as_secs_f64() / plain.as_secs_f64();
        println!(
            "{what}: serde's derives {:.2} s, events {:.2} s: {ratio:.2} times; at most {bound} is the aim",
            plain.as_secs_f64(),
            ours.as_secs_f64()
        );
    }
    Ok(())
}

/// A crate to compile.
struct Subject {
    dir: PathBuf,
    target: PathBuf,
    source: String,
}

impl Subject {
    fn write(root: &Path, workspace: &Path, name: &str, dependency: &str, source: &str) -> Result<Self, String> {
        let dir = root.join(name);
        let manifest = format!(
            "[package]\nname = \"compile-time-{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependency}\n\n[workspace]\n"
        );
        write(&dir.join("Cargo.toml"), &manifest)?;
        let lock = fs::read_to_string(workspace.join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
        write(&dir.join("Cargo.lock"), &lock)?;
        Ok(Self { dir, target: root.join("target"), source: source.to_owned() })
    }

    /// How long a check takes after one line has changed. Without incremental compilation it checks the whole crate.
    fn check(&self, incremental: &str, round: usize) -> Result<Duration, String> {
        let source = format!("{}\npub fn round() -> usize {{ {round} }}\n", self.source);
        write(&self.dir.join("src/lib.rs"), &source)?;
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let began = Instant::now();
        let status = Command::new(cargo)
            .args(["check", "--quiet", "--offline"].map(OsStr::new))
            .current_dir(&self.dir)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", incremental)
            // A lock that is not read would be quick to compare.
            .env("STREAMS_LOCK", "required")
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        let took = began.elapsed();
        if status.success() { Ok(took) } else { Err("the crate does not compile".to_owned()) }
    }
}

fn plain() -> String {
    structs(|_| "#[derive(serde::Serialize, serde::Deserialize)]".to_owned())
}

fn declared() -> String {
    structs(|event| format!("#[streams_core::stream_event(stream = \"s{}\")]", event % STREAMS))
}

fn structs(attribute: impl Fn(usize) -> String) -> String {
    let mut source = String::new();
    for event in 0..EVENTS {
        let _ = writeln!(source, "{}\npub struct Event{event} {{", attribute(event));
        for field in 0..FIELDS {
            let _ = writeln!(source, "    pub field{field:02}: {},", TYPES[field % TYPES.len()].0);
        }
        source.push_str("}\n");
    }
    source
}

fn lock(stream: usize) -> String {
    let fields: Vec<_> = (0..FIELDS)
        .map(|field| format!("{{ \"name\": \"field{field:02}\", {} }}", TYPES[field % TYPES.len()].1))
        .collect();
    let events: Vec<_> = (0..EVENTS)
        .filter(|event| event % STREAMS == stream)
        .map(|event| {
            let schema = format!("{{ \"struct\": \"Event{event}\", \"fields\": [{}] }}", fields.join(",\n"));
            format!("\"Event{event}\": {{ \"1\": {{ \"layout\": \"map\", \"schema\": {schema} }} }}")
        })
        .collect();
    format!("{{ \"format\": 1, \"stream\": \"s{stream}\", \"events\": {{ {} }} }}", events.join(",\n"))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text));
    made.map_err(|error| format!("{}: {error}", path.display()))
}
