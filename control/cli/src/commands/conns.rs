//! `lcs conns`

use crate::Common;
use crate::outcome::{Error, Outcome, ask};
use lcs_control::protocol::{CONNECTIONS_MAX, ConnectionFilter, Request};
use lcs_control::render;
use std::net::IpAddr;

/// List connections.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs conns
  sudo lcs conns web                       of a service
  sudo lcs conns web/s1 --state established
  sudo lcs conns shop --state collecting   whose request is not decided yet
  sudo lcs conns --client 198.51.100.0/24 --limit 1000")]
pub struct Args {
    /// Only those of this service, or of this server of it.
    #[arg(value_name = "SERVICE[/SERVER]")]
    of: Option<String>,
    /// Only those of clients with this address, or in this network.
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    client: Option<String>,
    /// Only those in this state (established, syn-received, fin-wait, time-wait, udp, …; switched by content: awaited,
    /// collecting, decided, queued, connecting, replaying, delivering, answering).
    #[arg(long)]
    state: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    limit: u32,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    let (service, server) = match args.of.as_deref().map(|of| of.split_once('/').unwrap_or((of, ""))) {
        None => (None, None),
        Some((service, "")) => (Some(service.to_owned()), None),
        Some((service, server)) => (Some(service.to_owned()), Some(server.to_owned())),
    };
    let client = match &args.client {
        None => None,
        Some(text) => {
            let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(Into::into));
            Some(net.map_err(|_| Error::Usage(format!("--client: {text:?} is no address and no network")))?)
        }
    };
    let filter = ConnectionFilter { service, server, client, state: args.state };
    ask(common, Request::Connections { filter, limit: args.limit }, render::response)
}
