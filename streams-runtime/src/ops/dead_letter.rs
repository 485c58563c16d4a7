//! The form of a dead letter: how it is written, its cause, and what can be read from it.
//!
//! The commit that passes the event takes the letter along; a replay writes it anew when the event was handled again in vain.
//! [`dead_letters`](super::dead_letters) is the tool for all of them.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_core::broker::{Fields, cut_from};
use streams_core::codec::{self, DecodeError};
use streams_core::keys::GroupKey;
use streams_core::{Entry, EntryId, Failure, InvalidEntryId, StreamEvent};

/// The prefix of the name of an original field.
const ORIGINAL: &str = "o:";

/// The most bytes of a reason: an error may quote the whole event, which the letter holds anyway.
const MOST_REASON: usize = 4 * 1024;
/// How many original fields stand as fields of the letter; the server's scripts take only so many arguments.
const MOST_FIELDS: usize = 1_000;
/// The field with the original fields beyond that: each as length (four bytes, big-endian), name, length, value.
const MORE: &str = "more";
/// The field that says that the payload is another one than that of the stream.
const EDITED: &str = "edited";

/// Why a group gives an event up.
pub(crate) struct GivenUp<'a> {
    /// The consumer that took the event; empty where none could.
    pub(crate) consumer: &'a str,
    pub(crate) cause: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) attempts: u32,
    /// How often the event was a dead letter before and was handled again.
    pub(crate) replays: u32,
    /// Whether somebody has edited the payload.
    pub(crate) edited: bool,
}

/// The fields of a dead letter: where it came from and why, then every original field, bytes unchanged.
///
/// The time of the giving-up is the letter's own entry id.
pub(crate) fn fields(key: &GroupKey, entry: &Entry, given_up: &GivenUp<'_>) -> Fields {
    let GivenUp { consumer, cause, reason, attempts, replays, edited } = *given_up;
    let ours = [
        ("stream", key.partition().as_str().to_owned()),
        ("entry", entry.id.to_string()),
        ("group", key.group().to_owned()),
        ("consumer", consumer.to_owned()),
        ("cause", cause.to_owned()),
        ("reason", cut(reason).to_owned()),
        ("attempts", attempts.to_string()),
    ];
    let originals = entry.fields().take(MOST_FIELDS);
    let originals = originals.map(|(name, value)| ([ORIGINAL.as_bytes(), name].concat(), value.to_vec()));
    let folded: Vec<_> = entry.fields().skip(MOST_FIELDS).collect();
    let replays = (replays > 0).then(|| (b"replays".to_vec(), replays.to_string().into_bytes()));
    let edited = edited.then(|| (EDITED.as_bytes().to_vec(), b"1".to_vec()));
    let more = (!folded.is_empty()).then(|| (MORE.as_bytes().to_vec(), fold(&folded)));
    let ours = ours.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()));
    ours.chain(replays).chain(edited).chain(originals).chain(more).collect()
}

/// The beginning of a reason, cut between two characters.
fn cut(reason: &str) -> &str {
    let end = (0..=MOST_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    &reason[..end.unwrap_or_default()]
}

fn fold(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut folded = Vec::new();
    for bytes in fields.iter().flat_map(|(name, value)| [name, value]) {
        // No field of an entry is longer than 512 MiB.
        folded.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        folded.extend_from_slice(bytes);
    }
    folded
}

/// As many whole fields as there are.
fn unfold(mut folded: &[u8]) -> Fields {
    let mut take = || {
        let (length, rest) = folded.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        folded = rest;
        Some(bytes.to_vec())
    };
    std::iter::from_fn(|| Some((take()?, take()?))).collect()
}

/// An event that a group gave up on; `DeadLetter<Trade>` can be decoded, `DeadLetter` is read without the event's type.
pub struct DeadLetter<E = ()> {
    id: DeadLetterId,
    letter: Arc<Entry>,
    original: Arc<Entry>,
    event: PhantomData<fn() -> E>,
}

impl<E> Clone for DeadLetter<E> {
    fn clone(&self) -> Self {
        let (letter, original) = (Arc::clone(&self.letter), Arc::clone(&self.original));
        Self { id: self.id, letter, original, event: PhantomData }
    }
}

impl<E> fmt::Debug for DeadLetter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("entry", &self.original.id)
            .field("event", &self.original.event())
            .field("event_id", &self.original.event_id().as_str())
            .field("consumer", &self.consumer())
            .field("cause", &self.cause())
            .field("reason", &self.reason())
            .field("attempts", &self.attempts())
            .finish_non_exhaustive()
    }
}

/// Where a dead letter lies: among those of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId {
    /// The partition of the stream.
    pub partition: u32,
    /// The letter's own entry id; its time is that of the giving-up.
    pub entry: EntryId,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.entry)
    }
}

impl FromStr for DeadLetterId {
    type Err = InvalidEntryId;

    /// `3/1767225600000-0`, as it is shown; without `3/` it is of partition 0.
    fn from_str(text: &str) -> Result<Self, InvalidEntryId> {
        let (partition, entry) = match text.split_once('/') {
            Some((partition, entry)) if let Ok(partition) = partition.parse() => (partition, entry),
            _ => (0, text),
        };
        Ok(Self { partition, entry: entry.parse()? })
    }
}

impl<E> DeadLetter<E> {
    pub(super) fn of(partition: u32, letter: Arc<Entry>) -> Self {
        let original = |(name, value): (&[u8], &[u8])| {
            name.strip_prefix(ORIGINAL.as_bytes()).map(|name| (name.to_vec(), value.to_vec()))
        };
        let mut fields: Fields = letter.fields().filter_map(original).collect();
        fields.extend(letter.field(MORE).map(unfold).unwrap_or_default());
        let id = letter.field("entry").and_then(|id| std::str::from_utf8(id).ok()?.parse().ok()).unwrap_or_default();
        let original = Arc::new(Entry::new(id, &fields));
        Self { id: DeadLetterId { partition, entry: letter.id }, letter, original, event: PhantomData }
    }

    /// A letter that waits to be handled again, under the id that it had.
    pub(crate) fn of_replay(partition: u32, letter: Arc<Entry>) -> Self {
        let mut waiting = Self::of(partition, letter);
        if let Ok(id) = waiting.text("letter").parse() {
            waiting.id.entry = id;
        }
        waiting
    }

    fn text(&self, field: &str) -> &str {
        self.letter.field(field).and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }

    /// Where the letter lies, for [`DeadLetters`](crate::DeadLetters).
    pub fn id(&self) -> DeadLetterId {
        self.id
    }

    /// The event's entry as it was: id, raw payload, headers.
    pub fn original(&self) -> &Arc<Entry> {
        &self.original
    }

    /// The Redis key of the partition that held the event.
    pub fn stream(&self) -> &str {
        self.text("stream")
    }

    /// The function that gave up; empty when none was called.
    pub fn consumer(&self) -> &str {
        self.text("consumer")
    }

    /// Why, in one word: see [`Cause::as_str`].
    pub fn cause(&self) -> &str {
        self.text("cause")
    }

    /// Why, in the handler's own words.
    pub fn reason(&self) -> &str {
        self.text("reason")
    }

    /// How many attempts there were.
    pub fn attempts(&self) -> u32 {
        self.text("attempts").parse().unwrap_or_default()
    }

    /// How often it was handled again before, in vain.
    pub fn replays(&self) -> u32 {
        self.text("replays").parse().unwrap_or_default()
    }

    /// Whether somebody has edited the payload: then it is another one than that of the stream.
    pub fn is_edited(&self) -> bool {
        self.letter.field(EDITED).is_some()
    }

    /// Whether a part of it was not read, because it is too large.
    pub(super) fn is_cut(&self) -> bool {
        cut_from(&self.letter).is_some() || cut_from(&self.original).is_some()
    }

    /// The letter's own fields, with another payload in the place of the original one.
    pub(super) fn with_payload(&self, payload: &[u8]) -> Fields {
        let name = [ORIGINAL, Entry::PAYLOAD].concat().into_bytes();
        let edited = [(EDITED.as_bytes().to_vec(), b"1".to_vec()), (name.clone(), payload.to_vec())];
        let is_kept = |field: &[u8]| field != EDITED.as_bytes() && field != name;
        let kept = self.letter.fields().filter(|(field, _)| is_kept(field));
        kept.map(|(name, value)| (name.to_vec(), value.to_vec())).chain(edited).collect()
    }

    /// The event's name as the entry gives it; empty where it gives none.
    pub fn event_name(&self) -> &str {
        self.original.event().map_or("", |(name, _)| name)
    }

    /// The payload as text in the manner of JSON, without the event's type: at most about `most` bytes of it. Bytes that
    /// are no MessagePack are in hexadecimal.
    pub fn payload_text(&self, most: usize) -> String {
        self.original.payload().map_or_else(String::new, |payload| codec::text(payload, most))
    }

    /// When the group gave up, by the server's clock.
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.id.entry.ms)
    }
}

impl<E: StreamEvent> DeadLetter<E> {
    /// The event.
    ///
    /// # Errors
    /// When the bytes are not such an event, which may be why it lies here, or are another event of the stream.
    pub fn decode(&self) -> Result<E, DecodeError> {
        codec::decode(&self.original)
    }
}

/// Why an event is a dead letter, in one word that stands in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The handler returned an error on its last attempt.
    Handler,
    /// The handler returned a permanent error.
    Permanent,
    /// The handler panicked on its last attempt.
    Panic,
    /// The handler outran its timeout on its last attempt.
    Timeout,
    /// The bytes are not the event they claim to be.
    Decode,
    /// An argument of the handler could not be made on the last attempt.
    Argument,
    /// The handler asked for it.
    Asked,
    /// The process ended, or lost its lease, too often while it handled the event.
    Crash,
}

impl Cause {
    /// Every cause, in the order of their declaration.
    pub(super) const ALL: [Self; 8] = [
        Self::Handler,
        Self::Permanent,
        Self::Panic,
        Self::Timeout,
        Self::Decode,
        Self::Argument,
        Self::Asked,
        Self::Crash,
    ];

    /// The cause to record if this failed attempt is the last.
    pub(crate) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Decode(_) => Self::Decode,
            _ if failure.is_permanent() => Self::Permanent,
            Failure::Panic(_) => Self::Panic,
            Failure::TimedOut(_) => Self::Timeout,
            Failure::Rejected { .. } => Self::Argument,
            _ => Self::Handler,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Permanent => "permanent",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Decode => "decode",
            Self::Argument => "argument",
            Self::Asked => "asked",
            Self::Crash => "crash",
        }
    }
}

impl FromStr for Cause {
    type Err = UnknownCause;

    fn from_str(word: &str) -> Result<Self, UnknownCause> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word).ok_or_else(|| UnknownCause(word.to_owned()))
    }
}

/// A word that is no [`Cause`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no cause of a dead letter; expected one of: {words}", words = Cause::ALL.map(Cause::as_str).join(", "))]
pub struct UnknownCause(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_place() {
        assert!(Cause::ALL.iter().enumerate().all(|(place, cause)| *cause as usize == place));
    }
    use streams_core::keys::StreamKey;

    #[test]
    fn a_reason_is_cut_between_two_characters() {
        assert_eq!(cut("short"), "short");
        let long = format!("{}ä", "x".repeat(MOST_REASON - 1));
        assert_eq!(cut(&long).len(), MOST_REASON - 1);
    }

    #[test]
    fn a_letter_gives_back_the_entry_as_it_was() {
        let fields = vec![
            (b"event".to_vec(), b"Trade@1".to_vec()),
            (b"payload".to_vec(), vec![0xc1, 0xff]),
            (b"tenant".to_vec(), b"a".to_vec()),
            (b"tenant".to_vec(), b"b".to_vec()),
        ];
        let headers = (0..2_000).map(|number| (format!("h{number}").into_bytes(), vec![b'x'; number % 300]));
        let entry = Entry::new(EntryId::new(7, 1), &fields.into_iter().chain(headers).collect::<Vec<_>>());
        let key = StreamKey::new(None, "trades", 4).partition(3).group("risk");
        let given_up =
            GivenUp { consumer: "check", cause: "decode", reason: "bad", attempts: 2, replays: 0, edited: false };
        let letter = super::fields(&key, &entry, &given_up);
        let letter = DeadLetter::<()>::of(3, Arc::new(Entry::new(EntryId::new(9, 0), &letter)));
        assert_eq!(**letter.original(), entry);
        assert_eq!((letter.stream(), letter.consumer(), letter.cause()), ("trades.3", "check", "decode"));
        assert_eq!((letter.reason(), letter.attempts(), letter.id().to_string()), ("bad", 2, "3/9-0".to_owned()));
    }
}
