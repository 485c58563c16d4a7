//! The record of a work queue, as plain data, and the effect of each call on it; `queue` finds it and rings its bell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{
    Acked, Acks, Again, Chunk, Cursor, Damage, Events, Fetch, Fetched, Holder, Item, Left, Life, Lost, New, Pass,
    QueueState, Range, Reclaimed, Unacked, Until, Wait,
};
use streams_core::{Entry, EntryId};

use super::stream::Stream;
use crate::clock::millis;

/// The most events that an answer names as needed.
const MOST_NEEDED: usize = 10;

/// The record of a work queue, besides the fields of every group.
#[derive(Clone)]
pub(super) struct Record {
    /// The place up to which entries were given out.
    pub(super) cursor: Cursor,
    consumers: BTreeMap<String, Consumer>,
    /// Chunks in flight, by the epoch of their consumer and the number of the fetch.
    chunks: BTreeMap<(u64, u64), Left>,
    /// The recorded size of the waiting set.
    waits: Waits,
    /// The waiting set; on a server it has its own key, which anybody may change.
    waiting: Waiting,
    /// A loss that halts the group.
    pub(super) lost: Option<Lost>,
    /// By a consumer's epoch: the loss of its latest fetch, or the loss among a dead consumer's entries.
    reported: BTreeMap<u64, Lost>,
    /// The token of the last call that moved the cursor or mended the waiting set.
    token: String,
}

/// The stamp and size of a waiting set.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Waits {
    /// Grows with every change of the set, which holds it, too.
    stamp: u64,
    count: u64,
}

#[derive(Clone)]
struct Consumer {
    epoch: u64,
    /// `None` while its entries are being reclaimed.
    lives: Option<Beats>,
    /// The numbers of its latest calls that took effect.
    fetch: u64,
    ack: u64,
}

#[derive(Clone, Copy)]
struct Beats {
    beat: u64,
    lease_for: Duration,
}

/// Entries that are neither in flight nor settled.
#[derive(Clone, Default)]
struct Waiting {
    stamp: u64,
    by_id: BTreeMap<EntryId, Waiter>,
    /// By the time from which they may be fetched.
    by_due: BTreeSet<(u64, EntryId)>,
    /// By the event that only another build handles.
    by_need: BTreeSet<(String, u32, EntryId)>,
}

#[derive(Clone)]
struct Waiter {
    failed: u32,
    crashes: u32,
    until: Due,
}

#[derive(Clone)]
enum Due {
    At(u64),
    Needs(String, u32),
}

impl Waiting {
    fn count(&self) -> u64 {
        self.by_id.len() as u64
    }

    /// Adds an entry; one that waits already stays as it is, because it must not be there twice.
    fn insert(&mut self, id: EntryId, waiter: Waiter) {
        if self.by_id.contains_key(&id) {
            return;
        }
        match &waiter.until {
            Due::At(due) => drop(self.by_due.insert((*due, id))),
            Due::Needs(name, version) => drop(self.by_need.insert((name.clone(), *version, id))),
        }
        self.by_id.insert(id, waiter);
    }

    fn remove(&mut self, id: EntryId) {
        match self.by_id.remove(&id).map(|waiter| waiter.until) {
            Some(Due::At(due)) => drop(self.by_due.remove(&(due, id))),
            Some(Due::Needs(name, version)) => drop(self.by_need.remove(&(name, version, id))),
            None => {}
        }
    }

    /// The waiting entries that this caller may have now.
    fn candidates<'a>(&'a self, fetch: &'a Fetch, now: u64) -> impl Iterator<Item = EntryId> + 'a {
        let latest = now.saturating_add(millis(fetch.longest_wait));
        let takes = move |name: &str, version: u32| fetch.takes.get(name).is_some_and(|newest| *newest >= version);
        let needs = self.by_need.iter().filter(move |(name, version, _)| takes(name, *version)).map(|(.., id)| *id);
        let due = self.by_due.iter().filter(move |(due, _)| *due <= now || *due > latest).map(|(_, id)| *id);
        needs.chain(due)
    }

    /// The time until the next entry may be fetched.
    fn due(&self, now: u64, longest_wait: Duration) -> Option<Duration> {
        let (due, _) = self.by_due.range((now.saturating_add(1), EntryId::ZERO)..).next()?;
        Some(Duration::from_millis(due - now).min(longest_wait))
    }
}

/// New entries to give out.
struct Next {
    entries: Vec<Arc<Entry>>,
    range: Option<Range>,
    cursor: Cursor,
}

impl Record {
    pub(super) fn new(at: EntryId, at_event: String, seen: Option<u64>) -> Self {
        Self {
            cursor: Cursor { at, at_event, seen },
            consumers: BTreeMap::new(),
            chunks: BTreeMap::new(),
            waits: Waits::default(),
            waiting: Waiting::default(),
            lost: None,
            reported: BTreeMap::new(),
            token: String::new(),
        }
    }

    /// Continues the stamps of the record before a reset, so that a waiting set of then is recognised.
    pub(super) fn succeed(&mut self, before: &Self) {
        self.waits.stamp = before.waits.stamp + 1;
    }

    /// Whether this session is a living consumer.
    pub(super) fn has(&self, holder: &Holder) -> bool {
        self.living(holder).is_some()
    }

    /// Whether a consumer with this epoch lives.
    pub(super) fn lives(&self, epoch: u64) -> bool {
        self.consumers.values().any(|consumer| consumer.epoch == epoch && consumer.lives.is_some())
    }

    /// Whether this is a consumer, or a dead one.
    pub(super) fn knows(&self, owner: &str) -> bool {
        self.consumers.contains_key(owner)
    }

    /// Whether this consumer's entries are being reclaimed.
    pub(super) fn is_dead(&self, owner: &str) -> bool {
        self.consumers.get(owner).is_some_and(|consumer| consumer.lives.is_none())
    }

    pub(super) fn beat(&mut self, owner: &str) {
        self.heard(owner, |_| {});
    }

    /// Counts a beat of the consumer for a call that took effect.
    fn heard(&mut self, owner: &str, note: impl FnOnce(&mut Consumer)) {
        if let Some(consumer) = self.consumers.get_mut(owner) {
            note(consumer);
            consumer.lives.iter_mut().for_each(|lives| lives.beat += 1);
        }
    }

    /// Deletes a consumer but not its chunks, as an operator's `HDEL` of its field would.
    pub(super) fn forget_consumer(&mut self, owner: &str) {
        self.consumers.remove(owner);
    }

    /// Restores the waiting set, as an operator's `RESTORE` of its key would.
    pub(super) fn restore_waiting(&mut self, saved: &Self) {
        self.waiting = saved.waiting.clone();
    }

    /// Deletes the waiting set, as an operator's `DEL` of its key would.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting = Waiting::default();
    }

    /// An id at or below the oldest entry that is in flight or waits.
    pub(super) fn oldest(&self) -> Option<EntryId> {
        let range = |left: &Left| left.range.as_ref().map(|range| range.after.next());
        let items = |left: &Left| left.again.iter().map(|item| item.id).min();
        let in_flight = self.chunks.values().flat_map(|left| range(left).into_iter().chain(items(left)));
        in_flight.chain(self.waiting.by_id.keys().next().copied()).min()
    }

    fn living(&self, holder: &Holder) -> Option<&Consumer> {
        let consumer = self.consumers.get(&holder.owner)?;
        (consumer.epoch == holder.epoch && consumer.lives.is_some()).then_some(consumer)
    }

    /// The difference between the waiting set and its record.
    fn damage(&self) -> Option<Damage> {
        let Waits { stamp, count: recorded } = self.waits;
        let found = self.waiting.count();
        // While no entry waits, the set may exist or not.
        let is_same = recorded == found && (self.waiting.stamp == stamp || (found == 0 && self.waiting.stamp == 0));
        (!is_same).then_some(Damage { recorded, found })
    }

    /// Whether the waiting set is the recorded one.
    pub(super) fn knows_what_waits(&self) -> bool {
        self.waits.count == 0 || self.damage().is_none()
    }

    /// Records a change of the waiting set.
    fn stamp(&mut self) {
        self.waits = Waits { stamp: self.waits.stamp + 1, count: self.waiting.count() };
        self.waiting.stamp = self.waits.stamp;
    }

    fn lose(&mut self, lost: Option<Lost>) {
        if let Some(more) = lost {
            add(&mut self.lost, more);
        }
    }

    pub(super) fn join(&mut self, owner: &str, lease_for: Duration, epoch: u64) -> u64 {
        let lives = Some(Beats { beat: 1, lease_for });
        self.consumers.entry(owner.to_owned()).or_insert(Consumer { epoch, lives, fetch: 0, ack: 0 }).epoch
    }

    pub(super) fn fetch(&mut self, fetch: &Fetch, log: &Stream, now: u64) -> Fetched {
        let Some(last) = self.living(&fetch.holder).map(|consumer| consumer.fetch) else { return Fetched::Fenced };
        if fetch.call <= last {
            return Fetched::Chunk(self.fetch_again(fetch, fetch.call == last, log, now));
        }
        if fetch.call > last + 1 {
            return Fetched::Fenced;
        }
        if let Some(lost) = self.lost.filter(|_| !fetch.go_on) {
            return Fetched::Lost { lost, found: false };
        }
        if let Some(damage) = self.damage() {
            return Fetched::Damaged(damage);
        }

        let first = log.entries.front().map(|entry| entry.id);
        // A trim is reported at once, whenever the entries that it passed were due.
        let is_trimmed = |id: &EntryId| first.is_none_or(|first| *id < first);
        let mut gone: Vec<_> = self.waiting.by_id.keys().copied().take_while(is_trimmed).collect();
        let mut lost = lost_of(&gone, false);
        let (mut again, mut bytes) = (Vec::new(), 0);
        for id in self.waiting.candidates(fetch, now).filter(|id| !is_trimmed(id)).take(fetch.count) {
            if bytes >= fetch.bytes {
                break;
            }
            match (log.at(id), self.waiting.by_id.get(&id)) {
                (Some(entry), Some(Waiter { failed, crashes, .. })) => {
                    bytes += entry.weight();
                    again.push(Again { entry, failed: *failed, crashes: *crashes });
                }
                _ => {
                    gone.push(id);
                    add(&mut lost, Lost { deleted: true, from: id.previous(), to: id, count: 1 });
                }
            }
        }
        if let Some(found) = lost.filter(|_| !fetch.go_on) {
            self.take_out(gone);
            self.lose(lost);
            return Fetched::Lost { lost: found, found: true };
        }

        let waiting = self.waiting.count() - gone.len() as u64 - again.len() as u64;
        let has_room = waiting < fetch.most_waiting && bytes < fetch.bytes;
        let room = if has_room { fetch.count - again.len() } else { 0 };
        let bytes = fetch.bytes.saturating_sub(bytes);
        let Some(Next { entries: new, range, cursor }) = self.next(&fetch.new, room, bytes, again.is_empty(), log)
        else {
            return Fetched::Unsure(self.cursor.clone());
        };
        self.cursor = cursor;
        self.take_out(again.iter().map(|again| again.entry.id).chain(gone).collect());
        let number = range.as_ref().map_or(0, |range| range.number);
        self.put(fetch.holder.epoch, fetch.call, Left { range, again: again.iter().map(item).collect() });
        self.keep_reported(fetch.holder.epoch, lost);
        self.heard(&fetch.holder.owner, |consumer| consumer.fetch = fetch.call);
        let due = self.waiting.due(now, fetch.longest_wait);
        Fetched::Chunk(Chunk { again, new, number, at: self.cursor.at, waiting, due, lost })
    }

    /// Answers a fetch that was sent again with its entries still in flight. Only the latest fetch reports entries that
    /// are gone.
    fn fetch_again(&mut self, fetch: &Fetch, is_latest: bool, log: &Stream, now: u64) -> Chunk {
        let key = (fetch.holder.epoch, fetch.call);
        let mut left = self.chunks.get(&key).cloned().unwrap_or_default();
        let (mut again, mut lost) = (Vec::new(), self.reported.get(&fetch.holder.epoch).copied());
        left.again.retain(|item| {
            let entry = log.at(item.id);
            let stands = entry.is_some();
            if !stands {
                add(&mut lost, missing(item.id.previous(), item.id, 1, log));
            }
            again.extend(entry.map(|entry| Again { entry, failed: item.failed, crashes: item.crashes }));
            stands
        });
        let mut new = Vec::new();
        if let Some(range) = left.range.as_mut().filter(|_| !matches!(fetch.new, New::Known { .. })) {
            new = standing(range, log);
            if range.number > new.len() as u64 {
                add(&mut lost, missing(range.after, range.to, range.number - new.len() as u64, log));
            }
            range.number = new.len() as u64;
        }
        let number = left.range.as_ref().map_or(0, |range| range.number);
        if is_latest {
            self.put(key.0, key.1, left);
            self.keep_reported(key.0, lost);
            self.beat(&fetch.holder.owner);
        }
        let due = self.waiting.due(now, fetch.longest_wait);
        // A late fetch reports no loss, because the record keeps it.
        let lost = lost.filter(|_| is_latest);
        Chunk { again, new, number, at: self.cursor.at, waiting: self.waits.count, due, lost }
    }

    fn keep_reported(&mut self, epoch: u64, lost: Option<Lost>) {
        match lost {
            Some(lost) => drop(self.reported.insert(epoch, lost)),
            None => drop(self.reported.remove(&epoch)),
        }
    }

    /// The entries behind the cursor to give out, up to this many bytes, except for the first; `None` if entries may be
    /// missing there.
    fn next(&self, new: &New, room: usize, bytes: usize, is_first: bool, log: &Stream) -> Option<Next> {
        let Cursor { at, seen, .. } = &self.cursor;
        let nothing = Next { entries: Vec::new(), range: None, cursor: self.cursor.clone() };
        match new {
            New::Known { from, to, to_event, number }
                if from == at && to > from && (1..=room as u64).contains(number) =>
            {
                let cursor = Cursor { at: *to, at_event: to_event.clone(), seen: seen.map(|seen| seen + number) };
                let range = Range { after: *from, to: *to, number: *number, except: Vec::new() };
                Some(Next { entries: Vec::new(), range: Some(range), cursor })
            }
            New::Read { judged } if room > 0 => {
                let (mut entries, mut sum) = (log.read(*at, room), 0);
                let is_unsure = !entries.is_empty() || (log.entries.is_empty() && *at > EntryId::ZERO);
                let next = entries.first().map(|entry| entry.id);
                let is_judged = judged.is_some_and(|judged| judged.at == *at && Some(judged.next) == next);
                if is_unsure && !is_judged && !self.has_witness(log) {
                    return None;
                }
                let over = entries.iter().position(|entry| {
                    sum += entry.weight();
                    sum > bytes
                });
                // One entry is given out whatever its weight.
                entries.truncate(over.unwrap_or(room).max(usize::from(is_first)));
                let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Some(nothing) };
                let number = entries.len() as u64;
                let at_event = last.given_id().unwrap_or_default().to_owned();
                let cursor = Cursor { at: last.id, at_event, seen: seen.map(|seen| seen + number) };
                let range = Range { after: first.id.previous(), to: last.id, number, except: Vec::new() };
                Some(Next { entries, range: Some(range), cursor })
            }
            _ => Some(nothing),
        }
    }

    /// Whether the entry at the cursor is still there; at the beginning, whether no entry was ever removed.
    fn has_witness(&self, log: &Stream) -> bool {
        let Cursor { at, at_event, seen } = &self.cursor;
        if *at == EntryId::ZERO {
            return *seen == Some(0) && log.removed() == 0;
        }
        let same = |there: Arc<Entry>| at_event.is_empty() || there.given_id().unwrap_or_default() == at_event;
        log.at(*at).is_some_and(same)
    }

    fn take_out(&mut self, ids: Vec<EntryId>) {
        if !ids.is_empty() {
            ids.into_iter().for_each(|id| self.waiting.remove(id));
            self.stamp();
        }
    }

    /// Records a chunk's entries in flight; a range or a chunk without any has no record.
    fn put(&mut self, epoch: u64, call: u64, mut left: Left) {
        left.range = left.range.filter(|range| range.number > 0);
        if left.again.is_empty() && left.range.is_none() {
            self.chunks.remove(&(epoch, call));
        } else {
            self.chunks.insert((epoch, call), left);
        }
    }

    /// The answer if acks change nothing, before the dead letters are checked; else whether the acks are new.
    pub(super) fn check_acks(&self, acks: &Acks, events: &Events) -> Result<bool, Acked> {
        let Some(consumer) = self.living(&acks.holder) else { return Err(Acked::Fenced) };
        if acks.call <= consumer.ack {
            return Ok(false);
        }
        // The caller has acked or fetched in another history of the record.
        let is_known = |(call, _): &(u64, Left)| self.chunks.contains_key(&(acks.holder.epoch, *call));
        if acks.call > consumer.ack + 1 || !acks.chunks.iter().all(is_known) {
            return Err(Acked::Fenced);
        }
        match self.damage() {
            Some(damage) if !acks.back.is_empty() => return Err(Acked::Damaged(damage)),
            _ => {}
        }
        let names: Vec<_> = acks.passed_over.iter().filter(|name| events.contains_key(*name)).cloned().collect();
        if names.is_empty() { Ok(true) } else { Err(Acked::Declared { names }) }
    }

    pub(super) fn ack(&mut self, acks: &Acks, now: u64) {
        for (call, left) in &acks.chunks {
            self.put(acks.holder.epoch, *call, left.clone());
        }
        for Wait { id, failed, crashes, until } in &acks.back {
            let until = match until {
                Until::After(after) if after.is_zero() => Due::At(0),
                Until::After(after) => Due::At(now.saturating_add(millis(*after))),
                Until::Needs { name, version } => Due::Needs(name.clone(), *version),
            };
            self.waiting.insert(*id, Waiter { failed: *failed, crashes: *crashes, until });
        }
        if !acks.back.is_empty() {
            self.stamp();
        }
        self.heard(&acks.holder.owner, |consumer| consumer.ack = acks.call);
    }

    pub(super) fn pass(&mut self, token: &str, pass: &Pass) -> bool {
        if self.token == token {
            return true;
        }
        let is_there = self.cursor.at == pass.from.at && self.cursor.seen == pass.from.seen;
        if is_there {
            token.clone_into(&mut self.token);
            self.cursor = pass.to.clone();
            self.lose(pass.halts);
        }
        is_there
    }

    pub(super) fn mend(&mut self, token: &str, damage: &Damage, halts: Option<&Lost>) -> bool {
        if self.token == token {
            return true;
        }
        let is_same = self.damage().as_ref() == Some(damage);
        if is_same {
            token.clone_into(&mut self.token);
            self.stamp();
            self.lose(halts.copied());
        }
        is_same
    }

    pub(super) fn view(&self, resume: u64, reset: u64, now: u64) -> QueueState {
        let in_flight = |epoch| self.chunks_of(epoch).map(|(_, left)| size(left)).sum();
        let dead = |epoch| Life::Dead { lost: self.reported.get(&epoch).copied() };
        let unacked = |(owner, consumer): (&String, &Consumer)| {
            let epoch = consumer.epoch;
            let beats = |Beats { beat, lease_for }| Life::Beats { epoch, beat, lease_for };
            let life = consumer.lives.map_or_else(|| dead(epoch), beats);
            Unacked { owner: owner.clone(), in_flight: in_flight(epoch), life }
        };
        let mut consumers: Vec<_> = self.consumers.iter().map(unacked).collect();
        consumers.extend(self.orphans().into_iter().map(|epoch| Unacked {
            owner: format!("orphan/{epoch}"),
            in_flight: in_flight(epoch),
            life: dead(epoch),
        }));
        consumers.sort_by(|a, b| a.owner.cmp(&b.owner));
        let mut needed = Events::new();
        for (name, version, _) in &self.waiting.by_need {
            if needed.len() < MOST_NEEDED || needed.contains_key(name) {
                let lowest = needed.entry(name.clone()).or_insert(*version);
                *lowest = (*lowest).min(*version);
            }
        }
        let due = self.waiting.by_due.first().map(|(due, _)| Duration::from_millis(due.saturating_sub(now)));
        QueueState {
            consumers,
            waiting: self.waits.count,
            due,
            oldest: self.oldest(),
            cursor: self.cursor.clone(),
            needed,
            resume,
            reset,
            damage: self.damage(),
        }
    }

    fn chunks_of(&self, epoch: u64) -> impl Iterator<Item = (u64, &Left)> {
        self.chunks.range((epoch, 0)..=(epoch, u64::MAX)).map(|((_, call), left)| (*call, left))
    }

    /// The epochs of chunks whose consumers' fields were deleted.
    fn orphans(&self) -> BTreeSet<u64> {
        let known: BTreeSet<_> = self.consumers.values().map(|consumer| consumer.epoch).collect();
        let all = self.chunks.keys().map(|(epoch, _)| epoch).chain(self.reported.keys());
        all.copied().filter(|epoch| !known.contains(epoch)).collect()
    }

    pub(super) fn reclaim(&mut self, owner: &str, seen: &Life, count: usize, log: &Stream) -> Reclaimed {
        let orphan = || owner.strip_prefix("orphan/")?.parse().ok().filter(|epoch| self.orphans().contains(epoch));
        let (epoch, lives) = match self.consumers.get(owner) {
            Some(consumer) => (Some(consumer.epoch), consumer.lives),
            None => (orphan(), None),
        };
        let Some(epoch) = epoch else { return Reclaimed::Contended };
        let reported = self.reported.get(&epoch).copied();
        let life = match lives {
            Some(Beats { beat, lease_for }) => Life::Beats { epoch, beat, lease_for },
            None => Life::Dead { lost: reported },
        };
        if life != *seen {
            return Reclaimed::Contended;
        }
        match self.damage() {
            Some(damage) if self.chunks_of(epoch).next().is_some() => return Reclaimed::Damaged(damage),
            _ => {}
        }
        if let Some(consumer) = self.consumers.get_mut(owner) {
            consumer.lives = None;
        }
        let (entries, more) = self.give_back(epoch, count.max(1), log);
        // The loss in the answer of its latest fetch, which the consumer may not have reported.
        let mut lost = reported.filter(|_| lives.is_some());
        if let Some(more) = more {
            add(&mut lost, more);
        }
        self.keep_reported(epoch, lost);
        if lost.is_some() || self.chunks_of(epoch).next().is_some() {
            return Reclaimed::Some { entries, lost };
        }
        self.consumers.remove(owner);
        Reclaimed::All { entries }
    }

    /// Removes the caller. Answers whether it was a consumer and its entries in flight could be released.
    pub(super) fn leave(&mut self, holder: &Holder, log: &Stream) -> bool {
        let holds = self.chunks_of(holder.epoch).next().is_some();
        if !self.has(holder) || (holds && self.damage().is_some()) {
            return false;
        }
        self.give_back(holder.epoch, usize::MAX, log);
        self.reported.remove(&holder.epoch);
        self.consumers.remove(&holder.owner);
        true
    }

    /// Releases this many of a consumer's entries; answers how many, and the loss among the ranges between them.
    fn give_back(&mut self, epoch: u64, count: usize, log: &Stream) -> (u64, Option<Lost>) {
        let (mut back, mut lost) = (0, None);
        let chunks: Vec<_> = self.chunks_of(epoch).map(|(call, left)| (call, left.clone())).collect();
        for (call, mut left) in chunks {
            let items = left.again.len().min(count - back);
            for Item { id, failed, crashes, charged } in left.again.drain(..items) {
                let crashes = crashes + u32::from(charged);
                self.waiting.insert(id, Waiter { failed, crashes, until: Due::At(0) });
            }
            back += items;
            if let Some(range) = left.range.as_mut().filter(|_| back < count) {
                let standing = standing(range, log);
                let taken = standing.len().min(count - back);
                let gone = range.number.saturating_sub(standing.len() as u64);
                if gone > 0 {
                    add(&mut lost, missing(range.after, range.to, gone, log));
                }
                for entry in &standing[..taken] {
                    self.waiting.insert(entry.id, Waiter { failed: 0, crashes: 1, until: Due::At(0) });
                    range.after = entry.id;
                }
                range.except.retain(|id| *id > range.after);
                range.number = (standing.len() - taken) as u64;
                back += taken;
            }
            self.put(epoch, call, left);
            if back >= count {
                break;
            }
        }
        if back > 0 {
            self.stamp();
        }
        (back as u64, lost)
    }
}

/// How many entries are in flight.
fn size(left: &Left) -> u64 {
    left.range.as_ref().map_or(0, |range| range.number) + left.again.len() as u64
}

/// An entry is charged when it is given out, unless it has crashed before.
fn item(again: &Again) -> Item {
    let Again { entry, failed, crashes } = again;
    Item { id: entry.id, failed: *failed, crashes: *crashes, charged: *crashes == 0 }
}

/// The entries of a range that are still in the stream.
fn standing(range: &Range, log: &Stream) -> Vec<Arc<Entry>> {
    let above = log.read(range.after, usize::MAX).into_iter().take_while(|entry| entry.id <= range.to);
    above.filter(|entry| !range.except.contains(&entry.id)).collect()
}

/// This many entries that were in flight between these ids and are gone. A trim has passed them if the stream begins
/// behind the first place that one of them may have had.
fn missing(from: EntryId, to: EntryId, count: u64, log: &Stream) -> Lost {
    let deleted = log.entries.front().is_some_and(|first| first.id <= from.next());
    Lost { deleted, from, to, count }
}

fn lost_of(ids: &[EntryId], deleted: bool) -> Option<Lost> {
    let (from, to) = (ids.first()?.previous(), *ids.last()?);
    Some(Lost { deleted, from, to, count: ids.len() as u64 })
}

/// Adds to a loss.
fn add(lost: &mut Option<Lost>, more: Lost) {
    *lost = Some(match *lost {
        None => more,
        Some(lost) => Lost {
            deleted: lost.deleted && more.deleted,
            from: lost.from.min(more.from),
            to: lost.to.max(more.to),
            count: lost.count + more.count,
        },
    });
}
