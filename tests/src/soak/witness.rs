//! A worker's pen. It writes the calls of handlers with their epochs, the owned partitions, and the stalls of the machine
//! into the journal.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use streams_runtime::Context;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{self, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::journal::{Mark, Record, Writer};

/// How often a watch looks, and from when on it is late.
const LOOK: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_millis(100);

/// The journal of a worker.
#[derive(Debug)]
pub struct Witness {
    writer: Writer,
    /// In which epoch this process owns a group's partition.
    epochs: Mutex<HashMap<(String, u32), u64>>,
    is_ready: AtomicBool,
}

/// A handler that runs.
#[derive(Debug)]
pub struct Call<'a>(&'a Witness, Record);

impl Witness {
    /// Opens the journal for a worker, and its log on standard error.
    ///
    /// # Panics
    /// When the file cannot be opened or the process has a log already.
    pub fn start(journal: &Path, life: u32) -> Arc<Self> {
        let writer = Writer::open(journal, life).expect("the journal");
        let witness = Arc::new(Self { writer, epochs: Mutex::default(), is_ready: AtomicBool::new(false) });
        let log = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
        let level = tracing_subscriber::filter::LevelFilter::DEBUG;
        tracing_subscriber::registry().with(level).with(log).with(Owners(Arc::clone(&witness))).init();
        let watch = Arc::clone(&witness);
        thread::spawn(move || watch_time(&watch.writer, || true));
        witness
    }

    /// A handler is called.
    pub fn begins(&self, ctx: &Context, key: u64, n: u64) -> Call<'_> {
        let place = (ctx.group().to_owned(), ctx.partition());
        let epoch = self.epochs.lock().unwrap_or_else(PoisonError::into_inner).get(&place).copied();
        let record = Record {
            n,
            key,
            attempt: ctx.attempt(),
            epoch: epoch.unwrap_or_default(),
            group: place.0,
            partition: place.1,
            ..Record::now(self.writer.life(), Mark::Begun)
        };
        self.writer.append(&record);
        Call(self, record)
    }
}

impl Call<'_> {
    /// It returns.
    pub fn ends(self, mark: Mark) {
        let now = Record::now(self.0.writer.life(), mark);
        self.0.writer.append(&Record { micros: now.micros, mark, ..self.1 });
    }
}

/// Does something again and again while it can, and writes down when that, or coming round to it, took too long.
pub fn watch_time(writer: &Writer, mut something: impl FnMut() -> bool) {
    let mut since = Instant::now();
    while something() {
        thread::sleep(LOOK);
        let late = since.elapsed().saturating_sub(LOOK);
        if late > LATE {
            let n = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
            writer.append(&Record { n, ..Record::now(writer.life(), Mark::Stalled) });
        }
        since = Instant::now();
    }
}

/// Takes from the log which partitions the process owns. The task that calls the handlers logs it before and after.
struct Owners(Arc<Witness>);

impl<S: tracing::Subscriber> Layer<S> for Owners {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        // A partition's task logs only after the app has declared itself.
        let target = event.metadata().target();
        if !["streams_runtime::ordered", "streams_runtime::queue"].iter().any(|room| target.starts_with(room)) {
            return;
        }
        if !self.0.is_ready.swap(true, Ordering::Relaxed) {
            self.0.writer.append(&Record::now(self.0.writer.life(), Mark::Ready));
        }
        let mut said = Said::default();
        event.record(&mut said);
        let mark = match said.message.as_str() {
            "took the lease" | "took the lease again" => Mark::Owning,
            "released" => Mark::Released,
            _ => return,
        };
        if mark == Mark::Owning {
            let mut epochs = self.0.epochs.lock().unwrap_or_else(PoisonError::into_inner);
            epochs.insert((said.group.clone(), said.partition), said.epoch);
        }
        let Said { group, partition, epoch, .. } = said;
        let now = Record::now(self.0.writer.life(), mark);
        self.0.writer.append(&Record { group, partition, epoch, ..now });
    }
}

/// The fields of a line of the log.
#[derive(Default)]
struct Said {
    message: String,
    group: String,
    partition: u32,
    epoch: u64,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "group" => value.clone_into(&mut self.group),
            "partition" => {
                self.partition = value.rsplit('.').next().and_then(|index| index.parse().ok()).unwrap_or_default();
            }
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "epoch" {
            self.epoch = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
