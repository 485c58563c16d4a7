//! The broker on a Redis or Valkey server; only this module speaks Redis. `connection` connects over a `line`, `call`
//! reads errors, and `server` sends. The other files implement the pages of the contract.

mod acl;
mod append;
mod call;
mod connection;
mod line;
mod parse;
mod scripts;
mod server;
mod facts;
mod slices;
mod tail;
#[cfg(feature = "tls")]
mod tls;

mod log;
mod groups;
mod dead_letters;
mod members;
mod queue;
mod inspect;

use redis::cmd;
use streams_core::broker::{Broker, BrokerError, BrokerErrorKind, Reply};
use streams_core::codec::DEFAULT_MAX_PAYLOAD;

pub use self::acl::Acl;
use self::call::{Call, Effect, unexpected};
use self::connection::{UNTOLD, version};
pub use self::server::Redis;
#[cfg(feature = "tls")]
pub use self::tls::Tls;

/// The most bytes of a message besides its payload, for warnings.
const HEADERS: usize = 64 * 1024;

impl Broker for Redis {
    fn describe(&self) -> String {
        self.target.shown().to_owned()
    }

    fn connect(&self) -> Reply<'_, ()> {
        Box::pin(async move {
            let call = Call { command: "SCRIPT LOAD", key: "", effect: Effect::Idempotent };
            let load = |mut connection| async move {
                for script in scripts::all() {
                    script.load_async(&mut connection).await?;
                }
                Ok(())
            };
            // Redis before 7.0 reports the flags in a script's first line as a syntax error.
            match self.commands.run(call, load).await {
                Err(error) if error.kind() == BrokerErrorKind::Protocol => Err(self.too_old(error).await),
                Err(error) => Err(error),
                Ok(()) => {
                    self.warn_of_eviction().await;
                    self.warn_of_limits().await;
                    Ok(())
                }
            }
        })
    }

    fn now(&self) -> Reply<'_, u64> {
        Box::pin(async move {
            let call = Call { command: "TIME", key: "", effect: Effect::Read };
            let reply = self.command(call, &cmd("TIME")).await?;
            let parts = || {
                let mut parts = parse::array(reply)?.into_iter();
                let mut part = || parse::number(parts.next().unwrap_or_default());
                Ok(part()? * 1000 + part()? / 1000)
            };
            parts().map_err(unexpected(call))
        })
    }
}

impl Redis {
    /// Warns of a server that evicts keys when it is full: it evicts a whole stream, read or not. If the user may not
    /// ask, its operator has to check.
    async fn warn_of_eviction(&self) {
        let call = Call { command: "INFO", key: "", effect: Effect::Read };
        let mut info = cmd("INFO");
        info.arg("memory");
        let Ok(Ok(info)) = self.command(call, &info).await.map(parse::text) else { return };
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).unwrap_or_default();
        if policy.starts_with("allkeys-") {
            tracing::warn!(
                server = self.target.shown(),
                policy,
                "a full server evicts whole streams; set its maxmemory-policy to noeviction"
            );
        }
    }

    /// Warns of a server that takes or answers less than the largest event of this program has. If the user may not
    /// ask, its operator has to check.
    async fn warn_of_limits(&self) {
        // Any other user would be refused, and the server would log the refusal.
        if !self.target.is_default_user() {
            return;
        }
        let call = Call { command: "CONFIG GET", key: "", effect: Effect::Read };
        let payload = |info: &&'static streams_core::EventInfo| info.max_payload.unwrap_or(DEFAULT_MAX_PAYLOAD);
        let largest = crate::declared::linked_events().iter().map(payload).max();
        let needed = (largest.unwrap_or(DEFAULT_MAX_PAYLOAD) + HEADERS) as u64;
        for limit in ["proto-max-bulk-len", "client-query-buffer-limit", "client-output-buffer-limit"] {
            let mut get = cmd("CONFIG");
            get.arg("GET").arg(limit);
            let Ok(Ok(mut set)) = self.command(call, &get).await.map(parse::named) else { return };
            let Some(Ok(set)) = set.remove(limit).map(parse::text) else { continue };
            // This program's clients are of the normal class; 0 means no limit.
            let words: Vec<_> = set.split(' ').collect();
            let hard = words.iter().position(|word| *word == "normal").map_or(0, |class| class + 1);
            let bytes = words.get(hard).and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes > 0);
            if bytes.is_some_and(|bytes: u64| bytes < needed) {
                tracing::warn!(
                    server = self.target.shown(),
                    limit,
                    set,
                    needed,
                    "the server ends connections over the largest events of this program: raise this limit of its configuration, or lower their max_payload"
                );
            }
        }
    }

    /// The error of a server that refused the scripts, with its version.
    async fn too_old(&self, error: BrokerError) -> BrokerError {
        let call = Call { command: "INFO", key: "", effect: Effect::Read };
        let run = |mut connection| async move { Ok(version(&mut connection).await) };
        let version = self.commands.run(call, run).await.unwrap_or_else(|_| UNTOLD.to_owned());
        let message = format!(
            "the server at {} is {version}, which refused our scripts; Redis 7.0, Valkey 7.2 or later is needed",
            self.target.shown(),
        );
        BrokerError::new(BrokerErrorKind::Unsupported, message).caused_by(error)
    }
}
