//! The looks of an observer, sentence by sentence.

use std::time::Duration;

use streams_core::broker::{
    Acked, Acquired, AttemptError, Commit, Committed, Fetch, Fetched, Holder, Joined, LeaseView, New,
};
use streams_core::keys::{PartitionKey, StreamKey};
use streams_core::{EntryId, Start};

use super::queue::{again, crew};
use super::{Case, LEASE, attendance, claim, fields, partition, risk, step};

contract! {
    async fn declared_streams_are_found_with_their_partitions_and_no_others(case) {
        assert!(case.observer.streams(None).await.unwrap().is_empty());
        let (one, many) = (StreamKey::new(None, "trades", 1), StreamKey::new(None, "orders", 4));
        let apart = StreamKey::new(Some("eu"), "trades", 4);
        for stream in [&one, &many, &apart] {
            case.broker.declare(stream).await.unwrap();
        }
        let found = case.observer.streams(None).await.unwrap();
        assert_eq!(found, [apart.clone(), many, one]);
        assert_eq!(case.observer.streams(Some("eu")).await.unwrap(), [apart]);
        assert!(case.observer.streams(Some("e")).await.unwrap().is_empty());
    }

    async fn a_partition_shows_where_it_begins_and_ends_and_its_groups(case) {
        let keys: Vec<PartitionKey> = vec![partition(), StreamKey::new(None, "none", 1).partition(0)];
        let mut looks = case.observer.look_at_partitions(&keys).await.unwrap();
        assert!(looks.remove(0).unwrap().is_none() && looks.remove(0).unwrap().is_none());

        let ids = case.broker.append(&partition(), vec![fields("a"), fields("b"), fields("c")], None).await.unwrap();
        case.broker.create(&risk(), Start::Earliest).await.unwrap();
        case.mark_as(&partition().group("other"));
        case.remove(&ids[..1]);
        let mut looks = case.observer.look_at_partitions(&keys).await.unwrap();
        let look = looks.remove(0).unwrap().unwrap();
        assert_eq!((look.extent.first, look.extent.last), (Some(ids[1]), ids[2]));
        assert_eq!((look.extent.length, look.extent.added), (2, 3));
        assert!(look.bytes.is_some_and(|bytes| bytes > 0), "{look:?}");
        let names: Vec<_> = look.markers.iter().map(|marker| marker.group.as_str()).collect();
        assert_eq!(names, ["other", "risk"]);
        assert!(looks.remove(0).unwrap().is_none());
    }

    async fn a_group_shows_its_lease_its_checkpoint_and_its_failed_attempts(case) {
        let groups = [risk(), partition().group("none")];
        assert!(case.observer.look_at_groups(&groups).await.unwrap().iter().all(|look| matches!(look, Ok(None))));
        let ids = case.broker.append(&partition(), vec![fields("a"), fields("b")], None).await.unwrap();
        case.broker.create(&risk(), Start::Earliest).await.unwrap();
        let (holder, _) = case.hold("a/1").await;
        let attempts = vec![(ids[1], 3)];
        assert_eq!(case.commit(&Commit { attempts, ..step(&holder, EntryId::ZERO, EntryId::ZERO) }).await, Committed::Done);
        let mut looks = case.observer.look_at_groups(&groups).await.unwrap();
        let look = looks.remove(0).unwrap().unwrap();
        assert_eq!(look.error, None);
        assert_eq!((look.lease.owner.as_str(), look.lease.epoch, look.lease_for), ("a/1", holder.epoch, LEASE));
        assert_eq!((look.at, look.seen, look.dead, look.replays), (EntryId::ZERO, Some(0), 0, 0));
        assert_eq!((look.attempts, look.queue, look.needs), (vec![(ids[1], 3)], None, None));
        assert!(looks.remove(0).unwrap().is_none());
    }

    async fn the_latest_error_is_shown_with_its_event_until_another_one_replaces_it(case) {
        let ids = case.append(3).await;
        case.create(Start::Earliest).await;
        let (holder, _) = case.hold("a").await;
        let look = async || {
            let look = case.observer.look_at_groups(&[risk()]).await.unwrap().remove(0).unwrap().unwrap();
            let now = case.broker.now().await.unwrap();
            look.error.map(|(error, at)| (error, at <= now && now - at < 60_000))
        };
        let fails = |call, error: &AttemptError| {
            let attempts = vec![(error.entry, error.attempts)];
            Commit { call, attempts, error: Some(error.clone()), ..step(&holder, EntryId::ZERO, EntryId::ZERO) }
        };
        let down = AttemptError::new(ids[0], 1, "down: 503  \n so it is");
        assert_eq!(case.commit(&fails(1, &down)).await, Committed::Done);
        assert_eq!(look().await, Some((down.clone(), true)));
        // A commit without an error takes none away, and one that is refused or comes again adds none.
        assert_eq!(case.commit(&Commit { call: 2, seen: Some(0), ..step(&holder, EntryId::ZERO, EntryId::ZERO) }).await, Committed::Done);
        let late = AttemptError::new(ids[1], 9, "late");
        assert_eq!(case.commit(&Commit { holder: Holder { owner: "b".to_owned(), epoch: 1 }, ..fails(3, &late) }).await, Committed::Fenced);
        assert_eq!(case.commit(&fails(2, &late)).await, Committed::Done);
        assert_eq!(look().await, Some((down, true)));
        let next = AttemptError { text: String::new(), ..AttemptError::new(ids[1], 2, "") };
        let dead = vec![fields("x")];
        let commit = Commit { dead, error: Some(next.clone()), attempts: vec![(ids[1], 2)], ..step(&holder, EntryId::ZERO, ids[0]) };
        assert_eq!(case.commit(&commit).await, Committed::Done);
        assert_eq!(look().await, Some((next, true)));
    }

    async fn the_latest_error_of_a_work_queue_is_shown_with_its_event(case) {
        let queue = case.queue(2).await;
        let worker = queue.worker("a").await;
        let ids = worker.takes(2).await;
        let error = AttemptError::new(ids[0], 1, "down");
        let mut acks = worker.tells([(ids[0], again(1, Duration::from_secs(60)))]);
        acks.error = Some(error.clone());
        assert_eq!(worker.acked(&acks).await, Acked::Done);
        // The same acks sent twice.
        acks.error = Some(AttemptError::new(ids[1], 7, "late"));
        assert_eq!(worker.acked(&acks).await, Acked::Done);
        let look = queue.case.observer.look_at_groups(&[crew()]).await.unwrap().remove(0).unwrap().unwrap();
        assert_eq!(look.error.map(|(error, _)| error), Some(error));
        assert_eq!(look.queue.unwrap().waiting, 1);
    }

    async fn a_work_queue_shows_what_is_in_flight_and_what_waits(case) {
        let crew = partition().group("crew").queue();
        case.broker.append(&partition(), vec![fields("a"), fields("b"), fields("c")], None).await.unwrap();
        case.broker.create(&crew, Start::Earliest).await.unwrap();
        let joined = case.broker.join(&crew, "a/1", LEASE).await.unwrap();
        let Joined::Member { epoch } = joined else { panic!("{joined:?}") };
        let fetch = Fetch {
            holder: Holder { owner: "a/1".to_owned(), epoch },
            call: 1,
            count: 2,
            bytes: 1 << 20,
            new: New::Read { judged: None },
            takes: [].into(),
            most_waiting: 100,
            longest_wait: Duration::from_secs(60),
            mirror: false,
            go_on: false,
        };
        let fetched = case.broker.fetch(&crew, &fetch).await.unwrap();
        assert!(matches!(fetched, Fetched::Chunk(_)), "{fetched:?}");
        let look = case.observer.look_at_groups(std::slice::from_ref(&crew)).await.unwrap().remove(0).unwrap().unwrap();
        let queue = look.queue.unwrap();
        assert_eq!((queue.waiting, queue.consumers), (0, vec![("a/1".to_owned(), 2)]));
        assert!(look.at > EntryId::ZERO && look.lease.owner.is_empty());
        // Entries that a consumer releases wait.
        case.broker.release(&crew, &fetch.holder, None).await.unwrap();
        let look = case.observer.look_at_groups(std::slice::from_ref(&crew)).await.unwrap().remove(0).unwrap().unwrap();
        let queue = look.queue.unwrap();
        assert_eq!((queue.waiting, queue.consumers), (2, vec![]));
    }

    async fn members_are_looked_at_without_a_beat(case) {
        let set = attendance("risk", Some("a lease=1"), &[]).members;
        assert!(case.observer.look_at_members(std::slice::from_ref(&set)).await.unwrap().remove(0).unwrap().is_empty());
        let there = case.attend(Some("a lease=1"), &[]).await;
        for _ in 0..2 {
            let looked = case.observer.look_at_members(std::slice::from_ref(&set)).await.unwrap().remove(0).unwrap();
            let looked: Vec<_> = looked.into_iter().map(|member| (member.says, member.beat)).collect();
            assert_eq!(looked, there);
        }
    }

    async fn a_group_is_removed_with_all_that_it_has_unless_its_lease_moves(case) {
        let (other, ids) = (partition().group("other"), [fields("a"), fields("b")]);
        case.broker.append(&partition(), ids.to_vec(), None).await.unwrap();
        for group in [&risk(), &other] {
            case.broker.create(group, Start::Earliest).await.unwrap();
        }
        let epoch = case.hold("a/1").await.0.epoch;
        assert!(!case.broker.remove(&risk(), Some(epoch + 1)).await.unwrap());
        assert!(!case.broker.remove(&risk(), None).await.unwrap());
        assert!(case.broker.state(&risk()).await.unwrap().is_some());
        assert!(case.broker.remove(&risk(), Some(epoch)).await.unwrap());
        assert_eq!(case.broker.state(&risk()).await.unwrap(), None);
        assert_eq!(case.broker.groups(&partition()).await.unwrap(), Some(vec!["other".to_owned()]));
        assert!(case.broker.dead_letters(&risk(), EntryId::ZERO, 1).await.unwrap().is_empty());
        assert!(case.broker.remove(&risk(), None).await.unwrap(), "it is removed already");
        assert!(case.broker.state(&other).await.unwrap().is_some());
        assert_eq!(case.broker.extent(&partition()).await.unwrap().unwrap().length, 2);
        // A claim of the old owner finds nothing.
        let seen = LeaseView { owner: "a/1".to_owned(), epoch, beat: 0 };
        assert_eq!(case.broker.acquire(&risk(), &claim("a/2", seen)).await.unwrap(), Acquired::Missing);
    }

    async fn a_pause_is_kept_by_stream_and_group_until_it_is_taken_back(case) {
        let stream = StreamKey::new(None, "trades", 1);
        let groups = ["risk", "audit"].map(|group| (stream.clone(), group.to_owned()));
        let pauses = async || -> Vec<_> {
            case.broker.pauses(&groups).await.unwrap().into_iter().map(|pause| pause.unwrap()).collect()
        };
        assert_eq!(pauses().await, [None, None]);
        assert!(!case.broker.pause(&stream, "risk", Some("1 a why")).await.unwrap());
        assert_eq!(pauses().await, [Some("1 a why".to_owned()), None]);
        assert!(case.broker.pause(&stream, "risk", Some("2 b ü")).await.unwrap());
        assert_eq!(pauses().await, [Some("2 b ü".to_owned()), None]);
        case.broker.declare(&stream).await.unwrap();
        assert_eq!(case.broker.partitions(&stream).await.unwrap(), Some(1));
        assert!(case.broker.pause(&stream, "risk", None).await.unwrap());
        assert!(!case.broker.pause(&stream, "risk", None).await.unwrap());
        assert_eq!(pauses().await, [None, None]);
        assert!(case.broker.pauses(&[]).await.unwrap().is_empty());
    }
}
