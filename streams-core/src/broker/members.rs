//! What processes tell each other: who is there, in sets of members, and notes beside a stream.

use std::collections::BTreeMap;

use super::error::{Answer, Reply};
use super::sealed::Sealed;
use crate::keys::{MAX_PARTITIONS, StreamKey};

/// The processes that use a store.
pub trait Members: Sealed {
    /// Takes part in several sets of members, in one conversation and in their order: answers who is in each then. What is
    /// wrong with one of them MUST be its answer alone.
    ///
    /// Of each set first those who are absent MUST be taken out, then who is present be counted once more, in one step. A member
    /// that was not there comes in with the beat 1. What members say is the caller's business. It MUST work on a server that is
    /// full. A set SHOULD hold [`MAX_MEMBERS`]; for whoever comes beyond that, those with the smallest beats are taken out.
    fn attend<'a>(&'a self, sets: &'a [Attendance]) -> Reply<'a, Vec<Answer<Vec<Member>>>>;

    /// Writes these notes beside the stream, each in the place of one of the same name, takes away those named in `gone`,
    /// and answers with the notes as they were before, by name. MUST be one step: of two callers at the same time one
    /// sees the notes of the other. With nothing to write and nothing to take away it MUST only read, so that it works on a server
    /// that is full or refuses writes. Notes that are not UTF-8 are somebody else's and MUST be left out of the answer.
    ///
    /// What they say is the caller's business. They are not part of the stream's data: they MAY be lost at any time.
    fn notes<'a>(&'a self, stream: &'a StreamKey, write: &'a Notes, gone: &'a [String]) -> Reply<'a, Notes>;
}

/// How many processes of one group are counted: as many as a stream may have partitions, as more have nothing to do. It is a
/// bound on what is left by processes that crash again and again, while nobody lives long enough to take them out.
pub const MAX_MEMBERS: usize = MAX_PARTITIONS as usize;

/// What a process does to one set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attendance {
    /// The set: [`StreamKey::members`].
    pub members: String,
    /// What the caller says of itself; without it, it only looks or leaves.
    pub present: Option<String>,
    /// Who is no member any more: with a beat only if that is still the last one.
    pub absent: Vec<(String, Option<u64>)>,
}

/// A process in a set of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it says of itself.
    pub says: String,
    /// How often it was present. As long as it stays the same, nobody has heard of it.
    pub beat: u64,
}

/// What programs leave beside a stream for each other, by name.
pub type Notes = BTreeMap<String, String>;
