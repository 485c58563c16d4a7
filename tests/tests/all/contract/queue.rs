//! Work queues, sentence by sentence: fetching, acknowledging, what is lost and what the dead leave behind.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streams_core::broker::{
    Acked, Acks, Acquired, Adopted, Adoption, BrokerErrorKind, Change, Chunk, Committed, Consumed, Created, Cursor,
    Damage, DeadBounds, Events, Fetch, Fetched, Fields, Full, GroupState, Holder, Item, Joined, Judged, LeaseView,
    Left, Life, Lost, Moved, Need, New, Pass, QueueState, Range, Reclaimed, Renewed, Replay, ReplayEnd, Reset, Taken,
    Until, Wait,
};
use streams_core::keys::GroupKey;
use streams_core::{EntryId, Start};

use super::{
    Case, HELD, LEASE, LONG, NO_BOUNDS, claim, events, fields, ids, keys, partition, payloads, step, until_found,
};

/// Long enough to be seen to wait, short enough to be waited for.
const SOON: Duration = Duration::from_millis(150);
const HOUR: Duration = Duration::from_secs(3600);
/// One that is dead, of whose entries none is known to be gone.
pub(crate) const DEAD: Life = Life::Dead { lost: None };

/// A token of a call that nobody else has.
pub(crate) fn fresh() -> String {
    static TOKENS: AtomicU64 = AtomicU64::new(1);
    TOKENS.fetch_add(1, Ordering::Relaxed).to_string()
}

pub(crate) fn crew() -> GroupKey {
    partition().group("crew").queue()
}

/// A group that is asked for in more than one delivery.
fn mixed() -> GroupKey {
    partition().group("mixed")
}

/// A queue, and the entries that were in its stream at first.
pub(crate) struct QueueCase {
    pub(crate) case: Case,
    pub(crate) group: GroupKey,
    pub(crate) all: Vec<EntryId>,
}

/// A consumer. It numbers its calls, and remembers what it has in flight.
pub(crate) struct Worker<'a> {
    queue: &'a QueueCase,
    pub(crate) holder: Holder,
    fetches: Cell<u64>,
    acks: Cell<u64>,
    chunks: RefCell<BTreeMap<u64, InFlight>>,
}

/// The entries of a chunk that are in flight.
#[derive(Clone, Default)]
struct InFlight {
    new: Vec<EntryId>,
    ended: Vec<EntryId>,
    again: Vec<Item>,
}

/// The end of an entry that is in flight.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Its business with the group is ended.
    Done,
    /// It waits, with as many failed attempts as it had, or with these.
    Waits(Option<u32>, Until),
    Dead(Fields),
    /// It stays in flight; this changes what is known of it.
    Is(fn(&mut Item)),
}

pub(crate) fn done() -> End {
    End::Done
}

pub(crate) fn back() -> End {
    End::Waits(None, Until::After(Duration::ZERO))
}

pub(crate) fn again(failed: u32, after: Duration) -> End {
    End::Waits(Some(failed), Until::After(after))
}

pub(crate) fn needs(name: &str, version: u32) -> End {
    End::Waits(None, Until::Needs { name: name.to_owned(), version })
}

pub(crate) fn dead(payload: &str) -> End {
    End::Dead(fields(payload))
}

fn charged() -> End {
    End::Is(|item| item.charged = true)
}

/// The entries of a chunk, first those that waited.
pub(crate) fn given(chunk: &Chunk) -> Vec<EntryId> {
    let again = chunk.again.iter().map(|again| again.entry.id);
    again.chain(chunk.new.iter().map(|entry| entry.id)).collect()
}

/// By entry how many attempts have failed, and how many crashes it has; sorted, new ones included.
pub(crate) fn counts(chunk: &Chunk) -> Vec<(EntryId, u32, u32)> {
    let again = chunk.again.iter().map(|again| (again.entry.id, again.failed, again.crashes));
    let mut counts: Vec<_> = again.chain(chunk.new.iter().map(|entry| (entry.id, 0, 0))).collect();
    counts.sort_unstable();
    counts
}

/// The answers of a reclaim that finds nothing gone.
pub(crate) fn some(entries: u64) -> Reclaimed {
    Reclaimed::Some { entries, lost: None }
}

pub(crate) fn all_of(entries: u64) -> Reclaimed {
    Reclaimed::All { entries }
}

fn sorted(mut ids: Vec<EntryId>) -> Vec<EntryId> {
    ids.sort_unstable();
    ids
}

/// The state of a queue without consumers and entries in flight.
fn at_rest(at: EntryId, seen: Option<u64>) -> QueueState {
    QueueState {
        consumers: Vec::new(),
        waiting: 0,
        due: None,
        oldest: None,
        cursor: Cursor { at, at_event: String::new(), seen },
        needed: Events::new(),
        resume: 0,
        reset: 0,
        damage: None,
    }
}

impl InFlight {
    fn left(&self) -> Left {
        let rest: Vec<_> = self.new.iter().copied().filter(|id| !self.ended.contains(id)).collect();
        let range = rest.first().zip(rest.last()).map(|(first, to)| {
            let except = self.ended.iter().copied().filter(|id| first < id && id < to).collect();
            Range { after: first.previous(), to: *to, number: rest.len() as u64, except }
        });
        Left { range, again: self.again.clone() }
    }

    /// Takes an entry out.
    fn ends(&mut self, id: EntryId) -> Option<Item> {
        if let Some(index) = self.again.iter().position(|item| item.id == id) {
            return Some(self.again.remove(index));
        }
        let is_new = self.new.contains(&id) && !self.ended.contains(&id);
        is_new.then(|| {
            self.ended.push(id);
            Item { id, failed: 0, crashes: 0, charged: true }
        })
    }
}

impl Case {
    /// Makes the queue from the beginning of so many entries.
    pub(crate) async fn queue(self, count: usize) -> QueueCase {
        let all = self.append(count).await;
        self.queue_from("crew", Start::Earliest, all).await
    }

    async fn queue_from(self, name: &str, start: Start, all: Vec<EntryId>) -> QueueCase {
        let group = partition().group(name).queue();
        assert_eq!(self.broker.create(&group, start).await.unwrap(), Created::Made);
        QueueCase { case: self, group, all }
    }
}

impl QueueCase {
    pub(crate) async fn joins(&self, owner: &str) -> Holder {
        match self.case.broker.join(&self.group, owner, LEASE).await.unwrap() {
            Joined::Member { epoch } => Holder { owner: owner.to_owned(), epoch },
            other => panic!("no member: {other:?}"),
        }
    }

    pub(crate) async fn worker(&self, owner: &str) -> Worker<'_> {
        self.worker_as(self.joins(owner).await)
    }

    pub(crate) fn worker_as(&self, holder: Holder) -> Worker<'_> {
        Worker { queue: self, holder, fetches: Cell::new(0), acks: Cell::new(0), chunks: RefCell::default() }
    }

    pub(crate) async fn state(&self) -> GroupState {
        self.case.broker.state(&self.group).await.unwrap().unwrap()
    }

    pub(crate) async fn look(&self) -> QueueState {
        self.case.broker.queue(&self.group).await.unwrap().unwrap()
    }

    /// The same without what changes as time goes by.
    async fn still(&self) -> QueueState {
        let state = self.look().await;
        QueueState { due: state.due.map(|_| Duration::ZERO), ..state }
    }

    /// How many entries are in flight, and how many wait.
    pub(crate) async fn places(&self) -> (u64, u64) {
        let state = self.look().await;
        (state.unsettled() - state.waiting, state.waiting)
    }

    pub(crate) async fn life(&self, owner: &str) -> Life {
        let consumers = self.look().await.consumers;
        consumers.into_iter().find(|consumer| consumer.owner == owner).expect("it is a consumer").life
    }

    pub(crate) async fn reclaims(&self, owner: &str, seen: &Life, count: usize) -> Reclaimed {
        self.case.broker.reclaim(&self.group, owner, seen, count).await.unwrap()
    }

    /// Reclaims all that a consumer has in flight; answers how much that was.
    pub(crate) async fn buries(&self, owner: &str) -> u64 {
        let (mut seen, mut all) = (self.life(owner).await, 0);
        loop {
            match self.reclaims(owner, &seen, 1000).await {
                Reclaimed::All { entries } => return all + entries,
                Reclaimed::Some { entries, lost } => (seen, all) = (Life::Dead { lost }, all + entries),
                other => panic!("not reclaimed: {other:?}"),
            }
        }
    }

    /// A trim passes the first two of six entries of a range, one is deleted, and the consumer dies.
    async fn dies_after_a_trim(&self, worker: &Worker<'_>, all: &[EntryId]) {
        self.case.cut(all[2]);
        self.case.remove(&all[4..5]);
        let owner = &worker.holder.owner;
        let Reclaimed::Some { entries: 3, lost: Some(lost) } = self.reclaims(owner, &self.life(owner).await, 9).await
        else {
            panic!("nothing is lost")
        };
        assert_eq!((lost.deleted, lost.count, lost.to), (false, 3, all[5]));
        assert!(lost.from < all[0], "{lost:?}");
        assert_eq!(self.reclaims(owner, &Life::Dead { lost: Some(lost) }, 9).await, all_of(0));
    }

    async fn renews(&self, holder: &Holder) -> Renewed {
        let mut renewer = self.case.broker.renewer().await.unwrap();
        renewer.renew(&[(self.group.clone(), holder.clone())]).await.unwrap()[0]
    }

    pub(crate) async fn resumes(&self) {
        assert!(self.case.broker.resume(&self.group).await.unwrap());
    }

    async fn declares(&self, declares: &[(&str, u32)]) {
        let change = Change { declares: events(declares), ..Change::default() };
        self.case.broker.declare_events(&self.group, &change).await.unwrap().unwrap();
    }

    async fn reset(&self, seen: Option<u64>, to: Start) -> Reset {
        self.case.broker.reset(&self.group, seen, to).await.unwrap()
    }

    async fn passes(&self, from: &Cursor, to: &Cursor, halts: Option<Lost>) -> bool {
        let pass = Pass { from: from.clone(), to: to.clone(), halts };
        self.case.broker.pass(&self.group, &fresh(), &pass).await.unwrap()
    }

    async fn mends(&self, damage: Damage, halts: Option<&Lost>) -> bool {
        self.case.broker.mend(&self.group, &fresh(), &damage, halts).await.unwrap()
    }

    pub(crate) async fn letters(&self) -> Vec<String> {
        payloads(&self.case.broker.dead_letters(&self.group, EntryId::ZERO, 1000).await.unwrap())
    }

    async fn oldest_letter(&self) -> EntryId {
        self.case.broker.dead_letters(&self.group, EntryId::ZERO, 1).await.unwrap()[0].id
    }

    async fn consumed(&self) -> Consumed {
        self.case.broker.consumed(&partition()).await.unwrap().unwrap()
    }

    /// How often the partition's bell was rung for the group.
    async fn rings(&self) -> usize {
        let bell = keys(&[(&partition().bell(), EntryId::ZERO)]);
        let found = self.case.broker.tail().await.unwrap().next(&bell, 1000, Duration::ZERO).await.unwrap();
        let entries = found.into_iter().flat_map(|found| found.entries);
        entries.filter(|ring| ring.field("group") == Some(self.group.group().as_bytes())).count()
    }

    /// The next entry above a cursor.
    async fn judged(&self, at: EntryId) -> Judged {
        Judged { at, next: self.case.broker.read(&partition(), at, 1).await.unwrap()[0].id }
    }
}

impl Worker<'_> {
    /// The next fetch, which is not sent yet: only one that gives out a chunk uses its number.
    pub(crate) fn asks(&self, count: usize) -> Fetch {
        Fetch {
            holder: self.holder.clone(),
            call: self.fetches.get() + 1,
            count,
            bytes: usize::MAX,
            new: New::Read { judged: None },
            takes: Events::new(),
            most_waiting: 10_000,
            longest_wait: HOUR,
            mirror: false,
            go_on: false,
        }
    }

    /// The next fetch, for what waits.
    pub(crate) fn asks_for_old(&self, count: usize) -> Fetch {
        Fetch { new: New::Nothing, ..self.asks(count) }
    }

    pub(crate) async fn fetched(&self, fetch: &Fetch) -> Fetched {
        let fetched = self.queue.case.broker.fetch(&self.queue.group, fetch).await.unwrap();
        if matches!(fetched, Fetched::Chunk(_)) {
            self.fetches.set(fetch.call.max(self.fetches.get()));
        }
        if let Fetched::Chunk(chunk) = &fetched
            && !given(chunk).is_empty()
        {
            let again = chunk.again.iter().map(|again| Item {
                id: again.entry.id,
                failed: again.failed,
                crashes: again.crashes,
                charged: again.crashes == 0,
            });
            let in_flight = InFlight { new: ids(&chunk.new), ended: Vec::new(), again: again.collect() };
            self.chunks.borrow_mut().entry(fetch.call).or_insert(in_flight);
        }
        fetched
    }

    pub(crate) async fn chunk(&self, fetch: &Fetch) -> Chunk {
        match self.fetched(fetch).await {
            Fetched::Chunk(chunk) => chunk,
            other => panic!("nothing fetched: {other:?}"),
        }
    }

    pub(crate) async fn fetch(&self, count: usize) -> Chunk {
        self.chunk(&self.asks(count)).await
    }

    /// Fetches so many at most, and says which.
    pub(crate) async fn takes(&self, count: usize) -> Vec<EntryId> {
        given(&self.fetch(count).await)
    }

    /// The same for one that has looked at what follows the cursor.
    pub(crate) async fn takes_judged(&self, count: usize) -> Vec<EntryId> {
        let judged = self.queue.judged(self.queue.look().await.cursor.at).await;
        given(&self.chunk(&Fetch { new: New::Read { judged: Some(judged) }, ..self.asks(count) }).await)
    }

    /// Proposes entries that it has read by itself; answers how many of them it was given.
    async fn proposes(&self, from: EntryId, new: &[EntryId]) -> Chunk {
        let known = New::Known { from, to: *new.last().unwrap(), to_event: "t-1".to_owned(), number: new.len() as u64 };
        let fetch = Fetch { new: known, ..self.asks(new.len()) };
        let chunk = self.chunk(&fetch).await;
        if chunk.number > 0 {
            let mut chunks = self.chunks.borrow_mut();
            chunks.entry(fetch.call).or_default().new = new.to_vec();
        }
        chunk
    }

    async fn lost(&self, fetch: &Fetch) -> (Lost, bool) {
        match self.fetched(fetch).await {
            Fetched::Lost { lost, found } => (lost, found),
            other => panic!("nothing lost: {other:?}"),
        }
    }

    async fn damage(&self, fetch: &Fetch) -> Damage {
        match self.fetched(fetch).await {
            Fetched::Damaged(damage) => damage,
            other => panic!("no damage: {other:?}"),
        }
    }

    /// The next acks, which are not sent yet, and what is in flight when they are taken up.
    fn makes(&self, ends: impl IntoIterator<Item = (EntryId, End)>) -> (Acks, BTreeMap<u64, InFlight>) {
        let mut acks = Acks {
            holder: self.holder.clone(),
            call: self.acks.get() + 1,
            chunks: Vec::new(),
            back: Vec::new(),
            error: None,
            dead: Vec::new(),
            dead_bounds: NO_BOUNDS,
            passed_over: Vec::new(),
        };
        let mut chunks = self.chunks.borrow().clone();
        let mut touched = BTreeSet::new();
        for (id, end) in ends {
            let mut found = chunks.iter_mut().filter_map(|(number, flight)| Some((*number, flight.ends(id)?, flight)));
            let (number, mut item, flight) = found.next().unwrap_or_else(|| panic!("{id} is not in flight"));
            touched.insert(number);
            match end {
                End::Done => {}
                End::Waits(failed, until) => {
                    acks.back.push(Wait { id, failed: failed.unwrap_or(item.failed), crashes: item.crashes, until });
                }
                End::Dead(letter) => acks.dead.push(letter),
                End::Is(change) => {
                    change(&mut item);
                    flight.again.push(item);
                }
            }
        }
        acks.chunks = touched.into_iter().map(|number| (number, chunks[&number].left())).collect();
        chunks.retain(|_, flight| flight.left() != Left::default());
        (acks, chunks)
    }

    /// The next acks, which are not sent yet.
    pub(crate) fn tells(&self, ends: impl IntoIterator<Item = (EntryId, End)>) -> Acks {
        self.makes(ends).0
    }

    pub(crate) async fn acked(&self, acks: &Acks) -> Acked {
        let acked = self.queue.case.broker.ack(&self.queue.group, acks).await.unwrap();
        if acked == Acked::Done {
            self.acks.set(acks.call.max(self.acks.get()));
        }
        acked
    }

    /// Acknowledges, where that is done.
    pub(crate) async fn ack(&self, ends: impl IntoIterator<Item = (EntryId, End)>) {
        let (acks, chunks) = self.makes(ends);
        assert_eq!(self.acked(&acks).await, Acked::Done);
        self.chunks.replace(chunks);
    }

    async fn all_done(&self, ids: &[EntryId]) {
        self.ack(ids.iter().map(|id| (*id, done()))).await;
    }

    pub(crate) async fn leaves(&self) -> bool {
        self.queue.case.broker.release(&self.queue.group, &self.holder, None).await.unwrap()
    }
}

contract! {
    // Consumers.

    async fn a_new_queue_has_nobody_and_nothing(case) {
        let queue = case.queue(3).await;
        let nobody = at_rest(EntryId::ZERO, Some(0));
        assert_eq!(queue.look().await, nobody);
        assert_eq!(queue.state().await.lease, LeaseView::default());
        assert_eq!(queue.case.broker.create(&crew(), Start::Latest).await.unwrap(), Created::Exists);
        assert_eq!(queue.look().await, nobody);
        assert_eq!(queue.case.broker.queue(&partition().group("none").queue()).await.unwrap(), None);
        assert_eq!(queue.case.broker.groups(&partition()).await.unwrap(), Some(vec!["crew".to_owned()]));
    }

    async fn who_joins_gets_an_epoch_above_every_earlier_one(case) {
        let queue = case.queue(0).await;
        let before = queue.case.broker.now().await.unwrap();
        let (a, b) = (queue.joins("a").await, queue.joins("b").await);
        assert!(a.epoch >= before && b.epoch > a.epoch, "{before} {a:?} {b:?}");
        // The answer was lost.
        assert_eq!(queue.joins("a").await, a);
        let state = queue.state().await;
        assert_eq!(state.lease, LeaseView { epoch: b.epoch, ..LeaseView::default() });
        assert_eq!(state.lease_for, Duration::ZERO);
        for (consumer, holder) in queue.look().await.consumers.into_iter().zip([&a, &b]) {
            assert_eq!((consumer.owner, consumer.in_flight), (holder.owner.clone(), 0));
            let Life::Beats { epoch, lease_for, .. } = consumer.life else { panic!("{:?}", consumer.life) };
            assert_eq!((epoch, lease_for), (holder.epoch, LEASE));
        }
        assert_eq!(queue.buries("a").await, 0);
        assert!(queue.joins("a").await.epoch > b.epoch);
    }

    async fn who_joins_twice_goes_on_with_its_calls(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        let before = queue.still().await;
        // A call to join that comes late is that of the same consumer.
        assert_eq!(queue.joins("a").await, a.holder);
        assert_eq!(queue.places().await, (2, 0));
        let first = Fetch { call: 1, ..a.asks(9) };
        assert_eq!(given(&a.chunk(&first).await), all[..2], "it was answered before");
        assert_eq!(queue.still().await.cursor, before.cursor);
        a.all_done(&all[..2]).await;
        assert_eq!(queue.places().await, (0, 0));
    }

    async fn consumers_are_told_in_the_order_of_their_names(case) {
        let queue = case.queue(0).await;
        let names = ["node-10.1/x", "node-2.1/x", "a/9", "z"];
        for name in names {
            queue.joins(name).await;
        }
        let told: Vec<_> = queue.look().await.consumers.into_iter().map(|consumer| consumer.owner).collect();
        let sorted = BTreeSet::from(names.map(str::to_owned));
        assert_eq!(told, sorted.into_iter().collect::<Vec<_>>());
    }

    async fn nobody_joins_without_a_state_a_marker_or_a_token(case) {
        let join = async |case: &Case, owner: &str| case.broker.join(&crew(), owner, LEASE).await;
        assert_eq!(join(&case, "a").await.unwrap(), Joined::Missing);
        case.mark_as(&crew());
        assert_eq!(join(&case, "a").await.unwrap(), Joined::Missing);
        assert_eq!(case.broker.create(&crew(), Start::Earliest).await.unwrap(), Created::Foreign);
        assert_eq!(case.broker.state(&crew()).await.unwrap(), None);
        case.delete();
        let queue = case.queue(2).await;
        assert_eq!(join(&queue.case, "").await.unwrap_err().kind(), BrokerErrorKind::Refused);
        let a = queue.worker("a").await;
        a.takes(1).await;
        queue.case.delete();
        let vanished = Joined::Vanished { at: queue.all[0] };
        assert_eq!(join(&queue.case, "b").await.unwrap(), vanished);
        assert_eq!(queue.case.broker.queue(&crew()).await.unwrap(), None, "there is no marker");
        queue.case.append(1).await;
        assert_eq!(join(&queue.case, "b").await.unwrap(), vanished);
        assert_eq!(queue.case.broker.queue(&crew()).await.unwrap(), None, "there is no marker");
    }

    async fn a_consumer_beats_when_it_renews_fetches_and_acks(case) {
        let queue = case.queue(1).await;
        let a = queue.worker("a").await;
        let mut seen = vec![queue.life("a").await];
        assert_eq!(queue.renews(&a.holder).await, HELD);
        seen.push(queue.life("a").await);
        for count in [5, 5, 0] {
            a.fetch(count).await;
            seen.push(queue.life("a").await);
        }
        a.ack([(queue.all[0], charged())]).await;
        seen.push(queue.life("a").await);
        a.ack([]).await;
        seen.push(queue.life("a").await);
        let beats: Vec<_> = seen.iter().map(|life| match life {
            Life::Beats { beat, .. } => *beat,
            other => panic!("{other:?}"),
        }).collect();
        assert!(beats.is_sorted_by(|one, next| one < next), "{beats:?}");
        // A rival that looked before the last beat reclaims nothing.
        for stale in &seen[..6] {
            assert_eq!(queue.reclaims("a", stale, 9).await, Reclaimed::Contended);
        }
        assert_eq!(queue.life("a").await, seen[6]);
        assert_eq!(queue.places().await, (1, 0));
    }

    async fn only_consumers_renew_fetch_and_ack(case) {
        let queue = case.queue(2).await;
        let a = queue.worker("a").await;
        let held = a.takes(1).await;
        let before = queue.look().await;
        let holder = &a.holder;
        let strangers = [
            Holder { owner: "b".to_owned(), ..holder.clone() },
            Holder { epoch: holder.epoch + 1, ..holder.clone() },
            Holder { epoch: holder.epoch - 1, ..holder.clone() },
            Holder { owner: String::new(), epoch: 0 },
        ];
        for stranger in strangers {
            assert_eq!(queue.renews(&stranger).await, Renewed::Lost, "{stranger:?}");
            let fetch = Fetch { holder: stranger.clone(), ..a.asks(9) };
            assert_eq!(a.fetched(&fetch).await, Fetched::Fenced, "{stranger:?}");
            let acks = Acks { holder: stranger.clone(), ..a.tells([(held[0], done())]) };
            assert_eq!(a.acked(&acks).await, Acked::Fenced, "{stranger:?}");
        }
        assert_eq!(queue.look().await, before);
    }

    async fn a_queue_that_is_not_there_is_no_mistake(case) {
        let queue = case.queue(2).await;
        let a = queue.worker("a").await;
        let held = a.takes(1).await;
        let (broker, none) = (&queue.case.broker, partition().group("none").queue());
        assert_eq!(broker.fetch(&none, &a.asks(9)).await.unwrap(), Fetched::Missing);
        assert_eq!(broker.ack(&none, &a.tells([(held[0], done())])).await.unwrap(), Acked::Fenced);
        assert_eq!(broker.reclaim(&none, "a", &DEAD, 9).await.unwrap(), Reclaimed::Contended);
        let cursor = queue.look().await.cursor;
        assert!(!broker.pass(&none, &fresh(), &Pass { from: cursor.clone(), to: cursor, halts: None }).await.unwrap());
        assert!(!broker.mend(&none, &fresh(), &Damage { recorded: 1, found: 0 }, None).await.unwrap());
        assert!(!broker.release(&none, &a.holder, None).await.unwrap());
        assert!(!broker.resume(&none).await.unwrap());
        assert_eq!(broker.state(&none).await.unwrap(), None);
    }

    // Giving out.

    async fn an_entry_is_given_out_once_and_in_the_order_of_the_stream(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        let chunk = a.fetch(2).await;
        assert_eq!((payloads(&chunk.new), ids(&chunk.new)), (vec!["0".to_owned(), "1".to_owned()], all[..2].to_vec()));
        assert_eq!((chunk.again, chunk.number, chunk.at), (Vec::new(), 2, all[1]));
        assert_eq!((chunk.waiting, chunk.due, chunk.lost), (0, None, None));
        assert_eq!(b.takes(2).await, all[2..4]);
        assert_eq!(a.takes(9).await, all[4..]);
        assert_eq!(b.fetch(9).await, Chunk { at: all[4], ..Chunk::default() });
        let more = queue.case.append(1).await;
        assert_eq!(b.takes(9).await, more);
        let state = queue.look().await;
        assert_eq!(state.consumers.iter().map(|consumer| consumer.in_flight).collect::<Vec<_>>(), [3, 3]);
        assert_eq!((state.unsettled(), state.waiting), (6, 0));
        assert_eq!((state.cursor.at, state.cursor.seen), (more[0], Some(6)));
        assert!(state.oldest.unwrap() <= all[0] && state.settled() < all[0], "{state:?}");
        assert_eq!(queue.state().await.at, more[0]);
    }

    async fn of_many_that_fetch_at_the_same_time_none_gets_what_another_has(case) {
        let queue = case.queue(40).await;
        let takers: Vec<_> = (0..10)
            .map(|n| {
                let broker = Arc::clone(&queue.case.broker);
                tokio::spawn(async move {
                    let owner = format!("taker {n}");
                    let Joined::Member { epoch } = broker.join(&crew(), &owner, LEASE).await.unwrap() else { panic!() };
                    let fetch = Fetch {
                        holder: Holder { owner, epoch },
                        call: 1,
                        count: 3,
                        bytes: usize::MAX,
                        new: New::Read { judged: None },
                        takes: Events::new(),
                        most_waiting: 9,
                        longest_wait: HOUR,
                        mirror: true,
                        go_on: false,
                    };
                    match broker.fetch(&crew(), &fetch).await.unwrap() {
                        Fetched::Chunk(chunk) => given(&chunk),
                        other => panic!("{other:?}"),
                    }
                })
            })
            .collect();
        let mut taken = Vec::new();
        for taker in takers {
            taken.extend(taker.await.unwrap());
        }
        assert_eq!(sorted(taken), queue.all[..30]);
        assert_eq!(queue.places().await, (30, 0));
    }

    async fn a_queue_begins_where_it_is_told_to(case) {
        let mut case = case;
        let all = case.append(4).await;
        for (name, start, expected, seen) in [
            ("g0", Start::Latest, &all[4..], Some(4)),
            ("g1", Start::At(all[2]), &all[2..], None),
            ("g2", Start::Ago(HOUR), &all[..], Some(0)),
        ] {
            let queue = case.queue_from(name, start, all.clone()).await;
            assert_eq!(queue.look().await.cursor.seen, seen, "{name}");
            let a = queue.worker("a").await;
            assert_eq!(a.takes(9).await, expected, "{name}");
            assert_eq!(a.takes(9).await, []);
            let state = queue.look().await;
            assert_eq!((state.cursor.at, state.oldest.is_some()), (all[3], !expected.is_empty()), "{name}");
            a.all_done(expected).await;
            assert_eq!((queue.look().await.oldest, queue.look().await.settled()), (None, all[3]), "{name}");
            case = queue.case;
        }
    }

    async fn many_entries_are_fetched_acked_and_given_back_in_one_call(case) {
        let queue = case.queue(2_500).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(2_500).await, *all);
        // Every other one of the first thousand, so that many are excepted.
        a.ack(all[..1_000].iter().step_by(2).map(|id| (*id, done()))).await;
        assert_eq!(queue.places().await, (2_000, 0));
        a.ack(all[1_000..2_300].iter().map(|id| (*id, back()))).await;
        assert_eq!(queue.places().await, (700, 1_300));
        assert_eq!(sorted(b.takes(2_500).await), all[1_000..2_300]);
        assert_eq!(queue.buries("a").await, 700);
        let mut reclaimed = 0;
        let mut seen = queue.life("b").await;
        loop {
            match queue.reclaims("b", &seen, 400).await {
                Reclaimed::Some { entries: count, .. } => reclaimed += count,
                Reclaimed::All { entries: count } => break reclaimed += count,
                other => panic!("{other:?}"),
            }
            seen = DEAD;
        }
        assert_eq!((reclaimed, queue.places().await), (1_300, (0, 2_000)));
        let c = queue.worker("c").await;
        let odd = all[..1_000].iter().skip(1).step_by(2).chain(&all[1_000..]).map(|id| (*id, 0, 1)).collect::<Vec<_>>();
        assert_eq!(counts(&c.fetch(2_500).await), odd);
    }

    async fn a_fetch_of_nothing_gives_nothing_out(case) {
        let queue = case.queue(2).await;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(1).await, queue.all[..1]);
        a.ack([(queue.all[0], back())]).await;
        let chunk = a.fetch(0).await;
        assert_eq!((given(&chunk), chunk.waiting, chunk.number), (Vec::new(), 1, 0));
        assert_eq!(given(&a.chunk(&a.asks_for_old(9)).await), queue.all[..1]);
        assert_eq!(a.chunk(&a.asks_for_old(9)).await, Chunk { at: queue.all[0], ..Chunk::default() });
        assert_eq!(a.takes(9).await, queue.all[1..]);
    }

    // Entries that the caller has read by itself.

    async fn what_a_caller_has_read_by_itself_is_its_own_where_the_cursor_is(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        let chunk = a.proposes(EntryId::ZERO, &all[..2]).await;
        assert_eq!(chunk, Chunk { number: 2, at: all[1], ..Chunk::default() });
        let cursor = Cursor { at: all[1], at_event: "t-1".to_owned(), seen: Some(2) };
        assert_eq!(queue.look().await.cursor, cursor);
        // Another comes too late.
        let chunk = b.proposes(EntryId::ZERO, &all[..3]).await;
        assert_eq!(chunk, Chunk { at: all[1], ..Chunk::default() });
        assert_eq!((queue.look().await.cursor, queue.places().await), (cursor, (2, 0)));
        let chunk = b.proposes(all[1], &all[2..4]).await;
        assert_eq!((chunk.number, chunk.at), (2, all[3]));
        assert_eq!((queue.look().await.cursor.seen, queue.places().await), (Some(4), (4, 0)));
        a.ack([(all[0], done()), (all[1], back())]).await;
        assert_eq!(queue.buries("b").await, 2);
        let chunk = a.chunk(&a.asks_for_old(9)).await;
        assert_eq!(counts(&chunk), [(all[1], 0, 0), (all[2], 0, 1), (all[3], 0, 1)]);
    }

    async fn a_proposal_that_is_sent_twice_is_one(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        let known = New::Known { from: EntryId::ZERO, to: all[1], to_event: String::new(), number: 2 };
        let fetch = Fetch { new: known, ..a.asks(2) };
        let chunk = a.chunk(&fetch).await;
        let before = queue.still().await;
        let second = a.chunk(&fetch).await;
        assert_eq!((second.number, second.new, second.again), (chunk.number, Vec::new(), Vec::new()));
        let after = queue.still().await;
        assert_eq!((after.unsettled(), after.cursor), (2, before.cursor));
    }

    async fn who_proposes_is_given_what_waits_too(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], again(1, Duration::ZERO))]).await;
        let known = New::Known { from: all[1], to: all[3], to_event: String::new(), number: 2 };
        let chunk = a.chunk(&Fetch { new: known.clone(), ..a.asks(9) }).await;
        assert_eq!((counts(&chunk), chunk.number, chunk.at), (vec![(all[0], 1, 0)], 2, all[3]));
        assert_eq!(queue.places().await, (4, 0));
        // While too much waits nothing new is given out, whoever has read it.
        let more = queue.case.append(1).await;
        a.ack([(all[0], again(2, LONG))]).await;
        let known = New::Known { from: all[3], to: more[0], to_event: String::new(), number: 1 };
        let chunk = a.chunk(&Fetch { new: known, most_waiting: 1, ..a.asks(9) }).await;
        assert_eq!((chunk.number, chunk.at, chunk.waiting), (0, all[3], 1));
    }

    async fn a_proposal_is_taken_whole_or_not_at_all(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], back()), (all[1], back())]).await;
        let known = New::Known { from: all[1], to: all[4], to_event: String::new(), number: 3 };
        // Two of those that wait leave room for two.
        let chunk = a.chunk(&Fetch { new: known.clone(), ..a.asks(4) }).await;
        assert_eq!((chunk.again.len(), chunk.number, chunk.at), (2, 0, all[1]));
        let chunk = a.chunk(&Fetch { new: known, ..a.asks(3) }).await;
        assert_eq!((chunk.again.len(), chunk.number, chunk.at), (0, 3, all[4]));
        assert_eq!(queue.places().await, (5, 0));
    }

    // Calls that come twice, or late.

    async fn a_fetch_that_is_sent_twice_gives_out_the_same_chunk(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], again(3, Duration::ZERO)), (all[1], done())]).await;
        let fetch = a.asks(3);
        let first = a.chunk(&fetch).await;
        assert_eq!(counts(&first), [(all[0], 3, 0), (all[2], 0, 0), (all[3], 0, 0)]);
        for _ in 0..2 {
            let second = a.chunk(&fetch).await;
            assert_eq!((&second.again, &second.new, second.number), (&first.again, &first.new, 2));
        }
        assert_eq!((queue.places().await, queue.look().await.cursor.at), ((3, 0), all[3]));
        // As it is by then.
        a.ack([(all[2], done())]).await;
        assert_eq!(given(&a.chunk(&fetch).await), [all[0], all[3]]);
        assert_eq!(queue.places().await, (2, 0));
        a.ack([(all[0], done()), (all[3], back())]).await;
        let ended = a.chunk(&fetch).await;
        assert_eq!((given(&ended), queue.places().await), (Vec::new(), (0, 1)), "the chunk is ended");
        assert_eq!(queue.look().await.cursor.at, all[3]);
    }

    async fn a_fetch_that_is_sent_twice_leaves_out_what_is_gone_meanwhile(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], again(1, Duration::ZERO)), (all[1], again(2, Duration::ZERO))]).await;
        let fetch = a.asks(5);
        assert_eq!(sorted(given(&a.chunk(&fetch).await)), all[..5]);
        queue.case.remove(&[all[0], all[3]]);
        for _ in 0..2 {
            let chunk = a.chunk(&fetch).await;
            assert_eq!(counts(&chunk), [(all[1], 2, 0), (all[2], 0, 0), (all[4], 0, 0)]);
            assert_eq!(queue.places().await, (3, 0));
        }
        assert_eq!(queue.buries("a").await, 3);
        assert_eq!(queue.places().await, (0, 3));
    }

    async fn a_fetch_that_found_nothing_finds_nothing_when_it_is_sent_again(case) {
        let queue = case.queue(0).await;
        let a = queue.worker("a").await;
        let fetch = a.asks(9);
        assert_eq!(a.chunk(&fetch).await, Chunk::default());
        let all = queue.case.append(2).await;
        assert_eq!(a.chunk(&fetch).await, Chunk::default());
        assert_eq!(a.takes(9).await, all);
    }

    async fn a_fetch_that_comes_late_changes_nothing(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        let first = a.asks(1);
        assert_eq!(given(&a.chunk(&first).await), all[..1]);
        let second = a.asks(1);
        assert_eq!(given(&a.chunk(&second).await), all[1..2]);
        assert_eq!(a.takes(1).await, all[2..3]);
        a.ack([(all[0], back()), (all[1], done())]).await;
        let before = queue.look().await;
        for late in [&first, &second] {
            let chunk = a.chunk(late).await;
            assert_eq!((given(&chunk), chunk.number), (Vec::new(), 0));
            assert_eq!(queue.look().await, before);
        }
        let known = New::Known { from: all[2], to: all[3], to_event: String::new(), number: 1 };
        assert_eq!(a.chunk(&Fetch { new: known, ..second.clone() }).await.number, 0);
        // Nor does one whose chunk is still in flight.
        assert_eq!(a.takes(9).await.len(), 4);
        let before = queue.look().await;
        a.chunk(&Fetch { call: 3, ..first }).await;
        a.chunk(&second).await;
        assert_eq!(queue.look().await, before);
    }

    async fn acks_that_are_sent_twice_take_effect_once(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(4).await, *all);
        let acks = a.tells([(all[0], done()), (all[1], dead("x")), (all[2], again(1, Duration::ZERO))]);
        for _ in 0..2 {
            assert_eq!(a.acked(&acks).await, Acked::Done);
            assert_eq!((queue.places().await, queue.letters().await), ((1, 1), vec!["x".to_owned()]));
        }
        let chunk = b.chunk(&b.asks_for_old(9)).await;
        assert_eq!(counts(&chunk), [(all[2], 1, 0)]);
        // Nor when somebody else has what was given back.
        assert_eq!(a.acked(&acks).await, Acked::Done);
        assert_eq!((queue.places().await, queue.letters().await.len()), ((2, 0), 1));
        b.all_done(&all[2..3]).await;
        assert_eq!(a.acked(&acks).await, Acked::Done);
        assert_eq!(queue.places().await, (1, 0));
    }

    async fn acks_that_come_late_change_nothing(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(4).await, *all);
        let late = a.tells([(all[0], back()), (all[1], dead("late"))]);
        a.ack([(all[0], done()), (all[1], done()), (all[2], done())]).await;
        let before = queue.look().await;
        assert_eq!(a.acked(&late).await, Acked::Done);
        let names = Acks { passed_over: vec!["Trade".to_owned()], ..late };
        assert_eq!(a.acked(&names).await, Acked::Done);
        assert_eq!(queue.look().await, before);
        assert!(queue.letters().await.is_empty());
        // Fetches and acks are numbered each by themselves.
        assert_eq!(a.acks.get(), 1);
        for _ in 0..5 {
            a.fetch(1).await;
        }
        a.all_done(&all[3..]).await;
        assert_eq!(queue.places().await, (0, 0));
    }

    async fn what_comes_late_from_an_earlier_joining_changes_nothing(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        let (fetch, acks) = (a.asks(9), a.tells([(all[0], done()), (all[1], done())]));
        assert_eq!(queue.buries("a").await, 2);
        assert_eq!(a.fetched(&fetch).await, Fetched::Fenced);
        // Under the same token, and with numbers that begin anew.
        let again = queue.worker("a").await;
        assert_eq!(sorted(again.takes(2).await), all[..2]);
        let before = queue.look().await;
        assert_eq!((a.fetched(&fetch).await, a.acked(&acks).await), (Fetched::Fenced, Acked::Fenced));
        assert!(!a.leaves().await);
        assert_eq!(queue.look().await, before);
        again.all_done(&all[..2]).await;
        assert_eq!(again.takes(9).await, all[2..]);
    }

    async fn a_call_whose_number_leaves_one_out_is_fenced_and_changes_nothing(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.fetched(&Fetch { call: 2, ..a.asks(9) }).await, Fetched::Fenced);
        assert_eq!(a.acked(&Acks { call: 2, ..a.tells([]) }).await, Acked::Fenced);
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], back())]).await;
        let before = queue.look().await;
        // As after a failover to a replica that lagged: it has another chunk, and has settled more.
        for skipped in [2, 3, 1 << 40] {
            let known = New::Known { from: all[1], to: all[2], to_event: String::new(), number: 1 };
            for new in [New::Nothing, New::Read { judged: None }, known] {
                let fetch = Fetch { call: 1 + skipped, new, ..a.asks(9) };
                assert_eq!(a.fetched(&fetch).await, Fetched::Fenced);
            }
            for end in [done(), back(), dead("x")] {
                let acks = Acks { call: 1 + skipped, ..a.tells([(all[1], end)]) };
                assert_eq!(a.acked(&acks).await, Acked::Fenced);
            }
            assert_eq!(queue.look().await, before);
        }
        assert!(queue.letters().await.is_empty());
        // It is a consumer all the same.
        assert_eq!(a.takes(1).await, all[..1]);
        a.all_done(&all[..2]).await;
        assert_eq!(queue.places().await, (0, 0));
    }

    async fn only_a_call_that_takes_effect_uses_its_number(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(3).await, all[..3]);
        // Where there is no room, and where a build has declared what was passed over.
        let bounds = DeadBounds { count: 0, ..NO_BOUNDS };
        let full = Acks { dead_bounds: bounds, ..a.tells([(all[0], dead("x"))]) };
        assert!(matches!(a.acked(&full).await, Acked::Full(_)));
        queue.declares(&[("Trade", 1)]).await;
        let declared = Acks { passed_over: vec!["Trade".to_owned()], ..a.tells([(all[0], done())]) };
        assert!(matches!(a.acked(&declared).await, Acked::Declared { .. }));
        assert_eq!((full.call, declared.call, a.acks.get()), (1, 1, 0));
        a.ack([(all[0], back()), (all[1], back())]).await;
        // Where something is lost, found or recorded.
        queue.case.cut(all[1]);
        let fetch = a.asks(1);
        assert!(a.lost(&fetch).await.1 && !a.lost(&fetch).await.1);
        queue.resumes().await;
        assert_eq!(given(&a.chunk(&fetch).await), all[1..2]);
        // Where the waiting set is another one.
        a.ack([(all[2], back())]).await;
        queue.case.forget(&crew().waiting());
        let (fetch, acks) = (a.asks(9), a.tells([(all[1], back())]));
        let damage = a.damage(&fetch).await;
        assert_eq!(a.acked(&acks).await, Acked::Damaged(damage));
        assert!(queue.mends(damage, None).await);
        assert_eq!(a.acked(&acks).await, Acked::Done);
        // Where it is to judge first.
        queue.case.remove(&all[2..3]);
        assert!(matches!(a.fetched(&fetch).await, Fetched::Unsure(_)));
        let judged = queue.judged(all[2]).await;
        let fetch = Fetch { new: New::Read { judged: Some(judged) }, ..fetch };
        assert_eq!(given(&a.chunk(&fetch).await), [&all[1..2], &all[3..]].concat());
        assert_eq!((fetch.call, a.fetches.get(), a.acks.get()), (3, 3, 3));
    }

    async fn acks_of_a_chunk_that_the_record_does_not_have_change_nothing(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        let before = queue.look().await;
        // As after a failover to a replica that lagged: it was fetched in another history.
        let range = Range { after: all[1], to: all[2], number: 1, except: Vec::new() };
        for left in [Left::default(), Left { range: Some(range), again: Vec::new() }] {
            let known = a.tells([(all[0], back()), (all[1], dead("x"))]);
            let acks = Acks { chunks: [known.chunks.clone(), vec![(7, left)]].concat(), ..known };
            assert_eq!(a.acked(&acks).await, Acked::Fenced);
        }
        assert_eq!(queue.look().await, before);
        assert!(queue.letters().await.is_empty());
        a.all_done(&all[..2]).await;
        assert_eq!(a.takes(9).await, all[2..]);
    }

    // Acknowledging.

    async fn what_is_done_is_done_once_and_for_all(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!((a.takes(2).await, a.takes(2).await), (all[..2].to_vec(), all[2..4].to_vec()));
        // Entries of two chunks in one call.
        a.ack([(all[0], done()), (all[3], done())]).await;
        assert_eq!((queue.places().await, queue.look().await.consumers[0].in_flight), ((2, 0), 2));
        assert_eq!(b.takes(9).await, all[4..]);
        a.all_done(&all[1..3]).await;
        a.ack([]).await;
        b.all_done(&all[4..]).await;
        let state = queue.look().await;
        assert_eq!((state.unsettled(), state.oldest, state.settled()), (0, None, all[4]));
        assert_eq!((a.takes(9).await, b.takes(9).await), (Vec::new(), Vec::new()));
    }

    async fn a_failed_one_comes_again_not_before_its_time_and_with_its_counts(case) {
        let queue = case.queue(2).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(1).await, all[..1]);
        let before = queue.case.broker.now().await.unwrap();
        a.ack([(all[0], again(1, SOON))]).await;
        let chunk = b.fetch(1).await;
        assert_eq!((given(&chunk), chunk.waiting), (all[1..].to_vec(), 1), "it holds up nothing");
        assert!(chunk.due.is_some_and(|due| !due.is_zero() && due <= SOON), "{:?}", chunk.due);
        let state = queue.look().await;
        assert!(state.due.is_some_and(|due| !due.is_zero() && due <= SOON), "{:?}", state.due);
        assert_eq!((state.unsettled(), state.waiting), (2, 1));

        let taken = loop {
            let now = queue.case.broker.now().await.unwrap();
            let chunk = b.fetch(9).await;
            if !given(&chunk).is_empty() {
                break chunk;
            }
            assert!(now < before + 10_000, "it does not come again");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert!(queue.case.broker.now().await.unwrap() >= before + 150);
        assert_eq!((counts(&taken), taken.waiting, taken.due), (vec![(all[0], 1, 0)], 0, None));
        // The next holder of the entry learns of the failures of others.
        b.ack([(all[0], again(2, Duration::ZERO))]).await;
        assert_eq!(queue.look().await.due, Some(Duration::ZERO));
        assert_eq!(counts(&a.fetch(9).await), [(all[0], 2, 0)]);
        a.all_done(&all[..1]).await;
        assert_eq!(queue.look().await.due, None);
    }

    async fn what_is_given_back_untried_does_not_count(case) {
        let queue = case.queue(2).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(2).await, *all);
        a.ack([(all[0], back()), (all[1], again(1, Duration::ZERO))]).await;
        assert_eq!(counts(&b.fetch(9).await), [(all[0], 0, 0), (all[1], 1, 0)]);
        b.ack(all.iter().map(|id| (*id, back()))).await;
        assert_eq!(counts(&a.fetch(9).await), [(all[0], 0, 0), (all[1], 1, 0)], "what has failed has failed");
    }

    async fn what_waits_is_given_out_before_what_is_new(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[1], back())]).await;
        let chunk = a.fetch(2).await;
        assert_eq!((given(&chunk), chunk.again.len(), chunk.number), (vec![all[1], all[2]], 1, 1));
    }

    async fn no_more_is_given_out_of_what_waits_than_is_asked_for(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(4).await, all[..4]);
        a.ack(all[..4].iter().map(|id| (*id, back()))).await;
        let mut taken = Vec::new();
        for waiting in [2, 0] {
            let chunk = a.fetch(2).await;
            assert_eq!((chunk.again.len(), chunk.number, chunk.waiting), (2, 0, waiting));
            assert_eq!(chunk.due, None, "nothing waits that may not be taken now");
            taken.extend(given(&chunk));
        }
        assert_eq!(sorted(taken), all[..4]);
    }

    async fn nothing_waits_longer_than_it_may_whatever_the_clock_does(case) {
        let queue = case.queue(1).await;
        let id = queue.all[0];
        let a = queue.worker("a").await;
        a.takes(1).await;
        // As if the clock had gone back by an hour.
        a.ack([(id, again(1, HOUR))]).await;
        let chunk = a.fetch(9).await;
        assert_eq!((given(&chunk), chunk.waiting), (Vec::new(), 1));
        assert!(chunk.due.is_some_and(|due| due > Duration::from_secs(3000)), "{:?}", chunk.due);
        let impatient = || Fetch { longest_wait: LONG, ..a.asks(9) };
        assert_eq!(counts(&a.chunk(&impatient()).await), [(id, 1, 0)]);
        // Nor is it a mistake to wait for ever.
        a.ack([(id, again(2, Duration::MAX))]).await;
        let chunk = a.chunk(&Fetch { longest_wait: Duration::MAX, ..a.asks(9) }).await;
        assert!(given(&chunk).is_empty() && chunk.due > Some(LONG), "{chunk:?}");
        let state = queue.look().await;
        assert!(state.due > Some(LONG) && state.needed.is_empty(), "{state:?}");
        assert_eq!(counts(&a.chunk(&impatient()).await), [(id, 2, 0)]);
    }

    async fn what_is_given_back_rings_the_bell_unless_it_has_to_wait(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(6).await;
        a.ack([(all[0], done()), (all[1], again(1, LONG)), (all[2], dead("x")), (all[5], charged())]).await;
        assert_eq!(queue.rings().await, 0);
        let acks = a.tells([(all[3], back())]);
        for _ in 0..2 {
            a.acked(&acks).await;
            assert_eq!(queue.rings().await, 1);
        }
        let needed = Acks { back: vec![Wait { id: all[4], failed: 0, crashes: 0, until: Until::Needs {
            name: "Trade".to_owned(), version: 2,
        } }], ..a.tells([(all[3], done()), (all[4], done())]) };
        assert_eq!(a.acked(&needed).await, Acked::Done);
        assert_eq!(queue.rings().await, 2);
        let mut tail = queue.case.broker.tail().await.unwrap();
        let bell = keys(&[(&partition().bell(), EntryId::ZERO)]);
        assert_eq!(until_found(tail.as_mut(), &bell).await.len(), 2);
    }

    async fn no_more_is_given_out_while_too_much_waits(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(3).await, all[..3]);
        a.ack([(all[0], again(1, LONG)), (all[1], needs("Trade", 2)), (all[2], back())]).await;
        let most = |most_waiting| Fetch { most_waiting, ..a.asks(2) };
        // Waiting entries are given out however large they are, and are not new.
        let chunk = a.chunk(&most(2)).await;
        assert_eq!((given(&chunk), chunk.waiting), (vec![all[2]], 2));
        assert_eq!(given(&a.chunk(&most(2)).await), []);
        assert_eq!(given(&a.chunk(&most(0)).await), []);
        assert_eq!(queue.look().await.cursor.at, all[2]);
        assert_eq!(given(&a.chunk(&most(3)).await), all[3..5]);
    }

    async fn what_is_passed_over_is_not_once_a_build_has_declared_it(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(4).await;
        let passing = |ids: &[EntryId], names: &[&str]| Acks {
            passed_over: names.iter().map(|name| (*name).to_owned()).collect(),
            ..a.tells(ids.iter().map(|id| (*id, done())))
        };
        assert_eq!(a.acked(&passing(&all[..1], &["AB"])).await, Acked::Done);
        queue.declares(&[("AB", 1), ("XA", 1)]).await;
        let before = queue.look().await;
        let acks = passing(&all[..3], &["AB", "A", "B", "X"]);
        for _ in 0..2 {
            assert_eq!(a.acked(&acks).await, Acked::Declared { names: vec!["AB".to_owned()] });
        }
        let Acked::Declared { names } = a.acked(&passing(&all[..3], &["XA", "X", "AB"])).await else { panic!() };
        assert_eq!(BTreeSet::from_iter(names), BTreeSet::from(["AB", "XA"].map(str::to_owned)));
        assert_eq!(queue.look().await, before, "nothing was changed");
        assert_eq!(a.acked(&passing(&all[..3], &["A", "B", "X"])).await, Acked::Done);
        assert_eq!(queue.places().await, (1, 0));
        assert_eq!(queue.state().await.events, events(&[("AB", 1), ("XA", 1)]));
        // Done before, it is done.
        queue.declares(&[("C", 1)]).await;
        assert_eq!(a.acked(&Acks { call: acks.call, passed_over: vec!["C".to_owned()], ..acks }).await, Acked::Done);
    }

    async fn acks_with_a_name_that_no_event_has_or_a_letter_without_fields_are_refused(case) {
        let queue = case.queue(2).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(2).await;
        let before = queue.look().await;
        let refused = async |acks: Acks| {
            let error = queue.case.broker.ack(&crew(), &acks).await.unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::Refused, "{acks:?}");
            assert!(!error.is_indefinite(), "{acks:?}");
        };
        for name in ["", "two words", "A@1"] {
            refused(Acks { passed_over: vec![name.to_owned()], ..a.tells([(all[0], done())]) }).await;
            refused(a.tells([(all[0], done()), (all[1], needs(name, 1))])).await;
        }
        for letter in [vec![(b"f".to_vec(), Vec::new()); 4_000], Vec::new()] {
            refused(a.tells([(all[0], done()), (all[1], End::Dead(letter))])).await;
        }
        assert_eq!(queue.look().await, before);
        assert!(queue.letters().await.is_empty());
    }

    // Builds of different age.

    async fn what_another_build_must_handle_goes_only_to_one_that_does(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let (old, new) = (queue.worker("old").await, queue.worker("new").await);
        old.takes(4).await;
        let ends = [needs("Trade", 12), needs("Trade", 3), needs("Trade.x", 1), needs("Tra", 1)];
        old.ack(all.iter().copied().zip(ends)).await;
        let state = queue.look().await;
        assert_eq!((state.unsettled(), state.waiting, state.due), (4, 4, None));
        assert_eq!(state.needed, events(&[("Tra", 1), ("Trade", 3), ("Trade.x", 1)]));
        let takes = |takes: &[(&str, u32)]| Fetch { takes: events(takes), ..new.asks(9) };
        for nothing in [takes(&[]), takes(&[("Trade", 2), ("T", 9), ("Trade.", 9), ("Trades", 9)])] {
            let chunk = new.chunk(&nothing).await;
            assert_eq!((given(&chunk), chunk.waiting, chunk.due), (Vec::new(), 4, None));
        }
        // However short the longest wait is.
        let impatient = Fetch { longest_wait: Duration::ZERO, ..takes(&[]) };
        assert_eq!(given(&new.chunk(&impatient).await), []);
        // It was not tried.
        assert_eq!(counts(&new.chunk(&takes(&[("Trade", 11)])).await), [(all[1], 0, 0)]);
        assert_eq!(given(&new.chunk(&takes(&[("Trade", 11)])).await), []);
        assert_eq!(given(&new.chunk(&takes(&[("Trade", u32::MAX), ("Tra", 1)])).await).len(), 2);
        assert_eq!(queue.look().await.needed, events(&[("Trade.x", 1)]));
        assert_eq!(given(&new.chunk(&takes(&[("Trade.x", 1)])).await), all[2..3]);
        assert_eq!((queue.look().await.needed, queue.places().await), (Events::new(), (4, 0)));
    }

    async fn who_needs_is_met_again_and_again(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(3).await;
        for round in 0..20 {
            let name = format!("E{round}");
            let (other, only) = (format!("F{round}"), [(name.as_str(), 2)]);
            a.ack([(all[0], needs(&name, 2)), (all[1], needs(&other, 1)), (all[2], needs(&name, 3))]).await;
            assert_eq!(queue.look().await.needed, events(&[(&name, 2), (&other, 1)]));
            let chunk = a.chunk(&Fetch { takes: events(&only), ..a.asks(9) }).await;
            assert_eq!(given(&chunk), all[..1], "{round}");
            let both = events(&[(&name, 3), (&other, 9)]);
            assert_eq!(given(&a.chunk(&Fetch { takes: both, ..a.asks(9) }).await).len(), 2, "{round}");
        }
    }

    async fn what_is_needed_is_not_mixed_up_as_needs_come_and_go(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(4).await;
        a.ack([(all[0], needs("A", 1)), (all[1], needs("B", 1)), (all[2], needs("C", 1))]).await;
        let takes = async |name: &str| given(&a.chunk(&Fetch { takes: events(&[(name, 1)]), ..a.asks_for_old(9) }).await);
        assert_eq!(takes("A").await, all[..1]);
        a.ack([(all[3], needs("D", 1))]).await;
        assert_eq!(takes("B").await, all[1..2]);
        a.ack([(all[0], needs("B", 1)), (all[1], needs("A", 1))]).await;
        assert_eq!(queue.look().await.needed, events(&[("A", 1), ("B", 1), ("C", 1), ("D", 1)]));
        for (name, n) in [("A", 1), ("D", 3), ("C", 2), ("B", 0)] {
            assert_eq!(takes(name).await, all[n..=n], "{name}");
        }
    }

    async fn what_is_needed_keeps_what_has_failed_and_crashed(case) {
        let queue = case.queue(1).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        a.takes(1).await;
        queue.buries("a").await;
        assert_eq!(counts(&b.fetch(1).await), [(all[0], 0, 1)]);
        b.ack([(all[0], End::Waits(Some(4), Until::Needs { name: "Trade".to_owned(), version: 2 }))]).await;
        let chunk = b.chunk(&Fetch { takes: events(&[("Trade", 2)]), ..b.asks(1) }).await;
        assert_eq!(counts(&chunk), [(all[0], 4, 1)]);
    }

    async fn at_most_ten_names_are_told_that_are_needed(case) {
        let queue = case.queue(13).await;
        let a = queue.worker("a").await;
        a.takes(13).await;
        let needed = |n: usize| needs(&format!("E{n:02}"), 7);
        a.ack(queue.all.iter().enumerate().map(|(n, id)| (*id, needed(n)))).await;
        let expected: Events = (0..10).map(|n| (format!("E{n:02}"), 7)).collect();
        assert_eq!(queue.look().await.needed, expected);
    }

    // Consumers that are gone.

    async fn what_the_dead_had_in_flight_comes_again_and_counts(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(3).await, all[..3]);
        a.ack([(all[0], again(4, Duration::ZERO)), (all[2], done())]).await;
        assert_eq!(given(&a.chunk(&a.asks_for_old(1)).await), all[..1]);
        let rings = queue.rings().await;
        assert_eq!(queue.buries("a").await, 2);
        assert_eq!((queue.places().await, queue.rings().await), ((0, 2), rings + 1));
        let state = queue.look().await;
        assert_eq!((state.consumers.len(), state.due), (1, Some(Duration::ZERO)));
        assert_eq!(counts(&b.fetch(2).await), [(all[0], 4, 1), (all[1], 0, 1)]);
        assert_eq!(b.takes(9).await, all[3..]);
    }

    async fn what_has_crashed_is_charged_when_it_runs_and_not_before(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(3).await, *all);
        assert_eq!(queue.buries("a").await, 3);
        let fetches = async |worker: &Worker<'_>| {
            counts(&worker.chunk(&Fetch { takes: events(&[("Trade", 1)]), ..worker.asks(3) }).await)
        };
        let expected = |counts: [(u32, u32); 3]| -> Vec<_> {
            all.iter().zip(counts).map(|(id, (failed, crashes))| (*id, failed, crashes)).collect()
        };
        assert_eq!(fetches(&b).await, expected([(0, 1), (0, 1), (0, 1)]));
        let rings = queue.rings().await;
        b.ack([(all[0], charged()), (all[1], charged())]).await;
        assert_eq!((queue.places().await, queue.rings().await), ((3, 0), rings), "it stays in flight");
        // The run of one has failed.
        b.ack([(all[1], again(1, Duration::ZERO))]).await;
        assert_eq!(b.takes(1).await, all[1..2]);
        assert_eq!(queue.buries("b").await, 3);
        let c = queue.worker("c").await;
        assert_eq!(fetches(&c).await, expected([(0, 2), (1, 1), (0, 1)]));
        // Given back untried it is as it was, whether it was charged or not.
        c.ack([(all[1], charged()), (all[2], charged())]).await;
        c.ack([(all[0], back()), (all[1], back()), (all[2], needs("Trade", 1))]).await;
        assert_eq!(fetches(&c).await, expected([(0, 2), (1, 1), (0, 1)]));
        // Sent again, a fetch says the same, and charges nobody.
        let fetch = Fetch { call: c.fetches.get(), ..c.asks(3) };
        assert_eq!(counts(&c.chunk(&fetch).await), expected([(0, 2), (1, 1), (0, 1)]));
        assert_eq!(queue.buries("c").await, 3);
        let d = queue.worker("d").await;
        assert_eq!(fetches(&d).await, expected([(0, 2), (1, 1), (0, 1)]));
    }

    async fn what_is_known_of_a_new_one_is_not_lost_with_its_consumer(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        a.takes(5).await;
        let failed = End::Is(|item| (item.failed, item.charged) = (2, false));
        a.ack([(all[1], failed), (all[3], done()), (all[4], End::Is(|item| item.failed = 7))]).await;
        assert_eq!(queue.look().await.consumers[0].in_flight, 4);
        let fetch = Fetch { call: 1, ..a.asks(5) };
        assert_eq!(counts(&a.chunk(&fetch).await), [(all[0], 0, 0), (all[1], 2, 0), (all[2], 0, 0), (all[4], 7, 0)]);
        assert_eq!(queue.buries("a").await, 4);
        assert_eq!(counts(&b.fetch(9).await), [(all[0], 0, 1), (all[1], 2, 0), (all[2], 0, 1), (all[4], 7, 1)]);
    }

    async fn the_dead_are_reclaimed_page_by_page_and_fenced_from_the_first(case) {
        let queue = case.queue(60).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        a.takes(20).await;
        a.takes(30).await;
        a.ack([(all[3], done()), (all[4], again(1, Duration::ZERO)), (all[5], End::Is(|item| item.failed = 2))]).await;
        assert_eq!(given(&a.chunk(&a.asks_for_old(9)).await), all[4..5]);
        let (fetch, acks) = (a.asks(9), a.tells([(all[0], done())]));
        let seen = queue.life("a").await;
        let rings = queue.rings().await;
        let Reclaimed::Some { entries: mut reclaimed, .. } = queue.reclaims("a", &seen, 20).await else { panic!() };
        assert!((1..=25).contains(&reclaimed), "{reclaimed}");
        assert_eq!(queue.rings().await, rings, "the last one rings");
        assert_eq!(queue.look().await.consumers[0].life, DEAD);
        assert_eq!(queue.places().await, (49 - reclaimed, reclaimed), "each is in one place");
        assert_eq!(queue.reclaims("a", &seen, 20).await, Reclaimed::Contended, "somebody else has begun");

        assert_eq!(queue.renews(&a.holder).await, Renewed::Lost);
        assert_eq!((a.fetched(&fetch).await, a.acked(&acks).await), (Fetched::Fenced, Acked::Fenced));
        assert!(!a.leaves().await);
        let mut taken = counts(&b.fetch(5).await);
        assert_eq!(taken.len(), 5, "meanwhile others work");
        loop {
            let before = queue.places().await;
            let (page, is_last) = match queue.reclaims("a", &DEAD, 20).await {
                Reclaimed::Some { entries: page, .. } => (page, false),
                Reclaimed::All { entries: page } => (page, true),
                other => panic!("{other:?}"),
            };
            assert!((1..=25).contains(&page), "{page}");
            assert_eq!(queue.places().await, (before.0 - page, before.1 + page));
            reclaimed += page;
            if is_last {
                break;
            }
        }
        assert_eq!((reclaimed, queue.rings().await), (49, rings + 1));
        for seen in [&DEAD, &seen] {
            assert_eq!(queue.reclaims("a", seen, 20).await, Reclaimed::Contended);
        }
        assert_eq!(queue.renews(&a.holder).await, Renewed::Lost);
        assert_eq!((a.fetched(&fetch).await, a.acked(&acks).await), (Fetched::Fenced, Acked::Fenced));
        let state = queue.look().await;
        assert_eq!((state.consumers.len(), state.unsettled(), state.waiting), (1, 49, 44));
        taken.extend(counts(&b.chunk(&b.asks_for_old(99)).await));
        taken.sort_unstable();
        let failed = |n: usize| match n { 4 => 1, 5 => 2, _ => 0 };
        let expected = (0..50).filter(|n| *n != 3).map(|n| (all[n], failed(n), 1));
        assert_eq!(taken, expected.collect::<Vec<_>>(), "crashes are exact");
    }

    async fn exactly_a_page_is_all(case) {
        let queue = case.queue(4).await;
        let a = queue.worker("a").await;
        a.takes(4).await;
        let seen = queue.life("a").await;
        assert_eq!(queue.reclaims("a", &seen, 2).await, some(2));
        assert_eq!(queue.reclaims("a", &DEAD, 2).await, all_of(2));
        assert!(queue.look().await.consumers.is_empty());
        assert_eq!(queue.places().await, (0, 4));
    }

    async fn a_token_that_is_being_reclaimed_does_not_come_back(case) {
        let queue = case.queue(4).await;
        let a = queue.worker("a").await;
        a.takes(4).await;
        let seen = queue.life("a").await;
        assert_eq!(queue.reclaims("a", &seen, 2).await, some(2));
        // It is a fresh token that is asked for.
        if let Ok(Joined::Member { epoch }) = queue.case.broker.join(&crew(), "a", LEASE).await {
            panic!("it is a member of {epoch} while what it had is reclaimed");
        }
        assert_eq!(queue.reclaims("a", &DEAD, 9).await, all_of(2));
        assert!(queue.joins("a").await.epoch > a.holder.epoch);
    }

    async fn nobody_is_reclaimed_whose_life_is_another_than_was_seen(case) {
        let queue = case.queue(1).await;
        let a = queue.worker("a").await;
        a.takes(1).await;
        let Life::Beats { epoch, beat, lease_for } = queue.life("a").await else { panic!() };
        for other in [
            Life::Beats { epoch: epoch + 1, beat, lease_for },
            Life::Beats { epoch, beat: beat + 1, lease_for },
            Life::Beats { epoch, beat, lease_for: lease_for * 2 },
            DEAD,
        ] {
            assert_eq!(queue.reclaims("a", &other, 9).await, Reclaimed::Contended, "{other:?}");
        }
        for other in [DEAD, queue.life("a").await] {
            assert_eq!(queue.reclaims("b", &other, 9).await, Reclaimed::Contended, "{other:?}");
        }
        assert_eq!(queue.renews(&a.holder).await, HELD);
        assert_eq!(queue.places().await, (1, 0));
    }

    async fn who_leaves_gives_back_what_it_has_and_is_no_consumer(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(4).await, all[..4]);
        a.ack([(all[0], back()), (all[3], End::Is(|item| (item.failed, item.charged) = (3, false)))]).await;
        let (fetch, acks) = (a.asks(9), a.tells([(all[1], done())]));
        let strangers =
            [Holder { epoch: a.holder.epoch + 1, ..a.holder.clone() }, Holder { owner: "c".to_owned(), ..a.holder.clone() }];
        for stranger in strangers {
            assert!(!queue.case.broker.release(&crew(), &stranger, None).await.unwrap());
        }
        let rings = queue.rings().await;
        assert!(a.leaves().await);
        assert_eq!(queue.rings().await, rings + 1);
        assert!(!a.leaves().await);
        assert_eq!(queue.renews(&a.holder).await, Renewed::Lost);
        assert_eq!((a.fetched(&fetch).await, a.acked(&acks).await), (Fetched::Fenced, Acked::Fenced));
        let state = queue.look().await;
        assert_eq!((state.consumers.len(), state.unsettled(), state.waiting), (1, 4, 4));
        // The entries that it still had may have been running.
        let expected = [(all[0], 0, 0), (all[1], 0, 1), (all[2], 0, 1), (all[3], 3, 0)];
        assert_eq!(counts(&b.fetch(4).await), expected);
        assert_eq!(b.takes(9).await, all[4..]);
        assert!(b.leaves().await);
        assert_eq!(queue.places().await, (0, 6));
    }

    async fn who_leaves_with_nothing_leaves_nothing(case) {
        let queue = case.queue(2).await;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, queue.all);
        a.all_done(&queue.all).await;
        assert!(a.leaves().await);
        let epoch = a.holder.epoch;
        assert_eq!(queue.look().await, at_rest(queue.all[1], Some(2)));
        assert_eq!(queue.state().await.lease, LeaseView { epoch, ..LeaseView::default() });
    }

    // Dead letters.

    async fn a_dead_letter_is_written_in_the_step_that_ends_its_entry(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(3).await;
        let acks = a.tells([(all[0], done()), (all[1], dead("x")), (all[2], dead("y"))]);
        for _ in 0..2 {
            assert_eq!(a.acked(&acks).await, Acked::Done);
            assert_eq!(queue.letters().await, ["x", "y"]);
            assert_eq!(queue.places().await, (0, 0));
        }
    }

    async fn where_there_is_no_room_for_all_letters_nothing_is_done(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(6).await;
        let dead_bounds = DeadBounds { count: 2, ..NO_BOUNDS };
        let before = queue.look().await;
        let ends = [(all[0], dead("1")), (all[1], dead("2")), (all[2], dead("3")), (all[3], done()), (all[4], back())];
        let acks = Acks { dead_bounds, ..a.tells(ends) };
        assert_eq!(a.acked(&acks).await, Acked::Full(Full { count: 0, oldest: None }));
        assert_eq!(queue.look().await, before);
        assert!(queue.letters().await.is_empty());
        a.ack([(all[0], dead("x"))]).await;
        let acks = Acks { dead_bounds, ..a.tells([(all[1], dead("y")), (all[2], dead("z"))]) };
        let oldest = queue.oldest_letter().await;
        let before = queue.look().await;
        for _ in 0..2 {
            assert_eq!(a.acked(&acks).await, Acked::Full(Full { count: 1, oldest: Some(oldest) }));
        }
        assert_eq!((queue.look().await, queue.letters().await), (before, vec!["x".to_owned()]));
        // The same acks, where somebody has made room meanwhile.
        assert_eq!(queue.case.broker.discard(&crew(), &[oldest]).await.unwrap(), 1);
        for _ in 0..2 {
            assert_eq!(a.acked(&acks).await, Acked::Done);
        }
        assert_eq!((queue.letters().await, queue.places().await), (vec!["y".to_owned(), "z".to_owned()], (3, 0)));
    }

    async fn letters_of_a_queue_have_a_bound_by_age(case) {
        let queue = case.queue(2).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(2).await;
        a.ack([(all[0], dead("x"))]).await;
        let oldest = queue.oldest_letter().await;
        queue.case.after(oldest.ms).await;
        let dead_bounds = DeadBounds { age: Duration::ZERO, ..NO_BOUNDS };
        let acks = Acks { dead_bounds, ..a.tells([(all[1], dead("x"))]) };
        assert_eq!(a.acked(&acks).await, Acked::Full(Full { count: 1, oldest: Some(oldest) }));
        assert_eq!(queue.places().await, (1, 0));
        // Nothing bounds what needs no room.
        assert_eq!(a.acked(&Acks { dead_bounds, ..a.tells([(all[1], done())]) }).await, Acked::Done);
        assert_eq!(queue.places().await, (0, 0));
    }

    async fn replays_are_handled_by_one_living_consumer_at_a_time(case) {
        let queue = case.queue(2).await;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        a.takes(2).await;
        a.ack(queue.all.iter().map(|id| (*id, dead(&id.to_string())))).await;
        let broker = &queue.case.broker;
        let letters = ids(&broker.dead_letters(&crew(), EntryId::ZERO, 9).await.unwrap());
        let take = async |worker: &Worker<'_>| broker.take_replay(&crew(), &worker.holder).await.unwrap();
        let letter = async |worker: &Worker<'_>| match take(worker).await {
            Taken::Letter(replay) => replay,
            other => panic!("{other:?}"),
        };
        let end = async |worker: &Worker<'_>, id, end: ReplayEnd| {
            broker.end_replay(&crew(), &worker.holder, id, &end).await.unwrap()
        };
        assert_eq!(queue.renews(&a.holder).await, HELD);
        assert_eq!(take(&a).await, Taken::Nothing);
        assert_eq!(broker.replay(&crew(), &letters, 9).await.unwrap(), Moved::Done(letters.clone()));
        assert_eq!(queue.renews(&a.holder).await, Renewed::Held { replays: true });
        assert_eq!(queue.renews(&b.holder).await, Renewed::Held { replays: true });

        let first = letter(&a).await;
        assert_eq!((first.attempts, first.crashes), (0, 0));
        assert_eq!(letter(&a).await, first, "the answer was lost");
        assert_eq!(take(&b).await, Taken::Nothing, "it is charged to another that lives");
        let id = first.letter.id;
        assert!(end(&a, id, ReplayEnd::Again { attempts: 1 }).await);
        // Then anybody may have it.
        assert_eq!(letter(&b).await, Replay { attempts: 1, ..first.clone() });
        assert_eq!(take(&a).await, Taken::Nothing);
        assert_eq!(queue.buries("b").await, 0);
        assert_eq!(take(&b).await, Taken::Fenced);
        assert!(!end(&b, id, ReplayEnd::Done).await);
        let crashed = letter(&a).await;
        assert_eq!((crashed.attempts, crashed.crashes), (1, 1));
        assert!(end(&a, id, ReplayEnd::Done).await);
        let second = letter(&a).await;
        assert_eq!((second.attempts, second.crashes), (0, 0));
        assert!(end(&a, second.letter.id, ReplayEnd::Dead(fields("back"))).await);
        assert_eq!(take(&a).await, Taken::Nothing);
        assert_eq!(queue.renews(&a.holder).await, HELD);
        assert_eq!(queue.letters().await, ["back"]);
        let stranger = queue.worker_as(Holder { owner: "c".to_owned(), ..a.holder.clone() });
        assert_eq!(take(&stranger).await, Taken::Fenced);
    }

    // The cursor.

    async fn who_finds_another_entry_at_the_cursor_is_to_judge_first(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        queue.case.cut(all[2]);
        let before = queue.look().await;
        let fetch = a.asks(2);
        let unsure = Fetched::Unsure(before.cursor.clone());
        assert_eq!(before.cursor, Cursor { at: all[1], at_event: String::new(), seen: Some(2) });
        assert_eq!(a.fetched(&fetch).await, unsure);
        for wrong in [Judged { at: all[1], next: all[3] }, Judged { at: all[0], next: all[2] }] {
            let fetch = Fetch { new: New::Read { judged: Some(wrong) }, ..fetch.clone() };
            assert_eq!(a.fetched(&fetch).await, unsure, "{wrong:?}");
        }
        assert_eq!(queue.look().await, before, "nothing was changed");
        // The same call once more, by one that has looked.
        let judged = Judged { at: all[1], next: all[2] };
        let fetch = Fetch { new: New::Read { judged: Some(judged) }, ..fetch };
        assert_eq!(given(&a.chunk(&fetch).await), all[2..4]);
        assert_eq!(queue.look().await.cursor, Cursor { at: all[3], at_event: String::new(), seen: Some(4) });
        // From there on the entry at the cursor stands.
        assert_eq!(a.takes(9).await, all[4..]);
    }

    async fn what_was_judged_holds_as_long_as_the_next_entry_stands(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(1).await, all[..1]);
        queue.case.remove(&all[..1]);
        let judged = queue.judged(all[0]).await;
        assert_eq!(judged.next, all[1]);
        queue.case.cut(all[2]);
        let fetch = Fetch { new: New::Read { judged: Some(judged) }, ..a.asks(9) };
        assert!(matches!(a.fetched(&fetch).await, Fetched::Unsure(_)));
        assert_eq!(a.takes_judged(9).await, all[2..]);
    }

    async fn a_stream_that_lost_its_first_entries_is_to_be_judged_from_the_beginning(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        queue.case.cut(all[2]);
        let Fetched::Unsure(cursor) = a.fetched(&a.asks(9)).await else { panic!() };
        assert_eq!(cursor, Cursor { at: EntryId::ZERO, at_event: String::new(), seen: Some(0) });
        assert_eq!(a.takes_judged(9).await, all[2..]);
        // And where they were lost before it began.
        let queue = queue.case.queue_from("other", Start::Earliest, Vec::new()).await;
        assert_eq!(queue.look().await.cursor, Cursor { seen: Some(2), ..cursor });
        let a = queue.worker("a").await;
        assert_eq!(a.takes_judged(1).await.len(), 1);
        assert_eq!(a.takes(9).await.len(), 1);
    }

    async fn a_stream_that_is_empty_or_gone_is_to_be_judged(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(3).await, *all);
        queue.case.cut(all[2].next());
        let cursor = queue.look().await.cursor;
        assert_eq!(a.fetched(&a.asks(9)).await, Fetched::Unsure(cursor.clone()));
        let more = queue.case.append(1).await;
        assert_eq!(a.fetched(&a.asks(9)).await, Fetched::Unsure(cursor.clone()));
        assert_eq!(a.takes_judged(9).await, more);
        queue.case.delete();
        let cursor = Cursor { at: more[0], seen: Some(4), ..cursor };
        assert_eq!(a.fetched(&a.asks(9)).await, Fetched::Unsure(cursor.clone()));
        // Nor is a new one of the same name the same.
        queue.case.after(more[0].ms).await;
        queue.case.append(1).await;
        assert_eq!(a.fetched(&a.asks(9)).await, Fetched::Unsure(cursor));
        assert_eq!(queue.renews(&a.holder).await, HELD);
        assert_eq!(queue.case.broker.queue(&crew()).await.unwrap(), None);
    }

    async fn a_marker_that_is_gone_does_not_fail_a_fetch_that_would_move_it(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(given(&a.chunk(&Fetch { mirror: true, ..a.asks(1) }).await), all[..1]);
        queue.case.unmark(&crew());
        assert_eq!(given(&a.chunk(&Fetch { mirror: true, ..a.asks(1) }).await), all[1..2]);
        a.ack([(all[0], done()), (all[1], back())]).await;
        assert_eq!(queue.state().await.at, all[1]);
        assert_eq!(queue.case.broker.queue(&crew()).await.unwrap(), None);
    }

    async fn the_event_at_the_cursor_tells_another_history(case) {
        let queue = case.queue(0).await;
        let a = queue.worker("a").await;
        let id = |ms| EntryId::new(ms, 1);
        queue.case.add(id(1), "t-1");
        queue.case.add(id(2), "t-2");
        assert_eq!(a.takes(1).await, [id(1)]);
        assert_eq!(queue.look().await.cursor, Cursor { at: id(1), at_event: "t-1".to_owned(), seen: Some(1) });
        assert_eq!(a.takes(1).await, [id(2)]);
        // As after a failover to a replica that lagged.
        queue.case.delete();
        queue.case.mark_as(&crew());
        queue.case.add(id(1), "t-1");
        queue.case.add(id(2), "t-3");
        queue.case.add(id(3), &"x".repeat(129));
        assert!(matches!(a.fetched(&a.asks(9)).await, Fetched::Unsure(_)));
        // An invalid event id is no witness.
        let known = New::Known { from: id(2), to: id(3), to_event: String::new(), number: 1 };
        assert_eq!(a.chunk(&Fetch { new: known, ..a.asks(9) }).await.number, 1);
        queue.case.add(id(4), &"x".repeat(129));
        assert_eq!(a.takes(9).await, [id(4)]);
        assert_eq!(queue.look().await.cursor.at_event, "");
        queue.case.add(id(5), "t-5");
        assert_eq!(a.takes(9).await, [id(5)]);
    }

    async fn a_cursor_is_passed_by_one_of_several_that_find_the_same_loss(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        queue.case.cut(all[2]);
        let from = queue.look().await.cursor;
        let to = Cursor { at: all[1], at_event: String::new(), seen: Some(2) };
        let lost = Lost { deleted: false, from: EntryId::ZERO, to: all[1], count: 2 };
        for wrong in [Cursor { at: all[0], ..from.clone() }, Cursor { seen: Some(1), ..from.clone() }, Cursor { seen: None, ..from.clone() }] {
            assert!(!queue.passes(&wrong, &to, Some(lost)).await, "{wrong:?}");
        }
        assert_eq!(queue.look().await.cursor, from);
        assert!(queue.passes(&from, &to, Some(lost)).await);
        assert!(!queue.passes(&from, &to, Some(lost)).await);
        assert_eq!(queue.look().await.cursor, to);
        let judged = New::Read { judged: Some(Judged { at: all[1], next: all[2] }) };
        let asks = |worker: &Worker<'_>| Fetch { new: judged.clone(), ..worker.asks(1) };
        for worker in [&a, &b] {
            assert_eq!(worker.lost(&asks(worker)).await, (lost, false));
        }
        assert_eq!(queue.renews(&b.holder).await, HELD, "it is alive all the same");
        let go_on = Fetch { go_on: true, ..asks(&a) };
        let chunk = a.chunk(&go_on).await;
        assert_eq!((given(&chunk), chunk.lost), (all[2..3].to_vec(), None), "it was told before");
        assert_eq!(a.lost(&a.asks(9)).await, (lost, false), "others are stopped all the same");
        assert_eq!(b.lost(&b.asks_for_old(9)).await, (lost, false));
        queue.resumes().await;
        assert_eq!(b.takes(9).await, all[3..]);
        let state = queue.look().await;
        assert_eq!((state.cursor.at, state.cursor.seen, state.resume, state.unsettled()), (all[3], Some(4), 1, 2));
    }

    async fn a_cursor_may_be_passed_without_stopping_anybody_and_without_a_number(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        queue.case.cut(all[2]);
        let from = queue.look().await.cursor;
        let to = Cursor { at: all[1], at_event: "t-9".to_owned(), seen: None };
        assert!(queue.passes(&from, &to, None).await);
        assert_eq!(queue.look().await.cursor, to);
        let back = Cursor { seen: Some(2), ..to.clone() };
        assert!(!queue.passes(&back, &from, None).await);
        assert!(queue.passes(&to, &back, None).await, "the number is known from then on");
        assert_eq!(a.takes_judged(9).await, all[2..]);
        assert_eq!(queue.look().await.cursor.seen, Some(3));
    }

    // Entries that wait and are gone.

    async fn entries_that_waited_and_were_trimmed_are_told_once_whenever_they_were_due(case) {
        let queue = case.queue(8).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(6).await, all[..6]);
        let ends = [back(), again(1, LONG), needs("Trade", 2), done(), back()];
        a.ack(all.iter().copied().zip(ends)).await;
        queue.case.cut(all[4]);
        let (lost, found) = b.lost(&b.asks(1)).await;
        assert_eq!((lost.deleted, lost.count, found), (false, 3, true));
        assert!(lost.from < all[0] && all[2] <= lost.to && lost.to < all[4], "{lost:?}");
        assert_eq!((b.lost(&b.asks(9)).await, a.lost(&a.asks_for_old(1)).await), ((lost, false), (lost, false)));
        let state = queue.look().await;
        assert_eq!((state.unsettled(), state.waiting, &state.needed), (2, 1, &Events::new()));
        assert_eq!(queue.renews(&b.holder).await, HELD);
        // Entries in flight go on meanwhile.
        a.all_done(&all[5..6]).await;
        queue.resumes().await;
        assert_eq!(b.takes(9).await, [all[4], all[6], all[7]]);
        assert_eq!((queue.places().await, queue.look().await.resume), ((3, 0), 1));
    }

    async fn what_was_in_flight_is_a_loss_when_it_is_given_back_and_gone(case) {
        let queue = case.queue(0).await;
        for end in [back(), again(1, LONG), needs("Trade", 2)] {
            let all = queue.case.append(3).await;
            let epoch = queue.state().await.lease.epoch;
            assert!(matches!(queue.reset(Some(epoch), Start::At(all[0])).await, Reset::Done { .. }));
            let a = queue.worker("a").await;
            assert_eq!(a.takes(2).await, all[..2]);
            queue.case.cut(all[1]);
            a.ack([(all[0], end.clone()), (all[1], done())]).await;
            let (lost, found) = a.lost(&a.asks(9)).await;
            assert_eq!((lost.deleted, lost.count, found), (false, 1, true), "{end:?}");
            assert!(lost.from < all[0] && all[0] <= lost.to && lost.to < all[2], "{lost:?}");
            queue.resumes().await;
            assert_eq!(a.takes(9).await, all[2..]);
            assert_eq!(queue.places().await, (1, 0));
        }
    }

    async fn an_entry_that_waited_and_was_deleted_is_told_when_it_is_its_turn(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(4).await, all[..4]);
        a.ack([(all[1], back()), (all[2], again(1, LONG))]).await;
        queue.case.remove(&[all[1], all[2]]);
        let (lost, found) = a.lost(&a.asks(9)).await;
        assert_eq!((lost.deleted, lost.count, found), (true, 1, true));
        assert!(lost.from < all[1] && all[1] <= lost.to && lost.to < all[2], "{lost:?}");
        queue.resumes().await;
        assert_eq!(a.takes(9).await, all[4..]);
        assert_eq!(queue.places().await, (3, 1));
        let impatient = Fetch { longest_wait: Duration::ZERO, go_on: true, ..a.asks(9) };
        let chunk = a.chunk(&impatient).await;
        let lost = chunk.lost.unwrap();
        assert_eq!((given(&chunk), lost.deleted, lost.count), (Vec::new(), true, 1));
        assert_eq!(queue.places().await, (3, 0));
    }

    async fn who_goes_on_is_told_of_a_loss_and_given_the_rest(case) {
        let queue = case.queue(8).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(6).await, all[..6]);
        a.ack([(all[0], back()), (all[1], again(1, LONG)), (all[4], back())]).await;
        queue.case.cut(all[3]);
        let chunk = a.chunk(&Fetch { go_on: true, ..a.asks(2) }).await;
        let lost = chunk.lost.unwrap();
        assert_eq!((lost.deleted, lost.count), (false, 2));
        assert!(lost.from < all[0] && all[1] <= lost.to && lost.to < all[3], "{lost:?}");
        assert_eq!((given(&chunk), chunk.waiting), (vec![all[4], all[6]], 0));
        let chunk = a.chunk(&Fetch { go_on: true, ..a.asks(2) }).await;
        assert_eq!((given(&chunk), chunk.lost), (all[7..].to_vec(), None));
        // Nobody is stopped by it.
        assert_eq!(a.takes(9).await, []);
    }

    async fn who_goes_on_over_many_losses_is_given_what_is_left_of_what_waits(case) {
        let queue = case.queue(12).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(10).await, all[..10]);
        a.ack(all[..10].iter().map(|id| (*id, back()))).await;
        queue.case.cut(all[8]);
        let chunk = b.chunk(&Fetch { go_on: true, ..b.asks_for_old(2) }).await;
        assert_eq!((sorted(given(&chunk)), chunk.lost.map(|lost| lost.count)), (all[8..10].to_vec(), Some(8)));
        // And where they were deleted one by one.
        b.ack(all[8..10].iter().map(|id| (*id, back()))).await;
        queue.case.remove(&all[8..9]);
        let (mut taken, mut lost) = (Vec::new(), 0);
        for _ in 0..2 {
            let chunk = b.chunk(&Fetch { go_on: true, ..b.asks_for_old(1) }).await;
            lost += chunk.lost.map_or(0, |lost| lost.count);
            taken.extend(given(&chunk));
        }
        assert_eq!((taken, lost, queue.places().await), (all[9..10].to_vec(), 1, (1, 0)));
    }

    async fn what_a_trim_has_passed_is_told_at_once_however_little_is_asked_for(case) {
        let queue = case.queue(60).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(55).await;
        a.ack(all[..54].iter().enumerate().map(|(n, id)| (*id, again(1, Duration::from_secs(n as u64))))).await;
        queue.case.cut(all[52]);
        let (lost, found) = a.lost(&a.asks(1)).await;
        assert_eq!((lost.deleted, lost.count, found), (false, 52, true));
        assert!(lost.from < all[0] && lost.to >= all[51] && lost.to < all[52], "{lost:?}");
        assert_eq!(queue.places().await, (1, 2));
    }

    async fn what_waits_is_lost_with_all_that_there_is(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(3).await;
        a.ack([(all[0], back()), (all[2], needs("Trade", 2))]).await;
        queue.case.cut(all[2].next());
        let (lost, found) = a.lost(&a.asks_for_old(1)).await;
        assert_eq!((lost.deleted, lost.count, found), (false, 2, true));
        assert!(lost.from < all[0] && lost.to >= all[2], "{lost:?}");
        queue.resumes().await;
        assert_eq!(queue.places().await, (1, 0));
        a.all_done(&all[1..2]).await;
    }

    async fn a_trim_of_what_is_in_flight_stops_nobody(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(3).await, all[..3]);
        queue.case.cut(all[2]);
        assert_eq!(a.takes(1).await, all[3..]);
        a.all_done(all).await;
        assert_eq!((queue.places().await, queue.look().await.settled()), ((0, 0), all[3]));
    }

    async fn a_consumer_whose_entries_are_gone_is_reclaimed_all_the_same(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(5).await, all[..5]);
        a.ack([(all[0], End::Is(|item| item.failed = 1))]).await;
        queue.case.cut(all[4]);
        let (mut seen, mut pages) = (queue.life("a").await, 0);
        let mut told = Vec::new();
        loop {
            match queue.reclaims("a", &seen, 1).await {
                Reclaimed::Some { lost, .. } => {
                    told.extend(lost);
                    (seen, pages) = (Life::Dead { lost }, pages + 1);
                }
                Reclaimed::All { .. } => break,
                other => panic!("{other:?}"),
            }
            assert!(pages < 9, "it has no end");
        }
        // The first stands by itself, and is found when its turn comes.
        let range = Lost { deleted: false, from: told[0].from, to: all[4], count: 3 };
        assert_eq!(told, [range]);
        assert!(range.from < all[1], "{range:?}");
        let state = queue.look().await;
        assert_eq!((state.consumers.len(), state.unsettled()), (0, state.waiting));
        let b = queue.worker("b").await;
        let chunk = b.chunk(&Fetch { go_on: true, ..b.asks(9) }).await;
        assert_eq!(counts(&chunk), [(all[4], 0, 1), (all[5], 0, 0)]);
        assert!(chunk.lost.is_some_and(|lost| !lost.deleted && lost.count >= 1), "{chunk:?}");
    }

    async fn what_is_gone_of_the_ranges_of_the_dead_is_told(case) {
        let queue = case.queue(12).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!((a.takes(4).await, b.takes(4).await, a.takes(4).await), (all[..4].to_vec(), all[4..8].to_vec(), all[8..].to_vec()));
        // Settled entries are no loss.
        a.all_done(&all[2..3]).await;
        queue.case.remove(&[all[2], all[9], all[10]]);
        let seen = queue.life("a").await;
        assert_eq!(queue.reclaims("a", &seen, 2).await, some(2));
        // It goes on to go while pages are given back.
        queue.case.remove(&[all[3]]);
        let Reclaimed::Some { entries: 1, lost: Some(lost) } = queue.reclaims("a", &DEAD, 1).await else { panic!() };
        assert_eq!((lost.deleted, lost.count, lost.to), (true, 3, all[11]));
        assert!(lost.from < all[3], "{lost:?}");
        let told = Life::Dead { lost: Some(lost) };
        assert_eq!(queue.reclaims("a", &told, 9).await, all_of(1));
        assert_eq!(queue.places().await, (4, 4));
        // A trim has passed all.
        queue.case.cut(all[8]);
        let seen = queue.life("b").await;
        let lost = Lost { deleted: false, from: all[3], to: all[7], count: 4 };
        let Reclaimed::Some { entries: 0, lost: Some(told) } = queue.reclaims("b", &seen, 9).await else { panic!() };
        assert_eq!((told.deleted, told.count, told.to), (lost.deleted, lost.count, lost.to));
        assert!(told.from < all[4], "{told:?}");
    }

    async fn a_range_of_which_all_is_gone_holds_nothing_back(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        let fetch = a.asks(3);
        assert_eq!(given(&a.chunk(&fetch).await), *all);
        a.ack([(all[1], done()), (all[2], End::Is(|item| item.failed = 1))]).await;
        queue.case.remove(&all[..1]);
        assert_eq!(a.chunk(&fetch).await.lost.map(|lost| lost.count), Some(1));
        let state = queue.look().await;
        assert_eq!((state.unsettled(), state.oldest), (1, Some(all[2])));
    }

    async fn what_is_gone_of_a_fetch_that_is_sent_again_is_told_until_the_next(case) {
        let queue = case.queue(8).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], back()), (all[1], back())]).await;
        let fetch = a.asks(5);
        assert_eq!(a.chunk(&fetch).await.lost, None);
        queue.case.remove(&[all[1], all[3]]);
        let chunk = a.chunk(&fetch).await;
        assert_eq!(sorted(given(&chunk)), [all[0], all[2], all[4]]);
        let lost = chunk.lost.unwrap();
        assert_eq!((lost.deleted, lost.count, chunk.number), (true, 2, 2));
        assert!(lost.from < all[1] && lost.to >= all[3], "{lost:?}");
        // A caller that asks again has not heard the answer.
        let again = a.chunk(&fetch).await;
        assert_eq!((sorted(given(&again)), again.lost), (vec![all[0], all[2], all[4]], Some(lost)));
        queue.case.cut(all[6]);
        let lost = a.chunk(&fetch).await.lost.unwrap();
        assert_eq!((lost.deleted, lost.count), (false, 5));
        // A late call reports nothing.
        a.takes_judged(1).await;
        queue.case.cut(all[7]);
        assert_eq!(a.chunk(&fetch).await.lost, None);
    }

    async fn what_a_fetch_has_told_is_told_again_to_who_sends_it_again(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(3).await, all[..3]);
        a.ack([(all[0], back()), (all[1], back()), (all[2], again(1, LONG))]).await;
        queue.case.remove(&[all[1]]);
        let fetch = Fetch { go_on: true, ..a.asks(3) };
        let chunk = a.chunk(&fetch).await;
        assert_eq!(chunk.lost, Some(Lost { deleted: true, from: all[1].previous(), to: all[1], count: 1 }));
        let again = Chunk { due: chunk.due, ..a.chunk(&fetch).await };
        assert_eq!(again, chunk, "the first answer may be lost");
        // The next one begins anew.
        let next = Fetch { go_on: true, ..a.asks_for_old(3) };
        assert_eq!(a.chunk(&next).await.lost, None);
        assert_eq!(a.chunk(&next).await.lost, None);
        assert_eq!(a.chunk(&fetch).await.lost, None, "one that comes late tells nothing");
    }

    async fn what_was_told_to_a_consumer_that_died_is_told_again(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], back()), (all[1], back())]).await;
        queue.case.remove(&[all[1]]);
        let lost = a.chunk(&Fetch { go_on: true, ..a.asks_for_old(3) }).await.lost;
        assert!(lost.is_some());
        let seen = queue.life("a").await;
        assert_eq!(queue.reclaims("a", &seen, 9).await, Reclaimed::Some { entries: 1, lost });
        assert_eq!(queue.reclaims("a", &Life::Dead { lost }, 9).await, all_of(0));
    }

    async fn a_pass_that_is_sent_again_is_answered_the_same(case) {
        let queue = case.queue(4).await;
        let a = queue.worker("a").await;
        let from = queue.look().await.cursor;
        let to = Cursor { at: queue.all[1], at_event: String::new(), seen: Some(2) };
        let pass = Pass { from: from.clone(), to: to.clone(), halts: None };
        let broker = &queue.case.broker;
        assert!(broker.pass(&queue.group, "one", &pass).await.unwrap());
        assert!(!broker.pass(&queue.group, "two", &pass).await.unwrap(), "one of several tells it");
        assert!(broker.pass(&queue.group, "one", &pass).await.unwrap(), "its first answer may be lost");
        // Also when others have gone on.
        a.takes_judged(1).await;
        assert!(broker.pass(&queue.group, "one", &pass).await.unwrap());
        assert_eq!(queue.look().await.cursor.at, queue.all[2]);
    }

    async fn a_mend_that_is_sent_again_is_answered_the_same(case) {
        let queue = case.queue(3).await;
        let a = queue.worker("a").await;
        let all = a.takes(2).await;
        a.ack([(all[0], back()), (all[1], back())]).await;
        queue.case.forget(&crew().waiting());
        let damage = Damage { recorded: 2, found: 0 };
        let lost = Lost { deleted: true, from: EntryId::ZERO, to: all[1], count: 2 };
        let broker = &queue.case.broker;
        assert!(broker.mend(&queue.group, "one", &damage, Some(&lost)).await.unwrap());
        assert!(!broker.mend(&queue.group, "two", &damage, Some(&lost)).await.unwrap());
        assert!(broker.mend(&queue.group, "one", &damage, Some(&lost)).await.unwrap());
        assert_eq!(a.lost(&a.asks(9)).await, (lost, false), "it is recorded once");
    }

    async fn what_is_gone_of_the_dead_stays_until_it_was_told(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!((a.takes(2).await, a.takes(4).await), (all[..2].to_vec(), all[2..].to_vec()));
        queue.case.remove(&[all[1], all[3]]);
        let seen = queue.life("a").await;
        let Reclaimed::Some { entries: 1, lost } = queue.reclaims("a", &seen, 1).await else { panic!() };
        assert_eq!(lost.map(|lost| (lost.deleted, lost.count)), Some((true, 1)));
        // The next one to look reports it, where that answer was lost.
        assert_eq!(queue.life("a").await, Life::Dead { lost });
        assert_eq!(queue.reclaims("a", &DEAD, 9).await, Reclaimed::Contended, "that was not told");
        let Reclaimed::Some { entries: 3, lost: more } = queue.reclaims("a", &Life::Dead { lost }, 9).await else { panic!() };
        assert_eq!(more.map(|lost| (lost.deleted, lost.count)), Some((true, 1)));
        assert_eq!(queue.reclaims("a", &Life::Dead { lost }, 9).await, Reclaimed::Contended, "it is told once");
        assert_eq!((queue.life("a").await, queue.places().await), (Life::Dead { lost: more }, (0, 4)));
        assert_eq!(queue.reclaims("a", &Life::Dead { lost: more }, 9).await, all_of(0));
        assert!(queue.look().await.consumers.is_empty());
    }

    async fn a_trim_that_ends_inside_a_range_is_told_as_a_trim(case) {
        let queue = case.queue(9).await;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        let (first, all) = (b.takes(2).await, a.takes(6).await);
        b.all_done(&first).await;
        queue.dies_after_a_trim(&a, &all).await;
    }

    async fn a_trim_that_ends_inside_what_was_proposed_is_told_as_a_trim(case) {
        let queue = case.queue(9).await;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        let (first, all) = (b.takes(2).await, queue.all[2..8].to_vec());
        a.proposes(first[1], &all).await;
        b.all_done(&first).await;
        queue.dies_after_a_trim(&a, &all).await;
    }

    async fn entries_in_the_middle_of_a_range_are_deleted(case) {
        let queue = case.queue(5).await;
        let a = queue.worker("a").await;
        let all = a.takes(4).await;
        queue.case.remove(&[all[2]]);
        let seen = queue.life("a").await;
        let Reclaimed::Some { entries: 3, lost: Some(lost) } = queue.reclaims("a", &seen, 9).await else { panic!() };
        assert_eq!((lost.deleted, lost.count), (true, 1));
    }

    async fn chunks_whose_consumer_was_deleted_are_found_and_given_back(case) {
        let queue = case.queue(6).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!((a.takes(3).await, b.takes(1).await), (all[..3].to_vec(), all[3..4].to_vec()));
        a.ack([(all[1], again(2, Duration::ZERO))]).await;
        assert_eq!(given(&a.chunk(&a.asks_for_old(9)).await), all[1..2]);
        queue.case.forget_consumer(&queue.group, "a");
        let look = queue.look().await;
        let orphan = look.consumers.iter().find(|consumer| consumer.owner != "b").expect("it is found");
        assert_eq!((orphan.in_flight, orphan.life.clone(), look.consumers.len()), (3, DEAD, 2));
        assert_eq!(a.fetched(&a.asks(1)).await, Fetched::Fenced);
        assert_eq!(queue.reclaims("orphan/7", &DEAD, 9).await, Reclaimed::Contended);
        assert_eq!(queue.reclaims(&orphan.owner, &DEAD, 2).await, some(2));
        assert_eq!(queue.reclaims(&orphan.owner, &DEAD, 9).await, all_of(1));
        assert_eq!(queue.reclaims(&orphan.owner, &DEAD, 9).await, Reclaimed::Contended);
        assert_eq!((queue.look().await.consumers.len(), queue.places().await), (1, (1, 3)));
        assert_eq!(counts(&b.fetch(9).await)[..3], [(all[0], 0, 1), (all[1], 2, 1), (all[2], 0, 1)]);
    }

    async fn no_more_is_given_out_than_so_many_bytes(case) {
        let queue = case.queue(0).await;
        let big = vec![(b"payload".to_vec(), vec![7; 1000])];
        let mut all = Vec::new();
        for _ in 0..40 {
            all.extend(queue.case.broker.append(&partition(), vec![big.clone()], None).await.unwrap());
        }
        let a = queue.worker("a").await;
        let bounded = |bytes, count| Fetch { bytes, ..a.asks(count) };
        assert_eq!(given(&a.chunk(&bounded(1, 9)).await), all[..1], "one is given out whatever it weighs");
        let chunk = a.chunk(&bounded(5000, 9)).await;
        assert_eq!((given(&chunk), chunk.number, chunk.at), (all[1..5].to_vec(), 4, all[4]));
        assert_eq!(a.takes(30).await, all[5..35], "of many, page by page");
        // Those that waited count, too.
        a.ack(all[..35].iter().map(|id| (*id, back()))).await;
        assert_eq!(a.chunk(&bounded(1, 9)).await.again.len(), 1);
        let chunk = a.chunk(&bounded(5000, 9)).await;
        assert_eq!((chunk.again.len(), chunk.number), (5, 0));
        let chunk = a.chunk(&bounded(34_600, 99)).await;
        assert_eq!((chunk.again.len(), chunk.number), (29, 1));
    }

    async fn a_set_that_is_there_although_nothing_waits_is_damage_to_who_fetches(case) {
        let queue = case.queue(4).await;
        let a = queue.worker("a").await;
        let all = a.takes(2).await;
        a.ack([(all[0], back()), (all[1], back())]).await;
        let yesterday = queue.case.save_waiting(&queue.group);
        assert_eq!(a.chunk(&a.asks_for_old(2)).await.waiting, 0);
        a.all_done(&all).await;
        queue.case.restore_waiting(&queue.group, &yesterday);
        let damage = Damage { recorded: 0, found: 2 };
        assert_eq!(a.damage(&a.asks(9)).await, damage);
        assert_eq!(queue.look().await.damage, Some(damage));
        assert!(queue.mends(damage, None).await);
        assert_eq!(given(&a.chunk(&a.asks(9)).await).len(), 4);
    }

    async fn a_loss_that_halts_is_widened_by_the_next(case) {
        let queue = case.queue(8).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(3).await, all[..3]);
        a.ack([(all[0], back()), (all[1], again(1, LONG))]).await;
        queue.case.remove(&[all[0]]);
        let first = Lost { deleted: false, from: all[3], to: all[4], count: 2 };
        let from = queue.look().await.cursor;
        let to = Cursor { at: all[4], at_event: String::new(), seen: Some(5) };
        assert!(queue.passes(&from, &to, Some(first)).await);
        assert_eq!(a.lost(&a.asks(9)).await, (first, false));
        let further = Cursor { at: all[5], at_event: String::new(), seen: Some(6) };
        let second = Lost { deleted: true, from: all[4], to: all[5], count: 1 };
        assert!(queue.passes(&to, &further, Some(second)).await);
        let both = Lost { deleted: false, from: all[3], to: all[5], count: 3 };
        assert_eq!(a.lost(&a.asks(9)).await, (both, false));
        queue.case.forget(&crew().waiting());
        let third = Lost { deleted: true, from: EntryId::ZERO, to: all[2], count: 2 };
        assert!(queue.mends(Damage { recorded: 2, found: 0 }, Some(&third)).await);
        let every = Lost { deleted: false, from: EntryId::ZERO, to: all[5], count: 5 };
        assert_eq!(a.lost(&a.asks(9)).await, (every, false));
        queue.resumes().await;
        // And a new one begins anew: of two that are deleted both are.
        let back = Cursor { seen: Some(7), ..further.clone() };
        assert!(queue.passes(&further, &back, Some(second)).await && queue.passes(&back, &further, Some(third)).await);
        let lost = Lost { deleted: true, from: EntryId::ZERO, to: all[5], count: 3 };
        assert_eq!(a.lost(&a.asks(9)).await, (lost, false));
    }

    // A waiting set that is another one.

    async fn a_waiting_set_that_is_gone_is_damage_until_it_is_mended(case) {
        let queue = case.queue(8).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(5).await, all[..5]);
        a.ack([(all[0], back()), (all[1], again(1, LONG)), (all[2], needs("Trade", 2))]).await;
        let floor = queue.consumed().await.at;
        queue.case.forget(&crew().waiting());
        let damage = Damage { recorded: 3, found: 0 };
        // A member that does not touch it goes on.
        assert_eq!(queue.renews(&a.holder).await, HELD);
        a.ack([(all[3], End::Is(|item| item.failed = 1))]).await;
        let before = queue.look().await;
        assert_eq!(before.damage, Some(damage));
        let (fetch, acks) = (a.asks(9), a.tells([(all[3], back())]));
        assert_eq!((a.damage(&fetch).await, b.damage(&b.asks_for_old(1)).await), (damage, damage));
        assert_eq!(a.acked(&acks).await, Acked::Damaged(damage));
        let life = queue.life("a").await;
        assert_eq!(queue.reclaims("a", &life, 9).await, Reclaimed::Damaged(damage));
        assert_eq!(queue.look().await, before, "nothing was changed");
        let consumed = queue.case.broker.consumed(&partition()).await.unwrap();
        assert!(consumed.is_none_or(|consumed| consumed.at <= floor), "nobody knows what waited");

        for wrong in [Damage { recorded: 2, ..damage }, Damage { found: 1, ..damage }] {
            assert!(!queue.mends(wrong, None).await, "{wrong:?}");
        }
        let lost = Lost { deleted: true, from: EntryId::ZERO, to: all[4], count: 3 };
        assert!(queue.mends(damage, Some(&lost)).await);
        assert!(!queue.mends(damage, Some(&lost)).await);
        assert_eq!((queue.look().await.damage, queue.places().await), (None, (2, 0)));
        // The same calls once more.
        assert_eq!(a.lost(&fetch).await, (lost, false));
        assert_eq!(a.acked(&acks).await, Acked::Done);
        queue.resumes().await;
        assert_eq!(b.takes(2).await, [all[3], all[5]]);
        assert_eq!(queue.buries("a").await, 1);
        assert_eq!(counts(&b.fetch(1).await), [(all[4], 0, 1)]);
        assert_eq!(queue.places().await, (3, 0));
    }

    async fn who_cannot_give_back_for_damage_stays_to_be_reclaimed(case) {
        let queue = case.queue(6).await;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        a.takes(4).await;
        b.takes(2).await;
        let seen = queue.life("a").await;
        assert_eq!(queue.reclaims("a", &seen, 2).await, some(2));
        queue.case.forget(&crew().waiting());
        let damage = Damage { recorded: 2, found: 0 };
        let before = queue.look().await;
        assert_eq!(queue.reclaims("a", &DEAD, 9).await, Reclaimed::Damaged(damage));
        assert!(!b.leaves().await);
        assert_eq!(queue.look().await, before);
        assert_eq!(queue.renews(&b.holder).await, HELD);
        assert!(queue.mends(damage, None).await);
        assert_eq!(queue.reclaims("a", &DEAD, 9).await, all_of(2));
        assert!(b.leaves().await);
        assert_eq!(queue.places().await, (0, 4));
    }

    async fn a_mend_that_halts_nobody_lets_all_go_on(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(1).await;
        a.ack([(all[0], back())]).await;
        queue.case.forget(&crew().waiting());
        let damage = a.damage(&a.asks(9)).await;
        assert!(queue.mends(damage, None).await);
        assert_eq!(a.takes(9).await, all[1..]);
        a.ack([(all[1], back())]).await;
        assert_eq!((a.takes(9).await, queue.look().await.damage), (all[1..2].to_vec(), None));
    }

    async fn a_waiting_set_that_is_empty_may_be_gone(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        queue.case.forget(&crew().waiting());
        assert_eq!((a.takes(1).await, queue.look().await.damage), (all[..1].to_vec(), None));
        assert!(!queue.mends(Damage { recorded: 0, found: 0 }, None).await, "there is nothing to mend");
        a.ack([(all[0], back())]).await;
        assert_eq!(a.takes(1).await, all[..1]);
        queue.case.forget(&crew().waiting());
        assert_eq!((a.takes(9).await, queue.look().await.damage), (all[1..].to_vec(), None));
        a.ack([(all[0], back())]).await;
        assert_eq!((queue.buries("a").await, queue.look().await.damage, queue.places().await), (2, None, (0, 3)));
    }

    async fn a_reset_mends_a_waiting_set_that_is_gone(case) {
        let queue = case.queue(3).await;
        let a = queue.worker("a").await;
        a.takes(2).await;
        a.ack([(queue.all[0], back())]).await;
        queue.case.forget(&crew().waiting());
        assert_eq!(queue.reset(Some(a.holder.epoch), Start::Earliest).await, Reset::Done { at: EntryId::ZERO });
        assert_eq!((queue.look().await.damage, queue.places().await), (None, (0, 0)));
        let b = queue.worker("b").await;
        assert_eq!(b.takes(9).await, queue.all);
        b.ack([(queue.all[0], back())]).await;
        assert_eq!(b.takes(9).await, queue.all[..1]);
    }

    async fn a_waiting_set_of_before_a_reset_is_damage(case) {
        let queue = case.queue(3).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        a.takes(1).await;
        a.ack([(all[0], back())]).await;
        let yesterday = queue.case.save_waiting(&queue.group);
        assert_eq!(queue.reset(Some(a.holder.epoch), Start::At(all[1])).await, Reset::Done { at: all[0] });
        let b = queue.worker("b").await;
        assert_eq!(b.takes(2).await, all[1..]);
        // As many calls have changed the set, and as many entries wait.
        b.ack([(all[1], back())]).await;
        assert_eq!(queue.look().await.damage, None);
        queue.case.restore_waiting(&queue.group, &yesterday);
        let damage = Damage { recorded: 1, found: 1 };
        assert_eq!(queue.look().await.damage, Some(damage));
        assert_eq!(b.damage(&b.asks(9)).await, damage);
        assert_eq!(b.acked(&b.tells([(all[2], back())])).await, Acked::Damaged(damage));
        assert!(queue.mends(damage, None).await);
        assert_eq!(b.takes(9).await, all[..1]);
    }

    // Operators.

    async fn a_reset_takes_everything_out_of_all_hands(case) {
        let queue = case.queue(5).await;
        let all = &queue.all;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        assert_eq!(a.takes(3).await, all[..3]);
        assert_eq!(b.takes(1).await, all[3..4]);
        a.ack([(all[0], again(2, LONG)), (all[1], needs("Trade", 2))]).await;
        queue.declares(&[("Trade", 1)]).await;
        let before = queue.still().await;
        assert_eq!(queue.reset(Some(b.holder.epoch - 1), Start::Earliest).await, Reset::Contended);
        assert_eq!(queue.reset(Some(a.holder.epoch), Start::Earliest).await, Reset::Contended, "another has joined since");
        assert_eq!(queue.reset(None, Start::Earliest).await, Reset::Contended);
        assert_eq!(queue.still().await, before);

        let rings = queue.rings().await;
        assert_eq!(queue.reset(Some(b.holder.epoch), Start::At(all[1])).await, Reset::Done { at: all[0] });
        assert_eq!(queue.rings().await, rings + 1);
        let state = queue.state().await;
        assert!(state.reset > b.holder.epoch && state.lease.epoch == state.reset, "{state:?}");
        assert_eq!((state.at, state.events), (all[0], events(&[("Trade", 1)])));
        assert_eq!(queue.look().await, QueueState { reset: state.reset, ..at_rest(all[0], None) });
        for worker in [&a, &b] {
            assert_eq!(queue.renews(&worker.holder).await, Renewed::Lost);
            assert_eq!(worker.fetched(&worker.asks(9)).await, Fetched::Fenced);
        }
        assert_eq!(a.acked(&a.tells([(all[2], done())])).await, Acked::Fenced);
        let c = queue.worker("c").await;
        assert!(c.holder.epoch > state.reset);
        let expected: Vec<_> = all[1..].iter().map(|id| (*id, 0, 0)).collect();
        assert_eq!(counts(&c.fetch(9).await), expected, "what had failed begins anew");
    }

    async fn a_reset_takes_a_loss_away(case) {
        let queue = case.queue(4).await;
        let all = &queue.all;
        let a = queue.worker("a").await;
        assert_eq!(a.takes(2).await, all[..2]);
        a.ack([(all[0], back())]).await;
        queue.case.cut(all[1]);
        a.lost(&a.asks(9)).await;
        assert!(matches!(queue.reset(Some(a.holder.epoch), Start::At(all[1])).await, Reset::Done { .. }));
        let b = queue.worker("b").await;
        assert_eq!(b.takes_judged(9).await, all[1..]);
        // And mends a queue whose history is another.
        queue.case.delete();
        let new = queue.case.append(2).await;
        assert_eq!(queue.reset(Some(b.holder.epoch), Start::Earliest).await, Reset::Done { at: EntryId::ZERO });
        let c = queue.worker("c").await;
        assert_eq!(c.takes(9).await, new);
    }

    async fn a_reset_makes_a_queue_where_there_is_none(case) {
        let all = case.append(2).await;
        let queue = QueueCase { case, group: crew(), all };
        assert_eq!(queue.reset(Some(7), Start::Earliest).await, Reset::Contended);
        assert_eq!(queue.reset(None, Start::Earliest).await, Reset::Done { at: EntryId::ZERO });
        let a = queue.worker("a").await;
        assert_eq!(a.takes(9).await, queue.all);
        let foreign = partition().group("other").queue();
        queue.case.mark_as(&foreign);
        assert_eq!(queue.case.broker.reset(&foreign, None, Start::Earliest).await.unwrap(), Reset::Foreign);
    }

    async fn a_queue_is_never_mixed_with_ordered_delivery(case) {
        let all = case.append(2).await;
        let broker = Arc::clone(&case.broker);
        let queue = QueueCase { case, group: mixed().queue(), all };
        // Ordered it stays.
        assert_eq!(broker.create(&mixed(), Start::Earliest).await.unwrap(), Created::Made);
        let Acquired::Held(holding) = broker.acquire(&mixed(), &claim("a", LeaseView::default())).await.unwrap() else {
            panic!();
        };
        let owner = queue.worker_as(Holder { owner: "a".to_owned(), epoch: holding.epoch });
        let before = broker.state(&mixed()).await.unwrap();
        let ordered = "ordered".to_owned();
        assert_eq!(broker.create(&queue.group, Start::Earliest).await.unwrap(), Created::Exists);
        assert_eq!(broker.join(&queue.group, "a", LEASE).await.unwrap(), Joined::Mode(ordered.clone()));
        assert_eq!(queue.reset(Some(holding.epoch), Start::Earliest).await, Reset::Mode(ordered));
        assert_eq!(owner.fetched(&owner.asks(9)).await, Fetched::Fenced);
        assert_eq!(owner.acked(&owner.tells([])).await, Acked::Fenced);
        assert_eq!(queue.reclaims("a", &DEAD, 9).await, Reclaimed::Contended);
        assert_eq!(broker.queue(&queue.group).await.unwrap(), None);
        let cursor = Cursor { at: EntryId::ZERO, at_event: String::new(), seen: Some(0) };
        assert!(!queue.passes(&cursor, &Cursor { at: queue.all[0], ..cursor.clone() }, None).await);
        assert!(!queue.mends(Damage { recorded: 0, found: 0 }, None).await);
        assert!(!owner.leaves().await);
        assert_eq!(broker.state(&mixed()).await.unwrap(), before);

        // And a queue.
        let queue = QueueCase { group: crew(), ..queue };
        assert_eq!(broker.create(&crew(), Start::Earliest).await.unwrap(), Created::Made);
        let (a, ordered) = (queue.worker("a").await, partition().group("crew"));
        let before = queue.look().await;
        let mode = "queue".to_owned();
        assert_eq!(broker.create(&ordered, Start::Earliest).await.unwrap(), Created::Exists);
        let seen = broker.state(&ordered).await.unwrap().unwrap().lease;
        assert_eq!(broker.acquire(&ordered, &claim("b", seen)).await.unwrap(), Acquired::Mode(mode.clone()));
        let reset = broker.reset(&ordered, Some(a.holder.epoch), Start::Latest).await.unwrap();
        assert_eq!(reset, Reset::Mode(mode));
        let strangers = [Holder { owner: "a".to_owned(), epoch: 1 }, Holder { owner: String::new(), ..a.holder.clone() }];
        for holder in strangers.iter().chain([&a.holder]) {
            let commit = broker.commit(&ordered, &step(holder, EntryId::ZERO, queue.all[0])).await.unwrap();
            assert_eq!(commit, Committed::Fenced);
            assert!(!broker.release(&ordered, holder, None).await.unwrap());
            let need = Need { name: "Trade".to_owned(), version: 2, entry: queue.all[0] };
            assert!(!broker.release(&ordered, holder, Some(&need)).await.unwrap());
        }
        assert_eq!(queue.look().await, before);
    }

    async fn what_builds_declare_stands_in_the_state_of_a_queue_too(case) {
        let queue = case.queue(0).await;
        queue.declares(&[("B", 2), ("A", 1)]).await;
        let state = queue.state().await;
        assert_eq!((state.events, state.needs, state.resume, state.reset), (events(&[("A", 1), ("B", 2)]), None, 0, 0));
        queue.resumes().await;
        assert_eq!((queue.state().await.resume, queue.look().await.resume), (1, 1));
        let states = queue.case.broker.states(&[crew(), partition().group("none")]).await.unwrap();
        let states: Vec<_> = states.into_iter().map(Result::unwrap).collect();
        assert_eq!(states, [Some(queue.state().await), None]);
    }

    async fn what_a_queue_has_settled_is_a_floor_in_every_state(case) {
        let queue = case.queue(9).await;
        let all = &queue.all;
        // At most right before this entry, and never below where it was.
        let lowest = Cell::new(EntryId::ZERO);
        let floor = async |oldest: EntryId| {
            let Consumed { at, slowest } = queue.consumed().await;
            assert!(at < oldest, "{at} is above {oldest}");
            assert!(at >= lowest.get() || at.ms + 1 >= oldest.ms, "{at} goes back");
            assert_eq!(slowest, "crew");
            let settled = queue.look().await.settled();
            assert!(settled < oldest, "{settled} is above {oldest}");
            lowest.set(at);
        };
        let exact = async |at: EntryId| {
            let expected = Consumed { at, slowest: "crew".to_owned() };
            assert_eq!((queue.consumed().await, queue.look().await.settled()), (expected, at));
        };
        exact(EntryId::ZERO).await;
        let (a, b) = (queue.worker("a").await, queue.worker("b").await);
        exact(EntryId::ZERO).await;
        assert_eq!(a.takes(4).await, all[..4]);
        floor(all[0]).await;
        a.all_done(&all[1..2]).await;
        floor(all[0]).await;
        a.all_done(&all[..1]).await;
        floor(all[2]).await;
        // No waiting entry is settled either, whatever it waits for.
        for end in [again(1, LONG), back(), needs("Trade", 2)] {
            a.ack([(all[2], end)]).await;
            floor(all[2]).await;
            let fetch = Fetch { longest_wait: Duration::ZERO, takes: events(&[("Trade", 2)]), ..a.asks_for_old(1) };
            assert_eq!(given(&a.chunk(&fetch).await), all[2..3]);
            floor(all[2]).await;
        }
        a.ack([(all[2], charged()), (all[3], back())]).await;
        floor(all[2]).await;
        // Half reclaimed.
        assert_eq!(b.takes(5).await[1..], all[4..8]);
        a.all_done(&all[2..3]).await;
        floor(all[3]).await;
        let seen = queue.life("b").await;
        assert_eq!(queue.reclaims("b", &seen, 2).await, some(2));
        floor(all[3]).await;
        assert!(matches!(queue.reclaims("b", &DEAD, 9).await, Reclaimed::All { entries: 3 }));
        floor(all[3]).await;
        let c = queue.worker("c").await;
        assert_eq!(sorted(given(&c.chunk(&c.asks_for_old(9)).await)), all[3..8]);
        c.all_done(&all[4..8]).await;
        floor(all[3]).await;
        assert!(c.leaves().await);
        floor(all[3]).await;
        assert_eq!(a.takes(1).await, all[3..4]);
        a.ack([(all[3], dead("x"))]).await;
        exact(all[7]).await;
        a.proposes(all[7], &all[8..]).await;
        floor(all[8]).await;
        assert_eq!(queue.case.broker.create(&partition().group("audit"), Start::At(all[1])).await.unwrap(), Created::Made);
        assert_eq!(queue.consumed().await, Consumed { at: all[0], slowest: "audit".to_owned() });
        queue.case.broker.reset(&partition().group("audit"), Some(0), Start::Latest).await.unwrap();
        assert_eq!(queue.consumed().await.slowest, "crew");
        a.all_done(&all[8..]).await;
        assert_eq!(queue.consumed().await.at, all[8]);
    }

    async fn a_group_without_a_state_is_adopted_as_a_queue_where_it_is(case) {
        case.append(2).await;
        let last = case.extent().await.last;
        case.mark_as(&crew());
        let more = case.append(1).await;
        let adoption = Adoption { at: last, delivered: last, pending: 0, oldest: None };
        assert_eq!(case.broker.adopt(&crew(), LONG).await.unwrap(), Adopted::Done(adoption));
        assert_eq!(case.broker.adopt(&crew(), LONG).await.unwrap(), Adopted::Exists);
        assert_eq!(case.broker.adopt(&partition().group("none").queue(), LONG).await.unwrap(), Adopted::Missing);
        let queue = QueueCase { case, group: crew(), all: more };
        let a = queue.worker("a").await;
        assert_eq!(a.takes(9).await, queue.all);
        assert_eq!(queue.places().await, (1, 0));
    }
}
