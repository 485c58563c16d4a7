//! Two parts of one name.
use streams_core::{event_type, stream_event};

#[stream_event(stream = "orders")]
#[serde(rename_all = "camelCase")]
struct Order {
    unit_price: u64,
    #[serde(rename = "unitPrice")]
    price: u64,
    #[serde(alias = "note")]
    remark: String,
    note: String,
    übung: u8,
}

#[event_type]
enum Side {
    Buy,
    #[serde(alias = "Buy")]
    Bought,
    #[serde(rename = "Buy")]
    Purchase(u8),
    Empty(#[serde(skip)] u8),
}

fn main() {}
