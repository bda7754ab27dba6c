//! `lcs demo`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use lcs_perf::demo::{self, PortChoice};
use std::io::{self, Write};

/// Watch real requests pass through a director to three servers, in network namespaces made for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs demo
  lcs demo --port memory
  sudo lcs demo --scenario nat --scenario dr --json

With root: namespaces, kernel TCP at both ends, the director on AF_XDP. Without: the same scenarios over an in-process network.
Nothing is left behind, also when it is interrupted.")]
pub struct Args {
    /// Play only this scenario: nat, fullnat, dr or tun; repeat for several [default: all].
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(demo::SCENARIOS))]
    scenario: Vec<String>,
    /// Where the director's frames come from.
    #[arg(long, value_enum, default_value_t = Port::Auto)]
    port: Port,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Port {
    /// AF_XDP with root, the in-process network without.
    Auto,
    /// AF_XDP in network namespaces; needs root.
    AfXdp,
    /// The in-process network.
    Memory,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let port = match args.port {
        Port::Auto => PortChoice::Auto,
        Port::AfXdp => PortChoice::AfXdp,
        Port::Memory => PortChoice::Memory,
    };
    let report = demo::run(&args.scenario, port, &mut io::stderr()).map_err(|e| Error::Failed(e.to_string()))?;
    let text = if common.json { json(&report)? } else { report.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    if report.ok { Ok(()) } else { Err(Error::Failed("the demo did not go as it should; see above".into())) }
}
