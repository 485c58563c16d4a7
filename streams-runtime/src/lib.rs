//! Typed events over Redis Streams: ordered, independent, at-least-once consumer groups that resume from checkpoints.
//!
//! Declare events with [`stream_event`], handlers with [`consumer`], and let [`run`] drive them:
//!
//! ```no_run
//! use streams_runtime::{consumer, stream_event};
//!
//! /// One fill on the exchange.
//! #[stream_event(stream = "trades", key = symbol)]
//! #[derive(Debug)]
//! pub struct Trade {
//!     pub symbol: String,
//!     pub price: f64,
//! }
//!
//! #[consumer(group = "audit")]
//! async fn audit(trade: Trade) {
//!     println!("{trade:?}");
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), streams_runtime::Error> {
//!     streams_runtime::run().await
//! }
//! ```
//!
//! The modules stand in the order in which an event meets them: published ([`Publisher`]), read once for every group
//! (`tail`), under a lease (`lease`), handed to its function (`ordered`), judged (`settle`), committed (`checkpoint`)
//! or put aside ([`DeadLetters`]). What was cut before
//! it could be read is told as [`DataLoss`] (`loss`), and cleared with [`Admin::reset`].

mod app;
mod run;
mod config;
mod registry;
mod publisher;
mod tail;
mod lease;
mod ordered;
mod loss;
mod settle;
mod checkpoint;
mod dead_letter;
mod admin;
mod shutdown;
mod status;
mod clock;
mod random;
pub mod broker;
#[cfg(feature = "testing")]
pub mod testing;

pub use admin::Admin;
pub use app::{App, Error, Running};
pub use config::Config;
pub use dead_letter::{DeadLetter, DeadLetterId, DeadLetters};
pub use loss::{DataLoss, DataLossKind};
pub use publisher::{PublishError, Publisher, Receipt, Send};
pub use run::run;
pub use settle::Cause;
pub use shutdown::Stopped;
pub use status::{GroupStatus, Phase, Status};
pub use streams_core::{
    Backoff, BoxError, Checkpoint, ConsumerInfo, ConsumerOptions, Context, Entry, EntryId, EventId, EventInfo,
    EventKey, Failure, FromContext, Headers, IntoOutcome, Message, Needs, OnDataLoss, Outcome, Payload, Permanent,
    Registration, Resources, SchemaType, Start, State, StreamEvent, codec, consumers, keys, permanent, schema,
};
pub use streams_macros::{
    consumer_runtime as consumer, event_type_runtime as event_type, stream_event_runtime as stream_event,
};

/// Not public API: what the attributes' expansions name.
#[doc(hidden)]
pub use streams_core::{__private, Consumer, EventRegistration, HandlerError};
