//! Snapshots of a copy: its state and where it stands in each partition, saved at times by one process, loaded by the next start.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use streams_core::BoxError;
use streams_core::broker::{Broker, BrokerError};
use streams_core::codec;
use streams_core::keys::{GroupKey, SnapshotKey};

use super::place::Places;

/// The first bytes of every snapshot; the last one is the version of its layout.
const MAGIC: &[u8; 8] = b"strsnap\x01";

/// Why a state behind a lock is not saved: it may be half changed.
const POISONED: &str = "a handler panicked while it held the lock of the state";

/// The shortest time between two snapshots: each is written whole.
const LEAST_EVERY: Duration = Duration::from_millis(100);

/// When and where the state of a `delivery = "broadcast"` group is saved, so that the next start need not read everything
/// again. A stream whose retention is shorter than the state needs it.
///
/// One process of the group at a time saves: whichever first finds that the last snapshot is older than `every`. Handlers
/// of the group run one at a time in a process that has snapshots, and none runs while the state is copied into bytes. So
/// state and position belong together.
///
/// A start loads the last snapshot and reads on from there. It discards the snapshot, and begins where `start` says, if
/// the state cannot be read, has another [`version`](Self::version), or comes from a history that the server does not
/// have any more. The log says so.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, RwLock};
/// use std::time::Duration;
///
/// use streams_runtime::{App, Snapshots, State, consumer, consumers, stream_event};
///
/// #[stream_event(stream = "trades", key = symbol)]
/// struct Trade { symbol: String, price: f64 }
///
/// type Prices = Arc<RwLock<HashMap<String, f64>>>;
///
/// /// Keeps the last price of each symbol.
/// #[consumer(group = "prices", delivery = "broadcast")]
/// async fn keep(trade: Trade, State(prices): State<Prices>) {
///     prices.write().unwrap().insert(trade.symbol, trade.price);
/// }
///
/// let prices = Prices::default();
/// let app = App::with(consumers![keep])
///     .state(prices.clone())
///     .snapshots("prices", Snapshots::every(Duration::from_secs(60)), prices);
/// ```
#[derive(Debug, Clone)]
#[must_use = "give it to `App::snapshots`"]
pub struct Snapshots {
    every: Duration,
    version: u32,
    max_bytes: usize,
    file: Option<PathBuf>,
}

/// A state that a snapshot can hold. It is implemented for `serde` types behind `Arc<Mutex<_>>` and `Arc<RwLock<_>>` of the
/// standard library.
pub trait SnapshotState: Send + Sync + 'static {
    /// The state as bytes. No handler of the group runs in this process meanwhile.
    ///
    /// # Errors
    /// When it cannot be written; the log says so, and the next attempt comes after `every`.
    fn save(&self) -> Result<Vec<u8>, BoxError>;

    /// Takes the place of the present state.
    ///
    /// # Errors
    /// When the bytes are of another shape. MUST leave the state as it was then.
    fn load(&self, saved: &[u8]) -> Result<(), BoxError>;
}

impl<T: Serialize + DeserializeOwned + Send + 'static> SnapshotState for Arc<Mutex<T>> {
    fn save(&self) -> Result<Vec<u8>, BoxError> {
        codec::pack(&*self.lock().map_err(|_| POISONED)?)
    }

    fn load(&self, saved: &[u8]) -> Result<(), BoxError> {
        *self.lock().map_err(|_| POISONED)? = codec::unpack(saved)?;
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> SnapshotState for Arc<RwLock<T>> {
    fn save(&self) -> Result<Vec<u8>, BoxError> {
        codec::pack(&*self.read().map_err(|_| POISONED)?)
    }

    fn load(&self, saved: &[u8]) -> Result<(), BoxError> {
        *self.write().map_err(|_| POISONED)? = codec::unpack(saved)?;
        Ok(())
    }
}

impl Snapshots {
    /// The most bytes of a snapshot unless [`max_bytes`](Self::max_bytes) says otherwise: a value of Redis is written and
    /// read in one step, and 64 MiB take it some 50 ms.
    pub const MAX_BYTES: usize = 64 * 1024 * 1024;

    /// A snapshot in Redis each time that the last one is so old, at least 100 ms.
    pub fn every(every: Duration) -> Self {
        Self { every: every.max(LEAST_EVERY), version: 1, max_bytes: Self::MAX_BYTES, file: None }
    }

    /// The version of the state's meaning, 1 unless said. A snapshot of another version is discarded. Raise it where the old
    /// state could be read, but would be wrong.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The most bytes of the state, [`MAX_BYTES`](Self::MAX_BYTES) unless said. A larger state is not saved, and the log says
    /// so. Redis takes no more than 512 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Saves to this file instead of Redis. The processes of one machine may share it: one at a time writes, beside it first,
    /// and then puts the new file in its place. A `.lock` file lies next to it.
    pub fn in_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }
}

/// The part of a snapshot before the state.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    places: Places,
}

/// The snapshots of one group, and its state.
pub(crate) struct Saving {
    group: String,
    options: Snapshots,
    state: Arc<dyn SnapshotState>,
    key: SnapshotKey,
}

/// The right to save, until it is dropped.
#[must_use]
pub(super) struct Claim {
    _lock: Option<File>,
}

impl Saving {
    pub(crate) fn new(group: &str, namespace: Option<&str>, options: Snapshots, state: Arc<dyn SnapshotState>) -> Self {
        Self { group: group.to_owned(), options, state, key: SnapshotKey::new(namespace, group) }
    }

    /// How often to look whether a snapshot is due.
    pub(super) fn look(&self) -> Duration {
        (self.options.every / 4).clamp(LEAST_EVERY / 4, Duration::from_secs(30))
    }

    /// Loads the last snapshot into the state, unless it has to be discarded. Answers up to where it is.
    pub(super) async fn load(&self, broker: &dyn Broker, keys: &[GroupKey]) -> Result<Places, BrokerError> {
        let discard = |reason: String| {
            tracing::warn!(group = self.group, reason, "snapshot discarded: beginning where `start` says");
            Ok(Places::new())
        };
        let saved = match &self.options.file {
            Some(path) => match in_background({
                let path = path.clone();
                move || std::fs::read(path)
            })
            .await
            {
                Ok(saved) => Some(saved),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return discard(format!("{}: {error}", path.display())),
            },
            None => broker.saved(&self.key).await?,
        };
        let Some(saved) = saved else { return Ok(Places::new()) };
        let Some((header, state)) = unpack(&saved) else {
            return discard("its beginning is not that of a snapshot".to_owned());
        };
        if header.version != self.options.version {
            return discard(format!("it has version {}, and this build {}", header.version, self.options.version));
        }
        for key in keys {
            let Some(place) = header.places.get(key.partition().as_str()) else { continue };
            let mut bookmark = place.bookmark();
            // The entry there, and one more that shows whether history goes on.
            let there = broker.snapshot(key, bookmark.position(), 2).await?;
            let complete = there.complete;
            if let Some(loss) = bookmark.judge(&there, complete).filter(|loss| !loss.kind.is_gap()) {
                return discard(format!("it is of another history of `{}`: {loss}", key.partition()));
            }
        }
        if let Err(error) = self.state.load(state) {
            return discard(format!("its state is of another shape: {error}"));
        }
        tracing::info!(group = self.group, bytes = saved.len(), "snapshot loaded");
        Ok(header.places)
    }

    /// Claims the right to save, where a snapshot is due and nobody else saves.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn claim(&self, broker: &dyn Broker) -> Result<Option<Claim>, String> {
        let every = self.options.every;
        match self.options.file.clone() {
            None => match broker.claim_save(&self.key, every).await {
                Ok(claimed) => Ok(claimed.then_some(Claim { _lock: None })),
                Err(error) => Err(error.to_string()),
            },
            Some(path) => {
                let claimed = in_background({
                    let path = path.clone();
                    move || claim_file(&path, every)
                });
                claimed.await.map_err(|error| format!("{}: {error}", path.display()))
            }
        }
    }

    /// The state as bytes, with the places that belong to it.
    pub(super) fn pack(&self, places: &Places) -> Result<Vec<u8>, String> {
        let header = codec::pack(&Header { version: self.options.version, places: places.clone() });
        let (header, state) = (header.map_err(|e| e.to_string())?, self.state.save().map_err(|e| e.to_string())?);
        if state.len() > self.options.max_bytes {
            return Err(format!(
                "the state has {} bytes, of at most {} (`max_bytes`)",
                state.len(),
                self.options.max_bytes
            ));
        }
        let length = u32::try_from(header.len()).map_err(|_| "too many partitions".to_owned())?;
        Ok([&MAGIC[..], &length.to_le_bytes(), &header, &state].concat())
    }

    /// Puts a snapshot in the place of the last one.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn store(&self, broker: &dyn Broker, snapshot: Vec<u8>, claim: Claim) -> Result<(), String> {
        match self.options.file.clone() {
            None => broker.save(&self.key, snapshot).await.map_err(|error| error.to_string()),
            Some(path) => {
                let stored = in_background({
                    let path = path.clone();
                    move || {
                        let beside = beside(&path, "new");
                        let mut file = File::create(&beside)?;
                        file.write_all(&snapshot)?;
                        file.sync_all()?;
                        std::fs::rename(beside, path)?;
                        drop(claim);
                        Ok(())
                    }
                });
                stored.await.map_err(|error| format!("{}: {error}", path.display()))
            }
        }
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }
}

/// Parts a snapshot; `None` if these bytes are none.
fn unpack(saved: &[u8]) -> Option<(Header, &[u8])> {
    let rest = saved.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (header, state) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((codec::unpack(header).ok()?, state))
}

/// A file's name with another ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn claim_file(path: &Path, every: Duration) -> io::Result<Option<Claim>> {
    let lock = File::create(beside(path, "lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let age = match std::fs::metadata(path) {
        Ok(metadata) => metadata.modified()?.elapsed().unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Duration::MAX,
        Err(error) => return Err(error),
    };
    Ok((age >= every).then_some(Claim { _lock: Some(lock) }))
}

/// Reads or writes files on a thread that may block.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::lock;

    fn saving(options: Snapshots, state: &Arc<Mutex<Vec<u64>>>) -> Saving {
        Saving::new("prices", None, options, Arc::new(Arc::clone(state)))
    }

    #[test]
    fn a_snapshot_has_its_places_and_its_state() {
        let state = Arc::new(Mutex::new(vec![1, 2, 3]));
        let saving = saving(Snapshots::every(Duration::from_secs(1)).version(7), &state);
        let packed = saving.pack(&Places::new()).unwrap();
        let (header, packed_state) = unpack(&packed).unwrap();
        assert_eq!((header.version, header.places), (7, Places::new()));
        lock(&state).clear();
        saving.state.load(packed_state).unwrap();
        assert_eq!(*lock(&state), [1, 2, 3]);
    }

    #[test]
    fn bytes_that_are_no_snapshot_are_none_however_they_are_cut() {
        let state = Arc::new(Mutex::new(vec![1, 2, 3]));
        let packed = saving(Snapshots::every(Duration::from_secs(1)), &state).pack(&Places::new()).unwrap();
        for length in 0..MAGIC.len() + 4 {
            assert!(unpack(&packed[..length]).is_none(), "{length}");
        }
        assert!(unpack(b"strsnap\x02").is_none());
        assert!(unpack(&[MAGIC, &u32::MAX.to_le_bytes()[..], &packed].concat()).is_none());
    }

    #[test]
    fn a_state_of_another_shape_stays_as_it_was() {
        let state = Arc::new(Mutex::new(vec![1, 2, 3]));
        let other = codec::pack(&"text").unwrap();
        assert!(state.load(&other).is_err());
        assert_eq!(*lock(&state), [1, 2, 3]);
    }

    #[test]
    fn a_state_that_is_too_large_is_not_saved_and_the_bound_is_named() {
        let state = Arc::new(Mutex::new(vec![0; 100]));
        let saving = saving(Snapshots::every(Duration::from_secs(1)).max_bytes(10), &state);
        let error = saving.pack(&Places::new()).unwrap_err();
        assert!(error.contains("of at most 10 (`max_bytes`)"), "{error}");
    }

    #[test]
    fn one_process_at_a_time_has_the_file_and_only_when_it_is_old_enough() {
        let path = std::env::temp_dir().join(format!("streams-snapshot-{}", std::process::id()));
        let first = claim_file(&path, Duration::ZERO).unwrap();
        assert!(first.is_some());
        assert!(claim_file(&path, Duration::ZERO).unwrap().is_none(), "another has it");
        drop(first);
        std::fs::write(&path, b"saved").unwrap();
        assert!(claim_file(&path, Duration::from_secs(3600)).unwrap().is_none(), "it is young");
        assert!(claim_file(&path, Duration::ZERO).unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(beside(&path, "lock")).unwrap();
    }
}
