//! The size of a read, from the sizes of entries and the success of the last reads; pure.

use std::sync::Arc;
use std::time::Duration;

use streams_core::Entry;

use super::budget::LARGE;

/// The most entries that a window keeps behind the newest; the byte budget bounds its memory, too.
pub(super) const WINDOW_ENTRIES: usize = 4_096;

/// The most bytes that one reply may hold when every entry is as large as its limit allows.
pub(super) const REPLY_BYTES: usize = 8 * 1024 * 1024;

/// How many small entries a read asks for, whatever their limit. With 8, which the default limit of 1 MiB would allow,
/// a backlog of them costs the server many times as much per event.
pub(super) const UNSEEN: usize = 256;

/// How many bytes a reply should hold, by the sizes seen: a few hundred small events. A backlog of one group runs at 1.78 of a bare
/// loop with these, and at 2.07 with twice as many. But then 100 groups that begin together hold twice as many, too, 40 MiB.
pub(super) const REPLY_AIM: usize = 128 * 1024;

/// How long a reply of [`REPLY_AIM`] may take to come. Where it takes longer, most of that is the way, and larger replies
/// make up for it: one read is on its way at a time.
const NEAR: Duration = Duration::from_millis(4);

/// How many times [`REPLY_AIM`] a reply holds at most, for a server that is far: 8 MiB. With a round trip of 100 ms that is
/// some 100,000 small events per second.
const FAR_TIMES: usize = 64;

/// How many times the bounds by `max_payload` are passed at most, for a server that is far.
const FAR_BOUNDS: usize = 8;

/// How many entries a page of a far server holds at most: a script measures each, in about 3 us.
const FAR_PAGE: usize = 1_024;

/// How many entries a snapshot asks for.
pub(super) const FIRST_COUNT: usize = 16;

/// How many entries are read by pages of bounded bytes before reads by number, which cost the server less. After a
/// crash these are more than any group has read and not committed, so an entry too large then comes in a page now.
pub(super) const CAREFUL: usize = 2_048;

/// The weight from which entries never come in pages. To hold one in a script costs the server ten times as much as to answer
/// it.
const HEAVY: usize = 256 * 1024;

/// How many times as many bytes a reply should hold where entries weigh [`LARGE`] and more: some eight of 100 kB. Alone, each
/// would take a round trip.
const LARGE_TIMES: usize = 8;

/// How much to ask for, from the sizes seen and the results of the last reads.
///
/// The first read of a partition, reads after a failure, and reads of possibly large entries are pages, which are
/// bounded by bytes. Known entries are read by their number: to hold large ones in a script costs the server ten times as
/// much as to answer them. Where pages are not possible,
/// the first reply holds one entry per key, and each may hold twice as many as the one before. After a failure the next
/// read asks for half as much, down to one entry of one key.
#[derive(Debug, Clone)]
pub(super) struct Count {
    max_payload: usize,
    keys: usize,
    most: usize,
    now: usize,
    /// How many keys one read asks for.
    keys_now: usize,
    /// How many bytes a reply should hold.
    aim: usize,
    /// How many times [`REPLY_AIM`] that is: more than one for a server that is far.
    times: usize,
    /// How many entries are still to be read by pages, unless they are so large that they come one by one.
    careful: usize,
    /// How many large entries are still to be read as if they were small, because a read has failed.
    held_back: usize,
    /// How many entries are still to be read by pages, whatever they weigh.
    pub(super) distrusted: usize,
    /// About the largest entry seen lately; 0 when none was.
    largest: usize,
    pub(super) failing: bool,
}

impl Count {
    /// For entries of at most `max_payload` bytes, from this many keys at once.
    pub(super) fn new(max_payload: usize, keys: usize) -> Self {
        let mut count = Self {
            max_payload,
            keys,
            most: 1,
            now: 1,
            keys_now: usize::MAX,
            aim: REPLY_AIM,
            times: 1,
            careful: CAREFUL,
            held_back: 0,
            distrusted: 0,
            largest: 0,
            failing: false,
        };
        count.of_keys(max_payload, keys);
        count
    }

    /// Reads this many keys from now on; the known sizes stay.
    pub(super) fn of_keys(&mut self, max_payload: usize, keys: usize) {
        (self.max_payload, self.keys) = (max_payload, keys.max(1));
        let bounds = self.times.min(FAR_BOUNDS);
        let most = (REPLY_BYTES * bounds / max_payload.max(1)).max(UNSEEN) / self.keys;
        self.most = most.clamp(1, WINDOW_ENTRIES * bounds);
        self.now = self.now.min(self.most);
    }

    /// Learns from the time that a reply took, and from whether there is more to read.
    pub(super) fn took(&mut self, took: Duration, more: bool) {
        let near = NEAR * self.times as u32;
        if more && took > near {
            self.times = (self.times * 2).min(FAR_TIMES);
        } else if took < near / 4 {
            self.times = (self.times / 2).max(1);
        }
        self.of_keys(self.max_payload, self.keys);
    }

    /// How many entries per key.
    pub(super) fn get(&self) -> usize {
        self.now
    }

    /// How many keys.
    pub(super) fn keys(&self) -> usize {
        self.keys_now.min(self.keys)
    }

    /// For a page: how many entries, and of how many bytes together; `None` if a read by number suffices.
    pub(super) fn page(&self) -> Option<(usize, usize)> {
        // A read by number answers the entry at its position as well, which a page answers in short.
        let bound = if self.held_back > 0 { HEAVY } else { LARGE };
        let careful = self.distrusted > 0 || (self.careful > 0 && self.largest < bound);
        // Where the limit of an event allows no more by number, a far server answers more by pages.
        let is_short = self.times > 1 && self.most <= UNSEEN && self.now == self.most;
        let most = if self.times > 1 { self.most.max(FAR_PAGE) } else { self.most };
        (careful || is_short).then_some((most, self.aim))
    }

    /// About how many bytes a reply with this many entries may have.
    pub(super) fn expected(&self, entries: usize) -> usize {
        let largest = if self.largest == 0 { self.max_payload } else { self.largest };
        match self.page() {
            Some((_, aim)) => largest.max(aim.min(largest.saturating_mul(entries))),
            None => largest.saturating_mul(entries).min(REPLY_BYTES),
        }
    }

    /// Learns from a reply.
    pub(super) fn saw(&mut self, entries: &[Arc<Entry>]) {
        let weights = || entries.iter().map(|entry| entry.weight().max(1));
        let Some(largest) = weights().max() else { return };
        let average = weights().sum::<usize>() / entries.len();
        self.largest = largest.max(self.largest / 2);
        self.distrusted = self.distrusted.saturating_sub(entries.len());
        self.careful = if self.largest >= LARGE { CAREFUL } else { self.careful.saturating_sub(entries.len()) };
        if !std::mem::take(&mut self.failing) {
            self.aim = (self.aim * 2).min(REPLY_AIM * self.times);
        }
        // At most twice as many as before, because one batch of small entries says little about the next.
        self.saw_nothing();
        let safe = REPLY_BYTES / self.largest / self.keys();
        self.held_back = self.held_back.saturating_sub(entries.len());
        let (aim, most) = if average < LARGE || self.held_back > 0 {
            (self.aim, self.most)
        } else {
            // All of them may be as large as their limit allows.
            (self.aim * LARGE_TIMES, self.most.min(REPLY_BYTES / self.max_payload.max(1)).max(1))
        };
        let grown = 2 * self.now.max(entries.len() / self.keys());
        self.now = (aim / average.max(1)).min(safe).min(grown).clamp(1, most);
    }

    /// No key had entries, so their number made no read fail.
    pub(super) fn saw_nothing(&mut self) {
        self.keys_now = self.keys_now.saturating_mul(2).min((REPLY_BYTES / self.largest.max(1)).max(1));
    }

    /// The same, for a reader that begins anew.
    pub(super) fn again(self) -> Self {
        Self { careful: CAREFUL, ..self }
    }

    /// Learns from a read that failed.
    pub(super) fn failed(&mut self) {
        if self.now > 1 {
            self.now /= 2;
        } else {
            self.keys_now = (self.keys() / 2).max(1);
        }
        (self.aim, self.careful, self.failing) = ((self.aim / 2).max(1), CAREFUL, true);
        (self.times, self.held_back) = (1, CAREFUL);
        self.of_keys(self.max_payload, self.keys);
    }
}

#[cfg(test)]
mod tests {
    use streams_core::EntryId;

    use super::*;

    fn entries(sizes: &[usize]) -> Vec<Arc<Entry>> {
        let entry = |(seq, size): (u64, &usize)| {
            Arc::new(Entry::new(EntryId::new(1, seq), &[(b"payload".to_vec(), vec![0; *size])]))
        };
        (0..).zip(sizes).map(entry).collect()
    }

    #[test]
    fn the_count_grows_with_small_entries_to_what_their_limit_or_a_blind_guess_allows() {
        for (max_payload, most) in [(1024 * 1024, UNSEEN), (4 * 1024, REPLY_AIM / 100)] {
            let mut count = Count::new(max_payload, 1);
            assert_eq!(count.get(), 1);
            (0..20).for_each(|_| count.saw(&entries(&[20; 64])));
            assert!(count.get() <= most && count.get() > most / 2, "{max_payload}: {}", count.get());
        }
    }

    #[test]
    fn one_large_entry_is_enough_to_ask_for_fewer() {
        let mut count = Count::new(1024 * 1024, 1);
        (0..20).for_each(|_| count.saw(&entries(&[20; 256])));
        assert_eq!((count.page(), count.get()), (None, UNSEEN));
        let mut sizes = [20; 256];
        sizes[255] = 1024 * 1024;
        count.saw(&entries(&sizes));
        assert!(count.get() * 1024 * 1024 <= REPLY_BYTES, "{}", count.get());
        count.saw(&entries(&[1024 * 1024; 8]));
        assert_eq!((count.get(), count.page()), (1, None), "one by one");
        (0..20).for_each(|_| count.saw(&entries(&[100_000; 8])));
        assert_eq!((count.get(), count.page()), (8, None), "as many as fit a reply at their largest");
        (0..20).for_each(|_| count.saw(&entries(&[LARGE / 2; 8])));
        assert_eq!(count.page(), Some((UNSEEN, REPLY_AIM)));
        count.saw(&entries(&[1024 * 1024]));
        count.distrusted = 8;
        assert_eq!(count.page(), Some((UNSEEN, REPLY_AIM)), "one of them may be too large for any process");
        count.saw(&entries(&[1024 * 1024; 8]));
        assert_eq!(count.page(), None);
    }

    #[test]
    fn a_far_server_is_asked_for_more_and_a_near_one_for_as_much_as_before() {
        let read = |count: &mut Count, way: u64, bytes_per_ms: usize| {
            let asked = count.page().map_or(count.get(), |(entries, bytes)| entries.min(bytes / 500));
            let some = entries(&vec![356; asked]);
            let came = some.iter().map(|entry| entry.weight()).sum::<usize>() / bytes_per_ms;
            count.saw(&some);
            count.took(Duration::from_millis(way + came as u64), true);
            asked
        };
        for (max_payload, by_number) in [(4 * 1024, true), (1024 * 1024, false)] {
            let mut count = Count::new(max_payload, 1);
            (0..40).for_each(|_| {
                read(&mut count, 0, 256 * 1024);
            });
            let near = count.get();
            assert_eq!((count.times, count.page()), (1, None), "{max_payload}");
            let asked = (0..40).map(|_| read(&mut count, 100, 256 * 1024)).last();
            if by_number {
                assert!((8_000..=16_384).contains(&count.get()) && count.page().is_none(), "{count:?}");
            } else {
                assert_eq!((count.get(), asked), (UNSEEN, Some(FAR_PAGE)));
            }
            (0..40).for_each(|_| {
                read(&mut count, 0, 256 * 1024);
            });
            assert_eq!((count.times, count.get()), (1, near), "{max_payload}");
            count.took(Duration::from_secs(1), false);
            assert_eq!(count.times, 1, "it has no more to read");
        }
    }

    #[test]
    fn many_keys_share_what_a_reply_may_hold() {
        let mut count = Count::new(1024 * 1024, 32);
        (0..20).for_each(|_| count.saw(&entries(&[20; 64])));
        assert_eq!((count.get(), count.keys()), (UNSEEN / 32, 32));
        count.saw(&entries(&[1024 * 1024]));
        assert_eq!((count.get(), count.keys()), (1, REPLY_BYTES / 1024 / 1024 - 1));
    }

    #[test]
    fn reads_that_fail_ask_for_less_down_to_one_entry_of_one_key_and_for_more_again() {
        let mut count = Count::new(1024 * 1024, 8);
        (0..20).for_each(|_| count.saw(&entries(&[20; 256])));
        let before = (count.get(), count.keys(), count.failing);
        let mut asked = Vec::new();
        for _ in 0..20 {
            count.failed();
            let bytes = count.page().unwrap().1;
            asked.push((count.get() * count.keys(), bytes));
        }
        assert!(asked.is_sorted_by(|a, b| a.0 >= b.0 && a.1 >= b.1), "{asked:?}");
        assert_eq!((asked.last(), count.failing), (Some(&(1, 1)), true));
        (0..40).for_each(|_| count.saw(&entries(&[20; 64])));
        assert_eq!((count.get(), count.keys(), count.failing), before);
        assert_eq!(count.page(), None);
        (0..20).for_each(|_| count.failed());
        (0..3).for_each(|_| count.saw_nothing());
        assert_eq!(count.keys(), 8, "they had nothing, so they are no reason to ask for each alone");
    }
}
