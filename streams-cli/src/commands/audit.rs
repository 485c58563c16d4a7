//! `streams audit`: who changed what with a tool or a console.

use serde_json::json;
use streams_runtime::EntryId;
use streams_runtime::broker::Log;
use streams_runtime::keys::PartitionKey;

use crate::connect::Server;
use crate::output::{Output, Row};
use crate::payload::readable;
use crate::problem::Problem;
use crate::when;

/// Show who changed what, the latest last; lines are kept for 90 days
#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    /// So many of the last lines
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20)]
    number: usize,
}

impl Audit {
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<(), Problem> {
        let stream = PartitionKey::audit(server.namespace.as_deref());
        let mut lines = server.broker.read_back(&stream, EntryId::MAX, self.number).await?;
        lines.reverse();
        let rows = lines.iter().map(|line| {
            let field = |name| line.field(name).map(readable).unwrap_or_default();
            let [by, act, stream, group, detail] = ["by", "act", "stream", "group", "detail"].map(field);
            let time = when::time(line.id.ms);
            Row {
                json: json!({ "time": time, "by": by, "act": act, "stream": stream, "group": group, "detail": detail }),
                cells: vec![time.into(), by.into(), act.into(), stream.into(), group.into(), detail.into()],
            }
        });
        let head =
            [("time", false), ("by", false), ("act", false), ("stream", false), ("group", false), ("detail", false)];
        Ok(out.rows(&head, rows.collect(), "nobody has changed anything by a tool within 90 days")?)
    }
}
