//! Acts that take a while, on many dead letters: they go on by themselves, say how far they are, and can be stopped.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use streams_core::EntryId;
use streams_core::broker::{BrokerError, BrokerErrorKind};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::answer::Problem;
use super::scan::{READ, Scan};
use crate::ops::{DeadLetterFilter, DeadLetterId, DeadLetters};
use crate::sync::lock;

/// How many jobs run at once, and how many are remembered when they are over.
const RUNNING: usize = 4;
const REMEMBERED: usize = 16;
/// How long a job waits while the server takes no more, as when too many letters wait for their group already.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// The act on letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Replay,
    Discard,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }
}

/// Which letters.
pub(super) enum Which {
    These(Vec<DeadLetterId>),
    /// All that the filter means, its text, and how many letters there are.
    All(DeadLetterFilter, String, u64),
}

impl Which {
    /// How many letters are looked at, which is about right: others come meanwhile.
    fn looked_at(&self) -> u64 {
        match self {
            Self::These(ids) => ids.len() as u64,
            Self::All(_, _, there) => *there,
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::These(ids) if ids.len() == 1 => write!(f, "dead letter {}", ids[0]),
            Self::These(ids) => write!(f, "{} dead letters from {} to {}", ids.len(), ids[0], ids[ids.len() - 1]),
            Self::All(_, filter, _) if filter == "{}" => f.write_str("all dead letters"),
            Self::All(_, filter, _) => write!(f, "dead letters with {filter}"),
        }
    }
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "why")]
enum State {
    Running,
    /// It goes on by itself when this is over.
    Waiting(String),
    Done,
    Stopped,
    Failed(String),
}

struct Job {
    id: u64,
    kind: Kind,
    stream: String,
    group: String,
    what: String,
    /// How many letters it is to look at.
    of: u64,
    /// How many letters it looked at, and with how many it is done.
    seen: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    state: Mutex<State>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Job {
    fn is_over(&self) -> bool {
        matches!(*lock(&self.state), State::Done | State::Stopped | State::Failed(_))
    }

    fn view(&self) -> Value {
        let mut view = json!(*lock(&self.state));
        view["job"] = json!(self.id);
        view["kind"] = json!(self.kind);
        view["stream"] = json!(self.stream);
        view["group"] = json!(self.group);
        view["what"] = json!(self.what);
        view["of"] = json!(self.of);
        view["seen"] = json!(self.seen.load(Ordering::Relaxed));
        view["done"] = json!(self.done.load(Ordering::Relaxed));
        view
    }
}

/// The jobs of a console, the newest last.
#[derive(Default)]
pub(super) struct Jobs {
    jobs: Mutex<Vec<Arc<Job>>>,
    started: AtomicU64,
}

impl Jobs {
    /// Begins a job about letters that lie there up to an id, and calls `over` at its end; answers its number.
    pub(super) fn start(
        &self,
        kind: Kind,
        (stream, group): (&str, &str),
        letters: DeadLetters,
        (which, until): (Which, EntryId),
        over: impl FnOnce() + Send + 'static,
    ) -> Result<u64, Problem> {
        let mut jobs = lock(&self.jobs);
        if jobs.iter().filter(|job| !job.is_over()).count() >= RUNNING {
            let message = format!("{RUNNING} jobs are running, which are the most; wait for one, or stop it");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, message));
        }
        while jobs.len() >= REMEMBERED
            && let Some(oldest) = jobs.iter().position(|job| job.is_over())
        {
            jobs.remove(oldest);
        }
        let job = Arc::new(Job {
            id: self.started.fetch_add(1, Ordering::Relaxed) + 1,
            kind,
            stream: stream.to_owned(),
            group: group.to_owned(),
            what: which.to_string(),
            of: which.looked_at(),
            seen: AtomicU64::new(0),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            state: Mutex::new(State::Running),
            task: Mutex::default(),
        });
        let of_task = Arc::clone(&job);
        let task = tokio::spawn(async move {
            let state = match of_task.run(&letters, &which, until).await {
                Ok(()) if of_task.stop.load(Ordering::Relaxed) => State::Stopped,
                Ok(()) => State::Done,
                Err(error) => State::Failed(error.to_string()),
            };
            over();
            *lock(&of_task.state) = state;
        });
        *lock(&job.task) = Some(AbortOnDropHandle::new(task));
        jobs.push(Arc::clone(&job));
        Ok(job.id)
    }

    pub(super) fn list(&self) -> Vec<Value> {
        lock(&self.jobs).iter().map(|job| job.view()).collect()
    }

    /// Has a job end after the letters that it has in hand.
    pub(super) fn stop(&self, id: u64) -> Result<(), Problem> {
        let jobs = lock(&self.jobs);
        let job = jobs.iter().find(|job| job.id == id);
        let job = job.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no job {id}")))?;
        job.stop.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Job {
    async fn run(&self, letters: &DeadLetters, which: &Which, until: EntryId) -> Result<(), BrokerError> {
        match which {
            Which::These(ids) => {
                for page in ids.chunks(READ) {
                    self.seen.fetch_add(page.len() as u64, Ordering::Relaxed);
                    if !self.settle(letters, page).await? {
                        return Ok(());
                    }
                }
            }
            Which::All(filter, ..) => {
                let mut scan = Scan::new(letters, None);
                let mut page = Vec::with_capacity(READ);
                loop {
                    let letter = scan.next().await?;
                    let is_end = letter.is_none();
                    // Letters that come back meanwhile are left out, or the job could go on for ever.
                    page.extend(letter.filter(|one| one.id().entry <= until && filter.admits(one)).map(|one| one.id()));
                    self.seen.store(scan.seen as u64, Ordering::Relaxed);
                    let is_due = page.len() == READ || is_end;
                    if (is_due && !self.settle(letters, &page).await?) || self.stop.load(Ordering::Relaxed) || is_end {
                        return Ok(());
                    }
                    if is_due {
                        page.clear();
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves or removes these letters; answers whether to go on. Where the server takes no more for now the job waits.
    async fn settle(&self, letters: &DeadLetters, ids: &[DeadLetterId]) -> Result<bool, BrokerError> {
        let began = Instant::now();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let settled = match self.kind {
                Kind::Replay => letters.replay(ids).await.map(|replayed| replayed.moved),
                Kind::Discard => letters.discard(ids).await,
            };
            match settled {
                Ok(done) => {
                    self.done.fetch_add(done, Ordering::Relaxed);
                    *lock(&self.state) = State::Running;
                    return Ok(true);
                }
                Err(error) if may_pass(&error) && began.elapsed() < PATIENCE => {
                    *lock(&self.state) = State::Waiting(error.to_string());
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a later attempt may succeed: the server is away, or takes no more for now, which is our own refusal.
fn may_pass(error: &BrokerError) -> bool {
    error.is_retryable()
        || error.is_indefinite()
        || (error.kind() == BrokerErrorKind::Refused && std::error::Error::source(error).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_says_which_letters_it_is_about() {
        let id = |n| DeadLetterId { partition: 1, entry: EntryId::new(n, 0) };
        let all = |filter: &str| Which::All(DeadLetterFilter::all(), filter.to_owned(), 7).to_string();
        assert_eq!(Which::These(vec![id(7)]).to_string(), "dead letter 1/7-0");
        assert_eq!(Which::These(vec![id(7), id(8)]).to_string(), "2 dead letters from 1/7-0 to 1/8-0");
        assert_eq!(all("{}"), "all dead letters");
        assert_eq!(all(r#"{"cause":"timeout"}"#), r#"dead letters with {"cause":"timeout"}"#);
    }

    #[test]
    fn a_state_is_a_word_and_a_reason() {
        assert_eq!(json!(State::Running), json!({ "state": "running" }));
        assert_eq!(json!(State::Failed("no".to_owned())), json!({ "state": "failed", "why": "no" }));
    }
}
