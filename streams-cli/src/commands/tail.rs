//! `streams tail`: the events of a stream, the last ones, those from a place on, and those that come.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use streams_runtime::broker::{Broker, BrokerError, Log};
use streams_runtime::keys::{PartitionKey, partition_of};
use streams_runtime::{Entry, EntryId};

use crate::connect::Server;
use crate::filter::Condition;
use crate::output::{Format, Output};
use crate::payload::{self, Redact};
use crate::problem::Problem;
use crate::text::plain;
use crate::when::{self, Place};

/// The most entries per partition and read.
const PAGE: usize = 1_000;
/// About the most bytes per partition and read.
const BYTES: usize = 8 * 1024 * 1024;
/// The pause after a read that found nothing.
const WAIT: Duration = Duration::from_millis(200);
/// A follower this far behind the end skips to it, in milliseconds.
const BEHIND: u64 = 10_000;
/// The pause after a read that found all there was.
const BREATH: Duration = Duration::from_millis(20);
/// The pause before a read that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Show events of a stream: the last ones, those from a place on, and with -f those that come
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Conditions are a place, an operator and a value: `price>100`, `event=Trade`, `buyer.name~ada`.
  places     a field of the payload by its dotted path (lines.0.sku), event, id (the event's id), header.NAME;
             payload.event is the payload's own field `event`
  operators  =  !=  >  <  >=  <=  and ~ for `holds the text`; several --where must hold together

Words of --format: %i entry id, %e event and version, %u event id, %k key of the partition, %p payload, %h headers,
  %t time, %% a percent sign; \\n and \\t as usual. The line end is added.

A follower that is 10 s behind the end of a stream, because its output is slow, skips to the end and says so.")]
pub(crate) struct Tail {
    /// The stream; `trades.3` for one partition of it
    stream: String,
    /// So many of the last events; with --from so many of the first
    #[arg(short = 'n', long = "lines", value_name = "N")]
    number: Option<usize>,
    /// Go on with events as they come
    #[arg(short, long)]
    follow: bool,
    /// Begin here: an entry id, `earliest`, `-5m`, or a time in UTC such as `2026-01-31 12:00:00`
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    from: Option<Place>,
    /// Only the partition of this key, and of it events with a field at the top that has this value
    #[arg(long)]
    key: Option<String>,
    /// Only events that meet this condition
    #[arg(long = "where", value_name = "EXPR")]
    conditions: Vec<Condition>,
    /// A line of one's own per event, such as `%t %e %p`
    #[arg(long, value_name = "STR")]
    format: Option<Template>,
}

impl Tail {
    pub(crate) async fn run(self, server: &Server, redact: &Redact, out: &mut Output) -> Result<(), Problem> {
        if self.follow && out.format == Format::Json {
            return Err(Problem::usage("an array of JSON has no end here; say -o ndjson with -f"));
        }
        let (stream, mut partitions) = server.stream(&self.stream).await?;
        if let Some(key) = &self.key {
            let index = partition_of(key, stream.partitions());
            partitions.retain(|partition| partition.index() == index);
        }
        let several = stream.partitions() > 1;
        let mut show = Show { asked: &self, redact, several, left: None };
        let mut ends = Vec::new();
        for partition in &partitions {
            ends.push(server.broker.extent(partition).await?.map_or(EntryId::ZERO, |extent| extent.last));
        }
        let mut places = ends.clone();
        let first = match self.from {
            None => None,
            Some(from) => from.first(server.broker.now().await?),
        };
        match first {
            Some(first) => {
                show.left = self.number;
                places = vec![first.previous(); partitions.len()];
            }
            None if self.from.is_none() => {
                let number = self.number.unwrap_or(10);
                for (index, entry) in last(&self, server, &partitions, &ends, (number, redact)).await? {
                    show.one(&partitions[index], &entry, out)?;
                }
            }
            None => {}
        }
        if self.follow || places != ends {
            out.flush()?;
            read(&self, server, &partitions, (places, ends), &mut show, out).await?;
        }
        if self.format.is_some() {
            out.flush()?
        } else {
            out.end()?
        }
        Ok(())
    }

    /// The entry as it is shown, if it is meant.
    fn view(&self, partition: &PartitionKey, entry: &Entry, redact: &Redact) -> Option<Value> {
        // A hidden field is no secret to a condition, or none could be found by it.
        let value = payload::entry(partition.index(), entry, &Redact::default());
        let is_key = |key: &String| {
            let fields = value["payload"].as_object();
            fields.is_some_and(|fields| {
                fields.values().any(|field| match field {
                    Value::String(text) => text == key,
                    Value::Number(number) => &number.to_string() == key,
                    _ => false,
                })
            })
        };
        let met = self.conditions.iter().all(|condition| condition.meets(&value));
        if !met || !self.key.as_ref().is_none_or(is_key) {
            return None;
        }
        Some(if redact.is_empty() { value } else { payload::entry(partition.index(), entry, redact) })
    }
}

/// The last entries that are meant, oldest first, each with the place of its partition.
async fn last(
    asked: &Tail,
    server: &Server,
    partitions: &[PartitionKey],
    ends: &[EntryId],
    (number, redact): (usize, &Redact),
) -> Result<Vec<(usize, Arc<Entry>)>, Problem> {
    let mut found: Vec<(usize, Arc<Entry>)> = Vec::new();
    for (index, partition) in partitions.iter().enumerate() {
        let mut before = ends[index].next();
        let mut here = VecDeque::new();
        let mut pages = Pages::new(number.min(PAGE));
        while here.len() < number {
            let page = server.broker.read_back(partition, before, pages.count()).await?;
            let all = page.len() < pages.count();
            pages.learn(page.iter().map(|entry| entry.weight()));
            before = page.last().map_or(before, |entry| entry.id);
            let meant = page.into_iter().filter(|entry| asked.view(partition, entry, redact).is_some());
            here.extend(meant.take(number - here.len()));
            if all {
                break;
            }
        }
        found.extend(here.into_iter().map(|entry| (index, entry)));
    }
    found.sort_by_key(|(_, entry)| entry.id);
    found.drain(..found.len().saturating_sub(number));
    Ok(found)
}

/// Reads from the places to the ends, or on and on.
async fn read(
    asked: &Tail,
    server: &Server,
    partitions: &[PartitionKey],
    (mut places, ends): (Vec<EntryId>, Vec<EntryId>),
    show: &mut Show<'_>,
    out: &mut Output,
) -> Result<(), Problem> {
    let mut pages = Pages::new(16);
    // Whether the end was reached once: what is asked for with --from is never skipped.
    let mut live = places == ends;
    loop {
        let open: Vec<_> =
            (0..partitions.len()).filter(|index| asked.follow || places[*index] < ends[*index]).collect();
        if open.is_empty() || show.left == Some(0) {
            return Ok(());
        }
        let found = match next(server, partitions, &places, &open, pages.count()).await {
            Ok(found) => found,
            Err(error) if asked.follow && (error.is_retryable() || error.is_indefinite()) => {
                eprintln!("{}; trying again", plain(&error.to_string()));
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let full = found.iter().any(|(_, entries)| entries.len() >= pages.count());
        pages.learn(found.iter().flat_map(|(_, entries)| entries).map(|entry| entry.weight()));
        if found.is_empty() {
            if !asked.follow {
                return Ok(());
            }
            live = true;
            tokio::time::sleep(WAIT).await;
            continue;
        }
        let mut batch: Vec<_> =
            found.into_iter().flat_map(|(key, entries)| entries.into_iter().map(move |entry| (key, entry))).collect();
        batch.sort_by_key(|(_, entry)| entry.id);
        for (index, entry) in batch {
            places[index] = entry.id;
            if asked.follow || entry.id <= ends[index] {
                show.one(&partitions[index], &entry, out)?;
            }
        }
        out.flush()?;
        live |= !full;
        match (live, full) {
            (true, true) => skip(server, partitions, &mut places).await?,
            // So that a busy stream is read fifty times per second, and not thousands of times.
            (_, false) if asked.follow => tokio::time::sleep(BREATH).await,
            _ => {}
        }
    }
}

/// The entries that a read found, and the place of their partition.
type Found = Vec<(usize, Vec<Arc<Entry>>)>;

/// Reads behind the places of the partitions that are open. A tail of the broker would read with scripts, which an
/// observer may not run.
async fn next(
    server: &Server,
    partitions: &[PartitionKey],
    places: &[EntryId],
    open: &[usize],
    count: usize,
) -> Result<Found, BrokerError> {
    let mut found = Vec::new();
    for index in open.iter().copied() {
        let entries = server.broker.read(&partitions[index], places[index], count).await?;
        if !entries.is_empty() {
            found.push((index, entries));
        }
    }
    Ok(found)
}

/// Goes on at the end of a partition that is too far ahead, and says so.
async fn skip(server: &Server, partitions: &[PartitionKey], places: &mut [EntryId]) -> Result<(), Problem> {
    for (partition, place) in partitions.iter().zip(places) {
        let Some(extent) = server.broker.extent(partition).await? else { continue };
        if extent.last.ms.saturating_sub(place.ms) > BEHIND {
            let behind = when::ago(extent.last.ms, place.ms);
            eprintln!(
                "skipped {behind} of {partition}, from {place} to {}: the output is slower than the stream",
                extent.last
            );
            *place = extent.last;
        }
    }
    Ok(())
}

/// How many entries to ask for, by the weight of those that came.
struct Pages {
    count: usize,
}

impl Pages {
    fn new(count: usize) -> Self {
        Self { count: count.clamp(1, PAGE) }
    }

    fn count(&self) -> usize {
        self.count
    }

    fn learn(&mut self, weights: impl Iterator<Item = usize>) {
        let (number, bytes) = weights.fold((0, 0), |(number, bytes), weight| (number + 1, bytes + weight));
        if let Some(mean) = bytes.checked_div(number) {
            let fitting = BYTES / mean.max(1);
            // Large entries may follow small ones, so it grows by steps.
            self.count = fitting.min(self.count * 2).clamp(1, PAGE);
        }
    }
}

/// Prints events.
struct Show<'a> {
    asked: &'a Tail,
    redact: &'a Redact,
    several: bool,
    /// How many more are wanted.
    left: Option<usize>,
}

impl Show<'_> {
    fn one(&mut self, partition: &PartitionKey, entry: &Entry, out: &mut Output) -> Result<(), Problem> {
        if self.left == Some(0) {
            return Ok(());
        }
        let Some(value) = self.asked.view(partition, entry, self.redact) else { return Ok(()) };
        self.left = self.left.map(|left| left - 1);
        if let Some(template) = &self.asked.format {
            return Ok(out.raw(&(template.fill(partition, &value) + "\n"))?);
        }
        let several = self.several;
        let line = || {
            let place = if several { format!("{}/{}", value["partition"], entry.id) } else { entry.id.to_string() };
            format!("{}  {place}  {}  {}", when::time(entry.id.ms), event(&value), payload::line(&value))
        };
        let text = if out.is_for_people() { line() } else { String::new() };
        Ok(out.line(|| text, value)?)
    }
}

/// The event and its version, such as `Trade@1`.
fn event(value: &Value) -> String {
    match value["event"].as_str() {
        Some(name) => format!("{}@{}", plain(name), value["version"]),
        None => "-".to_owned(),
    }
}

/// A line with words that stand for parts of an event.
#[derive(Debug, Clone)]
struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Word(char),
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match (character, character == '%' || character == '\\') {
                (_, false) => plain.push(character),
                (sign, true) => match (sign, characters.next()) {
                    ('\\', Some('n')) => plain.push('\n'),
                    ('\\', Some('t')) => plain.push('\t'),
                    ('\\', Some('\\')) => plain.push('\\'),
                    ('%', Some('%')) => plain.push('%'),
                    ('%', Some(word @ ('i' | 'e' | 'u' | 'k' | 'p' | 'h' | 't'))) => {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                        parts.push(Part::Word(word));
                    }
                    (sign, other) => {
                        let seen = other.map(String::from).unwrap_or_default();
                        return Err(format!(
                            "`{sign}{seen}` stands for nothing; there are %i %e %u %k %p %h %t %% \\n \\t"
                        ));
                    }
                },
            }
        }
        parts.push(Part::Text(plain));
        Ok(Self(parts))
    }
}

impl Template {
    fn fill(&self, partition: &PartitionKey, value: &Value) -> String {
        let word = |word: &char| match word {
            'i' => value["id"].as_str().unwrap_or_default().to_owned(),
            'e' => event(value),
            'u' => plain(value["event_id"].as_str().unwrap_or("-")),
            'k' => partition.to_string(),
            'p' => payload::line(value),
            'h' => crate::text::json(&value["headers"]),
            _ => value["time"].as_str().unwrap_or_default().to_owned(),
        };
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Word(name) => word(name),
        };
        self.0.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_says_what_it_does_not_know() {
        assert_eq!("%i%%\\t%p".parse::<Template>().unwrap().0.len(), 5);
        for bad in ["%x", "%", "\\q"] {
            assert!(bad.parse::<Template>().unwrap_err().contains("stands for nothing"), "{bad}");
        }
    }

    #[test]
    fn pages_of_large_entries_are_short() {
        let mut pages = Pages::new(100);
        pages.learn([1_000; 100].into_iter());
        assert_eq!(pages.count(), 200);
        pages.learn([4 * 1024 * 1024; 3].into_iter());
        assert_eq!(pages.count(), 2);
        pages.learn([64 * 1024 * 1024].into_iter());
        assert_eq!(pages.count(), 1);
    }
}
