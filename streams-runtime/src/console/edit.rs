//! Editing a dead letter and replaying it: checked against the shapes that programs have recorded, as the tool's `dead edit` does.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::acts::{Act, Answered, read};
use super::answer::{Json, Problem};
use super::letters;
use super::shared::Shared;
use crate::operate::{Edit, Recorded};

/// The most bytes of the body: the largest payload that a page shows decoded, and its escapes.
pub(super) const BODY: usize = 2 * 1024 * 1024;

/// A letter, and its payload anew.
#[derive(Debug, Deserialize)]
struct EditAct {
    #[serde(flatten)]
    act: Act,
    id: String,
    /// The text of the JSON, whose integers are exact.
    json: String,
    /// Whether it is only checked.
    #[serde(default)]
    plan: bool,
}

pub(super) async fn edit(State(shared): State<Arc<Shared>>, body: Bytes) -> Answered {
    let EditAct { act, id, json, plan } = read(&body)?;
    let found = letters::letters(&shared, &act.stream, &act.group).await?;
    let id = letters::id(&id)?;
    let letter = found.get(id).await?.ok_or_else(|| letters::gone(id))?;
    let stream = shared.collector.inspector().key(&act.stream).await.map_err(Problem::unknown)?;
    let recorded = Recorded::of(&*shared.broker, &stream).await?;
    let unfit = |mistake| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, mistake);
    let edit = Edit::of(&recorded, &letter, &json, &shared.redact).map_err(unfit)?;
    let answer = json!({ "id": id.to_string(), "changed": edit.changed, "checked": edit.checked });
    if plan {
        return Ok(Json(answer));
    }
    act.audit(&shared, "edit", &format!("dead letter {id} {}: {}", letter.event_name(), edit.changed.join(", ")))
        .await?;
    if !found.replay_edited(id, &edit.payload).await? {
        return Err(letters::gone(id));
    }
    shared.collector.forget();
    Ok(Json(answer))
}
