//! The recipe of a rate limit.

use std::sync::Arc;
use std::time::Duration;

use streams_runtime::{BoxError, Outcome, State, consumer, stream_event};
use tokio::sync::Mutex;
use tokio::time::{Interval, MissedTickBehavior};

/// A customer is to get a text message.
#[stream_event(stream = "texts", key = phone, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct TextDue {
    pub phone: String,
    pub text: String,
}

/// The calls that a provider allows, evenly spread.
#[derive(Clone)]
struct Pace(Arc<Mutex<Interval>>);

impl Pace {
    fn per_second(calls: u32) -> Self {
        let mut interval = tokio::time::interval(Duration::from_secs(1) / calls);
        // After a pause the calls that were not made are not made all at once.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(Arc::new(Mutex::new(interval)))
    }

    async fn turn(&self) {
        self.0.lock().await.tick().await;
    }
}

/// The provider's answer.
enum Answer {
    Sent,
    TooMany { retry_after: Duration },
}

#[consumer(group = "texts")]
async fn send(due: TextDue, pace: State<Pace>) -> Result<Outcome, BoxError> {
    pace.turn().await;
    match call(&due.phone, &due.text).await? {
        Answer::Sent => Ok(Outcome::Done),
        // The provider knows best. This is a failed attempt, so `max_attempts` bounds it.
        Answer::TooMany { retry_after } => Ok(Outcome::RetryAfter(retry_after)),
    }
}

async fn call(phone: &str, text: &str) -> Result<Answer, BoxError> {
    match text {
        "" => Err(format!("nothing to tell {phone}").into()),
        "later" if LATER.swap(false, std::sync::atomic::Ordering::Relaxed) => {
            Ok(Answer::TooMany { retry_after: Duration::from_secs(60) })
        }
        _ => Ok(Answer::Sent),
    }
}

/// Whether the provider still refuses the text `later`.
static LATER: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);

#[tokio::test]
async fn calls_are_spread_and_the_providers_wait_is_kept() -> Result<(), BoxError> {
    use streams_runtime::testing::TestApp;
    use streams_runtime::{App, consumers};

    let app = TestApp::start(App::with(consumers![send]).state(Pace::per_second(5))).await?;
    let began = tokio::time::Instant::now();
    app.publisher().publish_all((0..11).map(|_| TextDue { phone: "1".into(), text: "hello".into() })).await;
    app.settled().await?;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");

    app.publish(&TextDue { phone: "1".into(), text: "later".into() }).await?;
    app.settled().await?;
    assert!(began.elapsed() >= took + Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!((app.status("texts").handled, app.status("texts").retried), (12, 1));
    Ok(())
}
