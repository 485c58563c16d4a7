//! A call to the broker that is on its way while its task does something else.

use std::future::Future;

use streams_core::broker::{BrokerError, BrokerErrorKind};
use tokio_util::task::AbortOnDropHandle;

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
