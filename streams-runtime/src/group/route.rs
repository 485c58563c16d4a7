//! The consumer of a group that takes an entry, if any consumer of this build does.

use streams_core::Entry;
use streams_core::broker::{Events, Need, cut_from};

use super::task::Group;

/// Who takes an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Taker {
    /// This consumer of the group.
    Consumer(usize),
    /// None of them.
    Nobody,
    /// The entry does not say what it is, or was too large to be read.
    Unnamed,
}

impl Group {
    /// Who takes an entry; of one that is for another build, what that has to handle.
    pub(crate) fn taker(&self, declared: &Events, entry: &Entry) -> Result<Taker, Need> {
        let Some((name, version)) = entry.event() else { return Ok(Taker::Unnamed) };
        let info = |consumer: usize| self.handlers[consumer].registration.info;
        match (0..self.handlers.len()).find(|&consumer| info(consumer).event.name == name) {
            Some(_) if cut_from(entry).is_some() => Ok(Taker::Unnamed),
            Some(consumer) if version <= info(consumer).event.version => Ok(Taker::Consumer(consumer)),
            None if !self.build.leaves(declared, name) => Ok(Taker::Nobody),
            _ => Err(Need { name: name.to_owned(), version, entry: entry.id }),
        }
    }
}
