//! The checks that every broker makes before it sends or changes anything, and the bounds that every broker keeps.

use streams_core::broker::{Acks, BrokerError, BrokerErrorKind, Commit, Fields, MAX_STREAMS, ReplayEnd, Until};
use streams_core::keys::{self, PartitionKey, StreamKey};

/// How many rings a bell keeps: processes that stand by read them at once or not at all.
pub(super) const BELL_LENGTH: usize = 256;

/// The most consumers that an answer names as still in use.
pub(super) const MOST_NAMED: usize = 10;

/// The most fields of a dead letter: a script passes them to one command, and Lua has room for about 8,000 arguments.
const MAX_DEAD_FIELDS: usize = 3_900;

/// Refuses entries without a field, which no broker can store.
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

/// Refuses a dead letter that no broker could store.
pub(super) fn check_letter(fields: &Fields) -> Result<(), BrokerError> {
    check_letters(std::slice::from_ref(fields))
}

/// Refuses a dead letter that no broker could store.
pub(super) fn check_replay_end(end: &ReplayEnd) -> Result<(), BrokerError> {
    match end {
        ReplayEnd::Dead(fields) => check_letter(fields),
        ReplayEnd::Done | ReplayEnd::Again { .. } => Ok(()),
    }
}

/// Refuses dead letters that no broker could store, and names that no event can have.
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

/// Refuses commits that look like their own retry, or that would move a checkpoint back.
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

/// Refuses the empty token, which belongs to nobody.
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

/// Refuses to record a partition count after somebody has published by another one. The record would be for ever, and
/// nobody would read the entries outside of it.
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

/// The stream with this key of its properties, if it is in the namespace and one that programs can declare.
pub(super) fn declared_in(namespace: Option<&str>, properties: &str, partitions: u32) -> Option<StreamKey> {
    let base = properties.strip_prefix("streams:{")?.strip_suffix("}:_stream")?;
    let name = match namespace {
        Some(namespace) => base.strip_prefix(namespace)?.strip_prefix(':')?,
        None => base,
    };
    let is_one = keys::check_stream(name).is_ok() && (1..=keys::MAX_PARTITIONS).contains(&partitions);
    is_one.then(|| StreamKey::new(namespace, name, partitions))
}

/// There are more streams than an observer looks at.
pub(super) fn too_many_streams(namespace: Option<&str>) -> BrokerError {
    let place = namespace.map_or_else(|| "the server".to_owned(), |namespace| format!("namespace `{namespace}`"));
    refused(format!("{place} has more than {MAX_STREAMS} streams; look at one namespace, or at one stream by its name"))
}
