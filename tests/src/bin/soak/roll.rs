//! The workers of `cargo xtask roll`: an old build of a service and a new one.

use std::sync::Arc;

use streams_runtime::{App, Config, Context, State, consumer, consumers};
use streams_tests::soak::journal::Mark;
use streams_tests::soak::roll::{LEASE, Order, OrderV1, Shipped};
use streams_tests::soak::witness::Witness;

type Journal = State<Arc<Witness>>;

#[consumer(group = "orders")]
async fn take_v1(order: OrderV1, ctx: Context, journal: Journal) {
    journal.begins(&ctx, order.key, order.n).ends(Mark::Done);
}

#[consumer(group = "orders")]
async fn take(order: Order, ctx: Context, journal: Journal) {
    journal.begins(&ctx, order.key, order.n).ends(Mark::Done);
}

#[consumer(group = "orders")]
async fn ship(shipped: Shipped, ctx: Context, journal: Journal) {
    journal.begins(&ctx, shipped.key, shipped.n).ends(Mark::Done);
}

/// The old build.
pub(crate) fn old() -> App {
    App::with(consumers![take_v1]).config(Config::new().lease(LEASE))
}

/// The new one.
pub(crate) fn new() -> App {
    App::with(consumers![take, ship]).config(Config::new().lease(LEASE))
}
