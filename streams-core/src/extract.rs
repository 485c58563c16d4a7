//! The arguments of a handler after the event: [`Context`], [`State`], or a type of the user's own.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::{BoxError, Entry, EntryId, EventId, Headers};

/// Values that handlers share, one per type.
#[derive(Default)]
pub struct Resources {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl Resources {
    /// Adds a value; returns the earlier value of the same type, if any.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) -> Option<T> {
        let old = self.values.insert(TypeId::of::<T>(), Box::new(value))?;
        old.downcast().ok().map(|old| *old)
    }

    /// The value of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resources").field("values", &self.values.len()).finish()
    }
}

/// The common part of all deliveries of one consumer on one partition.
#[derive(Debug)]
pub struct Scope {
    /// The stream's name.
    pub stream: &'static str,
    /// The partition of the stream, from 0.
    pub partition: u32,
    /// The group's name.
    pub group: &'static str,
    /// The handler function's name.
    pub consumer: &'static str,
    /// The values that the app's handlers share.
    pub resources: Arc<Resources>,
}

/// One delivery: its event, group, partition and attempt. Cheap to clone.
///
/// For a batch it shows the ids and headers of the first event. [`Context::entries`] has all entries.
///
/// A handler takes it by value, after the event:
///
/// ```
/// use streams_core::{Context, consumer, stream_event};
///
/// #[stream_event(stream = "trades")]
/// struct Trade { price: f64 }
///
/// #[consumer(group = "audit")]
/// async fn audit(trade: Trade, ctx: Context) {
///     println!("{} at {} for {}, attempt {}", trade.price, ctx.entry_id(), ctx.group(), ctx.attempt());
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    scope: Arc<Scope>,
    entry: Arc<Entry>,
    /// All entries of a batch that has several.
    batch: Option<Arc<[Arc<Entry>]>>,
    attempt: u32,
    replay: bool,
}

/// The namespace of [`Context::derived_id`], in the sense of UUIDs.
const DERIVED: uuid::Uuid = uuid::uuid!("6f1c53d6-4c0a-5f0e-9a53-0d1b7c4e2f98");

impl Context {
    /// The context of one attempt.
    pub fn new(scope: Arc<Scope>, entry: Arc<Entry>, attempt: u32) -> Self {
        Self { scope, entry, batch: None, attempt, replay: false }
    }

    /// A context for calling a handler in a test: stream, group and consumer `test`, entry `1-0`, first attempt.
    pub fn test() -> Self {
        Self::test_with(Resources::default())
    }

    /// As [`Context::test`], with resources for extractors.
    pub fn test_with(resources: Resources) -> Self {
        let scope =
            Scope { stream: "test", partition: 0, group: "test", consumer: "test", resources: Arc::new(resources) };
        Self::new(Arc::new(scope), Arc::new(Entry::new::<&str, &str>(EntryId::new(1, 0), &[])), 1)
    }

    /// This context for these entries, of which it shows the first.
    ///
    /// Without an entry the context stays as it is.
    #[must_use]
    pub fn with_entries(mut self, entries: impl Into<Arc<[Arc<Entry>]>>) -> Self {
        let entries = entries.into();
        if let Some(first) = entries.first() {
            self.entry = Arc::clone(first);
            self.batch = (entries.len() > 1).then_some(entries);
        }
        self
    }

    /// This context with one more header, for calling an extractor or a handler in a test.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.entry = Arc::new(self.entry.with_field(name, value.as_bytes()));
        self
    }

    /// This context for another attempt, for calling a handler in a test.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// This context for the replay of a dead letter.
    #[must_use]
    pub fn with_replay(mut self) -> Self {
        self.replay = true;
        self
    }

    /// The stream's name.
    pub fn stream(&self) -> &'static str {
        self.scope.stream
    }

    /// The partition of the stream, from 0.
    pub fn partition(&self) -> u32 {
        self.scope.partition
    }

    /// The group's name.
    pub fn group(&self) -> &'static str {
        self.scope.group
    }

    /// The handler function's name.
    pub fn consumer(&self) -> &'static str {
        self.scope.consumer
    }

    /// The entry's id: its place in the partition.
    pub fn entry_id(&self) -> EntryId {
        self.entry.id
    }

    /// The event's own id: the same for every attempt and every group, so a good idempotency key.
    pub fn event_id(&self) -> EventId {
        self.entry.event_id()
    }

    /// The id for the nth event that the handler publishes: the same at every attempt, in every process and after a crash.
    ///
    /// A handler that fails behind its publishes, or whose process ends there, publishes them again. With such ids consumers
    /// behind it can tell the doubles. It is a UUID of version 5, of the stream, the group, the consumer, `n` and the id of
    /// the event handled. So each group has its own, a replay has those of before, and a rename of the handler has others.
    ///
    /// In a batch it goes by the first event, and another attempt may cut the batch otherwise: take ids of your own there.
    ///
    /// ```
    /// # use streams_core::Context;
    /// let ctx = Context::test();
    /// let ids = [ctx.derived_id(0), ctx.derived_id(1)];
    /// assert_ne!(ids[0], ids[1]);
    /// assert_eq!(ids[0], ctx.with_attempt(2).derived_id(0));
    /// // In a handler: publisher.publish(&shipped).id(ctx.derived_id(0)).await?;
    /// ```
    pub fn derived_id(&self, n: u64) -> EventId {
        let Scope { stream, partition, group, consumer, .. } = &*self.scope;
        // An entry's own id is one only in its partition.
        let of = match self.entry.given_id() {
            Some(id) => format!("event/{id}"),
            None => format!("entry/{partition}/{}", self.entry.id),
        };
        // No part before the last contains the mark between them.
        let name = format!("{stream}/{group}/{consumer}/{n}/{of}");
        EventId::of_uuid(uuid::Uuid::new_v5(&DERIVED, name.as_bytes()))
    }

    /// The version that the publisher wrote, which may be older than the handler's type; 1 in a context made for a
    /// test.
    pub fn version(&self) -> u32 {
        self.entry.version()
    }

    /// The number of this attempt, from 1; attempts before a restart count. A replay counts from 1 again.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether a replayed dead letter is handled: later events of its key may have been handled before it.
    pub fn is_replay(&self) -> bool {
        self.replay
    }

    /// The event's headers.
    pub fn headers(&self) -> Headers<'_> {
        self.entry.headers()
    }

    /// The entry as it was read.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// All entries of a batch, in order; for a single event its own entry.
    pub fn entries(&self) -> &[Arc<Entry>] {
        self.batch.as_deref().unwrap_or(std::slice::from_ref(&self.entry))
    }

    /// The values that the app's handlers share: states and the publisher.
    pub fn resources(&self) -> &Resources {
        &self.scope.resources
    }
}

/// A type that a handler may take after the event.
///
/// The runtime extracts it anew for every attempt, once per batch. A rejection is a failed attempt.
///
/// ```
/// use streams_core::{BoxError, Context, FromContext, consumer, stream_event};
///
/// /// The tenant that the producer named in a header.
/// struct Tenant(String);
///
/// impl FromContext for Tenant {
///     type Rejection = BoxError;
///     async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
///         let name = ctx.headers().get("tenant").ok_or("no `tenant` header")?;
///         Ok(Tenant(name.to_owned()))
///     }
/// }
///
/// #[stream_event(stream = "trades")]
/// struct Trade { price: f64 }
///
/// #[consumer(group = "billing")]
/// async fn bill(trade: Trade, tenant: Tenant) {
///     println!("{} pays for {}", tenant.0, trade.price);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a `#[consumer]`",
    label = "not something the runtime can pass in",
    note = "after the event a consumer may take `Context`, `State<T>`, `Publisher` or a type that implements `FromContext`",
    note = "to pass your own value, write `State<{Self}>` and give it to the app with `.state(value)`"
)]
pub trait FromContext: Sized + Send {
    /// The error of a value that could not be extracted.
    type Rejection: Into<BoxError>;

    /// Declares the values that the app must have at its start, so that a missing value refuses the start and not the
    /// events.
    fn needs(needs: &mut Needs) {
        let _ = needs;
    }

    /// Extracts the value for one attempt.
    ///
    /// # Errors
    /// A rejection is a failed attempt of the event.
    fn from_context(ctx: &Context) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

impl FromContext for Context {
    type Rejection = BoxError;

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        Ok(ctx.clone())
    }
}

/// A value that the app was given with `.state(value)`, cloned for every attempt.
///
/// In a test write `State(value)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State<T>(pub T);

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A handler took `State<T>`, but the app has no `T`.
#[derive(Debug, thiserror::Error)]
#[error("the app has no `{0}`: call `.state(..)` with one")]
pub struct MissingState(&'static str);

/// A value that an app can share with its handlers: any type that is `Clone + Send + Sync + 'static`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be taken as `State<{Self}>`",
    label = "must be `Clone + Send + Sync + 'static`, because every attempt gets a clone",
    note = "derive `Clone` for `{Self}`, or give the app an `Arc<{Self}>` and take `State<Arc<{Self}>>`"
)]
pub trait Shared: Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync + 'static> Shared for T {}

impl<T: Shared> FromContext for State<T> {
    type Rejection = MissingState;

    fn needs(needs: &mut Needs) {
        needs.state::<T>();
    }

    async fn from_context(ctx: &Context) -> Result<Self, MissingState> {
        ctx.resources().get::<T>().cloned().map(State).ok_or(MissingState(type_name::<T>()))
    }
}

/// Whether a type name begins with that of a collection of the standard library.
fn is_collection(name: &str) -> bool {
    ["std::collections::", "alloc::collections::", "alloc::vec::Vec<"].iter().any(|path| name.starts_with(path))
}

/// The values that the arguments of a handler need at the app's start.
#[derive(Debug, Default)]
pub struct Needs {
    missing: Vec<(TypeId, &'static str)>,
}

impl Needs {
    /// Declares that the app must have a `T`.
    pub fn state<T: 'static>(&mut self) {
        self.missing.push((TypeId::of::<T>(), type_name::<T>()));
    }

    /// The name of a type among them that keeps data in this process alone: a collection of the standard library behind a
    /// lock.
    pub fn local_data(&self) -> Option<&'static str> {
        let is_local = |name: &str| {
            let inside = |lock: &str| name.split_once(lock).is_some_and(|(_, inside)| is_collection(inside));
            inside("Mutex<") || inside("RwLock<") || name.contains("dashmap::DashMap<")
        };
        self.missing.iter().map(|(_, name)| *name).find(|name| is_local(name))
    }

    /// The names of the types that `resources` lacks, each once.
    pub fn missing_from(&self, resources: &Resources) -> Vec<&'static str> {
        let mut names: Vec<_> =
            self.missing.iter().filter(|(id, _)| !resources.values.contains_key(id)).map(|(_, name)| *name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn context(names: [&'static str; 3], partition: u32, fields: &[(&str, &str)]) -> Context {
        let [stream, group, consumer] = names;
        let scope = Scope { stream, partition, group, consumer, resources: Arc::default() };
        Context::new(Arc::new(scope), Arc::new(Entry::new(EntryId::new(7, 0), fields)), 1)
    }

    #[test]
    fn a_derived_id_is_one_per_handler_event_and_place_and_never_changes() {
        let names = ["orders", "desk", "split"];
        let given = context(names, 3, &[("id", "o-1")]);
        // Whoever computes it otherwise takes the ids of all that was published before.
        assert_eq!(given.derived_id(2).as_str(), "f9b8a0a1-95db-55cf-b242-02156abd87d8");
        let again = given.clone().with_attempt(5).with_replay();
        assert_eq!(again.derived_id(2), given.derived_id(2));
        let all = [
            given.derived_id(2),
            given.derived_id(3),
            context(["returns", "desk", "split"], 3, &[("id", "o-1")]).derived_id(2),
            context(["orders", "mail", "split"], 3, &[("id", "o-1")]).derived_id(2),
            context(["orders", "desk", "join"], 3, &[("id", "o-1")]).derived_id(2),
            context(names, 3, &[("id", "o-2")]).derived_id(2),
            context(names, 3, &[]).derived_id(2),
            context(names, 4, &[]).derived_id(2),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        assert_eq!(
            context(names, 4, &[("id", "o-1")]).derived_id(2),
            given.derived_id(2),
            "an event has its id everywhere"
        );
    }
}
