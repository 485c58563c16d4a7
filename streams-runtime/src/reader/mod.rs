//! How entries reach a group: one read per process for all groups, shared catch-up reads, each group's place in the
//! stream, and reads without a group.
//!
//! This room uses `ops` and the helpers of the crate; `group`, the two deliveries and `app` use it.

mod bookmark;
mod budget;
mod catchup;
mod page;
mod read;
mod source;
mod tail;

pub(crate) use self::bookmark::{Bookmark, Witness};
pub(crate) use self::catchup::{Chunk, Reading};
pub use self::read::{Read, ReadError};
pub(crate) use self::source::{Arrived, CHECK, Error, Looked, Means, Source, cut, look};
pub(crate) use self::tail::{Follower, TAKE, Tails, Taken};
