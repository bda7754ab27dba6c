//! `lcs weight` and `lcs drain`

use crate::Common;
use crate::endpoint::ServerName;
use crate::outcome::{Outcome, change, connect};
use lcs_control::protocol::{Request, Response};
use std::time::Duration;

/// Set a server's weight while the director runs: its share of new connections.
///
/// It acts at once on every worker and is not written to the configuration file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs weight web/s1 5
  sudo lcs weight web/s1 0     no new connections for s1")]
pub struct Args {
    /// Which.
    #[arg(value_name = "SERVICE/SERVER")]
    name: ServerName,
    /// Its weight, 0 to 65535.
    #[arg(value_parser = clap::value_parser!(u32).range(0..=65_535))]
    weight: u32,
}

/// Let a server keep its connections and give it no new ones.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs drain web/s1
  sudo lcs drain web/s1 --wait && ssh s1 sudo systemctl restart nginx
  sudo lcs rs set web/s1 --state up     takes it up again")]
pub struct DrainArgs {
    /// Which.
    #[arg(value_name = "SERVICE/SERVER")]
    name: ServerName,
    /// Wait until it has no connections left.
    #[arg(long)]
    wait: bool,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    let ServerName { service, server } = args.name;
    change(common, Request::Weight { service, server, weight: args.weight })
}

pub fn drain(common: &Common, args: DrainArgs) -> Outcome {
    let ServerName { service, server } = args.name;
    change(common, Request::Drain { service: service.clone(), server: server.clone() })?;
    if !args.wait {
        return Ok(());
    }
    let mut client = connect(common)?;
    loop {
        let Response::Services(all) = client.call(Request::Services)? else { return Ok(()) };
        let of = all.services.iter().filter(|s| s.name == service).flat_map(|s| &s.servers);
        let left: u32 = of.filter(|s| s.name == server).map(|s| s.stats.active + s.stats.inactive).sum();
        if left == 0 {
            if !common.json {
                println!("{service}/{server} has no connections left");
            }
            return Ok(());
        }
        if !common.json {
            eprintln!("{left} connections left");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
