//! `lcs perf scaling`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use crate::progress::shown;
use lcs_perf::scaling::{self, Options, ScalingError};
use lcs_pipelines::snapshot::Forward;
use std::io::{self, Write};
use std::path::PathBuf;

/// What several workers carry together, what handing frames over between them costs, and what more cores would give.
///
/// Each worker is pinned and has a port of its own in memory, with its generator on its own core; only the worker's time counts. One worker, two, … and the
/// shares of foreign frames are measured in turn. A model of two numbers says what 100 Gbit/s would need, and what it assumes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf scaling
  lcs perf scaling --workers 1,2,4,8 --pipeline dr --flows 1000000 --rounds 21
  lcs perf scaling --foreign 0,0.25,0.5,1 --json | jq '.hand_overs[] | {workers, share, extra: .extra.median}'

A foreign frame is one that arrives at a worker which does not own its connection, as with RSS that does not fit.")]
pub struct Args {
    /// Numbers of workers, with commas between.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = Options::default().workers)]
    workers: Vec<usize>,
    /// How packets reach the servers.
    #[arg(long, value_enum, default_value_t = Pipeline::Nat)]
    pipeline: Pipeline,
    /// Established flows of each worker.
    #[arg(long, value_name = "N", default_value_t = Options::default().flows)]
    flows: usize,
    /// Shares of the frames that another worker owns, 0 to 1, with commas between.
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_values_t = Options::default().foreign)]
    foreign: Vec<f64>,
    /// Rounds, of which median and quartiles are shown.
    #[arg(long, value_name = "N", default_value_t = Options::default().rounds)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, value_name = "S", default_value_t = Options::default().seconds)]
    seconds: f64,
    /// Bytes of a frame, FCS included [default: 64, with --ipv6 78].
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,
    /// IPv6 instead of IPv4.
    #[arg(long)]
    ipv6: bool,
    /// Write plots (SVG) and a report (scaling.html) into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
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
    let options = Options {
        forward: match args.pipeline {
            Pipeline::Nat => Forward::Nat,
            Pipeline::Fullnat => Forward::FullNat,
            Pipeline::Dr => Forward::Dr,
            Pipeline::Tun => Forward::Tunnel,
        },
        workers: args.workers.clone(),
        flows: args.flows,
        foreign: args.foreign.clone(),
        rounds: args.rounds,
        seconds: args.seconds,
        size: args.size.unwrap_or(if args.ipv6 { 78 } else { 64 }),
        ipv6: args.ipv6,
    };
    let figures = shown(|progress| scaling::measure(&options, progress));
    let figures = figures.map_err(|e| match e {
        ScalingError::Range { .. } | ScalingError::Empty(_) | ScalingError::Cores { .. } => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { figures.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    let Some(directory) = &args.plot else { return Ok(()) };
    let page = scaling::plot::page(&figures, &super::plots::line());
    super::plots::write(common, directory, scaling::plot::all(&figures), ("scaling.html", page))
}
