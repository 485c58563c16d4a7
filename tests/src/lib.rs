//! Harness of the integration tests: [`RedisServer`] starts real servers.

mod server;

pub use server::{Options, RedisServer};
