//! The README's code, word for word: a test holds every block there to this file, where it compiles and runs.

#![allow(dead_code, unreachable_pub, reason = "it reads as a program and a crate of its own")]

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use streams_runtime::Publisher;

use streams_runtime::{App, State, consumer, stream_event};

/// One fill on the exchange. Trades of one symbol stay in order.
#[stream_event(stream = "trades", version = 1, key = symbol, retention = "24h")]
#[derive(Debug, Clone, PartialEq)]
pub struct Trade {
    pub symbol: String,
    pub price: f64,
    pub quantity: f64,
}

/// A state that a handler needs besides the event.
#[derive(Clone)]
pub struct Limits {
    pub most: f64,
}

#[consumer(group = "risk", max_attempts = 5)]
async fn check_limits(trade: Trade, limits: State<Limits>) -> Result<(), String> {
    let value = trade.price * trade.quantity;
    if value > limits.most { Err(format!("{value} is above {}", limits.most)) } else { Ok(()) }
}

#[tokio::main]
async fn main() -> Result<streams_runtime::Stopped, streams_runtime::Error> {
    App::linked().state(Limits { most: 1e6 }).run().await
}

async fn publish() -> Result<(), Box<dyn std::error::Error>> {
    let publisher = Publisher::connect("redis://127.0.0.1/").await?;
    let trade = Trade { symbol: "BTC-USD".into(), price: 39_432.48, quantity: 0.25 };
    publisher.publish(&trade).await?;
    publisher.publish(&trade).id("trade-553287559").header("venue", "a").await?;
    Ok(())
}

#[consumer(group = "prices", delivery = "broadcast")]
async fn keep(trade: Trade, State(prices): State<Arc<RwLock<HashMap<String, f64>>>>) {
    prices.write().unwrap().insert(trade.symbol, trade.price);
}

use streams_runtime::consumers;
use streams_runtime::testing::TestApp;

#[tokio::test]
async fn a_large_trade_is_refused() {
    let trade = Trade { symbol: "BTC-USD".into(), price: 2e6, quantity: 1.0 };
    assert!(check_limits(trade, State(Limits { most: 1e6 })).await.is_err());
}

#[tokio::test]
async fn what_keeps_failing_ends_among_the_dead_letters() -> Result<(), Box<dyn std::error::Error>> {
    let app = TestApp::start(App::with(consumers![check_limits]).state(Limits { most: 1e6 })).await?;
    app.publish(&Trade { symbol: "BTC-USD".into(), price: 2e6, quantity: 1.0 }).await?;
    app.settled().await?;
    let letters = app.dead_letters::<Trade>("risk").await?;
    assert_eq!((letters[0].attempts(), letters[0].reason()), (5, "2000000 is above 1000000"));
    Ok(())
}

#[test]
fn the_readme_says_what_is_tested_here() {
    let readme = include_str!("../../../../README.md");
    let blocks: Vec<_> = readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        assert!(include_str!("readme.rs").contains(block), "not in readme.rs:\n{block}");
    }
}
