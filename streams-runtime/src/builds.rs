//! Builds of different age in one group: which events each of them handles, and what an owner and a contender do about one
//! that this build does not.
//!
//! While old and new builds overlap, every event is handled by one that knows it. For that
//!
//! * a build declares its events in the state of every group that it runs, before it publishes or contends ([`announce`]);
//! * an owner that meets an event which somebody has declared and it does not handle, or a version newer than it knows,
//!   commits what is before it and hands the partition over, with a [`Need`];
//! * who cannot meet the need does not contend ([`Build::turn`]), and says so when nobody can;
//! * an owner may not know what was declared a moment ago: each commit carries the names of what it passes over
//!   ([`PassedOver`]), and the broker refuses one whose names have been declared meanwhile.
//!
//! The rules come first and are pure; `deliver`, `commit` and `contend` carry them out by what stands below.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use streams_core::broker::{
    Broker, BrokerError, BrokerErrorKind, Change, Created, Events, GroupState, LeaseView, Need,
};
use streams_core::keys::{self, GroupKey};
use streams_core::{Backoff, Entry, EntryId, Start};
use tokio::time::Instant;

use crate::lease::{Lease, Still};
use crate::members::member_of;
use crate::ordered::{Ended, Group, Past};
use crate::settle::wait;
use crate::status::Phase;

/// For how long a lease is left alone although no member is known that handles what is needed: one may be on its way, as a
/// deploy stops and starts processes, and every change of the owner costs more than this.
const NOBODY: Duration = Duration::from_secs(3);

/// How often a process leaves a partition to another build as soon as it comes upon the event: a deploy takes as much.
const AT_ONCE: u32 = 3;
/// How long ago the one before may have been, for one more.
const IN_A_ROW: Duration = Duration::from_secs(60);
/// The waits before further ones. Where two programs share a group by mistake each event may move its partition: they would do
/// little else, and neither would the server.
const TO_AND_FRO: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// What this build does about the events of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Build {
    /// The newest version that its consumers take, by name.
    takes: Events,
    /// What the group passes over for good.
    ignores: BTreeSet<String>,
}

/// What a contender does about a lease that could be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<'a> {
    /// It contends.
    Contend,
    /// It contends, too: what is needed lies behind the checkpoint, and nobody is left who was kept for more of its kind.
    Forget(&'a Need),
    /// It leaves the lease to a build that handles what is needed.
    Leave,
    /// The same, and there is no such build.
    Missing(&'a Need),
}

/// What became of a turn.
#[derive(Debug)]
pub(crate) enum Way {
    /// The lease may be taken.
    Contend,
    /// What was needed is no longer: the next look says whose turn it is now.
    Forgotten,
    /// It is left to others.
    Leave,
}

/// As members tell each other: `takes=OrderPlaced@2,OrderShipped@1 ignores=OrderReturned`, each word only where there is one.
impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let takes: Vec<_> = self.takes.iter().map(|(name, version)| format!("{name}@{version}")).collect();
        let ignores: Vec<_> = self.ignores.iter().cloned().collect();
        let words = [("takes", takes), ("ignores", ignores)].into_iter().filter(|(_, names)| !names.is_empty());
        f.write_str(&words.map(|(word, names)| format!("{word}={}", names.join(","))).collect::<Vec<_>>().join(" "))
    }
}

impl Build {
    /// Takes up a word that a member says of its build; others it passes over.
    pub(crate) fn read(&mut self, word: &str, value: &str) {
        let names = value.split(',').filter(|name| !name.is_empty());
        match word {
            "takes" => {
                let event = |event: &str| {
                    event.split_once('@').and_then(|(name, version)| Some((name.to_owned(), version.parse().ok()?)))
                };
                self.takes.extend(names.filter_map(event));
            }
            "ignores" => self.ignores.extend(names.map(str::to_owned)),
            _ => {}
        }
    }

    pub(crate) fn new<'a>(
        takes: impl IntoIterator<Item = (&'a str, u32)>,
        ignores: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self {
            takes: takes.into_iter().map(|(name, version)| (name.to_owned(), version)).collect(),
            ignores: ignores.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Whether an event of this name, which no consumer takes, is to be handled by another build rather than passed over.
    pub(crate) fn leaves(&self, declared: &Events, name: &str) -> bool {
        declared.contains_key(name) && !self.ignores.contains(name)
    }

    /// Whether the group passes over events of this name for good.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        self.ignores.contains(name)
    }

    /// What is to be handed out to it that others have left to builds which handle it; of what it ignores every version.
    pub(crate) fn wants(&self) -> Events {
        let ignored = self.ignores.iter().map(|name| (name.clone(), u32::MAX));
        self.takes.iter().map(|(name, version)| (name.clone(), *version)).chain(ignored).collect()
    }

    /// Whether it takes such an event, or passes it over for good.
    pub(crate) fn handles(&self, name: &str, version: u32) -> bool {
        self.takes.get(name).is_some_and(|newest| *newest >= version) || self.ignores(name)
    }

    /// Whether it can handle what a past owner could not.
    pub(crate) fn can_meet(&self, need: &Need) -> bool {
        self.handles(&need.name, need.version)
    }

    /// What a contender does about a lease that it could take, which nobody has taken for so long; `at` is the checkpoint.
    ///
    /// What is needed stays known behind the checkpoint, too: more of its kind will follow, and the partition would go to
    /// and fro between builds. So an older build waits there until the ones that handle it are gone.
    pub(crate) fn turn<'a>(&self, needs: Option<&'a Need>, at: EntryId, untaken: Duration) -> Turn<'a> {
        match needs {
            Some(need) if !self.can_meet(need) => match (untaken >= NOBODY, need.entry <= at) {
                (false, _) => Turn::Leave,
                (true, true) => Turn::Forget(need),
                (true, false) => Turn::Missing(need),
            },
            _ => Turn::Contend,
        }
    }

    /// What of its events is not declared yet.
    fn undeclared(&self, declared: &Events) -> Events {
        let is_new = |(name, version): &(&String, &u32)| declared.get(*name).is_none_or(|known| known < version);
        self.takes.iter().filter(is_new).map(|(name, version)| (name.clone(), *version)).collect()
    }

    /// What is declared although the group passes it over for good.
    fn withdrawn(&self, declared: &Events) -> Vec<String> {
        declared.keys().filter(|name| self.ignores.contains(*name)).cloned().collect()
    }
}

/// What an owner has passed over since its last acknowledged commit because no build was known to handle it: the first of
/// each name.
///
/// An event may be one that a build has declared after this owner took the lease. The next commit finds that out.
#[derive(Debug, Default)]
pub(crate) struct PassedOver {
    /// In no commit yet, and in the commit on its way.
    waiting: BTreeMap<String, (u32, EntryId)>,
    flying: BTreeMap<String, (u32, EntryId)>,
    /// How many entries that are, whatever their names.
    entries: (u64, u64),
}

impl PassedOver {
    /// This entry is passed over. Names that no event can have are nobody's, and those that the group ignores everybody's
    /// business, so neither is asked about.
    pub(crate) fn note(&mut self, build: &Build, id: EntryId, name: &str, version: u32) {
        self.entries.0 += 1;
        if !self.waiting.contains_key(name) && !build.ignores.contains(name) && keys::check_event(name).is_ok() {
            self.waiting.insert(name.to_owned(), (version, id));
        }
    }

    /// The names that the next commit is to carry.
    pub(crate) fn take(&mut self) -> Vec<String> {
        self.flying = std::mem::take(&mut self.waiting);
        self.entries = (0, self.entries.0);
        self.flying.keys().cloned().collect()
    }

    /// The commit on its way is done: how many entries are passed over for good by it.
    pub(crate) fn acknowledged(&mut self) -> u64 {
        std::mem::take(&mut self.entries.1)
    }

    /// The first entry in the commit on its way that holds one of these events.
    pub(crate) fn first(&self, names: &[String]) -> Option<Need> {
        let declared = self.flying.iter().filter(|(name, _)| names.contains(name));
        let (name, (version, entry)) = declared.min_by_key(|(_, (_, entry))| *entry)?;
        Some(Need { name: name.clone(), version: *version, entry: *entry })
    }
}

/// How often a process has left a partition to another build, one time soon after the other.
#[derive(Debug, Default)]
pub(crate) struct Passes {
    count: u32,
    last: Option<Instant>,
}

impl Passes {
    /// One more; answers how long to wait before, where the partition goes to and fro.
    pub(crate) fn more(&mut self, now: Instant, random: f64) -> Option<Duration> {
        let soon = self.last.is_some_and(|last| now.duration_since(last) < IN_A_ROW);
        self.count = if soon { self.count.saturating_add(1) } else { 1 };
        self.last = Some(now);
        self.are_many().then(|| wait(TO_AND_FRO, self.count - AT_ONCE, random))
    }

    /// Whether the partition goes to and fro.
    pub(crate) fn are_many(&self) -> bool {
        self.count > AT_ONCE
    }
}

/// Declares the events of this build in the group's state, which is made where it is new.
///
/// # Errors
/// When the broker cannot be asked. What it refuses is left to the group, which runs into the same and says so.
pub(crate) async fn announce(
    broker: &dyn Broker,
    key: &GroupKey,
    start: Start,
    build: &Build,
) -> Result<(), BrokerError> {
    let announced = async {
        // A state that comes and goes meanwhile is for the group to judge.
        for _ in 0..3 {
            match broker.state(key).await? {
                Some(state) => return declare(broker, key, &state, build).await,
                None if broker.create(key, start).await? == Created::Foreign => break,
                None => {}
            }
        }
        Ok(())
    };
    match announced.await {
        Err(error) if matches!(error.kind(), BrokerErrorKind::Unavailable | BrokerErrorKind::Indefinite) => Err(error),
        Err(error) => {
            tracing::debug!(group = key.group(), partition = key.partition().as_str(), %error, "its events could not be declared at the start");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Declares what this build handles where the state does not say so: only reading, in the usual case.
async fn declare(broker: &dyn Broker, key: &GroupKey, state: &GroupState, build: &Build) -> Result<(), BrokerError> {
    let declares = build.undeclared(&state.events);
    if !declares.is_empty() {
        broker.declare_events(key, &Change { declares, ..Change::default() }).await?;
    }
    Ok(())
}

/// What an entry needs that this build does not handle.
pub(crate) fn need(name: &str, version: u32, entry: &Entry) -> Need {
    Need { name: name.to_owned(), version, entry: entry.id }
}

impl Group {
    /// Before it contends: what this build handles stands in the state, also when another one has withdrawn it.
    pub(crate) async fn declare(&self, state: &GroupState) -> Result<(), BrokerError> {
        declare(&*self.engine.broker, &self.key, state, &self.build).await
    }

    /// After it has become the owner: what the group passes over for good is no longer waited for.
    pub(crate) async fn withdraw(&self, declared: &Events) {
        let forgets = self.build.withdrawn(declared);
        if forgets.is_empty() {
            return;
        }
        let events = forgets.join(", ");
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        match self.engine.broker.declare_events(&self.key, &Change { forgets, ..Change::default() }).await {
            Ok(_) => {
                tracing::info!(group, partition, events, "ignored from now on: no build is waited for to handle them")
            }
            // Nothing depends on it: the next owner that ignores them tries it again.
            Err(error) => tracing::debug!(group, partition, events, %error, "ignored, but still declared"),
        }
    }

    /// Whether a contender whose turn it is takes the lease, when an event is needed that this build does not handle. It
    /// gets its turn where no member handles it, or none that does has taken it.
    ///
    /// `untaken` watches the lease, which for as long is there for anybody who can handle what is needed.
    pub(crate) async fn give_way(&self, state: &GroupState, untaken: &mut Still<LeaseView>) -> Result<Way, Ended> {
        let now = Instant::now();
        let untaken = now.duration_since(untaken.observe(state.lease.clone(), NOBODY, now));
        match self.build.turn(state.needs.as_ref(), state.at, untaken) {
            Turn::Contend => Ok(Way::Contend),
            Turn::Forget(need) => {
                let change = Change { met: Some(need.clone()), ..Change::default() };
                self.engine.broker.declare_events(&self.key, &change).await?;
                Ok(Way::Forgotten)
            }
            Turn::Leave => {
                self.progress.enter(Phase::StandingBy { owner: member_of(&state.lease.owner).to_owned() });
                Ok(Way::Leave)
            }
            Turn::Missing(need) => {
                self.say_halted(&self.missing(need));
                Ok(Way::Leave)
            }
        }
    }

    /// Before a partition is left to another build: says so, and waits where it only comes back.
    pub(crate) async fn pass(&self, lease: &Lease, past: &mut Past, need: &Need) {
        let (group, partition) = (self.key.group(), self.key.partition().as_str());
        let (entry, event, version) = (need.entry, &need.name, need.version);
        let Some(wait) = past.passes.more(Instant::now(), self.engine.random.fraction()) else {
            tracing::info!(group, partition, %entry, event, version, "leaving the partition to a build that handles this event");
            return;
        };
        // Told once for the group, with who the others are.
        tracing::debug!(group, partition, %entry, event, version, "leaving the partition once more, after a while");
        self.place.contest(need);
        tokio::select! {
            () = self.pause(wait) => {}
            () = lease.lost() => {}
        }
    }

    /// Why nobody goes on, and what lets somebody.
    fn missing(&self, need: &Need) -> String {
        let Need { name, version, entry } = need;
        let (stream, key) = (self.progress.stream, &self.key);
        let (what, remedy) = match self.build.takes.get(name) {
            Some(known) => (
                format!(
                    "event `{name}` of stream `{stream}` is version {version}, and this program knows version {known}"
                ),
                format!("deploy a program that knows version {version}"),
            ),
            None => (
                format!(
                    "event `{name}` of stream `{stream}`, version {version}, is one that a build of the group handles, and this program has no consumer for it"
                ),
                format!(
                    "start a build that has one, or say `ignore = [\"{name}\"]` on a consumer of the group to pass such events over for good"
                ),
            ),
        };
        let ignores: Vec<_> = self.build.ignores.iter().map(|name| format!("`{name}`")).collect();
        let ignores = match ignores.as_slice() {
            [] => String::new(),
            names => format!(" (it ignores {})", names.join(", ")),
        };
        format!(
            "{key}: entry {entry}: {what}{ignores}; {remedy}; or pass this one over with `{}` if it should not be there; the group then goes on by itself",
            self.reset_behind(*entry)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: EntryId = EntryId::new(5, 0);

    /// Takes `Placed` up to version 2 and `Paid`, and ignores `Gone`.
    fn build() -> Build {
        Build::new([("Placed", 2), ("Paid", 1)], ["Gone"])
    }

    fn events(events: &[(&str, u32)]) -> Events {
        events.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect()
    }

    fn needed(name: &str, version: u32, ms: u64) -> Need {
        Need { name: name.to_owned(), version, entry: EntryId::new(ms, 0) }
    }

    #[test]
    fn only_what_somebody_has_declared_and_nobody_ignores_is_left_to_another_build() {
        let declared = events(&[("Shipped", 1), ("Gone", 1)]);
        assert!(build().leaves(&declared, "Shipped"));
        assert!(!build().leaves(&declared, "Unheard") && !build().leaves(&declared, "Gone"));
    }

    #[test]
    fn who_takes_the_version_or_ignores_the_name_may_contend_at_once() {
        for need in [needed("Placed", 1, 9), needed("Placed", 2, 9), needed("Gone", 7, 9)] {
            assert_eq!(build().turn(Some(&need), AT, Duration::ZERO), Turn::Contend, "{need:?}");
        }
        assert_eq!(build().turn(None, AT, Duration::ZERO), Turn::Contend);
    }

    #[test]
    fn an_event_above_the_checkpoint_is_never_contended_for_by_who_cannot_handle_it() {
        for need in [needed("Placed", 3, 9), needed("Shipped", 1, 9)] {
            assert_eq!(build().turn(Some(&need), AT, Duration::ZERO), Turn::Leave);
            assert_eq!(build().turn(Some(&need), AT, NOBODY), Turn::Missing(&need));
        }
    }

    #[test]
    fn behind_the_checkpoint_an_older_build_waits_until_nobody_else_is_there() {
        let need = needed("Shipped", 1, 5);
        assert_eq!(build().turn(Some(&need), AT, NOBODY - Duration::from_millis(1)), Turn::Leave);
        assert_eq!(build().turn(Some(&need), AT, NOBODY), Turn::Forget(&need));
    }

    #[test]
    fn what_is_declared_already_is_not_declared_again() {
        assert_eq!(build().undeclared(&events(&[("Placed", 3), ("Paid", 1), ("Other", 1)])), Events::new());
        assert_eq!(build().undeclared(&events(&[("Placed", 1), ("Paid", 1)])), events(&[("Placed", 2)]));
        assert_eq!(build().undeclared(&Events::new()), events(&[("Placed", 2), ("Paid", 1)]));
        assert_eq!(build().withdrawn(&events(&[("Placed", 2), ("Gone", 1)])), ["Gone"]);
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
