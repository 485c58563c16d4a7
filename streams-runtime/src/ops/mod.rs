//! The view of an app from inside: status, metrics, traces, outages and dead letters.
//!
//! May use the helpers of the crate only; every room above says here what it does.

mod calls;
pub(crate) mod dead_letter;
mod dead_letters;
mod health;
#[cfg(feature = "http")]
pub(crate) mod http;
pub mod metrics;
mod monitor;
mod outage;
mod status;
pub(crate) mod trace;
mod vitals;

pub(crate) use self::calls::Calls;
pub use self::dead_letter::{Cause, DeadLetter, DeadLetterId, UnknownCause};
pub use self::dead_letters::{DeadLetterFilter, DeadLetters, Replayed};
pub use self::health::{GroupHealth, Health, UnknownGroup};
pub(crate) use self::metrics::{Counter, Gauge, Histogram, Registry};
pub use self::monitor::Monitor;
pub(crate) use self::monitor::Watched;
pub(crate) use self::outage::{Contact, Matter, Outages, SILENCE, Sent};
pub use self::status::{GroupStatus, Phase, Status};
pub(crate) use self::status::{Progress, Tip, above, count, extent};
pub(crate) use self::trace::TraceContext;
pub(crate) use self::vitals::Vitals;
