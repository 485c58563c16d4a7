//! Work queues in memory: each call finds its record, and rings its bell.

use std::time::Duration;

use streams_core::broker::{
    Acked, Acks, BrokerError, BrokerErrorKind, Damage, Fetch, Fetched, Holder, Joined, Life, Lost, Pass, Queue,
    QueueState, Reclaimed, Reply, Until,
};
use streams_core::keys::GroupKey;

use super::record::Record;
use super::store::{Embedded, Store};
use super::stream::Stream;
use crate::broker::checks::{check_acks, check_owner};

impl Queue for Embedded {
    fn join<'a>(&'a self, group: &'a GroupKey, owner: &'a str, lease_for: Duration) -> Reply<'a, Joined> {
        self.reply(move |store, now| {
            check_owner(owner)?;
            if store.record(group).is_some_and(|record| record.is_dead(owner)) {
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
        self.ringing(move |store, now| {
            check_acks(acks)?;
            Ok(store.ack(group, acks, now))
        })
    }

    fn pass<'a>(&'a self, group: &'a GroupKey, token: &'a str, pass: &'a Pass) -> Reply<'a, bool> {
        self.reply(move |store, _| Ok(store.record(group).is_some_and(|record| record.pass(token, pass))))
    }

    fn mend<'a>(
        &'a self,
        group: &'a GroupKey,
        token: &'a str,
        damage: &'a Damage,
        halts: Option<&'a Lost>,
    ) -> Reply<'a, bool> {
        self.reply(move |store, _| Ok(store.record(group).is_some_and(|record| record.mend(token, damage, halts))))
    }

    fn queue<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<QueueState>> {
        self.reply(move |store, now| Ok(store.queue(group, now)))
    }

    fn reclaim<'a>(&'a self, group: &'a GroupKey, owner: &'a str, seen: &'a Life, most: usize) -> Reply<'a, Reclaimed> {
        self.ringing(move |store, now| Ok(store.reclaim(group, owner, seen, most, now)))
    }
}

impl Store {
    pub(super) fn record(&mut self, group: &GroupKey) -> Option<&mut Record> {
        self.groups.get_mut(group.state())?.record.as_mut()
    }

    /// The record with the stream; a stream that does not exist has no entries.
    fn record_on<T>(&mut self, group: &GroupKey, work: impl FnOnce(&mut Record, &Stream) -> T) -> Option<T> {
        let empty = Stream::default();
        let log = self.logs.get(group.partition().as_str()).unwrap_or(&empty);
        let record = self.groups.get_mut(group.state())?.record.as_mut()?;
        Some(work(record, log))
    }

    fn join_queue(&mut self, group: &GroupKey, owner: &str, lease_for: Duration, now: u64) -> Joined {
        let has_marker = self.has_marker(group);
        let Some(state) = self.groups.get_mut(group.state()) else { return Joined::Missing };
        let mode = state.mode();
        let Some(record) = &mut state.record else { return Joined::Mode(mode.to_owned()) };
        if !has_marker && !record.knows(owner) {
            return Joined::Vanished { at: record.cursor.at };
        }
        let epoch = record.join(owner, lease_for, now.max(state.lease.epoch + 1));
        state.lease.epoch = state.lease.epoch.max(epoch);
        Joined::Member { epoch }
    }

    fn fetch(&mut self, group: &GroupKey, fetch: &Fetch, now: u64) -> Fetched {
        if !self.groups.contains_key(group.state()) {
            return Fetched::Missing;
        }
        self.record_on(group, |record, log| record.fetch(fetch, log, now)).unwrap_or(Fetched::Fenced)
    }

    fn ack(&mut self, group: &GroupKey, acks: &Acks, now: u64) -> Acked {
        let Some(state) = self.groups.get_mut(group.state()) else { return Acked::Fenced };
        let Some(record) = &mut state.record else { return Acked::Fenced };
        match record.check_acks(acks, &state.events) {
            Err(refused) => return refused,
            Ok(false) => return Acked::Done,
            Ok(true) => {}
        }
        if !acks.dead.is_empty() {
            let dead = self.logs.entry(group.dead()).or_default();
            if let Err(full) = dead.put_away(&acks.dead, acks.dead_bounds, now) {
                return Acked::Full(full);
            }
        }
        record.ack(acks, now);
        let error = acks.error.clone().filter(|_| !acks.back.is_empty());
        state.error = error.map(|error| (error, now)).or(state.error.take());
        if acks.back.iter().any(|wait| !matches!(wait.until, Until::After(after) if !after.is_zero())) {
            self.ring(group, now);
        }
        Acked::Done
    }

    fn queue(&self, group: &GroupKey, now: u64) -> Option<QueueState> {
        let state = self.groups.get(group.state()).filter(|_| self.has_marker(group))?;
        Some(state.record.as_ref()?.view(state.resume, state.reset, now))
    }

    fn reclaim(&mut self, group: &GroupKey, owner: &str, seen: &Life, count: usize, now: u64) -> Reclaimed {
        let reclaimed = self.record_on(group, |record, log| record.reclaim(owner, seen, count, log));
        if let Some(Reclaimed::All { .. }) = reclaimed {
            self.ring(group, now);
        }
        reclaimed.unwrap_or(Reclaimed::Contended)
    }

    pub(super) fn leave_queue(&mut self, group: &GroupKey, holder: &Holder, now: u64) -> bool {
        let left = self.record_on(group, |record, log| record.leave(holder, log)).unwrap_or(false);
        if left {
            self.ring(group, now);
        }
        left
    }
}
