//! Why a group stands still, as its status says it.

use std::fmt;

use streams_core::EntryId;

use crate::data_loss::DataLoss;

/// Why a group handles nothing on a partition until somebody does something. `Display` says it in words, with the remedy.
///
/// ```
/// use streams_runtime::{HaltKind, Phase, Status};
///
/// /// The groups that wait for a person to look at a loss.
/// fn lost(status: &Status) -> Vec<&'static str> {
///     let halted = status.groups.iter().filter_map(|group| match &group.phase {
///         Phase::Halted(halt) => Some((group.group, halt.kind())),
///         _ => None,
///     });
///     halted.filter(|(_, kind)| matches!(kind, HaltKind::DataLoss(_))).map(|(group, _)| group).collect()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    kind: HaltKind,
    reason: String,
}

/// The kinds of [`Halt`], to tell them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HaltKind {
    /// History was cut before the group had read it.
    DataLoss(DataLoss),
    /// The dead letters are at their bound ([`Config::dead_letters`](crate::Config::dead_letters)).
    DeadLettersFull,
    /// Too many events in a row became dead letters ([`Config::dead_letter_storm`](crate::Config::dead_letter_storm)).
    DeadLetterStorm,
    /// The next event needs a build that handles it, and none runs. The group goes on by itself when one comes.
    Unhandled {
        /// The event's name.
        event: String,
        /// Its version.
        version: u32,
        /// Where it is.
        entry: EntryId,
    },
    /// The group was made for the other delivery.
    OtherDelivery,
    /// A program that reads with XREADGROUP has a group of this name, and no consumer says `adopt`.
    Foreign,
    /// The server refuses a key or a command. The group goes on by itself when that is mended.
    Refused,
    /// The broker failed, and a retry does not help.
    Broker,
    /// A bug in this crate.
    Bug,
}

impl Halt {
    pub(crate) fn new(kind: HaltKind, reason: String) -> Self {
        Self { kind, reason }
    }

    /// Which kind it is.
    pub fn kind(&self) -> &HaltKind {
        &self.kind
    }

    /// The words of `Display`: the group, the cause and the remedy.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
