//! A crate that hides ours behind a module of its own says where it is.

mod events {
    pub use streams_core::*;
}

#[events::stream_event(stream = "trades", key = symbol, crate = crate::events)]
#[derive(Debug)]
struct Trade {
    symbol: String,
    side: Side,
}

#[events::event_type(crate = crate::events)]
#[derive(Debug)]
enum Side {
    Buy,
}

#[events::consumer(group = "risk", start = "latest", timeout = "1s", crate = ::streams_core)]
async fn check(trade: Trade, ctx: events::Context) {
    println!("{trade:?} {ctx:?}");
}

fn main() {
    let trade = Trade { symbol: "A".to_owned(), side: Side::Buy };
    assert_eq!(events::StreamEvent::key(&trade).as_deref(), Some("A"));
    assert_eq!(events::consumers![check][0].info.group, "risk");
}
