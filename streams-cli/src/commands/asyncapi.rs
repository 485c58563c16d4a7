//! `streams asyncapi`: the documentation of the events that programs have recorded on a server.

use streams_runtime::AsyncApi;
use streams_runtime::broker::{Inspect, Members, Notes};

use crate::connect::Server;
use crate::output::{Format, Output};
use crate::problem::Problem;

/// Write the AsyncAPI 3.1 document of all streams, from what programs have recorded: YAML, or JSON with `-o json`
#[derive(Debug, clap::Args)]
pub(crate) struct Asyncapi {
    /// Only this stream
    stream: Option<String>,
    /// The title of the document
    #[arg(long, default_value = "streams")]
    title: String,
    /// The version of the document
    #[arg(long = "document-version", value_name = "VERSION", default_value = "1")]
    version: String,
}

impl Asyncapi {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let streams = match &self.stream {
            Some(stream) => vec![server.stream(stream).await?.0],
            None => server.broker.streams(server.namespace.as_deref()).await?,
        };
        let (mut recorded, none) = (Vec::with_capacity(streams.len()), Notes::new());
        for stream in streams {
            let notes = server.broker.notes(&stream, &none, &[]).await?;
            recorded.push((stream, notes));
        }
        let document = AsyncApi::recorded(self.title, self.version, recorded);
        let text = match (out.asked_for_json(), out.format) {
            (false, _) => document.to_string(),
            (true, Format::Ndjson) => serde_json::to_string(&document).map_err(std::io::Error::from)? + "\n",
            (true, _) => serde_json::to_string_pretty(&document).map_err(std::io::Error::from)? + "\n",
        };
        Ok(out.raw(&text)?)
    }
}
