//! The recipe of an idempotent write into SQL.

use self::stand_in as rusqlite;

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use streams_runtime::{BoxError, Context, Outcome, State, consumer, stream_event};

/// Money has moved.
#[stream_event(stream = "bank-transfers", key = account, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Transferred {
    pub account: String,
    pub cents: i64,
}

/// The unique key is the guard, and not a look before the write.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS handled (event_id TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, cents INTEGER NOT NULL);
";

#[derive(Clone)]
struct Accounts(Arc<Mutex<Connection>>);

#[consumer(group = "accounts")]
async fn book(event: Transferred, ctx: Context, State(accounts): State<Accounts>) -> Result<Outcome, BoxError> {
    let id = ctx.event_id().to_string();
    tokio::task::spawn_blocking(move || {
        let mut connection = accounts.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Both writes or none: dropped without a commit, the transaction is rolled back.
        let transaction = connection.transaction()?;
        if transaction.execute("INSERT OR IGNORE INTO handled VALUES (?1)", [&id])? == 0 {
            return Ok(Outcome::skip("booked before"));
        }
        transaction.execute(
            "INSERT INTO accounts VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET cents = cents + ?2",
            (&event.account, event.cents),
        )?;
        transaction.commit()?;
        Ok(Outcome::Done)
    })
    .await?
}

/// As much of `rusqlite` as the recipe calls, with the same signatures: the framework's tests need no database for more.
mod stand_in {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    #[derive(Clone, Default)]
    pub(super) struct Tables {
        handled: BTreeSet<String>,
        accounts: BTreeMap<String, i64>,
    }

    #[derive(Default)]
    pub(super) struct Connection {
        tables: Tables,
        pub(super) fails: u32,
    }

    pub(super) struct Transaction<'a> {
        connection: RefCell<&'a mut Connection>,
        tables: RefCell<Tables>,
    }

    pub(super) type Result<T> = std::result::Result<T, String>;

    pub(super) trait Params {
        fn given(self) -> (String, i64);
    }

    impl Params for [&String; 1] {
        fn given(self) -> (String, i64) {
            (self[0].clone(), 0)
        }
    }

    impl Params for (&String, i64) {
        fn given(self) -> (String, i64) {
            (self.0.clone(), self.1)
        }
    }

    impl Connection {
        pub(super) fn open_in_memory() -> std::result::Result<Self, Infallible> {
            Ok(Self::default())
        }

        pub(super) fn execute_batch(&self, sql: &str) -> Result<()> {
            if sql.contains("PRIMARY KEY") { Ok(()) } else { Err(format!("not the tables: {sql}")) }
        }

        pub(super) fn transaction(&mut self) -> Result<Transaction<'_>> {
            let tables = RefCell::new(self.tables.clone());
            Ok(Transaction { connection: RefCell::new(self), tables })
        }

        pub(super) fn cents(&self, account: &str) -> Option<i64> {
            self.tables.accounts.get(account).copied()
        }
    }

    impl Transaction<'_> {
        pub(super) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
            let (text, cents) = params.given();
            let (mut connection, mut tables) = (self.connection.borrow_mut(), self.tables.borrow_mut());
            if sql.starts_with("INSERT OR IGNORE INTO handled") {
                return Ok(usize::from(tables.handled.insert(text)));
            }
            if connection.fails > 0 {
                connection.fails -= 1;
                return Err("the disk is full".into());
            }
            *tables.accounts.entry(text).or_default() += cents;
            Ok(1)
        }

        pub(super) fn commit(self) -> Result<()> {
            self.connection.into_inner().tables = self.tables.into_inner();
            Ok(())
        }
    }
}

#[tokio::test]
async fn an_event_that_comes_twice_is_booked_once() -> Result<(), BoxError> {
    use streams_runtime::broker::Embedded;
    use streams_runtime::{App, consumers};

    let mut connection = Connection::open_in_memory()?;
    connection.execute_batch(TABLES)?;
    // The write after the guard fails at the first attempt: the second one must not think that all is done.
    connection.fails = 1;
    let accounts = Accounts(Arc::new(Mutex::new(connection)));
    let app = App::with(consumers![book]).state(accounts.clone()).broker(Arc::new(Embedded::new())).start().await?;
    let event = Transferred { account: "ada".into(), cents: 250 };
    for id in ["one", "one", "two"] {
        app.publisher().publish(&event).id(id).await?;
    }
    app.settled().await?;
    assert_eq!(accounts.0.lock().unwrap().cents("ada"), Some(500));
    let _ = app.shutdown().await;
    Ok(())
}
