//! The stores of events: [`Redis`] on a server, [`Embedded`] in the process; both follow the contract of
//! [`streams_core::broker`].

mod checks;
pub mod embedded;
pub mod redis;

pub use embedded::Embedded;
#[cfg(feature = "tls")]
pub use redis::Tls;
pub use redis::{Acl, Redis};
/// The contract, and the types of its answers.
pub use streams_core::broker::*;
