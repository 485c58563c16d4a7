//! How processes find each other: sets of members per group, notes beside a stream, and snapshots for their successors.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Answer, Reply};
use super::sealed::Sealed;
use crate::keys::{MAX_PARTITIONS, SnapshotKey, StreamKey};

/// The processes that use a store.
pub trait Members: Sealed {
    /// Updates several sets of members in one round trip and answers the members of each, in the order asked. An error
    /// about one set MUST be the answer for that set alone.
    ///
    /// In each set, in one step, the call MUST first remove the absent and then raise the beat of `present`: to the
    /// time of the store in milliseconds since 1970, and by one at least. The store does not interpret the text of a
    /// member. It MUST work on a full server. A set SHOULD hold [`MAX_MEMBERS`]; before another member enters, those
    /// with the smallest beats are removed.
    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<Answer<Vec<Member>>>>;

    /// Writes notes beside the stream, each in the place of one of the same name, and removes those named in `gone`.
    /// The answer holds the notes as they were before, by name. MUST be one step: of two callers at the same time one
    /// sees the other's notes. With nothing to write or remove it MUST only read, so that it works on a server that is
    /// full or refuses writes. Another program's notes may not be UTF-8; the answer MUST leave them out.
    ///
    /// The store does not interpret the notes. They are not part of the stream's data: they MAY be lost at any time.
    fn notes<'a>(&'a self, stream: &'a StreamKey, write: &'a Notes, gone: &'a [String]) -> Reply<'a, Notes>;

    /// The pause of each group, by its stream and name, in one round trip and in the order asked; `None` for one that
    /// is not paused. An error about one group MUST be the answer for that one alone.
    fn pauses<'a>(&'a self, groups: &'a [(StreamKey, String)]) -> Reply<'a, Vec<Answer<Option<String>>>>;

    /// Records that a group is paused, in the place of an earlier pause, or with `None` that it is not. Answers whether
    /// it was paused before. The store does not interpret the text, and MUST keep it as long as the stream's number of
    /// partitions.
    fn pause<'a>(&'a self, stream: &'a StreamKey, group: &'a str, pause: Option<&'a str>) -> Reply<'a, bool>;

    /// Claims to save the next snapshot: true for one caller, and then for nobody until `every` has passed.
    fn claim_save<'a>(&'a self, key: &'a SnapshotKey, every: Duration) -> Reply<'a, bool>;

    /// Puts a snapshot in the place of the last one, in one step. The store does not interpret it, and MUST answer it whole
    /// or not at all.
    fn save<'a>(&'a self, key: &'a SnapshotKey, snapshot: Vec<u8>) -> Reply<'a, ()>;

    /// The last snapshot; `None` where nobody has saved one, or it was lost.
    fn saved<'a>(&'a self, key: &'a SnapshotKey) -> Reply<'a, Option<Vec<u8>>>;
}

/// The most processes of one group that are counted. A stream has no more partitions than that, so more processes would
/// have nothing to do. It also bounds the entries of processes that crash again and again while no member lives to
/// remove them.
pub const MAX_MEMBERS: usize = MAX_PARTITIONS as usize;

/// A change of one set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attendance {
    /// The set: [`StreamKey::members`].
    pub members: String,
    /// The caller's text about itself; without it the caller only reads or leaves.
    pub present: Option<String>,
    /// Members to remove; one with a beat only if that is still its last beat.
    pub absent: Vec<(String, Option<u64>)>,
}

/// A process in a set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its text about itself.
    pub says: String,
    /// When it was last present, in milliseconds since 1970; an older build counts from 1. While this stays the same,
    /// nobody has heard of the member.
    pub beat: u64,
}

/// Notes that programs leave beside a stream for each other, by name.
pub type Notes = BTreeMap<String, String>;
