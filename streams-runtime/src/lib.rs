//! Typed events over Redis Streams: ordered, independent, at-least-once consumer groups that resume from checkpoints.
//!
//! Declare events with [`stream_event`] and handlers with [`consumer`], and let an [`App`] drive them. Whoever has a [`Publisher`]
//! publishes:
//!
//! ```standalone_crate
//! use std::sync::Arc;
//!
//! use streams_runtime::broker::Embedded;
//! use streams_runtime::{App, BoxError, Outcome, Stopped, consumer, stream_event};
//!
//! /// One fill on the exchange. Trades of one symbol stay in order.
//! #[stream_event(stream = "trades", key = symbol)]
//! #[derive(Debug)]
//! pub struct Trade {
//!     pub symbol: String,
//!     pub price: f64,
//! }
//!
//! #[consumer(group = "audit")]
//! async fn audit(trade: Trade) -> Outcome {
//!     if trade.price <= 0.0 {
//!         return Outcome::dead_letter("a price is above zero");
//!     }
//!     println!("{trade:?}");
//!     Outcome::Done
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     // In production `App::linked().run().await` is all: it reads REDIS_URL, and ends at a signal.
//!     let app = App::linked().broker(Arc::new(Embedded::new())).start().await?;
//!
//!     app.publisher().publish(&Trade { symbol: "BTC-USD".into(), price: 39_432.48 }).await?;
//!     app.publisher().publish(&Trade { symbol: "BTC-USD".into(), price: -1.0 }).await?;
//!
//!     app.settled().await?;
//!     let audit = &app.status().groups[0];
//!     assert_eq!((audit.handled, audit.dead_lettered), (1, 1));
//!     assert_eq!(app.shutdown().await, Stopped::Clean);
//!     Ok(())
//! }
//! ```
//!
//! # Guides
//!
//! They are in `docs/` of the repository, and `mdbook build` makes a book of them:
//!
//! * `getting-started.md`: from an empty folder to a service that is tested, runs and starts again;
//! * `recipes.md`: money, dates, SQL, tenants, axum, blocking work, rate limits, requests with replies;
//! * `coming-from.md`: from polling, Kafka, Sidekiq, RustStream or XREADGROUP;
//! * `publishing.md`, `testing.md`, `copies.md`, `schema-evolution.md`, `scaling.md`: what a service needs as it grows;
//! * `deploying.md`, `operating.md`, `security.md`, `tool.md`, `console.md`: what it needs in production.
//!
//! # Where to look
//!
//! * Options of an event and of a handler: [`stream_event`], [`event_type`], [`consumer`]. Older versions:
//!   [`frozen_event!`], [`UpcastFrom`].
//! * A handler takes the event, a [`Message`] or a [`Batch`], then [`Context`], [`State`], [`Publisher`] or your own
//!   [`FromContext`]. It returns an [`Outcome`].
//! * The app: [`App`]; its bounds: [`Config`]; its exit codes: [`App::run`].
//! * Publishing: [`Publisher`]. Reading without a group: [`Running::read`]. Events that were given up: [`DeadLetters`]. Health: [`Running::status`]. An operator's hand
//!   on checkpoints, halted groups and dead letters: [`Admin`].
//! * Brokers: [`broker::Redis`], with the permissions it needs, and [`broker::Embedded`].
//! * Safety: TLS is below at the environment and the features, permissions at [`broker::Acl`]; a guide is
//!   `docs/security.md`.
//!
//! # Environment
//!
//! Read by [`run`], [`App::run`] and [`App::from_environment`]; it overrides everything else. A bad value refuses the
//! start. A variable that begins with `STREAMS_` and is not here is a warning. Those that Kubernetes and Docker set for a
//! Service called `streams` are passed over: `*_SERVICE_HOST`, `*_PORT` and `*_PORT_*`. If one of these is set, an app that
//! does not read the environment refuses to start without a broker, and warns with one.
//!
//! | variable | meaning |
//! |---|---|
//! | `REDIS_URL` | `redis[s]://[user:password@]host[:port][/database]` or `redis+unix:///path` |
//! | `STREAMS_TLS_CA` | a PEM file: for `rediss://` the authorities in it are trusted, and not those of the system |
//! | `STREAMS_TLS_CERT`, `STREAMS_TLS_KEY` | PEM files with the certificate to show the server, and its key |
//! | `STREAMS_BROKER` | `embedded` for the one in the process, which forgets everything at its end; `redis` to insist on a URL |
//! | `STREAMS_GROUPS` | only these groups, with commas between them |
//! | `STREAMS_NAMESPACE` | put before the name of every stream |
//! | `STREAMS_LEASE` | how long an owner may be silent before another takes over, such as `10s` |
//! | `STREAMS_SHUTDOWN_DEADLINE` | how long handlers may go on after a stop |
//! | `STREAMS_EXPIRE_AFTER` | how long entries with `retention = "consumed"` may wait for a group before the log asks whether anybody runs it, such as `7d` |
//! | `STREAMS_HTTP` | where to answer `/metrics`, `/livez` and `/readyz`, such as `127.0.0.1:9100`; needs the feature `http` |
//! | `STREAMS_CONSOLE_TOKEN` | allows acts in the console under `/console/` to those who know it, at least 16 characters; needs the feature `console` |
//! | `STREAMS_CONSOLE_REDACT` | fields and headers whose values the console hides, with commas between; needs the feature `console` |
//! | `STREAMS_MAX_ATTEMPTS`, `STREAMS_MAX_CRASHES`, `STREAMS_TIMEOUT` | what `#[consumer]` says, for all |
//! | `STREAMS_CHECKPOINT_EVENTS`, `STREAMS_CHECKPOINT_INTERVAL` | how often groups commit, for all |
//! | `STREAMS_ON_DATA_LOSS` | `halt` or `continue`, for all groups |
//! | `STREAMS_CONCURRENCY` | how many events of a partition a group handles at once, in queue delivery each process, for all groups |
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `uuid` | fields and keys of type `uuid::Uuid` |
//! | `rust_decimal` | fields of type `rust_decimal::Decimal`: as text, and never through a float |
//! | `chrono`, `time`, `jiff` | fields of the dates, times and durations of these crates |
//! | `bytes` | fields of type `bytes::Bytes` |
//! | `rc` | fields and keys of type `Arc<str>`, and fields of any `Arc<T>`; turns on the feature `rc` of serde |
//! | `tls` | `rediss://` URLs: rustls with ring, the system's authorities or one's own, client certificates; `broker::Tls` |
//! | `testing` | `testing::TestApp`: a whole app in virtual time |
//! | `asyncapi` | the event documentation: `App::asyncapi` and `AsyncApi` |
//! | `http` | `/metrics`, `/livez` and `/readyz` on an address: `Config::http` |
//! | `console` | a web console: `console::Console`, and under `/console/` at the address of `Config::http` |
//! | `metrics` | every metric also through the `metrics` facade |
//! | `opentelemetry` | traces that go on from a publish to its handlers |
//!
//! # What can be seen of it
//!
//! * [`Monitor`]: the status of every group, metrics as text, and whether the app is alive and ready. Cheap to clone, for
//!   routes of a service's own; the feature `http` serves the same on a port. `/readyz?groups=risk,audit` and
//!   [`Health::of`] go by some groups, or by none.
//! * [`metrics`] lists every metric.
//! * Spans have the target `streams::trace` and OpenTelemetry's names: `publish trades` around each call of a
//!   [`Publisher`], `process trades` around each attempt of a handler. Without a subscriber that wants them none is made.
//!   They are at `DEBUG` (`RUST_LOG=info,streams::trace=debug`), with the feature `opentelemetry` at `INFO`. With a layer
//!   of `tracing-opentelemetry` a publish and its handlers in every group are one trace, in the W3C format. Without that
//!   feature a `traceparent` header still travels on with what a handler publishes.
//!
//! # What ends a process
//!
//! An event whose handler takes the whole process down is given up, too, after `max_crashes` processes. Events that an
//! owner may have had in flight when it was gone are charged before they run. [`consumer`] has the rules.
//!
//! # What stops a group
//!
//! A halted partition handles nothing until somebody does something; the program goes on, its other groups too.
//! [`Status`] says so, and so does a log line every minute, with the remedy. [`Halt::kind`] tells the reasons apart:
//!
//! * History was cut before the group had read it ([`DataLoss`]), unless the group says `on_data_loss = "continue"`.
//! * An entry is of a newer version or another event than any running build knows. It goes on by itself when a build comes
//!   that knows the event, or a consumer says `ignore`.
//! * [`Config::dead_letter_storm`] events in a row became dead letters: an outage rather than bad events.
//! * The dead letters are at their bound ([`Config::dead_letters`]); it goes on by itself when some are discarded.
//! * The server refuses a key or a command: a wrong type, a missing permission.
//! * The group's name is used by a program that reads with XREADGROUP, and no consumer of the group says `adopt = true`.
//!
//! [`Admin::resume`] lets a halted partition go on where it is, [`Admin::reset`] from where it says, without a restart.
//!
//! A server that cannot be reached halts nothing: the app waits for it. Only at the start it must be there.

mod app;
#[cfg(feature = "asyncapi")]
mod asyncapi;
mod ordered;
mod queue;
mod broadcast;
mod group;
mod reader;
mod membership;
mod publisher;
mod schema_watch;
#[cfg(feature = "console")]
pub mod console;
mod operate;
mod ops;
pub mod broker;
mod backoff;
mod clock;
mod data_loss;
mod declared;
mod error;
mod fence;
mod halt;
mod names;
mod paged;
mod pause;
mod random;
mod shutdown;
mod sync;
mod whoami;
#[cfg(feature = "testing")]
pub mod testing;

pub use app::{App, Config, Running, run};
#[cfg(feature = "asyncapi")]
pub use asyncapi::AsyncApi;
pub use broadcast::{SnapshotState, Snapshots};
pub use data_loss::{DataLoss, DataLossKind};
pub use error::Error;
pub use halt::{Halt, HaltKind};
pub use names::nearest;
pub use operate::{
    Admin, Condition, Edit, ErrorView, Finding, GroupView, HaltView, Inspector, Key, Known, MemberView, Mode, Overview,
    PartitionView, PlaceView, Reads, Recorded, Redact, Removed, ResetPlan, Sought, StreamView, TracePage, TracePlace,
    Traced, Verdict, trace_of,
};
pub use ops::{
    Cause, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, GroupHealth, GroupStatus, Health, Monitor, Phase,
    Replayed, Status, UnknownCause, UnknownGroup, metrics,
};
pub use pause::Pause;
pub use publisher::{Publish, PublishError, PublishRaw, Publisher, Receipt};
pub use reader::{Read, ReadError};
pub use shutdown::Stopped;
pub use streams_core::{
    Backoff, Batch, BoxError, Checkpoint, ConsumerInfo, ConsumerOptions, Context, Delivery, Durability, Entry, EntryId,
    EventId, EventInfo, EventKey, Failure, FromContext, Headers, IntoOutcome, InvalidEntryId, Message, MissingState,
    Needs, OnDataLoss, OnFailure, Outcome, Payload, Permanent, Registration, Resources, Retention, SchemaType, Scope,
    Start, State, StreamEvent, UpcastFrom, codec, consumers, keys, permanent, schema,
};
pub use streams_macros::{
    consumer_runtime as consumer, event_type_runtime as event_type, frozen_event_runtime as frozen_event,
    stream_event_runtime as stream_event,
};

/// Not public API: what the attributes' expansions name.
#[doc(hidden)]
pub use streams_core::{__private, Consumer, EventRegistration, HandlerError};
