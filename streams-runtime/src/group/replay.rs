//! Dead letters that are handled again: by their own group alone, one attempt at a time, between the events of the stream.
//!
//! [`DeadLetters`](crate::DeadLetters) sends them, and a renewal of the lease says that they wait. The broker keeps the
//! attempts and the crashes of each letter, so the next owner of the partition goes on with it.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerError, BrokerErrorKind, Events, Need, Replay, ReplayEnd, Taken};
use streams_core::{Backoff, Context, EntryId, Outcome};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::spawn;
use super::ended::Ended;
use super::handler::Handler;
use super::handlers::Taker;
use super::settle::{Decision, Failed, Settlement, decide, times};
use super::task::GroupTask;
use crate::backoff::wait;
use crate::clock::after;
use crate::fence::ours;
use crate::membership::Lease;
use crate::ops::dead_letter::{self, GivenUp};
use crate::ops::{Cause, DeadLetter};
use crate::shutdown::FAREWELL;

/// After how many crashes a letter is not tried again: two may be the machine's fault.
const MAX_CRASHES: u32 = 3;
/// The waits after a call about a letter that failed or was refused. Events go on meanwhile.
const UNANSWERED: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// The replays of an owner, as far as it has to remember them.
pub(crate) struct Replays {
    /// When the next step is due at the earliest: an attempt, or another call.
    next: Instant,
    /// An attempt that has ended, which the server does not know yet.
    ended: Option<(EntryId, ReplayEnd)>,
    failures: u32,
}

/// The outcome of a replayed letter.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// Another attempt after this long; meanwhile the events of the stream go on.
    Again {
        after: Duration,
        reason: String,
    },
    Dead {
        cause: String,
        reason: String,
    },
}

impl Replays {
    pub(crate) fn new() -> Self {
        Self { next: Instant::now(), ended: None, failures: 0 }
    }

    /// Whether an attempt has ended and the server does not know it yet.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether a step is due.
    pub(crate) fn is_due(&self, lease: &Lease) -> bool {
        (lease.has_replays() || self.ended.is_some()) && self.next <= Instant::now()
    }

    /// Waits until a step is due.
    pub(crate) async fn due(&self, lease: &Lease) {
        if self.ended.is_none() {
            lease.replays().await;
        }
        // A timer is never ready at once.
        if self.next > Instant::now() {
            tokio::time::sleep_until(self.next).await;
        }
    }

    fn put_off(&mut self, by: Duration) {
        self.next = Instant::now() + by;
    }
}

/// The letter that is next, and the consumer that takes it.
struct Next {
    replay: Replay,
    letter: DeadLetter,
    taker: Taker,
    /// Its outcome where it is not tried.
    fate: Option<Fate>,
}

impl Next {
    fn context(&self, handler: &Handler) -> Context {
        let entry = Arc::clone(self.letter.original());
        Context::new(Arc::clone(&handler.scope), entry, self.replay.attempts + 1).with_replay()
    }

    /// Whether the letter is a suspect, which runs alone. The owner knows that once it has taken the letter, which charges it,
    /// so it puts the letter back while it waits.
    fn is_suspect(&self) -> bool {
        let has_crashed = self.replay.crashes > 0 || self.letter.cause() == Cause::Crash.as_str();
        self.fate.is_none() && matches!(self.taker, Taker::Consumer(_)) && has_crashed
    }
}

impl GroupTask {
    /// Handles replays as long as the session of a work queue lasts, beside its events.
    ///
    /// With `stop` an attempt in flight is cancelled and put back. Dropped, it leaves the letter to the next owner.
    pub(crate) async fn replay_all(&self, lease: &Lease, stop: &CancellationToken) -> Ended {
        let mut replays = Replays::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                () = replays.due(lease) => {}
            }
            if let Err(ended) = self.replay(lease, &mut replays, stop).await {
                return ended;
            }
        }
    }

    /// Makes one attempt at the first of the replays, or sends the end of the one before.
    ///
    /// With `stop` an attempt in flight is cancelled and put back: that is neither a failure nor a crash.
    pub(crate) async fn replay(
        &self,
        lease: &Lease,
        replays: &mut Replays,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        if replays.has_ended() {
            return self.send_end(lease, replays).await;
        }
        let mut alone = false;
        let (mut next, _permit) = loop {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Stopped),
                () = self.services.shutdown.stopping() => return Err(Ended::Stopped),
                () = lease.lost() => return Err(Ended::Fenced),
                permit = self.services.suspects.clone().wait(alone) => permit,
            };
            let Some(next) = self.next_replay(lease, replays).await? else { return Ok(()) };
            if alone || !next.is_suspect() {
                break (next, permit);
            }
            self.untried(lease, &next.replay).await;
            alone = true;
        };
        let fate = match (next.fate.take(), next.taker) {
            (None, Taker::Consumer(consumer)) => {
                let Some(result) = self.attempt(lease, &next, consumer, stop).await? else {
                    self.untried(lease, &next.replay).await;
                    return Err(Ended::Stopped);
                };
                self.fate(consumer, &next.replay, result)
            }
            (fate, _) => fate.unwrap_or(Fate::Done),
        };
        replays.ended = Some((next.replay.letter.id, self.end(&next, fate, replays)));
        self.send_end(lease, replays).await
    }

    /// Calls the handler with a letter once; `None` if `stop` came first.
    async fn attempt(
        &self,
        lease: &Lease,
        next: &Next,
        consumer: usize,
        stop: &CancellationToken,
    ) -> Result<Option<Result<Outcome, Failed>>, Ended> {
        let (handler, began) = (&self.handlers[consumer], Instant::now());
        if !lease.is_held(began) {
            return Err(Ended::Fenced);
        }
        // Events of a work queue run meanwhile, so its lease goes by their limits.
        let limits = Some(lease).filter(|_| !self.key.is_queue());
        let limit = after(began, handler.policy.timeout.saturating_add(self.services.lease_for));
        limits.inspect(|lease| lease.handlers_until(Some(limit)));
        let mut call = spawn(lease.while_held(handler.call(next.context(handler))));
        let returned = tokio::select! {
            biased;
            returned = &mut call => returned.map(Some),
            () = stop.cancelled() => {
                call.abort();
                // A handler that does not yield may still run when the next attempt begins.
                let _ = tokio::time::timeout(FAREWELL, &mut call).await;
                Ok(None)
            }
        };
        limits.inspect(|lease| lease.handlers_until(None));
        match ours(returned).flatten() {
            Some(None) => Err(Ended::Fenced),
            returned => Ok(returned.flatten()),
        }
    }

    async fn untried(&self, lease: &Lease, replay: &Replay) {
        let end = ReplayEnd::Again { attempts: replay.attempts };
        let sent = self.services.broker.end_replay(&self.key, lease.holder(), replay.letter.id, &end);
        let _ = tokio::time::timeout(FAREWELL, sent).await;
    }

    /// Takes the first of the replays; `None` where there is none for now.
    async fn next_replay(&self, lease: &Lease, replays: &mut Replays) -> Result<Option<Next>, Ended> {
        let taken = match self.ask(lease, self.services.broker.take_replay(&self.key, lease.holder())).await? {
            Ok(taken) => taken,
            Err(error) => {
                self.unanswered(replays, &error);
                return Ok(None);
            }
        };
        replays.failures = 0;
        let replay = match taken {
            Taken::Letter(replay) => replay,
            Taken::Nothing => {
                lease.no_replays();
                return Ok(None);
            }
            Taken::Gone => {
                tracing::warn!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    key = self.key.replay(),
                    "dead letters to replay are gone: somebody has deleted the key, or the server has lost it"
                );
                lease.no_replays();
                return Ok(None);
            }
            Taken::Fenced => return Err(Ended::Fenced),
        };
        let letter = DeadLetter::<()>::of_replay(self.key.partition().index(), Arc::clone(&replay.letter));
        // Only this build is asked to handle a letter, so the declarations of others do not matter.
        let (taker, too_new) = match self.handlers.route(&Events::new(), letter.original()) {
            Ok(taker) => (taker, None),
            Err(need) => (Taker::Nobody, Some(too_new(&need))),
        };
        let fate = too_new.or_else(|| before(&replay, taker, &letter, self.key.group()));
        Ok(Some(Next { replay, letter, taker, fate }))
    }

    fn fate(&self, consumer: usize, replay: &Replay, result: Result<Outcome, Failed>) -> Fate {
        let policy = &self.handlers[consumer].policy;
        fate(decide(result, replay.attempts + 1, policy, || self.services.random.fraction()))
    }

    /// Logs the outcome of the letter. Returns the end to send to the broker.
    fn end(&self, Next { letter, taker, replay, .. }: &Next, fate: Fate, replays: &mut Replays) -> ReplayEnd {
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        let original = letter.original();
        let consumer = match taker {
            Taker::Consumer(consumer) => self.handlers[*consumer].name(),
            Taker::Nobody | Taker::Repeated | Taker::Unnamed => "",
        };
        let (letter_id, entry, event, attempt) = (letter.id(), original.id, original.event_id(), replay.attempts + 1);
        match fate {
            Fate::Done => {
                tracing::info!(group, partition, letter = %letter_id, %entry, %event, consumer, attempt, "a dead letter was handled again: done");
                ReplayEnd::Done
            }
            Fate::Again { after, reason } => {
                let next = humantime::format_duration(Duration::from_millis(crate::clock::millis(after)));
                tracing::warn!(group, partition, letter = %letter_id, %entry, %event, consumer, attempt, reason, "a dead letter failed again; trying again in {next}");
                replays.put_off(after);
                ReplayEnd::Again { attempts: attempt }
            }
            Fate::Dead { cause, reason } => {
                let times = letter.replays() + 1;
                tracing::warn!(group, partition, letter = %letter_id, %entry, %event, consumer, attempts = attempt, replays = times, cause, reason, "a dead letter was handled again in vain: it is a dead letter again");
                let given_up = GivenUp {
                    consumer,
                    cause: &cause,
                    reason: &reason,
                    attempts: attempt,
                    replays: times,
                    edited: letter.is_edited(),
                };
                ReplayEnd::Dead(dead_letter::fields(&self.key, original, &given_up))
            }
        }
    }

    /// Sends the end of the attempt to the broker, again until it answers. Until then the letter is not tried.
    async fn send_end(&self, lease: &Lease, replays: &mut Replays) -> Result<(), Ended> {
        let Some((id, end)) = &replays.ended else { return Ok(()) };
        match self.ask(lease, self.services.broker.end_replay(&self.key, lease.holder(), *id, end)).await? {
            Ok(true) => {
                replays.ended = None;
                replays.failures = 0;
                Ok(())
            }
            Ok(false) => Err(Ended::Fenced),
            Err(error) => {
                self.unanswered(replays, &error);
                Ok(())
            }
        }
    }

    /// Bounds a call about a letter, which must not hold the partition up for ever.
    async fn ask<T>(
        &self,
        lease: &Lease,
        question: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<Result<T, BrokerError>, Ended> {
        tokio::select! {
            biased;
            () = lease.lost() => Err(Ended::Fenced),
            answer = tokio::time::timeout(FAREWELL, question) => Ok(answer.unwrap_or_else(|_| {
                Err(BrokerError::new(BrokerErrorKind::Indefinite, "no answer came in time"))
            })),
        }
    }

    /// Logs a call about a letter that failed, and puts the next one off: letters must not stop events.
    fn unanswered(&self, replays: &mut Replays, error: &BrokerError) {
        replays.failures = replays.failures.saturating_add(1);
        replays.put_off(wait(UNANSWERED, replays.failures, self.services.random.fraction()));
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        if error.is_retryable() || error.is_indefinite() {
            tracing::debug!(group, partition, %error, "dead letters are not handled again for now");
        } else {
            tracing::warn!(group, partition, %error, "dead letters cannot be handled again; events go on");
        }
    }
}

/// The outcome of a letter that is not tried at all.
fn before(replay: &Replay, taker: Taker, letter: &DeadLetter, group: &str) -> Option<Fate> {
    if replay.crashes >= MAX_CRASHES {
        let reason = format!(
            "the process that handled it again went away {} in the middle; before that: {}",
            times(replay.crashes),
            letter.reason()
        );
        return Some(Fate::Dead { cause: Cause::Crash.as_str().to_owned(), reason });
    }
    // The cause stays, because nothing new is known of the event.
    let stays = |reason| Some(Fate::Dead { cause: letter.cause().to_owned(), reason });
    match taker {
        Taker::Consumer(_) | Taker::Repeated => None,
        Taker::Nobody => stays(format!(
            "no consumer of group `{group}` takes `{}` any more; before that: {}",
            letter.event_name(),
            letter.reason()
        )),
        Taker::Unnamed => stays(letter.reason().to_owned()),
    }
}

/// The outcome of a letter of a version that this build does not know. The events of the group must not wait for a build
/// that does.
fn too_new(need: &Need) -> Fate {
    let Need { name, version, .. } = need;
    let reason =
        format!("version {version} of `{name}` is newer than this build knows; replay it when a newer build runs");
    Fate::Dead { cause: Cause::Decode.as_str().to_owned(), reason }
}

/// Decides what an attempt means for its letter.
fn fate(decision: Decision) -> Fate {
    let dead = |cause: Cause, reason| Fate::Dead { cause: cause.as_str().to_owned(), reason };
    match decision {
        Decision::Settle(Settlement::Done | Settlement::Skipped { .. }) => Fate::Done,
        Decision::Settle(Settlement::Dead { cause, reason }) => dead(cause, reason),
        Decision::Apart { reason, .. } => dead(Cause::Decode, reason),
        Decision::Retry { after, reason } => Fate::Again { after, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streams_core::Entry;
    use streams_core::keys::StreamKey;

    fn replay(crashes: u32) -> (Replay, DeadLetter) {
        let original = Entry::new(EntryId::new(7, 1), &[(b"event".to_vec(), b"Trade@2".to_vec())]);
        let key = StreamKey::new(None, "trades", 1).partition(0).group("risk");
        let given_up =
            GivenUp { consumer: "check", cause: "timeout", reason: "too slow", attempts: 1, replays: 0, edited: false };
        let fields = dead_letter::fields(&key, &original, &given_up);
        let letter = Arc::new(Entry::new(EntryId::new(9, 0), &fields));
        (Replay { letter: Arc::clone(&letter), attempts: 0, crashes }, DeadLetter::of_replay(0, letter))
    }

    #[test]
    fn a_letter_that_nobody_takes_goes_back_with_its_cause() {
        let (replay, letter) = replay(0);
        let Some(Fate::Dead { cause, reason }) = before(&replay, Taker::Nobody, &letter, "risk") else { panic!() };
        assert_eq!(cause, "timeout");
        assert_eq!(reason, "no consumer of group `risk` takes `Trade` any more; before that: too slow");
        assert_eq!(before(&replay, Taker::Consumer(0), &letter, "risk"), None);
    }

    #[test]
    fn a_letter_that_took_the_process_down_too_often_is_not_tried_again() {
        let (twice, letter) = replay(MAX_CRASHES - 1);
        assert_eq!(before(&twice, Taker::Consumer(0), &letter, "risk"), None);
        let (thrice, letter) = replay(MAX_CRASHES);
        let Some(Fate::Dead { cause, reason }) = before(&thrice, Taker::Consumer(0), &letter, "risk") else { panic!() };
        assert_eq!(cause, "crash");
        assert!(reason.contains("went away 3 times") && reason.ends_with("too slow"), "{reason}");
    }

    #[test]
    fn an_attempt_ends_a_letter_or_puts_it_off_but_never_halts_the_group() {
        assert_eq!(fate(Decision::Settle(Settlement::Done)), Fate::Done);
        assert_eq!(fate(Decision::Settle(Settlement::Skipped { reason: "old".to_owned() })), Fate::Done);
        let after = Duration::from_secs(1);
        assert_eq!(
            fate(Decision::Retry { after, reason: "down".to_owned() }),
            Fate::Again { after, reason: "down".to_owned() }
        );
    }
}
