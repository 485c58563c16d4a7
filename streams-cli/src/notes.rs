//! The notes that programs leave beside a stream: the shapes of events that they know, publish and read.

use serde_json::Value;
use streams_runtime::broker::{Members, Notes};
use streams_runtime::keys::StreamKey;

use crate::connect::Server;
use crate::nearest::perhaps;
use crate::problem::Problem;

/// A program's knowledge of an event.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) event: String,
    pub(crate) version: u64,
    pub(crate) fingerprint: String,
    pub(crate) program: String,
    pub(crate) host: String,
    /// When the program said so last, as RFC 3339.
    pub(crate) at: String,
    pub(crate) type_name: String,
    pub(crate) place: String,
    pub(crate) publishes: bool,
    /// The event in the form of a lock; null where that is long.
    pub(crate) lock: Value,
}

impl Known {
    /// The event and its version, such as `Trade@1`.
    pub(crate) fn name(&self) -> String {
        format!("{}@{}", self.event, self.version)
    }

    /// Who said it.
    pub(crate) fn by(&self) -> String {
        if self.host.is_empty() { self.program.clone() } else { format!("{} on {}", self.program, self.host) }
    }
}

/// Which versions of an event a group reads.
#[derive(Debug, Clone)]
pub(crate) struct Reads {
    pub(crate) group: String,
    pub(crate) event: String,
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
}

/// Everything that is recorded of a stream's events, in the order of their names and versions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorded {
    pub(crate) known: Vec<Known>,
    pub(crate) reads: Vec<Reads>,
}

impl Recorded {
    /// Reads the notes of a stream.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(crate) async fn of(server: &Server, stream: &StreamKey) -> Result<Self, Problem> {
        Ok(Self::read(&server.broker.notes(stream, &Notes::new(), &[]).await?))
    }

    fn read(notes: &Notes) -> Self {
        let mut recorded = Self::default();
        for (name, note) in notes {
            // A note of another form is passed over, as programs do.
            let Ok(note) = serde_json::from_str::<Value>(note) else { continue };
            if let Some(group) = name.strip_prefix("reads:") {
                for (event, versions) in note["events"].as_object().into_iter().flatten() {
                    let version = |index: usize| versions[index].as_u64();
                    if let (Some(oldest), Some(newest)) = (version(0), version(1)) {
                        recorded.reads.push(Reads { group: group.to_owned(), event: event.clone(), oldest, newest });
                    }
                }
            } else if name.starts_with("knows:") || name.starts_with("publishes:") {
                recorded.known.extend(known(&note));
            }
        }
        recorded.known.sort_by(|a, b| (&a.event, a.version, &a.at).cmp(&(&b.event, b.version, &b.at)));
        recorded
    }

    /// The notes about an event, of its newest version unless one is named (`Trade@1`).
    ///
    /// # Errors
    /// When nobody has recorded it.
    pub(crate) fn about(&self, named: &str, stream: &str) -> Result<Vec<&Known>, Problem> {
        let (name, version) = match named.split_once('@') {
            None => (named, None),
            Some((name, version)) => {
                let number =
                    version.parse().map_err(|_| Problem::usage(format!("`{version}` is no version of an event")))?;
                (name, Some(number))
            }
        };
        let version =
            version.or_else(|| self.known.iter().filter(|known| known.event == name).map(|known| known.version).max());
        let found: Vec<_> =
            self.known.iter().filter(|known| known.event == name && Some(known.version) == version).collect();
        if found.is_empty() {
            let mut names: Vec<_> = self.known.iter().map(Known::name).collect();
            names.extend(self.known.iter().map(|known| known.event.clone()).filter(|_| !named.contains('@')));
            names.dedup();
            let near = perhaps(named, names.iter().map(String::as_str));
            return Err(format!("no program has recorded an event `{named}` on stream `{stream}`{near}").into());
        }
        Ok(found)
    }
}

fn known(note: &Value) -> Option<Known> {
    let text = |name: &str| note[name].as_str().unwrap_or_default().to_owned();
    Some(Known {
        event: note["event"].as_str()?.to_owned(),
        version: note["version"].as_u64()?,
        fingerprint: text("fingerprint"),
        program: text("program"),
        host: text("host"),
        at: text("at"),
        type_name: text("type"),
        place: text("place"),
        publishes: note["publishes"].as_bool().unwrap_or_default(),
        lock: note["lock"].clone(),
    })
}
