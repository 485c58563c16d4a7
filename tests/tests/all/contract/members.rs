//! Members and notes, sentence by sentence.

use std::collections::BTreeSet;
use std::sync::Arc;

use streams_core::broker::{MAX_MEMBERS, Notes};
use streams_core::keys::StreamKey;

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
        let told = |told: &[(&str, u64)]| told.iter().map(|(says, beat)| ((*says).to_owned(), *beat)).collect::<Vec<_>>();
        assert!(case.attend(None, &[]).await.is_empty());
        assert_eq!(case.attend(Some("a lease=1"), &[]).await, told(&[("a lease=1", 1)]));
        assert_eq!(case.attend(Some("b"), &[]).await, told(&[("a lease=1", 1), ("b", 1)]));
        assert_eq!(case.attend(Some("b"), &[]).await, told(&[("a lease=1", 1), ("b", 2)]));
        assert_eq!(case.attend(None, &[]).await, told(&[("a lease=1", 1), ("b", 2)]));
    }

    async fn a_member_is_taken_out_by_its_last_beat_or_by_itself(case) {
        for says in ["a", "b", "b", "c"] {
            case.attend(Some(says), &[]).await;
        }
        let left = case.attend(Some("d"), &[("a", Some(1)), ("b", Some(1)), ("c", None), ("nobody", None)]).await;
        assert_eq!(left, [("b".to_owned(), 2), ("d".to_owned(), 1)]);
        // A member can change its card in one step.
        let left = case.attend(Some("d without=1"), &[("d", None), ("b", Some(2))]).await;
        assert_eq!(left, [("d without=1".to_owned(), 1)]);
    }

    async fn groups_have_members_of_their_own_and_are_answered_in_order(case) {
        let sets = [attendance("other", Some("a"), &[]), attendance("risk", Some("b"), &[]), attendance("other", None, &[])];
        let answers = case.broker.attend(&sets).await.unwrap().into_iter();
        let answers: Vec<_> = answers.map(|answer| told(answer.unwrap())).collect();
        let (a, b) = (("a".to_owned(), 1), ("b".to_owned(), 1));
        assert_eq!(answers, [vec![a.clone()], vec![b], vec![a]]);
    }

    async fn members_have_a_bound_and_those_with_the_fewest_beats_go(case) {
        let sets = |from: usize, to: usize| {
            (from..to).map(|n| attendance("risk", Some(&n.to_string()), &[])).collect::<Vec<_>>()
        };
        case.attend(Some("old"), &[]).await;
        case.attend(Some("old"), &[]).await;
        for page in sets(1, MAX_MEMBERS + 10).chunks(300) {
            case.broker.attend(page).await.unwrap();
        }
        let members = case.attend(None, &[]).await;
        assert_eq!(members.len(), MAX_MEMBERS);
        assert!(members.contains(&("old".to_owned(), 2)));
    }
}
