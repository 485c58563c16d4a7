//! Processes of a program on one embedded broker, in virtual time. A [`World`] starts each [`Process`], and plays the operator
//! and the rival on its store.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use streams_core::broker::{Acquired, Broker, Claim, Fields, GroupState, Groups, Holding, Log, Queue, QueueState};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
use streams_runtime::broker::Embedded;
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Config, ConsumerOptions, DeadLetter, EntryId, Publisher, Registration, Running, SnapshotState, Snapshots,
    StreamEvent, codec,
};

use crate::{Faulty, Lab};

/// So many seconds.
pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// So many milliseconds.
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The date on which a store begins, since 1970: that of every `TestApp`, so that the same seeds give the same ids.
pub const BEGINNING: Duration = Duration::from_secs(1_767_225_600);

/// How long a wait of a test may take in virtual time.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// One store, one script and one stream for all processes of a test.
#[derive(Debug)]
pub struct World {
    /// The store that all processes share.
    pub store: Embedded,
    /// The connection of every process that has none of its own.
    pub wire: Faulty,
    /// The script of the handlers, and the record of their calls.
    pub lab: Lab,
    stream: StreamKey,
    seeds: AtomicU64,
}

impl World {
    /// An empty store; the name of the test's stream is for [`World::append`] and [`World::group`].
    pub fn new(stream: &str) -> Self {
        let store = Embedded::starting(SystemTime::UNIX_EPOCH + BEGINNING);
        let wire = Faulty::over(Arc::new(store.clone()));
        Self { store, wire, lab: Lab::default(), stream: StreamKey::new(None, stream, 1), seeds: AtomicU64::new(0) }
    }

    /// A process with these consumers, which is to be started.
    pub fn process(&self, consumers: impl IntoIterator<Item = Registration>) -> Launch<'_> {
        self.process_of(consumers, &self.lab)
    }

    /// The same with a script and a record of its own.
    pub fn process_of(&self, consumers: impl IntoIterator<Item = Registration>, lab: &Lab) -> Launch<'_> {
        let app = App::with(consumers).state(lab.clone());
        Launch { app, wire: self.wire.clone(), world: self, seed: self.seeds.fetch_add(1, Ordering::Relaxed) }
    }

    /// A connection of its own.
    pub fn wire(&self) -> Faulty {
        Faulty::over(Arc::new(self.store.clone()))
    }

    /// The stream's only partition.
    pub fn partition(&self) -> PartitionKey {
        self.stream.partition(0)
    }

    /// A group of the stream in ordered delivery.
    pub fn group(&self, group: &str) -> Group<'_> {
        Group { store: &self.store, key: self.partition().group(group) }
    }

    /// A group in ordered delivery on the only partition of another stream.
    pub fn group_on(&self, stream: &str, group: &str) -> Group<'_> {
        Group { store: &self.store, key: StreamKey::new(None, stream, 1).partition(0).group(group) }
    }

    /// A work queue of the stream.
    pub fn queue(&self, group: &str) -> Group<'_> {
        Group { store: &self.store, key: self.partition().group(group).queue() }
    }

    /// The publisher of another program, past every fault.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(Arc::new(self.store.clone()))
    }

    /// Publishes as another program does, past every fault.
    ///
    /// # Panics
    /// When it does not succeed.
    pub async fn publish<E: StreamEvent>(&self, events: impl IntoIterator<Item = E>) -> Vec<EntryId> {
        publish_all(&self.publisher(), events).await
    }

    /// Adds an entry with these fields, whatever they are.
    ///
    /// # Panics
    /// When it cannot be added.
    pub async fn append_raw(&self, fields: Fields) -> EntryId {
        self.store.append(&self.partition(), vec![fields], None).await.expect("the entry is added")[0]
    }

    /// Adds an entry with an event's name and version, such as `Trade@1`, and a payload.
    ///
    /// # Panics
    /// When it cannot be added.
    pub async fn append(&self, event: &str, payload: &[u8]) -> EntryId {
        let fields = vec![(b"event".to_vec(), event.as_bytes().to_vec()), (b"payload".to_vec(), payload.to_vec())];
        self.append_raw(fields).await
    }
}

/// The payload of an event.
///
/// # Panics
/// When it cannot be encoded.
pub fn payload<E: StreamEvent>(event: &E) -> Vec<u8> {
    let mut payload = Vec::new();
    codec::encode(event, &mut payload).expect("the event is encoded");
    payload
}

/// A process before its start.
#[derive(Debug)]
#[must_use]
pub struct Launch<'w> {
    world: &'w World,
    app: App,
    wire: Faulty,
    seed: u64,
}

impl Launch<'_> {
    /// With this configuration.
    pub fn config(mut self, config: Config) -> Self {
        self.app = self.app.config(config);
        self
    }

    /// With these options for its consumers, and the defaults of everything else.
    pub fn options(self, options: ConsumerOptions) -> Self {
        self.config(Config::new().consumers(options))
    }

    /// With one more state.
    pub fn state<S: Clone + Send + Sync + 'static>(mut self, state: S) -> Self {
        self.app = self.app.state(state);
        self
    }

    /// With snapshots of this state of a group.
    pub fn snapshots(mut self, group: &str, when: Snapshots, state: impl SnapshotState) -> Self {
        self.app = self.app.snapshots(group, when, state);
        self
    }

    /// On this connection.
    pub fn on(mut self, wire: &Faulty) -> Self {
        self.wire = wire.clone();
        self
    }

    /// On a connection of its own, [`Process::wire`].
    pub fn apart(self) -> Self {
        let wire = self.world.wire();
        self.on(&wire)
    }

    /// With this seed, not the next one.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When the start is refused.
    pub async fn start(self) -> Process {
        let broker: Arc<dyn Broker> = Arc::new(self.wire.clone());
        let app = TestApp::start_with(self.app, broker, self.seed).await.expect("the app starts");
        Process { app, wire: self.wire }
    }
}

/// A process of the program: a [`TestApp`] with its connection. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    app: TestApp,
    /// Its connection to the store.
    pub wire: Faulty,
}

impl Deref for Process {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.app
    }
}

impl Process {
    /// Publishes through the process.
    ///
    /// # Panics
    /// When one of the events is not published.
    pub async fn publish_all<E: StreamEvent>(&self, events: impl IntoIterator<Item = E>) -> Vec<EntryId> {
        publish_all(self.publisher(), events).await
    }

    /// As [`TestApp::settled`], but not for ever.
    ///
    /// # Panics
    /// When a group is halted, and when something is still not settled after a day of virtual time.
    pub async fn settled(&self) {
        let settled = tokio::time::timeout(PATIENCE, self.app.settled()).await;
        settled.expect("everything is settled within a day").expect("no group is halted");
    }

    /// The dead letters of a group.
    ///
    /// # Panics
    /// When the broker cannot be asked.
    pub async fn dead<E: StreamEvent>(&self, group: &str) -> Vec<DeadLetter<E>> {
        self.app.dead_letters(group).await.expect("the dead letters are read")
    }

    /// The events in the dead letters of a group, with cause and attempts.
    ///
    /// # Panics
    /// When the broker cannot be asked, and when one of them cannot be decoded.
    pub async fn dead_events<E: StreamEvent>(&self, group: &str) -> Vec<(E, String, u32)> {
        let event = |letter: &DeadLetter<E>| letter.decode().expect("the event is decoded");
        let letters = self.dead::<E>(group).await;
        letters.iter().map(|letter| (event(letter), letter.cause().to_owned(), letter.attempts())).collect()
    }

    /// Waits until a group that was halted is so no longer.
    pub async fn goes_on(&self, group: &str) {
        while self.is_halted(group) {
            self.advance(millis(10)).await;
        }
    }

    /// Whether a group is halted now.
    pub fn is_halted(&self, group: &str) -> bool {
        self.halt(group).is_some()
    }

    /// Why a group is halted now, if it is.
    pub fn halt(&self, group: &str) -> Option<String> {
        match self.status(group).phase {
            streams_runtime::Phase::Halted(halt) => Some(halt.to_string()),
            _ => None,
        }
    }

    /// Whether the process owns the group now.
    pub fn owns(&self, group: &str) -> bool {
        matches!(self.status(group).phase, streams_runtime::Phase::Owning { .. })
    }

    /// As [`TestApp::kill`].
    pub async fn kill(self) {
        self.app.kill().await;
    }

    /// The app, for a stop.
    pub fn into_running(self) -> Running {
        self.app.into_running()
    }
}

async fn publish_all<E: StreamEvent>(publisher: &Publisher, events: impl IntoIterator<Item = E>) -> Vec<EntryId> {
    let receipts = publisher.publish_all(events).await;
    receipts.into_iter().map(|receipt| receipt.expect("the event is published").entry_id).collect()
}

/// A group on the stream's only partition, as the store has it.
#[derive(Debug)]
pub struct Group<'w> {
    store: &'w Embedded,
    /// Where it stands.
    pub key: GroupKey,
}

impl Group<'_> {
    /// The recorded state of a group in ordered delivery.
    ///
    /// # Panics
    /// When there is no such group.
    pub async fn state(&self) -> GroupState {
        self.store.state(&self.key).await.expect("the store answers").expect("there is such a group")
    }

    /// Its checkpoint.
    pub async fn at(&self) -> EntryId {
        self.state().await.at
    }

    /// The recorded state of a work queue.
    ///
    /// # Panics
    /// When there is no such queue.
    pub async fn look(&self) -> QueueState {
        self.store.queue(&self.key).await.expect("the store answers").expect("there is such a queue")
    }

    /// Waits until the state of a group in ordered delivery is so.
    ///
    /// # Panics
    /// When it is not within a day of virtual time.
    pub async fn until(&self, is_so: impl Fn(&GroupState) -> bool) -> GroupState {
        until(async || self.state().await, is_so).await
    }

    /// Waits until the state of a work queue is so.
    ///
    /// # Panics
    /// When it is not within a day of virtual time.
    pub async fn until_queue(&self, is_so: impl Fn(&QueueState) -> bool) -> QueueState {
        until(async || self.look().await, is_so).await
    }

    /// Takes the lease from whoever has it, and answers what the next owner begins with.
    ///
    /// # Panics
    /// When it cannot be taken.
    pub async fn steal(&self, owner: &str) -> Holding {
        let seen = self.state().await.lease;
        let claim = Claim { owner: owner.to_owned(), lease_for: secs(10), seen, own: false, bound: 1_000 };
        match self.store.acquire(&self.key, &claim).await.expect("the store answers") {
            Acquired::Held(holding) => holding,
            other => panic!("the lease is not given: {other:?}"),
        }
    }
}

async fn until<T: std::fmt::Debug>(look: impl AsyncFn() -> T, is_so: impl Fn(&T) -> bool) -> T {
    for _ in 0..1_000_000 {
        let state = look().await;
        if is_so(&state) {
            return state;
        }
        tokio::time::sleep(millis(1)).await;
    }
    panic!("never so: {:?}", look().await);
}
