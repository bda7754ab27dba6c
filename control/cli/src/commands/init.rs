//! `lcs init`

use crate::outcome::Outcome;
use lcs_control::config::EXAMPLE;
use std::io::Write;

/// Print a commented example of a configuration, to begin with.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "example",
    after_help = "Example:
  lcs init > lcs.toml"
)]
pub struct Args {}

pub fn run(_: &Args) -> Outcome {
    Ok(std::io::stdout().write_all(EXAMPLE.as_bytes())?)
}
