//! Events that may have ended a process: which of them run alone, and which are given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use super::settle::times;

/// How an event may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Beside whatever runs.
    Beside,
    /// With nothing else of the partition, and with no other suspect of the process, in whatever group.
    Alone,
    /// Never again, for this reason.
    GivenUp(String),
}

/// How a suspect may run that `charged` crashes found charged.
///
/// The owner that was gone first may have had a suspect in flight or not, so that end is no crash of the suspect. Every event
/// that is charged when a process ends gets a crash, and only one is to blame. An event that has a crash already, or that has
/// only one to spare, runs alone, so that it does not get another by chance.
pub(crate) fn standing(charged: u32, max_crashes: u32) -> Standing {
    if charged >= max_crashes {
        return Standing::GivenUp(format!(
            "the process ended {}, or lost its lease, while handling this event, which is `max_crashes`; it was not run again",
            times(charged)
        ));
    }
    if charged + 1 >= max_crashes.min(2) { Standing::Alone } else { Standing::Beside }
}

/// The order in which the suspects of a process run, whatever their groups: beside each other, or one alone.
#[derive(Debug, Clone)]
pub(crate) struct SuspectLock {
    lock: Arc<RwLock<()>>,
    /// How many permits were given back.
    given_back: watch::Sender<u64>,
    /// The longest that a suspect may run.
    longest: Duration,
}

/// The right of one suspect to run, which ends when the permit is dropped.
#[derive(Debug)]
pub(crate) struct SuspectPermit {
    _held: Held,
    given_back: watch::Sender<u64>,
}

#[derive(Debug)]
enum Held {
    /// Other suspects may run at the same time.
    Beside { _lock: OwnedRwLockReadGuard<()> },
    /// No other suspect runs.
    Alone { _lock: OwnedRwLockWriteGuard<()> },
    /// A suspect ran for longer than any of them may, so this one did not wait for it any more.
    Unordered,
}

impl Drop for SuspectPermit {
    fn drop(&mut self) {
        self.given_back.send_modify(|given_back| *given_back += 1);
    }
}

impl SuspectLock {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { lock: Arc::default(), given_back: watch::Sender::new(0), longest }
    }

    /// Waits for a permit for as long as other suspects end one after the other.
    ///
    /// If none of them ends within the longest run, the wait ends too. One handler that does not yield must not hold up
    /// every group.
    ///
    /// # Cancel safety
    /// It only waits.
    pub(crate) async fn wait(self, alone: bool) -> SuspectPermit {
        let Self { lock, given_back, longest } = self;
        let mut ends = given_back.subscribe();
        let held = async {
            if alone {
                Held::Alone { _lock: lock.write_owned().await }
            } else {
                Held::Beside { _lock: lock.read_owned().await }
            }
        };
        tokio::pin!(held);
        let held = loop {
            tokio::select! {
                biased;
                held = &mut held => break held,
                ended = tokio::time::timeout(longest, ends.changed()) => if ended.is_err() {
                    break Held::Unordered;
                },
            }
        };
        SuspectPermit { _held: held, given_back }
    }

    /// A permit beside other suspects, unless one runs alone or waits to.
    pub(crate) fn beside(&self) -> Option<SuspectPermit> {
        let lock = Arc::clone(&self.lock).try_read_owned().ok()?;
        Some(SuspectPermit { _held: Held::Beside { _lock: lock }, given_back: self.given_back.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[test]
    fn a_suspect_runs_alone_after_a_crash_of_its_own_and_is_given_up_after_the_last() {
        let given_up = |charged, max, reason: &str| match standing(charged, max) {
            Standing::GivenUp(given_up) => given_up.starts_with(reason),
            _ => false,
        };
        assert_eq!([0, 1, 2].map(|charged| standing(charged, 3)), [Standing::Beside, Standing::Alone, Standing::Alone]);
        assert!(given_up(3, 3, "the process ended 3 times, or lost its lease,"));
        assert_eq!(standing(0, 1), Standing::Alone, "it has only one crash to spare");
        assert!(given_up(1, 1, "the process ended once,"));
    }

    #[tokio::test]
    async fn permits_are_shared_by_all_but_those_that_run_alone() {
        let suspects = SuspectLock::new(Duration::from_secs(3600));
        let (one, other) = (suspects.beside().unwrap(), suspects.clone().wait(false).await);
        let alone = tokio::spawn(suspects.clone().wait(true));
        drop(one);
        tokio::task::yield_now().await;
        assert!(!alone.is_finished());
        assert!(suspects.beside().is_none(), "who waits to run alone comes first");
        drop(other);
        let alone = alone.await.unwrap();
        assert!(matches!(alone._held, Held::Alone { .. }));
        let mut next = std::pin::pin!(suspects.clone().wait(false));
        assert!(now(next.as_mut()).is_none(), "nobody beside it");
        drop(alone);
        assert!(now(next).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_one_that_does_not_end_but_for_as_many_as_do() {
        let second = Duration::from_secs(1);
        let suspects = SuspectLock::new(second * 2);
        let began = Instant::now();
        let queue: Vec<_> = (0..10)
            .map(|_| {
                let suspects = suspects.clone();
                tokio::spawn(async move {
                    let permit = suspects.wait(true).await;
                    tokio::time::sleep(second).await;
                    matches!(permit._held, Held::Alone { .. })
                })
            })
            .collect();
        for one in queue {
            assert!(one.await.unwrap());
        }
        assert_eq!(began.elapsed(), second * 10);
        let _stuck = suspects.clone().wait(true).await;
        assert!(matches!(suspects.wait(false).await._held, Held::Unordered));
        assert_eq!(began.elapsed(), second * 12);
    }

    /// The answer of a future that need not wait.
    fn now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
