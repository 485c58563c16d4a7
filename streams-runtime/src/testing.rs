//! A whole app in virtual time: no server, no sleep, the same run for the same seed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_core::broker::Broker;
use streams_core::codec;
use streams_core::{EntryId, StreamEvent};
use tokio::runtime::RuntimeFlavor;
use tokio::time::Instant;

use crate::app::{App, Running};
use crate::broker::Embedded;
use crate::clock::Clock;
use crate::error::Error;
use crate::halt::Halt;
use crate::ops::{DeadLetter, GroupStatus, Outages, Phase};
use crate::publisher::{PUBLISH_RETRY, Publish, Publisher, Shared};
use crate::random::Random;

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// How long [`TestApp::halted`] waits.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An app on an embedded broker, in virtual time: waits of the app pass at once.
///
/// Needs a test on one thread, as `#[tokio::test]` makes it. It pauses the clock itself, and a paused clock jumps to the
/// next timer whenever every task waits. So a handler that waits for something outside the process, such as a database,
/// runs into its timeout at once. While a `spawn_blocking` runs the clock stands still. Give it a stand-in, or test with
/// the real thing in real time: `App::with(..).broker(Arc::new(Embedded::new())).start()`.
///
/// ```
/// use streams_runtime::testing::TestApp;
/// use streams_runtime::{App, Outcome, consumer, consumers, stream_event};
///
/// #[stream_event(stream = "trades")]
/// #[derive(Debug, PartialEq)]
/// struct Trade { price: f64 }
///
/// #[consumer(group = "risk")]
/// async fn check(trade: Trade) -> Outcome {
///     if trade.price < 0.0 { Outcome::dead_letter("negative") } else { Outcome::Done }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // In a test: #[tokio::test] async fn negative_prices_are_dead_letters() { .. }
/// let app = TestApp::start(App::with(consumers![check])).await?;
/// app.publish(&Trade { price: -1.0 }).await?;
/// app.settled().await?;
/// assert_eq!(app.dead_letters::<Trade>("risk").await?[0].reason(), "negative");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TestApp {
    running: Running,
}

impl TestApp {
    /// Starts the app on a fresh embedded broker, with a fixed seed for everything random and a fixed date.
    ///
    /// # Errors
    /// As [`App::start`], and on an executor of several threads.
    pub async fn start(app: App) -> Result<Self, Error> {
        Self::start_with(app, Arc::new(Embedded::starting(epoch())), 0).await
    }

    /// Starts the app on this broker, which other apps may share, with this seed.
    ///
    /// # Errors
    /// As [`TestApp::start`].
    pub async fn start_with(app: App, broker: Arc<dyn Broker>, seed: u64) -> Result<Self, Error> {
        if tokio::runtime::Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Err(Error::Refused(vec![
                "a TestApp needs an executor of one thread, whose clock can be paused: write `#[tokio::test]` without `flavor`".to_owned(),
            ]));
        }
        if !is_paused() {
            tokio::time::pause();
        }
        Ok(Self { running: app.broker(broker).seams(Clock::starting(epoch()), Random::seeded(seed)).start().await? })
    }

    /// Publishes an event: as [`Publisher::publish`].
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn publish<'a, E: StreamEvent>(&'a self, event: &'a E) -> Publish<'a, E> {
        self.running.publisher().publish(event)
    }

    /// The app's publisher.
    pub fn publisher(&self) -> &Publisher {
        self.running.publisher()
    }

    /// Waits until every group has settled everything, also what handlers publish meanwhile.
    ///
    /// # Errors
    /// When a group is halted.
    pub async fn settled(&self) -> Result<(), Error> {
        loop {
            let before = self.tips().await?;
            self.running.settled().await?;
            if self.tips().await? == before {
                return Ok(());
            }
        }
    }

    async fn tips(&self) -> Result<Vec<EntryId>, Error> {
        let mut tips = Vec::new();
        for partition in self.running.partitions() {
            tips.push(self.running.broker().extent(partition).await?.map_or(EntryId::ZERO, |extent| extent.last));
        }
        Ok(tips)
    }

    /// Every event of type `E` in its stream, partition by partition, in order.
    ///
    /// # Errors
    /// When one cannot be decoded.
    pub async fn published<E: StreamEvent>(&self) -> Result<Vec<E>, Error> {
        self.running.publisher().published().await
    }

    /// The first thousand dead letters of a group on the stream of `E`.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn dead_letters<E: StreamEvent>(&self, group: &str) -> Result<Vec<DeadLetter<E>>, Error> {
        Ok(self.running.dead_letters(group).list(None, PAGE).await?)
    }

    /// Lets this much virtual time pass; everything that is due in it happens, in order.
    pub async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    /// The status of a group on the first partition of its stream. [`Running::status`] has every group on every partition.
    ///
    /// ```
    /// # use streams_runtime::testing::TestApp;
    /// # use streams_runtime::{App, consumer, consumers, stream_event};
    /// # #[stream_event(stream = "trades")]
    /// # struct Trade { price: f64 }
    /// # #[consumer(group = "risk")]
    /// # async fn check(_: Trade) {}
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = TestApp::start(App::with(consumers![check])).await?;
    /// app.publish(&Trade { price: 1.0 }).await?;
    /// app.settled().await?;
    /// assert_eq!(app.status("risk").handled, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// When the app has no such group.
    #[track_caller]
    pub fn status(&self, group: &str) -> GroupStatus {
        let mut groups = self.running.status().groups.into_iter();
        match groups.find(|status| status.group == group) {
            Some(status) => status,
            None => panic!("the app has no group `{group}`"),
        }
    }

    /// Waits until a group is halted on one of its partitions, and answers the reason.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use streams_runtime::broker::DeadBounds;
    /// # use streams_runtime::testing::TestApp;
    /// # use streams_runtime::{App, Config, Outcome, consumer, consumers, stream_event};
    /// #[stream_event(stream = "trades")]
    /// struct Trade { price: f64 }
    ///
    /// #[consumer(group = "risk")]
    /// async fn check(_: Trade) -> Outcome {
    ///     Outcome::dead_letter("no limit is known")
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let room_for_one = DeadBounds { count: 1, age: Duration::from_secs(3600) };
    /// let app = App::with(consumers![check]).config(Config::new().dead_letters(room_for_one));
    /// let app = TestApp::start(app).await?;
    /// app.publish(&Trade { price: 1.0 }).await?;
    /// app.publish(&Trade { price: 2.0 }).await?;
    /// assert!(app.halted("risk").await.reason().contains("dead letters"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// When the app has no such group, and when the group is not halted within a day of virtual time.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn halted(&self, group: &str) -> Halt {
        let (began, mut step) = (Instant::now(), Duration::from_millis(1));
        loop {
            let status = self.status(group);
            for of_partition in self.running.status().groups {
                if let (true, Phase::Halted(halt)) = (of_partition.group == group, of_partition.phase) {
                    return halt;
                }
            }
            assert!(began.elapsed() < DAY, "the group `{group}` is not halted: {status:?}");
            self.advance(step).await;
            // A day in steps of a millisecond would take minutes.
            step = (step * 2).min(Duration::from_secs(1));
        }
    }

    /// Ends the app as SIGKILL ends a process: no handler comes to its end, nothing is committed, and no lease is given back.
    /// When it returns, no handler of the app runs.
    ///
    /// An app that starts on the same broker is the successor, once the leases have run out.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use streams_runtime::broker::Embedded;
    /// # use streams_runtime::testing::TestApp;
    /// # use streams_runtime::{App, Context, consumer, consumers, stream_event};
    /// # #[stream_event(stream = "trades")]
    /// # struct Trade { price: f64 }
    /// #[consumer(group = "risk")]
    /// async fn check(_: Trade) {
    ///     tokio::time::sleep(Duration::from_secs(1)).await;
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Arc::new(Embedded::new());
    /// let app = TestApp::start_with(App::with(consumers![check]), store.clone(), 1).await?;
    /// app.publish(&Trade { price: 1.0 }).await?;
    /// app.advance(Duration::from_millis(500)).await;
    /// app.kill().await; // while the handler runs
    ///
    /// let successor = TestApp::start_with(App::with(consumers![check]), store, 2).await?;
    /// successor.settled().await?;
    /// assert_eq!(successor.status("risk").handled, 1);
    /// # Ok(()) }
    /// ```
    pub async fn kill(self) {
        drop(self.running);
        // The executor drops the tasks of the app before its clock, which stands still while any task is busy, moves on.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// The app itself.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Ends the test's wrapping, for [`Running::shutdown`].
    pub fn into_running(self) -> Running {
        self.running
    }
}

/// When every test begins: the first of January 2026, UTC.
fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// Whether the executor's clock stands still: tokio can be asked in no other way.
fn is_paused() -> bool {
    let (virtual_start, real_start) = (Instant::now(), std::time::Instant::now());
    while real_start.elapsed() < Duration::from_micros(1) {
        std::hint::spin_loop();
    }
    Instant::now() == virtual_start
}

impl Publisher {
    /// A publisher into nowhere, for calling a handler in a test; [`Publisher::published`] returns the events that it was given.
    pub fn test() -> Self {
        let (clock, random) = (Clock::starting(epoch()), Arc::new(Random::seeded(0)));
        let broker = Arc::new(Embedded::starting(epoch()));
        let shared = Shared::new(broker, clock, random, PUBLISH_RETRY, Outages::default(), Arc::default());
        // The events of other tests in the same program say nothing here.
        Self::of(shared, None, Vec::new())
    }

    /// Every event of type `E` that was published through this test publisher, partition by partition.
    ///
    /// # Errors
    /// When one cannot be decoded.
    pub async fn published<E: StreamEvent>(&self) -> Result<Vec<E>, Error> {
        let mut events = Vec::new();
        for partition in self.partitions::<E>().await? {
            let mut after = EntryId::ZERO;
            loop {
                let page = self.broker().read(&partition, after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = last.id;
                for entry in page.iter().filter(|entry| entry.event().is_some_and(|(name, _)| name == E::INFO.name)) {
                    events.push(codec::decode(entry)?);
                }
            }
        }
        Ok(events)
    }
}
