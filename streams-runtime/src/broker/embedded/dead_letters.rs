//! Dead letters in memory, and the replays of them.

use std::collections::HashSet;
use std::sync::Arc;

use streams_core::EntryId;
use streams_core::broker::{Entries, Fields, Holder, Letters, Moved, Replay, ReplayEnd, Reply, Taken};
use streams_core::keys::GroupKey;

use super::store::{Embedded, Replaying, Store};
use crate::broker::checks::{check_letter, check_replay_end};

impl Letters for Embedded {
    fn dead_letters<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
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
        self.reply(move |store, now| Ok(store.replay(group, ids, None, most, now)))
    }

    fn replay_edited<'a>(
        &'a self,
        group: &'a GroupKey,
        id: EntryId,
        fields: &'a Fields,
        most: u64,
    ) -> Reply<'a, Moved> {
        self.reply(move |store, now| {
            check_letter(fields)?;
            Ok(store.replay(group, &[id], Some(fields), most, now))
        })
    }

    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
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

impl Store {
    fn replay(&mut self, group: &GroupKey, ids: &[EntryId], edited: Option<&Fields>, most: u64, now: u64) -> Moved {
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
            let kept = || letter.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            let fields: Vec<_> = own.into_iter().chain(edited.cloned().unwrap_or_else(kept)).collect();
            self.logs.entry(group.replay()).or_default().push(now, &fields);
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
        // Another consumer attempts it.
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
        // The process that charged it has died.
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
            self.logs.entry(group.dead()).or_default().push(now, fields);
        }
        true
    }
}
