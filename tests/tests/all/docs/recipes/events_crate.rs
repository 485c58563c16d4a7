//! The recipe of an events crate: a service that uses it.

use super::shop_events;

use shop_events::Ordered;
use streams_runtime::consumer;

#[consumer(group = "warehouse")]
async fn pack(ordered: Ordered) {
    for line in &ordered.lines {
        println!("order {}: {} of {}", ordered.order, line.quantity, line.item);
    }
}

#[tokio::test]
async fn a_service_takes_the_events_of_another_crate() -> Result<(), streams_runtime::BoxError> {
    use streams_runtime::testing::TestApp;
    use streams_runtime::{App, consumers};

    let app = TestApp::start(App::with(consumers![pack])).await?;
    let line = shop_events::Line { item: "tea".into(), quantity: 2 };
    app.publish(&Ordered { order: 1, lines: vec![line] }).await?;
    app.settled().await?;
    assert_eq!(app.status("warehouse").handled, 1);
    Ok(())
}
