//! An event through three versions: what was stored by older programs is read as what it means today.
//!
//! ```sh
//! cargo run --example evolution    # embedded broker, no server
//! ```
//!
//! The shapes of all versions are in `schemas/payments.lock.json`, to which the compiler holds the types below.

use std::error::Error;
use std::sync::Arc;

use streams_runtime::broker::Embedded;
use streams_runtime::{App, Context, Publisher, Running, consumer, consumers, frozen_event, stream_event};

frozen_event! {
    /// Version 1: an amount was a float. The type is written from the lock.
    PaymentV1, stream = "payments", name = "Payment", version = 1, key = account
}
/// Version 2: whole cents, so that sums are exact. Kept by hand, which is as good.
#[stream_event(stream = "payments", name = "Payment", version = 2, upcast_from = PaymentV1, key = account)]
#[derive(Debug, Clone, PartialEq)]
struct PaymentV2 {
    account: String,
    cents: u64,
}

/// An amount that is none had a meaning once, and has none in version 2: such an event becomes a dead letter.
impl TryFrom<PaymentV1> for PaymentV2 {
    type Error = String;

    fn try_from(old: PaymentV1) -> Result<Self, String> {
        let cents = (old.amount * 100.0).round();
        if (0.0..1e15).contains(&cents) {
            Ok(Self { account: old.account, cents: cents as u64 })
        } else {
            Err(format!("{} is no amount", old.amount))
        }
    }
}

/// Version 3, today's: other currencies came.
#[stream_event(stream = "payments", version = 3, upcast_from = PaymentV2, key = account)]
#[derive(Debug, Clone, PartialEq)]
struct Payment {
    account: String,
    cents: u64,
    currency: Currency,
    /// Added later, without a new version: it may be missing, so old and new programs read each other's events.
    reference: Option<String>,
}

#[streams_runtime::event_type]
#[derive(Debug, Clone, Copy, PartialEq)]
enum Currency {
    Eur,
    Usd,
}

/// Before there were others, all was in euros.
impl From<PaymentV2> for Payment {
    fn from(old: PaymentV2) -> Self {
        Self { account: old.account, cents: old.cents, currency: Currency::Eur, reference: None }
    }
}

/// Handlers see today's event alone; `ctx.version()` tells which one was stored.
#[consumer(group = "ledger")]
async fn book(payment: Payment, ctx: Context) {
    let Payment { account, cents, currency, .. } = payment;
    println!("  version {}: {account} pays {}.{:02} {currency:?}", ctx.version(), cents / 100, cents % 100);
}

/// The event that next month's program will publish.
#[stream_event(stream = "payments", name = "Payment", version = 4, oldest = 4, lock = false)]
struct PaymentOfTomorrow {
    cents: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = Arc::new(Embedded::new());
    let publisher = Publisher::new(broker.clone());

    println!("three generations of programs publish, each its own version");
    for amount in [10.0, f64::NAN, 0.55] {
        publisher.publish(&PaymentV1 { account: "ada".into(), amount }).await?;
    }
    publisher.publish(&PaymentV2 { account: "ben".into(), cents: 2_000 }).await?;
    let usd = Payment { account: "cyd".into(), cents: 3_050, currency: Currency::Usd, reference: Some("a-17".into()) };
    publisher.publish(&usd).await?;

    println!("today's program reads them all, in order:");
    let app = App::with(consumers![book]).broker(broker).start().await?;
    app.settled().await?;

    println!("what has no meaning today is kept, with its bytes and the reason:");
    for letter in app.dead_letters::<PaymentV1>("ledger").list(None, 10).await? {
        println!("  {:?}: {}", letter.decode()?, letter.reason());
    }

    println!(
        "a version that this program does not know stops the group where it is, until a newer program takes over:"
    );
    publisher.publish(&PaymentOfTomorrow { cents: 1 }).await?;
    if let Err(halted) = app.settled().await {
        println!("  {halted}");
    }
    stop(app).await
}

async fn stop(app: Running) -> Result<(), Box<dyn Error>> {
    match app.shutdown().await {
        streams_runtime::Stopped::Clean => Ok(()),
        stopped => Err(format!("{stopped:?}").into()),
    }
}
