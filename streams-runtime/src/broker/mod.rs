//! The stores that events live in: [`Redis`] on a server, [`Embedded`] in the process; both kept to the contract of [`streams_core::broker`].

mod checks;
pub mod embedded;
pub mod redis;

pub use embedded::Embedded;
#[cfg(feature = "tls")]
pub use redis::Tls;
pub use redis::{Acl, Redis};
/// The contract, for brokers that are passed around and for what they answer.
pub use streams_core::broker::*;
