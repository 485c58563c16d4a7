//! The handlers of the program that serves the console, and the processes of every program, as their groups record them.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::answer::{Json, Problem};
use super::program::Registered;
use super::shared::Shared;
use crate::clock::millis;

/// The most processes that are listed.
const MOST: usize = 1_000;

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Problem> {
    let program = shared.program.as_ref().map(
        |program| json!({ "name": program.name, "handlers": program.handlers.iter().map(row).collect::<Vec<_>>() }),
    );
    let overview = shared.collector.overview().await?.view;
    let groups = overview.streams.iter().flat_map(|stream| &stream.groups);
    let members = groups.flat_map(|group| group.members.iter().map(move |member| (group, member)));
    let rows: Vec<_> = members
        .map(|(group, member)| {
            json!({
                "process": member.name, "stream": group.stream, "group": group.name, "mode": group.mode,
                "silent": member.silent.map(millis), "lease": millis(member.lease), "lives": member.lives(),
                "partitions": member.partitions, "build": member.build,
            })
        })
        .take(MOST + 1)
        .collect();
    let more = rows.len() > MOST;
    Ok(Json(json!({ "program": program, "members": &rows[..rows.len().min(MOST)], "more": more })))
}

fn row(handler: &Registered) -> Value {
    let (buckets, seconds) = handler.calls.durations();
    let failed = handler.calls.last_failure();
    json!({
        "stream": handler.stream,
        "group": handler.group,
        "name": handler.name,
        "event": handler.event,
        "doc": handler.doc,
        "place": handler.place,
        "settings": handler.settings,
        "buckets": buckets,
        "seconds": seconds,
        "failures": handler.calls.failures(),
        "last_failure": failed.map(|failed| json!({ "at": failed.at, "entry": failed.entry.to_string(), "reason": failed.reason })),
    })
}
