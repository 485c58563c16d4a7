//! The life of a group from one ownership to the next, until the app stops; halts, refusals and panics included.

use std::time::Duration;

use streams_core::broker::GroupState;
use streams_core::{Backoff, EntryId};
use tokio::time::Instant;

use super::ended::Ended;
use super::halt::Halt;
use super::task::{Group, REMINDER};
use crate::backoff::{SERVER_AWAY, wait};
use crate::fence::fenced;
use crate::ops::{Matter, Phase};

/// How often a halted group looks whether somebody has resumed or reset it.
const RESET_LOOK: Duration = Duration::from_secs(2);

/// The waits of a group that the server refuses, until somebody has mended the permission or the key.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(2), max: Duration::from_secs(30) };

/// The waits of a group that has panicked: as little as it may be the event's doing, it must not turn in a circle.
const PANICKED: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(30) };

/// How a group's events come to its handlers: in order, by whoever owns the partition, or as a work queue.
pub(crate) trait Engine: Send {
    /// From the wait for a lease to what ends this ownership, or this membership.
    fn once(&mut self, group: &Group) -> impl Future<Output = Ended> + Send;

    /// The partition is somebody else's now, or nobody's: that this process has it once more is news.
    fn is_over(&mut self);

    /// The group has panicked: nothing was given back, so the lease has to run out.
    fn panicked(&mut self);
}

/// The panics of a group since it last settled anything.
#[derive(Default)]
struct Panics {
    in_a_row: u32,
    /// Up to where, or how much, it had settled at the last one.
    settled: EntryId,
}

impl Group {
    /// Drives the group until the app stops. A halt or a lost lease is not the end of it, a stop is.
    pub(crate) async fn run(self, mut engine: impl Engine) {
        let mut failures: u32 = 0;
        let mut panics = Panics::default();
        loop {
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
                Ended::HandedOver => engine.is_over(),
                // Said for all groups at once already.
                Ended::Lost if self.services.outages.trouble().is_some() => {
                    tracing::debug!(
                        group = self.key.group(),
                        partition = self.key.partition().as_str(),
                        "the lease is lost: the server was away for longer"
                    );
                }
                Ended::Lost => {
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
                        () = self.pause(wait(SERVER_AWAY, failures, self.services.random.fraction())) => {}
                        () = self.services.outages.over() => {}
                    }
                }
                Ended::Refused(error) => {
                    failures = if began.elapsed() > REMINDER { 1 } else { failures.saturating_add(1) };
                    self.contact.rest();
                    if self.say_refused(&error) {
                        engine.is_over();
                    }
                    self.pause(wait(REFUSED, failures, self.services.random.fraction())).await;
                }
                Ended::Again | Ended::Needs(_) => {}
                Ended::Cut { loss, at } => {
                    // No lease is held, so nothing is to be given back.
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

    /// A task of ours has panicked, or code of the user's that no fence knows of. What was in hand is charged with it as with
    /// the end of a process, since nothing is given back: whoever takes the lease after it has run out proves it, this
    /// process like any other. An event that does it again and again is given up by that.
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
        // The first is charged to nobody, and with the last the event is given up; there may be more than one of them in hand.
        let crashes = self.handlers.iter().map(|handler| handler.policy.max_crashes).max().unwrap_or(1);
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
            "bug in streams-runtime: a group panicked; what it had in hand is charged like the end of a process and runs again when the lease has run out; please report it"
        );
        self.progress.enter(Phase::Retrying(format!("a panic: {panic}")));
        self.pause(wait(PANICKED, panics.in_a_row, self.services.random.fraction())).await;
        if !self.services.shutdown.is_stopping() {
            return Ended::Again;
        }
        // The lease was not given back.
        self.progress.abandon();
        Ended::Stopped
    }

    /// Says that the group is halted, again and again, until somebody resumes or resets it or the app stops.
    pub(crate) async fn halt(&self, halt: &Halt) {
        let reason = halt.of(&self.key).to_string();
        self.contact.rest();
        // Before anybody can know of the halt: what an operator does after that is meant for it. Where the server cannot be
        // asked, the first answer says from where on.
        let state = self.services.broker.state(&self.key).await;
        let known = self.history.known().map(|known| known.reset);
        let since = |state: Option<&GroupState>| {
            let (reset, resume) = state.map_or((0, 0), |state| (state.reset, state.resume));
            (known.unwrap_or(reset), resume)
        };
        let mut before = state.ok().map(|state| since(state.as_ref()));
        self.progress.enter(Phase::Halted(halt.of(&self.key).for_status()));
        let mut said: Option<Instant> = None;
        while !self.services.shutdown.is_stopping() {
            if said.is_none_or(|said| said.elapsed() >= REMINDER) {
                said = Some(Instant::now());
                tracing::error!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    reason,
                    "halted: no event is handled until this is mended, then the group resumed (`Admin::resume`) or reset (`Admin::reset`), or the program started again"
                );
            }
            self.pause(RESET_LOOK).await;
            let Ok(Some(state)) = self.services.broker.state(&self.key).await else { continue };
            let (group, partition) = (self.key.group(), self.key.partition().as_str());
            let (reset, resume) = *before.get_or_insert_with(|| since(Some(&state)));
            if state.reset != reset {
                tracing::info!(group, partition, at = %state.at, "somebody has reset the group: going on");
                return;
            }
            if state.resume != resume {
                tracing::info!(group, partition, at = %state.at, "somebody has resumed the group: going on");
                return;
            }
        }
    }
}
