//! Why a group is paused: by whom, since when, and for which reason; and the text of it in Redis.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::clock::millis;

/// The most characters of a reason.
const MOST_REASON: usize = 500;
/// The last time that is shown, the end of the year 9999; nobody has written a later one by a clock.
const LATEST: u64 = 253_402_300_799_000;

/// A pause of a group, which somebody has asked for by [`Admin::pause`](crate::Admin::pause).
///
/// ```
/// use streams_runtime::{Phase, Status};
///
/// fn paused(status: &Status) -> impl Iterator<Item = String> {
///     status.groups.iter().filter_map(|group| match &group.phase {
///         Phase::Paused(pause) => Some(format!("{} is {pause}", group.group)),
///         _ => None,
///     })
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pause {
    /// When it began, by the server's clock.
    pub at: SystemTime,
    /// Who asked for it; empty where nobody said.
    pub by: String,
    /// Why; empty where nobody said.
    pub why: String,
}

impl Pause {
    /// Control characters count as blanks, and a long reason is cut.
    pub(crate) fn new(at: SystemTime, by: &str, why: &str) -> Self {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let by = by.chars().map(plain).map(|c| if c == ' ' { '-' } else { c }).take(MOST_REASON).collect();
        Self { at, by, why: why.chars().map(plain).take(MOST_REASON).collect() }
    }

    /// The text in Redis: milliseconds since 1970, who, and why, with blanks between.
    pub(crate) fn text(&self) -> String {
        let at = self.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
        format!("{at} {} {}", self.by, self.why)
    }

    /// Reads the text in Redis. Somebody's own text pauses the group, too, and counts as the reason.
    pub(crate) fn read(text: &str) -> Self {
        let mut words = text.splitn(3, ' ');
        let (at, by, why) = (words.next(), words.next(), words.next());
        match at.and_then(|at| at.parse().ok()) {
            Some(at) => {
                let at = SystemTime::UNIX_EPOCH + Duration::from_millis(LATEST.min(at));
                Self::new(at, by.unwrap_or_default(), why.unwrap_or_default())
            }
            None => Self::new(SystemTime::UNIX_EPOCH, "", text),
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "paused since {}", humantime::format_rfc3339_seconds(self.at))?;
        if !self.by.is_empty() {
            write!(f, " by {}", self.by)?;
        }
        if self.why.is_empty() { Ok(()) } else { write!(f, ": {}", self.why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_as_it_was_written() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123);
        let pause = Pause::new(at, "alice on\tbox", "until the backfill\nis done");
        assert_eq!(Pause::read(&pause.text()), pause);
        assert_eq!(pause.to_string(), "paused since 2026-01-01T00:00:00Z by alice-on-box: until the backfill is done");
        let silent = Pause::new(at, "", "");
        assert_eq!(Pause::read(&silent.text()), silent);
        assert_eq!(silent.to_string(), "paused since 2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_text_of_somebody_else_pauses_too() {
        assert_eq!(Pause::read("maintenance, ask Bob").why, "maintenance, ask Bob");
        assert_eq!(Pause::read("").why, "");
        assert_eq!(Pause::read("99999999999999999999999 x").by, "");
        let latest = Pause::read(&format!("{} a b", u64::MAX));
        assert_eq!((latest.by.as_str(), latest.why.as_str()), ("a", "b"));
        assert!(!latest.to_string().is_empty());
    }
}
