//! The settings of an app: every bound with its reason, and the environment that overrides them.
//!
//! Precedence: an attribute's option < [`Config`] < [`Config::group`] < the environment (read by `run` only).

use std::collections::BTreeMap;
#[cfg(feature = "http")]
use std::net::SocketAddr;
use std::time::Duration;

use streams_core::broker::DeadBounds;
use streams_core::{Backoff, ConsumerOptions, keys};

use crate::publisher::{EXPIRE_AFTER, PUBLISH_RETRY};

/// The options of an app. Every field has a default that is fit for production.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// How long an owner may be silent before another process takes over. The default is 10 s, which is longer than the
    /// pauses of a busy machine, and short enough to wait for after a kill. At least 100 ms.
    pub lease: Duration,
    /// How long handlers may go on after a stop was asked for. 25 s: orchestrators kill after 30.
    pub shutdown_deadline: Duration,
    /// How many dead letters a group may have on a partition, and how old the oldest may be: 10,000 and 30 days. Beyond
    /// that the partition stops. They are never trimmed.
    pub dead_letters: DeadBounds,
    /// After how many dead letters in a row the partition stops: 20. A storm is an outage, not poison.
    pub dead_letter_storm: u32,
    /// For how long a publish that has no answer is tried again, while later ones to its partition wait behind it: 15 s. A
    /// server may be silent for 10 s, so it is asked twice. The last attempt ends before the 30 s of a handler do. With
    /// zero nothing is tried again.
    pub publish_retry: Duration,
    /// For how long entries of a stream with `retention = "consumed"` may wait for a group before the log asks, once per
    /// day, whether anybody runs the group: 7 days, because a group that is only down is mended by then. Nothing is
    /// removed.
    pub expire_after: Duration,
    /// How many bytes of entries the process has in memory for all its groups: 16 MiB, some 50,000 small events. They are
    /// the recent entries, those that groups share while they catch up, and large ones in use. When it is full, reads wait
    /// for their turn, each for a tenth of a second at most.
    pub window_bytes: usize,
    /// How many entries of a partition a group takes up before it waits for those that are not settled: 10,000. So a few
    /// that fail for minutes do not soon stop the others.
    pub max_unsettled_entries: usize,
    /// How many bytes of unsettled entries of a partition a process holds before it takes up no more: 16 MiB. They count in no
    /// window.
    pub max_unsettled_bytes: usize,
    /// How many ids of settled events a group with `dedupe` remembers per partition: 100,000, some 15 MB of the server's memory.
    /// Beyond that the oldest are forgotten first.
    pub dedupe_ids: u64,
    /// Where to answer `/metrics`, `/livez` and `/readyz`; nowhere unless said. There is neither a password nor TLS: choose
    /// an address that only those who may read it can reach.
    #[cfg(feature = "http")]
    pub http: Option<SocketAddr>,
    /// Options for every consumer; they override its attribute.
    pub consumers: ConsumerOptions,
    /// Options for the consumers of one group; only the environment overrides them.
    pub groups: BTreeMap<String, ConsumerOptions>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            shutdown_deadline: Duration::from_secs(25),
            dead_letters: DeadBounds { count: 10_000, age: Duration::from_secs(30 * 24 * 3600) },
            dead_letter_storm: 20,
            publish_retry: PUBLISH_RETRY,
            expire_after: EXPIRE_AFTER,
            window_bytes: 16 * 1024 * 1024,
            max_unsettled_entries: 10_000,
            max_unsettled_bytes: 16 * 1024 * 1024,
            dedupe_ids: 100_000,
            #[cfg(feature = "http")]
            http: None,
            consumers: ConsumerOptions::DEFAULT,
            groups: BTreeMap::new(),
        }
    }
}

/// With the default backoff about two minutes of trouble.
pub(super) const MAX_ATTEMPTS: u32 = 10;
/// Poison costs four processes, the first of which cannot be put down to it; a kill by hand or two costs no event.
pub(super) const MAX_CRASHES: u32 = 3;
/// Soon enough for a hiccup, and seldom enough for an outage.
pub(super) const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(30) };
/// Longer than most clients of other services wait, so that their own errors come first.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Most of what a database gains by several rows at once, and little to repeat.
pub(super) const BATCH: u32 = 100;
/// As long as a settled event waits for its commit.
pub(super) const BATCH_WAIT: Duration = Duration::from_millis(100);
/// The most events that a crash repeats: at full speed some milliseconds of work.
pub(super) const CHECKPOINT_EVENTS: u32 = 1_000;
/// The longest that a settled event waits for its commit: ten commits a second cost a server next to nothing.
pub(super) const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(100);
/// One after the other: the order of the stream is the promise where nobody says otherwise.
pub(super) const CONCURRENCY: u32 = 1;
/// The shortest lease: below, the pauses of an ordinary machine lose it.
const LEASE_MIN: Duration = Duration::from_millis(100);

impl Config {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long an owner may be silent before another process takes over.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long handlers may go on after a stop was asked for.
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// How many dead letters a group may have on a partition, and how old the oldest may be.
    #[must_use]
    pub fn dead_letters(mut self, bounds: DeadBounds) -> Self {
        self.dead_letters = bounds;
        self
    }

    /// After how many dead letters in a row the partition stops.
    #[must_use]
    pub fn dead_letter_storm(mut self, letters: u32) -> Self {
        self.dead_letter_storm = letters;
        self
    }

    /// For how long a publish that has no answer is tried again.
    #[must_use]
    pub fn publish_retry(mut self, retry: Duration) -> Self {
        self.publish_retry = retry;
        self
    }

    /// For how long entries may wait for a group before the log asks whether anybody runs it.
    #[must_use]
    pub fn expire_after(mut self, wait: Duration) -> Self {
        self.expire_after = wait;
        self
    }

    /// How many bytes of entries the process has in memory for all its groups.
    #[must_use]
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// How many entries of a partition a group takes up before it waits for those that are not settled.
    #[must_use]
    pub fn max_unsettled_entries(mut self, entries: usize) -> Self {
        self.max_unsettled_entries = entries;
        self
    }

    /// How many bytes of unsettled entries of a partition a process holds before it takes up no more.
    #[must_use]
    pub fn max_unsettled_bytes(mut self, bytes: usize) -> Self {
        self.max_unsettled_bytes = bytes;
        self
    }

    /// Where to answer `/metrics`, `/livez` and `/readyz`.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http(mut self, address: SocketAddr) -> Self {
        self.http = Some(address);
        self
    }

    /// Options for every consumer; they override its attribute.
    #[must_use]
    pub fn consumers(mut self, options: ConsumerOptions) -> Self {
        self.consumers = options;
        self
    }

    /// Options for the consumers of one group.
    #[must_use]
    pub fn group(mut self, group: &str, options: ConsumerOptions) -> Self {
        self.groups.insert(group.to_owned(), options);
        self
    }

    /// The problems of these settings, each in one line.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.lease < LEASE_MIN {
            problems.push(format!(
                "the lease is {}; it must be at least {}",
                humantime::format_duration(self.lease),
                humantime::format_duration(LEASE_MIN)
            ));
        }
        if self.dead_letter_storm == 0 {
            problems.push("`dead_letter_storm` is 0; it must be at least 1".to_owned());
        }
        if self.max_unsettled_entries == 0 || self.max_unsettled_bytes == 0 {
            problems
                .push("`max_unsettled_entries` or `max_unsettled_bytes` is 0; no event could be taken up".to_owned());
        }
        let scopes = std::iter::once(("all groups".to_owned(), &self.consumers))
            .chain(self.groups.iter().map(|(group, options)| (format!("group `{group}`"), options)));
        for (scope, options) in scopes {
            problems
                .extend(options_problems(options).into_iter().map(|problem| format!("config of {scope}: {problem}")));
        }
        problems
    }
}

/// The problems of options from outside the attribute, which checks its own.
pub(super) fn options_problems(options: &ConsumerOptions) -> Vec<String> {
    let mut problems = Vec::new();
    if options.max_attempts == Some(0) {
        problems.push("`max_attempts` is 0; it must be at least 1".to_owned());
    }
    if let Some(crashes) = options.max_crashes.filter(|crashes| !(1..=ConsumerOptions::MAX_CRASHES).contains(crashes)) {
        problems.push(format!("`max_crashes` is {crashes}; it must be from 1 to {}", ConsumerOptions::MAX_CRASHES));
    }
    if options.timeout.is_some_and(|timeout| timeout.is_zero()) {
        problems.push("`timeout` is zero; no handler could finish".to_owned());
    }
    if let Some(events) = options.batch.filter(|events| !(1..=ConsumerOptions::MAX_BATCH).contains(events)) {
        problems.push(format!("`batch` is {events}; it must be from 1 to {} events", ConsumerOptions::MAX_BATCH));
    }
    if let Some(wait) = options.batch_wait.filter(|wait| *wait > ConsumerOptions::MAX_BATCH_WAIT) {
        problems.push(format!(
            "`batch_wait` is {}; it must be at most {}",
            humantime::format_duration(wait),
            humantime::format_duration(ConsumerOptions::MAX_BATCH_WAIT)
        ));
    }
    if options.checkpoint_events == Some(0) {
        problems.push("`checkpoint_events` is 0; it must be at least 1".to_owned());
    }
    if let Some(events) = options.concurrency.filter(|events| !(1..=ConsumerOptions::MAX_CONCURRENCY).contains(events))
    {
        problems.push(format!(
            "`concurrency` is {events}; it must be from 1 to {} events",
            ConsumerOptions::MAX_CONCURRENCY
        ));
    }
    let ignored = options.ignore.unwrap_or_default();
    problems.extend(
        ignored.iter().filter_map(|name| keys::check_event(name).err()).map(|error| format!("`ignore`: {error}")),
    );
    if let Some(backoff) = options.backoff.filter(|backoff| backoff.first > backoff.max) {
        problems.push(format!("`backoff` is {backoff}; the first wait must not be longer than the last"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_cannot_work_says_why() {
        let mut options = ConsumerOptions::DEFAULT;
        options.backoff = Some(Backoff { first: Duration::from_secs(2), max: Duration::from_secs(1) });
        options.batch = Some(ConsumerOptions::MAX_BATCH + 1);
        options.batch_wait = Some(Duration::from_secs(61));
        let config = Config::new().lease(Duration::ZERO).group("risk", options);
        assert_eq!(config.problems().len(), 4, "{:?}", config.problems());
        for words in ["config of group `risk`: `batch` is 10001", "`batch_wait` is 1m 1s; it must be at most 1m"] {
            assert!(config.problems().iter().any(|problem| problem.contains(words)), "{:?}", config.problems());
        }
        assert_eq!(Config::new().problems(), Vec::<String>::new());
    }
}
