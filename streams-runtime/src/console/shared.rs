//! All that the requests to a console share.

use std::sync::Arc;

use streams_core::broker::Broker;
use tokio::sync::Semaphore;

use super::answer::Problem;
use super::collector::Collector;
use super::jobs::Jobs;
use super::program::Program;
use crate::operate::{Admin, GroupView, Inspector, Redact};

/// How many browsers are told of changes at once; with the 32 connections of an endpoint others stay free for probes.
pub(super) const VIEWERS: usize = 16;
/// How many requests read at once, each a few MiB of entries at most; others wait.
const READS: usize = 8;

/// The settings of a console.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) namespace: Option<String>,
    pub(super) token: Option<String>,
    pub(super) read_only: bool,
    pub(super) production: Option<String>,
    pub(super) is_local: bool,
    pub(super) redact: Redact,
    pub(super) program: Option<Program>,
}

pub(super) struct Shared {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) namespace: Option<String>,
    pub(super) admin: Admin,
    /// Without one the console is read-only.
    pub(super) token: Option<String>,
    pub(super) production: Option<String>,
    pub(super) is_local: bool,
    pub(super) redact: Redact,
    /// The program that serves the console, where it runs handlers.
    pub(super) program: Option<Program>,
    pub(super) collector: Collector,
    pub(super) jobs: Jobs,
    pub(super) viewers: Arc<Semaphore>,
    pub(super) reads: Semaphore,
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        let Settings { broker, namespace, token, read_only, production, is_local, redact, program } = settings;
        Self {
            admin: Admin::at(Arc::clone(&broker), namespace.clone(), Default::default()),
            collector: Collector::new(Inspector::at(Arc::clone(&broker), namespace.clone())),
            broker,
            namespace,
            token: token.filter(|_| !read_only),
            production,
            is_local,
            redact,
            program,
            jobs: Jobs::default(),
            viewers: Arc::new(Semaphore::new(VIEWERS)),
            reads: Semaphore::new(READS),
        }
    }

    /// A group of a stream, or the words for one that is not there.
    pub(super) async fn group(&self, stream: &str, group: &str) -> Result<GroupView, Problem> {
        let view = self.collector.stream(stream).await.map_err(Problem::unknown)?;
        match view.groups.iter().find(|view| view.name == group) {
            Some(view) => Ok(view.clone()),
            // It may have come since.
            None => self.collector.inspector().group(stream, group).await.map_err(Problem::unknown),
        }
    }
}
