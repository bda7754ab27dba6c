//! `lcs perf schemes`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use crate::progress::shown;
use lcs_dataplane::worker::Nanos;
use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::schemes::{self, Options, SchemesError, html, plot, read_loss, read_size, read_time};
use std::io::{self, Write};
use std::path::PathBuf;

/// What each way of binding a connection costs: forwarding, the same with rules evaluated, delayed binding, preallocation, pools, filters.
///
/// The same clients, servers, documents and links for all, in turns. With --port memory, on the in-process network: times are
/// simulated and the same for the same seed; cycles are those of the director's worker on this processor. With --port af_xdp,
/// over real kernels in network namespaces: all times are real.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf schemes
  lcs perf schemes --size 1k,100k --hit-rate 0,10,20,30,50,100 --rtt 20ms --server-rtt 1ms
  lcs perf schemes --loss 1% --keepalive 1,8 --plot plots
  lcs perf schemes --json | jq '.rows[] | {series, size, ms: (.seen.response.mean / 1e6)}'
  lcs perf schemes --json | jq '.verdicts[] | {name, held}'
  sudo lcs perf schemes --port af_xdp --size 1k,100k --plot plots

Sizes, rules and requests are varied one at a time, while the others stand at 10k, 10 and 1 (or at the first value given where
these are not among them). All requests of a connection are for one server: the guess is right or wrong once.
Pin the command to a quiet core (`taskset -c 1`) for cycles to compare.")]
pub struct Args {
    /// Where the director stands.
    #[arg(long, value_enum, default_value_t = PortArg::Memory)]
    port: PortArg,
    /// Bytes of documents, with commas between; k is a thousand, M a million.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = read_size, default_value = "0.1k,1k,10k,100k,1000k")]
    size: Vec<usize>,
    /// Percent of connections whose server is guessed rightly, with commas between.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = Options::default().hit_rates)]
    hit_rate: Vec<u8>,
    /// Round trip between client and director; with --port memory [default: 1ms].
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    rtt: Option<Nanos>,
    /// Round trip between director and server; with --port memory [default: 0.2ms].
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    server_rtt: Option<Nanos>,
    /// Share of frames lost between client and director; with --port memory [default: 0].
    #[arg(long, value_name = "SHARE", value_parser = read_loss)]
    loss: Option<f64>,
    /// Share of frames lost between director and server; with --port memory [default: 0].
    #[arg(long, value_name = "SHARE", value_parser = read_loss)]
    server_loss: Option<f64>,
    /// Requests of a connection, with commas between.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = Options::default().keepalives)]
    keepalive: Vec<usize>,
    /// Rules of the service, with commas between.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = Options::default().rules)]
    rules: Vec<usize>,
    /// Connections of each series at each point, a round.
    #[arg(long, value_name = "N", default_value_t = Options::default().connections)]
    connections: usize,
    /// Clients, each with one connection at a time [default: 16, with --port af_xdp 4].
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Rounds, of which medians and quartiles are shown.
    #[arg(long, value_name = "N", default_value_t = Options::default().rounds)]
    rounds: usize,
    /// Decides every draw: which frames are lost, which connections are guessed wrongly.
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
    /// Write plots (SVG) and a report (schemes.html) into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// With --port af_xdp: the director's core [default: the last one].
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum PortArg {
    /// In this process's memory, between simulated hosts.
    Memory,
    /// Between kernels, in network namespaces: needs root and two cores.
    #[value(name = "af_xdp", alias = "af-xdp")]
    AfXdp,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let real = args.port == PortArg::AfXdp;
    let set = [
        ("--rtt", args.rtt.is_some()),
        ("--server-rtt", args.server_rtt.is_some()),
        ("--loss", args.loss.is_some()),
        ("--server-loss", args.server_loss.is_some()),
    ];
    if let Some((what, _)) = set.iter().find(|(_, set)| real && *set) {
        return Err(Error::Usage(SchemesError::Modelled(what).to_string()));
    }
    let base = if real { Options { clients: 4, ..Options::default().over_kernels() } } else { Options::default() };
    let options = Options {
        sizes: args.size.clone(),
        hit_rates: args.hit_rate.clone(),
        rules: args.rules.clone(),
        keepalives: args.keepalive.clone(),
        rtt: args.rtt.unwrap_or(base.rtt),
        server_rtt: args.server_rtt.unwrap_or(base.server_rtt),
        loss: args.loss.unwrap_or(base.loss),
        server_loss: args.server_loss.unwrap_or(base.server_loss),
        connections: args.connections,
        clients: args.clients.unwrap_or(base.clients),
        rounds: args.rounds,
        seed: args.seed,
        core: args.core,
        port: base.port,
    };
    let interrupt = Interrupt::on_signals()?;
    let figures = shown(|progress| schemes::measure_until(&options, &interrupt, progress));
    let figures = figures.map_err(|e| match e {
        SchemesError::Range { .. }
        | SchemesError::Empty(_)
        | SchemesError::Modelled(_)
        | SchemesError::OverKernels(_) => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { figures.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    if let Some(directory) = &args.plot {
        let page = html::report(&figures, &super::plots::line());
        super::plots::write(common, directory, plot::all(&figures), ("schemes.html", page))?;
    }
    if figures.unmeasured.is_empty() { Ok(()) } else { Err(Error::NotOk) }
}
