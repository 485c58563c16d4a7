//! The card of a process: its name, its lease and its build, for the other members of a group; pure.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::build::Build;
use crate::clock::millis;
use crate::random::Random;

/// The name of a process: fresh, and readable.
pub(crate) fn name(host: &str, process: u32, random: &Random) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let host: String = host.chars().map(plain).take(64).collect();
    let host = if host.is_empty() { "process" } else { &host };
    format!("{host}.{process}.{}", &random.token()[..8])
}

/// The member that an owner's token names; the token itself where it names none.
pub(crate) fn member_of(owner: &str) -> &str {
    owner.rsplit_once('/').map_or(owner, |(member, _)| member)
}

/// Name, lease and build of the member that says this about itself. Where it does not say how long it may be silent, this
/// long.
pub(crate) fn describe(says: &str, lease_for: Duration) -> (String, Duration, String) {
    let Card { name, lease_for, build, .. } = Card::read(says, lease_for);
    (name, lease_for, build.to_string())
}

/// A process's entry in the set of a group's members: its name, then words of the form `name=value`. A build passes over words
/// that it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// Fresh for every process, and readable: host, process id, random.
    pub(super) name: String,
    /// How long it may be silent.
    pub(super) lease_for: Duration,
    /// The partitions that it cannot take now.
    pub(super) without: BTreeSet<u32>,
    /// The events of the group that it handles and ignores.
    pub(super) build: Arc<Build>,
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lease={}", self.name, millis(self.lease_for))?;
        for (n, partition) in self.without.iter().enumerate() {
            write!(f, "{}{partition}", if n == 0 { " without=" } else { "," })?;
        }
        match self.build.to_string() {
            build if build.is_empty() => Ok(()),
            build => write!(f, " {build}"),
        }
    }
}

impl Card {
    /// Reads what a member says. Where it does not say how long it may be silent, this long.
    pub(super) fn read(says: &str, lease_for: Duration) -> Self {
        let mut words = says.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let mut card = Self { name, lease_for, without: BTreeSet::new(), build: Arc::default() };
        let mut build = Build::default();
        for (word, value) in words.filter_map(|word| word.split_once('=')) {
            match word {
                "lease" => card.lease_for = value.parse().map_or(lease_for, Duration::from_millis),
                "without" => card.without = value.split(',').filter_map(|partition| partition.parse().ok()).collect(),
                _ => build.read(word, value),
            }
        }
        card.build = Arc::new(build);
        card
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    #[test]
    fn a_card_reads_back_and_words_of_later_builds_are_passed_over() {
        let build = Arc::new(Build::new([("P", 2), ("S.x", 1)], ["Gone"]));
        let able = Card { name: "a".to_owned(), lease_for: LEASE, without: [].into(), build };
        assert_eq!(able.to_string(), "a lease=10000 takes=P@2,S.x@1 ignores=Gone");
        assert_eq!(Card::read(&able.to_string(), LEASE), able);
        let card = Card {
            name: "node-1.42.0a".to_owned(),
            lease_for: Duration::from_secs(3),
            without: [1, 12].into(),
            build: Arc::default(),
        };
        assert_eq!(card.to_string(), "node-1.42.0a lease=3000 without=1,12");
        assert_eq!(Card::read(&card.to_string(), LEASE), card);
        let later = Card::read("node-1.42.0a build=7 lease=3000 odd without=1,12,x", LEASE);
        assert_eq!(later, card);
        assert_eq!(
            Card::read("bare", LEASE),
            Card { name: "bare".to_owned(), lease_for: LEASE, without: [].into(), build: Arc::default() }
        );
    }
}
