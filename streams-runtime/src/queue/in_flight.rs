//! The entries that a work queue's consumer has in flight: chunks, entries that wait here for a slot, and calls of
//! handlers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Item, Left, Need, Range};
use streams_core::{Entry, EntryId, Outcome};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::after;
use crate::group::{self, Failed, Standing, SuspectPermit, Taker};

/// How much is fetched ahead: as much as the handlers do in this time, up to this many entries. Without any, a handler
/// would wait for the server after each event. Entries fetched ahead wait here, although another process may be free.
const AHEAD: Duration = Duration::from_millis(20);
const MOST_AHEAD: usize = 256;
/// A handler that is quicker than this runs in the consumer's own task, because a move to another thread takes about as
/// long.
const QUICK: Duration = Duration::from_micros(10);
/// The longest wait of an entry that was fetched ahead and has not begun. Then it is released, because the handlers are
/// slow.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// An entry of a chunk. It may come again in a later chunk before this process knows that it was released.
pub(super) type Flight = (u64, EntryId);

/// How a fetched event may run that was in flight at so many crashes.
///
/// The queue counts the first crash of everything that was in flight, whether it ran or not. From then on an event is charged
/// before it runs, so each further crash is one of an event that ran.
pub(super) fn standing(crashes: u32, max_crashes: u32) -> Standing {
    crashes.checked_sub(1).map_or(Standing::Beside, |charged| group::standing(charged, max_crashes))
}

/// How many entries to have in flight that have not begun, with this many slots and this mean time per call.
fn ahead(slots: usize, mean: Option<Duration>) -> usize {
    // Nothing is known before the first call.
    let Some(mean) = mean else { return 0 };
    let done = AHEAD.as_nanos() * slots as u128 / mean.as_nanos().max(1);
    usize::try_from(done).unwrap_or(usize::MAX).min(MOST_AHEAD)
}

/// The entries of a chunk that the server holds for this consumer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// The new entries are above this id.
    after: EntryId,
    /// In order; those in the middle that have ended are in `ended`, too.
    ids: VecDeque<EntryId>,
    ended: BTreeSet<EntryId>,
    items: BTreeMap<EntryId, Item>,
}

impl Open {
    pub(super) fn new(
        after: EntryId,
        new: impl IntoIterator<Item = EntryId>,
        again: impl IntoIterator<Item = Item>,
    ) -> Self {
        let items = again.into_iter().map(|item| (item.id, item)).collect();
        Self { after, ids: new.into_iter().collect(), ended: BTreeSet::new(), items }
    }

    /// Failed attempts and crashes of an entry.
    pub(super) fn item(&self, id: EntryId) -> Item {
        self.items.get(&id).copied().unwrap_or(Item { id, failed: 0, crashes: 0, charged: true })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len() - self.ended.len() + self.items.len()
    }

    /// The rest, once these have ended and those are charged.
    pub(super) fn left(&self, over: &BTreeSet<EntryId>, charged: &BTreeSet<EntryId>) -> Left {
        let is_over = |id: &EntryId| over.contains(id) || self.ended.contains(id);
        let again = self.items.values().filter(|item| !over.contains(&item.id));
        let again = again.map(|item| Item { charged: item.charged || charged.contains(&item.id), ..*item });
        Left { range: self.range(is_over), again: again.collect() }
    }

    fn range(&self, is_over: impl Fn(&EntryId) -> bool) -> Option<Range> {
        let first = self.ids.iter().position(|id| !is_over(id))?;
        let last = self.ids.iter().rposition(|id| !is_over(id))?;
        let after = first.checked_sub(1).map_or(self.after, |before| self.ids[before]);
        let except: Vec<_> = self.ids.range(first..=last).filter(|id| is_over(id)).copied().collect();
        let number = (last - first + 1 - except.len()) as u64;
        Some(Range { after, to: self.ids[last], number, except })
    }

    /// Notes that the server knows that these have ended and those are charged.
    pub(super) fn acked(&mut self, over: &BTreeSet<EntryId>, charged: &BTreeSet<EntryId>) {
        for id in over {
            if self.items.remove(id).is_none() {
                self.ended.insert(*id);
            }
        }
        for id in charged {
            self.items.entry(*id).and_modify(|item| item.charged = true);
        }
        while let Some(first) = self.ids.front().copied()
            && self.ended.remove(&first)
        {
            self.after = first;
            self.ids.pop_front();
        }
        while self.ids.back().is_some_and(|last| self.ended.remove(last)) {
            self.ids.pop_back();
        }
    }

    /// All entries that are left.
    pub(super) fn ids(&self) -> impl Iterator<Item = EntryId> {
        let new = self.ids.iter().filter(|id| !self.ended.contains(id));
        new.chain(self.items.keys()).copied()
    }
}

/// An entry that was given out and has not begun.
pub(super) struct Queued {
    pub(super) chunk: u64,
    pub(super) entry: Arc<Entry>,
    pub(super) taker: Result<Taker, Need>,
    pub(super) standing: Standing,
    pub(super) since: Instant,
}

impl Queued {
    pub(super) fn flight(&self) -> Flight {
        (self.chunk, self.entry.id)
    }
}

/// An event that has a slot: its handler was called, or is when the event has its permit and is charged.
pub(super) struct Running {
    /// Distinguishes one call with an event from the next.
    pub(super) call: u64,
    pub(super) entry: Arc<Entry>,
    pub(super) consumer: usize,
    pub(super) attempt: u32,
    pub(super) began: Instant,
    /// The time limit of the handler, once it was called.
    pub(super) limit: Option<Instant>,
    /// Its permit and its slot, while the charge is on its way to the server.
    pub(super) held: Option<(SuspectPermit, OwnedSemaphorePermit)>,
}

/// A call that has returned.
pub(super) struct Returned {
    pub(super) flight: Flight,
    pub(super) call: u64,
    pub(super) came: Came,
}

pub(super) enum Came {
    /// The event has its permit.
    Permit(SuspectPermit, OwnedSemaphorePermit),
    /// The handler has ended, after this time.
    End(Result<Outcome, Failed>, Duration),
    /// The handler was cancelled, because the lease is lost.
    Fenced,
}

/// The entries that this consumer has in flight.
#[derive(Default)]
pub(super) struct InFlight {
    pub(super) chunks: BTreeMap<u64, Open>,
    pub(super) queue: VecDeque<Queued>,
    pub(super) running: BTreeMap<Flight, Running>,
    /// The time limits of calls.
    pub(super) limits: BTreeSet<(Instant, Flight)>,
    pub(super) calls: JoinSet<Returned>,
    called: u64,
    /// Calls that were given up and have not returned: each keeps its slot.
    pub(super) stuck: BTreeSet<u64>,
    /// Whether the running entry must run alone.
    pub(super) alone: bool,
    /// The weight of the entries that have not ended.
    pub(super) bytes: usize,
    /// The mean time of the latest calls.
    mean: Option<Duration>,
}

impl InFlight {
    /// How many entries the server holds for this consumer.
    pub(super) fn len(&self) -> usize {
        self.chunks.values().map(Open::len).sum()
    }

    pub(super) fn item(&self, (chunk, id): Flight) -> Item {
        self.chunks.get(&chunk).map_or(Item { id, failed: 0, crashes: 0, charged: true }, |open| open.item(id))
    }

    /// Adds an entry of a chunk; one that must run alone goes first.
    pub(super) fn push(&mut self, queued: Queued) {
        self.bytes += queued.entry.weight();
        match queued.standing {
            Standing::Alone => self.queue.push_front(queued),
            _ => self.queue.push_back(queued),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.bytes -= queued.entry.weight();
        Some(queued)
    }

    /// Removes all entries that have not begun.
    pub(super) fn take_queue(&mut self) -> VecDeque<Queued> {
        let queue = std::mem::take(&mut self.queue);
        self.bytes -= queue.iter().map(|queued| queued.entry.weight()).sum::<usize>();
        queue
    }

    /// Since when the longest-waiting entry waits that may be released for that. Entries that must run alone may not,
    /// or they would never run.
    pub(super) fn impatient(&self) -> Option<Instant> {
        self.queue.iter().filter(|queued| queued.standing != Standing::Alone).map(|queued| queued.since).min()
    }

    /// Removes entries that have waited for too long.
    pub(super) fn give_up_waiting(&mut self, now: Instant) -> VecDeque<Queued> {
        if self.impatient().is_none_or(|since| after(since, PATIENCE) > now) {
            return VecDeque::new();
        }
        let (alone, rest): (VecDeque<_>, VecDeque<_>) =
            self.queue.drain(..).partition(|queued| queued.standing == Standing::Alone);
        self.queue = alone;
        self.bytes -= rest.iter().map(|queued| queued.entry.weight()).sum::<usize>();
        rest
    }

    /// The number of a new call.
    pub(super) fn next_call(&mut self) -> u64 {
        self.called += 1;
        self.called
    }

    /// How many calls there were.
    pub(super) fn called(&self) -> u64 {
        self.called
    }

    /// Whether handlers take less time than a move to another thread.
    pub(super) fn is_quick(&self) -> bool {
        self.mean.is_some_and(|mean| mean < QUICK)
    }

    /// Notes the time of a call.
    pub(super) fn took(&mut self, time: Duration) {
        self.mean = Some(self.mean.map_or(time, |mean| (mean * 7 + time) / 8));
    }

    /// How many more entries can be handled soon, with `idle` of all slots idle.
    pub(super) fn wanted(&self, idle: usize, concurrency: usize, most_bytes: usize) -> usize {
        // A slow handler has no time for entries that would be fetched ahead for it.
        let slow = self.running.values().filter(|running| running.began.elapsed() >= PATIENCE).count();
        let ahead = ahead(concurrency.saturating_sub(slow), self.mean);
        let has_some = !(self.running.is_empty() && self.queue.is_empty());
        // A fetch for each event that has ended would cost more than the event.
        let enough = self.queue.len() > idle + ahead / 4;
        if enough || (has_some && self.bytes >= most_bytes) {
            return 0;
        }
        (idle + ahead).saturating_sub(self.queue.len())
    }

    /// Notes that a call has ended.
    pub(super) fn over(&mut self, flight: Flight, running: &Running) {
        if let Some(limit) = running.limit {
            self.limits.remove(&(limit, flight));
        }
        self.alone = false;
        self.bytes -= running.entry.weight();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_crash_is_put_down_to_nobody_and_after_the_second_it_runs_alone() {
        let over = |crashes, max| matches!(standing(crashes, max), Standing::GivenUp(_));
        assert_eq!(standing(0, 3), Standing::Beside);
        assert_eq!(standing(1, 3), Standing::Beside);
        assert_eq!(standing(2, 3), Standing::Alone);
        assert_eq!(standing(3, 3), Standing::Alone);
        assert!(over(4, 3));
        assert_eq!((standing(0, 1), standing(1, 1)), (Standing::Beside, Standing::Alone));
        assert!(over(2, 1));
    }

    #[test]
    fn as_much_is_fetched_ahead_as_is_handled_in_twenty_milliseconds() {
        assert_eq!(ahead(8, None), 0);
        assert_eq!(ahead(8, Some(Duration::from_secs(1))), 0);
        assert_eq!(ahead(8, Some(Duration::from_millis(1))), 160);
        assert_eq!(ahead(1, Some(Duration::from_micros(100))), 200);
        assert_eq!(ahead(8, Some(Duration::ZERO)), MOST_AHEAD);
    }

    fn id(n: u64) -> EntryId {
        EntryId::new(n, 0)
    }

    fn ids(numbers: &[u64]) -> BTreeSet<EntryId> {
        numbers.iter().map(|n| id(*n)).collect()
    }

    #[test]
    fn a_chunk_shrinks_from_both_ends_and_names_what_is_over_between_them() {
        let again = Item { id: id(3), failed: 2, crashes: 1, charged: false };
        let mut open = Open::new(id(10), (11..=16).map(id), [again]);
        assert_eq!((open.len(), open.item(id(3)), open.item(id(12)).charged), (7, again, true));
        let left = open.left(&ids(&[11, 13, 16]), &ids(&[3]));
        let range = Range { after: id(11), to: id(15), number: 3, except: vec![id(13)] };
        assert_eq!(left, Left { range: Some(range.clone()), again: vec![Item { charged: true, ..again }] });
        assert_eq!(open.left(&ids(&[]), &ids(&[])).range.unwrap().number, 6, "nothing is over before the server knows");
        open.acked(&ids(&[11, 13, 16]), &ids(&[3]));
        assert_eq!(open.left(&ids(&[]), &ids(&[])), left);
        open.acked(&ids(&[12, 3]), &ids(&[]));
        let left = open.left(&ids(&[]), &ids(&[]));
        assert_eq!(
            left,
            Left { range: Some(Range { after: id(13), number: 2, except: vec![], ..range }), again: vec![] }
        );
        assert_eq!(open.ids().collect::<Vec<_>>(), [id(14), id(15)]);
        assert_eq!(open.left(&ids(&[14, 15]), &ids(&[])), Left::default());
        open.acked(&ids(&[15, 14]), &ids(&[]));
        assert!(open.is_empty());
    }
}
