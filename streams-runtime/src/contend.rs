//! Contending for a partition: make the group where it is new, then wait until its lease is ours.
//!
//! [`lease`](crate::lease) judges what is read, [`ordered`](crate::ordered) goes on from here.

use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Acquired, Claim, Created, Holder, Holding};
use tokio::time::Instant;

use crate::lease::{Lease, Verdict, Watch};
use crate::loss::{DataLoss, DataLossKind, Reader};
use crate::ordered::{Ended, Group, Past};
use crate::status::Phase;
use crate::tail::{Follower, TAKE, Taken};

/// How often a contender looks at a lease at least; the lease's length / 10 when that is shorter.
const LOOK: Duration = Duration::from_secs(1);

impl Group {
    /// Makes the group where it is new, then waits until its lease is ours.
    pub(crate) async fn stand_by(&self, past: &mut Past) -> Result<(Lease, Holding), Ended> {
        let broker = &self.engine.broker;
        let (mut watch, mut bell) = (Watch::default(), None);
        let mut exists = self.known().is_some();
        loop {
            if self.engine.shutdown.is_stopping() {
                return Err(Ended::Stopped);
            }
            if !exists {
                if broker.create(&self.key, self.start).await? == Created::Foreign {
                    self.take_over().await?;
                }
                exists = true;
            }
            let Some(state) = broker.state(&self.key).await? else {
                // Made anew it would begin at its `start`, perhaps beyond events that nobody has handled.
                self.recall(None)?;
                exists = false;
                continue;
            };
            self.recall(Some(&state))?;
            // A lease that ran out while nobody took it is this process's own still: its handlers have stopped.
            let ours = past
                .holder
                .as_ref()
                .is_some_and(|holder| holder.owner == state.lease.owner && holder.epoch == state.lease.epoch);
            let verdict = if ours { Verdict::Claim } else { watch.observe(&state, Instant::now()) };
            let wait = match verdict {
                Verdict::Wait(wait) => wait,
                Verdict::Claim => {
                    let claim = Claim {
                        owner: self.engine.random.token(),
                        lease_for: self.engine.lease_for,
                        seen: state.lease.clone(),
                    };
                    let sent = Instant::now();
                    match broker.acquire(&self.key, &claim).await? {
                        Acquired::Held(holding) => {
                            let holder = Holder { owner: claim.owner, epoch: holding.epoch };
                            return Ok((self.engine.leases.hold(self.key.clone(), holder, sent), holding));
                        }
                        // The next look says what has become of it.
                        Acquired::Contended | Acquired::Missing => continue,
                        refused => return Err(self.refused(&refused)),
                    }
                }
            };
            self.contact.succeeded();
            past.told = false;
            if self.progress.enter(Phase::StandingBy { owner: state.lease.owner.clone() }) {
                tracing::info!(
                    group = self.key.group(),
                    partition = self.key.partition().as_str(),
                    owner = state.lease.owner,
                    "waiting for the lease of another process, at most {} after its last sign of life",
                    humantime::format_duration(state.lease_for)
                );
            }
            // Followed before the state is read again, so that a ring between the two is not missed.
            let Some((bell, position)) = &mut bell else {
                let follower = self.engine.tails.follow_bell(&self.key.partition().bell());
                bell = Some((follower, EntryId::ZERO));
                continue;
            };
            tokio::select! {
                () = self.engine.shutdown.stopping() => return Err(Ended::Stopped),
                () = tokio::time::sleep(wait.min(LOOK).min(state.lease_for / 10)) => {}
                () = self.rung(bell, position) => {}
            }
        }
    }

    /// Waits until the bell rings for this group.
    async fn rung(&self, bell: &Follower, position: &mut EntryId) {
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

    /// Why the lease cannot be taken.
    fn refused(&self, refused: &Acquired) -> Ended {
        let key = &self.key;
        match refused {
            Acquired::Vanished { at } => Self::vanished(Reader::new(*at, "", None)),
            Acquired::Ahead { at, last } => {
                let loss = DataLoss { kind: DataLossKind::HistoryCut, from: *last, to: *at, count: None };
                Ended::Cut { loss, at: Some(Reader::new(*at, "", None)) }
            }
            Acquired::Mode(mode) => self.halted(format!(
                "{key} is used in `{mode}` delivery, and the two never mix under one name; choose another group name"
            )),
            other => self.halted(format!("{key}: unexpected answer {other:?} to a claim of the lease")),
        }
    }
}
