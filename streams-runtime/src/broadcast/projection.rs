//! The copy of a group in one process: up to where each partition is in it, and how it is saved and loaded.

use std::sync::Arc;

use streams_core::broker::{Broker, BrokerError};
use streams_core::keys::GroupKey;
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard};

use super::place::{Place, Places};
use super::snapshots::Saving;
use crate::fence::unwound;

/// The right to handle an entry, where the copy is saved at times: no handler runs while it is.
pub(super) type Turn = Option<OwnedMutexGuard<Places>>;

/// The copy of a group in this process, fed from all its partitions, and from all streams that have a group of its name.
pub(crate) struct Projection {
    keys: Vec<GroupKey>,
    saving: Option<Saving>,
    places: Arc<Mutex<Places>>,
    loaded: OnceCell<()>,
}

impl Projection {
    pub(crate) fn new(keys: Vec<GroupKey>, saving: Option<Saving>) -> Self {
        Self { keys, saving, places: Arc::default(), loaded: OnceCell::new() }
    }

    pub(crate) fn is_saved(&self) -> bool {
        self.saving.is_some()
    }

    /// Waits until nothing else changes or saves the copy. A copy that nobody saves needs no turns.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub(super) async fn turn(&self) -> Turn {
        match self.saving {
            Some(_) => Some(Arc::clone(&self.places).lock_owned().await),
            None => None,
        }
    }

    /// Where the copy of a partition begins, if a snapshot says so. The first call loads the snapshot.
    ///
    /// # Errors
    /// When the store cannot be read now.
    pub(super) async fn place(&self, broker: &dyn Broker, group: &GroupKey) -> Result<Option<Place>, BrokerError> {
        let Some(saving) = &self.saving else { return Ok(None) };
        let load = || async {
            let places = saving.load(broker, &self.keys).await?;
            *self.places.lock().await = places;
            Ok(())
        };
        self.loaded.get_or_try_init(load).await?;
        Ok(self.places.lock().await.get(group.partition().as_str()).cloned())
    }

    /// Saves the copy whenever a snapshot is due and the copy is whole, until the app stops.
    pub(crate) async fn save_at_times(self: Arc<Self>, broker: Arc<dyn Broker>, is_whole: impl Fn() -> bool) {
        let Some(saving) = &self.saving else { return };
        let mut failed = false;
        loop {
            tokio::time::sleep(saving.look()).await;
            if !is_whole() {
                continue;
            }
            match self.save(&broker).await {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    failed = false;
                    tracing::debug!(group = saving.group(), bytes, "snapshot saved");
                }
                Err(reason) if !std::mem::replace(&mut failed, true) => {
                    tracing::warn!(group = saving.group(), reason, "no snapshot was saved; trying again");
                }
                Err(reason) => tracing::debug!(group = saving.group(), reason, "no snapshot was saved"),
            }
        }
    }

    /// Saves the copy, if it is due here. Returns how many bytes it has.
    async fn save(self: &Arc<Self>, broker: &Arc<dyn Broker>) -> Result<Option<usize>, String> {
        let Some(saving) = &self.saving else { return Ok(None) };
        let Some(claim) = saving.claim(&**broker).await? else { return Ok(None) };
        let (this, places) = (Arc::clone(self), Arc::clone(&self.places).lock_owned().await);
        // A large state takes long, and its turn is kept until it is copied.
        let packed = tokio::task::spawn_blocking(move || match &this.saving {
            Some(saving) => unwound(|| saving.pack(&places)).unwrap_or_else(Err),
            None => Err("there is nothing to save".to_owned()),
        });
        let packed = packed.await.map_err(|error| error.to_string())??;
        let bytes = packed.len();
        saving.store(&**broker, packed, claim).await?;
        Ok(Some(bytes))
    }
}
