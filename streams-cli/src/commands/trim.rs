//! `streams trim`: old entries of a stream are removed, and none that a group has not settled, unless somebody says so.

use serde_json::json;
use streams_runtime::EntryId;
use streams_runtime::broker::{Broker, Groups, Log};
use streams_runtime::keys::PartitionKey;

use crate::confirm::{Consent, count};
use crate::connect::{Server, whoami};
use crate::output::Output;
use crate::problem::Problem;
use crate::when::Place;

/// How many entries are read at once to count them.
const PAGE: usize = 1_000;
/// The most partitions that a line of the audit stream names.
const NAMED: usize = 16;
/// The most entries that are counted.
const MOST: u64 = 100_000;

/// Remove old entries of a stream; refuses to pass a group that has not settled them, unless told
#[derive(Debug, clap::Args)]
pub(crate) struct Trim {
    /// The stream; `trades.3` for one partition of it
    stream: String,
    /// Remove the entries before this place: an entry id, `-7d`, or a time in UTC
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, required_unless_present = "consumed")]
    before: Option<Place>,
    /// Remove the entries that every group has settled
    #[arg(long, conflicts_with = "before")]
    consumed: bool,
    /// Also entries that a group has not settled: it finds a loss, and halts or goes on as its `on_data_loss` says
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Trim {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let (_, partitions) = server.stream(&self.stream).await?;
        let now = server.broker.now().await?;
        let mut floors = Vec::new();
        let mut entries = 0;
        for partition in partitions {
            if let Some(floor) = self.floor(server, &partition, now).await? {
                entries += below(server, &partition, floor, MOST - entries.min(MOST)).await?;
                floors.push((partition, floor));
            }
        }
        let number = if entries >= MOST { format!("at least {MOST} entries") } else { entry(entries) };
        let plan = format!("{number} of {} would be gone for good", self.stream);
        if !self.consent.given(&plan, &json!({ "remove": entries, "at_least": entries >= MOST }), out)? {
            return Ok(());
        }
        let floor = |(partition, floor): &(PartitionKey, EntryId)| format!("; {partition} before {floor}");
        let detail = format!("{number}{}", floors.iter().take(NAMED).map(floor).collect::<String>());
        server.audit(&whoami(), "trim", (&self.stream, ""), &detail).await;
        let mut removed = 0;
        for (partition, floor) in floors {
            loop {
                let now = server.broker.trim_below(&partition, floor).await?;
                removed += now;
                if now == 0 {
                    break;
                }
            }
        }
        Ok(out.say(&format!("{} of {} removed", entry(removed), self.stream), &json!({ "removed": removed }))?)
    }

    /// The first entry that stays; `None` where nothing is to be removed.
    async fn floor(&self, server: &Server, partition: &PartitionKey, now: u64) -> Result<Option<EntryId>, Problem> {
        let groups = server.broker.groups(partition).await?.unwrap_or_default();
        let consumed = server.broker.consumed(partition).await?;
        let settled = consumed.as_ref().map(|consumed| consumed.at.next());
        let Some(before) = self.before else {
            return match settled {
                Some(settled) => Ok(Some(settled)),
                None if groups.is_empty() => Err(format!("no group reads {partition}: say --before").into()),
                None => Err(unknown(partition).into()),
            };
        };
        let floor = match before.first(now) {
            Some(floor) => floor,
            None => server.broker.extent(partition).await?.map_or(EntryId::ZERO, |extent| extent.last.next()),
        };
        if self.force || groups.is_empty() {
            return Ok(Some(floor));
        }
        match consumed {
            None => Err(unknown(partition).into()),
            Some(consumed) if floor > consumed.at.next() => Err(format!(
                "group {} on {partition} has settled no more than up to {}: trim with --consumed, or say --force to take the rest from it",
                consumed.slowest, consumed.at
            )
            .into()),
            Some(_) => Ok(Some(floor)),
        }
    }
}

fn unknown(partition: &PartitionKey) -> String {
    format!("nobody knows how far a group on {partition} has read: say --before and --force to trim all the same")
}

fn entry(number: u64) -> String {
    if number == 1 { count(1, "entry") } else { format!("{number} entries") }
}

/// How many entries lie below the floor, as far as they are counted.
async fn below(server: &Server, partition: &PartitionKey, floor: EntryId, most: u64) -> Result<u64, Problem> {
    let (mut number, mut after) = (0, EntryId::ZERO);
    while number < most {
        let page = server.broker.read(partition, after, PAGE).await?;
        number += page.iter().filter(|entry| entry.id < floor).count() as u64;
        match page.last() {
            Some(last) if last.id < floor && page.len() == PAGE => after = last.id,
            _ => break,
        }
    }
    Ok(number)
}
