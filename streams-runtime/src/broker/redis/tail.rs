//! A reader that waits: XREAD BLOCK on a connection of its own, ended from outside with CLIENT UNBLOCK.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use redis::{Value, cmd};
use streams_core::EntryId;
use streams_core::broker::{BrokerError, Found, Interrupt, Reply, Tail};
use tokio::sync::Notify;

use super::connection::{Call, Effect, FOR_ENTRIES, Link, Target, explain, is_broken, unexpected};
use super::line::Connection;
use super::parse;
use crate::clock::millis;

/// How much longer than BLOCK an answer may take: the clock of a server may jump, and its BLOCK with it.
const MARGIN: Duration = Duration::from_secs(5);

/// With so many keys the entries at their positions are asked for in the same write; with more only those are whose
/// streams have news, which takes a second one.
const AT_ONCE: usize = 8;

/// The longest that one wait lasts.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) struct RedisTail {
    target: Arc<Target>,
    connection: Option<Connection>,
    /// Whether a command was sent whose answer nobody took: its future was dropped.
    in_flight: bool,
    bell: Arc<Bell>,
}

/// Ends a wait.
struct Bell {
    /// The connection for commands, as the waiting one cannot speak.
    commands: Arc<Link>,
    /// The id of the waiting connection; 0 when there is none.
    client: AtomicI64,
    /// Rung since the last wait began: the next one ends at once.
    rung: AtomicBool,
    /// For waits without a key, of which the server knows nothing.
    idle: Notify,
}

impl RedisTail {
    pub(super) fn new(target: &Arc<Target>, commands: &Arc<Link>) -> Self {
        let bell = Bell {
            commands: Arc::clone(commands),
            client: AtomicI64::new(0),
            rung: AtomicBool::new(false),
            idle: Notify::new(),
        };
        Self { target: Arc::clone(target), connection: None, in_flight: false, bell: Arc::new(bell) }
    }

    async fn connection(&mut self) -> Result<Connection, BrokerError> {
        if std::mem::take(&mut self.in_flight) {
            self.give_up();
        }
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        self.bell.client.store(0, Ordering::Release);
        let mut connection = self.target.connect(FOR_ENTRIES).await?;
        let call = Call { command: "CLIENT ID", key: "", effect: Effect::Read };
        let id = cmd("CLIENT").arg("ID").query_async(&mut connection).await.map_err(|error| explain(call, error))?;
        self.bell.client.store(id, Ordering::Release);
        Ok(self.connection.insert(connection).clone())
    }

    /// Otherwise the server would go on to keep what it could not send, or wait, for as long as it takes the connection for one.
    fn give_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.target.give_up(&connection);
        }
    }

    async fn wait(
        &mut self,
        keys: &[(String, EntryId)],
        count: usize,
        wait: Duration,
    ) -> Result<Vec<Found>, BrokerError> {
        if keys.is_empty() {
            tokio::select! {
                () = self.bell.idle.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            return Ok(Vec::new());
        }
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(count.max(1));
        // BLOCK 0 would wait for ever, and the largest numbers are refused.
        let wait = wait.min(LONGEST);
        if millis(wait) > 0 {
            command.arg("BLOCK").arg(millis(wait));
        }
        command.arg("STREAMS");
        for (key, _) in keys {
            command.arg(key);
        }
        for (_, after) in keys {
            command.arg(after.to_string());
        }
        let mut reading = redis::pipe();
        reading.add_command(command);
        let at_once = keys.len() <= AT_ONCE;
        if at_once {
            positions(&mut reading, keys.iter());
        }

        let mut replies = self.query(&reading, wait, keys).await?.into_iter();
        let read = parse::read(replies.next().unwrap_or_default(), keys).map_err(unexpected(xread(&names(keys))))?;
        let mut replies: Vec<_> = replies.collect();
        if !at_once && !read.is_empty() {
            let mut asking = redis::pipe();
            positions(&mut asking, read.iter().map(|(key, _)| &keys[*key]));
            replies = self.query(&asking, Duration::ZERO, keys).await?;
        }
        let found = read.into_iter().enumerate().map(|(index, (key, entries))| {
            let reply = replies.get_mut(if at_once { key } else { index }).map(std::mem::take).unwrap_or_default();
            let position = parse::only(reply).map_err(unexpected(xread(&keys[key].0)))?;
            Ok(Found { key, position, entries })
        });
        found.collect()
    }

    /// Sends commands and takes their replies; the first may block for as long as `wait`.
    async fn query(
        &mut self,
        commands: &redis::Pipeline,
        wait: Duration,
        keys: &[(String, EntryId)],
    ) -> Result<Vec<Value>, BrokerError> {
        let mut connection = self.connection().await?;
        connection.wait_for(wait.saturating_add(MARGIN));
        self.in_flight = true;
        let reply = commands.query_async(&mut connection).await;
        self.in_flight = false;
        reply.map_err(|error| {
            if is_broken(&error) {
                self.give_up();
            }
            explain(xread(&names(keys)), error)
        })
    }
}

/// Asks for the entries at the positions themselves. They run after the read: what is still there then was there all along.
fn positions<'a>(commands: &mut redis::Pipeline, keys: impl Iterator<Item = &'a (String, EntryId)>) {
    for (key, position) in keys {
        let position = position.to_string();
        commands.cmd("XRANGE").arg(key).arg(&position).arg(&position);
    }
}

/// The server does not say which key it minds.
fn names(keys: &[(String, EntryId)]) -> String {
    keys.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join("`, `")
}

fn xread(keys: &str) -> Call<'_> {
    Call { command: "XREAD", key: keys, effect: Effect::Read }
}

impl Tail for RedisTail {
    fn next<'a>(&'a mut self, keys: &'a [(String, EntryId)], count: usize, wait: Duration) -> Reply<'a, Vec<Found>> {
        Box::pin(async move {
            let wait = if self.bell.rung.swap(false, Ordering::AcqRel) { Duration::ZERO } else { wait };
            let found = self.wait(keys, count, wait).await;
            self.bell.rung.store(false, Ordering::Release);
            found
        })
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.bell) as Arc<dyn Interrupt>
    }
}

impl Interrupt for Bell {
    fn interrupt(&self) -> Reply<'_, ()> {
        Box::pin(async move {
            self.rung.store(true, Ordering::Release);
            self.idle.notify_waiters();
            let client = self.client.load(Ordering::Acquire);
            if client == 0 {
                return Ok(());
            }
            let call = Call { command: "CLIENT UNBLOCK", key: "", effect: Effect::Read };
            let unblock = |mut connection| async move {
                cmd("CLIENT").arg("UNBLOCK").arg(client).query_async::<Value>(&mut connection).await
            };
            self.commands.run(call, unblock).await.map(drop)
        })
    }
}
