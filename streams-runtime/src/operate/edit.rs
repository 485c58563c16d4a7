//! The new payload of a dead letter, made of JSON and checked against the shapes that programs have recorded.

use serde_json::Value;
use streams_core::codec::{self, from_json, from_json_like};

use super::recorded::{Known, Recorded};
use super::redact::Redact;
use crate::ops::DeadLetter;

/// The most changed fields that are named.
const MOST_NAMED: usize = 20;
/// The payload of an event without one: nil.
const NOTHING: &[u8] = &[0xc0];

/// An edit of a dead letter's payload, for [`DeadLetters::replay_edited`](crate::DeadLetters::replay_edited).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edit {
    /// The new payload.
    pub payload: Vec<u8>,
    /// The new payload as JSON, as programs will read it.
    pub json: String,
    /// The event whose recorded shape the payload fits, such as `Trade@1`; `None` where no program has recorded its shape.
    pub checked: Option<String>,
    /// The fields at the top that differ from before, at most 20; `payload` where before or now is no map.
    pub changed: Vec<String>,
}

impl Edit {
    /// Makes the payload of JSON: 64-bit integers exact, bytes from hexadecimal digits. Where programs have recorded different
    /// shapes of the event's version, one that the payload fits is enough. Where none has recorded one, bytes and numbers keep
    /// the types that they have in the payload of before. A field that `hidden` hides keeps its value where it reads `***`.
    ///
    /// # Errors
    /// The first value that the recorded shape does not allow; that the text is no JSON; that a hidden field stands in another
    /// place; or that nothing differs from before.
    ///
    /// ```no_run
    /// # use streams_runtime::{Admin, DeadLetterId, Edit, Recorded, Redact, keys::StreamKey, broker::Broker};
    /// # async fn example(admin: Admin, broker: &dyn Broker, id: DeadLetterId) -> Result<(), Box<dyn std::error::Error>> {
    /// let letters = admin.dead_letters("trades", "risk").await?;
    /// let recorded = Recorded::of(broker, &StreamKey::new(None, "trades", 1)).await?;
    /// if let Some(letter) = letters.get(id).await? {
    ///     let edit = Edit::of(&recorded, &letter, r#"{"symbol": "BTC-USD", "price": 39432.5}"#, &Redact::default())?;
    ///     letters.replay_edited(id, &edit.payload).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn of<E>(recorded: &Recorded, letter: &DeadLetter<E>, json: &str, hidden: &Redact) -> Result<Self, String> {
        let mut value: Value = serde_json::from_str(json).map_err(|error| format!("no JSON: {error}"))?;
        let event = letter.original();
        let shapes = event.event().map(|(name, version)| shapes(recorded, name, version)).unwrap_or_default();
        let shown = |payload: &[u8]| codec::json(payload).unwrap_or_default();
        let before = event.payload().filter(|payload| codec::json(payload).is_ok());
        let old = before.map(shown).unwrap_or_default();
        hidden.restore(&mut value, &read(&old))?;
        let (payload, checked) = match shapes.split_first() {
            None => {
                let made = from_json_like(before.unwrap_or(NOTHING), &value);
                (made.map_err(|misfit| misfit.to_string())?, None)
            }
            Some((first, others)) => {
                let made = from_json(&first.lock, &value).or_else(|misfit| {
                    // That of the first, a publisher where there is one, says it best.
                    others.iter().find_map(|known| from_json(&known.lock, &value).ok()).ok_or(misfit)
                });
                let name = first.name();
                (
                    made.map_err(|misfit| format!("it is no {name} as {} has recorded it: {misfit}", first.by()))?,
                    Some(name),
                )
            }
        };
        let json = shown(&payload);
        let changed = changed(&read(&old), &read(&json));
        if changed.is_empty() {
            return Err("the payload stays as it is: replay the letter without an edit".to_owned());
        }
        Ok(Self { payload, json, checked, changed })
    }
}

/// Each shape of the event once, that of publishers first.
fn shapes<'a>(recorded: &'a Recorded, name: &str, version: u32) -> Vec<&'a Known> {
    let is_it = |known: &&Known| known.event == name && known.version == u64::from(version) && !known.lock.is_null();
    let mut shapes: Vec<_> = recorded.known.iter().filter(is_it).collect();
    shapes.sort_by_key(|known| (!known.publishes, &known.fingerprint));
    shapes.dedup_by_key(|known| &known.fingerprint);
    shapes
}

fn read(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

fn changed(before: &Value, after: &Value) -> Vec<String> {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            let names = old.keys().chain(added).filter(|name| old.get(*name) != new.get(*name));
            names.take(MOST_NAMED).cloned().collect()
        }
        _ if before == after => Vec::new(),
        _ => vec!["payload".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use streams_core::keys::StreamKey;
    use streams_core::{Entry, EntryId};

    use super::*;
    use crate::ops::dead_letter::{self, GivenUp};

    fn letter(payload: &[u8]) -> DeadLetter {
        let fields = [(Entry::EVENT, "Trade@1".as_bytes()), (Entry::PAYLOAD, payload)];
        let entry = Entry::new(EntryId::new(7, 1), &fields);
        let key = StreamKey::new(None, "trades", 1).partition(0).group("risk");
        let given_up = GivenUp { consumer: "", cause: "decode", reason: "", attempts: 1, replays: 0, edited: false };
        let fields = dead_letter::fields(&key, &entry, &given_up);
        DeadLetter::of_replay(0, Arc::new(Entry::new(EntryId::new(9, 0), &fields)))
    }

    fn known(version: u64, fingerprint: &str, publishes: bool, of: &str) -> Known {
        let schema = json!({ "struct": "Trade", "fields": [{ "name": "order", "type": of }] });
        Known {
            event: "Trade".to_owned(),
            version,
            fingerprint: fingerprint.to_owned(),
            program: "desk".to_owned(),
            host: String::new(),
            at: String::new(),
            type_name: String::new(),
            place: String::new(),
            publishes,
            key: None,
            doc: String::new(),
            lock: json!({ "format": 1, "layout": "map", "schema": schema }),
        }
    }

    fn recorded(known: Vec<Known>) -> Recorded {
        Recorded { known, ..Recorded::default() }
    }

    /// `{"order": 18446744073709551615}`
    const LARGEST: &[u8] = b"\x81\xa5order\xcf\xff\xff\xff\xff\xff\xff\xff\xff";

    #[test]
    fn a_payload_fits_one_of_the_recorded_shapes_of_its_version() {
        let recorded =
            recorded(vec![known(1, "a", false, "string"), known(1, "b", true, "u64"), known(2, "c", true, "bool")]);
        let of = |json| Edit::of(&recorded, &letter(LARGEST), json, &Redact::default());
        let edit = of(r#"{"order": 18446744073709551614}"#).unwrap();
        assert_eq!(
            (edit.json.as_str(), edit.checked.as_deref()),
            (r#"{"order": 18446744073709551614}"#, Some("Trade@1"))
        );
        assert_eq!((edit.payload.last(), edit.changed), (Some(&0xfe), vec!["order".to_owned()]));
        assert_eq!(of(r#"{"order": "text"}"#).unwrap().json, r#"{"order": "text"}"#, "as the other program has it");
        let misfit = "it is no Trade@1 as desk has recorded it: `order`: expected u64, found true";
        for (json, says) in [
            (r#"{"order": true}"#, misfit),
            (r#"{"ordr": 1}"#, "there is no field `ordr`, perhaps `order` is meant"),
            (r#"{"order": 18446744073709551615}"#, "the payload stays as it is"),
            ("{order: 1}", "no JSON"),
        ] {
            let said = of(json).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn without_a_recorded_shape_of_its_version_a_payload_is_written_like_the_one_before() {
        let recorded = recorded(vec![known(2, "c", true, "bool")]);
        let edit = Edit::of(&recorded, &letter(LARGEST), r#"{"order": 1, "new": null}"#, &Redact::default()).unwrap();
        assert_eq!((edit.checked, edit.changed), (None, vec!["order".to_owned(), "new".to_owned()]));
        // Bytes that no program can read are replaced whole.
        let edit = Edit::of(&recorded, &letter(&[0xc1]), r#"{"order": 1}"#, &Redact::default()).unwrap();
        assert_eq!((edit.payload.as_slice(), edit.changed), (&b"\x81\xa5order\x01"[..], vec!["payload".to_owned()]));
    }
}
