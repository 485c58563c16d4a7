//! `streams info` and `streams owners`: everything of one stream, or of one group.

use serde_json::{Value, json};
use streams_runtime::{Condition, GroupView, Known, Recorded, StreamView};

use super::dead::wait;
use super::ls::{dead_letters, state, tone, why};
use crate::confirm::count;
use crate::connect::Server;
use crate::output::{Cell, Output, Row};
use crate::problem::Problem;
use crate::when::{self, short};

/// Show a stream: entries, age, memory, events and their versions, who publishes, its groups
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// The stream
    stream: String,
}

impl Info {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let view = server.inspector()?.stream(&self.stream).await?;
        let (stream, _) = server.stream(&self.stream).await?;
        let recorded = Recorded::of(&*server.broker, &stream).await?;
        let now = server.broker_now().await?;
        let mut value = data(&view)?;
        value["events"] = events(&recorded.known);
        let age = |id: Option<streams_runtime::EntryId>| {
            id.map_or_else(|| "-".to_owned(), |id| format!("{id} ({} ago)", when::ago(now, id.ms)))
        };
        let mut facts = vec![
            ("stream", view.name.clone()),
            ("entries", format!("{} now, {} ever", view.length(), view.added())),
            ("partitions", stream.partitions().to_string()),
            ("first", age(view.first())),
            ("last", age(view.last())),
            ("memory", view.bytes().map_or_else(|| "not told".to_owned(), |bytes| format!("{bytes} bytes"))),
        ];
        for event in value["events"].as_array().into_iter().flatten() {
            let list = |name: &str| {
                let names = event[name].as_array().into_iter().flatten().filter_map(Value::as_str);
                names.collect::<Vec<_>>().join(", ")
            };
            let publishers =
                if list("publishers").is_empty() { "nobody of late".to_owned() } else { list("publishers") };
            let name = event["event"].as_str().unwrap_or_default();
            facts.push(("event", format!("{name}, published by {publishers}, known to {}", list("programs"))));
        }
        for group in &view.groups {
            let lag = group.lag().map_or_else(|| "?".to_owned(), |lag| lag.to_string());
            let why = Some(why(group)).filter(|why| !why.is_empty()).map(|why| format!(": {why}")).unwrap_or_default();
            let replays = Some(group.replays()).filter(|replays| *replays > 0);
            let replays = replays
                .map(|replays| format!(" and {replays} that {} to be handled again", wait(replays)))
                .unwrap_or_default();
            facts.push((
                "group",
                format!(
                    "{} {}, lag {lag}, {}{replays}{why}",
                    group.name,
                    group.condition(),
                    count(group.dead(), "dead letter")
                ),
            ));
        }
        facts.extend(view.refused.clone().map(|why| ("refused", why)));
        Ok(out.one(&facts, &value)?)
    }
}

/// A view as data.
fn data(view: &impl serde::Serialize) -> Result<Value, Problem> {
    serde_json::to_value(view).map_err(|error| error.to_string().into())
}

/// The events with those who publish and know them, each version once.
fn events(known: &[Known]) -> Value {
    let mut names: Vec<_> = known.iter().map(Known::name).collect();
    names.dedup();
    let who = |name: &String, publishes: bool| {
        let those = known.iter().filter(|known| known.name() == *name && (known.publishes || !publishes));
        let mut programs: Vec<_> = those.map(|known| known.program.clone()).collect();
        programs.sort_unstable();
        programs.dedup();
        programs
    };
    names
        .iter()
        .map(|name| json!({ "event": name, "publishers": who(name, true), "programs": who(name, false) }))
        .collect()
}

/// Show a group: its processes and what each owns, where it stands on each partition, and why it does not go on
#[derive(Debug, clap::Args)]
pub(crate) struct Owners {
    /// The stream
    stream: String,
    /// The group
    group: String,
}

impl Owners {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let group = server.inspector()?.group(&self.stream, &self.group).await?;
        if !out.is_for_people() {
            return Ok(out.one(&[], &data(&group)?)?);
        }
        let condition = group.condition();
        let word = out.toned(&condition.to_string(), tone(condition));
        out.raw(&format!("group {} on {}: {word}, {} delivery\n\n", group.name, group.stream, group.mode))?;
        out.rows(&MEMBERS, members(&group), "no process runs it")?;
        out.gap()?;
        out.rows(&PLACES, places(&group), "it has no partition")?;
        for advice in advice(&group) {
            out.gap()?;
            out.say(&advice, &Value::Null)?;
        }
        Ok(())
    }
}

const MEMBERS: [(&str, bool); 5] =
    [("process", false), ("owns", false), ("silent for", false), ("lease", false), ("handles", false)];

fn members(group: &GroupView) -> Vec<Row> {
    let row = |member: &streams_runtime::MemberView| {
        let owns: Vec<_> = member.partitions.iter().map(ToString::to_string).collect();
        let silent = member.silent.map(short);
        let silent = if member.lives() {
            Cell::or_dash(silent)
        } else {
            Cell::toned(&silent.unwrap_or_default(), tone(Condition::Halted))
        };
        Row {
            cells: vec![
                member.name.as_str().into(),
                owns.join(",").into(),
                silent,
                short(member.lease).into(),
                member.build.as_str().into(),
            ],
            json: Value::Null,
        }
    };
    group.members.iter().map(row).collect()
}

const PLACES: [(&str, bool); 10] = [
    ("partition", false),
    ("owner", false),
    ("state", false),
    ("checkpoint", false),
    ("lag", false),
    ("oldest", false),
    ("in flight", true),
    ("waiting", true),
    ("dead", false),
    ("epoch", true),
];

fn places(group: &GroupView) -> Vec<Row> {
    let row = |place: &streams_runtime::PlaceView| {
        let condition = match (&place.halted, place.failed.is_empty()) {
            (Some(_), _) => Condition::Halted,
            (None, false) => Condition::Retrying,
            (None, true) => group.condition().max(Condition::Unattended),
        };
        Row {
            cells: vec![
                place.partition.into(),
                Cell::or_dash(place.owner.as_ref()),
                state(condition),
                place.checkpoint.into(),
                Cell::or_dash(place.lag),
                if place.age.is_zero() { "-".into() } else { short(place.age).into() },
                place.in_flight.into(),
                place.waiting.into(),
                dead_letters(place.dead, place.replays),
                place.epoch.into(),
            ],
            json: Value::Null,
        }
    };
    group.places.iter().map(row).collect()
}

/// The reasons why a group does not go on, each with the commands that may help.
pub(super) fn advice(group: &GroupView) -> Vec<String> {
    let (stream, name) = (&group.stream, &group.name);
    let mut advice = Vec::new();
    for place in &group.places {
        if let Some(halt) = &place.halted {
            advice.push(format!(
                "halted on partition {} since {} by {}:\n  {}\n  streams explain {}\n  streams resume {stream} {name}, once the cause is mended\n  streams reset {stream} {name} --to PLACE --dry-run, to go on from elsewhere",
                place.partition,
                humantime::format_rfc3339_seconds(halt.at),
                halt.by,
                halt.reason,
                halt.kind
            ));
        }
        for (id, attempts) in &place.failed {
            let id = if group.places.len() > 1 { format!("{}/{id}", place.partition) } else { id.to_string() };
            advice.push(format!(
                "event {id} has failed {} and is tried again: streams get {stream} {id}",
                count((*attempts).into(), "time")
            ));
        }
        if let Some(error) = &place.error {
            let on = if group.places.len() > 1 { format!(" on partition {}", place.partition) } else { String::new() };
            advice.push(format!(
                "the latest error{on}, of event {} at attempt {}, {}:\n  {}",
                error.entry,
                error.attempts,
                humantime::format_rfc3339_seconds(error.at),
                error.text
            ));
        }
        if let Some(needs) = &place.needs {
            advice.push(format!("partition {} needs a build that handles {needs}", place.partition));
        }
    }
    if group.condition() == Condition::Unattended {
        advice.push(format!(
            "its events wait for a process: start a program that runs it\n  streams remove {stream} {name} --dry-run, if nobody needs it any more"
        ));
    }
    advice.extend(group.paused.as_ref().map(|pause| format!("{pause}\n  streams resume {stream} {name}")));
    if group.dead() > 0 {
        advice.push(format!("{}: streams dead ls {stream} {name}", count(group.dead(), "dead letter")));
    }
    if group.replays() > 0 {
        let stands = group.paused.is_some() || group.places.iter().any(|place| place.halted.is_some());
        let waits = match group.condition() {
            _ if stands => format!(" until `streams resume {stream} {name}`"),
            Condition::Unattended => " until a process runs the group".to_owned(),
            _ => String::new(),
        };
        advice.push(format!(
            "{} {} to be handled again{waits}",
            count(group.replays(), "dead letter"),
            wait(group.replays())
        ));
    }
    advice
}

/// How each group stands to one entry.
pub(super) fn settled(view: &StreamView, partition: u32, id: streams_runtime::EntryId) -> Vec<(String, String)> {
    let stands = |group: &GroupView| Some((group.name.clone(), group.stands_to(partition, id)?));
    view.groups.iter().filter_map(stands).collect()
}
