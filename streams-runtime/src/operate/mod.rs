//! A server seen and handled from outside its programs: how streams and groups stand, and the calls of an operator.
//!
//! May use `membership` for its cards, `ops` for dead letters, and the helpers of the crate. `app` and tools use it.

mod admin;
mod audit;
mod findings;
mod inspector;
mod plan;
mod recorded;
mod edit;
mod redact;
mod trace;
mod views;

pub use self::admin::{Admin, Removed};
pub use self::edit::Edit;
pub use self::findings::{Finding, Verdict};
pub use self::inspector::Inspector;
pub use self::plan::ResetPlan;
pub use self::recorded::{Key, Known, Reads, Recorded};
pub use self::redact::Redact;
pub use self::trace::{Sought, TracePage, TracePlace, Traced, trace_of};
pub use self::views::{
    Condition, ErrorView, GroupView, HaltView, MemberView, Mode, Overview, PartitionView, PlaceView, StreamView,
};
