//! Dead letters as a tool: look at them, count them, have them handled again, throw them away; one, or all that a filter finds.
//!
//! [`dead_letter`](super::dead_letter) is the form of one; the group that owns it handles one again.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Moved, Reply};
use streams_core::codec::{self, MAX_PAYLOAD};
use streams_core::keys::{GroupKey, InvalidName, StreamKey, check_group, check_namespace};
use streams_core::{Entry, EntryId, StreamEvent};

use super::dead_letter::{Cause, DeadLetter, DeadLetterId};
use crate::clock::millis;
use crate::declared::{linked_events, stream_properties};
use crate::names;

/// How many letters are read, moved or removed at once. With the largest payloads that events have by default, a process
/// may keep as much of a stream.
const PAGE: usize = 32;
/// How many letters may wait to be handled again, for each partition: as many as a group may have by default. Those that
/// fail go back to the dead letters whatever is there, so this is by how much their bound may be passed.
const MOST_REPLAYS: u64 = 10_000;

/// The dead letters of one group on a stream. `DeadLetters<Trade>` gives letters that can be decoded. `DeadLetters` gives
/// letters that are read without the event's type, as [`Admin::dead_letters`](crate::Admin::dead_letters) does.
///
/// Nothing but [`DeadLetters::discard`] and [`DeadLetters::replay`] ever takes one away.
///
/// If there is no such group, a call that finds nothing fails with the groups that there are. So a misspelt name does not
/// look like a group that is well.
pub struct DeadLetters<E = ()> {
    broker: Arc<dyn Broker>,
    groups: Vec<GroupKey>,
    event: PhantomData<fn() -> E>,
}

impl<E> Clone for DeadLetters<E> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.broker), self.groups.clone())
    }
}

impl<E> fmt::Debug for DeadLetters<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("broker", &self.broker).field("groups", &self.groups).finish()
    }
}

/// Which dead letters are meant; without a condition all of them. Several conditions must hold together.
///
/// ```
/// use std::time::Duration;
/// use streams_runtime::{Cause, DeadLetterFilter};
///
/// let timed_out_today =
///     DeadLetterFilter::all().cause(Cause::Timeout).consumer("check").newer_than(Duration::from_secs(24 * 3600));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct DeadLetterFilter {
    cause: Option<Cause>,
    consumer: Option<String>,
    event: Option<String>,
    reason: Option<String>,
    partition: Option<u32>,
    older_than: Option<Duration>,
    newer_than: Option<Duration>,
}

impl DeadLetterFilter {
    /// Every letter.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those with this cause.
    pub fn cause(mut self, cause: Cause) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Those that this function gave up on.
    pub fn consumer(mut self, name: impl Into<String>) -> Self {
        self.consumer = Some(name.into());
        self
    }

    /// Those of the event of this name, whatever its version.
    pub fn event(mut self, name: impl Into<String>) -> Self {
        self.event = Some(name.into());
        self
    }

    /// Those whose reason has this text in it, in capitals or not.
    pub fn reason(mut self, text: impl AsRef<str>) -> Self {
        self.reason = Some(text.as_ref().to_lowercase());
        self
    }

    /// Those of this partition.
    pub fn partition(mut self, index: u32) -> Self {
        self.partition = Some(index);
        self
    }

    /// Those that were given up on longer ago than this, by the server's clock.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Those that were given up on within this time, by the server's clock.
    pub fn newer_than(mut self, age: Duration) -> Self {
        self.newer_than = Some(age);
        self
    }

    /// Whether the letter is meant, as far as its own content says.
    pub(crate) fn admits<E>(&self, letter: &DeadLetter<E>) -> bool {
        self.cause.is_none_or(|cause| cause.as_str() == letter.cause())
            && self.consumer.as_ref().is_none_or(|name| name == letter.consumer())
            && self.event.as_ref().is_none_or(|name| name == letter.event_name())
            && self.reason.as_ref().is_none_or(|text| letter.reason().to_lowercase().contains(text))
    }

    /// The ids of a partition among which letters of these ages lie: above the first, up to the second.
    fn ages(&self, now: u64) -> (EntryId, EntryId) {
        let ago = |age| now.saturating_sub(millis(age));
        let above = self.newer_than.map_or(EntryId::ZERO, |age| EntryId::new(ago(age), 0).previous());
        (above, self.older_than.map_or(EntryId::MAX, |age| EntryId::new(ago(age), u64::MAX)))
    }
}

/// The result of a replay of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Replayed {
    /// How many wait now for the group's owner to handle them.
    pub moved: u64,
    /// Those that were asked for and are not there: discarded or replayed before, or never there.
    pub missing: Vec<DeadLetterId>,
}

impl<E: StreamEvent> DeadLetters<E> {
    /// The dead letters of a group, for a tool of one's own that runs no app.
    ///
    /// # Errors
    /// When a name cannot be part of a key.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use streams_runtime::{DeadLetterFilter, DeadLetters, broker::Redis, stream_event};
    ///
    /// #[stream_event(stream = "trades")]
    /// #[derive(Debug)]
    /// struct Trade { price: f64 }
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Arc::new(Redis::open("redis://127.0.0.1/")?);
    /// let letters = DeadLetters::<Trade>::on(broker, None, "risk")?;
    /// for letter in letters.list(None, 100).await? {
    ///     println!("{}: {} ({} attempts), {:?}", letter.id(), letter.reason(), letter.attempts(), letter.decode());
    /// }
    /// // What failed because an account was closed is handled again, by the group `risk` alone.
    /// let replayed = letters.replay_all(&DeadLetterFilter::all().reason("account is closed")).await?;
    /// println!("{} are on their way", replayed.moved);
    /// # Ok(()) }
    /// ```
    pub fn on(broker: Arc<dyn Broker>, namespace: Option<&str>, group: &str) -> Result<Self, InvalidName> {
        namespace.map_or(Ok(()), check_namespace)?;
        check_group(group)?;
        let properties = stream_properties(E::INFO.stream, linked_events().iter().chain([&E::INFO]));
        Ok(Self::new(broker, &StreamKey::new(namespace, E::INFO.stream, properties.partitions), group))
    }
}

impl DeadLetters {
    /// As [`DeadLetters::on`], for a tool that knows the stream by its key.
    ///
    /// # Errors
    /// When the group cannot be part of a key.
    pub fn on_stream(broker: Arc<dyn Broker>, stream: &StreamKey, group: &str) -> Result<Self, InvalidName> {
        check_group(group)?;
        Ok(Self::new(broker, stream, group))
    }
}

impl<E> DeadLetters<E> {
    /// Those of a group on these partitions.
    pub(crate) fn new(broker: Arc<dyn Broker>, stream: &StreamKey, group: &str) -> Self {
        Self::of(broker, (0..stream.partitions()).map(|index| stream.partition(index).group(group)).collect())
    }

    pub(crate) fn of(broker: Arc<dyn Broker>, groups: Vec<GroupKey>) -> Self {
        Self { broker, groups, event: PhantomData }
    }

    /// At most `count` letters after `after`, partition by partition, oldest first. All of them are listed, also those
    /// of other event types in the stream and those that cannot be decoded.
    ///
    /// For the next page pass the id of the last letter.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn list(&self, after: Option<DeadLetterId>, count: usize) -> Result<Vec<DeadLetter<E>>, BrokerError> {
        self.find(&DeadLetterFilter::all(), after, count).await
    }

    /// As [`list`](Self::list), those that the filter means. Fewer than `count` are all that there are.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn find(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterId>,
        count: usize,
    ) -> Result<Vec<DeadLetter<E>>, BrokerError> {
        let mut search = self.search(filter, after, false).await?;
        let mut found = Vec::new();
        while found.len() < count
            && let Some((_, page)) = search.next(count - found.len()).await?
        {
            found.extend(page);
        }
        found.truncate(count);
        self.found(found.len() as u64).await?;
        Ok(found)
    }

    /// The letter of this id; `None` when it is not there.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetter<E>>, BrokerError> {
        let Some(group) = self.group(id.partition) else { return Ok(None) };
        let found = self.broker.dead_letters(group, id.entry.previous(), 1).await?;
        let found = found.into_iter().find(|letter| letter.id == id.entry);
        self.found(found.iter().len() as u64).await?;
        Ok(found.map(|letter| DeadLetter::of(id.partition, letter)))
    }

    /// How many letters the filter means. They are read for it, some at a time.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn count(&self, filter: &DeadLetterFilter) -> Result<u64, BrokerError> {
        let mut search = self.search(filter, None, false).await?;
        let mut count = 0;
        while let Some((_, page)) = search.next(PAGE).await? {
            count += page.len() as u64;
        }
        self.found(count).await?;
        Ok(count)
    }

    /// Has these letters handled again, by this group alone and in this order: no other group sees the event again.
    ///
    /// They wait for the owner of their partition. It takes one at a time between the events of the stream, the first
    /// within a third of the lease. The event has its id, its headers and its place in the stream as before. Its attempts
    /// count from 1, and [`Context::is_replay`](streams_core::Context::is_replay) is true. It is handled after everything
    /// that followed it in the stream, also after later events of its key. Only a handler for which that is right can have
    /// its letters replayed. An event that is given up again is a dead letter again, with the new reason.
    ///
    /// # Errors
    /// When the broker cannot be asked, when the group has no state, and when too many wait already; letters before
    /// that are sent. When the answer does not come they may be: ask again, and what was sent is missing then.
    ///
    /// # Cancel safety
    /// Some of them may be sent.
    pub async fn replay(&self, ids: &[DeadLetterId]) -> Result<Replayed, BrokerError> {
        let mut replayed = Replayed::default();
        for id in ids.iter().filter(|id| self.group(id.partition).is_none()) {
            replayed.missing.push(*id);
        }
        for group in &self.groups {
            for page in entries(group, ids).chunks(PAGE) {
                let moved = self.send(group, page).await?;
                replayed.moved += moved.len() as u64;
                let partition = group.partition().index();
                let missing = page.iter().filter(|id| !moved.contains(id));
                replayed.missing.extend(missing.map(|entry| DeadLetterId { partition, entry: *entry }));
            }
        }
        Ok(replayed)
    }

    /// Has a letter handled again with another payload, as [`replay`](Self::replay) does: by this group alone. The event keeps
    /// its id, its headers and its place; the entry in the stream and the letters of other groups stay as they are. A letter
    /// that is given up again keeps the payload, and [`DeadLetter::is_edited`] tells.
    ///
    /// The payload is the MessagePack of the event. Nothing checks that the event's type can be read from it. Answers whether
    /// the letter was there.
    ///
    /// # Errors
    /// As [`replay`](Self::replay). Also when the payload is no MessagePack or larger than any event may be, or when the letter
    /// is too large to be held whole.
    ///
    /// # Cancel safety
    /// The letter may be sent.
    ///
    /// ```no_run
    /// # use streams_runtime::{DeadLetterId, DeadLetters};
    /// # async fn example(letters: DeadLetters, id: DeadLetterId, mended: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
    /// if !letters.replay_edited(id, &mended).await? {
    ///     println!("somebody was faster");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn replay_edited(&self, id: DeadLetterId, payload: &[u8]) -> Result<bool, BrokerError> {
        if payload.len() > MAX_PAYLOAD || codec::json(payload).is_err() {
            let message = format!(
                "{} bytes are no payload: expected one value of MessagePack in at most {MAX_PAYLOAD} bytes",
                payload.len()
            );
            return Err(BrokerError::new(BrokerErrorKind::Refused, message));
        }
        let Some(group) = self.group(id.partition) else { return Ok(false) };
        let Some(letter) = self.get(id).await? else { return Ok(false) };
        if letter.is_cut() {
            let message = format!("dead letter {id} of {group} is too large to be edited: its rest was not read");
            return Err(BrokerError::new(BrokerErrorKind::Refused, message));
        }
        let moved = self.broker.replay_edited(group, id.entry, &letter.with_payload(payload), MOST_REPLAYS).await?;
        Ok(!self.moved(group, moved).await?.is_empty())
    }

    /// As [`replay`](Self::replay), all that the filter means and that lie there now, oldest first.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    ///
    /// # Cancel safety
    /// Some of them may be sent.
    pub async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<Replayed, BrokerError> {
        let mut search = self.search(filter, None, true).await?;
        let mut replayed = Replayed::default();
        while let Some((group, page)) = search.next(PAGE).await? {
            let ids: Vec<_> = page.iter().map(|letter| letter.id().entry).collect();
            replayed.moved += self.send(group, &ids).await?.len() as u64;
        }
        self.found(replayed.moved).await?;
        Ok(replayed)
    }

    /// The letters that wait to be handled again, at most `count`, partition by partition, in their order. Their ids are those
    /// that they had as dead letters.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn replaying(&self, count: usize) -> Result<Vec<DeadLetter<E>>, BrokerError> {
        let (mut waiting, mut pages) = (Vec::new(), Pages::default());
        for group in &self.groups {
            let mut after = EntryId::ZERO;
            while waiting.len() < count {
                let read = |asked| self.broker.replays(group, after, asked);
                let (page, all) = pages.next(count - waiting.len(), read).await?;
                after = page.last().map_or(after, |letter| letter.id);
                waiting.extend(page.into_iter().map(|letter| DeadLetter::of_replay(group.partition().index(), letter)));
                if all {
                    break;
                }
            }
        }
        self.found(waiting.len() as u64).await?;
        Ok(waiting)
    }

    /// Removes letters that are dealt with; answers how many there were.
    ///
    /// # Errors
    /// When the broker cannot be asked; some may be removed all the same.
    ///
    /// # Cancel safety
    /// Some of them may be removed.
    pub async fn discard(&self, ids: &[DeadLetterId]) -> Result<u64, BrokerError> {
        let mut removed = 0;
        for group in &self.groups {
            let here = entries(group, ids);
            if !here.is_empty() {
                removed += self.broker.discard(group, &here).await?;
            }
        }
        self.found(removed).await?;
        Ok(removed)
    }

    /// Removes all letters that the filter means and that lie there now; answers how many.
    ///
    /// # Errors
    /// As [`discard`](Self::discard).
    ///
    /// # Cancel safety
    /// Some of them may be removed.
    pub async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, BrokerError> {
        let mut search = self.search(filter, None, true).await?;
        let mut removed = 0;
        while let Some((group, page)) = search.next(PAGE).await? {
            let ids: Vec<_> = page.iter().map(|letter| letter.id().entry).collect();
            removed += self.broker.discard(group, &ids).await?;
        }
        self.found(removed).await?;
        Ok(removed)
    }

    fn group(&self, partition: u32) -> Option<&GroupKey> {
        self.groups.iter().find(|group| group.partition().index() == partition)
    }

    async fn send(&self, group: &GroupKey, ids: &[EntryId]) -> Result<Vec<EntryId>, BrokerError> {
        let moved = self.broker.replay(group, ids, MOST_REPLAYS).await?;
        self.moved(group, moved).await
    }

    async fn moved(&self, group: &GroupKey, moved: Moved) -> Result<Vec<EntryId>, BrokerError> {
        match moved {
            Moved::Done(moved) => Ok(moved),
            Moved::Full { waiting } => Err(BrokerError::new(
                BrokerErrorKind::Refused,
                format!(
                    "{waiting} dead letters of {group} wait to be handled again already, and {MOST_REPLAYS} are the most: wait until its owner has handled some"
                ),
            )),
            Moved::Missing => {
                self.found(0).await?;
                Err(BrokerError::new(
                    BrokerErrorKind::Refused,
                    format!(
                        "{group} has no state, so nobody would handle its dead letters again: start a program that runs the group"
                    ),
                ))
            }
        }
    }

    /// Fails where nothing was found because there is no such group.
    async fn found(&self, letters: u64) -> Result<(), BrokerError> {
        let missing = if letters > 0 { None } else { names::missing(&*self.broker, &self.groups).await? };
        missing.map_or(Ok(()), Err)
    }

    async fn search<'a>(
        &'a self,
        filter: &'a DeadLetterFilter,
        after: Option<DeadLetterId>,
        until_now: bool,
    ) -> Result<Search<'a, E>, BrokerError> {
        if let Some(index) = filter.partition.filter(|index| self.group(*index).is_none()) {
            let partitions: Vec<_> = self.groups.iter().map(|group| group.partition().to_string()).collect();
            let message =
                format!("there is no partition {index} among those that are looked at: {}", partitions.join(", "));
            return Err(BrokerError::new(BrokerErrorKind::Refused, message));
        }
        let now = self.broker.now().await?;
        let (above, mut up_to) = filter.ages(now);
        if until_now {
            // Letters that come back meanwhile are left out, or the replay could go on for ever.
            up_to = up_to.min(EntryId::new(now, u64::MAX));
        }
        let from = after.map_or(0, |after| after.partition);
        let groups = self.groups.iter().filter(|group| {
            let index = group.partition().index();
            index >= from && filter.partition.is_none_or(|partition| partition == index)
        });
        let (groups, pages) = (groups.collect(), Pages::default());
        let mut search = Search { letters: self, filter, groups, above, up_to, after: EntryId::ZERO, pages };
        search.after = match (after, search.groups.first()) {
            (Some(after), Some(first)) if first.partition().index() == after.partition => after.entry.max(above),
            _ => above,
        };
        search.groups.reverse();
        Ok(search)
    }
}

/// A search through the letters of a group.
struct Search<'a, E> {
    letters: &'a DeadLetters<E>,
    filter: &'a DeadLetterFilter,
    /// The partitions to come, the next one last.
    groups: Vec<&'a GroupKey>,
    above: EntryId,
    up_to: EntryId,
    /// Where the search stands in the next partition.
    after: EntryId,
    pages: Pages,
}

/// How many letters to read at once: half as many after a read that failed, and then twice as many as before.
struct Pages(usize);

impl Default for Pages {
    fn default() -> Self {
        Self(PAGE)
    }
}

impl Pages {
    /// Reads the next letters, at most `most`; answers too whether these are all.
    async fn next<'r>(
        &mut self,
        most: usize,
        read: impl Fn(usize) -> Reply<'r, Vec<Arc<Entry>>>,
    ) -> Result<(Vec<Arc<Entry>>, bool), BrokerError> {
        loop {
            let asked = most.min(self.0);
            match read(asked).await {
                Ok(page) => {
                    self.0 = (self.0 * 2).min(PAGE);
                    let all = page.len() < asked;
                    return Ok((page, all));
                }
                Err(error) if asked > 1 && (error.is_retryable() || error.is_indefinite()) => self.0 = asked / 2,
                Err(error) => return Err(error),
            }
        }
    }
}

impl<'a, E> Search<'a, E> {
    /// The letters of the next page, perhaps none, at most `most`; `None` behind the last page.
    async fn next(&mut self, most: usize) -> Result<Option<(&'a GroupKey, Vec<DeadLetter<E>>)>, BrokerError> {
        let Some(group) = self.groups.last().copied() else { return Ok(None) };
        let (letters, after) = (self.letters, self.after);
        let (page, all) = self.pages.next(most, |asked| letters.broker.dead_letters(group, after, asked)).await?;
        let index = group.partition().index();
        let last = page.last().map_or(self.after, |letter| letter.id);
        let here: Vec<_> = page
            .into_iter()
            .filter(|letter| letter.id <= self.up_to)
            .map(|letter| DeadLetter::of(index, letter))
            .filter(|letter| self.filter.admits(letter))
            .collect();
        if all || last > self.up_to {
            self.groups.pop();
            self.after = self.above;
        } else {
            self.after = last;
        }
        Ok(Some((group, here)))
    }
}

/// Those of the ids that lie in the group's partition.
fn entries(group: &GroupKey, ids: &[DeadLetterId]) -> Vec<EntryId> {
    ids.iter().filter(|id| id.partition == group.partition().index()).map(|id| id.entry).collect()
}

#[cfg(test)]
mod tests {
    use streams_core::Start;
    use streams_core::broker::{Acquired, Claim, Commit, DeadBounds, Groups, Holder, LeaseView};

    use super::*;
    use crate::broker::Embedded;
    use crate::ops::dead_letter::{self, GivenUp};

    fn letter(cause: Cause, consumer: &str, event: &str, reason: &str) -> DeadLetter {
        let original = Entry::new(EntryId::new(7, 1), &[(b"event".to_vec(), event.as_bytes().to_vec())]);
        let key = StreamKey::new(None, "trades", 1).partition(0).group("risk");
        let given_up = GivenUp { consumer, cause: cause.as_str(), reason, attempts: 1, replays: 0, edited: false };
        let fields = dead_letter::fields(&key, &original, &given_up);
        DeadLetter::of(0, Arc::new(Entry::new(EntryId::new(9, 0), &fields)))
    }

    #[test]
    fn a_filter_means_what_meets_all_that_it_says() {
        let timeout = letter(Cause::Timeout, "check", "Trade@2", "the Account is closed");
        let decode = letter(Cause::Decode, "", "nonsense@x", "bad bytes");
        let admits = |filter: DeadLetterFilter| (filter.admits(&timeout), filter.admits(&decode));
        let all = DeadLetterFilter::all;
        assert_eq!(admits(all()), (true, true));
        assert_eq!(admits(all().cause(Cause::Timeout)), (true, false));
        assert_eq!(admits(all().consumer("")), (false, true));
        assert_eq!(admits(all().event("Trade")), (true, false));
        assert_eq!(admits(all().event("trade")), (false, false));
        assert_eq!(admits(all().reason("aCCount")), (true, false));
        assert_eq!(admits(all().reason("bad").cause(Cause::Timeout)), (false, false));
    }

    #[test]
    fn ages_are_ranges_of_ids() {
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        let now = 100_000_000;
        let all = DeadLetterFilter::all;
        assert_eq!(all().ages(now), (EntryId::ZERO, EntryId::MAX));
        let (above, up_to) = all().older_than(hour).newer_than(day).ages(now);
        assert_eq!((above.next(), up_to), (EntryId::new(13_600_000, 0), EntryId::new(96_400_000, u64::MAX)));
        assert_eq!(all().newer_than(day * 365).ages(now).0, EntryId::ZERO);
    }

    /// A group on a stream of three partitions, with so many letters on each.
    async fn letters(counts: [usize; 3]) -> (Arc<Embedded>, DeadLetters) {
        let broker = Arc::new(Embedded::new());
        let stream = StreamKey::new(None, "trades", 3);
        let mut groups = Vec::new();
        for (index, count) in (0..).zip(counts) {
            let key = stream.partition(index).group("risk");
            broker.create(&key, Start::Earliest).await.unwrap();
            let claim = Claim {
                owner: "me".to_owned(),
                lease_for: Duration::from_secs(10),
                seen: LeaseView::default(),
                own: false,
                bound: 1_000,
            };
            let Acquired::Held(held) = broker.acquire(&key, &claim).await.unwrap() else { panic!() };
            for n in 0..count {
                let next = EntryId::new(n as u64 + 1, 0);
                let original = Entry::new(next, &[(b"event".to_vec(), format!("E{}", n % 2).into_bytes())]);
                let given_up = GivenUp {
                    consumer: "check",
                    cause: "handler",
                    reason: "down",
                    attempts: 1,
                    replays: 0,
                    edited: false,
                };
                let commit = Commit {
                    holder: Holder { owner: "me".to_owned(), epoch: held.epoch },
                    call: n as u64 + 1,
                    prev: EntryId::new(n as u64, 0),
                    next,
                    next_event: String::new(),
                    seen: None,
                    attempts: Vec::new(),
                    error: None,
                    forget: Vec::new(),
                    mirror: false,
                    dead: vec![dead_letter::fields(&key, &original, &given_up)],
                    dead_bounds: DeadBounds { count: u64::MAX, age: Duration::MAX },
                    passed_over: Vec::new(),
                    recovery: None,
                    remember: None,
                };
                broker.commit(&key, &commit).await.unwrap();
            }
            groups.push(key);
        }
        (Arc::clone(&broker), DeadLetters::of(broker, groups))
    }

    #[tokio::test]
    async fn pages_go_over_all_partitions_and_miss_and_double_nothing() {
        let (_, letters) = letters([70, 0, 45]).await;
        let odd = DeadLetterFilter::all().event("E1");
        for (filter, expected) in [(DeadLetterFilter::all(), 115), (odd.clone(), 57), (odd.partition(2), 22)] {
            assert_eq!(letters.count(&filter).await.unwrap(), expected);
            for size in [1, 7, 32, 1000] {
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let page = letters.find(&filter, after, size).await.unwrap();
                    assert!(page.len() <= size);
                    found.extend(page.iter().map(DeadLetter::id));
                    if page.len() < size {
                        break;
                    }
                    after = found.last().copied();
                }
                assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
                assert_eq!(found.len() as u64, expected, "pages of {size}");
            }
        }
    }

    #[tokio::test]
    async fn what_a_filter_means_is_discarded_or_sent_and_what_is_not_there_is_named() {
        let (_, letters) = letters([40, 3, 0]).await;
        let odd = DeadLetterFilter::all().event("E1");
        assert_eq!(letters.discard_all(&odd).await.unwrap(), 21);
        assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 22);
        let ids: Vec<_> = letters.list(None, 2).await.unwrap().iter().map(DeadLetter::id).collect();
        let gone = [
            DeadLetterId { partition: 1, entry: EntryId::new(1, 1) },
            DeadLetterId { partition: 9, entry: EntryId::MAX },
        ];
        let replayed = letters.replay(&[&ids[..], &gone].concat()).await.unwrap();
        assert_eq!((replayed.moved, replayed.missing.len()), (2, 2));
        assert!(gone.iter().all(|id| replayed.missing.contains(id)));
        let again = letters.replay(&ids).await.unwrap();
        assert_eq!((again.moved, &again.missing), (0, &ids));
        assert_eq!(letters.get(ids[0]).await.unwrap().map(|letter| letter.id()), None);
        assert_eq!(letters.replay_all(&DeadLetterFilter::all()).await.unwrap().moved, 20);
        let waiting = letters.replaying(100).await.unwrap();
        assert_eq!((waiting.len(), waiting[0].id()), (22, ids[0]));
        assert_eq!(letters.count(&DeadLetterFilter::all()).await.unwrap(), 0);
    }
}
