//! The recipe of money.

use rust_decimal::Decimal;
use streams_runtime::{BoxError, Context, Publisher, consumer, stream_event};

/// A customer has paid.
#[stream_event(stream = "payments", key = account, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Paid {
    pub account: String,
    pub amount: Decimal,
    pub currency: String,
}

/// We owe the bank its share of a payment.
#[stream_event(stream = "fees", key = account, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct FeeDue {
    pub account: String,
    pub amount: Decimal,
    pub currency: String,
}

#[consumer(group = "fees")]
async fn charge(paid: Paid, publisher: Publisher, ctx: Context) -> Result<(), BoxError> {
    // 1.5 %, rounded once and at the end; of two equally near cents it is the even one.
    let amount = (paid.amount * Decimal::new(15, 3)).round_dp(2);
    let fee = FeeDue { account: paid.account, amount, currency: paid.currency };
    publisher.publish(&fee).id(ctx.derived_id(0)).await?;
    Ok(())
}

#[tokio::test]
async fn amounts_keep_every_digit_and_are_rounded_once() -> Result<(), BoxError> {
    use streams_runtime::testing::TestApp;
    use streams_runtime::{App, consumers};

    let app = TestApp::start(App::with(consumers![charge])).await?;
    let paid = |amount: &str| Paid { account: "ada".into(), amount: amount.parse().unwrap(), currency: "EUR".into() };
    // A float has no 0.1, and 17 digits.
    let sent = ["0.30", "19.90", "8.333", "12345678901234567890.05"].map(paid);
    for event in &sent {
        app.publish(event).await?;
    }
    app.settled().await?;
    let read = app.published::<Paid>().await?;
    assert_eq!(
        read.iter().map(|paid| paid.amount.to_string()).collect::<Vec<_>>(),
        sent.map(|paid| paid.amount.to_string())
    );
    let fees: Vec<_> = app.published::<FeeDue>().await?.iter().map(|fee| fee.amount.to_string()).collect();
    assert_eq!(fees, ["0.00", "0.30", "0.12", "185185183518518518.35"]);
    Ok(())
}
