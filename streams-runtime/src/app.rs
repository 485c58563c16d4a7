//! The app: what is gathered before the start, and what runs after it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::Future;
#[cfg(feature = "http")]
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError};
use streams_core::codec::DecodeError;
use streams_core::keys::{PartitionKey, StreamKey};
use streams_core::{ConsumerInfo, Delivery, EntryId, EventInfo, Registration, Resources, Scope, StreamEvent};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::Admin;
use crate::broker::{Embedded, Redis};
use crate::builds;
use crate::call::{self, Late};
use crate::clock::Clock;
use crate::config::{Config, Environment, set_variables};
use crate::contend::CLAIMS;
use crate::dead_letters::DeadLetters;
#[cfg(feature = "http")]
use crate::http;
use crate::lanes::Bounds;
use crate::lease::Leases;
use crate::meeting::{self, Table};
use crate::members::{self, Members};
use crate::monitor::{self, Monitor, Vitals};
use crate::ordered::{Engine, Group, Handler};
use crate::outage::Outages;
use crate::prove::Turns;
use crate::publisher::{self, Publisher};
use crate::queue::Queue;
use crate::random::Random;
use crate::registry::{self, Plan};
use crate::shutdown::{PARTING, Shutdown, Stopped};
use crate::source::extent;
use crate::status::{Phase, Progress, Status, Tip};
use crate::sweep::{self, Swept};
use crate::tail::Tails;

/// How long [`Running::caught_up`] waits for news before it asks the broker itself.
const ASK: Duration = Duration::from_millis(200);

/// How many groups say at the same time what they handle: enough to fill a connection, and no burst of thousands.
const ANNOUNCED_AT_ONCE: usize = 64;

/// Said where nobody chose a broker, behind why.
const EMBEDDED_BY_DEFAULT: &str =
    "using the embedded broker, which forgets everything when the program ends; a release build would refuse to start";

/// A program's consumers and what they need; nothing happens until it is started.
///
/// ```no_run
/// use streams_runtime::{App, Config, State, consumer, stream_event};
///
/// #[stream_event(stream = "trades")]
/// struct Trade { price: f64 }
///
/// #[derive(Clone)]
/// struct Limit(f64);
///
/// #[consumer(group = "risk")]
/// async fn check(trade: Trade, limit: State<Limit>) -> Result<(), String> {
///     if trade.price > limit.0.0 { Err(format!("{} is too dear", trade.price)) } else { Ok(()) }
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<(), streams_runtime::Error> {
///     App::linked().state(Limit(50_000.0)).run().await
/// }
/// ```
#[must_use = "an app does nothing until it is run or started"]
pub struct App {
    consumers: Vec<Registration>,
    /// The events whose declarations count: every linked one, or those of the consumers listed.
    events: Vec<&'static EventInfo>,
    resources: Resources,
    twice: Vec<&'static str>,
    broker: Option<Arc<dyn Broker>>,
    config: Config,
    only: Option<Vec<String>>,
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
    /// A crate that the program never mentions is not linked: write `use handlers as _;`, with the name of the crate, not
    /// of a module in it.
    pub fn linked() -> Self {
        Self { events: registry::linked_events(), ..Self::with(registry::linked_consumers()) }
    }

    /// An app with these consumers only: `App::with(consumers![check_limits, audit])`.
    pub fn with(consumers: impl IntoIterator<Item = Registration>) -> Self {
        let consumers: Vec<_> = consumers.into_iter().collect();
        let mut seen = HashSet::new();
        let events = consumers.iter().flat_map(|consumer| registry::chain(consumer.info.event));
        Self {
            // Each once, whatever number of groups take it.
            events: events.filter(|info| seen.insert(registry::declared_at(info))).collect(),
            consumers,
            resources: Resources::default(),
            twice: Vec::new(),
            broker: None,
            config: Config::default(),
            only: None,
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

    /// Puts `namespace:` before the name of every stream, so that a staging system can share a server.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Reads the environment, which overrides everything but [`App::broker`]: `REDIS_URL`, `STREAMS_BROKER`,
    /// `STREAMS_GROUPS`, `STREAMS_NAMESPACE`, `STREAMS_LEASE`, `STREAMS_SHUTDOWN_DEADLINE`, `STREAMS_MAX_ATTEMPTS`,
    /// `STREAMS_MAX_CRASHES`, `STREAMS_TIMEOUT`, `STREAMS_CHECKPOINT_EVENTS`, `STREAMS_CHECKPOINT_INTERVAL`,
    /// `STREAMS_ON_DATA_LOSS`, `STREAMS_CONCURRENCY`, `STREAMS_TLS_CA`, `STREAMS_TLS_CERT`, `STREAMS_TLS_KEY`, `STREAMS_HTTP`.
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

    fn plan(&self) -> Result<(Plan, Config), Error> {
        let mut config = self.config.clone();
        config.lease = self.environment.lease.unwrap_or(config.lease);
        config.shutdown_deadline = self.environment.shutdown_deadline.unwrap_or(config.shutdown_deadline);
        #[cfg(feature = "http")]
        {
            config.http = self.environment.http.or(config.http);
        }
        let mut problems = self.environment.problems.clone();
        problems.extend(
            self.twice
                .iter()
                .map(|name| format!("the app was given two values of type `{name}`; wrap one in a type of its own")),
        );
        let plan = registry::plan(
            self.consumers.clone(),
            &self.events,
            self.environment.groups.as_deref().or(self.only.as_deref()),
            self.effective_namespace(),
            &config,
            self.environment.consumers,
            &self.resources,
        );
        match plan {
            Ok(plan) if problems.is_empty() => Ok((plan, config)),
            Ok(_) => Err(Error::Refused(problems)),
            Err(more) => {
                problems.extend(more);
                Err(Error::Refused(problems))
            }
        }
    }

    fn effective_namespace(&self) -> Option<&str> {
        self.environment.namespace.as_deref().or(self.namespace.as_deref())
    }

    /// The broker that was given, or the one that the environment names; without either the embedded one, but only
    /// in a debug build: a forgotten variable must not become a service that forgets. Neither must a variable that is set and
    /// that nobody reads.
    fn choose_broker(&self) -> Result<Arc<dyn Broker>, Error> {
        // A test's app has a broker, and is the same whatever the environment says.
        let unread = if self.environment.read || self.seams.is_some() { Vec::new() } else { set_variables() };
        if let Some(broker) = &self.broker {
            // Whoever gives a broker may have read the URL itself.
            let unread: Vec<_> = unread.into_iter().filter(|name| *name != "REDIS_URL").collect();
            if !unread.is_empty() {
                tracing::warn!(
                    variables = unread.join(", "),
                    "variables are set that this app does not read: call `.from_environment()` before `.start()`, or unset them"
                );
            }
            return Ok(Arc::clone(broker));
        }
        if !unread.is_empty() {
            return Err(Error::Refused(vec![format!(
                "no broker: {} {} set, and this app does not read the environment; call `.from_environment()` before `.start()`, or give it a broker by `.broker(..)`, such as `Embedded::new()`",
                unread.join(", "),
                if unread.len() == 1 { "is" } else { "are" }
            )]));
        }
        if let Some(url) = &self.environment.redis_url {
            return Ok(Arc::new(self.open(&url.0)?));
        }
        if !self.environment.embedded {
            let (why, remedy) = if self.environment.read {
                ("no REDIS_URL is set", "set REDIS_URL, or STREAMS_BROKER=embedded for one")
            } else {
                (
                    "no broker is given, and the environment is not read",
                    "call `.broker(..)`, or `.from_environment()` and set REDIS_URL, or STREAMS_BROKER=embedded for one",
                )
            };
            if !cfg!(debug_assertions) {
                let message = format!("no broker: {remedy} in the process that forgets everything at its end");
                return Err(Error::Refused(vec![message]));
            }
            tracing::warn!("{why}: {EMBEDDED_BY_DEFAULT}");
            // A newcomer must see it.
            if !tracing::dispatcher::has_been_set() {
                eprintln!("streams: {why}: {EMBEDDED_BY_DEFAULT}");
            }
        }
        Ok(Arc::new(Embedded::new()))
    }

    /// The server that the environment names, with its files for TLS.
    fn open(&self, url: &str) -> Result<Redis, BrokerError> {
        #[cfg(feature = "tls")]
        {
            let files = &self.environment.tls;
            let client = files.cert.as_deref().zip(files.key.as_deref());
            Redis::open_with(url, &crate::broker::Tls::from_variables(files.ca.as_deref(), client))
        }
        #[cfg(not(feature = "tls"))]
        Redis::open(url)
    }

    /// Checks, connects, and begins to drive every group.
    ///
    /// Touches no signals and no exit code, and reads no environment unless [`App::from_environment`] did; several apps may live
    /// in one process. Must be called on a tokio executor with time and I/O enabled.
    ///
    /// # Errors
    /// Everything that is wrong, before anything is connected; then whatever the broker refuses. Without a broker a variable
    /// that is set and not read, such as `REDIS_URL`, is wrong, too: the events would go to a broker that forgets them.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done starts nothing that goes on.
    pub async fn start(mut self) -> Result<Running, Error> {
        let (plan, config) = self.plan()?;
        let broker = self.choose_broker()?;
        // Before anything is connected: an address that is taken refuses the start.
        #[cfg(feature = "http")]
        let listener = match config.http {
            Some(address) => Some(http::listen(address).await.map_err(|problem| Error::Refused(vec![problem]))?),
            None => None,
        };
        broker.connect().await?;
        for group in &plan.groups {
            broker.declare(&group.key).await?;
        }
        announce(&broker, &plan).await?;
        // Where everything is to be the same at every run, the name is, too.
        let (host, process) =
            if self.seams.is_some() { (String::new(), 0) } else { (meeting::host(), std::process::id()) };
        let (clock, random) = self.seams.take().unwrap_or_else(|| (Clock::new(), Random::from_system()));
        let member = members::name(&host, process, &random);
        let random = Arc::new(random);
        let vitals = Arc::new(Vitals::default());
        let namespace = self.effective_namespace().map(str::to_owned);
        let outages = Outages::default();
        let publisher = Publisher::new(
            publisher::Shared::new(
                Arc::clone(&broker),
                clock,
                Arc::clone(&random),
                config.publish_retry,
                outages.clone(),
                Arc::clone(&vitals.registry),
            ),
            namespace.clone(),
            self.events.clone(),
        );
        let tables = Table::of(&plan, &self.events);
        for table in &tables {
            publisher.meeting().join(table).await;
        }
        self.resources.insert(publisher.clone());
        let resources = Arc::new(self.resources);
        let leases =
            Leases::start(&broker, config.lease, clock, &outages, Arc::clone(&vitals)).map_err(Error::Thread)?;
        let shutdown = Shutdown::default();
        let mut members = Members::new(member, config.lease, &broker, &random, &outages, &vitals);
        let policies = plan.groups.iter().flat_map(|group| &group.consumers).map(|(_, policy)| policy);
        let longest = policies.map(|policy| policy.timeout).max().unwrap_or_default();
        let engine = Engine {
            broker: Arc::clone(&broker),
            random: Arc::clone(&random),
            tails: Tails::new(Arc::clone(&broker), random, config.window_bytes, outages.clone(), Arc::clone(&vitals)),
            leases,
            shutdown: shutdown.clone(),
            lease_for: config.lease,
            outages: outages.clone(),
            claims: Arc::new(Semaphore::new(CLAIMS)),
            // Who outruns its timeout is given up within a lease.
            turns: Turns::new(longest.saturating_add(config.lease)),
        };
        let banner = banner(&plan, &*broker);
        for line in &banner {
            tracing::info!("{line}");
        }
        let changed = Arc::new(Notify::new());
        let mut tips: BTreeMap<PartitionKey, Arc<Tip>> = BTreeMap::new();
        let (mut tasks, mut progress, mut consumers) = (JoinSet::new(), Vec::new(), Vec::new());
        for group in plan.groups {
            consumers.extend(group.consumers.iter().map(|(consumer, _)| consumer.info));
            let slots = Arc::new(Semaphore::new(group.concurrency as usize));
            for index in 0..group.key.partitions() {
                let key = group.key_at(index);
                let tip = Arc::clone(tips.entry(key.partition().clone()).or_default());
                let (registry, changed) = (&vitals.registry, Arc::clone(&changed));
                let of_group = Arc::new(Progress::new(group.stream, group.group, key.clone(), tip, registry, changed));
                progress.push(Arc::clone(&of_group));
                let handlers = group.consumers.iter().map(|(registration, policy)| {
                    let info = registration.info;
                    let scope = Scope {
                        stream: group.stream,
                        partition: index,
                        group: group.group,
                        consumer: info.name,
                        resources: Arc::clone(&resources),
                    };
                    let labels = [group.stream, group.group, info.name];
                    let duration = vitals.registry.histogram("streams_handler_duration_seconds", &labels);
                    let late = Arc::new(Late::new(group.group, key.partition().as_str(), info.name));
                    Handler { registration: *registration, policy: *policy, scope: Arc::new(scope), duration, late }
                });
                let queue = || Queue {
                    slots: Arc::clone(&slots),
                    concurrency: group.concurrency as usize,
                    members: vitals.registry.gauge("streams_members", &[group.stream, group.group]),
                    longest_wait: group
                        .consumers
                        .iter()
                        .map(|(_, policy)| policy.backoff.max)
                        .max()
                        .unwrap_or_default(),
                };
                let (place, queue) = match group.delivery {
                    Delivery::Ordered => {
                        (members.place(&group.key, (group.stream, group.group), key.clone(), &group.build), None)
                    }
                    Delivery::Shared => (members.apart(key.clone()), Some(queue())),
                };
                let driven = Group {
                    engine: engine.clone(),
                    place,
                    queue,
                    handlers: handlers.collect(),
                    key,
                    build: Arc::clone(&group.build),
                    start: group.start,
                    checkpoint: group.checkpoint,
                    on_data_loss: group.on_data_loss,
                    adopt: group.adopt,
                    dead_bounds: config.dead_letters,
                    storm: config.dead_letter_storm,
                    max_payload: group.max_payload,
                    lanes: Bounds {
                        running: group.concurrency as usize,
                        entries: config.lane_entries,
                        bytes: config.lane_bytes,
                    },
                    contact: outages.contact_of(&of_group),
                    progress: of_group,
                    known: Mutex::default(),
                    last_reader: Mutex::default(),
                    said: Mutex::default(),
                };
                tasks.spawn(supervise(driven, Arc::clone(&vitals), Arc::clone(&resources)));
            }
        }
        let members = AbortOnDropHandle::new(tokio::spawn(members.run(shutdown.clone())));
        let of_groups = progress.clone();
        let owns = move |stream: &StreamKey, group: &str| {
            let ours = |one: &&Arc<Progress>| one.group == group && *one.key.partition() == stream.partition(0);
            of_groups.iter().find(ours).is_some_and(|one| matches!(one.phase(), Phase::Owning { .. }))
        };
        let meeting =
            tokio::spawn(meeting::refresh(Arc::clone(publisher.meeting()), tables, Arc::clone(&vitals.registry), owns));
        let groups = progress.clone();
        let swept = tips.keys().filter_map(|partition| {
            let of_it = groups.iter().filter(|group| group.key.partition() == partition);
            let of_it: Vec<Arc<Progress>> = of_it.map(Arc::clone).collect();
            let retention = registry::declared_retention(of_it.first()?.stream, &self.events)?;
            Some(Swept::new(partition.clone(), retention, of_it))
        });
        let swept = swept.collect();
        let sweep = sweep::sweep(Arc::clone(&broker), clock, outages.clone(), Arc::clone(&vitals), swept);
        let monitor = Monitor::new(monitor::Inner { groups, tips, vitals, outages, clock, lease_for: config.lease });
        let look = AbortOnDropHandle::new(tokio::spawn(monitor.clone().look(Arc::clone(&broker))));
        #[cfg(feature = "http")]
        let http = listener.map(|listener| http::Endpoint::start(listener, monitor.clone()));
        Ok(Running {
            _meeting: AbortOnDropHandle::new(meeting),
            _members: members,
            _sweep: AbortOnDropHandle::new(tokio::spawn(sweep)),
            monitor,
            _look: look,
            #[cfg(feature = "http")]
            http,
            broker,
            namespace,
            events: self.events,
            publisher,
            progress,
            changed,
            consumers,
            banner,
            tasks,
            tails: engine.tails,
            shutdown,
            deadline: config.shutdown_deadline,
        })
    }

    /// Starts, runs until `until` is ready, and stops.
    ///
    /// Touches no signals and no exit code, so it embeds in a service that has its own shutdown.
    ///
    /// # Errors
    /// As [`App::start`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the app without giving leases back: others take over when they run out.
    pub async fn run_until(self, until: impl Future<Output = ()> + Send + 'static) -> Result<Stopped, Error> {
        let running = self.start().await?;
        until.await;
        Ok(running.stop().await)
    }
}

/// Says in every group what this build handles, before it publishes or contends: an older owner then leaves to it what only
/// it knows.
async fn announce(broker: &Arc<dyn Broker>, plan: &Plan) -> Result<(), BrokerError> {
    let mut asked = JoinSet::new();
    for group in &plan.groups {
        for partition in 0..group.key.partitions() {
            if asked.len() >= ANNOUNCED_AT_ONCE
                && let Some(announced) = asked.join_next().await
            {
                announced.unwrap_or(Ok(()))?;
            }
            let (broker, key) = (Arc::clone(broker), group.key_at(partition));
            let (start, build) = (group.start, Arc::clone(&group.build));
            asked.spawn(async move { builds::announce(&*broker, &key, start, &build).await });
        }
    }
    while let Some(announced) = asked.join_next().await {
        announced.unwrap_or(Ok(()))?;
    }
    Ok(())
}

/// Drives a group. A panic of our own must not look like a group that is well.
async fn supervise(group: Group, vitals: Arc<Vitals>, resources: Arc<Resources>) {
    let progress = Arc::clone(&group.progress);
    let driven = AbortOnDropHandle::new(tokio::spawn(group.run()));
    if let Err(error) = driven.await
        && error.is_panic()
    {
        let reason =
            format!("bug in streams-runtime: {} panicked; please report it, and start the program again", progress.key);
        tracing::error!(group = progress.group, partition = progress.key.partition().as_str(), reason, "halted");
        progress.enter(Phase::Halted { reason });
        vitals.crashed(&progress.key.to_string());
    }
    // The last group drops what the app was given as state.
    call::discard(resources);
}

/// Where the app runs, then a line for each consumer: stream, group, function, file and line.
fn banner(plan: &Plan, broker: &dyn Broker) -> Vec<String> {
    let consumers = plan
        .groups
        .iter()
        .flat_map(|group| group.consumers.iter().map(move |(consumer, policy)| (group, consumer.info, policy)));
    let consumers = consumers.map(|(group, info, policy)| {
        let batches = policy.batch.map(|limits| format!(", up to {} at once", limits.events)).unwrap_or_default();
        let partitions = match group.key.partitions() {
            1 => String::new(),
            many => format!(" ({many} partitions)"),
        };
        format!(
            "  {}{partitions} -> {}: `{}` takes `{}`{batches} [{}:{}]",
            group.key.base(),
            group.group,
            info.name,
            info.event.name,
            info.file,
            info.line
        )
    });
    let groups = match plan.groups.len() {
        1 => "1 group".to_owned(),
        many => format!("{many} groups"),
    };
    std::iter::once(format!("streams on {}, {groups}:", broker.describe())).chain(consumers).collect()
}

/// An app that runs. Dropping it is a crash: groups stop where they are and leases run out by themselves.
pub struct Running {
    /// Tells other builds of this one, hour by hour.
    _meeting: AbortOnDropHandle<()>,
    /// Says that this process is there, and shares the partitions with others.
    _members: AbortOnDropHandle<()>,
    /// Trims what is too old or settled.
    _sweep: AbortOnDropHandle<()>,
    broker: Arc<dyn Broker>,
    namespace: Option<String>,
    events: Vec<&'static EventInfo>,
    publisher: Publisher,
    progress: Vec<Arc<Progress>>,
    changed: Arc<Notify>,
    consumers: Vec<&'static ConsumerInfo>,
    banner: Vec<String>,
    tasks: JoinSet<()>,
    tails: Tails,
    shutdown: Shutdown,
    deadline: Duration,
    monitor: Monitor,
    _look: AbortOnDropHandle<()>,
    #[cfg(feature = "http")]
    http: Option<http::Endpoint>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("broker", &self.broker)
            .field("groups", &self.progress.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The groups end with their tasks; the tails belong to nobody and would keep their connections.
        self.tails.end();
    }
}

impl Running {
    /// Publishes to the app's broker, in its namespace.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What the consumers' attributes said, sorted by stream, group and name.
    pub fn consumers(&self) -> &[&'static ConsumerInfo] {
        &self.consumers
    }

    /// What every group is doing. Does not ask the broker.
    pub fn status(&self) -> Status {
        self.monitor.status()
    }

    /// What tells of the app while it runs, for health checks and metrics of a service's own.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Where `/metrics`, `/livez` and `/readyz` are answered; with port 0 in the configuration the system has chosen one.
    #[cfg(feature = "http")]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(http::Endpoint::address)
    }

    /// The dead letters of a group on the stream of `E`.
    pub fn dead_letters<E: StreamEvent>(&self, group: &str) -> DeadLetters<E> {
        DeadLetters::new(Arc::clone(&self.broker), &self.stream_key(E::INFO), group)
    }

    /// What an operator does to the groups of the app's broker and namespace.
    pub fn admin(&self) -> Admin {
        let keys = self.progress.iter().map(|progress| &progress.key);
        let driven = keys.map(|key| (key.state().to_owned(), key.is_queue())).collect();
        Admin::at(Arc::clone(&self.broker), self.namespace.clone(), driven)
    }

    pub(crate) fn stream_key(&self, info: &'static EventInfo) -> StreamKey {
        let properties = registry::stream_properties(info.stream, self.events.iter().chain([&info]));
        StreamKey::new(self.namespace.as_deref(), info.stream, properties.partitions)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The partitions that the app's groups read, each as often as groups read it.
    #[cfg(feature = "testing")]
    pub(crate) fn partitions(&self) -> impl Iterator<Item = &streams_core::keys::PartitionKey> {
        self.progress.iter().map(|progress| progress.key.partition())
    }

    /// Waits until every group has settled what its stream held when this was called, here or in another process.
    ///
    /// # Errors
    /// When a group is halted, so that it would never come to that, or the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn caught_up(&self) -> Result<(), Error> {
        let mut behind = Vec::new();
        for progress in &self.progress {
            let tip = extent(&*self.broker, &progress.key).await?.map_or(EntryId::ZERO, |extent| extent.last);
            behind.push((progress, tip));
        }
        let mut asked = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            behind.retain(|(progress, tip)| progress.reached() < *tip);
            if behind.is_empty() {
                return Ok(());
            }
            for (progress, _) in &behind {
                if let Phase::Halted { reason } = progress.phase() {
                    return Err(Error::Halted(reason));
                }
            }
            if asked.elapsed() >= ASK {
                self.ask(&mut behind).await?;
                asked = Instant::now();
                continue;
            }
            let _ = tokio::time::timeout(ASK, changed).await;
        }
    }

    /// What this process cannot know by itself: how far another owner is, and whether the entries that are missing
    /// have been deleted meanwhile.
    async fn ask(&self, behind: &mut Vec<(&Arc<Progress>, EntryId)>) -> Result<(), BrokerError> {
        let mut still = Vec::new();
        for (progress, tip) in std::mem::take(behind) {
            let at = match progress.key.is_queue() {
                true => self.broker.queue(&progress.key).await?.map(|queue| queue.settled()),
                false => self.broker.state(&progress.key).await?.map(|state| state.at),
            };
            let at = at.map_or(progress.reached(), |at| at.max(progress.reached()));
            let next = self.broker.read(progress.key.partition(), at, 1).await?;
            if next.first().is_some_and(|entry| entry.id <= tip) {
                still.push((progress, tip));
            }
        }
        *behind = still;
        Ok(())
    }

    /// Stops: no new event is begun, handlers may finish until the deadline, then everything settled is committed and
    /// every lease given back.
    ///
    /// # Cancel safety
    /// Dropping the future drops the app: see [`Running`].
    pub async fn stop(mut self) -> Stopped {
        self.shutdown.stop();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.deadline, finished).await.is_ok() {
            return match self.progress.iter().filter(|progress| progress.is_abandoned()).count() {
                0 => {
                    tracing::info!("stopped: every handler finished, everything is committed, every lease given back");
                    Stopped::Clean
                }
                groups => {
                    tracing::warn!(
                        groups,
                        "stopped: every handler finished, but not all of it is committed, or a lease is not given back"
                    );
                    Stopped::Uncommitted { groups }
                }
            };
        }
        let handlers = self.tasks.len();
        tracing::warn!(
            handlers,
            "handlers still run at the deadline of {}: they are dropped, their events come again",
            humantime::format_duration(self.deadline)
        );
        self.shutdown.cut();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        let cut = tokio::time::timeout(PARTING, finished).await;
        match cut {
            Ok(()) => Stopped::Cut { handlers },
            Err(_) => {
                let handlers = self.tasks.len();
                tracing::error!(handlers, "handlers do not yield: their leases are kept until the process ends");
                // Aborting could not stop them either, and would give up their leases.
                self.tasks.detach_all();
                Stopped::Stuck { handlers }
            }
        }
    }

    /// Tells every halt from now on, once each: for a program that shows no logs.
    pub(crate) fn tell_halts(&self, tell: impl Fn(&str) + Send + 'static) -> AbortOnDropHandle<()> {
        let (progress, changed) = (self.progress.clone(), Arc::clone(&self.changed));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut told = vec![false; progress.len()];
            loop {
                let news = changed.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                for (progress, told) in progress.iter().zip(&mut told) {
                    let phase = progress.phase();
                    let halted = matches!(phase, Phase::Halted { .. });
                    if let Phase::Halted { reason } = phase
                        && !*told
                    {
                        tell(&reason);
                    }
                    *told = halted;
                }
                news.await;
            }
        }))
    }

    pub(crate) fn banner(&self) -> &[String] {
        &self.banner
    }

    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// Why an app cannot start, cannot go on, or cannot say what it was asked. Its `Debug` is a report for people, because `main` prints that.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Everything that is wrong with what the program declares or was told.
    #[error("this app cannot start: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// The broker cannot be used.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The thread that renews leases, or the one that waits for signals, could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
    /// An event that was read apart from a delivery cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A group waits for somebody to do something.
    #[error("halted: {0}")]
    Halted(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problems) => {
                f.write_str("this app cannot start:")?;
                problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
            other => {
                write!(f, "{other}")?;
                let (mut next, mut shown) = (std::error::Error::source(other), String::new());
                while let Some(cause) = next {
                    // Some error types are their own source in other words, others in the same.
                    let text = cause.to_string();
                    if text != shown {
                        write!(f, "\n  caused by: {text}")?;
                    }
                    shown = text;
                    next = cause.source();
                }
                Ok(())
            }
        }
    }
}
