//! The consent to a change: what would be done, a question, and the refusal where nobody can be asked.

use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::{Value, json};

use crate::output::Output;
use crate::problem::Problem;
use crate::text::plain_lines;

/// How a command that changes something is asked for.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Consent {
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do it without a question
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

impl Consent {
    /// Whether to go on with what the plan says.
    ///
    /// # Errors
    /// When the user declines, or when there is neither `--yes` nor a terminal to ask at.
    pub(crate) fn given(self, plan: &str, value: &Value, out: &mut Output) -> Result<bool, Problem> {
        if self.dry_run {
            let value = json!({ "dry_run": true, "plan": plan, "would": value });
            out.say(&format!("{plan}\nnothing was changed: this was a dry run"), &value)?;
            return Ok(false);
        }
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let words =
                format!("{plan}\nsay --yes to do it, because there is no terminal to ask at; --dry-run shows it");
            return Err(Problem::usage(words));
        }
        eprint!("{}\ngo on? [y/N] ", plain_lines(plan));
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            _ => Err("nothing was changed".into()),
        }
    }
}

/// A number with its noun, such as `1 dead letter` or `3 dead letters`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
