//! Contending for a partition: make the group where it is new, then wait until its lease is ours.
//!
//! [`members`](crate::members) looks at the lease and says when its turn has come, [`ordered`](crate::ordered) goes on from here.

use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Acquired, Claim, Created, Holder, Holding};
use tokio::time::Instant;

use crate::builds::Way;
use crate::clock::after;
use crate::lease::{Lease, until};
use crate::loss::{DataLoss, DataLossKind, Reader};
use crate::members::member_of;
use crate::ordered::{Ended, Group, Past};
use crate::outage::Matter;
use crate::prove::bound;
use crate::status::Phase;
use crate::tail::{Follower, TAKE, Taken};

/// How many claims of an app are on their way at once. A lease runs from the moment when its claim was sent, so claims of
/// thousands of groups must not wait for each other on the connection; more at once would make none of them faster.
pub(crate) const CLAIMS: usize = 32;

impl Group {
    /// Makes the group where it is new, then waits until its lease is ours.
    pub(crate) async fn stand_by(&self, past: &mut Past) -> Result<(Lease, Holding), Ended> {
        let (broker, place) = (&self.engine.broker, &self.place);
        let (mut bell, mut first) = (None, !past.passes.are_many());
        past.untaken.doubt();
        // Since when another process owns the partition.
        let mut others: Option<Instant> = None;
        place.stand_by();
        loop {
            let sight = tokio::select! {
                biased;
                () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                sight = place.sight() => sight?,
                () = self.rung(&mut bell) => {
                    place.ask();
                    continue;
                }
                // For a whole lease: what this process could not do is another one's business now.
                () = until(others.map(|since| after(since, self.engine.lease_for))), if self.contact.is_troubled() => {
                    self.contact.rest();
                    place.ask();
                    continue;
                }
            };
            // First what was seen before, so that a server that has lost writes since then is found out. Made anew it would begin
            // at its `start`, perhaps beyond events that nobody has handled.
            let before = sight.before.as_ref().map_or(Ok(()), |before| self.recall(Some(before)));
            if before.and_then(|()| self.recall(sight.state.as_ref())).is_err() {
                // An answer tells of the past: a loss is what the server still says when it is asked once more.
                self.recall(broker.state(&self.key).await?.as_ref())?;
                place.ask();
                continue;
            }
            let Some(state) = sight.state else {
                if broker.create(&self.key, self.start).await? == Created::Foreign {
                    self.take_over().await?;
                }
                place.ask();
                continue;
            };
            self.declare(&state).await?;
            // A lease that ran out while nobody took it is this process's own still: its handlers have stopped.
            let ours = past
                .holder
                .as_ref()
                .is_some_and(|holder| holder.owner == state.lease.owner && holder.epoch == state.lease.epoch);
            let turn = if ours { Some("its own lease ran out, and nobody took it".to_owned()) } else { sight.turn };
            match turn {
                Some(why) => match self.give_way(&state, &mut past.untaken).await? {
                    Way::Contend => {
                        let claim = Claim {
                            owner: place.token(),
                            lease_for: self.engine.lease_for,
                            seen: state.lease.clone(),
                            own: ours,
                            bound: bound(
                                self.checkpoint,
                                self.lanes,
                                self.handlers.iter().map(|handler| &handler.policy),
                            ),
                        };
                        let _claiming = tokio::select! {
                            biased;
                            () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                            claiming = self.engine.claims.acquire() => claiming,
                        };
                        let sent = Instant::now();
                        let acquired = broker.acquire(&self.key, &claim);
                        match self.contact.patiently(Matter::Lease, sent, acquired).await? {
                            Acquired::Held(holding) => {
                                past.why = why;
                                self.proves(&holding, &claim.seen, ours);
                                let holder = Holder { owner: claim.owner, epoch: holding.epoch };
                                return Ok((self.engine.leases.hold(&self.progress, holder, sent), holding));
                            }
                            // The next look says what has become of it.
                            Acquired::Contended | Acquired::Missing => place.ask(),
                            refused => return Err(self.refused(&refused)),
                        }
                        continue;
                    }
                    Way::Forgotten => {
                        place.ask();
                        continue;
                    }
                    Way::Leave => {}
                },
                None => {
                    let owner = member_of(&state.lease.owner).to_owned();
                    others = others.or(Some(Instant::now())).filter(|_| !owner.is_empty() && !place.is_of(&owner));
                    let phase = match self.contact.trouble() {
                        Some(reason) => Phase::Troubled { reason },
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
            past.told = past.passes.are_many();
            if bell.is_none() {
                let follower = self.engine.tails.follow_bell(&self.key.partition().bell());
                bell = Some((follower, EntryId::ZERO));
                // Followed before the state is read again, so that a ring between the two is not missed.
                place.ask();
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

    /// Waits until the bell rings for this group.
    pub(crate) async fn rung(&self, bell: &mut Option<(Follower, EntryId)>) {
        let Some((bell, position)) = bell else { return std::future::pending().await };
        loop {
            match bell.wait(*position, None, TAKE).await {
                Taken::Entries(rings) => {
                    *position = rings.last().map_or(*position, |ring| ring.id);
                    if rings.iter().any(|ring| ring.field("group") == Some(self.key.group().as_bytes())) {
                        return;
                    }
                }
                Taken::Behind { floor } => *position = floor,
                // Without a bell the looks at the lease still find a take-over.
                Taken::Nothing | Taken::Broken(_) => std::future::pending().await,
            }
        }
    }

    /// The group was made for the other delivery.
    pub(crate) fn wrong_mode(&self, mode: &str) -> Ended {
        let is_used = match mode {
            "shared" => {
                return self.halted(format!(
                    "{} was made for shared delivery by an earlier build, which kept it in the pending list of Redis; let that build handle what there is, then delete its state `{}` and start once with `adopt = true`, or choose another group name",
                    self.key,
                    self.key.state()
                ));
            }
            "queue" => "is used in `shared` delivery",
            _ => "is used in `ordered` delivery",
        };
        self.halted(format!("{} {is_used}, and the two never mix under one name; choose another group name", self.key))
    }

    /// Why the lease cannot be taken.
    fn refused(&self, refused: &Acquired) -> Ended {
        let key = &self.key;
        match refused {
            Acquired::Vanished { at } => Self::vanished(Reader::new(*at, "", None)),
            // The newest entries may have come after the cut, with a clock that is behind.
            Acquired::Ahead { at, .. } => {
                let loss = DataLoss { kind: DataLossKind::HistoryCut, from: EntryId::ZERO, to: *at, count: None };
                Ended::Cut { loss, at: Some(Box::new(Reader::nowhere())) }
            }
            Acquired::Mode(mode) => self.wrong_mode(mode),
            other => self.halted(format!("{key}: unexpected answer {other:?} to a claim of the lease")),
        }
    }
}
