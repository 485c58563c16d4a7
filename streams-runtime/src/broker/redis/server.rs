//! [`Redis`], and how its pages ask the server: a command, several in one conversation, or a script.

use std::fmt;
use std::sync::Arc;

use redis::{Cmd, RedisResult, Script, ScriptInvocation, Value, cmd};
use streams_core::broker::BrokerError;
use streams_core::keys::GroupKey;
use streams_core::{Entry, EntryId};

use super::append::Pool;
use super::call::{Call, Effect, understood, unexpected};
use super::connection::{FOR_COMMANDS, FOR_ENTRIES, Link, Target};
use super::parse::{self, Answer, Parsed};
#[cfg(feature = "tls")]
use super::tls::Tls;

/// A broker on a server: Redis 7.0, Valkey 7.2, or later.
///
/// Connections are made when they are needed and again after they broke: one for commands, one for reading backlogs
/// (whose large replies must not delay a commit), one a tail, one for renewals, and one for each append that waits for
/// replicas or the disk.
///
/// The rights that the server's user needs are written by [`Acl`](super::Acl).
pub struct Redis {
    pub(super) target: Arc<Target>,
    pub(super) commands: Arc<Link>,
    pub(super) reads: Link,
    pub(super) durable: Pool,
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
        let durable = Pool::new(&target);
        Self { target, commands, reads, durable }
    }

    pub(super) async fn command(&self, call: Call<'_>, command: &Cmd) -> Result<Value, BrokerError> {
        query(&self.commands, call, command).await
    }

    /// Reads entries on the connection for large replies.
    pub(super) async fn entries(&self, call: Call<'_>, command: &Cmd) -> Result<Vec<Arc<Entry>>, BrokerError> {
        parse::entries(query(&self.reads, call, command).await?).map_err(unexpected(call))
    }

    pub(super) async fn range(&self, key: &str, after: EntryId, count: usize) -> Result<Vec<Arc<Entry>>, BrokerError> {
        // An open interval above the highest id is an error to the server.
        if after == EntryId::MAX || count == 0 {
            return Ok(Vec::new());
        }
        let mut command = cmd("XRANGE");
        command.arg(key).arg(format!("({after}")).arg("+").arg("COUNT").arg(limit(count));
        self.entries(Call { command: "XRANGE", key, effect: Effect::Read }, &command).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.target.shown()).finish()
    }
}

impl streams_core::broker::sealed::Sealed for Redis {}

async fn query(link: &Link, call: Call<'_>, command: &Cmd) -> Result<Value, BrokerError> {
    link.run(call, |mut connection| async move { command.query_async(&mut connection).await }).await
}

/// A question about a key, which answers nil when there is no such key.
pub(super) async fn on_key(link: &Link, call: Call<'_>, command: &Cmd) -> Result<Value, BrokerError> {
    let run = |mut connection| async move {
        match command.query_async(&mut connection).await {
            Err(error) if error.to_string().contains("no such key") => Ok(Value::Nil),
            reply => reply,
        }
    };
    link.run(call, run).await
}

/// Several commands in one conversation, each with an answer of its own; a script that they run is loaded where the server
/// has forgotten it.
pub(super) async fn each(
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

/// Runs a script and reads its answer, unless that is one of the general words that are errors.
pub(super) async fn ask<T>(
    link: &Link,
    call: Call<'_>,
    script: ScriptInvocation<'_>,
    read: impl FnOnce(&mut Answer) -> Parsed<T>,
) -> Result<T, BrokerError> {
    let script = &script;
    let run = |mut connection| async move { script.invoke_async(&mut connection).await };
    read(&mut understood(call, link.run(call, run).await?)?).map_err(unexpected(call))
}

/// What a script answers that says only whether it did something.
pub(super) fn yes(answer: &mut Answer) -> Parsed<bool> {
    Ok(answer.word == "yes")
}

/// A script's call with what most of them begin with: keys of stream and state, name of the group.
pub(super) fn on<'a>(script: &'a Script, group: &GroupKey) -> ScriptInvocation<'a> {
    let mut invocation = script.key(group.partition().as_str());
    invocation.key(group.state()).arg(group.group());
    invocation
}

/// The delivery that the key is for, as it stands in a state.
pub(super) fn mode(group: &GroupKey) -> &'static str {
    if group.is_queue() { "queue" } else { "ordered" }
}

/// Ids as commands and scripts take them.
pub(super) fn texts(ids: &[EntryId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// COUNT is a signed number to the server.
pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
