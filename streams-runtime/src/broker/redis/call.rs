//! A call to the server: its key and effect, and the meaning of its errors and replies for callers of a broker.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use redis::{RedisError, Value};
use streams_core::broker::{BrokerError, BrokerErrorKind};
use streams_core::keys::GroupKey;

use super::parse::{Answer, Unexpected};
use super::scripts;

/// The message about such a server, with the remedy.
pub(super) const CLUSTER: &str = "the server is part of a Redis Cluster, which is not supported; set REDIS_URL to one that is not (cluster-enabled no)";
/// The remedy where the user lacks a right.
const GRANT: &str = "grant it the command and the key with ACL, as `Acl` writes the rules";

/// A call's command and key, for its errors, and its effect, for a connection that breaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) command: &'static str,
    /// Empty for a call without a key.
    pub(super) key: &'a str,
    pub(super) effect: Effect,
}

impl<'a> Call<'a> {
    /// A call about the state of a group.
    pub(super) fn on(group: &'a GroupKey, command: &'static str, effect: Effect) -> Self {
        Self { command, key: group.state(), effect }
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            "" => f.write_str(self.command),
            key => write!(f, "{} on `{key}`", self.command),
        }
    }
}

/// The effect of a call that runs twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// None: it reads.
    Read,
    /// The same as once.
    Idempotent,
    /// Another one: never sent again.
    Once,
}

/// Whether the connection is of no more use.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

/// Whether another connection may succeed. After a failover the server's name leads elsewhere, while a connection stays
/// with the old primary, which now is a replica.
pub(super) fn is_of_no_use(error: &RedisError) -> bool {
    is_broken(error) || error.code() == Some("READONLY")
}

/// The error of the operating system or of TLS, which the crate keeps behind an `Arc`.
pub(super) fn io_error(error: &RedisError) -> Option<&std::io::Error> {
    error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?.downcast_ref()
}

/// The meaning of a command's error for the caller of a broker.
pub(super) fn explain(call: Call<'_>, error: RedisError) -> BrokerError {
    if is_broken(&error) {
        let (kind, so) = match call.effect {
            Effect::Read => (BrokerErrorKind::Unavailable, ""),
            Effect::Idempotent | Effect::Once => (BrokerErrorKind::Indefinite, "; it may have taken effect"),
        };
        let what = if error.is_timeout() { "no answer came in time" } else { "the connection broke" };
        return BrokerError::new(kind, format!("{call}: {what}{so}")).caused_by(error);
    }
    // A refused transaction gives the reason at its refused command.
    let (place, code, said) = match error.clone().into_server_errors() {
        Some(errors) if !errors.is_empty() => {
            (errors[0].0, errors[0].1.code().to_owned(), errors[0].1.details().unwrap_or_default().to_owned())
        }
        _ => (0, error.code().unwrap_or_default().to_owned(), error.detail().unwrap_or_default().to_owned()),
    };
    if let Some(what) = scripts::refused(&said) {
        let message = format!("{call}: the user may not {what} in its script (NOPERM); {GRANT}");
        return BrokerError::new(BrokerErrorKind::Refused, message).caused_by(error);
    }
    if code == "NOPERM" || (code == "EXECABORT" && said.contains("NOPERM")) {
        // The crate counts from behind MULTI. This is MULTI itself, so the commands behind it ran one by one.
        let (kind, so) = match place {
            usize::MAX => (BrokerErrorKind::Indefinite, ", and what came behind it may have been done"),
            _ => (BrokerErrorKind::Refused, ""),
        };
        // `.. no permissions to run the 'xadd' command`, or to access a key without a name.
        let what = match said.split_once("to run the '").and_then(|(_, rest)| rest.split('\'').next()) {
            Some(command) => format!("run {}", command.replace('|', " ").to_uppercase()),
            None => "use one of its keys".to_owned(),
        };
        return BrokerError::new(kind, format!("{call}: the user may not {what} (NOPERM){so}; {GRANT}"))
            .caused_by(error);
    }
    let (kind, why) = match code.as_str() {
        "OOM" => (BrokerErrorKind::Full, "the server is full (OOM); raise its maxmemory or shorten retention"),
        "MISCONF" => {
            (BrokerErrorKind::Full, "the server cannot save to its disk (MISCONF); free space or check its log")
        }
        "NOAUTH" => (BrokerErrorKind::Refused, "not logged in (NOAUTH); check the user and password in REDIS_URL"),
        "WRONGTYPE" => (
            BrokerErrorKind::Refused,
            "the key holds something else (WRONGTYPE); rename the stream or the group, or delete the key if nobody \
             needs it",
        ),
        "LOADING" => (BrokerErrorKind::Unavailable, "the server is still loading its data (LOADING)"),
        "BUSY" => {
            (BrokerErrorKind::Unavailable, "the server is busy with somebody's script (BUSY); SCRIPT KILL ends it")
        }
        "NOREPLICAS" => (
            BrokerErrorKind::Unavailable,
            "the server refuses writes while it has too few replicas (NOREPLICAS); bring them back, or lower its \
             min-replicas-to-write",
        ),
        "MASTERDOWN" | "UNBLOCKED" => (BrokerErrorKind::Unavailable, "the server asks to come back later"),
        "READONLY" => {
            (BrokerErrorKind::Unavailable, "the server is a replica, now or for good; REDIS_URL must name the primary")
        }
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => (BrokerErrorKind::Unsupported, CLUSTER),
        "ERR" if error.to_string().contains("same slot") => (BrokerErrorKind::Unsupported, CLUSTER),
        "ERR" if error.to_string().contains("exhausted the last possible ID") => (
            BrokerErrorKind::Refused,
            "the stream has used up its ids: its last one is 18446744073709551615-18446744073709551615, which somebody has \
             given to an entry or set with XSETID; remove that entry with XDEL where there is one, then set the last id \
             to that of the newest entry with XSETID",
        ),
        // Definite answers, caused by a script's first line or by a missing command.
        "ERR" if error.to_string().contains("unknown command") => {
            (BrokerErrorKind::Unsupported, "the server lacks the command; Redis 7.0 or Valkey 7.2 is needed")
        }
        _ => (BrokerErrorKind::Protocol, "the server gave an answer that makes no sense here"),
    };
    BrokerError::new(kind, format!("{call}: {why}")).caused_by(error)
}

/// The error of a reply that could not be read. The call may have taken effect.
pub(super) fn unexpected(call: Call<'_>) -> impl Fn(Unexpected) -> BrokerError {
    move |what| {
        let message = format!("{call}: the server gave an answer that makes no sense here");
        BrokerError::new(BrokerErrorKind::Protocol, message).caused_by(what)
    }
}

/// The answer of a script, unless it is one of the words that mean an error.
pub(super) fn understood(call: Call<'_>, reply: Value) -> Result<Answer, BrokerError> {
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
            let message = format!("{call}: the user may not run {command} on `{key}` (NOPERM); {GRANT}");
            Err(BrokerError::new(BrokerErrorKind::Refused, message))
        }
        "left" => {
            let (state, waiting) = (call.key, answer.text().map_err(&unexpected)?);
            let message = format!(
                "the state at `{state}` was deleted, and `{waiting}` holds what still waited in this work queue; nobody knows any                  more what was in flight: remove the group (`streams remove .. --force`) and start again to begin anew, or delete `{waiting}`                  to give up both and go on behind what was delivered last"
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
