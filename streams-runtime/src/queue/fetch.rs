//! The fetches of a work queue's consumer: one call at a time, each for a chunk, sent again unchanged until answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerError, Chunk, Cursor, Fetch, Fetched, Judged, Lost, New, Pass, Snapshot};
use streams_core::keys::PartitionKey;
use streams_core::{Entry, EntryId};
use tokio::time::Instant;

use crate::clock::after;
use crate::data_loss::{DataLoss, DataLossKind};
use crate::group::Resend;
use crate::reader::{self, Bookmark, Follower, Reading, Taken, Witness};

/// How often the server's own group shows the cursor: as often as an operator looks at it.
const MIRROR: Duration = Duration::from_secs(1);

/// How long a process that came too late before lets others fetch first: at least this, doubled for each time, up to
/// this many doublings. With many idle processes, a call every millisecond or two finds new entries.
const YIELD: Duration = Duration::from_millis(1);
const MOST_LATE: u32 = 3;

/// How many entries a lone consumer reads before it asks for them.
const READ_AHEAD: usize = 512;

/// The entries behind the cursor that a lone consumer has read by itself, and its next read.
#[derive(Default)]
struct ReadAhead {
    entries: VecDeque<Arc<Entry>>,
    reading: Option<Reading>,
}

/// The answer to a fetch, or to a read behind the cursor.
pub(super) enum Answer {
    /// `None` says that it is time to send the same fetch again.
    Fetched(Option<Result<Fetched, BrokerError>>),
    Read(Result<Arc<reader::Chunk>, BrokerError>),
}

/// A fetch without an answer.
struct Fetching {
    call: Resend<Fetch, Fetched>,
    /// The entries that this process has read by itself and the fetch proposes.
    known: Vec<Arc<Entry>>,
}

/// The one fetch under way, and the next. Its fields are one value, because each of them decides whether the next one goes out.
pub(super) struct Fetcher {
    calls: u64,
    fetching: Option<Fetching>,
    /// Whether there may be entries to fetch.
    pub(super) hungry: bool,
    /// When the first waiting entry may be fetched.
    pub(super) due: Option<Instant>,
    /// The newest entry that this process has heard of.
    heard: EntryId,
    /// The cursor in the last answer.
    at: EntryId,
    /// How often in a row others had fetched the entries first that this process had heard of.
    late: u32,
    /// When to ask for entries that others may fetch first.
    pub(super) yields_until: Option<Instant>,
    /// No fetch goes out before a snapshot has judged which entry is next.
    pub(super) is_unsure: bool,
    /// The next entry, by a snapshot.
    judged: Option<Judged>,
    /// The cursor as this process left it, with the witness of the entry there.
    end: Option<(EntryId, Witness)>,
    ahead: ReadAhead,
    mirror_at: Instant,
}

/// The meaning of a snapshot for the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The cursor continues with this entry.
    Next(Judged),
    /// No entry is behind it.
    End,
    /// The cursor passes a loss, or ids that no entry has any more.
    Pass(Pass, Option<DataLoss>),
    /// History was cut.
    Cut(DataLoss, Bookmark),
}

/// Judges a snapshot from the cursor on, by the rule for all readers.
pub(super) fn judge(cursor: &Cursor, snapshot: &Snapshot, halts: bool) -> Finding {
    let mut reader = Bookmark::new(cursor.at, &cursor.at_event, cursor.seen);
    let loss = reader.judge(snapshot, snapshot.complete);
    let next = snapshot.entries.iter().find(|entry| entry.id > cursor.at).map(|entry| entry.id);
    let pass = |to: Cursor, loss: Option<DataLoss>| {
        let lost = loss.as_ref().filter(|_| halts).map(|loss| Lost {
            deleted: loss.kind == DataLossKind::DeletedUnread,
            from: loss.from,
            to: loss.to,
            count: loss.count.unwrap_or(0),
        });
        Finding::Pass(Pass { from: cursor.clone(), to, halts: lost }, loss)
    };
    match (loss, next) {
        (Some(loss), _) if !loss.kind.is_gap() => Finding::Cut(loss, reader),
        (Some(loss), _) => {
            let is_trim = loss.kind == DataLossKind::TrimmedPast;
            let to = match is_trim {
                true => Cursor { at: loss.to, at_event: String::new(), seen: reader.seen() },
                false => Cursor { seen: reader.seen(), ..cursor.clone() },
            };
            pass(to, Some(loss))
        }
        (None, Some(next)) => Finding::Next(Judged { at: cursor.at, next }),
        (None, None) => {
            if snapshot.complete {
                reader.pass_nothing(snapshot);
            }
            if reader.position() == cursor.at {
                return Finding::End;
            }
            pass(Cursor { at: reader.position(), at_event: String::new(), seen: reader.seen() }, None)
        }
    }
}

impl Fetcher {
    /// For a process that has heard of entries up to `heard`.
    pub(super) fn new(heard: EntryId, now: Instant) -> Self {
        Self {
            calls: 0,
            fetching: None,
            hungry: true,
            due: None,
            heard,
            at: EntryId::ZERO,
            late: 0,
            yields_until: None,
            is_unsure: false,
            judged: None,
            end: None,
            ahead: ReadAhead::default(),
            mirror_at: now,
        }
    }

    /// Whether a fetch may go out.
    pub(super) fn may_ask(&self) -> bool {
        let reads_first = self.ahead.reading.is_some() && self.ahead.entries.is_empty();
        self.hungry && !self.is_unsure && self.fetching.is_none() && !reads_first
    }

    /// Reads behind the cursor, for a lone consumer. The tail has these entries, or a plain read brings them at less
    /// cost, so the server need not read them for a fetch.
    pub(super) fn read_ahead(&mut self, follower: &Follower, partition: &PartitionKey, is_alone: bool) {
        if !is_alone {
            self.ahead = ReadAhead::default();
            return;
        }
        // Called between any two events, so it stops early when nothing can have come.
        if !self.hungry || self.ahead.reading.is_some() || self.ahead.entries.len() >= READ_AHEAD / 2 {
            return;
        }
        let Some((position, witness)) = self.last_read() else { return };
        match follower.take(position, Some(witness), READ_AHEAD) {
            Taken::Entries(entries) => self.ahead.entries.extend(entries),
            Taken::Behind { .. } => self.ahead.reading = Some(follower.read_on(partition, position)),
            Taken::Nothing | Taken::Broken(_) => {}
        }
    }

    /// The place up to which this consumer has read by itself, with the witness of the entry there.
    fn last_read(&self) -> Option<(EntryId, Witness)> {
        let end = self.end?;
        Some(self.ahead.entries.back().map_or(end, |last| (last.id, Witness::of(last))))
    }

    /// Takes the entries of a read. If they do not follow the known ones, the server says which are next.
    pub(crate) fn take_up_read(&mut self, read: Result<Arc<reader::Chunk>, BrokerError>, follower: &Follower) {
        self.ahead.reading = None;
        let follows = self.last_read().zip(read.ok()).and_then(|((position, witness), chunk)| {
            let (first, above) = chunk.from(position).split_first()?;
            let is_whole = !above.is_empty() || position >= chunk.floor;
            (first.id == position && Witness::of(first) == witness && is_whole).then(|| {
                if above.is_empty() {
                    follower.is_at_end(position, Some(witness));
                }
                above.to_vec()
            })
        });
        match follows {
            Some(entries) => {
                self.hungry |= !entries.is_empty();
                self.ahead.entries.extend(entries);
            }
            None => self.lose_sight(),
        }
    }

    /// The newest entry that this process has heard of.
    pub(super) fn heard(&self) -> EntryId {
        self.heard
    }

    /// Notes the newest entry. A process that came too late before lets others fetch first. If each of many idle
    /// processes asked at once, one call would bring an entry, and all others would only cost the server time.
    pub(super) fn hear(&mut self, newest: EntryId, fraction: f64, now: Instant) {
        let is_known = newest <= self.at && newest >= self.heard;
        self.heard = newest;
        if is_known {
            return;
        }
        match self.late {
            0 => self.hungry = true,
            late => {
                let longest = YIELD.saturating_mul(1 << late.min(MOST_LATE)).mul_f64(0.5 + fraction / 2.0);
                self.yields_until.get_or_insert(after(now, longest));
            }
        }
    }

    /// Drops the entries read ahead, because no fetch follows.
    pub(super) fn ignore_read(&mut self) {
        self.ahead = ReadAhead::default();
    }

    /// Notes that this process no longer knows which entries are behind the cursor.
    fn lose_sight(&mut self) {
        (self.end, self.ahead, self.hungry) = (None, ReadAhead::default(), true);
    }

    /// Whether a call is under way, or waits to be sent again.
    pub(super) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// The call under way.
    pub(super) fn call(&mut self) -> Option<&mut Resend<Fetch, Fetched>> {
        self.fetching.as_mut().map(|fetching| &mut fetching.call)
    }

    /// Prepares the next call. `fetch` holds all of it but its number and its new entries; the call proposes those read here.
    pub(super) fn next(&mut self, mut fetch: Fetch, now: Instant) {
        self.calls += 1;
        // The answer may lack entries that arrive from here on.
        (self.hungry, self.yields_until) = (false, None);
        fetch.call = self.calls;
        fetch.mirror = self.mirror_at <= now;
        let known: Vec<_> = self.ahead.entries.iter().take(fetch.count).cloned().collect();
        fetch.new = match (self.end, known.last()) {
            (Some((from, _)), Some(last)) => {
                let (to, to_event) = (last.id, last.given_id().unwrap_or_default().to_owned());
                New::Known { from, to, to_event, number: known.len() as u64 }
            }
            _ => New::Read { judged: self.judged },
        };
        self.fetching = Some(Fetching { call: Resend::new(Arc::new(fetch), now), known });
    }

    /// Waits for an answer.
    ///
    /// # Cancel safety
    /// The calls stay under way.
    pub(super) async fn answer(&mut self) -> Answer {
        let fetched = async {
            match &mut self.fetching {
                Some(fetching) => fetching.call.answer(std::future::pending()).await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match &mut self.ahead.reading {
                Some(reading) => reading.chunk().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            fetched = fetched => Answer::Fetched(fetched),
            read = read => Answer::Read(read),
        }
    }

    /// Takes a chunk: answers its number and its new entries.
    pub(super) fn take_up(&mut self, chunk: &mut Chunk, now: Instant) -> Option<(u64, EntryId, Vec<Arc<Entry>>)> {
        let Fetching { call, known } = self.fetching.take()?;
        let fetch = call.call;
        if fetch.mirror {
            self.mirror_at = now + MIRROR;
        }
        let (new, after) = match &fetch.new {
            New::Known { from, .. } if chunk.number > 0 => {
                self.ahead.entries.drain(..known.len());
                (known, *from)
            }
            New::Known { from, .. } => {
                if chunk.at != *from {
                    // Another process has fetched meanwhile.
                    self.lose_sight();
                }
                self.hungry = true;
                (Vec::new(), chunk.at)
            }
            _ => {
                let new = std::mem::take(&mut chunk.new);
                let after = new.first().map_or(chunk.at, |first| first.id.previous());
                (new, after)
            }
        };
        if let Some(last) = new.last() {
            (self.end, self.judged) = (Some((last.id, Witness::of(last))), None);
        }
        if matches!(fetch.new, New::Read { .. }) {
            self.ahead = ReadAhead::default();
        }
        let number = new.len() + chunk.again.len();
        if matches!(fetch.new, New::Read { .. }) {
            self.late = if number > 0 { 0 } else { self.late.saturating_add(1) };
        }
        self.at = chunk.at;
        // If the chunk is full, or an entry has arrived meanwhile, there may be more.
        self.hungry |= number >= fetch.count || (number > 0 && self.heard > self.at);
        Some((fetch.call, after, new))
    }

    /// Notes that the call has given out no entry.
    pub(super) fn nothing(&mut self) {
        // Only a call that takes effect uses its number.
        self.calls -= u64::from(self.fetching.take().is_some());
    }

    /// Notes the next entry by a snapshot, or that there is none.
    pub(super) fn judged(&mut self, judged: Option<Judged>) {
        let hungry = self.hungry || judged.is_some();
        self.lose_sight();
        (self.hungry, self.judged) = (hungry, judged);
    }
}
