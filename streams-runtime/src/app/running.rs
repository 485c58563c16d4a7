//! An app that runs: what can be asked of it, and how it stops.

use std::fmt;
#[cfg(feature = "http")]
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError};
use streams_core::keys::StreamKey;
use streams_core::{ConsumerInfo, EntryId, EventInfo, Start, StreamEvent};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::after;
#[cfg(feature = "console")]
use crate::console::Console;
use crate::declared::stream_properties;
use crate::error::Error;
use crate::operate::Admin;
#[cfg(feature = "http")]
use crate::ops::http;
use crate::ops::{DeadLetters, Monitor, Phase, Progress, Status, extent};
use crate::publisher::Publisher;
use crate::reader::{Read, Tails};
use crate::shutdown::{PARTING, Shutdown, Stopped};

/// How long [`Running::settled`] waits for news before it asks the broker itself.
const ASK: Duration = Duration::from_millis(200);

/// An app that runs. Dropping it is a crash: groups stop where they are and leases run out by themselves.
// Its fields are one value, because one start makes them and one stop ends them.
pub struct Running {
    /// The tasks beside the groups: the notes for other builds, the members, the trims, the looks at the ends of streams, the snapshots.
    pub(super) _background: Vec<AbortOnDropHandle<()>>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) namespace: Option<String>,
    pub(super) events: Vec<&'static EventInfo>,
    pub(super) publisher: Publisher,
    pub(super) progress: Vec<Arc<Progress>>,
    pub(super) changed: Arc<Notify>,
    pub(super) consumers: Vec<&'static ConsumerInfo>,
    pub(super) banner: Vec<String>,
    pub(super) tasks: JoinSet<()>,
    pub(super) tails: Tails,
    pub(super) shutdown: Shutdown,
    pub(super) deadline: Duration,
    pub(super) monitor: Monitor,
    #[cfg(feature = "http")]
    pub(crate) http: Option<http::Endpoint>,
    #[cfg(feature = "console")]
    pub(super) console: Console,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("broker", &self.broker)
            .field("groups", &self.progress.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The groups end with their tasks; the tails belong to nobody and would keep their connections.
        self.tails.end();
    }
}

impl Running {
    /// Publishes to the app's broker, in its namespace.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// The consumers as declared, sorted by stream, group and name.
    pub fn consumers(&self) -> &[&'static ConsumerInfo] {
        &self.consumers
    }

    /// The status of every group. This does not ask the broker.
    pub fn status(&self) -> Status {
        self.monitor.status()
    }

    /// Health and metrics of the app, for a service's own endpoints.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Where `/metrics`, `/livez` and `/readyz` are answered; with port 0 in the configuration the system has chosen one.
    #[cfg(feature = "http")]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(http::Endpoint::address)
    }

    /// The web console of the app's broker and namespace, with the app's own handlers, to nest in a service's own routes. It
    /// is read-only until it has a [`token`](Console::token).
    ///
    /// ```no_run
    /// # async fn example(running: streams_runtime::Running) {
    /// let service: axum::Router = axum::Router::new().nest("/internal/streams", running.console().router());
    /// # }
    /// ```
    #[cfg(feature = "console")]
    pub fn console(&self) -> Console {
        self.console.clone()
    }

    /// The dead letters of a group on the stream of `E`.
    pub fn dead_letters<E: StreamEvent>(&self, group: &str) -> DeadLetters<E> {
        DeadLetters::new(Arc::clone(&self.broker), &self.stream_key(E::INFO), group)
    }

    /// Reads the events of type `E` from here up to what the stream holds now: for tools, tests and back-fills.
    ///
    /// No group is made, and nothing is written to the server. Other events of the stream are left out, and so is what is trimmed
    /// before it is read. At most about 4 MiB are held in memory. The server's user needs the rights of a consumer
    /// ([`Acl::consume`](crate::broker::Acl::consume)).
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// use streams_runtime::{App, Start, stream_event};
    ///
    /// #[stream_event(stream = "trades")]
    /// struct Trade { price: f64 }
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = App::linked().publish_only().from_environment().start().await?;
    /// let mut trades = app.read::<Trade>(Start::Earliest);
    /// while let Some(trade) = trades.next().await {
    ///     match trade {
    ///         Ok(trade) => println!("{} {}", trade.entry_id(), trade.event.price),
    ///         // An entry that is no such event: it is named, and the reading goes on behind it.
    ///         Err(error @ streams_runtime::ReadError::Undecodable { .. }) => eprintln!("{error}"),
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn read<E: StreamEvent>(&self, from: Start) -> Read<E> {
        Read::new(Arc::clone(&self.broker), self.stream_key(E::INFO), from, false)
    }

    /// As [`Running::read`], and then waits for further events, on a connection of its own, until it is dropped.
    pub fn follow<E: StreamEvent>(&self, from: Start) -> Read<E> {
        Read::new(Arc::clone(&self.broker), self.stream_key(E::INFO), from, true)
    }

    /// An operator's acts on the groups of the app's broker and namespace.
    pub fn admin(&self) -> Admin {
        let keys = self.progress.iter().map(|progress| &progress.key);
        let driven = keys.map(|key| (key.state().to_owned(), key.is_queue())).collect();
        Admin::at(Arc::clone(&self.broker), self.namespace.clone(), driven)
    }

    pub(super) fn stream_key(&self, info: &'static EventInfo) -> StreamKey {
        let properties = stream_properties(info.stream, self.events.iter().chain([&info]));
        StreamKey::new(self.namespace.as_deref(), info.stream, properties.partitions)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The partitions that the app's groups read, each as often as groups read it.
    #[cfg(feature = "testing")]
    pub(crate) fn partitions(&self) -> impl Iterator<Item = &streams_core::keys::PartitionKey> {
        self.progress.iter().map(|progress| progress.key.partition())
    }

    /// Waits until every group has settled what its stream held when this was called, here or in another process.
    ///
    /// # Errors
    /// When a group is halted, so that it would never come to that, or the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn settled(&self) -> Result<(), Error> {
        let mut behind = Vec::new();
        for progress in &self.progress {
            let tip = extent(&*self.broker, &progress.key).await?.map_or(EntryId::ZERO, |extent| extent.last);
            behind.push((progress, tip));
        }
        let mut asked = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            behind.retain(|(progress, tip)| progress.reached() < *tip);
            if behind.is_empty() {
                return Ok(());
            }
            for (progress, _) in &behind {
                if let Phase::Halted(halt) = progress.phase() {
                    return Err(Error::Halted(halt));
                }
            }
            if asked.elapsed() >= ASK {
                self.ask(&mut behind).await?;
                asked = Instant::now();
                continue;
            }
            let _ = tokio::time::timeout(ASK, changed).await;
        }
    }

    /// Asks the broker how far another owner is, and whether the entries that are missing
    /// have been deleted meanwhile.
    async fn ask(&self, behind: &mut Vec<(&Arc<Progress>, EntryId)>) -> Result<(), BrokerError> {
        let mut still = Vec::new();
        for (progress, tip) in std::mem::take(behind) {
            let at = match progress.key.is_queue() {
                true => self.broker.queue(&progress.key).await?.map(|queue| queue.settled()),
                false => self.broker.state(&progress.key).await?.map(|state| state.at),
            };
            let at = at.map_or(progress.reached(), |at| at.max(progress.reached()));
            let next = self.broker.read(progress.key.partition(), at, 1).await?;
            if next.first().is_some_and(|entry| entry.id <= tip) {
                still.push((progress, tip));
            }
        }
        *behind = still;
        Ok(())
    }

    /// Waits until every broadcast group has handled what its streams held when it began: until then the data that its
    /// handlers keep is not whole. `/readyz` says the same.
    ///
    /// ```no_run
    /// # async fn serve() -> Result<(), streams_runtime::Error> {
    /// let running = streams_runtime::App::linked().start().await?;
    /// running.caught_up().await?;
    /// // The copy is whole: begin to answer requests from it.
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When such a group is halted, or the app stops, so that it would never come to that.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn caught_up(&self) -> Result<(), Error> {
        let copies = || self.progress.iter().filter(|progress| progress.broadcast);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            for progress in copies() {
                if let Phase::Halted(halt) = progress.phase() {
                    return Err(Error::Halted(halt));
                }
            }
            if copies().all(|progress| progress.phase() == Phase::Following) {
                return Ok(());
            }
            tokio::select! {
                () = changed => {}
                () = self.shutdown.stopping() => return Err(Error::Stopping),
            }
        }
    }

    /// Waits until the app stops: by [`shutdown`](Self::shutdown), or because a broadcast group with `on_failure = "stop"` has
    /// given an event up. A service that does not use [`App::run`](crate::App::run) then calls `shutdown`, which says why.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn stopping(&self) {
        self.shutdown.stopping().await;
    }

    /// Stops the app: no new event is begun, handlers may finish until the deadline, then everything settled is committed and
    /// every lease given back. Then it waits, until the same deadline, for what [`Running::publisher`] is writing.
    ///
    /// # Cancel safety
    /// Dropping the future drops the app: see [`Running`].
    pub async fn shutdown(mut self) -> Stopped {
        let deadline = after(Instant::now(), self.deadline);
        self.shutdown.stop();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, finished).await.is_ok() {
            let is_written = tokio::time::timeout_at(deadline, self.publisher.flush()).await.is_ok();
            return match self.progress.iter().filter(|progress| progress.is_abandoned()).count() {
                0 if self.shutdown.has_failed() => Stopped::Failed,
                0 if !is_written => {
                    tracing::warn!(
                        "stopped: events that were being published are not answered at the deadline: they may be lost"
                    );
                    Stopped::Unwritten
                }
                0 => {
                    tracing::info!("stopped: every handler finished, everything is committed, every lease given back");
                    Stopped::Clean
                }
                groups => {
                    tracing::warn!(
                        groups,
                        "stopped: every handler finished, but not all of it is committed, or a lease is not given back"
                    );
                    Stopped::Uncommitted { groups }
                }
            };
        }
        let handlers = self.tasks.len();
        tracing::warn!(
            handlers,
            "handlers still run at the deadline of {}: they are dropped, their events come again",
            humantime::format_duration(self.deadline)
        );
        self.shutdown.cut();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        let cut = tokio::time::timeout(PARTING, finished).await;
        match cut {
            Ok(()) => Stopped::Aborted { handlers },
            Err(_) => {
                let handlers = self.tasks.len();
                tracing::error!(handlers, "handlers do not yield: their leases are kept until the process ends");
                // Aborting could not stop them either, and would give up their leases.
                self.tasks.detach_all();
                Stopped::Stuck { handlers }
            }
        }
    }

    /// Reports every halt from now on, once each: for a program that shows no logs.
    pub(super) fn report_halts(&self, report: impl Fn(&str) + Send + 'static) -> AbortOnDropHandle<()> {
        let (progress, changed) = (self.progress.clone(), Arc::clone(&self.changed));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut reported = vec![false; progress.len()];
            loop {
                let news = changed.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                for (progress, reported) in progress.iter().zip(&mut reported) {
                    let phase = progress.phase();
                    let halted = matches!(phase, Phase::Halted(_));
                    if let Phase::Halted(halt) = phase
                        && !*reported
                    {
                        report(halt.reason());
                    }
                    *reported = halted;
                }
                news.await;
            }
        }))
    }

    pub(super) fn banner(&self) -> &[String] {
        &self.banner
    }

    pub(super) fn stopper(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}
