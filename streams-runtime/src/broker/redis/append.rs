//! Appends, with or without a wait for replicas or the disk.
//!
//! WAIT and WAITAOF count only the writes of their own connection, and block it. So each append that waits has a
//! connection to itself, and idle connections are kept for the next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{RedisError, RedisResult, Value, cmd};
use streams_core::broker::{BrokerError, BrokerErrorKind, Durable, Fields};
use streams_core::keys::PartitionKey;
use streams_core::{Durability, EntryId};

use super::call::{Call, Effect, explain, is_of_no_use, unexpected};
use super::connection::{FOR_COMMANDS, SILENCE, Target, version};
use super::line::Connection;
use super::parse;
use crate::clock::millis;
use crate::sync::lock;

/// The most idle connections that are kept: this many partitions are written at once without a new connection.
const IDLE: usize = 16;
/// How much longer than the wait its answer may take.
const MARGIN: Duration = Duration::from_secs(5);

/// Connections for appends that wait.
#[derive(Debug)]
pub(super) struct Pool {
    target: Arc<Target>,
    idle: Mutex<Vec<Waiter>>,
}

/// A connection that may wait.
#[derive(Debug, Clone)]
struct Waiter {
    inner: Connection,
    /// Whether the server has a file that WAITAOF can wait for.
    fsyncs: bool,
    /// Whether the user may WAIT.
    waits: bool,
}

/// A connection in use.
struct Lent<'a> {
    pool: &'a Pool,
    waiter: Waiter,
    /// Whether every call on it was answered.
    answered: bool,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pool.target.give_up(&self.waiter.inner);
            return;
        }
        let mut idle = lock(&self.pool.idle);
        if idle.len() < IDLE {
            idle.push(self.waiter.clone());
        }
    }
}

impl Pool {
    pub(super) fn new(target: &Arc<Target>) -> Self {
        Self { target: Arc::clone(target), idle: Mutex::default() }
    }

    /// Appends, then waits. A future that is dropped drops its connection, too, because nobody reads the answer.
    pub(super) async fn append(
        &self,
        partition: &PartitionKey,
        entries: &[Fields],
        floor: Option<EntryId>,
        durability: Durability,
        wait: Duration,
    ) -> Result<Durable, BrokerError> {
        let call = Call { command: "XADD", key: partition.as_str(), effect: Effect::Once };
        let idle = lock(&self.idle).pop();
        let waiter = match idle {
            Some(waiter) => waiter,
            None => Waiter { inner: self.target.connect(FOR_COMMANDS).await?, fsyncs: false, waits: false },
        };
        let mut lent = Lent { pool: self, waiter, answered: false };
        // Another connection may still carry this append, which is sent again now.
        let ending = Call { command: "CLIENT KILL", effect: Effect::Read, ..call };
        self.target
            .end_given_up(&mut lent.waiter.inner)
            .await
            .map_err(|error| self.failed(&mut lent, ending, error))?;
        if durability.fsync && !lent.waiter.fsyncs {
            self.probe(&mut lent.waiter.inner, partition).await?;
            lent.waiter.fsyncs = true;
        }
        if !durability.fsync && !lent.waiter.waits {
            let call = Call { command: "WAIT", effect: Effect::Read, ..call };
            let may = cmd("WAIT").arg(0).arg(1).exec_async(&mut lent.waiter.inner).await;
            may.map_err(|error| self.failed(&mut lent, call, error))?;
            lent.waiter.waits = true;
        }
        let reply = add(&mut lent.waiter.inner, partition, entries, floor).await;
        let ids = added(call, reply.map_err(|error| self.failed(&mut lent, call, error))?)?;
        let missing = match waited(&mut lent.waiter.inner, durability, wait).await {
            Ok(missing) => {
                lent.answered = true;
                missing
            }
            // The entries are stored, so this error must not lose their ids.
            Err(error) => {
                let call = Call { command: word(durability), effect: Effect::Read, ..call };
                Some(explain(call, error).to_string())
            }
        };
        Ok(Durable { ids, missing })
    }

    fn failed(&self, lent: &mut Lent<'_>, call: Call<'_>, error: RedisError) -> BrokerError {
        if is_of_no_use(&error) {
            // Most likely the server went away, and the other connections with it.
            lock(&self.idle).clear();
        } else {
            lent.answered = true;
        }
        explain(call, error)
    }

    /// Asks, before it adds anything, whether the server can wait for its disk at all.
    async fn probe(&self, connection: &mut Connection, partition: &PartitionKey) -> Result<(), BrokerError> {
        let Err(error) = wait_aof(1, 0, 1).query_async::<Value>(connection).await else { return Ok(()) };
        let said = error.to_string();
        let why = if said.contains("unknown command") {
            let version = version(connection).await;
            format!("the server is {version}, and WAITAOF needs Redis 7.2 or Valkey 7.2; upgrade it")
        } else if said.contains("appendonly is disabled") {
            "the server keeps no append-only file; set `appendonly yes` there".to_owned()
        } else {
            return Err(explain(Call { command: "WAITAOF", key: "", effect: Effect::Read }, error));
        };
        let message = format!("`{partition}` has durability = \"fsync\", but {why}, or remove `fsync`");
        Err(BrokerError::new(BrokerErrorKind::Unsupported, message).caused_by(error))
    }
}

fn word(durability: Durability) -> &'static str {
    if durability.fsync { "WAITAOF" } else { "WAIT" }
}

fn wait_aof(local: u8, replicas: u32, ms: u64) -> redis::Cmd {
    let mut command = cmd("WAITAOF");
    command.arg(local).arg(replicas).arg(ms);
    command
}

/// Waits for the writes of the connection. After the time has passed it answers what is missing.
async fn waited(
    connection: &mut Connection,
    durability: Durability,
    wait: Duration,
) -> Result<Option<String>, RedisError> {
    // A wait of 0 would last for ever.
    let ms = millis(wait).max(1);
    connection.wait_for(wait.saturating_add(MARGIN));
    let (local, replicas) = if durability.fsync {
        wait_aof(1, durability.replicas, ms).query_async::<(u32, u32)>(connection).await?
    } else {
        (1, cmd("WAIT").arg(durability.replicas).arg(ms).query_async::<u32>(connection).await?)
    };
    connection.wait_for(SILENCE);
    Ok(missing(durability, local > 0, replicas, wait))
}

fn missing(durability: Durability, local: bool, replicas: u32, wait: Duration) -> Option<String> {
    let within = humantime::format_duration(wait);
    if !local {
        return Some(format!("it was not on the server's disk within {within}"));
    }
    let asked = durability.replicas;
    (replicas < asked).then(|| {
        let had = if durability.fsync { "had it on disk" } else { "had it" };
        format!("{replicas} of {asked} replicas {had} within {within}")
    })
}

/// XADD, or several in one transaction; one entry answers with its id, several with an array of them.
pub(super) async fn add(
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
        command.arg("*").arg(fields);
        command
    };
    if let [fields] = entries {
        return one(fields, floor).query_async(connection).await;
    }
    connection.check_transactions().await?;
    let mut transaction = redis::pipe();
    transaction.atomic();
    for (index, fields) in entries.iter().enumerate() {
        // One of them is enough to trim.
        transaction.add_command(one(fields, floor.filter(|_| index == 0)));
    }
    transaction.query_async(connection).await
}

/// The ids in the answer of [`add`].
pub(super) fn added(call: Call<'_>, reply: Value) -> Result<Vec<EntryId>, BrokerError> {
    let ids = match reply {
        Value::Array(ids) => ids,
        id => vec![id],
    };
    ids.into_iter().map(parse::id).collect::<Result<_, _>>().map_err(unexpected(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let (disk, two) = (Durability { fsync: true, replicas: 0 }, Durability { fsync: false, replicas: 2 });
        let wait = Duration::from_secs(5);
        assert_eq!(missing(disk, true, 0, wait), None);
        assert_eq!(missing(disk, false, 0, wait).as_deref(), Some("it was not on the server's disk within 5s"));
        assert_eq!(missing(two, true, 3, wait), None);
        assert_eq!(missing(two, true, 1, wait).as_deref(), Some("1 of 2 replicas had it within 5s"));
        let both = Durability { fsync: true, replicas: 1 };
        assert_eq!(missing(both, true, 0, wait).as_deref(), Some("0 of 1 replicas had it on disk within 5s"));
    }
}
