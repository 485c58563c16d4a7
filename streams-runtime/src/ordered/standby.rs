//! The memory of an ordered group from one ownership to the next.

use streams_core::broker::{Holder, Holding, LeaseView};

use super::give_way::Passes;
use crate::group::{GroupTask, News};
use crate::membership::{Lease, Still};
use crate::ops::Matter;

/// See the module.
#[derive(Default)]
pub(super) struct Standby {
    /// The last holding of the lease, if it came to anything.
    pub(super) holder: Option<Holder>,
    /// Whether the log says that this process owns the partition: taking its own lapsed lease again is no news.
    pub(super) logged: bool,
    /// Why this process could take the lease.
    pub(super) why: String,
    /// The lease that this process could take, and leaves to a build that handles the event that is needed.
    pub(super) untaken: Still<LeaseView>,
    /// How often this process has left the partition to another build.
    pub(super) passes: Passes,
}

impl Standby {
    /// Begins an ownership: the log and the status say so, and the history remembers it.
    pub(super) fn begin(&mut self, task: &GroupTask, lease: &Lease, holding: &Holding) {
        task.seat.own(lease);
        self.holder = Some(lease.holder().clone());
        task.contact.succeeded(Matter::Lease);
        task.progress.resume();
        task.owns(holding.epoch);
        let (group, partition, epoch) = (task.key.group(), task.key.partition().as_str(), holding.epoch);
        if std::mem::replace(&mut self.logged, true) {
            tracing::debug!(group, partition, epoch, at = %holding.at, "took the lease again");
        } else {
            tracing::debug!(group, partition, epoch, at = %holding.at, why = self.why, "took the lease");
            task.log_news(News::Owning { why: self.why.clone() });
        }
        task.history.owned(holding.epoch);
        task.progress.owned(holding);
        task.acknowledged(holding.at);
    }
}
