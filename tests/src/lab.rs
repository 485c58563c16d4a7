//! Handlers that do as the test says: [`Lab`] holds the script, and writes down who was called with what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams_runtime::{BoxError, Context, Outcome, permanent};
use tokio::sync::watch;

use crate::Gate;

/// What a handler does with an event.
#[derive(Debug, Clone)]
pub enum Act {
    /// Returns an error.
    Fail,
    /// Returns an error that is marked as permanent.
    Permanent,
    /// The same after this long.
    PermanentAfter(Duration),
    /// Panics.
    Panic,
    /// Returns this.
    Give(Outcome),
    /// Takes this long.
    Sleep(Duration),
    /// Waits at a gate.
    Wait(Gate),
    /// Never ends.
    Hang,
    /// Panics when it is cancelled.
    PanicWhenDropped,
}

/// The script of a test's handlers, and what was seen of them. Give it to the app as a state.
#[derive(Debug, Clone, Default)]
pub struct Lab {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What a group does with an event, attempt by attempt; the last one stays.
    script: HashMap<(String, u64), Vec<Act>>,
    /// Every call, in order: group, event, attempt.
    begun: Vec<(String, u64, u32)>,
    ended: Vec<(String, u64)>,
    cancelled: Vec<(String, u64)>,
}

impl Lab {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what a group does with event `n`, at each attempt; at later ones it does nothing and succeeds.
    pub fn script(&self, group: &str, n: u64, acts: impl IntoIterator<Item = Act>) {
        self.inner().script.insert((group.to_owned(), n), acts.into_iter().collect());
    }

    /// Says what a group does with event `n` at every attempt.
    pub fn always(&self, group: &str, n: u64, act: Act) {
        self.script(group, n, std::iter::repeat_n(act, 100));
    }

    /// What a handler of the test calls.
    ///
    /// # Errors
    /// As the script says.
    ///
    /// # Panics
    /// As the script says.
    pub async fn handle(&self, ctx: &Context, n: u64) -> Result<Outcome, BoxError> {
        let key = (ctx.group().to_owned(), n);
        let attempt = ctx.attempt();
        let act = {
            let mut inner = self.inner();
            inner.begun.push((key.0.clone(), n, attempt));
            inner.script.get(&key).and_then(|acts| acts.get(attempt as usize - 1)).cloned()
        };
        self.changed.send_replace(());
        let mut guard = Cancelled { lab: self, key: Some(key.clone()), panics: false };
        let result = match act {
            None => Ok(Outcome::Done),
            Some(Act::Fail) => Err(format!("event {n} fails").into()),
            Some(Act::PermanentAfter(time)) => {
                tokio::time::sleep(time).await;
                Err(permanent(format!("event {n} never works")).into())
            }
            Some(Act::Permanent) => Err(permanent(format!("event {n} never works")).into()),
            Some(Act::Panic) => {
                guard.key = None;
                panic!("event {n} panics");
            }
            Some(Act::Give(outcome)) => Ok(outcome),
            Some(Act::Sleep(time)) => {
                tokio::time::sleep(time).await;
                Ok(Outcome::Done)
            }
            Some(Act::Wait(gate)) => {
                gate.pass().await;
                Ok(Outcome::Done)
            }
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::PanicWhenDropped) => {
                guard.panics = true;
                std::future::pending().await
            }
        };
        guard.key = None;
        self.inner().ended.push(key);
        self.changed.send_replace(());
        result
    }

    /// The events that a group was called with, repeats and all.
    pub fn events(&self, group: &str) -> Vec<u64> {
        self.calls(group).into_iter().map(|(n, _)| n).collect()
    }

    /// The events and attempts that a group was called with.
    pub fn calls(&self, group: &str) -> Vec<(u64, u32)> {
        self.inner().begun.iter().filter(|(g, ..)| g == group).map(|(_, n, attempt)| (*n, *attempt)).collect()
    }

    /// The events whose handler came to its end, with or without success.
    pub fn ended(&self, group: &str) -> Vec<u64> {
        self.inner().ended.iter().filter(|(g, _)| g == group).map(|(_, n)| *n).collect()
    }

    /// The events whose handler was cancelled.
    pub fn cancelled(&self, group: &str) -> Vec<u64> {
        self.inner().cancelled.iter().filter(|(g, _)| g == group).map(|(_, n)| *n).collect()
    }

    /// Waits until a group was called so many times.
    ///
    /// # Panics
    /// When it was not within an hour, which in virtual time is soon over.
    pub async fn called(&self, group: &str, times: usize) {
        let mut changed = self.changed.subscribe();
        let enough = async {
            while self.calls(group).len() < times {
                let _ = changed.changed().await;
            }
        };
        let hour = Duration::from_secs(3600);
        if tokio::time::timeout(hour, enough).await.is_err() {
            panic!("`{group}` was called {} times, not {times}: {:?}", self.calls(group).len(), self.calls(group));
        }
    }
}

/// Writes down that a handler did not come to its end.
struct Cancelled<'a> {
    lab: &'a Lab,
    key: Option<(String, u64)>,
    panics: bool,
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.lab.inner().cancelled.push(key);
            self.lab.changed.send_replace(());
            assert!(!self.panics, "a handler panics while it is cancelled");
        }
    }
}
