//! `lcs perf peers`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use crate::progress::logged;
use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::peers::{self, Mode, Options, Peer, PeersError, Workload};
use std::io::{self, Write};

/// This director beside what is installed: kernel forwarding, nftables, IPVS, an XDP balancer, HAProxy, nginx. Needs root.
///
/// One client, one director and three servers in network namespaces; every subject gets the same requests in turns, and every
/// byte of every answer is compared. The director has a core alone. Nothing is left behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs perf peers
  sudo lcs perf peers --workload urls --mode close --rounds 9
  sudo lcs perf peers --peers ours,haproxy --connections 1          latency, one request at a time
  sudo lcs perf peers --workload xml --body 100k --offloads best --json

What reads no requests (forward, nftables, ipvs, xdp) is sent the same traffic as a bar. xdp is a balancer of our own making that is
an XDP program and no more: a hash of the client's endpoint chooses the server, addresses are translated in both directions, in
the driver (native mode). It has no table of connections, no health checks and no fragments, so it is the least that a
layer-4 balancer in the kernel can cost, and not what Katran or Cilium cost with all that they do. HAProxy is measured with a map of prefixes
and with reused server connections as well, where that matters. With the pinned core busy with other work, core times are
doubtful, and the output says so. Exit code 1 when an answer through this director was wrong or missing.")]
pub struct Args {
    /// Who, with commas between: ours, forward, nftables, ipvs, xdp, haproxy, nginx [default: all that are there].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<Peer>,
    /// What rules are about; may be given several times [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    workload: Vec<WorkloadArg>,
    /// What a connection is used for [default: both].
    #[arg(long, value_enum, value_delimiter = ',')]
    mode: Vec<ModeArg>,
    /// Rounds, of which median and quartiles are shown.
    #[arg(long, value_name = "N", default_value_t = Options::default().rounds)]
    rounds: usize,
    /// Seconds of load for each subject and round.
    #[arg(long, value_name = "SECONDS", default_value_t = Options::default().seconds)]
    seconds: f64,
    /// Connections at once.
    #[arg(long, value_name = "N", default_value_t = Options::default().connections)]
    connections: usize,
    /// Bytes of a response's body.
    #[arg(long, value_name = "BYTES", value_parser = super::perf::size, default_value = "1024")]
    size: usize,
    /// Rules of the workload `rules`.
    #[arg(long, value_name = "N", default_value_t = Options::default().rules)]
    rules: usize,
    /// Bytes of a request's body in the workload `xml`, with commas between; k is a thousand.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = super::perf::size, default_value = "1k,10k,100k")]
    body: Vec<usize>,
    /// Every request of a connection is for another server than the one before.
    #[arg(long)]
    alternate: bool,
    /// Segmentation and checksum offload of the network's links.
    #[arg(long, value_enum, default_value_t = Offloads::Off)]
    offloads: Offloads,
    /// The director's core [default: the last one].
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum WorkloadArg {
    /// Four rules about the URL.
    Urls,
    /// Many rules about the path, of which the last match.
    Rules,
    /// A rule about a value at the end of an XML body.
    Xml,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ModeArg {
    /// One request after the other.
    KeepAlive,
    /// One request.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Offloads {
    /// Off for all, as a director that sees frames needs them.
    Off,
    /// On for all but this director.
    Best,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let workload = |workload: &WorkloadArg| match workload {
        WorkloadArg::Urls => Workload::Urls,
        WorkloadArg::Rules => Workload::Rules,
        WorkloadArg::Xml => Workload::Xml,
    };
    let mode = |mode: &ModeArg| match mode {
        ModeArg::KeepAlive => Mode::KeepAlive,
        ModeArg::Close => Mode::Close,
    };
    let options = Options {
        peers: some_or(args.peers.clone(), &Peer::ALL),
        workloads: some_or(args.workload.iter().map(workload).collect(), &Workload::ALL),
        modes: some_or(args.mode.iter().map(mode).collect(), &Mode::ALL),
        rounds: args.rounds,
        seconds: args.seconds,
        connections: args.connections,
        size: args.size,
        rules: args.rules,
        bodies: args.body.clone(),
        alternate: args.alternate,
        best_offloads: args.offloads == Offloads::Best,
        core: args.core,
    };
    let interrupt = Interrupt::on_signals()?;
    let figures = logged(|progress| peers::measure(&options, &interrupt, progress));
    let figures = figures.map_err(|e| match e {
        PeersError::Range { .. } => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { figures.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    if figures.ok() { Ok(()) } else { Err(Error::NotOk) }
}

fn some_or<T: Copy>(some: Vec<T>, all: &[T]) -> Vec<T> {
    if some.is_empty() { all.to_vec() } else { some }
}
