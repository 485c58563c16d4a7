//! The declaration of a build in the state of a group: the events that it handles, and those that it ignores for good.

use streams_core::Start;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Change, Created, Events, GroupState};
use streams_core::keys::GroupKey;

use super::task::GroupTask;
use crate::membership::Build;

/// Declares the events of this build in the group's state, which is made where it is new.
///
/// # Errors
/// When the broker cannot be asked. A refusal is left to the group, which runs into the same and logs it.
pub(crate) async fn announce(
    broker: &dyn Broker,
    key: &GroupKey,
    start: Start,
    build: &Build,
) -> Result<(), BrokerError> {
    let announced = async {
        // A state that comes and goes meanwhile is left to the group.
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

/// Declares the events of this build that the state does not have. Usually that is a read alone.
async fn declare(broker: &dyn Broker, key: &GroupKey, state: &GroupState, build: &Build) -> Result<(), BrokerError> {
    let declares = build.undeclared(&state.events);
    if !declares.is_empty() {
        broker.declare_events(key, &Change { declares, ..Change::default() }).await?;
    }
    Ok(())
}

impl GroupTask {
    /// Declares the events of this build before it contends, also where another build has withdrawn them.
    pub(crate) async fn declare(&self, state: &GroupState) -> Result<(), BrokerError> {
        declare(&*self.services.broker, &self.key, state, &self.handlers.build).await
    }

    /// Withdraws the events that the group ignores for good, so that no owner waits for a build that handles them.
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
            // Nothing depends on this: the next owner that ignores them tries it again.
            Err(error) => tracing::debug!(group, partition, events, %error, "ignored, but still declared"),
        }
    }
}
