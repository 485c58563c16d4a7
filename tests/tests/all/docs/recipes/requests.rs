//! The recipe of requests with replies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use streams_runtime::{BoxError, Message, Publisher, State, consumer, permanent, stream_event};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Somebody asks for a price.
#[stream_event(stream = "quote-requests", lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct QuoteWanted {
    pub symbol: String,
}

/// The price.
#[stream_event(stream = "quote-replies", retention = "1h", lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Quoted {
    pub symbol: String,
    pub cents: u64,
}

/// The service that answers: whichever process is free.
#[consumer(group = "quotes", delivery = "queue")]
async fn quote(wanted: &Message<QuoteWanted>, publisher: Publisher) -> Result<(), BoxError> {
    let correlation = wanted.headers().get("correlation").ok_or_else(|| permanent("nobody waits for the reply"))?;
    let reply = Quoted { symbol: wanted.event.symbol.clone(), cents: 450 };
    publisher.publish(&reply).id(format!("reply-{correlation}")).header("correlation", correlation).await?;
    Ok(())
}

/// Those in this process who wait, by correlation.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<HashMap<String, oneshot::Sender<Quoted>>>>);

/// The program that asks: every process reads all replies, and takes its own.
#[consumer(group = "quote-askers", delivery = "broadcast", start = "latest")]
async fn answered(reply: Message<Quoted>, State(waiting): State<Waiting>) {
    let mut waiting = waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(asker) = reply.headers().get("correlation").and_then(|correlation| waiting.remove(correlation)) {
        // An asker who has given up is no error.
        let _ = asker.send(reply.event);
    }
}

async fn ask(publisher: &Publisher, waiting: &Waiting, symbol: &str) -> Result<Quoted, BoxError> {
    let correlation = Uuid::now_v7().to_string();
    let (asker, reply) = oneshot::channel();
    {
        let mut waiting = waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who gave up, or whose own caller did, make room.
        waiting.retain(|_, asker| !asker.is_closed());
        waiting.insert(correlation.clone(), asker);
    }
    let wanted = QuoteWanted { symbol: symbol.to_owned() };
    publisher.publish(&wanted).header("correlation", correlation).await?;
    Ok(tokio::time::timeout(Duration::from_secs(5), reply).await??)
}

#[tokio::test]
async fn a_request_gets_its_own_reply_or_none_in_time() -> Result<(), BoxError> {
    use streams_runtime::testing::TestApp;
    use streams_runtime::{App, consumers};

    let waiting = Waiting::default();
    let app = TestApp::start(App::with(consumers![quote, answered]).state(waiting.clone())).await?;
    let (tea, rum) = tokio::join!(ask(app.publisher(), &waiting, "tea"), ask(app.publisher(), &waiting, "rum"));
    assert_eq!((tea?.symbol.as_str(), rum?.symbol.as_str()), ("tea", "rum"));
    assert!(waiting.0.lock().unwrap().is_empty());

    let silent = TestApp::start(App::with(consumers![answered]).state(waiting.clone())).await?;
    let error = ask(silent.publisher(), &waiting, "tea").await.unwrap_err();
    assert_eq!(error.to_string(), "deadline has elapsed");
    Ok(())
}
