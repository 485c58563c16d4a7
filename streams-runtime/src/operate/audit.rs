//! The audit stream: the line of an act, which is written before the act, and another where the act then fails.

use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, BrokerErrorKind};
use streams_core::keys::PartitionKey;
use streams_core::{EntryId, Start};

use crate::clock::millis;

/// How long the lines are kept.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// The most partitions whose checkpoints a line names.
const MOST_NAMED: usize = 16;

/// Who does what to which stream and group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) by: &'a str,
    pub(super) act: &'a str,
    pub(super) stream: &'a str,
    pub(super) group: &'a str,
    pub(super) detail: &'a str,
}

/// Does something that leaves a line. No crash leaves an act without its line, because the line comes first.
///
/// A server that is full takes no line, and acts go on without: they may be those that make room.
pub(super) async fn noted<T>(
    broker: &dyn Broker,
    audit: &PartitionKey,
    line: Line<'_>,
    act: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    match write(broker, audit, line).await {
        Ok(()) => {}
        Err(error) if error.kind() == BrokerErrorKind::Full => {
            tracing::warn!(by = line.by, act = line.act, stream = line.stream, group = line.group, %error, "the audit stream has no line of this act");
        }
        Err(error) => return Err(error),
    }
    let done = act.await;
    if let Err(error) = &done {
        let detail = format!("failed: {error}");
        // The error itself is what the caller needs to hear.
        let _ = write(broker, audit, Line { detail: &detail, ..line }).await;
    }
    done
}

/// Writes a line, and lets old ones go.
pub(super) async fn write(broker: &dyn Broker, audit: &PartitionKey, line: Line<'_>) -> Result<(), BrokerError> {
    let floor = EntryId::new(broker.now().await?.saturating_sub(millis(KEPT)), 0);
    let Line { by, act, stream, group, detail } = line;
    let fields = [("by", by), ("act", act), ("stream", stream), ("group", group), ("detail", detail)];
    let fields = fields.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).to_vec();
    broker.append(audit, vec![fields], Some(floor)).await.map(drop)
}

/// Where a reset leads to, and from where, so that somebody can go back.
pub(super) fn moved(to: Start, from: &[(u32, EntryId)]) -> String {
    let to = match to {
        Start::Earliest => "earliest".to_owned(),
        Start::Latest => "latest".to_owned(),
        Start::At(id) => id.to_string(),
        Start::Ago(ago) => format!("{} ago", humantime::format_duration(ago)),
    };
    let named: Vec<_> = from.iter().take(MOST_NAMED).map(|(partition, id)| format!("{partition}/{id}")).collect();
    let more = from.len().saturating_sub(MOST_NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    if named.is_empty() { format!("to {to}") } else { format!("to {to}; was at {}{more}", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_says_where_it_was_and_not_of_a_thousand_partitions() {
        let from = |count| (0..count).map(|index| (index, EntryId::new(7, 1))).collect::<Vec<_>>();
        assert_eq!(moved(Start::Earliest, &from(2)), "to earliest; was at 0/7-1, 1/7-1");
        assert_eq!(moved(Start::Ago(Duration::from_secs(600)), &[]), "to 10m ago");
        assert!(moved(Start::Latest, &from(1_000)).ends_with(", 15/7-1 and 984 more"));
    }
}
