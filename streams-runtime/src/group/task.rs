//! A group on a partition, whatever its delivery: its parts, its status and its log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, DeadBounds, Need, Notes};
use streams_core::keys::{GroupKey, StreamKey};
use streams_core::{Checkpoint, EntryId, OnDataLoss, Start};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ended::Ended;
use super::halt::Halt;
use super::handlers::Handlers;
use super::history::History;
use super::news::{GroupNews, News};
use super::suspects::SuspectLock;
use crate::halt::HaltNote;
use crate::membership::{Lease, Leases, Seat};
use crate::ops::{Contact, Matter, Outages, Phase, Progress};
use crate::random::Random;
use crate::reader::{Follower, Means, TAKE, Tails, Taken};
use crate::shutdown::{FAREWELL, Shutdown};
use crate::sync::lock;

/// How often the log says again that a group does not go on.
pub(super) const REMINDER: Duration = Duration::from_secs(60);

/// How many claims of an app are on their way at once. A lease runs from the moment when its claim was sent. So claims of
/// thousands of groups must not wait for each other on the connection. More at once would make none of them faster.
pub(crate) const CLAIMS: usize = 32;

/// The services that all groups of an app share.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) random: Arc<Random>,
    pub(crate) tails: Tails,
    pub(crate) leases: Leases,
    pub(crate) shutdown: Shutdown,
    pub(crate) lease_for: Duration,
    pub(crate) outages: Outages,
    /// One permit for each claim of a lease that is on its way.
    pub(crate) claims: Arc<Semaphore>,
    /// The order in which suspects run in this process.
    pub(crate) suspects: SuspectLock,
}

/// How far a group's work on a partition may spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The most events that run at once.
    pub(crate) running: usize,
    /// The most entries from the oldest unsettled one on: a crash repeats what is settled among them.
    pub(crate) entries: usize,
    /// The most bytes that the unsettled ones of these may have. An entry with more comes alone.
    pub(crate) bytes: usize,
}

/// For how long, and how many ids, a group remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dedupe {
    pub(crate) within: Duration,
    /// The most ids of a partition.
    pub(crate) most: u64,
}

/// The options of a group, from its consumers, the configuration and the environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupOptions {
    pub(crate) start: Start,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) on_data_loss: OnDataLoss,
    /// Whether a group of another program is taken over.
    pub(crate) adopt: bool,
    pub(crate) dead_bounds: DeadBounds,
    /// How many dead letters in a row are a storm.
    pub(crate) storm: u32,
    /// The most bytes that a payload of the stream may have.
    pub(crate) max_payload: usize,
    /// How many events it handles at once, and how far that may spread.
    pub(crate) lanes: Bounds,
    /// Whether it passes over events whose ids it has settled.
    pub(crate) dedupe: Option<Dedupe>,
}

/// A group on a partition.
pub(crate) struct GroupTask {
    pub(crate) services: Services,
    pub(crate) stream: StreamKey,
    pub(crate) key: GroupKey,
    pub(crate) seat: Arc<Seat>,
    pub(crate) handlers: Handlers,
    pub(crate) options: GroupOptions,
    pub(crate) progress: Arc<Progress>,
    pub(crate) history: History,
    pub(crate) contact: Contact,
    /// The news of its group, from all partitions.
    pub(crate) news: Arc<GroupNews>,
    /// The halt that the log last named, and when.
    pub(crate) logged: Mutex<Option<(String, Instant)>>,
    /// Whether a note beside the stream says that the group is halted.
    pub(crate) noted: AtomicBool,
}

impl GroupTask {
    /// The status shows that this process owns the partition, or takes part in its work. It shows trouble until the failed call
    /// has succeeded.
    pub(crate) fn owns(&self, epoch: u64) {
        self.progress.enter(match self.contact.trouble() {
            Some(reason) => Phase::Retrying(reason),
            None => Phase::Owning { epoch },
        });
        self.note(None);
    }

    /// Leaves a note beside the stream of why nothing is handled, or removes it: for those who look from outside. What the
    /// server does not take stays untold.
    pub(super) fn note(&self, halt: Option<&Halt>) {
        if !self.noted.swap(halt.is_some(), Ordering::Relaxed) && halt.is_none() {
            return;
        }
        let (broker, stream) = (Arc::clone(&self.services.broker), self.stream.clone());
        let name = HaltNote::name(self.key.group(), self.key.partition().index());
        let halt = halt.map(|halt| halt.of(&self.key).for_status());
        let by = self.seat.member().to_owned();
        let told = async move {
            let (mut write, mut gone) = (Notes::new(), Vec::new());
            match halt {
                Some(halt) => {
                    let kind = halt.kind().as_str().to_owned();
                    let note = HaltNote { at: broker.now().await?, by, kind, reason: halt.reason().to_owned() };
                    write.insert(name, note.text());
                }
                None => gone.push(name),
            }
            broker.notes(&stream, &write, &gone).await.map(drop)
        };
        tokio::spawn(async {
            if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, told).await {
                tracing::debug!(%error, "the note of a halt was not taken");
            }
        });
    }

    /// Logs a change of state, in one line with the other partitions of its group.
    pub(crate) fn log_news(&self, news: News) {
        self.news.report(news, self.key.partition().index());
    }

    pub(crate) fn halted(&self, halt: Halt) -> Ended {
        Ended::Halted { halt, keep: false }
    }

    /// The same end, noted as trouble in this matter where the server could not be used.
    pub(crate) fn noted(&self, matter: Matter, ended: Ended) -> Ended {
        if let Ended::Failed(error) = &ended {
            self.contact.failed(matter, error);
        }
        ended
    }

    /// Logs what the server refuses, unless the log said so lately. Returns whether it did.
    pub(crate) fn log_refused(&self, error: &BrokerError) -> bool {
        self.log_halted(&Halt::Refused { error: error.to_string() })
    }

    /// Logs why nothing is handled for now, unless the log said so lately. Returns whether it did.
    pub(crate) fn log_halted(&self, halt: &Halt) -> bool {
        let reason = halt.of(&self.key).to_string();
        if self.progress.enter(Phase::Halted(halt.of(&self.key).for_status())) {
            self.note(Some(halt));
        }
        let mut logged = lock(&self.logged);
        if logged.as_ref().is_some_and(|(before, at)| *before == reason && at.elapsed() < REMINDER) {
            return false;
        }
        *logged = Some((reason, Instant::now()));
        drop(logged);
        halt.of(&self.key).log();
        true
    }

    /// Shows and logs why a group that nobody can resume handles nothing any more in this process.
    pub(crate) fn stand_still(&self, halt: &Halt) {
        let halt = halt.of(&self.key).for_status();
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        tracing::error!(
            group,
            partition,
            reason = halt.reason(),
            "halted: no event is handled in this process until it is started again"
        );
        self.progress.enter(Phase::Halted(halt));
    }

    /// The group was made for the other delivery.
    pub(crate) fn wrong_mode(&self, mode: &str) -> Ended {
        self.halted(Halt::OtherDelivery { mode: mode.to_owned() })
    }

    /// The means by which its entries are read.
    pub(crate) fn means(&self) -> Means<'_> {
        Means {
            broker: &self.services.broker,
            tails: &self.services.tails,
            contact: &self.contact,
            key: &self.key,
            max_payload: self.options.max_payload,
        }
    }

    /// Waits, but not past a stop.
    pub(crate) async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = self.services.shutdown.stopping() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// Waits until the bell rings for this group.
    pub(crate) async fn rung(&self, bell: &mut Option<(Follower, EntryId)>) {
        let Some((bell, position)) = bell else { return std::future::pending().await };
        loop {
            match bell.wait(*position, None, TAKE).await {
                Taken::Entries(rings) => {
                    *position = rings.last().map_or(*position, |ring| ring.id);
                    if rings.iter().any(|ring| ring.field("group") == Some(self.key.group().as_bytes())) {
                        return;
                    }
                }
                Taken::Behind { floor } => *position = floor,
                // Without a bell the members' looks still find that the lease is free.
                Taken::Nothing | Taken::Broken(_) => std::future::pending().await,
            }
        }
    }

    /// Waits a moment for the last calls of an ownership or of a session. Fails with an end that takes the place of `ended`.
    pub(crate) async fn settled_last(
        &self,
        ended: &Ended,
        last: impl Future<Output = Result<(), Ended>>,
    ) -> Result<(), Ended> {
        match tokio::time::timeout(FAREWELL, last).await {
            Ok(Err(failed @ (Ended::Fenced | Ended::GivenWay(_)))) => return Err(failed),
            // A cut that a commit came upon is no reason to doubt the commit.
            Ok(Ok(()) | Err(Ended::Cut { .. })) => {}
            Ok(Err(failed)) => {
                self.left(ended, &format!("the last calls failed ({failed:?}): events that they settle come again"));
            }
            Err(_) => self.left(ended, "the last calls were not answered: events that they settle may come again"),
        }
        Ok(())
    }

    /// Gives the lease back, with the event for which another build is needed. `None` says that no answer came.
    pub(crate) async fn release(
        &self,
        ended: &Ended,
        lease: &Lease,
        need: Option<&Need>,
    ) -> Option<Result<bool, BrokerError>> {
        let call = self.services.broker.release(&self.key, lease.holder(), need);
        let released = tokio::time::timeout(FAREWELL, call).await.ok();
        let why = match &released {
            Some(Ok(_)) => return released,
            Some(Err(error)) => error.to_string(),
            None => "no answer came".to_owned(),
        };
        self.left(ended, &format!("the lease could not be given back ({why}): others take over when it runs out"));
        released
    }

    /// Logs that an ownership ended and something was left undone. While the server is away or refuses the group, that is
    /// expected, and the log says so already.
    pub(crate) fn left(&self, ended: &Ended, undone: &str) {
        self.progress.abandon();
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        if self.services.outages.trouble().is_some() || matches!(ended, Ended::Refused(_)) {
            tracing::debug!(group, partition, "{undone}");
        } else {
            tracing::warn!(group, partition, "{undone}");
        }
    }
}
