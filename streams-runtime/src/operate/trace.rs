//! One event's way: the entries that carry an id, sought in streams page by page, newest first.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use streams_core::broker::{BrokerError, BrokerErrorKind};
use streams_core::keys::StreamKey;
use streams_core::{Entry, EntryId};

use super::inspector::Inspector;
use crate::ops::trace::TRACEPARENT;

/// How many entries a page looks at, how many bytes of them, and how many reads it makes at most.
const MOST_SEEN: usize = 2_000;
const MOST_BYTES: usize = 4 * 1024 * 1024;
const MOST_READS: usize = 100;
/// How many entries are read at once, fewer where they are large.
const READ: usize = 200;
const READ_BYTES: usize = 1024 * 1024;

/// An id, and where it is sought.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// A trace id of W3C's `traceparent`, an event's id, or the value of any header, such as that of a correlation id.
    pub id: &'a str,
    /// The names of the streams, in the order in which they are looked at.
    pub streams: &'a [String],
    /// No entry before this one is looked at.
    pub since: EntryId,
}

/// The place up to which entries were looked at: `stream/partition/entry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracePlace {
    stream: String,
    partition: u32,
    entry: EntryId,
}

impl TracePlace {
    /// The stream in which the next page begins.
    pub fn stream(&self) -> &str {
        &self.stream
    }
}

impl fmt::Display for TracePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.stream, self.partition, self.entry)
    }
}

impl FromStr for TracePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = || {
            let (rest, entry) = text.rsplit_once('/')?;
            let (stream, partition) = rest.rsplit_once('/')?;
            Some(Self { stream: stream.to_owned(), partition: partition.parse().ok()?, entry: entry.parse().ok()? })
        };
        place().ok_or_else(|| format!("`{text}` is no place of a search; expected one that a page has answered"))
    }
}

/// An entry that carries the id.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Traced {
    /// The stream's name.
    pub stream: String,
    /// The partition.
    pub partition: u32,
    /// The entry.
    pub entry: Arc<Entry>,
}

/// The finds of one page of a search.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TracePage {
    /// The entries that carry the id.
    pub found: Vec<Traced>,
    /// How many entries were looked at.
    pub seen: usize,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<TracePlace>,
}

impl Inspector {
    /// Looks for the entries that carry an id: one page of at most 2,000 entries or 4 MiB, from the beginning or from where
    /// the page before ended.
    ///
    /// # Errors
    /// When the server cannot be asked. A stream that is gone meanwhile is passed over.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    ///
    /// ```no_run
    /// # async fn example(inspector: streams_runtime::Inspector) -> Result<(), streams_runtime::broker::BrokerError> {
    /// use streams_runtime::{EntryId, Sought};
    ///
    /// let streams = ["trades".to_owned()];
    /// let sought = Sought { id: "4bf92f3577b34da6a3ce929d0e0e4736", streams: &streams, since: EntryId::ZERO };
    /// let mut page = inspector.trace(sought, None).await?;
    /// while let Some(next) = page.next.take() {
    ///     page = inspector.trace(sought, Some(&next)).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn trace(&self, sought: Sought<'_>, from: Option<&TracePlace>) -> Result<TracePage, BrokerError> {
        let mut page = TracePage::default();
        let (mut bytes, mut reads) = (0, 0);
        let begun = from.and_then(|from| sought.streams.iter().position(|stream| *stream == from.stream));
        for (place, stream) in sought.streams.iter().enumerate().skip(begun.unwrap_or_default()) {
            let key = match self.key(stream).await {
                Ok(key) => key,
                // A stream that was removed meanwhile is no reason to end.
                Err(error) if error.kind() == BrokerErrorKind::Refused => continue,
                Err(error) => return Err(error),
            };
            let from = from.filter(|_| begun == Some(place));
            for partition in from.map_or(0, |from| from.partition)..key.partitions() {
                let mut at = from.filter(|from| from.partition == partition).map_or(EntryId::MAX, |from| from.entry);
                let mut largest = READ_BYTES / READ;
                loop {
                    if page.seen >= MOST_SEEN || bytes >= MOST_BYTES || reads >= MOST_READS {
                        page.next = Some(TracePlace { stream: stream.clone(), partition, entry: at });
                        return Ok(page);
                    }
                    reads += 1;
                    let count = (READ_BYTES / largest).clamp(1, READ);
                    let read = self.back(&key, partition, at, count).await?;
                    let is_end = read.len() < count;
                    for entry in read {
                        if entry.id < sought.since {
                            at = EntryId::ZERO;
                            break;
                        }
                        at = entry.id;
                        page.seen += 1;
                        bytes += entry.weight();
                        largest = largest.max(entry.weight());
                        if carries(&entry, sought.id) {
                            page.found.push(Traced { stream: stream.clone(), partition, entry });
                        }
                    }
                    if is_end || at == EntryId::ZERO {
                        break;
                    }
                }
            }
        }
        Ok(page)
    }

    async fn back(
        &self,
        key: &StreamKey,
        partition: u32,
        at: EntryId,
        count: usize,
    ) -> Result<Vec<Arc<Entry>>, BrokerError> {
        self.broker().read_back(&key.partition(partition), at, count).await
    }
}

/// Whether the entry's id or a header is this, or its trace has this id.
fn carries(entry: &Entry, id: &str) -> bool {
    let is_it = |value: &[u8]| value == id.as_bytes();
    entry.given_id().is_some_and(|given| is_it(given.as_bytes()))
        || entry.headers().iter().any(|(_, value)| is_it(value))
        || trace_of(entry) == Some(id)
}

/// The trace id of the W3C `traceparent` of an entry.
pub fn trace_of(entry: &Entry) -> Option<&str> {
    let parent = entry.headers().get(TRACEPARENT)?;
    parent.split('-').nth(1).filter(|id| id.len() == 32)
}

#[cfg(test)]
mod tests {
    use streams_core::broker::{Fields, Log as _};

    use super::*;
    use crate::broker::Embedded;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn an_entry_carries_its_own_id_its_trace_and_its_headers() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let pairs = [("event", "Trade@1"), ("id", "t-1"), ("traceparent", &*parent), ("correlation_id", "c-7")];
        let entry = Entry::new(EntryId::new(1, 0), &fields(&pairs));
        assert!(["t-1", TRACE, "c-7", &parent].iter().all(|id| carries(&entry, id)));
        assert!(["Trade@1", "t-2", "c", "00f067aa0ba902b7", ""].iter().all(|id| !carries(&entry, id)));
    }

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = TracePlace { stream: "a:b".to_owned(), partition: 3, entry: EntryId::new(7, 1) };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "a/1", "a/x/1-0", "a/1/x"] {
            assert!(bad.parse::<TracePlace>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn all_partitions_of_all_streams_are_looked_at_page_by_page_and_nothing_before_the_time() {
        let broker = Arc::new(Embedded::new());
        for stream in ["a", "b"] {
            let key = StreamKey::new(None, stream, 2);
            broker.declare(&key).await.unwrap();
            for n in 0..2_500 {
                let id = if n % 1_000 == 0 { "sought" } else { "another" };
                let partition = key.partition(n % 2);
                broker.append(&partition, vec![fields(&[("event", "E@1"), ("id", id)])], None).await.unwrap();
            }
        }
        let inspector = Inspector::on(broker.clone(), None).unwrap();
        let streams = ["a".to_owned(), "gone".to_owned(), "b".to_owned()];
        let sought = Sought { id: "sought", streams: &streams, since: EntryId::ZERO };
        let (mut found, mut seen, mut pages, mut next) = (Vec::new(), 0, 0, None);
        loop {
            let page = inspector.trace(sought, next.as_ref()).await.unwrap();
            assert!(page.seen <= MOST_SEEN + READ, "{}", page.seen);
            found.extend(page.found.into_iter().map(|it| (it.stream, it.partition)));
            (seen, pages, next) = (seen + page.seen, pages + 1, page.next);
            if next.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (5_000, 3));
        let of = |stream: &str| found.iter().filter(|(name, _)| name == stream).count();
        assert_eq!((of("a"), of("b")), (3, 3));
        let late = Sought { since: EntryId::MAX, ..sought };
        assert_eq!(inspector.trace(late, None).await.unwrap().seen, 0);
    }
}
