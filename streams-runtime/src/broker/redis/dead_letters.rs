//! Dead letters on a server: the streams of a group's dead letters and replays, and the scripts that move letters.

use redis::cmd;
use streams_core::EntryId;
use streams_core::broker::{Entries, Fields, Holder, Letters, Moved, Replay, ReplayEnd, Reply, Taken};
use streams_core::keys::GroupKey;

use super::call::{Call, Effect, unexpected};
use super::parse::{self, Answer, Parsed, Unexpected};
use super::scripts;
use super::server::{Redis, ask, on, texts, yes};
use crate::broker::checks::{check_letter, check_replay_end};

impl Letters for Redis {
    fn dead_letters<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
        Box::pin(async move { self.range(&group.dead(), after, count).await })
    }

    fn discard<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId]) -> Reply<'a, u64> {
        Box::pin(async move {
            if ids.is_empty() {
                return Ok(0);
            }
            let key = &group.dead();
            let call = Call { command: "XDEL", key, effect: Effect::Once };
            let mut command = cmd("XDEL");
            command.arg(key).arg(texts(ids));
            parse::number(self.command(call, &command).await?).map_err(unexpected(call))
        })
    }

    fn replay<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId], most: u64) -> Reply<'a, Moved> {
        // Sent again automatically, it would answer that there was nothing to move.
        let mut script = on(&scripts::REPLAY, group);
        script.key(group.dead()).key(group.replay()).arg(most).arg(0).arg(texts(ids));
        Box::pin(ask(&self.commands, Call::on(group, "replaying dead letters", Effect::Once), script, moved))
    }

    fn replay_edited<'a>(
        &'a self,
        group: &'a GroupKey,
        id: EntryId,
        fields: &'a Fields,
        most: u64,
    ) -> Reply<'a, Moved> {
        Box::pin(async move {
            check_letter(fields)?;
            let mut script = on(&scripts::REPLAY_EDITED, group);
            script.key(group.dead()).key(group.replay()).arg(most);
            script.arg(fields.len() * 2).arg(fields).arg(id.to_string());
            let call = Call::on(group, "replaying an edited dead letter", Effect::Once);
            ask(&self.commands, call, script, moved).await
        })
    }

    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
        Box::pin(async move { self.range(&group.replay(), after, count).await })
    }

    fn take_replay<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, Taken> {
        let mut script = on(&scripts::TAKE_REPLAY, group);
        script.key(group.replay()).arg(&holder.owner).arg(holder.epoch);
        Box::pin(ask(&self.commands, Call::on(group, "taking a replay", Effect::Idempotent), script, taken))
    }

    fn end_replay<'a>(
        &'a self,
        group: &'a GroupKey,
        holder: &'a Holder,
        id: EntryId,
        end: &'a ReplayEnd,
    ) -> Reply<'a, bool> {
        Box::pin(async move {
            check_replay_end(end)?;
            let mut script = on(&scripts::END_REPLAY, group);
            script.key(group.replay()).key(group.dead());
            script.arg(&holder.owner).arg(holder.epoch).arg(id.to_string());
            match end {
                ReplayEnd::Done => script.arg("done"),
                ReplayEnd::Again { attempts } => script.arg("again").arg(*attempts),
                ReplayEnd::Dead(fields) => script.arg("dead").arg(fields),
            };
            ask(&self.commands, Call::on(group, "ending a replay", Effect::Idempotent), script, yes).await
        })
    }
}

fn moved(answer: &mut Answer) -> Parsed<Moved> {
    Ok(match answer.word.as_str() {
        "moved" => {
            let mut ids = Vec::new();
            while let Ok(id) = answer.value() {
                ids.push(parse::id(id)?);
            }
            Moved::Done(ids)
        }
        "full" => Moved::Full { waiting: answer.number()? },
        "missing" => Moved::Missing,
        _ => return Err(Unexpected("what came of a replay")),
    })
}

fn taken(answer: &mut Answer) -> Parsed<Taken> {
    let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(match answer.word.as_str() {
        "letter" => {
            let (attempts, crashes) = (count(answer.number()?), count(answer.number()?));
            let letter = parse::only(answer.value()?)?.ok_or(Unexpected("a letter"))?;
            Taken::Letter(Replay { letter, attempts, crashes })
        }
        "nothing" => Taken::Nothing,
        "gone" => Taken::Gone,
        "fenced" => Taken::Fenced,
        _ => return Err(Unexpected("a replay")),
    })
}
