//! Harness of the integration tests: [`RedisServer`] starts real servers, [`Faulty`] is a broker whose calls go wrong,
//! [`World`] an app's processes in virtual time, [`Lab`] handlers that do as they are told, [`Program`] a real process, [`logged`] what was logged, [`hundred_groups`] names for many and [`in_groups`] for more,
//! [`TlsProxy`] speaks TLS, [`UserCrate`] is a crate of a user's own, [`queue_model`] says what a work queue may answer.

mod faults;
mod groups;
pub mod jobs;
mod lab;
mod log;
pub mod poison;
mod program;
pub mod queue_model;
mod server;
pub mod soak;
mod tls;
mod user_crate;
mod wait;
mod world;

pub use faults::{Fault, Faulty, Gate, Op};
pub use groups::in_groups;
pub use lab::{Act, Lab, Record};
pub use log::{Log, logged, logged_from};
pub use program::{Program, python};
pub use server::{Options, RedisServer};
pub use tls::{Ca, Identity, TlsProxy};
pub use user_crate::{CompilerError, UserCrate};
pub use wait::until;
pub use world::{Group, Launch, Process, World, millis, payload, secs};
