//! The consumers of a group on a partition: which of them takes an entry, its key, and the call of its function.

use std::ops::Index;
use std::sync::Arc;

use streams_core::broker::{Events, Need, cut_from};
use streams_core::{Context, Entry, Failure, Outcome};

use super::handler::{Handler, caught};
use super::settle::{Failed, Policy};
use crate::membership::Build;

/// The consumer that takes an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Taker {
    /// This consumer of the group.
    Consumer(usize),
    /// No consumer of the group.
    Nobody,
    /// No consumer again: the group has settled an event of the same id.
    Repeated,
    /// The entry does not name its event, or was too large to be read.
    Unnamed,
}

/// The consumers of a group, as this build has them.
pub(crate) struct Handlers {
    list: Vec<Handler>,
    /// The events that this build handles, and those that it ignores.
    pub(crate) build: Arc<Build>,
}

impl Handlers {
    pub(crate) fn new(list: Vec<Handler>, build: Arc<Build>) -> Self {
        Self { list, build }
    }

    pub(crate) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.list.iter().map(|handler| &handler.policy)
    }

    /// The consumer that takes an entry, or the need of an entry that only another build handles.
    pub(crate) fn route(&self, declared: &Events, entry: &Entry) -> Result<Taker, Need> {
        let Some((name, version)) = entry.event() else { return Ok(Taker::Unnamed) };
        match self.list.iter().position(|handler| handler.registration.info.event.name == name) {
            Some(_) if cut_from(entry).is_some() => Ok(Taker::Unnamed),
            Some(consumer) if version <= self[consumer].registration.info.event.version => {
                Ok(Taker::Consumer(consumer))
            }
            None if !self.build.leaves(declared, name) => Ok(Taker::Nobody),
            _ => Err(Need { name: name.to_owned(), version, entry: entry.id }),
        }
    }

    /// The key of an event. This decodes the event with the user's code, which may panic.
    pub(crate) fn key(&self, consumer: usize, entry: &Entry) -> Result<Arc<str>, Failed> {
        caught(|| self[consumer].registration.key(entry).map_err(Failure::Decode))
    }

    /// Calls the consumer's function once with an event, within its timeout and with its panics caught. The future may run in
    /// a task of its own.
    pub(crate) fn invoke(
        &self,
        consumer: usize,
        entry: Arc<Entry>,
        attempt: u32,
    ) -> impl Future<Output = Result<Outcome, Failed>> + Send + use<> {
        let handler = &self[consumer];
        handler.call(Context::new(Arc::clone(&handler.scope), entry, attempt))
    }
}

impl Index<usize> for Handlers {
    type Output = Handler;

    fn index(&self, consumer: usize) -> &Handler {
        &self.list[consumer]
    }
}
