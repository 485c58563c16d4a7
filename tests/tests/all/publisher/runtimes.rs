//! Promises of a publisher that several executors share, as one in a static is: who writes, and until when.

use std::time::Duration;

use streams_core::broker::Log;
use streams_core::keys::StreamKey;
use streams_runtime::broker::Redis;
use streams_runtime::{EntryId, Publisher, stream_event};
use streams_tests::RedisServer;
use tokio::runtime::{Builder, Runtime};

use super::publishing::{wait_for, within_a_minute};

#[stream_event(stream = "shared-quotes")]
#[derive(Debug, Clone, PartialEq)]
struct Shared {
    n: u64,
}

/// As `#[tokio::test]` makes it.
fn executor() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// How many executors of several threads publish through this, each with some events, and end.
fn from_executors_that_end(publisher: &Publisher) -> u64 {
    const THREADS: u64 = 4;
    const EXECUTORS: u64 = 10;
    const EVENTS: u64 = 20;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..EXECUTORS {
                    let first = (thread * EXECUTORS + round) * EVENTS;
                    executor().block_on(async {
                        for n in first..first + EVENTS {
                            publisher.publish(&Shared { n }).await.unwrap();
                        }
                    });
                }
            });
        }
    });
    THREADS * EXECUTORS * EVENTS
}

/// Every number in the stream, sorted.
async fn numbers(store: &dyn Log) -> Vec<u64> {
    let partition = StreamKey::new(None, "shared-quotes", 1).partition(0);
    let entries = store.read(&partition, EntryId::ZERO, 10_000).await.unwrap();
    let mut numbers: Vec<_> =
        entries.iter().map(|entry| streams_runtime::codec::decode::<Shared>(entry).unwrap().n).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn executors_that_end_while_others_publish_take_no_event_with_them_and_double_none() {
    within_a_minute(|| {
        let url = RedisServer::shared().database();
        let publisher = executor().block_on(Publisher::connect(&url)).unwrap();
        let events = from_executors_that_end(&publisher);
        let store = Redis::open(&url).unwrap();
        assert_eq!(executor().block_on(numbers(&store)), (0..events).collect::<Vec<_>>());
    });
}

#[test]
fn an_executor_that_stands_still_holds_up_nobody_else() {
    within_a_minute(|| {
        let url = RedisServer::shared().database();
        let standing = executor();
        let publisher = standing.block_on(Publisher::connect(&url)).unwrap();
        standing.block_on(async { publisher.publish(&Shared { n: 1 }).await }).unwrap();
        let (other, began) = (executor(), std::time::Instant::now());
        other.block_on(async { publisher.publish(&Shared { n: 2 }).await }).unwrap();
        assert_eq!(other.block_on(publisher.last::<Shared>()).unwrap().unwrap().event.n, 2);
        assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
        drop(standing);
    });
}

#[test]
fn a_publisher_of_a_server_needs_no_executor_of_its_caller() {
    within_a_minute(|| {
        let url = RedisServer::shared().database();
        let publisher = wait_for(Publisher::connect(&url)).unwrap();
        wait_for(async { publisher.publish(&Shared { n: 1 }).await }).unwrap();
        assert_eq!(wait_for(publisher.last::<Shared>()).unwrap().unwrap().event.n, 1);
    });
}
