//! Appends that wait for replicas or the disk: WAIT and WAITAOF count only what their own connection wrote, and block it.
//!
//! So each append that is under way has a connection for itself; what is idle is kept for the next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};
use streams_core::broker::{BrokerError, BrokerErrorKind, Durable, Fields};
use streams_core::keys::PartitionKey;
use streams_core::{Durability, EntryId};

use super::added;
use super::connection::{Call, Effect, RESPONSE_TIMEOUT, Target, explain};
use crate::clock::millis;

/// How many idle connections are kept: as many partitions are written at once without connecting anew.
const IDLE: usize = 16;
/// How much longer than the wait its answer may take.
const MARGIN: Duration = Duration::from_secs(5);

/// Connections for appends that wait.
#[derive(Debug)]
pub(super) struct Pool {
    target: Arc<Target>,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    inner: MultiplexedConnection,
    /// Whether the server was found to have a file that WAITAOF can wait for.
    fsyncs: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("fsyncs", &self.fsyncs).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(target: &Arc<Target>) -> Self {
        Self { target: Arc::clone(target), idle: Mutex::default() }
    }

    /// Appends, then waits. A future that is dropped takes its connection with it, as nobody hears the answer.
    pub(super) async fn append(
        &self,
        partition: &PartitionKey,
        entries: &[Fields],
        floor: Option<EntryId>,
        durability: Durability,
        wait: Duration,
    ) -> Result<Durable, BrokerError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection { inner: self.target.connect(RESPONSE_TIMEOUT).await?, fsyncs: false },
        };
        if durability.fsync && !connection.fsyncs {
            self.probe(&mut connection.inner, partition).await?;
            connection.fsyncs = true;
        }
        let call = Call { command: "XADD", key: partition.as_str(), effect: Effect::Once };
        let reply = match super::add(&mut connection.inner, partition, entries, floor).await {
            Ok(reply) => reply,
            Err(error) => {
                if super::connection::is_of_no_use(&error) {
                    // Most likely the server went away, and the others with it.
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                } else {
                    self.keep(connection);
                }
                return Err(explain(call, error));
            }
        };
        let ids = added(call, reply)?;
        let missing = match waited(&mut connection.inner, durability, wait).await {
            Ok(missing) => {
                self.keep(connection);
                missing
            }
            // The entries are there: their ids must not be lost over this.
            Err(error) => {
                let call = Call { command: word(durability), effect: Effect::Read, ..call };
                Some(explain(call, error).to_string())
            }
        };
        Ok(Durable { ids, missing })
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }

    /// Asks, before anything is added, whether the server can wait for its disk at all.
    async fn probe(&self, connection: &mut MultiplexedConnection, partition: &PartitionKey) -> Result<(), BrokerError> {
        let Err(error) = wait_aof(1, 0, 1).query_async::<Value>(connection).await else { return Ok(()) };
        let said = error.to_string();
        let why = if said.contains("unknown command") {
            let version = super::version(connection).await;
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

/// Waits for what the connection wrote; says what is missing when the time is over.
async fn waited(
    connection: &mut MultiplexedConnection,
    durability: Durability,
    wait: Duration,
) -> Result<Option<String>, RedisError> {
    // A wait of 0 would last for ever.
    let ms = millis(wait).max(1);
    connection.set_response_timeout(wait.saturating_add(MARGIN));
    let (local, replicas) = if durability.fsync {
        wait_aof(1, durability.replicas, ms).query_async::<(u32, u32)>(connection).await?
    } else {
        (1, cmd("WAIT").arg(durability.replicas).arg(ms).query_async::<u32>(connection).await?)
    };
    connection.set_response_timeout(RESPONSE_TIMEOUT);
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
