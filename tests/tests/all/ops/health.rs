//! Health goes by progress: all that keeps events from being handled or published is reported, however well other calls go.

use std::time::Duration;

use streams_core::broker::BrokerErrorKind;
use streams_runtime::{
    BoxError, Context, GroupStatus, Outcome, Phase, Registration, State, consumer, consumers, stream_event,
};
use streams_tests::{Act, Fault, Gate, Lab, Log, Op, Process, World, logged_from, secs};

#[stream_event(stream = "pulses", key = n)]
#[derive(Debug, Clone, PartialEq)]
struct Pulse {
    n: u64,
}

#[consumer(group = "ward", checkpoint = 1)]
async fn ward(pulse: Pulse, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, pulse.n).await
}

#[consumer(group = "lanes", checkpoint = 1, concurrency = 4)]
async fn lanes(pulse: Pulse, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, pulse.n).await
}

#[consumer(group = "queue", delivery = "queue", concurrency = 4)]
async fn queue(pulse: Pulse, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, pulse.n).await
}

const BEGINS: &str = "the server cannot be used";
const ENDS: &str = "the server can be used again";
/// When trouble is reported at the latest: the look of an owner every 10 s, and a lease or a silence of 15 s.
const BOUND: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(100);

/// A process that has handled one event.
struct Ward {
    world: World,
    app: Process,
    log: Log,
}

impl Ward {
    async fn start(consumers: impl IntoIterator<Item = Registration>) -> Self {
        let log = logged_from(tracing::Level::INFO);
        let world = World::new("pulses");
        let app = world.process(consumers).start().await;
        let ward = Self { world, app, log };
        ward.publish(1).await;
        ward.app.settled().await;
        ward.app.advance(secs(1)).await;
        ward
    }

    async fn publish(&self, n: u64) {
        self.app.publish(&Pulse { n }).await.unwrap();
    }

    fn group(&self) -> GroupStatus {
        self.app.running().status().groups.remove(0)
    }

    /// Whether anything says that all is well.
    fn looks_well(&self) -> bool {
        let ready = self.app.running().monitor().health().ready;
        ready || self.app.running().status().trouble.is_none() || matches!(self.group().phase, Phase::Owning { .. })
    }

    /// Trouble is reported within the bound, and for as long as it lasts, without a moment that looks well.
    async fn is_told(&self, what: &str) {
        self.app.advance(BOUND).await;
        for step in 0..1_200 {
            assert!(
                !self.looks_well(),
                "{what}: {step} steps later {:?}\n{}",
                self.app.running().status(),
                self.log.text()
            );
            self.app.advance(STEP).await;
        }
        let (begins, ends) = (self.log.count(BEGINS), self.log.count(ENDS));
        assert!((2..=4).contains(&begins) && ends == 0, "{what}: {begins} and {ends}\n{}", self.log.text());
    }

    /// The trouble is over, and its end is logged once.
    async fn is_over(&self, what: &str) {
        self.app.advance(secs(90)).await;
        self.app.settled().await;
        self.app.advance(secs(5)).await;
        let health = self.app.running().monitor().health();
        let (ready, text) = (health.ready, health.to_string());
        assert!(ready, "{what}: {text}\n{}", self.log.text());
        assert_eq!(self.log.count(ENDS), 1, "{what}\n{}", self.log.text());
        assert_eq!(self.group().checkpoint_age, Duration::ZERO, "{what}");
    }
}

async fn no_progress_is_told(consumer: fn() -> Registration, ops: &[Op]) {
    for op in ops {
        for hangs in [false, true] {
            let (what, gate) = (format!("{op:?}, hangs: {hangs}"), Gate::default());
            println!("{what}");
            let ward = Ward::start([consumer()]).await;
            let fault = if hangs { Fault::Hold(gate.clone()) } else { Fault::Fail(BrokerErrorKind::Unavailable) };
            ward.world.wire.always(*op, fault);
            for n in 2..=4 {
                ward.publish(n).await;
            }
            ward.is_told(&what).await;
            assert!(ward.group().checkpoint_age > secs(60), "{what}: {:?}", ward.group());
            let metrics = ward.app.running().monitor().metrics();
            assert!(
                metrics.lines().any(|line| line.starts_with("streams_troubled{") && line.ends_with(" 1")),
                "{what}"
            );
            ward.world.wire.heal();
            gate.open();
            ward.is_over(&what).await;
            let mut handled = ward.world.lab.ended(ward.group().group);
            handled.sort_unstable();
            handled.dedup();
            assert_eq!(handled, [1, 2, 3, 4], "{what}");
        }
    }
}

fn registration(consumers: impl IntoIterator<Item = Registration>) -> Registration {
    consumers.into_iter().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_ordered_group_whose_reads_or_commits_come_to_nothing_says_so_while_its_lease_is_well() {
    no_progress_is_told(|| registration(consumers![ward]), &[Op::Read, Op::Commit]).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_with_lanes_whose_reads_or_commits_come_to_nothing_says_so_while_its_lease_is_well() {
    no_progress_is_told(|| registration(consumers![lanes]), &[Op::Read, Op::Commit]).await;
}

#[tokio::test(start_paused = true)]
async fn a_work_queue_that_cannot_take_or_settle_says_so_while_its_looks_are_well() {
    no_progress_is_told(|| registration(consumers![queue]), &[Op::Fetch, Op::Ack]).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_nobody_can_read_is_told_by_all_to_whom_it_goes() {
    let one = Ward::start(consumers![ward]).await;
    let two = one.world.process(consumers![ward]).apart().start().await;
    for wire in [&one.world.wire, &two.wire] {
        wire.always(Op::Read, Fault::Fail(BrokerErrorKind::Unavailable));
    }
    one.publish(2).await;
    one.app.advance(BOUND).await;
    for _ in 0..1_200 {
        let well = [&one.app, &two].into_iter().filter(|app| app.running().monitor().health().ready).count();
        assert!(well < 2, "{:?}\n{:?}\n{}", one.app.running().status(), two.running().status(), one.log.text());
        one.app.advance(STEP).await;
    }
    assert!(one.log.count(BEGINS) > 0, "{}", one.log.text());
    for wire in [&one.world.wire, &two.wire] {
        wire.heal();
    }
    one.is_over("both").await;
    assert!(two.running().monitor().health().ready, "{:?}", two.running().status());
}

#[tokio::test(start_paused = true)]
async fn a_publisher_whose_writes_come_to_nothing_is_told_while_all_else_is_well() {
    let kinds = [BrokerErrorKind::Unavailable, BrokerErrorKind::Full, BrokerErrorKind::Refused];
    for kind in kinds {
        let ward = Ward::start(consumers![ward]).await;
        ward.world.wire.always(Op::Append, Fault::Fail(kind));
        let publisher = ward.app.publisher().clone();
        let trying = tokio::spawn(async move {
            // Longer between two than a publish is tried for.
            for n in 2.. {
                publisher.publish(&Pulse { n }).await.unwrap_err();
                tokio::time::sleep(secs(5)).await;
            }
        });
        ward.app.advance(BOUND).await;
        for _ in 0..120 {
            assert!(ward.app.running().status().trouble.is_some(), "{kind:?}\n{}", ward.log.text());
            assert!(!ward.app.running().monitor().health().ready);
            ward.app.advance(secs(1)).await;
        }
        assert!((2..=4).contains(&ward.log.count(BEGINS)) && ward.log.count(ENDS) == 0, "{}", ward.log.text());
        trying.abort();
        ward.world.wire.heal();
        ward.publish(100).await;
        assert_eq!((ward.app.running().status().trouble, ward.log.count(ENDS)), (None, 1), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_has_given_up_is_no_trouble_for_ever() {
    let ward = Ward::start(consumers![ward]).await;
    ward.world.wire.always(Op::Append, Fault::Fail(BrokerErrorKind::Unavailable));
    ward.app.publish(&Pulse { n: 2 }).await.unwrap_err();
    assert!(ward.app.running().status().trouble.is_some());
    ward.app.advance(secs(61)).await;
    assert!(ward.app.running().monitor().health().ready, "{:?}", ward.app.running().status());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_has_reason_to_wait_is_well() {
    for consumer in [consumers![ward], consumers![lanes], consumers![queue]] {
        let ward = Ward::start(consumer).await;
        let group = ward.group().group;
        // Fails for minutes, waiting longer and longer; takes nearly all the time that it has.
        ward.world.lab.script(group, 2, vec![Act::Fail; 5]);
        ward.world.lab.script(group, 3, [Act::Sleep(secs(25))]);
        let other = ward.world.process(consumers![ward, lanes, queue]).apart().start().await;
        for n in 2..=3 {
            ward.publish(n).await;
        }
        for _ in 0..3_000 {
            for app in [&ward.app, &other] {
                let health = app.running().monitor().health();
                let (ready, text) = (health.ready, health.to_string());
                assert!(ready, "{text}\n{}", ward.log.text());
            }
            ward.app.advance(STEP).await;
        }
        assert_eq!(ward.log.count(BEGINS), 0, "{}", ward.log.text());
    }
}
