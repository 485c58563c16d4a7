//! The one seam for randomness: tokens, event ids and jitter come from here, under a seed in tests.

use std::fmt;
use std::sync::Mutex;

use rand::rngs::{StdRng, SysRng};
use rand::{RngExt, SeedableRng};

use crate::sync::lock;

/// A source of randomness that tasks share.
pub(crate) struct Random {
    generator: Mutex<StdRng>,
}

impl Random {
    /// Seeded by the operating system.
    pub(crate) fn from_system() -> Self {
        // Without entropy from the system no token is safe, and nothing of the process would be.
        let generator = StdRng::try_from_rng(&mut SysRng).expect("the operating system gives randomness");
        Self { generator: Mutex::new(generator) }
    }

    /// The same sequence for the same seed.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { generator: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut lock(&self.generator))
    }

    /// From 0 up to, but not, 1.
    pub(crate) fn fraction(&self) -> f64 {
        self.with(|generator| generator.random())
    }

    /// The token of a new holding of a lease.
    pub(crate) fn token(&self) -> String {
        format!("{:032x}", self.with(|generator| generator.random::<u128>()))
    }

    /// The id of a span in a trace: anything but zero.
    pub(crate) fn span_id(&self) -> u64 {
        self.with(|generator| generator.random_range(1..=u64::MAX))
    }

    /// A UUIDv7 for this moment.
    pub(crate) fn event_id(&self, wall_ms: u64) -> uuid::Uuid {
        let bytes = self.with(|generator| generator.random::<[u8; 10]>());
        uuid::Builder::from_unix_timestamp_millis(wall_ms, &bytes).into_uuid()
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_ids_carry_their_time() {
        let (one, two) = (Random::seeded(7), Random::seeded(7));
        assert_eq!(one.token(), two.token());
        assert_ne!(one.token(), one.token());
        let id = one.event_id(1_700_000_000_000);
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.as_u128() >> 80, 1_700_000_000_000);
    }
}
