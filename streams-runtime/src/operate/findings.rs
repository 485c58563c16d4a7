//! The judgement of a server and its streams: how good or bad each fact is for us, its meaning, and the fix.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind};

use super::views::{Condition, GroupView, StreamView};
use crate::clock::millis;

/// By how much the clocks of the server and of this program may differ.
const CLOCK: Duration = Duration::from_secs(2);
/// A stream of so many entries should be trimmed.
const LONG: u64 = 100_000;
/// An event that waits for longer is told of, as in the alert `StreamsLag`.
const OLD: Duration = Duration::from_secs(60);
/// The most findings about groups, and about streams.
const MOST: usize = 10;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It may do harm one day.
    Warning,
    /// It does harm, or soon will.
    Critical,
}

/// A fact about a server, with its meaning for streams and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The subject, in one word.
    pub about: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// The fact.
    pub found: String,
    /// Its meaning for streams.
    pub meaning: String,
    /// The remedy; empty where nothing is wrong.
    pub fix: String,
}

impl Finding {
    /// A finding, whose fix is left out where it is as it should be.
    pub fn new(
        about: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        meaning: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = if verdict == Verdict::Ok { String::new() } else { fix.into() };
        Self { about, verdict, found: found.into(), meaning: meaning.into(), fix }
    }

    /// The findings about a server: version, role, memory, persistence and clock. Where the user may not ask, they say so.
    ///
    /// # Errors
    /// When the server cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    ///
    /// ```no_run
    /// # async fn example(broker: &dyn streams_runtime::broker::Broker) -> Result<(), streams_runtime::broker::BrokerError> {
    /// use streams_runtime::Finding;
    ///
    /// for finding in Finding::of_server(broker).await? {
    ///     println!("{:?} {}: {}", finding.verdict, finding.about, finding.found);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn of_server(broker: &dyn Broker) -> Result<Vec<Self>, BrokerError> {
        let mut findings = match broker.info().await {
            // The store in the process is no server, and has nothing to say.
            Ok(info) if info.is_empty() => Vec::new(),
            Ok(info) => of_info(&info),
            // A refused log-in is another matter.
            Err(error) if error.kind() == BrokerErrorKind::Refused && error.to_string().starts_with("INFO") => {
                let meaning = "version, memory and persistence cannot be looked at";
                vec![finding("server", Verdict::Warning, "INFO is refused", meaning, "ACL SETUSER .. +info")]
            }
            Err(error) => return Err(error),
        };
        findings.extend(clock(broker).await?);
        Ok(findings)
    }

    /// The findings about streams and their groups: groups that stand still, fail, are slow or have dead letters, streams that
    /// nobody trims, and parts that could not be read. Of a group that no process runs and that has waited for longer than
    /// `expire_after`, nobody is perhaps in need any more.
    pub fn of_streams(streams: &[StreamView], expire_after: Duration) -> Vec<Self> {
        let mut findings = of_groups(streams, expire_after);
        findings.extend(of_streams(streams));
        findings
    }
}

fn finding(about: &'static str, verdict: Verdict, found: impl Into<String>, meaning: &str, fix: &str) -> Finding {
    Finding::new(about, verdict, found, meaning, fix)
}

/// The findings of INFO.
fn of_info(info: &BTreeMap<String, String>) -> Vec<Finding> {
    use Verdict::{Critical, Ok, Warning};
    let text = |name: &str| info.get(name).map_or("", String::as_str);
    let number = |name: &str| text(name).parse::<u64>().unwrap_or_default();
    let judge = |bad: bool, verdict: Verdict| if bad { verdict } else { Ok };
    let mut findings = Vec::new();

    let valkey = text("valkey_version");
    let (name, version) = if valkey.is_empty() { ("Redis", text("redis_version")) } else { ("Valkey", valkey) };
    let is_old = version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < 7);
    let needs = "the scripts need Redis 7.0 or Valkey 7.2";
    findings.push(finding(
        "version",
        judge(is_old, Critical),
        format!("{name} {version}"),
        needs,
        "upgrade the server",
    ));

    let is_cluster = text("cluster_enabled") == "1";
    if is_cluster {
        let meaning = "a cluster is not supported: the keys of a stream lie in several slots";
        findings.push(finding(
            "cluster",
            Critical,
            "cluster-enabled yes",
            meaning,
            "use a server with cluster-enabled no",
        ));
    }
    if text("role") == "slave" {
        let meaning = "a replica takes no writes, so no program can work here";
        findings.push(finding("role", Critical, "replica", meaning, "set REDIS_URL to the primary"));
    }

    let (limit, used) = (number("maxmemory"), number("used_memory"));
    let policy = text("maxmemory_policy");
    let evicts = policy.starts_with("allkeys-");
    let meaning = if evicts {
        "a full server evicts whole streams, read or not"
    } else {
        "a full server refuses publishes and evicts no stream"
    };
    findings.push(finding(
        "eviction",
        judge(evicts, Critical),
        policy,
        meaning,
        "CONFIG SET maxmemory-policy noeviction",
    ));
    let evicted = number("evicted_keys");
    if evicted > 0 && evicts {
        let meaning = "streams, or states of groups, may be among them";
        findings.push(finding(
            "evicted",
            Critical,
            format!("{evicted} keys"),
            meaning,
            "CONFIG SET maxmemory-policy noeviction; groups say what they lost",
        ));
    }
    let share = used.saturating_mul(100).checked_div(limit).unwrap_or_default();
    let (found, meaning) = match limit {
        0 => (
            format!("{} used, no limit", bytes(used)),
            "the machine's memory is the limit, and the kernel ends a server that passes it",
        ),
        _ => (
            format!("{} of {} used ({share} %)", bytes(used), bytes(limit)),
            "publishes fail when it is full; groups go on",
        ),
    };
    findings.push(finding(
        "memory",
        judge(limit == 0 || share >= 85, Warning),
        found,
        meaning,
        "set maxmemory below the machine's memory; shorten retention or raise it when it is nearly full",
    ));

    let log = text("aof_enabled") == "1";
    let meaning = if log {
        "a restart loses about a second"
    } else {
        "a restart goes back to the last snapshot: groups then report a cut history, and halt"
    };
    let found = if log { "append-only file" } else { "no append-only file" };
    findings.push(finding(
        "persistence",
        judge(!log, Warning),
        found,
        meaning,
        "CONFIG SET appendonly yes, and the same in its configuration",
    ));
    for (name, field) in [("append-only file", "aof_last_write_status"), ("snapshot", "rdb_last_bgsave_status")] {
        let status = text(field);
        if !status.is_empty() && status != "ok" {
            let meaning = "the server refuses writes, or loses them at a restart";
            findings.push(finding(
                "disk",
                Critical,
                format!("{name}: {status}"),
                meaning,
                "free space on its disk, and look at its log",
            ));
        }
    }
    findings
}

/// `None` where the user may not ask, which its rights tell.
async fn clock(broker: &dyn Broker) -> Result<Option<Finding>, BrokerError> {
    let began = SystemTime::now();
    let theirs = match broker.now().await {
        Ok(theirs) => theirs,
        Err(error) if error.kind() == BrokerErrorKind::Refused => return Ok(None),
        Err(error) => return Err(error),
    };
    let trip = began.elapsed().unwrap_or_default();
    let ours = millis((began + trip / 2).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let apart = Duration::from_millis(ours.abs_diff(theirs));
    let bad = apart > CLOCK + trip;
    let found = format!("{} from ours, a round trip takes {}", short(apart), short(trip));
    let verdict = if bad { Verdict::Warning } else { Verdict::Ok };
    let meaning = "the server's clock makes the ids of entries, so ages and `-10m` go by it";
    Ok(Some(finding("clock", verdict, found, meaning, "let both machines keep time (chrony, systemd-timesyncd)")))
}

/// Groups that stand still, fail, are slow or have dead letters; one finding for each, the worst.
fn of_groups(streams: &[StreamView], expire_after: Duration) -> Vec<Finding> {
    let groups: Vec<_> = streams.iter().flat_map(|stream| &stream.groups).collect();
    let findings: Vec<_> = groups.iter().filter_map(|group| of_group(group, expire_after)).collect();
    if findings.is_empty() {
        let found = format!("{} on {}", count(groups.len() as u64, "group"), count(streams.len() as u64, "stream"));
        return vec![finding("groups", Verdict::Ok, found, "", "")];
    }
    shortened(findings)
}

fn of_group(group: &GroupView, expire_after: Duration) -> Option<Finding> {
    let (stream, name) = (&group.stream, &group.name);
    let wait = match group.lag() {
        Some(1) => "1 of its events waits".to_owned(),
        Some(lag) => format!("{lag} of its events wait"),
        None => "an unknown number of its events wait".to_owned(),
    };
    let wait = if group.age().is_zero() { wait } else { format!("{wait}, the oldest for {}", short(group.age())) };
    let (place, dead) = (format!("{name} on {stream}"), group.dead());
    let (about, verdict, meaning, fix) = match group.condition() {
        Condition::Halted => (
            "halted",
            Verdict::Critical,
            format!("it handles nothing until somebody does something; {wait}"),
            format!("streams owners {stream} {name} says why, and how to go on"),
        ),
        Condition::Unattended => (
            "unattended",
            Verdict::Warning,
            format!("no process runs it; {wait}, and with retention = \"consumed\" it holds up the stream"),
            match group.age() > expire_after {
                true => format!("perhaps nobody needs it any more: streams remove {stream} {name}"),
                false => format!("start a program that runs it; if nobody needs it: streams remove {stream} {name}"),
            },
        ),
        Condition::Retrying => (
            "retrying",
            Verdict::Warning,
            format!(
                "{} tried again, and in ordered delivery nothing passes it; {wait}{}",
                failing(group.retrying()),
                group.error().map(|(_, error)| format!("; the latest error: {}", error.text)).unwrap_or_default()
            ),
            format!("streams owners {stream} {name} names the event; mend what its handler needs"),
        ),
        Condition::Paused => (
            "paused",
            Verdict::Warning,
            format!("somebody has paused it; {wait}"),
            format!("streams resume {stream} {name}, once nothing speaks against it any more"),
        ),
        _ if group.age() > OLD => (
            "slow",
            Verdict::Warning,
            wait,
            format!(
                "streams groups {stream} --rate says whether it catches up, streams owners {stream} {name} who works"
            ),
        ),
        _ if dead > 0 => (
            "dead",
            Verdict::Warning,
            format!("{} until somebody replays or discards them", kept(dead)),
            format!("streams dead ls {stream} {name} says why"),
        ),
        _ => return None,
    };
    Some(finding(about, verdict, place, &meaning, &fix))
}

fn failing(events: u64) -> String {
    format!("{} {}", count(events, "event"), if events == 1 { "fails and is" } else { "fail and are" })
}

fn kept(dead: u64) -> String {
    format!("{} {}", count(dead, "dead letter"), if dead == 1 { "lies there" } else { "lie there" })
}

/// Streams that nobody trims, and parts that could not be read.
fn of_streams(streams: &[StreamView]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for stream in streams {
        let name = &stream.name;
        if stream.length() >= LONG && stream.length() == stream.added() {
            let memory = stream.bytes().map(|number| format!(", {}", bytes(number))).unwrap_or_default();
            let found = format!("{name}: {} entries{memory}, none was ever trimmed", stream.length());
            let fix = format!("declare a `retention`, or: streams trim {name} --consumed");
            findings.push(finding("growth", Verdict::Warning, found, "it grows until the server is full", &fix));
        }
        if let Some(refused) = &stream.refused {
            let found = format!("{name}: {refused}");
            findings.push(finding(
                "rights",
                Verdict::Warning,
                found,
                "a part of it is not shown",
                "see the rights above",
            ));
        }
    }
    shortened(findings)
}

/// The worst findings of a kind.
fn shortened(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    let more = findings.len().saturating_sub(MOST);
    findings.truncate(MOST);
    if more > 0 {
        let about = findings[0].about;
        findings.push(finding(
            about,
            Verdict::Warning,
            format!("{more} more"),
            "they are not listed",
            "streams groups",
        ));
    }
    findings
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// In its two largest units.
fn short(duration: Duration) -> String {
    let text = humantime::format_duration(Duration::from_millis(millis(duration))).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
