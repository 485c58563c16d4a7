//! The count and the log line of an event that has ended, and the letter of one that is given up.

use std::sync::Arc;
use std::time::Duration;

use streams_core::Entry;
use streams_core::broker::{Fields, MOST_ENTRY_BYTES, cut_from};

use super::handler::Handler;
use super::handlers::Taker;
use super::settle::Settlement;
use super::task::GroupTask;
use crate::clock::millis;
use crate::ops::{Cause, count, dead_letter};

/// An event that the group gives up on.
#[derive(Debug)]
pub(crate) struct Letter {
    entry: Arc<Entry>,
    /// Who took it; empty where nobody could.
    pub(crate) consumer: &'static str,
    pub(crate) cause: Cause,
    reason: String,
    attempts: u32,
}

impl GroupTask {
    /// Counts what came of an event, or of a batch, and answers the letter of one that is dead.
    pub(crate) fn ended(
        &self,
        settlement: Settlement,
        first: &Arc<Entry>,
        events: u32,
        attempts: u32,
        consumer: &'static str,
    ) -> Option<Letter> {
        let counts = &self.progress.counts;
        match settlement {
            Settlement::Done => count(&counts.done, events.into()),
            Settlement::Skipped { reason } => {
                count(&counts.skipped, events.into());
                tracing::debug!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %first.id, events, reason, "skipped");
            }
            Settlement::Dead { cause, reason } => {
                return Some(Letter { entry: Arc::clone(first), consumer, cause, reason, attempts });
            }
        }
        None
    }

    /// What becomes of an entry that no consumer takes: it is passed over, or put away where it does not say what it is.
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

    /// Says that an event is given up; answers the fields of its letter.
    pub(crate) fn written(&self, letter: Letter) -> Fields {
        let Letter { entry, consumer, cause, reason, attempts } = letter;
        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), consumer, attempts, cause = cause.as_str(), reason, "dead letter");
        dead_letter::fields(&self.key, consumer, &entry, cause, &reason, attempts)
    }

    /// Says that an attempt failed, and counts it.
    pub(crate) fn tell_failed(
        &self,
        handler: &Handler,
        entry: &Entry,
        events: usize,
        attempt: u32,
        after: Duration,
        reason: &str,
    ) {
        count(&self.progress.counts.retried, 1);
        let wait = humantime::format_duration(Duration::from_millis(millis(after)));
        tracing::warn!(group = self.key.group(), partition = self.key.partition().as_str(), entry = %entry.id, event = %entry.event_id(), events, consumer = handler.name(), attempt, reason, "attempt failed; trying again in {wait}");
    }
}
