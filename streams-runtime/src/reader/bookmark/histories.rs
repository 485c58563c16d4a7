//! Random histories of a stream, read by the rules of `bookmark` alone, against a truth that is kept apart.
//!
//! The random histories with whole programs are slow. A history is cut here in the ways that a server has: by a replica
//! that lagged, or by an older dump. Any number of new entries follow before the group is back, under ids above or
//! below its position. It also lives through everything that is no cut: trims, deletions (even at the position), starts
//! at any id, and changes of the process.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use streams_core::broker::Extent;

use super::*;

/// A stream, with all that was ever added to it.
#[derive(Clone, Default)]
struct Stream {
    entries: Vec<Arc<Entry>>,
    last: EntryId,
    deleted: EntryId,
    log: Vec<(EntryId, u64)>,
    /// Whether entries may leave singly without a record, and the server says so.
    passes_over: bool,
}

impl Stream {
    fn add(&mut self, clock: u64, n: u64, is_named: bool) {
        let id = if clock > self.last.ms { EntryId::new(clock, 0) } else { self.last.next() };
        let name = if is_named { "id" } else { "payload" };
        self.entries.push(Arc::new(Entry::new(id, &[(name, n.to_string())])));
        self.last = id;
        self.log.push((id, n));
    }

    fn from(&self, from: EntryId, count: usize) -> Vec<Arc<Entry>> {
        self.entries.iter().filter(|entry| entry.id >= from).take(count).cloned().collect()
    }

    fn added(&self) -> u64 {
        self.log.len() as u64
    }

    fn snapshot(&self, from: EntryId, count: usize) -> Snapshot {
        let (first, length) = (self.entries.first().map(|entry| entry.id), self.entries.len() as u64);
        let extent = Extent { first, last: self.last, length, added: self.added() };
        let deleted = (!self.passes_over).then_some(self.deleted);
        let entries = self.from(from, count);
        let complete = entries.len() < count;
        Snapshot { extent: Some(extent), marker: true, deleted, entries, complete }
    }

    fn trim(&mut self, floor: EntryId) {
        self.entries.retain(|entry| entry.id >= floor);
    }

    fn remove(&mut self, id: EntryId) {
        if self.entries.iter().any(|entry| entry.id == id) {
            self.deleted = self.deleted.max(id);
            self.entries.retain(|entry| entry.id != id);
        }
    }

    fn event(entry: &Entry) -> u64 {
        String::from_utf8_lossy(entry.fields().next().unwrap().1).parse().unwrap()
    }

    /// Begins a group as a broker does.
    fn begin(&self, at: EntryId) -> (String, Option<u64>) {
        let there = self.from(at, 1).pop().filter(|entry| entry.id == at);
        let event = there.and_then(|entry| entry.given_id().map(str::to_owned)).unwrap_or_default();
        let removed = self.added() - self.entries.len() as u64;
        let seen = if at == self.last { Some(self.added()) } else { (at == EntryId::ZERO).then_some(removed) };
        (event, seen)
    }
}

/// The report that the next read must make after history was set back.
#[derive(Clone, Copy, PartialEq)]
enum Due {
    /// Everything that was read is still there.
    Nothing,
    /// The cut, before anything else.
    Cut,
    /// Nobody can know.
    Either,
}

struct Life {
    dice: StdRng,
    stream: Stream,
    dumps: Vec<Stream>,
    clock: u64,
    n: u64,
    is_named: bool,
    bookmark: Bookmark,
    /// A checkpoint: the place, the event there and the ordinal.
    checkpoint: (EntryId, String, Option<u64>),
    handled: BTreeSet<u64>,
    should: BTreeSet<u64>,
    /// Entries up to here that were gone when the group began do not concern it.
    begun: EntryId,
    reported: u64,
    /// Whether losses may have no count, or go uncounted, because the ordinal was not always known.
    uncounted: bool,
    /// Whether history was set back to before something that was counted, or set back so that nobody could know.
    unsure: bool,
    due: Due,
    /// Up to here history is the same as before it was set back.
    same: EntryId,
    cuts: u64,
    lost: u64,
}

impl Life {
    fn below(&mut self, limit: u64) -> u64 {
        self.dice.random_range(0..limit)
    }

    fn add(&mut self, most: u64) {
        for _ in 0..=self.below(most) {
            self.clock += self.below(3);
            self.n += 1;
            self.stream.add(self.clock, self.n, self.is_named);
            self.should.insert(self.n);
        }
    }

    /// A group begins here.
    fn begin(&mut self, at: EntryId) {
        let (event, seen) = self.stream.begin(at);
        self.bookmark = Bookmark::new(at, &event, seen);
        self.checkpoint = (at, event, seen);
        self.should = self.stream.from(at.next(), usize::MAX).iter().map(|entry| Stream::event(entry)).collect();
        self.handled.clear();
        self.begun = self.stream.entries.first().map_or(self.stream.last, |first| first.id.previous()).max(at);
        (self.reported, self.uncounted, self.unsure) = (0, seen.is_none(), false);
    }

    fn some_id(&mut self, of_last: u64) -> EntryId {
        let back = self.below(of_last) as usize;
        self.stream.log.iter().rev().nth(back).map_or(EntryId::ZERO, |(id, _)| *id)
    }

    fn hand_out(&mut self, entries: &[Arc<Entry>]) {
        self.bookmark.pass(entries);
        for entry in entries {
            assert!(self.handled.insert(Stream::event(entry)), "{} comes twice", entry.id);
        }
        if let Some(last) = entries.last() {
            (self.checkpoint.0, self.checkpoint.1) = (last.id, last.given_id().unwrap_or_default().to_owned());
        }
        self.checkpoint.2 = self.bookmark.seen();
    }

    /// Reads once, as `source` does; answers a cut.
    fn read(&mut self, asked: usize) -> Option<DataLoss> {
        let position = self.bookmark.position();
        let found = self.stream.from(position, asked);
        if self.bookmark.witness().is_some() && self.bookmark.is_at(found.first()) && self.below(10) > 0 {
            self.hand_out(&found[1..]);
            return None;
        }
        let snapshot = self.stream.snapshot(position, asked);
        let complete = snapshot.entries.len() < asked;
        match self.bookmark.judge(&snapshot, complete) {
            Some(mut loss) if !loss.kind.is_gap() => {
                let stands = |place: &Bookmark| place.is_at(self.stream.from(place.position(), 1).first());
                loss.from = self.bookmark.earlier().find(stands).unwrap_or_else(Bookmark::nowhere).position();
                return Some(loss);
            }
            Some(DataLoss { count: Some(count), .. }) => self.reported += count,
            Some(_) => assert!(self.uncounted, "a loss without a count"),
            None => {}
        }
        self.hand_out(&snapshot.entries.iter().filter(|entry| entry.id > position).cloned().collect::<Vec<_>>());
        if complete {
            self.bookmark.pass_nothing(&snapshot);
        }
        None
    }

    /// The group reads, and continues over a cut.
    fn go_on(&mut self) {
        let (asked, position) = (2 + self.below(20) as usize, self.bookmark.position());
        let (due, handled) = (std::mem::replace(&mut self.due, Due::Nothing), self.handled.len());
        let found = self.read(asked);
        if due == Due::Cut {
            assert_eq!(
                handled,
                self.handled.len(),
                "events of another history are handed out before the cut is reported"
            );
        }
        let Some(loss) = found else {
            assert!(due != Due::Cut, "a cut is not found");
            // A cut that was not found then may be found later, or lead to wrong counts.
            self.unsure |= due == Due::Either;
            return;
        };
        assert!(due != Due::Nothing || self.unsure, "a false alarm: {loss:?}");
        assert_eq!((loss.kind, loss.to, loss.count), (DataLossKind::HistoryCut, position, None));
        assert!(
            (loss.from <= self.same || self.unsure) && loss.from < position,
            "{loss:?}, and all is the same up to {}",
            self.same
        );
        self.cuts += 1;
        self.begin(loss.from);
    }

    fn dump(&mut self) {
        if self.dumps.len() == 8 {
            self.dumps.remove(0);
        }
        self.dumps.push(self.stream.clone());
    }

    /// Sets history back, which then continues in another way before the group is back.
    fn set_back(&mut self) {
        let before = self.stream.clone();
        if self.dumps.is_empty() || before.passes_over {
            return;
        }
        let which = self.below(self.dumps.len() as u64) as usize;
        self.stream = self.dumps[which].clone();
        self.dumps.truncate(which + 1);
        let known: BTreeSet<u64> = self.stream.log.iter().map(|(_, n)| *n).collect();
        // The group's ordinal counts entries that were deleted ahead of it.
        let stand = |stream: &Stream| stream.entries.iter().map(|entry| Stream::event(entry)).collect::<BTreeSet<_>>();
        let (stood, stands, begun) = (stand(&before), stand(&self.stream), self.begun);
        let mut ahead =
            before.log.iter().filter(|(id, n)| *id > begun && !stood.contains(n) && !self.handled.contains(n));
        if ahead.any(|(_, n)| !known.contains(n) || stands.contains(n)) {
            (self.unsure, self.uncounted) = (true, true);
        }
        let position = self.bookmark.position();
        self.should.retain(|n| known.contains(n));
        self.should.extend(self.stream.entries.iter().filter(|e| e.id > position).map(|entry| Stream::event(entry)));
        self.same = self.stream.last;
        let is_beyond = position > self.stream.last || !self.handled.is_subset(&known);
        match self.below(4) {
            0 => {}
            // A clock that is behind: more new entries get ids at and below the position.
            1 => self.clock = self.stream.last.ms,
            2 => self.clock = self.stream.last.ms + self.below(3),
            _ => self.clock += self.below(100),
        }
        if self.below(5) > 0 {
            self.add(60);
        }
        let stands_below = self.stream.entries.first().is_some_and(|first| first.id < position);
        let (witness, is_known) = (self.bookmark.witness(), self.bookmark.seen().is_some());
        let at = self.stream.from(position, 1).pop().filter(|entry| entry.id == position);
        let shows = match (at, self.stream.last < position) {
            (_, true) => true,
            (Some(_), _) => witness.is_some(),
            (None, _) => (stands_below && self.bookmark.stood) || (is_known && !stands_below),
        };
        self.due = match (is_beyond, shows) {
            (false, _) => Due::Nothing,
            (true, true) if !self.unsure => Due::Cut,
            // No entry was ever seen at the position, or none is left up to it and nobody has counted.
            _ => Due::Either,
        };
        if self.due == Due::Either {
            self.uncounted = true;
        }
    }

    fn step(&mut self) {
        match self.below(100) {
            0..25 => self.add(30),
            25..60 => self.go_on(),
            60..66 => {
                let floor = self.some_id(60);
                self.stream.trim(floor);
            }
            66..69 => {
                let keep = self.below(6) as usize;
                let keep = self.stream.entries.len().saturating_sub(keep);
                self.stream.entries.drain(..keep);
            }
            69..79 => {
                for _ in 0..=self.below(3) {
                    let id = self.some_id(30);
                    self.stream.remove(id);
                }
            }
            79..83 => {
                // The entry at the position, on which everything depends.
                let position = self.bookmark.position();
                self.stream.remove(position);
            }
            83..85 => {
                // XTRIM .. ACKED, while a consumer has some pending: entries that the group has settled leave singly,
                // without a record.
                if self.stream.passes_over {
                    let (settled, kept) = (self.checkpoint.0, self.below(3));
                    self.stream.entries.retain(|entry| entry.id > settled || Stream::event(entry) % 3 == kept);
                }
            }
            85..90 => {
                let (at, event, seen) = self.checkpoint.clone();
                self.bookmark = Bookmark::new(at, &event, seen);
            }
            90..94 => self.dump(),
            94..96 => self.add(1),
            _ => {
                self.set_back();
                self.go_on();
            }
        }
    }

    /// Lives through one history; answers how many entries were lost, and how often it was cut.
    fn live(seed: u64) -> (u64, u64) {
        let mut life = Self {
            dice: StdRng::seed_from_u64(seed),
            stream: Stream::default(),
            dumps: Vec::new(),
            clock: 1_000,
            n: 0,
            is_named: true,
            bookmark: Bookmark::nowhere(),
            checkpoint: (EntryId::ZERO, String::new(), None),
            handled: BTreeSet::new(),
            should: BTreeSet::new(),
            begun: EntryId::ZERO,
            reported: 0,
            uncounted: false,
            unsure: false,
            due: Due::Nothing,
            same: EntryId::ZERO,
            cuts: 0,
            lost: 0,
        };
        life.is_named = life.below(4) > 0;
        life.stream.passes_over = life.below(8) == 0;
        life.add(40);
        let floor = life.some_id(40);
        life.stream.trim(floor);
        if life.below(3) == 0 {
            let last = life.stream.last;
            life.stream.remove(last);
        }
        let at = match life.below(5) {
            0 | 1 => EntryId::ZERO,
            2 => life.stream.last,
            3 => life.some_id(40),
            // As an operator may set a group that is adopted later.
            _ => life.some_id(40).next().min(life.stream.last),
        };
        life.begin(at);
        for _ in 0..80 {
            life.step();
            life.account();
        }
        life.settle();
        (life.lost, life.cuts)
    }

    /// Checks that no loss is reported that did not happen.
    fn account(&mut self) {
        let lost = self.should.difference(&self.handled).count() as u64;
        assert!(self.uncounted || self.reported <= lost, "{} are reported as lost, and {lost} are", self.reported);
    }

    /// Reads to the end, and checks that every loss is reported.
    fn settle(&mut self) {
        loop {
            let before = self.handled.len();
            self.go_on();
            let last = self.stream.snapshot(self.bookmark.position(), usize::MAX);
            if self.handled.len() == before && last.entries.iter().all(|entry| entry.id <= self.bookmark.position()) {
                break;
            }
        }
        let snapshot = self.stream.snapshot(self.bookmark.position(), usize::MAX);
        match self.bookmark.judge(&snapshot, true) {
            Some(DataLoss { count: Some(count), .. }) => self.reported += count,
            Some(loss) => assert!(self.uncounted, "{loss:?}"),
            None => {}
        }
        let lost = self.should.difference(&self.handled).count() as u64;
        self.lost += lost;
        assert!(self.uncounted || self.reported == lost, "{} are reported as lost, and {lost} are", self.reported);
    }
}

/// `LOSS_HISTORIES=10000` runs that many, from `LOSS_SEED` on.
#[test]
fn random_histories_are_accounted_for() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, histories) = (number("LOSS_SEED").unwrap_or(0), number("LOSS_HISTORIES").unwrap_or(1_000));
    let (mut lost, mut cuts, mut wrong) = (0, 0, Vec::new());
    for seed in first..first + histories {
        match std::panic::catch_unwind(|| Life::live(seed)) {
            Ok((of_one, cut)) => (lost, cuts) = (lost + of_one, cuts + cut),
            Err(panic) => wrong.push((seed, panic.downcast_ref::<String>().cloned().unwrap_or_default())),
        }
    }
    println!("{histories} histories, {lost} entries lost, {cuts} cuts");
    assert!(wrong.is_empty(), "{} of them are wrong: {:?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    assert!(histories < 1_000 || (lost > histories && cuts > histories), "too little was lost to test anything");
}
