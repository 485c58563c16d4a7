//! A busy server with every kind of trouble, the console of a program, and one beside it that hides fields and only reads:
//! `cargo xtask screenshots` looks at them until standard input ends.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use streams_runtime::broker::{DeadBounds, Redis};
use streams_runtime::console::Console;
use streams_runtime::{
    Admin, App, BoxError, Config, Outcome, Publisher, Redact, Registration, Running, consumer, consumers, stream_event,
};
use streams_tests::RedisServer;
use tokio::net::TcpListener;

/// The token for acts.
const TOKEN: &str = "showcase-token-1234";
/// The letters of a group that had no luck.
const LETTERS: usize = 100_000;

/// An order of a customer.
///
/// The shop publishes it once the customer has confirmed.
#[stream_event(stream = "orders", key = customer, partitions = 4)]
#[derive(Debug, Clone)]
struct Order {
    id: u64,
    customer: String,
    cents: u64,
    note: String,
}

/// A payment of an order.
#[stream_event(stream = "payments", key = order)]
#[derive(Debug, Clone)]
struct Payment {
    order: u64,
    amount: f64,
    method: String,
}

/// A parcel that came in from another shop.
#[stream_event(stream = "imports")]
#[derive(Debug, Clone)]
struct Import {
    /// Its number at the other shop.
    number: u64,
    weight: f64,
    express: bool,
    note: Option<String>,
    items: Vec<String>,
}

/// Writes the bill of each order.
#[consumer(group = "billing")]
async fn bill(_order: Order) {}

#[consumer(group = "mail", delivery = "queue", concurrency = 4)]
async fn send_mail(_order: Order) {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Falls behind.
#[consumer(group = "search")]
async fn index(_order: Order) {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

/// Asks the model whether an order is a fraud.
///
/// The model answers within 200 ms or not at all.
#[consumer(group = "fraud", max_attempts = 2, backoff = "10ms..20ms", timeout = "200ms")]
async fn check(order: Order) -> Result<Outcome, BoxError> {
    match order.id % 97 {
        1 => Ok(Outcome::dead_letter(format!("order {} over {} cents has no address", order.id, order.cents))),
        2 => Err(format!("the model answers 503 to order {}", order.id).into()),
        3 => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(Outcome::Done)
        }
        _ => Ok(Outcome::Done),
    }
}

#[consumer(group = "ledger")]
async fn book(payment: Payment) -> Result<Outcome, BoxError> {
    Ok(Outcome::dead_letter(format!("the account of order {} is closed", payment.order)))
}

#[consumer(group = "reports", max_attempts = 1000)]
async fn report(payment: Payment) -> Result<(), BoxError> {
    if payment.order == 40 { Err("the warehouse does not answer".into()) } else { Ok(()) }
}

#[consumer(group = "exports")]
async fn export(_payment: Payment) {}

#[consumer(group = "old-reports")]
async fn old_report(_payment: Payment) {}

#[consumer(group = "importer")]
async fn import(_import: Import) {}

async fn app(
    broker: &Arc<Redis>,
    consumers: impl IntoIterator<Item = Registration>,
) -> Result<Running, Box<dyn Error>> {
    let bounds = DeadBounds { count: 2 * LETTERS as u64, age: Duration::from_secs(24 * 3600) };
    let config = Config::new().dead_letters(bounds);
    Ok(App::with(consumers).broker(broker.clone()).config(config).start().await?)
}

/// Lets a group have very many dead letters, in the form of `docs/wire-format.md`.
fn write_letters(server: &RedisServer, payload: &[u8]) {
    let mut client = RedisServer::client(&server.url());
    for page in 0..LETTERS / 1_000 {
        let mut adds = redis::pipe();
        for n in page * 1_000..(page + 1) * 1_000 {
            let add = adds.cmd("XADD").arg("streams:{imports}:importer:dead").arg("*");
            let fields =
                [("stream", "imports"), ("entry", "1767225600000-0"), ("group", "importer"), ("consumer", "import")];
            for (name, value) in fields {
                add.arg(name).arg(value);
            }
            add.arg("cause")
                .arg("handler")
                .arg("reason")
                .arg(format!("the scale answers {} to parcel {n}", 500 + n % 4));
            add.arg("attempts").arg(10).arg("o:event").arg("Import@1").arg("o:id").arg(format!("import-{n}"));
            add.arg("o:payload").arg(payload);
        }
        adds.query::<()>(&mut client).expect("letters are written");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = RedisServer::start();
    let broker = Arc::new(Redis::open(&server.url())?);
    let old = app(&broker, consumers![old_report]).await?;
    old.publisher().publish(&payment(0)).await?;
    old.settled().await?;
    let _ = old.shutdown().await;
    let mut apps = Vec::new();
    for _ in 0..2 {
        apps.push(app(&broker, consumers![bill, send_mail, index, check, book, report, export, import]).await?);
    }
    let publisher = apps[0].publisher().clone();
    let long = "<script>alert(document.domain)</script> ".repeat(3);
    for id in 0..400 {
        publish(&publisher, id, if id == 250 { &long } else { "gift" }).await?;
    }
    let import = Import { number: 1, weight: 0.5, express: true, note: None, items: vec!["a book".to_owned()] };
    publisher.publish(&import).await?;
    let mut payload = Vec::new();
    streams_runtime::codec::encode(&import, &mut payload)?;
    write_letters(&server, &payload);
    let admin = Admin::on(broker.clone(), None)?;
    admin.pause("payments", "exports", "alice", "the warehouse moves to another data centre").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let beside = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/ {TOKEN} http://{}/", listener.local_addr()?, beside.local_addr()?);
    let console = apps[0].console().token(TOKEN).production("staging");
    let hiding = Console::on(broker.clone(), None)?.redact(Redact::new(["customer", "tenant"]));
    let publishing = async {
        for id in 400.. {
            publish(&publisher, id, "").await?;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(end);
    });
    tokio::select! {
        served = console.serve(listener) => served?,
        served = hiding.serve(beside) => served?,
        published = publishing => published?,
        _ = ended => {}
    }
    Ok(())
}

async fn publish(publisher: &Publisher, id: u64, note: &str) -> Result<(), Box<dyn Error>> {
    let order =
        Order { id, customer: format!("customer-{}", id % 31), cents: 100 + id * 7919 % 90_000, note: note.to_owned() };
    let correlation = format!("checkout-{}", id / 5);
    publisher.publish(&order).header("tenant", "<b>acme</b>").header("correlation_id", &correlation).await?;
    if id.is_multiple_of(5) {
        publisher.publish(&payment(id / 5)).header("correlation_id", &correlation).await?;
    }
    Ok(())
}

fn payment(order: u64) -> Payment {
    Payment { order, amount: order as f64 * 1.25, method: "card".to_owned() }
}
