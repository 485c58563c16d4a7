//! The queue of events to be written to a partition: calls that come during a write share the next, and a retry keeps its place.
//!
//! One task writes for a partition, as long as something waits, so a caller that goes away takes nobody's write with it.
//! Nothing waits for company: the first call of an idle partition is written at once and alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Durable, Fields};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_core::{Durability, EntryId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::executor::{Executor, ended};
use super::retention::{EXPIRE_AFTER, Floor};
use crate::clock::{Clock, after};
use crate::ops::{Contact, Matter, Outages, Registry};
use crate::random::Random;
use crate::schema_watch::{Publishes, SchemaNotes};
use crate::sync::lock;

/// The most entries that one write adds, and the most bytes: what a server does in a millisecond or so.
pub(super) const CHUNK: usize = 256;
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// How much may wait in one publisher, in bytes. It keeps a server busy during a full write to each of a dozen partitions,
/// and is little beside the memory of a service. Beyond it callers wait for their turn.
const ROOM: u32 = 16 * 1024 * 1024;
/// The bytes that an event counts besides its own, about what it takes here. So at most 16,384 wait.
const OVERHEAD: u32 = 1024;
/// How long a write may take to come to replicas or the disk. `appendfsync everysec` takes up to two seconds when the disk
/// is slow. A caller should still have its answer before a handler's time is up.
const DURABLE: Duration = Duration::from_secs(5);
/// How often the recorded partition count is looked at again. A server that came back without its data may have another
/// one, and events would go where nobody reads.
const RECHECK: Duration = Duration::from_secs(10);
/// The waits between attempts: at once for a connection that broke, and then a server that is away is not hammered.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Said of a call that no task could write for.
const OUTSIDE: &str = "it was published outside of a Tokio runtime, which writes it: call it in a task of one, or keep the guard of `tokio::runtime::Handle::enter` meanwhile";

/// The entries of one call. They stay together and in order.
struct Work {
    entries: Vec<Fields>,
    bytes: usize,
    /// Until when it is tried again.
    deadline: Instant,
    /// An attempt had no answer.
    maybe_added: bool,
    /// Given back when the work is answered.
    _room: OwnedSemaphorePermit,
}

/// Work, with the channel to its caller.
struct Item {
    work: Work,
    caller: oneshot::Sender<Told>,
}

impl Item {
    fn answer(self, answer: Answer) {
        // A caller that no longer waits needs no answer.
        let _ = self.caller.send(Told::Answer(answer));
    }
}

/// A writer's word to a caller.
enum Told {
    Answer(Answer),
    /// The executor of the writer has ended.
    Back(Work),
}

/// The answer to an item: its entries' ids, or an error that it may share with others.
pub(super) type Answer = Result<Durable, Arc<BrokerError>>;

/// An answer that is still to come.
pub(super) struct Pending {
    queue: Arc<Queue>,
    told: oneshot::Receiver<Told>,
    /// The writer was started for this call, on the executor that it may use.
    is_own: bool,
}

impl Pending {
    pub(super) async fn answer(self) -> Answer {
        let Self { queue, mut told, mut is_own } = self;
        loop {
            match told.await {
                Ok(Told::Answer(answer)) => return answer,
                // It was the executor of another call, which has ended.
                Ok(Told::Back(work)) if !is_own => (told, is_own) = queue.add(work),
                Ok(Told::Back(work)) => {
                    let kind =
                        if work.maybe_added { BrokerErrorKind::Indefinite } else { BrokerErrorKind::Unavailable };
                    return Err(Arc::new(ended(kind)));
                }
                Err(_) => return Err(Arc::new(ended(BrokerErrorKind::Indefinite))),
            }
        }
    }
}

/// The parts that all queues of a publisher share.
pub(crate) struct Shared {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) clock: Clock,
    pub(super) random: Arc<Random>,
    /// For how long a write is tried again.
    pub(super) retry: Duration,
    /// For how long entries may wait for a group before the log asks whether anybody runs it.
    pub(super) expire_after: Duration,
    pub(super) notes: Arc<SchemaNotes>,
    pub(super) registry: Arc<Registry>,
    room: Arc<Semaphore>,
    pub(super) outages: Outages,
    pub(super) executor: Executor,
}

impl Shared {
    pub(crate) fn new(
        broker: Arc<dyn Broker>,
        clock: Clock,
        random: Arc<Random>,
        retry: Duration,
        outages: Outages,
        registry: Arc<Registry>,
    ) -> Self {
        let notes = Arc::new(SchemaNotes::new(Arc::clone(&broker), clock));
        let room = Arc::new(Semaphore::new(ROOM as usize));
        let executor = Executor::of_the_caller();
        Self { broker, clock, random, retry, expire_after: EXPIRE_AFTER, notes, registry, room, outages, executor }
    }

    /// The same for other streams, or with another time to try again: the room is shared, and so is the executor.
    pub(super) fn beside(&self, retry: Duration) -> Self {
        let (broker, random) = (Arc::clone(&self.broker), Arc::clone(&self.random));
        Self {
            notes: Arc::new(SchemaNotes::new(Arc::clone(&broker), self.clock)),
            broker,
            clock: self.clock,
            random,
            retry,
            expire_after: self.expire_after,
            registry: Arc::clone(&self.registry),
            room: Arc::clone(&self.room),
            outages: self.outages.clone(),
            executor: self.executor.clone(),
        }
    }

    pub(crate) fn on(mut self, executor: Executor) -> Self {
        self.executor = executor;
        self
    }

    /// Waits until everything is answered that has room now or waits for it.
    pub(super) async fn flush(&self) {
        // Room is given in the order in which it was asked for, and nobody closes the semaphore.
        let _all = self.room.acquire_many(ROOM).await;
    }

    pub(crate) fn expire_after(mut self, expire_after: Duration) -> Self {
        self.expire_after = expire_after;
        self
    }
}

/// A stream whose partition count is checked before its first write.
pub(super) struct Declared {
    pub(super) key: StreamKey,
    /// The problem of the declarations of the stream's events.
    problem: Option<String>,
    /// When the record was last looked at; the lock is held while one looks, for all.
    checked: tokio::sync::Mutex<Option<Instant>>,
    /// The events that are published to it; each is noted for other builds before its first entry.
    pub(super) publishes: Publishes,
}

impl Declared {
    pub(super) fn new(key: StreamKey, problem: Option<String>) -> Self {
        Self { key, problem, checked: tokio::sync::Mutex::default(), publishes: Publishes::default() }
    }

    pub(super) async fn check(&self, broker: &dyn Broker) -> Result<(), BrokerError> {
        if let Some(problem) = &self.problem {
            return Err(BrokerError::new(BrokerErrorKind::Mismatch, problem.clone()));
        }
        let mut checked = self.checked.lock().await;
        if checked.is_none_or(|checked| checked.elapsed() >= RECHECK) {
            broker.declare(&self.key).await?;
            *checked = Some(Instant::now());
        }
        Ok(())
    }
}

/// The items that wait for one partition.
pub(super) struct Queue {
    shared: Arc<Shared>,
    stream: Arc<Declared>,
    key: PartitionKey,
    durability: Option<Durability>,
    waiting: Mutex<Waiting>,
    contact: Contact,
    /// Touched by the task that writes, of which there is one.
    floor: tokio::sync::Mutex<Floor>,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// A task is writing, and takes what comes.
    writing: bool,
}

impl Queue {
    pub(super) fn new(
        shared: &Arc<Shared>,
        stream: &Arc<Declared>,
        index: u32,
        durability: Option<Durability>,
        floor: Floor,
    ) -> Self {
        let key = stream.key.partition(index);
        Self {
            shared: Arc::clone(shared),
            stream: Arc::clone(stream),
            contact: shared.outages.contact(format!("the publisher of `{key}`")),
            key,
            durability,
            waiting: Mutex::default(),
            floor: tokio::sync::Mutex::new(floor),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// Puts these entries behind everything that came before, when there is room; at most [`CHUNK`] of them, which are
    /// written in one go. They are written also when nobody waits for the answer.
    pub(super) async fn put(self: &Arc<Self>, entries: Vec<Fields>) -> Pending {
        let bytes = entries.iter().map(size).sum();
        let room = Arc::clone(&self.shared.room).acquire_many_owned(room_for(entries.len(), bytes)).await;
        let (told, is_own) = match room {
            Ok(room) => {
                let deadline = after(Instant::now(), self.shared.retry);
                self.add(Work { entries, bytes, deadline, maybe_added: false, _room: room })
            }
            // Nobody closes the semaphore; if somebody did, the answer would be that of a writer that has ended.
            Err(_) => (oneshot::channel().1, true),
        };
        Pending { queue: Arc::clone(self), told, is_own }
    }

    /// Adds work, and starts a writer where none writes: then that is the second part.
    fn add(self: &Arc<Self>, work: Work) -> (oneshot::Receiver<Told>, bool) {
        let (caller, told) = oneshot::channel();
        let item = Item { work, caller };
        let Some(executor) = self.shared.executor.handle() else {
            item.answer(Err(Arc::new(BrokerError::new(BrokerErrorKind::Refused, OUTSIDE))));
            return (told, false);
        };
        let is_idle = {
            let mut waiting = self.waiting();
            waiting.items.push_back(item);
            !std::mem::replace(&mut waiting.writing, true)
        };
        if is_idle {
            let queue = Arc::clone(self);
            let writer = Writer { queue, items: VecDeque::new(), trouble: None, done: false };
            // An executor that has ended drops it at once, and it then tells who waits: nothing is locked here.
            executor.spawn(writer.run());
        }
        (told, is_idle)
    }

    /// One attempt. The other side of the error: whether anything was sent.
    async fn write(&self, entries: Vec<Fields>) -> Result<Durable, Failed> {
        let broker = &*self.shared.broker;
        let before = |error| Failed { error, sent: false };
        self.stream.check(broker).await.map_err(before)?;
        self.stream.publishes.write_notes(&self.shared.notes, &self.stream.key).await;
        self.shared.notes.look_for_strays(&self.stream.key).await;
        let floor = self.floor.lock().await.get(broker, &self.key, &self.shared.clock).await.map_err(before)?;
        let count = entries.len();
        match broker.append_durably(&self.key, entries, floor, self.durability, DURABLE).await {
            Ok(written) if written.ids.len() != count => {
                let message = format!("appending to `{}`: {} ids for {count} entries", self.key, written.ids.len());
                Err(Failed { error: BrokerError::new(BrokerErrorKind::Protocol, message), sent: true })
            }
            Ok(written) => Ok(written),
            Err(error) => Err(Failed { error, sent: true }),
        }
    }
}

impl Queue {
    /// A full server refuses an entry before it trims for it: trims by itself; answers whether anything went.
    async fn makes_room(&self, failed: &mut Failed) -> bool {
        let mut floor = self.floor.lock().await;
        match floor.trim(&*self.shared.broker, &self.key, &self.shared.clock).await {
            Ok(trimmed) => trimmed > 0,
            Err(error) => {
                if error.kind() == BrokerErrorKind::Refused {
                    let message = format!("{}; and old entries cannot be trimmed to make room: {error}", failed.error);
                    failed.error = BrokerError::new(BrokerErrorKind::Full, message);
                }
                false
            }
        }
    }
}

/// An attempt that failed.
struct Failed {
    error: BrokerError,
    /// Whether it came to sending: before that, an answer that did not come says nothing about the entries.
    sent: bool,
}

/// How much room a call takes; what is larger than everything takes everything.
fn room_for(count: usize, bytes: usize) -> u32 {
    let overhead = u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(OVERHEAD);
    u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(overhead).min(ROOM)
}

fn size(fields: &Fields) -> usize {
    fields.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// The task that writes for a partition, until nothing waits.
struct Writer {
    queue: Arc<Queue>,
    /// The items of the write under way, in order.
    items: VecDeque<Item>,
    /// Why the last attempt failed, while it is tried again.
    trouble: Option<Arc<BrokerError>>,
    /// Nothing is left; from here on another task may write.
    done: bool,
}

impl Writer {
    async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        let mut made_room = false;
        while self.gather() {
            // A copy, because what has no answer is written again.
            let entries = self.items.iter().flat_map(|item| item.work.entries.iter().cloned()).collect();
            let write = self.queue.write(entries);
            match self.queue.contact.patiently(Matter::Write, Instant::now(), write).await {
                Ok(written) => {
                    (self.trouble, made_room) = (None, false);
                    self.queue.contact.succeeded(Matter::Write);
                    wait = FIRST_WAIT;
                    self.answer(written);
                }
                Err(mut failed) => {
                    // Once for a write: a server that is full again has other reasons.
                    made_room = failed.error.kind() == BrokerErrorKind::Full && !made_room;
                    if made_room && self.queue.makes_room(&mut failed).await {
                        continue;
                    }
                    if self.fail(failed) {
                        let jitter = 0.5 + self.queue.shared.random.fraction() / 2.0;
                        // Everybody has a last attempt at the end of its time.
                        let first = self.items.front().map_or(Duration::ZERO, |item| {
                            item.work.deadline.saturating_duration_since(Instant::now())
                        });
                        tokio::select! {
                            () = tokio::time::sleep(wait.mul_f64(jitter).min(first)) => {}
                            () = self.queue.shared.outages.over() => {}
                        }
                        wait = (wait * 2).min(LONGEST_WAIT);
                    }
                }
            }
        }
        self.queue.contact.linger();
    }

    /// Takes what waits, as much as one write holds, behind what is still to be tried again. False at the end.
    fn gather(&mut self) -> bool {
        let mut waiting = self.queue.waiting();
        // While no write succeeds, an item that has waited out its time is not tried for the first time.
        let now = Instant::now();
        while let Some(trouble) = &self.trouble
            && waiting.items.front().is_some_and(|item| item.work.deadline <= now)
            && let Some(item) = waiting.items.pop_front()
        {
            let message = format!("not sent, because earlier events for the partition had no answer: {trouble}");
            item.answer(Err(Arc::new(BrokerError::new(BrokerErrorKind::Unavailable, message))));
        }
        let mut count: usize = self.items.iter().map(|item| item.work.entries.len()).sum();
        let mut bytes: usize = self.items.iter().map(|item| item.work.bytes).sum();
        while let Some(next) = waiting.items.front() {
            count += next.work.entries.len();
            bytes += next.work.bytes;
            if !self.items.is_empty() && (count > CHUNK || bytes > CHUNK_BYTES) {
                break;
            }
            self.items.extend(waiting.items.pop_front());
        }
        self.done = self.items.is_empty();
        waiting.writing = !self.done;
        !self.done
    }

    /// Answers everybody whose entries were written.
    fn answer(&mut self, written: Durable) {
        let Durable { ids, missing } = written;
        let mut ids = ids.into_iter();
        for item in self.items.drain(..) {
            let ids: Vec<EntryId> = ids.by_ref().take(item.work.entries.len()).collect();
            item.answer(Ok(Durable { ids, missing: missing.clone() }));
        }
    }

    /// Answers those who need not try again; true when somebody does.
    fn fail(&mut self, Failed { error, sent }: Failed) -> bool {
        let verdict = judge(error.kind(), sent);
        if verdict.maybe_added {
            self.items.iter_mut().for_each(|item| item.work.maybe_added = true);
        }
        let definite = match error.kind() {
            BrokerErrorKind::Indefinite if !sent => BrokerError::new(BrokerErrorKind::Unavailable, error.to_string()),
            BrokerErrorKind::Protocol if !sent => BrokerError::new(BrokerErrorKind::Refused, error.to_string()),
            _ => error,
        };
        let definite = Arc::new(definite);
        if verdict.again {
            self.queue.contact.failed(Matter::Write, &definite);
            self.trouble = Some(Arc::clone(&definite));
        } else if let BrokerErrorKind::Full | BrokerErrorKind::Refused = definite.kind() {
            // Its callers have the error, and the log says so when it goes on.
            self.queue.contact.refused(Matter::Write, &definite);
        } else {
            // It is the entries that the server does not take.
            self.queue.contact.succeeded(Matter::Write);
        }
        let mut indefinite = None;
        let now = Instant::now();
        while self.items.front().is_some_and(|item| !verdict.again || item.work.deadline <= now)
            && let Some(item) = self.items.pop_front()
        {
            let error = if item.work.maybe_added && !definite.is_indefinite() {
                indefinite.get_or_insert_with(|| Arc::new(unsure(&definite)))
            } else {
                &definite
            };
            item.answer(Err(Arc::clone(error)));
        }
        !self.items.is_empty()
    }
}

/// The last error was definite, but an attempt before it had no answer.
fn unsure(last: &Arc<BrokerError>) -> BrokerError {
    let message = format!("an attempt had no answer and may have taken effect; the last one failed: {last}");
    BrokerError::new(BrokerErrorKind::Indefinite, message).caused_by(Arc::clone(last))
}

/// The meaning of a failed attempt.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// The same entries are written again, in their place.
    again: bool,
    /// They may be in the stream all the same.
    maybe_added: bool,
}

fn judge(kind: BrokerErrorKind, sent: bool) -> Verdict {
    Verdict {
        // A full server is the caller's business: it alone can publish less.
        again: matches!(kind, BrokerErrorKind::Unavailable | BrokerErrorKind::Indefinite),
        maybe_added: sent && matches!(kind, BrokerErrorKind::Indefinite | BrokerErrorKind::Protocol),
    }
}

impl Drop for Writer {
    /// Only when the executor ends, or a broker panics, is something left. Its callers start another writer.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let left = {
            let mut waiting = self.queue.waiting();
            waiting.writing = false;
            std::mem::take(&mut waiting.items)
        };
        self.items.iter_mut().for_each(|item| item.work.maybe_added = true);
        for Item { work, caller } in self.items.drain(..).chain(left) {
            let _ = caller.send(Told::Back(work));
        }
    }
}

#[cfg(test)]
mod tests {
    use streams_core::broker::Log;

    use super::*;
    use crate::broker::Embedded;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_came_back_with_another_partition_count_is_noticed() {
        let declared = Declared::new(StreamKey::new(None, "trades", 8), None);
        declared.check(&Embedded::new()).await.unwrap();
        let back = Embedded::new();
        back.declare(&StreamKey::new(None, "trades", 4)).await.unwrap();
        declared.check(&back).await.unwrap();
        tokio::time::advance(RECHECK).await;
        assert_eq!(declared.check(&back).await.unwrap_err().kind(), BrokerErrorKind::Mismatch);
    }

    #[test]
    fn only_what_may_go_through_later_by_itself_is_tried_again() {
        use BrokerErrorKind::{Full, Indefinite, Mismatch, Protocol, Refused, Unavailable, Unsupported};
        let verdict = |again, maybe_added| Verdict { again, maybe_added };
        assert_eq!(judge(Unavailable, true), verdict(true, false));
        assert_eq!(judge(Indefinite, true), verdict(true, true));
        assert_eq!(judge(Indefinite, false), verdict(true, false));
        assert_eq!(judge(Protocol, true), verdict(false, true));
        for kind in [Full, Refused, Unsupported, Mismatch] {
            assert_eq!(judge(kind, true), verdict(false, false), "{kind:?}");
        }
    }

    #[test]
    fn room_is_counted_in_bytes_and_in_events() {
        assert_eq!(room_for(1, 100), 1_124);
        assert_eq!(room_for(256, 0), 256 * 1024);
        assert_eq!(room_for(1, usize::MAX), ROOM);
        assert_eq!(room_for(1, 17 * 1024 * 1024), ROOM);
    }
}
