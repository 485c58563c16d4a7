//! The app around the groups: extractors, partitions, namespaces, status, waiting until all is done, and every refusal.

use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Broker, Log};
use streams_core::keys::StreamKey;
use streams_runtime::broker::{Embedded, Redis};
use streams_runtime::testing::TestApp;
use streams_runtime::{
    App, Backoff, BoxError, Config, ConsumerOptions, Context, EntryId, Error, FromContext, Message, Needs, Outcome,
    Phase, Publisher, Resources, State, Stopped, consumer, consumers, stream_event,
};
use streams_tests::{Act, Gate, Lab, Options, Process, RedisServer, World, logged, secs};

#[stream_event(stream = "orders", key = customer, partitions = 4)]
#[derive(Debug, Clone, PartialEq)]
struct Order {
    customer: String,
    n: u64,
}

/// An event that a handler publishes.
#[stream_event(stream = "invoices")]
#[derive(Debug, Clone, PartialEq)]
struct Invoice {
    n: u64,
}

#[consumer(group = "ship")]
async fn ship(order: Order, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, order.n).await
}

#[consumer(group = "bill")]
async fn bill(order: Order, publisher: Publisher) -> Result<(), BoxError> {
    // Longer than an idle app would be waited for.
    tokio::time::sleep(Duration::from_secs(5)).await;
    publisher.publish(&Invoice { n: order.n }).await?;
    Ok(())
}

#[consumer(group = "books")]
async fn book(invoice: Invoice, ctx: Context, lab: State<Lab>) -> Result<Outcome, BoxError> {
    lab.handle(&ctx, invoice.n).await
}

/// The tenant of an event, from its headers.
#[derive(Debug, Clone, PartialEq)]
struct Tenant(String);

impl FromContext for Tenant {
    type Rejection = BoxError;

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        tokio::task::yield_now().await;
        match ctx.headers().get("tenant") {
            Some("panic") => panic!("an extractor panics"),
            Some(tenant) => Ok(Self(tenant.to_owned())),
            None => Err("there is no tenant".into()),
        }
    }
}

#[consumer(group = "tenants", max_attempts = 2, backoff = "10ms")]
async fn by_tenant(message: &Message<Invoice>, Tenant(tenant): Tenant, lab: State<Lab>, ctx: Context) {
    assert_eq!(message.headers().get("tenant"), Some(tenant.as_str()));
    let _ = lab.handle(&ctx, message.event.n).await;
}

/// Needs what nobody gives it.
struct Demanding;

impl FromContext for Demanding {
    type Rejection = BoxError;

    fn needs(needs: &mut Needs) {
        needs.state::<std::net::Ipv4Addr>();
    }

    async fn from_context(_: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

fn order(customer: &str, n: u64) -> Order {
    Order { customer: customer.to_owned(), n }
}

fn world() -> World {
    World::new("invoices")
}

// The arguments of handlers.

#[tokio::test]
async fn a_handler_may_publish_and_settled_waits_for_what_comes_of_it() {
    let world = world();
    let app = world.process(consumers![bill, book]).start().await;
    app.publish_all((1..=3).map(|n| order("a", n))).await;
    app.settled().await;
    assert_eq!(world.lab.events("books"), [1, 2, 3]);
    assert_eq!(app.published::<Invoice>().await.unwrap(), [1, 2, 3].map(|n| Invoice { n }));
}

#[tokio::test]
async fn an_argument_of_ones_own_is_made_from_the_event_and_its_rejection_is_a_failed_attempt() {
    let world = world();
    let app = world.process(consumers![by_tenant]).start().await;
    let publisher = app.publisher();
    publisher.publish(&Invoice { n: 1 }).await.unwrap();
    publisher.publish(&Invoice { n: 2 }).header("tenant", "a").await.unwrap();
    publisher.publish(&Invoice { n: 3 }).header("tenant", "panic").await.unwrap();
    app.settled().await;
    assert_eq!(world.lab.events("tenants"), [2]);
    let letters = app.dead::<Invoice>("tenants").await;
    let found: Vec<_> = letters.iter().map(|letter| (letter.cause(), letter.attempts(), letter.reason())).collect();
    let rejected = ("argument", 2, "argument `Tenant`: there is no tenant");
    assert_eq!(found, [rejected, ("panic", 2, "panicked: an extractor panics")]);
}

#[tokio::test]
async fn a_handler_is_tested_by_calling_it() {
    let publisher = Publisher::test();
    tokio::time::pause();
    bill(order("a", 7), publisher.clone()).await.unwrap();
    assert_eq!(publisher.published::<Invoice>().await.unwrap(), [Invoice { n: 7 }]);

    let lab = Lab::default();
    let message = Message::new(Invoice { n: 1 }).with_header("tenant", "a");
    by_tenant(&message, Tenant("a".to_owned()), State(lab.clone()), Context::test()).await;
    assert_eq!(lab.calls("test"), [(1, 1)]);

    let mut resources = Resources::default();
    resources.insert(42_u64);
    let state = State::<u64>::from_context(&Context::test_with(resources)).await.unwrap();
    assert_eq!(*state, 42);
    assert!(State::<u64>::from_context(&Context::test()).await.is_err());
    assert!(Publisher::from_context(&Context::test()).await.is_err());
}

// Partitions.

#[tokio::test]
async fn each_key_stays_in_one_partition_and_in_order() {
    let world = world();
    let app = world.process(consumers![ship]).start().await;
    let customers = ["anna", "ben", "carla", "dora", "emil"];
    // One of them fails, and only its partition waits.
    world.lab.script("ship", 3, [Act::Fail, Act::Fail]);
    let all = (0..500_u64).map(|n| order(customers[n as usize % 5], n));
    let receipts = app.publisher().publish_all(all).await;
    let mut partitions = std::collections::BTreeMap::new();
    for (n, receipt) in receipts.into_iter().enumerate() {
        let partition = receipt.unwrap().partition;
        assert_eq!(*partitions.entry(customers[n % 5]).or_insert(partition), partition);
    }
    assert!(partitions.values().collect::<std::collections::BTreeSet<_>>().len() > 1, "{partitions:?}");
    app.settled().await;
    for customer in 0..5 {
        let mut events: Vec<_> = world.lab.events("ship").into_iter().filter(|n| n % 5 == customer).collect();
        events.dedup();
        assert_eq!(events, (0..500).filter(|n| n % 5 == customer).collect::<Vec<_>>());
    }
    assert_eq!(app.running().status().groups.iter().map(|group| group.handled).sum::<u64>(), 500);
}

#[tokio::test]
async fn a_partition_that_waits_holds_no_other_up() {
    let (world, gate) = (world(), Gate::default());
    world.lab.script("ship", 1, [Act::Wait(gate.clone())]);
    let app = world.process(consumers![ship]).start().await;
    // These keys are in partitions 0 and 3 of four.
    app.publish(&order("BTC-USD", 1)).await.unwrap();
    app.publish(&order("BTC-USD", 2)).await.unwrap();
    app.publish(&order("ETH-USD", 3)).await.unwrap();
    app.advance(secs(1)).await;
    assert_eq!(world.lab.ended("ship"), [3]);
    gate.open();
    app.settled().await;
    assert_eq!(world.lab.ended("ship"), [3, 1, 2]);
}

// Producers that go by another number of partitions.

/// An order as another program adds it.
fn foreign() -> Vec<(Vec<u8>, Vec<u8>)> {
    vec![(b"event".to_vec(), b"Order@1".to_vec()), (b"payload".to_vec(), b"\x80".to_vec())]
}

const UNREAD: &str = "entries that no group reads";

#[tokio::test]
async fn a_producer_that_comes_first_and_knows_no_partitions_refuses_the_start_of_others() {
    for redis in [false, true] {
        let broker: Arc<dyn Broker> = match redis {
            true => Arc::new(Redis::open(&RedisServer::shared().database()).unwrap()),
            false => Arc::new(Embedded::new()),
        };
        let bare = StreamKey::new(None, "orders", 1).partition(0);
        broker.append(&bare, vec![foreign()], None).await.unwrap();
        let said = "the key `orders` holds 1 entries, which no group would read";
        let app = App::with(consumers![ship]).state(Lab::default()).broker(Arc::clone(&broker));
        let error = app.start().await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        let error = Publisher::new(broker).publish(&order("a", 1)).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn entries_that_no_group_reads_are_told_when_they_come_and_once_an_hour() {
    let (log, world) = (logged(), world());
    let store = &world.store;
    let app = world.process(consumers![ship]).start().await;
    let gauge = || {
        app.running()
            .monitor()
            .metrics()
            .lines()
            .find_map(|line| line.strip_prefix("streams_stray_entries{stream=\"orders\"} ").map(str::to_owned))
    };
    app.advance(secs(70)).await;
    assert_eq!((log.count(UNREAD), gauge().as_deref()), (0, Some("0")));
    let key = |partitions, index| StreamKey::new(None, "orders", partitions).partition(index);
    store.append(&key(1, 0), vec![foreign(), foreign()], None).await.unwrap();
    app.advance(secs(70)).await;
    assert!(log.text().contains("stream=\"orders\" partitions=4 key=\"orders\" entries=2"), "{}", log.text());
    assert!(log.text().contains("recorded at streams:{orders}:_stream"), "{}", log.text());
    assert_eq!(gauge().as_deref(), Some("2"));
    app.advance(secs(1800)).await;
    store.append(&key(8, 7), vec![foreign()], None).await.unwrap();
    app.advance(secs(70)).await;
    assert_eq!((log.count(UNREAD), log.count("key=\"orders.7\" entries=1")), (2, 1), "{}", log.text());
    app.advance(secs(3600)).await;
    assert_eq!((log.count(UNREAD), gauge().as_deref()), (4, Some("3")), "{}", log.text());
    store.delete(&key(1, 0));
    store.delete(&key(8, 7));
    app.advance(secs(7200)).await;
    assert_eq!((log.count(UNREAD), gauge().as_deref()), (4, Some("0")), "{}", log.text());
}

#[tokio::test]
async fn a_process_that_owns_nothing_leaves_the_look_to_the_one_that_does() {
    let (log, world) = (logged(), world());
    // The first of these two should own the partition.
    let owner = world.process(consumers![book]).seed(1).start().await;
    owner.advance(secs(1)).await;
    let other = world.process(consumers![book]).seed(2).start().await;
    world.store.append(&StreamKey::new(None, "invoices", 2).partition(1), vec![foreign()], None).await.unwrap();
    owner.advance(secs(200)).await;
    assert_eq!((log.count(UNREAD), log.count("key=\"invoices.1\" entries=1")), (1, 1), "{}", log.text());
    let told = |app: &Process| app.running().monitor().metrics().contains("streams_stray_entries{");
    assert!(told(&owner) && !told(&other));
}

#[tokio::test]
async fn a_publisher_alone_tells_of_entries_that_no_group_reads() {
    tokio::time::pause();
    let (log, store) = (logged(), Arc::new(Embedded::new()));
    let publisher = Publisher::new(store.clone());
    publisher.publish(&order("a", 1)).await.unwrap();
    store.append(&StreamKey::new(None, "orders", 1).partition(0), vec![foreign()], None).await.unwrap();
    publisher.publish(&order("a", 2)).await.unwrap();
    assert_eq!(log.count(UNREAD), 0, "it was looked at just now");
    tokio::time::sleep(secs(60)).await;
    for n in 3..9 {
        publisher.publish(&order("a", n)).await.unwrap();
    }
    assert_eq!(log.count(UNREAD), 1, "{}", log.text());
}

#[tokio::test]
async fn entries_that_no_group_reads_are_told_at_the_start_on_a_server_whatever_else_is_at_the_keys() {
    let (log, url) = (logged(), RedisServer::shared().database());
    let broker = Arc::new(Redis::open(&url).unwrap());
    broker.declare(&StreamKey::new(None, "orders", 4)).await.unwrap();
    broker.append(&StreamKey::new(None, "orders", 6).partition(5), vec![foreign()], None).await.unwrap();
    redis::cmd("SET").arg("orders").arg("no stream").exec(&mut RedisServer::client(&url)).unwrap();
    let app = App::with(consumers![ship]).state(Lab::default()).broker(broker).start().await.unwrap();
    assert_eq!((log.count(UNREAD), log.count("key=\"orders.5\" entries=1")), (1, 1), "{}", log.text());
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

/// The rights of before let a program start and publish; it says once that it cannot look.
#[tokio::test]
async fn whoever_may_not_look_for_entries_that_no_group_reads_says_so_and_goes_on() {
    let (log, server) = (logged(), RedisServer::start());
    server.run::<()>("ACL SETUSER old on >secret ~streams:* ~orders.0 ~orders.1 ~orders.2 ~orders.3 +@all");
    let broker = Arc::new(Redis::open(&server.url().replace("redis://", "redis://old:secret@")).unwrap());
    let app = App::with(consumers![ship]).state(Lab::default()).broker(broker).start().await.unwrap();
    app.publisher().publish(&order("a", 1)).await.unwrap();
    assert_eq!(
        (log.count("entries that no group reads cannot be looked for"), log.count("NOPERM")),
        (1, 1),
        "{}",
        log.text()
    );
    assert_eq!(app.shutdown().await, Stopped::Clean);
}

// Names.

#[tokio::test]
async fn apps_in_two_namespaces_share_a_broker_and_nothing_else() {
    let (lab, store) = (Lab::default(), Arc::new(Embedded::new()));
    let app = |namespace: &str| App::with(consumers![book]).state(lab.clone()).namespace(namespace);
    let one = TestApp::start_with(app("one"), store.clone(), 1).await.unwrap();
    let two = TestApp::start_with(app("two"), store.clone(), 2).await.unwrap();
    one.publish(&Invoice { n: 1 }).await.unwrap();
    one.settled().await.unwrap();
    two.settled().await.unwrap();
    assert_eq!(lab.events("books"), [1]);
    assert!(two.published::<Invoice>().await.unwrap().is_empty());
    let key = StreamKey::new(Some("one"), "invoices", 1).partition(0);
    assert_eq!(store.extent(&key).await.unwrap().unwrap().length, 1);
    assert!(store.extent(&StreamKey::new(None, "invoices", 1).partition(0)).await.unwrap().is_none());
}

#[tokio::test]
async fn only_the_groups_that_were_asked_for_are_driven() {
    let lab = Lab::default();
    let app = App::with(consumers![ship, bill, book]).state(lab.clone()).only_groups(["books", "ship"]);
    let app = TestApp::start(app).await.unwrap();
    app.publish(&order("a", 1)).await.unwrap();
    app.publish(&Invoice { n: 2 }).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!((lab.events("ship"), lab.events("books")), (vec![1], vec![2]));
    let groups: std::collections::BTreeSet<_> = app.running().status().groups.iter().map(|group| group.group).collect();
    assert_eq!(groups, ["books", "ship"].into());
    let consumers: Vec<_> = app.running().consumers().iter().map(|info| info.name).collect();
    assert_eq!(consumers, ["book", "ship"]);
}

// Waiting until all is done, and status.

#[tokio::test]
async fn settled_waits_for_a_group_that_another_app_owns() {
    let (world, gate) = (world(), Gate::default());
    world.lab.script("books", 2, [Act::Wait(gate.clone())]);
    // The first of these two should own the partition.
    let owner = world.process(consumers![book]).seed(1).start().await;
    owner.publish(&Invoice { n: 1 }).await.unwrap();
    owner.settled().await;
    let other = world.process(consumers![book]).seed(2).start().await;
    other.publish(&Invoice { n: 2 }).await.unwrap();
    gate.arrived(1).await;
    assert!(tokio::time::timeout(secs(20), other.running().settled()).await.is_err(), "event 2 is not settled");
    gate.open();
    other.settled().await;
    assert_eq!(world.lab.ended("books"), [1, 2]);
    assert!(matches!(other.status("books").phase, Phase::StandingBy { .. }));
}

#[tokio::test]
async fn settled_does_not_wait_for_entries_that_were_trimmed_away() {
    let (world, gate) = (world(), Gate::default());
    world.lab.script("books", 1, [Act::Wait(gate.clone())]);
    let app = world.process(consumers![book]).start().await;
    app.publish_all([1, 2].map(|n| Invoice { n })).await;
    // With this floor everything goes, the new entry, too.
    let entry = vec![(b"event".to_vec(), b"Unheard".to_vec())];
    world.store.append(&world.partition(), vec![entry], Some(EntryId::MAX)).await.unwrap();
    gate.open();
    app.settled().await;
}

#[tokio::test]
async fn settled_says_when_a_group_is_halted() {
    let world = world();
    (0..20).for_each(|n| world.lab.script("books", n, [Act::Permanent]));
    let app = world.process(consumers![book, ship]).start().await;
    app.publish_all((0..30).map(|n| Invoice { n })).await;
    let error = tokio::time::timeout(secs(60), TestApp::settled(&app)).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Halted(halt) if halt.reason().contains("books")), "{error}");
    assert!(!app.running().status().is_ready());
}

#[tokio::test]
async fn status_tells_what_each_group_does_and_has_done() {
    let world = world();
    world.lab.script("books", 2, [Act::Fail]);
    world.lab.script("books", 3, [Act::Give(Outcome::skip("old"))]);
    world.lab.script("books", 4, [Act::Permanent]);
    let app = world.process(consumers![book]).start().await;
    let mut last = EntryId::ZERO;
    for n in 1..=4 {
        last = app.publish(&Invoice { n }).await.unwrap().entry_id;
    }
    app.settled().await;
    let status = app.running().status();
    let group = &status.groups[0];
    assert_eq!((group.stream, group.partition, group.group), ("invoices", 0, "books"));
    assert_eq!((group.handled, group.retried, group.skipped, group.dead_lettered), (2, 1, 1, 1));
    assert!(status.is_ready() && matches!(group.phase, Phase::Owning { .. }) && group.checkpoint == last);
}

#[tokio::test]
async fn run_until_ends_with_its_future_and_stops_cleanly() {
    let (lab, store) = (Lab::default(), Arc::new(Embedded::new()));
    let app = App::with(consumers![book]).state(lab.clone()).broker(store.clone());
    Publisher::new(store).publish(&Invoice { n: 1 }).await.unwrap();
    let seen = lab.clone();
    let stopped = app.run_until(async move { seen.called("books", 1).await }).await.unwrap();
    assert_eq!((stopped, lab.ended("books")), (Stopped::Clean, vec![1]));
}

#[tokio::test]
async fn a_handler_past_the_deadline_of_a_stop_is_dropped() {
    let world = world();
    world.lab.script("books", 1, [Act::Hang]);
    let app = world.process(consumers![book]).start().await;
    app.publish(&Invoice { n: 1 }).await.unwrap();
    world.lab.called("books", 1).await;
    let began = tokio::time::Instant::now();
    assert_eq!(app.into_running().shutdown().await, Stopped::Aborted { handlers: 1 });
    assert_eq!(world.lab.cancelled("books"), [1]);
    assert!(began.elapsed() >= secs(25) && began.elapsed() < secs(26), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_app_that_is_dropped_leaves_no_connection_behind() {
    let server = Options::default().start();
    let clients = || {
        let list: String = server.run("CLIENT LIST");
        list.lines().count()
    };
    let before = clients();
    let lab = Lab::default();
    for n in 0..3 {
        let broker = Arc::new(Redis::open(&server.url()).unwrap());
        let app = App::with(consumers![book, ship]).state(lab.clone()).broker(broker).start().await.unwrap();
        app.publisher().publish(&Invoice { n: 1 }).await.unwrap();
        tokio::time::timeout(secs(60), app.settled()).await.unwrap().unwrap();
        assert!(clients() > before);
        // A drop is a crash, so the next one must not wait for this one's lease.
        assert_eq!(app.shutdown().await, Stopped::Clean);
        let broker = Arc::new(Redis::open(&server.url()).unwrap());
        let app = App::with(consumers![ship]).state(lab.clone()).namespace(format!("drop{n}")).broker(broker);
        let app = app.start().await.unwrap();
        tokio::time::timeout(secs(60), app.settled()).await.unwrap().unwrap();
        while !app.status().is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(app);
    }
    let gone = async {
        while clients() > before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(secs(60), gone).await.expect("every connection is closed");
}

// Virtual time.

#[tokio::test]
async fn virtual_time_stands_still_while_a_blocking_task_runs() {
    let app = world().process(consumers![virtual_time::blocks]).start().await;
    app.publish(&Invoice { n: 1 }).await.unwrap();
    app.settled().await;
    let status = app.running().status();
    assert_eq!((status.groups[0].handled, status.groups[0].retried, status.groups[0].dead_lettered), (1, 0, 0));
}

#[tokio::test]
async fn a_handler_that_waits_for_a_socket_runs_into_its_timeout_in_virtual_time() {
    let app = world().process(consumers![virtual_time::connects]).start().await;
    app.publish(&Invoice { n: 1 }).await.unwrap();
    app.settled().await;
    let letters = app.dead::<Invoice>("connects").await;
    assert_eq!((letters.len(), letters[0].cause()), (1, "timeout"));
}

mod virtual_time {
    use super::*;

    #[consumer(group = "blocks", max_attempts = 1, timeout = "50ms")]
    pub(super) async fn blocks(_: Invoice) -> Result<(), BoxError> {
        // Longer than the timeout, by the clock on the wall.
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(200))).await?;
        Ok(())
    }

    #[consumer(group = "connects", max_attempts = 1, timeout = "30s")]
    pub(super) async fn connects(_: Invoice) -> Result<(), BoxError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        // Nobody connects.
        listener.accept().await?;
        Ok(())
    }
}

// Refusals, all at once.

/// The problems that `check` reports, one per line.
fn problems(app: &App) -> Vec<String> {
    match app.check() {
        Ok(()) => Vec::new(),
        Err(Error::Refused(problems)) => problems,
        Err(other) => panic!("{other:?}"),
    }
}

#[track_caller]
fn refuses(app: &App, words: &[&str]) {
    let problems = problems(app);
    assert_eq!(problems.len(), words.len(), "{problems:#?}");
    for word in words {
        assert!(problems.iter().any(|problem| problem.contains(word)), "no `{word}` in {problems:#?}");
    }
}

mod wrong {
    use super::*;

    #[consumer(group = "books")]
    pub(super) async fn second(_: Invoice) {}

    #[consumer(group = "books", start = "latest", checkpoint = "each")]
    pub(super) async fn from_now_on(_: Correction) {}

    #[consumer(group = "books", start = "earliest", checkpoint = 7)]
    pub(super) async fn from_the_beginning(_: Reminder) {}

    #[consumer(group = "demands")]
    pub(super) async fn demands(_: Invoice, _: Demanding, _: State<std::net::Ipv6Addr>) {}

    /// Says something else of the stream than [`Reminder`].
    #[stream_event(stream = "contradictory", partitions = 2, retention = "1h")]
    pub(super) struct Correction {}

    #[stream_event(stream = "contradictory", partitions = 3, retention = "2h")]
    pub(super) struct Reminder {}

    #[stream_event(stream = "invoices", name = "Invoice")]
    pub(super) struct Double {}

    #[consumer(group = "doubles")]
    pub(super) async fn double(_: Double) {}
}

#[test]
fn an_app_that_is_right_is_not_refused() {
    assert_eq!(problems(&App::with(consumers![ship, bill, book]).state(Lab::default())), Vec::<String>::new());
}

#[test]
fn an_app_without_consumers_is_refused() {
    refuses(&App::with([]), &["there is no consumer"]);
}

#[test]
fn a_consumer_that_is_listed_twice_is_one() {
    assert_eq!(problems(&App::with(consumers![book, book]).state(Lab::default())), Vec::<String>::new());
}

#[test]
fn two_consumers_of_one_event_in_one_group_are_refused_and_both_are_named() {
    let app = App::with(consumers![book, wrong::second]).state(Lab::default());
    refuses(&app, &["both consume `Invoice`"]);
    let problem = &problems(&app)[0];
    assert!(problem.contains("`book`") && problem.contains("`second`") && problem.contains("basics.rs:"), "{problem}");
}

#[test]
fn missing_states_are_named_whoever_asks_for_them() {
    refuses(&App::with(consumers![ship, wrong::demands]), &["State<streams_tests::lab::Lab>", "Ipv4Addr", "Ipv6Addr"]);
}

#[test]
fn a_state_given_twice_is_refused() {
    refuses(&App::with(consumers![book]).state(Lab::default()).state(Lab::default()), &["two values of type"]);
}

#[test]
fn groups_that_nobody_is_in_are_refused() {
    let config = Config::new().group("nobody", ConsumerOptions::DEFAULT);
    let app = App::with(consumers![book]).state(Lab::default()).only_groups(["none", "books"]).config(config);
    refuses(&app, &["group `none`; there are: books", "group `nobody`"]);
}

#[test]
fn declarations_that_contradict_each_other_are_refused_one_by_one() {
    let app = App::with(consumers![wrong::from_now_on, wrong::from_the_beginning]);
    refuses(&app, &["different `start`", "different `checkpoint`", "different `partitions`", "different `retention`"]);
}

#[test]
fn two_types_under_one_name_and_version_are_refused() {
    let app = App::with(consumers![book, wrong::double]).state(Lab::default());
    refuses(&app, &["are both `Invoice` version 1"]);
}

#[test]
fn a_config_that_cannot_work_is_refused() {
    let mut options = ConsumerOptions::DEFAULT.with_max_attempts(0).with_timeout(Duration::ZERO);
    options.backoff = Some(Backoff { first: secs(2), max: secs(1) });
    let mut config = Config::new().lease(Duration::from_millis(5)).consumers(options);
    config.dead_letter_storm = 0;
    let app = App::with(consumers![book]).state(Lab::default()).config(config).namespace("{}");
    refuses(&app, &["lease", "`max_attempts` is 0", "`timeout` is zero", "`backoff`", "`dead_letter_storm`", "`{}`"]);
}

#[tokio::test]
async fn start_reports_everything_that_is_wrong_before_it_connects() {
    let broker = Arc::new(Redis::open("redis://127.0.0.1:1/").unwrap());
    let app = App::with(consumers![book, wrong::second]).namespace("{}").broker(broker);
    let error = app.start().await.unwrap_err();
    let report = format!("{error:?}");
    assert_eq!(report.lines().count(), 4, "{report}");
    assert!(report.starts_with("this app cannot start:\n  - "), "{report}");
}

#[tokio::test]
async fn another_number_of_partitions_than_the_recorded_one_refuses_the_start() {
    let store = Arc::new(Embedded::new());
    store.declare(&StreamKey::new(None, "orders", 3)).await.unwrap();
    let app = App::with(consumers![ship]).state(Lab::default());
    let error = TestApp::start_with(app, store, 0).await.unwrap_err();
    assert!(error.to_string().contains("it is in use with 3"), "{error}");
}
