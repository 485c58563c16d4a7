//! `streams dead`: the dead letters of a group, looked at, handled again or thrown away.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use serde_json::{Value, json};
use streams_runtime::broker::{Broker, BrokerErrorKind};
use streams_runtime::{Cause, Condition, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, GroupView};

use super::edit::Edit;
use super::get::stream_name;
use crate::confirm::{Consent, count};
use crate::connect::{Server, whoami};
use crate::output::{Cell, Output, Row};
use crate::payload::{self, Redact};
use crate::problem::Problem;
use crate::text::{cut, plain};
use crate::when;

/// How many letters are read or moved at once.
const PAGE: usize = 100;
/// The most kinds of failure in the histogram.
const KINDS: usize = 50;
/// The most characters of a reason that tell kinds of failure apart.
const REASON: usize = 120;

/// Look at the dead letters of a group, have them handled again, or throw them away
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Dead {
    /// How many there are for which reason; --each for a line per letter
    Ls(Ls),
    /// Everything of dead letters, the payload decoded
    Show(Show),
    /// Have them handled again by this group alone; they come after whatever followed them in the stream
    Replay(Replay),
    /// Have one handled again by this group alone, with another payload
    Edit(Edit),
    /// Throw them away for good
    Discard(Discard),
}

/// A group and those of its dead letters that are meant.
#[derive(Debug, clap::Args)]
struct Letters {
    /// The stream; `trades.3` for one partition of it
    stream: String,
    /// The group
    group: String,
    /// Given up for this cause: handler, permanent, panic, timeout, decode, argument, asked, crash
    #[arg(long)]
    cause: Option<Cause>,
    /// Whose reason has this text in it, in capitals or not
    #[arg(long = "match", value_name = "TEXT")]
    reason: Option<String>,
    /// Only events of this name
    #[arg(long)]
    event: Option<String>,
    /// Given up by this function
    #[arg(long)]
    consumer: Option<String>,
    /// Given up longer ago than this, such as `2h`
    #[arg(long, value_parser = when::duration)]
    older: Option<Duration>,
    /// Given up within this time, such as `1d`
    #[arg(long, value_parser = when::duration)]
    newer: Option<Duration>,
}

impl Letters {
    fn filter(&self) -> DeadLetterFilter {
        let mut filter = DeadLetterFilter::all();
        if let Some(cause) = self.cause {
            filter = filter.cause(cause);
        }
        if let Some(text) = &self.reason {
            filter = filter.reason(text);
        }
        if let Some(name) = &self.event {
            filter = filter.event(name);
        }
        if let Some(name) = &self.consumer {
            filter = filter.consumer(name);
        }
        if let Some(age) = self.older {
            filter = filter.older_than(age);
        }
        if let Some(age) = self.newer {
            filter = filter.newer_than(age);
        }
        filter
    }

    /// Whether any condition chooses among the letters.
    fn is_filtered(&self) -> bool {
        self.filter() != DeadLetterFilter::all()
    }

    async fn on(&self, server: &Server) -> Result<DeadLetters, Problem> {
        server.stream(&self.stream).await?;
        Ok(server.admin()?.dead_letters(&self.stream, &self.group).await?)
    }

    /// The act for the audit stream.
    fn said(&self, ids: &[DeadLetterId], number: u64) -> String {
        let ids: Vec<_> = ids.iter().take(20).map(ToString::to_string).collect();
        let mut said = format!("{} {}", count(number, "dead letter"), ids.join(" "));
        let parts = [
            ("cause", self.cause.map(|cause| cause.as_str().to_owned())),
            ("match", self.reason.clone()),
            ("event", self.event.clone()),
            ("consumer", self.consumer.clone()),
        ];
        for (name, value) in parts {
            said.extend(value.map(|value| format!(" {name}={value}")));
        }
        said
    }

    fn place(&self) -> String {
        format!("group {} on {}", self.group, self.stream)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    letters: Letters,
    /// A line per letter
    #[arg(long)]
    each: bool,
    /// Look at no more than so many, oldest first
    #[arg(long, default_value_t = 100_000)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    letters: Letters,
    /// Ids as `dead ls --each` shows them; without one the oldest that are meant
    ids: Vec<DeadLetterId>,
    /// Show no more than so many
    #[arg(long, default_value_t = 10)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    chosen: Chosen,
    /// No more than so many per second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    consent: Consent,
}

impl Dead {
    pub(crate) async fn run(self, server: &Server, redact: &Redact, out: &mut Output) -> Result<(), Problem> {
        match self {
            Self::Ls(command) if command.each => command.each(server, out).await,
            Self::Ls(command) => command.histogram(server, out).await,
            Self::Show(command) => command.run(server, redact, out).await,
            Self::Replay(command) => command.run(server, out).await,
            Self::Edit(command) => command.run(server, redact, out).await,
            Self::Discard(command) => command.run(server, out).await,
        }
    }
}

/// Letters that failed in the same way.
struct Kind {
    number: u64,
    oldest: u64,
    newest: u64,
    example: DeadLetterId,
}

impl Ls {
    async fn each(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let letters = self.letters.on(server).await?;
        let now = server.broker.now().await?;
        let filter = self.letters.filter();
        let mut walk = Walk::new(&letters, &filter, self.limit);
        let head = [
            ("id", false),
            ("age", false),
            ("event", false),
            ("cause", false),
            ("attempts", false),
            ("waits", false),
            ("reason", false),
        ];
        let row = |letter: &DeadLetter, waits: bool| {
            let cells = vec![
                letter.id().into(),
                when::ago(now, letter.id().entry.ms).into(),
                letter.event_name().into(),
                letter.cause().into(),
                letter.attempts().into(),
                if waits { "to be handled again".into() } else { "-".into() },
                letter.reason().into(),
            ];
            let mut json = summary(letter);
            json["waits"] = json!(waits);
            Row { cells, json }
        };
        let mut rows = Vec::new();
        while let Some(page) = walk.next().await? {
            rows.extend(page.iter().map(|letter| row(letter, false)));
        }
        if !self.letters.is_filtered() {
            let waiting = letters.replaying(self.limit.saturating_sub(rows.len())).await?;
            rows.extend(waiting.iter().map(|letter| row(letter, true)));
        }
        Ok(out.rows(&head, rows, &format!("{} has no such dead letter", self.letters.place()))?)
    }

    async fn histogram(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let letters = self.letters.on(server).await?;
        let now = server.broker.now().await?;
        let mut kinds: BTreeMap<[String; 4], Kind> = BTreeMap::new();
        let (mut seen, mut others) = (0, 0);
        let filter = self.letters.filter();
        let mut walk = Walk::new(&letters, &filter, self.limit);
        while let Some(page) = walk.next().await? {
            for letter in page {
                seen += 1;
                let reason = cut(&numbers_as_one(letter.reason()), REASON);
                let key = [letter.cause(), letter.consumer(), letter.event_name(), &reason].map(str::to_owned);
                let ms = letter.id().entry.ms;
                // Bounded, whatever is in the reasons.
                if kinds.len() >= KINDS && !kinds.contains_key(&key) {
                    others += 1;
                    continue;
                }
                let kind = kinds.entry(key).or_insert(Kind { number: 0, oldest: ms, newest: ms, example: letter.id() });
                kind.number += 1;
                kind.oldest = kind.oldest.min(ms);
                kind.newest = kind.newest.max(ms);
            }
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.number));
        let head = [
            ("letters", false),
            ("cause", false),
            ("consumer", false),
            ("event", false),
            ("oldest", false),
            ("newest", false),
            ("example", false),
            ("reason", false),
        ];
        let rows = kinds.into_iter().map(|([cause, consumer, event, reason], kind)| Row {
            json: json!({
                "letters": kind.number, "waits": false, "cause": cause, "consumer": consumer, "event": event, "reason": reason,
                "oldest": when::time(kind.oldest), "newest": when::time(kind.newest), "example": kind.example.to_string(),
            }),
            cells: vec![
                kind.number.into(),
                cause.into(),
                consumer.into(),
                event.into(),
                when::ago(now, kind.oldest).into(),
                when::ago(now, kind.newest).into(),
                kind.example.into(),
                reason.into(),
            ],
        });
        let mut rows: Vec<_> = rows.collect();
        let waiting = if self.letters.is_filtered() { None } else { self.waiting(server).await };
        let mut still = String::new();
        if let Some((row, why)) = waiting {
            rows.push(row);
            still = why;
        }
        out.rows(&head, rows, &format!("{} has no such dead letter", self.letters.place()))?;
        if !still.is_empty() && out.is_for_people() {
            eprintln!("{}", plain(&still));
        }
        if others > 0 {
            eprintln!("{others} more for other reasons: narrow them down with --cause, --event or --match");
        }
        if seen == self.limit {
            eprintln!("only the oldest {} were looked at: --limit says how many", self.limit);
        }
        Ok(())
    }
}

impl Ls {
    /// A row about the letters that wait to be handled again, and why they wait; nothing where none does.
    async fn waiting(&self, server: &Server) -> Option<(Row, String)> {
        let Letters { stream, group, .. } = &self.letters;
        let number = group_of(server, stream, group).await.map(|view| view.replays()).filter(|number| *number > 0)?;
        let still = stands_still(server, stream, group).await.trim_start().to_owned();
        let reason = format!("{} to be handled again", wait(number));
        let mut cells: Vec<Cell> = vec![number.into()];
        cells.extend((0..6).map(|_| Cell::or_dash(None::<&str>)));
        cells.push(reason.as_str().into());
        let json = json!({ "letters": number, "waits": true, "reason": reason, "why": still });
        Some((Row { cells, json }, still))
    }
}

impl Show {
    async fn run(self, server: &Server, redact: &Redact, out: &mut Output) -> Result<(), Problem> {
        let letters = self.letters.on(server).await?;
        let found = if self.ids.is_empty() {
            letters.find(&self.letters.filter(), None, self.limit).await?
        } else {
            let mut found = Vec::new();
            for id in &self.ids {
                let letter = letters.get(*id).await?;
                found.push(letter.ok_or_else(|| format!("{} has no dead letter {id}", self.letters.place()))?);
            }
            found
        };
        if found.is_empty() && out.is_for_people() {
            out.say(&format!("{} has no such dead letter", self.letters.place()), &Value::Null)?;
        }
        let now = server.broker.now().await?;
        for letter in &found {
            let (text, value) = (for_people(letter, now, redact), for_programs(letter, redact));
            out.line(|| text, value)?;
        }
        Ok(out.end()?)
    }
}

impl Replay {
    async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let chosen = &self.chosen;
        let letters = chosen.letters.on(server).await?;
        let number = chosen.number(&letters, "replay").await?;
        let place = chosen.letters.place();
        let rate = self.rate.map(|rate| format!(", {rate} per second")).unwrap_or_default();
        let still = stands_still(server, &chosen.letters.stream, &chosen.letters.group).await;
        let plan = format!(
            "{} of {place} would be handled again{rate}: by this group alone, after whatever followed them in the stream{still}",
            count(number, "dead letter")
        );
        if !self.consent.given(&plan, &json!({ "replay": number }), out)? {
            return Ok(());
        }
        let (mut moved, mut missing) = (0, Vec::new());
        let mut pace = self.rate.map(Pace::new);
        let mut pages = chosen.pages(&letters, server).await?;
        while let Some(ids) = pages.next(pace.as_ref().map_or(PAGE, Pace::page)).await? {
            let sent = letters.replay(&ids).await.map_err(|error| match moved {
                0 => Problem::from(error),
                _ => format!("{error:?}\n{moved} were sent to be handled again before").into(),
            })?;
            moved += sent.moved;
            missing.extend(sent.missing.iter().map(ToString::to_string));
            progress(moved, number);
            if let Some(pace) = &mut pace {
                pace.wait(sent.moved).await;
            }
        }
        chosen.audit(server, "replay", moved).await;
        let gone = missing.iter().map(|id| format!("\n{id} is not there")).collect::<String>();
        out.say(
            &format!("{} sent to be handled again by {place}{gone}{still}", count(moved, "dead letter")),
            &json!({ "replayed": moved, "missing": missing }),
        )?;
        Ok(())
    }
}

impl Discard {
    async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let chosen = &self.chosen;
        let letters = chosen.letters.on(server).await?;
        let number = chosen.number(&letters, "discard").await?;
        let place = chosen.letters.place();
        let plan =
            format!("{} of {place} would be gone for good: no group handles them again", count(number, "dead letter"));
        if !self.consent.given(&plan, &json!({ "discard": number }), out)? {
            return Ok(());
        }
        let mut discarded = 0;
        let mut pages = chosen.pages(&letters, server).await?;
        while let Some(ids) = pages.next(PAGE).await? {
            discarded += letters.discard(&ids).await?;
            progress(discarded, number);
        }
        chosen.audit(server, "discard", discarded).await;
        out.say(
            &format!("{} of {place} discarded", count(discarded, "dead letter")),
            &json!({ "discarded": discarded }),
        )?;
        Ok(())
    }
}

/// The letters that a change is about.
#[derive(Debug, clap::Args)]
struct Chosen {
    #[command(flatten)]
    letters: Letters,
    /// Ids as `dead ls --each` shows them
    ids: Vec<DeadLetterId>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// No more than so many, oldest first
    #[arg(long)]
    limit: Option<u64>,
}

impl Chosen {
    /// How many there are.
    async fn number(&self, letters: &DeadLetters, verb: &str) -> Result<u64, Problem> {
        let filtered = self.letters.is_filtered();
        match (self.ids.is_empty(), filtered || self.all) {
            (true, false) => {
                let words =
                    format!("which dead letters is `{verb}` meant for? give ids, a filter such as --cause, or --all");
                Err(Problem::usage(words))
            }
            (false, true) => Err(Problem::usage("say ids, or a filter or --all, not both")),
            (false, false) => {
                let mut number = 0;
                for id in &self.ids {
                    number += u64::from(letters.get(*id).await?.is_some());
                }
                Ok(number)
            }
            (true, true) if filtered && self.all => Err(Problem::usage("say a filter or --all, not both")),
            (true, true) => {
                let number = letters.count(&self.letters.filter()).await?;
                Ok(number.min(self.limit.unwrap_or(u64::MAX)))
            }
        }
    }

    /// Leaves a line in the audit stream.
    async fn audit(&self, server: &Server, act: &str, number: u64) {
        let place = (self.letters.stream.as_str(), self.letters.group.as_str());
        server.audit(&whoami(), act, place, &self.letters.said(&self.ids, number)).await;
    }

    /// Their ids, some at a time; of a filter those that lie there now.
    async fn pages<'a>(&self, letters: &'a DeadLetters, server: &Server) -> Result<Pages<'a>, Problem> {
        Ok(Pages {
            letters,
            filter: self.ids.is_empty().then(|| self.letters.filter()),
            ids: self.ids.clone(),
            until: server.broker.now().await?,
            after: None,
            left: self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        })
    }
}

struct Pages<'a> {
    letters: &'a DeadLetters,
    filter: Option<DeadLetterFilter>,
    ids: Vec<DeadLetterId>,
    /// Letters that fail again meanwhile are younger.
    until: u64,
    after: Option<DeadLetterId>,
    left: usize,
}

impl Pages<'_> {
    async fn next(&mut self, most: usize) -> Result<Option<Vec<DeadLetterId>>, Problem> {
        let Some(filter) = &self.filter else {
            let ids: Vec<_> = self.ids.drain(..self.ids.len().min(most)).collect();
            return Ok((!ids.is_empty()).then_some(ids));
        };
        let asked = self.left.min(most);
        let mut ids = Vec::new();
        while ids.is_empty() && asked > 0 {
            let page = self.letters.find(filter, self.after, asked).await;
            let page = match page {
                Ok(page) => page,
                // The group itself may be gone when its last letter is.
                Err(error) if self.after.is_some() && error.kind() == BrokerErrorKind::Refused => break,
                Err(error) => return Err(error.into()),
            };
            let Some(last) = page.last() else { break };
            self.after = Some(last.id());
            ids.extend(page.iter().map(DeadLetter::id).filter(|id| id.entry.ms <= self.until));
        }
        self.left -= ids.len();
        Ok((!ids.is_empty()).then_some(ids))
    }
}

/// Goes through letters, some at a time.
struct Walk<'a> {
    letters: &'a DeadLetters,
    filter: &'a DeadLetterFilter,
    after: Option<DeadLetterId>,
    left: usize,
    done: bool,
}

impl<'a> Walk<'a> {
    fn new(letters: &'a DeadLetters, filter: &'a DeadLetterFilter, limit: usize) -> Self {
        Self { letters, filter, after: None, left: limit, done: false }
    }

    async fn next(&mut self) -> Result<Option<Vec<DeadLetter>>, Problem> {
        if self.done || self.left == 0 {
            return Ok(None);
        }
        let asked = self.left.min(PAGE);
        let page = self.letters.find(self.filter, self.after, asked).await?;
        self.done = page.len() < asked;
        self.left -= page.len();
        self.after = page.last().map(DeadLetter::id).or(self.after);
        Ok((!page.is_empty()).then_some(page))
    }
}

/// The verb for so many letters.
pub(super) fn wait(letters: u64) -> &'static str {
    if letters == 1 { "waits" } else { "wait" }
}

/// The group with the partitions that are meant alone; nothing where this user may not look.
async fn group_of(server: &Server, stream: &str, group: &str) -> Option<GroupView> {
    let name = stream_name(stream);
    let mut view = server.inspector().ok()?.group(name, group).await.ok()?;
    if let Some(index) = stream.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) {
        view.places.retain(|place| place.partition.to_string() == index);
    }
    Some(view)
}

/// Why nothing is handled again for now, in a line with the command that ends it; nothing where letters are handled.
pub(super) async fn stands_still(server: &Server, stream: &str, group: &str) -> String {
    let Some(view) = group_of(server, stream, group).await else { return String::new() };
    let (name, ends) =
        (stream_name(stream), format!("nothing is handled again until `streams resume {stream} {group}`"));
    let halted = view.places.iter().find(|place| place.halted.is_some());
    match (&view.paused, halted) {
        (Some(pause), _) => format!("\n{pause}: nothing is handled again until `streams resume {name} {group}`"),
        (None, Some(place)) if view.places.len() > 1 => {
            format!("\nhalted on partition {}, where {ends}", place.partition)
        }
        (None, Some(_)) => format!("\nhalted: {ends}"),
        (None, None) if view.condition() == Condition::Unattended => {
            "\nno process runs the group: nothing is handled again until one does".to_owned()
        }
        (None, None) => String::new(),
    }
}

/// Keeps replays at a rate.
struct Pace {
    rate: u32,
    began: tokio::time::Instant,
    sent: u64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { rate, began: tokio::time::Instant::now(), sent: 0 }
    }

    /// About a tenth of a second's letters.
    fn page(&self) -> usize {
        usize::try_from(self.rate / 10).unwrap_or(PAGE).clamp(1, PAGE)
    }

    async fn wait(&mut self, sent: u64) {
        self.sent += sent;
        let due = Duration::from_secs_f64(self.sent as f64 / f64::from(self.rate));
        tokio::time::sleep_until(self.began + due).await;
    }
}

/// Says how far a long change is, where somebody watches.
fn progress(done: u64, all: u64) {
    if all > PAGE as u64 && std::io::stderr().is_terminal() {
        eprint!("\r{done} of {all}{}", if done >= all { "\n" } else { "" });
    }
}

/// The text with every number as `#`, so that texts that differ in nothing else are one.
fn numbers_as_one(text: &str) -> String {
    let mut one = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_ascii_digit() {
            true if one.ends_with('#') => {}
            true => one.push('#'),
            false => one.push(character),
        }
    }
    one
}

/// A letter without its payload.
fn summary(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id().to_string(),
        "time": when::time(letter.id().entry.ms),
        "stream": letter.stream(),
        "entry": letter.original().id.to_string(),
        "event": letter.event_name(),
        "event_id": letter.original().event_id().to_string(),
        "consumer": letter.consumer(),
        "cause": letter.cause(),
        "reason": letter.reason(),
        "attempts": letter.attempts(),
        "replays": letter.replays(),
        "edited": letter.is_edited(),
    })
}

fn for_programs(letter: &DeadLetter, redact: &Redact) -> Value {
    let mut value = summary(letter);
    let entry = payload::entry(letter.id().partition, letter.original(), redact);
    for name in ["headers", "payload", "payload_hex", "fault"] {
        if let Some(part) = entry.get(name) {
            value[name] = part.clone();
        }
    }
    value
}

fn for_people(letter: &DeadLetter, now: u64, redact: &Redact) -> String {
    let original = letter.original();
    let entry = payload::entry(letter.id().partition, original, redact);
    let consumer = if letter.consumer().is_empty() { "none was called" } else { letter.consumer() };
    let event = original.field(streams_runtime::Entry::EVENT).map(payload::readable).unwrap_or_default();
    let mut lines = vec![
        ("letter", format!("{} ({} ago)", letter.id(), when::ago(now, letter.id().entry.ms))),
        ("event", format!("{event} {} at {} {}", original.event_id(), letter.stream(), original.id)),
        ("consumer", consumer.to_owned()),
        ("cause", format!("{} at attempt {}", letter.cause(), letter.attempts())),
        ("replays", letter.replays().to_string()),
        ("reason", letter.reason().to_owned()),
    ];
    if letter.is_edited() {
        lines
            .push(("edited", "somebody has changed the payload; the stream has the one that was published".to_owned()));
    }
    for (name, value) in entry["headers"].as_object().into_iter().flatten() {
        lines.push(("header", format!("{name}: {}", value.as_str().unwrap_or_default())));
    }
    lines.push(("payload", payload::line(&entry)));
    lines.iter().map(|(name, fact)| format!("{name:10}{}\n", plain(fact))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_a_number_are_one() {
        assert_eq!(numbers_as_one("account 17 is closed since 2026-01"), "account # is closed since #-#");
    }
}
