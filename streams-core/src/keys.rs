//! The layout of keys in Redis and the rules for names, so that no name moves a slot or collides with another.

use std::fmt;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 100;
/// The most partitions of a stream: each is a key, a lease per group and an entry in every reader's list.
pub const MAX_PARTITIONS: u32 = 1024;

/// A name that cannot be part of a Redis key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} name `{name}`: {reason}")]
pub struct InvalidName {
    kind: &'static str,
    name: String,
    reason: &'static str,
}

fn check(kind: &'static str, name: &str, colons: bool) -> Result<(), InvalidName> {
    match reason(name, colons) {
        Some(reason) => Err(InvalidName { kind, name: name.to_owned(), reason }),
        None => Ok(()),
    }
}

/// Why a name cannot be that of a group. The compiler asks where a constant holds it.
pub(crate) const fn group_reason(name: &str) -> Option<&'static str> {
    reason(name, false)
}

const fn reason(name: &str, colons: bool) -> Option<&'static str> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Some("it is empty");
    }
    if bytes.len() > MAX_NAME {
        return Some("it is longer than 100 bytes");
    }
    if !bytes[0].is_ascii_alphanumeric() {
        return Some("it must start with a letter or a digit");
    }
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        if !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') || colons && b == b':') {
            return Some(if colons {
                "letters, digits and `.` `_` `:` `-` are allowed"
            } else {
                "letters, digits and `.` `_` `-` are allowed"
            });
        }
        i += 1;
    }
    if name.eq_ignore_ascii_case("streams") { Some("`STREAMS` is a keyword of Redis commands") } else { None }
}

/// Checks a stream's name: `[A-Za-z0-9][A-Za-z0-9._:-]{0,99}`, without `.digits` at its end, which names a partition.
///
/// # Errors
/// The error says what is wrong with the name.
pub fn check_stream(name: &str) -> Result<(), InvalidName> {
    check("stream", name, true)?;
    match name.rsplit_once('.') {
        Some((_, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Err(InvalidName {
            kind: "stream",
            name: name.to_owned(),
            reason: "a name that ends in a dot and digits is the name of a partition",
        }),
        _ => Ok(()),
    }
}

/// Checks a group's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`.
///
/// # Errors
/// The error says what is wrong with the name.
pub fn check_group(name: &str) -> Result<(), InvalidName> {
    check("group", name, false)
}

/// Checks a namespace by the rule for groups.
///
/// # Errors
/// The error says what is wrong with the name.
pub fn check_namespace(name: &str) -> Result<(), InvalidName> {
    check("namespace", name, false)
}

/// Checks an event's name on the wire by the rule for groups.
///
/// # Errors
/// The error says what is wrong with the name.
pub fn check_event(name: &str) -> Result<(), InvalidName> {
    check("event", name, false)
}

/// The partition of a key: `CRC-32(key) mod partitions`, with zlib's CRC, so that every language can compute it.
pub fn partition_of(key: &str, partitions: u32) -> u32 {
    crc32fast::hash(key.as_bytes()) % partitions.max(1)
}

/// One stream in Redis: its name behind the namespace, and how many partitions it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    base: String,
    partitions: u32,
}

impl StreamKey {
    /// The keys of a stream whose name, namespace and count have been checked.
    pub fn new(namespace: Option<&str>, stream: &str, partitions: u32) -> Self {
        let base = match namespace {
            Some(namespace) => format!("{namespace}:{stream}"),
            None => stream.to_owned(),
        };
        Self { base, partitions }
    }

    /// The same stream with another number of partitions, such as the one that is recorded.
    #[must_use]
    pub fn with_partitions(&self, partitions: u32) -> Self {
        Self { base: self.base.clone(), partitions }
    }

    /// `[namespace:]stream`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// How many partitions the stream has.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The hash that records the properties that all users of the stream must share (`partitions`).
    pub fn properties(&self) -> String {
        format!("streams:{{{}}}:_stream", self.base)
    }

    /// The hash of the notes that builds leave beside the stream for each other.
    pub fn builds(&self) -> String {
        format!("streams:{{{}}}:_builds", self.base)
    }

    /// The sorted set of the processes of a group.
    pub fn members(&self, group: &str) -> String {
        format!("streams:{{{}}}:{group}:members", self.base)
    }

    /// Keys beside the stream's partitions, to which only a producer with another number of partitions writes. They are
    /// the stream's own key when there are several partitions, and all keys that a larger number would add.
    pub fn strays(&self) -> impl Iterator<Item = PartitionKey> {
        let bare = (self.partitions != 1).then(|| self.base.clone());
        let above = self.above().map(|index| PartitionKey { key: format!("{}.{index}", self.base), index });
        bare.into_iter().map(|key| PartitionKey { key, index: 0 }).chain(above)
    }

    /// The key as one of [`strays`](Self::strays), if it is one.
    pub fn stray(&self, key: &str) -> Option<PartitionKey> {
        let rest = key.strip_prefix(self.base.as_str())?;
        let index = match rest.strip_prefix('.') {
            None => (rest.is_empty() && self.partitions != 1).then_some(0)?,
            Some(digits) => {
                digits.parse().ok().filter(|index: &u32| self.above().contains(index) && index.to_string() == digits)?
            }
        };
        Some(PartitionKey { key: key.to_owned(), index })
    }

    /// The indices of partitions that a larger number would add.
    fn above(&self) -> std::ops::Range<u32> {
        let first = if self.partitions == 1 { 0 } else { self.partitions };
        first..MAX_PARTITIONS
    }

    /// The key of one partition: the stream's own key, or that key with `.0`, `.1`, ... when there are several.
    pub fn partition(&self, index: u32) -> PartitionKey {
        let key = if self.partitions == 1 { self.base.clone() } else { format!("{}.{index}", self.base) };
        PartitionKey { key, index }
    }
}

/// The keys of the snapshots of a broadcast group, of a namespace or of none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotKey {
    key: String,
}

impl SnapshotKey {
    /// The key of a group whose name, like that of the namespace, has been checked.
    pub fn new(namespace: Option<&str>, group: &str) -> Self {
        let key = match namespace {
            Some(namespace) => format!("streams:{{{namespace}:{group}}}:_snapshot"),
            None => format!("streams:{{{group}}}:_snapshot"),
        };
        Self { key }
    }

    /// The Redis key of the last snapshot.
    pub fn as_str(&self) -> &str {
        &self.key
    }

    /// The key that is there while no other snapshot is due.
    pub fn claim(&self) -> String {
        format!("{}:claim", self.key)
    }
}

/// One partition: one Redis stream key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    key: String,
    index: u32,
}

impl PartitionKey {
    /// The stream of what operators did, of a namespace or of all streams without one.
    pub fn audit(namespace: Option<&str>) -> Self {
        let key = match namespace {
            Some(namespace) => format!("streams:{{{namespace}}}:_audit"),
            None => "streams:_audit".to_owned(),
        };
        Self { key, index: 0 }
    }

    /// The Redis key of the stream's entries.
    pub fn as_str(&self) -> &str {
        &self.key
    }

    /// The index of the partition in its stream.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The stream whose entries wake processes that stand by (field `group`).
    ///
    /// Its name begins with an underscore, as no group's name does.
    pub fn bell(&self) -> String {
        format!("streams:{{{}}}:_bell", self.key)
    }

    /// A group's keys on this partition.
    pub fn group(&self, group: &str) -> GroupKey {
        GroupKey {
            partition: self.clone(),
            group: group.to_owned(),
            state: format!("streams:{{{}}}:{group}", self.key),
            queue: false,
        }
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

/// A group on a partition, with its delivery mode: the key of one lease, one checkpoint and one list of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    partition: PartitionKey,
    group: String,
    state: String,
    queue: bool,
}

impl GroupKey {
    /// The partition.
    pub fn partition(&self) -> &PartitionKey {
        &self.partition
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The hash with the group's lease and checkpoint.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// The stream of the group's dead letters.
    pub fn dead(&self) -> String {
        format!("{}:dead", self.state)
    }

    /// The same key for a work queue. A call with it creates a work queue, and is refused by a group of the other
    /// delivery mode.
    #[must_use]
    pub fn queue(mut self) -> Self {
        self.queue = true;
        self
    }

    /// Whether it is a key for a work queue.
    pub fn is_queue(&self) -> bool {
        self.queue
    }

    /// The sorted set of a work queue's waiting entries.
    pub fn waiting(&self) -> String {
        format!("{}:waiting", self.state)
    }

    /// The sorted set of the ids of events that a group with `dedupe` has settled, by when.
    pub fn settled(&self) -> String {
        format!("{}:settled", self.state)
    }

    /// The stream of the dead letters that wait to be replayed.
    pub fn replay(&self) -> String {
        format!("{}:replay", self.state)
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group `{}` on `{}`", self.group, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_move_a_slot_or_collide_are_refused() {
        for good in ["trades", "T", "9", "eu:trades.fx", "a.1b", "a-b_c"] {
            assert_eq!(check_stream(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "{trades}",
            "trades}",
            "-a",
            "_a",
            ":a",
            "a b",
            "trades.0",
            "STREAMS",
            "streams",
            "ä",
            "a*",
            &"x".repeat(101),
        ] {
            assert!(check_stream(bad).is_err(), "{bad}");
        }
        assert_eq!(check_group("risk.eu-1"), Ok(()));
        for bad in ["", "a:b", "_bell", "Streams"] {
            assert!(check_group(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn strays_are_where_another_number_of_partitions_would_put_events() {
        let strays = |partitions| -> Vec<String> {
            let stream = StreamKey::new(Some("eu"), "trades", partitions);
            let strays: Vec<_> = stream.strays().collect();
            assert!((0..partitions).all(|index| !strays.contains(&stream.partition(index))), "{strays:?}");
            for key in &strays {
                assert_eq!(stream.stray(key.as_str()).as_ref(), Some(key));
            }
            for index in 0..partitions {
                assert_eq!(stream.stray(stream.partition(index).as_str()), None);
            }
            for other in
                ["trades", "eu:trades.", "eu:trades.01", "eu:trades.1024", "eu:trades.x", "eu:trades2", "eu:trades.4.4"]
            {
                assert_eq!(stream.stray(other), None, "{other}");
            }
            strays.into_iter().map(|key| key.key).collect()
        };
        assert_eq!(strays(1)[..2], ["eu:trades.0", "eu:trades.1"]);
        assert_eq!(strays(4)[..3], ["eu:trades", "eu:trades.4", "eu:trades.5"]);
        assert_eq!((strays(1).len(), strays(4).len(), strays(1024).len()), (1024, 1021, 1));
    }

    #[test]
    fn a_stream_of_one_partition_is_its_own_key() {
        let one = StreamKey::new(None, "trades", 1);
        assert_eq!(one.partition(0).as_str(), "trades");
        let many = StreamKey::new(Some("staging"), "trades", 4);
        assert_eq!(many.partition(3).as_str(), "staging:trades.3");
        let group = many.partition(3).group("risk");
        assert_eq!(group.state(), "streams:{staging:trades.3}:risk");
        assert_eq!(group.dead(), "streams:{staging:trades.3}:risk:dead");
        assert_eq!(group.partition().bell(), "streams:{staging:trades.3}:_bell");
        assert_eq!(many.properties(), "streams:{staging:trades}:_stream");
        assert_eq!(many.builds(), "streams:{staging:trades}:_builds");
        assert_eq!(many.members("risk"), "streams:{staging:trades}:risk:members");
    }

    #[test]
    fn the_partition_of_a_key_never_changes() {
        // python3 -c 'import zlib; print([zlib.crc32(k) % 8 for k in (b"", b"BTC-USD", b"ETH-USD", b"7", b"DOGE")])'
        assert_eq!(["", "BTC-USD", "ETH-USD", "7", "DOGE"].map(|key| partition_of(key, 8)), [0, 0, 7, 2, 6]);
    }
}
