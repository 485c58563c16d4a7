//! From a plan to an app that runs: connects, declares, and starts a task for each group on each partition.

use std::collections::BTreeMap;
use std::future::Future;
#[cfg(feature = "console")]
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use streams_core::broker::{Broker, BrokerError};
use streams_core::keys::{GroupKey, PartitionKey, StreamKey};
#[cfg(feature = "console")]
use streams_core::{ConsumerOptions, Registration};
use streams_core::{Delivery, Resources, Scope};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::App;
#[cfg(feature = "console")]
use super::config::Config;
#[cfg(feature = "console")]
use super::environment::Environment;
use super::environment::set_variables;
use super::plan::{GroupPlan, Plan};
use super::running::Running;
#[cfg(feature = "console")]
use super::settings::settings;
use super::watch::watch;
use crate::broadcast::{Broadcast, Projection, Saving};
use crate::broker::{Embedded, Redis};
use crate::clock::Clock;
#[cfg(feature = "console")]
use crate::console::{Console, Program, Registered};
use crate::declared::declared_retention;
use crate::error::Error;
use crate::fence::discard;
#[cfg(feature = "console")]
use crate::group::Policy;
use crate::group::{self, CLAIMS, GroupNews, GroupTask, Halt, Handler, Handlers, History, Late, Services, SuspectLock};
use crate::membership::{Leases, Members, name};
#[cfg(feature = "console")]
use crate::operate::Redact;
#[cfg(feature = "http")]
use crate::ops::http;
use crate::ops::{Calls, Monitor, Outages, Phase, Progress, Tip, Vitals, Watched};
use crate::ordered::Ordered;
use crate::publisher::{self, Executor, Publisher, Swept, sweep};
use crate::queue::{Queue, WorkQueue};
use crate::random::Random;
use crate::reader::Tails;
use crate::schema_watch::{self, Reading, Table};
use crate::shutdown::{Shutdown, Stopped};
use crate::whoami;

/// How many groups say at the same time what they handle: enough to fill a connection, and no burst of thousands.
const ANNOUNCED_AT_ONCE: usize = 64;

/// Said where nobody chose a broker, behind why.
const EMBEDDED_BY_DEFAULT: &str =
    "using the embedded broker, which forgets everything when the program ends; a release build would refuse to start";

/// A group from its start to its end.
type Life = Pin<Box<dyn Future<Output = ()> + Send>>;

impl App {
    /// The broker that was given, or the one that the environment names. Without either it is the embedded one, but only in
    /// a debug build. Neither a forgotten variable nor one that nobody reads may make a service forget its events.
    fn choose_broker(&self) -> Result<Arc<dyn Broker>, Error> {
        // A test's app has a broker, and is the same whatever the environment says.
        let unread = if self.environment.read || self.seams.is_some() { Vec::new() } else { set_variables() };
        if let Some(broker) = &self.broker {
            // A program that gives a broker may have read the URL itself.
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
        if self.environment.embedded != Some(true) {
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
    /// Everything that is wrong, before anything is connected; then whatever the broker refuses. Without a broker a
    /// variable that is set and not read, such as `REDIS_URL`, is wrong, too. The events would go to a broker that forgets
    /// them.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done starts nothing that goes on.
    pub async fn start(mut self) -> Result<Running, Error> {
        self.environment.warn_of_unknown();
        let (plan, config) = self.plan()?;
        let projections = self.projections(&plan);
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
            if self.seams.is_some() { (String::new(), 0) } else { (whoami::host(), std::process::id()) };
        let (clock, random) = self.seams.take().unwrap_or_else(|| (Clock::new(), Random::from_system()));
        let member = name(&host, process, &random);
        let random = Arc::new(random);
        let vitals = Arc::new(Vitals::default());
        let namespace = self.effective_namespace().map(str::to_owned);
        let outages = Outages::default();
        let publisher = Publisher::of(
            publisher::Shared::new(
                Arc::clone(&broker),
                clock,
                Arc::clone(&random),
                config.publish_retry,
                outages.clone(),
                Arc::clone(&vitals.registry),
            )
            .expire_after(config.expire_after)
            .on(Executor::current()),
            namespace.clone(),
            self.events.clone(),
        );
        let tables = Table::of(plan.groups.iter().map(read_by), &self.events);
        for table in &tables {
            publisher.notes().join(table).await;
        }
        self.resources.insert(publisher.clone());
        let resources = Arc::new(self.resources);
        let leases =
            Leases::start(&broker, config.lease, clock, &outages, Arc::clone(&vitals)).map_err(Error::Thread)?;
        let shutdown = Shutdown::default();
        #[cfg(feature = "console")]
        let name_of_member = member.clone();
        let mut members = Members::new(member, config.lease, &broker, &random, &outages, &vitals);
        let policies = plan.groups.iter().flat_map(|group| &group.consumers).map(|(_, policy)| policy);
        let longest = policies.map(|policy| policy.timeout).max().unwrap_or_default();
        let services = Services {
            broker: Arc::clone(&broker),
            random: Arc::clone(&random),
            tails: Tails::new(Arc::clone(&broker), random, config.window_bytes, outages.clone(), Arc::clone(&vitals)),
            leases,
            shutdown: shutdown.clone(),
            lease_for: config.lease,
            outages: outages.clone(),
            claims: Arc::new(Semaphore::new(CLAIMS)),
            // A handler that outruns its timeout is given up within a lease.
            suspects: SuspectLock::new(longest.saturating_add(config.lease)),
        };
        let banner = banner(&plan, &*broker);
        for line in &banner {
            tracing::info!("{line}");
        }
        let changed = Arc::new(Notify::new());
        let mut tips: BTreeMap<PartitionKey, Arc<Tip>> = BTreeMap::new();
        let (mut lives, mut progress, mut consumers) = (Vec::new(), Vec::new(), Vec::new());
        #[cfg(feature = "console")]
        let mut registered = Vec::new();
        for group in plan.groups {
            consumers.extend(group.consumers.iter().map(|(consumer, _)| consumer.info));
            let calls = group.consumers.iter().map(|(consumer, _)| {
                let labels = [group.stream, group.group, consumer.info.name];
                let duration = vitals.registry.histogram("streams_handler_duration_seconds", &labels);
                Arc::new(Calls::new(duration, clock))
            });
            let calls: Vec<_> = calls.collect();
            #[cfg(feature = "console")]
            registered.extend(handlers_of(&group, &calls, &config, self.environment.consumers));
            let slots = Arc::new(Semaphore::new(group.concurrency as usize));
            let local_data = group.consumers.iter().find_map(|(consumer, _)| consumer.needs().local_data());
            let news = GroupNews::new(group.key.base(), group.group, local_data);
            for index in 0..group.key.partitions() {
                let key = group.key_at(index);
                let tip = Arc::clone(tips.entry(key.partition().clone()).or_default());
                let (registry, changed) = (&vitals.registry, Arc::clone(&changed));
                let mut of_group = Progress::new(group.stream, group.group, key.clone(), tip, registry, changed);
                of_group.broadcast = group.delivery == Delivery::Broadcast;
                let of_group = Arc::new(of_group);
                progress.push(Arc::clone(&of_group));
                let handlers = group.consumers.iter().zip(&calls).map(|((registration, policy), calls)| {
                    let info = registration.info;
                    let scope = Scope {
                        stream: group.stream,
                        partition: index,
                        group: group.group,
                        consumer: info.name,
                        resources: Arc::clone(&resources),
                    };
                    let calls = Arc::clone(calls);
                    let late = Arc::new(Late::new(group.group, key.partition().as_str(), info.name));
                    Handler { registration: *registration, policy: *policy, scope: Arc::new(scope), calls, late }
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
                let seat = match group.delivery {
                    Delivery::Ordered => {
                        members.seat(&group.key, (group.stream, group.group), key.clone(), &group.build)
                    }
                    Delivery::Queue => members.apart(&group.key, key.clone()),
                    Delivery::Broadcast => members.alone(key.clone()),
                };
                let driven = GroupTask {
                    services: services.clone(),
                    stream: group.key.clone(),
                    seat,
                    handlers: Handlers::new(handlers.collect(), Arc::clone(&group.build)),
                    key,
                    options: group.options,
                    contact: outages.contact_of(&of_group),
                    progress: of_group,
                    history: History::default(),
                    news: Arc::clone(&news),
                    logged: Mutex::default(),
                    noted: AtomicBool::new(false),
                };
                let progress = Arc::clone(&driven.progress);
                let life: Life = match group.delivery {
                    Delivery::Ordered => Box::pin(driven.run(Ordered::default())),
                    Delivery::Queue => Box::pin(driven.run(WorkQueue::new(queue()))),
                    Delivery::Broadcast => {
                        let projection = Arc::clone(&projections[group.group]);
                        Box::pin(driven.run(Broadcast::new(projection, group.on_failure)))
                    }
                };
                lives.push(supervise(progress, life, Arc::clone(&vitals), Arc::clone(&resources)));
            }
        }
        // Before a group handles anything: a pause outlives the processes.
        members.look_at_pauses().await?;
        let mut tasks = JoinSet::new();
        for life in lives {
            tasks.spawn(life);
        }
        let members = if self.publishes_only {
            tokio::spawn(watch(Arc::clone(&broker), outages.clone(), Arc::clone(&vitals)))
        } else {
            tokio::spawn(members.run(shutdown.clone()))
        };
        let savers: Vec<_> = projections.into_iter().filter(|(_, projection)| projection.is_saved()).collect();
        let savers = savers.into_iter().map(|(name, projection)| {
            let of_it: Vec<_> = progress.iter().filter(|one| one.group == name).map(Arc::clone).collect();
            let is_whole = move || of_it.iter().all(|one| one.phase() == Phase::Following);
            tokio::spawn(projection.save_at_times(Arc::clone(&broker), is_whole))
        });
        let savers: Vec<_> = savers.collect();
        let of_groups = progress.clone();
        let owns = move |stream: &StreamKey, group: &str| {
            let ours = |one: &&Arc<Progress>| one.group == group && *one.key.partition() == stream.partition(0);
            of_groups
                .iter()
                .find(ours)
                .is_some_and(|one| matches!(one.phase(), Phase::Owning { .. } | Phase::Following))
        };
        let notes = tokio::spawn(schema_watch::refresh(
            Arc::clone(publisher.notes()),
            tables,
            Arc::clone(&vitals.registry),
            owns,
        ));
        let groups = progress.clone();
        let swept = tips.keys().filter_map(|partition| {
            let of_it = groups.iter().filter(|group| group.key.partition() == partition);
            let of_it: Vec<Arc<Progress>> = of_it.map(Arc::clone).collect();
            let retention = declared_retention(of_it.first()?.stream, &self.events)?;
            Some(Swept::new(partition.clone(), retention, config.expire_after, of_it))
        });
        let swept = swept.collect();
        let sweep = sweep(Arc::clone(&broker), clock, outages.clone(), Arc::clone(&vitals), swept);
        let monitor = Monitor::new(Watched { groups, tips, vitals, outages, clock, lease_for: config.lease });
        let look = tokio::spawn(monitor.clone().look(Arc::clone(&broker)));
        #[cfg(feature = "console")]
        let console = Console::on(Arc::clone(&broker), namespace.as_deref())
            .map_err(|error| Error::Refused(vec![error.to_string()]))?
            .redact(Redact::new(self.environment.console_redact.clone()))
            .program(Program { name: name_of_member, handlers: registered.into() });
        #[cfg(feature = "http")]
        let http = match listener {
            Some(listener) => {
                #[cfg(feature = "console")]
                let beside = beside(&self.environment, console.clone(), listener.1);
                #[cfg(not(feature = "console"))]
                let beside = http::Beside;
                Some(http::Endpoint::start(listener, monitor.clone(), beside))
            }
            None => None,
        };
        Ok(Running {
            _background: [notes, members, tokio::spawn(sweep), look]
                .into_iter()
                .chain(savers)
                .map(AbortOnDropHandle::new)
                .collect(),
            monitor,
            #[cfg(feature = "http")]
            http,
            #[cfg(feature = "console")]
            console,
            broker,
            namespace,
            events: self.events,
            publisher,
            progress,
            changed,
            consumers,
            banner,
            tasks,
            tails: services.tails,
            shutdown,
            deadline: config.shutdown_deadline,
        })
    }

    /// The copies of the broadcast groups, by the name of the group: one may take events of several streams.
    fn projections(&mut self, plan: &Plan) -> BTreeMap<&'static str, Arc<Projection>> {
        let mut keys: BTreeMap<&'static str, Vec<GroupKey>> = BTreeMap::new();
        for group in plan.groups.iter().filter(|group| group.delivery == Delivery::Broadcast) {
            let partitions = (0..group.key.partitions()).map(|index| group.key_at(index));
            keys.entry(group.group).or_default().extend(partitions);
        }
        let mut snapshots = std::mem::take(&mut self.snapshots);
        let of_group = |(group, keys): (&'static str, Vec<GroupKey>)| {
            let saving = snapshots.remove(group);
            let saving = saving.map(|(when, state)| Saving::new(group, self.effective_namespace(), when, state));
            (group, Arc::new(Projection::new(keys, saving)))
        };
        keys.into_iter().map(of_group).collect()
    }

    /// Starts, runs until `until` is ready or a group fails ([`Stopped::Failed`]), and stops.
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
        let stopper = running.stopper().clone();
        tokio::select! {
            () = until => {}
            () = stopper.stopping() => {}
        }
        Ok(running.shutdown().await)
    }
}

/// Says in every group what this build handles, before it publishes or contends: an older owner then leaves to it what only
/// it knows.
async fn announce(broker: &Arc<dyn Broker>, plan: &Plan) -> Result<(), BrokerError> {
    let mut asked = JoinSet::new();
    // A broadcast group leaves events to nobody.
    for group in plan.groups.iter().filter(|group| group.delivery != Delivery::Broadcast) {
        for partition in 0..group.key.partitions() {
            if asked.len() >= ANNOUNCED_AT_ONCE
                && let Some(announced) = asked.join_next().await
            {
                announced.unwrap_or(Ok(()))?;
            }
            let (broker, key) = (Arc::clone(broker), group.key_at(partition));
            let (start, build) = (group.options.start, Arc::clone(&group.build));
            asked.spawn(async move { group::announce(&*broker, &key, start, &build).await });
        }
    }
    while let Some(announced) = asked.join_next().await {
        announced.unwrap_or(Ok(()))?;
    }
    Ok(())
}

/// Drives a group. A panic of our own must not look like a group that is well.
async fn supervise(progress: Arc<Progress>, life: Life, vitals: Arc<Vitals>, resources: Arc<Resources>) {
    let driven = AbortOnDropHandle::new(tokio::spawn(life));
    if let Err(error) = driven.await
        && error.is_panic()
    {
        let reason = Halt::Panicked.of(&progress.key);
        reason.log();
        progress.enter(Phase::Halted(reason.for_status()));
        vitals.crashed(&progress.key.to_string());
    }
    // The last group drops what the app was given as state.
    discard(resources);
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
        0 => "publishing only".to_owned(),
        1 => "1 group".to_owned(),
        many => format!("{many} groups"),
    };
    std::iter::once(format!("streams on {}, {groups}:", broker.describe())).chain(consumers).collect()
}

/// The events that a group reads, for the notes of its stream.
fn read_by(group: &GroupPlan) -> Reading<'_> {
    let reads = group.consumers.iter().map(|(consumer, _)| consumer.info.event).collect();
    Reading { stream: group.stream, key: &group.key, group: group.group, reads }
}

/// The handlers of a group, for the console.
#[cfg(feature = "console")]
fn handlers_of(
    group: &GroupPlan,
    calls: &[Arc<Calls>],
    config: &Config,
    environment: ConsumerOptions,
) -> Vec<Registered> {
    let handler = |((consumer, policy), calls): (&(Registration, Policy), &Arc<Calls>)| {
        let info = consumer.info;
        Registered {
            stream: group.stream,
            group: group.group,
            name: info.name,
            event: format!("{}@{}", info.event.name, info.event.version),
            doc: info.doc,
            place: format!("{}:{}", info.file, info.line),
            settings: settings(group, info, policy, config, environment),
            calls: Arc::clone(calls),
        }
    };
    group.consumers.iter().zip(calls).map(handler).collect()
}

/// The console below `/console`, which may act where the environment holds a token.
#[cfg(feature = "console")]
fn beside(environment: &Environment, console: Console, address: SocketAddr) -> http::Beside {
    let console = console.local(address.ip().is_loopback());
    let router = match &environment.console_token {
        Some(token) => console.token(&token.0).router(),
        None => console.router(),
    };
    tracing::info!(%address, acts = environment.console_token.is_some(), "answering /console/");
    http::Beside::new(axum::Router::new().nest_service("/console", router))
}
