//! The recipe of a caller who is known by headers.

use streams_runtime::{BoxError, Context, FromContext, consumer, permanent, stream_event};

/// Somebody wants an account closed.
#[stream_event(stream = "closings", key = account, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct CloseWanted {
    pub account: String,
}

/// Who caused the event, as the gateway found out before it published.
struct Caller {
    user: String,
    roles: Vec<String>,
}

impl FromContext for Caller {
    type Rejection = BoxError;

    async fn from_context(ctx: &Context) -> Result<Self, BoxError> {
        let header = |name: &'static str| {
            // No attempt brings a header that is not there: to the dead letters at once.
            ctx.headers().get(name).ok_or_else(|| permanent(format!("the event has no header `{name}`")))
        };
        let roles = header("roles")?.split(',').map(str::to_owned).collect();
        Ok(Self { user: header("user")?.to_owned(), roles })
    }
}

#[consumer(group = "closing")]
async fn close(wanted: CloseWanted, caller: Caller) -> Result<(), BoxError> {
    if !caller.roles.iter().any(|role| role == "teller") {
        return Err(permanent(format!("{} may not close accounts", caller.user)).into());
    }
    println!("{} has closed {}", caller.user, wanted.account);
    Ok(())
}

#[tokio::test]
async fn only_a_teller_closes_an_account() -> Result<(), BoxError> {
    use streams_runtime::testing::TestApp;
    use streams_runtime::{App, consumers};

    let app = TestApp::start(App::with(consumers![close])).await?;
    let wanted = CloseWanted { account: "ada".into() };
    app.publish(&wanted).header("user", "tom").header("roles", "clerk,teller").await?;
    app.publish(&wanted).header("user", "eve").header("roles", "clerk").await?;
    app.publish(&wanted).header("user", "eve").await?;
    app.settled().await?;
    let letters = app.dead_letters::<CloseWanted>("closing").await?;
    let reasons: Vec<_> = letters.iter().map(|letter| (letter.attempts(), letter.reason())).collect();
    assert_eq!(reasons[0], (1, "eve may not close accounts"));
    assert!(reasons[1].0 == 1 && reasons[1].1.ends_with("the event has no header `roles`"), "{reasons:?}");
    assert_eq!((letters.len(), app.status("closing").handled), (2, 1));
    Ok(())
}
