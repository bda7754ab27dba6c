//! `lcs status`

use crate::Common;
use crate::outcome::{Outcome, ask};
use lcs_control::protocol::Request;
use lcs_control::render;

/// See how the director is: its ports, workers and services, and what was noticed lately.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs status
  sudo lcs status --json | jq '.workers[].flows'")]
pub struct Args {}

pub fn run(common: &Common, _: &Args) -> Outcome {
    ask(common, Request::Status, render::response)
}
