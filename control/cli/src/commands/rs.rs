//! `lcs rs`

use crate::Common;
use crate::endpoint::{Endpoint, ServerName, word};
use crate::outcome::{Error, Outcome, change};
use lcs_control::config::Admin;
use lcs_control::protocol::{Failure, FailureCode, Request, Response, ServerSettings};
use lcs_control::render;
use lcs_control::socket::ClientError;
use lcs_pipelines::snapshot::Forward;

/// List and change real servers while the director runs.
///
/// Changes act at once and are not written to the configuration file: `lcs reload` goes back to what the file says.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs rs list web
  sudo lcs rs add web/s3 10.0.0.13:8080 --weight 2
  sudo lcs rs set web/s3 --weight 5
  sudo lcs rs del web/s3")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List servers.
    #[command(after_help = "Examples:
  sudo lcs rs list
  sudo lcs rs list web")]
    List {
        /// Only those of this service.
        service: Option<String>,
    },
    /// Add a server to a service.
    #[command(after_help = "Examples:
  sudo lcs rs add web/s3 10.0.0.13:8080
  sudo lcs rs add web/s4 10.0.0.14 --forward dr --weight 2
  sudo lcs rs add shop/s5 10.0.0.15 --group images")]
    Add {
        /// Names of the service and of the new server.
        #[arg(value_name = "SERVICE/SERVER")]
        name: ServerName,
        /// The server's own address; without a port, the service's.
        #[arg(value_name = "ADDRESS[:PORT]")]
        endpoint: Endpoint,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change a server. With another address, port or forwarding it is a new one: connections to the old one go on.
    #[command(after_help = "Examples:
  sudo lcs rs set web/s1 --weight 3
  sudo lcs rs set web/s1 --state draining
  sudo lcs rs set web/s1 --state up")]
    Set {
        /// Which.
        #[arg(value_name = "SERVICE/SERVER")]
        name: ServerName,
        /// The server's own address.
        #[arg(long, value_name = "ADDRESS[:PORT]")]
        endpoint: Option<Endpoint>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove a server; its connections go on until they end.
    #[command(
        visible_alias = "delete",
        after_help = "Example:
  sudo lcs rs del web/s1"
    )]
    Del {
        /// Which.
        #[arg(value_name = "SERVICE/SERVER")]
        name: ServerName,
    },
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// Share of new connections, 0 to 65535; 0 for none [default for a new server: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=65_535))]
    weight: Option<u32>,
    /// How packets get there: nat, fullnat, dr, tunnel [default for a new server: the service's].
    #[arg(long, value_parser = word::<Forward>)]
    forward: Option<Forward>,
    /// Whether it takes new connections: up, draining [default for a new server: up].
    #[arg(long, value_parser = word::<Admin>)]
    state: Option<Admin>,
    /// A group that it is in, where its service is switched by content; may be given several times.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
}

pub fn run(common: &Common, args: Args) -> Outcome {
    match args.what {
        What::List { service } => list(common, service.as_deref()),
        What::Add { name, endpoint, settings } => {
            let set = set_of(Some(endpoint), &settings);
            change(common, Request::AddServer { service: name.service, server: name.server, set })
        }
        What::Set { name, endpoint, settings } => {
            let set = set_of(endpoint, &settings);
            if set == ServerSettings::default() {
                return Err(Error::Usage("say what to set; `lcs rs set --help` shows what can be".to_owned()));
            }
            change(common, Request::SetServer { service: name.service, server: name.server, set })
        }
        What::Del { name } => change(common, Request::RemoveServer { service: name.service, server: name.server }),
    }
}

fn set_of(endpoint: Option<Endpoint>, settings: &Settings) -> ServerSettings {
    ServerSettings {
        address: endpoint.map(|e| e.address),
        port: endpoint.and_then(|e| e.port),
        weight: settings.weight,
        forward: settings.forward,
        state: settings.state,
        groups: Some(settings.groups.clone()).filter(|groups| !groups.is_empty()),
    }
}

fn list(common: &Common, service: Option<&str>) -> Outcome {
    let only = |mut response: Response| {
        if let (Response::Services(all), Some(name)) = (&mut response, service) {
            all.services.retain(|s| s.name == name);
        }
        response
    };
    let response = only(crate::outcome::connect(common)?.call(Request::Services)?);
    if let (Response::Services(all), Some(name)) = (&response, service)
        && all.services.is_empty()
    {
        let message = format!("there is no service {name}; `lcs vs list` shows those that there are");
        return Err(ClientError::Refused(Failure::new(FailureCode::NotFound, message)).into());
    }
    crate::outcome::print(common, &response, |r| match r {
        Response::Services(all) => render::servers(&all.services),
        other => render::response(other),
    })
}
