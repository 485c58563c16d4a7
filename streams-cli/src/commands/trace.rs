//! `streams trace`: one event's way through streams and groups.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use streams_runtime::{EntryId, Sought, StreamView, Traced};

use crate::connect::Server;
use crate::output::{Output, Row};
use crate::payload::{self, Redact};
use crate::problem::Problem;
use crate::when::{self, Place};

/// The most entries that are shown.
const MOST: usize = 1_000;

/// Find the entries that carry an id, the oldest first, and show which groups have settled them
#[derive(Debug, clap::Args)]
pub(crate) struct Trace {
    /// A trace id (of `traceparent`), an event's id, or the value of a header, such as a correlation id
    id: String,
    /// Look at entries from here on: `-10m`, a time in UTC, an entry id, or `earliest`
    #[arg(long, value_name = "PLACE", default_value = "-1h", allow_hyphen_values = true)]
    since: Place,
    /// Only this stream; may be given again
    #[arg(long, value_name = "STREAM")]
    stream: Vec<String>,
}

impl Trace {
    pub(crate) async fn run(self, server: &Server, redact: &Redact, out: &mut Output) -> Result<(), Problem> {
        let inspector = server.inspector()?;
        let mut streams = Vec::new();
        for name in &self.stream {
            server.stream(name).await?;
            streams.push(name.clone());
        }
        if streams.is_empty() {
            streams = inspector.overview().await?.streams.into_iter().map(|stream| stream.name).collect();
        }
        let since = self.since.first(server.broker_now().await?).unwrap_or(EntryId::MAX);
        let sought = Sought { id: &self.id, streams: &streams, since };
        let (mut found, mut seen, mut next) = (Vec::new(), 0, None);
        loop {
            let page = inspector.trace(sought, next.as_ref()).await?;
            seen += page.seen;
            found.extend(page.found);
            next = page.next;
            if next.is_none() || found.len() >= MOST {
                break;
            }
        }
        found.truncate(MOST);
        found.sort_by_key(|traced| traced.entry.id);
        let mut views = BTreeMap::new();
        for stream in found.iter().map(|traced| &traced.stream) {
            if !views.contains_key(stream) {
                views.insert(stream.clone(), inspector.stream(stream).await?);
            }
        }
        let rows = found.iter().map(|traced| row(traced, &views[&traced.stream], redact));
        let head = [
            ("time", false),
            ("stream", false),
            ("entry", false),
            ("event", false),
            ("event id", false),
            ("groups", false),
        ];
        let nothing = format!("none of {seen} entries carries {}; look further back with --since", self.id);
        Ok(out.rows(&head, rows.collect(), &nothing)?)
    }
}

fn row(traced: &Traced, view: &StreamView, redact: &Redact) -> Row {
    let Traced { stream, partition, entry, .. } = traced;
    let groups = super::info::settled(view, *partition, entry.id);
    let mut json = payload::entry(*partition, entry, redact);
    json["stream"] = json!(stream);
    json["groups"] = groups.iter().map(|(group, is)| json!({ "group": group, "is": is })).collect();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let groups: Vec<_> = groups.iter().map(|(group, is)| format!("{group}: {is}")).collect();
    Row {
        cells: vec![
            when::time(entry.id.ms).into(),
            stream.clone().into(),
            format!("{partition}/{}", entry.id).into(),
            text(&json["event"]).into(),
            text(&json["event_id"]).into(),
            groups.join("; ").into(),
        ],
        json,
    }
}
