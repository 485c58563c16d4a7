//! News that many partitions of a group have at about the same time: gathered for a moment, and logged as one line.
//!
//! The deliveries and their parts report it; [`GroupTask`](super::GroupTask) holds it for all partitions of its group.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sync::lock;

/// How long news waits for the same of other partitions: some round trips to a server that is far, and short for a reader.
const GATHER: Duration = Duration::from_millis(250);

/// A change of state that is logged at INFO, once for all partitions that it concerns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// This process owns the partition, and why it could take it.
    Owning { why: String },
    /// Another process owns the partition, under a lease of this length.
    Waiting { owner: String, lease: Duration },
    /// The partition is the share of another member.
    HandingOver { to: Option<String> },
    /// All that an owner before may have had in flight is settled.
    Recovered,
    /// This process fetches from the partition of a work queue.
    Joined,
    /// This process has handled everything that was there when it began.
    CaughtUp,
}

/// The news of one group.
pub(crate) struct GroupNews {
    stream: String,
    group: &'static str,
    /// The type of a handler's state that keeps data in this process alone, until the log has named it.
    local_data: Mutex<Option<&'static str>>,
    /// In the order in which the first partition had them.
    gathered: Mutex<Vec<(News, BTreeSet<u32>)>>,
}

impl GroupNews {
    pub(crate) fn new(stream: &str, group: &'static str, local_data: Option<&'static str>) -> Arc<Self> {
        let local_data = Mutex::new(local_data);
        Arc::new(Self { stream: stream.to_owned(), group, local_data, gathered: Mutex::default() })
    }

    /// Another process owns a partition of this ordered group: warns once of data that is kept in memory.
    pub(crate) fn is_shared(&self) {
        if let Some(state) = lock(&self.local_data).take() {
            let (group, stream) = (self.group, self.stream.as_str());
            tracing::warn!(
                group,
                stream,
                state,
                "several processes share this ordered group, and a handler keeps data in memory: each process has the data of its own partitions only, and none of what was handled before its start; for a copy in every process say `delivery = \"broadcast\"`"
            );
        }
    }

    /// Logs the news of this partition within a moment, together with the same of others.
    pub(crate) fn report(self: &Arc<Self>, news: News, partition: u32) {
        let mut gathered = lock(&self.gathered);
        if gathered.is_empty() {
            let gathering = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                let gathered = std::mem::take(&mut *lock(&gathering.gathered));
                gathered.iter().for_each(|(news, partitions)| gathering.log(news, &compact(partitions)));
            });
        }
        match gathered.iter_mut().find(|(known, _)| *known == news) {
            Some((_, partitions)) => _ = partitions.insert(partition),
            None => gathered.push((news, BTreeSet::from([partition]))),
        }
    }

    fn log(&self, news: &News, partitions: &str) {
        let (group, stream) = (self.group, self.stream.as_str());
        match news {
            News::Owning { why } => tracing::info!(group, stream, partitions, why, "owning"),
            News::Waiting { owner, lease } => {
                let lease = humantime::format_duration(*lease);
                tracing::info!(group, stream, partitions, owner, %lease, "waiting for the lease of another process");
            }
            News::HandingOver { to } => {
                tracing::info!(group, stream, partitions, to, "handing over: the share of another member now");
            }
            News::Recovered => {
                tracing::info!(group, stream, partitions, "the recovery is over: going on at full speed");
            }
            News::Joined => tracing::info!(group, stream, partitions, "joined work queue"),
            News::CaughtUp => tracing::info!(group, stream, partitions, "caught up"),
        }
    }
}

/// Numbers as people write them: `0-3,7`.
fn compact(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let range = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_a_range() {
        for (numbers, text) in [
            (vec![], ""),
            (vec![5], "5"),
            (vec![0, 1], "0-1"),
            (vec![7, 0, 3, 1, 2], "0-3,7"),
            (vec![1, 3, 5, u32::MAX - 1, u32::MAX], "1,3,5,4294967294-4294967295"),
        ] {
            assert_eq!(compact(&numbers.into_iter().collect()), text);
        }
    }
}
