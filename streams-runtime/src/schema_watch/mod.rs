//! The notes of builds of different age: each leaves them beside a stream, and logs those that do not fit its own.
//!
//! May use `ops` and the helpers of the crate; `publisher` and `app` use it.
//!
//! A note says either which shape of an event a program knows or publishes, or which versions a group reads. The tasks:
//!
//! * at the start of an app, write the notes of its events and groups, and judge those of others ([`SchemaNotes::join`]);
//! * before the first event of a type is written, do the same as a producer ([`Publishes`]);
//! * every hour do it again, so that what runs stays known and what is gone is forgotten;
//! * look for entries of programs that go by another number of partitions, every minute ([`strays`]).
//!
//! Nothing here stops anything: a broker that cannot be asked costs a warning, and no event waits for it longer than
//! [`PATIENCE`]. Notes hold shapes as locks do, and compared by the rules of the core's `compat`.

#[cfg(feature = "asyncapi")]
mod record;
mod strays;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use streams_core::EventInfo;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Notes};
use streams_core::keys::{self, StreamKey};
use streams_core::schema::Report;
use streams_core::schema::lock::note;
use tokio::time::Instant;

#[cfg(feature = "asyncapi")]
pub(crate) use self::record::{Record, record};
use self::strays::{PATIENCE, REFRESH, Strays};
use crate::clock::{Clock, after};
use crate::ops::Registry;
use crate::sync::lock;
use crate::whoami;

/// After a failure it is tried again so soon.
const AGAIN: Duration = Duration::from_secs(10);
/// How long a note counts after its program was last heard of. It outlasts a long weekend, but a deploy that was
/// taken back does not count for ever.
const FORGET: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most notes beside a stream; beyond it the oldest go. Twenty programs that know fifty events each.
const MAX_NOTES: usize = 1_000;
/// The longest note that is looked at: a shape and what belongs to it.
const MAX_NOTE: usize = 16 * 1024;
/// The most characters of a doc comment in a note.
const MAX_DOC: usize = 500;
/// The most differences that are listed in one line.
const MAX_DIFFERENCES: usize = 5;

/// The author of a note, and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Speaker {
    /// The name of the executable.
    program: String,
    /// The machine, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    host: String,
    /// When, as RFC 3339.
    at: String,
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.program)?;
        if self.host.is_empty() { Ok(()) } else { write!(f, " on {}", self.host) }
    }
}

impl Speaker {
    fn is_older_than(&self, age: Duration, now: SystemTime) -> bool {
        // A time that cannot be read counts as long past.
        humantime::parse_rfc3339(&self.at).map_or(true, |at| now.duration_since(at).is_ok_and(|since| since > age))
    }
}

/// A program's knowledge of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Declared {
    #[serde(flatten)]
    by: Speaker,
    event: String,
    version: u32,
    /// In hexadecimal.
    fingerprint: String,
    /// The Rust type.
    #[serde(rename = "type")]
    type_name: String,
    /// Its file and line.
    place: String,
    /// Whether it was about to publish it, or only has it.
    publishes: bool,
    /// The field whose value is the key, for tools that publish; empty where the event has none. Older builds do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The beginning of its doc comment, for tools that show it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    doc: String,
    /// The [`note::entry`]; missing where it is long, and in a build that says `shape` instead. Another build may say it in
    /// a form that this one does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lock: Option<Value>,
}

/// Which versions of which events a group reads: its oldest and its newest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reads {
    #[serde(flatten)]
    by: Speaker,
    events: BTreeMap<String, (u32, u32)>,
}

/// The oldest and the newest version that a consumer of this event reads.
fn versions(info: &EventInfo) -> (u32, u32) {
    (info.oldest, info.version)
}

/// The note of a program about an event. One for each type, whatever its version: an upgrade takes its place.
fn event_note(declared: &Declared) -> String {
    let role = if declared.publishes { "publishes" } else { "knows" };
    let Declared { by, event, type_name, .. } = declared;
    format!("{role}:{event}:{}:{type_name}", by.program)
}

/// The note of a group about the events that it reads.
fn group_note(group: &str) -> String {
    format!("reads:{group}")
}

/// A group of the app, and the events that it reads.
pub(crate) struct Reading<'a> {
    pub(crate) stream: &'static str,
    pub(crate) key: &'a StreamKey,
    pub(crate) group: &'static str,
    pub(crate) reads: Vec<&'static EventInfo>,
}

/// The notes of an app about one stream.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) stream: StreamKey,
    events: Vec<&'static EventInfo>,
    pub(crate) groups: Vec<(&'static str, Vec<&'static EventInfo>)>,
}

impl Table {
    /// The tables of every stream that the app reads, of its groups, sorted by stream, and its events.
    pub(crate) fn of<'a>(groups: impl IntoIterator<Item = Reading<'a>>, events: &[&'static EventInfo]) -> Vec<Self> {
        let mut tables: Vec<Self> = Vec::new();
        for group in groups {
            let reads = group.reads;
            // Groups are sorted by stream.
            match tables.last_mut().filter(|table| table.stream == *group.key) {
                Some(table) => table.groups.push((group.group, reads)),
                None => {
                    let events = events.iter().filter(|info| info.stream == group.stream).copied().collect();
                    tables.push(Self { stream: group.key.clone(), events, groups: vec![(group.group, reads)] });
                }
            }
        }
        tables
    }
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    warns: bool,
    /// The subject. It is logged once, however often it is found.
    about: String,
    text: String,
}

/// Leaves notes and reads those of others.
pub(crate) struct SchemaNotes {
    broker: Arc<dyn Broker>,
    clock: Clock,
    program: String,
    host: String,
    said: Mutex<HashSet<String>>,
    strays: Strays,
}

impl SchemaNotes {
    pub(crate) fn new(broker: Arc<dyn Broker>, clock: Clock) -> Self {
        Self {
            broker,
            clock,
            program: whoami::program(),
            host: whoami::host(),
            said: Mutex::default(),
            strays: Strays::default(),
        }
    }

    /// Writes the notes of the events that an app knows and that its groups read, and logs those of others that do not fit.
    pub(crate) async fn join(&self, table: &Table) {
        self.exchange(&table.stream, &table.events, false, &table.groups).await;
        self.look_for_strays(&table.stream).await;
    }

    /// Logs entries of the stream that no group reads, and answers how many were found last.
    pub(crate) async fn look_for_strays(&self, stream: &StreamKey) -> u64 {
        self.strays.look(&*self.broker, stream).await
    }

    /// Writes notes, and reads those of others. Answers whether they were read.
    async fn exchange(
        &self,
        stream: &StreamKey,
        events: &[&'static EventInfo],
        publishes: bool,
        groups: &[(&'static str, Vec<&'static EventInfo>)],
    ) -> bool {
        let exchanged = async {
            let events: Vec<_> = events.iter().map(|&info| (info, self.declared(info, publishes))).collect();
            let groups: Vec<_> = groups.iter().map(|(group, events)| (*group, self.reads(events))).collect();
            let mut ours = Notes::new();
            for (_, declared) in &events {
                ours.extend(json(declared).map(|note| (event_note(declared), note)));
            }
            for (group, reads) in &groups {
                ours.extend(json(reads).map(|note| (group_note(group), note)));
            }
            let notes = match self.broker.notes(stream, &ours, &[]).await {
                // Others can still be heard where nothing can be written.
                Err(error) if matches!(error.kind(), BrokerErrorKind::Full | BrokerErrorKind::Unavailable) => {
                    self.broker.notes(stream, &Notes::new(), &[]).await?
                }
                notes => notes?,
            };
            let now = self.now();
            let (heard, gone) = read(&notes, &ours, now);
            let mut findings = shapes(stream, &events, &heard.events);
            for (group, reads) in &groups {
                findings.extend(ahead_of(stream, group, reads, &heard.events));
            }
            for (group, finding) in events.iter().flat_map(|(_, declared)| behind(stream, declared, &heard.groups)) {
                // A group counts as long as it is there, also when nobody runs it at the moment.
                if self.broker.state(&stream.partition(0).group(&group)).await?.is_some() {
                    findings.push(finding);
                }
            }
            for finding in findings {
                self.say(stream, finding);
            }
            if !gone.is_empty() {
                self.broker.notes(stream, &Notes::new(), &gone).await?;
            }
            Ok(())
        };
        let trouble = match tokio::time::timeout(PATIENCE, exchanged).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => BrokerError::new(BrokerErrorKind::Unavailable, "no answer came in time"),
        };
        let stream = stream.base();
        if trouble.is_retryable() {
            tracing::debug!(stream, error = %trouble, "what other builds say of the stream cannot be asked; it is asked again later");
        } else if self.is_news(format!("refused:{stream}")) {
            tracing::warn!(stream, error = %trouble, "what builds of different age say of the stream cannot be compared");
        }
        false
    }

    fn say(&self, stream: &StreamKey, finding: Finding) {
        let Finding { warns, about, text } = finding;
        if !self.is_news(format!("{}:{about}", stream.base())) {
            return;
        }
        // Names come from whoever writes to the server.
        let text = text.replace(char::is_control, " ");
        if warns {
            tracing::warn!(stream = stream.base(), "{text}");
        } else {
            tracing::info!(stream = stream.base(), "{text}");
        }
    }

    /// Whether it was not said before. After very many it is silent rather than without bound.
    fn is_news(&self, about: String) -> bool {
        let mut said = lock(&self.said);
        said.len() < MAX_NOTES && said.insert(about)
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.clock.wall_ms())
    }

    fn speaker(&self) -> Speaker {
        let at = humantime::format_rfc3339_seconds(self.now()).to_string();
        Speaker { program: self.program.clone(), host: self.host.clone(), at }
    }

    fn declared(&self, info: &EventInfo, publishes: bool) -> Declared {
        Declared {
            by: self.speaker(),
            event: info.name.to_owned(),
            version: info.version,
            fingerprint: format!("{:016x}", info.fingerprint),
            type_name: info.type_name.to_owned(),
            place: format!("{}:{}", info.file, info.line),
            publishes,
            key: Some(info.key.unwrap_or_default().to_owned()),
            doc: info.schema.doc().chars().take(MAX_DOC).collect(),
            lock: note::entry(info),
        }
    }

    fn reads(&self, events: &[&'static EventInfo]) -> Reads {
        let events = events.iter().map(|info| (info.name.to_owned(), versions(info)));
        Reads { by: self.speaker(), events: events.collect() }
    }
}

/// Writes an app's notes again from time to time, and looks for entries that nobody reads, until it is dropped.
pub(crate) async fn refresh(
    notes: Arc<SchemaNotes>,
    tables: Vec<Table>,
    registry: Arc<Registry>,
    owns: impl Fn(&StreamKey, &str) -> bool,
) {
    let count = |table: &Table, strays: Option<u64>| {
        if let Some(event) = table.events.first() {
            registry.gauge("streams_stray_entries", &[event.stream]).set(strays.map(|strays| strays as f64));
        }
    };
    // Found at the start, a moment ago.
    for table in &tables {
        count(table, Some(notes.look_for_strays(&table.stream).await));
    }
    let mut again = after(Instant::now(), REFRESH);
    loop {
        tokio::time::sleep(strays::LOOK).await;
        let refresh = Instant::now() >= again;
        if refresh {
            again = after(Instant::now(), REFRESH);
        }
        for table in &tables {
            let mut table = table.clone();
            // A process that stands by may be the older one: what the owner says holds.
            table.groups.retain(|(group, _)| owns(&table.stream, group));
            // One process for each group is enough, and the others do not know what it finds.
            let strays = match table.groups.is_empty() {
                true => None,
                false => Some(notes.look_for_strays(&table.stream).await),
            };
            count(&table, strays);
            if refresh {
                notes.join(&table).await;
            }
        }
    }
}

/// The events of one stream that a publisher writes. Its note about an event is written before the first of the type.
#[derive(Default)]
pub(crate) struct Publishes {
    events: Mutex<Vec<&'static EventInfo>>,
    /// How many of them have notes, and when all are written again. The lock is held while one publish writes them for all.
    noted: tokio::sync::Mutex<(usize, Option<Instant>)>,
}

impl Publishes {
    /// Before an event of a type is put for the first time.
    pub(crate) fn introduce(&self, info: &'static EventInfo) {
        lock(&self.events).push(info);
    }

    /// Before every write: writes the notes of new events, and all of them once an hour.
    pub(crate) async fn write_notes(&self, notes: &SchemaNotes, stream: &StreamKey) {
        let mut noted = self.noted.lock().await;
        let events = {
            let events = lock(&self.events);
            if events.len() == noted.0 && noted.1.is_some_and(|again| Instant::now() < again) {
                return;
            }
            events.clone()
        };
        let heard = notes.exchange(stream, &events, true, &[]).await;
        // Also after a failure: the next write must not wait for it again.
        *noted = (events.len(), Some(after(Instant::now(), if heard { REFRESH } else { AGAIN })));
    }
}

/// The notes of other programs.
#[derive(Debug, Default)]
struct Heard {
    /// By the name of the note.
    events: Vec<(String, Declared)>,
    groups: Vec<(String, Reads)>,
}

/// Reads the notes of others, and one's own as they were before; then the names of those that nobody needs any more.
fn read(notes: &Notes, ours: &Notes, now: SystemTime) -> (Heard, Vec<String>) {
    let (mut heard, mut gone, mut kept) = (Heard::default(), Vec::new(), Vec::new());
    for (name, note) in notes.iter().filter(|(_, note)| note.len() <= MAX_NOTE) {
        let at = if let Some(group) = name.strip_prefix("reads:") {
            let Ok(reads) = serde_json::from_str::<Reads>(note) else { continue };
            if keys::check_group(group).is_err() {
                continue;
            }
            let at = reads.by.at.clone();
            heard.groups.push((group.to_owned(), reads));
            at
        } else {
            let Ok(declared) = serde_json::from_str::<Declared>(note) else { continue };
            if declared.by.is_older_than(FORGET, now) {
                gone.push(name.clone());
                continue;
            }
            let at = declared.by.at.clone();
            heard.events.push((name.clone(), declared));
            at
        };
        kept.push((at, name));
    }
    // Times of one form are sorted as text.
    kept.sort_unstable();
    let added = ours.keys().filter(|name| !notes.contains_key(*name)).count();
    let above = (kept.len() + added).saturating_sub(MAX_NOTES);
    gone.extend(kept.into_iter().map(|(_, name)| name.clone()).filter(|name| !ours.contains_key(name)).take(above));
    // A note that was written just now stays, however old its earlier form is.
    gone.retain(|name| !ours.contains_key(name));
    (heard, gone)
}

/// Where others know an event of the same name and version in another shape.
fn shapes(stream: &StreamKey, ours: &[(&'static EventInfo, Declared)], heard: &[(String, Declared)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (info, mine) in ours {
        let same = |other: &Declared| other.event == mine.event && other.version == mine.version;
        for (note, other) in heard.iter().filter(|(_, other)| same(other) && other.fingerprint != mine.fingerprint) {
            let report = other.lock.as_ref().and_then(|entry| note::compare_entry(info, entry));
            let (warns, verdict) = verdict(report.as_ref());
            let event = format!("{}@{}", mine.event, mine.version);
            let mut text = format!(
                "two builds know `{event}` of stream `{}` in two shapes: {}; here {}, there {} (last said {})",
                stream.base(),
                list(report.as_ref()),
                whose(mine),
                whose(other),
                other.by.at,
            );
            text.push_str("; ");
            text.push_str(verdict);
            if warns {
                text.push_str(&format!(
                    "; give the changed event the next `version`, or the event of another meaning another `name`{}",
                    or_gone(stream, note)
                ));
            }
            // Once, whether the other publishes it or only has it, and whatever this one does.
            let about =
                format!("{event}:{}:{}:{}:{}", mine.type_name, other.by.program, other.type_name, other.fingerprint);
            if !findings.iter().any(|finding: &Finding| finding.about == about) {
                findings.push(Finding { warns, about, text });
            }
        }
    }
    findings
}

/// The verdict on a difference, in words.
fn verdict(report: Option<&Report>) -> (bool, &'static str) {
    match report.map(Report::reads) {
        None => (false, "whether they can read each other's events is not known"),
        Some((true, true)) => (false, "both can read each other's events"),
        Some((true, false)) => (true, "the build there cannot read the events of this one"),
        Some((false, true)) => (true, "this build cannot read the events of the one there"),
        Some((false, false)) => (true, "neither can read the other's events"),
    }
}

fn list(report: Option<&Report>) -> String {
    let Some(report) = report else {
        return "the note there has no schema that this build can compare (it is too long, or of an older or newer build)"
            .to_owned();
    };
    let mut listed: Vec<_> = report.lines().take(MAX_DIFFERENCES).map(str::to_owned).collect();
    let more = report.breaks().saturating_sub(listed.len());
    if more > 0 {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}

fn whose(declared: &Declared) -> String {
    format!("{} as `{}` ({})", declared.by, declared.type_name, declared.place)
}

/// The remedy for the note of a program that no longer exists.
fn or_gone(stream: &StreamKey, note: &str) -> String {
    format!(" (if the build there is gone for good: `HDEL {} '{note}'`)", stream.builds())
}

/// Versions that others know or publish and that a group of this app does not read yet.
fn ahead_of(stream: &StreamKey, group: &str, reads: &Reads, heard: &[(String, Declared)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (event, (_, newest)) in &reads.events {
        let newer = heard.iter().filter(|(_, other)| other.event == *event && other.version > *newest);
        // A published version stops the group; a version that is only known may be its own next build.
        let Some((note, other)) = newer.max_by_key(|(_, other)| (other.publishes, other.version)) else { continue };
        let (version, whose, at) = (other.version, whose(other), &other.by.at);
        let what = format!("group `{group}` reads `{event}` of stream `{}` up to version {newest}", stream.base());
        let text = if other.publishes {
            format!(
                "{what}, and version {version} is published by {whose}, last said {at}: the group will stop in place at \
                 the first such event; deploy a build of it that knows version {version}{}",
                or_gone(stream, note)
            )
        } else {
            format!(
                "{what}, and version {version} is known to {whose}, last said {at}; deploy the group before anybody publishes it"
            )
        };
        let about = format!("{}:{event}:{version}:{}", group_note(group), other.publishes);
        findings.push(Finding { warns: other.publishes, about, text });
    }
    findings
}

/// Groups that cannot read what this program is about to publish.
fn behind(stream: &StreamKey, mine: &Declared, groups: &[(String, Reads)]) -> Vec<(String, Finding)> {
    let mut findings = Vec::new();
    for (group, reads) in groups.iter().filter(|_| mine.publishes) {
        let Some(&(oldest, newest)) = reads.events.get(&mine.event) else { continue };
        let version = mine.version;
        let (reach, remedy) = if version > newest {
            let remedy = "it will stop in place at the first such event; deploy the group first";
            (format!("up to version {newest}"), remedy)
        } else if version < oldest {
            let remedy =
                "each will be a dead letter of that group; deploy a build of this program that publishes what it reads";
            (format!("from version {oldest} on"), remedy)
        } else {
            continue;
        };
        let text = format!(
            "group `{group}` reads `{}` of stream `{}` {reach}, as {} said at {}, and this program publishes version \
             {version} (`{}`, {}): {remedy} (if the group is gone for good, remove it: \
             `streams remove {} {group}`)",
            mine.event,
            stream.base(),
            reads.by,
            reads.by.at,
            mine.type_name,
            mine.place,
            stream.base(),
        );
        let about = format!("{}:{}:{version}:{newest}", group_note(group), mine.event);
        findings.push((group.clone(), Finding { warns: true, about, text }));
    }
    findings
}

fn json(note: &impl Serialize) -> Option<String> {
    // Nothing in a note can fail to be written; if it did, it would be left out.
    serde_json::to_string(note).ok()
}

#[cfg(test)]
mod tests {
    use streams_core::{StreamEvent as _, stream_event};

    use super::*;

    const NOW: Duration = Duration::from_secs(1_767_225_600);

    fn note(program: &str, ago: Duration) -> (String, String) {
        let at = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + NOW - ago).to_string();
        let declared = Declared {
            by: Speaker { program: program.to_owned(), host: String::new(), at },
            event: "Trade".to_owned(),
            version: 1,
            fingerprint: "0".to_owned(),
            type_name: "a::Trade".to_owned(),
            place: "src/a.rs:1".to_owned(),
            publishes: false,
            key: None,
            doc: String::new(),
            lock: None,
        };
        (event_note(&declared), json(&declared).unwrap())
    }

    fn read_of(notes: &Notes, ours: &Notes) -> (Vec<String>, Vec<String>) {
        let (heard, gone) = read(notes, ours, SystemTime::UNIX_EPOCH + NOW);
        (heard.events.into_iter().map(|(_, declared)| declared.by.program).collect(), gone)
    }

    #[test]
    fn what_was_not_said_for_a_week_is_forgotten() {
        let (day, week) = (Duration::from_secs(24 * 3600), FORGET);
        let notes = Notes::from([note("fresh", day), note("old", week + day), note("ours", week + day)]);
        let ours = Notes::from([note("ours", Duration::ZERO)]);
        let gone = vec!["knows:Trade:old:a::Trade".to_owned()];
        assert_eq!(read_of(&notes, &ours), (vec!["fresh".to_owned()], gone));
    }

    #[test]
    fn beyond_the_bound_the_oldest_notes_go() {
        let ago = |n: usize| Duration::from_secs(n as u64);
        let notes: Notes = (0..MAX_NOTES + 1).map(|n| note(&format!("p{n}"), ago(n))).collect();
        let ours = Notes::from([note(&format!("p{MAX_NOTES}"), Duration::ZERO)]);
        let (heard, gone) = read_of(&notes, &ours);
        assert_eq!(heard.len(), MAX_NOTES + 1);
        assert_eq!(gone, [MAX_NOTES - 1].map(|n| format!("knows:Trade:p{n}:a::Trade")));
    }

    #[test]
    fn what_is_no_note_of_this_form_is_left_alone() {
        let notes = Notes::from([
            ("knows:x".to_owned(), "{}".to_owned()),
            ("reads:risk".to_owned(), "x".to_owned()),
            ("reads:risk:member".to_owned(), r#"{"program":"p","at":"","events":{}}"#.to_owned()),
            ("long".to_owned(), " ".repeat(MAX_NOTE) + &note("long", Duration::ZERO).1),
            ("members".to_owned(), r#"{"of":"a later build"}"#.to_owned()),
        ]);
        assert_eq!(read_of(&notes, &Notes::new()), (Vec::new(), Vec::new()));
        assert!(read(&notes, &Notes::new(), SystemTime::UNIX_EPOCH + NOW).0.groups.is_empty());
    }

    #[stream_event(stream = "trades", lock = false)]
    #[derive(Debug, Clone)]
    struct Trade {
        symbol: String,
        price: f64,
    }

    fn ours() -> Declared {
        let clock = Clock::starting(SystemTime::UNIX_EPOCH + NOW);
        let broker = Arc::new(crate::broker::Embedded::new());
        SchemaNotes::new(broker, clock).declared(Trade::INFO, false)
    }

    /// The findings of this build about a note of another one.
    fn told_of(note: &str) -> Vec<Finding> {
        let notes = Notes::from([("knows:Trade:risk:risk::events::Trade".to_owned(), note.to_owned())]);
        let (heard, gone) = read(&notes, &Notes::new(), SystemTime::UNIX_EPOCH + NOW);
        assert_eq!((heard.events.len(), gone.len()), (1, 0), "{note}");
        shapes(&StreamKey::new(None, "trades", 1), &[(Trade::INFO, ours())], &heard.events)
    }

    /// A note of this form, with this in the place of its schema.
    fn note_with(schema: &str) -> String {
        format!(
            r#"{{"program":"risk","host":"node-3","at":"2026-01-01T00:00:00Z","event":"Trade","version":1,"fingerprint":"8a3c0f5d11e2b967","type":"risk::events::Trade","place":"src/events.rs:12","publishes":false,{schema}}}"#
        )
    }

    #[test]
    fn a_note_tells_the_schema_as_a_lock_does() {
        let note = serde_json::to_value(ours()).unwrap();
        let fields = [("price", "f64"), ("symbol", "string")]
            .map(|(name, schema)| serde_json::json!({ "name": name, "type": schema }));
        let schema = serde_json::json!({ "struct": "Trade", "fields": fields });
        assert_eq!(note["lock"], serde_json::json!({ "format": 1, "layout": "map", "schema": schema }));
        assert_eq!(note.get("shape"), None);
        // And it is read as it was written.
        let there = note_with(&format!(r#""lock":{}"#, note["lock"].to_string().replace("f64", "string")));
        let found = told_of(&there);
        assert_eq!(found.len(), 1);
        assert!(found[0].warns && found[0].text.contains("`price` is f64 here and string there"), "{found:?}");
    }

    #[test]
    fn a_schema_in_the_form_of_another_build_is_passed_over() {
        for schema in [
            // Builds before notes held the schema as in a lock.
            r#""shape":{"struct":{"fields":[{"name":"symbol","type":"str"},{"name":"price","type":"str"}]}}"#,
            // Builds to come.
            r#""lock":{"format":2,"layout":"map","schema":"string"}"#,
            r#""lock":{"format":1,"layout":"columns","schema":"string"}"#,
            r#""lock":{"format":1,"layout":"map","schema":{"decimal":2}}"#,
            r#""lock":[]"#,
            r#""lock":null"#,
        ] {
            let found = told_of(&note_with(schema));
            assert_eq!(found.len(), 1, "{schema}");
            assert!(!found[0].warns && found[0].text.contains("is not known"), "{found:?}");
            assert!(found[0].text.contains("of an older or newer build"), "{found:?}");
        }
    }

    #[test]
    fn a_build_that_knows_another_form_reads_the_rest_of_a_note() {
        /// As builds read it before notes held the schema as in a lock.
        #[derive(Deserialize)]
        struct Before {
            #[serde(flatten)]
            by: Speaker,
            event: String,
            version: u32,
            fingerprint: String,
            #[serde(rename = "type")]
            type_name: String,
            place: String,
            publishes: bool,
            #[serde(default)]
            shape: Option<Value>,
        }
        let ours = ours();
        let Before { by, event, version, fingerprint, type_name, place, publishes, shape } =
            serde_json::from_str(&json(&ours).unwrap()).unwrap();
        assert_eq!(shape, None, "it compares fingerprints alone, as with a shape that is long");
        let Declared { key, doc, lock, .. } = ours.clone();
        let read = Declared { by, event, version, fingerprint, type_name, place, publishes, key, doc, lock };
        assert_eq!(read, ours);
    }
}
