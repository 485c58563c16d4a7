//! Harness of the integration tests: [`RedisServer`] starts real servers, [`Faulty`] is a broker whose calls go wrong,
//! [`Lab`] handlers that do as they are told, [`logged`] what was logged, [`hundred_groups`] names for many,
//! [`TlsProxy`] speaks TLS.

mod faults;
mod groups;
pub mod jobs;
mod lab;
mod log;
mod process;
mod server;
pub mod soak;
mod tls;

pub use faults::{Fault, Faulty, Gate, Op};
pub use lab::{Act, Lab};
pub use log::{Log, logged, logged_from};
pub use process::Process;
pub use server::{Options, RedisServer};
pub use tls::{Ca, Identity, TlsProxy};
