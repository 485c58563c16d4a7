//! `streams get`: everything of one event.

use std::sync::Arc;

use serde_json::json;
use streams_runtime::broker::Log;
use streams_runtime::keys::PartitionKey;
use streams_runtime::{DeadLetterId, Entry, trace_of};

use crate::confirm::count;
use crate::connect::Server;
use crate::output::Output;
use crate::payload::{self, Redact, hex, readable};
use crate::problem::Problem;
use crate::when;

/// The most bytes of a payload that are shown as digits to people.
const DIGITS: usize = 4 * 1024;

/// Show one event: its headers, its payload decoded and raw, and which groups have settled it
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// The stream
    stream: String,
    /// The entry's id, as `tail` shows it; `3/1767225600000-0` for partition 3
    id: String,
}

impl Get {
    pub(crate) async fn run(self, server: &Server, redact: &Redact, out: &mut Output) -> Result<(), Problem> {
        let (stream, mut partitions) = server.stream(&self.stream).await?;
        let id: DeadLetterId = self.id.parse().map_err(|_| {
            Problem::usage(format!(
                "`{}` is no entry id such as `1767225600000-0`; the entry of an event's own id shows: streams tail {} --from earliest --where id={}",
                self.id, self.stream, self.id
            ))
        })?;
        if self.id.contains('/') {
            partitions.retain(|partition| partition.index() == id.partition);
        }
        if partitions.is_empty() {
            return Err(format!(
                "`{}` has no partition {}: it has {}, counted from 0",
                self.stream,
                id.partition,
                count(stream.partitions().into(), "partition")
            )
            .into());
        }
        let (partition, entry) = find(server, &partitions, id).await?.ok_or_else(|| {
            format!("there is no entry {} on `{}`: it was trimmed or deleted, or never there", self.id, stream.base())
        })?;
        let mut value = payload::entry(partition.index(), &entry, redact);
        let raw = entry.payload().unwrap_or_default();
        let digits = if redact.is_empty() { hex(raw) } else { "hidden, because a field is".to_owned() };
        value["payload_hex"] = json!(digits);
        value["trace"] = json!(trace_of(&entry));
        let mut facts = vec![
            ("entry", format!("{} on {partition}", entry.id)),
            ("time", when::time(entry.id.ms)),
            ("event", readable(entry.field(Entry::EVENT).unwrap_or_default())),
            ("event id", entry.event_id().to_string()),
        ];
        facts.extend(trace_of(&entry).map(|trace| ("trace", trace.to_owned())));
        for (name, value) in value["headers"].as_object().into_iter().flatten() {
            facts.push(("header", format!("{name}: {}", value.as_str().unwrap_or_default())));
        }
        let view = server.inspector()?.stream(stream_name(&self.stream)).await;
        // A stream that no program has declared has no groups of ours.
        let groups = view.map(|view| super::info::settled(&view, partition.index(), entry.id)).unwrap_or_default();
        value["groups"] = groups.iter().map(|(group, words)| json!({ "group": group, "is": words })).collect();
        facts.extend(groups.into_iter().map(|(group, words)| ("group", format!("{group}: {words}"))));
        facts.push(("size", format!("{} bytes of payload, {} with headers", raw.len(), entry.weight())));
        facts.push(("payload", payload::line(&value_for_people(&value))));
        let shown = if raw.len() > DIGITS && redact.is_empty() {
            format!("{} .. and {} bytes more", &digits[..2 * DIGITS], raw.len() - DIGITS)
        } else {
            digits
        };
        facts.push(("hex", shown));
        Ok(out.one(&facts, &value)?)
    }
}

/// The stream's name without the number of a partition.
pub(super) fn stream_name(named: &str) -> &str {
    named.rsplit_once('.').filter(|(_, digits)| digits.parse::<u32>().is_ok()).map_or(named, |(name, _)| name)
}

/// Without the digits, which have a line of their own.
fn value_for_people(value: &serde_json::Value) -> serde_json::Value {
    let mut value = value.clone();
    value["payload_hex"] = serde_json::Value::Null;
    value
}

async fn find<'a>(
    server: &Server,
    partitions: &'a [PartitionKey],
    id: DeadLetterId,
) -> Result<Option<(&'a PartitionKey, Arc<Entry>)>, Problem> {
    for partition in partitions {
        let read = server.broker.read(partition, id.entry.previous(), 1).await?;
        if let Some(entry) = read.into_iter().find(|entry| entry.id == id.entry) {
            return Ok(Some((partition, entry)));
        }
    }
    Ok(None)
}
