//! Handlers that do as the test says: [`Lab`] holds the script and records the calls. [`Record`] keeps the notes of a test's
//! own handlers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams_runtime::{BoxError, Context, Outcome, permanent};
use tokio::sync::watch;

use crate::Gate;

/// One scripted reaction of a handler to an event.
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
    /// The reactions of a group to an event, attempt by attempt; the last one stays.
    script: HashMap<(String, u64), Vec<Act>>,
    /// Every call, in order: group, event, attempt.
    begun: Vec<(String, u64, u32)>,
    ended: Vec<(String, u64)>,
    cancelled: Vec<(String, u64)>,
    /// How many handlers run now, and how many did at most.
    running: usize,
    most: usize,
    /// The keys whose events are in flight, and the calls for each key.
    in_flight: HashSet<String>,
    keys: HashMap<String, Vec<(u64, u32)>>,
    batches: Vec<(Vec<u64>, u32)>,
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

    /// Plays the script; a handler of the test calls it.
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
            inner.running += 1;
            inner.most = inner.most.max(inner.running);
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

    /// As [`Lab::handle`], for an event with a key.
    ///
    /// # Errors
    /// As the script says.
    ///
    /// # Panics
    /// As the script says.
    pub async fn handle_key(&self, ctx: &Context, key: &str, n: u64) -> Result<Outcome, BoxError> {
        let _in_flight = InFlight::begin(self, key, n, ctx.attempt());
        self.handle(ctx, n).await
    }

    /// The events and attempts of a key, in order. An event that began while another of its key was in flight stands there as 0.
    pub fn of_key(&self, key: &str) -> Vec<(u64, u32)> {
        self.inner().keys.get(key).cloned().unwrap_or_default()
    }

    /// Notes a batch, which is handled event by event.
    pub fn note_batch(&self, ctx: &Context, events: impl IntoIterator<Item = u64>) {
        self.inner().batches.push((events.into_iter().collect(), ctx.attempt()));
    }

    /// The events of each batch, in order.
    pub fn batches(&self) -> Vec<Vec<u64>> {
        self.batch_calls().into_iter().map(|(events, _)| events).collect()
    }

    /// The events of each batch with its attempt, in order.
    pub fn batch_calls(&self) -> Vec<(Vec<u64>, u32)> {
        self.inner().batches.clone()
    }

    /// How many handlers ran at the same time at most, of all groups together.
    pub fn most_at_once(&self) -> usize {
        self.inner().most
    }

    /// The events that a group was called with, sorted, repeats and all.
    pub fn sorted(&self, group: &str) -> Vec<u64> {
        let mut events = self.events(group);
        events.sort_unstable();
        events
    }

    /// The attempts at which a group was called with an event.
    pub fn attempts(&self, group: &str, n: u64) -> Vec<u32> {
        self.calls(group).into_iter().filter(|(event, _)| *event == n).map(|(_, attempt)| attempt).collect()
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

/// An event of a key is in flight.
struct InFlight<'a> {
    lab: &'a Lab,
    key: String,
}

impl<'a> InFlight<'a> {
    fn begin(lab: &'a Lab, key: &str, n: u64, attempt: u32) -> Self {
        let mut inner = lab.inner();
        let alone = inner.in_flight.insert(key.to_owned());
        inner.keys.entry(key.to_owned()).or_default().push((if alone { n } else { 0 }, attempt));
        Self { lab, key: key.to_owned() }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.lab.inner().in_flight.remove(&self.key);
    }
}

/// The notes of a test's handlers, in order. The app takes it as a state.
#[derive(Debug)]
pub struct Record<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Record<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Record<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Record<T> {
    /// Notes something.
    pub fn add(&self, note: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    /// Everything that was noted so far.
    pub fn all(&self) -> Vec<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        self.lab.inner().running -= 1;
        if let Some(key) = self.key.take() {
            self.lab.inner().cancelled.push(key);
            self.lab.changed.send_replace(());
            assert!(!self.panics, "a handler panics while it is cancelled");
        }
    }
}
