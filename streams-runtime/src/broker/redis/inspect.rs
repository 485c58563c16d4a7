//! The looks of an observer at a server: SCAN for the streams, then commands that only read, many in one round trip.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::{RedisResult, Value, cmd};
use streams_core::EntryId;
use streams_core::broker::{
    Answer as AnswerOf, AttemptError, BrokerError, GroupLook, Inspect, LeaseView, MAX_STREAMS, Marker, Member,
    PartitionLook, QueueLook, Reply,
};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};

use super::call::{Call, Effect, explain, unexpected};
use super::log::extent;
use super::members::list;
use super::parse::{self, Parsed, Unexpected};
use super::queue::{fields, flight};
use super::server::{Redis, each};
use crate::broker::checks::{declared_in, too_many_streams};

/// How many keys one step of a SCAN looks at: about a millisecond of the server.
const STEP: usize = 1_000;

impl Inspect for Redis {
    fn streams<'a>(&'a self, namespace: Option<&'a str>) -> Reply<'a, Vec<StreamKey>> {
        Box::pin(async move {
            // A SCAN may show a key twice.
            let mut found = BTreeSet::new();
            let mut cursor = "0".to_owned();
            loop {
                let call = Call { command: "SCAN", key: "", effect: Effect::Read };
                let mut scan = cmd("SCAN");
                let of = namespace.map(|namespace| format!("{namespace}:")).unwrap_or_default();
                scan.arg(&cursor).arg("MATCH").arg(format!("streams:{{{of}*}}:_stream")).arg("COUNT").arg(STEP);
                let mut reply = parse::array(self.command(call, &scan).await?).map_err(unexpected(call))?.into_iter();
                cursor = parse::text(reply.next().unwrap_or_default()).map_err(unexpected(call))?;
                let keys = parse::array(reply.next().unwrap_or_default()).map_err(unexpected(call))?;
                // Another program's key may be no text.
                let keys: Vec<_> = keys.into_iter().filter_map(|key| parse::text(key).ok()).collect();
                let numbers = self.numbers(&keys).await?;
                found.extend(keys.iter().zip(numbers).filter_map(|(key, number)| declared_in(namespace, key, number?)));
                if found.len() > MAX_STREAMS {
                    return Err(too_many_streams(namespace));
                }
                if cursor == "0" {
                    return Ok(found.into_iter().collect());
                }
            }
        })
    }

    fn look_at_partitions<'a>(
        &'a self,
        partitions: &'a [PartitionKey],
    ) -> Reply<'a, Vec<AnswerOf<Option<PartitionLook>>>> {
        Box::pin(async move {
            let call =
                |partition: &'a PartitionKey| Call { command: "XINFO", key: partition.as_str(), effect: Effect::Read };
            let Some(first) = partitions.first() else { return Ok(Vec::new()) };
            let mut looks = redis::pipe();
            for partition in partitions {
                looks.cmd("XINFO").arg("STREAM").arg(partition.as_str());
                looks.cmd("XINFO").arg("GROUPS").arg(partition.as_str());
                looks.cmd("MEMORY").arg("USAGE").arg(partition.as_str());
            }
            // The replies hold the first and the last entry of each, which may be large.
            let mut replies = each(&self.reads, call(first), &mut looks, None).await?.into_iter();
            let mut reply = || replies.next().unwrap_or(Ok(Value::Nil));
            let answers = partitions.iter().map(|partition| {
                let (stream, groups, memory) = (existing(reply()), existing(reply()), reply());
                let read = |reply: RedisResult<Value>| reply.map_err(|error| explain(call(partition), error));
                let (stream, groups) = (read(stream)?, read(groups)?);
                if stream == Value::Nil || groups == Value::Nil {
                    return Ok(None);
                }
                let look = || {
                    let groups = parse::array(groups)?.into_iter().map(marker);
                    let mut markers = groups.collect::<Parsed<Vec<_>>>()?;
                    markers.sort_by(|a, b| a.group.cmp(&b.group));
                    // A user without the right to MEMORY still sees the rest.
                    let bytes = memory.ok().and_then(|bytes| parse::number(bytes).ok());
                    Ok(Some(PartitionLook { extent: extent(stream)?, bytes, markers }))
                };
                look().map_err(unexpected(call(partition)))
            });
            Ok(answers.collect())
        })
    }

    fn look_at_groups<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<AnswerOf<Option<GroupLook>>>> {
        Box::pin(async move {
            let Some(first) = groups.first() else { return Ok(Vec::new()) };
            let mut looks = redis::pipe();
            for group in groups {
                looks.cmd("HGETALL").arg(group.state());
                looks.cmd("XLEN").arg(group.dead());
                looks.cmd("XLEN").arg(group.replay());
            }
            let call = |group| Call::on(group, "looking at a group", Effect::Read);
            let mut replies = each(&self.commands, call(first), &mut looks, None).await?.into_iter();
            let mut reply = || replies.next().unwrap_or(Ok(Value::Nil));
            let answers = groups.iter().map(|group| {
                let replies =
                    [reply(), reply(), reply()].map(|reply| reply.map_err(|error| explain(call(group), error)));
                let [state, dead, replays] = replies;
                let (state, dead, replays) = (state?, dead?, replays?);
                let number = |reply| parse::number(reply).map_err(unexpected(call(group)));
                look(state, number(dead)?, number(replays)?).map_err(unexpected(call(group)))
            });
            Ok(answers.collect())
        })
    }

    fn look_at_members<'a>(&'a self, sets: &'a [String]) -> Reply<'a, Vec<AnswerOf<Vec<Member>>>> {
        Box::pin(async move {
            let call = |set: &'a String| Call { command: "ZRANGE", key: set, effect: Effect::Read };
            let Some(first) = sets.first() else { return Ok(Vec::new()) };
            let mut looks = redis::pipe();
            for set in sets {
                looks.cmd("ZRANGE").arg(set).arg(0).arg(-1).arg("WITHSCORES");
            }
            let replies = each(&self.commands, call(first), &mut looks, None).await?.into_iter().zip(sets);
            let answers = replies.map(|(reply, set)| {
                scored(reply.map_err(|error| explain(call(set), error))?).map_err(unexpected(call(set)))
            });
            Ok(answers.collect())
        })
    }

    fn info(&self) -> Reply<'_, BTreeMap<String, String>> {
        Box::pin(async move {
            let call = Call { command: "INFO", key: "", effect: Effect::Read };
            let text = parse::text(self.command(call, &cmd("INFO")).await?).map_err(unexpected(call))?;
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
        })
    }
}

impl Redis {
    /// The numbers of partitions in these keys of properties; a key that is no such hash is another program's.
    async fn numbers(&self, keys: &[String]) -> Result<Vec<Option<u32>>, BrokerError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut looks = redis::pipe();
        for key in keys {
            looks.cmd("HGET").arg(key).arg("partitions");
        }
        let call = Call { command: "HGET", key: &keys[0], effect: Effect::Read };
        let replies = each(&self.commands, call, &mut looks, None).await?;
        let numbers = keys.iter().zip(replies).map(|(key, reply)| match reply {
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            reply => {
                let number = reply.map_err(|error| explain(Call { key, ..call }, error))?;
                Ok(parse::number(number).ok().and_then(|number| u32::try_from(number).ok()))
            }
        });
        numbers.collect()
    }
}

/// The reply, or nil where there is no such key.
fn existing(reply: RedisResult<Value>) -> RedisResult<Value> {
    match reply {
        Err(error) if error.to_string().contains("no such key") => Ok(Value::Nil),
        reply => reply,
    }
}

/// A group in the reply of XINFO GROUPS.
fn marker(reply: Value) -> Parsed<Marker> {
    let mut group = parse::named(reply)?;
    let mut take = |name| group.remove(name).unwrap_or_default();
    Ok(Marker {
        group: parse::lossy(take("name"))?,
        delivered: parse::id(take("last-delivered-id"))?,
        pending: parse::number(take("pending"))?,
        consumers: parse::number(take("consumers"))?,
        lag: match take("lag") {
            Value::Nil => None,
            lag => Some(parse::number(lag)?),
        },
    })
}

/// The fields of a group's state; none where there is no state.
fn look(state: Value, dead: u64, replays: u64) -> Parsed<Option<GroupLook>> {
    let fields = fields(state)?;
    let text = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let number = |name: &str| Ok(parse::maybe::<u64>(text(name), "a number")?.unwrap_or_default());
    let Some(at) = parse::maybe::<EntryId>(text("at"), "an entry id")? else { return Ok(None) };
    let mut attempts = Vec::new();
    let mut queue = QueueLook::default();
    let mut in_flight: BTreeMap<&str, u64> = BTreeMap::new();
    for (field, text) in &fields {
        if let Some(id) = field.strip_prefix("attempts:") {
            let id: EntryId = id.parse().map_err(|_| Unexpected("an entry id"))?;
            attempts.extend(parse::maybe::<u32>(text, "a number")?.filter(|_| id > at).map(|count| (id, count)));
        } else if let Some((epoch, _)) = field.strip_prefix("chunk:").and_then(|chunk| chunk.split_once('.')) {
            *in_flight.entry(epoch).or_default() += flight(text)?.0;
        }
    }
    attempts.sort_unstable();
    for (field, says) in &fields {
        if let Some(owner) = field.strip_prefix("consumer:") {
            let epoch = says.trim_start_matches("dead ").split(' ').next().unwrap_or_default();
            queue.consumers.push((owner.to_owned(), in_flight.remove(epoch).unwrap_or_default()));
        }
    }
    // Entries of consumers whose fields were deleted are in flight all the same.
    queue.consumers.extend(in_flight.into_iter().map(|(epoch, count)| (format!("orphan/{epoch}"), count)));
    let waits = text("waits").split_once(' ').map_or("", |(_, count)| count);
    queue.waiting = parse::maybe(waits, "a number")?.unwrap_or_default();
    let needs = match text("needs") {
        "" => None,
        needs => Some(parse::need(needs)?),
    };
    Ok(Some(GroupLook {
        lease: LeaseView { owner: text("owner").to_owned(), epoch: number("epoch")?, beat: number("beat")? },
        lease_for: Duration::from_millis(number("lease")?),
        at,
        seen: parse::maybe(text("seen"), "a number")?,
        needs,
        attempts,
        error: error(text("error")),
        queue: (text("mode") == "queue").then_some(queue),
        dead,
        replays,
    }))
}

/// `1767225600007 1767225600000-0 2 the bank is closed`: when, the entry, failed attempts, the text. Another form is that of a
/// later build, and no error that could be shown.
fn error(text: &str) -> Option<(AttemptError, u64)> {
    let mut words = text.splitn(4, ' ');
    let (at, entry, attempts) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((AttemptError::new(entry, attempts, words.next()?), at))
}

/// The reply of ZRANGE with scores. Outside a script scores are text or floating numbers.
fn scored(reply: Value) -> Parsed<Vec<Member>> {
    let whole = |value| match value {
        // A beat is a whole number of milliseconds or of calls.
        Value::Double(beat) => Value::Int(beat as i64),
        value => value,
    };
    let pairs = match reply {
        // RESP3 has an array of pairs.
        Value::Array(items) if matches!(items.first(), Some(Value::Array(_))) => {
            let pair = |item| match <[Value; 2]>::try_from(parse::array(item)?) {
                Ok([member, beat]) => Ok([member, whole(beat)]),
                Err(_) => Err(Unexpected("a member and its beat")),
            };
            Value::Array(items.into_iter().map(pair).collect::<Parsed<Vec<_>>>()?.into_iter().flatten().collect())
        }
        reply => reply,
    };
    list(pairs)
}
