//! The recipe of dates.

use chrono::{DateTime, Days, NaiveDate, Utc};
use streams_runtime::{BoxError, Context, Publisher, consumer, permanent, stream_event};

/// A guest has booked a room.
#[stream_event(stream = "bookings", key = room, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Booked {
    pub room: u32,
    /// The first night, as the guest's calendar says: a date has no time zone.
    pub from: NaiveDate,
    pub until: NaiveDate,
    /// The moment of the booking.
    pub at: DateTime<Utc>,
}

/// A guest has to pay.
#[stream_event(stream = "invoices", key = room, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Invoiced {
    pub room: u32,
    pub nights: i64,
    pub due: NaiveDate,
}

#[consumer(group = "invoices")]
async fn invoice(booked: Booked, publisher: Publisher, ctx: Context) -> Result<(), BoxError> {
    let nights = (booked.until - booked.from).num_days();
    // From the event, not from the clock: a replay next week finds the same date.
    let due = booked.at.date_naive().checked_add_days(Days::new(14)).ok_or_else(|| permanent("beyond the calendar"))?;
    let invoiced = Invoiced { room: booked.room, nights, due };
    publisher.publish(&invoiced).id(ctx.derived_id(0)).await?;
    Ok(())
}

#[tokio::test]
async fn an_invoice_is_due_two_weeks_after_the_booking() -> Result<(), BoxError> {
    use streams_runtime::testing::TestApp;
    use streams_runtime::{App, consumers};

    let app = TestApp::start(App::with(consumers![invoice])).await?;
    let booked = Booked {
        room: 7,
        from: "2026-02-27".parse().unwrap(),
        until: "2026-03-02".parse().unwrap(),
        at: "2026-01-31T23:30:00.123456789Z".parse().unwrap(),
    };
    app.publish(&booked).await?;
    app.settled().await?;
    assert_eq!(app.published::<Booked>().await?, [booked]);
    assert_eq!(
        app.published::<Invoiced>().await?,
        [Invoiced { room: 7, nights: 3, due: "2026-02-14".parse().unwrap() }]
    );
    Ok(())
}
