//! `lcs perf placement`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use lcs_perf::placement::{self, Options, PlacementError, Rules};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

/// Which threads should decide requests: those that poll the ports (`run-to-completion`), or threads of their own (`split`).
///
/// Two workers that do everything are compared with a port worker and a content worker on the same two cores: throughput,
/// cycles, and delays of decisions and of the packets of layer 4 beside them, as the share of undecided requests and the cost of
/// the rules grow. Clients and servers are played in memory, and are not counted. Ends with what follows from the figures.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf placement
  lcs perf placement --rules url,xml:50000 --shares 0.5,1 --requests 1
  lcs perf placement --json | jq -r '.capacities[] | [.share, .ratio.median] | @tsv'")]
pub struct Args {
    /// What the rules look at: url, regex, or xml:BYTES of a document, with commas between.
    #[arg(long, value_name = "RULES", value_delimiter = ',', value_parser = rules)]
    rules: Vec<Rules>,
    /// Shares of undecided requests among these and packets of layer 4, with commas between.
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_values_t = Options::default().shares)]
    shares: Vec<f64>,
    /// Requests of each connection, each decided for itself.
    #[arg(long, value_name = "N", default_value_t = Options::default().requests)]
    requests: usize,
    /// Connections at once, over all port workers.
    #[arg(long, value_name = "N", default_value_t = Options::default().connections)]
    connections: usize,
    /// Places of the ring to the content worker.
    #[arg(long, value_name = "N", default_value_t = Options::default().depth)]
    depth: usize,
    /// Rounds, of which median and quartiles are shown.
    #[arg(long, value_name = "N", default_value_t = Options::default().rounds)]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, value_name = "S", default_value_t = Options::default().seconds)]
    seconds: f64,
    /// Write plots (SVG) and a report (placement.html) into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

fn rules(text: &str) -> Result<Rules, String> {
    match text.split_once(':') {
        None if text == "url" => Ok(Rules::Url),
        None if text == "regex" => Ok(Rules::Regex),
        Some(("xml", bytes)) => bytes.parse().map(Rules::Xml).map_err(|_| format!("{bytes:?} is no number of bytes")),
        _ => Err(format!("{text:?} is none of url, regex, xml:BYTES")),
    }
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let mut options = Options {
        shares: args.shares.clone(),
        requests: args.requests,
        connections: args.connections,
        depth: args.depth,
        rounds: args.rounds,
        seconds: args.seconds,
        ..Options::default()
    };
    if !args.rules.is_empty() {
        options.rules.clone_from(&args.rules);
    }
    let terminal = io::stderr().is_terminal();
    let figures = placement::measure(&options, |what| {
        if terminal {
            eprint!("\r\x1b[K{what} …");
        }
    });
    if terminal {
        eprint!("\r\x1b[K");
    }
    let figures = figures.map_err(|e| match e {
        PlacementError::Range { .. } | PlacementError::Empty(_) | PlacementError::Cores(_) => {
            Error::Usage(e.to_string())
        }
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { figures.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    let Some(directory) = &args.plot else { return Ok(()) };
    let page = placement::plot::page(&figures, &super::plots::line());
    super::plots::write(common, directory, placement::plot::all(&figures), ("placement.html", page))
}
