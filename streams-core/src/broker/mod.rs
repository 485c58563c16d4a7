//! The contract in MUSTs between the runtime and a store of streams; the runtime implements it for Redis and in memory.
//!
//! The rest of the project uses [`Broker`] and knows no server. One suite of tests holds every implementation to these
//! six pages: [`Log`], [`Groups`], [`Letters`], [`Members`], [`Queue`] and [`Inspect`].

mod error;
#[doc(hidden)]
pub mod sealed;
mod log;
mod groups;
mod dead_letters;
mod members;
mod queue;
mod inspect;

use std::fmt;

pub use self::dead_letters::*;
pub use self::error::*;
pub use self::groups::*;
pub use self::inspect::*;
pub use self::log::*;
pub use self::members::*;
pub use self::queue::*;
pub use crate::large::{CUT, MOST_ENTRY_BYTES, cut, cut_from, in_short};

/// A store of streams and of the state of groups.
///
/// Calls are for batches: one call is one round trip to the server, however many entries it is about. Every call MAY be
/// made at the same time as any other. Dropping a returned future MUST NOT corrupt anything, but MAY leave the call
/// done.
///
/// An error MUST say whether the call may have taken effect ([`BrokerError::is_indefinite`]).
///
/// The trait is sealed until 1.0, so that the contract can grow: only this project implements it.
pub trait Broker: Log + Groups + Letters + Members + Queue + Inspect + fmt::Debug + Send + Sync + 'static {
    /// The server's address, for logs. MUST NOT hold a password.
    fn describe(&self) -> String;

    /// Makes first contact: MUST fail when the server cannot be reached, refuses the credentials or
    /// cannot do what this contract asks. Later calls connect again by themselves.
    fn connect(&self) -> Reply<'_, ()>;

    /// The server's clock, in milliseconds since 1970.
    fn now(&self) -> Reply<'_, u64>;
}
