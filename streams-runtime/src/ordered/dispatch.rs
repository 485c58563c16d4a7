//! The events of a partition that run side by side: those that wait, are charged, run, or have ended early.
//!
//! [`lanes`](super::lanes) decides which may start, and [`advance`](super::advance) calls the handlers and settles.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use streams_core::{Entry, EntryId, Outcome};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::commit::Committer;
use super::lanes::{Lanes, Ticket};
use crate::clock::until;
use crate::fence::ours;
use crate::group::{Bounds, Failed, Letter, SuspectPermit};
use crate::membership::Lease;
use crate::ops::Cause;
use crate::sync::{Waiting, awaited};

/// The events that are handled side by side.
///
/// Dropped, it cancels the handlers that run, at their next `.await`; [`Dispatch::finish`] waits for them.
pub(super) struct Dispatch {
    pub(super) lanes: Lanes<Taken, Settled>,
    /// The events under recovery that run next, in the order in which they were to start; at most as many as there are slots.
    pub(super) charging: VecDeque<Charging>,
    /// The permit for which the first of them waits.
    pub(super) permit: Option<Waiting<SuspectPermit>>,
    /// The event that runs beside nothing.
    pub(super) alone: Option<Ticket>,
    pub(super) calls: JoinSet<Returned>,
    /// By when each call has to be over to deserve the lease.
    pub(super) limits: BTreeSet<(Instant, Ticket)>,
    /// A dead letter in a commit that is not acknowledged: until it is, nothing starts and nothing is passed.
    pub(super) letter: Option<(EntryId, Cause)>,
    /// Nothing starts any more.
    pub(super) closing: bool,
    /// The entry that holds up the partition, with its failed attempts.
    pub(super) held_up: Option<(EntryId, u32)>,
    /// When the log last named it.
    pub(super) logged: Option<Instant>,
}

/// An event that was taken up.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) entry: Arc<Entry>,
    /// Which consumer of the group takes it.
    pub(super) consumer: usize,
}

/// An event on its way to its handler: it has to be charged first.
pub(super) struct Charging {
    pub(super) taken: Taken,
    /// `None` while its key is not known.
    pub(super) ticket: Option<Ticket>,
    pub(super) alone: bool,
    pub(super) permit: Option<SuspectPermit>,
    pub(super) charged: bool,
}

/// The record of an entry from its end until everything before it has ended, too. It leaves out the entry itself, because there may
/// be thousands.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) id: EntryId,
    pub(super) event_id: String,
    /// Whether a consumer of the group takes it.
    pub(super) is_event: bool,
    /// Name and version of an event that no consumer of the group takes.
    pub(super) passed_over: Option<(String, u32)>,
    pub(super) letter: Option<Letter>,
}

/// A call that has come to its end.
pub(super) struct Returned {
    pub(super) ticket: Ticket,
    pub(super) limit: Instant,
    /// `None` where the lease was lost before the handler ended.
    pub(super) result: Option<Result<Outcome, Failed>>,
}

/// How an entry is taken up that may run beside others.
#[derive(Debug)]
pub(super) enum Beside {
    /// Behind the events of its key.
    Lane { key: Arc<str>, consumer: usize },
    /// The same, when it is charged: before that nobody may ask for its key.
    Charged { consumer: usize },
    /// No handler is called with it.
    Over { letter: Option<Letter> },
    /// No handler is called again.
    Repeated,
}

impl Dispatch {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            lanes: Lanes::new(bounds),
            charging: VecDeque::new(),
            permit: None,
            alone: None,
            calls: JoinSet::new(),
            limits: BTreeSet::new(),
            letter: None,
            closing: false,
            held_up: None,
            logged: None,
        }
    }

    /// How many entries are read and not yet settled in the order of the stream.
    pub(super) fn len(&self) -> usize {
        self.lanes.len() + self.coming().count()
    }

    /// The entries that were read and whose key is not known yet.
    pub(super) fn coming(&self) -> impl Iterator<Item = &Charging> {
        self.charging.iter().filter(|charging| charging.ticket.is_none())
    }

    /// Whether everything that was taken up is settled, with its dead letters acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.charging.is_empty() && self.letter.is_none()
    }

    /// Whether an event may start. The events in flight come on top of what a commit allows.
    pub(super) fn may_start(&self, committer: &Committer<'_>) -> bool {
        let waits_for_others = self.alone.is_some() || self.charging.back().is_some_and(|last| last.alone);
        !self.closing && !waits_for_others && self.letter.is_none() && committer.ledger.has_room(1)
    }

    /// Whether the entry may be taken up: a slot is free for which nothing else is there. An entry whose key is known does
    /// not pass one whose key is not.
    pub(super) fn admits(&self, beside: &Beside) -> bool {
        let (coming, weight) =
            self.coming().fold((0, 0), |(n, sum), charging| (n + 1, sum + charging.taken.entry.weight()));
        let in_order = coming == 0 || matches!(beside, Beside::Charged { .. });
        in_order && self.lanes.is_idle(coming) && !self.lanes.is_full(coming, weight)
    }

    /// Takes all charges back: nothing runs that does not run yet, but what waits keeps its place.
    pub(super) fn uncharge(&mut self, committer: &mut Committer<'_>) {
        self.permit = None;
        for charging in &mut self.charging {
            charging.permit = None;
            if std::mem::take(&mut charging.charged) {
                committer.came_back(charging.taken.entry.id);
            }
        }
    }

    /// Cancels the handlers that run, and waits until they are over. One that does not yield keeps the partition as long,
    /// so that nobody begins beside that handler.
    pub(super) async fn cancel(&mut self, lease: &Lease) {
        if !self.calls.is_empty() {
            self.calls.shutdown().await;
            lease.handlers_until(None);
        }
    }

    /// Waits until a call has come to its end, until a suspect has its permit, or, with `may_start`, until another attempt may
    /// begin.
    ///
    /// # Cancel safety
    /// A call that has ended is not lost.
    pub(super) async fn happens(&mut self, may_start: bool) -> Option<Returned> {
        let retry = self.lanes.next_retry().filter(|_| may_start);
        tokio::select! {
            biased;
            Some(returned) = self.calls.join_next() => ours(returned),
            permit = awaited(&mut self.permit) => {
                self.permit = None;
                if let Some(charging) = self.charging.iter_mut().find(|charging| charging.permit.is_none()) {
                    charging.permit = Some(permit);
                }
                None
            }
            () = until(retry) => None,
        }
    }
}

impl Settled {
    pub(super) fn of(entry: &Entry, passed_over: bool, letter: Option<Letter>) -> Self {
        let event_id = entry.given_id().unwrap_or_default().to_owned();
        let passed_over = entry.event().filter(|_| passed_over).map(|(name, version)| (name.to_owned(), version));
        let is_event = passed_over.is_none() && letter.as_ref().is_none_or(|letter| !letter.consumer.is_empty());
        Self { id: entry.id, event_id, is_event, passed_over, letter }
    }
}
