//! Delivery in order: one process owns a partition at a time, handles its entries in the order of the stream, and commits a checkpoint.
//!
//! [`contend`] waits for the lease. [`deliver`] handles entries with an [`Owned`], which commits, and gives the lease back.
//! May use `group` and everything below it; only `app` uses this room, by its door [`Ordered`].

mod advance;
mod attempt;
mod batch;
mod commit;
mod contend;
mod deliver;
mod dispatch;
mod give_way;
mod lanes;
mod ledger;
mod owned;
mod recovery;
mod repeats;
mod replays;
mod standby;

use self::deliver::Delivery;
use self::owned::Owned;
use self::standby::Standby;
use crate::group::{Ended, Engine, GroupTask};
use crate::ops::Matter;

/// A group in order, with what it remembers from one ownership to the next.
#[derive(Default)]
pub(crate) struct Ordered(Standby);

impl Engine for Ordered {
    /// From making the group to the end of one ownership.
    async fn once(&mut self, task: &GroupTask) -> Ended {
        let standby = &mut self.0;
        let (lease, holding) = match standby.stand_by(task).await {
            Ok(held) => held,
            Err(ended) => return task.noted(Matter::Lease, ended),
        };
        standby.begin(task, &lease, &holding);
        task.withdraw(&holding.events).await;
        let mut owned = Owned::new(task, &lease, &holding);
        let ended = task.noted(Matter::Read, Delivery::new(task, &holding).run(&mut owned, &holding).await);
        let ended = owned.give_back(ended, holding.at, standby).await;
        // Where the lease was not released.
        task.progress.disowned(true);
        if let Ended::GivenWay(_) = ended {
            standby.logged = standby.passes.are_many();
        }
        ended
    }

    fn is_over(&mut self) {
        self.0.logged = false;
    }

    fn panicked(&mut self) {
        (self.0.holder, self.0.logged) = (None, false);
    }
}
