//! `streams ls`: the streams of the server.

use std::time::Duration;

use serde_json::json;
use streams_runtime::{Condition, ErrorView, GroupView, Overview, StreamView};

use crate::connect::Server;
use crate::nearest::perhaps;
use crate::output::{Cell, Output, Row, Tone};
use crate::problem::Problem;
use crate::when::{self, short};

/// How far apart the two looks of a rate are.
const APART: Duration = Duration::from_secs(1);

/// List the streams: length, partitions, groups, worst lag, dead letters
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Only streams whose name has this text, or is of this form (`eu:*`)
    pattern: Option<String>,
    /// Look twice, a second apart, and show events per second
    #[arg(long)]
    rate: bool,
}

impl Ls {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let before = if self.rate { Some(server.overview().await?) } else { None };
        if self.rate {
            tokio::time::sleep(APART).await;
        }
        let overview = server.overview().await?;
        let now = now(&overview);
        let is_meant =
            |stream: &&StreamView| self.pattern.as_ref().is_none_or(|pattern| matches(pattern, &stream.name));
        let meant: Vec<_> = overview.streams.iter().filter(is_meant).collect();
        if let (Some(pattern), true) = (&self.pattern, meant.is_empty()) {
            let names = overview.streams.iter().map(|stream| stream.name.as_str());
            return Err(format!("there is no stream like `{pattern}`{}", perhaps(pattern, names)).into());
        }
        let rows = meant.into_iter().map(|stream| {
            let rate = before.as_ref().map(|before| rate(before, &overview, stream));
            let lags: Vec<_> = stream.groups.iter().filter_map(GroupView::lag).collect();
            let lag = lags.iter().max().copied();
            let dead = stream.groups.iter().map(GroupView::dead).sum::<u64>();
            let age = stream.last().map(|last| when::ago(now, last.ms));
            let worst = stream.groups.iter().min_by_key(|group| (group.condition(), std::cmp::Reverse(group.lag())));
            let mut cells: Vec<Cell> = vec![
                stream.name.as_str().into(),
                stream.length().into(),
                stream.partitions.len().into(),
                stream.groups.len().into(),
                Cell::or_dash(lag),
                Cell::toned(&dead, if dead > 0 { Tone::Warn } else { Tone::Plain }),
                worst.map_or_else(|| "-".into(), named),
                Cell::or_dash(age),
                Cell::or_dash(stream.bytes()),
                stream.refused.clone().unwrap_or_default().into(),
            ];
            if let Some(rate) = rate {
                cells.insert(2, format!("{rate:.0}").into());
            }
            Row {
                cells,
                json: json!({
                    "stream": stream.name, "length": stream.length(), "added": stream.added(), "bytes": stream.bytes(),
                    "partitions": stream.partitions.len(), "groups": stream.groups.len(), "lag": lag, "dead": dead,
                    "worst": worst.map(GroupView::condition), "worst_group": worst.map(|group| &group.name), "last": stream.last().map(|last| last.to_string()), "rate": rate,
                    "refused": stream.refused,
                }),
            }
        });
        let mut head = vec![
            ("stream", false),
            ("length", false),
            ("partitions", false),
            ("groups", false),
            ("worst lag", false),
            ("dead", false),
            ("worst group", false),
            ("last event", false),
            ("bytes", true),
            ("refused", true),
        ];
        if self.rate {
            head.insert(2, ("per second", false));
        }
        let rows = rows.collect();
        out.rows(&head, rows, "no program has declared a stream here")?;
        refusals(&overview, out);
        Ok(())
    }
}

/// The group's name with the word for how it stands.
fn named(group: &GroupView) -> Cell {
    let condition = group.condition();
    Cell::toned(&format!("{} ({condition})", group.name), tone(condition))
}

/// A word in the tone that it deserves.
pub(super) fn state(condition: Condition) -> Cell {
    Cell::toned(&condition, tone(condition))
}

pub(super) fn tone(condition: Condition) -> Tone {
    match condition {
        Condition::Halted | Condition::Unattended => Tone::Bad,
        Condition::Retrying | Condition::Paused => Tone::Warn,
        Condition::Running => Tone::Good,
        _ => Tone::Plain,
    }
}

/// The server's clock at the look.
pub(super) fn now(overview: &Overview) -> u64 {
    when::millis(overview.at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Says on standard error what could not be read.
pub(super) fn refusals(overview: &Overview, out: &Output) {
    if !out.is_for_people() {
        return;
    }
    let refused = overview.streams.iter().filter_map(|stream| Some((stream, stream.refused.as_ref()?)));
    for (stream, why) in refused.take(3) {
        eprintln!("{}", crate::text::plain(&format!("a part of {} could not be read: {why}", stream.name)));
    }
}

/// Events per second that were added between two looks.
fn rate(before: &Overview, after: &Overview, stream: &StreamView) -> f64 {
    let earlier = before.streams.iter().find(|earlier| earlier.name == stream.name).map_or(0, StreamView::added);
    let seconds = after.at.duration_since(before.at).unwrap_or(APART).as_secs_f64();
    stream.added().saturating_sub(earlier) as f64 / seconds.max(0.001)
}

/// Whether the name has the text, or is of the form with `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return name.contains(pattern);
    }
    let (pattern, name): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut place, mut star) = (0, 0, None);
    while place < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(character) if *character == '?' || *character == name[place] => {
                at += 1;
                place += 1;
            }
            _ => match star {
                // The star takes one character more.
                Some((begin, taken)) => {
                    star = Some((begin, taken + 1));
                    (at, place) = (begin + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// List the groups: lag, age of the oldest event that is not settled, dead letters, state
#[derive(Debug, clap::Args)]
pub(crate) struct Groups {
    /// Only those of this stream
    stream: Option<String>,
    /// Look twice, a second apart, and show events per second in and out, and when the lag is gone
    #[arg(long)]
    rate: bool,
}

impl Groups {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let before = if self.rate { Some(self.look(server).await?) } else { None };
        if self.rate {
            tokio::time::sleep(APART).await;
        }
        let overview = self.look(server).await?;
        let mut groups: Vec<_> =
            overview.streams.iter().flat_map(|stream| stream.groups.iter().map(move |group| (stream, group))).collect();
        groups.sort_by_key(|(_, group)| (group.condition(), std::cmp::Reverse(group.lag())));
        let rows = groups.into_iter().map(|(stream, group)| {
            let rates = before.as_ref().map(|before| Rates::of(before, &overview, stream, group));
            let age = group.age();
            let why = why(group);
            let condition = group.condition();
            let (dead, replays) = (group.dead(), group.replays());
            let mut cells: Vec<Cell> = vec![
                group.stream.as_str().into(),
                group.name.as_str().into(),
                state(condition),
                Cell::or_dash(group.lag()),
                if age.is_zero() { "-".into() } else { short(age).into() },
                group.retrying().into(),
                dead_letters(dead, replays),
                group.living().into(),
                group.mode.into(),
                why.clone().into(),
            ];
            if let Some(rates) = &rates {
                cells.insert(5, format!("{:.0}", rates.incoming).into());
                cells.insert(6, format!("{:.0}", rates.outgoing).into());
                cells.insert(7, Cell::or_dash(rates.gone.map(short)));
            }
            Row {
                cells,
                json: json!({
                    "stream": group.stream, "group": group.name, "mode": group.mode, "state": condition,
                    "why": why, "lag": group.lag(), "age_ms": when::millis(age), "retrying": group.retrying(),
                    "dead": dead, "replays": replays, "processes": group.living(),
                    "error": group.error().map(|(partition, error)| json!({ "partition": partition, "error": error })),
                    "per_second": rates.map(|rates| json!({ "in": rates.incoming, "out": rates.outgoing, "gone_ms": rates.gone.map(when::millis) })),
                }),
            }
        });
        let mut head = vec![
            ("stream", false),
            ("group", false),
            ("state", false),
            ("lag", false),
            ("oldest", false),
            ("retrying", false),
            ("dead", false),
            ("processes", false),
            ("delivery", true),
            ("why", false),
        ];
        if self.rate {
            head.splice(5..5, [("in/s", false), ("out/s", false), ("gone in", false)]);
        }
        let rows = rows.collect();
        out.rows(&head, rows, "there is no group here")?;
        refusals(&overview, out);
        Ok(())
    }

    async fn look(&self, server: &Server) -> Result<Overview, Problem> {
        match &self.stream {
            Some(stream) => Ok(server.inspector()?.overview_of(stream).await?),
            None => server.overview().await,
        }
    }
}

/// Why a group does not run: who has paused it, or the reason of its halt.
pub(super) fn why(group: &GroupView) -> String {
    if let Some(halt) = group.places.iter().find_map(|place| place.halted.as_ref()) {
        return format!("{}: {}", halt.kind, halt.reason);
    }
    match (&group.paused, group.condition()) {
        (Some(pause), _) => pause.to_string(),
        (None, Condition::Unattended) => "no process runs it".to_owned(),
        (None, _) => {
            let needs = group.places.iter().find_map(|place| Some(format!("needs {}", place.needs.as_ref()?)));
            needs.or_else(|| Some(failing(group.error()?.1))).unwrap_or_default()
        }
    }
}

/// How many dead letters there are, and how many more wait to be handled again.
pub(super) fn dead_letters(dead: u64, replays: u64) -> Cell {
    let tone = if dead + replays > 0 { Tone::Warn } else { Tone::Plain };
    if replays > 0 { Cell::toned(&format!("{dead} ({replays} to replay)"), tone) } else { Cell::toned(&dead, tone) }
}

/// The latest error of an event that is tried again.
fn failing(error: &ErrorView) -> String {
    format!("event {} failed at attempt {}: {}", error.entry, error.attempts, error.text)
}

/// Events per second into and out of a group.
pub(super) struct Rates {
    pub(super) incoming: f64,
    pub(super) outgoing: f64,
    /// When the lag is gone, if it shrinks.
    gone: Option<Duration>,
}

impl Rates {
    pub(super) fn of(before: &Overview, after: &Overview, stream: &StreamView, group: &GroupView) -> Self {
        let incoming = rate(before, after, stream);
        let earlier = before.streams.iter().find(|earlier| earlier.name == stream.name);
        let earlier = earlier.and_then(|stream| stream.groups.iter().find(|earlier| earlier.name == group.name));
        let seconds = after.at.duration_since(before.at).unwrap_or(APART).as_secs_f64().max(0.001);
        let lags = earlier.and_then(GroupView::lag).zip(group.lag());
        let grows = lags.map_or(0.0, |(earlier, lag)| (lag as f64 - earlier as f64) / seconds);
        let outgoing = (incoming - grows).max(0.0);
        let lag = group.lag().filter(|lag| *lag > 0 && grows < 0.0);
        let gone = lag.and_then(|lag| Duration::try_from_secs_f64(lag as f64 / -grows).ok());
        Self { incoming, outgoing, gone }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_pattern_is_a_text_or_a_form() {
        for (pattern, name, is) in [
            ("ade", "trades", true),
            ("trades.", "trades", false),
            ("tr*s", "trades", true),
            ("tr*x", "trades", false),
            ("*", "trades", true),
            ("eu:*", "eu:trades", true),
            ("eu:*", "us:trades", false),
            ("t?ades", "trades", true),
            ("t?ades", "tades", false),
            ("*a*e*", "trades", true),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
