//! The view on a running app: status, metrics, whether it lives, and how far its groups lag.
//!
//! [`http`](super::http) serves what stands here. Nothing here waits for the broker: who asks whether a program lives must
//! not have to wait for a server that does not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use streams_core::broker::Broker;
use streams_core::keys::PartitionKey;

use super::health::{GroupHealth, Health};
use super::metrics::LOOK;
use super::outage::Outages;
use super::status::{Progress, Status, Tip, extent};
use super::vitals::Vitals;
use crate::clock::{Clock, millis};
use crate::sync::lock;

/// How many leases the renewals may stand still before the app counts as dead, and how long at least. Leases are long lost
/// then, and a machine that is only slow must not be restarted.
const STILL_LEASES: u32 = 3;
const STILL_MIN: Duration = Duration::from_secs(30);

/// Health and metrics of an app, for a service's own endpoints. It is cheap to clone.
///
/// Get it from [`Running::monitor`](crate::Running::monitor). It asks the broker nothing and keeps nothing running.
///
/// ```no_run
/// # async fn example() -> Result<(), streams_runtime::Error> {
/// let running = streams_runtime::App::linked().start().await?;
/// let monitor = running.monitor().clone();
/// // In the route of a service's own readiness probe:
/// let health = monitor.health();
/// let status = if health.ready { 200 } else { 503 };
/// println!("{status} {health}");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Monitor {
    inner: Arc<Watched>,
}

pub(crate) struct Watched {
    pub(crate) groups: Vec<Arc<Progress>>,
    /// Each partition once, with where it was last seen to end.
    pub(crate) tips: BTreeMap<PartitionKey, Arc<Tip>>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) outages: Outages,
    pub(crate) clock: Clock,
    pub(crate) lease_for: Duration,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("groups", &self.inner.groups.len()).finish_non_exhaustive()
    }
}

impl Monitor {
    pub(crate) fn new(inner: Watched) -> Self {
        // The first beat is that of the start, from which the renewals are given their time.
        inner.vitals.beat(&inner.clock);
        Self { inner: Arc::new(inner) }
    }

    /// The status of every group.
    pub fn status(&self) -> Status {
        self.inner.vitals.ask(&self.inner.clock);
        let groups = self.inner.groups.iter().map(|progress| progress.snapshot()).collect();
        Status { trouble: self.inner.outages.trouble(), groups }
    }

    /// Every metric of the app in the text format of Prometheus; [`metrics`](crate::metrics) says which there are.
    pub fn metrics(&self) -> String {
        self.inner.vitals.ask(&self.inner.clock);
        self.inner.groups.iter().for_each(|progress| progress.gauge());
        self.inner.vitals.registry.render()
    }

    /// Whether the app lives and is ready: what probes ask. A group that stands by while another process owns its partition
    /// is ready. [`Health::of`] limits the answer to some groups, as `/readyz?groups=` does.
    pub fn health(&self) -> Health {
        let (stopped, trouble) = (self.stopped(), self.inner.outages.trouble());
        let groups = self.inner.groups.iter().map(|progress| GroupHealth {
            partition: progress.key.partition().as_str().to_owned(),
            group: progress.group,
            phase: progress.phase(),
        });
        let groups: Vec<_> = groups.collect();
        let ready = trouble.is_none() && groups.iter().all(GroupHealth::is_ready);
        Health { live: stopped.is_none(), ready, stopped, trouble, groups }
    }

    /// Which of the app's own tasks does its work no more.
    fn stopped(&self) -> Option<String> {
        let vitals = &self.inner.vitals;
        let crashed = lock(&vitals.crashed).clone();
        crashed.or_else(|| {
            let still = self.inner.clock.millis().saturating_sub(vitals.beat.load(Ordering::Relaxed));
            (still > millis((self.inner.lease_for * STILL_LEASES).max(STILL_MIN)))
                .then(|| format!("no lease was renewed for {still} ms: the renewals stand still, or the app has ended"))
        })
    }

    /// Looks at the end of every partition that a group here owns or has paused, as long as somebody wants to know.
    pub(crate) async fn look(self, broker: Arc<dyn Broker>) {
        let Watched { groups, tips, vitals, clock, .. } = &*self.inner;
        let _sign = vitals.alive("the look at the lag");
        loop {
            if !vitals.is_asked(clock) {
                vitals.asked.notified().await;
                continue;
            }
            let owned = groups.iter().filter(|progress| progress.tells_lag());
            let owned: BTreeMap<_, _> = owned.map(|progress| (progress.key.partition(), &progress.key)).collect();
            for (partition, tip) in tips {
                // A figure that can no longer be known is left out.
                let owned = owned.get(partition);
                let look = async { extent(&*broker, owned?).await.ok().flatten() };
                tip.set(look.await);
            }
            if cfg!(feature = "metrics") {
                groups.iter().for_each(|progress| progress.gauge());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vitals::INTEREST;
    use super::*;

    fn monitor() -> Monitor {
        let (clock, vitals) = (Clock::new(), Arc::default());
        let lease_for = Duration::from_secs(20);
        let outages = Outages::default();
        Monitor::new(Watched { groups: Vec::new(), tips: BTreeMap::new(), vitals, outages, clock, lease_for })
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panicked_is_named_and_one_that_ended_is_not() {
        let monitor = monitor();
        let live = |what: &'static str, ends: fn()| {
            let sign = monitor.inner.vitals.alive(what);
            tokio::spawn(async move {
                let _sign = sign;
                ends();
            })
        };
        live("the first", || {}).await.unwrap();
        assert_eq!(monitor.stopped(), None);
        assert!(live("the second", || panic!("a test of what happens then")).await.is_err());
        let said = monitor.health().stopped.unwrap_or_default();
        assert!(said.contains("the second panicked"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_have_three_leases_time() {
        let monitor = monitor();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(monitor.stopped(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!monitor.health().live);
        monitor.inner.vitals.beat(&monitor.inner.clock);
        assert_eq!(monitor.stopped(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_looked_at_that_nobody_asks_for() {
        let monitor = monitor();
        let asked = || monitor.inner.vitals.is_asked(&monitor.inner.clock);
        // A recorder of the facade cannot be seen to ask.
        let always = cfg!(feature = "metrics");
        assert_eq!(asked(), always);
        drop(monitor.status());
        assert!(asked());
        tokio::time::advance(INTEREST).await;
        assert_eq!(asked(), always);
        drop(monitor.metrics());
        assert!(asked());
    }
}
