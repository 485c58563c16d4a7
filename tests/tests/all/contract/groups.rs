//! Groups, sentence by sentence: leases, commits, recovery and what builds declare.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{
    Acquired, Adopted, Adoption, BrokerErrorKind, Change, Commit, Committed, Consumed, Created, DeadBounds, Events,
    Found, GroupState, Holder, Holding, LeaseView, Need, Recovery, Renewed, Reset,
};
use streams_core::keys::StreamKey;
use streams_core::{EntryId, Start};

use super::{
    Case, HELD, LEASE, LONG, claim, events, fields, ids, keys, need, partition, payloads, recovery_step, remember,
    risk, step, until_found,
};

contract! {
    // Groups.

    async fn groups_are_named_also_those_of_others(case) {
        assert_eq!(case.broker.groups(&partition()).await.unwrap(), None);
        case.append(1).await;
        assert_eq!(case.broker.groups(&partition()).await.unwrap(), Some(Vec::new()));
        case.create(Start::Earliest).await;
        case.mark_as(&partition().group("other"));
        let mut names = case.broker.groups(&partition()).await.unwrap().unwrap();
        names.sort_unstable();
        assert_eq!(names, ["other", "risk"]);
    }

    async fn a_group_that_is_not_there_has_no_state(case) {
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_new_group_is_held_by_nobody(case) {
        case.create(Start::Earliest).await;
        let state = case.broker.state(&risk()).await.unwrap().unwrap();
        assert_eq!((state.lease, state.at), (LeaseView::default(), EntryId::ZERO));
    }

    async fn from_the_earliest_nothing_is_skipped(case) {
        case.append(3).await;
        case.create(Start::Earliest).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (EntryId::ZERO, Some(0)));
    }

    async fn from_the_earliest_counts_what_was_trimmed_before(case) {
        case.append(300).await;
        case.trim().await;
        let extent = case.extent().await;
        case.create(Start::Earliest).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (EntryId::ZERO, Some(extent.added - extent.length)));
        assert_ne!(holding.seen, Some(0));
    }

    async fn from_the_latest_everything_there_is_is_behind(case) {
        let all = case.append(3).await;
        case.create(Start::Latest).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (all[2], Some(3)));
    }

    async fn from_the_latest_of_a_stream_that_is_not_there_nothing_is_skipped(case) {
        case.create(Start::Latest).await;
        case.append(1).await;
        let (_, holding) = case.hold("a").await;
        assert_eq!((holding.at, holding.seen), (EntryId::ZERO, Some(0)));
    }

    async fn from_an_entry_the_checkpoint_is_the_one_before(case) {
        let all = case.append(3).await;
        let below = EntryId::new(all[0].ms - 1, 5);
        let cases = [
            (EntryId::ZERO, EntryId::ZERO, Some(0)),
            (below, EntryId::ZERO, Some(0)),
            (all[0], EntryId::ZERO, Some(0)),
            (all[1], all[0], None),
            (all[2], all[1], None),
            (all[2].next(), all[2], Some(3)),
            (EntryId::MAX, all[2], Some(3)),
        ];
        for (index, (from, at, seen)) in cases.into_iter().enumerate() {
            let group = partition().group(&format!("g{index}"));
            assert_eq!(case.broker.create(&group, Start::At(from)).await.unwrap(), Created::Made);
            let claim = claim("a", LeaseView::default());
            match case.broker.acquire(&group, &claim).await.unwrap() {
                Acquired::Held(holding) => assert_eq!((holding.at, holding.seen), (at, seen), "from {from}"),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn from_some_time_ago_the_checkpoint_is_the_last_entry_before(case) {
        let early = case.append(1).await[0];
        let now = case.after(early.ms + 1000).await;
        let late = case.append(1).await[0];
        case.after(late.ms).await;
        let cases = [
            (Duration::ZERO, late),
            // Half a second on each side, for a busy machine.
            (Duration::from_millis(now - early.ms - 500), early),
            (Duration::from_secs(3600), EntryId::ZERO),
            (Duration::MAX, EntryId::ZERO),
        ];
        for (index, (ago, at)) in cases.into_iter().enumerate() {
            let group = partition().group(&format!("g{index}"));
            assert_eq!(case.broker.create(&group, Start::Ago(ago)).await.unwrap(), Created::Made);
            assert_eq!(case.broker.state(&group).await.unwrap().unwrap().at, at, "{ago:?} ago");
        }
    }

    async fn a_group_that_is_there_is_not_made_again(case) {
        case.append(3).await;
        case.create(Start::Earliest).await;
        case.hold("a").await;
        let before = case.broker.state(&risk()).await.unwrap();
        assert_eq!(case.broker.create(&risk(), Start::Latest).await.unwrap(), Created::Exists);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
        // Not even when the stream with its marker is gone: that is for the owner to find out.
        case.delete();
        assert_eq!(case.broker.create(&risk(), Start::Latest).await.unwrap(), Created::Exists);
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
    }

    async fn a_group_of_another_application_is_left_alone(case) {
        case.mark();
        assert_eq!(case.broker.create(&risk(), Start::Earliest).await.unwrap(), Created::Foreign);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
        assert_eq!(case.broker.create(&partition().group("other"), Start::Earliest).await.unwrap(), Created::Made);
    }

    // History.

    async fn a_group_begins_with_the_event_at_its_place(case) {
        let named = |id: &str| [fields("x"), vec![(b"id".to_vec(), id.as_bytes().to_vec())]].concat();
        let entries = vec![named("t-1"), fields("no name"), named("t-3"), named("t-\u{e9}"), named("t-5")];
        let all = case.broker.append(&partition(), entries, None).await.unwrap();
        let begin = async |name: &str, start| {
            let group = partition().group(name);
            assert_eq!(case.broker.create(&group, start).await.unwrap(), Created::Made);
            let seen = case.broker.state(&group).await.unwrap().unwrap().lease;
            match case.broker.acquire(&group, &claim("a", seen)).await.unwrap() {
                Acquired::Held(holding) => holding.at_event,
                other => panic!("not held: {other:?}"),
            }
        };
        assert_eq!(begin("earliest", Start::Earliest).await, "");
        assert_eq!(begin("latest", Start::Latest).await, "t-5");
        assert_eq!(begin("first", Start::At(all[1])).await, "t-1");
        assert_eq!(begin("unnamed", Start::At(all[2])).await, "");
        assert_eq!(begin("third", Start::At(all[3])).await, "t-3");
        let group = partition().group("third");
        let seen = case.broker.state(&group).await.unwrap().map(|state| state.lease.epoch);
        case.broker.reset(&group, seen, Start::At(all[1])).await.unwrap();
        let seen = case.broker.state(&group).await.unwrap().unwrap().lease;
        let Acquired::Held(holding) = case.broker.acquire(&group, &claim("b", seen)).await.unwrap() else {
            panic!("not held")
        };
        assert_eq!((holding.at, holding.at_event.as_str()), (all[0], "t-1"));
    }

    async fn a_claim_tells_the_event_at_the_checkpoint(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, holding) = case.hold("a").await;
        assert_eq!(holding.at_event, "");
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Done);
        assert_eq!(case.hold("b").await.1.at_event, "t-1");
    }

    async fn an_ordinal_is_recorded_also_when_the_checkpoint_stays(case) {
        let all = case.append(1).await;
        case.create(Start::Latest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { seen: Some(9), ..step(&holder, all[0], all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(case.hold("b").await.1.seen, Some(9));
    }

    async fn a_commit_that_comes_late_changes_nothing(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let failed = |attempts| Commit {
            attempts: vec![(all[1], attempts)],
            recovery: recovery_step(&[], 9 - u32::from(attempts > 1), &[]),
            seen: Some(u64::from(attempts)),
            ..step(&holder, EntryId::ZERO, EntryId::ZERO)
        };
        let (once, twice) = (failed(1), failed(2));
        for commit in [&once, &once, &twice, &twice] {
            assert_eq!(case.commit(commit).await, Committed::Done);
        }
        let before = case.lease().await;
        assert_eq!(case.commit(&once).await, Committed::Conflict { at: EntryId::ZERO });
        assert_eq!(case.lease().await, before);
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Done);
        assert_eq!(case.commit(&twice).await, Committed::Conflict { at: all[0] });
        let (next, holding) = case.hold("b").await;
        assert_eq!(holding.attempts, [(all[1], 2)]);
        // The next owner counts anew.
        let commit = Commit { call: 1, attempts: vec![(all[1], 3)], ..step(&next, all[0], all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(case.hold("c").await.1.attempts, [(all[1], 3)]);
    }

    async fn a_reset_moves_the_checkpoint_and_fences_the_owner(case) {
        let all = case.append(4).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { attempts: vec![(all[3], 2)], seen: Some(2), ..step(&holder, EntryId::ZERO, all[1]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        let reset = async |seen, to| case.broker.reset(&risk(), seen, to).await.unwrap();
        let before = case.broker.state(&risk()).await.unwrap();
        assert_eq!(reset(Some(holder.epoch - 1), Start::Earliest).await, Reset::Contended);
        assert_eq!(reset(None, Start::Earliest).await, Reset::Contended);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);

        assert_eq!(reset(Some(holder.epoch), Start::At(all[1])).await, Reset::Done { at: all[0] });
        let state = case.broker.state(&risk()).await.unwrap().unwrap();
        assert_eq!((state.at, state.lease.owner.as_str(), state.reset), (all[0], "", state.lease.epoch));
        assert!(state.reset > holder.epoch);
        assert_eq!(case.commit(&step(&holder, all[1], all[2])).await, Committed::Fenced);
        let (_, holding) = case.hold("b").await;
        assert_eq!((holding.at, holding.seen, holding.attempts), (all[0], None, vec![]));
        assert!(holding.epoch > state.reset);
        assert_eq!(case.broker.state(&risk()).await.unwrap().unwrap().reset, state.reset, "it stays known");

        assert_eq!(reset(Some(holding.epoch), Start::Latest).await, Reset::Done { at: all[3] });
        assert_eq!(case.hold("c").await.1.seen, Some(4));
    }

    async fn a_reset_makes_a_marker_and_a_state_that_are_gone(case) {
        case.append(2).await;
        case.create(Start::Latest).await;
        let (holder, _) = case.hold("a").await;
        case.delete();
        let all = case.append(2).await;
        let (ours, other) = (&risk(), &partition().group("other"));
        let reset = async |group, seen| case.broker.reset(group, seen, Start::Earliest).await.unwrap();
        assert_eq!(reset(ours, Some(holder.epoch)).await, Reset::Done { at: EntryId::ZERO });
        assert!(case.broker.snapshot(&risk(), EntryId::ZERO, 1).await.unwrap().marker);
        assert_eq!(case.hold("b").await.1.seen, Some(0));

        assert_eq!(reset(other, Some(7)).await, Reset::Contended);
        assert_eq!(reset(other, None).await, Reset::Done { at: EntryId::ZERO });
        assert_eq!(case.broker.state(other).await.unwrap().unwrap().lease.owner, "");
        assert_eq!(ids(&case.broker.read(&partition(), EntryId::ZERO, 9).await.unwrap()), all);
    }

    async fn a_reset_leaves_a_group_of_another_application_alone(case) {
        case.mark();
        assert_eq!(case.broker.reset(&risk(), None, Start::Earliest).await.unwrap(), Reset::Foreign);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_reset_rings_the_bell(case) {
        case.create(Start::Earliest).await;
        assert!(matches!(case.broker.reset(&risk(), Some(0), Start::Latest).await.unwrap(), Reset::Done { .. }));
        let mut tail = case.broker.tail().await.unwrap();
        let rings = until_found(tail.as_mut(), &keys(&[(&partition().bell(), EntryId::ZERO)])).await;
        assert_eq!(rings[0].field("group"), Some(&b"risk"[..]));
    }

    // Leases.

    async fn a_lease_that_was_taken_shows_in_the_state(case) {
        case.create(Start::Earliest).await;
        let before = case.broker.now().await.unwrap();
        let (holder, _) = case.hold("a").await;
        assert!(holder.epoch >= before, "an epoch is no lower than the clock: {} {before}", holder.epoch);
        let state = case.broker.state(&risk()).await.unwrap().unwrap();
        assert_eq!(state.lease, LeaseView { owner: "a".to_owned(), epoch: holder.epoch, beat: 0 });
        assert_eq!(state.lease_for, LEASE);
    }

    async fn states_are_told_in_the_order_in_which_they_were_asked_for(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("me").await;
        let asked = [partition().group("other"), risk(), partition().group("none"), risk()];
        let states: Vec<_> = case.broker.states(&asked).await.unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!((&states[0], &states[2]), (&None, &None));
        assert_eq!(states[1], case.broker.state(&risk()).await.unwrap());
        assert_eq!(states[3].as_ref().map(|state| state.lease.owner.as_str()), Some(holder.owner.as_str()));
        assert!(case.broker.states(&[]).await.unwrap().is_empty());
    }

    async fn a_lease_is_taken_only_from_what_was_seen(case) {
        case.create(Start::Earliest).await;
        assert_eq!(case.claim("a", LeaseView { epoch: 1, ..LeaseView::default() }).await, Acquired::Contended);
        assert_eq!(case.claim("a", LeaseView { beat: 1, ..LeaseView::default() }).await, Acquired::Contended);
        let (holder, _) = case.hold("a").await;
        let seen = case.lease().await;
        for stale in [
            LeaseView::default(),
            LeaseView { owner: String::new(), ..seen.clone() },
            LeaseView { owner: "x".to_owned(), ..seen.clone() },
            LeaseView { epoch: seen.epoch - 1, ..seen.clone() },
            LeaseView { beat: 7, ..seen.clone() },
        ] {
            assert_eq!(case.claim("b", stale.clone()).await, Acquired::Contended, "{stale:?}");
        }
        let mut renewer = case.broker.renewer().await.unwrap();
        assert_eq!(renewer.renew(&[(risk(), holder)]).await.unwrap(), [HELD]);
        assert_eq!(case.claim("b", seen).await, Acquired::Contended, "renewed since");
        assert_eq!(case.lease().await.owner, "a");
        assert!(matches!(case.claim("b", case.lease().await).await, Acquired::Held(_)));
        assert_eq!(case.lease().await.owner, "b");
    }

    async fn a_lease_without_an_owner_is_compared_too(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let free = case.lease().await;
        assert_eq!(free.owner, "");
        assert_eq!(case.claim("b", LeaseView::default()).await, Acquired::Contended);
        assert_eq!(case.claim("b", LeaseView { beat: free.beat + 1, ..free.clone() }).await, Acquired::Contended);
        assert!(matches!(case.claim("b", free.clone()).await, Acquired::Held(_)));
        assert_eq!(case.claim("c", free).await, Acquired::Contended);
    }

    async fn a_claim_whose_answer_was_lost_is_answered_again(case) {
        case.create(Start::Earliest).await;
        let (holder, holding) = case.hold("a").await;
        let lease = case.lease().await;
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Held(holding));
        assert_eq!(case.lease().await, lease);
        // Not after another owner had it.
        let (_, _) = case.hold("b").await;
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Contended);
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, EntryId::new(1, 0))).await, Committed::Fenced);
    }

    async fn of_many_contenders_one_gets_the_lease(case) {
        case.create(Start::Earliest).await;
        let contenders: Vec<_> = (0..10)
            .map(|n| {
                let broker = Arc::clone(&case.broker);
                let claim = claim(&format!("o{n}"), LeaseView::default());
                tokio::spawn(async move { broker.acquire(&risk(), &claim).await })
            })
            .collect();
        let mut held = 0;
        for contender in contenders {
            held += u32::from(matches!(contender.await.unwrap().unwrap(), Acquired::Held(_)));
        }
        assert_eq!(held, 1);
    }

    async fn epochs_rise(case) {
        case.create(Start::Earliest).await;
        let mut last = 0;
        for round in 0..5 {
            let (holder, _) = case.hold(&format!("o{round}")).await;
            assert!(holder.epoch > last);
            last = holder.epoch;
            if round % 2 == 0 {
                assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
                assert_eq!(case.lease().await.epoch, last, "a release keeps the epoch");
            }
        }
    }

    async fn a_lease_needs_a_token(case) {
        case.create(Start::Earliest).await;
        let claim = claim("", LeaseView::default());
        assert_eq!(case.broker.acquire(&risk(), &claim).await.unwrap_err().kind(), BrokerErrorKind::Refused);
    }

    async fn a_lease_of_a_group_without_a_state_is_missing(case) {
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Missing);
        case.mark();
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Missing);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_lease_on_a_stream_that_was_deleted_is_refused(case) {
        let last = case.append(2).await[1];
        case.create(Start::Latest).await;
        case.delete();
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Vanished { at: last });
        // Nor on a new stream of the same name.
        case.append(3).await;
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Vanished { at: last });
        assert_eq!(case.lease().await, LeaseView::default());
    }

    async fn a_lease_from_a_checkpoint_above_the_stream_is_refused(case) {
        let at = case.append(2).await[1];
        case.create(Start::Latest).await;
        case.delete();
        case.mark();
        assert_eq!(case.claim("a", LeaseView::default()).await, Acquired::Ahead { at, last: EntryId::ZERO });
        assert_eq!(case.lease().await, LeaseView::default());
    }

    async fn a_release_frees_the_lease_and_rings_the_bell(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let mut tail = case.broker.tail().await.unwrap();
        let bell = keys(&[("trades", EntryId::ZERO), (&partition().bell(), EntryId::ZERO)]);
        let risk = risk();
        let (rung, released) = tokio::join!(tail.next(&bell, 10, LONG), case.broker.release(&risk, &holder, None));
        assert!(released.unwrap());
        let Found { key: index, entries, .. } = &rung.unwrap()[0];
        assert_eq!((*index, entries[0].field("group")), (1, Some(b"risk".as_slice())));
        assert_eq!(case.lease().await, LeaseView { owner: String::new(), epoch: holder.epoch, beat: 0 });
        assert_eq!(case.checkpoint().await, EntryId::ZERO);
    }

    async fn only_its_holder_releases_a_lease(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        for other in [Holder { owner: "b".to_owned(), ..holder.clone() }, Holder { epoch: holder.epoch - 1, ..holder.clone() }] {
            assert!(!case.broker.release(&risk(), &other, None).await.unwrap());
        }
        assert!(!case.broker.release(&partition().group("none"), &holder, None).await.unwrap());
        assert_eq!(case.lease().await.owner, "a");
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert!(!case.broker.release(&risk(), &holder, None).await.unwrap());
        // Nobody is not a holder either.
        assert!(!case.broker.release(&risk(), &Holder { owner: String::new(), ..holder }, None).await.unwrap());
        let bell = case.broker.tail().await.unwrap().next(&keys(&[(&partition().bell(), EntryId::ZERO)]), 10, LONG).await;
        assert_eq!(bell.unwrap()[0].entries.len(), 1, "a bell that rings once for each release");
    }

    async fn a_bell_keeps_its_last_rings(case) {
        case.create(Start::Earliest).await;
        for round in 0..300 {
            let (holder, _) = case.hold(&format!("o{round}")).await;
            case.broker.release(&risk(), &holder, None).await.unwrap();
        }
        let mut tail = case.broker.tail().await.unwrap();
        let rings = tail.next(&keys(&[(&partition().bell(), EntryId::ZERO)]), 1000, LONG).await.unwrap();
        assert_eq!(rings[0].entries.len(), 256);
    }

    async fn renewals_tell_for_each_lease_whether_it_is_held(case) {
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let stranger = Holder { owner: "b".to_owned(), ..holder.clone() };
        let earlier = Holder { epoch: holder.epoch - 1, ..holder.clone() };
        let nobody = Holder { owner: String::new(), epoch: 0 };
        let mut renewer = case.broker.renewer().await.unwrap();
        let leases = [
            (risk(), stranger),
            (risk(), holder.clone()),
            (partition().group("none"), holder.clone()),
            (risk(), earlier),
            (risk(), holder.clone()),
            (risk(), nobody),
        ];
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Lost, HELD, Renewed::Lost, Renewed::Lost, HELD, Renewed::Lost]);
        assert_eq!(case.lease().await.beat, 2);
        assert!(renewer.renew(&[]).await.unwrap().is_empty());
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(renewer.renew(&[(risk(), holder)]).await.unwrap(), [Renewed::Lost]);
        assert_eq!(case.broker.state(&partition().group("none")).await.unwrap(), None);
    }

    // Commits.

    async fn a_commit_moves_the_checkpoint_and_renews(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let first = Commit { seen: Some(1), mirror: true, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&first).await, Committed::Done);
        assert_eq!((case.checkpoint().await, case.lease().await.beat), (all[0], 1));
        assert_eq!(case.commit(&step(&holder, all[0], all[1])).await, Committed::Done);
        let (_, holding) = case.hold("b").await;
        assert_eq!((holding.at, holding.seen), (all[1], None));
    }

    async fn a_commit_records_the_ordinal(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { seen: Some(1), ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        // One that only records attempts leaves it.
        assert_eq!(case.commit(&step(&holder, all[0], all[0])).await, Committed::Done);
        let (_, holding) = case.hold("b").await;
        assert_eq!((holding.at, holding.seen), (all[0], Some(1)));
    }

    async fn a_commit_whose_answer_was_lost_is_done_once(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { dead: vec![fields("bad")], seen: Some(1), ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        let after = case.broker.state(&risk()).await.unwrap();
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), after);
        assert_eq!(case.dead().await.len(), 1);
        // Late, after the next one, it changes nothing either.
        assert_eq!(case.commit(&step(&holder, all[0], all[1])).await, Committed::Done);
        assert_eq!(case.commit(&commit).await, Committed::Conflict { at: all[1] });
        assert_eq!((case.checkpoint().await, case.dead().await.len()), (all[1], 1));
    }

    async fn a_commit_by_anyone_but_the_holder_is_fenced(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (zombie, _) = case.hold("a").await;
        let (holder, _) = case.hold("b").await;
        let before = case.broker.state(&risk()).await.unwrap();
        for other in [
            zombie,
            Holder { owner: "b".to_owned(), epoch: holder.epoch + 1 },
            Holder { owner: "c".to_owned(), epoch: holder.epoch },
            Holder { owner: String::new(), epoch: 0 },
        ] {
            let commit = Commit {
                attempts: vec![(all[1], 1)],
                dead: vec![fields("bad")],
                ..step(&other, EntryId::ZERO, all[0])
            };
            assert_eq!(case.commit(&commit).await, Committed::Fenced, "{other:?}");
        }
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
        assert_eq!(case.dead().await, []);
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Fenced);
        assert_eq!(case.checkpoint().await, EntryId::ZERO);
        let (_, holding) = case.hold("d").await;
        assert_eq!(holding.attempts, []);
    }

    async fn a_commit_of_a_group_without_a_state_is_fenced(case) {
        let holder = Holder { owner: "a".to_owned(), epoch: 1 };
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, EntryId::new(1, 0))).await, Committed::Fenced);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }

    async fn a_commit_from_another_checkpoint_conflicts(case) {
        let all = case.append(4).await;
        case.create(Start::At(all[2])).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { dead: vec![fields("bad")], ..step(&holder, all[0], all[3]) };
        assert_eq!(case.commit(&commit).await, Committed::Conflict { at: all[1] });
        assert_eq!((case.checkpoint().await, case.lease().await.beat), (all[1], 0));
        assert_eq!(case.dead().await, []);
    }

    // Events that may have ended their owner.

    async fn what_an_owner_that_is_gone_may_have_had_in_hand_is_to_be_proven(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        assert_eq!(case.recover("a", false, 7).await.1, None, "nobody was there before");
        let (holder, recovery, crashes) = case.recover("b", false, 9).await;
        assert_eq!((recovery, crashes), (Some(Recovery { left: 7, to: all[2] }), vec![]), "by the bound of the one before");
        // It was gone in turn, by its own bound, and events that came meanwhile may have been in flight as well.
        let more = case.append(2).await;
        assert_eq!(case.recover("c", false, 5).await.1, Some(Recovery { left: 9, to: more[1] }));
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[0])).await, Committed::Fenced);
        // A larger rest of an earlier recovery is not forgotten over a smaller one.
        let (holder, recovery, _) = case.recover("d", false, 5).await;
        assert_eq!(recovery, Some(Recovery { left: 9, to: more[1] }));
        let two = Commit { recovery: recovery_step(&[], 6, &[]), ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&two).await, Committed::Done);
        // A commit that says nothing of it leaves it as it is, and so does a lease that is given back.
        assert_eq!(case.commit(&step(&holder, all[0], all[1])).await, Committed::Done);
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let (holder, recovery, _) = case.recover("e", false, 5).await;
        assert_eq!(recovery, Some(Recovery { left: 6, to: more[1] }));
        let over = Commit { recovery: recovery_step(&[], 0, &[]), ..step(&holder, all[1], all[2]) };
        assert_eq!(case.commit(&over).await, Committed::Done);
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.recover("f", false, 5).await.1, None);
    }

    async fn an_owner_that_gave_back_that_had_nothing_or_that_is_the_same_leaves_nothing_to_prove(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, ..) = case.recover("a", false, 5).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.recover("b", false, 5).await.1, None);
        let (holder, recovery, _) = case.recover("c", true, 5).await;
        assert_eq!(recovery, None);
        assert_eq!(case.commit(&step(&holder, EntryId::ZERO, all[1])).await, Committed::Done);
        assert_eq!(case.recover("d", false, 5).await.1, None, "nothing stands above the checkpoint");
    }

    async fn a_charge_of_an_owner_that_is_gone_is_counted_once(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        case.recover("a", false, 5).await;
        for crashes in 0..3 {
            let (holder, _, counted) = case.recover(&format!("b{crashes}"), false, 5).await;
            assert_eq!(counted, (0..crashes.min(1)).map(|_| (all[0], crashes)).collect::<Vec<_>>());
            let charge = Commit { recovery: recovery_step(&[all[0]], 5, &[]), ..step(&holder, EntryId::ZERO, EntryId::ZERO) };
            assert_eq!(case.commit(&charge).await, Committed::Done);
            assert_eq!(case.commit(&charge).await, Committed::Done, "the same commit sent twice");
        }
        // The same claim sent twice counts one.
        let claim = claim("c", case.lease().await);
        for _ in 0..2 {
            match case.broker.acquire(&risk(), &claim).await.unwrap() {
                Acquired::Held(holding) => assert_eq!(holding.crashes, [(all[0], 3)]),
                other => panic!("not held: {other:?}"),
            }
        }
        // No charge stood.
        assert_eq!(case.recover("d", false, 5).await.2, [(all[0], 3)]);
    }

    async fn a_charge_is_gone_with_whoever_gives_back_finds_its_own_or_charges_another(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        case.recover("a", false, 5).await;
        let zero = EntryId::ZERO;
        let (holder, ..) = case.recover("b", false, 5).await;
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let (holder, _, crashes) = case.recover("c", false, 5).await;
        assert_eq!(crashes, []);
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        let (holder, _, crashes) = case.recover("d", true, 5).await;
        assert_eq!(crashes, []);
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        case.charge(&holder, zero, zero, &[], 5).await;
        let (holder, recovery, crashes) = case.recover("e", false, 5).await;
        assert_eq!((recovery, crashes), (Some(Recovery { left: 5, to: all[2] }), vec![]));
        // One step passes an event and charges the next.
        case.charge(&holder, zero, zero, &[all[0]], 5).await;
        case.charge(&holder, zero, all[0], &[all[1]], 4).await;
        let (holder, recovery, crashes) = case.recover("f", false, 5).await;
        assert_eq!((recovery, crashes), (Some(Recovery { left: 5, to: all[2] }), vec![(all[1], 1)]));
        // A dead letter goes with its charges, and its crashes are forgotten.
        let given_up = Commit { dead: vec![fields("bad")], recovery: recovery_step(&[], 3, &[all[1]]), ..step(&holder, all[0], all[1]) };
        assert_eq!(case.commit(&given_up).await, Committed::Done);
        assert_eq!(payloads(&case.dead().await), ["bad"]);
        let (_, recovery, crashes) = case.recover("g", false, 5).await;
        assert_eq!((recovery, crashes), (Some(Recovery { left: 5, to: all[2] }), vec![]));
    }

    async fn several_events_are_charged_at_once_and_each_of_them_is_counted(case) {
        let all = case.append(5).await;
        case.create(Start::Earliest).await;
        case.recover("a", false, 5).await;
        let zero = EntryId::ZERO;
        let (holder, ..) = case.recover("b", false, 5).await;
        case.charge(&holder, zero, zero, &all[..3], 5).await;
        // One is settled, one has come back and is not, one still runs, and one begins.
        case.charge(&holder, zero, all[0], &[all[2], all[3]], 4).await;
        let (holder, _, mut crashes) = case.recover("c", false, 5).await;
        crashes.sort_unstable();
        assert_eq!(crashes, [(all[2], 1), (all[3], 1)]);
        case.charge(&holder, all[0], all[0], &[all[1], all[3]], 5).await;
        let (holder, _, mut crashes) = case.recover("d", false, 5).await;
        crashes.sort_unstable();
        assert_eq!(crashes, [(all[1], 1), (all[2], 1), (all[3], 2)]);
        case.charge(&holder, all[0], all[0], &all[1..5], 5).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        let (_, _, mut crashes) = case.recover("e", false, 5).await;
        crashes.sort_unstable();
        assert_eq!(crashes, [(all[1], 1), (all[2], 1), (all[3], 2)], "whoever gives back is alive");
    }

    async fn a_commit_that_is_not_done_charges_nothing(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (zombie, ..) = case.recover("a", false, 5).await;
        let (holder, ..) = case.recover("b", false, 5).await;
        let commit = |holder, prev, next| Commit { recovery: recovery_step(&[all[0]], 2, &[]), ..step(holder, prev, next) };
        assert_eq!(case.commit(&commit(&zombie, EntryId::ZERO, EntryId::ZERO)).await, Committed::Fenced);
        let conflict = Committed::Conflict { at: EntryId::ZERO };
        assert_eq!(case.commit(&commit(&holder, all[0], all[1])).await, conflict);
        let bounds = DeadBounds { count: 0, age: Duration::MAX };
        let full = Commit { dead: vec![fields("x")], dead_bounds: bounds, ..commit(&holder, EntryId::ZERO, all[0]) };
        assert!(matches!(case.commit(&full).await, Committed::DeadLettersFull { .. }));
        let (_, recovery, crashes) = case.recover("c", false, 5).await;
        assert_eq!((recovery, crashes), (Some(Recovery { left: 5, to: all[1] }), vec![]));
    }

    async fn a_reset_forgets_what_is_to_be_proven(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        case.recover("a", false, 5).await;
        let (holder, ..) = case.recover("b", false, 5).await;
        let charge = Commit { recovery: recovery_step(&[all[0]], 5, &[]), ..step(&holder, EntryId::ZERO, EntryId::ZERO) };
        assert_eq!(case.commit(&charge).await, Committed::Done);
        let (holder, ..) = case.recover("c", false, 5).await;
        let done = Reset::Done { at: EntryId::ZERO };
        assert_eq!(case.broker.reset(&risk(), Some(holder.epoch), Start::Earliest).await.unwrap(), done);
        let (_, recovery, crashes) = case.recover("d", false, 5).await;
        assert_eq!((recovery, crashes), (None, vec![]));
    }

    async fn a_commit_that_could_not_be_repeated_is_refused(case) {
        let all = case.append(2).await;
        case.create(Start::Latest).await;
        let (holder, _) = case.hold("a").await;
        let back = step(&holder, all[1], all[0]);
        let dead = Commit { dead: vec![fields("bad")], ..step(&holder, all[1], all[1]) };
        let empty = Commit { dead: vec![Vec::new()], ..step(&holder, all[1], all[1].next()) };
        for commit in [back, dead, empty] {
            let error = case.broker.commit(&risk(), &commit).await.unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::Refused);
        }
        assert_eq!((case.checkpoint().await, case.lease().await.beat), (all[1], 0));
        assert_eq!(case.dead().await, []);
    }

    async fn attempts_are_kept_until_they_are_forgotten_or_passed(case) {
        let all = case.append(5).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let record = Commit {
            attempts: vec![(all[0], 1), (all[2], 3), (all[1], 2), (all[4], 9)],
            ..step(&holder, EntryId::ZERO, EntryId::ZERO)
        };
        assert_eq!(case.commit(&record).await, Committed::Done);
        let (holder, holding) = case.hold("b").await;
        assert_eq!(holding.attempts, [(all[0], 1), (all[1], 2), (all[2], 3), (all[4], 9)]);

        let pass = Commit {
            attempts: vec![(all[2], 4)],
            forget: vec![all[4], all[3]],
            ..step(&holder, EntryId::ZERO, all[0])
        };
        assert_eq!(case.commit(&pass).await, Committed::Done);
        let (_, holding) = case.hold("c").await;
        assert_eq!(holding.attempts, [(all[1], 2), (all[2], 4)]);
    }

    // Builds of different age.

    async fn what_builds_declare_adds_up_to_the_highest_version_of_each_event(case) {
        let declare = async |declares: &[(&str, u32)]| {
            let change = Change { declares: events(declares), ..Change::default() };
            case.broker.declare_events(&risk(), &change).await.unwrap()
        };
        assert_eq!(declare(&[("A", 1)]).await, None, "there is no state");
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
        case.create(Start::Earliest).await;
        assert_eq!(case.state().await.events, Events::new());
        assert_eq!(declare(&[]).await, Some(Events::new()));
        assert_eq!(declare(&[("B.x-1", 2), ("A", 10)]).await, Some(events(&[("A", 10), ("B.x-1", 2)])));
        let all = events(&[("A", 10), ("AB", 1), ("B.x-1", 3)]);
        assert_eq!(declare(&[("A", 9), ("AB", 1), ("B.x-1", 3)]).await, Some(all.clone()));
        assert_eq!(case.state().await.events, all);
        let (_, holding) = case.hold("a").await;
        assert_eq!(holding.events, all);
    }

    async fn of_builds_that_declare_at_the_same_time_none_is_forgotten(case) {
        case.create(Start::Earliest).await;
        let builds: Vec<_> = (0..20)
            .map(|n| {
                let broker = Arc::clone(&case.broker);
                let change = Change { declares: events(&[(&format!("E{n}"), 1)]), ..Change::default() };
                tokio::spawn(async move { broker.declare_events(&risk(), &change).await.unwrap() })
            })
            .collect();
        for build in builds {
            build.await.unwrap();
        }
        assert_eq!(case.state().await.events.len(), 20);
    }

    async fn a_declared_event_is_forgotten_by_its_whole_name(case) {
        case.create(Start::Earliest).await;
        let declares = events(&[("A", 1), ("AB", 1), ("B", 1)]);
        let forgets = vec!["AB".to_owned(), "never there".to_owned()];
        let change = Change { declares, forgets, met: None };
        assert_eq!(case.broker.declare_events(&risk(), &change).await.unwrap(), Some(events(&[("A", 1), ("B", 1)])));
    }

    async fn a_lease_is_handed_over_with_what_the_next_owner_must_handle(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let (first, second) = (need("Shipped", 1, all[0]), need("Shipped", 2, all[1]));
        let other = Holder { owner: "b".to_owned(), ..holder.clone() };
        assert!(!case.broker.release(&risk(), &other, Some(&first)).await.unwrap());
        assert_eq!(case.state().await.needs, None);
        let mut tail = case.broker.tail().await.unwrap();
        assert!(case.broker.release(&risk(), &holder, Some(&first)).await.unwrap());
        let state = case.state().await;
        assert_eq!((state.lease.owner.as_str(), state.needs), ("", Some(first.clone())));
        assert_eq!(until_found(&mut *tail, &keys(&[(&partition().bell(), EntryId::ZERO)])).await.len(), 1);
        assert!(!case.broker.release(&risk(), &holder, Some(&second)).await.unwrap(), "it is not held any more");
        // It stays over an ownership and its end, until another one takes its place.
        let (holder, _) = case.hold("c").await;
        case.commit(&step(&holder, EntryId::ZERO, all[0])).await;
        assert!(case.broker.release(&risk(), &holder, None).await.unwrap());
        assert_eq!(case.state().await.needs, Some(first));
        let (holder, _) = case.hold("d").await;
        assert!(case.broker.release(&risk(), &holder, Some(&second)).await.unwrap());
        assert_eq!(case.state().await.needs, Some(second));
    }

    async fn what_was_needed_is_taken_away_only_where_it_is_this(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let needed = need("Shipped", 1, all[0]);
        assert!(case.broker.release(&risk(), &holder, Some(&needed)).await.unwrap());
        let met = async |met: Need| {
            let change = Change { met: Some(met), ..Change::default() };
            case.broker.declare_events(&risk(), &change).await.unwrap();
            case.state().await.needs
        };
        for other in [need("Shipped", 2, all[0]), need("Ship", 1, all[0]), need("Shipped", 1, all[0].next())] {
            assert_eq!(met(other).await, Some(needed.clone()));
        }
        assert_eq!(met(needed.clone()).await, None);
        assert_eq!(met(needed).await, None);
    }

    async fn a_commit_that_passes_over_what_was_declared_meanwhile_changes_nothing(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let passing = |names: &[&str], prev, next| Commit {
            passed_over: names.iter().map(|&name| name.to_owned()).collect(),
            attempts: vec![(all[2], 1)],
            dead: vec![fields("bad")],
            ..step(&holder, prev, next)
        };
        let first = passing(&["A", "AB"], EntryId::ZERO, all[0]);
        assert_eq!(case.commit(&first).await, Committed::Done);
        let declares = events(&[("AB", 1), ("Z", 1), ("XA", 1)]);
        case.broker.declare_events(&risk(), &Change { declares, ..Change::default() }).await.unwrap();
        // Sent again, because its answer was lost: it was done before anybody declared anything.
        assert_eq!(case.commit(&first).await, Committed::Done);
        let (lease, dead) = (case.lease().await, case.dead().await.len());
        let refused = case.commit(&passing(&["A", "AB", "Z"], all[0], all[1])).await;
        assert_eq!(refused, Committed::Declared { names: vec!["AB".to_owned(), "Z".to_owned()] });
        assert_eq!((case.checkpoint().await, case.lease().await, case.dead().await.len()), (all[0], lease, dead));
        assert_eq!(case.commit(&passing(&["A", "B", "X"], all[0], all[1])).await, Committed::Done);
        let fenced = Commit { holder: Holder { owner: "b".to_owned(), epoch: 1 }, ..passing(&["AB"], all[1], all[2]) };
        assert_eq!(case.commit(&fenced).await, Committed::Fenced);
    }

    async fn a_commit_with_a_name_that_no_event_has_is_refused(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        for name in ["", "two words", "A@1"] {
            let commit = Commit { passed_over: vec![name.to_owned()], ..step(&holder, EntryId::ZERO, all[0]) };
            let error = case.broker.commit(&risk(), &commit).await.unwrap_err();
            assert_eq!(error.kind(), BrokerErrorKind::Refused, "{name}");
        }
        assert_eq!(case.checkpoint().await, EntryId::ZERO);
    }

    async fn a_reset_keeps_what_is_declared_and_forgets_what_is_needed(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let declares = events(&[("A", 2)]);
        case.broker.declare_events(&risk(), &Change { declares: declares.clone(), ..Change::default() }).await.unwrap();
        let (holder, _) = case.hold("a").await;
        assert!(case.broker.release(&risk(), &holder, Some(&need("A", 3, all[0]))).await.unwrap());
        let epoch = case.lease().await.epoch;
        assert!(matches!(case.broker.reset(&risk(), Some(epoch), Start::Latest).await.unwrap(), Reset::Done { .. }));
        assert_eq!((case.state().await.events, case.state().await.needs), (declares, None));
    }

    async fn a_commit_that_shows_its_position_finds_that_the_stream_is_gone(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        case.delete();
        let shown = Commit { mirror: true, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&shown).await, Committed::Vanished);
        assert_eq!(case.checkpoint().await, all[0]);
        // A stream of the same name has no marker of ours.
        case.append(1).await;
        let shown = Commit { mirror: true, ..step(&holder, all[0], all[1]) };
        assert_eq!(case.commit(&shown).await, Committed::Vanished);
        assert_eq!(case.checkpoint().await, all[1]);
    }

    async fn what_every_group_has_settled_is_the_smallest_checkpoint(case) {
        let consumed = async || case.broker.consumed(&partition()).await.unwrap();
        assert_eq!(consumed().await, None, "no stream");
        let all = case.append(4).await;
        assert_eq!(consumed().await, None, "no group");
        case.create(Start::Latest).await;
        let expected = |at, slowest: &str| Some(Consumed { at, slowest: slowest.to_owned() });
        assert_eq!(consumed().await, expected(all[3], "risk"));
        let other = partition().group("audit");
        case.broker.create(&other, Start::At(all[1])).await.unwrap();
        assert_eq!(consumed().await, expected(all[0], "audit"), "also of a group that nobody runs");
        let claim = claim("a", LeaseView::default());
        let Acquired::Held(Holding { epoch, .. }) = case.broker.acquire(&other, &claim).await.unwrap() else {
            panic!("not held");
        };
        let holder = Holder { owner: "a".to_owned(), epoch };
        case.broker.commit(&other, &step(&holder, all[0], all[2])).await.unwrap();
        assert_eq!(consumed().await, expected(all[2], "audit"));
        case.broker.create(&partition().group("new"), Start::Earliest).await.unwrap();
        assert_eq!(consumed().await, expected(EntryId::ZERO, "new"));
        // A group dies with its stream, and its checkpoint holds nothing of the next one.
        case.delete();
        case.append(1).await;
        assert_eq!(consumed().await, None);
    }

    async fn the_position_of_somebody_elses_group_is_not_known(case) {
        case.append(2).await;
        case.broker.create(&partition().group("audit"), Start::Latest).await.unwrap();
        case.mark();
        assert_eq!(case.broker.consumed(&partition()).await.unwrap(), None);
    }

    async fn groups_and_partitions_do_not_know_each_other(case) {
        let stream = StreamKey::new(None, "orders", 2);
        let groups = [stream.partition(0).group("a"), stream.partition(1).group("a"), stream.partition(0).group("b")];
        for group in &groups {
            assert_eq!(case.broker.create(group, Start::Earliest).await.unwrap(), Created::Made);
        }
        let claim = claim("x", LeaseView::default());
        assert!(matches!(case.broker.acquire(&groups[0], &claim).await.unwrap(), Acquired::Held(_)));
        for group in &groups[1..] {
            assert_eq!(case.broker.state(group).await.unwrap().unwrap().lease, LeaseView::default());
        }
    }

    // Operators.

    async fn a_resume_tells_and_changes_nothing_else(case) {
        let (holder, _) = case.letters(1).await;
        let before = case.broker.state(&risk()).await.unwrap().unwrap();
        for times in 1..=2 {
            assert!(case.broker.resume(&risk()).await.unwrap());
            let state = case.broker.state(&risk()).await.unwrap().unwrap();
            assert_eq!(state, GroupState { resume: times, ..before.clone() });
        }
        assert_eq!(before.lease.epoch, holder.epoch);
    }

    // Ids of settled events.

    async fn a_commit_remembers_the_ids_that_it_settles(case) {
        let all = case.append(4).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(case.broker.remembered(&risk(), &ids(&["x"])).await.unwrap(), [None]);
        assert_eq!(case.broker.remembered(&risk(), &[]).await.unwrap(), []);
        let began = case.broker.now().await.unwrap();
        let first = remember(&["x", "y z", "ä\n"], LONG, 100);
        assert_eq!(case.commit(&Commit { remember: first, ..step(&holder, EntryId::ZERO, all[0]) }).await, Committed::Done);
        let times = case.broker.remembered(&risk(), &ids(&["ä\n", "no", "x", "y z", "x"])).await.unwrap();
        assert!(times[0].is_some_and(|at| (began..began + 60_000).contains(&at)), "{times:?}");
        assert_eq!([times[2], times[3], times[4]], [times[0]; 3]);
        assert_eq!(times[1], None);
        // An id keeps its first time. A fenced owner adds none.
        case.after(times[0].unwrap()).await;
        let mut again = Commit { remember: remember(&["x", "new"], LONG, 100), ..step(&holder, all[0], all[1]) };
        again.attempts = vec![(all[3], 2)];
        assert_eq!(case.commit(&again).await, Committed::Done);
        let later = case.broker.remembered(&risk(), &ids(&["x", "new"])).await.unwrap();
        assert!(later[0] == times[0] && later[1] > times[0], "{times:?} {later:?}");
        let zombie = Holder { owner: "zombie".to_owned(), epoch: holder.epoch };
        let late = Commit { remember: remember(&["late"], LONG, 100), ..step(&zombie, all[1], all[2]) };
        assert_eq!(case.commit(&late).await, Committed::Fenced);
        assert_eq!(case.broker.remembered(&risk(), &ids(&["late"])).await.unwrap(), [None]);
        // Letters and charges in the same commit are where they belong.
        let letters = Commit { dead: vec![fields("x")], attempts: vec![(all[3], 3)], ..step(&holder, all[1], all[2]) };
        let letters = Commit { remember: remember(&["dead"], LONG, 100), recovery: recovery_step(&all[3..], 1, &[]), ..letters };
        assert_eq!(case.commit(&letters).await, Committed::Done);
        assert_eq!(case.broker.dead_letters(&risk(), EntryId::ZERO, 9).await.unwrap().len(), 1);
        assert!(case.broker.remembered(&risk(), &ids(&["dead"])).await.unwrap()[0].is_some());
    }

    async fn ids_are_forgotten_by_age_by_number_and_by_a_reset(case) {
        let all = case.append(6).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let known = async || {
            let ids: Vec<_> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
            let times = case.broker.remembered(&risk(), &ids).await.unwrap();
            ids.into_iter().zip(times).filter_map(|(id, at)| at.map(|_| id)).collect::<Vec<_>>()
        };
        let commit = async |prev: EntryId, next, remember| {
            let commit = Commit { remember, ..step(&holder, prev, next) };
            assert_eq!(case.commit(&commit).await, Committed::Done);
            case.after(case.broker.now().await.unwrap()).await;
        };
        commit(EntryId::ZERO, all[0], remember(&["a"], LONG, 100)).await;
        commit(all[0], all[1], remember(&["b", "c"], LONG, 2)).await;
        assert_eq!(known().await, ["b", "c"], "the oldest is one too many");
        let now = case.broker.now().await.unwrap();
        case.after(now + 30).await;
        commit(all[1], all[2], remember(&["d"], Duration::from_millis(20), 100)).await;
        assert_eq!(known().await, ["d"], "the others are too old");
        case.broker.reset(&risk(), Some(holder.epoch), Start::Earliest).await.unwrap();
        assert_eq!(known().await, <[&str; 0]>::default(), "whoever resets wants events again");
    }

    // Adoption.

    async fn a_group_without_a_state_is_adopted_where_it_is(case) {
        case.append(2).await;
        let last = case.extent().await.last;
        case.mark();
        case.append(1).await;
        assert_eq!(case.broker.create(&risk(), Start::Latest).await.unwrap(), Created::Foreign);
        let adoption = Adoption { at: last, delivered: last, pending: 0, oldest: None };
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Done(adoption));
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Exists);
        let (holder, holding) = case.hold("a").await;
        assert_eq!(holding.at, last);
        assert_eq!(case.commit(&step(&holder, last, last.next())).await, Committed::Done);
    }

    async fn what_is_not_there_is_not_adopted(case) {
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Missing);
        case.append(1).await;
        assert_eq!(case.broker.adopt(&risk(), LONG).await.unwrap(), Adopted::Missing);
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
    }
}
