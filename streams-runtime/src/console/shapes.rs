//! The events that programs have recorded: their documentation and shapes, who publishes and who reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use streams_core::broker::BrokerErrorKind;
use streams_core::schema::lock::note;
use streams_core::schema::{Layout, json_schema};

use super::answer::{Json, Problem};
use super::shared::Shared;
use crate::operate::{Known, Reads, Recorded};

/// The most streams whose events are listed at once.
const STREAMS: usize = 50;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// The stream behind which the list begins.
    #[serde(default)]
    after: String,
    /// Only this stream.
    #[serde(default)]
    stream: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct AskedOne {
    stream: String,
    /// With a version, such as `Trade@1`, or without.
    event: String,
}

/// A row per version of an event.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let streams: Vec<_> = if asked.stream.is_empty() {
        let view = shared.collector.overview().await?.view;
        view.streams.iter().map(|stream| stream.name.clone()).filter(|name| *name > asked.after).collect()
    } else {
        vec![asked.stream.clone()]
    };
    let mut rows = Vec::new();
    for stream in streams.iter().take(STREAMS) {
        let key = match shared.collector.inspector().key(stream).await {
            Ok(key) => key,
            // It was removed since.
            Err(error) if asked.stream.is_empty() && error.kind() == BrokerErrorKind::Refused => continue,
            Err(error) => return Err(Problem::unknown(error)),
        };
        rows.extend(of_stream(stream, &Recorded::of(&*shared.broker, &key).await?));
    }
    let next = streams.get(STREAMS).and(streams.get(STREAMS - 1));
    Ok(Json(json!({ "events": rows, "next": next })))
}

/// The versions of an event, each with its shape as JSON Schema.
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<AskedOne>,
) -> Result<Json<Value>, Problem> {
    let key = shared.collector.inspector().key(&asked.stream).await.map_err(Problem::unknown)?;
    let recorded = Recorded::of(&*shared.broker, &key).await?;
    let about = recorded.about(&asked.event, &asked.stream);
    let known = about.map_err(|words| Problem::new(StatusCode::NOT_FOUND, words))?;
    let mut value = row(&asked.stream, &known, &recorded.reads);
    // One shape per fingerprint, those of publishers first.
    let mut shapes: Vec<(&str, Vec<&Known>)> = Vec::new();
    for one in &known {
        match shapes.iter_mut().find(|(fingerprint, _)| *fingerprint == one.fingerprint) {
            Some((_, those)) => those.push(one),
            None => shapes.push((&one.fingerprint, vec![one])),
        }
    }
    shapes.sort_by_key(|(_, those)| !those.iter().any(|known| known.publishes));
    value["partitions"] = json!(key.partitions());
    value["shapes"] = shapes.iter().map(|(fingerprint, those)| shape(fingerprint, those)).collect();
    let versions = recorded.known.iter().filter(|other| other.event == known[0].event).map(|other| other.version);
    value["versions"] = json!(versions.collect::<BTreeSet<_>>());
    Ok(Json(value))
}

fn of_stream(stream: &str, recorded: &Recorded) -> Vec<Value> {
    let mut versions: BTreeMap<(&str, u64), Vec<&Known>> = BTreeMap::new();
    for known in &recorded.known {
        versions.entry((&known.event, known.version)).or_default().push(known);
    }
    versions.into_values().map(|known| row(stream, &known, &recorded.reads)).collect()
}

/// The notes are about one version, the newest last.
fn row(stream: &str, known: &[&Known], reads: &[Reads]) -> Value {
    let newest = known[known.len() - 1];
    let programs = |publishes| {
        let mut programs: Vec<_> =
            known.iter().filter(|known| known.publishes == publishes).map(|known| known.program.clone()).collect();
        programs.sort();
        programs.dedup();
        programs
    };
    let is_read =
        |reads: &&Reads| reads.event == newest.event && (reads.oldest..=reads.newest).contains(&newest.version);
    let mut groups: Vec<_> = reads.iter().filter(is_read).map(|reads| &reads.group).collect();
    groups.sort();
    let (first, others) = (&known[0].fingerprint, known.iter().skip(1));
    json!({
        "stream": stream,
        "event": newest.event,
        "version": newest.version,
        "name": newest.name(),
        "doc": known.iter().rev().map(|known| &known.doc).find(|doc| !doc.is_empty()),
        "key": known.iter().rev().find_map(|known| known.key.as_ref()),
        "publishers": programs(true),
        "knows": programs(false),
        "groups": groups,
        "differs": others.into_iter().any(|known| known.fingerprint != *first),
    })
}

fn shape(fingerprint: &str, those: &[&Known]) -> Value {
    let known = those[those.len() - 1];
    // In JSON an event has its fields by name, whatever its form on the wire is.
    let schema = note::read_entry(&known.lock).map(|(schema, _)| json_schema(schema, Layout::Map));
    let who = those.iter().map(|known| {
        json!({
            "by": known.by(), "publishes": known.publishes, "at": known.at, "type": known.type_name, "place": known.place,
        })
    });
    json!({
        "fingerprint": fingerprint,
        "layout": known.lock["layout"],
        // A browser rounds large numbers.
        "schema_text": schema.as_ref().map(Value::to_string),
        "schema": schema,
        "programs": who.collect::<Vec<_>>(),
    })
}
