//! An event that another build handles: the owner leaves the partition to it, and a contender leaves the lease.
//!
//! [`Build`](crate::membership::Build) has the rules. An owner may not know an event that was declared a moment ago, so
//! each commit carries the names of ignored events ([`PassedOver`]). The broker refuses a commit whose names have been
//! declared meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use streams_core::broker::{Change, GroupState, LeaseView, Need};
use streams_core::{Backoff, EntryId, keys};
use tokio::time::Instant;

use crate::backoff::wait;
use crate::group::{Ended, GroupTask, Halt};
use crate::membership::{Build, Lease, NOBODY, Still, Turn, member_of};
use crate::ops::Phase;

/// How often a process leaves a partition to another build as soon as it comes upon the event: a deploy takes as much.
const AT_ONCE: u32 = 3;

/// How long ago the one before may have been, for one more.
const IN_A_ROW: Duration = Duration::from_secs(60);

/// The waits before further ones. Where two programs share a group by mistake each event may move its partition: they would do
/// little else, and neither would the server.
const TO_AND_FRO: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// How a contender goes on that could take the lease.
#[derive(Debug)]
pub(super) enum Way {
    /// The lease may be taken.
    Contend,
    /// The event is needed no longer: the next look says who contends now.
    Forgotten,
    /// The lease is left to others.
    Leave,
}

/// The events that an owner has ignored since its last acknowledged commit because no build was known to handle them: the first
/// of each name.
///
/// A build may have declared such an event after this owner took the lease. The next commit finds that out.
#[derive(Debug, Default)]
pub(super) struct PassedOver {
    /// In no commit yet, and in the commit on its way.
    waiting: BTreeMap<String, (u32, EntryId)>,
    flying: BTreeMap<String, (u32, EntryId)>,
    /// How many entries that are, whatever their names.
    entries: (u64, u64),
}

impl PassedOver {
    /// Takes note of an ignored entry. The server is not asked about names that no event can have, nor about names that the group
    /// ignores for good.
    pub(super) fn note(&mut self, build: &Build, id: EntryId, name: &str, version: u32) {
        self.entries.0 += 1;
        if !self.waiting.contains_key(name) && !build.ignores(name) && keys::check_event(name).is_ok() {
            self.waiting.insert(name.to_owned(), (version, id));
        }
    }

    /// The names that the next commit is to carry.
    pub(super) fn take(&mut self) -> Vec<String> {
        self.flying = std::mem::take(&mut self.waiting);
        self.entries = (0, self.entries.0);
        self.flying.keys().cloned().collect()
    }

    /// The commit on its way is done. Returns how many entries are ignored for good by it.
    pub(super) fn acknowledged(&mut self) -> u64 {
        std::mem::take(&mut self.entries.1)
    }

    /// The first entry in the commit on its way that holds one of these events.
    pub(super) fn first(&self, names: &[String]) -> Option<Need> {
        let declared = self.flying.iter().filter(|(name, _)| names.contains(name));
        let (name, (version, entry)) = declared.min_by_key(|(_, (_, entry))| *entry)?;
        Some(Need { name: name.clone(), version: *version, entry: *entry })
    }
}

/// How often a process has left a partition to another build, one time soon after the other.
#[derive(Debug, Default)]
pub(super) struct Passes {
    count: u32,
    last: Option<Instant>,
}

impl Passes {
    /// Counts one more. Returns how long to wait before it, where the partition goes to and fro.
    pub(super) fn more(&mut self, now: Instant, random: f64) -> Option<Duration> {
        let soon = self.last.is_some_and(|last| now.duration_since(last) < IN_A_ROW);
        self.count = if soon { self.count.saturating_add(1) } else { 1 };
        self.last = Some(now);
        self.are_many().then(|| wait(TO_AND_FRO, self.count - AT_ONCE, random))
    }

    /// Whether the partition goes to and fro.
    pub(super) fn are_many(&self) -> bool {
        self.count > AT_ONCE
    }
}

/// Decides whether a contender takes a lease that it could take, when an event is needed that this build does not handle.
///
/// The contender takes it where no member handles the event, or where none that does has taken the lease. `untaken` watches
/// for how long the lease has been there for anybody who handles the event.
pub(super) async fn give_way(
    task: &GroupTask,
    state: &GroupState,
    untaken: &mut Still<LeaseView>,
) -> Result<Way, Ended> {
    let now = Instant::now();
    let untaken = now.duration_since(untaken.observe(state.lease.clone(), NOBODY, now));
    let build = &task.handlers.build;
    match build.turn(state.needs.as_ref(), state.at, untaken) {
        Turn::Contend => Ok(Way::Contend),
        Turn::Forget(need) => {
            let change = Change { met: Some(need.clone()), ..Change::default() };
            task.services.broker.declare_events(&task.key, &change).await?;
            Ok(Way::Forgotten)
        }
        Turn::Leave => {
            task.progress.enter(Phase::StandingBy { owner: member_of(&state.lease.owner).to_owned() });
            Ok(Way::Leave)
        }
        Turn::Missing(need) => {
            let (stream, known) = (task.progress.stream, build.takes(&need.name));
            let ignored = build.ignored().cloned().collect();
            task.log_halted(&Halt::Unhandled { stream, need: need.clone(), known, ignored });
            Ok(Way::Leave)
        }
    }
}

/// Logs that the partition is left to another build, and waits before that where the partition goes to and fro.
pub(super) async fn pass(task: &GroupTask, lease: &Lease, passes: &mut Passes, need: &Need) {
    let (group, partition) = (task.key.group(), task.key.partition().as_str());
    let (entry, event, version) = (need.entry, &need.name, need.version);
    let Some(wait) = passes.more(Instant::now(), task.services.random.fraction()) else {
        tracing::info!(group, partition, %entry, event, version, "leaving the partition to a build that handles this event");
        return;
    };
    // The seat logs once for the group who the others are.
    tracing::debug!(group, partition, %entry, event, version, "leaving the partition once more, after a while");
    task.seat.contest(need);
    tokio::select! {
        () = task.pause(wait) => {}
        () = lease.lost() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `Placed` up to version 2 and `Paid`, and ignores `Gone`.
    fn build() -> Build {
        Build::new([("Placed", 2), ("Paid", 1)], ["Gone"])
    }

    fn needed(name: &str, version: u32, ms: u64) -> Need {
        Need { name: name.to_owned(), version, entry: EntryId::new(ms, 0) }
    }

    #[test]
    fn a_commit_carries_each_name_once_and_what_is_declared_is_found_at_its_first_entry() {
        let mut passed = PassedOver::default();
        let entries = [("B", 2, 6), ("A", 1, 7), ("A", 3, 8), ("Gone", 1, 9), ("no name", 1, 9)];
        for (name, version, ms) in entries {
            passed.note(&build(), EntryId::new(ms, 0), name, version);
        }
        assert_eq!(passed.take(), ["A", "B"]);
        assert_eq!((passed.acknowledged(), passed.acknowledged()), (5, 0), "each is counted, and once");
        passed.note(&build(), EntryId::new(10, 0), "A", 9);
        assert_eq!(passed.first(&["A".to_owned()]), Some(needed("A", 1, 7)));
        assert_eq!(passed.first(&["A".to_owned(), "B".to_owned()]), Some(needed("B", 2, 6)));
        assert_eq!(passed.take(), ["A"], "what is in the commit before is asked again for what came behind it");
        assert_eq!(passed.take(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_goes_to_and_fro_waits_longer_each_time_until_it_has_stayed() {
        let (mut passes, mut now) = (Passes::default(), Instant::now());
        let waits: Vec<_> = (0..10)
            .map(|_| {
                now += Duration::from_millis(10);
                passes.more(now, 0.0).map(|wait| wait.as_millis())
            })
            .collect();
        let expected = [None, None, None, Some(50), Some(100), Some(200), Some(400), Some(800), Some(1000), Some(1000)];
        assert_eq!(waits, expected);
        assert!(passes.are_many());
        assert_eq!(passes.more(now + IN_A_ROW, 0.0), None);
        assert!(!passes.are_many());
    }
}
