//! A reader that waits: XREAD BLOCK on its own connection, ended from outside with CLIENT UNBLOCK.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use redis::{Value, cmd};
use streams_core::broker::{BrokerError, Found, Interrupt, Reply, Tail};
use streams_core::{Entry, EntryId};
use tokio::sync::Notify;

use super::call::{Call, Effect, explain, is_broken, unexpected};
use super::connection::{FOR_ENTRIES, Link, Target};
use super::line::Connection;
use super::parse::{self, Parsed};
use super::scripts;
use crate::clock::millis;

/// How much longer than BLOCK an answer may take, because the clock of a server may jump, and its BLOCK with it.
const MARGIN: Duration = Duration::from_secs(5);

/// Up to this many keys, the same write asks for the entries at their positions. With more keys a second write asks,
/// only for streams with news.
const AT_ONCE: usize = 8;

/// Up to this weight the entry at a position is answered whole. A larger one would be read again with each wait, so a
/// script answers it in short, and only where there is news.
const SMALL: usize = 4 * 1024;

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) struct RedisTail {
    target: Arc<Target>,
    connection: Option<Connection>,
    /// Whether a command has no answer yet because its future was dropped.
    in_flight: bool,
    /// The newest entry read of each key, if it is a small one.
    small: HashMap<String, EntryId>,
    bell: Arc<Bell>,
}

/// Ends a wait.
struct Bell {
    /// The connection for commands, because the waiting one cannot send.
    commands: Arc<Link>,
    /// The id of the waiting connection; 0 when there is none.
    client: AtomicI64,
    /// Whether it was rung since the last wait began. Then the next wait ends at once.
    rung: AtomicBool,
    /// Ends waits without a key, which the server does not know.
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
        Self {
            target: Arc::clone(target),
            connection: None,
            in_flight: false,
            small: HashMap::new(),
            bell: Arc::new(bell),
        }
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

    /// Otherwise the server would keep what it could not send, or wait, as long as it considers the connection alive.
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
        // BLOCK 0 would wait for ever, and the server refuses the largest numbers.
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
        let is_small = |(key, position): &(String, EntryId)| self.small.get(key) == Some(position);
        let at_once = keys.len() <= AT_ONCE;
        let asked: Vec<_> = (0..keys.len()).filter(|key| at_once && is_small(&keys[*key])).collect();
        asked.iter().for_each(|key| whole(&mut reading, &keys[*key]));

        let mut replies = self.query(&reading, wait, keys).await?.into_iter();
        let read = parse::read(replies.next().unwrap_or_default(), keys).map_err(unexpected(xread(&names(keys))))?;
        let mut positions: HashMap<_, _> = asked.into_iter().zip(replies).collect();
        let open: Vec<_> = read.iter().map(|(key, _)| *key).filter(|key| !positions.contains_key(key)).collect();
        if !open.is_empty() {
            let mut asking = redis::pipe();
            for key in &open {
                let key = &keys[*key];
                if self.small.get(&key.0) == Some(&key.1) {
                    whole(&mut asking, key)
                } else {
                    in_short(&mut asking, key)
                }
            }
            positions.extend(open.into_iter().zip(self.query(&asking, Duration::ZERO, keys).await?));
        }
        // Keys that are no longer read must leave nothing behind.
        if self.small.len() > keys.len() {
            self.small.retain(|name, _| keys.iter().any(|(key, _)| key == name));
        }
        let found = read.into_iter().map(|(key, entries)| {
            let (name, after) = &keys[key];
            match entries.last().filter(|last| last.weight() <= SMALL) {
                Some(last) => self.small.insert(name.clone(), last.id),
                None => self.small.remove(name),
            };
            let reply = positions.remove(&key).unwrap_or_default();
            let position = position(reply, *after).map_err(unexpected(xread(name)))?;
            Ok(Found { key, position, entries })
        });
        found.collect()
    }

    /// Sends commands and reads their replies; the first may block for as long as `wait`.
    async fn query(
        &mut self,
        commands: &redis::Pipeline,
        wait: Duration,
        keys: &[(String, EntryId)],
    ) -> Result<Vec<Value>, BrokerError> {
        let mut connection = self.connection().await?;
        connection.wait_for(wait.saturating_add(MARGIN));
        self.in_flight = true;
        let mut reply = commands.query_async(&mut connection).await;
        if let Err(error) = &reply
            && error.code() == Some("NOSCRIPT")
        {
            // A server forgets its scripts when it restarts.
            reply = match scripts::PAGE.load_async(&mut connection).await {
                Ok(_) => commands.query_async(&mut connection).await,
                Err(error) => Err(error),
            };
        }
        self.in_flight = false;
        reply.map_err(|error| {
            if is_broken(&error) {
                self.give_up();
            }
            explain(xread(&names(keys)), error)
        })
    }
}

/// Asks for the whole entry at a position. It runs after the read: an entry that is still there was there all along.
fn whole(commands: &mut redis::Pipeline, (key, position): &(String, EntryId)) {
    let position = position.to_string();
    commands.cmd("XRANGE").arg(key).arg(&position).arg(&position);
}

/// Asks for it in short, because it may be large.
fn in_short(commands: &mut redis::Pipeline, (key, position): &(String, EntryId)) {
    let command = commands.cmd("EVALSHA").arg(scripts::PAGE.get_hash()).arg(1).arg(key);
    command.arg(position.to_string()).arg(1).arg(0);
}

/// The entry at a position, from either reply.
fn position(reply: Value, at: EntryId) -> Parsed<Option<Arc<Entry>>> {
    let entries = match reply {
        Value::Array(mut answer) if matches!(answer.first(), Some(Value::BulkString(_) | Value::SimpleString(_))) => {
            answer.pop().unwrap_or_default()
        }
        reply => reply,
    };
    Ok(parse::entries(entries)?.into_iter().next().filter(|entry| entry.id == at))
}

/// The names of the keys, because the server does not say which one its error is about.
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
