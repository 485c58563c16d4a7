//! Dead letters: a histogram of their reasons, a list, and one of them whole. A filter means the same here and in the acts.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Json, Problem};
use super::entries;
use super::scan::Scan;
use super::shared::Shared;
use crate::operate::Redact;
use crate::ops::{Cause, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters};

/// How many letters a page has unless said, and at most.
const PAGE: usize = 50;
const MOST: usize = 100;
/// How many letters a filter looks at for one page; the next page goes on behind them.
const MOST_SEEN: usize = 2_000;
/// How many letters a histogram and a count look at.
const MOST_COUNTED: usize = 5_000;
/// How many rows a histogram has.
const ROWS: usize = 50;
/// How much of a reason makes a row of the histogram.
const SHAPE: usize = 200;

/// Which letters are meant; without a condition all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consumer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl Filter {
    pub(super) fn filter(&self) -> Result<DeadLetterFilter, Problem> {
        let mut filter = DeadLetterFilter::all();
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(word) = said(&self.cause) {
            filter = filter.cause(word.parse::<Cause>().map_err(|error| Problem::bad(error.to_string()))?);
        }
        // Letters of no consumer are those that none could take.
        if let Some(name) = &self.consumer {
            filter = filter.consumer(name);
        }
        if let Some(name) = said(&self.event) {
            filter = filter.event(name);
        }
        if let Some(text) = said(&self.reason) {
            filter = filter.reason(text);
        }
        Ok(filter)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    stream: String,
    group: String,
    cause: Option<String>,
    consumer: Option<String>,
    event: Option<String>,
    reason: Option<String>,
    after: Option<String>,
    count: Option<usize>,
}

impl Asked {
    fn filter(&self) -> Filter {
        let Self { cause, consumer, event, reason, .. } = self;
        Filter { cause: cause.clone(), consumer: consumer.clone(), event: event.clone(), reason: reason.clone() }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct AskedOne {
    stream: String,
    group: String,
    id: String,
}

/// The words that the letters of one row in a histogram share.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Alike {
    cause: String,
    consumer: String,
    event: String,
    shape: String,
}

/// How many they are, the reason of one of them, and when the first and the last was given up.
#[derive(Debug)]
struct Row {
    count: u64,
    reason: String,
    first: u64,
    last: u64,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let letters = letters(&shared, &asked.stream, &asked.group).await?;
    let filter = asked.filter().filter()?;
    let after = asked.after.as_deref().map(id).transpose()?;
    let count = asked.count.unwrap_or(PAGE).clamp(1, MOST);
    let mut scan = Scan::new(&letters, after);
    let (mut found, mut last) = (Vec::new(), None);
    while found.len() < count && scan.seen < MOST_SEEN {
        let Some(letter) = scan.next().await? else {
            last = None;
            break;
        };
        last = Some(letter.id());
        if filter.admits(&letter) {
            found.push(row(&shared.redact, &letter));
        }
    }
    let next = last.map(|last| last.to_string());
    Ok(Json(json!({ "letters": found, "seen": scan.seen, "next": next })))
}

pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<AskedOne>,
) -> Result<Json<Value>, Problem> {
    let letters = letters(&shared, &asked.stream, &asked.group).await?;
    let id = id(&asked.id)?;
    let letter = letters.get(id).await?.ok_or_else(|| gone(id))?;
    let mut value = entries::whole(&shared.redact, letter.id().partition, letter.original());
    value.as_object_mut().into_iter().for_each(|value| value.extend(about(&letter)));
    // Without its JSON it is no MessagePack, or too large for a page.
    value["is_large"] = json!(letter.original().payload().is_some_and(|payload| payload.len() > entries::DECODED));
    value["key"] = json!(letter.stream());
    Ok(Json(value))
}

/// How many letters that are meant have which cause, consumer, event and form of reason; the most frequent first.
pub(super) async fn histogram(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let letters = letters(&shared, &asked.stream, &asked.group).await?;
    let filter = asked.filter().filter()?;
    let view = shared.group(&asked.stream, &asked.group).await?;
    let total = view.dead();
    let mut scan = Scan::new(&letters, None);
    let mut matching = 0;
    let mut rows: HashMap<Alike, Row> = HashMap::new();
    while scan.seen < MOST_COUNTED
        && let Some(letter) = scan.next().await?
    {
        if !filter.admits(&letter) {
            continue;
        }
        matching += 1;
        let at = letter.id().entry.ms;
        let alike = Alike {
            cause: letter.cause().to_owned(),
            consumer: letter.consumer().to_owned(),
            event: letter.event_name().to_owned(),
            shape: shape(letter.reason()),
        };
        let row = rows.entry(alike).or_insert_with(|| Row {
            count: 0,
            reason: letter.reason().to_owned(),
            first: at,
            last: at,
        });
        row.count += 1;
        row.first = row.first.min(at);
        row.last = row.last.max(at);
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(a, more), (b, less)| (less.count, a).cmp(&(more.count, b)));
    let left_out = rows.len().saturating_sub(ROWS);
    rows.truncate(ROWS);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(Alike { cause, consumer, event, shape }, Row { count, reason, first, last })| {
            json!({
                "cause": cause, "consumer": consumer, "event": event, "shape": shape, "reason": reason,
                "count": count, "first": first, "last": last,
            })
        })
        .collect();
    let (seen, more) = (scan.seen, scan.seen >= MOST_COUNTED);
    Ok(Json(json!({
        "total": total.max(seen as u64), "seen": seen, "matching": matching, "more": more, "rows": rows, "left_out": left_out,
        "waiting": view.replays(), "stands": view.condition(),
    })))
}

/// The letters of a group that is there.
pub(super) async fn letters(shared: &Shared, stream: &str, group: &str) -> Result<DeadLetters, Problem> {
    shared.group(stream, group).await?;
    Ok(shared.admin.dead_letters(stream, group).await?)
}

pub(super) fn gone(id: DeadLetterId) -> Problem {
    let message = format!("there is no dead letter {id}: it was replayed or discarded, or never there");
    Problem::new(StatusCode::NOT_FOUND, message)
}

pub(super) fn id(text: &str) -> Result<DeadLetterId, Problem> {
    text.parse().map_err(|error| Problem::bad(format!("{error}")))
}

fn about(letter: &DeadLetter) -> serde_json::Map<String, Value> {
    let value = json!({
        "id": letter.id().to_string(),
        "entry": letter.original().id.to_string(),
        "time": letter.id().entry.ms,
        "cause": letter.cause(),
        "consumer": letter.consumer(),
        "reason": letter.reason(),
        "attempts": letter.attempts(),
        "replays": letter.replays(),
        "edited": letter.is_edited(),
    });
    match value {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    }
}

fn row(redact: &Redact, letter: &DeadLetter) -> Value {
    let mut value = entries::row(redact, letter.id().partition, letter.original());
    value.as_object_mut().into_iter().for_each(|value| value.extend(about(letter)));
    value
}

/// A reason without its numbers: letters that failed in the same way have the same.
fn shape(reason: &str) -> String {
    let mut shape = String::new();
    for character in reason.chars().take(SHAPE) {
        match character {
            digit if digit.is_ascii_digit() && shape.ends_with('#') => {}
            digit if digit.is_ascii_digit() => shape.push('#'),
            other => shape.push(other),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_have_one_shape() {
        assert_eq!(shape("trade 2500 of 0.5 at -1 is none"), "trade # of #.# at -# is none");
        assert_eq!(shape(&"x".repeat(1_000)).len(), SHAPE);
    }

    #[test]
    fn an_unknown_cause_is_named() {
        let filter = Filter { cause: Some("tiemout".to_owned()), ..Filter::default() };
        assert!(format!("{:?}", filter.filter().unwrap_err()).contains("`tiemout` is no cause"));
        let filter = Filter { cause: Some(String::new()), consumer: Some(String::new()), ..Filter::default() };
        assert_eq!(filter.filter().unwrap(), DeadLetterFilter::all().consumer(""));
    }
}
