//! A dead letter that is handled again between the events of an ordered group, beside nothing else of the partition.

use tokio_util::sync::CancellationToken;

use super::deliver::Delivery;
use super::owned::Owned;
use crate::group::Ended;

impl Delivery {
    /// Makes one attempt at the first of the replays, or sends the end of the one before, and goes on with commits meanwhile.
    ///
    /// Nothing else of the partition runs meanwhile, so a replay meets the same conditions as an event.
    pub(super) async fn replay(&mut self, owned: &mut Owned<'_>) -> Result<(), Ended> {
        if !self.replays.has_ended() {
            self.dispatch.stand_still(owned).await?;
        }
        let (task, stop) = (owned.task, CancellationToken::new());
        let replay = task.replay(owned.lease, &mut self.replays, &stop);
        tokio::pin!(replay);
        let ended = loop {
            tokio::select! {
                biased;
                replayed = &mut replay => return replayed,
                () = task.services.shutdown.cutting() => break Ended::Stopped,
                done = owned.committer.progress() => if let Err(ended) = done {
                    break ended;
                },
            }
        };
        stop.cancel();
        let _ = replay.await;
        Err(ended)
    }
}
