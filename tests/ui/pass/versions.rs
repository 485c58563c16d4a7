//! Versions of an event compile where the user allows least: by hand, frozen, in a function, under another root.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, missing_debug_implementations)]
#![warn(clippy::all)]

use streams_core::{StreamEvent, consumer, frozen_event, stream_event};

mod events {
    pub(crate) use streams_core::*;
}

frozen_event! {
    /// With documentation, and one more derive.
    #[derive(PartialOrd)]
    pub(crate) LegsV1, stream = "versioned", name = "Legs", version = 1
}

frozen_event!(TradeV1, stream = "versioned", name = "Trade", version = 1, key = symbol, crate = crate::events);

#[events::stream_event(stream = "versioned", version = 2, upcast_from = TradeV1, key = symbol, crate = crate::events)]
#[derive(Debug)]
struct Trade {
    symbol: String,
}

impl From<TradeV1> for Trade {
    fn from(old: TradeV1) -> Self {
        let _: Vec<TradeV1Leg> = old.legs;
        Self { symbol: old.symbol }
    }
}

#[consumer(group = "risk")]
async fn check(_trade: Trade) {}

mod other {
    use streams_core::{frozen_event, stream_event};

    frozen_event!(pub(super) QuoteV1, stream = "versioned", name = "Quote", version = 1);

    /// Documented.
    #[stream_event(stream = "versioned", version = 2, oldest = 1, upcast_from = QuoteV1)]
    #[derive(Debug)]
    pub(super) struct Quote {
        pub(super) bid: u64,
    }

    impl TryFrom<QuoteV1> for Quote {
        type Error = std::num::TryFromIntError;

        fn try_from(old: QuoteV1) -> Result<Self, Self::Error> {
            Ok(Self { bid: old.bid.try_into()? })
        }
    }
}

fn main() {
    frozen_event!(Inside, stream = "versioned", name = "Quote", version = 1);

    #[stream_event(stream = "versioned", name = "Quote", version = 2, upcast_from = Inside)]
    struct Newer {
        bid: i64,
    }

    impl From<Inside> for Newer {
        fn from(old: Inside) -> Self {
            Self { bid: old.bid }
        }
    }

    assert_eq!(Newer::from(Inside { bid: 1 }).bid, 1);
    assert!(other::Quote::try_from(other::QuoteV1 { bid: -1 }).is_err());
    assert_eq!((Trade::INFO.oldest, Trade::INFO.version, LegsV1::INFO.version), (1, 2, 1));
}
