//! The memory of an ordered group from one ownership to the next.

use streams_core::broker::{Holder, LeaseView};

use super::give_way::Passes;
use crate::membership::Still;

/// See the module.
#[derive(Default)]
pub(super) struct Standby {
    /// The last holding of the lease, if it came to anything.
    pub(super) holder: Option<Holder>,
    /// Whether the log says that this process owns the partition: taking its own lapsed lease again is no news.
    pub(super) told: bool,
    /// Why it was this process's turn to take the lease.
    pub(super) why: String,
    /// The lease that this process could take and leaves to a build that handles what is needed.
    pub(super) untaken: Still<LeaseView>,
    /// How often it has left the partition to another build.
    pub(super) passes: Passes,
}
