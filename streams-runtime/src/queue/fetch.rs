//! How a consumer of a work queue asks for entries: one call at a time, each for a chunk, and the same again until there is an
//! answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerError, Chunk, Cursor, Fetch, Fetched, Judged, Lost, New, Pass, Snapshot};
use streams_core::keys::PartitionKey;
use streams_core::{Entry, EntryId};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::after;
use crate::data_loss::{DataLoss, DataLossKind};
use crate::ops::Sent;
use crate::reader::{self, Bookmark, Follower, Reading, Taken, Witness};

/// How often the server's own group is shown the cursor: as often as somebody looks at it.
const MIRROR: Duration = Duration::from_secs(1);

/// For how long at least, and for up to this times two to the power of how much, a process lets others fetch first that came too
/// late before: with many idle processes one call a millisecond or two finds what has arrived.
const YIELD: Duration = Duration::from_millis(1);
const MOST_LATE: u32 = 3;

/// How many entries a consumer that is alone reads before it asks for them.
const READ_AHEAD: usize = 512;

/// The entries behind the cursor that a consumer which is alone has read by itself, and a read that goes on from there.
#[derive(Default)]
struct ReadAhead {
    entries: VecDeque<Arc<Entry>>,
    reading: Option<Reading>,
}

/// The answer to a fetch, or to a read that goes on behind the cursor.
pub(super) enum Answer {
    Fetched(Result<Fetched, BrokerError>),
    Read(Result<Arc<reader::Chunk>, BrokerError>),
}

/// A fetch that has no answer yet.
struct Fetching {
    fetch: Arc<Fetch>,
    /// Entries that this process has read by itself, and the fetch is about.
    known: Vec<Arc<Entry>>,
    /// `None` while it waits to be sent again.
    reply: Option<AbortOnDropHandle<Result<Fetched, BrokerError>>>,
}

/// The one fetch on its way, and the next.
pub(super) struct Fetcher {
    calls: u64,
    fetching: Option<Fetching>,
    pub(super) failures: u32,
    /// When to ask again after a call that failed.
    pub(super) retry_at: Option<Instant>,
    /// There may be something to fetch.
    pub(super) hungry: bool,
    /// When the first of those that wait may be taken.
    pub(super) due: Option<Instant>,
    /// The newest entry that this process has heard of.
    heard: EntryId,
    /// The cursor, as of the last answer.
    at: EntryId,
    /// How often in a row others had already fetched the entries that this process had heard of.
    late: u32,
    /// When to ask for entries that others may fetch first.
    pub(super) yields_until: Option<Instant>,
    /// Nothing is asked for before it is judged what comes next.
    pub(super) is_unsure: bool,
    /// The next entry, as a look has found it.
    judged: Option<Judged>,
    /// The cursor as it was left here, with what the entry there looks like.
    end: Option<(EntryId, Witness)>,
    ahead: ReadAhead,
    mirror_at: Instant,
    /// The last call that was sent.
    pub(super) sent: Sent,
}

/// The meaning of a look at the stream for the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It goes on with this entry.
    Next(Judged),
    /// Nothing is behind it.
    End,
    /// It goes over what is lost, or over ids that no entry has any more.
    Pass(Pass, Option<DataLoss>),
    /// History was cut.
    Cut(DataLoss, Bookmark),
}

/// Judges a snapshot from the cursor on, by the rule of every reader.
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
    /// For who has heard of entries up to `heard`.
    pub(super) fn new(heard: EntryId, now: Instant) -> Self {
        Self {
            calls: 0,
            fetching: None,
            failures: 0,
            retry_at: None,
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
            sent: Sent::at(now),
        }
    }

    /// Whether entries may be asked for.
    pub(super) fn may_ask(&self) -> bool {
        let reads_first = self.ahead.reading.is_some() && self.ahead.entries.is_empty();
        self.hungry && !self.is_unsure && self.fetching.is_none() && !reads_first
    }

    /// Reads on behind the cursor, for a consumer that is alone: the server need not read entries for it that the tail has, or
    /// that a plain read brings at less cost.
    pub(super) fn read_ahead(&mut self, follower: &Follower, partition: &PartitionKey, is_alone: bool) {
        if !is_alone {
            self.ahead = ReadAhead::default();
            return;
        }
        // Asked between any two events: where nothing may have come, nobody looks.
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

    /// Up to where this consumer has read by itself, with what the entry there looks like.
    fn last_read(&self) -> Option<(EntryId, Witness)> {
        let end = self.end?;
        Some(self.ahead.entries.back().map_or(end, |last| (last.id, Witness::of(last))))
    }

    /// Takes up what was read. Where it does not follow what is known, the server says what comes next.
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

    /// The newest entry is this one now. Whoever came too late before lets others fetch first: where each of many idle
    /// processes asked at once, one call would bring an entry and all others would only cost the server their time.
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

    /// Nothing is fetched any more.
    pub(super) fn ignore_read(&mut self) {
        self.ahead = ReadAhead::default();
    }

    /// This process does not know any more which entries are behind the cursor.
    fn lose_sight(&mut self) {
        (self.end, self.ahead, self.hungry) = (None, ReadAhead::default(), true);
    }

    /// Whether a call is on its way, or waits to be sent again.
    pub(super) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// Whether a call is without an answer.
    pub(super) fn is_sent(&self) -> bool {
        self.fetching.as_ref().is_some_and(|fetching| fetching.reply.is_some())
    }

    /// The next call: `fetch` says all of it but its number and which new entries it is about. Those that were read here are
    /// proposed.
    pub(super) fn next(&mut self, mut fetch: Fetch, now: Instant) -> Arc<Fetch> {
        self.calls += 1;
        // The answer may lack what comes from here on.
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
        let fetch = Arc::new(fetch);
        self.fetching = Some(Fetching { fetch: Arc::clone(&fetch), known, reply: None });
        fetch
    }

    /// A call is on its way.
    pub(super) fn sends(&mut self, reply: AbortOnDropHandle<Result<Fetched, BrokerError>>, now: Instant) {
        if let Some(fetching) = &mut self.fetching {
            fetching.reply = Some(reply);
            self.sent = Sent::at(now);
        }
    }

    /// Waits for an answer.
    ///
    /// # Cancel safety
    /// The calls go on.
    pub(super) async fn answer(&mut self) -> Answer {
        let reply = self.fetching.as_mut().and_then(|fetching| fetching.reply.as_mut());
        let reply = async {
            match reply {
                Some(reply) => crate::group::joined(reply).await,
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
            fetched = reply => Answer::Fetched(fetched),
            read = read => Answer::Read(read),
        }
    }

    /// There was no answer: the same is asked again at this moment.
    pub(super) fn failed(&mut self, at: Instant) {
        if let Some(fetching) = &mut self.fetching {
            fetching.reply = None;
        }
        self.retry_at = Some(at);
    }

    /// The call to send again, when it is time.
    pub(super) fn again(&mut self, now: Instant) -> Option<Arc<Fetch>> {
        self.retry_at.take_if(|at| *at <= now)?;
        self.fetching.as_ref().map(|fetching| Arc::clone(&fetching.fetch))
    }

    /// Takes up a chunk: its number, and the new entries in it.
    pub(super) fn take_up(&mut self, chunk: &mut Chunk, now: Instant) -> Option<(u64, EntryId, Vec<Arc<Entry>>)> {
        let Fetching { fetch, known, .. } = self.fetching.take()?;
        (self.failures, self.retry_at) = (0, None);
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
                    // Somebody else has fetched meanwhile.
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
        // Where a chunk is full, or something has arrived meanwhile, there may be more.
        self.hungry |= number >= fetch.count || (number > 0 && self.heard > self.at);
        Some((fetch.call, after, new))
    }

    /// The call has given out nothing.
    pub(super) fn nothing(&mut self) {
        // Only what takes effect uses its number.
        self.calls -= u64::from(self.fetching.take().is_some());
        (self.failures, self.retry_at) = (0, None);
    }

    /// A look has found what comes next, or that nothing does.
    pub(super) fn judged(&mut self, judged: Option<Judged>) {
        let hungry = self.hungry || judged.is_some();
        self.lose_sight();
        (self.hungry, self.judged) = (hungry, judged);
    }
}
