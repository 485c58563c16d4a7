//! `streams publish`: events from JSON, checked against the shape that programs have recorded.

use std::io::{BufRead, IsTerminal};

use serde_json::{Value, json};
use streams_runtime::broker::{Fields, Log};
use streams_runtime::keys::StreamKey;
use streams_runtime::{Headers, Key, Known, Recorded};

use crate::confirm::{Consent, count};
use crate::connect::{Server, whoami};
use crate::output::Output;
use crate::problem::Problem;

/// The most events of one call.
const MOST: usize = 100_000;
/// The most bytes of their payloads.
const MOST_BYTES: usize = 256 * 1024 * 1024;
/// How many events are added at once.
const PAGE: usize = 500;
/// The most mistakes that are told.
const MISTAKES: usize = 20;

/// Publish events from JSON, checked against the shape that running programs have recorded
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Bytes are hexadecimal digits, 64-bit integers are exact, an option that is not given is nil. With `-` each line of
standard input is an event; where one is wrong, every mistake is told with the number of its line, and nothing is published.")]
pub(crate) struct Publish {
    /// The stream
    stream: String,
    /// The event, such as `Trade`, in its newest version, or such as `Trade@1`
    event: String,
    /// The event as JSON; `-` for a line each from standard input
    json: String,
    /// The key, which chooses the partition
    #[arg(long, conflicts_with = "key_field")]
    key: Option<String>,
    /// The field at the top whose value is the key; unless said that which programs have recorded
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// The event's id, by which consumers tell repeats
    #[arg(long)]
    id: Option<String>,
    /// A header, such as `tenant=a`
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    consent: Consent,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, _)) if name.is_empty() || Headers::is_reserved(name) => {
            Err(format!("`{name}` cannot be the name of a header"))
        }
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("expected a name, an equals sign and a value".to_owned()),
    }
}

impl Publish {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (stream, _) = server.stream(&self.stream).await?;
        let recorded = Recorded::of(&*server.broker, &stream).await?;
        let known = recorded.shape(&self.event, &self.stream)?;
        let lines = if self.json == "-" { read()? } else { vec![self.json.clone()] };
        let events = self.events(known, &stream, &lines)?;
        if self.id.is_some() && events.len() > 1 {
            return Err(Problem::usage("one id is for one event; leave --id out"));
        }
        let number = events.len() as u64;
        let plan = format!(
            "{} {} would be published to {}, and handled by every group of it",
            number,
            known.name(),
            stream.base()
        );
        if !self.consent.given(&plan, &json!({ "publish": number, "event": known.name() }), out)? {
            return Ok(());
        }
        server.audit(&whoami(), "publish", (&self.stream, ""), &format!("{number} {}", known.name())).await;
        let mut ids = vec![String::new(); events.len()];
        for index in 0..stream.partitions() {
            let partition = stream.partition(index);
            let here: Vec<_> = (0..events.len()).filter(|place| events[*place].0 == index).collect();
            for page in here.chunks(PAGE) {
                let fields = page.iter().map(|place| events[*place].1.clone()).collect();
                let added = server.broker.append(&partition, fields, None).await?;
                for (place, id) in page.iter().zip(added) {
                    ids[*place] = if stream.partitions() > 1 { format!("{index}/{id}") } else { id.to_string() };
                }
            }
        }
        let shown = match ids.as_slice() {
            [one] => format!(": {one}"),
            _ => String::new(),
        };
        let sentence = format!("{} published to {}{shown}", count(number, "event"), stream.base());
        Ok(out.say(&sentence, &json!({ "published": number, "ids": ids }))?)
    }

    /// The events with their partitions.
    fn events(&self, known: &Known, stream: &StreamKey, lines: &[String]) -> Result<Vec<(u32, Fields)>, Problem> {
        let (mut events, mut mistakes, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match self.event(known, stream, line) {
                Ok(event) => {
                    bytes += event.1.iter().map(|(_, value)| value.len()).sum::<usize>();
                    events.push(event);
                }
                Err(mistake) if lines.len() == 1 => mistakes.push(mistake),
                Err(mistake) => mistakes.push(format!("line {}: {mistake}", index + 1)),
            }
            if bytes > MOST_BYTES {
                return Err("the events are larger than 256 MiB together: publish them in parts".into());
            }
        }
        if mistakes.is_empty() {
            return if events.is_empty() { Err("there is no event to publish".into()) } else { Ok(events) };
        }
        let more = mistakes.len().saturating_sub(MISTAKES);
        mistakes.truncate(MISTAKES);
        if more > 0 {
            mistakes.push(format!("and {more} more"));
        }
        mistakes.push("nothing was published".to_owned());
        Err(mistakes.join("\n").into())
    }

    fn event(&self, known: &Known, stream: &StreamKey, line: &str) -> Result<(u32, Fields), String> {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
        let key = match (&self.key, &self.key_field) {
            (Some(key), _) => Key::Text(key),
            (None, Some(field)) => Key::Field(field),
            (None, None) => Key::Recorded,
        };
        let entry = known.entry(stream, &value, self.id.as_deref(), key)?;
        let (partition, mut fields) = entry.ok_or_else(|| {
            format!(
                "{} has {} partitions, and the key chooses one: say --key or --key-field",
                stream.base(),
                stream.partitions()
            )
        })?;
        fields.extend(self.header.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes())));
        Ok((partition, fields))
    }
}

fn read() -> Result<Vec<String>, Problem> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("an event per line as JSON; end with ctrl-d");
    }
    let mut lines = Vec::new();
    let mut bytes = 0;
    for line in stdin.lock().lines() {
        let line = line?;
        bytes += line.len();
        lines.push(line);
        if lines.len() > MOST || bytes > MOST_BYTES {
            return Err(format!("there are more than {MOST} lines or 256 MiB: publish them in parts").into());
        }
    }
    Ok(lines)
}
