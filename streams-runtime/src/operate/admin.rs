//! The calls of an operator on a group: pause and resume it, move its checkpoint, remove it, look after its dead letters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_core::broker::{Attendance, Broker, BrokerError, BrokerErrorKind, Notes, Reset};
use streams_core::keys::{self, GroupKey, InvalidName, PartitionKey, StreamKey};
use streams_core::{EntryId, Start};

use super::audit::{self, Line};
use super::inspector::Inspector;
use super::plan::{ResetPlan, plan};
use super::views::Mode;
use crate::halt::HaltNote;
use crate::names;
use crate::ops::DeadLetters;
use crate::pause::Pause;
use crate::whoami;

/// How often a reset is tried when the lease changes hands under it.
const ATTEMPTS: u32 = 5;

/// The things that were removed with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// How many partitions it was removed from.
    pub partitions: u32,
    /// How many dead letters went with it, those that waited to be replayed included.
    pub dead_letters: u64,
    /// How many processes ran it.
    pub processes: usize,
}

/// An operator's hand on the groups of one broker and namespace; [`Running::admin`](crate::Running::admin) has one, too.
///
/// Each pause, resume, reset and removal leaves a line in the audit stream `streams:_audit`, which keeps 90 days. The
/// line is written before the act, and an act that then fails has a second one. Without the right to write there
/// nothing is done. Only a server that is full is acted on without a line.
#[derive(Clone)]
pub struct Admin {
    broker: Arc<dyn Broker>,
    namespace: Option<String>,
    /// The groups of a running app, by their state, and whether they are in queue delivery: these may be made anew.
    driven: BTreeMap<String, bool>,
    /// Who acts, for the audit stream.
    by: Option<String>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("broker", &self.broker).field("namespace", &self.namespace).finish()
    }
}

impl Admin {
    /// For a tool of one's own that runs no app.
    ///
    /// # Errors
    /// When the namespace cannot be part of a key.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use streams_runtime::{Admin, Start, broker::Redis};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let admin = Admin::on(Arc::new(Redis::open("redis://127.0.0.1/")?), None)?;
    /// admin.reset("trades", "risk", Start::Earliest).await?;
    /// # Ok(()) }
    /// ```
    pub fn on(broker: Arc<dyn Broker>, namespace: Option<&str>) -> Result<Self, InvalidName> {
        namespace.map_or(Ok(()), keys::check_namespace)?;
        Ok(Self::at(broker, namespace.map(str::to_owned), BTreeMap::new()))
    }

    pub(crate) fn at(broker: Arc<dyn Broker>, namespace: Option<String>, driven: BTreeMap<String, bool>) -> Self {
        Self { broker, namespace, driven, by: None }
    }

    /// The same for somebody whom the audit stream names. Unless said it names the program and its machine.
    #[must_use]
    pub fn by(mut self, who: &str) -> Self {
        self.by = Some(who.to_owned());
        self
    }

    /// Lets a group go on from here, and answers its checkpoint on each partition. `trades` stands for every partition
    /// of the stream, `trades.3` for that one; a time is `Start::At(EntryId::new(ms, 0))`.
    ///
    /// The owner of the partition loses its lease. Its events in flight are not committed, and may be handled again. A
    /// group that is halted in a running process goes on by itself within some seconds. A marker or a state that is gone is
    /// made anew. Where nothing at all is left of the group, only [`Running::admin`](crate::Running::admin) makes it anew,
    /// or any other while processes run it in ordered delivery. Otherwise the name counts as misspelt. A group in queue
    /// delivery begins anew in every process. Events in flight or waiting for another attempt are handled again if they
    /// stand behind the new beginning, and forgotten if not.
    ///
    /// # Errors
    /// When a name is wrong, the stream or the group is not there, or the broker cannot be asked. Partitions before the one
    /// that fails are reset.
    ///
    /// # Cancel safety
    /// Some partitions may be reset.
    pub async fn reset(&self, stream: &str, group: &str, to: Start) -> Result<Vec<EntryId>, BrokerError> {
        let keys = self.groups(stream, group).await?;
        if !keys.iter().any(|key| self.driven.contains_key(key.state()))
            && let Some(missing) = names::missing(&*self.broker, &keys).await?
            && !self.is_attended(stream, group).await
        {
            return Err(missing);
        }
        let mut from = Vec::new();
        for (key, look) in keys.iter().zip(self.broker.look_at_groups(&keys).await?) {
            from.extend(look.ok().flatten().map(|look| (key.partition().index(), look.at)));
        }
        self.noted("reset", (stream, group), &audit::moved(to, &from), async {
            let mut checkpoints = Vec::new();
            for key in keys {
                checkpoints.push(self.reset_one(&key, to).await?);
            }
            Ok(checkpoints)
        })
        .await
    }

    /// Counts, on each partition in order, how many events a [`reset`](Self::reset) would bring again, and how many it would
    /// pass over. It changes nothing.
    ///
    /// # Errors
    /// When a name is wrong, the stream or the group is not there, or the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn plan_reset(&self, stream: &str, group: &str, to: Start) -> Result<Vec<ResetPlan>, BrokerError> {
        let keys = self.groups(stream, group).await?;
        if let Some(missing) = names::missing(&*self.broker, &keys).await? {
            return Err(missing);
        }
        plan(&*self.broker, &keys, to).await
    }

    /// Pauses a group on every partition: every process hands no further event to its handlers within about a second,
    /// commits what is settled, and waits. `by` and `why` are shown wherever the group is. The pause outlives processes and
    /// restarts of the server, and ends with [`resume`](Self::resume). An earlier pause is replaced.
    ///
    /// Publishers go on, and retention trims by age also what a paused group has not read.
    ///
    /// # Errors
    /// When a name is wrong, the stream or the group is not there, or the broker cannot be asked.
    ///
    /// # Cancel safety
    /// The group may be paused.
    ///
    /// ```no_run
    /// # async fn example(admin: streams_runtime::Admin) -> Result<(), Box<dyn std::error::Error>> {
    /// admin.pause("trades", "risk", "alice", "the limits are being mended").await?;
    /// # Ok(()) }
    /// ```
    pub async fn pause(&self, stream: &str, group: &str, by: &str, why: &str) -> Result<(), BrokerError> {
        let keys = self.whole(stream, group).await?;
        if let Some(missing) = names::missing(&*self.broker, &keys).await? {
            return Err(missing);
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.broker.now().await?);
        let key = StreamKey::new(self.namespace.as_deref(), stream, 1);
        let pause = Pause::new(now, by, why).text();
        let line = Line { by: self.by.as_deref().unwrap_or(by), act: "pause", stream, group, detail: why };
        let act = self.broker.pause(&key, group, Some(&pause));
        audit::noted(&*self.broker, &self.audit_stream(), line, act).await.map(drop)
    }

    /// Removes a group from every partition: its checkpoint, its dead letters, and all else that it has in Redis.
    /// `force` removes it also while processes run it or dead letters lie there. A process that runs it then halts.
    ///
    /// # Errors
    /// When a name is wrong, the group is not there, processes run it, it has dead letters, or the broker cannot be asked.
    /// Partitions before the one that fails are removed.
    ///
    /// # Cancel safety
    /// Some partitions may be removed; a second call removes the rest.
    pub async fn remove(&self, stream: &str, group: &str, force: bool) -> Result<Removed, BrokerError> {
        let keys = self.whole(stream, group).await?;
        let inspector = Inspector::on(Arc::clone(&self.broker), self.namespace.as_deref());
        let view = inspector.map_err(|error| refused(error.to_string()))?.group(stream, group).await?;
        let dead_letters = view.dead() + view.replays();
        let removed = Removed { partitions: keys.len() as u32, dead_letters, processes: view.living() };
        if !force && removed.processes > 0 {
            let names: Vec<_> =
                view.members.iter().filter(|member| member.lives()).map(|one| one.name.as_str()).collect();
            let message = format!(
                "group `{group}` of stream `{stream}` is run by {}: {}; stop them first, or remove it by force",
                counted(removed.processes as u64, "process", "processes"),
                names.join(", ")
            );
            return Err(refused(message));
        }
        if !force && view.mode == Mode::Foreign {
            let message = format!(
                "group `{group}` of stream `{stream}` has no state of ours: a program that reads with XREADGROUP uses it, or its state was deleted; remove it by force if nobody needs it"
            );
            return Err(refused(message));
        }
        if !force && removed.dead_letters > 0 {
            let message = format!(
                "group `{group}` of stream `{stream}` has {}: replay or discard them first, or remove it by force",
                counted(removed.dead_letters, "dead letter", "dead letters")
            );
            return Err(refused(message));
        }
        let forced = if force { ", by force" } else { "" };
        let detail = format!(
            "{} and {}{forced}",
            counted(removed.partitions.into(), "partition", "partitions"),
            counted(dead_letters, "dead letter", "dead letters")
        );
        self.noted("remove", (stream, group), &detail, self.remove_all(stream, group, &keys)).await?;
        Ok(removed)
    }

    async fn remove_all(&self, stream: &str, group: &str, keys: &[GroupKey]) -> Result<(), BrokerError> {
        for key in keys {
            self.remove_one(key).await?;
        }
        let stream = StreamKey::new(self.namespace.as_deref(), stream, 1);
        self.broker.pause(&stream, group, None).await?;
        let says = self.broker.look_at_members(&[stream.members(group)]).await?.into_iter().flatten().flatten();
        let absent = says.map(|member| (member.says, None)).collect();
        let leave = Attendance { members: stream.members(group), present: None, absent };
        self.broker.attend(std::slice::from_ref(&leave)).await?;
        let halts: Vec<_> = keys.iter().map(|key| HaltNote::name(group, key.partition().index())).collect();
        self.broker.notes(&stream, &Notes::new(), &halts).await.map(drop)
    }

    async fn remove_one(&self, key: &GroupKey) -> Result<(), BrokerError> {
        for _ in 0..ATTEMPTS {
            let seen = self.broker.look_at_groups(std::slice::from_ref(key)).await?.pop().transpose()?.flatten();
            if self.broker.remove(key, seen.map(|look| look.lease.epoch)).await? {
                return Ok(());
            }
        }
        let message = format!("the lease of {key} changed hands at every attempt to remove it; try again");
        Err(BrokerError::new(BrokerErrorKind::Unavailable, message))
    }

    /// Writes a line into the audit stream `streams:_audit`, which keeps 90 days: who does what to which stream and group.
    /// Tools call it before what they do without an `Admin`; its own acts have their lines.
    ///
    /// # Errors
    /// When the broker cannot be asked, or the user may not write there.
    ///
    /// # Cancel safety
    /// The line may be written.
    pub async fn audit(&self, by: &str, act: &str, stream: &str, group: &str, detail: &str) -> Result<(), BrokerError> {
        audit::write(&*self.broker, &self.audit_stream(), Line { by, act, stream, group, detail }).await
    }

    fn audit_stream(&self) -> PartitionKey {
        PartitionKey::audit(self.namespace.as_deref())
    }

    /// Acts, after the line of it.
    async fn noted<T>(
        &self,
        act: &str,
        (stream, group): (&str, &str),
        detail: &str,
        work: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let by = self.by.clone().unwrap_or_else(whoami::of_program);
        let line = Line { by: &by, act, stream, group, detail };
        audit::noted(&*self.broker, &self.audit_stream(), line, work).await
    }

    /// Lets a paused group go on, and a halted one where it is, once what halted it is mended: its checkpoint stays, and so
    /// do the attempts. `trades` stands for every partition of the stream, `trades.3` for that one, whose halt alone then
    /// ends. Answers the partitions.
    ///
    /// A process that is halted there goes on within some seconds, and looks anew. A storm of dead letters begins to count
    /// anew, and a cause that is still there halts it again. On a group that is not halted it has no effect, not later
    /// either.
    ///
    /// # Errors
    /// When a name is wrong, the group is not there, or the broker cannot be asked; partitions before the one that fails
    /// are resumed.
    ///
    /// # Cancel safety
    /// Some partitions may be resumed.
    ///
    /// ```no_run
    /// # async fn example(admin: streams_runtime::Admin) -> Result<(), Box<dyn std::error::Error>> {
    /// for partition in admin.resume("trades", "risk").await? {
    ///     println!("resumed {partition}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn resume(&self, stream: &str, group: &str) -> Result<Vec<PartitionKey>, BrokerError> {
        let keys = self.groups(stream, group).await?;
        let name = split(stream).0.to_owned();
        let asked = (StreamKey::new(self.namespace.as_deref(), &name, 1), group.to_owned());
        let pause = self.broker.pauses(std::slice::from_ref(&asked)).await?.pop().and_then(Result::ok).flatten();
        let was = pause.map(|pause| format!("was {}", Pause::read(&pause))).unwrap_or_default();
        self.noted("resume", (stream, group), &was, self.resume_all(stream, group, keys)).await
    }

    async fn resume_all(
        &self,
        stream: &str,
        group: &str,
        keys: Vec<GroupKey>,
    ) -> Result<Vec<PartitionKey>, BrokerError> {
        let mut resumed = Vec::new();
        let (name, index) = split(stream);
        if index.is_none() {
            self.broker.pause(&StreamKey::new(self.namespace.as_deref(), name, 1), group, None).await?;
        }
        for key in keys {
            if !self.broker.resume(&key).await? {
                if let Some(missing) = names::missing(&*self.broker, std::slice::from_ref(&key)).await? {
                    return Err(missing);
                }
                return Err(refused(format!(
                    "there is no state of {key}: check stream, group and namespace; a group that halts because it has no checkpoint is not resumed but made anew, as its log line says"
                )));
            }
            resumed.push(key.partition().clone());
        }
        Ok(resumed)
    }

    /// The dead letters of a group, for tools that do not know the types of its events; of `trades.3` those of that partition.
    ///
    /// # Errors
    /// When a name is wrong, the partition is none of the stream's, or the broker cannot be asked. Whether there is such a group
    /// is looked at by the calls of [`DeadLetters`] that find nothing.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    ///
    /// ```no_run
    /// # async fn example(admin: streams_runtime::Admin) -> Result<(), Box<dyn std::error::Error>> {
    /// for letter in admin.dead_letters("trades", "risk").await?.list(None, 100).await? {
    ///     println!("{}: {} {}", letter.id(), letter.event_name(), letter.payload_text(1_000));
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn dead_letters(&self, stream: &str, group: &str) -> Result<DeadLetters, BrokerError> {
        Ok(DeadLetters::of(Arc::clone(&self.broker), self.groups(stream, group).await?))
    }

    /// Whether processes run the group in ordered delivery; no, where that cannot be asked.
    async fn is_attended(&self, stream: &str, group: &str) -> bool {
        let (name, _) = split(stream);
        let members = StreamKey::new(self.namespace.as_deref(), name, 1).members(group);
        let look = [Attendance { members, present: None, absent: Vec::new() }];
        let attended = self.broker.attend(&look).await;
        attended.is_ok_and(|sets| sets.iter().any(|set| set.as_ref().is_ok_and(|members| !members.is_empty())))
    }

    /// The group on every partition that the name stands for.
    async fn groups(&self, stream: &str, group: &str) -> Result<Vec<GroupKey>, BrokerError> {
        let (name, index) = split(stream);
        keys::check_stream(name).and_then(|()| keys::check_group(group)).map_err(|error| refused(error.to_string()))?;
        let namespace = self.namespace.as_deref();
        // Where the number is gone with everything else the stream's own key is meant, or the partition that is named.
        let partitions = match self.broker.partitions(&StreamKey::new(namespace, name, 1)).await? {
            Some(partitions) => partitions,
            None => index.map_or(1, |index| index.saturating_add(2)),
        };
        let key = StreamKey::new(namespace, name, partitions);
        let indices = match index {
            None => 0..partitions,
            Some(index) if index < partitions && partitions > 1 => index..index + 1,
            Some(_) => {
                return Err(refused(format!(
                    "stream `{}` has {partitions} partitions, and `{stream}` is none",
                    key.base()
                )));
            }
        };
        Ok(indices.map(|index| key.partition(index).group(group)).collect())
    }

    /// The group on every partition of the stream. A partition alone cannot be meant.
    async fn whole(&self, stream: &str, group: &str) -> Result<Vec<GroupKey>, BrokerError> {
        if let (name, Some(_)) = split(stream) {
            return Err(refused(format!(
                "`{stream}` is a partition; this is done to a whole group: name the stream `{name}`"
            )));
        }
        self.groups(stream, group).await
    }

    async fn reset_one(&self, key: &GroupKey, to: Start) -> Result<EntryId, BrokerError> {
        // Where there is a state it says how the group is delivered to.
        let (ordered, queue) = (key.clone(), key.clone().queue());
        let mut key = if self.driven.get(key.state()).is_some_and(|is_queue| *is_queue) { &queue } else { &ordered };
        for _ in 0..ATTEMPTS {
            let state = self.broker.state(key).await?;
            if state.is_none() && self.broker.extent(key.partition()).await?.is_none() {
                return Err(refused(format!(
                    "there is neither a stream `{}` nor a state of {key}: check stream, group and namespace; where the server was emptied, start the program again",
                    key.partition()
                )));
            }
            match self.broker.reset(key, state.map(|state| state.lease.epoch), to).await? {
                Reset::Done { at } => return Ok(at),
                Reset::Contended => {}
                Reset::Foreign => {
                    return Err(refused(format!(
                        "{key} exists in Redis but has no checkpoint here: it belongs to a program that reads with XREADGROUP"
                    )));
                }
                Reset::Mode(_) => key = if key.is_queue() { &ordered } else { &queue },
            }
        }
        let message = format!("the lease of {key} changed hands at every attempt to reset it; try again");
        Err(BrokerError::new(BrokerErrorKind::Unavailable, message))
    }
}

/// A stream's name, and the partition that is meant: no stream ends in a dot and digits.
fn split(stream: &str) -> (&str, Option<u32>) {
    let partition = stream.rsplit_once('.').and_then(|(name, digits)| Some((name, Some(digits.parse().ok()?))));
    partition.unwrap_or((stream, None))
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn refused(message: String) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Refused, message)
}
