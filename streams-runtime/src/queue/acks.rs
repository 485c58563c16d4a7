//! The acks of a work queue's consumer: gathered, sent one call after the other, and sent again unchanged until
//! answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Acked, Acks, AttemptError, BrokerError, DeadBounds, Fields, Holder, Until, Wait};
use tokio::time::Instant;

use super::in_flight::{Flight, InFlight, Open};
use crate::clock::after;
use crate::group::{OPERATOR_RETRY, Resend};
use crate::ops::Cause;

/// The most entries that one call of acks ends: some milliseconds of the server's time.
const ENDS_A_CALL: usize = 500;
/// The most entries that have ended here without the server's knowledge. After a crash this many come again, besides
/// those in flight.
const MOST_UNACKED: usize = 1_000;
/// How long an ended entry waits for others while there is work, and how many go at once without a wait.
const GATHER: Duration = Duration::from_millis(20);
const GATHERED: usize = 64;

/// The outcome of an entry in flight, or a step towards it.
#[derive(Debug, Clone)]
pub(super) enum Disposition {
    /// The entry is settled.
    Ack,
    /// The entry is settled, because no known build handles an event of this name.
    Ignore { name: String, version: u32 },
    /// The entry is released, to be attempted again after this time.
    Retry { failed: u32, after: Duration, reason: String },
    /// The entry is released untried.
    Release,
    /// The entry is released untried, for a build that handles this event.
    ReleaseFor { name: String, version: u32 },
    /// The entry becomes a dead letter with these fields.
    DeadLetter { fields: Fields, cause: Cause },
    /// The entry stays in flight, and is about to run.
    Charge,
}

/// An entry with its disposition.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) flight: Flight,
    pub(super) disposition: Disposition,
}

impl End {
    fn is_letter(&self) -> bool {
        matches!(self.disposition, Disposition::DeadLetter { .. })
    }

    fn is_charge(&self) -> bool {
        matches!(self.disposition, Disposition::Charge)
    }

    /// Whether somebody waits for it, here or in another process.
    fn is_urgent(&self) -> bool {
        !matches!(self.disposition, Disposition::Ack | Disposition::Ignore { .. } | Disposition::Retry { .. })
    }
}

/// The entries of one chunk in a call.
#[derive(Default)]
struct Touched {
    over: BTreeSet<EntryId>,
    charged: BTreeSet<EntryId>,
}

fn touched(ends: &[End]) -> BTreeMap<u64, Touched> {
    let mut chunks: BTreeMap<u64, Touched> = BTreeMap::new();
    for end in ends {
        let (chunk, id) = end.flight;
        let touched = chunks.entry(chunk).or_default();
        if end.is_charge() { &mut touched.charged } else { &mut touched.over }.insert(id);
    }
    chunks
}

/// The call that acks these ends.
fn call(holder: &Holder, call: u64, ends: &[End], in_flight: &InFlight, dead_bounds: DeadBounds) -> Acks {
    let (mut back, mut dead, mut passed_over, mut error) = (Vec::new(), Vec::new(), BTreeSet::new(), None);
    for End { flight, disposition } in ends {
        let item = in_flight.item(*flight);
        let mut wait = |failed, until| back.push(Wait { id: item.id, failed, crashes: item.crashes, until });
        match disposition {
            Disposition::Ack | Disposition::Charge => {}
            Disposition::Ignore { name, .. } => {
                passed_over.insert(name.clone());
            }
            Disposition::Retry { failed, after, reason } => {
                wait(*failed, Until::After(*after));
                error = Some(AttemptError::new(item.id, *failed, reason));
            }
            Disposition::Release => wait(item.failed, Until::After(Duration::ZERO)),
            Disposition::ReleaseFor { name, version } => {
                wait(item.failed, Until::Needs { name: name.clone(), version: *version })
            }
            Disposition::DeadLetter { fields, .. } => dead.push(fields.clone()),
        }
    }
    let left = |(chunk, Touched { over, charged }): (u64, Touched)| {
        let open = in_flight.chunks.get(&chunk)?;
        Some((chunk, open.left(&over, &charged)))
    };
    Acks {
        holder: holder.clone(),
        call,
        chunks: touched(ends).into_iter().filter_map(left).collect(),
        back,
        error,
        dead,
        dead_bounds,
        passed_over: passed_over.into_iter().collect(),
    }
}

/// A call of acks on its way.
struct Sending {
    call: Resend<Acks, Acked>,
    ends: Vec<End>,
}

/// Dead letters for which there is no room.
struct Kept {
    letters: VecDeque<End>,
    until: Instant,
}

/// The acks that the server does not have yet.
#[derive(Default)]
pub(super) struct AckQueue {
    ends: Vec<End>,
    /// How many of these, and of those on their way, are dead letters.
    letters: usize,
    /// The time until which acks wait for others.
    pub(super) gathering: Option<Instant>,
    sending: Option<Sending>,
    kept: Option<Kept>,
    calls: u64,
}

impl AckQueue {
    pub(super) fn push(&mut self, flight: Flight, disposition: Disposition) {
        let end = End { flight, disposition };
        self.letters += usize::from(end.is_letter());
        self.ends.push(end);
    }

    /// Whether handlers may begin. None begins while its event could not be settled, nor while a dead letter is on its
    /// way, for which there may be no room.
    pub(super) fn may_start(&self) -> bool {
        let unacked = self.ends.len() + self.sending.as_ref().map_or(0, |sending| sending.ends.len());
        self.is_answered() && self.kept.is_none() && self.letters == 0 && unacked < MOST_UNACKED
    }

    /// Whether the server has answered the latest call, or still may.
    pub(super) fn is_answered(&self) -> bool {
        self.sending.as_ref().is_none_or(|sending| sending.call.failures() == 0)
    }

    /// Whether there is room for dead letters, as far as this process knows.
    pub(super) fn has_room(&self) -> bool {
        self.kept.is_none()
    }

    /// Whether no ack is left to send.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.sending.is_none()
    }

    /// The call on its way.
    pub(super) fn call(&mut self) -> Option<&mut Resend<Acks, Acked>> {
        self.sending.as_mut().map(|sending| &mut sending.call)
    }

    /// The time when dead letters without room are tried again.
    pub(super) fn kept_until(&self) -> Option<Instant> {
        self.kept.as_ref().map(|kept| kept.until)
    }

    /// Prepares the next call, if one should go now; answers whether it did. `busy` says that more ends may come soon.
    pub(super) fn next(
        &mut self,
        holder: &Holder,
        in_flight: &InFlight,
        dead_bounds: DeadBounds,
        busy: bool,
        now: Instant,
    ) -> bool {
        if self.sending.is_some() || self.ends.is_empty() {
            self.gathering = None;
            return false;
        }
        let waits = busy && self.ends.len() < GATHERED && !self.ends.iter().any(End::is_urgent);
        if waits && *self.gathering.get_or_insert(after(now, GATHER)) > now {
            return false;
        }
        self.gathering = None;
        let ends: Vec<_> = self.ends.drain(..self.ends.len().min(ENDS_A_CALL)).collect();
        self.calls += 1;
        let acks = call(holder, self.calls, &ends, in_flight, dead_bounds);
        self.sending = Some(Sending { call: Resend::new(Arc::new(acks), now), ends });
        true
    }

    /// Waits for the answer; `None` says that it is time to send the same call again.
    ///
    /// # Cancel safety
    /// The call stays on its way.
    pub(super) async fn answer(&mut self) -> Option<Result<Acked, BrokerError>> {
        match &mut self.sending {
            // A queue's process does not hurry when an outage is over.
            Some(sending) => sending.call.answer(std::future::pending()).await,
            None => std::future::pending().await,
        }
    }

    /// Notes that the server has done the call; answers the ends that it now has.
    pub(super) fn done(&mut self, in_flight: &mut InFlight, now: Instant) -> Vec<End> {
        let Some(Sending { ends, .. }) = self.sending.take() else { return Vec::new() };
        for (chunk, Touched { over, charged }) in touched(&ends) {
            if let Some(open) = in_flight.chunks.get_mut(&chunk) {
                open.acked(&over, &charged);
                if open.is_empty() {
                    in_flight.chunks.remove(&chunk);
                }
            }
        }
        let letters = ends.iter().filter(|end| end.is_letter()).count();
        self.letters -= letters;
        if letters > 0
            && let Some(kept) = &mut self.kept
        {
            // There was room for one dead letter, so there may be for the next.
            kept.until = now;
        }
        ends
    }

    /// Notes that the call changed nothing: another call acks these ends, each as `change` makes it.
    pub(super) fn refused(&mut self, change: impl Fn(Disposition) -> Disposition) {
        let Some(Sending { ends, .. }) = self.sending.take() else { return };
        // Only a call that takes effect uses its number.
        self.calls -= 1;
        let changed = ends.into_iter().map(|end| End { disposition: change(end.disposition), ..end });
        self.ends.splice(..0, changed);
    }

    /// Notes that there is no room for the dead letters on their way, which must not delay the others. Answers whether
    /// there were any.
    pub(super) fn keep_letters(&mut self, now: Instant) -> bool {
        let Some(sending) = &mut self.sending else { return false };
        let letters: Vec<_> = sending.ends.extract_if(.., |end| end.is_letter()).collect();
        if letters.is_empty() {
            return false;
        }
        self.letters -= letters.len();
        // There may be room for fewer of them.
        let until = if letters.len() > 1 { now } else { after(now, OPERATOR_RETRY) };
        let kept = self.kept.get_or_insert_with(|| Kept { letters: VecDeque::new(), until });
        kept.letters.extend(letters);
        kept.letters.make_contiguous().sort_by_key(|letter| letter.flight.1);
        kept.until = until;
        self.refused(|disposition| disposition);
        true
    }

    /// Tries the first dead letter without room again, when it is time.
    pub(super) fn try_letters(&mut self, now: Instant) {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.until <= now) else { return };
        kept.until = after(now, OPERATOR_RETRY);
        if let Some(letter) = kept.letters.pop_front() {
            self.letters += 1;
            self.ends.push(letter);
        }
        self.kept.take_if(|kept| kept.letters.is_empty());
    }

    /// Releases the entries whose dead letters have no room. They come again, and fail again.
    pub(super) fn release_letters(&mut self) {
        for End { flight, .. } in self.kept.take().map(|kept| kept.letters).unwrap_or_default() {
            self.push(flight, Disposition::Release);
        }
    }

    /// The acks of all entries in flight, for a later session: the unanswered call, unchanged, and one about the rest.
    /// All handlers must have been cancelled.
    pub(super) fn leave_behind(
        &mut self,
        holder: &Holder,
        in_flight: &mut InFlight,
        dead_bounds: DeadBounds,
    ) -> Vec<Arc<Acks>> {
        let mut calls: Vec<_> = self.call().map(|call| Arc::clone(&call.call)).into_iter().collect();
        // The second call follows after the first has been done.
        self.done(in_flight, Instant::now());
        self.release_letters();
        let mut ends: Vec<_> = std::mem::take(&mut self.ends);
        ends.retain(|end| !end.is_letter() && !end.is_charge());
        let said: BTreeSet<_> = ends.iter().map(|end| end.flight).collect();
        let rest = |(chunk, open): (&u64, &Open)| open.ids().map(|id| (*chunk, id)).collect::<Vec<_>>();
        let rest: Vec<_> = in_flight.chunks.iter().flat_map(rest).filter(|flight| !said.contains(flight)).collect();
        ends.extend(rest.into_iter().map(|flight| End { flight, disposition: Disposition::Release }));
        self.calls += 1;
        if !ends.is_empty() {
            calls.push(Arc::new(call(holder, self.calls, &ends, in_flight, dead_bounds)));
        }
        calls
    }
}
