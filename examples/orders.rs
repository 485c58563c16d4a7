//! An order's life: three event types in one stream, handlers that publish, state, and an extractor of one's own.
//!
//! ```sh
//! cargo run --example orders                               # embedded broker, no server
//! REDIS_URL=redis://127.0.0.1/ cargo run --example orders  # the same on a real Redis; each run places new orders
//! ```
//!
//! ```text
//! OrderPlaced ──► payments: charge ──► OrderPaid ──► warehouse: ship ──► OrderShipped
//!      └──────────────────┴──────── board: placed, paid, shipped ────────────┘
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use streams_runtime::{
    App, BoxError, Context, FromContext, Needs, Outcome, Publisher, State, consumer, permanent, stream_event,
};
use tokio::sync::watch;

/// A customer wants something. All events of one order have its number as key, so they stay in order.
#[stream_event(stream = "orders", key = order)]
#[derive(Debug, Clone)]
struct OrderPlaced {
    order: u64,
    item: String,
    quantity: u32,
}

/// The money is there.
#[stream_event(stream = "orders", key = order)]
#[derive(Debug, Clone)]
struct OrderPaid {
    order: u64,
    /// The event carries the data that the warehouse needs, so no service asks another one, or stores its data.
    item: String,
    quantity: u32,
    cents: u64,
}

/// It is on its way.
#[stream_event(stream = "orders", key = order)]
#[derive(Debug, Clone)]
struct OrderShipped {
    order: u64,
    warehouse: String,
}

/// Charges for an order, and says so in the same stream.
///
/// Delivery is at least once, so this may run twice for an order. The event id derives from the order's, so whoever reads
/// the second `OrderPaid` can tell that it is the first one again.
#[consumer(group = "payments")]
async fn charge(
    placed: OrderPlaced,
    prices: State<Prices>,
    region: Region,
    publisher: Publisher,
) -> Result<(), BoxError> {
    let OrderPlaced { order, item, quantity } = placed;
    // No number of attempts gives it a price: to the dead letters at once.
    let price = prices.cents.get(&item).ok_or_else(|| permanent(format!("order {order}: `{item}` has no price")))?;
    let paid = OrderPaid { order, item, quantity, cents: price * u64::from(quantity) };
    publisher.publish(&paid).id(format!("order-{order}-paid")).header("region", region.name).await?;
    Ok(())
}

/// Ships what is paid for. The order's placing is of no interest here: this group has no consumer for it.
#[consumer(group = "warehouse")]
async fn ship(paid: OrderPaid, region: Region, publisher: Publisher) -> Result<(), BoxError> {
    let shipped = OrderShipped { order: paid.order, warehouse: region.warehouse };
    publisher.publish(&shipped).id(format!("order-{}-shipped", paid.order)).await?;
    Ok(())
}

/// The board sees every step. Its three functions are one group, so it sees them in the stream's order.
#[consumer(group = "board", start = "latest")]
async fn placed(placed: OrderPlaced, board: State<Board>) {
    board.show(placed.order, format!("placed: {} x {}", placed.quantity, placed.item));
}

#[consumer(group = "board", start = "latest")]
async fn paid(paid: OrderPaid, board: State<Board>) {
    board.show(paid.order, format!("paid: {}.{:02}", paid.cents / 100, paid.cents % 100));
}

#[consumer(group = "board", start = "latest")]
async fn shipped(shipped: OrderShipped, board: State<Board>) -> Outcome {
    if is_shipped(&board.orders.borrow(), shipped.order) {
        return Outcome::skip(format!("order {} was shipped before", shipped.order));
    }
    board.show(shipped.order, format!("shipped from {}", shipped.warehouse));
    Outcome::Done
}

/// Where the customer lives, which the producer says in a header, with the warehouse that serves the region.
struct Region {
    name: String,
    warehouse: String,
}

/// The warehouse of each region.
#[derive(Clone)]
struct Warehouses(Arc<BTreeMap<&'static str, &'static str>>);

impl FromContext for Region {
    type Rejection = BoxError;

    /// Without it an app that forgot its `.state(Warehouses(..))` would start, and fail at its first event.
    fn needs(needs: &mut Needs) {
        needs.state::<Warehouses>();
    }

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        let State(Warehouses(warehouses)) = State::from_context(ctx).await?;
        let name = ctx.headers().get("region").ok_or("the event has no header `region`")?;
        let warehouse = warehouses.get(name).ok_or_else(|| format!("no warehouse serves the region `{name}`"))?;
        Ok(Self { name: name.to_owned(), warehouse: (*warehouse).to_owned() })
    }
}

/// The prices.
#[derive(Clone)]
struct Prices {
    cents: Arc<BTreeMap<String, u64>>,
}

/// The steps of each order.
type Orders = BTreeMap<u64, Vec<String>>;

/// The board's lines since the program started.
#[derive(Clone, Default)]
struct Board {
    orders: watch::Sender<Orders>,
}

impl Board {
    fn show(&self, order: u64, step: String) {
        self.orders.send_modify(|orders| orders.entry(order).or_default().push(step));
    }
}

fn is_shipped(orders: &Orders, order: u64) -> bool {
    orders.get(&order).is_some_and(|steps| steps.iter().any(|step| step.starts_with("shipped")))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let board = Board::default();
    let prices = [("tea".to_owned(), 450), ("kettle".to_owned(), 3_900)];
    let app = App::linked()
        .state(board.clone())
        .state(Prices { cents: Arc::new(prices.into()) })
        .state(Warehouses(Arc::new([("eu", "Rotterdam"), ("us", "Memphis")].into())))
        .from_environment()
        .start()
        .await?;

    let first = app.publisher().last::<OrderPlaced>().await?.map_or(1, |last| last.event.order + 1);
    let wanted = [("tea", 2, "eu"), ("kettle", 1, "us"), ("unicorn", 1, "eu"), ("tea", 12, "us")];
    for (order, (item, quantity, region)) in (first..).zip(wanted) {
        let placed = OrderPlaced { order, item: item.to_owned(), quantity };
        // An order that is placed again because an answer was lost has the same id.
        app.publisher().publish(&placed).id(format!("order-{order}-placed")).header("region", region).await?;
    }

    // Nobody sells unicorns: three of the four are shipped.
    let mut shown = board.orders.subscribe();
    let shipped = shown.wait_for(|orders| (first..first + 4).filter(|order| is_shipped(orders, *order)).count() == 3);
    tokio::select! {
        shipped = shipped => drop(shipped?),
        _ = tokio::signal::ctrl_c() => {}
    }

    for (order, steps) in &*board.orders.borrow() {
        println!("order {order}: {}", steps.join("; "));
    }
    for letter in app.dead_letters::<OrderPlaced>("payments").list(None, 10).await? {
        println!("dead letter of payments: {}", letter.reason());
    }
    match app.shutdown().await {
        streams_runtime::Stopped::Clean => Ok(()),
        stopped => Err(format!("{stopped:?}").into()),
    }
}
