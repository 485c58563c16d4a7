//! The whole service in virtual time, without a server.

use streams_runtime::testing::TestApp;

use {{crate_name}}::{Invoiced, Ordered, Settings, app};

const SETTINGS: Settings = Settings {
    shipping_cents: 490,
};

fn order(cents: u64) -> Ordered {
    Ordered {
        customer: "ada".into(),
        item: "tea".into(),
        cents,
    }
}

#[test]
fn the_service_would_start() {
    app(SETTINGS).check().unwrap();
}

#[tokio::test]
async fn an_order_is_billed_with_its_shipping() {
    let app = TestApp::start(app(SETTINGS)).await.unwrap();
    app.publish(&order(450)).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(
        app.published::<Invoiced>().await.unwrap(),
        [Invoiced {
            customer: "ada".into(),
            cents: 940
        }]
    );
}

#[tokio::test]
async fn an_order_for_nothing_is_a_dead_letter() {
    let app = TestApp::start(app(SETTINGS)).await.unwrap();
    app.publish(&order(0)).await.unwrap();
    app.settled().await.unwrap();
    let letters = app.dead_letters::<Ordered>("billing").await.unwrap();
    assert_eq!(
        (letters.len(), letters[0].reason()),
        (1, "nothing is for free")
    );
}
