//! The looks at the server, shared by all who watch: each is kept for a hundred times as long as it took.
//!
//! So an open console costs the server at most one hundredth of its time, and nothing while nobody looks.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::broker::BrokerError;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::clock::after;
use crate::operate::{Inspector, Overview, StreamView};
use crate::sync::lock;

/// For how long a look is kept at least.
const LEAST: Duration = Duration::from_secs(2);
/// For how many times as long as it took.
const TIMES: u32 = 100;
/// The most streams of which a look is kept; with more all are forgotten.
const STREAMS: usize = 64;

/// The looks that are kept.
pub(super) struct Collector {
    inspector: Inspector,
    overview: Memo<Overview>,
    streams: Mutex<HashMap<String, Arc<Memo<StreamView>>>>,
    forgotten: watch::Sender<()>,
}

impl Collector {
    pub(super) fn new(inspector: Inspector) -> Self {
        Self { inspector, overview: Memo::default(), streams: Mutex::default(), forgotten: watch::Sender::default() }
    }

    /// Every stream, and until when this look is kept.
    pub(super) async fn overview(&self) -> Result<Look<Overview>, BrokerError> {
        self.overview.get(|| self.inspector.overview()).await
    }

    pub(super) async fn stream(&self, name: &str) -> Result<Arc<StreamView>, BrokerError> {
        let memo = {
            let mut streams = lock(&self.streams);
            if streams.len() >= STREAMS && !streams.contains_key(name) {
                streams.clear();
            }
            Arc::clone(streams.entry(name.to_owned()).or_default())
        };
        Ok(memo.get(|| self.inspector.stream(name)).await?.view)
    }

    /// Has the next look be a new one, and all who watch take it now: after an act.
    pub(super) fn forget(&self) {
        lock(&self.streams).clear();
        *lock(&self.overview.kept) = None;
        self.forgotten.send_replace(());
    }

    /// Changes each time that looks are forgotten.
    pub(super) fn forgotten(&self) -> watch::Receiver<()> {
        self.forgotten.subscribe()
    }

    pub(super) fn inspector(&self) -> &Inspector {
        &self.inspector
    }
}

/// A look, and until when it is kept.
pub(super) struct Look<T> {
    pub(super) view: Arc<T>,
    pub(super) until: Instant,
}

impl<T> Clone for Look<T> {
    fn clone(&self) -> Self {
        Self { view: Arc::clone(&self.view), until: self.until }
    }
}

/// One thing that is looked at, by one at a time.
struct Memo<T> {
    turn: Semaphore,
    kept: Mutex<Option<Look<T>>>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), kept: Mutex::new(None) }
    }
}

impl<T> Memo<T> {
    /// The look that is kept, or else a new one.
    async fn get<F: Future<Output = Result<T, BrokerError>>>(
        &self,
        look: impl FnOnce() -> F,
    ) -> Result<Look<T>, BrokerError> {
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        let began = Instant::now();
        if let Some(kept) = lock(&self.kept).as_ref().filter(|kept| began < kept.until) {
            return Ok(kept.clone());
        }
        let view = Arc::new(look().await?);
        let kept_for = LEAST.max(began.elapsed().saturating_mul(TIMES));
        let look = Look { view, until: after(Instant::now(), kept_for) };
        *lock(&self.kept) = Some(look.clone());
        Ok(look)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_is_shared_and_kept_a_hundred_times_as_long_as_it_took() {
        let (memo, looks) = (Memo::default(), AtomicU32::new(0));
        let look = async || {
            let look = async || {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(looks.fetch_add(1, Ordering::Relaxed))
            };
            *memo.get(look).await.unwrap().view
        };
        let many = futures_util::future::join_all((0..20).map(|_| look())).await;
        assert_eq!(many, [0; 20]);
        tokio::time::advance(Duration::from_millis(9_900)).await;
        assert_eq!(look().await, 0);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert_eq!(look().await, 1);
        *lock(&memo.kept) = None;
        assert_eq!(look().await, 2);
    }
}
