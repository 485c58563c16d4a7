//! The entries of a stream, page by page in either direction of time, and one of them whole.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use streams_core::broker::{Broker, BrokerError};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_core::{Entry, EntryId, codec};

use super::answer::{Json, Problem};
use super::shared::Shared;
use crate::operate::{GroupView, Redact, StreamView, trace_of};
use crate::ops::DeadLetterId;

/// How many entries a page has unless said, and at most.
const PAGE: usize = 50;
const MOST: usize = 200;
/// How many entries, and how many bytes of them, a filter looks at for one page; the next page goes on behind them.
const MOST_SEEN: usize = 2_000;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// How many entries are read at once, fewer where they are large.
const READ: usize = 32;
const READ_BYTES: usize = 1024 * 1024;
/// How many partitions are shown together; of a stream with more one at a time.
const TOGETHER: u32 = 8;
/// How much of a payload a row shows, and how much a filter looks at.
const SHOWN: usize = 2 * 1024;
const SOUGHT: usize = 64 * 1024;
/// The most bytes of a payload that are shown decoded, and as digits.
pub(super) const DECODED: usize = 512 * 1024;
const DIGITS: usize = 64 * 1024;
/// How many headers or fields are shown, and how much of each.
const FIELDS: usize = 64;
const FIELD: usize = 4 * 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    stream: String,
    partition: Option<u32>,
    /// The entry behind which the page begins, in the direction of the page: `3/1767225600000-0`, or only an id.
    from: Option<String>,
    /// Whether the oldest come first.
    #[serde(default)]
    oldest: bool,
    count: Option<usize>,
    /// A text that the event's name, its id, a header or the payload has in it.
    #[serde(rename = "match")]
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AskedOne {
    stream: String,
    #[serde(default)]
    partition: u32,
    id: String,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let key = key(&shared, &asked.stream).await?;
    let partition = asked.partition.or_else(|| (key.partitions() > TOGETHER).then_some(0));
    let indices = match partition {
        Some(index) if index < key.partitions() => index..index + 1,
        Some(index) => return Err(no_partition(&asked.stream, index, &key)),
        None => 0..key.partitions(),
    };
    let cursor = asked.from.as_deref().map(|text| cursor(text, asked.oldest)).transpose()?;
    let count = asked.count.unwrap_or(PAGE).clamp(1, MOST);
    let text = asked.text.filter(|text| !text.is_empty()).map(|text| text.to_lowercase());
    let mut walk = Walk::new(&*shared.broker, indices.map(|index| key.partition(index)), cursor, asked.oldest);
    let (mut found, mut seen, mut bytes, mut last) = (Vec::new(), 0, 0, None);
    let mut is_end = false;
    while found.len() < count && seen < MOST_SEEN && bytes < MOST_BYTES {
        let Some((index, entry)) = walk.next().await? else {
            is_end = true;
            break;
        };
        seen += 1;
        bytes += entry.weight();
        last = Some(DeadLetterId { partition: index, entry: entry.id });
        if text.as_deref().is_none_or(|text| has(&shared.redact, &entry, text)) {
            found.push(row(&shared.redact, index, &entry));
        }
    }
    Ok(Json(json!({
        "partition": partition,
        "partitions": key.partitions(),
        "entries": found,
        "seen": seen,
        "next": last.filter(|_| !is_end).map(|last| last.to_string()),
    })))
}

pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<AskedOne>,
) -> Result<Json<Value>, Problem> {
    let key = key(&shared, &asked.stream).await?;
    if asked.partition >= key.partitions() {
        return Err(no_partition(&asked.stream, asked.partition, &key));
    }
    let id: EntryId = asked.id.parse().map_err(|error| Problem::bad(format!("{error}")))?;
    let partition = key.partition(asked.partition);
    let read = shared.broker.read(&partition, id.previous(), 1).await?;
    let Some(entry) = read.into_iter().find(|entry| entry.id == id) else {
        let message = format!("there is no entry {id} on `{partition}`: it was trimmed or deleted, or never there");
        return Err(Problem::new(StatusCode::NOT_FOUND, message));
    };
    let view = shared.collector.stream(&asked.stream).await.map_err(Problem::unknown)?;
    let mut value = whole(&shared.redact, asked.partition, &entry);
    value["groups"] = settled(&view, asked.partition, id);
    value["key"] = json!(partition.as_str());
    Ok(Json(value))
}

/// The key of a stream that is there.
async fn key(shared: &Shared, stream: &str) -> Result<StreamKey, Problem> {
    shared.collector.inspector().key(stream).await.map_err(Problem::unknown)
}

fn no_partition(stream: &str, index: u32, key: &StreamKey) -> Problem {
    let message = format!("stream `{stream}` has {} partitions, and {index} is none of them", key.partitions());
    Problem::new(StatusCode::NOT_FOUND, message)
}

/// A place in all partitions: an id alone is above or below all entries of that id.
fn cursor(text: &str, oldest: bool) -> Result<DeadLetterId, Problem> {
    let place: DeadLetterId = text.parse().map_err(|error| Problem::bad(format!("{error}")))?;
    let everywhere = if oldest { u32::MAX } else { 0 };
    Ok(if text.contains('/') { place } else { DeadLetterId { partition: everywhere, ..place } })
}

/// The entries of several partitions in one order: by id, then by partition.
struct Walk<'a> {
    broker: &'a dyn Broker,
    oldest: bool,
    sources: Vec<Source>,
}

struct Source {
    partition: PartitionKey,
    /// Behind which the next read begins.
    at: EntryId,
    read: VecDeque<Arc<Entry>>,
    largest: usize,
    is_end: bool,
}

impl<'a> Walk<'a> {
    fn new(
        broker: &'a dyn Broker,
        partitions: impl Iterator<Item = PartitionKey>,
        cursor: Option<DeadLetterId>,
        oldest: bool,
    ) -> Self {
        let begin = if oldest { EntryId::ZERO } else { EntryId::MAX };
        let source = |partition: PartitionKey| {
            let at = match cursor {
                None => begin,
                // Entries of the same id in partitions to come are not passed over.
                Some(place) if oldest && partition.index() > place.partition => place.entry.previous(),
                Some(place) if !oldest && partition.index() < place.partition => place.entry.next(),
                Some(place) => place.entry,
            };
            Source { partition, at, read: VecDeque::new(), largest: READ_BYTES / 4, is_end: false }
        };
        Self { broker, oldest, sources: partitions.map(source).collect() }
    }

    async fn next(&mut self) -> Result<Option<(u32, Arc<Entry>)>, BrokerError> {
        for source in self.sources.iter_mut().filter(|source| source.read.is_empty() && !source.is_end) {
            let count = (READ_BYTES / source.largest.max(1)).clamp(1, READ);
            let read = if self.oldest {
                self.broker.read(&source.partition, source.at, count).await?
            } else {
                self.broker.read_back(&source.partition, source.at, count).await?
            };
            source.is_end = read.len() < count;
            source.at = read.last().map_or(source.at, |last| last.id);
            source.largest = read.iter().map(|entry| entry.weight()).max().unwrap_or(1);
            source.read.extend(read);
        }
        let place = |source: &&mut Source| source.read.front().map(|entry| (entry.id, source.partition.index()));
        let waiting = self.sources.iter_mut().filter(|source| !source.read.is_empty());
        let next = if self.oldest { waiting.min_by_key(place) } else { waiting.max_by_key(place) };
        Ok(next.and_then(|source| Some((source.partition.index(), source.read.pop_front()?))))
    }
}

/// A hidden value is not found either, or it could be guessed.
fn has(redact: &Redact, entry: &Entry, text: &str) -> bool {
    let within =
        |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SOUGHT)]).to_lowercase().contains(text);
    let is_shown = |name: &[u8]| name != Entry::PAYLOAD.as_bytes() && !redact.hides(&String::from_utf8_lossy(name));
    entry.fields().any(|(name, value)| is_shown(name) && within(value))
        || entry
            .payload()
            .is_some_and(|payload| codec::text_without(payload, SOUGHT, redact.names()).to_lowercase().contains(text))
}

/// An entry as a row of a list.
pub(super) fn row(redact: &Redact, partition: u32, entry: &Entry) -> Value {
    let named = entry.event();
    json!({
        "partition": partition,
        "id": entry.id.to_string(),
        "time": entry.id.ms,
        "event": named.map(|(name, _)| name),
        "version": named.map(|(_, version)| version),
        "event_id": entry.given_id(),
        "bytes": entry.payload().map_or(0, <[u8]>::len),
        "text": entry.payload().map(|payload| codec::text_without(payload, SHOWN, redact.names())),
    })
}

/// An entry with all that it holds: decoded, as fields and as digits. Where fields are hidden there are no bytes of the
/// payload.
pub(super) fn whole(redact: &Redact, partition: u32, entry: &Entry) -> Value {
    let mut value = row(redact, partition, entry);
    let payload = entry.payload().unwrap_or_default();
    let bytes = if redact.is_empty() { payload } else { &[] };
    let named = |name: &[u8], value: String| redact.named(&String::from_utf8_lossy(name), value);
    let field = |(name, value): (&[u8], &[u8])| {
        let is_bare = !redact.is_empty() && name == Entry::PAYLOAD.as_bytes();
        json!([escaped(name), if is_bare { "hidden".to_owned() } else { named(name, escaped(value)) }])
    };
    let headers =
        entry.headers().iter().take(FIELDS).map(|(name, value)| json!([text(name), named(name, text(value))]));
    value["headers"] = headers.collect();
    value["trace"] = json!(trace_of(entry));
    value["fields"] = entry.fields().take(FIELDS).map(field).collect();
    value["fields_left_out"] = json!(entry.fields().count().saturating_sub(FIELDS));
    let decoded = Some(payload).filter(|payload| payload.len() <= DECODED);
    value["json"] = json!(decoded.and_then(|payload| codec::json_without(payload, redact.names()).ok()));
    value["text"] = json!(entry.payload().map(|payload| codec::text_without(payload, DIGITS, redact.names())));
    value["hex"] = json!(hex(&bytes[..bytes.len().min(DIGITS)]));
    value["hex_left_out"] = json!(payload.len().saturating_sub(DIGITS.min(bytes.len())));
    value
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(FIELD)]).into_owned()
}

fn escaped(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(FIELD)].escape_ascii().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        for digit in [byte >> 4, byte & 15] {
            digits.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
        digits
    })
}

/// How an entry stands with each group that has begun on its partition.
pub(super) fn settled(view: &StreamView, partition: u32, id: EntryId) -> Value {
    let stands = |group: &GroupView| Some(json!({ "group": group.name, "is": group.stands_to(partition, id)? }));
    view.groups.iter().filter_map(stands).collect()
}
