//! The console over HTTP: its answers, its acts and their guards, and data that stays inert.

mod acts;
mod inert;
mod looks;
mod pages;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use streams_core::broker::Broker;
use streams_runtime::broker::Embedded;
use streams_runtime::console::Console;
use streams_runtime::{App, BoxError, Config, Outcome, Running, consumer, consumers, stream_event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The token of every console here.
const TOKEN: &str = "0123456789abcdef";

/// A parcel that is sent.
#[stream_event(stream = "parcels", key = n, partitions = 2)]
#[derive(Debug, Clone, PartialEq)]
struct Parcel {
    n: u64,
    note: String,
}

#[consumer(group = "weigh")]
async fn weigh(_parcel: Parcel) {}

/// Gives up every odd parcel.
#[consumer(group = "stamp", max_attempts = 1)]
async fn stamp(parcel: Parcel) -> Result<Outcome, BoxError> {
    match parcel.n % 4 {
        1 => Ok(Outcome::dead_letter(format!("parcel {} has no stamp", parcel.n))),
        3 => Err(format!("the scale does not answer for {}", parcel.n).into()),
        _ => Ok(Outcome::Done),
    }
}

/// An app that has handled so many parcels.
async fn app(broker: Arc<dyn Broker>, parcels: u64) -> Running {
    let config = Config::new().dead_letter_storm(u32::MAX);
    let running = App::with(consumers![weigh, stamp]).broker(broker).config(config).start().await.unwrap();
    let parcels = (0..parcels).map(|n| Parcel { n, note: format!("number {n}") });
    for receipt in running.publisher().publish_all(parcels).await {
        receipt.unwrap();
    }
    running.settled().await.unwrap();
    running
}

/// A console that is served.
struct Site {
    address: SocketAddr,
    serving: AbortHandle,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An answer: the status, the head in lower case, and the body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error").to_owned()
    }
}

impl Site {
    async fn serve(console: Console) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(console.serve(listener)).abort_handle();
        Self { address, serving }
    }

    /// With a token, on the broker.
    async fn on(broker: &Arc<dyn Broker>) -> Self {
        Self::serve(Console::on(Arc::clone(broker), None).unwrap().token(TOKEN)).await
    }

    async fn send(&self, head: &str, body: &str) -> Answer {
        let answered = tokio::time::timeout(Duration::from_secs(60), async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = Vec::new();
            stream.read_to_end(&mut response).await.unwrap();
            String::from_utf8(response).unwrap()
        });
        let response = answered.await.expect("an answer within a minute");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}", self.address), "").await
    }

    /// The JSON of a path that is there.
    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// An act as our own page sends it.
    async fn act(&self, act: &str, body: &Value) -> Answer {
        let head = format!(
            "POST /api/{act} HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/json\r\nAuthorization: Bearer {TOKEN}",
            self.address
        );
        self.send(&head, &body.to_string()).await
    }

    /// Looks again and again until the answer is so.
    async fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let value = self.json(path).await;
                if is_so(&value) {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it comes to pass within a minute")
    }
}

fn embedded() -> Arc<dyn Broker> {
    Arc::new(Embedded::new())
}
