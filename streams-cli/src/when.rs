//! Places in a stream and lengths of time as an operator writes them, and as the tool shows them.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use streams_runtime::{EntryId, Start};

/// A place in a stream, such as `earliest`, `-10m`, `2026-01-31 12:00:00` or `1767225600000-0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Earliest,
    Latest,
    At(EntryId),
    /// So long before now, by the server's clock.
    Ago(Duration),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = |at: SystemTime| {
            let ms = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            Self::At(EntryId::new(u64::try_from(ms).unwrap_or(u64::MAX), 0))
        };
        let midnight = format!("{text}T00:00:00Z");
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(ago) = text.strip_prefix('-').and_then(|ago| humantime::parse_duration(ago).ok()) {
            return Ok(Self::Ago(ago));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::At(id));
        }
        let parsed = humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339_weak(&midnight));
        parsed.map(time).map_err(|_| {
            "expected an entry id, `earliest`, `latest`, a time ago such as `-10m`, or a time in UTC such as `2026-01-31 12:00:00`".to_owned()
        })
    }
}

impl Place {
    /// The place as a beginning for a group.
    pub(crate) fn start(self) -> Start {
        match self {
            Self::Earliest => Start::Earliest,
            Self::Latest => Start::Latest,
            Self::At(id) => Start::At(id),
            Self::Ago(ago) => Start::Ago(ago),
        }
    }

    /// The entry id at which reading begins; `None` for the end of the stream.
    pub(crate) fn first(self, now: u64) -> Option<EntryId> {
        match self {
            Self::Earliest => Some(EntryId::ZERO),
            Self::Latest => None,
            Self::At(id) => Some(id),
            Self::Ago(ago) => Some(EntryId::new(now.saturating_sub(millis(ago)), 0)),
        }
    }
}

/// A length of time such as `90s` or `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a length of time such as `90s`, `5m`, `2h` or `30d`".to_owned())
}

/// A length of time in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment, given in milliseconds since 1970, in UTC.
pub(crate) fn time(ms: u64) -> String {
    // The year 9999: beyond it the library has no form.
    const LAST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(LAST))).to_string()
}

/// A length of time in its two largest units.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return format!("{}ms", duration.as_millis());
    }
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, length) in units {
        if rest >= length {
            parts.push(format!("{}{unit}", rest / length));
            rest %= length;
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

/// How long ago a moment was, both in milliseconds since 1970.
pub(crate) fn ago(now: u64, then: u64) -> String {
    short(Duration::from_millis(now.saturating_sub(then)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_in_every_form() {
        for (text, place) in [
            ("earliest", Place::Earliest),
            ("latest", Place::Latest),
            ("5-3", Place::At(EntryId::new(5, 3))),
            ("1767225600000", Place::At(EntryId::new(1_767_225_600_000, 0))),
            ("-10m", Place::Ago(Duration::from_secs(600))),
            ("-1h30m", Place::Ago(Duration::from_secs(5_400))),
            ("2026-01-01T00:00:00Z", Place::At(EntryId::new(1_767_225_600_000, 0))),
            ("2026-01-01 00:00:01", Place::At(EntryId::new(1_767_225_601_000, 0))),
            ("2026-01-01", Place::At(EntryId::new(1_767_225_600_000, 0))),
        ] {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
        for text in ["", "-", "soon", "-5", "10m", "2026-13-01"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_shown_in_their_largest_units() {
        for (ms, text) in [(0, "0ms"), (350, "350ms"), (61_000, "1m 1s"), (3_600_000, "1h"), (90_061_000, "1d 1h")] {
            assert_eq!(short(Duration::from_millis(ms)), text);
        }
        assert_eq!(short(Duration::from_secs(86_400 + 59)), "1d");
        assert_eq!(time(1_767_225_600_000), "2026-01-01T00:00:00.000Z");
        assert!(time(u64::MAX).starts_with("9999"));
    }
}
