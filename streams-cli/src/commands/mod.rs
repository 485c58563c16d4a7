//! The commands: one file each, and here the command line that leads to them.

mod ls;
mod info;
mod top;
mod tail;
mod get;
mod trace;
mod publish;
mod dead;
mod edit;
mod operate;
mod trim;
mod audit;
mod check;
mod doctor;
mod bench;
mod schema;
mod asyncapi;
mod console;
mod explain;
mod completions;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use streams_runtime::nearest;

use crate::connect::{HEADING, Target};
use crate::output::{Format, Output};
use crate::payload::Redact;
use crate::problem::Problem;

/// Look at the streams and groups of a server, and mend them.
///
/// Begin with `streams doctor` and `streams groups`. `streams owners STREAM GROUP` then says why a group does not go on, and which
/// command mends it.
///
/// Exit codes: 0 done; 1 failed, and a check that warns; 2 a command line that means nothing, and a check that is critical.
#[derive(Debug, Parser)]
#[command(name = "streams", version, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    target: Target,
    /// table, wide, json or ndjson; unless said a table in a terminal and JSON lines in a pipe
    #[arg(long, short, global = true, help_heading = HEADING, display_order = 101, hide_possible_values = true, value_enum)]
    output: Option<Format>,
    /// Hide the values of fields and headers of this name, wherever payloads are shown
    #[arg(long, global = true, help_heading = HEADING, display_order = 101, value_name = "FIELD")]
    redact: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Ls),
    Groups(ls::Groups),
    Top(top::Top),
    Info(info::Info),
    Owners(info::Owners),
    Tail(tail::Tail),
    Get(get::Get),
    Trace(trace::Trace),
    Publish(publish::Publish),
    #[command(subcommand)]
    Dead(dead::Dead),
    Reset(operate::Reset),
    Resume(operate::Resume),
    Pause(operate::Pause),
    Remove(operate::Remove),
    Trim(trim::Trim),
    Audit(audit::Audit),
    Check(check::Check),
    Doctor(doctor::Doctor),
    Bench(bench::Bench),
    #[command(subcommand)]
    Schema(schema::Schema),
    Asyncapi(asyncapi::Asyncapi),
    Console(console::Serve),
    Explain(explain::Explain),
    Completions(completions::Completions),
}

/// Commands that take something away. No typing error leads to one while another command is as likely.
const TAKES_AWAY: [&str; 4] = ["remove", "reset", "trim", "discard"];

/// Reads the command line, or ends the process with what is wrong about it.
pub(crate) fn parse() -> Cli {
    let words: Vec<_> = std::env::args_os().collect();
    Cli::try_parse_from(&words).unwrap_or_else(|error| {
        let words: Vec<_> = words.iter().skip(1).filter_map(|word| word.to_str()).collect();
        suggesting(error, &words).exit()
    })
}

/// The error about an unknown command with one suggestion, the nearest command that takes nothing away.
fn suggesting(mut error: clap::Error, words: &[&str]) -> clap::Error {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidSubcommand).cloned() else { return error };
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let root = Cli::command();
    let place = words.iter().fold(&root, |command, word| command.find_subcommand(word).unwrap_or(command));
    let (harmful, harmless): (Vec<_>, Vec<_>) =
        place.get_subcommands().map(clap::Command::get_name).partition(|name| TAKES_AWAY.contains(name));
    let near = nearest(&unknown, harmless).or_else(|| nearest(&unknown, harmful));
    let near = near.map(str::to_owned).into_iter().collect();
    error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(near));
    error
}

/// Runs a command; answers its exit code.
///
/// # Errors
/// When it could not do its work.
pub(crate) async fn run(cli: Cli) -> Result<u8, Problem> {
    let mut out = Output::new(cli.output);
    let redact = Redact::new(cli.redact);
    let server = || cli.target.server();
    let out = &mut out;
    let mut code = 0;
    match cli.command {
        Command::Ls(command) => command.run(&server()?, out).await?,
        Command::Groups(command) => command.run(&server()?, out).await?,
        Command::Top(command) => command.run(&server()?, &redact).await?,
        Command::Info(command) => command.run(&server()?, out).await?,
        Command::Owners(command) => command.run(&server()?, out).await?,
        Command::Tail(command) => command.run(&server()?, &redact, out).await?,
        Command::Get(command) => command.run(&server()?, &redact, out).await?,
        Command::Trace(command) => command.run(&server()?, &redact, out).await?,
        Command::Publish(command) => command.run(&server()?, out).await?,
        Command::Dead(command) => command.run(&server()?, &redact, out).await?,
        Command::Reset(command) => command.run(&server()?, out).await?,
        Command::Resume(command) => command.run(&server()?, out).await?,
        Command::Pause(command) => command.run(&server()?, out).await?,
        Command::Remove(command) => command.run(&server()?, out).await?,
        Command::Check(command) => code = command.run(&server()?, out).await?,
        Command::Audit(command) => command.run(&server()?, out).await?,
        Command::Trim(command) => command.run(&server()?, out).await?,
        Command::Doctor(command) => code = command.run(&server()?, out).await?,
        Command::Bench(command) => command.run(&server()?, out).await?,
        Command::Schema(schema::Schema::Types(command)) => command.run(out)?,
        Command::Schema(command) => code = command.run(&server()?, out).await?,
        Command::Asyncapi(command) => command.run(&server()?, out).await?,
        Command::Console(command) => command.run(&server()?, redact).await?,
        Command::Explain(command) => command.run(out)?,
        Command::Completions(command) => command.run(out)?,
    }
    out.flush()?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that advise commands of the tool.
    const ADVICE: [&str; 7] = [
        include_str!("../../../docs/operating.md"),
        include_str!("../../../docs/tool.md"),
        include_str!("../../../README.md"),
        include_str!("../../../streams-runtime/src/group/drive.rs"),
        include_str!("../../../streams-runtime/src/group/halt.rs"),
        include_str!("../../../streams-runtime/src/publisher/retention.rs"),
        include_str!("../../../streams-runtime/src/schema_watch/mod.rs"),
    ];

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_typing_error_leads_to_no_command_that_takes_something_away() {
        for (line, suggested) in [
            (&["resme", "payouts", "bank"][..], Some("resume")),
            (&["reste"], Some("resume")),
            (&["tial"], Some("tail")),
            (&["remvoe"], Some("remove")),
            (&["dead", "shwo"], Some("show")),
            (&["-o", "json", "dead", "discrad"], Some("discard")),
            (&["nonsense"], None),
        ] {
            let parsed = Cli::try_parse_from(std::iter::once(&"streams").chain(line));
            let error = suggesting(parsed.unwrap_err(), line);
            let said = error.get(ContextKind::SuggestedSubcommand);
            let strings = suggested.map(str::to_owned).into_iter().collect();
            assert_eq!(said, Some(&ContextValue::Strings(strings)), "{line:?}");
        }
    }

    #[test]
    fn what_halts_logs_and_guides_advise_is_a_command_of_the_tool() {
        let mut seen = 0;
        for command in ADVICE.iter().flat_map(|text| text.split("`streams ").skip(1)) {
            let command = command.split('`').next().unwrap_or_default();
            let words = command.split_whitespace().map(|word| match word {
                "PLACE" => "earliest",
                "ID" => "1767225600000-0",
                word => word,
            });
            match Cli::try_parse_from(std::iter::once("streams").chain(words)) {
                Ok(_) => {}
                // Named without its arguments.
                Err(error) => assert!(
                    matches!(
                        error.kind(),
                        ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    ) || command.contains("{"),
                    "streams {command}: {error}"
                ),
            }
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }
}
