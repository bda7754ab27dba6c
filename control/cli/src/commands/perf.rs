//! `lcs perf`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use lcs_perf::stages;
use lcs_pipelines::snapshot::Forward;
use std::io::{self, IsTerminal, Write};

/// Measure, on this machine, what the README claims.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Example:
  lcs perf stages --pipeline nat --flows 1000000"
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Stages(StagesArgs),
}

/// Cycles per packet of each stage of the real pipeline, over the memory port, with established flows in random order.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf stages --pipeline nat --flows 1000000
  lcs perf stages --pipeline tun --flows 1000 --ipv6 --size 128
  lcs perf stages --services 1024 --servers 8192 --json

Cycles are those of the time-stamp counter. Pin the command to a quiet core (`taskset -c 1`) for figures to compare.")]
struct StagesArgs {
    /// How packets reach the servers.
    #[arg(long, value_enum, default_value_t = Pipeline::Nat)]
    pipeline: Pipeline,
    /// Established flows.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    flows: usize,
    /// Bytes of a frame on the wire, FCS included [default: 64, with --ipv6 78].
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,
    /// Rounds, of which the median is shown.
    #[arg(long, value_name = "N", default_value_t = 21)]
    rounds: usize,
    /// Packets a round.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    packets: usize,
    /// Virtual services.
    #[arg(long, value_name = "N", default_value_t = 1)]
    services: usize,
    /// Real servers, over all services.
    #[arg(long, value_name = "N", default_value_t = 3)]
    servers: usize,
    /// Flows that the table holds [default: a fifth more than --flows].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    capacity: usize,
    /// IPv6 instead of IPv4.
    #[arg(long)]
    ipv6: bool,
    /// Measure as well what the accounting of cycles costs: each round with and without it, interleaved.
    #[arg(long)]
    accounting: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Pipeline {
    /// Destination rewritten; replies come back.
    Nat,
    /// Destination and source rewritten.
    Fullnat,
    /// Direct routing: only the link-layer address.
    Dr,
    /// IP in IP.
    Tun,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    match &args.what {
        What::Stages(args) => stages(common, args),
    }
}

fn stages(common: &Common, args: &StagesArgs) -> Outcome {
    let options = stages::Options {
        forward: match args.pipeline {
            Pipeline::Nat => Forward::Nat,
            Pipeline::Fullnat => Forward::FullNat,
            Pipeline::Dr => Forward::Dr,
            Pipeline::Tun => Forward::Tunnel,
        },
        flows: args.flows,
        size: args.size.unwrap_or(if args.ipv6 { 78 } else { 64 }),
        rounds: args.rounds,
        packets: args.packets,
        services: args.services,
        servers: args.servers,
        ipv6: args.ipv6,
        capacity: args.capacity,
        accounting: args.accounting,
    };
    let terminal = io::stderr().is_terminal();
    let figures = stages::measure(&options, |what| {
        if terminal {
            eprint!("\r\x1b[K{what} …");
        }
    });
    if terminal {
        eprint!("\r\x1b[K");
    }
    let figures = figures.map_err(|e| match e {
        stages::StagesError::Range { .. } => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { format!("{figures}\n") };
    Ok(io::stdout().write_all(text.as_bytes())?)
}
