//! `streams dead edit`: a dead letter handled again with another payload, checked against the recorded shape of its event.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::Command;

use serde_json::{Value, json};
use streams_runtime::codec::{self, MAX_PAYLOAD};
use streams_runtime::{DeadLetter, DeadLetterId, Edit as Edited, Recorded};

use super::dead::stands_still;
use crate::confirm::Consent;
use crate::connect::{Server, whoami};
use crate::output::Output;
use crate::payload::Redact;
use crate::problem::Problem;
use crate::text;

/// The most bytes of JSON: the largest payload, each byte as up to eight of text.
const MOST: u64 = 8 * MAX_PAYLOAD as u64;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --set or --payload the payload opens in $VISUAL or $EDITOR. Bytes are hexadecimal digits, 64-bit integers are
exact. The event keeps its id, its headers and its place; the stream keeps the entry as it was published.")]
pub(crate) struct Edit {
    /// The stream; `trades.3` for one partition of it
    stream: String,
    /// The group
    group: String,
    /// The id as `dead ls --each` shows it
    id: DeadLetterId,
    /// Another value of a field, such as `cents=100`, `name='\"ben\"'` or `order.lines.0.price=1.5`
    #[arg(long, value_name = "FIELD=JSON", conflicts_with = "payload")]
    set: Vec<String>,
    /// The whole payload; `-` for standard input
    #[arg(long, value_name = "JSON|-")]
    payload: Option<String>,
    #[command(flatten)]
    consent: Consent,
}

impl Edit {
    pub(crate) async fn run(self, server: &Server, redact: &Redact, out: &mut Output) -> Result<(), Problem> {
        let (stream, group, id) = (&self.stream, &self.group, self.id);
        let (key, _) = server.stream(stream).await?;
        let letters = server.admin()?.dead_letters(stream, group).await?;
        let place = format!("group {group} on {stream}");
        let letter = letters.get(id).await?.ok_or_else(|| format!("{place} has no dead letter {id}"))?;
        let recorded = Recorded::of(&*server.broker, &key).await?;
        let edit = self.edit(&recorded, &letter, redact)?;

        let shown = |json: &str| {
            let mut value: Value = serde_json::from_str(json).unwrap_or_default();
            redact.value(&mut value);
            value
        };
        let before = readable(&letter).as_deref().map(shown);
        let old = before.as_ref().map_or_else(|| letter.payload_text(1_000), text::json);
        let after = shown(&edit.json);
        let checked = match &edit.checked {
            Some(event) => format!("it fits {event} as programs have recorded it"),
            None => {
                let event = letter.event_name();
                format!("it is not checked, because no program has recorded the shape of this version of `{event}`")
            }
        };
        let still = stands_still(server, stream, group).await;
        let plan = format!(
            "dead letter {id} of {place} would be handled again with another payload: by this group alone, after whatever followed it in the stream\n  old: {old}\n  new: {}\n{checked}{still}",
            text::json(&after)
        );
        let would = json!({
            "edit": id.to_string(), "before": before, "after": after, "changed": edit.changed, "checked": edit.checked,
        });
        if !self.consent.given(&plan, &would, out)? {
            return Ok(());
        }
        let detail = format!("dead letter {id} {}: {}", letter.event_name(), edit.changed.join(", "));
        server.audit(&whoami(), "edit", (stream, group), &detail).await;
        if !letters.replay_edited(id, &edit.payload).await? {
            return Err(format!("dead letter {id} of {place} is gone: it was replayed or discarded meanwhile").into());
        }
        out.say(
            &format!("dead letter {id} sent to be handled again by {place}, with another payload{still}"),
            &json!({ "edited": id.to_string(), "changed": edit.changed, "checked": edit.checked }),
        )?;
        Ok(())
    }

    fn edit(&self, recorded: &Recorded, letter: &DeadLetter, redact: &Redact) -> Result<Edited, Problem> {
        let json = match &self.payload {
            Some(payload) if payload == "-" => read()?,
            Some(payload) => payload.clone(),
            None if self.set.is_empty() => return edit_at_terminal(recorded, letter, redact),
            None => {
                let json = readable(letter).ok_or("the payload is no MessagePack: give all of it with --payload")?;
                let mut value: Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
                for change in &self.set {
                    set(&mut value, change).map_err(Problem::usage)?;
                }
                value.to_string()
            }
        };
        let refused = |mistake: String| format!("dead letter {}: {mistake}\nnothing was changed", self.id);
        Edited::of(recorded, letter, &json, redact).map_err(|mistake| refused(mistake).into())
    }
}

/// The payload as JSON; `None` where it is no MessagePack.
fn readable(letter: &DeadLetter) -> Option<String> {
    letter.original().payload().and_then(|payload| codec::json(payload).ok())
}

fn read() -> Result<String, Problem> {
    let mut json = String::new();
    io::stdin().lock().take(MOST + 1).read_to_string(&mut json)?;
    if json.len() as u64 > MOST { Err(format!("there are more than {MOST} bytes").into()) } else { Ok(json) }
}

/// Sets the value at a path, such as `order.lines.0.price=1.5`. A field whose name has the dots itself comes first.
fn set(value: &mut Value, change: &str) -> Result<(), String> {
    let expected =
        || format!("`{change}`: expected a field, an equals sign and JSON, such as cents=100 or name='\"ben\"'");
    let (path, json) = change.split_once('=').filter(|(path, _)| !path.is_empty()).ok_or_else(expected)?;
    let new: Value = serde_json::from_str(json).map_err(|error| format!("{}; it is no JSON: {error}", expected()))?;
    let steps: Vec<_> = if value.get(path).is_some() { vec![path] } else { path.split('.').collect() };
    let mut at = value;
    let none = |step: &str| format!("`{change}`: there is no `{step}`");
    let item = |step: &str| step.parse().unwrap_or(usize::MAX);
    let (last, within) = steps.split_last().ok_or_else(expected)?;
    for step in within {
        let inner = match at {
            Value::Object(fields) => fields.get_mut(*step),
            Value::Array(items) => items.get_mut(item(step)),
            _ => None,
        };
        at = inner.ok_or_else(|| none(step))?;
    }
    match at {
        Value::Object(fields) => {
            fields.insert((*last).to_owned(), new);
        }
        Value::Array(items) => *items.get_mut(item(last)).ok_or_else(|| none(last))? = new,
        _ => return Err(none(last)),
    }
    Ok(())
}

/// Opens the payload in the user's editor, until it fits or the user gives up.
fn edit_at_terminal(recorded: &Recorded, letter: &DeadLetter, redact: &Redact) -> Result<Edited, Problem> {
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    let Some(editor) = editor.filter(|_| is_terminal) else {
        let words = "say --set FIELD=JSON or --payload JSON; at a terminal the payload opens in $VISUAL or $EDITOR";
        return Err(Problem::usage(words));
    };
    let json = readable(letter).unwrap_or_else(|| "{}".to_owned());
    let mut value: Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    redact.value(&mut value);
    // Only its user may read the file, and it goes with the command.
    let mut file = tempfile::Builder::new().prefix("payload-").suffix(".json").tempfile()?;
    writeln!(file, "{value:#}")?;
    loop {
        let shell = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file.path()).status();
        let status = shell.map_err(|error| format!("`{editor}` cannot be run: {error}"))?;
        if !status.success() {
            return Err(format!("`{editor}` ended with {status}; nothing was changed").into());
        }
        let json = std::fs::read_to_string(file.path())?;
        let mistake = match Edited::of(recorded, letter, &json, redact) {
            Ok(edit) => return Ok(edit),
            Err(mistake) => mistake,
        };
        eprint!("{}\nedit again? [Y/n] ", text::plain_lines(&mistake));
        io::stderr().flush()?;
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer)?;
        if read == 0 || matches!(answer.trim().to_lowercase().as_str(), "n" | "no") {
            return Err("nothing was changed".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_value() {
        let before = json!({ "cents": 1, "lines": [{ "price": 1.5 }, 2], "a.b": 3, "a": { "b": 4 } });
        for (change, path, new) in [
            ("cents=18446744073709551615", "/cents", json!(u64::MAX)),
            ("lines.0.price=null", "/lines/0/price", json!(null)),
            ("lines.1=[1]", "/lines/1", json!([1])),
            ("a.b=5", "/a.b", json!(5)),
            ("new=\"x=y\"", "/new", json!("x=y")),
        ] {
            let (mut value, mut expected) = (before.clone(), before.clone());
            set(&mut value, change).unwrap();
            if path == "/new" {
                expected["new"] = new;
            } else {
                *expected.pointer_mut(path).unwrap() = new;
            }
            assert_eq!(value, expected, "{change}");
        }
        for (change, says) in [
            ("cents", "expected a field"),
            ("=1", "expected a field"),
            ("cents=ben", "it is no JSON"),
            ("lines.7=1", "there is no `7`"),
            ("none.x=1", "there is no `none`"),
            ("cents.x=1", "there is no `x`"),
        ] {
            let said = set(&mut before.clone(), change).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }
}
