//! `streams completions`: what a shell needs to complete commands.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::output::Output;
use crate::problem::Problem;

/// Write the completions for a shell: `streams completions bash > /etc/bash_completion.d/streams`
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, out: &mut Output) -> Result<(), Problem> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "streams", &mut script);
        Ok(out.raw(&String::from_utf8_lossy(&script))?)
    }
}
