//! Members and notes, sentence by sentence.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{MAX_MEMBERS, Notes};
use streams_core::keys::{SnapshotKey, StreamKey};

use super::{Case, attendance, told};

contract! {
    // Notes.

    async fn notes_are_kept_by_name_and_told_as_they_were_before(case) {
        let (stream, other) = (StreamKey::new(Some("eu"), "trades", 4), StreamKey::new(None, "trades", 4));
        let notes = |notes: &[(&str, &str)]| -> Notes {
            notes.iter().map(|(name, note)| ((*name).to_owned(), (*note).to_owned())).collect()
        };
        let none = Notes::new();
        let told = async |write: &[(&str, &str)], gone: &[&str]| {
            let gone: Vec<_> = gone.iter().map(|&name| name.to_owned()).collect();
            case.broker.notes(&stream, &notes(write), &gone).await.unwrap()
        };
        assert_eq!(told(&[], &[]).await, none);
        assert_eq!(told(&[("a", "1"), ("b", "ü\n2")], &[]).await, none);
        assert_eq!(told(&[("b", "3")], &["a", "never there"]).await, notes(&[("a", "1"), ("b", "ü\n2")]));
        assert_eq!(told(&[], &["b"]).await, notes(&[("b", "3")]));
        assert_eq!(told(&[], &[]).await, none);
        assert_eq!(told(&[("a", "4")], &[]).await, none);
        assert_eq!(case.broker.notes(&other, &none, &[]).await.unwrap(), none);
        assert_eq!(case.broker.partitions(&stream).await.unwrap(), None, "nothing is declared by it");
    }

    async fn of_callers_at_the_same_time_each_sees_those_before_it(case) {
        let callers: Vec<_> = (0..20)
            .map(|n| {
                let (broker, stream) = (Arc::clone(&case.broker), StreamKey::new(None, "trades", 1));
                let note = Notes::from([(format!("{n}"), String::new())]);
                tokio::spawn(async move { broker.notes(&stream, &note, &[]).await.unwrap().len() })
            })
            .collect();
        let mut seen = BTreeSet::new();
        for caller in callers {
            seen.insert(caller.await.unwrap());
        }
        assert_eq!(seen, (0..20).collect());
    }

    // Members.

    async fn members_are_counted_by_beats_of_their_own(case) {
        assert!(case.attend(None, &[]).await.is_empty());
        let began = case.broker.now().await.unwrap();
        let alone = case.attend(Some("a lease=1"), &[]).await;
        let [(a, beat)] = &alone[..] else { panic!("{alone:?}") };
        assert!(a == "a lease=1" && *beat >= began, "{alone:?}");
        let both = case.attend(Some("b"), &[]).await;
        let again = case.attend(Some("b"), &[]).await;
        let ended = case.broker.now().await.unwrap();
        assert_eq!((&both[0], &again[0]), (&alone[0], &alone[0]));
        assert!(both[1].0 == "b" && both[1].1 >= began, "{both:?}");
        // Two within a millisecond are two beats all the same.
        assert!(again[1].1 > both[1].1 && again[1].1 <= ended + 1, "{both:?} {again:?}");
        assert_eq!(case.attend(None, &[]).await, again);
    }

    async fn a_member_is_taken_out_by_its_last_beat_or_by_itself(case) {
        let names = |members: &[(String, u64)]| members.iter().map(|(says, _)| says.clone()).collect::<Vec<_>>();
        for says in ["a", "b", "c"] {
            case.attend(Some(says), &[]).await;
        }
        let before = case.attend(None, &[]).await;
        let there = case.attend(Some("b"), &[]).await;
        let (a, old, new) = (before[0].1, before[1].1, there[1].1);
        let left = case.attend(Some("d"), &[("a", Some(a)), ("b", Some(old)), ("c", None), ("nobody", None)]).await;
        assert_eq!(names(&left), ["b", "d"]);
        // A member can change its card in one step.
        let left = case.attend(Some("d without=1"), &[("d", None), ("b", Some(new))]).await;
        assert_eq!(names(&left), ["d without=1"]);
    }

    async fn groups_have_members_of_their_own_and_are_answered_in_order(case) {
        let sets = [attendance("other", Some("a"), &[]), attendance("risk", Some("b"), &[]), attendance("other", None, &[])];
        let answers = case.broker.attend(&sets).await.unwrap().into_iter();
        let answers: Vec<_> = answers.map(|answer| told(answer.unwrap())).collect();
        let names = answers.iter().map(|members| members.iter().map(|(says, _)| says.as_str()).collect::<Vec<_>>());
        assert_eq!(names.collect::<Vec<_>>(), [["a"], ["b"], ["a"]]);
        assert_eq!(answers[0], answers[2]);
    }

    async fn members_have_a_bound_and_those_heard_longest_ago_go(case) {
        let sets = |from: usize, to: usize| {
            (from..to).map(|n| attendance("risk", Some(&n.to_string()), &[])).collect::<Vec<_>>()
        };
        case.attend(Some("old"), &[]).await;
        let began = case.after(case.broker.now().await.unwrap()).await;
        for page in sets(1, MAX_MEMBERS + 10).chunks(300) {
            case.broker.attend(page).await.unwrap();
        }
        let members = case.attend(None, &[]).await;
        assert_eq!(members.len(), MAX_MEMBERS);
        assert!(members.iter().all(|(says, beat)| says != "old" && *beat >= began), "{members:?}");
    }

    // Snapshots.

    async fn the_last_snapshot_is_answered_whole(case) {
        let key = SnapshotKey::new(None, "risk");
        assert_eq!(case.broker.saved(&key).await.unwrap(), None);
        case.broker.save(&key, b"first".to_vec()).await.unwrap();
        let second: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        case.broker.save(&key, second.clone()).await.unwrap();
        assert!(case.broker.saved(&key).await.unwrap() == Some(second));
    }

    async fn one_caller_saves_until_the_next_snapshot_is_due(case) {
        let (key, every) = (SnapshotKey::new(None, "risk"), Duration::from_millis(300));
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (broker, key) = (Arc::clone(&case.broker), key.clone());
            asked.spawn(async move { broker.claim_save(&key, every).await.unwrap() });
        }
        assert_eq!(asked.join_all().await.into_iter().filter(|claimed| *claimed).count(), 1);
        let claimed = case.broker.now().await.unwrap();
        while !case.broker.claim_save(&key, every).await.unwrap() {
            tokio::task::yield_now().await;
        }
        assert!(case.broker.now().await.unwrap() >= claimed + 290, "not before it is due");
    }
}
