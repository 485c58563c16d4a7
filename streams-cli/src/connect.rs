//! The way to the server: a URL or a named profile, a namespace, and the files for TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use streams_runtime::broker::{Broker, Inspect, Log, Redis, Tls};
use streams_runtime::keys::{self, PartitionKey, StreamKey};
use streams_runtime::{Admin, Inspector, Overview};

use crate::nearest::perhaps;
use crate::problem::Problem;

/// The heading of options that every command has.
pub(crate) const HEADING: &str = "Everywhere";

/// Where the server is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// The server, such as redis://localhost or rediss://user@host:6379/0; a password belongs into the environment
    #[arg(long, global = true, help_heading = HEADING, display_order = 100, env = "REDIS_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// The namespace of the streams, as the programs have it
    #[arg(long, global = true, help_heading = HEADING, display_order = 100, env = "STREAMS_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// A server by its name in ~/.config/streams/config.toml; without one and without a URL `default`
    #[arg(long, global = true, help_heading = HEADING, display_order = 100, env = "STREAMS_PROFILE")]
    pub(crate) profile: Option<String>,
}

/// A table of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    url: String,
    namespace: Option<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

impl Target {
    /// The server, which is not asked yet.
    ///
    /// # Errors
    /// When nothing says where it is, or what says so cannot be read.
    pub(crate) fn server(&self) -> Result<Server, Problem> {
        let profile = self.chosen()?;
        let namespace = self.namespace.clone().filter(|name| !name.is_empty()).or(profile.namespace);
        namespace
            .as_deref()
            .map_or(Ok(()), keys::check_namespace)
            .map_err(|error| Problem::usage(error.to_string()))?;
        let mut tls = Tls::new();
        if let Some(ca) = profile.tls_ca {
            tls = tls.ca_file(ca);
        }
        match (profile.tls_cert, profile.tls_key) {
            (Some(cert), Some(key)) => tls = tls.client_files(cert, key),
            (None, None) => {}
            _ => return Err(Problem::usage("certificate and key of the client belong together; set both, or none")),
        }
        let broker = Redis::open_with(&profile.url, &tls).map_err(|error| Problem::usage(format!("{error:?}")))?;
        Ok(Server { broker: Arc::new(broker), namespace })
    }

    /// The profile that is named, or one made of the URL and the environment.
    fn chosen(&self) -> Result<Profile, Problem> {
        let url = self.url.clone().filter(|url| !url.is_empty());
        if let (None, Some(url)) = (&self.profile, url) {
            let file = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
            let [tls_ca, tls_cert, tls_key] = ["STREAMS_TLS_CA", "STREAMS_TLS_CERT", "STREAMS_TLS_KEY"].map(file);
            return Ok(Profile { url, namespace: None, tls_ca, tls_cert, tls_key });
        }
        let path = configuration();
        let shown =
            path.as_ref().map_or_else(|| "~/.config/streams/config.toml".to_owned(), |path| path.display().to_string());
        let text = path.and_then(|path| std::fs::read_to_string(path).ok());
        let Some(text) = text else {
            return Err(Problem::usage(match &self.profile {
                Some(name) => format!("there is no profile `{name}`, because there is no file {shown}"),
                None => format!(
                    "nothing says where the server is: set REDIS_URL, say --url, or write a table [default] with a url into {shown}"
                ),
            }));
        };
        let mut profiles: BTreeMap<String, Profile> = toml::from_str(&text).map_err(|error| {
            // The error quotes the line, which may hold a password.
            Problem::usage(format!("{shown} cannot be read: {}", error.message()))
        })?;
        let name = self.profile.as_deref().unwrap_or("default");
        profiles.remove(name).ok_or_else(|| {
            let known = profiles.keys().map(String::as_str);
            Problem::usage(format!("there is no profile `{name}` in {shown}{}", perhaps(name, known)))
        })
    }
}

fn configuration() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(base.join("streams/config.toml"))
}

/// A server with the namespace of its streams.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) broker: Arc<Redis>,
    pub(crate) namespace: Option<String>,
}

impl Server {
    /// The operator's hand.
    pub(crate) fn admin(&self) -> Result<Admin, Problem> {
        Admin::on(Arc::clone(&self.broker) as Arc<dyn Broker>, self.namespace.as_deref())
            .map(|admin| admin.by(&whoami()))
            .map_err(|error| Problem::usage(error.to_string()))
    }

    /// The partitions that a name stands for: `trades` for all of a stream, `trades.3` for that one.
    ///
    /// # Errors
    /// When there is no such stream, or the server cannot be asked.
    pub(crate) async fn stream(&self, named: &str) -> Result<(StreamKey, Vec<PartitionKey>), Problem> {
        let numbered =
            named.rsplit_once('.').and_then(|(name, digits)| Some((name, Some(digits.parse::<u32>().ok()?))));
        let (name, index) = numbered.unwrap_or((named, None));
        keys::check_stream(name).map_err(|error| Problem::usage(error.to_string()))?;
        let key = |partitions| StreamKey::new(self.namespace.as_deref(), name, partitions);
        let recorded = self.broker.partitions(&key(1)).await?;
        if recorded.is_none() && self.broker.extent(&key(1).partition(0)).await?.is_none() {
            return Err(self.unknown(name).await);
        }
        let stream = key(recorded.unwrap_or(1));
        let partitions = match index {
            None => (0..stream.partitions()).map(|index| stream.partition(index)).collect(),
            Some(index) if index < stream.partitions() && stream.partitions() > 1 => vec![stream.partition(index)],
            Some(_) => {
                let words = format!(
                    "stream `{name}` has {}, and `{named}` is none",
                    crate::confirm::count(stream.partitions().into(), "partition")
                );
                return Err(words.into());
            }
        };
        Ok((stream, partitions))
    }

    /// Looks at streams and groups from outside.
    pub(crate) fn inspector(&self) -> Result<Inspector, Problem> {
        Inspector::on(Arc::clone(&self.broker) as Arc<dyn Broker>, self.namespace.as_deref())
            .map_err(|error| Problem::usage(error.to_string()))
    }

    /// Every stream with its groups.
    ///
    /// # Errors
    /// When nothing is there and the namespace is perhaps a mistake, or the server cannot be asked.
    pub(crate) async fn overview(&self) -> Result<Overview, Problem> {
        let overview = self.inspector()?.overview().await?;
        match overview.streams.is_empty() {
            true => self.misplaced().await.map_or(Ok(overview), |words| Err(words.into())),
            false => Ok(overview),
        }
    }

    /// That the namespace has no stream while the server has some, and which namespaces there are.
    pub(crate) async fn misplaced(&self) -> Option<String> {
        let namespace = self.namespace.as_deref()?;
        if !self.broker.streams(Some(namespace)).await.ok()?.is_empty() {
            return None;
        }
        let nothing = format!("there is no stream in namespace `{namespace}`");
        // Not every user may look at the others.
        let Ok(streams) = self.broker.streams(None).await else { return Some(nothing) };
        let namespaces: BTreeSet<_> =
            streams.iter().filter_map(|stream| Some(stream.base().split_once(':')?.0)).collect();
        match (streams.is_empty(), namespaces.is_empty()) {
            (true, _) => None,
            (false, true) => Some(format!("{nothing}; the streams here have none: leave it out")),
            (false, false) => Some(nothing + &perhaps(namespace, namespaces.into_iter())),
        }
    }

    /// The error about a name that is not there, with the nearest one.
    async fn unknown(&self, name: &str) -> Problem {
        // Halts and logs name keys, which begin with the namespace.
        let within = |space: &String| name.strip_prefix(space.as_str())?.strip_prefix(':');
        if let Some(within) = self.namespace.as_ref().and_then(within) {
            return format!("`{name}` is a key, and its namespace is set already: say `{within}`").into();
        }
        if let Some(words) = self.misplaced().await {
            return words.into();
        }
        match self.inspector() {
            Err(problem) => problem,
            Ok(inspector) => match inspector.stream(name).await {
                Err(error) => error.into(),
                Ok(_) => format!("there is no stream `{name}`").into(),
            },
        }
    }

    /// The server's clock, in milliseconds since 1970.
    pub(crate) async fn broker_now(&self) -> Result<u64, Problem> {
        Ok(self.broker.now().await?)
    }

    /// Leaves a line in the audit stream; a user who may not write there is told.
    pub(crate) async fn audit(&self, by: &str, act: &str, (stream, group): (&str, &str), detail: &str) {
        let Ok(admin) = self.admin() else { return };
        if let Err(error) = admin.audit(by, act, stream, group, detail).await {
            eprintln!("{}", crate::text::plain(&format!("the audit stream has no line of this: {error}")));
        }
    }
}

/// The user and the machine, for the record of who did something.
pub(crate) fn whoami() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let user = if user.is_empty() { "somebody" } else { &user };
    match host.trim() {
        "" => user.to_owned(),
        host => format!("{user}@{host}"),
    }
}
