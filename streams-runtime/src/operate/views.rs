//! How streams and groups stand, as data for tools, consoles and metrics; every figure is computed here and nowhere else.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use streams_core::EntryId;
use streams_core::broker::Extent;

use crate::clock::millis;
use crate::pause::Pause;

/// Every stream of a server or of a namespace at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Overview {
    /// The server's clock.
    #[serde(serialize_with = "time")]
    pub at: SystemTime,
    /// The streams, by name.
    pub streams: Vec<StreamView>,
}

/// A stream and its groups.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StreamView {
    /// The stream's name, without the namespace.
    pub name: String,
    /// Its partitions in order; one that nobody has published to is not there.
    pub partitions: Vec<PartitionView>,
    /// Its groups, by name.
    pub groups: Vec<GroupView>,
    /// The error about a part that could not be read, such as a right that is missing.
    pub refused: Option<String>,
}

/// A partition of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartitionView {
    /// Its index.
    pub index: u32,
    /// Its key in Redis.
    pub key: String,
    /// How many entries it has.
    pub length: u64,
    /// How many were ever added.
    pub added: u64,
    /// Its first entry.
    #[serde(serialize_with = "some_text")]
    pub first: Option<EntryId>,
    /// The highest id that was given out.
    #[serde(serialize_with = "text")]
    pub last: EntryId,
    /// How much memory it takes; `None` where the server does not say.
    pub bytes: Option<u64>,
}

/// A group of a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct GroupView {
    /// The stream's name.
    pub stream: String,
    /// The group's name.
    pub name: String,
    /// How it is delivered to.
    pub mode: Mode,
    /// The processes that run it.
    pub members: Vec<MemberView>,
    /// The pause, if somebody has paused it.
    #[serde(serialize_with = "some_pause")]
    pub paused: Option<Pause>,
    /// The group on each partition, in order.
    pub places: Vec<PlaceView>,
}

/// How a group is delivered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// In order, by the owner of each partition.
    Ordered,
    /// As a work queue.
    Queue,
    /// By another program, which reads with XREADGROUP.
    Foreign,
}

/// A process that runs a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemberView {
    /// Its name: machine, process id and random digits.
    pub name: String,
    /// For how long it has given no sign of life; `None` where that cannot be known.
    #[serde(serialize_with = "some_span")]
    pub silent: Option<Duration>,
    /// For how long it may be silent.
    #[serde(serialize_with = "span")]
    pub lease: Duration,
    /// The events that its build takes and ignores.
    pub build: String,
    /// The partitions that it owns, in order; in a work queue those on which it takes part.
    pub partitions: Vec<u32>,
}

/// A group on one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlaceView {
    /// The partition.
    pub partition: u32,
    /// The checkpoint; in a work queue the cursor.
    #[serde(serialize_with = "text")]
    pub checkpoint: EntryId,
    /// How many entries are not settled; `None` where that is not known.
    pub lag: Option<u64>,
    /// How old the oldest of them is at most, by the server's clock; zero where there is none.
    #[serde(serialize_with = "span")]
    pub age: Duration,
    /// The process that owns the partition; `None` in a work queue, or while nobody does.
    pub owner: Option<String>,
    /// Which holding of the lease it is.
    pub epoch: u64,
    /// Why nothing is handled, where a process has said so.
    pub halted: Option<HaltView>,
    /// The event for which another build is needed.
    pub needs: Option<String>,
    /// How often events that are not settled have failed.
    #[serde(serialize_with = "counts")]
    pub failed: Vec<(EntryId, u32)>,
    /// The latest error of an event that is tried again: the last one of the partition, where several fail.
    pub error: Option<ErrorView>,
    /// How many entries processes have in flight; for a foreign group those it has not acknowledged.
    pub in_flight: u64,
    /// How many entries of a work queue wait to be given out again.
    pub waiting: u64,
    /// How many dead letters there are.
    pub dead: u64,
    /// How many dead letters wait to be replayed.
    pub replays: u64,
}

/// Why a group stands still on a partition, as the process that halted has said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HaltView {
    /// When it halted, by the server's clock.
    #[serde(serialize_with = "time")]
    pub at: SystemTime,
    /// The process.
    pub by: String,
    /// The word of its [`HaltKind`](crate::HaltKind).
    pub kind: String,
    /// The cause and the remedy.
    pub reason: String,
}

/// The error of a failed attempt, after which there is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ErrorView {
    /// When it was recorded, by the server's clock.
    #[serde(serialize_with = "time")]
    pub at: SystemTime,
    /// The entry of the event.
    #[serde(serialize_with = "text")]
    pub entry: EntryId,
    /// How many attempts have failed.
    pub attempts: u32,
    /// The beginning of the handler's own words, at most 512 bytes.
    pub text: String,
}

/// How a group stands, in one word; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Condition {
    /// A partition handles nothing until somebody does something.
    Halted,
    /// Nobody runs the group.
    Unattended,
    /// An event fails, and is tried again.
    Retrying,
    /// Somebody has paused it.
    Paused,
    /// Processes run it.
    Running,
    /// Another program runs it, or nobody; its processes cannot be seen.
    Foreign,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Halted => "halted",
            Self::Unattended => "unattended",
            Self::Retrying => "retrying",
            Self::Paused => "paused",
            Self::Running => "running",
            Self::Foreign => "foreign",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ordered => "ordered",
            Self::Queue => "queue",
            Self::Foreign => "foreign",
        })
    }
}

impl StreamView {
    /// How many entries it has.
    pub fn length(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.length).sum()
    }

    /// How many entries were ever added.
    pub fn added(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.added).sum()
    }

    /// How much memory it takes; `None` where the server does not say.
    pub fn bytes(&self) -> Option<u64> {
        self.partitions.iter().map(|partition| partition.bytes).sum()
    }

    /// Its oldest entry.
    pub fn first(&self) -> Option<EntryId> {
        self.partitions.iter().filter_map(|partition| partition.first).min()
    }

    /// The newest id; `None` where nothing was ever published.
    pub fn last(&self) -> Option<EntryId> {
        self.partitions.iter().map(|partition| partition.last).max().filter(|last| *last > EntryId::ZERO)
    }
}

impl PartitionView {
    pub(super) fn extent(&self) -> Extent {
        Extent { first: self.first, last: self.last, length: self.length, added: self.added }
    }
}

impl GroupView {
    /// How many entries are not settled, on all partitions; `None` where that is not known of one.
    pub fn lag(&self) -> Option<u64> {
        self.places.iter().map(|place| place.lag).sum()
    }

    /// How old the oldest entry is at most that is not settled.
    pub fn age(&self) -> Duration {
        self.places.iter().map(|place| place.age).max().unwrap_or_default()
    }

    /// How many dead letters there are.
    pub fn dead(&self) -> u64 {
        self.places.iter().map(|place| place.dead).sum()
    }

    /// How many dead letters wait to be replayed. They are no longer among [`dead`](Self::dead).
    pub fn replays(&self) -> u64 {
        self.places.iter().map(|place| place.replays).sum()
    }

    /// How many events have failed and are tried again.
    pub fn retrying(&self) -> u64 {
        self.places.iter().map(|place| place.failed.len() as u64).sum()
    }

    /// The latest error of an event that is tried again, and its partition.
    pub fn error(&self) -> Option<(u32, &ErrorView)> {
        let errors = self.places.iter().filter_map(|place| Some((place.partition, place.error.as_ref()?)));
        errors.max_by_key(|(_, error)| error.at)
    }

    /// How many processes show that they live.
    pub fn living(&self) -> usize {
        self.members.iter().filter(|member| member.lives()).count()
    }

    /// How it stands to one entry, in words for people; `None` where it has no state on the partition. An event that was
    /// given up is settled, too.
    pub fn stands_to(&self, partition: u32, id: EntryId) -> Option<String> {
        let place = self.places.iter().find(|place| place.partition == partition)?;
        let failed = place.failed.iter().find(|(failed, _)| *failed == id);
        Some(match failed {
            Some((_, 1)) => "failed once, and is tried again".to_owned(),
            Some((_, attempts)) => format!("failed {attempts} times, and is tried again"),
            None if id > place.checkpoint => "not settled yet".to_owned(),
            None if self.mode == Mode::Foreign && place.in_flight > 0 => {
                "delivered; acknowledged unless it is pending".to_owned()
            }
            None if place.waiting + place.in_flight > 0 => {
                "given out; settled unless it is in flight or waits".to_owned()
            }
            None => "settled".to_owned(),
        })
    }

    /// How it stands.
    pub fn condition(&self) -> Condition {
        let any = |of: fn(&PlaceView) -> bool| self.places.iter().any(of);
        match self.mode {
            Mode::Foreign => Condition::Foreign,
            _ if any(|place| place.halted.is_some()) => Condition::Halted,
            _ if self.living() == 0 => Condition::Unattended,
            _ if self.paused.is_some() => Condition::Paused,
            _ if any(|place| !place.failed.is_empty()) => Condition::Retrying,
            _ => Condition::Running,
        }
    }
}

impl MemberView {
    /// Whether it has given a sign of life within its lease, as far as that can be known.
    pub fn lives(&self) -> bool {
        self.silent.is_none_or(|silent| silent <= self.lease)
    }
}

fn time<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis))
}

fn span<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(millis(*span))
}

fn some_span<S: Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    span.map(millis).serialize(to)
}

fn text<S: Serializer>(id: &EntryId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

fn some_text<S: Serializer>(id: &Option<EntryId>, to: S) -> Result<S::Ok, S::Error> {
    id.map(|id| id.to_string()).serialize(to)
}

fn counts<S: Serializer>(counts: &[(EntryId, u32)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(counts.iter().map(|(id, count)| (id.to_string(), count)))
}

fn some_pause<S: Serializer>(pause: &Option<Pause>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct View<'a> {
        #[serde(serialize_with = "time")]
        at: SystemTime,
        by: &'a str,
        why: &'a str,
    }
    pause.as_ref().map(|pause| View { at: pause.at, by: &pause.by, why: &pause.why }).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> PlaceView {
        PlaceView {
            partition: 0,
            checkpoint: EntryId::new(5, 1),
            lag: Some(2),
            age: Duration::from_secs(3),
            owner: Some("a.1.x".to_owned()),
            epoch: 7,
            halted: None,
            needs: None,
            failed: vec![],
            error: None,
            in_flight: 0,
            waiting: 0,
            dead: 1,
            replays: 0,
        }
    }

    fn group() -> GroupView {
        let member = MemberView {
            name: "a.1.x".to_owned(),
            silent: Some(Duration::from_secs(1)),
            lease: Duration::from_secs(10),
            build: String::new(),
            partitions: vec![0],
        };
        GroupView {
            stream: "trades".to_owned(),
            name: "risk".to_owned(),
            mode: Mode::Ordered,
            members: vec![member],
            paused: None,
            places: vec![place(), PlaceView { partition: 1, age: Duration::from_secs(9), ..place() }],
        }
    }

    #[test]
    fn the_worst_of_a_group_is_its_condition() {
        let mut group = group();
        assert_eq!(group.condition(), Condition::Running);
        group.places[1].failed = vec![(EntryId::new(6, 0), 2)];
        assert_eq!(group.condition(), Condition::Retrying);
        group.paused = Some(Pause::new(SystemTime::UNIX_EPOCH, "a", ""));
        assert_eq!(group.condition(), Condition::Paused);
        group.members[0].silent = Some(Duration::from_secs(11));
        assert_eq!((group.condition(), group.living()), (Condition::Unattended, 0));
        let (at, by) = (SystemTime::UNIX_EPOCH, "a".to_owned());
        group.places[0].halted = Some(HaltView { at, by, kind: "bug".to_owned(), reason: String::new() });
        assert_eq!(group.condition(), Condition::Halted);
        group.mode = Mode::Foreign;
        assert_eq!(group.condition(), Condition::Foreign);
    }

    #[test]
    fn a_group_says_how_it_stands_to_an_entry() {
        let mut group = group();
        let says =
            |group: &GroupView, partition, id| group.stands_to(partition, EntryId::new(id, 0)).unwrap_or_default();
        assert_eq!((says(&group, 0, 5), says(&group, 0, 6)), ("settled".to_owned(), "not settled yet".to_owned()));
        assert_eq!(group.stands_to(0, EntryId::new(5, 1)).as_deref(), Some("settled"), "the checkpoint itself");
        assert_eq!(group.stands_to(9, EntryId::ZERO), None);
        group.places[0].failed = vec![(EntryId::new(6, 0), 2)];
        assert_eq!(says(&group, 0, 6), "failed 2 times, and is tried again");
        group.places[0].waiting = 1;
        assert!(says(&group, 0, 5).starts_with("given out"));
    }

    #[test]
    fn figures_of_a_group_are_those_of_its_partitions_together() {
        let mut group = group();
        assert_eq!((group.lag(), group.age(), group.dead()), (Some(4), Duration::from_secs(9), 2));
        group.places[0].lag = None;
        assert_eq!(group.lag(), None, "a sum without a part would be too small");
    }

    #[test]
    fn the_error_of_a_group_is_the_latest_of_its_partitions() {
        let mut group = group();
        assert_eq!(group.error(), None);
        let error = |second| ErrorView {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            entry: EntryId::new(6, 0),
            attempts: 1,
            text: second.to_string(),
        };
        (group.places[0].error, group.places[1].error) = (Some(error(9)), Some(error(8)));
        assert_eq!(group.error(), Some((0, &error(9))));
    }

    #[test]
    fn data_for_programs_has_ids_as_text_and_times_in_milliseconds() {
        let mut group = group();
        group.paused = Some(Pause::new(SystemTime::UNIX_EPOCH + Duration::from_millis(7), "a", "b c"));
        group.places[0].failed = vec![(EntryId::new(6, 0), 2)];
        let json = serde_json::to_value(&group).unwrap();
        assert_eq!(json["paused"], serde_json::json!({"at": 7, "by": "a", "why": "b c"}));
        assert_eq!(json["places"][0]["checkpoint"], "5-1");
        assert_eq!(json["places"][0]["failed"], serde_json::json!({"6-0": 2}));
        assert_eq!(
            (&json["places"][1]["age"], &json["mode"]),
            (&serde_json::json!(9000), &serde_json::json!("ordered"))
        );
    }
}
