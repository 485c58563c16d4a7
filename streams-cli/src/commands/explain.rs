//! `streams explain`: how a group stands, a halt, a cause, a loss, a log line or a metric, in the words of the guides.

use serde_json::{Map, Value, json};

use crate::nearest::perhaps;
use crate::output::Output;
use crate::problem::Problem;

/// The guides that the explanations are taken from, so that they cannot disagree.
const GUIDES: [(&str, &str); 2] = [
    ("docs/tool.md", include_str!("../../../docs/tool.md")),
    ("docs/operating.md", include_str!("../../../docs/operating.md")),
];

/// The most explanations of one word.
const MOST: usize = 5;

/// Explain how a group stands, a halt, a cause of dead letters, a loss, a log line or a metric, in the words of the guides
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// The word, or a whole line of a log
    #[arg(required = true)]
    words: Vec<String>,
}

/// A row of a table in a guide.
struct Row {
    guide: &'static str,
    section: &'static str,
    /// Heads of columns with their cells.
    cells: Vec<(String, String)>,
}

impl Explain {
    pub(crate) fn run(self, out: &mut Output) -> Result<(), Problem> {
        let asked = self.words.join(" ");
        let rows = rows();
        let found = find(&rows, &asked);
        if found.is_empty() {
            let terms: Vec<_> = rows.iter().flat_map(|row| terms(&row.cells[0].1)).collect();
            let near = perhaps(&asked, terms.iter().map(String::as_str).filter(|term| term.len() < 20));
            return Err(format!("the guides have no `{asked}`{near}").into());
        }
        for row in found.into_iter().take(MOST) {
            let mut text = format!("{} ({})\n", row.section, row.guide);
            for (name, cell) in &row.cells {
                text.push_str(&format!("  {name}: {cell}\n"));
            }
            let facts = row.cells.iter().map(|(name, cell)| (name.clone(), json!(cell))).collect::<Map<_, _>>();
            out.line(|| text, json!({ "guide": row.guide, "section": row.section, "facts": Value::Object(facts) }))?;
        }
        Ok(out.end()?)
    }
}

/// The rows about a word: those whose term it is, else those whose first cell has it, else those whose term stands in it
/// (a line of a log), else those that have it anywhere.
fn find<'a>(rows: &'a [Row], asked: &str) -> Vec<&'a Row> {
    let asked = asked.to_lowercase();
    let term = |row: &&Row| terms(&row.cells[0].1).contains(&asked);
    let quoted = |row: &&Row| terms(&row.cells[0].1).iter().any(|term| term.len() > 8 && asked.contains(term.as_str()));
    let first = |row: &&Row| row.cells[0].1.to_lowercase().contains(&asked);
    let anywhere = |row: &&Row| row.cells.iter().any(|(_, cell)| cell.to_lowercase().contains(&asked));
    let looks: [&dyn Fn(&&Row) -> bool; 4] = [&term, &first, &quoted, &anywhere];
    looks
        .iter()
        .map(|look| rows.iter().filter(look).collect::<Vec<_>>())
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// The words in backticks, without which the cell itself is the term.
fn terms(cell: &str) -> Vec<String> {
    let quoted: Vec<_> =
        cell.split('`').skip(1).step_by(2).map(|term| term.trim_start_matches(".. ").to_lowercase()).collect();
    if quoted.is_empty() { vec![cell.to_lowercase()] } else { quoted }
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (guide, text) in GUIDES {
        let (mut section, mut head, mut in_code) = ("", Vec::new(), false);
        for line in text.lines() {
            if line.starts_with("```") {
                in_code = !in_code;
            }
            if let Some(title) = line.strip_prefix('#').filter(|_| !in_code) {
                section = title.trim_start_matches('#').trim();
            }
            let Some(inner) = line.strip_prefix('|').filter(|_| !in_code) else {
                head = Vec::new();
                continue;
            };
            let cells: Vec<_> = inner.trim_end_matches('|').split('|').map(|cell| without_links(cell.trim())).collect();
            if head.is_empty() {
                head = cells;
            } else if !cells[0].starts_with("---") {
                rows.push(Row { guide, section, cells: head.iter().cloned().zip(cells).collect() });
            }
        }
    }
    rows
}

/// The text of links without their targets.
fn without_links(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, after)) = rest.split_once("](") {
        let (plain, link) = before.rsplit_once('[').unwrap_or((before, ""));
        text.push_str(plain);
        text.push_str(link);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That the first explanation has every part, and commands for those who look and for those who mend.
    #[track_caller]
    fn shows_the_way(found: &[&Row], word: &str) {
        let cells: Vec<_> = found.first().unwrap().cells.iter().map(|(_, cell)| cell.as_str()).collect();
        let [term, cause, see, mend, events] = cells[..] else { panic!("{word}: {cells:?}") };
        assert_eq!(term, format!("`{word}`"));
        assert!(!cause.is_empty() && !events.is_empty(), "{cells:?}");
        assert!(see.contains("`streams ") && mend.contains("`streams "), "{cells:?}");
    }

    #[test]
    fn links_lose_their_targets() {
        assert_eq!(without_links("see [losses](#losses), and [that](a.md#b) too"), "see losses, and that too");
        assert_eq!(without_links("none"), "none");
    }

    #[test]
    fn whatever_a_group_may_be_halted_for_and_every_cause_is_explained() {
        let rows = rows();
        let causes = ["handler", "permanent", "panic", "timeout", "decode", "argument", "asked", "crash"];
        for (asked, says) in causes.map(|cause| (cause, "cause of a dead letter")).into_iter().chain([
            ("data loss", "losses"),
            ("trimmed past", "retention passed a slow group"),
            ("streams_lag_seconds", "younger than the event"),
            ("2026-01-01 WARN the lease is lost stream=trades", "stalls for longer"),
            ("dead_letter_storm", "an outage of something"),
            ("dead letters are full", "look at them"),
            ("NOPERM", "grant the right"),
            ("another delivery", "choose another group name"),
            ("newer version", "start a build"),
            ("no checkpoint", "XREADGROUP"),
        ]) {
            let found = find(&rows, asked);
            let all: String =
                found.iter().flat_map(|row| &row.cells).map(|(name, cell)| format!("{name} {cell}\n")).collect();
            assert!(all.contains(says), "{asked}: {all}");
        }
        for state in ["halted", "unattended", "retrying", "paused", "foreign"] {
            shows_the_way(&find(&rows, state), state);
        }
        let kinds = include_str!("../../../streams-runtime/src/halt.rs").split("=> \"").skip(1);
        let kinds: Vec<_> = kinds.filter_map(|rest| rest.split('"').next()).filter(|word| !word.is_empty()).collect();
        assert!(kinds.contains(&"data-loss") && kinds.len() == 9, "{kinds:?}");
        for kind in kinds {
            shows_the_way(&find(&rows, kind), kind);
        }
        assert!(find(&rows, "nonsense").is_empty());
    }
}
