//! The user of a server and the rights of that user, for a tool that explains them; no part of the contract.

use redis::{Cmd, Value, cmd};
use streams_core::broker::BrokerError;

use super::call::{Call, Effect, unexpected};
use super::parse;
use super::server::Redis;

impl Redis {
    /// The name of the server's user. Not public API.
    ///
    /// # Errors
    /// When the server cannot be asked, or the user may not ask it.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    #[doc(hidden)]
    pub async fn user(&self) -> Result<String, BrokerError> {
        self.words("ACL WHOAMI", cmd("ACL").arg("WHOAMI")).await
    }

    /// Whether the user may run this command, which is not run. Not public API.
    ///
    /// # Errors
    /// As [`user`](Self::user).
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    #[doc(hidden)]
    pub async fn may(&self, user: &str, command: &[&str]) -> Result<bool, BrokerError> {
        let call = Call { command: "ACL DRYRUN", key: "", effect: Effect::Read };
        let answer = self.command(call, cmd("ACL").arg("DRYRUN").arg(user).arg(command)).await?;
        // Otherwise a text says which right is missing.
        Ok(answer == Value::Okay)
    }

    /// Deletes keys, such as those of a stream that a measurement has made for itself. Not public API.
    ///
    /// # Errors
    /// As [`user`](Self::user).
    ///
    /// # Cancel safety
    /// They may be deleted.
    #[doc(hidden)]
    pub async fn delete(&self, keys: &[String]) -> Result<(), BrokerError> {
        let call = Call { command: "UNLINK", key: "", effect: Effect::Idempotent };
        self.command(call, cmd("UNLINK").arg(keys)).await.map(drop)
    }

    async fn words(&self, name: &'static str, command: &Cmd) -> Result<String, BrokerError> {
        let call = Call { command: name, key: "", effect: Effect::Read };
        parse::text(self.command(call, command).await?).map_err(unexpected(call))
    }
}
