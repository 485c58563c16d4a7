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

impl HaltKind {
    /// The word for it, which `streams explain` takes.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::DataLoss(_) => "data-loss",
            Self::DeadLettersFull => "dead-letters-full",
            Self::DeadLetterStorm => "dead-letter-storm",
            Self::Unhandled { .. } => "unhandled",
            Self::OtherDelivery => "other-delivery",
            Self::Foreign => "foreign",
            Self::Refused => "refused",
            Self::Broker => "broker",
            Self::Bug => "bug",
        }
    }
}

/// The note beside a stream that a group stands still on a partition: what a look from outside can know of a halt.
///
/// A halt lives in its process. The note stays when that process ends, until a process goes on there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HaltNote {
    /// Milliseconds since 1970, by the server's clock.
    pub(crate) at: u64,
    /// The process that halted.
    pub(crate) by: String,
    /// [`HaltKind::as_str`].
    pub(crate) kind: String,
    pub(crate) reason: String,
}

impl HaltNote {
    /// The name of the note.
    pub(crate) fn name(group: &str, partition: u32) -> String {
        format!("halt:{group}/{partition}")
    }

    /// The words in Redis, with blanks between.
    pub(crate) fn text(&self) -> String {
        format!("{} {} {} {}", self.at, self.by, self.kind, self.reason)
    }

    /// Reads the words in Redis; `None` for those of another program.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut words = text.splitn(4, ' ');
        let at = words.next()?.parse().ok()?;
        let mut word = || words.next().map(str::to_owned);
        Some(Self { at, by: word()?, kind: word()?, reason: word()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_nothing_else_is() {
        let (by, kind) = ("host.7.abc".to_owned(), HaltKind::DeadLetterStorm.as_str().to_owned());
        let note = HaltNote { at: 7, by, kind, reason: "20 dead letters in a row".to_owned() };
        assert_eq!(HaltNote::read(&note.text()), Some(note));
        for other in ["", "{\"program\": 1}", "7 host storm", "soon host storm a reason"] {
            assert_eq!(HaltNote::read(other), None, "{other}");
        }
    }
}
