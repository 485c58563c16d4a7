//! Publishing one event of a form: checked against the shape that programs have recorded, as the tool's `publish` does.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use streams_core::{Entry, Headers};

use super::acts::{Act, Answered, read};
use super::answer::{Json, Problem};
use super::shared::Shared;
use crate::operate::{Key, Recorded};

/// The most headers of an event.
const MOST_HEADERS: usize = 32;

/// An event in JSON.
#[derive(Debug, Deserialize)]
struct PublishAct {
    #[serde(flatten)]
    act: Act,
    /// Its name, with or without a version.
    event: String,
    /// The text of the JSON, whose integers are exact.
    json: String,
    /// The key, or the field whose value it is; else what programs have recorded.
    key: Option<String>,
    key_field: Option<String>,
    id: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Whether it is only checked.
    #[serde(default)]
    plan: bool,
}

pub(super) async fn publish(State(shared): State<Arc<Shared>>, body: Bytes) -> Answered {
    let PublishAct { act, event, json, key, key_field, id, headers, plan } = read(&body)?;
    let stream = shared.collector.inspector().key(&act.stream).await.map_err(Problem::unknown)?;
    let recorded = Recorded::of(&*shared.broker, &stream).await?;
    let unfit = |words: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, words);
    let known = recorded.shape(&event, &act.stream).map_err(unfit)?;
    let value = serde_json::from_str(&json).map_err(|error| unfit(format!("no JSON: {error}")))?;
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (key, field, id) = (said(&key), said(&key_field), said(&id));
    let key = match (&key, &field) {
        (Some(key), _) => Key::Text(key),
        (None, Some(field)) => Key::Field(field),
        (None, None) => Key::Recorded,
    };
    let entry = known.entry(&stream, &value, id.as_deref(), key).map_err(unfit)?;
    let (partition, mut fields) = entry.ok_or_else(|| {
        let partitions = stream.partitions();
        unfit(format!("{} has {partitions} partitions, and the key chooses one: say the key, or its field", act.stream))
    })?;
    if headers.len() > MOST_HEADERS {
        return Err(unfit(format!("{} headers are more than {MOST_HEADERS}", headers.len())));
    }
    for (name, value) in headers {
        if name.is_empty() || Headers::is_reserved(&name) {
            return Err(unfit(format!("`{name}` cannot be the name of a header")));
        }
        fields.push((name.into_bytes(), value.into_bytes()));
    }
    let text = |name: &str| {
        let field = fields.iter().find(|(field, _)| field == name.as_bytes());
        field.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let bytes = fields.iter().find(|(field, _)| field == Entry::PAYLOAD.as_bytes()).map_or(0, |(_, value)| value.len());
    let mut answer = json!({
        "event": known.name(), "partition": partition, "partitions": stream.partitions(), "bytes": bytes,
        "event_id": text(Entry::ID).filter(|_| !plan || id.is_some()),
    });
    if plan {
        return Ok(Json(answer));
    }
    act.audit(&shared, "publish", &format!("1 {}", known.name())).await?;
    let ids = shared.broker.append(&stream.partition(partition), vec![fields], None).await?;
    shared.collector.forget();
    answer["id"] = json!(ids.first().map(ToString::to_string));
    Ok(Json(answer))
}
