//! A work queue as the delivery of a group, with its memory from one session to the next.

use super::{Past, Queue};
use crate::group::{Ended, Engine, GroupTask};

/// A group as a work queue.
pub(crate) struct WorkQueue {
    queue: Queue,
    past: Past,
}

impl WorkQueue {
    pub(crate) fn new(queue: Queue) -> Self {
        Self { queue, past: Past::default() }
    }
}

impl Engine for WorkQueue {
    async fn once(&mut self, group: &GroupTask) -> Ended {
        group.share(&self.queue, &mut self.past).await
    }

    fn is_over(&mut self) {}

    fn panicked(&mut self) {}
}
