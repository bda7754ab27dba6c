//! `lcs reload`

use crate::Common;
use crate::outcome::{Outcome, change};
use lcs_control::protocol::Request;

/// Have the director read its configuration file again and apply what is different.
///
/// Connections go on: what stays the same is not touched, and a removed server keeps its connections until they end.
/// A file with a mistake is refused whole, and the director runs on as before.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  lcs check -c lcs.toml && sudo lcs reload")]
pub struct Args {}

pub fn run(common: &Common, _: &Args) -> Outcome {
    change(common, Request::Reload)
}
