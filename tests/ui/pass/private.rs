//! A consumer may take types that are more private than itself, and its group may be a constant.
#![allow(private_interfaces)]

pub mod risk {
    use streams_core::{State, consumer, stream_event};

    /// The group of the program.
    pub const GROUP: &str = "risk";

    #[derive(Clone)]
    struct Limits;

    #[stream_event(stream = "trades")]
    struct Trade {
        price: f64,
    }

    #[consumer(group = GROUP)]
    pub async fn check(_trade: Trade, _limits: State<Limits>) {}

    #[consumer(group = self::GROUP)]
    pub async fn audit(_trade: Trade) {}

    pub(super) fn listed() -> streams_core::Registration {
        let check = 7;
        let [listed] = streams_core::consumers![check];
        let _ = check;
        listed
    }
}

fn main() {
    let listed = streams_core::consumers![risk::check, self::risk::audit, crate::risk::check];
    assert!(listed.iter().all(|consumer| consumer.info.group == "risk"));
    // A variable of that name is no consumer.
    let risk = 7;
    let _ = (risk, streams_core::consumers![risk::check]);
    let eu = streams_core::consumers![risk::check].map(|consumer| consumer.in_group("risk-eu"));
    assert_eq!(risk::listed().info, streams_core::consumers![risk::check][0].info);
    assert_eq!((eu[0].info.group, eu[0].info.name), ("risk-eu", "check"));
}
