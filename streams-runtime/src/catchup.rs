//! One catch-up read for all groups at a place: what was read below the window is kept while another group needs it.
//!
//! [`tail`](crate::tail) keeps a [`Catchup`] behind each window and carries the reads out; [`source`](crate::source) asks
//! for them. A chunk begins with the entry that it was read from, so a group that stands at one of its entries can go on
//! with those above it: the two were seen together, so no trim lay between them. What is in memory is handed out even if
//! it was cut since, as from a window: the loss shows with the first read after it.
//!
//! Nobody waits for anybody: the group in front begins the next read, the others find it on its way or in memory. A
//! group that falls behind what is kept begins reads of its own, which again serve whoever is near it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use streams_core::broker::{BrokerError, BrokerErrorKind};
use streams_core::{Entry, EntryId};
use tokio::sync::watch;

use crate::tail::Count;

/// The most chunks that are kept behind a window: a group that asks looks through all of them. Of the usual size half as
/// many fill the default byte budget.
const CHUNKS: usize = 256;

/// Entries that followed one another without a gap when they were read.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// In order. The first is the one that the read began at, unless that was gone.
    entries: Vec<Arc<Entry>>,
    bytes: usize,
    /// Whether there may have been more to read.
    pub(crate) full: bool,
    /// The window's floor before the read: where nothing is above the position, no entry up to it is left.
    pub(crate) floor: EntryId,
}

impl Chunk {
    /// The entry at the position, where it is there, and those above it.
    pub(crate) fn from(&self, position: EntryId) -> &[Arc<Entry>] {
        &self.entries[self.entries.partition_point(|entry| entry.id < position)..]
    }

    /// Whether a group can go on from there with this.
    fn leads_on_from(&self, position: EntryId) -> bool {
        let from = self.from(position);
        from.len() > 1 && from[0].id == position
    }

    fn last(&self) -> EntryId {
        self.entries.last().map_or(EntryId::ZERO, |last| last.id)
    }
}

/// What becomes of a read, for everybody who waits for it.
type Landed = Result<Arc<Chunk>, Arc<BrokerError>>;
type Landing = watch::Sender<Option<Landed>>;

/// What a group goes on with.
#[derive(Debug)]
pub(crate) enum Reading {
    Here(Arc<Chunk>),
    OnItsWay(watch::Receiver<Option<Landed>>),
}

impl Reading {
    /// A read that nobody carries out.
    pub(crate) fn never() -> Self {
        Self::OnItsWay(watch::channel(None).1)
    }

    /// Waits for the read.
    ///
    /// # Cancel safety
    /// Safe: it can be asked again.
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

/// A read that somebody has to carry out.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) from: EntryId,
    /// How many entries above it.
    pub(crate) count: usize,
    floor: EntryId,
    landing: Arc<Landing>,
}

impl Order {
    /// What was read: the entry at `from`, and as many above it as were ordered.
    pub(crate) fn chunk(&self, entries: Vec<Arc<Entry>>) -> Chunk {
        let bytes = entries.iter().map(|entry| entry.weight()).sum();
        Chunk { bytes, full: entries.len() > self.count, entries, floor: self.floor }
    }

    /// Waits until nobody waits.
    pub(crate) async fn deserted(&self) {
        self.landing.closed().await;
    }

    /// Answers everybody who waits.
    pub(crate) fn answer(&self, landed: Landed) {
        self.landing.send_replace(Some(landed));
    }
}

/// A read that is on its way.
#[derive(Debug)]
struct OnItsWay {
    from: EntryId,
    /// Gone when whoever carries it out has ended without an answer.
    landing: Weak<Landing>,
}

/// What groups behind one window read, and where they stand.
#[derive(Debug)]
pub(crate) struct Catchup {
    pub(crate) count: Count,
    /// In the order in which they were read.
    kept: VecDeque<Arc<Chunk>>,
    bytes: usize,
    on_their_way: Vec<OnItsWay>,
    /// Where each follower reads on that is behind the window: what all of them have passed is not kept.
    places: BTreeMap<u64, EntryId>,
}

impl Catchup {
    pub(crate) fn new(max_payload: usize) -> Self {
        Self {
            count: Count::new(max_payload, 1),
            kept: VecDeque::new(),
            bytes: 0,
            on_their_way: Vec::new(),
            places: BTreeMap::new(),
        }
    }

    /// How many bytes are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A follower will read on from here.
    pub(crate) fn stand(&mut self, follower: u64, at: EntryId) {
        if self.places.insert(follower, at) != Some(at) {
            self.drop_passed();
        }
    }

    /// A follower is not behind any more, or gone.
    pub(crate) fn leave(&mut self, follower: u64) {
        if self.places.remove(&follower).is_some() {
            self.drop_passed();
        }
    }

    /// What there is to go on with from a position, in memory or on its way: what leads furthest.
    pub(crate) fn find(&self, position: EntryId) -> Option<Reading> {
        let here = self.kept.iter().filter(|chunk| chunk.leads_on_from(position)).max_by_key(|chunk| chunk.last());
        if let Some(chunk) = here {
            return Some(Reading::Here(Arc::clone(chunk)));
        }
        // Of a read that began elsewhere nobody knows yet whether it comes this far.
        let here = self.on_their_way.iter().filter(|read| read.from == position);
        here.filter_map(|read| read.landing.upgrade()).map(|landing| Reading::OnItsWay(landing.subscribe())).next()
    }

    /// Begins a read that whoever asks after this can join.
    pub(crate) fn order(&mut self, from: EntryId, floor: EntryId) -> (Order, Reading) {
        let (landing, waiting) = watch::channel(None);
        let landing = Arc::new(landing);
        // What ended without an answer is gone here.
        self.on_their_way.retain(|read| read.landing.strong_count() > 0);
        self.on_their_way.push(OnItsWay { from, landing: Arc::downgrade(&landing) });
        (Order { from, count: self.count.get(), floor, landing }, Reading::OnItsWay(waiting))
    }

    /// Whether a read has nobody who waits for it; then nobody finds it any more.
    pub(crate) fn gives_up(&mut self, order: &Order) -> bool {
        let given_up = order.landing.receiver_count() == 0;
        if given_up {
            self.take_off(order);
        }
        given_up
    }

    /// A read is over: keeps what somebody needs of it.
    pub(crate) fn land(&mut self, order: &Order, landed: &Landed) {
        let current = self.take_off(order);
        let Ok(chunk) = landed else { return };
        self.count.saw(&chunk.entries);
        if current && chunk.leads_on_from(order.from) && self.is_needed(chunk) {
            self.bytes += chunk.bytes;
            self.kept.push_back(Arc::clone(chunk));
            if self.kept.len() > CHUNKS {
                self.drop_oldest();
            }
        }
    }

    /// History may be another one: what was read of it so far is for those who asked already.
    pub(crate) fn forget(&mut self) {
        self.kept.clear();
        self.bytes = 0;
        self.on_their_way.clear();
    }

    /// Makes room: what was read first goes first, as the group that reads in front has passed it first. Answers how much.
    pub(crate) fn drop_oldest(&mut self) -> Option<usize> {
        let oldest = self.kept.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest.bytes)
    }

    /// Ends it that a read can be joined; answers whether it could.
    fn take_off(&mut self, order: &Order) -> bool {
        let before = self.on_their_way.len();
        self.on_their_way.retain(|read| !std::ptr::eq(read.landing.as_ptr(), &raw const *order.landing));
        self.on_their_way.len() < before
    }

    fn is_needed(&self, chunk: &Chunk) -> bool {
        self.places.values().any(|place| *place < chunk.last())
    }

    fn drop_passed(&mut self) {
        let rearmost = self.places.values().min().copied().unwrap_or(EntryId::MAX);
        self.kept.retain(|chunk| rearmost < chunk.last());
        self.bytes = self.kept.iter().map(|chunk| chunk.bytes).sum();
    }
}
