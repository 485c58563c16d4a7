//! Streams in memory: partition counts and entries; tails wait for a ring of whoever adds some.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{
    BrokerError, BrokerErrorKind, Durable, Entries, Extent, Fields, Found, Interrupt, Log, Page, Reply, SNAPSHOT_BYTES,
    Snapshot, Tail,
};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
use streams_core::{Durability, EntryId};
use tokio::sync::Notify;

use super::store::{Embedded, Shared, Store};
use super::stream::Stream;
use crate::broker::checks::{check_entries, check_partitions, check_strays};

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
            let ids = entries.into_iter().map(|fields| log.push(now, &fields)).collect();
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

    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
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

    fn read_back<'a>(&'a self, partition: &'a PartitionKey, before: EntryId, count: usize) -> Reply<'a, Entries> {
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

impl Store {
    fn strays(&self, stream: &StreamKey) -> Vec<(PartitionKey, u64)> {
        let filled = self.logs.iter().filter(|(_, log)| !log.entries.is_empty());
        let strays = filled.filter_map(|(key, log)| Some((stream.stray(key)?, log.entries.len() as u64)));
        let mut strays: Vec<_> = strays.collect();
        strays.sort_unstable();
        strays
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
                // Created before the read, so that an entry added in between rings, too.
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
