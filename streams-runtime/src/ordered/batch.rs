//! The batch that gathers for a consumer: when it begins, which entries may join it, and when it ends; pure.
//!
//! `deliver` gathers events and settles batches.

use std::ops::Range;
use std::sync::Arc;

use streams_core::Entry;
use tokio::time::Instant;

use crate::clock::after;
use crate::group::{Limits, Taker};

/// The most bytes that the entries of a batch may have, unless it has one entry. The budget of the windows does not count a
/// batch, and decoding holds it in memory a second time.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// An entry that is read and not yet settled.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Arc<Entry>,
    /// Whether a consumer takes it.
    pub(super) is_event: bool,
    /// Whether a consumer took one of its id before.
    pub(super) is_repeat: bool,
}

/// A batch that gathers: events of one consumer, and the entries between them that no consumer takes, so that all are settled in
/// order.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// `None` while nothing gathers.
    begun: Option<Begun>,
    held: Vec<Held>,
    events: u32,
    bytes: usize,
}

#[derive(Debug)]
struct Begun {
    /// Which consumer of the group.
    consumer: usize,
    limits: Limits,
    until: Instant,
}

impl Gathering {
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_none()
    }

    /// How many entries are in it, those between the events included.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether an entry may join. It may not where it would be handled before what has gathered, or where the batch would
    /// become too heavy.
    pub(super) fn admits(&self, taker: Taker, entry: &Entry) -> bool {
        let joins = |begun: &Begun| match taker {
            Taker::Consumer(consumer) => consumer == begun.consumer,
            Taker::Nobody | Taker::Repeated => true,
            Taker::Unnamed => false,
        };
        self.begun.as_ref().is_some_and(joins) && self.bytes.saturating_add(entry.weight()) <= BATCH_BYTES
    }

    /// Adds an event, which may be the first.
    pub(super) fn add(&mut self, consumer: usize, limits: Limits, entry: Arc<Entry>) {
        self.begun.get_or_insert_with(|| Begun { consumer, limits, until: after(Instant::now(), limits.wait) });
        self.events += 1;
        self.hold(Held { entry, is_event: true, is_repeat: false });
    }

    /// Adds an entry that no consumer takes, behind the events before it.
    pub(super) fn add_between(&mut self, entry: Arc<Entry>, is_repeat: bool) {
        self.hold(Held { entry, is_event: false, is_repeat });
    }

    fn hold(&mut self, held: Held) {
        self.bytes += held.entry.weight();
        self.held.push(held);
    }

    pub(super) fn is_full(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| self.events >= begun.limits.events) || self.bytes >= BATCH_BYTES
    }

    /// Waits until the batch must not wait any longer; for ever while there is none.
    ///
    /// # Cancel safety
    /// It only waits.
    pub(super) async fn over(&self) {
        match &self.begun {
            Some(begun) => tokio::time::sleep_until(begun.until).await,
            None => std::future::pending().await,
        }
    }

    /// Ends the batch. Returns its consumer and its entries.
    pub(super) fn take(&mut self) -> Option<(usize, Vec<Held>)> {
        let Self { begun, held, .. } = std::mem::take(self);
        Some((begun?.consumer, held))
    }
}

/// The parts of a batch that cannot be settled as one.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Where the next part begins.
    begin: usize,
    /// The entries that run event by event.
    alone: Range<usize>,
    /// How often they were tried together.
    tried: u32,
}

impl Parts {
    /// The next entries to settle at once, and how often their events were tried in a batch before. They are one entry alone, or
    /// several events with the entries between them.
    pub(super) fn next<'a>(&self, held: &'a [Held]) -> Option<(&'a [Held], u32)> {
        let first = held.get(self.begin)?;
        let one = self.begin + 1;
        if self.alone.contains(&self.begin) {
            return Some((&held[self.begin..one], self.tried));
        }
        let end = if self.begin < self.alone.start { self.alone.start } else { held.len() };
        let several = first.is_event && held[one..end].iter().any(|held| held.is_event);
        Some((&held[self.begin..if several { end } else { one }], 0))
    }

    /// The part is settled.
    pub(super) fn settled(&mut self, entries: usize) {
        self.begin += entries;
    }

    /// The part failed after so many attempts: its events run alone.
    pub(super) fn apart(&mut self, entries: usize, tried: u32) {
        (self.alone, self.tried) = (self.begin..self.begin + entries, tried);
    }

    /// The part failed because this event cannot be decoded: it runs alone, the others before and behind it.
    pub(super) fn undecodable(&mut self, index: usize) {
        (self.alone, self.tried) = (self.begin + index..self.begin + index + 1, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use streams_core::EntryId;

    const TWO: Limits = Limits { events: 2, wait: Duration::from_millis(100) };

    fn entry(seq: u64, bytes: usize) -> Arc<Entry> {
        Arc::new(Entry::new(EntryId::new(1, seq), &[(Vec::new(), vec![0; bytes])]))
    }

    fn ids(held: &[Held]) -> Vec<u64> {
        held.iter().map(|held| held.entry.id.seq).collect()
    }

    #[test]
    fn a_batch_is_full_with_its_number_of_events_whatever_lies_between() {
        let mut gathering = Gathering::default();
        assert!(gathering.is_empty() && !gathering.admits(Taker::Nobody, &entry(1, 1)), "nothing lies between nothing");
        gathering.add(0, TWO, entry(1, 1));
        gathering.add_between(entry(2, 1), false);
        gathering.add_between(entry(3, 1), true);
        assert!(!gathering.is_full());
        gathering.add(0, TWO, entry(4, 1));
        assert!(gathering.is_full());
        let (consumer, held) = gathering.take().unwrap();
        assert_eq!((consumer, ids(&held)), (0, vec![1, 2, 3, 4]));
        assert!(gathering.is_empty() && !gathering.is_full());
    }

    #[test]
    fn an_event_of_another_consumer_does_not_join() {
        let mut gathering = Gathering::default();
        gathering.add(0, TWO, entry(1, 1));
        assert!(gathering.admits(Taker::Consumer(0), &entry(2, 1)) && gathering.admits(Taker::Nobody, &entry(2, 1)));
        assert!(!gathering.admits(Taker::Consumer(1), &entry(2, 1)));
    }

    #[test]
    fn a_batch_weighs_no_more_than_its_bound_unless_it_is_one_event() {
        let many = Limits { events: 10_000, ..TWO };
        let mut gathering = Gathering::default();
        gathering.add(0, many, entry(1, BATCH_BYTES / 2));
        assert!(!gathering.admits(Taker::Consumer(0), &entry(2, BATCH_BYTES / 2)));
        assert!(!gathering.admits(Taker::Nobody, &entry(2, BATCH_BYTES / 2)), "what lies between is held, too");
        assert!(gathering.admits(Taker::Consumer(0), &entry(2, BATCH_BYTES / 4)) && !gathering.is_full());
        gathering.take();
        gathering.add(0, many, entry(1, BATCH_BYTES * 2));
        assert!(gathering.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_event_decides_until_when_a_batch_waits() {
        let mut gathering = Gathering::default();
        let began = Instant::now();
        gathering.add(0, TWO, entry(1, 1));
        tokio::time::sleep(Duration::from_millis(60)).await;
        gathering.add_between(entry(2, 1), false);
        gathering.over().await;
        assert_eq!(began.elapsed(), TWO.wait);
        gathering.take();
        assert!(tokio::time::timeout(Duration::from_secs(60), gathering.over()).await.is_err());
    }

    /// The parts that are settled at once, with `x` for each entry that nobody takes; `apart` says which cannot be.
    fn parts(entries: &str, mut apart: impl FnMut(&mut Parts, &[Held]) -> bool) -> Vec<(Vec<u64>, u32)> {
        let held: Vec<_> = (0..)
            .zip(entries.chars())
            .map(|(seq, c)| Held { entry: entry(seq, 1), is_event: c != 'x', is_repeat: false })
            .collect();
        let (mut parts, mut seen) = (Parts::default(), Vec::new());
        while let Some((part, tried)) = parts.next(&held) {
            if !apart(&mut parts, part) {
                seen.push((ids(part), tried));
                parts.settled(part.len());
            }
        }
        seen
    }

    #[test]
    fn what_has_gathered_is_one_part() {
        assert_eq!(parts("eexe", |_, _| false), [(vec![0, 1, 2, 3], 0)]);
        assert_eq!(parts("exx", |_, _| false), [(vec![0], 0), (vec![1], 0), (vec![2], 0)]);
        assert_eq!(parts("", |_, _| false), []);
    }

    #[test]
    fn a_batch_that_comes_to_nothing_runs_event_by_event() {
        let found = parts("exe", |parts, part| {
            let several = part.len() > 1;
            if several {
                parts.apart(part.len(), 7);
            }
            several
        });
        assert_eq!(found, [(vec![0], 7), (vec![1], 7), (vec![2], 7)]);
    }

    #[test]
    fn what_cannot_be_decoded_runs_alone_in_its_place() {
        let without = |bad: &'static [u64]| {
            parts("eexeeex", move |parts, part| {
                let found = part.iter().position(|held| bad.contains(&held.entry.id.seq));
                match found {
                    Some(index) if part.len() > 1 => parts.undecodable(index),
                    _ => return false,
                }
                true
            })
            .into_iter()
            .map(|(ids, _)| ids)
            .collect::<Vec<_>>()
        };
        assert_eq!(without(&[3]), [vec![0, 1, 2], vec![3], vec![4, 5, 6]]);
        assert_eq!(without(&[0]), [vec![0], vec![1, 2, 3, 4, 5, 6]]);
        assert_eq!(without(&[1, 4]), [vec![0], vec![1], vec![2], vec![3], vec![4], vec![5], vec![6]]);
        assert_eq!(without(&[4, 5]), [vec![0, 1, 2, 3], vec![4], vec![5], vec![6]]);
    }
}
