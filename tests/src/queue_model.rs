//! The contract of a work queue as a map: each entry is in exactly one [`Place`]. [`Model`] gets each call with its answer,
//! and says where the answer is not one that the contract allows.
//!
//! It shares nothing with the brokers but the words of the contract. Where the contract leaves a choice, such as which of
//! several waiting entries come first, the model follows the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{
    Acked, Acks, Chunk, Consumed, Cursor, Damage, Events, Fetch, Fetched, Full, Holder, Item, Left, Life, Lost, New,
    Pass, QueueState, Reclaimed, Until, Wait,
};

/// The most events that a queue is said to need.
const MOST_NEEDED: usize = 10;

/// The answer to a comparison.
pub type Checked = Result<(), String>;

macro_rules! hold {
    ($what:expr, $($why:tt)+) => {
        if !$what {
            return Err(format!($($why)+));
        }
    };
}

/// Where an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Above the cursor.
    Unread,
    /// A consumer has it in flight.
    InFlight {
        /// The epoch of the consumer.
        epoch: u64,
        /// The chunk.
        call: u64,
    },
    /// Nobody has it.
    Waits,
    /// Its business is ended.
    Ended(End),
    /// Nowhere.
    Nowhere,
}

/// How the business of an entry with the queue has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It was acknowledged: done, passed over, or a dead letter.
    Settled,
    /// It was reported as lost.
    Lost,
    /// It was gone before it was given out: whoever looks at the stream finds that.
    Passed,
    /// It went while it was in flight, and its consumer left, which is never reported.
    Untold,
}

/// When an entry that waits may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// From this moment on.
    From(u64),
    /// By a build that handles this.
    Needs(String, u32),
}

/// An entry that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    failed: u32,
    crashes: u32,
    when: When,
}

/// The rest of a chunk that is in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Flight {
    after: EntryId,
    to: EntryId,
    range: BTreeSet<EntryId>,
    items: Vec<Item>,
}

impl Flight {
    fn ids(&self) -> impl Iterator<Item = EntryId> {
        self.range.iter().copied().chain(self.items.iter().map(|item| item.id))
    }

    fn is_empty(&self) -> bool {
        self.range.is_empty() && self.items.is_empty()
    }

    fn oldest(&self) -> Option<EntryId> {
        let range = (!self.range.is_empty()).then(|| self.after.next());
        range.into_iter().chain(self.items.iter().map(|item| item.id)).min()
    }
}

/// A consumer as the record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which joining it is.
    pub epoch: u64,
    /// Whether it is not being reclaimed.
    pub lives: bool,
    /// The last answer about its life.
    pub life: Option<Life>,
    fetch: u64,
    ack: u64,
    /// The loss that its latest fetch reported. For a dead consumer: its entries in flight that are gone.
    told: Option<Lost>,
    /// Whether a call of its own must have been seen since.
    is_heard: bool,
}

/// A work queue.
#[derive(Debug, Clone)]
pub struct Model {
    /// How far the times of the broker may be off.
    slack: Duration,
    /// The entries that stand in the stream, each with its event's id.
    pub stream: BTreeMap<EntryId, String>,
    /// How many were ever added.
    pub added: u64,
    /// The newest id that the stream remembers, whether its entry stands or not.
    pub last: EntryId,
    /// Up to where entries were given out.
    pub cursor: Cursor,
    /// Its consumers.
    pub members: BTreeMap<String, Member>,
    flights: BTreeMap<(u64, u64), Flight>,
    waits: BTreeMap<EntryId, Waiter>,
    ended: BTreeMap<EntryId, End>,
    /// A loss that halts.
    pub lost: Option<Lost>,
    /// How many entries waited when the waiting set went.
    pub damage: Option<u64>,
    /// How many dead letters there are.
    pub dead: u64,
    /// The events that builds have declared.
    pub events: BTreeSet<String>,
    /// The holder of the last call that has moved the cursor or mended the waiting set.
    token: String,
    epoch: u64,
    resume: u64,
    reset: u64,
}

impl Model {
    /// A queue from the beginning of an empty stream.
    pub fn new(slack: Duration) -> Self {
        Self {
            slack,
            stream: BTreeMap::new(),
            added: 0,
            last: EntryId::ZERO,
            cursor: Cursor { at: EntryId::ZERO, at_event: String::new(), seen: Some(0) },
            members: BTreeMap::new(),
            flights: BTreeMap::new(),
            waits: BTreeMap::new(),
            ended: BTreeMap::new(),
            lost: None,
            damage: None,
            dead: 0,
            events: BTreeSet::new(),
            token: String::new(),
            epoch: 0,
            resume: 0,
            reset: 0,
        }
    }

    /// An entry was added.
    pub fn add(&mut self, id: EntryId, event: &str) {
        self.stream.insert(id, event.to_owned());
        (self.added, self.last) = (self.added + 1, id);
    }

    /// Entries went from the stream.
    pub fn take_away(&mut self, gone: impl Fn(EntryId) -> bool) {
        self.stream.retain(|id, _| !gone(*id));
    }

    /// Entries went from the waiting set, as with its key; they are lost, and the next call that touches the set reports it.
    pub fn forget_waiting(&mut self, gone: impl Fn(EntryId) -> bool) {
        let count = self.waits.len() as u64;
        let lost: Vec<_> = self.waits.keys().copied().filter(|id| gone(*id)).collect();
        if !lost.is_empty() && self.damage.is_none() {
            self.damage = Some(count);
        }
        for id in lost {
            self.waits.remove(&id);
            self.ended.insert(id, End::Lost);
        }
    }

    /// Whether the stream of then has no entry that was given out and went since: a range would hold it that never had it.
    pub fn can_set_stream_back(&self, then: &Self) -> bool {
        then.stream.range(..=self.cursor.at).all(|(id, _)| self.stream.contains_key(id))
    }

    /// The stream was put back as it was then, and nothing else.
    pub fn set_stream_back(&mut self, then: &Self) {
        (self.stream, self.added, self.last) = (then.stream.clone(), then.added, then.last);
    }

    /// The waiting set was put back as it was then, and nothing else: whoever looks finds that, unless nothing has changed.
    pub fn check_stale(&self, then: &Self, said: Option<Damage>) -> Checked {
        let damage = Damage { recorded: self.recorded(), found: then.waits.len() as u64 };
        let is_same = said.is_none() && self.waits == then.waits;
        hold!(is_same || said == Some(damage), "told {said:?} of {damage:?}");
        Ok(())
    }

    /// The entries that wait.
    pub fn waiting(&self) -> Vec<EntryId> {
        self.waits.keys().copied().collect()
    }

    /// How the waiting set is another one than the record says.
    pub fn damaged(&self) -> Option<Damage> {
        self.damage.map(|recorded| Damage { recorded, found: self.waits.len() as u64 })
    }

    /// Where an entry is.
    pub fn place(&self, id: EntryId) -> Place {
        if let Some((&(epoch, call), _)) = self.flights.iter().find(|(_, flight)| flight.ids().any(|other| other == id))
        {
            return Place::InFlight { epoch, call };
        }
        match self.ended.get(&id) {
            _ if self.waits.contains_key(&id) => Place::Waits,
            Some(end) => Place::Ended(*end),
            None if id > self.cursor.at => Place::Unread,
            None => Place::Nowhere,
        }
    }

    /// How many entries have ended so.
    pub fn count(&self, end: End) -> usize {
        self.ended.values().filter(|other| **other == end).count()
    }

    /// Every entry that was ever added is in exactly one place.
    pub fn check(&self, all: &BTreeSet<EntryId>) -> Checked {
        let mut seen = BTreeSet::new();
        let in_flight = self.flights.values().flat_map(Flight::ids);
        for id in in_flight.chain(self.waits.keys().copied()).chain(self.ended.keys().copied()) {
            hold!(seen.insert(id), "{id} is in two places");
            hold!(id <= self.cursor.at, "{id} is above the cursor and {:?}", self.place(id));
        }
        for id in all.range(..=self.cursor.at) {
            hold!(seen.contains(id), "{id} is nowhere");
        }
        Ok(())
    }

    /// The entries behind the cursor, at most so many.
    pub fn unread(&self, count: usize) -> Vec<EntryId> {
        self.stream.range(self.cursor.at.next()..).map(|(id, _)| *id).take(count).collect()
    }

    /// The part of a chunk that a member has in flight, with the record of each entry. All entries of a range are charged.
    pub fn in_flight(&self, epoch: u64, call: u64) -> Vec<Item> {
        let Some(flight) = self.flights.get(&(epoch, call)) else { return Vec::new() };
        let new = flight.range.iter().map(|id| Item { id: *id, failed: 0, crashes: 0, charged: true });
        flight.items.iter().copied().chain(new).collect()
    }

    /// The new entries of a chunk of which nothing else is known.
    pub fn range(&self, epoch: u64, call: u64) -> BTreeSet<EntryId> {
        self.flights.get(&(epoch, call)).map(|flight| flight.range.clone()).unwrap_or_default()
    }

    /// Above which entry the range of a chunk begins.
    pub fn after(&self, epoch: u64, call: u64) -> EntryId {
        self.flights.get(&(epoch, call)).map_or(EntryId::ZERO, |flight| flight.after)
    }

    /// How many entries wait that may be taken, where some of them are deleted. A call for fewer finds some of those, and the
    /// contract does not say which.
    pub fn open(&self, fetch: &Fetch, now: u64) -> Option<usize> {
        let (standing, deleted) = self.ready(fetch, now);
        (!deleted.is_empty()).then_some(standing.len() + deleted.len())
    }

    /// The numbers of the latest calls of a member that took effect.
    pub fn calls(&self, holder: &Holder) -> Option<(u64, u64)> {
        self.member(holder).map(|member| (member.fetch, member.ack))
    }

    /// Whether the record has all chunks of which this speaks.
    pub fn has_chunks(&self, acks: &Acks) -> bool {
        acks.chunks.iter().all(|(call, _)| self.flights.contains_key(&(acks.holder.epoch, *call)))
    }

    /// Whether all of which this speaks is in flight.
    pub fn fits(&self, acks: &Acks) -> bool {
        let mut in_flight = BTreeSet::new();
        let is_left = acks.chunks.iter().all(|(call, Left { range, again })| {
            let key = (acks.holder.epoch, *call);
            let ids: BTreeSet<_> = self.flights.get(&key).into_iter().flat_map(Flight::ids).collect();
            let kept = self.range(key.0, key.1);
            let fits = range.as_ref().is_none_or(|range| {
                let is_kept = |id: &&EntryId| **id > range.after && **id <= range.to && !range.except.contains(id);
                kept.iter().filter(is_kept).count() as u64 == range.number
            });
            let fits = fits && again.iter().all(|item| ids.contains(&item.id));
            in_flight.extend(ids);
            fits
        });
        is_left && acks.back.iter().all(|wait| in_flight.contains(&wait.id))
    }

    /// The chunks of a member.
    pub fn chunks(&self, epoch: u64) -> Vec<u64> {
        self.flights.range((epoch, 0)..=(epoch, u64::MAX)).map(|((_, call), _)| *call).collect()
    }

    /// Whether a member has entries in flight, which touch the waiting set.
    fn holds(&self, epoch: u64) -> bool {
        !self.chunks(epoch).is_empty()
    }

    fn member(&self, holder: &Holder) -> Option<&Member> {
        self.members.get(&holder.owner).filter(|member| member.epoch == holder.epoch && member.lives)
    }

    fn recorded(&self) -> u64 {
        self.damage.unwrap_or(self.waits.len() as u64)
    }

    fn hear(&mut self, owner: &str) {
        if let Some(member) = self.members.get_mut(owner) {
            member.is_heard = true;
        }
    }

    /// Somebody has joined.
    pub fn join(&mut self, owner: &str, epoch: u64) -> Checked {
        if let Some(member) = self.members.get(owner) {
            hold!(member.epoch == epoch, "joined twice as {epoch} and {}", member.epoch);
            return Ok(());
        }
        hold!(epoch > self.epoch, "epoch {epoch} is not above {}", self.epoch);
        self.epoch = epoch;
        let member = Member { epoch, lives: true, life: None, fetch: 0, ack: 0, told: None, is_heard: false };
        self.members.insert(owner.to_owned(), member);
        Ok(())
    }

    /// Somebody has renewed; `held` is the answer.
    pub fn renew(&mut self, holder: &Holder, held: bool) -> Checked {
        let is_member = self.member(holder).is_some();
        hold!(held == is_member, "renewed {held}, member {is_member}");
        if held {
            self.hear(&holder.owner);
        }
        Ok(())
    }

    /// Somebody has fetched; `known` are the entries of [`New::Known`].
    pub fn fetch(&mut self, fetch: &Fetch, known: &[EntryId], answer: &Fetched, now: u64) -> Checked {
        let Some(member) = self.member(&fetch.holder) else {
            hold!(*answer == Fetched::Fenced, "not fenced");
            return Ok(());
        };
        if fetch.call <= member.fetch {
            return self.fetch_again(fetch, fetch.call == member.fetch, answer, now);
        }
        if fetch.call > member.fetch + 1 {
            hold!(*answer == Fetched::Fenced, "fetch {} after {} is not fenced", fetch.call, member.fetch);
            return Ok(());
        }
        if let Some(lost) = self.lost.filter(|_| !fetch.go_on) {
            let Fetched::Lost { lost: said, found: false } = answer else {
                return Err(format!("not halted by {lost:?}"));
            };
            hold!(*said == lost, "not halted by {lost:?}");
            return Ok(());
        }
        if let Some(damage) = self.damaged() {
            hold!(*answer == Fetched::Damaged(damage), "{damage:?} is not found");
            return Ok(());
        }

        let trimmed: Vec<_> = self.waits.keys().copied().filter(|id| self.is_trimmed(*id)).collect();
        let (standing, deleted) = self.ready(fetch, now);
        let is_all = standing.len() + deleted.len() <= fetch.count;
        hold!(is_all || deleted.is_empty(), "the walk leaves it open which entries are found to be gone");

        let is_any_lost = !trimmed.is_empty() || !deleted.is_empty();
        if is_any_lost && !fetch.go_on {
            let Fetched::Lost { lost, found: true } = answer else { return Err("a loss is not found".to_owned()) };
            check_lost(lost, &trimmed, &deleted)?;
            self.lose(&trimmed, &deleted);
            self.lost = Some(*lost);
            return Ok(());
        }
        let given = standing.len().min(fetch.count);
        let waiting = self.waits.len() - trimmed.len() - deleted.len() - given;
        let room = if (waiting as u64) < fetch.most_waiting { fetch.count - given } else { 0 };
        let next = self.unread(room);
        let is_read = matches!(fetch.new, New::Read { .. }) && room > 0;
        let may_be_missing = !next.is_empty() || (self.stream.is_empty() && self.cursor.at > EntryId::ZERO);
        if is_read && may_be_missing && !self.is_sure(&fetch.new, next.first().copied()) {
            hold!(*answer == Fetched::Unsure(self.cursor.clone()), "not unsure");
            return Ok(());
        }

        let Fetched::Chunk(chunk) = answer else { return Err("no chunk".to_owned()) };
        let number = match &fetch.new {
            New::Nothing => 0,
            New::Read { .. } => next.len() as u64,
            New::Known { from, number, .. } if *from == self.cursor.at && *number <= room as u64 => *number,
            New::Known { .. } => 0,
        };
        hold!(chunk.number == number, "{number} new entries, not {}", chunk.number);
        match (&chunk.lost, trimmed.len() + deleted.len()) {
            (None, 0) => {}
            (Some(lost), 1..) => check_lost(lost, &trimmed, &deleted)?,
            (lost, count) => return Err(format!("told {lost:?} of {count}")),
        }
        self.lose(&trimmed, &deleted);
        let after = match &fetch.new {
            New::Read { .. } => next.first().map(|first| first.previous()),
            _ => None,
        };
        let mut flight = Flight { after: after.unwrap_or(self.cursor.at), ..Flight::default() };
        hold!(chunk.again.len() == given, "{given} waiting entries, not {}", chunk.again.len());
        for again in &chunk.again {
            let id = again.entry.id;
            hold!(standing.contains(&id), "{id} may not be taken: {:?}", self.waits.get(&id));
            let Some(waiter) = self.waits.remove(&id) else { return Err(format!("{id} twice")) };
            hold!((waiter.failed, waiter.crashes) == (again.failed, again.crashes), "{id}: {waiter:?} is {again:?}");
            let charged = again.crashes == 0;
            flight.items.push(Item { id, failed: again.failed, crashes: again.crashes, charged });
        }
        self.advance(&fetch.new, chunk, &next, known, &mut flight)?;
        hold!(chunk.at == self.cursor.at, "the cursor is at {}", self.cursor.at);
        hold!(chunk.waiting == waiting as u64, "{waiting} wait, not {}", chunk.waiting);
        self.check_due(chunk, fetch, now)?;
        if !flight.is_empty() {
            self.flights.insert((fetch.holder.epoch, fetch.call), flight);
        }
        if let Some(member) = self.members.get_mut(&fetch.holder.owner) {
            (member.fetch, member.told) = (fetch.call, chunk.lost);
        }
        self.hear(&fetch.holder.owner);
        Ok(())
    }

    /// Whether entries gone from a range that begins here were deleted: the stream does not begin behind its first place.
    fn is_deleted(&self, after: EntryId) -> bool {
        self.stream.keys().next().is_some_and(|first| *first <= after.next())
    }

    fn is_trimmed(&self, id: EntryId) -> bool {
        self.stream.keys().next().is_none_or(|first| id < *first)
    }

    /// The entries that wait, may be taken and were not trimmed: those that stand, and those that do not.
    fn ready(&self, fetch: &Fetch, now: u64) -> (Vec<EntryId>, Vec<EntryId>) {
        let may_be_taken = |waiter: &Waiter| match &waiter.when {
            When::Now => true,
            When::From(due) => *due <= now || *due > now + millis(fetch.longest_wait),
            When::Needs(name, version) => fetch.takes.get(name).is_some_and(|newest| newest >= version),
        };
        let ready = self.waits.iter().filter(|(id, waiter)| !self.is_trimmed(**id) && may_be_taken(waiter));
        ready.map(|(id, _)| *id).partition(|id| self.stream.contains_key(id))
    }

    /// Moves the cursor over new entries.
    fn advance(
        &mut self,
        new: &New,
        chunk: &Chunk,
        next: &[EntryId],
        known: &[EntryId],
        flight: &mut Flight,
    ) -> Checked {
        let (number, sent) = (chunk.number, chunk.new.iter().map(|entry| entry.id).collect::<Vec<_>>());
        let (given, at_event) = match new {
            New::Known { to_event, .. } if number > 0 => (known, to_event.clone()),
            New::Read { .. } => (next, next.last().map(|id| self.stream[id].clone()).unwrap_or_default()),
            _ => (&[][..], String::new()),
        };
        let expected = if matches!(new, New::Read { .. }) { next } else { &[] };
        hold!(sent == expected, "new are {expected:?}, not {sent:?}");
        let Some(&last) = given.last() else { return Ok(()) };
        hold!(number == given.len() as u64, "{number} are {given:?}");
        flight.to = last;
        flight.range = given.iter().copied().collect();
        self.cursor = Cursor { at: last, at_event, seen: self.cursor.seen.map(|seen| seen + number) };
        Ok(())
    }

    /// Entries that went before they were given out are found by whoever looks at the stream.
    pub fn pass_over(&mut self, all: &BTreeSet<EntryId>) {
        let in_flight: BTreeSet<_> = self.flights.values().flat_map(Flight::ids).collect();
        for id in all.range(..=self.cursor.at) {
            let is_in = self.ended.contains_key(id) || self.waits.contains_key(id) || in_flight.contains(id);
            if !is_in && !self.stream.contains_key(id) {
                self.ended.insert(*id, End::Passed);
            }
        }
    }

    fn is_sure(&self, new: &New, next: Option<EntryId>) -> bool {
        let Cursor { at, at_event, seen } = &self.cursor;
        if let New::Read { judged: Some(judged) } = new
            && judged.at == *at
            && Some(judged.next) == next
        {
            return true;
        }
        if *at == EntryId::ZERO {
            return *seen == Some(0) && self.added == self.stream.len() as u64;
        }
        self.stream.get(at).is_some_and(|event| at_event.is_empty() || event == at_event)
    }

    fn fetch_again(&mut self, fetch: &Fetch, is_latest: bool, answer: &Fetched, now: u64) -> Checked {
        let Fetched::Chunk(chunk) = answer else { return Err("no chunk again".to_owned()) };
        let key = (fetch.holder.epoch, fetch.call);
        let flight = self.flights.get(&key).cloned().unwrap_or_default();
        let stands = |id: &EntryId| self.stream.contains_key(id);
        let items: Vec<_> =
            flight.items.iter().filter(|item| stands(&item.id)).map(|i| (i.id, i.failed, i.crashes)).collect();
        let again: Vec<_> = chunk.again.iter().map(|a| (a.entry.id, a.failed, a.crashes)).collect();
        let is_known = matches!(fetch.new, New::Known { .. });
        let range: Vec<_> = flight.range.iter().copied().filter(|id| stands(id)).collect();
        let new: Vec<_> = chunk.new.iter().map(|entry| entry.id).collect();
        if !is_latest && again.is_empty() && new.is_empty() {
            return Ok(());
        }
        hold!(again == items, "again {items:?}, not {again:?}");
        let (expected, number) = if is_known { (Vec::new(), flight.range.len()) } else { (range.clone(), range.len()) };
        hold!(new == expected, "new {expected:?}, not {new:?}");
        hold!(chunk.number == number as u64, "{number} new entries, not {}", chunk.number);
        hold!(chunk.at == self.cursor.at, "the cursor is at {}", self.cursor.at);
        hold!(chunk.waiting == self.recorded(), "{} wait, not {}", self.recorded(), chunk.waiting);
        if self.damage.is_none() {
            self.check_due(chunk, fetch, now)?;
        }
        if is_latest {
            let gone = flight.items.iter().map(|item| item.id).filter(|id| !stands(id));
            let mut gone: BTreeSet<_> = gone.collect();
            let mut deleted = gone.iter().all(|id| !self.is_trimmed(*id));
            let range: Vec<_> = flight.range.iter().copied().filter(|id| !is_known && !stands(id)).collect();
            deleted &= range.is_empty() || self.is_deleted(flight.after);
            gone.extend(range);
            let told = self.member(&fetch.holder).and_then(|member| member.told);
            check_gone(chunk.lost, told, &gone, deleted)?;
            if let Some(member) = self.members.get_mut(&fetch.holder.owner) {
                (member.told, member.is_heard) = (chunk.lost, true);
            }
            let mut left = flight;
            left.range.retain(|id| !gone.contains(id));
            left.items.retain(|item| !gone.contains(&item.id));
            self.ended.extend(gone.into_iter().map(|id| (id, End::Lost)));
            self.put(key, left);
        } else {
            hold!(chunk.lost.is_none(), "a late one tells of a loss");
        }
        Ok(())
    }

    fn put(&mut self, key: (u64, u64), flight: Flight) {
        if flight.is_empty() {
            self.flights.remove(&key);
        } else {
            self.flights.insert(key, flight);
        }
    }

    fn check_due(&self, chunk: &Chunk, fetch: &Fetch, now: u64) -> Checked {
        let later = self.waits.values().filter_map(|waiter| match waiter.when {
            When::From(due) if due > now => Some(Duration::from_millis(due - now).min(fetch.longest_wait)),
            _ => None,
        });
        self.is_near(chunk.due, later.min())
    }

    fn is_near(&self, said: Option<Duration>, right: Option<Duration>) -> Checked {
        let is_near = match (said, right) {
            (Some(said), Some(right)) => said.abs_diff(right) <= self.slack,
            (said, right) => said == right,
        };
        hold!(is_near, "due in {right:?}, not {said:?}");
        Ok(())
    }

    fn lose(&mut self, trimmed: &[EntryId], deleted: &[EntryId]) {
        for id in trimmed.iter().chain(deleted) {
            self.waits.remove(id);
            self.ended.insert(*id, End::Lost);
        }
    }

    /// Somebody has acknowledged.
    pub fn ack(&mut self, acks: &Acks, answer: &Acked, now: u64) -> Checked {
        let Some(member) = self.member(&acks.holder) else {
            hold!(*answer == Acked::Fenced, "not fenced");
            return Ok(());
        };
        let epoch = acks.holder.epoch;
        if acks.call <= member.ack {
            hold!(*answer == Acked::Done, "not done");
            return Ok(());
        }
        if acks.call > member.ack + 1 {
            hold!(*answer == Acked::Fenced, "acks {} after {} are not fenced", acks.call, member.ack);
            return Ok(());
        }
        if acks.chunks.iter().any(|(call, _)| !self.flights.contains_key(&(epoch, *call))) {
            hold!(*answer == Acked::Fenced, "a chunk that the record does not have");
            return Ok(());
        }
        let mut refusals = Vec::new();
        if let Some(damage) = self.damaged().filter(|_| !acks.back.is_empty()) {
            refusals.push(Acked::Damaged(damage));
        }
        let names: Vec<_> = acks.passed_over.iter().filter(|name| self.events.contains(*name)).cloned().collect();
        if !names.is_empty() {
            refusals.push(Acked::Declared { names });
        }
        if !acks.dead.is_empty() && self.dead + acks.dead.len() as u64 > acks.dead_bounds.count {
            match answer {
                Acked::Full(Full { count, .. }) if *count == self.dead => return Ok(()),
                _ => hold!(refusals.contains(answer), "there is room for dead letters"),
            }
        }
        if !refusals.is_empty() {
            hold!(refusals.contains(answer), "not one of {refusals:?}");
            return Ok(());
        }
        hold!(*answer == Acked::Done, "refused");

        for (call, Left { range, again }) in &acks.chunks {
            let flight = self.flights.get(&(epoch, *call)).cloned().unwrap_or_default();
            let mut left = Flight { after: flight.after, items: again.clone(), ..Flight::default() };
            if let Some(range) = range {
                let is_left = |id: &EntryId| *id > range.after && *id <= range.to && !range.except.contains(id);
                left.range = flight.range.iter().copied().filter(is_left).collect();
                (left.after, left.to) = (range.after, range.to);
                hold!(left.range.len() as u64 == range.number, "the walk says {range:?} of {flight:?}");
            }
            let settled: BTreeSet<_> = flight.ids().collect();
            hold!(left.ids().all(|id| settled.contains(&id)), "the walk has more than {flight:?}");
            self.ended.extend(
                settled.iter().filter(|id| left.ids().all(|other| other != **id)).map(|id| (*id, End::Settled)),
            );
            self.put((epoch, *call), left);
        }
        for Wait { id, failed, crashes, until } in &acks.back {
            hold!(self.ended.remove(id) == Some(End::Settled), "the walk gives back {id}");
            let when = match until {
                Until::After(after) if after.is_zero() => When::Now,
                Until::After(after) => When::From(now + millis(*after)),
                Until::Needs { name, version } => When::Needs(name.clone(), *version),
            };
            self.waits.insert(*id, Waiter { failed: *failed, crashes: *crashes, when });
        }
        self.dead += acks.dead.len() as u64;
        if let Some(member) = self.members.get_mut(&acks.holder.owner) {
            member.ack = acks.call;
        }
        self.hear(&acks.holder.owner);
        Ok(())
    }

    /// Somebody has moved the cursor.
    pub fn pass(&mut self, token: &str, pass: &Pass, answer: bool) -> Checked {
        if self.token == token {
            hold!(answer, "sent again it is not passed");
            return Ok(());
        }
        let is_there = self.cursor.at == pass.from.at && self.cursor.seen == pass.from.seen;
        hold!(answer == is_there, "passed {answer}, there {is_there}");
        if is_there {
            token.clone_into(&mut self.token);
            self.cursor = pass.to.clone();
            self.halt(pass.halts);
        }
        Ok(())
    }

    /// Somebody has taken the waiting set for what it is.
    pub fn mend(&mut self, token: &str, damage: &Damage, halts: Option<Lost>, answer: bool) -> Checked {
        if self.token == token {
            hold!(answer, "sent again it is not mended");
            return Ok(());
        }
        let is_same = self.damaged().as_ref() == Some(damage);
        hold!(answer == is_same, "mended {answer}, the same {is_same}");
        if is_same {
            token.clone_into(&mut self.token);
            self.damage = None;
            self.halt(halts);
        }
        Ok(())
    }

    /// A loss was recorded; one that halts already stays a part of it.
    fn halt(&mut self, more: Option<Lost>) {
        self.lost = match (self.lost, more) {
            (Some(lost), Some(more)) => Some(Lost {
                deleted: lost.deleted && more.deleted,
                from: lost.from.min(more.from),
                to: lost.to.max(more.to),
                count: lost.count + more.count,
            }),
            (lost, more) => more.or(lost),
        };
    }

    /// An operator resumes the queue.
    pub fn resume(&mut self) {
        self.lost = None;
        self.resume += 1;
    }

    /// The cursor was moved by hand.
    pub fn reset(&mut self, at: EntryId, epoch: u64, all: &BTreeSet<EntryId>) {
        let seen = match self.stream.keys().next() {
            _ if at == self.last => Some(self.added),
            _ if at == EntryId::ZERO => Some(self.added - self.stream.len() as u64),
            _ => None,
        };
        let at_event = self.stream.get(&at).cloned().unwrap_or_default();
        self.cursor = Cursor { at, at_event, seen };
        (self.epoch, self.reset, self.resume) = (epoch, epoch, 0);
        (self.lost, self.damage) = (None, None);
        self.token.clear();
        self.members.clear();
        self.flights.clear();
        self.waits.clear();
        self.ended.retain(|id, _| *id <= at);
        for id in all.range(..=at) {
            self.ended.entry(*id).or_insert(End::Settled);
        }
    }

    /// Lets so many entries wait, the earliest in flight first. Entries gone from the ranges between them end as `end` says.
    /// Answers how many wait, which are gone, and whether those were deleted.
    fn give_back(&mut self, epoch: u64, count: u64, end: End) -> (u64, BTreeSet<EntryId>, bool) {
        let (mut room, mut gone, mut deleted) = (count, BTreeSet::new(), true);
        for call in self.chunks(epoch) {
            let mut flight = self.flights.get(&(epoch, call)).cloned().unwrap_or_default();
            let mut back = Vec::new();
            while room > 0 && !flight.items.is_empty() {
                let Item { id, failed, crashes, charged } = flight.items.remove(0);
                back.push((id, failed, crashes + u32::from(charged)));
                room -= 1;
            }
            if room > 0 && !flight.range.is_empty() {
                let (mut standing, missing): (Vec<_>, Vec<_>) =
                    flight.range.iter().copied().partition(|id| self.stream.contains_key(id));
                deleted &= missing.is_empty() || self.is_deleted(flight.after);
                gone.extend(missing);
                let left = standing.split_off(standing.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                room -= standing.len() as u64;
                flight.after = standing.last().copied().unwrap_or(flight.after);
                flight.range = left.into_iter().collect();
                back.extend(standing.into_iter().map(|id| (id, 0, 1)));
            }
            for (id, failed, crashes) in back {
                self.waits.insert(id, Waiter { failed, crashes, when: When::Now });
            }
            self.put((epoch, call), flight);
        }
        self.ended.extend(gone.iter().map(|id| (*id, end)));
        (count - room, gone, deleted)
    }

    /// Somebody has ended its membership.
    pub fn release(&mut self, holder: &Holder, answer: bool) -> Checked {
        let can = self.member(holder).is_some() && !(self.holds(holder.epoch) && self.damage.is_some());
        hold!(answer == can, "released {answer}, can {can}");
        if can {
            self.give_back(holder.epoch, u64::MAX, End::Untold);
            self.members.remove(&holder.owner);
        }
        Ok(())
    }

    /// Somebody has reclaimed what another one has in flight.
    pub fn reclaim(&mut self, owner: &str, seen: &Life, count: usize, answer: &Reclaimed) -> Checked {
        let is_same = self.members.get(owner).is_some_and(|member| match (member.lives, seen) {
            (false, Life::Dead { lost }) => *lost == member.told,
            (true, Life::Beats { .. }) => !member.is_heard && member.life.as_ref() == Some(seen),
            _ => false,
        });
        if !is_same {
            hold!(*answer == Reclaimed::Contended, "not contended");
            return Ok(());
        }
        let member = &self.members[owner];
        let (epoch, told) = (member.epoch, member.told.filter(|_| member.lives));
        if let Some(damage) = self.damaged().filter(|_| self.holds(epoch)) {
            hold!(*answer == Reclaimed::Damaged(damage), "{damage:?} is not found");
            return Ok(());
        }
        let (given, gone, deleted) = self.give_back(epoch, count.max(1) as u64, End::Lost);
        let has_more = self.holds(epoch) || told.is_some() || !gone.is_empty();
        let (entries, lost) = match *answer {
            Reclaimed::Some { entries, lost } if has_more => (entries, lost),
            Reclaimed::All { entries } if !has_more => (entries, None),
            _ => return Err(format!("{given} are given back, more is {has_more}")),
        };
        hold!(entries == given, "{entries} are given back, not {given}");
        check_gone(lost, told, &gone, deleted)?;
        if !has_more {
            self.members.remove(owner);
        } else if let Some(member) = self.members.get_mut(owner) {
            (member.lives, member.told, member.life) = (false, lost, Some(Life::Dead { lost }));
        }
        Ok(())
    }

    /// Somebody has looked.
    pub fn look(&mut self, state: &QueueState, now: u64) -> Checked {
        let names: Vec<_> = state.consumers.iter().map(|consumer| &consumer.owner).collect();
        hold!(names == self.members.keys().collect::<Vec<_>>(), "consumers are {:?}", self.members.keys());
        for unacked in &state.consumers {
            let epoch = self.members[&unacked.owner].epoch;
            let calls = self.chunks(epoch);
            let most: usize = calls.iter().map(|call| self.in_flight(epoch, *call).len()).sum();
            let Some(member) = self.members.get_mut(&unacked.owner) else { continue };
            match (&unacked.life, &member.life) {
                (Life::Dead { lost }, _) => {
                    hold!(!member.lives && *lost == member.told, "{unacked:?} is {member:?}");
                    hold!(unacked.in_flight == most as u64, "{unacked:?} has {most} in {calls:?}");
                }
                (Life::Beats { epoch: e, beat, .. }, before) => {
                    hold!(member.lives && *e == epoch, "{unacked:?} is {member:?}");
                    hold!(unacked.in_flight == most as u64, "{unacked:?} has {most} in {calls:?}");
                    if let Some(Life::Beats { beat: before, .. }) = before {
                        let fits = if member.is_heard { beat > before } else { beat >= before };
                        hold!(fits, "{unacked:?} is {member:?}");
                    }
                }
            }
            (member.life, member.is_heard) = (Some(unacked.life.clone()), false);
        }
        hold!(state.waiting == self.recorded(), "{} wait, not {}", self.recorded(), state.waiting);
        hold!(state.cursor == self.cursor, "the cursor is {:?}, not {:?}", self.cursor, state.cursor);
        hold!((state.resume, state.reset) == (self.resume, self.reset), "resume {}, reset {}", self.resume, self.reset);
        let damage = self.damaged();
        hold!(state.damage == damage, "damage is {damage:?}");
        if damage.is_none() {
            let due = self.waits.values().filter_map(|waiter| match waiter.when {
                When::Now => Some(Duration::ZERO),
                When::From(due) => Some(Duration::from_millis(due.saturating_sub(now))),
                When::Needs(..) => None,
            });
            self.is_near(state.due, due.min())?;
            self.check_needed(&state.needed)?;
        }
        self.check_oldest(state.oldest)
    }

    fn check_needed(&self, said: &Events) -> Checked {
        let mut needed = Events::new();
        for waiter in self.waits.values() {
            if let When::Needs(name, version) = &waiter.when {
                let lowest = needed.entry(name.clone()).or_insert(*version);
                *lowest = (*lowest).min(*version);
            }
        }
        let is_right = said.iter().all(|(name, version)| needed.get(name) == Some(version));
        hold!(is_right && said.len() == needed.len().min(MOST_NEEDED), "needed are {needed:?}, not {said:?}");
        Ok(())
    }

    /// The lowest entry that is in flight or waits.
    fn unsettled(&self) -> Option<EntryId> {
        let in_flight = self.flights.values().flat_map(Flight::ids);
        in_flight.chain(self.waits.keys().copied()).min()
    }

    /// It is at or below all that is not settled, and not far.
    fn check_oldest(&self, said: Option<EntryId>) -> Checked {
        let in_flight = self.flights.values().filter_map(Flight::oldest);
        let lowest = in_flight.chain(self.waits.keys().copied()).min();
        let ids = self.unsettled();
        match (said, ids, lowest) {
            (None, None, None) => Ok(()),
            // Half of an entry that is cut may be there still.
            (said, ids, _) if self.damage.is_some() => {
                hold!(
                    ids.is_none_or(|ids| said.is_some_and(|said| said <= ids)),
                    "{said:?} is the oldest, and {ids:?}"
                );
                Ok(())
            }
            (Some(said), Some(ids), Some(lowest)) => {
                hold!(said <= ids, "{ids} is in flight or waits, below {said}");
                hold!(said >= EntryId::new(lowest.ms, 0), "nothing is in flight or waits at {said}, but at {lowest}");
                Ok(())
            }
            other => Err(format!("the oldest: {other:?}")),
        }
    }

    /// Up to where everything is settled, for those who trim.
    pub fn check_consumed(&self, consumed: Option<&Consumed>) -> Checked {
        hold!(consumed.is_some() == self.damage.is_none(), "consumed is {consumed:?}, damage {:?}", self.damage);
        let Some(consumed) = consumed else { return Ok(()) };
        let unsettled = self.unsettled();
        let most = unsettled.map_or(self.cursor.at, |id| id.previous().min(self.cursor.at));
        hold!(consumed.at <= most, "consumed up to {}, and {unsettled:?} is not", consumed.at);
        Ok(())
    }
}

/// A loss says how many, and lies around all of them.
fn check_lost(lost: &Lost, trimmed: &[EntryId], deleted: &[EntryId]) -> Checked {
    let ids: BTreeSet<_> = trimmed.iter().chain(deleted).copied().collect();
    hold!(lost.count == ids.len() as u64, "{lost:?} of {ids:?}");
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Err("nothing is lost".to_owned()) };
    hold!(lost.from < *first && lost.to >= *last, "{lost:?} of {ids:?}");
    hold!(lost.deleted == trimmed.is_empty(), "{lost:?} of {trimmed:?} trimmed and {deleted:?} deleted");
    Ok(())
}

/// Checks that a reply reports the entries that went while they were in flight, added to those reported before.
fn check_gone(said: Option<Lost>, told: Option<Lost>, gone: &BTreeSet<EntryId>, deleted: bool) -> Checked {
    let (Some(first), Some(last)) = (gone.first(), gone.last()) else {
        hold!(said == told, "told {said:?} after {told:?}");
        return Ok(());
    };
    let Some(lost) = said else { return Err(format!("{gone:?} are not told")) };
    let before = told.map_or(0, |told| told.count);
    hold!(lost.count == before + gone.len() as u64, "{lost:?} of {gone:?} after {told:?}");
    hold!(lost.from < *first && lost.to >= *last, "{lost:?} of {gone:?}");
    let is_around = |told: Lost| lost.from <= told.from && lost.to >= told.to;
    hold!(told.is_none_or(is_around), "{lost:?} after {told:?}");
    hold!(lost.deleted == (deleted && told.is_none_or(|told| told.deleted)), "{lost:?}, deleted {deleted}");
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
