//! The broker on a Redis or Valkey server; only this module speaks Redis. `connection` connects over a `line`, `durable` waits for
//! replicas and the disk, `scripts` change groups, `queue` speaks of work queues, `tail` waits for entries.

mod acl;
mod connection;
mod durable;
mod line;
mod parse;
mod queue;
mod scripts;
mod tail;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisResult, Script, ScriptInvocation, Value, cmd};
use streams_core::broker::{
    Acked, Acks, Acquired, Adopted, Adoption, Answer as AnswerOf, Attendance, Broker, BrokerError, BrokerErrorKind,
    Change, Claim, Commit, Committed, Consumed, Created, Damage, Durable, Events, Extent, Fetch, Fetched, Fields,
    GroupState, Holder, Holding, Joined, LeaseView, Life, Lost, MAX_MEMBERS, Member, Moved, Need, Notes, Page, Pass,
    Proof, Proving, QueueState, Reclaimed, Renewal, Renewed, Renewer, Replay, ReplayEnd, Reply, Reset, SNAPSHOT_BYTES,
    Snapshot, Tail, Taken,
};
use streams_core::codec::DEFAULT_MAX_PAYLOAD;
use streams_core::keys::{self, GroupKey, PartitionKey, StreamKey};
use streams_core::{Durability, Entry, EntryId, Start};

pub use self::acl::Acl;
use self::connection::{Call, Effect, FOR_COMMANDS, FOR_ENTRIES, Link, Target, explain, unexpected};
use self::line::Connection;
use self::parse::{Answer, Unexpected};
#[cfg(feature = "tls")]
pub use self::tls::Tls;
use super::{
    BELL_LENGTH, MOST_NAMED, check_acks, check_commit, check_entries, check_owner, check_partitions, check_replay_end,
    check_strays,
};
use crate::clock::millis;

/// A broker on a server: Redis 7.0, Valkey 7.2, or later.
///
/// Connections are made when they are needed and again after they broke: one for commands, one for reading backlogs
/// (whose large replies must not delay a commit), one a tail, one for renewals, and one for each append that waits for
/// replicas or the disk.
///
/// The rights that the server's user needs are written by [`Acl`].
pub struct Redis {
    target: Arc<Target>,
    commands: Arc<Link>,
    reads: Link,
    durable: durable::Pool,
}

impl Redis {
    /// A broker at a URL: `redis://[user:password@]host[:port][/database]` or
    /// `redis+unix:///path[?db=0&user=..&pass=..]`, with `?protocol=resp3` where that is wanted.
    ///
    /// With the feature `tls` it may be `rediss://`: then the server must show a certificate for this host that the system
    /// trusts; `Redis::open_with` takes another authority and a client certificate.
    ///
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// Says what is wrong with the URL, without repeating it.
    pub fn open(url: &str) -> Result<Self, BrokerError> {
        #[cfg(feature = "tls")]
        return Self::open_with(url, &Tls::new());
        #[cfg(not(feature = "tls"))]
        Ok(Self::at(Target::parse(url)?))
    }

    /// As [`open`](Self::open), at a `rediss://` URL, with what is said about TLS.
    ///
    /// # Errors
    /// Says what is wrong with the URL, without repeating it, and with certificates or keys, naming file or option. TLS
    /// options with a plain URL are refused, too.
    #[cfg(feature = "tls")]
    pub fn open_with(url: &str, tls: &Tls) -> Result<Self, BrokerError> {
        Ok(Self::at(Target::parse(url, tls)?))
    }

    fn at(target: Target) -> Self {
        let target = Arc::new(target);
        let commands = Arc::new(Link::new(&target, FOR_COMMANDS));
        let reads = Link::new(&target, FOR_ENTRIES);
        let durable = durable::Pool::new(&target);
        Self { target, commands, reads, durable }
    }

    async fn command(&self, call: Call<'_>, command: &Cmd) -> Result<Value, BrokerError> {
        query(&self.commands, call, command).await
    }

    /// Reads entries on the connection for large replies.
    async fn entries(&self, call: Call<'_>, command: &Cmd) -> Result<Vec<Arc<Entry>>, BrokerError> {
        parse::entries(query(&self.reads, call, command).await?).map_err(unexpected(call))
    }

    async fn range(&self, key: &str, after: EntryId, count: usize) -> Result<Vec<Arc<Entry>>, BrokerError> {
        // An open interval above the highest id is an error to the server.
        if after == EntryId::MAX || count == 0 {
            return Ok(Vec::new());
        }
        let mut command = cmd("XRANGE");
        command.arg(key).arg(format!("({after}")).arg("+").arg("COUNT").arg(limit(count));
        self.entries(Call { command: "XRANGE", key, effect: Effect::Read }, &command).await
    }

    /// Runs a script on the connection for commands.
    async fn script(&self, call: Call<'_>, invocation: &ScriptInvocation<'_>) -> Result<Answer, BrokerError> {
        self.script_on(&self.commands, call, invocation).await
    }

    /// Runs a script; its answer is a word, of which the general ones are errors.
    async fn script_on(
        &self,
        link: &Link,
        call: Call<'_>,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<Answer, BrokerError> {
        let run = |mut connection| async move { invocation.invoke_async(&mut connection).await };
        understood(call, link.run(call, run).await?)
    }
}

/// The answer of a script, unless it is one of the general words that are errors.
fn understood(call: Call<'_>, reply: Value) -> Result<Answer, BrokerError> {
    let mut answer = Answer::new(reply).map_err(unexpected(call))?;
    let unexpected = unexpected(call);
    match answer.word.as_str() {
        "wrong type" => {
            let mut text = || answer.text().map_err(&unexpected);
            let (key, found, wanted) = (text()?, text()?, text()?);
            Err(BrokerError::new(
                BrokerErrorKind::Refused,
                format!(
                    "{} needs a {wanted} at `{key}`, which holds a {found} (WRONGTYPE); rename the stream or the \
                     group, or delete the key if nobody needs it",
                    call.command
                ),
            ))
        }
        "may not" => {
            let mut text = || answer.text().map_err(&unexpected);
            let (command, key) = (text()?, text()?);
            let message = format!("{call}: the user may not run {command} on `{key}` (NOPERM); {}", connection::GRANT);
            Err(BrokerError::new(BrokerErrorKind::Refused, message))
        }
        "left" => {
            let (state, waiting) = (call.key, answer.text().map_err(&unexpected)?);
            let message = format!(
                "the state at `{state}` was deleted, and `{waiting}` holds what still waited in this work queue; nobody knows any                  more what was in flight: destroy the group (`XGROUP DESTROY`) and start again to begin anew, or delete `{waiting}`                  to give up both and go on behind what was delivered last"
            );
            Err(BrokerError::new(BrokerErrorKind::Refused, message))
        }
        "damaged" => Err(BrokerError::new(
            BrokerErrorKind::Refused,
            format!(
                "the state at `{}` is not complete: a field is missing, or is no number or entry id where it has to be; \
                 find out who else writes to it, and set the field as docs/wire-format.md says",
                call.key
            ),
        )),
        _ => Ok(answer),
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.target.shown()).finish()
    }
}

impl streams_core::broker::sealed::Sealed for Redis {}

impl Broker for Redis {
    fn describe(&self) -> String {
        self.target.shown().to_owned()
    }

    fn connect(&self) -> Reply<'_, ()> {
        Box::pin(async move {
            let call = Call { command: "SCRIPT LOAD", key: "", effect: Effect::Idempotent };
            let load = |mut connection| async move {
                for script in scripts::all() {
                    script.load_async(&mut connection).await?;
                }
                Ok(())
            };
            // Redis before 7.0 takes the flags in a script's first line for a syntax error.
            match self.commands.run(call, load).await {
                Err(error) if error.kind() == BrokerErrorKind::Protocol => Err(self.too_old(error).await),
                Err(error) => Err(error),
                Ok(()) => {
                    self.warn_of_eviction().await;
                    self.warn_of_limits().await;
                    Ok(())
                }
            }
        })
    }

    fn now(&self) -> Reply<'_, u64> {
        Box::pin(async move {
            let call = Call { command: "TIME", key: "", effect: Effect::Read };
            let reply = self.command(call, &cmd("TIME")).await?;
            let parts = || {
                let mut parts = parse::array(reply)?.into_iter();
                let mut part = || parse::number(parts.next().unwrap_or_default());
                Ok(part()? * 1000 + part()? / 1000)
            };
            parts().map_err(unexpected(call))
        })
    }

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
            // Read first: a full server refuses the write, and nearly always there is nothing to write.
            let mut recorded = self.command(reading, &get).await?;
            if recorded == Value::Nil {
                match self.strays(stream).await {
                    // The rights of an older version: whoever looks later says so.
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
            // One command for a thousand keys that nearly always are not there.
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
                transaction.cmd("HSET").arg(key);
                for (name, note) in write {
                    transaction.arg(name).arg(note);
                }
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

    fn append<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
    ) -> Reply<'a, Vec<EntryId>> {
        Box::pin(async move {
            check_entries(&entries)?;
            let call = Call { command: "XADD", key: partition.as_str(), effect: Effect::Once };
            if entries.is_empty() {
                return Ok(Vec::new());
            }
            let entries = &entries;
            let run = |mut connection| async move { add(&mut connection, partition, entries, floor).await };
            added(call, self.commands.run(call, run).await?)
        })
    }

    fn append_durably<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
        durability: Durability,
        wait: Duration,
    ) -> Reply<'a, Durable> {
        Box::pin(async move {
            check_entries(&entries)?;
            if entries.is_empty() {
                return Ok(Durable { ids: Vec::new(), missing: None });
            }
            self.durable.append(partition, &entries, floor, durability, wait).await
        })
    }

    fn trim_below<'a>(&'a self, partition: &'a PartitionKey, floor: EntryId) -> Reply<'a, u64> {
        Box::pin(async move {
            let call = Call { command: "XTRIM", key: partition.as_str(), effect: Effect::Idempotent };
            // Whole nodes first, ten thousand entries at most; then the one node in which the floor lies.
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

    fn consumed<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Consumed>> {
        Box::pin(async move {
            let names = self.groups(partition).await?.unwrap_or_default();
            // Somebody else's group, whose position we do not know.
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
                // Without a state it is somebody else's, too.
                if at == Value::Nil {
                    return Ok(None);
                }
                if mode == Value::BulkString(b"queue".to_vec()) {
                    queues.push(name);
                    continue;
                }
                checkpoints.push((parse::id(at).map_err(unexpected(call))?, name));
            }
            // Asked after the checkpoints: what was given out in between lies above them.
            for name in queues {
                let Some(at) = self.settled(&partition.group(&name)).await? else { return Ok(None) };
                checkpoints.push((at, name));
            }
            let slowest = checkpoints.into_iter().min();
            Ok(slowest.map(|(at, slowest)| Consumed { at, slowest }))
        })
    }

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

    fn page<'a>(&'a self, partition: &'a PartitionKey, from: EntryId, count: usize, bytes: usize) -> Reply<'a, Page> {
        Box::pin(async move {
            let call = Call { command: "reading a page", key: partition.as_str(), effect: Effect::Read };
            let mut invocation = scripts::PAGE.key(partition.as_str());
            invocation.arg(from.to_string()).arg(limit(count)).arg(limit(bytes));
            // Its reply may be large.
            page(self.script_on(&self.reads, call, &invocation).await?).map_err(unexpected(call))
        })
    }

    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>> {
        Box::pin(self.range(partition.as_str(), after, count))
    }

    fn snapshot<'a>(&'a self, group: &'a GroupKey, from: EntryId, count: usize) -> Reply<'a, Snapshot> {
        Box::pin(async move {
            let call = Call { command: "taking a snapshot", key: group.partition().as_str(), effect: Effect::Read };
            let mut invocation = on(&scripts::SNAPSHOT, group);
            invocation.arg(from.to_string()).arg(limit(count)).arg(SNAPSHOT_BYTES);
            // Its reply may be large.
            snapshot(self.script_on(&self.reads, call, &invocation).await?).map_err(unexpected(call))
        })
    }

    fn read_back<'a>(
        &'a self,
        partition: &'a PartitionKey,
        before: EntryId,
        count: usize,
    ) -> Reply<'a, Vec<Arc<Entry>>> {
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
        Box::pin(async move { Ok(Box::new(tail::RedisTail::new(&self.target, &self.commands)) as Box<dyn Tail>) })
    }

    fn state<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<GroupState>> {
        Box::pin(async move { state(group, self.command(reading(group), &read_state(group)).await?) })
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

    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<AnswerOf<Vec<Member>>>> {
        Box::pin(async move {
            let call = |set: &'a Attendance| {
                let key = set.members.as_str();
                Call { command: "meeting the members of a group", key, effect: Effect::Idempotent }
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
                members(understood(call(set), reply)?).map_err(unexpected(call(set)))
            });
            Ok(answers.collect())
        })
    }

    fn create<'a>(&'a self, group: &'a GroupKey, start: Start) -> Reply<'a, Created> {
        Box::pin(async move {
            let call = Call { command: "creating a group", key: group.state(), effect: Effect::Idempotent };
            let (start, from) = words(start);
            let mut invocation = on(&scripts::CREATE, group);
            queue::keys(&mut invocation, group);
            invocation.arg(start).arg(from).arg(mode(group));
            match self.script(call, &invocation).await?.word.as_str() {
                "made" => Ok(Created::Made),
                "exists" => Ok(Created::Exists),
                "foreign" => Ok(Created::Foreign),
                _ => Err(unexpected(call)(Unexpected("made, exists or foreign"))),
            }
        })
    }

    fn acquire<'a>(&'a self, group: &'a GroupKey, claim: &'a Claim) -> Reply<'a, Acquired> {
        Box::pin(async move {
            check_owner(&claim.owner)?;
            let call = Call { command: "taking a lease", key: group.state(), effect: Effect::Idempotent };
            let Claim { owner, lease_for, seen, own, bound } = claim;
            let mut invocation = on(&scripts::ACQUIRE, group);
            invocation.arg(owner).arg(millis(*lease_for)).arg(&seen.owner).arg(seen.epoch).arg(seen.beat);
            invocation.arg(u8::from(*own)).arg(*bound);
            let answer = self.script(call, &invocation).await?;
            acquired(answer).map_err(unexpected(call))
        })
    }

    fn commit<'a>(&'a self, group: &'a GroupKey, commit: &'a Commit) -> Reply<'a, Committed> {
        Box::pin(async move {
            check_commit(commit)?;
            let call = Call { command: "committing", key: group.state(), effect: Effect::Idempotent };
            let answer = self.script(call, &commit_script(group, commit)).await?;
            committed(answer).map_err(unexpected(call))
        })
    }

    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, bool> {
        Box::pin(async move {
            if group.is_queue() {
                let call = Call { command: "leaving a work queue", key: group.state(), effect: Effect::Once };
                let mut invocation = on(&scripts::LEAVE, group);
                invocation.key(group.waiting()).key(group.partition().bell());
                invocation.arg(&holder.owner).arg(holder.epoch).arg(BELL_LENGTH);
                return Ok(self.script(call, &invocation).await?.word == "yes");
            }
            let call = Call { command: "releasing a lease", key: group.state(), effect: Effect::Once };
            Ok(self.script(call, &release_script(group, holder, None)).await?.word == "yes")
        })
    }

    fn hand_over<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: &'a Need) -> Reply<'a, bool> {
        Box::pin(async move {
            let call = Call { command: "handing a lease over", key: group.state(), effect: Effect::Once };
            Ok(self.script(call, &release_script(group, holder, Some(needs))).await?.word == "yes")
        })
    }

    fn declare_events<'a>(&'a self, group: &'a GroupKey, change: &'a Change) -> Reply<'a, Option<Events>> {
        Box::pin(async move {
            let call = Call { command: "declaring events", key: group.state(), effect: Effect::Idempotent };
            let mut invocation = on(&scripts::DECLARE_EVENTS, group);
            invocation
                .arg(events_text(&change.declares))
                .arg(change.forgets.join(" "))
                .arg(change.met.as_ref().map_or_else(String::new, need_text));
            declared(self.script(call, &invocation).await?).map_err(unexpected(call))
        })
    }

    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset> {
        Box::pin(async move {
            let call = Call { command: "resetting a group", key: group.state(), effect: Effect::Once };
            let (start, from) = words(to);
            let mut invocation = on(&scripts::RESET, group);
            queue::keys(&mut invocation, group);
            invocation
                .key(group.partition().bell())
                .arg(seen.map_or_else(String::new, |epoch| epoch.to_string()))
                .arg(start)
                .arg(from)
                .arg(BELL_LENGTH)
                .arg(mode(group));
            reset(self.script(call, &invocation).await?).map_err(unexpected(call))
        })
    }

    fn resume<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, bool> {
        Box::pin(async move {
            let (mut before, reading) = (cmd("HMGET"), reading(group));
            before.arg(group.state()).arg("resume");
            let before = parse::array(self.command(reading, &before).await?).map_err(unexpected(reading))?;
            let call = Call { command: "resuming a group", key: group.state(), effect: Effect::Idempotent };
            let mut invocation = scripts::RESUME.key(group.state());
            match before.into_iter().next() {
                Some(Value::Nil) | None => invocation.arg(""),
                Some(before) => invocation.arg(parse::number(before).map_err(unexpected(reading))?),
            };
            Ok(self.script(call, &invocation).await?.word == "yes")
        })
    }

    fn adopt<'a>(&'a self, group: &'a GroupKey, quiet: Duration) -> Reply<'a, Adopted> {
        Box::pin(async move {
            let call = Call { command: "adopting a group", key: group.state(), effect: Effect::Idempotent };
            let mut invocation = on(&scripts::ADOPT, group);
            queue::keys(&mut invocation, group);
            invocation.arg(millis(quiet)).arg(MOST_NAMED).arg(mode(group));
            adopted(self.script(call, &invocation).await?).map_err(unexpected(call))
        })
    }

    fn renewal(&self) -> Renewal {
        Renewal::OwnThread
    }

    fn renewer(&self) -> Reply<'_, Box<dyn Renewer>> {
        Box::pin(async move {
            let link = Link::new(&self.target, FOR_COMMANDS);
            Ok(Box::new(RedisRenewer { link }) as Box<dyn Renewer>)
        })
    }

    fn dead_letters<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>> {
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
            command.arg(key);
            for id in ids {
                command.arg(id.to_string());
            }
            parse::number(self.command(call, &command).await?).map_err(unexpected(call))
        })
    }

    fn replay<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId], most: u64) -> Reply<'a, Moved> {
        Box::pin(async move {
            // Sent again by itself it would answer that there was nothing to move.
            let call = Call { command: "replaying dead letters", key: group.state(), effect: Effect::Once };
            let mut invocation = on(&scripts::REPLAY, group);
            invocation.key(group.dead()).key(group.replay()).arg(most);
            for id in ids {
                invocation.arg(id.to_string());
            }
            moved(self.script(call, &invocation).await?).map_err(unexpected(call))
        })
    }

    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>> {
        Box::pin(async move { self.range(&group.replay(), after, count).await })
    }

    fn take_replay<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, Taken> {
        Box::pin(async move {
            let call = Call { command: "taking a replay", key: group.state(), effect: Effect::Idempotent };
            let mut invocation = on(&scripts::TAKE_REPLAY, group);
            invocation.key(group.replay()).arg(&holder.owner).arg(holder.epoch);
            taken(self.script(call, &invocation).await?).map_err(unexpected(call))
        })
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
            let call = Call { command: "ending a replay", key: group.state(), effect: Effect::Idempotent };
            let mut invocation = on(&scripts::END_REPLAY, group);
            invocation.key(group.replay()).key(group.dead());
            invocation.arg(&holder.owner).arg(holder.epoch).arg(id.to_string());
            match end {
                ReplayEnd::Done => invocation.arg("done"),
                ReplayEnd::Again { attempts } => invocation.arg("again").arg(*attempts),
                ReplayEnd::Dead(fields) => {
                    invocation.arg("dead");
                    fields
                        .iter()
                        .fold(&mut invocation, |all, (name, value)| all.arg(name.as_slice()).arg(value.as_slice()))
                }
            };
            Ok(self.script(call, &invocation).await?.word == "yes")
        })
    }

    fn join<'a>(&'a self, group: &'a GroupKey, owner: &'a str, lease_for: Duration) -> Reply<'a, Joined> {
        Box::pin(async move {
            check_owner(owner)?;
            let call = Call { command: "joining a work queue", key: group.state(), effect: Effect::Idempotent };
            let mut invocation = on(&scripts::JOIN, group);
            invocation.arg(owner).arg(millis(lease_for)).arg(mode(group));
            let answer = self.script(call, &invocation).await?;
            if answer.word == "dead" {
                let message = format!("{call}: `{owner}` was found dead; a consumer joins with a fresh token");
                return Err(BrokerError::new(BrokerErrorKind::Refused, message));
            }
            queue::joined(answer).map_err(unexpected(call))
        })
    }

    fn fetch<'a>(&'a self, group: &'a GroupKey, fetch: &'a Fetch) -> Reply<'a, Fetched> {
        Box::pin(async move {
            let call = Call { command: "fetching entries", key: group.state(), effect: Effect::Idempotent };
            // Its reply may be large.
            let answer = self.script_on(&self.reads, call, &queue::fetch_script(group, fetch)).await?;
            queue::fetched(answer).map_err(unexpected(call))
        })
    }

    fn ack<'a>(&'a self, group: &'a GroupKey, acks: &'a Acks) -> Reply<'a, Acked> {
        Box::pin(async move {
            check_acks(acks)?;
            let call = Call { command: "acknowledging entries", key: group.state(), effect: Effect::Idempotent };
            queue::acked(self.script(call, &queue::ack_script(group, acks)).await?).map_err(unexpected(call))
        })
    }

    fn pass<'a>(&'a self, group: &'a GroupKey, pass: &'a Pass) -> Reply<'a, bool> {
        Box::pin(async move {
            let call = Call { command: "moving a cursor", key: group.state(), effect: Effect::Once };
            Ok(self.script(call, &queue::pass_script(group, pass)).await?.word == "yes")
        })
    }

    fn mend<'a>(&'a self, group: &'a GroupKey, damage: &'a Damage, halts: Option<&'a Lost>) -> Reply<'a, bool> {
        Box::pin(async move {
            let call = Call { command: "mending a waiting set", key: group.state(), effect: Effect::Once };
            Ok(self.script(call, &queue::mend_script(group, damage, halts)).await?.word == "yes")
        })
    }

    fn queue<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<QueueState>> {
        Box::pin(async move {
            let call = Call { command: "looking at a work queue", key: group.state(), effect: Effect::Read };
            queue::queue(self.script(call, &queue::queue_script(group)).await?).map_err(unexpected(call))
        })
    }

    fn reclaim<'a>(
        &'a self,
        group: &'a GroupKey,
        owner: &'a str,
        seen: &'a Life,
        count: usize,
    ) -> Reply<'a, Reclaimed> {
        Box::pin(async move {
            let call = Call { command: "reclaiming entries", key: group.state(), effect: Effect::Once };
            let invocation = queue::reclaim_script(group, owner, seen, count);
            queue::reclaimed(self.script(call, &invocation).await?).map_err(unexpected(call))
        })
    }
}

impl Redis {
    /// Up to where a work queue has settled everything; `None` when it is gone, or its waiting set is another one than the state tells of. All
    /// is read at one moment, as entries go from the waiting set to a chunk and back.
    async fn settled(&self, group: &GroupKey) -> Result<Option<EntryId>, BrokerError> {
        let call = Call { command: "HGETALL", key: group.state(), effect: Effect::Read };
        let mut look = redis::pipe();
        look.atomic().cmd("HGETALL").arg(group.state());
        // The ids stand below zero, and the stamp below them.
        let lowest = look.cmd("ZRANGEBYSCORE").arg(group.waiting()).arg(queue::BY_ID).arg("(0");
        lowest.arg("LIMIT").arg(0).arg(1);
        look.cmd("ZCARD").arg(group.waiting()).cmd("ZSCORE").arg(group.waiting()).arg("stamp");
        let look = &look;
        let run = |mut connection: Connection| async move {
            connection.check_transactions().await?;
            look.query_async::<(Value, Value, u64, Option<f64>)>(&mut connection).await
        };
        let (state, lowest, size, stamp) = self.commands.run(call, run).await?;
        queue::settled(state, lowest, size, stamp).map_err(unexpected(call))
    }

    /// A server that makes room by throwing keys away takes a stream whole, read or not. Where the user may not ask, its
    /// operator has to know.
    async fn warn_of_eviction(&self) {
        let call = Call { command: "INFO", key: "", effect: Effect::Read };
        let mut info = cmd("INFO");
        info.arg("memory");
        let Ok(Ok(info)) = self.command(call, &info).await.map(parse::text) else { return };
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).unwrap_or_default();
        if policy.starts_with("allkeys-") {
            tracing::warn!(
                server = self.target.shown(),
                policy,
                "a full server would throw whole streams away, with events that nobody has handled: set its maxmemory-policy to noeviction"
            );
        }
    }

    /// A server may be set to take or answer less than the largest event of this program has. Where the user may not ask, its
    /// operator has to know.
    async fn warn_of_limits(&self) {
        // Any other user would be refused, and its operator would find that in the log of refusals.
        if !self.target.is_default_user() {
            return;
        }
        let call = Call { command: "CONFIG GET", key: "", effect: Effect::Read };
        let payload = |info: &&'static streams_core::EventInfo| info.max_payload.unwrap_or(DEFAULT_MAX_PAYLOAD);
        let largest = crate::declared::linked_events().iter().map(payload).max();
        let needed = (largest.unwrap_or(DEFAULT_MAX_PAYLOAD) + HEADERS) as u64;
        for limit in ["proto-max-bulk-len", "client-query-buffer-limit", "client-output-buffer-limit"] {
            let mut get = cmd("CONFIG");
            get.arg("GET").arg(limit);
            let Ok(Ok(mut set)) = self.command(call, &get).await.map(parse::named) else { return };
            let Some(Ok(set)) = set.remove(limit).map(parse::text) else { continue };
            // Our class of clients is the normal one; 0 is no limit.
            let words: Vec<_> = set.split(' ').collect();
            let hard = words.iter().position(|word| *word == "normal").map_or(0, |class| class + 1);
            let bytes = words.get(hard).and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes > 0);
            if bytes.is_some_and(|bytes: u64| bytes < needed) {
                tracing::warn!(
                    server = self.target.shown(),
                    limit,
                    set,
                    needed,
                    "the server ends connections over the largest events of this program: raise this limit of its configuration, or lower their max_payload"
                );
            }
        }
    }

    /// The error of a server that refused the scripts, with its version.
    async fn too_old(&self, error: BrokerError) -> BrokerError {
        let call = Call { command: "INFO", key: "", effect: Effect::Read };
        let run = |mut connection| async move { Ok(version(&mut connection).await) };
        let version = self.commands.run(call, run).await.unwrap_or_else(|_| UNTOLD.to_owned());
        let message = format!(
            "the server at {} is {version}, which refused our scripts; Redis 7.0, Valkey 7.2 or later is needed",
            self.target.shown(),
        );
        BrokerError::new(BrokerErrorKind::Unsupported, message).caused_by(error)
    }
}

struct RedisRenewer {
    link: Link,
}

impl Renewer for RedisRenewer {
    fn renew<'a>(&'a mut self, leases: &'a [(GroupKey, Holder)]) -> Reply<'a, Vec<Renewed>> {
        Box::pin(async move {
            let Some((first, _)) = leases.first() else { return Ok(Vec::new()) };
            let call = Call { command: "renewing leases", key: first.state(), effect: Effect::Idempotent };
            let mut renewals = redis::pipe();
            for (group, holder) in leases {
                let hash = scripts::RENEW.get_hash();
                renewals.cmd("EVALSHA").arg(hash).arg(1).arg(group.state()).arg(&holder.owner).arg(holder.epoch);
            }
            let renewals = &renewals;
            let run = |mut connection| async move {
                match renewals.query_async(&mut connection).await {
                    // A server forgets its scripts when it restarts.
                    Err(error) if error.code() == Some("NOSCRIPT") => {
                        scripts::RENEW.load_async(&mut connection).await?;
                        renewals.query_async(&mut connection).await
                    }
                    reply => reply,
                }
            };
            let replies: Vec<Value> = self.link.run(call, run).await?;
            let renewed = |reply| {
                let mut answer = Answer::new(reply)?;
                Ok(match answer.word.as_str() {
                    "yes" => Renewed::Held { replays: answer.number()? == 1 },
                    _ => Renewed::Lost,
                })
            };
            replies.into_iter().map(renewed).collect::<Result<_, _>>().map_err(unexpected(call))
        })
    }
}

/// The bytes of a message besides its payload, for warnings.
const HEADERS: usize = 64 * 1024;

const UNTOLD: &str = "of a version that it does not tell";

/// The server and its version, for messages.
async fn version(connection: &mut Connection) -> String {
    let info = cmd("INFO").arg("server").query_async::<Value>(connection).await.map(parse::text);
    let Ok(Ok(info)) = info else { return UNTOLD.to_owned() };
    let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // Valkey answers with the Redis version that it stands for, and its own beside it.
    match (line("valkey_version"), line("redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, Some(version)) => format!("Redis {version}"),
        (None, None) => UNTOLD.to_owned(),
    }
}

/// XADD, or several in one transaction; one entry answers with its id, several with an array of them.
async fn add(
    connection: &mut Connection,
    partition: &PartitionKey,
    entries: &[Fields],
    floor: Option<EntryId>,
) -> RedisResult<Value> {
    let one = |fields: &Fields, floor: Option<EntryId>| {
        let mut command = cmd("XADD");
        command.arg(partition.as_str());
        if let Some(floor) = floor {
            command.arg("MINID").arg("~").arg(floor.to_string());
        }
        command.arg("*");
        for (name, value) in fields {
            command.arg(name.as_slice()).arg(value.as_slice());
        }
        command
    };
    if let [fields] = entries {
        return one(fields, floor).query_async(connection).await;
    }
    connection.check_transactions().await?;
    let mut transaction = redis::pipe();
    transaction.atomic();
    for (index, fields) in entries.iter().enumerate() {
        // Once is enough to trim.
        transaction.add_command(one(fields, floor.filter(|_| index == 0)));
    }
    transaction.query_async(connection).await
}

/// The ids in the answer of [`add`].
fn added(call: Call<'_>, reply: Value) -> Result<Vec<EntryId>, BrokerError> {
    let ids = match reply {
        Value::Array(ids) => ids,
        id => vec![id],
    };
    ids.into_iter().map(parse::id).collect::<Result<_, _>>().map_err(unexpected(call))
}

/// A question about a key, which answers nil when there is no such key.
async fn on_key(link: &Link, call: Call<'_>, command: &Cmd) -> Result<Value, BrokerError> {
    let run = |mut connection| async move {
        match command.query_async(&mut connection).await {
            Err(error) if error.to_string().contains("no such key") => Ok(Value::Nil),
            reply => reply,
        }
    };
    link.run(call, run).await
}

async fn query(link: &Link, call: Call<'_>, command: &Cmd) -> Result<Value, BrokerError> {
    link.run(call, |mut connection| async move { command.query_async(&mut connection).await }).await
}

/// Several commands in one conversation, each with an answer of its own; a script that they run is loaded where the server
/// has forgotten it.
async fn each(
    link: &Link,
    call: Call<'_>,
    commands: &mut redis::Pipeline,
    script: Option<&Script>,
) -> Result<Vec<RedisResult<Value>>, BrokerError> {
    let commands = &*commands.ignore_errors();
    let run = |mut connection| async move {
        let has = |replies: &[RedisResult<Value>], code| {
            let mut errors = replies.iter().filter_map(|reply| reply.as_ref().err());
            errors.find(|error| error.code() == Some(code)).cloned()
        };
        let mut replies: Vec<RedisResult<Value>> = commands.query_async(&mut connection).await?;
        if let Some(script) = script.filter(|_| has(&replies, "NOSCRIPT").is_some()) {
            script.load_async(&mut connection).await?;
            replies = commands.query_async(&mut connection).await?;
        }
        // Of the server, not of a key: another connection may lead to one that is no replica.
        match has(&replies, "READONLY") {
            Some(error) => Err(error),
            None => Ok(replies),
        }
    };
    link.run(call, run).await
}

fn reading(group: &GroupKey) -> Call<'_> {
    Call { command: "HMGET", key: group.state(), effect: Effect::Read }
}

fn read_state(group: &GroupKey) -> Cmd {
    let mut command = cmd("HMGET");
    command.arg(group.state()).arg(&STATE);
    command
}

/// A script's call with what most of them begin with: keys of stream and state, name of the group.
fn on<'a>(script: &'a Script, group: &GroupKey) -> ScriptInvocation<'a> {
    let mut invocation = script.key(group.partition().as_str());
    invocation.key(group.state()).arg(group.group());
    invocation
}

/// The delivery that the key is for, as it stands in a state.
fn mode(group: &GroupKey) -> &'static str {
    if group.is_queue() { "queue" } else { "ordered" }
}

/// Where a group begins, as the scripts take it.
fn words(start: Start) -> (&'static str, String) {
    match start {
        Start::Earliest => ("earliest", String::new()),
        Start::Latest => ("latest", String::new()),
        Start::At(id) => ("at", id.to_string()),
        Start::Ago(ago) => ("ago", millis(ago).to_string()),
    }
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

/// Events with their versions, as they stand in a state: `OrderPlaced@2 OrderShipped@1`.
fn events_text(events: &Events) -> String {
    events.iter().map(|(name, version)| format!("{name}@{version}")).collect::<Vec<_>>().join(" ")
}

/// What an owner must know, as it stands in a state: `OrderShipped@1 1767225600000-0`.
fn need_text(need: &Need) -> String {
    format!("{}@{} {}", need.name, need.version, need.entry)
}

fn commit_script(group: &GroupKey, commit: &Commit) -> ScriptInvocation<'static> {
    let script = if commit.dead.is_empty() { &scripts::COMMIT } else { &scripts::COMMIT_WITH_DEAD };
    let mut invocation = on(script, group);
    invocation
        .key(group.dead())
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
        .arg(commit.call);
    for (id, count) in &commit.attempts {
        invocation.arg(id.to_string()).arg(*count);
    }
    for id in &commit.forget {
        invocation.arg(id.to_string());
    }
    for fields in &commit.dead {
        invocation.arg(fields.len() * 2);
        for (name, value) in fields {
            invocation.arg(name.as_slice()).arg(value.as_slice());
        }
    }
    if let Some(Proof { charged, left, forget }) = &commit.proof {
        let charged: Vec<_> = charged.iter().map(ToString::to_string).collect();
        invocation.arg(*left).arg(charged.join(" ")).arg(forget.len());
        for id in forget {
            invocation.arg(id.to_string());
        }
    }
    invocation
}

fn committed(mut answer: Answer) -> Result<Committed, Unexpected> {
    Ok(match answer.word.as_str() {
        "done" => Committed::Done,
        "fenced" => Committed::Fenced,
        "conflict" => Committed::Conflict { at: answer.id()? },
        "dead letters full" => {
            let count = answer.number()?;
            let oldest = Some(answer.text()?).filter(|id| !id.is_empty());
            let oldest = oldest.map(|id| id.parse()).transpose().map_err(|_| Unexpected("an entry id"))?;
            Committed::DeadLettersFull { count, oldest }
        }
        "declared" => Committed::Declared { names: answer.text()?.split(' ').map(str::to_owned).collect() },
        "vanished" => Committed::Vanished,
        _ => return Err(Unexpected("what came of a commit")),
    })
}

fn acquired(mut answer: Answer) -> Result<Acquired, Unexpected> {
    Ok(match answer.word.as_str() {
        "held" => {
            let (epoch, at, at_event, seen) = (answer.number()?, answer.id()?, answer.text()?, answer.text()?);
            let seen = if seen.is_empty() { None } else { Some(seen.parse().map_err(|_| Unexpected("an ordinal"))?) };
            let (attempts, crashes) = (counts(answer.value()?, at)?, counts(answer.value()?, at)?);
            let (left, to) = (answer.text()?, answer.text()?);
            let proving = if left.is_empty() {
                None
            } else {
                let left = left.parse().map_err(|_| Unexpected("a number of events"))?;
                Some(Proving { left, to: to.parse().map_err(|_| Unexpected("an entry id"))? })
            };
            let events = parse::events(&answer.text()?);
            Acquired::Held(Holding { epoch, at, at_event, seen, attempts, events, proving, crashes })
        }
        "contended" => Acquired::Contended,
        "missing" => Acquired::Missing,
        "vanished" => Acquired::Vanished { at: answer.id()? },
        "ahead" => Acquired::Ahead { at: answer.id()?, last: answer.id()? },
        "mode" => Acquired::Mode(answer.text()?),
        _ => return Err(Unexpected("what came of a claim")),
    })
}

/// What is counted of events above this id.
fn counts(reply: Value, above: EntryId) -> Result<Vec<(EntryId, u32)>, Unexpected> {
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

/// The fields of a group's state that are read.
const STATE: [&str; 9] = ["owner", "epoch", "beat", "lease", "at", "reset", "resume", "events", "needs"];

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

/// A field of a group's state. One that says nothing of use is somebody else's doing, and stays so until somebody mends it.
fn whole<T>(
    group: &GroupKey,
    (field, value): (&str, Value),
    read: impl FnOnce(Value) -> Result<T, Unexpected>,
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

fn members(mut answer: Answer) -> Result<Vec<Member>, Unexpected> {
    if answer.word != "members" {
        return Err(Unexpected("members"));
    }
    let members = parse::pairs(answer.value()?)?;
    members
        .into_iter()
        .map(|(says, beat)| Ok(Member { says: parse::text(says)?, beat: parse::number(beat)? }))
        .collect()
}

fn snapshot(mut answer: Answer) -> Result<Snapshot, Unexpected> {
    match answer.word.as_str() {
        "no stream" => Ok(Snapshot { extent: None, marker: false, deleted: None, entries: Vec::new(), complete: true }),
        "stream" => {
            let id = |text: String| {
                let id = Some(text).filter(|id| !id.is_empty()).map(|id| id.parse()).transpose();
                id.map_err(|_| Unexpected("an entry id"))
            };
            let first = id(answer.text()?)?;
            let (last, length, added) = (answer.id()?, answer.number()?, answer.number()?);
            let extent = Some(Extent { first, last, length, added });
            let (marker, deleted, complete) = (answer.number()? == 1, id(answer.text()?)?, answer.number()? == 1);
            Ok(Snapshot { extent, marker, deleted, entries: parse::entries(answer.value()?)?, complete })
        }
        _ => Err(Unexpected("a snapshot")),
    }
}

fn page(mut answer: Answer) -> Result<Page, Unexpected> {
    if answer.word != "page" {
        return Err(Unexpected("a page"));
    }
    let complete = answer.number()? == 1;
    Ok(Page { entries: parse::entries(answer.value()?)?, complete })
}

fn declared(mut answer: Answer) -> Result<Option<Events>, Unexpected> {
    match answer.word.as_str() {
        "declared" => Ok(Some(parse::events(&answer.text()?))),
        "missing" => Ok(None),
        _ => Err(Unexpected("declared or missing")),
    }
}

fn reset(mut answer: Answer) -> Result<Reset, Unexpected> {
    Ok(match answer.word.as_str() {
        "done" => Reset::Done { at: answer.id()? },
        "contended" => Reset::Contended,
        "foreign" => Reset::Foreign,
        "mode" => Reset::Mode(answer.text()?),
        _ => return Err(Unexpected("what came of a reset")),
    })
}

fn adopted(mut answer: Answer) -> Result<Adopted, Unexpected> {
    Ok(match answer.word.as_str() {
        "done" => {
            let (at, delivered, pending) = (answer.id()?, answer.id()?, answer.number()?);
            let oldest = Some(answer.text()?).filter(|id| !id.is_empty());
            let oldest = oldest.map(|id| id.parse()).transpose().map_err(|_| Unexpected("an entry id"))?;
            Adopted::Done(Adoption { at, delivered, pending, oldest })
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

fn moved(mut answer: Answer) -> Result<Moved, Unexpected> {
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

fn taken(mut answer: Answer) -> Result<Taken, Unexpected> {
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

fn extent(reply: Value) -> Result<Extent, Unexpected> {
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

/// COUNT is a signed number to the server.
fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
