//! Entries too large to hold whole: [`cut`] keeps their beginnings, and [`in_short`] a few bytes to recognise an entry
//! by.
//!
//! A broker may do the same on the server, as `prelude.lua` does, so that the large entry does not travel.

use crate::codec::MAX_PAYLOAD;
use crate::{Entry, EventId};

/// The largest entry that a broker answers whole: the largest payload of an event and a megabyte of headers. A larger
/// one is [cut].
pub const MOST_ENTRY_BYTES: usize = MAX_PAYLOAD + 1024 * 1024;

/// The first field of a [cut] entry: the bytes that it had.
pub const CUT: &str = "_cut";
/// The most fields that are kept of an entry that is cut or in short.
const KEPT_FIELDS: usize = 16;
/// The most bytes that are kept of each name and value of a cut entry.
const KEPT_BYTES: usize = 1_024;
/// The longest name or value that is kept whole in short; of a longer one a part at each end is kept.
const SHORT: usize = 160;
const SHORT_END: usize = 64;

/// Cuts an entry that is too large for any process to hold and any build to decode. It keeps the first fields and the
/// beginnings of their values, behind a field [`CUT`]. Its id and its event id stay. Any other entry is unchanged.
#[must_use]
pub fn cut(entry: Entry) -> Entry {
    let bytes = entry.weight();
    if bytes <= MOST_ENTRY_BYTES {
        return entry;
    }
    let begin = |text: &[u8]| text[..text.len().min(KEPT_BYTES)].to_vec();
    let id = short_id(&entry).map(|id| (Entry::ID.as_bytes().to_vec(), id.to_vec()));
    let others = entry.fields().take(KEPT_FIELDS).filter(|(name, _)| *name != Entry::ID.as_bytes());
    let others = others.map(|(name, value)| (begin(name), begin(value)));
    let bytes = (CUT.as_bytes().to_vec(), bytes.to_string().into_bytes());
    let fields: Vec<_> = std::iter::once(bytes).chain(id).chain(others).collect();
    Entry::new(entry.id, &fields)
}

/// How many bytes a [cut] entry had.
pub fn cut_from(entry: &Entry) -> Option<u64> {
    let (name, bytes) = entry.fields().next()?;
    if name != CUT.as_bytes() {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// A few bytes that distinguish an entry from others of the same id: its event id, else the ends of its first fields.
/// Applied twice it answers the same.
#[must_use]
pub fn in_short(entry: &Entry) -> Entry {
    let short = |text: &[u8]| match text.len() {
        length if length <= SHORT => text.to_vec(),
        length => {
            let (begin, end) = (&text[..SHORT_END], &text[length - SHORT_END..]);
            [begin, length.to_string().as_bytes(), end].concat()
        }
    };
    if let Some(id) = short_id(entry) {
        return Entry::new(entry.id, &[(Entry::ID, id)]);
    }
    let fields: Vec<_> = entry.fields().take(KEPT_FIELDS).map(|(name, value)| (short(name), short(value))).collect();
    Entry::new(entry.id, &fields)
}

/// The field of the event id, whether it is UTF-8 or not.
fn short_id(entry: &Entry) -> Option<&[u8]> {
    entry.field(Entry::ID).filter(|id| (1..=EventId::MAX_LEN).contains(&id.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EntryId;

    fn entry(fields: &[(&str, usize)]) -> Entry {
        let fields: Vec<_> = fields.iter().map(|(name, size)| (name, vec![b'x'; *size])).collect();
        Entry::new(EntryId::new(7, 1), &fields)
    }

    #[test]
    fn an_entry_that_no_process_could_hold_keeps_what_tells_it() {
        let small = entry(&[("event", 9), ("payload", MAX_PAYLOAD), ("id", 3)]);
        assert_eq!((cut(small.clone()), cut_from(&small)), (small, None));
        let large = entry(&[("event", 9), ("payload", 200 * 1024 * 1024), ("id", 3), ("tenant", 5)]);
        let (weight, short) = (large.weight(), in_short(&large));
        let left = cut(large);
        assert_eq!(cut_from(&left), Some(weight as u64));
        assert_eq!((left.given_id(), left.field("event").map(<[u8]>::len)), (Some("xxx"), Some(9)));
        assert_eq!(left.field("payload").map(<[u8]>::len), Some(KEPT_BYTES));
        assert!(left.weight() < 8 * 1024 && left.fields().last().is_some_and(|(name, _)| name == b"tenant"));
        assert_eq!(in_short(&left), short, "with an event id the two are said as one");
        let many = entry(&vec![("header", 100_000); 1_000]);
        assert!(cut(many).weight() < KEPT_FIELDS * (KEPT_BYTES + 200));
    }

    #[test]
    fn in_short_an_entry_is_its_event_id_or_the_ends_of_its_fields() {
        let with_id = in_short(&entry(&[("payload", 1_000_000), ("id", 36)]));
        assert_eq!(with_id, Entry::new(EntryId::new(7, 1), &[("id", [b'x'; 36])]));
        let without = entry(&[("payload", 1_000_000), ("id", 200), ("other", 3)]);
        let short = in_short(&without);
        assert!(short.weight() < 1_000, "{}", short.weight());
        assert_eq!(in_short(&short), short);
        let mut fields: Vec<_> = without.fields().map(|(name, value)| (name, value.to_vec())).collect();
        fields[0].1[999_999] = b'y';
        assert_ne!(in_short(&Entry::new(without.id, &fields)), short);
        assert_ne!(in_short(&entry(&[("payload", 1_000_001), ("id", 200), ("other", 3)])), short);
    }
}
