//! `streams schema`: the shapes of events that programs have recorded beside a stream.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use streams_core::schema::lock::note;
use streams_runtime::{Known, Recorded};

use crate::connect::Server;
use crate::output::{Output, Row};
use crate::problem::{FAILED, Problem};
use crate::text::{json_lines, plain};
use crate::types::{Language, types};

/// Look at the shapes of events that programs have recorded
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Schema {
    /// The events of a stream, their versions and shapes, and who publishes and reads them
    Ls(Ls),
    /// The shape of an event in each form that programs have recorded
    Show(Show),
    /// The differences between the shapes that two builds have, or between a lock and what runs; 1 where one cannot read the other
    Diff(Diff),
    /// Types of events for programs in another language, written from locks; it needs no server
    Types(Types),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// The stream
    stream: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The stream
    stream: String,
    /// The event, such as `Trade`, or one version of it, such as `Trade@1`
    event: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// The stream
    stream: String,
    /// The event, such as `Trade`, or one version of it, such as `Trade@1`
    event: String,
    /// A lock (schemas/STREAM.lock.json) to compare with what runs, instead of builds with each other
    #[arg(long, value_name = "FILE")]
    lock: Option<std::path::PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Types {
    /// The language
    #[arg(long, value_enum)]
    lang: Language,
    /// The locks; all of `schemas/` unless given
    #[arg(value_name = "LOCK")]
    locks: Vec<std::path::PathBuf>,
}

impl Types {
    pub(crate) fn run(self, out: &mut Output) -> Result<(), Problem> {
        let mut files = self.locks;
        if files.is_empty() {
            let entries = std::fs::read_dir("schemas")
                .map_err(|error| format!("schemas: {error}; name the locks, or go to the directory of the crate"))?;
            let paths = entries.flatten().map(|entry| entry.path());
            files = paths.filter(|path| path.to_string_lossy().ends_with(".lock.json")).collect();
            files.sort();
        }
        let mut locks = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            locks.push((file.display().to_string(), text));
        }
        let locks = locks.iter().map(|(file, text)| (file.as_str(), text.as_str()));
        Ok(out.raw(&types(self.lang, locks)?)?)
    }
}

impl Schema {
    /// Runs it; answers its exit code.
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<u8, Problem> {
        match self {
            Self::Ls(command) => command.run(server, out).await.map(|()| 0),
            Self::Show(command) => command.run(server, out).await.map(|()| 0),
            Self::Diff(command) => command.run(server, out).await,
            Self::Types(command) => command.run(out).map(|()| 0),
        }
    }
}

/// The programs that share a shape.
fn shapes<'a>(known: &[&'a Known]) -> BTreeMap<&'a str, Vec<&'a Known>> {
    let mut shapes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in known {
        shapes.entry(one.fingerprint.as_str()).or_default().push(*one);
    }
    shapes
}

/// The programs, each once.
fn programs<'a>(known: impl Iterator<Item = &'a Known>) -> Vec<String> {
    let mut programs: Vec<_> = known.map(Known::by).collect();
    programs.sort_unstable();
    programs.dedup();
    programs
}

impl Ls {
    async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (stream, _) = server.stream(&self.stream).await?;
        let recorded = Recorded::of(&*server.broker, &stream).await?;
        let mut rows = Vec::new();
        let mut versions: BTreeMap<(&str, u64), Vec<&Known>> = BTreeMap::new();
        for known in &recorded.known {
            versions.entry((&known.event, known.version)).or_default().push(known);
        }
        for ((event, version), known) in versions {
            for (fingerprint, those) in shapes(&known) {
                let publishers = programs(those.iter().copied().filter(|known| known.publishes));
                let all = programs(those.iter().copied());
                let reads = recorded
                    .reads
                    .iter()
                    .filter(|reads| reads.event == event && (reads.oldest..=reads.newest).contains(&version));
                let readers: Vec<_> = reads.map(|reads| reads.group.clone()).collect();
                let last = those.iter().map(|known| known.at.as_str()).max().unwrap_or_default();
                rows.push(Row {
                    json: json!({
                        "event": event, "version": version, "fingerprint": fingerprint, "publishers": publishers,
                        "programs": all, "groups": readers, "said": last,
                    }),
                    cells: vec![
                        format!("{event}@{version}").into(),
                        fingerprint.into(),
                        publishers.join(", ").into(),
                        readers.join(", ").into(),
                        all.join(", ").into(),
                        last.into(),
                    ],
                });
            }
        }
        let head = [
            ("event", false),
            ("shape", false),
            ("publishers", false),
            ("read by groups", false),
            ("known to", true),
            ("said last", true),
        ];
        Ok(out.rows(&head, rows, "no program has recorded an event of this stream within a week")?)
    }
}

impl Show {
    async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (stream, _) = server.stream(&self.stream).await?;
        let recorded = Recorded::of(&*server.broker, &stream).await?;
        for (fingerprint, those) in shapes(&recorded.about(&self.event, stream.base())?) {
            let first = those[0];
            let who = programs(those.iter().copied());
            let value = json!({
                "event": first.event, "version": first.version, "fingerprint": fingerprint, "programs": who,
                "type": first.type_name, "place": first.place, "layout": first.lock["layout"], "schema": first.lock["schema"],
            });
            let shape = match &first.lock {
                Value::Null => "its shape is too long to be recorded".to_owned(),
                lock => json_lines(&lock["schema"]),
            };
            let text = format!(
                "{} in shape {}, known to {}\ndeclared as {} in {}\n{shape}\n",
                plain(&first.name()),
                plain(fingerprint),
                plain(&who.join(", ")),
                plain(&first.type_name),
                plain(&first.place)
            );
            out.line(|| text, value)?;
        }
        Ok(out.end()?)
    }
}

impl Diff {
    async fn run(self, server: &Server, out: &mut Output) -> Result<u8, Problem> {
        let (stream, _) = server.stream(&self.stream).await?;
        let recorded = Recorded::of(&*server.broker, &stream).await?;
        let about = recorded.about(&self.event, stream.base())?;
        let shapes = shapes(&about);
        let mut pairs = Vec::new();
        let sides: Vec<_> =
            shapes.values().map(|those| (those[0].lock.clone(), programs(those.iter().copied()).join(", "))).collect();
        if let Some(file) = &self.lock {
            let here = locked(file, &about[0].event, about[0].version)?;
            pairs.extend(sides.into_iter().map(|there| ((here.clone(), file.display().to_string()), there)));
        } else {
            for (index, here) in sides.iter().enumerate() {
                pairs.extend(sides[index + 1..].iter().map(|there| (here.clone(), there.clone())));
            }
        }
        let mut code = 0;
        for ((here, here_by), (there, there_by)) in pairs {
            let report = note::compare_entries(&here, &there);
            let (reads, written, lines) = match &report {
                Some(report) => (report.reads().0, report.reads().1, report.lines().map(str::to_owned).collect()),
                None => (false, false, vec!["one of the two shapes is not recorded or cannot be read".to_owned()]),
            };
            let is_same = here["schema"] == there["schema"] && here["layout"] == there["layout"];
            if !(is_same || reads && written) {
                code = FAILED;
            }
            let lines: Vec<String> = if is_same { Vec::new() } else { lines };
            let verdict = match (is_same, reads, written) {
                (true, ..) => "the same shape",
                (_, true, true) => "each reads the other's events",
                (_, true, false) => "here reads events from there, there does not read events from here",
                (_, false, true) => "there reads events from here, here does not read events from there",
                (_, false, false) => "neither reads the other's events",
            };
            let text = format!(
                "{}\n  here   {}\n  there  {}\n  {verdict}\n{}",
                plain(&about[0].name()),
                plain(&here_by),
                plain(&there_by),
                lines.iter().map(|line| format!("  - {}\n", plain(line))).collect::<String>()
            );
            let value = json!({
                "event": about[0].name(), "here": here_by, "there": there_by, "same": is_same,
                "here_reads_there": is_same || reads, "there_reads_here": is_same || written, "differences": lines,
            });
            out.line(|| text, value)?;
        }
        if out.is_for_people() && self.lock.is_none() && shapes.len() < 2 {
            out.say(&format!("all programs have the same shape of {}", about[0].name()), &Value::Null)?;
        }
        out.end()?;
        Ok(code)
    }
}

/// An event of a lock, in the form of a note.
fn locked(file: &std::path::Path, event: &str, version: u64) -> Result<Value, Problem> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| Problem::usage(format!("{shown}: {error}")))?;
    let lock: Value =
        serde_json::from_str(&text).map_err(|error| Problem::usage(format!("{shown} is no lock: {error}")))?;
    let entry = &lock["events"][event][version.to_string()];
    if entry.is_null() {
        return Err(format!("{shown} has no {event}@{version}").into());
    }
    Ok(json!({ "format": lock["format"], "layout": entry["layout"], "schema": entry["schema"] }))
}
