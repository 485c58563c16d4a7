//! Streams on a server: the commands on a partition's key, and the scripts that read it at one moment.

use std::time::Duration;

use redis::{Value, cmd};
use streams_core::broker::{
    BrokerErrorKind, Durable, Entries, Extent, Fields, Log, Page, Reply, SNAPSHOT_BYTES, Snapshot, Tail,
};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
use streams_core::{Durability, EntryId};

use super::append::{add, added};
use super::call::{Call, Effect, explain, unexpected};
use super::parse::{self, Answer, Parsed, Unexpected};
use super::scripts;
use super::server::{Redis, ask, each, limit, on, on_key};
use super::tail::RedisTail;
use crate::broker::checks::{check_entries, check_partitions, check_strays};

impl Log for Redis {
    fn declare<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, ()> {
        Box::pin(async move {
            let key = &stream.properties();
            let (mut get, mut set) = (cmd("HGET"), cmd("HSETNX"));
            get.arg(key).arg("partitions");
            set.arg(key).arg("partitions").arg(stream.partitions());
            let (reading, writing) = (
                Call { command: "HGET", key, effect: Effect::Read },
                Call { command: "HSETNX", key, effect: Effect::Idempotent },
            );
            // Read first, because a full server refuses the write, and nearly always there is nothing to write.
            let mut recorded = self.command(reading, &get).await?;
            if recorded == Value::Nil {
                match self.strays(stream).await {
                    // The user has the rights of an older version. A later check reports the strays.
                    Err(error) if error.kind() == BrokerErrorKind::Refused => {}
                    strays => check_strays(stream, &strays?)?,
                }
                self.command(writing, &set).await?;
                recorded = self.command(reading, &get).await?;
            }
            let recorded = parse::number(recorded).map_err(unexpected(reading))?;
            check_partitions(stream, recorded)
        })
    }

    fn strays<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Vec<(PartitionKey, u64)>> {
        Box::pin(async move {
            let call = Call { command: "XLEN", key: stream.base(), effect: Effect::Read };
            let keys: Vec<_> = stream.strays().collect();
            // One command for a thousand keys, nearly all of which do not exist.
            let mut exist = cmd("EXISTS");
            exist.arg(keys.iter().map(PartitionKey::as_str).collect::<Vec<_>>());
            let existing = self.command(Call { command: "EXISTS", ..call }, &exist).await?;
            if parse::number(existing).map_err(unexpected(call))? == 0 {
                return Ok(Vec::new());
            }
            let mut lengths = redis::pipe();
            for key in &keys {
                lengths.cmd("XLEN").arg(key.as_str());
            }
            let mut strays = Vec::new();
            for (key, reply) in keys.into_iter().zip(each(&self.commands, call, &mut lengths, None).await?) {
                let call = Call { key: key.as_str(), ..call };
                let length = match reply {
                    Err(error) if error.code() == Some("WRONGTYPE") => continue,
                    reply => parse::number(reply.map_err(|error| explain(call, error))?).map_err(unexpected(call))?,
                };
                if length > 0 {
                    strays.push((key, length));
                }
            }
            Ok(strays)
        })
    }

    fn partitions<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Option<u32>> {
        Box::pin(async move {
            let key = &stream.properties();
            let call = Call { command: "HGET", key, effect: Effect::Read };
            let mut get = cmd("HGET");
            get.arg(key).arg("partitions");
            let recorded = match self.command(call, &get).await? {
                Value::Nil => return Ok(None),
                recorded => parse::number(recorded).map_err(unexpected(call))?,
            };
            let unread = |_| unexpected(call)(Unexpected("a number of partitions"));
            u32::try_from(recorded).map(Some).map_err(unread)
        })
    }

    fn append_durably<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
        durability: Option<Durability>,
        wait: Duration,
    ) -> Reply<'a, Durable> {
        Box::pin(async move {
            check_entries(&entries)?;
            if entries.is_empty() {
                return Ok(Durable { ids: Vec::new(), missing: None });
            }
            if let Some(durability) = durability {
                return self.durable.append(partition, &entries, floor, durability, wait).await;
            }
            let call = Call { command: "XADD", key: partition.as_str(), effect: Effect::Once };
            let entries = &entries;
            let run = |mut connection| async move { add(&mut connection, partition, entries, floor).await };
            Ok(Durable { ids: added(call, self.commands.run(call, run).await?)?, missing: None })
        })
    }

    fn trim_below<'a>(&'a self, partition: &'a PartitionKey, floor: EntryId) -> Reply<'a, u64> {
        Box::pin(async move {
            let call = Call { command: "XTRIM", key: partition.as_str(), effect: Effect::Idempotent };
            // Whole nodes first, at most ten thousand entries; then the one node that contains the floor.
            for how in ["~", "="] {
                let mut command = cmd("XTRIM");
                command.arg(partition.as_str()).arg("MINID").arg(how).arg(floor.to_string());
                let trimmed = on_key(&self.commands, call, &command).await?;
                if trimmed == Value::Nil {
                    return Ok(0);
                }
                let trimmed = parse::number(trimmed).map_err(unexpected(call))?;
                if trimmed > 0 {
                    return Ok(trimmed);
                }
            }
            Ok(0)
        })
    }

    fn extent<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Extent>> {
        Box::pin(async move {
            let call = Call { command: "XINFO STREAM", key: partition.as_str(), effect: Effect::Read };
            let mut command = cmd("XINFO");
            command.arg("STREAM").arg(partition.as_str());
            // The reply holds the first and the last entry, which may be large.
            let reply = on_key(&self.reads, call, &command).await?;
            if reply == Value::Nil {
                return Ok(None);
            }
            extent(reply).map(Some).map_err(unexpected(call))
        })
    }

    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
        Box::pin(self.range(partition.as_str(), after, count))
    }

    fn page<'a>(&'a self, partition: &'a PartitionKey, from: EntryId, count: usize, bytes: usize) -> Reply<'a, Page> {
        let call = Call { command: "reading a page", key: partition.as_str(), effect: Effect::Read };
        let mut script = scripts::PAGE.key(partition.as_str());
        script.arg(from.to_string()).arg(limit(count)).arg(limit(bytes));
        // Its reply may be large.
        Box::pin(ask(&self.reads, call, script, page))
    }

    fn snapshot<'a>(&'a self, group: &'a GroupKey, from: EntryId, count: usize) -> Reply<'a, Snapshot> {
        let call = Call { command: "taking a snapshot", key: group.partition().as_str(), effect: Effect::Read };
        let mut script = on(&scripts::SNAPSHOT, group);
        script.arg(from.to_string()).arg(limit(count)).arg(SNAPSHOT_BYTES);
        // Its reply may be large.
        Box::pin(ask(&self.reads, call, script, snapshot))
    }

    fn read_back<'a>(&'a self, partition: &'a PartitionKey, before: EntryId, count: usize) -> Reply<'a, Entries> {
        Box::pin(async move {
            // An open interval below the lowest id is an error to the server.
            if before == EntryId::ZERO || count == 0 {
                return Ok(Vec::new());
            }
            let mut command = cmd("XREVRANGE");
            command.arg(partition.as_str()).arg(format!("({before}")).arg("-").arg("COUNT").arg(limit(count));
            self.entries(Call { command: "XREVRANGE", key: partition.as_str(), effect: Effect::Read }, &command).await
        })
    }

    fn tail(&self) -> Reply<'_, Box<dyn Tail>> {
        Box::pin(async move { Ok(Box::new(RedisTail::new(&self.target, &self.commands)) as Box<dyn Tail>) })
    }
}

pub(super) fn extent(reply: Value) -> Parsed<Extent> {
    let mut info = parse::named(reply)?;
    let mut take = |name| info.remove(name).unwrap_or_default();
    let first = match parse::array(take("first-entry"))?.into_iter().next() {
        Some(id) => Some(parse::id(id)?),
        None => None,
    };
    Ok(Extent {
        first,
        last: parse::id(take("last-generated-id"))?,
        length: parse::number(take("length"))?,
        added: parse::number(take("entries-added"))?,
    })
}

fn page(answer: &mut Answer) -> Parsed<Page> {
    if answer.word != "page" {
        return Err(Unexpected("a page"));
    }
    let complete = answer.number()? == 1;
    Ok(Page { entries: parse::entries(answer.value()?)?, complete })
}

fn snapshot(answer: &mut Answer) -> Parsed<Snapshot> {
    match answer.word.as_str() {
        "no stream" => Ok(Snapshot { extent: None, marker: false, deleted: None, entries: Vec::new(), complete: true }),
        "stream" => {
            let first = answer.maybe("an entry id")?;
            let (last, length, added) = (answer.id()?, answer.number()?, answer.number()?);
            let extent = Some(Extent { first, last, length, added });
            let (marker, deleted) = (answer.number()? == 1, answer.maybe("an entry id")?);
            let complete = answer.number()? == 1;
            Ok(Snapshot { extent, marker, deleted, entries: parse::entries(answer.value()?)?, complete })
        }
        _ => Err(Unexpected("a snapshot")),
    }
}
