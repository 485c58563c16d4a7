//! `streams doctor`: what a server and its settings mean for us, and the fix for what is wrong.

use std::time::Duration;

use serde_json::json;
use streams_runtime::broker::BrokerErrorKind;
use streams_runtime::keys::StreamKey;
use streams_runtime::{Finding, Verdict};

use crate::connect::Server;
use crate::output::{Output, Tone};
use crate::problem::{FAILED, Problem, USAGE};
use crate::text::plain;
use crate::when;

/// Look at the server: what each setting means for us, and the fix; exit code 1 for a warning, 2 for something critical
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// From when on a group that no process runs is perhaps needed no more, as the programs have it
    #[arg(long, value_name = "TIME", env = "STREAMS_EXPIRE_AFTER", value_parser = when::duration, default_value = "7d")]
    expire_after: Duration,
}

impl Doctor {
    /// Runs it; answers the exit code.
    pub(crate) async fn run(self, server: &Server, out: &mut Output) -> Result<u8, Problem> {
        let mut findings = Finding::of_server(&*server.broker).await?;
        let overview = match server.inspector()?.overview().await {
            Ok(overview) => Some(overview),
            // The missing right is among the rights.
            Err(error) if error.kind() == BrokerErrorKind::Refused => None,
            Err(error) => return Err(error.into()),
        };
        let streams = overview.map(|overview| overview.streams).unwrap_or_default();
        findings.extend(rights(server, streams.first().map_or("trades", |stream| &stream.name)).await?);
        match server.misplaced().await.filter(|_| streams.is_empty()) {
            Some(found) => {
                let meaning = "programs and tool look at different places";
                let fix = "set STREAMS_NAMESPACE as the programs have it";
                findings.push(Finding::new("namespace", Verdict::Warning, found, meaning, fix));
            }
            None => findings.extend(Finding::of_streams(&streams, self.expire_after)),
        }
        let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        for finding in findings {
            let (word, tone) = shown(finding.verdict);
            let text = for_people(&finding, word, &out.toned(word, tone));
            out.line(|| text, json!(finding))?;
        }
        out.end()?;
        Ok(match worst {
            Verdict::Ok => 0,
            Verdict::Critical => USAGE,
            _ => FAILED,
        })
    }
}

fn shown(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Ok => ("ok", Tone::Good),
        Verdict::Critical => ("critical", Tone::Bad),
        _ => ("warning", Tone::Warn),
    }
}

fn for_people(finding: &Finding, word: &str, toned: &str) -> String {
    let gap = " ".repeat(10_usize.saturating_sub(word.len()));
    let mut text = format!("{toned}{gap}{}: {}", finding.about, plain(&finding.found));
    if finding.verdict != Verdict::Ok {
        text.push_str(&format!("\n          {}\n          fix: {}", plain(&finding.meaning), plain(&finding.fix)));
    }
    text
}

/// The rights that each kind of work needs: a command that is asked about, never run.
async fn rights(server: &Server, stream: &str) -> Result<Vec<Finding>, Problem> {
    let key = StreamKey::new(server.namespace.as_deref(), stream, 1);
    let (entries, members, builds) = (key.base(), key.members("g"), key.builds());
    let group = key.partition(0).group("g");
    let (state, dead, replay) = (group.state(), group.dead(), group.replay());
    let kinds: [(&str, &[&[&str]]); 5] = [
        (
            "look at streams and groups",
            &[
                &["SCAN", "0", "TYPE", "stream"],
                &["XINFO", "STREAM", entries],
                &["XINFO", "GROUPS", entries],
                &["XRANGE", entries, "-", "+", "COUNT", "1"],
                &["HGETALL", state],
                &["ZRANGE", &members, "0", "-1"],
                &["HGETALL", &builds],
                &["XLEN", &dead],
                &["TIME"],
            ],
        ),
        ("publish", &[&["XADD", entries, "*", "a", "b"]]),
        ("trim", &[&["XTRIM", entries, "MINID", "0"]]),
        ("reset, resume and pause", &[&["HSET", state, "a", "b"], &["EVALSHA", "0", "1", state]]),
        (
            "replay and discard dead letters",
            &[
                &["XRANGE", &dead, "-", "+"],
                &["XDEL", &dead, "0-1"],
                &["XADD", &replay, "*", "a", "b"],
                &["EVALSHA", "0", "1", &dead],
            ],
        ),
    ];
    let user = match server.broker.user().await {
        Ok(user) => user,
        Err(error) if error.kind() == BrokerErrorKind::Refused => return Ok(vec![unasked()]),
        Err(error) => return Err(error.into()),
    };
    let mut findings = Vec::new();
    for (kind, commands) in kinds {
        let mut lacking = Vec::new();
        for command in commands {
            match server.broker.may(&user, command).await {
                Ok(true) => {}
                Ok(false) => lacking.push(right(command)),
                Err(error) if error.kind() == BrokerErrorKind::Refused => return Ok(vec![unasked()]),
                Err(error) => return Err(error.into()),
            }
        }
        let verdict = if lacking.is_empty() { Verdict::Ok } else { Verdict::Warning };
        let found = match lacking.is_empty() {
            true => format!("{user} may {kind}"),
            false => format!("{user} lacks {}", lacking.join(", ")),
        };
        let rules: Vec<_> =
            lacking.iter().map(|right| format!("+{}", right.to_lowercase().replace(' ', "|"))).collect();
        let fix =
            format!("ACL SETUSER {user} {}, and the keys; docs/security.md has the least rights", rules.join(" "));
        findings.push(Finding::new("rights", verdict, found, format!("without them the user cannot {kind}"), fix));
    }
    Ok(findings)
}

fn unasked() -> Finding {
    let meaning = "which rights are missing shows only when a command is refused";
    Finding::new("rights", Verdict::Ok, "the user may not ask about them (ACL WHOAMI, ACL DRYRUN)", meaning, "")
}

/// The command, with its subcommand where it has one.
fn right(command: &[&str]) -> String {
    match command {
        ["XINFO", sub, ..] => format!("XINFO {sub}"),
        [name, ..] => (*name).to_owned(),
        [] => String::new(),
    }
}
