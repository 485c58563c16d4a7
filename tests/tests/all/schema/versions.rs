//! Versions of one event that read each other: three builds of a program on one stream, in virtual time.

use streams_core::broker::Log;
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Batch, Context, Entry, EntryId, Error, Message, Registration, State, Stopped, StreamEvent, consumer, consumers,
};
use streams_tests::{Process, Record, World, logged};

/// The calls of handlers: version stored, and the event as the handler understood it.
pub(crate) type Seen = Record<(u32, String)>;

/// The first build.
mod v1 {
    use super::*;

    #[streams_runtime::stream_event(stream = "fills", key = symbol)]
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct Fill {
        pub(crate) symbol: String,
        pub(crate) price: f64,
    }

    #[consumer(group = "desk")]
    pub(crate) async fn book(fill: Fill, ctx: Context, seen: State<Seen>) {
        seen.add((ctx.version(), format!("{} {}", fill.symbol, fill.price)));
    }
}

/// The second: prices are whole cents, and what is none was never meant.
mod v2 {
    use super::*;

    #[streams_runtime::stream_event(stream = "fills", name = "Fill", key = symbol)]
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct FillV1 {
        symbol: String,
        price: f64,
    }

    #[streams_runtime::stream_event(stream = "fills", version = 2, upcast_from = FillV1, key = symbol)]
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct Fill {
        pub(crate) symbol: String,
        pub(crate) cents: u64,
    }

    impl TryFrom<FillV1> for Fill {
        type Error = String;

        fn try_from(old: FillV1) -> Result<Self, String> {
            let cents = (old.price * 100.0).round();
            if !(0.0..=1e15).contains(&cents) {
                return Err(format!("a price of {} is none", old.price));
            }
            Ok(Self { symbol: old.symbol, cents: cents as u64 })
        }
    }

    #[consumer(group = "desk")]
    pub(crate) async fn book(message: Message<Fill>, seen: State<Seen>) {
        seen.add((message.version(), format!("{} {}c", message.event.symbol, message.event.cents)));
    }
}

/// The third: it has a venue.
mod v3 {
    use super::*;

    #[streams_runtime::stream_event(stream = "fills", version = 3, upcast_from = v2::Fill, key = symbol)]
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct Fill {
        pub(crate) symbol: String,
        pub(crate) cents: u64,
        pub(crate) venue: String,
    }

    impl From<v2::Fill> for Fill {
        fn from(old: v2::Fill) -> Self {
            Self { symbol: old.symbol, cents: old.cents, venue: "unknown".to_owned() }
        }
    }

    #[consumer(group = "desk")]
    pub(crate) async fn book(fill: &Fill, ctx: Context, seen: State<Seen>) {
        seen.add((ctx.version(), format!("{} {}c {}", fill.symbol, fill.cents, fill.venue)));
    }

    /// The same in batches.
    #[consumer(group = "desk", batch = 10)]
    pub(crate) async fn book_batch(fills: Batch<Fill>, seen: State<Seen>) {
        fills.iter().for_each(|fill| seen.add((fill.version(), format!("{}c of {}", fill.event.cents, fills.len()))));
    }

    /// A later build of it, whose author says that no first version is left.
    #[streams_runtime::stream_event(stream = "fills", name = "Fill", version = 3, oldest = 2, upcast_from = v2::Fill, key = symbol)]
    #[derive(Debug)]
    pub(crate) struct Retired {
        symbol: String,
    }

    impl From<v2::Fill> for Retired {
        fn from(old: v2::Fill) -> Self {
            Self { symbol: old.symbol }
        }
    }

    #[consumer(group = "desk")]
    pub(crate) async fn book_retired(fill: Retired, ctx: Context, seen: State<Seen>) {
        seen.add((ctx.version(), fill.symbol));
    }
}

/// Events that no build may hold.
mod wrong {
    use super::*;

    #[streams_runtime::stream_event(stream = "fills", name = "Fill", version = 4, oldest = 4)]
    pub(crate) struct Unchained {
        symbol: String,
    }

    #[consumer(group = "other")]
    pub(crate) async fn unchained(fill: Unchained) {
        let _ = fill.symbol;
    }
}

fn fill_v1(symbol: &str, price: f64) -> v1::Fill {
    v1::Fill { symbol: symbol.to_owned(), price }
}

fn fill_v2(symbol: &str, cents: u64) -> v2::Fill {
    v2::Fill { symbol: symbol.to_owned(), cents }
}

fn fill_v3(symbol: &str, cents: u64) -> v3::Fill {
    v3::Fill { symbol: symbol.to_owned(), cents, venue: "x".to_owned() }
}

/// One stream for all builds of a test.
struct Builds {
    world: World,
    seen: Seen,
}

impl Builds {
    fn new() -> Self {
        Self { world: World::new("fills"), seen: Seen::default() }
    }

    async fn build(&self, consumers: impl IntoIterator<Item = Registration>) -> Process {
        self.world.process(consumers).state(self.seen.clone()).start().await
    }

    /// Publishes as some other program would.
    async fn publish<E: StreamEvent + Clone>(&self, event: &E) -> EntryId {
        self.world.publish([event.clone()]).await[0]
    }

    async fn entries(&self) -> Vec<Entry> {
        let entries = self.world.store.read(&self.world.partition(), EntryId::ZERO, 100).await.unwrap();
        entries.into_iter().map(|entry| (*entry).clone()).collect()
    }

    /// An event of each version.
    async fn one_of_each(&self) -> [EntryId; 3] {
        [
            self.publish(&fill_v1("A", 1.5)).await,
            self.publish(&fill_v2("B", 250)).await,
            self.publish(&fill_v3("C", 350)).await,
        ]
    }
}

fn seen(events: &[(u32, &str)]) -> Vec<(u32, String)> {
    events.iter().map(|(version, what)| (*version, (*what).to_owned())).collect()
}

#[tokio::test]
async fn a_publisher_writes_the_version_of_the_type_that_it_is_given() {
    let builds = Builds::new();
    builds.one_of_each().await;
    let entries = builds.entries().await;
    let versions: Vec<_> = entries.iter().filter_map(Entry::event).collect();
    assert_eq!(versions, [("Fill", 1), ("Fill", 2), ("Fill", 3)]);
}

#[tokio::test]
async fn the_newest_build_reads_every_version() {
    let builds = Builds::new();
    builds.one_of_each().await;
    let app = builds.build(consumers![v3::book]).await;
    app.settled().await;
    assert_eq!(builds.seen.all(), seen(&[(1, "A 150c unknown"), (2, "B 250c unknown"), (3, "C 350c x")]));
    let read: Vec<v3::Fill> = app.published().await.unwrap();
    assert_eq!(read.iter().map(|fill| fill.cents).collect::<Vec<_>>(), [150, 250, 350]);
    assert_eq!(app.publisher().last::<v3::Fill>().await.unwrap().unwrap().version(), 3);
}

#[tokio::test]
async fn each_build_goes_as_far_as_it_can_read_and_the_next_one_takes_over() {
    let builds = Builds::new();
    let first = builds.build(consumers![v1::book]).await;
    let [_, second_entry, third_entry] = builds.one_of_each().await;
    assert!(matches!(TestApp::settled(&first).await, Err(Error::Halted(_))));
    assert_eq!(builds.seen.all(), seen(&[(1, "A 1.5")]));
    let reason = first.halt("desk").expect("it halts");
    for said in [
        second_entry.to_string().as_str(),
        "event `Fill` of stream `fills` is version 2, and this program knows version 1; deploy a program that knows version 2",
        "streams reset fills desk --to ",
    ] {
        assert!(reason.contains(said), "does not say `{said}`: {reason}");
    }
    // The old one still runs, as in a rolling deploy.
    let second = builds.build(consumers![v2::book]).await;
    assert!(matches!(TestApp::settled(&second).await, Err(Error::Halted(_))));
    assert_eq!(builds.seen.all(), seen(&[(1, "A 1.5"), (2, "B 250c")]));
    assert!(second.halt("desk").expect("it halts").contains(&third_entry.to_string()));
    let third = builds.build(consumers![v3::book]).await;
    third.settled().await;
    assert_eq!(builds.seen.all(), seen(&[(1, "A 1.5"), (2, "B 250c"), (3, "C 350c x")]));
    // An old producer may stay a while.
    builds.publish(&fill_v1("D", 4.0)).await;
    third.settled().await;
    assert_eq!(builds.seen.all().last(), Some(&(1, "D 400c unknown".to_owned())));
    for old in [first, second] {
        assert_eq!(old.into_running().shutdown().await, Stopped::Clean);
    }
    builds.publish(&fill_v2("E", 500)).await;
    third.settled().await;
    assert_eq!(builds.seen.all().len(), 5);
    assert!(third.dead_letters::<v3::Fill>("desk").await.unwrap().is_empty());
}

#[tokio::test]
async fn an_old_event_that_an_upcaster_refuses_is_a_dead_letter_with_its_bytes() {
    let builds = Builds::new();
    builds.publish(&fill_v1("A", -1.0)).await;
    builds.publish(&fill_v1("B", 2.0)).await;
    let app = builds.build(consumers![v3::book]).await;
    app.settled().await;
    assert_eq!(builds.seen.all(), seen(&[(1, "B 200c unknown")]));
    let letters = app.dead_letters::<v1::Fill>("desk").await.unwrap();
    assert_eq!((letters.len(), letters[0].cause(), letters[0].attempts()), (1, "decode", 1));
    assert_eq!(
        letters[0].reason(),
        "event `Fill` of stream `fills` is refused by the upcaster from version 1 to 2: a price of -1 is none"
    );
    assert_eq!(letters[0].decode().unwrap(), fill_v1("A", -1.0));
}

#[tokio::test]
async fn a_batch_holds_events_of_all_versions_but_what_its_upcaster_refuses() {
    let builds = Builds::new();
    builds.publish(&fill_v1("Z", -1.0)).await;
    builds.one_of_each().await;
    let app = builds.build(consumers![v3::book_batch]).await;
    app.settled().await;
    let cents: Vec<_> = builds.seen.all().iter().map(|(version, what)| (*version, what[..4].to_owned())).collect();
    assert_eq!(cents, seen(&[(1, "150c"), (2, "250c"), (3, "350c")]));
    assert!(app.dead_letters::<v1::Fill>("desk").await.unwrap()[0].reason().ends_with("a price of -1 is none"));
}

#[tokio::test]
async fn what_is_older_than_the_oldest_is_a_dead_letter_that_says_so() {
    let builds = Builds::new();
    builds.one_of_each().await;
    let app = builds.build(consumers![v3::book_retired]).await;
    app.settled().await;
    assert_eq!(builds.seen.all(), seen(&[(2, "B"), (3, "C")]));
    let letters = app.dead_letters::<v1::Fill>("desk").await.unwrap();
    assert_eq!(
        letters[0].reason(),
        "event `Fill` of stream `fills` is version 1, and this program reads none older than version 2 (`oldest = 2`); read it with a program that upcasts version 1"
    );
    assert_eq!(letters[0].decode().unwrap(), fill_v1("A", 1.5));
}

#[tokio::test]
async fn an_old_producer_is_warned_of_groups_that_no_longer_read_its_version_and_of_no_others() {
    for (consumers, is_warned) in [(consumers![v3::book], false), (consumers![v3::book_retired], true)] {
        let (log, builds) = (logged(), Builds::new());
        let app = builds.build(consumers).await;
        builds.publish(&fill_v3("A", 100)).await;
        app.settled().await;
        // By the app's own clock: it forgets notes of long ago.
        app.publish(&fill_v1("B", 1.0)).await.unwrap();
        app.settled().await;
        assert_eq!(log.text().contains("from version 2 on"), is_warned, "{}", log.text());
    }
}

#[test]
fn versions_of_a_program_are_one_chain_and_consumers_take_its_end() {
    let refused = |app: &App| match app.check() {
        Err(Error::Refused(problems)) => problems.join("\n"),
        other => panic!("not refused: {other:?}"),
    };
    // Old versions stand beside the new one.
    App::with(consumers![v3::book]).state(Seen::default()).check().unwrap();
    let apart = refused(&App::with(consumers![v3::book, wrong::unchained]).state(Seen::default()));
    for said in [
        "are versions 3 and 4 of `Fill` in stream `fills`, and the newer is not made from the older; name the version before in `upcast_from`",
        "`book` takes version 3 of `Fill`, and would halt at the first event of version 4, which is",
    ] {
        assert!(apart.contains(said), "does not say `{said}`: {apart}");
    }
}
