//! `lcs vs`

use crate::Common;
use crate::endpoint::{Endpoint, ports, word};
use crate::outcome::{Error, Outcome, ask, change};
use lcs_control::config::{Protocol, Service};
use lcs_control::protocol::{NewContent, Request, ServiceSettings};
use lcs_control::render;
use lcs_pipelines::snapshot::{Forward, Scheduler};
use std::net::IpAddr;
use std::path::PathBuf;

/// List and change virtual services while the director runs.
///
/// Changes act at once and are not written to the configuration file: `lcs reload` goes back to what the file says.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs vs list
  sudo lcs vs add web 198.51.100.10:80 --scheduler wlc
  sudo lcs vs set web --scheduler rr
  sudo lcs vs del web")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the services.
    #[command(after_help = "Example:
  sudo lcs vs list --json | jq '.services[].name'")]
    List,
    /// Add a service; its servers are added with `lcs rs add`.
    #[command(after_help = "Examples:
  sudo lcs vs add web 198.51.100.10:80
  sudo lcs vs add dns 198.51.100.53:53 --protocol udp --forward dr
  sudo lcs vs add shop 198.51.100.20:80 --rules shop.rules --groups web,images
  sudo lcs vs add api '[2001:db8::10]:443' --forward fullnat --source 2001:db8:200::1")]
    Add {
        /// Its name.
        name: String,
        /// Where clients reach it; port * for every port.
        #[arg(value_name = "ADDRESS:PORT")]
        endpoint: Endpoint,
        /// tcp or udp.
        #[arg(long, default_value = "tcp", value_parser = word::<Protocol>)]
        protocol: Protocol,
        #[command(flatten)]
        settings: Settings,
        /// Switch it by content: by the rules of this file.
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
        /// With --rules: groups that the rules name; `lcs rs add --group` puts servers in them.
        #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "rules")]
        groups: Vec<String>,
        /// With --rules: what clients speak: http, tls, smtp, pop3, imap, ftp.
        #[arg(long, default_value = "http", requires = "rules")]
        application: String,
    },
    /// Change a service. With another address or port it is a new service: connections to the old one go on.
    #[command(after_help = "Examples:
  sudo lcs vs set web --scheduler wlc
  sudo lcs vs set web --endpoint 198.51.100.10:8080")]
    Set {
        /// Its name.
        name: String,
        /// Where clients reach it.
        #[arg(long, value_name = "ADDRESS:PORT")]
        endpoint: Option<Endpoint>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove a service; its connections go on until they end.
    #[command(
        visible_alias = "delete",
        after_help = "Example:
  sudo lcs vs del web"
    )]
    Del {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// How a server is chosen: rr, wrr, lc, wlc [default for a new service: wrr].
    #[arg(long, value_parser = word::<Scheduler>)]
    scheduler: Option<Scheduler>,
    /// How packets reach servers that are added from now on: nat, fullnat, dr, tunnel [default for a new service: nat].
    #[arg(long, value_parser = word::<Forward>)]
    forward: Option<Forward>,
    /// Full NAT: an address of the director toward the servers; may be given several times.
    #[arg(long = "source", value_name = "ADDRESS")]
    sources: Vec<IpAddr>,
    /// Full NAT: source ports [default for a new service: 1024-65535].
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    source_ports: Option<(u16, u16)>,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    match args.what {
        What::List => ask(common, Request::Services, render::response),
        What::Add { name, endpoint, protocol, settings, rules, groups, application } => {
            let port = endpoint.port.ok_or_else(|| Error::Usage("give a port, or * for every port".to_owned()))?;
            let service = Service {
                name,
                protocol,
                address: endpoint.address,
                port,
                scheduler: settings.scheduler.unwrap_or(Scheduler::Wrr),
                forward: settings.forward.unwrap_or(Forward::Nat),
                sources: settings.sources,
                source_ports: settings.source_ports.unwrap_or(Service::SOURCE_PORTS),
                persistence: None,
                servers: Vec::new(),
                content: None,
                check: None,
            };
            // The director runs in another folder.
            let rules = rules.map(std::path::absolute).transpose()?;
            let content = rules.map(|rules| NewContent { rules, groups, application });
            change(common, Request::AddService { service: Box::new(service), content })
        }
        What::Set { name, endpoint, settings } => {
            let set = ServiceSettings {
                address: endpoint.map(|e| e.address),
                port: endpoint.and_then(|e| e.port),
                scheduler: settings.scheduler,
                forward: settings.forward,
                sources: Some(settings.sources).filter(|s| !s.is_empty()),
                source_ports: settings.source_ports,
            };
            if set == ServiceSettings::default() {
                return Err(Error::Usage("say what to set; `lcs vs set --help` shows what can be".to_owned()));
            }
            change(common, Request::SetService { service: name, set })
        }
        What::Del { name } => change(common, Request::RemoveService { service: name }),
    }
}
