//! `streams reset`, `resume`, `pause` and `remove`: an operator's acts on a group, each with a count before it.

use serde_json::json;

use super::get::stream_name;
use crate::confirm::{Consent, count};
use crate::connect::{Server, whoami};
use crate::output::Output;
use crate::problem::Problem;
use crate::when::Place;

/// Move a group to another place of the stream; says how many events come again or are passed over
#[derive(Debug, clap::Args)]
pub(crate) struct Reset {
    /// The stream; `trades.3` for one partition of it
    stream: String,
    /// The group
    group: String,
    /// An entry id, `earliest`, `latest`, a time ago such as `-10m`, or a time in UTC such as `2026-01-31 12:00:00`
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    to: Place,
    #[command(flatten)]
    consent: Consent,
}

/// Let a halted group go on where it is, or end a pause
#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The stream; `trades.3` for one partition of it
    stream: String,
    /// The group
    group: String,
    #[command(flatten)]
    consent: Consent,
}

/// Let no process hand further events to a group, until `resume`; it outlives restarts
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    /// The stream
    stream: String,
    /// The group
    group: String,
    /// Why, for whoever wonders
    #[arg(long, default_value = "")]
    why: String,
    #[command(flatten)]
    consent: Consent,
}

/// Remove a group for good: its checkpoints and dead letters; refuses while processes run it or dead letters lie there
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The stream
    stream: String,
    /// The group
    group: String,
    /// Although processes run it or dead letters lie there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Reset {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (stream, group) = (&self.stream, &self.group);
        server.stream(stream).await?;
        let admin = server.admin()?;
        let plans = admin.plan_reset(stream, group, self.to.start()).await?;
        let (mut again, mut over, mut more) = (0, 0, false);
        let mut lines = String::new();
        for plan in &plans {
            again += plan.again;
            over += plan.passed_over;
            more |= plan.more;
            lines.push_str(&format!(
                "\n  partition {}: settled up to {}, would go on at {}",
                plan.partition,
                plan.from,
                plan.to.next()
            ));
        }
        let at_least = if more { "at least " } else { "" };
        let plan = format!(
            "group {group} on {stream} would be moved: {at_least}{} would come again, {} would be passed over{lines}",
            count(again, "event"),
            count(over, "event")
        );
        let value = json!({ "again": again, "passed_over": over, "at_least": more, "partitions": plans });
        if !self.consent.given(&plan, &value, out)? {
            return Ok(());
        }
        let checkpoints = admin.reset(stream, group, self.to.start()).await?;
        let sentence = format!(
            "group {group} on {stream} is moved: {at_least}{} again, {} passed over; running processes go on from there within some seconds",
            count(again, "event"),
            count(over, "event")
        );
        let checkpoints: Vec<_> = checkpoints.iter().map(ToString::to_string).collect();
        Ok(out.say(&sentence, &json!({ "reset": checkpoints, "again": again, "passed_over": over }))?)
    }
}

impl Resume {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (stream, group) = (&self.stream, &self.group);
        server.stream(stream).await?;
        let view = server.inspector()?.group(stream_name(stream), group).await?;
        let lag = view.lag().map_or_else(|| "an unknown number of events".to_owned(), |lag| count(lag, "event"));
        let is_halted = view.places.iter().any(|place| place.halted.is_some());
        let stands = match &view.paused {
            Some(pause) => pause.to_string(),
            None if is_halted => "halted".to_owned(),
            None => format!("{}, as far as can be seen neither halted nor paused", view.condition()),
        };
        let replays = match view.replays() {
            0 => String::new(),
            replays => format!(" and {} replayed", count(replays, "dead letter")),
        };
        let plan = format!(
            "group {group} on {stream} ({stands}) would go on where it is: {lag} would be handled{replays}, none comes again and none is passed over"
        );
        if !self.consent.given(&plan, &json!({ "resume": group, "lag": view.lag() }), out)? {
            return Ok(());
        }
        let resumed = server.admin()?.resume(stream, group).await?;
        let keys: Vec<_> = resumed.iter().map(ToString::to_string).collect();
        let sentence = format!(
            "resumed {group} on {}: it goes on within some seconds; to see whether it does: streams owners {} {group}",
            keys.join(", "),
            stream_name(stream)
        );
        Ok(out.say(&sentence, &json!({ "resumed": keys }))?)
    }
}

impl Pause {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (stream, group) = (&self.stream, &self.group);
        let view = server.inspector()?.group(stream, group).await?;
        let plan = format!(
            "group {group} on {stream} would be paused in {}: events wait, none comes again and none is passed over",
            match view.living() {
                1 => "1 process".to_owned(),
                living => format!("{living} processes"),
            }
        );
        if !self.consent.given(&plan, &json!({ "pause": group, "processes": view.living() }), out)? {
            return Ok(());
        }
        server.admin()?.pause(stream, group, &whoami(), &self.why).await?;
        let sentence = format!("paused {group} on {stream}; to go on: streams resume {stream} {group}");
        Ok(out.say(&sentence, &json!({ "paused": group, "by": whoami(), "why": self.why }))?)
    }
}

impl Remove {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (stream, group) = (&self.stream, &self.group);
        let view = server.inspector()?.group(stream, group).await?;
        let lag = view.lag().map_or_else(|| "an unknown number of events".to_owned(), |lag| count(lag, "event"));
        let plan = format!(
            "group {group} on {stream} would be gone for good, with its place on {} and {}; {lag} that it has not settled would be passed over",
            count(view.places.len() as u64, "partition"),
            count(view.dead() + view.replays(), "dead letter")
        );
        let (living, dead) = (view.living(), view.dead() + view.replays());
        if !self.force && (living > 0 || dead > 0) {
            let reason = match living {
                0 => format!("it has {}: replay or discard them first", count(dead, "dead letter")),
                _ => format!("{living} of its processes run: stop them first"),
            };
            return Err(format!("{plan}\nrefused, because {reason}, or say --force").into());
        }
        let value = json!({ "remove": group, "dead_letters": dead, "processes": living });
        if !self.consent.given(&plan, &value, out)? {
            return Ok(());
        }
        let removed = server.admin()?.remove(stream, group, self.force).await?;
        let sentence = format!("removed {group} from {stream}, with {}", count(removed.dead_letters, "dead letter"));
        Ok(out.say(
            &sentence,
            &json!({ "removed": group, "dead_letters": removed.dead_letters, "partitions": removed.partitions }),
        )?)
    }
}
