//! `lcs filter`

use crate::Common;
use crate::outcome::{Error, Outcome};
use lcs_control::config::{XdpMode, default_socket};
use lcs_control::run::filter::Filter;
use lcs_pipelines::migration::PORT;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Run a filter on a real server: it takes connections that a director of binding = "filter" has decided, and answers their
/// clients directly, until SIGTERM or Ctrl-C.
///
/// It stands between the host's interface and a second arm, a veth pair, behind which the host's own stack serves the virtual
/// service. Where the arm is missing, the error shows the commands that make it.
///
/// It has one worker, and so forwards what one core can; an interface with several receive queues has to be set to one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  sudo lcs filter --interface eth0 --service 198.51.100.1:80 --key-file /etc/lcs/filter.key

`lcs stats --socket /run/lcs-filter.sock` and other commands look at it as at a director.")]
pub struct Args {
    /// Interface toward director and clients.
    #[arg(short, long, value_name = "NAME")]
    interface: String,
    /// Virtual service that this host serves; may be given several times.
    #[arg(short, long = "service", value_name = "ADDRESS:PORT", required = true)]
    services: Vec<SocketAddr>,
    /// File of the secret that is shared with the director (its `filter-key`).
    #[arg(short, long, value_name = "FILE")]
    key_file: PathBuf,
    /// Its end of the arm toward the host's stack.
    #[arg(long, value_name = "NAME", default_value = lcs_hwconf::stack_arm::FILTER_END)]
    stack: String,
    /// Address of this host's on which it hears directors; may be given several times [default: those of the interface].
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<IpAddr>,
    /// UDP port on which it hears them.
    #[arg(long, value_name = "PORT", default_value_t = PORT)]
    port: u16,
    /// Take clients' packets out of tunnels to these addresses (the director's forward = "tunnel").
    #[arg(long)]
    tunnel: bool,
    /// Connections that it can know at once.
    #[arg(long, value_name = "N", default_value_t = 1 << 18)]
    flows: usize,
    /// Core to poll on [default: any, not pinned].
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Where the XDP program runs: auto, native or generic.
    #[arg(long, value_name = "MODE", default_value = "auto")]
    mode: XdpMode,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    if args.flows == 0 || args.flows > lcs_control::config::FLOWS_MAX {
        return Err(Error::Usage(format!(
            "--flows {}: 1 to {} are possible",
            args.flows,
            lcs_control::config::FLOWS_MAX
        )));
    }
    // Not a director's: both may run on one host.
    let socket = common.socket.clone().unwrap_or_else(|| default_socket().with_file_name("lcs-filter.sock"));
    let filter = Filter {
        interface: args.interface,
        stack: args.stack,
        services: args.services,
        key_file: args.key_file,
        listen: args.listen,
        port: args.port,
        tunnels: args.tunnel,
        socket,
        flows: args.flows,
        core: args.core,
        mode: args.mode,
    };
    Ok(filter.director()?.run()?)
}
