//! Contending for a partition: make the group where it is new, then wait until its lease is ours.
//!
//! The members look at the lease and say when its turn has come ([`Seat`](crate::membership::Seat)); [`Ordered`](super::Ordered) goes on from here.

use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Acquired, Claim, Created, Holder, Holding};
use tokio::time::Instant;

use super::give_way::Way;
use super::recovery::bound;
use super::standby::Standby;
use crate::clock::{after, until};
use crate::data_loss::{DataLoss, DataLossKind};
use crate::group::{Ended, Group, Halt};
use crate::membership::{Lease, member_of};
use crate::ops::{Matter, Phase};
use crate::reader::Bookmark;

impl Group {
    /// Makes the group where it is new, then waits until its lease is ours.
    pub(super) async fn stand_by(&self, standby: &mut Standby) -> Result<(Lease, Holding), Ended> {
        let (broker, seat) = (&self.services.broker, &self.seat);
        let (mut bell, mut first) = (None, !standby.passes.are_many());
        standby.untaken.doubt();
        // Since when another process owns the partition.
        let mut others: Option<Instant> = None;
        seat.stand_by();
        loop {
            let sight = tokio::select! {
                biased;
                () = self.services.shutdown.stopping() => return Err(Ended::Stopped),
                sight = seat.sight() => sight?,
                () = self.rung(&mut bell) => {
                    seat.ask();
                    continue;
                }
                // For a whole lease: what this process could not do is another one's business now.
                () = until(others.map(|since| after(since, self.services.lease_for))), if self.contact.is_troubled() => {
                    self.contact.rest();
                    seat.ask();
                    continue;
                }
            };
            // First what was seen before, so that a server that has lost writes since then is found out. Made anew it would begin
            // at its `start`, perhaps beyond events that nobody has handled.
            let before = sight.before.as_ref().map_or(Ok(()), |before| self.recall(Some(before)));
            if before.and_then(|()| self.recall(sight.state.as_ref())).is_err() {
                // An answer tells of the past: a loss is what the server still says when it is asked once more.
                self.recall(broker.state(&self.key).await?.as_ref())?;
                seat.ask();
                continue;
            }
            let Some(state) = sight.state else {
                if broker.create(&self.key, self.options.start).await? == Created::Foreign {
                    self.take_over().await?;
                }
                seat.ask();
                continue;
            };
            self.declare(&state).await?;
            // A lease that ran out while nobody took it is this process's own still: its handlers have stopped.
            let ours = standby
                .holder
                .as_ref()
                .is_some_and(|holder| holder.owner == state.lease.owner && holder.epoch == state.lease.epoch);
            let turn = if ours { Some("its own lease ran out, and nobody took it".to_owned()) } else { sight.turn };
            match turn {
                Some(why) => match self.give_way(&state, &mut standby.untaken).await? {
                    Way::Contend => {
                        let claim = Claim {
                            owner: seat.token(),
                            lease_for: self.services.lease_for,
                            seen: state.lease.clone(),
                            own: ours,
                            bound: bound(
                                self.options.checkpoint,
                                self.options.lanes,
                                self.handlers.iter().map(|handler| &handler.policy),
                            ),
                        };
                        let _claiming = tokio::select! {
                            biased;
                            () = self.services.shutdown.stopping() => return Err(Ended::Stopped),
                            claiming = self.services.claims.acquire() => claiming,
                        };
                        let sent = Instant::now();
                        let acquired = broker.acquire(&self.key, &claim);
                        match self.contact.patiently(Matter::Lease, sent, acquired).await? {
                            Acquired::Held(holding) => {
                                standby.why = why;
                                self.proves(&holding, &claim.seen, ours);
                                let holder = Holder { owner: claim.owner, epoch: holding.epoch };
                                return Ok((self.services.leases.hold(&self.progress, holder, sent), holding));
                            }
                            // The next look says what has become of it.
                            Acquired::Contended | Acquired::Missing => seat.ask(),
                            refused => return Err(self.refused(&refused)),
                        }
                        continue;
                    }
                    Way::Forgotten => {
                        seat.ask();
                        continue;
                    }
                    Way::Leave => {}
                },
                None => {
                    let owner = member_of(&state.lease.owner).to_owned();
                    others = others.or(Some(Instant::now())).filter(|_| !owner.is_empty() && !seat.is_of(&owner));
                    let phase = match self.contact.trouble() {
                        Some(reason) => Phase::Retrying(reason),
                        None => Phase::StandingBy { owner: owner.clone() },
                    };
                    if self.progress.enter(phase) {
                        self.tell(&owner, state.lease_for, first);
                        first &= owner.is_empty();
                    }
                }
            }
            // Not before a claim: what it comes to says whether the server can be used.
            self.contact.succeeded(Matter::Lease);
            standby.told = standby.passes.are_many();
            if bell.is_none() {
                let follower = self.services.tails.follow_bell(&self.key.partition().bell());
                bell = Some((follower, EntryId::ZERO));
                // Followed before the state is read again, so that a ring between the two is not missed.
                seat.ask();
            }
        }
    }

    /// Says who owns the partition: that others pass it on between them is no news.
    fn tell(&self, owner: &str, lease_for: Duration, first: bool) {
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        if owner.is_empty() {
            tracing::debug!(group, partition, "nobody owns the partition: waiting for the process whose turn it is");
        } else if first {
            tracing::info!(
                group,
                partition,
                owner,
                "waiting for the lease of another process, at most {} after its last sign of life, or until it hands over",
                humantime::format_duration(lease_for)
            );
        } else {
            tracing::debug!(group, partition, owner, "another process owns the partition now");
        }
    }

    /// Why the lease cannot be taken.
    fn refused(&self, refused: &Acquired) -> Ended {
        match refused {
            Acquired::Vanished { at } => Self::vanished(Bookmark::new(*at, "", None)),
            // The newest entries may have come after the cut, with a clock that is behind.
            Acquired::Ahead { at, .. } => {
                let loss = DataLoss { kind: DataLossKind::HistoryCut, from: EntryId::ZERO, to: *at, count: None };
                Ended::Cut { loss, at: Some(Box::new(Bookmark::nowhere())) }
            }
            Acquired::Mode(mode) => self.wrong_mode(mode),
            other => self.halted(Halt::UnknownAnswer { answer: format!("{other:?}") }),
        }
    }
}
