//! Groups on a server: the hash of a group's state, the scripts that change it, and its lease.

use std::time::Duration;

use redis::{Cmd, RedisResult, ScriptInvocation, Value, cmd};
use streams_core::broker::{
    Acquired, Adopted, Adoption, Answer as AnswerOf, BrokerError, BrokerErrorKind, Change, Claim, Commit, Committed,
    Consumed, Created, Events, GroupState, Groups, Holder, Holding, LeaseView, Need, Recovery, RecoveryStep, Remember,
    Renewal, Renewed, Renewer, Reply, Reset,
};
use streams_core::keys::{self, GroupKey, PartitionKey};
use streams_core::{EntryId, Start};

use super::call::{Call, Effect, explain, unexpected};
use super::connection::{FOR_COMMANDS, Link};
use super::parse::{self, Answer, Parsed, Unexpected};
use super::server::{Redis, ask, each, error_text, mode, on, on_key, texts, yes};
use super::{queue, scripts};
use crate::broker::checks::{BELL_LENGTH, MOST_NAMED, check_commit, check_owner};
use crate::clock::millis;

impl Groups for Redis {
    fn groups<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Vec<String>>> {
        Box::pin(async move {
            let call = Call { command: "XINFO GROUPS", key: partition.as_str(), effect: Effect::Read };
            let mut command = cmd("XINFO");
            command.arg("GROUPS").arg(partition.as_str());
            match on_key(&self.commands, call, &command).await? {
                Value::Nil => Ok(None),
                groups => parse::group_names(groups).map(Some).map_err(unexpected(call)),
            }
        })
    }

    fn consumed<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Consumed>> {
        Box::pin(async move {
            let names = self.groups(partition).await?.unwrap_or_default();
            // Another program's group, whose position is not known.
            if names.is_empty() || names.iter().any(|name| keys::check_group(name).is_err()) {
                return Ok(None);
            }
            let mut checkpoints = redis::pipe();
            for name in &names {
                let state = partition.group(name);
                checkpoints.cmd("HGET").arg(state.state()).arg("at").cmd("HGET").arg(state.state()).arg("mode");
            }
            let checkpoints = &checkpoints;
            let call = Call { command: "HGET", key: partition.as_str(), effect: Effect::Read };
            let run = |mut connection| async move { checkpoints.query_async::<Vec<Value>>(&mut connection).await };
            let mut replies = self.commands.run(call, run).await?.into_iter();
            let mut checkpoints = Vec::with_capacity(names.len());
            let mut queues = Vec::new();
            for name in names {
                let (at, mode) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
                // A group without a state is another program's, too.
                if at == Value::Nil {
                    return Ok(None);
                }
                if mode == Value::BulkString(b"queue".to_vec()) {
                    queues.push(name);
                    continue;
                }
                checkpoints.push((parse::id(at).map_err(unexpected(call))?, name));
            }
            // Read after the checkpoints, because entries given out in between are above them.
            for name in queues {
                let Some(at) = queue::settled(self, &partition.group(&name)).await? else { return Ok(None) };
                checkpoints.push((at, name));
            }
            let slowest = checkpoints.into_iter().min();
            Ok(slowest.map(|(at, slowest)| Consumed { at, slowest }))
        })
    }

    fn states<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<AnswerOf<Option<GroupState>>>> {
        Box::pin(async move {
            let Some(first) = groups.first() else { return Ok(Vec::new()) };
            let mut looks = redis::pipe();
            for group in groups {
                looks.add_command(read_state(group));
            }
            let replies = each(&self.commands, reading(first), &mut looks, None).await?;
            let answers = replies
                .into_iter()
                .zip(groups)
                .map(|(reply, group)| state(group, reply.map_err(|error| explain(reading(group), error))?));
            Ok(answers.collect())
        })
    }

    fn create<'a>(&'a self, group: &'a GroupKey, start: Start) -> Reply<'a, Created> {
        let (start, from) = words(start);
        let mut script = on(&scripts::CREATE, group);
        queue::keys(&mut script, group);
        script.arg(start).arg(from).arg(mode(group));
        Box::pin(ask(&self.commands, Call::on(group, "creating a group", Effect::Idempotent), script, created))
    }

    fn adopt<'a>(&'a self, group: &'a GroupKey, quiet: Duration) -> Reply<'a, Adopted> {
        let mut script = on(&scripts::ADOPT, group);
        queue::keys(&mut script, group);
        script.arg(millis(quiet)).arg(MOST_NAMED).arg(mode(group));
        Box::pin(ask(&self.commands, Call::on(group, "adopting a group", Effect::Idempotent), script, adopted))
    }

    fn acquire<'a>(&'a self, group: &'a GroupKey, claim: &'a Claim) -> Reply<'a, Acquired> {
        Box::pin(async move {
            check_owner(&claim.owner)?;
            let Claim { owner, lease_for, seen, own, bound } = claim;
            let mut script = on(&scripts::ACQUIRE, group);
            script.arg(owner).arg(millis(*lease_for)).arg(&seen.owner).arg(seen.epoch).arg(seen.beat);
            script.arg(u8::from(*own)).arg(*bound);
            ask(&self.commands, Call::on(group, "taking a lease", Effect::Idempotent), script, acquired).await
        })
    }

    fn commit<'a>(&'a self, group: &'a GroupKey, commit: &'a Commit) -> Reply<'a, Committed> {
        Box::pin(async move {
            check_commit(commit)?;
            let call = Call::on(group, "committing", Effect::Idempotent);
            ask(&self.commands, call, commit_script(group, commit), committed).await
        })
    }

    fn remembered<'a>(&'a self, group: &'a GroupKey, ids: &'a [String]) -> Reply<'a, Vec<Option<u64>>> {
        Box::pin(async move {
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            let key = &group.settled();
            let call = Call { command: "ZMSCORE", key, effect: Effect::Read };
            let mut looks = redis::pipe();
            looks.cmd("HMGET").arg(group.state()).arg("reset").cmd("ZMSCORE").arg(key).arg(ids);
            let mut numbers = Vec::with_capacity(2);
            for reply in each(&self.commands, call, &mut looks, None).await? {
                let reply = reply.map_err(|error| explain(call, error))?;
                let number = |value| if value == Value::Nil { Ok(None) } else { parse::number(value).map(Some) };
                let found: Parsed<Vec<_>> = parse::array(reply).and_then(|all| all.into_iter().map(number).collect());
                numbers.push(found.map_err(unexpected(call))?);
            }
            let times = numbers.pop().unwrap_or_default();
            let reset = numbers.pop().and_then(|reset| reset.first().copied().flatten()).unwrap_or_default();
            Ok(times.into_iter().map(|time| time.filter(|time| *time > reset)).collect())
        })
    }

    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: Option<&'a Need>) -> Reply<'a, bool> {
        if group.is_queue() {
            let call = Call::on(group, "leaving a work queue", Effect::Once);
            let left = |answer: &mut Answer| Ok(answer.word == "all");
            return Box::pin(ask(&self.commands, call, queue::leave_script(group, holder), left));
        }
        let command = if needs.is_none() { "releasing a lease" } else { "handing a lease over" };
        let script = release_script(group, holder, needs);
        Box::pin(ask(&self.commands, Call::on(group, command, Effect::Once), script, yes))
    }

    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset> {
        let (start, from) = words(to);
        let mut script = on(&scripts::RESET, group);
        queue::keys(&mut script, group);
        script.key(group.partition().bell()).arg(seen.map_or_else(String::new, |epoch| epoch.to_string()));
        script.arg(start).arg(from).arg(BELL_LENGTH).arg(mode(group));
        Box::pin(ask(&self.commands, Call::on(group, "resetting a group", Effect::Once), script, reset))
    }

    fn declare_events<'a>(&'a self, group: &'a GroupKey, change: &'a Change) -> Reply<'a, Option<Events>> {
        let mut script = on(&scripts::DECLARE_EVENTS, group);
        script.arg(events_text(&change.declares)).arg(change.forgets.join(" "));
        script.arg(change.met.as_ref().map_or_else(String::new, need_text));
        Box::pin(ask(&self.commands, Call::on(group, "declaring events", Effect::Idempotent), script, declared))
    }

    fn resume<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, bool> {
        Box::pin(async move {
            let (mut before, reading) = (cmd("HMGET"), reading(group));
            before.arg(group.state()).arg("resume");
            let before = parse::array(self.command(reading, &before).await?).map_err(unexpected(reading))?;
            let mut script = scripts::RESUME.key(group.state());
            match before.into_iter().next() {
                Some(Value::Nil) | None => script.arg(""),
                Some(before) => script.arg(parse::number(before).map_err(unexpected(reading))?),
            };
            ask(&self.commands, Call::on(group, "resuming a group", Effect::Idempotent), script, yes).await
        })
    }

    fn remove<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>) -> Reply<'a, bool> {
        let mut script = on(&scripts::REMOVE, group);
        script.key(group.dead()).key(group.replay()).key(group.waiting()).key(group.settled());
        script.arg(seen.map_or_else(String::new, |epoch| epoch.to_string()));
        Box::pin(ask(&self.commands, Call::on(group, "removing a group", Effect::Idempotent), script, yes))
    }

    fn renewal(&self) -> Renewal {
        Renewal::OwnThread
    }

    fn renewer(&self) -> Reply<'_, Box<dyn Renewer>> {
        Box::pin(async move { Ok(Box::new(Link::new(&self.target, FOR_COMMANDS)) as Box<dyn Renewer>) })
    }
}

impl Renewer for Link {
    fn renew<'a>(&'a mut self, leases: &'a [(GroupKey, Holder)]) -> Reply<'a, Vec<Renewed>> {
        Box::pin(async move {
            let Some((first, _)) = leases.first() else { return Ok(Vec::new()) };
            let call = Call { command: "renewing leases", key: first.state(), effect: Effect::Idempotent };
            let mut renewals = redis::pipe();
            for (group, holder) in leases {
                let hash = scripts::RENEW.get_hash();
                renewals.cmd("EVALSHA").arg(hash).arg(1).arg(group.state()).arg(&holder.owner).arg(holder.epoch);
            }
            let replies = each(self, call, &mut renewals, Some(&scripts::RENEW)).await?;
            let renewed = |reply: RedisResult<Value>| {
                let reply = reply.map_err(|error| explain(call, error))?;
                Answer::new(reply).and_then(|mut answer| renewed(&mut answer)).map_err(unexpected(call))
            };
            replies.into_iter().map(renewed).collect()
        })
    }
}

fn renewed(answer: &mut Answer) -> Parsed<Renewed> {
    Ok(match answer.word.as_str() {
        "yes" => Renewed::Held { replays: answer.number()? == 1 },
        _ => Renewed::Lost,
    })
}

/// The fields of a group's state that this module reads.
const STATE: [&str; 9] = ["owner", "epoch", "beat", "lease", "at", "reset", "resume", "events", "needs"];

fn reading(group: &GroupKey) -> Call<'_> {
    Call::on(group, "HMGET", Effect::Read)
}

fn read_state(group: &GroupKey) -> Cmd {
    let mut command = cmd("HMGET");
    command.arg(group.state()).arg(&STATE);
    command
}

fn state(group: &GroupKey, reply: Value) -> Result<Option<GroupState>, BrokerError> {
    let fields = parse::array(reply).map_err(unexpected(reading(group)))?;
    if fields.iter().all(|field| *field == Value::Nil) {
        return Ok(None);
    }
    let mut fields = STATE.into_iter().zip(fields.into_iter().chain(std::iter::repeat(Value::Nil)));
    let mut field = || fields.next().unwrap_or_default();
    let owner = whole(group, field(), parse::text, None)?;
    let lease = LeaseView {
        owner,
        epoch: whole(group, field(), parse::number, None)?,
        beat: whole(group, field(), parse::number, None)?,
    };
    let lease_for = Duration::from_millis(whole(group, field(), parse::number, None)?);
    let at = whole(group, field(), parse::id, None)?;
    let reset = whole(group, field(), parse::number, Some(0))?;
    let resume = whole(group, field(), parse::number, Some(0))?;
    let events = whole(group, field(), |value| Ok(parse::events(&parse::text(value)?)), Some(Events::new()))?;
    let needs = whole(group, field(), |value| Ok(Some(parse::need(&parse::text(value)?)?)), Some(None))?;
    Ok(Some(GroupState { lease, lease_for, at, reset, resume, events, needs }))
}

/// A field of a group's state. A malformed one was written by somebody else, and stays so until somebody repairs it.
fn whole<T>(
    group: &GroupKey,
    (field, value): (&str, Value),
    read: impl FnOnce(Value) -> Parsed<T>,
    missing: Option<T>,
) -> Result<T, BrokerError> {
    if let (Value::Nil, Some(missing)) = (&value, missing) {
        return Ok(missing);
    }
    let seen = match parse::lossy(value.clone()) {
        Ok(text) => format!("`{}`", text.chars().take(64).flat_map(char::escape_debug).collect::<String>()),
        Err(_) => "missing".to_owned(),
    };
    read(value).map_err(|Unexpected(expected)| {
        let mend = match field {
            "owner" => "set it to an empty text with HSET, which leaves the partition to whoever comes first",
            "epoch" => "set it with HSET to a number above all that it was, such as the milliseconds since 1970",
            "beat" => "set it to 0 with HSET",
            "lease" => "set it with HSET to a lease in milliseconds, such as 20000",
            "at" => "set it with HSET to the id of the last entry that the group has handled",
            _ => "remove it with HDEL",
        };
        let key = group.state();
        let message = format!(
            "the state at `{key}` is damaged: its field `{field}` is {seen}, expected {expected}; find out who else \
             writes to it, then {mend}"
        );
        BrokerError::new(BrokerErrorKind::Refused, message)
    })
}

/// The start of a group, in the scripts' form.
fn words(start: Start) -> (&'static str, String) {
    match start {
        Start::Earliest => ("earliest", String::new()),
        Start::Latest => ("latest", String::new()),
        Start::At(id) => ("at", id.to_string()),
        Start::Ago(ago) => ("ago", millis(ago).to_string()),
    }
}

fn created(answer: &mut Answer) -> Parsed<Created> {
    match answer.word.as_str() {
        "made" => Ok(Created::Made),
        "exists" => Ok(Created::Exists),
        "foreign" => Ok(Created::Foreign),
        _ => Err(Unexpected("made, exists or foreign")),
    }
}

fn adopted(answer: &mut Answer) -> Parsed<Adopted> {
    Ok(match answer.word.as_str() {
        "done" => {
            let (at, delivered, pending) = (answer.id()?, answer.id()?, answer.number()?);
            Adopted::Done(Adoption { at, delivered, pending, oldest: answer.maybe("an entry id")? })
        }
        "exists" => Adopted::Exists,
        "missing" => Adopted::Missing,
        "in use" => {
            let mut consumers = Vec::new();
            while let Ok(name) = answer.value() {
                consumers.push((parse::lossy(name)?, Duration::from_millis(answer.number()?)));
            }
            Adopted::InUse { consumers }
        }
        _ => return Err(Unexpected("what came of an adoption")),
    })
}

fn acquired(answer: &mut Answer) -> Parsed<Acquired> {
    Ok(match answer.word.as_str() {
        "held" => {
            let (epoch, at, at_event) = (answer.number()?, answer.id()?, answer.text()?);
            let seen = answer.maybe("an ordinal")?;
            let (attempts, crashes) = (counts(answer.value()?, at)?, counts(answer.value()?, at)?);
            let (left, to) = (answer.maybe("a number of events")?, answer.text()?);
            let recovery = |left| Ok(Recovery { left, to: to.parse().map_err(|_| Unexpected("an entry id"))? });
            let recovery = left.map(recovery).transpose()?;
            let events = parse::events(&answer.text()?);
            Acquired::Held(Holding { epoch, at, at_event, seen, attempts, events, recovery, crashes })
        }
        "contended" => Acquired::Contended,
        "missing" => Acquired::Missing,
        "vanished" => Acquired::Vanished { at: answer.id()? },
        "ahead" => Acquired::Ahead { at: answer.id()?, last: answer.id()? },
        "mode" => Acquired::Mode(answer.text()?),
        _ => return Err(Unexpected("what came of a claim")),
    })
}

/// The counts of events above this id.
fn counts(reply: Value, above: EntryId) -> Parsed<Vec<(EntryId, u32)>> {
    let mut counts = Vec::new();
    for pair in parse::array(reply)? {
        let mut parts = parse::array(pair)?.into_iter();
        let mut part = || parts.next().unwrap_or_default();
        let (id, count) = (parse::id(part())?, parse::number(part())?);
        if id > above {
            counts.push((id, u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }
    counts.sort_unstable();
    Ok(counts)
}

fn commit_script(group: &GroupKey, commit: &Commit) -> ScriptInvocation<'static> {
    let script = if commit.dead.is_empty() { &scripts::COMMIT } else { &scripts::COMMIT_WITH_DEAD };
    let mut invocation = on(script, group);
    invocation.key(group.dead());
    if commit.remember.is_some() {
        invocation.key(group.settled());
    }
    invocation
        .arg(&commit.holder.owner)
        .arg(commit.holder.epoch)
        .arg(commit.prev.to_string())
        .arg(commit.next.to_string())
        .arg(&commit.next_event)
        .arg(commit.seen.map_or_else(String::new, |seen| seen.to_string()))
        .arg(u8::from(commit.mirror))
        .arg(commit.dead_bounds.count)
        .arg(millis(commit.dead_bounds.age))
        .arg(commit.attempts.len())
        .arg(commit.forget.len())
        .arg(commit.dead.len())
        .arg(commit.passed_over.join(" "))
        .arg(commit.call)
        .arg(error_text(commit.error.as_ref()));
    match &commit.remember {
        Some(Remember { ids, within, most }) => {
            invocation.arg(ids.len()).arg(millis(*within)).arg(*most).arg(ids);
        }
        None => _ = invocation.arg(0).arg(0).arg(0),
    }
    for (id, count) in &commit.attempts {
        invocation.arg(id.to_string()).arg(*count);
    }
    invocation.arg(texts(&commit.forget));
    for fields in &commit.dead {
        invocation.arg(fields.len() * 2).arg(fields);
    }
    if let Some(RecoveryStep { charged, left, forget }) = &commit.recovery {
        invocation.arg(*left).arg(texts(charged).join(" ")).arg(forget.len()).arg(texts(forget));
    }
    invocation
}

fn committed(answer: &mut Answer) -> Parsed<Committed> {
    Ok(match answer.word.as_str() {
        "done" => Committed::Done,
        "fenced" => Committed::Fenced,
        "conflict" => Committed::Conflict { at: answer.id()? },
        "full" => Committed::DeadLettersFull { count: answer.number()?, oldest: answer.maybe("an entry id")? },
        "declared" => Committed::Declared { names: answer.text()?.split(' ').map(str::to_owned).collect() },
        "vanished" => Committed::Vanished,
        _ => return Err(Unexpected("what came of a commit")),
    })
}

fn release_script(group: &GroupKey, holder: &Holder, needs: Option<&Need>) -> ScriptInvocation<'static> {
    let mut invocation = on(&scripts::RELEASE, group);
    invocation
        .key(group.partition().bell())
        .arg(&holder.owner)
        .arg(holder.epoch)
        .arg(BELL_LENGTH)
        .arg(needs.map_or_else(String::new, need_text));
    invocation
}

fn reset(answer: &mut Answer) -> Parsed<Reset> {
    Ok(match answer.word.as_str() {
        "done" => Reset::Done { at: answer.id()? },
        "contended" => Reset::Contended,
        "foreign" => Reset::Foreign,
        "mode" => Reset::Mode(answer.text()?),
        _ => return Err(Unexpected("what came of a reset")),
    })
}

fn declared(answer: &mut Answer) -> Parsed<Option<Events>> {
    match answer.word.as_str() {
        "declared" => Ok(Some(parse::events(&answer.text()?))),
        "missing" => Ok(None),
        _ => Err(Unexpected("declared or missing")),
    }
}

/// Events with their versions, in the form of the state: `OrderPlaced@2 OrderShipped@1`.
fn events_text(events: &Events) -> String {
    events.iter().map(|(name, version)| format!("{name}@{version}")).collect::<Vec<_>>().join(" ")
}

/// A need, in the form of the state: `OrderShipped@1 1767225600000-0`.
fn need_text(need: &Need) -> String {
    format!("{}@{} {}", need.name, need.version, need.entry)
}
