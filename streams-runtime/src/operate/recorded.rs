//! The notes that programs leave beside a stream, as tools need them: shapes, who publishes and reads, and events made of JSON.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;
use streams_core::broker::{Broker, BrokerError, Fields, Notes};
use streams_core::codec::from_json;
use streams_core::keys::{StreamKey, partition_of};
use streams_core::{Entry, EventId};

use crate::clock::millis;
use crate::names::nearest;
use crate::random::Random;

/// The most names that an error lists.
const MOST_NAMED: usize = 20;

/// The knowledge of an event that a program has recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Known {
    /// The event's name on the wire.
    pub event: String,
    /// Its version.
    pub version: u64,
    /// The hash of its shape, as hexadecimal digits.
    pub fingerprint: String,
    /// The program that said so.
    pub program: String,
    /// The program's machine; empty where it is not known.
    pub host: String,
    /// When the program said so last, as RFC 3339.
    pub at: String,
    /// The Rust type.
    pub type_name: String,
    /// Its file and line.
    pub place: String,
    /// Whether the program publishes it.
    pub publishes: bool,
    /// The field whose value chooses the partition; empty where the event has none. `None` where an older build has recorded
    /// it.
    pub key: Option<String>,
    /// Its doc comment, cut off where it is long; empty where there is none, or where an older build has recorded it.
    pub doc: String,
    /// The event in the form of a lock; null where that is long.
    pub lock: Value,
}

/// The versions of an event that a group reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reads {
    /// The group.
    pub group: String,
    /// The event.
    pub event: String,
    /// The oldest version.
    pub oldest: u64,
    /// The newest version.
    pub newest: u64,
}

/// Everything that programs have recorded of a stream's events, in the order of names, versions and times.
///
/// ```no_run
/// # async fn example(broker: &dyn streams_runtime::broker::Broker) -> Result<(), streams_runtime::broker::BrokerError> {
/// use streams_runtime::{Recorded, keys::StreamKey};
///
/// for known in Recorded::of(broker, &StreamKey::new(None, "trades", 1)).await?.known {
///     println!("{} publishes {}: {}", known.program, known.name(), known.publishes);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// Which program knows which event.
    pub known: Vec<Known>,
    /// Which group reads which event.
    pub reads: Vec<Reads>,
}

/// The key of an event that is made of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Key<'a> {
    /// The value of the field that programs have recorded.
    Recorded,
    /// The value of this field.
    Field(&'a str),
    /// This text.
    Text(&'a str),
}

impl Known {
    /// The event and its version, such as `Trade@1`.
    pub fn name(&self) -> String {
        format!("{}@{}", self.event, self.version)
    }

    /// Who said it.
    pub fn by(&self) -> String {
        if self.host.is_empty() { self.program.clone() } else { format!("{} on {}", self.program, self.host) }
    }

    /// An entry with this event, made of JSON, and its partition: 64-bit integers exact, bytes from hexadecimal digits.
    /// Without an id the event gets a new one. `None` where only a key can choose the partition, and none is known.
    ///
    /// # Errors
    /// The first value that the recorded shape does not allow; that the field of the key holds neither a text nor a number;
    /// or that the id has no or too many bytes.
    pub fn entry(
        &self,
        stream: &StreamKey,
        value: &Value,
        id: Option<&str>,
        key: Key<'_>,
    ) -> Result<Option<(u32, Fields)>, String> {
        let payload = from_json(&self.lock, value).map_err(|misfit| misfit.to_string())?;
        let id = match id {
            Some(id) => id.to_owned(),
            None => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
                Random::from_system().event_id(now).to_string()
            }
        };
        if EventId::new(id.as_str()).is_none() {
            return Err(format!("an id has 1 to {} bytes", EventId::MAX_LEN));
        }
        let field = match key {
            Key::Text(_) => None,
            Key::Field(field) => Some(field),
            Key::Recorded => self.key.as_deref(),
        };
        let key = match (key, field) {
            (Key::Text(key), _) => key.to_owned(),
            _ if stream.partitions() == 1 => String::new(),
            (_, None) => return Ok(None),
            // As a publisher does with events without a key.
            (_, Some("")) => id.clone(),
            (_, Some(field)) => match &value[field] {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => {
                    return Err(format!(
                        "the field `{field}`, whose value should be the key, is no text and no number"
                    ));
                }
            },
        };
        let fields = vec![
            (Entry::EVENT.into(), self.name().into()),
            (Entry::ID.into(), id.into()),
            (Entry::PAYLOAD.into(), payload),
        ];
        Ok(Some((partition_of(&key, stream.partitions()), fields)))
    }
}

impl Recorded {
    /// Reads the notes of a stream.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn of(broker: &dyn Broker, stream: &StreamKey) -> Result<Self, BrokerError> {
        Ok(Self::read(&broker.notes(stream, &Notes::new(), &[]).await?))
    }

    fn read(notes: &Notes) -> Self {
        let mut recorded = Self::default();
        for (name, note) in notes {
            // A note of another form is passed over, as programs do.
            let Ok(note) = serde_json::from_str::<Value>(note) else { continue };
            if let Some(group) = name.strip_prefix("reads:") {
                for (event, versions) in note["events"].as_object().into_iter().flatten() {
                    let version = |index: usize| versions[index].as_u64();
                    if let (Some(oldest), Some(newest)) = (version(0), version(1)) {
                        recorded.reads.push(Reads { group: group.to_owned(), event: event.clone(), oldest, newest });
                    }
                }
            } else if name.starts_with("knows:") || name.starts_with("publishes:") {
                recorded.known.extend(known(&note));
            }
        }
        recorded.known.sort_by(|a, b| (&a.event, a.version, &a.at).cmp(&(&b.event, b.version, &b.at)));
        recorded
    }

    /// The notes about an event, of its newest version unless one is named (`Trade@1`).
    ///
    /// # Errors
    /// When nobody has recorded it, with the name that was perhaps meant.
    pub fn about(&self, named: &str, stream: &str) -> Result<Vec<&Known>, String> {
        let (name, version) = match named.split_once('@') {
            None => (named, None),
            Some((name, version)) => {
                let number = version.parse().map_err(|_| format!("`{version}` is no version of an event"))?;
                (name, Some(number))
            }
        };
        let version =
            version.or_else(|| self.known.iter().filter(|known| known.event == name).map(|known| known.version).max());
        let found: Vec<_> =
            self.known.iter().filter(|known| known.event == name && Some(known.version) == version).collect();
        if found.is_empty() {
            let mut names: Vec<_> = self.known.iter().map(Known::name).collect();
            names.extend(self.known.iter().map(|known| known.event.clone()).filter(|_| !named.contains('@')));
            names.dedup();
            let near = match nearest(named, names.iter().map(String::as_str)) {
                Some(near) => format!(", perhaps `{near}` is meant"),
                None if names.is_empty() => String::new(),
                None => format!("; there are: {}", names.into_iter().take(MOST_NAMED).collect::<Vec<_>>().join(", ")),
            };
            return Err(format!("no program has recorded an event `{named}` on stream `{stream}`{near}"));
        }
        Ok(found)
    }

    /// The one shape in which programs have recorded an event, to publish it: that of its publishers, where it has any.
    ///
    /// # Errors
    /// As [`about`](Self::about); also when programs differ about the shape, or it is too long to be recorded.
    pub fn shape(&self, named: &str, stream: &str) -> Result<&Known, String> {
        let about = self.about(named, stream)?;
        let publishers: Vec<_> = about.iter().copied().filter(|known| known.publishes).collect();
        let those = if publishers.is_empty() { about } else { publishers };
        let first = those[0];
        if those.iter().any(|known| known.fingerprint != first.fingerprint) {
            let name = first.name();
            return Err(format!("programs have different shapes of {name}: see `streams schema diff {stream} {name}`"));
        }
        those.into_iter().rev().find(|known| !known.lock.is_null()).ok_or_else(|| {
            format!("the shape of {} is too long to be recorded, so nothing can be checked against it", first.name())
        })
    }
}

fn known(note: &Value) -> Option<Known> {
    let text = |name: &str| note[name].as_str().unwrap_or_default().to_owned();
    Some(Known {
        event: note["event"].as_str()?.to_owned(),
        version: note["version"].as_u64()?,
        fingerprint: text("fingerprint"),
        program: text("program"),
        host: text("host"),
        at: text("at"),
        type_name: text("type"),
        place: text("place"),
        publishes: note["publishes"].as_bool().unwrap_or_default(),
        key: note["key"].as_str().map(str::to_owned),
        doc: text("doc"),
        lock: note["lock"].clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note(version: u64, fingerprint: &str, publishes: bool, key: &str) -> (String, String) {
        let role = if publishes { "publishes" } else { "knows" };
        let lock = json!({
            "format": 1, "layout": "map",
            "schema": { "struct": "Trade", "fields": [{ "name": "symbol", "type": "string" }] },
        });
        let note = json!({
            "event": "Trade", "version": version, "fingerprint": fingerprint, "program": "p", "at": "2026-01-01T00:00:00Z",
            "publishes": publishes, "key": key, "lock": lock,
        });
        (format!("{role}:Trade:p:{fingerprint}"), note.to_string())
    }

    #[test]
    fn an_event_is_made_by_the_shape_of_its_publishers() {
        let reads = ("reads:risk".to_owned(), json!({ "events": { "Trade": [1, 2] } }).to_string());
        let notes = Notes::from_iter([note(1, "a", true, "symbol"), note(1, "b", false, ""), reads]);
        let recorded = Recorded::read(&notes);
        assert_eq!((recorded.reads[0].group.as_str(), recorded.reads[0].newest), ("risk", 2));
        let known = recorded.shape("Trade", "trades").unwrap();
        assert_eq!(known.fingerprint, "a");
        let (stream, value) = (StreamKey::new(None, "trades", 8), json!({ "symbol": "BTC" }));
        let entry = |id, key| known.entry(&stream, &value, id, key);
        let (of_btc, fields) = entry(Some("t-1"), Key::Recorded).unwrap().unwrap();
        assert_eq!((of_btc, fields[1].1.as_slice()), (partition_of("BTC", 8), &b"t-1"[..]));
        assert_eq!(entry(None, Key::Text("ETH")).unwrap().unwrap().0, partition_of("ETH", 8));
        assert!(entry(None, Key::Field("price")).unwrap_err().contains("`price`"));
        assert!(entry(Some(""), Key::Recorded).unwrap_err().contains("1 to 128 bytes"));
        let misfit = known.entry(&stream, &json!({ "symbl": "BTC" }), None, Key::Recorded).unwrap_err();
        assert!(misfit.contains("perhaps `symbol` is meant"), "{misfit}");
        let of_old_build = Known { key: None, ..known.clone() };
        assert_eq!(of_old_build.entry(&stream, &value, None, Key::Recorded), Ok(None));
        let without_key = Known { key: Some(String::new()), ..known.clone() };
        let (partition, _) = without_key.entry(&stream, &value, Some("t-1"), Key::Recorded).unwrap().unwrap();
        assert_eq!(partition, partition_of("t-1", 8), "an event without a key goes by its id");
    }

    #[test]
    fn an_event_that_nobody_or_everybody_differently_has_recorded_is_refused() {
        let recorded = Recorded::read(&Notes::from_iter([note(1, "a", true, ""), note(1, "b", true, "")]));
        assert!(recorded.shape("Trade", "trades").unwrap_err().contains("different shapes"));
        assert!(recorded.shape("Trde", "trades").unwrap_err().contains("perhaps `Trade` is meant"));
        assert!(recorded.shape("Order", "trades").unwrap_err().contains("there are: Trade@1, Trade"));
        assert!(recorded.shape("Trade@x", "trades").unwrap_err().contains("is no version"));
    }
}
