//! The stores of events: [`Redis`] on a server, [`Embedded`] in the process; both follow the contract of
//! [`streams_core::broker`].

mod checks;
#[doc(hidden)]
pub mod embedded;
#[doc(hidden)]
pub mod redis;

pub use embedded::Embedded;
#[cfg(feature = "tls")]
pub use redis::Tls;
pub use redis::{Acl, Redis};
/// Not public API: the rest of the contract, which only this project implements and calls.
#[doc(hidden)]
pub use streams_core::broker::*;
pub use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, DeadBounds};
