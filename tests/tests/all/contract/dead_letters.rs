//! Dead letters and replays of them, sentence by sentence.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{
    BrokerErrorKind, Commit, Committed, DeadBounds, Fields, Holder, Moved, Renewed, Replay, ReplayEnd, Reset, Taken,
};
use streams_core::{Entry, EntryId, Start};

use super::{Case, NO_BOUNDS, fields, ids, partition, payloads, risk, step};

contract! {
    // Letters.

    async fn dead_letters_are_added_by_the_commit_that_passes_them(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let commit = Commit { dead: vec![fields("x"), fields("y")], ..step(&holder, EntryId::ZERO, all[1]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(payloads(&case.dead().await), ["x", "y"]);
        assert!(case.dead().await[0].fields().eq(fields("x").iter().map(|(name, value)| (name.as_slice(), value.as_slice()))));
        assert_eq!(case.checkpoint().await, all[1]);
        assert_eq!(case.broker.dead_letters(&partition().group("other"), EntryId::ZERO, 10).await.unwrap(), []);
    }

    async fn a_dead_letter_has_a_bound_of_fields(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let letter = |count: usize| (0..count).map(|n| (n.to_string().into_bytes(), Vec::new())).collect::<Fields>();
        let most = Commit { dead: vec![letter(3_900), letter(3_900)], ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&most).await, Committed::Done);
        assert!(case.dead().await[1].fields().eq(letter(3_900).iter().map(|(name, value)| (name.as_slice(), value.as_slice()))));
        let more = Commit { dead: vec![letter(3_901)], ..step(&holder, all[0], all[1]) };
        let error = case.broker.commit(&risk(), &more).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused);
        assert_eq!((case.checkpoint().await, case.dead().await.len()), (all[0], 2));
    }

    async fn dead_letters_have_a_bound_by_number(case) {
        let all = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let dead_bounds = DeadBounds { count: 2, ..NO_BOUNDS };
        let two = Commit { dead: vec![fields("x"); 2], dead_bounds, ..step(&holder, EntryId::ZERO, all[0]) };
        let three = Commit { dead: vec![fields("x"); 3], ..two.clone() };
        assert_eq!(case.commit(&three).await, Committed::DeadLettersFull { count: 0, oldest: None });
        assert_eq!(case.commit(&two).await, Committed::Done);
        let before = case.broker.state(&risk()).await.unwrap();
        let oldest = Some(case.dead().await[0].id);
        let one = Commit {
            dead: vec![fields("y")],
            attempts: vec![(all[2], 1)],
            dead_bounds,
            ..step(&holder, all[0], all[1])
        };
        assert_eq!(case.commit(&one).await, Committed::DeadLettersFull { count: 2, oldest });
        assert_eq!(case.broker.state(&risk()).await.unwrap(), before);
        assert_eq!(case.dead().await.len(), 2);
        // The bound is for what is added: other commits go on, and so does this one after a discard.
        assert_eq!(case.commit(&Commit { dead: Vec::new(), ..one.clone() }).await, Committed::Done);
        assert_eq!(case.broker.discard(&risk(), &[case.dead().await[0].id]).await.unwrap(), 1);
        let last = Commit { prev: all[1], next: all[2], ..one };
        assert_eq!(case.commit(&last).await, Committed::Done);
    }

    async fn dead_letters_have_a_bound_by_age(case) {
        let all = case.append(2).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let dead_bounds = DeadBounds { age: Duration::ZERO, ..NO_BOUNDS };
        let first = Commit { dead: vec![fields("x")], dead_bounds, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&first).await, Committed::Done);
        let oldest = case.dead().await[0].id;
        case.after(oldest.ms).await;
        let second = Commit { dead: vec![fields("y")], dead_bounds, ..step(&holder, all[0], all[1]) };
        let full = Committed::DeadLettersFull { count: 1, oldest: Some(oldest) };
        assert_eq!(case.commit(&second).await, full);
        assert_eq!((case.checkpoint().await, case.dead().await.len()), (all[0], 1));
        let day = DeadBounds { age: Duration::from_secs(86_400), ..NO_BOUNDS };
        assert_eq!(case.commit(&Commit { dead_bounds: day, ..second }).await, Committed::Done);
    }

    async fn dead_letters_are_listed_and_discarded_page_by_page(case) {
        let all = case.append(1).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let letters = (0..5).map(|n| fields(&n.to_string())).collect();
        let commit = Commit { dead: letters, ..step(&holder, EntryId::ZERO, all[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        let page = async |after| case.broker.dead_letters(&risk(), after, 2).await.unwrap();
        let first = page(EntryId::ZERO).await;
        let second = page(first[1].id).await;
        let third = page(second[1].id).await;
        assert_eq!(payloads(&[first.clone(), second, third].concat()), ["0", "1", "2", "3", "4"]);

        let discarded = [first[1].id, EntryId::new(1, 1), first[1].id];
        assert_eq!(case.broker.discard(&risk(), &discarded).await.unwrap(), 1);
        assert_eq!(case.broker.discard(&risk(), &discarded).await.unwrap(), 0);
        assert_eq!(case.broker.discard(&risk(), &[]).await.unwrap(), 0);
        assert_eq!(case.broker.discard(&partition().group("other"), &discarded).await.unwrap(), 0);
        assert_eq!(payloads(&case.dead().await), ["0", "2", "3", "4"]);
    }

    // Dead letters that are handled again.

    async fn letters_move_to_the_replays_in_the_order_of_the_call_and_never_twice(case) {
        let (holder, letters) = case.letters(3).await;
        let gone = EntryId::new(1, 1);
        let asked = [letters[2], gone, letters[0]];
        let moved = case.broker.replay(&risk(), &asked, 10).await.unwrap();
        assert_eq!(moved, Moved::Done(vec![letters[2], letters[0]]));
        assert_eq!(case.broker.replay(&risk(), &asked, 10).await.unwrap(), Moved::Done(vec![]));
        assert_eq!(ids(&case.dead().await), [letters[1]]);
        let waiting = case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap();
        let of = |waiting: &[Arc<Entry>]| {
            let letter = |entry: &Arc<Entry>| String::from_utf8(entry.field("letter").unwrap().to_vec()).unwrap();
            waiting.iter().map(letter).collect::<Vec<_>>()
        };
        assert_eq!(of(&waiting), [letters[2].to_string(), letters[0].to_string()]);
        assert_eq!(payloads(&waiting), ["2", "0"]);
        assert_eq!(waiting[0].fields().count(), fields("").len() + 1);
        // Nothing of the lease or the checkpoint has changed.
        assert_eq!(case.lease().await.epoch, holder.epoch);
    }

    async fn an_edited_letter_moves_once_with_its_new_fields(case) {
        let (holder, letters) = case.letters(3).await;
        let edit = async |id, text: &str| case.broker.replay_edited(&risk(), id, &fields(text), 2).await.unwrap();
        assert_eq!(edit(EntryId::new(1, 1), "x").await, Moved::Done(vec![]));
        assert_eq!(edit(letters[1], "mended").await, Moved::Done(vec![letters[1]]));
        // The same call again, and another edit of a letter that is gone.
        for text in ["mended", "otherwise"] {
            assert_eq!(edit(letters[1], text).await, Moved::Done(vec![]));
        }
        assert_eq!(payloads(&case.dead().await), ["0", "2"]);
        let waiting = case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap();
        assert_eq!(payloads(&waiting), ["mended"]);
        assert_eq!(waiting[0].field("letter"), Some(letters[1].to_string().as_bytes()));
        assert_eq!(waiting[0].fields().count(), fields("").len() + 1);
        assert_eq!(case.take(&holder).await.letter, waiting[0]);
        assert_eq!(edit(letters[0], "second").await, Moved::Done(vec![letters[0]]));
        assert_eq!(edit(letters[2], "third").await, Moved::Full { waiting: 2 });
        let long = vec![(b"f".to_vec(), Vec::new()); 4_000];
        let error = case.broker.replay_edited(&risk(), letters[2], &long, 10).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused);
        assert_eq!(payloads(&case.dead().await), ["2"]);
        assert_eq!(payloads(&case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap()), ["mended", "second"]);
    }

    async fn no_more_replays_wait_than_may(case) {
        let (_, letters) = case.letters(3).await;
        assert_eq!(case.broker.replay(&risk(), &letters[..2], 2).await.unwrap(), Moved::Done(letters[..2].to_vec()));
        assert_eq!(case.broker.replay(&risk(), &letters[2..], 2).await.unwrap(), Moved::Full { waiting: 2 });
        assert_eq!(case.dead().await.len(), 1);
    }

    async fn without_a_state_nothing_is_replayed_or_resumed(case) {
        assert_eq!(case.broker.replay(&risk(), &[EntryId::new(1, 1)], 10).await.unwrap(), Moved::Missing);
        assert_eq!(case.broker.replay_edited(&risk(), EntryId::new(1, 1), &fields("x"), 10).await.unwrap(), Moved::Missing);
        assert!(!case.broker.resume(&risk()).await.unwrap());
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
        assert_eq!(case.broker.take_replay(&risk(), &Holder { owner: "a".into(), epoch: 1 }).await.unwrap(), Taken::Fenced);
    }

    async fn a_renewal_says_whether_letters_wait(case) {
        let (holder, letters) = case.letters(1).await;
        let mut renewer = case.broker.renewer().await.unwrap();
        let leases = [(risk(), holder.clone())];
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: false }]);
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: true }]);
        // Also when the checkpoint is moved by hand.
        let Reset::Done { .. } = case.broker.reset(&risk(), Some(holder.epoch), Start::Earliest).await.unwrap() else { panic!() };
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Lost]);
        let (holder, _) = case.hold("next").await;
        let leases = [(risk(), holder.clone())];
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: true }]);
        let letter = case.take(&holder).await;
        assert!(case.broker.end_replay(&risk(), &holder, letter.letter.id, &ReplayEnd::Done).await.unwrap());
        assert_eq!(renewer.renew(&leases).await.unwrap(), [Renewed::Held { replays: false }]);
        assert_eq!(case.broker.take_replay(&risk(), &holder).await.unwrap(), Taken::Nothing);
    }

    async fn a_replay_is_the_first_until_it_ends_and_its_attempts_are_kept(case) {
        let (holder, letters) = case.letters(2).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        let first = case.take(&holder).await;
        assert_eq!((first.attempts, first.crashes, payloads(&[Arc::clone(&first.letter)])), (0, 0, vec!["0".to_owned()]));
        // The same again: the answer was lost.
        assert_eq!(case.take(&holder).await, first);
        let id = first.letter.id;
        for _ in 0..2 {
            assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Again { attempts: 1 }).await.unwrap());
        }
        assert_eq!(case.take(&holder).await, Replay { attempts: 1, ..first });
        for _ in 0..2 {
            assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Done).await.unwrap());
        }
        let second = case.take(&holder).await;
        assert_eq!((second.attempts, payloads(&[Arc::clone(&second.letter)])), (0, vec!["1".to_owned()]));
        assert_eq!(case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap().len(), 1);
        assert!(case.dead().await.is_empty());
    }

    async fn attempts_at_a_replay_only_grow(case) {
        let (holder, letters) = case.letters(1).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        let id = case.take(&holder).await.letter.id;
        for attempts in [1, 2, 1] {
            let end = ReplayEnd::Again { attempts };
            assert!(case.broker.end_replay(&risk(), &holder, id, &end).await.unwrap());
        }
        assert_eq!(case.take(&holder).await.attempts, 2);
    }

    async fn a_replay_goes_back_to_the_dead_letters_once_and_whatever_is_there(case) {
        let (holder, letters) = case.letters(3).await;
        case.broker.replay(&risk(), &letters[..1], 10).await.unwrap();
        let first = case.take(&holder).await;
        for _ in 0..2 {
            let end = ReplayEnd::Dead(fields("again"));
            assert!(case.broker.end_replay(&risk(), &holder, first.letter.id, &end).await.unwrap());
        }
        assert_eq!(payloads(&case.dead().await), ["1", "2", "again"]);
        assert!(case.broker.replays(&risk(), EntryId::ZERO, 10).await.unwrap().is_empty());
        assert_eq!(case.broker.take_replay(&risk(), &holder).await.unwrap(), Taken::Nothing);
    }

    async fn who_takes_a_replay_that_is_charged_to_another_epoch_finds_a_crash(case) {
        let (mut holder, letters) = case.letters(2).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        for crashes in 0..3 {
            assert_eq!(case.take(&holder).await.crashes, crashes);
            // The holder is gone; the next one takes over.
            holder = case.hold(&format!("owner-{crashes}")).await.0;
        }
        let taken = case.take(&holder).await;
        assert_eq!(taken.crashes, 3);
        // An attempt that came to its end is no crash, and those before are not forgotten.
        let id = taken.letter.id;
        assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Again { attempts: 1 }).await.unwrap());
        holder = case.hold("after").await.0;
        let taken = case.take(&holder).await;
        assert_eq!((taken.crashes, taken.attempts), (3, 1));
        // The next letter begins with none.
        assert!(case.broker.end_replay(&risk(), &holder, id, &ReplayEnd::Done).await.unwrap());
        assert_eq!(case.take(&holder).await.crashes, 0);
    }

    async fn only_the_owner_takes_and_ends_replays(case) {
        let (old, letters) = case.letters(1).await;
        case.broker.replay(&risk(), &letters, 10).await.unwrap();
        let letter = case.take(&old).await.letter;
        let (new, _) = case.hold("new").await;
        assert_eq!(case.broker.take_replay(&risk(), &old).await.unwrap(), Taken::Fenced);
        for end in [ReplayEnd::Done, ReplayEnd::Again { attempts: 9 }, ReplayEnd::Dead(fields("x"))] {
            assert!(!case.broker.end_replay(&risk(), &old, letter.id, &end).await.unwrap());
        }
        assert_eq!(case.take(&new).await.attempts, 0);
        assert!(case.dead().await.is_empty());
        let end = ReplayEnd::Dead(vec![(b"f".to_vec(), Vec::new()); 4_000]);
        let error = case.broker.end_replay(&risk(), &new, letter.id, &end).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused);
    }
}
