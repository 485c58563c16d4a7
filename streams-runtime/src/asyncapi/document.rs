//! The parts of an AsyncAPI document, and their form.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use streams_core::keys::StreamKey;
use streams_core::schema::{Definitions, Layout, Schema};
use streams_core::{Entry, EventId};

/// The media type of a payload, as registered with IANA.
const CONTENT_TYPE: &str = "application/vnd.msgpack";

/// An event by name and version.
pub(crate) type EventVersion = (String, u32);

/// A document of channels.
pub(crate) struct Document {
    title: String,
    version: String,
    /// By the key of the stream.
    channels: BTreeMap<String, Channel>,
}

/// A stream.
pub(crate) struct Channel {
    key: StreamKey,
    options: Value,
    pub(crate) messages: BTreeMap<EventVersion, Message>,
    pub(crate) operations: Vec<Operation>,
}

/// A version of an event. Its shape has its doc comment; it is unknown where a note is too short for it.
pub(crate) struct Message {
    pub(crate) shape: Option<(&'static Schema, Layout)>,
    pub(crate) options: Value,
}

/// A group that receives, or, without one, the programs that send.
pub(crate) struct Operation {
    pub(crate) group: Option<String>,
    pub(crate) doc: String,
    pub(crate) messages: Vec<EventVersion>,
    pub(crate) options: Value,
}

impl Document {
    pub(crate) fn new(title: String, version: String) -> Self {
        Self { title, version, channels: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, channel: Channel) {
        self.channels.insert(channel.key.base().to_owned(), channel);
    }

    pub(super) fn to_value(&self) -> Value {
        let mut schemas = Definitions::new("#/components/schemas/");
        let (mut channels, mut operations) = (Map::new(), Map::new());
        for (key, channel) in &self.channels {
            channels.insert(key.clone(), channel.to_value(&mut schemas));
            for operation in &channel.operations {
                let name = match &operation.group {
                    Some(group) => format!("receive:{key}:{group}"),
                    None => format!("send:{key}"),
                };
                operations.insert(name, operation.to_value(key));
            }
        }
        json!({
            "asyncapi": "3.1.0",
            "info": { "title": self.title, "version": self.version },
            "defaultContentType": CONTENT_TYPE,
            "channels": channels,
            "operations": operations,
            "components": { "schemas": schemas.finish() },
        })
    }
}

impl Channel {
    pub(crate) fn new(key: StreamKey, options: Value) -> Self {
        Self { key, options, messages: BTreeMap::new(), operations: Vec::new() }
    }

    fn to_value(&self, schemas: &mut Definitions) -> Value {
        let stream = self.key.base();
        let messages = self.messages.iter().map(|((name, version), message)| {
            (message_key(name, *version), message.to_value(stream, name, *version, schemas))
        });
        let mut value = json!({
            "address": stream,
            "messages": messages.collect::<Map<_, _>>(),
            "bindings": { "redis": {} },
            "x-streams": self.options,
        });
        let partitions = self.key.partitions();
        if partitions > 1 {
            let (first, last) = (self.key.partition(0), self.key.partition(partitions - 1));
            value["description"] = json!(format!("The entries are in the keys `{first}` to `{last}`."));
        }
        value
    }
}

impl Message {
    fn to_value(&self, stream: &str, name: &str, version: u32, schemas: &mut Definitions) -> Value {
        let mut value = json!({
            "name": name,
            "title": format!("{name}, version {version}"),
            "contentType": CONTENT_TYPE,
            "headers": {
                "type": "object",
                "required": [Entry::EVENT],
                "properties": {
                    (Entry::EVENT): { "type": "string", "const": format!("{name}@{version}") },
                    (Entry::ID): {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": EventId::MAX_LEN,
                        "description": "The event's own id, the same for every attempt and every group.",
                    },
                },
            },
            "bindings": { "redis": {} },
        });
        if let Some((schema, layout)) = self.shape {
            value["payload"] = schemas.add(&format!("{stream}.{}", message_key(name, version)), schema, layout);
            describe(&mut value, schema.doc());
        }
        add_options(&mut value, &self.options);
        value
    }
}

impl Operation {
    fn to_value(&self, stream: &str) -> Value {
        let messages = self.messages.iter().map(|(name, version)| {
            json!({ "$ref": format!("#/channels/{stream}/messages/{}", message_key(name, *version)) })
        });
        let mut value = json!({
            "title": self.group.clone().unwrap_or_else(|| format!("Publishers of {stream}")),
            "action": if self.group.is_some() { "receive" } else { "send" },
            "channel": { "$ref": format!("#/channels/{stream}") },
            "messages": messages.collect::<Vec<_>>(),
            "bindings": { "redis": {} },
        });
        add_options(&mut value, &self.options);
        describe(&mut value, &self.doc);
        value
    }
}

/// Adds options, where there are any.
fn add_options(value: &mut Value, options: &Value) {
    if options.as_object().is_some_and(|options| !options.is_empty()) {
        value["x-streams"] = options.clone();
    }
}

/// The name of a message in its channel.
fn message_key(name: &str, version: u32) -> String {
    format!("{name}.v{version}")
}

/// Adds a doc comment: its first paragraph as the summary, and all of it where there is more.
fn describe(value: &mut Value, doc: &str) {
    let first = doc.split("\n\n").next().unwrap_or_default();
    if !first.is_empty() {
        value["summary"] = json!(first.replace('\n', " "));
    }
    if first.len() < doc.len() {
        value["description"] = json!(doc);
    }
}
