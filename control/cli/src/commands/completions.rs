//! `lcs completions`

use crate::outcome::Outcome;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print completions for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs completions bash > /etc/bash_completion.d/lcs
  lcs completions zsh > ~/.zfunc/_lcs
  lcs completions fish > ~/.config/fish/completions/lcs.fish")]
pub struct Args {
    /// Which shell.
    shell: Shell,
}

pub fn run<C: CommandFactory>(args: &Args) -> Outcome {
    clap_complete::generate(args.shell, &mut C::command(), "lcs", &mut std::io::stdout());
    Ok(())
}
