//! The collector: reads how streams and groups stand, with commands that only read, and makes the views of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use streams_core::EntryId;
use streams_core::broker::{
    Answer, AttemptError, Broker, BrokerError, BrokerErrorKind, GroupLook, Marker, Member, Notes, PartitionLook,
};
use streams_core::keys::{self, GroupKey, InvalidName, PartitionKey, StreamKey};

use super::views::{ErrorView, GroupView, HaltView, MemberView, Mode, Overview, PartitionView, PlaceView, StreamView};
use crate::halt::HaltNote;
use crate::membership::{describe, member_of};
use crate::names::nearest;
use crate::ops::above;
use crate::paged::paged;
use crate::pause::Pause;

/// How many keys one round trip asks about, so that nobody on the server waits for long.
const PAGE: usize = 200;
/// A beat above this is a time; one of an older build counts from 1.
const TIMES: u64 = 1 << 40;

/// Looks at the streams and groups of a server from outside its programs, without the types of their events. It is cheap
/// to clone, and changes nothing.
///
/// ```no_run
/// use std::sync::Arc;
/// use streams_runtime::{Inspector, broker::Redis};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let inspector = Inspector::on(Arc::new(Redis::open("redis://127.0.0.1/")?), None)?;
/// for stream in inspector.overview().await?.streams {
///     for group in stream.groups {
///         println!("{} {}: {}, lag {:?}", group.stream, group.name, group.condition(), group.lag());
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Inspector {
    broker: Arc<dyn Broker>,
    namespace: Option<String>,
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector").field("broker", &self.broker).field("namespace", &self.namespace).finish()
    }
}

impl Inspector {
    /// For the streams of a namespace; without one for all streams of the server, by their keys.
    ///
    /// # Errors
    /// When the namespace cannot be part of a key.
    pub fn on(broker: Arc<dyn Broker>, namespace: Option<&str>) -> Result<Self, InvalidName> {
        namespace.map_or(Ok(()), keys::check_namespace)?;
        Ok(Self { broker, namespace: namespace.map(str::to_owned) })
    }

    #[cfg(feature = "console")]
    pub(crate) fn at(broker: Arc<dyn Broker>, namespace: Option<String>) -> Self {
        Self { broker, namespace }
    }

    /// Every stream with its groups. It asks in pages of 200 keys, about six commands per stream and four per group and
    /// partition.
    ///
    /// # Errors
    /// When the server cannot be asked, or has more than 10,000 streams. A stream that cannot be read says so itself.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn overview(&self) -> Result<Overview, BrokerError> {
        let streams = self.broker.streams(self.namespace.as_deref()).await?;
        self.look(&streams).await
    }

    /// One stream with its groups, as in an [`overview`](Self::overview).
    ///
    /// # Errors
    /// When there is no such stream, with the name that was perhaps meant, or the server cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn overview_of(&self, stream: &str) -> Result<Overview, BrokerError> {
        self.look(&[self.key(stream).await?]).await
    }

    /// One stream with its groups.
    ///
    /// # Errors
    /// As [`overview_of`](Self::overview_of).
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn stream(&self, name: &str) -> Result<StreamView, BrokerError> {
        let mut views = self.overview_of(name).await?.streams;
        views.pop().ok_or_else(|| refused(format!("there is no stream `{name}`")))
    }

    /// One group of a stream.
    ///
    /// # Errors
    /// When there is no such stream or group, with the name that was perhaps meant, or the server cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn group(&self, stream: &str, group: &str) -> Result<GroupView, BrokerError> {
        let StreamView { groups, refused: unread, .. } = self.stream(stream).await?;
        let names: Vec<_> = groups.iter().map(|group| group.name.clone()).collect();
        groups.into_iter().find(|view| view.name == group).ok_or_else(|| {
            let near = perhaps(group, names.iter().map(String::as_str));
            let there = match (names.is_empty(), unread) {
                (_, Some(unread)) => unread,
                (true, None) => "the stream has no group".to_owned(),
                (false, None) => format!("the stream has {}", names.join(", ")),
            };
            refused(format!("stream `{stream}` has no group `{group}`{near}; {there}"))
        })
    }

    /// The key of a stream that programs have declared.
    ///
    /// # Errors
    /// When there is none, with the name that was perhaps meant.
    pub(crate) async fn key(&self, name: &str) -> Result<StreamKey, BrokerError> {
        keys::check_stream(name).map_err(|error| refused(error.to_string()))?;
        let namespace = self.namespace.as_deref();
        if let Some(partitions) = self.broker.partitions(&StreamKey::new(namespace, name, 1)).await? {
            return Ok(StreamKey::new(namespace, name, partitions));
        }
        // Not every user may look for names.
        let streams = self.broker.streams(namespace).await.unwrap_or_default();
        let near = perhaps(name, streams.iter().map(|stream| self.name(stream)));
        let place = namespace.map_or_else(|| "here".to_owned(), |namespace| format!("in namespace `{namespace}`"));
        Err(refused(format!("no program has declared a stream `{name}` {place}{near}")))
    }

    pub(super) fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    fn name<'a>(&self, stream: &'a StreamKey) -> &'a str {
        let within = |namespace: &String| stream.base().strip_prefix(namespace.as_str())?.strip_prefix(':');
        self.namespace.as_ref().and_then(within).unwrap_or(stream.base())
    }

    async fn look(&self, streams: &[StreamKey]) -> Result<Overview, BrokerError> {
        let now = self.broker.now().await?;
        let partitions = |stream: &StreamKey| (0..stream.partitions()).map(|index| stream.partition(index)).collect();
        let keys: Vec<Vec<PartitionKey>> = streams.iter().map(partitions).collect();
        let asked: Vec<_> = keys.iter().flatten().cloned().collect();
        let mut looks = paged(PAGE, &asked, |page| self.broker.look_at_partitions(page)).await?.into_iter();
        let mut drafts: Vec<_> = streams
            .iter()
            .zip(&keys)
            .map(|(stream, keys)| Draft::of(stream, keys.iter().zip(looks.by_ref())))
            .collect();
        let none = Notes::new();
        let notes = join_all(streams.iter().map(|stream| self.broker.notes(stream, &none, &[]))).await;
        for (draft, notes) in drafts.iter_mut().zip(notes) {
            draft.notes = draft.heard(Some(notes)).unwrap_or_default();
        }
        let names = || drafts.iter().flat_map(|draft| draft.names.iter().map(|name| (draft.stream, name)));
        let pauses: Vec<_> = names().map(|(stream, name)| (stream.clone(), name.clone())).collect();
        let sets: Vec<_> = names().map(|(stream, name)| stream.members(name)).collect();
        let groups: Vec<_> = names()
            .flat_map(|(stream, name)| (0..stream.partitions()).map(|index| stream.partition(index).group(name)))
            .collect();
        let mut pauses = paged(PAGE, &pauses, |page| self.broker.pauses(page)).await?.into_iter();
        let mut sets = paged(PAGE, &sets, |page| self.broker.look_at_members(page)).await?.into_iter();
        let mut groups =
            paged::<GroupKey, _>(PAGE, &groups, |page| self.broker.look_at_groups(page)).await?.into_iter();
        let streams = drafts.into_iter().map(|mut draft| {
            let name = self.name(draft.stream).to_owned();
            let names = std::mem::take(&mut draft.names);
            let mut views = Vec::with_capacity(names.len());
            for group in names {
                let pause = draft.heard(pauses.next()).flatten().map(|text| Pause::read(&text));
                let members = draft.heard(sets.next()).unwrap_or_default();
                let looks = groups.by_ref().take(draft.stream.partitions() as usize);
                let looks: Vec<_> = looks.map(|look| draft.heard(Some(look)).flatten()).collect();
                let mut view = draft.group(&name, group, members, looks, now);
                view.paused = pause;
                views.push(view);
            }
            let Draft { partitions, refused, .. } = draft;
            StreamView {
                name,
                partitions: partitions.into_iter().map(|(view, _)| view).collect(),
                groups: views,
                refused,
            }
        });
        Ok(Overview { at: instant(now), streams: streams.collect() })
    }
}

/// A stream while its view is made.
struct Draft<'a> {
    stream: &'a StreamKey,
    /// The partitions that are there, each with its groups as the stream itself shows them.
    partitions: Vec<(PartitionView, Vec<Marker>)>,
    names: BTreeSet<String>,
    notes: Notes,
    refused: Option<String>,
}

impl<'a> Draft<'a> {
    fn of<'k>(
        stream: &'a StreamKey,
        looks: impl Iterator<Item = (&'k PartitionKey, Answer<Option<PartitionLook>>)>,
    ) -> Self {
        let mut draft =
            Self { stream, partitions: Vec::new(), names: BTreeSet::new(), notes: Notes::new(), refused: None };
        for (key, look) in looks {
            let Some(PartitionLook { extent, bytes, markers }) = draft.heard(Some(look)).flatten() else { continue };
            // Other programs choose names freely, and no group of ours could have such a name.
            let names = markers.iter().map(|marker| &marker.group).filter(|name| keys::check_group(name).is_ok());
            draft.names.extend(names.cloned());
            let view = PartitionView {
                index: key.index(),
                key: key.as_str().to_owned(),
                length: extent.length,
                added: extent.added,
                first: extent.first,
                last: extent.last,
                bytes,
            };
            draft.partitions.push((view, markers));
        }
        draft
    }

    /// The answer, or nothing where the server refuses a part; the first refusal is shown.
    fn heard<T>(&mut self, answer: Option<Answer<T>>) -> Option<T> {
        match answer? {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.refused.get_or_insert_with(|| error.to_string());
                None
            }
        }
    }

    fn group(
        &self,
        stream: &str,
        name: String,
        members: Vec<Member>,
        looks: Vec<Option<GroupLook>>,
        now: u64,
    ) -> GroupView {
        let known: Vec<_> = looks.iter().flatten().collect();
        let mode = match known.first() {
            None => Mode::Foreign,
            Some(look) if look.queue.is_some() => Mode::Queue,
            Some(_) => Mode::Ordered,
        };
        let mut owned: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (index, look) in (0..).zip(&looks) {
            let Some(look) = look else { continue };
            let tokens = look.queue.iter().flat_map(|queue| queue.consumers.iter().map(|(token, _)| token));
            for token in tokens.chain(Some(&look.lease.owner).filter(|owner| !owner.is_empty())) {
                owned.entry(member_of(token).to_owned()).or_default().push(index);
            }
        }
        let lease_for = known.iter().map(|look| look.lease_for).max().unwrap_or_default();
        let mut views: Vec<_> = members
            .into_iter()
            .map(|Member { says, beat }| {
                let (name, lease, build) = describe(&says, lease_for);
                let silent = (beat > TIMES).then(|| Duration::from_millis(now.saturating_sub(beat)));
                let partitions = owned.remove(&name).unwrap_or_default();
                MemberView { name, silent, lease, build, partitions }
            })
            .collect();
        // Owners that are no members any more, because they were silent for their lease; and the consumers of a work
        // queue, whose beats are no times.
        views.extend(owned.into_iter().map(|(name, partitions)| {
            let silent = (mode == Mode::Ordered).then(|| lease_for.saturating_add(Duration::from_millis(1)));
            MemberView { name, silent, lease: lease_for, build: String::new(), partitions }
        }));
        views.sort_by(|a, b| a.name.cmp(&b.name));
        let places = (0..).zip(looks).filter_map(|(index, look)| self.place(index, &name, look, now)).collect();
        GroupView { stream: stream.to_owned(), name, mode, members: views, paused: None, places }
    }

    fn place(&self, index: u32, group: &str, look: Option<GroupLook>, now: u64) -> Option<PlaceView> {
        let partition = self.partitions.iter().find(|(view, _)| view.index == index);
        let marker = partition.and_then(|(_, markers)| markers.iter().find(|marker| marker.group == group));
        let end = partition.map(|(view, _)| view);
        let foreign = |marker: &Marker| GroupLook {
            lease: Default::default(),
            lease_for: Duration::ZERO,
            at: marker.delivered,
            seen: end.and_then(|end| Some(end.added.saturating_sub(marker.lag?))),
            needs: None,
            attempts: Vec::new(),
            error: None,
            queue: None,
            dead: 0,
            replays: 0,
        };
        let is_foreign = look.is_none();
        let look = look.or_else(|| marker.map(foreign))?;
        let is_queue = look.queue.is_some();
        let (waiting, in_flight) = match &look.queue {
            Some(queue) => (queue.waiting, queue.consumers.iter().map(|(_, count)| count).sum()),
            None if is_foreign => (0, marker.map_or(0, |marker| marker.pending)),
            None => (0, 0),
        };
        let above = end.map_or(Some(0), |end| above(&end.extent(), look.at, look.seen));
        let is_behind = end.is_some_and(|end| end.last > look.at);
        // The oldest entry above the checkpoint is no older than the checkpoint, or than the first that is left.
        let since = end.and_then(|end| end.first).map_or(look.at, |first| first.max(look.at)).ms;
        let age = if is_behind { Duration::from_millis(now.saturating_sub(since)) } else { Duration::ZERO };
        let halted = self.notes.get(&HaltNote::name(group, index)).and_then(|text| HaltNote::read(text));
        // Another process has taken the partition since.
        let halted = halted.filter(|note| note.at >= look.lease.epoch);
        // The store keeps the latest error also when its event is settled. A queue's record has no attempts of single entries.
        let is_tried = |entry: EntryId| match is_queue {
            true => waiting + in_flight > 0,
            false => look.attempts.iter().any(|(id, _)| *id == entry),
        };
        let error = look.error.filter(|(error, _)| is_tried(error.entry));
        let error = error.map(|(AttemptError { entry, attempts, text }, at)| ErrorView {
            at: instant(at),
            entry,
            attempts,
            text,
        });
        Some(PlaceView {
            partition: index,
            checkpoint: look.at,
            lag: above.map(|above| above + waiting + in_flight),
            age,
            owner: Some(member_of(&look.lease.owner)).filter(|owner| !owner.is_empty()).map(str::to_owned),
            epoch: look.lease.epoch,
            halted: halted.map(|HaltNote { at, by, kind, reason }| HaltView { at: instant(at), by, kind, reason }),
            needs: look.needs.map(|need| format!("{}@{} at {}", need.name, need.version, need.entry)),
            failed: look.attempts,
            error,
            in_flight,
            waiting,
            dead: look.dead,
            replays: look.replays,
        })
    }
}

fn perhaps<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|near| format!(", perhaps `{near}` is meant")).unwrap_or_default()
}

fn instant(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn refused(message: String) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Refused, message)
}
