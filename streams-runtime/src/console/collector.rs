//! The looks at the server, shared by all who watch: each is kept for a hundred times as long as it took.
//!
//! So an open console costs the server at most one hundredth of its time, and nothing while nobody looks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use streams_core::broker::BrokerError;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::clock::{after, millis};
use crate::operate::{Inspector, Overview, StreamView};
use crate::sync::lock;

/// For how long a look is kept at least.
const LEAST: Duration = Duration::from_secs(2);
/// For how many times as long as it took.
const TIMES: u32 = 100;
/// The most streams of which a look is kept; with more all are forgotten.
const STREAMS: usize = 64;
/// How many figures of a stream or group are kept for charts: five minutes of looks at two seconds each, and longer where looks
/// are rarer.
const SAMPLES: usize = 150;
/// The most streams and groups with a history. With 32 bytes per sample they take some 10 MB.
const SERIES: usize = 2_000;

/// The looks that are kept.
pub(super) struct Collector {
    inspector: Inspector,
    overview: Memo<Overview>,
    streams: Mutex<HashMap<String, Arc<Memo<StreamView>>>>,
    history: Mutex<History>,
    forgotten: watch::Sender<()>,
}

impl Collector {
    pub(super) fn new(inspector: Inspector) -> Self {
        let (overview, forgotten) = (Memo::default(), watch::Sender::default());
        Self { inspector, overview, streams: Mutex::default(), history: Mutex::default(), forgotten }
    }

    /// Every stream, and until when this look is kept.
    pub(super) async fn overview(&self) -> Result<Look<Overview>, BrokerError> {
        let look = async || {
            let overview = self.inspector.overview().await?;
            lock(&self.history).add(&overview);
            Ok(overview)
        };
        self.overview.get(look).await
    }

    /// The figures of the last looks, by stream, and by stream and group with a line break between.
    pub(super) fn history(&self) -> BTreeMap<String, Vec<Sample>> {
        let history = lock(&self.history);
        history.series.iter().map(|(name, samples)| (name.clone(), samples.iter().copied().collect())).collect()
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

/// When it was looked, and two figures: of a stream how many entries were ever added, of a group its lag and how many it has
/// settled.
pub(super) type Sample = (u64, Option<u64>, Option<u64>);

/// The figures of the last looks, for charts that begin before their page was opened. Nothing is looked at for it alone.
#[derive(Default)]
struct History {
    series: BTreeMap<String, VecDeque<Sample>>,
}

impl History {
    fn add(&mut self, overview: &Overview) {
        let at = overview.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
        for stream in &overview.streams {
            let added = stream.added();
            self.keep(stream.name.clone(), (at, Some(added), None));
            for group in &stream.groups {
                let lag = group.lag();
                let done = lag.map(|lag| added.saturating_sub(lag));
                self.keep(format!("{}\n{}", stream.name, group.name), (at, lag, done));
            }
        }
        // Those that are gone, and a clock that was set back.
        self.series.retain(|_, samples| samples.back().is_some_and(|last| last.0 == at));
    }

    fn keep(&mut self, name: String, sample: Sample) {
        if self.series.len() >= SERIES && !self.series.contains_key(&name) {
            return;
        }
        let samples = self.series.entry(name).or_default();
        if samples.len() >= SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
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
    use streams_core::EntryId;

    use super::*;
    use crate::operate::PartitionView;

    #[test]
    fn the_history_has_the_last_looks_of_what_is_still_there() {
        let stream = |name: &str, added| StreamView {
            name: name.to_owned(),
            partitions: vec![PartitionView {
                index: 0,
                key: name.to_owned(),
                length: added,
                added,
                first: None,
                last: EntryId::ZERO,
                bytes: None,
            }],
            groups: Vec::new(),
            refused: None,
        };
        let mut history = History::default();
        for n in 0..SAMPLES as u64 + 5 {
            let streams = if n < 3 { vec![stream("a", n), stream("gone", n)] } else { vec![stream("a", n)] };
            history.add(&Overview { at: SystemTime::UNIX_EPOCH + Duration::from_millis(n), streams });
        }
        assert_eq!(history.series.keys().collect::<Vec<_>>(), ["a"]);
        let samples = &history.series["a"];
        assert_eq!((samples.len(), samples[0], samples[SAMPLES - 1].1), (SAMPLES, (5, Some(5), None), Some(154)));
        for n in 0..SERIES + 5 {
            history.keep(format!("s{n}"), (0, None, None));
        }
        assert_eq!(history.series.len(), SERIES);
    }

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
