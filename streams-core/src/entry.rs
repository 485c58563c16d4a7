//! The form of an event in Redis: an id and plain fields; [`crate::codec`] turns its payload into the event.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::codec;

/// The id of an entry: milliseconds of the server's clock and a sequence number.
///
/// See <https://redis.io/docs/latest/develop/data-types/streams/#entry-ids>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// Orders the entries of one millisecond.
    pub seq: u64,
}

impl EntryId {
    /// Below every entry.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };
    /// Above every entry.
    pub const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// An id from its two numbers.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }

    /// The smallest id above this one; the highest stays where it is.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None if self.ms == u64::MAX => self,
            None => Self { ms: self.ms + 1, seq: 0 },
        }
    }

    /// The largest id below this one; [`EntryId::ZERO`] stays as it is.
    #[must_use]
    pub const fn previous(self) -> Self {
        match (self.ms.checked_sub(1), self.seq.checked_sub(1)) {
            (_, Some(seq)) => Self { ms: self.ms, seq },
            (Some(ms), None) => Self { ms, seq: u64::MAX },
            (None, None) => Self::ZERO,
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Text that is not an entry id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an entry id; expected milliseconds and a number, such as `1610064000278-0`")]
pub struct InvalidEntryId(String);

impl FromStr for EntryId {
    type Err = InvalidEntryId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |part: &str| if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None };
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        match (digits(ms), digits(seq)) {
            (Some(ms), Some(seq)) => Ok(Self { ms, seq }),
            _ => Err(InvalidEntryId(text.to_owned())),
        }
    }
}

/// The id that a producer gives an event: the same on a retry of the publish, and in every copy.
///
/// The framework makes UUIDv7; a producer may bring its own, such as the id of the trade.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(String);

impl EventId {
    /// The longest event id, in bytes: every entry and every checkpoint holds one.
    pub const MAX_LEN: usize = 128;

    /// An event id from text of at most 128 bytes; `None` when it is empty or longer.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        Self::is_valid(&text).then_some(Self(text))
    }

    pub(crate) fn of_uuid(id: uuid::Uuid) -> Self {
        Self(id.to_string())
    }

    fn is_valid(text: &str) -> bool {
        (1..=Self::MAX_LEN).contains(&text.len())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.0
    }
}

/// An entry of a stream: an id and fields, in the order in which the producer wrote them.
///
/// Three fields have a meaning: `event` (name and version, `Trade@1`), `id` (the event's id) and
/// `payload` (MessagePack). Every other field is a header. When a field occurs twice the first counts.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The entry's id, its place in the partition.
    pub id: EntryId,
    /// All fields in one allocation: how many, the lengths of each name and value, then the bytes of all.
    packed: Box<[u8]>,
    /// The values of the three fields, because each delivery asks for them several times.
    event: Place,
    event_id: Place,
    payload: Place,
    /// How long the event's name is, and its version; `None` where the field has another form.
    named: Option<(u32, u32)>,
}

/// Where the first value of a name begins and ends in `packed`. It never begins at 0, so that is where there is none.
type Place = (usize, usize);

/// How many bytes a number takes in front of the fields.
const LENGTH: usize = size_of::<u32>();

/// The number at the front, and the bytes behind it.
fn length(packed: &[u8]) -> (usize, &[u8]) {
    packed.split_first_chunk().map_or((0, packed), |(length, rest)| (u32::from_ne_bytes(*length) as usize, rest))
}

impl Entry {
    /// The field that names the event and its version.
    pub const EVENT: &'static str = "event";
    /// The field of the event's id.
    pub const ID: &'static str = "id";
    /// The field of the event's bytes.
    pub const PAYLOAD: &'static str = "payload";

    /// An entry with these fields. Redis has no name or value of more than 512 MiB; here one ends at 4 GiB.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(id: EntryId, fields: &[(N, V)]) -> Self {
        fn part<T: AsRef<[u8]>>(text: &T) -> &[u8] {
            let text = text.as_ref();
            text.get(..u32::MAX as usize).unwrap_or(text)
        }
        let parts = || fields.iter().flat_map(|(name, value)| [part(name), part(value)]);
        let bytes: usize = parts().map(<[u8]>::len).sum();
        let mut packed = Vec::with_capacity((1 + 2 * fields.len()) * LENGTH + bytes);
        packed.extend((fields.len() as u32).to_ne_bytes());
        parts().for_each(|part| packed.extend((part.len() as u32).to_ne_bytes()));
        let (mut event, mut event_id, mut payload) = Default::default();
        for (name, value) in fields {
            let (name, value) = (part(name), part(value));
            packed.extend_from_slice(name);
            let begin = packed.len();
            packed.extend_from_slice(value);
            let place: &mut Place = match name {
                b"event" => &mut event,
                b"id" => &mut event_id,
                b"payload" => &mut payload,
                _ => continue,
            };
            if place.0 == 0 {
                *place = (begin, packed.len());
            }
        }
        let named = named(&packed[event.0..event.1]).filter(|_| event.0 > 0);
        Self { id, packed: packed.into_boxed_slice(), event, event_id, payload, named }
    }

    /// Field names and values, in the order in which the producer wrote them.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let (count, rest) = length(&self.packed);
        let (mut lengths, mut bytes) = rest.split_at_checked(2 * LENGTH * count).unwrap_or_default();
        std::iter::from_fn(move || {
            let mut next = || {
                let (len, others) = length(lengths);
                let (part, rest) = bytes.split_at_checked(len)?;
                (lengths, bytes) = (others, rest);
                Some(part)
            };
            Some((next()?, next()?))
        })
        .take(count)
    }

    /// The same with one more field, behind the others.
    #[must_use]
    pub fn with_field(&self, name: &str, value: &[u8]) -> Self {
        let fields: Vec<_> = self.fields().chain([(name.as_bytes(), value)]).collect();
        Self::new(self.id, &fields)
    }

    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
    }

    fn at(&self, (begin, end): Place) -> Option<&[u8]> {
        self.packed.get(begin..end).filter(|_| begin > 0)
    }

    /// The event's name and version: `Trade@2` is version 2 of `Trade`, `Trade` alone is version 1.
    ///
    /// `None` when the field is missing or has another form.
    pub fn event(&self) -> Option<(&str, u32)> {
        let (length, version) = self.named?;
        let name = self.at((self.event.0, self.event.0 + length as usize))?;
        Some((std::str::from_utf8(name).ok()?, version))
    }

    /// The version that the publisher wrote; 1 where the entry names none, as in an entry made for a test.
    pub(crate) fn version(&self) -> u32 {
        self.named.map_or(1, |(_, version)| version)
    }

    /// The event's id; the entry's own id where the producer gave none.
    pub fn event_id(&self) -> EventId {
        EventId(self.given_id().map_or_else(|| self.id.to_string(), str::to_owned))
    }

    /// The id that the producer gave the event; `None` when it gave none, or one that is not 1 to 128 bytes of UTF-8.
    pub fn given_id(&self) -> Option<&str> {
        let id = std::str::from_utf8(self.at(self.event_id)?).ok()?;
        EventId::is_valid(id).then_some(id)
    }

    /// The event's bytes.
    pub fn payload(&self) -> Option<&[u8]> {
        self.at(self.payload)
    }

    /// The other fields.
    pub fn headers(&self) -> Headers<'_> {
        Headers { entry: self }
    }

    /// When the entry was added, by the server's clock.
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.id.ms)
    }

    /// About how many bytes the entry holds in memory, for byte budgets.
    pub fn weight(&self) -> usize {
        // More than there is: a script of the broker counts the same way.
        let fields = length(&self.packed).0;
        self.packed.len() - (1 + 2 * fields) * LENGTH + fields * 80 + 64
    }
}

/// How long the name is in a field `event`, and the version; `None` where it has another form.
fn named(event: &[u8]) -> Option<(u32, u32)> {
    let text = std::str::from_utf8(event).ok()?;
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, version.parse().ok()?),
        None => (text, 1),
    };
    (!name.is_empty() && version > 0).then_some((name.len() as u32, version))
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.payload().map(|payload| codec::text(payload, MOST_SHOWN));
        f.debug_struct("Entry")
            .field("id", &format_args!("{}", self.id))
            .field("event", &Shown(self.field(Self::EVENT).unwrap_or_default()))
            .field("event_id", &Shown(self.field(Self::ID).unwrap_or_default()))
            .field("headers", &self.headers())
            .field("payload", &format_args!("{}", payload.as_deref().unwrap_or("none")))
            .finish()
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (Shown(name), Shown(value)))).finish()
    }
}

/// The most bytes of a field that `Debug` shows.
const MOST_SHOWN: usize = 256;

/// Bytes as text; those that are no text are escaped.
struct Shown<'a>(&'a [u8]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.0[..self.0.len().min(MOST_SHOWN)];
        match std::str::from_utf8(cut) {
            Ok(text) => write!(f, "{text:?}")?,
            Err(_) => write!(f, "b\"{}\"", cut.escape_ascii())?,
        }
        if cut.len() < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

/// The headers of an entry: every field that is not the event's name, id or payload.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    entry: &'a Entry,
}

impl<'a> Headers<'a> {
    /// Whether a field of this name carries the event itself, so that no header may have it.
    pub fn is_reserved(name: &str) -> bool {
        matches!(name, Entry::EVENT | Entry::ID | Entry::PAYLOAD)
    }

    /// The first header of this name, as text; `None` when there is none or it is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(key, _)| *key == name.as_bytes()).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All headers in the order in which they were written, as bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.entry.fields().filter(|(name, _)| !std::str::from_utf8(name).is_ok_and(Self::is_reserved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        Entry::new(EntryId::new(7, 1), fields)
    }

    #[test]
    fn ids_read_back_and_order_by_number() {
        for text in ["0-0", "1610064000278-12", "18446744073709551615-18446744073709551615"] {
            assert_eq!(text.parse::<EntryId>().map(|id| id.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("5".parse(), Ok(EntryId::new(5, 0)));
        for text in ["", "-", "1-", "-1", "a-1", "+1-0", "1-0-0", "18446744073709551616-0"] {
            assert!(text.parse::<EntryId>().is_err(), "{text}");
        }
        assert!(EntryId::new(9, 0) < EntryId::new(10, 0));
        for (id, next) in [(EntryId::new(9, u64::MAX), EntryId::new(10, 0)), (EntryId::ZERO, EntryId::new(0, 1))] {
            assert_eq!((id.next(), next.previous()), (next, id));
        }
        assert_eq!((EntryId::ZERO.previous(), EntryId::MAX.next()), (EntryId::ZERO, EntryId::MAX));
    }

    #[test]
    fn an_event_without_a_version_is_version_one() {
        assert_eq!(entry(&[("event", "Trade@2")]).event(), Some(("Trade", 2)));
        assert_eq!(entry(&[("event", "Trade")]).event(), Some(("Trade", 1)));
        for text in ["", "@1", "Trade@", "Trade@0", "Trade@x", "Trade@1@2"] {
            assert_eq!(entry(&[("event", text)]).event(), None, "{text}");
        }
        assert_eq!(entry(&[]).event(), None);
        assert_eq!(Entry::new(EntryId::new(7, 1), &[("event", b"Tr\xffde@1")]).event(), None);
    }

    #[test]
    fn an_entry_weighs_what_a_script_of_the_broker_counts() {
        assert_eq!(entry(&[]).weight(), 64);
        assert_eq!(entry(&[("event", "Trade@1"), ("", "x")]).weight(), 64 + (5 + 7 + 80) + (1 + 80));
    }

    #[test]
    fn an_entry_is_shown_as_text() {
        let long = [b'x'; 300];
        let fields: [(&str, &[u8]); 6] = [
            ("event", b"Trade@2"),
            ("id", b"t-1"),
            ("tenant", "ä".as_bytes()),
            ("payload", &[1]),
            ("raw", &[0xff, b'a']),
            ("long", &long),
        ];
        let shown = Entry::new(EntryId::new(7, 1), &fields);
        let text = format!("{shown:?}");
        let start = r#"Entry { id: 7-1, event: "Trade@2", event_id: "t-1", headers: {"tenant": "ä", "raw": b"\xffa", "long": "x"#;
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with(r#"x"...}, payload: 1 }"#), "{text}");
        assert!(format!("{:?}", entry(&[])).ends_with("headers: {}, payload: none }"));
    }

    #[test]
    fn an_entry_without_an_event_id_goes_by_its_own() {
        assert_eq!(entry(&[("id", "t-1")]).event_id().as_str(), "t-1");
        assert_eq!(entry(&[("id", "")]).event_id().as_str(), "7-1");
        assert_eq!(entry(&[]).event_id().as_str(), "7-1");
    }

    #[test]
    fn other_fields_are_headers_and_the_first_of_a_name_counts() {
        let entry = entry(&[("event", "Trade"), ("tenant", "a"), ("payload", "x"), ("tenant", "b"), ("payload", "y")]);
        assert_eq!(entry.headers().get("tenant"), Some("a"));
        assert_eq!(entry.headers().get("payload"), None);
        assert_eq!(entry.headers().iter().count(), 2);
        assert_eq!(entry.payload(), Some(b"x".as_slice()));
    }
}
