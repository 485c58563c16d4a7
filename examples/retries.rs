//! Failures lead to another attempt, or to a dead letter. An operator reads, replays and discards dead letters.
//!
//! ```sh
//! cargo run --example retries                               # embedded broker, no server
//! REDIS_URL=redis://127.0.0.1/ cargo run --example retries  # the same on a real Redis
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use streams_runtime::{
    App, BoxError, Cause, Config, DeadLetterFilter, Message, Outcome, Running, State, consumer, permanent, stream_event,
};

/// Money that shall go to an account.
#[stream_event(stream = "payouts", key = account)]
#[derive(Debug, Clone)]
struct Payout {
    account: String,
    cents: i64,
}

/// Pays out. Its return value decides what becomes of the event:
///
/// * `Err` is a failed attempt: the event is tried again after 20 ms, 40 ms, 80 ms, .. and its partition waits, because order
///   is the promise. After the fourth it goes to the dead letters.
/// * `permanent(..)` says that no number of attempts helps: to the dead letters at once.
/// * `Outcome::RetryAfter` says when to come back, and counts as an attempt, too.
/// * A panic is a failed attempt, and so is a handler that outruns its `timeout`.
#[consumer(group = "bank", max_attempts = 4, backoff = "20ms..1s", timeout = "5s")]
async fn pay(payout: &Message<Payout>, bank: State<Bank>) -> Result<Outcome, BoxError> {
    let Payout { account, cents } = &payout.event;
    println!("  attempt {}: {cents} cents to {account}", payout.attempt());
    if *cents <= 0 {
        return Err(permanent(format!("{cents} cents cannot be paid out")).into());
    }
    match bank.pay(account, *cents) {
        Ok(()) => Ok(Outcome::Done),
        Err(Refusal::Maintenance(wait)) => Ok(Outcome::RetryAfter(wait)),
        Err(Refusal::Closed) => Err(format!("account {account} is closed").into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // No subscriber here: each failed attempt would be a WARN line of its own between what this program prints.
    let bank = Bank::default();
    // A replay is noticed when the lease is renewed, three times per lease.
    let config = Config::new().lease(Duration::from_secs(1));
    let app = App::linked().state(bank.clone()).config(config).from_environment().start().await?;

    println!("the bank is in maintenance for two calls, the account of `ben` is closed, one amount is negative:");
    bank.maintain(2);
    bank.close("ben");
    for (account, cents) in [("ada", 100), ("ben", 200), ("cem", -300), ("dea", 400)] {
        app.publisher().publish(&Payout { account: account.to_owned(), cents }).await?;
    }
    app.settled().await?;
    println!("paid: {:?}", bank.paid());

    println!("\ndead letters:");
    let letters = app.dead_letters::<Payout>("bank");
    for letter in letters.list(None, 100).await? {
        println!(
            "  {}: {:?}, {} at attempt {}: {}",
            letter.id(),
            letter.decode(),
            letter.cause(),
            letter.attempts(),
            letter.reason()
        );
    }

    println!("\n`ben` has a new account; replaying:");
    bank.open("ben");
    // By the group `bank` alone: another group that has long settled the event does not see it again.
    let replayed = letters.replay_all(&DeadLetterFilter::all().reason("is closed")).await?;
    println!("  {} sent to be handled again", replayed.moved);
    while !letters.replaying(1).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("paid: {:?}", bank.paid());
    // Somebody has looked at it: nothing will ever make it right.
    for letter in letters.find(&DeadLetterFilter::all().cause(Cause::Permanent), None, 100).await? {
        letters.discard(&[letter.id()]).await?;
        println!("{} is discarded: {}", letter.id(), letter.reason());
    }
    stop(app).await
}

async fn stop(app: Running) -> Result<(), Box<dyn Error>> {
    match app.shutdown().await {
        streams_runtime::Stopped::Clean => Ok(()),
        stopped => Err(format!("{stopped:?}").into()),
    }
}

/// Somebody else's service, which is not always there.
#[derive(Clone, Default)]
struct Bank {
    inner: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    maintenance: u32,
    closed: Vec<String>,
    paid: BTreeMap<String, i64>,
}

enum Refusal {
    Maintenance(Duration),
    Closed,
}

impl Bank {
    fn with<T>(&self, act: impl FnOnce(&mut Books) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn maintain(&self, calls: u32) {
        self.with(|books| books.maintenance = calls);
    }

    fn close(&self, account: &str) {
        self.with(|books| books.closed.push(account.to_owned()));
    }

    fn open(&self, account: &str) {
        self.with(|books| books.closed.retain(|closed| closed != account));
    }

    fn pay(&self, account: &str, cents: i64) -> Result<(), Refusal> {
        self.with(|books| {
            if books.maintenance > 0 {
                books.maintenance -= 1;
                return Err(Refusal::Maintenance(Duration::from_millis(50)));
            }
            if books.closed.iter().any(|closed| closed == account) {
                return Err(Refusal::Closed);
            }
            *books.paid.entry(account.to_owned()).or_default() += cents;
            Ok(())
        })
    }

    fn paid(&self) -> BTreeMap<String, i64> {
        self.with(|books| books.paid.clone())
    }
}
