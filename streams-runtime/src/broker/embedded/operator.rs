//! For tests: what an operator, a failover or another program does to a server, done to the broker in the process.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use streams_core::EntryId;
use streams_core::keys::{GroupKey, PartitionKey};

use super::store::{Embedded, Group, Store};
use super::stream::Stream;
use crate::clock::millis;

/// The streams and groups of an [`Embedded`] broker at one moment.
#[derive(Clone)]
pub struct Dump {
    logs: HashMap<String, Stream>,
    groups: HashMap<String, Group>,
}

impl Embedded {
    /// Sets the clock back, as an operator may set a server's.
    pub fn turn_back(&self, by: Duration) {
        let back = |ms: u64| Some(ms.saturating_sub(millis(by)));
        let _ = self.shared.epoch_ms.fetch_update(Relaxed, Relaxed, back);
    }

    /// Deletes a stream with its groups' markers, as an operator's `DEL` would.
    pub fn delete(&self, partition: &PartitionKey) {
        self.shared.lock().logs.remove(partition.as_str());
    }

    /// Puts a group's marker on a stream without a state, as another program's `XGROUP CREATE .. MKSTREAM` would.
    pub fn mark(&self, group: &GroupKey) {
        let mut store = self.shared.lock();
        let log = store.logs.entry(group.partition().as_str().to_owned()).or_default();
        log.markers.insert(group.group().to_owned(), log.last);
    }

    /// Trims entries below `floor`, as an operator's `XTRIM` would.
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

    /// Removes a group's marker, as an operator's `XGROUP DESTROY` would.
    pub fn unmark(&self, group: &GroupKey) {
        if let Some(log) = self.shared.lock().logs.get_mut(group.partition().as_str()) {
            log.markers.remove(group.group());
        }
    }

    /// Adds an entry under this id, as an operator's `XADD` with an id would. Answers false if it is not above every
    /// earlier one.
    pub fn add(&self, partition: &PartitionKey, id: EntryId, fields: &[(Vec<u8>, Vec<u8>)]) -> bool {
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

    /// Restores streams and the states of groups, as a failover to a replica that lagged would. With `alone` it
    /// restores only that stream with its markers, as an operator's `RESTORE` of its key would.
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

    /// Deletes a group's state, a work queue's waiting set or a set of members, as an operator's `DEL` of that key
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

    /// Deletes a consumer of a work queue but not its chunks, as an operator's `HDEL` of its field would.
    pub fn forget_consumer(&self, group: &GroupKey, owner: &str) {
        if let Some(record) = self.shared.lock().record(group) {
            record.forget_consumer(owner);
        }
    }

    /// Restores only the waiting set of a work queue, as an operator's `RESTORE` of its key would.
    pub fn restore_waiting(&self, dump: &Dump, group: &GroupKey) {
        let saved = dump.groups.get(group.state()).and_then(|state| state.record.as_ref());
        if let Some((record, saved)) = self.shared.lock().record(group).zip(saved) {
            record.restore_waiting(saved);
        }
    }

    /// Deletes everything, as an operator's `FLUSHALL` would.
    pub fn flush(&self) {
        *self.shared.lock() = Store::default();
    }
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").finish_non_exhaustive()
    }
}
