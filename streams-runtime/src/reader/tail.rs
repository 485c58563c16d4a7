//! One read per partition for all groups of the process: the tail hands new entries to every group from memory.
//!
//! Behind each key that is followed is a window of recent entries. A group at or above the window's floor takes the
//! entries above its position. Below the floor it reads by itself, together with other groups near its place
//! ([`catchup`](super::catchup)), until it has caught up. A slow group holds no other up, because the window moves on.
//!
//! New entries enter a window only if they follow the last ones. While the entry at the tail's position is the same, no
//! trim has passed it. Otherwise the window begins anew behind it, and each group finds by itself
//! ([`Bookmark`](super::bookmark::Bookmark)) which entries it has missed.
//!
//! Lock order: only the one lock of [`Shared`] guards a window's entries, and no task holds it across an `.await`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Found, Interrupt, Page, Renewal, SNAPSHOT_BYTES};
use streams_core::keys::PartitionKey;
use streams_core::{Entry, EntryId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bookmark::Witness;
use super::budget::{Reserved, Room};
use super::catchup::{Catchup, Order, Reading};
use super::page::{CAREFUL, Count, WINDOW_ENTRIES};
use crate::backoff::{OUTAGE_BACKOFF, wait};
use crate::ops::{Contact, Counter, Matter, Outages, Vitals};
use crate::random::Random;
use crate::sync::lock;

/// The most keys that one connection waits for, because blocking on many is slow (38 us per XADD with 16 keys, 471 us
/// with 1,000).
const KEYS_A_READER: usize = 32;
/// The longest wait, because a key that is deleted during a block answers only at the time-out.
const WAIT: Duration = Duration::from_secs(1);
/// How long to let entries gather before the next wait where they come faster than [`BUSY`] says.
const GATHER: Duration = Duration::from_millis(1);
/// How many replies with entries in the time of [`GATHER`] make a reader wait. With one, every second entry waited a
/// millisecond at 1,000 events per second; with more, a stream of 10,000 costs a read for each.
const BUSY: usize = 3;
/// The most bytes of a ring of a bell, which bounds replies.
const BELL_BYTES: usize = 1_024;
/// The most entries that a group takes from a window at once.
pub(crate) const TAKE: usize = 256;
/// The most bytes that a group takes from a window at once, except for one entry. The budget no longer counts them.
const TAKE_BYTES: usize = 1024 * 1024;

/// The tails of one app.
#[derive(Clone)]
pub(crate) struct Tails {
    shared: Arc<Shared>,
}

struct Shared {
    broker: Arc<dyn Broker>,
    random: Arc<Random>,
    outages: Outages,
    budget: usize,
    end: CancellationToken,
    vitals: Arc<Vitals>,
    reconnects: Arc<Counter>,
    /// The room for the entries of all partitions that the process holds.
    room: Arc<Room>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    windows: BTreeMap<String, Window>,
    readers: Vec<Arc<Reader>>,
    /// The bytes of all windows and of the chunks behind them.
    bytes: usize,
    /// The known sizes of partitions that no group follows for now; an app has few.
    counts: BTreeMap<String, Count>,
    /// Distinguishes a window from an earlier one of the same key, and followers from each other.
    generation: u64,
}

/// One connection that waits, for up to [`KEYS_A_READER`] keys.
struct Reader {
    /// How many windows it reads.
    keys: AtomicUsize,
    /// Grows with every change of the keys; `confirmed` follows when the reader has applied the change.
    version: Mutex<(u64, u64)>,
    confirmed: Notify,
    changed: Notify,
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

/// The recent entries of one key. Its fields change together under one lock, so that no reader sees a seam.
struct Window {
    reader: Arc<Reader>,
    generation: u64,
    followers: usize,
    max_payload: usize,
    /// The id before the first entry: a group at or above it can continue from here.
    floor: EntryId,
    /// The witness of the entry at the floor, if one was read.
    below: Option<Witness>,
    last: EntryId,
    /// Whether new entries must follow those that are there. Not so for bells, where no loss matters.
    guarded: bool,
    /// The witness of the entry at `last`, if one was read.
    witness: Option<Witness>,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// The shared reads of groups that are behind the window.
    catchup: Catchup,
    /// The server's error about this key, when it refuses the key.
    broken: Option<Arc<BrokerError>>,
    news: Arc<News>,
}

/// Wakes the followers of a window.
#[derive(Default)]
struct News {
    /// How often it has woken them; it changes only under the lock of the window.
    version: AtomicU64,
    woken: Notify,
}

impl News {
    fn wake(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.woken.notify_waiters();
    }
}

/// The entries that a group finds at its position.
pub(crate) enum Taken {
    /// The entries above the position, in order.
    Entries(Vec<Arc<Entry>>),
    /// No entry yet.
    Nothing,
    /// The window begins above the position, or does not show that its entries follow it: read from the position. A
    /// bell, where no loss matters, continues from the floor.
    Behind { floor: EntryId },
    /// The server refuses this key.
    Broken(Arc<BrokerError>),
}

impl Tails {
    /// Tails whose windows, with the chunks kept behind them, hold at most `budget` bytes together.
    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        random: Arc<Random>,
        budget: usize,
        outages: Outages,
        vitals: Arc<Vitals>,
    ) -> Self {
        let (end, inner) = (CancellationToken::new(), Mutex::default());
        let reconnects = vitals.registry.counter("streams_tail_reconnects_total", &[]);
        // A broker in this process holds its entries anyway.
        let room = match broker.renewal() {
            Renewal::CallersExecutor => usize::MAX,
            Renewal::OwnThread => budget,
        };
        let room = Arc::new(Room::new(room));
        Self { shared: Arc::new(Shared { broker, random, outages, budget, end, vitals, reconnects, room, inner }) }
    }

    /// Ends all reading.
    pub(crate) fn end(&self) {
        self.shared.end.cancel();
    }

    /// Follows a partition for a group at `at`. The window begins at `from`, unless a group follows the key already.
    pub(super) fn follow(&self, key: &str, at: EntryId, from: EntryId, max_payload: usize) -> Follower {
        let follower = self.follow_key(key, from, max_payload, true);
        // Noted before its first read, so that other groups that begin now keep their chunks for it.
        self.shared.lock().change(key, |window| window.catchup.stand(follower.id, at));
        follower
    }

    /// Follows a bell, from its first ring.
    pub(crate) fn follow_bell(&self, key: &str) -> Follower {
        self.follow_key(key, EntryId::ZERO, BELL_BYTES, false)
    }

    /// Follows a partition only for news behind `from`. If no group follows it, no earlier entry is read.
    pub(crate) fn follow_news(&self, key: &str, from: EntryId, max_payload: usize) -> Follower {
        self.follow_key(key, from, max_payload, true)
    }

    fn follow_key(&self, key: &str, from: EntryId, max_payload: usize, guarded: bool) -> Follower {
        let mut inner = self.shared.lock();
        inner.generation += 1;
        let (id, key, shared) = (inner.generation, key.to_owned(), Arc::clone(&self.shared));
        if let Some(window) = inner.windows.get_mut(&key) {
            window.followers += 1;
            return Follower { id, key, shared, news: Arc::clone(&window.news), at_end: AtomicU64::new(u64::MAX) };
        }
        let reader = match inner.readers.iter().find(|reader| reader.keys.load(Ordering::Relaxed) < KEYS_A_READER) {
            Some(reader) => Arc::clone(reader),
            None => {
                let reader = Arc::new(Reader {
                    keys: AtomicUsize::new(0),
                    version: Mutex::default(),
                    confirmed: Notify::new(),
                    changed: Notify::new(),
                    interrupt: Mutex::default(),
                });
                inner.readers.push(Arc::clone(&reader));
                tokio::spawn(read(Arc::clone(&self.shared), Arc::clone(&reader)));
                reader
            }
        };
        let news = Arc::<News>::default();
        let count = inner.counts.remove(&key).unwrap_or_else(|| Count::new(max_payload, 1));
        let window = Window {
            reader: Arc::clone(&reader),
            generation: id,
            followers: 1,
            max_payload,
            floor: from,
            below: None,
            last: from,
            guarded,
            witness: None,
            entries: VecDeque::new(),
            bytes: 0,
            catchup: Catchup::new(count),
            broken: None,
            news: Arc::clone(&news),
        };
        reader.keys.fetch_add(1, Ordering::Relaxed);
        inner.windows.insert(key.clone(), window);
        drop(inner);
        reader.turn(&self.shared);
        Follower { id, key, shared, news, at_end: AtomicU64::new(u64::MAX) }
    }
}

impl Tails {
    /// How many entries of a partition to ask for where nothing else bounds the answer, and how many bytes that may be.
    pub(crate) fn count(&self, key: &str, max_payload: usize) -> (usize, usize) {
        let mut inner = self.shared.lock();
        let count = inner.count(key, max_payload);
        (count.get(), count.expected(count.get()))
    }

    /// How many entries a snapshot asks for, and how many bytes it may bring.
    pub(super) fn look(&self, key: &str, max_payload: usize, most: usize) -> (usize, usize) {
        let mut inner = self.shared.lock();
        let count = inner.count(key, max_payload);
        (if count.failing { 1 } else { most }, count.expected(1).max(SNAPSHOT_BYTES))
    }

    /// Learns from the entries read of a partition; `None` for a read that failed.
    pub(crate) fn learn(&self, key: &str, max_payload: usize, read: Option<&[Arc<Entry>]>) {
        self.shared.room.saw(read.unwrap_or_default());
        let mut inner = self.shared.lock();
        let count = inner.count(key, max_payload);
        match read {
            Some(entries) => count.saw(entries),
            None => count.failed(),
        }
    }

    /// Reads the partition by pages: the last process that read it may have died of its entries.
    pub(super) fn distrust(&self, key: &str, max_payload: usize) {
        self.shared.lock().count(key, max_payload).distrusted = CAREFUL;
    }

    /// Waits for room for this many bytes of entries.
    ///
    /// # Cancel safety
    /// It reserves nothing until it returns.
    pub(crate) async fn reserve(&self, bytes: usize) -> Reserved {
        self.shared.reserve(bytes).await
    }
}

impl Shared {
    async fn reserve(&self, bytes: usize) -> Reserved {
        let shrink = |missing| {
            let mut inner = self.lock();
            let less = inner.bytes.saturating_sub(missing);
            inner.shrink(less);
        };
        self.room.reserve(bytes, shrink).await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    /// The known sizes in a partition.
    fn count(&mut self, key: &str, max_payload: usize) -> &mut Count {
        match self.windows.get_mut(key) {
            Some(window) => &mut window.catchup.count,
            None => self.counts.entry(key.to_owned()).or_insert_with(|| Count::new(max_payload, 1)),
        }
    }

    /// Changes a window, and updates the count of bytes.
    fn change<T>(&mut self, key: &str, change: impl FnOnce(&mut Window) -> T) -> Option<T> {
        let window = self.windows.get_mut(key)?;
        let before = window.bytes + window.catchup.bytes();
        let result = change(window);
        self.bytes = self.bytes - before + window.bytes + window.catchup.bytes();
        Some(result)
    }

    /// Frees memory until the budget holds, from the largest holder first: a window, or the chunks behind one.
    fn shrink(&mut self, budget: usize) {
        while self.bytes > budget {
            let most = self.windows.values_mut().max_by_key(|window| window.bytes.max(window.catchup.bytes()));
            let Some(window) = most else { return };
            let behind = window.catchup.bytes() > window.bytes;
            let freed = if behind { window.catchup.drop_oldest() } else { window.drop_oldest() };
            let Some(freed) = freed else { return };
            self.bytes -= freed;
        }
    }
}

impl Window {
    fn drop_oldest(&mut self) -> Option<usize> {
        let oldest = self.entries.pop_front()?;
        let weight = oldest.weight();
        self.floor = oldest.id;
        self.below = self.guarded.then(|| Witness::of(&oldest));
        self.bytes -= weight;
        Some(weight)
    }

    /// The place of the first entry above the position. Most groups are near the end, so the search begins there.
    fn above(&self, position: EntryId) -> usize {
        const NEAR: usize = 8;
        let near = self.entries.len().saturating_sub(NEAR);
        match self.entries.range(near..).position(|entry| entry.id > position) {
            Some(0) if near > 0 => self.entries.partition_point(|entry| entry.id <= position),
            Some(place) => near + place,
            None => self.entries.len(),
        }
    }

    /// Whether the entries above the position follow the entry there, with this `witness`.
    fn shows(&self, position: EntryId, witness: Option<Witness>) -> bool {
        let above = self.above(position);
        let shown = match above.checked_sub(1).map(|before| &self.entries[before]) {
            Some(before) => before.id == position && witness == Some(Witness::of(before)),
            None => position == self.floor && self.below.is_none_or(|below| witness == Some(below)),
        };
        !self.guarded || shown
    }

    /// Whether the entries found follow the window: the entry at the position is still the one that was read.
    fn is_followed(&self, found: &Found) -> bool {
        let same = |entry: &Arc<Entry>| self.witness.is_none_or(|witness| witness == Witness::of(entry));
        !self.guarded || found.position.as_ref().is_some_and(same)
    }

    /// Adds the entries found.
    fn push(&mut self, found: Found) {
        let follows = self.is_followed(&found);
        if self.entries.is_empty() && self.guarded {
            // A group that has read up to here by itself may have read another entry there.
            self.below = found.position.as_deref().map(Witness::of);
        }
        self.witness = found.entries.last().filter(|_| self.guarded).map(|last| Witness::of(last));
        for entry in found.entries {
            self.last = entry.id;
            self.bytes += entry.weight();
            self.entries.push_back(entry);
        }
        while self.entries.len() > WINDOW_ENTRIES || !follows {
            if self.drop_oldest().is_none() {
                break;
            }
        }
        if !follows {
            self.catchup.forget();
        }
    }
}

impl Reader {
    /// Makes the reader apply a change of its keys. CLIENT UNBLOCK may come between two waits, so it is repeated.
    fn turn(self: &Arc<Self>, shared: &Arc<Shared>) {
        let wanted = {
            let mut version = lock(&self.version);
            version.0 += 1;
            version.0
        };
        self.changed.notify_one();
        let (reader, end) = (Arc::clone(self), shared.end.clone());
        tokio::spawn(async move {
            loop {
                let confirmed = reader.confirmed.notified();
                if lock(&reader.version).1 >= wanted || end.is_cancelled() {
                    return;
                }
                let interrupt = lock(&reader.interrupt).clone();
                // Without a connection there is no wait to end, and the next one begins with the keys of that time.
                let Some(interrupt) = interrupt else { return };
                // A failure means the same.
                if interrupt.interrupt().await.is_err() {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), confirmed).await;
            }
        });
    }
}

/// A place in a window, for one group.
pub(crate) struct Follower {
    id: u64,
    key: String,
    shared: Arc<Shared>,
    news: Arc<News>,
    /// The version of the news at which the group had taken every entry; so that it asks once per wake-up.
    at_end: AtomicU64,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Follower {
    /// The entries above `position`, at most `count` of about [`TAKE_BYTES`] together.
    ///
    /// The window of a partition must show that they follow the entry there, with this `witness`. A group that read by
    /// itself may be ahead of the tail. Then the tail may find a history that never had the position.
    pub(crate) fn take(&self, position: EntryId, witness: Option<Witness>, count: usize) -> Taken {
        self.take_all_of(position, witness, count).0
    }

    /// As [`Self::take`], with the version of the news for which these are all entries.
    fn take_all_of(&self, position: EntryId, witness: Option<Witness>, count: usize) -> (Taken, Option<u64>) {
        let mut inner = self.shared.lock();
        // The key is followed while the follower lives.
        let Some(window) = inner.windows.get(&self.key) else { return (Taken::Nothing, None) };
        if let Some(error) = &window.broken {
            return (Taken::Broken(Arc::clone(error)), None);
        }
        if position < window.floor {
            return (Taken::Behind { floor: window.floor }, None);
        }
        inner.change(&self.key, |window| window.catchup.leave(self.id));
        let Some(window) = inner.windows.get(&self.key) else { return (Taken::Nothing, None) };
        let first = window.above(position);
        let version = self.news.version.load(Ordering::Acquire);
        if first == window.entries.len() {
            return (Taken::Nothing, Some(version));
        }
        if !window.shows(position, witness) {
            return (Taken::Behind { floor: window.floor }, None);
        }
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            let before = bytes;
            bytes += entry.weight();
            before < TAKE_BYTES
        };
        let taken: Vec<_> = window.entries.range(first..).take(count).take_while(fits).cloned().collect();
        let all = (first + taken.len() == window.entries.len()).then_some(version);
        (Taken::Entries(taken), all)
    }

    /// As [`Self::take`], but waits while there is nothing.
    ///
    /// # Cancel safety
    /// It takes nothing until it returns.
    pub(crate) async fn wait(&self, position: EntryId, witness: Option<Witness>, count: usize) -> Taken {
        loop {
            let news = self.news.woken.notified();
            tokio::pin!(news);
            // Enabled before the check, so that no entry between check and wait is missed.
            news.as_mut().enable();
            if self.at_end.load(Ordering::Relaxed) == self.news.version.load(Ordering::Acquire) {
                news.await;
                continue;
            }
            let (taken, all) = self.take_all_of(position, witness, count);
            self.at_end.store(all.unwrap_or(u64::MAX), Ordering::Relaxed);
            match taken {
                Taken::Nothing => news.await,
                taken => return taken,
            }
        }
    }
}

impl Follower {
    /// Waits until an entry arrives behind `position`; answers the newest id.
    ///
    /// # Errors
    /// The server's error about the key, when it refuses the key.
    ///
    /// # Cancel safety
    /// It only reads.
    pub(crate) async fn beyond(&self, position: EntryId) -> Result<EntryId, Arc<BrokerError>> {
        loop {
            let news = self.news.woken.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(window) = self.shared.lock().windows.get(&self.key) {
                if let Some(error) = &window.broken {
                    return Err(Arc::clone(error));
                }
                // After a cut the newest entry may be below the one heard of before.
                if window.last > position || (window.last < position && !window.entries.is_empty()) {
                    return Ok(window.last);
                }
            }
            news.await;
        }
    }

    /// Reads from an entry below the window, or joins a read of other groups there.
    pub(crate) fn read_on(&self, partition: &PartitionKey, position: EntryId) -> Reading {
        let mut inner = self.shared.lock();
        let begun = inner.change(&self.key, |window| {
            window.catchup.stand(self.id, position);
            match window.catchup.find(position) {
                Some(reading) => (reading, None),
                None => {
                    let (order, reading) = window.catchup.order(position, window.floor);
                    (reading, Some((order, window.generation)))
                }
            }
        });
        // The key is followed while the follower lives.
        let Some((reading, order)) = begun else { return Reading::never() };
        drop(inner);
        if let Some((order, generation)) = order {
            tokio::spawn(catch_up(Arc::clone(&self.shared), partition.clone(), generation, order));
        }
        reading
    }

    /// Notes that the server has no entry above this position. A window is of another history if it has one and does
    /// not show the position, or if it begins above it. Then it begins anew from here.
    pub(crate) fn is_at_end(&self, position: EntryId, witness: Option<Witness>) {
        let mut inner = self.shared.lock();
        inner.generation += 1;
        let generation = inner.generation;
        let anew = inner.change(&self.key, |window| {
            let newest = window.entries.back().map(|entry| entry.id);
            let is_above = newest.is_some_and(|newest| newest > position) && !window.shows(position, witness);
            if !is_above && window.floor <= position {
                return None;
            }
            window.entries.clear();
            window.catchup.forget();
            (window.bytes, window.generation) = (0, generation);
            (window.floor, window.below) = (position, witness);
            (window.last, window.witness) = (position, witness);
            window.news.wake();
            Some(Arc::clone(&window.reader))
        });
        drop(inner);
        if let Some(reader) = anew.flatten() {
            reader.turn(&self.shared);
        }
    }

    /// Drops the entries in memory after a loss: they may be counted as lost, or be of another history.
    pub(super) fn forget(&self) {
        self.shared.lock().change(&self.key, |window| {
            window.catchup.forget();
            while window.drop_oldest().is_some() {}
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.change(&self.key, |window| window.catchup.leave(self.id));
        let Some(window) = inner.windows.get_mut(&self.key) else { return };
        window.followers -= 1;
        if window.followers == 0
            && let Some(window) = inner.windows.remove(&self.key)
        {
            inner.bytes -= window.bytes + window.catchup.bytes();
            inner.counts.insert(self.key.clone(), window.catchup.count.again());
            window.reader.keys.fetch_sub(1, Ordering::Relaxed);
            // The reader applies the change at its next turn, at most [`WAIT`] later.
            lock(&window.reader.version).0 += 1;
        }
    }
}

/// Waits on one connection for as long as the app lives.
async fn read(shared: Arc<Shared>, reader: Arc<Reader>) {
    let _sign = shared.vitals.alive("the task that waits for entries");
    let contact = shared.outages.contact("the wait for new entries");
    let (mut failures, mut count) = (0_u32, Count::new(1, 1));
    while !shared.end.is_cancelled() {
        let failed = match shared.broker.tail().await {
            Ok(mut tail) => {
                *lock(&reader.interrupt) = Some(tail.interrupt());
                tokio::select! {
                    () = shared.end.cancelled() => return,
                    error = read_on(&shared, &reader, tail.as_mut(), &contact, &mut failures, &mut count) => error,
                }
            }
            Err(error) => error,
        };
        *lock(&reader.interrupt) = None;
        count.failed();
        if failures == 0 {
            shared.reconnects.add(1);
        }
        failures = failures.saturating_add(1);
        // Groups of a key that the server refuses report that themselves.
        if failed.kind() != BrokerErrorKind::Refused || probe(&shared, &reader).await == 0 {
            contact.failed(Matter::Read, &failed);
        }
        let wait = wait(OUTAGE_BACKOFF, failures, shared.random.fraction());
        tokio::select! {
            () = shared.end.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = shared.outages.over() => {}
        }
    }
}

/// Reads on one connection until it fails.
async fn read_on(
    shared: &Arc<Shared>,
    reader: &Arc<Reader>,
    tail: &mut dyn streams_core::broker::Tail,
    contact: &Contact,
    failures: &mut u32,
    count: &mut Count,
) -> BrokerError {
    let mut keys: Vec<(String, EntryId)> = Vec::new();
    let mut generations: Vec<u64> = Vec::new();
    let mut known = None;
    // If one read does not ask for all keys: the next key, and how many in a row had no entries.
    let (mut next, mut quiet) = (0, 0);
    let mut woke: VecDeque<Instant> = VecDeque::with_capacity(BUSY);
    loop {
        let wanted = lock(&reader.version).0;
        if known != Some(wanted) {
            let inner = shared.lock();
            let mine = || {
                inner
                    .windows
                    .iter()
                    .filter(|(_, window)| Arc::ptr_eq(&window.reader, reader) && window.broken.is_none())
            };
            keys = mine().map(|(key, window)| (key.clone(), window.last)).collect();
            generations = mine().map(|(_, window)| window.generation).collect();
            let max_payload = mine().map(|(_, window)| window.max_payload).max().unwrap_or(1);
            count.of_keys(max_payload, keys.len());
            (next, quiet) = (0, 0);
            drop(inner);
            known = Some(wanted);
            lock(&reader.version).1 = wanted;
            reader.confirmed.notify_waiters();
        }
        if keys.is_empty() {
            reader.changed.notified().await;
            continue;
        }
        if woke.len() == BUSY && woke[BUSY - 1] - woke[0] < GATHER {
            tokio::time::sleep_until(woke[BUSY - 1] + GATHER).await;
        }
        // After a failure the read does not wait, so that the server's return is soon known.
        let wait = if *failures > 0 { Duration::ZERO } else { WAIT };
        // One wait for all keys, once none has entries: the reply that ends it is small.
        let all = count.keys() >= keys.len() || quiet >= keys.len();
        let (first, wait) = if all { (0, wait) } else { (next % keys.len(), Duration::ZERO) };
        let end = if all { keys.len() } else { keys.len().min(first + count.keys()) };
        let read = tail.next(&keys[first..end], count.get(), wait);
        let batches = match contact.patiently(Matter::Read, Instant::now(), read).await {
            Ok(batches) => batches,
            Err(error) => return error,
        };
        next = end;
        quiet = if all || !batches.is_empty() { 0 } else { quiet + end - first };
        if all && batches.is_empty() {
            count.saw_nothing();
        }
        *failures = 0;
        contact.succeeded(Matter::Read);
        // If there were as many as asked for, there are more, and nothing to wait for.
        let is_full = batches.iter().any(|found| found.entries.len() >= count.get());
        if is_full {
            woke.clear();
        } else if !batches.is_empty() {
            if woke.len() == BUSY {
                woke.pop_front();
            }
            woke.push_back(Instant::now());
        }
        let mut inner = shared.lock();
        for found in batches {
            let index = first + found.key;
            let (Some((key, position)), Some(last)) = (keys.get_mut(index), found.entries.last()) else { continue };
            *position = last.id;
            count.saw(&found.entries);
            shared.room.saw(&found.entries);
            // Another window of the same key may begin elsewhere: entries read for this one would leave a gap in it.
            if let Some(window) = inner.windows.get_mut(key)
                && window.generation == generations[index]
            {
                let news = Arc::clone(&window.news);
                inner.change(key, |window| window.push(found));
                inner.shrink(shared.budget);
                news.wake();
            }
        }
    }
}

/// Runs a read for all who wait for it, while anybody does.
async fn catch_up(shared: Arc<Shared>, partition: PartitionKey, generation: u64, order: Order) {
    let of_then = |window: &&mut Window| window.generation == generation;
    let mut reply = Box::pin(async {
        let _room = shared.reserve(order.expected).await;
        let asked = Instant::now();
        let page = match order.page {
            Some((count, bytes)) => shared.broker.page(&partition, order.from, count.saturating_add(1), bytes).await?,
            None => {
                let asked = order.count.saturating_add(1);
                let entries = shared.broker.read(&partition, order.from.previous(), asked).await?;
                Page { complete: entries.len() < asked, entries }
            }
        };
        shared.room.saw(&page.entries);
        Ok((page, asked.elapsed()))
    });
    let read = loop {
        tokio::select! {
            biased;
            read = &mut reply => break read,
            () = order.deserted() => {
                let mut inner = shared.lock();
                let window = inner.windows.get_mut(partition.as_str()).filter(of_then);
                // Somebody may have joined between the two. Nobody can while this is locked.
                if window.is_none_or(|window| window.catchup.gives_up(&order)) {
                    return;
                }
            }
        }
    };
    let (read, took) = read.map_or_else(|error| (Err(error), Duration::ZERO), |(page, took)| (Ok(page), took));
    let landed = read.map(|page| Arc::new(order.chunk(page))).map_err(Arc::new);
    drop(reply);
    let mut inner = shared.lock();
    if inner.windows.get_mut(partition.as_str()).filter(of_then).is_some() {
        inner.change(partition.as_str(), |window| window.catchup.land(&order, &landed, took));
        inner.shrink(shared.budget);
    }
    drop(inner);
    order.answer(landed);
}

/// Finds keys that the server refuses, because one such key fails the read of all keys, without its name. It stops only
/// the groups of these keys. Answers how many there are.
async fn probe(shared: &Arc<Shared>, reader: &Arc<Reader>) -> usize {
    let keys: Vec<String> = {
        let inner = shared.lock();
        inner
            .windows
            .iter()
            .filter(|(_, window)| Arc::ptr_eq(&window.reader, reader))
            .map(|(key, _)| key.clone())
            .collect()
    };
    let mut refused = 0;
    for key in keys {
        let broken = match shared.broker.tail().await {
            Ok(mut tail) => tail.next(&[(key.clone(), EntryId::MAX)], 1, Duration::from_millis(1)).await.err(),
            Err(_) => return refused,
        };
        let broken = broken.filter(|error| error.kind() == BrokerErrorKind::Refused).map(Arc::new);
        refused += usize::from(broken.is_some());
        let mut inner = shared.lock();
        if let Some(window) = inner.windows.get_mut(&key) {
            window.broken = broken;
            window.news.wake();
        }
    }
    lock(&reader.version).0 += 1;
    refused
}

#[cfg(test)]
mod tests {
    use streams_core::broker::Log;

    use super::*;

    use streams_core::keys::StreamKey;

    use crate::broker::Embedded;

    #[tokio::test(start_paused = true)]
    async fn a_group_that_stands_still_below_the_window_costs_no_more_than_the_budget() {
        const BUDGET: usize = 600_000;
        let broker: Arc<dyn Broker> = Arc::new(Embedded::new());
        let tails =
            Tails::new(Arc::clone(&broker), Arc::new(Random::seeded(1)), BUDGET, Outages::default(), Arc::default());
        let partition = StreamKey::new(None, "trades", 1).partition(0);
        let entry = || vec![(b"payload".to_vec(), vec![7; 100])];
        let ids = broker.append(&partition, (0..10_000).map(|_| entry()).collect(), None).await.unwrap();
        let last = *ids.last().unwrap();
        let still = tails.follow(partition.as_str(), ids[0], last, 1_024);
        let moving = tails.follow(partition.as_str(), ids[0], last, 1_024);
        let held = || {
            let inner = tails.shared.lock();
            let sum: usize = inner.windows.values().map(|window| window.bytes + window.catchup.bytes()).sum();
            assert_eq!(inner.bytes, sum);
            sum
        };
        let (mut position, mut most) = (ids[0], 0);
        while position < last {
            let chunk = moving.read_on(&partition, position).chunk().await.unwrap();
            position = chunk.from(position).last().unwrap().id;
            most = most.max(held());
        }
        assert!(most <= BUDGET && most > BUDGET / 2, "{most}");
        drop(still);
        assert_eq!(moving.read_on(&partition, ids[0]).chunk().await.unwrap().from(ids[0])[0].id, ids[0]);
        drop(moving);
        assert_eq!(held(), 0);
        tails.end();
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_begins_above_the_end_of_history_begins_anew() {
        let broker: Arc<dyn Broker> = Arc::new(Embedded::new());
        let tails =
            Tails::new(Arc::clone(&broker), Arc::new(Random::seeded(1)), 100_000, Outages::default(), Arc::default());
        let partition = StreamKey::new(None, "trades", 1).partition(0);
        let last = broker.append(&partition, vec![vec![(Vec::new(), Vec::new())]], None).await.unwrap()[0];
        // It belongs to a history that was longer.
        let follower = tails.follow(partition.as_str(), last, EntryId::new(last.ms + 1_000, 0), 1_024);
        let there = broker.read(&partition, EntryId::ZERO, 1).await.unwrap();
        let witness = Some(Witness::of(&there[0]));
        assert!(matches!(follower.take(last, witness, 1), Taken::Behind { .. }));
        follower.is_at_end(last, witness);
        assert!(matches!(follower.take(last, witness, 1), Taken::Nothing));
        let next = broker.append(&partition, vec![vec![(Vec::new(), Vec::new())]], None).await.unwrap()[0];
        let Taken::Entries(entries) = follower.wait(last, witness, 1).await else { panic!("it is behind") };
        assert_eq!(entries[0].id, next);
        tails.end();
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_began_where_a_group_has_read_another_entry_does_not_go_on_from_there() {
        let broker = Embedded::new();
        let (shared, random): (Arc<dyn Broker>, _) = (Arc::new(broker.clone()), Arc::new(Random::seeded(1)));
        let tails = Tails::new(shared, random, 100_000, Outages::default(), Arc::default());
        let partition = StreamKey::new(None, "trades", 1).partition(0);
        let entry = |payload: &[u8]| vec![(b"payload".to_vec(), payload.to_vec())];
        let last = broker.append(&partition, vec![entry(b"of then")], None).await.unwrap()[0];
        let read = broker.read(&partition, EntryId::ZERO, 1).await.unwrap();
        // The group has read the entry there by itself.
        let follower = tails.follow(partition.as_str(), last, last, 1_024);
        let then = Some(Witness::of(&read[0]));
        broker.delete(&partition);
        let next = EntryId::new(last.ms + 1, 0);
        for id in [last, next] {
            assert!(broker.add(&partition, id, &entry(b"of now")));
        }
        assert!(matches!(follower.wait(last, then, 1).await, Taken::Behind { .. }));
        let read = broker.read(&partition, EntryId::ZERO, 1).await.unwrap();
        let now = Some(Witness::of(&read[0]));
        assert!(matches!(follower.take(last, now, 1), Taken::Entries(entries) if entries[0].id == next));
        tails.end();
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_takes_no_more_at_once_than_it_may_hold() {
        let broker: Arc<dyn Broker> = Arc::new(Embedded::new());
        let tails = Tails::new(
            Arc::clone(&broker),
            Arc::new(Random::seeded(1)),
            16 * TAKE_BYTES,
            Outages::default(),
            Arc::default(),
        );
        let partition = StreamKey::new(None, "trades", 1).partition(0);
        let first = broker.append(&partition, vec![vec![(Vec::new(), Vec::new())]], None).await.unwrap()[0];
        let follower = tails.follow(partition.as_str(), first, first, TAKE_BYTES);
        for size in [TAKE_BYTES * 2, TAKE_BYTES / 4, TAKE_BYTES / 4, TAKE_BYTES / 4, TAKE_BYTES / 4, 1, 1] {
            let entry = vec![(b"payload".to_vec(), vec![7; size])];
            broker.append(&partition, vec![entry], None).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (mut position, mut sizes) = (first, Vec::new());
        let mut witness =
            broker.read(&partition, EntryId::ZERO, 1).await.unwrap().first().map(|first| Witness::of(first));
        while let Taken::Entries(entries) = follower.take(position, witness, 256) {
            let last = entries.last().unwrap();
            (position, witness) = (last.id, Some(Witness::of(last)));
            sizes.push(entries.len());
        }
        assert_eq!(sizes, [1, 4, 2]);
        tails.end();
    }
}
