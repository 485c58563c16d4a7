//! The lock of a stream, `schemas/<stream>.lock.json`: a record of its events' shapes, so that no change goes
//! unnoticed.
//!
//! Three checks find a change. The compiler compares an event with its lock, and stops at the field that breaks a
//! reader ([`compat`](super::compare) holds the rules). The test that each event brings along writes shapes that are
//! not locked yet, and demands that a changed shape is recorded ([`check`]). `history` compares the lock itself with an
//! earlier commit.

mod form;
mod history;
#[doc(hidden)]
pub mod note;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Compat, Layout, Report, Schema, compare, text_eq};
use crate::{EventInfo, EventRegistration, StreamEvent, codec};

pub use history::check_history;

/// A version of an event in a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockedEvent {
    /// The stream that carries the event.
    pub stream: &'static str,
    /// The event's name on the wire.
    pub name: &'static str,
    /// Its version.
    pub version: u32,
    /// Its shape on the wire, without fields and variants that were removed.
    pub schema: &'static Schema,
    /// The form of its structs on the wire.
    pub layout: Layout,
}

/// The events in the text of a lock, by name and version, without retired ones. It is for programs that write types in
/// other languages: the answer stays in memory until the program ends.
///
/// # Errors
/// When it is no lock, or has a format that this version does not know.
pub fn events(text: &str) -> Result<Vec<LockedEvent>, String> {
    let lock: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    if lock["format"] != FORMAT {
        return Err(format!("it has format {}, and this version reads format {FORMAT}", lock["format"]));
    }
    let leak = |text: &str| -> &'static str { String::leak(text.to_owned()) };
    let stream = leak(lock["stream"].as_str().ok_or("it has no `stream`")?);
    let mut events = Vec::new();
    for (name, versions) in lock["events"].as_object().into_iter().flatten() {
        for (number, entry) in versions.as_object().into_iter().flatten().filter(|(_, entry)| entry["retired"] != true)
        {
            let invalid = |problem: String| format!("it cannot be read at `{name}@{number}`: {problem}");
            let version = number.parse().map_err(|_| invalid("the version is no number".to_owned()))?;
            let layout = read_layout(entry).map_err(invalid)?;
            let schema = form::to_schema(&form::present(&entry["schema"])).map_err(invalid)?;
            events.push(LockedEvent { stream, name: leak(name), version, schema, layout });
        }
    }
    events.sort_by_key(|event| (event.name, event.version));
    Ok(events)
}

/// The form of the locks that this version writes.
const FORMAT: u64 = 1;

/// The place and the environment of an event's compilation. Not public API: the attribute writes it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Build {
    pub event: &'static EventInfo,
    pub compat: Compat,
    /// The lock, from the directory of the crate's manifest.
    pub file: &'static str,
    pub module: &'static str,
    /// Whether it is compiled for unit tests.
    pub test: bool,
    /// The values of `STREAMS_LOCK` and `STREAMS_BLESS` at compile time.
    pub lock: Option<&'static str>,
    pub bless: Option<&'static str>,
}

/// A shape that the lock holds for an event. Not public API: the attribute writes it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Locked {
    pub schema: &'static Schema,
    pub layout: Layout,
    pub published: bool,
}

impl Build {
    /// Whether the event breaks its lock without `STREAMS_BLESS`.
    #[track_caller]
    pub const fn breaks(&self, locked: &Locked) -> bool {
        let blessed = match bless(self.bless) {
            Bless::Nothing | Bless::Publish => false,
            Bless::Unpublished => !locked.published,
            Bless::Everything => true,
        };
        if blessed || self.is_of_tests() || matches!(self.compat, Compat::None) {
            return false;
        }
        is_other(locked.layout, self.event.layout)
            || compare(locked.schema, self.event.schema, locked.layout, self.compat).breaks() > 0
    }

    /// The report of the readers that the event breaks.
    pub const fn report(&self, locked: &Locked) -> Report {
        let mut report = compare(locked.schema, self.event.schema, locked.layout, self.compat);
        if is_other(locked.layout, self.event.layout) {
            report.write("\n  - the layout changed from ");
            report.write(locked.layout.word());
            report.write(" to ");
            report.write(self.event.layout.word());
            report.write(" [new code cannot read old events, nor deployed consumers new ones]");
        }
        report
    }

    /// Stops the compiler at a field or variant, if the event breaks a reader there.
    #[track_caller]
    pub const fn at(&self, locked: &Locked, report: &Report, place: &str) {
        if report.is_at(place) {
            self.stop(locked, report);
        }
    }

    /// Stops the compiler.
    #[track_caller]
    pub const fn stop(&self, locked: &Locked, report: &Report) -> ! {
        let text = self.refusal(locked.published, report);
        panic!("{}", text.text())
    }

    const fn refusal(&self, published: bool, report: &Report) -> Report {
        let mut text = self.begin();
        text.write(" no longer matches its lock, ");
        text.write(self.file);
        text.write(":");
        text.write(report.text());
        text.write(if published { "\nversion " } else { "\nif version " });
        text.write_number(self.event.version as u64);
        text.write(if published { " is published: " } else { " was ever used: " });
        text.write(
            "undo the change, or keep this type as it was and declare the changed event as a new one with `version = ",
        );
        text.write_number(self.event.version as u64 + 1);
        text.write("`");
        if !published {
            text.write("\nif it never was: `STREAMS_BLESS=1 cargo test` takes the new shape into the lock");
        }
        text
    }

    /// Stops the compiler if an event must be locked and is not.
    ///
    /// # Panics
    /// While compiling.
    #[track_caller]
    pub const fn unlocked(&self) {
        let required = match self.lock {
            None => false,
            Some(word) if text_eq(word, "required") => true,
            Some(word) if word.is_empty() => false,
            Some(_) => panic!("`STREAMS_LOCK` can only be `required`: events without a lock are refused"),
        };
        // Checks the value of `STREAMS_BLESS`.
        bless(self.bless);
        if self.is_of_tests() {
            return;
        }
        let mut text = self.begin();
        if required {
            text.write(" is not in ");
            text.write(self.file);
            text.write(", and STREAMS_LOCK=required: run `cargo test` without it, and commit the file");
            panic!("{}", text.text());
        }
        if !self.test && has_tests(self.module) {
            text.write(" is in a module for tests, where events are not locked, and this is no test: ");
            text.write("give the module another name, put `#[cfg(test)]` on it, or say `lock = false`");
            panic!("{}", text.text());
        }
    }

    const fn begin(&self) -> Report {
        let mut text = Report::new(Compat::None, false);
        text.write("event `");
        text.write(self.event.name);
        text.write("@");
        text.write_number(self.event.version as u64);
        text.write("`");
        text
    }

    /// Whether only a test sees the event: in a doc test, or in a module `tests` of unit tests.
    const fn is_of_tests(&self) -> bool {
        starts_with(self.module, "rust_out")
            || starts_with(self.module, "doctest_bundle_")
            || self.test && has_tests(self.module)
    }
}

/// The changes that `STREAMS_BLESS` allows.
#[derive(Clone, Copy, PartialEq)]
enum Bless {
    Nothing,
    /// `1`: changes that break nobody, and any change of a version that is not published.
    Unpublished,
    /// `breaking`: any change.
    Everything,
    /// `publish`: marks the locked shapes as published.
    Publish,
}

#[track_caller]
const fn bless(word: Option<&str>) -> Bless {
    match word {
        None => Bless::Nothing,
        Some(word) if word.is_empty() || text_eq(word, "0") => Bless::Nothing,
        Some(word) if text_eq(word, "1") => Bless::Unpublished,
        Some(word) if text_eq(word, "breaking") => Bless::Everything,
        Some(word) if text_eq(word, "publish") => Bless::Publish,
        Some(_) => panic!("`STREAMS_BLESS` can be `1`, `breaking` or `publish`"),
    }
}

const fn is_other(a: Layout, b: Layout) -> bool {
    !text_eq(a.word(), b.word())
}

const fn starts_with(text: &str, start: &str) -> bool {
    let (text, start) = (text.as_bytes(), start.as_bytes());
    let mut i = 0;
    while i < start.len() {
        if i == text.len() || text[i] != start[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Whether a part of the path is `tests` or `test`.
const fn has_tests(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        // The first part is the crate, whatever its name.
        if bytes[i] == b':' {
            let (_, rest) = path.split_at(i + 1);
            if is_part_of(rest, "tests") || is_part_of(rest, "test") {
                return true;
            }
        }
        i += 1;
    }
    false
}

/// Whether the first part of a path has this name.
const fn is_part_of(path: &str, name: &str) -> bool {
    starts_with(path, name) && (path.len() == name.len() || path.as_bytes()[name.len()] == b':')
}

/// An event of this crate, for the tests of its locks. Not public API: the attribute writes it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Site {
    pub build: Build,
    pub manifest_dir: &'static str,
    /// The program that declares it; `None` for a library.
    pub bin: Option<&'static str>,
}

inventory::collect!(Site);

/// The test that an event brings along. Not public API: the attribute writes the call.
///
/// # Panics
/// When the lock does not describe the event, with the remedy.
#[doc(hidden)]
#[track_caller]
pub fn check<E: StreamEvent>(manifest_dir: &str) {
    let ours = |site: &&Site| site.manifest_dir == manifest_dir && site.build.event == E::INFO;
    let site =
        inventory::iter::<Site>.into_iter().find(ours).expect("the attribute registers the event beside its test");
    if site.build.is_of_tests() {
        return;
    }
    if let Err(problem) = codec::holds_to_schema::<E>() {
        panic!("{problem}");
    }
    let asked = Asked::from_environment();
    let declared = inventory::iter::<Site>
        .into_iter()
        .filter(|other| other.manifest_dir == site.manifest_dir && other.bin == site.bin)
        .map(|other| (other.build.event.stream, other.build.event.name))
        .collect();
    let dir = Path::new(site.manifest_dir);
    if let Err(problem) = update(dir, site, &declared, asked) {
        panic!("{problem}");
    }
    // It reads all locks of the package once, however many events call it.
    static SEEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let first = SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned());
    let problems = if first { orphans(dir, site.bin, asked).and_then(|()| history_asked(dir)) } else { Ok(()) };
    if let Err(problems) = problems {
        panic!("{problems}");
    }
}

/// Checks the history of a directory, if `STREAMS_LOCK_BASE` is set.
fn history_asked(dir: &Path) -> Result<(), String> {
    let Some(base) = std::env::var("STREAMS_LOCK_BASE").ok().filter(|base| !base.is_empty()) else { return Ok(()) };
    check_history(dir, &base)
        .map_err(|problems| format!("the locks of {} have changed since `{base}`:\n{problems}", dir.display()))
}

/// The environment of a check.
#[derive(Clone, Copy)]
struct Asked {
    bless: Bless,
    ci: bool,
}

impl Asked {
    fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        Self {
            bless: bless(variable("STREAMS_BLESS").as_deref()),
            ci: variable("CI").is_some_and(|ci| !ci.is_empty() && ci != "false" && ci != "0"),
        }
    }
}

/// Compares an event with its lock, and writes the changes that are allowed.
///
/// `declared` holds every event of the program, by stream and name.
fn update(manifest_dir: &Path, site: &Site, declared: &BTreeSet<(&str, &str)>, asked: Asked) -> Result<(), String> {
    let Build { event, file: shown, .. } = site.build;
    let path = manifest_dir.join(shown);
    let _alone = Exclusive::over(&path)?;
    let before = read(&path, shown)?;
    let mut lock = match &before {
        Some(lock) => lock.clone(),
        None => json!({ "format": FORMAT, "stream": event.stream, "events": {} }),
    };
    if lock["stream"] != event.stream {
        // A file system may not distinguish `Trades` from `trades`.
        return Err(format!(
            "{shown} is the lock of stream {}, not of `{}`; rename one of them",
            lock["stream"], event.stream
        ));
    }
    forgotten(&mut lock, site, declared, asked)?;
    let version = event.version.to_string();
    if lock["events"].get(event.name).is_none() && asked.bless == Bless::Nothing {
        moved(&path, site, declared)?;
    }
    let entry = match lock["events"].get(event.name).and_then(|versions| versions.get(&version)) {
        None if asked.ci && asked.bless == Bless::Nothing => {
            return Err(format!(
                "event `{}@{version}` is not in {shown}; run `cargo test` where `CI` is not set, and commit the file; an event that only a test needs says `lock = false`",
                event.name
            ));
        }
        None => {
            let mut entry = new_entry(site, &form::to_value(event.schema, event.layout));
            if asked.bless == Bless::Publish {
                entry["published"] = json!(true);
            }
            entry
        }
        Some(old) => changed_entry(old, site, asked)?,
    };
    if !lock["events"][event.name].is_object() {
        lock["events"][event.name] = json!({});
    }
    lock["events"][event.name][&version] = entry;
    if before.as_ref().is_some_and(|before| *before == lock) {
        return Ok(());
    }
    write(&path, &lock).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Names in the lock that no type has any more. Most likely a type was renamed, and its events with it.
fn forgotten(lock: &mut Value, site: &Site, declared: &BTreeSet<(&str, &str)>, asked: Asked) -> Result<(), String> {
    let Build { event, file: shown, .. } = site.build;
    let Some(events) = lock["events"].as_object_mut() else { return Err(format!("{shown} has no `events`")) };
    let renamed = if events.contains_key(event.name) { None } else { Some(event.name) };
    for (name, versions) in events.iter_mut().filter(|(name, _)| !declared.contains(&(event.stream, name.as_str()))) {
        if let Err((version, bless)) = retire(versions, site.bin, asked) {
            let renamed = renamed.map_or_else(
                || format!("write `name = \"{name}\"` on its type if that was renamed"),
                |new| format!("if `{new}` is that type renamed, write `name = \"{name}\"` on it: deployed consumers know no `{new}`"),
            );
            return Err(format!(
                "{shown} has `{name}@{version}`, which no type declares any more; {renamed}; run the tests with the features that declare it; or retire it with `{bless} cargo test`"
            ));
        }
    }
    Ok(())
}

/// Marks the versions of an event that no type declares any more, if that is allowed. Otherwise it answers the first of
/// them, and the setting that would allow it.
fn retire(versions: &mut Value, bin: Option<&str>, asked: Asked) -> Result<(), (String, &'static str)> {
    for (version, entry) in versions.as_object_mut().into_iter().flatten() {
        let ours = entry["bin"].as_str() == bin;
        if !ours || entry["retired"] == true {
            continue;
        }
        let published = entry["published"] == true;
        let may = match asked.bless {
            Bless::Unpublished => !published,
            Bless::Everything => true,
            Bless::Nothing | Bless::Publish => false,
        };
        if !may {
            let bless = if published { "STREAMS_BLESS=breaking" } else { "STREAMS_BLESS=1" };
            return Err((version.clone(), bless));
        }
        entry["retired"] = json!(true);
    }
    Ok(())
}

/// Checks that each event in the locks of a package is still declared. If `STREAMS_LOCK_BASE` names a base, it also
/// checks what [`check_history`] checks.
///
/// Each event's own test does the same for all locks of its package. A package that loses its last event has no such
/// test left, so write one that stays:
///
/// ```no_run
/// streams_core::schema::lock::check_locks(env!("CARGO_MANIFEST_DIR"), option_env!("CARGO_BIN_NAME")).unwrap();
/// ```
///
/// It is a unit test of the crate that declares the events. `bin` is the program, or `None` for the library.
/// `STREAMS_BLESS` works as in the other checks.
///
/// # Errors
/// A line per event that no type declares any more, with the remedy; or the reason why a lock cannot be read or
/// written.
pub fn check_locks(manifest_dir: impl AsRef<Path>, bin: Option<&str>) -> Result<(), String> {
    let dir = manifest_dir.as_ref();
    orphans(dir, bin, Asked::from_environment())?;
    history_asked(dir)
}

/// Locks of streams whose events are all gone: no other check opens them.
fn orphans(dir: &Path, bin: Option<&str>, asked: Asked) -> Result<(), String> {
    let linked = inventory::iter::<EventRegistration>.into_iter().map(|event| event.info);
    let declared: BTreeSet<_> = linked.map(|event| event.stream).collect();
    let mut problems = Vec::new();
    let mut names: Vec<_> = lock_files(&dir.join("schemas")).collect();
    names.sort();
    for name in names {
        let (path, shown) = (dir.join("schemas").join(&name), format!("schemas/{name}"));
        let _alone = Exclusive::over(&path)?;
        let Some(before) = read(&path, &shown)? else { continue };
        // The tests of the declared events judge the others of their stream.
        if before["stream"].as_str().is_some_and(|stream| declared.contains(stream)) {
            continue;
        }
        let mut lock = before.clone();
        for (event, versions) in lock["events"].as_object_mut().into_iter().flatten() {
            if let Err((version, bless)) = retire(versions, bin, asked) {
                problems.push(format!(
                    "{shown} has `{event}@{version}`, which no type declares any more, nor any other event of its stream; declare it again; run the tests with the features that declare it; or retire it with `{bless} cargo test`"
                ));
            }
        }
        if problems.is_empty() && lock != before {
            write(&path, &lock).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// The names of the locks in a directory. There may be none, and no directory.
fn lock_files(schemas: &Path) -> impl Iterator<Item = String> {
    let files = fs::read_dir(schemas).ok().into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).filter(|name| name.ends_with(".lock.json"))
}

/// A new event that another stream had, where no type declares it any more. Most likely the stream was renamed.
fn moved(path: &Path, site: &Site, declared: &BTreeSet<(&str, &str)>) -> Result<(), String> {
    let Build { event, file: shown, .. } = site.build;
    // If this cannot be read, the tests of its own events report that.
    let Some(schemas) = path.parent() else { return Ok(()) };
    for name in lock_files(schemas) {
        let Ok(Some(lock)) = read(&schemas.join(&name), &name) else { continue };
        let Some(stream) = lock["stream"].as_str().filter(|stream| *stream != event.stream) else { continue };
        let is_ours = |entry: &Value| entry["bin"].as_str() == site.bin && entry["retired"] != true;
        let versions = lock["events"].get(event.name).and_then(Value::as_object);
        if versions.is_some_and(|versions| versions.values().any(is_ours)) && !declared.contains(&(stream, event.name))
        {
            return Err(format!(
                "event `{}` is not in {shown}, and schemas/{name} has it for the stream `{stream}`, where no type declares it any more; if `{}` is that stream renamed, write `stream = \"{stream}\"`: deployed programs publish and read there, and what is stored there would be left behind; if not, run `STREAMS_BLESS=1 cargo test`, which retires the old one",
                event.name, event.stream
            ));
        }
    }
    Ok(())
}

/// Keeps a generated file of a repository as this text: writes it, or refuses a difference where `CI` is set. Not public
/// API. The path is `shown` in messages.
///
/// # Errors
/// The difference with its remedy, or the reason why the file cannot be read or written.
#[doc(hidden)]
pub fn keep(path: &Path, shown: &str, text: &str) -> Result<(), String> {
    keep_as(path, shown, text, Asked::from_environment().ci)
}

fn keep_as(path: &Path, shown: &str, text: &str, ci: bool) -> Result<(), String> {
    let _alone = Exclusive::over(path)?;
    match fs::read_to_string(path) {
        // Git may have changed the ends of lines.
        Ok(before) if before.replace("\r\n", "\n") == text => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("cannot read {}: {error}", path.display()));
        }
        Ok(_) | Err(_) => {}
    }
    if ci {
        return Err(format!(
            "{shown} is not what the program declares; run `cargo test` where `CI` is not set, and commit the file"
        ));
    }
    replace(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Whether a part of this path is a module of tests, where events are not locked. Not public API.
#[doc(hidden)]
pub fn is_of_tests(path: &str) -> bool {
    has_tests(path)
}

fn new_entry(site: &Site, schema: &Value) -> Value {
    let mut entry = json!({ "layout": site.build.event.layout.word(), "schema": schema });
    if site.build.compat != Compat::Full {
        entry["compat"] = json!(site.build.compat.word());
    }
    if let Some(bin) = site.bin {
        entry["bin"] = json!(bin);
    }
    entry
}

/// The lock's new entry for an event that it knows.
fn changed_entry(old: &Value, site: &Site, asked: Asked) -> Result<Value, String> {
    let Build { event, compat, file: shown, .. } = site.build;
    let name = format!("`{}@{}`", event.name, event.version);
    let invalid =
        |problem: String| format!("{shown} cannot be read at {name}: {problem}; restore it from version control");
    let published = old["published"] == true;
    let layout = read_layout(old).map_err(invalid)?;
    let locked = Locked { schema: form::to_schema(&old["schema"]).map_err(invalid)?, layout, published };
    let now = form::to_value(event.schema, event.layout);
    let report = site.build.report(&locked);
    let is_broken = report.breaks() > 0 || layout != event.layout;
    // Published versions keep the rules under which they were published: milder rules of today take nothing back.
    let promised = old["compat"].as_str().and_then(Compat::from_word).unwrap_or(Compat::Full);
    let breaks_promise =
        published && (is_broken || compare(locked.schema, event.schema, layout, promised).breaks() > 0);
    let keeps_history = !is_broken && compat != Compat::None;
    let merged = if keeps_history { form::merge(&old["schema"], &now) } else { now };
    let mut entry = new_entry(site, &merged);
    // A module that the library and a program both compile is locked once, by whichever came first.
    if matches!(asked.bless, Bless::Nothing | Bless::Publish)
        && let Some(entry) = entry.as_object_mut()
    {
        entry.remove("bin");
        entry.extend(old.get("bin").map(|bin| ("bin".to_owned(), bin.clone())));
    }
    if published || asked.bless == Bless::Publish {
        entry["published"] = json!(true);
    }
    if !is_broken && form::same(old, &entry) {
        // The old names of Rust types stay: they mean nothing, unless a place leads back to another one.
        return Ok(old.clone());
    }
    let allowed = match asked.bless {
        Bless::Nothing => false,
        Bless::Unpublished => !breaks_promise,
        Bless::Everything => true,
        // Only the mark may be new.
        Bless::Publish => {
            let mut marked = old.clone();
            marked["published"] = json!(true);
            form::same(&marked, &entry)
        }
    };
    if allowed {
        Ok(entry)
    } else if is_broken && compat != Compat::None {
        Err(site.build.refusal(published, &report).text().to_owned())
    } else if breaks_promise {
        Err(format!(
            "event {name} is published, and it was with `compat = \"{}\"`, which this change breaks, as {shown} says; undo the change, or give the changed event the next `version`; where nobody ever used this one, `STREAMS_BLESS=breaking cargo test` rewrites it",
            promised.word()
        ))
    } else {
        Err(format!(
            "event {name} has changed since {shown} was written, in a way that breaks nobody; run `STREAMS_BLESS=1 cargo test`, and commit the file, so that the next change is compared with this one"
        ))
    }
}

fn read_layout(entry: &Value) -> Result<Layout, String> {
    match entry["layout"].as_str() {
        Some("map") => Ok(Layout::Map),
        Some("array") => Ok(Layout::Array),
        _ => Err("its `layout` is neither \"map\" nor \"array\"".to_owned()),
    }
}

fn read(path: &Path, shown: &str) -> Result<Option<Value>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let lock: Value = serde_json::from_str(&text).map_err(|error| {
        format!("{shown} is not JSON: {error}; restore it from version control, or finish the merge")
    })?;
    if lock["format"] == FORMAT {
        Ok(Some(lock))
    } else {
        Err(format!(
            "{shown} has format {}, and this version of streams-core writes format {FORMAT}; use the version that wrote it",
            lock["format"]
        ))
    }
}

fn write(path: &Path, lock: &Value) -> io::Result<()> {
    replace(path, &form::print(lock))
}

/// Replaces the whole file in one step, because a compiler may read it at any time.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let whole = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&whole, text)?;
    fs::rename(&whole, path).inspect_err(|_| drop(fs::remove_file(&whole)))
}

/// How many files serve as mutexes for all locks of a machine. They are few enough to stay, and each is held for
/// milliseconds.
const MUTEXES: u64 = 32;

/// Keeps the tests of this process and of others from overwriting each other's changes of a lock.
struct Exclusive {
    _process: std::sync::MutexGuard<'static, ()>,
    _file: File,
}

impl Exclusive {
    fn over(path: &Path) -> Result<Self, String> {
        static PROCESS: Mutex<()> = Mutex::new(());
        let process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
        // A mutex beside the lock would be one more file to commit or to ignore. A file that was locked cannot be
        // removed without a race, so their number is fixed.
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let mutex = std::env::temp_dir().join(format!("streams-schemas-{:02}", hasher.finish() % MUTEXES));
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&mutex);
        // Another user's file can still be locked.
        let locked = open.or_else(|_| File::open(&mutex)).and_then(|file| file.lock().map(|()| file));
        let file = locked.map_err(|error| format!("cannot lock {}: {error}", mutex.display()))?;
        Ok(Self { _process: process, _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_the_events_that_are_declared_with_the_fields_of_today() {
        let lock = r#"{ "format": 1, "stream": "s", "events": {
            "B": { "1": { "layout": "map", "retired": true, "schema": "u8" } },
            "A": {
                "10": { "layout": "array", "schema": "u8" },
                "2": { "layout": "map", "schema": { "option": { "struct": "T", "fields": [
                    { "name": "gone", "type": "u8", "removed": true }, { "name": "kept", "type": "u8" }
                ] } } }
            }
        } }"#;
        let events = events(lock).unwrap();
        let shown: Vec<_> = events.iter().map(|event| (event.name, event.version, event.layout)).collect();
        assert_eq!(shown, [("A", 2, Layout::Map), ("A", 10, Layout::Array)]);
        let Schema::Option(Schema::Struct(schema)) = events[0].schema else { panic!() };
        assert_eq!(schema.fields.iter().map(|field| field.name).collect::<Vec<_>>(), ["kept"]);
        assert!(super::events("{}").unwrap_err().contains("format null"));
        assert!(super::events(&lock.replace("u8", "u9")).unwrap_err().contains("`A@10`: `\"u9\"` is no schema"));
    }

    #[test]
    fn a_generated_file_is_written_and_in_ci_a_difference_is_refused() {
        let dir = std::env::temp_dir().join(format!("streams-keep-{}", std::process::id()));
        let path = dir.join("inside/asyncapi.yaml");
        let keep = |text, ci| keep_as(&path, "asyncapi.yaml", text, ci);
        let refused = "asyncapi.yaml is not what the program declares; run `cargo test` where `CI` is not set, and commit the file";
        assert_eq!(keep("a\nb\n", true), Err(refused.to_owned()), "it is missing");
        assert_eq!(keep("a\nb\n", false), Ok(()));
        assert_eq!(keep("a\nb\n", true), Ok(()));
        assert_eq!(keep("b\n", true), Err(refused.to_owned()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
        fs::write(&path, "a\r\nb\r\n").unwrap();
        assert_eq!(keep("a\nb\n", true), Ok(()), "git may have changed the ends of lines");
        fs::remove_dir_all(dir).unwrap();
    }
}
