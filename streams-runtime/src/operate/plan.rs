//! The dry run of a reset: how many events it would bring again, and how many it would pass over.

use std::cmp::Ordering;

use serde::Serialize;
use streams_core::broker::{Broker, BrokerError, Log};
use streams_core::keys::GroupKey;
use streams_core::{EntryId, Start};

use crate::clock::millis;

/// The most entries that are counted by reading them.
const MOST_COUNTED: u64 = 100_000;
/// How many entries are read at once.
const PAGE: usize = 1_000;

/// The effect that a reset would have on one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResetPlan {
    /// The partition.
    pub partition: u32,
    /// The checkpoint now; in a work queue the entry up to which everything was given out.
    #[serde(serialize_with = "text")]
    pub from: EntryId,
    /// The checkpoint behind which the group would begin.
    #[serde(serialize_with = "text")]
    pub to: EntryId,
    /// How many entries would come again.
    pub again: u64,
    /// How many entries would never be handled. A work queue may have fewer in flight or waiting below its new beginning.
    pub passed_over: u64,
    /// Whether there are more than the one number that is not 0, because counting ended at 100,000.
    pub more: bool,
}

fn text<S: serde::Serializer>(id: &EntryId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

/// Plans a reset of these groups.
pub(super) async fn plan(broker: &dyn Broker, keys: &[GroupKey], to: Start) -> Result<Vec<ResetPlan>, BrokerError> {
    let now = broker.now().await?;
    let mut plans = Vec::with_capacity(keys.len());
    for key in keys {
        let look = broker.look_at_groups(std::slice::from_ref(key)).await?.pop().transpose()?.flatten();
        let from = look.as_ref().map(|look| look.at).unwrap_or_default();
        let extent = broker.extent(key.partition()).await?;
        let last = extent.map_or(EntryId::ZERO, |extent| extent.last);
        let to = match to {
            Start::Earliest => EntryId::ZERO,
            Start::Latest => last,
            Start::At(id) => id.previous(),
            Start::Ago(ago) => EntryId::new(now.saturating_sub(millis(ago)), 0).previous(),
        };
        let (count, more) = between(broker, key, from.min(to), from.max(to)).await?;
        let mut plan = ResetPlan { partition: key.partition().index(), from, to, again: 0, passed_over: 0, more };
        match to.cmp(&from) {
            Ordering::Less => plan.again = count,
            Ordering::Equal => {}
            Ordering::Greater => plan.passed_over = count,
        }
        // Nothing in flight or waiting can be below the first entry that is left.
        if extent.and_then(|extent| extent.first).is_some_and(|first| first <= to) {
            let queue = look.and_then(|look| look.queue).unwrap_or_default();
            plan.passed_over += queue.waiting + queue.consumers.iter().map(|(_, count)| count).sum::<u64>();
        }
        plans.push(plan);
    }
    Ok(plans)
}

/// How many entries stand above one id and not above the other, and whether there are more.
async fn between(broker: &dyn Broker, key: &GroupKey, after: EntryId, to: EntryId) -> Result<(u64, bool), BrokerError> {
    let (mut count, mut after) = (0, after);
    while after < to && count < MOST_COUNTED {
        let page = Log::read(broker, key.partition(), after, PAGE).await?;
        let within = page.iter().filter(|entry| entry.id <= to).count();
        count += within as u64;
        match page.last() {
            Some(last) if within == page.len() => after = last.id,
            _ => return Ok((count, false)),
        }
    }
    Ok((count, after < to))
}
