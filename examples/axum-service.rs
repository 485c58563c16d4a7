//! A web service: a route publishes, each replica keeps the last price of every symbol, probes ask whether its copy is
//! whole, and one signal stops all in order.
//!
//! ```sh
//! cargo run --example axum-service                               # embedded broker, no server; PORT=8080 by default
//! REDIS_URL=redis://127.0.0.1/ cargo run --example axum-service  # the same on a real Redis
//!
//! curl -i -d '{"symbol":"BTC-USD","price":39432.48,"quantity":0.25}' -H 'content-type: application/json' localhost:8080/trades
//! curl localhost:8080/prices
//! curl -i localhost:8080/ready
//! curl localhost:8080/metrics
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use streams_runtime::{App, BoxError, Monitor, Publisher, Snapshots, Stopped, consumer, stream_event};

/// One fill on the exchange.
#[stream_event(stream = "trades", key = symbol)]
#[derive(Debug, Clone)]
struct Trade {
    symbol: String,
    price: f64,
    quantity: f64,
}

/// The body of the route. It is no event on purpose, because the web and the stream change at different times.
#[derive(serde::Deserialize)]
struct NewTrade {
    symbol: String,
    price: f64,
    quantity: f64,
}

/// The last price of a symbol, and of how many trades it is the last.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Last {
    price: f64,
    trades: u64,
}

/// The last prices, by symbol.
type Prices = Arc<RwLock<BTreeMap<String, Last>>>;

/// Every replica handles every trade, so each has all prices. An ordered group would give each a part of them.
#[consumer(group = "prices", delivery = "broadcast")]
async fn keep(trade: Trade, prices: streams_runtime::State<Prices>) {
    let mut prices = prices.write().unwrap_or_else(PoisonError::into_inner);
    let last = prices.entry(trade.symbol).or_default();
    *last = Last { price: trade.price, trades: last.trades + 1 };
}

/// The state that the routes share.
#[derive(Clone)]
struct Service {
    publisher: Publisher,
    monitor: Monitor,
    prices: Prices,
}

/// Answers when the trade stands in the stream, not before: whoever gets 202 may forget it.
async fn publish(State(service): State<Service>, Json(new): Json<NewTrade>) -> (StatusCode, String) {
    let trade = Trade { symbol: new.symbol, price: new.price, quantity: new.quantity };
    match service.publisher.publish(&trade).await {
        Ok(receipt) => (StatusCode::ACCEPTED, receipt.event_id.to_string()),
        // The server is full: the caller may come again later.
        Err(error) if error.is_backpressure() => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn prices(State(service): State<Service>) -> Json<BTreeMap<String, Last>> {
    Json(service.prices.read().unwrap_or_else(PoisonError::into_inner).clone())
}

/// For a readiness probe: not ready until the copy of prices is whole, nor while a group is not well. Nobody asks the broker
/// for it.
///
/// The text is made from `service.monitor.status()`, which holds the same as data. With the feature `http` the app
/// answers `/readyz`, `/livez` and `/metrics` by itself, on a port of its own.
async fn ready(State(service): State<Service>) -> (StatusCode, String) {
    let health = service.monitor.health();
    (if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, health.to_string())
}

async fn metrics(State(service): State<Service>) -> String {
    service.monitor.metrics()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    let prices = Prices::default();
    // A start reads on from the last snapshot, and not all trades again.
    let every = std::env::var("SNAPSHOT_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(30);
    let snapshots = Snapshots::every(Duration::from_secs(every));
    let app = App::linked().state(prices.clone()).snapshots("prices", snapshots, prices.clone());
    let app = app.from_environment().start().await?;
    let service = Service { publisher: app.publisher().clone(), monitor: app.monitor().clone(), prices };
    let routes = Router::new()
        .route("/trades", post(publish))
        .route("/prices", get(self::prices))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(service);

    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    // One shutdown, from the outside in: no new requests, those under way are answered, then the groups settle and commit.
    axum::serve(listener, routes).with_graceful_shutdown(asked_to_stop()).await?;
    match app.shutdown().await {
        Stopped::Clean => Ok(()),
        stopped => Err(format!("{stopped:?}").into()),
    }
}

/// Ctrl-C, or what an orchestrator sends.
async fn asked_to_stop() {
    #[cfg(unix)]
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(_) => return drop(tokio::signal::ctrl_c().await),
    };
    #[cfg(unix)]
    let terminate = terminate.recv();
    #[cfg(not(unix))]
    let terminate = std::future::pending::<Option<()>>();
    tokio::select! {
        _ = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
