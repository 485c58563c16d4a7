//! The guides' code, word for word. A test holds every block of Rust in docs/ to this file, where it compiles and runs.

#![allow(dead_code, reason = "an operator's tool is shown, and compiled, but not run")]
#![allow(
    clippy::inconsistent_digit_grouping,
    reason = "cents are set apart from whole units, as a reader of the guide would write them"
)]

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use streams_runtime::Snapshots;
use streams_runtime::{Message, Publisher, State, consumer, stream_event};

#[stream_event(stream = "transfers", key = account)]
#[derive(Debug, Clone, PartialEq)]
struct Transfer {
    account: String,
    cents: i64,
}

#[stream_event(stream = "alarms")]
#[derive(Debug, Clone, PartialEq)]
struct Alarm {
    account: String,
}

#[derive(Clone)]
struct Threshold(i64);

#[consumer(group = "watch", max_attempts = 3)]
async fn watch(
    transfer: &Message<Transfer>,
    threshold: State<Threshold>,
    publisher: Publisher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if transfer.headers().get("tenant").is_none() {
        return Err("the transfer has no tenant".into());
    }
    if transfer.event.cents > threshold.0.0 {
        let alarm = Alarm { account: transfer.event.account.clone() };
        // The same for every attempt, so whoever reads the alarm twice can tell.
        publisher.publish(&alarm).id(format!("alarm-{}", transfer.event_id())).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_large_transfer_raises_an_alarm() {
    let publisher = Publisher::test();
    let transfer = Transfer { account: "ada".into(), cents: 5_000_00 };
    let message = Message::new(transfer).with_header("tenant", "a");
    watch(&message, State(Threshold(1_000_00)), publisher.clone()).await.unwrap();
    assert_eq!(publisher.published::<Alarm>().await.unwrap(), [Alarm { account: "ada".into() }]);
}

use streams_runtime::testing::TestApp;
use streams_runtime::{App, consumers};

#[tokio::test]
async fn what_comes_of_a_transfer() -> Result<(), Box<dyn std::error::Error>> {
    let app = TestApp::start(App::with(consumers![watch]).state(Threshold(1_000_00))).await?;
    let transfer = Transfer { account: "ada".into(), cents: 5_000_00 };
    app.publisher().publish(&transfer).header("tenant", "a").await?;
    // This one lacks its header: three attempts, then the dead letters.
    app.publish(&transfer).await?;
    app.settled().await?;

    assert_eq!(app.published::<Alarm>().await?.len(), 1);
    let letters = app.dead_letters::<Transfer>("watch").await?;
    assert_eq!((letters.len(), letters[0].attempts()), (1, 3));
    assert_eq!(letters[0].reason(), "the transfer has no tenant");
    Ok(())
}

use std::sync::Arc;
use streams_runtime::broker::Embedded;

#[tokio::test]
async fn a_restart_goes_on_where_the_last_one_was() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Arc::new(Embedded::new());
    let app = || App::with(consumers![watch]).state(Threshold(0));
    for round in 1..=2 {
        let app = TestApp::start_with(app(), broker.clone(), 7).await?;
        let transfer = Transfer { account: "ada".into(), cents: 1 };
        app.publisher().publish(&transfer).header("tenant", "a").await?;
        app.settled().await?;
        assert_eq!(app.published::<Alarm>().await?.len(), round);
        let _ = app.into_running().shutdown().await;
    }
    Ok(())
}

#[tokio::test]
async fn in_real_time() -> Result<(), Box<dyn std::error::Error>> {
    let app = App::with(consumers![watch]).state(Threshold(0)).broker(Arc::new(Embedded::new())).start().await?;
    let transfer = Transfer { account: "ada".into(), cents: 1 };
    app.publisher().publish(&transfer).header("tenant", "a").await?;
    app.settled().await?;
    assert_eq!(app.status().groups[0].handled, 1);
    let _ = app.shutdown().await;
    Ok(())
}

#[test]
fn the_app_would_start() {
    App::with(consumers![watch]).state(Threshold(0)).check().unwrap();
}

use streams_runtime::{Admin, EntryId, Start, broker::Redis};

async fn reset(url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let admin = Admin::on(Arc::new(Redis::open(url)?), None)?;
    // Everything that is there, again:
    admin.reset("trades", "risk", Start::Earliest).await?;
    // One partition only, from a moment on (milliseconds since 1970):
    admin.reset("orders.3", "risk", Start::At(EntryId::new(1_767_323_045_000, 0))).await?;
    // Nothing of what is there:
    admin.reset("trades", "audit", Start::Latest).await?;
    Ok(())
}

#[consumer(group = "billing", adopt = true)]
async fn bill(transfer: Transfer) {
    println!("{} cents for {}", transfer.cents, transfer.account);
}

use streams_runtime::console::Console;

fn routes(token: String) -> Result<axum::Router, Box<dyn std::error::Error>> {
    let broker = streams_runtime::broker::Redis::open("redis://127.0.0.1/")?;
    let console = Console::on(std::sync::Arc::new(broker), None)?.token(token).production("production");
    Ok(axum::Router::new().nest("/internal/streams", console.router()))
}

/// One fill on the exchange.
#[stream_event(stream = "guide-trades", key = symbol, lock = false)]
struct Trade {
    symbol: String,
    price: f64,
}

/// The last prices, by symbol.
type Prices = Arc<RwLock<HashMap<String, f64>>>;

#[consumer(group = "prices", delivery = "broadcast")]
async fn keep(trade: Trade, State(prices): State<Prices>) {
    prices.write().unwrap_or_else(PoisonError::into_inner).insert(trade.symbol, trade.price);
}

async fn serve(prices: Prices) -> Result<(), Box<dyn std::error::Error>> {
    let running = App::linked().state(prices.clone()).from_environment().start().await?;
    running.caught_up().await?;
    // Answer requests from `prices` from here on.
    running.stopping().await;
    println!("stopped: {:?}", running.shutdown().await);
    Ok(())
}

fn with_snapshots(prices: Prices) -> App {
    let every = Snapshots::every(Duration::from_secs(60));
    App::linked().state(prices.clone()).snapshots("prices", every, prices)
}

use streams_runtime::Running;

/// The whole of a gateway beside its routes.
async fn gateway() -> Result<Running, streams_runtime::Error> {
    App::linked().publish_only().from_environment().start().await
}

use tokio::sync::OnceCell;

static PUBLISHER: OnceCell<Publisher> = OnceCell::const_new();

async fn publisher() -> Result<&'static Publisher, Box<dyn std::error::Error>> {
    Ok(PUBLISHER.get_or_try_init(|| Publisher::connect("redis://127.0.0.1/")).await?)
}

use streams_runtime::{Context, PublishError};

#[consumer(group = "bookkeeping")]
async fn book(transfer: &Message<Transfer>, ctx: Context, publisher: Publisher) -> Result<(), PublishError> {
    for (n, side) in (0..).zip(["debit", "credit"]) {
        let alarm = Alarm { account: format!("{}/{side}", transfer.event.account) };
        publisher.publish(&alarm).id(ctx.derived_id(n)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn another_attempt_publishes_under_the_same_ids() {
    let (publisher, transfer) = (Publisher::test(), Message::new(Transfer { account: "ada".into(), cents: 1 }));
    let mut ids = Vec::new();
    for attempt in 1..=2 {
        book(&transfer, Context::test().with_attempt(attempt), publisher.clone()).await.unwrap();
        ids.push(publisher.last::<Alarm>().await.unwrap().unwrap().event_id());
    }
    assert_eq!(ids[0], ids[1]);
}

async fn relay(publisher: &Publisher, key: &str, id: &str, bytes: Vec<u8>) -> Result<(), PublishError> {
    publisher.publish_raw("transfers", "Transfer", 1, bytes).key(key).id(id).await?;
    Ok(())
}

use futures_util::TryStreamExt;

async fn balance(app: &Running, account: &str) -> Result<i64, streams_runtime::ReadError> {
    let mut transfers = app.read::<Transfer>(Start::Earliest);
    let mut cents = 0;
    while let Some(transfer) = transfers.try_next().await? {
        cents += if transfer.event.account == account { transfer.event.cents } else { 0 };
    }
    Ok(cents)
}

#[tokio::test]
async fn a_balance_is_the_sum_of_the_transfers() -> Result<(), Box<dyn std::error::Error>> {
    let app = App::with([]).publish_only().broker(Arc::new(Embedded::new())).start().await?;
    for cents in [5_00, -2_00] {
        app.publisher().publish(&Transfer { account: "ada".into(), cents }).await?;
    }
    assert_eq!(balance(&app, "ada").await?, 3_00);
    let _ = app.shutdown().await;
    Ok(())
}

/// The guides with code of their own here.
const GUIDES: [(&str, &str); 5] = [
    ("copies", include_str!("../../../../docs/copies.md")),
    ("console", include_str!("../../../../docs/console.md")),
    ("publishing", include_str!("../../../../docs/publishing.md")),
    ("testing", include_str!("../../../../docs/testing.md")),
    ("operating", include_str!("../../../../docs/operating.md")),
];

#[test]
fn the_guides_say_what_is_tested_here() {
    for (guide, text) in GUIDES {
        let blocks: Vec<_> = text.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{guide}");
        for block in blocks {
            assert!(include_str!("guides.rs").contains(block), "{guide}: not in guides.rs:\n{block}");
        }
    }
}
