//! Events that may have ended a process: which of them run alone, and which are given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use super::settle::times;

/// Why an event is given up that has taken so many processes down; `None` while it may run again.
pub(crate) fn given_up(crashes: u32, max_crashes: u32) -> Option<String> {
    (crashes >= max_crashes).then(|| {
        format!(
            "the process ended {}, or lost its lease, while handling this event, which is `max_crashes`; it was not run again",
            times(crashes)
        )
    })
}

/// Who of a process may run beside whom, of all that is proven, in whatever group.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    lock: Arc<RwLock<()>>,
    /// How many turns are over.
    over: watch::Sender<u64>,
    /// The longest that anybody may run who has one.
    longest: Duration,
}

/// Held while an event that is proven runs.
#[derive(Debug)]
pub(crate) struct Turn {
    _held: Held,
    over: watch::Sender<u64>,
}

#[derive(Debug)]
enum Held {
    /// With others.
    Beside { _lock: OwnedRwLockReadGuard<()> },
    /// With nothing else that is proven.
    Alone { _lock: OwnedRwLockWriteGuard<()> },
    /// Somebody holds the others up for longer than any of them may.
    Unordered,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.over.send_modify(|over| *over += 1);
    }
}

impl Turns {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { lock: Arc::default(), over: watch::Sender::new(0), longest }
    }

    /// Waits for the event's turn. While others have theirs, one after the other, that is as long as it takes; but where none
    /// of them ends for as long as any may run it is waited for no longer: who does not yield must not hold up every group.
    ///
    /// # Cancel safety
    /// It only waits.
    pub(crate) async fn wait(self, alone: bool) -> Turn {
        let Self { lock, over, longest } = self;
        let mut ends = over.subscribe();
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
        Turn { _held: held, over }
    }

    /// A turn beside others where nobody runs alone, or waits to.
    pub(crate) fn beside(&self) -> Option<Turn> {
        let lock = Arc::clone(&self.lock).try_read_owned().ok()?;
        Some(Turn { _held: Held::Beside { _lock: lock }, over: self.over.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[test]
    fn an_event_is_given_up_after_so_many_crashes_that_are_its_own() {
        assert_eq!(given_up(2, 3), None);
        assert!(given_up(3, 3).unwrap().starts_with("the process ended 3 times, or lost its lease,"));
        assert!(given_up(1, 1).unwrap().starts_with("the process ended once,"));
    }

    #[tokio::test]
    async fn turns_are_shared_by_all_but_those_that_run_alone() {
        let turns = Turns::new(Duration::from_secs(3600));
        let (one, other) = (turns.beside().unwrap(), turns.clone().wait(false).await);
        let alone = tokio::spawn(turns.clone().wait(true));
        drop(one);
        tokio::task::yield_now().await;
        assert!(!alone.is_finished());
        assert!(turns.beside().is_none(), "who waits to run alone comes first");
        drop(other);
        let alone = alone.await.unwrap();
        assert!(matches!(alone._held, Held::Alone { .. }));
        let mut next = std::pin::pin!(turns.clone().wait(false));
        assert!(now(next.as_mut()).is_none(), "nobody beside it");
        drop(alone);
        assert!(now(next).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_one_that_does_not_end_but_for_as_many_as_do() {
        let second = Duration::from_secs(1);
        let turns = Turns::new(second * 2);
        let began = Instant::now();
        let queue: Vec<_> = (0..10)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move {
                    let turn = turns.wait(true).await;
                    tokio::time::sleep(second).await;
                    matches!(turn._held, Held::Alone { .. })
                })
            })
            .collect();
        for one in queue {
            assert!(one.await.unwrap());
        }
        assert_eq!(began.elapsed(), second * 10);
        let _stuck = turns.clone().wait(true).await;
        assert!(matches!(turns.wait(false).await._held, Held::Unordered));
        assert_eq!(began.elapsed(), second * 12);
    }

    /// What a future answers without waiting.
    fn now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
