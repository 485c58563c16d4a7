//! A program's app: declarations and options become a plan, and a plan becomes running tasks.
//!
//! May use every room; only [`testing`](crate::testing) uses it.

mod config;
#[cfg(feature = "asyncapi")]
mod describe;
mod environment;
mod plan;
mod run;
mod running;
#[cfg(feature = "console")]
mod settings;
mod start;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use streams_core::broker::Broker;
use streams_core::{EventInfo, Registration, Resources};

pub use self::config::Config;
use self::environment::Environment;
pub use self::run::run;
pub use self::running::Running;
use crate::broadcast::{SnapshotState, Snapshots};
use crate::clock::Clock;
use crate::declared::{chain, declared_at, linked_consumers, linked_events};
use crate::error::Error;
use crate::random::Random;

/// A program's consumers and what they need; nothing happens until it is started.
///
/// ```no_run
/// use streams_runtime::{App, Config, State, consumer, stream_event};
///
/// #[stream_event(stream = "trades")]
/// struct Trade { price: f64 }
///
/// #[derive(Clone)]
/// struct Limit { max: f64 }
///
/// #[consumer(group = "risk")]
/// async fn check(trade: Trade, limit: State<Limit>) -> Result<(), String> {
///     if trade.price > limit.max { Err(format!("{} is too dear", trade.price)) } else { Ok(()) }
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<streams_runtime::Stopped, streams_runtime::Error> {
///     App::linked().state(Limit { max: 50_000.0 }).run().await
/// }
/// ```
#[must_use = "an app does nothing until it is run or started"]
pub struct App {
    consumers: Vec<Registration>,
    /// The events whose declarations count: every linked one, or those of the consumers listed.
    events: Vec<&'static EventInfo>,
    resources: Resources,
    twice: Vec<&'static str>,
    snapshots: BTreeMap<String, (Snapshots, Arc<dyn SnapshotState>)>,
    broker: Option<Arc<dyn Broker>>,
    config: Config,
    only: Option<Vec<String>>,
    /// It drives no group, and is not to.
    publishes_only: bool,
    namespace: Option<String>,
    environment: Environment,
    seams: Option<(Clock, Random)>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let consumers: Vec<_> = self.consumers.iter().map(|consumer| consumer.info.name).collect();
        f.debug_struct("App").field("consumers", &consumers).field("config", &self.config).finish_non_exhaustive()
    }
}

impl App {
    /// An app with every `#[consumer]` that is linked into the program.
    ///
    /// A crate that the program never mentions is not linked. Write `use handlers as _;`, with the name of the crate, not
    /// of a module in it.
    pub fn linked() -> Self {
        Self { events: linked_events(), ..Self::with(linked_consumers()) }
    }

    /// An app with these consumers only: `App::with(consumers![check_limits, audit])`.
    pub fn with(consumers: impl IntoIterator<Item = Registration>) -> Self {
        let consumers: Vec<_> = consumers.into_iter().collect();
        let mut seen = HashSet::new();
        let events = consumers.iter().flat_map(|consumer| chain(consumer.info.event));
        Self {
            // Each once, whatever number of groups take it.
            events: events.filter(|info| seen.insert(declared_at(info))).collect(),
            consumers,
            resources: Resources::default(),
            twice: Vec::new(),
            snapshots: BTreeMap::new(),
            broker: None,
            config: Config::default(),
            only: None,
            publishes_only: false,
            namespace: None,
            environment: Environment::default(),
            seams: None,
        }
    }

    /// Gives handlers a value: they take it as `State<T>`. One of each type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        if self.resources.insert(value).is_some() {
            self.twice.push(std::any::type_name::<T>());
        }
        self
    }

    /// Saves the state of a `delivery = "broadcast"` group at times, and loads it at the next start. Handlers take the same
    /// state as `State<T>`; see [`Snapshots`].
    pub fn snapshots(mut self, group: impl Into<String>, when: Snapshots, state: impl SnapshotState) -> Self {
        self.snapshots.insert(group.into(), (when, Arc::new(state)));
        self
    }

    /// Uses this broker, whatever the environment says.
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Uses this configuration.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Drives only these groups; others that are linked stay with other processes.
    pub fn only_groups<S: Into<String>>(mut self, groups: impl IntoIterator<Item = S>) -> Self {
        self.only = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Drives no group, whatever consumers are linked: for a gateway or a feed that only publishes.
    ///
    /// All else is that of any app: the environment, the namespace, TLS, [`Running::monitor`] with metrics and probes, and a
    /// [`Running::shutdown`] that waits for what is being written.
    ///
    /// Begin with [`App::linked`]: the events that are linked say what holds for their streams. An app made by [`App::with`]
    /// knows only those of its consumers.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use streams_runtime::{App, stream_event};
    ///
    /// #[stream_event(stream = "trades")]
    /// struct Trade { price: f64 }
    ///
    /// let app = App::linked().publish_only().from_environment().start().await?;
    /// let publisher = app.publisher().clone(); // for every route of a service
    /// publisher.publish(&Trade { price: 39432.48 }).await?;
    /// println!("{:?}", app.shutdown().await);
    /// # Ok(()) }
    /// ```
    pub fn publish_only(mut self) -> Self {
        self.publishes_only = true;
        self
    }

    /// Puts `namespace:` before the name of every stream, so that a staging system can share a server.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Reads the environment, which overrides everything but [`App::broker`]: `REDIS_URL`, `STREAMS_BROKER`,
    /// `STREAMS_GROUPS`, `STREAMS_NAMESPACE`, `STREAMS_LEASE`, `STREAMS_SHUTDOWN_DEADLINE`, `STREAMS_EXPIRE_AFTER`,
    /// `STREAMS_MAX_ATTEMPTS`, `STREAMS_MAX_CRASHES`, `STREAMS_TIMEOUT`, `STREAMS_CHECKPOINT_EVENTS`, `STREAMS_CHECKPOINT_INTERVAL`,
    /// `STREAMS_ON_DATA_LOSS`, `STREAMS_CONCURRENCY`, `STREAMS_TLS_CA`, `STREAMS_TLS_CERT`, `STREAMS_TLS_KEY`, `STREAMS_HTTP`,
    /// `STREAMS_CONSOLE_TOKEN`, `STREAMS_CONSOLE_REDACT`.
    /// The [crate's page](crate#environment) says what each means. `run` does this by itself.
    pub fn from_environment(mut self) -> Self {
        // Variables of others may hold any bytes, and are no reason to panic.
        let text = |bytes: std::ffi::OsString| bytes.to_string_lossy().into_owned();
        self.environment = Environment::read(std::env::vars_os().map(|(name, value)| (text(name), text(value))));
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn seams(mut self, clock: Clock, random: Random) -> Self {
        self.seams = Some((clock, random));
        self
    }

    /// Finds everything that would refuse the start, without connecting: for a unit test.
    ///
    /// # Errors
    /// All problems at once.
    pub fn check(&self) -> Result<(), Error> {
        self.plan().map(drop)
    }

    fn driven_groups(&self) -> Option<&[String]> {
        self.environment.groups.as_deref().or(self.only.as_deref())
    }

    fn effective_namespace(&self) -> Option<&str> {
        self.environment.namespace.as_deref().or(self.namespace.as_deref())
    }
}
