//! The looks of an observer at the streams and groups in memory.

use std::collections::BTreeMap;

use streams_core::broker::{
    Answer, Extent, GroupLook, Inspect, MAX_STREAMS, Marker, Member, PartitionLook, QueueLook, Reply,
};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};

use super::store::{Embedded, Group, Store};
use crate::broker::checks::{declared_in, too_many_streams};

impl Inspect for Embedded {
    fn streams<'a>(&'a self, namespace: Option<&'a str>) -> Reply<'a, Vec<StreamKey>> {
        self.reply(move |store, _| {
            let declared = store.partitions.iter().map(|(key, partitions)| declared_in(namespace, key, *partitions));
            let mut streams: Vec<_> = declared.flatten().collect();
            streams.sort_by(|a, b| a.base().cmp(b.base()));
            if streams.len() > MAX_STREAMS { Err(too_many_streams(namespace)) } else { Ok(streams) }
        })
    }

    fn look_at_partitions<'a>(
        &'a self,
        partitions: &'a [PartitionKey],
    ) -> Reply<'a, Vec<Answer<Option<PartitionLook>>>> {
        self.reply(move |store, _| Ok(partitions.iter().map(|partition| Ok(store.look_at(partition))).collect()))
    }

    fn look_at_groups<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupLook>>>> {
        self.reply(move |store, _| Ok(groups.iter().map(|group| Ok(store.look_at_group(group))).collect()))
    }

    fn look_at_members<'a>(&'a self, sets: &'a [String]) -> Reply<'a, Vec<Answer<Vec<Member>>>> {
        self.reply(move |store, _| Ok(sets.iter().map(|set| Ok(store.members_of(set))).collect()))
    }

    fn info(&self) -> Reply<'_, BTreeMap<String, String>> {
        self.reply(|_, _| Ok(BTreeMap::new()))
    }
}

impl Store {
    fn look_at(&self, partition: &PartitionKey) -> Option<PartitionLook> {
        let log = self.logs.get(partition.as_str())?;
        let first = log.entries.front().map(|entry| entry.id);
        let extent = Extent { first, last: log.last, length: log.entries.len() as u64, added: log.added };
        let bytes = log.entries.iter().map(|entry| entry.weight() as u64).sum();
        let marker = |group: &String| {
            let group = group.clone();
            let delivered = self.groups.get(partition.group(&group).state()).map(Group::position).unwrap_or_default();
            Marker { group, delivered, pending: 0, consumers: 0, lag: None }
        };
        let mut markers: Vec<_> = log.markers.keys().map(marker).collect();
        markers.sort_by(|a, b| a.group.cmp(&b.group));
        Some(PartitionLook { extent, bytes: Some(bytes), markers })
    }

    fn look_at_group(&self, group: &GroupKey) -> Option<GroupLook> {
        let state = self.groups.get(group.state())?;
        let length = |key: String| self.logs.get(&key).map_or(0, |log| log.entries.len() as u64);
        let queue = state.record.as_ref().map(|record| {
            let view = record.view(state.resume, state.reset, 0);
            let consumers = view.consumers.into_iter().map(|consumer| (consumer.owner, consumer.in_flight)).collect();
            QueueLook { waiting: view.waiting, consumers }
        });
        Some(GroupLook {
            lease: state.lease.clone(),
            lease_for: state.lease_for,
            at: state.position(),
            seen: state.record.as_ref().map_or(state.seen, |record| record.cursor.seen),
            needs: state.needs.clone(),
            attempts: state.attempts.iter().map(|(id, count)| (*id, *count)).collect(),
            error: state.error.clone(),
            queue,
            dead: length(group.dead()),
            replays: length(group.replay()),
        })
    }
}
