//! Delivery in order: one process owns a partition at a time, handles its entries in the order of the stream, and commits a checkpoint.
//!
//! [`contend`] waits for the lease, [`deliver`] handles entries while it is held, [`commit`] tells the server, and this file
//! gives the lease back. May use `group` and everything below it; only `app` uses this room, by its door [`Ordered`].

mod advance;
mod attempt;
mod batch;
mod commit;
mod contend;
mod deliver;
mod dispatch;
mod give_way;
mod hand;
mod lanes;
mod ledger;
mod recovery;
mod replays;
mod standby;

use std::time::Duration;

use streams_core::broker::Holding;

use self::commit::Committer;
use self::standby::Standby;
use crate::group::{Ended, Engine, GroupTask};
use crate::membership::Lease;
use crate::ops::Matter;
use crate::shutdown::FAREWELL;

/// A server that is there answers the tail within this, also when nothing happens.
const LATELY: Duration = Duration::from_millis(1500);

/// A group in order, with what it remembers from one ownership to the next.
#[derive(Default)]
pub(crate) struct Ordered(Standby);

impl Engine for Ordered {
    async fn once(&mut self, group: &GroupTask) -> Ended {
        let ended = group.own_once(&mut self.0).await;
        if let Ended::GivenWay(_) = ended {
            self.0.told = self.0.passes.are_many();
        }
        ended
    }

    fn is_over(&mut self) {
        self.0.told = false;
    }

    fn panicked(&mut self) {
        (self.0.holder, self.0.told) = (None, false);
    }
}

impl GroupTask {
    /// From making the group to the end of one ownership.
    async fn own_once(&self, standby: &mut Standby) -> Ended {
        let (lease, holding) = match self.stand_by(standby).await {
            Ok(held) => held,
            Err(ended) => {
                if let Ended::Failed(error) = &ended {
                    self.contact.failed(Matter::Lease, error);
                }
                return ended;
            }
        };
        self.seat.own(&lease);
        standby.holder = Some(lease.holder().clone());
        self.contact.succeeded(Matter::Lease);
        self.progress.resume();
        self.owns(holding.epoch);
        let (group, partition, epoch) = (self.key.group(), self.key.partition().as_str(), holding.epoch);
        if std::mem::replace(&mut standby.told, true) {
            tracing::debug!(group, partition, epoch, at = %holding.at, "owning again");
        } else {
            tracing::info!(group, partition, epoch, at = %holding.at, why = standby.why, "owning");
        }
        self.history.owned(holding.epoch);
        self.progress.owned(&holding);
        self.acknowledged(holding.at);
        let ended = self.own(&lease, holding, standby).await;
        // Where it was not given back.
        self.progress.disowned(true);
        ended
    }

    /// Reads and handles until the lease is lost or the app stops.
    async fn own(&self, lease: &Lease, holding: Holding, standby: &mut Standby) -> Ended {
        self.withdraw(&holding.events).await;
        let mut committer = Committer::new(self, lease, &holding);
        let mut ended = self.work(lease, &holding, &mut committer).await;
        if let Ended::Failed(error) = &ended {
            self.contact.failed(Matter::Read, error);
        }
        if matches!(ended, Ended::Fenced) {
            // An owner that could not commit must leave the lease to others, however often it could take it again; not
            // so where the server was away for everybody, or told that it does not take commits now.
            let stuck = lease.is_undeserved() || committer.unanswered_since().is_some();
            let nothing_done = !committer.ledger.is_clean() && committer.ledger.at() == holding.at;
            if let Some(since) = committer.unanswered_since().filter(|_| nothing_done) {
                self.contact.silent(Matter::Write, since);
            }
            if nothing_done && stuck && self.services.outages.answered_within(LATELY.max(self.services.lease_for / 2)) {
                standby.holder = None;
                self.seat.excuse();
            }
            return ended;
        }
        let mut needs = match &ended {
            Ended::GivenWay(need) => Some(need.clone()),
            _ => None,
        };
        match tokio::time::timeout(FAREWELL, committer.finish()).await {
            // A cut that the commit came upon is no reason to doubt the commit.
            Ok(Ok(()) | Err(Ended::Cut { .. })) => {}
            Ok(Err(Ended::Fenced)) => return ended.without_lease(),
            Ok(Err(Ended::GivenWay(need))) => needs = Some(need),
            Ok(Err(failed)) => self.left(
                &ended,
                &format!("the last commit failed ({failed:?}): events since the checkpoint will come again"),
            ),
            Err(_) => self.left(&ended, "the last commit was not answered: events since the checkpoint may come again"),
        }
        self.acknowledged(committer.ledger.at());
        if let Ended::Cut { loss, at } = ended {
            ended = self.answer(&loss, at).await;
        }
        if let Ended::Halted { halt, keep: true } = &ended {
            // Renewed while it waits, so that no other process runs into the same.
            tokio::select! {
                () = self.halt(halt) => ended = Ended::Restart,
                () = lease.lost() => {}
            }
        }
        self.prepare(&ended).await;
        if let Some(need) = &needs {
            self.pass(lease, &mut standby.passes, need).await;
        }
        let release = self.services.broker.release(&self.key, lease.holder(), needs.as_ref());
        let released = tokio::time::timeout(FAREWELL, release).await;
        if !matches!(released, Ok(Ok(_))) && matches!(ended, Ended::GivenUp) {
            self.seat.keep();
        }
        match released {
            Ok(Ok(held)) => {
                self.progress.disowned(!held);
                if held {
                    let (group, partition) = (self.key.group(), self.key.partition().as_str());
                    tracing::debug!(group, partition, epoch = lease.holder().epoch, "released");
                }
            }
            Ok(Err(error)) => {
                self.left(
                    &ended,
                    &format!("the lease could not be given back ({error}): others take over when it runs out"),
                );
                // It would take its own lease again at once, only to come upon the same event.
                if let Ended::GivenWay(_) = ended {
                    return error.into();
                }
            }
            Err(_) => self.left(
                &ended,
                "giving the lease back was not answered: others take over when it runs out at the latest",
            ),
        }
        ended
    }

    /// What others have to know before the lease is given back, so that the right one takes it at once.
    async fn prepare(&self, ended: &Ended) {
        if self.services.shutdown.is_stopping() {
            self.seat.left().await;
        } else if let Ended::Halted { .. } | Ended::Refused(_) = ended {
            self.seat.excused().await;
        }
    }
}
