//! The common part of both deliveries: a group's life, its handlers, the meaning of their outcomes, its halts and its history.
//!
//! May use `reader`, `membership`, `ops` and the helpers of the crate; `ordered`, `queue` and `app` use it. A delivery is an
//! [`Engine`], which brings the events of a group to its handlers.

mod adopt;
mod call;
mod declare;
mod drive;
mod ended;
mod halt;
mod handler;
mod handlers;
mod history;
mod loss;
mod news;
mod outcome;
mod replay;
mod resend;
mod settle;
mod suspects;
mod task;

pub(crate) use self::call::{Call, OPERATOR_RETRY, reply, spawn};
pub(crate) use self::declare::announce;
pub(crate) use self::drive::Engine;
pub(crate) use self::ended::Ended;
pub(crate) use self::halt::Halt;
pub(crate) use self::handler::{Caught, Handler, Late, caught};
pub(crate) use self::handlers::{Handlers, Taker};
pub(crate) use self::history::History;
pub(crate) use self::news::{GroupNews, News};
pub(crate) use self::outcome::{Attempt, Letter};
pub(crate) use self::replay::Replays;
pub(crate) use self::resend::Resend;
pub(crate) use self::settle::{Decision, Failed, Limits, Policy, Settlement, decide, decide_batch};
pub(crate) use self::suspects::{Standing, SuspectLock, SuspectPermit, standing};
pub(crate) use self::task::{Bounds, CLAIMS, Dedupe, GroupOptions, GroupTask, Services};
