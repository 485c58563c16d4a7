//! The commands: one file each, and here the command line that leads to them.

mod ls;
mod info;
mod top;
mod tail;
mod get;
mod publish;
mod dead;
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

use clap::{Parser, Subcommand};

use crate::connect::{HEADING, Target};
use crate::output::{Format, Output};
use crate::payload::Redact;
use crate::problem::Problem;

/// Look at the streams and groups of a server, and mend them.
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

/// Runs a command; answers its exit code.
///
/// # Errors
/// When it could not do its work.
pub(crate) async fn run(cli: Cli) -> Result<u8, Problem> {
    let mut out = Output::new(cli.output);
    let redact = Redact(cli.redact);
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
        Command::Console(command) => command.run(&server()?).await?,
        Command::Explain(command) => command.run(out)?,
        Command::Completions(command) => command.run(out)?,
    }
    out.flush()?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

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
    fn what_halts_logs_and_guides_advise_is_a_command_of_the_tool() {
        let mut seen = 0;
        for command in ADVICE.iter().flat_map(|text| text.split("`streams ").skip(1)) {
            let command = command.split('`').next().unwrap_or_default();
            let words = command.split_whitespace().map(|word| if word == "PLACE" { "earliest" } else { word });
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
