//! A broker whose calls go wrong when a test says so: [`Faulty`] stands between an app and a real broker.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use streams_core::broker::{
    Acked, Acks, Acquired, Adopted, Answer, Attendance, Broker, BrokerError, BrokerErrorKind, Change, Claim, Commit,
    Committed, Consumed, Created, Damage, Durable, Entries, Events, Extent, Fetch, Fetched, Fields, Found, GroupLook,
    GroupState, Groups, Holder, Inspect, Interrupt, Joined, Letters, Life, Log, Lost, Member, Members, Moved, Need,
    Notes, Page, PartitionLook, Pass, Queue, QueueState, Reclaimed, Renewal, Renewed, Renewer, ReplayEnd, Reply, Reset,
    Snapshot, Tail, Taken,
};
use streams_core::keys::{GroupKey, PartitionKey, SnapshotKey, StreamKey};
use streams_core::{Durability, Entry, EntryId, Start};
use tokio::sync::watch;
use tokio::time::Instant;

/// The most calls of a kind in one moment of a paused clock. More are a circle, in which no time goes by.
const AT_ONCE: usize = 10_000;

/// The calls of a broker that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`Members::notes`].
    Notes,
    /// [`Log::append`], and the durable one.
    Append,
    /// [`Log::read`], [`Log::page`] and [`Log::snapshot`].
    Read,
    /// [`Tail::next`].
    Tail,
    /// [`Groups::states`], also of one.
    State,
    /// [`Members::attend`].
    Attend,
    /// [`Members::pauses`].
    Pauses,
    /// [`Groups::acquire`].
    Acquire,
    /// [`Groups::commit`].
    Commit,
    /// [`Groups::remembered`].
    Remembered,
    /// [`Groups::release`].
    Release,
    /// [`Groups::declare_events`].
    Declare,
    /// [`Renewer::renew`].
    Renew,
    /// [`Letters::discard`] and [`Letters::replay`].
    Letters,
    /// [`Letters::take_replay`].
    TakeReplay,
    /// [`Letters::end_replay`].
    EndReplay,
    /// [`Queue::join`].
    Join,
    /// [`Queue::fetch`], [`Queue::pass`] and [`Queue::mend`].
    Fetch,
    /// [`Queue::ack`].
    Ack,
    /// [`Queue::queue`], and [`Queue::reclaim`].
    Queue,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Notes,
        Self::Append,
        Self::Read,
        Self::Tail,
        Self::State,
        Self::Remembered,
        Self::Attend,
        Self::Pauses,
        Self::Acquire,
        Self::Commit,
        Self::Release,
        Self::Declare,
        Self::Renew,
        Self::Letters,
        Self::TakeReplay,
        Self::EndReplay,
        Self::Join,
        Self::Fetch,
        Self::Ack,
        Self::Queue,
    ];
}

/// The ways in which a call goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is not made, and answers this.
    Fail(BrokerErrorKind),
    /// It is made, but the answer is lost.
    LoseReply,
    /// It is made when the gate opens.
    Hold(Gate),
    /// It is made after this long.
    Delay(Duration),
    /// It is made after this long, and its answer takes so long as well.
    Lag(Duration, Duration),
    /// It is not made while the server is away: so long, again and again, each time that this long is over.
    Away(Duration, Duration),
    /// It is made when those before it are done, and takes this long: a server that is slow.
    InLine(Duration),
}

/// Holds up whoever comes to it until it is opened, for good.
#[derive(Debug, Clone)]
pub struct Gate {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: watch::Sender::new(false), arrived: watch::Sender::new(0) }
    }
}

impl Gate {
    /// Lets everybody through, those who come later, too.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until the gate is open.
    pub async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        // The sender lives in `self`, so the wait ends only with the gate.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Waits until so many have come to the gate.
    pub async fn arrived(&self, count: usize) {
        let _ = self.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }
}

/// A broker over another one; clones share their faults.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn Broker>,
    plan: Arc<Mutex<Plan>>,
    /// From which on the server is away and back again.
    began: Instant,
    line: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Plan {
    /// The next calls of each kind, one fault each; then the standing one.
    next: HashMap<Op, VecDeque<Fault>>,
    always: HashMap<Op, Fault>,
    calls: HashMap<Op, usize>,
    /// How many calls of a kind were made at one moment of a clock that stands still while anybody is busy.
    at_once: HashMap<Op, (Instant, usize)>,
    /// One of which there were too many.
    circle: Option<Op>,
    /// How many entries were read, whatever became of the answer.
    entries: usize,
    /// Adoptions do not wait for silence.
    impatient: bool,
    /// An answer with more bytes of entries than this is lost.
    line: Option<usize>,
    held: Option<Held>,
}

/// Entries that were answered.
#[derive(Debug, Default)]
struct Held {
    /// Those that are perhaps still held, with their weights.
    entries: Vec<(Weak<Entry>, usize)>,
    /// The most that they have weighed together.
    most: usize,
}

impl Faulty {
    /// Nothing goes wrong yet.
    pub fn over(inner: Arc<dyn Broker>) -> Self {
        Self { inner, plan: Arc::default(), began: Instant::now(), line: Arc::default() }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next call goes wrong; a second `once` is for the call after it.
    pub fn once(&self, op: Op, fault: Fault) {
        self.plan().next.entry(op).or_default().push_back(fault);
    }

    /// Every call goes wrong from now on.
    pub fn always(&self, op: Op, fault: Fault) {
        self.plan().always.insert(op, fault);
    }

    /// The server is gone: nothing can be asked any more.
    pub fn cut_off(&self) {
        Op::ALL.into_iter().for_each(|op| self.always(op, Fault::Fail(BrokerErrorKind::Unavailable)));
    }

    /// Answers with more than so many bytes of entries are lost from now on.
    pub fn narrow(&self, bytes: usize) {
        self.plan().line = Some(bytes);
    }

    /// Begins to weigh what was answered and is still held.
    pub fn weigh(&self) {
        self.plan().held = Some(Held::default());
    }

    /// The most that was held at once since then.
    pub fn most_held(&self) -> usize {
        self.plan().held.as_ref().map_or(0, |held| held.most)
    }

    /// Lets entries pass that are answered.
    fn pass<'e>(&self, entries: impl Iterator<Item = &'e Arc<Entry>> + Clone) -> Result<(), BrokerError> {
        let mut plan = self.plan();
        if let Some(line) = plan.line
            && entries.clone().map(|entry| entry.weight()).sum::<usize>() > line
        {
            return Err(BrokerError::new(BrokerErrorKind::Indefinite, "the answer is too long for the line"));
        }
        if let Some(Held { entries: held, most }) = &mut plan.held {
            held.retain(|(entry, _)| entry.strong_count() > 0);
            held.extend(entries.map(|entry| (Arc::downgrade(entry), entry.weight())));
            *most = (*most).max(held.iter().map(|(_, weight)| weight).sum());
        }
        Ok(())
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.next.clear();
        plan.always.clear();
        plan.line = None;
    }

    /// Adopts groups however lately their consumers were seen, as a test cannot wait for a minute of silence.
    pub fn be_impatient(&self) {
        self.plan().impatient = true;
    }

    /// How often the call was made, whatever came of it.
    pub fn calls(&self, op: Op) -> usize {
        self.plan().calls.get(&op).copied().unwrap_or(0)
    }

    /// How many entries [`Log::read`], [`Log::page`] and [`Log::snapshot`] brought, also where the reply was lost.
    pub fn entries_read(&self) -> usize {
        self.plan().entries
    }

    /// A call that reads entries.
    async fn reading<T>(
        &self,
        call: impl Future<Output = Result<T, BrokerError>> + Send,
        entries: impl Fn(&T) -> &[Arc<Entry>] + Send,
    ) -> Result<T, BrokerError> {
        let counted = async move {
            let read = call.await?;
            self.plan().entries += entries(&read).len();
            self.pass(entries(&read).iter())?;
            Ok(read)
        };
        self.around(Op::Read, counted).await
    }

    /// The call that was made again and again without a pause, if there is one.
    pub fn circle(&self) -> Option<Op> {
        self.plan().circle
    }

    async fn around<T>(
        &self,
        op: Op,
        call: impl Future<Output = Result<T, BrokerError>> + Send,
    ) -> Result<T, BrokerError> {
        let (fault, circles) = {
            let mut plan = self.plan();
            *plan.calls.entry(op).or_default() += 1;
            let (now, (at, calls)) = (Instant::now(), *plan.at_once.get(&op).unwrap_or(&(self.began, 0)));
            let calls = if at == now { calls + 1 } else { 1 };
            plan.at_once.insert(op, (now, calls));
            if calls > AT_ONCE {
                plan.circle = Some(op);
            }
            let fault = plan.next.get_mut(&op).and_then(VecDeque::pop_front).or_else(|| plan.always.get(&op).cloned());
            (fault, plan.circle.is_some())
        };
        if circles {
            // Time goes on, so that the test comes to its end and says so.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match fault {
            None => call.await,
            Some(Fault::Away(time, every))
                if self.began.elapsed().as_nanos() % every.as_nanos().max(1) >= time.as_nanos() =>
            {
                call.await
            }
            Some(Fault::Away(..)) => {
                Err(BrokerError::new(BrokerErrorKind::Unavailable, format!("{op:?} fails: the server is away")))
            }
            Some(Fault::InLine(time)) => {
                let _turn = self.line.lock().await;
                tokio::time::sleep(time).await;
                call.await
            }
            Some(Fault::Fail(kind)) => Err(BrokerError::new(kind, format!("{op:?} fails, because the test says so"))),
            Some(Fault::LoseReply) => {
                call.await?;
                Err(BrokerError::new(BrokerErrorKind::Indefinite, format!("the reply of {op:?} is lost")))
            }
            Some(Fault::Hold(gate)) => {
                gate.pass().await;
                call.await
            }
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                call.await
            }
            Some(Fault::Lag(before, after)) => {
                tokio::time::sleep(before).await;
                let answer = call.await;
                tokio::time::sleep(after).await;
                answer
            }
        }
    }
}

impl streams_core::broker::sealed::Sealed for Faulty {}

impl Broker for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn connect(&self) -> Reply<'_, ()> {
        self.inner.connect()
    }

    fn now(&self) -> Reply<'_, u64> {
        self.inner.now()
    }
}

impl Log for Faulty {
    fn declare<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, ()> {
        self.inner.declare(stream)
    }

    fn strays<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Vec<(PartitionKey, u64)>> {
        self.inner.strays(stream)
    }

    fn partitions<'a>(&'a self, stream: &'a StreamKey) -> Reply<'a, Option<u32>> {
        self.inner.partitions(stream)
    }

    fn append_durably<'a>(
        &'a self,
        partition: &'a PartitionKey,
        entries: Vec<Fields>,
        floor: Option<EntryId>,
        durability: Option<Durability>,
        wait: Duration,
    ) -> Reply<'a, Durable> {
        Box::pin(self.around(Op::Append, self.inner.append_durably(partition, entries, floor, durability, wait)))
    }

    fn trim_below<'a>(&'a self, partition: &'a PartitionKey, floor: EntryId) -> Reply<'a, u64> {
        self.inner.trim_below(partition, floor)
    }

    fn extent<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Extent>> {
        self.inner.extent(partition)
    }

    fn read<'a>(&'a self, partition: &'a PartitionKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
        Box::pin(self.reading(self.inner.read(partition, after, count), Vec::as_slice))
    }

    fn page<'a>(&'a self, partition: &'a PartitionKey, from: EntryId, count: usize, bytes: usize) -> Reply<'a, Page> {
        Box::pin(self.reading(self.inner.page(partition, from, count, bytes), |page| &page.entries))
    }

    fn snapshot<'a>(&'a self, group: &'a GroupKey, from: EntryId, count: usize) -> Reply<'a, Snapshot> {
        // One without entries only says where the stream ends.
        if count == 0 {
            return self.inner.snapshot(group, from, count);
        }
        Box::pin(self.reading(self.inner.snapshot(group, from, count), |snapshot| &snapshot.entries))
    }

    fn read_back<'a>(&'a self, partition: &'a PartitionKey, before: EntryId, count: usize) -> Reply<'a, Entries> {
        self.inner.read_back(partition, before, count)
    }

    fn tail(&self) -> Reply<'_, Box<dyn Tail>> {
        Box::pin(async move {
            let inner = self.inner.tail().await?;
            Ok(Box::new(FaultyTail { broker: self.clone(), inner }) as Box<dyn Tail>)
        })
    }
}

impl Groups for Faulty {
    fn groups<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Vec<String>>> {
        self.inner.groups(partition)
    }

    fn consumed<'a>(&'a self, partition: &'a PartitionKey) -> Reply<'a, Option<Consumed>> {
        self.inner.consumed(partition)
    }

    fn states<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupState>>>> {
        Box::pin(self.around(Op::State, self.inner.states(groups)))
    }

    fn remove<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>) -> Reply<'a, bool> {
        self.inner.remove(group, seen)
    }

    fn create<'a>(&'a self, group: &'a GroupKey, start: Start) -> Reply<'a, Created> {
        self.inner.create(group, start)
    }

    fn adopt<'a>(&'a self, group: &'a GroupKey, quiet: Duration) -> Reply<'a, Adopted> {
        let quiet = if self.plan().impatient { Duration::ZERO } else { quiet };
        self.inner.adopt(group, quiet)
    }

    fn acquire<'a>(&'a self, group: &'a GroupKey, claim: &'a Claim) -> Reply<'a, Acquired> {
        Box::pin(self.around(Op::Acquire, self.inner.acquire(group, claim)))
    }

    fn commit<'a>(&'a self, group: &'a GroupKey, commit: &'a Commit) -> Reply<'a, Committed> {
        Box::pin(self.around(Op::Commit, self.inner.commit(group, commit)))
    }

    fn remembered<'a>(&'a self, group: &'a GroupKey, ids: &'a [String]) -> Reply<'a, Vec<Option<u64>>> {
        Box::pin(self.around(Op::Remembered, self.inner.remembered(group, ids)))
    }

    fn release<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder, needs: Option<&'a Need>) -> Reply<'a, bool> {
        Box::pin(self.around(Op::Release, self.inner.release(group, holder, needs)))
    }

    fn reset<'a>(&'a self, group: &'a GroupKey, seen: Option<u64>, to: Start) -> Reply<'a, Reset> {
        self.inner.reset(group, seen, to)
    }

    fn declare_events<'a>(&'a self, group: &'a GroupKey, change: &'a Change) -> Reply<'a, Option<Events>> {
        Box::pin(self.around(Op::Declare, self.inner.declare_events(group, change)))
    }

    fn resume<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, bool> {
        self.inner.resume(group)
    }

    fn renewal(&self) -> Renewal {
        self.inner.renewal()
    }

    fn renewer(&self) -> Reply<'_, Box<dyn Renewer>> {
        Box::pin(async move {
            let inner = self.inner.renewer().await?;
            Ok(Box::new(FaultyRenewer { broker: self.clone(), inner }) as Box<dyn Renewer>)
        })
    }
}

impl Letters for Faulty {
    fn dead_letters<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
        Box::pin(async move {
            let letters = self.inner.dead_letters(group, after, count).await?;
            self.pass(letters.iter())?;
            Ok(letters)
        })
    }

    fn discard<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId]) -> Reply<'a, u64> {
        Box::pin(self.around(Op::Letters, self.inner.discard(group, ids)))
    }

    fn replay<'a>(&'a self, group: &'a GroupKey, ids: &'a [EntryId], most: u64) -> Reply<'a, Moved> {
        Box::pin(self.around(Op::Letters, self.inner.replay(group, ids, most)))
    }

    fn replay_edited<'a>(
        &'a self,
        group: &'a GroupKey,
        id: EntryId,
        fields: &'a Fields,
        most: u64,
    ) -> Reply<'a, Moved> {
        Box::pin(self.around(Op::Letters, self.inner.replay_edited(group, id, fields, most)))
    }

    fn replays<'a>(&'a self, group: &'a GroupKey, after: EntryId, count: usize) -> Reply<'a, Entries> {
        Box::pin(async move {
            let letters = self.inner.replays(group, after, count).await?;
            self.pass(letters.iter())?;
            Ok(letters)
        })
    }

    fn take_replay<'a>(&'a self, group: &'a GroupKey, holder: &'a Holder) -> Reply<'a, Taken> {
        Box::pin(self.around(Op::TakeReplay, self.inner.take_replay(group, holder)))
    }

    fn end_replay<'a>(
        &'a self,
        group: &'a GroupKey,
        holder: &'a Holder,
        id: EntryId,
        end: &'a ReplayEnd,
    ) -> Reply<'a, bool> {
        Box::pin(self.around(Op::EndReplay, self.inner.end_replay(group, holder, id, end)))
    }
}

impl Members for Faulty {
    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<Answer<Vec<Member>>>> {
        Box::pin(self.around(Op::Attend, self.inner.attend(sets)))
    }

    fn notes<'a>(&'a self, stream: &'a StreamKey, write: &'a Notes, gone: &'a [String]) -> Reply<'a, Notes> {
        Box::pin(self.around(Op::Notes, self.inner.notes(stream, write, gone)))
    }

    fn pauses<'a>(&'a self, groups: &'a [(StreamKey, String)]) -> Reply<'a, Vec<Answer<Option<String>>>> {
        Box::pin(self.around(Op::Pauses, self.inner.pauses(groups)))
    }

    fn pause<'a>(&'a self, stream: &'a StreamKey, group: &'a str, pause: Option<&'a str>) -> Reply<'a, bool> {
        self.inner.pause(stream, group, pause)
    }

    fn claim_save<'a>(&'a self, key: &'a SnapshotKey, every: Duration) -> Reply<'a, bool> {
        self.inner.claim_save(key, every)
    }

    fn save<'a>(&'a self, key: &'a SnapshotKey, snapshot: Vec<u8>) -> Reply<'a, ()> {
        self.inner.save(key, snapshot)
    }

    fn saved<'a>(&'a self, key: &'a SnapshotKey) -> Reply<'a, Option<Vec<u8>>> {
        self.inner.saved(key)
    }
}

impl Inspect for Faulty {
    fn streams<'a>(&'a self, namespace: Option<&'a str>) -> Reply<'a, Vec<StreamKey>> {
        self.inner.streams(namespace)
    }

    fn look_at_partitions<'a>(
        &'a self,
        partitions: &'a [PartitionKey],
    ) -> Reply<'a, Vec<Answer<Option<PartitionLook>>>> {
        self.inner.look_at_partitions(partitions)
    }

    fn look_at_groups<'a>(&'a self, groups: &'a [GroupKey]) -> Reply<'a, Vec<Answer<Option<GroupLook>>>> {
        self.inner.look_at_groups(groups)
    }

    fn look_at_members<'a>(&'a self, sets: &'a [String]) -> Reply<'a, Vec<Answer<Vec<Member>>>> {
        self.inner.look_at_members(sets)
    }

    fn info(&self) -> Reply<'_, BTreeMap<String, String>> {
        self.inner.info()
    }
}

impl Queue for Faulty {
    fn join<'a>(&'a self, group: &'a GroupKey, owner: &'a str, lease_for: Duration) -> Reply<'a, Joined> {
        Box::pin(self.around(Op::Join, self.inner.join(group, owner, lease_for)))
    }

    fn fetch<'a>(&'a self, group: &'a GroupKey, fetch: &'a Fetch) -> Reply<'a, Fetched> {
        let call = async move {
            let fetched = self.inner.fetch(group, fetch).await?;
            if let Fetched::Chunk(chunk) = &fetched {
                self.pass(chunk.again.iter().map(|again| &again.entry).chain(&chunk.new))?;
            }
            Ok(fetched)
        };
        Box::pin(self.around(Op::Fetch, call))
    }

    fn ack<'a>(&'a self, group: &'a GroupKey, acks: &'a Acks) -> Reply<'a, Acked> {
        Box::pin(self.around(Op::Ack, self.inner.ack(group, acks)))
    }

    fn pass<'a>(&'a self, group: &'a GroupKey, token: &'a str, pass: &'a Pass) -> Reply<'a, bool> {
        Box::pin(self.around(Op::Fetch, self.inner.pass(group, token, pass)))
    }

    fn mend<'a>(
        &'a self,
        group: &'a GroupKey,
        token: &'a str,
        damage: &'a Damage,
        halts: Option<&'a Lost>,
    ) -> Reply<'a, bool> {
        Box::pin(self.around(Op::Fetch, self.inner.mend(group, token, damage, halts)))
    }

    fn queue<'a>(&'a self, group: &'a GroupKey) -> Reply<'a, Option<QueueState>> {
        Box::pin(self.around(Op::Queue, self.inner.queue(group)))
    }

    fn reclaim<'a>(&'a self, group: &'a GroupKey, owner: &'a str, seen: &'a Life, most: usize) -> Reply<'a, Reclaimed> {
        Box::pin(self.around(Op::Queue, self.inner.reclaim(group, owner, seen, most)))
    }
}

struct FaultyTail {
    broker: Faulty,
    inner: Box<dyn Tail>,
}

impl Tail for FaultyTail {
    fn next<'a>(&'a mut self, keys: &'a [(String, EntryId)], count: usize, wait: Duration) -> Reply<'a, Vec<Found>> {
        let (broker, next) = (&self.broker, self.inner.next(keys, count, wait));
        let call = async move {
            let found = next.await?;
            broker.pass(found.iter().flat_map(|found| &found.entries))?;
            Ok(found)
        };
        Box::pin(broker.around(Op::Tail, call))
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        self.inner.interrupt()
    }
}

struct FaultyRenewer {
    broker: Faulty,
    inner: Box<dyn Renewer>,
}

impl Renewer for FaultyRenewer {
    fn renew<'a>(&'a mut self, leases: &'a [(GroupKey, Holder)]) -> Reply<'a, Vec<Renewed>> {
        Box::pin(self.broker.around(Op::Renew, self.inner.renew(leases)))
    }
}
