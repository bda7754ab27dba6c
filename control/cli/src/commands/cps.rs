//! `lcs perf cps`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use crate::progress::shown;
use lcs_perf::connections::{ConnectionsError, Scheme};
use lcs_perf::cps::{self, Options};
use lcs_perf::linerate::Search;
use lcs_perf::schemes::{read_loss, read_time};
use std::io::{self, Write};

/// Connections a second that are opened, served and closed without one failing; how many are held at once; how long a connect takes.
///
/// Connections come by a schedule, through a receive queue that loses what it has no room for, and nobody repeats a lost frame. What a connection costs when
/// each waits for another is `lcs perf connections`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf cps
  lcs perf cps --pipeline nat --concurrent 1000000
  lcs perf cps --seconds 1 --rounds 5 --json | jq .rate.median

Both ends are played by the bench; only the director's worker is timed. Pin the command to a quiet core
(`taskset -c 1`) for figures to compare.")]
pub struct Args {
    /// How a connection finds its server.
    #[arg(long, value_enum, default_value_t = Pipeline::Delayed)]
    pipeline: Pipeline,
    /// Bytes of a request.
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().request)]
    request: usize,
    /// Bytes of a response.
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().response)]
    response: usize,
    /// Connections to be held open at once; 0 leaves that out.
    #[arg(long, value_name = "N", default_value_t = Options::default().concurrent)]
    concurrent: usize,
    /// What an end takes for its answer.
    #[arg(long, value_name = "TIME", value_parser = read_time, default_value = "100us")]
    delay: u64,
    /// Seconds of a trial.
    #[arg(long, value_name = "S", default_value_t = Options::default().search.seconds)]
    seconds: f64,
    /// A search ends when what held and what did not are as near as this.
    #[arg(long, value_name = "SHARE", value_parser = read_loss, default_value = "2%")]
    resolution: f64,
    /// Searches, of which the median is shown.
    #[arg(long, value_name = "N", default_value_t = Options::default().rounds)]
    rounds: usize,
    /// Frames that wait in the receive queue at most.
    #[arg(long, value_name = "N", default_value_t = Options::default().descriptors)]
    descriptors: usize,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Pipeline {
    /// By its SYN: layer-4 NAT, nothing is read.
    Nat,
    /// By its request: delayed binding and splice.
    Delayed,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let options = Options {
        scheme: match args.pipeline {
            Pipeline::Nat => Scheme::Nat,
            Pipeline::Delayed => Scheme::Delayed,
        },
        request: args.request,
        response: args.response,
        concurrent: args.concurrent,
        delay: args.delay,
        search: Search { seconds: args.seconds, resolution: args.resolution, ..Options::default().search },
        rounds: args.rounds,
        descriptors: args.descriptors,
    };
    let figures = shown(|progress| cps::measure(&options, progress));
    let figures = figures.map_err(|e| match e {
        ConnectionsError::Range { .. } => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { figures.to_string() };
    Ok(io::stdout().write_all(text.as_bytes())?)
}
