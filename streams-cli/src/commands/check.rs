//! `streams check`: one line and an exit code, for cron, Nagios and CI.

use std::time::Duration;

use serde_json::json;
use streams_runtime::{Condition, GroupView};

use crate::confirm::count;
use crate::connect::Server;
use crate::nearest::perhaps;
use crate::output::Output;
use crate::problem::{FAILED, Problem, USAGE};
use crate::when::{self, short};

/// The most findings in the line.
const MOST: usize = 5;
/// The age of an event that is worth a warning where no limit is said, as in the alert `StreamsLag`.
const OLD: Duration = Duration::from_secs(60);

/// Check groups: one line, and 0 for fine, 1 for a warning, 2 for something critical
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a limit a halted group is critical. Worth a warning is a group that no process runs, that is paused, retries, has dead
letters, or has not settled an event that is older than 1m.
With limits these alone are judged, and whatever passes one is critical; so is a halted group with --halted. A group that no
process runs is a warning in any case. The line says what was not judged. A server that cannot be asked is critical.")]
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
    /// No group is halted, and a paused one is a warning
    #[arg(long)]
    halted: bool,
    /// Without limits everything is judged, at thresholds of our own.
    #[arg(skip)]
    everything: bool,
}

impl Check {
    /// Runs it; answers the exit code.
    pub(crate) async fn run(mut self, server: &Server, out: &mut Output) -> Result<u8, Problem> {
        self.everything = !self.halted && self.max_lag.is_none() && self.max_age.is_none() && self.max_dead.is_none();
        if self.everything {
            (self.halted, self.max_age, self.max_dead) = (true, Some(OLD), Some(0));
        }
        let groups = match self.groups(server).await {
            Ok(groups) => groups,
            Err(problem) => return Err(Problem { words: format!("CRITICAL: {problem}"), code: USAGE }),
        };
        let mut critical = Vec::new();
        let mut warnings = Vec::new();
        for group in &groups {
            let place = format!("{} on {}", group.name, group.stream);
            let (mut bad, mut fair) = self.standing(group);
            let figures = self.figures(group);
            if self.everything {
                fair.extend(figures)
            } else {
                bad.extend(figures)
            }
            // One word per group.
            if !bad.is_empty() {
                bad.append(&mut fair);
            }
            for (found, into) in [(bad, &mut critical), (fair, &mut warnings)] {
                if !found.is_empty() {
                    into.push(format!("{place} {}", found.join(", ")));
                }
            }
        }
        let (word, code) = match (critical.is_empty(), warnings.is_empty()) {
            (false, _) => ("CRITICAL", USAGE),
            (true, false) => ("WARNING", FAILED),
            (true, true) => ("OK", 0),
        };
        let (judged, left_out) = self.judged();
        let mut parts = Vec::new();
        for (word, found) in [("CRITICAL", &critical), ("WARNING", &warnings)].iter().filter(|(_, of)| !of.is_empty()) {
            let more = found.len().saturating_sub(MOST);
            let more = if more == 0 { String::new() } else { format!("; and {more} more") };
            parts.push(format!("{word}: {}{more}", found.iter().take(MOST).cloned().collect::<Vec<_>>().join("; ")));
        }
        if parts.is_empty() {
            parts.push(format!("OK: {}: {}", count(groups.len() as u64, "group"), judged.join(", ")));
        }
        let line = format!("{}; not judged: {}", parts.join("; "), left_out.join(", "));
        let value = json!({
            "status": word, "groups": groups.len(), "critical": critical, "warnings": warnings, "judged": judged,
            "not_judged": left_out,
        });
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
                let streams = server.overview().await?.streams;
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

    /// How it stands: what is critical, and what is worth a warning.
    fn standing(&self, group: &GroupView) -> (Vec<String>, Vec<String>) {
        let halt = group.places.iter().find_map(|place| place.halted.as_ref()).map_or("", |halt| halt.kind.as_str());
        let failed = group.places.iter().flat_map(|place| &place.failed).map(|(_, times)| times).max();
        let (critical, warning) = match (group.condition(), failed) {
            (Condition::Halted, _) if self.halted => (Some(format!("is halted ({halt})")), None),
            (Condition::Unattended, _) => (None, Some("is run by no process".to_owned())),
            (Condition::Paused, _) if self.halted => (None, Some("is paused".to_owned())),
            (Condition::Retrying, Some(times)) if self.everything => (
                None,
                Some(format!(
                    "retries {}, up to {} so far{}",
                    count(group.retrying(), "event"),
                    count((*times).into(), "failure"),
                    group.error().map(|(_, error)| format!(": {}", error.text)).unwrap_or_default()
                )),
            ),
            _ => (None, None),
        };
        (critical.into_iter().collect(), warning.into_iter().collect())
    }

    /// The figures that pass their limits.
    fn figures(&self, group: &GroupView) -> Vec<String> {
        let allowed = |most: String| if self.everything { String::new() } else { format!(" ({most} allowed)") };
        let mut found = Vec::new();
        match (self.max_lag, group.lag()) {
            (Some(most), Some(lag)) if lag > most => {
                found.push(format!("has a lag of {lag}{}", allowed(most.to_string())));
            }
            (Some(_), None) => found.push("has a lag that nobody knows".to_owned()),
            _ => {}
        }
        let (age, dead) = (group.age(), group.dead());
        if let Some(most) = self.max_age.filter(|most| age > *most) {
            found.push(format!("has an event that is {} old{}", short(age), allowed(short(most))));
        }
        if let Some(most) = self.max_dead.filter(|most| dead > *most) {
            found.push(format!("has {}{}", count(dead, "dead letter"), allowed(most.to_string())));
        }
        found
    }

    /// The judgements that were made, and those that were left out.
    fn judged(&self) -> (Vec<String>, Vec<&'static str>) {
        let (mut judged, mut left_out) = (vec!["each has a process".to_owned()], Vec::new());
        let mut judge = |is: Option<String>, name: &'static str| match is {
            Some(words) => judged.push(words),
            None => left_out.push(name),
        };
        judge(self.halted.then(|| "none is halted or paused".to_owned()), "halts and pauses");
        judge(self.everything.then(|| "none retries".to_owned()), "retries");
        judge(self.max_lag.map(|most| format!("lag at most {most}")), "lag");
        judge(self.max_age.map(|most| format!("no event older than {}", short(most))), "age");
        let dead = |most| match most {
            0 => "no dead letters".to_owned(),
            most => format!("at most {}", count(most, "dead letter")),
        };
        judge(self.max_dead.map(dead), "dead letters");
        (judged, left_out)
    }
}
