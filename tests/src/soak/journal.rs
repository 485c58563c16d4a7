//! What the soak's worker writes down: a line for each beginning and end of a handler, which survives `kill -9`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

/// What happened to an event in a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The handler was called.
    Begun,
    /// It returned with success.
    Done,
    /// It returned an error.
    Failed,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in microseconds since 1970.
    pub micros: u64,
    /// Which process, from 1.
    pub life: u32,
    /// The group.
    pub group: String,
    /// What.
    pub mark: Mark,
    /// Which event, from 1.
    pub n: u64,
    /// Which attempt.
    pub attempt: u32,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Begun => 'b',
            Mark::Done => 'd',
            Mark::Failed => 'f',
        };
        write!(f, "{} {} {} {mark} {} {}", self.micros, self.life, self.group, self.n, self.attempt)
    }
}

impl Record {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        Some(Self {
            micros: next()?.parse().ok()?,
            life: next()?.parse().ok()?,
            group: next()?.to_owned(),
            mark: match next()? {
                "b" => Mark::Begun,
                "d" => Mark::Done,
                "f" => Mark::Failed,
                _ => return None,
            },
            n: next()?.parse().ok()?,
            attempt: next()?.parse().ok()?,
        })
    }
}

/// Microseconds since 1970.
pub fn micros() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The worker's end: each line is one write to the end of the file, so lines are whole whatever ends the process.
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

    /// Writes a line.
    ///
    /// # Panics
    /// When it cannot be written whole.
    pub fn write(&self, group: &str, mark: Mark, n: u64, attempt: u32) {
        let record = Record { micros: micros(), life: self.life, group: group.to_owned(), mark, n, attempt };
        let line = format!("{record}\n");
        let written = (&self.file).write(line.as_bytes()).expect("the journal takes a line");
        assert_eq!(written, line.len(), "a line of the journal was cut");
    }
}

/// The soak's end: reads what was added.
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
