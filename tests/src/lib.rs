//! The harness of the integration tests.
//!
//! [`World`] holds an app's processes in virtual time, [`Lab`] handlers that do as they are told, and [`Record`] the notes of
//! a test's own handlers. [`Faulty`] is a broker whose calls go wrong, and [`queue_model`] says what a work queue may answer.
//! [`RedisServer`] starts real servers, [`TlsProxy`] speaks TLS in front of one, [`far`] puts one far away, and [`Program`] is a real process.
//! [`logged`] keeps the log, [`in_groups`] names many groups, and [`UserCrate`] is a user's own crate.

mod far;
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

pub use far::far;
pub use faults::{Fault, Faulty, Gate, Op};
pub use groups::in_groups;
pub use lab::{Act, Lab, Record};
pub use log::{Log, logged, logged_from};
pub use program::{Program, python};
pub use server::{Options, RedisServer};
pub use tls::{Ca, Identity, TlsProxy};
pub use user_crate::{CompilerError, UserCrate};
pub use wait::until;
pub use world::{BEGINNING, Group, Launch, Process, World, millis, payload, secs};
