//! [`Redis`], and how its other files send: a command, several in one round trip, or a script.

use std::fmt;
use std::sync::Arc;

use redis::{Cmd, RedisResult, Script, ScriptInvocation, Value, cmd};
use streams_core::broker::{AttemptError, BrokerError};
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
/// It connects when a call needs a connection, and again after one breaks. It has one for commands, one for backlogs,
/// whose large replies must not delay a commit, one per tail, and one for renewals. Each append that waits for replicas
/// or the disk has one, too.
///
/// [`Acl`](super::Acl) writes the rights that the server's user needs.
pub struct Redis {
    pub(super) target: Arc<Target>,
    pub(super) commands: Arc<Link>,
    pub(super) reads: Link,
    pub(super) durable: Pool,
}

impl Redis {
    /// A broker at a URL: `redis://[user:password@]host[:port][/database]` or
    /// `redis+unix:///path[?db=0&user=..&pass=..]`, with `?protocol=resp3` for RESP3.
    ///
    /// With the feature `tls` it may be `rediss://`. Then the server must show a certificate for this host that the
    /// system trusts; `Redis::open_with` takes another authority and a client certificate.
    ///
    /// This opens no connection.
    ///
    /// # Errors
    /// The error says what is wrong with the URL, without repeating it.
    pub fn open(url: &str) -> Result<Self, BrokerError> {
        #[cfg(feature = "tls")]
        return Self::open_with(url, &Tls::new());
        #[cfg(not(feature = "tls"))]
        Ok(Self::at(Target::parse(url)?))
    }

    /// As [`open`](Self::open), at a `rediss://` URL, with options for TLS.
    ///
    /// # Errors
    /// The error says what is wrong with the URL, without repeating it, or with a certificate or key, naming its file
    /// or option. TLS options with a plain URL are refused, too.
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
        // The server refuses an open interval above the highest id.
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

/// Asks about a key; the answer is nil when there is no such key.
pub(super) async fn on_key(link: &Link, call: Call<'_>, command: &Cmd) -> Result<Value, BrokerError> {
    let run = |mut connection| async move {
        match command.query_async(&mut connection).await {
            Err(error) if error.to_string().contains("no such key") => Ok(Value::Nil),
            reply => reply,
        }
    };
    link.run(call, run).await
}

/// Sends several commands in one round trip, each with its own answer. It loads a script that they run and that the
/// server has lost.
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
        // This error concerns the server, not a key: another connection may lead to a primary.
        match has(&replies, "READONLY") {
            Some(error) => Err(error),
            None => Ok(replies),
        }
    };
    link.run(call, run).await
}

/// Runs a script and reads its answer, unless that is one of the words that mean an error.
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

/// The answer of a script that only says whether it has changed something.
pub(super) fn yes(answer: &mut Answer) -> Parsed<bool> {
    Ok(answer.word == "yes")
}

/// A script's call with the arguments that most begin with: keys of stream and state, name of the group.
pub(super) fn on<'a>(script: &'a Script, group: &GroupKey) -> ScriptInvocation<'a> {
    let mut invocation = script.key(group.partition().as_str());
    invocation.key(group.state()).arg(group.group());
    invocation
}

/// The delivery mode of the key, in the form of the state.
pub(super) fn mode(group: &GroupKey) -> &'static str {
    if group.is_queue() { "queue" } else { "ordered" }
}

/// Ids in the form of commands and scripts.
pub(super) fn texts(ids: &[EntryId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// The error of an attempt, in the form of the state behind the server's time: `1767225600000-0 2 the bank is closed`.
pub(super) fn error_text(error: Option<&AttemptError>) -> String {
    let text = |AttemptError { entry, attempts, text }: &AttemptError| format!("{entry} {attempts} {text}");
    error.map_or_else(String::new, text)
}

/// COUNT is a signed number to the server.
pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
