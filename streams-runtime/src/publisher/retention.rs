//! Below which id a publish lets entries go: the server's clock through ours, or what every group has settled.

use std::time::Duration;

use streams_core::broker::{Broker, BrokerError, Consumed, Extent};
use streams_core::keys::PartitionKey;
use streams_core::{EntryId, Retention};
use tokio::time::Instant;

use crate::clock::{Clock, millis};

/// How far the floor may be moved by a look at the server's clock, beyond our own time; also how often it is looked at.
const SLACK: Duration = Duration::from_secs(60);
/// How often it is looked where the groups are: two questions a second are nothing to a server.
const LOOK: Duration = Duration::from_secs(1);
/// How many commands trim at once, each of some thousands of entries: millions, with others served in between. The rest
/// goes the next time.
const TRIMS: usize = 1_000;
/// From how many entries on a stream that waits for its groups is spoken of: some hundred megabytes of small events.
const LARGE: u64 = 1_000_000;
/// How old the first entry may be that a group has not settled, before the log asks whether anybody runs the group.
pub(crate) const EXPIRE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often the log asks that.
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// The trim floor of one partition.
#[derive(Debug)]
pub(super) enum Floor {
    Age { age: Duration, clock: ServerClock },
    Consumed(Consumption),
}

impl Floor {
    pub(super) fn new(retention: Retention, expire_after: Duration) -> Self {
        match retention {
            Retention::Age(age) => Self::Age { age, clock: ServerClock::default() },
            Retention::Consumed => Self::Consumed(Consumption::new(expire_after)),
        }
    }

    /// The floor now; asks the broker when it has not been asked lately.
    pub(super) async fn get(
        &mut self,
        broker: &dyn Broker,
        key: &PartitionKey,
        ours: &Clock,
    ) -> Result<Option<EntryId>, BrokerError> {
        let now = Instant::now();
        match self {
            Self::Age { age, clock } => {
                if clock.is_stale(now) {
                    let server = broker.now().await?;
                    let extent = broker.extent(key).await?;
                    if clock.look(server, ours.wall_ms(), extent, now) {
                        tracing::error!(stream = key.as_str(), newest = %extent.map_or(EntryId::ZERO, |extent| extent.last), server_ms = server, "an entry's id is ahead of the server's clock: nothing is trimmed until the clock has caught up; find the producer that sets ids by hand, or mend the server's clock");
                    }
                }
                Ok(clock.floor(now, *age))
            }
            Self::Consumed(consumption) => {
                if consumption.is_stale(now) {
                    let consumed = broker.consumed(key).await?;
                    if consumption.counts(now) {
                        let extent = broker.extent(key).await?;
                        let length = extent.map_or(0, |extent| extent.length);
                        if consumption.count(length, now) {
                            warn_large(key, length, consumed.as_ref());
                        }
                        if let Some(slowest) = consumption.expired(consumed.as_ref(), extent, ours.wall_ms(), now) {
                            let stream = stream_of(key);
                            let remedy =
                                format!("run that group, or remove it for good: streams remove {stream} {slowest}");
                            tracing::warn!(
                                stream = key.as_str(),
                                group = slowest,
                                remedy,
                                "nobody seems to run the slowest group"
                            );
                        }
                    }
                    consumption.look(consumed, now);
                }
                Ok(consumption.floor)
            }
        }
    }

    /// Trims what may go by a command of its own, which a full server takes; answers how much went.
    pub(super) async fn trim(
        &mut self,
        broker: &dyn Broker,
        key: &PartitionKey,
        ours: &Clock,
    ) -> Result<u64, BrokerError> {
        let Some(floor) = self.get(broker, key, ours).await? else { return Ok(0) };
        let mut all = 0;
        for _ in 0..TRIMS {
            let trimmed = broker.trim_below(key, floor).await?;
            if trimmed == 0 {
                break;
            }
            all += trimmed;
        }
        Ok(all)
    }
}

/// The stream's name: its key without the number of a partition.
fn stream_of(key: &PartitionKey) -> &str {
    key.as_str().strip_suffix(&format!(".{}", key.index())).unwrap_or(key.as_str())
}

fn warn_large(key: &PartitionKey, length: u64, consumed: Option<&Consumed>) {
    match consumed {
        Some(Consumed { at, slowest }) => {
            let stream = stream_of(key);
            tracing::warn!(stream = key.as_str(), length, group = slowest, %at, "a stream with retention = \"consumed\" grows, because it waits for its slowest group: run that group, or, when nobody needs it any more, remove it for good: streams remove {stream} {slowest}");
        }
        None => {
            tracing::warn!(
                stream = key.as_str(),
                length,
                "a stream with retention = \"consumed\" grows and nothing is trimmed, because it has no group, or one that is not ours: start the app that consumes it, or remove the other group (XINFO GROUPS {key})"
            );
        }
    }
}

/// How far the server's clock has come, seen so that no jump of it and no forged id wipes a stream.
///
/// Between two looks the floor moves with our own monotonic time; a look moves it by at most [`SLACK`] more.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    anchor: Option<(u64, Instant)>,
    looked: Option<Instant>,
    /// The newest id is ahead of the server's clock: nothing is trimmed.
    ahead: bool,
}

impl ServerClock {
    fn is_stale(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.duration_since(looked) >= SLACK)
    }

    fn estimate(&self, now: Instant) -> Option<u64> {
        self.anchor.map(|(ms, since)| ms + millis(now.duration_since(since)))
    }

    /// Takes in a look; answers whether it is the first that found an id ahead of the clock.
    fn look(&mut self, server_ms: u64, our_ms: u64, extent: Option<Extent>, now: Instant) -> bool {
        let most = match self.estimate(now) {
            Some(estimate) => estimate + millis(SLACK),
            // The first look has only our own wall clock to be held against.
            None => our_ms + millis(SLACK),
        };
        self.anchor = Some((server_ms.min(most), now));
        self.looked = Some(now);
        let was_ahead = self.ahead;
        self.ahead = extent.is_some_and(|extent| extent.last.ms > server_ms + millis(SLACK));
        self.ahead && !was_ahead
    }

    fn floor(&self, now: Instant, age: Duration) -> Option<EntryId> {
        if self.ahead {
            return None;
        }
        let floor = self.estimate(now)?.checked_sub(millis(age))?;
        Some(EntryId::new(floor, 0))
    }
}

/// How far the slowest group is, and how much waits for it.
#[derive(Debug)]
pub(super) struct Consumption {
    floor: Option<EntryId>,
    looked: Option<Instant>,
    counted: Option<Instant>,
    /// The length that was spoken of.
    said: u64,
    /// When the log last asked whether anybody runs the slowest group.
    asked: Option<Instant>,
    /// For how long entries may wait for a group before the log asks that.
    expire_after: Duration,
}

impl Consumption {
    fn new(expire_after: Duration) -> Self {
        Self { floor: None, looked: None, counted: None, said: 0, asked: None, expire_after }
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK)
    }

    /// The entry at the checkpoint stays: it is the group's witness that nothing above it was cut.
    fn look(&mut self, consumed: Option<Consumed>, now: Instant) {
        self.floor = consumed.map(|consumed| consumed.at);
        self.looked = Some(now);
    }

    fn counts(&self, now: Instant) -> bool {
        self.counted.is_none_or(|counted| now.duration_since(counted) >= SLACK)
    }

    /// Takes in a length; answers whether to speak of it: when it is large, and again when it has doubled.
    fn count(&mut self, length: u64, now: Instant) -> bool {
        self.counted = Some(now);
        if length < LARGE {
            self.said = 0;
        }
        let speak = length >= LARGE.max(self.said.saturating_mul(2));
        if speak {
            self.said = length;
        }
        speak
    }

    /// The slowest group, if entries have waited for it so long that perhaps nobody runs it any more; once per day.
    fn expired<'a>(
        &mut self,
        consumed: Option<&'a Consumed>,
        extent: Option<Extent>,
        now_ms: u64,
        now: Instant,
    ) -> Option<&'a str> {
        let (Consumed { at, slowest }, extent) = consumed.zip(extent)?;
        let since = extent.first.map_or(*at, |first| first.max(*at)).ms;
        let is_over = extent.last > *at && now_ms.saturating_sub(since) > millis(self.expire_after);
        if !is_over || self.asked.is_some_and(|asked| now.duration_since(asked) < DAILY) {
            return None;
        }
        self.asked = Some(now);
        Some(slowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const AN_HOUR: Duration = Duration::from_secs(3600);

    fn extent(last_ms: u64) -> Option<Extent> {
        Some(Extent { first: None, last: EntryId::new(last_ms, 0), length: 0, added: 0 })
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_follows_the_servers_clock_and_our_own_between_looks() {
        let (mut clock, now) = (ServerClock::default(), Instant::now());
        assert!(clock.is_stale(now));
        assert_eq!(clock.floor(now, AN_HOUR), None);
        clock.look(100 * HOUR, 100 * HOUR, extent(100 * HOUR), now);
        assert!(!clock.is_stale(now));
        let later = now + Duration::from_secs(30);
        assert_eq!(clock.floor(later, AN_HOUR), Some(EntryId::new(99 * HOUR + 30_000, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_30_hours_ahead_moves_the_floor_by_a_minute() {
        let (mut clock, now) = (ServerClock::default(), Instant::now());
        clock.look(100 * HOUR, 100 * HOUR, None, now);
        let later = now + SLACK;
        clock.look(130 * HOUR, 100 * HOUR, None, later);
        assert_eq!(clock.floor(later, AN_HOUR), Some(EntryId::new(99 * HOUR + 120_000, 0)));
        let mut fresh = ServerClock::default();
        fresh.look(130 * HOUR, 100 * HOUR, None, now);
        assert_eq!(fresh.floor(now, AN_HOUR), Some(EntryId::new(99 * HOUR + 60_000, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_30_hours_ahead_stops_the_trimming_and_is_told_once() {
        let (mut clock, now) = (ServerClock::default(), Instant::now());
        assert!(clock.look(100 * HOUR, 100 * HOUR, extent(130 * HOUR), now));
        assert_eq!(clock.floor(now, AN_HOUR), None);
        assert!(!clock.look(100 * HOUR, 100 * HOUR, extent(130 * HOUR), now));
        assert!(!clock.look(100 * HOUR, 100 * HOUR, extent(100 * HOUR), now));
        assert!(clock.floor(now, AN_HOUR).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_groups_is_spoken_of_when_it_is_large_and_when_it_has_doubled() {
        let (mut consumption, now) = (Consumption::new(EXPIRE_AFTER), Instant::now());
        let said = [10, LARGE, LARGE + 5, 2 * LARGE, 3 * LARGE, 10, LARGE].map(|length| consumption.count(length, now));
        assert_eq!(said, [false, true, false, true, false, false, true]);
        assert!(!consumption.counts(now) && consumption.counts(now + SLACK));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_for_which_entries_have_waited_a_week_is_spoken_of_daily() {
        let (mut consumption, now) = (Consumption::new(EXPIRE_AFTER), Instant::now());
        let consumed = Consumed { at: EntryId::new(1_000 * HOUR, 0), slowest: "risk".to_owned() };
        let end = |first, last| {
            let first = Some(EntryId::new(first * HOUR, 0));
            Some(Extent { first, last: EntryId::new(last * HOUR, 0), length: 5, added: 5 })
        };
        let mut at = |hours: u64, extent, now| {
            consumption.expired(Some(&consumed), extent, hours * HOUR, now).map(str::to_owned)
        };
        assert_eq!(at(1_168, end(1_000, 1_001), now), None, "a week is not over");
        assert_eq!(at(1_169, end(1_000, 1_000), now), None, "nothing waits");
        assert_eq!(at(1_300, end(1_200, 1_201), now), None, "what waits is younger");
        assert_eq!(at(1_169, end(1_000, 1_001), now).as_deref(), Some("risk"));
        assert_eq!(at(1_170, end(1_000, 1_001), now + DAILY / 2), None);
        assert_eq!(at(1_200, end(1_000, 1_001), now + DAILY).as_deref(), Some("risk"));
        assert_eq!(at(1_300, None, now + 3 * DAILY), None);
        assert_eq!(consumption.expired(None, end(1_000, 1_001), 1_300 * HOUR, now + 3 * DAILY), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_of_a_consumed_stream_is_the_slowest_checkpoint_and_a_second_old_at_most() {
        let (mut consumption, now) = (Consumption::new(EXPIRE_AFTER), Instant::now());
        assert!(consumption.is_stale(now));
        consumption.look(Some(Consumed { at: EntryId::new(7, 0), slowest: "risk".to_owned() }), now);
        assert_eq!(consumption.floor, Some(EntryId::new(7, 0)));
        assert!(!consumption.is_stale(now) && consumption.is_stale(now + LOOK));
        consumption.look(None, now);
        assert_eq!(consumption.floor, None);
    }
}
