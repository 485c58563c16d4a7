//! The code of the guide to schema evolution, word for word. A test holds every block there to this file, where it
//! compiles. `ShipmentV1` is written from `schemas/orders.lock.json` of this package.

#![allow(dead_code, unreachable_pub, reason = "it reads as a crate of its own")]

use streams_runtime::{Context, Publisher, consumer, frozen_event, stream_event};

#[stream_event(stream = "orders", name = "Order", version = 1, key = customer)]
#[derive(Debug, Clone, PartialEq)]
pub struct OrderV1 {
    pub customer: String,
    pub total: f64,
}

#[stream_event(stream = "orders", version = 2, upcast_from = OrderV1, key = customer)]
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub customer: String,
    pub total_cents: i64,
}

impl From<OrderV1> for Order {
    fn from(old: OrderV1) -> Self {
        Self { customer: old.customer, total_cents: (old.total * 100.0).round() as i64 }
    }
}

#[consumer(group = "ledger")]
async fn book(order: Order, ctx: Context) {
    println!("{} pays {} cents, published as version {}", order.customer, order.total_cents, ctx.version());
}

#[stream_event(stream = "orders", name = "Refund", version = 1)]
#[derive(Debug)]
pub struct RefundV1 {
    pub total: f64,
}

#[stream_event(stream = "orders", version = 2, upcast_from = RefundV1)]
#[derive(Debug)]
pub struct Refund {
    pub total_cents: u64,
}

impl TryFrom<RefundV1> for Refund {
    type Error = String;

    fn try_from(old: RefundV1) -> Result<Self, String> {
        let cents = (old.total * 100.0).round();
        if !(0.0..1e15).contains(&cents) {
            return Err(format!("{} is no total", old.total));
        }
        Ok(Self { total_cents: cents as u64 })
    }
}

frozen_event!(pub ShipmentV1, stream = "orders", name = "Shipment", version = 1);

#[stream_event(stream = "orders", version = 2, upcast_from = ShipmentV1)]
#[derive(Debug)]
pub struct Shipment {
    pub pieces: u32,
    pub carrier: String,
}

impl From<ShipmentV1> for Shipment {
    fn from(old: ShipmentV1) -> Self {
        let pieces = old.lines.iter().map(|line: &ShipmentV1Line| line.pieces).sum();
        // It had a default, which the lock does not know: `None` is a field that was left out.
        Self { pieces, carrier: old.carrier.unwrap_or_else(|| "by hand".to_owned()) }
    }
}

async fn place(publisher: &Publisher) -> Result<(), streams_runtime::PublishError> {
    // The first of the two deploys.
    publisher.publish(&OrderV1 { customer: "ada".into(), total: 10.0 }).await?;
    Ok(())
}

#[stream_event(stream = "orders", version = 3, oldest = 3)]
#[derive(Debug)]
pub struct Parcel {
    pub grams: u32,
}

#[test]
fn upcasters_mean_what_the_guide_says() {
    let order = Order::from(OrderV1 { customer: "ada".into(), total: 10.5 });
    assert_eq!(order, Order { customer: "ada".into(), total_cents: 1050 });
    assert_eq!(Refund::try_from(RefundV1 { total: -1.0 }).unwrap_err(), "-1 is no total");
    let lines = vec![ShipmentV1Line { sku: "a".into(), pieces: 2 }, ShipmentV1Line { sku: "b".into(), pieces: 3 }];
    let shipment = Shipment::from(ShipmentV1 { lines, carrier: None });
    assert_eq!((shipment.pieces, shipment.carrier.as_str()), (5, "by hand"));
}

#[test]
fn every_locked_event_is_declared() {
    use streams_runtime::schema::lock::check_locks;
    check_locks(env!("CARGO_MANIFEST_DIR"), option_env!("CARGO_BIN_NAME")).unwrap();
}

#[test]
fn the_guide_says_what_is_tested_here() {
    let guide = include_str!("../../../../docs/schema-evolution.md");
    let blocks: Vec<_> = guide.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 6);
    for block in blocks {
        assert!(include_str!("schema_evolution.rs").contains(block), "not in schema_evolution.rs:\n{block}");
    }
}
