//! Waiting for something in real time: [`until`] looks again and again.

use std::time::Duration;

/// Waits until it holds.
///
/// # Panics
/// When it does not within a minute, which on a machine that is busy with a build is not long.
pub async fn until(mut holds: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(60), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("it comes to pass within a minute");
}
