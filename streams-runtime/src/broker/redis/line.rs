//! A line to the server, dialled without the executor's threads, and given up when it is silent, not when a reply is
//! long.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::clock::{after, millis};
use crate::sync::lock;

/// How long a silent peer is assumed to be there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The most look-ups of names at once, each on a thread: one that hangs outlives its caller.
const LOOK_UPS: usize = 4;
/// The most addresses of a name that are tried, all at once, because any of them may not answer.
const ADDRESSES: usize = 8;
/// How much of a server's first bytes is kept: a server that ends the connection at once gives its reason in one line.
const FIRST_WORDS: usize = 256;

/// Looks up names on threads of its own, because handlers may hold all of the executor's.
#[derive(Debug, Clone)]
pub(super) struct Names {
    look_ups: Arc<Semaphore>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { look_ups: Arc::new(Semaphore::new(LOOK_UPS)) }
    }

    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let look_up = Arc::clone(&self.look_ups).acquire_owned().await.map_err(io::Error::other)?;
        let (answer, answered) = oneshot::channel();
        let host = host.to_owned();
        std::thread::Builder::new().name("streams-names".to_owned()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            drop(look_up);
            // The caller may have given up.
            let _ = answer.send(found);
        })?;
        let found: Vec<_> = answered.await.map_err(io::Error::other)??;
        if found.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(found)
    }
}

/// The place where a connection failed.
pub(super) enum Missed {
    /// The name has no address, or none that was found in time.
    Name(io::Error),
    /// Before the server received anything.
    Connect(io::Error),
}

/// Connects to a host and port.
pub(super) async fn dial(names: &Names, host: &str, port: u16, deadline: Instant) -> Result<Line, Missed> {
    let addresses = in_time(deadline, names.addresses(host, port)).await.map_err(Missed::Name)?;
    let connect = async {
        let stream = first_of(addresses).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Line::over(stream))
    };
    in_time(deadline, connect).await.map_err(Missed::Connect)
}

async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    for address in addresses.into_iter().take(ADDRESSES) {
        attempts.spawn(TcpStream::connect(address));
    }
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    while let Some(attempt) = attempts.join_next().await {
        match attempt.map_err(io::Error::other).flatten() {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects to a socket of this machine.
#[cfg(unix)]
pub(super) async fn dial_socket(path: &Path, deadline: Instant) -> Result<Line, Missed> {
    let connected = in_time(deadline, tokio::net::UnixStream::connect(path)).await;
    connected.map(Line::over).map_err(Missed::Connect)
}

#[cfg(not(unix))]
pub(super) async fn dial_socket(_: &Path, _: Instant) -> Result<Line, Missed> {
    Err(Missed::Connect(io::ErrorKind::Unsupported.into()))
}

pub(super) async fn in_time<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream of bytes that records when it last moved. TLS is above it, because TLS shows only whole records.
pub(super) struct Line {
    stream: Box<dyn Stream>,
    life: Arc<Life>,
    /// Whether the last write found no room. The next write that succeeds then shows that the peer takes bytes.
    full: bool,
    /// Whether a byte has arrived.
    heard: bool,
}

/// The time when a line last moved.
#[derive(Debug)]
pub(super) struct Life {
    began: Instant,
    /// Milliseconds since then.
    moved: AtomicU64,
    /// The first words of the server.
    first_words: Mutex<Vec<u8>>,
}

impl Life {
    fn moves(&self) {
        self.moved.store(millis(self.began.elapsed()), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        after(self.began, Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    fn hears(&self, bytes: &[u8]) {
        self.moves();
        let mut words = lock(&self.first_words);
        if words.is_empty() {
            words.extend(bytes.iter().take(FIRST_WORDS));
        }
    }

    /// The first words of the server. The crate drops bytes that arrive before any call.
    pub(super) fn first_words(&self) -> String {
        String::from_utf8_lossy(&lock(&self.first_words)).into_owned()
    }
}

impl Line {
    fn over(stream: impl Stream + 'static) -> Self {
        let life = Life { began: Instant::now(), moved: AtomicU64::new(0), first_words: Mutex::default() };
        Self { stream: Box::new(stream), life: Arc::new(life), full: false, heard: false }
    }

    pub(super) fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life)
    }

    /// Reads once more, because a write that fails hides the bytes that have arrived.
    fn listen_once_more(&mut self, cx: &mut Context<'_>) {
        let mut words = [0; FIRST_WORDS];
        let mut buffer = ReadBuf::new(&mut words);
        if let Poll::Ready(Ok(())) = Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            self.life.hears(buffer.filled());
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(new @ [_, ..]) = buffer.filled().get(before..) {
            match self.heard {
                true => self.life.moves(),
                false => self.life.hears(new),
            }
            self.heard = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        match &written {
            Poll::Pending => self.full = true,
            Poll::Ready(Ok(_)) if std::mem::take(&mut self.full) => self.life.moves(),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(_)) => self.listen_once_more(cx),
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection as the server knows it. An id alone may belong to another one after the server restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) address: String,
}

/// How long a call waits for its reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The longest time in which nothing moves on the line.
    pub(super) silence: Duration,
    /// The longest time altogether. A server that sends a byte now and then must not hold its callers for ever.
    pub(super) in_all: Duration,
    /// Whether replies hold lists of entries, which are then sliced.
    pub(super) lists: bool,
}

/// A connection whose calls wait while the line moves.
#[derive(Clone)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    patience: Patience,
    shared: Arc<Shared>,
}

struct Shared {
    life: Arc<Life>,
    /// `None` if the user may not ask.
    peer: Option<Peer>,
    /// Whether the user may run transactions, as far as was asked.
    transacts: AtomicBool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(inner: MultiplexedConnection, life: Arc<Life>, patience: Patience) -> Self {
        let shared = Shared { life, peer: None, transacts: AtomicBool::new(false) };
        Self { inner, patience, shared: Arc::new(shared) }
    }

    /// The same connection, with the server's name for it.
    pub(super) fn known_as(self, peer: Option<Peer>) -> Self {
        let shared = Shared { life: Arc::clone(&self.shared.life), peer, transacts: AtomicBool::new(false) };
        Self { shared: Arc::new(shared), ..self }
    }

    pub(super) fn peer(&self) -> Option<&Peer> {
        self.shared.peer.as_ref()
    }

    /// Sets how long the calls of this handle wait while nothing moves.
    pub(super) fn wait_for(&mut self, silence: Duration) {
        self.patience.silence = silence;
    }

    /// Asks, once, whether the user may run transactions. Behind a MULTI that is refused each command would run by
    /// itself.
    pub(super) async fn check_transactions(&mut self) -> RedisResult<()> {
        if self.shared.transacts.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut empty = redis::pipe();
        empty.cmd("MULTI").cmd("EXEC").ignore_errors();
        for reply in empty.query_async::<Vec<RedisResult<Value>>>(self).await? {
            reply?;
        }
        self.shared.transacts.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(while_it_moves(&self.shared.life, self.patience, self.inner.send_packed_command(command)))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let reply = self.inner.send_packed_commands(commands, offset, count);
        Box::pin(while_it_moves(&self.shared.life, self.patience, reply))
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

/// Waits for a reply while anything moves on the line, for whatever call, because replies come in order.
async fn while_it_moves<T>(
    life: &Life,
    patience: Patience,
    reply: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    let began = Instant::now();
    let mut until = after(began, patience.silence);
    let end = after(until, patience.in_all);
    tokio::pin!(reply);
    loop {
        if let Ok(reply) = timeout_at(until, &mut reply).await {
            return reply;
        }
        let next = after(life.last(), patience.silence).min(end);
        if next <= until {
            return Err(RedisError::from(io::Error::from(io::ErrorKind::TimedOut)));
        }
        until = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Patience = Patience { silence: SECOND, in_all: Duration::from_secs(60), lists: false };

    fn life() -> Life {
        Life { began: Instant::now(), moved: AtomicU64::new(0), first_words: Mutex::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_is_waited_for_while_the_line_moves_and_no_longer() {
        let (life, began) = (life(), Instant::now());
        let moving = async {
            for _ in 0..40 {
                tokio::time::sleep(SECOND / 2).await;
                life.moves();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            reply = while_it_moves(&life, PATIENCE, std::future::pending::<RedisResult<()>>()) => assert!(reply.unwrap_err().is_timeout()),
            () = moving => {}
        }
        assert_eq!(began.elapsed().as_secs(), 21, "a second after the last byte");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_moves_for_ever_is_given_up_at_last() {
        let (life, began) = (life(), Instant::now());
        let moving = async {
            loop {
                tokio::time::sleep(SECOND / 2).await;
                life.moves();
            }
        };
        tokio::select! {
            reply = while_it_moves(&life, PATIENCE, std::future::pending::<RedisResult<()>>()) => assert!(reply.unwrap_err().is_timeout()),
            () = moving => {}
        }
        assert_eq!(began.elapsed().as_secs(), 61);
    }
}
