//! The broker in the process: streams, leases and dead letters in memory, with the promises of the Redis one; `queue` has
//! work queues.

mod queue;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use streams_core::broker::{
    Acked, Acks, Acquired, Adopted, Adoption, Answer, Attendance, Broker, BrokerError, BrokerErrorKind, Change, Claim,
    Commit, Committed, Consumed, Created, Damage, Durable, Events, Extent, Fetch, Fetched, Fields, Found, GroupState,
    Groups, Holder, Holding, Interrupt, Joined, LeaseView, Letters, Life, Log, Lost, MAX_MEMBERS, MOST_ENTRY_BYTES,
    Member, Members, Moved, Need, Notes, Page, Pass, Proof, Proving, Queue, QueueState, Reclaimed, Renewal, Renewed,
    Renewer, Replay, ReplayEnd, Reply, Reset, SNAPSHOT_BYTES, Snapshot, Tail, Taken, cut, in_short,
};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
use streams_core::{Durability, Entry, EntryId, Start};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::queue::Record;
use super::checks::{
    BELL_LENGTH, check_acks, check_commit, check_entries, check_owner, check_partitions, check_replay_end, check_strays,
};
use crate::clock::millis;

/// A broker without a server, for development, tests and programs that may forget.
///
/// Everything stays in this process's memory and is gone with it. Entries leave by retention alone (the floor of
/// [`append`](Log::append)), so memory holds what is published in one retention period: about
/// [`Entry::weight`] bytes an entry. Dead letters stay until they are discarded.
///
/// Time is tokio's: under a paused clock leases, retention and waits run in virtual time, and two runs from the same
/// [`starting`](Self::starting) give out the same ids. Clones share one store.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Store>,
    /// Rung after entries were added, for tails.
    added: Notify,
    /// The wall clock at construction, and the moment it was read: afterwards only tokio's clock counts.
    epoch_ms: AtomicU64,
    epoch: Instant,
}

/// The streams and groups that an [`Embedded`] broker held at a moment.
#[derive(Clone)]
pub struct Dump {
    logs: HashMap<String, Stream>,
    groups: HashMap<String, Group>,
}

#[derive(Default)]
struct Store {
    logs: HashMap<String, Stream>,
    groups: HashMap<String, Group>,
    partitions: HashMap<String, u32>,
    notes: HashMap<String, Notes>,
    /// By set what members say, with their beats.
    members: HashMap<String, BTreeMap<String, u64>>,
}

/// A stream: partitions, bells and dead letters alike.
#[derive(Clone, Default)]
struct Stream {
    entries: VecDeque<Arc<Entry>>,
    last: EntryId,
    added: u64,
    /// The highest id that was deleted by itself.
    deleted: EntryId,
    /// The groups whose marker stands in the stream and dies with it, with where it stood at first.
    markers: HashMap<String, EntryId>,
}

/// The lease and the checkpoint of a group on a partition.
#[derive(Clone, Default)]
struct Group {
    lease: LeaseView,
    lease_for: Duration,
    at: EntryId,
    at_event: String,
    seen: Option<u64>,
    attempts: BTreeMap<EntryId, u32>,
    /// How many events its owner may have in hand.
    bound: u32,
    /// Which was the last commit of this holding that left the checkpoint where it was.
    call: u64,
    proving: Option<Proving>,
    charged: Vec<EntryId>,
    crashes: BTreeMap<EntryId, u32>,
    reset: u64,
    events: Events,
    needs: Option<Need>,
    resume: u64,
    replaying: Replaying,
    /// The record of a work queue; it has a cursor in the place of the checkpoint. The lease is nobody's, and its epoch that of the last joining
    /// or reset.
    record: Option<Record>,
}

/// What is known of the first of the replays.
#[derive(Clone, Copy, Default)]
struct Replaying {
    id: EntryId,
    attempts: u32,
    crashes: u32,
    /// The epoch that it is charged to.
    charged: Option<u64>,
}

impl Stream {
    fn push(&mut self, now: u64, fields: Fields) -> EntryId {
        // As Redis does: the clock may stand still or go back, ids may not.
        let id = if now > self.last.ms { EntryId::new(now, 0) } else { self.last.next() };
        self.add(id, fields)
    }

    fn add(&mut self, id: EntryId, fields: Fields) -> EntryId {
        self.entries.push_back(Arc::new(Entry { id, fields }));
        self.last = id;
        self.added += 1;
        id
    }

    /// Answers how many went.
    fn trim_below(&mut self, floor: EntryId) -> u64 {
        let below = self.entries.partition_point(|entry| entry.id < floor);
        self.entries.drain(..below);
        below as u64
    }

    /// The index of the first entry above `id`.
    fn above(&self, id: EntryId) -> usize {
        self.entries.partition_point(|entry| entry.id <= id)
    }

    fn read(&self, after: EntryId, count: usize) -> Vec<Arc<Entry>> {
        self.entries.range(self.above(after)..).take(count).map(within_bounds).collect()
    }

    fn at(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.read(id.previous(), 1).pop().filter(|entry| entry.id == id)
    }

    /// The entries at or above `from` as [`Log::page`] answers them.
    fn page(&self, from: EntryId, count: usize, bytes: usize) -> Page {
        let first = self.entries.partition_point(|entry| entry.id < from);
        let (mut page, mut sum) = (Page { entries: Vec::new(), complete: true }, 0);
        for entry in self.entries.range(first..) {
            let entry = within_bounds(entry);
            let is_first_above = sum == 0;
            sum += if entry.id == from { 0 } else { entry.weight() };
            if page.entries.len() >= count || (sum > bytes && !is_first_above) {
                page.complete = false;
                break;
            }
            page.entries.push(if entry.id == from { Arc::new(in_short(&entry)) } else { entry });
        }
        // As many as were asked for say nothing of more.
        page.complete &= page.entries.len() < count;
        page
    }

    /// How many entries were added that are not there any more.
    fn removed(&self) -> u64 {
        self.added - self.entries.len() as u64
    }

    fn extent(&self) -> Extent {
        Extent {
            first: self.entries.front().map(|entry| entry.id),
            last: self.last,
            length: self.entries.len() as u64,
            added: self.added,
        }
    }

    /// The checkpoint of a group that begins here, its ordinal, and the event id of the entry there.
    fn begin(&self, start: Start, now: u64) -> (EntryId, Option<u64>, String) {
        let before = |id: EntryId| match self.entries.partition_point(|entry| entry.id < id) {
            0 => EntryId::ZERO,
            above => self.entries[above - 1].id,
        };
        let at = match start {
            Start::Earliest => EntryId::ZERO,
            Start::Latest => self.last,
            Start::At(id) => before(id),
            Start::Ago(ago) => before(EntryId::new(now.saturating_sub(millis(ago)), 0)),
        };
        let seen = if at == self.last {
            Some(self.added)
        } else if at == EntryId::ZERO {
            Some(self.added - self.entries.len() as u64)
        } else {
            None
        };
        (at, seen, self.event_at(at))
    }

    /// The event id of the entry there, where it can be told apart.
    fn event_at(&self, id: EntryId) -> String {
        self.at(id).and_then(|entry| entry.given_id().map(str::to_owned)).unwrap_or_default()
    }
}

/// An entry as it is answered: one that is too large is cut.
fn within_bounds(entry: &Arc<Entry>) -> Arc<Entry> {
    if entry.weight() <= MOST_ENTRY_BYTES { Arc::clone(entry) } else { Arc::new(cut(Entry::clone(entry))) }
}

impl Group {
    /// A group that begins here, for the delivery that its key is for.
    fn begin(group: &GroupKey, (at, seen, at_event): (EntryId, Option<u64>, String)) -> Self {
        let record = group.is_queue().then(|| Record::new(at, at_event.clone(), seen));
        Self { at, at_event, seen, record, ..Self::default() }
    }

    /// The delivery that the group was made for.
    fn mode(&self) -> &'static str {
        if self.record.is_some() { "queue" } else { "ordered" }
    }

    /// The same, where the key is for another one.
    fn other_mode(&self, group: &GroupKey) -> Option<&'static str> {
        (self.record.is_some() != group.is_queue()).then(|| self.mode())
    }

    /// The checkpoint, or what a work queue has in its place.
    fn position(&self) -> EntryId {
        self.record.as_ref().map_or(self.at, |record| record.cursor.at)
    }

    /// The oldest entry that is not settled below that.
    fn oldest(&self) -> Option<EntryId> {
        self.record.as_ref().and_then(Record::oldest)
    }

    fn is_held_by(&self, holder: &Holder) -> bool {
        if let Some(record) = &self.record {
            return record.has(holder);
        }
        // The empty owner is nobody, also for somebody who claims to be it.
        !holder.owner.is_empty() && self.lease.owner == holder.owner && self.lease.epoch == holder.epoch
    }
}

impl Store {
    fn read(&self, key: &str, after: EntryId, count: usize) -> Vec<Arc<Entry>> {
        self.logs.get(key).map_or_else(Vec::new, |log| log.read(after, count))
    }

    fn strays(&self, stream: &StreamKey) -> Vec<(PartitionKey, u64)> {
        let filled = self.logs.iter().filter(|(_, log)| !log.entries.is_empty());
        let strays = filled.filter_map(|(key, log)| Some((stream.stray(key)?, log.entries.len() as u64)));
        let mut strays: Vec<_> = strays.collect();
        strays.sort_unstable();
        strays
    }

    fn has_marker(&self, group: &GroupKey) -> bool {
        self.logs.get(group.partition().as_str()).is_some_and(|log| log.markers.contains_key(group.group()))
    }

    fn state(&self, group: &GroupKey) -> Option<GroupState> {
        self.groups.get(group.state()).map(|state| GroupState {
            lease: state.lease.clone(),
            lease_for: state.lease_for,
            at: state.position(),
            reset: state.reset,
            events: state.events.clone(),
            needs: state.needs.clone(),
            resume: state.resume,
        })
    }

    fn attend(&mut self, set: &Attendance) -> Vec<Member> {
        let members = self.members.entry(set.members.clone()).or_default();
        for (absent, last) in &set.absent {
            if members.get(absent).is_some_and(|beat| last.is_none_or(|last| last == *beat)) {
                members.remove(absent);
            }
        }
        if let Some(present) = &set.present {
            if !members.contains_key(present) {
                while members.len() >= MAX_MEMBERS {
                    let least = members.iter().min_by_key(|(says, beat)| (**beat, (*says).clone()));
                    let Some(least) = least.map(|(says, _)| says.clone()) else { break };
                    members.remove(&least);
                }
            }
            *members.entry(present.clone()).or_default() += 1;
        }
        members.iter().map(|(says, beat)| Member { says: says.clone(), beat: *beat }).collect()
    }

    fn create(&mut self, group: &GroupKey, start: Start, now: u64) -> Created {
        if self.groups.contains_key(group.state()) {
            return Created::Exists;
        }
        if self.has_marker(group) {
            return Created::Foreign;
        }
        let log = self.logs.entry(group.partition().as_str().to_owned()).or_default();
        let begin = log.begin(start, now);
        log.markers.insert(group.group().to_owned(), begin.0);
        self.groups.insert(group.state().to_owned(), Group::begin(group, begin));
        Created::Made
    }

    fn reset(&mut self, group: &GroupKey, seen: Option<u64>, to: Start, now: u64) -> Reset {
        let state = self.groups.get(group.state());
        if let Some(mode) = state.and_then(|state| state.other_mode(group)) {
            return Reset::Mode(mode.to_owned());
        }
        let epoch = state.map(|state| state.lease.epoch);
        if epoch != seen {
            return Reset::Contended;
        }
        if epoch.is_none() && self.has_marker(group) {
            return Reset::Foreign;
        }
        let log = self.logs.entry(group.partition().as_str().to_owned()).or_default();
        let begin = log.begin(to, now);
        let at = begin.0;
        log.markers.insert(group.group().to_owned(), at);
        let reset = now.max(epoch.unwrap_or_default() + 1);
        let lease = LeaseView { epoch: reset, ..LeaseView::default() };
        let events = self.groups.remove(group.state()).map(|state| state.events).unwrap_or_default();
        self.groups.insert(group.state().to_owned(), Group { lease, reset, events, ..Group::begin(group, begin) });
        self.ring(group, now);
        Reset::Done { at }
    }

    fn ring(&mut self, group: &GroupKey, now: u64) {
        let bell = self.logs.entry(group.partition().bell()).or_default();
        bell.push(now, vec![(b"group".to_vec(), group.group().as_bytes().to_vec())]);
        while bell.entries.len() > BELL_LENGTH {
            bell.entries.pop_front();
        }
    }

    fn consumed(&self, partition: &PartitionKey) -> Option<Consumed> {
        let markers = &self.logs.get(partition.as_str())?.markers;
        let checkpoints = markers.keys().map(|group| {
            let state = self.groups.get(partition.group(group).state())?;
            // As long as it is not known what waits, a trim may pass it.
            if state.record.as_ref().is_some_and(|record| !record.knows_what_waits()) {
                return None;
            }
            let at = state.position();
            Some((state.oldest().map_or(at, |oldest| oldest.previous().min(at)), group))
        });
        let (at, slowest) = checkpoints.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        Some(Consumed { at, slowest: slowest.clone() })
    }

    fn acquire(&mut self, group: &GroupKey, claim: &Claim, now: u64) -> Acquired {
        let has_marker = self.has_marker(group);
        let last = self.logs.get(group.partition().as_str()).map_or(EntryId::ZERO, |log| log.last);
        let Some(state) = self.groups.get_mut(group.state()) else { return Acquired::Missing };
        if let Some(mode) = state.other_mode(group) {
            return Acquired::Mode(mode.to_owned());
        }
        // Its own token: the claim was sent again.
        let again = state.lease.owner == claim.owner;
        if !again && state.lease != claim.seen {
            return Acquired::Contended;
        }
        let at = state.at;
        if !has_marker {
            return Acquired::Vanished { at };
        }
        if at > last {
            return Acquired::Ahead { at, last };
        }
        if !again {
            let epoch = now.max(state.lease.epoch + 1);
            // Whoever gives a lease back, or finds its own again, is alive: no event of its own has ended it.
            let gone = !state.lease.owner.is_empty() && !claim.own;
            for charged in std::mem::take(&mut state.charged).into_iter().filter(|_| gone) {
                *state.crashes.entry(charged).or_default() += 1;
            }
            if gone && last > at {
                let left = state.proving.map_or(0, |proving| proving.left);
                state.proving = Some(Proving { left: left.max(state.bound), to: last });
            }
            state.lease = LeaseView { owner: claim.owner.clone(), epoch, beat: 0 };
            state.call = 0;
            state.lease_for = claim.lease_for;
            state.bound = claim.bound;
        }
        let above = |counts: &BTreeMap<EntryId, u32>| counts.range(at.next()..).map(|(id, n)| (*id, *n)).collect();
        let (attempts, crashes, proving) = (above(&state.attempts), above(&state.crashes), state.proving);
        let (epoch, at_event, events) = (state.lease.epoch, state.at_event.clone(), state.events.clone());
        Acquired::Held(Holding { epoch, at, at_event, seen: state.seen, attempts, events, proving, crashes })
    }

    fn commit(&mut self, group: &GroupKey, commit: &Commit, now: u64) -> Committed {
        let vanished = commit.mirror && !self.has_marker(group);
        let Some(state) = self.groups.get_mut(group.state()) else { return Committed::Fenced };
        if state.mode() != "ordered" || !state.is_held_by(&commit.holder) {
            return Committed::Fenced;
        }
        if state.at == commit.next && commit.prev != commit.next {
            return Committed::Done;
        }
        if state.at != commit.prev {
            return Committed::Conflict { at: state.at };
        }
        if commit.prev == commit.next {
            match commit.call.cmp(&state.call) {
                Ordering::Greater => {}
                Ordering::Equal => return Committed::Done,
                Ordering::Less => return Committed::Conflict { at: state.at },
            }
        }
        let declared = |name: &&String| state.events.contains_key(*name);
        let names: Vec<_> = commit.passed_over.iter().filter(declared).cloned().collect();
        if !names.is_empty() {
            return Committed::Declared { names };
        }
        if !commit.dead.is_empty() {
            let dead = self.logs.entry(group.dead()).or_default();
            let count = dead.entries.len() as u64;
            let oldest = dead.entries.front().map(|entry| entry.id);
            let too_old = oldest.is_some_and(|id| now.saturating_sub(id.ms) > millis(commit.dead_bounds.age));
            if too_old || count + commit.dead.len() as u64 > commit.dead_bounds.count {
                return Committed::DeadLettersFull { count, oldest };
            }
            for fields in &commit.dead {
                dead.push(now, fields.clone());
            }
        }
        state.at = commit.next;
        if commit.prev == commit.next {
            state.call = commit.call;
        } else {
            state.at_event.clone_from(&commit.next_event);
            state.seen = commit.seen;
        }
        state.seen = commit.seen.or(state.seen);
        state.lease.beat += 1;
        state.attempts.extend(commit.attempts.iter().copied());
        for id in &commit.forget {
            state.attempts.remove(id);
        }
        if let Some(Proof { charged, left, forget }) = &commit.proof {
            state.charged = if *left > 0 { charged.clone() } else { Vec::new() };
            state.proving = state.proving.filter(|_| *left > 0).map(|proving| Proving { left: *left, ..proving });
            for id in forget {
                state.crashes.remove(id);
            }
        }
        if vanished { Committed::Vanished } else { Committed::Done }
    }

    fn replay(&mut self, group: &GroupKey, ids: &[EntryId], most: u64, now: u64) -> Moved {
        if !self.groups.contains_key(group.state()) {
            return Moved::Missing;
        }
        let waiting = self.logs.get(&group.replay()).map_or(0, |log| log.entries.len() as u64);
        if waiting + ids.len() as u64 > most {
            return Moved::Full { waiting };
        }
        let mut moved = Vec::new();
        for &id in ids {
            let Some(dead) = self.logs.get_mut(&group.dead()) else { break };
            let Ok(index) = dead.entries.binary_search_by_key(&id, |entry| entry.id) else { continue };
            let Some(letter) = dead.entries.remove(index) else { continue };
            let own = [(b"letter".to_vec(), id.to_string().into_bytes())];
            let fields = own.into_iter().chain(letter.fields.iter().cloned()).collect();
            self.logs.entry(group.replay()).or_default().push(now, fields);
            moved.push(id);
        }
        Moved::Done(moved)
    }

    fn take_replay(&mut self, group: &GroupKey, holder: &Holder) -> Taken {
        let Some(state) = self.groups.get_mut(group.state()).filter(|state| state.is_held_by(holder)) else {
            return Taken::Fenced;
        };
        let Some(letter) = self.logs.get(&group.replay()).and_then(|log| log.entries.front()) else {
            return Taken::Nothing;
        };
        // Another consumer is at it.
        let lives = |epoch: u64| state.record.as_ref().is_some_and(|record| record.lives(epoch));
        if let Some(epoch) = state.replaying.charged
            && state.replaying.id == letter.id
            && epoch != holder.epoch
            && lives(epoch)
        {
            return Taken::Nothing;
        }
        if state.replaying.id != letter.id {
            state.replaying = Replaying { id: letter.id, ..Replaying::default() };
        }
        let replaying = &mut state.replaying;
        // Whoever charged it went away in the middle.
        if replaying.charged.is_some_and(|epoch| epoch != holder.epoch) {
            replaying.crashes += 1;
        }
        replaying.charged = Some(holder.epoch);
        let Replaying { attempts, crashes, .. } = *replaying;
        Taken::Letter(Replay { letter: Arc::clone(letter), attempts, crashes })
    }

    fn end_replay(&mut self, group: &GroupKey, holder: &Holder, id: EntryId, end: &ReplayEnd, now: u64) -> bool {
        let Some(state) = self.groups.get_mut(group.state()).filter(|state| state.is_held_by(holder)) else {
            return false;
        };
        let waiting = self.logs.get_mut(&group.replay());
        let Some((log, index)) = waiting.and_then(|log| {
            let index = log.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
            Some((log, index))
        }) else {
            return true;
        };
        if let ReplayEnd::Again { attempts } = end {
            let now = if state.replaying.id == id { state.replaying } else { Replaying::default() };
            if *attempts < now.attempts {
                return true;
            }
            let crashes = now.crashes;
            state.replaying = Replaying { id, attempts: *attempts, crashes, charged: None };
            return true;
        }
        log.entries.remove(index);
        state.replaying = Replaying::default();
        if let ReplayEnd::Dead(fields) = end {
            self.logs.entry(group.dead()).or_default().push(now, fields.clone());
        }
        true
    }

    fn release(&mut self, group: &GroupKey, holder: &Holder, needs: Option<&Need>, now: u64) -> bool {
        if group.is_queue() {
            return self.leave_queue(group, holder, now);
        }
        let held = |state: &&mut Group| state.mode() == "ordered" && state.is_held_by(holder);
        let Some(state) = self.groups.get_mut(group.state()).filter(held) else {
            return false;
        };
        // The epoch stays: the next one must be above it.
        state.lease.owner.clear();
        if needs.is_some() {
            state.needs = needs.cloned();
        }
        state.charged = Vec::new();
        self.ring(group, now);
        true
    }

    fn declare_events(&mut self, group: &GroupKey, change: &Change) -> Option<Events> {
        let state = self.groups.get_mut(group.state())?;
        for (name, version) in &change.declares {
            let highest = state.events.entry(name.clone()).or_default();
            *highest = (*highest).max(*version);
        }
        state.events.retain(|name, _| !change.forgets.contains(name));
        if change.met.is_some() && state.needs == change.met {
            state.needs = None;
        }
        Some(state.events.clone())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        // Nothing in here panics between two writes that belong together.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.epoch_ms.load(Relaxed) + millis(self.epoch.elapsed())
    }
}

impl Embedded {
    /// An empty broker.
    pub fn new() -> Self {
        Self::starting(SystemTime::now())
    }

    /// An empty broker whose clock starts here: for tests in which every id is the same at every run.
    pub fn starting(now: SystemTime) -> Self {
        let epoch_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
        let epoch_ms = AtomicU64::new(epoch_ms);
        let shared = Shared { store: Mutex::default(), added: Notify::new(), epoch_ms, epoch: Instant::now() };
        Self { shared: Arc::new(shared) }
    }

    /// Sets the clock back, as happens to a server's.
    pub fn turn_back(&self, by: Duration) {
        let back = |ms: u64| Some(ms.saturating_sub(millis(by)));
        let _ = self.shared.epoch_ms.fetch_update(Relaxed, Relaxed, back);
    }

    /// Deletes a stream with its groups' markers, as an operator's `DEL` would.
    pub fn delete(&self, partition: &PartitionKey) {
        self.shared.lock().logs.remove(partition.as_str());
    }

    /// Puts a group's marker on a stream without a state, as another application's `XGROUP CREATE .. MKSTREAM` would.
    pub fn mark(&self, group: &GroupKey) {
        let mut store = self.shared.lock();
        let log = store.logs.entry(group.partition().as_str().to_owned()).or_default();
        log.markers.insert(group.group().to_owned(), log.last);
    }

    /// Trims what is below `floor`, as an operator's `XTRIM` would.
    pub fn trim(&self, partition: &PartitionKey, floor: EntryId) {
        if let Some(log) = self.shared.lock().logs.get_mut(partition.as_str()) {
            log.entries.retain(|entry| entry.id >= floor);
        }
    }

    /// Deletes entries, as an operator's `XDEL` would.
    pub fn remove(&self, partition: &PartitionKey, ids: &[EntryId]) {
        if let Some(log) = self.shared.lock().logs.get_mut(partition.as_str()) {
            let gone = log.entries.iter().map(|entry| entry.id).filter(|id| ids.contains(id)).max();
            log.deleted = log.deleted.max(gone.unwrap_or(EntryId::ZERO));
            log.entries.retain(|entry| !ids.contains(&entry.id));
        }
    }

    /// Takes a group's marker away, as an operator's `XGROUP DESTROY` would.
    pub fn unmark(&self, group: &GroupKey) {
        if let Some(log) = self.shared.lock().logs.get_mut(group.partition().as_str()) {
            log.markers.remove(group.group());
        }
    }

    /// Adds an entry under this id, as an operator's `XADD` with an id would; answers false where it is not above every
    /// earlier one.
    pub fn add(&self, partition: &PartitionKey, id: EntryId, fields: Fields) -> bool {
        let mut store = self.shared.lock();
        let log = store.logs.entry(partition.as_str().to_owned()).or_default();
        let fits = id > log.last;
        if fits {
            log.add(id, fields);
        }
        drop(store);
        self.shared.added.notify_waiters();
        fits
    }

    /// Everything as it is now, for [`restore`](Self::restore).
    pub fn dump(&self) -> Dump {
        let store = self.shared.lock();
        Dump { logs: store.logs.clone(), groups: store.groups.clone() }
    }

    /// Puts streams and the states of groups back as they were, as a failover to a replica that lagged would; or the one stream
    /// with its markers alone, as an operator's `RESTORE` of its key would.
    pub fn restore(&self, dump: &Dump, alone: Option<&PartitionKey>) {
        let mut store = self.shared.lock();
        match alone {
            None => (store.logs, store.groups) = (dump.logs.clone(), dump.groups.clone()),
            Some(partition) => match dump.logs.get(partition.as_str()) {
                Some(log) => drop(store.logs.insert(partition.as_str().to_owned(), log.clone())),
                None => drop(store.logs.remove(partition.as_str())),
            },
        }
    }

    /// Deletes the state of a group, the waiting set of a work queue or a set of members, as an operator's `DEL` of that key
    /// would.
    pub fn forget(&self, key: &str) {
        let mut store = self.shared.lock();
        let queue = key.strip_suffix(":waiting").and_then(|state| store.groups.get_mut(state));
        if let Some(record) = queue.and_then(|state| state.record.as_mut()) {
            record.forget_waiting();
        }
        store.groups.remove(key);
        store.members.remove(key);
    }

    /// Forgets everything, as an operator's `FLUSHALL` would.
    pub fn flush(&self) {
        *self.shared.lock() = Store::default();
    }

    fn reply<'a, T>(
        &'a self,
        work: impl FnOnce(&mut Store, u64) -> Result<T, BrokerError> + Send + 'a,
    ) -> Reply<'a, T> {
        Box::pin(async move {
            // Nothing here ever waits, so a loop over these calls would keep its thread for itself.
            tokio::task::consume_budget().await;
            let now = self.shared.now();
            work(&mut self.shared.lock(), now)
        })
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl streams_core::broker::sealed::Sealed for Embedded {}

impl Broker for Embedded {
    fn describe(&self) -> String {
        "embedded (in this process's memory)".to_owned()
    }

    fn connect(&self) -> Reply<'_, ()> {
        self.reply(|_, _| Ok(()))
    }

    fn now(&self) -> Reply<'_, u64> {
        self.reply(|_, now| Ok(now))
    }
}

impl Log for Embedded {
    fn declare<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, ()> {
        self.reply(move |store, _| {
            if !store.partitions.contains_key(&stream.properties()) {
                check_strays(stream, &store.strays(stream))?;
            }
            let recorded = *store.partitions.entry(stream.properties()).or_insert_with(|| stream.partitions());
            check_partitions(stream, u64::from(recorded))
        })
    }

    fn strays<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Vec<(PartitionKey, u64)>> {
        self.reply(move |store, _| Ok(store.strays(stream)))
    }

    fn partitions<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Option<u32>> {
        self.reply(move |store, _| Ok(store.partitions.get(&stream.properties()).copied()))
    }

    fn append_durably<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
        durability: Option<Durability>,
        _wait: Duration,
    ) -> Reply<'a, Durable> {
        self.reply(move |store, now| {
            if let Some(durability) = durability {
                let message = format!(
                    "`{partition}` has durability = \"{durability}\", and the embedded broker forgets everything when the \
                     program ends: set REDIS_URL, or remove the durability"
                );
                return Err(BrokerError::new(BrokerErrorKind::Unsupported, message));
            }
            check_entries(&entries)?;
            if entries.is_empty() {
                return Ok(Durable { ids: Vec::new(), missing: None });
            }
            let log = store.logs.entry(partition.as_str().to_owned()).or_default();
            let ids = entries.into_iter().map(|fields| log.push(now, fields)).collect();
            if let Some(floor) = floor {
                log.trim_below(floor);
            }
            self.shared.added.notify_waiters();
            Ok(Durable { ids, missing: None })
        })
    }

    fn trim_below<'a>(&'a self, partition: &'a PartitionKey, floor: EntryId) -> Reply<'a, u64> {
        self.reply(move |store, _| Ok(store.logs.get_mut(partition.as_str()).map_or(0, |log| log.trim_below(floor))))
    }

    fn extent<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Extent>> {
        self.reply(move |store, _| Ok(store.logs.get(partition.as_str()).map(Stream::extent)))
    }

    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>> {
        self.reply(move |store, _| Ok(store.read(partition.as_str(), after, count)))
    }

    fn page<'a>(&'a self, partition: &'a PartitionKey, from: EntryId, count: usize, bytes: usize) -> Reply<'a, Page> {
        self.reply(move |store, _| {
            let log = store.logs.get(partition.as_str());
            Ok(log.map_or(Page { entries: Vec::new(), complete: true }, |log| log.page(from, count, bytes)))
        })
    }

    fn snapshot<'a>(&'a self, group: &'a GroupKey, from: EntryId, count: usize) -> Reply<'a, Snapshot> {
        self.reply(move |store, _| {
            let log = store.logs.get(group.partition().as_str());
            let page = log.map(|log| log.page(from, count, SNAPSHOT_BYTES));
            let Page { entries, complete } = page.unwrap_or(Page { entries: Vec::new(), complete: true });
            let (extent, deleted) = (log.map(Stream::extent), log.map(|log| log.deleted));
            Ok(Snapshot { extent, marker: store.has_marker(group), deleted, entries, complete })
        })
    }

    fn read_back<'a>(
        &'a self,
        partition: &'a PartitionKey,
        before: EntryId,
        count: usize,
    ) -> Reply<'a, Vec<Arc<Entry>>> {
        self.reply(move |store, _| {
            let Some(log) = store.logs.get(partition.as_str()) else { return Ok(Vec::new()) };
            let below = log.entries.partition_point(|entry| entry.id < before);
            Ok(log.entries.range(..below).rev().take(count).cloned().collect())
        })
    }

    fn tail(&self) -> Reply<'_, Box<dyn Tail>> {
        self.reply(|_, _| {
            let tail = EmbeddedTail { shared: Arc::clone(&self.shared), bell: Arc::default() };
            Ok(Box::new(tail) as Box<dyn Tail>)
        })
    }
}

impl Groups for Embedded {
    fn groups<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Vec<String>>> {
        self.reply(move |store, _| {
            Ok(store.logs.get(partition.as_str()).map(|log| log.markers.keys().cloned().collect()))
        })
    }

    fn consumed<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Consumed>> {
        self.reply(move |store, _| Ok(store.consumed(partition)))
    }

    fn states<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupState>>>> {
        self.reply(move |store, _| Ok(groups.iter().map(|group| Ok(store.state(group))).collect()))
    }

    fn create<'a>(&'a self, group: &'a GroupKey, start: Start) -> Reply<'a, Created> {
        self.reply(move |store, now| Ok(store.create(group, start, now)))
    }

    fn adopt<'a>(&'a self, group: &'a GroupKey, _quiet: Duration) -> Reply<'a, Adopted> {
        // Nobody reads with XREADGROUP here: a marker without a state has neither consumers nor anything pending.
        self.reply(move |store, _| {
            if store.groups.contains_key(group.state()) {
                return Ok(Adopted::Exists);
            }
            let Some(log) = store.logs.get(group.partition().as_str()) else { return Ok(Adopted::Missing) };
            let Some(&at) = log.markers.get(group.group()) else { return Ok(Adopted::Missing) };
            let seen = (at == log.last).then_some(log.added);
            let at_event = log.event_at(at);
            store.groups.insert(group.state().to_owned(), Group::begin(group, (at, seen, at_event)));
            Ok(Adopted::Done(Adoption { at, delivered: at, pending: 0, oldest: None }))
        })
    }

    fn acquire<'a>(&'a self, group: &'a GroupKey, claim: &'a Claim) -> Reply<'a, Acquired> {
        self.reply(move |store, now| {
            check_owner(&claim.owner)?;
            Ok(store.acquire(group, claim, now))
        })
    }

    fn commit<'a>(&'a self, group: &'a GroupKey, commit: &'a Commit) -> Reply<'a, Committed> {
        self.reply(move |store, now| {
            check_commit(commit)?;
            let committed = store.commit(group, commit, now);
            if !commit.dead.is_empty() {
                self.shared.added.notify_waiters();
            }
            Ok(committed)
        })
    }

    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: Option<&'a Need>) -> Reply<'a, bool> {
        self.reply(move |store, now| {
            let released = store.release(group, holder, needs, now);
            self.shared.added.notify_waiters();
            Ok(released)
        })
    }

    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset> {
        self.reply(move |store, now| {
            let reset = store.reset(group, seen, to, now);
            self.shared.added.notify_waiters();
            Ok(reset)
        })
    }

    fn declare_events<'a>(&'a self, group: &'a GroupKey, change: &'a Change) -> Reply<'a, Option<Events>> {
        self.reply(move |store, _| Ok(store.declare_events(group, change)))
    }

    fn resume<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, bool> {
        self.reply(move |store, _| {
            let Some(state) = store.groups.get_mut(group.state()) else { return Ok(false) };
            state.resume += 1;
            if let Some(record) = &mut state.record {
                record.lost = None;
            }
            Ok(true)
        })
    }

    fn renewal(&self) -> Renewal {
        Renewal::CallersExecutor
    }

    fn renewer(&self) -> Reply<'_, Box<dyn Renewer>> {
        self.reply(|_, _| Ok(Box::new(EmbeddedRenewer { broker: self.clone() }) as Box<dyn Renewer>))
    }
}

impl Letters for Embedded {
    fn dead_letters<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>> {
        self.reply(move |store, _| Ok(store.read(&group.dead(), after, count)))
    }

    fn discard<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId]) -> Reply<'a, u64> {
        self.reply(move |store, _| {
            let Some(log) = store.logs.get_mut(&group.dead()) else { return Ok(0) };
            let (before, ids) = (log.entries.len(), ids.iter().collect::<HashSet<_>>());
            log.entries.retain(|entry| !ids.contains(&entry.id));
            Ok((before - log.entries.len()) as u64)
        })
    }

    fn replay<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId], most: u64) -> Reply<'a, Moved> {
        self.reply(move |store, now| Ok(store.replay(group, ids, most, now)))
    }

    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Vec<Arc<Entry>>> {
        self.reply(move |store, _| Ok(store.read(&group.replay(), after, count)))
    }

    fn take_replay<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, Taken> {
        self.reply(move |store, _| Ok(store.take_replay(group, holder)))
    }

    fn end_replay<'a>(
        &'a self,
        group: &'a GroupKey,
        holder: &'a Holder,
        id: EntryId,
        end: &'a ReplayEnd,
    ) -> Reply<'a, bool> {
        self.reply(move |store, now| {
            check_replay_end(end)?;
            Ok(store.end_replay(group, holder, id, end, now))
        })
    }
}

impl Members for Embedded {
    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<Answer<Vec<Member>>>> {
        self.reply(move |store, _| Ok(sets.iter().map(|set| Ok(store.attend(set))).collect()))
    }

    fn notes<'a>(&'a self, stream: &'a StreamKey, write: &'a Notes, gone: &'a [String]) -> Reply<'a, Notes> {
        self.reply(move |store, _| {
            let notes = store.notes.entry(stream.builds()).or_default();
            let before = notes.clone();
            notes.extend(write.iter().map(|(name, note)| (name.clone(), note.clone())));
            notes.retain(|name, _| !gone.contains(name));
            Ok(before)
        })
    }
}

impl Queue for Embedded {
    fn join<'a>(&'a self, group: &'a GroupKey, owner: &'a str, lease_for: Duration) -> Reply<'a, Joined> {
        self.reply(move |store, now| {
            check_owner(owner)?;
            if store.is_dead(group, owner) {
                let message = format!("`{owner}` was found dead; a consumer joins with a fresh token");
                return Err(BrokerError::new(BrokerErrorKind::Refused, message));
            }
            Ok(store.join_queue(group, owner, lease_for, now))
        })
    }

    fn fetch<'a>(&'a self, group: &'a GroupKey, fetch: &'a Fetch) -> Reply<'a, Fetched> {
        self.reply(move |store, now| Ok(store.fetch(group, fetch, now)))
    }

    fn ack<'a>(&'a self, group: &'a GroupKey, acks: &'a Acks) -> Reply<'a, Acked> {
        self.reply(move |store, now| {
            check_acks(acks)?;
            let acked = store.ack(group, acks, now);
            self.shared.added.notify_waiters();
            Ok(acked)
        })
    }

    fn pass<'a>(&'a self, group: &'a GroupKey, pass: &'a Pass) -> Reply<'a, bool> {
        self.reply(move |store, _| Ok(store.pass(group, pass)))
    }

    fn mend<'a>(&'a self, group: &'a GroupKey, damage: &'a Damage, halts: Option<&'a Lost>) -> Reply<'a, bool> {
        self.reply(move |store, _| Ok(store.mend(group, damage, halts)))
    }

    fn queue<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<QueueState>> {
        self.reply(move |store, now| Ok(store.queue(group, now)))
    }

    fn reclaim<'a>(
        &'a self,
        group: &'a GroupKey,
        owner: &'a str,
        seen: &'a Life,
        count: usize,
    ) -> Reply<'a, Reclaimed> {
        self.reply(move |store, now| {
            let reclaimed = store.reclaim(group, owner, seen, count, now);
            self.shared.added.notify_waiters();
            Ok(reclaimed)
        })
    }
}

struct EmbeddedTail {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
}

/// Keeps a ring that nobody waits for, so that the next wait ends at once.
#[derive(Default)]
struct Bell(Notify);

impl EmbeddedTail {
    fn look(&self, keys: &[(String, EntryId)], count: usize) -> Vec<Found> {
        let store = self.shared.lock();
        let found = keys.iter().enumerate().filter_map(|(key, (name, after))| {
            let log = store.logs.get(name)?;
            let entries = log.read(*after, count.max(1));
            let position = log.at(*after);
            (!entries.is_empty()).then_some(Found { key, position, entries })
        });
        found.collect()
    }
}

impl Tail for EmbeddedTail {
    fn next<'a>(&'a mut self, keys: &'a [(String, EntryId)], count: usize, wait: Duration) -> Reply<'a, Vec<Found>> {
        Box::pin(async move {
            tokio::task::consume_budget().await;
            let over = tokio::time::sleep(wait);
            tokio::pin!(over);
            loop {
                // Asked for before the look, so that what is added between the two rings, too.
                let added = self.shared.added.notified();
                let found = self.look(keys, count);
                if !found.is_empty() {
                    return Ok(found);
                }
                tokio::select! {
                    () = added => {}
                    () = self.bell.0.notified() => return Ok(Vec::new()),
                    () = &mut over => return Ok(Vec::new()),
                }
            }
        })
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.bell) as Arc<dyn Interrupt>
    }
}

impl Interrupt for Bell {
    fn interrupt(&self) -> Reply<'_, ()> {
        Box::pin(async move {
            self.0.notify_one();
            Ok(())
        })
    }
}

struct EmbeddedRenewer {
    broker: Embedded,
}

impl Renewer for EmbeddedRenewer {
    fn renew<'a>(&'a mut self, leases: &'a [(GroupKey, Holder)]) -> Reply<'a, Vec<Renewed>> {
        self.broker.reply(move |store, _| {
            let renew = |(group, holder): &(GroupKey, Holder)| {
                let Some(state) = store.groups.get_mut(group.state()).filter(|state| state.is_held_by(holder)) else {
                    return Renewed::Lost;
                };
                match &mut state.record {
                    Some(record) => record.beat(&holder.owner),
                    None => state.lease.beat += 1,
                }
                Renewed::Held { replays: store.logs.get(&group.replay()).is_some_and(|log| !log.entries.is_empty()) }
            };
            Ok(leases.iter().map(renew).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_is_that_of_the_executor() {
        let broker = Embedded::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        assert_eq!(broker.now().await.ok(), Some(7_000));
        let mut tail = broker.tail().await.expect("the embedded broker has tails");
        let (wall, wait) = (std::time::Instant::now(), Duration::from_secs(3600));
        assert_eq!(tail.next(&[("trades".to_owned(), EntryId::ZERO)], 1, wait).await.ok(), Some(Vec::new()));
        assert!(wall.elapsed() < wait / 2);
        let now = broker.now().await.ok();
        assert!(now >= Some(3_607_000), "{now:?}");
        let partition = StreamKey::new(None, "trades", 1).partition(0);
        let ids = broker.append(&partition, vec![vec![(Vec::new(), Vec::new())]; 2], None).await.ok();
        assert_eq!(ids, now.map(|ms| vec![EntryId::new(ms, 0), EntryId::new(ms, 1)]));
    }
}
