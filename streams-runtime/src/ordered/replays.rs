//! A dead letter that is handled again between the events of an ordered group: nothing else of the partition runs meanwhile.

use super::commit::Committer;
use super::hand::InHand;
use crate::group::{Ended, Fate, GroupTask, Next, Replays, Taker};
use crate::membership::Lease;

impl GroupTask {
    /// One step: an attempt at the first of the replays, or word of one that has ended.
    ///
    /// Nothing else of the partition runs meanwhile, so what a replay meets is what an event meets.
    pub(super) async fn replay(
        &self,
        lease: &Lease,
        committer: &mut Committer<'_>,
        hand: &mut InHand,
        replays: &mut Replays,
    ) -> Result<(), Ended> {
        if replays.ended.is_some() {
            return self.tell_end(lease, replays).await;
        }
        self.stand_still(lease, committer, hand).await?;
        let mut alone = false;
        let (mut next, _turn) = loop {
            let turn = committer.turn(alone).await?;
            let Some(next) = self.next_replay(lease, replays).await? else { return Ok(()) };
            if alone || !next.is_suspect() {
                break (next, turn);
            }
            self.untried(lease, &next.replay).await;
            alone = true;
        };
        let fate = match next.fate.take() {
            Some(fate) => fate,
            None => match self.try_again(lease, committer, &next).await {
                Ok(fate) => fate,
                Err(ended) => {
                    if !matches!(ended, Ended::Fenced) {
                        self.untried(lease, &next.replay).await;
                    }
                    return Err(ended);
                }
            },
        };
        replays.ended = Some((next.replay.letter.id, self.end(&next, fate, replays)));
        self.tell_end(lease, replays).await
    }

    /// Calls the handler once.
    async fn try_again(&self, lease: &Lease, committer: &mut Committer<'_>, next: &Next) -> Result<Fate, Ended> {
        let Taker::Consumer(consumer) = next.taker else { return Ok(Fate::Done) };
        let handler = &self.handlers[consumer];
        let result = self.attempt(lease, committer, handler, next.context(handler)).await?;
        Ok(self.fate(consumer, &next.replay, result))
    }
}
