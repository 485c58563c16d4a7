//! The lanes of a partition: which events may run at once, and up to where everything is settled; pure.
//!
//! Events of one key run one after the other. `advance` calls the handlers and settles.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use crate::group::Bounds;

/// Names an entry that was taken up: the order of tickets is that of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// The entries of a partition that were taken up, from the oldest unsettled one on.
///
/// There is a queue for each key, of which only the first event may run, and there are `running` slots for the first events. An
/// event that waits for its next attempt has no slot, and blocks only its own key.
#[derive(Debug)]
pub(super) struct Lanes<E, S> {
    bounds: Bounds,
    /// In the order of the stream. The first has the ticket `passed`.
    places: VecDeque<Place<E, S>>,
    passed: u64,
    /// The unsettled events of each key, in order.
    queues: HashMap<Arc<str>, VecDeque<Ticket>>,
    /// The events that are first of their key and neither run nor wait.
    ready: BTreeSet<Ticket>,
    /// The events that wait for their next attempt.
    waiting: BTreeSet<(Instant, Ticket)>,
    running: usize,
    bytes: usize,
}

#[derive(Debug)]
enum Place<E, S> {
    Open { event: E, key: Arc<str>, weight: usize },
    Settled { end: S, weight: usize },
}

impl<E, S> Lanes<E, S> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            places: VecDeque::new(),
            passed: 0,
            queues: HashMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            running: 0,
            bytes: 0,
        }
    }

    /// How many entries are taken up and not passed.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many bytes are unsettled.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether another event may run.
    pub(super) fn has_slot(&self) -> bool {
        self.running < self.bounds.running
    }

    /// Whether a slot is free for which another entry is needed, besides so many that are on their way here. No entry is taken up
    /// before that, because it would only wait here.
    pub(super) fn is_idle(&self, coming: usize) -> bool {
        self.running + coming < self.bounds.running && self.ready.is_empty()
    }

    /// Whether no other entry may be taken up before the oldest is settled, where so many with so many bytes are on their way
    /// here.
    pub(super) fn is_full(&self, coming: usize, weight: usize) -> bool {
        self.places.len() + coming >= self.bounds.entries || self.bytes + weight >= self.bounds.bytes
    }

    /// Takes up the next event of the stream.
    pub(super) fn take_up(&mut self, key: Arc<str>, weight: usize, event: E) -> Ticket {
        let ticket = Ticket(self.passed + self.places.len() as u64);
        let queue = self.queues.entry(Arc::clone(&key)).or_default();
        if queue.is_empty() {
            self.ready.insert(ticket);
        }
        queue.push_back(ticket);
        self.bytes += weight;
        self.places.push_back(Place::Open { event, key, weight });
        ticket
    }

    /// Takes up the next entry of the stream, which is settled already.
    pub(super) fn take_up_settled(&mut self, weight: usize, end: S) {
        self.bytes += weight;
        self.places.push_back(Place::Settled { end, weight });
    }

    /// Starts the oldest event that may start; it runs until it is settled or is to be tried again.
    pub(super) fn start(&mut self, now: Instant) -> Option<(Ticket, &E)> {
        while let Some(due) = self.waiting.first().filter(|(at, _)| *at <= now).copied() {
            self.waiting.remove(&due);
            self.ready.insert(due.1);
        }
        if !self.has_slot() {
            return None;
        }
        let ticket = self.ready.pop_first()?;
        self.running += 1;
        self.event(ticket).map(|event| (ticket, event))
    }

    /// Starts this event, if it may start, whatever else may.
    pub(super) fn start_this(&mut self, ticket: Ticket) -> bool {
        let starts = self.has_slot() && self.ready.remove(&ticket);
        self.running += usize::from(starts);
        starts
    }

    /// The event that was started with this ticket.
    pub(super) fn event(&self, ticket: Ticket) -> Option<&E> {
        match self.places.get(self.index(ticket))? {
            Place::Open { event, .. } => Some(event),
            Place::Settled { .. } => None,
        }
    }

    /// The event that ran is tried again at this moment, not before.
    pub(super) fn retry(&mut self, ticket: Ticket, at: Instant) {
        self.running -= 1;
        self.waiting.insert((at, ticket));
    }

    /// The event that ran is settled, and the next event of its key may start. Until it is passed, it keeps so many bytes.
    pub(super) fn settle(&mut self, ticket: Ticket, weight: usize, end: S) {
        self.running -= 1;
        let index = self.index(ticket);
        let settled = Place::Settled { end, weight };
        let Place::Open { key, weight: held, .. } = std::mem::replace(&mut self.places[index], settled) else { return };
        self.bytes = self.bytes - held + weight;
        let Some(queue) = self.queues.get_mut(&key) else { return };
        queue.pop_front();
        match queue.front() {
            Some(next) => {
                self.ready.insert(*next);
            }
            None => {
                self.queues.remove(&key);
            }
        }
    }

    /// Passes the oldest entry, if it is settled.
    pub(super) fn pass(&mut self) -> Option<S> {
        let Place::Settled { .. } = self.places.front()? else { return None };
        let Place::Settled { end, weight } = self.places.pop_front()? else { return None };
        self.passed += 1;
        self.bytes -= weight;
        Some(end)
    }

    /// The oldest entry, if it is not settled: it blocks all others at the bounds.
    pub(super) fn oldest(&self) -> Option<&E> {
        match self.places.front()? {
            Place::Open { event, .. } => Some(event),
            Place::Settled { .. } => None,
        }
    }

    /// When the next attempt may begin, if one waits and a slot is free.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.waiting.first().filter(|_| self.has_slot()).map(|(at, _)| *at)
    }

    fn index(&self, ticket: Ticket) -> usize {
        (ticket.0 - self.passed) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const WIDE: Bounds = Bounds { running: 2, entries: 100, bytes: 1_000 };

    fn lanes(bounds: Bounds, keys: &[&str]) -> Lanes<usize, usize> {
        let mut lanes = Lanes::new(bounds);
        for (n, key) in keys.iter().enumerate() {
            lanes.take_up((*key).into(), 1, n);
        }
        lanes
    }

    /// Starts all that may start.
    fn start(lanes: &mut Lanes<usize, usize>, now: Instant) -> Vec<(Ticket, usize)> {
        std::iter::from_fn(|| lanes.start(now).map(|(ticket, event)| (ticket, *event))).collect()
    }

    fn events(started: &[(Ticket, usize)]) -> Vec<usize> {
        started.iter().map(|(_, event)| *event).collect()
    }

    #[test]
    fn only_the_first_of_each_key_runs_and_no_more_than_there_are_slots() {
        let now = Instant::now();
        let mut lanes = lanes(WIDE, &["a", "a", "b", "c"]);
        let started = start(&mut lanes, now);
        assert_eq!(events(&started), [0, 2]);
        lanes.settle(started[1].0, 0, 2);
        assert_eq!(events(&start(&mut lanes, now)), [3], "the second of `a` waits for the first");
        assert_eq!(lanes.pass(), None, "the oldest is not settled");
        lanes.settle(started[0].0, 0, 0);
        assert_eq!((lanes.pass(), lanes.pass()), (Some(0), None));
        assert_eq!(events(&start(&mut lanes, now)), [1]);
    }

    #[test]
    fn what_is_on_its_way_has_its_place_and_starts_before_others_where_it_may() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Bounds { running: 3, entries: 3, bytes: 10 });
        assert!(lanes.is_idle(2) && !lanes.is_idle(3));
        assert!(!lanes.is_full(2, 9) && lanes.is_full(3, 0) && lanes.is_full(0, 10));
        let (a, again, b) =
            (lanes.take_up("a".into(), 1, 0), lanes.take_up("a".into(), 1, 1), lanes.take_up("b".into(), 1, 2));
        assert!(!lanes.start_this(again), "behind the first of its key");
        assert!(lanes.start_this(b) && !lanes.start_this(b));
        assert_eq!(events(&start(&mut lanes, now)), [0]);
        lanes.settle(b, 0, 2);
        lanes.settle(a, 0, 0);
        assert!(lanes.start_this(again));

        let mut narrow = lanes_of_one(&["a", "b"]);
        let _ = narrow.start(now);
        assert!(!narrow.start_this(Ticket(1)), "no slot is free");
    }

    fn lanes_of_one(keys: &[&str]) -> Lanes<usize, usize> {
        lanes(Bounds { running: 1, ..WIDE }, keys)
    }

    #[test]
    fn what_waits_for_its_next_attempt_has_no_slot_and_holds_up_its_own_key() {
        let now = Instant::now();
        let mut lanes = lanes(Bounds { running: 1, ..WIDE }, &["a", "a", "b"]);
        let (poisoned, _) = start(&mut lanes, now)[0];
        let later = now + Duration::from_secs(1);
        lanes.retry(poisoned, later);
        let others = start(&mut lanes, now);
        assert_eq!(events(&others), [2]);
        assert_eq!(lanes.next_retry(), None, "there is no slot for it");
        lanes.settle(others[0].0, 0, 2);
        assert_eq!((lanes.next_retry(), lanes.oldest()), (Some(later), Some(&0)));
        assert_eq!(events(&start(&mut lanes, now)), [0_usize; 0]);
        assert_eq!(events(&start(&mut lanes, later)), [0]);
    }

    #[test]
    fn it_is_full_by_number_and_by_what_is_unsettled() {
        let mut by_number = lanes(Bounds { entries: 2, ..WIDE }, &["a", "b"]);
        assert!(by_number.is_full(0, 0));
        let oldest = start(&mut by_number, Instant::now())[0].0;
        by_number.settle(oldest, 0, 0);
        assert!(by_number.is_full(0, 0), "settled, but not passed");
        by_number.pass();
        assert!(!by_number.is_full(0, 0));

        let mut by_bytes = lanes(Bounds { bytes: 2, ..WIDE }, &["a", "b"]);
        assert!(by_bytes.is_full(0, 0));
        let younger = start(&mut by_bytes, Instant::now())[1].0;
        by_bytes.settle(younger, 1, 1);
        assert!(by_bytes.is_full(0, 0), "a dead letter is kept until it is passed");
        let oldest = by_bytes.oldest().copied();
        by_bytes.settle(Ticket(0), 0, 0);
        by_bytes.pass();
        assert!(oldest == Some(0) && !by_bytes.is_full(0, 0));
    }

    #[test]
    fn what_needs_no_handler_is_passed_in_its_place() {
        let mut lanes = lanes(WIDE, &["a"]);
        lanes.take_up_settled(0, 7);
        assert_eq!((lanes.pass(), lanes.len()), (None, 2));
        let (ticket, _) = start(&mut lanes, Instant::now())[0];
        lanes.settle(ticket, 0, 0);
        assert_eq!((lanes.pass(), lanes.pass(), lanes.is_empty()), (Some(0), Some(7), true));
    }

    /// One thing that happens.
    #[derive(Debug, Clone)]
    enum Step {
        TakeUp(u8),
        TakeUpSettled,
        Start,
        /// One of those that run, by its place among them.
        Settle(usize),
        Retry(usize, u64),
        Pass,
        /// So many milliseconds go by.
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..5_u8).prop_map(Step::TakeUp),
            1 => Just(Step::TakeUpSettled),
            4 => Just(Step::Start),
            3 => any::<usize>().prop_map(Step::Settle),
            1 => (any::<usize>(), 0..50_u64).prop_map(|(which, wait)| Step::Retry(which, wait)),
            2 => Just(Step::Pass),
            1 => (0..30_u64).prop_map(Step::Wait),
        ]
    }

    /// The state of an entry in the model.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Is {
        Queued,
        Running,
        Waiting(Instant),
        Settled,
    }

    /// A model that looks at every entry each time.
    struct Model {
        entries: Vec<(Option<u8>, Is)>,
        passed: usize,
    }

    impl Model {
        /// Those whose next attempt is due wait no longer.
        fn due(&mut self, now: Instant) {
            for (_, is) in &mut self.entries {
                if matches!(is, Is::Waiting(at) if *at <= now) {
                    *is = Is::Queued;
                }
            }
        }

        /// The oldest event that may start: nothing unsettled of its key is before it.
        fn next(&self) -> Option<usize> {
            (self.passed..self.entries.len()).find(|&index| {
                let (key, is) = self.entries[index];
                is == Is::Queued && !self.entries[..index].iter().any(|(other, is)| *other == key && *is != Is::Settled)
            })
        }

        fn running(&self) -> usize {
            self.entries.iter().filter(|(_, is)| *is == Is::Running).count()
        }
    }

    proptest! {
        #[test]
        fn lanes_do_as_a_model_that_looks_at_every_entry(
            running in 1..4_usize,
            entries in 1..12_usize,
            bytes in 1..8_usize,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut lanes = Lanes::new(Bounds { running, entries, bytes });
            let mut model = Model { entries: Vec::new(), passed: 0 };
            let mut tickets: Vec<(Ticket, usize)> = Vec::new();
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::TakeUp(_) | Step::TakeUpSettled if lanes.is_full(0, 0) => {}
                    Step::TakeUp(key) => {
                        lanes.take_up(key.to_string().into(), 1, model.entries.len());
                        model.entries.push((Some(key), Is::Queued));
                    }
                    Step::TakeUpSettled => {
                        lanes.take_up_settled(0, model.entries.len());
                        model.entries.push((None, Is::Settled));
                    }
                    Step::Start => {
                        model.due(now);
                        let started = lanes.start(now).map(|(ticket, event)| (ticket, *event));
                        let expected = model.next().filter(|_| model.running() < running);
                        prop_assert_eq!(started.map(|(_, event)| event), expected);
                        if let Some((ticket, event)) = started {
                            model.entries[event].1 = Is::Running;
                            tickets.push((ticket, event));
                        }
                    }
                    Step::Settle(which) if !tickets.is_empty() => {
                        let (ticket, event) = tickets.remove(which % tickets.len());
                        lanes.settle(ticket, 0, event);
                        model.entries[event].1 = Is::Settled;
                    }
                    Step::Retry(which, wait) if !tickets.is_empty() => {
                        let (ticket, event) = tickets.remove(which % tickets.len());
                        let at = now + Duration::from_millis(wait);
                        lanes.retry(ticket, at);
                        model.entries[event].1 = Is::Waiting(at);
                    }
                    Step::Settle(_) | Step::Retry(..) => {}
                    Step::Pass => {
                        let expected = model.entries.get(model.passed).filter(|(_, is)| *is == Is::Settled);
                        prop_assert_eq!(lanes.pass(), expected.map(|_| model.passed), "an unsettled entry is never passed");
                        model.passed += usize::from(expected.is_some());
                    }
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                }
                let held = &model.entries[model.passed..];
                prop_assert_eq!(lanes.len(), held.len());
                prop_assert!(lanes.len() <= entries && model.running() <= running);
                let unsettled = held.iter().filter(|(_, is)| *is != Is::Settled).count();
                prop_assert_eq!(lanes.is_full(0, 0), held.len() >= entries || unsettled >= bytes);
                let waiting = held.iter().filter_map(|(_, is)| match is { Is::Waiting(at) => Some(*at), _ => None });
                prop_assert_eq!(lanes.next_retry(), waiting.min().filter(|_| model.running() < running));
                prop_assert_eq!(lanes.oldest().copied(), held.first().filter(|(_, is)| *is != Is::Settled).map(|_| model.passed));
            }
        }
    }
}
