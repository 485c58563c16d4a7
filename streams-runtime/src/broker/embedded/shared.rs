//! Shared delivery on the embedded broker: who has which entry in hand, and what waits in nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{
    Become, Crew, DeadBounds, Delivered, Events, Fields, Freed, Full, Hand, Haul, Holder, Joined, Life, Lost, Settle,
    Settled, Take, Took,
};
use streams_core::keys::GroupKey;

use super::{Log, Store};
use crate::clock::millis;

/// The most events that others are said to wait for.
const MOST_NEEDED: usize = 10;

/// What a shared group has besides the fields of every group.
#[derive(Clone, Default)]
pub(super) struct Queue {
    consumers: BTreeMap<String, Consumer>,
    pending: BTreeMap<EntryId, Pending>,
    /// What nobody has in hand, by the moment from which it may be taken.
    waiting: BTreeSet<(u64, EntryId)>,
    /// What nobody has in hand because only another build handles it.
    needs: BTreeMap<EntryId, (String, u32)>,
    failed: BTreeMap<EntryId, u32>,
    /// A loss that halts the group.
    pub(super) lost: Option<Lost>,
}

#[derive(Clone)]
enum Consumer {
    Lives { epoch: u64, beat: u64, lease_for: Duration },
    Dead,
}

#[derive(Clone)]
struct Pending {
    owner: Option<String>,
    crashes: u32,
    /// Whether the end of the consumer that has it in hand is a crash of it.
    charged: bool,
}

impl Queue {
    /// Whether this joining lives.
    pub(super) fn has(&self, holder: &Holder) -> bool {
        matches!(self.consumers.get(&holder.owner), Some(Consumer::Lives { epoch, .. }) if *epoch == holder.epoch)
    }

    /// Whether a consumer with this epoch lives.
    pub(super) fn lives(&self, epoch: u64) -> bool {
        let lives = |consumer: &Consumer| matches!(consumer, Consumer::Lives { epoch: other, .. } if *other == epoch);
        self.consumers.values().any(lives)
    }

    pub(super) fn beat(&mut self, owner: &str) {
        if let Some(Consumer::Lives { beat, .. }) = self.consumers.get_mut(owner) {
            *beat += 1;
        }
    }

    /// The oldest entry that is in hand or waits.
    pub(super) fn oldest(&self) -> Option<EntryId> {
        self.pending.keys().next().copied()
    }

    fn waits(&self) -> u64 {
        (self.waiting.len() + self.needs.len()) as u64
    }

    /// What this consumer has in hand, oldest first.
    fn held(&self, owner: &str) -> Vec<EntryId> {
        let held = self.pending.iter().filter(|(_, pending)| pending.owner.as_deref() == Some(owner));
        held.map(|(id, _)| *id).collect()
    }

    /// Takes an entry out of whichever hand it is in, to be taken from `due` on.
    fn let_go(&mut self, id: EntryId, due: u64, has_crashed: bool) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.owner = None;
            pending.crashes += u32::from(has_crashed && pending.charged);
            pending.charged = false;
            self.waiting.insert((due, id));
        }
    }

    fn forget(&mut self, id: EntryId) {
        self.pending.remove(&id);
        self.failed.remove(&id);
        self.needs.remove(&id);
        self.waiting.retain(|(_, other)| *other != id);
    }

    /// What waits and may be handed out to this caller, at most so many.
    fn candidates(&self, take: &Take, now: u64) -> Vec<EntryId> {
        let latest = now.saturating_add(millis(take.longest_wait));
        let covered = |name: &str, version: u32| take.takes.get(name).is_some_and(|newest| *newest >= version);
        let needs = self.needs.iter().filter(|(_, (name, version))| covered(name, *version)).map(|(id, _)| *id);
        let due = self.waiting.iter().filter(|(due, _)| *due <= now || *due > latest).map(|(_, id)| *id);
        needs.chain(due).take(take.count).collect()
    }
}

impl Store {
    pub(super) fn join(&mut self, group: &GroupKey, owner: &str, lease_for: Duration, now: u64) -> Joined {
        let has_marker = self.has_marker(group);
        let Some(state) = self.groups.get_mut(group.state()) else { return Joined::Missing };
        let mode = state.mode();
        let Some(queue) = &mut state.queue else { return Joined::Mode(mode.to_owned()) };
        if let Some(Consumer::Lives { epoch, .. }) = queue.consumers.get(owner) {
            return Joined::Member { epoch: *epoch };
        }
        if !has_marker {
            return Joined::Vanished { at: state.at };
        }
        let epoch = now.max(state.lease.epoch + 1);
        state.lease.epoch = epoch;
        queue.consumers.insert(owner.to_owned(), Consumer::Lives { epoch, beat: 1, lease_for });
        Joined::Member { epoch }
    }

    pub(super) fn take(&mut self, group: &GroupKey, take: &Take, now: u64) -> Took {
        let has_marker = self.has_marker(group);
        let log = self.logs.get(group.partition().as_str());
        let Some(state) = self.groups.get_mut(group.state()) else { return Took::Missing };
        let Some(queue) = state.queue.as_mut().filter(|queue| queue.has(&take.holder)) else { return Took::Fenced };
        let (Some(log), true) = (log, has_marker) else { return Took::Vanished { at: state.at } };
        let owner = &take.holder.owner;
        if state.seen.is_none() && state.at == log.last {
            state.seen = Some(log.added);
        }
        let trim = match passed(log, state.at, &state.at_event, state.seen) {
            Passed::Nothing => None,
            Passed::Ahead => return Took::Ahead { at: state.at, last: log.last },
            Passed::Changed => return Took::Changed { at: state.at },
            Passed::Trim(count) => Some(count),
        };
        queue.beat(owner);
        if let Some(in_hand) = &take.in_hand {
            for id in queue.held(owner).into_iter().filter(|id| !in_hand.contains(id)) {
                queue.let_go(id, 0, false);
            }
        }
        if let Some(lost) = queue.lost.filter(|_| !take.go_on) {
            return Took::Lost { lost, found: false };
        }
        let entry = |id: EntryId| log.at(id);
        let first = log.entries.front().map(|entry| entry.id);

        let mut lost: Option<Lost> = None;
        // What a trim has passed is told at once, whenever it was due.
        let waits = queue.waiting.iter().map(|(_, id)| id).chain(queue.needs.keys());
        let trimmed: Vec<_> = waits.filter(|id| first.is_none_or(|first| **id < first)).copied().collect();
        for id in trimmed {
            queue.forget(id);
            add(&mut lost, Lost { deleted: false, from: id.previous(), to: id, count: 1 });
        }
        let mut taken = Vec::new();
        for id in queue.candidates(take, now) {
            match entry(id) {
                Some(entry) if queue.pending.get(&id).is_some_and(|pending| pending.owner.is_none()) => {
                    taken.push(entry)
                }
                // Somebody has acknowledged it by hand.
                Some(_) => queue.forget(id),
                None => {
                    queue.forget(id);
                    add(&mut lost, Lost { deleted: true, from: id.previous(), to: id, count: 1 });
                }
            }
        }
        if let Some(count) = trim {
            let to = first.map_or(log.last, EntryId::previous);
            add(&mut lost, Lost { deleted: false, from: state.at, to, count });
            // What lies up to there is told.
            (state.at, state.at_event, state.seen) = (to, String::new(), Some(log.removed()));
        }
        if let Some(lost) = lost.filter(|_| !take.go_on) {
            queue.lost = Some(lost);
            return Took::Lost { lost, found: true };
        }

        let mut entries = Vec::new();
        for entry in taken {
            queue.needs.remove(&entry.id);
            queue.waiting.retain(|(_, other)| *other != entry.id);
            let failed = queue.failed.get(&entry.id).copied().unwrap_or(0);
            if let Some(pending) = queue.pending.get_mut(&entry.id) {
                pending.owner = Some(owner.clone());
                pending.charged = pending.crashes == 0;
                entries.push(Delivered { entry, failed, crashes: pending.crashes });
            }
        }
        let room = take.count - entries.len();
        if queue.waits() < take.most_waiting && room > 0 {
            let new = log.read(state.at, room);
            let is_end = new.len() < room && !new.is_empty();
            for entry in new {
                state.at = entry.id;
                state.at_event = entry.given_id().unwrap_or_default().to_owned();
                state.seen = state.seen.map(|seen| seen + 1);
                queue.pending.insert(entry.id, Pending { owner: Some(owner.clone()), crashes: 0, charged: true });
                entries.push(Delivered { entry, failed: 0, crashes: 0 });
            }
            if is_end || (state.seen.is_none() && state.at == log.last) {
                // All that was ever added was handed out, or was deleted unread.
                state.seen = Some(log.added);
            }
        }
        let due = queue.waiting.iter().map(|(due, _)| *due).find(|due| *due > now);
        Took::Entries(Haul {
            entries,
            waiting: queue.waits(),
            due: due.map(|due| Duration::from_millis(due - now).min(take.longest_wait)),
            lost,
        })
    }

    /// `None` when the caller is no consumer.
    pub(super) fn settle(&mut self, group: &GroupKey, settle: &Settle, now: u64) -> Option<Settled> {
        let dead = self.logs.entry(group.dead()).or_default();
        let state = self.groups.get_mut(group.state())?;
        let queue = state.queue.as_mut().filter(|queue| queue.has(&settle.holder))?;
        let (mut settled, mut free) = (Settled::default(), false);
        for (id, end) in &settle.ends {
            let held = queue.pending.get_mut(id).filter(|held| held.owner.as_ref() == Some(&settle.holder.owner));
            let Some(held) = held else {
                settled.lost.push(*id);
                continue;
            };
            match end {
                Become::Done => queue.forget(*id),
                Become::PassedOver { name } if state.events.contains_key(name) => settled.declared.push(*id),
                Become::PassedOver { .. } => queue.forget(*id),
                Become::Again { failed, after } => {
                    queue.failed.insert(*id, *failed);
                    queue.let_go(*id, now.saturating_add(millis(*after)), false);
                    free |= after.is_zero();
                }
                Become::Charged { crashes } => (held.crashes, held.charged) = (*crashes, true),
                Become::Back { crashes } => {
                    held.crashes = *crashes;
                    queue.let_go(*id, 0, false);
                    free = true;
                }
                Become::Needs { name, version, crashes } => {
                    held.crashes = *crashes;
                    queue.let_go(*id, 0, false);
                    queue.waiting.remove(&(0, *id));
                    queue.needs.insert(*id, (name.clone(), *version));
                    free = true;
                }
                Become::Dead(fields) => match put_away(dead, fields, &settle.dead_bounds, now) {
                    Some(full) => {
                        settled.full = Some(full);
                        settled.kept.push(*id);
                    }
                    None => queue.forget(*id),
                },
            }
        }
        if free {
            self.ring(group, now);
        }
        Some(settled)
    }

    pub(super) fn crew(&self, group: &GroupKey, now: u64) -> Option<Crew> {
        let state = self.groups.get(group.state()).filter(|_| self.has_marker(group))?;
        let queue = state.queue.as_ref()?;
        let hand = |(owner, consumer): (&String, &Consumer)| Hand {
            owner: owner.clone(),
            pending: queue.held(owner).len() as u64,
            life: match consumer {
                Consumer::Dead => Life::Dead,
                Consumer::Lives { epoch, beat, lease_for } => {
                    Life::Beats { epoch: *epoch, beat: *beat, lease_for: *lease_for }
                }
            },
        };
        let mut needed = Events::new();
        for (name, version) in queue.needs.values() {
            if needed.len() < MOST_NEEDED || needed.contains_key(name) {
                let lowest = needed.entry(name.clone()).or_insert(*version);
                *lowest = (*lowest).min(*version);
            }
        }
        let due = queue.waiting.first().map(|(due, _)| Duration::from_millis(due.saturating_sub(now)));
        Some(Crew {
            consumers: queue.consumers.iter().map(hand).collect(),
            pending: queue.pending.len() as u64,
            oldest: queue.oldest(),
            waiting: queue.waits(),
            due,
            at: state.at,
            seen: state.seen,
            needed,
            resume: state.resume,
            reset: state.reset,
        })
    }

    pub(super) fn free(&mut self, group: &GroupKey, owner: &str, seen: &Life, count: usize, now: u64) -> Freed {
        let Some(queue) = self.groups.get_mut(group.state()).and_then(|state| state.queue.as_mut()) else {
            return Freed::Contended;
        };
        let same = match (queue.consumers.get(owner), seen) {
            (Some(Consumer::Dead), Life::Dead) => true,
            (Some(Consumer::Lives { epoch, beat, lease_for }), Life::Beats { epoch: e, beat: b, lease_for: l }) => {
                (epoch, beat, lease_for) == (e, b, l)
            }
            _ => false,
        };
        if !same {
            return Freed::Contended;
        }
        queue.consumers.insert(owner.to_owned(), Consumer::Dead);
        let held = queue.held(owner);
        let freed = held.len().min(count);
        for id in &held[..freed] {
            queue.let_go(*id, 0, true);
        }
        if freed < held.len() {
            return Freed::Some(freed as u64);
        }
        queue.consumers.remove(owner);
        self.ring(group, now);
        Freed::All(freed as u64)
    }

    /// The caller is no consumer any more; what it has in hand is given back. Answers whether it was one.
    pub(super) fn leave(&mut self, group: &GroupKey, holder: &Holder, now: u64) -> bool {
        let queue = self.groups.get_mut(group.state()).and_then(|state| state.queue.as_mut());
        let Some(queue) = queue.filter(|queue| queue.has(holder)) else { return false };
        for id in queue.held(&holder.owner) {
            queue.let_go(id, 0, true);
        }
        queue.consumers.remove(&holder.owner);
        self.ring(group, now);
        true
    }
}

/// What history shows of entries that were not handed out yet.
enum Passed {
    Nothing,
    Ahead,
    Changed,
    /// So many are known to be trimmed; 0 where nobody can know whether any were.
    Trim(u64),
}

fn passed(log: &Log, at: EntryId, at_event: &str, seen: Option<u64>) -> Passed {
    if log.last < at {
        return Passed::Ahead;
    }
    let there = log.at(at);
    if let Some(there) = there {
        let same = at_event.is_empty() || there.given_id().unwrap_or_default() == at_event;
        return if same { Passed::Nothing } else { Passed::Changed };
    }
    let nothing_left = log.entries.front().is_none_or(|first| first.id > at);
    if seen.is_some_and(|seen| log.added < seen || (nothing_left && log.removed() < seen)) {
        return Passed::Changed;
    }
    let before = log.entries.front().map_or(log.last, |first| first.id.previous());
    match seen {
        _ if !nothing_left => Passed::Nothing,
        Some(seen) if log.removed() > seen => Passed::Trim(log.removed() - seen),
        None if at > EntryId::ZERO && before > at => Passed::Trim(0),
        _ => Passed::Nothing,
    }
}

/// Adds to what was lost.
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

/// Puts a letter among the dead, or answers why there is no room.
fn put_away(dead: &mut Log, fields: &Fields, bounds: &DeadBounds, now: u64) -> Option<Full> {
    let (count, oldest) = (dead.entries.len() as u64, dead.entries.front().map(|entry| entry.id));
    if oldest.is_some_and(|id| now.saturating_sub(id.ms) > millis(bounds.age)) || count >= bounds.count {
        return Some(Full { count, oldest });
    }
    dead.push(now, fields.clone());
    None
}
