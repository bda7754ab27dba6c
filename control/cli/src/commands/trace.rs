//! `lcs trace`

use crate::Common;
use crate::endpoint::word;
use crate::outcome::{Outcome, connect};
use lcs_control::config::Protocol;
use lcs_control::protocol::{Request, Response, TRACE_MAX};
use lcs_control::render::{self, Diagram};
use lcs_pipelines::command::TraceFilter;
use std::io::Write;
use std::net::IpAddr;

/// Show what every stage decides about the next frames, and their verdict.
///
/// Without a filter every frame is shown. The workers go on at full speed; frames that come faster than they can be
/// shown are counted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs trace -n 5
  sudo lcs trace --address 198.51.100.7 --port 80
  sudo lcs trace --drops -n 100        only what is dropped, and why
  sudo lcs trace --diagram --port 40634 -n 30
  sudo lcs trace --protocol udp --json one object a line")]
pub struct Args {
    /// Frames from or to this address.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Frames from or to this port.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Frames of this protocol: tcp, udp.
    #[arg(long, value_parser = word::<Protocol>)]
    protocol: Option<Protocol>,
    /// Only frames that are dropped.
    #[arg(long)]
    drops: bool,
    /// Draw TCP segments as a sequence diagram: client, director, servers. What the director sends on its own time-outs
    /// (segments sent again) is not shown.
    #[arg(long, conflicts_with = "json")]
    diagram: bool,
    /// How many frames; Ctrl-C ends before.
    #[arg(short = 'n', long = "frames", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(TRACE_MAX)))]
    frames: u32,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    let filter = TraceFilter {
        address: args.address,
        port: args.port,
        protocol: args.protocol.map(Protocol::number),
        drops_only: args.drops,
    };
    let json = common.json;
    let mut diagram = args.diagram.then(Diagram::default);
    let mut out = std::io::stdout();
    connect(common)?.stream(Request::Trace { filter, frames: args.frames }, |response| {
        if json {
            serde_json::to_writer(&mut out, &response)?;
            out.write_all(b"\n")?;
        } else if let (Some(diagram), Response::Trace(traced)) = (&mut diagram, &response) {
            write!(out, "{}", diagram.frame(traced))?;
        } else {
            let gap = if matches!(response, Response::TraceEnd(_)) { "" } else { "\n" };
            write!(out, "{}{gap}", render::response(&response))?;
        }
        out.flush()
    })?;
    Ok(())
}
