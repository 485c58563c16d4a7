//! Entries that no group reads, in keys beside the partitions of a stream: looked for now and then, and logged.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use streams_core::broker::Broker;
use streams_core::keys::StreamKey;
use tokio::time::Instant;

use crate::clock::after;
use crate::sync::lock;

/// How often the notes are written again.
pub(super) const REFRESH: Duration = Duration::from_secs(3600);
/// How long the start of an app, or a first event, waits for the notes.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How often a stream is looked at, by its publishers and by who owns a partition: one command with a thousand keys.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// Results of the looks, by the stream's key.
#[derive(Debug, Default)]
pub(super) struct Strays {
    streams: Mutex<HashMap<String, Found>>,
}

#[derive(Debug, Default)]
struct Found {
    /// When it is looked at next.
    again: Option<Instant>,
    /// How many entries lie in all such keys.
    entries: u64,
    /// By key when it is logged again.
    logged: HashMap<String, Instant>,
    /// Whether the log says that nobody may look.
    refused: bool,
}

impl Strays {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Found>> {
        lock(&self.streams)
    }

    /// Looks, unless somebody has within [`LOOK`]; answers how many entries were found last.
    pub(super) async fn look(&self, broker: &dyn Broker, stream: &StreamKey) -> u64 {
        let (now, base) = (Instant::now(), stream.base());
        {
            let mut streams = self.lock();
            let found = streams.entry(base.to_owned()).or_default();
            if found.again.is_some_and(|again| now < again) {
                return found.entries;
            }
            found.again = Some(after(now, LOOK));
        }
        let looked = tokio::time::timeout(PATIENCE, broker.strays(stream)).await;
        let mut streams = self.lock();
        let found = streams.entry(base.to_owned()).or_default();
        let strays = match looked {
            Ok(Ok(strays)) => strays,
            Ok(Err(error)) if !error.is_retryable() => {
                // The server writes down each command that it refuses.
                found.again = Some(after(now, REFRESH));
                if !std::mem::replace(&mut found.refused, true) {
                    tracing::warn!(stream = base, %error, "entries that no group reads cannot be looked for");
                }
                return found.entries;
            }
            Ok(Err(_)) | Err(_) => return found.entries,
        };
        found.entries = strays.iter().map(|(_, entries)| entries).sum();
        found.logged.retain(|logged, _| strays.iter().any(|(key, _)| key.as_str() == logged));
        for (key, entries) in strays {
            if found.logged.get(key.as_str()).is_some_and(|again| now < *again) {
                continue;
            }
            found.logged.insert(key.as_str().to_owned(), after(now, REFRESH));
            tracing::warn!(
                stream = base,
                partitions = stream.partitions(),
                key = key.as_str(),
                entries,
                "entries that no group reads: a producer chooses the key by another number of partitions than is recorded at {}; mend it, add these entries anew by that number, and delete the key",
                stream.properties()
            );
        }
        found.entries
    }
}
