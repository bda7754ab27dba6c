//! The demo: real requests through a director, and checks of what came of them.
//!
//! With root, it's played in network namespaces with kernel TCP over AF_XDP ([`root`]); without, over the in-process
//! network ([`rootless`]).

pub mod body;
pub mod content;
pub mod http;
pub mod interrupt;
pub mod load;
pub mod narrator;
pub mod report;
pub mod root;
pub mod rootless;

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use content::Content;
use interrupt::Interrupt;
use narrator::Narrator;
use report::{Host, Report, Scenario};
use root::scene::Setup;

/// Names of the scenarios, each of which is played over IPv4 and over IPv6.
pub const SCENARIOS: [&str; 21] = [
    "nat",
    "fullnat",
    "dr",
    "tun",
    "content-url",
    "content-xml",
    "keepalive",
    "sni",
    "smtp",
    "preallocate-hit",
    "preallocate-miss",
    "preallocate-hit-dr",
    "preallocate-miss-dr",
    "preallocate-hit-tun",
    "preallocate-miss-tun",
    "pooled",
    "filter-dr",
    "filter-tun",
    "filter-keepalive",
    "filter-fallback",
    "bad-links",
];

/// Which port the director has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortChoice {
    /// AF_XDP in network namespaces where they may be made, otherwise memory.
    #[default]
    Auto,
    /// AF_XDP: needs root.
    AfXdp,
    /// Memory, between endpoints in the same process.
    Memory,
}

impl FromStr for PortChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(PortChoice::Auto),
            "af_xdp" | "af-xdp" => Ok(PortChoice::AfXdp),
            "memory" => Ok(PortChoice::Memory),
            _ => Err(format!("\"{word}\" is no port of the demo: take auto, af_xdp or memory")),
        }
    }
}

impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PortChoice::Auto => "auto",
            PortChoice::AfXdp => "af_xdp",
            PortChoice::Memory => "memory",
        })
    }
}

/// What to play.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// One of [`SCENARIOS`]; all of them where none is named.
    pub scenario: Option<String>,
    /// On which port.
    pub port: PortChoice,
}

/// What keeps the demo from being played at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no scenario of this name.
    #[error("there is no scenario \"{0}\"; take one of {list}", list = SCENARIOS.join(", "))]
    NoScenario(String),
    /// Without privileges, and asked for what needs them.
    #[error("{0}; or play it without root: --port memory")]
    NotRoot(root::Error),
    /// What is played between hosts with stacks of their own.
    #[error("scenario {0} is played in network namespaces only: it needs root, and --port af_xdp")]
    NeedsNamespaces(String),
    /// Something else.
    #[error(transparent)]
    Root(root::Error),
}

/// Plays what `options` say.
///
/// # Errors
/// Where there is nothing to play, or nothing can be played. A scenario that goes wrong is told in the report.
pub fn run(options: &Options, narrator: &mut Narrator<'_>, interrupt: &Interrupt) -> Result<Report, Error> {
    let begun = Instant::now();
    let wanted = |name: &str| options.scenario.as_deref().is_none_or(|scenario| scenario == name);
    if let Some(name) = options.scenario.as_ref().filter(|name| !SCENARIOS.contains(&name.as_str())) {
        return Err(Error::NoScenario(name.clone()));
    }
    let setups: Vec<Setup> = Setup::ALL.into_iter().filter(|setup| wanted(setup.name())).collect();
    let contents: Vec<Content> = Content::ALL.into_iter().filter(|content| wanted(content.name())).collect();
    let scenarios = match options.port {
        PortChoice::Memory if setups.is_empty() && contents.iter().all(|content| content.is_filtered()) => {
            return Err(Error::NeedsNamespaces(options.scenario.clone().unwrap_or_default()));
        }
        PortChoice::Memory => without_root(&setups, &contents, narrator, interrupt),
        port => match with_root(&setups, &contents, narrator, interrupt) {
            Ok(scenarios) => scenarios,
            Err(error) if error.is_permission() && port == PortChoice::Auto => {
                narrator.scene(
                    "not root: the same scenarios over the in-process network, with TCP endpoints of its own (run it as \
                     root for AF_XDP, network namespaces and the kernel's TCP)",
                );
                without_root(&setups, &contents, narrator, interrupt)
            }
            Err(error) if error.is_permission() => return Err(Error::NotRoot(error)),
            Err(error) => return Err(Error::Root(error)),
        },
    };
    let interrupted = interrupt.is_set();
    Ok(Report {
        ok: !interrupted && !scenarios.is_empty() && scenarios.iter().all(|scenario| scenario.ok),
        scenarios,
        host: Host::this(),
        seconds: begun.elapsed().as_secs_f64(),
        interrupted,
    })
}

fn with_root(
    setups: &[Setup],
    contents: &[Content],
    narrator: &mut Narrator<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Scenario>, root::Error> {
    let mut scenarios = root::run(setups, narrator, interrupt)?;
    scenarios.extend(content::root::run(contents, narrator, interrupt)?);
    Ok(scenarios)
}

fn without_root(
    setups: &[Setup],
    contents: &[Content],
    narrator: &mut Narrator<'_>,
    interrupt: &Interrupt,
) -> Vec<Scenario> {
    let mut scenarios = rootless::run(setups, narrator, interrupt);
    scenarios.extend(content::memory::run(contents, narrator, interrupt));
    scenarios
}
