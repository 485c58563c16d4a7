//! The event documentation in the form of AsyncAPI 3.1: of a program's declarations, or of the notes on a server.
//!
//! May use `schema_watch`; `app` uses it.

mod document;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::{Value, json};
use streams_core::broker::Notes;
use streams_core::keys::StreamKey;
use streams_core::schema::lock;

pub(crate) use self::document::{Channel, Document, Message, Operation};
use crate::schema_watch::{Record, record};

/// An AsyncAPI 3.1.0 document of streams, events and groups. The same declarations have the same text.
///
/// [`App::asyncapi`](crate::App::asyncapi) makes it from what a program declares, [`AsyncApi::recorded`] from what a server
/// records. [`to_string`](ToString::to_string) is YAML; serde writes any other form.
///
/// A channel is a stream, and its address is the stream's key. A message is one version of an event. There is one `receive`
/// operation per group, and one `send` operation per stream. Redis has no bindings in AsyncAPI. So options are under
/// `x-streams`, in the words of the attributes: sizes in bytes, times with their unit.
#[derive(Debug, Clone, PartialEq)]
pub struct AsyncApi {
    document: Value,
}

impl AsyncApi {
    pub(crate) fn new(document: &Document) -> Self {
        Self { document: document.to_value() }
    }

    /// The document of what programs have recorded beside streams: each stream with its notes, as `Broker::notes` answers
    /// them.
    ///
    /// Notes have shapes, and neither doc comments nor the options of groups. Where builds know one version of an event in
    /// two shapes, the newest note counts. A note that cannot be read is passed over.
    pub fn recorded(
        title: impl Into<String>,
        version: impl Into<String>,
        streams: impl IntoIterator<Item = (StreamKey, Notes)>,
    ) -> Self {
        let mut document = Document::new(title.into(), version.into());
        for (stream, notes) in streams {
            document.add(recorded_channel(&stream, record(&notes)));
        }
        Self::new(&document)
    }

    /// Keeps a file of a repository as this document. Call it in a test, with the directory of the crate's manifest:
    ///
    /// ```no_run
    /// # use streams_runtime::App;
    /// # fn test() {
    /// let document = App::linked().asyncapi(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")).unwrap();
    /// document.keep(env!("CARGO_MANIFEST_DIR"), "asyncapi.yaml").unwrap();
    /// # }
    /// ```
    ///
    /// It is written as locks are: `cargo test` writes the file. Where the variable `CI` is set, a difference is an error. A
    /// name that ends in `.json` is written as JSON, any other as YAML.
    ///
    /// # Errors
    /// The difference in CI with its remedy, or the reason why the file cannot be read or written.
    pub fn keep(&self, manifest_dir: impl AsRef<Path>, file: &str) -> Result<(), String> {
        let is_json = Path::new(file).extension().is_some_and(|extension| extension == "json");
        let text = if is_json {
            let json = serde_json::to_string_pretty(self);
            json.map_err(|error| format!("cannot write {file}: {error}"))? + "\n"
        } else {
            self.to_string()
        };
        lock::keep(&manifest_dir.as_ref().join(file), file, &text)
    }
}

impl fmt::Display for AsyncApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = serde_saphyr::ser_options! { prefer_block_scalars: true, folded_wrap_chars: 120 };
        serde_saphyr::to_fmt_writer_with_options(f, self, options).map_err(|_| fmt::Error)
    }
}

impl Serialize for AsyncApi {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        InOrder(&self.document).serialize(to)
    }
}

/// The names that stand first in an object, in this order; others follow by the alphabet.
const FIRST: &[&str] = &[
    "asyncapi",
    "info",
    "title",
    "name",
    "version",
    "action",
    "summary",
    "description",
    "channel",
    "address",
    "contentType",
    "defaultContentType",
    "channels",
    "operations",
    "components",
    "type",
    "required",
    "minimum",
    "minLength",
    "minItems",
];

/// A value whose objects have one order, whatever the features of serde_json are.
struct InOrder<'a>(&'a Value);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(object) => {
                let rank = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
                let mut members: Vec<_> = object.iter().collect();
                members.sort_by_key(|(name, _)| (rank(name), name.as_str()));
                let mut map = to.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, &InOrder(value))?;
                }
                map.end()
            }
            Value::Array(items) => to.collect_seq(items.iter().map(InOrder)),
            other => other.serialize(to),
        }
    }
}

/// The channel of a stream, from its notes.
fn recorded_channel(stream: &StreamKey, record: Record) -> Channel {
    let mut channel = Channel::new(stream.clone(), json!({ "partitions": stream.partitions() }));
    let mut publishers = BTreeSet::new();
    let mut sent = Vec::new();
    for ((name, version), event) in record.events {
        if !event.publishers.is_empty() {
            sent.push((name.clone(), version));
        }
        publishers.extend(event.publishers);
        let layout = event.shape.map_or(json!({}), |(_, layout)| json!({ "layout": layout.word() }));
        channel.messages.insert((name, version), Message { shape: event.shape, options: layout });
    }
    if !sent.is_empty() {
        let options = json!({ "programs": publishers });
        channel.operations.push(Operation { group: None, doc: String::new(), messages: sent, options });
    }
    for (group, events) in record.groups {
        let versions = events.into_iter().flat_map(|(name, (oldest, newest))| {
            // A note may hold any numbers.
            let known = channel
                .messages
                .keys()
                .filter(|(known, version)| *known == name && (oldest..=newest).contains(version));
            let mut versions: Vec<_> = known.cloned().collect();
            if !versions.iter().any(|(_, version)| *version == newest) {
                versions.push((name, newest));
            }
            versions
        });
        let messages: Vec<_> = versions.collect();
        for message in &messages {
            channel.messages.entry(message.clone()).or_insert(Message { shape: None, options: json!({}) });
        }
        let options = json!({ "group": group });
        channel.operations.push(Operation { group: Some(group), doc: String::new(), messages, options });
    }
    channel
}
