//! Harness of the integration tests: [`RedisServer`] starts real servers, [`Faulty`] is a broker whose calls go wrong,
//! [`Lab`] handlers that do as they are told, [`logged`] what was logged, [`hundred_groups`] names for many and [`in_groups`] for more,
//! [`TlsProxy`] speaks TLS, [`UserCrate`] is a crate of a user's own, [`queue_model`] says what a work queue may answer.

mod faults;
mod groups;
pub mod jobs;
mod lab;
mod log;
pub mod poison;
mod process;
pub mod queue_model;
mod server;
pub mod soak;
mod tls;
mod user_crate;

pub use faults::{Fault, Faulty, Gate, Op};
pub use groups::in_groups;
pub use lab::{Act, Lab};
pub use log::{Log, logged, logged_from};
pub use process::Process;
pub use server::{Options, RedisServer};
pub use tls::{Ca, Identity, TlsProxy};
pub use user_crate::{CompilerError, UserCrate};
