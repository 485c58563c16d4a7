//! The events of {{project-name}}, and what happens when they come.

use streams_runtime::{App, BoxError, Publisher, State, consumer, permanent, stream_event};

/// A customer has ordered something. Orders of one customer stay in order.
#[stream_event(stream = "{{project-name}}-orders", key = customer)]
#[derive(Debug, Clone, PartialEq)]
pub struct Ordered {
    pub customer: String,
    pub item: String,
    pub cents: u64,
}

/// A customer has to pay.
#[stream_event(stream = "{{project-name}}-invoices", key = customer)]
#[derive(Debug, Clone, PartialEq)]
pub struct Invoiced {
    pub customer: String,
    pub cents: u64,
}

/// The values that handlers need besides the event.
#[derive(Debug, Clone)]
pub struct Settings {
    pub shipping_cents: u64,
}

/// Writes the invoice. Its id is the same at every attempt, so readers can tell a second copy.
#[consumer(group = "billing")]
pub async fn bill(
    order: Ordered,
    ctx: streams_runtime::Context,
    settings: State<Settings>,
    publisher: Publisher,
) -> Result<(), BoxError> {
    if order.cents == 0 {
        return Err(permanent("nothing is for free").into());
    }
    let invoice = Invoiced {
        customer: order.customer,
        cents: order.cents + settings.shipping_cents,
    };
    publisher.publish(&invoice).id(ctx.derived_id(0)).await?;
    Ok(())
}

/// The whole service, for `main` and for tests.
pub fn app(settings: Settings) -> App {
    App::linked().state(settings)
}
