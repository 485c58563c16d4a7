//! A call to the broker that is on its way while its task does something else, and the meaning of its errors.

use std::future::Future;
use std::time::Duration;

use streams_core::broker::{BrokerError, BrokerErrorKind};
use tokio_util::task::AbortOnDropHandle;

use super::halt::Halt;
use super::task::GroupTask;
use crate::backoff::{OUTAGE_BACKOFF, wait};
use crate::membership::Lease;
use crate::ops::Matter;

/// How long a call waits that found the dead letters full, or was refused: an operator may have mended it by then.
pub(crate) const OPERATOR_RETRY: Duration = Duration::from_secs(5);

pub(crate) type Call<T> = Option<AbortOnDropHandle<Result<T, BrokerError>>>;

pub(crate) fn spawn<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(call))
}

/// Waits for the answer of a call.
///
/// # Cancel safety
/// The call goes on.
pub(crate) async fn joined<T>(call: &mut AbortOnDropHandle<Result<T, BrokerError>>) -> Result<T, BrokerError> {
    call.await.unwrap_or_else(|error| {
        Err(BrokerError::new(BrokerErrorKind::Indefinite, "a call was aborted").caused_by(error))
    })
}

/// Waits for the answer of a call, if one is on its way.
///
/// # Cancel safety
/// The call goes on.
pub(crate) async fn reply<T>(call: &mut Call<T>) -> Result<T, BrokerError> {
    match call {
        Some(call) => joined(call).await,
        None => std::future::pending().await,
    }
}

impl GroupTask {
    /// Judges an error of a call that settles events and is sent again until it is answered: how long the call waits, or why the
    /// group halts. `failures` counts the errors before this one.
    ///
    /// An owner that the server answers deserves its lease, also where the answer is that there is no room or no permission.
    pub(crate) fn on_call_error(&self, lease: &Lease, error: &BrokerError, failures: u32) -> Result<Duration, Halt> {
        if error.is_retryable() || error.is_indefinite() {
            self.contact.failed(Matter::Write, error);
            if error.kind() == BrokerErrorKind::Full {
                lease.commit_ended();
            }
            return Ok(wait(OUTAGE_BACKOFF, failures.saturating_add(1), self.services.random.fraction()));
        }
        if error.kind() != BrokerErrorKind::Refused {
            return Err(Halt::Broker { error: error.to_string() });
        }
        // Until somebody has mended the permission or the key, no handler runs whose event nobody could settle.
        lease.commit_ended();
        self.contact.rest();
        self.log_refused(error);
        Ok(self.operator_retry())
    }

    /// The wait for an operator, less up to half of it, so that many partitions do not ask in step.
    pub(crate) fn operator_retry(&self) -> Duration {
        OPERATOR_RETRY.mul_f64(1.0 - self.services.random.fraction() / 2.0)
    }
}
