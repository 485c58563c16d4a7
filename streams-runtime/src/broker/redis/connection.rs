//! The server's address, and connections to it that are made again after they break.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisConnectionInfo, RedisError, RedisResult, Value, cmd,
};
use streams_core::broker::{BrokerError, BrokerErrorKind};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::call::{CLUSTER, Call, Effect, explain, io_error, is_broken, is_of_no_use};
use super::line::{self, Connection, Missed, Names, Patience, Peer, Stream};
use super::parse;
use super::slices::Listed;
#[cfg(feature = "tls")]
use super::tls::{self, Shaker, Tls};

use crate::sync::lock;

/// How long a new connection may take, with its log-in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server that owes an answer may be silent. The crate's default of half a second would declare a busy one
/// dead.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// For small answers: a slow line brings a hundred kilobytes in this time, and the caller may hold a lease.
pub(super) const FOR_COMMANDS: Patience = Patience { silence: SILENCE, in_all: Duration::from_secs(60), lists: false };
/// For answers with entries: 256 entries of a megabyte over a line of half a megabyte per second.
pub(super) const FOR_ENTRIES: Patience = Patience { silence: SILENCE, in_all: Duration::from_secs(600), lists: true };
/// The most connections given up that are remembered. Each app has some twenty, and the next contact forgets all.
const GIVEN_UP: usize = 256;
/// The least time between a failed attempt to connect and the next one. However many groups ask, a server that starts
/// or has revoked a password sees ten attempts per second at most.
const PACE: Duration = Duration::from_millis(100);

/// A line in the answer of INFO from a node of a Redis Cluster.
const CLUSTERED: &str = "cluster_enabled:1";
/// The form of a URL, for messages.
const URL_FORM: &str = "redis[s]://[user:password@]host[:port][/database]";

/// A server, and how to log in.
pub(super) struct Target {
    info: ConnectionInfo,
    /// The user, the password and the database.
    settings: RedisConnectionInfo,
    /// The address without credentials, for logs and messages.
    shown: String,
    names: Names,
    #[cfg(feature = "tls")]
    tls: Option<Shaker>,
    /// Whether there ever was a connection. A log-in that is refused later is no mistake of the program: somebody is
    /// changing the server, and will repair it.
    known: AtomicBool,
    /// Connections that were given up, and that may still bring calls to the server. It is not enough to drop them: a
    /// network may hold bytes back and deliver them after later calls.
    given_up: std::sync::Mutex<Vec<Peer>>,
    /// Whether a warning was logged that the server does not let the program end connections.
    cannot_end: AtomicBool,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.shown).finish()
    }
}

impl Target {
    /// Reads a URL. No error repeats it, as it may hold a password.
    #[cfg(not(feature = "tls"))]
    pub(super) fn parse(url: &str) -> Result<Self, BrokerError> {
        Self::parse_plain(url)
    }

    /// Reads a URL. No error repeats it, as it may hold a password.
    #[cfg(feature = "tls")]
    pub(super) fn parse(url: &str, tls: &Tls) -> Result<Self, BrokerError> {
        let refused = |message: &str| Err(BrokerError::new(BrokerErrorKind::Refused, message));
        let Some((plain, insecure)) = tls::split(url) else {
            if *tls != Tls::new() {
                return refused(
                    "TLS is set up, but the Redis URL is a plain one; write rediss://, or leave out the TLS options",
                );
            }
            return Self::parse_plain(url);
        };
        let mut target = Self::parse_plain(&plain)?;
        if plain.contains('#') {
            return refused(
                "the Redis URL is wrong: `#` in user or password is written %23, and no word but #insecure may end it",
            );
        }
        let ConnectionAddr::Tcp(host, port) = target.info.addr() else {
            return refused("the Redis URL is wrong: TLS needs a host");
        };
        target.tls = Some(Shaker::new(tls, insecure, host, *port)?);
        target.shown = target.shown.replacen("redis://", "rediss://", 1);
        Ok(target)
    }

    fn parse_plain(url: &str) -> Result<Self, BrokerError> {
        let refused = |message: String| BrokerError::new(BrokerErrorKind::Refused, message);
        let scheme = match url.split_once("://") {
            Some((scheme @ ("redis" | "valkey" | "redis+unix" | "valkey+unix" | "unix"), _)) => scheme,
            Some(("rediss" | "valkeys", _)) => {
                return Err(BrokerError::new(
                    BrokerErrorKind::Unsupported,
                    "TLS (rediss://) is not built in; add the feature `tls` of streams-runtime in Cargo.toml",
                ));
            }
            _ => {
                return Err(refused(format!(
                    "the Redis URL has no scheme that is known; expected {URL_FORM} or redis+unix:///path"
                )));
            }
        };
        let info = redis::parse_redis_url(url)
            .ok_or_else(|| {
                refused(format!(
                    "the Redis URL cannot be read; expected {URL_FORM}, with `:`, `/`, `?`, `#`, `@` and `%` in user or \
                     password percent-encoded"
                ))
            })?
            .into_connection_info()
            .map_err(|error| {
                let what = match (scheme.ends_with("unix"), error.to_string()) {
                    (_, text) if text.contains("database") => "its database is not a number",
                    (_, text) if text.contains("rotocol") => "its protocol is neither resp2 nor resp3",
                    (_, text) if text.contains("wildcard") => "a wildcard address (0.0.0.0 or ::) is for servers",
                    (true, _) => "it has no absolute path: write redis+unix:///path/to/redis.sock",
                    (false, text) if text.contains("hostname") => "it has no host",
                    (false, _) => "user and password must be percent-encoded UTF-8",
                };
                refused(format!("the Redis URL is wrong: {what} (expected {URL_FORM})"))
            })?;
        let database = info.redis_settings().db();
        let shown = match info.addr() {
            ConnectionAddr::Unix(path) => format!("redis+unix://{}?db={database}", path.display()),
            ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("redis://[{host}]:{port}/{database}"),
            address => format!("redis://{address}/{database}"),
        };
        let settings = info.redis_settings().clone();
        // The crate reports every error of a log-in as "authentication failed", even one that asks to come back later.
        // So this module logs in by itself. In RESP3 the crate begins with the log-in and reports its error. A client
        // name would be one more command to allow.
        let first = match settings.protocol() {
            ProtocolVersion::RESP2 => RedisConnectionInfo::default(),
            _ => settings.clone(),
        };
        Ok(Self {
            info: info.set_redis_settings(first.set_skip_set_lib_name()),
            settings,
            shown,
            names: Names::new(),
            #[cfg(feature = "tls")]
            tls: None,
            known: AtomicBool::new(false),
            given_up: std::sync::Mutex::default(),
            cannot_end: AtomicBool::new(false),
        })
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether it logs in as the server's default user, who may do everything unless an operator has restricted it.
    pub(super) fn is_default_user(&self) -> bool {
        self.settings.username().is_none_or(|user| user == "default")
    }

    /// Connects, logs in, and ends the connections at the server that were given up before.
    pub(super) async fn connect(&self, patience: Patience) -> Result<Connection, BrokerError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let dialled = match self.info.addr() {
            ConnectionAddr::Unix(path) => line::dial_socket(path, deadline).await,
            ConnectionAddr::Tcp(host, port) => line::dial(&self.names, host, *port, deadline).await,
            _ => Err(Missed::Connect(std::io::ErrorKind::Unsupported.into())),
        };
        let line = match dialled {
            Ok(line) => line,
            Err(Missed::Connect(error)) => return Err(self.cannot_connect(&error.into(), "")),
            Err(Missed::Name(error)) => {
                let why = "its name leads nowhere; check the host in REDIS_URL, and the name servers of this machine";
                return Err(self.not_connected(why).caused_by(error));
            }
        };
        let life = line.life();
        #[cfg(feature = "tls")]
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(line),
            Some(tls) => match tls.shake(line, deadline).await {
                Ok(stream) => Box::new(stream),
                Err(error) => return Err(self.not_connected(&tls.explain(&error)).caused_by(error)),
            },
        };
        #[cfg(not(feature = "tls"))]
        let stream: Box<dyn Stream> = Box::new(line);
        let stream: Box<dyn Stream> = if patience.lists { Box::new(Listed::over(stream)) } else { stream };
        let connected = async {
            let inner = over(stream, self.info.redis_settings(), deadline).await?;
            let mut connection = Connection::new(inner, Arc::clone(&life), patience);
            if self.settings.protocol() == ProtocolVersion::RESP2 {
                if let Some(password) = self.settings.password() {
                    cmd("AUTH").arg(self.settings.username()).arg(password).exec_async(&mut connection).await?;
                }
                if self.settings.db() != 0 {
                    cmd("SELECT").arg(self.settings.db()).exec_async(&mut connection).await?;
                }
            }
            let given_up = self.given_up();
            let mut greeting = redis::pipe();
            greeting.cmd("PING").cmd("CLIENT").arg("INFO");
            kill(&mut greeting, &given_up);
            let replies = greeting.ignore_errors().query_async::<Vec<RedisResult<Value>>>(&mut connection).await?;
            let mut replies = replies.into_iter();
            // Another kind of server, or one that is not ready, is found here and not at a call with an effect.
            match replies.next() {
                // This server only says that it cannot save and so refuses writes: it can be read.
                Some(Err(error)) if error.code() == Some("MISCONF") => {}
                Some(Err(error)) => return Err(error),
                _ => {}
            }
            let peer = replies.next().and_then(Result::ok).and_then(peer);
            self.ended(&given_up, replies);
            // Asked once, because a server does not become part of a cluster while it runs. A user who may not ask
            // finds out at a key.
            let first = !self.known.load(Ordering::Relaxed);
            let told =
                if first { cmd("INFO").arg("cluster").query_async(&mut connection).await } else { Ok(Value::Nil) };
            let clustered =
                told.ok().and_then(|told| parse::text(told).ok()).is_some_and(|told| told.contains(CLUSTERED));
            self.known.fetch_or(!clustered, Ordering::Relaxed);
            Ok((connection.known_as(peer), clustered))
        };
        match connected.await {
            Ok((connection, false)) => Ok(connection),
            Ok((_, true)) => {
                Err(BrokerError::new(BrokerErrorKind::Unsupported, format!("cannot use {}: {CLUSTER}", self.shown)))
            }
            Err(error) => Err(self.cannot_connect(&error, &life.first_words())),
        }
    }

    /// Drops the connection. Its calls may be unanswered, so the server ends it before anything is sent again.
    pub(super) fn give_up(&self, connection: &Connection) {
        let Some(peer) = connection.peer() else { return };
        let mut given_up = lock(&self.given_up);
        if given_up.len() == GIVEN_UP {
            given_up.remove(0);
        }
        given_up.push(peer.clone());
    }

    fn given_up(&self) -> Vec<Peer> {
        lock(&self.given_up).clone()
    }

    /// Ends at the server the connections that were given up, over this connection.
    pub(super) async fn end_given_up(&self, connection: &mut Connection) -> RedisResult<()> {
        let given_up = self.given_up();
        if given_up.is_empty() {
            return Ok(());
        }
        let mut kills = redis::pipe();
        kill(&mut kills, &given_up);
        let replies = kills.ignore_errors().query_async::<Vec<RedisResult<Value>>>(connection).await?;
        self.ended(&given_up, replies.into_iter());
        Ok(())
    }

    /// Forgets the connections that the server has ended. A process that connects meanwhile must not go ahead of this.
    fn ended(&self, given_up: &[Peer], mut answers: impl Iterator<Item = RedisResult<Value>>) {
        let refused = answers.find_map(Result::err);
        lock(&self.given_up).retain(|peer| !given_up.contains(peer));
        if let Some(error) = refused
            && !self.cannot_end.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(server = self.shown, %error, "cannot end an abandoned connection at the server; its calls may take effect late");
        }
    }

    /// The error of a server that cannot be used now, whatever its cause.
    fn not_connected(&self, why: &str) -> BrokerError {
        BrokerError::new(BrokerErrorKind::Unavailable, format!("cannot connect to {}: {why}", self.shown))
    }

    /// The reason why no connection was made. The server may have given one before it ended the connection.
    fn cannot_connect(&self, error: &RedisError, first_words: &str) -> BrokerError {
        use BrokerErrorKind::{Refused, Unavailable, Unsupported};
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls.as_ref().filter(|_| is_ended(error)) {
            return self.not_connected(&tls.ended(error)).caused_by(self.without_password(error));
        }
        let text = error.to_string();
        // The crate gives some codes a kind of their own, and leaves them out of the text.
        let code = error.code().unwrap_or_default().to_owned();
        let has = |word| text.contains(word) || code == word || first_words.contains(word);
        let (kind, why) = if error.is_timeout() {
            (Unavailable, "no answer in time; is it a Redis server, and is the network open to it?")
        } else if error.is_connection_refusal() {
            match self.info.addr() {
                ConnectionAddr::Unix(_) => (
                    Unavailable,
                    "no server listens on this socket; is it running, and is the path in REDIS_URL right?",
                ),
                _ => (
                    Unavailable,
                    "connection refused; is the server running, and are host and port in REDIS_URL right?",
                ),
            }
        } else if error.kind() == ErrorKind::Parse {
            (
                Refused,
                "what answers there is not a Redis server; check host and port in REDIS_URL, and write rediss:// for a TLS \
                 port",
            )
        } else if error.kind() == ErrorKind::RESP3NotSupported {
            (Unsupported, "the server does not speak RESP3; remove protocol=resp3 from REDIS_URL")
        } else if has("WRONGPASS") {
            (Refused, "the server refused to log in (WRONGPASS); check the user and password in REDIS_URL")
        } else if has("NOAUTH") {
            (Refused, "the server asks for a password (NOAUTH); check the user and password in REDIS_URL")
        } else if has("without any password configured") {
            (
                Refused,
                "the server has no password; check the user and password in REDIS_URL, and that it is this server",
            )
        } else if has("DB index") {
            (
                Refused,
                "the server has no such database; check the number at the end of REDIS_URL (by default there are 16, \
                 from 0)",
            )
        } else if has("LOADING") {
            (Unavailable, "the server is still loading its data")
        } else if has("NOPERM") {
            (Refused, "the user may not log in or PING (NOPERM); grant it the commands with ACL")
        } else if has("BUSY") {
            (Unavailable, "the server is busy with somebody's script (BUSY); SCRIPT KILL ends it")
        } else if has("MASTERDOWN") {
            (Unavailable, "the server is a replica that has lost its primary (MASTERDOWN)")
        } else if has("max number of clients") {
            (Unavailable, "the server has no connection left; raise its maxclients, or close connections to it")
        } else if is_ended(error) {
            (
                Unavailable,
                "the server ended the connection; check that it runs, that its maxclients leaves room and that REDIS_URL is \
                 right, and write rediss:// for a TLS port",
            )
        } else {
            (Unavailable, "check that the server runs and that REDIS_URL is right")
        };
        let kind = if kind == Refused && self.known.load(Ordering::Relaxed) { Unavailable } else { kind };
        BrokerError::new(kind, format!("cannot connect to {}: {why}", self.shown))
            .caused_by(self.without_password(error))
    }

    /// The error's text without the password: some servers repeat commands that they do not know.
    fn without_password(&self, error: &RedisError) -> String {
        mask(error.to_string(), self.settings.password().unwrap_or_default())
    }
}

/// The fewest characters that count as the beginning of a password.
const TELLTALE: usize = 8;

/// A text without a password and everything behind it. Servers cut the text that they repeat, and change characters in
/// it.
fn mask(mut text: String, password: &str) -> String {
    let whole = password.len();
    let beginnings = (TELLTALE.min(whole).max(1)..=whole).filter_map(|length| password.get(..length));
    if let Some(found) = beginnings.filter_map(|beginning| text.find(beginning)).min() {
        text.replace_range(found.., "***");
    }
    text
}

/// Whether the peer ended an existing connection; TLS reports the reason as an error of its own.
fn is_ended(error: &RedisError) -> bool {
    let said_why = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidData;
    (error.is_connection_dropped() && !error.is_connection_refusal()) || io_error(error).is_some_and(said_why)
}

/// A connection over an existing stream. [`Connection`] times its calls.
async fn over(
    stream: Box<dyn Stream>,
    settings: &RedisConnectionInfo,
    deadline: Instant,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(settings, stream, config);
    let (connection, driver) = tokio::time::timeout_at(deadline, made)
        .await
        .map_err(|_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))??;
    // The task ends with the last handle of the connection.
    tokio::spawn(driver);
    Ok(connection)
}

/// Ends connections at the server, with the calls on them that it has not done yet.
fn kill(commands: &mut Pipeline, peers: &[Peer]) {
    for Peer { id, address } in peers {
        commands.cmd("CLIENT").arg("KILL").arg("ID").arg(*id).arg("ADDR").arg(address);
    }
}

/// Reads the answer of CLIENT INFO: `id=3 addr=127.0.0.1:35160 laddr=..`.
fn peer(info: Value) -> Option<Peer> {
    let info = match info {
        Value::VerbatimString { text, .. } => text,
        info => parse::text(info).ok()?,
    };
    let field = |name: &str| info.split(' ').find_map(|field| field.strip_prefix(name));
    Some(Peer { id: field("id=")?.parse().ok()?, address: field("addr=")?.to_owned() })
}

pub(super) const UNTOLD: &str = "of a version that it does not tell";

/// The server and its version, for messages.
pub(super) async fn version(connection: &mut Connection) -> String {
    let info = cmd("INFO").arg("server").query_async::<Value>(connection).await.map(parse::text);
    let Ok(Ok(info)) = info else { return UNTOLD.to_owned() };
    let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // Valkey answers with the Redis version that it is compatible with, and with its own.
    match (line("valkey_version"), line("redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, Some(version)) => format!("Redis {version}"),
        (None, None) => UNTOLD.to_owned(),
    }
}

/// A connection that many calls share, and that is replaced after it breaks.
#[derive(Debug)]
pub(super) struct Link {
    target: Arc<Target>,
    patience: Patience,
    slot: Mutex<Slot>,
    /// How many attempts to connect have ended.
    attempts: AtomicU64,
}

#[derive(Default)]
struct Slot {
    live: Option<Live>,
    /// Why the last attempt failed, and when.
    failure: Option<(BrokerErrorKind, String, Instant)>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("connected", &self.live.is_some()).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Live {
    connection: Connection,
    /// The number of the attempt that made it.
    attempt: u64,
}

impl Link {
    pub(super) fn new(target: &Arc<Target>, patience: Patience) -> Self {
        Self { target: Arc::clone(target), patience, slot: Mutex::default(), attempts: AtomicU64::new(0) }
    }

    /// Runs a command on the connection. A call that may run twice is sent again when the connection turns out to be
    /// dead.
    pub(super) async fn run<T, F>(&self, call: Call<'_>, send: impl Fn(Connection) -> F) -> Result<T, BrokerError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut again = call.effect != Effect::Once;
        loop {
            let Live { connection, attempt } = self.live().await?;
            let error = match send(connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // After a time-out, too: the peer may be gone silently, and only a new connection shows that.
            if is_of_no_use(&error) {
                self.drop_live(attempt, is_broken(&error)).await;
                if error.is_connection_dropped() && std::mem::take(&mut again) {
                    continue;
                }
            }
            return Err(explain(call, error));
        }
    }

    /// The connection, made if there is none. Calls that wait for the same attempt share its error.
    async fn live(&self) -> Result<Live, BrokerError> {
        let before = self.attempts.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok(live.clone());
        }
        if self.attempts.load(Ordering::Acquire) > before
            && let Some((kind, message, _)) = &slot.failure
        {
            return Err(BrokerError::new(*kind, message.clone()));
        }
        if let Some((.., failed)) = &slot.failure {
            tokio::time::sleep_until(*failed + PACE).await;
        }
        let connected = self.target.connect(self.patience).await;
        let attempt = self.attempts.fetch_add(1, Ordering::AcqRel) + 1;
        match connected {
            Ok(connection) => {
                slot.failure = None;
                Ok(slot.live.insert(Live { connection, attempt }).clone())
            }
            Err(error) => {
                slot.failure = Some((error.kind(), error.to_string(), Instant::now()));
                Err(error)
            }
        }
    }

    async fn drop_live(&self, attempt: u64, broken: bool) {
        let mut slot = self.slot.lock().await;
        if let Some(live) = slot.live.take_if(|live| live.attempt == attempt)
            && broken
        {
            self.target.give_up(&live.connection);
        }
    }
}

impl Drop for Link {
    /// Nobody reads the answers of calls that were given up, so they must have no effect.
    fn drop(&mut self) {
        if let Some(live) = &self.slot.get_mut().live {
            self.target.give_up(&live.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_repeats_of_a_password_is_masked() {
        let mask = |text: &str, password: &str| mask(text.to_owned(), password);
        assert_eq!(mask("unknown command 'AUTH', with 'hunter2' ", "hunter2"), "unknown command 'AUTH', with '***");
        assert_eq!(mask("with 'correct horse batt", "correct horse battery staple"), "with '***");
        assert_eq!(mask("with 'two lines of it'", "two lines\nof it"), "with '***");
        assert_eq!(mask("with 'ääää' ", "ääää"), "with '***");
        assert_eq!(mask("with 'correct'", "correct horse battery staple"), "with 'correct'");
        assert_eq!(mask("WRONGPASS", ""), "WRONGPASS");
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_that_is_not_built_in_names_the_feature() {
        for url in ["rediss://:hunter2@host", "valkeys://host#insecure"] {
            let error = Target::parse(url).unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::Unsupported);
            assert!(error.to_string().contains("the feature `tls`"), "{error}");
        }
    }
}
