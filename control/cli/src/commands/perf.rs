//! `lcs perf`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use crate::progress::shown;
use lcs_perf::connections::{ConnectionsError, Options as ConnectionsOptions, Scheme};
use lcs_perf::decisions::{self, DecisionsError, Mix, RulesOptions, XmlOptions};
use lcs_perf::stages;
use lcs_pipelines::snapshot::Forward;
use std::io::{self, Write};
use std::path::PathBuf;

/// Measure, on this machine, what the README claims.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  lcs perf stages --pipeline nat --flows 1000000
  lcs perf rules --rules 10,10000 --mix url
  lcs perf xml --size 1k,100k
  lcs perf schemes --plot plots
  lcs perf linerate --sizes 64,imix
  sudo lcs perf peers --workload urls"
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Stages(StagesArgs),
    Connections(ConnectionsArgs),
    Rules(RulesArgs),
    Xml(XmlArgs),
    Peers(super::peers::Args),
    Schemes(super::schemes::Args),
    Linerate(super::linerate::Args),
    Scaling(super::scaling::Args),
    Placement(super::placement::Args),
    Cps(super::cps::Args),
}

/// Cycles per packet of each stage of the real pipeline, over the memory port, with established flows in random order.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf stages --pipeline nat --flows 1000000
  lcs perf stages --pipeline tun --flows 1000 --ipv6 --size 128
  lcs perf stages --plot stages
  lcs perf stages --services 1024 --servers 8192 --json
  taskset -c 1 lcs perf stages --beside rte-hash
  taskset -c 1 lcs perf stages --pipeline tun --beside nat
  taskset -c 1 lcs perf stages --services 1024 --servers 8192 --beside small --packets 4096 --rounds 1000

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
    /// What the frames come over. "dpdk" measures over a ring device, and against the memory port and the device alone.
    #[arg(long, value_enum, default_value_t = PortArg::Memory)]
    port: PortArg,
    /// With --port dpdk: an argument for DPDK's environment; may be repeated [default: without hugepages].
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    eal: Vec<String>,
    /// Measure as well what the accounting of cycles costs: each round with and without it, interleaved.
    #[arg(long)]
    accounting: bool,
    /// Measure something else in turns with it, on the same core, and show the ratio round by round. Short rounds (--packets 4096) and
    /// many of them tell small differences apart on a machine that others use, too.
    #[arg(long, value_enum, value_name = "PEER")]
    beside: Option<BesideArg>,
    /// Write a picture of the stages (SVG) and a report (stages.html) into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BesideArg {
    /// NAT on DPDK as it is usually written, in C: `rte_hash_lookup_with_hash_bulk_data` over the 5-tuple, an array of flows, prefetch; it
    /// reads and rewrites, and does nothing else. Needs cc, pkg-config and libdpdk-dev.
    RteHash,
    /// The same pipeline over as many flows, with one service and three servers: what --services and --servers add.
    Small,
    /// The same pipeline over as many flows by NAT: what another --pipeline costs more, or less.
    Nat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PortArg {
    /// In this process's memory.
    Memory,
    /// A device of DPDK; needs a program that was built with the feature `dpdk`.
    Dpdk,
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
    /// Switched by content and spliced: NAT with numbers moved, in the middle of a long response and without timestamps;
    /// measured against NAT in the same run.
    Splice,
    /// Connections whose server was guessed rightly, over NAT; measured against NAT in the same run.
    Preallocate,
    /// The same over direct routing, against direct routing.
    PreallocateDr,
}

/// What whole client connections cost: handshake, requests, responses, close, over the memory port.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf connections --pipeline delayed
  lcs perf connections --pipeline nat
  lcs perf connections --requests 100 --connections 1000 --alternate
  lcs perf connections --cookies --json

Both ends are played by the bench; only the director's worker is timed. Pin the command to a quiet core
(`taskset -c 1`) for figures to compare.")]
struct ConnectionsArgs {
    /// How a connection finds its server.
    #[arg(long, value_enum, default_value_t = SchemeArg::Delayed)]
    pipeline: SchemeArg,
    /// Connections a round.
    #[arg(long, value_name = "N", default_value_t = ConnectionsOptions::default().connections)]
    connections: usize,
    /// Connections open at once.
    #[arg(long, value_name = "N", default_value_t = ConnectionsOptions::default().at_once)]
    at_once: usize,
    /// Requests of each connection.
    #[arg(long, value_name = "N", default_value_t = 1)]
    requests: usize,
    /// Every second request of a connection is for another group of servers.
    #[arg(long)]
    alternate: bool,
    /// Bytes of a request.
    #[arg(long, value_name = "BYTES", default_value_t = 1000)]
    request: usize,
    /// Bytes of a response.
    #[arg(long, value_name = "BYTES", default_value_t = 1000)]
    response: usize,
    /// Rounds, of which the median is shown.
    #[arg(long, value_name = "N", default_value_t = ConnectionsOptions::default().rounds)]
    rounds: usize,
    /// Answer SYNs with cookies.
    #[arg(long)]
    cookies: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SchemeArg {
    /// By its SYN: layer-4 NAT, nothing is read.
    Nat,
    /// By its request: delayed binding and splice.
    Delayed,
}

/// What a decision by content costs against the number of rules: ns a request, extraction included.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf rules
  lcs perf rules --rules 10,10000 --mix url --mix regex --rounds 31
  lcs perf rules --json | jq '.rows[] | {mix, rules, ns: .nanoseconds.median}'

The rules are compiled as `lcs rules load` compiles them. Pin the command to a quiet core for figures to compare.")]
struct RulesArgs {
    /// Numbers of rules, with commas between.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = RulesOptions::default().rules)]
    rules: Vec<usize>,
    /// What the rules are about; may be given several times [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    mix: Vec<RuleMix>,
    /// Rounds, of which the median is shown.
    #[arg(long, value_name = "N", default_value_t = RulesOptions::default().rounds)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RuleMix {
    /// Prefixes of the URL.
    Url,
    /// Values of one cookie.
    Cookie,
    /// Values of one header field.
    Header,
    /// Values of one XML element, in a body of 1 KB.
    Xml,
    /// Regular expressions on the URL.
    Regex,
}

/// How fast XML bodies are read: GB/s for a path at the document's end, ns for one that is known at its beginning.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf xml
  lcs perf xml --size 1k,10k,100k --rounds 31 --json")]
struct XmlArgs {
    /// Bytes of a document, with commas between; k is a thousand, M a million.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = size, default_value = "1k,10k,100k")]
    size: Vec<usize>,
    /// Rounds, of which the median is shown.
    #[arg(long, value_name = "N", default_value_t = XmlOptions::default().rounds)]
    rounds: usize,
}

/// `1k`, `2M`, `500`.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let (number, scale) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1_000),
        None => text.strip_suffix('M').map_or((text, 1), |number| (number, 1_000_000)),
    };
    let bytes = number.parse::<usize>().ok().and_then(|n| n.checked_mul(scale));
    bytes.ok_or_else(|| "write a number of bytes, such as 500, 10k or 1M".to_owned())
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    match &args.what {
        What::Stages(args) => stages(common, args),
        What::Connections(args) => connections(common, args),
        What::Rules(args) => {
            let mix = |mix: &RuleMix| match mix {
                RuleMix::Url => Mix::Url,
                RuleMix::Cookie => Mix::Cookie,
                RuleMix::Header => Mix::Header,
                RuleMix::Xml => Mix::Xml,
                RuleMix::Regex => Mix::Regex,
            };
            let mixes: Vec<Mix> = args.mix.iter().map(mix).collect();
            let mixes = if mixes.is_empty() { Mix::ALL.to_vec() } else { mixes };
            let options = RulesOptions { rules: args.rules.clone(), mixes, rounds: args.rounds };
            show(common, decided(shown(|progress| decisions::measure_rules(&options, progress)))?)
        }
        What::Xml(args) => {
            let options = XmlOptions { sizes: args.size.clone(), rounds: args.rounds };
            show(common, decided(shown(|progress| decisions::measure_xml(&options, progress)))?)
        }
        What::Peers(args) => super::peers::run(common, args),
        What::Schemes(args) => super::schemes::run(common, args),
        What::Linerate(args) => super::linerate::run(common, args),
        What::Scaling(args) => super::scaling::run(common, args),
        What::Placement(args) => super::placement::run(common, args),
        What::Cps(args) => super::cps::run(common, args),
    }
}

/// What is wrong with the options is the caller's mistake.
fn decided<T>(figures: Result<T, DecisionsError>) -> Result<T, Error> {
    figures.map_err(|e| match e {
        DecisionsError::Range { .. } => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })
}

fn show(common: &Common, figures: impl serde::Serialize + std::fmt::Display) -> Outcome {
    let text = if common.json { json(&figures)? } else { figures.to_string() };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn connections(common: &Common, args: &ConnectionsArgs) -> Outcome {
    let options = ConnectionsOptions {
        scheme: match args.pipeline {
            SchemeArg::Nat => Scheme::Nat,
            SchemeArg::Delayed => Scheme::Delayed,
        },
        connections: args.connections,
        at_once: args.at_once,
        requests: args.requests,
        alternate: args.alternate,
        request: args.request,
        response: args.response,
        rounds: args.rounds,
        cookies: args.cookies,
    };
    let figures = shown(|progress| lcs_perf::connections::measure(&options, progress));
    let figures = figures.map_err(|e| match e {
        ConnectionsError::Range { .. } => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { format!("{figures}\n") };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn stages(common: &Common, args: &StagesArgs) -> Outcome {
    let options = stages::Options {
        forward: match args.pipeline {
            Pipeline::Nat | Pipeline::Splice | Pipeline::Preallocate => Forward::Nat,
            Pipeline::Fullnat => Forward::FullNat,
            Pipeline::Dr | Pipeline::PreallocateDr => Forward::Dr,
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
        splice: matches!(args.pipeline, Pipeline::Splice),
        preallocate: matches!(args.pipeline, Pipeline::Preallocate | Pipeline::PreallocateDr),
        accounting: args.accounting,
        beside: args.beside.map(|beside| match beside {
            BesideArg::RteHash => stages::Peer::RteHash,
            BesideArg::Small => stages::Peer::Small,
            BesideArg::Nat => stages::Peer::Nat,
        }),
    };
    if matches!(args.port, PortArg::Dpdk) {
        if args.beside.is_some() {
            return Err(Error::Usage("--beside is measured over the memory port: leave out --port dpdk".to_owned()));
        }
        if args.plot.is_some() {
            return Err(Error::Usage("--plot shows stages over the memory port: leave out --port dpdk".to_owned()));
        }
        return stages_on_dpdk(common, &options, args.eal.clone());
    }
    let figures = shown(|progress| stages::measure(&options, progress));
    let figures = figures.map_err(|e| match e {
        stages::StagesError::Range { .. }
        | stages::StagesError::Splice
        | stages::StagesError::Beside(stages::BesideError::Other(_)) => Error::Usage(e.to_string()),
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { format!("{figures}\n") };
    io::stdout().write_all(text.as_bytes())?;
    let Some(directory) = &args.plot else { return Ok(()) };
    let page = stages::plot::page(&figures, &super::plots::line());
    super::plots::write(common, directory, stages::plot::all(&figures), ("stages.html", page))
}

#[cfg(not(feature = "dpdk"))]
fn stages_on_dpdk(_: &Common, _: &stages::Options, _: Vec<String>) -> Outcome {
    Err(Error::Failed(lcs_control::run::WITHOUT_DPDK.to_owned()))
}

#[cfg(feature = "dpdk")]
fn stages_on_dpdk(common: &Common, options: &stages::Options, eal: Vec<String>) -> Outcome {
    let figures = shown(|progress| lcs_perf::dpdk::measure(options, (!eal.is_empty()).then_some(eal), progress));
    let figures = figures.map_err(|e| Error::Failed(e.to_string()))?;
    let text = if common.json { json(&figures)? } else { format!("{figures}\n") };
    Ok(io::stdout().write_all(text.as_bytes())?)
}
