//! The demo with root: namespaces, kernel TCP at both ends, and the director on AF_XDP between them.

pub mod director;
pub mod play;
pub mod relay;
pub mod scene;
pub(crate) mod spread;

use std::io;
use std::net::SocketAddr;

use scene::Setup;

use super::interrupt::Interrupt;
use super::narrator::Narrator;
use super::report::{Check, Scenario};

/// Plays the scenarios of `setups`, one after the other, as far as it's not interrupted.
///
/// # Errors
/// Where namespaces may not be made ([`Error::is_permission`]). What keeps a single scenario from being played
/// is told as a check of it that was not passed.
pub fn run(setups: &[Setup], narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Result<Vec<Scenario>, Error> {
    let mut scenarios = Vec::new();
    for setup in setups {
        if interrupt.is_set() {
            break;
        }
        narrator.scene(format_args!("{} over {}", setup.name(), setup.ip()));
        let mut scenario = match play::play(*setup, narrator, interrupt) {
            Ok(scenario) => scenario,
            Err(Error::Interrupted(_)) => break,
            Err(error) if error.is_permission() => return Err(error),
            Err(error) => unplayed(*setup, narrator, &error),
        };
        if let Some(mixed) = setup.mixed() {
            let family = if mixed.server_ipv6 { "IPv6" } else { "IPv4" };
            narrator.scene(format_args!("{} over {}, through {family}", setup.name(), setup.ip()));
            match play::play(mixed, narrator, interrupt) {
                Ok(other) => scenario.add(other, &format!("through {family}")),
                Err(Error::Interrupted(_)) => {}
                Err(error) => scenario.add(unplayed(mixed, narrator, &error), &format!("through {family}")),
            }
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

fn unplayed(setup: Setup, narrator: &mut Narrator<'_>, error: &Error) -> Scenario {
    let check = Check { name: "the scenario is played to its end".into(), ok: false, detail: error.to_string() };
    narrator.check(&check);
    Scenario {
        name: setup.name().into(),
        port: "af_xdp".into(),
        ip: setup.ip().into(),
        checks: vec![check],
        ..Scenario::default()
    }
}

/// What keeps a scenario from being played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network could not be built.
    #[error(transparent)]
    Network(#[from] lcs_hwconf::Error),
    /// A server did not start.
    #[error("start the server {name} on {address}: {source}")]
    Server {
        /// Its name.
        name: String,
        /// Where it was to listen.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The director did not start, or has failed.
    #[error("the director: {0}")]
    Director(Box<lcs_control::run::RunError>),
    /// Something that comes about by itself did not.
    #[error("{what} did not come about in time: {log}")]
    Late {
        /// What.
        what: &'static str,
        /// What was said instead.
        log: String,
    },
    /// The director refused a request, or did not answer.
    #[error("asking the director: {0}")]
    Control(#[from] lcs_control::socket::ClientError),
    /// A client's thread did not start.
    #[error("start a client: {0}")]
    Client(io::Error),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] crate::demo::interrupt::Interrupted),
}

impl Error {
    fn strange(response: &lcs_control::protocol::Response) -> Self {
        Error::Control(lcs_control::socket::ClientError::Strange(format!("{response:?}")))
    }

    /// Whether it is for want of privileges: then the demo can be played without root.
    pub fn is_permission(&self) -> bool {
        matches!(self, Error::Network(lcs_hwconf::Error::System { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied)
    }
}
