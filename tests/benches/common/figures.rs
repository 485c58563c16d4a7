//! Figures of a run: medians, latencies, and numbers as text.

use std::sync::atomic::{AtomicU64, Ordering};

/// Steps of each power of two: a latency is known to 3 percent, in a few KiB whatever number of deliveries.
const STEPS: u64 = 32;

/// How often each latency was seen.
pub(crate) struct Latencies([AtomicU64; 64 * STEPS as usize]);

impl Latencies {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 64 * STEPS as usize])
    }

    pub(crate) fn record(&self, nanos: u64) {
        self.0[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    /// The latency in nanoseconds below which this share of them was; `None` where there was none.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let counts: Vec<u64> = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let rank = (counts.iter().sum::<u64>() as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let found = counts.iter().position(|count| {
            below += count;
            below >= rank
        });
        found.map(upper)
    }
}

fn bucket(nanos: u64) -> usize {
    let power = nanos.max(STEPS).ilog2() - STEPS.ilog2();
    // Below STEPS the number itself; above, the leading digits and the power of two behind them.
    let index = u64::from(power) * STEPS + (nanos >> power);
    usize::try_from(index).unwrap_or(usize::MAX).min(64 * STEPS as usize - 1)
}

fn upper(index: usize) -> f64 {
    let (index, steps) = (index as f64, STEPS as f64);
    let power = ((index / steps).floor() - 1.0).max(0.0);
    (index - power * steps + 1.0) * power.exp2()
}

/// The middle one of some measurements.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// A number with its thousands apart.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
