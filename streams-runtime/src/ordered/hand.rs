//! The memory of an owner from one entry to the next, and the count that tells an outage from bad events.

use std::collections::BTreeSet;
use std::time::Duration;

use streams_core::broker::Events;
use tokio::time::Instant;

use super::batch::Gathering;
use super::dispatch::Dispatch;
use crate::group::{Ended, GroupTask, Halt};
use crate::ops::count;

/// How long a group runs before it lets others on its thread have a turn.
const TURN: Duration = Duration::from_millis(1);

/// What an owner remembers from one entry to the next.
pub(super) struct InHand {
    /// Dropped with every end but that of history itself: what has only gathered comes again.
    pub(super) gathering: Gathering,
    /// What runs beside others, and is behind that.
    pub(super) dispatch: Dispatch,
    /// What builds had declared when it was last looked at.
    pub(super) declared: Events,
    /// Names of events that nobody had declared then.
    pub(super) unheard: BTreeSet<String>,
    pub(super) dead_in_a_row: u32,
    /// Since when the group runs.
    pub(super) turn: Instant,
}

impl InHand {
    /// Lets others on the thread have a turn when this one was long.
    pub(super) async fn give_turn(&mut self) {
        if self.turn.elapsed() > TURN {
            tokio::task::yield_now().await;
            self.turn = Instant::now();
        }
    }
}

impl GroupTask {
    /// Counts dead letters in a row: many are a storm, which is an outage rather than bad events.
    pub(super) fn weather(&self, hand: &mut InHand, dead: bool) -> Result<(), Ended> {
        hand.dead_in_a_row = if dead { hand.dead_in_a_row + 1 } else { 0 };
        if hand.dead_in_a_row < self.options.storm {
            return Ok(());
        }
        Err(Ended::Halted { halt: Halt::Storm { dead_in_a_row: hand.dead_in_a_row }, keep: true })
    }

    /// Another process is to own the partition: what is settled is committed, then the lease given back.
    pub(super) fn hand_over(&self) -> Ended {
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        tracing::info!(
            group,
            partition,
            to = self.seat.successor(),
            "handing over: the partition is that of another member now"
        );
        count(&self.progress.counts.handed_over, 1);
        Ended::GivenUp
    }
}
