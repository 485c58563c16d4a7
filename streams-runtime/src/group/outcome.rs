//! The count and the log line of an event that is over, and the letter of an event that the group gives up.

use std::sync::Arc;
use std::time::Duration;

use streams_core::Entry;
use streams_core::broker::{Fields, MOST_ENTRY_BYTES, cut_from};

use super::handlers::Taker;
use super::settle::Settlement;
use super::task::GroupTask;
use crate::clock::millis;
use crate::ops::dead_letter::{self, GivenUp};
use crate::ops::{Cause, count};

/// An event that the group gives up on.
#[derive(Debug)]
pub(crate) struct Letter {
    entry: Arc<Entry>,
    /// The consumer that took the event; empty where none could.
    pub(crate) consumer: &'static str,
    pub(crate) cause: Cause,
    reason: String,
    attempts: u32,
}

/// An attempt at an event, or at a batch, that is over.
pub(crate) struct Attempt<'a> {
    pub(crate) consumer: &'static str,
    /// The event, or the first of the batch.
    pub(crate) entry: &'a Arc<Entry>,
    pub(crate) events: u32,
    /// Counts from 1, attempts before a restart included.
    pub(crate) number: u32,
}

impl GroupTask {
    /// Counts the outcome of an event, or of a batch. Returns the letter of a dead event.
    pub(crate) fn ended(&self, settlement: Settlement, attempt: &Attempt<'_>) -> Option<Letter> {
        let Attempt { consumer, entry, events, number } = *attempt;
        let counts = &self.progress.counts;
        match settlement {
            Settlement::Done => count(&counts.done, events.into()),
            Settlement::Skipped { reason } => {
                count(&counts.skipped, events.into());
                tracing::debug!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, events, reason, "skipped");
            }
            Settlement::Dead { cause, reason } => {
                return Some(Letter { entry: Arc::clone(entry), consumer, cause, reason, attempts: number });
            }
        }
        None
    }

    /// The letter of an entry that does not name its event. Any other entry that no consumer takes has none and is ignored.
    pub(crate) fn without_taker(&self, taker: Taker, entry: &Arc<Entry>) -> Option<Letter> {
        if let Taker::Unnamed = taker {
            let reason = match cut_from(entry) {
                Some(bytes) => format!(
                    "the entry has {bytes} bytes, and {MOST_ENTRY_BYTES} are the most that any event can have: only the beginnings of its fields were read; the entry {} itself has all of it until it is trimmed",
                    entry.id
                ),
                None => "the field `event` is missing or is not `Name@version`".to_owned(),
            };
            return Some(Letter { entry: Arc::clone(entry), consumer: "", cause: Cause::Decode, reason, attempts: 1 });
        }
        None
    }

    /// Logs that the group gives an event up. Returns the fields of its letter.
    pub(crate) fn written(&self, letter: Letter) -> Fields {
        let Letter { entry, consumer, cause, reason, attempts } = letter;
        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), consumer, attempts, cause = cause.as_str(), reason, "dead letter");
        let given_up =
            GivenUp { consumer, cause: cause.as_str(), reason: &reason, attempts, replays: 0, edited: false };
        dead_letter::fields(&self.key, &entry, &given_up)
    }

    /// Logs and counts an event that a broadcast group gives up, which has no dead letters.
    pub(crate) fn passed_over(&self, letter: Letter) {
        let Letter { entry, consumer, cause, reason, attempts } = letter;
        count(&self.progress.counts.failed, 1);
        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), consumer, attempts, cause = cause.as_str(), reason, "passed over: this process's state lacks the event");
    }

    /// Logs that an attempt failed, and counts it.
    pub(crate) fn log_failed(&self, attempt: &Attempt<'_>, after: Duration, reason: &str) {
        let Attempt { consumer, entry, events, number } = *attempt;
        count(&self.progress.counts.retried, 1);
        let wait = humantime::format_duration(Duration::from_millis(millis(after)));
        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), events, consumer, attempt = number, reason, "attempt failed; trying again in {wait}");
    }
}
