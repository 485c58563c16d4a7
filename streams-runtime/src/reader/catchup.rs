//! Shared catch-up reads: entries read below the window are kept while another group needs them.
//!
//! [`tail`](super::tail) keeps a [`Catchup`] behind each window and runs the reads; [`source`](super::source) asks for
//! them. A chunk begins with the entry from which it was read. So a group at one of its entries can continue with those
//! above: they were read together, so no trim lay in between. As from a window, entries in memory are handed out even
//! if they were cut since; the first read after them shows the loss.
//!
//! No group waits for another. The group in front begins the next read, and the others find it under way or in memory.
//! A group that falls behind the kept entries begins its own reads, which serve other groups near it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use streams_core::broker::{BrokerError, BrokerErrorKind, Page, in_short};
use streams_core::{Entry, EntryId};
use tokio::sync::watch;

use super::page::Count;

/// The most chunks that are kept behind a window, because a group that asks searches all of them. Half as many chunks
/// of the usual size fill the default byte budget.
const CHUNKS: usize = 256;

/// Entries that followed one another without a gap when they were read.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// In order. The first is the one from which the read began, unless that was gone.
    entries: Vec<Arc<Entry>>,
    bytes: usize,
    /// Whether there may have been more entries to read.
    pub(super) full: bool,
    /// The window's floor before the read: if nothing is above the position, no entry up to the floor is left.
    pub(crate) floor: EntryId,
}

impl Chunk {
    /// The entry at the position, if it is there, and those above it.
    pub(crate) fn from(&self, position: EntryId) -> &[Arc<Entry>] {
        &self.entries[self.entries.partition_point(|entry| entry.id < position)..]
    }

    /// The entries above the position.
    fn above(&self, position: EntryId) -> &[Arc<Entry>] {
        &self.entries[self.entries.partition_point(|entry| entry.id <= position)..]
    }

    /// Whether a group at that position can continue with this chunk.
    fn leads_on_from(&self, position: EntryId) -> bool {
        let from = self.from(position);
        from.len() > 1 && from[0].id == position
    }

    fn last(&self) -> EntryId {
        self.entries.last().map_or(EntryId::ZERO, |last| last.id)
    }
}

/// The result of a read, for all who wait for it.
type Landed = Result<Arc<Chunk>, Arc<BrokerError>>;
type Landing = watch::Sender<Option<Landed>>;

/// A chunk for a group to continue with, in memory or under way.
#[derive(Debug)]
pub(crate) enum Reading {
    Here(Arc<Chunk>),
    OnItsWay(watch::Receiver<Option<Landed>>),
}

impl Reading {
    /// A read that never runs.
    pub(super) fn never() -> Self {
        Self::OnItsWay(watch::channel(None).1)
    }

    /// Waits for the read.
    ///
    /// # Cancel safety
    /// Safe: it can be called again.
    pub(crate) async fn chunk(&mut self) -> Result<Arc<Chunk>, BrokerError> {
        let landing = match self {
            Self::Here(chunk) => return Ok(Arc::clone(chunk)),
            Self::OnItsWay(landing) => landing,
        };
        let landed = landing.wait_for(Option::is_some).await.ok().and_then(|landed| landed.clone());
        match landed {
            Some(Ok(chunk)) => Ok(chunk),
            Some(Err(error)) => Err(BrokerError::new(error.kind(), error.to_string()).caused_by(error)),
            None => Err(BrokerError::new(BrokerErrorKind::Indefinite, "a read was aborted")),
        }
    }
}

/// A read that a task must run.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) from: EntryId,
    /// The most entries above it.
    pub(super) count: usize,
    /// For a page: how many entries above it, and of how many bytes together.
    pub(super) page: Option<(usize, usize)>,
    /// The most bytes that it may bring.
    pub(super) expected: usize,
    floor: EntryId,
    landing: Arc<Landing>,
}

impl Order {
    /// The chunk of a read: the entry at `from`, and those above it.
    pub(super) fn chunk(&self, Page { mut entries, complete }: Page) -> Chunk {
        // A group at that place has the entry already, and takes only those above.
        if let Some(first) = entries.first_mut().filter(|first| first.id == self.from) {
            *first = Arc::new(in_short(first));
        }
        let bytes = entries.iter().map(|entry| entry.weight()).sum();
        Chunk { bytes, full: !complete, entries, floor: self.floor }
    }

    /// Waits until nobody waits for the read.
    pub(super) async fn deserted(&self) {
        self.landing.closed().await;
    }

    /// Answers all who wait for the read.
    pub(super) fn answer(&self, landed: Landed) {
        self.landing.send_replace(Some(landed));
    }
}

/// A read that is under way.
#[derive(Debug)]
struct OnItsWay {
    from: EntryId,
    /// Gone when the task of the read has ended without an answer.
    landing: Weak<Landing>,
}

/// The reads of groups behind one window, and the groups' places.
#[derive(Debug)]
pub(super) struct Catchup {
    pub(super) count: Count,
    /// In the order in which they were read.
    kept: VecDeque<Arc<Chunk>>,
    bytes: usize,
    on_their_way: Vec<OnItsWay>,
    /// The place of each follower behind the window. Chunks that all of them have passed are dropped.
    places: BTreeMap<u64, EntryId>,
    /// How many followers are at each place, so that the rearmost is known without a search.
    standing: BTreeMap<EntryId, usize>,
    /// The rearmost place at which chunks that all have passed were last dropped.
    rearmost: EntryId,
}

impl Catchup {
    pub(super) fn new(count: Count) -> Self {
        Self {
            count,
            kept: VecDeque::new(),
            bytes: 0,
            on_their_way: Vec::new(),
            places: BTreeMap::new(),
            standing: BTreeMap::new(),
            rearmost: EntryId::MAX,
        }
    }

    /// How many bytes are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that a follower will read from here.
    pub(super) fn stand(&mut self, follower: u64, at: EntryId) {
        let before = self.places.insert(follower, at);
        if before != Some(at) {
            *self.standing.entry(at).or_default() += 1;
            self.stands_no_more(before);
        }
    }

    /// Notes that a follower is no longer behind, or is gone.
    pub(super) fn leave(&mut self, follower: u64) {
        let before = self.places.remove(&follower);
        if before.is_some() {
            self.stands_no_more(before);
        }
    }

    /// The chunk that leads furthest from a position, in memory or under way.
    pub(super) fn find(&self, position: EntryId) -> Option<Reading> {
        let here = self.kept.iter().filter(|chunk| chunk.leads_on_from(position)).max_by_key(|chunk| chunk.last());
        if let Some(chunk) = here {
            return Some(Reading::Here(Arc::clone(chunk)));
        }
        // Nobody knows yet whether a read that began elsewhere comes this far.
        let here = self.on_their_way.iter().filter(|read| read.from == position);
        here.filter_map(|read| read.landing.upgrade()).map(|landing| Reading::OnItsWay(landing.subscribe())).next()
    }

    /// Begins a read that later callers can join.
    pub(super) fn order(&mut self, from: EntryId, floor: EntryId) -> (Order, Reading) {
        let (landing, waiting) = watch::channel(None);
        let landing = Arc::new(landing);
        // Reads that ended without an answer are removed here.
        self.on_their_way.retain(|read| read.landing.strong_count() > 0);
        self.on_their_way.push(OnItsWay { from, landing: Arc::downgrade(&landing) });
        let (count, page) = (self.count.get(), self.count.page());
        // The read includes the entry at the position.
        let expected = self.count.expected(page.map_or(count + 1, |(count, _)| count));
        (Order { from, count, page, expected, floor, landing }, Reading::OnItsWay(waiting))
    }

    /// Whether nobody waits for a read; then nobody finds it any more.
    pub(super) fn gives_up(&mut self, order: &Order) -> bool {
        let given_up = order.landing.receiver_count() == 0;
        if given_up {
            self.take_off(order);
        }
        given_up
    }

    /// Ends a read, and keeps the entries that a follower needs.
    pub(super) fn land(&mut self, order: &Order, landed: &Landed, took: Duration) {
        let current = self.take_off(order);
        let Ok(chunk) = landed else { return self.count.failed() };
        self.count.saw(chunk.above(order.from));
        self.count.took(took, chunk.full);
        if current && chunk.leads_on_from(order.from) && self.is_needed(chunk) {
            self.bytes += chunk.bytes;
            self.kept.push_back(Arc::clone(chunk));
            if self.kept.len() > CHUNKS {
                self.drop_oldest();
            }
        }
    }

    /// Drops the chunks, because history may be another one; earlier callers still get theirs.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
        self.bytes = 0;
        self.on_their_way.clear();
    }

    /// Drops the oldest chunk, which the group in front has passed first. Answers its bytes.
    pub(super) fn drop_oldest(&mut self) -> Option<usize> {
        let oldest = self.kept.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest.bytes)
    }

    /// Removes a read, so that nobody can join it; answers whether it was there.
    fn take_off(&mut self, order: &Order) -> bool {
        let before = self.on_their_way.len();
        self.on_their_way.retain(|read| !std::ptr::eq(read.landing.as_ptr(), &raw const *order.landing));
        self.on_their_way.len() < before
    }

    fn is_needed(&self, chunk: &Chunk) -> bool {
        self.standing.keys().next().is_some_and(|place| *place < chunk.last())
    }

    /// A follower has left this place, if it had one: drops chunks that all have passed.
    fn stands_no_more(&mut self, place: Option<EntryId>) {
        if let Some(place) = place
            && let Some(standing) = self.standing.get_mut(&place)
        {
            *standing -= 1;
            if *standing == 0 {
                self.standing.remove(&place);
            }
        }
        let rearmost = self.standing.keys().next().copied().unwrap_or(EntryId::MAX);
        if std::mem::replace(&mut self.rearmost, rearmost) == rearmost {
            return;
        }
        self.kept.retain(|chunk| rearmost < chunk.last());
        self.bytes = self.kept.iter().map(|chunk| chunk.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: EntryId = EntryId::new(1_000, 0);

    fn at(n: u64) -> EntryId {
        EntryId::new(n, 0)
    }

    fn page(ids: impl IntoIterator<Item = u64>) -> Page {
        let entry = |n| Arc::new(Entry::new(at(n), &[(b"id".to_vec(), n.to_string().into_bytes())]));
        Page { entries: ids.into_iter().map(entry).collect(), complete: false }
    }

    fn catchup() -> Catchup {
        Catchup::new(Count::new(1_024, 1))
    }

    /// A read that found these ids, from the first on.
    fn read(catchup: &mut Catchup, ids: std::ops::RangeInclusive<u64>) {
        let (order, _reading) = catchup.order(at(*ids.start()), FLOOR);
        let chunk = Arc::new(order.chunk(page(ids)));
        catchup.land(&order, &Ok(chunk), Duration::ZERO);
    }

    /// The last entry that a group at a position finds in memory.
    fn found(catchup: &Catchup, n: u64) -> Option<EntryId> {
        match catchup.find(at(n)) {
            Some(Reading::Here(chunk)) => Some(chunk.last()),
            _ => None,
        }
    }

    #[test]
    fn what_was_read_serves_every_group_that_stands_at_one_of_its_entries() {
        let mut catchup = catchup();
        catchup.stand(1, at(5));
        read(&mut catchup, 5..=10);
        assert_eq!([5, 7, 9].map(|n| found(&catchup, n)), [Some(at(10)); 3]);
        assert_eq!(found(&catchup, 10), None, "there is nothing above the last");
        assert_eq!(found(&catchup, 4), None, "what is between is not known");
        let Some(Reading::Here(chunk)) = catchup.find(at(7)) else { panic!("it is here") };
        assert_eq!(chunk.from(at(7)).iter().map(|entry| entry.id).collect::<Vec<_>>(), [7, 8, 9, 10].map(at));
    }

    #[test]
    fn groups_that_meet_take_what_leads_furthest() {
        let mut catchup = catchup();
        catchup.stand(1, at(1));
        read(&mut catchup, 1..=20);
        read(&mut catchup, 5..=10);
        read(&mut catchup, 8..=30);
        assert_eq!([5, 9].map(|n| found(&catchup, n)), [Some(at(20)), Some(at(30))]);
    }

    #[test]
    fn what_every_group_has_passed_is_not_kept() {
        let mut catchup = catchup();
        catchup.stand(1, at(1));
        read(&mut catchup, 1..=10);
        catchup.stand(2, at(1));
        catchup.stand(1, at(10));
        assert_eq!(found(&catchup, 1), Some(at(10)), "the other one needs it");
        catchup.stand(2, at(9));
        assert!(catchup.bytes() > 0);
        catchup.leave(2);
        assert_eq!((found(&catchup, 1), catchup.bytes()), (None, 0));
        read(&mut catchup, 1..=10);
        assert_eq!(catchup.bytes(), 0, "nobody is left who needs it");
    }

    #[test]
    fn a_gap_before_the_first_entry_is_not_for_others() {
        let mut catchup = catchup();
        catchup.stand(1, at(1));
        let (order, _reading) = catchup.order(at(1), FLOOR);
        catchup.land(&order, &Ok(Arc::new(order.chunk(page(4..=9)))), Duration::ZERO);
        assert_eq!((found(&catchup, 4), catchup.bytes()), (None, 0));
    }

    #[test]
    fn a_read_on_its_way_is_joined_by_those_at_its_beginning_for_as_long_as_somebody_waits() {
        let mut catchup = catchup();
        catchup.stand(1, at(1));
        let (order, first) = catchup.order(at(1), FLOOR);
        let second = catchup.find(at(1));
        assert!(matches!(second, Some(Reading::OnItsWay(_))) && catchup.find(at(2)).is_none());
        drop(first);
        assert!(!catchup.gives_up(&order), "the other one waits");
        drop(second);
        assert!(catchup.gives_up(&order) && catchup.find(at(1)).is_none());
    }

    #[test]
    fn what_was_read_before_a_loss_is_for_those_who_asked_before_it() {
        let mut catchup = catchup();
        catchup.stand(1, at(1));
        read(&mut catchup, 1..=10);
        let (order, _reading) = catchup.order(at(10), FLOOR);
        catchup.forget();
        catchup.land(&order, &Ok(Arc::new(order.chunk(page(10..=20)))), Duration::ZERO);
        assert_eq!((found(&catchup, 1), found(&catchup, 10), catchup.bytes()), (None, None, 0));
    }

    #[test]
    fn a_group_that_stands_still_keeps_no_more_than_so_many_reads() {
        let mut catchup = catchup();
        catchup.stand(1, at(0));
        for n in 0..2 * CHUNKS as u64 {
            read(&mut catchup, n..=n + 1);
        }
        assert_eq!(catchup.kept.len(), CHUNKS);
        assert_eq!(found(&catchup, 0), None, "the oldest went");
        let all: usize = catchup.kept.iter().map(|chunk| chunk.bytes).sum();
        assert_eq!(catchup.bytes(), all);
    }

    #[tokio::test]
    async fn whoever_carries_a_read_out_and_ends_is_an_error_for_all_who_wait() {
        let mut catchup = catchup();
        let (order, mut reading) = catchup.order(at(1), FLOOR);
        drop(order);
        assert_eq!(reading.chunk().await.unwrap_err().kind(), BrokerErrorKind::Indefinite);
        assert!(catchup.find(at(1)).is_none());
    }
}
