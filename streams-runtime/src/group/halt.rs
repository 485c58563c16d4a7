//! The reasons for which a group stands still, in the words of its status and log, each with its remedy.

use std::fmt;

use streams_core::EntryId;
use streams_core::broker::{DeadBounds, Need};
use streams_core::keys::GroupKey;

use crate::data_loss::{DataLoss, DataLossKind};
use crate::halt::{self, HaltKind};

/// Why a group stands still.
#[derive(Debug, Clone)]
pub(crate) enum Halt {
    /// History was cut before the group had read it.
    Loss(DataLoss),
    /// The same for a work queue, which goes on where it is.
    LossOfQueue(DataLoss),
    /// The same for a process that follows a broadcast group.
    LossOfCopy(DataLoss),
    /// The dead letters have reached their bounds.
    DeadLettersFull { bounds: DeadBounds, count: u64, oldest: Option<EntryId> },
    /// Dead letters in a row, as in an outage.
    Storm { dead_in_a_row: u32 },
    /// The next event is one that only another build handles, and none is there.
    Unhandled { stream: &'static str, need: Need, known: Option<u32>, ignored: Vec<String> },
    /// The group was made for the other delivery, which has this name.
    OtherDelivery { mode: String },
    /// A program that reads with XREADGROUP has a group of this name.
    Foreign,
    /// The server refuses a key or a command with this error.
    Refused { error: String },
    /// The broker failed with this error, and another try does not help.
    Broker { error: String },
    /// A claim of the lease had an answer that this build does not know.
    UnknownAnswer { answer: String },
    /// The group's task has panicked so often.
    Panics { times: u32, last: String },
    /// The group's task is gone.
    Panicked,
    /// The broker found names in a commit that the commit does not have.
    NotPassedOver { names: Vec<String> },
    /// An event that came alone was taken for a batch.
    LoneBatch { entry: EntryId, reason: Option<String> },
}

impl Halt {
    /// The reason of this group, to be shown.
    pub(crate) fn of<'a>(&'a self, key: &'a GroupKey) -> Reason<'a> {
        Reason { key, halt: self }
    }

    fn kind(&self) -> HaltKind {
        match self {
            Self::Loss(loss) | Self::LossOfQueue(loss) | Self::LossOfCopy(loss) => HaltKind::DataLoss(loss.clone()),
            Self::DeadLettersFull { .. } => HaltKind::DeadLettersFull,
            Self::Storm { .. } => HaltKind::DeadLetterStorm,
            Self::Unhandled { need: Need { name, version, entry }, .. } => {
                HaltKind::Unhandled { event: name.clone(), version: *version, entry: *entry }
            }
            Self::OtherDelivery { .. } => HaltKind::OtherDelivery,
            Self::Foreign => HaltKind::Foreign,
            Self::Refused { .. } => HaltKind::Refused,
            Self::Broker { .. } | Self::UnknownAnswer { .. } => HaltKind::Broker,
            Self::Panics { .. } | Self::Panicked | Self::NotPassedOver { .. } | Self::LoneBatch { .. } => HaltKind::Bug,
        }
    }
}

/// Why this group stands still.
pub(crate) struct Reason<'a> {
    key: &'a GroupKey,
    halt: &'a Halt,
}

impl Reason<'_> {
    /// The same, as users see it.
    pub(crate) fn for_status(&self) -> halt::Halt {
        halt::Halt::new(self.halt.kind(), self.to_string())
    }

    /// Logs the halt once.
    pub(crate) fn log(&self) {
        let reason = self.to_string();
        tracing::error!(group = self.key.group(), partition = self.key.partition().as_str(), reason, "halted");
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        match self.halt {
            Halt::Loss(loss) => {
                let remedy = remedy(key, loss);
                write!(f, "{key}: {loss}; {remedy}; `on_data_loss = \"continue\"` goes on by itself")
            }
            Halt::LossOfCopy(loss) => write!(
                f,
                "{key}: {loss}; start the process again, which builds its state anew; `on_data_loss = \"continue\"` goes on by itself"
            ),
            Halt::LossOfQueue(loss) => {
                let (partition, group) = (key.partition(), key.group());
                write!(
                    f,
                    "{key}: {loss}; to go on with what is left run `streams resume {partition} {group}`; `on_data_loss = \"continue\"` goes on by itself"
                )
            }
            Halt::DeadLettersFull { bounds, count, oldest } => write!(
                f,
                "the dead letters of {key} are full: {count} of at most {}, the oldest from {}; at most {} old; look at them and discard some, the group then goes on by itself",
                bounds.count,
                oldest.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                humantime::format_duration(bounds.age)
            ),
            Halt::Storm { dead_in_a_row } => write!(
                f,
                "{key} put {dead_in_a_row} events in a row into its dead letters: that looks like an outage, not like bad events; mend the cause, then run `streams resume {} {}`",
                key.partition(),
                key.group()
            ),
            Halt::Unhandled { stream, need, known, ignored } => {
                f.write_str(&unhandled(key, stream, need, *known, ignored))
            }
            Halt::OtherDelivery { mode } if mode == "shared" => write!(
                f,
                "{key} was made for shared delivery by an earlier build, which kept it in the pending list of Redis; let that build handle what there is, then delete its state `{}` and start once with `adopt = true`, or choose another group name",
                key.state()
            ),
            Halt::OtherDelivery { mode } => {
                let delivery = if mode == "queue" { "queue" } else { "ordered" };
                write!(
                    f,
                    "{key} is used in `{delivery}` delivery, and the two never mix under one name; choose another group name"
                )
            }
            Halt::Foreign => write!(
                f,
                "{key} exists in Redis but has no checkpoint: a program that reads with XREADGROUP uses it, then choose another group name, or stop that program and say `adopt = true` to go on where it is; or its state `{}` was deleted, then run `streams remove {} {} --force` and start again to begin anew",
                key.state(),
                key.partition(),
                key.group()
            ),
            Halt::Refused { error } => write!(f, "{key}: {error}; the group then goes on by itself"),
            Halt::Broker { error } => f.write_str(error),
            Halt::UnknownAnswer { answer } => write!(f, "{key}: unexpected answer {answer} to a claim of the lease"),
            Halt::Panics { times, last } => write!(
                f,
                "bug in streams-runtime: {key} panicked {times} times in a row and settled nothing meanwhile, the last time with: {last}; please report it, and start the program again"
            ),
            Halt::Panicked => {
                write!(f, "bug in streams-runtime: {key} panicked; please report it, and start the program again")
            }
            Halt::NotPassedOver { names } => write!(
                f,
                "bug in streams-runtime: {key} passed over none of {names:?}; please report it, and start the program again"
            ),
            Halt::LoneBatch { entry, reason } => {
                let reason = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                write!(
                    f,
                    "bug in streams-runtime: {key}: entry {entry} came alone and was taken for a batch{reason}; please report it, and start the program again"
                )
            }
        }
    }
}

/// How an ordered group goes on after a loss.
fn remedy(key: &GroupKey, loss: &DataLoss) -> String {
    let (partition, group) = (key.partition(), key.group());
    let after = |id| reset_behind(key, id);
    let all = format!("streams reset {partition} {group} --to earliest");
    match loss.kind {
        DataLossKind::TrimmedPast => format!("to go on with what is left run `{all}`"),
        DataLossKind::DeletedUnread => format!("to go on with what is left run `{}`", after(loss.from)),
        DataLossKind::HistoryCut if loss.from == EntryId::ZERO => {
            format!("to handle all that is there run `{all}`")
        }
        DataLossKind::HistoryCut => {
            format!(
                "to go on behind {} run `{}`, to handle all that is there again `{all}`",
                loss.from,
                after(loss.from)
            )
        }
        DataLossKind::Restarted => {
            format!("to handle all that is there run `{all}`, to go on behind {} `{}`", loss.to, after(loss.to))
        }
    }
}

/// Why no process goes on past an event, and what helps.
fn unhandled(key: &GroupKey, stream: &str, need: &Need, known: Option<u32>, ignored: &[String]) -> String {
    let Need { name, version, entry } = need;
    let (what, remedy) = match known {
        Some(known) => (
            format!("event `{name}` of stream `{stream}` is version {version}, and this program knows version {known}"),
            format!("deploy a program that knows version {version}"),
        ),
        None => (
            format!(
                "event `{name}` of stream `{stream}`, version {version}, is one that a build of the group handles, and this program has no consumer for it"
            ),
            format!(
                "start a build that has one, or say `ignore = [\"{name}\"]` on a consumer of the group to pass such events over for good"
            ),
        ),
    };
    let names: Vec<_> = ignored.iter().map(|name| format!("`{name}`")).collect();
    let ignores = if names.is_empty() { String::new() } else { format!(" (it ignores {})", names.join(", ")) };
    format!(
        "{key}: entry {entry}: {what}{ignores}; {remedy}; or pass this one over with `{}` if it should not be there; the group then goes on by itself",
        reset_behind(key, *entry)
    )
}

/// The command that lets the group go on with what stands behind this entry.
fn reset_behind(key: &GroupKey, id: EntryId) -> String {
    format!("streams reset {} {} --to {}", key.partition(), key.group(), id.next())
}

#[cfg(test)]
mod tests {
    use streams_core::keys::StreamKey;

    use super::*;

    #[test]
    fn a_reason_names_its_group_and_the_command_that_lets_it_go_on() {
        let key = StreamKey::new(None, "trades", 1).partition(0).group("risk");
        let loss = |kind| DataLoss { kind, from: EntryId::new(5, 0), to: EntryId::new(9, 3), count: Some(4) };
        let need = Need { name: "Trade".to_owned(), version: 3, entry: EntryId::new(7, 1) };
        let unhandled = Halt::Unhandled { stream: "trades", need, known: Some(2), ignored: vec!["Quote".to_owned()] };
        for (halt, remedy) in [
            (Halt::Loss(loss(DataLossKind::TrimmedPast)), "`streams reset trades risk --to earliest`"),
            (Halt::Loss(loss(DataLossKind::DeletedUnread)), "`streams reset trades risk --to 5-1`"),
            (Halt::Loss(loss(DataLossKind::Restarted)), "`streams reset trades risk --to 9-4`"),
            (Halt::LossOfQueue(loss(DataLossKind::TrimmedPast)), "`streams resume trades risk`"),
            (Halt::LossOfCopy(loss(DataLossKind::TrimmedPast)), "start the process again"),
            (unhandled, "(it ignores `Quote`); deploy a program that knows version 3; or pass this one over with"),
            (Halt::Refused { error: "NOPERM".to_owned() }, "NOPERM; the group then goes on by itself"),
        ] {
            let reason = halt.of(&key).to_string();
            assert!(reason.contains(&key.to_string()) && reason.contains(remedy), "{reason}");
            assert_eq!(halt.of(&key).for_status().reason(), reason);
        }
    }

    #[test]
    fn the_status_says_of_which_kind_a_halt_is() {
        let key = StreamKey::new(None, "trades", 1).partition(0).group("risk");
        let loss = DataLoss {
            kind: DataLossKind::TrimmedPast,
            from: EntryId::new(5, 0),
            to: EntryId::new(9, 3),
            count: Some(4),
        };
        let entry = EntryId::new(7, 1);
        let need = Need { name: "Trade".to_owned(), version: 3, entry };
        for (halt, kind) in [
            (Halt::Loss(loss.clone()), HaltKind::DataLoss(loss.clone())),
            (Halt::LossOfQueue(loss.clone()), HaltKind::DataLoss(loss)),
            (Halt::Storm { dead_in_a_row: 20 }, HaltKind::DeadLetterStorm),
            (
                Halt::Unhandled { stream: "trades", need, known: None, ignored: Vec::new() },
                HaltKind::Unhandled { event: "Trade".to_owned(), version: 3, entry },
            ),
            (Halt::Foreign, HaltKind::Foreign),
            (Halt::Panicked, HaltKind::Bug),
        ] {
            assert_eq!(halt.of(&key).for_status().kind(), &kind);
        }
    }
}
