//! The events of the benches of lanes and of work queues, and handlers that only count or that wait. A bench waits until
//! the last event was handled.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streams_runtime::{Registration, consumer, consumers, stream_event};
use tokio::sync::Notify;

use crate::common::replies::connect;

/// How long a handler waits that waits.
pub(crate) const WAIT: Duration = Duration::from_millis(2);

#[stream_event(stream = "payments", key = account)]
pub(crate) struct Payment {
    pub(crate) account: String,
    pub(crate) amount: u64,
    time_ms: u64,
}

/// The payments with these amounts, of so many accounts.
pub(crate) fn payments(amounts: std::ops::Range<u64>, accounts: u64) -> impl Iterator<Item = Payment> {
    amounts.map(move |amount| Payment {
        account: format!("account-{}", amount % accounts),
        amount,
        time_ms: 1_700_000_000_000 + amount,
    })
}

static LEFT: AtomicU64 = AtomicU64::new(0);
static ALL: Notify = Notify::const_new();

/// So many calls are to come.
pub(crate) fn expect(calls: u64) {
    LEFT.store(calls, Ordering::Relaxed);
}

pub(crate) fn count() {
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        ALL.notify_one();
    }
}

#[allow(dead_code, reason = "not every bench looks")]
/// Whether all were counted that are to come.
pub(crate) fn is_over() -> bool {
    LEFT.load(Ordering::Relaxed) == 0
}

/// Waits until all were counted that are to come.
pub(crate) async fn over() {
    ALL.notified().await;
}

#[consumer(group = "counts")]
async fn counts(_payment: Payment) {
    count();
}

#[consumer(group = "waits")]
async fn waits(_payment: Payment) {
    tokio::time::sleep(WAIT).await;
    count();
}

/// The handler that counts, and the one that waits.
pub(crate) fn handlers() -> [Registration; 2] {
    consumers![counts, waits]
}

/// Removes a group, so that it is a new one next time.
pub(crate) async fn forget(url: &str, group: &str) {
    let mut connection = connect(url).await;
    let state = format!("streams:{{payments}}:{group}");
    let _: () = redis::cmd("DEL").arg(state).query_async(&mut connection).await.expect("an answer");
    let mut destroy = redis::cmd("XGROUP");
    let _: () =
        destroy.arg("DESTROY").arg("payments").arg(group).query_async(&mut connection).await.expect("an answer");
}
