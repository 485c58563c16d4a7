//! Builds of different age in one group: which events each of them handles, and who may contend when one is needed; pure.
//!
//! While old and new builds overlap, every event is handled by one that knows it. For that
//!
//! * a build declares its events in the state of every group that it runs, before it publishes or contends;
//! * an owner that does not handle a declared event, or only older versions of it, commits and hands the partition over,
//!   with a [`Need`];
//! * who cannot meet the need does not contend ([`Build::turn`]), and says so when nobody can;
//! * each commit carries the names of what it passes over, and the broker refuses one whose names have been declared meanwhile.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use streams_core::EntryId;
use streams_core::broker::{Events, Need};

/// For how long a lease is left alone although no known member handles the needed event. A deploy stops and starts
/// processes, so such a member may be on its way. Every change of the owner costs more than this wait.
pub(crate) const NOBODY: Duration = Duration::from_secs(3);

/// The events of a group that this build handles and ignores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Build {
    /// The newest version that its consumers take, by name.
    takes: Events,
    /// The events that the group ignores for good.
    ignores: BTreeSet<String>,
}

/// A contender's decision about a lease that it could take.
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

/// As on a card: `takes=OrderPlaced@2,OrderShipped@1 ignores=OrderReturned`, each word only where there is one.
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
    pub(super) fn read(&mut self, word: &str, value: &str) {
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

    /// The newest version of an event that it takes.
    pub(crate) fn takes(&self, name: &str) -> Option<u32> {
        self.takes.get(name).copied()
    }

    /// The names that the group passes over for good.
    pub(crate) fn ignored(&self) -> impl Iterator<Item = &String> {
        self.ignores.iter()
    }

    /// The events that a queue may give to this build: those it handles, and every version of those it ignores.
    pub(crate) fn wants(&self) -> Events {
        let ignored = self.ignores.iter().map(|name| (name.clone(), u32::MAX));
        self.takes.iter().map(|(name, version)| (name.clone(), *version)).chain(ignored).collect()
    }

    /// Whether it takes such an event, or passes it over for good.
    pub(crate) fn handles(&self, name: &str, version: u32) -> bool {
        self.takes.get(name).is_some_and(|newest| *newest >= version) || self.ignores(name)
    }

    /// Whether it can handle what a past owner could not.
    pub(super) fn can_meet(&self, need: &Need) -> bool {
        self.handles(&need.name, need.version)
    }

    /// Decides about a lease that this contender could take, and that nobody has taken for so long. `at` is the checkpoint.
    ///
    /// A need stays recorded behind the checkpoint, too. More events of its kind will follow, and the partition would move to
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

    /// The events of this build that are not declared yet.
    pub(crate) fn undeclared(&self, declared: &Events) -> Events {
        let is_new = |(name, version): &(&String, &u32)| declared.get(*name).is_none_or(|known| known < version);
        self.takes.iter().filter(is_new).map(|(name, version)| (name.clone(), *version)).collect()
    }

    /// The events that are declared although the group ignores them for good.
    pub(crate) fn withdrawn(&self, declared: &Events) -> Vec<String> {
        declared.keys().filter(|name| self.ignores.contains(*name)).cloned().collect()
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

    fn needed(name: &str, version: u32, ms: u64) -> Need {
        Need { name: name.to_owned(), version, entry: EntryId::new(ms, 0) }
    }

    fn events(events: &[(&str, u32)]) -> Events {
        events.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect()
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
}
