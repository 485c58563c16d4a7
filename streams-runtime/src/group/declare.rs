//! The declaration of a build in the state of a group: the events that it handles, and those that it ignores for good.

use streams_core::Start;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Change, Created, Events, GroupState};
use streams_core::keys::GroupKey;

use super::task::GroupTask;
use crate::membership::Build;

/// Declares the events of this build in the group's state, which is made where it is new.
///
/// # Errors
/// When the broker cannot be asked. What it refuses is left to the group, which runs into the same and says so.
pub(crate) async fn announce(
    broker: &dyn Broker,
    key: &GroupKey,
    start: Start,
    build: &Build,
) -> Result<(), BrokerError> {
    let announced = async {
        // A state that comes and goes meanwhile is for the group to judge.
        for _ in 0..3 {
            match broker.state(key).await? {
                Some(state) => return declare(broker, key, &state, build).await,
                None if broker.create(key, start).await? == Created::Foreign => break,
                None => {}
            }
        }
        Ok(())
    };
    match announced.await {
        Err(error) if matches!(error.kind(), BrokerErrorKind::Unavailable | BrokerErrorKind::Indefinite) => Err(error),
        Err(error) => {
            tracing::debug!(group = key.group(), partition = key.partition().as_str(), %error, "its events could not be declared at the start");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Declares what this build handles where the state does not say so: only reading, in the usual case.
async fn declare(broker: &dyn Broker, key: &GroupKey, state: &GroupState, build: &Build) -> Result<(), BrokerError> {
    let declares = build.undeclared(&state.events);
    if !declares.is_empty() {
        broker.declare_events(key, &Change { declares, ..Change::default() }).await?;
    }
    Ok(())
}

impl GroupTask {
    /// Before it contends: what this build handles stands in the state, also when another one has withdrawn it.
    pub(crate) async fn declare(&self, state: &GroupState) -> Result<(), BrokerError> {
        declare(&*self.services.broker, &self.key, state, &self.handlers.build).await
    }

    /// After it has become the owner: what the group passes over for good is no longer waited for.
    pub(crate) async fn withdraw(&self, declared: &Events) {
        let forgets = self.handlers.build.withdrawn(declared);
        if forgets.is_empty() {
            return;
        }
        let events = forgets.join(", ");
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        match self.services.broker.declare_events(&self.key, &Change { forgets, ..Change::default() }).await {
            Ok(_) => {
                tracing::info!(group, partition, events, "ignored from now on: no build is waited for to handle them")
            }
            // Nothing depends on it: the next owner that ignores them tries it again.
            Err(error) => tracing::debug!(group, partition, events, %error, "ignored, but still declared"),
        }
    }
}
