//! The demo: real requests through a director, and checks of what came of them.

pub mod body;
pub mod http;
pub mod interrupt;
pub mod load;
pub mod narrator;
pub mod report;
pub mod root;
pub mod rootless;

use interrupt::Interrupt;
use narrator::Narrator;
use report::{Host, Report, Scenario};
use root::scene::Setup;
use std::io::{self, Write};
use std::time::Instant;

/// Names of the scenarios.
pub const SCENARIOS: [&str; 4] = ["nat", "fullnat", "dr", "tun"];

/// Where the director's frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// AF_XDP where namespaces may be made, the in-process network otherwise.
    Auto,
    /// AF_XDP.
    AfXdp,
    /// The in-process network.
    Memory,
}

/// What keeps the demo from being played.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A scenario that there is not.
    #[error("there is no scenario {0:?}; there are nat, fullnat, dr and tun")]
    NoSuchScenario(String),
    /// Signals can't be taken.
    #[error("take the signals that end the demo: {0}")]
    Signals(io::Error),
    /// The namespaces can't be made.
    #[error("{0}; run it as root, or with `--port memory` over the in-process network")]
    Root(#[from] root::Error),
}

/// Plays the scenarios named (all of them for an empty list), and tells `progress` what is done.
///
/// # Errors
/// When nothing can be played; what goes wrong in a scenario is in the report.
pub fn run(names: &[String], port: PortChoice, progress: &mut impl Write) -> Result<Report, Error> {
    let begun = Instant::now();
    if let Some(name) = names.iter().find(|n| !SCENARIOS.contains(&n.as_str())) {
        return Err(Error::NoSuchScenario(name.clone()));
    }
    let setups: Vec<Setup> =
        Setup::ALL.into_iter().filter(|s| names.is_empty() || names.iter().any(|n| n == s.name())).collect();
    let interrupt = Interrupt::on_signals().map_err(Error::Signals)?;
    let mut narrator = Narrator::new(progress);
    let scenarios = match port {
        PortChoice::Memory => rootless::run(&setups, &mut narrator, &interrupt),
        PortChoice::AfXdp => root::run(&setups, &mut narrator, &interrupt)?,
        PortChoice::Auto => match root::run(&setups, &mut narrator, &interrupt) {
            Err(error) if error.is_permission() => {
                narrator.scene(
                    "not root: the same scenarios over the in-process network, with TCP endpoints of its own (run as root \
                     for AF_XDP and the kernel's)",
                );
                rootless::run(&setups, &mut narrator, &interrupt)
            }
            other => other?,
        },
    };
    let ok = !scenarios.is_empty() && scenarios.iter().all(|s: &Scenario| s.ok) && !interrupt.is_set();
    Ok(Report {
        ok,
        scenarios,
        host: Host::this(),
        seconds: begun.elapsed().as_secs_f64(),
        interrupted: interrupt.is_set(),
    })
}
