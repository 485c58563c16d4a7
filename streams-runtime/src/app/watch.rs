//! The look at the server of an app that drives no group: nobody else asks for anything while nothing is published.
//!
//! Without it a probe would go by the last publish. After an outage the probe would keep those away who could publish next.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::Broker;
use tokio::time::{Instant, MissedTickBehavior};

use crate::ops::{Matter, Outages, Vitals};

/// How often the server is asked for its time: as often as a member of a group shows that it lives.
const EVERY: Duration = Duration::from_secs(1);

/// Asks for as long as the app lives.
pub(super) async fn watch(broker: Arc<dyn Broker>, outages: Outages, vitals: Arc<Vitals>) {
    let _sign = vitals.alive("the look at the server");
    let contact = outages.contact("the app");
    let mut round = tokio::time::interval(EVERY);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        match contact.patiently(Matter::Read, Instant::now(), broker.now()).await {
            Err(error) if error.is_retryable() => contact.failed(Matter::Read, &error),
            // A server that refuses to say is there.
            _ => contact.succeeded(Matter::Read),
        }
    }
}
