//! A dead letter that is handled again between the events of an ordered group, beside nothing else of the partition.

use super::deliver::Delivery;
use super::owned::Owned;
use crate::group::{Ended, Fate, Next, Taker};

impl Delivery {
    /// Makes one attempt at the first of the replays, or sends the end of the one before.
    ///
    /// Nothing else of the partition runs meanwhile, so a replay meets the same conditions as an event.
    pub(super) async fn replay(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        let (task, lease, replays) = (owned.task, owned.lease, &mut self.replays);
        if replays.ended.is_some() {
            return task.send_end(lease, replays).await;
        }
        self.dispatch.stand_still(owned).await?;
        let mut alone = false;
        let (mut next, _permit) = loop {
            let permit = owned.committer.permit(alone).await?;
            let Some(next) = task.next_replay(lease, replays).await? else { return Ok(()) };
            if alone || !next.is_suspect() {
                break (next, permit);
            }
            task.untried(lease, &next.replay).await;
            alone = true;
        };
        let fate = match next.fate.take() {
            Some(fate) => fate,
            None => match owned.try_again(&next).await {
                Ok(fate) => fate,
                Err(ended) => {
                    if !matches!(ended, Ended::Fenced) {
                        task.untried(lease, &next.replay).await;
                    }
                    return Err(ended);
                }
            },
        };
        replays.ended = Some((next.replay.letter.id, task.end(&next, fate, replays)));
        task.send_end(lease, replays).await
    }
}

impl Owned<'_> {
    /// Calls the handler with a dead letter once.
    async fn try_again(&mut self, next: &Next) -> Result<Fate, Ended> {
        let Taker::Consumer(consumer) = next.taker else { return Ok(Fate::Done) };
        let (task, handler) = (self.task, &self.task.handlers[consumer]);
        let result = self.attempt(handler, next.context(handler)).await?;
        Ok(task.fate(consumer, &next.replay, result))
    }
}
