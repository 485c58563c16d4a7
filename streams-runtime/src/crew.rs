//! Which consumers of a shared group are dead, and giving back what they had in hand.
//!
//! As with leases ([`lease`](crate::lease)) nobody trusts another's clock: a consumer is dead when its beat has stood still for its
//! whole lease on the observer's own clock. How long the server says that an entry was idle decides nothing: when its clock
//! jumps, entries would be taken from those who work, or stay with the dead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, Freed, Hand, Life};
use streams_core::keys::GroupKey;
use tokio::time::Instant;

use crate::adopt::QUIET;
use crate::clock::after;
use crate::lease::Still;
use crate::members::member_of;

/// How many entries one call gives back: some milliseconds of the server's time.
const PAGE: usize = 500;

/// What was last seen of each other consumer, and since when that is so.
#[derive(Debug, Default)]
pub(crate) struct Sightings(BTreeMap<String, Still<Sign>>);

/// What changes while a consumer lives.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sign {
    Beat(u64, u64),
    /// Of one that never joined: how much it has in hand.
    Pending(u64),
}

/// What the look at all consumers comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Who is dead, with what was seen of it.
    pub(crate) dead: Vec<(String, Life)>,
    /// When the next may turn out to be dead.
    pub(crate) next: Option<Instant>,
}

impl Sightings {
    /// Judges what was seen just now by `own`.
    pub(crate) fn observe(&mut self, own: &str, consumers: &[Hand], now: Instant) -> Judgement {
        let others = || consumers.iter().filter(|hand| hand.owner != own);
        self.0.retain(|owner, _| others().any(|hand| hand.owner == *owner));
        let mut judgement = Judgement { dead: Vec::new(), next: None };
        for Hand { owner, pending, life } in others() {
            let (sign, lease_for) = match life {
                Life::Beats { epoch, beat, lease_for } => (Sign::Beat(*epoch, *beat), *lease_for),
                Life::Foreign { .. } => (Sign::Pending(*pending), QUIET),
                Life::Dead => {
                    judgement.dead.push((owner.clone(), life.clone()));
                    continue;
                }
            };
            let since = self.0.entry(owner.clone()).or_default().observe(sign, lease_for, now);
            let over = after(since, lease_for);
            // By the server's clock as well, which only delays it: a foreign consumer shows no beat.
            let silent = !matches!(life, Life::Foreign { silent } if *silent < QUIET);
            if over <= now && silent {
                judgement.dead.push((owner.clone(), life.clone()));
            } else {
                let at = over.max(now + Duration::from_millis(1));
                judgement.next = Some(judgement.next.map_or(at, |next| next.min(at)));
            }
        }
        judgement
    }

    /// The server could not be asked.
    pub(crate) fn doubt(&mut self) {
        self.0.values_mut().for_each(Still::doubt);
    }
}

/// Gives back what dead consumers had in hand. What cannot be done now is found again at the next look.
pub(crate) async fn free(broker: Arc<dyn Broker>, key: GroupKey, dead: Vec<(String, Life)>) {
    for (owner, seen) in dead {
        match free_one(&*broker, &key, &owner, &seen).await {
            Ok(Some(entries)) => tell(&key, &owner, &seen, entries),
            // It lives, or another process does the same.
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(group = key.group(), partition = key.partition().as_str(), owner, %error, "what a dead consumer had in hand could not be given back; tried again");
            }
        }
    }
}

/// Page by page to the end; answers how many entries that were, where this process came to the end.
async fn free_one(broker: &dyn Broker, key: &GroupKey, owner: &str, seen: &Life) -> Result<Option<u64>, BrokerError> {
    let (mut entries, mut seen) = (0, seen);
    loop {
        match broker.free(key, owner, seen, PAGE).await? {
            Freed::Some(freed) => entries += freed,
            Freed::All(freed) => return Ok(Some(entries + freed)),
            Freed::Contended => return Ok(None),
        }
        if matches!(seen, Life::Beats { .. }) {
            seen = &Life::Dead;
        }
    }
}

fn tell(key: &GroupKey, owner: &str, seen: &Life, entries: u64) {
    let (group, partition) = (key.group(), key.partition().as_str());
    if let Life::Foreign { silent } = seen {
        tracing::warn!(
            group,
            partition,
            consumer = owner,
            entries,
            "a consumer of another program, silent for {}, is removed: what it had in hand is handled here",
            humantime::format_duration(Duration::from_secs(silent.as_secs()))
        );
    } else {
        tracing::warn!(
            group,
            partition,
            member = member_of(owner),
            entries,
            "a process gave no sign of life for its lease: what it had in hand is handed out again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn beats(owner: &str, beat: u64) -> Hand {
        Hand { owner: owner.to_owned(), pending: 3, life: Life::Beats { epoch: 7, beat, lease_for: LEASE } }
    }

    fn foreign(pending: u64, silent: Duration) -> Hand {
        Hand { owner: "py".to_owned(), pending, life: Life::Foreign { silent } }
    }

    fn dead(judgement: &Judgement) -> Vec<&str> {
        judgement.dead.iter().map(|(owner, _)| owner.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_is_dead_when_its_beat_stood_still_for_its_lease() {
        let (mut sightings, start) = (Sightings::default(), Instant::now());
        let (a, b, me) = (beats("a", 1), beats("b", 1), beats("me", 1));
        let first = sightings.observe("me", &[a.clone(), b.clone(), me.clone()], start);
        assert_eq!((dead(&first), first.next), (vec![], Some(start + LEASE)));
        let later = sightings.observe("me", &[a.clone(), beats("b", 2), me.clone()], start + LEASE / 2);
        assert_eq!((dead(&later), later.next), (vec![], Some(start + LEASE)), "`a` comes first");
        let last = sightings.observe("me", &[a, beats("b", 2), me], start + LEASE);
        assert_eq!((dead(&last), last.next), (vec!["a"], Some(start + LEASE / 2 + LEASE)), "and never oneself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_failed_ends_no_watch() {
        let (mut sightings, start) = (Sightings::default(), Instant::now());
        sightings.observe("me", &[beats("a", 1), beats("b", 1)], start);
        for round in 1..=4 {
            sightings.doubt();
            let seen = sightings.observe("me", &[beats("a", 1), beats("b", round)], start + LEASE / 4 * round as u32);
            assert_eq!(dead(&seen), if round == 4 { vec!["a"] } else { vec![] }, "{round}");
        }
        // A long one counts for a quarter.
        sightings.doubt();
        assert!(!dead(&sightings.observe("me", &[beats("b", 4)], start + LEASE * 9)).contains(&"b"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_found_dead_by_others_is_dead_at_once() {
        let hand = Hand { owner: "a".to_owned(), pending: 1, life: Life::Dead };
        assert_eq!(dead(&Sightings::default().observe("me", &[hand], Instant::now())), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_consumer_is_given_a_minute_by_both_clocks() {
        let (mut sightings, start) = (Sightings::default(), Instant::now());
        assert!(sightings.observe("me", &[foreign(2, QUIET * 9)], start).dead.is_empty(), "only seen now");
        let busy = sightings.observe("me", &[foreign(1, QUIET)], start + QUIET);
        assert!(busy.dead.is_empty(), "it has acknowledged one");
        assert!(sightings.observe("me", &[foreign(1, QUIET / 2)], start + QUIET * 2).dead.is_empty(), "it asks");
        assert_eq!(dead(&sightings.observe("me", &[foreign(1, QUIET)], start + QUIET * 2)), ["py"]);
    }
}
