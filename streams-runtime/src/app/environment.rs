//! The environment, which overrides every other setting; read only where the app asks for it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use streams_core::{ConsumerOptions, OnDataLoss};

use super::config::options_problems;
use crate::names::nearest;

/// The settings from the environment; `run` reads them once.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Environment {
    /// Whether it was read at all.
    pub(super) read: bool,
    pub(super) redis_url: Option<Url>,
    /// Files for TLS to it.
    pub(super) tls: TlsFiles,
    /// Whether `STREAMS_BROKER` asks for the embedded broker, or for Redis.
    pub(super) embedded: Option<bool>,
    pub(super) groups: Option<Vec<String>>,
    pub(super) namespace: Option<String>,
    pub(super) lease: Option<Duration>,
    pub(super) shutdown_deadline: Option<Duration>,
    pub(super) expire_after: Option<Duration>,
    pub(super) http: Option<SocketAddr>,
    /// Allows acts in the console.
    pub(super) console_token: Option<Secret>,
    /// The fields that the console hides.
    pub(super) console_redact: Vec<String>,
    pub(super) consumers: ConsumerOptions,
    pub(super) problems: Vec<String>,
    /// Variables that begin with `STREAMS_` and that nobody reads.
    unknown: Vec<String>,
}

/// A token that nobody prints.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not shown")
    }
}

/// A URL that may hold a password, so nobody prints it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url(pub(super) String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not shown")
    }
}

impl Url {
    fn is_tls(&self) -> bool {
        self.0.starts_with("rediss://") || self.0.starts_with("valkeys://")
    }
}

/// The files that `STREAMS_TLS_*` name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl TlsFiles {
    /// The problems that show before a file is read.
    fn problems(&self, url: Option<&Url>) -> Vec<String> {
        let named = [("STREAMS_TLS_CA", &self.ca), ("STREAMS_TLS_CERT", &self.cert), ("STREAMS_TLS_KEY", &self.key)];
        let Some((first, _)) = named.iter().find(|(_, path)| path.is_some()) else { return Vec::new() };
        if !cfg!(feature = "tls") {
            return vec![format!(
                "{first} is set, but TLS is not built in; add the feature `tls` of streams-runtime in Cargo.toml"
            )];
        }
        let mut problems = Vec::new();
        if self.cert.is_some() != self.key.is_some() {
            problems.push(
                "STREAMS_TLS_CERT and STREAMS_TLS_KEY belong together, and only one of them is set; set both, or none"
                    .to_owned(),
            );
        }
        // A user who names an authority believes that the connection is private.
        if url.is_some_and(|url| !url.is_tls()) {
            problems.push(format!("{first} is set, but REDIS_URL is a plain one; write rediss://, or unset {first}"));
        }
        problems
    }
}

/// The shortest token that cannot be guessed.
const SHORTEST_TOKEN: usize = 16;

/// The variables, for the message about one that is not known.
const VARIABLES: [&str; 19] = [
    "STREAMS_BROKER",
    "STREAMS_GROUPS",
    "STREAMS_NAMESPACE",
    "STREAMS_LEASE",
    "STREAMS_SHUTDOWN_DEADLINE",
    "STREAMS_EXPIRE_AFTER",
    "STREAMS_HTTP",
    "STREAMS_CONSOLE_TOKEN",
    "STREAMS_CONSOLE_REDACT",
    "STREAMS_MAX_ATTEMPTS",
    "STREAMS_MAX_CRASHES",
    "STREAMS_TIMEOUT",
    "STREAMS_CHECKPOINT_EVENTS",
    "STREAMS_CHECKPOINT_INTERVAL",
    "STREAMS_ON_DATA_LOSS",
    "STREAMS_CONCURRENCY",
    "STREAMS_TLS_CA",
    "STREAMS_TLS_CERT",
    "STREAMS_TLS_KEY",
];

/// Those that are set, of all that [`Environment::read`] would take: for an app that does not read them.
pub(super) fn set_variables() -> Vec<&'static str> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::iter::once("REDIS_URL").chain(VARIABLES).filter(is_set).collect()
}

/// Whether Kubernetes may give it to each container, for a Service that is called `streams` or begins with `streams-`. Such
/// are `STREAMS_SERVICE_HOST`, `STREAMS_SERVICE_PORT_HTTP`, `STREAMS_PORT` and `STREAMS_PORT_6379_TCP_ADDR`. Docker's links
/// have the same form.
fn is_of_a_service(name: &str) -> bool {
    name.starts_with("STREAMS_")
        && (name.ends_with("_SERVICE_HOST") || name.ends_with("_PORT") || name.contains("_PORT_"))
}

impl Environment {
    /// Reads the variables. A value that cannot be understood becomes a problem that refuses the start. A variable that
    /// nobody knows becomes a warning, because others give a program variables, too.
    pub(super) fn read(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut read = Self { read: true, ..Self::default() };
        for (name, value) in variables {
            // An empty variable is how shells and orchestrators say "not set".
            if value.is_empty() || is_of_a_service(&name) {
                continue;
            }
            // Messages repeat values, and a URL in the wrong variable may hold a password.
            if VARIABLES.contains(&name.as_str()) && value.contains("://") {
                read.problems.push(format!("{name} holds a URL, which is not shown here; only REDIS_URL takes one"));
                continue;
            }
            match name.as_str() {
                "REDIS_URL" => read.redis_url = Some(Url(value)),
                "STREAMS_TLS_CA" => read.tls.ca = Some(value.into()),
                "STREAMS_TLS_CERT" => read.tls.cert = Some(value.into()),
                "STREAMS_TLS_KEY" => read.tls.key = Some(value.into()),
                "STREAMS_BROKER" => match value.as_str() {
                    "embedded" => read.embedded = Some(true),
                    "redis" => read.embedded = Some(false),
                    _ => read.problems.push(format!("STREAMS_BROKER is `{value}`; expected `redis` or `embedded`")),
                },
                "STREAMS_GROUPS" => {
                    read.groups = Some(
                        value
                            .split(',')
                            .map(|group| group.trim().to_owned())
                            .filter(|group| !group.is_empty())
                            .collect(),
                    );
                }
                "STREAMS_NAMESPACE" => read.namespace = Some(value),
                "STREAMS_LEASE" => read.lease = read.duration(&name, &value),
                "STREAMS_SHUTDOWN_DEADLINE" => read.shutdown_deadline = read.duration(&name, &value),
                "STREAMS_EXPIRE_AFTER" => read.expire_after = read.duration(&name, &value),
                "STREAMS_HTTP" => match value.parse() {
                    Ok(_) if !cfg!(feature = "http") => read.problems.push(
                        "STREAMS_HTTP is set, but the program is built without an endpoint; add the feature `http` of streams-runtime".to_owned(),
                    ),
                    Ok(address) => read.http = Some(address),
                    Err(_) => read.problems.push(format!(
                        "STREAMS_HTTP is `{value}`; expected an address and a port such as `127.0.0.1:9100`"
                    )),
                },
                "STREAMS_CONSOLE_TOKEN" => match value.chars().count() {
                    _ if !cfg!(feature = "console") => read.problems.push(
                        "STREAMS_CONSOLE_TOKEN is set, but the program is built without a console; add the feature `console` of streams-runtime".to_owned(),
                    ),
                    length if length < SHORTEST_TOKEN => read.problems.push(format!(
                        "STREAMS_CONSOLE_TOKEN has {length} characters; it needs {SHORTEST_TOKEN} at least, as `openssl rand -hex 32` prints"
                    )),
                    _ => read.console_token = Some(Secret(value)),
                },
                "STREAMS_CONSOLE_REDACT" if !cfg!(feature = "console") => read.problems.push(
                    "STREAMS_CONSOLE_REDACT is set, but the program is built without a console; add the feature `console` of streams-runtime".to_owned(),
                ),
                "STREAMS_CONSOLE_REDACT" => {
                    read.console_redact = value.split(',').map(|name| name.trim().to_owned()).collect();
                }
                "STREAMS_MAX_ATTEMPTS" => read.consumers.max_attempts = read.number(&name, &value),
                "STREAMS_MAX_CRASHES" => read.consumers.max_crashes = read.number(&name, &value),
                "STREAMS_TIMEOUT" => read.consumers.timeout = read.duration(&name, &value),
                "STREAMS_CHECKPOINT_EVENTS" => read.consumers.checkpoint_events = read.number(&name, &value),
                "STREAMS_CHECKPOINT_INTERVAL" => read.consumers.checkpoint_interval = read.duration(&name, &value),
                "STREAMS_ON_DATA_LOSS" => match value.as_str() {
                    "halt" => read.consumers.on_data_loss = Some(OnDataLoss::Halt),
                    "continue" => read.consumers.on_data_loss = Some(OnDataLoss::Continue),
                    _ => {
                        read.problems.push(format!("STREAMS_ON_DATA_LOSS is `{value}`; expected `halt` or `continue`"));
                    }
                },
                "STREAMS_CONCURRENCY" => read.consumers.concurrency = read.number(&name, &value),
                // The macros and the tests of locks read theirs: whoever runs tests runs programs, too.
                "STREAMS_MACROS_DEBUG" | "STREAMS_LOCK" | "STREAMS_LOCK_BASE" | "STREAMS_BLESS" => {}
                _ if name.starts_with("STREAMS_") => read.unknown.push(name),
                _ => {}
            }
        }
        if read.embedded == Some(false) && read.redis_url.is_none() {
            read.problems.push(
                "STREAMS_BROKER is `redis`, but nothing says where: set REDIS_URL to `redis://host:port/`".to_owned(),
            );
        }
        if read.embedded == Some(true) && read.redis_url.is_some() {
            read.problems.push("STREAMS_BROKER is `embedded`, but REDIS_URL is set; unset one of them".to_owned());
        }
        read.problems.extend(read.tls.problems(read.redis_url.as_ref()));
        read.problems
            .extend(options_problems(&read.consumers).into_iter().map(|problem| format!("environment: {problem}")));
        read
    }

    /// Warns of every variable that nobody reads. Values may hold passwords, so nobody prints them.
    pub(super) fn warn_of_unknown(&self) {
        let quiet = !tracing::dispatcher::has_been_set();
        for variable in &self.unknown {
            let perhaps = nearest(variable, VARIABLES);
            tracing::warn!(variable, perhaps, "unknown environment variable ignored");
            // A newcomer must see it.
            if quiet {
                let perhaps = perhaps.map(|near| format!(", perhaps {near} is meant")).unwrap_or_default();
                eprintln!("streams: unknown environment variable {variable} ignored{perhaps}");
            }
        }
    }

    fn duration(&mut self, name: &str, value: &str) -> Option<Duration> {
        let duration = humantime::parse_duration(value).ok();
        if duration.is_none() {
            self.problems.push(format!("{name} is `{value}`; expected a duration such as `500ms` or `10s`"));
        }
        duration
    }

    fn number(&mut self, name: &str, value: &str) -> Option<u32> {
        let number = value.parse().ok();
        if number.is_none() {
            self.problems.push(format!("{name} is `{value}`; expected a whole number"));
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Environment {
        Environment::read(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_environment_is_read_and_an_empty_variable_is_none() {
        let env = read(&[
            ("STREAMS_LEASE", "500ms"),
            ("STREAMS_EXPIRE_AFTER", "2h"),
            ("STREAMS_GROUPS", "risk, audit"),
            ("REDIS_URL", ""),
            ("HOME", "/"),
        ]);
        assert_eq!(env.lease, Some(Duration::from_millis(500)));
        assert_eq!(env.expire_after, Some(Duration::from_secs(2 * 3600)));
        assert_eq!(env.groups, Some(vec!["risk".to_owned(), "audit".to_owned()]));
        assert_eq!((env.redis_url, env.problems), (None, vec![]));
    }

    #[test]
    fn every_bad_variable_is_named_with_the_value_seen() {
        let env = read(&[
            ("STREAMS_LEASE", "soon"),
            ("STREAMS_MAX_ATTEMPTS", "0"),
            ("STREAMS_MAX_CRASHES", "1001"),
            ("STREAMS_BROKER", "kafka"),
            ("STREAMS_ON_DATA_LOSS", "ignore"),
        ]);
        assert_eq!(env.problems.len(), 5, "{:?}", env.problems);
        for word in [
            "STREAMS_LEASE is `soon`",
            "`max_attempts` is 0",
            "`max_crashes` is 1001; it must be from 1 to 1000",
            "STREAMS_BROKER is `kafka`",
            "STREAMS_ON_DATA_LOSS is `ignore`",
        ] {
            assert!(env.problems.iter().any(|problem| problem.contains(word)), "{word}");
        }
    }

    #[test]
    fn an_endpoint_needs_an_address_and_a_build_that_has_one() {
        let good = read(&[("STREAMS_HTTP", "127.0.0.1:9100")]);
        if cfg!(feature = "http") {
            assert_eq!((good.http.map(|address| address.port()), good.problems), (Some(9100), vec![]));
        } else {
            assert!(good.problems[0].contains("feature `http`"), "{:?}", good.problems);
        }
        let bad = read(&[("STREAMS_HTTP", "9100")]);
        assert!(bad.problems[0].contains("STREAMS_HTTP is `9100`"), "{:?}", bad.problems);
    }

    #[test]
    fn a_token_of_the_console_is_long_and_never_shown() {
        let token = "2a5f9c0e77b1d3468890";
        let env = read(&[("STREAMS_CONSOLE_TOKEN", token)]);
        assert_eq!(env.console_token.is_some(), cfg!(feature = "console"));
        assert!(!format!("{env:?}").contains(token));
        if cfg!(feature = "console") {
            let short = read(&[("STREAMS_CONSOLE_TOKEN", "hunter2")]);
            assert!(short.problems[0].contains("has 7 characters; it needs 16"), "{:?}", short.problems);
            assert!(!format!("{short:?}").contains("hunter2") && short.console_token.is_none());
        } else {
            assert!(env.problems[0].contains("feature `console`"), "{:?}", env.problems);
        }
    }

    #[test]
    fn fields_that_the_console_hides_have_commas_between() {
        let env = read(&[("STREAMS_CONSOLE_REDACT", "card, iban")]);
        if cfg!(feature = "console") {
            assert_eq!(env.console_redact, ["card", "iban"]);
        } else {
            assert!(env.problems[0].contains("feature `console`"), "{:?}", env.problems);
        }
    }

    #[test]
    fn files_for_tls_need_each_other_and_a_url_for_tls() {
        const FILES: [(&str, &str); 3] =
            [("STREAMS_TLS_CA", "/ca.pem"), ("STREAMS_TLS_CERT", "/me.pem"), ("STREAMS_TLS_KEY", "/me.key")];
        let with = |files: &[(&str, &str)], url| read(&[files, &[("REDIS_URL", url)]].concat()).problems;
        let says = |problems: Vec<String>, words: &[&str]| {
            assert_eq!(problems.len(), words.len(), "{problems:?}");
            for (problem, word) in problems.iter().zip(words) {
                assert!(problem.contains(word), "no `{word}` in: {problem}");
            }
        };
        if cfg!(feature = "tls") {
            says(with(&FILES, "rediss://host"), &[]);
            says(with(&FILES[..1], "valkeys://host"), &[]);
            says(with(&FILES[1..2], "rediss://host"), &["STREAMS_TLS_KEY"]);
            says(with(&FILES[2..], "redis://host"), &["STREAMS_TLS_CERT", "write rediss://, or unset STREAMS_TLS_KEY"]);
        } else {
            says(with(&FILES, "rediss://host"), &["the feature `tls`"]);
        }
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_is_no_mistake() {
        for (name, value) in [
            ("STREAMS_SERVICE_HOST", "10.0.0.1"),
            ("STREAMS_SERVICE_PORT", "6379"),
            ("STREAMS_SERVICE_PORT_REDIS_TLS", "6380"),
            ("STREAMS_PORT", "tcp://10.0.0.1:6379"),
            ("STREAMS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
            ("STREAMS_PORT_6379_TCP_PROTO", "tcp"),
            ("STREAMS_PORT_6379_TCP_PORT", "6379"),
            ("STREAMS_PORT_6379_TCP_ADDR", "10.0.0.1"),
            ("STREAMS_PORT_53_UDP", "udp://[fd00::1]:53"),
            ("STREAMS_HTTP_SERVICE_HOST", "10.0.0.1"),
            ("STREAMS_HTTP_PORT", "tcp://10.0.0.1:80"),
            ("STREAMS_HTTP_PORT_80_SCTP_ADDR", "10.0.0.1"),
        ] {
            let env = read(&[(name, value)]);
            assert_eq!(env, Environment { read: true, ..Environment::default() }, "{name}");
        }
        let ours = VARIABLES.into_iter().find(|name| is_of_a_service(name));
        assert_eq!(ours, None);
    }

    #[test]
    fn a_variable_that_nobody_knows_refuses_nothing_and_is_told_with_the_one_that_is_meant() {
        for (name, value, near) in [
            ("STREAMS_HOST", "10.0.0.1", None),
            ("STREAMS_MADE_UP", "redis://:hunter2@host", None),
            ("STREAMS_LAESE", "1s", Some("STREAMS_LEASE")),
            ("STREAMS_MAX_ATEMPTS", "1", Some("STREAMS_MAX_ATTEMPTS")),
        ] {
            let env = read(&[(name, value), ("STREAMS_GROUPS", "risk")]);
            assert_eq!((env.problems, env.unknown), (vec![], vec![name.to_owned()]));
            assert!(env.groups.is_some());
            assert_eq!(nearest(name, VARIABLES), near, "{name}");
        }
    }

    #[test]
    fn what_is_meant_for_the_build_is_no_mistake() {
        for name in ["STREAMS_MACROS_DEBUG", "STREAMS_LOCK", "STREAMS_LOCK_BASE", "STREAMS_BLESS"] {
            assert_eq!(read(&[(name, "1")]), Environment { read: true, ..Environment::default() }, "{name}");
        }
    }

    #[test]
    fn a_url_is_never_repeated() {
        let names = VARIABLES.into_iter().chain(["REDIS_URL", "STREAMS_MADE_UP"]);
        for name in names {
            let env = read(&[(name, "redis://:hunter2@host")]);
            let is_a_problem = VARIABLES.contains(&name);
            assert_eq!(env.problems.is_empty(), !is_a_problem, "{name}: {env:?}");
            assert!(!format!("{env:?}").contains("hunter2"), "{name}: {env:?}");
        }
    }
}
