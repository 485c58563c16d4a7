//! A handler function as the runtime sees it: its event, its arguments, its options, and how to call it.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::codec::{self, DecodeError};
use crate::keys;
use crate::schema::{Compat, Layout, Report, Schema};
use crate::{
    Context, Entry, EntryId, EventId, EventInfo, Failure, FromContext, Headers, IntoOutcome, Needs, Outcome,
    StreamEvent,
};

/// A `#[consumer]` function, as a type of the same name.
///
/// The attribute implements it; do not implement it by hand.
#[diagnostic::on_unimplemented(
    message = "this is not a consumer",
    label = "expected the name of a function with `#[consumer(group = \"...\")]`"
)]
pub trait Consumer: Sized + 'static {
    /// The function, with the arguments of its attribute.
    const REGISTRATION: Registration;
}

/// Not public API: the signature of a `#[consumer]` function, as a type that nothing else can name.
///
/// A function may take types that are more private than itself, which the associated types of a type with its own
/// visibility may not. Each bound occurs once, so that rustc reports each mistake once.
#[doc(hidden)]
pub trait Handler: Sized + 'static {
    /// The first argument.
    type Payload: Payload;
    /// The other arguments.
    type Args: Arguments;
    /// The return type.
    type Out: IntoOutcome;

    /// The arguments of the attribute.
    const INFO: &'static ConsumerInfo;
    /// The types of the other arguments as the user wrote them, for messages.
    const ARGUMENTS: &'static [&'static str];

    /// Calls the function.
    fn invoke(payload: Self::Payload, args: Self::Args) -> impl Future<Output = Self::Out> + Send;
}

/// The arguments after the event: a tuple of up to eight types that implement [`FromContext`].
pub trait Arguments: Sized + Send {
    /// Declares the values that they need at the app's start.
    fn needs(needs: &mut Needs);

    /// Extracts them for one attempt, in order; `names` are their types, for messages.
    ///
    /// # Errors
    /// The failure of the first argument that could not be extracted.
    fn make(ctx: &Context, names: &[&'static str]) -> impl Future<Output = Result<Self, Failure>> + Send;
}

macro_rules! arguments {
    ($([$($argument:ident $index:literal)*])*) => { $(
        // Not `do_not_recommend`: rustc should continue to the argument that is no extractor, and name it.
        impl<$($argument: FromContext),*> Arguments for ($($argument,)*) {
            fn needs(_needs: &mut Needs) {
                $($argument::needs(_needs);)*
            }

            async fn make(_ctx: &Context, _names: &[&'static str]) -> Result<Self, Failure> {
                Ok(($(
                    $argument::from_context(_ctx).await.map_err(|source| Failure::Rejected {
                        argument: _names.get($index).copied().unwrap_or_default(),
                        source: source.into(),
                    })?,
                )*))
            }
        }
    )* };
}

arguments! {
    []
    [A 0]
    [A 0 B 1]
    [A 0 B 1 C 2]
    [A 0 B 1 C 2 D 3]
    [A 0 B 1 C 2 D 3 E 4]
    [A 0 B 1 C 2 D 3 E 4 F 5]
    [A 0 B 1 C 2 D 3 E 4 F 5 G 6]
    [A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7]
}

/// The first argument of a `#[consumer]`: `E`, `Message<E>`, [`Batch<E>`](crate::Batch), or one of them by `&`.
#[diagnostic::on_unimplemented(
    message = "the first argument of a `#[consumer]` must be the event it handles, and `{Self}` is not one",
    label = "expected an event type, `Message<Event>` or `Batch<Event>`",
    note = "if `{Self}` is meant to be an event, put `#[stream_event(stream = \"...\")]` on it",
    note = "if it is `Context` or `State<_>`, put the event before it"
)]
pub trait Payload: Sized + Send {
    /// The event type.
    type Event: StreamEvent;

    /// Whether it holds several entries.
    const IS_BATCH: bool = false;

    /// Decodes the delivery's entry, or entries.
    ///
    /// # Errors
    /// When an entry does not hold such an event.
    fn decode(ctx: &Context) -> Result<Self, DecodeError>;
}

#[diagnostic::do_not_recommend]
impl<E: StreamEvent> Payload for E {
    type Event = E;

    fn decode(ctx: &Context) -> Result<Self, DecodeError> {
        codec::decode(ctx.entry())
    }
}

impl<E: StreamEvent> Payload for Message<E> {
    type Event = E;

    fn decode(ctx: &Context) -> Result<Self, DecodeError> {
        Ok(Self { event: codec::decode(ctx.entry())?, entry: Arc::clone(ctx.entry()), attempt: ctx.attempt() })
    }
}

/// An event with its ids, time, attempt and headers.
#[derive(Clone)]
pub struct Message<E> {
    /// The event.
    pub event: E,
    entry: Arc<Entry>,
    attempt: u32,
}

impl<E: fmt::Debug> fmt::Debug for Message<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The event is the payload, so the payload's bytes would say nothing new.
        f.debug_struct("Message")
            .field("event", &self.event)
            .field("entry_id", &format_args!("{}", self.entry_id()))
            .field("event_id", &self.event_id().as_str())
            .field("version", &self.version())
            .field("attempt", &self.attempt)
            .field("headers", &self.headers())
            .finish()
    }
}

impl<E> Message<E> {
    /// A message for calling a handler in a test: entry `1-0`, first attempt, no headers.
    pub fn new(event: E) -> Self {
        Self { event, entry: Arc::new(Entry::new::<&str, &str>(EntryId::new(1, 0), &[])), attempt: 1 }
    }

    /// The message of an entry that was read without a delivery.
    pub fn of_entry(event: E, entry: Arc<Entry>) -> Self {
        Self { event, entry, attempt: 1 }
    }

    /// This message with another attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// This message with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.entry = Arc::new(self.entry.with_field(name, value.as_bytes()));
        self
    }

    /// This message with an event id.
    #[must_use]
    pub fn with_event_id(self, id: &EventId) -> Self {
        self.with_header(Entry::ID, id.as_str())
    }

    /// The entry's id: its place in the partition.
    pub fn entry_id(&self) -> EntryId {
        self.entry.id
    }

    /// The event's own id: the same for every attempt and every group, so a good idempotency key.
    pub fn event_id(&self) -> EventId {
        self.entry.event_id()
    }

    /// When the entry was added, by the server's clock.
    pub fn time(&self) -> SystemTime {
        self.entry.time()
    }

    /// The version that the publisher wrote, which may be older than `E`'s; 1 in a message made for a test.
    pub fn version(&self) -> u32 {
        self.entry.version()
    }

    /// The number of this attempt, from 1; attempts before a restart count.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The event's headers.
    pub fn headers(&self) -> Headers<'_> {
        self.entry.headers()
    }
}

impl<E: StreamEvent> Message<E> {
    /// The value of the event's `key = field`.
    pub fn key(&self) -> Option<Cow<'_, str>> {
        self.event.key()
    }
}

/// The arguments of `#[consumer(..)]` on a function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConsumerInfo {
    /// The group that the function is part of.
    pub group: &'static str,
    /// The function's name.
    pub name: &'static str,
    /// The module that holds it.
    pub module: &'static str,
    /// Where it is declared.
    pub file: &'static str,
    /// Where it is declared.
    pub line: u32,
    /// The event it takes.
    pub event: &'static EventInfo,
    /// Its doc comment; empty where there is none.
    pub doc: &'static str,
    /// The options.
    pub options: ConsumerOptions,
}

/// The options of `#[consumer(..)]`; `None` is the app's default.
///
/// They are one value, because the attribute, the app, its groups and the environment override each option alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerOptions {
    /// The number of attempts after which an event goes to the dead letters.
    pub max_attempts: Option<u32>,
    /// The number of crashes after which an event goes to the dead letters without another attempt. The first crash is
    /// not counted, because nobody knows which event caused it.
    pub max_crashes: Option<u32>,
    /// How long to wait between attempts.
    pub backoff: Option<Backoff>,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// The most events per [`Batch`](crate::Batch); no effect on consumers that take single events.
    pub batch: Option<u32>,
    /// How long the first event of a batch waits for more.
    pub batch_wait: Option<Duration>,
    /// A property of the group: its place in the stream when it is new.
    pub start: Option<Start>,
    /// A property of the group: the most events per commit, [`Checkpoint::events`].
    pub checkpoint_events: Option<u32>,
    /// A property of the group: how long a settled event waits for its commit, [`Checkpoint::interval`].
    pub checkpoint_interval: Option<Duration>,
    /// A property of the group: its reaction to lost events.
    pub on_data_loss: Option<OnDataLoss>,
    /// A property of the group: how many events of a partition it handles at once, those of one key one after the other. In
    /// queue delivery: how many each process handles at once, of all partitions together.
    pub concurrency: Option<u32>,
    /// A property of the group: names of events that a build of it once handled, and that it now ignores for good.
    pub ignore: Option<&'static [&'static str]>,
    /// A property of the group: whether a new one takes over the Redis group of its name that a program read with XREADGROUP.
    pub adopt: Option<bool>,
    /// A property of the group: whether one owner handles its events in order, any free process, or every process.
    pub delivery: Option<Delivery>,
    /// A property of a group with [`Delivery::Broadcast`]: its reaction to an event that fails for good.
    pub on_failure: Option<OnFailure>,
    /// A property of a group in order: it passes an event over whose id it has settled within this time on the same
    /// partition.
    pub dedupe: Option<Duration>,
}

// Setters rather than a literal: the attribute writes these in the user's crate, where the struct may grow fields.
impl ConsumerOptions {
    /// The largest [`ConsumerOptions::max_crashes`]: each crash is a process that had to start again.
    pub const MAX_CRASHES: u32 = 1_000;
    /// The largest [`ConsumerOptions::batch`]: as many small events as the 4 MiB hold that a batch may weigh.
    pub const MAX_BATCH: u32 = 10_000;
    /// The longest [`ConsumerOptions::batch_wait`]: the checkpoint does not move for so long, and everybody downstream
    /// waits.
    pub const MAX_BATCH_WAIT: Duration = Duration::from_secs(60);
    /// The largest [`ConsumerOptions::concurrency`]. The systems that handlers call seldom have room for more callers;
    /// more partitions scale further.
    pub const MAX_CONCURRENCY: u32 = 1_000;

    /// Every option at the app's default.
    pub const DEFAULT: Self = Self {
        max_attempts: None,
        max_crashes: None,
        backoff: None,
        timeout: None,
        batch: None,
        batch_wait: None,
        start: None,
        checkpoint_events: None,
        checkpoint_interval: None,
        on_data_loss: None,
        concurrency: None,
        ignore: None,
        adopt: None,
        delivery: None,
        on_failure: None,
        dedupe: None,
    };

    /// These options; where one is not given, that of `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            max_attempts: self.max_attempts.or(below.max_attempts),
            max_crashes: self.max_crashes.or(below.max_crashes),
            backoff: self.backoff.or(below.backoff),
            timeout: self.timeout.or(below.timeout),
            batch: self.batch.or(below.batch),
            batch_wait: self.batch_wait.or(below.batch_wait),
            start: self.start.or(below.start),
            checkpoint_events: self.checkpoint_events.or(below.checkpoint_events),
            checkpoint_interval: self.checkpoint_interval.or(below.checkpoint_interval),
            on_data_loss: self.on_data_loss.or(below.on_data_loss),
            concurrency: self.concurrency.or(below.concurrency),
            ignore: self.ignore.or(below.ignore),
            adopt: self.adopt.or(below.adopt),
            delivery: self.delivery.or(below.delivery),
            on_failure: self.on_failure.or(below.on_failure),
            dedupe: self.dedupe.or(below.dedupe),
        }
    }

    /// The same with [`ConsumerOptions::max_attempts`].
    #[must_use]
    pub const fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// The same with [`ConsumerOptions::max_crashes`].
    #[must_use]
    pub const fn with_max_crashes(mut self, crashes: u32) -> Self {
        self.max_crashes = Some(crashes);
        self
    }

    /// The same with [`ConsumerOptions::backoff`].
    #[must_use]
    pub const fn with_backoff(mut self, first: Duration, max: Duration) -> Self {
        self.backoff = Some(Backoff { first, max });
        self
    }

    /// The same with [`ConsumerOptions::timeout`].
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The same with [`ConsumerOptions::batch`].
    #[must_use]
    pub const fn with_batch(mut self, events: u32) -> Self {
        self.batch = Some(events);
        self
    }

    /// The same with [`ConsumerOptions::batch_wait`].
    #[must_use]
    pub const fn with_batch_wait(mut self, wait: Duration) -> Self {
        self.batch_wait = Some(wait);
        self
    }

    /// The same with [`ConsumerOptions::start`].
    #[must_use]
    pub const fn with_start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self
    }

    /// The same with [`ConsumerOptions::checkpoint_events`].
    #[must_use]
    pub const fn with_checkpoint_events(mut self, events: u32) -> Self {
        self.checkpoint_events = Some(events);
        self
    }

    /// The same with [`ConsumerOptions::checkpoint_interval`].
    #[must_use]
    pub const fn with_checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = Some(interval);
        self
    }

    /// The same with [`ConsumerOptions::on_data_loss`].
    #[must_use]
    pub const fn with_on_data_loss(mut self, policy: OnDataLoss) -> Self {
        self.on_data_loss = Some(policy);
        self
    }

    /// The same with [`ConsumerOptions::concurrency`].
    #[must_use]
    pub const fn with_concurrency(mut self, events: u32) -> Self {
        self.concurrency = Some(events);
        self
    }

    /// The same with [`ConsumerOptions::ignore`].
    #[must_use]
    pub const fn with_ignore(mut self, events: &'static [&'static str]) -> Self {
        self.ignore = Some(events);
        self
    }

    /// The same with [`ConsumerOptions::adopt`].
    #[must_use]
    pub const fn with_adopt(mut self, adopt: bool) -> Self {
        self.adopt = Some(adopt);
        self
    }

    /// The same with [`ConsumerOptions::delivery`].
    #[must_use]
    pub const fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = Some(delivery);
        self
    }

    /// The same with [`ConsumerOptions::on_failure`].
    #[must_use]
    pub const fn with_on_failure(mut self, reaction: OnFailure) -> Self {
        self.on_failure = Some(reaction);
        self
    }

    /// The same with [`ConsumerOptions::dedupe`].
    #[must_use]
    pub const fn with_dedupe(mut self, within: Duration) -> Self {
        self.dedupe = Some(within);
        self
    }
}

/// How a group's events come to its handlers. A group in Redis keeps the mode in which it was created: ordered groups and
/// work queues never mix under one name. A broadcast group leaves nothing in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// In the order of the partition, by one owner at a time, from a checkpoint.
    #[default]
    Ordered,
    /// As a work queue: in no order, to whichever process of the group is free, each event acknowledged by itself.
    Queue,
    /// To every process, each from [`Start`] on and in the order of the partition, without lease, checkpoint or dead
    /// letters: for a copy of data that each process keeps up to date.
    Broadcast,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "ordered",
            Self::Queue => "queue",
            Self::Broadcast => "broadcast",
        })
    }
}

/// The reaction of a group to history that was trimmed, deleted or lost with a failover before the group read it.
///
/// The group reports the loss either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDataLoss {
    /// The partition halts before anything later is handled, until somebody resets it.
    #[default]
    Halt,
    /// The group continues with the entries that are left. After a change of history these are all entries: events may
    /// come again.
    Continue,
}

/// The reaction of a group with [`Delivery::Broadcast`] to an event that fails in its last attempt. The event has no dead
/// letter, because other processes may have handled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The process passes the event over, counts it and logs it: its copy lacks this event.
    #[default]
    Skip,
    /// The app stops, so that nothing is served from a copy that lacks an event.
    Stop,
}

/// The wait between attempts. It doubles after each attempt, from `first` up to `max`, and a random part is taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first attempt.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", humantime::format_duration(self.first), humantime::format_duration(self.max))
    }
}

/// The place in the stream where a new group starts. Afterwards its checkpoint decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With the oldest entry: the group skips none.
    #[default]
    Earliest,
    /// With the first entry that is added after the group was created.
    Latest,
    /// With this entry, or the first after it.
    At(EntryId),
    /// With the first entry that was added no earlier than this long before the group was created, by the server's
    /// clock.
    Ago(Duration),
}

/// How often a group commits: after this many events, or after this long, whichever comes first.
///
/// `checkpoint = 500` in the attribute sets the events, `checkpoint = "100ms"` the interval, and `checkpoint = "each"`
/// both, as [`Checkpoint::EACH`]. The app's default applies to the part that is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The most events that a crash can repeat; for a larger batch, that batch.
    pub events: u32,
    /// The longest that a settled event waits for its commit.
    pub interval: Duration,
}

impl Checkpoint {
    /// A commit after every event: a crash repeats only the event that was running.
    pub const EACH: Self = Self { events: 1, interval: Duration::ZERO };
}

/// A consumer that is linked into the program, or listed with `consumers![..]`.
#[derive(Clone, Copy)]
pub struct Registration {
    /// The arguments of its attribute.
    pub info: &'static ConsumerInfo,
    needs: fn(&mut Needs),
    call: Call,
    decodes: fn(&Entry) -> bool,
    key: fn(&Entry) -> Result<Arc<str>, DecodeError>,
    takes_batches: bool,
}

/// Decodes the event, extracts the arguments and calls the function.
type Call = fn(Context) -> Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

impl Registration {
    /// The registration of a `#[consumer]` function.
    pub const fn of<C: Consumer>() -> Self {
        C::REGISTRATION
    }

    /// Not public API: the registration of a handler.
    #[doc(hidden)]
    pub const fn handled_by<H: Handler>() -> Self {
        Self {
            info: H::INFO,
            needs: <H::Args as Arguments>::needs,
            call: call::<H>,
            decodes: |entry| codec::decode::<<H::Payload as Payload>::Event>(entry).is_ok(),
            key: key::<<H::Payload as Payload>::Event>,
            takes_batches: takes_batches::<H>(),
        }
    }

    /// The same function in another group, with its options: for a name that the configuration has, or for a handler
    /// of several groups. The start of the app checks the name.
    ///
    /// ```
    /// use streams_core::{consumer, consumers, stream_event};
    ///
    /// #[stream_event(stream = "trades")]
    /// struct Trade { price: f64 }
    ///
    /// #[consumer(group = "audit")]
    /// async fn audit(_trade: Trade) {}
    ///
    /// let regions = ["eu", "us"];
    /// let listed = regions.map(|region| consumers![audit].map(|it| it.in_group(&format!("audit-{region}"))));
    /// assert_eq!(listed.as_flattened()[1].info.group, "audit-us");
    /// ```
    ///
    /// The name stays in memory until the program ends, so call it once per group, and not per event.
    #[must_use]
    pub fn in_group(self, group: &str) -> Self {
        if group == self.info.group {
            return self;
        }
        let group: &'static str = Box::leak(group.into());
        Self { info: Box::leak(Box::new(ConsumerInfo { group, ..*self.info })), ..self }
    }

    /// The values that the function's arguments need at the app's start.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        (self.needs)(&mut needs);
        needs
    }

    /// Whether the function takes several events at once.
    pub fn takes_batches(&self) -> bool {
        self.takes_batches
    }

    /// Whether the entry holds an event that the function can take.
    pub fn decodes(&self, entry: &Entry) -> bool {
        (self.decodes)(entry)
    }

    /// The key of the entry's event, as text; empty for an event without a key.
    ///
    /// # Errors
    /// When the entry does not hold an event that the function can take.
    pub fn key(&self, entry: &Entry) -> Result<Arc<str>, DecodeError> {
        (self.key)(entry)
    }

    /// Makes one attempt.
    pub fn call(&self, ctx: Context) -> Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>> {
        (self.call)(ctx)
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("info", &self.info).finish_non_exhaustive()
    }
}

inventory::collect!(Registration);

fn key<E: StreamEvent>(entry: &Entry) -> Result<Arc<str>, DecodeError> {
    codec::decode::<E>(entry).map(|event| event.key().as_deref().unwrap_or_default().into())
}

fn call<H: Handler>(ctx: Context) -> Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>> {
    Box::pin(async move {
        let payload = H::Payload::decode(&ctx).map_err(Failure::Decode)?;
        let args = H::Args::make(&ctx, H::ARGUMENTS).await?;
        H::invoke(payload, args).await.into_outcome()
    })
}

/// Not public API: the event of a consumer.
///
/// The attribute does not name the event's traits itself, so that rustc reports a payload that is no event once.
#[doc(hidden)]
pub const fn event_of<H: Handler>() -> &'static EventInfo {
    <H::Payload as Payload>::Event::INFO
}

/// Not public API: checks that a consumer takes the newest version in the lock of its event.
///
/// # Panics
/// While compiling, at the place of the call.
#[doc(hidden)]
#[track_caller]
pub const fn check_newest<H: Handler>() {
    let EventInfo { stream, name, version, newest, .. } = *event_of::<H>();
    if version == newest {
        return;
    }
    let mut text = Report::new(Compat::None, false);
    text.write("the consumer takes version ");
    text.write_number(version as u64);
    text.write(" of `");
    text.write(name);
    text.write("`, and the lock of stream `");
    text.write(stream);
    text.write("` has version ");
    text.write_number(newest as u64);
    text.write(", at whose first event the group would halt; take the type of version ");
    text.write_number(newest as u64);
    text.write(", which reads older events as well; or if that version was never used remove it from the lock");
    panic!("{}", text.text())
}

/// Not public API: the type that `consumers![..]` takes for a function without `#[consumer(..)]`.
#[doc(hidden)]
pub mod plain {
    /// It implements nothing.
    #[derive(Debug)]
    pub enum PlainFunction {}
}

/// Not public API: the registration of a function whose attribute has a mistake, so that listing it is no second one.
#[doc(hidden)]
pub const fn broken() -> Registration {
    const EVENT: &EventInfo = &EventInfo {
        stream: "",
        name: "",
        version: 1,
        oldest: 1,
        newest: 1,
        upcast_from: None,
        key: None,
        partitions: None,
        retention: None,
        durability: None,
        max_payload: None,
        layout: Layout::Map,
        schema: &Schema::Unit,
        fingerprint: 0,
        type_name: "",
        file: "",
        line: 0,
    };
    const INFO: &ConsumerInfo = &ConsumerInfo {
        group: "",
        name: "",
        module: "",
        file: "",
        line: 0,
        event: EVENT,
        doc: "",
        options: ConsumerOptions::DEFAULT,
    };
    Registration {
        info: INFO,
        needs: |_| {},
        call: |_| Box::pin(std::future::pending()),
        decodes: |_| false,
        key: |_| Ok("".into()),
        takes_batches: false,
    }
}

/// Not public API: whether the event of a consumer has a key.
#[doc(hidden)]
pub const fn has_key<H: Handler>() -> bool {
    event_of::<H>().key.is_some()
}

/// Not public API: checks the name of a group that a constant holds.
///
/// # Panics
/// While compiling, when it cannot be part of a Redis key.
#[doc(hidden)]
#[track_caller]
pub const fn check_group(name: &str) {
    if let Some(reason) = keys::group_reason(name) {
        let mut text = Report::new(Compat::None, false);
        text.write("invalid group name `");
        text.write(name);
        text.write("`: ");
        text.write(reason);
        panic!("{}", text.text())
    }
}

/// Not public API: whether a consumer takes `Batch<E>`.
#[doc(hidden)]
pub const fn takes_batches<H: Handler>() -> bool {
    <H::Payload as Payload>::IS_BATCH
}

/// An explicit list of consumers for `App::with`: `consumers![check_limits, audit::count]`.
///
/// Each element is a [`Registration`], which may get [another group](Registration::in_group).
#[macro_export]
macro_rules! consumers {
    ($($listed:tt)*) => { $crate::__private::listed!($crate; $($listed)*) };
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Poll, Waker};

    use super::*;
    use crate::{BoxError, Resources, Scope, State, consumer, stream_event};

    #[stream_event(stream = "trades", key = id)]
    #[derive(Debug)]
    struct Trade {
        id: u64,
        price: f64,
    }

    #[derive(Debug)]
    struct Tenant(String);

    impl FromContext for Tenant {
        type Rejection = BoxError;

        async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
            Ok(Self(ctx.headers().get("tenant").ok_or("no `tenant` header")?.to_owned()))
        }
    }

    #[consumer(
        group = "risk",
        max_attempts = 5,
        max_crashes = 2,
        backoff = "100ms..30s",
        timeout = "30s",
        start = "2026-01-02T03:04:05Z",
        checkpoint = "each"
    )]
    async fn check(trade: &Message<Trade>, State(limit): State<f64>, tenant: Tenant) -> Result<Outcome, BoxError> {
        assert_eq!(trade.key().as_deref(), Some("7"));
        if tenant.0 == "test" {
            return Ok(Outcome::skip(format!("attempt {}", trade.attempt())));
        }
        if trade.event.price > limit { Err("over the limit".into()) } else { Ok(Outcome::Done) }
    }

    #[consumer(group = "audit", backoff = "1m", start = "1610064000278-3", checkpoint = 500)]
    async fn audit(_trade: Trade) {}

    #[consumer(group = "audit", backoff = "1s", start = "90m ago", checkpoint = "1s")]
    async fn audit_more(_trade: Trade) {}

    /// Handlers here never wait.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("the handler waits"),
        }
    }

    fn attempt(price: f64, tenant: Option<&str>, limit: Option<f64>) -> Result<Outcome, Failure> {
        let mut payload = Vec::new();
        codec::encode(&Trade { id: 7, price }, &mut payload).unwrap();
        let mut fields = vec![(b"event".to_vec(), b"Trade@1".to_vec()), (b"payload".to_vec(), payload)];
        fields.extend(tenant.map(|tenant| (b"tenant".to_vec(), tenant.as_bytes().to_vec())));
        let mut resources = Resources::default();
        if let Some(limit) = limit {
            resources.insert(limit);
        }
        let resources = Arc::new(resources);
        let scope = Scope { stream: "trades", partition: 0, group: "risk", consumer: "check", resources };
        let entry = Entry::new(EntryId::new(1, 0), &fields);
        now(Registration::of::<check>().call(Context::new(Arc::new(scope), Arc::new(entry), 3)))
    }

    #[test]
    fn a_consumer_decodes_makes_its_arguments_and_answers() {
        assert_eq!(attempt(1.0, Some("a"), Some(2.0)).unwrap(), Outcome::Done);
        assert_eq!(attempt(1.0, Some("test"), Some(2.0)).unwrap(), Outcome::skip("attempt 3"));
        assert_eq!(attempt(3.0, Some("a"), Some(2.0)).unwrap_err().reason(), "over the limit");
        let rejected = attempt(1.0, None, Some(2.0)).unwrap_err();
        assert_eq!(rejected.to_string(), "argument `Tenant`: no `tenant` header");
        let rejected = attempt(1.0, Some("a"), None).unwrap_err();
        assert_eq!(rejected.to_string(), "argument `State<f64>`: the app has no `f64`: call `.state(..)` with one");
        let empty = Context::test();
        assert!(matches!(now(Registration::of::<check>().call(empty)), Err(Failure::Decode(_))));
    }

    #[test]
    fn what_arguments_need_is_known_before_the_first_event() {
        assert_eq!(Registration::of::<check>().needs().missing_from(&Resources::default()), ["f64"]);
        assert!(Registration::of::<audit>().needs().missing_from(&Resources::default()).is_empty());
    }

    #[test]
    fn a_message_is_shown_without_its_bytes() {
        let message =
            Message::new(7).with_attempt(2).with_header("tenant", "a").with_event_id(&EventId::new("t").unwrap());
        let shown =
            r#"Message { event: 7, entry_id: 1-0, event_id: "t", version: 1, attempt: 2, headers: {"tenant": "a"} }"#;
        assert_eq!(format!("{message:?}"), shown);
    }

    #[test]
    fn the_function_stays_a_function() {
        let message = Message::new(Trade { id: 7, price: 1.0 });
        assert_eq!(now(check(&message, State(2.0), Tenant(String::new()))).unwrap(), Outcome::Done);
    }

    #[test]
    fn options_are_what_the_attribute_says() {
        let info = Registration::of::<check>().info;
        assert_eq!((info.group, info.name, info.event.stream), ("risk", "check", "trades"));
        assert_eq!(
            info.options,
            ConsumerOptions::DEFAULT
                .with_max_attempts(5)
                .with_max_crashes(2)
                .with_backoff(Duration::from_millis(100), Duration::from_secs(30))
                .with_timeout(Duration::from_secs(30))
                .with_start(Start::At(EntryId::new(1_767_323_045_000, 0)))
                .with_checkpoint_events(1)
                .with_checkpoint_interval(Duration::ZERO)
        );
        let minute = Duration::from_secs(60);
        assert_eq!(
            Registration::of::<audit>().info.options,
            ConsumerOptions::DEFAULT
                .with_backoff(minute, minute)
                .with_start(Start::At(EntryId::new(1_610_064_000_278, 3)))
                .with_checkpoint_events(500)
        );
        assert_eq!(
            Registration::of::<audit_more>().info.options,
            ConsumerOptions::DEFAULT
                .with_backoff(Duration::from_secs(1), Duration::from_secs(30))
                .with_start(Start::Ago(90 * minute))
                .with_checkpoint_interval(Duration::from_secs(1))
        );
    }

    #[test]
    fn consumers_and_events_register_themselves() {
        let names: Vec<_> = inventory::iter::<Registration>().map(|registration| registration.info.name).collect();
        for name in ["check", "audit", "audit_more"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let mut events = inventory::iter::<crate::EventRegistration>();
        assert!(events.any(|event| event.info.type_name == "streams_core::consumer::tests::Trade"));
    }
}
