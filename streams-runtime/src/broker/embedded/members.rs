//! How processes find each other in memory: sets of members, and the notes beside a stream.

use std::time::Duration;

use streams_core::broker::{Answer, Attendance, MAX_MEMBERS, Member, Members, Notes, Reply};
use streams_core::keys::{SnapshotKey, StreamKey};

use super::store::{Embedded, Store};
use crate::clock::millis;

impl Members for Embedded {
    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<Answer<Vec<Member>>>> {
        self.reply(move |store, now| Ok(sets.iter().map(|set| Ok(store.attend(set, now))).collect()))
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

    fn pauses<'a>(&'a self, groups: &'a [(StreamKey, String)]) -> Reply<'a, Vec<Answer<Option<String>>>> {
        let pause = |store: &Store, (stream, group): &(StreamKey, String)| {
            store.pauses.get(&(stream.base().to_owned(), group.clone())).cloned()
        };
        self.reply(move |store, _| Ok(groups.iter().map(|group| Ok(pause(store, group))).collect()))
    }

    fn pause<'a>(&'a self, stream: &'a StreamKey, group: &'a str, pause: Option<&'a str>) -> Reply<'a, bool> {
        let key = (stream.base().to_owned(), group.to_owned());
        self.reply(move |store, _| {
            let before = match pause {
                Some(pause) => store.pauses.insert(key, pause.to_owned()),
                None => store.pauses.remove(&key),
            };
            Ok(before.is_some())
        })
    }

    fn claim_save<'a>(&'a self, key: &'a SnapshotKey, every: Duration) -> Reply<'a, bool> {
        self.reply(move |store, now| {
            let (due, _) = store.snapshots.entry(key.as_str().to_owned()).or_default();
            let is_due = *due <= now;
            if is_due {
                *due = now.saturating_add(millis(every));
            }
            Ok(is_due)
        })
    }

    fn save<'a>(&'a self, key: &'a SnapshotKey, snapshot: Vec<u8>) -> Reply<'a, ()> {
        self.reply(move |store, _| {
            store.snapshots.entry(key.as_str().to_owned()).or_default().1 = Some(snapshot);
            Ok(())
        })
    }

    fn saved<'a>(&'a self, key: &'a SnapshotKey) -> Reply<'a, Option<Vec<u8>>> {
        self.reply(move |store, _| Ok(store.snapshots.get(key.as_str()).and_then(|(_, saved)| saved.clone())))
    }
}

impl Store {
    fn attend(&mut self, set: &Attendance, now: u64) -> Vec<Member> {
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
            let beat = members.entry(present.clone()).or_default();
            *beat = now.max(*beat + 1);
        }
        self.members_of(&set.members)
    }

    pub(super) fn members_of(&self, set: &str) -> Vec<Member> {
        let members = self.members.get(set).into_iter().flatten();
        members.map(|(says, beat)| Member { says: says.clone(), beat: *beat }).collect()
    }
}
