//! The loop of a group from one ownership to the next, until the app stops; halts, refusals and panics included.

use std::time::Duration;

use streams_core::broker::GroupState;
use streams_core::{Backoff, EntryId};
use tokio::time::Instant;

use super::ended::Ended;
use super::halt::Halt;
use super::task::{GroupTask, REMINDER};
use crate::backoff::{OUTAGE_BACKOFF, wait};
use crate::fence::fenced;
use crate::ops::{Matter, Phase};

/// How often a halted group looks whether an operator has resumed or reset it.
const RESET_LOOK: Duration = Duration::from_secs(2);

/// The waits of a group that the server refuses, until an operator has mended the permission or the key.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(2), max: Duration::from_secs(30) };

/// The waits of a group that has panicked, whether or not an event is the cause: the group must not spin.
const PANICKED: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(30) };

/// How a group's events come to its handlers: in order, by whoever owns the partition, or as a work queue.
pub(crate) trait Engine: Send {
    /// Runs from the wait for a lease to the end of one ownership, or of one session.
    fn once(&mut self, group: &GroupTask) -> impl Future<Output = Ended> + Send;

    /// The partition belongs to another process now, or to none. The log says when this process owns it again.
    fn is_over(&mut self);

    /// The group has panicked: nothing was released, so the lease has to run out.
    fn panicked(&mut self);
}

/// The panics of a group since it last settled anything.
#[derive(Default)]
struct Panics {
    in_a_row: u32,
    /// The checkpoint at the last panic; for a work queue the counts of settled events.
    settled: EntryId,
}

impl GroupTask {
    /// Drives the group until the app stops. A halt or a lost lease is not the end of it, a stop is.
    pub(crate) async fn run(self, mut engine: impl Engine) {
        let mut failures: u32 = 0;
        let mut panics = Panics::default();
        loop {
            self.while_paused().await;
            if self.services.shutdown.is_stopping() {
                break;
            }
            let began = Instant::now();
            let ended = match fenced(engine.once(&self)).await {
                Ok(ended) => ended,
                Err(panic) => {
                    engine.panicked();
                    self.panicked(&panic, &mut panics).await
                }
            };
            self.seat.rest();
            if let Ended::Halted { .. } | Ended::Refused(_) = ended {
                self.seat.excuse();
            }
            match ended {
                Ended::Stopped => break,
                Ended::GivenUp | Ended::Paused => engine.is_over(),
                // The log says that for all groups at once.
                Ended::Fenced if self.services.outages.trouble().is_some() => {
                    tracing::debug!(
                        group = self.key.group(),
                        partition = self.key.partition().as_str(),
                        "the lease is lost: the server was away for longer"
                    );
                }
                Ended::Fenced => {
                    engine.is_over();
                    tracing::warn!(
                        group = self.key.group(),
                        partition = self.key.partition().as_str(),
                        "the lease is lost: it was not renewed in time, or another process has taken it"
                    );
                }
                Ended::Failed(error) => {
                    failures = if began.elapsed() > REMINDER { 1 } else { failures.saturating_add(1) };
                    if !self.contact.is_troubled() {
                        self.contact.failed(Matter::Lease, &error);
                    }
                    tokio::select! {
                        () = self.pause(wait(OUTAGE_BACKOFF, failures, self.services.random.fraction())) => {}
                        () = self.services.outages.over() => {}
                    }
                }
                Ended::Refused(error) => {
                    failures = if began.elapsed() > REMINDER { 1 } else { failures.saturating_add(1) };
                    self.contact.rest();
                    if self.log_refused(&error) {
                        engine.is_over();
                    }
                    self.pause(wait(REFUSED, failures, self.services.random.fraction())).await;
                }
                Ended::Restart | Ended::GivenWay(_) => {}
                Ended::Cut { loss, at } => {
                    // No lease is held, so there is nothing to release.
                    if let Ended::Halted { halt, .. } = self.answer(&loss, at).await {
                        self.halt(&halt).await;
                    }
                }
                Ended::Halted { halt, .. } => self.halt(&halt).await,
            }
            if self.services.shutdown.is_stopping() {
                break;
            }
        }
        self.progress.enter(Phase::Stopped);
    }

    /// Waits while somebody has paused the group. Nobody owns it then, so the checkpoint is read for its lag.
    async fn while_paused(&self) {
        let Some(pause) = self.seat.pause() else { return };
        self.contact.rest();
        if self.key.is_queue() {
            if let Ok(Some(state)) = self.services.broker.queue(&self.key).await {
                self.progress.queue(&state);
            }
        } else if let Ok(Some(state)) = self.services.broker.state(&self.key).await {
            self.progress.checkpoint(state.at);
        }
        self.progress.enter(Phase::Paused(pause));
        tokio::select! {
            () = self.services.shutdown.stopping() => {}
            () = self.seat.resumed() => {}
        }
    }

    /// A task of the runtime has panicked, or code of the user that no fence knows of.
    ///
    /// Nothing is released, so the panic counts as the end of a process for the events that were in flight. The next owner
    /// recovers them after the lease has run out, also where this process is the next owner. So an event that panics again and
    /// again is given up.
    async fn panicked(&self, panic: &str, panics: &mut Panics) -> Ended {
        self.progress.disowned(true);
        let counts = &self.progress.counts;
        let settled = match self.history.known() {
            Some(known) if !self.key.is_queue() => known.at,
            // A work queue has no checkpoint.
            _ => EntryId::new(counts.done.get(), counts.dead_lettered.get()),
        };
        if std::mem::replace(&mut panics.settled, settled) != settled {
            panics.in_a_row = 0;
        }
        panics.in_a_row = panics.in_a_row.saturating_add(1);
        // No event gets a crash for the first panic, and with the last one the event is given up. Two such events may be in
        // flight.
        let crashes = self.handlers.policies().map(|policy| policy.max_crashes).max().unwrap_or(1);
        let most = crashes.saturating_add(1).saturating_mul(2);
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        if panics.in_a_row >= most {
            panics.in_a_row = 0;
            return self.halted(Halt::Panics { times: most, last: panic.to_owned() });
        }
        tracing::error!(
            group,
            partition,
            panic,
            "bug in streams-runtime: a group panicked; its events in flight are charged as by a crash and run again when the lease has run out; please report it"
        );
        self.progress.enter(Phase::Retrying(format!("a panic: {panic}")));
        self.pause(wait(PANICKED, panics.in_a_row, self.services.random.fraction())).await;
        if !self.services.shutdown.is_stopping() {
            return Ended::Restart;
        }
        // The lease was not released.
        self.progress.abandon();
        Ended::Stopped
    }

    /// Logs that the group is halted, again and again, until an operator resumes or resets it, or the app stops.
    pub(crate) async fn halt(&self, halt: &Halt) {
        let reason = halt.of(&self.key).to_string();
        self.contact.rest();
        // Read before anybody can know of the halt, because an operator acts after that. Where the server does not answer, the
        // first answer counts.
        let state = self.services.broker.state(&self.key).await;
        let known = self.history.known().map(|known| known.reset);
        let since = |state: Option<&GroupState>| {
            let (reset, resume) = state.map_or((0, 0), |state| (state.reset, state.resume));
            (known.unwrap_or(reset), resume)
        };
        let mut before = state.ok().map(|state| since(state.as_ref()));
        self.progress.enter(Phase::Halted(halt.of(&self.key).for_status()));
        self.note(Some(halt));
        let mut logged: Option<Instant> = None;
        while !self.services.shutdown.is_stopping() {
            if logged.is_none_or(|logged| logged.elapsed() >= REMINDER) {
                logged = Some(Instant::now());
                tracing::error!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    reason,
                    "halted: no event is handled until this is mended, then the group resumed (`streams resume`) or reset (`streams reset`), or the program started again"
                );
            }
            self.pause(RESET_LOOK).await;
            let Ok(Some(state)) = self.services.broker.state(&self.key).await else { continue };
            let (group, partition) = (self.key.group(), self.key.partition().as_str());
            let (reset, resume) = *before.get_or_insert_with(|| since(Some(&state)));
            if state.reset != reset {
                tracing::info!(group, partition, at = %state.at, "somebody has reset the group: going on");
                return self.note(None);
            }
            if state.resume != resume {
                tracing::info!(group, partition, at = %state.at, "somebody has resumed the group: going on");
                return self.note(None);
            }
        }
    }
}
