//! Contending for a partition: makes the group where it is new, then waits until this process holds its lease.
//!
//! The members look at the lease and say when its turn has come ([`Seat`](crate::membership::Seat)); [`Ordered`](super::Ordered) goes on from here.

use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Acquired, Claim, Created, Holder, Holding, LeaseView};
use tokio::time::Instant;

use super::give_way::{Way, give_way};
use super::recovery::{bound, log_recovery};
use super::standby::Standby;
use crate::clock::{after, until};
use crate::data_loss::{DataLoss, DataLossKind};
use crate::group::{Ended, GroupTask, Halt, News};
use crate::membership::{Lease, member_of};
use crate::ops::{Matter, Phase};
use crate::reader::Bookmark;

impl Standby {
    /// Makes the group where it is new, then waits until this process holds its lease.
    pub(super) async fn stand_by(&mut self, task: &GroupTask) -> Result<(Lease, Holding), Ended> {
        let (broker, seat) = (&task.services.broker, &task.seat);
        let (mut bell, mut first) = (None, !self.passes.are_many());
        self.untaken.doubt();
        // Since when another process owns the partition.
        let mut others: Option<Instant> = None;
        seat.stand_by();
        loop {
            let seen = tokio::select! {
                biased;
                () = task.services.shutdown.stopping() => return Err(Ended::Stopped),
                () = seat.paused() => return Err(Ended::Paused),
                seen = seat.observation() => seen?,
                () = task.rung(&mut bell) => {
                    seat.ask();
                    continue;
                }
                // Another process has owned the partition for a whole lease: what this process could not do is its business now.
                () = until(others.map(|since| after(since, task.services.lease_for))), if task.contact.is_troubled() => {
                    task.contact.rest();
                    seat.ask();
                    continue;
                }
            };
            // The earlier answer is judged first, so that a server that has lost writes since then is found out. A group that is
            // made anew would begin at its `start`, perhaps beyond events that nobody has handled.
            let before = seen.before.as_ref().map_or(Ok(()), |before| task.history.recall(Some(before)));
            if before.and_then(|()| task.history.recall(seen.state.as_ref())).is_err() {
                // An answer may be out of date: a loss is what the server still shows when it is asked once more.
                task.history.recall(broker.state(&task.key).await?.as_ref())?;
                seat.ask();
                continue;
            }
            let Some(state) = seen.state else {
                if broker.create(&task.key, task.options.start).await? == Created::Foreign {
                    task.take_over().await?;
                }
                seat.ask();
                continue;
            };
            task.declare(&state).await?;
            // A lease that ran out while nobody took it is this process's own still: its handlers have stopped.
            let ours = self
                .holder
                .as_ref()
                .is_some_and(|holder| holder.owner == state.lease.owner && holder.epoch == state.lease.epoch);
            let why = if ours { Some("its own lease ran out, and nobody took it".to_owned()) } else { seen.turn };
            if let Some(why) = why {
                match give_way(task, &state, &mut self.untaken).await? {
                    Way::Contend => {
                        if let Some(held) = self.claim(task, state.lease, ours).await? {
                            self.why = why;
                            return Ok(held);
                        }
                        // The next look says what has become of the lease.
                        seat.ask();
                        continue;
                    }
                    Way::Forgotten => {
                        seat.ask();
                        continue;
                    }
                    Way::Leave => {}
                }
            } else {
                let owner = member_of(&state.lease.owner).to_owned();
                others = others.or(Some(Instant::now())).filter(|_| !owner.is_empty() && !seat.is_of(&owner));
                let phase = match task.contact.trouble() {
                    Some(reason) => Phase::Retrying(reason),
                    None => Phase::StandingBy { owner: owner.clone() },
                };
                if task.progress.enter(phase) {
                    log_owner(task, &owner, state.lease_for, first);
                    first &= owner.is_empty();
                }
            }
            // A claim would say by its own answer whether the server can be used.
            task.contact.succeeded(Matter::Lease);
            self.logged = self.passes.are_many();
            if bell.is_none() {
                let follower = task.services.tails.follow_bell(&task.key.partition().bell());
                bell = Some((follower, EntryId::ZERO));
                // The bell is followed before the state is read again, so that a ring between the two is not missed.
                seat.ask();
            }
        }
    }

    /// Claims the lease; `None` where it was not to be had any more.
    async fn claim(&self, task: &GroupTask, seen: LeaseView, own: bool) -> Result<Option<(Lease, Holding)>, Ended> {
        let services = &task.services;
        let claim = Claim {
            owner: task.seat.token(),
            lease_for: services.lease_for,
            seen,
            own,
            bound: bound(task.options.checkpoint, task.options.lanes, task.handlers.policies()),
        };
        let _claiming = tokio::select! {
            biased;
            () = services.shutdown.stopping() => return Err(Ended::Stopped),
            claiming = services.claims.acquire() => claiming,
        };
        let sent = Instant::now();
        let acquired = services.broker.acquire(&task.key, &claim);
        match task.contact.patiently(Matter::Lease, sent, acquired).await? {
            Acquired::Held(holding) => {
                log_recovery(task, &holding, &claim.seen, own);
                let holder = Holder { owner: claim.owner, epoch: holding.epoch };
                Ok(Some((services.leases.hold(&task.progress, holder, sent), holding)))
            }
            Acquired::Contended | Acquired::Missing => Ok(None),
            refused => Err(refusal(task, &refused)),
        }
    }
}

/// Logs who owns the partition. Once others pass it on between them that is no news.
fn log_owner(task: &GroupTask, owner: &str, lease_for: Duration, first: bool) {
    let (group, partition) = (task.key.group(), task.key.partition().as_str());
    if owner.is_empty() {
        tracing::debug!(group, partition, "nobody owns the partition: waiting for the process whose turn it is");
        return;
    }
    tracing::debug!(group, partition, owner, "another process owns the partition now");
    task.news.is_shared();
    if first {
        task.log_news(News::Waiting { owner: owner.to_owned(), lease: lease_for });
    }
}

/// Why the lease cannot be taken.
fn refusal(task: &GroupTask, refused: &Acquired) -> Ended {
    match refused {
        Acquired::Vanished { at } => GroupTask::vanished(Bookmark::new(*at, "", None)),
        // The newest entries may have come after the cut, with a clock that is behind.
        Acquired::Ahead { at, .. } => {
            let loss = DataLoss { kind: DataLossKind::HistoryCut, from: EntryId::ZERO, to: *at, count: None };
            Ended::Cut { loss, at: Some(Box::new(Bookmark::nowhere())) }
        }
        Acquired::Mode(mode) => task.wrong_mode(mode),
        other => task.halted(Halt::UnknownAnswer { answer: format!("{other:?}") }),
    }
}
