//! Keeps the contract to this project until it is settled; not public API.

/// See [`super::Broker`].
pub trait Sealed: Send + Sync {}
