//! Streams, sentence by sentence: entries, tails and history.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{BrokerErrorKind, Extent, Fields, Page, SNAPSHOT_BYTES, Snapshot, in_short};
use streams_core::keys::StreamKey;
use streams_core::{Entry, EntryId, Start};
use tokio::time::{Instant, sleep, timeout};

use super::{Case, LONG, fields, ids, keys, partition, payloads, risk, until_found};

contract! {
    // Streams.

    async fn ids_rise_over_appends_and_within_one(case) {
        let mut all = case.append(3).await;
        all.extend(case.append(1).await);
        all.extend(case.append(2).await);
        assert_eq!(all.len(), 6);
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        let entries = case.broker.read(&partition(), EntryId::ZERO, 10).await.unwrap();
        assert_eq!(ids(&entries), all);
        assert_eq!(payloads(&entries), ["0", "1", "2", "0", "0", "1"]);
    }

    async fn appends_at_the_same_time_get_ids_of_their_own(case) {
        let appends: Vec<_> = (0..20)
            .map(|_| {
                let broker = Arc::clone(&case.broker);
                tokio::spawn(async move { broker.append(&partition(), vec![fields("a"), fields("b")], None).await })
            })
            .collect();
        let mut all = BTreeSet::new();
        for append in appends {
            all.extend(append.await.unwrap().unwrap());
        }
        assert_eq!(all.len(), 40);
        let entries = case.broker.read(&partition(), EntryId::ZERO, 100).await.unwrap();
        // Nothing comes between the entries of one append.
        assert_eq!(payloads(&entries), ["a", "b"].repeat(20));
    }

    async fn an_entry_reads_back_as_written(case) {
        let written: Fields = [(&b"b"[..], &b"1"[..]), (b"a", b"\x00\xff\r\n"), (b"b", b"2"), (b"\xff", b"")]
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .into();
        case.broker.append(&partition(), vec![written.clone()], None).await.unwrap();
        let read = case.broker.read(&partition(), EntryId::ZERO, 1).await.unwrap();
        assert_eq!(*read[0], Entry::new(read[0].id, &written));
    }

    async fn an_append_that_is_refused_adds_nothing(case) {
        let error = case.broker.append(&partition(), vec![fields("a"), Vec::new()], None).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Refused);
        assert!(!error.is_indefinite());
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
    }

    async fn an_append_of_nothing_makes_no_stream(case) {
        assert_eq!(case.append(0).await, []);
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
    }

    async fn nothing_at_or_above_the_floor_is_removed(case) {
        let mut all = case.append(300).await;
        let floor = all[250];
        let entries = vec![fields("x"), fields("y")];
        all.extend(case.broker.append(&partition(), entries, Some(floor)).await.unwrap());
        let left = ids(&case.broker.read(&partition(), EntryId::ZERO, 1000).await.unwrap());
        assert!(left.len() < all.len(), "nothing was removed");
        assert!(left.ends_with(&all[250..]), "{left:?}");
        assert!(all.ends_with(&left));
    }

    async fn a_trim_removes_what_is_below_the_floor_and_nothing_else(case) {
        assert_eq!(case.broker.trim_below(&partition(), EntryId::MAX).await.unwrap(), 0);
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None, "it makes no stream");
        let all = case.append(1_050).await;
        let (floor, mut trimmed) = (all[1_037], 0);
        while let more @ 1.. = case.broker.trim_below(&partition(), floor).await.unwrap() {
            trimmed += more;
        }
        assert_eq!(trimmed, 1_037);
        assert_eq!(ids(&case.broker.read(&partition(), EntryId::ZERO, 100).await.unwrap()), all[1_037..]);
        assert_eq!(case.extent().await, Extent { first: Some(floor), last: all[1_049], length: 13, added: 1_050 });
    }

    async fn a_stream_that_is_not_there_is_empty(case) {
        assert_eq!(case.broker.extent(&partition()).await.unwrap(), None);
        assert_eq!(case.broker.read(&partition(), EntryId::ZERO, 10).await.unwrap(), []);
        assert_eq!(case.broker.read_back(&partition(), EntryId::MAX, 10).await.unwrap(), []);
    }

    async fn the_extent_counts_what_there_is_and_what_there_was(case) {
        let all = case.append(300).await;
        let extent = Extent { first: Some(all[0]), last: all[299], length: 300, added: 300 };
        assert_eq!(case.extent().await, extent);
        case.trim().await;
        let (trimmed, left) = (case.extent().await, case.broker.read(&partition(), EntryId::ZERO, 1000).await.unwrap());
        assert!(trimmed.length < 300);
        let expected = Extent { first: Some(left[0].id), last: left[left.len() - 1].id, length: left.len() as u64, added: 301 };
        assert_eq!(trimmed, expected);
    }

    async fn the_extent_of_a_stream_without_entries_has_no_first(case) {
        case.create(Start::Earliest).await;
        let expected = Extent { first: None, last: EntryId::ZERO, length: 0, added: 0 };
        assert_eq!(case.extent().await, expected);
    }

    async fn a_read_takes_what_is_above_a_position_oldest_first(case) {
        let all = case.append(5).await;
        let read = async |after, count| ids(&case.broker.read(&partition(), after, count).await.unwrap());
        assert_eq!(read(EntryId::ZERO, 2).await, all[..2]);
        assert_eq!(read(all[1], 2).await, all[2..4]);
        assert_eq!(read(all[3], usize::MAX).await, all[4..]);
        assert_eq!(read(EntryId::new(all[0].ms - 1, u64::MAX), 1).await, all[..1]);
        assert_eq!(read(all[4], 2).await, []);
        assert_eq!(read(EntryId::MAX, 2).await, []);
        assert_eq!(read(EntryId::ZERO, 0).await, []);
    }

    async fn a_read_back_takes_the_newest_first_and_goes_on_below(case) {
        let mut all = case.append(5).await;
        all.reverse();
        let read =
            async |before, count| ids(&case.broker.read_back(&partition(), before, count).await.unwrap());
        assert_eq!(read(EntryId::MAX, 2).await, all[..2]);
        assert_eq!(read(EntryId::MAX, usize::MAX).await, all);
        assert_eq!(read(all[1], 2).await, all[2..4]);
        assert_eq!(read(all[4], 2).await, []);
        assert_eq!(read(EntryId::ZERO, 2).await, []);
        assert_eq!(read(EntryId::MAX, 0).await, []);
    }

    async fn the_number_of_partitions_is_recorded_once(case) {
        let four = StreamKey::new(Some("eu"), "trades", 4);
        assert_eq!(case.broker.partitions(&four).await.unwrap(), None);
        case.broker.declare(&four).await.unwrap();
        case.broker.declare(&four).await.unwrap();
        assert_eq!(case.broker.partitions(&StreamKey::new(Some("eu"), "trades", 1)).await.unwrap(), Some(4));
        let error = case.broker.declare(&StreamKey::new(Some("eu"), "trades", 8)).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Mismatch);
        let message = error.to_string();
        assert!(["`eu:trades`", "partitions = 8", "with 4", "declare 4"].iter().all(|part| message.contains(part)), "{message}");
        case.broker.declare(&four).await.unwrap();
        case.broker.declare(&StreamKey::new(None, "trades", 8)).await.unwrap();
    }

    async fn a_number_of_partitions_is_not_recorded_where_somebody_has_published_by_another(case) {
        let (one, four) = (StreamKey::new(Some("eu"), "trades", 1), StreamKey::new(Some("eu"), "trades", 4));
        let (bare, above) = (one.partition(0), StreamKey::new(Some("eu"), "trades", 1024).partition(999));
        case.add_to(&bare).await;
        case.add_to(&bare).await;
        assert_eq!(case.broker.strays(&four).await.unwrap(), [(bare.clone(), 2)]);
        let error = case.broker.declare(&four).await.unwrap_err();
        assert_eq!(error.kind(), BrokerErrorKind::Mismatch);
        let message = error.to_string();
        for part in ["partitions = 4 for the first time", "`eu:trades` holds 2 entries", "declare partitions = 1", "`streams:{eu:trades}:_stream`"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(case.broker.partitions(&four).await.unwrap(), None);
        case.add_to(&above).await;
        let message = case.broker.declare(&one).await.unwrap_err().to_string();
        assert!(message.contains("`eu:trades.999` holds 1 entries") && !message.contains("declare partitions"), "{message}");
        assert_eq!(case.broker.strays(&one).await.unwrap(), [(above.clone(), 1)]);
        assert_eq!(case.broker.strays(&four).await.unwrap(), [(bare, 2), (above, 1)]);
    }

    async fn what_strays_after_the_number_is_recorded_stops_nobody(case) {
        let (one, four) = (StreamKey::new(Some("eu"), "trades", 1), StreamKey::new(Some("eu"), "trades", 4));
        case.broker.declare(&four).await.unwrap();
        assert_eq!(case.broker.strays(&four).await.unwrap(), []);
        case.add_to(&one.partition(0)).await;
        case.add_to(&four.partition(3)).await;
        case.broker.declare(&four).await.unwrap();
        assert_eq!(case.broker.strays(&four).await.unwrap(), [(one.partition(0), 1)]);
    }

    // Tails.

    async fn a_tail_answers_at_once_with_what_is_there(case) {
        let all = case.append(3).await;
        let mut tail = case.broker.tail().await.unwrap();
        let found = tail.next(&keys(&[("trades", all[0])]), 10, LONG).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].key, ids(&found[0].entries)), (0, all[1..].to_vec()));
        let found = tail.next(&keys(&[("trades", EntryId::ZERO)]), 10, Duration::MAX).await.unwrap();
        assert_eq!(ids(&found[0].entries), all);
        // No wait at all is a look.
        let found = tail.next(&keys(&[("trades", EntryId::ZERO)]), 10, Duration::ZERO).await.unwrap();
        assert_eq!(ids(&found[0].entries), all);
    }

    async fn a_tail_waits_for_entries_also_of_a_stream_that_is_not_there(case) {
        let mut tail = case.broker.tail().await.unwrap();
        let mut after = EntryId::ZERO;
        for _ in 0..3 {
            let keys = keys(&[("trades", after)]);
            let (found, added) = tokio::join!(tail.next(&keys, 10, LONG), case.append(1));
            assert_eq!(ids(&found.unwrap()[0].entries), added);
            after = added[0];
        }
    }

    async fn a_tail_ends_empty_when_the_wait_is_over(case) {
        let last = case.append(1).await[0];
        let mut tail = case.broker.tail().await.unwrap();
        let (started, wait) = (Instant::now(), Duration::from_millis(60));
        assert_eq!(tail.next(&keys(&[("trades", last), ("none", EntryId::ZERO)]), 10, wait).await.unwrap(), []);
        assert!(started.elapsed() >= wait - Duration::from_millis(5), "{:?}", started.elapsed());
    }

    async fn a_tail_names_the_keys_that_have_entries_by_index(case) {
        let stream = StreamKey::new(None, "orders", 4);
        let added = async |index| case.broker.append(&stream.partition(index), vec![fields("x"); 2], None).await.unwrap();
        let (one, three) = (added(1).await, added(3).await);
        let mut tail = case.broker.tail().await.unwrap();
        let keys = keys(&[("orders.0", EntryId::ZERO), ("orders.1", one[0]), ("orders.2", EntryId::ZERO), ("orders.3", EntryId::ZERO)]);
        let found = tail.next(&keys, 10, LONG).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|found| (found.key, ids(&found.entries))).collect();
        assert_eq!(found, [(1, one[1..].to_vec()), (3, three)]);
    }

    async fn a_tail_tells_whether_the_entry_at_its_position_is_still_there(case) {
        // In one write up to eight keys, in two beyond.
        for number in [1, 3, 12] {
            let stream = StreamKey::new(None, &format!("orders{number}"), number);
            let (one, other) = (stream.partition(0), stream.partition(number / 2));
            let mut tail = case.broker.tail().await.unwrap();
            let mut positions = Vec::new();
            for index in 0..number {
                let added = case.broker.append(&stream.partition(index), vec![fields("old")], None).await.unwrap();
                positions.push((stream.partition(index).as_str().to_owned(), added[0]));
            }
            if number > 1 {
                case.broker.append(&one, vec![fields("new")], None).await.unwrap();
            }
            case.broker.append(&other, vec![fields("new")], None).await.unwrap();
            // Nothing stands at the position of the other.
            positions[number as usize / 2].1.ms -= 1;
            let found = tail.next(&positions, 10, LONG).await.unwrap();
            if number > 1 {
                assert_eq!(payloads(&[found[0].position.clone().unwrap()]), ["old"]);
            }
            let other = found.last().unwrap();
            assert_eq!((other.key, &other.position, other.entries.len()), (number as usize / 2, &None, 2));
        }
    }

    async fn a_tail_takes_at_most_so_many_entries_of_a_key(case) {
        let all = case.append(5).await;
        case.broker.append(&partition().group("x").partition().clone(), Vec::new(), None).await.unwrap();
        let mut tail = case.broker.tail().await.unwrap();
        let found = tail.next(&keys(&[("trades", EntryId::ZERO)]), 2, LONG).await.unwrap();
        assert_eq!(ids(&found[0].entries), all[..2]);
    }

    async fn a_tail_ends_early_when_it_is_interrupted(case) {
        for keys in [keys(&[("trades", EntryId::ZERO)]), Vec::new()] {
            let mut tail = case.broker.tail().await.unwrap();
            let interrupt = tail.interrupt();
            let mut next = std::pin::pin!(tail.next(&keys, 10, LONG));
            let started = Instant::now();
            // An interruption may come before the wait begins, so it is repeated.
            let found = loop {
                tokio::select! {
                    found = &mut next => break found,
                    () = sleep(Duration::from_millis(5)) => interrupt.interrupt().await.unwrap(),
                }
            };
            assert_eq!(found.unwrap(), []);
            assert!(started.elapsed() < LONG / 2);
        }
    }

    async fn an_interrupted_tail_goes_on(case) {
        let mut tail = case.broker.tail().await.unwrap();
        tail.interrupt().interrupt().await.unwrap();
        let keys = keys(&[("trades", EntryId::ZERO)]);
        let (found, added) = tokio::join!(until_found(tail.as_mut(), &keys), case.append(1));
        assert_eq!(ids(&found), added);
    }

    async fn a_tail_whose_wait_was_dropped_goes_on(case) {
        let mut tail = case.broker.tail().await.unwrap();
        // On a key to which nothing comes, so that nothing but the drop ends the wait.
        let nothing = keys(&[("none", EntryId::ZERO)]);
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(20), tail.next(&nothing, 10, LONG)).await.is_err());
        }
        let added = case.append(2).await;
        let started = Instant::now();
        assert_eq!(ids(&until_found(tail.as_mut(), &keys(&[("trades", EntryId::ZERO)])).await), added);
        assert_eq!(ids(&until_found(tail.as_mut(), &keys(&[("trades", added[0])])).await), added[1..]);
        assert!(started.elapsed() < LONG / 2);
    }

    // History.

    async fn a_snapshot_tells_extent_marker_and_entries_from_a_position_on(case) {
        let nothing = Snapshot { extent: None, marker: false, deleted: None, entries: Vec::new(), complete: true };
        assert_eq!(case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap(), nothing);
        let all = case.append(5).await;
        assert!(!case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap().marker);
        case.create(Start::Earliest).await;
        assert!(!case.broker.snapshot(&partition().group("other"), EntryId::ZERO, 9).await.unwrap().marker);
        assert_eq!(case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap().deleted, Some(EntryId::ZERO));
        case.remove(&[all[0], all[2]]);
        for (from, count, expected) in [
            (EntryId::ZERO, 2, vec![all[1], all[3]]),
            (all[1], 9, vec![all[1], all[3], all[4]]),
            (all[2], 9, vec![all[3], all[4]]),
            (all[4].next(), 9, Vec::new()),
        ] {
            let snapshot = case.broker.snapshot(&risk(), from, count).await.unwrap();
            assert_eq!((ids(&snapshot.entries), snapshot.marker), (expected, true), "from {from}");
            assert_eq!((snapshot.extent, snapshot.deleted), (Some(case.extent().await), Some(all[2])));
        }
        assert_eq!(case.extent().await, Extent { first: Some(all[1]), last: all[4], length: 3, added: 5 });
        case.remove(&all);
        let empty = Extent { first: None, last: all[4], length: 0, added: 5 };
        let snapshot = case.broker.snapshot(&risk(), EntryId::ZERO, 9).await.unwrap();
        assert_eq!(snapshot, Snapshot { extent: Some(empty), marker: true, deleted: Some(all[4]), entries: Vec::new(), complete: true });
        let ends = case.broker.snapshot(&risk(), EntryId::MAX, 0).await.unwrap();
        assert_eq!((ends.extent, ends.entries), (Some(empty), Vec::new()));
    }

    async fn a_page_holds_so_many_bytes_above_its_position_or_one_entry(case) {
        const SIZE: usize = 10_000;
        let nothing = Page { entries: Vec::new(), complete: true };
        assert_eq!(case.broker.page(&partition(), EntryId::ZERO, 9, SIZE).await.unwrap(), nothing);
        let large = |n: usize| vec![(b"id".to_vec(), format!("e{n}").into_bytes()), (b"payload".to_vec(), vec![7; SIZE])];
        let all = case.broker.append(&partition(), (0..40).map(large).collect(), None).await.unwrap();
        for (from, count, bytes, expected, complete) in [
            (EntryId::ZERO, 9, 0, &all[..1], false),
            (EntryId::ZERO, 9, 4 * SIZE, &all[..3], false),
            (all[3], 9, 4 * SIZE, &all[3..7], false),
            (all[3], 2, 4 * SIZE, &all[3..5], false),
            (all[3], 1, 4 * SIZE, &all[3..4], false),
            (all[3], 99, 99 * SIZE, &all[3..], true),
            (all[37], 99, 0, &all[37..39], false),
            (all[38], 99, 0, &all[38..], true),
            (all[39], 99, 0, &all[39..], true),
            (EntryId::MAX, 99, 0, &[], true),
        ] {
            let page = case.broker.page(&partition(), from, count, bytes).await.unwrap();
            assert_eq!(&*ids(&page.entries), expected, "from {from}, {count}, {bytes}");
            // Only one that has nothing above its position has to know that.
            let nothing_above = page.entries.iter().all(|entry| entry.id == from);
            assert!(page.complete == complete || (complete && !nothing_above), "from {from}, {count}, {bytes}");
            for entry in page.entries {
                assert_eq!(entry.field("payload").is_some(), entry.id != from, "at the position it is in short");
            }
        }
        let snapshot = case.broker.snapshot(&risk(), EntryId::ZERO, 99).await.unwrap();
        assert_eq!((snapshot.entries.len(), snapshot.complete), (SNAPSHOT_BYTES / SIZE, false));
    }

    async fn an_entry_is_told_in_short_as_the_contract_says(case) {
        let field = |name: &[u8], size: usize| (name.to_vec(), vec![b'x'; size]);
        let many = |size| (0..40_u8).map(|n| field(&[b'h', n], size)).collect::<Vec<_>>();
        let shapes = [
            vec![field(b"event", 9), field(b"id", 3), field(b"payload", 3_000)],
            vec![field(b"event", 9), field(b"id", 0), field(b"payload", 3_000)],
            vec![field(b"event", 9), field(b"id", 129), field(b"id", 3)],
            vec![field(b"payload", 160), field(&[b'n'; 161], 161)],
            vec![(b"id".to_vec(), vec![0xff; 128]), field(b"payload", 9)],
            many(1_000),
            [many(10), vec![field(b"id", 128)]].concat(),
        ];
        for fields in shapes {
            let id = case.broker.append(&partition(), vec![fields.clone()], None).await.unwrap()[0];
            let whole = Entry::new(id, &fields);
            // The entry before it may be there, too.
            let above = case.broker.page(&partition(), id.previous(), 2, 0).await.unwrap().entries.pop().unwrap();
            let read = case.broker.read(&partition(), id.previous(), 1).await.unwrap();
            assert!(*above == whole && *read[0] == whole, "{:?}", above.fields().next());
            let at = case.broker.page(&partition(), id, 1, 0).await.unwrap().entries;
            assert!(*at[0] == in_short(&whole), "{:?}", at[0].fields().next());
        }
    }
}
