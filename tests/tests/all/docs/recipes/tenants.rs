//! The recipe of tenants.

use std::sync::Arc;

use streams_runtime::broker::Broker;
use streams_runtime::{App, BoxError, Running, State, consumer, consumers, stream_event};

/// A customer has ordered something.
#[stream_event(stream = "tenant-orders", key = customer, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Ordered {
    pub customer: String,
}

/// The tenant whose events the app handles.
#[derive(Clone)]
struct Tenant(String);

#[consumer(group = "billing")]
async fn bill(ordered: Ordered, tenant: State<Tenant>) {
    println!("{}: {} pays", tenant.0.0, ordered.customer);
}

/// One app for each tenant, all on one server.
async fn start(broker: Arc<dyn Broker>, tenants: &[&str]) -> Result<Vec<Running>, BoxError> {
    let mut running = Vec::new();
    for tenant in tenants {
        let app = App::with(consumers![bill]).state(Tenant((*tenant).to_owned()));
        running.push(app.namespace(*tenant).broker(broker.clone()).start().await?);
    }
    Ok(running)
}

#[tokio::test]
async fn the_events_of_one_tenant_reach_no_other() -> Result<(), BoxError> {
    use streams_runtime::Publisher;
    use streams_runtime::broker::Embedded;

    let broker: Arc<dyn Broker> = Arc::new(Embedded::new());
    let running = start(broker.clone(), &["acme", "globex"]).await?;

    let publisher = Publisher::new(broker);
    for (tenant, customer) in [("acme", "ada"), ("globex", "ben"), ("globex", "cleo")] {
        publisher.with_namespace(tenant)?.publish(&Ordered { customer: customer.into() }).await?;
    }

    for app in &running {
        app.settled().await?;
    }
    let handled = running.iter().map(|app| app.status().groups[0].handled);
    assert_eq!(handled.collect::<Vec<_>>(), [1, 2]);
    for app in running {
        let _ = app.shutdown().await;
    }
    Ok(())
}
