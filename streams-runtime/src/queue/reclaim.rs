//! Finds the dead consumers of a work queue, and reclaims their entries.
//!
//! As with leases ([`Lease`](crate::membership::Lease)) no process trusts another's clock. A consumer is dead when its
//! beat has not moved for its whole lease on the observer's clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, Life, Lost, QueueState, Reclaimed, Unacked};
use streams_core::keys::GroupKey;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::after;
use crate::group::GroupTask;
use crate::membership::{Still, member_of};
use crate::sync::lock;

/// The most entries that one call reclaims: some milliseconds of the server's time.
const PAGE: usize = 500;
/// How long events must wait for another build before a warning, and before the next one.
const UNNEEDED: Duration = Duration::from_secs(60);

/// The last beats seen of the other consumers, epoch and beat, and since when each is unchanged.
#[derive(Debug, Default)]
pub(crate) struct LivenessWatch(BTreeMap<String, Still<(u64, u64)>>);

/// The findings about all consumers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// The dead consumers, with the sign of life seen of each.
    dead: Vec<(String, Life)>,
    /// When the next consumer may be found dead.
    pub(super) next: Option<Instant>,
}

impl LivenessWatch {
    /// Judges the consumers that `own` has just seen.
    fn observe(&mut self, own: &str, consumers: &[Unacked], now: Instant) -> Judgement {
        let others = || consumers.iter().filter(|consumer| consumer.owner != own);
        self.0.retain(|owner, _| others().any(|consumer| consumer.owner == *owner));
        let mut judgement = Judgement { dead: Vec::new(), next: None };
        for Unacked { owner, life, .. } in others() {
            let Life::Beats { epoch, beat, lease_for } = life else {
                judgement.dead.push((owner.clone(), life.clone()));
                continue;
            };
            let since = self.0.entry(owner.clone()).or_default().observe((*epoch, *beat), *lease_for, now);
            let over = after(since, *lease_for);
            if over <= now {
                judgement.dead.push((owner.clone(), life.clone()));
            } else {
                judgement.next = Some(judgement.next.map_or(over, |next| next.min(over)));
            }
        }
        judgement
    }

    /// Notes that the server could not be asked.
    pub(super) fn doubt(&mut self) {
        self.0.values_mut().for_each(Still::doubt);
    }
}

/// This process's care for entries that no consumer handles.
#[derive(Default)]
pub(super) struct Reclaim {
    /// The reclaiming that is under way.
    reclaiming: Option<AbortOnDropHandle<()>>,
    /// Entries in flight that are gone, and that are not reported yet.
    lost: Arc<Mutex<Vec<Lost>>>,
    /// Since when events wait for another build, and when the last warning was.
    needed: Option<(Instant, Option<Instant>)>,
}

impl Reclaim {
    /// Takes a state of the queue, and begins to reclaim the entries of dead consumers. Answers when to read the state
    /// again at the latest.
    pub(super) fn observe(
        &mut self,
        watch: &mut LivenessWatch,
        own: &str,
        state: &QueueState,
        group: &GroupTask,
        now: Instant,
    ) -> Option<Instant> {
        let Judgement { dead, next } = watch.observe(own, &state.consumers, now);
        if self.reclaiming.as_ref().is_none_or(AbortOnDropHandle::is_finished) && !dead.is_empty() {
            let reclaiming =
                reclaim(Arc::clone(&group.services.broker), group.key.clone(), dead, Arc::clone(&self.lost));
            self.reclaiming = Some(AbortOnDropHandle::new(tokio::spawn(reclaiming)));
        }
        next
    }

    /// The lost entries found since the last call.
    pub(super) fn take_lost(&self) -> Vec<Lost> {
        std::mem::take(&mut *lock(&self.lost))
    }

    /// Warns of events that wait for a build that handles them, if this one does not.
    pub(super) fn mind_needs(&mut self, state: &QueueState, group: &GroupTask, now: Instant) {
        let missing = state.needed.iter().filter(|(name, version)| !group.handlers.build.handles(name, **version));
        let missing: Vec<_> = missing.map(|(name, version)| format!("{name}@{version}")).collect();
        if missing.is_empty() {
            self.needed = None;
            return;
        }
        let (since, warned) = self.needed.get_or_insert((now, None));
        if now.duration_since(*since) >= UNNEEDED && warned.is_none_or(|warned| now.duration_since(warned) >= UNNEEDED)
        {
            *warned = Some(now);
            tracing::warn!(
                group = group.key.group(),
                partition = group.key.partition().as_str(),
                events = missing.join(", "),
                waiting = state.waiting,
                "events wait for a build that handles them, and this one does not: start one that does, or `ignore` them"
            );
        }
    }
}

/// Reclaims the entries of dead consumers. After a failure the next read of the state finds the rest.
async fn reclaim(broker: Arc<dyn Broker>, key: GroupKey, dead: Vec<(String, Life)>, lost: Arc<Mutex<Vec<Lost>>>) {
    for (owner, seen) in dead {
        let (group, partition) = (key.group(), key.partition().as_str());
        match reclaim_one(&*broker, &key, &owner, &seen, &lost).await {
            Ok(Some(entries)) => tracing::warn!(
                group,
                partition,
                member = member_of(&owner),
                entries,
                "a process gave no sign of life for its lease; reclaimed its entries"
            ),
            // It lives, or another process reclaims the same.
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(group, partition, owner, %error, "cannot reclaim a dead consumer's entries; retrying");
            }
        }
    }
}

/// Reclaims page by page; answers how many entries, if this process reclaimed the last.
async fn reclaim_one(
    broker: &dyn Broker,
    key: &GroupKey,
    owner: &str,
    seen: &Life,
    all_lost: &Mutex<Vec<Lost>>,
) -> Result<Option<u64>, BrokerError> {
    let (mut all, mut seen) = (0, seen.clone());
    loop {
        let answer = broker.reclaim(key, owner, &seen, PAGE).await;
        // A fetch finds a damaged set.
        if let Ok(Reclaimed::Contended | Reclaimed::Damaged(_)) = answer {
            return Ok(None);
        }
        // The call shows that this loss was reported, perhaps even without an answer.
        if let Life::Dead { lost: Some(lost) } = seen {
            lock(all_lost).push(lost);
        }
        match answer? {
            Reclaimed::Some { entries, lost } => (all, seen) = (all + entries, Life::Dead { lost }),
            Reclaimed::All { entries } => return Ok(Some(all + entries)),
            Reclaimed::Contended | Reclaimed::Damaged(_) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn beats(owner: &str, beat: u64) -> Unacked {
        Unacked { owner: owner.to_owned(), in_flight: 3, life: Life::Beats { epoch: 7, beat, lease_for: LEASE } }
    }

    fn dead(judgement: &Judgement) -> Vec<&str> {
        judgement.dead.iter().map(|(owner, _)| owner.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_is_dead_when_its_beat_stood_still_for_its_lease() {
        let (mut watch, start) = (LivenessWatch::default(), Instant::now());
        let (a, b, me) = (beats("a", 1), beats("b", 1), beats("me", 1));
        let first = watch.observe("me", &[a.clone(), b.clone(), me.clone()], start);
        assert_eq!((dead(&first), first.next), (vec![], Some(start + LEASE)));
        let later = watch.observe("me", &[a.clone(), beats("b", 2), me.clone()], start + LEASE / 2);
        assert_eq!((dead(&later), later.next), (vec![], Some(start + LEASE)), "`a` comes first");
        let last = watch.observe("me", &[a, beats("b", 2), me], start + LEASE);
        assert_eq!((dead(&last), last.next), (vec!["a"], Some(start + LEASE / 2 + LEASE)), "and never oneself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_failed_ends_no_watch() {
        let (mut watch, start) = (LivenessWatch::default(), Instant::now());
        watch.observe("me", &[beats("a", 1), beats("b", 1)], start);
        for round in 1..=4 {
            watch.doubt();
            let seen = watch.observe("me", &[beats("a", 1), beats("b", round)], start + LEASE / 4 * round as u32);
            assert_eq!(dead(&seen), if round == 4 { vec!["a"] } else { vec![] }, "{round}");
        }
        // A long gap counts for a quarter of the lease.
        watch.doubt();
        assert!(!dead(&watch.observe("me", &[beats("b", 4)], start + LEASE * 9)).contains(&"b"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_found_dead_by_others_is_dead_at_once() {
        let other = Unacked { owner: "a".to_owned(), in_flight: 1, life: Life::Dead { lost: None } };
        assert_eq!(dead(&LivenessWatch::default().observe("me", &[other], Instant::now())), ["a"]);
    }
}
