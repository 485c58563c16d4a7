//! The rights of a Redis user: [`Acl`] writes the least rights that the broker needs, as rules of `ACL SETUSER`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use streams_core::keys::{self, InvalidName, SnapshotKey, StreamKey};
use streams_core::{Durability, Retention, StreamEvent};

use crate::declared::{StreamProperties, declared_retention, linked_events, stream_properties};

/// The least rights with which a program can do its work, as rules for Redis 7.0, Valkey 7.2 and later.
///
/// Name what the program does, print the rules, and give them to the user that it logs in as:
///
/// ```
/// use streams_runtime::{broker::Acl, stream_event};
///
/// #[stream_event(stream = "trades", key = symbol, partitions = 4)]
/// struct Trade { symbol: String, price: f64 }
///
/// # fn main() -> Result<(), streams_runtime::keys::InvalidName> {
/// let feed = Acl::new().publish::<Trade>(None)?;
/// assert_eq!(
///     feed.to_string(),
///     "resetkeys resetchannels clearselectors -@all +client|info +client|kill +exec +info +multi +ping \
///      +script|load +time \
///      (+exists +xlen %R~trades %R~trades.[0-9] %R~trades.[0-9][0-9] %R~trades.[0-9][0-9][0-9] \
///      %R~trades.[0-9][0-9][0-9][0-9]) \
///      (+hdel +hgetall +hset ~streams:{trades}:_builds) (+hget +hsetnx ~streams:{trades}:_stream) \
///      (+xadd +xtrim %W~trades.[0-9]) (+xinfo|stream %R~trades.[0-9])"
/// );
/// // A service that handles trades in order, one whose processes share them as work, and the tool that resets groups and
/// // replays dead letters.
/// println!("ACL SETUSER risk on >PASSWORD {}", Acl::new().consume::<Trade>(None, "risk")?);
/// println!("ACL SETUSER mail on >PASSWORD {}", Acl::new().share::<Trade>(None, "mail")?);
/// println!("ACL SETUSER operator on >PASSWORD {}", Acl::new().operate::<Trade>(None)?);
/// # Ok(()) }
/// ```
///
/// The rules hold no password, and the user keeps its own. Set again they replace the user's other rights, so the same
/// line updates a user. Calls add up: `publish` and `consume` make a user for a program that does both.
///
/// These are the rights of each, with those that go too far because Redis has no narrower rule:
///
/// | | may | although it does not need it |
/// |---|---|---|
/// | `publish` | add entries, and trim old ones | trim more than that; read entries with XINFO STREAM FULL; read the states of groups where its events declare `retention = "consumed"` |
/// | `consume` | read the stream; change the state of its group, add its dead letters; trim the stream where its events declare a `retention` | trim more than that; move or make a marker of another group (XGROUP), which holds no position of ours |
/// | `share` | the same for a group in queue delivery | trim more than that; move or make a marker of another group (XGROUP), which holds no position of ours |
/// | `follow` | read the stream for a broadcast group; keep the group's snapshots; trim the stream where its events declare a `retention` | trim more than that |
/// | `operate` | read the stream; pause, resume, reset and remove every group of it, list, replay and discard their dead letters; write to the audit stream | write anything into their states |
/// | `observe` | read every stream of a namespace, or of the server, with its groups, members and dead letters | read every other key there |
///
/// Every user may call INFO, by which a program warns of a server that would evict streams. Every user may load
/// scripts, which run with their caller's rights. Consumers may end the waits of others (`CLIENT UNBLOCK`), which then
/// only read again.
///
/// Every user may end connections, those of others included (`CLIENT KILL`); their clients then connect again. A
/// program ends a connection that it has given up before it repeats the call, so that no network delivers the first
/// call late.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// Commands without a key.
    commands: BTreeSet<&'static str>,
    /// Keys, by the commands allowed on them.
    keys: BTreeMap<&'static str, BTreeSet<String>>,
}

/// The commands of every connection. Redis has no rule for a user's own connections, so a user who may end one may end
/// any.
const CONVERSE: [&str; 6] = ["client|info", "client|kill", "info", "ping", "script|load", "time"];
/// Commands that only read a key; `consume` adds XREAD, which takes keys of several streams at once.
const LOOK: &str = "+exists +type +xinfo|consumers +xinfo|groups +xinfo|stream +xlen +xrange +xrevrange";
const LOOK_AND_WAIT: &str =
    "+exists +type +xinfo|consumers +xinfo|groups +xinfo|stream +xlen +xpending +xrange +xread +xrevrange";
const ATTEND: &str = "+type +zcard +zincrby +zrange +zrem +zremrangebyrank +zscore";
const MARK: &str = "+xgroup|create +xgroup|setid";
/// The commands on the ids of settled events.
const REMEMBER: &str = "+type +zadd +zcard +zmscore +zremrangebyrank +zremrangebyscore";
/// The commands on the waiting set of a work queue.
const WAIT: &str = "+exists +type +zadd +zcard +zcount +zrange +zrangebyscore +zrem +zscore";
/// The commands that read up to where groups have settled everything.
const SETTLED: &str = "+hget +hgetall +zcard +zrangebyscore +zscore";

/// The commands of an observer on whatever it may read.
const OBSERVE: &str = "+exists +hget +hgetall +hmget +memory|usage +type +xinfo|consumers +xinfo|groups +xinfo|stream +xlen +xpending +xrange +xread +xrevrange +zcard +zrange +zrangebyscore +zscore";

impl Acl {
    /// No rights yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes to the stream of `E`, with the retention and the durability that its events declare.
    ///
    /// # Errors
    /// When the namespace cannot be part of a key.
    pub fn publish<E: StreamEvent>(self, namespace: Option<&str>) -> Result<Self, InvalidName> {
        let (stream, properties) = stream_of::<E>(namespace)?;
        Ok(self.publish_to(&stream, properties.retention, properties.durability))
    }

    /// Runs an ordered group on the stream of `E`.
    ///
    /// # Errors
    /// When the namespace or the group cannot be part of a key.
    pub fn consume<E: StreamEvent>(self, namespace: Option<&str>, group: &str) -> Result<Self, InvalidName> {
        let stream = stream_of::<E>(namespace)?.0;
        Ok(self.consume_from(&stream, group)?.trim::<E>(&stream))
    }

    /// Runs a group on the stream of `E`, in queue delivery.
    ///
    /// # Errors
    /// When the namespace or the group cannot be part of a key.
    pub fn share<E: StreamEvent>(self, namespace: Option<&str>, group: &str) -> Result<Self, InvalidName> {
        let stream = stream_of::<E>(namespace)?.0;
        Ok(self.share_from(&stream, group)?.trim::<E>(&stream))
    }

    /// Runs a broadcast group on the stream of `E`, with its snapshots in Redis.
    ///
    /// # Errors
    /// When the namespace or the group cannot be part of a key.
    pub fn follow<E: StreamEvent>(self, namespace: Option<&str>, group: &str) -> Result<Self, InvalidName> {
        let stream = stream_of::<E>(namespace)?.0;
        Ok(self.follow_from(&stream, group)?.trim::<E>(&stream).save(&SnapshotKey::new(namespace, group)))
    }

    /// Saves snapshots of a broadcast group.
    #[must_use]
    pub fn save(mut self, snapshots: &SnapshotKey) -> Self {
        self.grant("+get +set", format!("~{}", snapshots.as_str()));
        self.grant("+set", format!("~{}", snapshots.claim()));
        self
    }

    /// Pauses, resumes, resets and removes the groups on the stream of `E`, and lists, replays and discards their dead
    /// letters.
    ///
    /// # Errors
    /// When the namespace cannot be part of a key.
    pub fn operate<E: StreamEvent>(self, namespace: Option<&str>) -> Result<Self, InvalidName> {
        Ok(self.operate_on(&stream_of::<E>(namespace)?.0))
    }

    /// As [`publish`](Self::publish), for a tool that knows the stream by its key.
    #[must_use]
    pub fn publish_to(mut self, stream: &StreamKey, retention: Retention, durability: Option<Durability>) -> Self {
        // Several entries are one transaction, and so are notes.
        self.commands.extend(CONVERSE);
        self.commands.extend(["multi", "exec"]);
        match durability {
            Some(Durability { fsync: true, .. }) => self.commands.insert("waitaof"),
            Some(_) => self.commands.insert("wait"),
            None => false,
        };
        self.meet(stream);
        for partition in patterns(stream) {
            self.grant("+xadd +xtrim", format!("%W~{partition}"));
            match retention {
                Retention::Age(_) => self.grant("+xinfo|stream", format!("%R~{partition}")),
                Retention::Consumed => {
                    // Entries that a work queue has in flight are not consumed.
                    self.grant("+xinfo|groups +xinfo|stream", format!("%R~{partition}"));
                    self.grant(SETTLED, format!("%R~{}", of_any_group(&partition)));
                }
            }
        }
        self
    }

    /// Trims a stream whose events declare a retention, as an owner does where nobody publishes.
    fn trim<E: StreamEvent>(mut self, stream: &StreamKey) -> Self {
        let events: Vec<_> = linked_events().into_iter().chain([E::INFO]).collect();
        if let Some(retention) = declared_retention(E::INFO.stream, &events) {
            for partition in patterns(stream) {
                self.grant("+xtrim", format!("%W~{partition}"));
                if retention == Retention::Consumed {
                    self.grant(SETTLED, format!("%R~{}", of_any_group(&partition)));
                }
            }
        }
        self
    }

    /// As [`consume`](Self::consume), for a tool that knows the stream by its key. It lacks the right to trim, which an
    /// owner needs where the stream's events declare a `retention`.
    ///
    /// # Errors
    /// When the group cannot be part of a key.
    pub fn consume_from(mut self, stream: &StreamKey, group: &str) -> Result<Self, InvalidName> {
        self.belong_to(stream, group)?;
        for partition in patterns(stream) {
            self.grant(MARK, format!("%W~{partition}"));
            let state = of_partition(&partition, group);
            // With `dedupe`.
            self.grant("+evalsha", format!("~{state}:settled"));
            self.grant(REMEMBER, format!("~{state}:settled"));
            self.grant("+hdel +hgetall +hincrby +hmget +hset", format!("~{state}"));
        }
        Ok(self)
    }

    /// As [`share`](Self::share), for a tool that knows the stream by its key. It lacks the right to trim, which
    /// members need where the stream's events declare a `retention`.
    ///
    /// # Errors
    /// When the group cannot be part of a key.
    pub fn share_from(mut self, stream: &StreamKey, group: &str) -> Result<Self, InvalidName> {
        self.belong_to(stream, group)?;
        for partition in patterns(stream) {
            let state = of_partition(&partition, group);
            let waiting = format!("{state}:waiting");
            self.grant(MARK, format!("%W~{partition}"));
            self.grant("+hdel +hget +hgetall +hincrby +hmget +hset", format!("~{state}"));
            self.grant("+evalsha", format!("~{waiting}"));
            self.grant(WAIT, format!("~{waiting}"));
            self.grant("+del", format!("%W~{waiting}"));
        }
        Ok(self)
    }

    /// As [`follow`](Self::follow) without the rights to trim and to save, for a tool that knows the stream by its key.
    ///
    /// # Errors
    /// When the group cannot be part of a key.
    pub fn follow_from(mut self, stream: &StreamKey, group: &str) -> Result<Self, InvalidName> {
        keys::check_group(group)?;
        self.commands.extend(CONVERSE);
        self.commands.extend(["client|id", "client|unblock", "multi", "exec"]);
        self.meet(stream);
        for partition in patterns(stream) {
            // The script that reads where a stream ends is given both keys.
            self.grant("+evalsha", format!("~{partition}"));
            self.grant("+evalsha", format!("~{}", of_partition(&partition, group)));
            self.grant(LOOK_AND_WAIT, format!("%R~{partition}"));
        }
        Ok(self)
    }

    /// As [`operate`](Self::operate), for a tool that knows the stream by its key.
    #[must_use]
    pub fn operate_on(mut self, stream: &StreamKey) -> Self {
        self.commands.extend(CONVERSE);
        self.commands.extend(["multi", "exec"]);
        self.grant("+hdel +hget +hset", format!("~{}", stream.properties()));
        self.grant("+hdel +hgetall +hset", format!("~{}", stream.builds()));
        // Shows whether processes run a group of which nothing else is left.
        let members = of_partition(stream.base(), "[A-Za-z0-9]*:members");
        self.grant("+evalsha", format!("~{members}"));
        self.grant(ATTEND, format!("~{members}"));
        for audit in ["streams:_audit", "streams:{*}:_audit"] {
            self.grant("+xadd", format!("%W~{audit}"));
        }
        for partition in patterns(stream) {
            let (groups, bell) = (of_any_group(&partition), of_partition(&partition, "_bell"));
            for key in [&partition, &groups, &bell] {
                self.grant("+evalsha", format!("~{key}"));
                self.grant(LOOK, format!("%R~{key}"));
            }
            self.grant(MARK, format!("%W~{partition}"));
            self.grant("+xgroup|destroy", format!("%W~{partition}"));
            self.grant("+del +hdel +hgetall +hincrby +hmget +hset", format!("~{groups}"));
            self.grant("+xadd", format!("%W~{bell}"));
            self.grant("+xdel", format!("%W~{groups}:dead"));
            self.grant("+xadd", format!("%W~{groups}:replay"));
        }
        self
    }

    /// Reads every stream of the namespace, or without one of the server, as an [`Inspector`](crate::Inspector) does. It
    /// changes nothing.
    ///
    /// # Errors
    /// When the namespace cannot be part of a key.
    pub fn observe(mut self, namespace: Option<&str>) -> Result<Self, InvalidName> {
        namespace.map_or(Ok(()), keys::check_namespace)?;
        self.commands.extend(CONVERSE);
        // A dry run of a trim reads how far all groups are at one moment.
        self.commands.extend(["scan", "multi", "exec"]);
        let keys = match namespace {
            Some(namespace) => vec![format!("{namespace}:*"), format!("streams:{{{namespace}:*")],
            None => vec!["*".to_owned()],
        };
        for key in keys {
            self.grant(OBSERVE, format!("%R~{key}"));
        }
        Ok(self)
    }

    /// Allows a database other than 0 (`redis://host/3`). The rules hold in every database, so keys of the same name in
    /// another one are open, too.
    #[must_use]
    pub fn in_a_database(mut self) -> Self {
        self.commands.insert("select");
        self
    }

    /// The rights of every process of a group, whatever its delivery.
    fn belong_to(&mut self, stream: &StreamKey, group: &str) -> Result<(), InvalidName> {
        keys::check_group(group)?;
        self.commands.extend(CONVERSE);
        self.commands.extend(["client|id", "client|unblock", "multi", "exec"]);
        self.meet(stream);
        let members = stream.members(group);
        self.grant("+evalsha", format!("~{members}"));
        self.grant(ATTEND, format!("~{members}"));
        for partition in patterns(stream) {
            let state = of_partition(&partition, group);
            let (dead, replays, bell) =
                (format!("{state}:dead"), format!("{state}:replay"), of_partition(&partition, "_bell"));
            for key in [&partition, &state, &dead, &replays, &bell] {
                // A key that a script is given needs both rights; each command of the script is checked by itself.
                self.grant("+evalsha", format!("~{key}"));
                self.grant(LOOK_AND_WAIT, format!("%R~{key}"));
            }
            self.grant("+xadd", format!("%W~{dead}"));
            self.grant("+xdel", format!("%W~{replays}"));
            self.grant("+xadd", format!("%W~{bell}"));
        }
        Ok(())
    }

    /// The rights of all programs on a stream: to read its partitions, and to write which event shapes they know.
    fn meet(&mut self, stream: &StreamKey) {
        self.grant("+hget +hsetnx", format!("~{}", stream.properties()));
        self.grant("+hdel +hgetall +hset", format!("~{}", stream.builds()));
        // Counts entries where another number of partitions would put them.
        for stray in stray_patterns(stream) {
            self.grant("+exists +xlen", format!("%R~{stray}"));
        }
    }

    fn grant(&mut self, commands: &'static str, key: String) {
        self.keys.entry(commands).or_default().insert(key);
    }
}

impl fmt::Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("resetkeys resetchannels clearselectors -@all")?;
        for command in &self.commands {
            write!(f, " +{command}")?;
        }
        // A command is allowed when one pair of parentheses allows it with all its keys.
        for (commands, keys) in &self.keys {
            write!(f, " ({commands}")?;
            for key in keys {
                write!(f, " {key}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// The key of a stream and what its events declare.
fn stream_of<E: StreamEvent>(namespace: Option<&str>) -> Result<(StreamKey, StreamProperties), InvalidName> {
    namespace.map_or(Ok(()), keys::check_namespace)?;
    let name = E::INFO.stream;
    let properties = stream_properties(name, linked_events().iter().chain([&E::INFO]));
    Ok((StreamKey::new(namespace, name, properties.partitions), properties))
}

/// Patterns for the partitions' keys and no others: no name of a stream ends in a dot and digits. No character of a
/// name has a meaning in a pattern.
fn patterns(stream: &StreamKey) -> Vec<String> {
    if stream.partitions() == 1 {
        return vec![stream.base().to_owned()];
    }
    let digits = stream.partitions().saturating_sub(1).to_string().len();
    (1..=digits).map(|digits| format!("{}.{}", stream.base(), "[0-9]".repeat(digits))).collect()
}

/// Patterns for [`StreamKey::strays`], and for no key of another stream.
fn stray_patterns(stream: &StreamKey) -> BTreeSet<String> {
    let pattern = |key: &str| match key.strip_prefix(stream.base()).and_then(|rest| rest.strip_prefix('.')) {
        Some(digits) => format!("{}.{}", stream.base(), "[0-9]".repeat(digits.len())),
        None => key.to_owned(),
    };
    stream.strays().map(|key| pattern(key.as_str())).collect()
}

/// A key beside a partition, as [`keys::PartitionKey`] names it.
fn of_partition(partition: &str, what: &str) -> String {
    format!("streams:{{{partition}}}:{what}")
}

/// The states and dead letters of all groups, whose names begin with a letter or a digit; not the bell.
fn of_any_group(partition: &str) -> String {
    of_partition(partition, "[A-Za-z0-9]*")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Retention = Retention::Age(std::time::Duration::from_secs(60));

    #[test]
    fn every_partition_is_matched_by_its_number_of_digits() {
        let of = |partitions| patterns(&StreamKey::new(Some("eu"), "trades", partitions));
        assert_eq!(of(1), ["eu:trades"]);
        assert_eq!(of(2), ["eu:trades.[0-9]"]);
        assert_eq!(of(10), ["eu:trades.[0-9]"]);
        assert_eq!(of(11), ["eu:trades.[0-9]", "eu:trades.[0-9][0-9]"]);
        assert_eq!(of(1024).len(), 4);
    }

    #[test]
    fn keys_are_named_as_the_layout_names_them() {
        let stream = StreamKey::new(Some("eu"), "trades", 1);
        let group = stream.partition(0).group("risk");
        assert_eq!(of_partition(stream.partition(0).as_str(), "risk"), group.state());
        assert_eq!(of_partition(stream.partition(0).as_str(), "_bell"), stream.partition(0).bell());
        let rules = Acl::new().consume_from(&stream, "risk").unwrap().to_string();
        assert!(rules.contains(&format!("%W~{}", group.dead())), "{rules}");
    }

    #[test]
    fn waits_are_allowed_to_those_who_wait() {
        let stream = &StreamKey::new(None, "trades", 1);
        let with = |durability| Acl::new().publish_to(stream, AGE, durability).to_string();
        let (fsync, replicas) = (Durability { fsync: true, replicas: 1 }, Durability { fsync: false, replicas: 1 });
        assert!(!with(None).contains("wait"));
        assert!(with(Some(fsync)).contains("+waitaof") && !with(Some(fsync)).contains("+wait "));
        assert!(with(Some(replicas)).contains("+wait ") && !with(Some(replicas)).contains("+waitaof"));
    }

    #[test]
    fn a_group_that_is_no_name_is_refused() {
        let stream = &StreamKey::new(None, "trades", 1);
        for bad in ["*", "a b", "[a]", "_bell", "a)", ""] {
            assert!(Acl::new().consume_from(stream, bad).is_err(), "{bad}");
        }
    }
}
