//! `lcs demo`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::demo::narrator::Narrator;
use lcs_perf::demo::{self, Options, PortChoice};
use std::io::{self, Write};

/// Watch real HTTP requests pass through the director, and see checked what it promises.
///
/// Builds a network of a client, a director and three servers, serves requests by NAT, full NAT, direct routing and
/// tunnels over IPv4 and IPv6, and changes a weight and removes a server meanwhile. With root: network namespaces, kernel TCP and AF_XDP.
/// Nothing is left behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs demo
  sudo lcs demo --scenario dr
  lcs demo --port memory         without root
  sudo lcs demo --json | jq .ok

What happens is told on standard error, the result on standard output. Exit code 1 when a check was not passed.")]
pub struct Args {
    /// Play one scenario only: nat, fullnat, dr, tun, content-url, content-xml, keepalive, sni, smtp,
    /// preallocate-hit, preallocate-miss, preallocate-hit-dr, preallocate-miss-dr, preallocate-hit-tun, preallocate-miss-tun,
    /// pooled, filter-dr, filter-tun, filter-keepalive, filter-fallback (these four in namespaces only) or bad-links.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// The director's port: auto, af_xdp (needs root) or memory.
    #[arg(long, value_name = "PORT", default_value_t)]
    port: PortChoice,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    let options = Options { scenario: args.scenario, port: args.port };
    let report = demo::run(&options, &mut Narrator::new(io::stderr()), &interrupt).map_err(|error| match error {
        demo::Error::NoScenario(_) => Error::Usage(error.to_string()),
        _ => Error::Demo(error),
    })?;
    let text = if common.json { json(&report)? } else { report.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    if report.ok { Ok(()) } else { Err(Error::NotOk) }
}
