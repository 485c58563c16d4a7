//! The members of a group as one process sees them: their cards, and which of them are silent; pure.
//!
//! No clock but one's own decides: a member counts beats, and whoever has seen the same beat for a whole lease takes it
//! out. [`assign`](super::assign) shares the partitions between those who stand here.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streams_core::broker::{Member, Need};
use tokio::time::Instant;

use super::assign::assign;
use super::card::Card;
use super::watch::Still;
use crate::clock::after;

/// For how long the members must stay the same before partitions that have an owner move.
pub(super) const SETTLE: Duration = Duration::from_secs(2);
/// How often a process says that it is there, and looks at the partitions of others. So the partitions of a dead one are
/// taken within a second of the end of its lease.
pub(super) const LOOK: Duration = Duration::from_millis(750);
/// How many looks there are in a lease at least: who misses one is not taken for silent.
const LOOKS_A_LEASE: u32 = 4;
/// How many others are named in a line of the log.
const MOST_NAMED: usize = 3;
/// After which part of its lease without a beat a member is given nothing new. Most likely it is dead, though it counts
/// until the lease is over. A lease that ran out shows that it was silent for two thirds of it; the living beat four times
/// in it.
const SILENT: f64 = 0.4;

/// The members of a group.
#[derive(Debug)]
pub(super) struct Roster {
    /// The key of the set of members.
    set: String,
    partitions: u32,
    /// This process.
    me: String,
    lease_for: Duration,
    /// By name.
    members: Vec<Watched>,
    /// Since when they are the same; none before the first look.
    since: Option<Instant>,
    /// Bumped with every change.
    version: u64,
    /// A look has failed: nobody is known to be silent until the next one, which begins anew to listen for signs of life.
    doubtful: bool,
    /// The event that the owner of a partition must be able to handle.
    needs: BTreeMap<u32, Need>,
    /// The owner of each partition, as long as nobody comes or goes.
    shares: Vec<Option<usize>>,
}

#[derive(Debug)]
struct Watched {
    says: String,
    card: Card,
    beat: u64,
    /// Since when it is seen with this beat: a lease of that is its end.
    still: Still<u64>,
    /// When it was last seen with another beat, or could not be: who is silent for long is given nothing new.
    heard: Instant,
    /// When it was seen first.
    joined: Instant,
}

/// How often a process with this lease looks.
pub(super) fn look(lease_for: Duration) -> Duration {
    LOOK.min(lease_for / LOOKS_A_LEASE)
}

/// The changes that a look at the members found, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) joined: Vec<String>,
    pub(super) left: Vec<String>,
}

impl Roster {
    pub(super) fn new(set: String, partitions: u32, me: String, lease_for: Duration) -> Self {
        let (members, needs, shares) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { set, partitions, me, lease_for, members, since: None, version: 0, doubtful: false, needs, shares }
    }

    /// Takes up what the owner of a partition must be able to handle, which decides who may have it.
    pub(super) fn need(&mut self, partition: u32, need: Option<&Need>, now: Instant) {
        if self.needs.get(&partition) == need {
            return;
        }
        match need {
            Some(need) => self.needs.insert(partition, need.clone()),
            None => self.needs.remove(&partition),
        };
        // Others will come upon the same soon: what moves for balance waits for that, as it does for members.
        self.since = self.since.map(|_| now);
        self.version += u64::from(self.version > 0);
        self.shares = self.share(|_| true, |_, _| true);
    }

    /// Takes up what was read just now.
    pub(super) fn observe(&mut self, found: Vec<Member>, now: Instant) -> News {
        let mut members: Vec<Watched> = Vec::with_capacity(found.len());
        for Member { says, beat } in found {
            let known = self.members.iter_mut().find(|member| member.says == says);
            let (heard, mut still) = match known {
                Some(member) if member.beat == beat && !self.doubtful => {
                    (member.heard, std::mem::take(&mut member.still))
                }
                Some(member) => (now, std::mem::take(&mut member.still)),
                None => (now, Still::default()),
            };
            let card = Card::read(&says, self.lease_for);
            still.observe(beat, card.lease_for, now);
            // A member with a changed card is still the same member.
            let before = self.members.iter().find(|member| member.card.name == card.name);
            let joined = before.map_or(now, |member| member.joined);
            members.push(Watched { says, card, beat, still, heard, joined });
        }
        self.doubtful = false;
        // A member that has changed its card may be listed twice for a moment: the one heard last counts.
        members.sort_by(|a, b| a.card.name.cmp(&b.card.name).then(b.heard.cmp(&a.heard)).then(a.says.cmp(&b.says)));
        members.dedup_by(|later, first| later.card.name == first.card.name);
        let names =
            |members: &[Watched]| members.iter().map(|member| member.card.name.clone()).collect::<BTreeSet<_>>();
        let (before, after) = (names(&self.members), names(&members));
        let same = self.members.iter().map(|member| &member.says).eq(members.iter().map(|member| &member.says));
        self.members = members;
        if !same || self.since.is_none() {
            self.since = Some(now);
            self.version += 1;
            self.shares = self.share(|_| true, |_, _| true);
        }
        News {
            joined: after.difference(&before).cloned().collect(),
            left: before.difference(&after).cloned().collect(),
        }
    }

    /// A look has failed.
    pub(super) fn doubt(&mut self) {
        self.doubtful = true;
        self.members.iter_mut().for_each(|member| member.still.doubt());
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// This process.
    pub(super) fn me(&self) -> &str {
        &self.me
    }

    /// The others who handle what is needed, with their events, at most a few of them.
    pub(super) fn who_can_meet(&self, need: &Need) -> String {
        let others = self.members.iter().map(|member| &member.card);
        let able = others.filter(|card| card.name != self.me && card.build.can_meet(need));
        able.take(MOST_NAMED).map(|card| format!("{} {}", card.name, card.build)).collect::<Vec<_>>().join(", ")
    }

    /// The cards of this process that are listed.
    pub(super) fn own(&self) -> impl Iterator<Item = &str> {
        self.members.iter().filter(|member| member.card.name == self.me).map(|member| member.says.as_str())
    }

    /// Whether a partition is this process's share.
    pub(super) fn is_mine(&self, partition: u32) -> bool {
        let owner = self.shares.get(partition as usize).copied().flatten();
        owner.is_some_and(|member| self.members[member].card.name == self.me)
    }

    /// Distinguishes one list of members from the next.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether the members have been the same for long enough that partitions may move.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        !self.doubtful && self.since.is_some_and(|since| now.duration_since(since) >= SETTLE)
    }

    /// The members to take out, each with the beat that was not followed for a lease, and this process's outdated cards.
    pub(super) fn absent(&self, card: &str, now: Instant) -> Vec<(String, Option<u64>)> {
        let dead = |member: &&Watched| match member.card.name == self.me {
            true => member.says != card,
            false => {
                !self.doubtful && member.still.since().is_some_and(|since| now >= after(since, member.card.lease_for))
            }
        };
        let absent = self.members.iter().filter(dead);
        absent.map(|member| (member.says.clone(), (member.card.name != self.me).then_some(member.beat))).collect()
    }

    /// The successor to whom this process hands each partition over, where another member takes it as soon as it is free.
    ///
    /// While a member is silent, its share falls to another one, which would only hand it over in turn as fast as it can. So the
    /// partition stays where it is until the silent member is heard again, or gone.
    pub(super) fn successors(&self, now: Instant) -> Vec<Option<&str>> {
        let heard = self.heard_shares(now);
        let successor = |(share, heard): (&Option<usize>, &Option<usize>)| {
            let name = self.members[(*share)?].card.name.as_str();
            (share == heard && name != self.me).then_some(name)
        };
        self.shares.iter().zip(heard.iter()).map(successor).collect()
    }

    /// The successor that should take a partition which nobody owns, or whose lease the `lapsed` owner has let run out. That
    /// owner may be dead, or stuck with this partition alone.
    ///
    /// A lease that has run out is taken by a member that was there to see it. A member that has joined since may not take the
    /// lease before it has watched it for as long, and everybody would wait.
    pub(super) fn successor(&self, partition: u32, lapsed: Option<&str>, now: Instant) -> Option<&str> {
        let saw_it = |member: &Watched| now.duration_since(member.joined) + look(self.lease_for) >= self.lease_for;
        let somebody_saw = self.members.iter().any(|member| self.is_heard(member, now) && saw_it(member));
        let shares = match lapsed {
            None => self.heard_shares(now),
            Some(lapsed) => Cow::Owned(self.share(
                |member| self.is_heard(member, now) && (!somebody_saw || saw_it(member)),
                |of, member| of != partition || lapsed != member.card.name,
            )),
        };
        shares.get(partition as usize)?.map(|member| self.members[member].card.name.as_str())
    }

    /// The shares of the members that are heard.
    fn heard_shares(&self, now: Instant) -> Cow<'_, [Option<usize>]> {
        if self.members.iter().all(|member| self.is_heard(member, now)) {
            Cow::Borrowed(&self.shares)
        } else {
            Cow::Owned(self.share(|member| self.is_heard(member, now), |_, _| true))
        }
    }

    fn is_heard(&self, member: &Watched, now: Instant) -> bool {
        member.card.name == self.me || now < after(member.heard, member.card.lease_for.mul_f64(SILENT))
    }

    /// The owner of each partition among some members, as indices into all.
    fn share(&self, counts: impl Fn(&Watched) -> bool, eligible: impl Fn(u32, &Watched) -> bool) -> Vec<Option<usize>> {
        let counted: Vec<_> = (0..self.members.len()).filter(|member| counts(&self.members[*member])).collect();
        let names: Vec<_> = counted.iter().map(|member| self.members[*member].card.name.as_str()).collect();
        let may = |partition: u32, member: usize| {
            let member = &self.members[counted[member]];
            let able = self.needs.get(&partition).is_none_or(|need| member.card.build.can_meet(need));
            able && !member.card.without.contains(&partition) && eligible(partition, member)
        };
        let owners = assign(&self.set, self.partitions, &names, may);
        owners.into_iter().map(|owner| owner.map(|member| counted[member])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn roster(partitions: u32) -> Roster {
        Roster::new("streams:{s}:g:members".to_owned(), partitions, "a".to_owned(), LEASE)
    }

    fn members(members: &[(&str, u64)]) -> Vec<Member> {
        members.iter().map(|(says, beat)| Member { says: (*says).to_owned(), beat: *beat }).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_is_shared_among_those_who_can_handle_what_is_needed_there() {
        let (mut roster, start) = (roster(4), Instant::now());
        let says = members(&[("a takes=P@1", 1), ("b takes=P@2,S@1", 1), ("c ignores=S takes=P@1", 1)]);
        let need = |name: &str, version| Need { name: name.to_owned(), version, entry: streams_core::EntryId::ZERO };
        roster.observe(says.clone(), start);
        let before: Vec<_> =
            (0..4).map(|partition| roster.successor(partition, None, start).unwrap().to_owned()).collect();
        for (need, able) in [(need("P", 2), &["b"][..]), (need("S", 1), &["b", "c"]), (need("P", 1), &["a", "b", "c"])]
        {
            (0..4).for_each(|partition| roster.need(partition, Some(&need), start + secs(5)));
            assert!(!roster.is_settled(start + secs(6)) && roster.is_settled(start + secs(7)));
            let successors: BTreeSet<_> =
                (0..4).filter_map(|partition| roster.successor(partition, None, start)).collect();
            assert_eq!(successors, able.iter().copied().collect(), "{need:?}");
        }
        // Where nobody can, somebody has to say so.
        roster.need(0, Some(&need("X", 1)), start);
        assert!(roster.successor(0, None, start).is_some());
        (0..4).for_each(|partition| roster.need(partition, None, start));
        let after: Vec<_> =
            (0..4).map(|partition| roster.successor(partition, None, start).unwrap().to_owned()).collect();
        assert_eq!(after, before);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_the_same_beat_for_its_lease_is_taken_out_with_that_beat() {
        let (mut roster, start) = (roster(4), Instant::now());
        roster.observe(members(&[("a", 1), ("b", 7), ("c lease=1000", 7)]), start);
        assert_eq!(roster.absent("a", start + secs(1)), [("c lease=1000".to_owned(), Some(7))]);
        roster.observe(members(&[("a", 1), ("b", 8), ("c lease=1000", 8)]), start + secs(5));
        assert!(roster.absent("a", start + secs(5)).is_empty());
        let absent = roster.absent("a", start + secs(15));
        assert_eq!(absent, [("b".to_owned(), Some(8)), ("c lease=1000".to_owned(), Some(8))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_ends_no_watch_and_counts_for_a_quarter_of_the_lease_at_most() {
        let (mut roster, start) = (roster(4), Instant::now());
        roster.observe(members(&[("a", 1), ("b", 7), ("c", 7)]), start);
        roster.doubt();
        assert!(roster.absent("a", start + secs(20)).is_empty());
        assert!(!roster.is_settled(start + secs(20)));
        roster.observe(members(&[("a", 1), ("b", 7), ("c", 8)]), start + secs(20));
        assert!(roster.absent("a", start + secs(27)).is_empty() && roster.is_settled(start + secs(20)));
        let successors: BTreeSet<_> = (0..4).filter_map(|p| roster.successor(p, None, start + secs(20))).collect();
        assert_eq!(successors.len(), 3, "who could not be heard is not silent");
        assert_eq!(roster.absent("a", start + millis_of(27_500)), [("b".to_owned(), Some(7))]);
        assert_eq!(roster.absent("a", start + secs(30)).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn members_settle_when_nobody_comes_or_goes() {
        let (mut roster, start) = (roster(4), Instant::now());
        assert!(!roster.is_settled(start + secs(60)), "nothing is known yet");
        assert_eq!(roster.observe(members(&[("a", 1)]), start).joined, ["a"]);
        assert!(!roster.is_settled(start + millis_of(1999)) && roster.is_settled(start + SETTLE));
        let news = roster.observe(members(&[("a", 2), ("b", 1)]), start + secs(3));
        assert_eq!(news, News { joined: vec!["b".to_owned()], left: Vec::new() });
        assert!(!roster.is_settled(start + secs(4)));
        roster.observe(members(&[("a", 3), ("b", 2)]), start + secs(5));
        assert!(roster.is_settled(start + secs(5)), "beats are no change");
        // Another thing to say is one.
        assert_eq!(roster.observe(members(&[("a", 3), ("b without=1", 1)]), start + secs(6)), News::default());
        assert!(!roster.is_settled(start + secs(6)));
    }

    fn millis_of(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_process_says_no_more_is_taken_out() {
        let (mut roster, start) = (roster(4), Instant::now());
        roster.observe(members(&[("a", 1), ("a without=1", 1)]), start);
        assert_eq!(roster.len(), 1);
        assert_eq!(roster.absent("a without=2", start).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_successors_of_a_dead_member_are_those_who_own_its_share_afterwards() {
        let (mut roster, start) = (roster(16), Instant::now());
        let names = ["a", "b", "c", "d"];
        roster.observe(members(&names.map(|name| (name, 1))), start);
        let owned: Vec<_> = (0..16).map(|p| roster.successor(p, None, start).unwrap().to_owned()).collect();
        // `d` is silent, the others are not.
        let later = start + secs(6);
        roster.observe(members(&[("a", 2), ("b", 2), ("c", 2), ("d", 1)]), later);
        let of_d: Vec<_> = (0..16).filter(|p| owned[*p as usize] == "d").collect();
        let successors: Vec<_> =
            of_d.iter().map(|p| roster.successor(*p, Some("d"), later).unwrap().to_owned()).collect();
        assert!(of_d.len() == 4 && successors.iter().all(|name| name != "d"), "{successors:?}");
        roster.observe(members(&[("a", 3), ("b", 3), ("c", 3)]), start + secs(11));
        let settled: Vec<_> =
            of_d.iter().map(|p| roster.successor(*p, None, start + secs(11)).unwrap().to_owned()).collect();
        assert_eq!(successors, settled);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_joined_is_no_successor_to_a_lease_that_it_has_not_watched() {
        let (mut roster, start) = (roster(16), Instant::now());
        roster.observe(members(&[("a", 1), ("d", 1)]), start);
        // `d` is dead, and `b` comes when its lease has nearly run out.
        roster.observe(members(&[("a", 2), ("b", 1), ("d", 1)]), start + secs(8));
        let over = start + secs(10);
        roster.observe(members(&[("a", 3), ("b", 2), ("d", 1)]), over);
        let successors = |roster: &Roster, now| -> BTreeSet<String> {
            (0..16).map(|p| roster.successor(p, Some("d"), now).unwrap().to_owned()).collect()
        };
        assert_eq!(successors(&roster, over), BTreeSet::from(["a".to_owned()]));
        // A released partition is anybody's, and so is one whose lease has run out once `b` has seen that.
        let freed = (0..16).any(|p| roster.successor(p, None, over) == Some("b"));
        roster.observe(members(&[("a", 4), ("b", 3), ("d", 1)]), start + secs(18));
        assert!(freed && successors(&roster, start + secs(18)).contains("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_let_a_lease_run_out_but_lives_loses_that_partition_alone() {
        let (mut roster, start) = (roster(4), Instant::now());
        roster.observe(members(&[("a", 1), ("b", 1)]), start);
        let of_b = (0..4).find(|p| roster.successor(*p, None, start) == Some("b")).unwrap();
        assert_eq!(roster.successor(of_b, Some("b"), start), Some("a"));
        assert_eq!(roster.successors(start)[of_b as usize], Some("b"));
        let says = format!("b without={of_b}");
        roster.observe(members(&[("a", 2), (&says, 1)]), start);
        assert_eq!((roster.successors(start)[of_b as usize], roster.successor(of_b, None, start)), (None, Some("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_handed_over_that_another_would_take_while_a_member_is_silent() {
        let mut kept = 0;
        for silent in ["b", "c", "d", "e"] {
            let (mut roster, start) = (roster(64), Instant::now());
            let names = ["a", "b", "c", "d", "e"];
            roster.observe(members(&names.map(|name| (name, 1))), start);
            let later = start + secs(6);
            roster.observe(members(&names.map(|name| (name, 1 + u64::from(name != silent)))), later);
            assert!(roster.is_settled(later), "beats are no change");
            let (before, during) = (roster.successors(start), roster.successors(later));
            for partition in 0..64 {
                if let Some(successor) = during[partition as usize] {
                    assert_eq!(roster.successor(partition, None, later), Some(successor));
                }
            }
            assert!(before.contains(&Some(silent)) && !during.contains(&Some(silent)));
            kept += before.iter().zip(&during).filter(|(before, during)| before.is_some() && during.is_none()).count();
        }
        assert!(kept > 4 * 12, "also what is the share of one who is heard: {kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_or_among_those_who_all_excuse_themselves_is_its_own_successor() {
        let (mut roster, start) = (roster(1), Instant::now());
        assert_eq!(roster.successor(0, None, start), None);
        roster.observe(members(&[("a without=0", 1)]), start);
        assert_eq!(roster.successor(0, Some("a"), start), Some("a"));
        roster.observe(members(&[("a without=0", 1), ("b without=0", 1)]), start);
        assert!(roster.successor(0, None, start).is_some());
    }
}
