//! The event documentation of an app, from its plan.

use std::collections::{BTreeMap, BTreeSet};

use humantime::format_duration;
use serde_json::{Value, json};
use streams_core::keys::StreamKey;
use streams_core::schema::lock;
use streams_core::{Delivery, EventInfo, OnDataLoss, Registration, Retention, Start};

use super::App;
use super::plan::{GroupPlan, events_problems};
use crate::asyncapi::{AsyncApi, Channel, Document, Message, Operation};
use crate::declared::{chain, stream_properties};
use crate::error::Error;
use crate::group::Policy;

impl App {
    /// The events and groups of the app as an AsyncAPI 3.1.0 document. `version` is that of the document, such as that of
    /// the crate.
    ///
    /// It needs neither a server nor the values that handlers take. An app without a consumer has one, too. Events and
    /// consumers in a module `tests` are left out. Of each event the newest version is under `send`, because any linked
    /// program may publish it.
    ///
    /// ```
    /// use streams_runtime::{App, consumer, consumers, stream_event};
    ///
    /// /// One fill on the exchange.
    /// #[stream_event(stream = "trades", lock = false)]
    /// struct Trade { price: f64 }
    ///
    /// /// Warns of prices that are out of bounds.
    /// #[consumer(group = "risk")]
    /// async fn check(trade: Trade) {}
    ///
    /// let document = App::with(consumers![check]).asyncapi("risk service", "1.0.0").unwrap();
    /// assert!(document.to_string().contains("summary: One fill on the exchange."));
    /// ```
    ///
    /// # Errors
    /// All problems of the declarations at once.
    pub fn asyncapi(&self, title: impl Into<String>, version: impl Into<String>) -> Result<AsyncApi, Error> {
        let app = self.without_tests();
        let groups = if app.consumers.is_empty() {
            let problems = events_problems(&app.events);
            if problems.is_empty() { Ok(Vec::new()) } else { Err(problems) }
        } else {
            app.plan_groups(&app.config, None).map(|plan| plan.groups)
        };
        let groups = groups.map_err(Error::Refused)?;
        let mut document = Document::new(title.into(), version.into());
        let streams: BTreeSet<_> = app.events.iter().map(|info| info.stream).collect();
        for stream in streams {
            document.add(app.channel(stream, &groups));
        }
        Ok(AsyncApi::new(&document))
    }

    /// The declarations of the app alone, in one order.
    fn without_tests(&self) -> Self {
        let mut events = self.events.clone();
        events.retain(|info| !lock::is_of_tests(info.type_name));
        // Link order is not defined.
        events.sort_by_key(|info| (info.stream, info.name, info.version, info.type_name));
        let ours = self.consumers.iter().filter(|consumer| !lock::is_of_tests(consumer.info.module));
        Self {
            events,
            config: self.config.clone(),
            only: self.only.clone(),
            namespace: self.namespace.clone(),
            environment: self.environment.clone(),
            ..Self::with(ours.copied())
        }
    }

    fn channel(&self, stream: &'static str, groups: &[GroupPlan]) -> Channel {
        let properties = stream_properties(stream, &self.events);
        let mut options = json!({
            "partitions": properties.partitions,
            "retention": match properties.retention {
                Retention::Age(age) => format_duration(age).to_string(),
                Retention::Consumed => "consumed".to_owned(),
            },
            "max_payload": properties.max_payload,
        });
        if let Some(durability) = properties.durability {
            options["durability"] = json!(durability.to_string());
        }
        let key = StreamKey::new(self.effective_namespace(), stream, properties.partitions);
        let mut channel = Channel::new(key, options);
        let mut newest = BTreeMap::new();
        for info in self.events.iter().filter(|info| info.stream == stream) {
            channel.messages.entry(event_version(info)).or_insert_with(|| message(info));
            newest.insert(info.name, info.version);
        }
        let sent = newest.into_iter().map(|(name, version)| (name.to_owned(), version)).collect();
        channel.operations.push(Operation { group: None, doc: String::new(), messages: sent, options: json!({}) });
        channel.operations.extend(groups.iter().filter(|group| group.stream == stream).map(receive));
        channel
    }
}

fn event_version(info: &EventInfo) -> (String, u32) {
    (info.name.to_owned(), info.version)
}

fn message(info: &EventInfo) -> Message {
    let mut options = json!({ "layout": info.layout.word() });
    if let Some(key) = info.key {
        options["key"] = json!(key);
    }
    Message { shape: Some((info.schema, info.layout)), options }
}

/// A group, with the versions of events that its consumers read.
fn receive(group: &GroupPlan) -> Operation {
    let reads = |(consumer, _): &(Registration, Policy)| {
        let event = consumer.info.event;
        chain(event).filter(|info| info.version >= event.oldest).map(event_version).collect::<Vec<_>>()
    };
    let docs = group.consumers.iter().filter(|(consumer, _)| !consumer.info.doc.is_empty());
    let doc = match group.consumers.as_slice() {
        [(only, _)] => only.info.doc.to_owned(),
        _ => docs
            .map(|(consumer, _)| format!("{}: {}", consumer.info.name, consumer.info.doc))
            .collect::<Vec<_>>()
            .join("\n\n"),
    };
    let mut options = json!({
        "group": group.group,
        "delivery": group.delivery.to_string(),
        "concurrency": group.concurrency,
        "start": match group.options.start {
            Start::Earliest => "earliest".to_owned(),
            Start::Latest => "latest".to_owned(),
            Start::At(id) => id.to_string(),
            Start::Ago(age) => format!("{} ago", format_duration(age)),
        },
        "on_data_loss": match group.options.on_data_loss {
            OnDataLoss::Halt => "halt",
            OnDataLoss::Continue => "continue",
        },
        "consumers": group.consumers.iter().map(|(consumer, policy)| consumer_options(consumer, policy)).collect::<Vec<_>>(),
    });
    if group.delivery == Delivery::Ordered {
        let checkpoint = &group.options.checkpoint;
        options["checkpoint"] = json!({
            "events": checkpoint.events,
            "interval": format_duration(checkpoint.interval).to_string(),
        });
    }
    let messages = group.consumers.iter().flat_map(reads).collect();
    Operation { group: Some(group.group.to_owned()), doc, messages, options }
}

fn consumer_options(consumer: &Registration, policy: &Policy) -> Value {
    let mut options = json!({
        "name": consumer.info.name,
        "event": consumer.info.event.name,
        "max_attempts": policy.max_attempts,
        "max_crashes": policy.max_crashes,
        "backoff": policy.backoff.to_string(),
        "timeout": format_duration(policy.timeout).to_string(),
    });
    if let Some(batch) = &policy.batch {
        options["batch"] = json!(batch.events);
        options["batch_wait"] = json!(format_duration(batch.wait).to_string());
    }
    options
}
