//! A handler function as the runtime sees it: what it consumes, how to call it, how it wants to be driven.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::codec::{self, DecodeError};
use crate::{
    BoxError, Context, Entry, EntryId, EventId, EventInfo, Failure, Headers, IntoOutcome, Needs, Outcome, StreamEvent,
};

/// A `#[consumer]` function, as a type of the same name.
///
/// Written by the attribute, not by hand. Each bound stands once, so that each mistake is reported once.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a consumer",
    label = "expected the name of a function with `#[consumer(group = \"...\")]`"
)]
pub trait Consumer: Sized + 'static {
    /// The first argument.
    type Payload: Payload;
    /// The other arguments.
    type Args: Send;
    /// The return type.
    type Out: IntoOutcome;

    /// What the attribute said.
    const INFO: &'static ConsumerInfo;

    /// What the other arguments need at start-up.
    fn needs(needs: &mut Needs);

    /// Makes the other arguments.
    ///
    /// # Errors
    /// The first argument that could not be made.
    fn args(ctx: &Context) -> impl Future<Output = Result<Self::Args, Failure>> + Send;

    /// Calls the function.
    fn invoke(payload: Self::Payload, args: Self::Args) -> impl Future<Output = Self::Out> + Send;
}

/// The first argument of a `#[consumer]`: `E`, `&E`, `Message<E>` or `&Message<E>`.
#[diagnostic::on_unimplemented(
    message = "the first argument of a `#[consumer]` must be the event it handles, and `{Self}` is not one",
    label = "expected an event type or `Message<Event>`",
    note = "if `{Self}` is meant to be an event, put `#[stream_event(stream = \"...\")]` on it",
    note = "if it is `Context` or `State<_>`, put the event before it"
)]
pub trait Payload: Sized + Send {
    /// The event type.
    type Event: StreamEvent;

    /// Decodes the delivery's entry.
    ///
    /// # Errors
    /// When the entry does not hold such an event.
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

/// An event with what came with it: ids, time, attempt, headers.
#[derive(Debug, Clone)]
pub struct Message<E> {
    /// The event.
    pub event: E,
    entry: Arc<Entry>,
    attempt: u32,
}

impl<E> Message<E> {
    /// A message for calling a handler in a test: entry `1-0`, first attempt, no headers.
    pub fn new(event: E) -> Self {
        Self { event, entry: Arc::new(Entry { id: EntryId::new(1, 0), fields: Vec::new() }), attempt: 1 }
    }

    /// The message of an entry that was read apart from a delivery.
    pub fn of_entry(event: E, entry: Arc<Entry>) -> Self {
        Self { event, entry, attempt: 1 }
    }

    /// The same with another attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let entry = Arc::make_mut(&mut self.entry);
        entry.fields.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self
    }

    /// The same with an event id.
    #[must_use]
    pub fn with_event_id(self, id: &EventId) -> Self {
        self.with_header(Entry::ID, id.as_str())
    }

    /// Where the event stands in its partition.
    pub fn entry_id(&self) -> EntryId {
        self.entry.id
    }

    /// The event's own id: the same for every attempt and every group, hence a good idempotency key.
    pub fn event_id(&self) -> EventId {
        self.entry.event_id()
    }

    /// When the entry was added, by the server's clock.
    pub fn time(&self) -> SystemTime {
        self.entry.time()
    }

    /// Which attempt this is, from 1; attempts before a restart count.
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

/// What `#[consumer(..)]` said about a function.
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
    /// How it wants to be driven.
    pub options: ConsumerOptions,
}

/// The options of `#[consumer(..)]`; `None` is the app's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerOptions {
    /// After how many attempts an event goes to the dead letters.
    pub max_attempts: Option<u32>,
    /// How long to wait between attempts.
    pub backoff: Option<Backoff>,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// A property of the group: where it starts when it is new.
    pub start: Option<Start>,
    /// A property of the group: [`Checkpoint::events`].
    pub checkpoint_events: Option<u32>,
    /// A property of the group: [`Checkpoint::interval`].
    pub checkpoint_interval: Option<Duration>,
}

// Setters rather than a literal: the attribute writes these in the user's crate, where the struct may grow fields.
impl ConsumerOptions {
    /// Every option at the app's default.
    pub const DEFAULT: Self = Self {
        max_attempts: None,
        backoff: None,
        timeout: None,
        start: None,
        checkpoint_events: None,
        checkpoint_interval: None,
    };

    /// These options where they are given, `below` where they are not.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            max_attempts: self.max_attempts.or(below.max_attempts),
            backoff: self.backoff.or(below.backoff),
            timeout: self.timeout.or(below.timeout),
            start: self.start.or(below.start),
            checkpoint_events: self.checkpoint_events.or(below.checkpoint_events),
            checkpoint_interval: self.checkpoint_interval.or(below.checkpoint_interval),
        }
    }

    /// The same with [`ConsumerOptions::max_attempts`].
    #[must_use]
    pub const fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
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
}

/// The wait between attempts: doubled after each, from `first` up to `max`, less a random part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first attempt.
    pub first: Duration,
    /// After any.
    pub max: Duration,
}

impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", humantime::format_duration(self.first), humantime::format_duration(self.max))
    }
}

/// Where a group starts that has no checkpoint yet. Afterwards the checkpoint decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With the oldest entry there is: nothing is skipped.
    #[default]
    Earliest,
    /// With the first entry that is added after the group was made.
    Latest,
    /// With this entry, or the first after it.
    At(EntryId),
    /// With the first entry added this long before the group was made, by the server's clock, or after.
    Ago(Duration),
}

/// How often a group commits: at the latest after so many events, and after so long.
///
/// `checkpoint = 500` in the attribute gives the events, `checkpoint = "100ms"` the interval, and
/// `checkpoint = "each"` both, as [`Checkpoint::EACH`]. What is not given is the app's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The most events that a crash can repeat.
    pub events: u32,
    /// The longest that a settled event waits for its commit.
    pub interval: Duration,
}

impl Checkpoint {
    /// After every event: nothing but the event in hand is repeated after a crash.
    pub const EACH: Self = Self { events: 1, interval: Duration::ZERO };
}

/// A consumer that is linked into the program, or listed with `consumers![..]`.
#[derive(Clone, Copy)]
pub struct Registration {
    /// What its attribute said.
    pub info: &'static ConsumerInfo,
    needs: fn(&mut Needs),
    call: Call,
}

/// Decodes, makes the arguments, calls the function.
type Call = fn(Context) -> Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

impl Registration {
    /// The registration of a `#[consumer]` function.
    pub const fn of<C: Consumer>() -> Self {
        Self { info: C::INFO, needs: C::needs, call: call::<C> }
    }

    /// What the function's arguments need at start-up.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        (self.needs)(&mut needs);
        needs
    }

    /// One attempt.
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

fn call<C: Consumer>(ctx: Context) -> Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>> {
    Box::pin(async move {
        let payload = C::Payload::decode(&ctx).map_err(Failure::Decode)?;
        let args = C::args(&ctx).await?;
        C::invoke(payload, args).await.into_outcome()
    })
}

/// Not public API: the failure of an argument, whose type is `argument` as the user wrote it.
#[doc(hidden)]
pub fn rejected(argument: &'static str, source: impl Into<BoxError>) -> Failure {
    Failure::Rejected { argument, source: source.into() }
}

/// Not public API: the event of a consumer.
///
/// The attribute does not name the event's traits itself, so that a payload which is no event is reported once.
#[doc(hidden)]
pub const fn event_of<C: Consumer>() -> &'static EventInfo {
    <C::Payload as Payload>::Event::INFO
}

/// An explicit list of consumers for `App::with`: `consumers![check_limits, audit::count]`.
#[macro_export]
macro_rules! consumers {
    ($($consumer:ty),* $(,)?) => {
        [$($crate::Registration::of::<$consumer>()),*]
    };
}
