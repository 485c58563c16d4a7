//! How processes find each other on a server: sets of members, and the notes beside a stream.

use std::time::Duration;

use redis::{Value, cmd};
use streams_core::broker::{Answer as AnswerOf, Attendance, MAX_MEMBERS, Member, Members, Notes, Reply};
use streams_core::keys::{SnapshotKey, StreamKey};

use super::call::{Call, Effect, explain, understood, unexpected};
use super::line::Connection;
use super::parse::{self, Answer, Parsed, Unexpected};
use super::scripts;
use super::server::{Redis, each};
use crate::clock::millis;

impl Members for Redis {
    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<AnswerOf<Vec<Member>>>> {
        Box::pin(async move {
            let call = |set: &'a Attendance| {
                let key = set.members.as_str();
                Call { command: "reading the members of a group", key, effect: Effect::Idempotent }
            };
            let Some(first) = sets.first() else { return Ok(Vec::new()) };
            let mut visits = redis::pipe();
            for Attendance { members, present, absent } in sets {
                let visit = visits.cmd("EVALSHA").arg(scripts::ATTEND.get_hash()).arg(1).arg(members);
                visit.arg(MAX_MEMBERS).arg(present.as_deref().unwrap_or_default());
                for (member, beat) in absent {
                    visit.arg(member).arg(beat.map_or_else(String::new, |beat| beat.to_string()));
                }
            }
            let replies = each(&self.commands, call(first), &mut visits, Some(&scripts::ATTEND)).await?;
            let answers = replies.into_iter().zip(sets).map(|(reply, set)| {
                let reply = reply.map_err(|error| explain(call(set), error))?;
                members(&mut understood(call(set), reply)?).map_err(unexpected(call(set)))
            });
            Ok(answers.collect())
        })
    }

    fn notes<'a>(&'a self, stream: &'a StreamKey, write: &'a Notes, gone: &'a [String]) -> Reply<'a, Notes> {
        Box::pin(async move {
            let key = &stream.builds();
            let mut get = cmd("HGETALL");
            get.arg(key);
            if write.is_empty() && gone.is_empty() {
                let call = Call { command: "HGETALL", key, effect: Effect::Read };
                return parse::texts(self.command(call, &get).await?).map_err(unexpected(call));
            }
            let call = Call { command: "HSET", key, effect: Effect::Idempotent };
            let mut transaction = redis::pipe();
            transaction.atomic().add_command(get);
            if !write.is_empty() {
                transaction.cmd("HSET").arg(key).arg(write);
            }
            if !gone.is_empty() {
                transaction.cmd("HDEL").arg(key).arg(gone);
            }
            let transaction = &transaction;
            let run = |mut connection: Connection| async move {
                connection.check_transactions().await?;
                transaction.query_async::<Value>(&mut connection).await
            };
            let replies = parse::array(self.commands.run(call, run).await?).map_err(unexpected(call))?;
            parse::texts(replies.into_iter().next().unwrap_or_default()).map_err(unexpected(call))
        })
    }

    fn pauses<'a>(&'a self, groups: &'a [(StreamKey, String)]) -> Reply<'a, Vec<AnswerOf<Option<String>>>> {
        Box::pin(async move {
            let call = Call { command: "HGET", key: "", effect: Effect::Read };
            if groups.is_empty() {
                return Ok(Vec::new());
            }
            let mut looks = redis::pipe();
            for (stream, group) in groups {
                looks.cmd("HGET").arg(stream.properties()).arg(paused(group));
            }
            let replies = each(&self.commands, call, &mut looks, None).await?.into_iter().zip(groups);
            let answers = replies.map(|(reply, (stream, _))| {
                let key = &stream.properties();
                match reply.map_err(|error| explain(Call { key, ..call }, error))? {
                    Value::Nil => Ok(None),
                    pause => parse::lossy(pause).map(Some).map_err(unexpected(Call { key, ..call })),
                }
            });
            Ok(answers.collect())
        })
    }

    fn pause<'a>(&'a self, stream: &'a StreamKey, group: &'a str, pause: Option<&'a str>) -> Reply<'a, bool> {
        Box::pin(async move {
            let key = &stream.properties();
            // Both commands answer how many fields there are more, or fewer.
            let name = if pause.is_some() { "HSET" } else { "HDEL" };
            let mut command = cmd(name);
            command.arg(key).arg(paused(group)).arg(pause);
            let call = Call { command: name, key, effect: Effect::Idempotent };
            let changed = parse::number(self.command(call, &command).await?).map_err(unexpected(call))?;
            Ok((changed == 0) == pause.is_some())
        })
    }

    fn claim_save<'a>(&'a self, key: &'a SnapshotKey, every: Duration) -> Reply<'a, bool> {
        Box::pin(async move {
            let key = &key.claim();
            let mut command = cmd("SET");
            command.arg(key).arg(1).arg("NX").arg("PX").arg(millis(every));
            // Where the first answer was lost, the next one denies the claim: one snapshot less.
            let call = Call { command: "SET", key, effect: Effect::Idempotent };
            Ok(self.command(call, &command).await? != Value::Nil)
        })
    }

    fn save<'a>(&'a self, key: &'a SnapshotKey, snapshot: Vec<u8>) -> Reply<'a, ()> {
        Box::pin(async move {
            let call = Call { command: "SET", key: key.as_str(), effect: Effect::Idempotent };
            let mut command = cmd("SET");
            command.arg(key.as_str()).arg(snapshot);
            self.command(call, &command).await.map(drop)
        })
    }

    fn saved<'a>(&'a self, key: &'a SnapshotKey) -> Reply<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let call = Call { command: "GET", key: key.as_str(), effect: Effect::Read };
            let mut command = cmd("GET");
            command.arg(key.as_str());
            match self.command(call, &command).await? {
                Value::Nil => Ok(None),
                saved => parse::bytes(saved).map(Some).map_err(unexpected(call)),
            }
        })
    }
}

/// The property of a stream that says that a group is paused.
fn paused(group: &str) -> String {
    format!("paused:{group}")
}

fn members(answer: &mut Answer) -> Parsed<Vec<Member>> {
    if answer.word != "members" {
        return Err(Unexpected("members"));
    }
    list(answer.value()?)
}

/// The reply of ZRANGE with scores; RESP3 has pairs, with numbers for scores.
pub(super) fn list(reply: Value) -> Parsed<Vec<Member>> {
    let member = |(says, beat)| Ok(Member { says: parse::text(says)?, beat: parse::number(beat)? });
    parse::pairs(reply)?.into_iter().map(member).collect()
}
