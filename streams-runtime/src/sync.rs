//! Mutexes that outlive a panic, and waits for a future that may be missing.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The value, also after a panic under the lock: every holder leaves it whole at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A future that waits for its turn.
pub(crate) type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Waits for the future; for ever where there is none.
///
/// # Cancel safety
/// The place in line is kept.
pub(crate) async fn awaited<T>(waiting: &mut Option<Waiting<T>>) -> T {
    match waiting {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}
