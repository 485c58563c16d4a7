//! Retention where nobody publishes: an owner trims what may go, now and then, and at once when the server is full.
//!
//! A publish trims by the way ([`Publisher`](super::Publisher)), but a full server refuses it first, and a quiet stream sees
//! none. Only a retention that events of this program declare is enforced here: another program's may be longer than what is
//! assumed where nothing is said.

use std::sync::Arc;
use std::time::Duration;

use streams_core::Retention;
use streams_core::broker::{Broker, BrokerErrorKind};
use streams_core::keys::PartitionKey;

use super::retention::Floor;
use crate::clock::Clock;
use crate::ops::{Outages, Progress, Vitals};

/// How often an owner trims: nothing to a server, and nobody is harmed by what stays for a minute longer.
const EVERY: Duration = Duration::from_secs(60);
/// The least time between two rounds, however often the server says that it is full.
const PAUSE: Duration = Duration::from_secs(1);

/// A partition that groups of this process may own.
pub(crate) struct Swept {
    partition: PartitionKey,
    floor: Floor,
    groups: Vec<Arc<Progress>>,
    /// The server refuses it, and the log says so.
    refused: bool,
}

impl Swept {
    pub(crate) fn new(
        partition: PartitionKey,
        retention: Retention,
        expire_after: Duration,
        groups: Vec<Arc<Progress>>,
    ) -> Self {
        Self { partition, floor: Floor::new(retention, expire_after), groups, refused: false }
    }

    async fn sweep(&mut self, broker: &dyn Broker, clock: &Clock) {
        match self.floor.trim(broker, &self.partition, clock).await {
            Ok(0) => {}
            Ok(trimmed) => tracing::debug!(partition = self.partition.as_str(), trimmed, "old entries trimmed"),
            Err(error) if error.kind() == BrokerErrorKind::Refused => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(partition = self.partition.as_str(), %error, "old entries cannot be trimmed where nobody publishes: give the user the rights that `broker::Acl` prints now");
                }
            }
            // Callers that need the server for more log its errors, and the next round comes.
            Err(error) => tracing::debug!(partition = self.partition.as_str(), %error, "trimming failed"),
        }
    }
}

/// Trims for as long as the app lives.
pub(crate) async fn sweep(
    broker: Arc<dyn Broker>,
    clock: Clock,
    outages: Outages,
    vitals: Arc<Vitals>,
    mut swept: Vec<Swept>,
) {
    let _sign = vitals.alive("the trimming of old entries");
    if swept.is_empty() {
        return;
    }
    let mut round = tokio::time::interval(EVERY);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = round.tick() => {}
            () = outages.full() => {}
        }
        for swept in &mut swept {
            if swept.groups.iter().any(|group| group.is_owner()) {
                swept.sweep(&*broker, &clock).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
