//! The events that a group with `dedupe` passes over, because it has settled one of the same id before; pure.
//!
//! The commit that settles events writes their ids to the server. This file remembers the ids that no commit had written at the last
//! look.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streams_core::{Entry, EntryId};

use crate::clock::millis;
use crate::group::Dedupe;

/// The events that come again, as far as an ownership knows. Without `dedupe` it knows of none.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    within: Option<Duration>,
    /// The ids of events taken up, in order, that the server did not know at the last look.
    taken: VecDeque<(EntryId, String)>,
    ids: HashSet<String>,
    /// The entries that arrived last whose events the server knows as settled.
    settled: HashSet<EntryId>,
}

impl Repeats {
    pub(super) fn new(dedupe: Option<Dedupe>) -> Self {
        Self { within: dedupe.map(|dedupe| dedupe.within), ..Self::default() }
    }

    /// The entries that arrived for whose ids to ask the server, whose checkpoint is `at`. What it has settled it remembers by now.
    pub(super) fn asks(&mut self, arrived: &[Arc<Entry>], at: EntryId) -> Vec<(EntryId, String)> {
        if self.within.is_none() {
            return Vec::new();
        }
        while let Some((_, id)) = self.taken.front().filter(|(entry, _)| *entry <= at) {
            self.ids.remove(id);
            self.taken.pop_front();
        }
        self.settled.clear();
        arrived.iter().filter_map(|entry| Some((entry.id, entry.given_id()?.to_owned()))).collect()
    }

    /// Learns when the events asked for were settled, in milliseconds since 1970.
    pub(super) fn learn(&mut self, asked: &[(EntryId, String)], settled: impl IntoIterator<Item = Option<u64>>) {
        let within = self.within.map_or(0, millis);
        let is_young = |entry: EntryId, settled: u64| settled.saturating_add(within) > entry.ms;
        let known = asked.iter().zip(settled).filter(|((entry, _), at)| at.is_some_and(|at| is_young(*entry, at)));
        self.settled = known.map(|((entry, _), _)| *entry).collect();
    }

    /// Takes an event up, once. Returns whether it comes again, and is to be passed over.
    pub(super) fn takes(&mut self, entry: &Entry) -> bool {
        if self.within.is_none() {
            return false;
        }
        let Some(id) = entry.given_id() else { return false };
        if self.settled.contains(&entry.id) || self.ids.contains(id) {
            return true;
        }
        self.ids.insert(id.to_owned());
        self.taken.push_back((entry.id, id.to_owned()));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ms: u64, id: &str) -> Arc<Entry> {
        Arc::new(Entry::new(EntryId::new(ms, 0), &[("id", id.as_bytes())]))
    }

    fn repeats() -> Repeats {
        Repeats::new(Some(Dedupe { within: Duration::from_millis(100), most: 10 }))
    }

    #[test]
    fn without_dedupe_nothing_is_asked_and_nothing_passed_over() {
        let mut repeats = Repeats::new(None);
        assert_eq!(repeats.asks(&[entry(1, "a")], EntryId::ZERO), []);
        assert!(!repeats.takes(&entry(1, "a")) && !repeats.takes(&entry(2, "a")));
        assert!(repeats.taken.is_empty() && repeats.ids.is_empty());
    }

    #[test]
    fn an_event_comes_again_if_it_was_taken_or_settled_lately() {
        let (mut repeats, arrived) = (repeats(), [entry(1_000, "a"), entry(1_001, "b"), entry(1_002, "c")]);
        let asked = repeats.asks(&arrived, EntryId::ZERO);
        assert_eq!(asked.len(), 3);
        repeats.learn(&asked, [Some(950), Some(901), None]);
        assert!(repeats.takes(&arrived[0]), "settled 50 ms before");
        assert!(!repeats.takes(&arrived[1]), "settled 100 ms before");
        assert!(!repeats.takes(&arrived[2]) && repeats.takes(&entry(1_003, "c")), "taken up just now");
        assert!(!repeats.takes(&Entry::new::<&str, &str>(EntryId::new(1_004, 0), &[])), "it has no id");
    }

    #[test]
    fn what_is_committed_is_the_servers_to_remember() {
        let mut repeats = repeats();
        assert!(!repeats.takes(&entry(1, "a")) && !repeats.takes(&entry(2, "b")));
        let asked = repeats.asks(&[entry(3, "a"), entry(4, "b")], EntryId::new(1, 0));
        repeats.learn(&asked, [Some(1), None]);
        assert!(repeats.takes(&entry(3, "a")) && repeats.takes(&entry(4, "b")));
        assert_eq!(repeats.taken.len(), 1);
    }
}
