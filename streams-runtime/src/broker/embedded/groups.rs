//! Groups in memory: the state of each, its lease, and the crashes of owners.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use streams_core::broker::{
    Acquired, Adopted, Adoption, Answer, Change, Claim, Commit, Committed, Consumed, Created, Events, Full, GroupState,
    Groups, Holder, Holding, LeaseView, Need, Recovery, RecoveryStep, Remember, Renewal, Renewed, Renewer, Reply,
    Reset,
};
use streams_core::keys::{GroupKey, PartitionKey};
use streams_core::{EntryId, Start};

use super::store::{Embedded, Group, Store};
use crate::broker::checks::{check_commit, check_owner};
use crate::clock::millis;

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
        // Nobody reads with XREADGROUP here: a marker without a state has neither consumers nor pending entries.
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

    fn remembered<'a>(&'a self, group: &'a GroupKey, ids: &'a [String]) -> Reply<'a, Vec<Option<u64>>> {
        self.reply(move |store, _| {
            let settled = store.groups.get(group.state()).map(|state| &state.settled);
            Ok(ids.iter().map(|id| settled.and_then(|settled| settled.get(id).copied())).collect())
        })
    }

    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: Option<&'a Need>) -> Reply<'a, bool> {
        self.ringing(move |store, now| Ok(store.release(group, holder, needs, now)))
    }

    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset> {
        self.ringing(move |store, now| Ok(store.reset(group, seen, to, now)))
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

    fn remove<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>) -> Reply<'a, bool> {
        self.reply(move |store, _| {
            if store.groups.get(group.state()).map(|state| state.lease.epoch) != seen {
                return Ok(false);
            }
            store.groups.remove(group.state());
            store.logs.remove(&group.dead());
            store.logs.remove(&group.replay());
            if let Some(log) = store.logs.get_mut(group.partition().as_str()) {
                log.markers.remove(group.group());
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

impl Group {
    fn remember(&mut self, remember: &Remember, now: u64) {
        for id in &remember.ids {
            self.settled.entry(id.clone()).or_insert(now);
        }
        let oldest = now.saturating_sub(millis(remember.within));
        self.settled.retain(|_, at| *at > oldest);
        let most = usize::try_from(remember.most).unwrap_or(usize::MAX);
        if let Some(over) = self.settled.len().checked_sub(most).filter(|over| *over > 0) {
            let mut by_time: Vec<_> = self.settled.iter().map(|(id, at)| (*at, id.clone())).collect();
            by_time.sort_unstable();
            by_time.into_iter().take(over).for_each(|(_, id)| _ = self.settled.remove(&id));
        }
    }
}

impl Store {
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

    fn consumed(&self, partition: &PartitionKey) -> Option<Consumed> {
        let markers = &self.logs.get(partition.as_str())?.markers;
        let checkpoints = markers.keys().map(|group| {
            let state = self.groups.get(partition.group(group).state())?;
            // While the waiting entries are not known, a trim might pass them.
            if state.record.as_ref().is_some_and(|record| !record.knows_what_waits()) {
                return None;
            }
            let at = state.position();
            Some((state.oldest().map_or(at, |oldest| oldest.previous().min(at)), group))
        });
        let (at, slowest) = checkpoints.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        Some(Consumed { at, slowest: slowest.clone() })
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
            // An owner that releases a lease, or takes its own again, is alive: no event ended its process.
            let gone = !state.lease.owner.is_empty() && !claim.own;
            for charged in std::mem::take(&mut state.charged).into_iter().filter(|_| gone) {
                *state.crashes.entry(charged).or_default() += 1;
            }
            if gone && last > at {
                let left = state.recovery.map_or(0, |recovery| recovery.left);
                state.recovery = Some(Recovery { left: left.max(state.bound), to: last });
            }
            state.lease = LeaseView { owner: claim.owner.clone(), epoch, beat: 0 };
            state.call = 0;
            state.lease_for = claim.lease_for;
            state.bound = claim.bound;
        }
        let above = |counts: &BTreeMap<EntryId, u32>| counts.range(at.next()..).map(|(id, n)| (*id, *n)).collect();
        let (attempts, crashes, recovery) = (above(&state.attempts), above(&state.crashes), state.recovery);
        let (epoch, at_event, events) = (state.lease.epoch, state.at_event.clone(), state.events.clone());
        Acquired::Held(Holding { epoch, at, at_event, seen: state.seen, attempts, events, recovery, crashes })
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
            if let Err(Full { count, oldest }) = dead.put_away(&commit.dead, commit.dead_bounds, now) {
                return Committed::DeadLettersFull { count, oldest };
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
        state.error = commit.error.clone().map(|error| (error, now)).or(state.error.take());
        for id in &commit.forget {
            state.attempts.remove(id);
        }
        if let Some(RecoveryStep { charged, left, forget }) = &commit.recovery {
            state.charged = if *left > 0 { charged.clone() } else { Vec::new() };
            state.recovery = state.recovery.filter(|_| *left > 0).map(|recovery| Recovery { left: *left, ..recovery });
            for id in forget {
                state.crashes.remove(id);
            }
        }
        if let Some(remember) = &commit.remember {
            state.remember(remember, now);
        }
        if vanished { Committed::Vanished } else { Committed::Done }
    }

    fn release(&mut self, group: &GroupKey, holder: &Holder, needs: Option<&Need>, now: u64) -> bool {
        if group.is_queue() {
            return self.leave_queue(group, holder, now);
        }
        let held = |state: &&mut Group| state.mode() == "ordered" && state.is_held_by(holder);
        let Some(state) = self.groups.get_mut(group.state()).filter(held) else {
            return false;
        };
        // The epoch stays, because the next one must be above it.
        state.lease.owner.clear();
        if needs.is_some() {
            state.needs = needs.cloned();
        }
        state.charged = Vec::new();
        self.ring(group, now);
        true
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
        let before = self.groups.remove(group.state()).unwrap_or_default();
        let mut anew = Group { lease, reset, events: before.events, ..Group::begin(group, begin) };
        if let Some((record, before)) = anew.record.as_mut().zip(before.record) {
            record.succeed(&before);
        }
        self.groups.insert(group.state().to_owned(), anew);
        self.ring(group, now);
        Reset::Done { at }
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
