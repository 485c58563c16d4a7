//! The acts of an operator. Each is checked at the door, looked up by name, noted in the audit stream, and then done.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use streams_core::{EntryId, Start};

use super::answer::{Json, Problem};
use super::jobs::{Kind, Which};
use super::letters::{self, Filter};
use super::shared::Shared;
use crate::clock::millis;
use crate::operate::Admin;

/// The most letters that are named one by one.
const MOST_IDS: usize = 1_000;
/// The longest name of who acts.
const MOST_NAME: usize = 64;

/// Who does something to which group.
#[derive(Debug, Deserialize)]
pub(super) struct Act {
    pub(super) stream: String,
    #[serde(default)]
    pub(super) group: String,
    /// Who, as they say.
    #[serde(default)]
    by: String,
}

impl Act {
    /// The name for the audit stream.
    fn by(&self) -> String {
        let name: String = self.by.trim().chars().filter(|c| !c.is_control()).take(MOST_NAME).collect();
        if name.is_empty() { "console".to_owned() } else { format!("{name} (console)") }
    }

    /// The operator's hand, by this name.
    fn admin(&self, shared: &Shared) -> Admin {
        shared.admin.clone().by(&self.by())
    }

    pub(super) async fn audit(&self, shared: &Shared, act: &str, detail: &str) -> Result<(), Problem> {
        Ok(shared.admin.audit(&self.by(), act, &self.stream, &self.group, detail).await?)
    }
}

#[derive(Debug, Deserialize)]
struct PauseAct {
    #[serde(flatten)]
    act: Act,
    #[serde(default)]
    why: String,
}

#[derive(Debug, Deserialize)]
struct ResetAct {
    #[serde(flatten)]
    act: Act,
    to: String,
}

#[derive(Debug, Deserialize)]
struct RemoveAct {
    #[serde(flatten)]
    act: Act,
    #[serde(default)]
    force: bool,
}

/// Letters: those that are named, or all that a filter means.
#[derive(Debug, Deserialize)]
struct LettersAct {
    #[serde(flatten)]
    act: Act,
    ids: Option<Vec<String>>,
    filter: Option<Filter>,
}

#[derive(Debug, Deserialize)]
struct StopAct {
    job: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct AskedPlan {
    stream: String,
    group: String,
    to: String,
}

pub(super) type Answered = Result<Json<Value>, Problem>;

/// Says that the token is right.
pub(super) async fn token() -> Json<Value> {
    Json(json!({}))
}

/// Plans a reset.
pub(super) async fn plan(State(shared): State<Arc<Shared>>, Query(asked): Query<AskedPlan>) -> Answered {
    let to = place(&asked.to)?;
    shared.group(&asked.stream, &asked.group).await?;
    Ok(Json(json!({ "plan": shared.admin.plan_reset(&asked.stream, &asked.group, to).await? })))
}

pub(super) async fn pause(State(shared): State<Arc<Shared>>, body: Bytes) -> Answered {
    let PauseAct { act, why } = read(&body)?;
    shared.group(&act.stream, &act.group).await?;
    let by = if act.by.trim().is_empty() { "console" } else { act.by.trim() };
    act.admin(&shared).pause(&act.stream, &act.group, by, &why).await?;
    shared.collector.forget();
    Ok(Json(json!({})))
}

pub(super) async fn resume(State(shared): State<Arc<Shared>>, body: Bytes) -> Answered {
    let act: Act = read(&body)?;
    shared.group(&act.stream, &act.group).await?;
    let partitions = act.admin(&shared).resume(&act.stream, &act.group).await?.len();
    shared.collector.forget();
    Ok(Json(json!({ "partitions": partitions })))
}

pub(super) async fn reset(State(shared): State<Arc<Shared>>, body: Bytes) -> Answered {
    let ResetAct { act, to } = read(&body)?;
    let start = place(&to)?;
    shared.group(&act.stream, &act.group).await?;
    let checkpoints = act.admin(&shared).reset(&act.stream, &act.group, start).await?;
    shared.collector.forget();
    let checkpoints: Vec<_> = checkpoints.iter().map(ToString::to_string).collect();
    Ok(Json(json!({ "checkpoints": checkpoints })))
}

pub(super) async fn remove(State(shared): State<Arc<Shared>>, body: Bytes) -> Answered {
    let RemoveAct { act, force } = read(&body)?;
    shared.group(&act.stream, &act.group).await?;
    let removed = act.admin(&shared).remove(&act.stream, &act.group, force).await?;
    shared.collector.forget();
    Ok(Json(json!({ "partitions": removed.partitions, "dead_letters": removed.dead_letters })))
}

pub(super) async fn replay(state: State<Arc<Shared>>, body: Bytes) -> Answered {
    start(state, &body, Kind::Replay).await
}

pub(super) async fn discard(state: State<Arc<Shared>>, body: Bytes) -> Answered {
    start(state, &body, Kind::Discard).await
}

async fn start(State(shared): State<Arc<Shared>>, body: &[u8], kind: Kind) -> Answered {
    let LettersAct { act, ids, filter } = read(body)?;
    let which = match (ids, filter) {
        (Some(ids), None) if (1..=MOST_IDS).contains(&ids.len()) => {
            Which::These(ids.iter().map(|text| letters::id(text)).collect::<Result<_, _>>()?)
        }
        (Some(ids), None) => {
            return Err(Problem::bad(format!("{} ids; expected 1 to {MOST_IDS}, or a filter", ids.len())));
        }
        (None, Some(filter)) => {
            let there = shared.group(&act.stream, &act.group).await?.dead();
            Which::All(filter.filter()?, json!(filter).to_string(), there)
        }
        _ => return Err(Problem::bad("expected either `ids` or a `filter`, which may be empty")),
    };
    let found = letters::letters(&shared, &act.stream, &act.group).await?;
    act.audit(&shared, kind.word(), &which.to_string()).await?;
    let until = EntryId::new(shared.broker.now().await?, u64::MAX);
    // A page that asks for the job's end is to see figures of after it.
    let looks = Arc::downgrade(&shared);
    let over = move || {
        if let Some(shared) = looks.upgrade() {
            shared.collector.forget();
        }
    };
    let job = shared.jobs.start(kind, (&act.stream, &act.group), found, (which, until), over)?;
    shared.collector.forget();
    Ok(Json(json!({ "job": job })))
}

pub(super) async fn jobs(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "jobs": shared.jobs.list() }))
}

pub(super) async fn stop(State(shared): State<Arc<Shared>>, body: Bytes) -> Answered {
    let StopAct { job } = read(&body)?;
    shared.jobs.stop(job)?;
    Ok(Json(json!({})))
}

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad(format!("the body cannot be read: {error}")))
}

/// Where a group is to begin: `earliest`, `latest`, an id, an age such as `-10m`, or a time such as
/// `2026-01-02T03:04:05Z`.
fn place(text: &str) -> Result<Start, Problem> {
    let age = || text.strip_prefix('-').and_then(|age| humantime::parse_duration(age).ok());
    let time = || humantime::parse_rfc3339_weak(text).ok();
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    if let Some(age) = age() {
        return Ok(Start::Ago(age));
    }
    if let Some(time) = time() {
        let since: Duration = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        return Ok(Start::At(EntryId::new(millis(since), 0)));
    }
    text.parse().map(Start::At).map_err(|_| {
        Problem::bad(format!(
            "`{text}` is no place; expected earliest, latest, an entry id, an age such as -10m, or a time such as 2026-01-02T03:04:05Z"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_word_an_id_an_age_or_a_time() {
        let start = |text| place(text).unwrap();
        assert_eq!(start("earliest"), Start::Earliest);
        assert_eq!(start("latest"), Start::Latest);
        assert_eq!(start("-10m"), Start::Ago(Duration::from_secs(600)));
        assert_eq!(start("1767225600000-3"), Start::At(EntryId::new(1_767_225_600_000, 3)));
        assert_eq!(start("2026-01-01T00:00:00Z"), Start::At(EntryId::new(1_767_225_600_000, 0)));
        for bad in ["", "10m", "yesterday", "-", "1-x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_acts_is_a_short_plain_name() {
        let by = |by: &str| Act { stream: String::new(), group: String::new(), by: by.to_owned() }.by();
        assert_eq!(by(" alice\n"), "alice (console)");
        assert_eq!(by(""), "console");
        assert_eq!(by(&"x".repeat(1_000)).len(), MOST_NAME + " (console)".len());
    }
}
