//! `streams check`: one line and an exit code, for cron, Nagios and CI.

use std::time::Duration;

use serde_json::json;
use streams_runtime::{Condition, GroupView};

use crate::connect::Server;
use crate::nearest::perhaps;
use crate::output::Output;
use crate::problem::{FAILED, Problem, USAGE};
use crate::when::{self, short};

/// The most findings in the line.
const MOST: usize = 5;

/// Check groups: one line, and 0 for fine, 1 for a warning, 2 for something critical
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Critical is whatever passes a limit, and with --halted a group that is halted. A warning is a group that no process runs
and, with --halted, one that is paused. Without a limit --halted is meant. A server that cannot be asked is critical.")]
pub(crate) struct Check {
    /// Only this stream
    #[arg(long)]
    stream: Option<String>,
    /// Only this group
    #[arg(long)]
    group: Option<String>,
    /// The most entries that are not settled
    #[arg(long, value_name = "N")]
    max_lag: Option<u64>,
    /// The greatest age of an entry that is not settled, such as `5m`
    #[arg(long, value_name = "TIME", value_parser = when::duration)]
    max_age: Option<Duration>,
    /// The most dead letters
    #[arg(long, value_name = "N")]
    max_dead: Option<u64>,
    /// No group is halted
    #[arg(long)]
    halted: bool,
}

impl Check {
    /// Runs it; answers the exit code.
    pub(crate) async fn run(mut self, server: &Server, out: &mut Output) -> Result<u8, Problem> {
        self.halted |= self.max_lag.is_none() && self.max_age.is_none() && self.max_dead.is_none();
        let groups = match self.groups(server).await {
            Ok(groups) => groups,
            Err(problem) => return Err(Problem { words: format!("CRITICAL: {problem}"), code: USAGE }),
        };
        let mut critical = Vec::new();
        let mut warnings = Vec::new();
        for group in &groups {
            let place = format!("{} on {}", group.name, group.stream);
            critical.extend(self.critical(group).map(|found| format!("{place} {found}")));
            warnings.extend(self.warning(group).map(|found| format!("{place} {found}")));
        }
        let (word, code, found) = match (critical.is_empty(), warnings.is_empty()) {
            (false, _) => ("CRITICAL", USAGE, &critical),
            (true, false) => ("WARNING", FAILED, &warnings),
            (true, true) => ("OK", 0, &critical),
        };
        let more = found.len().saturating_sub(MOST);
        let shown = found.iter().take(MOST).cloned().collect::<Vec<_>>().join("; ");
        let line = match (found.len(), more) {
            (0, _) => format!("OK: {} groups are within their limits", groups.len()),
            (_, 0) => format!("{word}: {shown}"),
            _ => format!("{word}: {shown}; and {more} more"),
        };
        let value = json!({ "status": word, "groups": groups.len(), "critical": critical, "warnings": warnings });
        // A line for machines that read lines, unless JSON is asked for.
        match out.format {
            _ if out.is_for_people() || !out.is_asked() => out.raw(&format!("{}\n", crate::text::plain(&line)))?,
            _ => out.say(&line, &value)?,
        }
        Ok(code)
    }

    async fn groups(&self, server: &Server) -> Result<Vec<GroupView>, Problem> {
        let inspector = server.inspector()?;
        let (views, refused) = match &self.stream {
            Some(name) => {
                let view = inspector.stream(name).await?;
                (view.groups, view.refused)
            }
            None => {
                let streams = inspector.overview().await?.streams;
                let refused = streams.iter().find_map(|stream| stream.refused.clone());
                (streams.into_iter().flat_map(|stream| stream.groups).collect(), refused)
            }
        };
        // A part that cannot be read must not look fine.
        if let Some(refused) = refused {
            return Err(refused.into());
        }
        let Some(name) = &self.group else { return Ok(views) };
        let names: Vec<_> = views.iter().map(|view| view.name.clone()).collect();
        let those: Vec<_> = views.into_iter().filter(|view| view.name == *name).collect();
        if those.is_empty() {
            let near = perhaps(name, names.iter().map(String::as_str));
            return Err(format!("there is no group `{name}`{near}").into());
        }
        Ok(those)
    }

    fn critical(&self, group: &GroupView) -> Option<String> {
        if self.halted && group.condition() == Condition::Halted {
            let kind =
                group.places.iter().find_map(|place| place.halted.as_ref()).map_or("", |halt| halt.kind.as_str());
            return Some(format!("is halted ({kind})"));
        }
        let (age, dead) = (group.age(), group.dead());
        match (self.max_lag, group.lag()) {
            (Some(most), Some(lag)) if lag > most => return Some(format!("has a lag of {lag} ({most} allowed)")),
            (Some(_), None) => return Some("has a lag that nobody knows".to_owned()),
            _ => {}
        }
        if let Some(most) = self.max_age.filter(|most| age > *most) {
            return Some(format!("has an event that is {} old ({} allowed)", short(age), short(most)));
        }
        self.max_dead.filter(|most| dead > *most).map(|most| format!("has {dead} dead letters ({most} allowed)"))
    }

    fn warning(&self, group: &GroupView) -> Option<String> {
        match group.condition() {
            Condition::Unattended => Some("is run by no process".to_owned()),
            Condition::Paused if self.halted => Some("is paused".to_owned()),
            _ => None,
        }
    }
}
