//! The part of the contract that is about shared delivery, for every broker; the cases and their broker are those of `contract`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{
    Acquired, Adopted, Adoption, Become, BrokerErrorKind, Change, Committed, Consumed, Created, Crew, DeadBounds,
    Delivered, Events, Freed, Full, GroupState, Hand, Haul, Holder, Joined, LeaseView, Life, Lost, Moved, Need,
    Renewed, Replay, ReplayEnd, Reset, Settle, Settled, Take, Taken, Took,
};
use streams_core::keys::GroupKey;
use streams_core::{EntryId, Start};

use crate::contract::{
    Case, HELD, LEASE, LONG, NO_BOUNDS, claim, events, fields, ids, keys, partition, payloads, step, until_found,
};

/// Long enough to be seen to wait, short enough to be waited for.
const SOON: Duration = Duration::from_millis(150);

pub(crate) fn crew() -> GroupKey {
    partition().group("crew").shared()
}

/// A group that is asked for in both deliveries.
fn mixed() -> GroupKey {
    partition().group("mixed")
}

pub(crate) fn take(holder: &Holder, count: usize) -> Take {
    Take {
        holder: holder.clone(),
        count,
        takes: Events::new(),
        most_waiting: 10_000,
        longest_wait: Duration::from_secs(3600),
        in_hand: None,
        go_on: false,
    }
}

pub(crate) fn settle(holder: &Holder, ends: impl IntoIterator<Item = (EntryId, Become)>) -> Settle {
    Settle { holder: holder.clone(), ends: ends.into_iter().collect(), dead_bounds: NO_BOUNDS }
}

fn again(failed: u32, after: Duration) -> Become {
    Become::Again { failed, after }
}

fn needs(name: &str, version: u32) -> Become {
    Become::Needs { name: name.to_owned(), version, crashes: 0 }
}

fn back(crashes: u32) -> Become {
    Become::Back { crashes }
}

fn passed_over(name: &str) -> Become {
    Become::PassedOver { name: name.to_owned() }
}

pub(crate) fn entry_ids(haul: &Haul) -> Vec<EntryId> {
    haul.entries.iter().map(|delivered| delivered.entry.id).collect()
}

/// By entry how many attempts have failed, and how many crashes it has.
pub(crate) fn counts(haul: &Haul) -> Vec<(EntryId, u32, u32)> {
    haul.entries.iter().map(|Delivered { entry, failed, crashes }| (entry.id, *failed, *crashes)).collect()
}

impl Case {
    /// Makes the group from the beginning of so many entries.
    pub(crate) async fn shared(&self, count: usize) -> Vec<EntryId> {
        let all = self.append(count).await;
        assert_eq!(self.broker.create(&crew(), Start::Earliest).await.unwrap(), Created::Made);
        all
    }

    pub(crate) async fn join(&self, owner: &str) -> Holder {
        match self.broker.join(&crew(), owner, LEASE).await.unwrap() {
            Joined::Member { epoch } => Holder { owner: owner.to_owned(), epoch },
            other => panic!("no member: {other:?}"),
        }
    }

    pub(crate) async fn took(&self, take: &Take) -> Took {
        self.broker.take(&crew(), take).await.unwrap()
    }

    pub(crate) async fn haul(&self, take: &Take) -> Haul {
        match self.took(take).await {
            Took::Entries(haul) => haul,
            other => panic!("nothing taken: {other:?}"),
        }
    }

    /// Takes so many at most, and says which.
    pub(crate) async fn takes(&self, holder: &Holder, count: usize) -> Vec<EntryId> {
        entry_ids(&self.haul(&take(holder, count)).await)
    }

    async fn lost(&self, holder: &Holder) -> (Lost, bool) {
        match self.took(&take(holder, 10)).await {
            Took::Lost { lost, found } => (lost, found),
            other => panic!("nothing lost: {other:?}"),
        }
    }

    pub(crate) async fn settled(&self, settle: &Settle) -> Option<Settled> {
        self.broker.settle(&crew(), settle).await.unwrap()
    }

    /// Settles what can be settled in whole.
    pub(crate) async fn settle(&self, holder: &Holder, ends: impl IntoIterator<Item = (EntryId, Become)>) {
        assert_eq!(self.settled(&settle(holder, ends)).await, Some(Settled::default()));
    }

    pub(crate) async fn crew(&self) -> Crew {
        self.broker.crew(&crew()).await.unwrap().unwrap()
    }

    pub(crate) async fn life(&self, owner: &str) -> Life {
        let consumers = self.crew().await.consumers;
        consumers.into_iter().find(|hand| hand.owner == owner).expect("it is a consumer").life
    }

    pub(crate) async fn frees(&self, owner: &str, seen: &Life, count: usize) -> Freed {
        self.broker.free(&crew(), owner, seen, count).await.unwrap()
    }

    /// Frees a consumer of all that it has in hand; answers how much that was.
    pub(crate) async fn bury(&self, owner: &str) -> u64 {
        match self.frees(owner, &self.life(owner).await, 1000).await {
            Freed::All(count) => count,
            other => panic!("not freed: {other:?}"),
        }
    }

    async fn renews(&self, holder: &Holder) -> Renewed {
        let mut renewer = self.broker.renewer().await.unwrap();
        renewer.renew(&[(crew(), holder.clone())]).await.unwrap()[0]
    }

    async fn resumes(&self) {
        assert!(self.broker.resume(&crew()).await.unwrap());
    }

    async fn crew_state(&self) -> GroupState {
        self.broker.state(&crew()).await.unwrap().unwrap()
    }

    async fn letters_of_crew(&self) -> Vec<String> {
        payloads(&self.broker.dead_letters(&crew(), EntryId::ZERO, 1000).await.unwrap())
    }

    /// How often the partition's bell was rung for the group.
    async fn rings(&self) -> usize {
        let bell = keys(&[(&partition().bell(), EntryId::ZERO)]);
        let found = self.broker.tail().await.unwrap().next(&bell, 1000, Duration::ZERO).await.unwrap();
        let entries = found.into_iter().flat_map(|found| found.entries);
        entries.filter(|ring| ring.field("group") == Some(&b"crew"[..])).count()
    }
}

contract! {
    // Consumers.

    async fn a_new_shared_group_has_nobody_and_nothing(case) {
        case.shared(3).await;
        let nobody = Crew { seen: Some(0), ..Crew::default() };
        assert_eq!(case.crew().await, nobody);
        assert_eq!(case.crew_state().await.lease, LeaseView::default());
        assert_eq!(case.broker.create(&crew(), Start::Latest).await.unwrap(), Created::Exists);
        assert_eq!(case.crew().await, nobody);
        assert_eq!(case.broker.crew(&partition().group("none").shared()).await.unwrap(), None);
    }

    async fn who_joins_gets_an_epoch_above_every_earlier_one(case) {
        case.shared(0).await;
        let before = case.broker.now().await.unwrap();
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert!(a.epoch >= before && b.epoch > a.epoch, "{before} {a:?} {b:?}");
        // The answer was lost.
        assert_eq!(case.join("a").await, a);
        let state = case.crew_state().await;
        assert_eq!(state.lease, LeaseView { epoch: b.epoch, ..LeaseView::default() });
        assert_eq!(state.lease_for, Duration::ZERO);
        let lives: Vec<_> = case.crew().await.consumers.into_iter().map(|hand| (hand.owner, hand.life)).collect();
        for ((owner, life), holder) in lives.into_iter().zip([&a, &b]) {
            assert_eq!(owner, holder.owner);
            let Life::Beats { epoch, lease_for, .. } = life else { panic!("{life:?}") };
            assert_eq!((epoch, lease_for), (holder.epoch, LEASE));
        }
        assert_eq!(case.bury("a").await, 0);
        assert!(case.join("a").await.epoch > b.epoch);
    }

    async fn consumers_are_told_in_the_order_of_their_names(case) {
        case.shared(0).await;
        let names = ["node-10.1/x", "node-2.1/x", "a/9", "z"];
        for name in names {
            case.join(name).await;
        }
        let told: Vec<_> = case.crew().await.consumers.into_iter().map(|hand| hand.owner).collect();
        let sorted = BTreeSet::from(names.map(str::to_owned));
        assert_eq!(told, sorted.into_iter().collect::<Vec<_>>());
    }

    async fn nobody_joins_without_a_state_a_marker_or_a_token(case) {
        assert_eq!(case.broker.join(&crew(), "a", LEASE).await.unwrap(), Joined::Missing);
        case.mark_as(&crew());
        assert_eq!(case.broker.join(&crew(), "a", LEASE).await.unwrap(), Joined::Missing);
        assert_eq!(case.broker.create(&crew(), Start::Earliest).await.unwrap(), Created::Foreign);
        assert_eq!(case.broker.state(&crew()).await.unwrap(), None);
        case.delete();
        let all = case.shared(2).await;
        assert_eq!(case.broker.join(&crew(), "", LEASE).await.unwrap_err().kind(), BrokerErrorKind::Refused);
        let a = case.join("a").await;
        case.takes(&a, 1).await;
        case.delete();
        assert_eq!(case.broker.join(&crew(), "b", LEASE).await.unwrap(), Joined::Vanished { at: all[0] });
        assert_eq!(case.broker.crew(&crew()).await.unwrap(), None, "there is no marker");
        case.append(1).await;
        assert_eq!(case.broker.join(&crew(), "b", LEASE).await.unwrap(), Joined::Vanished { at: all[0] });
    }

    async fn a_consumer_beats_when_it_renews_and_when_it_takes(case) {
        case.shared(1).await;
        let a = case.join("a").await;
        let mut seen = vec![case.life("a").await];
        assert_eq!(case.renews(&a).await, HELD);
        seen.push(case.life("a").await);
        assert_eq!(case.takes(&a, 5).await.len(), 1);
        seen.push(case.life("a").await);
        assert_eq!(case.takes(&a, 5).await, []);
        seen.push(case.life("a").await);
        assert_eq!(case.takes(&a, 0).await, []);
        seen.push(case.life("a").await);
        let beats: Vec<_> = seen.iter().map(|life| match life {
            Life::Beats { beat, .. } => *beat,
            other => panic!("{other:?}"),
        }).collect();
        assert!(beats.is_sorted_by(|one, next| one < next), "{beats:?}");
        // Whoever looked before the last beat frees nothing.
        for stale in &seen[..4] {
            assert_eq!(case.frees("a", stale, 9).await, Freed::Contended);
        }
        assert_eq!(case.crew().await.consumers, [Hand { owner: "a".to_owned(), pending: 1, life: seen[4].clone() }]);
        // Joining again is no sign of another consumer.
        assert_eq!(case.join("a").await, a);
    }

    async fn only_consumers_renew_take_and_settle(case) {
        let all = case.shared(2).await;
        let a = case.join("a").await;
        let held = case.takes(&a, 1).await;
        let before = case.crew().await;
        let strangers = [
            Holder { owner: "b".to_owned(), ..a.clone() },
            Holder { epoch: a.epoch + 1, ..a.clone() },
            Holder { epoch: a.epoch - 1, ..a.clone() },
            Holder { owner: String::new(), epoch: 0 },
        ];
        for stranger in strangers {
            assert_eq!(case.renews(&stranger).await, Renewed::Lost, "{stranger:?}");
            assert_eq!(case.took(&take(&stranger, 9)).await, Took::Fenced, "{stranger:?}");
            assert_eq!(case.settled(&settle(&stranger, [(held[0], Become::Done)])).await, None, "{stranger:?}");
        }
        assert_eq!(case.crew().await, before);
        let none = partition().group("none").shared();
        assert_eq!(case.broker.take(&none, &take(&a, 9)).await.unwrap(), Took::Missing);
        assert_eq!(case.broker.settle(&none, &settle(&a, [(all[0], Become::Done)])).await.unwrap(), None);
        assert_eq!(case.broker.free(&none, "a", &Life::Dead, 9).await.unwrap(), Freed::Contended);
    }

    // Handing out.

    async fn an_entry_is_handed_out_once_and_in_the_order_of_the_stream(case) {
        let all = case.shared(5).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        let haul = case.haul(&take(&a, 2)).await;
        assert_eq!(counts(&haul), [(all[0], 0, 0), (all[1], 0, 0)]);
        let entries: Vec<_> = haul.entries.iter().map(|delivered| Arc::clone(&delivered.entry)).collect();
        assert_eq!(payloads(&entries), ["0", "1"]);
        assert_eq!((haul.waiting, haul.due, haul.lost), (0, None, None));
        assert_eq!(case.takes(&b, 2).await, all[2..4]);
        assert_eq!(case.takes(&a, 9).await, all[4..]);
        assert_eq!(case.haul(&take(&b, 9)).await, Haul::default());
        let more = case.append(1).await;
        assert_eq!(case.takes(&b, 9).await, more);
        let crew = case.crew().await;
        assert_eq!(crew.consumers.iter().map(|hand| hand.pending).collect::<Vec<_>>(), [3, 3]);
        assert_eq!((crew.pending, crew.waiting, crew.at, crew.seen), (6, 0, more[0], Some(6)));
        assert_eq!(case.crew_state().await.at, more[0]);
    }

    async fn of_many_that_take_at_the_same_time_none_gets_what_another_has(case) {
        let all = case.shared(40).await;
        let takers: Vec<_> = (0..10)
            .map(|n| {
                let broker = Arc::clone(&case.broker);
                tokio::spawn(async move {
                    let owner = format!("taker {n}");
                    let Joined::Member { epoch } = broker.join(&crew(), &owner, LEASE).await.unwrap() else { panic!() };
                    let take = take(&Holder { owner, epoch }, 3);
                    match broker.take(&crew(), &take).await.unwrap() {
                        Took::Entries(haul) => entry_ids(&haul),
                        other => panic!("{other:?}"),
                    }
                })
            })
            .collect();
        let mut taken = Vec::new();
        for taker in takers {
            taken.extend(taker.await.unwrap());
        }
        taken.sort_unstable();
        assert_eq!(taken, all[..30]);
    }

    async fn a_group_begins_where_it_is_told_to(case) {
        let all = case.append(4).await;
        for (name, start, expected, seen) in [
            ("g0", Start::Latest, &all[4..], Some(4)),
            ("g1", Start::At(all[2]), &all[2..], None),
            ("g2", Start::Ago(Duration::from_secs(3600)), &all[..], Some(0)),
        ] {
            let group = partition().group(name).shared();
            assert_eq!(case.broker.create(&group, start).await.unwrap(), Created::Made);
            assert_eq!(case.broker.crew(&group).await.unwrap().unwrap().seen, seen, "{name}");
            let Joined::Member { epoch } = case.broker.join(&group, "a", LEASE).await.unwrap() else { panic!() };
            let holder = Holder { owner: "a".to_owned(), epoch };
            let Took::Entries(haul) = case.broker.take(&group, &take(&holder, 9)).await.unwrap() else { panic!() };
            assert_eq!(entry_ids(&haul), expected, "{name}");
            // At the end of the stream it is known.
            let Took::Entries(Haul { entries, .. }) = case.broker.take(&group, &take(&holder, 9)).await.unwrap() else { panic!() };
            assert_eq!(entries, []);
            let crew = case.broker.crew(&group).await.unwrap().unwrap();
            assert_eq!((crew.at, crew.seen, crew.oldest), (all[3], Some(4), expected.first().copied()), "{name}");
            assert_eq!(crew.settled(), expected.first().map_or(all[3], |oldest| oldest.previous()), "{name}");
        }
    }

    async fn many_entries_are_taken_settled_and_given_back_in_one_call(case) {
        let all = case.shared(2_500).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2_500).await, all);
        let ends = all.iter().enumerate().map(|(n, id)| (*id, if n < 1_200 { Become::Done } else { back(0) }));
        case.settle(&a, ends).await;
        let crew = case.crew().await;
        assert_eq!((crew.pending, crew.waiting), (1_300, 1_300));
        let taken: BTreeSet<_> = case.takes(&b, 2_500).await.into_iter().collect();
        assert_eq!(taken, all[1_200..].iter().copied().collect());
        // Those whose answer was lost.
        let reconciled = Take { in_hand: Some(all[1_200..1_210].to_vec()), ..take(&b, 0) };
        assert_eq!(case.haul(&reconciled).await.waiting, 1_290);
        let life = case.life("b").await;
        assert_eq!(case.frees("b", &life, 5_000).await, Freed::All(10));
        assert_eq!(case.takes(&a, 5_000).await.len(), 1_300);
        let life = case.life("a").await;
        assert_eq!(case.frees("a", &life, 1_250).await, Freed::Some(1_250));
        assert_eq!(case.frees("a", &Life::Dead, 1_250).await, Freed::All(50));
    }

    // Settling.

    async fn what_is_done_is_done_once_and_for_all(case) {
        let all = case.shared(3).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.settle(&a, [(all[0], Become::Done)]).await;
        let twice = settle(&a, [(all[0], Become::Done), (all[1], Become::Done)]);
        let lost = |ids: &[EntryId]| Some(Settled { lost: ids.to_vec(), ..Settled::default() });
        assert_eq!(case.settled(&twice).await, lost(&all[..1]));
        assert_eq!(case.settled(&twice).await, lost(&all[..2]));
        assert_eq!(case.takes(&b, 9).await, all[2..]);
        assert_eq!((case.crew().await.pending, case.crew().await.waiting), (1, 0));
        assert_eq!(case.settled(&settle(&a, [])).await, Some(Settled::default()));
    }

    async fn nobody_settles_what_another_has_in_hand_or_nobody(case) {
        let all = case.shared(4).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        assert_eq!(case.takes(&b, 1).await, all[2..3]);
        case.settle(&b, [(all[2], back(0))]).await;
        let before = case.crew().await;
        let (given_back, not_handed_out, never_there) = (all[2], all[3], EntryId::new(1, 1));
        let what = [
            Become::Done,
            passed_over("Other"),
            again(3, Duration::ZERO),
            Become::Dead(fields("x")),
            Become::Charged { crashes: 1 },
            back(0),
            needs("Trade", 2),
        ];
        for what in what {
            let asked = [all[0], given_back, not_handed_out, never_there];
            let settled = case.settled(&settle(&b, asked.map(|id| (id, what.clone())))).await.unwrap();
            assert_eq!(settled, Settled { lost: asked.to_vec(), ..Settled::default() }, "{what:?}");
        }
        assert_eq!(case.crew().await, before);
        assert!(case.letters_of_crew().await.is_empty());
        // And what can be settled is, beside what cannot.
        let settled = case.settled(&settle(&a, [(given_back, Become::Done), (all[0], Become::Done)])).await.unwrap();
        assert_eq!(settled.lost, [given_back]);
        assert_eq!(counts(&case.haul(&take(&a, 1)).await), [(all[2], 0, 0)]);
        assert_eq!(case.crew().await.pending, 2);
    }

    async fn a_failed_one_comes_again_not_before_its_time_and_with_its_counts(case) {
        let all = case.shared(2).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 1).await, all[..1]);
        let before = case.broker.now().await.unwrap();
        case.settle(&a, [(all[0], again(1, SOON))]).await;
        let haul = case.haul(&take(&b, 1)).await;
        assert_eq!((counts(&haul), haul.waiting), (vec![(all[1], 0, 0)], 1), "it holds up nothing");
        assert!(haul.due.is_some_and(|due| !due.is_zero() && due <= SOON), "{:?}", haul.due);
        let crew = case.crew().await;
        assert!(crew.due.is_some_and(|due| !due.is_zero() && due <= SOON), "{:?}", crew.due);
        assert_eq!((crew.pending, crew.waiting), (2, 1));

        let taken = loop {
            let now = case.broker.now().await.unwrap();
            let haul = case.haul(&take(&b, 9)).await;
            if !haul.entries.is_empty() {
                break haul;
            }
            assert!(now < before + 10_000, "it does not come again");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert!(case.broker.now().await.unwrap() >= before + 150);
        assert_eq!((counts(&taken), taken.waiting, taken.due), (vec![(all[0], 1, 0)], 0, None));
        // Whoever has it next learns of the failures of others.
        case.settle(&b, [(all[0], again(2, Duration::ZERO))]).await;
        assert_eq!(case.crew().await.due, Some(Duration::ZERO));
        assert_eq!(counts(&case.haul(&take(&a, 9)).await), [(all[0], 2, 0)]);
        case.settle(&a, [(all[0], Become::Done)]).await;
        assert_eq!(case.crew().await.due, None);
    }

    async fn what_is_given_back_untried_does_not_count(case) {
        let all = case.shared(2).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2).await, all);
        case.settle(&a, [(all[0], back(0)), (all[1], again(1, Duration::ZERO))]).await;
        let taken: BTreeSet<_> = counts(&case.haul(&take(&b, 9)).await).into_iter().collect();
        assert_eq!(taken, BTreeSet::from([(all[0], 0, 0), (all[1], 1, 0)]));
        case.settle(&b, all.iter().map(|id| (*id, back(0)))).await;
        let taken: BTreeSet<_> = counts(&case.haul(&take(&a, 9)).await).into_iter().collect();
        assert_eq!(taken, BTreeSet::from([(all[0], 0, 0), (all[1], 1, 0)]), "what has failed has failed");
    }

    async fn what_waits_is_handed_out_before_what_is_new(case) {
        let all = case.shared(4).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.settle(&a, [(all[1], back(0))]).await;
        assert_eq!(case.takes(&a, 2).await, [all[1], all[2]]);
    }

    async fn nothing_waits_longer_than_it_may_whatever_the_clock_does(case) {
        let all = case.shared(1).await;
        let a = case.join("a").await;
        case.takes(&a, 1).await;
        // As if the clock had gone back by an hour.
        case.settle(&a, [(all[0], again(1, Duration::from_secs(3600)))]).await;
        let haul = case.haul(&take(&a, 9)).await;
        assert_eq!((haul.entries.len(), haul.waiting), (0, 1));
        assert!(haul.due.is_some_and(|due| due > Duration::from_secs(3000)), "{:?}", haul.due);
        let impatient = Take { longest_wait: Duration::from_secs(60), ..take(&a, 9) };
        assert_eq!(counts(&case.haul(&impatient).await), [(all[0], 1, 0)]);
        // Nor is it a mistake to wait for ever.
        case.settle(&a, [(all[0], again(2, Duration::MAX))]).await;
        let patient = Take { longest_wait: Duration::MAX, ..take(&a, 9) };
        let haul = case.haul(&patient).await;
        assert!(haul.entries.is_empty() && haul.due > Some(LONG), "{haul:?}");
        assert!(case.crew().await.due > Some(LONG));
        assert_eq!(counts(&case.haul(&impatient).await), [(all[0], 2, 0)]);
    }

    async fn what_is_given_back_rings_the_bell_unless_it_has_to_wait(case) {
        let all = case.shared(5).await;
        let a = case.join("a").await;
        case.takes(&a, 5).await;
        let waits = [(all[0], Become::Done), (all[1], again(1, LONG)), (all[2], Become::Dead(fields("x")))];
        case.settle(&a, waits).await;
        assert_eq!(case.rings().await, 0);
        case.settle(&a, [(all[3], back(0))]).await;
        assert_eq!(case.rings().await, 1);
        case.settle(&a, [(all[4], needs("Trade", 2))]).await;
        assert_eq!(case.rings().await, 2);
        // Not for what it does not have in hand.
        case.settled(&settle(&a, [(all[3], back(0))])).await;
        assert_eq!(case.rings().await, 2);
        let mut tail = case.broker.tail().await.unwrap();
        let bell = keys(&[(&partition().bell(), EntryId::ZERO)]);
        assert_eq!(until_found(tail.as_mut(), &bell).await.len(), 2);
    }

    async fn no_more_is_handed_out_while_too_much_waits(case) {
        let all = case.shared(6).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 3).await, all[..3]);
        case.settle(&a, [(all[0], again(1, LONG)), (all[1], needs("Trade", 2)), (all[2], back(0))]).await;
        let most = |most_waiting| Take { most_waiting, ..take(&a, 2) };
        // What waits is handed out however much it is, and is not new.
        let haul = case.haul(&most(2)).await;
        assert_eq!((entry_ids(&haul), haul.waiting), (vec![all[2]], 2));
        assert_eq!(case.haul(&most(2)).await.entries, []);
        assert_eq!(case.crew().await.at, all[2]);
        assert_eq!(entry_ids(&case.haul(&most(3)).await), all[3..5]);
    }

    async fn what_is_passed_over_is_not_once_a_build_has_declared_it(case) {
        let all = case.shared(3).await;
        let a = case.join("a").await;
        case.takes(&a, 3).await;
        case.settle(&a, [(all[0], passed_over("AB"))]).await;
        let change = Change { declares: events(&[("AB", 1), ("XA", 1)]), ..Change::default() };
        case.broker.declare_events(&crew(), &change).await.unwrap().unwrap();
        let passing = settle(&a, [(all[1], passed_over("AB")), (all[2], passed_over("A"))]);
        let declared = Settled { declared: vec![all[1]], ..Settled::default() };
        assert_eq!(case.settled(&passing).await, Some(declared));
        assert_eq!(case.crew().await.pending, 1);
        case.settle(&a, [(all[1], back(0))]).await;
        assert_eq!(case.crew_state().await.events, events(&[("AB", 1), ("XA", 1)]));
    }

    async fn a_settlement_with_a_name_that_no_event_has_is_refused(case) {
        let all = case.shared(2).await;
        let a = case.join("a").await;
        case.takes(&a, 2).await;
        for name in ["", "two words", "A@1"] {
            for what in [passed_over(name), needs(name, 1)] {
                let ends = [(all[0], Become::Done), (all[1], what)];
                let error = case.broker.settle(&crew(), &settle(&a, ends)).await.unwrap_err();
                assert_eq!(error.kind(), BrokerErrorKind::Refused, "{name}");
            }
        }
        let letter = Become::Dead(vec![(b"f".to_vec(), Vec::new()); 4_000]);
        for what in [letter, Become::Dead(Vec::new())] {
            let error = case.broker.settle(&crew(), &settle(&a, [(all[0], what)])).await.unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::Refused);
        }
        assert_eq!(case.crew().await.pending, 2);
    }

    // Builds of different age.

    async fn what_another_build_must_handle_goes_only_to_one_that_does(case) {
        let all = case.shared(4).await;
        let (old, new) = (case.join("old").await, case.join("new").await);
        case.takes(&old, 4).await;
        let ends = [needs("Trade", 12), needs("Trade", 3), needs("Trade.x", 1), needs("Tra", 1)];
        case.settle(&old, all.iter().copied().zip(ends)).await;
        let crew = case.crew().await;
        assert_eq!((crew.pending, crew.waiting, crew.due), (4, 4, None));
        assert_eq!(crew.needed, events(&[("Tra", 1), ("Trade", 3), ("Trade.x", 1)]));
        let takes = |holder: &Holder, takes: &[(&str, u32)]| Take { takes: events(takes), ..take(holder, 9) };
        for nothing in [takes(&old, &[]), takes(&old, &[("Trade", 2), ("T", 9), ("Trade.", 9), ("Trades", 9)])] {
            let haul = case.haul(&nothing).await;
            assert_eq!((haul.entries.len(), haul.waiting, haul.due), (0, 4, None));
        }
        // It was not tried.
        assert_eq!(counts(&case.haul(&takes(&new, &[("Trade", 11)])).await), [(all[1], 0, 0)]);
        assert_eq!(case.haul(&takes(&new, &[("Trade", 11)])).await.entries, []);
        assert_eq!(entry_ids(&case.haul(&takes(&new, &[("Trade", u32::MAX), ("Tra", 1)])).await).len(), 2);
        assert_eq!(case.crew().await.needed, events(&[("Trade.x", 1)]));
        assert_eq!(entry_ids(&case.haul(&takes(&new, &[("Trade.x", 1)])).await), all[2..3]);
        assert_eq!(case.crew().await.needed, Events::new());
    }

    async fn at_most_ten_names_are_told_that_are_needed(case) {
        let all = case.shared(13).await;
        let a = case.join("a").await;
        case.takes(&a, 13).await;
        let needed = |n: usize| needs(&format!("E{n:02}"), 7);
        case.settle(&a, all.iter().enumerate().map(|(n, id)| (*id, needed(n)))).await;
        let expected: Events = (0..10).map(|n| (format!("E{n:02}"), 7)).collect();
        assert_eq!(case.crew().await.needed, expected);
    }

    // Answers that are lost.

    async fn what_an_answer_that_was_lost_handed_out_is_given_back(case) {
        let all = case.shared(5).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        // This one is lost.
        case.takes(&a, 2).await;
        let none_new = Take { in_hand: Some(all[..2].to_vec()), most_waiting: 0, ..take(&a, 1) };
        let mine = counts(&case.haul(&none_new).await);
        let other = counts(&case.haul(&take(&b, 1)).await);
        let both: BTreeSet<_> = mine.iter().chain(&other).copied().collect();
        assert_eq!(both, BTreeSet::from([(all[2], 0, 0), (all[3], 0, 0)]), "they come again as if they were new");
        // Without it whatever it holds stays with it; with it what it does not hold does no harm.
        assert_eq!(case.takes(&a, 0).await, []);
        let wrong = Take { in_hand: Some(vec![all[0], other[0].0, EntryId::new(1, 1)]), ..take(&a, 0) };
        let haul = case.haul(&wrong).await;
        assert_eq!((haul.entries.len(), haul.waiting), (0, 2));
        let crew = case.crew().await;
        assert_eq!(crew.consumers.iter().map(|hand| hand.pending).collect::<Vec<_>>(), [1, 1]);
        let ends = [all[0], all[1], mine[0].0].map(|id| (id, Become::Done));
        assert_eq!(case.settled(&settle(&a, ends)).await.unwrap().lost, [all[1], mine[0].0]);
    }

    // Consumers that are gone.

    async fn what_the_dead_had_in_hand_comes_again_and_counts(case) {
        let all = case.shared(3).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.settle(&a, [(all[0], again(4, Duration::ZERO))]).await;
        assert_eq!(case.takes(&a, 1).await, all[..1]);
        assert_eq!(case.bury("a").await, 2);
        assert_eq!((case.crew().await.pending, case.crew().await.waiting), (2, 2));
        assert_eq!(case.crew().await.consumers.len(), 1);
        let taken: BTreeSet<_> = counts(&case.haul(&take(&b, 2)).await).into_iter().collect();
        assert_eq!(taken, BTreeSet::from([(all[0], 4, 1), (all[1], 0, 1)]));
    }

    async fn what_has_crashed_is_charged_when_it_runs_and_not_before(case) {
        let all = case.shared(3).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 3).await, all);
        assert_eq!(case.bury("a").await, 3);
        let counted = async |holder: &Holder| {
            let any = Take { takes: events(&[("Trade", 1)]), ..take(holder, 3) };
            let mut counted = counts(&case.haul(&any).await);
            counted.sort_unstable();
            counted
        };
        let expected = |counts: [(u32, u32); 3]| -> Vec<_> {
            all.iter().zip(counts).map(|(id, (failed, crashes))| (*id, failed, crashes)).collect()
        };
        assert_eq!(counted(&b).await, expected([(0, 1), (0, 1), (0, 1)]));
        let rings = case.rings().await;
        // Sent twice it is one charge.
        for _ in 0..2 {
            case.settle(&b, [(all[0], Become::Charged { crashes: 1 })]).await;
        }
        case.settle(&b, [(all[1], Become::Charged { crashes: 1 })]).await;
        let crew = case.crew().await;
        assert_eq!((crew.waiting, crew.consumers[0].pending, case.rings().await), (0, 3, rings), "it stays in hand");
        // The run of one has failed.
        case.settle(&b, [(all[1], again(1, Duration::ZERO))]).await;
        assert_eq!(entry_ids(&case.haul(&take(&b, 1)).await), all[1..2]);
        assert_eq!(case.bury("b").await, 3);
        let c = case.join("c").await;
        assert_eq!(counted(&c).await, expected([(0, 2), (1, 1), (0, 1)]));
        // Given back untried it is as it was, whether it was charged or not.
        case.settle(&c, [(all[1], Become::Charged { crashes: 1 }), (all[2], Become::Charged { crashes: 1 })]).await;
        let ends = [(all[0], back(2)), (all[1], back(1)), (all[2], Become::Needs { name: "Trade".to_owned(), version: 1, crashes: 1 })];
        case.settle(&c, ends).await;
        assert_eq!(counted(&c).await, expected([(0, 2), (1, 1), (0, 1)]));
        // Where the answer that handed them out was lost, none of them has run.
        let nothing = Take { in_hand: Some(Vec::new()), ..take(&c, 0) };
        assert_eq!(case.haul(&nothing).await.waiting, 3);
        assert_eq!(counted(&c).await[0], (all[0], 0, 2));
    }

    async fn the_dead_are_freed_page_by_page_and_fenced_from_the_first(case) {
        let all = case.shared(5).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        case.takes(&a, 5).await;
        let seen = case.life("a").await;
        assert_eq!(case.frees("a", &seen, 2).await, Freed::Some(2));
        assert_eq!(case.rings().await, 0, "the last one rings");
        let dead = Hand { owner: "a".to_owned(), pending: 3, life: Life::Dead };
        assert_eq!(case.crew().await.consumers[0], dead);
        assert_eq!(case.frees("a", &seen, 2).await, Freed::Contended, "somebody else has begun");

        assert_eq!(case.renews(&a).await, Renewed::Lost);
        assert_eq!(case.took(&take(&a, 9)).await, Took::Fenced);
        for id in &all {
            assert_eq!(case.settled(&settle(&a, [(*id, Become::Done)])).await, None);
        }
        assert_eq!(case.takes(&b, 1).await.len(), 1, "meanwhile others work");
        assert_eq!(case.frees("a", &Life::Dead, 2).await, Freed::Some(2));
        assert_eq!(case.frees("a", &Life::Dead, 2).await, Freed::All(1));
        assert_eq!(case.rings().await, 1);
        assert_eq!(case.frees("a", &Life::Dead, 2).await, Freed::Contended);
        assert_eq!(case.frees("a", &seen, 2).await, Freed::Contended);
        assert_eq!(case.renews(&a).await, Renewed::Lost);
        assert_eq!(case.took(&take(&a, 9)).await, Took::Fenced);
        let crew = case.crew().await;
        assert_eq!((crew.consumers.len(), crew.pending, crew.waiting), (1, 5, 4));
    }

    async fn exactly_a_page_is_all(case) {
        case.shared(4).await;
        let a = case.join("a").await;
        case.takes(&a, 4).await;
        let seen = case.life("a").await;
        assert_eq!(case.frees("a", &seen, 2).await, Freed::Some(2));
        assert_eq!(case.frees("a", &Life::Dead, 2).await, Freed::All(2));
        assert!(case.crew().await.consumers.is_empty());
    }

    async fn nobody_is_freed_whose_life_is_another_than_was_seen(case) {
        case.shared(1).await;
        let a = case.join("a").await;
        case.takes(&a, 1).await;
        let Life::Beats { epoch, beat, lease_for } = case.life("a").await else { panic!() };
        let foreign = Life::Foreign { silent: Duration::ZERO };
        for other in [
            Life::Beats { epoch: epoch + 1, beat, lease_for },
            Life::Beats { epoch, beat: beat + 1, lease_for },
            Life::Beats { epoch, beat, lease_for: lease_for * 2 },
            Life::Dead,
            foreign.clone(),
        ] {
            assert_eq!(case.frees("a", &other, 9).await, Freed::Contended, "{other:?}");
        }
        for other in [Life::Dead, foreign, case.life("a").await] {
            assert_eq!(case.frees("b", &other, 9).await, Freed::Contended, "{other:?}");
        }
        assert_eq!(case.renews(&a).await, HELD);
        assert_eq!(case.crew().await.consumers[0].pending, 1);
    }

    async fn who_leaves_gives_back_what_it_has_and_is_no_consumer(case) {
        let all = case.shared(4).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 3).await, all[..3]);
        case.settle(&a, [(all[0], back(0))]).await;
        let stranger = Holder { epoch: a.epoch + 1, ..a.clone() };
        for stranger in [stranger, Holder { owner: "c".to_owned(), ..a.clone() }] {
            assert!(!case.broker.release(&crew(), &stranger).await.unwrap());
        }
        let rings = case.rings().await;
        assert!(case.broker.release(&crew(), &a).await.unwrap());
        assert_eq!(case.rings().await, rings + 1);
        assert!(!case.broker.release(&crew(), &a).await.unwrap());
        assert_eq!(case.renews(&a).await, Renewed::Lost);
        assert_eq!(case.took(&take(&a, 9)).await, Took::Fenced);
        let crew = case.crew().await;
        assert_eq!((crew.consumers.len(), crew.pending, crew.waiting), (1, 3, 3));
        // What it still had may have been running.
        let taken: BTreeSet<_> = counts(&case.haul(&take(&b, 3)).await).into_iter().collect();
        assert_eq!(taken, BTreeSet::from([(all[0], 0, 0), (all[1], 0, 1), (all[2], 0, 1)]));
        assert_eq!(case.takes(&b, 9).await, all[3..]);
    }

    async fn an_entry_that_is_done_by_the_dead_is_not_handed_out_again(case) {
        let all = case.shared(2).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        case.takes(&a, 2).await;
        case.settle(&a, [(all[0], Become::Done)]).await;
        assert_eq!(case.bury("a").await, 1);
        assert_eq!(counts(&case.haul(&take(&b, 9)).await), [(all[1], 0, 1)]);
    }

    // Dead letters.

    async fn a_dead_letter_is_written_in_the_step_that_ends_its_entry(case) {
        let all = case.shared(3).await;
        let a = case.join("a").await;
        case.takes(&a, 3).await;
        let ends = [(all[0], Become::Done), (all[1], Become::Dead(fields("x"))), (all[2], Become::Dead(fields("y")))];
        let ends = settle(&a, ends);
        assert_eq!(case.settled(&ends).await, Some(Settled::default()));
        assert_eq!(case.letters_of_crew().await, ["x", "y"]);
        assert_eq!(case.crew().await.pending, 0);
        // The answer was lost.
        assert_eq!(case.settled(&ends).await, Some(Settled { lost: all.clone(), ..Settled::default() }));
        assert_eq!(case.letters_of_crew().await, ["x", "y"]);
    }

    async fn where_there_is_no_room_for_a_letter_its_entry_stays_in_hand(case) {
        let all = case.shared(4).await;
        let a = case.join("a").await;
        case.takes(&a, 4).await;
        let dead_bounds = DeadBounds { count: 2, ..NO_BOUNDS };
        let letters = all[..3].iter().map(|id| (*id, Become::Dead(fields("x"))));
        let ends = Settle { dead_bounds, ..settle(&a, letters.chain([(all[3], Become::Done)])) };
        // Each by itself: two have room, and what needs none is done.
        let settled = case.settled(&ends).await.unwrap();
        let oldest = case.broker.dead_letters(&crew(), EntryId::ZERO, 9).await.unwrap()[0].id;
        let full = Some(Full { count: 2, oldest: Some(oldest) });
        assert_eq!(settled, Settled { full, kept: vec![all[2]], ..Settled::default() });
        assert_eq!((case.letters_of_crew().await.len(), case.crew().await.pending), (2, 1));
        // Discarded by somebody, it has room.
        assert_eq!(case.broker.discard(&crew(), &[oldest]).await.unwrap(), 1);
        let again = Settle { dead_bounds, ..settle(&a, [(all[2], Become::Dead(fields("z")))]) };
        assert_eq!(case.settled(&again).await, Some(Settled::default()));
        assert_eq!(case.letters_of_crew().await, ["x", "z"]);
    }

    async fn letters_of_a_shared_group_have_a_bound_by_age(case) {
        let all = case.shared(2).await;
        let a = case.join("a").await;
        case.takes(&a, 2).await;
        let dead_bounds = DeadBounds { age: Duration::ZERO, ..NO_BOUNDS };
        let dead = |id| Settle { dead_bounds, ..settle(&a, [(id, Become::Dead(fields("x")))]) };
        assert_eq!(case.settled(&dead(all[0])).await, Some(Settled::default()));
        let oldest = case.broker.dead_letters(&crew(), EntryId::ZERO, 9).await.unwrap()[0].id;
        case.after(oldest.ms).await;
        let full = Some(Full { count: 1, oldest: Some(oldest) });
        assert_eq!(case.settled(&dead(all[1])).await, Some(Settled { full, kept: vec![all[1]], ..Settled::default() }));
        assert_eq!(case.crew().await.pending, 1);
        // Nothing bounds what needs no room.
        assert_eq!(case.settled(&Settle { ends: vec![(all[1], Become::Done)], ..dead(all[1]) }).await, Some(Settled::default()));
    }

    async fn replays_are_handled_by_one_living_consumer_at_a_time(case) {
        let all = case.shared(2).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        case.takes(&a, 2).await;
        case.settle(&a, all.iter().map(|id| (*id, Become::Dead(fields(&id.to_string()))))).await;
        let letters = ids(&case.broker.dead_letters(&crew(), EntryId::ZERO, 9).await.unwrap());
        let take = async |holder: &Holder| case.broker.take_replay(&crew(), holder).await.unwrap();
        let letter = async |holder: &Holder| match take(holder).await {
            Taken::Letter(replay) => replay,
            other => panic!("{other:?}"),
        };
        let end = async |holder: &Holder, id, end: ReplayEnd| {
            case.broker.end_replay(&crew(), holder, id, &end).await.unwrap()
        };
        assert_eq!(case.renews(&a).await, HELD);
        assert_eq!(take(&a).await, Taken::Nothing);
        assert_eq!(case.broker.replay(&crew(), &letters, 9).await.unwrap(), Moved::Done(letters.clone()));
        assert_eq!(case.renews(&a).await, Renewed::Held { replays: true });
        assert_eq!(case.renews(&b).await, Renewed::Held { replays: true });

        let first = letter(&a).await;
        assert_eq!((first.attempts, first.crashes), (0, 0));
        assert_eq!(letter(&a).await, first, "the answer was lost");
        assert_eq!(take(&b).await, Taken::Nothing, "it is charged to another that lives");
        let id = first.letter.id;
        assert!(end(&a, id, ReplayEnd::Again { attempts: 1 }).await);
        // Then anybody may have it.
        assert_eq!(letter(&b).await, Replay { attempts: 1, ..first.clone() });
        assert_eq!(take(&a).await, Taken::Nothing);
        assert_eq!(case.bury("b").await, 0);
        assert_eq!(take(&b).await, Taken::Fenced);
        assert!(!end(&b, id, ReplayEnd::Done).await);
        let crashed = letter(&a).await;
        assert_eq!((crashed.attempts, crashed.crashes), (1, 1));
        assert!(end(&a, id, ReplayEnd::Done).await);
        let second = letter(&a).await;
        assert_eq!((second.attempts, second.crashes), (0, 0));
        assert!(end(&a, second.letter.id, ReplayEnd::Dead(fields("back"))).await);
        assert_eq!(take(&a).await, Taken::Nothing);
        assert_eq!(case.renews(&a).await, HELD);
        assert_eq!(case.letters_of_crew().await, ["back"]);
        let stranger = Holder { owner: "c".to_owned(), ..a.clone() };
        assert_eq!(take(&stranger).await, Taken::Fenced);
    }

    // History.

    async fn entries_that_a_trim_has_passed_are_told_once_and_stop_the_group(case) {
        let all = case.shared(6).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.cut(all[4]);
        let (lost, found) = case.lost(&b).await;
        assert_eq!((lost.deleted, lost.from, lost.count, found), (false, all[1], 2, true));
        assert!(all[3] <= lost.to && lost.to < all[4], "{lost:?}");
        assert_eq!(case.lost(&a).await, (lost, false));
        assert_eq!(case.lost(&b).await, (lost, false));
        // It is alive all the same, and what was in hand is no loss.
        assert_eq!(case.renews(&b).await, HELD);
        case.settle(&a, [(all[0], Become::Done), (all[1], Become::Done)]).await;
        case.resumes().await;
        assert_eq!(case.takes(&b, 9).await, all[4..]);
        let crew = case.crew().await;
        assert_eq!((crew.at, crew.seen, crew.resume, crew.pending), (all[5], Some(6), 1, 2));
    }

    async fn a_trim_of_what_was_handed_out_is_no_loss(case) {
        let all = case.shared(3).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.cut(all[2]);
        assert_eq!(case.takes(&a, 1).await, all[2..]);
        case.cut(all[2].next());
        assert_eq!(case.takes(&a, 1).await, []);
        let more = case.append(1).await;
        assert_eq!(case.takes(&a, 1).await, more);
        case.settle(&a, all.iter().map(|id| (*id, Become::Done))).await;
        assert_eq!(case.crew().await.seen, Some(4));
    }

    async fn what_is_deleted_around_the_cursor_hands_nothing_out_again(case) {
        let all = case.shared(7).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        // More than were handed out are gone, and the oldest is not.
        case.remove(&[all[1], all[2], all[3], all[4]]);
        assert_eq!(case.takes(&a, 9).await, all[5..]);
        assert_eq!(case.crew().await.pending, 4);
    }

    async fn everything_may_be_trimmed_away(case) {
        let all = case.shared(3).await;
        let a = case.join("a").await;
        case.cut(all[2].next());
        let (lost, found) = case.lost(&a).await;
        assert_eq!((lost.deleted, lost.from, lost.count, found), (false, EntryId::ZERO, 3, true));
        assert!(lost.to >= all[2]);
        case.resumes().await;
        let more = case.append(1).await;
        assert_eq!(case.takes(&a, 9).await, more);
    }

    async fn a_trim_is_told_also_where_nobody_has_counted(case) {
        let all = case.append(5).await;
        assert_eq!(case.broker.create(&crew(), Start::At(all[1])).await.unwrap(), Created::Made);
        let a = case.join("a").await;
        case.cut(all[3]);
        let (lost, found) = case.lost(&a).await;
        assert_eq!((lost.deleted, lost.from, found), (false, all[0], true));
        assert!(lost.count <= 2 && lost.to < all[3] && lost.to >= all[2], "{lost:?}");
        case.resumes().await;
        assert_eq!(case.takes(&a, 9).await, all[3..]);
        assert_eq!(case.crew().await.seen, Some(5));
    }

    async fn entries_that_waited_and_were_trimmed_are_told_once_whenever_they_were_due(case) {
        let all = case.shared(8).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 6).await, all[..6]);
        let ends = [back(0), again(1, LONG), needs("Trade", 2), Become::Done, back(0)];
        case.settle(&a, all.iter().copied().zip(ends)).await;
        case.cut(all[4]);
        let (lost, found) = case.lost(&b).await;
        assert_eq!((lost.deleted, lost.count, found), (false, 3, true));
        assert!(lost.from < all[0] && all[2] <= lost.to && lost.to < all[4], "{lost:?}");
        assert_eq!(case.lost(&b).await, (lost, false));
        assert_eq!((case.crew().await.pending, case.crew().await.waiting), (2, 1));
        case.resumes().await;
        assert_eq!(case.takes(&b, 9).await, [all[4], all[6], all[7]]);
        case.settle(&a, [(all[5], Become::Done)]).await;
    }

    async fn what_was_in_hand_is_a_loss_when_it_is_given_back_and_gone(case) {
        for what in [back(0), again(1, LONG), needs("Trade", 2)] {
            let all = case.append(3).await;
            let group = crew();
            if case.broker.create(&group, Start::Earliest).await.unwrap() == Created::Exists {
                let epoch = case.crew_state().await.lease.epoch;
                case.broker.reset(&group, Some(epoch), Start::At(all[0])).await.unwrap();
            }
            let a = case.join("a").await;
            assert_eq!(case.takes(&a, 2).await, all[..2]);
            case.cut(all[1]);
            case.settle(&a, [(all[0], what.clone()), (all[1], Become::Done)]).await;
            let (lost, found) = case.lost(&a).await;
            assert_eq!((lost.deleted, lost.count, found), (false, 1, true), "{what:?}");
            assert!(lost.from < all[0] && all[0] <= lost.to && lost.to < all[2], "{lost:?}");
            case.resumes().await;
            assert_eq!(case.takes(&a, 9).await, all[2..]);
            assert_eq!((case.crew().await.pending, case.crew().await.waiting), (1, 0));
        }
    }

    async fn an_entry_that_waited_and_was_deleted_is_told_when_it_is_its_turn(case) {
        let all = case.shared(4).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 3).await, all[..3]);
        case.settle(&a, [(all[1], back(0)), (all[2], back(0))]).await;
        case.remove(&[all[1]]);
        let (lost, found) = case.lost(&a).await;
        assert_eq!((lost.deleted, lost.count, found), (true, 1, true));
        assert!(lost.from < all[1] && all[1] <= lost.to && lost.to < all[2], "{lost:?}");
        case.resumes().await;
        assert_eq!(case.takes(&a, 9).await, all[2..]);
        assert_eq!(case.crew().await.pending, 3);
    }

    async fn who_goes_on_is_told_of_a_loss_and_handed_the_rest(case) {
        let all = case.shared(8).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.settle(&a, [(all[0], back(0))]).await;
        case.cut(all[4]);
        let go_on = Take { go_on: true, ..take(&a, 2) };
        let haul = case.haul(&go_on).await;
        let lost = haul.lost.unwrap();
        // One that waited, and two that were new.
        assert_eq!((lost.deleted, lost.count), (false, 3));
        assert!(lost.from < all[0] && all[3] <= lost.to && lost.to < all[4], "{lost:?}");
        assert_eq!((entry_ids(&haul), haul.waiting), (all[4..6].to_vec(), 0));
        let haul = case.haul(&go_on).await;
        assert_eq!((entry_ids(&haul), haul.lost), (all[6..].to_vec(), None));
        // Nobody is stopped by it.
        assert_eq!(case.takes(&a, 9).await, []);
    }

    async fn what_a_trim_has_passed_is_told_at_once_however_little_is_asked_for(case) {
        let all = case.shared(60).await;
        let (a, b, c) = (case.join("a").await, case.join("b").await, case.join("c").await);
        case.takes(&a, 20).await;
        case.takes(&b, 20).await;
        case.takes(&c, 10).await;
        case.settle(&a, all[..20].iter().map(|id| (*id, back(0)))).await;
        case.cut(all[52]);
        // Gone before it was given back, and so no longer in the server's list.
        assert_eq!(case.bury("b").await, 20);
        assert!(case.broker.release(&crew(), &c).await.unwrap());
        let Took::Lost { lost, found: true } = case.took(&take(&a, 1)).await else { panic!() };
        assert_eq!((lost.deleted, lost.count), (false, 52));
        assert!(lost.from < all[0] && lost.to >= all[51] && lost.to < all[52], "{lost:?}");
        case.broker.resume(&crew()).await.unwrap();
        assert_eq!(case.takes(&a, 99).await, all[52..]);
        assert_eq!((case.crew().await.pending, case.crew().await.waiting), (8, 0));
    }

    async fn who_goes_on_over_many_losses_is_handed_what_is_left_of_what_waits(case) {
        let all = case.shared(12).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 10).await, all[..10]);
        case.cut(all[8]);
        case.settle(&a, all[..10].iter().map(|id| (*id, back(0)))).await;
        let haul = case.haul(&Take { go_on: true, ..take(&b, 2) }).await;
        assert_eq!((entry_ids(&haul), haul.lost.map(|lost| lost.count)), (all[8..10].to_vec(), Some(8)));
    }

    async fn what_was_deleted_unread_is_not_told_as_a_trim_of_something_else(case) {
        let all = case.shared(5).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 1).await, all[..1]);
        case.remove(&all[2..3]);
        assert_eq!(case.takes(&a, 9).await, [all[1], all[3], all[4]]);
        assert_eq!(case.crew().await.seen, Some(5));
        case.cut(all[4].next());
        let more = case.append(1).await;
        assert_eq!(case.takes(&a, 9).await, more);
    }

    async fn who_goes_on_is_not_stopped_by_what_has_stopped_others(case) {
        let all = case.shared(4).await;
        let a = case.join("a").await;
        case.cut(all[2]);
        let (lost, _) = case.lost(&a).await;
        let go_on = Take { go_on: true, ..take(&a, 1) };
        assert_eq!(entry_ids(&case.haul(&go_on).await), all[2..3]);
        assert_eq!(case.lost(&a).await, (lost, false));
        case.resumes().await;
        assert_eq!(case.takes(&a, 9).await, all[3..]);
    }

    async fn an_answer_that_was_lost_is_mended_also_where_entries_are(case) {
        let all = case.shared(6).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.cut(all[4]);
        case.lost(&b).await;
        let mended = Take { in_hand: Some(vec![all[0]]), ..take(&a, 9) };
        assert!(matches!(case.took(&mended).await, Took::Lost { found: false, .. }));
        let crew = case.crew().await;
        assert_eq!((crew.consumers[0].pending, crew.waiting), (1, 1));
    }

    async fn a_stream_that_was_deleted_has_no_marker(case) {
        let all = case.shared(3).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.delete();
        assert_eq!(case.took(&take(&a, 9)).await, Took::Vanished { at: all[1] });
        // Nor has a new one of the same name.
        case.append(1).await;
        assert_eq!(case.took(&take(&a, 9)).await, Took::Vanished { at: all[1] });
        assert_eq!(case.renews(&a).await, HELD);
        assert_eq!(case.broker.crew(&crew()).await.unwrap(), None);
    }

    async fn a_stream_that_was_made_anew_is_another_history(case) {
        let all = case.shared(3).await;
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 2).await, all[..2]);
        case.settle(&a, [(all[0], back(0))]).await;
        case.delete();
        case.mark_as(&crew());
        assert_eq!(case.took(&take(&a, 9)).await, Took::Ahead { at: all[1], last: EntryId::ZERO });
        case.after(all[2].ms).await;
        case.append(1).await;
        // Fewer were ever added than were handed out.
        assert_eq!(case.took(&take(&a, 9)).await, Took::Changed { at: all[1] });
        let go_on = Take { go_on: true, ..take(&a, 9) };
        assert_eq!(case.took(&go_on).await, Took::Changed { at: all[1] }, "it is no gap that one goes over");
        // And although more were, none of them is gone.
        case.append(5).await;
        assert_eq!(case.took(&take(&a, 9)).await, Took::Changed { at: all[1] });
    }

    // Operators.

    async fn a_reset_takes_everything_out_of_all_hands(case) {
        let all = case.shared(5).await;
        let (a, b) = (case.join("a").await, case.join("b").await);
        assert_eq!(case.takes(&a, 3).await, all[..3]);
        assert_eq!(case.takes(&b, 1).await, all[3..4]);
        case.settle(&a, [(all[0], again(2, LONG)), (all[1], needs("Trade", 2))]).await;
        let change = Change { declares: events(&[("Trade", 1)]), ..Change::default() };
        case.broker.declare_events(&crew(), &change).await.unwrap();
        let reset = async |seen, to| case.broker.reset(&crew(), seen, to).await.unwrap();
        let before = case.crew().await;
        assert_eq!(reset(Some(b.epoch - 1), Start::Earliest).await, Reset::Contended);
        assert_eq!(reset(Some(a.epoch), Start::Earliest).await, Reset::Contended, "another has joined since");
        assert_eq!(reset(None, Start::Earliest).await, Reset::Contended);
        assert_eq!(Crew { due: before.due, ..case.crew().await }, before);

        let rings = case.rings().await;
        assert_eq!(reset(Some(b.epoch), Start::At(all[1])).await, Reset::Done { at: all[0] });
        assert_eq!(case.rings().await, rings + 1);
        let state = case.crew_state().await;
        assert!(state.reset > b.epoch && state.lease.epoch == state.reset, "{state:?}");
        assert_eq!((state.at, state.events), (all[0], events(&[("Trade", 1)])));
        assert_eq!(case.crew().await, Crew { at: all[0], reset: state.reset, ..Crew::default() });
        for holder in [&a, &b] {
            assert_eq!(case.renews(holder).await, Renewed::Lost);
            assert_eq!(case.took(&take(holder, 9)).await, Took::Fenced);
            assert_eq!(case.settled(&settle(holder, [(all[2], Become::Done)])).await, None);
        }
        let c = case.join("c").await;
        assert!(c.epoch > state.reset);
        let expected: Vec<_> = all[1..].iter().map(|id| (*id, 0, 0)).collect();
        assert_eq!(counts(&case.haul(&take(&c, 9)).await), expected, "what had failed begins anew");
    }

    async fn a_reset_mends_a_shared_group_whose_history_is_another(case) {
        let all = case.shared(2).await;
        let a = case.join("a").await;
        case.takes(&a, 1).await;
        case.settle(&a, [(all[0], back(0))]).await;
        case.delete();
        let new = case.append(2).await;
        assert_eq!(case.broker.reset(&crew(), Some(a.epoch), Start::Earliest).await.unwrap(), Reset::Done { at: EntryId::ZERO });
        let b = case.join("b").await;
        assert_eq!(case.takes(&b, 9).await, new);
        // Also one that lost entries.
        let more = case.append(2).await;
        case.cut(more[1]);
        case.lost(&b).await;
        assert!(matches!(case.broker.reset(&crew(), Some(b.epoch), Start::Earliest).await.unwrap(), Reset::Done { .. }));
        let c = case.join("c").await;
        assert_eq!(case.takes(&c, 9).await, more[1..]);
    }

    async fn a_reset_makes_a_shared_group_where_there_is_none(case) {
        let all = case.append(2).await;
        assert_eq!(case.broker.reset(&crew(), Some(7), Start::Earliest).await.unwrap(), Reset::Contended);
        assert_eq!(case.broker.reset(&crew(), None, Start::Earliest).await.unwrap(), Reset::Done { at: EntryId::ZERO });
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 9).await, all);
        let foreign = partition().group("other").shared();
        case.mark_as(&foreign);
        assert_eq!(case.broker.reset(&foreign, None, Start::Earliest).await.unwrap(), Reset::Foreign);
    }

    async fn the_two_deliveries_never_mix_under_one_name(case) {
        let all = case.append(2).await;
        let shared = mixed().shared();
        let stranger = Holder { owner: "a".to_owned(), epoch: 1 };
        // Ordered it stays.
        assert_eq!(case.broker.create(&mixed(), Start::Earliest).await.unwrap(), Created::Made);
        let Acquired::Held(holding) = case.broker.acquire(&mixed(), &claim("a", LeaseView::default())).await.unwrap() else {
            panic!();
        };
        let owner = Holder { owner: "a".to_owned(), epoch: holding.epoch };
        let before = case.broker.state(&mixed()).await.unwrap();
        let ordered = "ordered".to_owned();
        assert_eq!(case.broker.create(&shared, Start::Earliest).await.unwrap(), Created::Exists);
        assert_eq!(case.broker.join(&shared, "a", LEASE).await.unwrap(), Joined::Mode(ordered.clone()));
        assert_eq!(case.broker.reset(&shared, Some(holding.epoch), Start::Earliest).await.unwrap(), Reset::Mode(ordered));
        assert_eq!(case.broker.take(&shared, &take(&owner, 9)).await.unwrap(), Took::Fenced);
        assert_eq!(case.broker.settle(&shared, &settle(&owner, [(all[0], Become::Done)])).await.unwrap(), None);
        assert_eq!(case.broker.free(&shared, "a", &Life::Dead, 9).await.unwrap(), Freed::Contended);
        assert_eq!(case.broker.crew(&shared).await.unwrap(), None);
        assert_eq!(case.broker.state(&mixed()).await.unwrap(), before);

        // And shared.
        case.shared(0).await;
        let (a, ordered) = (case.join("a").await, partition().group("crew"));
        let before = case.crew().await;
        let shared = "shared".to_owned();
        assert_eq!(case.broker.create(&ordered, Start::Earliest).await.unwrap(), Created::Exists);
        let seen = case.broker.state(&ordered).await.unwrap().unwrap().lease;
        let acquired = case.broker.acquire(&ordered, &claim("b", seen)).await.unwrap();
        assert_eq!(acquired, Acquired::Mode(shared.clone()));
        assert_eq!(case.broker.reset(&ordered, Some(a.epoch), Start::Latest).await.unwrap(), Reset::Mode(shared));
        for holder in [&a, &stranger, &Holder { owner: String::new(), epoch: a.epoch }] {
            let commit = case.broker.commit(&ordered, &step(holder, EntryId::ZERO, all[0])).await.unwrap();
            assert_eq!(commit, Committed::Fenced);
            assert!(!case.broker.release(&ordered, holder).await.unwrap());
            let need = Need { name: "Trade".to_owned(), version: 2, entry: all[0] };
            assert!(!case.broker.hand_over(&ordered, holder, &need).await.unwrap());
        }
        assert_eq!(case.crew().await, before);
    }

    async fn what_builds_declare_stands_in_a_shared_state_too(case) {
        case.shared(0).await;
        let change = Change { declares: events(&[("B", 2), ("A", 1)]), ..Change::default() };
        assert_eq!(case.broker.declare_events(&crew(), &change).await.unwrap(), Some(events(&[("A", 1), ("B", 2)])));
        let state = case.crew_state().await;
        assert_eq!((state.events, state.needs, state.resume, state.reset), (events(&[("A", 1), ("B", 2)]), None, 0, 0));
        case.resumes().await;
        assert_eq!((case.crew_state().await.resume, case.crew().await.resume), (1, 1));
        let states = case.broker.states(&[crew(), partition().group("none")]).await.unwrap();
        let states: Vec<_> = states.into_iter().map(Result::unwrap).collect();
        assert_eq!(states, [Some(case.crew_state().await), None]);
    }

    async fn what_a_shared_group_has_settled_ends_before_its_oldest_entry(case) {
        let all = case.shared(5).await;
        let consumed = async || case.broker.consumed(&partition()).await.unwrap();
        let expected = |at, slowest: &str| Some(Consumed { at, slowest: slowest.to_owned() });
        assert_eq!(consumed().await, expected(EntryId::ZERO, "crew"));
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 3).await, all[..3]);
        assert_eq!(consumed().await, expected(all[0].previous(), "crew"));
        case.settle(&a, [(all[1], Become::Done)]).await;
        assert_eq!(consumed().await, expected(all[0].previous(), "crew"));
        case.settle(&a, [(all[0], Become::Done)]).await;
        assert_eq!(consumed().await, expected(all[2].previous(), "crew"));
        // Whoever waits is not settled either.
        case.settle(&a, [(all[2], again(1, LONG))]).await;
        assert_eq!(consumed().await, expected(all[2].previous(), "crew"));
        assert_eq!(case.broker.create(&partition().group("audit"), Start::At(all[1])).await.unwrap(), Created::Made);
        assert_eq!(consumed().await, expected(all[0], "audit"));
        case.broker.reset(&partition().group("audit"), Some(0), Start::Latest).await.unwrap();
        let hour = Take { longest_wait: Duration::ZERO, ..take(&a, 1) };
        assert_eq!(entry_ids(&case.haul(&hour).await), all[2..3]);
        case.settle(&a, [(all[2], Become::Dead(fields("x")))]).await;
        assert_eq!(consumed().await, expected(all[2], "crew"));
    }

    async fn a_group_without_a_state_is_adopted_for_shared_delivery_where_it_is(case) {
        case.append(2).await;
        let last = case.extent().await.last;
        case.mark_as(&crew());
        let more = case.append(1).await;
        let adoption = Adoption { at: last, delivered: last, pending: 0, oldest: None };
        assert_eq!(case.broker.adopt(&crew(), LONG).await.unwrap(), Adopted::Done(adoption));
        assert_eq!(case.broker.adopt(&crew(), LONG).await.unwrap(), Adopted::Exists);
        let a = case.join("a").await;
        assert_eq!(case.takes(&a, 9).await, more);
        assert_eq!(case.crew().await.seen, Some(3));
        assert_eq!(case.broker.adopt(&partition().group("none").shared(), LONG).await.unwrap(), Adopted::Missing);
    }
}
