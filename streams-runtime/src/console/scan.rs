//! A walk through the dead letters of a group, which reads some at a time.

use streams_core::broker::BrokerError;

use crate::ops::{DeadLetter, DeadLetterId, DeadLetters};

/// How many letters are read at once.
pub(super) const READ: usize = 32;

/// All letters, some at a time, oldest first in each partition.
pub(super) struct Scan<'a> {
    letters: &'a DeadLetters,
    after: Option<DeadLetterId>,
    read: std::vec::IntoIter<DeadLetter>,
    is_end: bool,
    pub(super) seen: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(letters: &'a DeadLetters, after: Option<DeadLetterId>) -> Self {
        Self { letters, after, read: Vec::new().into_iter(), is_end: false, seen: 0 }
    }

    pub(super) async fn next(&mut self) -> Result<Option<DeadLetter>, BrokerError> {
        if self.read.len() == 0 && !self.is_end {
            let read = self.letters.list(self.after, READ).await?;
            self.is_end = read.len() < READ;
            self.after = read.last().map(DeadLetter::id).or(self.after);
            self.read = read.into_iter();
        }
        let next = self.read.next();
        self.seen += usize::from(next.is_some());
        Ok(next)
    }
}
