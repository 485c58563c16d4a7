//! The recipe of a route that publishes.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use streams_runtime::{Publisher, stream_event};

/// A customer has ordered something.
#[stream_event(stream = "web-orders", key = customer, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Ordered {
    pub customer: String,
    pub item: String,
}

/// The body of the route. It is no event, because the web and the stream change at different times.
#[derive(serde::Deserialize)]
struct NewOrder {
    customer: String,
    item: String,
}

async fn order(
    State(publisher): State<Publisher>,
    headers: HeaderMap,
    Json(new): Json<NewOrder>,
) -> (StatusCode, String) {
    let event = Ordered { customer: new.customer, item: new.item };
    let mut publish = publisher.publish(&event);
    // The client's own id: when it asks again, readers see the same event.
    if let Some(key) = headers.get("idempotency-key").and_then(|value| value.to_str().ok()) {
        publish = publish.id(key);
    }
    match publish.await {
        Ok(receipt) => (StatusCode::ACCEPTED, receipt.event_id.to_string()),
        Err(error) if error.is_backpressure() => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn routes(publisher: Publisher) -> axum::Router {
    axum::Router::new().route("/orders", axum::routing::post(order)).with_state(publisher)
}

#[tokio::test]
async fn the_clients_key_is_the_events_id() {
    let publisher = Publisher::test();
    let _ = routes(publisher.clone());
    let headers = HeaderMap::from_iter([("idempotency-key".parse().unwrap(), "order-7".parse().unwrap())]);
    let new = || Json(NewOrder { customer: "ada".into(), item: "tea".into() });
    for _ in 0..2 {
        let answer = order(State(publisher.clone()), headers.clone(), new()).await;
        assert_eq!(answer, (StatusCode::ACCEPTED, "order-7".to_owned()));
    }
    let answer = order(State(publisher.clone()), HeaderMap::new(), new()).await;
    assert_eq!(answer.0, StatusCode::ACCEPTED);
    assert_ne!(answer.1, "order-7");
    assert_eq!(publisher.published::<Ordered>().await.unwrap().len(), 3);
}
