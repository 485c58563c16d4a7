//! A call to the broker that is sent with the same bytes until the broker answers. So a call without an answer is done
//! once.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::BrokerError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::call::{joined, spawn};
use super::ended::Ended;
use super::task::GroupTask;
use crate::backoff::{OUTAGE_BACKOFF, wait};
use crate::clock::after;
use crate::ops::{Contact, Matter, Sent};

/// See the module. Dropped, it cancels the call on its way, unless it is [detached](Self::detach).
pub(crate) struct Resend<C, R> {
    pub(crate) call: Arc<C>,
    reply: Option<AbortOnDropHandle<Result<R, BrokerError>>>,
    sent: Sent,
    failures: u32,
    retry_at: Option<Instant>,
}

impl<C, R: Send + 'static> Resend<C, R> {
    /// A call that was not sent yet.
    pub(crate) fn new(call: Arc<C>, now: Instant) -> Self {
        Self { call, reply: None, sent: Sent::at(now), failures: 0, retry_at: None }
    }

    /// Sends the call, for the first time or again.
    pub(crate) fn send(&mut self, call: impl Future<Output = Result<R, BrokerError>> + Send + 'static, now: Instant) {
        (self.reply, self.sent, self.retry_at) = (Some(spawn(call)), Sent::at(now), None);
    }

    /// When the call was sent, while it has no answer, not even an error.
    pub(crate) fn unanswered(&self) -> Option<&Sent> {
        self.retry_at.is_none().then_some(&self.sent)
    }

    /// Reports the silence of the call when it is time.
    pub(crate) fn mind(&mut self, contact: &Contact, matter: Matter) {
        if self.retry_at.is_none() {
            contact.mind(matter, &mut self.sent);
        }
    }

    /// Whether [`answer`](Self::answer) returns an answer at once.
    pub(crate) fn is_answered(&self) -> bool {
        self.retry_at.is_none() && self.reply.as_ref().is_some_and(AbortOnDropHandle::is_finished)
    }

    /// How many answers in a row were errors.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The answer was an error: the call is sent again after this long.
    pub(crate) fn retry(&mut self, wait: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(after(Instant::now(), wait));
    }

    /// Waits for the answer. `None` says that it is time to send the call again, because it has waited, or because the outage is
    /// `over`.
    ///
    /// # Cancel safety
    /// The call goes on.
    pub(crate) async fn answer(&mut self, over: impl Future<Output = ()>) -> Option<Result<R, BrokerError>> {
        if let Some(at) = self.retry_at {
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = over => {}
            }
            return None;
        }
        match &mut self.reply {
            Some(reply) => Some(joined(reply).await),
            None => std::future::pending().await,
        }
    }

    /// Lets a call that is on its way come to its end.
    pub(crate) fn detach(self) {
        if let Some(reply) = self.reply {
            drop(reply.detach());
        }
    }
}

impl GroupTask {
    /// How long to wait before a call to read is sent again, `failures` of which failed in a row. Fails if another try cannot help.
    pub(crate) fn retry_read(&self, error: BrokerError, failures: u32) -> Result<Duration, Ended> {
        match Ended::from(error) {
            Ended::Failed(error) => {
                self.contact.failed(Matter::Read, &error);
                Ok(wait(OUTAGE_BACKOFF, failures, self.services.random.fraction()))
            }
            ended => Err(ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use streams_core::broker::BrokerErrorKind;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    fn failed() -> Result<u8, BrokerError> {
        Err(BrokerError::new(BrokerErrorKind::Unavailable, "away"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_sent_again_until_it_is_answered() {
        let began = Instant::now();
        let mut call = Resend::new(Arc::new("same"), began);
        for times in 1..=2 {
            call.send(async { failed() }, Instant::now());
            assert!(call.answer(pending()).await.unwrap().is_err());
            call.retry(WAIT);
            assert!(call.unanswered().is_none() && !call.is_answered(), "it waits");
            assert!(call.answer(pending()).await.is_none(), "it is time to send it again");
            assert_eq!((call.failures(), began.elapsed()), (times, WAIT * times));
        }
        call.send(async { Ok(7) }, Instant::now());
        assert_eq!(call.answer(pending()).await.unwrap().unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_outage_ends_the_wait() {
        let began = Instant::now();
        let mut call = Resend::new(Arc::new(()), began);
        call.send(async { failed() }, began);
        assert!(call.answer(pending()).await.unwrap().is_err());
        call.retry(WAIT);
        assert!(call.answer(async {}).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_call_that_is_detached_comes_to_its_end() {
        for detaches in [true, false] {
            let (done, is_done) = tokio::sync::oneshot::channel();
            let (go, goes) = tokio::sync::oneshot::channel::<()>();
            let mut call = Resend::new(Arc::new(()), Instant::now());
            let sent = async move {
                let _ = goes.await;
                let _ = done.send(());
                failed()
            };
            call.send(sent, Instant::now());
            if detaches {
                call.detach()
            } else {
                drop(call)
            }
            let _ = go.send(());
            assert_eq!(is_done.await.is_ok(), detaches);
        }
    }
}
