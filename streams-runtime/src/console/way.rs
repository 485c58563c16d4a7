//! One event's way: the entries that carry an id, page by page, each with how its groups stand to it.

use std::sync::Arc;

use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use streams_core::EntryId;

use super::answer::{Json, Problem};
use super::entries;
use super::shared::Shared;
use crate::operate::{Sought, TracePlace};

/// The longest id.
const LONGEST: usize = 512;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    id: String,
    /// How many seconds back entries are looked at, by the server's clock; all without it.
    within: Option<u64>,
    /// Where the page before ended.
    from: Option<String>,
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let id = asked.id.trim();
    if id.is_empty() || id.len() > LONGEST {
        return Err(Problem::bad(format!("an id of {} bytes; expected 1 to {LONGEST}", id.len())));
    }
    let from: Option<TracePlace> = asked.from.as_deref().map(str::parse).transpose().map_err(Problem::bad)?;
    let overview = shared.collector.overview().await?.view;
    let streams: Vec<_> = overview.streams.iter().map(|stream| stream.name.clone()).collect();
    let since = match asked.within {
        Some(seconds) => shared.broker.now().await?.saturating_sub(seconds.saturating_mul(1_000)),
        None => 0,
    };
    let sought = Sought { id, streams: &streams, since: EntryId::new(since, 0) };
    let page = shared.collector.inspector().trace(sought, from.as_ref()).await?;
    let mut found = Vec::with_capacity(page.found.len());
    for traced in page.found {
        let mut row = entries::row(&shared.redact, traced.partition, &traced.entry);
        let view = shared.collector.stream(&traced.stream).await?;
        row["stream"] = json!(traced.stream);
        row["groups"] = entries::settled(&view, traced.partition, traced.entry.id);
        found.push(row);
    }
    let place = page.next.as_ref().and_then(|next| streams.iter().position(|stream| *stream == next.stream()));
    Ok(Json(json!({
        "found": found, "seen": page.seen, "next": page.next.map(|next| next.to_string()),
        "streams": streams.len(), "done": place.unwrap_or(streams.len()),
    })))
}
