//! `streams console`: the web console of a server, on an address of this machine unless told.

use std::net::SocketAddr;
use std::sync::Arc;

use streams_runtime::broker::Broker;
use streams_runtime::console::Console;
use tokio::net::TcpListener;

use crate::connect::Server;
use crate::payload::Redact;
use crate::problem::Problem;

/// The fewest characters of a token: fewer can be guessed.
const SHORTEST: usize = 16;

/// Serve the web console: streams, groups, entries and dead letters in a browser; read-only without a token
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The token that acts need, 16 characters at least; the environment keeps it out of the list of processes
    #[arg(long, env = "STREAMS_CONSOLE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Refuse every act, also with a token
    #[arg(long)]
    read_only: bool,
    /// A text for a band across every page, such as `production`
    #[arg(long, value_name = "LABEL")]
    production: Option<String>,
}

impl Serve {
    pub(crate) async fn run(self, server: &Server, redact: Redact) -> Result<(), Problem> {
        let console = Console::on(Arc::clone(&server.broker) as Arc<dyn Broker>, server.namespace.as_deref());
        let mut console = console.map_err(|error| Problem::usage(error.to_string()))?.redact(redact);
        if let Some(token) = self.token.filter(|token| !token.is_empty()) {
            if token.len() < SHORTEST {
                let words = format!(
                    "the token has {} characters; at least {SHORTEST} are needed, such as `openssl rand -hex 32` prints",
                    token.len()
                );
                return Err(Problem::usage(words));
            }
            console = console.token(token);
        }
        if self.read_only {
            console = console.read_only();
        }
        if let Some(label) = self.production {
            console = console.production(label);
        }
        // A server that cannot be reached is told here, and not on a page.
        server.broker_now().await?;
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.map_err(|error| {
            format!("cannot listen on {}: {error}; choose another address with --listen", self.listen)
        })?;
        println!("http://{}/", listener.local_addr()?);
        Ok(console.serve(listener).await?)
    }
}
