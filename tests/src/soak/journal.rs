//! The one journal of a long run: all processes append to it. A line marks the beginning or the end of a handler, or harm
//! done to a process. It survives `kill -9`, and the order of lines is the order of events.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

/// The kind of a line in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A handler was called.
    Begun,
    /// It returned with success.
    Done,
    /// It returned an error.
    Failed,
    /// The process owns the group's partition, in an epoch.
    Owning,
    /// It has given it back.
    Released,
    /// It, or the server where the process is 0, came to nothing for `n` milliseconds up to now.
    Stalled,
    /// The process is started; `n` is its build.
    Started,
    /// It has declared its events, and stands by or owns something.
    Ready,
    /// It is killed.
    Killed,
    /// It is made to stand still (SIGSTOP).
    Silenced,
    /// It goes on (SIGCONT).
    Continued,
    /// It is asked to stop (SIGTERM).
    Terminated,
    /// It has ended by itself; `n` is its exit code.
    Ended,
    /// An event was acknowledged to its producer; `attempt` is the first build that knows it.
    Published,
}

const MARKS: [(Mark, &str); 14] = [
    (Mark::Begun, "b"),
    (Mark::Done, "d"),
    (Mark::Failed, "f"),
    (Mark::Owning, "owns"),
    (Mark::Released, "released"),
    (Mark::Stalled, "stalled"),
    (Mark::Started, "started"),
    (Mark::Ready, "ready"),
    (Mark::Killed, "killed"),
    (Mark::Silenced, "silenced"),
    (Mark::Continued, "continued"),
    (Mark::Terminated, "terminated"),
    (Mark::Ended, "ended"),
    (Mark::Published, "p"),
];

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARKS.iter().find(|(mark, _)| mark == self).map_or("?", |(_, word)| word))
    }
}

/// One line of the journal. A field that its mark does not need is empty or 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in microseconds since 1970.
    pub micros: u64,
    /// Which process, from 1; 0 is the one that drives the run.
    pub life: u32,
    /// The group.
    pub group: String,
    /// Its kind.
    pub mark: Mark,
    /// Which event, from 1; where events have keys, which of its key.
    pub n: u64,
    /// Which attempt.
    pub attempt: u32,
    /// The partition, where the stream has several.
    pub partition: u32,
    /// The epoch in which the partition is owned, where that is followed.
    pub epoch: u64,
    /// The key, where events have one.
    pub key: u64,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { micros, life, group, mark, n, attempt, partition, epoch, key } = self;
        let group = if group.is_empty() { "-" } else { group };
        write!(f, "{micros} {life} {group} {mark} {n} {attempt} {partition} {epoch} {key}")
    }
}

impl Record {
    /// A record with the time of now.
    pub fn now(life: u32, mark: Mark) -> Self {
        let group = String::new();
        Self { micros: micros(), life, group, mark, n: 0, attempt: 0, partition: 0, epoch: 0, key: 0 }
    }

    /// Reads a line; numbers that are left out at its end are 0.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let (micros, life) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let group = next().map(|group| if group == "-" { "" } else { group })?.to_owned();
        let word = next()?;
        let mark = MARKS.iter().find(|(_, name)| *name == word)?.0;
        let mut number = || next().map_or(Some(0), |word| word.parse::<u64>().ok());
        Some(Self {
            micros,
            life,
            group,
            mark,
            n: number()?,
            attempt: u32::try_from(number()?).ok()?,
            partition: u32::try_from(number()?).ok()?,
            epoch: number()?,
            key: number()?,
        })
    }
}

/// Microseconds since 1970.
pub fn micros() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The writing end: each line is one write to the end of the file, so lines are whole whatever ends the process.
#[derive(Debug)]
pub struct Writer {
    file: File,
    life: u32,
}

impl Writer {
    /// Opens the journal for a process.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, life: u32) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).create(true).open(path)?, life })
    }

    /// Writes what happens to an event now.
    ///
    /// # Panics
    /// When it cannot be written whole.
    pub fn write(&self, group: &str, mark: Mark, n: u64, attempt: u32) {
        self.append(&Record { group: group.to_owned(), n, attempt, ..Record::now(self.life, mark) });
    }

    /// Writes a line.
    ///
    /// # Panics
    /// When it cannot be written whole.
    pub fn append(&self, record: &Record) {
        let line = format!("{record}\n");
        let written = (&self.file).write(line.as_bytes()).expect("the journal takes a line");
        assert_eq!(written, line.len(), "a line of the journal was cut");
    }

    /// Which process writes.
    pub fn life(&self) -> u32 {
        self.life
    }
}

/// The reading end: reads what was added.
#[derive(Debug)]
pub struct Reader {
    file: File,
    position: u64,
    records: Vec<Record>,
}

impl Reader {
    /// Opens the journal, which need not exist yet.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { file: File::open(path)?, position: 0, records: Vec::new() })
    }

    /// Everything up to now.
    ///
    /// # Panics
    /// When the file cannot be read or holds something else.
    pub fn records(&mut self) -> &[Record] {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(self.position)).expect("the journal's position");
        self.file.read_to_string(&mut text).expect("the journal in UTF-8");
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.position += whole as u64;
        for line in text[..whole].lines() {
            self.records.push(Record::parse(line).unwrap_or_else(|| panic!("not a line of the journal: `{line}`")));
        }
        &self.records
    }
}
