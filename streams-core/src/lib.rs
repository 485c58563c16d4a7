//! The words and rules of typed events over Redis Streams, without an executor and without sockets.
//!
//! A crate that only declares events depends on this crate alone. A program that consumes them
//! depends on `streams-runtime`, which re-exports everything here.
//!
//! The modules follow the path of an event: declared ([`StreamEvent`]), described ([`schema`]), encoded ([`codec`]) and
//! read across versions ([`UpcastFrom`]). It is stored ([`Entry`]), named in Redis ([`keys`]), carried ([`broker`]),
//! handed to a function ([`Consumer`], [`Batch`], [`FromContext`]) and judged ([`Outcome`]).

// The attributes emit `::streams_core::..` paths, also inside this crate.
extern crate self as streams_core;

mod event;
pub mod schema;
pub mod codec;
mod upcast;
mod entry;
mod large;
pub mod keys;
pub mod broker;
mod consumer;
mod batch;
mod extract;
mod outcome;

pub use batch::Batch;
pub use consumer::{
    Arguments, Backoff, Checkpoint, Consumer, ConsumerInfo, ConsumerOptions, Delivery, Message, OnDataLoss, OnFailure,
    Payload, Registration, Start,
};
pub use entry::{Entry, EntryId, EventId, Headers, InvalidEntryId};
pub use event::{Durability, EventInfo, EventKey, EventRegistration, Retention, StreamEvent};
pub use extract::{Context, FromContext, MissingState, Needs, Resources, Scope, Shared, State};
pub use outcome::{BoxError, Failure, HandlerError, IntoOutcome, Outcome, Permanent, permanent};
pub use schema::SchemaType;
pub use streams_macros::{
    consumer_core as consumer, event_type_core as event_type, frozen_event_core as frozen_event,
    stream_event_core as stream_event,
};
pub use upcast::UpcastFrom;

/// Not public API: the names that the attributes' expansions use.
#[doc(hidden)]
pub mod __private {
    pub use inventory;
    pub use serde;
    pub use std::borrow::Cow;
    pub use streams_macros::listed;

    pub use crate::codec::DecodeError;
    pub use crate::consumer::{Handler, broken, check_group, check_newest, event_of, has_key, plain, takes_batches};
    pub use crate::schema::lock::{Build, Locked, Site, check as check_lock};
    pub use crate::schema::{check_beside_tag, check_layout, check_nil, check_recursion, check_today, forms, left_out};
    pub use crate::upcast::{Said, check_oldest, check_upcast, decode_or_upcast};
}
