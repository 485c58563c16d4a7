//! [`Dose`] tells the worker process of the tests of poison how to behave, [`Pill`] where it has lanes, [`Vaccine`] where
//! it has several partitions.

use std::fs;
use std::hint::black_box;
use std::io::Write;

use serde::{Deserialize, Deserializer};
use streams_runtime::{event_type, stream_event};

/// The variable of the worker that names the file in which it writes down over which event it is about to end.
pub const JOURNAL: &str = "POISON_JOURNAL";
/// The variable of the worker that names a [`Pill`] over which it ends while it decodes it.
pub const DECODING: &str = "POISON_DECODING";

/// An event that may end the process that handles it.
#[stream_event(stream = "doses", lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Dose {
    /// Which one.
    pub n: u64,
    /// How it ends the process.
    pub by: Option<End>,
    /// How often it does; afterwards it is handled like any other.
    pub times: u32,
}

/// The same, with a key.
#[stream_event(stream = "pills", key = patient, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Pill {
    /// The patient, who is its key.
    pub patient: String,
    /// Which one.
    #[event(wire = "u64")]
    #[serde(deserialize_with = "swallow")]
    pub n: u64,
    /// Whether it ends the process.
    pub bad: bool,
}

/// The same in a stream with several partitions.
#[stream_event(stream = "vaccines", key = n, partitions = 4, lock = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Vaccine {
    /// Which one.
    pub n: u64,
    /// Whether it ends the process.
    pub bad: bool,
}

fn swallow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let n = u64::deserialize(deserializer)?;
    if std::env::var(DECODING).is_ok_and(|bad| bad == n.to_string()) {
        End::Abort.over(n, u32::MAX);
    }
    Ok(n)
}

/// How a process ends.
#[event_type]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// It aborts.
    Abort,
    /// Its stack overflows.
    Overflow,
    /// It exits, as if all was well.
    Exit,
    /// It takes more memory than it may have.
    Exhaust,
}

impl End {
    /// Ends the worker over this event, unless it has done so as often as this.
    ///
    /// # Panics
    /// Where there is no journal.
    pub fn over(self, n: u64, times: u32) {
        let path = std::env::var(JOURNAL).expect("the variable names a file");
        let line = n.to_string();
        let before = fs::read_to_string(&path).unwrap_or_default().lines().filter(|said| *said == line).count();
        if before < times as usize {
            let journal = fs::File::options().create(true).append(true).open(&path);
            // In one piece, as another event may end the process on another thread.
            let line = line + "\n";
            journal.expect("the journal opens").write_all(line.as_bytes()).expect("the journal is written");
            self.end();
        }
    }

    fn end(self) {
        match self {
            Self::Abort => std::process::abort(),
            Self::Overflow => drop(black_box(deeper(0))),
            Self::Exit => std::process::exit(0),
            Self::Exhaust => {
                // Never touched, so that the machine of the tests does not feel it: the limit counts addresses.
                let mut hoard = Vec::new();
                loop {
                    hoard.push(black_box(Vec::<u8>::with_capacity(256 << 20)));
                }
            }
        }
    }
}

fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { deeper(depth + 1) + frame[0] }
}
