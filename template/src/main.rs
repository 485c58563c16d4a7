//! Runs every group of {{project-name}} until it is told to stop.

use streams_runtime::{Error, Stopped};
use tracing_subscriber::EnvFilter;

use {{crate_name}}::{Settings, app};

#[tokio::main]
async fn main() -> Result<Stopped, Error> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    app(Settings {
        shipping_cents: 490,
    })
    .run()
    .await
}
