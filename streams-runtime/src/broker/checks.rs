//! What no broker does, refused before anything is sent or changed; and the bounds that all of them keep.

use streams_core::broker::{Acks, BrokerError, BrokerErrorKind, Commit, Fields, ReplayEnd, Until};
use streams_core::keys::{self, PartitionKey, StreamKey};

/// How many rings of its bell a partition keeps: whoever stands by reads them at once or not at all.
pub(super) const BELL_LENGTH: usize = 256;

/// How many of a group's consumers are named that are in its way.
pub(super) const MOST_NAMED: usize = 10;

/// The most fields of a dead letter: a script hands them to one command, and Lua has room for about 8,000 arguments.
const MAX_DEAD_FIELDS: usize = 3_900;

/// Refuses what no broker can store, before anything is sent: an entry needs a field.
pub(super) fn check_entries(entries: &[Fields]) -> Result<(), BrokerError> {
    if entries.iter().any(Vec::is_empty) {
        return Err(refused("an entry without fields cannot be stored"));
    }
    Ok(())
}

fn check_letters(letters: &[Fields]) -> Result<(), BrokerError> {
    check_entries(letters)?;
    match letters.iter().map(Vec::len).find(|fields| *fields > MAX_DEAD_FIELDS) {
        None => Ok(()),
        Some(fields) => Err(refused(format!(
            "a dead letter of {fields} fields cannot be stored; at most {MAX_DEAD_FIELDS} are possible"
        ))),
    }
}

/// Refuses a letter that could not be stored.
pub(super) fn check_replay_end(end: &ReplayEnd) -> Result<(), BrokerError> {
    match end {
        ReplayEnd::Dead(fields) => check_letters(std::slice::from_ref(fields)),
        ReplayEnd::Done | ReplayEnd::Again { .. } => Ok(()),
    }
}

/// Refuses letters that could not be stored, and names that no event can have.
pub(super) fn check_acks(acks: &Acks) -> Result<(), BrokerError> {
    check_letters(&acks.dead)?;
    let needs = acks.back.iter().filter_map(|wait| match &wait.until {
        Until::Needs { name, .. } => Some(name),
        Until::After(_) => None,
    });
    check_events(acks.passed_over.iter().chain(needs))
}

fn check_events<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), BrokerError> {
    names.into_iter().try_for_each(|name| keys::check_event(name)).map_err(|error| refused(error.to_string()))
}

/// Refuses commits that could not be told from their own retry, or that would move a checkpoint back.
pub(super) fn check_commit(commit: &Commit) -> Result<(), BrokerError> {
    check_letters(&commit.dead)?;
    check_events(&commit.passed_over)?;
    let Commit { prev, next, .. } = commit;
    if next < prev {
        return Err(refused(format!("a checkpoint does not move back, here from {prev} to {next}")));
    }
    if next == prev && !commit.dead.is_empty() {
        return Err(refused(format!(
            "dead letters are added by a commit that moves the checkpoint, and this one stays at {prev}"
        )));
    }
    Ok(())
}

/// Refuses the empty token, which stands for nobody.
pub(super) fn check_owner(owner: &str) -> Result<(), BrokerError> {
    if owner.is_empty() {
        return Err(refused("a lease is taken with a token that is not empty"));
    }
    Ok(())
}

/// Compares a stream's partition count with the one that its first user recorded.
pub(super) fn check_partitions(stream: &StreamKey, recorded: u64) -> Result<(), BrokerError> {
    let declared = stream.partitions();
    if recorded == u64::from(declared) {
        return Ok(());
    }
    Err(BrokerError::new(
        BrokerErrorKind::Mismatch,
        format!(
            "stream `{}` is declared with partitions = {declared}, but it is in use with {recorded}: declare {recorded}, \
             or give the events a new stream (keys would change their partitions, and with them their order)",
            stream.base()
        ),
    ))
}

/// Refuses to record a partition count that somebody has published by another one of already: it would be for ever, and
/// nobody would read what they added.
pub(super) fn check_strays(stream: &StreamKey, strays: &[(PartitionKey, u64)]) -> Result<(), BrokerError> {
    let Some((key, entries)) = strays.first() else { return Ok(()) };
    let (declared, base) = (stream.partitions(), stream.base());
    let fits = if key.as_str() == base { "declare partitions = 1, or " } else { "" };
    Err(BrokerError::new(
        BrokerErrorKind::Mismatch,
        format!(
            "stream `{base}` is declared with partitions = {declared} for the first time, but the key `{key}` holds {entries} \
             entries, which no group would read: a producer has chosen it by another number; {fits}rename the key, start again, \
             and add its entries anew by the number that `{}` then has, or delete the key if nobody needs them",
            stream.properties()
        ),
    ))
}

fn refused(message: impl Into<String>) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Refused, message)
}
