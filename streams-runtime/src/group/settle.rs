//! The meaning of an attempt's outcome for its event: one pure function decides, the delivery carries out.

use std::time::Duration;

use streams_core::{Backoff, Failure, Outcome};

use crate::backoff::wait;
use crate::ops::Cause;

/// The limits and the retries of one consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) max_attempts: u32,
    /// How many processes an event may take down before it is given up.
    pub(crate) max_crashes: u32,
    pub(crate) backoff: Backoff,
    pub(crate) timeout: Duration,
    /// For a consumer that takes batches.
    pub(crate) batch: Option<Limits>,
}

/// The bounds of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most events in a batch.
    pub(crate) events: u32,
    /// How long a batch that has an event waits for more.
    pub(crate) wait: Duration,
}

/// The consequence of an attempt for its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The event is settled.
    Settle(Settlement),
    /// Another attempt after this long; the partition waits, because order is the promise.
    Retry { after: Duration, reason: String },
    /// The batch failed as a whole: its events run alone, so that only bad ones become dead letters. Where one could not be
    /// decoded, only that one does.
    Apart { undecodable: bool, reason: String },
}

/// How an event is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settlement {
    Done,
    Skipped { reason: String },
    Dead { cause: Cause, reason: String },
}

/// Why an attempt failed. It holds no value of the user's whose code could still run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) cause: Cause,
    pub(crate) reason: String,
}

impl Failed {
    /// The cause and the text of a failure. This shows the handler's own error and drops it, so it belongs where a panic is
    /// caught.
    pub(super) fn of(failure: Failure) -> Self {
        let said = Self { cause: Cause::of(&failure), reason: failure.reason() };
        drop(failure);
        said
    }

    /// An attempt that has outrun this timeout.
    pub(crate) fn timed_out(timeout: Duration) -> Self {
        Self::of(Failure::TimedOut(timeout))
    }

    /// Whether another attempt cannot help.
    fn is_permanent(&self) -> bool {
        matches!(self.cause, Cause::Decode | Cause::Permanent)
    }
}

/// How often, in words.
pub(super) fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// Decides what an attempt means.
///
/// `attempt` counts from 1, attempts before a restart included. `random` gives a number from 0 up to 1, which takes up to
/// half of the wait away. So many partitions do not retry in step.
pub(crate) fn decide(
    result: Result<Outcome, Failed>,
    attempt: u32,
    policy: &Policy,
    random: impl FnOnce() -> f64,
) -> Decision {
    let dead = |cause, reason| Decision::Settle(Settlement::Dead { cause, reason });
    match result {
        Ok(Outcome::Done) => Decision::Settle(Settlement::Done),
        Ok(Outcome::Skip(reason)) => Decision::Settle(Settlement::Skipped { reason: reason.into_owned() }),
        Ok(Outcome::DeadLetter(reason)) => dead(Cause::Asked, reason.into_owned()),
        Ok(Outcome::RetryAfter(after)) if attempt < policy.max_attempts => {
            Decision::Retry { after, reason: "the handler asked for another attempt".to_owned() }
        }
        Ok(Outcome::RetryAfter(_)) => dead(
            Cause::Handler,
            format!("the handler asked for another attempt {}, which is `max_attempts`", times(attempt)),
        ),
        Ok(other) => dead(Cause::Handler, format!("unknown outcome {other:?}")),
        Err(failed) if failed.is_permanent() || attempt >= policy.max_attempts => dead(failed.cause, failed.reason),
        Err(failed) => Decision::Retry { after: wait(policy.backoff, attempt, random()), reason: failed.reason },
    }
}

/// Decides what an attempt at a batch of several events means, as [`decide`] for an event. But no outcome of a batch makes dead
/// letters of all its events, because it may be meant for one.
pub(crate) fn decide_batch(
    result: Result<Outcome, Failed>,
    attempt: u32,
    policy: &Policy,
    random: impl FnOnce() -> f64,
) -> Decision {
    let undecodable = matches!(&result, Err(failed) if failed.cause == Cause::Decode);
    match decide(result, attempt, policy, random) {
        Decision::Settle(Settlement::Dead { reason, .. }) => Decision::Apart { undecodable, reason },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streams_core::{BoxError, permanent};

    const POLICY: Policy = Policy {
        max_attempts: 3,
        max_crashes: 3,
        backoff: Backoff { first: Duration::from_millis(100), max: Duration::from_millis(300) },
        timeout: Duration::from_secs(1),
        batch: None,
    };

    fn failed(error: impl Into<BoxError>, attempt: u32) -> Decision {
        decide(Err(Failed::of(Failure::Handler(error.into()))), attempt, &POLICY, || 0.0)
    }

    fn cause(decision: Decision) -> Cause {
        match decision {
            Decision::Settle(Settlement::Dead { cause, .. }) => cause,
            other => panic!("not a dead letter: {other:?}"),
        }
    }

    #[test]
    fn errors_are_retried_until_attempts_run_out() {
        let retry = |millis| Decision::Retry { after: Duration::from_millis(millis), reason: "down".to_owned() };
        assert_eq!(failed("down", 1), retry(100));
        assert_eq!(failed("down", 2), retry(200));
        assert_eq!(cause(failed("down", 3)), Cause::Handler);
    }

    #[test]
    fn giving_up_is_immediate_when_said() {
        assert_eq!(cause(failed(permanent("never"), 1)), Cause::Permanent);
        assert_eq!(cause(decide(Ok(Outcome::dead_letter("bad")), 1, &POLICY, || 0.0)), Cause::Asked);
    }

    #[test]
    fn a_wish_for_another_attempt_is_bounded_too() {
        let asked = |attempt| decide(Ok(Outcome::RetryAfter(Duration::from_secs(9))), attempt, &POLICY, || 0.0);
        assert!(matches!(asked(2), Decision::Retry { after, .. } if after == Duration::from_secs(9)));
        assert_eq!(cause(asked(3)), Cause::Handler);
    }

    #[test]
    fn panics_and_timeouts_are_failed_attempts() {
        let panic = |attempt| decide(Err(Failed::of(Failure::Panic("boom".into()))), attempt, &POLICY, || 0.0);
        assert!(matches!(panic(1), Decision::Retry { .. }));
        assert_eq!(cause(panic(3)), Cause::Panic);
        assert_eq!(cause(decide(Err(Failed::timed_out(POLICY.timeout)), 3, &POLICY, || 0.0)), Cause::Timeout);
    }

    #[test]
    fn a_batch_is_retried_whole_and_taken_apart_instead_of_put_away() {
        let batch = |result, attempt| decide_batch(result, attempt, &POLICY, || 0.0);
        let failed = |error: BoxError| Err(Failed::of(Failure::Handler(error)));
        assert_eq!(batch(Ok(Outcome::Done), 1), Decision::Settle(Settlement::Done));
        assert!(matches!(batch(Ok(Outcome::skip("old")), 1), Decision::Settle(Settlement::Skipped { .. })));
        assert!(matches!(batch(failed("down".into()), 2), Decision::Retry { .. }));
        assert!(matches!(batch(Ok(Outcome::RetryAfter(Duration::ZERO)), 2), Decision::Retry { .. }));
        for (result, attempt) in [
            (failed("down".into()), 3),
            (failed(permanent("never").into()), 1),
            (Err(Failed::of(Failure::Panic("boom".into()))), 3),
            (Ok(Outcome::dead_letter("bad")), 1),
        ] {
            let decision = batch(result, attempt);
            assert!(matches!(decision, Decision::Apart { undecodable: false, .. }), "{decision:?}");
        }
    }
}
