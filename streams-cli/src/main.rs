//! The command-line tool `streams`: looks at streams and groups of a server, and mends them, without the types of their events.
//!
//! [`commands`] has a file per command. `connect` finds the server, `output` prints, `confirm` asks before a change.

mod commands;
mod types;
mod connect;
mod payload;
mod filter;
mod confirm;
mod output;
mod when;
mod text;
mod nearest;
mod problem;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match commands::run(commands::parse()).await {
        Ok(code) => code.into(),
        Err(problem) => {
            if !problem.words.is_empty() {
                eprintln!("{}", text::plain_lines(&problem.words));
            }
            problem.code.into()
        }
    }
}
