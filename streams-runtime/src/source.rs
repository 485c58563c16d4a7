//! Where a group gets its entries, in order: from the window of the tail, or by reading for itself until it is there.
//!
//! [`loss`](crate::loss) judges here whether history is still whole, before anything is handed to `ordered`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerError, BrokerErrorKind, Holding, Snapshot};
use streams_core::{Entry, EntryId};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::loss::{DataLoss, DataLossKind, Reader};
use crate::ordered::{Ended, Group, TAKE};
use crate::tail::{Count, Follower, Taken};

/// How often an owner looks whether something was deleted that it has not read: what is deleted alone leaves no other trace.
const CHECK: Duration = Duration::from_secs(10);

/// Where a group gets its entries: from the window of the tail, or by reading for itself until it is there.
pub(crate) struct Source<'a> {
    group: &'a Group,
    follower: Follower,
    pub(crate) reader: Reader,
    /// Where the reader began: what it read since is known to the history of then.
    opened: EntryId,
    count: Count,
    /// A read that was begun before its entries are needed.
    ahead: Option<Ahead>,
    /// When to look for what was deleted.
    check: Pin<Box<Sleep>>,
}

struct Ahead {
    reply: JoinHandle<Result<Fetched, BrokerError>>,
    /// How many entries it asked for.
    asked: usize,
    /// The window's floor at that time.
    floor: EntryId,
}

enum Fetched {
    /// From the position on, the entry there included.
    Entries(Vec<Arc<Entry>>),
    Snapshot(Snapshot),
}

/// What comes next.
#[derive(Default)]
pub(crate) struct Arrived {
    /// In order; none when the position moved over ids that no entry has any more.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The ordinal before the first of them, where it is known.
    pub(crate) seen: Option<u64>,
    /// What is missing before or between them.
    pub(crate) loss: Option<DataLoss>,
}

impl<'a> Source<'a> {
    pub(crate) async fn open(group: &'a Group, holding: &Holding) -> Result<Self, BrokerError> {
        let partition = group.key.partition();
        // A new window begins at the end: what is before it the group reads for itself, without flooding the window.
        let last = group.engine.broker.extent(partition).await?.map_or(holding.at, |extent| extent.last);
        let follower = group.engine.tails.follow(partition.as_str(), last.max(holding.at), group.max_payload);
        let mut source = Self {
            group,
            follower,
            reader: Reader::new(holding.at, &holding.at_event, holding.seen),
            opened: holding.at,
            count: Count::new(group.max_payload, 1),
            ahead: None,
            check: Box::pin(tokio::time::sleep(CHECK)),
        };
        // The first look is at the checkpoint: much may have happened since somebody stood there.
        source.look(last);
        Ok(source)
    }

    /// The next entries.
    ///
    /// # Cancel safety
    /// Nothing is handed out until it returns, and a read that is on its way is kept.
    pub(crate) async fn next(&mut self) -> Result<Arrived, Ended> {
        loop {
            let Some(ahead) = &mut self.ahead else {
                if self.check.deadline() <= Instant::now() {
                    self.look(self.reader.position());
                    continue;
                }
                tokio::select! {
                    biased;
                    taken = self.follower.wait(self.reader.position(), TAKE) => match taken {
                        Taken::Entries(entries) => return Ok(self.hand_out(entries)),
                        Taken::Behind { floor } => self.read_ahead(floor),
                        Taken::Broken(error) => return Err(BrokerError::new(error.kind(), error.to_string()).into()),
                        Taken::Nothing => return Ok(Arrived::default()),
                    },
                    () = &mut self.check => {}
                }
                continue;
            };
            let (asked, floor) = (ahead.asked, ahead.floor);
            let reply = (&mut ahead.reply).await;
            self.ahead = None;
            let fetched = reply.unwrap_or_else(|error| {
                Err(BrokerError::new(BrokerErrorKind::Indefinite, "a read was aborted").caused_by(error))
            });
            match fetched? {
                Fetched::Snapshot(snapshot) => return self.judge(snapshot, asked),
                Fetched::Entries(mut entries) if self.reader.is_at(entries.first()) => {
                    entries.remove(0);
                    return Ok(self.go_on(entries, asked, floor));
                }
                // Trimmed past the position, or deleted there, or another history: only a snapshot can tell.
                Fetched::Entries(_) => self.look(floor),
            }
        }
    }

    fn hand_out(&mut self, entries: Vec<Arc<Entry>>) -> Arrived {
        let seen = self.reader.seen();
        self.reader.pass(&entries);
        Arrived { entries, seen, loss: None }
    }

    /// Hands out what was read, and begins the next read where there is more.
    fn go_on(&mut self, entries: Vec<Arc<Entry>>, asked: usize, floor: EntryId) -> Arrived {
        let full = entries.len() >= asked;
        self.count.saw(&entries);
        let arrived = self.hand_out(entries);
        if arrived.entries.is_empty() {
            // Read after the floor was known, and nothing there: no entry up to the floor is left.
            self.reader.pass_nothing(floor);
        } else if full && let Taken::Behind { floor } = self.follower.take(self.reader.position(), 1) {
            // Fetched while these are handled.
            self.read_ahead(floor);
        }
        arrived
    }

    /// Takes a snapshot for what it is: the truth about what is lost, and the next entries.
    fn judge(&mut self, snapshot: Snapshot, asked: usize) -> Result<Arrived, Ended> {
        self.check.as_mut().reset(Instant::now() + CHECK);
        let complete = snapshot.entries.len() < asked;
        let position = self.reader.position();
        let loss = self.reader.judge(&snapshot, complete);
        if let Some(loss) = &loss
            && !loss.kind.is_gap()
        {
            // A cut that was found on the way may have taken the state along, which is then the place to go on from.
            let rolled_back = loss.kind == DataLossKind::HistoryCut && position != self.opened;
            let at = (!rolled_back).then(|| self.reader.clone());
            return Err(Ended::Cut { loss: loss.clone(), at });
        }
        // Whatever the window still has up to here was deleted since, and is counted.
        let floor = if complete { snapshot.extent.map_or(position, |extent| extent.last) } else { position };
        let mut entries = snapshot.entries;
        entries.retain(|entry| entry.id > position);
        let mut arrived = self.go_on(entries, asked.saturating_sub(1), floor);
        self.reader.pass_nothing(floor);
        arrived.loss = loss;
        Ok(arrived)
    }

    /// Reads on from the position, which the read includes, so that it can be seen that nothing was trimmed.
    fn read_ahead(&mut self, floor: EntryId) {
        if !self.reader.has_witness() {
            return self.look(floor);
        }
        let asked = self.count.get();
        let (broker, key) = (Arc::clone(&self.group.engine.broker), self.group.key.clone());
        let before = self.reader.position().previous();
        let reply = tokio::spawn(async move {
            broker.read(key.partition(), before, asked.saturating_add(1)).await.map(Fetched::Entries)
        });
        self.ahead = Some(Ahead { reply, asked, floor });
    }

    /// Takes a snapshot from the position on.
    fn look(&mut self, floor: EntryId) {
        let asked = self.count.get().saturating_add(1);
        let (broker, key) = (Arc::clone(&self.group.engine.broker), self.group.key.clone());
        let from = self.reader.position();
        let reply = tokio::spawn(async move { broker.snapshot(&key, from, asked).await.map(Fetched::Snapshot) });
        self.ahead = Some(Ahead { reply, asked, floor });
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.reply.abort();
        }
    }
}
