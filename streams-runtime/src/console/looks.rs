//! The looks through the collector: the overview, pushed to whoever watches, a stream, a group, the server.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use streams_core::broker::BrokerErrorKind;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::answer::{Json, Problem};
use super::shared::{Shared, VIEWERS};
use crate::clock::millis;
use crate::operate::{Finding, GroupView, Overview, StreamView, Verdict};

/// How long a connection that pushes may be silent: a proxy takes it for dead after a minute.
const SILENCE: Duration = Duration::from_secs(15);
/// The wait after a look that failed.
const AGAIN: Duration = Duration::from_secs(2);
/// As [`Config::expire_after`](crate::Config::expire_after) unless said.
const EXPIRE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// The lines of the server's INFO that are shown.
const FACTS: [&str; 22] = [
    "redis_version",
    "valkey_version",
    "redis_mode",
    "role",
    "uptime_in_seconds",
    "connected_clients",
    "blocked_clients",
    "used_memory",
    "used_memory_peak",
    "maxmemory",
    "maxmemory_policy",
    "mem_fragmentation_ratio",
    "evicted_keys",
    "instantaneous_ops_per_sec",
    "aof_enabled",
    "aof_last_write_status",
    "rdb_last_save_time",
    "rdb_last_bgsave_status",
    "rdb_changes_since_last_save",
    "connected_slaves",
    "loading",
    "rejected_connections",
];

/// A stream, or a group of it.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    stream: String,
    #[serde(default)]
    group: String,
}

pub(super) async fn about(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "server": shared.broker.describe(),
        "namespace": shared.namespace,
        "read_only": shared.token.is_none(),
        "production": shared.production,
        "redact": shared.redact.names(),
    }))
}

pub(super) async fn overview(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Problem> {
    Ok(Json(summary(&shared.collector.overview().await?.view)))
}

/// Pushes the overview after each look, for as long as somebody listens.
pub(super) async fn events(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let Ok(viewer) = Arc::clone(&shared.viewers).try_acquire_owned() else {
        let message = format!("{VIEWERS} browsers watch already, which are the most; close another one");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    let forgotten = shared.collector.forgotten();
    let watch = Watch { shared, _viewer: viewer, next: Instant::now(), forgotten };
    let body = Body::from_stream(stream::unfold(watch, |mut watch| async {
        let said = watch.next().await;
        Some((Ok::<_, std::convert::Infallible>(said), watch))
    }));
    Ok(([(CONTENT_TYPE, "text/event-stream")], body).into_response())
}

/// A browser that watches.
struct Watch {
    shared: Arc<Shared>,
    _viewer: OwnedSemaphorePermit,
    next: Instant,
    forgotten: watch::Receiver<()>,
}

impl Watch {
    /// The next look, or a sign of life where that is long in coming.
    async fn next(&mut self) -> Bytes {
        let wait = self.next.min(Instant::now() + SILENCE);
        let is_news = tokio::select! {
            () = sleep_until(wait) => wait == self.next,
            // Its sender lives as long as this.
            changed = self.forgotten.changed() => changed.is_ok(),
        };
        if !is_news {
            return Bytes::from_static(b": here\n\n");
        }
        match self.shared.collector.overview().await {
            Ok(look) => {
                self.next = look.until;
                Bytes::from(format!("event: overview\ndata: {}\n\n", summary(&look.view)))
            }
            Err(error) => {
                self.next = Instant::now() + AGAIN;
                Bytes::from(format!("event: trouble\ndata: {}\n\n", json!({ "error": error.to_string() })))
            }
        }
    }
}

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Query(named): Query<Named>,
) -> Result<Json<Value>, Problem> {
    let view = shared.collector.stream(&named.stream).await.map_err(Problem::unknown)?;
    let mut value = row(&view);
    value["parts"] = json!(view.partitions);
    Ok(Json(value))
}

pub(super) async fn group(
    State(shared): State<Arc<Shared>>,
    Query(named): Query<Named>,
) -> Result<Json<Value>, Problem> {
    let stream = shared.collector.stream(&named.stream).await.map_err(Problem::unknown)?;
    let view = &shared.group(&named.stream, &named.group).await?;
    let mut value = json!(view);
    value["row"] = group_row(view);
    value["added"] = json!(stream.added());
    value["parts"] = json!(stream.partitions);
    Ok(Json(value))
}

/// The server: its facts, and the same findings as those of `streams doctor`.
pub(super) async fn server(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Problem> {
    let began = Instant::now();
    shared.broker.now().await?;
    let trip = began.elapsed();
    let mut findings = Finding::of_server(&*shared.broker).await?;
    match shared.collector.overview().await {
        Ok(look) => findings.extend(Finding::of_streams(&look.view.streams, EXPIRE_AFTER)),
        Err(error) if error.kind() == BrokerErrorKind::Refused => {
            let found = error.to_string();
            findings.push(Finding::new(
                "rights",
                Verdict::Warning,
                found,
                "streams cannot be looked at",
                "streams doctor",
            ));
        }
        Err(error) => return Err(error.into()),
    }
    // The worst first; others stay in their order.
    findings.sort_by_key(|finding| Reverse(finding.verdict));
    // A refusal is among the findings.
    let info = shared.broker.info().await.unwrap_or_default();
    let facts = FACTS.iter().filter_map(|name| info.get(*name).map(|value| (*name, value)));
    Ok(Json(json!({
        "server": shared.broker.describe(),
        "round_trip": trip.as_micros() as u64,
        "facts": facts.collect::<BTreeMap<_, _>>(),
        "findings": findings,
    })))
}

/// The figures of the looks that were made before a page was opened.
pub(super) async fn history(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "series": shared.collector.history() }))
}

/// The overview: a row per stream, and in it a row per group.
fn summary(overview: &Overview) -> Value {
    let at = overview.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
    json!({ "at": at, "streams": overview.streams.iter().map(row).collect::<Vec<_>>() })
}

fn row(stream: &StreamView) -> Value {
    json!({
        "name": stream.name,
        "partitions": stream.partitions.len(),
        "length": stream.length(),
        "added": stream.added(),
        "bytes": stream.bytes(),
        "first": stream.first().map(|id| id.ms),
        "last": stream.last().map(|id| id.ms),
        "refused": stream.refused,
        "groups": stream.groups.iter().map(group_row).collect::<Vec<_>>(),
    })
}

fn group_row(group: &GroupView) -> Value {
    let halted = group.places.iter().find_map(|place| place.halted.as_ref());
    json!({
        "name": group.name,
        "mode": group.mode,
        "condition": group.condition(),
        "lag": group.lag(),
        "age": millis(group.age()),
        "dead": group.dead(),
        "replays": group.replays(),
        "retrying": group.retrying(),
        "in_flight": group.places.iter().map(|place| place.in_flight).sum::<u64>(),
        "members": group.members.len(),
        "living": group.living(),
        "why": halted.map(|halted| &halted.reason).or(group.paused.as_ref().map(|pause| &pause.why)),
    })
}
