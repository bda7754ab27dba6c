//! `lcs replay`

use crate::Common;
use crate::outcome::{Error, Outcome};
use lcs_control::config::Configuration;
use lcs_perf::replay;
use std::io::{self, BufWriter};
use std::path::PathBuf;

/// Pass a capture through the pipeline: for each frame the verdict, its reason, and the chosen server.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs replay -c lcs.toml --in clients.pcap --out sent.pcap
  lcs replay -c lcs.toml --in clients.pcapng --out sent.pcap --json

The clock is the capture's own. Link-layer addresses that only a kernel could tell are made up, and the summary says so.
A capture that is damaged further on is replayed up to there; then the summary says so, and the exit code is 1.")]
pub struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The capture to read: pcap or pcapng, Ethernet.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// The capture to write: what the director would have sent.
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let configuration = Configuration::load(&args.config)?;
    let failed = |e: &dyn std::fmt::Display| Error::Failed(e.to_string());
    let (snapshot, options) = replay::configured(&configuration).map_err(|e| failed(&e))?;
    let mut out = BufWriter::new(io::stdout().lock());
    match replay::run(snapshot, options, &args.input, &args.output, common.json, &mut out) {
        Ok(report) => {
            io::Write::flush(&mut out)?;
            // Why is the last thing that was printed.
            if report.complete { Ok(()) } else { Err(Error::NotOk) }
        }
        Err(replay::ReplayError::Records(e)) => Err(Error::Output(e)),
        Err(e) => Err(failed(&e)),
    }
}
