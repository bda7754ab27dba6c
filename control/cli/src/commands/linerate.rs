//! `lcs perf linerate`

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use crate::progress::shown;
use lcs_perf::demo::interrupt::Interrupt;
use lcs_perf::linerate::ports::{self, Between, Gateway, PortName};
use lcs_perf::linerate::{self, LinerateError, Options, RFC_2544, Search, Size, Subject, Transport};
use lcs_perf::schemes::read_loss;
use lcs_pipelines::snapshot::Forward;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The highest rate without loss (NDR) and with a given loss ratio (PDR), and the latency below it, as RFC 2544 asks.
///
/// On the memory port generator, director and sink share one core, and time is the director's own: the clock stands still while
/// frames are made and taken. What that costs is shown, and a reflector without a pipeline is measured beside the director.
/// What is lost while somebody else uses the core's other hardware thread is set aside, unless that is more than two fifths of the time
/// at a search's beginning, or leaves it too little to end in its time. A rate without loss is one that has held; the lowest one that has
/// not is tried up to four times more, so that on a disturbed machine the figure leans upward, and a longer trial at that rate may lose
/// frames.
///
/// With --tx and --rx the generator sends and receives on any two ports, by the wall clock, and what joins these is measured: this
/// director in another process or on another machine, or anything else that forwards. It forwards by address and port (layer 4);
/// who terminates connections answers frames, and does not pass them on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs perf linerate
  lcs perf linerate --pipeline dr --sizes rfc2544,imix --flows 1000000
  sudo lcs perf linerate --port af-xdp --rounds 5
  lcs perf linerate --pipeline reflector --seconds 2 --rounds 5
  sudo lcs perf linerate --tx eth1 --rx eth2 --to 192.0.2.10:80 --gateway 10.0.1.1 --sizes rfc2544 --seconds 10 --budget 3600
  sudo lcs perf linerate --tx dpdk:0000:5e:00.0 --rx dpdk:0000:5e:00.1 --to 192.0.2.10:80 --gateway 02:00:00:00:00:01 --speed 100
  lcs perf linerate --json | jq '.rows[] | {size, subject, ndr: .ndr.median}'

Where --tx has a director before it: the servers of its service have their addresses on --rx's interface, whose kernel answers
ARP for them, and are not probed. Taken from the interfaces are only frames of these flows, and an interface is as it was when the
command ends, interrupted or not.

Sizes count the 4 bytes of the FCS. IMIX is 64, 594 and 1518 bytes as 7 to 4 to 1.
Pin the command to a quiet core (`taskset -c 1`) for figures to compare.")]
pub struct Args {
    /// What the frames come over.
    #[arg(long, value_enum, default_value_t = Port::Memory)]
    port: Port,
    /// What frames pass.
    #[arg(long, value_enum, default_value_t = Pipeline::Nat)]
    pipeline: Pipeline,
    /// Established flows.
    #[arg(long, value_name = "N", default_value_t = Options::default().flows)]
    flows: usize,
    /// Bytes of frames, FCS included, with commas between; imix, and rfc2544 for all of its sizes.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = sizes, default_value = "64,imix")]
    sizes: Vec<Sizes>,
    /// Loss ratio of the PDR.
    #[arg(long, value_name = "SHARE", value_parser = read_loss, default_value = "0.1%")]
    loss: f64,
    /// Seconds of a trial.
    #[arg(long, value_name = "S", default_value_t = Options::default().search.seconds)]
    seconds: f64,
    /// A search ends when what held and what did not are as near as this.
    #[arg(long, value_name = "SHARE", value_parser = read_loss, default_value = "0.5%")]
    resolution: f64,
    /// A search, of NDR and PDR together, ends after so many seconds in any case; without --rounds none is begun that would not end by then.
    #[arg(long, value_name = "S", default_value_t = Options::default().search.budget.as_secs_f64())]
    budget: f64,
    /// Judge a rate by one trial, as RFC 2544 does, and not by the majority of up to three; nor try the lowest rate that failed again.
    #[arg(long)]
    single: bool,
    /// Searches, of which the median is shown [default: on the memory port as many as --precision asks for; elsewhere 3].
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// On the memory port, without --rounds: search until the median is known to so much of itself (with a confidence of 95 %), or --budget is used
    /// up by all searches of a size.
    #[arg(long, value_name = "SHARE", value_parser = read_loss, default_value = "5%", conflicts_with = "rounds")]
    precision: f64,
    /// Frames that wait in the receive queue at most, on the memory port.
    #[arg(long, value_name = "N", default_value_t = Options::default().descriptors)]
    descriptors: usize,
    /// IPv6 instead of IPv4.
    #[arg(long)]
    ipv6: bool,
    #[command(flatten)]
    named: Named,
    /// Write plots (SVG) and a report (linerate.html) into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

/// Ports that the user names.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "On two ports of one's own")]
struct Named {
    /// Send here: an interface, or a DPDK device as dpdk:NAME.
    #[arg(long, value_name = "PORT", requires = "rx", requires = "to", conflicts_with_all = ["port", "pipeline", "descriptors", "ipv6"])]
    tx: Option<PortName>,
    /// Receive here; the same port for a device with one arm.
    #[arg(long, value_name = "PORT", requires = "tx")]
    rx: Option<PortName>,
    /// Destination of the flows: a service of the device.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "tx")]
    to: Option<SocketAddr>,
    /// Source of the first 50,000 flows; the next have the next address [default: 198.18.0.1 or 2001:2::1].
    #[arg(long, value_name = "ADDRESS", requires = "tx")]
    from: Option<IpAddr>,
    /// The device's hardware address or IP address on --tx's link [default: --rx's own, as through a wire or a bridge].
    #[arg(long, value_name = "MAC|ADDRESS", requires = "tx")]
    gateway: Option<Gateway>,
    /// Addresses that frames are for when they come out, where the device changes their source or puts them into tunnels.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', requires = "tx")]
    arrive: Vec<IpAddr>,
    /// What frames carry; tcp opens each flow by a SYN.
    #[arg(long, value_enum, default_value_t = Protocol::Tcp, requires = "tx")]
    protocol: Protocol,
    /// Speed of the slower link, where the driver does not know it.
    #[arg(long, value_name = "GBIT/S", requires = "tx")]
    speed: Option<f64>,
    /// With DPDK devices: an argument for DPDK's environment; may be repeated [default: --in-memory].
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true, requires = "tx")]
    eal: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

impl Named {
    fn between(&self) -> Option<Between> {
        let ((tx, rx), to) = self.tx.clone().zip(self.rx.clone()).zip(self.to)?;
        Some(Between {
            tx,
            rx,
            transport: match self.protocol {
                Protocol::Tcp => Transport::Tcp,
                Protocol::Udp => Transport::Udp,
            },
            to,
            from: self.from,
            gateway: self.gateway,
            arrive: self.arrive.clone(),
            speed: self.speed.map(|gigabits| gigabits * 1e9),
            eal: (!self.eal.is_empty()).then(|| self.eal.clone()),
        })
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Port {
    /// In this process's memory.
    Memory,
    /// AF_XDP over veth pairs that are made for it; needs root and two cores. A bare reflector on the same interfaces is measured in turn.
    AfXdp,
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
    /// None: frames go out as they came in.
    Reflector,
}

#[derive(Debug, Clone)]
struct Sizes(Vec<Size>);

fn sizes(text: &str) -> Result<Sizes, String> {
    if text.eq_ignore_ascii_case("rfc2544") {
        return Ok(Sizes(RFC_2544.map(Size::Bytes).to_vec()));
    }
    text.parse().map(|size| Sizes(vec![size])).map_err(|e| format!("{e}, or rfc2544"))
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let budget = Duration::try_from_secs_f64(args.budget);
    let budget = budget.map_err(|_| Error::Usage(format!("--budget is {}; give seconds, such as 100", args.budget)))?;
    let options = Options {
        subject: match args.pipeline {
            Pipeline::Nat => Subject::Director(Forward::Nat),
            Pipeline::Fullnat => Subject::Director(Forward::FullNat),
            Pipeline::Dr => Subject::Director(Forward::Dr),
            Pipeline::Tun => Subject::Director(Forward::Tunnel),
            Pipeline::Reflector => Subject::Reflector,
        },
        flows: args.flows,
        sizes: args.sizes.iter().flat_map(|s| s.0.iter().copied()).collect(),
        loss: args.loss,
        search: Search {
            seconds: args.seconds,
            resolution: args.resolution,
            agree: if args.single { 1 } else { 2 },
            budget,
        },
        rounds: args.rounds,
        precision: args.precision,
        descriptors: args.descriptors,
        ipv6: args.ipv6,
    };
    let between = args.named.between();
    let interrupt = if between.is_some() { Interrupt::on_signals()? } else { Interrupt::default() };
    let figures = shown(|progress| match (&between, args.port) {
        (Some(between), _) => ports::measure(&options, between, &interrupt, progress),
        (None, Port::Memory) => linerate::measure(&options, progress),
        (None, Port::AfXdp) => linerate::veth::measure(&options, progress),
    });
    let figures = figures.map_err(|e| match e {
        LinerateError::Range { .. } | LinerateError::NoSize | LinerateError::Port(_) | LinerateError::Named(_) => {
            Error::Usage(e.to_string())
        }
        e => Error::Failed(e.to_string()),
    })?;
    let text = if common.json { json(&figures)? } else { figures.to_string() };
    io::stdout().write_all(text.as_bytes())?;
    let Some(directory) = &args.plot else { return Ok(()) };
    let page = linerate::plot::page(&figures, &super::plots::line());
    super::plots::write(common, directory, linerate::plot::all(&figures), ("linerate.html", page))
}
