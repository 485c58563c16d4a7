//! A backlog on a server that is far: each read brings more, so that few of them fetch all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streams_runtime::{State, consumer, consumers, stream_event};
use streams_tests::{Fault, Op, World};

const EVENTS: u64 = 60_000;

#[stream_event(stream = "small", max_payload = "4KiB")]
struct Small {
    n: u64,
}

#[stream_event(stream = "any-size")]
struct AnySize {
    n: u64,
}

#[consumer(group = "sums")]
async fn sum(small: Small, sum: State<Arc<AtomicU64>>) {
    sum.fetch_add(small.n, Ordering::Relaxed);
}

#[consumer(group = "sums")]
async fn sum_any(event: AnySize, sum: State<Arc<AtomicU64>>) {
    sum.fetch_add(event.n, Ordering::Relaxed);
}

/// How many reads fetch all events, of which each takes so long.
async fn reads(world: &World, consumers: [streams_runtime::Registration; 1], way: Duration) -> usize {
    let sum = Arc::new(AtomicU64::new(0));
    world.wire.always(Op::Read, Fault::Delay(way));
    let before = world.wire.calls(Op::Read);
    let app = world.process(consumers).state(Arc::clone(&sum)).start().await;
    while sum.load(Ordering::Relaxed) < EVENTS * (EVENTS - 1) / 2 {
        app.advance(Duration::from_millis(10)).await;
    }
    app.kill().await;
    world.wire.calls(Op::Read) - before
}

#[tokio::test]
async fn a_server_that_is_far_is_asked_for_more_at_once() {
    let world = World::new("small");
    world.publish((0..EVENTS).map(|n| Small { n })).await;
    let far = reads(&world, consumers![sum], Duration::from_millis(100)).await;
    assert!(far <= 25, "{far}");
}

#[tokio::test]
async fn events_of_any_size_come_from_a_far_server_by_pages() {
    let world = World::new("any-size");
    world.publish((0..EVENTS).map(|n| AnySize { n })).await;
    let far = reads(&world, consumers![sum_any], Duration::from_millis(100)).await;
    assert!((EVENTS as usize / 1_024..80).contains(&far), "{far}");
}
