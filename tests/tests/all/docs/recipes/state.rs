//! The recipe of state.

use std::sync::Arc;

use streams_runtime::{App, BoxError, State, consumer, consumers, stream_event};

/// Somebody has registered.
#[stream_event(stream = "users", key = user, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    pub user: u64,
    pub mail: String,
}

/// The outside world of handlers, behind a trait, so that tests have another one.
pub trait Mailer: Send + Sync {
    fn send(&self, to: &str, text: &str) -> Result<(), BoxError>;
}

#[consumer(group = "welcome")]
async fn welcome(registered: Registered, mailer: State<Arc<dyn Mailer>>) -> Result<(), BoxError> {
    mailer.send(&registered.mail, "Welcome!")
}

fn app(mailer: Arc<dyn Mailer>) -> App {
    App::with(consumers![welcome]).state(mailer)
}

#[tokio::test]
async fn a_mailer_that_fails_once_is_asked_again() -> Result<(), BoxError> {
    use std::sync::Mutex;
    use streams_runtime::testing::TestApp;

    #[derive(Default)]
    struct Fails(Mutex<Vec<String>>);

    impl Mailer for Fails {
        fn send(&self, to: &str, _: &str) -> Result<(), BoxError> {
            let mut asked = self.0.lock().unwrap();
            asked.push(to.to_owned());
            if asked.len() == 1 { Err("the mail server is busy".into()) } else { Ok(()) }
        }
    }

    let mailer = Arc::new(Fails::default());
    let app = TestApp::start(app(mailer.clone())).await?;
    app.publish(&Registered { user: 1, mail: "ada@example.org".into() }).await?;
    app.settled().await?;
    assert_eq!(*mailer.0.lock().unwrap(), ["ada@example.org"; 2]);
    Ok(())
}

#[test]
fn a_state_that_is_missing_refuses_the_start() {
    let error = App::with(consumers![welcome]).check().unwrap_err().to_string();
    assert!(error.contains("Mailer"), "{error}");
}
