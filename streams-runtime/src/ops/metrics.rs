//! Every metric: its name and meaning in one table, its live value, and the text that Prometheus reads.
//!
//! An app keeps its figures itself, so that several apps of one process stay apart. Nothing has to be installed before
//! [`Monitor::metrics`](crate::Monitor::metrics) can render them. With the feature `metrics` each also goes through the
//! facade of the crate `metrics` under the same name. They go to the recorder that the program installed **before** it
//! started the app.
//!
//! | name | kind | unit | labels | meaning |
//! |---|---|---|---|---|
//! | `streams_published_total` | counter | events | `stream`, `partition` | events that the broker has confirmed |
//! | `streams_publish_errors_total` | counter | events | `stream`, `kind` | events whose publish was answered with an error |
//! | `streams_publish_duration_seconds` | histogram | seconds | `stream` | from a call to publish to its answer, also when that is an error; a call of `publish_all` counts once |
//! | `streams_consumed_total` | counter | events | `stream`, `partition`, `group`, `outcome` | events whose business with the group has ended: `done`, `skipped`, `dead_lettered`, or `passed_over` because no consumer of the group takes them |
//! | `streams_retried_total` | counter | attempts | `stream`, `partition`, `group` | failed attempts that were followed by another |
//! | `streams_dead_lettered_total` | counter | events | `stream`, `partition`, `group`, `cause` | events that went to the dead letters, by cause |
//! | `streams_handler_duration_seconds` | histogram | seconds | `stream`, `group`, `consumer` | from the beginning of an attempt to its end, failed ones included |
//! | `streams_lag_entries` | gauge | entries | `stream`, `partition`, `group` | entries above the checkpoint; only from the owner, and where their number is known; while the group is paused from every process |
//! | `streams_lag_seconds` | gauge | seconds | `stream`, `partition`, `group` | by how much the newest entry is younger than the event that was begun last; 0 when nothing stands above the checkpoint; only from the owner, while the group is paused from every process |
//! | `streams_checkpoint_age_seconds` | gauge | seconds | `stream`, `partition`, `group` | for how long the checkpoint has stood still while an event was unsettled or uncommitted, or while reads failed; otherwise 0 |
//! | `streams_lease_changes_total` | counter | changes | `stream`, `partition`, `group`, `change` | how often this process has `taken`, `lost` or `released` the lease; `handed_over` counts those given back because the partition is another member's share |
//! | `streams_owner` | gauge | | `stream`, `partition`, `group` | 1 while this process holds the lease |
//! | `streams_members` | gauge | processes | `stream`, `group` | how many processes share the partitions of the group, as this one sees it |
//! | `streams_halted` | gauge | | `stream`, `partition`, `group` | 1 while nothing is handled until somebody does something |
//! | `streams_paused` | gauge | | `stream`, `partition`, `group` | 1 while somebody has paused the group |
//! | `streams_troubled` | gauge | | `stream`, `partition`, `group` | 1 while calls that the group needs fail or have no answer, whatever other calls do |
//! | `streams_losses_total` | counter | losses | `stream`, `partition`, `group`, `kind` | how often history turned out to be cut before the group had read it |
//! | `streams_lost_entries_total` | counter | entries | `stream`, `partition`, `group` | entries that the group has lost by that, as far as they can be counted |
//! | `streams_stray_entries` | gauge | entries | `stream` | entries in keys that no group reads, beside the stream's partitions; only from a process that owns a partition, by a look each minute |
//! | `streams_tail_reconnects_total` | counter | reconnects | | how often a connection that waits for entries was lost |
//!
//! Labels hold names that the program declares, and numbers of partitions: never keys, ids, payloads or error texts. The
//! stream is named as it is declared, without the app's namespace.
//!
//! | label | values |
//! |---|---|
//! | `kind` of a publish error | `invalid` (the event itself), `not_sent` (behind an earlier failure), `not_durable`, and of the broker `unavailable`, `indefinite`, `full`, `refused`, `unsupported`, `mismatch`, `protocol` |
//! | `cause` | the words of [`Cause`](crate::Cause) |
//! | `kind` of a loss | `restarted`, `history_cut`, `trimmed_past`, `deleted_unread` |
//!
//! The lag is taken from a look at the end of each partition every [`LOOK`], one for all groups, and only while somebody
//! reads. It is missing until the first look after [`Monitor::metrics`](crate::Monitor::metrics) or a status was asked for.
//! With the feature `metrics` it is there from the start.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sync::lock;

/// How often the end of a partition is looked at for the lag: an XINFO costs the server some microseconds.
pub const LOOK: Duration = Duration::from_secs(5);

/// One metric, as the table above describes it.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, in every exporter.
    pub name: &'static str,
    /// How its value moves.
    pub kind: Kind,
    /// The unit; empty for 0 or 1.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The meaning, in one sentence.
    pub meaning: &'static str,
}

/// How the value of a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows, from 0 at the start of the app.
    Counter,
    /// It is what it is at the moment.
    Gauge,
    /// How many observations were at most so large.
    Histogram,
}

impl Kind {
    /// The word for it, as Prometheus says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const GROUP: &[&str] = &["stream", "partition", "group"];

/// Every metric, in the order in which they are rendered.
#[rustfmt::skip]
pub static METRICS: &[Metric] = &[
    metric("streams_published_total", Kind::Counter, "events", &["stream", "partition"], "events that the broker has confirmed"),
    metric("streams_publish_errors_total", Kind::Counter, "events", &["stream", "kind"], "events whose publish was answered with an error"),
    metric("streams_publish_duration_seconds", Kind::Histogram, "seconds", &["stream"], "from a call to publish to its answer, also when that is an error; a call of `publish_all` counts once"),
    metric("streams_consumed_total", Kind::Counter, "events", &["stream", "partition", "group", "outcome"], "events whose business with the group has ended: `done`, `skipped`, `dead_lettered`, or `passed_over` because no consumer of the group takes them"),
    metric("streams_retried_total", Kind::Counter, "attempts", GROUP, "failed attempts that were followed by another"),
    metric("streams_dead_lettered_total", Kind::Counter, "events", &["stream", "partition", "group", "cause"], "events that went to the dead letters, by cause"),
    metric("streams_handler_duration_seconds", Kind::Histogram, "seconds", &["stream", "group", "consumer"], "from the beginning of an attempt to its end, failed ones included"),
    metric("streams_lag_entries", Kind::Gauge, "entries", GROUP, "entries above the checkpoint; only from the owner, and where their number is known; while the group is paused from every process"),
    metric("streams_lag_seconds", Kind::Gauge, "seconds", GROUP, "by how much the newest entry is younger than the event that was begun last; 0 when nothing stands above the checkpoint; only from the owner, while the group is paused from every process"),
    metric("streams_checkpoint_age_seconds", Kind::Gauge, "seconds", GROUP, "for how long the checkpoint has stood still while an event was unsettled or uncommitted, or while reads failed; otherwise 0"),
    metric("streams_lease_changes_total", Kind::Counter, "changes", &["stream", "partition", "group", "change"], "how often this process has `taken`, `lost` or `released` the lease; `handed_over` counts those given back because the partition is another member's share"),
    metric("streams_owner", Kind::Gauge, "", GROUP, "1 while this process holds the lease"),
    metric("streams_members", Kind::Gauge, "processes", &["stream", "group"], "how many processes share the partitions of the group, as this one sees it"),
    metric("streams_halted", Kind::Gauge, "", GROUP, "1 while nothing is handled until somebody does something"),
    metric("streams_paused", Kind::Gauge, "", GROUP, "1 while somebody has paused the group"),
    metric("streams_troubled", Kind::Gauge, "", GROUP, "1 while calls that the group needs fail or have no answer, whatever other calls do"),
    metric("streams_losses_total", Kind::Counter, "losses", &["stream", "partition", "group", "kind"], "how often history turned out to be cut before the group had read it"),
    metric("streams_lost_entries_total", Kind::Counter, "entries", GROUP, "entries that the group has lost by that, as far as they can be counted"),
    metric("streams_stray_entries", Kind::Gauge, "entries", &["stream"], "entries in keys that no group reads, beside the stream's partitions; only from a process that owns a partition, by a look each minute"),
    metric("streams_tail_reconnects_total", Kind::Counter, "reconnects", &[], "how often a connection that waits for entries was lost"),
];

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, meaning }
}

/// Up to how many seconds an observation counts in each bucket: from a handler that only adds up to one at its timeout.
const BUCKETS: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A number that only grows.
pub(crate) struct Counter {
    value: AtomicU64,
    #[cfg(feature = "metrics")]
    facade: ::metrics::Counter,
}

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.facade.increment(n);
    }

    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// A number of the moment; NaN while nobody knows it.
pub(crate) struct Gauge {
    bits: AtomicU64,
    #[cfg(feature = "metrics")]
    facade: ::metrics::Gauge,
}

impl Gauge {
    pub(crate) fn set(&self, value: Option<f64>) {
        let value = value.unwrap_or(f64::NAN);
        self.bits.store(value.to_bits(), Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.facade.set(value);
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }
}

/// How long things took.
pub(crate) struct Histogram {
    /// By bucket, each without the smaller ones; the last is for what is larger than every bound.
    counts: [AtomicU64; BUCKETS.len() + 1],
    nanos: AtomicU64,
    #[cfg(feature = "metrics")]
    facade: ::metrics::Histogram,
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.facade.record(seconds);
    }

    /// How many observations were at most so many seconds and above the bound before, the last without a bound; then their
    /// sum in seconds.
    #[cfg(feature = "console")]
    pub(super) fn buckets(&self) -> (Vec<(Option<f64>, u64)>, f64) {
        let bounds = BUCKETS.iter().map(|bound| Some(*bound)).chain([None]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        (bounds.zip(counts).collect(), Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64())
    }
}

/// The metrics of one app, or of a publisher alone. A metric that is asked for twice is one metric.
#[derive(Default)]
pub(crate) struct Registry {
    /// By place in [`METRICS`] and by labels as they are rendered.
    series: Mutex<BTreeMap<(usize, String), Series>>,
}

enum Series {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
    Histogram(Arc<Histogram>),
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

/// Label values, in the order of [`Metric::labels`].
type Values<'a> = &'a [&'a str];

impl Registry {
    pub(crate) fn counter(&self, name: &str, values: Values<'_>) -> Arc<Counter> {
        let (place, metric) = find(name);
        let make = || {
            Series::Counter(Arc::new(Counter {
                value: AtomicU64::new(0),
                #[cfg(feature = "metrics")]
                facade: {
                    ::metrics::describe_counter!(metric.name, unit(metric), metric.meaning);
                    ::metrics::counter!(metric.name, labels(metric, values))
                },
            }))
        };
        match self.series(place, metric, values, make) {
            Series::Counter(counter) => counter,
            _ => unreachable!("{name} is a counter"),
        }
    }

    pub(crate) fn gauge(&self, name: &str, values: Values<'_>) -> Arc<Gauge> {
        let (place, metric) = find(name);
        let make = || {
            Series::Gauge(Arc::new(Gauge {
                bits: AtomicU64::new(f64::NAN.to_bits()),
                #[cfg(feature = "metrics")]
                facade: {
                    ::metrics::describe_gauge!(metric.name, unit(metric), metric.meaning);
                    ::metrics::gauge!(metric.name, labels(metric, values))
                },
            }))
        };
        match self.series(place, metric, values, make) {
            Series::Gauge(gauge) => gauge,
            _ => unreachable!("{name} is a gauge"),
        }
    }

    pub(crate) fn histogram(&self, name: &str, values: Values<'_>) -> Arc<Histogram> {
        let (place, metric) = find(name);
        let make = || {
            Series::Histogram(Arc::new(Histogram {
                counts: Default::default(),
                nanos: AtomicU64::new(0),
                #[cfg(feature = "metrics")]
                facade: {
                    ::metrics::describe_histogram!(metric.name, unit(metric), metric.meaning);
                    ::metrics::histogram!(metric.name, labels(metric, values))
                },
            }))
        };
        match self.series(place, metric, values, make) {
            Series::Histogram(histogram) => histogram,
            _ => unreachable!("{name} is a histogram"),
        }
    }

    fn series(&self, place: usize, metric: &Metric, values: Values<'_>, make: impl FnOnce() -> Series) -> Series {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let text = metric.labels.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let text = text.collect::<Vec<_>>().join(",");
        let mut series = lock(&self.series);
        match series.entry((place, text)).or_insert_with(make) {
            Series::Counter(counter) => Series::Counter(Arc::clone(counter)),
            Series::Gauge(gauge) => Series::Gauge(Arc::clone(gauge)),
            Series::Histogram(histogram) => Series::Histogram(Arc::clone(histogram)),
        }
    }

    /// Everything in Prometheus's text format, version 0.0.4.
    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let series = lock(&self.series);
        for (place, metric) in METRICS.iter().enumerate() {
            let of_metric = series.range((place, String::new())..(place + 1, String::new()));
            writeln!(out, "# HELP {} {}", metric.name, metric.meaning)?;
            writeln!(out, "# TYPE {} {}", metric.name, metric.kind.as_str())?;
            for ((_, labels), series) in of_metric {
                match series {
                    Series::Counter(counter) => sample(out, metric.name, labels, "", counter.get())?,
                    Series::Gauge(gauge) if gauge.get().is_nan() => {}
                    Series::Gauge(gauge) => sample(out, metric.name, labels, "", gauge.get())?,
                    Series::Histogram(histogram) => {
                        let mut count = 0;
                        let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                        for (bound, bucket) in bounds.zip(&histogram.counts) {
                            count += bucket.load(Ordering::Relaxed);
                            sample(out, &format!("{}_bucket", metric.name), labels, &format!("le=\"{bound}\""), count)?;
                        }
                        let sum = Duration::from_nanos(histogram.nanos.load(Ordering::Relaxed)).as_secs_f64();
                        sample(out, &format!("{}_sum", metric.name), labels, "", sum)?;
                        sample(out, &format!("{}_count", metric.name), labels, "", count)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn sample(out: &mut String, name: &str, labels: &str, more: &str, value: impl fmt::Display) -> fmt::Result {
    let comma = if labels.is_empty() || more.is_empty() { "" } else { "," };
    if labels.is_empty() && more.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}{comma}{more}}} {value}")
    }
}

/// A label value as the format wants it. Names cannot hold such characters, but a declaration can be written by hand.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The metric of this name and its place in the table: whatever has a value is in it.
fn find(name: &str) -> (usize, &'static Metric) {
    match METRICS.iter().enumerate().find(|(_, metric)| metric.name == name) {
        Some(found) => found,
        None => unreachable!("the metric `{name}` stands in no table"),
    }
}

#[cfg(feature = "metrics")]
fn unit(metric: &Metric) -> ::metrics::Unit {
    if metric.unit == "seconds" { ::metrics::Unit::Seconds } else { ::metrics::Unit::Count }
}

#[cfg(feature = "metrics")]
fn labels(metric: &Metric, values: Values<'_>) -> Vec<::metrics::Label> {
    metric.labels.iter().zip(values).map(|(name, value)| ::metrics::Label::new(*name, (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_the_table() {
        let documented: Vec<_> =
            include_str!("metrics.rs").lines().filter(|line| line.starts_with("//! | `streams_")).collect();
        let row = |metric: &Metric| {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let cells = [
                format!("`{}`", metric.name),
                metric.kind.as_str().to_owned(),
                metric.unit.to_owned(),
                labels.join(", "),
                metric.meaning.to_owned(),
            ];
            let cells = cells.map(|cell| if cell.is_empty() { " |".to_owned() } else { format!(" {cell} |") });
            format!("//! |{}", cells.concat())
        };
        assert_eq!(documented, METRICS.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn names_say_what_they_are() {
        for metric in METRICS {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert_eq!(metric.name.ends_with("_seconds"), metric.unit == "seconds", "{}", metric.name);
        }
    }

    #[test]
    fn a_series_is_rendered_with_its_labels_and_made_once() {
        let registry = Registry::default();
        registry.counter("streams_retried_total", &["trades", "0", "risk"]).add(2);
        registry.counter("streams_retried_total", &["trades", "0", "risk"]).add(1);
        registry.counter("streams_tail_reconnects_total", &[]).add(4);
        registry.gauge("streams_owner", &["a\"b\\c\nd", "0", "risk"]).set(Some(1.0));
        registry.gauge("streams_halted", &["trades", "0", "risk"]).set(None);
        let text = registry.render();
        for line in [
            "streams_retried_total{stream=\"trades\",partition=\"0\",group=\"risk\"} 3",
            "streams_tail_reconnects_total 4",
            "streams_owner{stream=\"a\\\"b\\\\c\\nd\",partition=\"0\",group=\"risk\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("streams_halted{"), "what nobody knows is not said\n{text}");
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let registry = Registry::default();
        let histogram = registry.histogram("streams_publish_duration_seconds", &["trades"]);
        for millis in [1, 2, 60_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let text = registry.render();
        let value = |what: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("streams_publish_duration_seconds{what}")));
            line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default()
        };
        assert_eq!(value("_bucket{stream=\"trades\",le=\"0.0005\"}"), "0");
        assert_eq!(value("_bucket{stream=\"trades\",le=\"0.001\"}"), "1");
        assert_eq!(value("_bucket{stream=\"trades\",le=\"30\"}"), "2");
        assert_eq!(value("_bucket{stream=\"trades\",le=\"+Inf\"}"), "3");
        assert_eq!((value("_count"), value("_sum")), ("3", "60.003"));
    }
}
